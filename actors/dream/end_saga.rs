//! How an experiment ends: durably, and with the question that it answers.

use ractor::{ActorProcessingErr, ActorRef};

use super::{
    experiment_actor::{Msg, State},
    fitness::Choice,
    start_saga::running,
};
use crate::{
    facts::{Best, Entry, ExperimentEnd, Fact, VoidCause, Winner},
    meters,
    record::{Ending, record, wake},
};

impl State {
    pub(super) async fn end(&mut self, myself: &ActorRef<Msg>) -> Result<(), ActorProcessingErr> {
        if self.gives_back().await? {
            // It is looked again in a moment.
            return Ok(());
        }
        let end = match self.ended.clone() {
            Some(end) => end,
            None => self.conclude().await?,
        };
        wake(&self.exits.ended, end);
        myself.stop(None);
        Ok(())
    }

    /// Makes the end durable, and with it that of the question where nothing is worth a deployment.
    async fn conclude(&self) -> Result<ExperimentEnd, ActorProcessingErr> {
        let experiment = self.experiment.id.clone();
        let searched = self.searched();
        let front = searched.front();
        let withheld = |why| Choice::Void(VoidCause::Withheld, why);
        let conclusion = self.given_up.clone().map_or_else(|| searched.conclusion(), withheld);
        let end = match conclusion {
            Choice::Winner { best, measured, failed } => {
                let gain = searched.claim(self.search.gain(&best.params));
                ExperimentEnd::Won { experiment, winner: Winner { gain, front, ..self.winner(best, measured, failed) } }
            }
            Choice::NoBetter(why) => ExperimentEnd::NoBetter { experiment, why: self.in_time(why), front },
            Choice::Void(cause, why) => self.void(cause, why),
        };
        let (seams, rest_s) = (&self.seams, self.rest_s);
        let ending = match &end {
            ExperimentEnd::Won { .. } => None,
            ExperimentEnd::NoBetter { why, .. } => Ending::resting(seams, &self.experiment, end.label(), why, rest_s),
            ExperimentEnd::Void { why, cause, .. } => {
                Ending::resting(seams, &self.experiment, cause.how(), why, rest_s)
            }
        };
        let (cycle, name) = (&self.experiment.cycle, format!("experiment_end:{}", self.experiment.id));
        let entry = Entry::once(cycle, self.seams.clock.now_ms(), name, Fact::ExperimentEnd(end.clone()));
        record(&self.seams, Ending::with(ending.as_ref(), vec![entry])).await?;
        metrics::counter!(meters::EXPERIMENTS_TOTAL, "end" => end.label()).increment(1);
        tracing::info!(cycle = %cycle, experiment = %self.experiment.id, end = end.label(), "experiment ended");
        Ending::tell(ending, &self.exits.questions);
        Ok(end)
    }

    fn void(&self, cause: VoidCause, why: String) -> ExperimentEnd {
        let is_too_few = self.search.evaluated() < self.config.measured_min;
        // What had no time to be tried is not to blame for it.
        let cause = if is_too_few && self.is_cut_short() { VoidCause::Infrastructure } else { cause };
        ExperimentEnd::Void { experiment: self.experiment.id.clone(), why: self.in_time(why), cause }
    }

    /// Returns whether the time to search is over. What is measured then is what would be after an early stop.
    pub(super) fn is_out_of_time(&self) -> bool {
        // What is lent by night spends no time by day: a candidate takes as long as it may at most.
        let gap_max_s = self.domain.in_place.as_ref().map(|in_place| in_place.candidate_max_s);
        let ended = self.trials.iter().map(|trial| trial.at_ms);
        self.experiment.spec.budget.is_over(ended, self.seams.clock.now_ms(), gap_max_s)
    }

    fn is_cut_short(&self) -> bool {
        self.is_out_of_time() && !self.search.done()
    }

    /// Returns why nothing was found, with the word that the search was cut short, if it was.
    fn in_time(&self, why: String) -> String {
        if !self.is_cut_short() {
            return why;
        }
        let (tried, wall_s) = (self.search.evaluated(), self.experiment.spec.budget.wall_s);
        format!("{why}; its time of {wall_s} s was over after {tried} candidates (budget.wall_s)")
    }

    fn winner(&self, best: Best, measured: u32, failed: u32) -> Winner {
        Winner {
            experiment: self.experiment.spec.name.clone(),
            domain: self.domain.name.clone(),
            best,
            incumbent: running(&self.live, &self.experiment.spec.param_mapping),
            experiment_id: self.experiment.id.clone(),
            measured,
            failed,
            gain: None,
            front: Vec::new(),
        }
    }
}

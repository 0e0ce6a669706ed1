//! How an experiment ends: durably, and with the question that it answers.

use ractor::{ActorProcessingErr, ActorRef};

use super::{
    experiment_actor::{Msg, State},
    fitness::Choice,
    start_saga::running,
};
use crate::{
    facts::{Best, Entry, ExperimentEnd, Fact, Winner},
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
        let conclusion = self.given_up.clone().map_or_else(|| searched.conclusion(), Choice::Void);
        let end = match conclusion {
            Choice::Winner { best, measured, failed } => {
                let gain = searched.claim(self.search.gain(&best.params));
                ExperimentEnd::Won { experiment, winner: Winner { gain, front, ..self.winner(best, measured, failed) } }
            }
            Choice::NoBetter(why) => ExperimentEnd::NoBetter { experiment, why, front },
            Choice::Void(why) => ExperimentEnd::Void { experiment, why },
        };
        let ending = match &end {
            ExperimentEnd::Won { .. } => None,
            ExperimentEnd::NoBetter { why, .. } | ExperimentEnd::Void { why, .. } => {
                Ending::resting(&self.seams, &self.experiment, end.label(), why, self.rest_s)
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

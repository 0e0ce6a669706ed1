//! The closer look: what is measured again before an experiment claims anything, and what it all comes to.

use std::collections::BTreeMap;

use kloros_search::Gain;

use super::{
    Config, claim,
    fitness::{Choice, choose, collapsed, prospect, score, void},
    flat::{Again, extremes, flat, is_suspect},
    front,
    search::Candidate,
};
use crate::facts::{Best, Estimate, Experiment, FailureKind, MetricSpec, Metrics, Outcome, Params, Trial, VoidCause};

/// An experiment whose search is over.
#[derive(Clone, Copy, Debug)]
pub struct Searched<'a> {
    /// The room's settings.
    pub config: &'a Config,
    /// What was to be found out.
    pub experiment: &'a Experiment,
    /// What the numbers mean.
    pub specs: &'a BTreeMap<String, MetricSpec>,
    /// The trials of the search, the live settings first.
    pub trials: &'a [Trial],
    /// What was measured again.
    pub confirmations: &'a [Trial],
    /// The settings that the search expects the most of.
    pub favourite: Option<&'a Params>,
}

impl Searched<'_> {
    /// Returns why no more is worth measuring, in words, if it is not: others disturbed so many trials in a row, or all of a
    /// generation failed.
    pub fn is_broken(&self) -> Option<String> {
        let newest = self.confirmations.iter().rev().chain(self.trials.iter().rev());
        let is_disturbed = |trial: &&Trial| matches!(&trial.outcome, Outcome::Failed(failure) if failure.kind == FailureKind::Disturbed);
        let disturbed = newest.take_while(is_disturbed).count();
        let is_drowned = disturbed >= self.config.disturbed_max as usize;
        let drowned = is_drowned.then(|| format!("others disturbed the last {disturbed} trials (dream.disturbed_max)"));
        drowned.or_else(|| collapsed(self.trials, self.experiment.spec.budget.max_candidates))
    }

    /// Returns whether it says nothing whatever else is measured: the live settings could not be measured, the first generation,
    /// which is `whole`, failed for the most part, or something broke meanwhile.
    pub fn is_hopeless(&self, whole: bool) -> bool {
        let live_failed = self.trials.first().is_some_and(|first| matches!(first.outcome, Outcome::Failed(_)));
        live_failed || (whole && void(self.config, self.trials).is_some()) || self.is_broken().is_some()
    }

    /// Returns what is to be measured again next; `None` when enough was.
    ///
    /// The claim of a single lucky measurement is worth little: live settings and the best take turns once more, in the
    /// generation after the last. Where all candidates may be alike, they do so oftener, and the worst is measured again as
    /// well, in the generation after that one.
    pub fn next(&self) -> Option<Candidate> {
        let again = self.again();
        let is_suspect = is_suspect(self.config, self.experiment, self.specs, self.trials, &again);
        let live = self.trials.first()?;
        let measured = match &live.outcome {
            Outcome::Measured(measurement) => Some(&measurement.metrics),
            Outcome::Failed(_) => None,
        };
        let of = |metrics: &Metrics| score(metrics, measured?, self.specs);
        let (worst, best) = extremes(self.experiment, self.trials, of).unzip();
        let (best, runs) = match (prospect(self.config, self.specs, self.trials, self.favourite), is_suspect) {
            (Ok(prospect), false) => (&prospect.params, self.config.confirm_runs),
            (Ok(prospect), true) => (&prospect.params, self.config.confirm_runs.max(self.config.flat_runs)),
            // Nothing gained and nothing lost: is that noise alone?
            (Err(Choice::NoBetter(_)), true) => (best?, self.config.flat_runs),
            (Err(_), _) => return None,
        };
        let (first, second) = self.generations();
        let done = |generation| self.confirmations.iter().filter(|trial| trial.generation == generation).count() as u32;
        let candidate = |generation, params: &Params| Candidate {
            generation,
            number: done(generation) + 1,
            params: params.clone(),
        };
        if done(first) < 2 * runs {
            return Some(candidate(first, if done(first).is_multiple_of(2) { &live.params } else { best }));
        }
        (is_suspect && done(second) < self.config.flat_runs).then_some(())?;
        Some(candidate(second, worst?))
    }

    /// Returns what the experiment comes to.
    pub fn conclusion(&self) -> Choice {
        let again = self.again();
        let choice = choose(self.config, self.specs, self.trials, self.favourite, (&again.live, &again.best));
        // What was found and measured again stands; that nothing was found is not said by a search that could not go on.
        if let Some(why) = self.is_broken().filter(|_| !matches!(choice, Choice::Winner { .. })) {
            return Choice::Void(VoidCause::Infrastructure, why);
        }
        if matches!(choice, Choice::Void(..)) {
            return choice;
        }
        let flat = flat(self.config, self.experiment, self.specs, self.trials, &again);
        flat.map_or(choice, |why| Choice::Void(VoidCause::Flat, why))
    }

    /// Returns what the best is claimed to gain, by what the search says of it and by what was measured again.
    pub fn claim(&self, searched: Option<Gain>) -> Option<Estimate> {
        let again = self.again();
        claim::of_runs(searched, self.specs, self.trials, (&again.live, &again.best))
    }

    /// Returns the candidates that no other one beats in every metric.
    pub fn front(&self) -> Vec<Best> {
        front::members(self.specs, self.trials, self.confirmations)
    }

    /// Returns the generations in which live settings and the best, and in which the worst is measured again.
    fn generations(&self) -> (u32, u32) {
        let last = self.experiment.spec.budget.max_generations;
        (last.saturating_add(1), last.saturating_add(2))
    }

    fn again(&self) -> Again {
        let (first, second) = self.generations();
        let of = |is_it: &dyn Fn(&Trial) -> bool| -> Vec<Outcome> {
            let of_it = self.confirmations.iter().filter(|trial| is_it(trial));
            of_it.map(|trial| trial.outcome.clone()).collect()
        };
        Again {
            live: of(&|trial| trial.generation == first && trial.number % 2 == 1),
            best: of(&|trial| trial.generation == first && trial.number % 2 == 0),
            worst: of(&|trial| trial.generation == second),
        }
    }
}

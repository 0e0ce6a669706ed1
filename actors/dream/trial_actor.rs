//! One trial: measures one candidate and tells the experiment.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Config, search::Candidate};
use crate::{
    facts::{Domain, Experiment, ExperimentId, Measurement, Outcome, Settings, Trial as Tried, usual},
    seams::{Assignment, Bench, Borrower, Errand, Outlet, Purpose, Untried},
};

/// What a trial hears.
#[derive(Debug)]
pub(super) enum Msg {
    /// It is time to measure.
    Begin,
}

/// What a trial needs.
pub(super) struct Arguments {
    /// How candidates are measured.
    pub(super) bench: Arc<dyn Bench>,
    /// Where what is measured in place is sent, and for which experiment.
    pub(super) errands: Outlet<Errand>,
    pub(super) experiment: ExperimentId,
    /// The service.
    pub(super) domain: Domain,
    /// What is measured.
    pub(super) assignment: Assignment,
    /// Where the outcome goes.
    pub(super) done: Outlet<Outcome>,
    /// Where it goes why there is none.
    pub(super) untried: Outlet<String>,
}

/// Returns what is to be measured for a candidate of `experiment`, after these trials of it.
pub(super) fn assignment<'a>(
    experiment: &Experiment,
    config: &Config,
    candidate: &Candidate,
    settings: Settings,
    before: impl Iterator<Item = &'a Tried>,
) -> Assignment {
    let others = |trial: &'a Tried| match &trial.outcome {
        Outcome::Measured(measurement) => measurement.others.as_ref(),
        Outcome::Failed(_) => None,
    };
    Assignment {
        label: format!("{}.g{}.t{:02}", experiment.id, candidate.generation, candidate.number),
        settings,
        // Every candidate of an experiment meets the same load, so that they differ by their settings alone.
        seed: experiment.seed,
        unset: Vec::new(),
        purpose: Purpose::Experiment,
        within: Duration::from_secs(config.trial_timeout_s),
        usual: usual(before.filter_map(others)),
    }
}

/// Measures one candidate. Killed or panicking, it takes its instance with it: the bench ends what is dropped.
pub(super) struct Trial;

impl Actor for Trial {
    type Msg = Msg;
    type State = Arguments;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<Arguments, ActorProcessingErr> {
        myself.send_message(Msg::Begin)?;
        Ok(arguments)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut Arguments) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Begin => {
                match state.measure().await {
                    Ok(measurement) => state.done.send(Outcome::Measured(measurement)).ok(),
                    Err(Untried::Failed(failure)) => state.done.send(Outcome::Failed(failure)).ok(),
                    Err(Untried::Interrupted(why)) => state.untried.send(why).ok(),
                };
                myself.stop(None);
            }
        }
        Ok(())
    }
}

impl Arguments {
    async fn measure(&self) -> Result<Measurement, Untried> {
        if self.domain.in_place.is_none() {
            return Ok(self.bench.measure(&self.domain, self.assignment.clone()).await?);
        }
        let (reply, answer) = ractor::concurrency::oneshot();
        let errand = Errand {
            domain: self.domain.name.clone(),
            whose: Borrower::Experiment(self.experiment.clone()),
            assignment: Some(self.assignment.clone()),
            reply: reply.into(),
        };
        let gone = || Untried::Interrupted("the deployer is not there".to_owned());
        self.errands.send(errand).map_err(|_| gone())?;
        // Whoever has the errand ends it in time, or is gone, and the answer with it.
        answer.await.map_err(|_| gone())??.ok_or_else(gone)
    }
}

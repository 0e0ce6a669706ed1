//! One trial: measures one candidate and tells the experiment.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::{Config, search::Candidate};
use crate::{
    facts::{Domain, Experiment, Outcome, Settings, Trial as Tried, usual},
    seams::{Assignment, Bench, Outlet, Purpose},
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
    /// The service.
    pub(super) domain: Domain,
    /// What is measured.
    pub(super) assignment: Assignment,
    /// Where the outcome goes.
    pub(super) done: Outlet<Outcome>,
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
                let measured = state.bench.measure(&state.domain, state.assignment.clone()).await;
                state.done.send(measured.map_or_else(Outcome::Failed, Outcome::Measured)).ok();
                myself.stop(None);
            }
        }
        Ok(())
    }
}

//! One trial: measures one candidate and tells the experiment.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    facts::{Domain, FailureKind, Outcome, TrialFailure},
    seams::{Assignment, Bench, Outlet},
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
    /// When it is ended.
    pub(super) within: Duration,
    /// Where the outcome goes.
    pub(super) done: Outlet<Outcome>,
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
                let measuring = state.bench.measure(&state.domain, state.assignment.clone());
                let outcome = match tokio::time::timeout(state.within, measuring).await {
                    Ok(Ok(measurement)) => Outcome::Measured(measurement),
                    Ok(Err(failure)) => Outcome::Failed(failure),
                    Err(_) => Outcome::Failed(TrialFailure {
                        kind: FailureKind::TimedOut,
                        detail: format!("not measured within {} s", state.within.as_secs()),
                    }),
                };
                state.done.send(outcome).ok();
                myself.stop(None);
            }
        }
        Ok(())
    }
}

//! A monitor: reads one probe again and again.

use std::{sync::Arc, time::Duration};

use kloros_supervision::to_self;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    facts::Reading,
    meters,
    record::wake,
    seams::{Outlet, Probe, ProbeError},
};

/// What a monitor says.
#[derive(Clone, Debug)]
pub struct Exits {
    /// What was read in one turn.
    pub readings: Outlet<Vec<Reading>>,
}

/// What a monitor hears.
#[derive(Debug)]
pub enum Msg {
    /// It is time to read.
    Due,
}

/// What a monitor needs.
pub struct Arguments {
    /// What is read.
    pub probe: Arc<dyn Probe>,
    /// How often.
    pub every: Duration,
    /// How often it is looked again where nothing was found.
    pub absent_retry: Duration,
    /// Where readings go.
    pub exits: Exits,
    /// What is made of the readings before they go: a pass-through, or the pressures of a GPU beside them.
    pub refine: Refine,
}

/// What is made of readings before they go.
pub type Refine = Arc<dyn Fn(Vec<Reading>) -> Vec<Reading> + Send + Sync>;

/// Reads one probe again and again; host, services and GPUs have one each.
pub struct Monitor;

/// What a monitor remembers.
pub struct State {
    arguments: Arguments,
    name: String,
    last: Option<ProbeError>,
}

impl Actor for Monitor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Msg>, arguments: Arguments) -> Result<State, ActorProcessingErr> {
        to_self(&myself, Msg::Due)?;
        let name = arguments.probe.name();
        Ok(State { arguments, name, last: None })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Due => {
                let pause = state.read().await;
                myself.send_after(pause, || Msg::Due);
            }
        }
        Ok(())
    }
}

impl State {
    /// Reads once and returns how long to wait for the next turn.
    async fn read(&mut self) -> Duration {
        let read = self.arguments.probe.read().await;
        metrics::gauge!(meters::PROBE_UP, "probe" => self.name.clone()).set(f64::from(u8::from(read.is_ok())));
        match read {
            Ok(readings) => {
                if self.last.take().is_some() {
                    tracing::info!(probe = %self.name, "probe answers again");
                }
                metrics::counter!(meters::READINGS_TOTAL).increment(readings.len() as u64);
                wake(&self.arguments.exits.readings, (self.arguments.refine)(readings));
                self.arguments.every
            }
            Err(error) => {
                // Said when it changes, not at every turn.
                if self.last.as_ref() != Some(&error) {
                    match &error {
                        ProbeError::Absent(why) => tracing::info!(probe = %self.name, %why, "nothing to read here"),
                        ProbeError::Unreachable(why) => {
                            tracing::warn!(probe = %self.name, %why, "probe does not answer");
                        }
                    }
                }
                let absent = matches!(error, ProbeError::Absent(_));
                self.last = Some(error);
                if absent { self.arguments.absent_retry } else { self.arguments.every }
            }
        }
    }
}

//! The GPUs of this machine, through NVIDIA's management library (NVML).
//!
//! NVML knows no time limits, and a driver in trouble may never return. So it is called on a thread of its own, which is asked,
//! waited for up to a deadline, never asked twice at once nor joined. Errors that the driver reports (XIDs) are heard on another.
//! Invariants: a GPU is known by its UUID; what cannot be read is absent and says why; no driver, a lost GPU and a call that
//! hangs are states that are shown, counted and recovered from.

mod sample;

mod xid;

mod watch;

mod card;

mod ask;

mod refusal;

mod events;

mod shared;

mod apart;

mod readings;

mod users;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use kloros_actors::{
    facts::Reading,
    seams::{Clock, GpuUser, GpuUsers, Probe, ProbeError},
};

use apart::{Apart, Asker, NoAnswer};
use shared::Shared;
use users::Shares;
use watch::Watch;

pub(crate) use sample::{Cadence, DriverState, DriverView, GpuView, Instance, Key, Process, Snapshot, Trouble, What};
pub(crate) use shared::{DEADLINE, XID_OTHER};
pub(crate) use watch::Watching;
pub(crate) use xid::is_hardware;

/// The GPUs, with the thread that asks for them. Dropping the last one who has it ends the thread, which nobody waits for.
pub(crate) struct Gpus {
    apart: Apart<(Watch, Shares)>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    watching: Watching,
    looks: Asker<()>,
    users: Asker<Result<Vec<GpuUser>, ProbeError>>,
    /// What is told how long each turn took.
    timed: Box<dyn Fn(Duration) + Send + Sync>,
}

/// What is known now.
pub(crate) struct Known {
    pub(crate) snapshot: Snapshot,
    /// How often a call did not return in time, by GPU and call; the GPU is empty where the call is about no single one.
    pub(crate) late: BTreeMap<(String, &'static str), u64>,
}

impl Gpus {
    /// Returns the GPUs; the library is not touched before somebody asks. `timed` is told how long each turn took.
    pub(crate) fn new(
        watching: Watching,
        clock: Arc<dyn Clock>,
        timed: impl Fn(Duration) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let watch = Watch::new(watching.clone(), Arc::clone(&clock), Arc::clone(&shared));
        Self {
            apart: Apart::start("nvml", (watch, Shares::default())),
            shared,
            clock,
            looks: Asker::new(watching.deadline),
            users: Asker::new(watching.deadline),
            watching,
            timed: Box::new(timed),
        }
    }

    /// Asks the GPUs for what is due; fails when there is no answer in time, and what was known before stands.
    pub(crate) async fn look(&self) -> Result<(), String> {
        let looked = self.looks.ask(&self.apart, |(watch, _)| watch.look()).await;
        match looked {
            Ok(()) => {
                (self.timed)(self.known().snapshot.took);
                Ok(())
            }
            Err(no_answer) => {
                if matches!(no_answer, NoAnswer::Late(_)) {
                    self.shared.note_late();
                }
                Err(no_answer.to_string())
            }
        }
    }

    /// Returns what is known without asking the driver.
    pub(crate) fn known(&self) -> Known {
        let (snapshot, late) = self.shared.snapshot(self.watching.deadline);
        Known { snapshot, late }
    }

    pub(crate) fn watching(&self) -> &Watching {
        &self.watching
    }

    /// Returns the wall clock, in milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

#[async_trait]
impl Probe for Gpus {
    fn name(&self) -> String {
        "gpu".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        self.look().await.map_err(ProbeError::Unreachable)?;
        readings::of(&self.known().snapshot, self.watching.fault_holds, self.clock.now_ms())
    }
}

#[async_trait]
impl GpuUsers for Gpus {
    async fn users(&self) -> Result<Vec<GpuUser>, ProbeError> {
        let asked = self.users.ask(&self.apart, |(watch, shares)| shares.users(watch)).await;
        asked.map_err(|no_answer| ProbeError::Unreachable(no_answer.to_string()))?
    }
}

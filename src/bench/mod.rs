//! The bench: how a configuration is measured.
//!
//! [`Runner`] plugs into the loop's `Bench` seam. It starts a second instance of the service with the candidate's settings
//! laid over the service's env file, waits until it is ready, reads back that it runs with them, puts a load on it, checks
//! that it survived, and ends it. [`LiveLoad`] is a load without a measurement, for demonstrations.
//!
//! Invariants: one measurement at a time on the whole machine, and nothing is started before it is its turn; the instance and its directory are gone when the measurement ends, however it
//! ends; a metric without enough observations is absent; a failure is a failure, never a number.

mod runner;

mod terms;

mod serving;

mod drive;

mod chat;

mod http;

mod connections;

mod prometheus;

mod speech;

mod sound;

mod command;

mod live_load;

mod trial_dir;

mod others;

mod request;

mod load;

mod replay;

pub(crate) mod sse;

mod summary;

#[cfg(test)]
mod tests;

use kloros_actors::facts::{FailureKind, TrialFailure};
#[cfg(test)]
pub(crate) use live_load::LiveCounts;
pub(crate) use live_load::{LiveLoad, LiveLoadSpec};
pub(crate) use runner::{Repeats, Runner};

/// Returns the failure of this kind, with words for a person.
fn fail(kind: FailureKind, detail: impl Into<String>) -> TrialFailure {
    TrialFailure { kind, detail: detail.into() }
}

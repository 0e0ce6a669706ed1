//! The deployer: changes a running service, and can always change it back.
//!
//! Hears proposals from the coordinator, `Approved<Promotion>` from the gate, `Verdict`s from the validator, recalls from people,
//! and errands of experiments and validations that are measured in place, for which it lends the serving instance. Says
//! `Promotion` to the gate, which it asks once more before it touches anything, and `Deployment` to the validator.
//! Invariants: a change is made when it can be measured at once; what undoes it lies on disk, and somebody outside watches over
//! it, before it is made; what that one took over only goes back; a person's edit always wins; a deployment without a durable
//! verdict is undone, at once when there is no journal to write one to; what is changed, and back to what, is what the
//! service itself said that it ran with; whatever ends a loan, the service's own settings come back; a service that is lent is
//! changed by nobody else.

mod actor;

mod plan_actor;

mod turn_actor;

mod recall_actor;

mod loan_actor;

mod loan_saga;

mod restarts_actor;

mod loan_watch_saga;

mod alternate_saga;

mod saga;

mod undo_saga;

mod restore_saga;

#[cfg(test)]
mod tests;

pub mod mapping;

pub mod loan;

pub mod pending;

pub use actor::{Arguments, Deployer, Exits, Msg};
pub use loan_actor::Returned;
pub use restore_saga::{Put, Restorer, gone};
use serde::{Deserialize, Serialize};
pub use undo_saga::{recover, wind_up};

use crate::config::{Check, Problem};

/// The room's settings; the section `[deployer]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long the service must stay healthy before it is measured, in seconds.
    pub bake_s: f64,
    /// How often an undo is tried before the domain is called stuck.
    pub undo_attempts_max: u32,
    /// How long a change may be unproven without a sign of life of the daemon, in seconds; then the guard takes it back.
    pub guard_within_s: f64,
    /// How long the guard may take to begin its watch, in seconds; then the change is not made.
    pub guard_begins_within_s: f64,
    /// How long it may take to ask the gate and the service before a change is made, in seconds, without a sign of life.
    pub prepare_within_s: f64,
    /// How long whoever undoes or restarts waits for another process that does, in seconds: restarts of slow services.
    pub undo_wait_s: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bake_s: 1.0,
            undo_attempts_max: 3,
            guard_within_s: 60.0,
            guard_begins_within_s: 10.0,
            prepare_within_s: 60.0,
            undo_wait_s: 1200.0,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("deployer");
        check.between("bake_s", self.bake_s, 0.0, 86_400.0);
        check.between("undo_attempts_max", f64::from(self.undo_attempts_max), 1.0, 100.0);
        check.between("guard_within_s", self.guard_within_s, 1.0, 86_400.0);
        check.between("guard_begins_within_s", self.guard_begins_within_s, 0.1, 3600.0);
        check.between("prepare_within_s", self.prepare_within_s, 1.0, 3600.0);
        check.between("undo_wait_s", self.undo_wait_s, 1.0, 86_400.0);
        check.problems()
    }
}

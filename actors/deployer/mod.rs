//! The deployer: changes a running service, and can always change it back.
//!
//! Hears proposals from the coordinator, `Approved<Promotion>` from the gate, `Verdict`s from the validator and recalls from
//! people. Says `Promotion` to the gate, which it asks once more before it touches anything, and `Deployment` to the validator.
//! Invariants: a change is made when it can be measured at once; what undoes it lies on disk, and somebody outside watches over
//! it, before it is made; what that one took over only goes back; a person's edit always wins; a deployment without a durable
//! verdict is undone, at once when there is no journal to write one to; what is changed, and back to what, is what the
//! service itself said that it ran with.

mod actor;

mod plan_actor;

mod turn_actor;

mod saga;

mod undo_saga;

mod restore_saga;

#[cfg(test)]
mod tests;

pub mod mapping;

pub mod pending;

pub use actor::{Arguments, Deployer, Exits, Msg};
pub use restore_saga::Restorer;
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
}

impl Default for Config {
    fn default() -> Self {
        Self { bake_s: 1.0, undo_attempts_max: 3, guard_within_s: 60.0 }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("deployer");
        check.between("bake_s", self.bake_s, 0.0, 86_400.0);
        check.between("undo_attempts_max", f64::from(self.undo_attempts_max), 1.0, 100.0);
        check.between("guard_within_s", self.guard_within_s, 1.0, 86_400.0);
        check.problems()
    }
}

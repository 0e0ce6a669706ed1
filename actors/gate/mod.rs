//! The gate: may this change be made without a person?
//!
//! Hears `Promotion` from the coordinator and `Answer`s from people. Says `Approved<Promotion>` to the deployer.
//! Invariants: what the gate did not pass cannot be spelled elsewhere; silence is a no; the env file may lower the level, never raise it;
//! one change is on its way once.

mod actor;

#[cfg(test)]
mod tests;

pub mod autonomy;

pub mod policy;

pub use actor::{Arguments, Exits, Gate, Msg, Waiting, level_of};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, Problem},
    facts::Autonomy,
};

/// The room's settings; the section `[gate]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The ceiling: 0 asks always, 1 lets low risk through, 2 low and medium, 3 all.
    pub autonomy: Autonomy,
    /// When an approval that nobody gave becomes a no, in seconds.
    pub approval_expires_s: u64,
    /// How many promotions may wait for a person.
    pub waiting_max: u32,
    /// How many deployments a domain may see in an hour.
    pub deployments_per_hour_max: u32,
    /// After how many rollbacks in a day a domain asks a person.
    pub rollbacks_per_day_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            autonomy: Autonomy::Trusted,
            approval_expires_s: 3600,
            waiting_max: 32,
            deployments_per_hour_max: 6,
            rollbacks_per_day_max: 6,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("gate");
        check.between("approval_expires_s", self.approval_expires_s as f64, 1.0, 30.0 * 86_400.0);
        check.between("waiting_max", f64::from(self.waiting_max), 1.0, 10_000.0);
        check.between("deployments_per_hour_max", f64::from(self.deployments_per_hour_max), 1.0, 1000.0);
        check.between("rollbacks_per_day_max", f64::from(self.rollbacks_per_day_max), 1.0, 1000.0);
        check.problems()
    }
}

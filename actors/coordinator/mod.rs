//! The coordinator: where does each intent go, and when?
//!
//! Hears `Intent` from curiosity, the inbox and people; hears of ended experiments. Says `Experiment` to dream and
//! `Promotion` to the gate.
//! Invariant: an accepted intent leads to exactly one experiment or promotion, or to a recorded refusal.

mod actor;

#[cfg(test)]
mod tests;

pub mod admission;

mod unfinished;

pub use actor::{Arguments, Coordinator, Exits, Msg};
use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[coordinator]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many experiments may run at once.
    pub experiments_max: u32,
    /// How many questions may wait for an experiment.
    pub queue_max: u32,
    /// How often an experiment that broke off is resumed before it is given up.
    pub resumes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { experiments_max: 1, queue_max: 32, resumes_max: 3 }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("coordinator");
        check.between("experiments_max", f64::from(self.experiments_max), 1.0, 16.0);
        check.between("queue_max", f64::from(self.queue_max), 1.0, 10_000.0);
        check.between("resumes_max", f64::from(self.resumes_max), 0.0, 100.0);
        check.problems()
    }
}

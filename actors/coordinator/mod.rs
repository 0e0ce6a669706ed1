//! The coordinator: where does each intent go, and when?
//!
//! Hears `Intent` from curiosity, the inbox and people; hears of ended experiments. Says `Experiment` to dream and
//! `Promotion` to the gate.
//! Invariants: an accepted intent leads to exactly one experiment or promotion, or to a recorded refusal; whatever runs passed
//! admission, what goes on after a restart too: there is room for it, and it was not tried in vain too often.

mod actor;

mod resume_actor;

#[cfg(test)]
mod tests;

pub mod admission;

pub mod attempts;

pub mod room;

mod unfinished;

pub use actor::{Arguments, Coordinator, Exits, Msg};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, Problem},
    facts::{Load, Resource},
};

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
    /// How often in a row an experiment may go to measure, over all lives of the daemon, without that a trial of it ends.
    pub attempts_max: u32,
    /// The share of memory that experiments leave free beside what is used.
    pub memory_spare_ratio: f64,
    /// The share of a GPU's memory that experiments leave free beside what is used.
    pub gpu_memory_spare_ratio: f64,
    /// How long a question waits for room on the machine, in seconds.
    pub room_wait_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            experiments_max: 1,
            queue_max: 50,
            resumes_max: 3,
            attempts_max: 5,
            memory_spare_ratio: 0.05,
            gpu_memory_spare_ratio: 0.02,
            room_wait_s: 3600,
        }
    }
}

impl Config {
    /// Returns the share of each resource that experiments leave free beside what is used.
    pub fn spare(&self) -> Load {
        Load::each(|resource| match resource {
            Resource::Cores => None,
            Resource::Memory => Some(self.memory_spare_ratio),
            Resource::GpuMemory => Some(self.gpu_memory_spare_ratio),
        })
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("coordinator");
        check.between("experiments_max", f64::from(self.experiments_max), 1.0, 16.0);
        check.between("queue_max", f64::from(self.queue_max), 1.0, 10_000.0);
        check.between("resumes_max", f64::from(self.resumes_max), 0.0, 100.0);
        check.between("attempts_max", f64::from(self.attempts_max), 1.0, 1000.0);
        check.between("memory_spare_ratio", self.memory_spare_ratio, 0.0, 0.9);
        check.between("gpu_memory_spare_ratio", self.gpu_memory_spare_ratio, 0.0, 0.9);
        check.between("room_wait_s", self.room_wait_s as f64, 0.0, 31.0 * 86_400.0);
        check.problems()
    }
}

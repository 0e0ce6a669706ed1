//! The GPU monitor: is a GPU short of memory, hot, or slowed down?
//!
//! Samples NVML through a probe. Says `Reading`s to the observer.
//! Invariant: no GPU, no driver and a lost GPU are states that are shown; none of them stops the loop.

pub mod pressure;

use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[gpu]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often the GPUs are read, in seconds.
    pub sample_every_s: f64,
    /// How often it is looked again where no GPU was found, in seconds.
    pub absent_retry_s: f64,
    /// From which share of used memory on a GPU is under pressure.
    pub memory_high_ratio: f64,
    /// From which temperature on a GPU is under pressure.
    pub temperature_high_celsius: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { sample_every_s: 1.0, absent_retry_s: 60.0, memory_high_ratio: 0.95, temperature_high_celsius: 87.0 }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("gpu");
        check.between("sample_every_s", self.sample_every_s, 0.1, 3600.0);
        check.between("absent_retry_s", self.absent_retry_s, 0.1, 86_400.0);
        check.between("memory_high_ratio", self.memory_high_ratio, 0.0, 1.0);
        check.between("temperature_high_celsius", self.temperature_high_celsius, 0.0, 150.0);
        check.problems()
    }
}

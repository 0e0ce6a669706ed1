//! The observer: what is unlike its own past, or outside what its owner promised?
//!
//! Hears `Reading`s from the monitors and `Lesson`s from feedback. Says `Anomaly` to curiosity.
//! Invariant: one incident raises one anomaly, until it has cleared or its repeat time is over.

mod actor;

mod monitor_actor;

#[cfg(test)]
mod tests;

pub mod detectors;

pub mod incident;

pub use actor::{Arguments, Exits, Msg, Observer};
pub use monitor_actor::{Arguments as MonitorArguments, Exits as MonitorExits, Monitor, Msg as MonitorMsg, Refine};
use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[observer]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often host and services are read, in seconds.
    pub sample_every_s: f64,
    /// How many readings the past is made of.
    pub window_readings: u32,
    /// How many readings must stand in the past before anything is unlike it.
    pub baseline_readings_min: u32,
    /// From how many robust spreads on a reading is unlike its past.
    pub raise_at: f64,
    /// Below how many robust spreads it is like its past again.
    pub clear_at: f64,
    /// How many readings in a row must be unlike the past.
    pub raise_after: u32,
    /// How many readings in a row must be like the past again.
    pub clear_after: u32,
    /// The smallest spread that is believed, as a ratio of the median: a quiet past is not a sharp one.
    pub spread_min_ratio: f64,
    /// When an incident that goes on is raised again, in seconds.
    pub repeat_after_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_every_s: 1.0,
            window_readings: 60,
            baseline_readings_min: 8,
            raise_at: 6.0,
            clear_at: 3.0,
            raise_after: 3,
            clear_after: 5,
            spread_min_ratio: 0.1,
            repeat_after_s: 600,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("observer");
        check.between("sample_every_s", self.sample_every_s, 0.1, 3600.0);
        check.between("window_readings", f64::from(self.window_readings), 4.0, 100_000.0);
        check.between(
            "baseline_readings_min",
            f64::from(self.baseline_readings_min),
            4.0,
            f64::from(self.window_readings),
        );
        check.between("raise_at", self.raise_at, 1.0, 1000.0);
        check.between("clear_at", self.clear_at, 0.0, self.raise_at);
        check.between("raise_after", f64::from(self.raise_after), 1.0, 1000.0);
        check.between("clear_after", f64::from(self.clear_after), 1.0, 1000.0);
        check.between("spread_min_ratio", self.spread_min_ratio, 0.0, 10.0);
        check.problems()
    }
}

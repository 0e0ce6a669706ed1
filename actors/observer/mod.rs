//! The observer: what is unlike its own past, or outside what its owner promised?
//!
//! Hears `Reading`s from the monitors and `Lesson`s from feedback. Says `Anomaly` to curiosity.
//! Invariants: what goes wrong together is one incident, and one incident raises one anomaly in its repeat time; a surge of
//! load is no fault, and a breached promise always is one; what it has learned goes on bit for bit after a restart.

mod actor;

mod monitor_actor;

#[cfg(test)]
mod tests;

pub mod creep;

pub mod detectors;

pub mod incident;

pub mod saved;

pub mod series;

pub mod silence;

pub mod watch;

pub use actor::{Arguments, Exits, Msg, Observer};
pub use monitor_actor::{Arguments as MonitorArguments, Exits as MonitorExits, Monitor, Msg as MonitorMsg, Refine};
use serde::{Deserialize, Serialize};
pub use silence::Silence;

use crate::config::{Check, Problem};

/// The room's settings; the section `[observer]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often host and services are read, in seconds.
    pub sample_every_s: f64,
    /// How many series are watched at most.
    pub series_max: u32,
    /// How many readings a series is learned from before anything is unlike its past.
    pub warmup_readings: u32,
    /// From how far above what was expected a reading matters, as a ratio.
    pub matters_from: f64,
    /// How long something must be wrong before it is an incident, in seconds.
    pub for_s: f64,
    /// How long everything must be well again before an incident is over, in seconds.
    pub clear_s: f64,
    /// How long signs are gathered before an incident is told of, in seconds.
    pub gather_s: f64,
    /// How long after the first sign another kind of trouble still belongs to the same incident, in seconds.
    pub together_s: f64,
    /// When an incident that goes on, or comes back, is told of again, in seconds.
    pub repeat_after_s: u64,
    /// When what does not go away counts as the new normal, in seconds.
    pub normal_after_s: u64,
    /// From how many times its usual load on a service is under a surge.
    pub surge_from: f64,
    /// Times of the local clock in which nothing is told, of all or of one.
    pub silence: Vec<Silence>,
    /// How often what was learned is saved, in seconds.
    pub save_every_s: u64,
    /// How old what was saved may be to be gone on with, in seconds.
    pub saved_max_age_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sample_every_s: 1.0,
            series_max: 1024,
            warmup_readings: 120,
            matters_from: 0.2,
            for_s: 2.0,
            clear_s: 30.0,
            gather_s: 3.0,
            together_s: 60.0,
            repeat_after_s: 600,
            normal_after_s: 3600,
            surge_from: 1.5,
            silence: Vec::new(),
            save_every_s: 60,
            saved_max_age_s: 86_400,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("observer");
        check.between("sample_every_s", self.sample_every_s, 0.1, 3600.0);
        check.between("series_max", f64::from(self.series_max), 1.0, 4096.0);
        check.between("warmup_readings", f64::from(self.warmup_readings), 60.0, 100_000.0);
        check.between("matters_from", self.matters_from, 0.0, 1000.0);
        check.between("for_s", self.for_s, 0.0, 86_400.0);
        check.between("clear_s", self.clear_s, 0.0, 86_400.0);
        check.between("gather_s", self.gather_s, 0.0, 600.0);
        check.between("together_s", self.together_s, self.gather_s, 86_400.0);
        check.between("normal_after_s", self.normal_after_s as f64, 1.0, 1e9);
        check.between("surge_from", self.surge_from, 1.01, 1000.0);
        check.between("save_every_s", self.save_every_s as f64, 1.0, 86_400.0);
        check.problems()
    }
}

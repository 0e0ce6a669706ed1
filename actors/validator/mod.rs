//! The validator: did the deployment do what the experiment promised?
//!
//! Hears `Deployment` from the deployer, and from the gate of which domain the noise is not known. Says `Verdict` to the deployer and to feedback; where old and new are measured in place, sends
//! the deployer on an errand a run.
//! Invariants: a deployment gets exactly one verdict, even across a restart; silence, NaN and a lost metric are never success.

mod actor;

mod live_actor;

mod in_place_actor;

mod calibration_actor;

mod conclusion_actor;

#[cfg(test)]
mod tests;

pub mod verdict;

pub mod noise;

mod runs;

mod statistics;

mod evidence;

pub mod baseline;

pub use actor::{Arguments, Exits, Msg, Validator};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[validator]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Improvement from which the baseline moves, as a ratio.
    pub keep_from: f64,
    /// Improvement below which the deployment is rolled back, as a ratio.
    pub undo_below: f64,
    /// How many blocks of four runs are measured at least.
    pub blocks_min: u32,
    /// How many blocks of four runs are measured at most.
    pub blocks_max: u32,
    /// How exactly the improvement must be known, as a ratio on either side.
    pub half_width: f64,
    /// The chance of a wrong early stop that is accepted.
    pub alpha: f64,
    /// How many blocks of four runs measure a domain against itself before its first change, to know its noise; 0 does without.
    pub calibrate_blocks: u32,
    /// How long that is known, in seconds.
    pub calibrated_for_s: u64,
    /// How often that may fail, from when a change is proposed on, before the change is refused.
    pub calibrate_attempts_max: u32,
    /// The share of runs that may fail before the measurement says nothing.
    pub invalid_max_ratio: f64,
    /// The loss since the last certified baseline from which a neutral deployment is undone, as a ratio.
    pub erosion_below: f64,
    /// How often it is looked, while a run goes on, whether the service still runs and nobody edited what it runs with, in seconds.
    pub look_every_s: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keep_from: 0.02,
            undo_below: -0.05,
            blocks_min: 6,
            blocks_max: 60,
            half_width: 0.02,
            alpha: 0.02,
            calibrate_blocks: 3,
            calibrated_for_s: 30 * 86_400,
            calibrate_attempts_max: 3,
            invalid_max_ratio: 0.2,
            erosion_below: -0.05,
            look_every_s: 2.0,
        }
    }
}

impl Config {
    /// Returns how often it is looked whether what is measured for still stands.
    pub(super) fn look_every(&self) -> Duration {
        Duration::from_secs_f64(self.look_every_s)
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("validator");
        check.between("keep_from", self.keep_from, 0.0, 10.0);
        check.between("undo_below", self.undo_below, -0.99, 0.0);
        check.between("blocks_min", f64::from(self.blocks_min), 2.0, 1000.0);
        check.between("blocks_max", f64::from(self.blocks_max), f64::from(self.blocks_min), 10_000.0);
        check.between("half_width", self.half_width, 0.0001, 1.0);
        check.between("alpha", self.alpha, 0.0001, 0.5);
        check.between("calibrate_blocks", f64::from(self.calibrate_blocks), 0.0, 100.0);
        check.between("calibrated_for_s", self.calibrated_for_s as f64, 3600.0, 3650.0 * 86_400.0);
        check.between("calibrate_attempts_max", f64::from(self.calibrate_attempts_max), 1.0, 100.0);
        check.between("invalid_max_ratio", self.invalid_max_ratio, 0.0, 0.9);
        check.between("erosion_below", self.erosion_below, -0.99, 0.0);
        check.between("look_every_s", self.look_every_s, 0.1, 3600.0);
        check.problems()
    }
}

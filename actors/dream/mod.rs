//! D-REAM: which settings would be better, measured?
//!
//! Hears `Experiment` from the coordinator. Says `Winner` to the coordinator when one was found; where candidates are measured in
//! place, asks the gate for a loan of the service and sends the deployer on errands while it is lent.
//! Invariants: a failed trial is a variant, never a number; the live settings are always among the candidates; an
//! experiment that breaks off is resumed from the journal and repeats no finished trial.

mod experiment_actor;

mod borrow_actor;

mod end_saga;

mod start_saga;

mod limits;

mod trial_actor;

mod pause_actor;

mod yield_actor;

#[cfg(test)]
mod tests;

pub mod farthest;

pub mod space;

pub mod search;

pub mod earlier;

pub mod fitness;

pub mod flat;

pub mod front;

pub mod claim;

pub mod closer;

pub use experiment_actor::{Arguments, Exits, ExperimentActor, Msg};
use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[dream]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many candidates are chosen before their results are heard. They are measured one after another, so that a larger
    /// lot finds worse settings with as many measurements.
    pub lot_max: u32,
    /// The experiment ends early, between two generations, when no candidate is expected to gain as much more, as a ratio, or as a
    /// validation of the domain could tell from nothing, where that is known and is more; 0 spends the whole budget.
    pub stop_below: f64,
    /// From how many trials of earlier experiments on the same domain one learns at most; 0 begins each anew.
    pub earlier_max: u32,
    /// How many experiments are looked back for them.
    pub look_back: u32,
    /// How many candidates must have been measured before one can win.
    pub measured_min: u32,
    /// The smallest claimed gain over the live settings that is worth a promotion, as a ratio.
    pub gain_min: f64,
    /// How often the best candidate and the live settings are measured again before the claim is made.
    pub confirm_runs: u32,
    /// The experiment is void when a larger share of its first generation failed; also when a later one fails whole.
    pub failed_max_ratio: f64,
    /// After how many trials in a row that others disturbed, each measured again in vain, the experiment ends: a load that
    /// came to stay would cost all the rest of the budget.
    pub disturbed_max: u32,
    /// How long it rests when an objective of the serving instance is breached while a candidate is measured beside it, in seconds; each
    /// further rest is twice as long, up to sixteen times.
    pub yield_s: u64,
    /// How often it rests so before it ends.
    pub yields_max: u32,
    /// How many candidates far apart it takes to find that the service may not apply its parameters.
    pub flat_candidates_min: u32,
    /// Candidates that spread less than so many times the noise count as alike, and the experiment as void.
    pub flat_max_ratio: f64,
    /// The chance of calling candidates alike that are not which is accepted.
    pub flat_alpha: f64,
    /// How often live settings, best and worst candidate are measured again where the candidates may be alike.
    pub flat_runs: u32,
    /// When a trial is ended, in seconds from its turn to measure on. What others disturb is measured again, each time for as long.
    pub trial_timeout_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lot_max: 1,
            stop_below: 0.003,
            earlier_max: 64,
            look_back: 8,
            measured_min: 4,
            gain_min: 0.03,
            confirm_runs: 2,
            failed_max_ratio: 0.7,
            disturbed_max: 3,
            yield_s: 30,
            yields_max: 5,
            flat_candidates_min: 6,
            flat_max_ratio: 1.5,
            flat_alpha: 0.05,
            flat_runs: 4,
            trial_timeout_s: 300,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("dream");
        check.between("lot_max", f64::from(self.lot_max), 1.0, 1000.0);
        check.between("stop_below", self.stop_below, 0.0, 1.0);
        check.between("earlier_max", f64::from(self.earlier_max), 0.0, 1000.0);
        check.between("look_back", f64::from(self.look_back), 1.0, 100.0);
        check.between("measured_min", f64::from(self.measured_min), 1.0, 1000.0);
        check.between("gain_min", self.gain_min, 0.0, 10.0);
        check.between("confirm_runs", f64::from(self.confirm_runs), 0.0, 20.0);
        check.between("failed_max_ratio", self.failed_max_ratio, 0.0, 1.0);
        check.between("disturbed_max", f64::from(self.disturbed_max), 1.0, 1000.0);
        check.between("yield_s", self.yield_s as f64, 1.0, 3600.0);
        check.between("yields_max", f64::from(self.yields_max), 0.0, 1000.0);
        check.between("flat_candidates_min", f64::from(self.flat_candidates_min), 2.0, 1000.0);
        check.between("flat_max_ratio", self.flat_max_ratio, 0.0, 100.0);
        check.between("flat_alpha", self.flat_alpha, 0.0, 0.5);
        check.between("flat_runs", f64::from(self.flat_runs), 0.0, 20.0);
        check.between("trial_timeout_s", self.trial_timeout_s as f64, 1.0, 86_400.0);
        check.problems()
    }
}

//! Curiosity: what question is worth an experiment?
//!
//! Hears `Anomaly` from the observer and `Lesson` from feedback. Says `Intent` to the coordinator.
//! Invariants: a question is identified by hypothesis and subject; every question ends, and rests before it is asked again.

mod actor;

#[cfg(test)]
mod tests;

pub mod hypotheses;

pub mod interest;

pub use actor::{Arguments, Curiosity, Exits, Msg};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, Problem},
    facts::Budget,
};

/// The room's settings; the section `[curiosity]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many questions may be open at once.
    pub open_max: u32,
    /// The interest in a question that was never asked, 0 to 1.
    pub interest_start: f64,
    /// Below which interest a question is not asked.
    pub interest_min: f64,
    /// How fast lost interest comes back.
    pub interest_recovers_per_day: f64,
    /// How long a question rests after it ended without a deployment, in seconds.
    pub rest_s: u64,
    /// How many of the daemon's own doings may stand between a cause outside and a question.
    pub depth_max: u32,
    /// What an experiment on a degradation may spend.
    pub degradation: Budget,
    /// What an experiment on a resource under pressure may spend.
    pub pressure: Budget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_max: 8,
            interest_start: 0.5,
            interest_min: 0.15,
            interest_recovers_per_day: 0.1,
            rest_s: 900,
            depth_max: 3,
            degradation: Budget { max_candidates: 12, max_generations: 4 },
            pressure: Budget { max_candidates: 8, max_generations: 3 },
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("curiosity");
        check.between("open_max", f64::from(self.open_max), 1.0, 10_000.0);
        check.between("interest_start", self.interest_start, 0.0, 1.0);
        check.between("interest_min", self.interest_min, 0.0, 1.0);
        check.between("interest_recovers_per_day", self.interest_recovers_per_day, 0.0, 1.0);
        check.between("depth_max", f64::from(self.depth_max), 0.0, 100.0);
        for (key, budget) in [("degradation", self.degradation), ("pressure", self.pressure)] {
            check.between(key, f64::from(budget.max_candidates), 1.0, 1000.0);
            check.between(key, f64::from(budget.max_generations), 1.0, 1000.0);
        }
        check.problems()
    }
}

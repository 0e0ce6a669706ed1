//! Curiosity: what question is worth an experiment?
//!
//! Hears `Anomaly` from the observer and `Lesson` from feedback. Says `Intent` to the coordinator.
//! Invariants: a question is identified by hypothesis and subject; every question ends, and rests before it is asked again.

mod actor;

#[cfg(test)]
mod tests;

pub mod hypotheses;

pub mod idle;

pub mod interest;

pub mod own;

pub use actor::{Arguments, Curiosity, Exits, Msg};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Check, Problem},
    facts::{Budget, Kind, WALL_S_MAX, WALL_S_MIN},
};

/// The facts of the past that say what is worth asking.
pub const KINDS_READ: [Kind; 3] = [Kind::Question, Kind::QuestionEnd, Kind::Lesson];

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
    /// After how many failures in a row a way to answer a question is parked.
    pub park_after: u32,
    /// How long it is parked, in seconds.
    pub park_s: u64,
    /// How many of the daemon's own doings may stand between a cause outside and a question.
    pub depth_max: u32,
    /// Domains about which nothing is asked, because they are meant to be as they are.
    pub leave_alone: Vec<String>,
    /// How long nothing must have been wrong or under way before it is asked by itself whether there is something better, in
    /// seconds.
    pub idle_after_s: u64,
    /// How many such questions are asked in a day at most; 0 is none.
    pub idle_per_day_max: u32,
    /// What an experiment on a degradation may spend.
    pub degradation: Budget,
    /// What an experiment on a resource under pressure may spend.
    pub pressure: Budget,
    /// What an experiment may spend that was asked for by nothing but idle time.
    pub idle: Budget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_max: 8,
            interest_start: 0.5,
            interest_min: 0.15,
            interest_recovers_per_day: 0.1,
            rest_s: 900,
            park_after: 5,
            park_s: 604_800,
            depth_max: 3,
            leave_alone: Vec::new(),
            idle_after_s: 21_600,
            idle_per_day_max: 1,
            degradation: Budget::of(12, 4),
            pressure: Budget::of(8, 3),
            idle: Budget::of(8, 2),
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
        check.between("idle_after_s", self.idle_after_s as f64, 1.0, 1e9);
        check.between("idle_per_day_max", f64::from(self.idle_per_day_max), 0.0, 1000.0);
        check.between("park_after", f64::from(self.park_after), 1.0, 1000.0);
        check.between("depth_max", f64::from(self.depth_max), 0.0, 100.0);
        for (key, budget) in [("degradation", self.degradation), ("pressure", self.pressure), ("idle", self.idle)] {
            check.between(key, f64::from(budget.max_candidates), 1.0, 1000.0);
            check.between(key, f64::from(budget.max_generations), 1.0, 1000.0);
            check.between(key, budget.wall_s as f64, WALL_S_MIN as f64, WALL_S_MAX as f64);
        }
        check.problems()
    }
}

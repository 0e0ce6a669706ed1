//! Feedback: what does the verdict teach?
//!
//! Hears `Verdict` from the validator. Says `Lesson` to curiosity and to the observer.
//! Invariant: every verdict teaches exactly one lesson, neutral ones too.

mod actor;

#[cfg(test)]
mod tests;

pub mod lesson;

pub use actor::{Arguments, Exits, Feedback, Msg};
use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[feedback]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a success moves the interest in such questions.
    pub success_interest: f64,
    /// How a neutral verdict moves it.
    pub neutral_interest: f64,
    /// How a rollback that blames the settings moves it.
    pub rollback_interest: f64,
    /// How long such a question rests after a success, in seconds.
    pub rest_after_success_s: u64,
    /// How long it rests after a neutral verdict, in seconds.
    pub rest_after_neutral_s: u64,
    /// How long it rests after a rollback that blames the settings, in seconds.
    pub rest_after_rollback_s: u64,
    /// How long it rests after a rollback that blames the circumstances, in seconds.
    pub rest_after_crash_s: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            success_interest: 0.1,
            neutral_interest: -0.1,
            rollback_interest: -0.25,
            rest_after_success_s: 1800,
            rest_after_neutral_s: 3600,
            rest_after_rollback_s: 7200,
            rest_after_crash_s: 60,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("feedback");
        for (key, change) in [
            ("success_interest", self.success_interest),
            ("neutral_interest", self.neutral_interest),
            ("rollback_interest", self.rollback_interest),
        ] {
            check.between(key, change, -1.0, 1.0);
        }
        check.problems()
    }
}

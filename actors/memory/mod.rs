//! The conversation memory: what was said, and what of it matters now?
//!
//! Hears turns of conversations and keeps them in the journal.
//! Invariants: the newest turns are never the ones cut off; the same turn never comes twice.

pub mod recall;

use serde::{Deserialize, Serialize};

use crate::config::{Check, Problem};

/// The room's settings; the section `[memory]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many turns a context holds at most.
    pub context_events_max: usize,
    /// How many characters a context holds at most.
    pub context_chars_max: usize,
    /// How old a turn of a context may be, in hours.
    pub window_h: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { context_events_max: 20, context_chars_max: 2000, window_h: 24 }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("memory");
        check.between("context_events_max", self.context_events_max as f64, 1.0, 10_000.0);
        check.between("context_chars_max", self.context_chars_max as f64, 1.0, 10_000_000.0);
        check.between("window_h", self.window_h as f64, 1.0, 24.0 * 366.0);
        check.problems()
    }
}

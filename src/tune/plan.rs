//! What is tuned, and how long.

use std::path::PathBuf;

use kloros_actors::facts::Direction;
use kloros_search::{Config, Options, Outcome, Space};
use serde::{Deserialize, Serialize};

/// The most trials of one run.
pub(crate) const BUDGET_MAX: u32 = 10_000;

/// The most trials at a time, and the most of a lot.
pub(crate) const PARALLEL_MAX: u32 = 64;

/// Everything that decides which trials there are and what they measure. It is the first line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Program and arguments; no shell sees them.
    pub(crate) argv: Vec<String>,
    /// Where it runs.
    pub(crate) folder: PathBuf,
    /// What may be set.
    pub(crate) space: Space,
    /// What is set now.
    pub(crate) default: Option<Config>,
    /// The metric that is to become better.
    pub(crate) metric: String,
    /// Which way that is.
    pub(crate) direction: Direction,
    /// How many trials there may be.
    pub(crate) budget: u32,
    /// How many the search gives out before it hears of their results.
    pub(crate) batch: u32,
    /// How many run at a time.
    pub(crate) parallel: u32,
    /// What decides between equally good ways.
    pub(crate) seed: u64,
    /// Whether two measurements of one setting differ.
    pub(crate) noisy: bool,
    /// How long one trial may take, in milliseconds.
    pub(crate) timeout_ms: u64,
    /// How long the run may go on before no further trial is begun, in milliseconds; without a limit where it is absent, as in
    /// journals of older versions. Of what is here, this alone may be another when a run goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) within_ms: Option<u64>,
}

impl Plan {
    /// Returns what the search is told.
    pub(super) fn options(&self) -> Options {
        Options {
            budget: self.budget,
            batch: self.batch,
            seed: self.seed,
            default: self.default.clone(),
            noisy: self.noisy,
            ..Options::default()
        }
    }

    /// Returns a measured value as the search wants it, where less is better, and also one of the search as it was measured.
    pub(super) fn oriented(&self, value: f64) -> f64 {
        oriented(self.direction, value)
    }
}

/// Returns `value` so that less is better, or back again.
pub(super) fn oriented(direction: Direction, value: f64) -> f64 {
    match direction {
        Direction::Down => value,
        // Zero stays without a sign, or it would be printed with one.
        Direction::Up => 0.0 - value,
    }
}

/// Returns the outcome that the search hears of.
pub(crate) fn outcome(direction: Direction, value: Option<f64>) -> Outcome {
    value.map_or(Outcome::Failed, |value| Outcome::Value(oriented(direction, value)))
}

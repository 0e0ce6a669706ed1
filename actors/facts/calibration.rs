use serde::{Deserialize, Serialize};

use super::Estimate;

/// What measuring a service against itself, the same settings on both sides, says of how it is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The domain.
    pub domain: String,
    /// The fingerprint of how it is measured; of another measurement this says nothing.
    pub measured_by: String,
    /// Its noise, or why it could not be measured, in words.
    pub outcome: Result<Noise, String>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The noise of a measurement, and what can be told in spite of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The standard deviation of what a block of four runs says, as a logarithm of old to new.
    pub spread: f64,
    /// With how many degrees of freedom that is known.
    pub freedom: u32,
    /// How much better the settings measured than themselves, with an interval of 95 %: what is not 0 here is not noise alone.
    pub improvement: Estimate,
    /// The smallest effect that an interval of 95 % tells from none in nine of ten validations of `blocks` blocks, as a ratio.
    pub resolves: f64,
    /// For how many blocks that is so: the most that a validation has.
    pub blocks: u32,
    /// How many good runs stand behind it.
    pub runs: u32,
    /// How many requests or observations stand behind them.
    pub samples: u64,
}

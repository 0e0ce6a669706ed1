//! Runs: what a measurement comes to, and the order and the load of a block.

use super::verdict::Run;
use crate::facts::{DeploymentId, Measurement, Others, TrialFailure, short_hash};

/// Returns a run as it is weighed.
pub(super) fn run(block: u32, place: u32, candidate: bool, outcome: &Result<Measurement, TrialFailure>) -> Run {
    let samples = outcome.as_ref().map_or(0, |measurement| measurement.samples);
    let outcome = outcome.as_ref().map(|measurement| measurement.metrics.clone()).map_err(|failure| failure.kind);
    Run { block, place, candidate, outcome, samples }
}

/// Returns what others did meanwhile, where that is known.
pub(super) fn others_in(block: u32, outcome: &Result<Measurement, TrialFailure>) -> Option<(u32, Others)> {
    Some((block, outcome.as_ref().ok()?.others?))
}

/// The order of a block is random but repeatable: it comes from the deployment and the block alone.
pub(super) fn coin(id: &DeploymentId, block: u32) -> bool {
    seed(id.as_str(), block) & 1 == 1
}

/// Returns the seed of the load of a block.
pub(super) fn seed(id: &str, block: u32) -> u64 {
    u64::from_str_radix(&short_hash(&[id, &block.to_string()]), 16).unwrap_or_default()
}

//! What the gate has to know of the validator's settings.

use crate::{config::Config, gate, validator};

/// Returns what it takes to judge a change.
pub(super) fn scales(config: &Config) -> gate::Scales {
    let validator::Config {
        blocks_min,
        blocks_max,
        undo_below,
        calibrate_blocks,
        calibrated_for_s,
        calibrate_attempts_max,
        ..
    } = config.validator;
    let calibrated_for_s = (calibrate_blocks > 0).then_some(calibrated_for_s);
    gate::Scales {
        runs_min: blocks_min.saturating_mul(4),
        blocks_max,
        loss_max: -undo_below,
        calibrated_for_s,
        calibrate_attempts_max,
    }
}

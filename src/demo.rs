//! The demonstration load: with nothing configured, the lab serves somebody, quietly at first and then more than its
//! defaults can bear, so that its latency really degrades.

use std::time::Duration;

use kloros_actors::facts::TokenRange;

use crate::bench::{LiveLoad, LiveLoadSpec};

/// How long the load stays quiet: long enough for the observer to learn what is normal.
const QUIET: Duration = Duration::from_secs(20);

/// Starts the load on whatever address `url` names at the time.
pub(crate) fn start<F>(url: F, seed: u64) -> LiveLoad
where
    F: Fn() -> Option<String> + Send + Sync + 'static,
{
    let spec = LiveLoadSpec {
        quiet_rate_per_s: 2.5,
        quiet_s: QUIET.as_secs_f64(),
        busy_rate_per_s: 12.0,
        in_flight_max: 32,
        prompt_tokens: TokenRange { min: 48, max: 160 },
        output_tokens: TokenRange { min: 64, max: 128 },
        request_timeout: Duration::from_secs(20),
    };
    LiveLoad::start(url, spec, seed)
}

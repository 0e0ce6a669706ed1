//! The machine's own clock.

use std::time::{SystemTime, UNIX_EPOCH};

use kloros_actors::seams::Clock;

/// The wall clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam that everybody else is sent to")]
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 is unset; 0 is the earliest moment there is.
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the seam that everybody else is sent to")]
    fn utc_offset_s(&self) -> i32 {
        chrono::Local::now().offset().local_minus_utc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_milliseconds_of_this_century() {
        let now_ms = SystemClock.now_ms();
        // From 2020 to 2100.
        assert!((1_577_836_800_000..4_102_444_800_000).contains(&now_ms), "{now_ms}");
    }

    #[test]
    fn local_time_is_nowhere_a_day_from_that_of_greenwich() {
        assert!(SystemClock.utc_offset_s().abs() < 86_400);
    }
}

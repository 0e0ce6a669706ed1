//! The arithmetic of restarting: how many are too many, and how long to wait between two.

use std::collections::VecDeque;
use std::time::Duration;

use crate::spec::{Backoff, Intensity};

/// The restarts of the recent past, for one supervisor.
#[derive(Debug)]
pub(crate) struct Window {
    intensity: Intensity,
    /// When each restart happened, oldest first; never more than one above the allowed number.
    restarts: VecDeque<Duration>,
}

impl Window {
    pub(crate) fn new(intensity: Intensity) -> Self {
        Window { intensity, restarts: VecDeque::new() }
    }

    /// Counts a restart at `now` and returns whether it is still allowed.
    ///
    /// A restart exactly one window ago still counts, as in OTP. `now` never runs backwards.
    pub(crate) fn admit(&mut self, now: Duration) -> bool {
        let within = self.intensity.within;
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|restart| now.saturating_sub(*restart) > within) {
            self.restarts.pop_front();
        }
        self.restarts.len() <= self.intensity.restarts_max as usize
    }
}

impl Backoff {
    /// Returns how long to wait before the restart after `failures` earlier ones in a row.
    ///
    /// `dice` is a random number from 0 (inclusive) to 1 (exclusive). The wait lies within the jitter around
    /// `min(max, first * 2^(failures - 1))`, and is zero for the first restart.
    pub(crate) fn delay(&self, failures: u32, dice: f64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let nominal = self.first.checked_mul(factor).unwrap_or(self.max).min(self.max);
        let spread = 1.0 + self.jitter_ratio * (2.0 * dice - 1.0);
        // A product that no duration can hold only arises from an absurdly long `max`, which is then the honest answer.
        Duration::try_from_secs_f64(nominal.as_secs_f64() * spread).unwrap_or(nominal)
    }
}

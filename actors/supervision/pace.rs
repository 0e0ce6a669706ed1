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

    /// Counts by another intensity from now on; what was counted stays.
    pub(crate) fn set(&mut self, intensity: Intensity) {
        self.intensity = intensity;
    }

    /// Counts a restart at `now` and returns whether it is still allowed.
    ///
    /// A restart exactly one window ago still counts, as in OTP. `now` never runs backwards.
    pub(crate) fn admit(&mut self, now: Duration) -> bool {
        let within = self.intensity.within;
        if self.intensity.restarts_max == u32::MAX {
            // Nothing is ever too much, so nothing needs to be remembered.
            return true;
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_restart_exactly_one_window_ago_still_counts() {
        let mut window = Window::new(Intensity { restarts_max: 1, within: 5 * SECOND });
        assert!(window.admit(SECOND));
        assert!(!window.admit(6 * SECOND));
    }

    #[test]
    fn a_restart_longer_ago_than_the_window_is_forgotten() {
        let mut window = Window::new(Intensity { restarts_max: 1, within: 5 * SECOND });
        assert!(window.admit(SECOND));
        assert!(window.admit(6 * SECOND + Duration::from_nanos(1)));
    }

    #[test]
    fn an_absurd_back_off_is_a_long_one_and_no_panic() {
        let backoff = Backoff { first: SECOND, max: Duration::MAX, jitter_ratio: 1.0, healthy_after: SECOND };
        assert!(backoff.delay(u32::MAX, 0.99) > Duration::from_secs(u64::from(u32::MAX)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

        #[test]
        fn case_043_a_window_allows_what_counting_all_restarts_in_it_allows(
            restarts_max in 0_u32..5,
            within_ms in 1_u64..5_000,
            gaps_ms in proptest::collection::vec(0_u64..3_000, 0..60),
        ) {
            let within = Duration::from_millis(within_ms);
            let mut window = Window::new(Intensity { restarts_max, within });
            let mut all = Vec::new();
            let mut now = Duration::ZERO;
            for gap in gaps_ms {
                now += Duration::from_millis(gap);
                all.push(now);
                let recent = all.iter().filter(|restart| now.saturating_sub(**restart) <= within).count();
                prop_assert_eq!(window.admit(now), recent <= restarts_max as usize);
            }
        }

        #[test]
        fn case_077_a_wait_lies_within_the_jitter_around_its_doubled_length(
            failures in 1_i32..80,
            dice in 0.0_f64..1.0,
            jitter_ratio in 0.0_f64..=1.0,
        ) {
            let backoff = Backoff { first: SECOND, max: 30 * SECOND, jitter_ratio, healthy_after: SECOND };
            let nominal = (2.0_f64.powi(failures - 1)).min(30.0);
            let delay = backoff.delay(failures.unsigned_abs(), dice).as_secs_f64();
            prop_assert!(delay >= nominal * (1.0 - jitter_ratio) - 1e-6);
            prop_assert!(delay <= nominal * (1.0 + jitter_ratio) + 1e-6);
        }
    }
}

use serde::{Deserialize, Serialize};

use super::Window;

/// When and how far the serving instance itself may be tried on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InPlace {
    /// The maintenance windows, by the local clock; never empty.
    pub windows: Vec<Window>,
    /// How long the service may run with one candidate at most, in seconds from its restart on.
    #[serde(default = "candidate_max_s")]
    pub candidate_max_s: u64,
    /// How long an experiment may have the service in one go, in seconds.
    #[serde(default = "session_max_s")]
    pub session_max_s: u64,
    /// How often candidates may restart the service within an hour.
    #[serde(default = "restarts_per_hour_max")]
    pub restarts_per_hour_max: u32,
}

/// Each window of the week has come by then.
const WEEK_S: u64 = 7 * 86_400;

fn candidate_max_s() -> u64 {
    900
}

fn session_max_s() -> u64 {
    4 * 3600
}

fn restarts_per_hour_max() -> u32 {
    30
}

impl InPlace {
    /// Returns whether a window is in force at `now_ms` since the Unix epoch, where local time is `utc_offset_s` ahead of UTC.
    pub fn is_open(&self, now_ms: u64, utc_offset_s: i32) -> bool {
        self.windows.iter().any(|window| window.holds(now_ms, utc_offset_s))
    }

    /// Returns whether windows are in force from `now_ms` on for `for_s` seconds without a gap; of more than a week, whether for a
    /// week.
    pub fn stays_open(&self, now_ms: u64, utc_offset_s: i32, for_s: u64) -> bool {
        const STEP_S: u64 = 60;
        let mut within = (0..for_s.min(WEEK_S)).step_by(STEP_S as usize).chain([for_s.min(WEEK_S)]);
        within.all(|after_s| self.is_open(now_ms.saturating_add(after_s * 1000), utc_offset_s))
    }

    /// Returns how long windows are in force at the longest without a gap, in seconds; a week where there is none.
    pub fn longest_open_s(&self) -> u64 {
        const MINUTE_MS: u64 = 60_000;
        let once = self.windows.iter().filter_map(Window::once_from_ms);
        let longest_from = |from_ms: u64| {
            let (mut longest, mut open) = (0_u64, 0_u64);
            for minute in 0..2 * WEEK_S / 60 {
                open = if self.is_open(from_ms.saturating_add(minute * MINUTE_MS), 0) { open + 1 } else { 0 };
                longest = longest.max(open);
            }
            longest * 60
        };
        let weeks_ms = once.map(|at_ms| at_ms.saturating_sub(WEEK_S * 1000)).chain([0]);
        weeks_ms.map(longest_from).max().unwrap_or(0).min(WEEK_S)
    }

    /// Returns the windows as one text: `"02:00-05:00, sun"`.
    pub fn windows_text(&self) -> String {
        self.windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_follow_each_other_are_open_as_one_and_a_night_goes_over_midnight_and_over_the_week() {
        for (windows, minutes) in [
            (vec!["02:00-05:00"], 180),
            (vec!["22:00-06:00"], 480),
            (vec!["02:00-05:00", "05:00-06:30"], 270),
            (vec!["02:00-05:00", "sun"], 1440),
            (vec!["sun", "mon 00:00-01:00"], 1500),
            (vec!["mon-sun"], 10_080),
            (vec!["2026-12-20 00:00 to 2026-12-20 06:00"], 360),
            (vec!["2026-12-20 00:00 to 2026-12-20 06:00", "06:00-07:00"], 420),
        ] {
            let parsed = windows.iter().map(|text| text.parse().unwrap()).collect();
            let (candidate_max_s, session_max_s, restarts_per_hour_max) = (900, 3600, 30);
            let in_place = InPlace { windows: parsed, candidate_max_s, session_max_s, restarts_per_hour_max };
            assert_eq!(in_place.longest_open_s(), minutes * 60, "{windows:?}");
        }
    }
}

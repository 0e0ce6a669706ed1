use serde::{Deserialize, Serialize};

/// The shortest and the longest time that an experiment may be given, in seconds: a minute and 31 days.
pub const WALL_S_MIN: u64 = 60;
/// See [`WALL_S_MIN`].
pub const WALL_S_MAX: u64 = 31 * 86_400;

/// How long an experiment may search where nobody says otherwise, in seconds: forty-eight trials of a quarter of an hour.
const WALL_S_USUAL: u64 = 43_200;

/// How much an experiment may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Candidates a generation.
    pub max_candidates: u32,
    /// Generations.
    pub max_generations: u32,
    /// How long it may search from its first trial on, in seconds. What is measured again afterwards, to be sure of what was
    /// found, comes on top.
    #[serde(default = "wall_s_usual")]
    pub wall_s: u64,
}

fn wall_s_usual() -> u64 {
    WALL_S_USUAL
}

impl Budget {
    /// Returns a budget of so many generations of so many candidates, and of the usual time.
    pub const fn of(max_candidates: u32, max_generations: u32) -> Budget {
        Budget { max_candidates, max_generations, wall_s: WALL_S_USUAL }
    }

    /// Returns what may be spent where `other` has to suffice as well: the smaller of each.
    #[must_use]
    pub fn and(self, other: Budget) -> Budget {
        Budget {
            max_candidates: self.max_candidates.min(other.max_candidates),
            max_generations: self.max_generations.min(other.max_generations),
            wall_s: self.wall_s.min(other.wall_s),
        }
    }

    /// Returns whether nothing of it is left after trials that ended at these times, oldest first, as of `now_ms`; all are in
    /// milliseconds since the Unix epoch. Nothing is spent before the first has ended.
    ///
    /// A gap between two of them counts for `gap_max_s` seconds at most, where there is such a limit: a service that is lent
    /// by night spends no time by day.
    pub fn is_over(self, ended_at_ms: impl IntoIterator<Item = u64>, now_ms: u64, gap_max_s: Option<u64>) -> bool {
        let counted_ms = gap_max_s.map_or(u64::MAX, |seconds| seconds.saturating_mul(1000));
        let mut last_ms = None;
        let mut spent_ms = 0_u64;
        for at_ms in ended_at_ms.into_iter().chain([now_ms]) {
            let gap_ms = at_ms.saturating_sub(last_ms.replace(at_ms).unwrap_or(at_ms));
            spent_ms = spent_ms.saturating_add(gap_ms.min(counted_ms));
        }
        spent_ms >= self.wall_s.saturating_mul(1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: u64 = 60_000;

    fn is_over(ended: &[u64], now: u64, gap_max_s: Option<u64>) -> bool {
        let budget = Budget { wall_s: 600, ..Budget::of(12, 4) };
        budget.is_over(ended.iter().map(|minute| minute * MINUTE_MS), now * MINUTE_MS, gap_max_s)
    }

    #[test]
    fn the_time_counts_from_the_first_trial_on_whatever_came_before_it() {
        assert!(!is_over(&[], 1_000_000, None));
        assert!(!is_over(&[100], 109, None));
        assert!(is_over(&[100], 110, None));
        assert!(is_over(&[100, 101, 105], 110, None));
    }

    #[test]
    fn where_a_gap_counts_for_so_much_at_most_what_lies_between_two_nights_does_not() {
        let nights = [0, 2, 4, 1440, 1442];
        assert!(is_over(&nights, 1443, None));
        assert!(!is_over(&nights, 1443, Some(120)));
        assert!(!is_over(&nights[..4], 9999, Some(120)), "the newest gap counts for no more, either");
        assert!(is_over(&nights, 1444, Some(120)));
    }

    #[test]
    fn a_clock_that_was_set_back_spends_nothing() {
        assert!(!is_over(&[100, 50], 50, None));
    }

    #[test]
    fn of_two_budgets_the_smaller_of_each_is_left() {
        let one = Budget { max_candidates: 12, max_generations: 2, wall_s: 100 };
        let other = Budget { max_candidates: 8, max_generations: 3, wall_s: 200 };
        assert_eq!(one.and(other), Budget { max_candidates: 8, max_generations: 2, wall_s: 100 });
    }

    #[test]
    fn a_budget_of_before_there_was_a_time_has_the_usual_one() {
        let read: Budget = serde_json::from_str(r#"{"max_candidates": 12, "max_generations": 4}"#).unwrap();
        assert_eq!(read, Budget::of(12, 4));
    }
}

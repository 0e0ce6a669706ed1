//! Detection: when is a reading unlike its own past, and when is it over a limit?
//!
//! The past is judged by median and MAD, which a few wild readings cannot move, and a reading is judged before it
//! becomes part of its own past.

use std::collections::VecDeque;

use super::Config;
use crate::facts::{AnomalyKind, Objective, Reading};

/// After how many windows of withheld readings a change is the new normal.
pub const WITHHELD_WINDOWS_MAX: u32 = 10;

/// Readings beyond this magnitude are read errors; up to it, no median, spread or score overflows.
pub const MAGNITUDE_MAX: f64 = 1e100;

/// From which share of a resource on it is under pressure: a resource is there to be used, only its end is a problem.
pub const USED_HIGH_RATIO: f64 = 0.95;

/// From which share of time on that tasks stall for want of memory the memory is under pressure.
pub const STALLED_HIGH_RATIO: f64 = 0.2;

/// Below which share of its limit a resource counts as relieved.
pub const RELIEVED_RATIO: f64 = 0.95;

/// Makes the MAD of normal noise its standard deviation.
const MAD_TO_SPREAD: f64 = 1.4826;

/// The smallest spread at all, so that no division is by zero.
const SPREAD_TINY: f64 = 1e-9;

/// How far a reading is from its past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// The median of the past.
    pub expected: f64,
    /// The robust spread of the past; above 0.
    pub spread: f64,
    /// How many spreads the reading is above (or, negative, below) what was expected; finite.
    pub score: f64,
    /// How many readings the past is made of.
    pub samples: u64,
}

/// The past of one series: a bounded window of readings.
#[derive(Clone, Debug, Default)]
pub struct RobustZ {
    past: VecDeque<f64>,
    withheld: u32,
}

impl RobustZ {
    /// Returns how far `value` is from the past, without adding it; `None` while the past is too short to say, or
    /// when the value is no plausible number.
    ///
    /// The spread is never below `spread_min` (in the reading's unit) nor below `spread_min_ratio` of the median: a
    /// quiet past is not a sharp one.
    pub fn score(&self, value: f64, spread_min: f64, config: &Config) -> Option<Score> {
        if self.past.len() < config.baseline_readings_min.max(1) as usize || !is_plausible(value) {
            return None;
        }
        let expected = median(self.past.iter().copied())?;
        let deviation = median(self.past.iter().map(|past| (past - expected).abs()))?;
        let spread =
            (MAD_TO_SPREAD * deviation).max(config.spread_min_ratio * expected.abs()).max(spread_min).max(SPREAD_TINY);
        Some(Score { expected, spread, score: (value - expected) / spread, samples: self.past.len() as u64 })
    }

    /// Adds `value` to the past, unless it is withheld or no plausible number.
    ///
    /// What belongs to an incident is withheld, so that a degradation does not become the norm while it is looked
    /// into; what stays for [`WITHHELD_WINDOWS_MAX`] windows is the new normal and enters.
    pub fn remember(&mut self, value: f64, withhold: bool, config: &Config) {
        if !is_plausible(value) {
            return;
        }
        let withheld_max = config.window_readings.saturating_mul(WITHHELD_WINDOWS_MAX);
        if withhold && self.withheld < withheld_max {
            self.withheld += 1;
            return;
        }
        if !withhold {
            self.withheld = 0;
        }
        self.past.push_back(value);
        while self.past.len() > config.window_readings.max(1) as usize {
            self.past.pop_front();
        }
    }

    /// Returns how many readings the past is made of.
    pub fn len(&self) -> usize {
        self.past.len()
    }

    /// Returns whether there is no past yet.
    pub fn is_empty(&self) -> bool {
        self.past.is_empty()
    }
}

/// Returns whether `value` can be a reading at all.
pub fn is_plausible(value: f64) -> bool {
    value.is_finite() && value.abs() <= MAGNITUDE_MAX
}

/// Returns the median of `values`, the mean of the middle two when their number is even; `None` when there are none.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted = values.collect::<Vec<_>>();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted.get(middle).copied()
    } else {
        let below = sorted.get(middle.checked_sub(1)?)?;
        sorted.get(middle).map(|above| f64::midpoint(*below, *above))
    }
}

/// What one reading looks like to a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Clearly out: it may raise an incident.
    Unlike,
    /// Neither clearly out nor clearly in: it raises nothing and clears nothing.
    Between,
    /// Clearly in: it may clear an incident.
    Like,
}

/// Which way of a metric is the bad one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worse {
    /// Larger is worse: latencies, errors, queues, resources in use.
    Higher,
    /// Smaller is worse: shares of what went well or is left.
    Lower,
}

impl Worse {
    /// Returns `score` so that a positive number is worse.
    pub fn orient(self, score: f64) -> f64 {
        match self {
            Worse::Higher => score,
            Worse::Lower => -score,
        }
    }

    /// Returns what a deviation of `score` looks like; better than the past is like it.
    pub fn sight(self, score: f64, config: &Config) -> Sight {
        match self.orient(score) {
            out if out >= config.raise_at => Sight::Unlike,
            out if out >= config.clear_at => Sight::Between,
            _ => Sight::Like,
        }
    }
}

/// Returns which way of `metric` is worse, from its name and unit; `None` when neither way is.
///
/// Rates such as `tokens_per_s` follow the load, which is not the service's doing: they are not judged.
pub fn worse(metric: &str) -> Option<Worse> {
    const HIGHER: [&str; 9] =
        ["error", "fail", "refused", "reject", "timeout", "timed_out", "dropped", "preempt", "waiting"];
    const LOWER: [&str; 5] = ["hit", "free", "available", "good", "success"];
    let has = |words: &[&str]| words.iter().any(|word| metric.contains(word));
    if metric.contains("uptime") {
        None
    } else if has(&HIGHER) || metric.ends_with("_ms") || is_share_of_use(metric) {
        Some(Worse::Higher)
    } else if metric.ends_with("_ratio") && has(&LOWER) {
        Some(Worse::Lower)
    } else {
        None
    }
}

/// Returns the smallest spread that is believed of `metric`, in its unit: noise around zero is not an incident.
pub fn spread_min(metric: &str) -> f64 {
    if metric.ends_with("_ratio") {
        0.01
    } else if metric.ends_with("_ms") {
        1.0
    } else if metric.ends_with("_per_s") {
        0.1
    } else if metric.contains("waiting") {
        0.5
    } else {
        SPREAD_TINY
    }
}

fn is_share_of_use(metric: &str) -> bool {
    metric.ends_with("used_ratio") || metric.ends_with("usage_ratio") || metric == "pressure_ratio"
}

/// A line that readings should stay below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The line, in the reading's unit.
    pub max: f64,
    /// How many readings in a row must be over it.
    pub readings: u32,
    /// An objective, where the line itself is still fine, or a resource's end, where it is not.
    pub kind: AnomalyKind,
}

impl Limit {
    /// Returns the limit that `reading` is held against: the strictest objective that names it, else the end of the
    /// resource it is the use of; `None` when there is neither.
    pub fn of(reading: &Reading, objectives: &[Objective], config: &Config) -> Option<Self> {
        objectives
            .iter()
            .filter(|objective| objective.reading == reading.metric && is_plausible(objective.max))
            .min_by(|one, other| one.max.total_cmp(&other.max))
            .map(|objective| Self {
                max: objective.max,
                readings: objective.readings.max(1),
                kind: AnomalyKind::Objective,
            })
            .or_else(|| {
                let max = resource_end(reading)?;
                Some(Self { max, readings: config.raise_after.max(1), kind: AnomalyKind::Pressure })
            })
    }

    /// Returns what `value` looks like beside the limit.
    pub fn sight(&self, value: f64) -> Sight {
        match self.kind {
            AnomalyKind::Pressure if value >= self.max => Sight::Unlike,
            AnomalyKind::Pressure if value >= self.max * RELIEVED_RATIO => Sight::Between,
            AnomalyKind::Pressure => Sight::Like,
            _ if value > self.max => Sight::Unlike,
            _ => Sight::Like,
        }
    }

    /// Returns the ratio of `value` to the limit; to a limit of 0 the distance, plus 1.
    pub fn ratio(&self, value: f64) -> f64 {
        if self.max.abs() > SPREAD_TINY { value / self.max } else { 1.0 + value }
    }
}

fn resource_end(reading: &Reading) -> Option<f64> {
    match reading.metric.as_str() {
        // The GPU room has put memory, heat and throttling on one scale, where 1 is the end.
        "pressure_ratio" => Some(1.0),
        // The driver reported trouble of the card itself; errors of programs are not counted there.
        "hardware_fault" if reading.is_about_gpu() => Some(1.0),
        _ if reading.is_about_gpu() => None,
        "memory_stalled_ratio" => Some(STALLED_HIGH_RATIO),
        // A busy CPU is what a machine is bought for, and full swap harms nobody while nothing stalls for memory.
        metric if metric.contains("cpu") || metric.contains("swap") => None,
        metric => is_share_of_use(metric).then_some(USED_HIGH_RATIO),
    }
}

/// Returns which way `reading` is compared with its past; `None` when it is not.
///
/// The use of a resource is held against its end alone, and so is everything about the host and its GPUs: that they
/// are used more than before is the doing of whoever uses them, this daemon's experiments included.
pub fn compared_with_past(reading: &Reading) -> Option<Worse> {
    if reading.subject == "host" || reading.is_about_gpu() || is_share_of_use(&reading.metric) {
        return None;
    }
    worse(&reading.metric)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past_of(values: &[f64]) -> RobustZ {
        let mut past = RobustZ::default();
        for value in values {
            past.remember(*value, false, &Config::default());
        }
        past
    }

    fn reading(subject: &str, metric: &str) -> Reading {
        Reading {
            subject: subject.into(),
            metric: metric.into(),
            value: 0.0,
            samples: 1,
            at_ms: 0,
            source: "test".into(),
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn a_reading_is_scored_against_the_past_before_it_joins_it() {
        let past = past_of(&[100.0; 8]);
        let score = past.score(200.0, 0.0, &Config::default()).unwrap();
        assert_eq!(score, Score { expected: 100.0, spread: 10.0, score: 10.0, samples: 8 });
    }

    #[test]
    fn a_short_past_says_nothing() {
        assert_eq!(past_of(&[100.0; 7]).score(1000.0, 0.0, &Config::default()), None);
    }

    #[test]
    fn one_wild_reading_does_not_move_what_is_expected() {
        let score =
            past_of(&[99.0, 100.0, 101.0, 100.0, 1e9, 99.0, 101.0, 100.0]).score(100.0, 0.0, &Config::default());
        assert_eq!(score.unwrap().expected, 100.0);
    }

    #[test]
    fn readings_that_are_no_numbers_are_neither_scored_nor_remembered() {
        let mut past = past_of(&[1.0; 8]);
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e101] {
            assert_eq!(past.score(value, 0.0, &Config::default()), None);
            past.remember(value, false, &Config::default());
        }
        assert_eq!(past.len(), 8);
    }

    #[test]
    fn what_is_withheld_long_enough_is_the_new_normal() {
        let config = Config::default();
        let mut past = past_of(&[100.0; 60]);
        for _ in 0..config.window_readings * WITHHELD_WINDOWS_MAX {
            past.remember(500.0, true, &config);
            assert_eq!(past.score(100.0, 0.0, &config).unwrap().expected, 100.0);
        }
        for _ in 0..config.window_readings {
            past.remember(500.0, true, &config);
        }
        assert_eq!(past.score(100.0, 0.0, &config).unwrap().expected, 500.0);
    }

    #[test]
    fn the_past_is_never_longer_than_its_window() {
        assert_eq!(past_of(&[1.0; 500]).len(), 60);
    }

    #[test]
    fn each_metric_is_worse_in_the_way_its_name_says() {
        let table = [
            ("e2e_p95_ms", Some(Worse::Higher)),
            ("ttft_p50_ms", Some(Worse::Higher)),
            ("error_ratio", Some(Worse::Higher)),
            ("requests_waiting", Some(Worse::Higher)),
            ("preemptions_per_s", Some(Worse::Higher)),
            ("kv_used_ratio", Some(Worse::Higher)),
            ("slo_good_ratio", Some(Worse::Lower)),
            ("prefix_cache_hit_ratio", Some(Worse::Lower)),
            ("tokens_per_s", None),
            ("requests_per_s", None),
            ("requests_running", None),
            ("uptime_ms", None),
            ("memory_total_bytes", None),
            ("", None),
        ];
        for (metric, expected) in table {
            assert_eq!(worse(metric), expected, "{metric}");
        }
    }

    #[test]
    fn host_and_gpus_are_held_against_their_ends_and_not_against_their_past() {
        let table = [
            ("lab", "e2e_p95_ms", None, Some(Worse::Higher)),
            ("lab", "kv_usage_ratio", Some(0.95), None),
            ("host", "memory_used_ratio", Some(0.95), None),
            ("host", "disk_used_ratio", Some(0.95), None),
            ("host", "memory_stalled_ratio", Some(0.2), None),
            ("host", "cpu_used_ratio", None, None),
            ("host", "cpu_stalled_ratio", None, None),
            ("host", "swap_used_ratio", None, None),
            ("host", "load_per_core", None, None),
            ("gpu:0123abcd", "pressure_ratio", Some(1.0), None),
            ("gpu:0123abcd", "memory_used_ratio", None, None),
            ("gpu:0123abcd", "temperature_celsius", None, None),
            ("gpu:0123abcd", "throttled", None, None),
            ("gpu:0123abcd", "hardware_fault", Some(1.0), None),
            ("lab", "hardware_fault", None, None),
        ];
        for (subject, metric, max, past) in table {
            let reading = reading(subject, metric);
            let limit = Limit::of(&reading, &[], &Config::default());
            assert_eq!(limit.map(|limit| limit.max), max, "{subject} {metric}");
            assert_eq!(compared_with_past(&reading), past, "{subject} {metric}");
        }
    }

    #[test]
    fn an_objective_holds_at_its_limit_and_a_resource_does_not() {
        let objective = Limit { max: 400.0, readings: 1, kind: AnomalyKind::Objective };
        assert_eq!(objective.sight(400.0), Sight::Like);
        assert_eq!(objective.sight(400.1), Sight::Unlike);
        let resource = Limit { max: 1.0, readings: 1, kind: AnomalyKind::Pressure };
        assert_eq!(resource.sight(1.0), Sight::Unlike);
        assert_eq!(resource.sight(0.96), Sight::Between);
        assert_eq!(resource.sight(0.9), Sight::Like);
    }

    #[test]
    fn the_strictest_objective_counts_and_goes_before_the_resource() {
        let objective = |max: f64| Objective { reading: "kv_used_ratio".into(), max, readings: 2 };
        let objectives = [objective(0.8), objective(0.5), objective(f64::NAN)];
        let limit = Limit::of(&reading("lab", "kv_used_ratio"), &objectives, &Config::default()).unwrap();
        assert_eq!(limit, Limit { max: 0.5, readings: 2, kind: AnomalyKind::Objective });
    }

    proptest! {
        #[test]
        fn scores_are_finite_and_grow_with_the_reading(
            past in prop::collection::vec(-1e100_f64..1e100, 8..80),
            one in -1e100_f64..1e100,
            other in -1e100_f64..1e100,
        ) {
            let past = past_of(&past);
            let (low, high) = (one.min(other), one.max(other));
            let low = past.score(low, 0.0, &Config::default()).unwrap();
            let high = past.score(high, 0.0, &Config::default()).unwrap();
            prop_assert!(low.score.is_finite() && high.score.is_finite() && low.spread.is_finite());
            prop_assert!(low.spread > 0.0 && low.score <= high.score);
        }

        #[test]
        fn any_reading_at_all_is_taken_without_a_panic(values in prop::collection::vec(any::<f64>(), 0..80)) {
            let mut past = RobustZ::default();
            for value in values {
                past.score(value, 0.0, &Config::default());
                past.remember(value, value > 0.0, &Config::default());
            }
            prop_assert!(past.len() <= 60);
        }
    }
}

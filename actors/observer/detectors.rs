//! Detection: which readings are looked at, which way of each is the bad one, and where a resource ends.
//!
//! Whether a reading is unlike its own past is for the detectors beside the loop to say (`kloros_detection`); what is here
//! says whether that matters to anybody.

use serde::{Deserialize, Serialize};

use super::{Config, incident::Sight};
use crate::facts::{AnomalyKind, Objective, Reading};

/// Readings beyond this magnitude are read errors; the detectors tell none apart beyond it.
pub const MAGNITUDE_MAX: f64 = 1e30;

/// From which share of a resource on it is under pressure: a resource is there to be used, only its end is a problem.
pub const USED_HIGH_RATIO: f64 = 0.95;

/// From which share of time on that tasks stall for want of memory the memory is under pressure.
pub const STALLED_HIGH_RATIO: f64 = 0.2;

/// From which share of packets on that were damaged a network is in trouble.
pub const NETWORK_ERRORS_HIGH_RATIO: f64 = 0.01;

/// From which share of packets on that were dropped it is. Some cards count as dropped what nobody on the machine asked for.
pub const NETWORK_DROPPED_HIGH_RATIO: f64 = 0.05;

/// Below which share of its limit a resource counts as relieved.
pub const RELIEVED_RATIO: f64 = 0.95;

/// The smallest distance at all that two readings are told apart by.
const TINY: f64 = 1e-9;

/// The readings that say how much is asked of a service: what came in, as far as it says; the metric that its owner named for that;
/// and what it answered, which falls short of that where it is ill.
/// What conversations through the daemon's own endpoint ask is told beside what a model server tells of itself.
const LOADS: [&str; 7] = [
    "arrivals_per_s",
    "asked_per_s",
    "asked",
    "requests_per_s",
    "tokens_per_s",
    "chat_requests_per_s",
    "chat_tokens_per_s",
];

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
}

/// Returns which way of `metric` is worse, from its name and unit; `None` when neither way is.
///
/// Rates such as `tokens_per_s` follow the load, which is not the service's doing: they are not judged.
pub fn worse(metric: &str) -> Option<Worse> {
    const HIGHER: [&str; 10] =
        ["error", "fail", "refused", "reject", "timeout", "timed_out", "dropped", "preempt", "waiting", "repetition"];
    const LOWER: [&str; 5] = ["hit", "free", "available", "good", "success"];
    let has = |words: &[&str]| words.iter().any(|word| metric.contains(word));
    if metric.contains("uptime") {
        None
    } else if has(&HIGHER) || metric.ends_with("_ms") || metric == "tree_memory_ratio" || is_share_of_use(metric) {
        Some(Worse::Higher)
    } else if metric.ends_with("_ratio") && has(&LOWER) {
        Some(Worse::Lower)
    } else {
        None
    }
}

/// Returns how far above what was expected a reading of `metric` must be to matter to anybody, in its unit: what is clear
/// beyond doubt may still be too small to be worth an experiment.
pub fn margin(metric: &str, expected: f64, config: &Config) -> f64 {
    let least = if metric.ends_with("_ratio") {
        0.06
    } else if metric.ends_with("_ms") {
        5.0
    } else if metric.ends_with("_per_s") {
        0.5
    } else if metric.contains("waiting") {
        3.0
    } else {
        TINY
    };
    (config.matters_from * expected.abs()).max(least)
}

/// Returns whether `reading` says how much is asked of a service.
pub fn is_load(reading: &Reading) -> bool {
    reading.subject != "host" && !reading.is_about_gpu() && LOADS.contains(&reading.metric.as_str())
}

fn is_share_of_use(metric: &str) -> bool {
    metric.ends_with("used_ratio") || metric.ends_with("usage_ratio") || metric == "pressure_ratio"
}

/// A line that readings should stay below.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The line, in the reading's unit.
    pub max: f64,
    /// How many readings in a row must be over it.
    pub readings: u32,
    /// For how long they must be, in milliseconds.
    pub for_ms: u64,
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
                for_ms: 0,
                kind: AnomalyKind::Objective,
            })
            .or_else(|| {
                // Somebody else promised, and says that it is broken.
                let kind = AnomalyKind::Objective;
                is_alert(reading).then_some(Self { max: 0.0, readings: 1, for_ms: 0, kind })
            })
            .or_else(|| {
                let max = resource_end(reading)?;
                // A death is over when it is seen, and has happened all the same.
                let for_ms = if reading.metric.ends_with("oom_kills") { 0 } else { millis(config.for_s) };
                Some(Self { max, readings: 1, for_ms, kind: AnomalyKind::Pressure })
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
        if self.max.abs() > TINY { value / self.max } else { 1.0 + value }
    }
}

/// Returns so many seconds in milliseconds; a number that is none is nought.
pub fn millis(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0) as u64
}

/// Returns whether `reading` is an alert that somebody else raised: 1 while it fires, then 0, and only when that changes.
pub fn is_alert(reading: &Reading) -> bool {
    reading.metric.starts_with("alert_")
}

fn resource_end(reading: &Reading) -> Option<f64> {
    match reading.metric.as_str() {
        // The GPU room has put memory, heat and throttling on one scale, where 1 is the end.
        "pressure_ratio" => Some(1.0),
        "memory_pressure_ratio" if reading.is_about_gpu() => Some(1.0),
        // The driver reported trouble of the card itself; errors of programs are not counted there.
        "hardware_fault" if reading.is_about_gpu() => Some(1.0),
        _ if reading.is_about_gpu() => None,
        "memory_stalled_ratio" => Some(STALLED_HIGH_RATIO),
        // The host has put how slow a disk is for what it is on a scale of which 1 is the end.
        "disk_slow_ratio" if reading.subject == "host" => Some(1.0),
        "network_error_ratio" if reading.subject == "host" => Some(NETWORK_ERRORS_HIGH_RATIO),
        "network_dropped_ratio" if reading.subject == "host" => Some(NETWORK_DROPPED_HIGH_RATIO),
        // Somebody was killed for want of memory.
        "memory_oom_kills" => Some(1.0),
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
    if is_alert(reading) || reading.subject == "host" || reading.is_about_gpu() || is_share_of_use(&reading.metric) {
        return None;
    }
    worse(&reading.metric)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_matters_is_a_share_of_what_was_expected_and_never_less_than_noise_in_its_unit() {
        let table = [
            ("e2e_p95_ms", 100.0, 20.0),
            ("e2e_p95_ms", 1.0, 5.0),
            ("error_ratio", 0.0, 0.06),
            ("slo_good_ratio", 1.0, 0.2),
            ("waiting", 0.0, 3.0),
            ("preemptions_per_s", 0.0, 0.5),
            ("something", 0.0, 1e-9),
        ];
        for (metric, expected, least) in table {
            assert!((margin(metric, expected, &Config::default()) - least).abs() < 1e-12, "{metric} {expected}");
        }
    }

    #[test]
    fn each_metric_is_worse_in_the_way_its_name_says() {
        let table = [
            ("e2e_p95_ms", Some(Worse::Higher)),
            ("ttft_p50_ms", Some(Worse::Higher)),
            ("error_ratio", Some(Worse::Higher)),
            ("chat_error_ratio", Some(Worse::Higher)),
            ("chat_repetition_ratio", Some(Worse::Higher)),
            ("chat_e2e_p95_ms", Some(Worse::Higher)),
            ("chat_context_hit_ratio", Some(Worse::Lower)),
            ("chat_tokens_per_s", None),
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
            ("host", "group_memory_used_ratio", Some(0.95), None),
            ("host", "memory_oom_kills", Some(1.0), None),
            ("host", "disk_slow_ratio", Some(1.0), None),
            ("host", "disk_await_s", None, None),
            ("host", "disk_busy_ratio", None, None),
            ("host", "network_used_ratio", Some(0.95), None),
            ("host", "network_error_ratio", Some(0.01), None),
            ("host", "network_dropped_ratio", Some(0.05), None),
            ("lab", "memory_oom_kills", Some(1.0), None),
            ("lab", "group_memory_used_ratio", Some(0.95), None),
            ("lab", "memory_stalled_ratio", Some(0.2), None),
            ("lab", "restarts_per_h", None, None),
            ("lab", "tree_memory_ratio", None, Some(Worse::Higher)),
            ("lab", "tree_cpu_ratio", None, None),
            ("host", "cpu_used_ratio", None, None),
            ("host", "cpu_stalled_ratio", None, None),
            ("host", "swap_used_ratio", None, None),
            ("host", "load_per_core", None, None),
            ("gpu:0123abcd", "pressure_ratio", Some(1.0), None),
            ("gpu:0123abcd", "memory_pressure_ratio", Some(1.0), None),
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
        let objective = Limit { max: 400.0, readings: 1, for_ms: 0, kind: AnomalyKind::Objective };
        assert_eq!(objective.sight(400.0), Sight::Like);
        assert_eq!(objective.sight(400.1), Sight::Unlike);
        let resource = Limit { max: 1.0, readings: 1, for_ms: 0, kind: AnomalyKind::Pressure };
        assert_eq!(resource.sight(1.0), Sight::Unlike);
        assert_eq!(resource.sight(0.96), Sight::Between);
        assert_eq!(resource.sight(0.9), Sight::Like);
    }

    #[test]
    fn the_strictest_objective_counts_and_goes_before_the_resource() {
        let objective = |max: f64| Objective { reading: "kv_used_ratio".into(), max, readings: 2 };
        let objectives = [objective(0.8), objective(0.5), objective(f64::NAN)];
        let limit = Limit::of(&reading("lab", "kv_used_ratio"), &objectives, &Config::default()).unwrap();
        assert_eq!(limit, Limit { max: 0.5, readings: 2, for_ms: 0, kind: AnomalyKind::Objective });
    }
}

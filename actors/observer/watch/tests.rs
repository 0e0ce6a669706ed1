//! The watch: what it makes of readings, one second apart.

use proptest::prelude::*;

use super::*;
use crate::{
    facts::{DeploymentId, Metrics, Reason, Verdict},
    observer::saved::{decode, encode},
};

const STEP_MS: u64 = 1000;

/// Two minutes of warm-up, and some readings more.
const LEARNED: u32 = 200;

/// A watch with its own clock, one step a batch.
struct Bench {
    watch: Watch,
    now_ms: u64,
    objectives: Vec<Objective>,
    config: Config,
}

impl Bench {
    fn new() -> Self {
        Self { watch: Watch::default(), now_ms: 1_000_000, objectives: Vec::new(), config: Config::default() }
    }

    fn with_objective(max: f64) -> Self {
        let objectives = vec![Objective { reading: "e2e_p95_ms".into(), max, readings: 3 }];
        Self { objectives, ..Self::new() }
    }

    /// Returns the anomalies of one batch of readings.
    fn batch(&mut self, readings: &[(&str, &str, f64)]) -> Vec<Anomaly> {
        self.now_ms += STEP_MS;
        let at_ms = self.now_ms;
        let readings: Vec<Reading> =
            readings.iter().map(|(subject, metric, value)| reading(subject, metric, *value, at_ms)).collect();
        let now = Now { ms: at_ms, utc_offset_s: 0 };
        self.watch.read(&readings, |_| &self.objectives, &self.config, now)
    }

    /// Returns the anomalies of so many batches in which each metric of the lab is about its value.
    fn lab(&mut self, metrics: &[(&str, f64)], batches: u32) -> Vec<Anomaly> {
        (0..batches)
            .flat_map(|_| {
                let wobble = 1.0 + 0.04 * noise(self.now_ms);
                let batch: Vec<_> = metrics.iter().map(|(metric, value)| ("lab", *metric, value * wobble)).collect();
                self.batch(&batch)
            })
            .collect()
    }

    /// Returns the anomalies of so many hours, one batch each ten seconds, in which the latency is what `value` says of the hour.
    fn hours(&mut self, hours: u32, value: impl Fn(f64) -> f64) -> Vec<Anomaly> {
        self.config.sample_every_s = 10.0;
        let began_ms = self.now_ms;
        (0..hours * 360)
            .flat_map(|_| {
                self.now_ms += 10_000 - STEP_MS;
                let hour = (self.now_ms - began_ms) as f64 / 3_600_000.0;
                self.latency(value(hour), 1)
            })
            .collect()
    }

    fn latency(&mut self, value: f64, batches: u32) -> Vec<Anomaly> {
        self.lab(&[("e2e_p95_ms", value)], batches)
    }
}

/// Returns noise that is the same each time, from -1 to 1.
fn noise(seed: u64) -> f64 {
    let bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
}

fn reading(subject: &str, metric: &str, value: f64, at_ms: u64) -> Reading {
    Reading {
        subject: subject.into(),
        metric: metric.into(),
        value,
        samples: 10,
        at_ms,
        source: "http://127.0.0.1:1/metrics".into(),
    }
}

fn lesson(outcome: Ruled) -> Lesson {
    let verdict = Verdict {
        deployment: DeploymentId::new("d-1"),
        cycle: CycleId::new("c-1"),
        experiment: "x".into(),
        domain: "lab".into(),
        question: None,
        hypothesis: None,
        changes: BTreeMap::new(),
        outcome,
        reason: Reason::Improved,
        improvement: None,
        before: Metrics::new(),
        after: Metrics::new(),
        blocks: 6,
        samples: 100,
        runs: 0,
        baseline: None,
        at_ms: 0,
    };
    Lesson {
        cycle: CycleId::new("c-1"),
        domain: "lab".into(),
        question: None,
        hypothesis: None,
        fingerprint: String::new(),
        verdict,
        interest_change: 0.0,
        rest_until_ms: 0,
        avoid: false,
        says: String::new(),
    }
}

fn metrics(anomalies: &[Anomaly]) -> Vec<&str> {
    anomalies.iter().map(|anomaly| anomaly.metric.as_str()).collect()
}

#[test]
fn one_degradation_is_told_once_and_within_seconds() {
    let mut bench = Bench::new();
    assert_eq!(bench.latency(100.0, LEARNED), []);
    let began_ms = bench.now_ms;
    let told = bench.latency(300.0, 120);
    assert_eq!(metrics(&told), ["e2e_p95_ms"]);
    let anomaly = &told[0];
    assert!((250.0..350.0).contains(&anomaly.observed) && (90.0..110.0).contains(&anomaly.expected), "{anomaly:?}");
    assert_eq!((anomaly.kind, anomaly.depth), (AnomalyKind::Deviation, 0));
    assert!(anomaly.score > 10.0 && anomaly.spread > 0.0);
    assert!(anomaly.at_ms - began_ms <= 10_000, "after {} ms", anomaly.at_ms - began_ms);
}

#[test]
fn one_wild_reading_is_no_incident() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    for _ in 0..10 {
        assert_eq!(bench.latency(900.0, 1), []);
        assert_eq!(bench.latency(100.0, 20), []);
    }
}

#[test]
fn what_is_unlike_the_past_beyond_doubt_and_too_small_to_matter_is_not_told() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    assert_eq!(bench.latency(112.0, 300), []);
}

#[test]
fn an_incident_that_goes_on_is_told_again_when_its_repeat_time_is_over() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    let told = bench.latency(300.0, 700);
    assert_eq!(told.len(), 2);
    assert_eq!(told[1].at_ms - told[0].at_ms, 600_000);
    assert_eq!(told[0].incident, told[1].incident);
    assert_ne!(told[0].cycle, told[1].cycle);
}

/// Lesson 24: what comes and goes is one trouble, whatever values it has; lesson 19: it is not told again and again.
#[test]
fn lesson_19_a_trouble_that_comes_and_goes_is_told_once_in_its_repeat_time() {
    let mut bench = Bench::with_objective(400.0);
    bench.latency(100.0, LEARNED);
    let told: Vec<Anomaly> = (0..8)
        .flat_map(|round| [bench.latency(800.0 + 40.0 * f64::from(round), 20), bench.latency(100.0, 40)].concat())
        .collect();
    assert_eq!(told.len(), 1, "{:?}", metrics(&told));
}

#[test]
fn an_incident_is_over_only_after_all_was_well_for_long_enough() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    bench.latency(300.0, 10);
    assert_eq!(bench.watch.open(), 1);
    bench.latency(100.0, 25);
    assert_eq!(bench.watch.open(), 1);
    bench.latency(300.0, 5);
    bench.latency(100.0, 25);
    assert_eq!(bench.watch.open(), 1);
    bench.latency(100.0, 10);
    assert_eq!(bench.watch.open(), 0);
}

#[test]
fn what_does_not_go_away_is_the_new_normal() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    bench.latency(300.0, 3700);
    assert_eq!(bench.watch.open(), 0);
    assert_eq!(bench.latency(300.0, 1000), []);
}

#[test]
fn better_than_the_past_is_no_incident_and_becomes_the_past() {
    let mut bench = Bench::new();
    bench.latency(300.0, LEARNED);
    assert_eq!(bench.latency(100.0, 1000), []);
    assert_eq!(bench.latency(300.0, 30).len(), 1);
}

/// What is usual of a minute goes along with what creeps: a service that took twice as long in the evening was never told of.
#[test]
fn what_becomes_worse_over_hours_is_told_while_it_is_news() {
    let leak = |hours: f64| move |hour: f64| 100.0 * (1.0 + ((hour - 30.0) / hours).clamp(0.0, 1.0));
    for hours in [3.0, 10.0] {
        let mut bench = Bench::new();
        let began_ms = bench.now_ms + 30 * 3_600_000;
        let told = bench.hours(60, leak(hours));
        assert!(!told.is_empty(), "twice as slow within {hours} hours");
        let after_h = (told[0].at_ms - began_ms) as f64 / 3_600_000.0;
        assert!((0.0..hours * 0.5).contains(&after_h), "twice as slow within {hours} hours: after {after_h}");
        assert!((95.0..115.0).contains(&told[0].expected) && told[0].observed > 115.0, "{:?}", told[0]);
        let times: Vec<u64> = told.iter().map(|anomaly| anomaly.at_ms - began_ms).collect();
        assert!(times.last().unwrap() - times[0] <= 3_600_000, "told while it is news: {times:?}");
    }
    assert_eq!(Bench::new().hours(72, |_| 100.0), []);
}

/// A detector calls as much again no news for up to forty warm-ups; the watch does not.
#[test]
fn a_fault_that_comes_again_is_told_again_whenever_that_is() {
    for gap in [620, 1500, 3000, 5000, 9000] {
        let mut bench = Bench::new();
        bench.latency(100.0, 400);
        assert_eq!(bench.latency(300.0, 30).len(), 1);
        assert_eq!(bench.latency(100.0, gap), [], "{gap}");
        assert_eq!(bench.latency(300.0, 30).len(), 1, "{gap}");
    }
}

/// What was seen at once for one cause in the demonstration, told thrice then.
#[test]
fn series_of_one_service_that_go_out_together_are_one_incident_with_its_evidence() {
    let mut bench = Bench::new();
    let quiet = [("waiting", 0.0), ("ttft_p95_ms", 95.0), ("e2e_p50_ms", 400.0), ("error_ratio", 0.0)];
    let busy = [("waiting", 9.0), ("ttft_p95_ms", 2395.0), ("e2e_p50_ms", 1625.0), ("error_ratio", 0.0)];
    bench.lab(&quiet, LEARNED);
    let told = bench.lab(&busy, 60);
    assert_eq!(told.len(), 1, "{:?}", metrics(&told));
    let mut all: Vec<&str> = told[0].evidence.iter().map(|sign| sign.metric.as_str()).collect();
    all.push(&told[0].metric);
    all.sort_unstable();
    assert_eq!(all, ["e2e_p50_ms", "ttft_p95_ms", "waiting"]);
    assert!(told[0].metric.ends_with("_ms"), "latency matters before the queue behind it");
}

/// What never happened has no spread: that it happens is beyond all measure.
#[test]
fn what_was_nought_all_the_time_and_is_not_any_more_is_told() {
    for (metric, calm) in [("chat_repetition_ratio", 120), ("chat_repetition_ratio", 250), ("error_ratio", 120)] {
        let mut bench = Bench::new();
        let mut batches = |value: f64, batches: u32| -> Vec<Anomaly> {
            (0..batches).flat_map(|_| bench.batch(&[("lab", metric, value)])).collect()
        };
        assert_eq!(batches(0.0, calm), []);
        let told = batches(0.5, 20);
        assert_eq!(metrics(&told), [metric], "after {calm} calm seconds");
        assert_eq!((told[0].observed, told[0].expected), (0.5, 0.0));
    }
}

#[test]
fn another_kind_of_trouble_much_later_is_another_incident() {
    let mut bench = Bench::new();
    bench.lab(&[("e2e_p95_ms", 100.0), ("error_ratio", 0.0)], LEARNED);
    assert_eq!(metrics(&bench.lab(&[("e2e_p95_ms", 300.0), ("error_ratio", 0.0)], 90)), ["e2e_p95_ms"]);
    assert_eq!(metrics(&bench.lab(&[("e2e_p95_ms", 300.0), ("error_ratio", 0.5)], 90)), ["error_ratio"]);
}

#[test]
fn a_breached_objective_is_told_without_any_past_and_before_what_deviates() {
    let mut bench = Bench::with_objective(400.0);
    assert_eq!(bench.latency(390.0, 5), []);
    let told = bench.lab(&[("e2e_p95_ms", 800.0), ("waiting", 50.0)], 20);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].expected), (AnomalyKind::Objective, 400.0));
    assert!((1.9..2.1).contains(&told[0].score));
}

/// "It is 390, where its objective allows 400" was said of a service that had just been at 800.
#[test]
fn a_breach_is_told_as_what_it_was_at_worst_also_when_it_has_let_up_by_then() {
    let mut bench = Bench::with_objective(400.0);
    let told: Vec<Anomaly> = [bench.latency(800.0, 4), bench.latency(390.0, 40)].concat();
    assert_eq!(told.len(), 1);
    assert!((760.0..=840.0).contains(&told[0].observed), "{told:?}");
    assert!((1.9..=2.1).contains(&told[0].score), "{told:?}");
}

#[test]
fn in_a_surge_of_load_a_deviation_is_explained_and_a_breached_objective_is_not() {
    let run = |objective: f64| {
        let mut bench = Bench::with_objective(objective);
        bench.lab(&[("requests_per_s", 10.0), ("e2e_p95_ms", 100.0)], LEARNED);
        let told = bench.lab(&[("requests_per_s", 40.0), ("e2e_p95_ms", 300.0)], 200);
        (told, bench.watch.counted().explained)
    };
    let (told, explained) = run(1000.0);
    assert_eq!((told.len(), explained > 0), (0, true));
    let (told, _) = run(200.0);
    assert_eq!(told.len(), 1);
    let surge = told[0].surge.as_ref().unwrap();
    assert_eq!(surge.metric, "requests_per_s");
    assert!((35.0..45.0).contains(&surge.observed) && (9.0..11.0).contains(&surge.expected), "{surge:?}");
}

#[test]
fn less_load_and_as_much_load_as_ever_explain_nothing() {
    for load in [2.0, 10.0] {
        let mut bench = Bench::new();
        bench.lab(&[("requests_per_s", 10.0), ("e2e_p95_ms", 100.0)], LEARNED);
        let told = bench.lab(&[("requests_per_s", load), ("e2e_p95_ms", 300.0)], 30);
        assert_eq!((told.len(), told[0].surge.is_none()), (1, true), "load {load}");
    }
}

#[test]
fn a_load_that_stays_is_the_usual_one() {
    let mut bench = Bench::new();
    bench.lab(&[("requests_per_s", 10.0)], LEARNED);
    bench.lab(&[("requests_per_s", 40.0)], 100);
    assert!(bench.watch.surge("lab").is_some());
    bench.lab(&[("requests_per_s", 40.0)], 3600);
    assert!(bench.watch.surge("lab").is_none());
}

#[test]
fn in_a_time_of_silence_it_learns_and_tells_afterwards_what_goes_on() {
    let mut bench = Bench::new();
    // The clock stands at 00:16 of a Thursday.
    bench.config.silence = vec!["lab: thu 00:00-00:25".parse().unwrap()];
    bench.latency(100.0, LEARNED);
    assert_eq!(bench.latency(300.0, 200), []);
    assert_eq!((bench.watch.open(), bench.watch.counted().silenced), (1, 1));
    let told = bench.latency(300.0, 200);
    assert_eq!((told.len(), told[0].at_ms), (1, 25 * 60_000));
    let mut other = Bench::new();
    other.config.silence = vec!["tts: thu".parse().unwrap()];
    other.latency(100.0, LEARNED);
    assert_eq!(other.latency(300.0, 20).len(), 1);
}

#[test]
fn a_gpu_at_its_end_is_under_pressure_and_gpus_are_told_apart() {
    let mut bench = Bench::new();
    let mut told = Vec::new();
    for _ in 0..10 {
        bench.now_ms += STEP_MS;
        let of = |source: &str, value| Reading {
            source: source.into(),
            ..reading("gpu", "pressure_ratio", value, bench.now_ms)
        };
        let now = Now { ms: bench.now_ms, utc_offset_s: 0 };
        told.extend(bench.watch.read(&[of("nvml:GPU-a", 1.05), of("nvml:GPU-b", 0.5)], |_| &[], &bench.config, now));
    }
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].kind, told[0].source.as_str()), (AnomalyKind::Pressure, "nvml:GPU-a"));
}

#[test]
fn an_alert_of_somebody_else_is_told_once_until_it_is_over_or_was_not_heard_of_for_long() {
    let mut bench = Bench::new();
    let mut told = bench.batch(&[("lab", "alert_high_latency", 1.0)]);
    told.extend(bench.latency(100.0, 20));
    assert_eq!(metrics(&told), ["alert_high_latency"]);
    assert_eq!((told[0].kind, told[0].observed, told[0].expected), (AnomalyKind::Objective, 1.0, 0.0));
    assert_eq!(told[0].incident, identity("lab", Trouble::Latency));
    assert_eq!(bench.latency(100.0, 650).len(), 1, "it goes on");
    bench.batch(&[("lab", "alert_high_latency", 0.0)]);
    bench.latency(100.0, 1);
    assert_eq!(bench.watch.open(), 0);
    bench.batch(&[("lab", "alert_high_latency", 1.0)]);
    assert_eq!(bench.latency(100.0, 2).len() + bench.watch.open(), 1);
    bench.now_ms += 3_600_000;
    assert_eq!(bench.latency(100.0, 5), []);
    assert_eq!(bench.watch.open(), 0, "nobody says any more that it fires");
}

/// An Alertmanager says each four hours that an alert goes on. It was told once and never again, because nothing had ended.
#[test]
fn what_was_not_heard_of_for_long_and_goes_on_is_told_again() {
    let mut bench = Bench::with_objective(400.0);
    for repeat in 1..=3 {
        let mut told = bench.batch(&[("lab", "alert_high_latency", 1.0)]);
        told.extend(bench.latency(100.0, 5));
        assert_eq!(metrics(&told), ["alert_high_latency"], "repeat {repeat}");
        bench.now_ms += 4 * 3_600_000;
        assert_eq!((bench.latency(100.0, 2), bench.watch.open()), (Vec::new(), 0));
    }
    // So is a promise that is still broken when its service is heard of again.
    for repeat in 1..=2 {
        assert_eq!(metrics(&bench.latency(800.0, 20)), ["e2e_p95_ms"], "repeat {repeat}");
        bench.now_ms += 3_600_000;
    }
    // A service that is well when it is heard of again is in no trouble.
    bench.now_ms += 3_600_000;
    assert_eq!(bench.latency(100.0, 20), []);
    // And what deviates is no new normal for having stayed while nobody heard of it.
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    for repeat in 1..=2 {
        assert_eq!(bench.latency(300.0, 20).len(), 1, "repeat {repeat}");
        bench.now_ms += 2 * 3_600_000;
    }
}

#[test]
fn somebody_who_was_killed_for_want_of_memory_is_told_at_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.batch(&[("host", "memory_oom_kills", 0.0)]), []);
    bench.batch(&[("host", "memory_oom_kills", 2.0)]);
    let told: Vec<Anomaly> = (0..5).flat_map(|_| bench.batch(&[("host", "memory_oom_kills", 0.0)])).collect();
    assert_eq!(metrics(&told), ["memory_oom_kills"]);
}

#[test]
fn what_is_short_on_a_host_is_an_incident_each() {
    let mut bench = Bench::new();
    let told: Vec<Anomaly> = (0..10)
        .flat_map(|_| bench.batch(&[("host", "memory_stalled_ratio", 0.5), ("host", "disk_used_ratio", 0.99)]))
        .collect();
    assert_eq!(metrics(&told), ["memory_stalled_ratio", "disk_used_ratio"]);
}

#[test]
fn the_same_reading_seen_twice_counts_once() {
    let mut bench = Bench::with_objective(200.0);
    let stale = [reading("lab", "e2e_p95_ms", 300.0, bench.now_ms)];
    for _ in 0..50 {
        bench.now_ms += STEP_MS;
        let now = Now { ms: bench.now_ms, utc_offset_s: 0 };
        assert_eq!(bench.watch.read(&stale, |_| &bench.objectives, &bench.config, now), []);
    }
}

#[test]
fn readings_that_are_no_numbers_and_turns_without_a_reading_change_nothing() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    let before = bench.watch.clone();
    for value in [f64::NAN, f64::INFINITY, 1e31] {
        assert_eq!(bench.batch(&[("lab", "e2e_p95_ms", value)]), []);
    }
    assert_eq!(bench.batch(&[]), []);
    assert_eq!(bench.watch, before);
}

/// Lessons 18 and 26: a flood about six causes is six anomalies, and what is remembered of it does not grow.
#[test]
fn lesson_18_a_hundred_thousand_bad_readings_in_a_minute_about_six_causes_are_six_anomalies() {
    let mut bench = Bench::with_objective(400.0);
    let causes = ["a", "b", "c", "d", "e", "f"];
    let (mut told, mut sizes) = (Vec::new(), Vec::new());
    for number in 0..100_000_u64 {
        // A new moment and a new value each time; a minute in all.
        let now_ms = 1_000_000 + number * 60 / 100;
        let subject = causes[number as usize % causes.len()];
        let bad = reading(subject, "e2e_p95_ms", 500.0 + number as f64, now_ms * 1000 + number);
        let now = Now { ms: now_ms, utc_offset_s: 0 };
        told.extend(bench.watch.read(&[bad], |_| &bench.objectives, &bench.config, now));
        if number % 20_000 == 19_999 {
            sizes.push(encode(&bench.watch, 1).unwrap().len());
        }
    }
    let mut subjects: Vec<&str> = told.iter().map(|anomaly| anomaly.subject.as_str()).collect();
    subjects.sort_unstable();
    assert_eq!(subjects, causes);
    assert!(sizes.iter().all(|size| size.abs_diff(sizes[0]) < 4000), "{sizes:?}");
}

/// Lesson 22: what follows the daemon's own doing is marked as such.
#[test]
fn lesson_22_an_anomaly_soon_after_the_daemons_own_change_is_deeper() {
    let mut bench = Bench::new();
    bench.latency(100.0, LEARNED);
    assert_eq!(bench.latency(300.0, 10)[0].depth, 0);
    bench.now_ms += 600_000;
    for depth in 1..=3 {
        bench.latency(100.0, LEARNED);
        bench.watch.learn(&lesson(Ruled::Neutral), &bench.config, bench.now_ms);
        bench.watch.told.clear();
        bench.latency(100.0, LEARNED);
        assert_eq!(bench.latency(300.0, 10)[0].depth, depth);
    }
    bench.latency(100.0, 60);
    bench.now_ms += 600_000;
    bench.latency(100.0, LEARNED);
    assert_eq!(bench.latency(300.0, 10)[0].depth, 0);
}

/// Candidates of a trial in place follow each other within the repeat time.
#[test]
fn a_promise_that_each_of_two_changes_of_ours_breaks_is_told_of_each() {
    let mut bench = Bench::with_objective(400.0);
    bench.latency(100.0, 30);
    for depth in [1, 2] {
        bench.watch.stir("lab", &bench.config, bench.now_ms);
        let told = bench.latency(800.0, 40);
        assert_eq!(metrics(&told), ["e2e_p95_ms"], "change {depth}");
        assert_eq!((told[0].kind, told[0].depth), (AnomalyKind::Objective, depth));
    }
    bench.watch.stir("lab", &bench.config, bench.now_ms);
    assert_eq!(bench.latency(100.0, 40), [], "the third keeps it");
}

#[test]
fn a_promise_that_a_change_of_ours_breaks_is_told_in_a_time_of_silence() {
    let mut bench = Bench::with_objective(400.0);
    bench.config.silence = vec!["mon-sun".parse().unwrap()];
    bench.latency(100.0, LEARNED);
    assert_eq!(bench.latency(800.0, 20), [], "nobody wants to hear of it");
    bench.latency(100.0, 60);
    bench.watch.stir("lab", &bench.config, bench.now_ms);
    assert_eq!(metrics(&bench.latency(800.0, 20)), ["e2e_p95_ms"]);
    // What deviates and breaks no promise stays silent, and so does what comes after the verdict.
    bench.latency(100.0, 60);
    bench.watch.stir("lab", &bench.config, bench.now_ms);
    assert_eq!(bench.latency(300.0, 20), []);
    bench.watch.learn(&lesson(Ruled::Rollback), &bench.config, bench.now_ms);
    assert_eq!(bench.latency(800.0, 20), []);
}

#[test]
fn a_promise_that_breaks_while_another_incident_is_told_already_is_told_after_a_change_of_ours() {
    let mut bench = Bench::with_objective(400.0);
    bench.objectives.push(Objective { reading: "ttft_p95_ms".into(), max: 90.0, readings: 3 });
    let quiet = [("e2e_p95_ms", 100.0), ("ttft_p95_ms", 10.0)];
    bench.lab(&quiet, LEARNED);
    bench.watch.stir("lab", &bench.config, bench.now_ms);
    let first = bench.lab(&[("e2e_p95_ms", 800.0), ("ttft_p95_ms", 10.0)], 20);
    let second = bench.lab(&[("e2e_p95_ms", 800.0), ("ttft_p95_ms", 200.0)], 20);
    assert_eq!((metrics(&first), metrics(&second)), (vec!["e2e_p95_ms"], vec!["ttft_p95_ms"]));
    assert_eq!(second[0].evidence[0].metric, "e2e_p95_ms");
}

#[test]
fn an_alert_of_somebody_else_goes_on_over_a_change_of_ours() {
    let mut bench = Bench::new();
    bench.batch(&[("lab", "alert_high_latency", 1.0)]);
    bench.latency(100.0, 20);
    bench.watch.stir("lab", &bench.config, bench.now_ms);
    assert_eq!((bench.latency(100.0, 5), bench.watch.open()), (Vec::new(), 1));
}

#[test]
fn a_change_that_was_kept_makes_another_past_and_one_that_was_undone_does_not() {
    let mut bench = Bench::new();
    bench.latency(300.0, LEARNED);
    bench.watch.learn(&lesson(Ruled::Rollback), &bench.config, bench.now_ms);
    assert_eq!(bench.watch.tracked(), 1);
    bench.watch.learn(&lesson(Ruled::Success), &bench.config, bench.now_ms);
    assert_eq!(bench.watch.tracked(), 0);
    // What would have been a deviation is learned.
    assert_eq!(bench.latency(100.0, LEARNED), []);
    assert_eq!(bench.latency(300.0, 10).len(), 1);
}

#[test]
fn series_beyond_the_limit_are_counted_and_left_alone() {
    let mut bench = Bench::new();
    bench.config.series_max = 50;
    for number in 0..60 {
        bench.batch(&[(&format!("domain{number}"), "e2e_p95_ms", 1.0)]);
    }
    assert_eq!((bench.watch.tracked(), bench.watch.counted().cut), (50, 10));
    bench.config.series_max = 20;
    bench.watch.fit(&bench.config.clone());
    assert_eq!(bench.watch.tracked(), 20);
}

#[test]
fn what_was_saved_and_restored_goes_on_bit_for_bit() {
    let values = |place: u32| if place % 400 < 300 { 100.0 } else { 250.0 };
    let mut through = Bench::with_objective(240.0);
    let mut restored = Bench::with_objective(240.0);
    for place in 0..900 {
        let metrics = [("e2e_p95_ms", values(place)), ("waiting", values(place) - 100.0), ("requests_per_s", 5.0)];
        let (one, other) = (through.lab(&metrics, 1), restored.lab(&metrics, 1));
        assert_eq!(one, other, "batch {place}");
        if place % 37 == 0 {
            let bytes = encode(&restored.watch, 7).unwrap();
            let (watch, at_ms) = decode(&bytes).unwrap();
            assert_eq!((at_ms, encode(&watch, 7)), (7, Some(bytes)));
            restored.watch = watch;
        }
    }
    restored.watch.counted();
    through.watch.counted();
    assert_eq!(restored.watch, through.watch);
}

/// Lesson 29: a state that is cut off, changed or of another version is refused with a reason, wherever the damage is.
#[test]
fn lesson_29_a_damaged_state_is_refused_with_a_reason() {
    let mut bench = Bench::new();
    bench.latency(100.0, 30);
    let bytes = encode(&bench.watch, 7).unwrap();
    for cut in (0..bytes.len()).step_by(97) {
        assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        let mut damaged = bytes.clone();
        damaged[cut] ^= 0x04;
        assert!(decode(&damaged).is_err(), "changed at {cut}");
    }
    assert_eq!(decode(b"kloros observer 1 7\n\n{}").unwrap_err(), "it was written by another version");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_read_every_number_of_an_anomaly_is_finite(
        values in prop::collection::vec(prop_oneof![any::<f64>(), 0.0..1e6_f64], 0..400),
        max in any::<f64>(),
    ) {
        let mut bench = Bench::with_objective(max);
        bench.config.warmup_readings = 60;
        for value in values {
            for anomaly in bench.batch(&[("lab", "e2e_p95_ms", value), ("lab", "requests_per_s", value)]) {
                let Anomaly { observed, expected, spread, score, surge, .. } = anomaly;
                prop_assert!([observed, expected, spread, score].iter().all(|number| number.is_finite()));
                prop_assert!(surge.is_none_or(|load| load.observed.is_finite() && load.expected.is_finite()));
            }
        }
        prop_assert!(encode(&bench.watch, 1).is_some_and(|bytes| decode(&bytes).is_ok()));
    }
}

//! Incidents: from single readings to one anomaly for one thing that happened.
//!
//! An incident opens after several bad readings in a row and clears after several good ones in a row; while it is open
//! it is said once, and again each time its repeat time is over.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Config,
    detectors::{Limit, RobustZ, Sight, compared_with_past, is_plausible, median, spread_min},
};
use crate::facts::{Anomaly, AnomalyKind, CycleId, Lesson, Objective, Reading, Ruled, short_hash};

/// How many series are watched; further ones are counted and left alone.
pub const SERIES_MAX: usize = 1024;

/// How many of the latest readings of a series are kept to say what was observed.
pub const RECENT_READINGS_MAX: usize = 64;

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// Nothing is wrong, or not for long enough.
    Quiet {
        /// How many readings in a row were out.
        unlike: u32,
    },
    /// It was said that something is wrong.
    Open {
        /// When it was last said, in milliseconds since the Unix epoch.
        said_at_ms: u64,
        /// How many readings in a row were in again.
        like: u32,
    },
}

/// How patient an incident is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How many readings in a row must be out to open it.
    pub raise_after: u32,
    /// How many readings in a row must be in to clear it.
    pub clear_after: u32,
    /// When an open one is said again, in milliseconds.
    pub repeat_after_ms: u64,
}

impl Incident {
    /// Returns the incident after a reading of this `sight`, and whether it is to be said now.
    pub fn after(self, sight: Sight, patience: Patience, now_ms: u64) -> (Self, bool) {
        match (self, sight) {
            (Incident::Quiet { unlike }, Sight::Unlike) if unlike + 1 >= patience.raise_after => {
                (Incident::Open { said_at_ms: now_ms, like: 0 }, true)
            }
            (Incident::Quiet { unlike }, Sight::Unlike) => (Incident::Quiet { unlike: unlike + 1 }, false),
            (Incident::Quiet { .. }, Sight::Between | Sight::Like) => (Incident::default(), false),
            (Incident::Open { like, .. }, Sight::Like) if like + 1 >= patience.clear_after => {
                (Incident::default(), false)
            }
            (Incident::Open { said_at_ms, like }, Sight::Like) => {
                (Incident::Open { said_at_ms, like: like + 1 }, false)
            }
            (Incident::Open { said_at_ms, .. }, Sight::Unlike)
                if now_ms.saturating_sub(said_at_ms) >= patience.repeat_after_ms =>
            {
                (Incident::Open { said_at_ms: now_ms, like: 0 }, true)
            }
            (Incident::Open { said_at_ms, .. }, Sight::Unlike | Sight::Between) => {
                (Incident::Open { said_at_ms, like: 0 }, false)
            }
        }
    }

    /// Returns whether it was raised and has not cleared.
    pub fn is_open(self) -> bool {
        matches!(self, Incident::Open { .. })
    }
}

impl Default for Incident {
    fn default() -> Self {
        Incident::Quiet { unlike: 0 }
    }
}

/// Everything that is watched: readings go in, anomalies come out.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    series: BTreeMap<SeriesKey, Series>,
    stirs: BTreeMap<String, Stir>,
    untracked: u64,
}

/// Subject, metric, and for GPUs, which may share a subject, the source.
type SeriesKey = (String, String, String);

#[derive(Clone, Debug, Default)]
struct Series {
    past: RobustZ,
    deviation: Incident,
    excess: Incident,
    recent: VecDeque<f64>,
    read_at_ms: Option<u64>,
    said_at_ms: u64,
}

/// What the daemon itself did to a subject.
#[derive(Clone, Copy, Debug, Default)]
struct Stir {
    /// The depth of the last anomaly about the subject.
    said_depth: u32,
    /// The depth of anomalies until then.
    depth: u32,
    until_ms: u64,
}

/// What one judge found.
struct Finding {
    kind: AnomalyKind,
    observed: f64,
    expected: f64,
    spread: f64,
    score: f64,
    samples: u64,
}

impl Watch {
    /// Takes a reading and returns the anomaly that it completes, if it does. `objectives` are those of the domain
    /// that the reading is about.
    ///
    /// Only the bad direction counts. A reading that was seen already, one that is no number, and one of a series
    /// beyond [`SERIES_MAX`] change nothing.
    pub fn read(
        &mut self,
        reading: &Reading,
        objectives: &[Objective],
        config: &Config,
        now_ms: u64,
    ) -> Option<Anomaly> {
        let limit = Limit::of(reading, objectives, config);
        let is_judged = limit.is_some() || compared_with_past(reading).is_some();
        if !is_judged || !is_plausible(reading.value) {
            return None;
        }
        let finding = self.series_of(reading)?.read(reading, limit, config, now_ms)?;
        let stir = self.stirs.entry(reading.subject.clone()).or_default();
        let depth = if now_ms < stir.until_ms { stir.depth } else { 0 };
        stir.said_depth = depth;
        Some(Anomaly {
            cycle: cycle(reading, now_ms),
            subject: reading.subject.clone(),
            metric: reading.metric.clone(),
            kind: finding.kind,
            observed: finding.observed,
            expected: finding.expected,
            spread: finding.spread,
            score: finding.score,
            samples: finding.samples,
            source: reading.source.clone(),
            at_ms: now_ms,
            depth,
        })
    }

    /// Takes note of what a verdict taught: the service was changed by the daemon itself.
    ///
    /// Where the change was kept, the past of the domain is the past of other settings, and watching starts afresh.
    pub fn learn(&mut self, lesson: &Lesson, config: &Config, now_ms: u64) {
        self.stir(&lesson.domain, config, now_ms);
        if lesson.verdict.outcome != Ruled::Rollback {
            self.series.retain(|(subject, ..), _| *subject != lesson.domain);
        }
    }

    /// Takes note that the daemon itself does something to `subject`: for one repeat time, anomalies about it are one
    /// step deeper than the last one.
    pub fn stir(&mut self, subject: &str, config: &Config, now_ms: u64) {
        if let Some(stir) = self.stirs.get_mut(subject) {
            stir.depth = stir.said_depth.saturating_add(1);
            stir.until_ms = now_ms.saturating_add(config.repeat_after_s.saturating_mul(1000));
        } else if self.series.keys().any(|(watched, ..)| watched == subject) {
            let until_ms = now_ms.saturating_add(config.repeat_after_s.saturating_mul(1000));
            self.stirs.insert(subject.to_owned(), Stir { said_depth: 0, depth: 1, until_ms });
        }
    }

    /// Returns how many series are watched.
    pub fn tracked(&self) -> usize {
        self.series.len()
    }

    /// Returns how many incidents are open.
    pub fn open(&self) -> usize {
        self.series.values().filter(|series| series.is_open()).count()
    }

    /// Returns how many readings were left alone because [`SERIES_MAX`] series were watched already.
    pub fn untracked(&self) -> u64 {
        self.untracked
    }

    fn series_of(&mut self, reading: &Reading) -> Option<&mut Series> {
        // The source of a service is its address, which changes with a restart; that of a GPU says which one it is.
        let source = if reading.is_about_gpu() { reading.source.clone() } else { String::new() };
        let key = (reading.subject.clone(), reading.metric.clone(), source);
        if !self.series.contains_key(&key) && self.series.len() >= SERIES_MAX {
            self.untracked += 1;
            return None;
        }
        Some(self.series.entry(key).or_default())
    }
}

impl Series {
    fn is_open(&self) -> bool {
        self.deviation.is_open() || self.excess.is_open()
    }

    fn read(&mut self, reading: &Reading, limit: Option<Limit>, config: &Config, now_ms: u64) -> Option<Finding> {
        if self.read_at_ms.replace(reading.at_ms) == Some(reading.at_ms) {
            return None;
        }
        self.recent.push_back(reading.value);
        if self.recent.len() > RECENT_READINGS_MAX {
            self.recent.pop_front();
        }
        let was_open = self.is_open();
        let excess = self.hold_against(limit, reading.value, config, now_ms);
        let deviation = self.compare(reading, config, now_ms);
        let finding = excess.or(deviation)?;
        // A second judge that sees the same incident has nothing to add.
        let patience = patience(config.raise_after, config);
        if was_open && now_ms.saturating_sub(self.said_at_ms) < patience.repeat_after_ms {
            return None;
        }
        self.said_at_ms = now_ms;
        Some(finding)
    }

    /// Holds the reading against its limit.
    fn hold_against(&mut self, limit: Option<Limit>, value: f64, config: &Config, now_ms: u64) -> Option<Finding> {
        let Some(limit) = limit else {
            // The objective is gone, and with it what was wrong.
            self.excess = Incident::default();
            return None;
        };
        let says;
        (self.excess, says) = self.excess.after(limit.sight(value), patience(limit.readings, config), now_ms);
        let observed = says.then(|| self.observed(limit.readings)).flatten()?;
        Some(Finding {
            kind: limit.kind,
            observed,
            expected: limit.max,
            spread: 0.0,
            score: limit.ratio(observed),
            samples: self.past.len().max(self.recent.len()) as u64,
        })
    }

    /// Compares the reading with its past, and makes it part of the past unless something is wrong.
    fn compare(&mut self, reading: &Reading, config: &Config, now_ms: u64) -> Option<Finding> {
        let worse = compared_with_past(reading)?;
        let score = self.past.score(reading.value, spread_min(&reading.metric), config);
        let sight = score.map_or(Sight::Like, |score| worse.sight(score.score, config));
        let says;
        (self.deviation, says) = self.deviation.after(sight, patience(config.raise_after, config), now_ms);
        self.past.remember(reading.value, self.is_open() || sight == Sight::Unlike, config);
        let (score, observed) = says.then(|| score.zip(self.observed(config.raise_after))).flatten()?;
        Some(Finding {
            kind: AnomalyKind::Deviation,
            observed,
            expected: score.expected,
            spread: score.spread,
            score: worse.orient((observed - score.expected) / score.spread),
            samples: score.samples,
        })
    }

    /// Returns the median of the latest readings.
    fn observed(&self, readings: u32) -> Option<f64> {
        median(self.recent.iter().rev().take(readings.max(1) as usize).copied())
    }
}

fn patience(raise_after: u32, config: &Config) -> Patience {
    Patience {
        raise_after,
        clear_after: config.clear_after,
        repeat_after_ms: config.repeat_after_s.saturating_mul(1000),
    }
}

fn cycle(reading: &Reading, now_ms: u64) -> CycleId {
    let Reading { subject, metric, source, .. } = reading;
    CycleId::new(format!("c-{}", short_hash(&[subject, metric, source, &now_ms.to_string()])))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{DeploymentId, Metrics, Reason, Verdict};

    const STEP_MS: u64 = 2000;

    /// A watch with its own clock, one step a reading.
    struct Bench {
        watch: Watch,
        now_ms: u64,
        objectives: Vec<Objective>,
    }

    impl Bench {
        fn new() -> Self {
            Self { watch: Watch::default(), now_ms: 1_000_000, objectives: Vec::new() }
        }

        fn read(&mut self, subject: &str, metric: &str, value: f64) -> Option<Anomaly> {
            self.now_ms += STEP_MS;
            let reading = reading(subject, metric, value, self.now_ms);
            self.watch.read(&reading, &self.objectives, &Config::default(), self.now_ms)
        }

        /// Returns the anomalies of so many readings of this value.
        fn latency(&mut self, value: f64, readings: u32) -> Vec<Anomaly> {
            (0..readings).filter_map(|_| self.read("lab", "e2e_p95_ms", value)).collect()
        }
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

    #[test]
    fn one_degradation_is_said_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.latency(100.0, 20), []);
        let said = bench.latency(300.0, 50);
        assert_eq!(said.len(), 1);
        let anomaly = &said[0];
        assert_eq!((anomaly.observed, anomaly.expected, anomaly.spread, anomaly.score), (300.0, 100.0, 10.0, 20.0));
        assert_eq!((anomaly.kind, anomaly.samples, anomaly.depth), (AnomalyKind::Deviation, 20, 0));
    }

    #[test]
    fn two_bad_readings_are_not_enough_and_a_good_one_starts_the_count_again() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        for _ in 0..10 {
            assert_eq!(bench.latency(300.0, 2), []);
            assert_eq!(bench.latency(100.0, 1), []);
        }
    }

    #[test]
    fn an_incident_that_goes_on_is_said_again_when_its_repeat_time_is_over() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        let said = bench.latency(300.0, 3 + 300);
        assert_eq!(said.len(), 2);
        assert_eq!(said[1].at_ms - said[0].at_ms, 600_000);
        assert_ne!(said[0].cycle, said[1].cycle);
    }

    #[test]
    fn an_incident_clears_only_after_enough_good_readings_in_a_row() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        assert_eq!(bench.latency(300.0, 3).len(), 1);
        assert_eq!(bench.latency(100.0, 4), []);
        assert_eq!(bench.latency(300.0, 3), []);
        assert_eq!(bench.watch.open(), 1);
        assert_eq!(bench.latency(100.0, 5), []);
        assert_eq!(bench.watch.open(), 0);
        assert_eq!(bench.latency(300.0, 3).len(), 1);
    }

    #[test]
    fn what_lies_between_the_thresholds_neither_raises_nor_clears() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        assert_eq!(bench.latency(150.0, 3), []);
        bench = Bench::new();
        bench.latency(100.0, 20);
        bench.latency(300.0, 3);
        bench.latency(140.0, 20);
        assert_eq!(bench.watch.open(), 1);
    }

    #[test]
    fn better_than_the_past_is_no_incident_and_becomes_the_past() {
        let mut bench = Bench::new();
        bench.latency(300.0, 60);
        assert_eq!(bench.latency(100.0, 60), []);
        assert_eq!(bench.latency(300.0, 3).len(), 1);
    }

    #[test]
    fn a_rate_that_follows_the_load_is_not_watched() {
        let mut bench = Bench::new();
        for value in [100.0, 0.0, 5000.0] {
            for _ in 0..20 {
                assert_eq!(bench.read("lab", "tokens_per_s", value), None);
            }
        }
        assert_eq!(bench.watch.tracked(), 0);
    }

    #[test]
    fn a_few_errors_after_none_are_noise_and_many_are_not() {
        let mut bench = Bench::new();
        let mut errors =
            |value: f64, readings: u32| (0..readings).filter_map(|_| bench.read("lab", "error_ratio", value)).count();
        assert_eq!(errors(0.0, 20), 0);
        assert_eq!(errors(0.02, 10), 0);
        assert_eq!(errors(0.3, 3), 1);
    }

    #[test]
    fn a_breached_objective_is_said_without_any_past() {
        let mut bench = Bench::new();
        bench.objectives = vec![Objective { reading: "e2e_p95_ms".into(), max: 400.0, readings: 2 }];
        assert_eq!(bench.latency(400.0, 5), []);
        let said = bench.latency(800.0, 20);
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].kind, said[0].expected, said[0].score), (AnomalyKind::Objective, 400.0, 2.0));
    }

    #[test]
    fn two_judges_of_one_incident_say_it_once() {
        let mut bench = Bench::new();
        bench.objectives = vec![Objective { reading: "e2e_p95_ms".into(), max: 250.0, readings: 6 }];
        bench.latency(100.0, 20);
        let said = bench.latency(300.0, 303);
        assert_eq!(said.iter().map(|anomaly| anomaly.kind).collect::<Vec<_>>(), [AnomalyKind::Deviation; 2]);
    }

    #[test]
    fn a_gpu_at_its_end_is_under_pressure_and_gpus_are_told_apart() {
        let mut watch = Watch::default();
        let mut said = Vec::new();
        for at_ms in 1..=5 {
            for (source, value) in [("nvml:GPU-a", 1.05), ("nvml:GPU-b", 0.5)] {
                let reading =
                    Reading { source: source.into(), ..reading("gpu", "pressure_ratio", value, at_ms * STEP_MS) };
                said.extend(watch.read(&reading, &[], &Config::default(), at_ms * STEP_MS));
            }
        }
        assert_eq!(said.len(), 1);
        assert_eq!((said[0].kind, said[0].source.as_str()), (AnomalyKind::Pressure, "nvml:GPU-a"));
    }

    #[test]
    fn the_same_reading_seen_twice_counts_once() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        let stale = reading("lab", "e2e_p95_ms", 300.0, bench.now_ms + 1);
        for _ in 0..50 {
            assert_eq!(bench.watch.read(&stale, &[], &Config::default(), bench.now_ms), None);
        }
    }

    #[test]
    fn an_anomaly_soon_after_the_daemons_own_change_is_deeper() {
        let mut bench = Bench::new();
        bench.latency(100.0, 20);
        assert_eq!(bench.latency(300.0, 3)[0].depth, 0);
        for depth in 1..=3 {
            bench.watch.learn(&lesson(Ruled::Neutral), &Config::default(), bench.now_ms);
            bench.latency(100.0, 20);
            assert_eq!(bench.latency(300.0, 3)[0].depth, depth);
        }
        bench.now_ms += 600_000;
        bench.latency(100.0, 20);
        assert_eq!(bench.latency(300.0, 3)[0].depth, 0);
    }

    #[test]
    fn a_change_that_was_kept_makes_another_past_and_one_that_was_undone_does_not() {
        let mut bench = Bench::new();
        bench.latency(300.0, 20);
        bench.watch.learn(&lesson(Ruled::Rollback), &Config::default(), bench.now_ms);
        assert_eq!(bench.watch.tracked(), 1);
        bench.watch.learn(&lesson(Ruled::Success), &Config::default(), bench.now_ms);
        assert_eq!(bench.watch.tracked(), 0);
    }

    #[test]
    fn series_beyond_the_limit_are_counted_and_left_alone() {
        let mut bench = Bench::new();
        for number in 0..SERIES_MAX + 10 {
            bench.read(&format!("domain{number}"), "e2e_p95_ms", 1.0);
        }
        assert_eq!((bench.watch.tracked(), bench.watch.untracked()), (SERIES_MAX, 10));
    }

    proptest! {
        #[test]
        fn an_incident_is_said_at_most_once_a_repeat_time_while_it_is_open(
            sights in prop::collection::vec(0_u8..3, 0..400),
        ) {
            let patience = Patience { raise_after: 3, clear_after: 5, repeat_after_ms: 100 };
            let mut incident = Incident::default();
            let mut said_at_ms = None;
            for (place, sight) in sights.into_iter().enumerate() {
                let now_ms = place as u64 * 10;
                let sight = [Sight::Unlike, Sight::Between, Sight::Like][usize::from(sight)];
                let was_open = incident.is_open();
                let says;
                (incident, says) = incident.after(sight, patience, now_ms);
                if says {
                    prop_assert!(incident.is_open());
                    prop_assert!(!was_open || said_at_ms.is_none_or(|said_at_ms| now_ms - said_at_ms >= 100));
                    said_at_ms = Some(now_ms);
                }
            }
        }

        #[test]
        fn whatever_is_read_every_number_of_an_anomaly_is_finite(
            values in prop::collection::vec(any::<f64>(), 0..200),
            max in any::<f64>(),
        ) {
            let mut bench = Bench::new();
            bench.objectives = vec![Objective { reading: "e2e_p95_ms".into(), max, readings: 0 }];
            for value in values {
                if let Some(anomaly) = bench.read("lab", "e2e_p95_ms", value) {
                    let Anomaly { observed, expected, spread, score, .. } = anomaly;
                    prop_assert!([observed, expected, spread, score].iter().all(|number| number.is_finite()));
                }
            }
        }
    }
}

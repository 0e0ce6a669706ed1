//! Series: what one number of one subject is like, and when it is out.
//!
//! A series begins to be out when its detector raises an alarm in the bad direction by as much as matters, and is out until it
//! is back near what was expected then; what stays long enough is the new normal. A promised limit is held without any past.

use std::collections::VecDeque;

use kloros_detection::{Detector, Kind, Setup};
use serde::{Deserialize, Serialize};

use super::{
    Config,
    creep::{Creep, Crept},
    detectors::{Limit, Worse, is_alert, margin, median, millis},
    incident::{Patience, Sight, Sign},
};
use crate::facts::{AnomalyKind, Evidence, Reading};

/// How many of the latest readings of a series are kept to say what was observed.
pub const RECENT_READINGS_MAX: usize = 64;

/// Of how many of the latest readings the median is looked at: one wild reading is no incident.
const SMOOTHED: usize = 3;

/// The share of what matters below which a series is back near what was expected.
const BACK_AT: f64 = 0.5;

/// How many mean deviations off the latest readings must be where no detector says that they are out.
const AGAIN_FROM: f64 = 3.0;

/// How fast what is usual follows a series that is not out, a reading.
const FOLLOWS: f64 = 1.0 / 30.0;

/// For how many warm-ups a detector may call as much again no news.
const WARMUPS_REMEMBERED: f64 = 40.0;

/// One number of one subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    detector: Option<Box<Detector>>,
    creep: Option<Creep>,
    recent: VecDeque<f64>,
    heard: u64,
    read_at_ms: Option<u64>,
    source: String,
    /// When it was last heard of, by our own clock.
    heard_at_ms: u64,
    usual: Option<Usual>,
    deviation: Sign,
    limit: Option<Limit>,
    excess: Sign,
    /// The largest median of the latest readings since it is over its limit: it may be below again before anybody is told.
    worst: Option<f64>,
}

/// What is usual of a series that was out, or that became better: while its detector would call the same no news, readings are
/// held against this.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Usual {
    expected: f64,
    /// How far off it must be to be out.
    margin: f64,
    /// The mean deviation when it went out; 0 where none was known.
    spread: f64,
    since_ms: u64,
    out_at_ms: u64,
    /// Whether what the detector found is over, so that what comes now comes again.
    is_over: bool,
}

impl Usual {
    /// Returns how far off it must be now to be out: what comes again must be clear without the detector's word.
    fn margin(&self) -> f64 {
        if self.is_over { self.margin.max(AGAIN_FROM * self.spread) } else { self.margin }
    }
}

/// What a reading did to its series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A sign began with it.
    pub begins: bool,
    /// It would have begun one, had not a surge of load explained it.
    pub is_explained: bool,
}

/// What is wrong with a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Why.
    pub kind: AnomalyKind,
    /// The median of the latest readings; over a limit the largest one since it is out.
    pub observed: f64,
    /// What was expected, or the limit.
    pub expected: f64,
    /// The mean deviation of its past; 0 for a limit.
    pub spread: f64,
    /// How far out it is, in mean deviations; for a limit the ratio to it.
    pub score: f64,
    /// How many readings stand behind it.
    pub samples: u64,
}

impl Series {
    /// Takes a reading, once. `worse` is the bad direction, where it is compared with its past; in a surge of load a deviation is
    /// explained, a breached limit is not.
    pub fn read(
        &mut self,
        reading: &Reading,
        (limit, worse): (Option<Limit>, Option<Worse>),
        is_surge: bool,
        config: &Config,
        now_ms: u64,
    ) -> Heard {
        if self.read_at_ms.replace(reading.at_ms) == Some(reading.at_ms) {
            return Heard::default();
        }
        if self.source != reading.source {
            self.source.clone_from(&reading.source);
        }
        if !self.is_heard(config, now_ms) {
            // What was not heard of for so long is in no incident any more: that it goes on is told as what begins is, and that all is
            // well again is not told.
            self.forget_excess();
            self.deviation = Sign::default();
            self.recent.clear();
            if let Some(usual) = &mut self.usual {
                // Nor did it last all the while, as far as anybody knows.
                usual.since_ms = now_ms;
            }
        }
        let was_open = self.is_open();
        self.heard = self.heard.saturating_add(1);
        self.heard_at_ms = now_ms;
        self.recent.push_back(reading.value);
        if self.recent.len() > RECENT_READINGS_MAX {
            self.recent.pop_front();
        }
        self.hold_against(limit, reading, config, now_ms);
        let is_explained = worse.is_some_and(|worse| self.compare(reading, worse, is_surge, config, now_ms));
        Heard { begins: self.is_open() && !was_open, is_explained }
    }

    /// Forgets that it was beyond its limit: what it is held against from now on is another service.
    pub fn forget_excess(&mut self) {
        (self.excess, self.worst) = (Sign::default(), None);
    }

    /// Returns whether it is out.
    pub fn is_open(&self) -> bool {
        self.deviation.is_open() || self.excess.is_open()
    }

    /// Returns whether it was heard of not so long ago that nobody knows any more how it goes on.
    pub fn is_heard(&self, config: &Config, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_at_ms) < config.normal_after_s.saturating_mul(1000)
    }

    /// Returns what is wrong with it, if anything is.
    pub fn seen(&self, worse: Option<Worse>) -> Option<Seen> {
        if let Some(limit) = self.limit.filter(|_| self.excess.is_open()) {
            let observed = self.worst?;
            let score = limit.ratio(observed);
            let (kind, expected) = (limit.kind, limit.max);
            return Some(Seen { kind, observed, expected, spread: 0.0, score, samples: self.heard });
        }
        let (usual, worse) = self.usual.filter(|_| self.deviation.is_open()).zip(worse)?;
        let observed = self.observed(SMOOTHED)?;
        let Usual { expected, spread, margin, .. } = usual;
        let score = worse.orient((observed - expected) / if spread > 0.0 { spread } else { margin });
        Some(Seen { kind: AnomalyKind::Deviation, observed, expected, spread, score, samples: self.heard })
    }

    /// Returns where it was last read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Holds the reading against its limit.
    fn hold_against(&mut self, limit: Option<Limit>, reading: &Reading, config: &Config, now_ms: u64) {
        if self.limit != limit {
            // What it was at worst was said of another line.
            self.worst = None;
        }
        self.limit = limit;
        let Some(limit) = limit else {
            // The objective is gone, and with it what was wrong.
            self.forget_excess();
            return;
        };
        // An alert is told when it begins and when it is over, and not in between.
        let clear_ms = if is_alert(reading) { 0 } else { millis(config.clear_s) };
        let patience = Patience { readings: limit.readings, for_ms: limit.for_ms, clear_ms };
        let value = reading.value;
        self.excess = self.excess.after(limit.sight(value), patience, now_ms);
        let now = self.observed(limit.readings as usize).filter(|_| self.excess.is_open());
        self.worst = now.map(|now| self.worst.map_or(now, |worst| worst.max(now)));
    }

    /// Compares the reading with its past, and says whether a surge explains what it found.
    fn compare(&mut self, reading: &Reading, worse: Worse, is_surge: bool, config: &Config, now_ms: u64) -> bool {
        let setup = Setup { kind: Kind::Gauge, step: Some(config.sample_every_s), warmup: config.warmup_readings };
        let detector = self.detector.get_or_insert_with(|| Box::new(Detector::new(setup)));
        let finding = detector.observe(Some(reading.at_ms as f64 / 1000.0), Some(reading.value));
        if self.usual.is_none()
            && (finding.alarm || finding.open)
            && let Some(expected) = finding.expected
        {
            let (margin, off) = (margin(&reading.metric, expected, config), worse.orient(reading.value - expected));
            if off.abs() >= margin {
                let spread = (reading.value - expected) / finding.off;
                let spread = if spread.is_finite() { spread.abs() } else { 0.0 };
                let (since_ms, out_at_ms, is_over) = (now_ms, now_ms, off < 0.0);
                self.usual = Some(Usual { expected, margin, spread, since_ms, out_at_ms, is_over });
            }
        }
        let is_out = self.deviation.is_open();
        let crept = self.creep.get_or_insert_default().read(reading, worse, is_out, config);
        if let Some(Crept { expected, margin, spread }) = crept.filter(|_| !is_out) {
            // Whatever the minutes before were held against went along with it.
            self.usual = Some(Usual { expected, margin, spread, since_ms: now_ms, out_at_ms: now_ms, is_over: false });
        }
        self.judge(worse, is_surge, config, now_ms)
    }

    /// Holds the latest readings against what is usual, where that is in question, and says whether a surge explains what it
    /// found.
    fn judge(&mut self, worse: Worse, is_surge: bool, config: &Config, now_ms: u64) -> bool {
        let Some((mut usual, middle)) = self.usual.zip(self.observed(SMOOTHED)) else { return false };
        let was_open = self.deviation.is_open();
        let margin = if was_open { usual.margin } else { usual.margin() };
        let sight = match worse.orient(middle - usual.expected) {
            off if off >= margin => Sight::Unlike,
            off if off >= margin * BACK_AT => Sight::Between,
            _ => Sight::Like,
        };
        let (for_ms, clear_ms) = (millis(config.for_s), millis(config.clear_s));
        self.deviation = self.deviation.after(sight, Patience { readings: 1, for_ms, clear_ms }, now_ms);
        let mut is_explained = false;
        match (was_open, self.deviation.is_open()) {
            (false, true) if is_surge => {
                self.deviation = Sign::default();
                is_explained = !usual.is_over;
                usual.is_over = true;
            }
            (false, true) => usual.since_ms = now_ms,
            (true, true) if now_ms.saturating_sub(usual.since_ms) >= config.normal_after_s.saturating_mul(1000) => {
                self.deviation = Sign::default();
                (usual.expected, usual.is_over) = (middle, true);
            }
            (true, false) => usual.is_over = true,
            _ => usual.is_over |= now_ms.saturating_sub(usual.since_ms) >= clear_ms && !was_open,
        }
        if sight != Sight::Like {
            usual.out_at_ms = now_ms;
        } else if usual.is_over && !self.deviation.is_open() {
            usual.expected += (middle - usual.expected) * FOLLOWS;
        }
        let remembered_ms = config
            .repeat_after_s
            .saturating_mul(1000)
            .max(millis(WARMUPS_REMEMBERED * f64::from(config.warmup_readings) * config.sample_every_s));
        let is_forgotten = !self.deviation.is_open() && now_ms.saturating_sub(usual.out_at_ms) >= remembered_ms;
        self.usual = (!is_forgotten).then_some(usual);
        is_explained
    }

    /// Returns the median of the latest readings.
    fn observed(&self, readings: usize) -> Option<f64> {
        median(self.recent.iter().rev().take(readings.clamp(1, RECENT_READINGS_MAX)).copied())
    }
}

/// How many readings of a load are looked at together.
const LOAD_READINGS: usize = 5;

/// How many readings must stand behind what is usual of a load.
const LOAD_HEARD_MIN: u64 = 10;

/// How many mean deviations the mean of [`LOAD_READINGS`] must be above the usual one: about four standard errors of it.
const LOAD_DEVIATIONS: f64 = 2.25;

/// How much is asked of one service, and whether that is far more than usual.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    recent: VecDeque<f64>,
    heard: u64,
    usual: f64,
    deviation: f64,
    /// Since when it is a surge.
    surge_since_ms: Option<u64>,
}

impl Load {
    /// Takes a reading. What is usual is not learned from a surge, until that has lasted so long that it is the usual load.
    pub fn read(&mut self, value: f64, config: &Config, now_ms: u64) {
        self.recent.push_back(value);
        if self.recent.len() > LOAD_READINGS {
            self.recent.pop_front();
        }
        let now = self.now();
        match self.surge_since_ms {
            Some(since_ms) => {
                let is_usual = now_ms.saturating_sub(since_ms) >= config.normal_after_s.saturating_mul(1000);
                if is_usual {
                    self.usual = now;
                }
                let over_at = self.usual * f64::midpoint(1.0, config.surge_from);
                if is_usual || now < over_at {
                    self.surge_since_ms = None;
                }
            }
            None if self.heard >= LOAD_HEARD_MIN
                && now >= self.usual * config.surge_from
                && now >= self.usual + LOAD_DEVIATIONS * self.deviation =>
            {
                self.surge_since_ms = Some(now_ms);
            }
            None => {
                self.heard = self.heard.saturating_add(1);
                let pace = 1.0 / (self.heard.min(u64::from(config.warmup_readings.max(1))) as f64);
                self.deviation +=
                    ((value - self.usual).abs() - self.deviation) * if self.heard > 1 { pace } else { 0.0 };
                self.usual += (value - self.usual) * pace;
            }
        }
    }

    /// Returns whether it is far above what is usual.
    pub fn is_surge(&self) -> bool {
        self.surge_since_ms.is_some()
    }

    /// Returns the load now beside the usual one.
    pub fn evidence(&self, metric: &str, source: &str) -> Evidence {
        let (metric, source) = (metric.to_owned(), source.to_owned());
        Evidence { metric, observed: self.now(), expected: self.usual, samples: self.heard, source }
    }

    fn now(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64
    }
}

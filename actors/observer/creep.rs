//! Creep: what becomes worse over hours.
//!
//! The detector of a series knows minutes, and what is usual goes along with what creeps. A second one hears the mean of some minutes
//! as one reading, and knows half a day. What it finds matters where it is worse than anything that was usual of late.

use kloros_detection::{Detector, Kind, Setup};
use serde::{Deserialize, Serialize};

use super::{
    Config,
    detectors::{Worse, margin},
};
use crate::facts::Reading;

/// How long is looked at as one reading, in milliseconds: of the same length the detectors were chosen by.
const ROW_MS: u64 = 300_000;

/// How many readings make a row: one that was alone in it, as the first of a service that loads its model, says nothing of it.
const ROW_READINGS_MIN: u32 = 3;

/// How many of those the detector learns from: ten hours.
const WARMUP_ROWS: u32 = 120;

/// How many must have been seen before anything creeps: a day, or its first morning would.
const DAY_ROWS: u32 = 288;

/// Within how many the worst that was usual is forgotten: two weeks, so that a Monday is no fault.
const REMEMBERED_ROWS: f64 = 14.0 * 288.0;

/// A series seen by the hour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Creep {
    detector: Box<Detector>,
    row: u64,
    sum: f64,
    heard: u32,
    /// How many rows there were.
    rows: u32,
    /// The worst mean of a row while nothing was unlike the past.
    extreme: Option<f64>,
    /// Whether what the detector found was told of, by whomever.
    is_told: bool,
}

/// What a series has crept away from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crept {
    /// What was expected at worst.
    pub expected: f64,
    /// How far off it must be to be out.
    pub margin: f64,
    /// The mean deviation.
    pub spread: f64,
}

impl Creep {
    /// Takes a reading, and returns what the series has crept away from by as much as matters, where that is found with it and was
    /// not told of. `is_out` says whether the series is out as it is.
    pub fn read(&mut self, reading: &Reading, worse: Worse, is_out: bool, config: &Config) -> Option<Crept> {
        let row = reading.at_ms / ROW_MS;
        let crept = (row != self.row).then(|| self.end_row(&reading.metric, worse, is_out, config)).flatten();
        self.row = row;
        self.sum += reading.value;
        self.heard += 1;
        crept
    }

    fn end_row(&mut self, metric: &str, worse: Worse, is_out: bool, config: &Config) -> Option<Crept> {
        let (sum, heard) = (std::mem::take(&mut self.sum), std::mem::take(&mut self.heard));
        if heard < ROW_READINGS_MIN {
            return None;
        }
        let mean = sum / f64::from(heard);
        let at_s = (self.row * ROW_MS) as f64 / 1000.0;
        let finding = self.detector.observe(Some(at_s), Some(mean));
        self.rows = self.rows.saturating_add(1);
        if !finding.alarm && !finding.open {
            self.is_told = false;
            self.learn(mean, worse);
            return None;
        }
        // One event is told once, also where it came at once, and then stays.
        self.is_told |= is_out;
        let level = finding.expected.filter(|_| !self.is_told && self.rows > DAY_ROWS)?;
        // What each day brings is no creep, however well the day is known by now.
        let expected = self.extreme.filter(|extreme| worse.orient(extreme - level) > 0.0).unwrap_or(level);
        let margin = margin(metric, expected, config);
        let spread = (mean - level) / finding.off;
        let spread = if spread.is_finite() { spread.abs() } else { 0.0 };
        (worse.orient(mean - expected) >= margin).then_some(Crept { expected, margin, spread })
    }

    fn learn(&mut self, mean: f64, worse: Worse) {
        let extreme = self.extreme.get_or_insert(mean);
        let off = mean - *extreme;
        *extreme += if worse.orient(off) > 0.0 { off } else { off / REMEMBERED_ROWS };
    }
}

impl Default for Creep {
    fn default() -> Self {
        let setup = Setup { kind: Kind::Gauge, step: Some(ROW_MS as f64 / 1000.0), warmup: WARMUP_ROWS };
        Self {
            detector: Box::new(Detector::new(setup)),
            row: 0,
            sum: 0.0,
            heard: 0,
            rows: 0,
            extreme: None,
            is_told: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns in which rows of five minutes, in so many days, a latency that is `value` at each hour was found to creep.
    fn crept(days: u64, value: impl Fn(f64) -> f64) -> Vec<u64> {
        let (mut creep, config) = (Creep::default(), Config::default());
        let finds = |row: &u64| {
            let hour = *row as f64 / 12.0;
            let noise = (row.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1_u64 << 24) as f64 - 0.5;
            let reading = |part: u64| Reading {
                subject: "lab".into(),
                metric: "e2e_p95_ms".into(),
                value: value(hour) * (1.0 + 0.01 * noise),
                samples: 1,
                at_ms: row * ROW_MS + part,
                source: "test".into(),
            };
            let found = (0..3).filter_map(|part| creep.read(&reading(part), Worse::Higher, false, &config));
            found.count() > 0
        };
        (0..days * u64::from(DAY_ROWS)).filter(finds).collect()
    }

    /// On the second morning of a clean wave the detector finds it worse than half a day before.
    #[test]
    fn what_each_day_brings_creeps_nowhere_and_a_leak_does() {
        for phase in [0.0, 6.0, 12.0, 18.0] {
            let daily = |hour: f64| 100.0 * (1.0 + 0.4 * ((hour + phase) * std::f64::consts::TAU / 24.0).sin());
            assert_eq!(crept(10, daily), [0; 0], "a wave that begins at hour {phase}");
        }
        let first = *crept(3, |hour| 100.0 * (1.0 + ((hour - 30.0) / 10.0).clamp(0.0, 1.0))).first().unwrap();
        assert!((32.0..33.0).contains(&(first as f64 / 12.0)), "in row {first}");
        // Its first morning is all that is known of a day.
        assert_eq!(crept(1, |hour| 100.0 * (1.0 + (hour - 10.0).clamp(0.0, 10.0) / 10.0)), [0; 0]);
    }
}

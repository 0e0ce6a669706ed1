//! The tail of one statistic: how rare is what is seen now?
//!
//! Peaks over a threshold follow a generalised Pareto distribution (Pickands 1975). Siffer et al. (2017, "Anomaly detection
//! in streams with extreme value theory", SPOT) fit it to a stream; here the threshold is a quantile that is tracked step by
//! step, and the fit is by moments that decay, so that a tail is five numbers and an update a handful of operations.

use serde::{Deserialize, Serialize};

/// The share of rows that lie beyond the threshold.
const PEAKS: f32 = 0.04;

/// How many peaks the first guess of the tail counts for.
const PRIOR_PEAKS: f32 = 8.0;

/// The shape of the first guess: heavier than exponential, as most series of machines are.
const PRIOR_SHAPE: f32 = 0.15;

/// How many mean excesses a peak counts for at most when it is learned.
const CLIP: f32 = 6.0;

/// The most that one statistic can say, as -log10 p.
const SURPRISE_MAX: f32 = 16.0;

/// An online peaks-over-threshold tail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tail {
    threshold: f32,
    mean: f32,
    square: f32,
    peaks: f32,
    rate: f32,
}

impl Tail {
    /// Returns the tail that is believed before anything was seen: `typical` is the size of an ordinary value.
    pub(crate) fn new(typical: f32) -> Self {
        let mean = typical * 0.4;
        // Of a generalised Pareto with shape k, E[y^2] = 2 m^2 (1 - k) / (1 - 2 k).
        let square = 2.0 * mean * mean * (1.0 - PRIOR_SHAPE) / (1.0 - 2.0 * PRIOR_SHAPE);
        Self { threshold: typical, mean, square, peaks: PRIOR_PEAKS, rate: PEAKS }
    }

    /// Returns -log10 of the chance to see `value` or more; 0 below the threshold.
    #[inline]
    pub(crate) fn surprise(&self, value: f32) -> f32 {
        let excess = value - self.threshold;
        if excess <= 0.0 {
            return 0.0;
        }
        let variance = (self.square - self.mean * self.mean).max(self.mean * self.mean * 0.2);
        let ratio = self.mean * self.mean / variance;
        let shape = (0.5 * (1.0 - ratio)).clamp(-0.2, 0.45);
        let scale = (self.mean * (1.0 - shape)).max(f32::MIN_POSITIVE);
        let beyond = if shape.abs() < 0.02 {
            excess / scale
        } else {
            let inner = 1.0 + shape * excess / scale;
            if inner <= 1e-6 { 40.0 } else { inner.ln() / shape }
        };
        (beyond * std::f32::consts::LOG10_E - self.rate.log10()).min(SURPRISE_MAX)
    }

    /// Learns `value`, clipped: what is far beyond the tail moves it by little. `rows` were learned before, and `memory`
    /// peaks are remembered.
    #[inline]
    pub(crate) fn learn(&mut self, value: f32, rows: f32, memory: f32) {
        let excess = value - self.threshold;
        let pace = (1.0 / (PEAKS * (rows + 1.0))).clamp(1.0 / (PEAKS * memory * 25.0).max(1.0), 1.0);
        let horizon = (rows + 100.0).min(memory * 50.0);
        if excess > 0.0 {
            let learned = excess.min(CLIP * self.mean);
            let weight = 1.0 / (self.peaks + 1.0).min(memory);
            self.peaks = (self.peaks + 1.0).min(memory);
            let step = pace * self.mean * (1.0 - PEAKS);
            self.mean += weight * (learned - self.mean);
            self.square += weight * (learned * learned - self.square);
            self.threshold += step;
            self.rate += (1.0 - self.rate) / horizon;
        } else {
            self.threshold = (self.threshold - pace * self.mean * PEAKS).max(0.0);
            self.rate -= self.rate / horizon;
        }
        self.mean = self.mean.max(1e-3);
        self.square = self.square.max(1.2 * self.mean * self.mean);
        self.rate = self.rate.max(1e-5);
    }
}

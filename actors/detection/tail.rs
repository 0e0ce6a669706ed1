//! The tails of statistics: how rare is what is seen now?
//!
//! Peaks over a threshold follow a generalised Pareto distribution (Pickands 1975). Siffer et al. (2017, "Anomaly detection
//! in streams with extreme value theory", SPOT) fit it to a stream; here the threshold is a quantile that is tracked step by
//! step, and the fit is by moments that decay, so that a tail is five numbers and an update a handful of operations.

use serde::{Deserialize, Serialize};

use crate::tuning::{TAILS, Tuning};

/// The share of rows that lie beyond the threshold.
const PEAKS: f32 = 0.04;

/// How many peaks the first guess of a tail counts for.
const PRIOR_PEAKS: u8 = 8;

/// The shape of the first guess: heavier than exponential, as most series of machines are.
const PRIOR_SHAPE: f32 = 0.15;

/// The most that one statistic can say, as -log10 p.
const SURPRISE_MAX: f32 = 16.0;

/// The tails of all statistics, field by field: most rows touch the thresholds and rates alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tails {
    thresholds: [f32; TAILS],
    rates: [f32; TAILS],
    means: [f32; TAILS],
    squares: [f32; TAILS],
    peaks: [u8; TAILS],
}

impl Tails {
    /// Returns the tails that are believed before anything was seen: `typical` is the size of an ordinary value.
    pub(crate) fn new(typical: [f32; TAILS]) -> Self {
        let means = typical.map(|typical| typical * 0.4);
        // Of a generalised Pareto with shape k, E[y^2] = 2 m^2 (1 - k) / (1 - 2 k).
        let squares = means.map(|mean| 2.0 * mean * mean * (1.0 - PRIOR_SHAPE) / (1.0 - 2.0 * PRIOR_SHAPE));
        Self { thresholds: typical, rates: [PEAKS; TAILS], means, squares, peaks: [PRIOR_PEAKS; TAILS] }
    }

    /// Learns `values`, clipped: what is far beyond a tail moves it by little. `say` hears the number of each statistic
    /// whose value lies beyond its threshold and -log10 of the chance to see it or more. Of each such value `share` is
    /// learned, from 0 to 1. Returns how many there were.
    #[inline]
    pub(crate) fn step(
        &mut self,
        values: &[f32; TAILS],
        (paces, share): (&Paces, f32),
        tuning: &Tuning,
        mut say: impl FnMut(usize, f32),
    ) -> f32 {
        // Nearly all statistics of nearly all rows lie below their threshold: that is one loop without a branch.
        let before = self.thresholds;
        for index in 0..TAILS {
            let (threshold, rate) = (before[index], self.rates[index]);
            let is_peak = values[index] > threshold;
            let lower = threshold - paces.threshold[index] * PEAKS * self.means[index];
            let lower = if lower > 0.0 { lower } else { 0.0 };
            self.thresholds[index] = if is_peak { threshold } else { lower };
            self.rates[index] = if is_peak { rate } else { rate - rate * paces.rate[index] };
        }
        let mut peaks = 0.0;
        for index in 0..TAILS {
            // A statistic that is not measured yet teaches nothing.
            if values[index] > before[index] && paces.rate[index] > 0.0 {
                peaks += 1.0;
                say(index, self.surprise(index, values[index], tuning));
                let pace = (share * paces.threshold[index], share * paces.rate[index]);
                self.peak(index, values[index], (pace, share), tuning);
            }
        }
        peaks
    }

    fn surprise(&self, index: usize, value: f32, tuning: &Tuning) -> f32 {
        let excess = value - self.thresholds[index];
        let (mean, square) = (self.means[index], self.squares[index]);
        let variance = (square - mean * mean).max(mean * mean * 0.2);
        let shape = (0.5 * (1.0 - mean * mean / variance)).clamp(-0.2, tuning.shape);
        let scale = (mean * (1.0 - shape)).max(f32::MIN_POSITIVE);
        let beyond = if shape.abs() < 0.02 {
            excess / scale
        } else {
            let inner = 1.0 + shape * excess / scale;
            if inner <= 1e-6 { 40.0 } else { inner.ln() / shape }
        };
        (beyond * std::f32::consts::LOG10_E - self.rates[index].max(1e-5).log10()).min(SURPRISE_MAX)
    }

    fn peak(&mut self, index: usize, value: f32, ((threshold, rate), share): ((f32, f32), f32), tuning: &Tuning) {
        let mean = self.means[index];
        let learned = (value - self.thresholds[index]).min(tuning.peak_clip * mean);
        let peaks = (f32::from(self.peaks[index]) + 1.0).min(tuning.peaks);
        self.peaks[index] = peaks as u8;
        let weight = share / peaks;
        self.thresholds[index] += threshold * mean * (1.0 - PEAKS);
        self.means[index] = (mean + weight * (learned - mean)).max(1e-3);
        self.squares[index] += weight * (learned * learned - self.squares[index]);
        self.rates[index] += (1.0 - self.rates[index]) * rate;
    }
}

/// How fast each tail learns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paces {
    threshold: [f32; TAILS],
    rate: [f32; TAILS],
}

impl Paces {
    /// Returns the paces of statistics that were all heard for so many rows, where `memory` peaks are remembered.
    #[inline]
    pub(crate) fn of(rows: f32, memory: f32) -> Self {
        let (threshold, rate) = pace(rows, memory);
        Self { threshold: [threshold; TAILS], rate: [rate; TAILS] }
    }

    /// Changes those of statistics that were heard for other so many rows; before the first, nothing is learned.
    #[inline]
    pub(crate) fn but(mut self, statistics: &[usize], rows: f32, memory: f32) -> Self {
        let (threshold, rate) = if rows > 0.0 { pace(rows, memory) } else { (0.0, 0.0) };
        for index in statistics {
            (self.threshold[*index], self.rate[*index]) = (threshold, rate);
        }
        self
    }
}

fn pace(rows: f32, memory: f32) -> (f32, f32) {
    let least = 1.0 / (PEAKS * memory * 25.0).max(1.0);
    let threshold = ((1.0 / PEAKS) / (rows + 1.0)).clamp(least, 1.0);
    (threshold, (1.0 / (rows + 100.0)).max(1.0 / (memory * 50.0)))
}

//! Simple detectors, as one writes them in an afternoon, each at the threshold that suits it best or is usual.

use super::Rival;

/// Rows that an alarm is not repeated in, for all of them.
const QUIET: u32 = 60;

/// The part that they share: nothing in the warm-up, and one alarm an event.
struct Alarm {
    warmup: u32,
    rows: u32,
    quiet: u32,
}

impl Alarm {
    fn new(warmup: u32) -> Self {
        Self { warmup, rows: 0, quiet: 0 }
    }

    fn row(&mut self, size: f64, threshold: f64) -> (f64, bool) {
        self.rows += 1;
        self.quiet = self.quiet.saturating_sub(1);
        if self.rows <= self.warmup || !size.is_finite() {
            return (0.0, false);
        }
        if size >= threshold && self.quiet > 0 {
            self.quiet = QUIET;
            return (0.0, false);
        }
        let alarm = size >= threshold;
        if alarm {
            self.quiet = QUIET;
        }
        (size / (size + threshold), alarm)
    }
}

/// Three standard deviations of all so far (Welford 1962).
pub(crate) struct Sigma {
    alarm: Alarm,
    count: f64,
    mean: f64,
    square: f64,
    threshold: f64,
}

impl Sigma {
    pub(crate) fn new(warmup: u32, threshold: f64) -> Self {
        Self { alarm: Alarm::new(warmup), count: 0.0, mean: 0.0, square: 0.0, threshold }
    }
}

impl Rival for Sigma {
    fn row(&mut self, _: f64, value: Option<f64>) -> (f64, bool) {
        let Some(value) = value else { return self.alarm.row(0.0, self.threshold) };
        let deviation = (self.square / self.count.max(1.0)).sqrt().max(1e-9);
        let size = (value - self.mean).abs() / deviation;
        // Static: what the warm-up taught is kept.
        if self.alarm.rows <= self.alarm.warmup {
            self.count += 1.0;
            let off = value - self.mean;
            self.mean += off / self.count;
            self.square += off * (value - self.mean);
        }
        self.alarm.row(size, self.threshold)
    }
}

/// An exponentially weighted mean and variance.
pub(crate) struct Ewma {
    alarm: Alarm,
    pace: f64,
    mean: f64,
    variance: f64,
    threshold: f64,
}

impl Ewma {
    pub(crate) fn new(warmup: u32, threshold: f64) -> Self {
        Self { alarm: Alarm::new(warmup), pace: 0.02, mean: 0.0, variance: 0.0, threshold }
    }

    fn size(&mut self, value: f64) -> f64 {
        if self.alarm.rows == 0 {
            self.mean = value;
        }
        let off = value - self.mean;
        let size = off.abs() / self.variance.sqrt().max(1e-9 + 1e-3 * self.mean.abs());
        self.mean += self.pace * off;
        self.variance = (1.0 - self.pace) * (self.variance + self.pace * off * off);
        size
    }
}

impl Rival for Ewma {
    fn row(&mut self, _: f64, value: Option<f64>) -> (f64, bool) {
        let Some(value) = value else { return self.alarm.row(0.0, self.threshold) };
        let size = self.size(value);
        self.alarm.row(size, self.threshold)
    }
}

/// Distance from the median of the last rows in median absolute deviations.
pub(crate) struct RobustZ {
    alarm: Alarm,
    past: std::collections::VecDeque<f64>,
    threshold: f64,
}

impl RobustZ {
    pub(crate) fn new(warmup: u32, threshold: f64) -> Self {
        Self { alarm: Alarm::new(warmup), past: std::collections::VecDeque::new(), threshold }
    }
}

impl Rival for RobustZ {
    fn row(&mut self, _: f64, value: Option<f64>) -> (f64, bool) {
        let Some(value) = value else { return self.alarm.row(0.0, self.threshold) };
        let median = |mut values: Vec<f64>| {
            let middle = values.len() / 2;
            *values.select_nth_unstable_by(middle, f64::total_cmp).1
        };
        let size = if self.past.len() < 8 {
            0.0
        } else {
            let middle = median(self.past.iter().copied().collect());
            let spread = median(self.past.iter().map(|each| (each - middle).abs()).collect());
            (value - middle).abs() / (1.4826 * spread).max(1e-9 + 1e-3 * middle.abs())
        };
        if self.past.len() == 120 {
            self.past.pop_front();
        }
        self.past.push_back(value);
        self.alarm.row(size, self.threshold)
    }
}

/// The residual of an exponentially weighted mean through a peaks-over-threshold tail: SPOT (Siffer et al. 2017), with a
/// threshold at 98 % of the warm-up and the fit by moments.
pub(crate) struct Spot {
    ewma: Ewma,
    learned: Vec<f64>,
    threshold: f64,
    peaks: f64,
    mean: f64,
    square: f64,
    risk: f64,
}

impl Spot {
    pub(crate) fn new(warmup: u32, risk: f64) -> Self {
        Self {
            ewma: Ewma::new(warmup, risk),
            learned: Vec::new(),
            threshold: 0.0,
            peaks: 0.0,
            mean: 0.0,
            square: 0.0,
            risk,
        }
    }

    fn learn(&mut self, excess: f64) {
        self.peaks += 1.0;
        self.mean += (excess - self.mean) / self.peaks;
        self.square += (excess * excess - self.square) / self.peaks;
    }
}

impl Rival for Spot {
    fn row(&mut self, _: f64, value: Option<f64>) -> (f64, bool) {
        let Some(value) = value else { return self.ewma.alarm.row(0.0, self.risk) };
        let size = self.ewma.size(value);
        let rows = self.ewma.alarm.rows;
        if rows < self.ewma.alarm.warmup {
            self.learned.push(size);
            return self.ewma.alarm.row(0.0, self.risk);
        }
        if !self.learned.is_empty() {
            self.learned.sort_by(f64::total_cmp);
            self.threshold = self.learned[self.learned.len() * 98 / 100];
            for size in std::mem::take(&mut self.learned) {
                if size > self.threshold {
                    self.learn(size - self.threshold);
                }
            }
        }
        let excess = size - self.threshold;
        let mut rare = 0.0;
        if excess > 0.0 {
            let variance = (self.square - self.mean * self.mean).max(0.1 * self.mean * self.mean).max(1e-12);
            let shape = (0.5 * (1.0 - self.mean * self.mean / variance)).clamp(-0.3, 0.45);
            let scale = (self.mean * (1.0 - shape)).max(1e-9);
            let inner = (1.0 + shape * excess / scale).max(1e-9);
            let beyond = if shape.abs() < 1e-3 { excess / scale } else { inner.ln() / shape };
            rare = (beyond / std::f64::consts::LN_10 + 1.7).min(30.0);
            if rare < self.risk {
                self.learn(excess);
            }
        }
        self.ewma.alarm.row(rare, self.risk)
    }
}

/// Cumulative sums (Page 1954) of the residual of a slow mean.
pub(crate) struct Cusum {
    ewma: Ewma,
    sums: [f64; 2],
    threshold: f64,
}

impl Cusum {
    pub(crate) fn new(warmup: u32, threshold: f64) -> Self {
        let mut ewma = Ewma::new(warmup, threshold);
        ewma.pace = 0.005;
        Self { ewma, sums: [0.0; 2], threshold }
    }
}

impl Rival for Cusum {
    fn row(&mut self, _: f64, value: Option<f64>) -> (f64, bool) {
        let Some(value) = value else { return self.ewma.alarm.row(0.0, self.threshold) };
        let mean = self.ewma.mean;
        let size = self.ewma.size(value).min(10.0) * (value - mean).signum();
        for (sum, size) in self.sums.iter_mut().zip([size, -size]) {
            *sum = (*sum + size - 0.75).max(0.0);
        }
        let sum = self.sums[0].max(self.sums[1]);
        if sum >= self.threshold {
            self.sums = [0.0; 2];
        }
        self.ewma.alarm.row(sum, self.threshold)
    }
}

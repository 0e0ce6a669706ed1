//! Which length scales, signal and noise make the measured values most plausible.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use serde::{Deserialize, Serialize};

use super::{
    descent::descend,
    kernel::{Kernel, Metric},
    predict::Process,
};

/// The variance that keeps the matrices invertible.
const JITTER: f64 = 1e-8;

/// The range of all logarithms of parameters, so that none overflows.
const LOG_MAX: f64 = 16.0;

/// What a process is fitted to: points, their values with about mean 0 and variance 1, and noise known beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    pub(crate) points: Vec<Vec<f64>>,
    pub(crate) values: Vec<f64>,
    /// The variance of each value beside the common noise.
    pub(crate) extra: Vec<f64>,
}

/// What is thought of the parameters before anything is measured: means and deviations of normal distributions over
/// their logarithms.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) length: (f64, f64),
    pub(crate) signal: (f64, f64),
    pub(crate) apart: (f64, f64),
    pub(crate) noise: (f64, f64),
    /// The steps of the descent from each start.
    pub(crate) steps_max: usize,
}

impl Settings {
    /// Length scales grow with the root of the dimension, because distances do (Hvarfner, Hellsten and Nardi 2024).
    pub(crate) fn new(dims: usize, noisy: bool, steps_max: usize) -> Settings {
        let length = (0.35_f64.ln() + 0.5 * (dims.max(1) as f64).ln(), 1.0);
        let spread = if noisy { (0.02_f64.ln(), 1.5) } else { (1e-4_f64.ln(), 1.0) };
        Settings { length, signal: (-0.3, 1.0), apart: (-0.3, 1.0), noise: spread, steps_max }
    }

    /// Returns the parameters that are most plausible before anything is measured.
    fn start(&self, dims: usize, length_shift: f64) -> Vec<f64> {
        let mut start = vec![self.length.0 + length_shift; dims];
        start.extend([self.signal.0, self.apart.0, self.noise.0, 0.0]);
        start
    }
}

/// Returns the process with the most plausible parameters given the data and what was thought before (the maximum a
/// posteriori), the best of a descent from each start; `warm` holds the parameters of an earlier fit.
pub(crate) fn fit(metric: &Metric, data: &Data, settings: &Settings, warm: Option<&[f64]>) -> Process {
    let dims = metric.categories.len();
    let pairs = squares(metric, &data.points);
    let height = |parameters: &[f64]| implausibility(parameters, data, &pairs, settings);
    let mut starts = vec![settings.start(dims, 0.0)];
    match warm.filter(|warm| warm.len() == dims + 4) {
        Some(warm) => starts.push(warm.to_vec()),
        None => starts.push(settings.start(dims, -0.8)),
    }
    let places = starts.into_iter().map(|start| descend(start, settings.steps_max, &height));
    let best = places.reduce(|best, next| if next.height < best.height { next } else { best });
    let parameters = best.map_or_else(|| settings.start(dims, 0.0), |place| place.at);
    Process::new(metric.clone(), data.clone(), parameters)
}

/// Returns the squared differences of each pair of points, the second before the first, coordinate by coordinate.
fn squares(metric: &Metric, points: &[Vec<f64>]) -> Vec<f64> {
    let mut pairs = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2 * metric.categories.len());
    for (index, a) in points.iter().enumerate() {
        for b in &points[..index] {
            pairs.extend(metric.squares(a, b));
        }
    }
    pairs
}

/// Returns the negative logarithm of the plausibility of these parameters, without constants, and its slope.
fn implausibility(parameters: &[f64], data: &Data, pairs: &[f64], settings: &Settings) -> (f64, Vec<f64>) {
    let count = data.points.len();
    let dims = parameters.len() - 4;
    let (noise_log, mean) = (parameters[dims + 2], parameters[dims + 3]);
    if parameters[..dims + 3].iter().any(|log| log.abs() > LOG_MAX) {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    }
    let kernel = Kernel::new(&parameters[..dims + 2]);
    let noise = noise_log.exp();
    let mut matrix = DMatrix::zeros(count, count);
    // For each pair the slope by each length scale, then the correlations of both parts of the kernel.
    let mut slopes = vec![0.0; count * count.saturating_sub(1) / 2 * (dims + 2)];
    let mut rows = slopes.chunks_exact_mut(dims + 2);
    let mut number = 0;
    for row in 0..count {
        matrix[(row, row)] = kernel.variance() + noise + data.extra[row] + JITTER;
        for column in 0..row {
            let Some(out) = rows.next() else { break };
            let (together, apart) = kernel.slopes(&pairs[number * dims..(number + 1) * dims], &mut out[..dims]);
            matrix[(row, column)] = kernel.together * together + kernel.apart * apart;
            (out[dims], out[dims + 1]) = (kernel.together * together, kernel.apart * apart);
            number += 1;
        }
    }
    let Some(factor) = Cholesky::new(matrix) else {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    };
    let residuals = DVector::from_iterator(count, data.values.iter().map(|value| value - mean));
    let solved = factor.solve(&residuals);
    let misfit = 0.5 * residuals.dot(&solved) + half_log_determinant(&factor);
    let mut slope = vec![0.0; parameters.len()];
    let trace = add_slopes(&mut slope[..dims + 2], &factor, &solved, &slopes);
    slope[dims] += trace * kernel.together;
    slope[dims + 1] += trace * kernel.apart;
    slope[dims + 2] = trace * noise;
    slope[dims + 3] = -solved.sum();
    (misfit + add_priors(parameters, settings, &mut slope), slope)
}

/// Adds the slope of the misfit by the parameters of the kernel as far as pairs of points decide, and returns its slope
/// by a variance of every point.
fn add_slopes(slope: &mut [f64], factor: &Cholesky<f64, Dyn>, solved: &DVector<f64>, slopes: &[f64]) -> f64 {
    let inverse = factor.inverse();
    let mut pairs = slopes.chunks_exact(slope.len());
    let mut trace = 0.0;
    for row in 0..solved.len() {
        trace += 0.5 * (inverse[(row, row)] - solved[row] * solved[row]);
        for column in 0..row {
            let Some(pair) = pairs.next() else { break };
            let share = inverse[(row, column)] - solved[row] * solved[column];
            slope.iter_mut().zip(pair).for_each(|(slope, pair)| *slope += share * pair);
        }
    }
    trace
}

/// Adds the slope of the priors and returns their part of the implausibility.
fn add_priors(parameters: &[f64], settings: &Settings, slope: &mut [f64]) -> f64 {
    let dims = parameters.len() - 4;
    let mut total = 0.0;
    for (index, parameter) in parameters.iter().enumerate() {
        let (mean, deviation) = match index {
            _ if index < dims => settings.length,
            _ if index == dims => settings.signal,
            _ if index == dims + 1 => settings.apart,
            _ if index == dims + 2 => settings.noise,
            _ => (0.0, 1.0),
        };
        let off = (parameter - mean) / deviation;
        total += 0.5 * off * off;
        slope[index] += off / deviation;
    }
    total
}

fn half_log_determinant(factor: &Cholesky<f64, Dyn>) -> f64 {
    let lower = factor.l_dirty();
    (0..lower.nrows()).map(|row| lower[(row, row)].ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_of_the_implausibility_is_that_of_its_finite_differences() {
        let metric = Metric { categories: vec![false, true, false] };
        let points: Vec<Vec<f64>> = (0..7_u32)
            .map(|index| {
                let index = f64::from(index);
                vec![(index * 0.37).fract(), index % 2.0, (index * 0.61).fract()]
            })
            .collect();
        let values = points.iter().map(|point| (5.0 * point[0]).sin() + point[1] - point[2]).collect();
        let data = Data { extra: vec![0.0, 0.1, 0.0, 0.0, 0.3, 0.0, 0.0], points, values };
        let settings = Settings::new(3, true, 10);
        let pairs = squares(&metric, &data.points);
        let at = vec![-0.5, 0.2, 0.4, 0.3, -0.6, -3.0, 0.2];
        let (_, slope) = implausibility(&at, &data, &pairs, &settings);
        for index in 0..at.len() {
            let beside = |by: f64| {
                let mut beside = at.clone();
                beside[index] += by;
                implausibility(&beside, &data, &pairs, &settings).0
            };
            let measured = (beside(1e-5) - beside(-1e-5)) / 2e-5;
            assert!((measured - slope[index]).abs() < 1e-4, "{index}: {measured} {}", slope[index]);
        }
    }
}

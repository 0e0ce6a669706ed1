//! Which length scales, signal and noise make the measured values most plausible.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};
use serde::{Deserialize, Serialize};

use super::{
    descent::descend,
    kernel::{Metric, matern_and_slope},
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
    pub(crate) noise: (f64, f64),
    /// The steps of the descent from each start.
    pub(crate) steps_max: usize,
}

impl Settings {
    /// Length scales grow with the root of the dimension, because distances do (Hvarfner, Hellsten and Nardi 2024).
    pub(crate) fn new(dims: usize, noisy: bool, steps_max: usize) -> Settings {
        let length = (0.35_f64.ln() + 0.5 * (dims.max(1) as f64).ln(), 0.8);
        let noise = if noisy { (0.02_f64.ln(), 1.5) } else { (1e-4_f64.ln(), 1.0) };
        Settings { length, signal: (0.0, 1.0), noise, steps_max }
    }

    /// Returns the parameters that are most plausible before anything is measured.
    fn start(&self, dims: usize, length_shift: f64) -> Vec<f64> {
        let mut start = vec![self.length.0 + length_shift; dims];
        start.extend([self.signal.0, self.noise.0, 0.0]);
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
    match warm.filter(|warm| warm.len() == dims + 3) {
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
    let dims = parameters.len() - 3;
    let (signal_log, noise_log, mean) = (parameters[dims], parameters[dims + 1], parameters[dims + 2]);
    if parameters[..dims + 2].iter().any(|log| log.abs() > LOG_MAX) {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    }
    let (signal, noise) = (signal_log.exp(), noise_log.exp());
    let weights: Vec<f64> = parameters[..dims].iter().map(|log| (-2.0 * log).exp()).collect();
    let mut matrix = DMatrix::zeros(count, count);
    let mut slopes = Vec::with_capacity(count * count / 2);
    let mut rest = pairs;
    for row in 0..count {
        matrix[(row, row)] = signal + noise + data.extra[row] + JITTER;
        for column in 0..row {
            let (pair, after) = rest.split_at(dims);
            rest = after;
            let square: f64 = pair.iter().zip(&weights).map(|(square, weight)| square * weight).sum();
            let (correlation, slope) = matern_and_slope(square);
            matrix[(row, column)] = signal * correlation;
            slopes.push(signal * slope);
        }
    }
    let kernel_traces = matrix.clone();
    let Some(factor) = Cholesky::new(matrix) else {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    };
    let residuals = DVector::from_iterator(count, data.values.iter().map(|value| value - mean));
    let solved = factor.solve(&residuals);
    let misfit = 0.5 * residuals.dot(&solved) + half_log_determinant(&factor);
    let mut slope = vec![0.0; parameters.len()];
    add_slopes(&mut slope, &factor, &solved, &kernel_traces, (&slopes, pairs, &weights), signal);
    slope[dims + 1] *= noise;
    slope[dims + 2] = -solved.sum();
    (misfit + add_priors(parameters, settings, &mut slope), slope)
}

/// Adds the slope of the misfit for each length scale and the signal, and the plain trace for the noise.
fn add_slopes(
    slope: &mut [f64],
    factor: &Cholesky<f64, Dyn>,
    solved: &DVector<f64>,
    matrix: &DMatrix<f64>,
    (slopes, pairs, weights): (&[f64], &[f64], &[f64]),
    signal: f64,
) {
    let dims = weights.len();
    let inverse = factor.inverse();
    let mut rest = pairs;
    let mut number = 0;
    for row in 0..solved.len() {
        let own = inverse[(row, row)] - solved[row] * solved[row];
        slope[dims + 1] += 0.5 * own;
        slope[dims] += 0.5 * own * signal;
        for column in 0..row {
            let (pair, after) = rest.split_at(dims);
            rest = after;
            let share = inverse[(row, column)] - solved[row] * solved[column];
            slope[dims] += share * matrix[(row, column)];
            let pull = share * slopes[number];
            number += 1;
            for ((slope, square), weight) in slope[..dims].iter_mut().zip(pair).zip(weights) {
                *slope += pull * square * weight;
            }
        }
    }
}

/// Adds the slope of the priors and returns their part of the implausibility.
fn add_priors(parameters: &[f64], settings: &Settings, slope: &mut [f64]) -> f64 {
    let dims = parameters.len() - 3;
    let mut total = 0.0;
    for (index, parameter) in parameters.iter().enumerate() {
        let (mean, deviation) = match index {
            _ if index < dims => settings.length,
            _ if index == dims => settings.signal,
            _ if index == dims + 1 => settings.noise,
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
        let at = vec![-0.5, 0.2, 0.4, 0.3, -3.0, 0.2];
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

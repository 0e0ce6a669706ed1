//! Which length scales, signal and noise make the measured values most plausible.

use std::cmp::Ordering;

use nalgebra::{Cholesky, DMatrix, DVector, Dyn, SymmetricEigen};
use serde::{Deserialize, Serialize};

use super::{
    descent::{Place, descend},
    kernel::{Kernel, Metric},
    predict::Process,
};

/// The variance that keeps the matrices invertible.
const JITTER: f64 = 1e-8;

/// The range of all logarithms of parameters, so that none overflows.
const LOG_MAX: f64 = 16.0;

/// How much the implausibility must fall for the squared direction, in units of the length scales, before it is tried.
const BEND_MIN: f64 = 1.0;

/// After so many steps a process with a direction is given up unless it is the better one.
const TRIED: usize = 8;

/// The share of the squared distance along the first direction that it takes over from the length scales.
const TURN: f64 = 0.5;

/// By how much less implausible a process with a direction must be, for each dimension: the more there are, the more
/// directions fit by chance.
const MARGIN: f64 = 0.35;

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
/// posteriori), the best of a descent from each start, with a direction across the axes where that explains much more;
/// `warm` holds the parameters of an earlier fit.
pub(crate) fn fit(metric: &Metric, data: &Data, settings: &Settings, warm: Option<&[f64]>) -> Process {
    let dims = metric.categories.len();
    let pairs = differences(metric, &data.points);
    let height = |parameters: &[f64]| implausibility(metric, parameters, data, &pairs, settings);
    let mut starts = vec![settings.start(dims, 0.0)];
    match warm.filter(|warm| warm.len() == dims + 4 || warm.len() == 2 * dims + 4) {
        Some(warm) => starts.push(warm.to_vec()),
        None => starts.push(settings.start(dims, -0.8)),
    }
    let places = starts.into_iter().map(|start| descend(start, settings.steps_max, &height));
    let rank = |place: &Place| place.height + if place.at.len() > dims + 4 { MARGIN * dims as f64 } else { 0.0 };
    let mut best = places.reduce(|best, next| if rank(&next) < rank(&best) { next } else { best });
    if let Some(place) = best.take_if(|place| place.at.len() == dims + 4 && place.height.is_finite()) {
        let start = turned(metric, &place.at, data, &pairs);
        let tried = start.map(|start| descend(start, TRIED, &height)).filter(|tried| tried.height < place.height);
        let turned = tried.map(|tried| descend(tried.at, settings.steps_max - TRIED.min(settings.steps_max), &height));
        best = Some(turned.filter(|turned| rank(turned) < rank(&place)).unwrap_or(place));
    }
    let parameters = best.map_or_else(|| settings.start(dims, 0.0), |place| place.at);
    Process::new(metric.clone(), data.clone(), parameters)
}

/// Returns by how much more plausible the values are as this process than as noise around one mean: the natural logarithm
/// of the ratio of the two, each at its best.
pub(crate) fn evidence(process: &Process, settings: &Settings) -> f64 {
    let (metric, data) = (&process.metric, &process.data);
    let pairs = differences(metric, &data.points);
    let (height, _) = implausibility(metric, process.parameters(), data, &pairs, settings);
    let count = data.values.len().max(1) as f64;
    let mean = data.values.iter().sum::<f64>() / count;
    let variance = data.values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    0.5 * count * (variance.max(JITTER).ln() + 1.0) - height
}

/// Returns parameters with the direction that promises most, which takes over some of the squared distance from the
/// length scales; `None` if none promises enough.
///
/// Beside no direction, the implausibility bends with the direction as a matrix says, and falls the most along the
/// eigenvector of its smallest eigenvalue. The length scales are at their best, so what is off the diagonal decides.
fn turned(metric: &Metric, parameters: &[f64], data: &Data, pairs: &[f64]) -> Option<Vec<f64>> {
    let dims = metric.categories.len();
    if dims < 2 {
        return None;
    }
    let kernel = Kernel::new(&parameters[..dims + 2], &[]);
    let eigen = SymmetricEigen::new(bend(metric, &kernel, (parameters[dims + 2], parameters[dims + 3]), data, pairs)?);
    let (index, least) = eigen.eigenvalues.argmin();
    if least.partial_cmp(&-BEND_MIN) != Some(Ordering::Less) {
        return None;
    }
    let way = eigen.eigenvectors.column(index);
    let mut start = parameters.to_vec();
    for axis in 0..dims {
        start[axis] -= 0.5 * (-TURN * way[axis] * way[axis]).ln_1p();
        start.push(TURN.sqrt() * way[axis] * kernel.weights[axis].sqrt());
    }
    Some(start)
}

/// Returns how the implausibility bends with a direction in units of the length scales, without the diagonal; `None` if
/// the process cannot be computed.
fn bend(
    metric: &Metric,
    kernel: &Kernel,
    (noise_log, mean): (f64, f64),
    data: &Data,
    pairs: &[f64],
) -> Option<DMatrix<f64>> {
    let (count, dims) = (data.points.len(), metric.categories.len());
    let places: Vec<(usize, usize)> = (0..count).flat_map(|row| (0..row).map(move |column| (row, column))).collect();
    let mut matrix = DMatrix::zeros(count, count);
    for row in 0..count {
        matrix[(row, row)] = kernel.variance() + noise_log.exp() + data.extra[row] + JITTER;
    }
    for (place, pair) in places.iter().zip(pairs.chunks_exact(dims)) {
        matrix[*place] = kernel.covariance(pair.iter().copied());
    }
    let factor = Cholesky::new(matrix)?;
    let solved = factor.solve(&DVector::from_iterator(count, data.values.iter().map(|value| value - mean)));
    let inverse = factor.inverse();
    let roots: Vec<f64> = kernel.weights.iter().map(|weight| weight.sqrt()).collect();
    let numbers: Vec<usize> = (0..dims).filter(|axis| !metric.categories[*axis]).collect();
    let mut bend = DMatrix::zeros(dims, dims);
    for (place, pair) in places.iter().zip(pairs.chunks_exact(dims)) {
        let share = (inverse[*place] - solved[place.0] * solved[place.1]) * kernel.slope_by_square(pair);
        for (index, &a) in numbers.iter().enumerate() {
            for &b in &numbers[..index] {
                bend[(a, b)] += share * pair[a] * pair[b] * roots[a] * roots[b];
            }
        }
    }
    bend.fill_upper_triangle_with_lower_triangle();
    Some(bend)
}

/// Returns the differences of each pair of points, the second before the first, coordinate by coordinate.
fn differences(metric: &Metric, points: &[Vec<f64>]) -> Vec<f64> {
    let mut pairs = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2 * metric.categories.len());
    for (index, a) in points.iter().enumerate() {
        for b in &points[..index] {
            pairs.extend(metric.differences(a, b));
        }
    }
    pairs
}

/// Returns the negative logarithm of the plausibility of these parameters, without constants, and its slope.
fn implausibility(
    metric: &Metric,
    parameters: &[f64],
    data: &Data,
    pairs: &[f64],
    settings: &Settings,
) -> (f64, Vec<f64>) {
    let count = data.points.len();
    let dims = metric.categories.len();
    let across = dims + 4..parameters.len();
    if parameters[..dims + 3].iter().any(|log| log.abs() > LOG_MAX) {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    }
    let kernel = Kernel::new(&parameters[..dims + 2], &parameters[across.clone()]);
    let noise = parameters[dims + 2].exp();
    let mut matrix = DMatrix::zeros(count, count);
    // For each pair the slope by each length scale and by the direction, then the parts of the kernel.
    let width = dims + across.len();
    let mut slopes = vec![0.0; count * count.saturating_sub(1) / 2 * (width + 2)];
    let mut rows = slopes.chunks_exact_mut(width + 2);
    let mut number = 0;
    for row in 0..count {
        matrix[(row, row)] = kernel.variance() + noise + data.extra[row] + JITTER;
        for column in 0..row {
            let Some(out) = rows.next() else { break };
            let (together, apart) = kernel.slopes(&pairs[number * dims..(number + 1) * dims], &mut out[..width]);
            matrix[(row, column)] = kernel.together * together + kernel.apart * apart;
            (out[width], out[width + 1]) = (kernel.together * together, kernel.apart * apart);
            number += 1;
        }
    }
    let Some(factor) = Cholesky::new(matrix) else {
        return (f64::INFINITY, vec![0.0; parameters.len()]);
    };
    let residuals = DVector::from_iterator(count, data.values.iter().map(|value| value - parameters[dims + 3]));
    let solved = factor.solve(&residuals);
    let misfit = 0.5 * residuals.dot(&solved) + half_log_determinant(&factor);
    let mut by_pairs = vec![0.0; width + 2];
    let trace = add_slopes(&mut by_pairs, &factor, &solved, &slopes);
    let mut slope = by_pairs[..dims].to_vec();
    slope.push(by_pairs[width] + trace * kernel.together);
    slope.push(by_pairs[width + 1] + trace * kernel.apart);
    slope.extend([trace * noise, -solved.sum()]);
    // No direction goes through choices, which have no order.
    let numbers = by_pairs[dims..width].iter().zip(&metric.categories);
    slope.extend(numbers.map(|(slope, category)| if *category { 0.0 } else { *slope }));
    (misfit + add_priors(parameters, dims, settings, &mut slope), slope)
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
fn add_priors(parameters: &[f64], dims: usize, settings: &Settings, slope: &mut [f64]) -> f64 {
    let mut total = 0.0;
    let unit = settings.length.0.exp();
    for (index, parameter) in parameters.iter().enumerate() {
        if index >= dims + 4 {
            // Cauchy's distribution: most coordinates are next to 0, and few may be large.
            let off = parameter * unit;
            total += (off * off).ln_1p();
            slope[index] += 2.0 * off * unit / (1.0 + off * off);
            continue;
        }
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
    fn a_ridge_across_two_axes_is_seen_beyond_what_was_measured() {
        let points: Vec<Vec<f64>> = (0..30_u32)
            .map(|index| {
                let (x, off) = ((f64::from(index) * 0.618).fract(), (f64::from(index) * 0.414).fract() - 0.5);
                vec![0.6 * x, (0.6 * x + off).clamp(0.0, 1.0), (f64::from(index) * 0.732).fract()]
            })
            .collect();
        let values = points.iter().map(|point| 6.0 * (point[0] - point[1]).abs() - point[0] - 1.0).collect();
        let data = Data { extra: vec![0.0; points.len()], points, values };
        let process = fit(&Metric { categories: vec![false; 3] }, &data, &Settings::new(3, false, 25), None);
        let (on, off) = (process.at(&[0.8, 0.8, 0.5]), process.at(&[0.8, 0.4, 0.5]));
        assert!(on.mean + 1.0 < off.mean, "{on:?} {off:?}");
    }

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
        let pairs = differences(&metric, &data.points);
        let at = vec![-0.5, 0.2, 0.4, 0.3, -0.6, -3.0, 0.2, 1.5, 0.0, -2.0];
        let (_, slope) = implausibility(&metric, &at, &data, &pairs, &settings);
        for index in (0..at.len()).filter(|index| *index != 8) {
            let beside = |by: f64| {
                let mut beside = at.clone();
                beside[index] += by;
                implausibility(&metric, &beside, &data, &pairs, &settings).0
            };
            let measured = (beside(1e-5) - beside(-1e-5)) / 2e-5;
            assert!((measured - slope[index]).abs() < 1e-4, "{index}: {measured} {}", slope[index]);
        }
    }
}

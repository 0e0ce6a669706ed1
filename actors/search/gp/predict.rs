//! What a fitted process says about a point.

use nalgebra::{Cholesky, DMatrix, DVector, Dyn};

use super::{
    fit::Data,
    kernel::{Kernel, Metric},
    triangle::{Triangle, dot},
};

/// The smallest variance that is said.
const VARIANCE_MIN: f64 = 1e-10;

/// The variance that keeps the matrix invertible, and how it grows when it does not suffice.
const JITTER: f64 = 1e-8;

/// What to expect at a point: the mean and the variance of the noise-free value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Belief {
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

/// A Gaussian process with given parameters and data.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(super) metric: Metric,
    pub(super) data: Data,
    parameters: Vec<f64>,
    kernel: Kernel,
    mean: f64,
    factor: Cholesky<f64, Dyn>,
    triangle: Triangle,
    solved: DVector<f64>,
}

impl Process {
    pub(super) fn new(metric: Metric, data: Data, parameters: Vec<f64>) -> Process {
        let dims = metric.categories.len();
        let kernel = Kernel::new(&parameters[..dims + 2], &parameters[dims + 4..]);
        let (noise, mean) = (parameters[dims + 2].exp(), parameters[dims + 3]);
        let count = data.points.len();
        let plain = DMatrix::from_fn(count, count, |row, column| {
            kernel.covariance(metric.differences(&data.points[row], &data.points[column]))
        });
        let mut jitter = JITTER;
        let factor = loop {
            let mut matrix = plain.clone();
            for row in 0..count {
                matrix[(row, row)] += noise + data.extra[row] + jitter;
            }
            // The diagonal outweighs the rest before long, so this ends.
            match Cholesky::new(matrix) {
                Some(factor) => break factor,
                None => jitter *= 100.0,
            }
        };
        let residuals = DVector::from_iterator(count, data.values.iter().map(|value| value - mean));
        let solved = factor.solve(&residuals);
        let triangle = Triangle::new(&factor);
        Process { metric, data, parameters, kernel, mean, factor, triangle, solved }
    }

    /// Returns the logarithms of the length scales, signal and noise, the mean, and the direction if there is one.
    pub(crate) fn parameters(&self) -> &[f64] {
        &self.parameters
    }

    /// Returns the variance of a measurement around the noise-free value.
    pub(crate) fn noise(&self) -> f64 {
        self.parameters[self.metric.categories.len() + 2].exp()
    }

    /// Returns what to expect at a point.
    pub(crate) fn at(&self, point: &[f64]) -> Belief {
        let mut covariances = self.covariances(point);
        let mean = self.mean + dot(&covariances, self.solved.as_slice());
        self.triangle.solve(&mut covariances);
        let variance = self.kernel.variance() - dot(&covariances, &covariances);
        Belief { mean, variance: variance.max(VARIANCE_MIN) }
    }

    /// Returns the mean at a point, for a tenth of the time that its variance takes.
    pub(crate) fn mean_at(&self, point: &[f64]) -> f64 {
        self.mean + dot(&self.covariances(point), self.solved.as_slice())
    }

    /// Returns the covariance of the noise-free values at two points.
    pub(crate) fn covariance(&self, a: &[f64], b: &[f64]) -> f64 {
        let (mut left, mut right) = (self.covariances(a), self.covariances(b));
        self.triangle.solve(&mut left);
        self.triangle.solve(&mut right);
        self.kernel.covariance(self.metric.differences(a, b)) - dot(&left, &right)
    }

    /// Takes it that the value at this point is what is expected there (a Kriging believer: Ginsbourger, Le Riche and
    /// Carraro 2010), so that the next point of a lot is chosen elsewhere.
    pub(crate) fn believe(&mut self, point: &[f64]) {
        let covariances = self.covariances(point);
        let value = self.mean + dot(&covariances, self.solved.as_slice());
        let count = self.data.points.len();
        let noise = self.noise();
        let column =
            DVector::from_iterator(count + 1, covariances.into_iter().chain([self.kernel.variance() + noise + JITTER]));
        let factor = self.factor.insert_column(count, column);
        // Rounding can leave nothing of the new variance; then the point teaches nothing.
        if factor.l_dirty()[(count, count)].partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
            return;
        }
        self.triangle = Triangle::new(&factor);
        self.factor = factor;
        self.data.points.push(point.to_vec());
        self.data.values.push(value);
        self.data.extra.push(0.0);
        let residuals = DVector::from_iterator(count + 1, self.data.values.iter().map(|value| value - self.mean));
        self.solved = self.factor.solve(&residuals);
    }

    fn covariances(&self, point: &[f64]) -> Vec<f64> {
        let points = self.data.points.iter();
        points.map(|other| self.kernel.covariance(self.metric.differences(other, point))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, fit};
    use super::*;

    fn line() -> Process {
        let points: Vec<Vec<f64>> = (0..9_u32).map(|index| vec![f64::from(index) / 8.0]).collect();
        let values = points.iter().map(|point| (4.0 * point[0]).sin()).collect();
        let data = Data { extra: vec![0.0; points.len()], points, values };
        fit(&Metric { categories: vec![false] }, &data, &Settings::new(1, false, 40), None)
    }

    #[test]
    fn between_measured_points_the_process_is_nearly_right_and_nearly_sure() {
        let belief = line().at(&[0.3]);
        assert!((belief.mean - 1.2_f64.sin()).abs() < 0.02, "{belief:?}");
        assert!(belief.variance < 0.01, "{belief:?}");
        assert!((belief.mean - line().mean_at(&[0.3])).abs() < 1e-12, "{belief:?}");
    }

    #[test]
    fn a_believed_point_keeps_the_mean_and_takes_the_doubt() {
        let mut process = line();
        let before = process.at(&[1.5]);
        process.believe(&[1.5]);
        let after = process.at(&[1.5]);
        assert!((before.mean - after.mean).abs() < 1e-3, "{before:?} {after:?}");
        assert!(after.variance < before.variance * 0.1, "{before:?} {after:?}");
    }
}

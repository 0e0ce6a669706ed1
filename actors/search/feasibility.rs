//! Where measurements fail: a classifier that is sure of nothing far from what is known to work.
//!
//! A Gaussian process over the log odds of success, with the Laplace approximation (Rasmussen and Williams 2006,
//! algorithms 3.1 and 3.2). Its kernel has a linear part, because most failures of services are beyond an edge (too
//! much memory, too many threads), and a Matérn part for the rest.

use nalgebra::{Cholesky, DMatrix, DVector};

use crate::{
    gp::{Metric, Triangle, dot, matern},
    space::Point,
};

/// The variance of the log odds that a straight edge explains, over the whole range of one coordinate.
const LINEAR_VARIANCE: f64 = 100.0;

/// The variance of the log odds that a patch explains.
const PATCH_VARIANCE: f64 = 10.0;

/// The length scale of a patch, as a share of the root of the dimension.
const PATCH_LENGTH: f64 = 0.35;

/// The log odds of success where nothing is known, before and after the first failure.
const ODDS_LOG: (f64, f64) = (3.0, 1.0);

/// How many deviations the odds are taken below their mean, before and after the first failure.
const CAUTION: (f64, f64) = (0.3, 0.8);

const NEWTON_STEPS_MAX: usize = 20;

/// What is known of failures.
#[derive(Clone, Debug)]
pub(crate) struct Feasibility {
    metric: Metric,
    /// The point from which the linear part is counted.
    home: Point,
    points: Vec<Point>,
    weights: Vec<f64>,
    odds_log: f64,
    caution: f64,
    /// The slope of the likelihood at the mode.
    pull: DVector<f64>,
    /// The square roots of the likelihood's curvature at the mode.
    roots: DVector<f64>,
    triangle: Option<Triangle>,
}

impl Feasibility {
    /// Returns what these points, each of which worked or not, teach; `home` is known to work.
    pub(crate) fn learn(metric: &Metric, home: &[f64], points: Vec<Point>, worked: &[bool]) -> Feasibility {
        let dims = metric.categories.len().max(1) as f64;
        let failed = worked.iter().any(|worked| !worked);
        let length = PATCH_LENGTH * dims.sqrt();
        let pick = |(before, after): (f64, f64)| if failed { after } else { before };
        let mut model = Feasibility {
            metric: metric.clone(),
            home: home.to_vec(),
            weights: vec![1.0 / (length * length); metric.categories.len()],
            odds_log: pick(ODDS_LOG),
            caution: pick(CAUTION),
            pull: DVector::zeros(points.len()),
            roots: DVector::zeros(points.len()),
            triangle: None,
            points,
        };
        model.find_mode(worked);
        model
    }

    /// Returns a cautious estimate of the chance that a point works, 0 to 1: the less is known, the lower.
    pub(crate) fn chance(&self, point: &[f64]) -> f64 {
        let covariances: Vec<f64> = self.points.iter().map(|other| self.kernel(other, point)).collect();
        let mean = self.odds_log + dot(&covariances, self.pull.as_slice());
        let mut explained: Vec<f64> = covariances.iter().zip(&self.roots).map(|(each, root)| each * root).collect();
        if let Some(triangle) = &self.triangle {
            triangle.solve(&mut explained);
        }
        let variance = (self.kernel(point, point) - dot(&explained, &explained)).max(0.0);
        logistic(mean - self.caution * variance.sqrt())
    }

    fn kernel(&self, a: &[f64], b: &[f64]) -> f64 {
        let linear = a.iter().zip(b).zip(self.home.iter().zip(&self.metric.categories));
        let linear: f64 =
            linear.filter(|(_, (_, category))| !**category).map(|((a, b), (home, _))| (a - home) * (b - home)).sum();
        LINEAR_VARIANCE * linear + PATCH_VARIANCE * matern(self.metric.distance(a, b, &self.weights))
    }

    /// Goes by Newton's method to the most plausible log odds at the known points.
    fn find_mode(&mut self, worked: &[bool]) {
        let count = self.points.len();
        if count == 0 {
            return;
        }
        let kernel = DMatrix::from_fn(count, count, |row, column| self.kernel(&self.points[row], &self.points[column]));
        let target = DVector::from_iterator(count, worked.iter().map(|worked| f64::from(u8::from(*worked))));
        let mut offsets = DVector::<f64>::zeros(count);
        for _ in 0..NEWTON_STEPS_MAX {
            let chances = offsets.map(|offset| logistic(self.odds_log + offset));
            let curvature = chances.map(|chance| (chance * (1.0 - chance)).max(1e-9));
            self.pull = &target - &chances;
            self.roots = curvature.map(f64::sqrt);
            let mut matrix = DMatrix::identity(count, count);
            for column in 0..count {
                for row in 0..count {
                    matrix[(row, column)] += self.roots[row] * kernel[(row, column)] * self.roots[column];
                }
            }
            let Some(factor) = Cholesky::new(matrix) else { return };
            let wanted = curvature.component_mul(&offsets) + &self.pull;
            let inner = factor.solve(&self.roots.component_mul(&(&kernel * &wanted)));
            let next = &kernel * (wanted - self.roots.component_mul(&inner));
            let moved = (&next - &offsets).amax();
            offsets = next;
            self.triangle = Some(Triangle::new(&factor));
            if moved < 1e-4 {
                break;
            }
        }
    }
}

fn logistic(odds_log: f64) -> f64 {
    1.0 / (1.0 + (-odds_log).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric() -> Metric {
        Metric { categories: vec![false, false] }
    }

    #[test]
    fn what_lies_beyond_a_failure_is_thought_to_fail_and_what_lies_beside_successes_to_work() {
        let points = vec![vec![0.2, 0.2], vec![0.3, 0.8], vec![0.4, 0.5], vec![0.8, 0.5]];
        let model = Feasibility::learn(&metric(), &[0.2, 0.2], points, &[true, true, true, false]);
        assert!(model.chance(&[1.0, 0.5]) < 0.2, "{}", model.chance(&[1.0, 0.5]));
        assert!(model.chance(&[0.25, 0.5]) > 0.7, "{}", model.chance(&[0.25, 0.5]));
    }

    #[test]
    fn a_first_failure_makes_the_unknown_suspect() {
        let home = vec![0.1, 0.1];
        let before = Feasibility::learn(&metric(), &home, vec![home.clone()], &[true]);
        let after = Feasibility::learn(&metric(), &home, vec![home.clone(), vec![0.9, 0.1]], &[true, false]);
        assert!(before.chance(&[0.1, 0.9]) > after.chance(&[0.1, 0.9]) + 0.1);
    }
}

//! How much a measurement is expected to better the best value.

use std::f64::consts::{PI, SQRT_2};

use crate::gp::Belief;

/// Below so many deviations the direct formula loses its digits, and the series has more than enough.
const SERIES_BELOW: f64 = -9.0;

/// Returns the natural logarithm of the expected improvement below `best`, finite also where the improvement itself is
/// too small for a number (Ament et al. 2023, "Unexpected improvements to expected improvement").
pub(crate) fn log_expected_improvement(belief: Belief, best: f64) -> f64 {
    let deviation = belief.variance.sqrt();
    let score = (best - belief.mean) / deviation;
    deviation.ln() + log_h(score)
}

/// Returns the logarithm of `density(z) + z * distribution(z)` of the standard normal distribution.
fn log_h(z: f64) -> f64 {
    if z >= SERIES_BELOW {
        let density = (-0.5 * z * z).exp() / (2.0 * PI).sqrt();
        return (density + z * 0.5 * libm::erfc(-z / SQRT_2)).max(f64::MIN_POSITIVE).ln();
    }
    let square = 1.0 / (z * z);
    let series = 1.0 - square * (3.0 - square * (15.0 - 105.0 * square));
    -0.5 * z * z - 0.5 * (2.0 * PI).ln() + square.ln() + series.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_improvement_is_half_a_density_at_an_equal_mean() {
        let at_par = log_expected_improvement(Belief { mean: 1.0, variance: 4.0 }, 1.0);
        assert!((at_par.exp() - 2.0 / (2.0 * PI).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn the_series_takes_over_without_a_step() {
        let (direct, series) = (log_h(SERIES_BELOW), log_h(SERIES_BELOW - 1e-9));
        assert!((direct - series).abs() < 1e-4, "{direct} {series}");
    }

    #[test]
    fn hopeless_points_still_have_an_order() {
        assert!(log_h(-100.0) > log_h(-101.0) && log_h(-1e6).is_finite());
    }
}

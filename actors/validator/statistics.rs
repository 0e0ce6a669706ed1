//! Statistics of few and noisy numbers: robust middles, spreads and intervals.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// What lies farther from the median than so many median deviations is taken for a slip of the measurement.
const OUTLIER_DEVIATIONS: f64 = 3.5;

/// How sure a plan makes one side of an interval. An early stop has its share of the errors, so this is a little more than the
/// 95 % that are promised of the whole.
const PLANNED_CONFIDENCE: f64 = 0.96;

/// Beyond so many degrees of freedom Student's distribution is taken for the normal one.
const DEGREES_MAX: u32 = 1000;

/// Mean and spread of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// How many numbers.
    pub(super) n: u32,
    /// Their mean.
    pub(super) mean: f64,
    /// Their standard deviation, with n - 1; 0 for fewer than two.
    pub(super) deviation: f64,
}

impl Sample {
    /// Returns the sample of these numbers; `None` for none.
    pub(super) fn of(numbers: &[f64]) -> Option<Sample> {
        let n = u32::try_from(numbers.len()).ok().filter(|n| *n > 0)?;
        let mean = numbers.iter().sum::<f64>() / f64::from(n);
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        let deviation = if n > 1 { (squares / f64::from(n - 1)).sqrt() } else { 0.0 };
        Some(Sample { n, mean, deviation })
    }

    /// Returns how far the true mean may lie from this one in one direction, with `confidence` above one half.
    pub(super) fn margin(&self, confidence: f64) -> f64 {
        student(confidence, self.n.saturating_sub(1)) * self.deviation / f64::from(self.n).sqrt()
    }

    /// Returns how many numbers are needed for an interval of this half width, 92 % two-sided, by Stein's rule.
    pub(super) fn needed(&self, half_width: f64) -> u32 {
        let numbers =
            (student(PLANNED_CONFIDENCE, self.n.saturating_sub(1)) * self.deviation / half_width).powi(2).ceil();
        if numbers.is_finite() { numbers as u32 } else { u32::MAX }
    }

    /// Returns the half width of a confidence sequence: with probability 1 - `alpha` the true mean lies within it after
    /// every number, however often one looks. It is narrowest at about `tuned_for` numbers.
    ///
    /// It is the normal mixture of Robbins; that the spread is estimated too is paid for by the ratio of the quantiles
    /// of Student's and the normal distribution.
    pub(super) fn always_margin(&self, alpha: f64, tuned_for: u32) -> f64 {
        let twice_log = -2.0 * alpha.ln();
        let rho = f64::from(tuned_for.max(1)) / (twice_log + twice_log.ln_1p());
        let n = f64::from(self.n);
        let tail = 1.0 - alpha / 2.0;
        let inflation = student(tail, self.n.saturating_sub(1)) / student(tail, DEGREES_MAX);
        inflation * self.deviation * ((n + rho) * (((n + rho) / rho).ln() + twice_log)).sqrt() / n
    }
}

/// Returns the median; `None` for no numbers.
pub(super) fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Returns the numbers with outliers moved to 3.5 median deviations from the median.
///
/// Where half of the numbers are equal, that deviation is 0 and the mean deviation takes its place.
pub(super) fn winsorised(numbers: &[f64]) -> Vec<f64> {
    let Some(middle) = median(numbers) else { return Vec::new() };
    let apart: Vec<f64> = numbers.iter().map(|number| (number - middle).abs()).collect();
    let mean_deviation = apart.iter().sum::<f64>() / apart.len() as f64;
    let deviation = median(&apart).filter(|deviation| *deviation > 0.0).unwrap_or(mean_deviation);
    let reach = OUTLIER_DEVIATIONS * deviation;
    numbers.iter().map(|number| number.clamp(middle - reach, middle + reach)).collect()
}

/// Returns the quantile of Student's distribution for a probability from one half to below one; infinite for no
/// degrees of freedom.
pub(super) fn student(probability: f64, degrees: u32) -> f64 {
    if degrees == 0 {
        return f64::INFINITY;
    }
    let degrees = degrees.min(DEGREES_MAX);
    let central = 2.0 * probability - 1.0;
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    // Halving an angle below two this often leaves less than a float can tell apart.
    for _ in 0..56 {
        let middle = f64::midpoint(low, high);
        if within(middle, degrees) < central { low = middle } else { high = middle }
    }
    f64::from(degrees).sqrt() * f64::midpoint(low, high).tan()
}

/// Returns the probability that Student's t lies between -t and t, where t is the root of `degrees` times the tangent
/// of `angle`: the finite sums for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).
fn within(angle: f64, degrees: u32) -> f64 {
    let (sine, cosine) = angle.sin_cos();
    let odd = degrees % 2 == 1;
    let mut term = if odd { cosine } else { 1.0 };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    for power in (if odd { 3 } else { 2 }..degrees.saturating_sub(1)).step_by(2) {
        term *= f64::from(power - 1) / f64::from(power) * cosine * cosine;
        sum += term;
    }
    if odd { FRAC_2_PI * (angle + sine * sum) } else { sine * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_table() {
        let table = [
            (0.90, 1, 3.078),
            (0.95, 1, 6.314),
            (0.975, 1, 12.706),
            (0.95, 2, 2.920),
            (0.99, 2, 6.965),
            (0.95, 3, 2.353),
            (0.975, 4, 2.776),
            (0.90, 5, 1.476),
            (0.95, 5, 2.015),
            (0.99, 5, 3.365),
            (0.995, 5, 4.032),
            (0.95, 6, 1.943),
            (0.95, 10, 1.812),
            (0.975, 11, 2.201),
            (0.975, 30, 2.042),
            (0.90, 59, 1.296),
            (0.95, 60, 1.671),
            (0.99, 120, 2.358),
            (0.975, 1_000_000, 1.962),
        ];
        for (probability, degrees, expected) in table {
            let quantile = student(probability, degrees);
            assert!((quantile - expected).abs() < 0.0006, "t({probability}, {degrees}) = {quantile}, not {expected}");
        }
        assert!(student(0.5, 7).abs() < 1e-9);
        assert_eq!(student(0.95, 0), f64::INFINITY);
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn one_slip_of_the_measurement_hardly_moves_the_mean() {
        let clean = winsorised(&[1.0, 2.0, 3.0, 4.0, 5.0, 1000.0]);
        assert!(clean[..5] == [1.0, 2.0, 3.0, 4.0, 5.0] && clean[5] < 10.0, "{clean:?}");
        let ties = winsorised(&[1.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
        assert!(ties[5] > 1.0 && ties[5] < 2.0, "{ties:?}");
        assert_eq!(winsorised(&[1.0, 1.0]), vec![1.0, 1.0]);
        assert!(winsorised(&[]).is_empty());
    }

    #[test]
    fn stein_asks_for_more_numbers_the_more_they_spread() {
        let sample = Sample { n: 6, mean: 0.0, deviation: 0.03 };
        assert_eq!(sample.needed(0.02), 11);
        assert_eq!(Sample { deviation: 0.0, ..sample }.needed(0.02), 0);
        assert_eq!(Sample { deviation: f64::INFINITY, ..sample }.needed(0.02), u32::MAX);
    }

    #[test]
    fn one_number_alone_has_no_margin_that_excludes_anything() {
        let one = Sample::of(&[0.1]).unwrap();
        assert_eq!(one.deviation, 0.0);
        assert!(one.margin(0.95).is_nan() || one.margin(0.95) > 1.0, "{}", one.margin(0.95));
        assert_eq!(Sample::of(&[]), None);
    }
}

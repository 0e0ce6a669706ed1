//! The objective: what many metrics say together about one change.

use std::{collections::BTreeMap, f64::consts::LN_10};

use super::{Direction, MetricSpec, Metrics};

/// The most that one metric can say, either way: tenfold. More is a metric that came from or went to about zero.
pub(crate) const LOG_RATIO_MAX: f64 = LN_10;

/// Returns how much better `after` is than `before`, as a ratio: 0.02 is two percent better.
///
/// It is the weighted mean of the oriented log ratios of all metrics that carry weight and that `before` has, so that
/// a doubling and a halving cancel. `None` when there is no such metric, or when `after` lacks one of them.
pub fn improvement(specs: &BTreeMap<String, MetricSpec>, before: &Metrics, after: &Metrics) -> Option<f64> {
    objective(specs, before, after).map(f64::exp_m1)
}

/// Returns [`improvement`] before it is made a ratio: sums and means are taken of this one.
pub(crate) fn objective(specs: &BTreeMap<String, MetricSpec>, before: &Metrics, after: &Metrics) -> Option<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (name, spec) in specs.iter().filter(|(_, spec)| spec.weight > 0.0) {
        let Some(old) = before.get(name) else { continue };
        sum += spec.weight * log_ratio(spec.direction, *old, *after.get(name)?)?;
        weights += spec.weight;
    }
    (weights > 0.0).then(|| sum / weights)
}

/// Returns the logarithm of how many times better `after` is; `None` for what is no finite number from 0 up.
///
/// From 0 to 0 nothing changed. From 0 to something, or back, there is no ratio: that counts as tenfold, the most a
/// metric can say, and an absolute limit is the guard's to set.
pub(crate) fn log_ratio(direction: Direction, before: f64, after: f64) -> Option<f64> {
    if !(is_amount(before) && is_amount(after)) {
        return None;
    }
    let grown = match (before > 0.0, after > 0.0) {
        (false, false) => 0.0,
        (false, true) => LOG_RATIO_MAX,
        (true, false) => -LOG_RATIO_MAX,
        (true, true) => (after.ln() - before.ln()).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX),
    };
    Some(match direction {
        Direction::Up => grown,
        Direction::Down => -grown,
    })
}

/// Returns whether these metrics can be judged: all are finite, and those that mean something are not negative, for
/// they are counts, rates, shares and durations.
pub(crate) fn is_readable(specs: &BTreeMap<String, MetricSpec>, metrics: &Metrics) -> bool {
    metrics.iter().all(|(name, value)| value.is_finite() && (!specs.contains_key(name) || is_amount(*value)))
}

fn is_amount(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specs(specs: &[(&str, Direction, f64)]) -> BTreeMap<String, MetricSpec> {
        let spec = |(name, direction, weight): &(&str, Direction, f64)| {
            ((*name).to_owned(), MetricSpec { direction: *direction, weight: *weight, guard: None })
        };
        specs.iter().map(spec).collect()
    }

    fn metrics(values: &[(&str, f64)]) -> Metrics {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[track_caller]
    fn check(before: &[(&str, f64)], after: &[(&str, f64)], expected: Option<f64>) {
        let specs =
            specs(&[("rate", Direction::Up, 1.0), ("delay", Direction::Down, 1.0), ("aside", Direction::Up, 0.0)]);
        let found = improvement(&specs, &metrics(before), &metrics(after));
        match (found, expected) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9, "{found}, not {expected}"),
            (found, expected) => assert_eq!(found, expected),
        }
    }

    #[test]
    fn each_metric_counts_in_its_own_direction() {
        check(&[("rate", 100.0)], &[("rate", 102.0)], Some(0.02));
        check(&[("delay", 102.0)], &[("delay", 100.0)], Some(0.02));
        check(&[("rate", 100.0), ("delay", 100.0)], &[("rate", 121.0), ("delay", 100.0)], Some(0.1));
    }

    #[test]
    fn a_doubling_and_a_halving_cancel() {
        check(&[("rate", 10.0), ("delay", 5.0)], &[("rate", 20.0), ("delay", 10.0)], Some(0.0));
    }

    #[test]
    fn a_metric_without_weight_does_not_count() {
        check(&[("rate", 10.0), ("aside", 10.0)], &[("rate", 10.0), ("aside", 99.0)], Some(0.0));
        check(&[("rate", 10.0), ("aside", 10.0)], &[("rate", 10.0)], Some(0.0));
        check(&[("aside", 10.0)], &[("aside", 99.0)], None);
    }

    #[test]
    fn a_metric_that_is_gone_is_no_number() {
        check(&[("rate", 10.0), ("delay", 10.0)], &[("rate", 99.0)], None);
        check(&[], &[("rate", 99.0)], None);
        check(&[("rate", 10.0)], &[("rate", 10.0), ("delay", 1.0)], Some(0.0));
    }

    #[test]
    fn what_is_no_amount_is_no_number() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            check(&[("rate", 10.0)], &[("rate", bad)], None);
            check(&[("rate", bad)], &[("rate", 10.0)], None);
        }
    }

    #[test]
    fn from_zero_there_is_no_ratio_and_the_most_a_metric_can_say_stands_for_it() {
        check(&[("rate", 0.0)], &[("rate", 0.0)], Some(0.0));
        check(&[("rate", 0.0)], &[("rate", 5.0)], Some(9.0));
        check(&[("delay", 0.0)], &[("delay", 5.0)], Some(-0.9));
        check(&[("rate", 1.0)], &[("rate", 1e9)], Some(9.0));
    }

    proptest! {
        #[test]
        fn the_way_back_undoes_the_way_there(a in 0.1..1e6_f64, b in 0.1..1e6_f64, up: bool) {
            let direction = if up { Direction::Up } else { Direction::Down };
            let (there, back) = (log_ratio(direction, a, b).unwrap(), log_ratio(direction, b, a).unwrap());
            prop_assert!((there + back).abs() < 1e-9);
            prop_assert!(there.abs() <= LOG_RATIO_MAX);
        }
    }
}

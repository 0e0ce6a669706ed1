//! The Pareto front: which candidates measured better in something than every other that measured as well in the rest?
//!
//! One weighted number decides what is deployed; the front shows a person what that number traded away.

use std::collections::BTreeMap;

use super::fitness::{fitness, mean, metrics_in, tripped};
use crate::facts::{Best, Direction, MetricSpec, Metrics, Outcome, Params, Trial};

/// The most members that are kept, those with the largest fitness.
const MEMBERS_MAX: usize = 32;

/// Returns the metrics that count, the heaviest first: those that carry weight and that the live settings have. A guard is
/// a limit and no aim; a metric with both is both.
pub fn objectives<'a>(specs: &'a BTreeMap<String, MetricSpec>, incumbent: &Metrics) -> Vec<(&'a str, Direction)> {
    let counts = |(name, spec): &(&String, &MetricSpec)| spec.weight > 0.0 && incumbent.contains_key(*name);
    let mut counting: Vec<(&String, &MetricSpec)> = specs.iter().filter(counts).collect();
    counting.sort_by(|(_, a), (_, b)| b.weight.total_cmp(&a.weight));
    counting.into_iter().map(|(name, spec)| (name.as_str(), spec.direction)).collect()
}

/// Returns the places in `candidates` of those that no other dominates, in their order.
///
/// One dominates another if it is at least as good in every metric that counts and better in one. All pairs are compared:
/// an experiment has few enough. A candidate that trips a guard, that lacks a metric which counts, or of which one is no finite number from 0 up, is
/// neither a member nor does it dominate. Equals are members together.
pub fn front(specs: &BTreeMap<String, MetricSpec>, incumbent: &Metrics, candidates: &[Metrics]) -> Vec<usize> {
    let objectives = objectives(specs, incumbent);
    let oriented = |metrics: &Metrics| -> Option<Vec<f64>> {
        fitness(metrics, incumbent, specs).filter(|_| tripped(metrics, incumbent, specs).is_none())?;
        let value = |(name, direction): &(&str, Direction)| {
            metrics.get(*name).map(|value| if *direction == Direction::Up { *value } else { -value })
        };
        objectives.iter().map(value).collect()
    };
    let measured: Vec<(usize, Vec<f64>)> =
        candidates.iter().enumerate().filter_map(|(place, metrics)| Some((place, oriented(metrics)?))).collect();
    let is_beaten = |values: &[f64]| measured.iter().any(|(_, other)| dominates(other, values));
    measured.iter().filter(|(_, values)| !is_beaten(values)).map(|(place, _)| *place).collect()
}

/// Returns whether one is at least as good in everything and better in something; larger is better.
fn dominates(one: &[f64], other: &[f64]) -> bool {
    let pairs = || one.iter().zip(other);
    pairs().all(|(one, other)| one >= other) && pairs().any(|(one, other)| one > other)
}

/// Returns the members of the front of an experiment, the best in the heaviest metric first; none where fewer than two
/// metrics count. The first of `trials` is that of the live settings.
///
/// Runs of the same settings, `again` among them, count as one candidate with the mean of their numbers, and one that failed
/// in any run for a reason of its own is no candidate.
pub fn members(specs: &BTreeMap<String, MetricSpec>, trials: &[Trial], again: &[Trial]) -> Vec<Best> {
    let mut runs: Vec<(&Params, Vec<&Outcome>)> = Vec::new();
    for trial in trials.iter().chain(again) {
        match runs.iter_mut().find(|(params, _)| **params == trial.params) {
            Some((_, outcomes)) => outcomes.push(&trial.outcome),
            None => runs.push((&trial.params, vec![&trial.outcome])),
        }
    }
    let blames =
        |outcome: &&&Outcome| matches!(outcome, Outcome::Failed(failure) if !failure.kind.is_of_circumstances());
    let candidates: Vec<(&Params, Metrics)> = runs
        .into_iter()
        .map(|(params, outcomes)| {
            let works = !outcomes.iter().any(|outcome| blames(&outcome));
            let measured: Vec<&Metrics> = outcomes.into_iter().filter_map(metrics_in).filter(|_| works).collect();
            (params, mean(&measured))
        })
        .collect();
    let Some((_, incumbent)) = candidates.first().cloned() else { return Vec::new() };
    let objectives = objectives(specs, &incumbent);
    let Some((heaviest, direction)) = objectives.first().copied().filter(|_| objectives.len() > 1) else {
        return Vec::new();
    };
    let all: Vec<Metrics> = candidates.iter().map(|(_, metrics)| metrics.clone()).collect();
    let member = |place: usize| {
        let (params, metrics) = candidates.get(place)?;
        let fitness = fitness(metrics, &incumbent, specs)?;
        Some(Best { params: (*params).clone(), fitness, metrics: metrics.clone() })
    };
    let mut members: Vec<Best> = front(specs, &incumbent, &all).into_iter().filter_map(member).collect();
    members.sort_by(|a, b| b.fitness.total_cmp(&a.fitness));
    members.truncate(MEMBERS_MAX);
    let value = |best: &Best| best.metrics.get(heaviest).copied().unwrap_or_default();
    members.sort_by(|a, b| match direction {
        Direction::Up => value(b).total_cmp(&value(a)),
        Direction::Down => value(a).total_cmp(&value(b)),
    });
    members
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{ExperimentId, FailureKind, Guard, Measurement, TrialFailure, Value};

    fn specs() -> BTreeMap<String, MetricSpec> {
        let guard = Some(Guard { loss_max: None, value_max: Some(0.01) });
        [
            ("rate", Direction::Up, 2.0, None),
            ("delay", Direction::Down, 1.0, None),
            ("errors", Direction::Down, 0.0, guard),
            ("aside", Direction::Up, 0.0, None),
        ]
        .map(|(name, direction, weight, guard)| (name.to_owned(), MetricSpec { direction, weight, guard }))
        .into()
    }

    fn metrics(rate: f64, delay: f64) -> Metrics {
        [("rate", rate), ("delay", delay), ("errors", 0.0)].map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn with(mut metrics: Metrics, name: &str, value: Option<f64>) -> Metrics {
        match value {
            Some(value) => metrics.insert(name.to_owned(), value),
            None => metrics.remove(name),
        };
        metrics
    }

    #[track_caller]
    fn check(candidates: &[Metrics], expected: &[usize]) {
        assert_eq!(front(&specs(), &metrics(10.0, 5.0), candidates), expected);
    }

    #[test]
    fn who_is_beaten_in_nothing_or_better_in_something_is_on_the_front() {
        check(&[], &[]);
        check(&[metrics(1.0, 9.0)], &[0]);
        check(&[metrics(10.0, 5.0), metrics(12.0, 5.0)], &[1]);
        check(&[metrics(10.0, 5.0), metrics(12.0, 6.0), metrics(9.0, 4.0)], &[0, 1, 2]);
        check(&[metrics(10.0, 5.0), metrics(12.0, 4.0), metrics(9.0, 4.5)], &[1]);
        check(&[metrics(10.0, 5.0), metrics(10.0, 5.0)], &[0, 1]);
        check(&[with(metrics(10.0, 5.0), "aside", Some(1.0)), with(metrics(9.0, 5.0), "aside", Some(9.0))], &[0]);
    }

    #[test]
    fn what_trips_a_guard_or_was_not_measured_is_no_member_and_beats_nobody() {
        let good = metrics(10.0, 5.0);
        for bad in [
            with(metrics(99.0, 1.0), "errors", Some(0.5)),
            with(metrics(99.0, 1.0), "errors", None),
            with(metrics(99.0, 1.0), "delay", None),
            metrics(f64::NAN, 1.0),
            metrics(99.0, f64::INFINITY),
            metrics(99.0, -1.0),
            Metrics::new(),
        ] {
            check(&[bad, good.clone()], &[1]);
        }
    }

    #[test]
    fn the_heaviest_metric_comes_first_and_what_the_live_settings_lack_does_not_count() {
        let (specs, all) = (specs(), metrics(10.0, 5.0));
        assert_eq!(objectives(&specs, &all), [("rate", Direction::Up), ("delay", Direction::Down)]);
        assert_eq!(objectives(&specs, &with(all, "rate", None)), [("delay", Direction::Down)]);
    }

    fn trial(number: u32, batch: i64, outcome: Result<Metrics, FailureKind>) -> Trial {
        let outcome = match outcome {
            Ok(metrics) => Outcome::Measured(Measurement {
                metrics,
                samples: 1,
                window_ms: 1,
                in_effect: BTreeMap::new(),
                source: String::new(),
                at_ms: 0,
                others: None,
                discarded: 0,
            }),
            Err(kind) => Outcome::Failed(TrialFailure { kind, detail: String::new() }),
        };
        let params = [("batch".to_owned(), Value::Integer(batch))].into();
        Trial { experiment: ExperimentId::new("x"), generation: 1, number, params, outcome, at_ms: 0 }
    }

    #[test]
    fn runs_of_the_same_settings_are_one_candidate_which_must_never_have_failed() {
        let trials = [
            trial(1, 1, Ok(metrics(10.0, 5.0))),
            trial(2, 2, Ok(metrics(20.0, 6.0))),
            trial(3, 3, Ok(metrics(30.0, 9.0))),
            trial(4, 4, Err(FailureKind::Died)),
        ];
        let again = [
            trial(1, 2, Ok(metrics(24.0, 6.0))),
            trial(2, 3, Err(FailureKind::Died)),
            trial(3, 1, Err(FailureKind::Infrastructure)),
        ];
        let batches = |again: &[Trial]| -> Vec<(Value, f64)> {
            let members = members(&specs(), &trials, again);
            members.into_iter().map(|best| (best.params["batch"].clone(), best.metrics["rate"])).collect()
        };
        assert_eq!(batches(&[]), [(Value::Integer(3), 30.0), (Value::Integer(2), 20.0), (Value::Integer(1), 10.0)]);
        assert_eq!(batches(&again), [(Value::Integer(2), 22.0), (Value::Integer(1), 10.0)]);
    }

    #[test]
    fn one_metric_makes_no_front() {
        let mut specs = specs();
        specs.remove("delay");
        assert_eq!(members(&specs, &[trial(1, 1, Ok(metrics(10.0, 5.0)))], &[]), []);
        assert_eq!(members(&specs, &[], &[]), []);
    }

    fn numbers() -> impl Strategy<Value = Metrics> {
        let number = prop_oneof![4 => (0_u32..6).prop_map(f64::from), 1 => prop::num::f64::ANY];
        let errors = prop_oneof![3 => Just(Some(0.0)), 1 => Just(None), 1 => Just(Some(0.5))];
        (number.clone(), number, errors, any::<bool>()).prop_map(|(rate, delay, errors, has_delay)| {
            let metrics = with(metrics(rate, delay), "errors", errors);
            if has_delay { metrics } else { with(metrics, "delay", None) }
        })
    }

    proptest! {
        #[test]
        fn no_member_beats_another_and_who_is_none_is_beaten_or_could_not_be_compared(
            candidates in prop::collection::vec(numbers(), 0..20),
        ) {
            let (specs, incumbent) = (specs(), metrics(3.0, 3.0));
            let members = front(&specs, &incumbent, &candidates);
            let beats = |one: &Metrics, other: &Metrics| {
                let gains = [one["rate"] - other["rate"], other["delay"] - one["delay"]];
                gains.iter().all(|gain| *gain >= 0.0) && gains.iter().any(|gain| *gain > 0.0)
            };
            for (place, metrics) in candidates.iter().enumerate() {
                let beaten = |metrics| members.iter().any(|member| beats(&candidates[*member], metrics));
                let is_whole = ["rate", "delay"]
                    .iter()
                    .all(|name| metrics.get(*name).is_some_and(|value| value.is_finite() && *value >= 0.0));
                let comparable = is_whole && tripped(metrics, &incumbent, &specs).is_none();
                prop_assert_eq!(members.contains(&place), comparable && !beaten(metrics), "{} of {:?}", place, candidates);
            }
        }
    }
}

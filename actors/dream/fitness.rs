//! Fitness: how much better than the live settings did a candidate measure, and is the best one worth a promotion?
//!
//! What is said here is a claim. The validator measures the deployed settings anew and believes none of it.

use std::collections::BTreeMap;

use super::{Config, search::Told};
use crate::facts::{
    Best, FailureKind, MetricSpec, Metrics, Outcome, Params, Trial, VoidCause,
    objective::{LOG_RATIO_MAX, log_ratio, objective},
};

/// What a tripped guard costs a candidate in the eyes of the search: it ends behind every one that trips none.
const GUARD_PENALTY: f64 = 2.0 * LOG_RATIO_MAX;

/// How many trials in a row must have failed before a generation that failed whole ends the experiment: where a generation has
/// one or two candidates, that can be chance.
const COLLAPSED_MIN: usize = 4;

/// Losses nearer to their limit than this are at the limit: 0.95 is no binary number.
const ROUNDING: f64 = 1e-9;

/// What an experiment comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// This candidate measured better than the live settings.
    Winner {
        /// The candidate; its fitness and metrics are those of the repeated runs, where there were any.
        best: Best,
        /// How many candidates were measured, the live settings included.
        measured: u32,
        /// How many candidates failed.
        failed: u32,
    },
    /// Nothing measured better than the live settings; in words.
    NoBetter(String),
    /// The experiment says nothing: what is to blame, and in words.
    Void(VoidCause, String),
}

/// Returns how much better `measured` is than `incumbent`: the weighted mean of the oriented log ratios.
///
/// 0 is as good, 0.1 about ten percent better; each metric counts for at most a tenfold gain or loss, and a metric that
/// is 0 on one side alone counts for just that. `None` when a metric that carries weight is missing or no finite number
/// from 0 up, though the incumbent has it, or when no such metric was measured.
pub fn fitness(measured: &Metrics, incumbent: &Metrics, specs: &BTreeMap<String, MetricSpec>) -> Option<f64> {
    objective(specs, incumbent, measured)
}

/// Returns the metric whose guard `measured` trips: such a candidate cannot win, whatever else it gains.
///
/// A guarded metric that the incumbent has and the candidate lacks trips too. Where the incumbent has 0 there is no
/// loss to speak of, and the largest value alone is judged, if there is one.
pub fn tripped<'a>(
    measured: &Metrics,
    incumbent: &Metrics,
    specs: &'a BTreeMap<String, MetricSpec>,
) -> Option<&'a str> {
    let trips = |name: &str, spec: &MetricSpec| {
        let Some(guard) = spec.guard else { return false };
        let Some(value) = measured.get(name) else { return incumbent.contains_key(name) };
        let above = guard.value_max.is_some_and(|value_max| value.is_nan() || *value > value_max);
        let lost = guard.loss_max.is_some_and(|loss_max| match incumbent.get(name) {
            Some(before) if *before > 0.0 || guard.value_max.is_none() => {
                log_ratio(spec.direction, *before, *value).is_none_or(|ratio| ratio < (-loss_max).ln_1p() - ROUNDING)
            }
            _ => false,
        });
        above || lost
    };
    specs.iter().find(|(name, spec)| trips(name, spec)).map(|(name, _)| name.as_str())
}

/// Returns what the search is to be told of a measurement.
///
/// A tripped guard says where not to go, as a failure does, and no number: one that is far off would bend the surrogate around
/// it. Where the live settings trip one themselves, all is a number, so that the search still sees which way is out.
pub fn told_of(measured: &Metrics, incumbent: &Metrics, specs: &BTreeMap<String, MetricSpec>) -> Told {
    match score(measured, incumbent, specs) {
        // It ran, and a number that counts could not be measured: that is a failed trial.
        None => Told::Failed(FailureKind::BenchFailed),
        Some(_) if is_out(measured, incumbent, specs) => Told::Tripped,
        Some(fitness) => Told::Fitness(fitness),
    }
}

/// Returns whether `measured` trips a guard that the incumbent does not.
pub fn is_out(measured: &Metrics, incumbent: &Metrics, specs: &BTreeMap<String, MetricSpec>) -> bool {
    let trips = |metrics| tripped(metrics, incumbent, specs).is_some();
    trips(measured) && !trips(incumbent)
}

/// Returns how good a measurement is beside the others: the fitness, far below every other where a guard is tripped. `None`
/// where there is no fitness.
pub fn score(measured: &Metrics, incumbent: &Metrics, specs: &BTreeMap<String, MetricSpec>) -> Option<f64> {
    let penalty = tripped(measured, incumbent, specs).map_or(0.0, |_| GUARD_PENALTY);
    fitness(measured, incumbent, specs).map(|fitness| fitness - penalty)
}

/// Returns why an experiment says nothing after its first generation, and what is to blame: then no further one is worth its
/// time.
///
/// Settings are to blame for their failures only where other settings than the live ones were measured.
pub fn void(config: &Config, trials: &[Trial]) -> Option<(VoidCause, String)> {
    let is_to_blame = |why: String| Some((VoidCause::Infrastructure, why));
    match live(trials).map(|trial| &trial.outcome) {
        None => return is_to_blame("the live settings were not measured".to_owned()),
        Some(Outcome::Failed(failure)) => {
            return is_to_blame(format!("the live settings could not be measured: {failure}"));
        }
        Some(Outcome::Measured(_)) => {}
    }
    let first: Vec<&Trial> = trials.iter().filter(|trial| trial.generation == 1).collect();
    let failed: Vec<FailureKind> = first.iter().filter_map(|trial| failure(trial)).collect();
    let too_many = config.failed_max_ratio * first.len() as f64;
    let blamed = failed.iter().filter(|kind| !kind.is_of_circumstances()).count();
    let are_to_blame = failed.len() + 1 < first.len() && blamed as f64 > too_many;
    let cause = if are_to_blame { VoidCause::Settings } else { VoidCause::Infrastructure };
    let why = || format!("{} of the first {} candidates failed", failed.len(), first.len());
    (failed.len() as f64 > too_many).then(|| (cause, why()))
}

/// Returns why an experiment of generations of `size` candidates can go no further, in words: the newest generation is whole and
/// all of it failed, as did all before it, back to at least `COLLAPSED_MIN` trials. Something broke beneath it meanwhile, and
/// what its trials say of the settings is not true.
pub fn collapsed(trials: &[Trial], size: u32) -> Option<String> {
    let newest = trials.last()?.generation;
    let of = |generation: u32| trials.iter().filter(move |trial| trial.generation == generation);
    if newest == 1 || (of(newest).count() as u32) < size {
        return None;
    }
    let failed_in_a_row: Vec<&Trial> = trials.iter().rev().take_while(|trial| failure(trial).is_some()).collect();
    let all_failed = of(newest).all(|trial| failure(trial).is_some());
    let Some(Outcome::Failed(such_as)) = failed_in_a_row.first().map(|trial| &trial.outcome) else { return None };
    let count = failed_in_a_row.len();
    (all_failed && count >= COLLAPSED_MIN).then(|| {
        format!("the last {count} candidates, all of generation {newest} among them, failed, such as: {such_as}")
    })
}

/// Returns the candidate that is worth measuring again beside the live settings; what it comes to where there is none.
///
/// That is the search's `favourite`, which it takes for better than its own number says alone; where it favours the live
/// settings, or what cannot win, the one with the largest number.
pub fn prospect<'a>(
    config: &Config,
    specs: &BTreeMap<String, MetricSpec>,
    trials: &'a [Trial],
    favourite: Option<&Params>,
) -> Result<&'a Trial, Choice> {
    if let Some((cause, why)) = void(config, trials) {
        return Err(Choice::Void(cause, why));
    }
    let measured: Vec<(&Trial, &Metrics)> =
        trials.iter().filter_map(|trial| Some((trial, metrics_of(trial)?))).collect();
    if measured.len() < config.measured_min as usize {
        let (count, min) = (measured.len(), config.measured_min);
        let cause = VoidCause::of_too_few(count, min as usize, trials.iter().filter_map(failure));
        return Err(Choice::Void(cause, format!("{count} candidates were measured, fewer than the {min} it takes")));
    }
    let Some(incumbent) = live(trials).and_then(metrics_of) else {
        return Err(Choice::Void(VoidCause::Infrastructure, "the live settings were not measured".to_owned()));
    };
    if is_deaf(specs, &measured) {
        return Err(Choice::Void(
            VoidCause::Flat,
            "all candidates measured exactly the same: the settings do not arrive, or every request failed".to_owned(),
        ));
    }
    let contender = |(trial, metrics): &(&'a Trial, &Metrics)| {
        let fits = !is_live(trial) && tripped(metrics, incumbent, specs).is_none();
        fits.then(|| fitness(metrics, incumbent, specs)).flatten().map(|fitness| (*trial, fitness))
    };
    let contenders: Vec<(&Trial, f64)> = measured.iter().filter_map(contender).collect();
    let favoured =
        contenders.iter().find(|(trial, fitness)| Some(&trial.params) == favourite && is_gain(config, *fitness));
    let largest = || contenders.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best });
    match favoured.copied().or_else(largest) {
        Some((trial, fitness)) if is_gain(config, fitness) => Ok(trial),
        Some((_, fitness)) => Err(Choice::NoBetter(too_little(config, fitness))),
        None => Err(Choice::NoBetter("no candidate could be compared without tripping a guard".to_owned())),
    }
}

/// Returns what the experiment comes to, from its trials and from the runs in which the live settings and the
/// [`prospect`] were measured again.
///
/// The best of many noisy numbers is a lucky one, so where there are repeated runs of the prospect, they alone count
/// for it. For the live settings, which were not picked for their number, all runs count.
pub fn choose(
    config: &Config,
    specs: &BTreeMap<String, MetricSpec>,
    trials: &[Trial],
    favourite: Option<&Params>,
    (live_again, best_again): (&[Outcome], &[Outcome]),
) -> Choice {
    let prospect = match prospect(config, specs, trials, favourite) {
        Ok(prospect) => prospect,
        Err(choice) => return choice,
    };
    // Where the live settings fail as well by now, the best candidate is not to blame.
    if !live_again.is_empty() && live_again.iter().all(|outcome| metrics_in(outcome).is_none()) {
        let why = "the live settings could not be measured again".to_owned();
        return Choice::Void(VoidCause::Infrastructure, why);
    }
    let blamed = best_again.iter().find_map(|outcome| match outcome {
        Outcome::Failed(failure) if !failure.kind.is_of_circumstances() => Some(failure),
        Outcome::Failed(_) | Outcome::Measured(_) => None,
    });
    if let Some(failure) = blamed {
        return Choice::NoBetter(format!("the best candidate failed when it was measured again: {failure}"));
    }
    let again: Vec<&Metrics> = best_again.iter().filter_map(metrics_in).collect();
    if again.is_empty() && config.confirm_runs > 0 {
        let why = "the best candidate could not be measured again".to_owned();
        return Choice::Void(VoidCause::Infrastructure, why);
    }
    let first = metrics_of(prospect).into_iter();
    let metrics = mean(&if again.is_empty() { first.collect() } else { again });
    let live_runs = live(trials).and_then(metrics_of).into_iter().chain(live_again.iter().filter_map(metrics_in));
    let incumbent = mean(&live_runs.collect::<Vec<_>>());
    if let Some(metric) = tripped(&metrics, &incumbent, specs) {
        return Choice::NoBetter(format!(
            "the best candidate tripped the guard of {metric} when it was measured again"
        ));
    }
    let failed = trials.iter().filter(|trial| metrics_of(trial).is_none()).count();
    match fitness(&metrics, &incumbent, specs) {
        Some(fitness) if is_gain(config, fitness) => Choice::Winner {
            best: Best { params: prospect.params.clone(), fitness, metrics },
            measured: (trials.len() - failed) as u32,
            failed: failed as u32,
        },
        Some(fitness) => Choice::NoBetter(too_little(config, fitness)),
        None => Choice::NoBetter("the best candidate lost a metric when it was measured again".to_owned()),
    }
}

fn is_gain(config: &Config, fitness: f64) -> bool {
    // A gain of nothing is none, also where the smallest gain is set to 0.
    fitness > ROUNDING && fitness.exp_m1() >= config.gain_min - ROUNDING
}

fn too_little(config: &Config, fitness: f64) -> String {
    let (gain, gain_min) = (100.0 * fitness.exp_m1(), 100.0 * config.gain_min);
    format!("the best candidate measured {gain:+.1} %, it takes {gain_min:+.1} %")
}

/// Returns whether different settings gave the same numbers to the last digit, which no real measurement does.
fn is_deaf(specs: &BTreeMap<String, MetricSpec>, measured: &[(&Trial, &Metrics)]) -> bool {
    let weighted = |metrics: &Metrics| {
        let names = specs.iter().filter(|(_, spec)| spec.weight > 0.0);
        names.map(|(name, _)| metrics.get(name).map(|value| value.to_bits())).collect::<Vec<_>>()
    };
    let Some((_, first)) = measured.first() else { return false };
    measured.len() > 1 && measured.iter().all(|(_, metrics)| weighted(metrics) == weighted(first))
}

fn is_live(trial: &Trial) -> bool {
    trial.generation == 1 && trial.number == 1
}

fn live(trials: &[Trial]) -> Option<&Trial> {
    trials.iter().find(|trial| is_live(trial))
}

fn metrics_of(trial: &Trial) -> Option<&Metrics> {
    metrics_in(&trial.outcome)
}

/// Returns how a trial failed, if it did.
fn failure(trial: &Trial) -> Option<FailureKind> {
    match &trial.outcome {
        Outcome::Measured(_) => None,
        Outcome::Failed(failure) => Some(failure.kind),
    }
}

pub(super) fn metrics_in(outcome: &Outcome) -> Option<&Metrics> {
    match outcome {
        Outcome::Measured(measurement) => Some(&measurement.metrics),
        Outcome::Failed(_) => None,
    }
}

/// Returns the mean of each metric that all of these runs have.
pub(super) fn mean(runs: &[&Metrics]) -> Metrics {
    let Some((first, _)) = runs.split_first() else { return Metrics::new() };
    let mean = |name: &String| {
        let values: Vec<f64> = runs.iter().map(|run| run.get(name).copied()).collect::<Option<_>>()?;
        Some((name.clone(), values.iter().sum::<f64>() / values.len() as f64))
    };
    first.keys().filter_map(mean).collect()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_10;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Direction, ExperimentId, Guard, Measurement, TrialFailure, Value};

    fn specs() -> BTreeMap<String, MetricSpec> {
        let guard = |loss_max, value_max| Some(Guard { loss_max, value_max });
        [
            ("rate", Direction::Up, 1.0, None),
            ("delay", Direction::Down, 1.0, guard(Some(0.25), None)),
            ("errors", Direction::Down, 0.0, guard(Some(0.05), Some(0.01))),
        ]
        .map(|(name, direction, weight, guard)| (name.to_owned(), MetricSpec { direction, weight, guard }))
        .into()
    }

    fn metrics(values: &[(&str, f64)]) -> Metrics {
        values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn usual(rate: f64) -> Metrics {
        metrics(&[("rate", rate), ("delay", 10.0), ("errors", 0.0)])
    }

    #[track_caller]
    fn check_fitness(before: &[(&str, f64)], after: &[(&str, f64)], expected: Option<f64>) {
        match (fitness(&metrics(after), &metrics(before), &specs()), expected) {
            (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-9, "{found}, not {expected}"),
            (found, expected) => assert_eq!(found, expected),
        }
    }

    #[test]
    fn the_live_settings_have_a_fitness_of_zero() {
        check_fitness(&[("rate", 10.0), ("delay", 3.0)], &[("rate", 10.0), ("delay", 3.0)], Some(0.0));
    }

    #[test]
    fn each_metric_counts_in_its_own_direction_and_a_doubling_and_a_halving_cancel() {
        check_fitness(&[("rate", 10.0)], &[("rate", 20.0)], Some(2_f64.ln()));
        check_fitness(&[("delay", 10.0)], &[("delay", 20.0)], Some(-(2_f64.ln())));
        check_fitness(&[("rate", 10.0), ("delay", 10.0)], &[("rate", 20.0), ("delay", 20.0)], Some(0.0));
    }

    #[test]
    fn a_missing_metric_is_missing_and_no_number() {
        check_fitness(&[("rate", 10.0), ("delay", 10.0)], &[("rate", 99.0)], None);
        check_fitness(&[("rate", 10.0)], &[("rate", 10.0), ("delay", 1.0)], Some(0.0));
        check_fitness(&[("errors", 0.1)], &[("errors", 0.0)], None);
        check_fitness(&[], &[], None);
    }

    #[test]
    fn what_is_no_amount_is_no_fitness() {
        for bad in [f64::NAN, f64::INFINITY, -999.0] {
            check_fitness(&[("rate", 10.0)], &[("rate", bad)], None);
        }
    }

    #[test]
    fn no_metric_counts_for_more_than_tenfold() {
        check_fitness(&[("rate", 0.0)], &[("rate", 0.0)], Some(0.0));
        check_fitness(&[("rate", 0.0)], &[("rate", 5.0)], Some(LN_10));
        check_fitness(&[("delay", 0.0)], &[("delay", 5.0)], Some(-LN_10));
        check_fitness(&[("rate", 5.0), ("delay", 1.0)], &[("rate", 0.0), ("delay", 1.0)], Some(-LN_10 / 2.0));
        check_fitness(&[("rate", 1.0)], &[("rate", 1e12)], Some(LN_10));
    }

    #[track_caller]
    fn check_guard(before: &[(&str, f64)], after: &[(&str, f64)], expected: Option<&str>) {
        assert_eq!(tripped(&metrics(after), &metrics(before), &specs()), expected);
    }

    #[test]
    fn a_guard_trips_beyond_its_limit_and_not_at_it() {
        check_guard(&[("delay", 0.75)], &[("delay", 1.0)], None);
        check_guard(&[("delay", 0.75)], &[("delay", 1.001)], Some("delay"));
        check_guard(&[("errors", 0.01)], &[("errors", 0.01)], None);
        check_guard(&[("errors", 0.5)], &[("errors", 0.0101)], Some("errors"));
        check_guard(&[("delay", 1.0)], &[("rate", 1.0)], Some("delay"));
        check_guard(&[], &[("errors", f64::NAN)], Some("errors"));
    }

    #[test]
    fn from_zero_the_largest_value_alone_is_judged() {
        check_guard(&[("errors", 0.0)], &[("errors", 0.005)], None);
        check_guard(&[("errors", 0.0)], &[("errors", 0.5)], Some("errors"));
        check_guard(&[("delay", 0.0)], &[("delay", 0.1)], Some("delay"));
    }

    fn trial(place: (u32, u32), outcome: Outcome) -> Trial {
        let (generation, number) = place;
        let params = [("batch".to_owned(), Value::Integer(i64::from(generation * 100 + number)))].into();
        Trial { experiment: ExperimentId::new("x"), generation, number, params, outcome, at_ms: 0 }
    }

    fn ran(metrics: Metrics) -> Outcome {
        Outcome::Measured(Measurement {
            metrics,
            samples: 100,
            window_ms: 1000,
            in_effect: BTreeMap::new(),
            source: "chat at 127.0.0.1:1".to_owned(),
            at_ms: 0,
            others: None,
            discarded: 0,
        })
    }

    fn failed(kind: FailureKind) -> Outcome {
        Outcome::Failed(TrialFailure { kind, detail: "exit code 1".to_owned() })
    }

    /// Five candidates of one generation: the live settings at 100, and the best at 130.
    fn trials() -> Vec<Trial> {
        [100.0, 90.0, 130.0, 104.0, 99.0]
            .into_iter()
            .zip(1..)
            .map(|(rate, n)| trial((1, n), ran(usual(rate))))
            .collect()
    }

    fn chosen(trials: &[Trial], live_again: &[Outcome], best_again: &[Outcome]) -> Choice {
        choose(&Config::default(), &specs(), trials, None, (live_again, best_again))
    }

    #[track_caller]
    fn check_no_better(choice: &Choice, part: &str) {
        assert!(matches!(choice, Choice::NoBetter(why) if why.contains(part)), "{choice:?}");
    }

    #[track_caller]
    fn check_void(choice: &Choice, cause: VoidCause, part: &str) {
        let is_it = matches!(choice, Choice::Void(blamed, why) if *blamed == cause && why.contains(part));
        assert!(is_it, "{choice:?}");
    }

    #[test]
    fn a_winner_is_claimed_from_the_repeated_runs_not_from_the_lucky_one() {
        let (live_again, best_again) = ([ran(usual(98.0)), ran(usual(102.0))], [ran(usual(120.0)), ran(usual(122.0))]);
        let Choice::Winner { best, measured, failed } = chosen(&trials(), &live_again, &best_again) else {
            panic!("no winner")
        };
        assert_eq!((measured, failed), (5, 0));
        assert_eq!(best.params["batch"], Value::Integer(103));
        assert!((best.fitness - 1.21_f64.ln() / 2.0).abs() < 1e-9, "{}", best.fitness);
        assert_eq!(best.metrics["rate"], 121.0);
    }

    #[test]
    fn a_gain_that_is_not_repeated_wins_nothing() {
        check_no_better(&chosen(&trials(), &[], &[ran(usual(101.0))]), "measured +0.5 %");
        check_no_better(&chosen(&trials(), &[], &[failed(FailureKind::Died), ran(usual(200.0))]), "died");
        let both = [failed(FailureKind::Died)];
        check_void(&chosen(&trials(), &both, &both), VoidCause::Infrastructure, "live settings could not");
        let lost = [failed(FailureKind::Infrastructure)];
        check_void(&chosen(&trials(), &[], &lost), VoidCause::Infrastructure, "again");
        let worse_delay = metrics(&[("rate", 900.0), ("delay", 14.0), ("errors", 0.0)]);
        check_no_better(&chosen(&trials(), &[], &[ran(worse_delay)]), "guard of delay");
        check_no_better(&chosen(&trials(), &[], &[ran(metrics(&[("delay", 9.0), ("errors", 0.0)]))]), "lost a metric");
    }

    #[test]
    fn too_small_a_gain_wins_nothing() {
        let mut trials = trials();
        trials.remove(2);
        check_no_better(&prospect(&Config::default(), &specs(), &trials, None).unwrap_err(), "measured +2.0 %");
    }

    #[test]
    fn the_favourite_of_the_search_is_measured_again_unless_it_cannot_win() {
        let trials = trials();
        let again = |number: u32| {
            let favourite = trials.iter().find(|trial| trial.number == number).map(|trial| &trial.params);
            prospect(&Config::default(), &specs(), &trials, favourite).unwrap().number
        };
        // The third measured 130 and the fourth 104; the first is what is live, and the second worse.
        assert_eq!([1, 2, 3, 4].map(again), [3, 3, 3, 3]);
        let mut trials = trials.clone();
        trials[3].outcome = ran(usual(120.0));
        let favourite = trials[3].params.clone();
        assert_eq!(prospect(&Config::default(), &specs(), &trials, Some(&favourite)).unwrap().number, 4);
    }

    #[test]
    fn a_candidate_that_trips_a_guard_wins_nothing() {
        let mut trials = trials();
        trials[2].outcome = ran(metrics(&[("rate", 500.0), ("delay", 10.0), ("errors", 0.02)]));
        trials[3].outcome = ran(usual(110.0));
        assert_eq!(prospect(&Config::default(), &specs(), &trials, None).unwrap().number, 4);
    }

    #[test]
    fn an_experiment_of_failures_is_void_whatever_is_left() {
        let mut trials = trials();
        for trial in &mut trials[1..5] {
            trial.outcome = failed(FailureKind::DidNotStart);
        }
        check_void(&chosen(&trials, &[], &[]), VoidCause::Infrastructure, "4 of the first 5");
        trials[0].outcome = failed(FailureKind::BenchFailed);
        check_void(&chosen(&trials, &[], &[]), VoidCause::Infrastructure, "live settings");
        check_void(&chosen(&[], &[], &[]), VoidCause::Infrastructure, "live settings");
    }

    #[test]
    fn settings_are_to_blame_for_failures_only_where_others_than_the_live_ones_were_measured() {
        let first = |kinds: &[FailureKind]| {
            let mut trials: Vec<Trial> = (1..=8).map(|number| trial((1, number), ran(usual(100.0)))).collect();
            for (trial, kind) in trials[1..].iter_mut().zip(kinds) {
                trial.outcome = failed(*kind);
            }
            void(&Config::default(), &trials).map(|(cause, _)| cause)
        };
        assert_eq!(first(&[FailureKind::Died; 5]), None);
        assert_eq!(first(&[FailureKind::Died; 6]), Some(VoidCause::Settings));
        assert_eq!(first(&[FailureKind::Died; 7]), Some(VoidCause::Infrastructure));
        assert_eq!(first(&[FailureKind::Disturbed; 6]), Some(VoidCause::Infrastructure));
    }

    #[test]
    fn a_later_generation_that_fails_whole_is_a_collapse_and_one_of_which_anything_ran_is_none() {
        let trials = |size: u32, failing: std::ops::Range<usize>| -> Vec<Trial> {
            let place = |index: u32| (index / size + 1, index % size + 1);
            let outcome = |index| if failing.contains(&index) { failed(FailureKind::Died) } else { ran(usual(100.0)) };
            (0..12).map(|index| trial(place(index), outcome(index as usize))).collect()
        };
        let is_collapsed = |size, failing| collapsed(&trials(size, failing), size).is_some();
        assert!(is_collapsed(6, 6..12));
        assert!(!is_collapsed(6, 6..11) && !is_collapsed(6, 7..12), "something ran");
        assert!(!is_collapsed(12, 1..12), "of the first generation another rule speaks");
        assert!(!is_collapsed(2, 10..12) && !is_collapsed(2, 9..12), "a few can fail by chance");
        assert!(is_collapsed(2, 8..12) && is_collapsed(1, 8..12) && !is_collapsed(1, 9..12));
        let mut under_way = trials(6, 6..12);
        under_way.pop();
        assert_eq!(collapsed(&under_way, 6), None);
    }

    #[test]
    fn too_few_measurements_say_nothing() {
        let mut trials = trials();
        trials[3].outcome = failed(FailureKind::Died);
        trials[4].outcome = failed(FailureKind::Died);
        check_void(&chosen(&trials, &[], &[]), VoidCause::Settings, "3 candidates");
        trials[4].outcome = failed(FailureKind::Disturbed);
        check_void(&chosen(&trials, &[], &[]), VoidCause::Infrastructure, "3 candidates");
    }

    #[test]
    fn measurements_that_do_not_answer_to_the_settings_say_nothing() {
        let trials: Vec<Trial> = (1..6).map(|number| trial((1, number), ran(usual(0.85)))).collect();
        check_void(&chosen(&trials, &[], &[]), VoidCause::Flat, "exactly the same");
    }

    #[test]
    fn a_tripped_guard_is_no_number_to_the_search_unless_the_live_settings_trip_one() {
        let (fine, bad) = (usual(100.0), metrics(&[("rate", 300.0), ("delay", 10.0), ("errors", 0.5)]));
        assert_eq!(told_of(&bad, &fine, &specs()), Told::Tripped);
        assert!(matches!(told_of(&usual(120.0), &fine, &specs()), Told::Fitness(fitness) if fitness > 0.0));
        assert_eq!(told_of(&fine, &fine, &specs()), Told::Fitness(0.0));
        assert_eq!(told_of(&metrics(&[("errors", 0.5)]), &fine, &specs()), Told::Failed(FailureKind::BenchFailed));
        assert!(matches!(told_of(&bad, &bad, &specs()), Told::Fitness(fitness) if fitness < 0.0));
        assert!(matches!(told_of(&usual(100.0), &bad, &specs()), Told::Fitness(fitness) if fitness > -1.2));
    }

    proptest! {
        #[test]
        fn a_candidate_that_trips_a_guard_scores_below_every_one_that_does_not(
            good in (1e-3..1e6_f64, 1e-3..10.0_f64), bad in (1e-3..1e6_f64, 1e-3..1e6_f64),
        ) {
            let incumbent = usual(100.0);
            let clean = metrics(&[("rate", good.0), ("delay", good.1), ("errors", 0.0)]);
            let dirty = metrics(&[("rate", bad.0), ("delay", bad.1), ("errors", 0.5)]);
            let score = |metrics| score(metrics, &incumbent, &specs()).unwrap();
            prop_assert!(score(&dirty) <= score(&clean));
        }

        #[test]
        fn fitness_is_a_finite_number_within_tenfold_or_absent(rate: f64, delay: f64, old: f64) {
            let found = fitness(&metrics(&[("rate", rate), ("delay", delay)]), &metrics(&[("rate", old)]), &specs());
            prop_assert!(found.is_none_or(|fitness| fitness.abs() <= LOG_RATIO_MAX));
        }
    }
}

//! What the trials come to: a better setting, or that there is none, and why.

use std::collections::BTreeSet;

use kloros_search::{Config, Ended, Recommendation, Search};
use serde::Serialize;

use super::{plan::Plan, trial::Trial};

/// How many trials must all have failed before the run is given up.
const FAILED_MIN: usize = 4;

/// How many different settings must all have measured exactly the same before the run is given up.
const EQUAL_MIN: usize = 8;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Conclusion {
    /// A setting is better than the default; without a default, than what is usual in the space.
    Better,
    /// No setting measured better, as far as can be told from the noise.
    NoBetter,
    /// Every setting measured exactly the same: the command does not heed what is set.
    Flat,
    /// No trial gave a number.
    AllFailed,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// How it ended.
    pub(crate) conclusion: Conclusion,
    /// What to set, where that is better.
    pub(crate) best: Option<Best>,
    /// The trials, in order.
    pub(crate) trials: Vec<Trial>,
    /// Why there were no more: the budget is spent, every setting was tried, or it was given up.
    pub(crate) ended: Option<Ended>,
    /// Whether there were no more because its time was over.
    pub(crate) out_of_time: bool,
}

/// The setting that is recommended, in the units of the metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Best {
    /// What to set.
    pub(crate) config: Config,
    /// The value to expect.
    pub(crate) value: f64,
    /// Where the true value is with a chance of 95 %, the smaller end first.
    pub(crate) interval: (f64, f64),
    /// What is to be expected of the default; `None` if there is none, or if it failed.
    pub(crate) default: Option<f64>,
    /// How much better than the default, above 0, with the interval where the true gain is.
    pub(crate) gain: Option<f64>,
    /// Where the true gain is with a chance of 95 %.
    pub(crate) gain_interval: Option<(f64, f64)>,
}

/// Returns why no further trial makes sense, if none does.
pub(super) fn stop(plan: &Plan, trials: &[Trial]) -> Option<Conclusion> {
    let lot = FAILED_MIN.max(plan.batch as usize);
    if trials.len() >= lot && trials.iter().all(|trial| trial.value.is_none()) {
        return Some(Conclusion::AllFailed);
    }
    (settings(trials) >= EQUAL_MIN && are_equal(trials)).then_some(Conclusion::Flat)
}

/// Returns what the trials come to.
pub(super) fn report(plan: &Plan, search: &Search, trials: Vec<Trial>, stop: Option<Conclusion>) -> Report {
    let best = search.recommendation().map(|recommendation| in_units(plan, recommendation));
    let conclusion = stop.unwrap_or_else(|| match &best {
        None => Conclusion::AllFailed,
        Some(_) if settings(&trials) > 1 && are_equal(&trials) => Conclusion::Flat,
        Some(best) if is_better(plan, best, &trials) => Conclusion::Better,
        Some(_) => Conclusion::NoBetter,
    });
    let best = best.filter(|_| conclusion == Conclusion::Better);
    Report { conclusion, best, trials, ended: search.ended(), out_of_time: false }
}

fn in_units(plan: &Plan, recommendation: Recommendation) -> Best {
    let Recommendation { config, mean, interval, gain, gain_interval, .. } = recommendation;
    let ends = [plan.oriented(interval.0), plan.oriented(interval.1)];
    Best {
        config,
        value: plan.oriented(mean),
        interval: (ends[0].min(ends[1]), ends[0].max(ends[1])),
        default: gain.map(|gain| plan.oriented(mean + gain)),
        gain,
        gain_interval,
    }
}

/// Whether the best is better by more than the noise could feign.
fn is_better(plan: &Plan, best: &Best, trials: &[Trial]) -> bool {
    if let Some((low, _)) = best.gain_interval {
        return low > 0.0;
    }
    // Without a default that was measured it is held against the middle of all others.
    let mut others: Vec<f64> = trials
        .iter()
        .filter(|trial| trial.config != best.config)
        .filter_map(|trial| trial.value)
        .map(|value| plan.oriented(value))
        .collect();
    others.sort_by(f64::total_cmp);
    let worst = plan.oriented(best.interval.0).max(plan.oriented(best.interval.1));
    others.get(others.len() / 2).is_some_and(|middle| worst < *middle)
}

/// Returns how many different settings have a value.
fn settings(trials: &[Trial]) -> usize {
    let measured = trials.iter().filter(|trial| trial.value.is_some());
    let text = |trial: &Trial| trial.config.iter().map(|(name, value)| format!("{name}={value}\n")).collect::<String>();
    measured.map(text).collect::<BTreeSet<String>>().len()
}

fn are_equal(trials: &[Trial]) -> bool {
    let mut values = trials.iter().filter_map(|trial| trial.value);
    let first = values.next();
    values.all(|value| Some(value) == first)
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{Direction, Metrics};
    use kloros_search::{Kind, Outcome, Param, Space, SpaceSpec, Value};
    use rand::{SeedableRng as _, rngs::StdRng};
    use rand_distr::{Distribution as _, StandardNormal};

    use super::*;

    /// How many runs are made on noise alone.
    const NOISE_RUNS: u64 = 60;

    fn plan(default: bool, direction: Direction) -> Plan {
        let param = Param {
            name: "X".to_owned(),
            kind: Kind::Integer { low: 0, high: 99, log: false, step: None },
            when: None,
        };
        Plan {
            argv: vec!["./bench".to_owned()],
            folder: "/srv".into(),
            space: Space::new(SpaceSpec { params: vec![param], ..SpaceSpec::default() }).unwrap(),
            default: default.then(|| Config::from([("X".to_owned(), Value::Integer(50))])),
            metric: "ms".to_owned(),
            direction,
            budget: 16,
            batch: 2,
            parallel: 1,
            seed: 1,
            noisy: false,
            timeout_ms: 1000,
            within_ms: None,
        }
    }

    /// Runs a whole search on `measure` and returns what it comes to.
    fn run(plan: &Plan, measure: impl Fn(i64, u32) -> Option<f64>) -> Report {
        let mut search = Search::new(plan.space.clone(), plan.options());
        let mut trials = Vec::new();
        loop {
            let lot = search.ask(plan.batch);
            if lot.is_empty() {
                return report(plan, &search, trials, None);
            }
            for candidate in lot {
                let x = candidate.config["X"].number().unwrap() as i64;
                let value = measure(x, candidate.id);
                let outcome = value.map_or(Outcome::Failed, |value| Outcome::Value(plan.oriented(value)));
                search.tell(candidate.id, outcome).unwrap();
                let (id, config) = (candidate.id, candidate.config);
                trials.push(Trial {
                    id,
                    config,
                    value,
                    metrics: Metrics::new(),
                    failure: None,
                    took_ms: 1,
                    spent_ms: 1,
                });
            }
            if let Some(stop) = stop(plan, &trials) {
                return report(plan, &search, trials, Some(stop));
            }
        }
    }

    #[test]
    fn a_clear_gain_is_told_in_the_units_of_the_metric_whichever_way_is_better() {
        for (direction, sign) in [(Direction::Down, 1.0), (Direction::Up, -1.0)] {
            let report = run(&plan(true, direction), |x, _| Some(sign * (100.0 + (x - 20).abs() as f64)));
            let best = report.best.expect("it is better");
            assert_eq!((report.conclusion, best.default.map(f64::round)), (Conclusion::Better, Some(sign * 130.0)));
            assert!(best.interval.0 <= best.value && best.value <= best.interval.1, "{best:?}");
            assert!(best.gain.unwrap() > 0.0 && (sign * best.value) < 125.0, "{best:?}");
        }
    }

    #[test]
    fn where_the_default_is_the_best_there_is_no_better_one() {
        let report = run(&plan(true, Direction::Down), |x, _| Some(100.0 + (x - 50).pow(2) as f64));
        assert_eq!((report.conclusion, report.best), (Conclusion::NoBetter, None));
    }

    #[test]
    fn what_is_noise_alone_has_hardly_ever_a_winner() {
        for has_default in [true, false] {
            let winners = (0..NOISE_RUNS).filter(|seed| {
                let plan = Plan { seed: *seed, noisy: true, ..plan(has_default, Direction::Down) };
                // The same for every setting, but for what belongs to the trial.
                let mut noise = StdRng::seed_from_u64(*seed);
                let drawn: Vec<f64> = (0..=plan.budget).map(|_| StandardNormal.sample(&mut noise)).collect();
                let report = run(&plan, |_, id| Some(100.0 + drawn[id as usize]));
                assert_eq!(report.best.is_some(), report.conclusion == Conclusion::Better);
                report.best.is_some()
            });
            // An interval of 95 % is wrong upwards in one of forty.
            let winners = winners.count();
            assert!(winners * 20 <= NOISE_RUNS as usize, "{winners} of {NOISE_RUNS}, {has_default}");
        }
    }

    #[test]
    fn it_is_given_up_when_all_of_the_first_trials_failed_or_all_settings_measure_the_same() {
        let failed = run(&plan(true, Direction::Down), |_, _| None);
        assert_eq!((failed.conclusion, failed.best, failed.trials.len()), (Conclusion::AllFailed, None, FAILED_MIN));
        let flat = run(&plan(true, Direction::Down), |_, _| Some(7.0));
        assert_eq!((flat.conclusion, flat.best, flat.trials.len()), (Conclusion::Flat, None, EQUAL_MIN));
        let late = run(&plan(true, Direction::Down), |_, id| (id == 4).then_some(1.0));
        assert_eq!(late.trials.len(), 16, "one that worked shows that it can");
    }

    #[test]
    fn without_a_default_the_best_is_held_against_what_is_usual() {
        let report = run(&plan(false, Direction::Down), |x, _| Some(100.0 + (x - 20).abs() as f64));
        assert_eq!(report.conclusion, Conclusion::Better);
        assert_eq!(report.best.unwrap().gain, None);
    }
}

//! What earlier experiments teach a new one.
//!
//! A fitness is relative to the live settings of its own experiment. So an earlier number is used where its experiment
//! also measured what is live now: it is weighed anew against that measurement, which also takes out what has changed
//! since for all settings alike. A failure needs no such comparison: what crashed then probably crashes now.
//! Experiments that ended void taught nothing, and what has another meaning today is left out.

use std::collections::BTreeMap;

use kloros_search::{Space, trust};

use super::{
    fitness::{mean, told_of},
    search::Told,
    space::SearchSpace,
};
use crate::facts::{
    Domain, EarlierTrial, Experiment, ExperimentEnd, FailureKind, Key, Measurement, Metrics, Outcome, Params, Reason,
    Ruled, Trial, Value, Verdict, is_same,
};

const DAY_MS: f64 = 86_400_000.0;

/// How different a number is that was measured in another way, or in a way that is not known, from 0 to 1.
const OTHER_BENCH: f64 = 0.5;
const UNKNOWN_BENCH: f64 = 0.2;

/// How different a number is from an experiment that varied other things, or the same within other ranges.
const OTHER_SPACE: f64 = 0.1;

/// How different a number is that was compared with other live settings at the time.
const OTHER_LIVE: f64 = 0.1;

/// How different a number is from an experiment that did not measure all that counts today.
const OTHER_METRICS: f64 = 0.5;

/// A failure that is trusted less than this is forgotten: it would keep the search away for good.
const FAILED_TRUST_MIN: f64 = 0.4;

/// An earlier experiment, with all that was tried in it.
#[derive(Clone, Debug)]
pub struct Past {
    /// The experiment.
    pub experiment: Experiment,
    /// Its trials, in the order in which they ended.
    pub trials: Vec<Trial>,
    /// How it ended.
    pub end: ExperimentEnd,
    /// Whether its winner was deployed, and found to be bad.
    pub refuted: bool,
}

impl Past {
    fn winner(&self) -> Option<&Params> {
        match &self.end {
            ExperimentEnd::Won { winner, .. } => Some(&winner.best.params),
            ExperimentEnd::NoBetter { .. } | ExperimentEnd::Void { .. } => None,
        }
    }
}

/// Returns whether one of the `verdicts` undid what this experiment found because of the settings themselves. What was
/// not proven, or undone by a person or a crash of ours, is no worse for that.
pub fn is_refuted(experiment: &Experiment, verdicts: &[Verdict]) -> bool {
    let is_bad = |reason: &Reason| {
        use Reason::{Died, Guard, MetricLost, NotHealthy, Worse};
        matches!(reason, Worse | Guard { .. } | MetricLost { .. } | NotHealthy { .. } | Died { .. })
    };
    let of_it = |verdict: &&Verdict| verdict.question.as_ref() == Some(&experiment.question);
    verdicts.iter().filter(of_it).any(|verdict| verdict.outcome == Ruled::Rollback && is_bad(&verdict.reason))
}

/// The experiment that begins.
#[derive(Clone, Copy, Debug)]
pub struct Present<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// The active parameters of the live settings.
    pub live: &'a Params,
    /// Its domain.
    pub domain: &'a Domain,
}

/// Returns the trials of `past` experiments that are of use now, at most so many, those that are trusted most, oldest
/// first.
pub fn earlier(present: Present<'_>, past: &[Past], most: usize) -> Vec<EarlierTrial> {
    let search_space = SearchSpace::of(&present.experiment.spec);
    let Ok(space) = search_space.checked() else { return Vec::new() };
    let lens = Lens { present, search_space, space };
    let mut found: Vec<(u64, EarlierTrial)> = past.iter().flat_map(|past| lens.read(past)).collect();
    found.sort_by_key(|(at_ms, _)| *at_ms);
    let works_later = |index: usize, failed: &EarlierTrial| {
        found[index..].iter().any(|(_, later)| later.fitness.is_some() && later.params == failed.params)
    };
    let kept =
        found.iter().enumerate().filter(|(index, (_, trial))| trial.fitness.is_some() || !works_later(*index, trial));
    let mut kept: Vec<(u64, EarlierTrial)> = kept.map(|(_, each)| each.clone()).collect();
    kept.sort_by(|(_, one), (_, other)| trusted(other).total_cmp(&trusted(one)));
    kept.truncate(most);
    kept.sort_by_key(|(at_ms, _)| *at_ms);
    kept.into_iter().map(|(_, trial)| trial).collect()
}

fn trusted(trial: &EarlierTrial) -> f64 {
    trust(trial.age_days, trial.distance)
}

/// The present, through which the past is read.
struct Lens<'a> {
    present: Present<'a>,
    search_space: SearchSpace,
    space: Space,
}

/// A trial in today's parameters.
struct Seen<'a> {
    trial: &'a Trial,
    params: Params,
    /// What was varied beside them at the time.
    beside: BTreeMap<Key, Value>,
}

impl Lens<'_> {
    fn read(&self, past: &Past) -> Vec<(u64, EarlierTrial)> {
        let Experiment { id, spec, .. } = self.present.experiment;
        let is_void = matches!(past.end, ExperimentEnd::Void { .. });
        if is_void || past.experiment.id == *id || past.experiment.spec.domain != spec.domain {
            return Vec::new();
        }
        let seen: Vec<Seen<'_>> = past.trials.iter().filter_map(|trial| self.see(past, trial)).collect();
        let is_live = |seen: &&Seen<'_>| are_same(&seen.params, self.present.live) && measured(seen.trial).is_some();
        let live = seen.iter().rev().find(is_live);
        let Some(first) = past.trials.first().and_then(|first| self.see(past, first)) else { return Vec::new() };
        // What was varied then and is not varied now has to be as it was with what is live.
        let beside = &live.unwrap_or(&first).beside;
        let comparable: Vec<&Seen<'_>> = seen.iter().filter(|seen| seen.beside == *beside).collect();
        let runs = comparable.iter().copied().filter(is_live).filter_map(|seen| measured(seen.trial));
        let runs: Vec<&Metrics> = runs.map(|run| &run.metrics).collect();
        let incumbent = (!runs.is_empty()).then(|| mean(&runs));
        let distance = self.distance(past, &first, incumbent.as_ref());
        comparable.into_iter().filter_map(|seen| self.judge(past, seen, incumbent.as_ref(), distance)).collect()
    }

    /// Returns what a trial says today; `None` where that is nothing.
    fn judge(
        &self,
        past: &Past,
        seen: &Seen<'_>,
        incumbent: Option<&Metrics>,
        distance: f64,
    ) -> Option<(u64, EarlierTrial)> {
        let is_refuted = past.refuted && past.winner() == Some(&seen.trial.params);
        let fitness = match &seen.trial.outcome {
            // It measured well then, and the verdict knew better.
            Outcome::Measured(_) if is_refuted => None,
            Outcome::Measured(measurement) => {
                match told_of(&measurement.metrics, incumbent?, &self.present.domain.metrics) {
                    Told::Fitness(fitness) => Some(fitness),
                    Told::Tripped => None,
                    Told::Failed(_) => return None,
                }
            }
            Outcome::Failed(failure) if failure.kind.is_of_circumstances() => return None,
            // What was too much then is known by what is left now.
            Outcome::Failed(failure) if failure.kind == FailureKind::OutOfMemory && self.is_limited() => return None,
            Outcome::Failed(_) => None,
        };
        let age_ms = self.present.experiment.at_ms.saturating_sub(seen.trial.at_ms);
        let (from, params, age_days) = (past.experiment.id.clone(), seen.params.clone(), age_ms as f64 / DAY_MS);
        let trial = EarlierTrial { from, params, fitness, age_days, distance };
        let is_of_use = self.contains(&seen.params) && (fitness.is_some() || trusted(&trial) >= FAILED_TRUST_MIN);
        is_of_use.then_some((seen.trial.at_ms, trial))
    }

    /// Returns whether something that is varied is said to take memory.
    fn is_limited(&self) -> bool {
        let mut varied = self.present.experiment.spec.param_mapping.values();
        varied.any(|key| self.present.domain.knobs.get(key).is_some_and(|knob| knob.takes.is_some()))
    }

    /// Returns how different the conditions were, from 0, the same, to 1, nothing in common.
    fn distance(&self, past: &Past, first: &Seen<'_>, incumbent: Option<&Metrics>) -> f64 {
        let (now, then) = (self.present.experiment, &past.experiment);
        let bench = match (&now.measured_by, &then.measured_by) {
            (Some(now), Some(then)) if now == then => 0.0,
            (Some(_), Some(_)) => OTHER_BENCH,
            _ => UNKNOWN_BENCH,
        };
        let is_same_space = SearchSpace::of(&now.spec) == SearchSpace::of(&then.spec)
            && now.spec.param_mapping == then.spec.param_mapping;
        let counts = self.present.domain.metrics.iter().filter(|(_, spec)| spec.weight > 0.0).map(|(name, _)| name);
        let is_whole = incumbent.is_none_or(|incumbent| counts.clone().all(|name| incumbent.contains_key(name)));
        let parts = [
            bench,
            if is_same_space { 0.0 } else { OTHER_SPACE },
            if are_same(&first.params, self.present.live) { 0.0 } else { OTHER_LIVE },
            if is_whole { 0.0 } else { OTHER_METRICS },
        ];
        1.0 - parts.iter().map(|part| 1.0 - part).product::<f64>()
    }

    /// Returns a trial in today's parameters; `None` where one of them cannot be told.
    ///
    /// What was not varied then is what the measured instance said, or that of the live settings.
    fn see<'a>(&self, past: &Past, trial: &'a Trial) -> Option<Seen<'a>> {
        let spec = &self.present.experiment.spec;
        let then = &past.experiment.spec.param_mapping;
        let set: BTreeMap<&Key, &Value> =
            trial.params.iter().filter_map(|(name, value)| Some((then.get(name)?, value))).collect();
        let said = measured(trial).or_else(|| measured(past.trials.first()?));
        let said = |key: &Key| {
            let range = &self.present.domain.knobs.get(key)?.range;
            said.and_then(|measurement| range.parse(measurement.in_effect.get(key.as_str())?.trim()))
        };
        let value = |name: &String| {
            let key = spec.param_mapping.get(name)?;
            set.get(key).map(|value| (*value).clone()).or_else(|| said(key))
        };
        let known: Params = spec.search_space.keys().filter_map(|name| Some((name.clone(), value(name)?))).collect();
        let params = self.search_space.active(&known);
        let is_now = |key: &Key| spec.param_mapping.values().any(|each| each == key);
        let beside = set.into_iter().filter(|(key, _)| !is_now(key)).map(|(key, value)| (key.clone(), value.clone()));
        let beside = beside.collect();
        // A parameter whose value nobody told might be the one that matters.
        let is_told = |name: &String| params.contains_key(name) || !self.search_space.is_active(name, &known);
        spec.search_space.keys().all(is_told).then_some(Seen { trial, params, beside })
    }

    /// Returns whether these parameters, and no others near them, are a point of today's space.
    fn contains(&self, params: &Params) -> bool {
        let in_range = |(name, value): (&String, &Value)| {
            self.search_space.params.get(name).is_some_and(|dimension| dimension.range.refuses(value).is_none())
        };
        let Some(nearest) = self.space.nearest(&self.search_space.point_of(params)) else { return false };
        let nearest = self.search_space.params_of(&nearest);
        params.iter().all(in_range)
            && nearest.len() == params.len()
            && params
                .iter()
                .all(|(name, value)| nearest.get(name).is_some_and(|near| self.search_space.is_near(name, near, value)))
    }
}

fn are_same(one: &Params, other: &Params) -> bool {
    one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|each| is_same(each, value)))
}

fn measured(trial: &Trial) -> Option<&Measurement> {
    match &trial.outcome {
        Outcome::Measured(measurement) => Some(measurement),
        Outcome::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        dream::{
            Config,
            search::{Plan, Search, Told},
        },
        facts::{
            Apply, Best, Budget, Experience, ExperimentId, FailureKind, Knob, KnobKind, PerUnit, QuestionId,
            TrialFailure, VoidCause, Winner,
        },
        testing::{domain, experiment, key, spec},
    };

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 1_000 * DAY;

    fn params(seqs: i64, wait: i64) -> Params {
        [("seqs", seqs), ("wait", wait)].map(|(name, value)| (name.to_owned(), Value::Integer(value))).into()
    }

    fn ran(rate: f64) -> Outcome {
        Outcome::Measured(Measurement {
            metrics: [("rate".to_owned(), rate)].into(),
            samples: 50,
            window_ms: 1000,
            in_effect: [("SEQS", "2"), ("WAIT", "20")].map(|(key, text)| (key.to_owned(), text.to_owned())).into(),
            source: "a script".to_owned(),
            at_ms: 0,
            others: None,
            discarded: 0,
        })
    }

    fn failed(kind: FailureKind) -> Outcome {
        Outcome::Failed(TrialFailure { kind, detail: "as the script says".to_owned() })
    }

    fn named(id: &str, at_ms: u64) -> Experiment {
        Experiment { id: ExperimentId::new(id), at_ms, measured_by: Some("bench".to_owned()), ..experiment() }
    }

    /// An experiment so many days ago with these trials.
    fn past(days: u64, trials: &[(Params, Outcome)]) -> Past {
        let id = ExperimentId::new(format!("x-{days}"));
        let at_ms = NOW - days * DAY;
        let trial = |(number, (params, outcome)): (u32, &(Params, Outcome))| Trial {
            experiment: id.clone(),
            generation: 1,
            number,
            params: params.clone(),
            outcome: outcome.clone(),
            at_ms: at_ms + u64::from(number),
        };
        let trials = (1..).zip(trials).map(trial).collect();
        let end = ExperimentEnd::NoBetter { experiment: id.clone(), why: String::new(), front: Vec::new() };
        Past { experiment: named(id.as_str(), at_ms), trials, end, refuted: false }
    }

    fn usual() -> Vec<(Params, Outcome)> {
        vec![
            (params(2, 20), ran(20.0)),
            (params(8, 20), ran(80.0)),
            (params(16, 20), ran(160.0)),
            (params(64, 20), failed(FailureKind::Died)),
        ]
    }

    fn found(live: &Params, past: &[Past]) -> Vec<EarlierTrial> {
        let (now, domain) = (named("x-now", NOW), domain("lab"));
        earlier(Present { experiment: &now, live, domain: &domain }, past, 64)
    }

    /// Returns the sequences that were tried and by how many percent they were better, with the distance in percent.
    fn told(trials: &[EarlierTrial]) -> Vec<(i64, Option<i64>, i64)> {
        let percent = |number: f64| (100.0 * number).round() as i64;
        let line = |trial: &EarlierTrial| {
            let Value::Integer(seqs) = trial.params["seqs"] else { panic!("{trial:?}") };
            (seqs, trial.fitness.map(|fitness| percent(fitness.exp_m1())), percent(trial.distance))
        };
        trials.iter().map(line).collect()
    }

    #[test]
    fn a_number_is_weighed_against_what_is_live_now_as_it_was_measured_then() {
        let same = [(2, Some(0), 0), (8, Some(300), 0), (16, Some(700), 0), (64, None, 0)];
        assert_eq!(told(&found(&params(2, 20), &[past(1, &usual())])), same);
        let deployed = [(2, Some(-75), 10), (8, Some(0), 10), (16, Some(100), 10), (64, None, 10)];
        assert_eq!(told(&found(&params(8, 20), &[past(1, &usual())])), deployed);
    }

    #[test]
    fn where_what_is_live_now_was_not_measured_then_failures_alone_are_told() {
        assert_eq!(told(&found(&params(9, 20), &[past(1, &usual())])), [(64, None, 10)]);
        let mut trials = usual();
        trials[1].1 = failed(FailureKind::Died);
        assert_eq!(told(&found(&params(8, 20), &[past(1, &trials)])), [(8, None, 10), (64, None, 10)]);
    }

    #[test]
    fn the_runs_of_what_is_live_are_taken_together() {
        let mut trials = usual();
        trials.push((params(2, 20), ran(60.0)));
        let live = [(2, Some(-50), 0), (8, Some(100), 0), (16, Some(300), 0), (64, None, 0), (2, Some(50), 0)];
        assert_eq!(told(&found(&params(2, 20), &[past(1, &trials)])), live);
    }

    #[test]
    fn what_nobody_is_to_blame_for_and_what_said_nothing_teaches_nothing() {
        let mut trials = usual();
        trials[3].1 = failed(FailureKind::Infrastructure);
        trials[1].1 = ran(f64::NAN);
        assert_eq!(told(&found(&params(2, 20), &[past(1, &trials)])), [(2, Some(0), 0), (16, Some(700), 0)]);
        let mut void = past(1, &usual());
        void.end = ExperimentEnd::Void {
            experiment: void.experiment.id.clone(),
            why: String::new(),
            cause: VoidCause::Untold,
        };
        let mut foreign = past(1, &usual());
        foreign.experiment.spec.domain = "other".to_owned();
        let ours = Past { experiment: named("x-now", NOW), ..past(1, &usual()) };
        assert_eq!(found(&params(2, 20), &[void, foreign, ours, past(1, &[])]), []);
    }

    #[test]
    fn memory_that_was_too_little_once_is_forgotten_where_it_is_said_what_is_taken() {
        let short = past(1, &[(params(2, 20), ran(20.0)), (params(64, 20), failed(FailureKind::OutOfMemory))]);
        let mut domain = domain("lab");
        let mut with_domain = |takes| {
            domain.knobs.values_mut().for_each(|knob| knob.takes = takes);
            let (now, live) = (named("x-now", NOW), params(2, 20));
            told(&earlier(Present { experiment: &now, live: &live, domain: &domain }, std::slice::from_ref(&short), 64))
        };
        assert_eq!(with_domain(None), [(2, Some(0), 0), (64, None, 0)]);
        assert_eq!(with_domain(Some(PerUnit::default())), [(2, Some(0), 0)]);
    }

    #[test]
    fn a_failure_is_forgotten_when_it_is_old_or_when_the_same_worked_later() {
        let last = |days: u64| told(&found(&params(2, 20), &[past(days, &usual())])).pop().unwrap();
        assert_eq!(last(30), (64, None, 0));
        assert_eq!(last(60), (16, Some(700), 0));
        let works = past(1, &[(params(2, 20), ran(20.0)), (params(64, 20), ran(640.0))]);
        let fails = past(1, &[(params(2, 20), ran(20.0)), (params(64, 20), failed(FailureKind::Died))]);
        let both = |first: &Past, second: &Past| {
            let mut first = first.clone();
            first.trials.iter_mut().for_each(|trial| trial.at_ms -= DAY);
            told(&found(&params(2, 20), &[first, second.clone()]))
        };
        assert_eq!(both(&fails, &works).last(), Some(&(64, Some(900), 0)), "no metric counts for more than tenfold");
        assert!(!both(&fails, &works).contains(&(64, None, 0)));
        assert_eq!(both(&works, &fails).last(), Some(&(64, None, 0)));
    }

    #[test]
    fn a_winner_that_was_deployed_and_found_to_be_bad_is_told_as_a_failure() {
        let mut past = past(1, &usual());
        let best = Best { params: params(16, 20), fitness: 2.0, metrics: Metrics::new() };
        let (experiment, domain, experiment_id) =
            (past.experiment.id.clone(), "lab".to_owned(), past.experiment.id.clone());
        let incumbent = crate::facts::Settings::new();
        let (experiment_name, gain, front) = ("x".to_owned(), None, Vec::new());
        let winner = Winner {
            experiment: experiment_name,
            domain,
            best,
            incumbent,
            experiment_id,
            measured: 3,
            failed: 1,
            gain,
            front,
        };
        past.end = ExperimentEnd::Won { experiment, winner };
        let kept = [(2, Some(0), 0), (8, Some(300), 0), (16, Some(700), 0), (64, None, 0)];
        assert_eq!(told(&found(&params(2, 20), &[past.clone()])), kept);
        past.refuted = true;
        let refuted = [(2, Some(0), 0), (8, Some(300), 0), (16, None, 0), (64, None, 0)];
        assert_eq!(told(&found(&params(2, 20), &[past])), refuted);
    }

    #[test]
    fn settings_are_bad_when_they_were_undone_for_what_they_did() {
        let change = crate::testing::deployment_of(crate::testing::promotion(&[("SEQS", 12)]));
        let verdict = |reason| crate::testing::rollback(&change, reason);
        let why = || "it ended".to_owned();
        let table = [
            (Reason::Worse, true),
            (Reason::Guard { metric: "rate".to_owned() }, true),
            (Reason::Died { why: why() }, true),
            (Reason::Unproven, false),
            (Reason::Crash, false),
            (Reason::Person { uid: 0 }, false),
            (Reason::Aborted { why: why() }, false),
        ];
        for (reason, expected) in table {
            let verdict = verdict(reason);
            assert_eq!(is_refuted(&experiment(), std::slice::from_ref(&verdict)), expected, "{verdict:?}");
            let kept = Verdict { outcome: Ruled::Neutral, ..verdict.clone() };
            assert!(!is_refuted(&experiment(), &[kept]));
            let elsewhere = Experiment { question: QuestionId::new("q-9"), ..experiment() };
            assert!(!is_refuted(&elsewhere, &[verdict]));
        }
    }

    #[test]
    fn the_more_differs_the_larger_is_the_distance() {
        type Change = fn(&mut Past);
        let table: [(&str, Change, i64); 5] = [
            ("nothing", |_| {}, 0),
            ("another bench", |past| past.experiment.measured_by = Some("other".to_owned()), 50),
            ("an unknown bench", |past| past.experiment.measured_by = None, 20),
            (
                "other ranges",
                |past| {
                    past.experiment.spec.search_space.remove("wait");
                },
                10,
            ),
            (
                "both",
                |past| {
                    past.experiment.spec.constraints = vec!["seqs <= wait".to_owned()];
                    past.experiment.measured_by = Some("other".to_owned());
                },
                55,
            ),
        ];
        for (what, change, distance) in table {
            let mut past = past(1, &usual()[..3]);
            change(&mut past);
            let found = told(&found(&params(2, 20), &[past]));
            assert_eq!(found.len(), 3, "{what}");
            assert!(found.iter().all(|each| each.2 == distance), "{what}: {found:?}");
        }
    }

    #[test]
    fn an_experiment_that_did_not_measure_what_counts_now_is_more_distant() {
        let (now, mut domain) = (named("x-now", NOW), domain("lab"));
        let delay = crate::facts::MetricSpec { direction: crate::facts::Direction::Down, weight: 1.0, guard: None };
        domain.metrics.insert("delay".to_owned(), delay);
        let live = params(2, 20);
        let found = earlier(Present { experiment: &now, live: &live, domain: &domain }, &[past(1, &usual())], 64);
        assert_eq!(told(&found)[1], (8, Some(300), 50));
    }

    #[test]
    fn what_was_not_varied_then_is_what_the_instance_said_and_what_is_not_varied_now_must_not_have_differed() {
        let only = |name: &str, value: i64| Params::from([(name.to_owned(), Value::Integer(value))]);
        let mut narrow = past(1, &[(only("seqs", 2), ran(20.0)), (only("seqs", 8), ran(80.0))]);
        narrow.experiment.spec.search_space.remove("wait");
        narrow.experiment.spec.param_mapping.remove("wait");
        assert_eq!(told(&found(&params(2, 20), &[narrow.clone()])), [(2, Some(0), 10), (8, Some(300), 10)]);
        // The wait was another one then.
        assert_eq!(told(&found(&params(2, 30), &[narrow])), []);

        let mut now = named("x-now", NOW);
        now.spec.search_space.remove("wait");
        now.spec.param_mapping.remove("wait");
        let (domain, live) = (domain("lab"), only("seqs", 2));
        let wide = [
            (params(2, 20), ran(20.0)),
            (params(8, 20), ran(80.0)),
            (params(8, 99), ran(990.0)),
            (params(64, 99), failed(FailureKind::Died)),
        ];
        let found = earlier(Present { experiment: &now, live: &live, domain: &domain }, &[past(1, &wide)], 64);
        assert_eq!(told(&found), [(2, Some(0), 10), (8, Some(300), 10)]);
    }

    #[test]
    fn what_is_no_point_of_todays_space_is_left_out_rather_than_moved_into_it() {
        let mut now = named("x-now", NOW);
        now.spec
            .search_space
            .insert("seqs".to_owned(), KnobKind::Integer { min: 2, max: 8, log: false, step: Some(2) }.into());
        now.spec.forbidden = vec![params(4, 20)];
        now.spec.constraints = vec!["seqs <= wait".to_owned()];
        let (domain, live) = (domain("lab"), params(2, 20));
        let trials: Vec<(Params, Outcome)> = [(2, 20), (3, 20), (4, 20), (6, 20), (6, 4), (10, 20)]
            .map(|(seqs, wait)| (params(seqs, wait), ran(10.0 * seqs as f64)))
            .into();
        let found = earlier(Present { experiment: &now, live: &live, domain: &domain }, &[past(1, &trials)], 64);
        assert_eq!(told(&found).iter().map(|each| each.0).collect::<Vec<_>>(), [2, 6]);
    }

    #[test]
    fn of_too_many_the_most_trusted_are_kept_oldest_first() {
        let (now, domain, live) = (named("x-now", NOW), domain("lab"), params(2, 20));
        let mut other = past(1, &usual());
        other.experiment.measured_by = Some("other".to_owned());
        let all = [past(20, &usual()), other, past(2, &usual())];
        let found = earlier(Present { experiment: &now, live: &live, domain: &domain }, &all, 6);
        let from: Vec<&str> = found.iter().map(|trial| trial.from.as_str()).collect();
        assert_eq!(from, ["x-20", "x-20", "x-2", "x-2", "x-2", "x-2"]);
        assert_eq!(earlier(Present { experiment: &now, live: &live, domain: &domain }, &all, 0), []);
    }

    // One service with four knobs, and two worlds in which it is measured.

    fn tuned() -> (Domain, Experiment) {
        let params = serde_json::json!({
            "batch": {"kind": "integer", "min": 1, "max": 512, "log": true},
            "cache": {"kind": "float", "min": 0.5, "max": 0.95},
            "eager": {"kind": "boolean"},
            "policy": {"kind": "choice", "values": ["fcfs", "sjf", "prio"]},
        });
        let mut spec = spec();
        spec.search_space = serde_json::from_value(params).unwrap();
        spec.param_mapping = spec.search_space.keys().map(|name| (name.clone(), key(&name.to_uppercase()))).collect();
        spec.budget = Budget::of(12, 4);
        let knob = |range: &KnobKind, default: Value| Knob {
            range: range.clone(),
            default,
            apply: Apply::Restart,
            step_max: None,
            reversible: true,
            relieves: Vec::new(),
            trades: None,
            takes: None,
        };
        let mut domain = domain("lab");
        domain.knobs = live()
            .into_iter()
            .map(|(name, value)| (key(&name.to_uppercase()), knob(&spec.search_space[&name].range, value)))
            .collect();
        (domain, Experiment { spec, ..named("x-now", NOW) })
    }

    fn live() -> Params {
        [
            ("batch", Value::Integer(4)),
            ("cache", Value::Float(0.6)),
            ("eager", Value::Boolean(true)),
            ("policy", Value::Choice("fcfs".to_owned())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The logarithm of the rate; `None` where the service would not start.
    type World = fn(&Params) -> Option<f64>;

    fn hill(params: &Params, batch: f64, cache: f64, policy: &str) -> Option<f64> {
        let number = |name: &str| params[name].as_number().unwrap();
        let off = ((number("batch").ln() - batch.ln()) / 6.2, (number("cache") - cache) / 0.45);
        let best = f64::from(u8::from(params["policy"] == Value::Choice(policy.to_owned())));
        let fits = number("batch").ln() / 6.2 + (number("cache") - 0.5) / 0.45 < 1.75;
        fits.then(|| 0.3 * best - 3.0 * off.0 * off.0 - 2.0 * off.1 * off.1 - 0.3 * number("eager"))
    }

    fn before(params: &Params) -> Option<f64> {
        hill(params, 96.0, 0.85, "sjf")
    }

    /// The best is elsewhere: another batch, another cache, another policy.
    fn after(params: &Params) -> Option<f64> {
        hill(params, 12.0, 0.65, "prio")
    }

    struct Run {
        trials: Vec<(Params, Outcome)>,
        /// The true worth of what was best so far, after each trial.
        best: Vec<f64>,
        /// The true worth of what the search favours in the end.
        favoured: f64,
    }

    /// Runs an experiment in `world` with noise of about two percent.
    fn run(world: World, known: Vec<EarlierTrial>, generations: u32, seed: u64) -> Run {
        let (domain, mut experiment) = tuned();
        experiment.seed = seed;
        experiment.spec.budget.max_generations = generations;
        let config = Config { stop_below: 0.0, ..Config::default() };
        let known = Experience { experiment: experiment.id.clone(), trials: known, resolves: None, limits: Vec::new() };
        let mut search = Search::new(Plan::of(&experiment, &config, live(), &known)).unwrap();
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut trials, mut best): (Vec<(Params, Outcome)>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut incumbent = None;
        loop {
            let lot = search.ask();
            if lot.is_empty() {
                let favoured = search.favourite().and_then(world).unwrap_or(f64::NEG_INFINITY);
                return Run { trials, best, favoured };
            }
            for candidate in lot {
                let noise = 0.02 * (0..6).map(|_| rng.random::<f64>() - 0.5).sum::<f64>() / 0.7;
                let worth = world(&candidate.params);
                let outcome =
                    worth.map_or_else(|| failed(FailureKind::DidNotStart), |worth| ran((worth + noise).exp()));
                let told = match &outcome {
                    Outcome::Measured(measurement) => {
                        let incumbent = incumbent.get_or_insert_with(|| measurement.metrics.clone());
                        told_of(&measurement.metrics, incumbent, &domain.metrics)
                    }
                    Outcome::Failed(failure) => Told::Failed(failure.kind),
                };
                search.tell(&candidate, told);
                let so_far = best.last().copied().unwrap_or(f64::NEG_INFINITY);
                best.push(worth.unwrap_or(f64::NEG_INFINITY).max(so_far));
                trials.push((candidate.params, outcome));
            }
        }
    }

    fn learned(trials: &[(Params, Outcome)], days: u64) -> Vec<EarlierTrial> {
        let (domain, experiment) = tuned();
        let mut past = past(days, trials);
        past.experiment.spec = experiment.spec.clone();
        earlier(Present { experiment: &experiment, live: &live(), domain: &domain }, &[past], 64)
    }

    fn median(mut numbers: Vec<f64>) -> f64 {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    }

    /// Returns the median over these seeds of the trials that the second run needs to come as near to the best as the
    /// first one did, cold and with what the first one measured.
    fn trials_until(seeds: u64) -> (f64, f64) {
        let needed = |run: &Run, goal: f64| {
            run.best.iter().position(|best| *best >= goal).unwrap_or(run.best.len()) as f64 + 1.0
        };
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for seed in 0..seeds {
            let first = run(before, Vec::new(), 4, seed);
            let goal = first.best.last().unwrap() - 0.01;
            cold.push(needed(&run(before, Vec::new(), 4, seed + 100), goal));
            warm.push(needed(&run(before, learned(&first.trials, 2), 4, seed + 100), goal));
        }
        (median(cold), median(warm))
    }

    #[test]
    fn a_second_experiment_comes_to_the_best_of_the_first_in_far_fewer_trials() {
        let (cold, warm) = trials_until(7);
        assert!(3.0 * warm <= cold, "{warm} trials, {cold} without what was known");
    }

    #[test]
    fn earlier_numbers_that_mislead_cost_little() {
        for generations in [1, 2, 4] {
            let (mut cold, mut warm) = (Vec::new(), Vec::new());
            for seed in 0..9 {
                let first = run(before, Vec::new(), 4, seed);
                cold.push(run(after, Vec::new(), generations, seed + 100).favoured);
                warm.push(run(after, learned(&first.trials, 2), generations, seed + 100).favoured);
            }
            let (cold, warm) = (median(cold), median(warm));
            // The live settings are worth -0.42 and the best 0.3: a tenth of what there is to gain.
            assert!(warm >= cold - 0.07, "{generations} generations: {warm} misled, {cold} cold");
        }
    }

    /// Lesson 12: a point that is known to be bad costs no second evaluation.
    #[test]
    fn what_crashed_before_is_not_tried_again() {
        for seed in 0..5 {
            let first = run(before, Vec::new(), 4, seed);
            let known = learned(&first.trials, 2);
            let second = run(before, known.clone(), 4, seed + 100);
            let crashed: Vec<&Params> =
                known.iter().filter(|trial| trial.fitness.is_none()).map(|trial| &trial.params).collect();
            assert!(!second.trials.iter().any(|(params, _)| crashed.contains(&params)));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_past_holds_is_a_bounded_list_of_finite_numbers_within_the_space(
            trials in prop::collection::vec((0_i64..70, -5_i64..120, any::<f64>(), 0_u8..4), 0..20),
            live in (0_i64..70, 0_i64..100), days in 0_u64..1000, most in 0_usize..12,
        ) {
            let outcome = |rate: f64, how: u8| match how {
                0 => failed(FailureKind::Died),
                1 => ran(rate),
                _ => ran(rate.abs().min(1e6)),
            };
            let trials: Vec<(Params, Outcome)> =
                trials.iter().map(|(seqs, wait, rate, how)| (params(*seqs, *wait), outcome(*rate, *how))).collect();
            let live = trials.first().map_or(params(live.0, live.1), |(params, _)| params.clone());
            let (now, domain) = (named("x-now", NOW), domain("lab"));
            let found = earlier(Present { experiment: &now, live: &live, domain: &domain }, &[past(days, &trials)], most);
            prop_assert!(found.len() <= most);
            for trial in &found {
                prop_assert!(trial.fitness.is_none_or(f64::is_finite));
                prop_assert!((0.0..=1.0).contains(&trial.distance) && trial.age_days >= 0.0);
                let inside = |(name, value): (&String, &Value)| now.spec.search_space[name].range.refuses(value).is_none();
                prop_assert!(trial.params.iter().all(inside));
            }
        }
    }
}

//! The verdict: is a change better, worse or neither, and is that known well enough?
//!
//! Old and new settings are measured in blocks of four runs, ABBA or BAAB, so that a steady drift cancels. A block
//! gives one number: the mean log ratio of new to old. As many blocks are measured as their spread asks, fewer when the
//! answer is clear at any time before; then the thresholds of the playbook rule on the mean.

use std::collections::BTreeMap;

use super::{
    Config, baseline,
    evidence::Evidence,
    statistics::{Sample, winsorised},
};
use crate::facts::{Estimate, FailureKind, MetricSpec, Metrics, Reason, Ruled};

pub use crate::facts::objective::improvement;

/// How many times the largest number of blocks may be begun, so that void blocks come to an end too.
const ATTEMPTS_FACTOR: u32 = 2;

/// Ratios are compared to this many parts of one: +2 % is +2 % although 1.02 is no binary number.
const RATIO_PARTS: f64 = 1e9;

/// One run of a validation.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its block, from 1.
    pub block: u32,
    /// Its place in the block, from 1 to 4.
    pub place: u32,
    /// Whether the new settings ran.
    pub candidate: bool,
    /// What was measured, or why not.
    pub outcome: Result<Metrics, FailureKind>,
    /// How many requests or observations stand behind it; a run with none is invalid.
    pub samples: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Course {
    /// Measure the missing runs of this block.
    Measure {
        /// The block, from 1.
        block: u32,
        /// How many good blocks will be enough, as far as is known by now.
        blocks_planned: u32,
    },
    /// Stop: this is the verdict.
    Judge(Judgement),
}

/// A verdict before it is bound to a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Kept with a new baseline, kept, or undone.
    pub outcome: Ruled,
    /// Why.
    pub reason: Reason,
    /// How much better the new settings are, with the interval that decided; absent when it could not be measured.
    pub improvement: Option<Estimate>,
    /// Medians of the old settings, metric by metric.
    pub before: Metrics,
    /// Medians of the new settings, metric by metric.
    pub after: Metrics,
    /// How many good blocks of four runs stand behind it.
    pub blocks: u32,
    /// How many requests or observations stand behind the good runs.
    pub samples: u64,
    /// How many runs were made, those of void blocks too.
    pub runs: u32,
    /// How the good runs of the old settings differ.
    pub spread_before: Spread,
    /// How the good runs of the new settings differ.
    pub spread_after: Spread,
}

/// How much runs with the same settings differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spread {
    /// How many runs that is.
    pub n: u32,
    /// The standard deviation of each metric from run to run, in its own unit.
    pub deviations: Metrics,
}

/// Returns which runs of a block are made with the new settings: the coin says whether the old ones come first.
pub fn arrange(coin: bool) -> [bool; 4] {
    if coin { [false, true, true, false] } else { [true, false, false, true] }
}

/// Rules on an improvement, as a ratio: from `keep_from` a success, below `undo_below` a rollback, else neutral.
///
/// What is no number is a rollback.
pub fn rule(config: &Config, improvement_ratio: f64) -> Ruled {
    if parts(improvement_ratio) >= parts(config.keep_from) {
        Ruled::Success
    } else if parts(improvement_ratio) >= parts(config.undo_below) {
        Ruled::Neutral
    } else {
        Ruled::Rollback
    }
}

/// Returns whether to measure on or how to judge, from all runs so far.
///
/// The last block is completed before anything is judged. A block with an invalid run does not count and is made up
/// for by a further one. `anchor` holds the baseline of the domain, if there is one: a change that would be
/// kept as neutral is undone when it is a loss and the domain would end below the limit of erosion.
pub fn course(config: &Config, specs: &BTreeMap<String, MetricSpec>, anchor: Option<&Metrics>, runs: &[Run]) -> Course {
    let evidence = Evidence::of(specs, runs);
    let next = match evidence.open_block {
        Some(block) => return Course::Measure { block, blocks_planned: blocks_min(config) },
        None => evidence.last_block.saturating_add(1),
    };
    if let Some(reason) = evidence.stop(config) {
        return Course::Judge(judgement(&evidence, Ruled::Rollback, reason, None));
    }
    match finding(config, &evidence) {
        Finding::Open { .. } if next > attempts_max(config) => {
            let why = format!("only {} of {} blocks were good", evidence.log_ratios().len(), evidence.last_block);
            Course::Judge(judgement(&evidence, Ruled::Rollback, Reason::Inconclusive { why }, None))
        }
        Finding::Open { blocks_planned } => Course::Measure { block: next, blocks_planned },
        Finding::Found { outcome, .. } if outcome != Ruled::Rollback && is_in_doubt(config, &evidence) => {
            Course::Measure { block: next, blocks_planned: evidence.log_ratios().len() as u32 + 1 }
        }
        Finding::Found { outcome, reason, improvement } => {
            let (outcome, reason) = match veto(config, anchor, &evidence, outcome, improvement.ratio) {
                Some(reason) => (Ruled::Rollback, reason),
                None => (outcome, reason),
            };
            Course::Judge(judgement(&evidence, outcome, reason, Some(improvement)))
        }
    }
}

/// Returns whether a change that the objective would keep is to be measured longer, up to twice the fewest blocks: a guard seems to
/// trip, and it is not known yet whether that is an accident.
fn is_in_doubt(config: &Config, evidence: &Evidence<'_>) -> bool {
    let blocks_max = blocks_max(config).min(blocks_min(config).saturating_mul(2));
    let has_room = (evidence.log_ratios().len() as u32) < blocks_max && evidence.last_block < attempts_max(config);
    has_room && evidence.tripped().is_none() && evidence.seems_to_trip()
}

/// Returns the rollback of a deployment for a `reason` that no measurement outweighs, with what was measured so far.
pub fn condemned(specs: &BTreeMap<String, MetricSpec>, runs: &[Run], reason: Reason) -> Judgement {
    judgement(&Evidence::of(specs, runs), Ruled::Rollback, reason, None)
}

/// What the good blocks say.
enum Finding {
    Open { blocks_planned: u32 },
    Found { outcome: Ruled, reason: Reason, improvement: Estimate },
}

/// Returns what the good blocks say about the objective, or how many of them it takes.
fn finding(config: &Config, evidence: &Evidence<'_>) -> Finding {
    let (blocks_min, blocks_max) = (blocks_min(config), blocks_max(config));
    let ratios = evidence.log_ratios();
    // The plan is made once, from the first blocks: looking at the spread again after each would bias the end. Their
    // outliers stay in: taken out of so few, the spread would be too small, and so would the plan.
    let first = ratios.get(..blocks_min as usize).and_then(Sample::of);
    let (Some(first), Some(sample)) = (first, Sample::of(&winsorised(&ratios))) else {
        return Finding::Open { blocks_planned: blocks_min };
    };
    let tuned_for = blocks_min.saturating_mul(2);
    let always = Interval::around(&sample, sample.always_margin(config.alpha, tuned_for));
    if let Some(outcome) = always.decides(config) {
        return Finding::Found { outcome, reason: reason(outcome), improvement: always.estimate() };
    }
    let known = Interval::around(&sample, sample.margin(0.95));
    if let Some(metric) = evidence.bound_to_trip(config.alpha, tuned_for) {
        let (outcome, reason) = (Ruled::Rollback, Reason::Guard { metric });
        return Finding::Found { outcome, reason, improvement: known.estimate() };
    }
    let wanted = first.needed(config.half_width);
    let blocks_planned = wanted.clamp(blocks_min, blocks_max);
    if sample.n < blocks_planned {
        return Finding::Open { blocks_planned };
    }
    let outcome = rule(config, sample.mean.exp_m1());
    // The spread was too large for the budget: then the change has to prove that it does no harm.
    let vague = wanted > blocks_max && sample.margin(0.95) > config.half_width;
    let harmless = rule(config, (sample.mean - sample.margin(0.90)).exp_m1()) != Ruled::Rollback;
    let (outcome, reason) = match outcome {
        Ruled::Success | Ruled::Neutral if vague && !harmless => (Ruled::Rollback, Reason::Unproven),
        outcome => (outcome, reason(outcome)),
    };
    Finding::Found { outcome, reason, improvement: known.estimate() }
}

/// Returns why a change that the objective would keep is undone all the same.
fn veto(
    config: &Config,
    anchor: Option<&Metrics>,
    evidence: &Evidence<'_>,
    outcome: Ruled,
    improvement_ratio: f64,
) -> Option<Reason> {
    if outcome == Ruled::Rollback {
        return None;
    }
    evidence.tripped().map(|metric| Reason::Guard { metric }).or_else(|| evidence.frozen()).or_else(|| {
        let eroded_ratio = baseline::erosion(anchor?, &evidence.medians(true), evidence.specs)?;
        let below = parts(eroded_ratio) < parts(config.erosion_below);
        // A change that is no loss is not what eroded the domain, and undoing it would not mend it.
        (outcome == Ruled::Neutral && improvement_ratio < 0.0 && below).then_some(Reason::Worse)
    })
}

fn judgement(evidence: &Evidence<'_>, outcome: Ruled, reason: Reason, improvement: Option<Estimate>) -> Judgement {
    Judgement {
        outcome,
        reason,
        improvement,
        before: evidence.medians(false),
        after: evidence.medians(true),
        blocks: evidence.log_ratios().len() as u32,
        samples: evidence.samples(),
        runs: evidence.made(),
        spread_before: evidence.spread(false),
        spread_after: evidence.spread(true),
    }
}

fn reason(outcome: Ruled) -> Reason {
    match outcome {
        Ruled::Success => Reason::Improved,
        Ruled::Neutral => Reason::InBetween,
        Ruled::Rollback => Reason::Worse,
    }
}

/// A mean log ratio and how far to trust it.
struct Interval {
    low: f64,
    mean: f64,
    high: f64,
}

impl Interval {
    fn around(sample: &Sample, margin: f64) -> Interval {
        Interval { low: sample.mean - margin, mean: sample.mean, high: sample.mean + margin }
    }

    /// Returns the ruling that all of the interval agrees on.
    fn decides(&self, config: &Config) -> Option<Ruled> {
        let (low, high) = (rule(config, self.low.exp_m1()), rule(config, self.high.exp_m1()));
        (low == high).then_some(low)
    }

    fn estimate(&self) -> Estimate {
        Estimate { ratio: self.mean.exp_m1(), low: self.low.exp_m1(), high: self.high.exp_m1() }
    }
}

fn parts(ratio: f64) -> f64 {
    (ratio * RATIO_PARTS).round()
}

/// Two blocks are the fewest that have a spread.
fn blocks_min(config: &Config) -> u32 {
    config.blocks_min.max(2)
}

fn blocks_max(config: &Config) -> u32 {
    config.blocks_max.max(blocks_min(config))
}

fn attempts_max(config: &Config) -> u32 {
    blocks_max(config).saturating_mul(ATTEMPTS_FACTOR)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::facts::{Direction, Guard};

    fn specs() -> BTreeMap<String, MetricSpec> {
        let guard = |loss_max, value_max| Some(Guard { loss_max, value_max });
        [
            ("rate", Direction::Up, 1.0, None),
            ("delay", Direction::Down, 0.0, guard(Some(0.05), None)),
            ("errors", Direction::Down, 0.0, guard(None, Some(0.01))),
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

    type Outcome = Result<Metrics, FailureKind>;

    /// Measures as it is told until there is a verdict, with one request a run.
    fn validate(
        config: &Config,
        anchor: Option<&Metrics>,
        seed: u64,
        mut measure: impl FnMut(bool, &mut StdRng) -> Outcome,
    ) -> (Judgement, Vec<Run>) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut runs = Vec::new();
        loop {
            match course(config, &specs(), anchor, &runs) {
                Course::Judge(judgement) => return (judgement, runs),
                Course::Measure { block, .. } => {
                    for (candidate, place) in arrange(rng.random()).into_iter().zip(1..) {
                        let outcome = measure(candidate, &mut rng).map(|metrics| jittered(metrics, runs.len()));
                        runs.push(Run { block, place, candidate, outcome, samples: 1 });
                    }
                }
            }
        }
    }

    /// No real measurement gives the same number twice; this much changes no verdict.
    fn jittered(metrics: Metrics, run: usize) -> Metrics {
        let factor = |name: &str| if name == "rate" { 1.0 + run as f64 * 1e-14 } else { 1.0 };
        metrics.into_iter().map(|(name, value)| (name.clone(), value * factor(&name))).collect()
    }

    fn judged(mut measure: impl FnMut(bool) -> Outcome) -> Judgement {
        validate(&Config::default(), None, 1, |candidate, _| measure(candidate)).0
    }

    /// A factor with this coefficient of variation, log-normal by and by.
    fn noisy(rng: &mut StdRng, cv: f64) -> f64 {
        let twelve: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
        (cv * (twelve - 6.0)).exp()
    }

    /// Returns the shares of success and rollback, and the mean number of runs, for a true effect.
    fn shares(effect: f64, cv: f64, validations: u64) -> (f64, f64, f64) {
        let (mut successes, mut rollbacks, mut made) = (0, 0, 0);
        for seed in 0..validations {
            let (judgement, runs) = validate(&Config::default(), None, seed, |candidate, rng| {
                Ok(usual(100.0 * noisy(rng, cv) * if candidate { 1.0 + effect } else { 1.0 }))
            });
            successes += u64::from(judgement.outcome == Ruled::Success);
            rollbacks += u64::from(judgement.outcome == Ruled::Rollback);
            made += runs.len() as u64;
        }
        let share = |count: u64| count as f64 / validations as f64;
        (share(successes), share(rollbacks), share(made))
    }

    #[test]
    fn at_three_percent_noise_the_verdict_is_right_as_often_as_was_promised() {
        let (success, _, runs) = shares(0.0, 0.03, 600);
        assert!(success <= 0.06, "{success} of no effects were successes");
        assert!(runs < 50.0, "{runs} runs for no effect");
        let (_, rollback, _) = shares(-0.10, 0.03, 400);
        assert!(rollback >= 0.99, "{rollback} of losses of ten percent were undone");
        let (success, _, _) = shares(0.10, 0.03, 400);
        assert!(success >= 0.99, "{success} of gains of ten percent were successes");
        let (_, rollback, _) = shares(-0.03, 0.03, 600);
        assert!(rollback <= 0.08, "{rollback} of losses of three percent were undone");
    }

    #[test]
    fn the_thresholds_are_those_of_the_playbook_to_the_digit() {
        let config = Config::default();
        let cases = [
            (0.02, Ruled::Success),
            (102.0 / 100.0 - 1.0, Ruled::Success),
            (1.02_f64.ln().exp_m1(), Ruled::Success),
            (0.019_999, Ruled::Neutral),
            (0.0, Ruled::Neutral),
            (-0.05, Ruled::Neutral),
            (95.0 / 100.0 - 1.0, Ruled::Neutral),
            (0.95_f64.ln().exp_m1(), Ruled::Neutral),
            (-0.050_001, Ruled::Rollback),
            (f64::INFINITY, Ruled::Success),
            (f64::NEG_INFINITY, Ruled::Rollback),
            (f64::NAN, Ruled::Rollback),
        ];
        for (ratio, expected) in cases {
            assert_eq!(rule(&config, ratio), expected, "{ratio}");
        }
    }

    #[track_caller]
    fn check_exact(after: f64, outcome: Ruled, reason: &Reason) {
        let judgement = judged(|candidate| Ok(usual(if candidate { after } else { 100.0 })));
        assert_eq!((judgement.outcome, &judgement.reason, judgement.blocks), (outcome, reason, 6));
        let ratio = judgement.improvement.unwrap().ratio;
        assert!((ratio - (after / 100.0 - 1.0)).abs() < 1e-9, "{ratio}");
    }

    #[test]
    fn without_noise_six_blocks_are_judged_to_the_digit() {
        check_exact(102.0, Ruled::Success, &Reason::Improved);
        check_exact(101.999, Ruled::Neutral, &Reason::InBetween);
        check_exact(95.0, Ruled::Neutral, &Reason::InBetween);
        check_exact(94.9999, Ruled::Rollback, &Reason::Worse);
    }

    #[test]
    fn each_side_runs_twice_in_a_block_and_drift_cancels() {
        assert_eq!(arrange(true), [false, true, true, false]);
        assert_eq!(arrange(false), [true, false, false, true]);
        let mut made = 0;
        let drifting = judged(|_| {
            made += 1;
            Ok(usual(100.0 * 0.999_f64.powi(made)))
        });
        assert_eq!(drifting.outcome, Ruled::Neutral);
        assert!(drifting.improvement.unwrap().ratio.abs() < 1e-9);
    }

    #[test]
    fn an_open_block_is_completed_before_anything_else() {
        let run = |block, place, candidate| Run { block, place, candidate, outcome: Ok(usual(1.0)), samples: 1 };
        let asked = |runs: &[Run]| course(&Config::default(), &specs(), None, runs);
        assert_eq!(asked(&[]), Course::Measure { block: 1, blocks_planned: 6 });
        let mut runs = vec![run(1, 1, false), run(1, 2, true), run(1, 3, true)];
        assert_eq!(asked(&runs), Course::Measure { block: 1, blocks_planned: 6 });
        runs.push(run(1, 3, true));
        assert_eq!(asked(&runs), Course::Measure { block: 1, blocks_planned: 6 });
        runs.push(run(1, 4, false));
        assert_eq!(asked(&runs), Course::Measure { block: 2, blocks_planned: 6 });
        runs.push(run(u32::MAX, 9, false));
        assert_eq!(asked(&runs), Course::Measure { block: u32::MAX, blocks_planned: 6 });
    }

    #[test]
    fn a_noisier_service_is_measured_longer() {
        let (_, _, quiet) = shares(0.0, 0.01, 20);
        let (_, _, noisy) = shares(0.0, 0.05, 20);
        assert!(quiet < 26.0 && noisy > 60.0, "{quiet} and {noisy} runs");
    }

    #[test]
    fn noise_beyond_the_budget_is_no_proof_of_harmlessness() {
        let verdicts = (0..40).map(|seed| {
            let measure = |candidate, rng: &mut StdRng| Ok(usual(noisy(rng, 0.4) * if candidate { 0.96 } else { 1.0 }));
            validate(&Config::default(), None, seed, measure).0
        });
        let verdicts: Vec<Judgement> = verdicts.collect();
        assert!(verdicts.iter().any(|judgement| judgement.reason == Reason::Unproven));
        let kept = verdicts.iter().filter(|judgement| judgement.outcome != Ruled::Rollback).count();
        assert!(kept <= 12, "{kept} of 40 were kept");
    }

    #[test]
    fn one_slip_of_the_measurement_changes_no_verdict() {
        for (effect, expected) in [(1.10, Ruled::Success), (0.99, Ruled::Neutral), (0.85, Ruled::Rollback)] {
            let mut made = 0;
            let (judgement, _) = validate(&Config::default(), None, 3, |candidate, rng| {
                made += 1;
                let slip = if made == 6 { 10.0 } else { 1.0 };
                Ok(usual(slip * noisy(rng, 0.01) * if candidate { effect } else { 1.0 }))
            });
            assert_eq!(judgement.outcome, expected, "{judgement:?}");
        }
    }

    #[track_caller]
    fn check_undone(judgement: &Judgement, reason: &str, blocks_max: u32) {
        let found = (judgement.outcome, judgement.reason.label());
        assert_eq!(found, (Ruled::Rollback, reason), "{judgement:?}");
        assert!(judgement.blocks <= blocks_max, "{judgement:?}");
    }

    #[test]
    fn a_service_that_fails_with_the_new_settings_alone_is_undone_after_one_block() {
        let fails = |kind| judged(|candidate| if candidate { Err(kind) } else { Ok(usual(1.0)) });
        for kind in [FailureKind::DidNotStart, FailureKind::NotReady, FailureKind::Died, FailureKind::TimedOut] {
            check_undone(&fails(kind), "not_healthy", 0);
        }
        check_undone(&fails(FailureKind::NotInEffect), "not_effective", 0);
        check_undone(&fails(FailureKind::Infrastructure), "inconclusive", 0);
    }

    #[test]
    fn a_service_that_dies_now_and_then_with_the_new_settings_is_undone_however_fast_it_is() {
        let mut made = 0;
        let judgement = judged(|candidate| {
            made += 1;
            if candidate && made % 5 == 0 {
                Err(FailureKind::Died)
            } else {
                Ok(usual(if candidate { 2.0 } else { 1.0 }))
            }
        });
        check_undone(&judgement, "not_healthy", 8);
    }

    #[test]
    fn a_run_that_fails_on_either_side_is_made_up_for() {
        let mut made = 0;
        let judgement = judged(|_| {
            made += 1;
            if made == 3 || made == 14 { Err(FailureKind::BenchFailed) } else { Ok(usual(1.0)) }
        });
        assert_eq!((judgement.outcome, judgement.blocks, made), (Ruled::Neutral, 6, 32));
        assert_eq!(judgement.runs, 32, "the runs of void blocks are told too");
    }

    #[test]
    fn silence_and_nonsense_are_never_success_or_neutral() {
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            check_undone(&judged(|candidate| Ok(usual(if candidate { bad } else { 1.0 }))), "inconclusive", 0);
            check_undone(&judged(|candidate| Ok(usual(if candidate { 1.0 } else { bad }))), "inconclusive", 0);
        }
        check_undone(&judged(|_| Err(FailureKind::TimedOut)), "inconclusive", 0);
        check_undone(&judged(|_| Ok(Metrics::new())), "inconclusive", 2);
        check_undone(&judged(|_| Ok(metrics(&[("delay", 1.0)]))), "inconclusive", 2);
        let (_, mut silent) = validate(&Config::default(), None, 1, |_, _| Ok(usual(1.0)));
        for run in &mut silent {
            run.samples = 0;
        }
        let Course::Judge(judgement) = course(&Config::default(), &specs(), None, &silent) else { panic!("open") };
        check_undone(&judgement, "inconclusive", 0);
    }

    #[test]
    fn void_blocks_come_to_an_end_however_many_failures_are_tolerated() {
        let config = Config { invalid_max_ratio: 0.9, ..Config::default() };
        let mut made = 0;
        let (judgement, runs) = validate(&config, None, 1, |_, _| {
            made += 1;
            if made % 4 == 1 { Err(FailureKind::Infrastructure) } else { Ok(usual(1.0)) }
        });
        check_undone(&judgement, "inconclusive", 0);
        assert_eq!(runs.len(), 480);
    }

    #[test]
    fn a_metric_that_is_gone_is_a_rollback_however_much_the_others_gain() {
        let judgement =
            judged(|candidate| Ok(if candidate { metrics(&[("rate", 9.0), ("errors", 0.0)]) } else { usual(1.0) }));
        check_undone(&judgement, "metric_lost", 2);
        assert_eq!(judgement.reason, Reason::MetricLost { metric: "delay".to_owned() });
    }

    #[test]
    fn a_metric_that_is_new_is_reported_and_not_judged() {
        let judgement =
            judged(|candidate| Ok(if candidate { usual(1.0) } else { metrics(&[("rate", 1.0), ("errors", 0.0)]) }));
        assert_eq!(judgement.outcome, Ruled::Neutral);
        assert_eq!((judgement.before.get("delay"), judgement.after.get("delay")), (None, Some(&10.0)));
    }

    #[test]
    fn a_tripped_guard_cannot_be_bought_back() {
        let judgement = judged(|candidate| {
            let (rate, delay) = if candidate { (1.4, 12.9) } else { (1.0, 10.0) };
            Ok(metrics(&[("rate", rate), ("delay", delay), ("errors", 0.0)]))
        });
        check_undone(&judgement, "guard", 6);
        assert_eq!(judgement.reason, Reason::Guard { metric: "delay".to_owned() });
        assert!(judgement.improvement.unwrap().ratio > 0.39);
    }

    #[test]
    fn a_guard_does_not_trip_at_its_limit_nor_by_accident() {
        let at_limit = judged(|candidate| {
            let delay = if candidate { 10.0 / 0.95 } else { 10.0 };
            Ok(metrics(&[("rate", 1.0), ("delay", delay), ("errors", 0.01)]))
        });
        assert_eq!(at_limit.outcome, Ruled::Neutral, "{at_limit:?}");
        let tripped = (0..200).filter(|seed| {
            let measure = |_, rng: &mut StdRng| {
                Ok(metrics(&[("rate", 1.0), ("delay", 10.0 * noisy(rng, 0.05)), ("errors", 0.0)]))
            };
            validate(&Config::default(), None, *seed, measure).0.outcome == Ruled::Rollback
        });
        assert!(tripped.count() <= 6);
    }

    /// Two blocks know so little that a loss of two thirds could have been an accident, and was kept as neutral.
    #[test]
    fn a_guard_that_seems_to_trip_is_looked_at_twice_as_long_before_a_change_is_kept() {
        let config = Config { blocks_min: 2, blocks_max: 60, half_width: 0.5, ..Config::default() };
        let judge = |delays: [f64; 4]| {
            let mut run = 0;
            validate(&config, None, 1, |candidate, _| {
                let delay = if candidate { delays[(run / 4) % 4] } else { 10.0 };
                run += 1;
                Ok(metrics(&[("rate", 100.0), ("delay", delay), ("errors", 0.0)]))
            })
            .0
        };
        let lost = judge([20.0, 50.0, 30.0, 35.0]);
        assert_eq!((lost.outcome, &lost.reason), (Ruled::Rollback, &Reason::Guard { metric: "delay".to_owned() }));
        assert!(lost.blocks > 2, "{lost:?}");
        let accident = judge([14.0, 9.0, 9.0, 9.0]);
        assert_eq!((accident.outcome, accident.blocks > 2), (Ruled::Neutral, true), "{accident:?}");
        let well = judge([10.0, 10.1, 10.0, 10.0]);
        assert_eq!((well.outcome, well.blocks), (Ruled::Neutral, 2), "what is in no doubt takes no longer");
    }

    #[test]
    fn errors_where_there_were_none_are_judged_absolutely_and_soon() {
        let with_errors = |share| {
            judged(|candidate| {
                let errors = if candidate { share } else { 0.0 };
                Ok(metrics(&[("rate", 5.0), ("delay", 10.0), ("errors", errors)]))
            })
        };
        check_undone(&with_errors(0.5), "guard", 2);
        assert_eq!(with_errors(0.009).outcome, Ruled::Neutral);
    }

    #[test]
    fn a_rate_that_falls_to_zero_is_undone_and_zero_on_either_side_proves_nothing() {
        check_undone(&judged(|candidate| Ok(usual(if candidate { 0.0 } else { 5.0 }))), "worse", 6);
        check_undone(&judged(|_| Ok(usual(0.0))), "inconclusive", 6);
        check_undone(&judged(|candidate| Ok(usual(if candidate { 5.0 } else { 0.0 }))), "inconclusive", 6);
    }

    /// Fault 54.
    /// Lesson 33: numbers that nobody measured are no evidence, however good they are.
    #[test]
    fn numbers_that_never_change_are_stale_whatever_they_say() {
        for frozen_side in [true, false] {
            let measure = |candidate, rng: &mut StdRng| {
                // The jitter is taken out again, so that one side says the very same number each time.
                Ok(usual(if candidate == frozen_side { 0.0 } else { 100.0 * noisy(rng, 0.03) }))
            };
            let judgement = validate(&Config::default(), None, 5, measure).0;
            assert_eq!(judgement.outcome, Ruled::Rollback, "{judgement:?}");
        }
    }

    #[test]
    fn twenty_neutral_steps_of_minus_four_percent_do_not_add_up() {
        let anchor = usual(100.0);
        let mut live = 100.0;
        let mut undone = 0;
        for seed in 0..20 {
            let next = live * 0.96;
            let (judgement, _) = validate(&Config::default(), Some(&anchor), seed, |candidate, rng| {
                Ok(usual(noisy(rng, 0.005) * if candidate { next } else { live }))
            });
            match judgement.outcome {
                Ruled::Rollback => undone += 1,
                Ruled::Neutral => live = next,
                Ruled::Success => panic!("{judgement:?}"),
            }
        }
        assert_eq!(undone, 19);
        assert!(live > 95.0, "{live}");
    }

    #[test]
    fn a_step_that_is_no_loss_is_kept_though_the_domain_has_slipped() {
        let slipped = |after| {
            let measure = |candidate, _: &mut StdRng| Ok(usual(if candidate { after } else { 90.0 }));
            validate(&Config::default(), Some(&usual(100.0)), 1, measure).0
        };
        assert_eq!(slipped(91.0).outcome, Ruled::Neutral);
        check_undone(&slipped(89.0), "worse", 6);
        assert_eq!(slipped(95.0).outcome, Ruled::Success);
    }

    #[test]
    fn what_stands_behind_a_verdict_is_told() {
        let judgement = judged(|candidate| Ok(usual(if candidate { 110.0 } else { 100.0 })));
        assert_eq!((judgement.blocks, judgement.samples, judgement.runs), (6, 24, 24));
        assert_eq!((judgement.spread_before.n, judgement.spread_after.n), (12, 12));
        assert!(judgement.spread_after.deviations["rate"] < 1e-9 && judgement.spread_after.deviations["errors"] == 0.0);
        assert!((judgement.before["rate"] - 100.0).abs() < 1e-9 && (judgement.after["rate"] - 110.0).abs() < 1e-9);
        let improvement = judgement.improvement.unwrap();
        assert!(improvement.low <= improvement.ratio && improvement.ratio <= improvement.high);
    }

    proptest! {
        #[test]
        fn any_runs_get_an_answer_and_nonsense_is_no_success(
            runs in proptest::collection::vec((0_u32..9, 0_u32..6, any::<bool>(), any::<f64>(), 0_u64..3), 0..60),
        ) {
            let runs: Vec<Run> = runs
                .into_iter()
                .map(|(block, place, candidate, rate, samples)| {
                    Run { block, place, candidate, outcome: Ok(usual(if candidate { -rate.abs() } else { rate })), samples }
                })
                .collect();
            if let Course::Judge(judgement) = course(&Config::default(), &specs(), None, &runs) {
                prop_assert_ne!(judgement.outcome, Ruled::Success);
            }
        }

        #[test]
        fn the_order_in_which_runs_are_told_does_not_matter(seed: u64) {
            let (judgement, mut runs) = validate(&Config::default(), None, seed, |candidate, rng| {
                Ok(usual(noisy(rng, 0.02) * if candidate { 1.05 } else { 1.0 }))
            });
            runs.reverse();
            prop_assert_eq!(course(&Config::default(), &specs(), None, &runs), Course::Judge(judgement));
        }
    }
}

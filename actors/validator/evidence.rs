//! The evidence: which runs count, and what in them ends a validation whatever the objective says.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Config,
    statistics::{Sample, median, winsorised},
    verdict::{Run, Spread},
};
use crate::facts::{
    Direction, FailureKind, MetricSpec, Metrics, Reason,
    objective::{is_readable, log_ratio, objective},
};

/// The runs of a block.
const BLOCK_RUNS: usize = 4;

/// Fewer runs than these do not say that measuring is hopeless.
const HOPELESS_RUNS_MIN: usize = 8;

/// Fewer invalid runs than these do not say that measuring is hopeless.
const HOPELESS_INVALID_MIN: usize = 3;

/// So many runs of each side tell a failure of the settings from one of the circumstances.
const SIDE_RUNS_MIN: usize = 2;

/// So many failures more with the new settings than with the old are no accident.
const FAILURES_MORE_MAX: usize = 3;

/// So many runs that are all above the ceiling of a metric decide before the first blocks are complete.
const CEILING_RUNS_MIN: usize = 4;

/// The chance of a wrong alarm that all guards together may take when the verdict is made.
const GUARDS_ALPHA: f64 = 0.05;

/// Losses nearer to their limit than this are at the limit: 0.95 is no binary number.
const ROUNDING: f64 = 1e-9;

/// The runs of a validation, sorted out.
pub(super) struct Evidence<'a> {
    pub(super) specs: &'a BTreeMap<String, MetricSpec>,
    /// All runs by block and place, the first of each.
    made: Vec<&'a Run>,
    /// The runs that could be measured, those of void blocks too.
    valid: Vec<(&'a Run, &'a Metrics)>,
    /// The complete blocks without an invalid run.
    blocks: Vec<Block>,
    /// The block that was begun last, from 1; 0 before the first.
    pub(super) last_block: u32,
    /// The last block, when runs of it are missing.
    pub(super) open_block: Option<u32>,
}

/// The middle of the two runs of each side.
struct Block {
    before: Metrics,
    after: Metrics,
}

impl<'a> Evidence<'a> {
    /// Returns the runs sorted out; of two runs of the same place the first counts.
    pub(super) fn of(specs: &'a BTreeMap<String, MetricSpec>, runs: &'a [Run]) -> Evidence<'a> {
        let mut by_place: BTreeMap<(u32, u32), &Run> = BTreeMap::new();
        for run in runs {
            by_place.entry((run.block, run.place)).or_insert(run);
        }
        let made: Vec<&Run> = by_place.into_values().collect();
        let readable = |run: &&'a Run| {
            let metrics = run.outcome.as_ref().ok().filter(|_| run.samples > 0)?;
            is_readable(specs, metrics).then_some((*run, metrics))
        };
        let readable: Vec<(&Run, &Metrics)> = made.iter().filter_map(readable).collect();
        // Whatever the old settings were measured by, each run has to be measured by.
        let required: Vec<&String> = specs
            .keys()
            .filter(|name| readable.iter().any(|(run, metrics)| !run.candidate && metrics.contains_key(*name)))
            .collect();
        let is_whole = |metrics: &Metrics| required.iter().all(|name| metrics.contains_key(*name));
        let valid: Vec<(&Run, &Metrics)> = readable.into_iter().filter(|(_, metrics)| is_whole(metrics)).collect();
        let last_block = made.last().map_or(0, |run| run.block);
        let in_last = made.iter().filter(|run| run.block == last_block).count();
        let open_block = (in_last < BLOCK_RUNS).then_some(last_block.max(1));
        let numbers: BTreeSet<u32> = valid.iter().map(|(run, _)| run.block).collect();
        let blocks = numbers.into_iter().filter_map(|block| Block::of(specs, block, &valid)).collect();
        Evidence { specs, made, valid, blocks, last_block, open_block }
    }

    /// Returns why measuring on has no point: what is found here is found before the first blocks are complete.
    pub(super) fn stop(&self, config: &Config) -> Option<Reason> {
        self.lost_metric()
            .or_else(|| self.failing())
            .or_else(|| self.above_ceiling_throughout())
            .or_else(|| self.hopeless(config))
    }

    fn lost_metric(&self) -> Option<Reason> {
        let side = |candidate: bool| {
            let answered = self.made.iter().filter(move |run| run.candidate == candidate);
            answered.filter_map(|run| run.outcome.as_ref().ok()).collect::<Vec<&Metrics>>()
        };
        let (old, new) = (side(false), side(true));
        if old.len() < SIDE_RUNS_MIN || new.len() < SIDE_RUNS_MIN {
            return None;
        }
        let has = |side: &[&Metrics], name: &String| side.iter().any(|metrics| metrics.contains_key(name));
        let lost = self.specs.keys().find(|name| has(&old, name) && !has(&new, name))?;
        Some(Reason::MetricLost { metric: lost.clone() })
    }

    /// Returns the reason when the service fails with the new settings and not with the old ones. A few failures must
    /// not be left out of the account: what is measured between two crashes looks as good as ever.
    fn failing(&self) -> Option<Reason> {
        // What kloros itself could not run says nothing about the settings.
        let failure = |run: &&&Run| run.outcome.as_ref().err().copied().filter(|kind| !kind.is_of_circumstances());
        let side = |candidate: bool| self.made.iter().filter(move |run| run.candidate == candidate);
        let kinds: Vec<FailureKind> = side(true).filter_map(|run| failure(&run)).collect();
        let failed_before = side(false).filter(|run| failure(run).is_some()).count();
        let (made, answered_before) = (side(true).count(), side(false).filter(|run| run.outcome.is_ok()).count());
        let all_failed = made >= SIDE_RUNS_MIN && kinds.len() == made && answered_before >= SIDE_RUNS_MIN;
        if !all_failed && kinds.len() < failed_before + FAILURES_MORE_MAX {
            return None;
        }
        let kind = kinds.first()?;
        let why = format!(
            "{} of {made} runs failed with the new settings ({kind}), {failed_before} with the old",
            kinds.len()
        );
        Some(match kind {
            FailureKind::NotInEffect => Reason::NotEffective { why },
            _ => Reason::NotHealthy { why },
        })
    }

    fn above_ceiling_throughout(&self) -> Option<Reason> {
        let tripped = self.ceilings().find(|(name, ceiling)| {
            let values = self.values(true, name);
            values.len() >= CEILING_RUNS_MIN && values.iter().all(|value| value > ceiling)
        });
        tripped.map(|(name, _)| Reason::Guard { metric: name.clone() })
    }

    fn hopeless(&self, config: &Config) -> Option<Reason> {
        let (made, invalid) = (self.made.len(), self.made.len() - self.valid.len());
        let too_many = made >= HOPELESS_RUNS_MIN
            && invalid >= HOPELESS_INVALID_MIN
            && invalid as f64 > config.invalid_max_ratio * made as f64;
        if too_many {
            return Some(Reason::Inconclusive { why: format!("{invalid} of {made} runs were invalid") });
        }
        let mute = self.blocks.iter().any(|block| block.objective(self.specs).is_none());
        mute.then(|| Reason::Inconclusive { why: "no metric that carries weight was measured".to_owned() })
    }

    /// Returns the objective of each block, as a log ratio.
    pub(super) fn log_ratios(&self) -> Vec<f64> {
        self.blocks.iter().filter_map(|block| block.objective(self.specs)).collect()
    }

    /// Returns the metric that is bound to trip its guard, whatever further blocks say; an interval that holds however
    /// often one looks must lie below the limit.
    pub(super) fn bound_to_trip(&self, alpha: f64, tuned_for: u32) -> Option<String> {
        let mut losses = self.losses().into_iter();
        losses
            .find(|loss| loss.sample.mean + loss.sample.always_margin(alpha, tuned_for) < loss.limit)
            .map(|l| l.metric)
    }

    /// Returns the metric that trips its guard: its median is above the ceiling, or its mean loss is beyond the limit
    /// and no accident.
    pub(super) fn tripped(&self) -> Option<String> {
        let above = self
            .ceilings()
            .find(|(name, ceiling)| median(&self.values(true, name)).is_some_and(|value| value > *ceiling));
        let losses = self.losses();
        let confidence = 1.0 - GUARDS_ALPHA / losses.len().max(1) as f64;
        above.map(|(name, _)| name.clone()).or_else(|| {
            let mut losses = losses.into_iter();
            losses
                .find(|loss| loss.is_beyond() && loss.sample.mean + loss.sample.margin(confidence) < 0.0)
                .map(|l| l.metric)
        })
    }

    /// Returns whether the mean loss of a metric is beyond its limit, be it by accident.
    pub(super) fn seems_to_trip(&self) -> bool {
        self.losses().iter().any(Loss::is_beyond)
    }

    /// Returns why what was measured is not believed: one side gave the very same numbers in every run. What is really
    /// measured differs in its last digits at least, so these are stale, frozen or made up.
    pub(super) fn frozen(&self) -> Option<Reason> {
        let weighty = || self.specs.iter().filter(|(_, spec)| spec.weight > 0.0).map(|(name, _)| name);
        let is_frozen = |candidate: &bool| {
            let mut columns = weighty().map(|name| self.values(*candidate, name)).filter(|values| !values.is_empty());
            columns.all(|values| values.iter().all(|value| *value == values[0]))
        };
        let side = [true, false].into_iter().find(is_frozen)?;
        let side = if side { "new" } else { "old" };
        Some(Reason::Inconclusive { why: format!("with the {side} settings every run gave the very same numbers") })
    }

    /// Returns the medians of one side over the good runs, metric by metric.
    pub(super) fn medians(&self, candidate: bool) -> Metrics {
        let of_side = self.valid.iter().filter(|(run, _)| run.candidate == candidate);
        let names: BTreeSet<&String> = of_side.flat_map(|(_, metrics)| metrics.keys()).collect();
        names.into_iter().filter_map(|name| Some((name.clone(), median(&self.values(candidate, name))?))).collect()
    }

    /// Returns how the good runs of one side spread around their medians.
    pub(super) fn spread(&self, candidate: bool) -> Spread {
        let n = self.valid.iter().filter(|(run, _)| run.candidate == candidate).count() as u32;
        let deviation = |name: String| {
            let sample = Sample::of(&self.values(candidate, &name))?;
            Some((name, sample.deviation))
        };
        Spread { n, deviations: self.medians(candidate).into_keys().filter_map(deviation).collect() }
    }

    /// Returns how many runs were made, those of void blocks too.
    pub(super) fn made(&self) -> u32 {
        self.made.len() as u32
    }

    /// Returns how many requests or observations stand behind the good runs.
    pub(super) fn samples(&self) -> u64 {
        self.valid.iter().fold(0, |sum, (run, _)| sum.saturating_add(run.samples))
    }

    fn values(&self, candidate: bool, name: &str) -> Vec<f64> {
        let of_side = self.valid.iter().filter(|(run, _)| run.candidate == candidate);
        of_side.filter_map(|(_, metrics)| metrics.get(name).copied()).collect()
    }

    /// Returns the metrics that have a largest value, with it.
    fn ceilings(&self) -> impl Iterator<Item = (&'a String, f64)> {
        self.specs.iter().filter_map(|(name, spec)| Some((name, spec.guard?.value_max?)))
    }

    /// Returns what happened to the metrics that have a largest loss.
    fn losses(&self) -> Vec<Loss> {
        let loss = |(name, spec): (&String, &MetricSpec)| {
            let guard = spec.guard?;
            let limit = (-guard.loss_max?).ln_1p();
            // From zero there is no loss to speak of: where there is a largest value, that alone is judged.
            let has_ratio = |block: &&Block| guard.value_max.is_none() || block.before.get(name) != Some(&0.0);
            let blocks = self.blocks.iter().filter(has_ratio);
            let ratios = blocks.filter_map(|block| block.log_ratio(name, spec.direction));
            let sample = Sample::of(&winsorised(&ratios.collect::<Vec<_>>()))?;
            Some(Loss { metric: name.clone(), limit, sample })
        };
        self.specs.iter().filter_map(loss).collect()
    }
}

/// What happened to one metric, block by block, as oriented log ratios.
struct Loss {
    metric: String,
    limit: f64,
    sample: Sample,
}

impl Loss {
    fn is_beyond(&self) -> bool {
        self.sample.mean - self.limit < -ROUNDING
    }
}

impl Block {
    /// Returns the block when it has four good runs, two of each side.
    fn of(specs: &BTreeMap<String, MetricSpec>, number: u32, valid: &[(&Run, &Metrics)]) -> Option<Block> {
        let side = |candidate: bool| {
            let of_side = valid.iter().filter(|(run, _)| run.block == number && run.candidate == candidate);
            let metrics: Vec<&Metrics> = of_side.map(|(_, metrics)| *metrics).collect();
            (metrics.len() == BLOCK_RUNS / 2).then(|| middles(specs, &metrics))
        };
        Some(Block { before: side(false)?, after: side(true)? })
    }

    fn objective(&self, specs: &BTreeMap<String, MetricSpec>) -> Option<f64> {
        objective(specs, &self.before, &self.after)
    }

    fn log_ratio(&self, name: &str, direction: Direction) -> Option<f64> {
        log_ratio(direction, *self.before.get(name)?, *self.after.get(name)?)
    }
}

/// Returns the geometric mean of each metric that all runs have, so that ratios of means are means of ratios; where a
/// run has 0, which has no logarithm, the plain mean stands for it.
fn middles(specs: &BTreeMap<String, MetricSpec>, runs: &[&Metrics]) -> Metrics {
    let middle = |name: &String| {
        let values: Vec<f64> = runs.iter().map(|run| run.get(name).copied()).collect::<Option<_>>()?;
        let n = values.len() as f64;
        let positive = values.iter().all(|value| *value > 0.0);
        Some(if positive {
            (values.iter().map(|value| value.ln()).sum::<f64>() / n).exp()
        } else {
            values.iter().sum::<f64>() / n
        })
    };
    specs.keys().filter_map(|name| Some((name.clone(), middle(name)?))).collect()
}

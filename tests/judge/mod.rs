//! Simulated services on the scales of the validator: its own arithmetic, run by run, with noise that is known.

use std::collections::BTreeMap;

use kloros_actors::{
    facts::{CycleId, DeploymentId, Direction, FailureKind, MetricSpec, Metrics, Ruled, Verdict},
    validator::{
        Config, baseline,
        verdict::{Course, Judgement, Run, arrange, course},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// The one metric of a simulated service.
pub(crate) const METRIC: &str = "rate";

/// What the service gives with the old settings.
pub(crate) const BASE: f64 = 100.0;

/// What one run came to.
pub(crate) type Outcome = Result<Metrics, FailureKind>;

pub(crate) fn specs() -> BTreeMap<String, MetricSpec> {
    [(METRIC.to_owned(), MetricSpec { direction: Direction::Up, weight: 1.0, guard: None })].into()
}

pub(crate) fn rate(value: f64) -> Metrics {
    [(METRIC.to_owned(), value)].into()
}

/// Returns a factor around 1 with this coefficient of variation: log-normal, of the sum of twelve equal deviates.
pub(crate) fn noise(rng: &mut StdRng, cv: f64) -> f64 {
    let twelve: f64 = (0..12).map(|_| rng.random::<f64>()).sum();
    (cv * (twelve - 6.0)).exp()
}

/// Judges one change, measured as `measure` says, and returns the verdict with how many runs it took.
pub(crate) fn judge(
    anchor: Option<&Metrics>,
    seed: u64,
    mut measure: impl FnMut(bool, &mut StdRng) -> Outcome,
) -> (Judgement, usize) {
    let (config, specs) = (Config::default(), specs());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut runs = Vec::new();
    loop {
        match course(&config, &specs, anchor, &runs) {
            Course::Judge(judgement) => return (judgement, runs.len()),
            Course::Measure { block, .. } => {
                for (candidate, place) in arrange(rng.random()).into_iter().zip(1..) {
                    let outcome = measure(candidate, &mut rng);
                    runs.push(Run { block, place, candidate, outcome, samples: 1 });
                }
            }
        }
    }
}

/// What became of many changes with the same true effect.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shares {
    pub(crate) success: f64,
    pub(crate) rollback: f64,
    pub(crate) neutral: f64,
    /// The mean number of runs, old and new together.
    pub(crate) runs: f64,
}

/// Returns what becomes of `trials` changes that gain `effect`, as a ratio, on a service whose runs vary by `cv`.
pub(crate) fn shares(effect: f64, cv: f64, trials: u64) -> Shares {
    let mut shares = Shares::default();
    for seed in 0..trials {
        let (judgement, runs) = judge(None, seed, |candidate, rng| {
            Ok(rate(BASE * noise(rng, cv) * if candidate { 1.0 + effect } else { 1.0 }))
        });
        *match judgement.outcome {
            Ruled::Success => &mut shares.success,
            Ruled::Rollback => &mut shares.rollback,
            Ruled::Neutral => &mut shares.neutral,
        } += 1.0;
        shares.runs += runs as f64;
    }
    let n = trials as f64;
    Shares {
        success: shares.success / n,
        rollback: shares.rollback / n,
        neutral: shares.neutral / n,
        runs: shares.runs / n,
    }
}

/// Returns the share of verdicts that are wrong for a true `effect`; `None` within two points of a threshold, where no
/// test can tell.
pub(crate) fn wrong(effect: f64, shares: &Shares) -> Option<f64> {
    let percent = (effect * 100.0).round();
    match percent {
        _ if percent <= -7.0 => Some(1.0 - shares.rollback),
        _ if (-3.0..=0.0).contains(&percent) => Some(1.0 - shares.neutral),
        _ if percent >= 4.0 => Some(1.0 - shares.success),
        _ => None,
    }
}

/// Returns the verdict that a judgement leads to.
pub(crate) fn verdict(judgement: Judgement) -> Verdict {
    Verdict {
        deployment: DeploymentId::new("d-1"),
        cycle: CycleId::new("c-1"),
        experiment: "simulated".to_owned(),
        domain: "simulated".to_owned(),
        question: None,
        hypothesis: None,
        changes: BTreeMap::new(),
        outcome: judgement.outcome,
        reason: judgement.reason,
        improvement: judgement.improvement,
        before: judgement.before,
        after: judgement.after,
        blocks: judgement.blocks,
        samples: judgement.samples,
        runs: judgement.runs,
        baseline: None,
        at_ms: 0,
    }
}

/// Returns by how much the baseline is too high, as a ratio, and the share of rollbacks, after `count` changes in a row
/// that have no effect at all.
pub(crate) fn inflation(cv: f64, count: u64, seed: u64) -> (f64, f64) {
    let mut service = Changed::new(cv, seed);
    let undone = (0..count).filter(|_| service.change(0.0) == Ruled::Rollback).count();
    (service.held.map_or(0.0, |metrics| metrics[METRIC] / BASE - 1.0), undone as f64 / count as f64)
}

/// Returns what the service gives in the end, as a ratio to what it gave first, after twenty changes that each lose four
/// percent; what is kept stays live. Nothing was certified before the first.
pub(crate) fn eroded(cv: f64, seed: u64) -> f64 {
    let mut service = Changed::new(cv, seed);
    for _ in 0..20 {
        service.change(-0.04);
    }
    service.live / BASE - 1.0
}

/// Returns what the service gives at worst, as a ratio to what it gave first, in twenty pairs of changes, of which one loses
/// 4.5 percent and the next one wins 2.5 back; what is kept stays live.
pub(crate) fn ratcheted(cv: f64, seed: u64) -> f64 {
    let mut service = Changed::new(cv, seed);
    let mut worst = BASE;
    for _ in 0..20 {
        service.change(-0.045);
        worst = worst.min(service.live);
        service.change(0.025);
    }
    worst / BASE - 1.0
}

/// A service that is changed again and again, without a word of its past at first.
struct Changed {
    cv: f64,
    seed: u64,
    number: u64,
    live: f64,
    held: Option<Metrics>,
}

impl Changed {
    fn new(cv: f64, seed: u64) -> Self {
        Self { cv, seed, number: 0, live: BASE, held: None }
    }

    /// Judges a change that gains `effect`, as a ratio, and keeps it or takes it back.
    fn change(&mut self, effect: f64) -> Ruled {
        let (cv, live, next) = (self.cv, self.live, self.live * (1.0 + effect));
        let measure = |candidate, rng: &mut StdRng| Ok(rate(noise(rng, cv) * if candidate { next } else { live }));
        let (judgement, _) = judge(self.held.as_ref(), self.seed * 1_000_003 + self.number, measure);
        self.number += 1;
        let verdict = verdict(judgement);
        if let Some(moved) = baseline::moved(&specs(), self.held.as_ref(), &verdict) {
            self.held = Some(moved.metrics());
        }
        if verdict.outcome != Ruled::Rollback {
            self.live = next;
        }
        verdict.outcome
    }
}

/// The ways in which a metric can say nothing.
pub(crate) const SILENCES: [&str; 8] =
    ["missing", "nan", "infinite", "negative", "zero", "constant", "stale", "failed"];

/// Returns the verdict on a change whose metric says nothing in one of the [`SILENCES`], on the old side, the new side or
/// both, while the truth may be a large gain.
pub(crate) fn silent(seed: u64) -> (&'static str, Judgement) {
    let mut dice = StdRng::seed_from_u64(seed ^ 0x5151);
    let way = SILENCES[(seed % SILENCES.len() as u64) as usize];
    let (old, new) = [(true, false), (false, true), (true, true)][dice.random_range(0..3)];
    let (cv, gain) = (dice.random_range(0.01..0.1), dice.random_range(0.0..0.5));
    let mut held = [None, None];
    let (judgement, _) = judge(None, seed, |candidate, rng| {
        let real = BASE * noise(rng, cv) * if candidate { 1.0 + gain } else { 1.0 };
        if (candidate && !new) || (!candidate && !old) {
            return Ok(rate(real));
        }
        Ok(match way {
            "missing" => Metrics::new(),
            "nan" => rate(f64::NAN),
            "infinite" => rate(f64::INFINITY),
            "negative" => rate(-real),
            "zero" => rate(0.0),
            "constant" => rate(if candidate { BASE * 1.5 } else { BASE }),
            // It says for ever what it measured first.
            "stale" => rate(*held[usize::from(candidate)].get_or_insert(real)),
            _ => return Err(FailureKind::TimedOut),
        })
    });
    (way, judgement)
}

//! How a lot is put together: candidate by candidate, each after the ones before it were taken for measured.

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    design,
    feasibility::Feasibility,
    model::{Known, Model, feasibility},
    search::{Options, Outcome, Trial},
    space::{Point, Space, is_same},
};

/// The chance to work below which a point is not asked while there are others.
const CHANCE_MIN: f64 = 0.5;

/// By how much more when too many failed.
const CHANCE_MORE: f64 = 0.2;

/// The share of failures from which on it becomes more, and by which it is all of that.
const FAILED_SHARES: (f64, f64) = (0.03, 0.07);

/// How many successes are assumed beforehand, so that the first failure alone is not too many.
const ASSUMED: f64 = 8.0;

/// How many failures a lot may have to expect before it takes safe points alone.
const RISK_MAX: f64 = 0.7;

/// The chance to work that counts as safe.
const CHANCE_SAFE: f64 = 0.97;

/// How far a candidate is from everything that was asked, in one parameter at least and as a share of its range, while there is
/// anything that far that promises something. What lies nearer teaches next to nothing, and a lot of it is one candidate.
const APART_MIN: f64 = 0.002;

/// How many points are drawn when none was planned.
const DRAWS: usize = 64;

/// A lot under way.
pub(crate) struct Lot<'a> {
    space: &'a Space,
    home: &'a [f64],
    options: &'a Options,
    /// How many candidates the design has.
    design: u32,
    feasibility: Feasibility,
    model: Option<Model>,
    /// What is not asked: what was, with the candidates of this lot, and what failed in earlier searches.
    taken: Vec<Point>,
    /// Whether any outcome is known.
    some_known: bool,
    /// The share of the outcomes that are failures.
    failed_share: f64,
    /// How many of its candidates are expected to fail.
    risk: f64,
    rng: StdRng,
}

/// What comes of the search for a candidate.
pub(crate) enum Next {
    /// It is this.
    Point(Point),
    /// No point is left that was not asked.
    Nothing,
    /// What is left is expected to better the best value by less than the options ask for.
    Little,
}

impl<'a> Lot<'a> {
    /// Returns an empty lot of at most `count` candidates after these trials; `warm` are the parameters of the last fit.
    pub(crate) fn new(
        space: &'a Space,
        home: &'a [f64],
        options: &'a Options,
        (trials, known): (&[Trial], &[Known]),
        (count, warm): (u32, Option<&[f64]>),
    ) -> Lot<'a> {
        let asked = trials.len() as u32;
        // What earlier searches measured need not be spread out again; the default is measured in any case.
        let told = trials.iter().filter(|trial| trial.outcome.is_some_and(|outcome| outcome != Outcome::Lost)).count();
        let design = design::size(options.budget).saturating_sub((known.len() - told) as u32).max(1);
        let failed = known.iter().filter(|known| known.outcome == Outcome::Failed).count();
        // With noise, the design of a small space can run out of new points and needs to know what to repeat.
        let model =
            (options.noisy || asked + count > design).then(|| Model::new(space, known, options.noisy, warm)).flatten();
        Lot {
            space,
            home,
            options,
            design,
            feasibility: feasibility(space, home, known),
            model,
            taken: taken(home, trials, known),
            some_known: !known.is_empty(),
            failed_share: failed as f64 / (known.len() as f64 + ASSUMED),
            risk: 0.0,
            rng: StdRng::seed_from_u64(mixed(mixed(options.seed) ^ u64::from(asked))),
        }
    }

    /// Returns the parameters of the surrogate, if there is one.
    pub(crate) fn parameters(&self) -> Option<Vec<f64>> {
        self.model.as_ref().map(|model| model.process.parameters().to_vec())
    }

    /// Returns the candidate of this place in the budget, from 0, and counts it as asked.
    pub(crate) fn next(&mut self, place: u32) -> Next {
        let planned = if place < self.design {
            let row = (place, self.design);
            design::point(self.space, self.home, self.options.seed, row, &self.feasibility, &mut self.rng)
        } else {
            let promising = self.promising();
            let little = |point: &Point| {
                let improvement = self.model.as_ref().map(|model| model.improvement(point));
                self.options.stop_below.zip(improvement).is_some_and(|(limit, improvement)| improvement < limit)
            };
            // That nothing better is left is not for earlier searches alone to say.
            let is_own_word = place >= design::size(self.options.budget);
            if self.risk == 0.0 && is_own_word && promising.as_ref().is_some_and(little) {
                return Next::Little;
            }
            promising
        };
        let planned = planned.filter(|point| is_apart(&self.taken, point));
        let found = planned.or_else(|| self.any_new()).or_else(|| self.repeat());
        // Where nothing is allowed, not even the default is.
        let Some(point) = found.filter(|point| self.space.allows(point)) else { return Next::Nothing };
        self.risk += 1.0 - self.feasibility.chance(&point);
        self.taken.push(point.clone());
        if let Some(model) = &mut self.model {
            model.process.believe(&point);
        }
        Next::Point(point)
    }

    /// Returns the point that promises most, while the lot may take the risk.
    fn promising(&mut self) -> Option<Point> {
        let (few, many) = FAILED_SHARES;
        let excess = ((self.failed_share - few) / (many - few)).clamp(0.0, 1.0);
        let chance_min = (CHANCE_MIN + CHANCE_MORE * excess).max(1.0 - (RISK_MAX - self.risk)).min(CHANCE_SAFE);
        let (taken, rng) = (&self.taken, &mut self.rng);
        let is_apart = |point: &[f64]| is_apart(taken, point);
        self.model.as_ref()?.propose(self.space, self.home, (&self.feasibility, chance_min), &is_apart, rng)
    }

    /// Returns the point to measure once more, if a second measurement can differ from the first: the best contender,
    /// or the default while nothing is known.
    fn repeat(&self) -> Option<Point> {
        match &self.model {
            _ if !self.options.noisy => None,
            Some(model) => model.contender(),
            None => (!self.some_known).then(|| self.home.to_vec()),
        }
    }

    /// Returns a new point though none was planned: the likeliest to work of some, if there are, that are far enough from what was
    /// asked; of a small space whatever is left.
    fn any_new(&mut self) -> Option<Point> {
        let mut likeliest: Option<(bool, f64, Point)> = None;
        for draw in 0..DRAWS {
            let drawn = match draw % 2 {
                0 => self.space.random(self.home, &mut self.rng),
                _ => self.space.mutant(self.home, 0.2, 0.5, self.home, &mut self.rng),
            };
            let Some(point) = drawn.filter(|point| is_new(&self.taken, point)) else { continue };
            let (is_apart, chance) = (is_apart(&self.taken, &point), self.feasibility.chance(&point));
            if likeliest.as_ref().is_none_or(|(was_apart, best, _)| (is_apart, chance) > (*was_apart, *best)) {
                likeliest = Some((is_apart, chance, point));
            }
        }
        likeliest.map(|(_, _, point)| point).or_else(|| {
            let all = self.space.points(self.home)?;
            all.into_iter().find(|point| is_new(&self.taken, point))
        })
    }
}

/// Returns whether `point` is none of these.
fn is_new(taken: &[Point], point: &[f64]) -> bool {
    !taken.iter().any(|other| is_same(other, point))
}

/// Returns whether `point` is no near-duplicate of any of these.
fn is_apart(taken: &[Point], point: &[f64]) -> bool {
    let is_far = |other: &Point| other.iter().zip(point).any(|(one, other)| (one - other).abs() >= APART_MIN);
    taken.iter().all(is_far)
}

/// Returns the points that are not asked: those that were, and those that failed in earlier searches. The default is
/// measured whatever is said of it.
fn taken(home: &[f64], trials: &[Trial], known: &[Known]) -> Vec<Point> {
    let failed = known.iter().filter(|known| known.outcome == Outcome::Failed && !is_same(&known.point, home));
    trials.iter().map(|trial| &trial.point).chain(failed.map(|known| &known.point)).cloned().collect()
}

/// Returns another number for each number, without a visible pattern (the finaliser of `SplitMix64`).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

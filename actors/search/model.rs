//! What all outcomes so far say together: the surrogate, where measurements fail, and what to beat.

use rand::Rng;

use crate::{
    acquisition::log_expected_improvement,
    evolve::evolve,
    feasibility::Feasibility,
    gp::{Data, Metric, Process, Settings, evidence, fit},
    search::Outcome,
    space::{Point, Space},
    transform::Standard,
};

/// The most values the surrogate is fitted to; of more, the best and the latest are taken.
const VALUES_MAX: usize = 100;

/// The most points the classifier learns from.
const LABELS_MAX: usize = 120;

/// Earlier searches fill up what the search has of its own to so many values and labels. It takes the time of a lot to look at more
/// of them, and the more it has of its own the less they say.
const FILLED: usize = 50;

/// The steps of the descent to the parameters, from each start.
const STEPS_MAX: usize = 25;

/// The score of a point that is just not safe enough, below all that are.
const UNSAFE: f64 = -500.0;

/// How many of the best points are parents of the inner evolution.
const SEEDS: usize = 6;

/// One outcome, with the variance that its conditions add, in units of the values' variance.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) point: Point,
    pub(crate) outcome: Outcome,
    pub(crate) extra: f64,
}

impl Known {
    /// Returns whether it is of this search.
    pub(crate) fn is_own(&self) -> bool {
        self.extra == 0.0
    }
}

/// What is believed after some outcomes.
pub(crate) struct Model {
    pub(crate) process: Process,
    pub(crate) standard: Standard,
    /// The value to beat, standardised.
    best: f64,
    /// The points with the best values, the best first.
    seeds: Vec<Point>,
    measured: Vec<Point>,
}

/// Returns what the outcomes say of failures.
pub(crate) fn feasibility(space: &Space, home: &[f64], known: &[Known]) -> Feasibility {
    let metric = Metric { categories: space.categories() };
    let own = known.iter().filter(|known| known.is_own()).count();
    let most = if own < known.len() { own.clamp(FILLED, LABELS_MAX) } else { LABELS_MAX };
    let first = known.len().saturating_sub(most);
    // All failures count, and the latest of what worked; what is known of earlier searches stands before the rest.
    let kept: Vec<&Known> = known
        .iter()
        .enumerate()
        .filter(|(index, known)| *index >= first || known.outcome == Outcome::Failed)
        .map(|(_, known)| known)
        .collect();
    let kept = &kept[kept.len().saturating_sub(LABELS_MAX)..];
    let worked: Vec<bool> = kept.iter().map(|known| known.outcome != Outcome::Failed).collect();
    Feasibility::learn(&metric, home, kept.iter().map(|known| known.point.clone()).collect(), &worked)
}

impl Model {
    /// Returns what is believed after these outcomes; `None` if nothing was measured. `warm` holds the parameters of an
    /// earlier fit.
    pub(crate) fn new(space: &Space, known: &[Known], noisy: bool, warm: Option<&[f64]>) -> Option<Model> {
        let mut measured: Vec<(&Known, f64)> = known
            .iter()
            .filter_map(|known| match known.outcome {
                Outcome::Value(value) => Some((known, value)),
                Outcome::Failed | Outcome::Lost => None,
            })
            .collect();
        if measured.is_empty() {
            return None;
        }
        let values: Vec<f64> = measured.iter().map(|(_, value)| *value).collect();
        let standard = Standard::of(&values);
        fill(&mut measured);
        thin(&mut measured);
        let data = Data {
            points: measured.iter().map(|(known, _)| known.point.clone()).collect(),
            values: measured.iter().map(|(_, value)| standard.apply(*value)).collect(),
            extra: measured.iter().map(|(known, _)| known.extra).collect(),
        };
        let metric = Metric { categories: space.categories() };
        let settings = Settings::new(space.dims(), noisy, STEPS_MAX);
        let process = fit(&metric, &data, &settings, warm);
        let mut ranked: Vec<(f64, &Point)> = data
            .points
            .iter()
            .zip(&data.values)
            .map(|(point, value)| (if noisy { process.at(point).mean } else { *value }, point))
            .collect();
        ranked.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let best = ranked[0].0;
        let mut seeds: Vec<Point> = ranked.into_iter().map(|(_, point)| point.clone()).collect();
        seeds.dedup();
        seeds.truncate(SEEDS);
        Some(Model { process, standard, best, seeds, measured: data.points })
    }

    /// Returns the new point that promises most and works with at least this chance, or the likeliest to work if there
    /// is none; `None` if no new point is found.
    pub(crate) fn propose(
        &self,
        space: &Space,
        home: &[f64],
        (feasibility, chance_min): (&Feasibility, f64),
        is_new: &impl Fn(&[f64]) -> bool,
        rng: &mut impl Rng,
    ) -> Option<Point> {
        let score = |point: &[f64]| {
            let chance = feasibility.chance(point);
            if chance < chance_min {
                return UNSAFE - UNSAFE.abs() * (chance_min - chance);
            }
            log_expected_improvement(self.process.at(point), self.best).max(0.9 * UNSAFE) + chance.ln()
        };
        evolve(space, home, &self.seeds, is_new, &score, rng)
    }

    /// Returns by how much more plausible it is that the parameters matter than that all values differ by noise alone, as the
    /// natural logarithm of the ratio.
    pub(crate) fn evidence(&self, space: &Space) -> f64 {
        evidence(&self.process, &Settings::new(space.dims(), true, STEPS_MAX))
    }

    /// Returns by how much a measurement of this point is expected to better the best value.
    pub(crate) fn improvement(&self, point: &[f64]) -> f64 {
        log_expected_improvement(self.process.at(point), self.best).exp() * self.standard.slope(self.best)
    }

    /// Returns the measured point that could be the best by the largest chance: the lowest mean less its deviation.
    pub(crate) fn contender(&self) -> Option<Point> {
        let hope = |point: &Point| {
            let belief = self.process.at(point);
            belief.mean - belief.variance.sqrt()
        };
        self.measured.iter().min_by(|a, b| hope(a).total_cmp(&hope(b))).cloned()
    }
}

/// Keeps as many earlier values as there is room for beside the search's own, the best of them.
fn fill(measured: &mut Vec<(&Known, f64)>) {
    let own = measured.iter().filter(|(known, _)| known.is_own()).count();
    let mut earlier: Vec<f64> = measured.iter().filter(|(known, _)| !known.is_own()).map(|(_, value)| *value).collect();
    let room = FILLED.saturating_sub(own);
    // What earlier searches say by themselves is fitted once, and whole.
    if own == 0 || earlier.len() <= room {
        return;
    }
    earlier.sort_by(f64::total_cmp);
    let mut room = room;
    let worst = if room == 0 { f64::NEG_INFINITY } else { earlier[room - 1] };
    measured.retain(|(known, value)| {
        let is_kept = known.is_own() || (*value <= worst && room > 0);
        room -= usize::from(is_kept && !known.is_own());
        is_kept
    });
}

/// Keeps the best half and the latest half of what may be kept.
fn thin(measured: &mut Vec<(&Known, f64)>) {
    if measured.len() <= VALUES_MAX {
        return;
    }
    let mut by_value: Vec<usize> = (0..measured.len()).collect();
    by_value.sort_by(|a, b| measured[*a].1.total_cmp(&measured[*b].1));
    let mut kept = vec![false; measured.len()];
    by_value[..VALUES_MAX / 2].iter().for_each(|index| kept[*index] = true);
    let mut room = VALUES_MAX - VALUES_MAX / 2;
    for index in (0..measured.len()).rev() {
        if room > 0 && !kept[index] {
            kept[index] = true;
            room -= 1;
        }
    }
    let mut index = 0;
    measured.retain(|_| {
        index += 1;
        kept[index - 1]
    });
}

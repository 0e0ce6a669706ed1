//! The inner evolution: the most promising point that was not asked yet, by a score that costs nothing to ask.

use rand::{Rng, RngExt};

use crate::space::{Point, Space};

/// How many newcomers are drawn from the whole space.
const NEWCOMERS: usize = 80;

/// How many points live on from each generation.
const PARENTS: usize = 10;

/// How many children each generation has.
const CHILDREN: usize = 30;

const GENERATIONS: usize = 7;

/// How far a mutant moves in the first and in the last generation, as a share of the range.
const STEPS: (f64, f64) = (0.2, 0.005);

/// Of so many children one has two parents.
const CROSSING: f64 = 0.25;

/// Returns the point with the highest score found among descendants of `seeds` and newcomers, of those that are new;
/// `None` if no new point is found.
pub(crate) fn evolve(
    space: &Space,
    home: &[f64],
    seeds: &[Point],
    is_new: &impl Fn(&[f64]) -> bool,
    score: &impl Fn(&[f64]) -> f64,
    rng: &mut impl Rng,
) -> Option<Point> {
    let share = (2.0 / space.dims().max(1) as f64).min(0.5);
    let newcomers: Vec<Point> = (0..NEWCOMERS).filter_map(|_| space.random(home, rng)).collect();
    let mutants: Vec<Point> = seeds
        .iter()
        .flat_map(|seed| [seed; 6])
        .filter_map(|seed| {
            let size = 0.02 * 10_f64.powf(rng.random::<f64>());
            space.mutant(seed, size, share, home, rng)
        })
        .collect();
    let scored = |point: Point| {
        let score = score(&point);
        (point, if score.is_nan() { f64::NEG_INFINITY } else { score })
    };
    // What was asked already can be a parent, but not the answer.
    let mut living: Vec<(Point, f64)> =
        newcomers.into_iter().chain(mutants).chain(seeds.iter().cloned()).map(scored).collect();
    let mut best: Option<(Point, f64)> = None;
    for generation in 0..=GENERATIONS {
        living.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        living.dedup_by(|(a, _), (b, _)| a == b);
        living.truncate(PARENTS);
        let newest = living.iter().find(|(point, _)| is_new(point));
        if let Some((point, score)) = newest.filter(|(_, score)| best.as_ref().is_none_or(|(_, best)| score > best)) {
            best = Some((point.clone(), *score));
        }
        if generation == GENERATIONS || living.is_empty() {
            break;
        }
        let size = STEPS.0 * (STEPS.1 / STEPS.0).powf(generation as f64 / (GENERATIONS - 1) as f64);
        for _ in 0..CHILDREN {
            let mother = parent(&living, rng);
            let child = if rng.random_bool(CROSSING) {
                space.child(&living[mother].0, &living[parent(&living, rng)].0, home, rng)
            } else {
                space.mutant(&living[mother].0, size, share, home, rng)
            };
            living.extend(child.map(scored));
        }
    }
    best.map(|(point, _)| point)
}

/// Returns the place of a parent, the best being the likeliest.
fn parent(living: &[(Point, f64)], rng: &mut impl Rng) -> usize {
    let parents = living.len().min(PARENTS);
    rng.random_range(0..parents).min(rng.random_range(0..parents))
}

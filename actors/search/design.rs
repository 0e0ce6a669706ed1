//! The first candidates, before the results say anything: the default, points spread evenly, mutants of the default.

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    feasibility::Feasibility,
    space::{Point, Space},
};

/// The fewest candidates of the design, the default included.
const SIZE_MIN: u32 = 6;

/// The share of the budget that the design takes: one in so many.
const BUDGET_SHARE: u32 = 5;

/// Every so many candidates, one is a mutant of the default.
const MUTANT_EVERY: u32 = 3;

/// How far mutants of the default are from it, as a share of the range.
const MUTANT_SIZE: f64 = 0.2;

/// The shares of the way from the default to a spread point that are tried, until one is likely to work.
const SHARES: [f64; 6] = [1.0, 0.8, 0.6, 0.45, 0.3, 0.2];

/// So many candidates are asked before any outcome is known, if measurements run four at once.
const FIRST_LOT: u32 = 4;

/// How far those go on the way from the default to a spread point.
const FIRST_REACH: f64 = 0.7;

/// The chance to work that a design point has at least.
const CHANCE_MIN: f64 = 0.9;

/// Returns how many candidates the design has.
pub(crate) fn size(budget: u32) -> u32 {
    (budget / BUDGET_SHARE).max(SIZE_MIN).min(budget)
}

/// Returns the candidate of this place of the design, from 0; `None` if chance finds none.
pub(crate) fn point(
    space: &Space,
    home: &[f64],
    seed: u64,
    (place, size): (u32, u32),
    feasibility: &Feasibility,
    rng: &mut StdRng,
) -> Option<Point> {
    if place == 0 {
        return space.allows(home).then(|| home.to_vec());
    }
    let share = (3.0 / space.dims().max(1) as f64).min(0.7);
    if place.is_multiple_of(MUTANT_EVERY) {
        return space.mutant(home, MUTANT_SIZE, share, home, rng);
    }
    let rows = (size - 1 - (size - 1) / MUTANT_EVERY) as usize;
    let spread = space.latin_hypercube(rows, home, &mut StdRng::seed_from_u64(seed));
    let row = (place - 1 - place / MUTANT_EVERY) as usize;
    let far = spread.into_iter().nth(row).or_else(|| space.random(home, rng))?;
    // Nothing is known of failures in the first lot, so it does not go all the way.
    let reach = if place < FIRST_LOT { FIRST_REACH } else { 1.0 };
    let nearer = SHARES.iter().filter_map(|share| space.between(home, &far, share * reach, home));
    nearer.reduce(|kept, next| if feasibility.chance(&kept) >= CHANCE_MIN { kept } else { next })
}

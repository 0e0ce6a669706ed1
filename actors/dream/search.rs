//! The search: which settings to measure next?
//!
//! An evolutionary search for few and noisy measurements of mixed spaces, driven by [`Search::ask`] and
//! [`Search::tell`]. What it asks next follows from the seed and from what it was told in earlier lots, and from
//! nothing else: a search that is told the trials of a journal goes on exactly where the journal ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::space::Space;
use crate::facts::{Budget, FailureKind, Params};

/// Every so many candidates, one is drawn from the whole space, so that the search never closes in on one corner.
const NEWCOMER_EVERY: u32 = 5;

/// Of so many points drawn uniformly, the loneliest is the newcomer.
const NEWCOMER_DRAWS: usize = 4;

/// Every so many candidates, one has two parents.
const CROSSOVER_EVERY: u32 = 4;

/// Every so many candidates of the first design, one is a mutant of the live settings.
const LIVE_MUTANT_EVERY: u32 = 3;

/// The share of the budget that is spent on the first design, before results are looked at: one in so many.
const DESIGN_SHARE: u32 = 4;

/// The fewest candidates of the first design.
const DESIGN_MIN: u32 = 4;

/// The part of the measured candidates that become parents: one in so many, but at least [`PARENTS_MIN`].
const PARENTS_SHARE: usize = 5;

/// The fewest parents, so that one lucky measurement does not decide alone.
const PARENTS_MIN: usize = 3;

/// How far a mutant moves at the beginning and at the end of the budget, as a share of the range.
const STEP_FIRST: f64 = 0.25;

/// See [`STEP_FIRST`].
const STEP_LAST: f64 = 0.05;

/// Of so many offspring the most hopeful one is measured. This and [`CURIOSITY`] were chosen on the tests' landscapes.
const LITTER: usize = 16;

/// Measured points nearer than this are averaged, for their numbers are noisy.
const SMOOTH: f64 = 0.05;

/// What it is worth to look where nothing was measured yet, in spans from a middling to the best point.
const CURIOSITY: f64 = 2.0;

/// How many of the nearest evaluated points say whether a point is feasible.
const NEIGHBOURS: usize = 3;

/// The chance of turning down a point all of whose neighbours failed; some are tried, for the edge may be near.
const CAUTION: f64 = 0.9;

/// How often a candidate is drawn again because it was evaluated, is known to be bad, or stands among failures.
const DRAWS_MAX: u32 = 64;

/// One point to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its generation, from 1.
    pub generation: u32,
    /// Its place in the generation, from 1.
    pub number: u32,
    /// What to set.
    pub params: Params,
}

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Told {
    /// It was measured: larger is better, 0 is as good as the live settings.
    Fitness(f64),
    /// It could not be measured.
    Failed(FailureKind),
}

/// One search: a budget of generations, each handed out in lots.
#[derive(Clone, Debug)]
pub struct Search {
    space: Space,
    budget: Budget,
    lot_max: u32,
    seed: u64,
    live: Params,
    avoided: BTreeSet<String>,
    told: BTreeMap<Slot, (Candidate, Told)>,
    /// The lot under way, by the place of its first candidate.
    lot: Option<(Slot, Vec<Candidate>)>,
    /// Set when nothing new is left: the first place that stays empty.
    exhausted: Option<Slot>,
}

/// A place in the budget, from 0: the candidates of all generations counted through.
type Slot = u32;

impl Search {
    /// Returns a search that begins with the `live` settings, whatever they are, and goes on in `space`.
    ///
    /// A lot has at most `lot_max` candidates, taken as 1 when it is 0. The same arguments and results give the same
    /// candidates.
    pub fn new(space: Space, budget: Budget, lot_max: u32, seed: u64, live: Params) -> Search {
        Search {
            space,
            budget,
            lot_max: lot_max.max(1),
            seed,
            live,
            avoided: BTreeSet::new(),
            told: BTreeMap::new(),
            lot: None,
            exhausted: None,
        }
    }

    /// Never proposes this point; the live settings alone are measured even so. To be called before the first `ask`.
    pub fn avoid(&mut self, params: &Params) {
        self.avoided.insert(self.space.identity(params));
    }

    /// Returns what to measure next: the candidates of the current lot of which no result was told yet.
    ///
    /// The same ones are returned until their results are told. None are returned when the budget is spent, or when
    /// no new point is left.
    pub fn ask(&mut self) -> Vec<Candidate> {
        while let Some(first) = self.next_slot() {
            let first = self.lot_start(first);
            let lot = match self.lot.take() {
                Some((start, lot)) if start == first => lot,
                _ => self.compose(first),
            };
            let open: Vec<Candidate> =
                lot.iter().filter(|candidate| !self.told.contains_key(&self.slot_of(candidate))).cloned().collect();
            self.lot = Some((first, lot));
            if !open.is_empty() {
                return open;
            }
        }
        Vec::new()
    }

    /// Takes the result of a candidate. A second result of the same place, and a place outside the budget, count for
    /// nothing; a fitness that is no finite number is a failure of the bench.
    pub fn tell(&mut self, candidate: &Candidate, told: Told) {
        let inside = (1..=self.budget.max_candidates).contains(&candidate.number)
            && (1..=self.budget.max_generations).contains(&candidate.generation);
        if !inside {
            return;
        }
        let told = match told {
            Told::Fitness(fitness) if !fitness.is_finite() => Told::Failed(FailureKind::BenchFailed),
            told => told,
        };
        let slot = self.slot_of(candidate);
        self.told.entry(slot).or_insert_with(|| (candidate.clone(), told));
    }

    /// Returns the last generation of which every candidate was told, from 1; `None` before the first is whole.
    ///
    /// A generation that ends early, because no new point is left, is whole too.
    pub fn generation_done(&self) -> Option<u32> {
        let size = self.budget.max_candidates;
        match self.next_slot() {
            Some(slot) => Some(slot / size).filter(|generation| *generation > 0),
            None => self.told.keys().next_back().map(|slot| slot / size + 1),
        }
    }

    /// Returns whether nothing is left to measure; that no new point is left shows when it is asked for.
    pub fn done(&self) -> bool {
        self.next_slot().is_none()
    }

    /// Returns how many results were told, failures included.
    pub fn evaluated(&self) -> u32 {
        self.told.len() as u32
    }

    /// Returns how many of the results told were failures.
    pub fn failed(&self) -> u32 {
        self.told.values().filter(|(_, told)| matches!(told, Told::Failed(_))).count() as u32
    }

    /// Returns the candidate with the largest fitness, the earliest among equals, and its fitness.
    pub fn best(&self) -> Option<(&Candidate, f64)> {
        self.ranked(Slot::MAX).into_iter().next()
    }

    /// Returns the first place without a result; `None` when nothing is left to measure.
    fn next_slot(&self) -> Option<Slot> {
        let total = self.exhausted.unwrap_or(Slot::MAX).min(self.slots());
        // The told places are counted from the front: the first gap is the first place that differs from its rank.
        let gap = self.told.keys().zip(0..).find(|(slot, rank)| *slot != rank).map(|(_, rank)| rank);
        let slot = gap.unwrap_or(self.told.len() as Slot);
        (slot < total).then_some(slot)
    }

    fn slots(&self) -> Slot {
        self.budget.max_candidates.saturating_mul(self.budget.max_generations)
    }

    fn slot_of(&self, candidate: &Candidate) -> Slot {
        (candidate.generation - 1).saturating_mul(self.budget.max_candidates).saturating_add(candidate.number - 1)
    }

    /// Returns where the lot of this place begins; lots never reach over the end of a generation.
    fn lot_start(&self, slot: Slot) -> Slot {
        slot - slot % self.budget.max_candidates % self.lot_max
    }

    /// Puts a lot together, place by place. A place that has its result already, in a search that is resumed, keeps
    /// its candidate, and the others become what they would have become without the interruption.
    fn compose(&mut self, first: Slot) -> Vec<Candidate> {
        let size = self.budget.max_candidates;
        let end = self.slots().min(first.saturating_add(self.lot_max)).min((first / size + 1).saturating_mul(size));
        let named = |slots: Range<Slot>| {
            self.told.range(slots).map(|(_, (candidate, _))| self.space.identity(&candidate.params))
        };
        let mut taken: BTreeSet<String> = named(0..first).chain(self.avoided.iter().cloned()).collect();
        let later: BTreeSet<String> = named(first..Slot::MAX).collect();
        let mut lot = Vec::new();
        for slot in first..end {
            let kept = self.told.get(&slot).map(|(candidate, _)| candidate.params.clone());
            // Results of later places can get in the way only when the lots were cut differently before a restart.
            let params = kept.or_else(|| match self.draw(first, slot, &taken)? {
                params if slot > 0 && later.contains(&self.space.identity(&params)) => {
                    self.draw(first, slot, &taken.union(&later).cloned().collect())
                }
                params => Some(params),
            });
            let Some(params) = params else {
                self.exhausted = Some(slot);
                break;
            };
            taken.insert(self.space.identity(&params));
            lot.push(Candidate { generation: slot / size + 1, number: slot % size + 1, params });
        }
        lot
    }

    /// Returns a new point for this place; `None` when there is none.
    fn draw(&self, first: Slot, slot: Slot, taken: &BTreeSet<String>) -> Option<Params> {
        if slot == 0 {
            return Some(self.live.clone());
        }
        let mut rng = self.rng(first, slot);
        let is_new = |params: &Params| !taken.contains(&self.space.identity(params));
        let mut last_new = None;
        for draw in 0..DRAWS_MAX {
            // The first draw is the planned one; when it does not serve, its like is tried, then the whole space.
            let params = if draw < DRAWS_MAX / 2 {
                self.propose(first, slot, draw, &mut rng)
            } else {
                self.space.random(&mut rng)
            };
            if !is_new(&params) {
                continue;
            }
            if !rng.random_bool(CAUTION * self.danger(first, &params)) {
                return Some(params);
            }
            last_new = Some(params);
        }
        // Chance no longer finds what is left of a small space, so it is looked through.
        last_new.or_else(|| {
            let rest: Vec<Params> = self.space.points()?.into_iter().filter(is_new).collect();
            (!rest.is_empty()).then(|| rest[rng.random_range(0..rest.len())].clone())
        })
    }

    fn propose(&self, first: Slot, slot: Slot, draw: u32, rng: &mut StdRng) -> Params {
        let ranked = self.ranked(first);
        let design = self.slots().div_ceil(DESIGN_SHARE).max(DESIGN_MIN).min(self.slots());
        if slot < design || ranked.is_empty() {
            return match slot % LIVE_MUTANT_EVERY {
                0 => self.space.mutate(&self.live, STEP_FIRST, rng),
                _ if draw == 0 && slot < design => self.design_point(design, slot),
                _ => self.space.random(rng),
            };
        }
        if slot.is_multiple_of(NEWCOMER_EVERY) {
            return self.newcomer(first, rng);
        }
        let parents = &ranked[..ranked.len().min(PARENTS_MIN.max(ranked.len() / PARENTS_SHARE))];
        let progress = f64::from(first) / f64::from(self.slots());
        let step = STEP_FIRST + (STEP_LAST - STEP_FIRST) * progress;
        let mut offspring = || {
            let parent = parent_of(parents, rng);
            if slot.is_multiple_of(CROSSOVER_EVERY) {
                self.space.crossover(parent, parent_of(parents, rng), rng)
            } else {
                self.space.mutate(parent, step, rng)
            }
        };
        let litter: Vec<Params> = (0..LITTER).map(|_| offspring()).collect();
        let hopes = litter.into_iter().map(|params| (self.hope(first, &ranked, &params), params));
        let best = hopes.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or_else(|| self.live.clone(), |(_, params)| params)
    }

    /// Returns, of a few points drawn uniformly, the one farthest from all that were evaluated.
    fn newcomer(&self, first: Slot, rng: &mut StdRng) -> Params {
        let apart = |params: &Params| {
            let evaluated = self.told.range(..first).map(|(_, (candidate, _))| &candidate.params);
            evaluated.map(|other| self.space.distance(other, params)).fold(f64::INFINITY, f64::min)
        };
        let drawn = (1..NEWCOMER_DRAWS).map(|_| self.space.random(rng)).collect::<Vec<_>>();
        let first_drawn = self.space.random(rng);
        drawn.into_iter().fold(first_drawn, |far, next| if apart(&next) > apart(&far) { next } else { far })
    }

    /// Returns the fitness to hope for at a point: that of the evaluated points, the nearer the weightier, and more the
    /// farther it is from all of them, because there anything can be. A failure is as bad as the worst measurement.
    fn hope(&self, first: Slot, ranked: &[(&Candidate, f64)], params: &Params) -> f64 {
        let (mut sum, mut weights, mut nearest) = (0.0, 0.0, f64::INFINITY);
        let worst = ranked.last().map_or(0.0, |(_, fitness)| *fitness);
        for (candidate, told) in self.told.range(..first).map(|(_, evaluated)| evaluated) {
            let fitness = match told {
                Told::Fitness(fitness) => *fitness,
                Told::Failed(FailureKind::Infrastructure) => continue,
                Told::Failed(_) => worst,
            };
            let distance = self.space.distance(&candidate.params, params);
            let weight = 1.0 / (distance * distance + SMOOTH * SMOOTH).powi(2);
            (sum, weights, nearest) = (sum + weight * fitness, weights + weight, distance.min(nearest));
        }
        let best = ranked.first().map_or(0.0, |(_, fitness)| *fitness);
        let middle = ranked.get(ranked.len() / 2).map_or(0.0, |(_, fitness)| *fitness);
        sum / weights + CURIOSITY * (best - middle) * nearest
    }

    /// Returns this place's row of the first design, which is the same whatever was told.
    fn design_point(&self, design: u32, slot: Slot) -> Params {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let rows = self.space.latin_hypercube(design - design.div_ceil(LIVE_MUTANT_EVERY), &mut rng);
        let row = (slot - slot / LIVE_MUTANT_EVERY - 1) as usize;
        rows.into_iter().nth(row).unwrap_or_else(|| self.space.random(&mut rng))
    }

    /// Returns the measured candidates of the places before `end`, the best first.
    fn ranked(&self, end: Slot) -> Vec<(&Candidate, f64)> {
        let measured = self.told.range(..end).filter_map(|(_, (candidate, told))| match told {
            Told::Fitness(fitness) => Some((candidate, *fitness)),
            Told::Failed(_) => None,
        });
        let mut ranked: Vec<(&Candidate, f64)> = measured.collect();
        ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        ranked
    }

    /// Returns the chance that this point fails, 0 to 1: the share of failures among its nearest neighbours, the nearer
    /// the weightier. What kloros itself could not run says nothing about the settings.
    fn danger(&self, first: Slot, params: &Params) -> f64 {
        let known = self.told.range(..first).map(|(_, evaluated)| evaluated);
        let mut neighbours: Vec<(f64, bool)> = known
            .filter(|(_, told)| *told != Told::Failed(FailureKind::Infrastructure))
            .map(|(near, told)| (self.space.distance(&near.params, params), matches!(told, Told::Failed(_))))
            .collect();
        neighbours.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        neighbours.truncate(NEIGHBOURS);
        let weight = |distance: f64| 1.0 / (distance + 0.001);
        let all: f64 = neighbours.iter().map(|(distance, _)| weight(*distance)).sum();
        let failed: f64 = neighbours.iter().filter(|(_, failed)| *failed).map(|(distance, _)| weight(*distance)).sum();
        if all > 0.0 { (failed / all).clamp(0.0, 1.0) } else { 0.0 }
    }

    fn rng(&self, first: Slot, slot: Slot) -> StdRng {
        let told = self.told.range(..first).count() as u64;
        StdRng::seed_from_u64(mixed(mixed(mixed(self.seed) ^ told) ^ u64::from(slot)))
    }
}

/// Returns one of the parents, the best of n with n times the chance of the last.
fn parent_of<'a>(parents: &[(&'a Candidate, f64)], rng: &mut StdRng) -> &'a Params {
    let tickets = parents.len() * (parents.len() + 1) / 2;
    let mut ticket = rng.random_range(0..tickets);
    let mut place = 0;
    while ticket >= parents.len() - place {
        ticket -= parents.len() - place;
        place += 1;
    }
    &parents[place].0.params
}

/// Returns another number for each number, without a visible pattern (the finaliser of `SplitMix64`).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{KnobKind, Value};

    fn space(axes: &[(&str, KnobKind)]) -> Space {
        Space::new(&axes.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone())).collect()).unwrap()
    }

    fn mixed_space() -> Space {
        space(&[
            ("batch", KnobKind::Integer { min: 1, max: 512, log: true }),
            ("cache", KnobKind::Float { min: 0.5, max: 0.95, log: false }),
            ("eager", KnobKind::Boolean),
            ("policy", KnobKind::Choice { values: ["fcfs", "sjf", "prio"].map(str::to_owned).to_vec() }),
        ])
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

    fn number(params: &Params, name: &str) -> f64 {
        params[name].as_number().unwrap()
    }

    // The landscapes answer alike, with `None` where the service would not start.

    /// One hill: a batch of 64, a cache of 0.85, lazy, and the second policy.
    #[allow(clippy::unnecessary_wraps, reason = "all landscapes have one shape")]
    fn hill(params: &Params) -> Option<f64> {
        let batch = (number(params, "batch").ln() - 64_f64.ln()) / 6.2;
        let cache = (number(params, "cache") - 0.85) / 0.45;
        let policy = if params["policy"] == Value::Choice("sjf".to_owned()) { 0.3 } else { 0.0 };
        Some(policy - 3.0 * batch * batch - 2.0 * cache * cache - 0.3 * number(params, "eager"))
    }

    /// More is better until it no longer fits: the best points stand at the edge of what starts at all.
    fn cliff(params: &Params) -> Option<f64> {
        let batch = number(params, "batch").ln() / 512_f64.ln();
        let cache = (number(params, "cache") - 0.5) / 0.45;
        (batch + cache < 1.4).then(|| 1.5 * batch + cache - 0.2 * number(params, "eager"))
    }

    /// Two parameters that help together alone, beside a third that does little.
    #[allow(clippy::unnecessary_wraps, reason = "all landscapes have one shape")]
    fn ridge(params: &Params) -> Option<f64> {
        let batch = number(params, "batch").ln() / 512_f64.ln();
        let cache = (number(params, "cache") - 0.5) / 0.45;
        Some(1.0 - 4.0 * (batch - cache).abs() + batch + 0.1 * number(params, "eager"))
    }

    /// Something repeatable that looks like noise: the same for the same candidate of the same search.
    fn noise(seed: u64, candidate: &Candidate) -> f64 {
        let slot = u64::from(candidate.generation * 1000 + candidate.number);
        let mut rng = StdRng::seed_from_u64(mixed(seed) ^ slot);
        0.05 * (rng.random::<f64>() + rng.random::<f64>() + rng.random::<f64>() - 1.5)
    }

    fn measured(world: fn(&Params) -> Option<f64>, seed: u64, candidate: &Candidate) -> Told {
        world(&candidate.params)
            .map_or(Told::Failed(FailureKind::DidNotStart), |fitness| Told::Fitness(fitness + noise(seed, candidate)))
    }

    fn run(search: &mut Search, seed: u64, world: fn(&Params) -> Option<f64>) -> Vec<(Candidate, Told)> {
        let mut trials = Vec::new();
        loop {
            let lot = search.ask();
            if lot.is_empty() {
                return trials;
            }
            for candidate in lot {
                let told = measured(world, seed, &candidate);
                search.tell(&candidate, told);
                trials.push((candidate, told));
            }
        }
    }

    fn budget(max_candidates: u32, max_generations: u32) -> Budget {
        Budget { max_candidates, max_generations }
    }

    fn median(mut numbers: Vec<f64>) -> f64 {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    }

    /// Compares the true worth of what the search and a blind one find, the median over 41 seeds.
    #[track_caller]
    fn beats_chance(world: fn(&Params) -> Option<f64>, budget: Budget) {
        let (mut found, mut by_chance) = (Vec::new(), Vec::new());
        for seed in 0..41 {
            let mut search = Search::new(mixed_space(), budget, 4, seed, live());
            run(&mut search, seed, world);
            found.push(world(&search.best().unwrap().0.params).unwrap());
            let mut blind = Search::new(mixed_space(), budget, 4, seed, live());
            let mut rng = StdRng::seed_from_u64(seed);
            for slot in 0..blind.slots() {
                let (generation, number) = (slot / budget.max_candidates + 1, slot % budget.max_candidates + 1);
                let params = if slot == 0 { live() } else { blind.space.random(&mut rng) };
                let candidate = Candidate { generation, number, params };
                blind.tell(&candidate, measured(world, seed, &candidate));
            }
            by_chance.push(world(&blind.best().unwrap().0.params).unwrap());
        }
        let (found, by_chance) = (median(found), median(by_chance));
        assert!(found > by_chance, "{found} found, {by_chance} by chance");
    }

    #[test]
    fn a_search_finds_more_than_chance_does() {
        for world in [hill, cliff, ridge] {
            beats_chance(world, budget(12, 4));
        }
        // Twenty-four noisy numbers are too few to tell the way along a narrow ridge.
        for world in [hill, cliff] {
            beats_chance(world, budget(8, 3));
        }
    }

    #[test]
    fn the_live_settings_are_the_first_candidate_even_when_they_lie_outside_the_space() {
        let mut outside = live();
        outside.insert("batch".to_owned(), Value::Integer(100_000));
        let mut search = Search::new(mixed_space(), budget(12, 4), 4, 7, outside.clone());
        search.avoid(&outside);
        let lot = search.ask();
        assert_eq!((lot.len(), lot[0].generation, lot[0].number), (4, 1, 1));
        assert_eq!(lot[0].params, outside);
        assert!(lot[1..].iter().all(|candidate| search.space.contains(&candidate.params)));
    }

    #[test]
    fn a_lot_is_asked_for_again_until_it_is_told() {
        let mut search = Search::new(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        assert_eq!(search.ask(), lot);
        search.tell(&lot[1], Told::Fitness(0.1));
        assert_eq!(search.ask(), [&lot[..1], &lot[2..]].concat());
    }

    #[test]
    fn a_result_told_twice_counts_once() {
        let mut search = Search::new(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        search.tell(&lot[0], Told::Fitness(0.0));
        search.tell(&lot[0], Told::Fitness(9.0));
        search.tell(&lot[1], Told::Failed(FailureKind::Died));
        assert_eq!((search.evaluated(), search.failed()), (2, 1));
        assert_eq!(search.best(), Some((&lot[0], 0.0)));
    }

    #[test]
    fn a_fitness_that_is_no_number_is_a_failure() {
        let mut search = Search::new(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        search.tell(&lot[0], Told::Fitness(f64::NAN));
        assert_eq!((search.failed(), search.best()), (1, None));
    }

    #[test]
    fn a_place_outside_the_budget_is_not_taken() {
        let mut search = Search::new(mixed_space(), budget(2, 1), 4, 7, live());
        for (generation, number) in [(0, 1), (1, 0), (2, 1), (1, 3), (u32::MAX, u32::MAX)] {
            search.tell(&Candidate { generation, number, params: live() }, Told::Fitness(1.0));
        }
        assert_eq!(search.evaluated(), 0);
        let mut nothing = Search::new(mixed_space(), budget(0, 4), 4, 7, live());
        assert!(nothing.ask().is_empty() && nothing.done() && nothing.generation_done().is_none());
    }

    #[test]
    fn a_small_space_is_searched_whole_and_then_the_search_is_done() {
        let space = space(&[
            ("eager", KnobKind::Boolean),
            ("policy", KnobKind::Choice { values: ["fcfs", "sjf", "prio"].map(str::to_owned).to_vec() }),
        ]);
        let mut search = Search::new(space, budget(12, 4), 4, 7, live());
        let trials = run(&mut search, 7, |_| Some(1.0));
        assert_eq!(trials.len(), 6);
        assert!(search.done());
        assert_eq!(search.generation_done(), Some(1));
    }

    #[test]
    fn a_known_bad_point_is_never_proposed() {
        let space = space(&[("a", KnobKind::Integer { min: 1, max: 10, log: false })]);
        let at = |number| Params::from([("a".to_owned(), Value::Integer(number))]);
        let mut search = Search::new(space, budget(12, 4), 4, 7, at(1));
        search.avoid(&at(5));
        let trials = run(&mut search, 7, |_| Some(1.0));
        assert_eq!(trials.len(), 9);
        assert!(trials.iter().all(|(candidate, _)| candidate.params != at(5)));
    }

    #[test]
    fn a_generation_is_done_when_its_last_candidate_is_told() {
        let mut search = Search::new(mixed_space(), budget(6, 2), 4, 7, live());
        for (lot_size, done) in [(4, None), (2, Some(1)), (4, Some(1)), (2, Some(2))] {
            let lot = search.ask();
            assert_eq!(lot.len(), lot_size);
            for candidate in lot {
                search.tell(&candidate, Told::Fitness(0.0));
            }
            assert_eq!(search.generation_done(), done);
        }
        assert!(search.done() && search.ask().is_empty());
    }

    #[test]
    fn failures_turn_the_search_away() {
        let share_failed = |generations: std::ops::RangeInclusive<u32>| {
            let (mut failed, mut all) = (0, 0);
            for seed in 0..20 {
                let mut search = Search::new(mixed_space(), budget(12, 4), 4, seed, live());
                let trials = run(&mut search, seed, cliff);
                let part: Vec<_> = trials.iter().filter(|(c, _)| generations.contains(&c.generation)).collect();
                all += part.len();
                failed += part.iter().filter(|(_, told)| matches!(told, Told::Failed(_))).count();
            }
            failed as f64 / all as f64
        };
        let chance = 0.18; // The share of this space beyond the cliff.
        assert!(share_failed(3..=4) < chance, "{}", share_failed(3..=4));
    }

    #[test]
    fn a_search_of_nothing_but_failures_goes_on_looking() {
        let mut search = Search::new(mixed_space(), budget(8, 3), 4, 7, live());
        assert_eq!(run(&mut search, 7, |_| None).len(), 24);
        assert_eq!((search.failed(), search.best()), (24, None));
    }

    proptest! {
        // Each case is one or two whole searches.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn candidates_are_new_within_bounds_and_within_budget(
            seed: u64, candidates in 1_u32..15, generations in 1_u32..5, lot_max in 0_u32..20,
        ) {
            let mut search = Search::new(mixed_space(), budget(candidates, generations), lot_max, seed, live());
            let trials = run(&mut search, seed, cliff);
            prop_assert_eq!(trials.len(), (candidates * generations) as usize);
            prop_assert!(trials.iter().all(|(candidate, _)| search.space.contains(&candidate.params)));
            let names: BTreeSet<String> = trials.iter().map(|(c, _)| search.space.identity(&c.params)).collect();
            prop_assert_eq!(names.len(), trials.len());
            let places: Vec<_> = trials.iter().map(|(c, _)| (c.generation, c.number)).collect();
            let expected: Vec<_> = (1..=generations).flat_map(|g| (1..=candidates).map(move |n| (g, n))).collect();
            prop_assert_eq!(places, expected);
        }

        #[test]
        fn a_search_that_is_told_a_journal_goes_on_where_the_journal_ends(seed: u64, told in 0_usize..48) {
            let fresh = || Search::new(mixed_space(), budget(12, 4), 4, seed, live());
            let trials = run(&mut fresh(), seed, cliff);
            let mut resumed = fresh();
            for (candidate, told) in &trials[..told] {
                resumed.tell(candidate, *told);
            }
            prop_assert_eq!(run(&mut resumed, seed, cliff), trials[told..].to_vec());
        }

        #[test]
        fn a_lot_told_in_any_order_before_a_restart_is_completed_the_same(seed: u64, lots in 0_usize..10, mask: u8) {
            let fresh = || Search::new(mixed_space(), budget(12, 4), 4, seed, live());
            let trials = run(&mut fresh(), seed, cliff);
            let mut resumed = fresh();
            let told = trials.iter().enumerate().filter(|(place, _)| {
                *place < lots * 4 || (*place < lots * 4 + 4 && mask & (1 << (place % 4)) != 0)
            });
            for (_, (candidate, told)) in told {
                resumed.tell(candidate, *told);
            }
            run(&mut resumed, seed, cliff);
            prop_assert_eq!(resumed.told.into_values().collect::<Vec<_>>(), trials);
        }

        #[test]
        fn lots_cut_differently_after_a_restart_repeat_no_point(seed: u64, told in 0_usize..48, lot_max in 1_u32..13) {
            let trials = run(&mut Search::new(mixed_space(), budget(12, 4), 4, seed, live()), seed, cliff);
            let mut resumed = Search::new(mixed_space(), budget(12, 4), lot_max, seed, live());
            for (candidate, told) in trials.iter().take(told).step_by(2) {
                resumed.tell(candidate, *told);
            }
            run(&mut resumed, seed, cliff);
            let names: BTreeSet<String> =
                resumed.told.values().map(|(c, _)| resumed.space.identity(&c.params)).collect();
            prop_assert_eq!(names.len(), 48);
        }

        #[test]
        fn no_generation_closes_in_on_one_corner(seed: u64) {
            let mut search = Search::new(mixed_space(), budget(12, 4), 4, seed, live());
            let trials = run(&mut search, seed, hill);
            for generation in 1..=4 {
                let points: Vec<&Params> =
                    trials.iter().filter(|(c, _)| c.generation == generation).map(|(c, _)| &c.params).collect();
                let farthest = points.iter().flat_map(|a| points.iter().map(|b| search.space.distance(a, b)));
                prop_assert!(farthest.fold(0.0, f64::max) >= 0.2);
            }
        }
    }
}

//! The search of one experiment: which settings to measure next?
//!
//! [`kloros_search`] knows settings and outcomes; this knows generations, and how a search goes on after a restart: it is
//! told the trials of the journal, in their order, and asks on exactly where the journal ends.

use std::collections::BTreeMap;

use kloros_search::{Config as Point, Earlier, Ended, Importance, Options, Outcome, Space, Unclear};

use super::{Config, space::SearchSpace};
use crate::facts::{Budget, EarlierTrial, Experience, Experiment, FailureKind, Params};

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
    /// It was measured, and is worse by something than may be.
    Tripped,
    /// It could not be measured.
    Failed(FailureKind),
}

/// What a search is made from.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is varied.
    pub space: SearchSpace,
    /// How many generations of how many candidates.
    pub budget: Budget,
    /// How many candidates are chosen at once.
    pub lot_max: u32,
    /// What decides between equally good ways.
    pub seed: u64,
    /// The settings in use, which are the first candidate whether or not they lie in the space.
    pub live: Params,
    /// Where parameters begin that mean nothing beside the live settings, and the middle of the range for what is not named.
    pub begins: Params,
    /// What earlier experiments measured.
    pub earlier: Vec<EarlierTrial>,
    /// The search ends when no candidate is expected to be better than the best by as much fitness as this.
    pub stop_below: f64,
}

impl Plan {
    /// Returns the plan of an experiment that starts from the `live` settings and has this much `experience`.
    ///
    /// Where it is known how small an effect a validation tells from none, a smaller one is nothing to search for.
    pub fn of(experiment: &Experiment, config: &Config, live: Params, experience: &Experience) -> Plan {
        let spec = &experiment.spec;
        let spends_all = config.stop_below == 0.0;
        let resolves = experience.resolves.filter(|_| !spends_all);
        Plan {
            space: SearchSpace::of(spec).within(experience.limits.clone()),
            budget: spec.budget,
            lot_max: config.lot_max,
            seed: experiment.seed,
            live,
            begins: Params::new(),
            earlier: experience.trials.clone(),
            stop_below: config.stop_below.max(resolves.unwrap_or_default()).ln_1p(),
        }
    }
}

/// One search: a budget of generations, each handed out in lots.
#[derive(Clone, Debug)]
pub struct Search {
    plan: Plan,
    space: Space,
    engine: kloros_search::Search,
    told: BTreeMap<Slot, (Candidate, Told)>,
    /// Where in the budget the engine's candidates stand, in the order of their ids.
    places: Vec<Slot>,
    /// Whether it would have ended within a generation, which is filled all the same.
    fills: bool,
}

/// A place in the budget, from 0: the candidates of all generations counted through.
type Slot = u32;

impl Search {
    /// Returns a search that begins with the live settings, or why its space cannot be searched.
    ///
    /// The same plan and results give the same candidates.
    pub fn new(plan: Plan) -> Result<Search, String> {
        let (plan, space) = match plan.space.checked() {
            Ok(space) => (plan, space),
            // The smallest of what constraints leave is never too much.
            Err(_) if !plan.space.limits.is_empty() => {
                let unlimited = plan.space.clone().within(Vec::new());
                let space = unlimited.checked()?;
                (Plan { space: unlimited, ..plan }, space)
            }
            Err(why) => return Err(why),
        };
        let engine = engine(&plan, &space, Some(plan.stop_below));
        Ok(Search { plan, space, engine, told: BTreeMap::new(), places: Vec::new(), fills: false })
    }

    /// Returns what to measure next: the candidates of the current lot of which no result was told yet.
    ///
    /// The same ones are returned until their results are told. None are returned when the search is over. That no candidate is
    /// worth it ends a search between two generations: what is expected is a model's word, and the rest of the generation holds
    /// it against the service once more.
    pub fn ask(&mut self) -> Vec<Candidate> {
        let size = self.plan.budget.max_candidates;
        if self.told.len() as u32 >= slots(self.plan.budget) || self.has_filled() {
            return Vec::new();
        }
        // Lots never reach over the end of a generation.
        let left = size - self.free().next().unwrap_or_default() % size;
        let count = self.plan.lot_max.max(1).min(left);
        let mut asked = self.engine.ask(count);
        if asked.is_empty() && left < size && self.engine.ended() == Some(Ended::Stopped) {
            self.fills = true;
            self.begin_anew();
            asked = self.engine.ask(count);
        }
        for candidate in &asked {
            if candidate.id as usize > self.places.len() {
                let place = self.free().find(|place| !self.places.contains(place));
                self.places.push(place.unwrap_or_default());
            }
        }
        asked.into_iter().filter_map(|candidate| self.candidate(candidate.id, &candidate.config)).collect()
    }

    /// Returns whether the generation is whole in which it would have ended.
    fn has_filled(&self) -> bool {
        self.fills && self.free().next().is_none_or(|slot| slot.is_multiple_of(self.plan.budget.max_candidates))
    }

    /// Returns the places without a result.
    fn free(&self) -> impl Iterator<Item = Slot> {
        (0..slots(self.plan.budget)).filter(|slot| !self.told.contains_key(slot))
    }

    /// Takes the result of a candidate. A second result of the same place, and a place outside the budget, count for
    /// nothing; a fitness that is no finite number is a failure of the bench.
    pub fn tell(&mut self, candidate: &Candidate, told: Told) {
        let Budget { max_candidates, max_generations, .. } = self.plan.budget;
        let inside =
            (1..=max_candidates).contains(&candidate.number) && (1..=max_generations).contains(&candidate.generation);
        if !inside {
            return;
        }
        let told = match told {
            Told::Fitness(fitness) if !fitness.is_finite() => Told::Failed(FailureKind::BenchFailed),
            told => told,
        };
        let slot = (candidate.generation - 1).saturating_mul(max_candidates).saturating_add(candidate.number - 1);
        if self.told.contains_key(&slot) {
            return;
        }
        let is_asked = self.ask().contains(candidate);
        let id = self.id_of(slot);
        self.told.insert(slot, (candidate.clone(), told));
        if id.filter(|_| is_asked).is_none_or(|id| self.engine.tell(id, self.outcome(slot, told)).is_err()) {
            self.begin_anew();
        }
    }

    /// Returns the last generation of which every candidate was told, from 1; `None` before the first is whole.
    ///
    /// A generation that ends early, because no setting is left that was not measured, is whole too.
    pub fn generation_done(&self) -> Option<u32> {
        let size = self.plan.budget.max_candidates;
        let told = self.told.len() as u32;
        if self.done() {
            return self.told.keys().next_back().map(|slot| slot / size + 1);
        }
        told.checked_div(size).filter(|generation| *generation > 0)
    }

    /// Returns whether nothing is left to measure; that nothing is worth it shows when it is asked for.
    pub fn done(&self) -> bool {
        self.told.len() as u32 >= slots(self.plan.budget) || self.engine.ended().is_some() || self.has_filled()
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
        let fitness = |(candidate, told)| match told {
            &Told::Fitness(fitness) => Some((candidate, fitness)),
            Told::Tripped | Told::Failed(_) => None,
        };
        let measured = self.told.values().map(|(candidate, told)| (candidate, told)).filter_map(fitness);
        measured.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Returns the settings of which the most is to be expected, which are not always those with the largest number.
    pub fn favourite(&self) -> Option<&Params> {
        let place = self.engine.recommendation()?.id as usize - 1;
        self.told.get(self.places.get(place)?).map(|(candidate, _)| &candidate.params)
    }

    /// Returns how much better these settings are than the live ones by what was told; `None` if they were not measured.
    pub fn gain(&self, params: &Params) -> Option<kloros_search::Gain> {
        // By its place: what was rounded for a person to read is not quite the point that the engine asked.
        let (slot, _) = self.told.iter().find(|(_, (candidate, _))| candidate.params == *params)?;
        self.engine.gain_of(self.id_of(*slot)?)
    }

    /// Returns how much each parameter matters by these results of a search like this one, which may be another; or why that
    /// cannot be told.
    pub fn importance(&self, told: &[(Params, Told)]) -> Result<Importance, Unclear> {
        let outcome = |(params, told): &(Params, Told)| {
            let outcome = if *params == self.plan.live { self.outcome(0, *told) } else { outcome_of(*told) };
            (self.plan.space.point_of(params), outcome)
        };
        let outcomes: Vec<(Point, Outcome)> = told.iter().map(outcome).collect();
        kloros_search::importance(&self.space, &outcomes, is_noisy(&self.plan, &self.space), self.plan.seed)
    }

    /// Returns by which id the engine knows what stands at this place, if it does.
    fn id_of(&self, slot: Slot) -> Option<u32> {
        self.places.iter().zip(1..).find(|(place, _)| **place == slot).map(|(_, id)| id)
    }

    fn candidate(&self, id: u32, point: &Point) -> Option<Candidate> {
        let size = self.plan.budget.max_candidates;
        let slot = *self.places.get(id as usize - 1)?;
        let params = if slot == 0 { self.plan.live.clone() } else { self.plan.space.params_of(point) };
        Some(Candidate { generation: slot / size + 1, number: slot % size + 1, params })
    }

    /// Goes on from what was told when it is not what would be asked: the journal was written by other lots, or by an older
    /// search. Each result then counts for what it is.
    fn begin_anew(&mut self) {
        self.engine = engine(&self.plan, &self.space, Some(self.plan.stop_below).filter(|_| !self.fills));
        self.places.clear();
        for (slot, (candidate, told)) in &self.told {
            let outcome = self.outcome(*slot, *told);
            if self.engine.record(&self.plan.space.point_of(&candidate.params), outcome) {
                self.places.push(*slot);
            }
        }
    }

    /// Returns what the engine is told. Live settings that are forbidden teach nothing: no point is near them.
    fn outcome(&self, slot: Slot, told: Told) -> Outcome {
        let is_foreign = slot == 0 && self.space.nearest(&self.plan.space.point_of(&self.plan.live)).is_none();
        if is_foreign { Outcome::Lost } else { outcome_of(told) }
    }
}

fn slots(budget: Budget) -> Slot {
    budget.max_candidates.saturating_mul(budget.max_generations)
}

fn engine(plan: &Plan, space: &Space, stop_below: Option<f64>) -> kloros_search::Search {
    let mut default = plan.space.point_of(&plan.begins);
    default.extend(plan.space.point_of(&plan.live));
    let options = Options {
        budget: slots(plan.budget),
        batch: plan.lot_max,
        seed: plan.seed,
        default: Some(default),
        noisy: is_noisy(plan, space),
        warm: plan.earlier.iter().map(|trial| warm(&plan.space, trial)).collect(),
        stop_below,
    };
    kloros_search::Search::new(space.clone(), options)
}

fn warm(space: &SearchSpace, trial: &EarlierTrial) -> Earlier {
    let outcome = trial.fitness.map_or(Outcome::Failed, |fitness| Outcome::Value(-fitness));
    Earlier { config: space.point_of(&trial.params), outcome, age: trial.age_days, distance: trial.distance }
}

/// A space that can be measured whole is, once; elsewhere the best of what was measured may be luck.
fn is_noisy(plan: &Plan, space: &Space) -> bool {
    space.size_max().is_none_or(|size| size > u64::from(slots(plan.budget)))
}

fn outcome_of(told: Told) -> Outcome {
    match told {
        Told::Fitness(fitness) => Outcome::Value(-fitness),
        // The settings are not to blame for it.
        Told::Failed(kind) if kind.is_of_circumstances() => Outcome::Lost,
        Told::Tripped | Told::Failed(_) => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use std::collections::BTreeSet;

    use super::*;
    use crate::facts::{KnobKind, Value};

    fn space(axes: &[(&str, KnobKind)]) -> SearchSpace {
        let params = axes.iter().map(|(name, kind)| ((*name).to_owned(), kind.clone().into())).collect();
        SearchSpace { params, ..SearchSpace::default() }
    }

    fn plan(space: SearchSpace, budget: Budget, lot_max: u32, seed: u64, live: Params) -> Plan {
        let (begins, earlier) = (Params::new(), Vec::new());
        Plan { space, budget, lot_max, seed, live, begins, earlier, stop_below: 0.0 }
    }

    fn made(space: SearchSpace, budget: Budget, lot_max: u32, seed: u64, live: Params) -> Search {
        Search::new(plan(space, budget, lot_max, seed, live)).unwrap()
    }

    fn mixed_space() -> SearchSpace {
        space(&[
            ("batch", KnobKind::Integer { min: 1, max: 512, log: true, step: None }),
            ("cache", KnobKind::Float { min: 0.5, max: 0.95, log: false, step: None }),
            ("eager", KnobKind::Boolean {}),
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

    /// Something repeatable that looks like noise: the same for the same candidate of the same search.
    fn noise(seed: u64, candidate: &Candidate) -> f64 {
        let slot = u64::from(candidate.generation * 1000 + candidate.number);
        let mut rng = StdRng::seed_from_u64(seed ^ (slot << 32));
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
        Budget::of(max_candidates, max_generations)
    }

    fn is_inside(params: &Params) -> bool {
        let space = mixed_space().params;
        space.len() == params.len() && params.iter().all(|(name, value)| space[name].range.refuses(value).is_none())
    }

    fn drawn(rng: &mut StdRng) -> Params {
        let draw = |kind: &KnobKind, rng: &mut StdRng| match kind {
            KnobKind::Integer { max, .. } => Value::Integer((*max as f64).powf(rng.random()).round() as i64),
            KnobKind::Float { min, max, .. } => Value::Float(rng.random_range(*min..*max)),
            KnobKind::Boolean {} => Value::Boolean(rng.random()),
            KnobKind::Choice { values } => Value::Choice(values[rng.random_range(0..values.len())].clone()),
            KnobKind::Ordinal { values } => values[rng.random_range(0..values.len())].clone(),
        };
        mixed_space().params.iter().map(|(name, each)| (name.clone(), draw(&each.range, rng))).collect()
    }

    /// Compares the true worth of what the search favours with that of the best of as many points by chance, as it was
    /// measured: the median over nine seeds.
    #[test]
    fn a_search_finds_more_than_chance_does() {
        for world in [hill, cliff] {
            let (mut found, mut by_chance) = (Vec::new(), Vec::new());
            for seed in 0..9 {
                let mut search = made(mixed_space(), budget(12, 4), 4, seed, live());
                run(&mut search, seed, world);
                found.push(world(search.favourite().unwrap()).unwrap());
                let mut rng = StdRng::seed_from_u64(seed);
                let points = (1..=48).map(|number| Candidate { generation: 1, number, params: drawn(&mut rng) });
                let measured = points.filter_map(|candidate| match measured(world, seed, &candidate) {
                    Told::Fitness(fitness) => Some((fitness, candidate)),
                    Told::Tripped | Told::Failed(_) => None,
                });
                let best = measured.max_by(|one, other| one.0.total_cmp(&other.0)).unwrap().1;
                by_chance.push(world(&best.params).unwrap());
            }
            let (found, by_chance) = (median(found), median(by_chance));
            assert!(found > by_chance, "{found} found, {by_chance} by chance");
        }
    }

    fn median(mut numbers: Vec<f64>) -> f64 {
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    }

    #[test]
    fn the_live_settings_are_the_first_candidate_even_when_they_lie_outside_the_space() {
        let mut outside = live();
        outside.insert("batch".to_owned(), Value::Integer(100_000));
        let mut search = made(mixed_space(), budget(12, 4), 4, 7, outside.clone());
        let lot = search.ask();
        assert_eq!((lot.len(), lot[0].generation, lot[0].number), (4, 1, 1));
        assert_eq!(lot[0].params, outside);
        assert!(lot[1..].iter().all(|candidate| is_inside(&candidate.params)));
    }

    #[test]
    fn a_lot_is_asked_for_again_until_it_is_told() {
        let mut search = made(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        assert_eq!(search.ask(), lot);
        search.tell(&lot[1], Told::Fitness(0.1));
        assert_eq!(search.ask(), [&lot[..1], &lot[2..]].concat());
    }

    #[test]
    fn a_result_told_twice_counts_once() {
        let mut search = made(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        search.tell(&lot[0], Told::Fitness(0.0));
        search.tell(&lot[0], Told::Fitness(9.0));
        search.tell(&lot[1], Told::Failed(FailureKind::Died));
        assert_eq!((search.evaluated(), search.failed()), (2, 1));
        assert_eq!(search.best(), Some((&lot[0], 0.0)));
    }

    #[test]
    fn a_fitness_that_is_no_number_is_a_failure() {
        let mut search = made(mixed_space(), budget(12, 4), 4, 7, live());
        let lot = search.ask();
        search.tell(&lot[0], Told::Fitness(f64::NAN));
        assert_eq!((search.failed(), search.best()), (1, None));
    }

    #[test]
    fn a_place_outside_the_budget_is_not_taken() {
        let mut search = made(mixed_space(), budget(2, 1), 4, 7, live());
        for (generation, number) in [(0, 1), (1, 0), (2, 1), (1, 3), (u32::MAX, u32::MAX)] {
            search.tell(&Candidate { generation, number, params: live() }, Told::Fitness(1.0));
        }
        assert_eq!(search.evaluated(), 0);
        let mut nothing = made(mixed_space(), budget(0, 4), 4, 7, live());
        assert!(nothing.ask().is_empty() && nothing.done() && nothing.generation_done().is_none());
    }

    #[test]
    fn a_small_space_is_searched_whole_and_then_the_search_is_done() {
        let space = space(&[
            ("eager", KnobKind::Boolean {}),
            ("policy", KnobKind::Choice { values: ["fcfs", "sjf", "prio"].map(str::to_owned).to_vec() }),
        ]);
        let mut search = made(space, budget(12, 4), 4, 7, live());
        let trials = run(&mut search, 7, |_| Some(1.0));
        assert_eq!(trials.len(), 6);
        assert!(search.done());
        assert_eq!(search.generation_done(), Some(1));
    }

    /// Once a generation that the search ended in counted as whole.
    #[test]
    fn a_search_that_expects_nothing_more_fills_its_generation_and_goes_on_so_after_a_restart() {
        for (candidates, expected) in [(12, 12), (8, 16), (5, 10), (1, 9)] {
            let fresh = || {
                let plan =
                    Plan { stop_below: 5.0, ..plan(mixed_space(), budget(candidates, 48 / candidates), 1, 7, live()) };
                Search::new(plan).unwrap()
            };
            let mut search = fresh();
            let trials = run(&mut search, 7, hill);
            assert_eq!(trials.len(), expected, "generations of {candidates}");
            assert!(search.done() && search.ask().is_empty());
            assert_eq!(search.generation_done(), Some(expected as u32 / candidates));
            for told in 0..expected {
                let mut resumed = fresh();
                for (candidate, outcome) in &trials[..told] {
                    resumed.tell(candidate, *outcome);
                }
                assert_eq!(run(&mut resumed, 7, hill), trials[told..], "generations of {candidates}, after {told}");
            }
        }
    }

    #[test]
    fn what_a_validation_cannot_tell_from_none_is_not_searched_for_unless_the_whole_budget_is_to_be_spent() {
        let stop_below = |configured: f64, resolves| {
            let (experiment, config) =
                (crate::testing::experiment(), Config { stop_below: configured, ..Config::default() });
            let experience =
                Experience { experiment: experiment.id.clone(), trials: Vec::new(), resolves, limits: Vec::new() };
            Plan::of(&experiment, &config, Params::new(), &experience).stop_below.exp_m1()
        };
        for (configured, resolves, expected) in
            [(0.003, None, 0.003), (0.003, Some(0.012), 0.012), (0.02, Some(0.012), 0.02), (0.0, Some(0.012), 0.0)]
        {
            let found = stop_below(configured, resolves);
            assert!((found - expected).abs() < 1e-12, "{configured} {resolves:?}: {found}");
        }
    }

    #[test]
    fn a_generation_is_done_when_its_last_candidate_is_told() {
        let mut search = made(mixed_space(), budget(6, 2), 4, 7, live());
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
    fn a_search_of_nothing_but_failures_goes_on_looking() {
        let mut search = made(mixed_space(), budget(8, 3), 4, 7, live());
        assert_eq!(run(&mut search, 7, |_| None).len(), 24);
        assert_eq!((search.failed(), search.best()), (24, None));
    }

    /// Steps, ordinals, conditions on conditions, constraints in a chain, and forbidden combinations.
    fn coupled_space() -> SearchSpace {
        let params = serde_json::json!({
            "batch": {"kind": "integer", "min": 1, "max": 512, "log": true},
            "micro": {"kind": "integer", "min": 2, "max": 64, "step": 2},
            "tier": {"kind": "ordinal", "values": [1, 2, 4, 8, 16]},
            "cache": {"kind": "float", "min": 0.5, "max": 0.95, "step": 0.05},
            "spec": {"kind": "boolean"},
            "tokens": {"kind": "integer", "min": 1, "max": 8, "when": {"param": "spec", "in": [true]}},
            "draft": {"kind": "choice", "values": ["small", "large"], "when": {"param": "spec", "in": [true]}},
            "depth": {"kind": "ordinal", "values": ["low", "high"], "when": {"param": "draft", "in": ["large"]}},
        });
        let forbidden = serde_json::json!([{"spec": true, "tier": 16}, {"draft": "large", "cache": 0.95}]);
        SearchSpace {
            params: serde_json::from_value(params).unwrap(),
            constraints: ["tier <= micro", "micro <= batch"].map(str::to_owned).to_vec(),
            forbidden: serde_json::from_value(forbidden).unwrap(),
            limits: Vec::new(),
        }
    }

    /// Says what of the coupled space `params` do not keep, without asking the engine.
    fn broken(params: &Params) -> Option<String> {
        let space = coupled_space();
        let has = |name: &str, wanted: &[Value]| params.get(name).is_some_and(|value| wanted.contains(value));
        for (name, dimension) in &space.params {
            let active = dimension.when.as_ref().is_none_or(|when| has(&when.param, &when.r#in));
            match params.get(name) {
                Some(_) if !active => return Some(format!("{name} means nothing here")),
                None if active => return Some(format!("{name} is not set")),
                Some(value) => {
                    if let Some(why) = dimension.range.refuses(value) {
                        return Some(format!("{name}: {why}"));
                    }
                }
                None => {}
            }
        }
        let is_above = |left: &str, right: &str| number(params, left) > number(params, right);
        let above = is_above("tier", "micro") || is_above("micro", "batch");
        let forbidden = |all: &Params| all.iter().all(|(name, value)| has(name, std::slice::from_ref(value)));
        (above || space.forbidden.iter().any(forbidden)).then(|| "together they may not be".to_owned())
    }

    fn coupled_live(batch: i64, micro: i64, tier: i64, spec: bool) -> Params {
        let all = [
            ("batch", Value::Integer(batch)),
            ("micro", Value::Integer(micro)),
            ("tier", Value::Integer(tier)),
            ("cache", Value::Float(0.95)),
            ("spec", Value::Boolean(spec)),
            ("tokens", Value::Integer(5)),
            ("draft", Value::Choice("large".to_owned())),
            ("depth", Value::Choice("low".to_owned())),
        ];
        coupled_space().active(&all.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// The same for the same settings; a tenth of them fail.
    fn rugged(params: &Params) -> Option<f64> {
        let digits = crate::facts::short_hash(&[&format!("{params:?}")]);
        let number = f64::from(u32::from_str_radix(&digits[..4], 16).unwrap()) / 65536.0;
        (number > 0.1).then(|| number - (f64::from(params.contains_key("depth")) - 0.5).powi(2))
    }

    #[test]
    fn live_settings_outside_the_space_are_first_all_the_same_and_everything_else_is_inside() {
        let table = [
            ("inside", coupled_live(64, 8, 4, false)),
            ("above the range", coupled_live(4096, 8, 4, false)),
            ("off the step", coupled_live(64, 7, 4, false)),
            ("not in the list", coupled_live(64, 8, 3, false)),
            ("against a constraint", coupled_live(4, 32, 4, false)),
            ("forbidden", coupled_live(64, 32, 16, true)),
            ("without a parameter", [("spec".to_owned(), Value::Boolean(false))].into()),
            ("nothing", Params::new()),
        ];
        for (what, live) in table {
            let mut search = made(coupled_space(), budget(6, 3), 4, 7, live.clone());
            let trials = run(&mut search, 7, rugged);
            assert_eq!(trials.len(), 18, "{what}");
            assert_eq!(trials[0].0.params, live, "{what}");
            for (candidate, _) in &trials[1..] {
                assert_eq!(broken(&candidate.params), None, "{what}: {:?}", candidate.params);
            }
            let mut resumed = made(coupled_space(), budget(6, 3), 4, 7, live);
            for (candidate, told) in &trials[..7] {
                resumed.tell(candidate, *told);
            }
            assert_eq!(run(&mut resumed, 7, rugged), trials[7..], "{what}");
        }
    }

    /// Once the settings were looked for by the point that they stand for: what is rounded, or has parameters without a meaning
    /// beside the others, was not found again, and the experiment claimed nothing.
    #[test]
    fn what_the_search_favours_has_a_gain_also_after_it_began_anew() {
        let axes = [("rate", KnobKind::Float { min: 0.001, max: 100.0, log: true, step: None })];
        let live: Params = [("rate".to_owned(), Value::Float(0.02))].into();
        let rate = |params: &Params| Some(-(number(params, "rate") / 7.0).ln().powi(2));
        let mut logarithmic = made(space(&axes), budget(6, 3), 4, 7, live.clone());
        let trials = run(&mut logarithmic, 7, rate);
        let mut anew = made(space(&axes), budget(6, 3), 3, 7, live);
        let mut spec = coupled_live(64, 8, 4, true);
        spec.insert("cache".to_owned(), Value::Float(0.9));
        let mut conditional = made(coupled_space(), budget(12, 3), 4, 7, spec);
        run(&mut conditional, 7, |params| Some(-number(params, "tier") - 5.0 * number(params, "spec")));
        for (candidate, told) in &trials[..15] {
            anew.tell(candidate, *told);
        }
        run(&mut anew, 7, rate);
        for search in [logarithmic, conditional, anew] {
            let favourite = search.favourite().expect("live settings that were measured").clone();
            let gain = search.gain(&favourite).expect("a gain").gain;
            assert!(gain > 0.0, "{favourite:?}");
            for (candidate, _) in search.told.values() {
                assert!(search.gain(&candidate.params).is_some(), "{:?}", candidate.params);
            }
        }
    }

    #[test]
    fn a_parameter_that_means_nothing_beside_the_live_settings_begins_where_the_plan_says() {
        let params = serde_json::json!({
            "spec": {"kind": "boolean"},
            "tokens": {"kind": "integer", "min": 1, "max": 99, "when": {"param": "spec", "in": [true]}},
        });
        let space = SearchSpace { params: serde_json::from_value(params).unwrap(), ..SearchSpace::default() };
        let with = |spec, tokens: Option<i64>| -> Params {
            let tokens = tokens.map(|tokens| ("tokens".to_owned(), Value::Integer(tokens)));
            [("spec".to_owned(), Value::Boolean(spec))].into_iter().chain(tokens).collect()
        };
        let plan = made(space, budget(6, 1), 1, 7, with(false, None)).plan;
        let begins = [("spec".to_owned(), Value::Boolean(true)), ("tokens".to_owned(), Value::Integer(7))].into();
        let trials = run(&mut Search::new(Plan { begins, ..plan }).unwrap(), 7, |_| Some(1.0));
        assert_eq!(trials[0].0.params, with(false, None));
        assert!(trials.iter().any(|(candidate, _)| candidate.params == with(true, Some(7))), "{trials:?}");
    }

    /// Once the first candidate of the new engine was taken for the live settings, and gains were counted from it.
    #[test]
    fn live_settings_that_are_forbidden_are_no_other_candidate_after_it_began_anew() {
        let live = coupled_live(64, 32, 16, true);
        let trials = run(&mut made(coupled_space(), budget(6, 3), 4, 7, live.clone()), 7, rugged);
        for lot_max in [4, 3] {
            let mut search = made(coupled_space(), budget(6, 3), lot_max, 7, live.clone());
            for (candidate, told) in &trials[..10] {
                search.tell(candidate, *told);
            }
            run(&mut search, 7, rugged);
            assert_eq!(search.evaluated(), 18);
            let gains = search.told.values().filter_map(|(candidate, _)| search.gain(&candidate.params));
            assert_eq!(gains.count(), 0, "in lots of {lot_max}");
            let favourite = search.favourite().unwrap();
            assert_ne!(*favourite, live);
            assert!(rugged(favourite).is_some());
        }
    }

    /// A space in which the search soon comes to what it has, so that nothing but knowing it again keeps it from a repeat.
    #[test]
    fn lots_cut_differently_repeat_no_point_of_a_small_space_with_conditions() {
        let params = serde_json::json!({
            "spec": {"kind": "boolean"},
            "tokens": {"kind": "integer", "min": 1, "max": 12, "when": {"param": "spec", "in": [true]}},
            "depth": {"kind": "integer", "min": 1, "max": 12, "when": {"param": "spec", "in": [false]}},
        });
        let small =
            || SearchSpace { params: serde_json::from_value(params.clone()).unwrap(), ..SearchSpace::default() };
        let live: Params = [("spec".to_owned(), Value::Boolean(true)), ("tokens".to_owned(), Value::Integer(8))].into();
        for seed in 0..8 {
            let trials = run(&mut made(small(), budget(12, 2), 4, seed, live.clone()), seed, rugged);
            let mut resumed = made(small(), budget(12, 2), 3, seed, live.clone());
            for (candidate, told) in &trials[..13] {
                resumed.tell(candidate, *told);
            }
            run(&mut resumed, seed, rugged);
            let names: BTreeSet<String> = resumed.told.values().map(|(c, _)| format!("{:?}", c.params)).collect();
            assert_eq!(names.len(), 24, "seed {seed}");
        }
    }

    proptest! {
        // Each case is one or two whole searches.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn candidates_are_new_within_bounds_and_within_budget(
            seed: u64, candidates in 1_u32..15, generations in 1_u32..5, lot_max in 0_u32..20,
        ) {
            let mut search = made(mixed_space(), budget(candidates, generations), lot_max, seed, live());
            let trials = run(&mut search, seed, cliff);
            prop_assert_eq!(trials.len(), (candidates * generations) as usize);
            prop_assert!(trials.iter().all(|(candidate, _)| is_inside(&candidate.params)));
            let names: BTreeSet<String> = trials.iter().map(|(c, _)| format!("{:?}", c.params)).collect();
            prop_assert_eq!(names.len(), trials.len());
            let places: Vec<_> = trials.iter().map(|(c, _)| (c.generation, c.number)).collect();
            let expected: Vec<_> = (1..=generations).flat_map(|g| (1..=candidates).map(move |n| (g, n))).collect();
            prop_assert_eq!(places, expected);
        }

        #[test]
        fn candidates_keep_steps_conditions_constraints_and_what_is_forbidden(
            seed: u64, lot_max in 1_u32..9, batch in 1_i64..600, micro in 0_i64..70, tier in 0_i64..20, spec: bool,
        ) {
            let mut search = made(coupled_space(), budget(12, 3), lot_max, seed, coupled_live(batch, micro, tier, spec));
            let trials = run(&mut search, seed, rugged);
            prop_assert_eq!(trials.len(), 36);
            for (candidate, _) in &trials[1..] {
                prop_assert_eq!(broken(&candidate.params), None, "{:?}", candidate.params);
            }
            let names: BTreeSet<String> = trials.iter().map(|(c, _)| format!("{:?}", c.params)).collect();
            prop_assert_eq!(names.len(), trials.len());
        }

        #[test]
        fn a_search_that_is_told_a_journal_goes_on_where_the_journal_ends(seed: u64, told in 0_usize..48) {
            let fresh = || made(mixed_space(), budget(12, 4), 4, seed, live());
            let trials = run(&mut fresh(), seed, cliff);
            let mut resumed = fresh();
            for (candidate, told) in &trials[..told] {
                resumed.tell(candidate, *told);
            }
            prop_assert_eq!(run(&mut resumed, seed, cliff), trials[told..].to_vec());
        }

        #[test]
        fn a_lot_told_in_any_order_before_a_restart_is_completed_the_same(seed: u64, lots in 0_usize..10, mask: u8) {
            let fresh = || made(mixed_space(), budget(12, 4), 4, seed, live());
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
            let trials = run(&mut made(mixed_space(), budget(12, 4), 4, seed, live()), seed, cliff);
            let mut resumed = made(mixed_space(), budget(12, 4), lot_max, seed, live());
            for (candidate, told) in trials.iter().take(told).step_by(2) {
                resumed.tell(candidate, *told);
            }
            run(&mut resumed, seed, cliff);
            let names: BTreeSet<String> = resumed.told.values().map(|(c, _)| format!("{:?}", c.params)).collect();
            prop_assert_eq!(names.len(), 48);
        }
    }
}

//! The search itself: what was asked, what was told, and what comes next.

use std::collections::BTreeSet;

use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    design,
    feasibility::Feasibility,
    model::{Known, Model, feasibility},
    space::{Config, Point, Space},
};

/// The most candidates of a lot: more at once know too little of each other's results.
const LOT_MAX: u32 = 4;

/// After so many days an earlier result is trusted half as much.
const TRUST_HALVED_AFTER: f64 = 30.0;

/// What is trusted less than this is left out.
const TRUST_MIN: f64 = 0.02;

/// The variance that an earlier result has beside that of its noise, in units of the variance of all values.
const EARLIER_VARIANCE: f64 = 0.05;

/// How many points are drawn when none was planned.
const DRAWS: usize = 64;

/// What a search is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// How many measurements there may be, repeats and failures included.
    pub budget: u32,
    /// How many measurements run at once; a lot never has more candidates than that, nor more than 4.
    pub batch: u32,
    /// What decides between equally good ways.
    pub seed: u64,
    /// The setting in use: it is measured first, and nothing worse is recommended.
    pub default: Option<Config>,
    /// Whether two measurements of one setting differ; then the search repeats some.
    pub noisy: bool,
    /// Results of earlier searches of the same space, on the same scale.
    pub warm: Vec<Earlier>,
    /// Ends the search when no further measurement is expected to better the best value by as much as this.
    pub stop_below: Option<f64>,
}

impl Default for Options {
    fn default() -> Options {
        Options { budget: 48, batch: LOT_MAX, seed: 0, default: None, noisy: false, warm: Vec::new(), stop_below: None }
    }
}

/// A result of an earlier search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    /// What was set.
    pub config: Config,
    /// What came of it.
    pub outcome: Outcome,
    /// How old it is, in days; it counts half after 30.
    pub age: f64,
    /// How different the conditions were, from 0, the same, to 1, nothing in common.
    pub distance: f64,
}

/// One setting to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// What to tell its outcome by; the first is 1.
    pub id: u32,
    /// What to set.
    pub config: Config,
}

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was measured; smaller is better. A number that is not finite counts as a failure.
    Value(f64),
    /// It could not be measured: it crashed, hung, or was refused.
    Failed,
}

/// Why an outcome was not taken. The search is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// There is no such candidate.
    #[error("no candidate has the id {id}: tell the id that was asked")]
    Unknown {
        /// The id.
        id: u32,
    },
    /// Its outcome is known already.
    #[error("the outcome of candidate {id} was told before: tell each once")]
    Twice {
        /// The id.
        id: u32,
    },
}

/// Why nothing more is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// The budget is used up.
    Spent,
    /// No setting is left that was not measured.
    Exhausted,
    /// No further measurement is expected to matter; see [`Options::stop_below`].
    Stopped,
}

/// What to set, from what is known now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The setting, one that was measured.
    pub config: Config,
    /// The value to expect.
    pub mean: f64,
    /// Where the true value is with a chance of 95 %.
    pub interval: (f64, f64),
    /// How much better than the default, 0 for the default itself; `None` if no default was measured.
    pub gain: Option<f64>,
    /// Where the true gain is with a chance of 95 %, shrunk because the best of many looks better than it is.
    pub gain_interval: Option<(f64, f64)>,
}

/// One measurement: asked, perhaps told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) point: Point,
    pub(crate) outcome: Option<Outcome>,
}

/// A search under way. Written out and read back, it goes on with the same candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    space: Space,
    options: Options,
    /// The default as a point, or the middle of the space without one.
    home: Point,
    /// In the order of their ids, from 1.
    trials: Vec<Trial>,
    ended: Option<Ended>,
    /// The parameters of the last fit, from which the next one starts.
    parameters: Option<Vec<f64>>,
}

impl Search {
    /// Returns a search that begins with the default, or the valid setting nearest to it.
    ///
    /// The same arguments and outcomes give the same candidates.
    pub fn new(space: Space, options: Options) -> Search {
        let home = options.default.as_ref().and_then(|config| space.encode(config));
        let home = home.or_else(|| space.encode(&Config::new()));
        let home = home.unwrap_or_else(|| {
            let center = space.center();
            space.random(&center, &mut StdRng::seed_from_u64(options.seed)).unwrap_or(center)
        });
        Search { space, options, home, trials: Vec::new(), ended: None, parameters: None }
    }

    /// Returns at most so many candidates to measure: those whose outcome is not told yet, the same ones each time;
    /// when every outcome is told, a new lot.
    ///
    /// None are returned when the search has [ended](Search::ended). A lot is made from all outcomes before it, so
    /// small lots find better settings than large ones.
    pub fn ask(&mut self, at_most: u32) -> Vec<Candidate> {
        if self.open().is_empty() && at_most > 0 {
            self.compose(at_most);
        }
        let mut open = self.open();
        open.truncate(at_most as usize);
        open
    }

    /// Takes the outcome of a candidate.
    pub fn tell(&mut self, id: u32, outcome: Outcome) -> Result<(), TellError> {
        let index = (id as usize).checked_sub(1);
        let trial = index.and_then(|index| self.trials.get_mut(index)).ok_or(TellError::Unknown { id })?;
        if trial.outcome.is_some() {
            return Err(TellError::Twice { id });
        }
        trial.outcome = Some(match outcome {
            Outcome::Value(value) if value.is_finite() => outcome,
            Outcome::Value(_) | Outcome::Failed => Outcome::Failed,
        });
        Ok(())
    }

    /// Returns how many outcomes are still to be told until the budget is spent; 0 when the search has ended.
    pub fn remaining(&self) -> u32 {
        let told = self.trials.iter().filter(|trial| trial.outcome.is_some()).count() as u32;
        match self.ended() {
            Some(_) => 0,
            None if self.ended.is_some() => self.trials.len() as u32 - told,
            None => self.options.budget.saturating_sub(told),
        }
    }

    /// Returns why nothing more is asked; `None` while something is.
    pub fn ended(&self) -> Option<Ended> {
        let open = self.trials.iter().any(|trial| trial.outcome.is_none());
        let spent = self.trials.len() as u32 >= self.options.budget;
        if open { None } else { self.ended.or(spent.then_some(Ended::Spent)) }
    }

    /// Returns the setting to use; `None` while nothing was measured.
    pub fn recommendation(&self) -> Option<Recommendation> {
        let measured = self.trials.iter().filter_map(|trial| match trial.outcome {
            Some(Outcome::Value(value)) => Some((&trial.point, value)),
            _ => None,
        });
        let (point, mean) = measured.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let default = match self.trials.first()?.outcome {
            Some(Outcome::Value(value)) if self.options.default.is_some() => Some(value),
            _ => None,
        };
        let gain = default.map(|default| default - mean);
        let gain_interval = gain.map(|gain| (gain, gain));
        Some(Recommendation { config: self.space.decode(point), mean, interval: (mean, mean), gain, gain_interval })
    }

    fn open(&self) -> Vec<Candidate> {
        let open = self.trials.iter().zip(1..).filter(|(trial, _)| trial.outcome.is_none());
        open.map(|(trial, id)| Candidate { id, config: self.space.decode(&trial.point) }).collect()
    }

    /// Puts a new lot together; when no new point is left, the search has ended.
    fn compose(&mut self, at_most: u32) {
        let asked = self.trials.len() as u32;
        let left = self.options.budget.saturating_sub(asked);
        let count = at_most.min(self.options.batch.max(1)).min(LOT_MAX).min(left);
        if self.ended.is_some() || count == 0 {
            return;
        }
        let mut rng = StdRng::seed_from_u64(mixed(mixed(self.options.seed) ^ u64::from(asked)));
        let mut lot = Lot::new(&self.trials);
        let known = self.known();
        let mut model = None;
        let feasibility = feasibility(&self.space, &self.home, &known);
        let design = design::size(self.options.budget);
        for place in asked..asked + count {
            let planned = if place < design {
                let place = (place, design);
                design::point(&self.space, &self.home, self.options.seed, place, &feasibility, &mut rng)
            } else {
                let model = model.get_or_insert_with(|| {
                    Model::new(&self.space, &self.home, &known, self.options.noisy, self.parameters.as_deref())
                });
                model.as_mut().and_then(|model| {
                    lot.points.iter().for_each(|point| model.process.believe(point));
                    lot.points.clear();
                    Some(model.propose(&self.space, &self.home, &|point| lot.is_new(point), &mut rng)?.0)
                })
            };
            let point =
                planned.filter(|point| lot.is_new(point)).or_else(|| self.any_new(&lot, &feasibility, &mut rng));
            let Some(point) = point else {
                self.ended = Some(Ended::Exhausted);
                break;
            };
            lot.add(&point);
            self.trials.push(Trial { point, outcome: None });
        }
        if let Some(Some(model)) = model {
            self.parameters = Some(model.process.parameters().to_vec());
        }
    }

    /// Returns everything that is known, earlier searches included.
    fn known(&self) -> Vec<Known> {
        let earlier = self.options.warm.iter().filter_map(|earlier| {
            let trust =
                0.5_f64.powf(earlier.age.max(0.0) / TRUST_HALVED_AFTER) * (1.0 - earlier.distance.clamp(0.0, 1.0));
            let outcome = match earlier.outcome {
                Outcome::Value(value) if !value.is_finite() => return None,
                outcome => outcome,
            };
            let point = self.space.encode(&earlier.config)?;
            (trust > TRUST_MIN).then(|| Known { point, outcome, extra: EARLIER_VARIANCE / trust })
        });
        let told = self
            .trials
            .iter()
            .filter_map(|trial| trial.outcome.map(|outcome| Known { point: trial.point.clone(), outcome, extra: 0.0 }));
        earlier.chain(told).collect()
    }

    /// Returns a new point though none was planned: the likeliest to work of some; of a small space whatever is left.
    fn any_new(&self, lot: &Lot, feasibility: &Feasibility, rng: &mut StdRng) -> Option<Point> {
        let drawn = (0..DRAWS).filter_map(|draw| match draw % 2 {
            0 => self.space.random(&self.home, rng),
            _ => self.space.mutant(&self.home, 0.2, 0.5, &self.home, rng),
        });
        let drawn: Vec<Point> = drawn.filter(|point| lot.is_new(point)).collect();
        let chances = drawn.into_iter().map(|point| (feasibility.chance(&point), point));
        let likeliest = chances.reduce(|best, next| if next.0 > best.0 { next } else { best });
        likeliest.map(|(_, point)| point).or_else(|| {
            let all = self.space.points(&self.home)?;
            all.into_iter().find(|point| lot.is_new(point))
        })
    }
}

/// What was asked, and what of it is of the lot under way.
struct Lot {
    taken: BTreeSet<Vec<u64>>,
    /// The points of the lot that the surrogate was not told of.
    points: Vec<Point>,
}

impl Lot {
    fn new(trials: &[Trial]) -> Lot {
        Lot { taken: trials.iter().map(|trial| bits(&trial.point)).collect(), points: Vec::new() }
    }

    fn is_new(&self, point: &[f64]) -> bool {
        !self.taken.contains(&bits(point))
    }

    fn add(&mut self, point: &Point) {
        self.taken.insert(bits(point));
        self.points.push(point.clone());
    }
}

/// Returns what makes two points the same.
fn bits(point: &[f64]) -> Vec<u64> {
    point.iter().map(|unit| unit.to_bits()).collect()
}

/// Returns another number for each number, without a visible pattern (the finaliser of `SplitMix64`).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

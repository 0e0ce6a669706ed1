//! The search itself: what was asked, what was told, and what comes next.

use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::Checkpoint,
    lot::{Lot, Next},
    memo::Memo,
    model::{Known, Model},
    recommend::{advise, ahead},
    space::{Config, Point, Space, is_same},
    warm::recalled,
};

/// The most candidates of the first lot after earlier searches, the default among them.
const FIRST_WARM_LOT: u32 = 2;

/// What a search is to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    /// How many measurements there may be, repeats and failures included.
    pub budget: u32,
    /// How many measurements run at once; a lot never has more candidates than that. Where they run one after another, lots
    /// of one find better settings with as many measurements.
    pub batch: u32,
    /// What decides between equally good ways.
    pub seed: u64,
    /// The setting in use: it is measured first, and nothing worse is recommended. A value that it gives a parameter which is
    /// inactive in it is not measured with it; that is where the parameter begins when it becomes active.
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
        Options { budget: 48, batch: 1, seed: 0, default: None, noisy: false, warm: Vec::new(), stop_below: None }
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
    /// It was not measured for a reason that lies elsewhere: counts against the budget, and teaches nothing.
    Lost,
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
    /// The candidate that first measured the setting.
    pub id: u32,
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

/// How much better one setting is than the default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// How much better; below 0 if it is worse.
    pub gain: f64,
    /// Where the true gain is with a chance of 95 %, shrunk because the best of many looks better than it is. Without
    /// noise both ends are the gain.
    pub interval: (f64, f64),
    /// The deviation of one measurement; 0 without noise.
    pub noise: f64,
}

/// One measurement: asked, perhaps told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) point: Point,
    pub(crate) outcome: Option<Outcome>,
}

/// A search under way. Written out and read back, it goes on with the same candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Checkpoint")]
pub struct Search {
    pub(crate) space: Space,
    pub(crate) options: Options,
    /// The default as a point, or the middle of the space without one.
    pub(crate) home: Point,
    /// In the order of their ids, from 1.
    pub(crate) trials: Vec<Trial>,
    pub(crate) ended: Option<Ended>,
    /// The parameters of the last fit, from which the next one starts.
    pub(crate) parameters: Option<Vec<f64>>,
    #[serde(skip)]
    pub(crate) memo: Memo,
}

impl Search {
    /// Returns a search that begins with the default, or the valid setting nearest to it.
    ///
    /// The same arguments and outcomes give the same candidates.
    pub fn new(space: Space, options: Options) -> Search {
        let home = options.default.as_ref().and_then(|config| space.home(config));
        let home = home.or_else(|| space.home(&Config::new()));
        let home = home.unwrap_or_else(|| {
            let center = space.center();
            space.random(&center, &mut StdRng::seed_from_u64(options.seed)).unwrap_or(center)
        });
        Search { space, options, home, trials: Vec::new(), ended: None, parameters: None, memo: Memo::default() }
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
            Outcome::Lost => Outcome::Lost,
        });
        self.memo.told();
        Ok(())
    }

    /// Takes a measurement that was not asked, as if it had been: of the valid setting nearest to `config`. It counts
    /// against the budget, and its id is the next one. Returns false, and takes nothing, if nothing near is valid, or
    /// while candidates are open.
    pub fn record(&mut self, config: &Config, outcome: Outcome) -> bool {
        if !self.open().is_empty() {
            return false;
        }
        let Some(point) = self.point(config) else { return false };
        self.trials.push(Trial { point, outcome: None });
        self.tell(self.trials.len() as u32, outcome).is_ok()
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
        let known = self.known();
        let advice = advise(&self.space, &known, self.believed(&known), self.default())?;
        let place = self.trials.iter().position(|trial| trial.point == advice.point)?;
        Some(Recommendation {
            id: place as u32 + 1,
            config: self.config(&advice.point),
            mean: advice.mean,
            interval: advice.interval,
            gain: advice.gain.map(|(gain, _)| gain),
            gain_interval: advice.gain.map(|(_, interval)| interval),
        })
    }

    /// Returns how much better this setting is than the default; `None` if one of the two was not measured.
    pub fn gain(&self, config: &Config) -> Option<Gain> {
        let point = self.point(config)?;
        let measured = || self.trials.iter().map(|trial| &trial.point);
        let exact = measured().find(|measured| **measured == point);
        self.ahead(exact.or_else(|| measured().find(|measured| is_same(measured, &point)))?)
    }

    /// Returns how much better the setting of this candidate is than the default; `None` if one of the two was not measured.
    pub fn gain_of(&self, id: u32) -> Option<Gain> {
        let place = (id as usize).checked_sub(1)?;
        self.ahead(&self.trials.get(place)?.point)
    }

    fn ahead(&self, point: &Point) -> Option<Gain> {
        let known = self.known();
        let ahead = ahead(&self.space, &known, self.believed(&known), (self.default()?, point))?;
        Some(Gain { gain: ahead.gain, interval: ahead.interval, noise: ahead.noise })
    }

    /// Returns what is believed where there is noise; `None` without noise, or while nothing was measured.
    fn believed(&self, known: &[Known]) -> Option<&Model> {
        let fit = || Model::new(&self.space, known, true, None);
        self.options.noisy.then(|| self.memo.of_known(fit)).flatten()
    }

    /// Returns the default, if it is near anything valid; else home is another setting.
    fn default(&self) -> Option<&Point> {
        let given = self.options.default.as_ref()?;
        self.space.home(given).map(|_| &self.home)
    }

    /// Returns the point of a setting: of the default what is asked of it, also where it was moved to be valid.
    fn point(&self, config: &Config) -> Option<Point> {
        let is_default = self.options.default.as_ref() == Some(config);
        let default = self.default().filter(|_| is_default).cloned();
        default.or_else(|| self.space.encode(config, &self.home))
    }

    /// Returns the setting of a point, and of the default's just what was given: on the way to a coordinate and back a
    /// number can lose its last digit.
    fn config(&self, point: &Point) -> Config {
        let read = self.space.decode(point);
        let Some(given) = self.options.default.as_ref().filter(|_| *point == self.home) else { return read };
        let active = given.iter().filter(|(name, _)| read.contains_key(*name));
        let given: Config = active.map(|(name, value)| (name.clone(), value.clone())).collect();
        if self.space.contains(&given) { given } else { read }
    }

    fn open(&self) -> Vec<Candidate> {
        let open = self.trials.iter().zip(1..).filter(|(trial, _)| trial.outcome.is_none());
        open.map(|(trial, id)| Candidate { id, config: self.config(&trial.point) }).collect()
    }

    /// Puts a new lot together, unless the search has ended, or ends it.
    fn compose(&mut self, at_most: u32) {
        let asked = self.trials.len() as u32;
        let left = self.options.budget.saturating_sub(asked);
        // What earlier searches promise is tried once before more is built on it.
        let most = if asked == 0 && !self.options.warm.is_empty() { FIRST_WARM_LOT } else { u32::MAX };
        let count = at_most.min(self.options.batch.max(1)).min(left).min(most);
        if self.ended.is_some() || count == 0 {
            return;
        }
        let known = self.known();
        let so_far = (self.trials.as_slice(), known.as_slice());
        let mut lot = Lot::new(&self.space, &self.home, &self.options, so_far, (count, self.parameters.as_deref()));
        let mut points = Vec::new();
        for place in asked..asked + count {
            match lot.next(place) {
                Next::Point(point) => points.push(point),
                Next::Nothing => self.ended = Some(Ended::Exhausted),
                Next::Little => self.ended = Some(Ended::Stopped),
            }
            if self.ended.is_some() {
                break;
            }
        }
        self.parameters = lot.parameters().or(self.parameters.take());
        self.trials.extend(points.into_iter().map(|point| Trial { point, outcome: None }));
    }

    /// Returns everything that is known, earlier searches included.
    fn known(&self) -> Vec<Known> {
        let earlier = recalled((&self.space, &self.home), &self.options, &self.trials, &self.memo);
        let told = self
            .trials
            .iter()
            .filter_map(|trial| Some((trial.outcome.filter(|outcome| *outcome != Outcome::Lost)?, trial)))
            .map(|(outcome, trial)| Known { point: trial.point.clone(), outcome, extra: 0.0 });
        earlier.into_iter().chain(told).collect()
    }
}

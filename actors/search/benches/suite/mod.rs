//! Test problems with what a tuner is told of them, and what it is judged by.
//!
//! Invariant: the default can be measured, and is worse than the best.

mod coupled;

mod functions;

mod guarded;

mod problems;

mod service;

use kloros_search::{Config, Kind, Param, Space, SpaceSpec, Value};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

pub(crate) use problems::{COUPLED, CRASHING, GUARDED, HOLD_OUT, NOISY, TUNED, WIDE, problem};

/// A noise-free function of a setting; `None` where the measurement fails.
type Function = Box<dyn Fn(&Config) -> Option<f64>>;

/// A noise-free function of a setting where a guard is tripped.
type Penalised = Box<dyn Fn(&Config) -> f64>;

/// One problem of one seed.
pub(crate) struct Problem {
    pub(crate) space: Space,
    pub(crate) default: Config,
    /// The standard deviation of a measurement.
    pub(crate) noise: f64,
    at_default: f64,
    best: f64,
    function: Function,
    /// What is measured where a guard is tripped, which counts as a failure for what is recommended.
    tripped: Option<Penalised>,
}

impl Problem {
    /// `best` is searched for if it is not known; `noise` is a share of what there is to gain.
    fn new(spec: SpaceSpec, default: Config, best: Option<f64>, noise: f64, function: Function) -> Problem {
        let space = Space::new(spec).expect("a valid space");
        assert!(space.contains(&default), "the default is valid: {default:?}");
        let at_default = function(&default).expect("the default can be measured");
        let best = best.unwrap_or_else(|| searched(&space, &default, &function));
        assert!(best < at_default, "the default is not the best: {best} {at_default}");
        Problem { noise: noise * (at_default - best), space, default, at_default, best, function, tripped: None }
    }

    /// Returns by how much a setting is truly better than the default.
    pub(crate) fn gain(&self, config: &Config) -> f64 {
        self.value(config).map_or(f64::NAN, |value| self.at_default - value)
    }

    pub(crate) fn value(&self, config: &Config) -> Option<f64> {
        (self.function)(config)
    }

    /// Returns the measured value; `None` for a failure.
    pub(crate) fn measured(&self, config: &Config, rng: &mut StdRng) -> Option<f64> {
        // Drawn also for failures, so that later measurements do not depend on earlier failures.
        let noise = self.noise * normal(rng);
        let tripped = || self.tripped.as_ref().map(|tripped| tripped(config));
        self.value(config).or_else(tripped).map(|value| value + noise)
    }

    /// Returns the problem of which nothing is measured where a guard is tripped.
    pub(crate) fn in_labels(self) -> Problem {
        Problem { tripped: None, ..self }
    }

    /// Returns 0 for the best setting, 1 for the default, 2 for one that fails.
    pub(crate) fn regret(&self, config: &Config) -> f64 {
        if !self.space.contains(config) {
            return 2.0;
        }
        self.value(config).map_or(2.0, |value| (value - self.best) / (self.at_default - self.best))
    }
}

/// Returns a setting drawn uniformly, by rejection where it is not valid.
pub(crate) fn drawn(space: &Space, rng: &mut StdRng) -> Config {
    loop {
        let units: Vec<f64> = space.spec().params.iter().map(|_| rng.random()).collect();
        let config = at(&space.spec().params, &units);
        if space.contains(&config) {
            return config;
        }
    }
}

/// Returns the setting at these coordinates, from 0 to 1.
fn at(params: &[Param], units: &[f64]) -> Config {
    let mut config = Config::new();
    for (param, unit) in params.iter().zip(units) {
        config.insert(param.name.clone(), value_at(&param.kind, *unit));
    }
    loop {
        let active = |param: &Param| {
            let when = param.when.as_ref();
            when.is_none_or(|when| config.get(&when.param).is_some_and(|value| when.r#in.iter().any(|v| v.is(value))))
        };
        let inactive = params.iter().find(|param| config.contains_key(&param.name) && !active(param));
        let Some(inactive) = inactive.map(|param| param.name.clone()) else { return config };
        config.remove(&inactive);
    }
}

fn value_at(kind: &Kind, unit: f64) -> Value {
    let between = |low: f64, high: f64, log: bool| {
        let value = if log { low * (high / low).powf(unit) } else { low + (high - low) * unit };
        value.clamp(low, high)
    };
    match kind {
        Kind::Float { low, high, log, step } => {
            let value = between(*low, *high, *log);
            Value::Float(step.map_or(value, |step| (low + ((value - low) / step).round() * step).clamp(*low, *high)))
        }
        Kind::Integer { low, high, log: true, .. } => {
            Value::Integer(between(*low as f64, *high as f64, true).round() as i64)
        }
        Kind::Integer { low, high, step, .. } => {
            let step = step.unwrap_or(1);
            let levels = (high - low) / step + 1;
            Value::Integer(low + step * ((unit * levels as f64) as i64).min(levels - 1))
        }
        Kind::Categorical { choices } | Kind::Ordinal { choices } => {
            choices[((unit * choices.len() as f64) as usize).min(choices.len() - 1)].clone()
        }
        Kind::Bool => Value::Bool(unit >= 0.5),
    }
}

/// Returns the best of many settings, refined by moving one coordinate at a time.
fn searched(space: &Space, default: &Config, function: &Function) -> f64 {
    let mut rng = StdRng::seed_from_u64(1);
    let params = &space.spec().params;
    let value = |units: &[f64]| {
        let config = at(params, units);
        if space.contains(&config) { function(&config).unwrap_or(f64::INFINITY) } else { f64::INFINITY }
    };
    let mut found: Vec<(f64, Vec<f64>)> = (0..20_000)
        .map(|_| {
            let units: Vec<f64> = params.iter().map(|_| rng.random()).collect();
            (value(&units), units)
        })
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found.truncate(4);
    for (best, units) in &mut found {
        let mut size = 0.3;
        while size > 1e-5 {
            let before = *best;
            for _ in 0..40 * params.len() {
                let mut moved = units.clone();
                for unit in &mut moved {
                    if rng.random_bool((1.5 / params.len() as f64).min(1.0)) {
                        *unit = (*unit + size * normal(&mut rng)).clamp(0.0, 1.0);
                    }
                }
                let there = value(&moved);
                if there < *best {
                    (*best, *units) = (there, moved);
                }
            }
            size *= if *best < before { 0.8 } else { 0.4 };
        }
    }
    let best = found.iter().map(|(best, _)| *best).fold(f64::INFINITY, f64::min);
    best.min(function(default).unwrap_or(f64::INFINITY))
}

/// Returns a number of the standard normal distribution.
fn normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

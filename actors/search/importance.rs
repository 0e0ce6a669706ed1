//! Which parameters matter? The search's own surrogate is asked, for no measurement is to be had for it.
//!
//! Over the whole space the mean of the Gaussian process has a variance, and each parameter a share in it: its total Sobol
//! index, which is the part of the variance that remains where everything but that parameter is known (Homma and Saltelli
//! 1996), and its first-order index, the part that goes where that parameter alone is known (Sobol 1993). Both are
//! estimated from two samples of the space and their mixtures by Jansen's formulas (Jansen 1999), which Saltelli et al.,
//! "Variance based sensitivity analysis of model output" (2010), found to be the best of those that cost as much. The
//! samples are Latin hypercubes.
//!
//! A functional analysis of variance (Hutter, Hoos and Leyton-Brown 2014) gives the same shares for independent
//! parameters; it is made for forests, whose integrals are sums, and would need a second surrogate here.
//!
//! Parameters are drawn independently of each other, an inactive one has no effect, and values that break a constraint
//! are mended as everywhere; so a parameter that is seldom active has a small share however much it does when it is.
//! What is far worse than the middle is pulled in as the surrogate pulls it in: a share tells what decides between
//! good settings, not what decides whether a setting is a disaster.

use std::cmp::Ordering;

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;

use crate::{
    model::{Known, Model},
    search::Outcome,
    space::{Config, Space},
    transform::Standard,
};

/// The fewest different settings that must have been measured.
const SETTINGS_MIN: usize = 8;

/// The fewest of them for each parameter.
const SETTINGS_EACH: usize = 2;

/// The share of the differences that the surrogate must foretell of settings that were left out.
const EXPLAINED_MIN: f64 = 0.2;

/// In so many parts the settings are left out.
const PARTS: usize = 5;

/// The fewest and the most rows of each sample.
const ROWS: (usize, usize) = (128, 4096);

/// How many differences of two coordinates are looked at, which is what takes the time: about a fifth of a second.
const WORK_MAX: usize = 24_000_000;

/// How much each parameter matters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Importance {
    /// The share of the differences between measured values that the surrogate foretells of settings that it was not shown,
    /// a fifth of them at a time: 1 is all of them. What it says of the parameters is worth no more than this.
    pub explained: f64,
    /// The parameters, the most important first.
    pub parameters: Vec<Share>,
}

/// How much one parameter matters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// Its share in the variance, alone and together with others: its total Sobol index, from 0 to 1. They add up to more
    /// than 1 where parameters act together.
    pub total: f64,
    /// Its share alone: its first-order Sobol index, from 0 to `total`.
    pub alone: f64,
}

/// Why it cannot be told which parameters matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Unclear {
    /// Too few settings were measured.
    #[error("{measured} settings were measured, and it takes {needed} to tell")]
    TooFew {
        /// How many different settings were measured.
        measured: usize,
        /// How many it takes.
        needed: usize,
    },
    /// All measured the same.
    #[error("every setting measured the same")]
    Flat,
    /// The surrogate does not foretell what was measured, so what it says of the parameters says nothing.
    #[error("the differences between the settings are as likely noise: no model foretells them")]
    Unforeseen,
}

/// Returns how much each parameter of `space` matters by what these settings came to, smaller values being better; or why
/// that cannot be told.
///
/// `noisy` says whether two measurements of one setting differ. The same arguments give the same answer. It fits six
/// surrogates and asks one of them a few ten thousand times: some hundred milliseconds at most for a dozen parameters and a
/// hundred values.
pub fn importance(space: &Space, trials: &[(Config, Outcome)], noisy: bool, seed: u64) -> Result<Importance, Unclear> {
    let home = space.center();
    let measured: Vec<Known> = trials
        .iter()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Value(value) if value.is_finite()))
        .filter_map(|(config, outcome)| {
            Some(Known { point: space.encode(config, &home)?, outcome: *outcome, extra: 0.0 })
        })
        .collect();
    let mut settings: Vec<&[f64]> = Vec::new();
    for known in &measured {
        if !settings.contains(&known.point.as_slice()) {
            settings.push(&known.point);
        }
    }
    let needed = SETTINGS_MIN.max(SETTINGS_EACH * space.dims());
    let too_few = Unclear::TooFew { measured: settings.len(), needed };
    if settings.len() < needed {
        return Err(too_few);
    }
    if measured.windows(2).all(|pair| pair[0].outcome == pair[1].outcome) {
        return Err(Unclear::Flat);
    }
    let model = Model::new(space, &measured, noisy, None).ok_or(too_few)?;
    let explained = explained(space, &measured, &settings, (noisy, seed));
    if explained.partial_cmp(&EXPLAINED_MIN) != Some(Ordering::Greater) {
        return Err(Unclear::Unforeseen);
    }
    let value = |units: &[f64]| space.drawn(units, &home).map(|point| model.process.mean_at(&point));
    let each = measured.len() * space.dims() * (space.dims() + 2);
    let rows = (WORK_MAX / each.max(1)).clamp(ROWS.0, ROWS.1);
    let indices = sobol(space.dims(), rows, seed, value).ok_or(Unclear::Flat)?;
    let names = space.spec().params.iter().map(|param| param.name.clone());
    let mut parameters: Vec<Share> =
        names.zip(indices).map(|(name, (total, alone))| Share { name, total, alone }).collect();
    parameters.sort_by(|a, b| b.total.total_cmp(&a.total));
    Ok(Importance { explained, parameters })
}

/// Returns the share of the squared differences that surrogates foretell of settings that they were not shown, against what
/// the mean of the others foretells: at most 1, and below 0 if the mean does it better (cross-validation: Stone 1974).
///
/// The parameters are fitted anew each time: those that were fitted to all values fit noise as well, and with a dozen of
/// them foretell nearly all of it.
fn explained(space: &Space, measured: &[Known], settings: &[&[f64]], (noisy, seed): (bool, u64)) -> f64 {
    let values: Vec<f64> = measured.iter().filter_map(value_of).collect();
    let standard = Standard::of(&values);
    let mut order: Vec<usize> = (0..settings.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let (mut left, mut by_mean) = (0.0, 0.0);
    for part in 0..PARTS {
        let hidden: Vec<&[f64]> = order.iter().skip(part).step_by(PARTS).map(|index| settings[*index]).collect();
        let (test, shown): (Vec<&Known>, Vec<&Known>) =
            measured.iter().partition(|known| hidden.contains(&known.point.as_slice()));
        let shown: Vec<Known> = shown.into_iter().cloned().collect();
        let Some(model) = Model::new(space, &shown, noisy, None) else { continue };
        let known: Vec<f64> = shown.iter().filter_map(value_of).map(|value| standard.apply(value)).collect();
        let mean = known.iter().sum::<f64>() / known.len().max(1) as f64;
        for known in test {
            let Some(value) = value_of(known).map(|value| standard.apply(value)) else { continue };
            let foretold = standard.apply(model.standard.undo(model.process.mean_at(&known.point)));
            left += (value - foretold).powi(2);
            by_mean += (value - mean).powi(2);
        }
    }
    1.0 - left / by_mean
}

fn value_of(known: &Known) -> Option<f64> {
    if let Outcome::Value(value) = known.outcome { Some(value) } else { None }
}

/// Returns the total and the first-order Sobol index of each of the function's `dims` independent coordinates, which are
/// uniform from 0 to 1; `None` if it does not vary. Points at which it has no value are left out.
fn sobol(dims: usize, rows: usize, seed: u64, value: impl Fn(&[f64]) -> Option<f64>) -> Option<Vec<(f64, f64)>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (one, other) = (hypercube(dims, rows, &mut rng), hypercube(dims, rows, &mut rng));
    let values = |points: &[Vec<f64>]| points.iter().map(|point| value(point)).collect::<Vec<_>>();
    let (at_one, at_other) = (values(&one), values(&other));
    let all: Vec<f64> = at_one.iter().chain(&at_other).flatten().copied().collect();
    let mean = all.iter().sum::<f64>() / all.len().max(1) as f64;
    let variance = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len().max(1) as f64;
    if !(variance > f64::EPSILON * mean.abs().max(1.0) && variance.is_finite()) {
        return None;
    }
    let index = |axis: usize| {
        let (mut kept, mut changed, mut pairs) = (0.0, 0.0, 0.0);
        for row in 0..rows {
            let mut mixed = one[row].clone();
            mixed[axis] = other[row][axis];
            let (Some(one), Some(other), Some(mixed)) = (at_one[row], at_other[row], value(&mixed)) else { continue };
            // Everything but this coordinate is the same; this coordinate alone is the same.
            changed += 0.5 * (one - mixed).powi(2);
            kept += 0.5 * (other - mixed).powi(2);
            pairs += 1.0;
        }
        let share = |half_square: f64| (half_square / f64::max(pairs, 1.0) / variance).clamp(0.0, 1.0);
        let total = share(changed);
        (total, (1.0 - share(kept)).min(total))
    };
    Some((0..dims).map(index).collect())
}

/// Returns points of which each coordinate is spread evenly from 0 to 1.
fn hypercube(dims: usize, rows: usize, rng: &mut StdRng) -> Vec<Vec<f64>> {
    let mut points = vec![vec![0.0; dims]; rows];
    for axis in 0..dims {
        let mut strata: Vec<usize> = (0..rows).collect();
        strata.shuffle(rng);
        for (point, stratum) in points.iter_mut().zip(strata) {
            point[axis] = (stratum as f64 + rng.random::<f64>()) / rows as f64;
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use proptest::prelude::*;

    use super::*;
    use crate::space::{Kind, Param, SpaceSpec, Value, When};

    /// Compares the indices of several seeds with those of the closed form: each to within what chance allows at 4096 rows,
    /// and their mean to within less.
    #[track_caller]
    fn check(expected: &[(f64, f64)], function: impl Fn(&[f64]) -> Option<f64>) {
        let mut means = vec![(0.0, 0.0); expected.len()];
        for seed in 0..SEEDS {
            let found = sobol(expected.len(), 4096, seed, &function).unwrap();
            for ((found, expected), mean) in found.iter().zip(expected).zip(&mut means) {
                assert!(off(*found, *expected) < 0.06, "seed {seed}: {found:?}, not {expected:?}");
                *mean = (mean.0 + found.0 / SEEDS as f64, mean.1 + found.1 / SEEDS as f64);
            }
        }
        for (mean, expected) in means.into_iter().zip(expected) {
            assert!(off(mean, *expected) < 0.02, "in the mean {mean:?}, not {expected:?}");
        }
    }

    const SEEDS: u64 = 8;

    fn off(found: (f64, f64), expected: (f64, f64)) -> f64 {
        (found.0 - expected.0).abs().max((found.1 - expected.1).abs())
    }

    /// Ishigami and Homma (1990): the third coordinate acts together with the first alone.
    #[test]
    fn the_indices_of_the_ishigami_function_are_those_of_its_closed_form() {
        let (a, b) = (7.0, 0.1);
        let function = |units: &[f64]| {
            let at = |axis: usize| PI * (2.0 * units[axis] - 1.0);
            Some(at(0).sin() + a * at(1).sin().powi(2) + b * at(2).powi(4) * at(0).sin())
        };
        let alone = [0.5 * (1.0 + b * PI.powi(4) / 5.0).powi(2), a * a / 8.0, 0.0];
        let together = b * b * PI.powi(8) * (1.0 / 18.0 - 1.0 / 50.0);
        let variance = alone.iter().sum::<f64>() + together;
        let expected = [
            ((alone[0] + together) / variance, alone[0] / variance),
            (alone[1] / variance, alone[1] / variance),
            (together / variance, 0.0),
        ];
        check(&expected, function);
    }

    /// Saltelli and Sobol (1995).
    #[test]
    fn the_indices_of_the_g_function_are_those_of_its_closed_form() {
        let weights = [0.0, 1.0, 4.5, 9.0, 99.0, 99.0];
        let function = |units: &[f64]| {
            let factor = |(unit, weight): (&f64, &f64)| ((4.0 * unit - 2.0).abs() + weight) / (1.0 + weight);
            Some(units.iter().zip(&weights).map(factor).product())
        };
        let alone = weights.map(|weight: f64| 1.0 / (3.0 * (1.0 + weight).powi(2)));
        let product: f64 = alone.iter().map(|part| 1.0 + part).product();
        let expected: Vec<(f64, f64)> = alone
            .iter()
            .map(|part| (part * product / (1.0 + part) / (product - 1.0), part / (product - 1.0)))
            .collect();
        check(&expected, function);
    }

    #[test]
    fn what_does_not_vary_has_no_indices_and_what_has_no_value_is_left_out() {
        assert_eq!(sobol(2, 128, 1, |_| Some(3.0)), None);
        assert_eq!(sobol(2, 128, 1, |_| None), None);
        check(&[(1.0, 1.0), (0.0, 0.0)], |units| (units[1] < 0.5).then_some(units[0]));
    }

    fn float(name: &str) -> Param {
        Param { name: name.into(), kind: Kind::Float { low: 0.0, high: 1.0, log: false, step: None }, when: None }
    }

    /// A switch, a number that counts where it is on, a number that always counts, and one that never does.
    fn space() -> Space {
        let when = Some(When { param: "switch".into(), r#in: vec![Value::Bool(true)] });
        let switch = Param { name: "switch".into(), kind: Kind::Bool, when: None };
        let params = vec![switch, Param { when, ..float("inside") }, float("always"), float("never")];
        Space::new(SpaceSpec { params, ..SpaceSpec::default() }).unwrap()
    }

    fn measured(count: usize, value: impl Fn(&Config, f64) -> f64) -> Vec<(Config, Outcome)> {
        let (space, mut rng) = (space(), StdRng::seed_from_u64(3));
        let home = space.center();
        let config = |rng: &mut StdRng| space.decode(&space.random(&home, rng).unwrap());
        let draws: Vec<(Config, f64)> = (0..count).map(|_| (config(&mut rng), rng.random())).collect();
        draws.into_iter().map(|(config, chance)| (config.clone(), Outcome::Value(value(&config, chance)))).collect()
    }

    fn number(config: &Config, name: &str) -> f64 {
        config.get(name).and_then(Value::number).unwrap_or(0.5)
    }

    #[test]
    fn the_surrogate_finds_what_matters_in_a_space_with_conditions() {
        let trials = measured(48, |config, _| {
            let on = if config["switch"] == Value::Bool(true) { 1.0 + 2.0 * number(config, "inside") } else { 2.0 };
            on + 1.5 * number(config, "always")
        });
        let found = importance(&space(), &trials, false, 1).unwrap();
        assert!(found.explained > 0.9, "{found:?}");
        // The variance of `always` is 1.5 * 1.5 / 12; that of `inside` 4 / 12 for half of the space; the switch decides
        // whether that is there, and moves no mean.
        let total = |name: &str| found.parameters.iter().find(|share| share.name == name).unwrap().total;
        let variance = 0.1875 + 0.5 / 3.0;
        for (name, expected) in [("always", 0.1875), ("inside", 0.5 / 3.0), ("switch", 0.5 / 6.0), ("never", 0.0)]
            .map(|(n, v)| (n, v / variance))
        {
            assert!((total(name) - expected).abs() < 0.12, "{name} {} {expected} {found:?}", total(name));
        }
        assert_eq!(found.parameters[3].name, "never");
    }

    #[test]
    fn the_same_trials_and_seed_give_the_same_answer() {
        let trials = measured(40, |config, _| number(config, "always"));
        let again = || importance(&space(), &trials, true, 7).unwrap();
        assert_eq!(again(), again());
    }

    #[test]
    fn it_says_when_it_cannot_tell() {
        let few = measured(7, |config, _| number(config, "always"));
        assert_eq!(importance(&space(), &few, false, 1), Err(Unclear::TooFew { measured: 7, needed: 8 }));
        assert_eq!(importance(&space(), &[], false, 1), Err(Unclear::TooFew { measured: 0, needed: 8 }));
        let repeated = vec![few[0].clone(); 30];
        assert_eq!(importance(&space(), &repeated, true, 1), Err(Unclear::TooFew { measured: 1, needed: 8 }));
        let flat = measured(30, |_, _| 4.0);
        assert_eq!(importance(&space(), &flat, true, 1), Err(Unclear::Flat));
        let failed: Vec<(Config, Outcome)> =
            measured(30, |_, _| f64::NAN).into_iter().chain([(Config::new(), Outcome::Failed)]).collect();
        assert_eq!(importance(&space(), &failed, true, 1), Err(Unclear::TooFew { measured: 0, needed: 8 }));
    }

    #[test]
    fn noise_alone_is_hardly_ever_taken_for_importance() {
        let mut told = 0;
        for run in 0..20 {
            let mut noise = StdRng::seed_from_u64(run);
            let mut trials = measured(40, |_, _| 0.0);
            for (_, outcome) in &mut trials {
                *outcome = Outcome::Value(noise.random());
            }
            told += u32::from(importance(&space(), &trials, true, 1).is_ok());
        }
        assert!(told <= 2, "{told} of 20");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn whatever_is_told_the_shares_are_ordered_and_from_0_to_1(
            values in prop::collection::vec(prop::num::f64::ANY, 1..40), noisy: bool, seed: u64,
        ) {
            let mut trials = measured(values.len(), |_, _| 0.0);
            for ((_, outcome), value) in trials.iter_mut().zip(&values) {
                *outcome = Outcome::Value(*value);
            }
            if let Ok(found) = importance(&space(), &trials, noisy, seed) {
                prop_assert!(found.explained <= 1.0);
                prop_assert!(found.parameters.windows(2).all(|pair| pair[0].total >= pair[1].total));
                for share in found.parameters {
                    prop_assert!(0.0 <= share.alone && share.alone <= share.total && share.total <= 1.0, "{share:?}");
                }
            }
        }
    }
}

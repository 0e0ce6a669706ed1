//! Problems with a guard: beyond an edge something that may not suffer does, while what is to become better goes on as if nothing
//! were. They are told as the daemon tells them: logarithms of ratios, and where the guard is tripped a penalty that no ratio makes
//! up for; or, for a comparison, failures.

use kloros_search::{Config, Kind, Param, SpaceSpec, Value};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Problem, problems::default};

/// What the daemon takes off for a tripped guard: two tenfold losses.
const PENALTY: f64 = 2.0 * std::f64::consts::LN_10;

/// Returns the problem of a function with its minimum 0 at the origin, which is moved. The guard trips `room` length units beyond the
/// optimum, or before it.
pub(super) fn guarded(dims: usize, seed: u64, function: fn(&[f64]) -> f64, room: f64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(dims as u64));
    let kind = Kind::Float { low: -5.0, high: 5.0, log: false, step: None };
    let params: Vec<Param> =
        (0..dims).map(|index| Param { name: format!("x{index}"), kind: kind.clone(), when: None }).collect();
    let best: Vec<f64> = (0..dims).map(|_| rng.random_range(-4.0..4.0)).collect();
    let edge: Vec<f64> = (0..dims).map(|index| if index < 2 { 1.0 } else { 0.2 * rng.random::<f64>() }).collect();
    let along = move |x: &[f64]| x.iter().zip(&edge).map(|(x, edge)| x * edge).sum::<f64>();
    let edge_at = along(&best) + room;
    let at = |config: &Config| config.values().filter_map(Value::number).collect::<Vec<f64>>();
    let is_kept = move |config: &Config| along(&at(config)) <= edge_at;
    let cost = move |config: &Config| {
        let off: Vec<f64> = at(config).iter().zip(&best).map(|(x, best)| x - best).collect();
        function(&off)
    };
    let default = default(&params, &|config: &Config| is_kept(config).then(|| cost(config)), &mut rng);
    // The best is a tenth of the default's cost at most.
    let rest = cost(&default) / 9.0;
    let value = move |config: &Config| (cost(config) + rest).ln();
    let spec = SpaceSpec { params, ..SpaceSpec::default() };
    let kept = (is_kept.clone(), value.clone());
    let function = move |config: &Config| kept.0(config).then(|| kept.1(config));
    let problem = Problem::new(spec, default, None, noise, Box::new(function));
    Problem { tripped: Some(Box::new(move |config| value(config) + PENALTY)), ..problem }
}

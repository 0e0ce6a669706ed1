//! Landscapes in which settings matter together: narrow ridges, products, bottlenecks, choices that move the optimum.

use kloros_search::{Config, Kind, Param, SpaceSpec, Value};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{Problem, functions as f, service};

/// A server whose batch must fit its cache: the best rates lie on a narrow ridge, and both must grow to move along it.
pub(super) fn ridge(noise: f64) -> Problem {
    let function = |config: &Config| {
        let (batch, cache, eager) = (batch(config), cache(config), eager(config));
        Some(4.0 * (batch - cache).abs() - 1.0 - batch - 0.1 * eager)
    };
    served(noise, function)
}

/// The same server, whose rate grows with both until memory ends.
pub(super) fn slope(noise: f64) -> Problem {
    let function = |config: &Config| {
        let (batch, cache, eager) = (batch(config), cache(config), eager(config));
        (batch + cache < 1.4).then_some(0.2 * eager - 1.5 * batch - cache)
    };
    served(noise, function)
}

fn served(noise: f64, function: impl Fn(&Config) -> Option<f64> + 'static) -> Problem {
    let policies = ["first", "fair", "shortest"].map(|name| Value::Text(name.to_owned())).to_vec();
    let params = vec![
        service::param("batch", service::integer(1, 512, true)),
        service::param("cache", Kind::Float { low: 0.5, high: 0.95, log: false, step: None }),
        service::param("eager", Kind::Bool),
        service::param("policy", Kind::Categorical { choices: policies }),
    ];
    let default = service::config(&[
        ("batch", Value::Integer(4)),
        ("cache", Value::Float(0.6)),
        ("eager", Value::Bool(true)),
        ("policy", Value::Text("first".to_owned())),
    ]);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, None, noise, Box::new(function))
}

fn batch(config: &Config) -> f64 {
    service::number(config, "batch").ln() / 512_f64.ln()
}

fn cache(config: &Config) -> f64 {
    (service::number(config, "cache") - 0.5) / 0.45
}

fn eager(config: &Config) -> f64 {
    f64::from(u8::from(service::is_on(config, "eager")))
}

/// A narrow valley in a direction of its own through some of the dimensions, with its lowest place inside.
pub(super) fn valley((active, dims): (usize, usize), seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(31));
    let at: Vec<f64> = (0..active).map(|_| rng.random_range(0.2..0.8)).collect();
    let rows = f::rotation(active, &mut rng);
    let function = move |x: &[f64]| {
        let off: Vec<f64> = x.iter().zip(&at).map(|(x, at)| x - at).collect();
        let along = |row: &Vec<f64>| row.iter().zip(&off).map(|(a, b)| a * b).sum::<f64>().abs();
        along(&rows[0]) + 5.0 * rows[1..].iter().map(along).sum::<f64>()
    };
    numbers((active, dims), &mut rng, (Some(0.0), noise), function)
}

/// Rosenbrock's bent valley in two of the dimensions.
pub(super) fn bent(dims: usize, seed: u64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(32));
    let function = |x: &[f64]| f::rosenbrock(&x.iter().map(|x| 6.0 * x - 4.0).collect::<Vec<f64>>());
    numbers((2, dims), &mut rng, (Some(0.0), 0.0), function)
}

/// A rate that is a product: any factor at its end spoils it.
pub(super) fn product((active, dims): (usize, usize), seed: u64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(33));
    let at: Vec<f64> = (0..active).map(|_| rng.random_range(0.1..0.9)).collect();
    let factor = |(x, at): (&f64, &f64)| 1.0 - ((x - at).abs() / 0.8).min(1.0);
    let function = move |x: &[f64]| -x.iter().zip(&at).map(factor).product::<f64>();
    numbers((active, dims), &mut rng, (Some(-1.0), 0.0), function)
}

/// A rate that is that of the slowest stage, while every stage costs what it is given.
pub(super) fn bottleneck((active, dims): (usize, usize), seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(34));
    let speeds: Vec<f64> = (0..active).map(|_| rng.random_range(1.0..1.8)).collect();
    let function = move |x: &[f64]| {
        let slowest = x.iter().zip(&speeds).map(|(x, speed)| x * speed).fold(f64::INFINITY, f64::min);
        0.7 * x.iter().sum::<f64>() / x.len() as f64 - slowest
    };
    numbers((active, dims), &mut rng, (None, noise), function)
}

/// Numbers that must keep step, each with the next, to move on together.
pub(super) fn chain((active, dims): (usize, usize), seed: u64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(35));
    let function = move |x: &[f64]| {
        let apart: f64 = x.windows(2).map(|pair| (pair[0] - pair[1]).abs()).sum();
        2.0 * apart - x.iter().sum::<f64>() / x.len() as f64
    };
    numbers((active, dims), &mut rng, (Some(-1.0), noise), function)
}

/// A choice that decides where two numbers are best.
pub(super) fn switched(seed: u64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(36));
    let names = ["a", "b", "c"];
    let mut best: Vec<(f64, f64, f64)> =
        (0..3).map(|depth| (rng.random_range(0.1..0.9), rng.random_range(0.1..0.9), f64::from(depth) * 0.3)).collect();
    best.shuffle(&mut rng);
    let mut params = floats(4);
    let choices = names.map(|name| Value::Text(name.to_owned())).to_vec();
    params.push(service::param("mode", Kind::Categorical { choices }));
    let function = move |config: &Config| {
        let mode = names.iter().position(|name| service::is(config, "mode", name)).expect("a mode");
        let (x, y, depth) = best[mode];
        let off = (service::number(config, "x0") - x).abs() + (service::number(config, "x1") - y).abs();
        Some(2.0 * off + depth + 0.1 * service::number(config, "x2"))
    };
    let default = super::problems::default(&params, &function, &mut rng);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, Some(0.0), 0.0, Box::new(function))
}

fn floats(dims: usize) -> Vec<Param> {
    let kind = Kind::Float { low: 0.0, high: 1.0, log: false, step: None };
    (0..dims).map(|index| service::param(&format!("x{index}"), kind.clone())).collect()
}

/// A function of some of the numbers from 0 to 1, at random places and from either end, the others being without effect.
fn numbers(
    (active, dims): (usize, usize),
    rng: &mut StdRng,
    (best, noise): (Option<f64>, f64),
    function: impl Fn(&[f64]) -> f64 + 'static,
) -> Problem {
    let params = floats(dims);
    let mut places: Vec<(usize, bool)> = (0..dims).map(|index| (index, rng.random())).collect();
    places.shuffle(rng);
    places.truncate(active);
    let function = move |config: &Config| {
        let coordinate = |(index, turned): &(usize, bool)| {
            let number = service::number(config, &format!("x{index}"));
            if *turned { 1.0 - number } else { number }
        };
        Some(function(&places.iter().map(coordinate).collect::<Vec<f64>>()))
    };
    let default = super::problems::default(&params, &function, rng);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, best, noise, Box::new(function))
}

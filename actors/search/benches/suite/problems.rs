//! The problems by name, each another one for each seed: shifted, rotated, with other optima and other edges.

use kloros_search::{Config, Kind, Param, SpaceSpec, Value};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Problem, at, coupled, functions as f, guarded::guarded, service};

/// The problems on which the engine was made.
pub(crate) const TUNED: [&str; 11] = [
    "sphere-6",
    "ellipsoid-5",
    "rastrigin-4",
    "branin-2",
    "hartmann-6",
    "ackley-6-mixed",
    "rosenbrock-4-noisy",
    "ellipsoid-4-edge",
    "sphere-6-pits-noisy",
    "inference-7",
    "web-9-noisy",
];

/// More problems that fail in places, on which its caution was made.
pub(crate) const CRASHING: [&str; 7] = [
    "ellipsoid-4-edge",
    "sphere-6-pits-noisy",
    "inference-7",
    "sphere-6-edge",
    "rastrigin-4-pits",
    "ackley-6-mixed-edge",
    "rosenbrock-5-noisy-edge",
];

/// More problems with noise, some with much of it: 15 % of what there is to gain.
pub(crate) const NOISY: [&str; 8] = [
    "rosenbrock-4-noisy",
    "sphere-6-pits-noisy",
    "web-9-noisy",
    "inference-7-loud",
    "branin-2-loud",
    "hartmann-6-loud",
    "web-9-noisy-loud",
    "sphere-6-loud",
];

/// More problems of many dimensions.
pub(crate) const WIDE: [&str; 4] = ["sphere-12", "ellipsoid-10-mixed", "ackley-12-mixed", "rosenbrock-10"];

/// More problems whose settings matter together, most of them among others without effect.
pub(crate) const COUPLED: [&str; 10] = [
    "ridge-4-noisy",
    "slope-4-noisy",
    "valley-2-of-5",
    "valley-3-of-6-noisy",
    "bent-2-of-6",
    "product-3-of-6",
    "bottleneck-3-of-6",
    "bottleneck-4-noisy",
    "chain-4-noisy",
    "switched-5",
];

/// Problems with a guard, which trips behind the optimum or before it.
pub(crate) const GUARDED: [&str; 6] = [
    "guarded-sphere-6",
    "guarded-ellipsoid-4",
    "guarded-rastrigin-4",
    "guarded-levy-5",
    "guarded-sphere-5-noisy",
    "guarded-rosenbrock-4-noisy",
];

/// The problems on which it was looked at afterwards.
pub(crate) const HOLD_OUT: [&str; 11] = [
    "rosenbrock-3",
    "step-ellipsoid-5",
    "discus-8",
    "ackley-10",
    "levy-12-mixed",
    "griewank-5",
    "hartmann-3-noisy",
    "michalewicz-4",
    "styblinski-5-edge",
    "levy-4-pits",
    "database-8-noisy",
];

/// Returns the problem of this name and seed.
pub(crate) fn problem(name: &str, seed: u64) -> Problem {
    let noise = match name {
        _ if name.ends_with("loud") => 0.15,
        _ if name.contains("noisy") => 0.05,
        _ => 0.0,
    };
    match name.trim_end_matches("-loud") {
        "sphere-6" => bowl(6, seed, f::sphere, Shape { noise, ..Shape::default() }),
        "ellipsoid-5" => bowl(5, seed, f::ellipsoid, Shape { rotated: true, ..Shape::default() }),
        "rastrigin-4" => bowl(4, seed, f::rastrigin, Shape::default()),
        "branin-2" => classic(2, seed, f::branin, 0.397_887, noise),
        "hartmann-6" => classic(6, seed, f::hartmann_6, -3.322_37, noise),
        "ackley-6-mixed" => bowl(6, seed, f::ackley, Shape { mixed: true, ..Shape::default() }),
        "rosenbrock-4-noisy" => bowl(4, seed, f::rosenbrock, Shape { noise, ..Shape::default() }),
        "ellipsoid-4-edge" => bowl(4, seed, f::ellipsoid, Shape { fails: Fails::Edge, ..Shape::default() }),
        "sphere-6-pits-noisy" => bowl(6, seed, f::sphere, Shape { fails: Fails::Pits, noise, ..Shape::default() }),
        "inference-7" => service::inference(seed, noise),
        "web-9-noisy" => service::web(seed, noise),
        "sphere-6-edge" => bowl(6, seed, f::sphere, Shape { fails: Fails::Edge, ..Shape::default() }),
        "rastrigin-4-pits" => bowl(4, seed, f::rastrigin, Shape { fails: Fails::Pits, ..Shape::default() }),
        "ackley-6-mixed-edge" => {
            bowl(6, seed, f::ackley, Shape { mixed: true, fails: Fails::Edge, ..Shape::default() })
        }
        "rosenbrock-5-noisy-edge" => {
            bowl(5, seed, f::rosenbrock, Shape { fails: Fails::Edge, noise: 0.05, ..Shape::default() })
        }
        "sphere-12" => bowl(12, seed, f::sphere, Shape::default()),
        "ellipsoid-10-mixed" => bowl(10, seed, f::ellipsoid, Shape { mixed: true, ..Shape::default() }),
        "ackley-12-mixed" => bowl(12, seed, f::ackley, Shape { mixed: true, ..Shape::default() }),
        "rosenbrock-10" => bowl(10, seed, f::rosenbrock, Shape::default()),
        "ridge-4-noisy" => coupled::ridge(0.03),
        "slope-4-noisy" => coupled::slope(0.03),
        "valley-2-of-5" => coupled::valley((2, 5), seed, noise),
        "valley-3-of-6-noisy" => coupled::valley((3, 6), seed, noise),
        "bent-2-of-6" => coupled::bent(6, seed),
        "product-3-of-6" => coupled::product((3, 6), seed),
        "bottleneck-3-of-6" => coupled::bottleneck((3, 6), seed, noise),
        "bottleneck-4-noisy" => coupled::bottleneck((4, 4), seed, noise),
        "chain-4-noisy" => coupled::chain((4, 4), seed, noise),
        "switched-5" => coupled::switched(seed),
        "guarded-sphere-6" => guarded(6, seed, f::sphere, 1.0, noise),
        "guarded-ellipsoid-4" => guarded(4, seed, f::ellipsoid, 1.0, noise),
        "guarded-rastrigin-4" => guarded(4, seed, f::rastrigin, -1.0, noise),
        "guarded-levy-5" => guarded(5, seed, f::levy, -1.0, noise),
        "guarded-sphere-5-noisy" => guarded(5, seed, f::sphere, -1.0, noise),
        "guarded-rosenbrock-4-noisy" => guarded(4, seed, f::rosenbrock, -1.0, noise),
        "rosenbrock-3" => bowl(3, seed, f::rosenbrock, Shape::default()),
        "step-ellipsoid-5" => bowl(5, seed, f::step_ellipsoid, Shape { rotated: true, ..Shape::default() }),
        "discus-8" => bowl(8, seed, f::discus, Shape { rotated: true, ..Shape::default() }),
        "ackley-10" => bowl(10, seed, f::ackley, Shape::default()),
        "levy-12-mixed" => bowl(12, seed, f::levy, Shape { mixed: true, ..Shape::default() }),
        "griewank-5" => bowl(5, seed, f::griewank, Shape::default()),
        "hartmann-3-noisy" => classic(3, seed, f::hartmann_3, -3.862_78, noise),
        "michalewicz-4" => classic(4, seed, f::michalewicz, -3.698_857, noise),
        "styblinski-5-edge" => tang(5, seed),
        "levy-4-pits" => bowl(4, seed, f::levy, Shape { fails: Fails::Pits, ..Shape::default() }),
        "database-8-noisy" => service::database(seed, noise),
        _ => panic!("there is no problem {name}"),
    }
}

/// Where measurements fail.
#[derive(Clone, Copy, Default, PartialEq)]
enum Fails {
    #[default]
    Nowhere,
    /// In a half space that begins near the optimum.
    Edge,
    /// In some balls.
    Pits,
}

/// What is done to a function with its minimum 0 at the origin.
#[derive(Clone, Copy, Default)]
struct Shape {
    rotated: bool,
    /// Some coordinates become integers, choices, or booleans.
    mixed: bool,
    fails: Fails,
    noise: f64,
}

/// The kinds of a mixed space, one after the other.
fn mixed_kind(index: usize) -> Kind {
    match index % 4 {
        0 => Kind::Float { low: -5.0, high: 5.0, log: false, step: None },
        1 => Kind::Integer { low: -5, high: 5, log: false, step: None },
        2 => Kind::Categorical { choices: ["a", "b", "c", "d"].map(|name| Value::Text(name.to_owned())).to_vec() },
        _ => Kind::Float { low: -5.0, high: 5.0, log: false, step: Some(0.5) },
    }
}

/// Returns the coordinates from -5 to 5 of a setting whose choices stand in the given order.
fn coordinates(params: &[Param], orders: &[Vec<usize>], config: &Config) -> Vec<f64> {
    let coordinate = |(param, order): (&Param, &Vec<usize>)| match (&param.kind, &config[&param.name]) {
        (Kind::Categorical { choices }, value) => {
            let index = choices.iter().position(|choice| choice == value).expect("a choice");
            order[index] as f64 * 10.0 / (choices.len() - 1) as f64 - 5.0
        }
        (_, value) => value.number().expect("a number"),
    };
    params.iter().zip(orders).map(coordinate).collect()
}

fn floats(dims: usize, low: f64, high: f64) -> Vec<Param> {
    let kind = Kind::Float { low, high, log: false, step: None };
    (0..dims).map(|index| Param { name: format!("x{index}"), kind: kind.clone(), when: None }).collect()
}

fn bowl(dims: usize, seed: u64, function: fn(&[f64]) -> f64, shape: Shape) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(dims as u64));
    let mut params = floats(dims, -5.0, 5.0);
    if shape.mixed {
        params.iter_mut().enumerate().for_each(|(index, param)| param.kind = mixed_kind(index));
    }
    let orders: Vec<Vec<usize>> = (0..dims)
        .map(|_| {
            let turn = rng.random_range(0..4);
            (0..4).map(|index| (index * 3 + turn) % 4).collect()
        })
        .collect();
    let best = at(&params, &(0..dims).map(|_| rng.random_range(0.1..0.9)).collect::<Vec<f64>>());
    let best = coordinates(&params, &orders, &best);
    let rows = f::rotation(dims, &mut rng);
    // The edge is one length unit beyond the optimum; what fails beyond it is about a quarter of the space.
    let edge: Vec<f64> = (0..dims).map(|index| if index < 2 { 1.0 } else { 0.2 * rng.random::<f64>() }).collect();
    let along = move |x: &[f64]| x.iter().zip(&edge).map(|(x, edge)| x * edge).sum::<f64>();
    let edge_at = along(&best) + 1.0;
    let mut pits: Vec<Vec<f64>> = Vec::new();
    while shape.fails == Fails::Pits && pits.len() < 6 {
        let pit: Vec<f64> = (0..dims).map(|_| rng.random_range(-5.0..5.0)).collect();
        if f::sphere(&minus(&pit, &best)).sqrt() > pit_radius(dims) * 1.2 {
            pits.push(pit);
        }
    }
    let (kinds, shifted) = (params.clone(), best.clone());
    let function = move |config: &Config| {
        let x = coordinates(&kinds, &orders, config);
        let beyond = shape.fails == Fails::Edge && along(&x) > edge_at;
        if beyond || pits.iter().any(|pit| f::sphere(&minus(&x, pit)).sqrt() < pit_radius(dims)) {
            return None;
        }
        let z = minus(&x, &shifted);
        let turned = |row: &Vec<f64>| row.iter().zip(&z).map(|(a, b)| a * b).sum::<f64>();
        Some(if shape.rotated { function(&rows.iter().map(turned).collect::<Vec<f64>>()) } else { function(&z) })
    };
    let default = default(&params, &function, &mut rng);
    let spec = SpaceSpec { params, ..SpaceSpec::default() };
    Problem::new(spec, default, Some(0.0), shape.noise, Box::new(function))
}

fn pit_radius(dims: usize) -> f64 {
    1.3 * (dims as f64).sqrt()
}

fn minus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// A function on the unit cube whose optimum does not move; the default does.
fn classic(dims: usize, seed: u64, function: fn(&[f64]) -> f64, best: f64, noise: f64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(dims as u64));
    let params = floats(dims, 0.0, 1.0);
    let kinds = params.clone();
    let none = vec![Vec::new(); dims];
    let function = move |config: &Config| Some(function(&coordinates(&kinds, &none, config)));
    let default = default(&params, &function, &mut rng);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, Some(best - 1e-4), noise, Box::new(function))
}

/// Styblinski and Tang's function, whose best corner fails in part.
fn tang(dims: usize, seed: u64) -> Problem {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(dims as u64));
    let params = floats(dims, -5.0, 5.0);
    let kinds = params.clone();
    let none = vec![Vec::new(); dims];
    let offset = rng.random_range(0.0..2.0);
    let function = move |config: &Config| {
        let x = coordinates(&kinds, &none, config);
        (x[0] + x[1] > offset - 6.0 || x[0] > 0.0 && x[1] > 0.0).then(|| f::styblinski_tang(&x))
    };
    let default = default(&params, &function, &mut rng);
    Problem::new(SpaceSpec { params, ..SpaceSpec::default() }, default, None, 0.0, Box::new(function))
}

/// Returns a setting such as a vendor ships: it works, is not at the ends of the ranges, and is the worse half's best.
pub(super) fn default(params: &[Param], function: &dyn Fn(&Config) -> Option<f64>, rng: &mut StdRng) -> Config {
    let mut drawn: Vec<(f64, Config)> = Vec::new();
    while drawn.len() < 9 {
        let units: Vec<f64> = params.iter().map(|_| rng.random_range(0.15..0.85)).collect();
        let config = at(params, &units);
        if let Some(value) = function(&config) {
            drawn.push((value, config));
        }
    }
    drawn.sort_by(|a, b| a.0.total_cmp(&b.0));
    drawn.swap_remove(4).1
}

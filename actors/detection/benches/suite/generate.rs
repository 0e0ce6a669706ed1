//! Seeded series as hosts, GPUs and language-model services have them.

use kloros_detection::Kind;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Exp1, Poisson, StandardNormal};

use super::{Labelled, faults};

/// The families, each with a way of being normal of its own.
pub(crate) const FAMILIES: [&str; 15] = [
    "cpu",
    "latency",
    "memory",
    "temperature",
    "errors",
    "requests",
    "clock",
    "queue",
    "power",
    "tokens",
    "disk",
    "jobs",
    "bytes",
    "idle",
    "nightly",
];

/// Draws of one series.
pub(crate) struct Draws(pub(crate) StdRng);

impl Draws {
    pub(crate) fn normal(&mut self) -> f64 {
        StandardNormal.sample(&mut self.0)
    }

    pub(crate) fn exponential(&mut self) -> f64 {
        Exp1.sample(&mut self.0)
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0.random_range(low..high)
    }

    pub(crate) fn count(&mut self, low: usize, high: usize) -> usize {
        self.0.random_range(low..high)
    }

    pub(crate) fn chance(&mut self, chance: f64) -> bool {
        self.0.random_bool(chance.clamp(0.0, 1.0))
    }

    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        Poisson::new(mean.max(1e-9)).map_or(0.0, |poisson| poisson.sample(&mut self.0))
    }
}

/// A healthy series, and how large its noise is.
pub(crate) struct Healthy {
    pub(crate) values: Vec<f64>,
    /// Deviation of what is not foretold, per row.
    pub(crate) noise: Vec<f64>,
    pub(crate) kind: Kind,
    /// The load that it bears, where it is known.
    pub(crate) load: Option<Vec<f64>>,
}

/// Returns the series number `seed` of a family.
pub(crate) fn series(family: &'static str, seed: u64) -> Labelled {
    let index = FAMILIES.iter().position(|name| *name == family).expect("a family") as u64;
    let mut draws = Draws(StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(index)));
    // What comes once a day is only known after some days.
    let step = if family == "nightly" { 300.0 } else { [10.0, 60.0, 60.0, 300.0][draws.count(0, 4)] };
    let length = draws.count(3000, 8000);
    let warmup = ((length as f64 * 0.15) as u32).min(750);
    let healthy = healthy(family, &mut draws, length, step);
    faults::spoil(family, healthy, &mut draws, step, warmup)
}

/// The share of the busiest load at each time of day, with harmonics that differ from series to series.
struct Day {
    depth: f64,
    phase: f64,
    second: f64,
    weekend: f64,
}

impl Day {
    fn draw(draws: &mut Draws) -> Self {
        Self {
            depth: draws.between(0.1, 0.8),
            phase: draws.between(0.0, 1.0),
            second: draws.between(0.0, 0.3),
            weekend: if draws.chance(0.3) { draws.between(0.7, 1.0) } else { 1.0 },
        }
    }

    fn load(&self, at: f64) -> f64 {
        let angle = (at / 86_400.0 + self.phase) * std::f64::consts::TAU;
        let weekday = (at / 86_400.0) as u64 % 7;
        let shape = 0.5 + 0.5 * (angle.sin() + self.second * (2.0 * angle).cos()) / (1.0 + self.second);
        (1.0 - self.depth * (1.0 - shape)) * if weekday < 2 { self.weekend } else { 1.0 }
    }
}

/// Noise that remembers.
struct Red {
    value: f64,
    memory: f64,
}

impl Red {
    fn draw(draws: &mut Draws) -> Self {
        Self { value: 0.0, memory: [0.0, 0.3, 0.6, 0.85][draws.count(0, 4)] }
    }

    fn next(&mut self, draws: &mut Draws) -> f64 {
        self.value = self.memory * self.value + (1.0 - self.memory * self.memory).sqrt() * draws.normal();
        self.value
    }
}

fn healthy(family: &str, draws: &mut Draws, length: usize, step: f64) -> Healthy {
    match family {
        "cpu" | "tokens" | "power" => level(family, draws, length, step),
        "latency" => latency(draws, length, step),
        "memory" | "disk" => sawtooth(family, draws, length),
        "temperature" | "clock" | "jobs" => modes(family, draws, length),
        "nightly" => nightly(draws, length, step),
        "errors" | "queue" => counts(family, draws, length, step),
        "requests" | "bytes" => counter(family, draws, length, step),
        _ => idle(draws, length),
    }
}

fn gauge(values: Vec<f64>, noise: Vec<f64>) -> Healthy {
    Healthy { values, noise, kind: Kind::Gauge, load: None }
}

fn level(family: &str, draws: &mut Draws, length: usize, step: f64) -> Healthy {
    let (mut day, mut red) = (Day::draw(draws), Red::draw(draws));
    if family == "power" {
        day.depth *= 0.1;
    }
    let high = match family {
        "cpu" => draws.between(30.0, 80.0),
        "tokens" => draws.between(500.0, 5000.0),
        _ => draws.between(80.0, 400.0),
    };
    let noise = high * draws.between(0.01, 0.08);
    let value = |row| {
        let value = high * day.load(row as f64 * step) + noise * red.next(draws);
        if family == "cpu" { value.clamp(0.0, 100.0) } else { value.max(0.0) }
    };
    gauge((0..length).map(value).collect(), vec![noise; length])
}

fn latency(draws: &mut Draws, length: usize, step: f64) -> Healthy {
    let (day, mut red) = (Day::draw(draws), Red::draw(draws));
    let (base, spread) = (draws.between(20.0, 400.0), draws.between(0.03, 0.2));
    let steepness = draws.between(0.2, 1.0);
    let is_known = draws.chance(0.5);
    let mut values = Vec::new();
    let mut noise = Vec::new();
    let mut loads = Vec::new();
    let mut surge: (usize, f64) = (0, 1.0);
    for row in 0..length {
        // Surges come where the load is known, or nothing could tell them from a fault.
        if is_known && surge.0 == 0 && row > 1000 && draws.chance(0.001) {
            surge = (draws.count(30, 150), draws.between(1.5, 3.0));
        }
        surge.0 = surge.0.saturating_sub(1);
        let surged = if surge.0 > 0 { surge.1 } else { 1.0 };
        let load = day.load(row as f64 * step) * surged;
        loads.push(100.0 * load * (0.03 * draws.normal()).exp());
        let middle = base * (1.0 + steepness * load * load);
        let tail = if draws.chance(0.005) { 1.0 + 0.5 * draws.exponential() } else { 1.0 };
        values.push(middle * (spread * red.next(draws)).exp() * tail);
        noise.push(middle * spread);
    }
    Healthy { load: is_known.then_some(loads), ..gauge(values, noise) }
}

fn sawtooth(family: &str, draws: &mut Draws, length: usize) -> Healthy {
    let period = draws.between(40.0, 400.0);
    let (low, height) = (draws.between(500.0, 4000.0), draws.between(200.0, 3000.0));
    let noise = height * draws.between(0.002, 0.03);
    let drift = if family == "disk" { height * draws.between(0.0, 0.5) / length as f64 } else { 0.0 };
    let mut values = Vec::new();
    let mut filled = draws.between(0.0, 1.0);
    let mut until = 1.0;
    for row in 0..length {
        filled += (1.0 + 0.2 * draws.normal()) / period;
        if filled >= until {
            filled = draws.between(0.0, 0.08);
            until = 1.0 + 0.08 * draws.normal();
        }
        values.push(low + height * filled + drift * row as f64 + noise * draws.normal());
    }
    gauge(values, vec![noise.max(0.1 * height); length])
}

fn modes(family: &str, draws: &mut Draws, length: usize) -> Healthy {
    let (low, high) = match family {
        "clock" => (draws.between(200.0, 500.0), draws.between(1400.0, 2100.0)),
        "temperature" => (draws.between(30.0, 45.0), draws.between(60.0, 80.0)),
        _ => (draws.between(1.0, 10.0), draws.between(60.0, 95.0)),
    };
    let (rest, work) = (draws.between(8.0, 60.0), draws.between(8.0, 60.0));
    let lag = if family == "temperature" { draws.between(0.03, 0.3) } else { 1.0 };
    let noise = (high - low) * draws.between(0.003, 0.03);
    let (mut busy, mut left, mut value) = (false, 0.0, low);
    let mut values = Vec::new();
    for _ in 0..length {
        left -= 1.0;
        if left <= 0.0 {
            busy = !busy;
            left = 3.0 + (if busy { work } else { rest }) * (0.4 * draws.normal()).exp();
        }
        value += lag * ((if busy { high } else { low }) - value);
        values.push(value + noise * draws.normal());
    }
    gauge(values, vec![noise.max(0.08 * (high - low)); length])
}

/// A job at the same time of each day, on top of a level with noise.
fn nightly(draws: &mut Draws, length: usize, step: f64) -> Healthy {
    let (level, size) = (draws.between(5.0, 40.0), draws.between(15.0, 50.0));
    let (start, long) = (draws.between(0.0, 86_400.0), draws.between(1800.0, 10_800.0));
    let noise = size * draws.between(0.02, 0.08);
    let mut late = 0.0;
    let value = |row| {
        let of_day = (row as f64 * step - start).rem_euclid(86_400.0);
        if of_day < step {
            late = draws.between(0.0, 600.0);
        }
        let job = if (late..late + long).contains(&of_day) { size } else { 0.0 };
        level + job + noise * draws.normal()
    };
    gauge((0..length).map(value).collect(), vec![noise.max(0.12 * size); length])
}

fn counts(family: &str, draws: &mut Draws, length: usize, step: f64) -> Healthy {
    let day = Day::draw(draws);
    let mean = if family == "errors" { draws.between(0.05, 2.0) } else { draws.between(1.0, 30.0) };
    let (often, heavy) = (draws.between(0.002, 0.02), draws.between(2.0, 6.0));
    let mut burst = 0.0;
    let mut values = Vec::new();
    let mut noise = Vec::new();
    for row in 0..length {
        if draws.chance(often) {
            burst = (mean + 1.0) * heavy * (0.5 + draws.exponential()) * 0.5;
        }
        burst *= 0.6;
        let now = mean * day.load(row as f64 * step);
        values.push(draws.poisson(now + burst));
        noise.push((mean + 0.5).sqrt() + 0.3 * mean * heavy * often.sqrt());
    }
    gauge(values, noise)
}

fn counter(family: &str, draws: &mut Draws, length: usize, step: f64) -> Healthy {
    let day = Day::draw(draws);
    let rate = if family == "bytes" { draws.between(1e5, 1e8) } else { draws.between(2.0, 80.0) };
    let spread = draws.between(0.05, 0.25);
    let reset = draws.between(0.0, 0.001);
    let mut sum = draws.between(0.0, 1e6);
    let mut values = Vec::new();
    for row in 0..length {
        let mean = rate * step * day.load(row as f64 * step);
        let now = mean * (spread * draws.normal()).exp();
        let grown = if mean < 1e4 { draws.poisson(now) } else { now };
        sum = if draws.chance(reset) { grown } else { sum + grown.round() };
        values.push(sum);
    }
    Healthy { values, noise: vec![rate * step * (spread + 0.05); length], kind: Kind::Counter, load: None }
}

fn idle(draws: &mut Draws, length: usize) -> Healthy {
    let value = [0.0, 1.0, 100.0, 32.0][draws.count(0, 4)];
    let blips = if draws.chance(0.5) { draws.between(0.0, 0.01) } else { 0.0 };
    let values = (0..length).map(|_| if draws.chance(blips) { value + 1.0 } else { value }).collect();
    gauge(values, vec![1.0 + value * 0.02; length])
}

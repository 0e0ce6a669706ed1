//! How the numbers of [`Tuning`] were chosen: small changes that are kept where quality grows.
//!
//! Quality is that on labelled series of seeds from 0 on and on the Numenta Anomaly Benchmark, or on every second of its
//! files. The seeds of the quality benchmark begin at 1000, and its halves tell how much was learned by heart.

use std::{fmt, time::Instant};

use kloros_detection::{Detector, Kind, Setup, Tuning};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};

use super::{
    Labelled,
    events::Tally,
    generate::{FAMILIES, series},
    nab,
};

struct Problem {
    labelled: Vec<Labelled>,
    files: Vec<nab::File>,
}

/// What one tuning comes to.
#[derive(Clone)]
struct Quality {
    objective: f64,
    f1: f64,
    false_a_day: f64,
    nab: f64,
    low: f64,
    decisions: f64,
}

impl fmt::Display for Quality {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { objective, f1, false_a_day, nab, low, decisions } = self;
        write!(
            formatter,
            "{objective:.2}: F1 {f1:.3}, {false_a_day:.3} false alarms a day, NAB {nab:.1} {low:.1} {decisions:.1}"
        )
    }
}

impl Problem {
    fn quality(&self, tuning: &Tuning) -> Quality {
        let mut tally = self.tally(tuning);
        let (nab, low, decisions) = if self.files.is_empty() { (0.0, 0.0, 0.0) } else { self.numenta(tuning) };
        let (f1, false_a_day) = (tally.f1(), tally.false_a_day());
        let late = f64::from(tally.delay(0.9)).max(30.0);
        let labelled = 100.0 * f1 - 150.0 * (false_a_day - 0.03).max(0.0) - 0.05 * late;
        // What the benchmark had is not given away for fewer false alarms.
        let lost = (72.2 - nab).max(0.0) + (72.0 - decisions).max(0.0) + 0.5 * (63.9 - low).max(0.0);
        let objective = labelled - if self.files.is_empty() { 0.0 } else { 3.0 * lost };
        Quality { objective, f1, false_a_day, nab, low, decisions }
    }

    fn tally(&self, tuning: &Tuning) -> Tally {
        let mut tally = Tally::default();
        for series in &self.labelled {
            let mut alarms = Vec::new();
            let setup = Setup { kind: series.kind, step: Some(series.step), warmup: series.warmup };
            let (mut detector, mut load) = (Detector::new(setup), Detector::new(setup));
            for (row, (at, value)) in series.rows.iter().enumerate() {
                let borne = series.load.as_ref().map(|loads| load.observe_with(tuning, Some(*at), Some(loads[row])));
                let is_surge = borne.is_some_and(|load| load.is_surge());
                if detector.observe_with(tuning, Some(*at), *value).alarm && !is_surge {
                    alarms.push((row, String::new()));
                }
            }
            tally.add(series, &alarms);
        }
        tally
    }

    /// Returns the standard score, the one for few false positives, and that of the decisions.
    fn numenta(&self, tuning: &Tuning) -> (f64, f64, f64) {
        let of = |file: &nab::File| -> (Vec<f64>, Vec<f64>) {
            let mut detector = Detector::new(Setup { kind: Kind::Gauge, step: None, warmup: file.probation() });
            let rows = file.rows.iter().map(|(at, value)| detector.observe_with(tuning, Some(*at), Some(*value)));
            rows.map(|finding| (finding.score, f64::from(u8::from(finding.alarm)))).unzip()
        };
        let both: Vec<(Vec<f64>, Vec<f64>)> = self.files.iter().map(of).collect();
        let files: Vec<&nab::File> = self.files.iter().collect();
        let scores: Vec<&[f64]> = both.iter().map(|(scores, _)| scores.as_slice()).collect();
        let alarms: Vec<&[f64]> = both.iter().map(|(_, alarms)| alarms.as_slice()).collect();
        let [standard, low, _] = nab::PROFILES.map(|profile| nab::best(&files, &scores, profile).score);
        (standard, low, nab::at(&files, &alarms, nab::PROFILES[0], 1.0))
    }
}

/// Returns a tuning with one number or a few changed.
fn changed(tuning: &Tuning, draws: &mut StdRng) -> Tuning {
    let mut changed = tuning.clone();
    let mut factor = |spread: f64| {
        let normal: f64 = StandardNormal.sample(draws);
        (spread * normal).exp()
    };
    let factors: Vec<f64> = (0..40).map(|_| factor(0.35)).collect();
    let count = [1, 1, 2, 3, 5][draws.random_range(0..5)];
    for by in factors.into_iter().take(count) {
        let f = by as f32;
        match draws.random_range(0..45) {
            at @ 0..18 => {
                let weight = &mut changed.weights[at];
                *weight = if draws.random_bool(0.08) { 0.0 } else { (weight.max(0.05) * f * f).min(4.0) };
            }
            18 => changed.base = (changed.base * f).clamp(1.4, 6.0),
            19 => changed.cap = (changed.cap * f).clamp(4.0, 16.0),
            20 => changed.leak = (changed.leak * f.sqrt()).clamp(0.0, 0.95),
            21 | 22 => changed.alarm = (changed.alarm * f).clamp(0.3, 60.0),
            23 => changed.haste = (changed.haste * f).clamp(0.0, 1.0),
            24 => changed.habit = (changed.habit * f).clamp(0.3, 30.0),
            25 => changed.again_below = (1.0 + (changed.again_below - 1.0) * f).clamp(1.01, 3.0),
            26 => changed.again_above = (1.0 + (changed.again_above - 1.0) * f).clamp(1.05, 30.0),
            27 => changed.horizon = (changed.horizon * f).clamp(0.02, 0.4),
            28 => changed.fast = (changed.fast * f).clamp(0.05, 0.9),
            29 => changed.clip = (changed.clip * by).clamp(1.5, 10.0),
            30 => changed.short = (changed.short * f).clamp(3.0, 40.0),
            31 => changed.drift = (changed.drift * f).clamp(0.1, 2.0),
            32 => changed.peaks = (changed.peaks * f).clamp(15.0, 255.0),
            33 => changed.slow = (changed.slow * by).clamp(0.1, 10.0),
            34 => changed.scale = (changed.scale * by).clamp(0.2, 10.0),
            35 => changed.long = (changed.long * by).clamp(1.5, 30.0),
            36 => changed.peak_clip = (changed.peak_clip * f).clamp(2.0, 30.0),
            37 => changed.shape = (changed.shape * f).clamp(0.05, 0.95),
            38 => changed.mid = (changed.mid * f).clamp(0.01, 0.5),
            39 => changed.mid_smooth = (changed.mid_smooth * f).clamp(0.03, 1.0),
            40 => changed.row = (changed.row * f).clamp(0.2, 10.0),
            41 => changed.over = (changed.over * f).clamp(0.02, 0.95),
            42 => changed.crowd = (changed.crowd * f).clamp(0.01, 0.5),
            43 => changed.incident = (changed.incident * f).clamp(0.0, 1.0),
            _ => match draws.random_range(0..2) {
                0 => changed.rare = (changed.rare * f).clamp(0.05, 1.0),
                _ => changed.floor = (changed.floor * by).clamp(1e-5, 1e-2),
            },
        }
    }
    changed
}

/// What is tuned, and how long.
pub(crate) struct Wanted {
    pub(crate) minutes: f64,
    /// Seeds of labelled series, from 0 on.
    pub(crate) seeds: u64,
    /// The seed of the changes.
    pub(crate) seed: u64,
    /// The half of the benchmark that is looked at; `None` for all of it.
    pub(crate) half: Option<usize>,
}

/// Changes the shipped numbers for so many minutes, and prints what was better.
pub(crate) fn tune(wanted: &Wanted, files: Vec<nab::File>) {
    let labelled = FAMILIES.iter().flat_map(|family| (0..wanted.seeds).map(|seed| series(family, seed))).collect();
    let is_looked_at = |index: usize| wanted.half.is_none_or(|half| index % 2 == half);
    let files = files.into_iter().enumerate().filter(|(index, _)| is_looked_at(*index)).map(|(_, file)| file);
    let problem = Problem { labelled, files: files.collect() };
    let mut draws = StdRng::seed_from_u64(wanted.seed);
    let mut best = Tuning::SHIPPED;
    let mut quality = problem.quality(&best);
    println!("begin {quality}");
    let begun = Instant::now();
    let (mut here, mut reached) = (best.clone(), quality.clone());
    let mut tried = 0_u32;
    loop {
        let spent = begun.elapsed().as_secs_f64() / (60.0 * wanted.minutes);
        if spent >= 1.0 {
            break;
        }
        let next = changed(&here, &mut draws);
        let found = problem.quality(&next);
        tried += 1;
        // A small step back is taken now and then, ever more seldom (annealing).
        let warmth = 0.25 * (1.0 - spent).powi(2);
        let back: f64 = -warmth * draws.random_range(1e-9..1.0_f64).ln();
        if found.objective > reached.objective - back {
            (here, reached) = (next, found);
            if reached.objective > quality.objective {
                (best, quality) = (here.clone(), reached.clone());
                println!("{tried} {quality}\n{best:?}");
            }
        }
    }
    println!("{tried} tried: {best:#?}");
}

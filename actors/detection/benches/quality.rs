//! How good are the decisions, on labelled series and on the Numenta Anomaly Benchmark?
//!
//!     KLOROS_NAB=FOLDER cargo bench -p kloros-detection --bench quality -- [--seeds N] [--first SEED] [--long] [--ours]
//!
//! All detectors see every row once and in order, and learn from the same warm-up. Without the variable the second part is
//! left out. With `--long`, what was found and missed is told by kind and by file, with `--ours` nothing of the simple ones.
//! With `--tune MINUTES`, other numbers than the shipped ones are tried on other seeds; `--half 0` or `1` shows them half of
//! the files.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::Path;

use kloros_detection::{Detector, Kind, Setup};

#[path = "suite/mod.rs"]
mod suite;

use suite::{
    Labelled, Rival,
    events::Tally,
    generate::{FAMILIES, series},
    nab,
    simple::{Cusum, Ewma, RobustZ, Sigma, Spot},
    tune::{Wanted, tune},
};

struct Ours {
    detector: Detector,
    load: Detector,
    is_surge: bool,
    cause: String,
}

impl Ours {
    fn new(setup: Setup) -> Self {
        Self { detector: Detector::new(setup), load: Detector::new(setup), is_surge: false, cause: String::new() }
    }
}

impl Rival for Ours {
    fn row(&mut self, at: f64, value: Option<f64>) -> (f64, bool) {
        let finding = self.detector.observe(Some(at), value);
        self.cause = format!("{:?}", finding.cause).to_lowercase();
        (finding.score, finding.alarm && !std::mem::take(&mut self.is_surge))
    }

    fn load(&mut self, at: f64, load: f64) {
        self.is_surge = self.load.observe(Some(at), Some(load)).is_surge();
    }

    fn cause(&self) -> String {
        self.cause.clone()
    }
}

type Make = fn(Setup) -> Box<dyn Rival>;

const RIVALS: [(&str, Make); 6] = [
    ("kloros", |setup| Box::new(Ours::new(setup))),
    ("3 sigma", |setup| Box::new(Sigma::new(setup.warmup, 3.0))),
    ("EWMA", |setup| Box::new(Ewma::new(setup.warmup, 5.0))),
    ("robust z", |setup| Box::new(RobustZ::new(setup.warmup, 8.0))),
    ("EWMA+SPOT", |setup| Box::new(Spot::new(setup.warmup, 5.0))),
    ("CUSUM", |setup| Box::new(Cusum::new(setup.warmup, 40.0))),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let after =
        |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    let seeds: u64 = after("--seeds").map_or(10, |seeds| seeds.parse().expect("a number of seeds"));
    let first: u64 = after("--first").map_or(1000, |first| first.parse().expect("a seed"));
    let root = std::env::var_os("KLOROS_NAB");
    let files = root.map(|root| nab::read(Path::new(&root))).unwrap_or_default();
    if let Some(minutes) = after("--tune") {
        let wanted = Wanted {
            minutes: minutes.parse().expect("minutes"),
            seeds: after("--seeds").map_or(5, |seeds| seeds.parse().expect("a number of seeds")),
            seed: after("--seed").map_or(1, |seed| seed.parse().expect("a seed")),
            half: after("--half").map(|half| half.parse().expect("0 or 1")),
        };
        return tune(&wanted, files);
    }
    let is_long = arguments.iter().any(|argument| argument == "--long");
    let rivals = if arguments.iter().any(|argument| argument == "--ours") { &RIVALS[..1] } else { &RIVALS };
    labelled(rivals, first, seeds, is_long);
    if !files.is_empty() {
        numenta(rivals, &files, is_long);
    }
}

/// Simple detectors get the growth of a counter, with nothing where it began anew.
fn growth(series: &Labelled) -> Vec<(f64, Option<f64>)> {
    if series.kind == Kind::Gauge {
        return series.rows.clone();
    }
    let mut before = None;
    let grown = |(at, value): &(f64, Option<f64>)| {
        let value = *value;
        let grown = value.zip(before).map(|(now, before): (f64, f64)| now - before).filter(|grown| *grown >= 0.0);
        before = value.or(before);
        (*at, grown)
    };
    series.rows.iter().map(grown).collect()
}

fn labelled(rivals: &[(&str, Make)], first: u64, seeds: u64, is_long: bool) {
    println!("labelled series: {} families, seeds {first} to {}", FAMILIES.len(), first + seeds - 1);
    println!(
        "{:12} {:>9} {:>7} {:>6} {:>15} {:>13} {:>11}",
        "", "precision", "recall", "F1", "false a day", "median delay", "90 % delay"
    );
    for &(name, make) in rivals {
        let mut tally = Tally::default();
        for family in FAMILIES {
            for seed in first..first + seeds {
                let series = series(family, seed);
                let is_ours = name == "kloros";
                let kind = if is_ours { series.kind } else { Kind::Gauge };
                let mut rival = make(Setup { kind, step: Some(series.step), warmup: series.warmup });
                let rows = if is_ours { series.rows.clone() } else { growth(&series) };
                let mut alarms = Vec::new();
                for (row, (at, value)) in rows.iter().enumerate() {
                    if let Some(load) = &series.load {
                        rival.load(*at, load[row]);
                    }
                    if rival.row(*at, *value).1 {
                        alarms.push((row, rival.cause()));
                    }
                }
                tally.add(&series, &alarms);
            }
        }
        println!(
            "{name:12} {:9.3} {:7.3} {:6.3} {:15.3} {:13} {:11}",
            tally.precision(),
            tally.recall(),
            tally.f1(),
            tally.false_a_day(),
            tally.delay(0.5),
            tally.delay(0.9)
        );
        if is_long && name == "kloros" {
            for (what, (found, all)) in &tally.by {
                println!("    {what:24} {found:4} of {all:4}");
            }
            println!("    false alarms {:?}", tally.false_by);
        }
    }
}

fn numenta(rivals: &[(&str, Make)], files: &[nab::File], is_long: bool) {
    println!("Numenta Anomaly Benchmark: {} files", files.len());
    println!("{:12} {:>10} {:>10} {:>10} {:>10} {:>12}", "", "standard", "low FP", "low FN", "decisions", "two halves");
    for &(name, make) in rivals {
        let both: Vec<(Vec<f64>, Vec<f64>)> = files
            .iter()
            .map(|file| {
                let mut rival = make(Setup { kind: Kind::Gauge, step: None, warmup: file.probation() });
                let rows = file.rows.iter().map(|(at, value)| rival.row(*at, Some(*value)));
                rows.map(|(score, alarm)| (score, f64::from(u8::from(alarm)))).unzip()
            })
            .collect();
        let all: Vec<&nab::File> = files.iter().collect();
        let scores: Vec<&[f64]> = both.iter().map(|(scores, _)| scores.as_slice()).collect();
        let alarms: Vec<&[f64]> = both.iter().map(|(_, alarms)| alarms.as_slice()).collect();
        let [standard, low, high] = nab::PROFILES.map(|profile| nab::best(&all, &scores, profile));
        let decisions = nab::at(&all, &alarms, nab::PROFILES[0], 1.0);
        println!(
            "{name:12} {:10.1} {:10.1} {:10.1} {decisions:10.1} {:12.1}",
            standard.score,
            low.score,
            high.score,
            halves(&all, &scores)
        );
        if is_long && name == "kloros" {
            println!("    threshold {:.3}", standard.threshold);
            for (index, file) in files.iter().enumerate() {
                let at = nab::at(&[file], &[scores[index]], nab::PROFILES[0], standard.threshold);
                println!("    {:60} {at:7.1} of {} windows", file.name, file.windows);
            }
        }
    }
}

/// Returns the standard score where the threshold of each half is the best one of the other half.
fn halves(files: &[&nab::File], scores: &[&[f64]]) -> f64 {
    let part = |rest: usize| -> (Vec<&nab::File>, Vec<&[f64]>) {
        files
            .iter()
            .zip(scores)
            .enumerate()
            .filter(|(index, _)| index % 2 == rest)
            .map(|(_, (file, scores))| (*file, *scores))
            .unzip()
    };
    let (one, other) = (part(0), part(1));
    let carried = |from: &(Vec<&nab::File>, Vec<&[f64]>), to: &(Vec<&nab::File>, Vec<&[f64]>)| {
        let threshold = nab::best(&from.0, &from.1, nab::PROFILES[0]).threshold;
        let windows: u32 = to.0.iter().map(|file| file.windows).sum();
        nab::at(&to.0, &to.1, nab::PROFILES[0], threshold) * f64::from(windows)
    };
    let windows: u32 = files.iter().map(|file| file.windows).sum();
    (carried(&one, &other) + carried(&other, &one)) / f64::from(windows)
}

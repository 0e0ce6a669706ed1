//! How fast and how small?

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::time::Instant;

use kloros_detection::{Detector, Kind, Setup};

/// How many series are looked at in turn.
const SERIES: usize = 10_000;

/// How many rows of each.
const ROWS: usize = 400;

fn main() {
    let setup = Setup { kind: Kind::Gauge, step: Some(1.0), warmup: 300 };
    let mut detectors: Vec<Detector> = (0..SERIES).map(|_| Detector::new(setup)).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let values: Vec<f64> = (0..65_536)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            100.0 + ((state >> 40) as f64 / 16_777_216.0 - 0.5) * 10.0
        })
        .collect();
    let mut turns = Vec::new();
    let mut alarms = 0_u64;
    for row in 0..ROWS {
        let begun = Instant::now();
        for (index, detector) in detectors.iter_mut().enumerate() {
            let value = values[(index * 31 + row * 7919) & 65_535];
            alarms += u64::from(detector.observe(Some(row as f64), Some(value)).alarm);
        }
        if row > 320 {
            turns.push(begun.elapsed().as_secs_f64());
        }
    }
    turns.sort_by(f64::total_cmp);
    let (best, median, worst) = (turns[0], turns[turns.len() / 2], turns[turns.len() - 1]);
    println!("{:.2} million points a second at {SERIES} series ({alarms} alarms)", SERIES as f64 / best / 1e6);
    println!("{} bytes a series", std::mem::size_of::<Detector>());
    // What counts is wall time: where others use the core as well, it is more than the work takes.
    println!(
        "{:.2} % of a core for {SERIES} series each second (median turn; {:.2} at best, {:.2} at worst)",
        100.0 * median,
        100.0 * best,
        100.0 * worst
    );
}

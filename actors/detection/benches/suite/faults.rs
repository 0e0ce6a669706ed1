//! What goes wrong in a series.

use kloros_detection::Kind;

use super::{
    Event, Labelled,
    generate::{Draws, Healthy},
};

/// Returns the faults that a family knows.
fn kinds(family: &str) -> &'static [&'static str] {
    match family {
        "memory" | "disk" => &["leak", "spike", "flat", "missing", "shift"],
        "clock" | "jobs" => &["halfway", "stuck", "flat", "missing", "spike"],
        "temperature" => &["hot", "ramp", "stuck", "flat", "missing"],
        "nightly" => &["early", "early", "shift", "flat", "missing"],
        "errors" | "queue" => &["shift", "ramp", "spike", "missing"],
        "requests" | "bytes" => &["stall", "slower", "faster", "missing"],
        "idle" => &["step", "spike", "missing"],
        _ => &["shift", "shift", "ramp", "spike", "volatility", "flat", "missing"],
    }
}

/// Returns the series with a few faults, far from each other.
pub(crate) fn spoil(family: &'static str, healthy: Healthy, draws: &mut Draws, step: f64, warmup: u32) -> Labelled {
    let Healthy { mut values, noise, kind, load } = healthy;
    let length = values.len();
    let mut events = Vec::new();
    let mut gone = vec![false; length];
    let mut at = warmup as usize + draws.count(150, 700);
    while at + 260 < length {
        let kinds = kinds(family);
        let what = kinds[draws.count(0, kinds.len())];
        let long = match what {
            "spike" => draws.count(1, 4),
            "missing" => draws.count(8, 60),
            "flat" => draws.count(30, 120),
            "early" => draws.count(10, 36),
            "ramp" | "leak" => draws.count(100, 250),
            _ => draws.count(40, 200),
        };
        let end = at + long;
        if kind == Kind::Counter {
            spoil_counter(&mut values, what, at..end, draws);
        } else {
            spoil_gauge(&mut values, &noise, what, at..end, draws);
        }
        if what == "missing" {
            gone[at..end].fill(true);
        }
        events.push(Event { what, start: at, end });
        at = end + draws.count(600, 2500);
    }
    // A scrape fails now and then.
    let lossy = if draws.chance(0.3) { draws.between(0.0, 0.01) } else { 0.0 };
    let start = 1_700_000_000.0 + (draws.between(0.0, 86_400.0) / step).floor() * step;
    let rows = (0..length)
        .map(|row| {
            let value = (!gone[row] && !draws.chance(lossy)).then_some(values[row]);
            (start + row as f64 * step, value)
        })
        .collect();
    Labelled { family, kind, step, warmup, rows, events, load }
}

fn spoil_gauge(values: &mut [f64], noise: &[f64], what: &str, rows: std::ops::Range<usize>, draws: &mut Draws) {
    let (high, low) = values[..rows.start]
        .iter()
        .fold((f64::MIN, f64::MAX), |(high, low), value| (high.max(*value), low.min(*value)));
    let range = (high - low).max(noise[0]);
    let sign = if draws.chance(0.7) { 1.0 } else { -1.0 };
    let size = draws.between(3.0, 9.0);
    let stuck = values[rows.start];
    let long = rows.len() as f64;
    let middle = values[rows.clone()].iter().sum::<f64>() / long;
    for (index, row) in rows.clone().enumerate() {
        let value = values[row];
        let share = (index as f64 + 1.0) / long;
        values[row] = match what {
            "spike" => value + sign * (1.5 * size + 3.0) * noise[row],
            "shift" => value + sign * size * noise[row],
            "step" => value + size.ceil() * noise[row],
            "ramp" => value + sign * 1.3 * size * noise[row] * share,
            "leak" => high.max(value) - 0.3 * range + range * 0.2 * size * share + 0.1 * (value - middle),
            "volatility" => {
                value + (value - middle).clamp(-range, range) * 0.3 + draws.normal() * size * 0.7 * noise[row]
            }
            // The job runs at another time of the day.
            "early" => low + 0.9 * range * (1.0 + 0.02 * draws.normal()),
            "halfway" => low + range * (0.5 + 0.02 * draws.normal()),
            "hot" => value + range * 0.06 * size,
            "stuck" => (if sign > 0.0 { high } else { low }) + 0.01 * range * draws.normal(),
            "flat" => stuck,
            _ => value,
        };
    }
    // A busy machine does not answer less than never.
    if values[..rows.start].iter().all(|value| *value >= 0.0) {
        for value in &mut values[rows] {
            *value = value.max(0.0);
        }
    }
}

fn spoil_counter(values: &mut [f64], what: &str, rows: std::ops::Range<usize>, draws: &mut Draws) {
    let factor = match what {
        "stall" => 0.0,
        "slower" => draws.between(0.05, 0.45),
        "faster" => draws.between(2.0, 4.0),
        _ => return,
    };
    let mut kept = 0.0;
    let mut before = values[rows.start - 1];
    for (row, value) in values.iter_mut().enumerate().skip(rows.start) {
        let grown = *value - before;
        before = *value;
        if grown < 0.0 {
            // Begun anew: what was added or taken is forgotten.
            kept = 0.0;
        } else if rows.contains(&row) {
            kept += grown * (factor - 1.0);
        }
        *value = (*value + kept).max(0.0).round();
    }
}

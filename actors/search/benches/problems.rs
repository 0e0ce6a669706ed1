//! How good are the recommendations after 24 and 48 measurements, on published problems?
//!
//!     cargo bench -p kloros-search --bench problems -- [--seeds N] [--set SET] [--budget N] [--problem NAME] [--lot N]
//!         [--earlier N] [--labels]
//!
//! Regret is that of the recommended setting on the noise-free function: 0 the best there is, 1 the default, 2 one that
//! fails. Beside it the share of measurements that failed and of recommendations that are worse than the default, and in the end
//! where the regret stands against that of as many settings by chance. With `--lot`, so many are measured before the next are
//! asked. With `--earlier`, the search is told so many measurements that another one made of the same problem three days ago.
//! With `--labels`, what trips a guard is told as a failure, in place of its number with the penalty that the daemon gives it. With
//! `--evaluate NAME SEED`, it answers settings from the input, a JSON line each, for a comparison with other tuners.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::{
    cmp::Ordering,
    io::{BufRead, stdin},
    time::{Duration, Instant},
};

use kloros_search::{Config, Earlier, Options, Outcome, Search};
use rand::{RngExt, SeedableRng, rngs::StdRng};

#[path = "suite/mod.rs"]
mod suite;

use suite::{COUPLED, CRASHING, GUARDED, HOLD_OUT, NOISY, Problem, TUNED, WIDE, drawn, problem};

/// How often the runs are drawn anew for an interval.
const DRAWS: usize = 4000;

/// What one run came to.
struct Run {
    regret: f64,
    failed: f64,
    worse: bool,
    /// The gain that was promised, as a share of the true one.
    claim: f64,
    /// Whether the true gain is inside the promised interval.
    held: bool,
    asking: Duration,
    asks: u32,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let after =
        |name: &str| arguments.iter().position(|argument| argument == name).and_then(|at| arguments.get(at + 1));
    if let Some(name) = after("--evaluate") {
        let seed = arguments.last().and_then(|seed| seed.parse().ok()).expect("a seed");
        return evaluate(name, seed);
    }
    let seeds: u64 = after("--seeds").map_or(5, |seeds| seeds.parse().expect("a number of seeds"));
    let lot: u32 = after("--lot").map_or(1, |lot| lot.parse().expect("the size of a lot"));
    let earlier: u32 = after("--earlier").map_or(0, |count| count.parse().expect("a number of measurements"));
    let labels = arguments.iter().any(|argument| argument == "--labels");
    let budgets = after("--budget").map_or(vec![24, 48], |budget| vec![budget.parse().expect("a budget")]);
    let names: Vec<&str> = match (after("--problem"), after("--set").map(String::as_str)) {
        (Some(name), _) => vec![name.as_str()],
        (None, Some("tuned")) => TUNED.to_vec(),
        (None, Some("coupled")) => COUPLED.to_vec(),
        (None, Some("crashing")) => CRASHING.to_vec(),
        (None, Some("guarded")) => GUARDED.to_vec(),
        (None, Some("noisy")) => NOISY.to_vec(),
        (None, Some("wide")) => WIDE.to_vec(),
        (None, Some("hold-out")) => HOLD_OUT.to_vec(),
        (None, _) => [TUNED, HOLD_OUT].concat(),
    };
    for budget in budgets {
        println!(
            "\n{:24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
            format!("budget {budget}, {seeds} seeds"),
            "random",
            "regret",
            "failed",
            "worse",
            "claimed",
            "held",
            "ms/ask"
        );
        let mut totals: Vec<(Run, f64)> = Vec::new();
        for name in &names {
            let runs: Vec<(Run, f64)> = (0..seeds)
                .map(|seed| {
                    let problem = problem(name, seed);
                    let problem = if labels { problem.in_labels() } else { problem };
                    let warm = if earlier > 0 { before(&problem, earlier, seed) } else { Vec::new() };
                    (searched(&problem, (budget, lot), seed, warm), guessed(&problem, budget, seed))
                })
                .collect();
            report(name, &runs);
            totals.extend(runs);
        }
        report("all", &totals);
        compare(&totals);
    }
}

fn report(name: &str, runs: &[(Run, f64)]) {
    let count = runs.len() as f64;
    let mean = |of: &dyn Fn(&(Run, f64)) -> f64| runs.iter().map(of).sum::<f64>() / count;
    println!(
        "{name:24} {:8.4} {:8.4} {:7.1}% {:7.1}% {:8.2} {:7.1}% {:8.2}",
        mean(&|(_, random)| *random),
        mean(&|(run, _)| run.regret),
        100.0 * mean(&|(run, _)| run.failed),
        100.0 * mean(&|(run, _)| f64::from(u8::from(run.worse))),
        mean(&|(run, _)| run.claim),
        100.0 * mean(&|(run, _)| f64::from(u8::from(run.held))),
        mean(&|(run, _)| run.asking.as_secs_f64() * 1e3 / f64::from(run.asks)),
    );
}

/// Says where the mean regret stands against that of chance, with the 95 % bootstrap interval, both of a run drawn together, and the
/// mean rank among the two.
fn compare(runs: &[(Run, f64)]) {
    let mut rng = StdRng::seed_from_u64(0);
    let mut ratio = || {
        let drawn: Vec<&(Run, f64)> = (0..runs.len()).map(|_| &runs[rng.random_range(0..runs.len())]).collect();
        let ours: f64 = drawn.iter().map(|(run, _)| run.regret).sum();
        100.0 * (ours / drawn.iter().map(|(_, random)| random).sum::<f64>() - 1.0)
    };
    let mut ratios: Vec<f64> = (0..DRAWS).map(|_| ratio()).collect();
    ratios.sort_by(f64::total_cmp);
    let behind = |(run, random): &(Run, f64)| match run.regret.total_cmp(random) {
        Ordering::Less => 1.0,
        Ordering::Equal => 1.5,
        Ordering::Greater => 2.0,
    };
    println!(
        "against chance: {:+.0} % regret ({:+.0} to {:+.0}), mean rank {:.2} of 2",
        ratios[DRAWS / 2],
        ratios[DRAWS / 40],
        ratios[DRAWS - 1 - DRAWS / 40],
        runs.iter().map(behind).sum::<f64>() / runs.len() as f64
    );
}

/// Returns what another search of the problem measured.
fn before(problem: &Problem, count: u32, seed: u64) -> Vec<Earlier> {
    let (default, noisy) = (Some(problem.default.clone()), problem.noise > 0.0);
    let options = Options { budget: count, seed: seed + 1000, default, noisy, ..Options::default() };
    let mut search = Search::new(problem.space.clone(), options);
    let mut rng = StdRng::seed_from_u64(seed + 1000);
    let mut earlier = Vec::new();
    while let Some(candidate) = search.ask(1).pop() {
        let outcome = problem.measured(&candidate.config, &mut rng).map_or(Outcome::Failed, Outcome::Value);
        search.tell(candidate.id, outcome).expect("it was asked");
        earlier.push(Earlier { config: candidate.config, outcome, age: 3.0, distance: 0.1 });
    }
    earlier
}

/// Lets the engine search.
fn searched(problem: &Problem, (budget, lot): (u32, u32), seed: u64, warm: Vec<Earlier>) -> Run {
    let options = Options {
        budget,
        batch: lot,
        seed,
        default: Some(problem.default.clone()),
        noisy: problem.noise > 0.0,
        warm,
        ..Options::default()
    };
    let mut search = Search::new(problem.space.clone(), options);
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut failed, mut told, mut asking, mut asks) = (0_u32, 0_u32, Duration::ZERO, 0);
    loop {
        let start = Instant::now();
        let asked = search.ask(lot);
        asking += start.elapsed();
        asks += 1;
        if asked.is_empty() {
            break;
        }
        for candidate in asked {
            let measured = problem.measured(&candidate.config, &mut rng);
            failed += u32::from(measured.is_none());
            told += 1;
            search.tell(candidate.id, measured.map_or(Outcome::Failed, Outcome::Value)).expect("it was asked");
        }
    }
    let found = search.recommendation();
    let recommended = found.as_ref().map_or_else(|| problem.default.clone(), |found| found.config.clone());
    let true_gain = problem.gain(&recommended);
    let claim = found.as_ref().and_then(|found| found.gain).unwrap_or_default();
    let interval = found.as_ref().and_then(|found| found.gain_interval).unwrap_or_default();
    let slack = 1e-9 * (1.0 + true_gain.abs());
    let held = (interval.0 - slack..=interval.1 + slack).contains(&true_gain);
    let claim = if true_gain == 0.0 { 1.0 } else { claim / true_gain };
    let regret = problem.regret(&recommended);
    Run { regret, failed: f64::from(failed) / f64::from(told), worse: regret > 1.0, claim, held, asking, asks }
}

/// Lets chance search: the regret of the best measured value.
fn guessed(problem: &Problem, budget: u32, seed: u64) -> f64 {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut best = (f64::INFINITY, problem.default.clone());
    for number in 0..budget {
        let config = if number == 0 { problem.default.clone() } else { drawn(&problem.space, &mut rng) };
        match problem.measured(&config, &mut rng) {
            Some(value) if value < best.0 => best = (value, config),
            _ => {}
        }
    }
    problem.regret(&best.1)
}

/// Says what the problem is, then for each setting what is measured and its regret.
fn evaluate(name: &str, seed: u64) {
    let problem = problem(name, seed);
    let mut rng = StdRng::seed_from_u64(seed);
    println!(
        "{}",
        serde_json::json!({"space": problem.space.spec(), "default": problem.default, "noisy": problem.noise > 0.0})
    );
    for line in stdin().lock().lines() {
        let config: Config = serde_json::from_str(&line.expect("a line")).expect("a setting");
        let measured = problem.measured(&config, &mut rng);
        println!("{}", serde_json::json!({"value": measured, "regret": problem.regret(&config)}));
    }
}

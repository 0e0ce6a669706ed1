//! A/A on the lab for real: validations of a change that changes nothing, as the validator would judge them.
//!
//! Each run is an instance of the lab of its own, measured by the real program; the real judge has old and new take turns, which
//! run with the very same settings. A success is a false one. `KLOROS_AA=60 cargo test --test aa -- --nocapture` makes sixty
//! validations as shipped and prints each as it is judged; each takes at least 24 runs of about three seconds, and up to ten times as many
//! where the machine is noisy, which `KLOROS_AA_BLOCKS=12` cuts off after 48. Without it two short ones are made.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "how much was tried is part of the answer")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use kloros_actors::{
    facts::{Direction, FailureKind, Guard, MetricSpec, Metrics, Ruled},
    validator::{
        Config,
        verdict::{Course, Judgement, Run, arrange, course},
    },
};

/// How many validations are made where nothing says how many; they are short.
const SHORT: u32 = 2;

/// The share of false successes that is allowed.
const FALSE_MAX: f64 = 0.05;

/// The chance that more than that are found where the share is that of [`FALSE_MAX`].
const CHANCE: f64 = 0.001;

/// Settings with which the lab answers what it is asked.
const SETTINGS: &str =
    "LAB_MAX_NUM_SEQS=6\nLAB_BATCH_WAIT_MS=5\nLAB_PRECISION=f32\nLAB_KV_CACHE_MIB=64\nLAB_PREFILL_CHUNK=64\n";

#[test]
fn changes_that_change_nothing_are_hardly_ever_judged_a_success() {
    let wanted: Option<u32> = std::env::var("KLOROS_AA").ok().map(|count| count.parse().unwrap());
    let count = wanted.unwrap_or(SHORT);
    let blocks_max = std::env::var("KLOROS_AA_BLOCKS").ok().map(|blocks| blocks.parse().unwrap());
    let config = match wanted {
        Some(_) => Config { blocks_max: blocks_max.unwrap_or(Config::default().blocks_max), ..Config::default() },
        None => Config { blocks_min: 2, blocks_max: 2, ..Config::default() },
    };
    let home = tempfile::tempdir().unwrap();
    furnish(home.path());
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    let mut runs = 0;
    for case in 1..=count {
        let (judgement, made) = validate(home.path(), &config, case);
        runs += made;
        *found.entry(judgement.outcome.label()).or_default() += 1;
        let improvement = judgement.improvement.map_or_else(
            || "not measured".to_owned(),
            |each| format!("{:+.1} % ({:+.1} to {:+.1})", each.ratio * 100.0, each.low * 100.0, each.high * 100.0),
        );
        println!("{case:3} {:8} {improvement} {made} runs: {}", judgement.outcome.label(), judgement.reason);
        assert!(judgement.blocks >= 1, "nothing was measured: {judgement:?}");
    }
    let successes = found.get(Ruled::Success.label()).copied().unwrap_or(0);
    let share = f64::from(successes) / f64::from(count) * 100.0;
    println!("{count} A/A validations, {runs} runs: {found:?}, false successes {share:.1} %, at most 5 % are allowed");
    assert!(successes <= most_of(count), "{successes} of {count} changes of nothing were a success");
}

/// Returns how many of `count` may be false successes before that is no accident, if each is one with [`FALSE_MAX`].
fn most_of(count: u32) -> u32 {
    let n = f64::from(count);
    let mut chance = (1.0 - FALSE_MAX).powf(n);
    let mut below = chance;
    let mut most = 0;
    while below < 1.0 - CHANCE && most < count {
        let so_far = f64::from(most);
        chance *= (n - so_far) / (so_far + 1.0) * FALSE_MAX / (1.0 - FALSE_MAX);
        below += chance;
        most += 1;
    }
    most
}

#[test]
fn more_false_successes_than_chance_makes_are_too_many() {
    assert_eq!([1, 2, 60, 1000].map(most_of), [1, 2, 9, 73]);
}

/// What is other than in the domain file that ships: a load that the lab can bear, so that there is something to lose, and a machine
/// that is never too busy.
const CHANGED: [(&str, &str); 4] = [
    ("others_rise_max = 0.25", "others_rise_max = 1.0"),
    ("rate_per_s = 36", "rate_per_s = 10"),
    ("slo = { ttft_ms = 500, e2e_ms = 1200 }", "slo = { ttft_ms = 2000, e2e_ms = 4000 }"),
    ("request_timeout_s = 2\n", "request_timeout_s = 6\n"),
];

/// Lays the lab out.
fn furnish(home: &Path) {
    let mut domain = include_str!("../config/domains/lab.toml").to_owned();
    for (shipped, changed) in CHANGED {
        assert!(domain.contains(shipped), "the domain file does not say {shipped}");
        domain = domain.replace(shipped, changed);
    }
    fs::create_dir_all(home.join("domains")).unwrap();
    fs::write(home.join("domains/lab.toml"), domain).unwrap();
    fs::write(home.join(".kloros_env"), SETTINGS).unwrap();
    let lease = home.join("lease").display().to_string();
    fs::write(home.join("kloros.toml"), format!("[measuring]\nlease_folder = {lease:?}\n")).unwrap();
}

/// Judges one change of nothing, and returns the verdict with how many runs it took.
fn validate(home: &Path, config: &Config, case: u32) -> (Judgement, usize) {
    let specs = specs();
    let mut runs: Vec<Run> = Vec::new();
    loop {
        let block = match course(config, &specs, None, &runs) {
            Course::Judge(judgement) => return (judgement, runs.len()),
            Course::Measure { block, .. } => block,
        };
        // One load for all four runs of a block, as the validator has it.
        let seed = case * 1000 + block;
        for (candidate, place) in arrange((case + block).is_multiple_of(2)).into_iter().zip(1..) {
            let outcome = measure(home, seed);
            runs.push(Run { block, place, candidate, outcome, samples: 1 });
        }
    }
}

fn specs() -> BTreeMap<String, MetricSpec> {
    let guard = Some(Guard { value_max: Some(0.4), loss_max: None });
    [
        ("goodput_per_s", MetricSpec { direction: Direction::Up, weight: 1.0, guard: None }),
        ("e2e_p50_ms", MetricSpec { direction: Direction::Down, weight: 0.5, guard: None }),
        ("error_rate", MetricSpec { direction: Direction::Down, weight: 0.0, guard }),
    ]
    .map(|(name, spec)| (name.to_owned(), spec))
    .into()
}

/// Measures the lab once on an instance of its own.
fn measure(home: &Path, seed: u32) -> Result<Metrics, FailureKind> {
    let output = Command::new(env!("CARGO_BIN_EXE_kloros"))
        .arg("--home")
        .arg(home)
        .args(["--json", "bench", "lab", "--seed", &seed.to_string()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(said.trim()).unwrap_or_default();
    let metrics = report["now"][0].as_object().ok_or(FailureKind::BenchFailed)?;
    let number = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_f64()?));
    Ok(metrics.iter().filter_map(number).collect())
}

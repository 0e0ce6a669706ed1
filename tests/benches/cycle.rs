//! One whole cycle on the lab, timed, and its verdict held against a separate measurement: `cargo bench --bench cycle`.
//!
//! The real program closes a cycle in a home of its own. Then the settings before and after it take turns under the same
//! bench, without the daemon, without its load and without its statistics.

use std::{
    fs,
    io::{Error, Write},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;

/// How long a cycle may take, in seconds.
const CYCLE_S_MAX: f64 = 300.0;

/// How often old and new are measured afterwards.
const PAIRS: &str = "10";

/// What the lab runs with when nothing is set.
const DEFAULTS: [(&str, &str); 6] = [
    ("LAB_MAX_NUM_SEQS", "2"),
    ("LAB_BATCH_WAIT_MS", "20"),
    ("LAB_THREADS", "1"),
    ("LAB_KV_CACHE_MIB", "8"),
    ("LAB_PREFILL_CHUNK", "16"),
    ("LAB_PRECISION", "f64"),
];

fn main() -> std::io::Result<()> {
    let home = tempfile::tempdir()?;
    fs::write(home.path().join("kloros.toml"), "[shell]\nlog = \"error\"\nmetrics_address = \"127.0.0.1:0\"\n")?;
    let began = Instant::now();
    kloros(home.path(), &["run", "--cycles", "1", "--seed", "7"])?;
    let took_s = began.elapsed().as_secs_f64();

    let validations = fs::read_to_string(home.path().join("logs/orchestrator/validations.jsonl"))?;
    let verdict: Value = serde_json::from_str(validations.trim())?;
    let improvement = |part: &str| verdict["improvement"][part].as_f64().ok_or_else(|| missing(&verdict));
    let (ratio, low, high) = (improvement("ratio")?, improvement("low")?, improvement("high")?);
    let changed = verdict["changes"].as_object().ok_or_else(|| missing(&verdict))?;
    let old: Vec<String> = DEFAULTS
        .iter()
        .filter(|(key, _)| changed.contains_key(*key))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();

    // The env file holds the new settings now, so the old ones are what is compared with them.
    let mut arguments = vec!["--json", "bench", "lab", "--runs", PAIRS];
    arguments.extend(old.iter().map(String::as_str));
    let told: Value = serde_json::from_str(kloros(home.path(), &arguments)?.trim())?;
    let mut separate: Vec<f64> = told["improvements"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .map(|loss| 1.0 / (1.0 + loss) - 1.0)
        .collect();
    separate.sort_by(f64::total_cmp);
    let middle = separate.get(separate.len() / 2).copied().ok_or_else(|| missing(&told))?;

    let mut out = std::io::stdout().lock();
    let agrees = (low..=high).contains(&middle);
    writeln!(out, "one cycle on the lab:")?;
    writeln!(out, "  time      {took_s:.0} s   (promised: within {CYCLE_S_MAX:.0} s)")?;
    writeln!(
        out,
        "  verdict   {} {:+.0} % ({:+.0} to {:+.0})",
        verdict["status"].as_str().unwrap_or("-"),
        ratio * 100.0,
        low * 100.0,
        high * 100.0
    )?;
    writeln!(
        out,
        "  separate  {:+.0} %, the median of {} pairs   (promised: within the interval)",
        middle * 100.0,
        separate.len()
    )?;
    if agrees && took_s <= CYCLE_S_MAX { writeln!(out, "both kept") } else { Err(std::io::Error::other("NOT KEPT")) }
}

fn kloros(home: &Path, arguments: &[&str]) -> std::io::Result<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kloros"))
        .arg("--home")
        .arg(home)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(Error::other(format!("kloros {} ended with {}", arguments.join(" "), output.status)));
    }
    String::from_utf8(output.stdout).map_err(Error::other)
}

fn missing(value: &Value) -> Error {
    Error::other(format!("a number is missing in {value}"))
}

//! What supervision costs, beside the layer below it and its rivals: `cargo bench -p kloros-supervision`.
//!
//! Every contender does the same in one run, round after round in changing order, and the medians are compared as ratios:
//! the machine's mood cancels, absolute numbers are printed for interest. Erlang/OTP takes part where `escript` is installed.
//!
//! - **cast**: messages a second from one sender to one actor, until the last is handled.
//! - **restart**: from just before the panic to the replacement's first message handled.
//! - **deaths**: so many supervised actors panic at once, until the last replacement has handled its first message.
//! - **memory**: resident bytes of one idle supervised actor, in a process of its own.

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use tokio::runtime::Runtime;

mod contenders;

use contenders::{CONTENDERS, Contender};

/// How many rounds are run; the medians over them are compared.
const ROUNDS: usize = 15;

/// In how many places of the memory the casts of one round are measured. Where an actor happens to lie among the cache lines makes up to
/// 40 % of a cast, the same way in every run of the same program (Curtsinger and Berger, "Stabilizer", ASPLOS 2013), so that one place
/// alone compares luck.
const PLACES: usize = 12;

/// How much is done in one round.
const CASTS: u64 = 200_000;
const RESTARTS: usize = 1_000;
const DEATHS: usize = 1_000;
const CHILDREN: usize = 20_000;

/// What a contender is measured in.
const MEASURES: [&str; 5] = ["cast/s", "restart p50 us", "restart p99 us", "deaths ms", "memory B"];

type Measured = [f64; MEASURES.len()];

type Results = BTreeMap<&'static str, [Vec<f64>; MEASURES.len()]>;

/// Who takes part: how it is called in the report, which contender it is, and whether each death is reported as it is in
/// service (`logging`: formatted, and thrown away) or not at all (`silent`).
const ENTRIES: [(&str, &str, &str); 6] = [
    ("ractor", "ractor", "silent"),
    ("kameo", "kameo", "silent"),
    ("kloros", "kloros", "silent"),
    ("kloros, logging", "kloros", "logging"),
    ("OTP", OTP, "silent"),
    ("OTP, logging", OTP, "logging"),
];

const OTP: &str = "otp";

fn main() -> std::io::Result<()> {
    // Cargo hands over `--bench`; words are this program asking itself for one round of one entry, in a fresh process.
    let words: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    // Panics are what is measured, not news.
    std::panic::set_hook(Box::new(|_| {}));
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["measure", name, mode] => return measure(name, mode),
        ["hold", name] => return hold(name),
        _ => {}
    }
    let mut results = Results::new();
    for round in 0..ROUNDS {
        for turn in 0..ENTRIES.len() {
            let (entry, contender, mode) = ENTRIES[(round + turn) % ENTRIES.len()];
            let Some(measured) = ask(contender, mode)? else { continue };
            for (all, one) in results.entry(entry).or_default().iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    report(&results)
}

/// Returns what one round of a contender measured; nothing when OTP is not installed.
fn ask(contender: &str, mode: &str) -> std::io::Result<Option<Measured>> {
    let own = std::env::current_exe()?;
    if contender == OTP {
        let numbers = [CASTS as usize, RESTARTS, DEATHS, CHILDREN].map(|number| number.to_string());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/otp.erl");
        let output = Command::new("escript").args([script, mode]).args(numbers).stdout(Stdio::null()).output();
        return Ok(output.ok().and_then(|output| numbers_in(&output.stderr).try_into().ok()));
    }
    let measured = Command::new(&own).args(["measure", contender, mode]).output()?;
    let held = Command::new(&own).args(["hold", contender]).output()?;
    let numbers = [numbers_in(&measured.stdout), numbers_in(&held.stdout)].concat();
    numbers.try_into().map(Some).map_err(|_| std::io::Error::other(format!("{contender} did not measure")))
}

fn numbers_in(text: &[u8]) -> Vec<f64> {
    String::from_utf8_lossy(text).split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn contender(name: &str) -> std::io::Result<&'static Contender> {
    let found = CONTENDERS.iter().find(|contender| contender.name == name);
    found.ok_or_else(|| std::io::Error::other(format!("there is no contender {name}")))
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Prints what one round measured but for the memory.
fn measure(name: &str, mode: &str) -> std::io::Result<()> {
    if mode == "logging" {
        tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(std::io::sink).init();
    }
    let (contender, runtime) = (contender(name)?, runtime()?);
    let casts: Vec<f64> = (0..PLACES)
        .map(|place| {
            // What is never given back pushes everything that follows on by a quarter of a cache line.
            std::mem::forget(vec![0_u8; 24 + 16 * place]);
            CASTS as f64 / runtime.block_on((contender.cast)(CASTS)).as_secs_f64()
        })
        .collect();
    let mut restarts = runtime.block_on((contender.restarts)(RESTARTS));
    restarts.sort_unstable();
    let deaths = runtime.block_on((contender.deaths)(DEATHS));
    let micros = |place: usize| restarts.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6);
    let (half, worst) = (micros(RESTARTS / 2), micros(RESTARTS * 99 / 100));
    writeln!(std::io::stdout(), "{:.0} {half:.3} {worst:.3} {:.3}", median(&casts), deaths.as_secs_f64() * 1e3)
}

/// Prints how much memory each of many idle supervised actors takes.
fn hold(name: &str) -> std::io::Result<()> {
    let (contender, runtime) = (contender(name)?, runtime()?);
    // Once in small first, so that what is there only once is not counted.
    runtime.block_on((contender.hold)(100));
    let before = resident_bytes()?;
    runtime.block_on((contender.hold)(CHILDREN));
    let each = (resident_bytes()? - before) / CHILDREN as f64;
    writeln!(std::io::stdout(), "{each:.0}")?;
    // Actors that stay would otherwise be waited for.
    runtime.shutdown_background();
    Ok(())
}

fn resident_bytes() -> std::io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: Result<f64, _> = line.trim().trim_end_matches("kB").trim().parse();
    kib.map(|kib| kib * 1024.0).map_err(std::io::Error::other)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(results: &Results) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "medians of {ROUNDS} interleaved rounds, two workers")?;
    writeln!(out, "{:18}{}", "", MEASURES.map(|name| format!("{name:>16}")).concat())?;
    for (name, measured) in results {
        let cells = measured.each_ref().map(|values| format!("{:>16.1}", median(values)));
        writeln!(out, "{name:18}{}", cells.concat())?;
    }
    let of = |name: &str, measure: usize| results.get(name).map_or(f64::NAN, |measured| median(&measured[measure]));
    let ratio = |one: &str, other: &str, measure: usize| of(one, measure) / of(other, measure);
    let goals = [
        ("cast, ours to bare ractor", ratio("kloros", "ractor", 0), "at least", 0.9),
        ("restart p50, ours to bare ractor", ratio("kloros", "ractor", 1), "at most", 2.0),
        ("restart p50, OTP to ours, logging", ratio("OTP, logging", "kloros, logging", 1), "at least", 3.0),
        ("restart p99, OTP to ours, logging", ratio("OTP, logging", "kloros, logging", 2), "at least", 10.0),
        ("deaths, ours to OTP, logging", ratio("kloros, logging", "OTP, logging", 3), "at most", 1.0),
        ("memory of supervision, bytes", of("kloros", 4) - of("ractor", 4), "at most", 1024.0),
        ("restart p50, OTP to ours, silent", ratio("OTP", "kloros", 1), "at least", 3.0),
        ("restart p99, OTP to ours, silent", ratio("OTP", "kloros", 2), "at least", 10.0),
        ("deaths, ours to OTP, silent", ratio("kloros", "OTP", 3), "at most", 1.0),
    ];
    for (what, found, side, goal) in goals {
        let kept = if side == "at least" { found >= goal } else { found <= goal };
        let word = match (found.is_nan(), kept) {
            (true, _) => "not measured: is erlang-base installed?",
            (false, true) => "kept",
            (false, false) => "NOT KEPT",
        };
        writeln!(out, "{what:36} {found:>8.2}   {side} {goal:<7} {word}")?;
    }
    Ok(())
}

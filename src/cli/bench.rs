//! `kloros bench`: measures settings on instances of their own, as an experiment would, and changes nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use kloros_actors::{
    facts::{Domain, Metrics, Settings, TrialFailure, objective, usual},
    observer::detectors::median,
    seams::{Assignment, Bench, Purpose},
};
use serde::Serialize;

use super::{
    Answer, ask, failures,
    out::{self, Out},
};
use crate::{bench::Runner, clock::SystemClock, gpus, home::Home, settings::Settings as Configuration};

/// What is measured.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// The domain
    domain: String,
    /// Settings to compare with those of the env file; without any, those of the env file alone are measured
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// How often each is measured, taking turns
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=RUNS_MAX))]
    runs: u32,
    /// The seed of the load
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The configuration file [default: kloros.toml in the home]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The most runs of one command.
const RUNS_MAX: i64 = 1000;

/// What was measured, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    domain: String,
    settings: Settings,
    /// The runs with the env file's settings.
    now: Vec<Metrics>,
    /// The runs with the settings that were given; each under the same load as its partner in `now`.
    then: Vec<Metrics>,
    /// How much better each pair was, as a ratio.
    improvements: Vec<f64>,
    /// How many samples were thrown away and measured again, because others disturbed them.
    discarded: u32,
    /// Why runs failed.
    failures: Vec<TrialFailure>,
}

pub(crate) async fn bench(home: &Home, args: BenchArgs, out: &mut Out) -> anyhow::Result<Answer> {
    home.create()?;
    let (mut domain, settings) = match ask::parse(home, args.config.as_deref(), &args.domain, &args.settings)? {
        Ok(parsed) => parsed,
        Err(why) => return ask::no(&why, out),
    };
    if domain.in_place.is_some() {
        let why = format!(
            "{} is measured in place: only the daemon does that, in its windows; kloros try {} proposes settings",
            domain.name, domain.name
        );
        return ask::no(&why, out);
    }
    domain.service.env_file = home.root().join(&domain.service.env_file);
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let configuration = Configuration::load(home.root(), args.config.as_deref())?;
    let within = Duration::from_secs(configuration.rooms.dream.trial_timeout_s);
    // The daemon may run: its measurements and these take turns.
    let (machine, repeats) = (configuration.measuring.machine(), configuration.measuring.repeats());
    let runner = Runner::new(home.root().to_path_buf(), exe, Arc::new(SystemClock), machine, repeats)
        .watching(gpus::looked_at(&configuration.rooms.gpu, Arc::new(SystemClock)))
        .heard_by(out::aside);
    let report = tokio::select! {
        report = measure((&runner, within), &domain, settings, &args, out) => report?,
        // Dropping the measurement ends its instance.
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("cannot hear Ctrl-C")?;
            bail!("interrupted; nothing was changed and no instance is left");
        }
    };
    let is_whole = report.failures.is_empty();
    out.answer(&report, || words(&report, &domain))?;
    Ok(if is_whole { Answer::Done } else { Answer::No })
}

async fn measure(
    (runner, within): (&Runner, Duration),
    domain: &Domain,
    settings: Settings,
    args: &BenchArgs,
    out: &mut Out,
) -> anyhow::Result<Report> {
    let mut report = Report {
        domain: domain.name.clone(),
        settings,
        now: Vec::new(),
        then: Vec::new(),
        improvements: Vec::new(),
        discarded: 0,
        failures: Vec::new(),
    };
    let mut others = Vec::new();
    for run in 0..args.runs {
        let seed = args.seed.wrapping_add(u64::from(run));
        let (mut now, mut then) = (None, None);
        // Who goes first alternates, so that what drifts does not favour one of them.
        for is_given in [run % 2 == 1, run % 2 == 0] {
            if is_given && report.settings.is_empty() {
                continue;
            }
            if out.is_terminal() {
                out.over(&format!("measures  run {} of {}", run + 1, args.runs))?;
            }
            let settings = if is_given { report.settings.clone() } else { Settings::new() };
            let label = format!("bench.{run}.{}", if is_given { "then" } else { "now" });
            let (purpose, usual, unset) = (Purpose::Experiment, usual(&others), Vec::new());
            match runner.measure(domain, Assignment { label, settings, unset, seed, purpose, within, usual }).await {
                Ok(measurement) => {
                    others.extend(measurement.others);
                    report.discarded += measurement.discarded;
                    *(if is_given { &mut then } else { &mut now }) = Some(measurement.metrics);
                }
                Err(failure) => report.failures.push(failure),
            }
        }
        if let (Some(now), Some(then)) = (&now, &then) {
            report.improvements.extend(objective::improvement(&domain.metrics, now, then));
        }
        report.now.extend(now);
        report.then.extend(then);
    }
    if out.is_terminal() {
        out.over("")?;
    }
    Ok(report)
}

fn words(report: &Report, domain: &Domain) -> String {
    let mut names: Vec<&String> = report.now.iter().chain(&report.then).flat_map(Metrics::keys).collect();
    names.sort();
    names.dedup();
    let compares = !report.settings.is_empty();
    let columns = if compares { "now         then" } else { "now" };
    let mut lines = vec![format!(
        "{:24} {:>width$}",
        format!("median of {}", report.now.len()),
        columns,
        width = columns.len() + 9
    )];
    for name in names {
        let cell = |runs: &[Metrics]| {
            median(runs.iter().filter_map(|metrics| metrics.get(name).copied()))
                .map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
        };
        let mark = if domain.metrics.contains_key(name) { "*" } else { " " };
        let then = if compares { format!(" {:>12}", cell(&report.then)) } else { String::new() };
        lines.push(format!("{mark} {name:22} {:>12}{then}", cell(&report.now)));
    }
    if let Some(middle) = median(report.improvements.iter().copied()) {
        let least = report.improvements.iter().copied().fold(f64::INFINITY, f64::min);
        let most = report.improvements.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let [middle, least, most] = [middle, least, most].map(|ratio| ratio * 100.0);
        // One number has no spread to tell of.
        lines.push(match report.improvements.len() {
            1 => format!("then is {middle:+.1} % against now, in the one pair that was measured"),
            pairs => {
                format!("then is {middle:+.1} % against now, the median of {pairs} pairs ({least:+.1} to {most:+.1})")
            }
        });
    }
    lines.extend((report.discarded > 0).then(|| failures::discarded(report.discarded)));
    lines.extend(report.failures.iter().map(|failure| format!("failed: {}: {}", failure.kind, failure.detail)));
    // Nobody is to try what was just measured to be worse.
    let is_better = median(report.improvements.iter().copied()).is_some_and(|middle| middle > 0.0);
    if compares && is_better && report.failures.is_empty() {
        let settings: Vec<String> = report.settings.iter().map(|(key, value)| format!("{key}={value}")).collect();
        lines.push(format!("kloros try {} {}", report.domain, settings.join(" ")));
    }
    lines.join("\n")
}

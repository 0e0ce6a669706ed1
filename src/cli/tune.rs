//! `kloros tune`: finds better settings for anybody's command, or speaks the line protocol with another program.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use kloros_actors::{facts::Direction, seams::Clock as _};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Answer, out,
    out::Out,
    picture::{self, SvgFile},
    tuned,
};
use crate::{
    clock::SystemClock,
    home::Home,
    settings,
    tune::{self, BUDGET_MAX, Conclusion, Journal, PARALLEL_MAX, Plan, Step},
};

/// What is tuned, and how long.
#[derive(Args)]
pub(crate) struct TuneArgs {
    /// The parameters, a TOML file
    #[arg(long, value_name = "FILE")]
    space: Option<PathBuf>,
    /// How many trials there may be [default: 48]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(BUDGET_MAX)))]
    budget: Option<u32>,
    /// How many trials are chosen before their results are heard; small lots learn more [default: as many as run at a time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARALLEL_MAX)))]
    batch: Option<u32>,
    /// How many trials run at a time; they must not disturb each other [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARALLEL_MAX)))]
    parallel: Option<u32>,
    /// The seed: the same one and the same results give the same trials [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The metric of which less is better [default: what the space file says]
    #[arg(long, value_name = "METRIC", conflicts_with = "maximize")]
    minimize: Option<String>,
    /// The metric of which more is better
    #[arg(long, value_name = "METRIC")]
    maximize: Option<String>,
    /// Two measurements of one setting never differ, so none is repeated
    #[arg(long)]
    exact: bool,
    /// How long one trial may take, as 500ms, 60s, 5m or 1h [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    timeout: Option<u64>,
    /// How long the run may go on before no further trial is begun, as 90s, 30m or 8h; may be given anew with --resume [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    within: Option<u64>,
    /// The journal; where it holds a run already, that run goes on [default: a new file in the home]
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Also draw how it went into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Let another program measure: it writes and reads lines of JSON
    #[arg(long, conflicts_with_all = ["space", "budget", "batch", "parallel", "seed", "minimize", "maximize", "exact", "timeout", "within", "resume", "svg", "argv"])]
    ask_tell: bool,
    /// The command: it finds the parameters in its environment and prints one line of JSON with the metric
    #[arg(last = true, value_name = "COMMAND")]
    argv: Vec<String>,
}

/// How many trials there may be, where nobody says.
const BUDGET_DEFAULT: u32 = 48;

/// How long a trial may take, where nobody says, in milliseconds.
const TIMEOUT_DEFAULT_MS: u64 = 600_000;

/// The longest time that one trial may take, in milliseconds: a week.
const TIMEOUT_MAX_MS: u64 = 7 * 24 * 3_600_000;

pub(crate) async fn tune(
    home: impl FnOnce() -> anyhow::Result<Home>,
    args: TuneArgs,
    out: &mut Out,
) -> anyhow::Result<Answer> {
    if args.ask_tell {
        let found = tune::serve(io::stdin().lock(), io::stdout())?;
        return Ok(if found { Answer::Done } else { Answer::No });
    }
    // Without a home there is no configuration file to heed.
    let home = home();
    let machine = settings::measuring(home.as_ref().ok().map(Home::root))?.machine();
    // A file that may not be written is told before hours are spent.
    let svg = args.svg.as_deref().map(SvgFile::at).transpose()?;
    let path = match &args.resume {
        Some(path) => path.clone(),
        None => new_path(&home?),
    };
    // Asked for first: a mistake in it must not leave an empty journal behind.
    let fresh = if args.resume.is_none() || is_empty(&path) { Some(plan(&args)?) } else { None };
    let (mut journal, begun, done) = Journal::open(&path)?;
    let plan = match (begun, fresh) {
        (Some(begun), _) => agreed(begun, &args, &path)?,
        (None, Some(fresh)) => {
            journal.begin(&fresh)?;
            fresh
        }
        (None, None) => {
            let plan = plan(&args)?;
            journal.begin(&plan)?;
            plan
        }
    };
    out::aside(&tuned::begin(&plan, &path));
    let mut count = done.len() as u32;
    let waits = |in_the_way: &str| out::aside(&format!("waits      {in_the_way}"));
    let report = tokio::select! {
        report = tune::tune(&plan, &machine, &mut journal, done, |step| {
            count += u32::from(matches!(step, Step::Ended { .. }));
            out::aside(&tuned::step(&plan, &step));
        }, waits) => report?,
        // Dropping the work kills what runs, with all that it started.
        heard = interrupted() => {
            heard?;
            let path = tuned::quoted(&path.display().to_string());
            bail!("interrupted after {count} of {} trials, nothing is left running; go on with: kloros tune --resume {path}", plan.budget);
        }
    };
    let importance = tuned::importance(&plan, &report);
    if let Some(file) = svg {
        file.write(&picture::svg(&tuned::picture(&plan, &report, importance.clone())))?;
    }
    if out.is_json() {
        out.answer(&tuned::facts(&plan, &report, &importance, &path)?, String::new)?;
    } else {
        let canvas = out.canvas();
        out.paint(&tuned::lines(&plan, &report, &importance, canvas))?;
    }
    Ok(if report.conclusion == Conclusion::Better { Answer::Done } else { Answer::No })
}

/// Returns when somebody wants it to end.
async fn interrupted() -> anyhow::Result<()> {
    let listen = |kind| signal(kind).context("cannot hear signals");
    let (mut terminate, mut hang_up) = (listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot hear Ctrl-C"),
        _ = terminate.recv() => Ok(()),
        _ = hang_up.recv() => Ok(()),
    }
}

fn is_empty(path: &Path) -> bool {
    path.metadata().map_or(true, |metadata| metadata.is_file() && metadata.len() == 0)
}

/// Returns a name for a journal that nobody else has.
fn new_path(home: &Home) -> PathBuf {
    let name = format!("{}-{}.jsonl", SystemClock.now_ms(), std::process::id());
    home.root().join("tune").join(name)
}

/// Returns the plan that the command line and the space file make.
fn plan(args: &TuneArgs) -> anyhow::Result<Plan> {
    let file = args.space.as_deref().context("which parameters are there? Name a file with --space FILE")?;
    let file = settings::space(file)?;
    if args.argv.is_empty() {
        bail!("what is to be tuned? Name the command behind --, as in: kloros tune --space space.toml -- ./bench.sh");
    }
    let (metric, direction) = objective(args).or(file.objective).context(
        "which metric is to become better? Write minimize = \"NAME\" or maximize = \"NAME\" into the space file, or pass \
         --minimize NAME or --maximize NAME",
    )?;
    let parallel = args.parallel.unwrap_or(1);
    Ok(Plan {
        argv: args.argv.clone(),
        folder: folder()?,
        space: file.space,
        default: file.default,
        metric,
        direction,
        budget: args.budget.unwrap_or(BUDGET_DEFAULT),
        batch: args.batch.unwrap_or(parallel),
        parallel,
        seed: args.seed.unwrap_or(1),
        noisy: !args.exact && file.noisy.unwrap_or(true),
        timeout_ms: args.timeout.unwrap_or(TIMEOUT_DEFAULT_MS),
        within_ms: args.within,
    })
}

fn objective(args: &TuneArgs) -> Option<(String, Direction)> {
    let down = args.minimize.clone().map(|metric| (metric, Direction::Down));
    down.or_else(|| args.maximize.clone().map(|metric| (metric, Direction::Up)))
}

fn folder() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("cannot find the current folder")
}

/// Returns the plan that was begun, if the command line asks for no other.
fn agreed(plan: Plan, args: &TuneArgs, path: &Path) -> anyhow::Result<Plan> {
    let differs = |what: &str| {
        let path = path.display();
        anyhow!(
            "{what} differs from what {path} was begun with: leave it out to go on, or name another file to begin anew"
        )
    };
    if let Some(file) = &args.space {
        let file = settings::space(file)?;
        if (&file.space, &file.default) != (&plan.space, &plan.default) {
            return Err(differs("--space"));
        }
    }
    let is_other = |given: Option<u32>, begun: u32| given.is_some_and(|given| given != begun);
    let checks = [
        ("--budget", is_other(args.budget, plan.budget)),
        ("--batch", is_other(args.batch, plan.batch)),
        ("--parallel", is_other(args.parallel, plan.parallel)),
        ("--seed", args.seed.is_some_and(|seed| seed != plan.seed)),
        ("--timeout", args.timeout.is_some_and(|timeout| timeout != plan.timeout_ms)),
        ("--exact", args.exact && plan.noisy),
        ("the metric", objective(args).is_some_and(|objective| objective != (plan.metric.clone(), plan.direction))),
        ("the command", !args.argv.is_empty() && args.argv != plan.argv),
    ];
    if let Some((what, _)) = checks.iter().find(|(_, is_other)| *is_other) {
        return Err(differs(what));
    }
    if folder()? != plan.folder {
        bail!("{} was begun in {}: go there to go on", path.display(), plan.folder.display());
    }
    // How long it goes on decides on how many trials there are, and not on which.
    Ok(Plan { within_ms: args.within.or(plan.within_ms), ..plan })
}

/// Returns the milliseconds that a text such as `500ms`, `60s`, `5m` or `1h` says; a bare number counts seconds.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let units = [("ms", 1.0), ("s", 1000.0), ("m", 60_000.0), ("h", 3_600_000.0)];
    let named = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = named.unwrap_or((text, 1000.0));
    let milliseconds = number.trim().parse::<f64>().map(|number| number * factor);
    match milliseconds {
        Ok(milliseconds) if (1.0..=TIMEOUT_MAX_MS as f64).contains(&milliseconds) => Ok(milliseconds as u64),
        Ok(_) => Err("it must lie between 1ms and 168h".to_owned()),
        Err(_) => Err("write a number and its unit: 500ms, 60s, 5m or 1h".to_owned()),
    }
}

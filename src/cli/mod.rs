//! The command line: the answer first, the machine form on request, an honest exit code.

mod advice;
mod ask;
mod audit;
mod bench;
mod calibrate;
mod chat;
mod client;
mod config;
mod console;
mod conversation;
mod detect;
mod doctor;
mod events;
mod failures;
mod follow;
mod gpu;
mod ids;
mod init;
mod lent;
mod lessons;
mod list;
mod manual;
mod memory;
mod out;
mod picture;
mod postgresql;
mod progress;
mod recover;
mod redis;
mod reload;
mod render;
mod run;
mod show;
mod status;
mod stop;
mod story;
mod sysctl;
mod text;
mod top;
mod tune;
mod tuned;
mod waiting;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{home::Home, journal, lab, settings};
pub(crate) use list::Listed;
use out::Out;
pub(crate) use show::shown;
pub(crate) use status::work_in as work;
pub(crate) use story::{heard, story};

/// Exit codes: done, no, broken; and the one of sysexits for a configuration that cannot be used, so that a service
/// manager does not try again.
const NO: u8 = 1;
const BROKEN: u8 = 2;
const CONFIGURATION: u8 = 78;

/// kloros improves the services of the machine it runs on, and never makes them worse for long.
#[derive(Parser)]
#[command(name = "kloros", version, about, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Clone)]
struct Common {
    /// The home: state, logs and results [default: `KLOROS_HOME`, or what fits the machine]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Print JSON for scripts
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Run the loop until Ctrl-C; what happens without a command, too
    Run(run::RunArgs),
    /// Say how the running daemon is, and what waits for you
    Status,
    /// Show the supervision tree of the running daemon
    Tree,
    /// Watch the running daemon on one screen, with keys to answer and to stop
    Top,
    /// Print the address of the console in a browser, with the token that lets it answer for you
    Console,
    /// List intents and how they were routed
    Intents(ListArgs),
    /// List questions and how they ended
    Questions(ListArgs),
    /// List experiments, or show one of them whole
    Experiments(ExperimentsArgs),
    /// List winners
    Winners(ListArgs),
    /// List deployments and their verdicts
    Deployments(ListArgs),
    /// List what was learned, and what it changed
    Lessons(ListArgs),
    /// List what happened, fact by fact, and go on with what happens
    Events(events::EventsArgs),
    /// Tell a cycle, question, experiment, promotion or deployment as one story
    Explain {
        /// Any id, or its beginning
        id: String,
    },
    /// List who decided what, or check that nobody changed the list
    Audit(audit::AuditArgs),
    /// Let a waiting promotion through
    Approve(AnswerArgs),
    /// Refuse a waiting promotion
    Reject(AnswerArgs),
    /// Undo a deployment that was not judged yet
    Rollback {
        /// The deployment's id, or its beginning
        id: String,
    },
    /// Undo what is pending and unproven, without the daemon and without the journal
    Recover(recover::RecoverArgs),
    /// Watch over an unproven change from outside the daemon; the daemon starts it
    #[command(hide = true)]
    Guard(recover::GuardArgs),
    /// Stop everything at once and undo what is not proven; works without the daemon, too
    Stop {
        /// The reason, for the record
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Let everything go on that was stopped
    Go,
    /// Let a domain go on that was frozen after too many rollbacks
    Thaw {
        /// The domain
        domain: String,
    },
    /// Propose settings of your own, through the same gate, deployment and validation
    Try(ask::TryArgs),
    /// Measure settings beside what serves, as an experiment would; changes nothing
    Bench(bench::BenchArgs),
    /// Hold a conversation in the terminal, through the endpoint of the running daemon
    Chat(chat::ChatArgs),
    /// List, show, search, export and forget what is remembered of conversations
    #[command(subcommand)]
    Memory(memory::MemoryCommand),
    /// Measure a service against itself, to know from which effect on a change can be judged
    Calibrate(calibrate::CalibrateArgs),
    /// Find better settings for any command, without the daemon
    Tune(tune::TuneArgs),
    /// Look at every GPU once, without the daemon
    Gpu(gpu::GpuArgs),
    /// Find what is unlike its past in any series, without the daemon
    Detect(detect::DetectArgs),
    /// Check the configuration and say all that is wrong with it
    CheckConfig {
        /// The configuration file [default: kloros.toml in the home]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Look for services that a domain ships for, and say what to write for them
    Init(init::InitArgs),
    /// Look at all that kloros needs of the machine, and say what to do about what is wrong
    Doctor(doctor::DoctorArgs),
    /// Show the settings, and where each value is from
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print what a shell completes
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for each command
    Man(manual::ManArgs),
    /// Have the running daemon read its settings again
    Reload(reload::ReloadArgs),
    /// Write every log and result file anew from the journal
    RebuildLogs,
    /// Break something on purpose, where the configuration allows it
    #[command(subcommand)]
    Chaos(Chaos),
    /// Serve, measure and ask a PostgreSQL, as its domain file asks
    #[command(subcommand)]
    Postgresql(postgresql::PostgresqlCommand),
    /// Hold conversations apart from the daemon, and measure that, as its domain file asks
    #[command(subcommand)]
    Conversation(conversation::ConversationCommand),
    /// Measure a Redis, or print what it runs with, as its domain file asks
    #[command(subcommand)]
    Redis(redis::RedisCommand),
    /// Write a service's file of settings from a template, and then start the service if it is named
    Render(render::RenderArgs),
    /// Set, bring back and show settings of the kernel, as their units and domain files ask
    #[command(subcommand)]
    Sysctl(sysctl::SysctlCommand),
    /// The small inference server to practise on
    #[command(subcommand)]
    Lab(lab::LabCommand),
}

#[derive(Subcommand)]
enum Chaos {
    /// Kill a room; its supervisor starts it again
    Kill {
        /// The room's name or path, as `kloros tree` shows it
        room: String,
    },
}

#[derive(Args)]
struct ListArgs {
    /// Show one of them whole
    id: Option<String>,
    /// How many to show at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
}

#[derive(Args)]
struct ExperimentsArgs {
    #[command(subcommand)]
    command: Option<ExperimentsCommand>,
    #[command(flatten)]
    list: ListArgs,
    /// Also draw the one that is shown into this file
    #[arg(long, value_name = "FILE", requires = "id")]
    svg: Option<PathBuf>,
}

#[derive(Subcommand)]
enum ExperimentsCommand {
    /// Show one of them whole: convergence, importance, the best settings, the Pareto front
    Show {
        /// The experiment's id, or its beginning
        id: String,
        /// Also draw it into this file
        #[arg(long, value_name = "FILE")]
        svg: Option<PathBuf>,
    },
}

#[derive(Args)]
struct AnswerArgs {
    /// The promotion's id, or its beginning
    id: String,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// What a command comes to.
pub(crate) enum Answer {
    /// Done.
    Done,
    /// No: it is not so, or may not be.
    No,
}

/// Reads the command line, does what it says, and returns the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; everything else is a command line that cannot be used.
            let code = if error.use_stderr() { BROKEN } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    let as_json = cli.common.json;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.into(), as_json),
    };
    match runtime.block_on(obey(cli)) {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(NO),
        Err(error) => complain(&error, as_json),
    }
}

fn complain(error: &anyhow::Error, as_json: bool) -> ExitCode {
    // A reader that went away, as `head` does, has what it wanted.
    if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let code = if let Some(lab) = error.downcast_ref::<lab::LabError>() {
        lab.exit_code()
    } else if error.is::<settings::Complaints>() || error.is::<conversation::NotSet>() {
        CONFIGURATION
    } else {
        BROKEN
    };
    out::trouble(&format!("{error:#}"));
    if as_json {
        // Whoever parses gets something to parse; when stdout is gone as well, nobody does.
        Out::new(true).answer(&serde_json::json!({"error": format!("{error:#}")}), String::new).ok();
    }
    ExitCode::from(code)
}

async fn obey(cli: Cli) -> anyhow::Result<Answer> {
    let mut out = Out::new(cli.common.json);
    let home = || -> anyhow::Result<Home> { Ok(Home::resolve(cli.common.home.as_deref())?) };
    match cli.command.unwrap_or_else(|| Command::Run(run::RunArgs::default())) {
        Command::Run(args) => run::run(home()?, args, &mut out).await,
        Command::Status => status::status(&home()?, &mut out).await,
        Command::Tree => ask::tree(&home()?, &mut out).await,
        Command::Top => top::top(&home()?, &mut out).await,
        Command::Console => console::console(&home()?, &mut out),
        Command::Intents(args) => list::list(&home()?, Listed::Intents, &args, &mut out),
        Command::Questions(args) => list::list(&home()?, Listed::Questions, &args, &mut out),
        Command::Experiments(args) => experiments(&home()?, &args, &mut out),
        Command::Winners(args) => list::list(&home()?, Listed::Winners, &args, &mut out),
        Command::Deployments(args) => list::list(&home()?, Listed::Deployments, &args, &mut out),
        Command::Lessons(args) => list::list(&home()?, Listed::Lessons, &args, &mut out),
        Command::Events(args) => events::events(&home()?, &args, &mut out).await,
        Command::Explain { id } => story::explain(&home()?, &id, &mut out),
        Command::Audit(args) => audit::audit(&home()?, &args, &mut out),
        Command::Approve(args) => ask::answer(&home()?, args.id, true, args.reason, &mut out).await,
        Command::Reject(args) => ask::answer(&home()?, args.id, false, args.reason, &mut out).await,
        Command::Rollback { id } => ask::rollback(&home()?, &id, &mut out).await,
        Command::Recover(args) => recover::recover(&home()?, &args, &mut out).await,
        Command::Guard(args) => recover::guard(&home()?, &args, &mut out).await,
        Command::Stop { reason } => stop::stop(&home()?, &reason, &mut out),
        Command::Go => stop::go(&home()?, &mut out),
        Command::Thaw { domain } => stop::thaw(&home()?, domain, &mut out).await,
        Command::Try(args) => ask::propose(&home()?, args, &mut out).await,
        Command::Bench(args) => bench::bench(&home()?, args, &mut out).await,
        Command::Chat(args) => chat::chat(&home()?, args, &mut out).await,
        Command::Memory(command) => memory::memory(&home()?, command, &mut out).await,
        Command::Calibrate(args) => calibrate::calibrate(&home()?, args, &mut out).await,
        Command::Tune(args) => tune::tune(home, args, &mut out).await,
        Command::Gpu(args) => gpu::gpu(home(), args, &mut out).await,
        Command::Detect(args) => detect::detect(args, &mut out),
        Command::CheckConfig { config } => check_config(&home()?, config.as_deref(), &mut out),
        Command::Init(args) => init::init(&home()?, &args, &mut out).await,
        Command::Doctor(args) => doctor::doctor(&home()?, &args, &mut out).await,
        Command::Config(command) => config::config(&home()?, &command, &mut out),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args, &mut out),
        Command::Reload(args) => reload::reload(&home()?, &args, &mut out).await,
        Command::RebuildLogs => rebuild_logs(&home()?, &mut out),
        Command::Chaos(Chaos::Kill { room }) => ask::kill(&home()?, room, &mut out).await,
        Command::Postgresql(command) => postgresql::postgresql(command).await,
        Command::Conversation(command) => conversation::conversation(&home()?, command).await,
        Command::Redis(command) => redis::redis(&command),
        Command::Render(args) => render::render(args),
        Command::Sysctl(command) => sysctl::sysctl(command),
        Command::Lab(command) => {
            lab::run(command).await?;
            Ok(Answer::Done)
        }
    }
}

fn experiments(home: &Home, args: &ExperimentsArgs, out: &mut Out) -> anyhow::Result<Answer> {
    match (&args.command, &args.list.id) {
        (Some(ExperimentsCommand::Show { id, svg }), _) => show::show(home, id, svg.as_deref(), out),
        (None, Some(id)) => show::show(home, id, args.svg.as_deref(), out),
        (None, None) => list::list(home, Listed::Experiments, &args.list, out),
    }
}

fn check_config(home: &Home, config: Option<&std::path::Path>, out: &mut Out) -> anyhow::Result<Answer> {
    match settings::check(home.root(), config) {
        Ok(summary) => {
            out.answer(
                &serde_json::json!({"ok": true, "domains": summary.domains, "experiments": summary.experiments}),
                || summary.to_string(),
            )?;
            Ok(Answer::Done)
        }
        Err(complaints) => {
            let lines: Vec<String> = complaints.to_string().lines().map(str::to_owned).collect();
            out.answer(&serde_json::json!({"ok": false, "problems": lines}), || complaints.to_string())?;
            Ok(Answer::No)
        }
    }
}

fn rebuild_logs(home: &Home, out: &mut Out) -> anyhow::Result<Answer> {
    let rebuilt = journal::rebuild(home)?;
    let (files, lines) = (rebuilt.files, rebuilt.lines);
    out.answer(&serde_json::json!({"files": files, "lines": lines}), || {
        format!("rebuilt {files} files, {lines} lines, in {}\nkloros deployments", home.root().display())
    })?;
    Ok(Answer::Done)
}

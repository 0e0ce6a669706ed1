//! `kloros postgresql`: what the domain file of PostgreSQL asks for.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{Answer, out::Out};
use crate::postgresql::{self, Cluster, Load, Trial};

#[derive(Subcommand)]
pub(super) enum PostgresqlCommand {
    /// Serve an empty cluster for measurements until it is told to end, and remove it
    Trial(TrialArgs),
    /// Measure such a cluster with pgbench, and print one JSON object of numbers; no other is ever measured
    Measure(MeasureArgs),
    /// Print what a server runs with as one JSON object, under the keys of the domain file
    Settings(SettingsArgs),
}

/// Where servers and their programs are.
#[derive(Args)]
pub(super) struct Where {
    /// The port of the server
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The folder of the programs of PostgreSQL
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/postgresql/15/bin")]
    programs: PathBuf,
    /// The folder below which clusters for measurements lie, in kloros-trials, on the disk of the database that serves
    /// [default: /var/tmp/kloros-postgresql-UID]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Where {
    fn folder(&self) -> PathBuf {
        let own = || format!("/var/tmp/kloros-postgresql-{}", rustix::process::geteuid().as_raw()).into();
        self.folder.clone().unwrap_or_else(own)
    }
}

#[derive(Args)]
pub(super) struct TrialArgs {
    #[command(flatten)]
    at: Where,
    /// As whom the server runs where kloros is root, as which it refuses to
    #[arg(long, default_value = "postgres")]
    user: String,
    /// A setting of the server
    #[arg(short = 'c', value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

#[derive(Args)]
pub(super) struct MeasureArgs {
    #[command(flatten)]
    at: Where,
    /// How large the tables of pgbench are, in hundred thousands of accounts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    scale: u32,
    /// How many clients ask at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// How long it runs before it counts, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=3600))]
    warmup: u32,
    /// How long it is measured, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// A file of SQL that makes your own tables, instead of those of pgbench
    #[arg(long, value_name = "FILE", requires = "script")]
    schema: Option<PathBuf>,
    /// Your own transaction, as `pgbench --file` takes it
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct SettingsArgs {
    #[command(flatten)]
    at: Where,
    /// The folder of the socket of a server that is none for measurements [default: that of Debian]
    #[arg(long, value_name = "DIR")]
    socket: Option<PathBuf>,
    /// As which role it is asked [default: that of your name]
    #[arg(long)]
    role: Option<String>,
}

pub(super) async fn postgresql(command: PostgresqlCommand) -> anyhow::Result<Answer> {
    // Programs read it.
    let mut out = Out::new(true);
    match command {
        PostgresqlCommand::Trial(TrialArgs { at, user, settings }) => {
            let folder = at.folder();
            postgresql::serve(Trial { port: at.port, programs: at.programs, folder, user, settings }).await?;
        }
        PostgresqlCommand::Measure(MeasureArgs { at, scale, clients, warmup: warmup_s, seconds, schema, script }) => {
            let cluster = Cluster::find(&at.folder(), at.port).with_context(|| {
                let (port, folder) = (at.port, at.folder());
                format!(
                    "no cluster for measurements of yours listens on port {port} below {}, and nothing else is measured",
                    folder.display()
                )
            })?;
            let load = Load { scale, clients, warmup_s, seconds, schema, script };
            out.answer(&postgresql::measure(&at.programs, &cluster, &load)?, String::new)?;
        }
        PostgresqlCommand::Settings(SettingsArgs { at, socket, role }) => {
            let cluster = Cluster::find(&at.folder(), at.port);
            let trial = cluster.as_ref().map(Cluster::socket);
            let told = postgresql::settings(&at.programs, at.port, trial, socket.as_deref(), role.as_deref())?;
            out.answer(&told, String::new)?;
        }
    }
    Ok(Answer::Done)
}

//! PostgreSQL, asked with its own tools: how fast it is, and what it runs with. Domain files name these commands.
//!
//! What is measured is an empty cluster of its own, made for the purpose and gone with it. The database that serves is asked for its
//! settings alone: pgbench is pointed at nothing but a socket in a folder that `kloros postgresql trial` made and marked.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, bail};

mod cluster;

mod place;

mod settings;

mod transactions;

use cluster::ROLE;
pub(crate) use cluster::{Cluster, Trial, serve};
pub(crate) use settings::settings;
use transactions::{Run, Times};

use crate::program::said;

/// The package of Debian 12 that holds the server and pgbench.
const PACKAGE: &str = "postgresql-15";

/// The database that every cluster has.
const DATABASE: &str = "postgres";

/// What sends the programs of PostgreSQL elsewhere than to the socket that they are given.
const ELSEWHERE: [&str; 2] = ["PGHOSTADDR", "PGSERVICE"];

/// How many parts the log of pgbench may have, one a thread.
const LOGS_MAX: usize = 256;

/// How a PostgreSQL is measured.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) scale: u32,
    pub(crate) clients: u32,
    pub(crate) warmup_s: u32,
    pub(crate) seconds: u32,
    /// What makes the tables, instead of those of pgbench.
    pub(crate) schema: Option<PathBuf>,
    /// The transaction that is run, instead of pgbench's.
    pub(crate) script: Option<PathBuf>,
}

/// Returns transactions a second, latencies and the share that failed, by `pgbench`: `tps`, `p50_ms`, `p95_ms`, `p99_ms`,
/// `failed_ratio`.
///
/// The tables are made anew, so that whatever was measured before leaves no trace.
pub(crate) fn measure(programs: &Path, cluster: &Cluster, load: &Load) -> anyhow::Result<BTreeMap<String, f64>> {
    if let Some(name) = ELSEWHERE.into_iter().find(|name| env::var_os(name).is_some()) {
        bail!("{name} is set, and would have another database measured: unset it");
    }
    let of = |name: &str| programs.join(name).display().to_string();
    let (psql, pgbench) = (of("psql"), of("pgbench"));
    let (folder, port) = (cluster.socket().display().to_string(), cluster.port().to_string());
    let at = ["-h", &folder, "-p", &port, "-U", ROLE];
    let with = |more: &[&str]| at.iter().chain(more).map(|each| (*each).to_owned()).collect::<Vec<_>>();
    let run = |program: &str, arguments: &[String]| {
        said(program, &arguments.iter().map(String::as_str).collect::<Vec<_>>(), PACKAGE)
    };
    let (scale, clients) = (load.scale.to_string(), load.clients.to_string());
    match &load.schema {
        None => run(&pgbench, &with(&["-i", "-q", "-s", &scale, DATABASE]))?,
        Some(file) => {
            let file = file.display().to_string();
            run(&psql, &with(&["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", &file, DATABASE]))?
        }
    };
    // What making the tables left to be written is not the load's.
    run(&psql, &with(&["-X", "-q", "--command", "CHECKPOINT", DATABASE]))?;
    let script = load.script.as_ref().map(|file| file.display().to_string());
    let threads = load.clients.min(2).to_string();
    let what = |seconds: u32, more: &[&str]| {
        // Without `-N` every transaction of a small scale waits for the same few rows.
        let transaction = script.as_ref().map_or(vec!["-N"], |file| vec!["-f", file]);
        let (seconds, scale) = (seconds.to_string(), ["-s", &scale]);
        let mut arguments = with(&["-n", "--client", &clients, "-j", &threads, "-T", &seconds]);
        arguments.extend(transaction.iter().chain(more).map(|each| (*each).to_owned()));
        arguments.extend(script.iter().flat_map(|_| scale).map(str::to_owned));
        arguments.push(DATABASE.to_owned());
        arguments
    };
    if load.warmup_s > 0 {
        run(&pgbench, &what(load.warmup_s, &[]))?;
    }
    let logs = logs(cluster.place())?;
    let prefix = logs.join("transactions").display().to_string();
    let printed = run(&pgbench, &what(load.seconds, &["-l", "--log-prefix", &prefix]))?;
    let run = Run::read(&printed)?;
    let times = times(&logs)?;
    fs::remove_dir_all(&logs).with_context(|| format!("cannot remove {}", logs.display()))?;
    transactions::metrics(&run, times)
}

/// Makes the folder of pgbench's logs, whose names can be guessed: where pgbench runs as root, the user of the server, could he write
/// there, could have it write through a link into any file. What an error leaves is gone with the cluster.
fn logs(place: &Path) -> anyhow::Result<PathBuf> {
    let logs = place.join(format!("logs-{}", process::id()));
    place::new(&logs, 0o700).with_context(|| format!("cannot make {}", logs.display()))?;
    Ok(logs)
}

/// Returns how long each transaction took by the logs in `folder`.
fn times(folder: &Path) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_log =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"transactions"));
    let logs: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_log).collect();
    if logs.len() > LOGS_MAX {
        bail!("pgbench wrote {} logs into {}, {LOGS_MAX} are read", logs.len(), folder.display());
    }
    for path in logs {
        let named = || format!("cannot read {}", path.display());
        for line in BufReader::new(File::open(&path).with_context(named)?).lines() {
            times.hear(&line.with_context(named)?)?;
        }
    }
    Ok(times)
}

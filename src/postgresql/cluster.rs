//! A cluster for measurements: empty, on a socket that nobody else reaches, gone when it ends.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use super::place::{self, Place, User};
use crate::process::{Instance, Launch, Remains, Secrets};

/// The superuser of a cluster for measurements.
pub(super) const ROLE: &str = "postgres";

/// How long making a cluster may take.
const INITDB_MAX: Duration = Duration::from_secs(60);

/// How long the server may take to end what it is doing; there is nothing in it to be kept.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) port: u16,
    /// The folder of initdb and postgres.
    pub(crate) programs: PathBuf,
    /// Below which folder clusters lie.
    pub(crate) folder: PathBuf,
    /// As whom the server runs where this process is root, as which it refuses to.
    pub(crate) user: String,
    /// `name=value` each.
    pub(crate) settings: Vec<String>,
}

/// A cluster for measurements.
#[derive(Debug)]
pub(crate) struct Cluster {
    place: PathBuf,
    socket: PathBuf,
    port: u16,
}

impl Cluster {
    /// Returns the cluster for measurements on this port; `None` where there is none below `folder` that `serve` made.
    pub(crate) fn find(folder: &Path, port: u16) -> Option<Self> {
        let place = place::find(folder, port)?;
        Some(Self { socket: place::cluster(&place), place, port })
    }

    /// Returns the folder of its socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns a folder that is gone with it and that the user of the server cannot write to.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

/// Makes a cluster and serves it until SIGTERM or SIGINT, then removes it.
///
/// An error of the server, as of a setting that it does not take, is returned with what it last said.
pub(crate) async fn serve(trial: Trial) -> anyhow::Result<()> {
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let place = Place::make(&trial.folder, trial.port, &trial.user)?;
    let stopped = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
    };
    tokio::pin!(stopped);
    let mut initdb = start(trial.argv(&place, "initdb", &initdb(&data(&place)))).await?;
    let status = tokio::select! {
        status = tokio::time::timeout(INITDB_MAX, initdb.exited()) => status,
        () = &mut stopped => return Ok(()),
    };
    let status = status.with_context(|| format!("initdb did not end within {} s", INITDB_MAX.as_secs()))?;
    if !status.success() {
        bail!("initdb ended with {status}: {}", initdb.tail());
    }
    let mut server = start(trial.argv(&place, "postgres", &trial.arguments(&place))).await?;
    tokio::select! {
        status = server.exited() => bail!("postgres ended with {status}: {}", server.tail()),
        () = &mut stopped => server.stop(STOP_MAX).await,
    };
    Ok(())
}

async fn start(argv: Vec<String>) -> anyhow::Result<Instance> {
    let secrets = Secrets::of([]);
    let launch = Launch { argv, env: Vec::new(), nice: 0, secrets, remains: Remains::Killed };
    Instance::spawn(launch).await.context("is postgresql-15 installed?")
}

fn initdb(data: &str) -> Vec<String> {
    // Nothing in it outlives it, so only what is measured is synced to the disk.
    let arguments =
        ["-D", data, "-A", "trust", "-U", ROLE, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"];
    arguments.map(str::to_owned).into()
}

fn data(place: &Place) -> String {
    place.cluster().join("data").display().to_string()
}

impl Trial {
    /// Returns the command that runs `program`, as the user of the server.
    fn argv(&self, place: &Place, program: &str, arguments: &[String]) -> Vec<String> {
        let program = self.programs.join(program).display().to_string();
        as_user(place.owner).into_iter().chain([program]).chain(arguments.iter().cloned()).collect()
    }

    /// Returns the arguments of the server. What keeps it to itself stands last, where nothing overrides it.
    ///
    /// A setting could else point it at the files of the database that serves, or name its port.
    fn arguments(&self, place: &Place) -> Vec<String> {
        let (cluster, data, port) = (place.cluster().display().to_string(), data(place), self.port);
        let kept = [
            format!("config_file={data}/postgresql.conf"),
            format!("data_directory={data}"),
            format!("hba_file={data}/pg_hba.conf"),
            format!("ident_file={data}/pg_ident.conf"),
            format!("external_pid_file={cluster}/server.pid"),
            format!("unix_socket_directories={cluster}"),
            format!("port={port}"),
            "listen_addresses=".to_owned(),
            "logging_collector=off".to_owned(),
            "archive_mode=off".to_owned(),
        ];
        let settings = self.settings.iter().cloned().chain(kept).map(|setting| format!("--{setting}"));
        ["-D".to_owned(), data].into_iter().chain(settings).collect()
    }
}

/// Returns what stands before a command that another user runs.
fn as_user(user: Option<User>) -> Vec<String> {
    let Some(User { id, group }) = user else { return Vec::new() };
    // His group may have another name than he. The kernel forgets with whom it is to die when its user changes.
    let (id, group) = (id.to_string(), group.to_string());
    let argv = ["setpriv", "--reuid", &id, "--regid", &group, "--init-groups", "--pdeathsig", "KILL", "--"];
    argv.map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_opens_the_server_to_others_or_points_it_at_another_database() {
        let all = tempfile::tempdir().unwrap();
        let others = [
            "work_mem=8MB",
            "listen_addresses=*",
            "data-directory=/var/lib/postgresql/15/main",
            "data_directory=/var/lib/postgresql/15/main",
            "config_file=/etc/postgresql/15/main/postgresql.conf",
            "hba_file=/etc/postgresql/15/main/pg_hba.conf",
            "external_pid_file=/var/run/postgresql/15-main.pid",
            "archive_mode=on",
            "port=5432",
        ];
        let trial = Trial {
            port: 5433,
            programs: PathBuf::from("/usr/lib/postgresql/15/bin"),
            folder: all.path().to_owned(),
            user: "nobody".to_owned(),
            settings: others.map(str::to_owned).into(),
        };
        let place = Place::make(&trial.folder, trial.port, &trial.user).unwrap();
        let arguments = trial.arguments(&place);
        let last = |name: &str| {
            let value =
                |each: &String| Some(each.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('=')?.to_owned());
            arguments.iter().rev().find_map(value).unwrap()
        };
        let own = format!("{}/kloros-trials/5433/cluster", all.path().display());
        assert_eq!(last("listen_addresses"), "");
        assert_eq!(last("unix_socket_directories"), own);
        assert_eq!(last("data_directory"), format!("{own}/data"));
        assert_eq!(last("config_file"), format!("{own}/data/postgresql.conf"));
        assert_eq!(last("hba_file"), format!("{own}/data/pg_hba.conf"));
        assert_eq!(last("external_pid_file"), format!("{own}/server.pid"));
        assert_eq!((last("port"), last("archive_mode"), last("work_mem")), ("5433".into(), "off".into(), "8MB".into()));
    }

    #[test]
    fn another_user_is_told_to_setpriv_by_numbers() {
        let argv = as_user(Some(User { id: 70, group: 71 })).join(" ");
        assert_eq!(argv, "setpriv --reuid 70 --regid 71 --init-groups --pdeathsig KILL --");
        assert!(as_user(None).is_empty());
    }
}

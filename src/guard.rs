//! The guard, as the daemon sees it: a process outside the daemon that undoes a change when the daemon does not.
//!
//! It is `kloros guard`. Where systemd started the daemon, systemd is asked to start it as a unit of its own, because what the
//! daemon starts itself ends with the daemon's control group; anywhere else the daemon starts it, in a session of its own. Either
//! way it watches once it holds the lock of its file with the deployment in it, and until it does nothing is changed.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kloros_actors::{
    facts::DeploymentId,
    seams::{Alone, Guard},
};
use rustix::fs::FlockOperation;

use crate::{
    crash,
    home::{Home, UndoLock},
};

/// How often it is looked whether it has begun.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// What the guard inherits from the daemon, which includes where systemd is to be found.
const INHERITED: [&str; 6] =
    ["PATH", "HOME", "LANG", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS"];

/// A log that is longer than this, in bytes, is begun anew.
const LOG_BYTES_MAX: u64 = 1024 * 1024;

/// Where systemd says that it runs the machine.
const SYSTEMD: &str = "/run/systemd/system";

/// Where the kernel says which control groups this process is in.
const CONTROL_GROUPS: &str = "/proc/self/cgroup";

/// The guards of the domains of one home.
#[derive(Clone, Debug)]
pub(crate) struct Guards {
    home: Home,
    exe: PathBuf,
    by: By,
    /// How long a guard may take to begin its watch.
    begins_within: Duration,
    /// How long somebody outside may undo before this process does not wait for it any longer.
    alone_within: Duration,
    /// The right to restart services, while this process has it.
    alone: Arc<Mutex<Weak<UndoLock>>>,
    children: Arc<Mutex<BTreeMap<String, Child>>>,
}

/// Who starts a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The daemon itself.
    Daemon,
    /// systemd, which started the daemon as well.
    Systemd,
    /// The systemd of one user, which started the daemon as well.
    UsersSystemd,
}

/// Says who starts the guards of the daemon with this process id; `None` where it cannot be looked at.
pub(crate) fn starter_of(pid: u32) -> Option<By> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let (environ, groups) = (read("environ")?, read("cgroup")?);
    let variables: Vec<String> =
        environ.split(|byte| *byte == 0).map(|each| String::from_utf8_lossy(each).into_owned()).collect();
    let variable = |name: &str| {
        let value = |each: &String| each.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        variables.iter().find_map(value)
    };
    Some(By::choose(variable, pid, is_booted(), &String::from_utf8_lossy(&groups)))
}

/// Says whether systemd runs this machine.
pub(crate) fn is_booted() -> bool {
    Path::new(SYSTEMD).is_dir()
}

impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Daemon => "the daemon",
            Self::Systemd => "systemd",
            Self::UsersSystemd => "the user's systemd",
        })
    }
}

impl By {
    /// Returns who starts guards, for the process `pid` with these variables and in these control groups, on a machine that systemd
    /// runs or does not.
    ///
    /// What a unit starts inherits its variables. Since its version 248 systemd says in one of them whom it started itself. That of a
    /// user sets the very same ones, and has its own group above those of its units.
    fn choose(variable: impl Fn(&str) -> Option<String>, pid: u32, is_booted: bool, groups: &str) -> Self {
        let is_unit = match variable("SYSTEMD_EXEC_PID") {
            Some(started) => started == pid.to_string(),
            None => variable("INVOCATION_ID").is_some(),
        };
        let is_users = |part: &str| part.starts_with("user@") && part.ends_with(".service");
        match is_unit && is_booted {
            true if groups.lines().any(|group| group.split('/').any(is_users)) => By::UsersSystemd,
            true => By::Systemd,
            false => By::Daemon,
        }
    }
}

impl Guards {
    /// Returns the guards of `home`, each of which may take `begins_within` to begin, and somebody else `alone_within` to undo; `exe` is
    /// this program. What this process does while somebody has `alone` is done with that.
    pub(crate) fn new(
        home: &Home,
        exe: PathBuf,
        (begins_within, alone_within): (Duration, Duration),
        alone: &Arc<UndoLock>,
    ) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let groups = fs::read_to_string(CONTROL_GROUPS).unwrap_or_default();
        let by = By::choose(variable, std::process::id(), is_booted(), &groups);
        let alone = Arc::new(Mutex::new(Arc::downgrade(alone)));
        Self { home: home.clone(), exe, by, begins_within, alone_within, alone, children: Arc::default() }
    }

    fn file(&self, domain: &str) -> PathBuf {
        self.home.pending_folder().join(format!("{domain}.guard"))
    }

    fn begin(&self, domain: &str, deployment: &DeploymentId) -> Result<(), String> {
        let mut failures = Vec::new();
        for start in self.starts(domain, deployment) {
            match self.begin_by(&start, domain, deployment) {
                Ok(()) => return Ok(()),
                Err(why) => failures.push(why),
            }
        }
        Err(failures.join("; "))
    }

    /// Returns the commands that start a guard, the best first.
    fn starts(&self, domain: &str, deployment: &DeploymentId) -> Vec<Vec<String>> {
        let home = self.home.root().display().to_string();
        let exe = self.exe.display().to_string();
        let own = [&exe, "guard", "--home", &home, "--domain", domain].map(str::to_owned).to_vec();
        match self.by {
            By::Daemon => vec![own],
            By::Systemd | By::UsersSystemd => {
                let users = (self.by == By::UsersSystemd).then_some("--user");
                let asked = |program: &str, arguments: &[&str]| {
                    let words = std::iter::once(program).chain(users).chain(arguments.iter().copied());
                    words.map(str::to_owned).collect::<Vec<String>>()
                };
                // An older guard of the domain may be about to end, so it is not only started.
                let unit = asked("systemctl", &["restart", &format!("kloros-guard@{domain}.service")]);
                let name = format!("--unit=kloros-guard-{domain}-{deployment}");
                let transient =
                    asked("systemd-run", &["--quiet", "--collect", &name, "--property=Restart=on-failure", "--"]);
                // Who may not ask for a unit of any command, as only root may, has the first one.
                vec![unit, transient.into_iter().chain(own).collect()]
            }
        }
    }

    fn begin_by(&self, start: &[String], domain: &str, deployment: &DeploymentId) -> Result<(), String> {
        let named = |why: String| format!("`{}` {why}", start.join(" "));
        crash::here("guard: start");
        let mut child = self.spawn(start).map_err(|error| named(format!("does not start: {error}")))?;
        crash::here("guard: wait for its watch");
        let deadline = Instant::now() + self.begins_within;
        let watched = loop {
            if is_watched(&self.file(domain), deployment) {
                break Ok(());
            }
            let ended = child.try_wait().ok().flatten();
            if let Some(status) = ended.filter(|status| self.by == By::Daemon || !status.success()) {
                break Err(named(format!("ended with {status}: see .kloros/guard.log in the home")));
            }
            if Instant::now() > deadline {
                break Err(named(format!("has not begun the watch within {} s", self.begins_within.as_secs_f64())));
            }
            thread::sleep(LOOK_INTERVAL);
        };
        crash::here("guard: watches");
        if watched.is_ok() {
            let earlier = self.children().insert(domain.to_owned(), child);
            // One that was killed is reaped.
            if let Some(mut earlier) = earlier {
                end(&mut earlier);
            }
        } else {
            end(&mut child);
        }
        watched
    }

    fn spawn(&self, argv: &[String]) -> io::Result<Child> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let path = self.home.state_folder().join("guard.log");
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
            fs::remove_file(&path)?;
        }
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().current_dir("/");
        command.envs(INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()
    }

    /// Returns the right to restart services, which this process may have already, blocking.
    fn wait_alone(&self) -> Result<Arc<UndoLock>, String> {
        let held = || self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = held().upgrade() {
            return Ok(lock);
        }
        let lock =
            self.home.undo_lock(self.alone_within).map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let lock = Arc::new(lock);
        *held() = Arc::downgrade(&lock);
        Ok(lock)
    }

    fn children(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether somebody holds the lock of `file` with `deployment` in it.
fn is_watched(file: &Path, deployment: &DeploymentId) -> bool {
    let says = fs::read_to_string(file).is_ok_and(|text| text.trim() == deployment.as_str());
    let is_locked = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err();
    says && File::open(file).is_ok_and(is_locked)
}

fn end(child: &mut Child) {
    // One that has ended already cannot be killed, and is reaped here as well.
    drop(child.kill());
    drop(child.wait());
}

#[async_trait]
impl Guard for Guards {
    async fn watch(&self, domain: &str, deployment: &DeploymentId) -> Result<(), String> {
        let (guards, domain, deployment) = (self.clone(), domain.to_owned(), deployment.clone());
        let begun = tokio::task::spawn_blocking(move || guards.begin(&domain, &deployment)).await;
        begun.unwrap_or_else(|error| Err(error.to_string()))
    }

    async fn is_watched(&self, domain: &str, deployment: &DeploymentId) -> bool {
        let (file, deployment) = (self.file(domain), deployment.clone());
        tokio::task::spawn_blocking(move || is_watched(&file, &deployment)).await.unwrap_or_default()
    }

    async fn relieve(&self, domain: &str) {
        // One that another start of the daemon set, or systemd, sees by itself that its pending file is gone.
        crash::here("guard: relieve");
        let child = self.children().remove(domain);
        if let Some(mut child) = child {
            // Nobody waits for its end: what is said of the change next may not come late.
            drop(child.kill());
            drop(tokio::task::spawn_blocking(move || drop(child.wait())));
        }
    }

    async fn alone(&self) -> Result<Alone, String> {
        let guards = self.clone();
        let alone = tokio::task::spawn_blocking(move || guards.wait_alone()).await;
        Ok(Box::new(alone.map_err(|error| error.to_string())??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(by: By) -> (tempfile::TempDir, Guards) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        let undoing = Arc::new(home.undo_lock(Duration::ZERO).unwrap());
        let new = Guards::new(
            &home,
            PathBuf::from("/usr/bin/kloros"),
            (Duration::from_secs(10), Duration::from_secs(60)),
            &undoing,
        );
        (folder, Guards { by, ..new })
    }

    #[test]
    fn a_guard_is_systemds_where_systemd_started_the_daemon_and_the_daemons_anywhere_else() {
        let unit = ("INVOCATION_ID", "1f");
        let (system, user) = (
            "0::/system.slice/kloros.service\n",
            "0::/user.slice/user-7.slice/user@7.service/app.slice/kloros.service\n",
        );
        let older = "12:cpu:/user.slice\n1:name=systemd:/user.slice/user-7.slice/user@7.service/kloros.service\n";
        for (variables, is_booted, groups, by) in [
            (&[unit][..], true, system, By::Systemd),
            (&[unit], true, "", By::Systemd),
            (&[unit], true, "0::/user.slice/user-7.slice/session-2.scope\n", By::Systemd),
            (&[unit, ("SYSTEMD_EXEC_PID", "7")], true, system, By::Systemd),
            (&[unit, ("SYSTEMD_EXEC_PID", "7")], true, user, By::UsersSystemd),
            (&[unit], true, older, By::UsersSystemd),
            (&[unit, ("SYSTEMD_EXEC_PID", "6")], true, system, By::Daemon),
            (&[unit, ("SYSTEMD_EXEC_PID", "6")], true, user, By::Daemon),
            (&[unit], false, system, By::Daemon),
            (&[], true, user, By::Daemon),
        ] {
            let variable =
                |name: &str| variables.iter().find(|(each, _)| *each == name).map(|(_, text)| (*text).to_owned());
            assert_eq!(By::choose(variable, 7, is_booted, groups), by, "{variables:?} {is_booted} {groups}");
        }
        assert_eq!(starter_of(std::process::id()).map(|by| by.to_string()).as_deref(), Some("the daemon"));
        assert_eq!(starter_of(0), None);
        let (_folder, guards) = guards(By::Systemd);
        let starts = guards.starts("lab", &DeploymentId::new("d-1"));
        assert_eq!(starts[0], ["systemctl", "restart", "kloros-guard@lab.service"]);
        assert_eq!(starts[1][..2], ["systemd-run", "--quiet"]);
        assert_eq!(starts[1][6..8], ["/usr/bin/kloros", "guard"]);
        // Once the machine's systemd was asked, which refuses a user and knows no such unit: no change was ever made.
        let (_folder, guards) = self::guards(By::UsersSystemd);
        let starts = guards.starts("lab", &DeploymentId::new("d-1"));
        assert_eq!(starts[0], ["systemctl", "--user", "restart", "kloros-guard@lab.service"]);
        assert_eq!(starts[1][..3], ["systemd-run", "--user", "--quiet"]);
        assert_eq!(starts[1][7..9], ["/usr/bin/kloros", "guard"]);
    }

    #[tokio::test]
    async fn who_has_the_right_to_restart_services_gets_it_again_and_others_when_it_was_given_back() {
        let (folder, guards) = guards(By::Daemon);
        let other = Home::at(folder.path()).unwrap();
        let (first, second) = (guards.alone().await.unwrap(), guards.alone().await.unwrap());
        drop(first);
        assert!(other.undo_lock(Duration::ZERO).is_err());
        drop(second);
        let theirs = other.undo_lock(Duration::ZERO).unwrap();
        let waiting = tokio::spawn(async move { guards.alone().await.map(drop) });
        drop(theirs);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_guard_that_does_not_start_ends_or_watches_something_else_is_none() {
        let id = DeploymentId::new("d-1");
        let (_folder, guards) = guards(By::Daemon);
        for (exe, part) in [("/no/such", "does not start"), ("/bin/false", "ended with")] {
            let guards = Guards { exe: PathBuf::from(exe), ..guards.clone() };
            let why = guards.watch("lab", &id).await.unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        fs::write(guards.file("lab"), "d-0\n").unwrap();
        let held = File::open(guards.file("lab")).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(!is_watched(&guards.file("lab"), &id), "it watches over another deployment");
        assert!(is_watched(&guards.file("lab"), &DeploymentId::new("d-0")));
        drop(held);
        assert!(!is_watched(&guards.file("lab"), &DeploymentId::new("d-0")), "nobody watches");
    }
}

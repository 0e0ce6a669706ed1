//! Units of systemd, asked over D-Bus by their exact names.
//!
//! A restart is a job, and its end is a signal: it is listened for before the job is asked for, so that none is missed, and a job
//! that ends with anything but `done` is a failure with its word. Start limits are the owner's: a unit that hit one is left as it
//! is, and that is said; for what brings a proven state back alone it is lifted.

use std::{fmt::Write as _, time::Duration};

use futures::StreamExt as _;
use kloros_actors::{facts::Scope, seams::ServiceError};
use tokio::time::timeout;
use zbus::{Connection, connection::Builder, zvariant::OwnedObjectPath};

/// How long systemd may take to answer a question.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// What systemd says of a unit that was started too often.
const START_LIMIT_HIT: &str = "start-limit-hit";

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    fn subscribe(&self) -> zbus::Result<()>;

    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;

    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn id(&self) -> zbus::Result<String>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn can_reload(&self) -> zbus::Result<bool>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn sub_state(&self) -> zbus::Result<String>;

    #[zbus(property(emits_changed_signal = "false"), name = "InvocationID")]
    fn invocation_id(&self) -> zbus::Result<Vec<u8>>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Service {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;

    #[zbus(property(emits_changed_signal = "false"), name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
}

/// Where the buses of systemd are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buses {
    /// The address of the machine's bus; `None` for the usual one.
    pub(crate) system: Option<String>,
    /// The address of the user's bus; `None` where nothing says one.
    pub(crate) user: Option<String>,
}

/// What a job does to a unit.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Restart,
    Reload,
}

impl Verb {
    fn done(self) -> &'static str {
        match self {
            Self::Restart => "restarted",
            Self::Reload => "reloaded",
        }
    }
}

/// How a unit is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// `active`, `activating`, `failed` and so on.
    pub(crate) active: String,
    /// The finer state that is under it.
    sub: String,
    /// How its last run ended; `success` while nothing is wrong.
    result: String,
    /// Its main process, if it has one.
    pub(crate) main_pid: Option<u32>,
    /// How often systemd restarted it by itself.
    pub(crate) restarts: u32,
    /// What each start has another of.
    invocation: String,
}

impl Buses {
    /// Returns where the buses are for a process with these variables and this user id.
    pub(crate) fn of(variable: impl Fn(&str) -> Option<String>, uid: u32) -> Self {
        let folder = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| format!("/run/user/{uid}"));
        let user = variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_else(|| format!("unix:path={folder}/bus"));
        Self { system: variable("DBUS_SYSTEM_BUS_ADDRESS"), user: Some(user) }
    }

    async fn connect(&self, scope: Scope) -> Result<Connection, ServiceError> {
        let address = match scope {
            Scope::System => self.system.as_deref(),
            Scope::User => self.user.as_deref(),
        };
        let builder = match (address, scope) {
            (Some(address), _) => Builder::address(address),
            (None, Scope::System) => Builder::system(),
            (None, Scope::User) => Builder::session(),
        };
        let connecting = async { builder?.build().await };
        let connected = timeout(ANSWER_MAX, connecting).await.map_err(|_| silent("the bus"))?;
        connected.map_err(|error| unreachable(format!("the {} bus cannot be used: {error}", scope.label())))
    }

    /// Restarts `unit`, and returns when the job of it is done.
    pub(crate) async fn restart(&self, unit: &str, scope: Scope, within: Duration) -> Result<(), ServiceError> {
        self.job(Verb::Restart, unit, scope, within).await
    }

    /// Reloads `unit`, and returns when the job of it is done: what it reads anew may take a moment more.
    pub(crate) async fn reload(&self, unit: &str, scope: Scope, within: Duration) -> Result<(), ServiceError> {
        self.job(Verb::Reload, unit, scope, within).await
    }

    async fn job(&self, verb: Verb, unit: &str, scope: Scope, within: Duration) -> Result<(), ServiceError> {
        let bus = self.connect(scope).await?;
        let manager = answered(ManagerProxy::new(&bus)).await?;
        // Signals are sent to those alone who asked for them, and the job may be over before its name is known.
        let mut removed = answered(manager.receive_job_removed()).await?;
        answered(manager.subscribe()).await?;
        let job = match verb {
            Verb::Restart => answered(manager.restart_unit(unit, "replace")).await?,
            Verb::Reload => answered(manager.reload_unit(unit, "replace")).await?,
        };
        let result = async {
            while let Some(signal) = removed.next().await {
                let Ok(ended) = signal.args() else { continue };
                if ended.job == job {
                    return Ok(ended.result.clone());
                }
            }
            Err(unreachable(format!("the bus went away while the unit was {}", verb.done())))
        };
        let limit = within.as_secs_f64();
        let late = |_| ServiceError::NotReady(format!("systemd has not {} {unit} within {limit} s", verb.done()));
        match timeout(within, result).await.map_err(late)??.as_str() {
            "done" => Ok(()),
            word => Err(self.why_not(unit, scope, word).await),
        }
    }

    /// Returns whether `unit` is up and has something that reloads it.
    pub(crate) async fn is_reloadable(&self, unit: &str, scope: Scope) -> Result<bool, ServiceError> {
        let bus = self.connect(scope).await?;
        let path = path_of(&bus, unit).await?;
        let about = proxied_unit(&bus, &path).await?;
        Ok(answered(about.active_state()).await? == "active" && answered(about.can_reload()).await?)
    }

    /// Has `unit` forget how often it was started where its limit of starts keeps it down, and returns whether it did.
    pub(crate) async fn forgive(&self, unit: &str, scope: Scope) -> Result<bool, ServiceError> {
        if self.state(unit, scope).await?.result != START_LIMIT_HIT {
            return Ok(false);
        }
        let bus = self.connect(scope).await?;
        let manager = answered(ManagerProxy::new(&bus)).await?;
        answered(manager.reset_failed_unit(unit)).await.map(|()| true)
    }

    /// Says why a job of `unit` ended with `word`.
    async fn why_not(&self, unit: &str, scope: Scope, word: &str) -> ServiceError {
        let found = self.state(unit, scope).await.ok();
        let result = found.map_or_else(String::new, |state| state.result);
        if result == START_LIMIT_HIT {
            return ServiceError::DidNotStart(format!(
                "{unit} hit its start limit, which is its owner's: systemd starts it again when StartLimitIntervalSec is over"
            ));
        }
        let mut why = format!("systemd's job for {unit} ended with {word:?}");
        if !matches!(result.as_str(), "" | "success") {
            write!(why, ", the unit with {result:?}").ok();
        }
        ServiceError::DidNotStart(format!("{why}: journalctl -u {unit}"))
    }

    /// Returns how `unit` is.
    pub(crate) async fn state(&self, unit: &str, scope: Scope) -> Result<State, ServiceError> {
        let bus = self.connect(scope).await?;
        let path = path_of(&bus, unit).await?;
        let (about, service) = (proxied_unit(&bus, &path).await?, proxied_service(&bus, &path).await?);
        let invocation = answered(about.invocation_id()).await?;
        Ok(State {
            active: answered(about.active_state()).await?,
            sub: answered(about.sub_state()).await?,
            result: answered(service.result()).await?,
            main_pid: Some(answered(service.main_pid()).await?).filter(|pid| *pid != 0),
            restarts: answered(service.n_restarts()).await?,
            invocation: invocation.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Says why `unit` could not be restarted, if that can be told without trying: it is not there, masked, or another one's alias.
    pub(crate) async fn restartable(&self, unit: &str, scope: Scope) -> Result<(), ServiceError> {
        let bus = self.connect(scope).await?;
        let path = path_of(&bus, unit).await?;
        let about = proxied_unit(&bus, &path).await?;
        let (load, id) = (answered(about.load_state()).await?, answered(about.id()).await?);
        match load.as_str() {
            "loaded" if id == unit => Ok(()),
            "loaded" => Err(unreachable(format!("{unit} is another name of {id}: name that one"))),
            load => Err(unreachable(format!("systemd says of {unit} that it is {load}"))),
        }
    }
}

impl Buses {
    /// Returns which of `units` are there under that very name, whether they run or not; or why systemd cannot be asked.
    pub(crate) async fn loaded(&self, units: &[&str], scope: Scope) -> Result<Vec<String>, ServiceError> {
        let bus = self.connect(scope).await?;
        let mut loaded = Vec::new();
        for unit in units {
            let path = path_of(&bus, unit).await?;
            let about = proxied_unit(&bus, &path).await?;
            if answered(about.load_state()).await? == "loaded" && answered(about.id()).await? == *unit {
                loaded.push((*unit).to_owned());
            }
        }
        Ok(loaded)
    }
}

impl State {
    /// Returns which run of the unit this is, or why there is none.
    pub(crate) fn incarnation(&self) -> Result<String, ServiceError> {
        let pid = self.main_pid.map_or_else(|| "no process".to_owned(), |pid| format!("process {pid}"));
        match self.active.as_str() {
            "active" | "reloading" => Ok(format!("invocation {} with {pid}", self.invocation)),
            _ => Err(unreachable(self.to_string())),
        }
    }
}

/// Prints it as part of a sentence.
impl std::fmt::Display for State {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the unit is {} ({})", self.active, self.sub)?;
        if self.result != "success" {
            write!(formatter, ", its last run ended with {:?}", self.result)?;
        }
        Ok(())
    }
}

async fn path_of(bus: &Connection, unit: &str) -> Result<OwnedObjectPath, ServiceError> {
    let manager = answered(ManagerProxy::new(bus)).await?;
    answered(manager.load_unit(unit)).await
}

async fn proxied_unit<'a>(bus: &Connection, path: &'a OwnedObjectPath) -> Result<UnitProxy<'a>, ServiceError> {
    // Asked once each: what is kept of an earlier answer would be older than the question.
    let builder = UnitProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).path(path.as_str());
    answered(async { builder?.build().await }).await
}

async fn proxied_service<'a>(bus: &Connection, path: &'a OwnedObjectPath) -> Result<ServiceProxy<'a>, ServiceError> {
    let builder = ServiceProxy::builder(bus).cache_properties(zbus::proxy::CacheProperties::No).path(path.as_str());
    answered(async { builder?.build().await }).await
}

async fn answered<T>(asked: impl Future<Output = zbus::Result<T>>) -> Result<T, ServiceError> {
    timeout(ANSWER_MAX, asked).await.map_err(|_| silent("systemd"))?.map_err(|error| refused(&error))
}

fn silent(who: &str) -> ServiceError {
    unreachable(format!("{who} did not answer within {} s", ANSWER_MAX.as_secs()))
}

/// Says in words what systemd refused, with what to do where that is known.
fn refused(error: &zbus::Error) -> ServiceError {
    let zbus::Error::MethodError(name, said, _) = error else { return unreachable(format!("systemd: {error}")) };
    let said = said.as_deref().unwrap_or("it does not say why");
    match name.as_str() {
        "org.freedesktop.DBus.Error.AccessDenied" | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => {
            unreachable(format!(
                "systemd does not let this user do it: {said}; ops/systemd/polkit holds a rule that does"
            ))
        }
        "org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.systemd1.UnitMasked" => {
            ServiceError::DidNotStart(format!("systemd: {said}"))
        }
        name => unreachable(format!("systemd: {said} ({name})")),
    }
}

fn unreachable(why: String) -> ServiceError {
    ServiceError::Unreachable(why)
}

#[cfg(test)]
mod tests;

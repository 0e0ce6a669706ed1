//! The services that serve: started, restarted, found ready, read back.
//!
//! A service is either our child, one serving instance a domain, or another supervisor's: systemd's, asked over D-Bus, or one that
//! is asked by a command.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kloros_actors::{
    env_file,
    facts::{BackOff, Domain, Key, Manager, Ready, ReadyBy},
    seams::ServiceError,
};
use tokio::time::{Instant, sleep, timeout};
use units::Buses;

use crate::process::{Instance, Launch, Readiness, ReadyError, Remains, Secrets, Sign, Wanted, fill, free_port};

mod control;

mod look;

mod check;

mod units;

pub(crate) use look::{unit_trouble, units_there};

/// How long somebody may look at a child of ours; who holds it longer starts or stops it.
const HELD_MAX: Duration = Duration::from_secs(5);

/// How often a child of ours is looked after.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The services of this machine that kloros looks after.
#[derive(Debug)]
pub(crate) struct Services {
    home: PathBuf,
    exe: PathBuf,
    buses: Buses,
    places: Mutex<BTreeMap<String, Arc<Place>>>,
    closing: AtomicBool,
}

/// Where the serving instance of a domain lives.
#[derive(Debug)]
struct Place {
    port: u16,
    /// How long an instance may take to end what it is doing before it is killed.
    stop_within: Duration,
    /// After how many deaths in a row a child is left down.
    deaths_max: u32,
    serving: tokio::sync::Mutex<Serving>,
}

#[derive(Debug, Default)]
struct Serving {
    instance: Option<Instance>,
    /// Whether it is meant to run; a domain that was never started is not looked after.
    wanted: bool,
    since: Option<Instant>,
    deaths: u32,
    not_before: Option<Instant>,
}

impl Services {
    /// Returns the services whose relative files lie under `home`; `exe` is what `{kloros}` means.
    pub(crate) fn new(home: PathBuf, exe: PathBuf) -> Self {
        let buses = Buses::of(|name| std::env::var(name).ok(), rustix::process::getuid().as_raw());
        Self { home, exe, buses, places: Mutex::default(), closing: AtomicBool::new(false) }
    }

    /// Starts the serving instance, unless it runs already, and returns when it is ready.
    ///
    /// A service of another supervisor is not started, only waited for.
    pub(crate) async fn start(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        match &domain.service.manager {
            Manager::Child => {
                let mut serving = place.serving.lock().await;
                if serving.instance.as_mut().is_some_and(|instance| instance.try_exit().is_none()) {
                    return Ok(());
                }
                self.launch(domain, &place, &mut serving).await
            }
            Manager::Command { .. } | Manager::Systemd { .. } => place.answers(domain).await,
        }
    }

    /// Returns the address of the serving instance, without a slash at its end, once its port is known.
    pub(crate) fn base_url(&self, domain: &str) -> Option<String> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(domain).map(|place| place.url())
    }

    /// Looks whether our child still runs, and starts it again if it died by itself and its back-off is over.
    ///
    /// After as many deaths in a row as its back-off allows it is left down, with an error, until somebody restarts it.
    pub(crate) async fn ensure_running(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        let mut serving = place.serving.lock().await;
        if domain.service.manager != Manager::Child || !serving.wanted {
            return Ok(());
        }
        let (now, back_off) = (Instant::now(), domain.service.back_off);
        let forgotten_after = Duration::from_secs(back_off.forgotten_after_s);
        if let Some(instance) = &mut serving.instance {
            let Some(status) = instance.try_exit() else {
                if serving.since.is_some_and(|since| now - since > forgotten_after) {
                    serving.deaths = 0;
                }
                return Ok(());
            };
            let said = instance.tail();
            serving.bury(now, &back_off);
            tracing::error!(domain = domain.name, %status, deaths = serving.deaths, said, "the service died");
        }
        if serving.deaths >= back_off.deaths_max {
            let deaths = serving.deaths;
            let why = format!("it died {deaths} times in a row and is left down until it is restarted");
            return Err(ServiceError::DidNotStart(why));
        }
        if serving.not_before.is_some_and(|at| at > now) {
            return Err(ServiceError::DidNotStart("it died and rests before the next start".to_owned()));
        }
        self.launch(domain, &place, &mut serving).await
    }

    /// Looks after the domain's child for ever; does nothing for a service of another supervisor.
    pub(crate) async fn supervise(&self, domain: &Domain) {
        if domain.service.manager != Manager::Child {
            return;
        }
        let mut last_error = None;
        while !self.closing.load(Ordering::Acquire) {
            let error = self.ensure_running(domain).await.err();
            // Said once, not each second.
            if let Some(error) = error.as_ref().filter(|error| Some(*error) != last_error.as_ref()) {
                tracing::warn!(domain = domain.name, %error, "the service is down");
            }
            last_error = error;
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends all children of ours, gracefully; none is started any more.
    pub(crate) async fn stop_all(&self) {
        self.closing.store(true, Ordering::Release);
        let places: Vec<Arc<Place>> = {
            let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            places.values().cloned().collect()
        };
        let stops = places.iter().map(|place| async { place.serving.lock().await.stop(place.stop_within).await });
        futures::future::join_all(stops).await;
    }

    fn place(&self, domain: &Domain) -> Result<Arc<Place>, ServiceError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&domain.name) {
            return Ok(Arc::clone(place));
        }
        let port = match (domain.service.port, &domain.service.manager) {
            (0, Manager::Command { .. } | Manager::Systemd { .. }) => {
                let why = format!("{}: `port` must name the port of a service that kloros does not start", domain.name);
                return Err(ServiceError::Unreachable(why));
            }
            (0, Manager::Child) => {
                free_port().map_err(|error| ServiceError::DidNotStart(format!("no port is free: {error}")))?
            }
            (port, _) => port,
        };
        let (stop_within, deaths_max) = (stop_within(domain), domain.service.back_off.deaths_max);
        let place = Arc::new(Place { port, stop_within, deaths_max, serving: tokio::sync::Mutex::default() });
        places.insert(domain.name.clone(), Arc::clone(&place));
        Ok(place)
    }

    async fn launch(&self, domain: &Domain, place: &Place, serving: &mut Serving) -> Result<(), ServiceError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(ServiceError::DidNotStart("kloros is being stopped".to_owned()));
        }
        serving.wanted = true;
        let launched = self.launch_once(domain, place, serving).await;
        if launched.is_err() {
            serving.stop(stop_within(domain)).await;
            serving.bury(Instant::now(), &domain.service.back_off);
        }
        launched
    }

    async fn launch_once(&self, domain: &Domain, place: &Place, serving: &mut Serving) -> Result<(), ServiceError> {
        let did_not_start = |why: String| ServiceError::DidNotStart(why);
        let service = &domain.service;
        let env_file = self.home.join(&service.env_file);
        let port = place.port.to_string();
        let takes = domain.takes();
        let set = if takes.anything() { variables(&env_file).await.map_err(did_not_start)? } else { BTreeMap::new() };
        let values = [("port", port.as_str()), ("env_file", path_text(&env_file)?), ("kloros", path_text(&self.exe)?)];
        let argv = fill(&domain.argv_with(&set), &values).map_err(|error| did_not_start(error.to_string()))?;
        // As systemd would give them.
        let set = if takes.variables { set } else { BTreeMap::new() };
        let env = set.into_iter().map(|(key, value)| (key.into(), value));
        let secrets = secrets(domain, &env_file).await;
        let readiness = place.readiness(domain).map_err(|error| not_ready(&error))?;
        let env = env.chain(readiness.variables()).collect();
        let launch = Launch { argv, env, nice: 0, secrets, remains: Remains::Killed };
        let instance = Instance::spawn_heard(launch, readiness.heard()).await;
        let instance = serving.instance.insert(instance.map_err(|error| did_not_start(error.to_string()))?);
        serving.since = Some(Instant::now());
        readiness.wait(instance).await.map_err(|error| not_ready(&error))?;
        tracing::info!(domain = domain.name, pid = instance.id(), port, "the service is ready");
        Ok(())
    }
}

fn unreachable(why: String) -> ServiceError {
    ServiceError::Unreachable(why)
}

impl Place {
    /// Returns the id of the running child. After it ended, its id may be another process's; while it is being started or
    /// stopped, there is none.
    async fn pid(&self, domain: &Domain) -> Result<u32, ServiceError> {
        let name = &domain.name;
        let Ok(mut serving) = timeout(HELD_MAX, self.serving.lock()).await else {
            return Err(unreachable(format!("{name}: it is being started or stopped")));
        };
        let Some(instance) = serving.instance.as_mut() else {
            return Err(unreachable(format!("{name}: it does not run")));
        };
        match instance.try_exit() {
            Some(status) => Err(unreachable(format!("{name}: it ended with {status}"))),
            None => Ok(instance.id()),
        }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn readiness(&self, domain: &Domain) -> Result<Readiness, ReadyError> {
        Readiness::of(wanted(&domain.service.ready), self.port)
    }

    /// Waits until a service of another supervisor is ready.
    async fn answers(&self, domain: &Domain) -> Result<(), ServiceError> {
        let waited = async { self.readiness(domain)?.wait_for_other().await };
        waited.await.map_err(|error| not_ready(&error))
    }
}

impl Serving {
    async fn stop(&mut self, within: Duration) {
        if let Some(mut instance) = self.instance.take()
            && instance.stop(within).await.is_none()
        {
            tracing::error!(pid = instance.id(), "the service does not even end when it is killed");
        }
    }

    /// Counts a death and says when the next start may be.
    fn bury(&mut self, now: Instant, back_off: &BackOff) {
        self.instance = None;
        self.not_before = Some(now + Duration::from_secs_f64(back_off.rest_s(self.deaths)));
        self.deaths = self.deaths.saturating_add(1);
    }
}

/// Returns when an instance is to count as ready, as processes are asked.
pub(crate) fn wanted(ready: &Ready) -> Wanted<'_> {
    let sign = match ready.by() {
        ReadyBy::Http(path) => Sign::Http(path),
        ReadyBy::Tcp => Sign::Tcp,
        ReadyBy::Command(argv) => Sign::Command(argv),
        ReadyBy::Notify => Sign::Notify,
        ReadyBy::LogLine(text) => Sign::LogLine(text),
    };
    let (within, bake) = (Duration::from_secs(ready.within_s), Duration::from_secs_f64(ready.bake_s));
    Wanted { sign, within, passes: ready.passes, bake }
}

fn stop_within(domain: &Domain) -> Duration {
    Duration::from_secs(domain.service.stop_within_s)
}

fn path_text(path: &Path) -> Result<&str, ServiceError> {
    path.to_str().ok_or_else(|| ServiceError::DidNotStart(format!("the path {} is not UTF-8", path.display())))
}

fn not_ready(error: &ReadyError) -> ServiceError {
    match error {
        ReadyError::Exited { .. } => ServiceError::DidNotStart(error.to_string()),
        ReadyError::TimedOut { .. } | ReadyError::Fell { .. } => ServiceError::NotReady(error.to_string()),
        ReadyError::Unaskable { .. } => ServiceError::Unreachable(error.to_string()),
    }
}

async fn variables(env_file: &Path) -> Result<BTreeMap<Key, String>, String> {
    let named = |why: String| format!("{}: {why}", env_file.display());
    let bytes = match tokio::fs::read(env_file).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(named(error.to_string())),
    };
    env_file::variables(&bytes).map_err(|problem| named(problem.to_string()))
}

/// Returns what of its output a service must not be quoted with: every value of its env file that is none of a knob.
async fn secrets(domain: &Domain, env_file: &Path) -> Secrets {
    let is_knob = |key: &Key| domain.knobs.contains_key(key);
    match tokio::fs::read(env_file).await {
        Ok(bytes) => Secrets::of(env_file::values_besides(&bytes, is_knob)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Secrets::of([]),
        Err(_) => Secrets::all(),
    }
}

#[cfg(test)]
mod tests;

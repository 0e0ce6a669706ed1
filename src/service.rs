//! The services that serve: started, restarted, found ready, read back.
//!
//! A service is either our child, one serving instance a domain, or another supervisor's, asked by a command.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kloros_actors::{
    env_file,
    facts::{Domain, Incarnation, Key, Manager, ReadBack},
    seams::{ServiceControl, ServiceError},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    crash,
    process::{
        Instance, Launch, ReadyError, Remains, Secrets, answers, ask, environment, fill, free_port, is_well,
        of_metrics, of_port, of_process, ready, shown,
    },
};

mod look;

/// How long a serving instance may take to end what it is doing before it is killed.
const STOP_MAX: Duration = Duration::from_secs(30);

/// How long another supervisor's restart command may run.
const RESTART_COMMAND_MAX: Duration = Duration::from_secs(300);

/// How long somebody may look at a child of ours; who holds it longer starts or stops it.
const HELD_MAX: Duration = Duration::from_secs(5);

/// How often a child of ours is looked after.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long it is waited after the first death before the child is started again; doubled with each further death.
const BACK_OFF_MIN: Duration = Duration::from_secs(1);

/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// How long a child must live for its earlier deaths to be forgotten.
const DEATHS_FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// After how many deaths in a row a child is left down until somebody restarts it.
const DEATHS_MAX: u32 = 10;

/// The services of this machine that kloros looks after.
#[derive(Debug)]
pub(crate) struct Services {
    home: PathBuf,
    exe: PathBuf,
    places: Mutex<BTreeMap<String, Arc<Place>>>,
    closing: AtomicBool,
}

/// Where the serving instance of a domain lives.
#[derive(Debug)]
struct Place {
    port: u16,
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
        Self { home, exe, places: Mutex::default(), closing: AtomicBool::new(false) }
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
            Manager::Command { .. } => answer(domain, &place).await,
        }
    }

    /// Returns the address of the serving instance, without a slash at its end, once its port is known.
    pub(crate) fn base_url(&self, domain: &str) -> Option<String> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(domain).map(|place| place.url())
    }

    /// Looks whether our child still runs, and starts it again if it died by itself and its back-off is over.
    ///
    /// After ten deaths in a row it is left down, with an error, until somebody restarts it.
    pub(crate) async fn ensure_running(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        let mut serving = place.serving.lock().await;
        if domain.service.manager != Manager::Child || !serving.wanted {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(instance) = &mut serving.instance {
            let Some(status) = instance.try_exit() else {
                if serving.since.is_some_and(|since| now - since > DEATHS_FORGOTTEN_AFTER) {
                    serving.deaths = 0;
                }
                return Ok(());
            };
            let said = instance.tail();
            serving.bury(now);
            tracing::error!(domain = domain.name, %status, deaths = serving.deaths, said, "the service died");
        }
        if serving.deaths >= DEATHS_MAX {
            let why = format!("it died {DEATHS_MAX} times in a row and is left down until it is restarted");
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
        let stops = places.iter().map(|place| async { place.serving.lock().await.stop().await });
        futures::future::join_all(stops).await;
    }

    fn place(&self, domain: &Domain) -> Result<Arc<Place>, ServiceError> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = places.get(&domain.name) {
            return Ok(Arc::clone(place));
        }
        let port = match (domain.service.port, &domain.service.manager) {
            (0, Manager::Command { .. }) => {
                let why = format!("{}: `port` must name the port of a service that kloros does not start", domain.name);
                return Err(ServiceError::Unreachable(why));
            }
            (0, Manager::Child) => {
                free_port().map_err(|error| ServiceError::DidNotStart(format!("no port is free: {error}")))?
            }
            (port, _) => port,
        };
        let place = Arc::new(Place { port, serving: tokio::sync::Mutex::default() });
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
            serving.stop().await;
            serving.bury(Instant::now());
        }
        launched
    }

    async fn launch_once(&self, domain: &Domain, place: &Place, serving: &mut Serving) -> Result<(), ServiceError> {
        let did_not_start = |why: String| ServiceError::DidNotStart(why);
        let service = &domain.service;
        let env_file = self.home.join(&service.env_file);
        let port = place.port.to_string();
        let values = [("port", port.as_str()), ("env_file", path_text(&env_file)?), ("kloros", path_text(&self.exe)?)];
        let argv = fill(&service.argv, &values).map_err(|error| did_not_start(error.to_string()))?;
        // A service that is not told where its env file is gets the variables themselves, as systemd would give them.
        let told = service.argv.iter().any(|argument| argument.contains("{env_file}"));
        let env = if told { Vec::new() } else { variables(&env_file).await.map_err(did_not_start)? };
        let secrets = secrets(domain, &env_file).await;
        let instance = Instance::spawn(Launch { argv, env, nice: 0, secrets, remains: Remains::Killed }).await;
        let instance = serving.instance.insert(instance.map_err(|error| did_not_start(error.to_string()))?);
        serving.since = Some(Instant::now());
        let url = format!("{}{}", place.url(), service.ready.http_path);
        let within = Duration::from_secs(service.ready.within_s);
        ready(&url, within, service.ready.passes, instance).await.map_err(|error| not_ready(&error))?;
        tracing::info!(domain = domain.name, pid = instance.id(), port, "the service is ready");
        Ok(())
    }
}

#[async_trait]
impl ServiceControl for Services {
    async fn restart(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        // Held throughout, so that nobody starts a second instance while the first one ends.
        let mut serving = place.serving.lock().await;
        match &domain.service.manager {
            Manager::Child => {
                serving.stop().await;
                // Whoever restarts it has a reason to believe that it will live.
                serving.deaths = 0;
                self.launch(domain, &place, &mut serving).await
            }
            Manager::Command { restart } => {
                let secrets = secrets(domain, &self.home.join(&domain.service.env_file)).await;
                crash::here("service: restart");
                run_restart(restart, secrets).await?;
                crash::here("service: wait for its answer");
                answer(domain, &place).await?;
                crash::here("service: answers");
                Ok(())
            }
        }
    }

    async fn in_effect(&self, domain: &Domain) -> Result<BTreeMap<String, String>, ServiceError> {
        let place = self.place(domain)?;
        let said = match &domain.service.read_back {
            ReadBack::HttpJson(path) => ask(&format!("{}{path}", place.url())).await,
            ReadBack::ProcEnviron if domain.service.manager != Manager::Child => {
                let name = &domain.name;
                Err(format!("{name}: `proc_environ` reads back children of kloros only; use `http_json`"))
            }
            ReadBack::ProcEnviron => environment(place.pid(domain).await?).await,
        };
        let mut values = said.map_err(ServiceError::Unreachable)?;
        values.retain(|key, _| Key::new(key.as_str()).is_ok_and(|key| domain.knobs.contains_key(&key)));
        let secrets = secrets(domain, &self.home.join(&domain.service.env_file)).await;
        Ok(shown(values, |name, text| domain.could_hold(name, text), &secrets))
    }

    async fn healthy(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        if domain.service.manager == Manager::Child {
            // Whoever answers on the port of a child that is gone is somebody else.
            place.pid(domain).await?;
        }
        let url = format!("{}{}", place.url(), domain.service.ready.http_path);
        is_well(&url).await.map_err(ServiceError::NotReady)
    }

    async fn incarnation(&self, domain: &Domain) -> Result<Option<Incarnation>, ServiceError> {
        let place = self.place(domain)?;
        if domain.service.manager == Manager::Child {
            let started = of_process(place.pid(domain).await?);
            return started.map(|text| Some(Incarnation::new(text))).map_err(|error| unreachable(error.to_string()));
        }
        let port = place.port;
        let holder = tokio::task::spawn_blocking(move || of_port(port)).await.unwrap_or_default();
        let told = match (holder, &domain.service.metrics_path) {
            (Some(holder), _) => Some(holder),
            (None, Some(path)) => of_metrics(&format!("{}{path}", place.url())).await,
            (None, None) => None,
        };
        Ok(told.map(Incarnation::new))
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
}

impl Serving {
    async fn stop(&mut self) {
        if let Some(mut instance) = self.instance.take()
            && instance.stop(STOP_MAX).await.is_none()
        {
            tracing::error!(pid = instance.id(), "the service does not even end when it is killed");
        }
    }

    /// Counts a death and says when the next start may be.
    fn bury(&mut self, now: Instant) {
        self.instance = None;
        let doubled = BACK_OFF_MIN.saturating_mul(2_u32.saturating_pow(self.deaths));
        self.not_before = Some(now + doubled.min(BACK_OFF_MAX));
        self.deaths = self.deaths.saturating_add(1);
    }
}

fn path_text(path: &Path) -> Result<&str, ServiceError> {
    path.to_str().ok_or_else(|| ServiceError::DidNotStart(format!("the path {} is not UTF-8", path.display())))
}

fn not_ready(error: &ReadyError) -> ServiceError {
    match error {
        ReadyError::Exited { .. } => ServiceError::DidNotStart(error.to_string()),
        ReadyError::TimedOut { .. } => ServiceError::NotReady(error.to_string()),
        ReadyError::Unaskable { .. } => ServiceError::Unreachable(error.to_string()),
    }
}

async fn answer(domain: &Domain, place: &Place) -> Result<(), ServiceError> {
    let ready = &domain.service.ready;
    let url = format!("{}{}", place.url(), ready.http_path);
    answers(&url, Duration::from_secs(ready.within_s), ready.passes).await.map_err(|error| not_ready(&error))
}

async fn run_restart(argv: &[String], secrets: Secrets) -> Result<(), ServiceError> {
    let launch = Launch { argv: argv.to_vec(), env: Vec::new(), nice: 0, secrets, remains: Remains::Left };
    let mut command = Instance::spawn(launch).await.map_err(|error| ServiceError::DidNotStart(error.to_string()))?;
    let Ok(status) = timeout(RESTART_COMMAND_MAX, command.exited()).await else {
        let limit = RESTART_COMMAND_MAX.as_secs();
        return Err(ServiceError::NotReady(format!("the restart command did not end within {limit} s")));
    };
    if status.success() {
        return Ok(());
    }
    let said = command.tail();
    Err(ServiceError::DidNotStart(format!("the restart command ended with {status}; it last said: {said}")))
}

async fn variables(env_file: &Path) -> Result<Vec<(String, String)>, String> {
    let named = |why: String| format!("{}: {why}", env_file.display());
    let bytes = match tokio::fs::read(env_file).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(error.to_string())),
    };
    let variables = env_file::variables(&bytes).map_err(|problem| named(problem.to_string()))?;
    Ok(variables.into_iter().map(|(key, value)| (key.into(), value)).collect())
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

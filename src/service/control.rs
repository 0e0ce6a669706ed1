//! What the loop asks of services.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use kloros_actors::{
    env_file,
    facts::{Apply, Domain, Incarnation, Key, Knob, Manager, ReadBack, Scope, Settings, agrees},
    seams::{ServiceControl, ServiceError},
};
use tokio::time::{sleep, timeout};

use super::{Place, Services, secrets, stop_within, unreachable};
use crate::{
    crash,
    process::{
        Instance, Launch, Remains, Secrets, ask, environment, holder_of, of_metrics, of_port, of_process, shown, told,
    },
};

/// How often it is looked whether a reload has come into force.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[async_trait]
impl ServiceControl for Services {
    async fn restartable(&self, domain: &Domain) -> Result<(), ServiceError> {
        match &domain.service.manager {
            Manager::Systemd { unit, scope } => self.buses.restartable(unit, *scope).await,
            Manager::Child | Manager::Command { .. } => Ok(()),
        }
    }

    async fn accepts(&self, domain: &Domain, env_file: &[u8]) -> Result<(), ServiceError> {
        self.ask_check(domain, env_file).await
    }

    async fn restart(&self, domain: &Domain) -> Result<(), ServiceError> {
        let place = self.place(domain)?;
        // Held throughout, so that nobody starts a second instance while the first one ends.
        let mut serving = place.serving.lock().await;
        let within = Duration::from_secs(domain.service.restart_within_s);
        match &domain.service.manager {
            Manager::Child => {
                serving.stop(stop_within(domain)).await;
                // Whoever restarts it has a reason to believe that it will live.
                serving.deaths = 0;
                return self.launch(domain, &place, &mut serving).await;
            }
            Manager::Command { restart } => {
                let secrets = secrets(domain, &self.home.join(&domain.service.env_file)).await;
                crash::here("service: restart");
                run_restart(restart, within, secrets).await?;
            }
            Manager::Systemd { unit, scope } => {
                if self.reloads(domain, &place, (unit, *scope), within).await? {
                    return Ok(());
                }
                crash::here("service: restart");
                self.buses.restart(unit, *scope, within).await?;
            }
        }
        crash::here("service: wait for its answer");
        place.answers(domain).await?;
        self.still_active(domain).await?;
        crash::here("service: answers");
        Ok(())
    }

    async fn forgive(&self, domain: &Domain) -> Result<bool, ServiceError> {
        match &domain.service.manager {
            Manager::Systemd { unit, scope } => self.buses.forgive(unit, *scope).await,
            Manager::Child | Manager::Command { .. } => Ok(false),
        }
    }

    async fn in_effect(&self, domain: &Domain) -> Result<BTreeMap<String, String>, ServiceError> {
        let place = self.place(domain)?;
        let said = match &domain.service.read_back {
            ReadBack::HttpJson(path) => ask(&format!("{}{path}", place.url())).await,
            ReadBack::ProcEnviron => environment(self.process(domain, &place).await?).await,
            ReadBack::Command(argv) => told(argv, place.port).await,
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
        self.still_active(domain).await?;
        let readiness = place.readiness(domain).map_err(|error| unreachable(error.to_string()))?;
        readiness.well().await.map_err(ServiceError::NotReady)
    }

    async fn incarnation(&self, domain: &Domain) -> Result<Option<Incarnation>, ServiceError> {
        let place = self.place(domain)?;
        match &domain.service.manager {
            Manager::Child => {
                let started = of_process(place.pid(domain).await?);
                return started
                    .map(|text| Some(Incarnation::new(text)))
                    .map_err(|error| unreachable(error.to_string()));
            }
            Manager::Systemd { unit, scope } => {
                let state = self.buses.state(unit, *scope).await?;
                let text = state.incarnation()?;
                return match (state.main_pid, &domain.service.metrics_path) {
                    // A unit that only holds settings: who lives or dies is the service that they are judged by.
                    (None, Some(path)) => {
                        let judged = of_metrics(&format!("{}{path}", place.url())).await;
                        Ok(judged.map(|judged| Incarnation::new(format!("{text}, {judged}"))))
                    }
                    _ => Ok(Some(Incarnation::new(text))),
                };
            }
            Manager::Command { .. } => {}
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

    fn address(&self, domain: &Domain) -> Option<String> {
        self.place(domain).ok().map(|place| place.url())
    }
}

impl Services {
    /// Brings what the env file holds into force by a reload, where every value that is another than what the unit runs with is one that
    /// a reload brings in. Returns whether the unit then answers and says that it runs with all of them; else it is to be restarted.
    ///
    /// Where all knobs are such and nothing is due, nothing is done to a unit that answers. A reload that the unit refuses is an error:
    /// the unit goes on with what it had, and a restart could take it down. One that cannot be asked for, or does not end, is not.
    async fn reloads(
        &self,
        domain: &Domain,
        place: &Place,
        (unit, scope): (&str, Scope),
        within: Duration,
    ) -> Result<bool, ServiceError> {
        let is_by_reload = |knob: &Knob| knob.apply == Apply::Reload;
        if !domain.knobs.values().any(is_by_reload) {
            return Ok(false);
        }
        let Some(wanted) = self.wanted(domain).await else { return Ok(false) };
        let Ok(in_effect) = self.in_effect(domain).await else { return Ok(false) };
        if agrees(&wanted, &in_effect).is_ok() {
            return Ok(domain.knobs.values().all(is_by_reload) && self.goes_on(domain, place).await);
        }
        let is_reloadable = self.buses.is_reloadable(unit, scope).await.unwrap_or(false);
        if !is_reloadable || !domain.is_for_a_reload(&wanted, &in_effect) {
            return Ok(false);
        }
        crash::here("service: reload");
        match self.buses.reload(unit, scope, within).await {
            Ok(()) => {}
            Err(error @ ServiceError::DidNotStart(_)) if self.goes_on(domain, place).await => return Err(error),
            Err(error) => {
                tracing::warn!(domain = %domain.name, %error, "the unit is not reloaded, so it is restarted");
                return Ok(false);
            }
        }
        // The job is over when the unit was told, and for a moment what ran before may answer beside what runs now.
        let in_force = async {
            let mut in_a_row = 0;
            while in_a_row < domain.service.ready.passes.max(1) {
                let is_so = self.in_effect(domain).await.is_ok_and(|said| agrees(&wanted, &said).is_ok());
                in_a_row = if is_so { in_a_row + 1 } else { 0 };
                sleep(LOOK_EVERY).await;
            }
        };
        let is_in_force = timeout(within, in_force).await.is_ok();
        if is_in_force && self.goes_on(domain, place).await {
            return Ok(true);
        }
        tracing::warn!(domain = %domain.name, "a reload did not bring the settings into force, so the unit is restarted");
        Ok(false)
    }

    /// Returns whether the unit of the domain is up and answers.
    async fn goes_on(&self, domain: &Domain, place: &Place) -> bool {
        place.answers(domain).await.is_ok() && self.still_active(domain).await.is_ok()
    }

    /// Returns what the env file has the service run with; `None` where that cannot be said.
    async fn wanted(&self, domain: &Domain) -> Option<Settings> {
        let bytes = match tokio::fs::read(self.home.join(&domain.service.env_file)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(_) => return None,
        };
        let texts: BTreeMap<&Key, Option<String>> = domain
            .knobs
            .keys()
            .map(|key| env_file::value_of(&bytes, key).ok().map(|text| (key, text)))
            .collect::<Option<_>>()?;
        domain.wanted(|key| texts.get(key).cloned().flatten())
    }

    /// Returns the process whose environment the serving instance was started with.
    pub(super) async fn process(&self, domain: &Domain, place: &Place) -> Result<u32, ServiceError> {
        let name = &domain.name;
        match &domain.service.manager {
            Manager::Child => place.pid(domain).await,
            Manager::Systemd { unit, scope } => {
                let pid = self.buses.state(unit, *scope).await?.main_pid;
                pid.ok_or_else(|| unreachable(format!("{name}: {unit} has no main process")))
            }
            Manager::Command { .. } => {
                let port = place.port;
                let holder = tokio::task::spawn_blocking(move || holder_of(port)).await.unwrap_or_default();
                let why = || unreachable(format!("{name}: no process that can be looked into listens on port {port}"));
                holder.ok_or_else(why)
            }
        }
    }

    /// Returns whether systemd says that its unit is up: whoever answers on the port of a unit that is not is somebody else.
    async fn still_active(&self, domain: &Domain) -> Result<(), ServiceError> {
        let Manager::Systemd { unit, scope } = &domain.service.manager else { return Ok(()) };
        let state = self.buses.state(unit, *scope).await?;
        state.incarnation().map(drop)
    }
}

async fn run_restart(argv: &[String], within: Duration, secrets: Secrets) -> Result<(), ServiceError> {
    let launch = Launch { argv: argv.to_vec(), env: Vec::new(), nice: 0, secrets, remains: Remains::Left };
    let mut command = Instance::spawn(launch).await.map_err(|error| ServiceError::DidNotStart(error.to_string()))?;
    let Ok(status) = timeout(within, command.exited()).await else {
        let limit = within.as_secs();
        return Err(ServiceError::NotReady(format!("the restart command did not end within {limit} s")));
    };
    if status.success() {
        return Ok(());
    }
    let said = command.tail();
    Err(ServiceError::DidNotStart(format!("the restart command ended with {status}; it last said: {said}")))
}

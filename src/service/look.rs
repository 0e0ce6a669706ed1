//! How a service is when somebody asks.

use std::time::Duration;

use kloros_actors::facts::{Domain, Manager, ReadyBy, Scope};
use tokio::time::{Instant, timeout};

use super::{Buses, Place, Services};
use crate::process::http_client;

/// How long the service's own answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// How long it is waited for whoever starts or stops the service just now.
const HANDS_OFF_MAX: Duration = Duration::from_millis(200);

/// How a service is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Where it serves, once that is known.
    pub(crate) url: Option<String>,
    /// Whether it answered at its ready path just now.
    pub(crate) is_up: bool,
    /// How it is, in words.
    pub(crate) state: String,
    /// Its process, if it is our child or a unit, and lives.
    pub(crate) pid: Option<u32>,
    /// How often in a row it died, if it is our child; how often systemd restarted it by itself, if it is a unit.
    pub(crate) deaths: u32,
    /// How long it rests before it is started again, in seconds.
    pub(crate) rests_s: Option<f64>,
}

impl Services {
    /// Returns the first process of the serving instance of `domain`, whoever started it; `None` where it does not run, or cannot be
    /// told.
    pub(crate) async fn first_process(&self, domain: &Domain) -> Option<u32> {
        let place = self.place(domain).ok()?;
        self.process(domain, &place).await.ok()
    }

    /// Returns the first process of the serving instance of `domain`, and how often it was started again because it had died, where
    /// that is counted; `None` where it does not run, or cannot be told.
    pub(crate) async fn process_and_deaths(&self, domain: &Domain) -> Option<(u32, Option<u32>)> {
        let mut look = Look::default();
        match &domain.service.manager {
            Manager::Child => {
                let place = self.place(domain).ok()?;
                look.at_child(&place).await;
            }
            Manager::Systemd { unit, scope } => {
                let state = self.buses.state(unit, *scope).await.ok()?;
                (look.pid, look.deaths) = (state.main_pid, state.restarts);
            }
            Manager::Command { .. } => return Some((self.first_process(domain).await?, None)),
        }
        Some((look.pid?, Some(look.deaths)))
    }

    /// Returns how the serving instance of `domain` is. It is asked once, and an answer is not waited for long.
    pub(crate) async fn look(&self, domain: &Domain) -> Look {
        let place = match self.place(domain) {
            Ok(place) => place,
            Err(error) => return Look { state: error.to_string(), ..Look::default() },
        };
        let mut look = Look { url: Some(place.url()), ..Look::default() };
        if domain.service.manager == Manager::Child && !look.at_child(&place).await {
            return look;
        }
        if let Manager::Systemd { unit, scope } = &domain.service.manager {
            match self.buses.state(unit, *scope).await {
                Ok(state) => {
                    (look.pid, look.deaths) = (state.main_pid, state.restarts);
                    if state.incarnation().is_err() {
                        look.state = format!("down: {state}");
                        return look;
                    }
                }
                Err(error) => {
                    look.state = error.to_string();
                    return look;
                }
            }
        }
        let answer = match (domain.service.ready.by(), place.readiness(domain)) {
            (ReadyBy::Http(path), _) => ask(&format!("{}{path}", place.url())).await,
            (_, Ok(readiness)) => match timeout(ANSWER_MAX, readiness.well()).await {
                Ok(well) => well,
                Err(_) => Err(format!("silent: no answer within {} s", ANSWER_MAX.as_secs())),
            },
            (_, Err(error)) => Err(error.to_string()),
        };
        look.is_up = answer.is_ok();
        look.state = answer.err().unwrap_or_else(|| "up".to_owned());
        look
    }
}

impl Look {
    /// Looks at our child, and returns whether it lives.
    async fn at_child(&mut self, place: &Place) -> bool {
        let Ok(mut serving) = timeout(HANDS_OFF_MAX, place.serving.lock()).await else {
            "being started or restarted".clone_into(&mut self.state);
            return false;
        };
        self.deaths = serving.deaths;
        let now = Instant::now();
        let rest = serving.not_before.and_then(|at| at.checked_duration_since(now)).filter(|rest| !rest.is_zero());
        match serving.instance.as_mut().map(|instance| (instance.try_exit(), instance.id())) {
            Some((None, pid)) => {
                self.pid = Some(pid);
                return true;
            }
            Some((Some(status), _)) => self.state = format!("down: it ended with {status}"),
            None if serving.deaths >= place.deaths_max => {
                self.state = format!("down: it died {} times in a row and is left down", serving.deaths);
            }
            None => "down".clone_into(&mut self.state),
        }
        self.rests_s = rest.map(|rest| rest.as_secs_f64());
        false
    }
}

/// Asks once, and says in words why the answer is not a good one.
async fn ask(url: &str) -> Result<(), String> {
    let answer = async { http_client(ANSWER_MAX)?.get(url).send().await };
    match answer.await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("not ready: it answers {}", answer.status())),
        Err(error) if error.is_timeout() => Err(format!("silent: no answer within {} s", ANSWER_MAX.as_secs())),
        Err(_) => Err("silent: nobody answers there".to_owned()),
    }
}

/// Returns why the unit of a service could not be restarted, as far as that can be told without trying.
pub(crate) async fn unit_trouble(unit: &str, scope: Scope) -> Option<String> {
    let buses = Buses::of(|name| std::env::var(name).ok(), rustix::process::getuid().as_raw());
    buses.restartable(unit, scope).await.err().map(|error| error.to_string())
}

/// Returns which of `units` this machine's systemd has, whether they run or not; or why it cannot be asked.
pub(crate) async fn units_there(units: &[&str]) -> Result<Vec<String>, String> {
    let buses = Buses::of(|name| std::env::var(name).ok(), rustix::process::getuid().as_raw());
    buses.loaded(units, Scope::System).await.map_err(|error| error.to_string())
}

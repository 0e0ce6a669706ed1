//! How a service is when somebody asks.

use std::time::Duration;

use kloros_actors::facts::{Domain, Manager};
use tokio::time::{Instant, timeout};

use super::{Place, Services};
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
    /// Its process, if it is our child and lives.
    pub(crate) pid: Option<u32>,
    /// How often in a row it died, if it is our child.
    pub(crate) deaths: u32,
    /// How long it rests before it is started again, in seconds.
    pub(crate) rests_s: Option<f64>,
}

impl Services {
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
        let answer = ask(&format!("{}{}", place.url(), domain.service.ready.http_path)).await;
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
            None if serving.deaths >= super::DEATHS_MAX => {
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

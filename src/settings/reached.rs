//! Where the control API and the console are reached beside the socket in the home: the section `[api]` of `kloros.toml`.

use std::{net::SocketAddr, time::Duration};

use kloros_actors::config::{Check, Problem};
use serde::{Deserialize, Serialize};

/// How the control API is reached over TCP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Reached {
    /// Where it listens, as ADDRESS:PORT on loopback; empty for nowhere.
    pub(crate) listen: String,
    /// How many connections are open at most.
    pub(crate) connections_max: u32,
    /// How long a request may take, in seconds.
    pub(crate) request_timeout_s: f64,
    /// How many readers of events there are at most.
    pub(crate) event_readers_max: u32,
    /// How many events wait for a reader at most, before it is dropped.
    pub(crate) events_waiting_max: u32,
    /// How often the machine is looked at for the charts, in seconds.
    pub(crate) chart_every_s: f64,
    /// How many looks are kept.
    pub(crate) chart_points_max: u32,
}

impl Default for Reached {
    fn default() -> Self {
        Self {
            listen: String::new(),
            connections_max: 64,
            request_timeout_s: 30.0,
            event_readers_max: 16,
            events_waiting_max: 256,
            chart_every_s: 5.0,
            chart_points_max: 720,
        }
    }
}

impl Reached {
    /// Returns where the API listens over TCP, if it does.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    /// Returns how long a request may take.
    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.request_timeout_s)
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("api");
        check.between("connections_max", f64::from(self.connections_max), 2.0, 4096.0);
        check.between("request_timeout_s", self.request_timeout_s, 0.1, 600.0);
        check.between("event_readers_max", f64::from(self.event_readers_max), 1.0, 1024.0);
        check.between("events_waiting_max", f64::from(self.events_waiting_max), 2.0, 65_536.0);
        check.between("chart_every_s", self.chart_every_s, 0.2, 3600.0);
        check.between("chart_points_max", f64::from(self.chart_points_max), 2.0, 20_000.0);
        let mut problems = check.problems();
        let what = match (self.listen.as_str(), self.address()) {
            ("", _) => None,
            (text, None) => Some(format!("{text:?} is no ADDRESS:PORT, as in 127.0.0.1:9465")),
            (_, Some(address)) if !address.ip().is_loopback() => Some(format!(
                "{address} is reachable from other machines, and what it says and does is this machine's alone: \
                 listen on 127.0.0.1 and forward the port, as with ssh -L"
            )),
            _ => None,
        };
        problems.extend(what.map(|what| Problem { key: "api.listen".to_owned(), what }));
        if self.event_readers_max >= self.connections_max {
            let what = format!("{} leaves no connection for anything else", self.event_readers_max);
            problems.push(Problem { key: "api.event_readers_max".to_owned(), what });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Reached), expected: &[&str]) {
        let mut reached = Reached::default();
        change(&mut reached);
        let keys: Vec<String> = reached.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn the_api_is_reached_on_loopback_or_not_at_all() {
        check(|_| {}, &[]);
        for good in ["127.0.0.1:9465", "127.8.8.8:1", "[::1]:9465"] {
            check(|reached| reached.listen = good.to_owned(), &[]);
        }
        for bad in ["0.0.0.0:9465", "[::]:9465", "192.168.1.2:80", "localhost:9465", "9465", "127.0.0.1", " "] {
            check(|reached| reached.listen = bad.to_owned(), &["api.listen"]);
        }
    }

    #[test]
    fn readers_of_events_never_take_every_connection() {
        check(|reached| reached.event_readers_max = 64, &["api.event_readers_max"]);
        check(|reached| reached.request_timeout_s = f64::NAN, &["api.request_timeout_s"]);
    }
}

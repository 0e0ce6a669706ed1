//! The settings of the shell around the loop: the section `[shell]` of `kloros.toml`.

use std::net::{Ipv4Addr, SocketAddr};

use kloros_actors::config::Problem;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How the daemon shows itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "settings that are on or off, each by itself")]
pub(crate) struct Shell {
    /// Where Prometheus text is served.
    pub(crate) metrics_address: SocketAddr,
    /// Whether `metrics_address` may be reached from other machines.
    pub(crate) metrics_beyond_loopback: bool,
    /// Whether alerts of an Alertmanager are taken at `metrics_address`, too.
    pub(crate) alerts: bool,
    /// Which log records are written, in the language of `tracing`'s filters.
    pub(crate) log: String,
    /// Whether `kloros chaos` may break rooms on purpose.
    pub(crate) chaos: bool,
    /// Whether the built-in lab is put under load, so that there is something to improve.
    pub(crate) demo_load: bool,
    /// How often `kloros audit verify` looks anew at a trail that grew while it looked.
    pub(crate) audit_tries_max: u32,
}

impl Default for Shell {
    fn default() -> Self {
        Self {
            metrics_address: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)),
            metrics_beyond_loopback: false,
            alerts: false,
            log: "info".to_owned(),
            chaos: false,
            demo_load: true,
            audit_tries_max: 5,
        }
    }
}

impl Shell {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.metrics_address.ip().is_loopback() && !self.metrics_beyond_loopback {
            let address = self.metrics_address;
            let what =
                format!("{address} is reachable from other machines: set metrics_beyond_loopback if that is meant");
            problems.push(Problem { key: "shell.metrics_address".to_owned(), what });
        }
        if self.alerts && !self.metrics_address.ip().is_loopback() {
            let what =
                "there is no password on it: it is taken on loopback alone, where metrics_address is there".to_owned();
            problems.push(Problem { key: "shell.alerts".to_owned(), what });
        }
        if !(1..=1000).contains(&self.audit_tries_max) {
            let what = format!("{} is not between 1 and 1000", self.audit_tries_max);
            problems.push(Problem { key: "shell.audit_tries_max".to_owned(), what });
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log) {
            problems.push(Problem { key: "shell.log".to_owned(), what: format!("{:?}: {error}", self.log) });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Shell), expected: &[&str]) {
        let mut shell = Shell::default();
        change(&mut shell);
        let keys: Vec<String> = shell.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, expected);
    }

    #[test]
    fn metrics_leave_the_machine_only_when_that_is_said() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 9464));
        check(|_| {}, &[]);
        check(|shell| shell.metrics_address = everywhere, &["shell.metrics_address"]);
        check(|shell| (shell.metrics_address, shell.metrics_beyond_loopback) = (everywhere, true), &[]);
        check(|shell| shell.alerts = true, &[]);
        check(
            |shell| (shell.metrics_address, shell.metrics_beyond_loopback, shell.alerts) = (everywhere, true, true),
            &["shell.alerts"],
        );
        check(|shell| shell.metrics_address = SocketAddr::from(([0; 16], 9464)), &["shell.metrics_address"]);
    }

    #[test]
    fn a_log_filter_that_means_nothing_is_a_problem() {
        check(|shell| shell.log = "info,kloros=debug".to_owned(), &[]);
        check(|shell| shell.log = "kloros=loud".to_owned(), &["shell.log"]);
    }
}

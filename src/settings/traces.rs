//! Where each cycle is told as a trace: the section `[traces]` of `kloros.toml`.

use std::time::Duration;

use axum::http::Uri;
use kloros_actors::config::{Check, Problem};
use serde::{Deserialize, Serialize};

/// Where traces go, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Traces {
    /// Where OTLP is taken over HTTP, without `/v1/traces`; empty for nowhere.
    pub(crate) endpoint: String,
    /// How long it is waited after the end of a cycle for what else belongs to it, in seconds.
    pub(crate) settle_s: f64,
    /// How many facts of a cycle are told at most.
    pub(crate) facts_max: u32,
    /// How long one try may take, in seconds.
    pub(crate) timeout_s: f64,
    /// How often a trace is tried at most.
    pub(crate) tries_max: u32,
    /// How long it is waited between two tries, in seconds.
    pub(crate) retry_after_s: f64,
}

impl Default for Traces {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            settle_s: 1.0,
            facts_max: 2_000,
            timeout_s: 10.0,
            tries_max: 3,
            retry_after_s: 2.0,
        }
    }
}

impl Traces {
    /// Returns where traces are sent to, `None` for nowhere; or what is wrong with the endpoint.
    pub(crate) fn address(&self) -> Result<Option<Uri>, String> {
        if self.endpoint.is_empty() {
            return Ok(None);
        }
        let uri = format!("{}/v1/traces", self.endpoint.trim_end_matches('/')).parse::<Uri>();
        let is_one = |uri: &Uri| {
            let is_open = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
            is_open && uri.query().is_none() && matches!(uri.scheme_str(), Some("http" | "https"))
        };
        let wrong = "it is no address like http://127.0.0.1:4318; one with a user or a query is not taken";
        uri.ok().filter(is_one).map(Some).ok_or_else(|| wrong.to_owned())
    }

    /// Returns how long it is waited between two tries.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_secs_f64(self.retry_after_s)
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("traces");
        check.between("settle_s", self.settle_s, 0.0, 60.0);
        check.between("facts_max", f64::from(self.facts_max), 10.0, 10_000.0);
        check.between("timeout_s", self.timeout_s, 0.1, 120.0);
        check.between("tries_max", f64::from(self.tries_max), 1.0, 20.0);
        check.between("retry_after_s", self.retry_after_s, 0.01, 300.0);
        let mut problems = check.problems();
        problems.extend(self.address().err().map(|what| Problem { key: "traces.endpoint".to_owned(), what }));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(endpoint: &str) -> Traces {
        Traces { endpoint: endpoint.to_owned(), ..Traces::default() }
    }

    #[test]
    fn an_endpoint_is_an_address_without_a_secret_in_it() {
        assert_eq!(at("").address(), Ok(None));
        for endpoint in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/", "https://tempo.example.org/otlp"] {
            let uri = at(endpoint).address().unwrap().unwrap();
            assert_eq!(uri.to_string(), format!("{}/v1/traces", endpoint.trim_end_matches('/')));
        }
        for endpoint in
            ["127.0.0.1:4318", "ftp://host", "http://me:secret@host", "http://host?token=secret", "http://", "\n"]
        {
            let [problem] = &at(endpoint).problems()[..] else { panic!("{endpoint} is taken") };
            assert_eq!(problem.key, "traces.endpoint");
            assert!(!problem.what.contains("secret"), "{}", problem.what);
        }
        assert_eq!(Traces { tries_max: 0, ..at("") }.problems().len(), 1);
    }
}

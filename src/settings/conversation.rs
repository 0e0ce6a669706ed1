//! The settings of the conversation endpoint: the section `[conversation]` of `kloros.toml`.

use std::{net::SocketAddr, time::Duration};

use kloros_actors::config::{Check, Problem};
use serde::{Deserialize, Serialize};

/// Whether and how conversations are held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Conversation {
    /// Where it listens; empty to be off.
    pub(crate) listen: String,
    /// Whether `listen` may be reached from other machines.
    pub(crate) beyond_loopback: bool,
    /// The model server.
    pub(crate) upstream: String,
    /// As whose its signals are read: a domain's name, or `conversation` where it is about none.
    pub(crate) domain: String,
    /// How long an answer may take, in seconds.
    pub(crate) timeout_s: u64,
    /// How long the memory may take, in milliseconds.
    pub(crate) memory_within_ms: u64,
    /// The largest request, in bytes.
    pub(crate) body_bytes_max: usize,
    /// How many requests may be under way at once.
    pub(crate) in_flight_max: usize,
    /// How many connections may be open at once.
    pub(crate) connections_max: usize,
    /// How long the head of a request may take, in seconds.
    pub(crate) head_timeout_s: u64,
    /// Whether an answer that says again what was said is asked for once more.
    pub(crate) ask_again: bool,
    /// The temperature of answers whose request names none, 0 to 2; below 0 it is left to the model server.
    pub(crate) temperature: f64,
    /// The most tokens of answers whose request names no limit; 0 leaves it to the model server.
    pub(crate) max_tokens: u32,
    /// How long answers that are under way may go on once an endpoint of its own is to end, in seconds.
    pub(crate) close_within_s: u64,
    /// Whether the model server condenses what is over.
    pub(crate) condense: bool,
    /// How long nobody must have asked for anything before that, in seconds.
    pub(crate) idle_s: u64,
}

/// As what signals are read that are about no domain: they are watched, and nothing is asked about them.
const NO_DOMAIN: &str = "conversation";

impl Default for Conversation {
    fn default() -> Self {
        Self {
            listen: String::new(),
            beyond_loopback: false,
            upstream: String::new(),
            domain: NO_DOMAIN.to_owned(),
            timeout_s: 60,
            memory_within_ms: 250,
            body_bytes_max: 4 << 20,
            in_flight_max: 128,
            connections_max: 512,
            head_timeout_s: 30,
            ask_again: false,
            temperature: -1.0,
            max_tokens: 0,
            close_within_s: 20,
            condense: true,
            idle_s: 60,
        }
    }
}

impl Conversation {
    /// Returns where it listens; `None` where it is off.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    /// Returns the domain as whose its signals are read; `None` where they are about none.
    pub(crate) fn heard_as(&self) -> Option<&str> {
        (self.domain != NO_DOMAIN).then_some(self.domain.as_str())
    }

    /// Returns the model server without a slash or `/v1` at its end.
    pub(crate) fn upstream(&self) -> &str {
        let plain = self.upstream.trim_end_matches('/');
        plain.strip_suffix("/v1").unwrap_or(plain)
    }

    /// Returns how long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_s)
    }

    /// Returns how long answers may go on once the endpoint is to end.
    pub(crate) fn close_within(&self) -> Duration {
        Duration::from_secs(self.close_within_s)
    }

    /// Returns how long the head of a request may take.
    pub(crate) fn head_timeout(&self) -> Duration {
        Duration::from_secs(self.head_timeout_s)
    }

    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("conversation");
        check.between("timeout_s", self.timeout_s as f64, 1.0, 3600.0);
        check.between("memory_within_ms", self.memory_within_ms as f64, 1.0, 60_000.0);
        check.between("body_bytes_max", self.body_bytes_max as f64, 1024.0, f64::from(1_u32 << 30));
        check.between("in_flight_max", self.in_flight_max as f64, 1.0, 10_000.0);
        check.between("connections_max", self.connections_max as f64, 2.0, 20_000.0);
        check.between("head_timeout_s", self.head_timeout_s as f64, 1.0, 600.0);
        check.between("temperature", self.temperature, -1.0, 2.0);
        check.between("max_tokens", f64::from(self.max_tokens), 0.0, 1_000_000.0);
        check.between("close_within_s", self.close_within_s as f64, 0.0, 3600.0);
        check.between("idle_s", self.idle_s as f64, 1.0, 86_400.0);
        let mut problems = check.problems();
        let mut add = |key: &str, what: String| problems.push(Problem { key: format!("conversation.{key}"), what });
        if !self.listen.is_empty() {
            match self.address() {
                None => add("listen", format!("{:?} is no ADDRESS:PORT, as 127.0.0.1:8089", self.listen)),
                Some(address) if !address.ip().is_loopback() && !self.beyond_loopback => {
                    let what = "is reachable from other machines: set beyond_loopback if that is meant";
                    add("listen", format!("{address} {what}"));
                }
                Some(_) => {}
            }
            if self.upstream.is_empty() {
                add("upstream", "is empty: name the model server, as http://127.0.0.1:8000".to_owned());
            }
        }
        if !self.upstream.is_empty() && !is_plain_http(&self.upstream) {
            add("upstream", format!("{:?} is no address as http://127.0.0.1:8000", without_user(&self.upstream)));
        }
        let fits = |each: char| each.is_ascii_alphanumeric() || each == '_' || each == '-';
        if self.domain.is_empty() || !self.domain.chars().all(fits) {
            add("domain", format!("{:?} is no name of a domain: letters, digits, _ and -", self.domain));
        }
        problems
    }
}

/// The program brings no TLS: a model server on this box needs none. A password in an address would be shown wherever the address is.
fn is_plain_http(url: &str) -> bool {
    let is_plain = |url: &reqwest::Url| url.scheme() == "http" && url.has_host();
    reqwest::Url::parse(url).is_ok_and(|url| is_plain(&url) && url.username().is_empty() && url.password().is_none())
}

/// Returns an address as it may be shown.
fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://...@{}", &url[..scheme], &url[at + 1..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Conversation), expected: &[&str]) {
        let mut conversation = Conversation::default();
        change(&mut conversation);
        let keys: Vec<String> = conversation.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, expected);
    }

    fn on(conversation: &mut Conversation) {
        conversation.listen = "127.0.0.1:8089".to_owned();
        conversation.upstream = "http://127.0.0.1:8000/v1/".to_owned();
    }

    #[test]
    fn it_is_off_unless_it_is_configured() {
        check(|_| {}, &[]);
        assert_eq!(Conversation::default().address(), None);
        check(on, &[]);
    }

    #[test]
    fn what_cannot_work_is_named_by_its_key() {
        check(|all| all.listen = "127.0.0.1:8089".to_owned(), &["conversation.upstream"]);
        check(|all| all.listen = "8089".to_owned(), &["conversation.listen", "conversation.upstream"]);
        for upstream in ["https://api.example.com", "127.0.0.1:8000", "unix:/run/x"] {
            check(|all| all.upstream = upstream.to_owned(), &["conversation.upstream"]);
        }
        let secret = Conversation { upstream: "http://u:s3cret@127.0.0.1:8000".to_owned(), ..Conversation::default() };
        let problems = secret.problems();
        assert_eq!(problems[0].key, "conversation.upstream");
        assert!(!problems[0].what.contains("s3cret") && problems[0].what.contains("127.0.0.1:8000"), "{problems:?}");
        check(|all| all.domain = "a b".to_owned(), &["conversation.domain"]);
        check(|all| all.timeout_s = 0, &["conversation.timeout_s"]);
        check(|all| all.connections_max = 1, &["conversation.connections_max"]);
        check(|all| all.head_timeout_s = 0, &["conversation.head_timeout_s"]);
        for temperature in [2.1, -2.0, f64::NAN] {
            check(|all| all.temperature = temperature, &["conversation.temperature"]);
        }
        check(|all| all.max_tokens = 2_000_000, &["conversation.max_tokens"]);
    }

    #[test]
    fn it_is_reached_from_other_machines_only_when_that_is_said() {
        let everywhere = |all: &mut Conversation| {
            on(all);
            all.listen = "0.0.0.0:8089".to_owned();
        };
        check(everywhere, &["conversation.listen"]);
        check(
            |all| {
                everywhere(all);
                all.beyond_loopback = true;
            },
            &[],
        );
    }

    #[test]
    fn the_base_url_of_a_client_is_understood_as_well() {
        let mut conversation = Conversation::default();
        on(&mut conversation);
        assert_eq!(conversation.upstream(), "http://127.0.0.1:8000");
    }
}

//! Errors that a service writes into the journal of systemd, counted by their severity.
//!
//! A message is an error because it says so in its `PRIORITY`, never because of a word in its text; what kloros itself writes is
//! passed over (lesson 22).

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use kloros_actors::{
    facts::{Domain, Manager, Reading, Scope},
    seams::{Clock, Probe, ProbeError},
};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::process::{Instance, Launch, Remains, Secrets};

/// How often the journal is read, however often the probe is asked.
const READ_EVERY: Duration = Duration::from_secs(10);

/// How many messages are looked at in one turn; beyond that there are that many.
const MESSAGES_MAX: usize = 500;

/// How long the journal may take.
const READ_MAX: Duration = Duration::from_secs(5);

/// From which priority on, downwards, a message is an error: emergency, alert, critical, error.
const ERROR: u8 = 3;

/// The longest cursor that is believed, in bytes.
const CURSOR_MAX: usize = 512;

/// The probe of what one unit writes.
pub(crate) struct UnitProbe {
    domain: String,
    unit: String,
    clock: Arc<dyn Clock>,
    /// Up to where the journal was read, and when.
    read: Mutex<Option<(String, Instant)>>,
}

/// What matters of one message.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "__CURSOR", default)]
    cursor: String,
    #[serde(rename = "PRIORITY", default)]
    priority: String,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: String,
}

impl UnitProbe {
    /// Returns the probe of the unit that `domain` is restarted by; `None` where that is not said.
    pub(crate) fn of(domain: &Domain, clock: Arc<dyn Clock>) -> Option<Self> {
        let unit = unit(&domain.service.manager)?;
        Some(Self { domain: domain.name.clone(), unit, clock, read: Mutex::new(None) })
    }

    async fn journal(&self, arguments: &[&str]) -> Result<String, ProbeError> {
        let unit = format!("--unit={}", self.unit);
        let fixed =
            ["journalctl", "--no-pager", "--quiet", "--output=json", "--output-fields=PRIORITY,_SYSTEMD_UNIT", &unit];
        let argv = fixed.into_iter().chain(arguments.iter().copied()).map(str::to_owned).collect();
        let (env, secrets, remains) = (Vec::new(), Secrets::all(), Remains::Killed);
        let launched = Instance::spawn(Launch { argv, env, nice: 0, secrets, remains }).await;
        let mut instance =
            launched.map_err(|error| ProbeError::Absent(format!("journalctl cannot be run: {error}")))?;
        match timeout(READ_MAX, instance.exited()).await {
            Ok(status) if status.success() => Ok(instance.stdout()),
            Ok(status) => Err(ProbeError::Unreachable(format!("journalctl ended with {status}"))),
            Err(_) => Err(ProbeError::Unreachable("journalctl takes too long".to_owned())),
        }
    }
}

#[async_trait]
impl Probe for UnitProbe {
    fn name(&self) -> String {
        format!("{}_journal", self.domain)
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let mut read = self.read.lock().await;
        let now = Instant::now();
        let Some((cursor, then)) = read.clone() else {
            // What was written before is the past; where it ends is where it goes on.
            let newest = messages(&self.journal(&["--lines=1"]).await?);
            *read =
                newest.into_iter().next_back().and_then(|message| sound(message.cursor)).map(|cursor| (cursor, now));
            return Ok(Vec::new());
        };
        if now.duration_since(then) < READ_EVERY {
            return Ok(Vec::new());
        }
        let (after, most) = (format!("--after-cursor={cursor}"), format!("--lines={MESSAGES_MAX}"));
        let new = messages(&self.journal(&[&after, &most]).await?);
        let errors = new.iter().filter(|message| is_error(message)).count();
        let cursor = new.into_iter().next_back().and_then(|message| sound(message.cursor)).unwrap_or(cursor);
        *read = Some((cursor, now));
        let elapsed_s = now.duration_since(then).as_secs_f64();
        Ok(vec![Reading {
            subject: self.domain.clone(),
            metric: "journal_errors_per_s".to_owned(),
            value: errors as f64 / elapsed_s,
            samples: errors as u64,
            at_ms: self.clock.now_ms(),
            source: format!("journal:{}", self.unit),
        }])
    }
}

/// Returns the unit of a service that systemd runs: as the domain says, or as its restart command names it to systemctl.
fn unit(manager: &Manager) -> Option<String> {
    if let Manager::Systemd { unit, scope: Scope::System } = manager {
        return Some(unit.clone());
    }
    let Manager::Command { restart } = manager else { return None };
    let program = Path::new(restart.first()?).file_name()?.to_str()?;
    let is_name = |name: &&String| {
        let plain = |each: char| each.is_ascii_alphanumeric() || "@._:-\\".contains(each);
        name.ends_with(".service") && name.chars().all(plain) && !name.starts_with('-') && !name.starts_with("kloros")
    };
    (program == "systemctl").then(|| restart.iter().skip(1).find(is_name).cloned()).flatten()
}

/// Returns the messages of journalctl's JSON, one a line; a line that is none is passed over.
fn messages(text: &str) -> Vec<Message> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn is_error(message: &Message) -> bool {
    message.priority.parse::<u8>().is_ok_and(|priority| priority <= ERROR) && !message.unit.starts_with("kloros")
}

/// A cursor goes back to journalctl as an argument.
fn sound(cursor: String) -> Option<String> {
    let plain = |each: char| each.is_ascii_alphanumeric() || "=;-_".contains(each);
    (!cursor.is_empty() && cursor.len() <= CURSOR_MAX && cursor.chars().all(plain)).then_some(cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_one_that_systemctl_restarts() {
        let table: [(&[&str], Option<&str>); 7] = [
            (&["systemctl", "restart", "chat.service"], Some("chat.service")),
            (&["/usr/bin/systemctl", "--user", "restart", "chat@1.service"], Some("chat@1.service")),
            (&["systemctl", "restart", "chat"], None),
            (&["docker", "restart", "chat.service"], None),
            (&["systemctl", "restart", "a b.service"], None),
            (&["systemctl", "restart", "kloros.service"], None),
            (&[], None),
        ];
        for (restart, expected) in table {
            let manager = Manager::Command { restart: restart.iter().map(|part| (*part).to_owned()).collect() };
            assert_eq!(unit(&manager).as_deref(), expected, "{restart:?}");
        }
        assert_eq!(unit(&Manager::Child), None);
    }

    /// Lesson 22: a word in a text makes no error, and neither does what kloros itself writes.
    #[test]
    fn an_error_is_what_says_so_by_its_severity_and_is_not_our_own() {
        let text = r#"{"__CURSOR":"s=1;i=2","PRIORITY":"3","_SYSTEMD_UNIT":"chat.service"}
{"__CURSOR":"s=1;i=3","PRIORITY":"6","_SYSTEMD_UNIT":"chat.service","MESSAGE":"error error"}
{"__CURSOR":"s=1;i=4","PRIORITY":"2","_SYSTEMD_UNIT":"kloros.service"}
{"__CURSOR":"s=1;i=5","PRIORITY":"x"}
not json
{"__CURSOR":"s=1;i=6","_SYSTEMD_UNIT":"chat.service"}"#;
        let messages = messages(text);
        assert_eq!(messages.len(), 5);
        assert_eq!(messages.iter().filter(|message| is_error(message)).count(), 1);
        assert_eq!(messages.last().map(|message| message.cursor.as_str()), Some("s=1;i=6"));
    }

    #[test]
    fn a_cursor_that_could_be_another_argument_is_not_gone_on_with() {
        assert_eq!(sound("s=ab;i=1;b=2-3".to_owned()).as_deref(), Some("s=ab;i=1;b=2-3"));
        for odd in ["", "a b", "a\nb", "$(x)"] {
            assert_eq!(sound(odd.to_owned()), None, "{odd:?}");
        }
        assert_eq!(sound("a".repeat(CURSOR_MAX + 1)), None);
    }
}

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Key, Metrics};

/// What a person said when they stopped everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// The reason, in their words; empty where they gave none.
    pub why: String,
    /// The user id of who stopped it; `None` where that cannot be told.
    pub by_uid: Option<u32>,
}

/// Prints it as part of a sentence.
impl std::fmt::Display for Stop {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.by_uid {
            Some(uid) => write!(formatter, "user {uid} stopped everything")?,
            None => formatter.write_str("everything is stopped")?,
        }
        if self.why.is_empty() { Ok(()) } else { write!(formatter, ": {}", self.why) }
    }
}

/// Everything was stopped, or may go on again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What was said; `None` when it may go on.
    pub stop: Option<Stop>,
}

/// The knobs of a domain as its env file has them by somebody else's hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// The domain.
    pub domain: String,
    /// A hash of each knob's value, or `None` where the file does not name it. A hash is enough to see a change, and tells
    /// nothing of a value that is none of ours.
    pub values: BTreeMap<Key, Option<String>>,
    /// The keys that a person edited since they were seen last; none when they are seen for the first time.
    pub edited: BTreeSet<Key>,
}

/// A person wrote another baseline for a domain, and it is what losses are counted from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anchored {
    /// The domain.
    pub domain: String,
    /// The numbers; finite, none negative.
    pub metrics: Metrics,
}

/// A person lets a domain that was frozen after too many rollbacks go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thaw {
    /// The domain.
    pub domain: String,
    /// The user id.
    pub by_uid: u32,
}

/// What somebody wanted was turned away at the door, before anybody in the house heard of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What it was: a file in an inbox, or a path that was asked for on the control socket.
    pub what: String,
    /// The user id of who came, where that was told and it is not this one's own user.
    pub by_uid: Option<u32>,
    /// Why, in words that can be shown.
    pub why: String,
}

/// The operator's files were read again, because they changed or because somebody asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reload {
    /// The user id of who asked; `None` where a changed file or a signal was the reason.
    pub by_uid: Option<u32>,
    /// What came of it.
    pub outcome: Reloaded,
}

/// What came of reading the operator's files again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reloaded {
    /// What they say is in force, but for what is named here.
    Applied {
        /// The settings that are others now.
        changed: Vec<Changed>,
        /// The settings and domains that a running daemon cannot change: they hold after a restart.
        needs_restart: Vec<String>,
        /// The domains that keep what they have until their change is judged.
        waits: Vec<String>,
    },
    /// Something is wrong with them, so that nothing was changed: each line names its file, line and key.
    Refused {
        /// The lines.
        problems: Vec<String>,
    },
}

/// A setting that is another one now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The key with its section, as in `gate.autonomy`; `domains.NAME` and `experiments.NAME` for what has a file of its own.
    pub key: String,
    /// What it was, as in TOML; empty where it was not there, or is a file.
    pub from: String,
    /// What it is.
    pub to: String,
}

/// Prints it as in `gate.autonomy 1 -> 2`.
impl std::fmt::Display for Changed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Changed { key, from, to } = self;
        if from.is_empty() && to.is_empty() {
            formatter.write_str(key)
        } else {
            write!(formatter, "{key} {from} -> {to}")
        }
    }
}

/// What a promotion waits for that no approval replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// A person stopped everything.
    Stopped,
    /// It is a time in which nothing new is deployed.
    FreezeWindow,
    /// Another change of the domain is not brought to its end yet.
    Pending,
    /// The domain, or the host, has seen as many deployments as it may for now.
    Budget,
    /// The domain is frozen after too many rollbacks.
    Frozen,
    /// A person edited a key of it not long ago.
    CoolDown,
    /// The service is measured in place, and no maintenance window of it is in force.
    Maintenance,
    /// How much its measurement scatters is not known yet.
    Uncalibrated,
}

impl Held {
    /// Returns it as one word, also used as a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Held::Stopped => "stopped",
            Held::FreezeWindow => "freeze_window",
            Held::Pending => "pending",
            Held::Budget => "budget",
            Held::Frozen => "frozen",
            Held::CoolDown => "cool_down",
            Held::Maintenance => "maintenance",
            Held::Uncalibrated => "uncalibrated",
        }
    }
}

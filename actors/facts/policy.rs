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
        }
    }
}

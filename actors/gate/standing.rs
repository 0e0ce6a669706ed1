//! What the gate tells of itself: what waits, for whom or what.

use serde::{Deserialize, Serialize};

use crate::facts::{Held, Promotion, Risk, Stop};

/// A promotion that waits for a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// What waits.
    pub promotion: Promotion,
    /// Its risk.
    pub risk: Risk,
    /// Why a person is asked.
    pub why: String,
    /// What a yes is bound to.
    #[serde(default)]
    pub binding: String,
    /// When silence becomes a no, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// A promotion that waits for something that no approval replaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldBack {
    /// What waits.
    pub promotion: Promotion,
    /// For what.
    pub held: Held,
    /// In words.
    pub why: String,
}

/// All that holds promotions back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// What was said when everything was stopped, if it is.
    pub stop: Option<Stop>,
    /// The freeze window that is in force, if one is.
    pub freeze: Option<String>,
    /// Whether only advice is given.
    pub advice: bool,
    /// What waits for a person.
    pub waiting: Vec<Waiting>,
    /// What waits for something else.
    pub held: Vec<HeldBack>,
}

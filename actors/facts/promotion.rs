use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    CycleId, Domain, ExperimentId, Held, Key, Params, PromotionId, Proposal, QuestionId, Settings, Value, short_hash,
};

/// A change that somebody wants to make to a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// Named by what is proposed, on which base, by what.
    pub id: PromotionId,
    /// The cycle it belongs to.
    pub cycle: CycleId,
    /// Who proposes it.
    pub origin: Origin,
    /// The experiment's name, or `try` for a person's own proposal.
    pub experiment: String,
    /// The question it answers, if one was asked.
    pub question: Option<QuestionId>,
    /// What the question suspects, if one was asked.
    pub hypothesis: Option<String>,
    /// The domain it is for.
    pub domain: String,
    /// All that was proposed, also what ran already when it was planned.
    pub settings: Settings,
    /// What changes; never empty.
    pub changes: BTreeMap<Key, Change>,
    /// The promotion whose base was overtaken by a change of ours, and in whose place this one stands.
    pub replaces: Option<PromotionId>,
    /// What the experiment claims for it; never evidence.
    pub fitness: Option<f64>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The causal depth of the question behind it.
    pub depth: u32,
}

impl Promotion {
    /// Returns the id of a promotion of these `changes` by this `experiment` in this `domain`. What was planned anew is
    /// another promotion, so an approval of the old plan is none of the new one.
    pub fn identity(
        domain: &str,
        experiment: &str,
        cycle: &CycleId,
        changes: &BTreeMap<Key, Change>,
        replaces: Option<&PromotionId>,
    ) -> PromotionId {
        let text = changes.iter().map(|(key, change)| format!("{key}:{change};")).collect::<String>();
        let replaces = replaces.map_or("", PromotionId::as_str);
        PromotionId::new(format!("p-{}", short_hash(&[domain, experiment, cycle.as_str(), &text, replaces])))
    }

    /// Returns what was proposed, to be planned anew on another base.
    pub fn as_proposed(&self) -> Proposal {
        Proposal {
            cycle: self.cycle.clone(),
            origin: self.origin.clone(),
            experiment: self.experiment.clone(),
            question: self.question.clone(),
            hypothesis: self.hypothesis.clone(),
            domain: self.domain.clone(),
            settings: self.settings.clone(),
            fitness: self.fitness,
            at_ms: self.at_ms,
            depth: self.depth,
        }
    }

    /// Returns whether `other` would do the very same on the same base, for the same experiment.
    pub fn is_same_change(&self, other: &Self) -> bool {
        (&self.domain, &self.experiment, &self.changes) == (&other.domain, &other.experiment, &other.changes)
    }

    /// Returns what the service is to run with, of the keys that change.
    pub fn target(&self) -> Settings {
        self.changes.iter().map(|(key, change)| (key.clone(), change.to.clone())).collect()
    }

    /// Returns a fingerprint of the target that ignores who proposed it and on which base.
    pub fn fingerprint(&self) -> String {
        Self::fingerprint_of(&self.domain, &self.changes)
    }

    /// Returns the fingerprint of a promotion of these `changes` in this `domain`.
    pub fn fingerprint_of(domain: &str, changes: &BTreeMap<Key, Change>) -> String {
        let text = changes.iter().map(|(key, change)| format!("{key}={};", change.to)).collect::<String>();
        short_hash(&[domain, &text])
    }
}

/// Who proposes a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An experiment of the loop.
    Experiment(ExperimentId),
    /// A person with this user id.
    Person(u32),
    /// A winner file that was put into the winners folder.
    File(String),
    /// An experiment that wants the serving instance lent, to try candidates on it. What changes is told as the farthest
    /// value that it may try of each key.
    Trials(ExperimentId),
}

/// One key's old and new value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The value that the service said it ran with when the change was planned; absent where the env file did not name
    /// the key and the service does not report it, as it may do with what it does not use.
    #[serde(default)]
    pub from: Option<Value>,
    /// Whether the env file named the key; where it did not, undoing takes the key out again.
    pub in_file: bool,
    /// The value to be set.
    pub to: Value,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, in_file, to } = self;
        match from {
            Some(from) if *in_file => write!(formatter, "{from} -> {to}"),
            Some(from) => write!(formatter, "unset ({from}) -> {to}"),
            None => write!(formatter, "unset -> {to}"),
        }
    }
}

/// Why parameters could not be turned into settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingProblem {
    /// A parameter that no mapping names.
    #[error("parameter {0:?} is not mapped to an env key")]
    Unmapped(String),
    /// A key outside the allow-list.
    #[error("{key} is not a knob of domain {domain}")]
    NotAllowed {
        /// The key.
        key: Key,
        /// The domain.
        domain: String,
    },
    /// A value of the wrong type or outside its range.
    #[error("{key}: {why}")]
    OutOfRange {
        /// The key.
        key: Key,
        /// In words.
        why: String,
    },
    /// The env file and the service disagree: the file was edited, and the service was not restarted since.
    #[error("{key}: the env file says {file}, and the service runs with {running:?}: restart it, or correct the file")]
    NotRestarted {
        /// The key.
        key: Key,
        /// What the file says.
        file: String,
        /// What the service says.
        running: String,
    },
    /// The service does not say what it runs with under this key, so there is nothing to compare with.
    #[error(
        "{key}: the service does not say what it runs with: let its read-back report the key; if it reports only what it uses, take the key out of the env file"
    )]
    Unsaid {
        /// The key.
        key: Key,
    },
    /// Nothing would change.
    #[error("nothing would change: the service runs with these values already")]
    NoChange,
}

/// Returns the settings that `params` mean in `domain`, every one of them typed, in range and on the allow-list.
pub fn map_params(
    params: &Params,
    mapping: &BTreeMap<String, Key>,
    domain: &Domain,
) -> Result<Settings, MappingProblem> {
    let mut settings = Settings::new();
    for (name, value) in params {
        let key = mapping.get(name).ok_or_else(|| MappingProblem::Unmapped(name.clone()))?;
        let knob = domain
            .knobs
            .get(key)
            .ok_or_else(|| MappingProblem::NotAllowed { key: key.clone(), domain: domain.name.clone() })?;
        if let Some(why) = knob.range.refuses(value) {
            return Err(MappingProblem::OutOfRange { key: key.clone(), why });
        }
        settings.insert(key.clone(), value.clone());
    }
    Ok(settings)
}

/// How much may happen without a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Autonomy {
    /// Level 0: a person approves everything.
    Manual,
    /// Level 1: low risk goes through.
    Cautious,
    /// Level 2: low and medium risk go through.
    Trusted,
    /// Level 3: everything goes through that policy allows.
    Full,
}

impl TryFrom<u8> for Autonomy {
    type Error = String;

    fn try_from(level: u8) -> Result<Self, String> {
        match level {
            0 => Ok(Autonomy::Manual),
            1 => Ok(Autonomy::Cautious),
            2 => Ok(Autonomy::Trusted),
            3 => Ok(Autonomy::Full),
            other => Err(format!("{other} is no autonomy level: use 0, 1, 2 or 3")),
        }
    }
}

impl From<Autonomy> for u8 {
    fn from(level: Autonomy) -> u8 {
        match level {
            Autonomy::Manual => 0,
            Autonomy::Cautious => 1,
            Autonomy::Trusted => 2,
            Autonomy::Full => 3,
        }
    }
}

/// How bad it can get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    /// Tuning within safe bounds.
    Low,
    /// A change of a service that can be rolled back.
    Medium,
    /// A change that a person should look at.
    High,
}

impl fmt::Display for Risk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Risk::Low => "low",
            Risk::Medium => "medium",
            Risk::High => "high",
        })
    }
}

/// What the gate says to a promotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ruling", rename_all = "snake_case")]
pub enum Ruling {
    /// It may go on.
    Allow {
        /// The promotion.
        promotion: PromotionId,
        /// Its risk.
        risk: Risk,
        /// The level in force.
        level: Autonomy,
    },
    /// A person is asked.
    Ask {
        /// The promotion.
        promotion: PromotionId,
        /// Its risk.
        risk: Risk,
        /// The level in force.
        level: Autonomy,
        /// Why a person is asked.
        why: String,
        /// What a yes is bound to: a hash of the plan, its base and the policy. Older journals have none.
        #[serde(default)]
        binding: String,
        /// When silence becomes a no, in milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// It may not go on, at no level.
    Refuse {
        /// The promotion.
        promotion: PromotionId,
        /// In words.
        why: String,
    },
    /// It waits until something that nobody can approve away is over, and is ruled on anew then.
    Hold {
        /// The promotion.
        promotion: PromotionId,
        /// What it waits for.
        held: Held,
        /// In words.
        why: String,
    },
    /// It could go on, and kloros only gives advice: a person makes the change, or nobody does.
    Advise {
        /// The promotion.
        promotion: PromotionId,
        /// Its risk.
        risk: Risk,
        /// The level in force.
        level: Autonomy,
        /// Why a person would have been asked; empty where the level lets it through.
        why: String,
    },
}

impl Ruling {
    /// Returns which promotion was ruled on.
    pub fn promotion(&self) -> &PromotionId {
        match self {
            Ruling::Allow { promotion, .. }
            | Ruling::Ask { promotion, .. }
            | Ruling::Refuse { promotion, .. }
            | Ruling::Hold { promotion, .. }
            | Ruling::Advise { promotion, .. } => promotion,
        }
    }

    /// Returns the ruling as one word: `allow`, `ask`, `refuse`, `hold` or `advise`.
    pub fn label(&self) -> &'static str {
        match self {
            Ruling::Allow { .. } => "allow",
            Ruling::Ask { .. } => "ask",
            Ruling::Refuse { .. } => "refuse",
            Ruling::Hold { .. } => "hold",
            Ruling::Advise { .. } => "advise",
        }
    }
}

/// What a person, or the clock, says to a promotion that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The promotion.
    pub promotion: PromotionId,
    /// Yes or no.
    pub approved: bool,
    /// The user id of who answered; `None` when the time ran out.
    pub by_uid: Option<u32>,
    /// The reason, if one was given.
    pub why: Option<String>,
    /// What the answer is bound to: the hash of the plan, its base and the policy that was shown. A yes to anything else is
    /// none. Older journals have none.
    #[serde(default)]
    pub binding: String,
}

/// Who let a promotion through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Authority {
    /// The autonomy level allowed it.
    Policy(Autonomy),
    /// A person with this user id approved it.
    Person(u32),
}

/// Something the gate let through. Only the gate can make one, so what it did not pass cannot even be spelled elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Approved<T> {
    what: T,
    authority: Authority,
}

impl<T> Approved<T> {
    pub(crate) fn by(authority: Authority, what: T) -> Self {
        Self { what, authority }
    }

    /// Returns what was let through, and by whom.
    pub fn into_parts(self) -> (T, Authority) {
        (self.what, self.authority)
    }
}

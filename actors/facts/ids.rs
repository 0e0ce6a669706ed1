use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Returns the first eight hexadecimal digits of the SHA-256 of `parts`, each ended by a zero byte.
///
/// Short enough to be typed, stable across restarts, and different when a part moves into its neighbour.
///
/// ```
/// # use kloros_actors::facts::short_hash;
/// assert_eq!(short_hash(&["a", "b"]).len(), 8);
/// assert_ne!(short_hash(&["ab", ""]), short_hash(&["a", "b"]));
/// ```
pub fn short_hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the SHA-256 of `bytes` in hexadecimal digits: what a file held, without what it said.
pub fn content_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Returns the id with this text; what the text is made of is the caller's to say.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// Returns the id as it is printed.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

id! {
    /// One round of the loop, from what caused it to what was learned: `c-7f3a9c21`.
    CycleId
}
id! {
    /// One question: domain, hypothesis and how often it was asked: `lab.latency_degradation.001`.
    QuestionId
}
id! {
    /// One experiment: `x-` and the question it answers.
    ExperimentId
}
id! {
    /// One proposed change, named by what it proposes on which base: `p-7f3a9c21`.
    PromotionId
}
id! {
    /// One change of a running service: the promotion's digits behind `d-`.
    DeploymentId
}

id! {
    /// One run of a service from its start to its end: another text is another run. What it is made of is the adapter's to say.
    Incarnation
}

/// The name of an environment variable: an ASCII letter or underscore, then letters, digits or underscores.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// Returns the key, or a sentence that says why `text` cannot name an environment variable.
    pub fn new(text: impl Into<String>) -> Result<Self, String> {
        let text = text.into();
        let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        let goes_on_well = text.chars().all(|each| each.is_ascii_alphanumeric() || each == '_');
        if starts_well && goes_on_well && text.len() <= Self::LENGTH_MAX {
            Ok(Self(text))
        } else {
            Err(format!("{text:?} cannot name an environment variable: use letters, digits and underscores"))
        }
    }

    /// The longest name that is accepted, in bytes.
    pub const LENGTH_MAX: usize = 128;

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_a_shell_would_read_as_more_than_a_name_is_refused() {
        for text in ["", "1A", "A-B", "A=B", "A\nB", "Ä", "A B", "$(A)", &"A".repeat(129)] {
            assert!(Key::new(text).is_err(), "{text:?}");
        }
        assert!(Key::new("_LAB_2").is_ok());
    }
}

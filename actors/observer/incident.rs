//! Incidents: from single signs to one thing that happened.
//!
//! A sign is one series that is out for long enough, until it is in again for long enough. Signs of one subject that begin
//! together are one incident, and one incident is told once in its repeat time.

use serde::{Deserialize, Serialize};

use crate::facts::{Trouble, short_hash};

/// What one reading looks like to a judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Clearly out: it may begin a sign.
    Unlike,
    /// Neither clearly out nor clearly in: it begins nothing and ends nothing.
    Between,
    /// Clearly in: it may end a sign.
    Like,
}

/// Where a sign stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Nothing is wrong, or not for long enough.
    Quiet {
        /// How many readings in a row were out.
        unlike: u32,
        /// When the first of them was, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// Something is wrong.
    Open {
        /// Since when all is well again, if it is.
        like_since_ms: Option<u64>,
    },
}

/// How patient a sign is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How many readings in a row must be out.
    pub readings: u32,
    /// For how long they must be, in milliseconds.
    pub for_ms: u64,
    /// For how long they must be in again, in milliseconds.
    pub clear_ms: u64,
}

impl Sign {
    /// Returns the sign after a reading of this `sight`.
    #[must_use]
    pub fn after(self, sight: Sight, patience: Patience, now_ms: u64) -> Self {
        match (self, sight) {
            (Sign::Quiet { unlike, since_ms }, Sight::Unlike) => {
                let since_ms = if unlike == 0 { now_ms } else { since_ms };
                let unlike = unlike.saturating_add(1);
                let is_long = now_ms.saturating_sub(since_ms) >= patience.for_ms;
                if unlike >= patience.readings && is_long {
                    Sign::Open { like_since_ms: None }
                } else {
                    Sign::Quiet { unlike, since_ms }
                }
            }
            (Sign::Quiet { .. }, Sight::Between | Sight::Like) => Sign::default(),
            (Sign::Open { like_since_ms }, Sight::Like) => {
                let since_ms = like_since_ms.unwrap_or(now_ms);
                if now_ms.saturating_sub(since_ms) >= patience.clear_ms {
                    Sign::default()
                } else {
                    Sign::Open { like_since_ms: Some(since_ms) }
                }
            }
            (Sign::Open { .. }, Sight::Unlike | Sight::Between) => Sign::Open { like_since_ms: None },
        }
    }

    /// Returns whether it has begun and has not ended.
    pub fn is_open(self) -> bool {
        matches!(self, Sign::Open { .. })
    }
}

impl Default for Sign {
    fn default() -> Self {
        Sign::Quiet { unlike: 0, since_ms: 0 }
    }
}

/// One thing that happened to one subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Who it happened to.
    pub subject: String,
    /// The kinds of trouble that were seen, in the order in which they matter.
    pub troubles: Vec<Trouble>,
    /// When its first sign began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Whether it was not told of because of a time of silence.
    pub is_silenced: bool,
}

impl Incident {
    /// Returns the incident that this sign begins.
    pub fn new(subject: &str, trouble: Trouble, now_ms: u64) -> Self {
        Self { subject: subject.to_owned(), troubles: vec![trouble], since_ms: now_ms, is_silenced: false }
    }

    /// Returns whether a sign of this kind that begins now belongs to it.
    ///
    /// What is short on a host or a GPU has its own cause each; what is wrong with a service begins together where it has one.
    pub fn takes(&self, subject: &str, trouble: Trouble, together_ms: u64, now_ms: u64) -> bool {
        let is_service = subject != "host" && !subject.starts_with("gpu");
        let is_together = is_service && now_ms.saturating_sub(self.since_ms) <= together_ms;
        self.subject == subject && (self.troubles.contains(&trouble) || is_together)
    }

    /// Takes a sign of this kind in.
    pub fn take(&mut self, trouble: Trouble) {
        if let Err(place) = self.troubles.binary_search(&trouble) {
            self.troubles.insert(place, trouble);
        }
    }
}

/// Returns what the trouble of a subject is known by: nothing that was measured, and no moment (lesson 24).
pub fn identity(subject: &str, trouble: Trouble) -> String {
    format!("i-{}", short_hash(&[subject, trouble.label()]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience = Patience { readings: 3, for_ms: 20, clear_ms: 50 };

    /// Returns whether the sign is open after each of these sights, ten milliseconds apart.
    fn open_after(sights: &str) -> Vec<bool> {
        let mut sign = Sign::default();
        sights
            .chars()
            .enumerate()
            .map(|(place, sight)| {
                let sight = match sight {
                    'u' => Sight::Unlike,
                    'b' => Sight::Between,
                    _ => Sight::Like,
                };
                sign = sign.after(sight, PATIENCE, place as u64 * 10);
                sign.is_open()
            })
            .collect()
    }

    #[test]
    fn a_sign_begins_after_so_many_readings_and_so_long_and_ends_after_so_long() {
        let table = [
            ("uu", false),
            ("uuu", true),
            ("uuluul", false),
            ("uubuu", false),
            ("uuulllll", true),
            ("uuullllll", false),
            ("uuulllblllll", true),
            ("uuubbbbbbbbbb", true),
        ];
        for (sights, is_open) in table {
            assert_eq!(open_after(sights).last(), Some(&is_open), "{sights}");
        }
    }

    #[test]
    fn what_begins_together_on_a_service_is_one_incident_and_what_is_short_on_a_host_is_not() {
        let incident = |subject: &str| Incident::new(subject, Trouble::Queue, 1000);
        let table = [
            ("lab", "lab", Trouble::Latency, 1100, true),
            ("lab", "lab", Trouble::Latency, 1101, false),
            ("lab", "lab", Trouble::Queue, 9000, true),
            ("lab", "tts", Trouble::Queue, 1000, false),
            ("host", "host", Trouble::Disk, 1000, false),
            ("host", "host", Trouble::Queue, 9000, true),
            ("gpu:a", "gpu:b", Trouble::Queue, 1000, false),
        ];
        for (one, other, trouble, now_ms, takes) in table {
            assert_eq!(incident(one).takes(other, trouble, 100, now_ms), takes, "{one} {other} {trouble:?} {now_ms}");
        }
    }

    /// Lesson 24: the trouble of a subject is known by the subject and the kind of trouble alone.
    #[test]
    fn lesson_24_an_identity_holds_no_value_and_no_moment() {
        assert_eq!(identity("lab", Trouble::Latency), identity("lab", Trouble::Latency));
        assert_ne!(identity("lab", Trouble::Latency), identity("tts", Trouble::Latency));
        assert_ne!(identity("lab", Trouble::Latency), identity("lab", Trouble::Errors));
    }

    proptest! {
        #[test]
        fn a_sign_never_flaps_faster_than_its_patience(sights in prop::collection::vec(0_usize..3, 0..400)) {
            let mut sign = Sign::default();
            let mut ended_at = None;
            for (place, sight) in sights.into_iter().enumerate() {
                let (now_ms, was_open) = (place as u64 * 10, sign.is_open());
                sign = sign.after([Sight::Unlike, Sight::Between, Sight::Like][sight], PATIENCE, now_ms);
                if was_open && !sign.is_open() {
                    ended_at = Some(now_ms);
                }
                if !was_open && sign.is_open() {
                    prop_assert!(ended_at.is_none_or(|ended_at| now_ms - ended_at >= 30));
                }
            }
        }
    }
}

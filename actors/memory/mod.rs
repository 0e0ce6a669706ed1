//! The conversation memory: what was said, and what of it matters now?
//!
//! Hears what is said in conversations and keeps it in the archive; is asked for the context of the next answer.
//! Invariants: the newest turns are never the ones left out, and of the last question and answer at least the beginning is there; the
//! same turn never comes twice; nothing of another owner's conversation ever comes into a context; what is said reaches neither the
//! journal nor a log nor a metric.

mod actor;

mod voice_actor;

pub mod context;

pub mod relevance;

pub mod repetition;

pub mod topics;

pub mod episodes;

pub mod words;

#[cfg(test)]
mod tests;

pub use actor::{Arguments, Memory, Msg, TEXT_CHARS_MAX, remember};
use serde::{Deserialize, Serialize};
pub use voice_actor::{Remembered, Silent, Voice, Wanted, Weight};

use crate::config::{Check, Problem};

/// The room's settings; the section `[memory]` of `kloros.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many events a context holds at most.
    pub context_events_max: usize,
    /// How many characters a context holds at most.
    pub context_chars_max: usize,
    /// How many of the newest events come first.
    pub newest_events: usize,
    /// How old an event of a context may be, in hours.
    pub window_h: u64,
    /// Whether other conversations of the same owner are looked through, too.
    pub other_conversations: bool,
    /// How many topics are kept.
    pub topics_max: usize,
    /// From which similarity an answer says again what was said, 0 to 1.
    pub repetition_from: f64,
    /// With how many earlier answers an answer is compared.
    pub repetition_look_back: usize,
    /// Below which length an answer is a set phrase, in characters.
    pub repetition_chars_min: usize,
    /// How long nobody says anything before an episode is over, in seconds.
    pub episode_gap_s: u64,
    /// How many tokens an episode has at most, estimated.
    pub episode_tokens_max: u64,
    /// How many turns of the user are told in full before they are condensed.
    pub turns_max: u32,
    /// How many characters the summary of an episode has at most.
    pub summary_chars_max: usize,
    /// After how many days what was said is forgotten; 0 is never.
    pub retention_days: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            context_events_max: 20,
            context_chars_max: 2000,
            newest_events: 8,
            window_h: 24,
            other_conversations: false,
            topics_max: 5,
            repetition_from: 0.75,
            repetition_look_back: 10,
            repetition_chars_min: 30,
            episode_gap_s: 300,
            episode_tokens_max: 2000,
            turns_max: 20,
            summary_chars_max: 400,
            retention_days: 90,
        }
    }
}

impl Config {
    /// Returns what is wrong with the settings: the key, and what to do, in the operator's words.
    pub fn problems(&self) -> Vec<Problem> {
        let mut check = Check::of("memory");
        check.between("context_events_max", self.context_events_max as f64, 1.0, 500.0);
        check.between("context_chars_max", self.context_chars_max as f64, 1.0, 1_000_000.0);
        check.between("newest_events", self.newest_events as f64, 1.0, 500.0);
        check.between("window_h", self.window_h as f64, 1.0, 24.0 * 366.0);
        check.between("topics_max", self.topics_max as f64, 0.0, 100.0);
        check.between("repetition_from", self.repetition_from, 0.1, 1.0);
        check.between("repetition_look_back", self.repetition_look_back as f64, 0.0, 100.0);
        check.between("repetition_chars_min", self.repetition_chars_min as f64, 5.0, 10_000.0);
        check.between("episode_gap_s", self.episode_gap_s as f64, 1.0, 86_400.0);
        check.between("episode_tokens_max", self.episode_tokens_max as f64, 100.0, 1_000_000.0);
        check.between("turns_max", f64::from(self.turns_max), 1.0, 10_000.0);
        check.between("summary_chars_max", self.summary_chars_max as f64, 20.0, 100_000.0);
        check.between("retention_days", self.retention_days as f64, 0.0, 36_500.0);
        check.problems()
    }
}

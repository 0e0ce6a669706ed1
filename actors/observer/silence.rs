//! Silence: times in which nothing is told, of all or of one.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::facts::window::Window;

/// A time in which nothing is told: of everything, or of one subject where its name stands before it.
///
/// ```
/// # use kloros_actors::observer::Silence;
/// for text in ["sat,sun", "chat: 22:00-06:00", "host: 2026-12-20 00:00 to 2027-01-02 06:00"] {
///     assert_eq!(text.parse::<Silence>().map(|silence| silence.to_string()).as_deref(), Ok(text));
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Silence {
    subject: Option<String>,
    window: Window,
}

impl Silence {
    /// Returns whether nothing is told of `subject` at `now_ms` since the Unix epoch where local time is `utc_offset_s` ahead of
    /// UTC. All GPUs answer to `gpu`.
    pub fn holds(&self, subject: &str, now_ms: u64, utc_offset_s: i32) -> bool {
        let named = self.subject.as_deref();
        let is_meant = named.is_none_or(|named| named == subject || subject.split(':').next() == Some(named));
        is_meant && self.window.holds(now_ms, utc_offset_s)
    }

    /// Returns the subject it is about; `None` where it is about everything.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Some(subject) => write!(formatter, "{subject}: {}", self.window),
            None => self.window.fmt(formatter),
        }
    }
}

impl From<Silence> for String {
    fn from(silence: Silence) -> String {
        silence.to_string()
    }
}

impl TryFrom<String> for Silence {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Silence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A time of day has no blank behind its colon.
        let (subject, window) = match text.split_once(": ") {
            Some((subject, window)) => (Some(subject), window),
            None => (None, text),
        };
        let is_name = |name: &str| {
            !name.is_empty() && name.len() <= 64 && name.chars().all(|each| each.is_ascii_alphanumeric() || each == '_')
        };
        if let Some(subject) = subject.filter(|subject| !is_name(subject)) {
            return Err(format!(
                "{subject:.60?} is no name: write the domain, host or gpu before the colon, as in \"chat: 22:00-06:00\""
            ));
        }
        Ok(Self { subject: subject.map(str::to_owned), window: window.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn silence(text: &str) -> Silence {
        text.parse().unwrap()
    }

    #[test]
    fn a_silence_is_about_all_or_about_the_one_that_it_names() {
        let table = [
            ("00:00-06:00", "lab", 1, true),
            ("00:00-06:00", "lab", 7, false),
            ("lab: 00:00-06:00", "lab", 1, true),
            ("lab: 00:00-06:00", "tts", 1, false),
            ("gpu: 00:00-06:00", "gpu:0123abcd", 1, true),
            ("gpu: 00:00-06:00", "gpu", 1, true),
            ("gpu: 00:00-06:00", "gpu_tts", 1, false),
            ("host: thu", "host", 23, true),
            ("host: fri", "host", 23, false),
        ];
        for (text, subject, hour, holds) in table {
            assert_eq!(silence(text).holds(subject, hour * HOUR_MS, 0), holds, "{text} {subject} {hour}");
        }
        assert!(silence("lab: 00:00-06:00").holds("lab", 20 * HOUR_MS, 8 * 3600), "it goes by the clock on the wall");
    }

    #[test]
    fn what_is_no_time_and_what_is_no_name_is_told() {
        for (text, part) in [
            ("", "is no window of time"),
            ("caturday", "is no window of time"),
            ("lab: ", "is no window of time"),
            ("a b: sat", "is no name"),
        ] {
            let why = text.parse::<Silence>().unwrap_err();
            assert!(why.contains(part), "{text:?}: {why}");
        }
    }
}

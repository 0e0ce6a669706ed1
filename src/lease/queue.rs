//! Who goes first, from what stands in the files: pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text that says what somebody measures, in characters. Others wrote it, so it is not believed to be short.
const WHAT_CHARS_MAX: usize = 120;

/// How much a measurement matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A change is live and not proven: it is judged before anything else is found out.
    Unproven,
    /// Anything else.
    Ordinary,
}

/// One who measures or waits, as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Party {
    pid: u32,
    what: String,
    /// Since when it waits or measures, in microseconds since the machine was started.
    since_us: u64,
    /// From when on it is urgent, on the same clock.
    urgent_from_us: u64,
}

impl Party {
    /// Returns one of this process that begins to wait at `now_us`, for at most `patience_us`.
    pub(super) fn waiting(what: &str, urgency: Urgency, now_us: u64, patience_us: u64) -> Self {
        let urgent_from_us = match urgency {
            Urgency::Unproven => now_us,
            // Whoever waits behind others for half of its time waits no longer behind them, so nobody starves.
            Urgency::Ordinary => now_us.saturating_add(patience_us / 2),
        };
        Self { pid: std::process::id(), what: plain(what), since_us: now_us, urgent_from_us }
    }

    /// Returns the same one when it begins to measure.
    pub(super) fn measuring(self, now_us: u64) -> Self {
        Self { since_us: now_us, ..self }
    }

    /// Returns whether it is let in before `other`. Of two that came at once neither is.
    pub(super) fn goes_before(&self, other: &Party, now_us: u64) -> bool {
        let rank = |party: &Party| (party.urgent_from_us > now_us, party.since_us);
        rank(self) < rank(other)
    }

    /// Returns the process that it is.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns it as it is shown.
    pub(super) fn seen(&self, now_us: u64) -> Seen {
        let for_s = now_us.saturating_sub(self.since_us) as f64 / 1e6;
        Seen { pid: self.pid, what: plain(&self.what), for_s }
    }
}

/// One who measures or waits, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Its process.
    pub(crate) pid: u32,
    /// What it measures, in its own words: one short line of plain characters.
    pub(crate) what: String,
    /// For how long, in seconds.
    pub(crate) for_s: f64,
}

impl fmt::Display for Seen {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} with {}", self.pid, self.what)
    }
}

/// Who measures on this machine, and who waits for that.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Who measures.
    pub(crate) measures: Option<Seen>,
    /// Who waits, the one that is let in next first.
    pub(crate) waits: Vec<Seen>,
}

impl Standing {
    /// Returns who measures and who waits, as `now_us` shows it.
    pub(super) fn of(measures: Option<&Party>, mut waits: Vec<Party>, now_us: u64) -> Self {
        waits.sort_by_key(|party| (party.urgent_from_us > now_us, party.since_us));
        let seen = |party: &Party| party.seen(now_us);
        Self { measures: measures.map(seen), waits: waits.iter().map(seen).collect() }
    }

    /// Returns who is in the way, in words.
    pub(crate) fn in_the_way(&self) -> String {
        match (&self.measures, self.waits.first()) {
            (Some(party), _) => format!("{party} measures"),
            (None, Some(party)) => format!("{party} is to be next"),
            (None, None) => "somebody who does not say who it is measures".to_owned(),
        }
    }
}

/// Returns `text` short, on one line, and without anything that a terminal would obey.
fn plain(text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' || (c.is_alphanumeric()) { c } else { '?' };
    text.chars().take(WHAT_CHARS_MAX).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_US: u64 = 600_000;

    #[track_caller]
    fn check(first: (Urgency, u64), second: (Urgency, u64), now_us: u64, expected: bool) {
        let party = |(urgency, since_us)| Party::waiting("a trial", urgency, since_us, PATIENCE_US);
        assert_eq!(party(first).goes_before(&party(second), now_us), expected, "{first:?} before {second:?}");
    }

    #[test]
    fn what_is_unproven_goes_first_then_who_waits_longest_and_after_half_the_patience_all_are_alike() {
        use Urgency::{Ordinary, Unproven};
        for (first, second, now_us, expected) in [
            ((Ordinary, 1), (Ordinary, 2), 10, true),
            ((Ordinary, 2), (Ordinary, 1), 10, false),
            ((Ordinary, 1), (Ordinary, 1), 10, false),
            ((Unproven, 9), (Ordinary, 1), 10, true),
            ((Ordinary, 1), (Unproven, 9), 10, false),
            ((Unproven, 1), (Unproven, 2), 10, true),
            ((Ordinary, 1), (Unproven, 9), 300_000, false),
            ((Ordinary, 1), (Unproven, 9), 300_001, true),
            ((Unproven, 9), (Ordinary, 1), 300_001, false),
            ((Ordinary, 300_000), (Unproven, 299_999), 600_000, false),
        ] {
            check(first, second, now_us, expected);
        }
    }

    #[test]
    fn who_is_next_is_shown_first_and_what_others_wrote_is_shown_plainly() {
        let party = |what: &str, urgency, since_us| Party::waiting(what, urgency, since_us, 1000 * PATIENCE_US);
        let waits =
            vec![party("a\x1b[31m\ntrial", Urgency::Ordinary, 500_000), party("a run", Urgency::Unproven, 1_500_000)];
        let standing = Standing::of(None, waits, 2_500_000);
        let shown: Vec<(&str, f64)> = standing.waits.iter().map(|seen| (seen.what.as_str(), seen.for_s)).collect();
        assert_eq!(shown, [("a run", 1.0), ("a?[31m?trial", 2.0)]);
        assert!(standing.in_the_way().contains("with a run is to be next"), "{}", standing.in_the_way());
        let long = Standing::of(Some(&party(&"x".repeat(9999), Urgency::Ordinary, 0)), Vec::new(), 0);
        assert_eq!(long.measures.unwrap().what.len(), WHAT_CHARS_MAX);
    }
}

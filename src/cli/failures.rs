//! Failed trials and runs, counted by kind: many failures of one kind have one reason.

use std::collections::BTreeMap;

use kloros_actors::facts::{FailureKind, Measurement, TrialFailure};
use serde::Serialize;

use super::text::shorten;

/// How much of an example is printed, in characters.
const EXAMPLE_MAX: usize = 240;

/// The failures of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Failures {
    kind: FailureKind,
    count: u32,
    /// What the first of them said.
    example: String,
}

/// Returns the failures by kind, the most frequent first.
pub(super) fn count<'a>(failures: impl IntoIterator<Item = &'a TrialFailure>) -> Vec<Failures> {
    let mut kinds: BTreeMap<FailureKind, Failures> = BTreeMap::new();
    for TrialFailure { kind, detail } in failures {
        let first = || Failures { kind: *kind, count: 0, example: detail.clone() };
        kinds.entry(*kind).or_insert_with(first).count += 1;
    }
    let mut kinds: Vec<Failures> = kinds.into_values().collect();
    kinds.sort_by_key(|each| std::cmp::Reverse(each.count));
    kinds
}

/// Prints the kinds in one line: `2 x died, 1 x timed_out`.
pub(super) fn kinds(failures: &[Failures]) -> String {
    failures.iter().map(|each| format!("{} x {}", each.count, each.kind)).collect::<Vec<_>>().join(", ")
}

/// Prints a line a kind, with its example.
pub(super) fn lines(failures: &[Failures]) -> Vec<String> {
    let line = |each: &Failures| {
        format!("failed     {} x {}, such as: {}", each.count, each.kind, shorten(&each.example, EXAMPLE_MAX))
    };
    failures.iter().map(line).collect()
}

/// Returns how many samples were thrown away before these measurements counted.
pub(super) fn thrown_away<'a>(measured: impl IntoIterator<Item = &'a Measurement>) -> u32 {
    measured.into_iter().map(|measurement| measurement.discarded).sum()
}

/// Says that so many samples were thrown away.
pub(super) fn discarded(count: u32) -> String {
    let samples = if count == 1 { "sample" } else { "samples" };
    format!("discarded  {count} {samples} that others disturbed; measured again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_with_one_example_each() {
        let failure = |kind, detail: &str| TrialFailure { kind, detail: detail.to_owned() };
        let all = [
            failure(FailureKind::TimedOut, "not within 60 s"),
            failure(FailureKind::Died, "it ended with\nsignal 9"),
            failure(FailureKind::Died, "it ended otherwise"),
        ];
        let counted = count(&all);
        assert_eq!(kinds(&counted), "2 x died, 1 x timed_out");
        let expected = [
            "failed     2 x died, such as: it ended with signal 9",
            "failed     1 x timed_out, such as: not within 60 s",
        ];
        assert_eq!(lines(&counted), expected);
        assert_eq!(lines(&count([])), Vec::<String>::new());
    }
}

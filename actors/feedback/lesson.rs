//! Lessons: what a verdict moves, and what it says in one sentence.

use super::Config;
use crate::facts::{Estimate, Lesson, Promotion, Reason, Ruled, Verdict};

/// The largest effect that is told in numbers, as a ratio.
const RATIO_MAX: f64 = 1e6;

/// Returns what `verdict` teaches, when it was heard at `now_ms`.
///
/// Settings are to be avoided when they were undone for what they did, or by a person; a crash, a lost measurement
/// and an edit by hand say nothing about them. A question whose settings could not be judged is asked again soon, one
/// that a person had a hand in is not.
pub fn learn(verdict: &Verdict, config: &Config, now_ms: u64) -> Lesson {
    let is_rollback = verdict.outcome == Ruled::Rollback;
    let blames_the_settings = is_rollback && verdict.reason.blames_the_settings();
    let is_a_persons = matches!(verdict.reason, Reason::Person { .. } | Reason::HumanOverride { .. });
    let (interest_change, rest_s) = match verdict.outcome {
        Ruled::Success => (config.success_interest, config.rest_after_success_s),
        Ruled::Neutral => (config.neutral_interest, config.rest_after_neutral_s),
        Ruled::Rollback if blames_the_settings => (config.rollback_interest, config.rest_after_rollback_s),
        Ruled::Rollback if is_a_persons => (0.0, config.rest_after_rollback_s),
        Ruled::Rollback => (0.0, config.rest_after_crash_s),
    };
    Lesson {
        cycle: verdict.cycle.clone(),
        domain: verdict.domain.clone(),
        question: verdict.question.clone(),
        hypothesis: verdict.hypothesis.clone(),
        fingerprint: Promotion::fingerprint_of(&verdict.domain, &verdict.changes),
        interest_change: if interest_change.is_finite() { interest_change.clamp(-1.0, 1.0) } else { 0.0 },
        rest_until_ms: now_ms.saturating_add(rest_s.saturating_mul(1000)),
        avoid: blames_the_settings || (is_rollback && matches!(verdict.reason, Reason::Person { .. })),
        says: says(verdict),
        verdict: verdict.clone(),
    }
}

/// Returns the verdict as one sentence: `lab: LAB_MAX_NUM_SEQS 2 -> 12 made it 61 % better (58 to 65 %), kept`.
fn says(verdict: &Verdict) -> String {
    let changes = verdict.changes.iter().map(|(key, change)| format!("{key} {change}")).collect::<Vec<_>>();
    let changes = if changes.is_empty() { "a change of nothing".to_owned() } else { changes.join(", ") };
    let end = match (verdict.outcome, &verdict.reason) {
        (Ruled::Success, _) => "kept".to_owned(),
        (Ruled::Neutral, _) => "kept without a new baseline".to_owned(),
        (Ruled::Rollback, Reason::Worse) => "undone".to_owned(),
        (Ruled::Rollback, reason) => format!("undone: {reason}"),
    };
    let domain = &verdict.domain;
    let text = match verdict.improvement.as_ref().filter(|estimate| is_plausible(estimate)) {
        Some(estimate) => format!("{domain}: {changes} made it {}, {end}", effect(estimate)),
        None => format!("{domain}: {changes} was {end}"),
    };
    // A reason may quote what a program printed; a lesson is one line.
    text.replace(char::is_control, " ")
}

/// Returns whether the estimate can be told in percent: NaN cannot, nor can a number that no measurement gives.
fn is_plausible(estimate: &Estimate) -> bool {
    [estimate.ratio, estimate.low, estimate.high].iter().all(|ratio| ratio.abs() <= RATIO_MAX)
}

/// Returns the effect in percent with its interval: `61 % better (58 to 65 %)`.
fn effect(estimate: &Estimate) -> String {
    let comparison = if estimate.ratio < 0.0 { "worse" } else { "better" };
    let size = percent(estimate.ratio.abs());
    format!("{size} % {comparison} ({} to {} %)", percent(estimate.low), percent(estimate.high))
}

/// Returns `ratio` in percent, with a decimal where a whole percent would be too coarse.
fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    let text = if percent.abs() < 9.95 { format!("{percent:.1}") } else { format!("{percent:.0}") };
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Change, CycleId, DeploymentId, Key, Metrics, Value};

    fn verdict(outcome: Ruled, reason: Reason, improvement: Option<(f64, f64, f64)>) -> Verdict {
        let change = Change { from: Some(Value::Integer(2)), in_file: true, to: Value::Integer(12) };
        Verdict {
            deployment: DeploymentId::new("d-1"),
            cycle: CycleId::new("c-1"),
            experiment: "x".into(),
            domain: "lab".into(),
            question: None,
            hypothesis: Some("LAB_LATENCY_DEGRADATION".into()),
            changes: BTreeMap::from([(Key::new("LAB_MAX_NUM_SEQS").unwrap(), change)]),
            outcome,
            reason,
            improvement: improvement.map(|(ratio, low, high)| Estimate { ratio, low, high }),
            before: Metrics::new(),
            after: Metrics::new(),
            blocks: 6,
            samples: 100,
            runs: 0,
            baseline: None,
            at_ms: 5,
        }
    }

    fn why() -> String {
        "no answer within 30 s".into()
    }

    #[test]
    fn each_verdict_moves_interest_rest_and_avoidance_as_its_reason_says() {
        use Ruled::{Neutral, Rollback, Success};
        let table = [
            (Success, Reason::Improved, 0.1, 1800, false),
            (Neutral, Reason::InBetween, -0.1, 3600, false),
            (Rollback, Reason::Worse, -0.25, 7200, true),
            (Rollback, Reason::Unproven, -0.25, 7200, true),
            (Rollback, Reason::Guard { metric: "p99_ms".into() }, -0.25, 7200, true),
            (Rollback, Reason::MetricLost { metric: "p99_ms".into() }, -0.25, 7200, true),
            (Rollback, Reason::NotHealthy { why: why() }, -0.25, 7200, true),
            (Rollback, Reason::NotEffective { why: why() }, -0.25, 7200, true),
            (Rollback, Reason::Inconclusive { why: why() }, 0.0, 60, false),
            (Rollback, Reason::Aborted { why: why() }, 0.0, 60, false),
            (Rollback, Reason::Crash, 0.0, 60, false),
            (Rollback, Reason::Person { uid: 1000 }, 0.0, 7200, true),
            (Rollback, Reason::HumanOverride { key: Key::new("A").unwrap() }, 0.0, 7200, false),
        ];
        for (outcome, reason, interest_change, rest_s, avoid) in table {
            let lesson = learn(&verdict(outcome, reason.clone(), None), &Config::default(), 1000);
            assert_eq!(
                (lesson.interest_change, lesson.rest_until_ms, lesson.avoid),
                (interest_change, 1000 + rest_s * 1000, avoid),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_lesson_says_in_one_sentence_what_was_changed_what_it_did_and_what_became_of_it() {
        let table = [
            (
                verdict(Ruled::Success, Reason::Improved, Some((0.61, 0.58, 0.65))),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 made it 61 % better (58 to 65 %), kept",
            ),
            (
                verdict(Ruled::Neutral, Reason::InBetween, Some((0.004, -0.012, 0.02))),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 made it 0.4 % better (-1.2 to 2 %), kept without a new baseline",
            ),
            (
                verdict(Ruled::Rollback, Reason::Worse, Some((-0.123, -0.15, -0.0996))),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 made it 12 % worse (-15 to -10 %), undone",
            ),
            (
                verdict(Ruled::Rollback, Reason::Guard { metric: "p99_ms".into() }, Some((0.4, 0.3, 0.5))),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 made it 40 % better (30 to 50 %), undone: p99_ms tripped its guard",
            ),
            (
                verdict(Ruled::Rollback, Reason::NotHealthy { why: why() }, None),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 was undone: the service was not well: no answer within 30 s",
            ),
            (
                verdict(Ruled::Rollback, Reason::Crash, Some((f64::NAN, 0.0, 0.0))),
                "lab: LAB_MAX_NUM_SEQS 2 -> 12 was undone: kloros ended before it was proven",
            ),
        ];
        for (verdict, expected) in table {
            assert_eq!(learn(&verdict, &Config::default(), 0).says, expected);
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_a_promotion_with_the_same_target() {
        let verdict = verdict(Ruled::Rollback, Reason::Worse, None);
        let lesson = learn(&verdict, &Config::default(), 0);
        let mut changes = verdict.changes.clone();
        assert_eq!(lesson.fingerprint, Promotion::fingerprint_of("lab", &changes));
        // On another base it is still the same target.
        for change in changes.values_mut() {
            change.from = Some(Value::Integer(3));
        }
        assert_eq!(lesson.fingerprint, Promotion::fingerprint_of("lab", &changes));
        assert_ne!(lesson.fingerprint, Promotion::fingerprint_of("tts", &changes));
    }

    proptest! {
        #[test]
        fn every_verdict_teaches_a_lesson_that_can_be_written_down(
            ratio in any::<f64>(),
            low in any::<f64>(),
            high in any::<f64>(),
            why in any::<String>(),
            change in any::<f64>(),
            rest_s in any::<u64>(),
            now_ms in any::<u64>(),
        ) {
            let config = Config { rollback_interest: change, rest_after_rollback_s: rest_s, ..Config::default() };
            let reason = Reason::NotHealthy { why };
            let lesson = learn(&verdict(Ruled::Rollback, reason, Some((ratio, low, high))), &config, now_ms);
            prop_assert!((-1.0..=1.0).contains(&lesson.interest_change));
            prop_assert!(lesson.rest_until_ms >= now_ms);
            prop_assert!(!lesson.says.contains(char::is_control));
            let told = lesson.says.split(", undone").next().unwrap_or_default();
            prop_assert!(told.contains("made it") == [ratio, low, high].iter().all(|number| number.abs() <= RATIO_MAX));
        }
    }
}

//! What was learned, and what it changed: every verdict in order, told from the journal. It needs no running daemon.

use kloros_actors::{
    curiosity::{
        Config, KINDS_READ,
        interest::{Interests, Moved},
    },
    facts::{Fact, Kind, Lesson, Recorded, Ruled},
    seams::Query,
};
use serde_json::json;

use super::{list::Row, progress, story};
use crate::{
    home::Home,
    journal::{Reader, rfc3339},
};

/// One lesson and what it changed, as far as it was about a question.
struct Learned {
    at_ms: u64,
    lesson: Lesson,
    moved: Option<Moved>,
}

/// Returns the lessons that the journal of `home` holds, the newest last, each under the id of its deployment; or the one `about`
/// a deployment, however old, without what it changed: that depends on what was learned before.
pub(super) fn rows(home: &Home, config: &Config, about: Option<&str>) -> anyhow::Result<Vec<Row>> {
    let Some(reader) = Reader::find(home)? else { return Ok(Vec::new()) };
    let learned = match about {
        None => whole(&reader, config)?,
        Some(deployment) => alone(&reader, deployment)?,
    };
    let row = |learned: &Learned| Row {
        id: learned.lesson.verdict.deployment.to_string(),
        facts: facts(learned),
        line: line(learned),
    };
    Ok(learned.iter().map(row).collect())
}

/// Returns every lesson, with what it changed. What curiosity folds is read in pages, as it may be long.
fn whole(reader: &Reader, config: &Config) -> anyhow::Result<Vec<Learned>> {
    let (mut interests, mut learned, mut after) = (Interests::default(), Vec::new(), 0);
    loop {
        let page = reader.read(&Query { after, ..Query::kinds(&KINDS_READ) })?;
        let is_last = page.len() < Query::LIMIT_DEFAULT;
        after = page.last().map_or(after, |last| last.seq);
        learned.extend(replay(&mut interests, page, config));
        if is_last {
            return Ok(learned);
        }
    }
}

/// Returns the lessons of the cycle in which `deployment` was judged.
fn alone(reader: &Reader, deployment: &str) -> anyhow::Result<Vec<Learned>> {
    let verdicts = reader.read(&Query::kinds(&[Kind::Verdict]).about(deployment))?;
    let Some(verdict) = verdicts.first() else { return Ok(Vec::new()) };
    let of_cycle = Query { cycle: Some(verdict.cycle.clone()), ..Query::kinds(&[Kind::Lesson]) };
    let lessons = reader.read(&of_cycle)?.into_iter().filter_map(|recorded| match recorded.fact {
        Fact::Lesson(lesson) => Some(Learned { at_ms: recorded.at_ms, lesson, moved: None }),
        _ => None,
    });
    Ok(lessons.collect())
}

/// Takes the history to heart as the daemon does, oldest first.
fn replay(interests: &mut Interests, history: Vec<Recorded>, config: &Config) -> Vec<Learned> {
    let mut learned = Vec::new();
    for recorded in history {
        let moved = interests.fold(&recorded.fact, config);
        if let Fact::Lesson(lesson) = recorded.fact {
            learned.push(Learned { at_ms: recorded.at_ms, lesson, moved });
        }
    }
    learned
}

fn facts(learned: &Learned) -> serde_json::Value {
    let Learned { at_ms, lesson, moved } = learned;
    let moved = moved.as_ref().map(|moved| {
        json!({
            "knobs": moved.knobs, "interest_before": moved.before, "interest_after": moved.after,
            "failures_in_a_row": moved.failures, "parked_until_ms": moved.parked_until_ms,
            "eligible_at_ms": moved.eligible_at_ms,
        })
    });
    json!({
        "at_ms": at_ms, "deployment": lesson.verdict.deployment, "domain": lesson.domain, "hypothesis": lesson.hypothesis,
        "outcome": lesson.verdict.outcome, "says": lesson.says, "changed": moved, "avoid": lesson.avoid,
        "detector_relearns": relearns(lesson),
    })
}

/// Returns the lesson in a line, and what it changed in the lines below.
fn line(learned: &Learned) -> String {
    let Learned { at_ms, lesson, moved } = learned;
    let mut lines = vec![format!("{}  {}", rfc3339(*at_ms), lesson.says)];
    if let (Some(moved), Some(hypothesis)) = (moved, &lesson.hypothesis) {
        let by = if moved.knobs.is_empty() { String::new() } else { format!(" by {}", moved.knobs) };
        lines.push(format!("  interest   {:.2} -> {:.2} in {hypothesis}{by}", moved.before, moved.after));
        lines.push(match moved.parked_until_ms {
            Some(until_ms) => format!("  parked     until {}: {} failures in a row", rfc3339(until_ms), moved.failures),
            None if moved.failures > 0 => {
                format!(
                    "  rests      until {}; {} in a row without a gain",
                    rfc3339(moved.eligible_at_ms),
                    moved.failures
                )
            }
            None => format!("  rests      until {}", rfc3339(moved.eligible_at_ms)),
        });
    }
    if lesson.avoid {
        lines.push(format!("  avoids     {}: a person is asked first", progress::changes(&lesson.verdict.changes)));
    }
    if relearns(lesson) {
        lines.push(format!("  detectors  of {} learn the new normal", lesson.domain));
    }
    if let Some(estimate) = &lesson.verdict.improvement {
        lines.push(format!("  measured   {}", story::estimate(estimate)));
    }
    lines.join("\n")
}

/// Returns whether what was normal before is not any more: the change was kept.
fn relearns(lesson: &Lesson) -> bool {
    lesson.verdict.outcome != Ruled::Rollback
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kloros_actors::{
        facts::{
            Budget, Change, CycleId, DeploymentId, ExperimentSpec, Key, Metrics, Question, QuestionEnd, QuestionId,
            Reason, Value, Verdict,
        },
        feedback::{self, lesson::learn},
    };

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn asked(number: u32, key: &Key) -> Vec<Fact> {
        let id = QuestionId::new(format!("lab.latency_degradation.{number:03}"));
        let hypothesis = "LAB_LATENCY_DEGRADATION".to_owned();
        let verdict = Verdict {
            deployment: DeploymentId::new(format!("d-{number}")),
            cycle: CycleId::new("c-1"),
            experiment: "x".into(),
            domain: "lab".into(),
            question: Some(id.clone()),
            hypothesis: Some(hypothesis.clone()),
            changes: BTreeMap::from([(
                key.clone(),
                Change { from: Some(Value::Integer(2)), in_file: true, to: Value::Integer(4) },
            )]),
            outcome: Ruled::Rollback,
            reason: Reason::Worse,
            improvement: None,
            before: Metrics::new(),
            after: Metrics::new(),
            blocks: 6,
            samples: 100,
            runs: 0,
            baseline: None,
            at_ms: u64::from(number) * DAY_MS,
        };
        let lesson = learn(&verdict, &feedback::Config::default(), verdict.at_ms);
        let question = Question {
            question_id: id.clone(),
            hypothesis: hypothesis.clone(),
            dream_experiment: ExperimentSpec {
                name: "x".into(),
                domain: "lab".into(),
                search_space: BTreeMap::new(),
                constraints: Vec::new(),
                forbidden: Vec::new(),
                metrics: BTreeMap::new(),
                param_mapping: BTreeMap::from([("p".to_owned(), key.clone())]),
                budget: Budget::of(1, 1),
            },
            cycle: CycleId::new("c-1"),
            evidence: Vec::new(),
            interest: 0.5,
            at_ms: verdict.at_ms,
            depth: 0,
        };
        let end = QuestionEnd {
            question: id,
            hypothesis,
            domain: "lab".into(),
            how: "rolled_back".into(),
            why: String::new(),
            eligible_at_ms: lesson.rest_until_ms,
        };
        vec![Fact::Question(question), Fact::Lesson(lesson), Fact::QuestionEnd(end)]
    }

    #[test]
    fn each_lesson_is_told_with_what_it_changed_until_the_way_is_parked() {
        let key = Key::new("LAB_MAX_NUM_SEQS").unwrap();
        let history = (1..=5).flat_map(|number| asked(number, &key)).enumerate().map(|(seq, fact)| Recorded {
            seq: seq as u64,
            cycle: CycleId::new("c-1"),
            at_ms: DAY_MS,
            fact,
        });
        let learned = replay(&mut Interests::default(), history.collect(), &Config::default());
        let changed: Vec<_> = learned.iter().map(|each| each.moved.clone().unwrap()).collect();
        let interests: Vec<String> =
            changed.iter().map(|moved| format!("{:.2} -> {:.2}", moved.before, moved.after)).collect();
        assert_eq!(interests, ["0.50 -> 0.25", "0.35 -> 0.10", "0.20 -> 0.00", "0.10 -> 0.00", "0.10 -> 0.00"]);
        let parked: Vec<Option<u64>> = changed.iter().map(|moved| moved.parked_until_ms).collect();
        assert_eq!(parked, [None, None, None, None, Some(12 * DAY_MS)]);
        let told = line(&learned[0]);
        assert!(told.contains("0.50 -> 0.25 in LAB_LATENCY_DEGRADATION by LAB_MAX_NUM_SEQS"), "{told}");
        assert!(told.contains("avoids     LAB_MAX_NUM_SEQS") && !told.contains("detectors"), "{told}");
        assert!(line(&learned[4]).contains("parked     until 1970-01-13T00:00:00"), "{}", line(&learned[4]));
        assert_eq!(facts(&learned[4])["changed"]["failures_in_a_row"], 5);
    }
}

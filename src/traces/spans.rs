//! The spans of a cycle, out of its facts. Arithmetic alone.

use std::collections::BTreeMap;

use kloros_actors::facts::{CycleId, ExperimentEnd, Fact, Outcome, Recorded, Ruling, Step};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::cli::heard;

/// The longest text of an event, in characters.
const TEXT_MAX: usize = 600;

/// Something that took a time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) name: &'static str,
    /// What it is about; with the name it is one of its kind in a cycle.
    pub(super) subject: String,
    /// The span within which it happened; `None` for the cycle itself.
    pub(super) within: Option<String>,
    pub(super) id: String,
    pub(super) begin_ms: u64,
    pub(super) end_ms: u64,
    pub(super) attributes: BTreeMap<&'static str, String>,
    pub(super) events: Vec<Event>,
    /// Why it failed, if it did.
    pub(super) failed: Option<String>,
}

/// Something that happened at an instant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) at_ms: u64,
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// Returns the id of the trace of `cycle`: 16 bytes, in hexadecimal digits, as W3C Trace Context has them.
pub(crate) fn trace_id(cycle: &CycleId) -> String {
    digits(&format!("trace {cycle}"), 16)
}

/// A fact with the id of the trace that its cycle is told as.
#[derive(Serialize)]
pub(crate) struct Traced {
    trace: String,
    #[serde(flatten)]
    recorded: Recorded,
}

impl Traced {
    /// Returns the fact with that id.
    pub(crate) fn of(recorded: Recorded) -> Self {
        Self { trace: trace_id(&recorded.cycle), recorded }
    }
}

/// Returns the first `bytes` of the SHA-256 of a text, in hexadecimal digits.
fn digits(text: &str, bytes: usize) -> String {
    Sha256::digest(text.as_bytes()).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// Returns whether a fact may be the last one of a cycle.
pub(super) fn may_end(fact: &Fact) -> bool {
    matches!(fact, Fact::QuestionEnd(_) | Fact::Lesson(_) | Fact::Ruling(Ruling::Refuse { .. }))
}

/// Returns whether `fact` ends the cycle with these `facts`: where something was asked, the end of the question; else, where a person
/// proposed a change, what was learned from it, or the no.
pub(super) fn is_end(fact: &Fact, facts: &[Recorded]) -> bool {
    let is_asked = facts.iter().any(|recorded| matches!(recorded.fact, Fact::Question(_)));
    match fact {
        Fact::QuestionEnd(end) => end.how != "deferred",
        fact => may_end(fact) && !is_asked,
    }
}

/// Returns the spans of `cycle`, that of the cycle itself first; none without facts. `facts` are oldest first.
pub(super) fn of(cycle: &CycleId, facts: &[Recorded]) -> Vec<Span> {
    let (Some(first), Some(last)) = (facts.first(), facts.last()) else { return Vec::new() };
    let mut root = Span::new(cycle, "cycle", cycle.as_str(), None, first.at_ms);
    root.until(last.at_ms);
    let mut spans = vec![root];
    for recorded in facts {
        take(cycle, &mut spans, recorded);
    }
    spans
}

fn take(cycle: &CycleId, spans: &mut Vec<Span>, recorded: &Recorded) {
    let (at_ms, subject) = (recorded.at_ms, recorded.fact.subject());
    let root = spans[0].id.clone();
    let mut begin = |name, subject: &str, within: &str| {
        spans.push(Span::new(cycle, name, subject, Some(within.to_owned()), at_ms));
        spans.len() - 1
    };
    match &recorded.fact {
        Fact::Experiment(experiment) => {
            let at = begin("experiment", subject, &root);
            spans[at].attributes.insert("kloros.domain", experiment.spec.domain.clone());
        }
        Fact::Promotion(promotion) => {
            let at = begin("permission", subject, &root);
            spans[at].attributes.insert("kloros.domain", promotion.domain.clone());
        }
        Fact::Deployment(deployment) => {
            let at = begin("deployment", subject, &root);
            spans[at].attributes.insert("kloros.domain", deployment.promotion.domain.clone());
        }
        Fact::Step { step: Step::Measured, .. } => {
            let within = find(spans, "deployment", subject).map_or(root, |span| span.id.clone());
            spans.push(Span::new(cycle, "validation", subject, Some(within), at_ms));
        }
        _ => {}
    }
    let name = match &recorded.fact {
        Fact::Experiment(_)
        | Fact::Attempt(_)
        | Fact::Experience(_)
        | Fact::Trial(_)
        | Fact::Generation(_)
        | Fact::ExperimentEnd(_) => "experiment",
        Fact::Promotion(_) | Fact::Ruling(_) | Fact::Answer(_) => "permission",
        Fact::Run { .. } | Fact::Verdict(_) => "validation",
        Fact::Deployment(_) | Fact::Step { .. } => "deployment",
        _ => "cycle",
    };
    // What belongs to nothing that began in this cycle is told of the cycle.
    let place = spans.iter().rposition(|span| span.name == name && (name == "cycle" || span.subject == subject));
    let span = &mut spans[place.unwrap_or(0)];
    span.until(at_ms);
    let text = heard(&recorded.fact).chars().take(TEXT_MAX).collect();
    span.events.push(Event { at_ms, name: recorded.fact.kind().label(), text });
    conclude(span, &recorded.fact);
}

/// Notes what a fact says of how a span came out.
fn conclude(span: &mut Span, fact: &Fact) {
    let said = match fact {
        Fact::ExperimentEnd(end) => {
            if let ExperimentEnd::Void { why, .. } = end {
                span.failed = Some(why.clone());
            }
            end.label().to_owned()
        }
        Fact::Ruling(ruling) => ruling.label().to_owned(),
        Fact::Verdict(verdict) => verdict.outcome.label().to_owned(),
        Fact::Step { step: Step::UndoFailed(why), .. } => {
            span.failed = Some(why.clone());
            return;
        }
        Fact::Step { step: Step::Judged(ruled), .. } => ruled.label().to_owned(),
        Fact::Trial(trial) if matches!(trial.outcome, Outcome::Failed(_)) => {
            let failures = span.attributes.get("kloros.trials.failed").and_then(|text| text.parse().ok());
            span.attributes.insert("kloros.trials.failed", (failures.unwrap_or(0_u32) + 1).to_string());
            return;
        }
        Fact::Question(question) => {
            span.attributes.insert("kloros.hypothesis", question.hypothesis.clone());
            return;
        }
        Fact::QuestionEnd(end) => end.how.clone(),
        _ => return,
    };
    span.attributes.insert("kloros.outcome", said);
}

fn find<'a>(spans: &'a [Span], name: &str, subject: &str) -> Option<&'a Span> {
    spans.iter().rfind(|span| span.name == name && span.subject == subject)
}

impl Span {
    fn new(cycle: &CycleId, name: &'static str, subject: &str, within: Option<String>, at_ms: u64) -> Self {
        Self {
            name,
            subject: subject.to_owned(),
            within,
            id: digits(&format!("span {cycle} {name} {subject}"), 8),
            begin_ms: at_ms,
            end_ms: at_ms,
            attributes: BTreeMap::from([("kloros.subject", subject.to_owned())]),
            events: Vec::new(),
            failed: None,
        }
    }

    /// The clock of a machine may have been set back in between.
    fn until(&mut self, at_ms: u64) {
        self.end_ms = self.end_ms.max(at_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::journal::one_of_each;

    /// Returns the facts of one cycle, a second apart.
    fn recorded() -> Vec<Recorded> {
        let facts = one_of_each().into_iter().zip(1_u64..);
        facts.map(|(fact, seq)| Recorded { seq, cycle: CycleId::new("c-1"), at_ms: seq * 1000, fact }).collect()
    }

    #[test]
    fn every_fact_of_a_cycle_is_told_once_within_the_times_of_its_span() {
        let facts = recorded();
        let spans = of(&CycleId::new("c-1"), &facts);
        assert_eq!((spans[0].name, spans[0].within.as_ref()), ("cycle", None));
        assert_eq!((spans[0].begin_ms, spans[0].end_ms), (1000, facts.len() as u64 * 1000));
        let ids: BTreeSet<&String> = spans.iter().map(|span| &span.id).collect();
        assert_eq!(ids.len(), spans.len());
        for span in &spans[1..] {
            assert!(span.within.as_ref().is_some_and(|within| ids.contains(within)), "{span:?}");
        }
        for span in &spans {
            let within = |at_ms: u64| (span.begin_ms..=span.end_ms).contains(&at_ms);
            assert!(span.events.iter().all(|event| within(event.at_ms)), "{span:?}");
        }
        assert_eq!(spans.iter().map(|span| span.events.len()).sum::<usize>(), facts.len());
    }

    #[test]
    fn what_was_tried_permitted_and_deployed_is_a_span_of_its_own_with_its_outcome() {
        let spans = of(&CycleId::new("c-1"), &recorded());
        let outcome = |name: &str, subject: &str| {
            find(&spans, name, subject).and_then(|span| span.attributes.get("kloros.outcome")).map(String::as_str)
        };
        assert_eq!(outcome("experiment", "x-1"), Some("won"));
        assert_eq!(outcome("permission", "p-1"), Some("refuse"));
        assert_eq!(outcome("deployment", "d-1"), Some("success"));
        let experiment = find(&spans, "experiment", "x-1").unwrap();
        assert_eq!(experiment.attributes["kloros.trials.failed"], "1");
        assert_eq!(experiment.events.iter().filter(|event| event.name == "trial").count(), 2);
        assert_eq!(find(&spans, "deployment", "d-1").unwrap().failed.as_deref(), Some("disk full"));
    }

    #[test]
    fn a_validation_lies_within_its_deployment() {
        let measured = Fact::Step { deployment: kloros_actors::facts::DeploymentId::new("d-1"), step: Step::Measured };
        let mut facts = recorded();
        let place = facts.iter().position(|each| matches!(each.fact, Fact::Run { .. })).unwrap();
        let (cycle, at_ms) = (CycleId::new("c-1"), facts[place].at_ms);
        facts.insert(place, Recorded { seq: 0, cycle: cycle.clone(), at_ms, fact: measured });
        let spans = of(&cycle, &facts);
        let validation = find(&spans, "validation", "d-1").unwrap();
        assert_eq!(validation.within, find(&spans, "deployment", "d-1").map(|span| span.id.clone()));
        assert_eq!(validation.events.len(), 3, "two runs and the verdict");
        assert_eq!(validation.attributes["kloros.outcome"], "success");
    }

    #[test]
    fn a_cycle_ends_with_its_question_or_where_none_was_asked_with_a_lesson_or_a_no() {
        let facts = recorded();
        let of_kind = |label: &str| &facts.iter().find(|each| each.fact.kind().label() == label).unwrap().fact;
        assert!(is_end(of_kind("question_end"), &facts));
        assert!(!is_end(of_kind("lesson"), &facts) && !is_end(of_kind("verdict"), &facts));
        let proposed: Vec<Recorded> =
            facts.iter().filter(|each| !matches!(each.fact, Fact::Question(_))).cloned().collect();
        assert!(is_end(of_kind("lesson"), &proposed) && !is_end(of_kind("ruling"), &proposed));
        let refused = facts.iter().find(|each| matches!(each.fact, Fact::Ruling(Ruling::Refuse { .. }))).unwrap();
        assert!(is_end(&refused.fact, &proposed) && !is_end(&refused.fact, &facts));
        let Fact::QuestionEnd(mut end) = of_kind("question_end").clone() else { panic!() };
        end.how = "deferred".to_owned();
        assert!(!is_end(&Fact::QuestionEnd(end), &facts));
    }

    #[test]
    fn the_id_of_a_trace_is_that_of_its_cycle_for_ever() {
        assert_eq!(trace_id(&CycleId::new("c-1")), digits("trace c-1", 16));
        assert_eq!(trace_id(&CycleId::new("c-1")).len(), 32);
        assert_ne!(trace_id(&CycleId::new("c-1")), trace_id(&CycleId::new("c-2")));
        assert_eq!(of(&CycleId::new("c-1"), &[]), []);
    }
}

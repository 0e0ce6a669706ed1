//! How long each stage of the loop takes, and what waits in it: folded from the facts of the journal, in this one place.
//!
//! A stage begins with a fact and ends with another one, so a restart of a room changes nothing, and what began under an earlier
//! daemon is timed from its beginning. What ended under an earlier daemon was counted by that one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use kloros_actors::{
    facts::{Fact, Kind, Recorded, Ruling, Step},
    meters::{self, stage},
};

/// The facts with which stages begin and end.
pub(crate) const KINDS: [Kind; 12] = [
    Kind::Question,
    Kind::QuestionEnd,
    Kind::Experiment,
    Kind::ExperimentEnd,
    Kind::Promotion,
    Kind::Ruling,
    Kind::Answer,
    Kind::Loan,
    Kind::Deployment,
    Kind::Step,
    Kind::Verdict,
    Kind::Lesson,
];

/// What is under way in each stage: since when, in milliseconds since the Unix epoch, by stage and id.
#[derive(Debug, Default)]
pub(crate) struct Stages(Mutex<BTreeMap<(&'static str, String), u64>>);

/// Something that ended.
#[derive(Debug, PartialEq)]
struct Ended {
    stage: &'static str,
    outcome: &'static str,
    took_s: f64,
}

impl Stages {
    /// Takes up what earlier daemons left under way.
    pub(crate) fn recall(&self, recorded: &Recorded) {
        self.fold(recorded);
    }

    /// Takes up what happens now, and counts what ends with it.
    pub(crate) fn note(&self, recorded: &Recorded) {
        for Ended { stage, outcome, took_s } in self.fold(recorded) {
            metrics::histogram!(meters::STAGE_DURATION, "stage" => stage, "outcome" => outcome).record(took_s);
        }
    }

    /// Shows how much is under way in each stage, and for how long the oldest has been.
    pub(crate) fn show(&self, now_ms: u64) {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, _) in stage::OUTCOMES {
            let since = || open.iter().filter(|((each, _), _)| *each == stage).map(|(_, since_ms)| *since_ms);
            let oldest_s = since().min().map_or(0.0, |since_ms| seconds(since_ms, now_ms));
            metrics::gauge!(meters::STAGE_OPEN, "stage" => stage).set(since().count() as f64);
            metrics::gauge!(meters::STAGE_OLDEST_AGE, "stage" => stage).set(oldest_s);
        }
    }

    fn fold(&self, recorded: &Recorded) -> Vec<Ended> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at_ms, subject) = (recorded.at_ms, recorded.fact.subject());
        let mut ended = Vec::new();
        let mut end = |open: &mut BTreeMap<_, _>, stage: &'static str, id: &str, outcome: &str| {
            let Some(since_ms) = open.remove(&(stage, id.to_owned())) else { return };
            ended.push(Ended { stage, outcome: stage::known(stage, outcome), took_s: seconds(since_ms, at_ms) });
        };
        let begin = |open: &mut BTreeMap<_, _>, stage: &'static str, id: &str| {
            open.entry((stage, id.to_owned())).or_insert(at_ms);
        };
        match &recorded.fact {
            Fact::Question(_) => begin(&mut open, stage::QUESTION, subject),
            Fact::QuestionEnd(how) => end(&mut open, stage::QUESTION, subject, &how.how),
            Fact::Experiment(_) => begin(&mut open, stage::EXPERIMENT, subject),
            Fact::ExperimentEnd(how) => end(&mut open, stage::EXPERIMENT, subject, how.label()),
            Fact::Promotion(promotion) => {
                if let Some(overtaken) = &promotion.replaces {
                    end(&mut open, stage::PERMISSION, overtaken.as_str(), "replaced");
                }
                begin(&mut open, stage::PERMISSION, subject);
            }
            Fact::Ruling(Ruling::Refuse { .. }) => end(&mut open, stage::PERMISSION, subject, "refused"),
            Fact::Ruling(Ruling::Advise { .. }) => end(&mut open, stage::PERMISSION, subject, "advised"),
            Fact::Answer(answer) if !answer.approved => {
                let outcome = if answer.by_uid.is_some() { "refused" } else { "expired" };
                end(&mut open, stage::PERMISSION, subject, outcome);
            }
            Fact::Loan(loan) => end(&mut open, stage::PERMISSION, loan.promotion.as_str(), "allowed"),
            Fact::Deployment(deployment) => {
                end(&mut open, stage::PERMISSION, deployment.promotion.id.as_str(), "allowed");
                begin(&mut open, stage::DEPLOYMENT, subject);
            }
            Fact::Step { step: Step::Measured, .. } => {
                end(&mut open, stage::DEPLOYMENT, subject, "live");
                begin(&mut open, stage::VALIDATION, subject);
            }
            Fact::Verdict(verdict) => {
                end(&mut open, stage::DEPLOYMENT, subject, "given_up");
                end(&mut open, stage::VALIDATION, subject, verdict.outcome.label());
            }
            _ => {}
        }
        ended
    }
}

/// Returns how long it is from one time to another; a clock that was set back makes it nothing.
fn seconds(from_ms: u64, to_ms: u64) -> f64 {
    to_ms.saturating_sub(from_ms) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{CycleId, DeploymentId};

    use super::*;
    use crate::journal::one_of_each;

    /// Folds the facts of one whole cycle, a second apart, and returns what ended.
    fn told(stages: &Stages, facts: Vec<Fact>) -> Vec<Ended> {
        let recorded = facts.into_iter().zip(1_u64..).map(|(fact, seq)| Recorded {
            seq,
            cycle: CycleId::new("c-1"),
            at_ms: seq * 1000,
            fact,
        });
        recorded.flat_map(|recorded| stages.fold(&recorded)).collect()
    }

    #[test]
    fn a_whole_cycle_ends_each_stage_once_and_leaves_nothing_behind() {
        let stages = Stages::default();
        let mut facts = one_of_each();
        // The samples hold more than happens in one cycle.
        facts.retain(|fact| {
            !matches!(fact, Fact::Ruling(Ruling::Refuse { .. }) | Fact::Answer(_)) && fact.subject() != "q-2"
        });
        let begun = facts.iter().position(|fact| fact.kind() == Kind::Deployment).unwrap();
        facts.insert(begun + 1, Fact::Step { deployment: DeploymentId::new("d-1"), step: Step::Measured });
        let ended = told(&stages, facts);
        let names: Vec<&str> = ended.iter().map(|each| each.stage).collect();
        for (stage, outcomes) in stage::OUTCOMES {
            assert_eq!(names.iter().filter(|name| **name == stage).count(), 1, "{stage} in {ended:?}");
            let of = ended.iter().find(|each| each.stage == stage).unwrap();
            assert!(outcomes.contains(&of.outcome) && of.outcome != "other" && of.took_s >= 0.0, "{of:?}");
        }
        assert!(stages.0.lock().unwrap().is_empty());
    }

    #[test]
    fn what_has_no_end_yet_has_an_age_and_the_oldest_counts() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let stages = Stages::default();
        let mut facts = one_of_each();
        facts.retain(|fact| matches!(fact.kind(), Kind::Question | Kind::Experiment));
        assert_eq!(told(&stages, facts), []);
        metrics::with_local_recorder(&recorder, || stages.show(61_000));
        let text = recorder.handle().render();
        for row in [
            "kloros_stage_oldest_age_seconds{stage=\"question\"} 60",
            "kloros_stage_oldest_age_seconds{stage=\"validation\"} 0",
            "kloros_stage_open{stage=\"question\"} 2",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is missing in\n{text}");
        }
    }

    #[test]
    fn an_end_without_a_beginning_in_sight_is_not_timed() {
        let mut facts = one_of_each();
        facts.retain(|fact| matches!(fact.kind(), Kind::QuestionEnd | Kind::Verdict));
        assert_eq!(told(&Stages::default(), facts), []);
    }
}

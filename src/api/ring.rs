//! The loop as it stands: what is in each of its seven stages.

use std::collections::{BTreeMap, BTreeSet};

use kloros_actors::{
    facts::{CycleId, Fact, Kind, Recorded, Stage, stages},
    gate::Standing as Holding,
};
use serde::Serialize;

use crate::cli::heard;

/// The facts that the ring is made of.
pub(super) const KINDS: [Kind; 11] = [
    Kind::Anomaly,
    Kind::Question,
    Kind::QuestionEnd,
    Kind::Experiment,
    Kind::ExperimentEnd,
    Kind::Promotion,
    Kind::Ruling,
    Kind::Deployment,
    Kind::Step,
    Kind::Verdict,
    Kind::Lesson,
];

/// How many things of one stage are named.
const NOW_MAX: usize = 8;

/// One stage of the loop.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct StageNow {
    /// What happens there, in one word.
    stage: &'static str,
    /// The path of the room that does it.
    room: &'static str,
    /// What is in it now, the newest last.
    now: Vec<Thing>,
    /// How often something came through, as far back as was looked.
    passed: usize,
    /// When it last did, in milliseconds since the Unix epoch.
    last_ms: Option<u64>,
    /// What came last, in words.
    last: Option<String>,
}

/// Something in a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Thing {
    id: String,
    cycle: CycleId,
    what: String,
}

/// The stages, in order, each with its room and the fact that leaves it.
const STAGES: [(&str, &str, Kind); 7] = [
    ("detection", "senses/observer", Kind::Anomaly),
    ("question", "mind/curiosity", Kind::Question),
    ("evolution", "mind/coordinator", Kind::ExperimentEnd),
    ("permission", "hands/gate", Kind::Ruling),
    ("deployment", "hands/deployer", Kind::Deployment),
    ("validation", "hands/validator", Kind::Verdict),
    ("learning", "mind/feedback", Kind::Lesson),
];

/// How long something that was noticed may take to become a question, in milliseconds. One that raises none has no end: it is not asked.
const WONDERED_MS: u64 = 60_000;

/// Returns the stages at `now_ms` out of `history`, oldest first, and what the gate holds.
pub(super) fn ring(history: &[Recorded], holding: &Holding, now_ms: u64) -> Vec<StageNow> {
    let mut now = Now { wondered_after_ms: now_ms.saturating_sub(WONDERED_MS), ..Now::default() };
    for recorded in history {
        now.fold(recorded);
    }
    let open = stages(history.iter().map(|recorded| recorded.fact.clone()));
    let (mut deploying, mut validating) = (Vec::new(), Vec::new());
    for (deployment, stage) in open.into_iter().filter(|(_, stage)| !stage.is_final()) {
        let promotion = &deployment.promotion;
        let what = format!("{}: {}", promotion.domain, stage.label());
        let thing = Thing { id: deployment.id.to_string(), cycle: promotion.cycle.clone(), what };
        if matches!(stage, Stage::Healthy | Stage::Measuring) { validating.push(thing) } else { deploying.push(thing) }
    }
    let waiting = holding.waiting.iter().map(|each| (&each.promotion, "waits for you"));
    let held = holding.held.iter().map(|each| (&each.promotion, "waits for its turn"));
    let held = waiting.chain(held).map(|(promotion, what)| Thing {
        id: promotion.id.to_string(),
        cycle: promotion.cycle.clone(),
        what: format!("{}: {what}", promotion.domain),
    });
    let things = [
        now.noticed.into_values().collect(),
        now.asked.into_values().filter(|asked| !now.evolving_cycles.contains(&asked.cycle)).collect(),
        now.evolving.into_values().collect(),
        held.collect(),
        deploying,
        validating,
        Vec::new(),
    ];
    let stage = |((stage, room, leaves), mut things): ((&'static str, &'static str, Kind), Vec<Thing>)| {
        let came = || history.iter().filter(|recorded| recorded.fact.kind() == leaves);
        let last = came().next_back();
        let now = things.split_off(things.len().saturating_sub(NOW_MAX));
        let (last_ms, last) = (last.map(|last| last.at_ms), last.map(|last| heard(&last.fact)));
        StageNow { stage, room, now, passed: came().count(), last_ms, last }
    };
    STAGES.into_iter().zip(things).map(stage).collect()
}

/// What has begun and not ended.
#[derive(Default)]
struct Now {
    /// From when on something that was noticed may still become a question.
    wondered_after_ms: u64,
    /// What was noticed and not yet asked about, by cycle.
    noticed: BTreeMap<String, Thing>,
    asked: BTreeMap<String, Thing>,
    evolving: BTreeMap<String, Thing>,
    evolving_cycles: BTreeSet<CycleId>,
}

impl Now {
    fn fold(&mut self, recorded: &Recorded) {
        let thing = |what: &str| Thing {
            id: recorded.fact.subject().to_owned(),
            cycle: recorded.cycle.clone(),
            what: what.to_owned(),
        };
        let (id, cycle) = (recorded.fact.subject().to_owned(), recorded.cycle.as_str().to_owned());
        match &recorded.fact {
            Fact::Anomaly(anomaly) if recorded.at_ms >= self.wondered_after_ms => {
                self.noticed.insert(cycle, thing(&format!("{} {}", anomaly.subject, anomaly.metric)));
            }
            Fact::Question(question) => {
                self.noticed.remove(&cycle);
                self.asked.insert(id, thing(&question.hypothesis));
            }
            Fact::QuestionEnd(_) => {
                self.asked.remove(&id);
                self.noticed.remove(&cycle);
                self.evolving_cycles.remove(&recorded.cycle);
            }
            Fact::Experiment(experiment) => {
                self.evolving_cycles.insert(recorded.cycle.clone());
                self.evolving.insert(id, thing(&experiment.spec.domain));
            }
            Fact::ExperimentEnd(_) => {
                self.evolving.remove(&id);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::QuestionEnd;

    use crate::journal::one_of_each;

    use super::*;

    fn ended(seq: u64) -> Recorded {
        let end = QuestionEnd {
            question: kloros_actors::facts::QuestionId::new("q-1"),
            hypothesis: "H".into(),
            domain: "lab".into(),
            how: "no_better".into(),
            why: String::new(),
            eligible_at_ms: 0,
        };
        Recorded { seq, cycle: CycleId::new("c-1"), at_ms: seq, fact: Fact::QuestionEnd(end) }
    }

    #[test]
    fn an_empty_house_has_seven_empty_stages_in_the_order_of_the_loop() {
        let stages = ring(&[], &Holding::default(), 0);
        let names: Vec<_> = stages.iter().map(|stage| stage.stage).collect();
        assert_eq!(names, ["detection", "question", "evolution", "permission", "deployment", "validation", "learning"]);
        assert!(stages.iter().all(|stage| stage.now.is_empty() && stage.passed == 0 && stage.last_ms.is_none()));
    }

    #[test]
    fn an_end_without_a_beginning_in_sight_changes_nothing() {
        let stages = ring(&[ended(1), ended(2)], &Holding::default(), 0);
        assert!(stages.iter().all(|stage| stage.now.is_empty()));
    }

    /// Once it stood there until two thousand facts later.
    #[test]
    fn an_anomaly_that_raises_no_question_is_not_noticed_for_ever() {
        let fact = one_of_each().into_iter().find(|fact| fact.kind() == Kind::Anomaly).unwrap();
        let noticed = [Recorded { seq: 1, cycle: CycleId::new("c-1"), at_ms: 1_000, fact }];
        let at = |now_ms| ring(&noticed, &Holding::default(), now_ms)[0].now.len();
        assert_eq!((at(2_000), at(1_000 + WONDERED_MS), at(1_001 + WONDERED_MS)), (1, 1, 0));
        assert_eq!(ring(&noticed, &Holding::default(), 1_001 + WONDERED_MS)[0].passed, 1);
    }
}

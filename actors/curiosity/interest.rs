//! Interest: which question may be asked now, from what came of those before.
//!
//! Folded from questions, their ends and lessons, oldest first; the same fact taken twice changes nothing more.

use std::collections::BTreeMap;

use super::{Config, hypotheses::question_id};
use crate::facts::{DeploymentId, Lesson, Question, QuestionEnd, QuestionId, Ruled};

/// How many kinds of questions are known at once; their names come from a closed list for each domain.
pub const KINDS_MAX: usize = 4096;

/// How often the rest doubles at most when a question ends fruitless again and again.
pub const DOUBLINGS_MAX: u32 = 6;

const DAY_MS: f64 = 86_400_000.0;

/// Whether a question may be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Yes.
    Ask {
        /// How often it will then have been asked, from 1.
        occurrence: u32,
        /// How much an answer is worth, 0 to 1.
        interest: f64,
    },
    /// It was answered not long ago.
    Rest {
        /// From when it may be asked again, in milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// It is being answered.
    Open {
        /// The question under way.
        question: QuestionId,
    },
    /// Asking it has brought too little.
    Dull {
        /// What is left of the interest, 0 to 1.
        interest: f64,
    },
    /// As many questions are open, or as many kinds are known, as may be.
    TooMany,
}

/// What is known of every kind of question: a kind is a hypothesis in a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interests {
    kinds: BTreeMap<(String, String), Interest>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Interest {
    /// What lessons made of the interest, and when; `None` before the first.
    learned: Option<(f64, u64)>,
    asked: u32,
    open: Option<QuestionId>,
    ended: Option<QuestionId>,
    /// How often in a row it ended without anything kept.
    fruitless: u32,
    eligible_at_ms: u64,
    taught_by: Option<DeploymentId>,
}

impl Interests {
    /// Returns whether the question about `hypothesis` in `domain` may be asked now.
    pub fn admit(&self, hypothesis: &str, domain: &str, now_ms: u64, config: &Config) -> Admission {
        let known = self.kinds.get(&(hypothesis.to_owned(), domain.to_owned()));
        let is_full = known.is_none() && self.kinds.len() >= KINDS_MAX;
        let interest = self.interest(hypothesis, domain, now_ms, config);
        match known {
            Some(Interest { open: Some(question), .. }) => Admission::Open { question: question.clone() },
            Some(known) if now_ms < known.eligible_at_ms => Admission::Rest { until_ms: known.eligible_at_ms },
            _ if interest < config.interest_min => Admission::Dull { interest },
            _ if is_full || self.open() >= config.open_max as usize => Admission::TooMany,
            known => Admission::Ask { occurrence: known.map_or(0, |known| known.asked).saturating_add(1), interest },
        }
    }

    /// Returns the interest in the question about `hypothesis` in `domain` now, 0 to 1.
    pub fn interest(&self, hypothesis: &str, domain: &str, now_ms: u64, config: &Config) -> f64 {
        self.kinds
            .get(&(hypothesis.to_owned(), domain.to_owned()))
            .map_or(config.interest_start.clamp(0.0, 1.0), |known| known.interest(now_ms, config))
    }

    /// Takes note of a question that was asked.
    pub fn asked(&mut self, question: &Question) {
        let domain = &question.dream_experiment.domain;
        let Some(known) = self.known(&question.hypothesis, domain) else { return };
        let id = &question.question_id;
        if known.open.as_ref() == Some(id) || known.ended.as_ref() == Some(id) {
            return;
        }
        // The number is read from the id as well: where old questions fell out of what was read from the journal,
        // counting alone would give an id a second time.
        let number = number_of(id)
            .filter(|number| question_id(domain, &question.hypothesis, *number) == *id)
            .unwrap_or_default();
        known.asked = known.asked.saturating_add(1).max(number);
        known.open = Some(id.clone());
    }

    /// Takes note of a question that ended: it rests until its end says, and longer each time it ends fruitless in a
    /// row.
    ///
    /// This is the one place where rests grow: each fruitless end after the first doubles the rest of the settings, at
    /// most [`DOUBLINGS_MAX`] times.
    pub fn ended(&mut self, end: &QuestionEnd, config: &Config) {
        let Some(known) = self.known(&end.hypothesis, &end.domain) else { return };
        if known.ended.as_ref() == Some(&end.question) {
            return;
        }
        if known.open.as_ref() == Some(&end.question) {
            known.open = None;
        }
        known.ended = Some(end.question.clone());
        let doublings = if end.how == "deployed" { 0 } else { known.fruitless.min(DOUBLINGS_MAX) };
        known.fruitless = if end.how == "deployed" { 0 } else { known.fruitless.saturating_add(1) };
        // The end itself brings the first rest; what the doublings add comes on top.
        let more_ms = config.rest_s.saturating_mul(1000).saturating_mul((1 << doublings) - 1);
        known.eligible_at_ms = known.eligible_at_ms.max(end.eligible_at_ms.saturating_add(more_ms));
    }

    /// Takes a lesson to heart: the interest in such questions moves, and they rest. The same lesson counts once.
    pub fn learn(&mut self, lesson: &Lesson, config: &Config) {
        let Some(hypothesis) = &lesson.hypothesis else { return };
        let Some(known) = self.known(hypothesis, &lesson.domain) else { return };
        let verdict = &lesson.verdict;
        if known.taught_by.replace(verdict.deployment.clone()) == Some(verdict.deployment.clone()) {
            return;
        }
        let change = if lesson.interest_change.is_finite() { lesson.interest_change } else { 0.0 };
        let interest = (known.interest(verdict.at_ms, config) + change).clamp(0.0, 1.0);
        known.learned = Some((interest, verdict.at_ms));
        if verdict.outcome == Ruled::Success {
            known.fruitless = 0;
        }
        known.eligible_at_ms = known.eligible_at_ms.max(lesson.rest_until_ms);
    }

    /// Returns how many questions are open.
    pub fn open(&self) -> usize {
        self.kinds.values().filter(|known| known.open.is_some()).count()
    }

    /// Returns what is known of a kind of question, from now on if there is room; `None` where there is none.
    fn known(&mut self, hypothesis: &str, domain: &str) -> Option<&mut Interest> {
        let kind = (hypothesis.to_owned(), domain.to_owned());
        let has_room = self.kinds.len() < KINDS_MAX || self.kinds.contains_key(&kind);
        has_room.then(|| self.kinds.entry(kind).or_default())
    }
}

impl Interest {
    /// Returns the interest now: what was lost comes back with time, up to what it was at the start.
    fn interest(&self, now_ms: u64, config: &Config) -> f64 {
        let start = config.interest_start.clamp(0.0, 1.0);
        let Some((learned, at_ms)) = self.learned else { return start };
        let days = now_ms.saturating_sub(at_ms) as f64 / DAY_MS;
        let recovered = learned + config.interest_recovers_per_day.max(0.0) * days;
        recovered.min(learned.max(start)).clamp(0.0, 1.0)
    }
}

fn number_of(id: &QuestionId) -> Option<u32> {
    id.as_str().rsplit('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Budget, CycleId, ExperimentSpec, Metrics, Reason, Verdict};

    const HYPOTHESIS: &str = "LAB_LATENCY_DEGRADATION";
    const HOUR_MS: u64 = 3_600_000;

    fn question(number: u32) -> Question {
        Question {
            question_id: question_id("lab", HYPOTHESIS, number),
            hypothesis: HYPOTHESIS.into(),
            dream_experiment: ExperimentSpec {
                name: "x".into(),
                domain: "lab".into(),
                search_space: BTreeMap::new(),
                constraints: Vec::new(),
                forbidden: Vec::new(),
                metrics: BTreeMap::new(),
                param_mapping: BTreeMap::new(),
                budget: Budget { max_candidates: 1, max_generations: 1 },
            },
            cycle: CycleId::new("c-1"),
            evidence: Vec::new(),
            interest: 0.5,
            at_ms: 0,
            depth: 0,
        }
    }

    fn lesson(number: u32, outcome: Ruled, interest_change: f64, at_ms: u64) -> Lesson {
        let verdict = Verdict {
            deployment: DeploymentId::new(format!("d-{number}")),
            cycle: CycleId::new("c-1"),
            experiment: "x".into(),
            domain: "lab".into(),
            question: None,
            hypothesis: Some(HYPOTHESIS.into()),
            changes: BTreeMap::new(),
            outcome,
            reason: Reason::Worse,
            improvement: None,
            before: Metrics::new(),
            after: Metrics::new(),
            blocks: 6,
            samples: 100,
            at_ms,
        };
        Lesson {
            cycle: CycleId::new("c-1"),
            domain: "lab".into(),
            question: None,
            hypothesis: Some(HYPOTHESIS.into()),
            fingerprint: String::new(),
            verdict,
            interest_change,
            rest_until_ms: at_ms + 2 * HOUR_MS,
            avoid: true,
            says: String::new(),
        }
    }

    fn admit(interests: &Interests, now_ms: u64) -> Admission {
        interests.admit(HYPOTHESIS, "lab", now_ms, &Config::default())
    }

    fn end(question: &Question, how: &str, now_ms: u64) -> QuestionEnd {
        QuestionEnd {
            question: question.question_id.clone(),
            hypothesis: question.hypothesis.clone(),
            domain: "lab".into(),
            how: how.into(),
            why: String::new(),
            eligible_at_ms: now_ms + 900_000,
        }
    }

    #[track_caller]
    fn check_interest(interests: &Interests, now_ms: u64, expected: f64) {
        let interest = interests.interest(HYPOTHESIS, "lab", now_ms, &Config::default());
        assert!((interest - expected).abs() < 1e-9, "{interest} is not {expected}");
    }

    #[test]
    fn a_new_question_is_asked_with_the_interest_of_the_start() {
        assert_eq!(admit(&Interests::default(), 0), Admission::Ask { occurrence: 1, interest: 0.5 });
    }

    #[test]
    fn a_question_is_asked_rests_after_its_end_and_is_asked_again_under_the_next_number() {
        let mut interests = Interests::default();
        let first = question(1);
        interests.asked(&first);
        assert_eq!(admit(&interests, 0), Admission::Open { question: first.question_id.clone() });
        interests.ended(&end(&first, "no_better", 0), &Config::default());
        assert_eq!(admit(&interests, 899_999), Admission::Rest { until_ms: 900_000 });
        assert_eq!(admit(&interests, 900_000), Admission::Ask { occurrence: 2, interest: 0.5 });
    }

    #[test]
    fn each_fruitless_end_in_a_row_doubles_the_rest_up_to_a_limit() {
        let mut interests = Interests::default();
        let mut now_ms = 0;
        let mut rests = Vec::new();
        for number in 1..=9 {
            let question = question(number);
            interests.asked(&question);
            interests.ended(&end(&question, "void", now_ms), &Config::default());
            let Admission::Rest { until_ms } = admit(&interests, now_ms) else { panic!("no rest") };
            rests.push((until_ms - now_ms) / 900_000);
            now_ms = until_ms;
        }
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        let next = question(10);
        interests.asked(&next);
        interests.ended(&end(&next, "deployed", now_ms), &Config::default());
        assert_eq!(admit(&interests, now_ms), Admission::Rest { until_ms: now_ms + 900_000 });
    }

    #[test]
    fn a_rollback_lowers_the_interest_and_lets_the_question_rest() {
        let mut interests = Interests::default();
        interests.learn(&lesson(1, Ruled::Rollback, -0.25, 0), &Config::default());
        check_interest(&interests, 0, 0.25);
        assert_eq!(admit(&interests, 0), Admission::Rest { until_ms: 2 * HOUR_MS });
        assert!(matches!(admit(&interests, 2 * HOUR_MS), Admission::Ask { occurrence: 1, .. }));
    }

    #[test]
    fn a_question_that_only_brought_rollbacks_is_dull_until_the_interest_has_come_back() {
        let mut interests = Interests::default();
        for number in 1..=3 {
            interests.learn(&lesson(number, Ruled::Rollback, -0.25, 0), &Config::default());
        }
        check_interest(&interests, 0, 0.0);
        assert!(matches!(admit(&interests, 24 * HOUR_MS), Admission::Dull { .. }));
        check_interest(&interests, 24 * HOUR_MS, 0.1);
        assert!(matches!(admit(&interests, 40 * HOUR_MS), Admission::Ask { .. }));
        check_interest(&interests, 365 * 24 * HOUR_MS, 0.5);
    }

    #[test]
    fn interest_that_was_gained_is_kept() {
        let mut interests = Interests::default();
        interests.learn(&lesson(1, Ruled::Success, 0.2, 0), &Config::default());
        check_interest(&interests, 0, 0.7);
        check_interest(&interests, 365 * 24 * HOUR_MS, 0.7);
    }

    #[test]
    fn a_fact_that_is_taken_twice_counts_once() {
        let mut interests = Interests::default();
        let first = question(1);
        let end = end(&first, "void", 0);
        let lesson = lesson(1, Ruled::Rollback, -0.25, 0);
        interests.asked(&first);
        interests.ended(&end, &Config::default());
        interests.learn(&lesson, &Config::default());
        let once = interests.clone();
        interests.asked(&first);
        interests.ended(&end, &Config::default());
        interests.learn(&lesson, &Config::default());
        assert_eq!(interests, once);
    }

    #[test]
    fn a_number_is_not_given_again_when_older_questions_are_forgotten() {
        let mut interests = Interests::default();
        interests.asked(&question(41));
        interests.ended(&end(&question(41), "deployed", 0), &Config::default());
        assert!(matches!(admit(&interests, 900_000), Admission::Ask { occurrence: 42, .. }));
    }

    #[test]
    fn no_more_questions_are_open_at_once_than_the_settings_allow() {
        let mut interests = Interests::default();
        for number in 0..8 {
            let mut other = question(1);
            other.hypothesis = format!("OTHER_{number}_DEGRADATION");
            interests.asked(&other);
        }
        assert_eq!(interests.open(), 8);
        assert_eq!(admit(&interests, 0), Admission::TooMany);
    }

    proptest! {
        #[test]
        fn interest_stays_between_0_and_1(
            lessons in prop::collection::vec((any::<f64>(), any::<u64>(), 0_u32..50), 0..100),
            now_ms in any::<u64>(),
            start in 0.0..=1.0_f64,
            recovers in 0.0..=1.0_f64,
        ) {
            let config = Config { interest_start: start, interest_recovers_per_day: recovers, ..Config::default() };
            let mut interests = Interests::default();
            for (change, at_ms, number) in lessons {
                let lesson = Lesson { rest_until_ms: at_ms, ..lesson(number, Ruled::Neutral, change, 0) };
                interests.learn(&lesson, &config);
                let interest = interests.interest(HYPOTHESIS, "lab", now_ms, &config);
                prop_assert!((0.0..=1.0).contains(&interest));
            }
        }

        #[test]
        fn every_question_that_ended_can_be_asked_again_some_day(
            ends in prop::collection::vec(0_u64..1_000_000_000, 1..50),
        ) {
            let mut interests = Interests::default();
            for (number, now_ms) in ends.iter().enumerate() {
                let question = question(number as u32 + 1);
                interests.asked(&question);
                interests.ended(&end(&question, "no_better", *now_ms), &Config::default());
            }
            let is_asked = matches!(admit(&interests, 100_000_000_000), Admission::Ask { .. });
            prop_assert!(is_asked);
        }
    }
}

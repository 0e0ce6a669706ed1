//! Interest: which question may be asked now, and by which way it is answered, from what came of those before.
//!
//! A way is the set of knobs that an experiment turns. Folded from questions, their ends and lessons, oldest first; the same fact
//! taken twice changes nothing more.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Config,
    hypotheses::{knobs, number_of},
};
use crate::facts::{DeploymentId, Fact, Lesson, Question, QuestionEnd, QuestionId, Ruled, UNMEASURED};

/// The largest number of a question that is counted on from, read from its id.
const NUMBER_READ_MAX: u32 = 1_000_000;

/// How many kinds of questions are known at once. Those of the daemon come from a closed list for each domain, those of the inbox do
/// not: for a new one, one is forgotten.
pub const KINDS_MAX: usize = 4096;

/// How often the rest doubles at most when a question ends fruitless again and again.
pub const DOUBLINGS_MAX: u32 = 6;

/// Of how many questions of a kind it is known by which way they were to be answered.
const WAYS_REMEMBERED: usize = 32;

/// How many ways of a kind are known at once.
const WAYS_MAX: usize = 64;

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
        /// By which of the ways it is best answered, as its place among them.
        way: usize,
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
    /// Each way to answer it has failed too often in a row.
    Parked {
        /// From when the first of them may be tried again, in milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// As many questions are open, or as many kinds are known, as may be.
    TooMany,
}

/// What is known of every kind of question: a kind is a hypothesis in a domain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interests {
    kinds: BTreeMap<(String, String), Interest>,
}

/// What a lesson changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The knobs of the way that was taken, joined by `+`; empty where that is not known any more, and then all ways are meant.
    pub knobs: String,
    /// The interest before, 0 to 1.
    pub before: f64,
    /// The interest after.
    pub after: f64,
    /// How often in a row the way has failed now.
    pub failures: u32,
    /// Until when it is parked, in milliseconds since the Unix epoch; `None` where it is not.
    pub parked_until_ms: Option<u64>,
    /// From when the question may be asked again, in milliseconds since the Unix epoch.
    pub eligible_at_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Interest {
    asked: u32,
    open: Option<QuestionId>,
    ended: Option<QuestionId>,
    /// How often in a row it ended without anything kept.
    fruitless: u32,
    eligible_at_ms: u64,
    taught_by: Option<DeploymentId>,
    /// By which way the latest questions were to be answered.
    recent: VecDeque<(QuestionId, String)>,
    ways: BTreeMap<String, Way>,
}

/// What came of one way to answer a kind of question.
#[derive(Clone, Debug, Default, PartialEq)]
struct Way {
    /// What lessons made of the interest, and when; `None` before the first.
    learned: Option<(f64, u64)>,
    asked: u32,
    /// How often in a row it brought nothing better.
    failures: u32,
    parked_until_ms: u64,
}

impl Interests {
    /// Returns whether the question about `hypothesis` in `domain` may be asked now, and by which of `ways`: the one with most
    /// interest, then the one that was tried least, then the first.
    pub fn admit(&self, hypothesis: &str, domain: &str, ways: &[String], now_ms: u64, config: &Config) -> Admission {
        let new = Interest::default();
        let kind = self.kinds.get(&(hypothesis.to_owned(), domain.to_owned()));
        let known = kind.unwrap_or(&new);
        if let Some(question) = &known.open {
            return Admission::Open { question: question.clone() };
        }
        if now_ms < known.eligible_at_ms {
            return Admission::Rest { until_ms: known.eligible_at_ms };
        }
        let free = ways.iter().enumerate().filter(|(_, way)| known.parked_until(way) <= now_ms);
        let worth = |way: &str| known.interest(way, now_ms, config);
        let tried = |way: &str| known.ways.get(way).map_or(0, |way| way.asked);
        let best =
            free.min_by(|(_, one), (_, other)| worth(other).total_cmp(&worth(one)).then(tried(one).cmp(&tried(other))));
        let Some((way, name)) = best else {
            let until_ms = ways.iter().map(|way| known.parked_until(way)).min().unwrap_or(u64::MAX);
            return Admission::Parked { until_ms };
        };
        let interest = worth(name);
        if interest < config.interest_min {
            return Admission::Dull { interest };
        }
        if self.open() >= (config.open_max as usize).min(KINDS_MAX) {
            return Admission::TooMany;
        }
        Admission::Ask { occurrence: known.asked.saturating_add(1), interest, way }
    }

    /// Returns why the question about `hypothesis` in `domain` is not asked now however it were answered, in one word; it costs one
    /// look, so that a flood of the same is passed over at once.
    pub fn passed_over(&self, hypothesis: &str, domain: &str, now_ms: u64) -> Option<&'static str> {
        let known = self.kinds.get(&(hypothesis.to_owned(), domain.to_owned()))?;
        if known.open.is_some() { Some("open") } else { (now_ms < known.eligible_at_ms).then_some("resting") }
    }

    /// Returns the interest in the question about `hypothesis` in `domain`, answered by `way`, now; 0 to 1.
    pub fn interest(&self, hypothesis: &str, domain: &str, way: &str, now_ms: u64, config: &Config) -> f64 {
        self.kinds
            .get(&(hypothesis.to_owned(), domain.to_owned()))
            .map_or(config.interest_start.clamp(0.0, 1.0), |known| known.interest(way, now_ms, config))
    }

    /// Takes in a fact of the past, and returns what it changed if it is a lesson; what is no question, end or lesson changes
    /// nothing.
    pub fn fold(&mut self, fact: &Fact, config: &Config) -> Option<Moved> {
        match fact {
            Fact::Question(question) => self.asked(question),
            Fact::QuestionEnd(end) => self.ended(end, config),
            Fact::Lesson(lesson) => return self.learn(lesson, config),
            _ => {}
        }
        None
    }

    /// Takes note of a question that was asked.
    pub fn asked(&mut self, question: &Question) {
        let spec = &question.dream_experiment;
        let Some(known) = self.known(&question.hypothesis, &spec.domain) else { return };
        let id = &question.question_id;
        if known.open.as_ref() == Some(id) || known.ended.as_ref() == Some(id) {
            return;
        }
        // The number is read from the id as well: where the kind was forgotten meanwhile, counting alone would give an id a second
        // time. Whoever drops an intent may have written any number, and none of theirs uses up those that are left.
        let number = number_of(id, &spec.domain, &question.hypothesis).filter(|number| *number <= NUMBER_READ_MAX);
        known.asked = known.asked.saturating_add(1).max(number.unwrap_or_default());
        known.open = Some(id.clone());
        known.recent.push_back((id.clone(), knobs(spec)));
        if known.recent.len() > WAYS_REMEMBERED {
            known.recent.pop_front();
        }
        if let Some(way) = known.way_mut(Some(id)) {
            way.asked = way.asked.saturating_add(1);
        }
    }

    /// Takes note of a question that ended: it rests until its end says, and longer each time it ends fruitless in a
    /// row. An experiment that found nothing is a failure of its way. One that could not measure says nothing of either: the
    /// question rests no longer for it.
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
        if end.how == UNMEASURED {
            known.eligible_at_ms = known.eligible_at_ms.max(end.eligible_at_ms);
            return;
        }
        let doublings = if end.how == "deployed" { 0 } else { known.fruitless.min(DOUBLINGS_MAX) };
        known.fruitless = if end.how == "deployed" { 0 } else { known.fruitless.saturating_add(1) };
        // The end itself brings the first rest; what the doublings add comes on top.
        let more_ms = config.rest_s.saturating_mul(1000).saturating_mul((1 << doublings) - 1);
        known.eligible_at_ms = known.eligible_at_ms.max(end.eligible_at_ms.saturating_add(more_ms));
        if ["no_better", "void"].contains(&end.how.as_str())
            && let Some(way) = known.way_mut(Some(&end.question))
        {
            way.fail(end.eligible_at_ms, config);
        }
    }

    /// Takes a lesson to heart and returns what it changed: the interest in such questions moves, they rest, and a way that failed
    /// [`Config::park_after`] times in a row is parked. A neutral verdict counts among the failures: it was kept and
    /// brought nothing. The same lesson counts once.
    pub fn learn(&mut self, lesson: &Lesson, config: &Config) -> Option<Moved> {
        let hypothesis = lesson.hypothesis.as_ref()?;
        let known = self.known(hypothesis, &lesson.domain)?;
        let verdict = &lesson.verdict;
        if known.taught_by.replace(verdict.deployment.clone()) == Some(verdict.deployment.clone()) {
            return None;
        }
        let name = known.way_of(lesson.question.as_ref());
        let before = known.interest(&name, verdict.at_ms, config);
        let change = if lesson.interest_change.is_finite() { lesson.interest_change } else { 0.0 };
        let after = (before + change).clamp(0.0, 1.0);
        known.eligible_at_ms = known.eligible_at_ms.max(lesson.rest_until_ms);
        if verdict.outcome == Ruled::Success {
            known.fruitless = 0;
        }
        let eligible_at_ms = known.eligible_at_ms;
        let way = known.way_mut(lesson.question.as_ref())?;
        way.learned = Some((after, verdict.at_ms));
        match verdict.outcome {
            Ruled::Success => (way.failures, way.parked_until_ms) = (0, 0),
            Ruled::Neutral => way.fail(verdict.at_ms, config),
            Ruled::Rollback if verdict.reason.blames_the_settings() => way.fail(verdict.at_ms, config),
            // What could not be measured says nothing of the way.
            Ruled::Rollback => {}
        }
        let parked_until_ms = (way.parked_until_ms > verdict.at_ms).then_some(way.parked_until_ms);
        Some(Moved { knobs: name, before, after, failures: way.failures, parked_until_ms, eligible_at_ms })
    }

    /// Returns from when the question about `hypothesis` in `domain` may be asked again, in milliseconds since the Unix epoch.
    pub fn eligible_at_ms(&self, hypothesis: &str, domain: &str) -> u64 {
        self.kinds.get(&(hypothesis.to_owned(), domain.to_owned())).map_or(0, |known| known.eligible_at_ms)
    }

    /// Returns how many questions are open.
    pub fn open(&self) -> usize {
        self.kinds.values().filter(|known| known.open.is_some()).count()
    }

    /// Returns what is known of a kind of question, from now on if it is new; `None` where everything that is known is being
    /// answered.
    fn known(&mut self, hypothesis: &str, domain: &str) -> Option<&mut Interest> {
        let kind = (hypothesis.to_owned(), domain.to_owned());
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            let least = self.least_missed()?;
            self.kinds.remove(&least);
        }
        Some(self.kinds.entry(kind).or_default())
    }

    /// Returns the kind of question that is missed least: one that taught nothing, and of those the one that has rested longest. What
    /// is being answered is missed always, as it would be asked a second time.
    fn least_missed(&self) -> Option<(String, String)> {
        let ended = self.kinds.iter().filter(|(_, known)| known.open.is_none());
        let least = ended.min_by_key(|(_, known)| (known.has_taught(), known.eligible_at_ms));
        least.map(|(kind, _)| kind.clone())
    }
}

impl Interest {
    /// Returns the interest in this way now: what was lost comes back with time, up to what it was at the start.
    fn interest(&self, way: &str, now_ms: u64, config: &Config) -> f64 {
        let start = config.interest_start.clamp(0.0, 1.0);
        let learned = |way: &str| self.ways.get(way).and_then(|way| way.learned);
        let Some((learned, at_ms)) = learned(way).or_else(|| learned(ANY)) else { return start };
        let days = now_ms.saturating_sub(at_ms) as f64 / DAY_MS;
        let recovered = learned + config.interest_recovers_per_day.max(0.0) * days;
        recovered.min(learned.max(start)).clamp(0.0, 1.0)
    }

    /// Returns whether it is known how well a way answers it.
    fn has_taught(&self) -> bool {
        self.ways.values().any(|way| way.learned.is_some() || way.failures > 0)
    }

    fn parked_until(&self, way: &str) -> u64 {
        let until = |way: &str| self.ways.get(way).map_or(0, |way| way.parked_until_ms);
        until(way).max(until(ANY))
    }

    /// Returns by which way `question` was to be answered.
    fn way_of(&self, question: Option<&QuestionId>) -> String {
        let known = question.and_then(|question| self.recent.iter().rev().find(|(id, _)| id == question));
        known.map_or_else(|| ANY.to_owned(), |(_, way)| way.clone())
    }

    fn way_mut(&mut self, question: Option<&QuestionId>) -> Option<&mut Way> {
        let name = self.way_of(question);
        let has_room = self.ways.len() < WAYS_MAX || self.ways.contains_key(&name);
        has_room.then(|| self.ways.entry(name).or_default())
    }
}

/// What is learned from a question of which it is not known any more how it was to be answered.
const ANY: &str = "";

impl Way {
    fn fail(&mut self, at_ms: u64, config: &Config) {
        self.failures = self.failures.saturating_add(1);
        if let Some(more) = self.failures.checked_sub(config.park_after) {
            // What fails again each time that it is free is tried less and less often.
            let park_ms = config.park_s.saturating_mul(1000).saturating_mul(1 << more.min(DOUBLINGS_MAX));
            self.parked_until_ms = at_ms.saturating_add(park_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::hypotheses::question_id, *};
    use crate::facts::{Budget, CycleId, ExperimentSpec, Key, Metrics, Reason, Verdict};

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
                budget: Budget::of(1, 1),
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
            runs: 0,
            baseline: None,
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
        admit_by(interests, &["SEQS"], now_ms)
    }

    fn admit_by(interests: &Interests, ways: &[&str], now_ms: u64) -> Admission {
        let ways: Vec<String> = ways.iter().map(|way| (*way).to_owned()).collect();
        interests.admit(HYPOTHESIS, "lab", &ways, now_ms, &Config::default())
    }

    /// Asks question `number`, to be answered by turning `knob`.
    fn asked_by(interests: &mut Interests, number: u32, knob: &str) -> Question {
        let mut question = question(number);
        question.dream_experiment.param_mapping = BTreeMap::from([("p".to_owned(), Key::new(knob).unwrap())]);
        interests.asked(&question);
        question
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
        let interest = interests.interest(HYPOTHESIS, "lab", "", now_ms, &Config::default());
        assert!((interest - expected).abs() < 1e-9, "{interest} is not {expected}");
    }

    #[test]
    fn a_new_question_is_asked_with_the_interest_of_the_start() {
        assert_eq!(admit(&Interests::default(), 0), Admission::Ask { occurrence: 1, interest: 0.5, way: 0 });
    }

    #[test]
    fn a_question_is_asked_rests_after_its_end_and_is_asked_again_under_the_next_number() {
        let mut interests = Interests::default();
        let first = question(1);
        interests.asked(&first);
        assert_eq!(admit(&interests, 0), Admission::Open { question: first.question_id.clone() });
        interests.ended(&end(&first, "no_better", 0), &Config::default());
        assert_eq!(admit(&interests, 899_999), Admission::Rest { until_ms: 900_000 });
        assert_eq!(admit(&interests, 900_000), Admission::Ask { occurrence: 2, interest: 0.5, way: 0 });
    }

    /// Lesson 25: the cool-down is this one function, folded from the journal.
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

    /// Once each void experiment doubled the rest, whatever broke.
    #[test]
    fn what_could_not_be_measured_neither_lengthens_the_rest_nor_begins_the_count_anew() {
        let mut interests = Interests::default();
        let mut now_ms = 0;
        let mut rests = Vec::new();
        for (number, how) in (1..).zip(["void", "unmeasured", "unmeasured", "void", "unmeasured", "void"]) {
            let question = question(number);
            interests.asked(&question);
            interests.ended(&end(&question, how, now_ms), &Config::default());
            let Admission::Rest { until_ms } = admit(&interests, now_ms) else { panic!("no rest") };
            rests.push((until_ms - now_ms) / 900_000);
            now_ms = until_ms;
        }
        assert_eq!(rests, [1, 1, 1, 2, 1, 4]);
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

    /// Lesson 7: what a verdict taught changes the next decision.
    #[test]
    fn after_a_rollback_another_way_is_tried_first() {
        let mut interests = Interests::default();
        let first = asked_by(&mut interests, 1, "SEQS");
        let lesson = Lesson { question: Some(first.question_id.clone()), ..lesson(1, Ruled::Rollback, -0.25, 0) };
        let moved = interests.learn(&lesson, &Config::default()).unwrap();
        assert_eq!((moved.knobs.as_str(), moved.before, moved.after, moved.failures), ("SEQS", 0.5, 0.25, 1));
        interests.ended(&end(&first, "rolled_back", 0), &Config::default());
        let next = admit_by(&interests, &["SEQS", "WAIT"], 3 * HOUR_MS);
        assert_eq!(next, Admission::Ask { occurrence: 2, interest: 0.5, way: 1 });
    }

    #[test]
    fn ways_of_equal_interest_take_turns() {
        let mut interests = Interests::default();
        let mut now_ms = 0;
        let mut taken = Vec::new();
        for number in 1..=4 {
            let Admission::Ask { way, .. } = admit_by(&interests, &["SEQS", "WAIT"], now_ms) else {
                panic!("not asked")
            };
            taken.push(way);
            let question = asked_by(&mut interests, number, ["SEQS", "WAIT"][way]);
            interests.ended(&end(&question, "refused", now_ms), &Config::default());
            now_ms += 100 * HOUR_MS;
        }
        assert_eq!(taken, [0, 1, 0, 1]);
    }

    #[test]
    fn five_failures_in_a_row_park_a_way_and_a_success_begins_the_count_anew() {
        use Ruled::{Neutral, Rollback, Success};
        let table: [(&[Ruled], bool); 5] = [
            (&[Rollback; 4], false),
            (&[Rollback; 5], true),
            (&[Neutral, Rollback, Neutral, Neutral, Rollback], true),
            (&[Rollback, Rollback, Rollback, Rollback, Success, Rollback], false),
            (&[Success; 9], false),
        ];
        for (outcomes, is_parked) in table {
            let mut interests = Interests::default();
            for (number, outcome) in (1..).zip(outcomes) {
                let question = asked_by(&mut interests, number, "SEQS");
                let lesson =
                    Lesson { question: Some(question.question_id.clone()), ..lesson(number, *outcome, 0.0, 0) };
                interests.learn(&lesson, &Config::default());
                interests.ended(&end(&question, "deployed", 0), &Config::default());
            }
            let day = 24 * HOUR_MS;
            let admission = admit(&interests, day);
            assert_eq!(admission == Admission::Parked { until_ms: 7 * day }, is_parked, "{outcomes:?}: {admission:?}");
            // Another way is not parked, and after its time the parked one is free.
            assert!(matches!(admit_by(&interests, &["WAIT"], day), Admission::Ask { .. }));
            assert!(matches!(admit(&interests, 7 * day), Admission::Ask { .. }));
        }
    }

    /// Lesson 23: each end brings the next moment; what could not be measured is no failure of the way.
    #[test]
    fn what_could_not_be_judged_parks_nothing_and_experiments_that_find_nothing_do() {
        let spared = ["refused", "deferred", "broke_off", "unmeasured"].map(|how| (how, false));
        for (how, is_parked) in spared.into_iter().chain([("no_better", true), ("void", true)]) {
            let mut interests = Interests::default();
            for number in 1..=5 {
                let question = asked_by(&mut interests, number, "SEQS");
                interests.ended(&end(&question, how, 0), &Config::default());
            }
            let at_ms = 70 * HOUR_MS;
            assert_eq!(matches!(admit(&interests, at_ms), Admission::Parked { .. }), is_parked, "{how}");
        }
        let mut interests = Interests::default();
        for number in 1..=9 {
            let crash = lesson(number, Ruled::Rollback, 0.0, 0);
            let crash = Lesson { verdict: Verdict { reason: Reason::Crash, ..crash.verdict.clone() }, ..crash };
            assert_eq!(interests.learn(&crash, &Config::default()).unwrap().failures, 0);
        }
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
        // A number that somebody made up uses up none.
        interests.asked(&question(u32::MAX));
        interests.ended(&end(&question(u32::MAX), "deployed", 900_000), &Config::default());
        assert!(matches!(admit(&interests, 9_000_000), Admission::Ask { occurrence: 43, .. }));
    }

    /// The inbox names its hypotheses as it likes. When as many were known as may be, nothing new was asked or learned any more.
    #[test]
    fn of_too_many_kinds_those_are_forgotten_that_taught_nothing_and_rested_longest() {
        let mut interests = Interests::default();
        let open = question(1);
        interests.asked(&open);
        let known = "TAUGHT".to_owned();
        let taught = Lesson { hypothesis: Some(known.clone()), ..lesson(1, Ruled::Rollback, -0.25, 0) };
        interests.learn(&taught, &Config::default());
        for number in 0..2 * KINDS_MAX {
            let hypothesis = format!("OTHER_{number}");
            interests.asked(&Question { hypothesis: hypothesis.clone(), ..question(7) });
            interests
                .ended(&QuestionEnd { hypothesis, ..end(&question(7), "refused", number as u64) }, &Config::default());
        }
        assert_eq!(interests.kinds.len(), KINDS_MAX);
        assert_eq!(admit(&interests, 0), Admission::Open { question: open.question_id });
        assert!(interests.interest(&known, "lab", "", 0, &Config::default()) < 0.3);
        let newest = format!("OTHER_{}", 2 * KINDS_MAX - 1);
        assert!(interests.eligible_at_ms(&newest, "lab") > 0 && interests.eligible_at_ms("OTHER_0", "lab") == 0);
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
                let interest = interests.interest(HYPOTHESIS, "lab", "", now_ms, &config);
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

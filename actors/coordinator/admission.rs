//! Admission: which question gets an experiment now, which waits, and which does not.
//!
//! Domains take turns, and within a domain the oldest question goes first: whatever was accepted is started in the
//! end. Nothing has a priority that goes past the limits.

use std::collections::{BTreeMap, VecDeque};

use super::Config;
use crate::facts::{Budget, Domain, Experiment, ExperimentSpec, Question, QuestionId};

/// How many of the daemon's own doings may stand behind a question at all. Curiosity's own limit is lower and the
/// operator's to set; this one also stops a circle that runs through the inbox.
pub const DEPTH_MAX: u32 = 16;

/// Of how many domains it is remembered when they last had their turn.
pub const TURNS_MAX: usize = 256;

/// What became of a question that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is to be started now; it is not in the queue.
    Start,
    /// It waits.
    Wait {
        /// Its place in the queue, from 1.
        place: usize,
    },
    /// The same question, or another one that asks the same, runs or waits already.
    Duplicate,
    /// As many questions wait as may.
    Full,
    /// Too many of the daemon's own doings stand behind it.
    TooDeep,
}

/// Returns why an experiment may not run in its `domain`, in words; `None` when it may. `domain` is `None` where there is no
/// domain of that name.
pub fn objection(spec: &ExperimentSpec, domain: Option<&Domain>) -> Option<String> {
    let Some(domain) = domain else {
        return Some(format!("there is no domain {:?}", spec.domain));
    };
    if spec.search_space.is_empty() {
        return Some("the search space is empty".to_owned());
    }
    let Budget { max_candidates, max_generations } = spec.budget;
    if !(1..=BUDGET_MAX).contains(&max_candidates) || !(1..=BUDGET_MAX).contains(&max_generations) {
        return Some(format!("the budget of {max_candidates} x {max_generations} is outside 1 to {BUDGET_MAX} each"));
    }
    for (name, dimension) in &spec.search_space {
        let Some(key) = spec.param_mapping.get(name) else {
            return Some(format!("parameter {name:?} is not mapped to an env key"));
        };
        let Some(knob) = domain.knobs.get(key) else {
            return Some(format!("{key} is not a knob of domain {}", domain.name));
        };
        if let Some(what) = dimension.range.escapes(&knob.range) {
            return Some(format!("the range of {name:?} is wider than that of {key}: {what}"));
        }
    }
    None
}

/// The most candidates or generations that any experiment may have, wherever it comes from; the settings' own limit.
pub const BUDGET_MAX: u32 = 1000;

/// The experiments that run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    experiments: BTreeMap<QuestionId, Identity>,
    settling: BTreeMap<QuestionId, Identity>,
}

/// What is asked, about what: hypothesis and domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    hypothesis: String,
    domain: String,
}

impl Identity {
    fn of(question: &Question) -> Self {
        Self { hypothesis: question.hypothesis.clone(), domain: question.dream_experiment.domain.clone() }
    }
}

impl Running {
    /// Takes note that the experiment of `question` runs.
    pub fn started(&mut self, question: &Question) {
        self.experiments.insert(question.question_id.clone(), Identity::of(question));
    }

    /// Takes note that an experiment runs again that an earlier life began.
    pub fn resumed(&mut self, experiment: &Experiment) {
        let identity = Identity { hypothesis: experiment.hypothesis.clone(), domain: experiment.spec.domain.clone() };
        self.experiments.insert(experiment.question.clone(), identity);
    }

    /// Takes note that an experiment found something, which is on its way through gate and deployment now.
    ///
    /// Until its question ends, no other experiment begins in its domain: it would compare with settings that are about to
    /// change.
    pub fn settles(&mut self, experiment: &Experiment) {
        let identity = Identity { hypothesis: experiment.hypothesis.clone(), domain: experiment.spec.domain.clone() };
        self.experiments.remove(&experiment.question);
        self.settling.insert(experiment.question.clone(), identity);
    }

    /// Takes note that `question` ended: its domain is free.
    pub fn settled(&mut self, question: &QuestionId) {
        self.experiments.remove(question);
        self.settling.remove(question);
    }

    /// Takes note that the experiment of `question` ended, and returns whether it ran.
    pub fn ended(&mut self, question: &QuestionId) -> bool {
        self.experiments.remove(question).is_some()
    }

    /// Returns how many experiments run.
    pub fn len(&self) -> usize {
        self.experiments.len()
    }

    /// Returns whether none runs.
    pub fn is_empty(&self) -> bool {
        self.experiments.is_empty()
    }

    /// Returns whether there is room for an experiment in `domain`: one at a time in each, and so many in all.
    pub fn has_room(&self, domain: &str, config: &Config) -> bool {
        self.experiments.len() < config.experiments_max as usize
            && self.experiments.values().chain(self.settling.values()).all(|identity| identity.domain != domain)
    }

    fn asks_the_same(&self, question: &Question) -> bool {
        let identity = Identity::of(question);
        self.experiments.contains_key(&question.question_id)
            || self.settling.contains_key(&question.question_id)
            || self.experiments.values().chain(self.settling.values()).any(|running| *running == identity)
    }
}

/// The questions that wait for an experiment.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Question>,
    turns: BTreeMap<String, u64>,
    turn: u64,
}

impl Queue {
    /// Takes `question` in, and says what becomes of it.
    pub fn offer(&mut self, question: Question, running: &Running, config: &Config) -> Offer {
        let identity = Identity::of(&question);
        let waits =
            |waiting: &Question| waiting.question_id == question.question_id || Identity::of(waiting) == identity;
        if question.depth > DEPTH_MAX {
            Offer::TooDeep
        } else if running.asks_the_same(&question) || self.waiting.iter().any(waits) {
            Offer::Duplicate
        } else if running.has_room(&identity.domain, config) && self.candidates(running, config).next().is_none() {
            self.take_turn(identity.domain);
            Offer::Start
        } else if self.waiting.len() >= config.queue_max as usize {
            Offer::Full
        } else {
            self.waiting.push_back(question);
            Offer::Wait { place: self.waiting.len() }
        }
    }

    /// Takes the question out that is to be started now; `None` when none waits or there is no room.
    pub fn next(&mut self, running: &Running, config: &Config) -> Option<Question> {
        let turn_of = |question: &Question| self.turns.get(&question.dream_experiment.domain).copied();
        let (place, _) = self.candidates(running, config).min_by_key(|(_, question)| turn_of(question))?;
        let question = self.waiting.remove(place)?;
        self.take_turn(question.dream_experiment.domain.clone());
        Some(question)
    }

    /// Takes the question with this id out, wherever it stands; `None` when it does not wait.
    pub fn withdraw(&mut self, question: &QuestionId) -> Option<Question> {
        let place = self.waiting.iter().position(|waiting| waiting.question_id == *question)?;
        self.waiting.remove(place)
    }

    /// Returns the questions that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Question> {
        self.waiting.iter()
    }

    /// Returns how many questions wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns the questions that could be started now, oldest first, with their places.
    fn candidates(&self, running: &Running, config: &Config) -> impl Iterator<Item = (usize, &Question)> {
        self.waiting
            .iter()
            .enumerate()
            .filter(move |(_, question)| running.has_room(&question.dream_experiment.domain, config))
    }

    fn take_turn(&mut self, domain: String) {
        self.turn += 1;
        self.turns.insert(domain, self.turn);
        if self.turns.len() > TURNS_MAX {
            // The domain whose turn is longest ago goes first either way.
            let oldest = self.turns.iter().min_by_key(|(_, turn)| **turn).map(|(domain, _)| domain.clone());
            oldest.and_then(|domain| self.turns.remove(&domain));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::facts::{Budget, CycleId, ExperimentSpec};

    fn question(domain: &str, hypothesis: &str) -> Question {
        Question {
            question_id: QuestionId::new(format!("{domain}.{hypothesis}.001")),
            hypothesis: hypothesis.into(),
            dream_experiment: ExperimentSpec {
                name: "x".into(),
                domain: domain.into(),
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

    fn config(experiments_max: u32, queue_max: u32) -> Config {
        Config { experiments_max, queue_max, ..Config::default() }
    }

    /// A queue and what it has started.
    #[derive(Default)]
    struct Desk {
        queue: Queue,
        running: Running,
    }

    impl Desk {
        fn offer(&mut self, question: &Question, config: &Config) -> Offer {
            let offer = self.queue.offer(question.clone(), &self.running, config);
            if offer == Offer::Start {
                self.running.started(question);
            }
            offer
        }

        fn next(&mut self, config: &Config) -> Option<QuestionId> {
            let question = self.queue.next(&self.running, config)?;
            self.running.started(&question);
            Some(question.question_id)
        }
    }

    #[test]
    fn the_first_question_is_started_and_the_next_ones_wait() {
        let (mut desk, config) = (Desk::default(), Config::default());
        assert_eq!(desk.offer(&question("lab", "A"), &config), Offer::Start);
        assert_eq!(desk.offer(&question("lab", "B"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.offer(&question("tts", "A"), &config), Offer::Wait { place: 2 });
        assert_eq!(desk.next(&config), None);
    }

    #[test]
    fn a_domain_runs_one_experiment_even_where_more_may_run() {
        let (mut desk, config) = (Desk::default(), config(4, 32));
        assert_eq!(desk.offer(&question("lab", "A"), &config), Offer::Start);
        assert_eq!(desk.offer(&question("lab", "B"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.offer(&question("tts", "A"), &config), Offer::Start);
        assert_eq!(desk.next(&config), None);
    }

    #[test]
    fn the_same_question_is_taken_once_whether_it_runs_or_waits_and_whatever_its_number() {
        let (mut desk, config) = (Desk::default(), Config::default());
        for hypothesis in ["A", "B"] {
            desk.offer(&question("lab", hypothesis), &config);
            assert_eq!(desk.offer(&question("lab", hypothesis), &config), Offer::Duplicate);
            let again = Question { question_id: QuestionId::new("other"), ..question("lab", hypothesis) };
            assert_eq!(desk.offer(&again, &config), Offer::Duplicate);
        }
    }

    #[test]
    fn a_full_queue_takes_nothing_more() {
        let (mut desk, config) = (Desk::default(), config(1, 2));
        for hypothesis in ["A", "B", "C"] {
            desk.offer(&question("lab", hypothesis), &config);
        }
        assert_eq!(desk.offer(&question("lab", "D"), &config), Offer::Full);
        assert_eq!(desk.queue.len(), 2);
    }

    #[test]
    fn a_question_that_the_daemon_caused_itself_too_often_is_not_taken() {
        let deep = Question { depth: DEPTH_MAX + 1, ..question("lab", "A") };
        assert_eq!(Desk::default().offer(&deep, &Config::default()), Offer::TooDeep);
    }

    #[test]
    fn domains_take_turns() {
        let (mut desk, config) = (Desk::default(), Config::default());
        for (domain, hypothesis) in [("lab", "A"), ("lab", "B"), ("lab", "C"), ("tts", "A"), ("tts", "B")] {
            desk.offer(&question(domain, hypothesis), &config);
        }
        let mut order = Vec::new();
        let mut runs = QuestionId::new("lab.A.001");
        loop {
            assert!(desk.running.ended(&runs));
            let Some(next) = desk.next(&config) else { break };
            order.push(next.to_string());
            runs = next;
        }
        assert_eq!(order, ["tts.A.001", "lab.B.001", "tts.B.001", "lab.C.001"]);
    }

    #[test]
    fn a_new_question_does_not_overtake_one_that_could_start() {
        let (mut desk, config) = (Desk::default(), Config::default());
        desk.offer(&question("lab", "A"), &config);
        desk.offer(&question("lab", "B"), &config);
        desk.running.ended(&QuestionId::new("lab.A.001"));
        assert_eq!(desk.offer(&question("tts", "A"), &config), Offer::Wait { place: 2 });
    }

    #[test]
    fn a_question_that_was_withdrawn_is_not_started() {
        let (mut desk, config) = (Desk::default(), Config::default());
        desk.offer(&question("lab", "A"), &config);
        desk.offer(&question("lab", "B"), &config);
        let id = QuestionId::new("lab.B.001");
        assert_eq!(desk.queue.withdraw(&id).map(|question| question.question_id), Some(id.clone()));
        assert_eq!(desk.queue.withdraw(&id), None);
        desk.running.ended(&QuestionId::new("lab.A.001"));
        assert_eq!(desk.next(&config), None);
    }

    proptest! {
        #[test]
        fn the_limits_hold_and_whatever_was_accepted_is_started(
            offers in prop::collection::vec((0_u8..4, 0_u8..6, any::<bool>()), 1..200),
            experiments_max in 1_u32..4,
            queue_max in 1_u32..8,
        ) {
            let config = config(experiments_max, queue_max);
            let mut desk = Desk::default();
            let (mut accepted, mut started) = (0, 0);
            for (domain, hypothesis, ends) in offers {
                let offer = desk.offer(&question(&format!("d{domain}"), &format!("H{hypothesis}")), &config);
                accepted += u32::from(matches!(offer, Offer::Start | Offer::Wait { .. }));
                started += u32::from(offer == Offer::Start);
                if ends {
                    let first = desk.running.experiments.keys().next().cloned();
                    first.map(|id| desk.running.ended(&id));
                    started += u32::from(desk.next(&config).is_some());
                }
                prop_assert!(desk.running.len() <= experiments_max as usize);
                prop_assert!(desk.queue.len() <= queue_max as usize);
                let domains = desk.running.experiments.values().map(|each| &each.domain);
                let distinct = domains.clone().collect::<std::collections::BTreeSet<_>>();
                prop_assert_eq!(distinct.len(), desk.running.len());
            }
            while !desk.queue.is_empty() {
                while desk.next(&config).is_some() {
                    started += 1;
                }
                desk.running = Running::default();
            }
            prop_assert_eq!(accepted, started);
        }
    }
}

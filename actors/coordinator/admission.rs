//! Admission: which question gets an experiment now, which waits, and which does not.
//!
//! Domains take turns, and within a domain the question goes first whose answer is worth most for its cost; with each turn that a
//! question waits it is worth more, so whatever was accepted is started in the end. A question whose turn it is and that has room
//! on the machine but for the experiments that run holds up all others until it has; one for which the live services leave no room
//! is passed over. Where that lasts, it holds up all others as well, until nothing of ours runs: then it begins or ends. Nothing has
//! a priority that goes past the limits.

use std::collections::{BTreeMap, VecDeque};

use super::room::{Fit, Limits, together};
use crate::facts::{Budget, Domain, Experiment, ExperimentSpec, Load, Question, QuestionId, WALL_S_MAX, WALL_S_MIN};

/// How many of the daemon's own doings may stand behind a question at all. Curiosity's own limit is lower and the
/// operator's to set; this one also stops a circle that runs through the inbox.
pub const DEPTH_MAX: u32 = 16;

/// Of how many domains it is remembered when they last had their turn.
pub const TURNS_MAX: usize = 256;

/// What became of a question that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The machine never has room for it, for this reason.
    TooLarge(String),
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
    let Budget { max_candidates, max_generations, wall_s } = spec.budget;
    if !(1..=BUDGET_MAX).contains(&max_candidates) || !(1..=BUDGET_MAX).contains(&max_generations) {
        return Some(format!("the budget of {max_candidates} x {max_generations} is outside 1 to {BUDGET_MAX} each"));
    }
    if !(WALL_S_MIN..=WALL_S_MAX).contains(&wall_s) {
        return Some(format!("its time of {wall_s} s is outside {WALL_S_MIN} to {WALL_S_MAX}"));
    }
    for (name, dimension) in &spec.search_space {
        let Some(key) = spec.param_mapping.get(name) else {
            return Some(format!("parameter {name:?} is not mapped to an env key"));
        };
        let Some(knob) = domain.knobs.get(key) else {
            return Some(format!("{key} is not a knob of domain {}", domain.name));
        };
        if let Some(why) = domain.searched_by_nobody(key) {
            return Some(why);
        }
        if let Some(what) = dimension.range.escapes(&knob.range) {
            return Some(format!("the range of {name:?} is wider than that of {key}: {what}"));
        }
    }
    None
}

/// The most candidates or generations that any experiment may have, wherever it comes from; the settings' own limit.
pub const BUDGET_MAX: u32 = 1000;

/// The experiments that run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    experiments: BTreeMap<QuestionId, (Identity, Load)>,
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

    fn behind(experiment: &Experiment) -> Self {
        Self { hypothesis: experiment.hypothesis.clone(), domain: experiment.spec.domain.clone() }
    }
}

impl Running {
    /// Takes note that the experiment of `question` runs, and takes so much of the machine.
    pub fn started(&mut self, question: &Question, load: Load) {
        self.experiments.insert(question.question_id.clone(), (Identity::of(question), load));
    }

    /// Takes note that an experiment runs again that an earlier life began.
    pub fn resumed(&mut self, experiment: &Experiment, load: Load) {
        self.experiments.insert(experiment.question.clone(), (Identity::behind(experiment), load));
    }

    /// Takes note that an experiment found something, which is on its way through gate and deployment now.
    ///
    /// Until its question ends, no other experiment begins in its domain: it would compare with settings that are about to
    /// change.
    pub fn settles(&mut self, experiment: &Experiment) {
        self.experiments.remove(&experiment.question);
        self.settling.insert(experiment.question.clone(), Identity::behind(experiment));
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

    /// Returns what the experiments that run take of the machine.
    pub fn load(&self) -> Load {
        together(&self.experiments.values().map(|(_, load)| *load).collect::<Vec<_>>())
    }

    /// Returns whether an experiment in `domain` may be thought of: one at a time in each, and so many in all.
    pub fn has_place(&self, domain: &str, limits: &Limits<'_>) -> bool {
        self.experiments.len() < limits.config.experiments_max as usize
            && self.identities().all(|identity| identity.domain != domain)
    }

    /// Returns whether an experiment in `domain` may begin now, or go on: there is a place for it, and room.
    pub fn admits(&self, domain: &str, limits: &Limits<'_>) -> bool {
        self.has_place(domain, limits) && limits.fit(domain, &self.load()) == Fit::Now
    }

    fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.experiments.values().map(|(identity, _)| identity).chain(self.settling.values())
    }

    fn asks_the_same(&self, question: &Question) -> bool {
        let identity = Identity::of(question);
        self.experiments.contains_key(&question.question_id)
            || self.settling.contains_key(&question.question_id)
            || self.identities().any(|running| *running == identity)
    }
}

/// A question that waits, since which turn, and since when there is no room on the machine for it, if there is none.
#[derive(Clone, Debug)]
struct Waiting {
    question: Question,
    since: u64,
    no_room_since_ms: Option<u64>,
    /// Whether there was none for too long a time, so that it is to be seen whether there is without the experiments that run.
    is_overdue: bool,
}

impl Waiting {
    fn weight(&self, turn: u64) -> f64 {
        self.question.worth() * (1.0 + turn.saturating_sub(self.since) as f64)
    }

    fn domain(&self) -> &str {
        &self.question.dream_experiment.domain
    }
}

/// Who is started next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The one in this place.
    Start(usize),
    /// Nobody, until an experiment ends: the one whose turn it is needs what that takes.
    Held,
    /// Nobody could be.
    Nobody,
}

/// The questions that wait for an experiment.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    turns: BTreeMap<String, u64>,
    turn: u64,
}

impl Queue {
    /// Takes `question` in, and says what becomes of it.
    pub fn offer(&mut self, question: Question, running: &Running, limits: &Limits<'_>) -> Offer {
        let identity = Identity::of(&question);
        let waits =
            |waiting: &Question| waiting.question_id == question.question_id || Identity::of(waiting) == identity;
        if question.depth > DEPTH_MAX {
            Offer::TooDeep
        } else if running.asks_the_same(&question) || self.waiting().any(waits) {
            Offer::Duplicate
        } else if let Fit::Never(want) = limits.fit(&identity.domain, &Load::default()) {
            Offer::TooLarge(want.to_string())
        } else if running.admits(&identity.domain, limits) && self.first(running, limits) == Next::Nobody {
            self.take_turn(identity.domain);
            Offer::Start
        } else if self.waiting.len() >= limits.config.queue_max as usize {
            Offer::Full
        } else {
            self.waiting.push_back(Waiting { question, since: self.turn, no_room_since_ms: None, is_overdue: false });
            Offer::Wait { place: self.waiting.len() }
        }
    }

    /// Takes the question out that is to be started now; `None` when none waits, or none can be.
    pub fn next(&mut self, running: &Running, limits: &Limits<'_>) -> Option<Question> {
        let Next::Start(place) = self.first(running, limits) else { return None };
        let question = self.waiting.remove(place)?.question;
        self.take_turn(question.dream_experiment.domain.clone());
        Some(question)
    }

    /// Takes those out that the machine had no room for during `room_wait_s`, or never will have, with the reason in words.
    ///
    /// None ends for want of room while experiments run, whose instances may use more than they weigh: it holds up all others
    /// until they have ended, and then it shows.
    pub fn without_room(&mut self, running: &Running, limits: &Limits<'_>, now_ms: u64) -> Vec<(Question, String)> {
        let wait_ms = limits.config.room_wait_s.saturating_mul(1000);
        let load = running.load();
        let mut out = Vec::new();
        self.waiting.retain_mut(|waiting| {
            let why = match limits.fit(waiting.domain(), &load) {
                Fit::Never(want) => Some(want.to_string()),
                Fit::Later(want) => {
                    let since_ms = *waiting.no_room_since_ms.get_or_insert(now_ms);
                    let waited_ms = now_ms.saturating_sub(since_ms);
                    waiting.is_overdue = waited_ms >= wait_ms;
                    (waiting.is_overdue && running.is_empty())
                        .then(|| format!("{want}, for {} s now", waited_ms / 1000))
                }
                Fit::Now | Fit::Alone(_) => {
                    (waiting.no_room_since_ms, waiting.is_overdue) = (None, false);
                    None
                }
            };
            let stays = why.is_none();
            out.extend(why.map(|why| (waiting.question.clone(), why)));
            stays
        });
        out
    }

    /// Takes the question with this id out, wherever it stands; `None` when it does not wait.
    pub fn withdraw(&mut self, question: &QuestionId) -> Option<Question> {
        let place = self.waiting().position(|waiting| waiting.question_id == *question)?;
        self.waiting.remove(place).map(|waiting| waiting.question)
    }

    /// Returns the questions that wait, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Question> {
        self.waiting.iter().map(|waiting| &waiting.question)
    }

    /// Returns how many questions wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn first(&self, running: &Running, limits: &Limits<'_>) -> Next {
        let load = running.load();
        let mut fits: BTreeMap<&str, Fit> = BTreeMap::new();
        let mut candidates: Vec<(usize, &Waiting)> =
            self.waiting.iter().enumerate().filter(|(_, each)| running.has_place(each.domain(), limits)).collect();
        let turn_of = |waiting: &Waiting| self.turns.get(waiting.domain());
        candidates.sort_by(|(_, one), (_, other)| {
            turn_of(one).cmp(&turn_of(other)).then(other.weight(self.turn).total_cmp(&one.weight(self.turn)))
        });
        // Were light ones to begin the moment nothing runs, it would never show whether there is room for it alone.
        let is_overdue = |(_, each): &(usize, &Waiting)| {
            each.is_overdue && matches!(limits.fit(each.domain(), &load), Fit::Later(_))
        };
        if candidates.iter().any(is_overdue) {
            return Next::Held;
        }
        for (place, waiting) in candidates {
            match fits.entry(waiting.domain()).or_insert_with(|| limits.fit(waiting.domain(), &load)) {
                Fit::Now => return Next::Start(place),
                Fit::Alone(_) => return Next::Held,
                Fit::Later(_) | Fit::Never(_) => {}
            }
        }
        Next::Nobody
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
    use crate::{
        coordinator::Config,
        facts::{Budget, CycleId, ExperimentSpec, Room},
        testing,
    };

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
                budget: Budget::of(1, 1),
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

    /// A queue and what it has started, on a machine with so much memory left.
    #[derive(Default)]
    struct Desk {
        queue: Queue,
        running: Running,
        room: Room,
        domains: BTreeMap<String, Domain>,
    }

    impl Desk {
        /// Returns a desk on a machine of 100 MiB, whose domains need so many.
        fn of(needs: &[(&str, f64)]) -> Self {
            let memory = |memory_mib| Load { memory_mib: Some(memory_mib), ..Load::default() };
            let domain = |(name, needs): &(&str, f64)| {
                ((*name).to_owned(), Domain { needs: Some(memory(*needs)), ..testing::domain(name) })
            };
            let room = Room { all: memory(100.0), left: memory(100.0), ..Room::default() };
            Self { room, domains: needs.iter().map(domain).collect(), ..Self::default() }
        }

        fn offer(&mut self, question: &Question, config: &Config) -> Offer {
            let limits = Limits { config, room: &self.room, domains: &self.domains };
            let offer = self.queue.offer(question.clone(), &self.running, &limits);
            if offer == Offer::Start {
                self.running.started(question, limits.need(&question.dream_experiment.domain));
            }
            offer
        }

        fn next(&mut self, config: &Config) -> Option<QuestionId> {
            let limits = Limits { config, room: &self.room, domains: &self.domains };
            let question = self.queue.next(&self.running, &limits)?;
            self.running.started(&question, limits.need(&question.dream_experiment.domain));
            Some(question.question_id)
        }

        fn without_room(&mut self, config: &Config, now_ms: u64) -> Vec<String> {
            let limits = Limits { config, room: &self.room, domains: &self.domains };
            self.queue
                .without_room(&self.running, &limits, now_ms)
                .into_iter()
                .map(|(question, _)| question.question_id.to_string())
                .collect()
        }

        /// From now on live services leave so much memory.
        fn leave(&mut self, memory_mib: f64) {
            self.room.left.memory_mib = Some(memory_mib);
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

    /// Lesson 27: no lane starves another.
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
    fn within_a_domain_the_answer_that_is_worth_most_for_its_cost_goes_first_and_none_waits_for_ever() {
        let (mut desk, config) = (Desk::default(), Config::default());
        let worth = |hypothesis: &str, interest: f64, max_candidates: u32| {
            let mut question = Question { interest, ..question("lab", hypothesis) };
            question.dream_experiment.budget.max_candidates = max_candidates;
            question
        };
        desk.offer(&question("lab", "A"), &config);
        for question in [worth("DEAR", 0.9, 48), worth("DULL", 0.2, 8), worth("BEST", 0.8, 8)] {
            desk.offer(&question, &config);
        }
        let mut runs = QuestionId::new("lab.A.001");
        let mut order = Vec::new();
        for number in 0..30 {
            desk.running.ended(&runs);
            // Ever new ones that are worth more than the dear one.
            desk.offer(&worth(&format!("N{number}"), 0.8, 8), &config);
            runs = desk.next(&config).unwrap();
            order.push(runs.to_string());
        }
        let place = |hypothesis: &str| order.iter().position(|id| *id == format!("lab.{hypothesis}.001"));
        assert_eq!(place("BEST"), Some(0));
        assert!(place("DEAR").is_some() && place("DULL").is_some(), "{order:?}");
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

    /// Lessons 15 and 16: how many run at once is bounded by what they weigh as well.
    #[test]
    fn experiments_run_beside_each_other_as_far_as_their_weights_fit() {
        let (mut desk, config) = (Desk::of(&[("a", 40.0), ("b", 40.0), ("c", 40.0)]), config(3, 32));
        assert_eq!(desk.offer(&question("a", "A"), &config), Offer::Start);
        assert_eq!(desk.offer(&question("b", "A"), &config), Offer::Start);
        assert_eq!(desk.offer(&question("c", "A"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.next(&config), None);
        assert!(desk.running.ended(&QuestionId::new("a.A.001")));
        assert_eq!(desk.next(&config), Some(QuestionId::new("c.A.001")));
    }

    #[test]
    fn a_heavy_question_whose_turn_it_is_is_not_passed_by_light_ones() {
        let (mut desk, config) = (Desk::of(&[("light", 10.0), ("other", 10.0), ("heavy", 90.0)]), config(3, 32));
        assert_eq!(desk.offer(&question("light", "A"), &config), Offer::Start);
        assert_eq!(desk.offer(&question("heavy", "A"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.offer(&question("other", "A"), &config), Offer::Wait { place: 2 });
        assert_eq!(desk.next(&config), None);
        desk.running.ended(&QuestionId::new("light.A.001"));
        assert_eq!(desk.next(&config), Some(QuestionId::new("heavy.A.001")));
        assert_eq!(desk.next(&config), None);
        desk.running.ended(&QuestionId::new("heavy.A.001"));
        assert_eq!(desk.next(&config), Some(QuestionId::new("other.A.001")));
    }

    #[test]
    fn a_question_that_live_services_leave_no_room_for_is_passed_over_and_ends_when_that_lasts() {
        let (mut desk, config) = (Desk::of(&[("heavy", 60.0), ("light", 10.0)]), config(1, 32));
        let config = Config { room_wait_s: 10, ..config };
        desk.leave(50.0);
        assert_eq!(desk.offer(&question("heavy", "A"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.offer(&question("light", "A"), &config), Offer::Start);
        assert!(desk.without_room(&config, 1_000).is_empty());
        desk.leave(80.0);
        assert!(desk.without_room(&config, 10_500).is_empty(), "there is room again");
        desk.leave(40.0);
        assert!(desk.without_room(&config, 12_000).is_empty(), "it counts anew");
        assert!(desk.without_room(&config, 22_000).is_empty(), "the light one may be why");
        desk.running.ended(&QuestionId::new("light.A.001"));
        desk.leave(50.0);
        assert_eq!(desk.without_room(&config, 22_000), ["heavy.A.001"]);
        assert!(desk.queue.is_empty());
    }

    /// It was passed over by one light question after the other, and then ended as if live services left no room.
    #[test]
    fn a_heavy_question_that_waits_for_what_our_own_experiment_uses_holds_up_the_light_ones() {
        let (mut desk, config) = (Desk::of(&[("light", 20.0), ("other", 20.0), ("heavy", 90.0)]), config(3, 32));
        assert_eq!(desk.offer(&question("light", "A"), &config), Offer::Start);
        desk.leave(80.0);
        assert_eq!(desk.offer(&question("heavy", "A"), &config), Offer::Wait { place: 1 });
        assert_eq!(desk.offer(&question("other", "A"), &config), Offer::Wait { place: 2 });
        assert_eq!(desk.next(&config), None);
        assert!(desk.without_room(&config, 0).is_empty() && desk.without_room(&config, 10_000_000).is_empty());
        desk.running.ended(&QuestionId::new("light.A.001"));
        desk.leave(100.0);
        assert_eq!(desk.next(&config), Some(QuestionId::new("heavy.A.001")));
    }

    #[test]
    fn what_had_no_room_for_too_long_is_looked_at_alone_before_it_ends() {
        for (left_alone, ends) in [(50.0, true), (70.0, false)] {
            let (mut desk, config) = (Desk::of(&[("light", 10.0), ("other", 10.0), ("heavy", 60.0)]), config(3, 32));
            let config = Config { room_wait_s: 10, ..config };
            assert_eq!(desk.offer(&question("light", "A"), &config), Offer::Start);
            // The light one uses more than it weighs.
            desk.leave(40.0);
            assert_eq!(desk.offer(&question("heavy", "A"), &config), Offer::Wait { place: 1 });
            assert!(desk.without_room(&config, 0).is_empty() && desk.without_room(&config, 10_000).is_empty());
            assert_eq!(desk.offer(&question("other", "A"), &config), Offer::Wait { place: 2 });
            desk.running.ended(&QuestionId::new("light.A.001"));
            assert_eq!(desk.next(&config), None, "what it used may not be free yet");
            desk.leave(left_alone);
            let next = if ends { "other.A.001" } else { "heavy.A.001" };
            assert_eq!(desk.without_room(&config, 11_000).is_empty(), !ends);
            assert_eq!(desk.next(&config), Some(QuestionId::new(next)));
        }
    }

    /// Lesson 12: what can never run is refused before anything is tried.
    #[test]
    fn a_question_that_the_machine_never_has_room_for_is_not_taken() {
        let (mut desk, config) = (Desk::of(&[("huge", 96.0)]), Config::default());
        assert!(matches!(desk.offer(&question("huge", "A"), &config), Offer::TooLarge(_)));
        // What was taken while it needed less ends, too.
        let (mut desk, mut larger) = (Desk::of(&[("lab", 90.0)]), Desk::of(&[("lab", 99.0)]));
        desk.leave(0.0);
        desk.offer(&question("lab", "A"), &config);
        std::mem::swap(&mut desk.domains, &mut larger.domains);
        assert_eq!(desk.without_room(&config, 0), ["lab.A.001"]);
    }

    proptest! {
        #[test]
        fn no_order_of_questions_takes_more_than_the_machine_has_and_all_that_fits_is_started(
            needs in prop::collection::vec(1.0_f64..95.0, 4),
            offers in prop::collection::vec((0_usize..4, 0_u8..6, any::<bool>()), 1..100),
            experiments_max in 1_u32..5,
        ) {
            let config = Config { memory_spare_ratio: 0.0, ..config(experiments_max, 50) };
            let names = ["d0", "d1", "d2", "d3"];
            let named: Vec<(&str, f64)> = names.into_iter().zip(needs).collect();
            let mut desk = Desk::of(&named);
            let (mut accepted, mut started) = (0, 0);
            for (domain, hypothesis, ends) in offers {
                let offer = desk.offer(&question(names[domain], &format!("H{hypothesis}")), &config);
                accepted += u32::from(matches!(offer, Offer::Start | Offer::Wait { .. }));
                started += u32::from(offer == Offer::Start);
                if ends {
                    desk.running.experiments.pop_first();
                    started += u32::from(desk.next(&config).is_some());
                }
                prop_assert!(desk.running.load().memory_mib.unwrap_or_default() <= 100.0 + 1e-9);
            }
            // One end after the other, and with each all that has room: nothing is left behind.
            while !desk.queue.is_empty() {
                let before = desk.queue.len();
                while desk.next(&config).is_some() {
                    started += 1;
                }
                prop_assert!(desk.queue.len() < before || desk.running.experiments.pop_first().is_some());
            }
            prop_assert_eq!(accepted, started);
        }
    }

    proptest! {
        /// Light ones come without end, each uses up to three times what it weighs, and live services nothing.
        #[test]
        fn a_heavy_question_that_fits_alone_is_started_however_much_light_ones_use(
            heavy in 50.0_f64..95.0,
            light in 1.0_f64..30.0,
            uses in prop::collection::vec(0.0_f64..3.0, 60),
            experiments_max in 1_u32..4,
        ) {
            let config = Config { room_wait_s: 100, ..config(experiments_max, 50) };
            let names = ["l0", "l1", "l2", "l3"];
            let needs: Vec<(&str, f64)> = names.map(|name| (name, light)).into_iter().chain([("heavy", heavy)]).collect();
            let mut desk = Desk::of(&needs);
            desk.offer(&question("l0", "FIRST"), &config);
            desk.leave((100.0 - light * uses[0]).max(0.0));
            desk.offer(&question("heavy", "A"), &config);
            let is_started = |desk: &Desk| desk.running.experiments.contains_key(&QuestionId::new("heavy.A.001"));
            for (round, factor) in uses.iter().enumerate() {
                desk.offer(&question(names[round % 4], &format!("H{round}")), &config);
                prop_assert!(desk.without_room(&config, round as u64 * 10_000).is_empty(), "it is our own load");
                if is_started(&desk) {
                    break;
                }
                desk.running.experiments.pop_first();
                desk.leave((100.0 - desk.running.len() as f64 * light * factor).max(0.0));
                while desk.next(&config).is_some() {
                    desk.leave((100.0 - desk.running.len() as f64 * light * factor).max(0.0));
                }
            }
            prop_assert!(is_started(&desk));
        }
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
                let domains = desk.running.experiments.values().map(|(identity, _)| &identity.domain);
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

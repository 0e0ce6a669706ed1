//! The coordinator against scripted journals and rooms that are or are not there.

use std::sync::Arc;

use kloros_supervision::{ChildExit, ChildSpec, Collected, Exit, Outlet, Socket, Tree};

use super::{Config, Coordinator, Exits, Msg};
use crate::{
    config::Catalogue,
    facts::{
        self, Attempt, Best, Domain, Experiment, ExperimentEnd, ExperimentId, Fact, Intent, Kind, KnobKind, Load,
        Metrics, Origin, Proposal, Question, QuestionEnd, QuestionId, Settings, Value, VoidCause, Winner,
    },
    seams::Planning,
    testing::{
        HYPOTHESIS, SOON, World, catalogue, cycle, eventually, experiment, finish, house, key, promotion, question,
    },
};

struct Room {
    socket: Socket<Msg>,
    tree: Tree,
    experiments: Collected<Experiment>,
    proposals: Collected<Planning>,
    ended: Collected<QuestionEnd>,
}

async fn open(world: &World) -> Room {
    let (proposals, heard) = Outlet::collecting();
    let room = open_towards(world, proposals).await;
    Room { proposals: heard, ..room }
}

async fn open_towards(world: &World, proposals: Outlet<Planning>) -> Room {
    let socket = Socket::new("coordinator");
    let (experiments, heard_experiments) = Outlet::collecting();
    let (_, heard_proposals) = Outlet::collecting();
    let (ended, heard_ended) = Outlet::collecting();
    let (exits, seams) = (Exits { experiments, proposals, ended }, world.seams());
    let spec = ChildSpec::actor("coordinator", &socket, move || {
        let (seams, exits, config) = (seams.clone(), exits.clone(), Config { resumes_max: 1, ..Config::default() });
        (Coordinator, super::Arguments { seams, exits, config, catalogue: catalogue(), seed: 7, rest_s: 900 })
    });
    let tree = house(spec).await;
    Room { socket, tree, experiments: heard_experiments, proposals: heard_proposals, ended: heard_ended }
}

impl Room {
    fn ask(&self, question: Question) {
        self.socket.send(Msg::Intended(Intent::CuriosityQuestion(question))).unwrap();
    }

    fn left(&self) {
        let exit = ChildExit { id: experiment().id.to_string(), exit: Exit::Failed("it fell over".into()) };
        self.socket.send(Msg::Left(exit)).unwrap();
    }

    async fn restart(&self) {
        let old = self.socket.actor().unwrap().get_id();
        self.tree.kill("coordinator").unwrap();
        eventually(|| self.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    }
}

fn won() -> ExperimentEnd {
    let params = [("seqs".to_owned(), Value::Integer(12))].into();
    ExperimentEnd::Won {
        experiment: experiment().id,
        winner: Winner {
            experiment: "lab_tuning".into(),
            domain: "lab".into(),
            best: Best { params, fitness: 1.0, metrics: Metrics::new() },
            incumbent: Settings::new(),
            experiment_id: experiment().id,
            measured: 8,
            failed: 0,
            gain: None,
            front: Vec::new(),
        },
    }
}

#[tokio::test]
async fn a_question_leads_to_the_very_experiment_in_it_once_however_often_it_is_heard() {
    let world = World::with_env("");
    let room = open(&world).await;
    for _ in 0..3 {
        room.ask(question(1));
    }
    let begun = room.experiments.next(SOON).await.unwrap();
    assert_eq!((begun.id, begun.spec), (experiment().id, experiment().spec));
    room.socket.send(Msg::Sweep).unwrap();
    finish(&room.tree).await;
    assert!(room.experiments.taken().is_empty());
    assert_eq!(world.journal.count(Kind::Experiment), 1);
    assert!(world.ends().is_empty());
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_is_refused_in_words() {
    let world = World::with_env("");
    let room = open(&world).await;
    let mut outside = question(1);
    outside.dream_experiment.param_mapping.insert("seqs".into(), key("LD_PRELOAD"));
    let mut unmapped = question(2);
    unmapped.dream_experiment.param_mapping.clear();
    let mut elsewhere = question(3);
    elsewhere.dream_experiment.domain = "nowhere".into();
    let mut empty = question(4);
    empty.dream_experiment.search_space.clear();
    let mut between = question(6);
    between.dream_experiment.constraints = vec!["seqs <= waits".into()];
    let mut never = question(7);
    never.dream_experiment.forbidden = vec![[("seqs".to_owned(), Value::Integer(99))].into()];
    let mut wide = question(8);
    let sizes = KnobKind::Ordinal { values: vec![Value::Integer(1), Value::Integer(65)] };
    wide.dream_experiment.search_space.insert("seqs".into(), sizes.into());
    let mut deep = question(5);
    deep.depth = 99;
    for (question, says) in [
        (outside, "LD_PRELOAD is not a knob"),
        (unmapped, "not mapped"),
        (elsewhere, "no domain"),
        (empty, "empty"),
        (between, "constraints[0]: the constraint seqs <= waits names waits, which is not declared"),
        (never, "forbidden[0]: a forbidden combination names seqs = 99, a value that seqs never has"),
        (wide, "the range of \"seqs\" is wider than that of SEQS: 65 is outside 1 to 64"),
        (deep, "our own doings"),
    ] {
        room.ask(question);
        let end = room.ended.next(SOON).await.unwrap();
        assert_eq!(end.how, "refused");
        assert!(end.why.contains(says), "{}", end.why);
    }
    assert_eq!(world.journal.count(Kind::Experiment), 0);
}

#[tokio::test]
async fn another_question_that_asks_the_same_is_refused_and_one_that_ended_is_not_asked_again() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.ask(question(1));
    room.experiments.next(SOON).await.unwrap();
    room.ask(question(2));
    assert!(room.ended.next(SOON).await.unwrap().why.contains("the same"));
    room.ask(question(2));
    finish(&room.tree).await;
    assert_eq!(world.ends(), ["refused"]);
    assert_eq!(world.journal.count(Kind::Experiment), 1);
}

#[tokio::test]
async fn a_question_that_waits_is_started_when_the_experiment_before_it_ends() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.ask(question(1));
    room.experiments.next(SOON).await.unwrap();
    let mut next = question(2);
    next.hypothesis = "LAB_ERROR_DEGRADATION".into();
    room.ask(next.clone());
    let end = ExperimentEnd::NoBetter { experiment: experiment().id, why: "nothing".into(), front: Vec::new() };
    room.socket.send(Msg::Ended(end)).unwrap();
    assert_eq!(room.experiments.next(SOON).await.unwrap().question, next.question_id);
}

/// Lesson 20: attempts have a cap, and what breaks off again and again is given up and not queued anew.
#[tokio::test]
async fn an_experiment_goes_on_after_a_restart_and_after_it_broke_off_but_not_for_ever() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.ask(question(1));
    let begun = room.experiments.next(SOON).await.unwrap();
    room.restart().await;
    assert_eq!(room.experiments.next(SOON).await.unwrap(), begun);
    room.left();
    assert_eq!(room.experiments.next(SOON).await.unwrap(), begun);
    room.left();
    assert_eq!(room.ended.next(SOON).await.unwrap().how, "broke_off");
    assert_eq!(world.journal.count(Kind::ExperimentEnd), 1);
    // Its place is free again.
    room.ask(question(2));
    assert_eq!(room.experiments.next(SOON).await.unwrap().question, question(2).question_id);
}

#[tokio::test]
async fn an_experiment_that_ended_unheard_is_not_run_again_when_its_actor_leaves() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.ask(question(1));
    room.experiments.next(SOON).await.unwrap();
    world.write(vec![Fact::ExperimentEnd(won())]);
    room.left();
    let planning = room.proposals.next(SOON).await.unwrap();
    assert_eq!(planning.proposal.settings[&key("SEQS")], Value::Integer(12));
    finish(&room.tree).await;
    assert!(room.experiments.taken().is_empty());
}

#[tokio::test]
async fn a_winner_is_proposed_until_its_promotion_or_the_end_of_its_question_is_in_the_journal() {
    for last in [
        Fact::Promotion(promotion(&[("SEQS", 12)])),
        Fact::QuestionEnd(QuestionEnd {
            question: question(1).question_id,
            hypothesis: HYPOTHESIS.into(),
            domain: "lab".into(),
            how: "refused".into(),
            why: "nothing would change".into(),
            eligible_at_ms: 0,
        }),
    ] {
        let world = World::with_env("");
        let asked = Fact::Question(question(1));
        world.write(vec![asked, Fact::Experiment(experiment()), Fact::ExperimentEnd(won())]);
        let room = open(&world).await;
        room.proposals.next(SOON).await.unwrap();
        room.socket.send(Msg::Sweep).unwrap();
        let planning = room.proposals.next(SOON).await.unwrap();
        assert_eq!(planning.proposal.origin, Origin::Experiment(experiment().id));
        world.write(vec![last]);
        room.socket.send(Msg::Sweep).unwrap();
        finish(&room.tree).await;
        assert!(room.proposals.taken().is_empty());
        assert!(room.experiments.taken().is_empty());
    }
}

/// Behind 2,000 facts about other questions it was forgotten, and nothing else could begin in its domain.
#[tokio::test]
async fn what_is_open_is_found_after_a_restart_however_much_ended_since() {
    let world = World::with_env("");
    let mut waiting = question(2);
    waiting.hypothesis = "LAB_ERROR_DEGRADATION".into();
    world.write(vec![Fact::Question(waiting.clone()), Fact::Question(question(1)), Fact::Experiment(experiment())]);
    world.write(vec![Fact::ExperimentEnd(won())]);
    for number in 10..1_200 {
        world.write(vec![Fact::Question(question(number)), Fact::QuestionEnd(no_more(&question(number)))]);
    }
    let room = open(&world).await;
    assert_eq!(room.proposals.next(SOON).await.unwrap().proposal.question, Some(question(1).question_id));
    let answered = no_more(&question(1));
    world.write(vec![Fact::QuestionEnd(answered.clone())]);
    room.socket.send(Msg::Answered(answered)).unwrap();
    assert_eq!(room.experiments.next(SOON).await.unwrap().question, waiting.question_id);
}

#[tokio::test]
async fn a_question_whose_message_was_lost_is_found_in_the_journal() {
    let world = World::with_env("");
    let room = open(&world).await;
    world.write(vec![Fact::Question(question(1))]);
    room.socket.send(Msg::Sweep).unwrap();
    assert_eq!(room.experiments.next(SOON).await.unwrap().id, experiment().id);
}

#[tokio::test]
async fn a_proposal_of_a_persons_file_is_held_while_the_deployer_is_down() {
    let world = World::with_env("");
    let (outlet, collected) = Outlet::collecting();
    let socket: Socket<crate::deployer::Msg> = Socket::new("deployer");
    let room = open_towards(&world, socket.outlet(crate::deployer::Msg::Proposed)).await;
    let proposal = Proposal {
        cycle: cycle(),
        origin: Origin::File("winner.json".into()),
        experiment: "lab_tuning".into(),
        question: None::<QuestionId>,
        hypothesis: None,
        domain: "lab".into(),
        settings: [(key("SEQS"), Value::Integer(12))].into(),
        fitness: None,
        at_ms: 0,
        depth: 0,
    };
    room.socket.send(Msg::Intended(Intent::Proposal(proposal))).unwrap();
    let spec = ChildSpec::actor("deployer", &socket, move || (Taker, outlet.clone()));
    let _tree = house(spec).await;
    room.socket.send(Msg::Sweep).unwrap();
    assert!(collected.next(SOON).await.unwrap().contains("winner.json"));
}

/// Lesson 20: an experiment that takes the daemon with it each time is not begun for ever.
#[tokio::test]
async fn an_experiment_that_was_tried_in_vain_too_often_ends_as_a_failure_with_the_reason() {
    let attempt = |trials| Fact::Attempt(Attempt { experiment: experiment().id, trials });
    let world = World::with_env("");
    world.write(vec![Fact::Question(question(1)), Fact::Experiment(experiment())]);
    world.write(vec![attempt(0); 4]);
    let room = open(&world).await;
    assert_eq!(room.experiments.next(SOON).await.unwrap(), experiment(), "four of five attempts were in vain");
    world.write(vec![attempt(0)]);
    room.restart().await;
    let end = room.ended.next(SOON).await.unwrap();
    assert_eq!(end.how, "broke_off", "no way to answer it is to blame");
    assert!(end.why.contains("5 times in a row") && end.why.contains("attempts_max"), "{}", end.why);
    assert_eq!(world.journal.count(Kind::ExperimentEnd), 1);
    room.restart().await;
    finish(&room.tree).await;
    assert!(room.experiments.taken().is_empty());
}

/// Lesson 15: what goes on after a restart goes past the limits no more than what begins.
#[tokio::test]
async fn experiments_of_an_earlier_life_go_on_one_by_one_and_before_anything_new() {
    let world = World::with_env("");
    let lab = catalogue();
    let tts = Domain { name: "tts".into(), ..lab.domains["lab"].clone() };
    let domains = lab.domains.clone().into_iter().chain([("tts".to_owned(), tts)]).collect();
    let both = Arc::new(Catalogue { domains, ..(*lab).clone() });
    let mut second =
        Experiment { id: ExperimentId::new("x-second"), question: QuestionId::new("second"), ..experiment() };
    second.spec.domain = "tts".into();
    world.write(vec![Fact::Experiment(experiment()), Fact::Experiment(second.clone())]);
    let room = open(&world).await;
    room.socket.send(Msg::Catalogued(both)).unwrap();
    let first = room.experiments.next(SOON).await.unwrap();
    let mut new = question(9);
    new.hypothesis = "LAB_ERROR_DEGRADATION".into();
    room.ask(new.clone());
    room.socket.send(Msg::Sweep).unwrap();
    finish_none(&room, &world).await;
    let no_better = |of: &Experiment| ExperimentEnd::NoBetter {
        experiment: of.id.clone(),
        why: "nothing".into(),
        front: Vec::new(),
    };
    room.socket.send(Msg::Ended(no_better(&first))).unwrap();
    let next = room.experiments.next(SOON).await.unwrap();
    assert_ne!(next.id, first.id);
    room.socket.send(Msg::Ended(no_better(&next))).unwrap();
    assert_eq!(room.experiments.next(SOON).await.unwrap().question, new.question_id);
}

/// Nothing was begun when the coordinator had heard all that it was told.
async fn finish_none(room: &Room, world: &World) {
    let (sent, heard) = tokio::sync::oneshot::channel();
    room.socket.send(Msg::Pulse(sent.into())).unwrap();
    heard.await.unwrap();
    assert!(room.experiments.taken().is_empty(), "{:?}", world.ends());
}

/// Lessons 13 and 16: an instance for which live services leave no memory is waited with, and not for ever.
#[tokio::test]
async fn an_experiment_waits_until_the_live_services_leave_room_for_its_instance_or_ends_with_the_reason() {
    let memory = |memory_mib| Load { memory_mib: Some(memory_mib), ..Load::default() };
    let world = World::with_env("");
    let leave = |left| {
        let live = [("lab".to_owned(), memory(600.0))].into();
        *world.capacity.0.lock().unwrap() = facts::Room { all: memory(2000.0), left: memory(left), live };
    };
    leave(500.0);
    let room = open(&world).await;
    room.ask(question(1));
    finish_none(&room, &world).await;
    leave(701.0);
    room.socket.send(Msg::Sweep).unwrap();
    assert_eq!(room.experiments.next(SOON).await.unwrap().id, experiment().id);
    // The next one never finds room.
    room.socket.send(Msg::Answered(no_more(&question(1)))).unwrap();
    let (why, cause) = ("it ended".into(), VoidCause::Infrastructure);
    room.socket.send(Msg::Ended(ExperimentEnd::Void { experiment: experiment().id, why, cause })).unwrap();
    leave(500.0);
    room.ask(question(2));
    room.socket.send(Msg::Sweep).unwrap();
    finish_none(&room, &world).await;
    world.clock.pass(3600);
    room.socket.send(Msg::Sweep).unwrap();
    let end = room.ended.next(SOON).await.unwrap();
    assert_eq!((end.question, end.how.as_str()), (question(2).question_id, "deferred"));
    assert!(end.why.contains("needs 600 MiB of memory, where live services leave 400 MiB"), "{}", end.why);
}

fn no_more(question: &Question) -> QuestionEnd {
    QuestionEnd {
        question: question.question_id.clone(),
        hypothesis: HYPOTHESIS.into(),
        domain: "lab".into(),
        how: "void".into(),
        why: "it ended".into(),
        eligible_at_ms: 0,
    }
}

/// Stands where the deployer stands.
struct Taker;

impl ractor::Actor for Taker {
    type Msg = crate::deployer::Msg;
    type State = Outlet<String>;
    type Arguments = Outlet<String>;

    async fn pre_start(
        &self,
        _: ractor::ActorRef<Self::Msg>,
        outlet: Outlet<String>,
    ) -> Result<Outlet<String>, ractor::ActorProcessingErr> {
        Ok(outlet)
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<Self::Msg>,
        msg: Self::Msg,
        outlet: &mut Outlet<String>,
    ) -> Result<(), ractor::ActorProcessingErr> {
        outlet.send(format!("{msg:?}"))?;
        Ok(())
    }
}

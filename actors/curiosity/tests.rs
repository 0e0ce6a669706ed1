//! Curiosity: what it asks, and what experience changes about that.

use kloros_supervision::{ChildSpec, Collected, Outlet, Socket, Tree};

use super::{Config, Curiosity, Exits, Msg};
use crate::{
    facts::{
        self, Anomaly, AnomalyKind, CycleId, Entry, ExperimentEnd, Fact, Intent, Kind, Lesson, Load, Question,
        QuestionEnd, QuestionId, Reason,
    },
    testing::{
        self, Ailment, SOON, World, catalogue, cycle, deployment_of, eventually, finish, house, promotion, rollback,
    },
};

struct Room {
    socket: Socket<Msg>,
    tree: Tree,
    intents: Collected<Intent>,
}

async fn open(world: &World) -> Room {
    let socket = Socket::new("curiosity");
    let (outlet, intents) = Outlet::collecting();
    let (exits, seams) = (Exits { intents: outlet }, world.seams());
    let spec = ChildSpec::actor("curiosity", &socket, move || {
        let (seams, exits, config) = (seams.clone(), exits.clone(), Config::default());
        (Curiosity, super::Arguments { seams, exits, config, catalogue: catalogue() })
    });
    Room { tree: house(spec).await, socket, intents }
}

fn anomaly(depth: u32) -> Anomaly {
    Anomaly {
        cycle: cycle(),
        subject: "lab".into(),
        metric: "e2e_p95_ms".into(),
        kind: AnomalyKind::Objective,
        observed: 2000.0,
        expected: 1500.0,
        spread: 0.0,
        score: 1.3,
        samples: 3,
        source: "http://127.0.0.1/metrics".into(),
        at_ms: 0,
        depth,
        incident: String::new(),
        evidence: Vec::new(),
        surge: None,
    }
}

impl Room {
    fn notice(&self) {
        self.socket.send(Msg::Noticed(anomaly(0))).unwrap();
    }

    async fn asked(&self) -> Question {
        let Intent::CuriosityQuestion(question) = self.intents.next(SOON).await.unwrap() else { panic!("no question") };
        question
    }

    /// Returns what was asked after everything sent so far was heard.
    async fn all_asked(self) -> usize {
        finish(&self.tree).await;
        self.intents.taken().len()
    }

    async fn restart(&self) {
        let old = self.socket.actor().unwrap().get_id();
        self.tree.kill("curiosity").unwrap();
        eventually(|| self.socket.actor().is_some_and(|actor| actor.get_id() != old)).await;
    }
}

fn end(question: &Question, eligible_at_ms: u64) -> QuestionEnd {
    QuestionEnd {
        question: question.question_id.clone(),
        hypothesis: question.hypothesis.clone(),
        domain: "lab".into(),
        how: "no_better".into(),
        why: String::new(),
        eligible_at_ms,
    }
}

#[tokio::test]
async fn an_anomaly_is_asked_about_once_while_its_question_is_open_also_after_a_restart() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.notice();
    assert_eq!(room.asked().await.hypothesis, "LAB_LATENCY_DEGRADATION");
    room.notice();
    room.restart().await;
    room.notice();
    assert_eq!(room.all_asked().await, 0);
    assert_eq!(world.journal.count(Kind::Question), 1);
}

#[tokio::test]
async fn a_question_that_ended_rests_and_is_then_asked_under_the_next_number() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.notice();
    let first = room.asked().await;
    let end = end(&first, 1_900_000);
    world.write(vec![Fact::QuestionEnd(end.clone())]);
    room.socket.send(Msg::Ended(end)).unwrap();
    room.notice();
    room.restart().await;
    room.notice();
    // A call would wait for what was sent before; a restart has shown that nothing was asked.
    room.socket.send(Msg::Reconfigured(Config::default())).unwrap();
    room.restart().await;
    assert!(room.intents.taken().is_empty());
    world.clock.pass(901);
    room.notice();
    let second = room.asked().await;
    assert_ne!(second.question_id, first.question_id);
    assert!(second.question_id.as_str().ends_with("002"));
}

/// Whoever writes into the inbox fills the journal with questions. Behind 5,000 facts of theirs nothing was remembered: the numbers
/// began anew, and a question that is there already is nobody's to answer.
#[tokio::test]
async fn what_was_asked_and_learned_is_known_however_much_others_asked_since() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.notice();
    let first = room.asked().await;
    world.write(vec![Fact::QuestionEnd(end(&first, 1_900_000))]);
    let others = (0..6_000).flat_map(|number| {
        let (question_id, hypothesis) = (QuestionId::new(format!("inbox.{number}")), format!("INBOX_{number}"));
        let other = Question { question_id, hypothesis, ..first.clone() };
        [Fact::QuestionEnd(end(&other, 0)), Fact::Question(other)].into_iter().rev().collect::<Vec<_>>()
    });
    world.write(others.collect());
    room.restart().await;
    room.notice();
    world.clock.pass(901);
    room.restart().await;
    room.notice();
    assert!(room.asked().await.question_id.as_str().ends_with("002"));
}

#[tokio::test]
async fn a_number_that_was_given_and_forgotten_is_not_given_again() {
    let world = World::with_env("");
    let given = Question { hypothesis: "SOMETHING_ELSE".into(), ..testing::question(1) };
    let entry = Entry::once(&cycle(), 0, format!("question:{}", given.question_id), Fact::Question(given.clone()));
    world.seams().journal.append(vec![entry]).await.unwrap();
    let room = open(&world).await;
    room.notice();
    let asked = room.asked().await;
    assert_eq!(asked.question_id.as_str(), "lab.latency_degradation.002");
    assert_eq!(asked.dream_experiment.name, "remediation_lab.latency_degradation.002");
    assert_eq!(world.journal.count(Kind::Question), 2);
}

/// Lessons 18 and 23: what is asked already is passed over silently, whatever its numbers say, and nothing is written down.
#[tokio::test]
async fn lesson_18_a_flood_of_anomalies_about_six_causes_becomes_six_questions() {
    let world = World::with_env("");
    let room = open(&world).await;
    let causes = ["e2e_p95_ms", "error_ratio", "waiting", "preemptions_per_s", "tokens_per_s", "memory_used_ratio"];
    for number in 0..6_000_u64 {
        let metric = causes[number as usize % causes.len()].to_owned();
        let seen = Anomaly { metric, observed: number as f64, at_ms: number, ..anomaly(0) };
        room.socket.send(Msg::Noticed(seen)).unwrap();
    }
    assert_eq!(room.all_asked().await, causes.len());
    assert_eq!(world.journal.count(Kind::Question), causes.len());
}

/// Lesson 19: what is meant to be as it is raises no question, however bad it looks.
#[tokio::test]
async fn lesson_19_about_a_domain_that_is_left_alone_nothing_is_asked() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.socket.send(Msg::Reconfigured(Config { leave_alone: vec!["lab".into()], ..Config::default() })).unwrap();
    room.notice();
    world.clock.pass(400 * 86_400);
    room.socket.send(Msg::Look).unwrap();
    assert_eq!(room.all_asked().await, 0);
    assert_eq!(world.journal.count(Kind::Question), 0);
}

/// After hours in which nothing happened it is asked by itself, once, also where the daemon was restarted after that.
#[tokio::test]
async fn in_idle_time_it_is_asked_whether_there_is_something_better_and_once_a_day() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.socket.send(Msg::Look).unwrap();
    world.clock.pass(7 * 3600);
    room.socket.send(Msg::Look).unwrap();
    let question = room.asked().await;
    assert_eq!(
        (question.hypothesis.as_str(), question.evidence[0].metric.as_str()),
        ("LAB_BETTER_SETTINGS", "quiet_s")
    );
    let end = QuestionEnd { hypothesis: question.hypothesis.clone(), ..end(&question, 0) };
    world.write(vec![Fact::QuestionEnd(end)]);
    room.restart().await;
    world.clock.pass(7 * 3600);
    room.socket.send(Msg::Look).unwrap();
    assert_eq!(room.all_asked().await, 0, "its day is not over");
}

/// Lesson 19: a service that is turned off, or ill, is not asked for better settings; it is again when it is well.
#[tokio::test]
async fn lesson_19_idle_time_asks_nothing_about_a_service_that_is_not_up() {
    let world = World::with_env("");
    let room = open(&world).await;
    world.clock.pass(7 * 3600);
    world.services.ail_after(0, Ailment::Hiccup);
    room.socket.send(Msg::Look).unwrap();
    assert_eq!(room.all_asked().await, 0);
    let room = open(&world).await;
    world.clock.pass(7 * 3600);
    room.socket.send(Msg::Look).unwrap();
    assert_eq!(room.all_asked().await, 1);
}

#[tokio::test]
async fn a_lesson_changes_what_is_asked_next() {
    let lesson = |number: i64| {
        let verdict = rollback(&deployment_of(promotion(&[("SEQS", number)])), Reason::Worse);
        Lesson {
            cycle: cycle(),
            domain: "lab".into(),
            question: verdict.question.clone(),
            hypothesis: verdict.hypothesis.clone(),
            fingerprint: String::new(),
            verdict,
            interest_change: -0.25,
            rest_until_ms: 0,
            avoid: true,
            says: String::new(),
        }
    };
    for (lessons, asked) in [(0, 1), (1, 1), (2, 0)] {
        for is_told in [true, false] {
            let world = World::with_env("");
            let all: Vec<Lesson> = (0..lessons).map(|number| lesson(number + 3)).collect();
            if !is_told {
                world.write(all.iter().cloned().map(Fact::Lesson).collect());
            }
            let room = open(&world).await;
            for lesson in all.into_iter().filter(|_| is_told) {
                room.socket.send(Msg::Learned(lesson)).unwrap();
            }
            room.notice();
            eventually(|| asked == 0 || world.journal.count(Kind::Question) == 1).await;
            assert_eq!(room.all_asked().await, asked, "{lessons} lessons, told: {is_told}");
        }
    }
}

#[tokio::test]
async fn what_the_daemon_itself_may_have_caused_is_asked_about_only_so_deep() {
    let world = World::with_env("");
    let room = open(&world).await;
    room.socket.send(Msg::Noticed(anomaly(4))).unwrap();
    room.socket.send(Msg::Noticed(anomaly(3))).unwrap();
    assert_eq!(room.asked().await.depth, 3);
}

/// Lesson 22: an experiment of ours took the memory of the GPU, and the daemon asked what took it.
#[tokio::test]
async fn lesson_22_pressure_on_the_machine_while_we_measure_is_asked_about_only_if_it_outlasts_that() {
    let world = World::with_env("");
    let load = |amount: f64| Load::each(|_| Some(amount));
    *world.capacity.0.lock().unwrap() =
        facts::Room { all: load(100.0), left: load(1.0), live: [("lab".to_owned(), load(90.0))].into() };
    let room = open(&world).await;
    world.write(vec![Fact::Experiment(testing::experiment())]);
    let short = |subject: &str| {
        let (subject, metric, at_ms) = (subject.into(), "memory_pressure_ratio".into(), world.seams().clock.now_ms());
        Anomaly { subject, metric, at_ms, kind: AnomalyKind::Pressure, ..anomaly(0) }
    };
    world.clock.pass(10);
    room.socket.send(Msg::Noticed(short("gpu:0123abcd"))).unwrap();
    room.socket.send(Msg::Noticed(short("lab"))).unwrap();
    assert_eq!(room.asked().await.hypothesis, "LAB_MEMORY_PRESSURE", "what is wrong with a service is another matter");
    let experiment = testing::experiment().id;
    world.write(vec![Fact::ExperimentEnd(ExperimentEnd::NoBetter {
        experiment,
        why: String::new(),
        front: Vec::new(),
    })]);
    world.clock.pass(30);
    room.socket.send(Msg::Noticed(short("gpu:0123abcd"))).unwrap();
    world.clock.pass(600);
    room.socket.send(Msg::Noticed(short("gpu:0123abcd"))).unwrap();
    let asked = room.asked().await;
    assert_eq!((asked.hypothesis.as_str(), asked.dream_experiment.domain.as_str()), ("GPU_MEMORY_PRESSURE", "lab"));
    assert_eq!(world.journal.count(Kind::Question), 2);
}

/// A message to a room that is being restarted is lost, and what happened once is not told a second time.
#[tokio::test]
async fn an_anomaly_that_was_told_while_nobody_listened_is_found_in_the_journal_and_an_old_one_is_not() {
    let of = |metric: &str, cycle: &str| Anomaly { metric: metric.into(), cycle: CycleId::new(cycle), ..anomaly(0) };
    let write = async |world: &World, anomaly: Anomaly| {
        let entry = Entry::new(&anomaly.cycle, world.seams().clock.now_ms(), Fact::Anomaly(anomaly.clone()));
        world.seams().journal.append(vec![entry]).await.unwrap();
    };
    let world = World::with_env("");
    write(&world, of("waiting", "c-old")).await;
    world.clock.pass(900);
    write(&world, of("e2e_p95_ms", "c-late")).await;
    let room = open(&world).await;
    let question = room.asked().await;
    assert_eq!((question.hypothesis.as_str(), question.cycle.as_str()), ("LAB_LATENCY_DEGRADATION", "c-late"));
    // Its question has ended and rests no more when the room starts again: it was heard.
    world.write(vec![Fact::QuestionEnd(end(&question, 0))]);
    room.restart().await;
    assert_eq!(room.all_asked().await, 0);
    assert_eq!(world.journal.count(Kind::Question), 1);
}

#[tokio::test]
async fn a_question_that_is_not_durable_is_not_asked() {
    let world = World::with_env("");
    let room = open(&world).await;
    world.journal.break_at(1);
    room.notice();
    eventually(|| world.journal.is_broken()).await;
    assert!(room.intents.taken().is_empty());
    world.journal.mend();
    room.notice();
    room.asked().await;
}

//! One experiment against a scripted bench, in a nursery as in the house.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use kloros_supervision::{ChildExit, ChildSpec, Collected, Nursery, Outlet, Restart, Socket, Strategy, Tree, TreeSpec};

use super::{Config, Exits, ExperimentActor, Msg};
use crate::{
    facts::{ExperimentEnd, Fact, FailureKind, Kind, Metrics, Outcome, QuestionEnd, Trial, Value},
    testing::{SOON, World, catalogue, eventually, experiment, failure, number, rate},
};

struct Room {
    world: World,
    nursery: Nursery,
    exits: Exits,
    ended: Collected<ExperimentEnd>,
    questions: Collected<QuestionEnd>,
    left: Collected<ChildExit>,
    _tree: Tree,
}

async fn open(world: &World) -> Room {
    let nursery = Nursery::new("experiments");
    let (outlet, left) = Outlet::collecting();
    nursery.on_exit(outlet);
    let spec = TreeSpec::new("house", Strategy::OneForOne).dynamic("experiments", &nursery);
    let tree = kloros_supervision::start(spec).await.unwrap();
    let (outlet, ended) = Outlet::collecting();
    let (questions_outlet, questions) = Outlet::collecting();
    let exits = Exits { ended: outlet, questions: questions_outlet };
    Room { world: world.clone(), nursery, exits, ended, questions, left, _tree: tree }
}

impl Room {
    async fn run(&self) -> Socket<Msg> {
        let arguments = super::Arguments {
            seams: self.world.seams(),
            exits: self.exits.clone(),
            config: Config { trial_timeout_s: 1, ..Config::default() },
            catalogue: catalogue(),
            experiment: experiment(),
            rest_s: 900,
        };
        let socket = Socket::new("x");
        let spec = ChildSpec::actor("x", &socket, move || (ExperimentActor, arguments.clone()));
        self.nursery.start_child(spec.restart(Restart::Temporary)).await.unwrap();
        socket
    }

    fn trials(&self) -> Vec<Trial> {
        let trial = |fact| match fact {
            Fact::Trial(trial) => Some(trial),
            _ => None,
        };
        self.world.journal.facts(&[Kind::Trial]).into_iter().filter_map(trial).collect()
    }
}

#[tokio::test]
async fn the_live_settings_go_first_and_the_best_that_was_measured_wins() {
    let world = World::with_env("SEQS=3\n");
    let room = open(&world).await;
    room.run().await;
    let ExperimentEnd::Won { winner, .. } = room.ended.next(SOON).await.unwrap() else { panic!("no winner") };
    let trials = room.trials();
    assert_eq!(trials[0].params["seqs"], Value::Integer(3));
    assert_eq!(trials[0].params["wait"], Value::Integer(20));
    assert!(winner.best.fitness > 0.0);
    let gain = winner.gain.expect("the best was measured again, so its spread is known");
    assert!(gain.low <= gain.ratio && gain.ratio <= gain.high, "{gain:?}");
    assert_eq!(winner.incumbent[&crate::testing::key("SEQS")], Value::Integer(3));
    assert_eq!(world.journal.count(Kind::Generation), 2);
    // The best and the live settings were measured twice more.
    assert_eq!(trials.len(), 8 + 4);
    assert!(world.ends().is_empty());
    let confirmed = &trials[trials.len() - 1];
    assert_eq!(confirmed.params, winner.best.params);
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_taken_to_run_with_its_env_file() {
    let world = World::with_env("SEQS=3\n");
    world.services.say(Some(Err(crate::seams::ServiceError::Unreachable("no answer".into()))));
    let room = open(&world).await;
    room.run().await;
    room.ended.next(SOON).await.unwrap();
    assert_eq!(room.trials()[0].params["seqs"], Value::Integer(3));
}

#[tokio::test]
async fn an_experiment_that_is_killed_mid_trial_goes_on_and_repeats_no_finished_trial() {
    let world = World::with_env("SEQS=2\n");
    let undisturbed = World::with_env("SEQS=2\n");
    let other = open(&undisturbed).await;
    other.run().await;
    let expected = other.ended.next(SOON).await.unwrap();

    let room = open(&world).await;
    for finished in [1, 3, 5, 9] {
        let begun = world.bench.begun().len();
        let calls = Arc::new(AtomicU32::new(0));
        let until = finished - room.trials().len() as u32;
        let (counted, bench) = (Arc::clone(&calls), Arc::downgrade(&world.bench));
        world.bench.script(move |assignment| {
            if counted.fetch_add(1, Ordering::SeqCst) + 1 == until
                && let Some(bench) = bench.upgrade()
            {
                bench.hang(true);
            }
            Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
        });
        let socket = room.run().await;
        eventually(|| world.bench.begun().len() == begun + until as usize + 1).await;
        let dropped = world.bench.dropped();
        socket.actor().unwrap().kill();
        room.left.next(SOON).await.unwrap();
        // The instance of the trial ends with it.
        eventually(|| world.bench.dropped() == dropped + 1).await;
        world.bench.hang(false);
        assert_eq!(room.trials().len(), finished as usize);
    }
    world.bench.script(|assignment| Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment)));
    room.run().await;
    assert_eq!(room.ended.next(SOON).await.unwrap(), expected);
    let tried = |room: &Room| room.trials().into_iter().map(|trial| trial.params).collect::<Vec<_>>();
    assert_eq!(tried(&room), tried(&other));
    assert_eq!(world.journal.count(Kind::Generation), 2);
}

#[tokio::test]
async fn when_everything_fails_the_experiment_is_void_after_the_live_settings_and_its_question_ends() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|_| Err(failure(FailureKind::DidNotStart)));
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Void { .. }));
    assert_eq!(room.trials().len(), 1);
    assert_eq!(room.questions.next(SOON).await.unwrap().how, "void");
}

#[tokio::test]
async fn when_all_candidates_of_the_first_generation_fail_no_second_one_is_tried() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        let is_live = assignment.label.contains("g1.t01");
        if is_live { Ok(rate(20.0, assignment)) } else { Err(failure(FailureKind::Died)) }
    });
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Void { .. }));
    assert_eq!(room.trials().len(), 4);
}

#[tokio::test]
async fn when_nothing_is_better_the_question_ends_and_rests() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        let is_live = number(&assignment.settings, "SEQS") == 2.0;
        Ok(rate(if is_live { 100.0 } else { 90.0 }, assignment))
    });
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::NoBetter { .. }));
    let end = room.questions.next(SOON).await.unwrap();
    assert_eq!((end.how.as_str(), end.eligible_at_ms), ("no_better", 1_900_000));
    assert_eq!(world.ends(), ["no_better"]);
}

#[tokio::test]
async fn a_bench_that_panics_or_hangs_costs_its_trial_and_the_experiment_goes_on() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        assert!(!assignment.label.contains("g1.t03"), "the bench fell over");
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Won { .. }));
    let trials = room.trials();
    let Outcome::Failed(failure) = &trials[2].outcome else { panic!("it was measured") };
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    assert_eq!(trials.iter().filter(|trial| matches!(trial.outcome, Outcome::Failed(_))).count(), 1);
}

#[tokio::test]
async fn a_trial_that_hangs_is_ended_and_counts_as_failed() {
    let world = World::with_env("SEQS=2\n");
    world.bench.hang(true);
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Void { .. }));
    let Outcome::Failed(failure) = &room.trials()[0].outcome else { panic!("it was measured") };
    assert_eq!(failure.kind, FailureKind::TimedOut);
}

#[tokio::test]
async fn a_trial_actor_that_is_killed_counts_as_failed_and_nothing_hangs() {
    let world = World::with_env("SEQS=2\n");
    world.bench.hang(true);
    let room = open(&world).await;
    let socket = room.run().await;
    eventually(|| world.bench.begun().len() == 1).await;
    for trial in socket.actor().unwrap().get_children() {
        trial.kill();
    }
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Void { .. }));
    let Outcome::Failed(failure) = &room.trials()[0].outcome else { panic!("it was measured") };
    assert_eq!(failure.kind, FailureKind::Infrastructure);
}

#[tokio::test]
async fn an_experiment_that_ended_and_is_run_again_tells_its_end_and_measures_nothing() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| Ok(rate(100.0, assignment)));
    let room = open(&world).await;
    room.run().await;
    let end = room.ended.next(SOON).await.unwrap();
    room.left.next(Duration::from_secs(5)).await.unwrap();
    let begun = world.bench.begun().len();
    room.run().await;
    assert_eq!(room.ended.next(SOON).await.unwrap(), end);
    assert_eq!(world.bench.begun().len(), begun);
    assert_eq!(world.journal.count(Kind::ExperimentEnd), 1);
    assert_eq!(world.ends().len(), 1);
}

#[tokio::test]
async fn a_metric_that_a_candidate_lacks_is_a_failure_to_the_search_and_no_number() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        let measured = rate(10.0 * number(&assignment.settings, "SEQS"), assignment);
        Ok(if assignment.label.contains("g1.t02") { Metrics::new() } else { measured })
    });
    let room = open(&world).await;
    room.run().await;
    let ExperimentEnd::Won { winner, .. } = room.ended.next(SOON).await.unwrap() else { panic!("no winner") };
    assert!(winner.best.metrics.contains_key("rate"));
}

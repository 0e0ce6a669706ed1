//! One experiment against a scripted bench, in a nursery as in the house.

mod in_place;

mod yielding;

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
    config::Catalogue,
    facts::{
        Budget, Calibration, Estimate, Experience, Experiment, ExperimentEnd, ExperimentId, Fact, FailureKind, Key,
        Kind, Limit, Load, Metrics, Noise, Outcome, PerUnit, QuestionEnd, QuestionId, Resource, Trial, Value,
        VoidCause, When,
    },
    testing::{SOON, World, catalogue, eventually, experiment, failure, key, number, rate},
};

struct Room {
    world: World,
    nursery: Nursery,
    exits: Exits,
    ended: Collected<ExperimentEnd>,
    questions: Collected<QuestionEnd>,
    left: Collected<ChildExit>,
    catalogue: Arc<Catalogue>,
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
    let (promotions, errands) = (Outlet::nowhere("gate"), Outlet::nowhere("deployer"));
    let exits = Exits { ended: outlet, questions: questions_outlet, promotions, errands };
    Room { world: world.clone(), nursery, exits, ended, questions, left, catalogue: catalogue(), _tree: tree }
}

impl Room {
    async fn run(&self) -> Socket<Msg> {
        self.run_of(experiment()).await
    }

    async fn run_of(&self, experiment: Experiment) -> Socket<Msg> {
        self.run_with(experiment, Config::default()).await
    }

    async fn run_with(&self, experiment: Experiment, config: Config) -> Socket<Msg> {
        self.run_patiently(experiment, Config { trial_timeout_s: 1, ..config }).await
    }

    async fn run_patiently(&self, experiment: Experiment, config: Config) -> Socket<Msg> {
        let arguments = super::Arguments {
            seams: self.world.seams(),
            exits: self.exits.clone(),
            config,
            catalogue: Arc::clone(&self.catalogue),
            experiment,
            rest_s: 900,
            spare: crate::facts::Load::default(),
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

/// An experiment in which the wait means something with one sequence alone.
fn conditional() -> Experiment {
    let mut experiment = experiment();
    let wait = experiment.spec.search_space.get_mut("wait").unwrap();
    wait.when = Some(When { param: "seqs".into(), r#in: vec![Value::Integer(1)] });
    experiment
}

#[tokio::test]
async fn an_inactive_parameter_is_neither_measured_with_nor_won_with() {
    let world = World::with_env("SEQS=3\nWAIT=7\n");
    let measured = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&measured);
    world.bench.script(move |assignment| {
        seen.lock().unwrap().push(assignment.settings.clone());
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = open(&world).await;
    room.run_of(conditional()).await;
    let ExperimentEnd::Won { winner, .. } = room.ended.next(SOON).await.unwrap() else { panic!("no winner") };
    assert_eq!(winner.best.params.keys().collect::<Vec<_>>(), ["seqs"]);
    assert_eq!(winner.incumbent.keys().map(Key::as_str).collect::<Vec<_>>(), ["SEQS"]);
    let trials = room.trials();
    assert_eq!(trials[0].params.keys().collect::<Vec<_>>(), ["seqs"]);
    for settings in measured.lock().unwrap().iter() {
        let one = number(settings, "SEQS") == 1.0;
        assert_eq!(settings.contains_key(&crate::testing::key("WAIT")), one, "{settings:?}");
    }
}

#[tokio::test]
async fn live_settings_that_no_knob_would_take_are_measured_first_all_the_same() {
    let world = World::with_env("SEQS=99\n");
    world.bench.script(|assignment| Ok(rate(100.0 / number(&assignment.settings, "SEQS"), assignment)));
    let room = open(&world).await;
    room.run().await;
    let ExperimentEnd::Won { winner, .. } = room.ended.next(SOON).await.unwrap() else { panic!("no winner") };
    let trials = room.trials();
    assert_eq!(trials[0].params["seqs"], Value::Integer(99));
    assert!(matches!(trials[0].outcome, Outcome::Measured(_)));
    assert!(
        trials[1..].iter().filter(|trial| trial.params["seqs"] == Value::Integer(99)).all(|trial| trial.generation > 2)
    );
    assert_eq!(winner.incumbent[&crate::testing::key("SEQS")], Value::Integer(99));
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
    // Each life left its mark before it measured.
    let marks = world.journal.facts(&[Kind::Attempt]).into_iter().map(|fact| match fact {
        Fact::Attempt(attempt) => attempt.trials,
        other => panic!("{other:?}"),
    });
    assert_eq!(marks.collect::<Vec<_>>(), [0, 1, 3, 5, 9]);
}

/// Runs an experiment to its end, as the coordinator would begin it.
async fn run_whole(room: &Room, experiment: &Experiment) -> ExperimentEnd {
    room.world.write(vec![Fact::Experiment(experiment.clone())]);
    room.run_of(experiment.clone()).await;
    let end = room.ended.next(SOON).await.unwrap();
    room.left.next(SOON).await.unwrap();
    end
}

fn second() -> Experiment {
    let (id, question) = (ExperimentId::new("x-2"), QuestionId::new("q-2"));
    Experiment { id, question, seed: 8, at_ms: 1_000_000, ..experiment() }
}

fn experiences(world: &World) -> Vec<Experience> {
    let experience = |fact| match fact {
        Fact::Experience(experience) => Some(experience),
        _ => None,
    };
    world.journal.facts(&[Kind::Experience]).into_iter().filter_map(experience).collect()
}

/// Returns the sequences that an experiment tried, in order.
fn tried(world: &World, experiment: &Experiment) -> Vec<i64> {
    let of_it = |fact| match fact {
        Fact::Trial(trial) if trial.experiment == experiment.id => {
            Some(trial.params["seqs"].as_number().unwrap() as i64)
        }
        _ => None,
    };
    world.journal.facts(&[Kind::Trial]).into_iter().filter_map(of_it).collect()
}

#[tokio::test]
async fn a_second_experiment_begins_where_the_first_one_ended() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world).await;
    run_whole(&room, &experiment()).await;
    assert_eq!(experiences(&world), [], "there was nothing to learn from");
    run_whole(&room, &second()).await;
    let known = experiences(&world);
    assert_eq!((known.len(), known[0].experiment.as_str(), known[0].trials.len()), (1, "x-2", 12));
    assert!(known[0].trials.iter().all(|trial| trial.from == experiment().id && trial.fitness.is_some()));
    let (first, again) = (tried(&world, &experiment()), tried(&world, &second()));
    assert_eq!((first[0], again[0]), (2, 2), "the live settings are first");
    assert!(again[1..4].iter().max() >= first[..8].iter().max(), "{first:?} {again:?}");
}

#[tokio::test]
async fn no_candidate_takes_more_than_the_machine_has_left_also_where_it_has_more_by_then() {
    let world = World::with_env("SEQS=2\n");
    let gpu = |amount| Load { gpu_memory_mib: Some(amount), ..Load::default() };
    let has =
        |left| crate::facts::Room { all: gpu(80.0), left: gpu(left), live: [("lab".to_owned(), gpu(12.0))].into() };
    *world.capacity.0.lock().unwrap() = has(20.0);
    let mut with_limits = (*catalogue()).clone();
    let seqs = with_limits.domains.get_mut("lab").unwrap().knobs.get_mut(&key("SEQS")).unwrap();
    seqs.takes = Some(PerUnit { gpu_memory_mib: Some(1.0), ..PerUnit::default() });
    // More is better, up to what there is: 12 of which 2 are the knob's are used, so 10 of the 20 are another instance's anyway.
    let bench = Arc::downgrade(&world.bench);
    world.bench.script(move |assignment| {
        if let Some(bench) = bench.upgrade().filter(|_| assignment.label.contains("g1.t03")) {
            bench.hang(true);
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = Room { catalogue: Arc::new(with_limits), ..open(&world).await };
    let socket = room.run_of(of(8, 3)).await;
    eventually(|| world.bench.begun().len() == 4).await;
    *world.capacity.0.lock().unwrap() = has(70.0);
    socket.actor().unwrap().kill();
    room.left.next(SOON).await.unwrap();
    world.bench.hang(false);
    world.bench.script(|assignment| Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment)));
    room.run_of(of(8, 3)).await;
    room.ended.next(SOON).await.unwrap();
    let limit = Limit { of: Resource::GpuMemory, each: [("seqs".to_owned(), 1.0)].into(), max: 10.0 };
    assert_eq!(experiences(&world)[0].limits, [limit]);
    let tried = tried(&world, &experiment());
    assert!(tried.iter().all(|seqs| *seqs <= 10) && tried.contains(&10), "{tried:?}");
}

/// Writes an experiment in which every setting crashed.
fn write_crashes(world: &World) {
    let elsewhere = Experiment { id: ExperimentId::new("x-3"), ..experiment() };
    let crashed = |number: u32| {
        let params = [("seqs", i64::from(number)), ("wait", 20)];
        let params = params.map(|(name, value)| (name.to_owned(), Value::Integer(value))).into();
        let (outcome, experiment) = (Outcome::Failed(failure(FailureKind::Died)), elsewhere.id.clone());
        Fact::Trial(Trial { experiment, generation: 1, number, params, outcome, at_ms: 0 })
    };
    let end = ExperimentEnd::NoBetter { experiment: elsewhere.id.clone(), why: String::new(), front: Vec::new() };
    let facts = (1..=64).map(crashed).chain([Fact::ExperimentEnd(end)]);
    world.write([Fact::Experiment(elsewhere.clone())].into_iter().chain(facts).collect());
}

#[tokio::test]
async fn an_experiment_that_is_resumed_knows_what_it_knew_when_it_began_and_nothing_newer() {
    let (world, undisturbed) = (World::with_env("SEQS=2\n"), World::with_env("SEQS=2\n"));
    let (room, other) = (open(&world).await, open(&undisturbed).await);
    for room in [&room, &other] {
        run_whole(room, &experiment()).await;
    }
    let expected = run_whole(&other, &second()).await;

    room.world.write(vec![Fact::Experiment(second())]);
    let bench = Arc::downgrade(&world.bench);
    world.bench.script(move |assignment| {
        if let Some(bench) = bench.upgrade().filter(|_| assignment.label.contains("g1.t03")) {
            bench.hang(true);
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let begun = world.bench.begun().len();
    let socket = room.run_of(second()).await;
    eventually(|| world.bench.begun().len() == begun + 4).await;
    socket.actor().unwrap().kill();
    room.left.next(SOON).await.unwrap();
    write_crashes(&world);
    world.bench.hang(false);
    world.bench.script(|assignment| Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment)));
    room.run_of(second()).await;
    assert_eq!(room.ended.next(SOON).await.unwrap(), expected);
    assert_eq!(tried(&world, &second()), tried(&undisturbed, &second()));
    assert_eq!(experiences(&world), experiences(&undisturbed));
}

#[tokio::test]
async fn an_experiment_that_is_told_not_to_learn_begins_anew() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world).await;
    run_whole(&room, &experiment()).await;
    room.world.write(vec![Fact::Experiment(second())]);
    room.run_with(second(), Config { earlier_max: 0, ..Config::default() }).await;
    room.ended.next(SOON).await.unwrap();
    assert_eq!(experiences(&world), []);
}

#[tokio::test]
async fn when_everything_fails_the_experiment_is_void_after_the_live_settings_and_its_question_ends() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|_| Err(failure(FailureKind::DidNotStart)));
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Void { .. }));
    assert_eq!(room.trials().len(), 1);
    assert_eq!(room.questions.next(SOON).await.unwrap().how, "unmeasured", "what was asked is not to blame");
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
    let ended = room.ended.next(SOON).await.unwrap();
    assert!(matches!(ended, ExperimentEnd::Void { cause: VoidCause::Infrastructure, .. }), "{ended:?}");
    assert_eq!(room.trials().len(), 4);
    assert_eq!(room.questions.next(SOON).await.unwrap().how, "unmeasured");
}

/// Once all that was left of the budget failed as well, and what was asked was blamed for it.
#[tokio::test]
async fn when_something_breaks_after_the_first_generation_the_experiment_ends_and_blames_nothing_that_was_asked() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        let worth = 10.0 + number(&assignment.settings, "SEQS") / 100.0;
        let is_first = assignment.label.contains(".g1.");
        if is_first { Ok(rate(worth, assignment)) } else { Err(failure(FailureKind::DidNotStart)) }
    });
    let room = open(&world).await;
    room.run_with(of(4, 6), Config { stop_below: 0.0, ..Config::default() }).await;
    let ended = room.ended.next(SOON).await.unwrap();
    let ExperimentEnd::Void { cause: VoidCause::Infrastructure, why, .. } = &ended else { panic!("{ended:?}") };
    assert!(why.contains("the last 4 candidates") && why.contains("did_not_start"), "{why}");
    assert_eq!(room.trials().len(), 8);
    assert_eq!(room.questions.next(SOON).await.unwrap().how, "unmeasured");
}

/// Returns the experiment with another budget.
fn of(max_candidates: u32, max_generations: u32) -> Experiment {
    let mut experiment = experiment();
    experiment.spec.budget = Budget::of(max_candidates, max_generations);
    experiment
}

/// Measures by the sequences, and lets `seconds` pass with each trial.
fn take(world: &World, seconds: u64) {
    let clock = Arc::clone(&world.clock);
    world.bench.script(move |assignment| {
        clock.pass(seconds);
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
}

#[tokio::test]
async fn a_search_whose_time_is_over_ends_with_what_it_has_as_after_an_early_stop() {
    let world = World::with_env("SEQS=2\n");
    take(&world, 300);
    let mut experiment = of(4, 6);
    experiment.spec.budget.wall_s = 1200;
    let room = open(&world).await;
    room.run_with(experiment, Config { stop_below: 0.0, ..Config::default() }).await;
    let ended = room.ended.next(SOON).await.unwrap();
    assert!(matches!(ended, ExperimentEnd::Won { .. }), "{ended:?}");
    // The first trial begins the time, four more spend it, and what is to be sure of is measured again.
    let searched = room.trials().iter().filter(|trial| trial.generation <= 6).count();
    assert_eq!((searched, room.trials().len()), (5, 5 + 4));
    assert_eq!(world.journal.count(Kind::Generation), 1, "the second generation is not whole");
}

#[tokio::test]
async fn the_time_goes_on_while_an_experiment_is_down_and_what_it_had_no_time_for_blames_nothing() {
    let world = World::with_env("SEQS=2\n");
    let mut experiment = of(4, 6);
    experiment.spec.budget.wall_s = 600;
    let room = open(&world).await;
    let bench = Arc::downgrade(&world.bench);
    world.bench.script(move |assignment| {
        if let Some(bench) = bench.upgrade().filter(|_| assignment.label.contains("g1.t02")) {
            bench.hang(true);
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let socket = room.run_of(experiment.clone()).await;
    eventually(|| world.bench.begun().len() == 3).await;
    socket.actor().unwrap().kill();
    room.left.next(SOON).await.unwrap();
    assert_eq!(room.trials().len(), 2);
    world.bench.hang(false);
    take(&world, 0);
    world.clock.pass(600);
    room.run_of(experiment).await;
    let ended = room.ended.next(SOON).await.unwrap();
    let ExperimentEnd::Void { cause: VoidCause::Infrastructure, why, .. } = &ended else { panic!("{ended:?}") };
    assert!(why.ends_with("its time of 600 s was over after 2 candidates (budget.wall_s)"), "{why}");
    assert_eq!(room.trials().len(), 2);
}

/// Writes that a validation of the lab tells effects of `resolves` and more from none.
fn write_calibration(world: &World, measured_by: &str, resolves: f64) {
    let improvement = Estimate { ratio: 0.0, low: -0.01, high: 0.01 };
    let noise = Noise { spread: 0.02, freedom: 9, improvement, resolves, blocks: 60, runs: 12, samples: 1200 };
    let (domain, measured_by) = ("lab".to_owned(), measured_by.to_owned());
    world.write(vec![Fact::Calibration(Calibration { domain, measured_by, outcome: Ok(noise), at_ms: 0 })]);
}

#[tokio::test]
async fn the_search_ends_where_less_is_expected_than_a_validation_could_tell_also_after_a_restart() {
    let measured_by = catalogue().domains["lab"].measured_by();
    let searched = |room: &Room| room.trials().iter().filter(|trial| trial.generation <= 6).count();
    let mut ends = Vec::new();
    for (by, resolves) in [("something else", 9.0), (measured_by.as_str(), 9.0)] {
        let world = World::with_env("SEQS=2\n");
        write_calibration(&world, by, resolves);
        take(&world, 1);
        let room = open(&world).await;
        room.run_with(of(4, 6), Config { stop_below: 1e-9, ..Config::default() }).await;
        room.ended.next(SOON).await.unwrap();
        ends.push(searched(&room));
    }
    // A sixth of the budget is spread out first, and the generation under way is filled.
    assert_eq!(ends[1], 8);
    assert!(ends[0] > 8, "{ends:?}");

    let world = World::with_env("SEQS=2\n");
    write_calibration(&world, &measured_by, 9.0);
    let bench = Arc::downgrade(&world.bench);
    world.bench.script(move |assignment| {
        if let Some(bench) = bench.upgrade().filter(|_| assignment.label.contains("g1.t03")) {
            bench.hang(true);
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = open(&world).await;
    let socket = room.run_of(of(4, 6)).await;
    eventually(|| world.bench.begun().len() == 4).await;
    socket.actor().unwrap().kill();
    room.left.next(SOON).await.unwrap();
    write_calibration(&world, &measured_by, 1e-9);
    world.bench.hang(false);
    take(&world, 1);
    room.run_with(of(4, 6), Config { stop_below: 1e-9, ..Config::default() }).await;
    room.ended.next(SOON).await.unwrap();
    assert_eq!(searched(&room), 8, "it is what it was when it began");
    assert_eq!(experiences(&world)[0].resolves, Some(9.0));
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

#[tokio::test]
async fn a_trial_is_told_what_others_usually_did_during_those_before_it() {
    let world = World::with_env("SEQS=2\n");
    world.bench.others(&[0.5, 0.9, 0.4, 0.6]);
    let room = open(&world).await;
    room.run().await;
    room.ended.next(SOON).await.unwrap();
    let usual = world.bench.usual();
    // The live settings come first; from then on the middle of what was seen, so that one burst moves nothing.
    assert_eq!(usual[..6], [None, Some(0.5), Some(0.5), Some(0.5), Some(0.5), Some(0.5)]);
    let Outcome::Measured(second) = &room.trials()[1].outcome else { panic!("it failed") };
    assert_eq!(second.others.and_then(|others| others.cpu), Some(0.9));
}

/// Lesson 14: what was measured beside others is not averaged in.
#[tokio::test]
async fn a_trial_that_others_disturbed_is_lost_and_blamed_on_nobody() {
    let world = World::with_env("SEQS=2\n");
    world.bench.script(|assignment| {
        // Of the repeated runs of the best, one is disturbed for good.
        if assignment.label.contains("g1.t02") || assignment.label.contains("g3.t02") {
            return Err(failure(FailureKind::Disturbed));
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = open(&world).await;
    room.run().await;
    assert!(matches!(room.ended.next(SOON).await.unwrap(), ExperimentEnd::Won { .. }));
}

/// Lesson 9: candidates far apart that score alike say that nobody applies them.
#[tokio::test]
async fn a_noisy_service_that_does_not_apply_its_parameters_voids_the_experiment_after_a_closer_look() {
    let world = World::with_env("SEQS=2\n");
    let calls = AtomicU32::new(0);
    world.bench.script(move |assignment| {
        // Whatever is set: a little noise, and more of it when one setting is measured again and again.
        let is_repeated = [".g3.", ".g4."].iter().any(|generation| assignment.label.contains(generation));
        let sign = if (calls.fetch_add(1, Ordering::SeqCst) / 2).is_multiple_of(2) { 1.0 } else { -1.0 };
        Ok([("rate".to_owned(), 100.0 + sign * if is_repeated { 1.0 } else { 0.1 })].into())
    });
    let room = open(&world).await;
    room.run_with(experiment(), Config { flat_candidates_min: 2, stop_below: 0.0, ..Config::default() }).await;
    let end = room.ended.next(SOON).await.unwrap();
    let ExperimentEnd::Void { why, cause: VoidCause::Flat, .. } = &end else {
        panic!("{end:?} after {:?}", room.trials())
    };
    assert!(why.contains("may not apply its parameters"), "{why}");
    let of = |generation: u32| room.trials().iter().filter(|trial| trial.generation == generation).count();
    // Live settings and the best took turns four times, and the worst came after them.
    assert_eq!((of(3), of(4)), (8, 4));
    assert_eq!(room.questions.next(SOON).await.unwrap().how, "void");
}

/// Once every further trial was measured four times in vain until the budget was spent.
#[tokio::test]
async fn a_load_that_came_to_stay_ends_the_experiment_before_its_budget_is_spent() {
    let world = World::with_env("SEQS=2\n");
    let calls = AtomicU32::new(0);
    world.bench.script(move |assignment| {
        if calls.fetch_add(1, Ordering::SeqCst) >= 5 {
            return Err(failure(FailureKind::Disturbed));
        }
        Ok(rate(10.0 * number(&assignment.settings, "SEQS"), assignment))
    });
    let room = open(&world).await;
    room.run_with(experiment(), Config { disturbed_max: 2, ..Config::default() }).await;
    let ended = room.ended.next(SOON).await.unwrap();
    // The best of it could not be measured again, so nothing is claimed, and the question is asked again later.
    let ExperimentEnd::Void { cause: VoidCause::Infrastructure, why, .. } = &ended else { panic!("{ended:?}") };
    assert!(why.contains("others disturbed the last 2 trials"), "{why}");
    assert_eq!(room.trials().len(), 7);
}

#[tokio::test]
async fn a_trial_is_ended_when_a_person_stops_everything_and_measured_anew_when_it_may_go_on() {
    let world = World::with_env("SEQS=2\n");
    let room = open(&world).await;
    world.bench.hang(true);
    let socket = room.run().await;
    eventually(|| world.bench.begun().len() == 1).await;
    world.switch.stop("smoke");
    socket.send(Msg::Look).unwrap();
    eventually(|| world.bench.dropped() == 1).await;
    world.bench.hang(false);
    assert!(room.trials().is_empty(), "what was cut off says nothing of the settings");
    world.switch.go();
    let ExperimentEnd::Won { .. } = room.ended.next(SOON).await.unwrap() else { panic!("nothing won") };
    let begun = world.bench.begun();
    assert_eq!(begun[0], begun[1]);
    assert_eq!(room.trials().len(), begun.len() - 1);
}

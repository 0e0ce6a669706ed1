//! However a supervisor ends, nobody outlives it; and whoever waits for an end hears of it.

use std::sync::{Arc, Mutex, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;

use crate::cases::*;
use crate::fixtures::in_time;

/// Returns where the supervisor named `id` below the root runs now.
async fn supervisor_cell(tree: &Tree, id: &str) -> ractor::ActorCell {
    let Some(Presence::Up(cell)) = presence(&root(tree), id).await else { panic!("{id} is not up") };
    cell
}

/// Panics when it is dropped.
struct Reluctant;

impl Drop for Reluctant {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "what the start function holds does not want to go");
    }
}

#[tokio::test(start_paused = true)]
async fn a_child_that_came_up_just_as_its_supervisor_was_killed_goes_with_it() {
    let (log, known) = (Log::default(), Arc::new(OnceLock::<Tree>::new()));
    let tree = Arc::clone(&known);
    // The word that it is up is on its way when the supervisor dies, and is heard by nobody.
    let kill = move |generation| {
        if generation == 2 {
            tree.get().unwrap().kill("mind").unwrap();
        }
    };
    let [b, a] = [Room::new("b", &log), with("a", &log, |habits| habits.when_starting = Some(Arc::new(kill)))];
    let mind = allowing(3, "mind", Strategy::OneForOne).child(b.spec()).child(a.spec());
    let tree = start(allowing(3, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
    known.set(tree.clone()).unwrap();
    a.tell(Order::Fail("ouch"));
    a.reaches(3).await;
    assert_eq!((a.alive(), b.alive()), (1, 1));
    tree.stop(LONG).await.unwrap();
    assert_eq!((a.alive(), b.alive()), (0, 0));
    assert!(a.socket.actor().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_stopped_by_its_own_cell_takes_its_children_along() {
    let log = Log::default();
    let [a, b] = rooms(&log, ["a", "b"]);
    let mind = allowing(3, "mind", Strategy::OneForOne).child(a.spec()).child(b.spec());
    let tree = start(allowing(3, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
    log.taken();
    supervisor_cell(&tree, "mind").await.stop(None);
    b.reaches(2).await;
    assert_eq!(log.taken(), ["down b", "down a", "start a", "up a", "start b", "up b"]);
    assert_eq!((a.alive(), b.alive()), (1, 1));
    tree.stop(LONG).await.unwrap();
    assert_eq!((a.alive(), b.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_panics_when_a_start_function_is_dropped_harms_nobody() {
    let log = Log::default();
    let (tree, nursery, _) = nursery(9).await;
    let [a, b] = rooms(&log, ["a", "b"]);
    nursery.start_child(b.spec()).await.unwrap();
    let (actor, reluctant) = (a.clone(), Reluctant);
    let make = move || {
        let _kept = &reluctant;
        (actor.clone(), ())
    };
    let spec = ChildSpec::actor("a", &a.socket, make).restart(Restart::Temporary);
    nursery.start_child(spec).await.unwrap();
    in_time(nursery.terminate_child("a")).await.unwrap();
    nursery.control().ping(LONG).await.unwrap();
    assert_eq!((a.alive(), b.generation().await), (0, 1));
    tree.stop(LONG).await.unwrap();
    assert_eq!(b.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_does_not_start_in_its_time_leaves_nobody_behind() {
    let log = Log::default();
    let b = Room::new("b", &log);
    let a = with("a", &log, |habits| habits.hangs_while_starting = true);
    let mind = allowing(3, "mind", Strategy::OneForOne).child(b.spec()).child(a.spec().start_within(LONG));
    let mind = ChildSpec::supervisor(mind).start_within(seconds(1));
    let before = Instant::now();
    let error = in_time(start(allowing(3, "house", Strategy::OneForOne).child(mind))).await.unwrap_err();
    assert!(matches!(error, StartError::Child { ref path, .. } if path.starts_with("mind")), "{error}");
    assert!(before.elapsed() < seconds(30), "{:?}", before.elapsed());
    until(|| b.alive() == 0).await;
    assert!(b.socket.actor().is_none());
    assert_eq!((a.starts.load(Ordering::SeqCst), b.starts.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_brutal_stop_of_a_supervisor_kills_all_below_it_at_once() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| with(id, &log, |habits| habits.stop_takes = seconds(4)));
    let x = Room::new("x", &log);
    let inner = allowing(3, "inner", Strategy::OneForOne).child(b.spec());
    let mind = allowing(3, "mind", Strategy::OneForOne).child(a.spec()).tree(inner);
    let mind = ChildSpec::supervisor(mind).shutdown(Shutdown::Brutal);
    let tree = start(allowing(3, "house", Strategy::OneForAll).child(x.spec()).child(mind)).await.unwrap();
    let mut events = tree.events();
    log.taken();
    let before = Instant::now();
    x.tell(Order::Fail("ouch"));
    b.reaches(2).await;
    let again = ["start x", "up x", "start a", "up a", "start b", "up b"];
    assert_eq!(log.taken(), again);
    assert_eq!([&a, &b, &x].map(Room::alive), [1, 1, 1]);

    tree.stop(LONG).await.unwrap();
    assert!(before.elapsed() < seconds(1), "{:?}", before.elapsed());
    assert_eq!(log.taken(), ["down x"]);
    assert_eq!([&a, &b, &x].map(Room::alive), [0, 0, 0]);
    assert!(told(&mut events).iter().all(|event| event.kind != EventKind::Leaked));
    assert!(!tree.snapshot().is_degraded());
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_takes_its_time_after_a_kill_is_not_called_leaked() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| with(id, &log, |habits| habits.stop_takes = seconds(4)));
    // Its children take longer than a kill is waited for, all together.
    let mind = allowing(3, "mind", Strategy::OneForOne).child(a.spec()).child(b.spec());
    let mind = ChildSpec::supervisor(mind).shutdown(Shutdown::Within(seconds(1))).kill_within(seconds(2));
    let tree = start(allowing(3, "house", Strategy::OneForOne).child(mind)).await.unwrap();
    let mut events = tree.events();
    root(&tree).terminate_child("mind").await.unwrap();
    assert_eq!((a.alive(), b.alive()), (0, 0));
    root(&tree).restart_child("mind").await.unwrap();
    assert_eq!((a.alive(), b.alive()), (1, 1));
    assert!(told(&mut events).iter().all(|event| event.kind != EventKind::Leaked));
    assert!(!tree.snapshot().is_degraded());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_start_that_comes_free_after_its_tree_has_ended_leaves_nobody_alive() {
    let log = Log::default();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    let a = with("a", &log, |habits| habits.blocks_while_starting = Some(Arc::new(Mutex::new(blocked))));
    let limit = Duration::from_millis(50);
    let spec = a.spec().start_within(limit).kill_within(limit);
    assert!(start(supervisor("house", Strategy::OneForOne).child(spec)).await.is_err());
    assert_eq!(log.lines(), ["start a"]);
    drop(release);
    until(|| log.lines().contains(&"up a".to_owned())).await;
    until(|| a.alive() == 0).await;
    assert!(a.socket.actor().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impatient_stop_while_children_restart_leaves_nobody_alive() {
    let log = Log::default();
    let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for round in 0..200 {
        let rooms = rooms(&log, ids);
        let all = || rooms.iter();
        let mind = all().fold(allowing(u32::MAX, "mind", Strategy::OneForOne), |mind, room| mind.child(room.spec()));
        let tree = start(allowing(u32::MAX, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        all().for_each(|room| room.tell(Order::Fail("ouch")));
        // The stop is to meet each step of a restart once.
        let met = std::time::Instant::now() + Duration::from_micros(round * 137 % 300);
        while std::time::Instant::now() < met {
            std::hint::spin_loop();
        }
        // Whether everybody was down in no time is a matter of luck.
        let _ = tree.stop(Duration::ZERO).await;
        until(|| all().all(|room| room.alive() == 0 && room.socket.actor().is_none())).await;
        log.taken();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impatient_stop_ends_a_tree_in_which_somebody_blocks_its_thread() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let spec = a.spec().shutdown(Shutdown::Unlimited).kill_within(Duration::from_millis(200));
    let tree = start(supervisor("house", Strategy::OneForOne).child(spec)).await.unwrap();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    until(|| tree.snapshot().find("a").unwrap().busy_for.is_some()).await;
    let late = tree.stop(Duration::ZERO).await.unwrap_err();
    assert_eq!(late.left, ["a"]);
    assert!(matches!(tokio::time::timeout(seconds(10), tree.ended()).await, Ok(Ended::GaveUp { .. })));
    drop(release);
    until(|| a.alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_loses_nobody() {
    let log = Log::default();
    let nursery = Nursery::new("trials");
    let (outlet, exits) = Outlet::collecting();
    nursery.on_exit(Outlet::to(|_| panic!("seen enough")));
    nursery.on_exit(outlet);
    let trials = TreeSpec::nursery("trials", &nursery).intensity(Intensity { restarts_max: 9, within: LONG });
    let tree = start(allowing(0, "house", Strategy::OneForOne).tree(trials)).await.unwrap();
    let [a, b] = rooms(&log, ["a", "b"]);
    nursery.start_child(a.spec()).await.unwrap();
    nursery.start_child(b.spec().restart(Restart::Temporary)).await.unwrap();
    a.tell(Order::Fail("ouch"));
    a.reaches(2).await;
    in_time(nursery.terminate_child("b")).await.unwrap();
    let told = exits.taken();
    assert_eq!(told.iter().map(|end| end.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    tree.stop(seconds(5)).await.unwrap();
    assert_eq!((a.alive(), b.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_called_off_before_it_began_never_begins() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = house(Strategy::OneForOne, &[]).await;
    let control = root(&tree);
    let (started, terminated) = tokio::join!(control.start_child(a.spec()), control.terminate_child("a"));
    assert!(matches!(started, Err(StartError::Child { ref path, .. }) if path == "a"), "{started:?}");
    terminated.unwrap();
    assert!(log.lines().is_empty(), "{:?}", log.lines());
    assert_eq!((a.starts.load(Ordering::SeqCst), presence(&control, "a").await), (0, None));
}

#[tokio::test(start_paused = true)]
async fn the_timers_of_a_supervisor_go_with_it() {
    let log = Log::default();
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let at_first = tasks();
    let for_ever = 100_000 * LONG;
    let slow = Backoff { first: for_ever, max: for_ever, ..at_once() };
    let [a, b] = rooms(&log, ["a", "b"]);
    let mind = allowing(u32::MAX, "mind", Strategy::OneForOne)
        .child(a.spec().stall_after(for_ever))
        .child(b.spec().backoff(slow));
    let mind = ChildSpec::supervisor(mind).failures_max(u32::MAX);
    let tree = start(allowing(u32::MAX, "house", Strategy::OneForOne).child(mind)).await.unwrap();
    let mut generation = 1;
    b.reaches(generation).await;
    let up = tasks();
    for _ in 0..20 {
        // Its second restart waits for a long time, and never comes.
        b.tell(Order::Fail("one"));
        generation += 1;
        b.reaches(generation).await;
        b.tell(Order::Fail("two"));
        until(|| matches!(state(&tree, "mind/b"), Some(State::Restarting { .. }))).await;
        tree.kill("mind").unwrap();
        generation += 1;
        b.reaches(generation).await;
    }
    until(|| tasks() <= up).await;
    tree.stop(LONG).await.unwrap();
    until(|| tasks() <= at_first).await;
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_tree_end_with_it() {
    let tree = house(Strategy::OneForOne, &[]).await;
    let mut events = tree.events();
    tree.stop(LONG).await.unwrap();
    let last = in_time(events.recv()).await.unwrap();
    assert_eq!((last.path.as_str(), last.kind), ("house", EventKind::Stopped));
    assert_eq!(in_time(events.recv()).await, Err(RecvError::Closed));
    // Who listens only now hears nothing, and does not wait for it.
    assert_eq!(in_time(tree.events().recv()).await, Err(RecvError::Closed));
}

//! Who is restarted, when, and how often.

use kloros_supervision::{Backoff, CallError, Ended, EventKind, Intensity, Restart, State, Strategy, TreeSpec, start};

use crate::fixtures::{Habits, LONG, Log, Order, Room, at_once, house, seconds, supervisor, until};

#[tokio::test(start_paused = true)]
async fn a_room_is_restarted_after_a_panic_an_error_and_a_kill_and_the_reason_is_kept() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    let failure = || tree.snapshot().find("a").unwrap().last_failure.clone().unwrap();

    a.tell(Order::Panic("ouch"));
    a.reaches(2).await;
    assert_eq!(failure(), "panicked: ouch");

    a.tell(Order::Fail("the disk is full"));
    a.reaches(3).await;
    assert_eq!(failure(), "failed: the disk is full");

    tree.kill("a").unwrap();
    a.reaches(4).await;
    assert_eq!(failure(), "killed");
}

#[tokio::test(start_paused = true)]
async fn a_panic_without_text_is_a_panic_like_any_other() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let _tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::PanicWithoutText);
    a.reaches(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_right_after_the_start_is_a_failure_like_any_other() {
    let log = Log::default();
    let a = Room::with("a", &log, Habits { fails_after_starting: true, ..Habits::default() });
    let _tree = house(Strategy::OneForOne, &[&a]).await;
    a.reaches(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_state_that_panics_when_dropped_harms_nobody_else() {
    let log = Log::default();
    let a = Room::with("a", &log, Habits { state_panics_when_dropped: true, ..Habits::default() });
    let b = Room::new("b", &log);
    let tree = house(Strategy::OneForOne, &[&a, &b]).await;
    for (order, generation) in [(Order::Stop, 2), (Order::Fail("bad"), 3)] {
        a.tell(order);
        a.reaches(generation).await;
    }
    tree.kill("a").unwrap();
    a.reaches(4).await;
    assert_eq!(b.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_transient_room_that_stopped_stays_down_and_one_that_was_killed_comes_back() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| Room::new(id, &log));
    let spec = supervisor("house", Strategy::OneForOne)
        .child(a.spec().restart(Restart::Transient))
        .child(b.spec().restart(Restart::Transient));
    let tree = start(spec).await.unwrap();
    a.tell(Order::Stop);
    tree.kill("b").unwrap();
    b.reaches(2).await;
    until(|| tree.snapshot().find("a").unwrap().state == State::Stopped).await;
    assert_eq!(log.lines().iter().filter(|line| *line == "up a").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_for_all_stops_the_others_in_reverse_and_starts_all_in_order() {
    let expected = ["down c", "down a", "start a", "up a", "start b", "up b", "start c", "up c"];
    check(Strategy::OneForAll, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_touches_only_what_started_later() {
    check(Strategy::RestForOne, &["down c", "start b", "up b", "start c", "up c"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_for_one_touches_nobody_else() {
    check(Strategy::OneForOne, &["start b", "up b"]).await;
}

async fn check(strategy: Strategy, expected: &[&str]) {
    let log = Log::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| Room::new(id, &log));
    let _tree = house(strategy, &[&a, &b, &c]).await;
    log.taken();
    b.tell(Order::Panic("ouch"));
    until(|| log.lines().len() >= expected.len()).await;
    b.reaches(2).await;
    assert_eq!(log.lines(), expected);
}

#[tokio::test(start_paused = true)]
async fn the_first_restart_is_immediate_and_the_next_waits_for_its_back_off() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let backoff = Backoff { first: seconds(4), max: seconds(60), jitter_ratio: 0.5, healthy_after: LONG };
    let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec().backoff(backoff))).await.unwrap();
    let mut events = tree.events();

    let before = tokio::time::Instant::now();
    a.tell(Order::Panic("ouch"));
    a.reaches(2).await;
    assert!(before.elapsed() < seconds(1));

    a.tell(Order::Panic("ouch"));
    until(|| matches!(tree.snapshot().find("a").unwrap().state, State::Restarting { .. })).await;
    a.reaches(3).await;
    let waited = before.elapsed();
    assert!((seconds(2)..=seconds(7)).contains(&waited), "{waited:?}");

    let mut delays = Vec::new();
    while let Ok(event) = events.try_recv() {
        if let EventKind::RestartScheduled { delay } = event.kind {
            delays.push((event.generation, delay));
        }
    }
    assert!(matches!(delays[..], [(1, first), (2, second)] if first.is_zero() && second >= seconds(2)), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_is_restarted_by_its_parent_with_a_clean_slate() {
    let log = Log::default();
    let [a, b, c] = ["a", "b", "c"].map(|id| Room::new(id, &log));
    let once = Intensity { restarts_max: 1, within: seconds(60) };
    let mind = TreeSpec::new("mind", Strategy::OneForOne).intensity(once).backoff(at_once());
    let mind = mind.child(b.spec()).child(c.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind)).await.unwrap();
    c.tell(Order::Panic("one"));
    c.reaches(2).await;
    log.taken();
    c.tell(Order::Panic("two"));
    c.reaches(3).await;
    assert_eq!(log.lines(), ["down b", "start b", "up b", "start c", "up c"]);
    c.tell(Order::Panic("three"));
    c.reaches(4).await;

    let snapshot = tree.snapshot();
    let mind = snapshot.find("mind").unwrap();
    assert_eq!((mind.restarts, mind.generation), (1, 2));
    assert!(mind.last_failure.as_ref().unwrap().contains("mind/c: panicked: two"), "{:?}", mind.last_failure);
    assert_eq!(snapshot.find("mind/c").unwrap().generation, 4);
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_failing_starts_ends_the_tree_and_never_spins() {
    let log = Log::default();
    let a = Room::with("a", &log, Habits { starts_failing_from: 2, ..Habits::default() });
    let tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::Panic("ouch"));
    assert_eq!(tree.ended().await, Ended::GaveUp { path: "a".to_owned(), reason: "the port is taken".to_owned() });
    assert_eq!(log.lines().iter().filter(|line| *line == "start a").count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_killed_comes_back_with_its_children() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| Room::new(id, &log));
    let mind = supervisor("mind", Strategy::OneForOne).child(b.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind)).await.unwrap();
    tree.kill("mind").unwrap();
    b.reaches(2).await;
    assert_eq!(a.generation().await, 1);
    tree.stop(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_failures_on_several_threads_leaves_everyone_up() {
    let log = Log::default();
    let rooms: Vec<Room> = (0..60).map(|index| Room::new(format!("room{index}").leak(), &log)).collect();
    let many = Intensity { restarts_max: 10_000, within: LONG };
    let strategies = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
    let mut spec = supervisor("house", Strategy::OneForOne).intensity(many);
    for (index, rooms) in rooms.chunks(10).enumerate() {
        let floor = TreeSpec::new(&format!("floor{index}"), strategies[index % 3]).intensity(many).backoff(at_once());
        spec = spec.tree(rooms.iter().fold(floor, |floor, room| floor.child(room.spec())));
    }
    let tree = start(spec).await.unwrap();
    for round in 0..20 {
        for (index, room) in rooms.iter().enumerate() {
            // A room that is down at the moment misses the order, which is just as good.
            let _ = match (index + round) % 3 {
                0 => room.socket.send(Order::Panic("ouch")).is_ok(),
                1 => tree.kill(room.id).is_ok(),
                _ => room.socket.send(Order::Stop).is_ok(),
            };
        }
        let _ = tree.kill("floor1");
        tokio::task::yield_now().await;
    }
    let mut before = generations(&rooms).await;
    let deadline = tokio::time::Instant::now() + seconds(10);
    loop {
        // Calm is when nobody was replaced while everybody answered after the orders that were still waiting.
        let now = generations(&rooms).await;
        let running = tree.snapshot().walk().iter().all(|place| place.state == State::Running);
        if running && now.iter().all(Result::is_ok) && now == before {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the storm does not calm down");
        before = now;
    }
    log.taken();
    tree.stop(seconds(10)).await.unwrap();
    assert_eq!(log.lines().iter().filter(|line| line.starts_with("down")).count(), rooms.len());
}

async fn generations(rooms: &[Room]) -> Vec<Result<u32, CallError>> {
    let mut answers = Vec::new();
    for room in rooms {
        answers.push(room.socket.call(Order::Echo, seconds(1)).await);
    }
    answers
}

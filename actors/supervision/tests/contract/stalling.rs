//! A handler that makes no progress is a failure.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kloros_supervision::{EventKind, Nursery, Outlet, StartError, Strategy, start};

use crate::fixtures::{Habits, LONG, Log, Order, Room, seconds, supervisor, until};

/// Lesson 35: the absence of progress is what is watched, by the clock.
#[tokio::test(start_paused = true)]
async fn a_handler_without_progress_is_killed_and_its_room_restarted_within_twice_the_limit() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec().stall_after(seconds(4)))).await.unwrap();
    let mut events = tree.events();
    let before = tokio::time::Instant::now();
    a.tell(Order::Hang);
    a.reaches(2).await;
    let took = before.elapsed();
    assert!((seconds(4)..seconds(8)).contains(&took), "{took:?}");
    let stalled = std::iter::from_fn(|| events.try_recv().ok());
    assert_eq!(stalled.filter(|event| matches!(event.kind, EventKind::Stalled { .. })).count(), 1);
    let failure = tree.snapshot().find("a").unwrap().last_failure.clone().unwrap();
    assert!(failure.starts_with("failed: it made no progress for"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_long_handler_that_reports_progress_is_left_alone() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let _tree = start(supervisor("house", Strategy::OneForOne).child(a.spec().stall_after(seconds(4)))).await.unwrap();
    a.tell(Order::Work { step: seconds(3), steps: 20 });
    a.tell(Order::WorkElsewhere { step: seconds(3), steps: 20 });
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_room_never_stalls() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let _tree = start(supervisor("house", Strategy::OneForOne).child(a.spec().stall_after(seconds(4)))).await.unwrap();
    tokio::time::advance(seconds(100)).await;
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn progress_outside_of_a_handler_does_nothing() {
    kloros_supervision::progress();
}

// A thread that is blocked for good needs a second one to notice it, and real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_given_up_and_its_room_replaced() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let limit = Duration::from_millis(40);
    let spec = a.spec().stall_after(limit).kill_within(limit);
    let tree = start(supervisor("house", Strategy::OneForOne).child(spec)).await.unwrap();
    let mut events = tree.events();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    a.reaches(2).await;
    let kinds: Vec<EventKind> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.kind).collect();
    assert!(kinds.contains(&EventKind::Leaked), "{kinds:?}");

    // When the blocked one comes free at last, it is gone and the new one still there.
    drop(release);
    tree.stop(seconds(5)).await.unwrap();
    until(|| log.lines().contains(&"down a".to_owned())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_blocks_its_thread_is_given_up_and_never_takes_the_socket_of_its_successor() {
    let log = Log::default();
    let nursery = Nursery::new("trials");
    let (outlet, exits) = Outlet::collecting();
    nursery.on_exit(outlet);
    let tree = start(supervisor("house", Strategy::OneForOne).dynamic("trials", &nursery)).await.unwrap();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    let habits = Habits { blocks_while_starting: Some(Arc::new(Mutex::new(blocked))), ..Habits::default() };
    let a = Room::with("a", &log, habits);
    let limit = Duration::from_millis(20);
    let spec = || a.spec().start_within(limit).kill_within(limit);
    let blocked = nursery.start_child(spec()).await.unwrap_err();
    assert!(matches!(blocked, StartError::Child { .. }), "{blocked}");
    nursery.start_child(spec().start_within(LONG)).await.unwrap();
    assert_eq!(a.generation().await, 2);

    drop(release);
    until(|| log.lines().iter().filter(|line| *line == "up a").count() == 2).await;
    assert_eq!(a.generation().await, 2);
    tree.stop(seconds(5)).await.unwrap();
    assert_eq!(exits.taken().len(), 1);
}

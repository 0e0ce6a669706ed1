//! Children stop in reverse order, gracefully, and within their time.

use kloros_supervision::{Ended, Shutdown, Strategy, start};

use crate::fixtures::{Habits, LONG, Log, Order, Room, house, seconds, supervisor};

#[tokio::test(start_paused = true)]
async fn a_tree_stops_in_reverse_with_leaves_before_their_supervisor() {
    let log = Log::default();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| Room::new(id, &log));
    let mind = supervisor("mind", Strategy::OneForOne).child(b.spec()).child(c.spec());
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec());
    let tree = start(spec).await.unwrap();
    log.taken();
    tree.stop(LONG).await.unwrap();
    assert_eq!(log.lines(), ["down d", "down c", "down b", "down a"]);
    assert_eq!(tree.ended().await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_does_not_stop_in_its_time_is_killed_and_the_others_still_get_theirs() {
    let log = Log::default();
    let [a, c] = ["a", "c"].map(|id| Room::new(id, &log));
    let b = Room::with("b", &log, Habits { hangs_while_stopping: true, ..Habits::default() });
    let spec = supervisor("house", Strategy::OneForOne)
        .child(a.spec())
        .child(b.spec().shutdown(Shutdown::Within(seconds(3))))
        .child(c.spec());
    let tree = start(spec).await.unwrap();
    log.taken();
    let before = tokio::time::Instant::now();
    tree.stop(LONG).await.unwrap();
    assert_eq!(log.lines(), ["down c", "down a"]);
    let took = before.elapsed();
    assert!((seconds(3)..seconds(4)).contains(&took), "{took:?}");
    assert_eq!(tree.snapshot().find("b").unwrap().last_failure.as_deref(), Some("killed"));
}

#[tokio::test(start_paused = true)]
async fn a_brutal_shutdown_runs_no_post_stop() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Brutal));
    let tree = start(spec).await.unwrap();
    log.taken();
    tree.stop(LONG).await.unwrap();
    assert!(log.lines().is_empty());
    assert_eq!(tree.snapshot().find("a").unwrap().last_failure, None);
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_shutdown_waits_as_long_as_it_takes() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Unlimited));
    let tree = start(spec).await.unwrap();
    a.tell(Order::Work { step: seconds(500), steps: 1 });
    tree.stop(LONG).await.unwrap();
    assert_eq!(log.lines(), ["start a", "up a", "down a"]);
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_does_not_stop_in_time_is_killed_and_named() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| Room::new(id, &log));
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).child(b.spec().shutdown(Shutdown::Unlimited));
    let tree = start(spec).await.unwrap();
    b.tell(Order::Hang);
    let error = tree.stop(seconds(2)).await.unwrap_err();
    assert_eq!(error.left, ["a", "b"]);
    assert!(matches!(tree.ended().await, Ended::GaveUp { .. }));
    assert!(a.socket.actor().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_child_that_panics_while_stopping_does_not_hold_up_the_others() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let b = Room::with("b", &log, Habits { panics_while_stopping: true, ..Habits::default() });
    let tree = house(Strategy::OneForOne, &[&a, &b]).await;
    log.taken();
    tree.stop(LONG).await.unwrap();
    assert_eq!(log.lines(), ["down a"]);
    let failure = tree.snapshot().find("b").unwrap().last_failure.clone();
    assert_eq!(failure.as_deref(), Some("panicked: no stop today"));
}

#[tokio::test(start_paused = true)]
async fn stopping_twice_at_once_returns_to_both() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    let (first, second) = tokio::join!(tree.stop(LONG), tree.stop(LONG));
    first.unwrap();
    second.unwrap();
    tree.stop(LONG).await.unwrap();
}

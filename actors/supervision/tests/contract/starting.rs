//! Children start in order, or not at all.

use kloros_supervision::{Intensity, Socket, SpecError, StartError, Strategy, TreeSpec, start};

use crate::fixtures::{Habits, Log, Room, house, seconds, supervisor, until};

#[tokio::test(start_paused = true)]
async fn a_tree_without_children_starts_and_stops() {
    let tree = house(Strategy::OneForOne, &[]).await;
    assert!(tree.snapshot().children.is_empty());
    tree.stop(seconds(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn children_start_one_after_the_other_in_the_order_of_the_spec() {
    let log = Log::default();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| Room::new(id, &log));
    let mind = supervisor("mind", Strategy::OneForOne).child(b.spec()).child(c.spec());
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec());
    start(spec).await.unwrap();
    assert_eq!(log.lines(), ["start a", "up a", "start b", "up b", "start c", "up c", "start d", "up d"]);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_undoes_the_earlier_ones_in_reverse_and_names_the_child() {
    let habits = Habits { starts_failing_from: 1, ..Habits::default() };
    check(habits, "the port is taken").await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_panics_is_a_start_that_fails() {
    let habits = Habits { panics_while_starting: true, ..Habits::default() };
    check(habits, "panicked: no start today").await;
}

#[tokio::test(start_paused = true)]
async fn a_start_that_never_returns_is_a_start_that_fails() {
    let habits = Habits { hangs_while_starting: true, ..Habits::default() };
    check(habits, "it did not start within 2s").await;
}

async fn check(habits: Habits, expected: &str) {
    let log = Log::default();
    let [a, b, d] = ["a", "b", "d"].map(|id| Room::new(id, &log));
    let c = Room::with("c", &log, habits);
    let mind = supervisor("mind", Strategy::OneForOne).child(b.spec()).child(c.spec().start_within(seconds(2)));
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec());
    let error = start(spec).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "mind/c".to_owned(), reason: expected.to_owned() });
    assert_eq!(log.lines(), ["start a", "up a", "start b", "up b", "start c", "down b", "down a"]);
    assert!(a.socket.actor().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_spec_that_makes_no_sense_is_refused_before_anything_starts() {
    let log = Log::default();
    let [a, slash, nameless] = ["a", "a/b", ""].map(|id| Room::new(id, &log));
    let house = || TreeSpec::new("house", Strategy::OneForOne);
    let no_window = Intensity { restarts_max: 1, within: seconds(0) };
    let refused = [
        house().child(a.spec()).child(a.spec()),
        house().child(a.spec()).child(slash.spec()),
        house().child(a.spec()).child(nameless.spec()),
        house().child(a.spec()).intensity(no_window),
        house().child(a.spec()).child(a.spec().stall_after(seconds(0))),
        house().child(a.spec()).tree(house().tree(house().child(slash.spec()))),
    ];
    for spec in refused {
        assert!(matches!(start(spec).await, Err(StartError::Spec(_))));
    }
    let nan = kloros_supervision::Backoff { jitter_ratio: f64::NAN, ..Default::default() };
    let error = start(house().child(a.spec().backoff(nan))).await.unwrap_err();
    assert!(matches!(error, StartError::Spec(SpecError::BadJitter { .. })));
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_maker_that_panics_is_a_start_that_fails() {
    let socket = Socket::new("a");
    let spec = kloros_supervision::ChildSpec::actor("a", &socket, || -> (Room, ()) { panic!("no room for a room") });
    let error = start(TreeSpec::new("house", Strategy::OneForOne).child(spec)).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "a".to_owned(), reason: "no room for a room".to_owned() });
}

#[tokio::test(start_paused = true)]
async fn a_tree_whose_starter_stops_waiting_is_undone() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let b = Room::with("b", &log, Habits { hangs_while_starting: true, ..Habits::default() });
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).child(b.spec());
    assert!(tokio::time::timeout(seconds(1), start(spec)).await.is_err());
    until(|| log.lines().last().is_some_and(|line| line == "down a")).await;
}

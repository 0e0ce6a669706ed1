//! The snapshot and the events tell what is so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kloros_supervision::{
    ChildSpec, EVENTS_TOTAL, Event, EventKind, Kind, Nursery, State, Strategy, UnknownChild, start,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use tokio::sync::broadcast;

use crate::fixtures::{LONG, Log, Order, Room, seconds, supervisor, until};

#[tokio::test(start_paused = true)]
async fn a_snapshot_counts_what_was_handled_what_waits_and_how_long_it_takes() {
    let log = Log::default();
    let [a, b] = ["a", "b"].map(|id| Room::new(id, &log));
    let mind = supervisor("mind", Strategy::OneForOne).child(a.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).tree(mind).child(b.spec())).await.unwrap();
    a.generation().await;
    a.tell(Order::Panic("ouch"));
    a.reaches(2).await;
    a.tell(Order::Work { step: seconds(500), steps: 1 });
    a.tell(Order::Stop);
    a.tell(Order::Stop);
    let room = || tree.snapshot().find("mind/a").unwrap().clone();
    until(|| room().busy_for.is_some_and(|busy| busy >= seconds(5))).await;

    let room = room();
    assert_eq!((room.id.as_str(), room.kind, room.state), ("a", Kind::Actor, State::Running));
    assert_eq!((room.generation, room.restarts, room.handled, room.depth), (2, 1, 3, 2));
    assert_eq!(room.last_failure.as_deref(), Some("panicked: ouch"));
    assert!(room.uptime.unwrap() >= seconds(5));

    let snapshot = tree.snapshot();
    assert_eq!((snapshot.path.as_str(), snapshot.kind, snapshot.state), ("house", Kind::Supervisor, State::Running));
    let paths: Vec<&str> = snapshot.walk().into_iter().map(|place| place.path.as_str()).collect();
    assert_eq!(paths, ["house", "mind", "mind/a", "b"]);
    let idle = snapshot.find("b").unwrap();
    assert_eq!((idle.handled, idle.depth, idle.busy_for), (0, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_tree_shows_nobody_running() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let mind = supervisor("mind", Strategy::OneForOne).child(a.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).tree(mind)).await.unwrap();
    tree.stop(LONG).await.unwrap();
    assert!(tree.snapshot().walk().iter().all(|place| place.state == State::Stopped && place.uptime.is_none()));
}

#[tokio::test(start_paused = true)]
async fn who_is_started_again_does_not_wait_until_its_failure_is_told() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let heard = Arc::new(Mutex::new(None::<broadcast::Receiver<Event>>));
    let room = (a.clone(), Arc::clone(&heard), log.clone());
    let made = move || {
        let (room, heard, log) = &room;
        let told = heard.lock().unwrap().as_mut().map_or(0, |events| events.len());
        log.note(format!("{told} told"));
        (room.clone(), ())
    };
    let child = ChildSpec::actor("a", &a.socket, made);
    let tree = start(supervisor("house", Strategy::OneForOne).child(child)).await.unwrap();
    *heard.lock().unwrap() = Some(tree.events());
    a.tell(Order::Fail("bad"));
    a.reaches(2).await;
    assert_eq!(log.lines(), ["0 told", "start a", "up a", "0 told", "start a", "up a"]);
    until(|| heard.lock().unwrap().as_ref().is_some_and(|events| events.len() == 4)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_subscribes_when_the_tree_is_up_hears_nothing_of_how_it_came_up() {
    for _ in 0..300 {
        let log = Log::default();
        let a = Room::new("a", &log);
        let mind = supervisor("mind", Strategy::OneForOne).child(a.spec());
        let tree = start(supervisor("house", Strategy::OneForOne).tree(mind)).await.unwrap();
        let mut events = tree.events();
        tree.control("house").unwrap().ping(LONG).await.unwrap();
        assert!(matches!(events.try_recv(), Err(broadcast::error::TryRecvError::Empty)));
        tree.stop(LONG).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_is_told_with_path_and_generation() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree =
        start(supervisor("house", Strategy::OneForOne).tree(supervisor("mind", Strategy::OneForOne).child(a.spec())))
            .await
            .unwrap();
    let mut events = tree.events();
    a.tell(Order::Fail("bad"));
    a.reaches(2).await;
    tree.stop(LONG).await.unwrap();
    let told: Vec<(String, u64, EventKind)> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| (event.path, event.generation, event.kind)).collect();
    let expected = [
        ("mind/a", 1, EventKind::Lost { handling: Some("contract::fixtures::Order"), waiting: 0 }),
        (
            "mind/a",
            1,
            EventKind::Failed { reason: "failed: bad".to_owned(), handling: Some("contract::fixtures::Order") },
        ),
        ("mind/a", 1, EventKind::RestartScheduled { delay: seconds(0) }),
        ("mind/a", 2, EventKind::Started),
        ("mind/a", 2, EventKind::Stopped),
        ("mind", 1, EventKind::Stopped),
        ("house", 1, EventKind::Stopped),
    ];
    assert_eq!(told, expected.map(|(path, generation, kind)| (path.to_owned(), generation, kind)));
}

/// Returns how often each step was counted, by the supervisor and the step.
fn counted(work: impl Future<Output = ()>) -> BTreeMap<(String, String), u64> {
    let recorder = DebuggingRecorder::new();
    let counters = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(work));
    counters
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| {
            assert_eq!(key.key().name(), EVENTS_TOTAL);
            let labels: BTreeMap<&str, &str> = key.key().labels().map(|label| (label.key(), label.value())).collect();
            let DebugValue::Counter(count) = value else { panic!("it is no counter") };
            ((labels["supervisor"].to_owned(), labels["event"].to_owned()), count)
        })
        .collect()
}

// Each of the supervisors that a nursery is given was a series of its own, without end.
#[test]
fn what_stands_below_a_nursery_is_counted_with_the_nursery() {
    let counted = counted(async {
        let log = Log::default();
        let nursery = Nursery::new("trials");
        let tree = start(supervisor("house", Strategy::OneForOne).dynamic("trials", &nursery)).await.unwrap();
        for id in ["one", "two"] {
            let inner = supervisor("inner", Strategy::OneForOne).child(Room::new("a", &log).spec());
            let trial = supervisor(id, Strategy::OneForOne).tree(inner);
            nursery.start_child(ChildSpec::supervisor(trial)).await.unwrap();
        }
        tree.stop(LONG).await.unwrap();
    });
    let expected = [("", "started", 2), ("", "stopped", 2), ("trials", "started", 6), ("trials", "stopped", 6)];
    assert_eq!(counted, expected.map(|(path, kind, count)| ((path.to_owned(), kind.to_owned()), count)).into());
}

#[test]
fn each_step_is_counted_by_supervisor_and_kind() {
    let counted = counted(async {
        let log = Log::default();
        let a = Room::new("a", &log);
        let mind = supervisor("mind", Strategy::OneForOne).child(a.spec());
        let tree = start(supervisor("house", Strategy::OneForOne).tree(mind)).await.unwrap();
        a.tell(Order::Fail("bad"));
        a.reaches(2).await;
        tree.stop(LONG).await.unwrap();
    });
    let expected = [
        ("", "started", 2),
        ("", "stopped", 2),
        ("mind", "failed", 1),
        ("mind", "messages_lost", 1),
        ("mind", "restart_scheduled", 1),
        ("mind", "started", 2),
        ("mind", "stopped", 1),
    ];
    assert_eq!(counted, expected.map(|(path, kind, count)| ((path.to_owned(), kind.to_owned()), count)).into());
}

#[tokio::test(start_paused = true)]
async fn a_kill_finds_a_child_by_path_or_by_unique_id_and_says_when_it_cannot() {
    let log = Log::default();
    let [a, b, other_b] = ["a", "b", "b"].map(|id| Room::new(id, &log));
    let mind = supervisor("mind", Strategy::OneForOne).child(a.spec()).child(b.spec());
    let body = supervisor("body", Strategy::OneForOne).child(other_b.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).tree(mind).tree(body)).await.unwrap();
    tree.kill("a").unwrap();
    a.reaches(2).await;
    tree.kill("body/b").unwrap();
    other_b.reaches(2).await;
    assert_eq!(b.generation().await, 1);
    let ambiguous = UnknownChild::Ambiguous { id: "b".into(), paths: vec!["mind/b".into(), "body/b".into()] };
    assert_eq!(tree.kill("b"), Err(ambiguous));
    assert_eq!(tree.kill("c"), Err(UnknownChild::Absent { path: "c".to_owned() }));
    tree.stop(LONG).await.unwrap();
    assert_eq!(tree.kill("a"), Err(UnknownChild::NotRunning { path: "mind/a".to_owned() }));
}

#[tokio::test(start_paused = true)]
async fn many_children_that_fail_at_once_all_come_back() {
    let log = Log::default();
    let rooms: Vec<Room> = (0..100).map(|index| Room::new(format!("room{index}").leak(), &log)).collect();
    let many = kloros_supervision::Intensity { restarts_max: 100, within: seconds(60) };
    let spec = rooms
        .iter()
        .fold(supervisor("house", Strategy::OneForOne).intensity(many), |spec, room| spec.child(room.spec()));
    let tree = start(spec).await.unwrap();
    for room in &rooms {
        room.tell(Order::Panic("ouch"));
    }
    for room in &rooms {
        room.reaches(2).await;
    }
    tree.stop(LONG).await.unwrap();
}

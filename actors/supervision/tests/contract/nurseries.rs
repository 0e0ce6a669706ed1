//! Children that come and go at run time.

use kloros_supervision::{
    Backoff, ChildError, ChildExit, Collected, Exit, Nursery, Outlet, Restart, Shutdown, StartError, State, Strategy,
    Tree, start,
};

use crate::fixtures::{Habits, LONG, Log, Order, Room, seconds, supervisor, until};

async fn nursery() -> (Tree, Nursery, Collected<ChildExit>) {
    let nursery = Nursery::new("trials");
    let (outlet, exits) = Outlet::collecting();
    nursery.on_exit(outlet);
    let tree = start(supervisor("house", Strategy::OneForOne).dynamic("trials", &nursery)).await.unwrap();
    (tree, nursery, exits)
}

#[tokio::test(start_paused = true)]
async fn each_end_is_reported_once_and_nobody_is_started_again() {
    let log = Log::default();
    let (tree, nursery, exits) = nursery().await;
    let orders = [Order::Stop, Order::Fail("no gpu"), Order::Panic("ouch")];
    let expected = [Exit::Normal, Exit::Failed("no gpu".to_owned()), Exit::Panicked("ouch".to_owned())];
    for (order, exit) in orders.into_iter().zip(expected) {
        let room = Room::new("a", &log);
        nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
        room.tell(order);
        assert_eq!(exits.next(LONG).await, Some(ChildExit { id: "a".to_owned(), exit }));
        until(|| nursery.children().is_empty()).await;
    }
    let room = Room::new("a", &log);
    nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
    tree.kill("trials/a").unwrap();
    assert_eq!(exits.next(LONG).await.unwrap().exit, Exit::Killed);
    assert_eq!(log.lines().iter().filter(|line| *line == "up a").count(), 4);
    assert_eq!(exits.taken(), []);
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_start_fails_is_an_error_to_its_maker_alone() {
    let log = Log::default();
    let (_tree, nursery, exits) = nursery().await;
    let [good, bad] = [0, 1].map(|from| {
        let id = if from == 0 { "good" } else { "bad" };
        Room::with(id, &log, Habits { starts_failing_from: from, ..Habits::default() })
    });
    nursery.start_child(good.spec()).await.unwrap();
    let error = nursery.start_child(bad.spec()).await.unwrap_err();
    assert_eq!(error.to_string(), "trials/bad did not start: the port is taken");
    assert_eq!(nursery.children().len(), 1);
    assert_eq!(good.generation().await, 1);
    assert_eq!(exits.taken(), []);
}

#[tokio::test(start_paused = true)]
async fn an_id_in_use_is_refused_and_its_holder_left_alone() {
    let log = Log::default();
    let (_tree, nursery, _) = nursery().await;
    let room = Room::new("a", &log);
    nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
    let error = nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadyStarted { .. }));
    assert_eq!(room.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_terminated_child_stops_gracefully_and_is_gone_on_return() {
    let log = Log::default();
    let (_tree, nursery, exits) = nursery().await;
    let room = Room::new("a", &log);
    nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
    nursery.terminate_child("a").await.unwrap();
    assert!(nursery.children().is_empty());
    assert_eq!(log.lines(), ["start a", "up a", "down a"]);
    assert_eq!(exits.taken(), [ChildExit { id: "a".to_owned(), exit: Exit::Normal }]);
    assert_eq!(
        nursery.terminate_child("a").await,
        Err(ChildError::NotFound { supervisor: "trials".to_owned(), id: "a".to_owned() })
    );
}

#[tokio::test(start_paused = true)]
async fn children_stop_at_the_same_time_and_each_within_its_own() {
    let log = Log::default();
    let (tree, nursery, exits) = nursery().await;
    for id in ["a", "b", "c", "d"] {
        let room = Room::with(id, &log, Habits { hangs_while_stopping: true, ..Habits::default() });
        nursery.start_child(room.spec().shutdown(Shutdown::Within(seconds(3)))).await.unwrap();
    }
    let before = tokio::time::Instant::now();
    tree.stop(LONG).await.unwrap();
    let took = before.elapsed();
    assert!((seconds(3)..seconds(4)).contains(&took), "{took:?}");
    assert_eq!(exits.taken().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_nursery_that_is_killed_reports_its_children_and_comes_back_empty() {
    let log = Log::default();
    let (tree, nursery, exits) = nursery().await;
    let room = Room::new("a", &log);
    nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
    tree.kill("trials").unwrap();
    assert_eq!(exits.next(LONG).await, Some(ChildExit { id: "a".to_owned(), exit: Exit::Normal }));
    until(|| tree.snapshot().find("trials").unwrap().generation == 2).await;
    until(|| nursery.children().is_empty()).await;
    nursery.start_child(room.spec().restart(Restart::Temporary)).await.unwrap();
    assert_eq!(room.generation().await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_nursery_that_is_not_there_refuses() {
    let log = Log::default();
    let room = Room::new("a", &log);
    let unplugged = Nursery::new("trials");
    let error = unplugged.start_child(room.spec()).await.unwrap_err();
    assert_eq!(error.to_string(), "trials is not there");

    let (tree, nursery, _) = nursery().await;
    tree.stop(LONG).await.unwrap();
    assert!(matches!(nursery.start_child(room.spec().restart(Restart::Temporary)).await, Err(StartError::Down(_))));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_hangs_is_called_off_when_the_tree_stops() {
    let log = Log::default();
    let (tree, nursery, _) = nursery().await;
    let room = Room::with("a", &log, Habits { hangs_while_starting: true, ..Habits::default() });
    let spec = room.spec();
    let asked = tokio::spawn(async move { nursery.start_child(spec).await });
    until(|| !log.lines().is_empty()).await;
    tree.stop(seconds(1)).await.unwrap();
    assert!(asked.await.unwrap().is_err());
}

// A supervisor with a limit to its children died when it was full and one of them waited. Here there is no limit, and one that
// waits takes nobody's place.
#[tokio::test(start_paused = true)]
async fn a_child_can_be_started_while_another_one_waits_to_come_back() {
    let log = Log::default();
    let (tree, nursery, _) = nursery().await;
    let waiting = Room::new("waiting", &log);
    let slow = Backoff { first: LONG, max: LONG, jitter_ratio: 0.0, healthy_after: LONG };
    nursery.start_child(waiting.spec().backoff(slow)).await.unwrap();
    waiting.tell(Order::Fail("one"));
    waiting.reaches(2).await;
    waiting.tell(Order::Fail("two"));
    let stands = |id: &str| nursery.children().into_iter().find(|child| child.id == id).map(|child| child.state);
    until(|| matches!(stands("waiting"), Some(State::Restarting { .. }))).await;
    let others: Vec<Room> = (0..100).map(|number| Room::new(format!("other{number}").leak(), &log)).collect();
    for other in &others {
        nursery.start_child(other.spec()).await.unwrap();
    }
    let error = nursery.start_child(waiting.spec()).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadyStarted { actor: None, .. }), "{error}");
    let count = nursery.control().count_children().await.unwrap();
    assert_eq!((count.specs, count.active), (101, 100));
    tokio::time::sleep(LONG).await;
    waiting.reaches(3).await;
    assert_eq!(nursery.control().count_children().await.unwrap().active, 101);
    tree.stop(LONG).await.unwrap();
}

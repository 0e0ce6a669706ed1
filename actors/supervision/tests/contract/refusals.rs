//! Who is on the way down takes nothing more, says so at once, and is shown and reported once.

use std::sync::{Arc, Mutex};

use crate::cases::*;

fn absent(room: &str) -> Down {
    Down::Absent { room: room.to_owned() }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_is_stopping_refuses_what_it_could_not_keep_and_still_answers() {
    let log = Log::default();
    let [b, c] = rooms(&log, ["b", "c"]);
    let a = with("a", &log, |habits| habits.stop_takes = seconds(9));
    let mind = supervisor("mind", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Unlimited)).child(b.spec());
    let tree = start(supervisor("house", Strategy::OneForOne).tree(mind)).await.unwrap();
    let control = tree.control("mind").unwrap();
    control.terminate_child("b").await.unwrap();
    let (stopped, ()) = tokio::join!(tree.stop(LONG), async {
        until(|| log.lines().contains(&"stopping a".to_owned())).await;
        let down = absent("mind");
        assert_eq!(control.start_child(c.spec()).await, Err(down.clone().into()));
        assert_eq!(control.restart_child("b").await, Err(down.clone().into()));
        assert_eq!(control.delete_child("b").await, Err(down.clone().into()));
        let change = supervisor("mind", Strategy::OneForOne).child(c.spec());
        assert_eq!(control.reconfigure(change).await, Err(down.into()));
        assert_eq!(control.which_children().await.unwrap().len(), 2);
        control.ping(seconds(1)).await.unwrap();
        assert_eq!(a.alive(), 1);
    });
    stopped.unwrap();
    assert_eq!((a.alive(), b.starts.load(Ordering::SeqCst), c.starts.load(Ordering::SeqCst)), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_nursery_that_is_stopping_takes_no_further_child() {
    let log = Log::default();
    let (tree, nursery, _) = nursery(0).await;
    let a = with("a", &log, |habits| habits.stop_takes = seconds(9));
    nursery.start_child(a.spec().shutdown(Shutdown::Unlimited)).await.unwrap();
    let b = Room::new("b", &log);
    let (stopped, ()) = tokio::join!(tree.stop(LONG), async {
        until(|| log.lines().contains(&"stopping a".to_owned())).await;
        assert_eq!(nursery.start_child(b.spec()).await, Err(absent("trials").into()));
    });
    stopped.unwrap();
    assert_eq!(b.starts.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_room_that_is_asked_to_stop_takes_nothing_while_it_finishes_its_work() {
    let log = Log::default();
    let a = Room::new("a", &log).behind(Mailbox::default());
    let spec = a.spec().shutdown(Shutdown::Unlimited);
    let tree = start(supervisor("house", Strategy::OneForOne).child(spec)).await.unwrap();
    a.tell(Order::Work { step: seconds(9), steps: 1 });
    is_at(&tree, "a", "work").await;
    let control = root(&tree);
    let (terminated, ()) = tokio::join!(control.terminate_child("a"), async {
        control.ping(LONG).await.unwrap();
        assert_eq!(a.socket.send(Order::Note(1)), Err(absent("a")));
        assert!(a.socket.actor().is_none());
        assert_eq!(a.alive(), 1);
    });
    terminated.unwrap();
    assert_eq!(tree.snapshot().find("a").unwrap().lost, 0);
    assert_eq!(log.lines(), ["start a", "up a", "down a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_that_is_being_killed_takes_nothing_while_it_blocks_its_thread() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let spec = a.spec().stall_after(Duration::from_millis(40)).kill_within(LONG);
    let tree = start(supervisor("house", Strategy::OneForOne).child(spec)).await.unwrap();
    let mut events = tree.events();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    until(|| told(&mut events).iter().any(|event| matches!(event.kind, EventKind::Stalled { .. }))).await;
    root(&tree).ping(seconds(5)).await.unwrap();
    assert_eq!((a.alive(), a.socket.send(Order::Note(1))), (1, Err(absent("a"))));
    assert_eq!(a.socket.send_within(Order::Note(1), LONG).await, Err(absent("a")));
    drop(release);
    a.reaches(2).await;
    tree.stop(LONG).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_room_that_fails_takes_nothing_from_those_who_see_its_state_go() {
    for order in [Order::Fail("ouch"), Order::Panic("ouch")] {
        let log = Log::default();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (a, ear) = (Room::new("a", &log), Arc::clone(&heard));
        let socket = a.socket.clone();
        let when_dropped = move |_| ear.lock().unwrap().push(socket.send(Order::Note(1)));
        let a = Room { habits: Habits { when_dropped: Some(Arc::new(when_dropped)), ..Habits::default() }, ..a };
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(order);
        a.reaches(2).await;
        assert_eq!(*heard.lock().unwrap(), [Err(absent("a"))]);
        tree.stop(LONG).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_of_a_nursery_that_was_given_up_is_reported_once_and_as_such() {
    let log = Log::default();
    let (tree, nursery, exits) = nursery(9).await;
    let a = Room::new("a", &log);
    let limit = Duration::from_millis(40);
    nursery.start_child(a.spec().stall_after(limit).kill_within(limit)).await.unwrap();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    let end = exits.next(seconds(10)).await.unwrap();
    assert_eq!(end.id, "a");
    assert!(matches!(end.exit, Exit::Failed(ref reason) if reason.contains("no progress")), "{end:?}");
    a.reaches(2).await;
    drop(release);
    until(|| !tree.snapshot().is_degraded() && a.alive() == 1).await;
    // Its true end comes now, and is nobody's news any more.
    nursery.control().ping(seconds(5)).await.unwrap();
    assert_eq!(exits.taken(), []);
    nursery.terminate_child("a").await.unwrap();
    assert_eq!(exits.taken(), [ChildExit { id: "a".to_owned(), exit: Exit::Normal }]);
}

/// Keeps whoever drops it until the sender is dropped.
struct Sticky(Mutex<std::sync::mpsc::Receiver<()>>);

impl Drop for Sticky {
    fn drop(&mut self) {
        // Nothing is ever sent: the end of the sender is the word.
        let _ = self.0.lock().unwrap().recv();
    }
}

/// Lets the supervisor of `control` hear that the kill of `a` is overdue only after `a` has ended after all, for which `is_over`
/// is waited: until then it is held up by what is left of a second child.
async fn ends_just_before_it_is_given_up(tree: &Tree, control: &Control, a: &Room, is_over: impl Future<Output = ()>) {
    let (b, limit) = (Room::new("b", &a.log), Duration::from_millis(50));
    control.start_child(a.spec().shutdown(Shutdown::Brutal).kill_within(limit)).await.unwrap();
    let (let_go, held) = std::sync::mpsc::sync_channel(1);
    let (actor, sticky) = (b.clone(), Sticky(Mutex::new(held)));
    let make = move || {
        let _kept = &sticky;
        (actor.clone(), ())
    };
    control.start_child(ChildSpec::actor("b", &b.socket, make).restart(Restart::Temporary)).await.unwrap();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    let at_a = || tree.snapshot().walk().into_iter().any(|place| place.id == "a" && place.busy_with == Some("block"));
    until(at_a).await;
    let mut asked = Vec::new();
    for room in [a, &b] {
        let (control, id) = (control.clone(), room.id);
        asked.push(tokio::spawn(async move { control.terminate_child(id).await }));
        until(|| room.socket.actor().is_none()).await;
    }
    until(|| b.alive() == 0).await;
    let overdue = Instant::now() + 2 * limit;
    until(|| Instant::now() > overdue).await;
    drop(release);
    is_over.await;
    drop(let_go);
    for asked in asked {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_has_ended_just_before_it_is_given_up_is_reported_once() {
    let log = Log::default();
    let (tree, nursery, exits) = nursery(9).await;
    let a = Room::new("a", &log).behind(Mailbox::default());
    let a_is_reported = async {
        assert_eq!(exits.next(seconds(10)).await.map(|end| end.id).as_deref(), Some("b"));
        let killed = ChildExit { id: "a".to_owned(), exit: Exit::Killed };
        assert_eq!(exits.next(seconds(10)).await, Some(killed));
    };
    ends_just_before_it_is_given_up(&tree, &nursery.control(), &a, a_is_reported).await;
    assert_eq!(exits.taken(), []);
    tree.stop(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_child_that_has_ended_just_before_it_is_given_up_does_not_count_as_leaked_for_good() {
    let log = Log::default();
    let tree = house(Strategy::OneForOne, &[]).await;
    let a = Room::new("a", &log).behind(Mailbox::default());
    ends_just_before_it_is_given_up(&tree, &root(&tree), &a, until(|| a.alive() == 0)).await;
    until(|| !tree.snapshot().is_degraded()).await;
    root(&tree).restart_child("a").await.unwrap();
    assert_eq!(a.generation().await, 2);
    tree.stop(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_is_not_started_while_the_one_before_it_is_still_there() {
    // Who blocks is given up after two seconds, and a machine that has too much to do may let those pass before it comes free.
    for attempt in 1.. {
        let log = Log::default();
        let a = Room::new("a", &log).behind(Mailbox::default());
        let spec = a.spec().shutdown(Shutdown::Brutal).kill_within(seconds(2));
        let mind = allowing(9, "mind", Strategy::OneForOne).child(spec);
        let tree = start(allowing(9, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        let (release, blocked) = std::sync::mpsc::sync_channel(1);
        a.tell(Order::Block(blocked));
        is_at(&tree, "mind/a", "block").await;
        tree.kill("mind").unwrap();
        // Whoever brought down what the supervisor left behind has given up by now.
        until(|| tree.snapshot().find("mind").unwrap().generation == 2).await;
        let before = std::time::Instant::now();
        until(|| tree.snapshot().find("mind/a").unwrap().generation == 2).await;
        drop(release);
        a.reaches(2).await;
        let (lines, took) = (log.lines(), before.elapsed());
        let is_given_up = tree.snapshot().find("mind/a").unwrap().leaked > 0;
        tree.stop(LONG).await.unwrap();
        if !is_given_up {
            assert_eq!(lines, ["start a", "up a", "a came free", "start a", "up a"]);
            return;
        }
        assert!(took > seconds(1) && attempt < 10, "given up after {took:?}: {lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn below_a_supervisor_that_has_fallen_everybody_is_shown_as_down() {
    let log = Log::default();
    let [a, b] = rooms(&log, ["a", "b"]);
    let inner = supervisor("inner", Strategy::OneForOne).child(b.spec());
    let slow = Backoff { first: LONG, max: LONG, ..at_once() };
    let mind = ChildSpec::supervisor(allowing(9, "mind", Strategy::OneForOne).child(a.spec()).tree(inner));
    let tree = start(allowing(9, "house", Strategy::OneForOne).child(mind.backoff(slow))).await.unwrap();
    tree.kill("mind").unwrap();
    b.reaches(2).await;
    tree.kill("mind").unwrap();
    until(|| matches!(state(&tree, "mind"), Some(State::Restarting { .. }))).await;
    let snapshot = tree.snapshot();
    for path in ["mind/a", "mind/inner", "mind/inner/b"] {
        let place = snapshot.find(path).unwrap();
        assert_eq!((place.state, place.uptime, place.busy_ratio), (State::Stopped, None, 0.0), "{path}");
        assert!(matches!(tree.kill(path), Err(UnknownChild::NotRunning { .. })), "{path}");
    }
    assert_eq!((a.alive(), b.alive()), (0, 0));
    tree.stop(LONG).await.unwrap();
}

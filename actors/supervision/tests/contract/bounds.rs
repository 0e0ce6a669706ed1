//! Limits hold, and what goes over one is told.

use crate::cases::*;
use crate::fixtures::in_time;

/// A room of which only the newest message counts.
fn newest(log: &Log) -> Room {
    Room::new("a", log).behind(Mailbox { in_flight_max: 1, when_full: WhenFull::Coalesce, ..Mailbox::default() })
}

fn got(log: &Log) -> Vec<u64> {
    log.lines().iter().filter_map(|line| line.strip_prefix("a got ")?.parse().ok()).collect()
}

fn lost(tree: &Tree) -> u64 {
    tree.snapshot().find("a").unwrap().lost
}

#[tokio::test(start_paused = true)]
async fn a_short_stall_limit_holds_also_beside_a_long_one() {
    let log = Log::default();
    let (_tree, nursery, _) = nursery(9).await;
    let [a, b] = rooms(&log, ["a", "b"]);
    nursery.start_child(a.spec().stall_after(seconds(3600))).await.unwrap();
    nursery.start_child(b.spec().stall_after(seconds(1))).await.unwrap();
    for generation in 2..=3 {
        let before = Instant::now();
        b.tell(Order::Hang);
        b.reaches(generation).await;
        let passed = before.elapsed();
        assert!((seconds(1)..=seconds(2)).contains(&passed), "{passed:?}");
    }
    assert_eq!(a.generation().await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_kept_as_the_newest_and_is_lost_is_told() {
    let log = Log::default();
    // The termination is to meet the first message before, while and after it is taken out.
    for turns in (0..160).map(|round| round % 4) {
        let a = newest(&log);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        let control = root(&tree);
        a.tell(Order::Note(1));
        a.tell(Order::Note(2));
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        control.terminate_child("a").await.unwrap();
        control.restart_child("a").await.unwrap();
        a.generation().await;
        assert_eq!(got(&log).len() as u64 + lost(&tree), 2, "after {turns} turns");
        tree.stop(LONG).await.unwrap();
        log.taken();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_messages_none_is_lost_in_silence_at_whatever_moment_the_actor_is_stopped() {
    let log = Log::default();
    let a = newest(&log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    for round in 0..500 {
        let (control, before) = (root(&tree), lost(&tree));
        let terminating = tokio::spawn(async move { control.terminate_child("a").await });
        // The stop is to meet the two in each of their states once.
        (0..round * 7 % 400).for_each(|_| std::hint::spin_loop());
        let taken = [1, 2].map(|number| a.socket.send(Order::Note(number))).iter().filter(|sent| sent.is_ok()).count();
        terminating.await.unwrap().unwrap();
        root(&tree).restart_child("a").await.unwrap();
        until(|| got(&log).len() as u64 + lost(&tree) - before == taken as u64).await;
        log.taken();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_kept_as_the_newest_is_not_forgotten_with_the_actor_that_dies() {
    let log = Log::default();
    let a = newest(&log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::Hang);
    is_at(&tree, "a", "hang").await;
    (1..=3).for_each(|number| a.tell(Order::Note(number)));
    tree.kill("a").unwrap();
    a.reaches(2).await;
    // The one that was handled and the one that waited; of the kept ones all but the newest were given up as wished.
    until(|| got(&log).len() as u64 + lost(&tree) == 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_message_wins_and_none_comes_after_a_newer_one() {
    const LAST: u64 = 5_000;
    let log = Log::default();
    let a = newest(&log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    for round in 0..60 {
        let socket = a.socket.clone();
        let send = move || {
            for number in 1..=LAST {
                socket.send(Order::Note(number)).unwrap();
                for _ in 0..number % 50 {
                    std::hint::spin_loop();
                }
            }
        };
        tokio::task::spawn_blocking(send).await.unwrap();
        until(|| got(&log).last() == Some(&LAST)).await;
        let numbers = got(&log);
        assert!(numbers.is_sorted(), "round {round}: an older one came after a newer one");
        log.taken();
    }
    tree.stop(LONG).await.unwrap();
}

/// Sends a message of its own when it is dropped.
#[derive(Debug)]
struct Echoing(Socket<Order>);

impl Drop for Echoing {
    fn drop(&mut self) {
        // Whether somebody is there does not matter here.
        let _ = self.0.send(Order::Note(99));
    }
}

/// Does `work` on a thread of its own, because what is feared is that it never comes back.
fn comes_back<W: Future<Output = ()>>(work: impl FnOnce() -> W + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(work());
        done.send(()).unwrap();
    });
    is_done.recv_timeout(seconds(10)).unwrap();
}

#[test]
fn a_message_that_is_replaced_by_a_newer_one_may_send_when_it_is_dropped() {
    comes_back(|| async {
        let log = Log::default();
        let a = newest(&log);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Work { step: seconds(3), steps: 1 });
        is_at(&tree, "a", "work").await;
        a.tell(Order::Note(1));
        a.tell(Order::Carry(Box::new(Echoing(a.socket.clone()))));
        a.tell(Order::Note(2));
        until(|| got(&log).len() == 2).await;
        assert_eq!(got(&log)[0], 1);
    });
}

#[test]
fn a_message_that_is_refused_may_send_when_it_is_dropped() {
    comes_back(|| async {
        let log = Log::default();
        let a = newest(&log);
        // Nobody is plugged in, so the one that it sends is refused as well.
        let refused = a.socket.send(Order::Carry(Box::new(Echoing(a.socket.clone()))));
        assert_eq!(refused, Err(Down::Absent { room: "a".to_owned() }));
    });
}

#[tokio::test(start_paused = true)]
async fn what_a_room_sends_to_itself_counts_as_waiting_and_leaves_its_bound_as_it_was() {
    let log = Log::default();
    let a = Room::new("a", &log).behind(Mailbox { in_flight_max: 3, ..Mailbox::default() });
    let tree = house(Strategy::OneForOne, &[&a]).await;
    a.tell(Order::TellYourself(5));
    is_at(&tree, "a", "work").await;
    let depth = || tree.snapshot().find("a").unwrap().depth;
    assert_eq!(depth(), 5);
    assert!(matches!(a.socket.send(Order::Note(6)), Err(Down::Full { .. })));
    until(|| got(&log) == [1, 2, 3, 4, 5]).await;
    assert_eq!((a.generation().await, depth()), (1, 0));
    a.tell(Order::Work { step: seconds(1), steps: 1 });
    is_at(&tree, "a", "work").await;
    let taken = (0..9).filter(|number| a.socket.send(Order::Note(*number)).is_ok());
    assert_eq!((taken.count(), depth()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_for_no_message_at_all_is_refused() {
    let log = Log::default();
    let tree = house(Strategy::OneForOne, &[]).await;
    for when_full in [WhenFull::Refuse, WhenFull::Coalesce] {
        let a = Room::new("a", &log).behind(Mailbox { in_flight_max: 0, when_full, ..Mailbox::default() });
        let error = start(supervisor("house", Strategy::OneForOne).child(a.spec())).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::Spec(_)), "{error}");
        assert!(error.to_string().contains('a'), "{error}");
        let error = root(&tree).start_child(a.spec()).await.unwrap_err();
        assert!(matches!(error, StartError::Spec(_)), "{error}");
    }
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kill_that_has_no_time_to_take_effect_is_refused() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec().kill_within(Duration::ZERO));
    let error = start(spec).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::Spec(_)), "{error}");
    assert!(log.lines().is_empty());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_hears_at_once_when_the_actor_is_asked_to_stop() {
    let log = Log::default();
    let a = Room::new("a", &log).behind(Mailbox { in_flight_max: 1, ..Mailbox::default() });
    let spec = a.spec().shutdown(Shutdown::Within(seconds(300)));
    let tree = start(supervisor("house", Strategy::OneForOne).child(spec)).await.unwrap();
    a.tell(Order::Hang);
    is_at(&tree, "a", "hang").await;
    a.tell(Order::Note(1));
    let control = root(&tree);
    let before = Instant::now();
    let waiting = async {
        let heard = a.socket.send_within(Order::Note(2), LONG).await;
        (heard, before.elapsed())
    };
    let ((heard, after), terminated) = tokio::join!(waiting, control.terminate_child("a"));
    terminated.unwrap();
    assert_eq!(heard, Err(Down::Absent { room: "a".to_owned() }));
    assert!(after < seconds(1), "{after:?}");
}

fn poisonous(kills_max: u32) -> Mailbox<Order> {
    // All work is the same work.
    let identity = |order: &Order| matches!(order, Order::Work { .. }).then_some(7);
    Mailbox { poison: Some(Poison { identity, kills_max }), ..Mailbox::default() }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_blamed_for_an_end_that_others_brought_about() {
    let log = Log::default();
    let (a, b) = (Room::new("a", &log).behind(poisonous(2)), Room::new("b", &log));
    let spec = allowing(99, "house", Strategy::OneForAll).child(a.spec().shutdown(Shutdown::Brutal)).child(b.spec());
    let tree = start(spec).await.unwrap();
    let work = || a.socket.send(Order::Work { step: seconds(5), steps: 1 });
    for generation in 2..=4 {
        work().unwrap();
        is_at(&tree, "a", "work").await;
        b.tell(Order::Fail("ouch"));
        b.reaches(generation).await;
    }
    work().unwrap();
    is_at(&tree, "a", "work").await;
    root(&tree).terminate_child("a").await.unwrap();
    root(&tree).restart_child("a").await.unwrap();
    work().unwrap();
    assert_eq!(a.generation().await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_went_well_is_cleared_of_what_it_did_before() {
    let log = Log::default();
    let a = Room::new("a", &log).behind(poisonous(2));
    let tree = start(allowing(99, "house", Strategy::OneForOne).child(a.spec().stall_after(seconds(2)))).await.unwrap();
    let work = |step| a.socket.send(Order::Work { step, steps: 1 });
    for generation in 2..=4 {
        work(LONG).unwrap();
        a.reaches(generation).await;
        work(Duration::ZERO).unwrap();
        a.generation().await;
    }
    // Twice in a row is too often all the same.
    for generation in 5..=6 {
        work(LONG).unwrap();
        a.reaches(generation).await;
    }
    assert!(matches!(work(Duration::ZERO), Err(Down::SetAside { kills: 2, .. })));
    assert!(tree.snapshot().find("a").unwrap().lost > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_actor_takes_along_that_was_given_up_is_told() {
    let log = Log::default();
    let limit = Duration::from_millis(40);
    let a = Room::new("a", &log).behind(Mailbox::default());
    let spec = a.spec().stall_after(limit).kill_within(limit);
    let tree = start(allowing(9, "house", Strategy::OneForOne).child(spec)).await.unwrap();
    let mut events = tree.events();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    is_at(&tree, "a", "block").await;
    (1..=3).for_each(|number| a.tell(Order::Note(number)));
    a.reaches(2).await;
    drop(release);
    until(|| !tree.snapshot().is_degraded() && lost(&tree) > 0).await;
    root(&tree).ping(seconds(5)).await.unwrap();
    let losses = told(&mut events).into_iter().filter_map(|event| match event.kind {
        EventKind::Lost { handling, waiting } => Some((event.generation, handling.is_some(), waiting)),
        _ => None,
    });
    assert_eq!(losses.collect::<Vec<_>>(), [(1, true, 3)]);
    assert_eq!((lost(&tree), got(&log)), (4, Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_naming_function_that_panics_is_one_end_with_its_reason() {
    let log = Log::default();
    let name = |order: &Order| if matches!(order, Order::Note(_)) { panic!("no name") } else { "other" };
    let a =
        Room { socket: Socket::with("a", Mailbox { name: Some(name), ..Mailbox::default() }), ..Room::new("a", &log) };
    let tree = house(Strategy::OneForOne, &[&a]).await;
    let mut events = tree.events();
    a.tell(Order::Note(1));
    a.reaches(2).await;
    let reason = "panicked: no name".to_owned();
    assert_eq!(tree.snapshot().find("a").unwrap().last_failure.as_ref(), Some(&reason));
    let told = told(&mut events);
    assert_eq!(
        told.iter()
            .filter(|event| matches!(&event.kind, EventKind::Failed { reason: said, .. } if *said == reason))
            .count(),
        1
    );
    assert_eq!(lost(&tree), 1);
}

#[tokio::test(start_paused = true)]
async fn who_need_not_run_is_shown_as_stopped() {
    let log = Log::default();
    let a = with("a", &log, |habits| habits.ignores = true);
    let mind = supervisor("mind", Strategy::OneForOne).start_if(|| false);
    let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind)).await.unwrap();
    assert_eq!([state(&tree, "a"), state(&tree, "mind")], [Some(State::Stopped); 2]);
    let seen = tree.snapshot().find("a").unwrap().clone();
    assert_eq!((seen.uptime, seen.busy_for, seen.busy_ratio), (None, None, 0.0));
    assert_eq!(root(&tree).restart_child("a").await.unwrap().actor, None);
    assert_eq!(state(&tree, "a"), Some(State::Stopped));
}

#[tokio::test(start_paused = true)]
async fn two_templates_of_one_nursery_do_not_take_each_others_names() {
    let log = Log::default();
    let (_tree, nursery, _) = nursery(0).await;
    let template = || {
        let log = log.clone();
        nursery.template(move |id, ()| {
            let room = Room::new("trial", &log);
            ChildSpec::actor(id, &room.socket.clone(), move || (room.clone(), ()))
        })
    };
    let (one, other) = (template(), template());
    let mut ids = Vec::new();
    for template in [&one, &other, &one.clone(), &other] {
        ids.push(template.start_child(()).await.unwrap().id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    assert!(ids.iter().all(|id| id.starts_with("trials-")), "{ids:?}");
}

#[tokio::test(start_paused = true)]
async fn a_child_named_like_the_root_is_refused() {
    let log = Log::default();
    let namesake = Room::new("house", &log);
    let error = start(supervisor("house", Strategy::OneForOne).child(namesake.spec())).await.map(drop).unwrap_err();
    assert!(matches!(error, StartError::Spec(_)), "{error}");
    assert!(error.to_string().contains("house"), "{error}");
    let tree = house(Strategy::OneForOne, &[]).await;
    let error = root(&tree).start_child(namesake.spec()).await.unwrap_err();
    assert!(matches!(error, StartError::Spec(_)), "{error}");
    let change = supervisor("house", Strategy::OneForOne).child(namesake.spec());
    assert!(matches!(root(&tree).reconfigure(change).await, Err(StartError::Spec(_))));
    assert!(log.lines().is_empty());
    // Further down its path is another one.
    let mind = supervisor("mind", Strategy::OneForOne).child(namesake.spec());
    root(&tree).start_child(ChildSpec::supervisor(mind)).await.unwrap();
    root(&tree).ping(LONG).await.unwrap();
    in_time(tree.stop(LONG)).await.unwrap();
}

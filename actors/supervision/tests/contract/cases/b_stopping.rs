//! B. Stopping.

use super::*;

/// Returns what was told of how the children went, in order.
fn ends(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<(String, bool)> {
    let end = |event: Event| match &event.kind {
        EventKind::Stopped => Some((event.path, true)),
        EventKind::ShutdownFailed { .. } => Some((event.path, false)),
        _ => None,
    };
    told(events).into_iter().filter_map(end).collect()
}

fn hanging(id: &'static str, log: &Log) -> Room {
    with(id, log, |habits| habits.hangs_while_stopping = true)
}

cases! {
    async fn case_012_children_stop_in_reverse_each_after_the_one_behind_is_gone() {
        let log = Log::default();
        let [a, b, c] = ["a", "b", "c"].map(|id| with(id, &log, |habits| habits.stop_takes = beats(1)));
        let tree = house(Strategy::OneForOne, &[&a, &b, &c]).await;
        log.taken();
        tree.stop(LONG).await.unwrap();
        assert_eq!(log.lines(), ["stopping c", "down c", "stopping b", "down b", "stopping a", "down a"]);
    }

    async fn case_013_a_child_that_obeys_in_its_time_has_cleaned_up() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.stop_takes = beats(2));
        let spec = supervisor("house", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Within(beats(500))));
        let tree = start(spec).await.unwrap();
        let mut events = tree.events();
        let before = Instant::now();
        tree.stop(LONG).await.unwrap();
        took(before, 2);
        assert_eq!(log.lines().last().map(String::as_str), Some("down a"));
        assert_eq!(ends(&mut events), [("a".to_owned(), true), ("house".to_owned(), true)]);
    }

    async fn case_014_a_child_that_does_not_obey_in_its_time_is_killed_and_the_others_get_theirs() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let [b, c] = ["b", "c"].map(|id| hanging(id, &log));
        let spec = supervisor("house", Strategy::OneForOne)
            .child(a.spec())
            .child(b.spec().shutdown(Shutdown::Within(beats(3))))
            .child(c.spec().shutdown(Shutdown::Within(beats(5))));
        let tree = start(spec).await.unwrap();
        let mut events = tree.events();
        let before = Instant::now();
        assert_eq!(tree.stop(LONG).await.unwrap().killed, ["c", "b"]);
        took(before, 8);
        assert_eq!(log.lines().last().map(String::as_str), Some("down a"));
        let expected = [("c", false), ("b", false), ("a", true), ("house", true)];
        assert_eq!(ends(&mut events), expected.map(|(id, obeyed)| (id.to_owned(), obeyed)));
    }

    async fn case_015_a_brutal_kill_runs_no_cleanup() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let (house, nursery, exits) = nursery(0).await;
        let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).child(b.spec().shutdown(Shutdown::Brutal));
        let tree = start(spec).await.unwrap();
        let mut events = tree.events();
        log.taken();
        assert!(tree.stop(LONG).await.unwrap().killed.is_empty());
        assert_eq!(log.lines(), ["down a"]);
        // A kill that was wished for is no failure.
        assert_eq!(ends(&mut events), ["b", "a", "house"].map(|id| (id.to_owned(), true)));

        let c = Room::new("c", &log);
        nursery.start_child(c.spec().shutdown(Shutdown::Brutal)).await.unwrap();
        house.stop(LONG).await.unwrap();
        assert_eq!(exits.taken(), [ChildExit { id: "c".to_owned(), exit: Exit::Killed }]);
    }

    async fn case_016_a_stop_without_limit_waits_as_long_as_it_takes() {
        let log = Log::default();
        let [a, b] = ["a", "b"].map(|id| with(id, &log, |habits| habits.stop_takes = beats(20)));
        let mind = supervisor("mind", Strategy::OneForOne).child(b.spec().shutdown(Shutdown::Unlimited));
        let spec = supervisor("house", Strategy::OneForOne).child(a.spec().shutdown(Shutdown::Unlimited)).tree(mind);
        let tree = start(spec).await.unwrap();
        log.taken();
        let before = Instant::now();
        tree.stop(beats(5000)).await.unwrap();
        took(before, 40);
        assert_eq!(log.lines(), ["stopping b", "down b", "stopping a", "down a"]);
    }

    async fn case_017_a_subtree_stops_leaves_first_and_before_the_next_sibling() {
        let log = Log::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|id| with(id, &log, |habits| habits.stop_takes = beats(1)));
        let inner = supervisor("inner", Strategy::OneForOne).child(c.spec());
        let mind = supervisor("mind", Strategy::OneForOne).child(b.spec()).tree(inner);
        let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec())).await.unwrap();
        let mut events = tree.events();
        tree.stop(LONG).await.unwrap();
        let gone = ["d", "mind/inner/c", "mind/inner", "mind/b", "mind", "a", "house"].map(|path| (path.to_owned(), true));
        assert_eq!(ends(&mut events), gone);
    }

    async fn case_018_dynamic_children_stop_all_at_once_and_late_ones_are_killed() {
        let log = Log::default();
        let (tree, nursery, exits) = nursery(0).await;
        let template = nursery.template({
            let log = log.clone();
            move |id, shutdown| {
                let room = hanging("trial", &log);
                ChildSpec::actor(id, &room.socket.clone(), move || (room.clone(), ())).shutdown(shutdown)
            }
        });
        for _ in 0..50 {
            template.start_child(Shutdown::Within(beats(4))).await.unwrap();
            template.start_child(Shutdown::Brutal).await.unwrap();
        }
        let before = Instant::now();
        assert_eq!(tree.stop(LONG).await.unwrap().killed.len(), 50);
        took(before, 4);
        assert_eq!(exits.taken().iter().filter(|end| end.exit == Exit::Killed).count(), 100);
    }

    async fn case_019_a_child_that_ends_by_itself_during_the_shutdown_does_not_disturb_it() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let c = with("c", &log, |habits| habits.stop_takes = beats(10));
        let tree = house(Strategy::OneForOne, &[&a, &b, &c]).await;
        let stopping = tokio::spawn({
            let tree = tree.clone();
            async move { tree.stop(LONG).await }
        });
        until(|| log.lines().contains(&"stopping c".to_owned())).await;
        a.tell(Order::Panic("in between"));
        b.tell(Order::Stop);
        stopping.await.unwrap().unwrap();
        assert_eq!((a.starts.load(Ordering::SeqCst), b.starts.load(Ordering::SeqCst)), (1, 1));
    }

    async fn case_020_an_odd_end_during_the_shutdown_is_told_and_the_shutdown_goes_on() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let [b, c] = ["b", "c"].map(|id| with(id, &log, |habits| habits.panics_while_stopping = true));
        let tree = house(Strategy::OneForOne, &[&a, &b]).await;
        let mut events = tree.events();
        tree.stop(LONG).await.unwrap();
        let reason = "panicked: no stop today".to_owned();
        let failed = EventKind::ShutdownFailed { reason, handling: Some("post_stop") };
        assert!(told(&mut events).iter().any(|event| event.path == "b" && event.kind == failed));
        assert_eq!(log.lines().last().map(String::as_str), Some("down a"));

        let (tree, nursery, exits) = nursery(0).await;
        nursery.start_child(c.spec()).await.unwrap();
        tree.stop(LONG).await.unwrap();
        assert_eq!(exits.taken()[0].exit, Exit::Panicked("no stop today".to_owned()));
    }

    async fn case_021_a_child_that_cut_its_links_is_stopped_all_the_same() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        // It does so also as the first thing after a restart, and its end is heard of all the same.
        for generation in 1..=2 {
            a.tell(Order::Detach);
            assert_eq!(a.generation().await, generation);
            assert_eq!(presence(&root(&tree), "a").await, a.socket.actor().map(|actor| Presence::Up(actor.get_cell())));
            a.tell(Order::Fail("on its own"));
            a.reaches(generation + 1).await;
        }
        a.tell(Order::Detach);
        assert_eq!(a.generation().await, 3);
        log.taken();
        tree.stop(LONG).await.unwrap();
        assert_eq!((log.lines(), a.alive()), (vec!["down a".to_owned()], 0));
    }

    async fn case_022_the_children_of_a_supervisor_that_is_killed_are_stopped_in_order() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let d = hanging("d", &log);
        let mind = supervisor("mind", Strategy::OneForOne)
            .child(a.spec())
            .child(b.spec().shutdown(Shutdown::Brutal))
            .child(c.spec())
            .child(d.spec().shutdown(Shutdown::Within(beats(2))));
        let tree = start(supervisor("house", Strategy::OneForOne).tree(mind)).await.unwrap();
        log.taken();
        let before = Instant::now();
        tree.kill("mind").unwrap();
        d.reaches(2).await;
        took(before, 2);
        let again = ["a", "b", "c", "d"].into_iter().flat_map(|id| [format!("start {id}"), format!("up {id}")]);
        let expected: Vec<String> = ["down c".to_owned(), "down a".to_owned()].into_iter().chain(again).collect();
        assert_eq!(log.taken(), expected);

        tree.kill("house").unwrap();
        assert_eq!(tree.ended().await, Ended::GaveUp { path: "house".to_owned(), reason: "killed".to_owned() });
        assert_eq!(log.lines(), ["down c", "down a"]);
    }

    async fn case_022_also_while_they_start_fail_wait_stop_and_hang() {
        let log = Log::default();
        let [plain, waiting] = rooms(&log, ["plain", "waiting"]);
        let starting = with("starting", &log, |habits| habits.start_hanging = 2);
        let stopping = with("stopping", &log, |habits| habits.stop_takes = beats(2));
        let hung = Room::new("hung", &log).behind(Mailbox::default());
        let slow = Backoff { first: LONG, max: LONG, ..at_once() };
        let mind = allowing(99, "mind", Strategy::OneForOne)
            .child(plain.spec())
            .child(waiting.spec().backoff(slow))
            .child(starting.spec())
            .child(stopping.spec().shutdown(Shutdown::Unlimited))
            .child(hung.spec().shutdown(Shutdown::Within(beats(2))));
        let tree = start(allowing(99, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        let all = [&plain, &waiting, &starting, &stopping, &hung];
        waiting.tell(Order::Fail("one"));
        waiting.reaches(2).await;
        waiting.tell(Order::Fail("two"));
        until(|| matches!(state(&tree, "mind/waiting"), Some(State::Restarting { .. }))).await;
        starting.tell(Order::Fail("ouch"));
        until(|| starting.starts.load(Ordering::SeqCst) == 2).await;
        hung.tell(Order::Hang);
        is_at(&tree, "mind/hung", "hang").await;
        let control = tree.control("mind").unwrap();
        let terminating = tokio::spawn(async move { control.terminate_child("stopping").await });
        until(|| log.lines().contains(&"stopping stopping".to_owned())).await;
        plain.tell(Order::Fail("just now"));
        tree.kill("mind").unwrap();

        // Whether the first was started once more before the supervisor fell is a matter of luck.
        let generations = [2, 3, 3, 2, 2];
        for (room, generation) in all.iter().zip(generations) {
            until(|| room.socket.actor().is_some() && room.starts.load(Ordering::SeqCst) >= generation).await;
        }
        // Whoever asked the one that was killed is not kept waiting.
        drop(terminating.await.unwrap());
        assert_eq!(all.map(Room::alive), [1; 5]);
        assert!(log.lines().contains(&"down stopping".to_owned()));
        assert!(!tree.snapshot().is_degraded());
        log.taken();
        tree.kill("house").unwrap();
        assert!(matches!(tree.ended().await, Ended::GaveUp { path, .. } if path == "house"));
        assert_eq!(all.map(Room::alive), [0; 5]);
        let expected = ["down hung", "stopping stopping", "down stopping", "down starting", "down waiting", "down plain"];
        assert_eq!(log.lines(), expected);
    }

    async fn case_022_at_whatever_moment_the_supervisor_is_killed_nobody_is_lost_or_doubled() {
        let log = Log::default();
        let rooms = rooms(&log, ["a", "b", "c", "d", "e", "f"]);
        for (round, strategy) in (0..60).zip([Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne].into_iter().cycle()) {
            let mind = rooms.iter().fold(allowing(u32::MAX, "mind", strategy), |mind, room| mind.child(room.spec()));
            let mind = ChildSpec::supervisor(mind).failures_max(u32::MAX);
            let tree = start(allowing(u32::MAX, "house", Strategy::OneForOne).child(mind)).await.unwrap();
            for kill in 0..5 {
                for room in rooms.iter().skip((round + kill) % 3).step_by(2) {
                    // One that is not there goes down with the supervisor it had.
                    drop(room.socket.send(if kill % 2 == 0 { Order::Fail("ouch") } else { Order::Stop }));
                }
                for _ in 0..(round * 5 + kill) % 23 {
                    tokio::task::yield_now().await;
                }
                // It may be down already, and is as well.
                drop(tree.kill("mind"));
                until(|| rooms.iter().all(|room| room.alive() == 1 && room.socket.actor().is_some())).await;
                assert!(!tree.snapshot().is_degraded());
            }
            tree.stop(LONG).await.unwrap();
            assert!(rooms.iter().all(|room| room.alive() == 0 && room.socket.actor().is_none()), "round {round}");
            log.taken();
        }
    }

    async fn case_023_two_stops_at_once_both_return_when_all_is_down() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.stop_takes = beats(3));
        let tree = house(Strategy::OneForOne, &[&a]).await;
        let stop = || async {
            tree.stop(LONG).await.unwrap();
            log.lines().last().cloned()
        };
        let (first, second) = tokio::join!(stop(), stop());
        assert_eq!([first.as_deref(), second.as_deref()], [Some("down a"); 2]);
        tree.stop(LONG).await.unwrap();
    }
}

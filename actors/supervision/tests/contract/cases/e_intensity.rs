//! E. Intensity and escalation.

use super::*;

/// A back-off that waits so many beats before every restart but the first.
fn waiting(wait: u32) -> Backoff {
    Backoff { first: beats(wait), max: beats(wait), jitter_ratio: 0.0, healthy_after: LONG }
}

/// Lets `room` fail twice, so that it waits for its second restart.
async fn waits(tree: &Tree, room: &Room) {
    room.tell(Order::Panic("one"));
    room.reaches(2).await;
    room.tell(Order::Panic("two"));
    until(|| matches!(state(tree, room.id), Some(State::Restarting { .. }))).await;
}

cases! {
    async fn case_041_exactly_the_allowed_restarts_pass_and_the_next_stops_the_supervisor() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let tree = start(allowing(3, "house", Strategy::OneForOne).child(a.spec()).child(b.spec())).await.unwrap();
        for generation in 2..=4 {
            b.tell(Order::Panic("ouch"));
            b.reaches(generation).await;
        }
        log.taken();
        b.tell(Order::Panic("once too often"));
        let ended = Ended::GaveUp { path: "b".to_owned(), reason: "panicked: once too often".to_owned() };
        assert_eq!(tree.ended().await, ended);
        assert_eq!(log.lines(), ["down a"]);
        tree.stop(LONG).await.unwrap();
    }

    async fn case_042_without_any_restart_the_first_failure_stops_the_supervisor() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = start(allowing(0, "house", Strategy::OneForOne).child(a.spec())).await.unwrap();
        a.tell(Order::Fail("ouch"));
        assert_eq!(tree.ended().await, Ended::GaveUp { path: "a".to_owned(), reason: "failed: ouch".to_owned() });
        assert_eq!(log.lines(), ["start a", "up a"]);
    }

    async fn case_044_on_escalation_the_others_stop_in_reverse_and_the_reason_is_a_shutdown() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let (tree, nursery, exits) = nursery(0).await;
        let mind = [&a, &b, &c].iter().fold(allowing(0, "mind", Strategy::OneForOne), |spec, room| spec.child(room.spec()));
        nursery.start_child(ChildSpec::supervisor(mind).restart(Restart::Temporary)).await.unwrap();
        log.taken();
        b.tell(Order::Panic("ouch"));
        let exit = Exit::Shutdown("it gave up on trials/mind/b: panicked: ouch".to_owned());
        assert_eq!(exits.next(LONG).await, Some(ChildExit { id: "mind".to_owned(), exit }));
        assert_eq!(log.lines(), ["down c", "down a"]);
        tree.stop(LONG).await.unwrap();
    }

    async fn case_045_a_permanent_supervisor_that_gave_up_comes_back_with_its_children_and_a_clean_slate() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let mind = allowing(1, "mind", Strategy::OneForOne).child(b.spec()).child(c.spec());
        let tree = start(allowing(9, "house", Strategy::OneForOne).child(a.spec()).tree(mind)).await.unwrap();
        c.tell(Order::Panic("one"));
        c.reaches(2).await;
        log.taken();
        c.tell(Order::Panic("two"));
        c.reaches(3).await;
        assert_eq!(log.lines(), ["down b", "start b", "up b", "start c", "up c"]);
        c.tell(Order::Panic("three"));
        c.reaches(4).await;
        assert_eq!(tree.snapshot().find("mind").unwrap().restarts, 1);
        assert_eq!(a.generation().await, 1);
    }

    async fn case_046_a_transient_supervisor_that_gave_up_stays_down() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let mind = ChildSpec::supervisor(allowing(0, "mind", Strategy::OneForOne).child(b.spec()));
        let spec = allowing(9, "house", Strategy::OneForOne).child(a.spec()).child(mind.restart(Restart::Transient));
        let tree = start(spec).await.unwrap();
        b.tell(Order::Panic("ouch"));
        is_down(&tree, "mind").await;
        root(&tree).ping(LONG).await.unwrap();
        assert_eq!(presence(&root(&tree), "mind").await, Some(Presence::Down));
        assert_eq!((a.generation().await, b.starts.load(Ordering::SeqCst)), (1, 1));
    }

    async fn case_047_restarts_are_counted_over_all_children_together() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let spec = [&a, &b, &c].iter().fold(allowing(2, "house", Strategy::OneForOne), |spec, room| spec.child(room.spec()));
        let tree = start(spec).await.unwrap();
        for room in [&a, &b] {
            room.tell(Order::Panic("ouch"));
            room.reaches(2).await;
        }
        c.tell(Order::Panic("ouch"));
        assert!(matches!(tree.ended().await, Ended::GaveUp { path, .. } if path == "c"));
    }

    async fn case_048_a_restart_whose_start_fails_is_tried_again_and_counted() {
        let log = Log::default();
        for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
            let a = with("a", &log, |habits| habits.starts_failing_from = 2);
            let tree = start(allowing(4, "house", strategy).child(a.spec())).await.unwrap();
            a.tell(Order::Panic("ouch"));
            let ended = Ended::GaveUp { path: "a".to_owned(), reason: "the port is taken".to_owned() };
            assert_eq!(tree.ended().await, ended);
            assert_eq!(a.starts.load(Ordering::SeqCst), 5);
        }
        let (tree, nursery, _) = nursery(4).await;
        let a = with("a", &log, |habits| habits.starts_failing_from = 2);
        nursery.start_child(a.spec()).await.unwrap();
        a.tell(Order::Panic("ouch"));
        assert!(matches!(tree.ended().await, Ended::GaveUp { path, .. } if path == "trials"));
        assert_eq!(a.starts.load(Ordering::SeqCst), 5);
    }

    async fn case_049_a_supervisor_answers_at_once_while_a_child_is_restarting() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let hanging = with("hanging", &log, |habits| habits.starts_hanging_from = 2);
        let spec = allowing(9, "house", Strategy::OneForOne)
            .child(a.spec().backoff(waiting(5000)))
            .child(hanging.spec())
            .child(b.spec());
        let tree = start(spec).await.unwrap();
        waits(&tree, &a).await;
        hanging.tell(Order::Panic("ouch"));
        until(|| hanging.starts.load(Ordering::SeqCst) == 2).await;
        let control = root(&tree);
        // What is paused stands still while somebody is asked, so there any wait at all would show.
        let limit = if is_paused() { Duration::from_millis(10) } else { seconds(5) };
        let c = Room::new("c", &log);
        let answers = async {
            for id in ["a", "hanging"] {
                assert_eq!(presence(&control, id).await, Some(Presence::Restarting));
                assert_eq!(control.restart_child(id).await, Err(ChildError::Restarting { id: id.to_owned() }));
                control.child_rules(id).await.unwrap();
            }
            let count = Count { specs: 3, active: 1, supervisors: 0, workers: 3 };
            assert_eq!(control.count_children().await, Ok(count));
            control.start_child(c.spec()).await.unwrap();
            control.terminate_child("b").await.unwrap();
        };
        tokio::time::timeout(limit, answers).await.unwrap();
    }

    async fn case_050_a_child_that_is_terminated_while_it_restarts_never_comes_back() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let b = with("b", &log, |habits| habits.starts_hanging_from = 2);
        let spec = allowing(9, "house", Strategy::OneForOne).child(a.spec().backoff(waiting(5))).child(b.spec());
        let tree = start(spec).await.unwrap();
        waits(&tree, &a).await;
        b.tell(Order::Panic("ouch"));
        until(|| b.starts.load(Ordering::SeqCst) == 2).await;
        let due = Instant::now() + beats(6);
        for id in ["a", "b"] {
            root(&tree).terminate_child(id).await.unwrap();
            assert_eq!(presence(&root(&tree), id).await, Some(Presence::Down));
        }
        until(|| Instant::now() > due).await;
        root(&tree).ping(LONG).await.unwrap();
        assert_eq!(actors(&root(&tree)).await, []);
        assert_eq!([&a, &b].map(|room| room.starts.load(Ordering::SeqCst)), [2, 2]);
    }

    async fn case_051_what_is_done_by_hand_is_never_counted() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = start(allowing(0, "house", Strategy::OneForAll).child(a.spec())).await.unwrap();
        let control = root(&tree);
        for generation in 2..10 {
            control.terminate_child("a").await.unwrap();
            control.restart_child("a").await.unwrap();
            assert_eq!(a.generation().await, generation);
        }
        for _ in 0..5 {
            control.terminate_child("a").await.unwrap();
            control.delete_child("a").await.unwrap();
            control.start_child(a.spec()).await.unwrap();
        }
        a.tell(Order::Panic("ouch"));
        assert!(matches!(tree.ended().await, Ended::GaveUp { .. }));
    }
}

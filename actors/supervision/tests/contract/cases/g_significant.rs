//! G. Significant children and auto-shutdown.

use super::*;

fn ending(auto_shutdown: AutoShutdown) -> TreeSpec {
    allowing(9, "house", Strategy::OneForOne).auto_shutdown(auto_shutdown)
}

fn done(path: &str) -> Ended {
    Ended::Done { path: path.to_owned() }
}

/// Waits until `room` is down, and checks that its supervisor has not ended because of it.
async fn goes_alone(tree: &Tree, room: &Room) {
    is_down(tree, room.id).await;
    root(tree).ping(LONG).await.unwrap();
    assert_eq!(state(tree, "house"), Some(State::Running));
}

cases! {
    async fn case_064_without_auto_shutdown_no_child_can_be_significant() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let significant = || a.spec().restart(Restart::Transient).significant();
        let refused = Err(StartError::Spec(SpecError::SignificantForNothing { id: "a".to_owned() }));
        assert_eq!(start(ending(AutoShutdown::Never).child(significant())).await.map(drop), refused);
        let tree = start(ending(AutoShutdown::Never)).await.unwrap();
        assert_eq!(root(&tree).start_child(significant()).await.map(drop), refused);
        let change = ending(AutoShutdown::Never).child(significant());
        assert_eq!(root(&tree).reconfigure(change).await, refused);
        assert!(log.lines().is_empty());
    }

    // Such children stayed, of a kind that no start would have let in.
    async fn case_064_nor_does_a_change_take_the_auto_shutdown_from_those_that_stay() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let refused = |id: &str| Err(StartError::Spec(SpecError::SignificantForNothing { id: id.to_owned() }));
        let significant = |room: &Room| room.spec().restart(Restart::Transient).significant();
        let tree = start(ending(AutoShutdown::Any).child(significant(&a))).await.unwrap();
        let control = root(&tree);
        control.start_child(significant(&b)).await.unwrap();
        assert_eq!(control.reconfigure(ending(AutoShutdown::Never)).await, refused("b"));
        assert_eq!((control.flags().await.unwrap().auto_shutdown, actors(&control).await.len()), (AutoShutdown::Any, 2));
        // Who is named with other rules, or goes, is not in the way.
        control.reconfigure(ending(AutoShutdown::Never).child(b.spec().restart(Restart::Transient))).await.unwrap();
        assert_eq!((actors(&control).await.len(), a.alive()), (1, 0));

        let trials = Nursery::new("trials");
        let nursery = |auto_shutdown| TreeSpec::nursery("trials", &trials).auto_shutdown(auto_shutdown);
        let _tree = start(ending(AutoShutdown::Never).child(ChildSpec::supervisor(nursery(AutoShutdown::All)))).await.unwrap();
        trials.start_child(significant(&c)).await.unwrap();
        assert_eq!(trials.control().reconfigure(nursery(AutoShutdown::Never)).await, refused("c"));
        trials.terminate_child("c").await.unwrap();
        trials.control().reconfigure(nursery(AutoShutdown::Never)).await.unwrap();
    }

    async fn case_065_any_transient_significant_child_that_stops_stops_the_supervisor() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let spec = ending(AutoShutdown::Any)
            .child(a.spec())
            .child(b.spec().restart(Restart::Transient).significant())
            .child(c.spec());
        let tree = start(spec).await.unwrap();
        log.taken();
        b.tell(Order::Stop);
        assert_eq!(tree.ended().await, done("b"));
        assert_eq!(log.lines(), ["down b", "down c", "down a"]);
    }

    async fn case_066_any_temporary_significant_child_that_ends_in_any_way_stops_the_supervisor() {
        for order in [Order::Stop, Order::Panic("ouch"), Order::Fail("ouch")] {
            let log = Log::default();
            let [a, b] = rooms(&log, ["a", "b"]);
            let spec = ending(AutoShutdown::Any).child(a.spec()).child(b.spec().restart(Restart::Temporary).significant());
            let tree = start(spec).await.unwrap();
            b.tell(order);
            assert_eq!(tree.ended().await, done("b"));
            assert_eq!(log.lines().last().map(String::as_str), Some("down a"));
        }
    }

    async fn case_067_all_significant_children_must_be_done() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let spec = ending(AutoShutdown::All)
            .child(a.spec().restart(Restart::Transient).significant())
            .child(b.spec().restart(Restart::Temporary).significant())
            .child(c.spec());
        let tree = start(spec).await.unwrap();
        a.tell(Order::Stop);
        goes_alone(&tree, &a).await;
        assert_eq!(c.generation().await, 1);
        b.tell(Order::Panic("ouch"));
        assert_eq!(tree.ended().await, done("b"));
        assert_eq!(log.lines().last().map(String::as_str), Some("down c"));
    }

    async fn case_068_a_transient_significant_child_that_fails_is_restarted() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let spec = ending(AutoShutdown::Any).child(a.spec().restart(Restart::Transient).significant()).child(b.spec());
        let tree = start(spec).await.unwrap();
        a.tell(Order::Panic("ouch"));
        a.reaches(2).await;
        assert_eq!(b.generation().await, 1);
        a.tell(Order::Stop);
        assert_eq!(tree.ended().await, done("a"));
    }

    async fn case_069_children_that_are_not_significant_never_stop_the_supervisor() {
        for auto_shutdown in [AutoShutdown::Any, AutoShutdown::All] {
            let log = Log::default();
            let [a, b, c] = rooms(&log, ["a", "b", "c"]);
            let spec = ending(auto_shutdown)
                .child(a.spec().restart(Restart::Transient))
                .child(b.spec().restart(Restart::Temporary))
                .child(c.spec().restart(Restart::Transient).significant());
            let tree = start(spec).await.unwrap();
            a.tell(Order::Stop);
            goes_alone(&tree, &a).await;
            b.tell(Order::Panic("ouch"));
            goes_alone(&tree, &b).await;
            assert_eq!(c.generation().await, 1);
        }
    }

    async fn case_070_a_significant_child_that_is_terminated_by_hand_stops_nobody() {
        for auto_shutdown in [AutoShutdown::Any, AutoShutdown::All] {
            let log = Log::default();
            let [a, b] = rooms(&log, ["a", "b"]);
            let spec = ending(auto_shutdown)
                .child(a.spec().restart(Restart::Transient).significant())
                .child(b.spec().restart(Restart::Temporary).significant());
            let tree = start(spec).await.unwrap();
            root(&tree).terminate_child("a").await.unwrap();
            root(&tree).terminate_child("b").await.unwrap();
            root(&tree).ping(LONG).await.unwrap();
            assert_eq!(state(&tree, "house"), Some(State::Running));
        }
    }

    async fn case_071_a_significant_child_that_goes_with_its_group_stops_nobody() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let spec = allowing(9, "house", Strategy::OneForAll)
            .auto_shutdown(AutoShutdown::Any)
            .child(a.spec())
            .child(b.spec().restart(Restart::Temporary).significant())
            .child(c.spec().restart(Restart::Transient).significant());
        let tree = start(spec).await.unwrap();
        a.tell(Order::Panic("ouch"));
        c.reaches(2).await;
        assert_eq!(presence(&root(&tree), "b").await, None);
        assert_eq!(a.generation().await, 2);
        c.tell(Order::Stop);
        assert_eq!(tree.ended().await, done("c"));
    }

    async fn case_072_an_auto_shutdown_is_a_shutdown_to_the_parent() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let mind = || {
            let mind = allowing(0, "mind", Strategy::OneForOne).auto_shutdown(AutoShutdown::Any);
            ChildSpec::supervisor(mind.child(b.spec().restart(Restart::Temporary).significant()))
        };
        let tree = start(ending(AutoShutdown::Any).child(a.spec()).child(mind())).await.unwrap();
        b.tell(Order::Stop);
        b.reaches(2).await;
        tree.stop(LONG).await.unwrap();

        let tree = start(ending(AutoShutdown::Any).child(a.spec()).child(mind().restart(Restart::Transient))).await.unwrap();
        b.tell(Order::Stop);
        goes_alone(&tree, &Room { id: "mind", ..b.clone() }).await;
        tree.stop(LONG).await.unwrap();

        let significant = mind().restart(Restart::Transient).significant();
        let tree = start(ending(AutoShutdown::Any).child(a.spec()).child(significant)).await.unwrap();
        log.taken();
        b.tell(Order::Stop);
        assert_eq!(tree.ended().await, done("mind"));
        assert_eq!(log.lines(), ["down b", "down a"]);
    }
}

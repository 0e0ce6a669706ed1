//! C. Restart types.

use super::*;

/// Tells a room of this restart type to end in this way, and returns whether it comes back and whether it stays known.
async fn after(restart: Restart, end: Order) -> (bool, bool) {
    let log = Log::default();
    let [a, b] = rooms(&log, ["a", "b"]);
    let spec = allowing(5, "house", Strategy::OneForOne).child(a.spec().restart(restart)).child(b.spec());
    let tree = start(spec).await.unwrap();
    let mut events = tree.events();
    a.tell(end);
    let mut seen = Vec::new();
    until(|| {
        seen.extend(told(&mut events));
        // The end is the first step, and the restart, if there is one, the second.
        seen.iter().any(|event| matches!(event.kind, EventKind::Stopped | EventKind::Failed { .. }))
    })
    .await;
    root(&tree).ping(LONG).await.unwrap();
    seen.extend(told(&mut events));
    let comes_back = seen.iter().any(|event| matches!(event.kind, EventKind::RestartScheduled { .. }));
    if comes_back {
        a.reaches(2).await;
    }
    let known = presence(&root(&tree), "a").await;
    assert_eq!(b.generation().await, 1);
    assert_eq!(comes_back, matches!(known, Some(Presence::Up(_))), "{known:?}");
    (comes_back, known.is_some())
}

async fn after_a_kill(restart: Restart) -> (bool, bool) {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = start(allowing(5, "house", Strategy::OneForOne).child(a.spec().restart(restart))).await.unwrap();
    let mut events = tree.events();
    a.socket.actor().unwrap().kill();
    let killed = |event: &Event| event.kind == EventKind::Failed { reason: "killed".to_owned(), handling: None };
    until(|| told(&mut events).iter().any(killed)).await;
    root(&tree).ping(LONG).await.unwrap();
    let known = presence(&root(&tree), "a").await;
    (known.as_ref().is_some_and(|known| *known != Presence::Down), known.is_some())
}

const BACK: (bool, bool) = (true, true);
const KEPT: (bool, bool) = (false, true);
const FORGOTTEN: (bool, bool) = (false, false);

cases! {
    async fn case_024_permanent_comes_back_after_a_normal_exit() {
        assert_eq!(after(Restart::Permanent, Order::Stop).await, BACK);
    }

    async fn case_025_permanent_comes_back_after_a_shutdown() {
        assert_eq!(after(Restart::Permanent, Order::StopBecause("shutdown")).await, BACK);
        assert_eq!(after(Restart::Permanent, Order::StopBecause("shutdown: done")).await, BACK);
    }

    async fn case_026_permanent_comes_back_after_a_failure() {
        assert_eq!(after(Restart::Permanent, Order::Panic("ouch")).await, BACK);
        assert_eq!(after(Restart::Permanent, Order::Fail("ouch")).await, BACK);
        assert_eq!(after_a_kill(Restart::Permanent).await, BACK);
    }

    async fn case_027_transient_stays_down_after_a_normal_exit_and_is_kept() {
        assert_eq!(after(Restart::Transient, Order::Stop).await, KEPT);
    }

    async fn case_028_transient_stays_down_after_a_shutdown_for_whatever_reason() {
        assert_eq!(after(Restart::Transient, Order::StopBecause("shutdown")).await, KEPT);
        assert_eq!(after(Restart::Transient, Order::StopBecause("shutdown: done")).await, KEPT);
    }

    async fn case_029_transient_comes_back_after_a_panic_an_error_and_a_kill() {
        assert_eq!(after(Restart::Transient, Order::Panic("ouch")).await, BACK);
        assert_eq!(after(Restart::Transient, Order::PanicWithoutText).await, BACK);
        assert_eq!(after(Restart::Transient, Order::Fail("ouch")).await, BACK);
        assert_eq!(after_a_kill(Restart::Transient).await, BACK);
    }

    async fn case_030_temporary_never_comes_back_and_is_forgotten() {
        for end in [Order::Stop, Order::StopBecause("shutdown"), Order::Panic("ouch"), Order::Fail("ouch")] {
            assert_eq!(after(Restart::Temporary, end).await, FORGOTTEN);
        }
        assert_eq!(after_a_kill(Restart::Temporary).await, FORGOTTEN);
    }

    async fn case_031_a_temporary_sibling_is_taken_down_with_the_group_and_does_not_come_back() {
        for strategy in [Strategy::OneForAll, Strategy::RestForOne] {
            let log = Log::default();
            let [a, b, c] = rooms(&log, ["a", "b", "c"]);
            let spec = allowing(5, "house", strategy)
                .child(a.spec())
                .child(b.spec().restart(Restart::Temporary))
                .child(c.spec());
            let tree = start(spec).await.unwrap();
            log.taken();
            a.tell(Order::Panic("ouch"));
            c.reaches(2).await;
            assert_eq!(log.lines(), ["down c", "down b", "start a", "up a", "start c", "up c"], "{strategy:?}");
            assert_eq!(presence(&root(&tree), "b").await, None);
        }
    }

    async fn case_032_nothing_of_a_temporary_child_is_retained() {
        let log = Log::default();
        let (tree, nursery, exits) = nursery(0).await;
        let arguments = Arc::new(());
        let house = root(&tree);
        for _ in 0..if is_paused() { 50_000 } else { 2_500 } {
            for by in [&house, &nursery.control()] {
                let (room, held) = (Room::new("trial", &log), Arc::clone(&arguments));
                let spec = ChildSpec::actor("trial", &room.socket.clone(), move || {
                    let _held = Arc::clone(&held);
                    (room.clone(), ())
                });
                by.start_child(spec.restart(Restart::Temporary)).await.unwrap();
                by.terminate_child("trial").await.unwrap();
            }
            log.taken();
            exits.taken();
        }
        until(|| Arc::strong_count(&arguments) == 1).await;
        assert_eq!(house.count_children().await.unwrap().specs, 1);
        assert_eq!(nursery.control().count_children().await, Ok(Count::default()));
    }
}

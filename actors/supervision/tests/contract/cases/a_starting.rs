//! A. Starting.

use super::*;

cases! {
    async fn case_001_a_supervisor_without_children_starts_reports_none_and_stops() {
        let tree = house(Strategy::OneForOne, &[]).await;
        assert_eq!(root(&tree).which_children().await, Ok(Vec::new()));
        assert_eq!(root(&tree).count_children().await, Ok(Count::default()));
        tree.stop(LONG).await.unwrap();
        assert_eq!(tree.ended().await, Ended::Stopped);
    }

    async fn case_002_start_returns_when_every_child_is_up_and_seen() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let mind = supervisor("mind", Strategy::OneForOne).child(b.spec());
        let tree = start(supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(c.spec())).await.unwrap();
        assert_eq!(log.lines().iter().filter(|line| line.starts_with("up")).count(), 3);
        assert!([&a, &b, &c].iter().all(|room| room.socket.actor().is_some()));
        assert!(tree.snapshot().walk().iter().all(|place| place.state == State::Running));
        assert_eq!(actors(&root(&tree)).await.len(), 3);
    }

    async fn case_003_children_start_in_order_each_after_the_one_before_is_up() {
        let log = Log::default();
        let [a, b, c] = rooms(&log, ["a", "b", "c"]);
        let _tree = house(Strategy::RestForOne, &[&a, &b, &c]).await;
        assert_eq!(log.lines(), ["start a", "up a", "start b", "up b", "start c", "up c"]);
    }

    async fn case_004_a_start_that_fails_undoes_the_earlier_ones_in_reverse_and_names_the_child() {
        refused(|habits| habits.starts_failing_from = 1, "the port is taken").await;
    }

    async fn case_005_a_start_that_fails_at_first_is_neither_retried_nor_counted() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let b = with("b", &log, |habits| habits.starts_failing_from = 1);
        let error = start(allowing(u32::MAX, "house", Strategy::OneForOne).child(a.spec()).child(b.spec())).await;
        assert!(matches!(error, Err(StartError::Child { .. })));
        assert_eq!(b.starts.load(Ordering::SeqCst), 1);

        // A supervisor that refuses to start counts once with its parent, however many restarts it allows itself.
        let mind = allowing(u32::MAX, "mind", Strategy::OneForOne).child(b.spec());
        assert!(start(allowing(u32::MAX, "house", Strategy::OneForOne).tree(mind)).await.is_err());
        assert_eq!(b.starts.load(Ordering::SeqCst), 2);
    }

    async fn case_006_a_start_that_panics_is_a_start_that_fails() {
        refused(|habits| habits.panics_while_starting = true, "panicked: no start today").await;
    }

    async fn case_007_a_child_may_ignore_its_start() {
        let log = Log::default();
        let ignoring = |id| with(id, &log, |habits| habits.ignores = true);
        let [a, b, c] = ["a", "b", "c"].map(ignoring);
        let d = Room::new("d", &log);
        let spec = allowing(0, "house", Strategy::OneForOne)
            .child(a.spec())
            .child(b.spec().restart(Restart::Transient))
            .child(c.spec().restart(Restart::Temporary))
            .child(d.spec());
        let tree = start(spec).await.unwrap();
        let control = root(&tree);
        let ids = || async { control.which_children().await.unwrap().into_iter().map(|child| child.id).collect::<Vec<_>>() };
        assert_eq!(ids().await, ["a", "b", "d"]);
        assert_eq!(presence(&control, "a").await, Some(Presence::Down));
        assert_eq!(presence(&control, "b").await, Some(Presence::Down));
        assert_eq!(d.generation().await, 1);

        assert_eq!(control.start_child(ignoring("e").spec()).await.unwrap().actor, None);
        assert_eq!(control.start_child(ignoring("f").spec().restart(Restart::Temporary)).await.unwrap().actor, None);
        assert_eq!(ids().await, ["a", "b", "d", "e"]);
        assert_eq!(control.restart_child("a").await.unwrap().actor, None);

        let (_house, nursery, exits) = nursery(0).await;
        for restart in [Restart::Permanent, Restart::Temporary] {
            let started = nursery.start_child(ignoring("g").spec().restart(restart)).await.unwrap();
            assert_eq!(started, Started { id: "g".to_owned(), actor: None, info: None });
        }
        assert!(nursery.children().is_empty());
        assert_eq!(exits.taken(), []);
    }

    async fn case_008_a_supervisor_that_is_not_needed_or_makes_no_sense_is_not_there() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let unneeded = || supervisor("house", Strategy::OneForOne).start_if(|| false).child(a.spec());
        assert_eq!(start(unneeded()).await.unwrap_err(), StartError::Ignored { path: "house".to_owned() });
        let no_window = Intensity { restarts_max: 1, within: Duration::ZERO };
        let error = start(supervisor("house", Strategy::OneForOne).intensity(no_window).child(a.spec())).await.unwrap_err();
        assert_eq!(error, StartError::Spec(SpecError::EmptyWindow { supervisor: "house".to_owned() }));
        assert!(log.lines().is_empty());

        let mind = supervisor("mind", Strategy::OneForOne).start_if(|| false).child(a.spec());
        let tree = start(supervisor("house", Strategy::OneForOne).tree(mind).child(b.spec())).await.unwrap();
        assert_eq!(presence(&root(&tree), "mind").await, Some(Presence::Down));
        assert_eq!(log.lines(), ["start b", "up b"]);
    }

    async fn case_009_a_spec_that_makes_no_sense_is_refused_with_its_own_reason_before_anything_starts() {
        // What has no start function or no known strategy cannot be written down.
        let log = Log::default();
        let [a, slash, nameless] = rooms(&log, ["a", "a/b", ""]);
        let house = || TreeSpec::new("house", Strategy::OneForOne);
        let any = || house().auto_shutdown(AutoShutdown::Any);
        let no_window = Intensity { restarts_max: 1, within: Duration::ZERO };
        let jitter = Backoff { jitter_ratio: 1.5, ..Backoff::default() };
        let shrinking = Backoff { first: seconds(2), max: seconds(1), ..Backoff::default() };
        let refused = [
            house().child(nameless.spec()),
            house().child(a.spec()).child(a.spec()),
            house().child(a.spec()).intensity(no_window),
            house().child(a.spec().stall_after(Duration::ZERO)),
            house().child(a.spec().start_within(Duration::ZERO)),
            house().child(a.spec().kill_within(Duration::ZERO)),
            house().child(a.spec().shutdown(Shutdown::Within(Duration::ZERO))),
            house().child(a.spec().backoff(Backoff { healthy_after: Duration::ZERO, ..Backoff::default() })),
            house().child(a.spec().backoff(jitter)),
            house().child(a.spec().backoff(shrinking)),
            any().child(a.spec().significant()),
            house().child(a.spec().restart(Restart::Transient).significant()),
        ];
        let mut reasons = Vec::new();
        for spec in refused {
            let Err(StartError::Spec(error)) = start(spec).await else { panic!("nonsense was started") };
            assert!(!reasons.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(&error)), "{error}");
            reasons.push(error);
        }
        assert!(matches!(start(house().tree(house().child(slash.spec()))).await, Err(StartError::Spec(SpecError::BadId { .. }))));
        assert!(log.lines().is_empty());

        let (_house, nursery, _) = nursery(0).await;
        let error = nursery.start_child(slash.spec()).await.unwrap_err();
        assert!(matches!(error, StartError::Spec(SpecError::BadId { .. })));
    }

    async fn case_010_what_a_spec_leaves_out_is_as_in_otp_and_can_be_read() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let socket = a.socket.clone();
        let bare = ChildSpec::actor("a", &socket, move || (a.clone(), ()));
        let mind = TreeSpec::new("mind", Strategy::OneForOne);
        let tree = start(TreeSpec::new("house", Strategy::OneForOne).child(bare).tree(mind)).await.unwrap();
        let control = root(&tree);
        let worker = control.child_rules("a").await.unwrap();
        assert_eq!((worker.restart, worker.shutdown), (Restart::Permanent, Shutdown::Within(seconds(5))));
        assert!(!worker.significant);
        let supervisor = control.child_rules("mind").await.unwrap();
        assert_eq!((supervisor.restart, supervisor.shutdown), (Restart::Permanent, Shutdown::Unlimited));
        let flags = control.flags().await.unwrap();
        assert_eq!((flags.strategy, flags.auto_shutdown), (Some(Strategy::OneForOne), AutoShutdown::Never));
        assert_eq!(flags.intensity, Intensity { restarts_max: 1, within: seconds(5) });
        assert!(matches!(control.child_rules("b").await, Err(ChildError::NotFound { .. })));
    }

    async fn case_011_what_a_start_has_to_say_reaches_whoever_asked_for_it() {
        let log = Log::default();
        let tree = house(Strategy::OneForOne, &[]).await;
        let a = with("a", &log, |habits| habits.info = Some("port 4711"));
        let control = root(&tree);
        assert_eq!(control.start_child(a.spec()).await.unwrap().info.as_deref(), Some("port 4711"));
        control.terminate_child("a").await.unwrap();
        assert_eq!(control.restart_child("a").await.unwrap().info.as_deref(), Some("port 4711"));

        let (_house, nursery, _) = nursery(0).await;
        let log = log.clone();
        let template = nursery.template(move |id, info: &'static str| {
            let room = with("trial", &log, |habits| habits.info = Some(info));
            ChildSpec::actor(id, &room.socket.clone(), move || (room.clone(), ()))
        });
        for (info, id) in [("left", "trials-1"), ("right", "trials-2")] {
            let started = template.start_child(info).await.unwrap();
            assert_eq!((started.id.as_str(), started.info.as_deref()), (id, Some(info)));
        }
    }
}

async fn refused(habit: impl FnOnce(&mut Habits), expected: &str) {
    let log = Log::default();
    let [a, b, d] = rooms(&log, ["a", "b", "d"]);
    let c = with("c", &log, habit);
    let mind = supervisor("mind", Strategy::OneForOne).child(b.spec()).child(c.spec());
    let spec = supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec());
    let error = start(spec).await.unwrap_err();
    assert_eq!(error, StartError::Child { path: "mind/c".to_owned(), reason: expected.to_owned() });
    assert_eq!(log.lines(), ["start a", "up a", "start b", "up b", "start c", "down b", "down a"]);
    assert!([&a, &b, &c, &d].iter().all(|room| room.socket.actor().is_none()));
}

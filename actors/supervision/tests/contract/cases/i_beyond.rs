//! I. Beyond OTP: waiting, stalling, killing, and what is preserved.

use super::*;

fn waiting(wait: u32) -> Backoff {
    Backoff { first: beats(wait), max: beats(wait), jitter_ratio: 0.0, healthy_after: LONG }
}

type Habit = fn(&mut Habits);

/// Lets `room` fail until generation `last` is up, and returns how long each restart was to wait.
async fn delays(tree: &Tree, room: &Room, last: u32) -> Vec<Duration> {
    let mut events = tree.events();
    let first = room.generation().await;
    for generation in first + 1..=last {
        room.tell(Order::Panic("ouch"));
        room.reaches(generation).await;
    }
    let delay = |event: Event| match event.kind {
        EventKind::RestartScheduled { delay } => Some(delay),
        _ => None,
    };
    told(&mut events).into_iter().filter_map(delay).collect()
}

cases! {
    async fn case_077_a_back_off_doubles_up_to_its_longest_and_is_forgotten_after_a_healthy_while() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let backoff = Backoff { first: beats(1), max: beats(4), jitter_ratio: 0.0, healthy_after: beats(8) };
        let tree = start(allowing(99, "house", Strategy::OneForOne).child(a.spec().backoff(backoff))).await.unwrap();
        assert_eq!(delays(&tree, &a, 6).await, [0, 1, 2, 4, 4].map(beats));
        until(|| tree.snapshot().find("a").unwrap().uptime.is_some_and(|up| up >= beats(8))).await;
        assert_eq!(delays(&tree, &a, 8).await, [0, 1].map(beats));
    }

    async fn case_078_while_a_group_waits_it_is_down_and_can_be_called_off() {
        let log = Log::default();
        let [a, b] = rooms(&log, ["a", "b"]);
        let spec = |wait| allowing(99, "house", Strategy::OneForAll).child(a.spec().backoff(waiting(wait))).child(b.spec());
        let tree = start(spec(5_000)).await.unwrap();
        a.tell(Order::Panic("one"));
        b.reaches(2).await;
        log.taken();
        a.tell(Order::Panic("two"));
        until(|| log.lines() == ["down b"]).await;
        until(|| matches!(state(&tree, "a"), Some(State::Restarting { .. }))).await;
        let control = root(&tree);
        assert_eq!(presence(&control, "b").await, Some(Presence::Restarting));
        control.terminate_child("b").await.unwrap();
        assert_eq!(presence(&control, "b").await, Some(Presence::Down));
        control.delete_child("b").await.unwrap();
        control.terminate_child("a").await.unwrap();
        assert_eq!(state(&tree, "a"), Some(State::Stopped));
        let before = Instant::now();
        tree.stop(LONG).await.unwrap();
        took(before, 0);
        assert_eq!(log.lines(), ["down b"]);

        // A stop does not wait for a restart either.
        let tree = start(spec(5_000)).await.unwrap();
        let generation = a.generation().await;
        a.tell(Order::Panic("one"));
        a.reaches(generation + 1).await;
        a.tell(Order::Panic("two"));
        until(|| matches!(state(&tree, "a"), Some(State::Restarting { .. }))).await;
        let before = Instant::now();
        tree.stop(LONG).await.unwrap();
        took(before, 0);
    }

    async fn case_079_a_back_off_longer_than_the_window_does_not_evade_escalation() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let intensity = Intensity { restarts_max: 2, within: beats(1) };
        let backoff = Backoff { first: beats(3), max: beats(3), jitter_ratio: 0.0, healthy_after: LONG };
        let spec = allowing(0, "house", Strategy::OneForOne).intensity(intensity);
        let tree = start(spec.child(a.spec().backoff(backoff).failures_max(4))).await.unwrap();
        assert_eq!(delays(&tree, &a, 5).await.len(), 4);
        a.tell(Order::Panic("ouch"));
        let reason = "5 failures in a row, at last: panicked: ouch".to_owned();
        assert_eq!(tree.ended().await, Ended::GaveUp { path: "a".to_owned(), reason });
    }

    async fn case_080_a_start_that_never_returns_ends_at_its_limit_and_counts_as_failed() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.starts_hanging_from = 2);
        let b = Room::new("b", &log);
        let spec = allowing(2, "house", Strategy::OneForOne).child(a.spec().start_within(beats(4))).child(b.spec());
        let tree = start(spec).await.unwrap();
        let before = Instant::now();
        a.tell(Order::Panic("ouch"));
        until(|| a.starts.load(Ordering::SeqCst) == 2).await;
        root(&tree).ping(seconds(5)).await.unwrap();
        let reason = format!("it did not start within {:?}", beats(4));
        assert_eq!(tree.ended().await, Ended::GaveUp { path: "a".to_owned(), reason });
        took(before, 8);
        assert_eq!(a.starts.load(Ordering::SeqCst), 3);
        assert_eq!(log.lines().last().map(String::as_str), Some("down b"));
    }

    async fn case_081_a_handler_without_progress_is_found_within_twice_its_limit_and_replaced() {
        let log = Log::default();
        let name = |order: &Order| if matches!(order, Order::Hang) { "hang" } else { "other" };
        let mailbox = Mailbox { name: Some(name), ..Mailbox::default() };
        let a = Room { socket: Socket::with("a", mailbox), ..Room::new("a", &log) };
        let tree = start(allowing(9, "house", Strategy::OneForOne).child(a.spec().stall_after(beats(4)))).await.unwrap();
        let mut events = tree.events();
        a.tell(Order::Hang);
        a.reaches(2).await;
        let stalled = told(&mut events).into_iter().find_map(|event| match event.kind {
            EventKind::Stalled { silent, handling } => Some((silent, handling)),
            _ => None,
        });
        let (silent, handling) = stalled.unwrap();
        assert_eq!(handling, "hang");
        let most = if is_paused() { beats(8) } else { beats(8) + seconds(10) };
        assert!(silent >= beats(4) && silent < most, "{silent:?}");
        assert!(!tree.snapshot().is_degraded());
    }

    async fn case_083_a_panic_in_any_callback_is_one_end_and_harms_nobody_else() {
        let habits: [(&str, Habit, &str, &str); 4] = [
            ("after the start", |habits| habits.panics_after_starting = true, "panicked: not after all", "post_start"),
            ("when told", |habits| habits.panics_when_told = true, "panicked: no news today", "handle_supervisor_evt"),
            ("in its handler", |_| (), "panicked: ouch", "other"),
            // What follows from its end does not change why it ended.
            ("when dropped", |habits| habits.state_panics_when_dropped = true, "failed: ouch", "other"),
        ];
        for (when, habit, reason, handling) in habits {
            let log = Log::default();
            let a = with("a", &log, habit).behind(Mailbox::default());
            let (b, stray) = (Room::new("b", &log), Room::new("stray", &log));
            let tree = house(Strategy::OneForOne, &[]).await;
            let mut events = tree.events();
            root(&tree).start_child(a.spec()).await.unwrap();
            root(&tree).start_child(b.spec()).await.unwrap();
            match when {
                "in its handler" => a.tell(Order::Panic("ouch")),
                "when dropped" => a.tell(Order::Fail("ouch")),
                "when told" => {
                    let (child, join) = ractor::Actor::spawn(None, stray, ()).await.unwrap();
                    child.link(a.socket.actor().unwrap().get_cell());
                    child.stop(None);
                    join.await.unwrap();
                }
                _ => {}
            }
            a.reaches(2).await;
            let ends = told(&mut events).into_iter().filter(|event| matches!(event.kind, EventKind::Failed { .. }));
            let failed = EventKind::Failed { reason: reason.to_owned(), handling: Some(handling) };
            assert_eq!(ends.map(|end| (end.path, end.kind)).collect::<Vec<_>>(), [("a".to_owned(), failed)], "{when}");
            assert_eq!(b.generation().await, 1, "{when}");
            tree.stop(LONG).await.unwrap();
        }
        // Before the start and after the stop there is no end that could be a failure of its own.
        let log = Log::default();
        let (a, b) = (with("a", &log, |habits| habits.panics_while_starting = true), Room::new("b", &log));
        let c = with("c", &log, |habits| habits.panics_while_stopping = true);
        let tree = house(Strategy::OneForOne, &[&b]).await;
        let mut events = tree.events();
        assert!(root(&tree).start_child(a.spec()).await.is_err());
        root(&tree).start_child(c.spec()).await.unwrap();
        c.tell(Order::Stop);
        c.reaches(2).await;
        let told = told(&mut events);
        let count = |id: &str| told.iter().filter(|event| event.path == id
            && matches!(event.kind, EventKind::Failed { .. } | EventKind::StartFailed { .. })).count();
        assert_eq!((count("a"), count("b"), count("c")), (1, 0, 1));
        let why = |kind: EventKind| told.iter().any(|event| event.kind == kind);
        assert!(why(EventKind::StartFailed { reason: "panicked: no start today".to_owned() }));
        let (reason, handling) = ("panicked: no stop today".to_owned(), Some("post_stop"));
        assert!(why(EventKind::Failed { reason, handling }));
        assert_eq!(b.generation().await, 1);
    }

    async fn case_084_the_reason_of_an_end_is_preserved() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = start(allowing(99, "house", Strategy::OneForOne).child(a.spec())).await.unwrap();
        let ends = [
            (Order::PanicWithError("no gpu"), "panicked: no gpu"),
            (Order::PanicWithoutText, "panicked: a panic that carries neither text nor an error"),
            (Order::FailDeeply, "failed: cannot read the plan: the disk is full"),
            (Order::FailElsewhere("lost in a task"), "lost in a task"),
        ];
        for (generation, (order, reason)) in (2..).zip(ends) {
            a.tell(order);
            a.reaches(generation).await;
            let failure = tree.snapshot().find("a").unwrap().last_failure.clone().unwrap();
            assert!(failure.contains(reason), "{failure}");
        }

        // Whoever hears of the end as a value is told the class and the reason apart.
        let (_house, nursery, exits) = nursery(0).await;
        let ends = [
            (Order::PanicWithError("no gpu"), Exit::Panicked("no gpu".to_owned())),
            (Order::FailDeeply, Exit::Failed("cannot read the plan: the disk is full".to_owned())),
            (Order::Panic("ouch"), Exit::Panicked("ouch".to_owned())),
            (Order::StopBecause("killed"), Exit::Normal),
        ];
        for (order, exit) in ends {
            let trial = Room::new("trial", &log);
            nursery.start_child(trial.spec().restart(Restart::Temporary)).await.unwrap();
            trial.tell(order);
            assert_eq!(exits.next(LONG).await.unwrap().exit, exit);
            until(|| nursery.children().is_empty()).await;
        }
    }

    async fn case_085_a_caller_that_went_away_does_not_kill_who_answers_it() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let _tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Work { step: beats(2), steps: 1 });
        let late = a.socket.call(Order::EchoStrictly, beats(1)).await;
        assert_eq!(late, Err(CallError::Timeout { room: "a".to_owned(), within: beats(1) }));
        a.tell(Order::Work { step: beats(2), steps: 1 });
        assert!(tokio::time::timeout(beats(1), a.socket.call(Order::EchoStrictly, LONG)).await.is_err());
        assert_eq!(a.socket.call(Order::EchoStrictly, LONG).await, Ok(1));
    }

    async fn case_089_a_room_goes_on_from_its_checkpoint_and_afresh_from_one_that_is_not_sound() {
        let checkpoint = Checkpoint::new();
        let socket = Socket::new("counter");
        let spec = ChildSpec::actor("counter", &socket, {
            let checkpoint = checkpoint.clone();
            move || (Counter(checkpoint.clone()), ())
        });
        let tree = start(allowing(99, "house", Strategy::OneForOne).child(spec.backoff(at_once()))).await.unwrap();
        let mut events = tree.events();
        for count in 1..=3 {
            assert_eq!(socket.call(Count::Up, LONG).await, Ok(count));
        }
        let fall = async |generation| {
            socket.send(Count::Fall).unwrap();
            until(|| tree.snapshot().find("counter").is_some_and(|place| place.generation == generation)).await;
            until(|| socket.actor().is_some()).await;
        };
        fall(2).await;
        assert_eq!(socket.call(Count::Up, LONG).await, Ok(4));
        checkpoint.commit(666);
        fall(3).await;
        assert_eq!(socket.call(Count::Up, LONG).await, Ok(1));
        let afresh = EventKind::StartedAfresh { reason: "nobody counts as far as 666".to_owned() };
        assert_eq!(told(&mut events).iter().filter(|event| event.kind == afresh).count(), 1);
        fall(4).await;
        assert_eq!(socket.call(Count::Up, LONG).await, Ok(2));
    }
}

/// Counts, and goes on where its predecessor stopped.
struct Counter(Checkpoint<u32>);

enum Count {
    Up(ractor::RpcReplyPort<u32>),
    Fall,
}

impl ractor::Actor for Counter {
    type Msg = Count;
    type State = u32;
    type Arguments = ();

    async fn pre_start(&self, _: ractor::ActorRef<Count>, (): ()) -> Result<u32, ractor::ActorProcessingErr> {
        let sound = |count: &u32| if *count > 100 { Err(format!("nobody counts as far as {count}")) } else { Ok(()) };
        Ok(self.0.resume(sound).unwrap_or_default())
    }

    async fn handle(
        &self,
        _: ractor::ActorRef<Count>,
        message: Count,
        count: &mut u32,
    ) -> Result<(), ractor::ActorProcessingErr> {
        match message {
            Count::Up(reply) => {
                *count += 1;
                self.0.commit(*count);
                reply.send(*count)?;
                Ok(())
            }
            Count::Fall => Err("it fell".into()),
        }
    }
}

// What blocks its thread for good needs a second one to notice it, and real time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_081_a_handler_that_blocks_its_thread_is_given_up_replaced_and_degrades_the_tree() {
    let log = Log::default();
    let a = Room::new("a", &log).behind(Mailbox::default());
    let limit = Duration::from_millis(40);
    let spec = a.spec().stall_after(limit).kill_within(limit);
    let tree = start(allowing(9, "house", Strategy::OneForOne).child(spec)).await.unwrap();
    let mut events = tree.events();
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    a.reaches(2).await;
    let stalled = told(&mut events).into_iter().find_map(|event| match event.kind {
        EventKind::Stalled { silent, handling } => Some((silent, handling)),
        _ => None,
    });
    // Real time passes for the blocked thread alone, so a busy machine may be late.
    let (silent, handling) = stalled.unwrap();
    assert!(silent >= limit && silent < 2 * limit + seconds(10) && handling == "block", "{silent:?} {handling}");
    assert!(tree.snapshot().is_degraded());
    assert_eq!(tree.snapshot().find("a").unwrap().leaked, 1);
    drop(release);
    until(|| !tree.snapshot().is_degraded()).await;
    assert_eq!(a.generation().await, 2);
    tree.stop(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_082_a_kill_is_verified_and_an_address_never_leads_to_two_generations() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let limit = Duration::from_millis(40);
    let spec = a.spec().shutdown(Shutdown::Brutal).kill_within(limit);
    let tree = start(allowing(9, "house", Strategy::OneForOne).child(spec)).await.unwrap();
    let mut events = tree.events();
    let blocked = a.socket.actor().unwrap();
    let (release, until_released) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(until_released));
    until(|| tree.snapshot().find("a").unwrap().busy_for.is_some()).await;
    let control = root(&tree);
    let before = Instant::now();
    control.terminate_child("a").await.unwrap();
    assert!(before.elapsed() >= limit);
    let leaks = told(&mut events).into_iter().filter(|event| event.kind == EventKind::Leaked).count();
    assert_eq!(leaks, 1);
    assert!(a.socket.actor().is_none());
    control.restart_child("a").await.unwrap();
    let successor = a.socket.actor().unwrap();
    assert_ne!(successor.get_id(), blocked.get_id());
    drop(release);
    until(|| !tree.snapshot().is_degraded()).await;
    assert_eq!(a.socket.actor().unwrap().get_id(), successor.get_id());
    assert_eq!(a.generation().await, 2);
}

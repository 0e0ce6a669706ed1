//! H. Reports and introspection.

use std::collections::BTreeMap;

use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

cases! {
    async fn case_073_each_step_is_told_once_with_all_that_is_known_of_it() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.start_failing = 3).behind(Mailbox::default());
        let b = with("b", &log, |habits| habits.panics_while_stopping = true);
        let rules = |spec: ChildSpec| spec.restart(Restart::Transient).shutdown(Shutdown::Within(beats(500)));
        let mind = allowing(2, "mind", Strategy::OneForOne).child(rules(b.spec())).child(rules(a.spec()));
        let mind = ChildSpec::supervisor(mind).restart(Restart::Temporary);
        let tree = start(allowing(0, "house", Strategy::OneForOne).child(mind)).await.unwrap();
        let mut events = tree.events();
        a.tell(Order::Fail("one"));
        a.reaches(2).await;
        let worked = a.socket.call(Order::Echo, LONG).await;
        assert_eq!(worked, Ok(2));
        a.tell(Order::Fail("two"));
        let mut seen = Vec::new();
        until(|| {
            seen.extend(told(&mut events));
            seen.iter().any(|event| event.path == "mind" && event.kind == EventKind::Stopped)
        })
        .await;
        let failed = |text: &str| EventKind::Failed { reason: format!("failed: {text}"), handling: Some("other") };
        let scheduled = EventKind::RestartScheduled { delay: Duration::ZERO };
        let expected = [
            ("mind/a", 1, failed("one")),
            ("mind/a", 1, scheduled.clone()),
            ("mind/a", 2, EventKind::Started),
            ("mind/a", 2, failed("two")),
            ("mind/a", 2, scheduled),
            ("mind/a", 3, EventKind::StartFailed { reason: "not this time".to_owned() }),
            ("mind", 1, EventKind::GaveUp { reason: "mind/a: not this time".to_owned() }),
            ("mind/b", 1, EventKind::ShutdownFailed { reason: "panicked: no stop today".to_owned(), handling: Some("post_stop") }),
            ("mind", 1, EventKind::Stopped),
        ];
        let steps = seen.iter().filter(|event| !matches!(event.kind, EventKind::Lost { .. }));
        let steps: Vec<_> = steps.map(|event| (event.path.as_str(), event.generation, event.kind.clone())).collect();
        assert_eq!(steps, expected);
        let failure = seen.iter().find(|event| event.kind == failed("two")).unwrap();
        assert_eq!((failure.supervisor(), failure.id()), ("mind", "a"));
        assert_eq!((failure.restart, failure.shutdown), (Restart::Transient, Shutdown::Within(beats(500))));
        assert!(seen.iter().filter(|event| event.kind == EventKind::Started).all(|event| event.elapsed < LONG));
    }

    async fn case_074_who_was_never_started_makes_no_progress() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.ignores = true);
        let tree = house(Strategy::OneForOne, &[]).await;
        let mut events = tree.events();
        root(&tree).start_child(a.spec()).await.unwrap();
        root(&tree).terminate_child("a").await.unwrap();
        root(&tree).delete_child("a").await.unwrap();
        assert_eq!(told(&mut events), []);
    }

    async fn case_075_who_is_stuck_can_still_be_looked_at() {
        let log = Log::default();
        let name = |order: &Order| if matches!(order, Order::Hang) { "hang" } else { "other" };
        let mailbox = Mailbox { name: Some(name), ..Mailbox::default() };
        let a = Room { socket: Socket::with("a", mailbox), ..Room::new("a", &log) };
        let tree = house(Strategy::OneForOne, &[&a]).await;
        a.tell(Order::Fail("before"));
        a.reaches(2).await;
        let before = Instant::now();
        a.tell(Order::Hang);
        a.tell(Order::Stop);
        a.tell(Order::Stop);
        let look = || tree.snapshot().find("a").unwrap().clone();
        until(|| look().busy_for.is_some_and(|busy| busy >= beats(3))).await;
        let seen = look();
        assert_eq!((seen.state, seen.busy_with, seen.depth), (State::Running, Some("hang"), 2));
        assert_eq!((seen.generation, seen.restarts), (2, 1));
        assert_eq!(seen.last_failure.as_deref(), Some("failed: before"));
        // Two workers are timed by the kernel's ticks, and a tick is as late as the machine lets it be.
        assert!(!is_paused() || seen.busy_for.unwrap() <= before.elapsed());
        assert!((0.5..=1.0).contains(&seen.busy_ratio), "{}", seen.busy_ratio);
        tree.stop(Duration::ZERO).await.unwrap_err();
    }

    async fn case_076_a_supervisor_survives_strange_messages_and_askers_that_went_away() {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.stop_takes = beats(2));
        let mind = allowing(0, "mind", Strategy::OneForOne).child(a.spec());
        let tree = start(allowing(0, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        let Some(Presence::Up(cell)) = presence(&root(&tree), "mind").await else { panic!("mind is not up") };
        assert!(cell.send_message("what is this?".to_owned()).is_err());
        let control = tree.control("mind").unwrap();
        let impatient = tokio::time::timeout(Duration::from_micros(1), control.terminate_child("a"));
        assert!(impatient.await.is_err());
        is_down(&tree, "mind/a").await;
        let b = with("b", &log, |habits| habits.stop_takes = beats(2));
        drop(tokio::time::timeout(Duration::ZERO, control.start_child(b.spec())).await);
        until(|| b.socket.actor().is_some()).await;
        control.ping(LONG).await.unwrap();
        assert_eq!(tree.snapshot().find("mind").unwrap().generation, 1);
    }
}

/// Keeps what is logged by this crate, field by field.
#[derive(Clone, Default)]
struct Written(Arc<std::sync::Mutex<Vec<BTreeMap<&'static str, String>>>>);

/// Collects the fields of one line.
#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Written {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if fields.0.contains_key("path") {
            fields.0.insert("level", event.metadata().level().to_string());
            self.0.lock().unwrap().push(fields.0);
        }
    }
}

/// Returns what is logged of whoever has a path during `work`, which is done on paused time.
pub(super) fn logged(work: impl Future<Output = ()>) -> Vec<BTreeMap<&'static str, String>> {
    let written = Written::default();
    let subscriber = tracing_subscriber::registry().with(written.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(work));
    written.0.lock().unwrap().clone()
}

// It was logged without saying whose state it was, and what it said.
#[test]
fn case_083_a_state_that_panics_while_it_is_dropped_is_logged_with_its_path_and_its_words() {
    let test = "case_083_a_state_that_panics_while_it_is_dropped_is_logged_with_its_path_and_its_words";
    if !i_processes::is_alone(&format!("{}::{test}", module_path!())) {
        return;
    }
    let lines = logged(async {
        let log = Log::default();
        let a = with("a", &log, |habits| habits.state_panics_when_dropped = true);
        let mind = allowing(3, "mind", Strategy::OneForOne).child(a.spec());
        let tree = start(allowing(0, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        tree.stop(LONG).await.unwrap();
    });
    let dropped = lines.iter().filter(|line| line["message"] == "the state of an actor panicked while it was dropped");
    let said: Vec<[&str; 3]> =
        dropped.map(|line| ["level", "path", "panic"].map(|field| line[field].as_str())).collect();
    assert_eq!(said, [["ERROR", "mind/a", "the state does not want to go"]]);
}

#[test]
fn case_040_the_end_of_an_actor_that_is_no_child_is_warned_of() {
    let test = "case_040_the_end_of_an_actor_that_is_no_child_is_warned_of";
    if !i_processes::is_alone(&format!("{}::{test}", module_path!())) {
        return;
    }
    let lines = logged(async {
        let log = Log::default();
        let stray = Room::new("stray", &log);
        let tree = start(allowing(0, "house", Strategy::OneForOne).tree(supervisor("mind", Strategy::OneForAll)))
            .await
            .unwrap();
        let Some(Presence::Up(mind)) = presence(&root(&tree), "mind").await else { panic!("mind is not up") };
        let (actor, join) = ractor::Actor::spawn(None, stray, ()).await.unwrap();
        actor.link(mind);
        actor.send_message(Order::Stop).unwrap();
        join.await.unwrap();
        tree.control("mind").unwrap().ping(LONG).await.unwrap();
    });
    let warned: Vec<_> = lines.iter().filter(|line| line["message"].contains("no child of mine")).collect();
    let [warning] = warned[..] else { panic!("{lines:?}") };
    assert_eq!((warning["level"].as_str(), warning["path"].as_str()), ("WARN", "mind"));
}

#[test]
fn case_073_each_step_is_logged_with_all_that_is_known_of_it_as_fields() {
    // What was looked at first where nobody listened may stay unheard, so nobody else is to log here.
    let test = "case_073_each_step_is_logged_with_all_that_is_known_of_it_as_fields";
    if !i_processes::is_alone(&format!("{}::{test}", module_path!())) {
        return;
    }
    let lines = logged(async {
        let log = Log::default();
        let a = Room::new("a", &log).behind(Mailbox::default());
        let b = with("b", &log, |habits| habits.start_failing = 2);
        let slow = Backoff { first: seconds(2), max: seconds(2), ..at_once() };
        let a_spec =
            a.spec().restart(Restart::Transient).shutdown(Shutdown::Within(seconds(9))).stall_after(seconds(4));
        let mind = allowing(3, "mind", Strategy::OneForOne).child(a_spec.backoff(slow)).child(b.spec());
        let tree = start(allowing(0, "house", Strategy::OneForOne).tree(mind)).await.unwrap();
        a.tell(Order::Hang);
        a.reaches(2).await;
        a.tell(Order::Fail("again"));
        a.reaches(3).await;
        b.tell(Order::Fail("once too often"));
        assert!(matches!(tree.ended().await, Ended::GaveUp { path, .. } if path == "mind"));
    });
    let line = |message: &str, path: &str| {
        let is_it = |line: &&BTreeMap<&str, String>| line["message"] == message && line["path"] == path;
        let found: Vec<_> = lines.iter().filter(is_it).cloned().collect();
        assert!(!found.is_empty(), "{message} of {path} is not there: {lines:?}");
        found
    };
    for line in &lines {
        assert!(line["elapsed"].ends_with('s'), "{line:?}");
    }
    let of =
        |line: &BTreeMap<&str, String>, names: &[&str]| names.iter().map(|name| line[name].clone()).collect::<Vec<_>>();
    let all = ["level", "supervisor", "generation", "restart", "shutdown", "reason"];
    let failed = &line("failed", "mind/a")[1];
    assert_eq!(of(failed, &all), ["WARN", "mind", "2", "Transient", "Within(9s)", "\"failed: again\""]);
    assert_eq!(failed["handling"], "Some(\"other\")");
    let stalled = &line("stalled", "mind/a")[0];
    assert_eq!(of(stalled, &["level", "generation", "silent", "handling"]), ["WARN", "1", "4s", "\"hang\""]);
    let lost = &line("messages lost", "mind/a")[0];
    assert_eq!(of(lost, &["level", "handling", "waiting"]), ["WARN", "Some(\"hang\")", "0"]);
    let delays: Vec<_> = line("restart scheduled", "mind/a").iter().map(|line| line["delay"].clone()).collect();
    assert_eq!(delays, ["0ns", "2s"]);
    let started: Vec<_> =
        line("started", "mind/a").iter().map(|line| of(line, &["level", "generation"]).join(" ")).collect();
    assert_eq!(started, ["INFO 1", "INFO 2", "INFO 3"]);
    assert_eq!(of(&line("start failed", "mind/b")[0], &all[..4]), ["WARN", "mind", "2", "Permanent"]);
    let gave_up = &line("gave up", "mind")[0];
    assert_eq!(
        of(gave_up, &["level", "supervisor", "shutdown", "reason"]),
        ["ERROR", "", "Unlimited", "\"mind/b: not this time\""]
    );
    assert_eq!(line("stopped", "house").len(), 1);
}

// A thread that is blocked for good needs a second one to look at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_075_who_blocks_its_thread_can_still_be_looked_at() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = house(Strategy::OneForOne, &[&a]).await;
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    a.tell(Order::Block(blocked));
    a.tell(Order::Stop);
    let look = || tree.snapshot().find("a").unwrap().clone();
    until(|| look().busy_for.is_some_and(|busy| busy >= Duration::from_millis(20))).await;
    assert_eq!((look().state, look().depth), (State::Running, 1));
    drop(release);
    tree.stop(LONG).await.unwrap();
}

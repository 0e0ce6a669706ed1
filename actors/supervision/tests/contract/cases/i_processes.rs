//! I. Beyond OTP: the process around the tree.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Says to a test that it is the child process, and what it is to do.
const ROLE: &str = "KLOROS_SUPERVISION_ROLE";

/// Runs the test at `path` alone in a process of its own, which shares nothing with other tests, and returns whether this is it.
pub(crate) fn is_alone(path: &str) -> bool {
    if std::env::var(ROLE).is_ok() {
        return true;
    }
    let output = run_alone(path, "alone").output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// Returns the path of the test that tries the case in this module now.
pub(crate) fn path_of_case(module: &str) -> String {
    format!("{module}::{}", if is_paused() { "on_paused_time" } else { "on_two_workers" })
}

/// Returns what runs this test alone in a process of its own, in such a role.
fn a_process(test: &str, role: &str) -> Command {
    run_alone(&format!("{}::{test}", module_path!()), role)
}

fn run_alone(path: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", path.split_once("::").unwrap().1, "--nocapture"]).env(ROLE, role);
    command
}

// As a daemon would, the process ends with what the tree ended with: a failure of a test would be 101.
#[test]
#[allow(clippy::exit, reason = "the code of the process is the case")]
fn case_090_a_root_that_gives_up_ends_the_process_with_a_failure_after_an_orderly_stop() {
    if std::env::var(ROLE).is_ok() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let log = Log::default();
            let [a, b] = rooms(&log, ["a", "b"]);
            let spec = allowing(0, "house", Strategy::OneForOne).child(a.spec()).child(b.spec());
            let tree = start(spec).await.unwrap();
            // A watchdog is fed for as long as the root answers, and no longer.
            root(&tree).ping(seconds(5)).await.unwrap();
            b.tell(Order::Panic("ouch"));
            let ended = tree.ended().await;
            assert!(root(&tree).ping(seconds(5)).await.is_err());
            assert_eq!(log.lines().last().map(String::as_str), Some("down a"));
            ended
        });
        std::process::exit(i32::from(ended.code()));
    }
    let before = std::time::Instant::now();
    let test = "case_090_a_root_that_gives_up_ends_the_process_with_a_failure_after_an_orderly_stop";
    let output = a_process(test, "end").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(before.elapsed() < seconds(20));
}

/// Starts a house in which one room never stops, says so, and treats the signal to end as a daemon would.
#[allow(clippy::print_stdout, reason = "the processes tell each other how far they are")]
async fn end_at_the_second_signal() -> Ended {
    let log = Log::default();
    let a = Room::new("a", &log);
    let b = with("b", &log, |habits| habits.hangs_while_stopping = true);
    let spec = allowing(0, "house", Strategy::OneForOne).child(b.spec().shutdown(Shutdown::Unlimited)).child(a.spec());
    let tree = start(spec).await.unwrap();
    let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    println!("up");
    signals.recv().await;
    let (patient, again) = (tree.clone(), tree.clone());
    tokio::spawn(async move { patient.stop(LONG).await });
    until(|| log.lines().iter().any(|line| line == "down a")).await;
    assert!(tree.snapshot().find("b").is_some_and(|b| b.state == State::Running));
    println!("stopping");
    signals.recv().await;
    again.stop(Duration::ZERO).await.unwrap_err();
    tree.ended().await
}

#[test]
#[allow(clippy::exit, reason = "the code of the process is the case")]
fn case_091_the_first_signal_stops_in_order_and_the_second_at_once() {
    if std::env::var(ROLE).is_ok() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ended = runtime.block_on(end_at_the_second_signal());
        std::process::exit(i32::from(ended.code()));
    }
    let test = "case_091_the_first_signal_stops_in_order_and_the_second_at_once";
    let mut child = a_process(test, "signals").stdout(Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for reached in ["up", "stopping"] {
        assert!(lines.any(|line| line.ends_with(reached)), "it never was {reached}");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    let before = std::time::Instant::now();
    // What had to be killed is no clean end.
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(before.elapsed() < seconds(20));
}

cases! {
    async fn case_090_a_root_that_is_stuck_does_not_answer_its_watchdog() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let tree = house(Strategy::OneForOne, &[&a]).await;
        let control = root(&tree);
        control.ping(LONG).await.unwrap();
        tree.kill("house").unwrap();
        tree.ended().await;
        assert_eq!(control.ping(beats(3)).await, Err(Down::Absent { room: "house".to_owned() }));
    }

    async fn case_091_a_stop_has_one_deadline_for_all_and_a_second_one_is_immediate() {
        let log = Log::default();
        let a = Room::new("a", &log);
        let [b, c] = ["b", "c"].map(|id| with(id, &log, |habits| habits.hangs_while_stopping = true));
        let d = with("d", &log, |habits| habits.stop_takes = beats(1));
        let unlimited = |room: &Room| room.spec().shutdown(Shutdown::Unlimited);
        let house = || {
            let mind = supervisor("mind", Strategy::OneForOne).child(unlimited(&b)).child(unlimited(&c));
            supervisor("house", Strategy::OneForOne).child(a.spec()).tree(mind).child(d.spec())
        };
        let tree = start(house()).await.unwrap();
        log.taken();
        let before = Instant::now();
        let late = StopTimeout { within: beats(5), left: vec!["a".into(), "mind/b".into(), "mind/c".into()] };
        assert_eq!(tree.stop(beats(5)).await, Err(late));
        took(before, 5);
        assert_eq!(log.lines(), ["stopping d", "down d"]);
        assert!([&a, &b, &c, &d].iter().all(|room| room.socket.actor().is_none()));

        let tree = start(house()).await.unwrap();
        let before = Instant::now();
        let (patient, impatient) = tokio::join!(tree.stop(LONG), async {
            until(|| log.lines().iter().filter(|line| *line == "down d").count() == 2).await;
            tree.stop(Duration::ZERO).await
        });
        took(before, 1);
        assert_eq!(patient.unwrap().killed, ["a", "mind/b", "mind/c"]);
        impatient.unwrap_err();
        assert!(tree.snapshot().walk().iter().all(|place| place.state == State::Stopped));
    }

    async fn case_095_many_restarts_leave_nothing_behind() {
        if is_alone(&path_of_case(module_path!())) {
            let soaked = crate::soak::soak(15_000, 50).await;
            assert_eq!(soaked.left_behind(), None);
        }
    }
}

/// Blocks whoever drops it until the sender is dropped.
struct Blocking(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

impl Drop for Blocking {
    fn drop(&mut self) {
        let _ = self.0.lock().unwrap().recv();
    }
}

// What a child is made from goes with its supervisor's help, and may block its thread: the only way in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_090_a_root_that_is_blocked_does_not_answer_its_watchdog_until_it_comes_free() {
    let log = Log::default();
    let a = Room::new("a", &log);
    let tree = house(Strategy::OneForOne, &[]).await;
    let (release, blocked) = std::sync::mpsc::sync_channel(1);
    let (made, blocking) = (a.clone(), Blocking(std::sync::Mutex::new(blocked)));
    let spec = ChildSpec::actor("a", &a.socket, move || {
        let _kept = &blocking;
        (made.clone(), ())
    });
    let control = root(&tree);
    control.start_child(spec.restart(Restart::Temporary)).await.unwrap();
    control.ping(LONG).await.unwrap();
    let terminating = tokio::spawn({
        let control = control.clone();
        async move { control.terminate_child("a").await }
    });
    until(|| tree.snapshot().busy_for.is_some_and(|busy| busy > Duration::from_millis(50))).await;
    let before = Instant::now();
    assert_eq!(control.ping(Duration::from_millis(50)).await, Err(Down::Absent { room: "house".to_owned() }));
    assert!(before.elapsed() >= Duration::from_millis(50));
    drop(release);
    control.ping(LONG).await.unwrap();
    terminating.await.unwrap().unwrap();
    tree.stop(LONG).await.unwrap();
}

#[test]
fn case_092_a_build_in_which_panics_abort_is_refused() {
    let compile = |strategy: &str| {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let folder = std::env::temp_dir().join(format!("supervision-{strategy}-{}", std::process::id()));
        let mut command = Command::new(rustc);
        // Without the libraries most of it does not compile; whether it is refused for this reason is said all the same.
        command.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "-C"]);
        command.arg(format!("panic={strategy}")).arg("--out-dir").arg(&folder);
        let output = command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/lib.rs")).output().unwrap();
        std::fs::remove_dir_all(folder).ok();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let refusal = "supervision restarts rooms that panic, which `panic = \"abort\"` makes impossible";
    let (compiled, said) = compile("abort");
    assert!(!compiled && said.contains(refusal), "{said}");
    assert!(!compile("unwind").1.contains(refusal));
}

/// Plays a random storm over a small tree, and returns all that happened.
fn simulated(seed: u64) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let log = Log::default();
        let rooms = rooms(&log, ["a", "b", "c", "d", "e", "f"]);
        let strategies = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
        let backoff = Backoff { first: seconds(1), max: seconds(8), jitter_ratio: 0.5, healthy_after: seconds(60) };
        let mut spec = allowing(999, "house", Strategy::OneForOne).seed(seed);
        for (rooms, strategy) in rooms.chunks(2).zip(strategies) {
            let branch = allowing(20, &format!("{strategy:?}"), strategy);
            spec = spec.tree(rooms.iter().fold(branch, |branch, room| branch.child(room.spec().backoff(backoff))));
        }
        let tree = start(spec).await.unwrap();
        let mut events = tree.events();
        let mut told_so_far = String::new();
        let mut dice = seed;
        for _ in 0..300 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (room, what) = (&rooms[(dice >> 40) as usize % rooms.len()], (dice >> 50) % 5);
            // What is not there or not heard is part of the course.
            match what {
                0 => drop(room.socket.send(Order::Panic("ouch"))),
                1 => drop(room.socket.send(Order::Stop)),
                2 => drop(tree.kill(room.id)),
                3 => drop(room.socket.send(Order::Work { step: seconds(1), steps: 2 })),
                _ => tokio::time::sleep(Duration::from_millis(dice >> 52)).await,
            }
            told_so_far += &told(&mut events).into_iter().map(|event| format!("{event:?}\n")).collect::<String>();
        }
        tree.stop(LONG).await.unwrap();
        told_so_far += &told(&mut events).into_iter().map(|event| format!("{event:?}\n")).collect::<String>();
        told_so_far + &log.lines().join("\n")
    })
}

#[test]
fn case_094_the_same_seed_takes_the_same_course() {
    for seed in 1..=5 {
        let course = simulated(seed);
        assert_eq!(course, simulated(seed));
        assert!(course.lines().count() > 300, "{course}");
        assert_ne!(course, simulated(seed + 100));
    }
}

//! What is left when the daemon is killed, frozen, or never comes back: the real program on a small real service.
//!
//! It has a `main` of its own, since its program is the small service as well. `KLOROS_KILLS` says how often the daemon is killed
//! for good, 5 times where it is not set; `KLOROS_MATRIX`, how many cases of the kill matrix are run; `KLOROS_CALLS`,
//! `KLOROS_TEARS`, `KLOROS_REFUSALS` and `KLOROS_CUTS`, how many deaths before a system call, writes cut in two, failures of a call,
//! and power cuts.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod edits;

mod hands;

mod in_place;

mod many;

mod matrix;

#[path = "../house/port.rs"]
mod port;

mod small;

mod tampered;

use std::{
    io::{Write, stdout},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use small::{OLD, Small, play, wait};

const VALIDATIONS: &str = "logs/orchestrator/validations.jsonl";
const FEEDBACK: &str = ".kloros/curiosity_feedback.jsonl";

/// A test: its sentence, and what holds it against the program.
type Case = (&'static str, fn());

/// How many of [`CASES`] are run at the same time: each waits for one small house most of its time.
const AT_ONCE: usize = 4;

/// Those that play out in one house each.
const CASES: [Case; 23] = [
    ("a_daemon_that_is_killed_for_good_with_an_unproven_change_live_has_it_taken_back", killed_for_good),
    ("a_daemon_that_is_frozen_beyond_its_deadline_says_one_rollback_when_it_thaws", frozen),
    ("recover_undoes_by_hand_what_is_pending_and_a_second_time_does_nothing", by_hand),
    ("recover_leaves_what_a_living_daemon_works_on", living),
    ("two_who_recover_at_once_do_it_once", at_once),
    ("a_damaged_pending_file_is_left_for_a_person_and_said", damaged),
    ("an_edit_by_hand_of_the_key_survives_the_guard_and_a_start_afterwards", edited),
    ("an_undo_that_fails_as_often_as_it_may_is_stuck_and_said_until_a_person_helps", stuck),
    ("what_a_guard_that_is_killed_leaves_half_way_is_finished_by_the_daemon", halfway),
    ("a_service_without_room_for_a_second_instance_is_tuned_on_itself", in_place::whole),
    ("a_daemon_that_is_killed_in_a_trial_in_place_has_it_taken_back_and_goes_on", in_place::killed_in_a_trial),
    ("a_daemon_that_is_killed_with_its_guard_takes_a_trial_in_place_back_itself", in_place::killed_with_the_guard),
    ("a_daemon_that_is_frozen_in_a_trial_in_place_does_not_measure_on", in_place::frozen_in_a_trial),
    ("a_trial_in_place_that_a_person_stops_is_taken_back_and_made_later", in_place::stopped_in_a_trial),
    ("outside_its_windows_a_service_is_not_tried_on", in_place::out_of_window),
    ("an_env_file_that_is_removed_is_not_made_again_and_its_service_is_not_restarted", hands::removed),
    ("without_its_file_neither_the_guard_nor_a_person_restarts_a_service", hands::removed_and_dead),
    ("a_second_line_of_our_key_is_a_persons_word_and_stays", hands::second_line),
    ("a_daemon_that_freezes_in_a_restart_is_late_in_time_and_does_not_go_on", hands::frozen_in_a_restart),
    ("a_daemon_that_freezes_with_an_unproven_child_is_ended_with_it", hands::frozen_with_a_child),
    ("a_restart_that_takes_too_long_is_ended_and_taken_back", hands::restart_too_long),
    ("edits_by_hand_in_place_and_by_a_new_file_survive_the_deployments_they_race", edits::race),
    ("what_was_proposed_and_timed_out_is_not_made_afterwards", hands::timed_out),
];

/// Those that consist of many cases, which they run side by side themselves.
const MANY: [Case; 6] = [
    ("wherever_the_daemon_dies_the_service_ends_up_proven", matrix::run),
    ("a_recovery_that_dies_ten_times_in_a_row_ends_as_if_it_had_not", matrix::ten_times),
    ("a_line_that_a_kill_cut_in_two_is_written_once_and_whole", tampered::tears),
    ("whichever_call_the_daemon_dies_before_the_service_ends_up_proven", tampered::dies),
    ("whatever_the_disk_refuses_the_service_ends_up_proven", tampered::fails),
    ("whenever_the_power_is_cut_the_service_ends_up_proven", tampered::power),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if play(&arguments) {
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|each| !each.starts_with('-')).cloned().unwrap_or_default();
    let chosen = |cases: &[Case]| cases.iter().copied().filter(|(name, _)| name.contains(&filter)).collect::<Vec<_>>();
    let (single, many) = (chosen(&CASES), chosen(&MANY));
    if arguments.iter().any(|each| each == "--list") {
        for (name, _) in single.iter().chain(&many) {
            say(&format!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let failed = side_by_side(&single, AT_ONCE) + side_by_side(&many, 1);
    let word = if failed == 0 { "ok" } else { "FAILED" };
    say(&format!("\ntest result: {word}. {} passed; {failed} failed;", single.len() + many.len() - failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `cases`, so many of them at a time, and returns how many failed. A panic names its case as its thread.
fn side_by_side(cases: &[Case], at_once: usize) -> usize {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while let Some((name, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let is_well = thread::Builder::new().name((*name).to_owned()).spawn(*case).unwrap().join().is_ok();
            failed.fetch_add(usize::from(!is_well), Ordering::Relaxed);
            say(&format!("test {name} ... {}", if is_well { "ok" } else { "FAILED" }));
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    failed.into_inner()
}

fn say(line: &str) {
    writeln!(stdout().lock(), "{line}").unwrap();
}

/// Returns a house in which `speed` is live and unproven.
fn unproven(speed: u32, deployer: &str) -> Small {
    let mut small = Small::new(deployer);
    small.propose(speed);
    small.start(&[]);
    let wanted = speed.to_string();
    let is_live = || small.speeds() == (wanted.clone(), Some(wanted.clone()));
    assert!(small::comes(small::PATIENCE, is_live), "the change is not live: {}", small.log());
    small
}

/// Everything is as it was: the file byte for byte, the service, and nothing is pending.
fn is_as_before(small: &Small) -> bool {
    small.env() == OLD && small.speeds().1.as_deref() == Some("10") && small.pending().is_empty()
}

#[track_caller]
fn check_closed_once(small: &Small, outcome: &str) {
    let deployments = small.json(&["deployments"]);
    assert_eq!(deployments.as_array().map(Vec::len), Some(1), "{deployments}");
    assert_eq!(deployments[0]["stage"], "closed", "{deployments}");
    assert_eq!(deployments[0]["verdict"]["outcome"], outcome, "{deployments}");
    assert_eq!((small.lines(VALIDATIONS).len(), small.lines(FEEDBACK).len()), (1, 1));
    assert_eq!(small.secrets_told(), Vec::<PathBuf>::new(), "a secret is told");
}

/// What `deployer.guard_within_s` is where nothing else is said: the deadline of a daemon that gives no sign of life. Of one that is
/// dead the guard does not wait for it.
const GUARD_WITHIN: Duration = Duration::from_secs(60);

/// Fault 15.
fn killed_for_good() {
    let kills: u64 = std::env::var("KLOROS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut slowest = Duration::ZERO;
    for number in 0..kills {
        // Good changes and bad ones, and moments that move through the measurement.
        let mut small = unproven(if number % 2 == 0 { 20 } else { 5 }, "");
        std::thread::park_timeout(Duration::from_millis(number * 37 % 400));
        small.kill();
        let killed = Instant::now();
        wait("the guard has taken it back", || is_as_before(&small));
        slowest = slowest.max(killed.elapsed());
    }
    say(&format!("restored {kills} of {kills} times, at the latest {:.1} s after the kill", slowest.as_secs_f64()));
    assert!(slowest < GUARD_WITHIN, "the deadline was over");
}

/// Fault 19.
fn frozen() {
    let mut small = unproven(20, "guard_within_s = 2.0");
    // A restart has minutes; a measurement has as long as the daemon says that it works.
    small.hang_measurements(true);
    let is_measured = || small.json(&["deployments"])[0]["stage"] == "measuring";
    assert!(small::comes(small::PATIENCE, is_measured), "{}", small.log());
    assert!(!small::comes(Duration::from_secs(4), || small.pending().is_empty()), "who works is not late");
    small.signal(Signal::STOP);
    wait("the guard has taken it back", || is_as_before(&small));
    let before = small.json(&["deployments"]);
    small.signal(Signal::CONT);
    small.hang_measurements(false);
    let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed" && small.lines(FEEDBACK).len() == 1;
    assert!(small::comes(small::PATIENCE, is_closed), "{before}: {}", small.log());
    let verdict = small.json(&["deployments"])[0]["verdict"]["reason"].to_string();
    assert!(verdict.contains("guard"), "{verdict}");
    assert!(is_as_before(&small));
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
    check_closed_once(&small, "rollback");
}

/// Leaves the house as a crash of the whole machine would: neither daemon nor guard, and the change live.
fn dead(speed: u32, deployer: &str) -> Small {
    let mut small = unproven(speed, deployer);
    small.signal(Signal::STOP);
    for guard in small.guards() {
        rustix::process::kill_process(guard, Signal::KILL).unwrap();
    }
    small.kill();
    assert_eq!(small.speeds().0, speed.to_string());
    small
}

#[track_caller]
fn check(small: &Small, arguments: &[&str], code: i32, part: &str) {
    let output = small.kloros(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(part) && (!part.is_empty() || text.is_empty()), "{arguments:?}: {text}");
}

/// Starts the daemon anew and lets it bring everything to its end.
#[track_caller]
fn check_start_closes(small: &mut Small, env: &str) {
    small.start(&[]);
    let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed" && small.lines(FEEDBACK).len() == 1;
    assert!(small::comes(small::PATIENCE, is_closed), "{}", small.log());
    // It recovers before it hears signals.
    wait("the daemon listens", || small.listens());
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0), "{}", small.log());
    check_closed_once(small, "rollback");
    assert_eq!((small.env().as_str(), small.pending().len()), (env, 0));
    let (given, says) = small.speeds();
    assert_eq!(Some(given), says, "the service runs with what its file says");
}

/// Faults 18 and 32.
fn by_hand() {
    let mut small = dead(20, "");
    let mine = small.env() + "MINE=1\n";
    std::fs::write(small.env_file(), mine).unwrap();
    let env = format!("{OLD}MINE=1\n");
    check(&small, &["recover", "--if-pending"], 0, "the service runs on");
    assert_eq!((small.env(), small.speeds().1.as_deref()), (env.clone(), Some("20")));
    check(&small, &["recover", "--domain", "other"], 0, "nothing is pending");
    check(&small, &["recover"], 0, "undone");
    assert_eq!((small.env(), small.speeds().1.as_deref()), (env.clone(), Some("10")));
    check(&small, &["recover"], 0, "nothing is pending");
    check(&small, &["recover", "--if-pending"], 0, "");
    let restarts = small.restarts();
    check_start_closes(&mut small, &env);
    assert_eq!(small.restarts(), restarts, "what the service runs with already costs no restart");
}

fn living() {
    let mut small = unproven(20, "");
    for arguments in [&["recover"][..], &["recover", "--if-pending"]] {
        check(&small, arguments, 0, "the daemon works on");
    }
    wait("it is kept", || small.lines(FEEDBACK).len() == 1 && small.pending().is_empty());
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
    check_closed_once(&small, "success");
    assert_eq!(small.speeds(), ("20".to_owned(), Some("20".to_owned())));
    wait("the guard is gone", || small.guards().is_empty());
}

fn at_once() {
    let mut small = dead(5, "");
    let before = small.restarts();
    let all: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| small.kloros(&["recover"]))).collect();
        asked.into_iter().map(|each| each.join().unwrap()).collect()
    });
    assert!(all.iter().all(|output| output.status.success()), "{all:?}");
    assert_eq!(small.restarts(), before + 1);
    assert!(is_as_before(&small));
    check_start_closes(&mut small, OLD);
}

/// Fault 76.
fn damaged() {
    let mut small = dead(5, "");
    let file = small.home().join(".kloros/pending/small.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for damaged in [text.replacen("10", "11", 1), text[..text.len() / 2].to_owned(), String::new()] {
        std::fs::write(&file, &damaged).unwrap();
        for arguments in [&["recover"][..], &["recover", "--if-pending"]] {
            check(&small, arguments, 1, "UNREADABLE");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
        assert_eq!(small.speeds().0, "5", "nothing is guessed at");
    }
    // The journal holds the old values too.
    check_start_closes(&mut small, OLD);
}

/// Fault 31, of a human edit.
fn edited() {
    let mut small = dead(20, "");
    let by_hand = small.env().replace("SPEED=20", "SPEED=33");
    std::fs::write(small.env_file(), &by_hand).unwrap();
    check(&small, &["recover"], 0, "undone");
    assert_eq!(small.speeds(), ("33".to_owned(), Some("33".to_owned())), "the service runs with the edit");
    check_start_closes(&mut small, &by_hand);
}

/// Fault 45.
fn stuck() {
    let mut small = unproven(5, "undo_attempts_max = 1");
    small.break_restarts(true);
    small.kill();
    wait("the guard gives up", || small.log().contains("STUCK"));
    assert_eq!((small.env().as_str(), small.pending().len()), (OLD, 1), "the file is right all the same");
    check(&small, &["recover"], 1, "FAILED");
    small.break_restarts(false);
    check(&small, &["recover"], 0, "undone");
    check_start_closes(&mut small, OLD);
}

/// Fault 16.
fn halfway() {
    let mut small = unproven(5, "");
    small.hang_restarts(true);
    small.kill();
    wait("the guard restarts the service", || small.pending().iter().any(|name| name.ends_with(".undoing")));
    let guards = small.guards();
    assert_eq!(guards.len(), 1);
    rustix::process::kill_process(guards[0], Signal::KILL).unwrap();
    small.hang_restarts(false);
    check_start_closes(&mut small, OLD);
}

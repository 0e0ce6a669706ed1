//! One doer at a time, and what people do to the env file while a change is unproven.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    FEEDBACK, check, check_start_closes, dead, is_as_before,
    small::{self, OLD, Small, wait},
    unproven,
};

/// Fault 39, of a daemon that lives: it makes no file, restarts nothing and says so, until a person has helped.
pub(crate) fn removed() {
    let mut small = unproven(20, "");
    small.hang_measurements(true);
    let live = small.env();
    std::fs::remove_file(small.env_file()).unwrap();
    let restarts = small.restarts();
    wait("it is stuck and said", || small.json(&["deployments"])[0]["stage"] == "stuck");
    check(&small, &["status"], 1, "was removed while the change was unproven");
    assert_eq!((small.restarts(), small.env_file().exists()), (restarts, false));
    assert_eq!((small.speeds().1.as_deref(), small.pending().len()), (Some("20"), 1));
    small.hang_measurements(false);
    // The daemon that comes next knows no better, and no worse.
    small.kill();
    small.start(&[]);
    wait("the daemon listens", || small.listens());
    assert_eq!((small.restarts(), small.env_file().exists()), (restarts, false));
    std::fs::write(small.env_file(), live).unwrap();
    let id = small.json(&["deployments"])[0]["deployment"]["id"].as_str().unwrap().to_owned();
    check(&small, &["rollback", &id], 0, "rolled back");
    assert!(is_as_before(&small), "{}", small.log());
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
    assert_eq!(small.lines(FEEDBACK).len(), 1);
}

/// Fault 39, of a daemon that is dead: by hand and by the guard.
pub(crate) fn removed_and_dead() {
    let mut small = dead(20, "");
    let live = small.env();
    std::fs::remove_file(small.env_file()).unwrap();
    let restarts = small.restarts();
    for _ in 0..2 {
        check(&small, &["recover"], 1, "is not made again");
        check(&small, &["recover", "--if-pending"], 1, "is not made again");
    }
    assert_eq!((small.restarts(), small.env_file().exists()), (restarts, false));
    // A file without any of ours is enough.
    std::fs::write(small.env_file(), live.replace("SPEED=20\n", "")).unwrap();
    check(&small, &["recover"], 0, "undone");
    assert_eq!(small.speeds().1.as_deref(), Some("1"), "the service takes its own default");
    check_start_closes(&mut small, &OLD.replace("SPEED=10\n", ""));

    let mut small = unproven(20, "");
    let live = small.env();
    std::fs::remove_file(small.env_file()).unwrap();
    let restarts = small.restarts();
    small.kill();
    wait("the guard says so", || small.log().contains("is not made again"));
    assert_eq!((small.restarts(), small.env_file().exists()), (restarts, false));
    std::fs::write(small.env_file(), live).unwrap();
    wait("the guard has taken it back", || is_as_before(&small));
}

/// Fault 31, by a line more of our key: the one that a person wrote stays, and ours goes back.
pub(crate) fn second_line() {
    for line in ["SPEED=33\n", "export SPEED=33\n"] {
        let mut small = unproven(20, "");
        small.hang_measurements(true);
        small.edit(line);
        let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed";
        assert!(small::comes(small::PATIENCE, is_closed), "{line}: {}", small.log());
        let verdict = small.json(&["deployments"])[0]["verdict"]["reason"].to_string();
        assert!(verdict.contains("human_override"), "{line}: {verdict}");
        assert_eq!(small.env(), format!("{OLD}{line}"));
        small.hang_measurements(false);
        small.signal(Signal::INT);
        assert_eq!(small.ended(), Some(0));
    }
}

/// Faults 19 and 44: whoever is frozen while a restart goes on is late as soon as anywhere else, and does not go on restarting
/// beside whoever acts in its place.
pub(crate) fn frozen_in_a_restart() {
    let mut small = Small::new("guard_within_s = 2.0");
    small.hang_restarts(true);
    small.propose(20);
    small.start(&[]);
    wait("the file is written", || small.speeds().0 == "20");
    wait("the restart goes on", || small.json(&["deployments"])[0]["stage"] == "applied");
    assert!(
        !small::comes(Duration::from_secs(5), || small.speeds().0 != "20"),
        "a restart that takes long is not late"
    );
    // By hand, nobody is waited for who works.
    check(&small, &["recover"], 0, "the daemon works on");
    let stopped = Instant::now();
    check(&small, &["stop", "--reason", "the rack is being moved"], 0, "a restart, which is let come to its end");
    assert!(stopped.elapsed() < Duration::from_secs(5), "the answer waits for nobody");
    small.signal(Signal::STOP);
    let frozen = Instant::now();
    wait("the guard has taken it back", || is_as_before(&small));
    super::say(&format!("taken back {:.1} s after the daemon froze in a restart", frozen.elapsed().as_secs_f64()));
    wait("the daemon that could go on restarting is ended", || !small.listens());
    small.kill();
    let restarts = small.restarts();
    small.hang_restarts(false);
    check(&small, &["go"], 0, "everything may go on");
    check_start_closes(&mut small, OLD);
    assert_eq!(small.restarts(), restarts, "the service ran with the old values all the time");
}

/// Fault 19, of a service that is the daemon's own child: nobody else can restart it, and it ends with the daemon. Once the guard
/// said that it was down already, and it ran on with what was never proven for as long as the daemon was frozen.
pub(crate) fn frozen_with_a_child() {
    let mut small = Small::with_a_child("guard_within_s = 2.0");
    small.propose(20);
    small.hang_measurements(true);
    small.start(&[]);
    let is_live = || small.speeds() == ("20".to_owned(), Some("20".to_owned()));
    assert!(small::comes(small::PATIENCE, is_live), "the change is not live: {}", small.log());
    let is_measured = || small.json(&["deployments"])[0]["stage"] == "measuring";
    assert!(small::comes(small::PATIENCE, is_measured), "{}", small.log());
    small.signal(Signal::STOP);
    wait("nothing runs with it any more", || small.speeds() == ("10".to_owned(), None));
    wait("it is said why", || small.log().contains("the daemon gives no sign of life"));
    wait("the guard has brought it to an end", || small.pending().is_empty() && small.guards().is_empty());
    small.kill();
    small.hang_measurements(false);
    small.start(&[]);
    let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed" && small.lines(FEEDBACK).len() == 1;
    assert!(small::comes(small::PATIENCE, is_closed), "{}", small.log());
    wait("it runs as it did", || small.speeds() == ("10".to_owned(), Some("10".to_owned())));
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
    assert_eq!(small.env(), OLD);
    super::check_closed_once(&small, "rollback");
}

/// Fault 44: a restart that does not come to its end is ended, and with it the change; the undo is tried until its own one does.
pub(crate) fn restart_too_long() {
    let mut small = Small::new("");
    small.limit_restarts(3);
    small.hang_restarts(true);
    small.propose(20);
    small.start(&[]);
    let verdict = || small.json(&["deployments"])[0]["verdict"].clone();
    wait("it is given up", || verdict()["outcome"] == "rollback");
    assert_eq!(verdict()["reason"]["reason"], "not_healthy", "{}", verdict());
    assert!(verdict()["reason"]["why"].as_str().is_some_and(|why| why.contains("3 s")), "{}", verdict());
    wait("the file is as it was", || small.env() == OLD);
    small.hang_restarts(false);
    let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed" && small.lines(FEEDBACK).len() == 1;
    assert!(small::comes(small::PATIENCE, is_closed), "{}", small.log());
    assert!(is_as_before(&small), "{}", small.log());
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
    super::check_closed_once(&small, "rollback");
}

/// Who was told that nobody waits any longer is not surprised by a change afterwards.
pub(crate) fn timed_out() {
    let mut small = Small::new("");
    small.start(&[]);
    wait("the daemon listens", || small.listens());
    small.hang_measurements(true);
    // While a person measures, nothing is changed.
    let mut bench = std::process::Command::new(env!("CARGO_BIN_EXE_kloros"));
    bench.args(["bench", "small", "--runs", "1", "--home"]).arg(small.home());
    let mut bench = bench.stdout(std::process::Stdio::null()).spawn().unwrap();
    let measures = || String::from_utf8_lossy(&small.kloros(&["status"]).stdout).contains("  measures ");
    wait("a person measures", measures);
    check(&small, &["try", "small", "SPEED=30", "--timeout", "1s"], 1, "is taken back, nothing was changed");
    small.hang_measurements(false);
    assert!(bench.wait().unwrap().success());
    // What comes after it has the whole machine.
    check(&small, &["try", "small", "SPEED=40"], 0, "success");
    assert_eq!(small.json(&["deployments"]).as_array().map(Vec::len), Some(1));
    assert_eq!(small.speeds(), ("40".to_owned(), Some("40".to_owned())));
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0));
}

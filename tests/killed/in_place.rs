//! A service that is measured in place: whatever becomes of the daemon in a trial, its own settings come back.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::{FEEDBACK, VALIDATIONS, is_as_before, say};
use crate::small::{OLD, PATIENCE, Small, comes, wait};

/// A window that is always in force, and one that never is any more.
const ALWAYS: &str = "mon-sun";
const OVER: &str = "1970-01-01 00:00 to 1970-01-02 00:00";

/// Returns a small house whose service is measured in place, with a question in its inbox.
fn in_place(window: &str, deployer: &str) -> Small {
    let small = Small::new(deployer);
    let file = small.home().join("domains/small.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("isolation = \"shadow\"", "isolation = \"in_place\"");
    std::fs::write(&file, format!("{text}[in_place]\nwindows = [{window:?}]\nrestarts_per_hour_max = 200\n")).unwrap();
    let question = serde_json::json!({"type": "curiosity_question", "data": {
        "question_id": "small.slow.001",
        "hypothesis": "SMALL_SLOW",
        "dream_experiment": {
            "name": "small", "domain": "small",
            "search_space": {"speed": {"kind": "integer", "min": 1, "max": 100}},
            "metrics": {"speed": "up"}, "param_mapping": {"speed": "SPEED"},
            "budget": {"max_candidates": 4, "max_generations": 1}
        }
    }});
    let folder = small.home().join(".kloros/intents");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("part"), question.to_string()).unwrap();
    std::fs::rename(folder.join("part"), folder.join("question.json")).unwrap();
    small
}

/// Starts the daemon and has it hang in the measurement of a candidate that is none of the service's own settings.
fn in_a_trial(small: &mut Small) {
    small.hang_measurements(true);
    small.start(&[]);
    wait("its own settings are measured first", || small.facts("loan_step") == 1);
    small.hang_measurements(false);
    wait("a candidate is measured", || small.facts("trial") >= 1);
    small.hang_measurements(true);
    let tries = || {
        let (given, says) = small.speeds();
        given != "10" && says == Some(given) && !small.pending().is_empty()
    };
    assert!(comes(PATIENCE, tries), "no candidate is tried: {}", small.log());
}

/// Lets the experiment, and what it finds, come to their end, and sees that no trial was measured twice.
#[track_caller]
fn check_ends(small: &Small) {
    let is_judged = || small.lines(FEEDBACK).len() == 1 && small.pending().is_empty();
    assert!(comes(3 * PATIENCE, is_judged), "{}", small.log());
    let found = small.json(&["experiments", "x-small.slow.001"]);
    let trials: Vec<Value> = found[0]["trials"].as_array().cloned().unwrap_or_default();
    let mut keys: Vec<String> =
        trials.iter().map(|trial| format!("{}:{}", trial["generation"], trial["number"])).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    assert!(all >= 4 && keys.len() == all, "{keys:?}");
    assert_eq!((small.lines(VALIDATIONS).len(), small.strays().len()), (1, 0), "{:?}", small.strays());
    let (given, says) = small.speeds();
    assert_eq!(says.as_ref(), Some(&given), "the service runs with what its file says");
    assert_eq!(small.env(), OLD.replace("SPEED=10", &format!("SPEED={given}")), "nothing else was written");
    assert_eq!(small.secrets_told(), Vec::<std::path::PathBuf>::new());
}

#[track_caller]
fn end(small: &mut Small) {
    small.signal(Signal::INT);
    assert_eq!(small.ended(), Some(0), "{}", small.log());
}

/// The whole loop on the only instance there is.
pub(super) fn whole() {
    let mut small = in_place(ALWAYS, "");
    small.start(&[]);
    check_ends(&small);
    let deployments = small.json(&["deployments"]);
    assert_eq!(deployments[0]["verdict"]["outcome"], "success", "{deployments}");
    let (given, _) = small.speeds();
    assert!(given.parse::<u32>().unwrap() > 10, "{given}");
    assert!(small.facts("loan") >= 1 && small.facts("run") == 8);
    let told = String::from_utf8_lossy(&small.kloros(&["explain", "x-small.slow.001"]).stdout).into_owned();
    for words in ["trials of x-small.slow.001 on small itself, as far as SPEED 10 -> 100", "lent ", "returned "] {
        assert!(told.contains(words), "{words} is missing in\n{told}");
    }
    // One restart a trial and a run, and few more: to give it back, to deploy, and to leave the new settings there.
    let (restarts, trials, runs) = (small.restarts(), small.facts("trial"), small.facts("run"));
    say(&format!("{trials} trials and {runs} runs in place took {restarts} restarts"));
    assert!(restarts <= trials + runs + 5, "{restarts}");
    end(&mut small);
}

/// Nobody is left but the guard; the daemon that comes back goes on where the experiment was.
pub(super) fn killed_in_a_trial() {
    let kills: u64 = std::env::var("KLOROS_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for number in 0..kills {
        let mut small = in_place(ALWAYS, "");
        in_a_trial(&mut small);
        std::thread::park_timeout(Duration::from_millis(number * 37 % 400));
        small.kill();
        wait("the guard has taken it back", || is_as_before(&small));
        small.hang_measurements(false);
        small.start(&[]);
        check_ends(&small);
        end(&mut small);
    }
}

/// A daemon that comes back before anybody acted takes it back itself, before anything else.
pub(super) fn killed_with_the_guard() {
    let mut small = in_place(ALWAYS, "");
    in_a_trial(&mut small);
    small.signal(Signal::STOP);
    for guard in small.guards() {
        rustix::process::kill_process(guard, Signal::KILL).unwrap();
    }
    small.kill();
    assert_ne!(small.speeds().0, "10");
    small.start(&[]);
    wait("it is taken back", || small.env() == OLD);
    small.hang_measurements(false);
    check_ends(&small);
    end(&mut small);
}

/// A daemon that is frozen in a trial finds it taken back when it thaws, and does not measure on.
pub(super) fn frozen_in_a_trial() {
    let mut small = in_place(ALWAYS, "guard_within_s = 2.0");
    in_a_trial(&mut small);
    assert!(!comes(Duration::from_secs(4), || small.pending().is_empty()), "who works is not late");
    small.signal(Signal::STOP);
    wait("the guard has taken it back", || is_as_before(&small));
    let trials = small.facts("trial");
    small.signal(Signal::CONT);
    let is_over = || small.json(&["status"])["work"]["lent"].as_array().is_some_and(Vec::is_empty);
    assert!(comes(PATIENCE, is_over), "{}", small.log());
    assert_eq!(small.facts("trial"), trials, "it was not made");
    small.hang_measurements(false);
    check_ends(&small);
    end(&mut small);
}

/// Whatever a person stops is taken back at once, and goes on after that.
pub(super) fn stopped_in_a_trial() {
    let mut small = in_place(ALWAYS, "");
    in_a_trial(&mut small);
    let trials = small.facts("trial");
    let status = String::from_utf8_lossy(&small.kloros(&["status"]).stdout).into_owned();
    assert!(status.contains("lent       small to x-small.slow.001, tries SPEED="), "{status}");
    assert!(small.kloros(&["stop", "--reason", "the rack"]).status.success());
    wait("it is taken back", || is_as_before(&small));
    small.hang_measurements(false);
    assert!(small.kloros(&["go"]).status.success());
    check_ends(&small);
    assert!(small.facts("trial") > trials);
    end(&mut small);
}

/// Outside its windows the service is left alone, and it is said why.
pub(super) fn out_of_window() {
    let mut small = in_place(OVER, "");
    small.start(&[]);
    let is_said = || String::from_utf8_lossy(&small.kloros(&["status"]).stdout).contains("in its windows alone: 1970");
    assert!(comes(PATIENCE, is_said), "{}", small.log());
    assert_eq!((small.facts("loan"), small.restarts(), small.env().as_str()), (0, 1, OLD));
    // The first restart is the test's own.
    end(&mut small);
    let refused = small.kloros(&["bench", "small", "SPEED=20"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("measured in place"), "{refused:?}");
}

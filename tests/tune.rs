//! `kloros tune` as a person and as a program meet it: the real program, real commands, real signals.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// A script that was written a moment ago cannot be run while another thread forks, so tests take turns.
static ALONE: Mutex<()> = Mutex::new(());

const SPACE: &str = r#"
minimize = "latency_ms"

[params.WORKERS]
type = "int"
low = 1
high = 64
log = true
default = 4

[params.CACHE]
type = "categorical"
choices = ["none", "lru"]
default = "none"

[params.CACHE_MIB]
type = "int"
low = 16
high = 512
step = 16
when = { param = "CACHE", in = ["lru"] }
"#;

/// Twenty-four workers are best, a cache helps, and more than forty workers are too many.
const WORK: &str = r#"
if [ "$WORKERS" -gt 40 ]; then echo "out of memory" >&2; exit 3; fi
cost=$(( (WORKERS - 24) * (WORKERS - 24) + 200 ))
if [ "$CACHE" = lru ]; then cost=$(( cost - CACHE_MIB / 8 )); fi
echo "warm-up: {not json}"
echo "{\"latency_ms\": $cost, \"workers\": $WORKERS}"
echo "done"
"#;

/// A folder with a space file and a command, which notes each of its runs in `seen`.
struct Bench {
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new(space: &str, script: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Self { folder: tempfile::tempdir().unwrap(), _alone: alone };
        fs::write(bench.path("space.toml"), space).unwrap();
        let noting = "echo \"$KLOROS_TRIAL: ${WORKERS-} ${CACHE-} ${CACHE_MIB-absent}\" >> seen";
        bench.script("bench", &format!("{noting}\n{script}"));
        bench
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Returns the program with `arguments` in front of the command.
    fn tune(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.arg("--home").arg(self.path("home")).arg("tune").args(arguments).current_dir(self.folder.path());
        command.env("KLOROS__MEASURING__LEASE_FOLDER", self.path("lease")).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.tune(&[&["--space", "space.toml"], arguments, &["--", "./bench"]].concat()).output().unwrap()
    }

    /// Returns the exit code and what `--json` prints.
    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[&["--json"], arguments].concat());
        let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
        (output.status.code().unwrap(), answer)
    }

    /// Returns the settings of the trials in a journal, in order.
    fn journal(&self, name: &str) -> Vec<Value> {
        let lines = self.lines(name).into_iter().skip(1);
        let mut trials: Vec<Value> =
            lines.map(|line| serde_json::from_str::<Value>(&line).unwrap()["trial"].clone()).collect();
        trials.sort_by_key(|trial| trial["id"].as_u64());
        trials.into_iter().map(|trial| json!([trial["id"], trial["config"], trial["value"]])).collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within five minutes: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// Whether a process is there that has not ended.
fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_better_setting_is_found_told_with_its_trials_and_can_be_typed() {
    let bench = Bench::new(SPACE, WORK);
    let output = bench.run(&["--budget", "20", "--seed", "3", "--exact"]);
    let (said, beside) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}{beside}");
    assert!(said.starts_with("better     latency_ms "), "{said}");
    assert!(said.contains(", where the default has 600: "), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("CACHE=") && last.ends_with(" ./bench"), "{said}");
    assert!(beside.contains("measured  1 of 20: latency_ms 600, best so far: CACHE=none WORKERS=4\n"), "{beside}");
    assert_eq!(bench.lines("seen").len(), 20);
    assert_eq!(bench.lines("seen")[0], "1: 4 none absent", "the default comes first, without what is inactive");
}

#[test]
fn an_inactive_parameter_is_absent_also_where_kloros_itself_was_given_one() {
    let bench = Bench::new(SPACE, "echo \"$OTHER\" >> other\necho \"{\\\"latency_ms\\\": $KLOROS_TRIAL}\"");
    let arguments = ["--space", "space.toml", "--budget", "6", "--", "./bench"];
    bench.tune(&arguments).env("CACHE_MIB", "stray").env("OTHER", "kept").output().unwrap();
    let seen = bench.lines("seen");
    assert_eq!(seen.len(), 6);
    for line in seen {
        assert_eq!(line.contains(" none "), line.ends_with(" absent"), "{line}");
        assert!(!line.contains("stray"), "{line}");
    }
    assert_eq!(bench.lines("other"), ["kept"; 6]);
}

#[test]
fn more_is_better_where_that_is_asked() {
    let bench = Bench::new(SPACE, "echo \"{\\\"speed\\\": $WORKERS}\"");
    let (code, answer) = bench.json(&["--budget", "12", "--exact", "--maximize", "speed"]);
    assert_eq!((code, &answer["conclusion"]), (0, &json!("better")), "{answer}");
    assert_eq!(answer["best"]["config"]["WORKERS"].as_i64().unwrap() as f64, answer["best"]["value"].as_f64().unwrap());
    assert!(answer["best"]["value"].as_f64().unwrap() > 16.0, "{answer}");
    assert_eq!((&answer["best"]["default"], &answer["direction"]), (&json!(4.0), &json!("up")));
}

#[test]
fn failed_trials_are_told_with_their_reasons_and_are_no_numbers() {
    let script = "case $KLOROS_TRIAL in
        2) echo 'out of memory' >&2; exit 3;;
        3) echo nothing;;
        4) echo '{\"latency_ms\": 1}'; echo '{\"latency_ms\": NaN}';;
        5) echo '{\"latency_ms\": null}';;
        6) kill -KILL $$;;
        *) echo \"{\\\"latency_ms\\\": $KLOROS_TRIAL}\";;
    esac";
    let bench = Bench::new(SPACE, script);
    let (code, answer) = bench.json(&["--budget", "8", "--batch", "2"]);
    let trials = answer["trials"].as_array().unwrap();
    let reason = |trial: usize| trials[trial - 1]["failure"].to_string();
    for (trial, part) in
        [(2, "out of memory"), (3, "no line of JSON"), (4, "NaN"), (5, "latency_ms is null"), (6, "signal: 9")]
    {
        assert!(reason(trial).contains(part), "{}", reason(trial));
        assert_eq!(trials[trial - 1]["value"], Value::Null);
    }
    assert_eq!((code, &answer["conclusion"], &answer["best"]), (1, &json!("no_better"), &Value::Null));
    assert_eq!(trials.len(), 8);
}

#[test]
fn a_trial_that_hangs_is_ended_with_all_that_it_started() {
    let script = "sleep 600 & echo $! >> children
        if [ \"$KLOROS_TRIAL\" = 2 ]; then trap '' TERM; wait; sleep 600; fi
        echo \"{\\\"latency_ms\\\": $WORKERS}\"";
    let bench = Bench::new(SPACE, script);
    let (_, answer) = bench.json(&["--budget", "3", "--timeout", "300ms"]);
    assert_eq!(answer["trials"][1]["failure"]["kind"], "timed_out", "{answer}");
    assert!(answer["trials"][1]["failure"]["detail"].as_str().unwrap().contains("within 0.3 s"));
    assert_eq!(answer["trials"].as_array().unwrap().len(), 3);
    let children = bench.lines("children");
    assert_eq!(children.len(), 3);
    until("no child is left", || !children.iter().any(|pid| lives(pid)));
}

#[test]
fn an_interrupted_run_leaves_nothing_running_and_goes_on_as_it_would_have() {
    let whole = Bench::new(SPACE, WORK);
    whole.json(&["--budget", "10", "--resume", "journal"]);
    let expected = whole.journal("journal");
    drop(whole);

    for signal in ["-INT", "-TERM", "-HUP"] {
        let hanging =
            "if [ \"$KLOROS_TRIAL\" = 5 ] && [ ! -e once ]; then : > once; sleep 600 & echo $! > child; wait; fi";
        let bench = Bench::new(SPACE, &format!("{hanging}\n{WORK}"));
        let arguments = ["--space", "space.toml", "--budget", "10", "--resume", "journal", "--", "./bench"];
        let child = bench.tune(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until("the fifth trial hangs", || bench.lines("child").len() == 1);
        send(signal, &child);
        let output = child.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        let hint =
            "interrupted after 4 of 10 trials, nothing is left running; go on with: kloros tune --resume journal\n";
        assert!(said.ends_with(hint), "{said}");
        until("its child is gone", || !lives(&bench.lines("child")[0]));

        let resumed = bench.tune(&["--resume", "journal"]).output().unwrap();
        assert!(text(&resumed.stderr).contains("resumes   after 4 of 10 trials\n"), "{}", text(&resumed.stderr));
        assert_eq!(bench.journal("journal"), expected);
        assert_eq!(bench.lines("seen").len(), 11, "only the trial that was cut off ran again");
    }
}

#[test]
fn killed_in_any_trial_it_goes_on_with_the_same_candidates_and_runs_none_twice() {
    let whole = Bench::new(SPACE, WORK);
    whole.json(&["--budget", "7", "--batch", "3", "--resume", "journal"]);
    let expected = whole.journal("journal");
    assert_eq!(expected.len(), 7);
    drop(whole);

    // One run that is killed in each of its trials, and each time taken up again.
    let killing = "if [ ! -e \"killed$KLOROS_TRIAL\" ]; then : > \"killed$KLOROS_TRIAL\"; kill -KILL $PPID; fi";
    let bench = Bench::new(SPACE, &format!("{killing}\n{WORK}"));
    for _ in 0..7 {
        assert_eq!(bench.run(&["--budget", "7", "--batch", "3", "--resume", "journal"]).status.code(), None);
    }
    let (_, answer) = bench.json(&["--resume", "journal"]);
    assert_eq!(bench.journal("journal"), expected);
    assert_eq!(answer["trials"].as_array().unwrap().len(), 7);
    let seen: Vec<String> = (1..=7).flat_map(|trial| [trial; 2]).map(|trial| format!("{trial}: ")).collect();
    for (line, begin) in bench.lines("seen").iter().zip(&seen) {
        assert!(line.starts_with(begin), "each trial runs once more after it was cut off, and never again: {line}");
    }
}

#[test]
fn a_finished_run_is_told_again_without_a_trial() {
    let bench = Bench::new(SPACE, WORK);
    let (first, again) = (bench.json(&["--budget", "6", "--resume", "journal"]), bench.json(&["--resume", "journal"]));
    assert_eq!(first, again);
    assert_eq!(bench.lines("seen").len(), 6);
}

#[test]
fn a_run_whose_time_is_over_ends_with_what_it_has_and_goes_on_when_it_is_given_more() {
    let whole = Bench::new(SPACE, WORK);
    whole.json(&["--budget", "6", "--resume", "journal"]);
    let expected = whole.journal("journal");
    drop(whole);

    // A trial takes longer than all of them may.
    let bench = Bench::new(SPACE, &format!("[ -e quick ] || sleep 2\n{WORK}"));
    let (_, first) = bench.json(&["--budget", "6", "--within", "2s", "--resume", "journal"]);
    assert_eq!((first["ended"].as_str(), first["trials"].as_array().map(Vec::len)), (Some("time"), Some(1)));
    let (_, again) = bench.json(&["--resume", "journal"]);
    assert_eq!(again, first, "the time of before is over still");
    let said = text(&bench.run(&["--resume", "journal"]).stdout);
    assert!(said.contains("trials     1: 1 measured, 0 failed; its time is over\n"), "{said}");
    fs::write(bench.path("quick"), "").unwrap();
    bench.json(&["--resume", "journal", "--within", "10m"]);
    assert_eq!(bench.journal("journal"), expected);
    assert_eq!(bench.lines("seen").len(), 6, "none ran twice");
}

#[test]
fn a_journal_goes_on_only_with_what_it_was_begun_with() {
    let bench = Bench::new(SPACE, WORK);
    bench.json(&["--budget", "3", "--resume", "journal"]);
    let begun = bench.lines("journal");
    for (arguments, part) in [
        (&["--budget", "4"][..], "--budget differs from what journal was begun with"),
        (&["--seed", "9"], "--seed differs"),
        (&["--timeout", "1s"], "--timeout differs"),
        (&["--maximize", "latency_ms"], "the metric differs"),
    ] {
        let output = bench.run(&[&["--resume", "journal"], arguments].concat());
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(2));
    }
    fs::write(bench.path("space.toml"), SPACE.replace("high = 64", "high = 65")).unwrap();
    assert!(text(&bench.run(&["--resume", "journal"]).stderr).contains("--space differs"));
    fs::write(bench.path("notes"), "mine").unwrap();
    let output = bench.run(&["--resume", "notes"]);
    assert!(text(&output.stderr).contains("notes is no journal of `kloros tune`"), "{}", text(&output.stderr));
    assert_eq!(
        (bench.lines("journal"), bench.lines("notes")),
        (begun, vec!["mine".to_owned()]),
        "both are as they were"
    );
}

#[test]
fn where_everything_fails_at_first_it_is_given_up_and_nothing_is_recommended() {
    let bench = Bench::new(SPACE, "echo 'no such device' >&2; exit 1");
    let (code, answer) = bench.json(&["--budget", "20"]);
    assert_eq!((code, &answer["conclusion"], &answer["best"]), (1, &json!("all_failed"), &Value::Null));
    assert_eq!(bench.lines("seen").len(), 4);
    let said = text(&bench.run(&["--budget", "2"]).stdout);
    assert!(said.starts_with("nothing was found: all of 2 trials failed"), "{said}");
    assert!(
        said.contains("failed     2 x died, such as: it ended with exit status: 1; it last said: no such device"),
        "{said}"
    );
}

#[test]
fn where_every_setting_measures_the_same_it_is_given_up_and_nothing_is_recommended() {
    let bench = Bench::new(SPACE, "echo '{\"latency_ms\": 5}'");
    let (code, answer) = bench.json(&["--budget", "40", "--exact"]);
    assert_eq!((code, &answer["conclusion"], &answer["best"]), (1, &json!("flat"), &Value::Null));
    assert_eq!(bench.lines("seen").len(), 8);
    let said = text(&bench.run(&["--budget", "3", "--exact"]).stdout);
    assert!(said.starts_with("nothing was found: latency_ms is the same whatever is set"), "{said}");
}

#[test]
fn trials_run_side_by_side_where_that_is_asked() {
    // Each of two trials waits for the other, so one at a time would never end.
    let script = "if [ $((KLOROS_TRIAL % 2)) = 1 ]; then echo x > pipe; else read -r _ < pipe; fi\n";
    let bench = Bench::new(SPACE, &format!("{script}{WORK}"));
    assert!(Command::new("mkfifo").arg(bench.path("pipe")).status().unwrap().success());
    let (_, answer) = bench.json(&["--budget", "4", "--parallel", "2", "--timeout", "30s"]);
    let failures: Vec<&Value> = answer["trials"].as_array().unwrap().iter().map(|trial| &trial["failure"]).collect();
    assert!(!failures.iter().any(|failure| failure.to_string().contains("timed_out")), "{failures:?}");
    assert_eq!(bench.lines("seen").len(), 4);
}

#[test]
fn a_command_that_prints_without_end_is_read_to_its_last_line() {
    let bench =
        Bench::new(SPACE, "head -c 3000000 /dev/zero | tr '\\0' 'x'\necho\necho \"{\\\"latency_ms\\\": $WORKERS}\"");
    let (_, answer) = bench.json(&["--budget", "2"]);
    assert_eq!(answer["trials"][0]["value"], 4.0, "{answer}");
}

#[test]
fn a_command_that_cannot_be_started_is_no_failed_trial() {
    let bench = Bench::new(SPACE, WORK);
    let output = bench.tune(&["--space", "space.toml", "--resume", "journal", "--", "./absent"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot start \"./absent\""), "{}", text(&output.stderr));
    assert_eq!(bench.lines("journal").len(), 1);
}

#[test]
fn what_is_wrong_with_a_space_file_is_said_with_its_line_and_key() {
    let wrong = SPACE.replace("high = 64", "hihg = 64").replace("\"lru\"] }", "\"lfu\"] }");
    let bench = Bench::new(&wrong, WORK);
    let output = bench.run(&[]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("space.toml:7: params.WORKERS.hihg: unknown key; did you mean high?"), "{said}");
    assert!(!bench.path("seen").exists() && !bench.path("home").exists(), "nothing was begun");
}

#[test]
fn without_a_metric_or_a_command_it_says_what_to_add() {
    let bench = Bench::new(&SPACE.replace("minimize = \"latency_ms\"", ""), WORK);
    let said = text(&bench.run(&[]).stderr);
    assert!(said.contains("which metric is to become better?"), "{said}");
    let said = text(&bench.tune(&["--space", "space.toml"]).output().unwrap().stderr);
    assert!(said.contains("kloros tune --space space.toml -- ./bench.sh"), "{said}");
}

#[test]
fn the_example_in_the_readme_runs_as_it_stands() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks: Vec<&str> =
        readme.split("\n```").skip(1).step_by(2).filter_map(|block| Some(block.split_once('\n')?.1)).collect();
    let block = |begin: &str| *blocks.iter().find(|block| block.starts_with(begin)).unwrap();
    let bench = Bench::new(block("# space.toml"), "");
    bench.script("bench.sh", block("#!/bin/sh\n# bench.sh").strip_prefix("#!/bin/sh\n").unwrap());
    let command = block("kloros tune --space").trim();
    let arguments: Vec<&str> = command.strip_prefix("kloros tune ").unwrap().split(' ').collect();
    let output = bench.tune(&arguments).output().unwrap();
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}{}", text(&output.stderr));
    assert!(said.starts_with("better     bytes "), "{said}");
    assert!(said.contains("trials     16: 16 measured, 0 failed\n"), "{said}");
    assert!(said.contains("\nimportance  share in what the settings change"), "{said}");
}

#[test]
fn a_picture_is_drawn_where_it_harms_nothing_and_a_name_that_would_is_told_before_any_trial() {
    let bench = Bench::new(SPACE, WORK);
    fs::write(bench.path("notes"), "mine").unwrap();
    let output = bench.run(&["--budget", "4", "--svg", "notes"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("left as it is") && !said.contains("measured  1"), "{said}");
    assert_eq!(fs::read_to_string(bench.path("notes")).unwrap(), "mine");
    bench.run(&["--budget", "4", "--svg", "run.svg"]);
    let svg = fs::read_to_string(bench.path("run.svg")).unwrap();
    let parsed = roxmltree::Document::parse(&svg).unwrap();
    let titles = parsed.descendants().filter(|node| node.tag_name().name() == "title");
    let trials = titles.filter(|title| title.text().is_some_and(|text| text.starts_with("trial ")));
    assert_eq!(trials.count(), 4, "{svg}");
}

/// The other end of the line protocol.
struct Caller {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Caller {
    fn new() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.args(["tune", "--ask-tell"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Self { child, said }
    }

    fn say(&mut self, line: &str) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        self.hear()
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ended(mut self) -> i32 {
        drop(self.child.stdin.take());
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn another_program_asks_and_tells_line_by_line() {
    let mut caller = Caller::new();
    let first = json!({
        "space": [
            {"name": "x", "type": "float", "low": -1, "high": 1},
            {"name": "mode", "type": "categorical", "choices": ["a", "b"]},
            {"name": "depth", "type": "int", "low": 1, "high": 8, "when": {"param": "mode", "in": ["b"]}},
        ],
        "budget": 13, "batch": 4, "parallel": 4, "seed": 7, "default": {"x": 1, "mode": "a"}, "direction": "minimize", "noisy": false, "version": 9,
    });
    let mut line = caller.say(&first.to_string());
    let (mut asked, mut best) = (Vec::new(), (f64::INFINITY, Value::Null));
    while let Some(lot) = line.get("ask").and_then(Value::as_array).cloned() {
        assert!((1..=4).contains(&lot.len()));
        let mut tell = Vec::new();
        for config in lot {
            assert_eq!(config["mode"] == "b", config.get("depth").is_some(), "{config}");
            let x = config["x"].as_f64().unwrap();
            if x < -0.9 {
                tell.push(json!({"value": null, "status": "failed"}));
            } else {
                tell.push(json!({"value": x * x, "status": "ok"}));
                best = if x * x < best.0 { (x * x, config.clone()) } else { best };
            }
            asked.push(config);
        }
        line = caller.say(&json!({"tell": tell, "remaining": 13 - asked.len()}).to_string());
    }
    assert_eq!(asked.len(), 13);
    assert_eq!(asked[0], json!({"x": 1, "mode": "a"}), "the default comes back as it was given");
    let distinct: BTreeSet<String> = asked.iter().map(Value::to_string).collect();
    assert_eq!(distinct.len(), 13, "without noise nothing is asked twice");
    assert!(asked.contains(&line["best"]), "{line}");
    assert!(line["best"]["x"].as_f64().unwrap().abs() < 1.0, "{line}");
    assert_eq!(caller.ended(), 0);
}

#[test]
fn a_malformed_line_is_answered_with_an_error_and_exit_code_2() {
    let mut caller = Caller::new();
    assert!(caller.say("{\"space\": [").get("error").is_some());
    assert_eq!(caller.ended(), 2);

    let mut caller = Caller::new();
    let first = "{\"space\": [{\"name\": \"x\", \"type\": \"bool\"}], \"budget\": 2, \"batch\": 2, \"parallel\": 2}";
    assert!(caller.say(first).get("ask").is_some());
    let error = caller.say("{\"tell\": [{\"value\": 1, \"status\": \"ok\"}, {\"value\": 1, \"status\": \"ok\"}, 3]}");
    assert_eq!(error, json!({"error": "tell has 3 results where 2 were asked: write one for each, in order"}));
    assert_eq!(caller.ended(), 2);

    let mut caller = Caller::new();
    drop(caller.child.stdin.take());
    assert_eq!(caller.hear(), json!({"error": "the input ended before the first line"}));
    assert_eq!(caller.ended(), 2);
}

#[test]
fn two_runs_take_turns_and_one_that_is_killed_gives_its_turn_back() {
    let bench = Bench::new(SPACE, "if [ ! -e holds ]; then : > holds; sleep 600; fi\necho '{\"latency_ms\": 1}'");
    let tune = |name: &str| {
        let mut tune = bench.tune(&["--space", "space.toml", "--budget", "1", "--resume", name, "--", "./bench"]);
        tune.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    let mut first = tune("one.jsonl");
    until("the first one measures", || bench.path("holds").exists());
    let mut second = tune("two.jsonl");
    let mut heard = BufReader::new(second.stderr.take().unwrap()).lines().map(Result::unwrap);
    let why = heard.find(|line| line.starts_with("waits")).unwrap();
    assert_eq!(why, format!("waits      process {} with kloros tune, trial 1 measures", first.id()));
    assert_eq!(bench.lines("seen").len(), 1, "the second one has started nothing");
    first.kill().unwrap();
    first.wait().unwrap();
    second.wait().unwrap();
    assert_eq!(bench.journal("two.jsonl").len(), 1);
}

#[test]
fn a_turn_that_does_not_come_in_time_ends_the_run_and_says_which_setting_allows_how_long() {
    let bench = Bench::new(SPACE, "if [ ! -e holds ]; then : > holds; sleep 600; fi\necho '{\"latency_ms\": 1}'");
    let mut first = bench.tune(&["--space", "space.toml", "--", "./bench"]).stderr(Stdio::null()).spawn().unwrap();
    until("the first one measures", || bench.path("holds").exists());
    let mut second = bench.tune(&["--space", "space.toml", "--", "./bench"]);
    let second = second.env("KLOROS__MEASURING__LEASE_WAIT_S", "1").output().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    let said = text(&second.stderr);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(said.contains("measuring.lease_wait_s") && said.contains("trial 1 measures"), "{said}");
}

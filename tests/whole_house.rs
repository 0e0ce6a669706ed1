//! The whole house on the real lab: the promises that only the running program can keep.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what was tried, and why something was not, is part of the answer"
)]

#[path = "hostile/tests.rs"]
mod hostile;

mod house;

#[path = "house/init.rs"]
mod init;

#[path = "house/doctor.rs"]
mod doctor;

#[path = "house/console.rs"]
mod console;

#[path = "house/reload.rs"]
mod reload;

#[path = "house/redis.rs"]
mod redis;

#[path = "house/nginx.rs"]
mod nginx;

#[path = "house/speech.rs"]
mod speech;

#[path = "house/llama.rs"]
mod llama;

#[path = "house/postgresql.rs"]
mod postgresql;

#[path = "house/conversation.rs"]
mod conversation;

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use house::{House, PATIENCE, exists, said};
use serde_json::Value;

const QUIET: &str = "demo_load = false\nchaos = true";

const VALIDATIONS: &str = "logs/orchestrator/validations.jsonl";
const EXPERIMENTS: &str = "logs/orchestrator/curiosity_experiments.jsonl";
const FEEDBACK: &str = ".kloros/curiosity_feedback.jsonl";

/// What holds after every deployment, however it went.
#[track_caller]
fn check_every_deployment_has_one_verdict(house: &House) {
    let deployments = house.json(&["deployments"]);
    for each in deployments.as_array().unwrap() {
        let id = each["deployment"]["id"].as_str().unwrap();
        let verdicts = |name: &str| house.read(name).lines().filter(|line| line.contains(id)).count();
        assert_eq!(verdicts(VALIDATIONS), 1, "{id} in {}", house.read(VALIDATIONS));
        assert_eq!(verdicts(FEEDBACK), 1, "{id}");
        assert_eq!(each["stage"], "closed", "{id}");
    }
}

/// What the env file says is what the lab runs with, whatever happened.
#[track_caller]
fn check_file_and_service_agree(house: &mut House) {
    house.until("env file and lab agree", |house| {
        let Some(config) = house.lab_config() else { return false };
        let agrees = |key: &str, default: &str| {
            let wanted = house.env(key).unwrap_or_else(|| default.to_owned());
            config[key].as_str() == Some(wanted.as_str())
        };
        agrees("LAB_MAX_NUM_SEQS", "2") && agrees("LAB_THREADS", "1") && agrees("LAB_PRECISION", "f64")
    });
}

/// The root, which nobody would start again, and the hands that are killed with a change in them.
const LATER: [&str; 3] = ["kloros", "hands/deployer", "hands/validator"];

#[test]
fn a_house_with_nothing_configured_closes_the_loop_although_rooms_are_killed_under_it() {
    let mut house = House::new("chaos = true", "");
    house.start(&["--cycles", "1", "--seed", "7"]);
    house.until("a question is asked by itself", |house| !house.lines(EXPERIMENTS).is_empty());
    // Every room and every supervisor but the root, whoever is at work; two hands have their turn when they have something in them.
    let paths: Vec<String> = tree(&house).into_keys().collect();
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths.iter().filter(|path| !LATER.contains(&path.as_str())) {
        let (before, restarts) = (facts(&house), tree(&house)[path].1);
        // The hand that is to kill it may be on its way back itself.
        house.until("it is killed", |house| house.kloros(&["chaos", "kill", path]).status.success());
        house.until("it was started again, and every room is back", |house| {
            let rooms = tree(house);
            let is_back = rooms.len() == paths.len() && rooms.values().all(|(state, _)| state == "running");
            is_back && rooms[path].1 > restarts
        });
        assert_eq!(facts(&house)[..before.len()], before, "a fact is lost or changed by the end of {path}");
    }
    let mut asked = 1;
    house.until("a deployment is being measured", |house| {
        // Beside other work an experiment may find nothing, which is not what this is about: it is asked once more then.
        let questions = house.json(&["questions"]);
        let questions = questions.as_array().map_or(&[][..], Vec::as_slice);
        if questions.len() == asked && questions.iter().all(|question| question["end"].is_object()) {
            asked += 1;
            house.ask(&format!("lab.again.{asked}"));
        }
        let runs = house.json(&["deployments"]);
        runs[0]["stage"] == "measuring" || runs[0]["verdict"].is_object()
    });
    let before = facts(&house);
    for room in ["validator", "deployer"] {
        // The cycle may have closed meanwhile, and the daemon with it.
        house.kloros(&["chaos", "kill", room]);
    }
    assert_eq!(house.ended(), Some(0), "{}", house.read("daemon.log"));
    assert_eq!(facts(&house)[..before.len()], before, "a fact is lost or changed by the end of the hands");

    assert_eq!(house.lines(VALIDATIONS).len(), 1);
    assert_eq!(house.lines(FEEDBACK).len(), 1);
    check_every_deployment_has_one_verdict(&house);
    let events: Vec<String> = house.lines(EXPERIMENTS).iter().map(|line| line["event"].to_string()).collect();
    assert!(events.iter().filter(|event| event.contains("generation")).count() >= 1, "{events:?}");
    assert_eq!(fs::read_dir(house.path("artifacts/dream/winners")).unwrap().count(), 1);
    let told = house.kloros(&["explain", house.lines(VALIDATIONS)[0]["deployment_id"].as_str().unwrap()]);
    let story = said(&told);
    // What it was asked once more was noticed by nobody.
    let noticed = (asked == 1).then_some("noticed");
    for word in
        ["asked", "evolved", "won", "proposed", "permitted", "deployed", "judged", "learned"].into_iter().chain(noticed)
    {
        assert!(story.contains(word), "{word} is missing in\n{story}");
    }
    assert_eq!(house.processes(), 0, "a child is left");
}

/// Returns the state of every room and supervisor, and how often it was restarted, by its path; nobody where nobody answers. The trials
/// come and go, and are not among them.
fn tree(house: &House) -> BTreeMap<String, (String, u64)> {
    let rooms = house.json(&["tree"]);
    let word = |room: &Value, key: &str| room[key].as_str().unwrap_or_default().to_owned();
    let rooms = rooms.as_array().map_or(&[][..], Vec::as_slice);
    let rooms = rooms
        .iter()
        .map(|room| (word(room, "path"), (word(room, "state"), room["restarts"].as_u64().unwrap_or_default())));
    rooms.filter(|(path, _)| !path.starts_with("experiments/trials/")).collect()
}

/// Returns every fact of the journal: its place and its digest.
fn facts(house: &House) -> Vec<(i64, i64)> {
    let journal = rusqlite::Connection::open(house.path(".kloros/journal.db")).unwrap();
    let mut facts = journal.prepare("SELECT seq, digest FROM facts ORDER BY seq").unwrap();
    let rows = facts.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let facts: Vec<(i64, i64)> = rows.map(Result::unwrap).collect();
    assert!(facts.iter().map(|(place, _)| *place).eq((1..).take(facts.len())), "a place is empty");
    facts
}

#[test]
fn a_person_s_bad_idea_is_measured_undone_and_remembered() {
    let mut house = House::new(QUIET, "");
    fs::write(
        house.path(".kloros_env"),
        "# mine\nSECRET_TOKEN='do not print me'\nLAB_MAX_NUM_SEQS=8\nLAB_BATCH_WAIT_MS=0\n",
    )
    .unwrap();
    let before = house.read(".kloros_env");
    house.start(&[]);

    let first = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=1", "LAB_BATCH_WAIT_MS=50"]);
    assert_eq!(first.status.code(), Some(1), "{}", said(&first));
    assert!(said(&first).contains("rollback"), "{}", said(&first));
    house.until("it is closed", |house| house.json(&["deployments"])[0]["stage"] == "closed");
    assert_eq!(house.read(".kloros_env"), before, "the file is as it was, byte for byte");
    house.until("the lab runs with the old values", |house| {
        house.lab_config().is_some_and(|config| config["LAB_MAX_NUM_SEQS"] == "8" && config["LAB_BATCH_WAIT_MS"] == "0")
    });
    check_every_deployment_has_one_verdict(&house);

    let again = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=1", "LAB_BATCH_WAIT_MS=50"]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(said(&again).contains("waits for you"), "{}", said(&again));
    assert!(said(&again).contains("tried before"), "{}", said(&again));

    let deployments = house.json(&["deployments"]);
    let id = deployments[0]["deployment"]["id"].as_str().unwrap();
    check(&house, &["rollback", id], 1, "was rolled back already");
    check(&house, &["explain", id], 0, "judged");
    let verdict = said(&house.kloros(&["status"]));
    assert!(verdict.contains(&format!("judged     {id} rollback")), "{verdict}");

    assert_eq!(house.interrupt(), Some(0));
    for name in ["daemon.log", VALIDATIONS, FEEDBACK] {
        assert!(!house.read(name).contains("do not print me"), "{name} holds a secret");
    }
    assert_eq!(house.processes(), 0, "a child is left");
}

#[test]
fn a_person_at_a_terminal_sees_how_far_it_is_and_whoever_reads_the_answer_sees_nothing_else() {
    let mut house = House::new("demo_load = false", "[gate]\nautonomy = 3\n");
    house.start(&[]);
    let is_line = |seen: &str, part: &str| {
        seen.split('\r').any(|line| line.starts_with("\u{1b}[2K  ... ") && line.contains(part))
    };
    for (command, part) in [
        (&["try", "lab", "LAB_MAX_NUM_SEQS=4"][..], "] 1 of 8 runs at least   old and new take turns   "),
        (&["calibrate", "lab", "--wait"], " of 4 runs at least   lab against itself   "),
    ] {
        let seen = at_a_terminal(&house, command);
        assert!(is_line(&seen, part), "{part:?} is not in {seen:?}");
        let last = seen.rsplit("\u{1b}[2K").next().unwrap();
        assert!(last.contains("\nkloros ") && !last.contains("..."), "the line stays: {seen:?}");
        assert!(!seen.contains("\u{1b}[3"), "it has a colour: {seen:?}");
        let plain = said(&house.kloros(command));
        assert!(!plain.contains('\u{1b}') && !plain.contains("..."), "{plain:?}");
    }
}

/// Runs a command of the program at a terminal, and returns all that is written there, what was written over included.
fn at_a_terminal(house: &House, arguments: &[&str]) -> String {
    let own = house.command();
    let words =
        std::iter::once(own.get_program()).chain(own.get_args()).map(|word| word.to_string_lossy().into_owned());
    let line = words.chain(arguments.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("TERM", "xterm");
    for (name, value) in own.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    let output = terminal.stdin(Stdio::null()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn at_level_zero_nothing_changes_until_somebody_says_yes() {
    let mut house = House::new(QUIET, "[gate]\nautonomy = 0");
    fs::write(house.path(".kloros_env"), "KLR_AUTONOMY_LEVEL=3\n").unwrap();
    house.start(&[]);
    let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8", "LAB_BATCH_WAIT_MS=0"]);
    assert_eq!(tried.status.code(), Some(1), "{}", said(&tried));
    assert_eq!(house.read(".kloros_env"), "KLR_AUTONOMY_LEVEL=3\n", "the env file cannot raise the ceiling");
    let id = house.json(&["status"])["live"]["waiting"][0]["promotion"]["id"].as_str().unwrap().to_owned();

    let unknown = house.kloros(&["approve", "ffffffff"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
    // Approvals survive the daemon.
    house.kill();
    house.start(&[]);
    let shown = house.json(&["status"])["live"]["waiting"][0]["binding"].as_str().unwrap()[..12].to_owned();
    for other in ["0123456789ab", &shown[..4], ""] {
        let refused = house.kloros(&["approve", &format!("{id}@{other}")]);
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
        assert!(said(&refused).contains("is not what was shown any more"), "{}", said(&refused));
    }
    assert!(house.env("LAB_MAX_NUM_SEQS").is_none());
    let approved = house.kloros(&["approve", &format!("{id}@{shown}")]);
    assert!(approved.status.success(), "{}", said(&approved));
    house.until("it is deployed", |house| house.env("LAB_MAX_NUM_SEQS").as_deref() == Some("8"));
    assert_eq!(house.kloros(&["approve", &id]).status.code(), Some(1), "an approval counts once");
    house.until("it is judged", |house| house.lines(FEEDBACK).len() == 1);
    assert!(house.env("KLR_AUTONOMY_LEVEL").is_some());
}

/// Fault 80, and the record of it.
#[test]
fn what_a_person_stops_is_taken_back_and_stands_still_until_it_may_go_on() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8", "--no-wait"]);
    house.until("it is live", |house| house.env("LAB_MAX_NUM_SEQS").as_deref() == Some("8"));
    let stopped = house.kloros(&["stop", "--reason", "the rack is being moved"]);
    assert!(stopped.status.success(), "{}", said(&stopped));
    house.until("it is taken back", |house| {
        house.env("LAB_MAX_NUM_SEQS").is_none() && house.lines(VALIDATIONS).len() == 1
    });
    assert_eq!(house.lines(VALIDATIONS)[0]["reason"], "stopped");
    let status = house.kloros(&["status"]);
    assert!(said(&status).starts_with("stopped"), "{}", said(&status));
    assert!(said(&status).contains("stopped everything: the rack is being moved   kloros go"), "{}", said(&status));
    // What comes meanwhile waits, and so does whoever proposes something.
    house.drop_file(".kloros/intents", "late.json", "{}");
    let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=4"]);
    assert!(said(&tried).contains("waits for its turn"), "{}", said(&tried));
    assert!(said(&house.kloros(&["status"])).contains("held       LAB_MAX_NUM_SEQS"));
    assert!(exists(&house.path(".kloros/intents/late.json")));
    // The daemon looks whether it may go on once a second, and notes then who stopped it.
    let is_noted = |house: &mut House| said(&house.kloros(&["audit"])).contains("stopped    user");
    house.until("who stopped it is noted", is_noted);
    // The word to go on is taken without the daemon, too.
    house.kill();
    assert!(house.kloros(&["go"]).status.success());
    assert_eq!(house.kloros(&["go"]).status.code(), Some(1), "there is nothing to let go on");
    house.start(&[]);
    house.until("what waited is live", |house| house.env("LAB_MAX_NUM_SEQS").as_deref() == Some("4"));
    house.until("the inbox is read", |house| !exists(&house.path(".kloros/intents/late.json")));
    house.until("it is judged", |house| house.lines(VALIDATIONS).len() == 2);

    let audit = said(&house.kloros(&["audit"]));
    for part in
        ["stopped    user", "the rack is being moved", "went on", "held back", "judged     rollback", "deployed"]
    {
        assert!(audit.contains(part), "{part} is missing in {audit}");
    }
    let verified = house.kloros(&["audit", "verify"]);
    assert!(verified.status.success() && said(&verified).starts_with("intact"), "{}", said(&verified));
    assert_eq!(house.interrupt(), Some(0));
    let trail = house.path("logs/audit/audit-000001.jsonl");
    let text = fs::read_to_string(&trail).unwrap();
    fs::write(&trail, text.replacen("rack", "rock", 1)).unwrap();
    let verified = house.kloros(&["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(1), "{}", said(&verified));
    assert!(said(&verified).starts_with("broken at line"), "{}", said(&verified));
}

#[test]
fn advice_changes_nothing_and_says_the_lines_to_set() {
    let mut house = House::new(QUIET, "[gate]\nadvice = true\nautonomy = 3");
    fs::write(house.path(".kloros_env"), "LAB_MAX_NUM_SEQS=2\n").unwrap();
    house.start(&[]);
    let winner =
        r#"{"experiment": "lab_tuning", "domain": "lab", "best": {"params": {"max_num_seqs": 8, "threads": 2}}}"#;
    house.drop_file("artifacts/dream/winners", "mine.json", winner);
    house.until("advice is given", |house| said(&house.kloros(&["status"])).contains("advises    lab"));
    let status = said(&house.kloros(&["status"]));
    for part in ["mine.json proposed it", " LAB_MAX_NUM_SEQS=8\n", " LAB_THREADS=2\n", "advice     nothing is deployed"]
    {
        assert!(status.contains(part), "{part} is missing in {status}");
    }
    assert_eq!(house.read(".kloros_env"), "LAB_MAX_NUM_SEQS=2\n");
    assert_eq!(house.json(&["deployments"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn the_env_file_can_lower_the_level_and_a_no_is_final() {
    let mut house = House::new(QUIET, "[gate]\nautonomy = 3");
    fs::write(house.path(".kloros_env"), "KLR_AUTONOMY_LEVEL=0\n").unwrap();
    house.start(&[]);
    let tried = house.kloros(&["try", "lab", "LAB_THREADS=2"]);
    assert!(said(&tried).contains("waits for you"), "{}", said(&tried));
    let id = house.json(&["status"])["live"]["waiting"][0]["promotion"]["id"].as_str().unwrap().to_owned();
    assert!(house.kloros(&["reject", &id, "--reason", "not today"]).status.success());
    assert_eq!(house.kloros(&["approve", &id]).status.code(), Some(1));
    assert_eq!(house.read(".kloros_env"), "KLR_AUTONOMY_LEVEL=0\n");
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_a_proven_service_and_goes_on() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    house.ask("lab.killed.001");
    // The moments lie apart by what happens in them, not by a clock: each kill waits for the next thing in the journal.
    let moments: [(&str, Option<&str>, Moment); 5] = [
        ("the experiment began", None, |house| !house.lines(EXPERIMENTS).is_empty()),
        ("trials were measured", None, |house| trials(house) >= 2),
        ("a generation was measured", None, |house| house.read(EXPERIMENTS).contains("generation")),
        ("a deployment began", Some("LAB_MAX_NUM_SEQS=12"), |house| !stages(house).is_empty()),
        ("a deployment is measured", Some("LAB_MAX_NUM_SEQS=16"), |house| {
            stages(house).iter().any(|stage| stage == "measuring")
        }),
    ];
    let mut tried = 0;
    for (name, proposal, moment) in moments {
        if let Some(proposal) = proposal {
            let output = house.kloros(&["try", "lab", proposal, "--no-wait"]);
            assert!(output.status.success(), "{}", said(&output));
        }
        house.until(name, |house| moment(house));
        house.kill();
        house.start(&[]);
        assert!(trials(&house) >= tried, "no trial is lost");
        tried = trials(&house);
        check_file_and_service_agree(&mut house);
    }
    house.until("what was open is closed", |house| stages(house).iter().all(|stage| stage == "closed"));
    house.until("every verdict is told", |house| house.lines(VALIDATIONS).len() == house.lines(FEEDBACK).len());
    let keys = trial_keys(&house);
    let mut unique = keys.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(keys.len(), unique.len(), "no trial is made twice: {keys:?}");
    assert_eq!(house.interrupt(), Some(0));
    check_every_deployment_has_one_verdict(&house);
    assert_eq!(house.processes(), 0, "a child is left");
    check_it_is_shown_whole(&house, keys.len());
}

/// With the daemon stopped, the experiment is shown in words, as data, and as a picture, which is its own to replace.
fn check_it_is_shown_whole(house: &House, trials: usize) {
    let svg = house.path("shown.svg");
    let path = svg.display().to_string();
    for _ in 0..2 {
        check(house, &["experiments", "show", "lab.killed", "--svg", &path], 0, "convergence");
    }
    let text = fs::read_to_string(&svg).unwrap();
    let drawn = roxmltree::Document::parse(&text).unwrap();
    assert!(drawn.descendants().any(|node| node.text() == Some("lab_tuning on lab")), "{text}");
    let shown = house.json(&["experiments", "show", "lab.killed"]);
    assert_eq!(shown, house.json(&["experiments", "x-lab.killed.001"]), "both say the same");
    let marks = shown[0]["convergence"]["marks"].as_array().unwrap().len();
    assert!(marks > 0 && marks <= trials, "{shown}");
    assert_eq!(shown[0]["objective_from"], "experiment");
    assert!(shown[0]["importance"]["bars"].is_array() || shown[0]["importance"]["unclear"].is_string(), "{shown}");
    assert!(shown[0]["live"]["fitness"].is_number() || shown[0]["state"] != "won", "{shown}");
}

/// Something to wait for.
type Moment = fn(&House) -> bool;

fn stages(house: &House) -> Vec<String> {
    let deployments = house.json(&["deployments"]);
    deployments.as_array().unwrap().iter().map(|each| each["stage"].as_str().unwrap_or("judged").to_owned()).collect()
}

fn trials(house: &House) -> usize {
    trial_keys(house).len()
}

fn trial_keys(house: &House) -> Vec<String> {
    let found = house.json(&["experiments", "x-lab.killed.001"]);
    let trials = found[0]["trials"].as_array().cloned().unwrap_or_default();
    trials.iter().map(|trial| format!("{}:{}", trial["generation"], trial["number"])).collect()
}

#[test]
fn hostile_files_are_set_aside_and_the_loop_goes_on() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    let intents = house.path(".kloros/intents");
    house.drop_file(".kloros/intents", "cut.json", r#"{"type": "curiosity_question", "data": {"question_id": "a"#);
    house.drop_file(".kloros/intents", "other.json", r#"{"type": "shell", "data": {"run": "rm"}}"#);
    fs::File::create(intents.join("large.json")).unwrap().set_len(1 << 30).unwrap();
    let winner = r#"{"experiment": "lab_tuning", "domain": "lab",
        "best": {"params": {"KLR_AUTONOMY_LEVEL": 3, "max_num_seqs": 8}, "fitness": 9}}"#;
    house.drop_file("artifacts/dream/winners", "evil.json", winner);
    let mapped =
        r#"{"experiment": "lab_tuning", "domain": "lab", "best": {"params": {"max_num_seqs": 99999}, "fitness": 9}}"#;
    house.drop_file("artifacts/dream/winners", "range.json", mapped);

    house.until("all are set aside", |house| {
        ["cut.json", "other.json", "large.json"]
            .iter()
            .all(|name| exists(&house.path(".kloros/intents/processed").join(format!("{name}.refused"))))
            && exists(&house.path("artifacts/dream/winners/evil.json.refused"))
            && exists(&house.path("artifacts/dream/winners/range.json.refused"))
    });
    assert_eq!(house.read(".kloros_env"), "", "nothing was applied");
    assert!(house.kloros(&["status"]).status.success());
    assert!(house.json(&["deployments"]).as_array().unwrap().is_empty());
}

#[test]
fn settings_can_be_measured_beside_the_service_while_nothing_changes() {
    let mut house = House::new(QUIET, "");
    fs::write(house.path(".kloros_env"), "LAB_MAX_NUM_SEQS=1\n").unwrap();
    let better = ["LAB_MAX_NUM_SEQS=16", "LAB_BATCH_WAIT_MS=0", "LAB_PRECISION=f32"];
    let measured = house.json(&[&["bench", "lab"][..], &better, &["--runs", "2"]].concat());
    let improvements: Vec<f64> =
        measured["improvements"].as_array().unwrap().iter().map(|each| each.as_f64().unwrap()).collect();
    assert_eq!(improvements.len(), 2, "{measured}");
    // On a busy machine not one request may be in time, whatever the settings; the objective weighs the time as well.
    assert!(improvements.iter().sum::<f64>() > 0.0, "{measured}");
    assert_eq!(house.read(".kloros_env"), "LAB_MAX_NUM_SEQS=1\n");
    assert_eq!(house.processes(), 0, "an instance is left");
    for (wrong, code) in [("LAB_MAX_NUM_SEQS=0", 1), ("PATH=/tmp", 1), ("LAB_MAX_NUM_SEQS", 2)] {
        assert_eq!(house.kloros(&["bench", "lab", wrong]).status.code(), Some(code), "{wrong}");
    }
    house.start(&[]);
    let beside = house.kloros(&["bench", "lab"]);
    assert_eq!(beside.status.code(), Some(0), "{}", said(&beside));
}

#[test]
fn whatever_lies_in_an_inbox_is_refused_with_its_reason_beside_it() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    let winners = "artifacts/dream/winners";
    let best = r#""best": {"params": {"max_num_seqs": 8}}"#;
    let base = format!(r#""experiment": "lab_tuning", "domain": "lab", {best}"#);
    house.drop_file(winners, "unknown.json", &format!(r#"{{{base}, "autonomy": 3}}"#));
    house.drop_file(winners, "twice.json", &format!(r#"{{{base}, "domain": "lab"}}"#));
    house.drop_file(winners, "deep.json", &"[".repeat(60_000));
    std::os::unix::fs::symlink("/etc/passwd", house.path(winners).join("link.json")).unwrap();
    let pipe = house.path(winners).join("pipe.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    house.drop_file(".kloros/intents", "twice.json", r#"{"type": "curiosity_question", "type": "shell", "data": {}}"#);
    for number in 0..1000 {
        fs::write(house.path(".kloros/intents").join(format!("flood-{number}.json")), "{}").unwrap();
    }
    let cases = [
        (winners, "unknown.json", "unknown field `autonomy`"),
        (winners, "twice.json", "stands twice"),
        (winners, "deep.json", "recursion limit"),
        (winners, "link.json", "symbolic link"),
        (winners, "pipe.json", "no plain file"),
        (".kloros/intents/processed", "twice.json", "stands twice"),
        (".kloros/intents/processed", "flood-999.json", "missing field"),
    ];
    for (folder, name, part) in cases {
        let reason = format!("{folder}/{name}.reason");
        house.until("the reason is told", |house| !house.read(&reason).is_empty());
        assert!(house.read(&reason).contains(part), "{name}: {}", house.read(&reason));
        assert!(exists(&house.path(&format!("{folder}/{name}.refused"))), "{name}");
    }
    assert_eq!(house.read(".kloros_env"), "", "nothing was applied");
}

#[test]
fn the_same_proposal_waits_once_and_the_second_is_told_of_the_first() {
    let mut house = House::new(QUIET, "[gate]\nautonomy = 0");
    house.start(&[]);
    let first = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8"]);
    assert!(said(&first).contains("waits for you"), "{}", said(&first));
    let status = house.json(&["status"]);
    let waiting = status["live"]["waiting"].as_array().unwrap();
    assert_eq!(waiting.len(), 1);
    let id = waiting[0]["promotion"]["id"].as_str().unwrap();
    assert_eq!(status["live"]["services"][0]["is_up"], true, "{status}");
    assert_eq!(status["live"]["levels"][0]["in_force"], 0, "{status}");
    let words = said(&house.kloros(&["status"]));
    let shown = &waiting[0]["binding"].as_str().unwrap()[..12];
    assert!(words.ends_with(&format!("\nkloros approve {id}@{shown}\n")), "{words}");
    assert!(words.contains("service    lab is up") && words.contains("lab at autonomy 0 of at most 0"), "{words}");

    let second = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8"]);
    assert_eq!(second.status.code(), Some(1), "{}", said(&second));
    assert!(said(&second).contains(&format!("proposed already, as {id}")), "{}", said(&second));
    assert_eq!(house.json(&["status"])["live"]["waiting"].as_array().unwrap().len(), 1);

    let check = |arguments: &[&str], code: i32, part: &str| check(&house, arguments, code, part);
    check(&["approve", "nosuch"], 1, "nothing waits under nosuch");
    check(&["rollback", "nosuch"], 1, "no deployment begins with \"nosuch\"");
    check(&["deployments", "nosuch"], 1, "no deployment begins with \"nosuch\"");
    check(&["try", "nosuch", "A=1"], 1, "there is no domain \"nosuch\"");
    check(&["try", "lab", "LAB_THREADS=99"], 1, "LAB_THREADS");
    check(&["try", "lab", "LAB_THREADS=many"], 1, "not a value");
    check(&["try", "lab", "LAB_THREADS"], 2, "not KEY=VALUE");
    check(&["explain", id], 0, "proposed");
    check(&["explain", id.trim_start_matches("p-")], 0, "asked you");
    check(&["intents"], 0, "\nkloros explain p-");
    check(&["tree"], 0, "kloros status");
    check(&["rebuild-logs"], 2, "is in use by");
}

#[track_caller]
fn check(house: &House, arguments: &[&str], code: i32, part: &str) {
    let output = house.kloros(arguments);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(part), "{arguments:?}: {text}");
}

#[test]
fn a_home_in_which_nothing_happened_answers_every_question_and_stays_untouched() {
    let house = House::new(QUIET, "");
    for (arguments, code, part) in [
        (&["status"][..], 1, "not running in"),
        (&["intents"], 0, "no intents yet"),
        (&["questions"], 0, "no questions yet"),
        (&["experiments"], 0, "no experiments yet"),
        (&["winners"], 0, "no winners yet"),
        (&["deployments"], 0, "no deployments yet"),
        (&["deployments", "nosuch"], 1, "no deployment begins with"),
        (&["experiments", "nosuch"], 1, "no experiment begins with"),
        (&["experiments", "show", "nosuch"], 1, "no experiment begins with"),
        (&["--json", "experiments", "show", "nosuch"], 1, "[]"),
        (&["experiments", "show"], 2, "<ID>"),
        (&["experiments", "--svg", "x.svg"], 2, "<ID>"),
        (&["--json", "deployments", "nosuch"], 1, "[]"),
        (&["explain", "nosuch"], 1, "nothing is known yet"),
        (&["tree"], 2, "start it with `kloros run`"),
        (&["approve", "x"], 2, "no daemon runs"),
        (&["rollback", "x"], 2, "no daemon runs"),
        (&["try", "lab", "LAB_THREADS=2"], 2, "no daemon runs"),
        (&["check-config"], 0, "ok:"),
        (&["rebuild-logs"], 2, "no kloros has run in this home yet"),
        (&["nosuch"], 2, "unrecognized subcommand"),
    ] {
        check(&house, arguments, code, part);
    }
    assert!(!exists(&house.path(".kloros")), "asking writes nothing");
}

#[test]
fn a_journal_that_is_gone_or_emptied_is_not_begun_afresh_without_a_word() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    assert_eq!(house.interrupt(), Some(0));
    let journal = house.path(".kloros/journal.db");
    fs::write(&journal, "").unwrap();
    check(&house, &["run"], 2, "journal.db is empty");
    check(&house, &["deployments"], 2, "journal.db is empty");
    assert_eq!(fs::read(&journal).unwrap(), b"", "what is left is left alone");
    fs::remove_file(&journal).unwrap();
    check(&house, &["run"], 2, "journal.db is gone");
    check(&house, &["explain", "x"], 2, "remove");
    assert!(!exists(&journal));
    fs::remove_file(house.path(".kloros/journal.mark")).unwrap();
    house.start(&[]);
}

#[test]
fn who_measures_by_hand_takes_turns_with_the_daemon() {
    let mut house = House::new("", "");
    house.start(&[]);
    house.until("an experiment measures", |house| {
        house.json(&["status"])["live"]["measuring"]["Ok"]["measures"]["what"]
            .as_str()
            .is_some_and(|what| what.ends_with(" of lab"))
    });
    let measured = house.json(&["bench", "lab", "LAB_MAX_NUM_SEQS=4", "--runs", "2"]);
    assert_eq!(measured["failures"], serde_json::json!([]));
    let runs = ["now", "then"].map(|side| measured[side].as_array().map(Vec::len));
    assert_eq!(runs, [Some(2), Some(2)], "{measured}");
    let failed = house.json(&["experiments"])[0]["failures"].to_string();
    assert!(!failed.contains("infrastructure"), "{failed}");
}

#[test]
fn what_happens_is_followed_fact_by_fact_until_nobody_wants_to_know_more() {
    let mut house = House::new(QUIET, "");
    assert!(said(&house.kloros(&["events"])).contains("nothing of that happened yet"));
    let follow = |house: &House, more: &[&str], file: &str| {
        let mut asked = std::process::Command::new(env!("CARGO_BIN_EXE_kloros"));
        asked.args(["--json", "--home"]).arg(house.home.path()).args(["events", "--follow"]).args(more);
        asked.stdin(Stdio::null()).stdout(fs::File::create(house.path(file)).unwrap()).spawn().unwrap()
    };
    // It is there before there is a journal.
    let mut all = follow(&house, &[], "all.jsonl");
    let mut few = follow(&house, &["--kind", "switch", "--limit", "0"], "few.jsonl");
    house.start(&[]);
    assert!(house.kloros(&["stop", "--reason", "to be heard"]).status.success());
    house.until("the stop is heard", |house| house.read("few.jsonl").lines().count() == 1);
    assert!(house.kloros(&["go"]).status.success());
    house.until("that it goes on is heard", |house| house.read("few.jsonl").lines().count() == 2);
    house
        .until("they are heard among all", |house| house.read("all.jsonl").matches("\"kind\":\"switch\"").count() == 2);
    assert!(house.read("few.jsonl").contains("to be heard"), "{}", house.read("few.jsonl"));
    for asked in [&mut all, &mut few] {
        assert!(std::process::Command::new("kill").args(["-INT", &asked.id().to_string()]).status().unwrap().success());
        assert_eq!(asked.wait().unwrap().code(), Some(0));
    }
    let newest = said(&house.kloros(&["events", "--kind", "switch", "--limit", "1"]));
    assert!(newest.contains("switch") && newest.lines().count() == 1, "{newest}");
    let unknown = house.kloros(&["events", "--kind", "gossip"]);
    assert!(unknown.status.code() == Some(2) && said(&unknown).contains("question_end"), "{}", said(&unknown));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let house = House::new(QUIET, "");
    for arguments in ["deployments", "status", "--help", "check-config"] {
        let mut asked = std::process::Command::new(env!("CARGO_BIN_EXE_kloros"));
        asked.arg("--home").arg(house.home.path()).arg(arguments);
        let mut asked = asked.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(asked.stdout.take());
        let answered = asked.wait_with_output().unwrap();
        assert_eq!((answered.status.code(), said(&answered).as_str()), (Some(0), ""), "{arguments}");
    }
}

#[test]
fn a_winner_that_its_owner_drops_is_deployed_like_any_other() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    let winner = r#"{"experiment": "lab_tuning", "domain": "lab",
        "best": {"params": {"max_num_seqs": 8, "batch_wait_ms": 0, "precision": "f32"}, "fitness": 0.3}}"#;
    house.drop_file("artifacts/dream/winners", "mine.json", winner);
    house.until("it is judged", |house| house.lines(FEEDBACK).len() == 1);
    house.until("it is closed", |house| house.json(&["deployments"])[0]["stage"] == "closed");
    check_file_and_service_agree(&mut house);
    assert!(exists(&house.path("artifacts/dream/winners/mine.json.taken")));
}

#[test]
fn a_bad_configuration_is_told_whole_and_nothing_starts() {
    let mut house = House::new("", "");
    let text = "[validator]\nkeep_frm = 0.02\nundo_below = nan\n[gate]\nautonomy = true\n[dream]\nlot_max = 2.7\n";
    fs::write(house.path("kloros.toml"), text).unwrap();
    let checked = house.kloros(&["check-config"]);
    assert_eq!(checked.status.code(), Some(1));
    let problems = said(&checked);
    for part in [":2:", "keep_from", ":3:", "undo_below", ":5:", "gate.autonomy", ":7:", "dream.lot_max"] {
        assert!(problems.contains(part), "{part} is missing in\n{problems}");
    }
    house.spawn(&[]);
    assert_eq!(house.ended(), Some(78));
    assert!(!exists(&house.path(".kloros_env")));
}

#[test]
fn a_second_daemon_in_one_home_is_told_whose_it_is() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    let second = house.kloros(&["run"]);
    assert_eq!(second.status.code(), Some(2), "{}", said(&second));
    let pid = house.json(&["status"])["live"]["pid"].to_string();
    assert!(said(&second).contains(&pid), "{}", said(&second));
    assert!(house.kloros(&["status"]).status.success());
}

#[test]
fn logs_that_were_deleted_are_rebuilt_as_they_were() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8"]);
    house.until("it is judged", |house| house.lines(FEEDBACK).len() == 1);
    assert_eq!(house.interrupt(), Some(0));
    let log = fs::metadata(house.path(".kloros/journal.db-wal")).map_or(0, |found| found.len());
    assert_eq!(log, 0, "a journal at rest is one file");
    let before = (house.read(VALIDATIONS), house.read(FEEDBACK));
    fs::remove_file(house.path(VALIDATIONS)).unwrap();
    fs::write(house.path(FEEDBACK), "{torn").unwrap();
    let rebuilt = house.kloros(&["rebuild-logs"]);
    assert!(rebuilt.status.success(), "{}", said(&rebuilt));
    assert_eq!((house.read(VALIDATIONS), house.read(FEEDBACK)), before);
}

#[test]
fn a_question_about_what_may_not_be_touched_is_refused() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    let intent = serde_json::json!({"type": "curiosity_question", "data": {
        "question_id": "lab.evil.001", "hypothesis": "LAB_EVIL",
        "dream_experiment": {
            "name": "evil", "domain": "lab",
            "search_space": {"level": {"kind": "integer", "min": 0, "max": 3}},
            "metrics": {"goodput_per_s": "up"},
            "param_mapping": {"level": "KLR_AUTONOMY_LEVEL"},
            "budget": {"max_candidates": 2, "max_generations": 1}
        }
    }});
    house.drop_file(".kloros/intents", "evil.json", &intent.to_string());
    let mut questions = Value::Null;
    house.until("it is refused", |house| {
        questions = house.json(&["questions"]);
        questions[0]["end"]["how"] == "refused"
    });
    assert!(questions[0]["end"]["why"].as_str().unwrap().contains("KLR_AUTONOMY_LEVEL"), "{questions}");
}

/// Lets a change of the lab's go live, and returns when old and new are being measured.
fn measure_a_change(house: &mut House) {
    house.start(&[]);
    let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8", "--no-wait"]);
    assert!(tried.status.success(), "{}", said(&tried));
    house.until("the change is measured", |house| stages(house) == ["measuring"]);
    assert_eq!(house.env("LAB_MAX_NUM_SEQS").as_deref(), Some("8"));
}

/// Once the change stayed until the next start.
#[test]
fn a_journal_that_is_deleted_under_an_unproven_change_has_it_taken_back_and_ends_the_daemon() {
    let mut house = House::new(QUIET, "");
    fs::write(house.path(".kloros_env"), "# mine\n").unwrap();
    measure_a_change(&mut house);
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        fs::remove_file(house.path(".kloros").join(name)).unwrap();
    }
    house.until("the change is taken back", |house| house.read(".kloros_env") == "# mine\n");
    assert_eq!(house.ended(), Some(2), "{}", house.read("daemon.log"));
    assert_eq!(house.read(".kloros_env"), "# mine\n");
    assert_eq!(house.processes(), 0, "a child is left");
    // It is not taken for a new one, until somebody says so.
    house.spawn(&[]);
    assert_eq!(house.ended(), Some(2), "{}", house.read("daemon.log"));
    fs::remove_file(house.path(".kloros/journal.mark")).unwrap();
    house.start(&[]);
    check_file_and_service_agree(&mut house);
    assert!(!exists(&house.path(".kloros/pending/lab.json")));
}

#[test]
fn a_journal_that_is_damaged_while_the_daemon_is_down_does_not_keep_an_unproven_change_alive() {
    let mut house = House::new(QUIET, "");
    fs::write(house.path(".kloros_env"), "# mine\n").unwrap();
    measure_a_change(&mut house);
    house.kill();
    fs::remove_file(house.path(".kloros/journal.db-wal")).ok();
    fs::write(house.path(".kloros/journal.db"), "no journal ".repeat(1000)).unwrap();
    house.spawn(&[]);
    assert_eq!(house.ended(), Some(2), "{}", house.read("daemon.log"));
    assert_eq!(house.read(".kloros_env"), "# mine\n");
    // The guard of the daemon that was killed sees a moment later that there is nothing left to guard.
    house.until("nothing is left", |house| house.processes() == 0);
}

#[test]
fn a_journal_that_cannot_be_written_has_the_unproven_change_taken_back_and_judged_when_it_can() {
    let mut house = House::new(QUIET, "");
    fs::write(house.path(".kloros_env"), "# mine\n").unwrap();
    measure_a_change(&mut house);
    // Somebody else holds the database, as a full disk would keep it from being written.
    let other = rusqlite::Connection::open(house.path(".kloros/journal.db")).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    house.until("the change is taken back", |house| house.read(".kloros_env") == "# mine\n");
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    house.until("it is closed", |house| stages(house) == ["closed"]);
    let deployments = house.json(&["deployments"]);
    assert_eq!(deployments[0]["verdict"]["outcome"], "rollback");
    assert_eq!(deployments[0]["verdict"]["reason"]["reason"], "aborted");
    house.until("it is told", |house| house.lines(FEEDBACK).len() == 1);
    check_every_deployment_has_one_verdict(&house);
    check_file_and_service_agree(&mut house);
}

/// Once a service that its keeper had started again just in time was kept.
#[test]
fn a_service_that_is_killed_while_it_is_measured_gets_its_old_values_back() {
    let mut house = House::new(QUIET, "");
    measure_a_change(&mut house);
    let port = house.lab_url().unwrap().rsplit(':').next().unwrap().to_owned();
    kill_whoever_serves(&house, &port);
    house.until("it is closed", |house| stages(house) == ["closed"]);
    let deployments = house.json(&["deployments"]);
    assert_eq!(deployments[0]["verdict"]["outcome"], "rollback");
    assert_eq!(deployments[0]["verdict"]["reason"]["reason"], "died");
    assert_eq!(house.env("LAB_MAX_NUM_SEQS"), None);
    check_file_and_service_agree(&mut house);
}

#[test]
fn an_env_file_that_a_person_edited_without_a_restart_is_not_tuned() {
    let mut house = House::new(QUIET, "");
    house.start(&[]);
    fs::write(house.path(".kloros_env"), "LAB_MAX_NUM_SEQS=8\n").unwrap();
    for proposal in ["LAB_MAX_NUM_SEQS=16", "LAB_THREADS=2"] {
        let tried = house.kloros(&["try", "lab", proposal]);
        assert_eq!(tried.status.code(), Some(1), "{}", said(&tried));
        assert!(said(&tried).contains("the env file says 8, and the service runs with \"2\""), "{}", said(&tried));
    }
    assert_eq!(house.read(".kloros_env"), "LAB_MAX_NUM_SEQS=8\n");
    assert!(house.json(&["deployments"]).as_array().unwrap().is_empty());
}

/// Once the domain file's word was taken for what the service runs with, and the wrong old settings were measured.
#[test]
fn what_the_service_says_counts_where_the_domain_file_is_wrong_about_its_default() {
    let mut house = House::new(QUIET, "");
    let lab = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/domains/lab.toml")).unwrap();
    let wrong = lab.replacen("default = 2\n", "default = 8\n", 1);
    assert_ne!(wrong, lab);
    fs::create_dir_all(house.path("domains")).unwrap();
    fs::write(house.path("domains/lab.toml"), wrong).unwrap();
    house.start(&[]);
    let nothing = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=2"]);
    assert!(said(&nothing).contains("nothing would change"), "{}", said(&nothing));
    let tried = house.kloros(&["try", "lab", "LAB_MAX_NUM_SEQS=8", "--no-wait"]);
    assert!(said(&tried).contains("LAB_MAX_NUM_SEQS unset (2) -> 8"), "{}", said(&tried));
    house.until("it is measured", |house| stages(house) == ["measuring"]);
    let deployments = house.json(&["deployments"]);
    let recalled = house.kloros(&["rollback", deployments[0]["deployment"]["id"].as_str().unwrap()]);
    assert!(recalled.status.success(), "{}", said(&recalled));
    house.until("it is closed", |house| stages(house) == ["closed"]);
    assert_eq!(house.env("LAB_MAX_NUM_SEQS"), None, "a key that the file did not name is taken out again");
    check_file_and_service_agree(&mut house);
}

/// Kills the process that was started to serve on this port.
fn kill_whoever_serves(house: &House, port: &str) {
    let home = house.home.path().display().to_string();
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let serves = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        arguments.iter().any(|each| each == port) && arguments.iter().any(|each| each.contains(&home))
    };
    let pids: Vec<String> =
        entries.filter(serves).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(pids.len(), 1, "who serves on {port}: {pids:?}");
    assert!(std::process::Command::new("kill").args(["-KILL", &pids[0]]).status().unwrap().success());
}

//! What is left when the daemon is killed: `cargo bench --bench kills -- [--seed N] [--kills N]`.
//!
//! It measures one whole cycle of the real program on the real lab, from a question to its lesson. Then it runs that cycle anew in
//! a fresh home for each kill, `kill -9`s the daemon at a random moment of it, one in each of equal parts of the cycle, starts it again,
//! lets the cycle go on to its end, and looks at what the promises say of it. It prints a row a kill, and fails when one promise
//! is broken.

#![allow(clippy::unwrap_used, reason = "in a check of the whole program a panic is the report")]

#[path = "../house/mod.rs"]
mod house;

use std::{
    collections::BTreeSet,
    io::{Write, stdout},
    process::ExitCode,
    time::{Duration, Instant},
};

use house::{House, exists, said};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

/// No practice load, so that the question that is asked here is the only one.
const SHELL: &str = "demo_load = false\nlog = \"warn\"";

const QUESTION: &str = "lab.killed.001";

const VALIDATIONS: &str = "logs/orchestrator/validations.jsonl";
const FEEDBACK: &str = ".kloros/curiosity_feedback.jsonl";

fn main() -> ExitCode {
    let kills = argument("--kills").unwrap_or(10);
    let seed = argument("--seed").unwrap_or(1);
    let began = Instant::now();
    let (whole, defaults) = measure_cycle();
    say(&format!("seed {seed}, {kills} kills, a cycle without a kill takes {:.1} s", whole.as_secs_f64()));
    say("  kill at   stage at the kill                         back after   found");
    let mut random = StdRng::seed_from_u64(seed);
    let mut broken = 0;
    for number in 0..kills {
        let share = (number as f64 + random.random::<f64>()) / kills as f64;
        let row = kill_at(whole.mul_f64(share), &defaults);
        broken += row.broken.len();
        let found = if row.broken.is_empty() { row.found } else { format!("BROKEN: {}", row.broken.join("; ")) };
        let (at_s, back_s) = (row.at.as_secs_f64(), row.back.as_secs_f64());
        say(&format!("  {at_s:6.1} s   {:40}  {back_s:7.1} s   {found}", row.stage));
    }
    let took = began.elapsed().as_secs();
    say(&format!("{}, {took} s in all", if broken == 0 { "every promise was kept" } else { "PROMISES WERE BROKEN" }));
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns the number that follows `name` on the command line.
fn argument(name: &str) -> Option<u64> {
    let all: Vec<String> = std::env::args().collect();
    let at = all.iter().position(|each| each == name)?;
    Some(all.get(at + 1).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} needs a number")))
}

fn say(line: &str) {
    writeln!(stdout().lock(), "{line}").unwrap();
}

/// Returns how long a cycle takes that nobody disturbs, and what the lab runs with when its env file is silent.
fn measure_cycle() -> (Duration, Value) {
    let mut house = House::new(SHELL, "");
    house.start(&[]);
    let defaults = house.lab_config().unwrap();
    let began = Instant::now();
    house.ask(QUESTION);
    house.until("the cycle is closed", |house| is_closed(house));
    let whole = began.elapsed();
    let seen = Seen::of(&house);
    assert!(!seen.deployments.is_empty(), "nothing won, so there is no deployment to kill the daemon in");
    assert_eq!(broken(&mut house, &defaults), Vec::<String>::new());
    assert_eq!(house.interrupt(), Some(0));
    (whole, defaults)
}

/// What a kill came to.
struct Row {
    at: Duration,
    stage: String,
    back: Duration,
    found: String,
    broken: Vec<String>,
}

fn kill_at(at: Duration, defaults: &Value) -> Row {
    let mut house = House::new(SHELL, "");
    house.start(&[]);
    let began = Instant::now();
    house.ask(QUESTION);
    while let Some(left) = at.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::park_timeout(left);
    }
    house.kill();
    let before = Seen::of(&house);
    let killed = Instant::now();
    house.start(&[]);
    house.until("env file and lab agree again", |house| disagreement(house, defaults).is_none());
    let back = killed.elapsed();
    house.until("the cycle is closed after all", |house| is_closed(house));
    let after = Seen::of(&house);
    let mut broken = broken(&mut house, defaults);
    broken.extend(before.lost_in(&after));
    if house.interrupt() != Some(0) {
        broken.push("it did not stop cleanly".to_owned());
    }
    match house.processes() {
        0 => {}
        left => broken.push(format!("{left} processes are left")),
    }
    Row { at, stage: before.stage(), back, found: after.found(&before), broken }
}

/// What the journal knows of the one question.
struct Seen {
    experiments: Vec<Value>,
    deployments: Vec<Value>,
}

impl Seen {
    fn of(house: &House) -> Self {
        let list = |arguments: &[&str]| house.json(arguments).as_array().cloned().unwrap_or_default();
        Self { experiments: list(&["experiments", &format!("x-{QUESTION}")]), deployments: list(&["deployments"]) }
    }

    fn trials(&self) -> Vec<Value> {
        let trials = self.experiments.first().and_then(|first| first["trials"].as_array().cloned());
        trials.unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.experiments.first().is_some_and(|first| !first["end"].is_null())
    }

    fn stage(&self) -> String {
        if let Some(deployment) = self.deployments.last() {
            return format!("deployment {}", deployment["stage"].as_str().unwrap_or("unknown"));
        }
        match self.experiments.first() {
            None => "asked".to_owned(),
            Some(_) if self.is_over() => "the experiment ended".to_owned(),
            Some(_) => format!("the experiment had {} trials", self.trials().len()),
        }
    }

    fn found(&self, before: &Self) -> String {
        let (trials, kept) = (self.trials().len(), before.trials().len());
        let verdicts = self.deployments.iter().map(|each| {
            let reason = each["verdict"]["reason"].to_string();
            format!("{} {reason}", each["verdict"]["outcome"].as_str().unwrap_or("no verdict"))
        });
        let verdicts: Vec<String> = verdicts.collect();
        let verdicts = if verdicts.is_empty() { "no deployment".to_owned() } else { verdicts.join(", ") };
        format!("{kept} trials kept, {trials} in the end; {verdicts}")
    }

    /// Says what was there before the kill and is not, or is there twice, after it.
    fn lost_in(&self, after: &Self) -> Vec<String> {
        let mut broken = Vec::new();
        if after.experiments.len() != 1 {
            broken.push(format!("{} experiments answer one question", after.experiments.len()));
        }
        let (old, new) = (self.trials(), after.trials());
        if !new.starts_with(&old) {
            broken.push(format!("the {} trials before the kill are not the first of those after it", old.len()));
        }
        let places: BTreeSet<String> =
            new.iter().map(|trial| format!("{}:{}", trial["generation"], trial["number"])).collect();
        if places.len() != new.len() {
            broken.push("a trial was made twice".to_owned());
        }
        if self
            .deployments
            .iter()
            .any(|each| !after.deployments.iter().any(|new| new["deployment"] == each["deployment"]))
        {
            broken.push("a deployment was forgotten".to_owned());
        }
        broken
    }
}

/// A cycle is closed when its question ended and nothing is half way.
fn is_closed(house: &House) -> bool {
    let questions = house.json(&["questions", QUESTION]);
    let all_closed = Seen::of(house).deployments.iter().all(|each| each["stage"] == "closed");
    questions[0]["end"].is_object() && all_closed && house.lines(VALIDATIONS).len() == house.lines(FEEDBACK).len()
}

/// Says in what the env file and the serving lab differ.
fn disagreement(house: &House, defaults: &Value) -> Option<String> {
    let Some(config) = house.lab_config() else { return Some("the lab does not answer".to_owned()) };
    let knobs = defaults.as_object().unwrap();
    knobs.iter().find_map(|(key, default)| {
        let wanted = house.env(key).or_else(|| default.as_str().map(str::to_owned))?;
        (config[key].as_str() != Some(wanted.as_str())).then(|| format!("{key} is {} and not {wanted}", config[key]))
    })
}

/// Says which promises do not hold of a cycle that is closed.
fn broken(house: &mut House, defaults: &Value) -> Vec<String> {
    let mut broken: Vec<String> = disagreement(house, defaults).into_iter().collect();
    for each in Seen::of(house).deployments {
        let id = each["deployment"]["id"].as_str().unwrap();
        for name in [VALIDATIONS, FEEDBACK] {
            let lines = house.lines(name).iter().filter(|line| line.to_string().contains(id)).count();
            if lines != 1 {
                broken.push(format!("{id} has {lines} lines in {name}"));
            }
        }
        let undone = each["verdict"]["outcome"] == "rollback";
        for (key, change) in each["deployment"]["promotion"]["changes"].as_object().unwrap() {
            let wanted = if undone { &change["from"] } else { &change["to"] };
            // A key that the file did not name is taken out again.
            let absent = wanted.is_null() || (undone && change["in_file"] == Value::Bool(false));
            let wanted = if absent { None } else { Some(wanted.to_string().trim_matches('"').to_owned()) };
            if house.env(key) != wanted {
                broken.push(format!("{key} is {:?} in the env file, and the verdict means {wanted:?}", house.env(key)));
            }
        }
        let told = house.kloros(&["explain", id]);
        if !told.status.success() {
            broken.push(format!("its story is not told: {}", said(&told)));
        }
    }
    if exists(&house.path(".kloros/pending/lab.json")) {
        broken.push("a pending file is left".to_owned());
    }
    broken
}

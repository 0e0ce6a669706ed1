//! The kill matrix: the real daemon on a small real service dies at every place between one thing that it does to the machine and
//! the next, from the winner in its inbox to the lesson, and what must hold afterwards is looked at.
//!
//! The places are those of `src/crash.rs`. One run without a crash counts them, and each is then a case, once for each way in which
//! the world may go on: the daemon starts again at once, the guard acts alone and the daemon comes later, neither is left
//! and a person calls `kloros recover`. Then come double crashes: the recovery dies as well, at a place that moves with the case.
//! A person edits another key of the env file at the moment of each third crash.
//!
//! `KLOROS_MATRIX` says how many cases are run at most, spread over all. A thousand are at least one single crash and one double
//! crash at each place.

use std::{collections::BTreeMap, fs, path::PathBuf, time::Instant};

use super::{
    FEEDBACK, VALIDATIONS, many,
    many::Outcome,
    say, small,
    small::{OLD, PATIENCE, Small, comes},
};

/// How many cases are run where nothing else is said.
const CASES: usize = 1000;

/// What a person adds to the env file.
const EDIT: &str = "MINE=1\n";

/// How the world goes on after the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum After {
    /// The daemon starts again at once, while the guard acts.
    Restart,
    /// The guard acts alone, and the daemon comes later.
    Guard,
    /// The guard is dead as well, and a person recovers.
    Person,
    /// The guard is dead as well, and the daemon starts again and dies at this place of its recovery.
    RestartDies(usize),
    /// The guard is dead as well, and a person's recovery dies at this place.
    PersonDies(usize),
}

/// One case: which speed is proposed, 20 which is better or 5 which is worse, at which hit the daemon dies, and what follows.
#[derive(Clone, Copy, Debug)]
struct Case {
    speed: u32,
    at: usize,
    after: After,
}

pub(crate) fn run() {
    let mut all = Vec::new();
    for speed in [20, 5] {
        let places = whole(speed);
        let words: BTreeMap<&str, usize> = places.iter().fold(BTreeMap::new(), |mut words, place| {
            *words.entry(place.as_str()).or_default() += 1;
            words
        });
        say(&format!("{} places at which the daemon may die while it deploys {speed}: {words:?}", places.len()));
        assert!(places.len() > 50, "only builds with debug assertions have places to die at");
        all.extend(cases(speed, places.len()));
    }
    let chosen = many::spread(&all, many::wanted("KLOROS_MATRIX", CASES));
    many::run("kill matrix", &chosen, all.len(), |case| case.run());
}

/// Fault 14: the daemon dies, and then whoever recovers dies ten times in a row, each time somewhere else.
pub(crate) fn ten_times() {
    let cases: Vec<(u32, usize)> =
        [20, 5].into_iter().flat_map(|speed| (60..190).step_by(13).map(move |at| (speed, at))).collect();
    many::run("ten deaths in recovery", &cases, cases.len(), |(speed, at)| {
        let mut small = Small::new("");
        small.propose(*speed);
        Case::crash(&small, "run", &["run", "--cycles", "1"], *at);
        kill_guards(&small);
        let mut deaths = 0;
        for number in 1..=10 {
            let arguments: &[&str] = if number % 3 == 0 { &["recover"] } else { &["run"] };
            deaths += u32::from(Case::crash(&small, &format!("again{number}"), arguments, (at + number * 7) % 12 + 1));
            kill_guards(&small);
        }
        let (found, took) = After::Restart.look(&mut small, *speed, false)?;
        Ok((format!("{deaths} more deaths: {found}"), took))
    });
}

fn kill_guards(small: &Small) {
    for guard in small.guards() {
        // It may have ended meanwhile.
        rustix::process::kill_process(guard, rustix::process::Signal::KILL).ok();
    }
}

/// Returns the places that a whole deployment without a crash comes by, in order.
fn whole(speed: u32) -> Vec<String> {
    let mut small = Small::new("");
    small.propose(speed);
    let log = small.home().join("places");
    small.start_with(&["--cycles", "1"], Some(("KLOROS_CRASH", log.display().to_string())));
    assert_eq!(small.ended(), Some(0), "{}", small.log());
    let outcome = if speed == 20 { "success" } else { "rollback" };
    let found = check(&small, false).unwrap_or_else(|broken| panic!("without a crash: {broken}: {}", small.log()));
    assert!(found.contains(outcome), "{found}");
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
}

fn cases(speed: u32, places: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for at in 1..=places {
        let seconds = [at * 7 % 20 + 1, at * 11 % 40 + 1];
        let double =
            [After::RestartDies(seconds[0]), After::RestartDies(seconds[1]), After::PersonDies(seconds[0] / 2 + 1)];
        for after in [After::Restart, After::Guard, After::Person].into_iter().chain(double) {
            cases.push(Case { speed, at, after });
        }
    }
    cases
}

impl Case {
    fn run(self) -> Outcome {
        let mut small = Small::new("");
        small.propose(self.speed);
        let has_edit = self.at.is_multiple_of(3);
        Self::crash(&small, "run", &["run", "--cycles", "1"], self.at);
        self.after.look(&mut small, self.speed, has_edit)
    }

    /// Runs the program until it dies at the hit `at`, or ends before, and returns whether it died.
    fn crash(small: &Small, name: &str, arguments: &[&str], at: usize) -> bool {
        let log: PathBuf = small.home().join(name);
        let variable = ("KLOROS_CRASH", format!("{}:{at}", log.display()));
        // Where it does not come by as many places, it is killed when all is done, or when nothing more happens.
        let is_done =
            |small: &Small| is_over(small) || (small.is_taken() && small.facts("promotion") == 0 && small.listens());
        small.run_until(arguments, variable, is_done);
        fs::read_to_string(log).is_ok_and(|hits| hits.lines().count() == at)
    }
}

impl After {
    /// Lets the world go on so after a crash, and returns what it came to and how long that took, or what is broken.
    pub(crate) fn look(self, small: &mut Small, speed: u32, has_edit: bool) -> Outcome {
        if !matches!(self, After::Restart | After::Guard) {
            kill_guards(small);
        }
        if has_edit {
            small.edit(EDIT);
        }
        let env = small.env();
        let whole = [OLD.to_owned(), OLD.replace("SPEED=10", &format!("SPEED={speed}"))];
        if !whole.iter().any(|whole| env == *whole || env == format!("{whole}{EDIT}")) {
            return Err(format!("A: the env file is neither the old nor the new one: {env:?}"));
        }
        let began = Instant::now();
        self.go_on(small, has_edit)?;
        small.start(&[]);
        let comes_to_that = comes(PATIENCE, || is_over(small));
        let took = began.elapsed();
        small::wait("the daemon listens", || small.listens());
        small.signal(rustix::process::Signal::INT);
        let code = small.ended();
        let found = check(small, has_edit).map_err(|broken| format!("{broken}: {}", small.log()))?;
        if !comes_to_that || code != Some(0) {
            return Err(format!("it does not come to an end, and the daemon ends with {code:?}: {}", small.log()));
        }
        let after = match self {
            After::RestartDies(_) => "dies again when it starts".to_owned(),
            After::PersonDies(_) => "dies again in `recover`".to_owned(),
            other => format!("{other:?}"),
        };
        Ok((format!("{after}: {found}"), took))
    }

    /// Lets the world go on without a daemon as long as the case says.
    fn go_on(self, small: &mut Small, has_edit: bool) -> Result<(), String> {
        match self {
            After::Restart => {}
            // It died before the guard watched, and so before anything was touched: what is pending waits for the next start.
            After::Guard if small.guards().is_empty() && !small.pending().is_empty() => {
                check_unattended(small, has_edit)?;
            }
            After::Guard => {
                let is_safe = || small.pending().is_empty() && small.guards().is_empty();
                if !comes(PATIENCE, is_safe) {
                    return Err(format!("D: the guard does not bring it to an end: {}", small.log()));
                }
                check_unattended(small, has_edit)?;
            }
            After::Person => {
                let output = small.kloros(&["recover"]);
                if output.status.code() != Some(0) || !small.pending().is_empty() {
                    return Err(format!("recover: {output:?}"));
                }
                check_unattended(small, has_edit)?;
            }
            After::RestartDies(at) => drop(Case::crash(small, "again", &["run"], at)),
            After::PersonDies(at) => drop(Case::crash(small, "again", &["recover"], at)),
        }
        Ok(())
    }
}

/// The deployment is closed, and all about it is told.
pub(crate) fn is_over(small: &Small) -> bool {
    let is_closed = || small.json(&["deployments"])[0]["stage"] == "closed";
    small.pending().is_empty() && small.lines(FEEDBACK).len() == 1 && is_closed()
}

/// Without a daemon, after whoever acted in its place: only what a durable verdict keeps is live.
pub(crate) fn check_unattended(small: &Small, has_edit: bool) -> Result<(), String> {
    let verdict = &small.json(&["deployments"])[0]["verdict"]["outcome"];
    let (given, _) = small.speeds();
    if given != "10" && !matches!(verdict.as_str(), Some("success" | "neutral")) {
        return Err(format!("C: the verdict is {verdict}, and {given} is live: {}", small.log()));
    }
    check_service(small, has_edit)
}

/// What is on disk is what the service runs with, and holds what a person wrote.
pub(crate) fn check_service(small: &Small, has_edit: bool) -> Result<(), String> {
    let (given, says) = small.speeds();
    if says.as_ref() != Some(&given) {
        return Err(format!("D: the env file says {given} and the service {says:?}: {}", small.log()));
    }
    if has_edit && !small.env().ends_with(EDIT) {
        return Err(format!("E: the edit is lost: {:?}", small.env()));
    }
    Ok(())
}

/// Looks at everything that must hold at the end, and returns the verdict in words.
pub(crate) fn check(small: &Small, has_edit: bool) -> Result<String, String> {
    let deployments = small.json(&["deployments"]);
    let count = deployments.as_array().map_or(0, Vec::len);
    let (validations, feedback) = (small.lines(VALIDATIONS).len(), small.lines(FEEDBACK).len());
    if (count, validations, feedback) != (1, 1, 1) {
        return Err(format!("B: {count} deployments, {validations} validations, {feedback} lessons"));
    }
    let lines = [VALIDATIONS, FEEDBACK].map(|name| small.lines(name)).concat();
    if let Some(line) = lines.iter().find(|line| serde_json::from_str::<serde_json::Value>(line).is_err()) {
        return Err(format!("B: a line is torn: {line}"));
    }
    let outcome = deployments[0]["verdict"]["outcome"].as_str().unwrap_or("none");
    let reason = deployments[0]["verdict"]["reason"]["reason"].as_str().unwrap_or("none");
    let to = &deployments[0]["deployment"]["promotion"]["changes"]["SPEED"]["to"];
    let kept = OLD.replace("SPEED=10", &format!("SPEED={to}"));
    let wanted = if outcome == "rollback" { OLD } else { &kept };
    let wanted = if has_edit { format!("{wanted}{EDIT}") } else { wanted.to_owned() };
    if small.env() != wanted {
        return Err(format!("C: the verdict is {outcome}, {reason}, and the env file {:?}", small.env()));
    }
    check_service(small, has_edit)?;
    let strays = small.strays();
    if !strays.is_empty() {
        return Err(format!("left behind: {strays:?}"));
    }
    let told = small.secrets_told();
    if !told.is_empty() {
        return Err(format!("F: a secret is told by {told:?}"));
    }
    Ok(format!("{outcome}, {reason}"))
}

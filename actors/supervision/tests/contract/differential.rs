//! The same scenarios, played by OTP's own supervisor and by ours.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kloros_supervision::{
    AutoShutdown, Backoff, ChildError, ChildSpec, Control, Count, Ended, Intensity, Kind, Nursery, Presence, Restart,
    Shutdown, Socket, StartError, Started, Strategy, Template, Tree, TreeSpec, start,
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

const SCENARIOS: &str = include_str!("erlang/scenarios.txt");

/// Where Erlang must be there, so that its absence is a failure: set by `tests/run`.
const REQUIRED: &str = "KLOROS_ERLANG";

/// What all players of a scenario share.
#[derive(Clone, Default)]
struct Stage {
    log: Arc<Mutex<Vec<String>>>,
    spoilt: Arc<Mutex<HashMap<String, u32>>>,
    sockets: Arc<Mutex<HashMap<String, Socket<Leave>>>>,
}

impl Stage {
    fn say(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn socket(&self, id: &str) -> Socket<Leave> {
        self.sockets.lock().unwrap().entry(id.to_owned()).or_insert_with(|| Socket::new(id)).clone()
    }

    /// Returns the child of which nothing is said but how it is called and what it is like.
    fn bare(&self, id: &str, habits: Habits) -> ChildSpec {
        let player = Player { id: id.to_owned(), stage: self.clone(), habits };
        ChildSpec::actor(id, &self.socket(id), move || (player.clone(), ()))
    }

    /// Returns the child that these words are about: its id, its restart type, its weight and its habits.
    fn child(&self, words: &[&str]) -> ChildSpec {
        let spec = self.bare(words[0], Habits::of(&words[3..]));
        let spec = weighed(spec.restart(restart(words[1])), words[2]).backoff(never());
        match words[3..].iter().find_map(|habit| habit.strip_prefix("shutdown=")) {
            None => spec,
            Some("brutal") => spec.shutdown(Shutdown::Brutal),
            Some("infinity") => spec.shutdown(Shutdown::Unlimited),
            Some(time) => spec.shutdown(Shutdown::Within(milliseconds(time))),
        }
    }
}

/// What a player does beside what it is told.
#[derive(Clone, Copy)]
struct Habits {
    ignores: bool,
    has_info: bool,
    stops: Option<Duration>,
}

impl Habits {
    fn of(words: &[&str]) -> Self {
        let stops = words.iter().find_map(|habit| habit.strip_prefix("stops="));
        Habits {
            ignores: words.contains(&"ignores"),
            has_info: words.contains(&"info"),
            stops: stops.map(milliseconds),
        }
    }
}

fn milliseconds(word: &str) -> Duration {
    Duration::from_millis(word.parse().unwrap())
}

fn restart(word: &str) -> Restart {
    match word {
        "permanent" => Restart::Permanent,
        "transient" => Restart::Transient,
        _ => Restart::Temporary,
    }
}

fn never() -> Backoff {
    Backoff { first: Duration::ZERO, max: Duration::ZERO, ..Backoff::default() }
}

#[derive(Clone)]
struct Player {
    id: String,
    stage: Stage,
    habits: Habits,
}

/// Tells a player to end by itself.
enum Leave {
    Stopping(Option<&'static str>),
    Crashing,
}

impl Actor for Player {
    type Msg = Leave;
    /// Whether it ends by itself.
    type State = bool;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Leave>, (): ()) -> Result<bool, ActorProcessingErr> {
        if self.habits.ignores {
            return Err(kloros_supervision::Ignore.into());
        }
        if self.habits.has_info {
            kloros_supervision::start_info("so it says");
        }
        let mut spoilt = self.stage.spoilt.lock().unwrap();
        if let Some(left) = spoilt.get_mut(&self.id).filter(|left| **left > 0) {
            *left -= 1;
            self.stage.say(format!("fail {}", self.id));
            return Err("spoilt".into());
        }
        self.stage.say(format!("start {}", self.id));
        Ok(false)
    }

    async fn handle(&self, myself: ActorRef<Leave>, leave: Leave, leaves: &mut bool) -> Result<(), ActorProcessingErr> {
        *leaves = true;
        match leave {
            Leave::Stopping(reason) => myself.stop(reason.map(str::to_owned)),
            Leave::Crashing => return Err("crash".into()),
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Leave>, leaves: &mut bool) -> Result<(), ActorProcessingErr> {
        if !*leaves {
            self.stage.say(format!("stop {}", self.id));
            if let Some(time) = self.habits.stops {
                tokio::time::sleep(time).await;
                self.stage.say(format!("stopped {}", self.id));
            }
        }
        Ok(())
    }
}

/// The supervisor of one scenario.
struct Play {
    stage: Stage,
    tree: Tree,
    control: Control,
    template: Option<Template<String>>,
}

/// Waits until nobody has anything to do: only then does paused time pass.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Returns what is said of how an act by hand went.
fn answer(outcome: Result<(), &'static str>) -> &'static str {
    outcome.map_or_else(|refusal| refusal, |()| "ok")
}

/// Returns what is said of how a start by hand went.
fn answer_of_start(outcome: Result<Started, &'static str>) -> String {
    match outcome {
        Ok(Started { actor: None, .. }) => "ignored".to_owned(),
        Ok(Started { info: Some(info), .. }) => format!("ok, {info}"),
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.to_owned(),
    }
}

fn start_refusal(error: &StartError) -> &'static str {
    match error {
        StartError::AlreadyStarted { .. } => "already_started",
        StartError::AlreadyPresent { .. } => "already_present",
        _ => "failed",
    }
}

fn refusal(error: &ChildError) -> &'static str {
    match error {
        ChildError::NotFound { .. } => "not_found",
        ChildError::Running { .. } => "running",
        ChildError::Restarting { .. } => "restarting",
        _ => "failed",
    }
}

fn flags(words: &[&str]) -> (Option<Strategy>, Intensity, AutoShutdown) {
    let strategy = match words[0] {
        "one_for_one" => Some(Strategy::OneForOne),
        "one_for_all" => Some(Strategy::OneForAll),
        "rest_for_one" => Some(Strategy::RestForOne),
        _ => None,
    };
    let within = Duration::from_secs(words[2].parse().unwrap());
    let auto_shutdown = match words[3] {
        "any_significant" => AutoShutdown::Any,
        "all_significant" => AutoShutdown::All,
        _ => AutoShutdown::Never,
    };
    (strategy, Intensity { restarts_max: words[1].parse().unwrap(), within }, auto_shutdown)
}

fn weighed(spec: ChildSpec, weight: &str) -> ChildSpec {
    if weight == "significant" { spec.significant() } else { spec }
}

impl Play {
    /// Starts the supervisor with the children of the setup; nothing if it refuses.
    async fn begin(stage: Stage, supervisor: &[&str], setup: &[Vec<&str>]) -> Option<Play> {
        let (strategy, ..) = flags(supervisor);
        let nursery = Nursery::new("house");
        let mut spec = tree("house", supervisor, &nursery);
        let mut template = None;
        for words in setup {
            match (words[0], strategy) {
                ("spoilt", _) => {
                    stage.spoilt.lock().unwrap().insert(words[1].to_owned(), words[2].parse().unwrap());
                }
                ("inner", _) => {}
                ("bare", _) => spec = spec.child(stage.bare(words[1], Habits::of(&[])).backoff(never())),
                ("sub", _) => {
                    let inner = setup.iter().filter(|line| line[0] == "inner" && line[1] == words[1]);
                    let below = tree(words[1], &words[4..], &nursery).backoff(never());
                    let below = inner.fold(below, |below, line| below.child(stage.child(&line[3..])));
                    spec = spec.child(weighed(ChildSpec::supervisor(below).restart(restart(words[2])), words[3]));
                }
                (_, Some(_)) => spec = spec.child(stage.child(&words[1..])),
                (_, None) => {
                    let (stage, words) = (stage.clone(), words[2..].iter().map(|word| (*word).to_owned()));
                    let words: Vec<String> = words.collect();
                    template = Some(nursery.template(move |_: &str, id: String| {
                        let words: Vec<&str> = std::iter::once(&id).chain(&words).map(String::as_str).collect();
                        stage.child(&words)
                    }));
                }
            }
        }
        let Ok(tree) = start(spec).await else {
            stage.say("refused".to_owned());
            return None;
        };
        stage.say("started".to_owned());
        let control = tree.control("house").unwrap();
        Some(Play { stage, tree, control, template })
    }

    async fn step(&self, words: &[&str]) {
        match *words {
            ["exit", id, how] => self.exit(id, how),
            ["spoil", id, times] => {
                self.stage.spoilt.lock().unwrap().insert(id.to_owned(), times.parse().unwrap());
            }
            ["wait", milliseconds] => tokio::time::sleep(Duration::from_millis(milliseconds.parse().unwrap())).await,
            ["start", id] => {
                let started = self.template.as_ref().unwrap().start_child(id.to_owned()).await;
                self.said_of_start(started);
            }
            ["start", ref child @ ..] => {
                let started = self.control.start_child(self.stage.child(child)).await;
                self.said_of_start(started);
            }
            ["terminate", id] => {
                let outcome = self.control.terminate_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("terminate_child {}", answer(outcome)));
            }
            ["restart", id] => {
                let outcome = self.control.restart_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("restart_child {}", answer_of_start(outcome)));
            }
            ["delete", id] => {
                let outcome = self.control.delete_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("delete_child {}", answer(outcome)));
            }
            ["children"] => {
                let mut names = self.names().await;
                names.sort();
                self.stage.say(format!("children {}", names.join(" ")));
            }
            ["order"] => self.stage.say(format!("order {}", self.names().await.join(" "))),
            ["count"] => {
                let Count { specs, active, supervisors, workers } = self.control.count_children().await.unwrap();
                let counted = format!("{specs} specs {active} active {supervisors} supervisors {workers} workers");
                self.stage.say(format!("count {counted}"));
            }
            ["rules", id] => self.stage.say(format!("rules {}", self.rules(id).await)),
            ["stop", "timed"] => {
                let before = tokio::time::Instant::now();
                drop(self.tree.stop(Duration::from_secs(60)).await.unwrap());
                self.stage.say(format!("took {}", before.elapsed().as_millis() / 500 * 500));
            }
            ["stop"] => drop(self.tree.stop(Duration::from_secs(60)).await.unwrap()),
            _ => panic!("{words:?} is no step"),
        }
    }

    /// Makes the supervisor what these words say.
    async fn change(&self, supervisor: &[&str], becomes: &[Vec<&str>]) {
        let spec = tree("house", supervisor, &Nursery::new("house"));
        let spec = becomes.iter().fold(spec, |spec, words| spec.child(self.stage.child(&words[1..])));
        let outcome = self.control.reconfigure(spec).await;
        self.stage.say(format!("change {}", if outcome.is_ok() { "ok" } else { "refused" }));
    }

    /// Returns the children in order.
    async fn names(&self) -> Vec<String> {
        let name = |child: kloros_supervision::Child| match child.presence {
            Presence::Up(_) => child.id,
            _ => format!("{}:down", child.id),
        };
        self.control.which_children().await.unwrap().into_iter().map(name).collect()
    }

    /// Returns how a child is treated, in the words of Erlang.
    async fn rules(&self, id: &str) -> String {
        let Ok(rules) = self.control.child_rules(id).await else { return "not_found".to_owned() };
        let children = self.control.which_children().await.unwrap();
        let kind = children.iter().find(|child| child.id == id).unwrap().kind;
        let restart = format!("{:?}", rules.restart).to_lowercase();
        let shutdown = match rules.shutdown {
            Shutdown::Brutal => "brutal_kill".to_owned(),
            Shutdown::Within(time) => time.as_millis().to_string(),
            Shutdown::Unlimited => "infinity".to_owned(),
        };
        let kind = if kind == Kind::Actor { "worker" } else { "supervisor" };
        format!("{restart} {shutdown} {kind} {}", rules.significant)
    }

    fn exit(&self, id: &str, how: &str) {
        let socket = self.stage.socket(id);
        let leave = match how {
            "kill" => {
                socket.actor().unwrap().kill();
                return;
            }
            "normal" => Leave::Stopping(None),
            "shutdown" => Leave::Stopping(Some("shutdown")),
            "because" => Leave::Stopping(Some("shutdown: because")),
            _ => Leave::Crashing,
        };
        socket.send(leave).unwrap();
    }

    fn said_of_start(&self, started: Result<Started, StartError>) {
        let outcome = started.map_err(|error| start_refusal(&error));
        self.stage.say(format!("start_child {}", answer_of_start(outcome)));
    }
}

/// Returns the supervisor that these words are about, without children.
fn tree(id: &str, words: &[&str], nursery: &Nursery) -> TreeSpec {
    let (strategy, intensity, auto_shutdown) = flags(words);
    let spec = match strategy {
        Some(strategy) => TreeSpec::new(id, strategy),
        None => TreeSpec::nursery(id, nursery),
    };
    spec.intensity(intensity).auto_shutdown(auto_shutdown)
}

/// Returns how a tree has ended: with which reason, which Erlang tells too, and in our words.
fn ended(ended: Ended) -> (String, String) {
    match ended {
        Ended::Stopped => ("shutdown".to_owned(), "stopped".to_owned()),
        Ended::Done { path } => ("shutdown".to_owned(), format!("done {path}")),
        // It did not give up, but was brought down.
        Ended::GaveUp { path, reason } if path == "house" => (reason.clone(), reason),
        Ended::GaveUp { path, .. } => ("shutdown".to_owned(), format!("gave_up {path}")),
    }
}

/// Plays all scenarios with our supervisor and returns what happened, line by line.
async fn ours() -> String {
    let mut said = String::new();
    let lines = SCENARIOS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let steps: Vec<Vec<&str>> = lines.map(|line| line.split(' ').collect()).collect();
    for scenario in steps.chunk_by(|_, next| next[0] != "scenario") {
        let [title, supervisor, rest @ ..] = scenario else { panic!("{scenario:?} is no scenario") };
        writeln!(said, "scenario {}", title[1]).unwrap();
        let is_setup = |words: &Vec<&str>| ["child", "bare", "spoilt", "sub", "inner"].contains(&words[0]);
        let (setup, steps) = rest.split_at(rest.iter().take_while(|words| is_setup(words)).count());
        let stage = Stage::default();
        let tell = |said: &mut String| {
            let mut lines = std::mem::take(&mut *stage.log.lock().unwrap());
            if supervisor[1] == "simple_one_for_one" {
                // Children that stop all at once have no order.
                lines.sort();
            }
            for line in lines {
                writeln!(said, "{line}").unwrap();
            }
        };
        let mut play = Play::begin(stage.clone(), &supervisor[1..], setup).await;
        settle().await;
        tell(&mut said);
        let mut how = None;
        for (at, step) in steps.iter().enumerate() {
            if step[0] == "ended" {
                assert_eq!(how.as_deref(), Some(&*step[1..].join(" ")), "{}", title[1]);
                continue;
            }
            let Some(playing) = play.as_ref().filter(|_| step[0] != "becomes") else { continue };
            if step[0] == "change" {
                let becomes = steps[at + 1..].iter().take_while(|words| words[0] == "becomes").cloned();
                playing.change(&step[1..], &becomes.collect::<Vec<_>>()).await;
            } else {
                playing.step(step).await;
            }
            settle().await;
            if let Ok(end) = tokio::time::timeout(Duration::ZERO, playing.tree.ended()).await {
                let (reason, ours) = ended(end);
                stage.say(format!("ended {reason}"));
                (play, how) = (None, Some(ours));
            }
            tell(&mut said);
        }
    }
    said
}

/// Plays all scenarios with OTP's supervisor; nothing if there is no Erlang.
fn theirs() -> Option<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/contract/erlang");
    let arguments = [format!("{folder}/play.escript"), format!("{folder}/scenarios.txt")];
    let output = Command::new("escript").args(arguments).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[tokio::test(start_paused = true)]
async fn case_096_the_same_scenarios_take_the_same_course_as_in_erlang() {
    let Some(theirs) = theirs() else {
        assert!(std::env::var_os(REQUIRED).is_none(), "there is no escript: install erlang-base");
        // Past the harness, which would keep it to itself.
        let warning = b"NOT RUN: case 96 compares with Erlang, and there is no escript; install erlang-base\n";
        std::io::stderr().write_all(warning).unwrap();
        return;
    };
    let ours = ours().await;
    let scenarios = |text: &str| text.split("scenario ").skip(1).map(str::to_owned).collect::<Vec<String>>();
    let (theirs, ours) = (scenarios(&theirs), scenarios(&ours));
    assert!(theirs.len() >= 56, "only {} scenarios were played", theirs.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(ours, theirs, "ours is left, theirs right");
    }
    assert_eq!(ours.len(), theirs.len());
}

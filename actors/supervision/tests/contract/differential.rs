//! The same scenarios, played by OTP's own supervisor and by ours.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kloros_supervision::{
    AutoShutdown, Backoff, ChildError, ChildSpec, Control, Intensity, Nursery, Presence, Restart, Socket, StartError,
    Started, Strategy, Template, Tree, TreeSpec, start,
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

    fn child(&self, id: &str, restart: &str) -> ChildSpec {
        let player = Player { id: id.to_owned(), stage: self.clone() };
        let restart = match restart {
            "permanent" => Restart::Permanent,
            "transient" => Restart::Transient,
            _ => Restart::Temporary,
        };
        let never = Backoff { first: Duration::ZERO, max: Duration::ZERO, ..Backoff::default() };
        let spec = ChildSpec::actor(id, &self.socket(id), move || (player.clone(), ()));
        spec.restart(restart).backoff(never)
    }
}

#[derive(Clone)]
struct Player {
    id: String,
    stage: Stage,
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
fn answer<T>(outcome: Result<T, &'static str>) -> &'static str {
    outcome.map_or_else(|refusal| refusal, |_| "ok")
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
        let (strategy, intensity, auto_shutdown) = flags(supervisor);
        let nursery = Nursery::new("house");
        let spec = match strategy {
            Some(strategy) => TreeSpec::new("house", strategy),
            None => TreeSpec::nursery("house", &nursery),
        };
        let mut spec = spec.intensity(intensity).auto_shutdown(auto_shutdown);
        let mut template = None;
        for words in setup {
            match (words[0], strategy) {
                ("spoilt", _) => {
                    stage.spoilt.lock().unwrap().insert(words[1].to_owned(), words[2].parse().unwrap());
                }
                (_, Some(_)) => spec = spec.child(weighed(stage.child(words[1], words[2]), words[3])),
                (_, None) => {
                    let (stage, restart, weight) = (stage.clone(), words[2].to_owned(), words[3].to_owned());
                    let make = move |_: &str, id: String| weighed(stage.child(&id, &restart), &weight);
                    template = Some(nursery.template(make));
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
            ["start", id, restart, weight] => {
                let started = self.control.start_child(weighed(self.stage.child(id, restart), weight)).await;
                self.said_of_start(started);
            }
            ["terminate", id] => {
                let outcome = self.control.terminate_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("terminate_child {}", answer(outcome)));
            }
            ["restart", id] => {
                let outcome = self.control.restart_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("restart_child {}", answer(outcome)));
            }
            ["delete", id] => {
                let outcome = self.control.delete_child(id).await.map_err(|error| refusal(&error));
                self.stage.say(format!("delete_child {}", answer(outcome)));
            }
            ["children"] => {
                let children = self.control.which_children().await.unwrap();
                let name = |child: kloros_supervision::Child| match child.presence {
                    Presence::Up(_) => child.id,
                    _ => format!("{}:down", child.id),
                };
                let mut names: Vec<String> = children.into_iter().map(name).collect();
                names.sort();
                self.stage.say(format!("children {}", names.join(" ")));
            }
            ["stop"] => self.tree.stop(Duration::from_secs(60)).await.unwrap(),
            _ => panic!("{words:?} is no step"),
        }
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
        self.stage.say(format!("start_child {}", answer(outcome)));
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
        let is_setup = |words: &Vec<&str>| ["child", "spoilt"].contains(&words[0]);
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
        for step in steps {
            let Some(playing) = &play else { break };
            playing.step(step).await;
            settle().await;
            if tokio::time::timeout(Duration::ZERO, playing.tree.ended()).await.is_ok() {
                stage.say("ended shutdown".to_owned());
                play = None;
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
    assert!(theirs.len() >= 29, "only {} scenarios were played", theirs.len());
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(ours, theirs, "ours is left, theirs right");
    }
    assert_eq!(ours.len(), theirs.len());
}

//! A whole house for a test: the real program in a home of its own, asked through its own command line.

mod port;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use port::Port;
use serde_json::Value;

/// How long anything may take to come about. No verdict hangs on it: on a busy machine a cycle lasts several times as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Houses measure, so they take turns: two on one machine would only measure each other, and the busier one finds nothing better.
static PLACES: (Mutex<usize>, Condvar) = (Mutex::new(1), Condvar::new());

/// One of the places; whoever drops it leaves it to another house.
struct Turn;

impl Turn {
    fn wait() -> Self {
        let free = PLACES.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = PLACES.1.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *PLACES.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        PLACES.1.notify_one();
    }
}

/// What every house is set to: as it ships, but with budgets that a test can wait for.
const SETTINGS: &str = "
[curiosity]
degradation = { max_candidates = 5, max_generations = 2 }
rest_s = 1

[dream]
confirm_runs = 1
trial_timeout_s = 60

[validator]
blocks_min = 2
blocks_max = 6
half_width = 0.3
calibrate_blocks = 0

[feedback]
rest_after_crash_s = 1
";

/// A home with the real program in it.
pub(crate) struct House {
    pub(crate) home: tempfile::TempDir,
    metrics: Port,
    shell: String,
    rooms: String,
    daemon: Option<Child>,
    _turn: Turn,
}

impl House {
    /// Returns a house that is not yet running. `shell` is what stands under `[shell]`, `rooms` what stands below.
    pub(crate) fn new(shell: &str, rooms: &str) -> Self {
        let turn = Turn::wait();
        let home = tempfile::tempdir().unwrap();
        let (shell, rooms) = (shell.to_owned(), rooms.to_owned());
        let house = Self { home, metrics: Port::hold(), shell, rooms, daemon: None, _turn: turn };
        house.write_settings();
        house
    }

    fn write_settings(&self) {
        let port = self.metrics.number();
        // What else this machine does or measures is no part of the test.
        let lease = self.path("lease").display().to_string();
        let text = format!(
            "[shell]\nmetrics_address = \"127.0.0.1:{port}\"\n{}\n[measuring]\nlease_folder = {lease:?}\nothers_max = 1.0\nothers_rise_max = 1.0\n{SETTINGS}\n{}\n",
            self.shell, self.rooms
        );
        fs::write(self.path("kloros.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Returns the lines of a JSONL file, each parsed: a torn one fails the test.
    pub(crate) fn lines(&self, name: &str) -> Vec<Value> {
        self.read(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self, arguments: &[&str]) {
        self.spawn(arguments);
        self.until("the daemon answers", |house| {
            house.kloros(&["status"]).status.code().is_some_and(|code| code == 0) && house.lab_url().is_some()
        });
    }

    /// Starts the daemon and does not wait.
    pub(crate) fn spawn(&mut self, arguments: &[&str]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let daemon = self
            .command()
            .arg("run")
            .args(arguments)
            // A test proposes more in a minute than a service should see in a day.
            .env("KLOROS__GATE__DEPLOYMENTS_PER_HOUR_MAX", "100")
            .env("KLOROS__GATE__DEPLOYMENTS_PER_DAY_MAX", "100")
            .env("KLOROS__GATE__ROLLBACKS_PER_DAY_MAX", "100")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
    }

    /// Returns the program in this home, for what is to be run otherwise than by itself.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.arg("--home").arg(self.home.path());
        // Domain files name this program as it is installed.
        let own = Path::new(env!("CARGO_BIN_EXE_kloros")).parent().unwrap().to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        command.env("PATH", std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&others))).unwrap());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KLOROS")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command of the program to its end.
    pub(crate) fn kloros(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command of the program and returns the JSON it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command().arg("--json").args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let last = text.lines().last().unwrap_or("null");
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{arguments:?} printed {text:?}: {error}"))
    }

    /// Waits until `is_so`, and fails the test with the daemon's log when it does not come to that.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > deadline {
                let log = self.read("daemon.log");
                let tail: Vec<&str> = log.lines().rev().take(60).collect();
                panic!(
                    "not within {} s: {what}\n{}",
                    PATIENCE.as_secs(),
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Waits until the daemon has ended by itself, and returns its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut code = None;
        self.until("the daemon ends", |house| {
            let daemon = house.daemon.as_mut().unwrap();
            daemon.try_wait().unwrap().is_some_and(|status| {
                code = status.code();
                true
            })
        });
        self.daemon = None;
        code
    }

    /// Kills the daemon as the kernel would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().ok();
            daemon.wait().unwrap();
        }
    }

    /// Sends a signal by its number's name to the daemon.
    pub(crate) fn interrupt(&mut self) -> Option<i32> {
        let pid = self.daemon.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        self.ended()
    }

    /// Returns the address of the serving lab.
    pub(crate) fn lab_url(&self) -> Option<String> {
        let status = self.json(&["status"]);
        status["live"]["services"][0]["url"].as_str().map(str::to_owned)
    }

    /// Returns what the serving lab says it runs with; `None` while it does not answer.
    pub(crate) fn lab_config(&self) -> Option<Value> {
        let url = self.lab_url()?;
        let address = url.trim_start_matches("http://");
        let text = http_get(address, "/config")?;
        serde_json::from_str(&text).ok()
    }

    /// Returns what the env file gives `key`.
    pub(crate) fn env(&self, key: &str) -> Option<String> {
        let text = self.read(".kloros_env");
        text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned))
    }

    /// Returns how many processes still have this home on their command line.
    pub(crate) fn processes(&self) -> usize {
        let home = self.home.path().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&home)).count()
    }

    /// Leaves a question for the lab in the inbox, as another program would.
    pub(crate) fn ask(&self, id: &str) {
        let intent = serde_json::json!({"type": "curiosity_question", "data": {
            "question_id": id,
            "hypothesis": "LAB_LATENCY_DEGRADATION",
            "dream_experiment": {
                "name": "lab_tuning", "domain": "lab",
                "search_space": {
                    "max_num_seqs": {"kind": "integer", "min": 1, "max": 32, "log": true},
                    "threads": {"kind": "integer", "min": 1, "max": 4},
                    "precision": {"kind": "choice", "values": ["f32", "f64"]}
                },
                "metrics": {"goodput_per_s": "up", "e2e_p50_ms": "down", "error_rate": "down"},
                "param_mapping": {"max_num_seqs": "LAB_MAX_NUM_SEQS", "threads": "LAB_THREADS", "precision": "LAB_PRECISION"},
                "budget": {"max_candidates": 5, "max_generations": 2}
            }
        }});
        self.drop_file(".kloros/intents", &format!("{id}.json"), &intent.to_string());
    }

    /// Puts a file where the daemon looks, whole at once.
    pub(crate) fn drop_file(&self, folder: &str, name: &str, text: &str) {
        let beside = self.path(folder).join(format!("{name}.part"));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path(folder).join(name)).unwrap();
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the body of a small answer; `None` when there is none.
fn http_get(address: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};

    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.").then(|| body.to_owned())
}

/// Returns what a command said, for a test that fails.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Returns whether `path` is there.
pub(crate) fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

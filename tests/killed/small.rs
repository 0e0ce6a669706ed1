//! A small real service, and the real daemon that tunes it: starts in milliseconds, so that it can be killed a thousand times.
//!
//! The service is this test program itself, called with `serve`: it reads its env file once, when it starts, and answers over
//! HTTP. Nobody of kloros' is its parent: `restart` ends the one that runs and starts the next, as a service manager would.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tamper::{Disk, Fate, Plan, Site, Tampered, Who};

use super::port::Port;

/// What stands in the env file before kloros comes: a person's words, and one key of kloros'.
pub(crate) const OLD: &str = "# by hand\nTOKEN='do not print me'\r\nSPEED=10\n";

/// What stands in it and is nobody's business.
const SECRET: &[u8] = b"do not print me";

/// What the service takes where its env file is silent.
const SPEED_DEFAULT: &str = "1";

/// How long anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// How often it is looked at first, and how often at last, whether something has come to be.
const LOOK_MIN: Duration = Duration::from_millis(2);
const LOOK_MAX: Duration = Duration::from_millis(20);

/// Memory in the shape of files, where the kernel has it: a thousand houses need no disk.
const IN_MEMORY: &str = "/dev/shm";

/// Does what the service and its manager do, where this program was called as one of them.
pub(crate) fn play(arguments: &[String]) -> bool {
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port, env_file] => serve(port.parse().unwrap(), Path::new(env_file)),
        ["serve", port, env_file, pid_file] => {
            // Before anybody can reach it: a manager that is killed meanwhile has to find it.
            fs::write(pid_file, std::process::id().to_string()).unwrap();
            serve(port.parse().unwrap(), Path::new(env_file));
        }
        ["restart", folder, port] => restart(Path::new(folder), port),
        ["measure", url, folder] => measure(url, Path::new(folder)),
        _ => return false,
    }
    true
}

fn serve(port: u16, env_file: &Path) {
    let text = String::from_utf8_lossy(&fs::read(env_file).unwrap_or_default()).into_owned();
    let speed = text.lines().find_map(|line| line.trim_end().strip_prefix("SPEED=").map(str::to_owned));
    let speed = speed.unwrap_or_else(|| SPEED_DEFAULT.to_owned());
    let body = serde_json::json!({"SPEED": speed, "pid": std::process::id()}).to_string();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        // Whoever asks is answered the same, at `/health` and at `/config`.
        let mut asked = [0; 4096];
        let Ok(_) = stream.read(&mut asked) else { continue };
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").ok();
    }
}

fn restart(folder: &Path, port: &str) {
    wait("it is let go on", || !folder.join("hung").exists());
    assert!(!folder.join("broken").exists(), "the manager refuses");
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("restarts"));
    log.and_then(|mut log| log.write_all(b"restart\n")).unwrap();
    let pid_file = folder.join("pid");
    wait("the old instance is gone", || {
        kill_by(&pid_file);
        TcpStream::connect(format!("127.0.0.1:{port}")).is_err()
    });
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["serve", port]).arg(folder.join("env")).arg(&pid_file).process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It outlives this program; if it has ended already, it never answers.
    let id = child.id();
    let answers = || ask(port).is_some_and(|answer| answer["pid"] == id);
    wait("the new instance answers", || child.try_wait().unwrap().is_none() && answers());
}

/// Kills whoever has left its id in this file, if that is still the one who has it: ids come again within minutes, and the one who
/// has it then may be the service of another house.
fn kill_by(pid_file: &Path) {
    let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| Pid::from_raw(text.trim().parse().ok()?)) else {
        return;
    };
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
    if line.split(|byte| *byte == 0).any(|word| word == pid_file.as_os_str().as_bytes()) {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

fn measure(url: &str, folder: &Path) {
    wait("it is let go on", || !folder.join("unmeasured").exists());
    let port = url.rsplit(':').next().unwrap().trim_end_matches('/');
    let speed: f64 = ask(port).unwrap()["SPEED"].as_str().unwrap().parse().unwrap();
    // A number that never varies would be taken for a stale one.
    let noise = f64::from(std::process::id() % 1000) / 10_000_000.0;
    super::say(&serde_json::json!({"speed": speed * (1.0 + noise)}).to_string());
}

/// Returns what the service on `port` says that it runs with.
pub(crate) fn ask(port: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET /config HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// Waits until `is_so`, and panics with `what` when it does not come to that.
#[track_caller]
pub(crate) fn wait(what: &str, is_so: impl FnMut() -> bool) {
    assert!(comes(PATIENCE, is_so), "not within {} s: {what}", PATIENCE.as_secs());
}

/// Returns whether it comes to that within so long.
pub(crate) fn comes(within: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    while !is_so() {
        if began.elapsed() > within {
            return false;
        }
        // To look costs others their time: what takes long is looked at less often.
        std::thread::park_timeout((began.elapsed() / 20).clamp(LOOK_MIN, LOOK_MAX));
    }
    true
}

/// A home with the daemon's settings, and the service beside it.
pub(crate) struct Small {
    folder: tempfile::TempDir,
    port: Port,
    daemon: Option<Child>,
    /// Whether the service is the daemon's own child, and nobody else's.
    is_child: bool,
}

impl Small {
    /// Returns a small house whose service runs with [`OLD`]. `deployer` is what stands in that section.
    pub(crate) fn new(deployer: &str) -> Self {
        Self::managed(deployer, false)
    }

    /// Returns a small house whose service is a child of the daemon, which starts it.
    pub(crate) fn with_a_child(deployer: &str) -> Self {
        Self::managed(deployer, true)
    }

    fn managed(deployer: &str, is_child: bool) -> Self {
        let folder = tempfile::tempdir_in(IN_MEMORY).or_else(|_| tempfile::tempdir()).unwrap();
        let small = Self { folder, port: Port::hold(), daemon: None, is_child };
        fs::create_dir_all(small.home().join("domains")).unwrap();
        fs::create_dir_all(small.folder.path().join("service")).unwrap();
        fs::write(small.env_file(), OLD).unwrap();
        let lease = small.folder.path().join("lease").display().to_string();
        let settings = format!(
            "[shell]\nmetrics_address = \"127.0.0.1:0\"\n[measuring]\nlease_folder = {lease:?}\nothers_max = 1.0\n\
             others_rise_max = 1.0\n[validator]\nblocks_min = 2\nblocks_max = 2\ncalibrate_blocks = 0\n[deployer]\nbake_s = 0.0\n{deployer}\n"
        );
        fs::write(small.home().join("kloros.toml"), settings).unwrap();
        fs::write(small.home().join("domains/small.toml"), small.domain()).unwrap();
        fs::write(small.home().join("dream.yaml"), DREAM).unwrap();
        if !is_child {
            small.start_service();
        }
        small
    }

    fn domain(&self) -> String {
        let exe = std::env::current_exe().unwrap().display().to_string();
        let (service, env_file) = (self.service().display().to_string(), self.env_file().display().to_string());
        let port = self.port.number();
        let command = format!("{{ command = {{ restart = [{exe:?}, \"restart\", {service:?}, \"{port}\"] }} }}");
        let manager = if self.is_child { "\"child\"".to_owned() } else { command };
        format!(
            "isolation = \"shadow\"\n[service]\nmanager = {manager}\n\
             argv = [{exe:?}, \"serve\", \"{{port}}\", \"{{env_file}}\"]\nport = {port}\nenv_file = {env_file:?}\n\
             ready = {{ http_path = \"/health\", within_s = 20, passes = 1 }}\nread_back = {{ http_json = \"/config\" }}\n\
             [knobs.SPEED]\nrange = {{ kind = \"integer\", min = 1, max = 100 }}\ndefault = 1\n\
             [bench]\nkind = \"command\"\nargv = [{exe:?}, \"measure\", \"{{url}}\", {service:?}]\ntimeout_s = 90\n\
             [metrics]\nspeed = {{ direction = \"up\", weight = 1 }}\n"
        )
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn service(&self) -> PathBuf {
        self.folder.path().join("service")
    }

    pub(crate) fn env_file(&self) -> PathBuf {
        self.service().join("env")
    }

    pub(crate) fn env(&self) -> String {
        fs::read_to_string(self.env_file()).unwrap_or_default()
    }

    /// Returns the speed that the env file gives the service, and the one that it says it runs with.
    pub(crate) fn speeds(&self) -> (String, Option<String>) {
        let env = self.env();
        let given = env.lines().find_map(|line| line.trim_end().strip_prefix("SPEED=")).unwrap_or(SPEED_DEFAULT);
        let says = ask(&self.port.number().to_string()).and_then(|config| config["SPEED"].as_str().map(str::to_owned));
        (given.to_owned(), says)
    }

    /// Leaves a winner in the inbox: the daemon deploys it as it would its own.
    pub(crate) fn propose(&self, speed: u32) {
        let folder = self.home().join("artifacts/dream/winners");
        fs::create_dir_all(&folder).unwrap();
        let winner = serde_json::json!({"experiment": "small", "domain": "small",
            "best": {"params": {"speed": speed}, "fitness": 1.0}});
        fs::write(folder.join("part"), winner.to_string()).unwrap();
        fs::rename(folder.join("part"), folder.join("mine.json")).unwrap();
    }

    /// Returns the program's command, in a process group of its own.
    fn program(&self) -> Command {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.arg("--home").arg(self.home()).process_group(0);
        command.env_remove("INVOCATION_ID").env_remove("KLOROS_HOME");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    /// A person adds `text` to the env file as an editor does: a new file in the place of the old one.
    pub(crate) fn edit(&self, text: &str) {
        let beside = self.service().join("editor");
        fs::write(&beside, self.env() + text).unwrap();
        fs::rename(beside, self.env_file()).unwrap();
    }

    /// Returns what lies beside the env file and is nobody's.
    pub(crate) fn strays(&self) -> Vec<String> {
        let names = fs::read_dir(self.service()).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.contains("kloros")).collect()
    }

    /// Returns the files of kloros' that hold the secret of the env file: its whole home, and what it printed.
    pub(crate) fn secrets_told(&self) -> Vec<PathBuf> {
        let (mut folders, mut files) = (vec![self.home()], vec![self.folder.path().join("log")]);
        while let Some(folder) = folders.pop() {
            // What goes away meanwhile tells nothing.
            for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder { folders.push(entry.path()) } else { files.push(entry.path()) }
            }
        }
        let tells = |file: &PathBuf| {
            let is_plain = fs::symlink_metadata(file).is_ok_and(|found| found.is_file());
            let bytes = fs::read(file).ok().filter(|_| is_plain).unwrap_or_default();
            bytes.windows(SECRET.len()).any(|window| window == SECRET)
        };
        files.retain(tells);
        files
    }

    pub(crate) fn start(&mut self, arguments: &[&str]) {
        self.start_with(arguments, None);
    }

    /// Starts the daemon with one variable more.
    pub(crate) fn start_with(&mut self, arguments: &[&str], variable: Option<(&str, String)>) {
        let mut command = self.program();
        command.arg("run").args(arguments).envs(variable);
        self.daemon = Some(command.spawn().unwrap());
    }

    /// Starts the daemon with something between it and the kernel, that one call may meet. `disk` learns what becomes durable.
    pub(crate) fn start_tampered(
        &mut self,
        arguments: &[&str],
        meets: Option<(Site, Fate)>,
        disk: Option<Arc<Mutex<Disk>>>,
    ) -> Tampered {
        let mut command = self.program();
        command.arg("run").args(arguments);
        let plan = Plan { folders: self.folders().to_vec(), who: Who::Started, meets };
        let (tampered, daemon) = Tampered::spawn(command, plan, disk).unwrap();
        self.daemon = Some(daemon);
        tampered
    }

    /// Returns the folders in which a deployment changes something.
    pub(crate) fn folders(&self) -> [PathBuf; 2] {
        [self.home(), self.service()]
    }

    /// Returns whether the daemon has ended by itself, or was killed.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.daemon.as_mut().is_none_or(|daemon| daemon.try_wait().unwrap().is_some())
    }

    /// Ends the service as a power cut would.
    pub(crate) fn kill_service(&self) {
        kill_by(&self.service().join("pid"));
    }

    /// Starts the service, as the machine does after a boot.
    pub(crate) fn start_service(&self) {
        restart(&self.service(), &self.port.number().to_string());
    }

    /// Runs the program with one variable more until it ends, however that is, or is killed because `is_done`.
    pub(crate) fn run_until(&self, arguments: &[&str], variable: (&str, String), is_done: impl Fn(&Self) -> bool) {
        let mut child = self.program().args(arguments).envs([variable]).spawn().unwrap();
        let ended = comes(PATIENCE, || child.try_wait().unwrap().is_some() || is_done(self));
        // It fails where the program has ended.
        child.kill().ok();
        child.wait().unwrap();
        assert!(ended, "{arguments:?} does not end: {}", self.log());
    }

    /// Returns whether the daemon answers.
    pub(crate) fn listens(&self) -> bool {
        self.json(&["status"])["live"].is_object()
    }

    /// Returns whether the daemon has taken the winner out of its inbox.
    pub(crate) fn is_taken(&self) -> bool {
        self.home().join("artifacts/dream/winners/mine.json.taken").exists()
    }

    /// Returns how many facts of this kind are durable.
    pub(crate) fn facts(&self, kind: &str) -> usize {
        let path = self.home().join(".kloros/journal.db");
        let Ok(journal) = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        else {
            return 0;
        };
        let count = journal.query_row("SELECT count(*) FROM facts WHERE kind = ?1", [kind], |row| row.get::<_, i64>(0));
        count.map_or(0, |count| usize::try_from(count).unwrap_or_default())
    }

    /// Sends a signal to the daemon and everything in its process group.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.daemon.as_ref().unwrap());
        rustix::process::kill_process_group(pid, signal).unwrap();
    }

    /// Kills the daemon and its process group, as somebody who means it would.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        // It may have ended by itself.
        rustix::process::kill_process_group(Pid::from_child(&daemon), Signal::KILL).ok();
        daemon.wait().unwrap();
    }

    /// Waits until the daemon has ended by itself, and returns its exit code.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut daemon = self.daemon.take().unwrap();
        let mut code = None;
        if !comes(PATIENCE, || {
            daemon.try_wait().unwrap().is_some_and(|status| {
                code = status.code();
                true
            })
        }) {
            rustix::process::kill_process_group(Pid::from_child(&daemon), Signal::KILL).ok();
            daemon.wait().unwrap();
            panic!("the daemon did not end: {}", self.log());
        }
        code
    }

    pub(crate) fn kloros(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.args(arguments).arg("--home").arg(self.home()).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.kloros(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.home().join(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let guard = fs::read_to_string(self.home().join(".kloros/guard.log")).unwrap_or_default();
        format!("{log}{guard}")
    }

    /// Returns how often the service was restarted, by whomever.
    pub(crate) fn restarts(&self) -> usize {
        fs::read_to_string(self.service().join("restarts")).unwrap_or_default().lines().count()
    }

    /// Has a restart that takes longer than so many seconds taken for one that failed.
    pub(crate) fn limit_restarts(&self, seconds: u32) {
        let path = self.home().join("domains/small.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, text.replacen("[service]\n", &format!("[service]\nrestart_within_s = {seconds}\n"), 1))
            .unwrap();
    }

    /// Has every restart fail from now on, or no longer.
    pub(crate) fn break_restarts(&self, is_broken: bool) {
        self.mark("broken", is_broken);
    }

    /// Has every restart wait from now on, or no longer.
    pub(crate) fn hang_restarts(&self, is_hung: bool) {
        self.mark("hung", is_hung);
    }

    /// Has every measurement wait from now on, or no longer.
    pub(crate) fn hang_measurements(&self, is_hung: bool) {
        self.mark("unmeasured", is_hung);
    }

    fn mark(&self, name: &str, is_there: bool) {
        let path = self.service().join(name);
        if is_there { fs::write(path, "").unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// Returns the guards that watch over this home.
    pub(crate) fn guards(&self) -> Vec<Pid> {
        let home = self.home().display().to_string();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let is_guard = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words.iter().any(|word| word == "guard") && words.iter().any(|word| *word == home)
        };
        let pids = entries.filter(is_guard).filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        pids.filter_map(Pid::from_raw).collect()
    }

    /// Returns the names of what lies in the folder of pending files and means that something is pending.
    pub(crate) fn pending(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home().join(".kloros/pending")).into_iter().flatten().filter_map(Result::ok);
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ending =
            |name: &String| name.rsplit('.').next().is_some_and(|ending| ["json", "undoing"].contains(&ending));
        names.filter(ending).collect()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            rustix::process::kill_process_group(Pid::from_child(&daemon), Signal::KILL).ok();
            daemon.wait().ok();
        }
        // A guard that still watches sees the home go; the service is this program's to end.
        kill_by(&self.service().join("pid"));
    }
}

const DREAM: &str = "
experiments:
  small:
    domain: small
    search_space:
      speed: {kind: integer, min: 1, max: 100}
    metrics: {speed: up}
    param_mapping:
      speed: SPEED
    budget: {max_candidates: 4, max_generations: 1}
";

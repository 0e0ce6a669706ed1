//! The real program with a conversation endpoint, in a home of its own.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::port::Port;

/// A running daemon; it dies with the test.
pub(crate) struct Daemon {
    home: tempfile::TempDir,
    child: Option<Child>,
    /// Where conversations are held.
    pub(crate) address: SocketAddr,
    /// Where metrics are served.
    pub(crate) metrics: SocketAddr,
    _held: [Port; 2],
}

/// How long the daemon may take to answer.
const UP_WITHIN: Duration = Duration::from_secs(300);

impl Daemon {
    /// Starts one in front of `upstream`; `more` stands below the settings of the conversation.
    pub(crate) fn start(upstream: SocketAddr, more: &str) -> Self {
        let (home, held) = (tempfile::tempdir().unwrap(), [Port::hold(), Port::hold()]);
        let [address, metrics] = [&held[0], &held[1]].map(|port| SocketAddr::from(([127, 0, 0, 1], port.number())));
        let text = format!(
            "[shell]\ndemo_load = false\nmetrics_address = \"{metrics}\"\nlog = \"debug\"\n[conversation]\nlisten = \"{address}\"\n\
             upstream = \"http://{upstream}\"\ncondense = false\n{more}\n"
        );
        fs::write(home.path().join("kloros.toml"), text).unwrap();
        let mut daemon = Self { home, child: None, address, metrics, _held: held };
        daemon.go();
        daemon
    }

    /// Starts the program and waits until it answers.
    pub(crate) fn go(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut command = self.command();
        command.arg("run").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let deadline = Instant::now() + UP_WITHIN;
        while get(self.address, "/health").is_none() {
            assert!(Instant::now() < deadline, "{}", fs::read_to_string(self.path("daemon.log")).unwrap());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Kills the daemon as the kernel would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().unwrap();
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.arg("--home").arg(self.home.path());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KLOROS")) {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command of the program to its end.
    pub(crate) fn kloros(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Holds a conversation in the terminal: says these lines, and returns all that is shown.
    pub(crate) fn chat(&self, arguments: &[&str], lines: &[&str]) -> String {
        use std::io::Write as _;

        let mut command = self.command();
        command.arg("chat").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
        shown
    }

    /// Returns the most memory that the daemon ever had, in KiB.
    pub(crate) fn memory_peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.as_ref().unwrap().id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// Returns everything that is kept: conversation, role and text, each conversation in its order.
    pub(crate) fn kept(&self) -> Vec<(String, String, String)> {
        let output = self.kloros(&["memory", "export"]);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let events = lines.filter(|line| line["role"].is_string());
        let word = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
        events.map(|line| (word(&line, "conversation"), word(&line, "role"), word(&line, "text"))).collect()
    }

    /// Waits until what is kept is so: it is kept beside the answer.
    pub(crate) fn until_kept(
        &self,
        is_so: impl Fn(&[(String, String, String)]) -> bool,
    ) -> Vec<(String, String, String)> {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            let kept = self.kept();
            if is_so(&kept) {
                return kept;
            }
            assert!(Instant::now() < deadline, "{kept:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Returns the value of a metric of this name and label.
    pub(crate) fn metric(&self, row: &str) -> f64 {
        let text = get(self.metrics, "/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no {row} in {text}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the body of what is at `path`; `None` when nobody answers.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n");
    let answer = send(address, &request)?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Sends bytes as they are and returns what comes back until the other side ends.
pub(crate) fn send(address: SocketAddr, request: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};

    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

//! The metrics of a daemon that really runs, read as Prometheus reads them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long the daemon may take to start its lab and to take first readings, on a machine with other work.
const STARTED_WITHIN: Duration = Duration::from_secs(90);

/// How long a clean stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running daemon; dropping it ends it.
struct Daemon {
    child: Child,
    metrics: SocketAddr,
}

impl Daemon {
    fn start(home: &std::path::Path) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let metrics = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_kloros"))
            .args(["run", "--home"])
            .arg(home)
            .env("KLOROS__SHELL__METRICS_ADDRESS", metrics.to_string())
            .env("KLOROS__SHELL__LOG", "warn")
            .env("KLOROS__MEASURING__LEASE_FOLDER", home.join("lease"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, metrics }
    }

    /// Returns the metrics as soon as `is_enough` says so.
    fn metrics_when(&mut self, is_enough: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + STARTED_WITHIN;
        let mut last = String::new();
        while Instant::now() < deadline {
            assert_eq!(self.child.try_wait().unwrap(), None, "the daemon ended by itself");
            last = scrape(self.metrics).unwrap_or(last);
            if is_enough(&last) {
                return last;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("no such metrics within {STARTED_WITHIN:?}:\n{last}");
    }

    /// Asks the daemon to end and returns how it did.
    fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::INT);
        let deadline = Instant::now() + STOPPED_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        panic!("the daemon did not end within {STOPPED_WITHIN:?}");
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its children die with it: the kernel is told to see to that when they are started.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

fn scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.0 200").then(|| body.to_owned())
}

/// Returns the value of the first sample whose name and labels begin with `name`.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// Returns the families that have a sample, and those that have both a type and a help text.
fn families(text: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let named = |prefix: &'static str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(prefix));
        lines.filter_map(|rest| rest.split(' ').next()).collect::<BTreeSet<&str>>()
    };
    let described: BTreeSet<&str> = named("# HELP ").intersection(&named("# TYPE ")).copied().collect();
    let samples = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let family = |line: &'_ str| -> usize { line.find(['{', ' ']).unwrap_or(line.len()) };
    let with_values = samples.map(|line| {
        let name = &line[..family(line)];
        let parts = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
        parts.filter(|histogram| described.contains(histogram)).unwrap_or(name)
    });
    (with_values.collect(), described)
}

#[test]
fn a_running_daemon_shows_metrics_that_prometheus_has_nothing_to_say_against() {
    let home = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(home.path());
    let text = daemon.metrics_when(|text| value(text, "kloros_readings_total").is_some_and(|readings| readings > 0.0));

    let (with_values, described) = families(&text);
    let undescribed: Vec<_> = with_values.difference(&described).collect();
    assert!(undescribed.is_empty(), "without type and help: {undescribed:?}");
    let foreign: Vec<_> = with_values.iter().filter(|name| !name.starts_with("kloros_")).collect();
    assert!(foreign.is_empty(), "not under kloros_: {foreign:?}");
    for room in ["mind/curiosity", "mind/coordinator", "mind/feedback", "hands/gate", "senses/observer"] {
        let up = value(&text, &format!("kloros_room_up{{room=\"{room}\"}}"));
        assert_eq!(up, Some(1.0), "{room} is up:\n{text}");
    }
    check_with_promtool(&text);
    assert!(daemon.stop().success(), "a stop that was asked for is no failure");
}

/// Lets Prometheus' own tool judge; `tests/run` sees to it that it is there.
#[allow(clippy::print_stderr, reason = "who runs the tests should know what was not checked")]
fn check_with_promtool(text: &str) {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("promtool is not installed, so only types, help texts and names were checked");
            return;
        }
        started => started.unwrap(),
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let judged = promtool.wait_with_output().unwrap();
    let said = [judged.stdout, judged.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(judged.status.success() && said.trim().is_empty(), "promtool says:\n{said}");
}

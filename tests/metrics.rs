//! The metrics of a daemon that really runs, read as Prometheus reads them.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

#[path = "metrics/shipped.rs"]
mod shipped;

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long the daemon may take to start its lab and to take first readings, on a machine with other work.
const STARTED_WITHIN: Duration = Duration::from_secs(300);

/// How long a clean stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(300);

/// How often it is looked whether something has come about.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A running daemon; dropping it ends it.
struct Daemon {
    child: Child,
    metrics: SocketAddr,
}

impl Daemon {
    fn start(home: &std::path::Path) -> Self {
        Self::start_with(home, &[])
    }

    fn start_with(home: &std::path::Path, settings: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let metrics = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_kloros"))
            .args(["run", "--home"])
            .arg(home)
            .env("KLOROS__SHELL__METRICS_ADDRESS", metrics.to_string())
            .env("KLOROS__SHELL__LOG", "warn")
            .env("KLOROS__MEASURING__LEASE_FOLDER", home.join("lease"))
            .envs(settings.iter().copied())
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
    let rooms = ["mind/curiosity", "mind/coordinator", "mind/feedback", "hands/gate", "senses/observer"];
    let is_up = |text: &str, room: &str| value(text, &format!("kloros_room_up{{room=\"{room}\"}}")) == Some(1.0);
    let text = daemon.metrics_when(|text| {
        let reads = value(text, "kloros_readings_total").is_some_and(|readings| readings > 0.0);
        reads && rooms.iter().all(|room| is_up(text, room))
    });

    let (with_values, described) = families(&text);
    let undescribed: Vec<_> = with_values.difference(&described).collect();
    assert!(undescribed.is_empty(), "without type and help: {undescribed:?}");
    let foreign: Vec<_> = with_values.iter().filter(|name| !name.starts_with("kloros_")).collect();
    assert!(foreign.is_empty(), "not under kloros_: {foreign:?}");
    check_with_promtool(&text);
    assert!(daemon.stop().success(), "a stop that was asked for is no failure");
}

/// A driver that is scripted, in the home of a daemon: a copy of the library that the tests are built with.
struct FakeDriver {
    library: std::path::PathBuf,
    script: serde_json::Value,
}

impl FakeDriver {
    /// Returns a driver that knows the H100 of `tests/fixtures/nvml`, busy.
    fn of_an_h100(home: &std::path::Path) -> Self {
        let built = std::env::current_exe().unwrap().with_file_name("libfake_nvml.so");
        let library = home.join("libnvidia-ml.so.1");
        fs::copy(built, &library).unwrap();
        let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nvml/h100-80gb-busy.json");
        let driver = Self { library, script: serde_json::from_slice(&fs::read(recorded).unwrap()).unwrap() };
        driver.say();
        driver
    }

    fn say(&self) {
        let (new, file) = (self.library.with_file_name("script.new"), self.library.with_file_name("script.json"));
        fs::write(&new, self.script.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }
}

/// Returns the rows about GPUs, without values and without what is another one on each machine.
fn rows(text: &str) -> BTreeSet<String> {
    let open = ["name", "pci_bus_id", "vbios", "pid", "process"];
    let rows = text.lines().filter(|line| line.starts_with("kloros_gpu")).filter_map(|line| line.rsplit_once(' '));
    let closed = |row: &str| {
        let labels = row.split([',', '{', '}']).filter(|label| !open.iter().any(|open| label.starts_with(open)));
        labels.collect::<Vec<_>>().join(",")
    };
    rows.map(|(row, _)| closed(row)).collect()
}

/// The H100 of the fixture.
const H100: &str = "GPU-00000000-0000-0000-0000-000000000001";

#[test]
fn a_daemon_shows_a_gpu_its_errors_and_a_driver_that_hangs_and_ends_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let mut driver = FakeDriver::of_an_h100(home.path());
    let mut daemon = Daemon::start_with(
        home.path(),
        &[
            ("KLOROS__GPU__LIBRARY", driver.library.to_str().unwrap()),
            ("KLOROS__GPU__SAMPLE_EVERY_S", "0.2"),
            ("KLOROS__GPU__DEADLINE_S", "0.5"),
            ("KLOROS__GPU__PROCESSES_MAX", "1"),
        ],
    );
    let sample = |name: &str, labels: &str| format!("kloros_gpu_{name}{{gpu=\"{H100}\"{labels}}}");
    let up = sample("up", "");
    let text = daemon.metrics_when(|text| value(text, &up) == Some(1.0));
    for (name, labels, expected) in [
        ("utilization_ratio", ",engine=\"gpu\"", 1.0),
        ("utilization_ratio", ",engine=\"memory\"", 0.34),
        ("memory_bytes", ",state=\"reserved\"", 503_316_480.0),
        ("temperature_celsius", ",sensor=\"memory\"", 54.0),
        ("power_watts", "", 698.274),
        ("power_limit_watts", ",limit=\"enforced\"", 700.0),
        ("energy_joules_total", "", 23_805.0),
        ("clock_hertz", ",clock=\"sm\",kind=\"current\"", 1.365e9),
        ("throttle_active", ",reason=\"power_cap\"", 1.0),
        ("throttle_seconds_total", ",policy=\"power\"", 26.0),
        ("ecc_errors_total", ",severity=\"corrected\",scope=\"volatile\"", 0.0),
        ("row_remap_failure", "", 0.0),
        ("xid_events_total", ",xid=\"79\"", 0.0),
        ("processes", "", 1.0),
        ("process_memory_bytes", ",pid=\"536\",process=\"\",kind=\"compute\"", 82_829_115_392.0),
        ("hardware_fault", "", 0.0),
        ("sample_errors_total", ",call=\"nvlink\",error=\"not_supported\"", 1.0),
    ] {
        assert_eq!(value(&text, &sample(name, labels)), Some(expected), "{name}{labels}:\n{text}");
    }
    let real = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/nvml/h100-80gb-load.prom");
    let real = fs::read_to_string(real).unwrap();
    let (here, there) = (rows(&text), rows(&real));
    let difference: Vec<_> = here.symmetric_difference(&there).collect();
    assert!(difference.is_empty() && there.len() > 100, "not as with a real H100: {difference:?}");
    let (with_values, described) = families(&text);
    let undescribed: Vec<_> = with_values.difference(&described).collect();
    assert!(undescribed.is_empty(), "without type and help: {undescribed:?}");
    check_with_promtool(&text);
    shipped::check_names(&text);
    if let Some(prometheus) = shipped::Prometheus::scraping(daemon.metrics) {
        prometheus.check_dashboards();
    }

    driver.script["events"] = serde_json::json!([{"uuid": H100, "xid": 79}]);
    driver.say();
    daemon.metrics_when(|text| {
        value(text, &sample("xid_events_total", ",xid=\"79\"")) == Some(1.0)
            && value(text, &sample("hardware_fault", "")) == Some(1.0)
    });

    driver.script["gpus"][0]["nvmlDeviceGetPowerUsage"] = serde_json::json!({"hang": true});
    driver.say();
    let hung = "kloros_gpu_driver_state{state=\"hung\"}";
    let text = daemon.metrics_when(|text| value(text, hung) == Some(1.0) && value(text, &up) == Some(0.0));
    assert_eq!(value(&text, &sample("sample_errors_total", ",call=\"power\",error=\"deadline\"")), Some(1.0));
    assert_eq!(value(&text, &sample("power_watts", "")), None, "what is old does not stand still");
    assert_eq!(value(&text, &sample("energy_joules_total", "")), Some(23_805.0), "what was counted stays");
    assert!(value(&text, &sample("sample_age_seconds", ",cadence=\"sample\"")).is_some_and(|age| age > 0.5));
    assert!(daemon.stop().success(), "a driver that hangs keeps nobody from ending");
}

#[test]
fn a_daemon_without_a_driver_says_so_and_runs() {
    let home = tempfile::tempdir().unwrap();
    let library = home.path().join("libnvidia-ml.so.1");
    let mut daemon = Daemon::start_with(home.path(), &[("KLOROS__GPU__LIBRARY", library.to_str().unwrap())]);
    let text = daemon.metrics_when(|text| value(text, "kloros_gpu_driver_state{state=\"no_library\"}") == Some(1.0));
    assert_eq!(value(&text, "kloros_gpu_driver_state{state=\"ready\"}"), Some(0.0));
    daemon.metrics_when(|text| value(text, "kloros_probe_up{probe=\"gpu\"}") == Some(0.0));
    assert!(daemon.stop().success());
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

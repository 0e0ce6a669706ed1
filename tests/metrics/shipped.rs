//! The alerts and dashboards of `ops`, against what a daemon that really runs exports, and in a real Prometheus.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long Prometheus may take to start and to scrape twice, on a machine with other work.
const PROMETHEUS_WITHIN: Duration = Duration::from_secs(300);

/// Labels that Prometheus adds by itself.
const ADDED: [&str; 2] = ["instance", "job"];

/// What follows a query that is to say nothing while all is well.
const QUIET: [&str; 2] = ["> 0", "== 0"];

fn ops(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(path)
}

/// Returns the queries of all dashboards, each with the name of its panel.
fn dashboards() -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for file in fs::read_dir(ops("grafana")).unwrap() {
        let dashboard: Value = serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        assert!(dashboard["id"].is_null() && dashboard["uid"].is_string());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = format!("{}: {}", dashboard["title"], panel["title"]);
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$__rate_interval", "10s").replace("$instance", ".*");
                queries.push((title.clone(), query));
            }
        }
    }
    assert!(queries.len() > 20, "{queries:?}");
    queries
}

/// Returns the queries of all alerts that concern kloros' own metrics.
fn alerts() -> Vec<(String, String)> {
    let text = fs::read_to_string(ops("prometheus/kloros.rules.yml")).unwrap();
    let queries = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let queries: Vec<_> = queries.map(|query| (query.to_owned(), query.to_owned())).collect();
    assert!(queries.len() > 10, "{queries:?}");
    queries
}

/// Returns the series that a query names: the metric, and the labels that it asks of it.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find("kloros_") {
        let name: String = rest[start..].chars().take_while(|c| is_name(*c)).collect();
        rest = &rest[start + name.len()..];
        let labels = rest.strip_prefix('{').and_then(|inner| Some(inner.split_once('}')?.0)).unwrap_or_default();
        let labels = labels.split(',').filter_map(|label| {
            let name: String = label.trim().chars().take_while(|c| is_name(*c)).collect();
            (!name.is_empty() && !ADDED.contains(&name.as_str())).then_some(name)
        });
        found.push((name, labels.collect()));
    }
    found
}

/// Checks that alerts and dashboards ask for nothing but what this daemon exports, down to the labels.
#[track_caller]
pub(crate) fn check_names(text: &str) {
    for (title, query) in dashboards().into_iter().chain(alerts()) {
        for (name, labels) in selectors(&query) {
            let of_name = |line: &&str| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let rows: BTreeSet<&str> = text.lines().filter(of_name).collect();
            assert!(!rows.is_empty(), "{title} asks for {name}, which is not exported");
            for label in labels {
                let has = |row: &&str| row.contains(&format!("{{{label}=")) || row.contains(&format!(",{label}="));
                assert!(rows.iter().any(has), "{title} asks {name} for the label {label}");
            }
        }
    }
}

/// A Prometheus that scrapes one daemon; dropping it ends it.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts Debian's Prometheus with the alerts that are shipped; `None` where it is not installed, which `tests/run` sees to.
    #[allow(clippy::print_stderr, reason = "who runs the tests should know what was not checked")]
    pub(crate) fn scraping(target: SocketAddr) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let rules = ops("prometheus/kloros.rules.yml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  - job_name: kloros\n    static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        fs::write(folder.path().join("prometheus.yml"), config).unwrap();
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn();
        match started {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("prometheus is not installed, so no dashboard was asked");
                None
            }
            started => Some(Self { child: started.unwrap(), address, _folder: folder }),
        }
    }

    /// Returns how many series a query finds; `None` while Prometheus does not answer.
    fn found(&self, query: &str) -> Option<usize> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"))?;
        let answer: Value = serde_json::from_str(&answer).ok()?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().map(Vec::len)
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
    }

    /// Checks that every panel has something to show, but for those that show only what is wrong.
    #[track_caller]
    pub(crate) fn check_dashboards(&self) {
        let deadline = Instant::now() + PROMETHEUS_WITHIN;
        for (title, query) in dashboards() {
            let is_quiet = QUIET.iter().any(|quiet| query.contains(quiet));
            while self.found(&query).is_none_or(|found| found == 0 && !is_quiet) {
                assert!(Instant::now() < deadline, "{title} shows nothing: {query}");
                std::thread::park_timeout(Duration::from_millis(200));
            }
        }
        // Nothing is wrong, so nothing is told.
        assert_eq!(self.found("ALERTS{alertstate=\"firing\"}"), Some(0));
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Returns the names of the alerts that are shipped.
fn named() -> BTreeSet<String> {
    let text = fs::read_to_string(ops("prometheus/kloros.rules.yml")).unwrap();
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn each_alert_links_to_its_chapter_of_the_runbook_by_an_address_and_each_chapter_has_an_alert() {
    let text = fs::read_to_string(ops("prometheus/kloros.rules.yml")).unwrap();
    let runbook = fs::read_to_string(ops("runbook.md")).unwrap();
    let chapters: BTreeSet<String> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    assert_eq!(chapters, named());
    for alert in text.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let link = alert.lines().find_map(|line| line.trim().strip_prefix("runbook_url: ")).unwrap();
        let (address, anchor) = link.split_once('#').unwrap();
        assert!(address.contains("://") && address.ends_with("/runbook.md"), "{name}: {link} is no address");
        assert_eq!(anchor, name.to_lowercase(), "{name}");
    }
    // Where it says, the package puts it.
    assert!(fs::read_to_string(ops("package/deb")).unwrap().contains("$docs/runbook.md"));
}

#[test]
fn each_alert_is_tried_on_series_that_raise_it() {
    let tests = fs::read_to_string(ops("prometheus/kloros.rules.test.yml")).unwrap();
    for name in named() {
        let fires = [format!("alertname=\"{name}\""), format!("alertname: {name}\n        exp_alerts:\n")];
        assert!(fires.iter().any(|case| tests.contains(case.as_str())), "{name} fires in no test");
    }
}

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    Apply, BackOff, BenchSpec, InPlace, Key, Knob, Load, Quiet, Risk, Settings, Value, agreement::says, short_hash,
};

/// One service and all that kloros may know and do about it: the content of `config/domains/NAME.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// The domain's name: the file's stem, lowercase letters, digits and underscores.
    pub name: String,
    /// Raises the risk class of the domain; a lower class than the gate's table gives has no effect.
    #[serde(default)]
    pub risk: Option<Risk>,
    /// Where candidates are measured.
    pub isolation: Isolation,
    /// When and how far the serving instance itself may be tried on; there exactly where candidates are measured in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
    /// How the service is started, found ready and read back.
    pub service: ServiceSpec,
    /// The allow-list: what may be changed, and how far.
    pub knobs: BTreeMap<Key, Knob>,
    /// How a configuration is measured.
    pub bench: BenchSpec,
    /// What the bench's numbers mean.
    pub metrics: BTreeMap<String, MetricSpec>,
    /// What the running service must hold; a breach is an anomaly.
    #[serde(default)]
    pub objectives: Vec<Objective>,
    /// From when on a measurement of it is disturbed by others, where that differs from what holds for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<Quiet>,
    /// What a second instance of it needs of the machine whatever its knobs say; what is not said is what the serving one is seen to use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Load>,
}

impl Domain {
    /// Returns a fingerprint of how a configuration is measured: by which bench, on which command.
    pub fn measured_by(&self) -> String {
        let bench = serde_json::to_string(&self.bench).unwrap_or_default();
        short_hash(&[&bench, &self.service.argv.join("\n")])
    }

    /// Returns whether `text` is a value that the knob of this name could hold.
    pub fn could_hold(&self, name: &str, text: &str) -> bool {
        let knob = Key::new(name).ok().and_then(|key| self.knobs.get(&key));
        knob.is_some_and(|knob| knob.range.parse(text.trim()).is_some())
    }

    /// Returns what a service that reads these env keys is to run with, by `value_of` each; `None` where a value is none of its knob.
    pub fn wanted(&self, value_of: impl Fn(&Key) -> Option<String>) -> Option<Settings> {
        let wanted = |(key, knob): (&Key, &Knob)| {
            let value = value_of(key).map_or_else(|| Some(knob.default.clone()), |text| knob.range.parse(&text));
            Some((key.clone(), value?))
        };
        self.knobs.iter().map(wanted).collect()
    }

    /// Returns whether a reload brings into force all in which `wanted` differs from what the service says that it runs with.
    ///
    /// Where nothing differs it does not: whoever wants a restart then has another reason.
    pub fn is_for_a_reload(&self, wanted: &Settings, in_effect: &BTreeMap<String, String>) -> bool {
        let is_in_effect = |key: &Key, value: &Value| in_effect.get(key.as_str()).is_some_and(|text| says(text, value));
        let mut due = wanted.iter().filter(|(key, value)| !is_in_effect(key, value)).peekable();
        let is_by_reload = |key: &Key| self.knobs.get(key).is_some_and(|knob| knob.apply == Apply::Reload);
        due.peek().is_some() && due.all(|(key, _)| is_by_reload(key))
    }
}

/// Where a candidate is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// On a second instance of the service, on a port of its own, beside the one that serves.
    Shadow,
    /// On the instance that serves, in a maintenance window, protected as a deployment is.
    InPlace,
}

/// How the service runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Who starts and stops it.
    pub manager: Manager,
    /// The command of an instance; `{port}`, `{env_file}` and `{kloros}` (this program) are replaced.
    pub argv: Vec<String>,
    /// What is asked whether the service would take settings, before a candidate with them is started or a change is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// The loopback port of the instance that serves; 0 chooses a free one at start.
    pub port: u16,
    /// The env file the service reads; relative paths are under the home.
    pub env_file: PathBuf,
    /// When an instance counts as ready.
    pub ready: Ready,
    /// How the values in effect are read back.
    pub read_back: ReadBack,
    /// The path of the Prometheus text on the instance, if it has one.
    #[serde(default)]
    pub metrics_path: Option<String>,
    /// The metric there that says how much is asked of it: a counter of what comes in, by its name's `_total` or `_count`, or a
    /// gauge. What deviates under more of it is a surge, not a fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_metric: Option<String>,
    /// How long its supervisor may take to restart it, in seconds, before it is waited for to be ready.
    #[serde(default = "restart_within_s", skip_serializing_if = "is_restart_within_s")]
    pub restart_within_s: u64,
    /// How long an instance that kloros starts may take to end what it is doing, in seconds; then it is killed.
    #[serde(default = "stop_within_s", skip_serializing_if = "is_stop_within_s")]
    pub stop_within_s: u64,
    /// When an instance that died is started again, where kloros starts it.
    #[serde(default, skip_serializing_if = "BackOff::is_default")]
    pub back_off: BackOff,
}

// What is not said is not written either, so that pending files stay readable for an older kloros.
fn restart_within_s() -> u64 {
    300
}

fn is_restart_within_s<T: PartialEq<u64>>(seconds: &T) -> bool {
    *seconds == restart_within_s()
}

fn stop_within_s() -> u64 {
    30
}

fn is_stop_within_s<T: PartialEq<u64>>(seconds: &T) -> bool {
    *seconds == stop_within_s()
}

impl ServiceSpec {
    /// Returns a service that is started by `argv` with what is set by default beside that.
    pub fn of(manager: Manager, argv: Vec<String>, env_file: PathBuf, ready: Ready, read_back: ReadBack) -> Self {
        let (port, metrics_path, load_metric) = (0, None, None);
        let (restart_within_s, stop_within_s, back_off) = (restart_within_s(), stop_within_s(), BackOff::default());
        Self {
            manager,
            argv,
            check: None,
            port,
            env_file,
            ready,
            read_back,
            metrics_path,
            load_metric,
            restart_within_s,
            stop_within_s,
            back_off,
        }
    }
}

/// A program that says whether the service would take settings: it ends with 0 where it would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Program and arguments, run without a shell; what is replaced in `argv` is replaced here, `{port}` by a free one.
    pub command: Vec<String>,
    /// How long it may take, in seconds; one that takes longer refuses.
    #[serde(default = "check_within_s", skip_serializing_if = "is_check_within_s")]
    pub within_s: u64,
}

fn check_within_s() -> u64 {
    30
}

fn is_check_within_s<T: PartialEq<u64>>(seconds: &T) -> bool {
    *seconds == check_within_s()
}

/// Who starts and stops the serving instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Manager {
    /// kloros itself: the instance is a child process.
    Child,
    /// Another supervisor, asked by this command, which is run without a shell.
    Command {
        /// Program and arguments that restart the service and return when asked.
        restart: Vec<String>,
    },
    /// systemd, asked over D-Bus.
    Systemd {
        /// The exact name of the unit.
        unit: String,
        /// Whose systemd it is.
        #[serde(default)]
        scope: Scope,
    },
}

/// Whose systemd a unit belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The machine's.
    #[default]
    System,
    /// That of the user whom kloros runs as.
    User,
}

impl Scope {
    /// Returns it as one word.
    pub fn label(self) -> &'static str {
        match self {
            Scope::System => "system",
            Scope::User => "user",
        }
    }
}

/// When an instance counts as ready: by one of five ways, so often in a row, and then for so long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The path that answers 200 when the instance is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
    /// Whether it is ready when its port accepts a connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tcp: bool,
    /// A program that ends with 0 when the instance is ready, run without a shell; `{port}` is replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Whether the instance says so itself, as `sd_notify(3)` defines it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub notify: bool,
    /// A text that the instance prints when it is ready, within one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_line: Option<String>,
    /// How long a start may take, in seconds.
    pub within_s: u64,
    /// How many answers in a row count; what is said once counts once.
    #[serde(default = "once")]
    pub passes: u32,
    /// How long it must then stay ready to count as that, in seconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bake_s: f64,
}

fn once() -> u32 {
    1
}

fn is_zero<T: PartialEq<f64>>(seconds: &T) -> bool {
    *seconds == 0.0
}

/// By what an instance counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadyBy<'a> {
    /// A good answer at this path.
    Http(&'a str),
    /// A connection to its port.
    Tcp,
    /// A program that says yes.
    Command(&'a [String]),
    /// Its own word.
    Notify,
    /// A text that it prints.
    LogLine(&'a str),
}

impl Ready {
    /// Returns what is ready when `path` answered `passes` times in a row, within so many seconds.
    pub fn http(path: &str, within_s: u64, passes: u32) -> Self {
        Self { http_path: Some(path.to_owned()), within_s, passes, ..Self::default() }
    }

    /// Returns by what an instance counts as ready. Of a description that names several ways, which no domain file may, the first
    /// counts; where it names none, the port has to accept a connection.
    pub fn by(&self) -> ReadyBy<'_> {
        match (&self.http_path, self.tcp, self.command.as_slice(), self.notify, &self.log_line) {
            (Some(path), ..) => ReadyBy::Http(path),
            (None, true, ..) => ReadyBy::Tcp,
            (None, false, argv @ [_, ..], ..) => ReadyBy::Command(argv),
            (None, false, [], true, _) => ReadyBy::Notify,
            (None, false, [], false, Some(text)) => ReadyBy::LogLine(text),
            (None, false, [], false, None) => ReadyBy::Tcp,
        }
    }

    /// Returns the names of the ways that are set.
    pub fn ways(&self) -> Vec<&'static str> {
        let ways = [
            ("http_path", self.http_path.is_some()),
            ("tcp", self.tcp),
            ("command", !self.command.is_empty()),
            ("notify", self.notify),
            ("log_line", self.log_line.is_some()),
        ];
        ways.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }
}

/// How the values in effect are read back from a running instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReadBack {
    /// A JSON object of keys and values at this path.
    HttpJson(String),
    /// The environment of the process itself, from `/proc/PID/environ`.
    ProcEnviron,
    /// A program that prints a JSON object of keys and values, run without a shell; `{port}` is replaced.
    Command(Vec<String>),
}

/// What a metric of the bench means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricSpec {
    /// Which way is better.
    pub direction: Direction,
    /// Its share of the objective; 0 makes it a guard only.
    pub weight: f64,
    /// When it trips on its own, whatever the others gain.
    #[serde(default)]
    pub guard: Option<Guard>,
}

/// Which way a metric is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
}

/// When a metric trips on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// The largest loss against the baseline, as a ratio: 0.05 is five percent.
    #[serde(default)]
    pub loss_max: Option<f64>,
    /// The largest value at all, in the metric's own unit.
    #[serde(default)]
    pub value_max: Option<f64>,
}

/// What a reading of the running service must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// The reading, as the probe names it, e.g. `e2e_p95_ms`.
    pub reading: String,
    /// The largest value that is fine.
    pub max: f64,
    /// How many readings in a row must breach it.
    pub readings: u32,
}

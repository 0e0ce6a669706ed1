use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Key, Knob, Quiet, Risk, short_hash};

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
}

/// Where a candidate is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// On a second instance of the service, on a port of its own, beside the one that serves.
    Shadow,
}

/// How the service runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Who starts and stops it.
    pub manager: Manager,
    /// The command of an instance; `{port}`, `{env_file}` and `{kloros}` (this program) are replaced.
    pub argv: Vec<String>,
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
}

/// When an instance counts as ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// The path that answers 200 when the instance is ready.
    pub http_path: String,
    /// How long a start may take, in seconds.
    pub within_s: u64,
    /// How many answers in a row count.
    pub passes: u32,
}

/// How the values in effect are read back from a running instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ReadBack {
    /// A JSON object of keys and values at this path.
    HttpJson(String),
    /// The environment of the process itself, from `/proc/PID/environ`.
    ProcEnviron,
}

/// How a configuration is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BenchSpec {
    /// Chat requests against an OpenAI-style endpoint.
    OpenaiChat {
        /// How requests arrive.
        load: ChatLoad,
        /// Length of the prompts.
        prompt_tokens: TokenRange,
        /// Length of the answers that are asked for.
        output_tokens: TokenRange,
        /// What is thrown away at the start, in seconds.
        warmup_s: f64,
        /// The window that counts, in seconds.
        window_s: f64,
        /// What makes a request a good one.
        slo: ChatSlo,
        /// When a request is given up, in seconds.
        request_timeout_s: f64,
    },
    /// Any program that prints one JSON object of numbers; `{url}`, `{port}` and `{seed}` are replaced.
    Command {
        /// Program and arguments, run without a shell.
        argv: Vec<String>,
        /// When it is ended and the trial counts as failed, in seconds.
        timeout_s: u64,
    },
}

/// How the requests of a bench arrive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ChatLoad {
    /// So many clients, each sending its next request when the last one is answered.
    Closed {
        /// The number of clients.
        clients: u32,
    },
    /// Requests at random moments whether or not earlier ones were answered (a Poisson process).
    Poisson {
        /// Mean arrivals a second.
        rate_per_s: f64,
        /// When so many are in flight, further arrivals count as refused.
        in_flight_max: u32,
    },
}

/// A uniform range of token counts; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRange {
    /// Fewest tokens.
    pub min: u32,
    /// Most tokens.
    pub max: u32,
}

/// What makes a request a good one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatSlo {
    /// Latest first token, in milliseconds.
    pub ttft_ms: f64,
    /// Latest last token, in milliseconds.
    pub e2e_ms: f64,
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

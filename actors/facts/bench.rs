use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How a configuration is measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum BenchSpec {
    /// Chat requests against an OpenAI-style endpoint.
    OpenaiChat {
        /// How requests arrive.
        load: BenchLoad,
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
        /// A file of requests that were asked once, one body as JSON a line, to be asked again in place of made-up ones; of them those
        /// whose prompts are as long as `prompt_tokens` says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        requests: Option<PathBuf>,
    },
    /// Requests for pages of a web server.
    Http(HttpBench),
    /// Texts to be spoken by an OpenAI-style speech endpoint.
    OpenaiSpeech(SpeechBench),
    /// What the service counts itself while its users are at it.
    Prometheus(PrometheusBench),
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
pub enum BenchLoad {
    /// So many clients, each sending its next request when the last one is answered.
    Closed {
        /// The number of clients.
        clients: u32,
    },
    /// Requests at even distances whether or not earlier ones were answered.
    Constant {
        /// Arrivals a second.
        rate_per_s: f64,
        /// When so many are in flight, further arrivals count as refused.
        in_flight_max: u32,
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

/// Requests for pages of a web server, and what counts as an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpBench {
    /// How requests arrive.
    pub load: BenchLoad,
    /// What is asked for; at least one.
    pub paths: Vec<HttpPath>,
    /// What each request says beside its path, as `accept-encoding`; `host` is the instance's address where it is not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The status that a right answer has.
    #[serde(default = "ok", skip_serializing_if = "is_ok")]
    pub expect_status: u16,
    /// The longest body that is read, in bytes; a longer one is an error.
    #[serde(default = "body_bytes_max", skip_serializing_if = "is_body_bytes_max")]
    pub body_bytes_max: u64,
    /// Whether a connection is used for more than one request.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub keep_alive: bool,
    /// What is thrown away at the start, in seconds.
    pub warmup_s: f64,
    /// The window that counts, in seconds.
    pub window_s: f64,
    /// The latest end of an answer that makes a request a good one, in milliseconds; without it there is no goodput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo_ms: Option<f64>,
    /// When a request is given up, in seconds.
    pub request_timeout_s: f64,
}

/// Texts to be spoken by an OpenAI-style speech endpoint, `/v1/audio/speech`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechBench {
    /// How requests arrive.
    pub load: BenchLoad,
    /// Length of the texts; a token is four characters.
    pub input_tokens: TokenRange,
    /// The model that is named.
    pub model: String,
    /// The voice that is named.
    pub voice: String,
    /// How the sound is asked for.
    #[serde(default)]
    pub format: SoundFormat,
    /// How many samples of raw sound make a second.
    #[serde(default = "pcm_rate_hz", skip_serializing_if = "is_pcm_rate_hz")]
    pub pcm_rate_hz: u32,
    /// What is thrown away at the start, in seconds.
    pub warmup_s: f64,
    /// The window that counts, in seconds.
    pub window_s: f64,
    /// What makes a request a good one; without it there is no goodput.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<SpeechSlo>,
    /// When a request is given up, in seconds.
    pub request_timeout_s: f64,
}

/// How sound is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SoundFormat {
    /// With a head that says how fast it is played.
    #[default]
    Wav,
    /// Samples of 16 bits of one channel, and nothing else.
    Pcm,
}

/// What makes a spoken text a good one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeechSlo {
    /// Latest first sample, in milliseconds.
    pub first_byte_ms: f64,
    /// Latest last byte, in milliseconds.
    pub e2e_ms: f64,
}

/// As the endpoint of `OpenAI` sends it.
fn pcm_rate_hz() -> u32 {
    24_000
}

fn is_pcm_rate_hz<T: PartialEq<u32>>(rate_hz: &T) -> bool {
    *rate_hz == pcm_rate_hz()
}

/// What a service counts itself, in the text format of Prometheus, while its users are at it: no load is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusBench {
    /// Where its metrics are.
    #[serde(default = "metrics_path", skip_serializing_if = "is_metrics_path")]
    pub path: String,
    /// The port of what exports them, on this machine; that of the service where it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is made of them, by the name of the domain's metric; at least one.
    pub series: BTreeMap<String, PrometheusSeries>,
    /// With fewer events than so many in the window of anything that is asked for, the run is void.
    #[serde(default = "events_min", skip_serializing_if = "is_events_min")]
    pub events_min: u32,
    /// What is thrown away at the start, in seconds.
    pub warmup_s: f64,
    /// The window that counts, in seconds.
    pub window_s: f64,
}

/// A metric of a service, and what is made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusSeries {
    /// The name that the service gives it, a histogram's without `_bucket`.
    pub of: String,
    /// What is made of it.
    pub take: PrometheusTake,
    /// Which of its label sets count: those that have all of these. All where it is empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the value is multiplied by, as 1000 for milliseconds.
    #[serde(default = "unscaled", skip_serializing_if = "is_unscaled")]
    pub scale: f64,
}

/// What is made of a metric over the window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrometheusTake {
    /// How much a counter grows in a second.
    Rate,
    /// How much a counter grows, as a share of what this one grows by with all its label sets.
    ShareOf(String),
    /// The quantile of what a histogram newly observes, from 0 to 1, interpolated as Prometheus does.
    Quantile(f64),
    /// The mean of what a summary or a histogram newly observes: what its `_sum` grows by, for each of its `_count`.
    Mean,
    /// The mean of a gauge over the window, summed over its label sets.
    Level,
}

fn metrics_path() -> String {
    "/metrics".to_owned()
}

fn is_metrics_path(path: &str) -> bool {
    path == metrics_path()
}

fn events_min() -> u32 {
    20
}

fn is_events_min<T: PartialEq<u32>>(count: &T) -> bool {
    *count == events_min()
}

fn unscaled() -> f64 {
    1.0
}

fn is_unscaled<T: PartialEq<f64>>(scale: &T) -> bool {
    *scale == unscaled()
}

/// A page, and how often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpPath {
    /// Path and query.
    pub path: String,
    /// Its share of the requests, relative to the others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
}

fn ok() -> u16 {
    200
}

fn is_ok<T: PartialEq<u16>>(status: &T) -> bool {
    *status == ok()
}

fn body_bytes_max() -> u64 {
    16 << 20
}

fn is_body_bytes_max<T: PartialEq<u64>>(bytes: &T) -> bool {
    *bytes == body_bytes_max()
}

fn yes() -> bool {
    true
}

fn is_yes<T: PartialEq<bool>>(flag: &T) -> bool {
    *flag == yes()
}

fn one() -> u32 {
    1
}

fn is_one<T: PartialEq<u32>>(weight: &T) -> bool {
    *weight == one()
}

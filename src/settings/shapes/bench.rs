//! How a configuration is measured.

use super::{
    COUNT, FLAG, Field, HTTP_PATH, MILLISECONDS, SECONDS, SECONDS_OR_NONE, SHARE, Shape, TEXT, WHOLE_SECONDS,
    argument_with, name, plain_text, service::prometheus_name,
};

/// What a connection of the bench itself needs to say, which no file may say otherwise.
const OWN_HEADERS: [&str; 6] = ["connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"];

pub(super) const BENCH: Shape = Shape::Tagged {
    tag: "kind",
    kinds: &[
        (
            "openai_chat",
            &[
                Field::required("load", &LOAD),
                Field::required("prompt_tokens", &TOKENS),
                Field::required("output_tokens", &TOKENS),
                Field::required("warmup_s", &SECONDS_OR_NONE),
                Field::required("window_s", &SECONDS),
                Field::required("slo", &SLO),
                Field::required("request_timeout_s", &SECONDS),
                Field::optional("requests", &Shape::Text(whole_path)),
            ],
        ),
        (
            "http",
            &[
                Field::required("load", &LOAD),
                Field::required("paths", &Shape::List { each: &PATH, least: 1 }),
                Field::optional("headers", &Shape::Map { names: header_name, each: &Shape::Text(header_value) }),
                Field::optional("expect_status", &Shape::Whole { least: 200, most: 599 }),
                Field::optional("body_bytes_max", &Shape::Whole { least: 1, most: 1 << 34 }),
                Field::optional("keep_alive", &FLAG),
                Field::required("warmup_s", &SECONDS_OR_NONE),
                Field::required("window_s", &SECONDS),
                Field::optional("slo_ms", &MILLISECONDS),
                Field::required("request_timeout_s", &SECONDS),
            ],
        ),
        (
            "openai_speech",
            &[
                Field::required("load", &LOAD),
                Field::required("input_tokens", &TOKENS),
                Field::required("model", &TEXT),
                Field::required("voice", &TEXT),
                Field::optional("format", &Shape::Words(&[("wav", None), ("pcm", None)])),
                Field::optional("pcm_rate_hz", &Shape::Whole { least: 1000, most: 1_000_000 }),
                Field::required("warmup_s", &SECONDS_OR_NONE),
                Field::required("window_s", &SECONDS),
                Field::optional("slo", &SPEECH_SLO),
                Field::required("request_timeout_s", &SECONDS),
            ],
        ),
        (
            "prometheus",
            &[
                Field::optional("path", &HTTP_PATH),
                Field::optional("port", &Shape::Whole { least: 1, most: u16::MAX as i64 }),
                Field::required("series", &Shape::Map { names: name, each: &SERIES }),
                Field::optional("events_min", &COUNT),
                Field::required("warmup_s", &SECONDS_OR_NONE),
                Field::required("window_s", &SECONDS),
            ],
        ),
        (
            "command",
            &[
                Field::required("argv", &Shape::List { each: &Shape::Text(bench_argument), least: 1 }),
                Field::required("timeout_s", &WHOLE_SECONDS),
            ],
        ),
    ],
};

const PROMETHEUS_NAME: Shape = Shape::Text(prometheus_name);

const SERIES: Shape = Shape::Table(&[
    Field::required("of", &PROMETHEUS_NAME),
    Field::required(
        "take",
        &Shape::Words(&[
            ("rate", None),
            ("share_of", Some(&PROMETHEUS_NAME)),
            ("quantile", Some(&SHARE)),
            ("mean", None),
            ("level", None),
        ]),
    ),
    Field::optional("labels", &Shape::Map { names: label_name, each: &Shape::Text(plain_text) }),
    Field::optional("scale", &Shape::Number { least: 1e-12, most: 1e12 }),
]);

const LOAD: Shape = Shape::Words(&[
    ("closed", Some(&Shape::Table(&[Field::required("clients", &Shape::Whole { least: 1, most: 10_000 })]))),
    ("constant", Some(&OPEN)),
    ("poisson", Some(&OPEN)),
]);

const OPEN: Shape = Shape::Table(&[
    Field::required("rate_per_s", &Shape::Number { least: 0.001, most: 100_000.0 }),
    Field::required("in_flight_max", &Shape::Whole { least: 1, most: 10_000 }),
]);

const PATH: Shape = Shape::Table(&[Field::required("path", &HTTP_PATH), Field::optional("weight", &COUNT)]);

const TOKENS: Shape = Shape::Table(&[Field::required("min", &COUNT), Field::required("max", &COUNT)]);

const SLO: Shape = Shape::Table(&[Field::required("ttft_ms", &MILLISECONDS), Field::required("e2e_ms", &MILLISECONDS)]);

const SPEECH_SLO: Shape =
    Shape::Table(&[Field::required("first_byte_ms", &MILLISECONDS), Field::required("e2e_ms", &MILLISECONDS)]);

fn bench_argument(argument: &str) -> Option<String> {
    argument_with(argument, &["url", "port", "seed"])
}

/// Refuses what Prometheus would not take for the name of a label, and the label that says where a bucket ends.
fn label_name(name: &str) -> Option<String> {
    let plain = |each: u8| each.is_ascii_alphanumeric() || each == b'_';
    let is_one = !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name.bytes().all(plain);
    if !is_one || name.len() > 64 {
        return Some(format!("{name:?} is no name of a label: use letters, digits and underscores"));
    }
    (name == "le").then(|| "le says where a bucket of a histogram ends: leave it out".to_owned())
}

fn header_name(name: &str) -> Option<String> {
    let plain = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|each| each.is_ascii_lowercase() || each.is_ascii_digit() || each == b'-');
    if !plain {
        return Some(format!("{name:?} is no header: write it in lowercase letters, digits and hyphens"));
    }
    OWN_HEADERS.contains(&name).then(|| format!("{name} is said by the connection itself: leave it out"))
}

fn header_value(value: &str) -> Option<String> {
    plain_text(value).or_else(|| (!value.is_ascii()).then(|| format!("{value:?} is not ASCII, as headers are")))
}

/// Refuses a path that would mean another file in another folder.
fn whole_path(path: &str) -> Option<String> {
    let is_whole = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    plain_text(path).or_else(|| (!is_whole).then(|| format!("{path:?} is no whole path: write one that begins with /")))
}

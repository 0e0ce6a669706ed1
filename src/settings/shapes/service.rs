//! Who runs a service, when it is ready, how it says what it runs with, and what it needs.

use super::{
    FLAG, Field, HTTP_PATH, Shape, WHOLE_SECONDS, argument_with, metric_name, plain_argument, plain_text, text,
};

/// More cores and memory than any machine has, to find a wrong unit.
const CORES_MAX: f64 = 65_536.0;
const MEBIBYTES_MAX: f64 = 1e8;

pub(super) const READ_BACK: Shape =
    Shape::Words(&[("http_json", Some(&HTTP_PATH)), ("proc_environ", None), ("command", Some(&ASKING))]);

/// A program that is asked about the instance on a port.
const ASKING: Shape = Shape::List { each: &Shape::Text(asking_argument), least: 1 };

pub(super) const MANAGER: Shape = Shape::Words(&[
    ("child", None),
    (
        "command",
        Some(&Shape::Table(&[Field::required(
            "restart",
            &Shape::List { each: &Shape::Text(plain_argument), least: 1 },
        )])),
    ),
    (
        "systemd",
        Some(&Shape::Table(&[
            Field::required("unit", &Shape::Text(unit_name)),
            Field::optional("scope", &Shape::Words(&[("system", None), ("user", None)])),
        ])),
    ),
]);

pub(super) const NEEDS: Shape = Shape::Table(&[
    Field::optional("cores", &Shape::Number { least: 0.0, most: CORES_MAX }),
    Field::optional("memory_mib", &Shape::Number { least: 0.0, most: MEBIBYTES_MAX }),
    Field::optional("gpu_memory_mib", &Shape::Number { least: 0.0, most: MEBIBYTES_MAX }),
]);

pub(super) const TAKES: Shape = Shape::Table(&[
    Field::optional("memory_mib", &Shape::Number { least: 0.0, most: MEBIBYTES_MAX }),
    Field::optional("gpu_memory_mib", &Shape::Number { least: 0.0, most: MEBIBYTES_MAX }),
    Field::optional("gpu_memory_share", &Shape::Number { least: 0.0, most: 1.0 }),
]);

pub(super) const READY: Shape = Shape::Table(&[
    Field::optional("http_path", &HTTP_PATH),
    Field::optional("tcp", &FLAG),
    Field::optional("command", &ASKING),
    Field::optional("notify", &FLAG),
    Field::optional("log_line", &Shape::Text(log_line)),
    Field::required("within_s", &WHOLE_SECONDS),
    Field::optional("passes", &Shape::Whole { least: 1, most: 100 }),
    Field::optional("bake_s", &Shape::Number { least: 0.0, most: 3600.0 }),
]);

/// Refuses what Prometheus would not take for the name of a metric.
pub(super) fn prometheus_name(name: &str) -> Option<String> {
    let plain = |each: u8| each.is_ascii_alphanumeric() || each == b'_' || each == b':';
    let starts_well = !name.starts_with(|first: char| first.is_ascii_digit());
    metric_name(name).or_else(|| {
        (!starts_well || !name.bytes().all(plain)).then(|| {
            format!("{name:?} is no name of a metric: use letters, digits, underscores and colons, and no labels")
        })
    })
}

fn asking_argument(argument: &str) -> Option<String> {
    argument_with(argument, &["port"])
}

/// The longest name of a unit, as systemd has it, in bytes.
const UNIT_BYTES_MAX: usize = 255;

/// Refuses what is not the exact name of one service of systemd.
fn unit_name(name: &str) -> Option<String> {
    let fits = |each: u8| each.is_ascii_alphanumeric() || b":_.\\@-".contains(&each);
    let stem = name.strip_suffix(".service").unwrap_or_default();
    if stem.is_empty() || stem.starts_with(['.', '@', '-']) {
        return Some(format!("{name:?} is no service of systemd: write its exact name, as in \"vllm.service\""));
    }
    if stem.ends_with('@') {
        return Some(format!("{name:?} is a template: name the instance, as in \"{stem}a.service\""));
    }
    if !name.bytes().all(fits) || stem.matches('@').count() > 1 || name.len() > UNIT_BYTES_MAX {
        return Some(format!("{name:?} is not the exact name of one unit: no pattern, path or list is taken"));
    }
    None
}

/// Refuses what no line could hold.
fn log_line(line: &str) -> Option<String> {
    text(line)
        .or_else(|| plain_text(line))
        .or_else(|| (line.len() > 256).then(|| "is longer than 256 bytes".to_owned()))
}

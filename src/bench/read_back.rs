//! What an instance says it runs with, and whether that is what it was given.

use std::{collections::BTreeMap, time::Duration};

use kloros_actors::facts::{Domain, Key, Knob, ReadBack, Settings, Value};

use crate::process::http_client;

/// How long the whole answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How far two numbers may differ and still be the same setting: services keep theirs in single precision too.
const TOLERANCE_RATIO: f64 = 1e-6;

/// Returns the allow-listed values that the instance with this address and process id runs with, or why they cannot be
/// learned.
pub(super) async fn in_effect(domain: &Domain, url: &str, pid: u32) -> Result<BTreeMap<String, String>, String> {
    let all = match &domain.service.read_back {
        ReadBack::HttpJson(path) => {
            let url = format!("{url}{path}");
            answer(&url).await.and_then(|body| scalars(&body)).map_err(|problem| format!("{url}: {problem}"))?
        }
        ReadBack::ProcEnviron => {
            let path = format!("/proc/{pid}/environ");
            variables(&tokio::fs::read(&path).await.map_err(|error| format!("{path}: {error}"))?)
        }
    };
    Ok(all.into_iter().filter(|(name, _)| domain.knobs.keys().any(|key| key.as_str() == name)).collect())
}

/// Returns the first of `wanted` that `found` does not hold, in words; numbers are compared by value.
pub(super) fn first_difference(
    knobs: &BTreeMap<Key, Knob>,
    wanted: &Settings,
    found: &BTreeMap<String, String>,
) -> Option<String> {
    wanted.iter().find_map(|(key, value)| match found.get(key.as_str()) {
        None => Some(format!("{key} was set to {value} and is not among the values in effect")),
        Some(text) if is_same(knobs.get(key), value, text) => None,
        Some(text) => Some(format!("{key} was set to {value} and is {text:?} in effect")),
    })
}

fn is_same(knob: Option<&Knob>, wanted: &Value, found: &str) -> bool {
    let found = found.trim();
    if wanted.to_string() == found {
        return true;
    }
    let parsed = knob.and_then(|knob| knob.range.parse(found));
    let number = parsed.as_ref().map_or_else(|| found.parse().ok(), Value::as_number);
    match (wanted, number) {
        (Value::Choice(_), _) | (_, None) => false,
        (Value::Boolean(_) | Value::Integer(_), Some(number)) => wanted.as_number() == Some(number),
        (Value::Float(wanted), Some(number)) => {
            (wanted - number).abs() <= TOLERANCE_RATIO * wanted.abs().max(number.abs())
        }
    }
}

async fn answer(url: &str) -> Result<Vec<u8>, String> {
    let problem = |error: reqwest::Error| error.to_string();
    let client = http_client(ANSWER_MAX).map_err(problem)?;
    let mut response = client.get(url).send().await.map_err(problem)?.error_for_status().map_err(problem)?;
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(problem)? {
        body.extend_from_slice(&bytes);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
        }
    }
    Ok(body)
}

/// Returns the texts, numbers and booleans at the top of a JSON object; what is nested is no setting.
fn scalars(body: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(|error| format!("the answer is no JSON object: {error}"))?;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(value) => Some(value.to_string()),
        _ => None,
    };
    Ok(object.into_iter().filter_map(|(name, value)| Some((name, text(value)?))).collect())
}

fn variables(environ: &[u8]) -> BTreeMap<String, String> {
    let pairs = environ.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    pairs.filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use kloros_actors::facts::{Apply, KnobKind};

    use super::*;

    fn knob(range: KnobKind, default: Value) -> Knob {
        Knob { range, default, apply: Apply::Restart, step_max: None, reversible: true }
    }

    #[track_caller]
    fn check(wanted: &Value, found: &str, same: bool) {
        let range = match wanted {
            Value::Boolean(_) => KnobKind::Boolean,
            Value::Integer(_) => KnobKind::Integer { min: 0, max: 1 << 60, log: false },
            Value::Float(_) => KnobKind::Float { min: 0.0, max: 1e9, log: false },
            Value::Choice(_) => KnobKind::Choice { values: vec!["fp8".to_owned(), "auto".to_owned(), "1".to_owned()] },
        };
        let knobs = BTreeMap::from([(Key::new("K").unwrap(), knob(range, wanted.clone()))]);
        let settings = Settings::from([(Key::new("K").unwrap(), wanted.clone())]);
        let found = BTreeMap::from([("K".to_owned(), found.to_owned())]);
        assert_eq!(first_difference(&knobs, &settings, &found).is_none(), same, "{wanted:?} and {found:?}");
    }

    #[test]
    fn values_are_the_same_by_meaning_not_by_letter() {
        check(&Value::Integer(8), "8", true);
        check(&Value::Integer(8), " 8.0 ", true);
        check(&Value::Integer(8), "9", false);
        check(&Value::Integer(8), "8 slots", false);
        check(&Value::Float(0.9), "0.90", true);
        check(&Value::Float(0.9), "9e-1", true);
        check(&Value::Float(0.9), &0.9_f32.to_string(), true);
        check(&Value::Float(0.9), &f64::from(0.9_f32).to_string(), true);
        check(&Value::Float(0.9), "0.91", false);
        check(&Value::Float(0.0), "0", true);
        check(&Value::Float(0.0), "NaN", false);
        check(&Value::Boolean(true), "1", true);
        check(&Value::Boolean(true), "false", false);
        check(&Value::Choice("fp8".to_owned()), "fp8", true);
        check(&Value::Choice("fp8".to_owned()), "auto", false);
        check(&Value::Choice("1".to_owned()), "1.0", false);
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let settings = Settings::from([(Key::new("LAB_SLOTS").unwrap(), Value::Integer(8))]);
        let difference = first_difference(&BTreeMap::new(), &settings, &BTreeMap::new()).unwrap();
        assert!(difference.contains("LAB_SLOTS was set to 8"), "{difference}");
    }

    #[test]
    fn only_the_top_of_the_object_holds_settings() {
        let body = br#"{"A": "x", "B": 1, "C": 0.5, "D": true, "E": null, "F": {"A": 1}, "G": [1]}"#;
        let expected = [("A", "x"), ("B", "1"), ("C", "0.5"), ("D", "true")];
        assert_eq!(scalars(body).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for body in [&b"[]"[..], b"", b"7", b"{\"A\": "] {
            assert!(scalars(body).is_err());
        }
    }

    #[test]
    fn the_environment_of_a_process_is_taken_apart_at_the_zero_bytes() {
        let found = variables(b"A=1\0B=x=y\0broken\0C=\0");
        let expected = [("A", "1"), ("B", "x=y"), ("C", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}

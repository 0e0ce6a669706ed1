//! What an instance says it runs with, and whether that is what it was given.

use std::{collections::BTreeMap, time::Duration};

use kloros_actors::facts::{Domain, ReadBack};

use crate::process::http_client;

/// How long the whole answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

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
    use super::*;

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

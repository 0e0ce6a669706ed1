//! What an instance says it runs with: the answer to a question, or the environment of its process.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::timeout;

use super::{Instance, Launch, Remains, Secrets, fill, http_client};

/// How long the whole answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The longest text of a value that is looked at, in bytes: no knob has a longer one.
const VALUE_BYTES_MAX: usize = 256;

/// Returns the texts, numbers and booleans at the top of the JSON object that `url` answers with, or why there are none.
/// What is nested is no setting.
pub(crate) async fn ask(url: &str) -> Result<BTreeMap<String, String>, String> {
    body(url).await.and_then(|body| scalars(&body)).map_err(|problem| format!("{url}: {problem}"))
}

/// Returns the texts, numbers and booleans at the top of the JSON object that a program prints, or why there are none. What it
/// says beside that is not told: it may hold secrets.
pub(crate) async fn told(argv: &[String], port: u16) -> Result<BTreeMap<String, String>, String> {
    let program = argv.first().map_or("", String::as_str);
    let argv = fill(argv, &[("port", &port.to_string())]).map_err(|error| error.to_string())?;
    let launch = Launch { argv, env: Vec::new(), nice: 0, secrets: Secrets::all(), remains: Remains::Killed };
    let mut command = Instance::spawn(launch).await.map_err(|error| error.to_string())?;
    // One that is late is killed with all that it started, when it is dropped.
    match timeout(ANSWER_MAX, command.exited()).await {
        Err(_) => Err(format!("`{program}` did not end within {} s", ANSWER_MAX.as_secs())),
        Ok(status) if !status.success() => Err(format!("`{program}` ended with {status}")),
        Ok(_) => scalars(command.stdout().as_bytes()).map_err(|problem| format!("`{program}`: {problem}")),
    }
}

/// Returns what a service `said` of its knobs, as it may be shown: what no knob could hold may be anything, a secret among
/// it.
pub(crate) fn shown(
    said: BTreeMap<String, String>,
    could_hold: impl Fn(&str, &str) -> bool,
    secrets: &Secrets,
) -> BTreeMap<String, String> {
    let shown = |(name, text): (String, String)| {
        let text = if could_hold(&name, &text) { text } else { secrets.hide(&text) };
        (name, text)
    };
    said.into_iter().map(shown).collect()
}

/// Returns the environment that the process with this id was started with, or why it cannot be read.
pub(crate) async fn environment(pid: u32) -> Result<BTreeMap<String, String>, String> {
    let path = format!("/proc/{pid}/environ");
    Ok(variables(&tokio::fs::read(&path).await.map_err(|error| format!("{path}: {error}"))?))
}

/// Returns the whole answer of `url`, if it is one of success and not too large.
pub(super) async fn body(url: &str) -> Result<Vec<u8>, String> {
    let problem = |error: reqwest::Error| error.without_url().to_string();
    let client = http_client(ANSWER_MAX).map_err(problem)?;
    let mut response = client.get(url).send().await.map_err(problem)?.error_for_status().map_err(problem)?;
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(problem)? {
        body.extend_from_slice(&bytes);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(format!("its answer is larger than {ANSWER_BYTES_MAX} bytes"));
        }
    }
    Ok(body)
}

fn scalars(body: &[u8]) -> Result<BTreeMap<String, String>, String> {
    // What the parser says may quote the answer, which may hold secrets.
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is no JSON object of keys and values (line {})", error.line()))?;
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        serde_json::Value::Bool(value) => Some(value.to_string()),
        _ => None,
    };
    Ok(object.into_iter().filter_map(|(name, value)| Some((name, text(value).map(bounded)?))).collect())
}

fn variables(environ: &[u8]) -> BTreeMap<String, String> {
    let pairs = environ.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    pairs
        .filter_map(|pair| pair.split_once('=').map(|(name, value)| (name.to_owned(), bounded(value.to_owned()))))
        .collect()
}

fn bounded(mut value: String) -> String {
    let end = (0..=VALUE_BYTES_MAX.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    value.truncate(end);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_knob_could_hold_is_shown_without_secrets() {
        let secrets = Secrets::of(["16384".to_owned(), "hunter22".to_owned()]);
        let said = [("SEQS", "16384"), ("WAIT", "hunter22")].map(|(name, text)| (name.to_owned(), text.to_owned()));
        let shown = shown(said.into(), |_, text| text.parse::<u32>().is_ok(), &secrets);
        assert_eq!((shown["SEQS"].as_str(), shown["WAIT"].as_str()), ("16384", "***"));
    }

    #[test]
    fn only_the_top_of_the_object_holds_settings() {
        let body = br#"{"A": "x", "B": 1, "C": 0.5, "D": true, "E": null, "F": {"A": 1}, "G": [1]}"#;
        let expected = [("A", "x"), ("B", "1"), ("C", "0.5"), ("D", "true")];
        assert_eq!(scalars(body).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        for body in [&b"[]"[..], b"", b"7", b"{\"A\": ", b"\"hunter22\""] {
            let problem = scalars(body).unwrap_err();
            assert!(!problem.contains("hunter22"), "{problem}");
        }
    }

    #[test]
    fn the_environment_of_a_process_is_taken_apart_at_the_zero_bytes() {
        let found = variables(b"A=1\0B=x=y\0broken\0C=\0");
        let expected = [("A", "1"), ("B", "x=y"), ("C", "")];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(variables("A=äää".repeat(100).as_bytes())["A"].len(), VALUE_BYTES_MAX);
    }
}

//! What the observer has learned, as it is written down.
//!
//! A line that names it and the moment, the hash of the rest, and the rest as JSON. What was cut off or changed is found by the
//! hash and not gone on with.

use sha2::{Digest as _, Sha256};

use super::watch::Watch;

/// The first words of what is written down; another number where it cannot be read by this version.
const HEAD: &str = "kloros observer 2";

/// The largest text that is read, in bytes: the most series by what one takes, twice over.
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Returns what is watched as it is written down at `now_ms`; `None` where it cannot be.
pub fn encode(watch: &Watch, now_ms: u64) -> Option<Vec<u8>> {
    let body = serde_json::to_string(watch).ok()?;
    Some(format!("{HEAD} {now_ms}\n{}\n{body}", hash(now_ms, &body)).into_bytes())
}

/// Returns what was written down and when, in milliseconds since the Unix epoch; or why it cannot be gone on with.
pub fn decode(bytes: &[u8]) -> Result<(Watch, u64), String> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(format!("it is larger than {TEXT_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let (head, rest) = text.split_once('\n').ok_or("it is cut off")?;
    let at = head.strip_prefix(HEAD).ok_or("it was written by another version")?;
    let at_ms: u64 = at.trim().parse().map_err(|_| "it does not say from when it is".to_owned())?;
    let (written, body) = rest.split_once('\n').ok_or("it is cut off")?;
    if written != hash(at_ms, body) {
        return Err("it is damaged: its hash is another one".to_owned());
    }
    let watch = serde_json::from_str(body).map_err(|error| error.to_string())?;
    Ok((watch, at_ms))
}

fn hash(at_ms: u64, body: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(at_ms.to_le_bytes());
    hasher.update(body);
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

//! Speaks HTTP by hand, so that a test can say what no honest client says.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use super::super::house::PATIENCE;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }
}

/// Sends one request with these headers and returns the answer; `host` is what it asks for by name.
pub(crate) fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    let ours = format!("127.0.0.1:{port}");
    let named = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    for (name, value) in headers.iter().copied().chain((!named).then_some(("host", ours.as_str()))) {
        text.extend([format!("{name}: {value}\r\n")]);
    }
    if method == "POST" {
        text.extend([format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())]);
    }
    // A daemon that has refused already may have closed its side.
    stream.write_all(format!("{text}\r\n{body}").as_bytes()).ok();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let answer = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

fn unchunked(body: &str) -> String {
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else { break };
        whole += chunk;
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

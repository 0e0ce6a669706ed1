//! A small model server for tests: it says what it is told to say.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// How long it thinks before each piece.
const PIECE_AFTER: Duration = Duration::from_millis(5);

/// A model server. What it was asked is remembered.
#[derive(Clone, Default)]
pub(crate) struct Upstream {
    asked: Arc<Mutex<Vec<Value>>>,
    held: Arc<Notify>,
}

impl Upstream {
    /// Starts one and returns where.
    pub(crate) async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route(
                "/v1/models",
                get(async || Json(json!({"object": "list", "data": [{"id": "echo", "object": "model"}]}))),
            )
            .route("/v1/chat/completions", post(complete))
            .with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    /// Waits until it was asked so often.
    pub(crate) async fn until_asked(&self, count: usize) {
        let deadline = std::time::Instant::now() + Duration::from_secs(300);
        while self.asked.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
            assert!(std::time::Instant::now() < deadline, "it was asked less often");
            tokio::task::yield_now().await;
        }
    }

    /// Answers what it holds.
    pub(crate) fn release(&self) {
        self.held.notify_one();
    }

    /// Returns the requests so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many words a long answer has.
const WORDS: u64 = 200;

/// Returns what is answered to `text`: an echo, after what a talk says in two hundred words of which no two answers have the same.
pub(crate) fn answer(text: &str) -> String {
    if !text.starts_with("talk-") {
        return format!("You said: {text}");
    }
    let mut seed = text.bytes().fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut word = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let syllable = |at: u32| ["ba", "ke", "li", "mo", "nu", "ra", "so", "ti"][(seed >> at) as usize % 8];
        format!(" {}{}{}", syllable(40), syllable(47), syllable(54))
    };
    (0..WORDS).fold(format!("You said: {text}."), |answer, _| answer + &word())
}

/// What it says is in the last message: `fail`, `slow`, `hold` until it is released, `break`, `spoil`, else an echo of it.
async fn complete(State(upstream): State<Upstream>, Json(body): Json<Value>) -> Response {
    let last =
        body["messages"].as_array().and_then(|all| all.last()).map_or(Value::Null, |last| last["content"].clone());
    let text = last.as_str().unwrap_or_default().to_owned();
    let streams = body["stream"] == true;
    upstream.asked.lock().unwrap_or_else(PoisonError::into_inner).push(body);
    if text.starts_with("fail") {
        let error = json!({"error": {"message": "out of memory", "type": "server_error", "code": "oom"}});
        return (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response();
    }
    if text.starts_with("plain") {
        return (StatusCode::BAD_REQUEST, "no such thing").into_response();
    }
    if text.starts_with("slow") {
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    if text.starts_with("hold") {
        upstream.held.notified().await;
    }
    let answer = answer(&text);
    if !streams {
        let choice = json!({"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"});
        return Json(json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "echo",
            "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}}))
        .into_response();
    }
    let piece = |delta: Value, end: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": end});
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "echo", "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    // Only the first words come one by one: a long answer need not take long.
    let mut words: Vec<String> = answer.split_inclusive(' ').map(str::to_owned).collect();
    let rest = words.split_off(words.len().min(10)).concat();
    words.extend((!rest.is_empty()).then_some(rest));
    let mut pieces: Vec<String> =
        words.into_iter().map(|words| piece(json!({"content": words}), Value::Null)).collect();
    if text.starts_with("break") {
        pieces.truncate(2);
    } else if text.starts_with("spoil") {
        pieces.truncate(2);
        pieces.push("data: {\"error\": {\"message\": \"out of memory\"}}\n\ndata: [DONE]\n\n".to_owned());
    } else {
        pieces.push(piece(json!({}), json!("stop")));
        pieces.push("data: [DONE]\n\n".to_owned());
    }
    let pieces = stream::unfold(pieces.into_iter(), async |mut pieces| {
        let piece = pieces.next()?;
        tokio::time::sleep(PIECE_AFTER).await;
        Some((Ok::<_, std::io::Error>(piece), pieces))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

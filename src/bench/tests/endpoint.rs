//! A chat endpoint that behaves as its first path segment says.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

/// An endpoint that runs until the test ends.
pub(super) struct Fake {
    address: String,
    /// The bodies of the requests, in the order in which they came.
    pub(super) requests: Arc<Mutex<Vec<Value>>>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new()
            .route("/{behaviour}/v1/models", get(|| async { Json(json!({"data": [{"id": "tiny"}]})) }))
            .route("/{behaviour}/v1/chat/completions", post(complete))
            .with_state(Arc::clone(&requests));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, requests }
    }

    pub(super) fn url(&self, behaviour: &str) -> String {
        format!("http://{}/{behaviour}", self.address)
    }
}

async fn complete(
    Path(behaviour): Path<String>,
    State(requests): State<Arc<Mutex<Vec<Value>>>>,
    Json(request): Json<Value>,
) -> Response {
    let tokens = request["max_tokens"].as_u64().unwrap();
    assert_eq!(request["model"], "tiny");
    requests.lock().unwrap().push(request);
    match behaviour.as_str() {
        "ok" => streamed(tokens),
        "busy" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "mute" => std::future::pending().await,
        "hang" => {
            Body::from_stream(stream::iter([Ok::<_, Infallible>(token())]).chain(stream::pending())).into_response()
        }
        "cut" => {
            let parts = [Ok(token()), Err(io::Error::other("cut"))];
            Body::from_stream(stream::iter(parts)).into_response()
        }
        "short" => Body::from_stream(stream::iter([Ok::<_, Infallible>(token())])).into_response(),
        "garbage" => Body::from("<html>It works!</html>\n\n").into_response(),
        other => panic!("no behaviour {other}"),
    }
}

/// A whole answer of so many tokens, a moment apart.
pub(super) fn streamed(tokens: u64) -> Response {
    let usage = format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": {"completion_tokens": tokens}}));
    let paced = stream::iter(0..tokens).then(|_| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok::<_, Infallible>(token())
    });
    Body::from_stream(paced.chain(stream::iter([Ok(Bytes::from(usage))]))).into_response()
}

fn token() -> Bytes {
    Bytes::from(format!("data: {}\n\n", json!({"choices": [{"delta": {"content": "word "}}]})))
}

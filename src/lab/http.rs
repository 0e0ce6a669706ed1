//! The HTTP side: routes, streams, and the life of the server.

use std::{
    convert::Infallible,
    env,
    future::Future,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response, Sse, sse},
    routing::{get, post},
};
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{interval, timeout},
};

use super::{
    LabError,
    chat::{self, Answer, ApiError},
    engine::{Engine, Event},
    knobs::Knobs,
    meters::{FinishReason, MODEL_NAME},
    tokenizer,
    weights::CONTEXT,
};

/// Largest request body in bytes; far more than the context holds.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// Time that open connections have to take their last bytes once the server stops.
const STOP_GRACE: Duration = Duration::from_millis(1500);
/// How often the server looks whether its engine is still there.
const ENGINE_WATCH: Duration = Duration::from_millis(250);

/// Where the lab listens and which settings it reads.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// File of `LAB_*` settings; it wins over the process environment
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub(crate) port: u16,
}

/// Serves until SIGTERM or SIGINT.
///
/// The first line on stdout is `listening on http://HOST:PORT`, once requests can be answered. Returns within two seconds of
/// the signal, or with an error if the settings cannot be used, the address is taken, or the engine dies.
pub(crate) async fn serve(args: ServeArgs) -> Result<(), LabError> {
    let mut terminated = listen_for(SignalKind::terminate())?;
    let mut interrupted = listen_for(SignalKind::interrupt())?;
    let server = Server::start(args).await?;
    let announced =
        writeln!(io::stdout(), "listening on http://{}", server.address()).and_then(|()| io::stdout().flush());
    announced.map_err(|source| LabError::Io { action: "write to stdout", source })?;
    server
        .run(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        })
        .await
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, LabError> {
    signal(kind).map_err(|source| LabError::Io { action: "listen for signals", source })
}

/// A server that holds its port and its memory and is ready to run.
pub(super) struct Server {
    listener: TcpListener,
    address: SocketAddr,
    lab: Arc<Lab>,
}

struct Lab {
    engine: Engine,
    knobs: Knobs,
    started: Duration,
}

impl Server {
    /// Loads the settings, starts the engine and takes the port.
    pub(super) async fn start(args: ServeArgs) -> Result<Self, LabError> {
        let knobs = Knobs::load(args.env_file.as_deref(), |key| env::var(key).ok())?;
        let started = unix_time();
        let settings = knobs.clone();
        let engine = tokio::task::spawn_blocking(move || Engine::start(&settings));
        let engine = engine.await.map_err(|_| LabError::EngineDied)??;
        let asked = SocketAddr::new(args.host, args.port);
        let refused = |source| LabError::Listen { address: asked.to_string(), source };
        let listener = TcpListener::bind(asked).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Server { listener, address, lab: Arc::new(Lab { engine, knobs, started }) })
    }

    /// Returns the address in use.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready or the engine dies.
    pub(super) async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), LabError> {
        let lab = Arc::clone(&self.lab);
        let (stopping, stopped) = tokio::sync::oneshot::channel();
        let shutdown = async move {
            tokio::select! {
                () = stop => {}
                () = engine_gone(&lab.engine) => {}
            }
            let died = lab.engine.has_ended();
            lab.engine.stop();
            // Nobody listens any more only if the server ended before it was asked to.
            let _ = stopping.send(died);
        };
        let serving = axum::serve(self.listener, router(self.lab)).with_graceful_shutdown(shutdown);
        let mut serving = std::pin::pin!(serving.into_future());
        let failed = |source| LabError::Io { action: "serve", source };
        let died = tokio::select! {
            ended = &mut serving => return ended.map_err(failed),
            died = stopped => died.unwrap_or(false),
        };
        if let Ok(ended) = timeout(STOP_GRACE, serving).await {
            ended.map_err(failed)?;
        }
        if died { Err(LabError::EngineDied) } else { Ok(()) }
    }
}

async fn engine_gone(engine: &Engine) {
    let mut watch = interval(ENGINE_WATCH);
    while !engine.has_ended() {
        watch.tick().await;
    }
}

fn router(lab: Arc<Lab>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/models", get(models))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/config", get(config))
        .fallback(async || ApiError::new(404, "not_found", "there is nothing at this address"))
        .method_not_allowed_fallback(async || ApiError::new(405, "method_not_allowed", "use another method here"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(lab)
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

async fn health(State(lab): State<Arc<Lab>>) -> Response {
    if lab.engine.is_healthy() {
        Json(json!({"status": "ok"})).into_response()
    } else {
        ApiError::new(503, "engine_stalled", "the engine gives no sign of life").into_response()
    }
}

async fn models(State(lab): State<Arc<Lab>>) -> Json<Value> {
    let model = json!({
        "id": MODEL_NAME, "object": "model", "created": lab.started.as_secs(), "owned_by": "kloros", "max_model_len": CONTEXT,
    });
    Json(json!({"object": "list", "data": [model]}))
}

async fn metrics(State(lab): State<Arc<Lab>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], lab.engine.meters().render())
}

/// The settings in effect, and which start of the server they belong to: `generation` grows with every start.
async fn config(State(lab): State<Arc<Lab>>) -> Json<Value> {
    let mut echo = json!(lab.knobs.values());
    echo["pid"] = json!(process::id());
    echo["started_at"] = json!(lab.started.as_secs_f64());
    echo["generation"] = json!(lab.started.as_micros() as u64);
    Json(echo)
}

async fn complete(State(lab): State<Arc<Lab>>, body: Result<Bytes, BytesRejection>) -> Result<Response, ApiError> {
    let body = body.map_err(|rejection| {
        let code =
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE { "body_too_large" } else { "invalid_request" };
        ApiError::new(rejection.status().as_u16(), code, rejection.body_text())
    })?;
    let chat = chat::parse(&body, fresh())?;
    let answer = Answer {
        id: format!("chatcmpl-{:016x}", fresh()),
        created: unix_time().as_secs(),
        prompt_tokens: chat.request.prompt.len(),
    };
    let events = lab.engine.submit(chat.request)?;
    if chat.stream {
        let pieces = Pieces { events, answer, tokens: 0, include_usage: chat.include_usage, stage: Stage::Tokens };
        return Ok(Sse::new(pieces.into_stream()).into_response());
    }
    whole(events, &answer).await
}

async fn whole(mut events: mpsc::Receiver<Event>, answer: &Answer) -> Result<Response, ApiError> {
    let (mut text, mut tokens) = (String::new(), 0);
    loop {
        match events.recv().await {
            Some(Event::Token(token)) => {
                text.push_str(&tokenizer::decode(token));
                tokens += 1;
            }
            Some(Event::End(FinishReason::Length)) => return Ok(Json(answer.whole(&text, tokens)).into_response()),
            Some(Event::End(FinishReason::Abort)) | None => return Err(aborted()),
        }
    }
}

fn aborted() -> ApiError {
    ApiError::new(503, "aborted", "the server stopped before the answer was complete")
}

enum Stage {
    Tokens,
    Mark,
    Over,
}

/// A streamed answer. Dropping it drops the receiver, by which the engine knows that nobody reads any more.
struct Pieces {
    events: mpsc::Receiver<Event>,
    answer: Answer,
    tokens: usize,
    include_usage: bool,
    stage: Stage,
}

impl Pieces {
    fn into_stream(self) -> impl Stream<Item = Result<sse::Event, Infallible>> {
        stream::unfold(self, async |mut pieces| {
            let data = pieces.next().await?;
            Some((Ok(sse::Event::default().data(data)), pieces))
        })
    }

    async fn next(&mut self) -> Option<String> {
        match self.stage {
            Stage::Tokens => {}
            Stage::Mark => {
                self.stage = Stage::Over;
                return Some("[DONE]".to_owned());
            }
            Stage::Over => return None,
        }
        let data = match self.events.recv().await {
            Some(Event::Token(token)) => {
                self.tokens += 1;
                self.answer.piece(&tokenizer::decode(token), self.tokens == 1)
            }
            Some(Event::End(FinishReason::Length)) => {
                self.stage = Stage::Mark;
                self.answer.last(self.include_usage.then_some(self.tokens))
            }
            Some(Event::End(FinishReason::Abort)) | None => {
                self.stage = Stage::Over;
                aborted().body()
            }
        };
        Some(data.to_string())
    }
}

#[allow(clippy::disallowed_methods, reason = "the lab is a service of its own and not under the daemon's clock")]
fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A number for what the client left open: the name of its answer, and the seed if it gave none.
#[allow(clippy::disallowed_methods, reason = "a client that wants the same answer again sends a seed")]
fn fresh() -> u64 {
    rand::random()
}

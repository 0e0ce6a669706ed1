use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest as _, Request, State},
    http::{StatusCode, uri::PathAndQuery},
    middleware,
    response::{IntoResponse as _, Response},
    routing::{any, get, post},
};
use kloros_actors::{
    facts::Talk,
    memory::{Config, Remembered, Voice, Wanted},
    meters,
    seams::Clock,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError},
    time::timeout,
};

use super::{
    EXPLAIN_HEADER, Signals,
    exchange::{Exchange, PATH, explanation},
    from_here,
    naming::{LOCAL, talk},
    refusal::Refusal,
    request::Asked,
    upstream::{Upstream, passed_on},
    used::AllUsed,
};
use crate::{api::accept, settings::Conversation};

/// How often it is looked at whether all requests are over.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The endpoint; clones are the same one.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(super) settings: Arc<Conversation>,
    pub(super) upstream: Upstream,
    pub(super) voice: Voice,
    pub(super) signals: Signals,
    pub(super) clock: Arc<dyn Clock>,
    slots: Arc<Semaphore>,
    /// When the last request was over, in milliseconds since the Unix epoch.
    over_ms: Arc<AtomicU64>,
    /// With what answers were asked for last.
    pub(super) used: AllUsed,
    /// How long a summary may be, in characters, as the memory last had it.
    pub(super) summary_chars_max: Arc<AtomicUsize>,
}

impl Endpoint {
    /// Returns the endpoint that these settings describe, or why there can be none.
    pub(crate) fn new(
        settings: &Conversation,
        voice: Voice,
        signals: Signals,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, reqwest::Error> {
        let upstream = Upstream::new(settings.upstream(), settings.timeout())?;
        let slots = Arc::new(Semaphore::new(settings.in_flight_max));
        let over_ms = Arc::new(AtomicU64::new(clock.now_ms()));
        let (settings, used) = (Arc::new(settings.clone()), AllUsed::default());
        let summary_chars_max = Arc::new(AtomicUsize::new(Config::default().summary_chars_max));
        Ok(Self { settings, upstream, voice, signals, clock, slots, over_ms, used, summary_chars_max })
    }

    /// Notes that a request is over.
    pub(super) fn left(&self) {
        self.over_ms.store(self.clock.now_ms(), Ordering::Relaxed);
        metrics::gauge!(meters::CONVERSATION_IN_FLIGHT).decrement(1.0);
    }

    /// Begins no request any more.
    pub(super) fn close(&self) {
        self.slots.close();
    }

    /// Returns whether all requests that are under way are over by then.
    pub(super) async fn is_over(&self, within: Duration) -> bool {
        let over = async {
            while self.slots.available_permits() < self.settings.in_flight_max {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        timeout(within, over).await.is_ok()
    }

    /// Returns when what was said so far is kept, or `within` so long.
    pub(super) async fn kept(&self, within: Duration) {
        // It is answered after all that was handed over before.
        let wanted = Wanted { talk: Talk::new("", LOCAL), asked: String::new(), given: Vec::new() };
        if let Err(silent) = self.voice.remember(wanted, within).await {
            tracing::warn!(%silent, "what was said last may not be kept");
        }
    }

    /// Says whether it takes requests.
    fn health(&self) -> Response {
        if self.slots.is_closed() {
            return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(json!({"status": "closing"}))).into_response();
        }
        axum::Json(json!({"status": "ok"})).into_response()
    }

    /// Returns whether nobody has asked for anything for as long as the settings say.
    pub(super) fn is_idle(&self) -> bool {
        let rests_ms = self.clock.now_ms().saturating_sub(self.over_ms.load(Ordering::Relaxed));
        self.slots.available_permits() == self.settings.in_flight_max && rests_ms >= self.settings.idle_s * 1000
    }

    /// Returns a place among the requests that are under way, and the body of this one. The place comes first: bodies that wait for
    /// one would fill the memory.
    async fn take(&self, request: Request) -> Result<(OwnedSemaphorePermit, Bytes), Refusal> {
        let settings = &self.settings;
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "closing",
                "this endpoint is being closed; try again soon",
            ),
            TryAcquireError::NoPermits => {
                let message = format!("{} requests are under way already; try again later", settings.in_flight_max);
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", message)
            }
        })?;
        match timeout(self.upstream.within, Bytes::from_request(request, &())).await {
            Ok(Ok(body)) => Ok((slot, body)),
            Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("the request is larger than {} bytes", settings.body_bytes_max);
                Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message))
            }
            Ok(Err(_)) => Err(Refusal::invalid("the request broke off")),
            Err(_) => {
                let message = format!("the request was not there within {} s", settings.timeout_s);
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
            }
        }
    }

    /// Returns what is remembered; nothing, and that is counted, when the memory is down or late.
    async fn remember(&self, wanted: Wanted) -> Option<Arc<Remembered>> {
        let within = Duration::from_millis(self.settings.memory_within_ms);
        match self.voice.remember(wanted, within).await {
            Ok(remembered) => {
                self.summary_chars_max.store(remembered.config.summary_chars_max, Ordering::Relaxed);
                Some(Arc::new(remembered))
            }
            Err(silent) => {
                metrics::counter!(meters::CONVERSATION_FORGETFUL_TOTAL).increment(1);
                tracing::warn!(%silent, "request goes on without memory");
                None
            }
        }
    }
}

/// Serves on `address` until it fails.
pub(crate) async fn serve(address: SocketAddr, endpoint: Endpoint) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} for conversations: {error}"))?;
    accepting(&listener, address, endpoint, Router::new()).await
}

/// Serves on what listens at `address`, and `beside` what else is to be reached there.
pub(super) async fn accepting(
    listener: &TcpListener,
    address: SocketAddr,
    endpoint: Endpoint,
    beside: Router,
) -> Result<(), String> {
    let (places, within) = (endpoint.settings.connections_max, endpoint.settings.head_timeout());
    accept(listener, &router(endpoint, address, beside), Arc::new(Semaphore::new(places)), within).await
}

fn router(endpoint: Endpoint, address: SocketAddr, beside: Router) -> Router {
    let bytes_max = endpoint.settings.body_bytes_max;
    let app = Router::new()
        .route(PATH, post(complete))
        .route("/v1/{*rest}", any(pass))
        .route("/health", get(async |State(endpoint): State<Endpoint>| endpoint.health()))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "use another method here")
        })
        .layer(DefaultBodyLimit::max(bytes_max))
        .with_state(endpoint)
        .merge(beside);
    app.layer(middleware::from_fn_with_state(address.ip().is_loopback(), from_here::guard))
}

async fn complete(State(endpoint): State<Endpoint>, mut request: Request) -> Result<Response, Refusal> {
    let began = Instant::now();
    let refused = |refusal: Refusal| {
        metrics::counter!(meters::CONVERSATION_REQUESTS_TOTAL, "outcome" => "refused").increment(1);
        refusal
    };
    let headers = std::mem::take(request.headers_mut());
    let (slot, body) = endpoint.take(request).await.map_err(refused)?;
    let mut asked = Asked::read(&body).map_err(refused)?;
    asked.take_for_granted(&endpoint.settings);
    let talk = talk(&headers, asked.body());
    let wanted = Wanted { talk: talk.clone(), asked: asked.last.clone(), given: asked.given.clone() };
    let remembered = endpoint.remember(wanted).await;
    let (sent, put) = asked.with(remembered.as_deref());
    let explains = asked.stream && headers.contains_key(EXPLAIN_HEADER);
    let lead = explains.then(|| explanation(remembered.as_deref(), &put));
    metrics::gauge!(meters::CONVERSATION_IN_FLIGHT).increment(1.0);
    metrics::histogram!(meters::CONVERSATION_ADDED).record(began.elapsed().as_secs_f64());
    let exchange = Exchange::new(&endpoint, (talk, &asked), remembered, began, slot);
    Ok(exchange.answer(&headers, sent, &asked, lead).await)
}

/// Passes on what is no conversation, as the list of models, as it is.
async fn pass(State(endpoint): State<Endpoint>, mut request: Request) -> Result<Response, Refusal> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let headers = std::mem::take(request.headers_mut());
    let (slot, body) = endpoint.take(request).await?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let answer = endpoint.upstream.send(method, path, &headers, body.to_vec()).await?;
    let (status, head) = (answer.status(), passed_on(answer.headers()));
    let pieces = futures::stream::unfold((answer, slot), async |(mut answer, slot)| match answer.chunk().await {
        Ok(Some(bytes)) => Some((Ok(bytes), (answer, slot))),
        Ok(None) => None,
        Err(error) => Some((Err(error), (answer, slot))),
    });
    let mut response = Response::new(Body::from_stream(pieces));
    (*response.status_mut(), *response.headers_mut()) = (status, head);
    Ok(response)
}

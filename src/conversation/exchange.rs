use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use kloros_actors::{
    facts::{Role, Said, Talk},
    memory::{Remembered, context::Why, repetition::Repeated},
    meters,
};
use serde_json::json;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    http::Endpoint,
    naming::NAME_HEADER,
    refusal::Refusal,
    request::Asked,
    signals::Outcome,
    tap::Tap,
    upstream::{Upstream, passed_on, whole},
    used::Used,
};

/// Where answers are asked for.
pub(super) const PATH: &str = "/v1/chat/completions";

/// How long the end of a stream is awaited after its last event, so that the connection can be used again.
const LAST_BYTES_MAX: Duration = Duration::from_millis(100);

/// Why there is no whole answer.
#[derive(Clone, Copy, Debug)]
enum Failure {
    /// Somebody else than the model server is to blame, as these words say.
    Elsewhere(&'static str),
    /// The model server failed, as these words say.
    Upstream(&'static str),
}

/// One request and what becomes of it. However it ends, also when the client goes away, what was said is kept.
pub(super) struct Exchange {
    endpoint: Endpoint,
    talk: Talk,
    news: Vec<(Role, String)>,
    remembered: Option<Arc<Remembered>>,
    began: Instant,
    began_ms: u64,
    first: Option<Instant>,
    tap: Tap,
    /// What a first answer repeated, in whose place another one stands.
    replaced: Option<Repeated>,
    /// With what it is asked for.
    used: Option<Used>,
    failure: Option<Failure>,
    is_told: bool,
    _slot: OwnedSemaphorePermit,
}

impl Exchange {
    pub(super) fn new(
        endpoint: &Endpoint,
        (talk, asked): (Talk, &Asked),
        remembered: Option<Arc<Remembered>>,
        began: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let known = remembered.as_ref().map(|remembered| remembered.known.as_slice()).unwrap_or_default();
        Self {
            news: asked.news(known),
            talk,
            remembered,
            began,
            began_ms: endpoint.clock.now_ms(),
            first: None,
            tap: Tap::default(),
            replaced: None,
            used: None,
            failure: Some(Failure::Elsewhere("the client went away")),
            is_told: false,
            _slot: slot,
            endpoint: endpoint.clone(),
        }
    }

    /// Sends the request on and returns the answer as it comes.
    pub(super) async fn answer(
        mut self,
        headers: &HeaderMap,
        body: Vec<u8>,
        asked: &Asked,
        lead: Option<Bytes>,
    ) -> Response {
        let upstream = self.endpoint.upstream.clone();
        let key = headers.get(header::AUTHORIZATION).cloned();
        self.used = asked.model().map(|model| Used { model: model.to_owned(), key });
        let again = self.endpoint.settings.ask_again && !asked.stream;
        let sent = if again { body.clone() } else { Vec::new() };
        let response = match upstream.send(Method::POST, PATH, headers, body).await {
            Ok(response) => response,
            Err(refusal) => return self.refuse(refusal),
        };
        let is_stream = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_stream = is_stream.is_some_and(|kind| kind.starts_with("text/event-stream"));
        if response.status() == StatusCode::OK && is_stream {
            return self.pass(response, lead);
        }
        let (status, head) = (response.status(), passed_on(response.headers()));
        let mut body = match whole(response, &upstream, self.began).await {
            Ok(body) => body,
            Err(refusal) => return self.refuse(refusal),
        };
        if status != StatusCode::OK {
            return self.failed(status, head, body);
        }
        self.tap = Tap::whole(&body);
        if let Some(repeated) = if again { self.says_again().await } else { None } {
            tracing::warn!(
                similarity = repeated.similarity,
                "answer says again what was said, it is asked for once more"
            );
            if let Some(other) = self.ask_again(headers, &sent, &upstream, &repeated).await {
                self.replaced = Some(repeated);
                (self.tap, body) = (Tap::whole(&other), other);
            }
        }
        self.failure = (!self.tap.is_whole).then_some(Failure::Upstream("the answer is no answer of a chat"));
        if self.failure.is_some() {
            count("upstream");
        }
        self.told(head, (StatusCode::OK, body).into_response())
    }

    /// Asks once more for an answer that says again what was said, as long as an answer may take in all; the first one stands where the
    /// second is none or too late.
    async fn ask_again(
        &self,
        headers: &HeaderMap,
        sent: &[u8],
        upstream: &Upstream,
        repeated: &Repeated,
    ) -> Option<Bytes> {
        let earlier = self.remembered.as_ref()?.answers.get(repeated.which)?;
        let body = Asked::again(sent, repeated, earlier)?;
        let asking = async {
            let response = upstream.send(Method::POST, PATH, headers, body).await.ok()?;
            let is_fine = response.status() == StatusCode::OK;
            let body = whole(response, upstream, self.began).await.ok()?;
            (is_fine && Tap::whole(&body).is_whole).then_some(body)
        };
        timeout(upstream.within.saturating_sub(self.began.elapsed()), asking).await.ok()?
    }

    /// Passes a stream on, piece by piece.
    fn pass(self, response: reqwest::Response, lead: Option<Bytes>) -> Response {
        let (head, name) = (passed_on(response.headers()), self.talk.name().to_owned());
        let passing = Passing { exchange: self, response: Some(response), lead };
        let pieces = stream::unfold(passing, async |mut passing| {
            let piece = passing.next().await?;
            Some((Ok::<_, std::convert::Infallible>(piece), passing))
        });
        named(head, &name, Response::new(Body::from_stream(pieces)))
    }

    /// Passes on what the model server refuses, in its own words where they are of the dialect.
    fn failed(mut self, status: StatusCode, head: HeaderMap, body: Bytes) -> Response {
        self.failure = Some(if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            Failure::Upstream("the model server failed")
        } else {
            Failure::Elsewhere("the model server refused it")
        });
        let is_error = serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|body| body.get("error").is_some());
        let response = if is_error {
            (status, body).into_response()
        } else {
            Refusal::new(status, "upstream_error", format!("the model server answered {}", status.as_u16()))
                .into_response()
        };
        count(if status.is_server_error() { "upstream" } else { "refused" });
        self.told(if is_error { head } else { HeaderMap::new() }, response)
    }

    fn refuse(mut self, refusal: Refusal) -> Response {
        self.failure = Some(Failure::Upstream("the model server gave no answer"));
        count(if refusal.status == StatusCode::GATEWAY_TIMEOUT { "timeout" } else { "upstream" });
        self.told(HeaderMap::new(), refusal.into_response())
    }

    /// What was said is kept before the answer is handed out: whoever has it may go on at once.
    fn told(mut self, head: HeaderMap, response: Response) -> Response {
        self.tell();
        named(head, self.talk.name(), response)
    }

    /// Returns which answer before it this one is like, where it is a repetition.
    async fn says_again(&self) -> Option<Repeated> {
        let (remembered, text) = (self.remembered.clone()?, self.tap.text.clone());
        // Comparing long answers takes longer than others may wait for.
        tokio::task::spawn_blocking(move || remembered.repeated(&text)).await.ok()?
    }

    /// Tells what became of a stream that came to its end, which it also does after an error that is reported in it.
    fn ended(&mut self) {
        self.failure = self.tap.has_error.then_some(Failure::Upstream("the model server reported an error"));
        if self.failure.is_some() {
            count("upstream");
        }
        self.tell();
    }

    /// Keeps what was said and tells what became of it, once.
    fn tell(&mut self) {
        if std::mem::replace(&mut self.is_told, true) {
            return;
        }
        let (began_ms, now_ms) = (self.began_ms, self.endpoint.clock.now_ms());
        let mut said: Vec<Said> = std::mem::take(&mut self.news)
            .into_iter()
            .map(|(role, text)| Said { role, text, at_ms: began_ms })
            .collect();
        if !self.tap.text.is_empty() {
            said.push(Said { role: Role::Assistant, text: self.tap.text.clone(), at_ms: now_ms });
        }
        if let Some(Failure::Elsewhere(words) | Failure::Upstream(words)) = self.failure {
            said.push(Said { role: Role::Error, text: words.to_owned(), at_ms: now_ms });
        }
        if let Err(silent) = self.endpoint.voice.say(&self.talk, said) {
            tracing::debug!(%silent, "what was said is not kept");
            metrics::counter!(meters::CONVERSATION_FORGETFUL_TOTAL).increment(1);
        }
        let whole = self.failure.is_none().then(|| self.began.elapsed());
        let first = self.first.map(|first| first.saturating_duration_since(self.began));
        let outcome = Outcome {
            // How fast an error comes says nothing about answers.
            first: first.filter(|_| self.tap.pieces > 0 && !self.tap.has_error),
            whole,
            tokens: self.tap.tokens(),
            is_repetition: false,
            is_hit: self.remembered.as_ref().is_some_and(|remembered| remembered.is_hit),
            is_error: matches!(self.failure, Some(Failure::Upstream(_))),
        };
        if whole.is_some() {
            self.used.take().into_iter().for_each(|used| self.endpoint.used.note(self.talk.owner(), used));
            count("answered");
        }
        self.judge(outcome);
    }

    /// Compares the answer with earlier ones, when nobody waits for it any more.
    fn judge(&self, outcome: Outcome) {
        let (endpoint, talk, text) = (self.endpoint.clone(), self.talk.clone(), self.tap.text.clone());
        let (remembered, replaced) = (self.remembered.clone(), self.replaced);
        let work = move || {
            let repeated = remembered.as_ref().and_then(|remembered| remembered.repeated(&text));
            // However often it was asked for, it is one answer.
            endpoint.signals.note(&Outcome { is_repetition: repeated.or(replaced).is_some(), ..outcome });
            let Some(Repeated { similarity, .. }) = repeated.or(replaced) else { return };
            let text = match (repeated, replaced) {
                (None, Some(_)) => {
                    format!("similarity {similarity:.2} with an earlier answer, which another one replaced")
                }
                (_, Some(_)) => {
                    format!("similarity {similarity:.2} with an earlier answer, also when asked for once more")
                }
                (_, None) => format!("similarity {similarity:.2} with an earlier answer"),
            };
            if repeated.is_some() {
                tracing::warn!(similarity, "answer says again what was said");
            }
            let said = Said { role: Role::Repetition, text, at_ms: endpoint.clock.now_ms() };
            // Without the memory it is counted all the same.
            endpoint.voice.say(&talk, vec![said]).ok();
        };
        // Without a runtime the program is ending, and nobody counts any more.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(work);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_told {
            count("broken");
        }
        self.tell();
        self.endpoint.left();
    }
}

/// A stream that is passed on. When the client goes away it is dropped, and with it the connection to the model server.
struct Passing {
    exchange: Exchange,
    response: Option<reqwest::Response>,
    lead: Option<Bytes>,
}

impl Passing {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(lead) = self.lead.take() {
            return Some(lead);
        }
        let response = self.response.as_mut()?;
        if self.exchange.is_told {
            // A server that keeps the connection open must not keep the client waiting.
            return timeout(LAST_BYTES_MAX, response.chunk()).await.ok()?.ok()?;
        }
        let upstream = &self.exchange.endpoint.upstream;
        let refusal = match timeout(upstream.within, response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                self.exchange.first.get_or_insert_with(Instant::now);
                self.exchange.tap.hear(&bytes);
                if self.exchange.tap.is_whole {
                    self.exchange.ended();
                }
                return Some(bytes);
            }
            Ok(Ok(None)) => {
                self.response = None;
                self.exchange.failure = Some(Failure::Upstream("the answer broke off"));
                count("broken");
                self.exchange.tell();
                return None;
            }
            Ok(Err(error)) => upstream.refusal(&error),
            Err(_) => upstream.late(),
        };
        self.response = None;
        self.exchange.failure = Some(Failure::Upstream("the answer broke off"));
        count(if refusal.status == StatusCode::GATEWAY_TIMEOUT { "timeout" } else { "broken" });
        self.exchange.tell();
        // The head is out already: the dialect says it within the stream.
        let error =
            json!({"error": {"message": refusal.message, "type": "server_error", "param": null, "code": refusal.code}});
        Some(Bytes::from(format!("data: {error}\n\n")))
    }
}

fn count(outcome: &'static str) {
    metrics::counter!(meters::CONVERSATION_REQUESTS_TOTAL, "outcome" => outcome).increment(1);
}

fn named(head: HeaderMap, name: &str, mut response: Response) -> Response {
    for (key, value) in head {
        if let Some(key) = key {
            response.headers_mut().insert(key, value);
        }
    }
    if let Ok(name) = HeaderValue::from_str(name) {
        response.headers_mut().insert(NAME_HEADER, name);
    }
    response
}

/// Returns the event that tells what was put before the model, and why.
pub(super) fn explanation(remembered: Option<&Remembered>, put: &str) -> Bytes {
    let context = remembered.map(|remembered| remembered.context.as_slice()).unwrap_or_default();
    let context = context.iter().map(|chosen| {
        let why = match chosen.why {
            Why::Newest => "newest".to_owned(),
            Why::Relevant(score) => format!("relevant {score:.2}"),
        };
        json!({"role": chosen.event.role, "text": chosen.event.text, "at_ms": chosen.event.at_ms, "why": why})
    });
    let told = json!({"kloros": {
        "memory": remembered.is_some(),
        "topics": remembered.map(|remembered| &remembered.topics),
        "summary": remembered.and_then(|remembered| remembered.summary.as_ref()),
        "context": context.collect::<Vec<_>>(),
        "characters": put.chars().count(),
    }});
    Bytes::from(format!("data: {told}\n\n"))
}

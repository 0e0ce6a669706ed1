//! The chat dialect: what a request may say, and the shape of every answer and error.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    engine::{QUEUE_MAX, Refusal, Request},
    meters::MODEL_NAME,
    model::Sampler,
    tokenizer,
    weights::CONTEXT,
};

/// Tokens of an answer when the request does not say.
const MAX_TOKENS_DEFAULT: usize = 64;
/// Messages in one request.
const MESSAGES_MAX: usize = 256;
/// Highest temperature, as in `OpenAI`'s API.
const TEMPERATURE_MAX: f64 = 2.0;

#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Vec<Message>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    seed: Option<i64>,
    n: Option<u64>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

/// A request that can be handed to the engine.
#[derive(Debug)]
pub(super) struct Chat {
    /// What to compute.
    pub(super) request: Request,
    /// Whether tokens are sent one by one.
    pub(super) stream: bool,
    /// Whether a stream ends with the usage.
    pub(super) include_usage: bool,
}

/// An error as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    /// HTTP status.
    pub(super) status: u16,
    /// What is wrong and what would be right.
    pub(super) message: String,
    /// Word for programs.
    pub(super) code: &'static str,
}

impl ApiError {
    /// Returns an error of the given status.
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), code }
    }

    /// Returns the error as the body of a response.
    pub(super) fn body(&self) -> Value {
        let kind = if self.status < 500 { "invalid_request_error" } else { "server_error" };
        json!({"error": {"message": self.message, "type": kind, "code": self.code}})
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NeverFits { capacity } => {
                let message = format!("prompt and answer need more than the {capacity} tokens that the KV cache holds");
                ApiError::new(400, "kv_cache_exceeded", message)
            }
            Refusal::QueueFull => {
                ApiError::new(503, "queue_full", format!("{QUEUE_MAX} requests wait already; try again later"))
            }
            Refusal::Stopped => ApiError::new(503, "stopping", "the engine does not take requests any more"),
        }
    }
}

/// Reads a request body. `fallback_seed` decides what is drawn when the request brings no seed.
pub(super) fn parse(body: &[u8], fallback_seed: u64) -> Result<Chat, ApiError> {
    let invalid = |message: String| ApiError::new(400, "invalid_request", message);
    let body: Body =
        serde_json::from_slice(body).map_err(|error| invalid(format!("the body is not a chat request: {error}")))?;
    if let Some(model) = body.model.filter(|model| model != MODEL_NAME) {
        let message = format!("there is no model {model:?}; this server has {MODEL_NAME:?}");
        return Err(ApiError::new(404, "model_not_found", message));
    }
    if body.n.is_some_and(|choices| choices != 1) {
        return Err(invalid("only n = 1 is supported".to_owned()));
    }
    if body.messages.is_empty() || body.messages.len() > MESSAGES_MAX {
        return Err(invalid(format!("messages must have 1 to {MESSAGES_MAX} entries")));
    }
    let temperature = body.temperature.unwrap_or(0.0);
    if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
        return Err(invalid(format!("temperature must lie between 0 and {TEMPERATURE_MAX}")));
    }
    let prompt = tokenizer::encode(&conversation(&body.messages));
    let asked = body.max_tokens.or(body.max_completion_tokens);
    let max_tokens = asked.map_or(MAX_TOKENS_DEFAULT, |tokens| usize::try_from(tokens).unwrap_or(usize::MAX));
    if max_tokens == 0 {
        return Err(invalid("max_tokens must be at least 1".to_owned()));
    }
    if prompt.len().saturating_add(max_tokens) > CONTEXT {
        let message =
            format!("prompt ({}) and max_tokens ({max_tokens}) exceed the context of {CONTEXT} tokens", prompt.len());
        return Err(ApiError::new(400, "context_length_exceeded", message));
    }
    let seed = body.seed.map_or(fallback_seed, i64::cast_unsigned);
    Ok(Chat {
        request: Request { prompt, max_tokens, sampler: Sampler::new(temperature, seed) },
        stream: body.stream,
        include_usage: body.stream_options.is_some_and(|options| options.include_usage),
    })
}

/// Writes the messages out as the model reads them. Never empty, because every message has at least its marks.
fn conversation(messages: &[Message]) -> String {
    let mut text = String::new();
    for Message { role, content } in messages {
        text.push_str("<|");
        text.push_str(role);
        text.push_str("|>");
        match content {
            Content::Text(said) => text.push_str(said),
            Content::Parts(parts) => parts.iter().for_each(|part| text.push_str(&part.text)),
        }
        text.push('\n');
    }
    text
}

/// What all parts of one answer have in common.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Name of the answer.
    pub(super) id: String,
    /// Unix time in seconds.
    pub(super) created: u64,
    /// Tokens of the prompt.
    pub(super) prompt_tokens: usize,
}

impl Answer {
    /// Returns the whole answer as one object.
    pub(super) fn whole(&self, text: &str, tokens: usize) -> Value {
        json!({
            "id": self.id, "object": "chat.completion", "created": self.created, "model": MODEL_NAME,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length", "logprobs": null,
            }],
            "usage": self.usage(tokens),
        })
    }

    /// Returns the piece of a stream that carries `text`; the `first` piece also says who speaks.
    pub(super) fn piece(&self, text: &str, first: bool) -> Value {
        let delta = if first { json!({"role": "assistant", "content": text}) } else { json!({"content": text}) };
        self.chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null}]))
    }

    /// Returns the last piece of a stream, with the usage of `tokens` if that was asked for.
    pub(super) fn last(&self, tokens: Option<usize>) -> Value {
        let mut chunk = self.chunk(&json!([{"index": 0, "delta": {}, "finish_reason": "length"}]));
        if let Some(tokens) = tokens {
            chunk["usage"] = self.usage(tokens);
        }
        chunk
    }

    fn chunk(&self, choices: &Value) -> Value {
        json!({
            "id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": MODEL_NAME,
            "choices": choices,
        })
    }

    fn usage(&self, tokens: usize) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": tokens, "total_tokens": self.prompt_tokens + tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(body: &str, status: u16, code: &str) {
        let error = parse(body.as_bytes(), 0).unwrap_err();
        assert_eq!((error.status, error.code), (status, code), "{body}");
    }

    #[test]
    fn a_request_needs_only_its_messages() {
        let chat = parse(br#"{"messages":[{"role":"user","content":"hello"}]}"#, 0).unwrap();
        assert_eq!((chat.request.max_tokens, chat.stream, chat.request.prompt.len()), (MAX_TOKENS_DEFAULT, false, 4));
    }

    #[test]
    fn content_may_come_in_parts() {
        let parts = parse(
            br#"{"messages":[{"role":"user","content":[{"type":"text","text":"hel"},{"type":"text","text":"lo"}]}]}"#,
            0,
        );
        let whole = parse(br#"{"messages":[{"role":"user","content":"hello"}]}"#, 0);
        assert_eq!(parts.unwrap().request.prompt, whole.unwrap().request.prompt);
    }

    #[test]
    fn bad_requests_are_refused_with_the_right_status() {
        let with = |rest: &str| format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{rest}}}"#);
        refused("not json", 400, "invalid_request");
        refused(r#"{"messages":[]}"#, 400, "invalid_request");
        refused(r#"{"messages":"hi"}"#, 400, "invalid_request");
        refused(&with(r#""max_tokens":0"#), 400, "invalid_request");
        refused(&with(r#""max_tokens":-1"#), 400, "invalid_request");
        refused(&with(r#""max_tokens":18446744073709551615"#), 400, "context_length_exceeded");
        refused(&with(r#""max_tokens":1024"#), 400, "context_length_exceeded");
        refused(&with(r#""n":2"#), 400, "invalid_request");
        refused(&with(r#""temperature":9"#), 400, "invalid_request");
        refused(&with(r#""model":"gpt-4""#), 404, "model_not_found");
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(parse(&body, 0).is_err());
        }
    }
}

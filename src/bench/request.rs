//! One chat request: sent, its stream read token by token, and what came of it.

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

use super::{load::Call, replay::Recorded, sse::Parser};

/// How long a connection to the loopback address may take.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long the list of models is awaited before the load begins.
const MODELS_MAX: Duration = Duration::from_secs(5);

/// Largest list of models that is read, in bytes.
const MODELS_BYTES_MAX: usize = 1 << 20;

/// The model that is asked for when the endpoint names none; servers of a single model ignore it.
const MODEL_DEFAULT: &str = "default";

/// How many more chunks than tokens asked for an answer may have before it counts as garbage.
const CHUNKS_SPARE: u64 = 64;

const MS_PER_S: f64 = 1000.0;

/// A streamed answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// From the scheduled moment to the first token, in milliseconds.
    pub(super) ttft_ms: f64,
    /// Between one token and the next, in milliseconds; tokens that came in one packet are 0 apart.
    pub(super) gaps_ms: Vec<f64>,
    /// How many tokens: as the server counts them, else the number of chunks.
    pub(super) tokens: u64,
}

impl Answer {
    /// Returns the time from the scheduled moment to the last token, in milliseconds.
    pub(super) fn e2e_ms(&self) -> f64 {
        self.ttft_ms + self.gaps_ms.iter().sum::<f64>()
    }
}

/// Why a request has no whole answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// Nobody listens.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The answer has another status than it should.
    #[error("status {0}")]
    Status(u16),
    /// No whole answer in time.
    #[error("no whole answer in time")]
    Timeout,
    /// The stream ended before `[DONE]`.
    #[error("the stream broke off: {0}")]
    Broken(String),
    /// What came is no chat stream, no sound, or too long.
    #[error("not what was asked for: {0}")]
    Garbage(String),
    /// It was not sent, because too many were in flight.
    #[error("too many requests in flight")]
    Refused,
}

/// An OpenAI-style chat endpoint.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    client: reqwest::Client,
    url: String,
    model: Arc<OnceCell<String>>,
}

impl Endpoint {
    /// Returns the endpoint below `url`, e.g. `http://127.0.0.1:8000`, without asking it anything.
    pub(super) fn new(url: &str) -> Result<Self, reqwest::Error> {
        Ok(Self { client: one_request_each()?, url: url.trim_end_matches('/').to_owned(), model: Arc::default() })
    }

    /// Returns the address it was made with.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Returns the name of the first model that is served, asked for once; a default when the endpoint does not say.
    pub(super) async fn model(&self) -> &str {
        let asked = self.model.get_or_try_init(|| async {
            timeout(MODELS_MAX, self.first_model()).await.unwrap_or_else(|_| Ok(MODEL_DEFAULT.to_owned()))
        });
        asked.await.map_or(MODEL_DEFAULT, String::as_str)
    }

    /// Fails only if nobody listened, so that an instance that comes later is asked again.
    async fn first_model(&self) -> Result<String, reqwest::Error> {
        let mut response = self.client.get(format!("{}/v1/models", self.url)).send().await?;
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await? {
            body.extend_from_slice(&bytes);
            if body.len() > MODELS_BYTES_MAX {
                break;
            }
        }
        let models = serde_json::from_slice(&body).map_or(Vec::new(), |models: Models| models.data);
        Ok(models.into_iter().next().map_or_else(|| MODEL_DEFAULT.to_owned(), |model| model.id))
    }

    /// Sends `call` and reads its answer to the end, until `deadline` at the latest.
    ///
    /// Times count from `scheduled`, which may lie before the call: a request that had to wait for its turn waited.
    pub(super) async fn ask(&self, call: &Call, scheduled: Instant, deadline: Instant) -> Result<Answer, RequestError> {
        // Understood by vLLM, SGLang and llama.cpp: equal work whatever the model would like to say.
        let body = json!({
            "messages": [{"role": "user", "content": call.prompt}],
            "temperature": 0.0,
            "ignore_eos": true,
        });
        timeout_at(deadline, self.exchange(body, call.output_tokens, scheduled))
            .await
            .unwrap_or(Err(RequestError::Timeout))
    }

    /// Sends what was recorded, as [`ask`](Self::ask) does a call.
    pub(super) async fn ask_again(
        &self,
        recorded: &Recorded,
        scheduled: Instant,
        deadline: Instant,
    ) -> Result<Answer, RequestError> {
        let mut body = Value::Object(recorded.body.clone());
        if recorded.is_exact {
            body["ignore_eos"] = Value::Bool(true);
        }
        let exchange = self.exchange(body, recorded.output_tokens, scheduled);
        timeout_at(deadline, exchange).await.unwrap_or(Err(RequestError::Timeout))
    }

    async fn exchange(&self, mut body: Value, output_tokens: u32, scheduled: Instant) -> Result<Answer, RequestError> {
        body["model"] = self.model().await.into();
        body["max_tokens"] = output_tokens.into();
        body["stream"] = Value::Bool(true);
        body["stream_options"] = json!({"include_usage": true});
        let request = self.client.post(format!("{}/v1/chat/completions", self.url)).json(&body);
        let mut response = request.send().await.map_err(|error| classify(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(RequestError::Status(response.status().as_u16()));
        }
        let mut reading = Reading::new(scheduled, output_tokens);
        while let Some(bytes) = response.chunk().await.map_err(|error| RequestError::Broken(words(&error)))? {
            if reading.take(&bytes, Instant::now())? {
                return reading.finish();
            }
        }
        Err(reading.cut_off())
    }
}

/// Returns a client that opens a connection for each request.
///
/// llama.cpp's server ends a connection after each streamed answer and says so nowhere: a request that is just then sent on it would
/// count as an error of the settings. A proxy of the environment does not come between: what is measured is the instance.
pub(super) fn one_request_each() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_MAX).pool_max_idle_per_host(0).build()
}

pub(super) fn classify(error: &reqwest::Error) -> RequestError {
    if error.is_connect() { RequestError::Connect(words(error)) } else { RequestError::Broken(words(error)) }
}

/// Returns the innermost cause, which says what happened; the outer ones only repeat the address.
pub(super) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map_or_else(String::new, ToString::to_string)
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// An answer that is being read.
#[derive(Debug)]
struct Reading {
    parser: Parser,
    scheduled: Instant,
    chunks_max: u64,
    latest: Option<Instant>,
    ttft_ms: f64,
    gaps_ms: Vec<f64>,
    usage_tokens: Option<u64>,
    any_event: bool,
}

impl Reading {
    fn new(scheduled: Instant, output_tokens: u32) -> Self {
        Self {
            parser: Parser::default(),
            scheduled,
            chunks_max: u64::from(output_tokens) + CHUNKS_SPARE,
            latest: None,
            ttft_ms: 0.0,
            gaps_ms: Vec::new(),
            usage_tokens: None,
            any_event: false,
        }
    }

    /// Takes bytes that arrived `at` this moment and returns whether the answer is complete.
    fn take(&mut self, bytes: &[u8], at: Instant) -> Result<bool, RequestError> {
        let events = self.parser.push(bytes).map_err(|error| RequestError::Garbage(error.to_string()))?;
        for event in events {
            self.any_event = true;
            if event.trim() == "[DONE]" {
                return Ok(true);
            }
            let chunk: Chunk<'_> = serde_json::from_str(&event).map_err(|error| {
                // What the parser says may quote the answer, which may hold secrets.
                RequestError::Garbage(format!("it is no chunk of a chat: {:?} error", error.classify()))
            })?;
            if chunk.error.is_some() {
                return Err(RequestError::Broken("the server reported an error within the stream".to_owned()));
            }
            if let Some(usage) = &chunk.usage {
                self.usage_tokens = usage.completion_tokens;
            }
            if chunk.says_something() {
                self.note_token(at)?;
            }
        }
        Ok(false)
    }

    fn note_token(&mut self, at: Instant) -> Result<(), RequestError> {
        if self.gaps_ms.len() as u64 >= self.chunks_max {
            return Err(RequestError::Garbage("the answer is longer than what was asked for".to_owned()));
        }
        match self.latest.replace(at) {
            None => self.ttft_ms = at.saturating_duration_since(self.scheduled).as_secs_f64() * MS_PER_S,
            Some(latest) => self.gaps_ms.push(at.saturating_duration_since(latest).as_secs_f64() * MS_PER_S),
        }
        Ok(())
    }

    fn finish(self) -> Result<Answer, RequestError> {
        if self.latest.is_none() {
            return Err(RequestError::Garbage("the answer is empty".to_owned()));
        }
        let chunks = self.gaps_ms.len() as u64 + 1;
        let tokens = self.usage_tokens.filter(|tokens| *tokens > 0).unwrap_or(chunks);
        Ok(Answer { ttft_ms: self.ttft_ms, gaps_ms: self.gaps_ms, tokens })
    }

    fn cut_off(&self) -> RequestError {
        if self.any_event || self.parser.is_inside_event() {
            return RequestError::Broken("it ended before [DONE]".to_owned());
        }
        RequestError::Garbage("no event in the whole body".to_owned())
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(default, borrow)]
    choices: Vec<Choice<'a>>,
    usage: Option<Usage>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
    // What a reasoning model thinks is generated and paid for like what it says.
    #[serde(borrow)]
    reasoning_content: Option<Cow<'a, str>>,
    // So is what it says to a tool.
    tool_calls: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: Option<u64>,
}

impl Chunk<'_> {
    fn says_something(&self) -> bool {
        let mut deltas = self.choices.iter().filter_map(|choice| choice.delta.as_ref());
        deltas.any(|delta| {
            let texts = [delta.content.as_deref(), delta.reasoning_content.as_deref()];
            delta.tool_calls.is_some() || texts.into_iter().flatten().any(|text| !text.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[(u64, &str)], expected: &Result<Answer, RequestError>) {
        assert_eq!(read(pieces), *expected);
    }

    fn read(pieces: &[(u64, &str)]) -> Result<Answer, RequestError> {
        let scheduled = Instant::now();
        let mut reading = Reading::new(scheduled, 4);
        for (at_ms, text) in pieces {
            if reading.take(text.as_bytes(), scheduled + Duration::from_millis(*at_ms))? {
                return reading.finish();
            }
        }
        Err(reading.cut_off())
    }

    fn token(text: &str) -> String {
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    }

    const ROLE: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    #[test]
    fn times_count_from_the_scheduled_moment_and_the_role_is_no_token() {
        let (one, two) = (token("a"), token("\\n"));
        let answer = Answer { ttft_ms: 30.0, gaps_ms: vec![12.0, 0.0], tokens: 3 };
        assert_eq!(answer.e2e_ms(), 42.0);
        check(&[(10, ROLE), (30, &one), (42, &two), (42, &one), (50, DONE)], &Ok(answer));
    }

    #[test]
    fn the_count_of_the_server_goes_before_the_number_of_chunks() {
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":7}}\n\n";
        check(&[(5, &token("a")), (6, usage), (6, DONE)], &Ok(Answer { ttft_ms: 5.0, gaps_ms: Vec::new(), tokens: 7 }));
    }

    #[test]
    fn thoughts_are_tokens_too() {
        let thought =
            "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\"content\":null}}],\"usage\":null}\n\n";
        check(&[(5, thought), (6, DONE)], &Ok(Answer { ttft_ms: 5.0, gaps_ms: Vec::new(), tokens: 1 }));
    }

    #[test]
    fn what_is_said_to_a_tool_is_a_token_too() {
        let call = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\n\n";
        check(&[(5, call), (6, DONE)], &Ok(Answer { ttft_ms: 5.0, gaps_ms: Vec::new(), tokens: 1 }));
    }

    #[test]
    fn a_stream_that_is_cut_is_broken() {
        let cut = RequestError::Broken("it ended before [DONE]".to_owned());
        check(&[(5, &token("a"))], &Err(cut.clone()));
        check(&[(5, "data: {\"choi")], &Err(cut));
    }

    #[test]
    fn an_error_within_the_stream_is_an_error() {
        let outcome = read(&[(5, &token("a")), (6, "data: {\"error\":{\"message\":\"out of cache\"}}\n\n"), (7, DONE)]);
        assert!(matches!(outcome, Err(RequestError::Broken(_))), "{outcome:?}");
    }

    #[test]
    fn what_is_no_chat_stream_is_garbage() {
        let endless: String = (0..200).map(|_| token("a")).collect();
        for body in ["<html>hello</html>\n\n", "data: hello\n\n", "data: [1, 2\n\n", "", DONE, "data: 7\n\n", &endless]
        {
            let outcome = read(&[(5, body)]);
            assert!(matches!(outcome, Err(RequestError::Garbage(_))), "{body:?}: {outcome:?}");
        }
    }
}

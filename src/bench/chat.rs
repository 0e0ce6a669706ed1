//! A load of chat requests against an OpenAI-style endpoint, and what was measured under it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use kloros_actors::facts::{BenchSpec, ChatSlo, FailureKind, TokenRange, TrialFailure};
use tokio::time::Instant;

use super::{
    drive::{Measured, Plan, Traffic, drive},
    fail,
    load::{Call, Calls},
    replay::{self, Recorded, Replay},
    request::{Answer, Endpoint, RequestError},
    summary::summarise,
};

/// Most requests of one measurement.
const REQUESTS_MAX: usize = 200_000;

/// Most tokens that are sent or asked for in one request.
const TOKENS_MAX: u32 = 1 << 20;

/// A chat bench whose numbers can be worked with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChatSpec {
    plan: Plan,
    prompt_tokens: TokenRange,
    output_tokens: TokenRange,
    slo: ChatSlo,
    /// What is asked in place of made-up prompts.
    requests: Option<PathBuf>,
}

impl ChatSpec {
    /// Returns the chat bench in `spec`, `None` when it is another kind, or the first number that cannot be worked with.
    pub(crate) fn from_bench(spec: &BenchSpec) -> Option<Result<Self, TrialFailure>> {
        let BenchSpec::OpenaiChat {
            load,
            prompt_tokens,
            output_tokens,
            warmup_s,
            window_s,
            slo,
            request_timeout_s,
            requests,
        } = spec.clone()
        else {
            return None;
        };
        let plan = Plan { load, warmup_s, window_s, request_timeout_s, requests_max: REQUESTS_MAX };
        let wrong = plan
            .wrong()
            .or_else(|| wrong_range("prompt_tokens", prompt_tokens))
            .or_else(|| wrong_range("output_tokens", output_tokens));
        Some(match wrong {
            Some(wrong) => Err(fail(FailureKind::BenchFailed, format!("the bench cannot run: {wrong}"))),
            None => Ok(Self { plan, prompt_tokens, output_tokens, slo, requests }),
        })
    }
}

fn wrong_range(name: &str, range: TokenRange) -> Option<String> {
    let TokenRange { min, max } = range;
    let fine = 1 <= min && min <= max && max <= TOKENS_MAX;
    (!fine).then(|| format!("{name} is {min} to {max}; it must be a range within 1 to {TOKENS_MAX}"))
}

/// Puts the load of `spec` on the endpoint below `url` and returns what was measured.
///
/// Equal seeds send equal requests. Fails with `died` when nobody listened at all, and with `bench_failed` when no request
/// fell into the window. Requests that were answered with anything but a whole stream are counted in `error_rate`.
pub(crate) async fn measure(url: &str, spec: &ChatSpec, seed: u64) -> Result<Measured, TrialFailure> {
    let endpoint = Endpoint::new(url)
        .map_err(|error| fail(FailureKind::Infrastructure, format!("cannot make an http client: {error}")))?;
    // Asked before the load begins, so that it is part of no request's latency.
    endpoint.model().await;
    let questions = Mutex::new(questions(spec, seed).await?);
    let observations = drive(url, Chat { endpoint, questions }, &spec.plan, seed).await?;
    let summary = summarise(&observations, spec.plan.window(), spec.slo);
    spec.plan.measured(&observations, summary.metrics, summary.samples)
}

/// Returns what is asked. A file of requests that cannot be used is nobody's settings' fault.
async fn questions(spec: &ChatSpec, seed: u64) -> Result<Questions, TrialFailure> {
    let (prompts, answers) = (spec.prompt_tokens, spec.output_tokens);
    let Some(file) = spec.requests.clone() else { return Ok(Questions::MadeUp(Calls::new(seed, prompts, answers))) };
    let read = tokio::task::spawn_blocking(move || replay::read(&file, prompts, answers)).await;
    let read = read.unwrap_or_else(|error| Err(error.to_string()));
    let broken = |why: String| fail(FailureKind::Infrastructure, format!("bench.requests: {why}"));
    Replay::new(seed, read.map_err(broken)?).map(Questions::Recorded).ok_or_else(|| broken("there are none".to_owned()))
}

/// An endless sequence of what is asked.
enum Questions {
    MadeUp(Calls),
    Recorded(Replay),
}

/// One of them.
enum Question {
    MadeUp(Call),
    Recorded(Arc<Recorded>),
}

struct Chat {
    endpoint: Endpoint,
    questions: Mutex<Questions>,
}

impl Traffic for Chat {
    type Call = Question;
    type Answer = Answer;

    fn draw(&self) -> Question {
        match &mut *self.questions.lock().unwrap_or_else(PoisonError::into_inner) {
            Questions::MadeUp(calls) => Question::MadeUp(calls.draw()),
            Questions::Recorded(replay) => Question::Recorded(replay.draw()),
        }
    }

    async fn ask(&self, call: Question, scheduled: Instant, deadline: Instant) -> Result<Answer, RequestError> {
        match call {
            Question::MadeUp(call) => self.endpoint.ask(&call, scheduled, deadline).await,
            Question::Recorded(recorded) => self.endpoint.ask_again(&recorded, scheduled, deadline).await,
        }
    }
}

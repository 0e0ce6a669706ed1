//! A load of chat requests against an OpenAI-style endpoint, and what was measured under it.
//!
//! Open loop: requests are due at moments that were drawn beforehand, and their latency counts from then, whether or not
//! the server or this program was late; so a stall is seen by every request that fell into it. Closed loop: each client
//! sends its next request when the last one is answered, and latency counts from sending.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kloros_actors::facts::{BenchSpec, ChatLoad, ChatSlo, FailureKind, Metrics, TokenRange, TrialFailure};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    fail,
    load::{Arrivals, Call, Calls},
    request::{Endpoint, RequestError},
    summary::{Observation, Window, summarise},
};

/// How long requests may still run after the window, whatever their own limit is; what is not answered then is an error.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long a client of a closed loop pauses after an error, so that a dead endpoint is not asked in a tight loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Most requests of one measurement.
const REQUESTS_MAX: usize = 200_000;

/// Most clients, and most requests in flight.
const CLIENTS_MAX: u32 = 4096;

/// Longest warm-up, window or request, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

/// Most tokens that are sent or asked for in one request.
const TOKENS_MAX: u32 = 1 << 20;

/// A chat bench whose numbers can be worked with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ChatSpec {
    load: ChatLoad,
    prompt_tokens: TokenRange,
    output_tokens: TokenRange,
    warmup_s: f64,
    window_s: f64,
    slo: ChatSlo,
    request_timeout: Duration,
}

/// What a load measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Finite numbers only; what could not be measured is absent.
    pub(crate) metrics: Metrics,
    /// How many requests were scheduled within the window; 1 for a command.
    pub(crate) samples: u64,
    /// How long the window was, in milliseconds.
    pub(crate) window_ms: u64,
}

impl ChatSpec {
    /// Returns the chat bench in `spec`, `None` when it is another kind, or the first number that cannot be worked with.
    pub(crate) fn from_bench(spec: &BenchSpec) -> Option<Result<Self, TrialFailure>> {
        let BenchSpec::OpenaiChat { load, prompt_tokens, output_tokens, warmup_s, window_s, slo, request_timeout_s } =
            spec
        else {
            return None;
        };
        let limits = [
            ("warmup_s", *warmup_s, 0.0),
            ("window_s", *window_s, 0.001),
            ("request_timeout_s", *request_timeout_s, 0.001),
        ];
        let wrong = limits
            .iter()
            .find(|(_, value, min)| !(*min..=SECONDS_MAX).contains(value))
            .map(|(name, value, min)| format!("{name} is {value}; it must lie between {min} and {SECONDS_MAX}"))
            .or_else(|| wrong_range("prompt_tokens", *prompt_tokens))
            .or_else(|| wrong_range("output_tokens", *output_tokens))
            .or_else(|| wrong_load(*load, warmup_s + window_s));
        Some(match wrong {
            Some(wrong) => Err(fail(FailureKind::BenchFailed, format!("the bench cannot run: {wrong}"))),
            None => Ok(Self {
                load: *load,
                prompt_tokens: *prompt_tokens,
                output_tokens: *output_tokens,
                warmup_s: *warmup_s,
                window_s: *window_s,
                slo: *slo,
                request_timeout: Duration::from_secs_f64(*request_timeout_s),
            }),
        })
    }

    fn window(&self) -> Window {
        Window { start_s: self.warmup_s, end_s: self.warmup_s + self.window_s }
    }
}

fn wrong_range(name: &str, range: TokenRange) -> Option<String> {
    let TokenRange { min, max } = range;
    let fine = 1 <= min && min <= max && max <= TOKENS_MAX;
    (!fine).then(|| format!("{name} is {min} to {max}; it must be a range within 1 to {TOKENS_MAX}"))
}

fn wrong_load(load: ChatLoad, length_s: f64) -> Option<String> {
    let (number, name) = match load {
        ChatLoad::Closed { clients } => (clients, "clients"),
        ChatLoad::Poisson { in_flight_max, .. } => (in_flight_max, "in_flight_max"),
    };
    if !(1..=CLIENTS_MAX).contains(&number) {
        return Some(format!("{name} is {number}; it must lie between 1 and {CLIENTS_MAX}"));
    }
    let ChatLoad::Poisson { rate_per_s, .. } = load else { return None };
    let requests = rate_per_s * length_s;
    let fine = rate_per_s > 0.0 && requests <= REQUESTS_MAX as f64;
    (!fine).then(|| {
        format!(
            "rate_per_s is {rate_per_s}; it must be above 0 and make at most {REQUESTS_MAX} requests in {length_s} s"
        )
    })
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
    let start = Instant::now();
    let timing = Timing {
        start,
        end: start + Duration::from_secs_f64(spec.window().end_s),
        request_timeout: spec.request_timeout,
    };
    let observations = match spec.load {
        ChatLoad::Closed { clients } => closed(endpoint, timing, spec, clients, seed).await,
        ChatLoad::Poisson { rate_per_s, in_flight_max } => {
            let arrivals = Arrivals::steady(seed, rate_per_s);
            open(endpoint, timing, spec, arrivals, in_flight_max as usize, seed).await
        }
    }?;
    judge(url, spec, &observations)
}

fn judge(url: &str, spec: &ChatSpec, observations: &[Observation]) -> Result<Measured, TrialFailure> {
    if observations.len() >= REQUESTS_MAX {
        let detail = format!("{REQUESTS_MAX} requests were sent before the window ended; shorten window_s");
        return Err(fail(FailureKind::BenchFailed, detail));
    }
    let errors: Vec<&RequestError> =
        observations.iter().filter_map(|observation| observation.outcome.as_ref().err()).collect();
    let all_unconnected = errors.len() == observations.len()
        && errors.iter().all(|error| matches!(error, RequestError::Connect(_) | RequestError::Refused));
    if let Some(error) = errors.first().filter(|_| all_unconnected) {
        let detail = format!("none of {} requests reached {url}: {error}", errors.len());
        return Err(fail(FailureKind::Died, detail));
    }
    if let Some(error) = errors.first() {
        tracing::debug!(url, failed = errors.len(), sent = observations.len(), %error, "requests of a bench failed");
    }
    let summary = summarise(observations, spec.window(), spec.slo);
    if summary.samples == 0 {
        let detail = format!("no request fell into the window of {} s; lengthen window_s", spec.window_s);
        return Err(fail(FailureKind::BenchFailed, detail));
    }
    let window_ms = (spec.window_s * 1000.0).round() as u64;
    Ok(Measured { metrics: summary.metrics, samples: summary.samples, window_ms })
}

#[derive(Clone, Copy, Debug)]
struct Timing {
    start: Instant,
    end: Instant,
    request_timeout: Duration,
}

impl Timing {
    /// Sends `call`, which was due at `scheduled`, and notes what came of it.
    async fn observe(self, endpoint: &Endpoint, call: &Call, scheduled: Instant) -> Observation {
        let deadline = (scheduled + self.request_timeout).min(self.end + DRAIN_MAX);
        let outcome = endpoint.ask(call, scheduled, deadline).await;
        Observation { scheduled_s: self.offset_s(scheduled), outcome }
    }

    fn offset_s(self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }
}

async fn closed(
    endpoint: Endpoint,
    timing: Timing,
    spec: &ChatSpec,
    clients: u32,
    seed: u64,
) -> Result<Vec<Observation>, TrialFailure> {
    // One sequence for all clients: how fast each is decides who sends a request, never what is sent.
    let calls = Arc::new(Mutex::new(Calls::new(seed, spec.prompt_tokens, spec.output_tokens)));
    let sent = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (endpoint, calls, sent) = (endpoint.clone(), Arc::clone(&calls), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut observations = Vec::new();
            while Instant::now() < timing.end && sent.fetch_add(1, Ordering::Relaxed) < REQUESTS_MAX {
                let call = calls.lock().unwrap_or_else(PoisonError::into_inner).draw();
                let observation = timing.observe(&endpoint, &call, Instant::now()).await;
                if observation.outcome.is_err() {
                    sleep(ERROR_PAUSE).await;
                }
                observations.push(observation);
            }
            observations
        });
    }
    let mut observations = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        observations.extend(ended.map_err(|error| lost(&error))?);
    }
    Ok(observations)
}

async fn open(
    endpoint: Endpoint,
    timing: Timing,
    spec: &ChatSpec,
    arrivals: Arrivals,
    in_flight_max: usize,
    seed: u64,
) -> Result<Vec<Observation>, TrialFailure> {
    let mut calls = Calls::new(seed, spec.prompt_tokens, spec.output_tokens);
    let endpoint = Arc::new(endpoint);
    let seats = Arc::new(Semaphore::new(in_flight_max));
    let mut tasks = JoinSet::new();
    let mut observations = Vec::new();
    let moments = arrivals.map_while(|offset| timing.start.checked_add(offset)).take_while(|at| *at < timing.end);
    for scheduled in moments.take(REQUESTS_MAX) {
        sleep_until(scheduled).await;
        // Drawn also when it is refused, so that the requests after it are the same either way.
        let call = calls.draw();
        if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
            let endpoint = Arc::clone(&endpoint);
            tasks.spawn(async move {
                let observation = timing.observe(&endpoint, &call, scheduled).await;
                drop(seat);
                observation
            });
        } else {
            observations
                .push(Observation { scheduled_s: timing.offset_s(scheduled), outcome: Err(RequestError::Refused) });
        }
        while let Some(ended) = tasks.try_join_next() {
            observations.push(ended.map_err(|error| lost(&error))?);
        }
    }
    while let Some(ended) = tasks.join_next().await {
        observations.push(ended.map_err(|error| lost(&error))?);
    }
    Ok(observations)
}

fn lost(error: &tokio::task::JoinError) -> TrialFailure {
    fail(FailureKind::Infrastructure, format!("a client of the load was lost: {error}"))
}

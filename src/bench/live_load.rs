//! A steady load on the instance that serves, for demonstrations: quiet first, then busy, through every restart.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use kloros_actors::facts::TokenRange;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    load::{Arrivals, Call, Calls},
    request::Endpoint,
};

/// Longest time a request may take, whatever the spec says.
const REQUEST_MAX: Duration = Duration::from_secs(3600);

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LiveLoadSpec {
    /// Mean arrivals a second at first; 0 is silence.
    pub(crate) quiet_rate_per_s: f64,
    /// How long that lasts, in seconds.
    pub(crate) quiet_s: f64,
    /// Mean arrivals a second from then on.
    pub(crate) busy_rate_per_s: f64,
    /// When so many are in flight, further arrivals are not sent.
    pub(crate) in_flight_max: u32,
    /// Length of the prompts.
    pub(crate) prompt_tokens: TokenRange,
    /// Length of the answers that are asked for.
    pub(crate) output_tokens: TokenRange,
    /// When a request is given up.
    pub(crate) request_timeout: Duration,
}

/// What became of the requests so far; those in flight are in none but `arrived`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LiveCounts {
    /// Requests that were due.
    pub(crate) arrived: u64,
    /// Answered whole.
    pub(crate) answered: u64,
    /// Not answered, not whole, or too late.
    pub(crate) failed: u64,
    /// Not sent: too many were in flight, or there was no address to send to.
    pub(crate) refused: u64,
}

/// A load that is running; it ends when dropped.
#[derive(Debug)]
pub(crate) struct LiveLoad {
    task: JoinHandle<()>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    arrived: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

impl LiveLoad {
    /// Starts the load on whatever `url` names at each arrival; while it names nothing, arrivals are refused.
    ///
    /// Equal seeds give equal requests at equal moments. Errors are counted and otherwise ignored. It must be called within
    /// a tokio runtime.
    pub(crate) fn start<F>(url: F, spec: LiveLoadSpec, seed: u64) -> Self
    where
        F: Fn() -> Option<String> + Send + Sync + 'static,
    {
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(run(url, spec, seed, Arc::clone(&counters)));
        Self { task, counters }
    }

    /// Returns what became of the requests so far.
    pub(crate) fn counts(&self) -> LiveCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { arrived, answered, failed, refused } = &*self.counters;
        LiveCounts { arrived: read(arrived), answered: read(answered), failed: read(failed), refused: read(refused) }
    }

    /// Ends the load, cuts what is in flight, and returns what became of the requests.
    pub(crate) async fn stop(mut self) -> LiveCounts {
        self.task.abort();
        // It only says that the task was aborted.
        let _ = (&mut self.task).await;
        self.counts()
    }
}

impl Drop for LiveLoad {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(url: impl Fn() -> Option<String>, spec: LiveLoadSpec, seed: u64, counters: Arc<Counters>) {
    let mut calls = Calls::new(seed, spec.prompt_tokens, spec.output_tokens);
    let seats = Arc::new(Semaphore::new(spec.in_flight_max as usize));
    let mut endpoint: Option<Endpoint> = None;
    let mut requests = JoinSet::new();
    let start = Instant::now();
    let arrivals = Arrivals::ramp(seed, spec.quiet_rate_per_s, spec.quiet_s, spec.busy_rate_per_s);
    for scheduled in arrivals.map_while(|offset| start.checked_add(offset)) {
        sleep_until(scheduled).await;
        while requests.try_join_next().is_some() {}
        count(&counters.arrived);
        let call = calls.draw();
        endpoint = url().and_then(|url| renew(endpoint.take(), &url));
        match (&endpoint, Arc::clone(&seats).try_acquire_owned()) {
            (Some(endpoint), Ok(seat)) => {
                let deadline = Instant::now() + spec.request_timeout.min(REQUEST_MAX);
                requests.spawn(send(endpoint.clone(), call, scheduled, deadline, seat, Arc::clone(&counters)));
            }
            _ => count(&counters.refused),
        }
    }
    while requests.join_next().await.is_some() {}
}

/// Keeps the endpoint and its connections for as long as the address stays.
fn renew(endpoint: Option<Endpoint>, url: &str) -> Option<Endpoint> {
    let kept = endpoint.filter(|endpoint| endpoint.url() == url.trim_end_matches('/'));
    kept.or_else(|| Endpoint::new(url).inspect_err(|error| tracing::warn!(%error, "no http client to be had")).ok())
}

async fn send(
    endpoint: Endpoint,
    call: Call,
    scheduled: Instant,
    deadline: Instant,
    seat: OwnedSemaphorePermit,
    counters: Arc<Counters>,
) {
    match endpoint.ask(&call, scheduled, deadline).await {
        Ok(_) => count(&counters.answered),
        Err(error) => {
            tracing::debug!(%error, "a request of the live load failed");
            count(&counters.failed);
        }
    }
    drop(seat);
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! How a load is put on an instance, whatever is asked of it: when requests are sent, for how long, and what came of each.
//!
//! Open loop: requests are due at moments that were fixed beforehand, and their latency counts from then, whether or not the
//! server or this program was late; so a stall is seen by every request that fell into it. To count from sending, as a client
//! that waits for its answer does, leaves out just those: coordinated omission (Gil Tene, "How NOT to Measure Latency", 2013;
//! as wrk2 corrects it). Closed loop: each client sends its next request when the last one is answered, and latency counts
//! from sending, which tells how fast a service can be, not how long its users wait.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kloros_actors::facts::{BenchLoad, FailureKind, Metrics, TrialFailure};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    fail,
    load::Moments,
    request::RequestError,
    summary::{Observation, Window},
};

/// How long requests may still run after the window, whatever their own limit is; what is not answered then is an error.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How long a client of a closed loop pauses after an error, so that a dead endpoint is not asked in a tight loop.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Most clients, and most requests in flight.
const CLIENTS_MAX: u32 = 4096;

/// Longest warm-up, window or request, in seconds.
const SECONDS_MAX: f64 = 86_400.0;

/// How many standard deviations more requests than expected a Poisson load has room for; more come about once in a million loads.
const SPREADS_SPARE: f64 = 5.0;

/// What a load measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Finite numbers only; what could not be measured is absent.
    pub(crate) metrics: Metrics,
    /// How many requests were scheduled within the window; 1 for a command.
    pub(crate) samples: u64,
    /// How long the window was, in milliseconds.
    pub(crate) window_ms: u64,
    /// What became of the requests that failed, in words; `None` where none did.
    pub(crate) errors: Option<String>,
}

/// What is asked of an instance.
pub(super) trait Traffic: Send + Sync + 'static {
    /// One request, not yet sent.
    type Call: Send + 'static;
    /// What answers it.
    type Answer: Send + 'static;

    /// Returns the next request. There is one sequence for all clients: how fast each is decides who sends a request, never
    /// what is sent.
    fn draw(&self) -> Self::Call;

    /// Sends `call` and reads its answer to the end, until `deadline` at the latest. Times count from `scheduled`, which may
    /// lie before this: a request that had to wait for its turn waited.
    fn ask(
        &self,
        call: Self::Call,
        scheduled: Instant,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Answer, RequestError>> + Send;
}

/// When requests are sent, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    /// How they arrive.
    pub(super) load: BenchLoad,
    /// What is thrown away at the start, in seconds.
    pub(super) warmup_s: f64,
    /// The window that counts, in seconds.
    pub(super) window_s: f64,
    /// When a request is given up, in seconds.
    pub(super) request_timeout_s: f64,
    /// Most requests of one measurement.
    pub(super) requests_max: usize,
}

impl Plan {
    /// Returns the first number that cannot be worked with, in words.
    pub(super) fn wrong(&self) -> Option<String> {
        let limits = [
            ("warmup_s", self.warmup_s, 0.0),
            ("window_s", self.window_s, 0.001),
            ("request_timeout_s", self.request_timeout_s, 0.001),
        ];
        limits
            .iter()
            .find(|(_, value, min)| !(*min..=SECONDS_MAX).contains(value))
            .map(|(name, value, min)| format!("{name} is {value}; it must lie between {min} and {SECONDS_MAX}"))
            .or_else(|| self.wrong_load())
    }

    fn wrong_load(&self) -> Option<String> {
        let (number, name, rate_per_s) = match self.load {
            BenchLoad::Closed { clients } => (clients, "clients", None),
            BenchLoad::Constant { rate_per_s, in_flight_max } | BenchLoad::Poisson { rate_per_s, in_flight_max } => {
                (in_flight_max, "in_flight_max", Some(rate_per_s))
            }
        };
        if !(1..=CLIENTS_MAX).contains(&number) {
            return Some(format!("{name} is {number}; it must lie between 1 and {CLIENTS_MAX}"));
        }
        let (rate_per_s, length_s) = (rate_per_s?, self.warmup_s + self.window_s);
        let expected = rate_per_s * length_s;
        let by_chance = match self.load {
            BenchLoad::Poisson { .. } => SPREADS_SPARE * expected.sqrt(),
            BenchLoad::Closed { .. } | BenchLoad::Constant { .. } => 0.0,
        };
        // As strict as `drive`, which fails at `requests_max`. One is spare for the rounding of the last moment.
        let fine = rate_per_s > 0.0 && expected + by_chance + 1.0 < self.requests_max as f64;
        let limit = self.requests_max;
        (!fine).then(|| {
            format!(
                "rate_per_s is {rate_per_s}; it must be above 0 and make fewer than {limit} requests in {length_s} s, \
                 also by chance"
            )
        })
    }

    /// Returns the part of the load that counts.
    pub(super) fn window(&self) -> Window {
        Window { start_s: self.warmup_s, end_s: self.warmup_s + self.window_s }
    }

    /// Returns what was measured, or why that is nothing: no request fell into the window.
    pub(super) fn measured<A>(
        &self,
        observations: &[Observation<A>],
        metrics: Metrics,
        samples: u64,
    ) -> Result<Measured, TrialFailure> {
        if samples == 0 {
            let detail = format!("no request fell into the window of {} s; lengthen window_s", self.window_s);
            return Err(fail(FailureKind::BenchFailed, detail));
        }
        let window_ms = (self.window_s * 1000.0).round() as u64;
        Ok(Measured { metrics, samples, window_ms, errors: errors(observations) })
    }
}

/// Sends `traffic` as `plan` says and returns what became of each request. Equal seeds send equal requests at equal moments.
///
/// Fails with `died` when nobody listened at `url` at all, and with `bench_failed` when there were too many requests to keep.
pub(super) async fn drive<T: Traffic>(
    url: &str,
    traffic: T,
    plan: &Plan,
    seed: u64,
) -> Result<Vec<Observation<T::Answer>>, TrialFailure> {
    let start = Instant::now();
    let timing = Timing {
        start,
        end: start + Duration::from_secs_f64(plan.window().end_s),
        request_timeout: Duration::from_secs_f64(plan.request_timeout_s),
        requests_max: plan.requests_max,
    };
    let traffic = Arc::new(traffic);
    let observations = match plan.load {
        BenchLoad::Closed { clients } => closed(traffic, timing, clients).await,
        BenchLoad::Constant { rate_per_s, in_flight_max } => {
            open(traffic, timing, Moments::constant(rate_per_s), in_flight_max).await
        }
        BenchLoad::Poisson { rate_per_s, in_flight_max } => {
            open(traffic, timing, Moments::poisson(seed, rate_per_s), in_flight_max).await
        }
    }?;
    if observations.len() >= plan.requests_max {
        let detail = format!("{} requests were sent before the window ended; shorten window_s", plan.requests_max);
        return Err(fail(FailureKind::BenchFailed, detail));
    }
    reached(url, &observations)?;
    Ok(observations)
}

/// How many kinds of errors are named.
const ERRORS_NAMED: usize = 3;

/// Returns how many requests failed, and of what most of them; `None` where none did.
fn errors<A>(observations: &[Observation<A>]) -> Option<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for error in observations.iter().filter_map(|observation| observation.outcome.as_ref().err()) {
        *counts.entry(error.to_string()).or_default() += 1;
    }
    let failed: usize = counts.values().sum();
    let mut kinds: Vec<(String, usize)> = counts.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let named = kinds.iter().take(ERRORS_NAMED).map(|(what, count)| format!("{what} ({count})"));
    let named = named.collect::<Vec<_>>().join(", ");
    (failed > 0).then(|| format!("{failed} of {} requests failed: {named}", observations.len()))
}

/// Fails where nobody was reached at all.
fn reached<A>(url: &str, observations: &[Observation<A>]) -> Result<(), TrialFailure> {
    let errors: Vec<&RequestError> =
        observations.iter().filter_map(|observation| observation.outcome.as_ref().err()).collect();
    let all_unconnected = errors.len() == observations.len()
        && errors.iter().all(|error| matches!(error, RequestError::Connect(_) | RequestError::Refused));
    if let Some(error) = errors.first().filter(|_| all_unconnected) {
        let detail = format!("none of {} requests reached {url}: {error}", errors.len());
        return Err(fail(FailureKind::Died, detail));
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Timing {
    start: Instant,
    end: Instant,
    request_timeout: Duration,
    requests_max: usize,
}

impl Timing {
    /// Sends `call`, which was due at `scheduled`, and notes what came of it.
    async fn observe<T: Traffic>(self, traffic: &T, call: T::Call, scheduled: Instant) -> Observation<T::Answer> {
        let deadline = (scheduled + self.request_timeout).min(self.end + DRAIN_MAX);
        let late_s = scheduled.elapsed().as_secs_f64();
        let outcome = traffic.ask(call, scheduled, deadline).await;
        let took_s = scheduled.elapsed().as_secs_f64();
        Observation { scheduled_s: self.offset_s(scheduled), late_s, took_s, outcome }
    }

    fn offset_s(self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }
}

async fn closed<T: Traffic>(
    traffic: Arc<T>,
    timing: Timing,
    clients: u32,
) -> Result<Vec<Observation<T::Answer>>, TrialFailure> {
    let sent = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (traffic, sent) = (Arc::clone(&traffic), Arc::clone(&sent));
        tasks.spawn(async move {
            let mut observations = Vec::new();
            while Instant::now() < timing.end && sent.fetch_add(1, Ordering::Relaxed) < timing.requests_max {
                let observation = timing.observe(&*traffic, traffic.draw(), Instant::now()).await;
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

async fn open<T: Traffic>(
    traffic: Arc<T>,
    timing: Timing,
    moments: Moments,
    in_flight_max: u32,
) -> Result<Vec<Observation<T::Answer>>, TrialFailure> {
    let seats = Arc::new(Semaphore::new(in_flight_max as usize));
    let mut tasks = JoinSet::new();
    let mut observations = Vec::new();
    let moments = moments.map_while(|offset| timing.start.checked_add(offset)).take_while(|at| *at < timing.end);
    for scheduled in moments.take(timing.requests_max) {
        sleep_until(scheduled).await;
        // Drawn also when it is refused, so that the requests after it are the same either way.
        let call = traffic.draw();
        if let Ok(seat) = Arc::clone(&seats).try_acquire_owned() {
            let traffic = Arc::clone(&traffic);
            tasks.spawn(async move {
                let observation = timing.observe(&*traffic, call, scheduled).await;
                drop(seat);
                observation
            });
        } else {
            let (scheduled_s, late_s) = (timing.offset_s(scheduled), scheduled.elapsed().as_secs_f64());
            observations.push(Observation { scheduled_s, late_s, took_s: late_s, outcome: Err(RequestError::Refused) });
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Traffic for Echo {
        type Call = ();
        type Answer = ();

        fn draw(&self) {}

        async fn ask(&self, (): (), _: Instant, _: Instant) -> Result<(), RequestError> {
            Ok(())
        }
    }

    fn plan(load: BenchLoad, requests_max: usize) -> Plan {
        Plan { load, warmup_s: 0.0, window_s: 1.0, request_timeout_s: 1.0, requests_max }
    }

    fn constant(rate_per_s: f64) -> BenchLoad {
        BenchLoad::Constant { rate_per_s, in_flight_max: 64 }
    }

    fn poisson(rate_per_s: f64) -> BenchLoad {
        BenchLoad::Poisson { rate_per_s, in_flight_max: 64 }
    }

    #[test]
    fn a_load_that_may_reach_the_most_requests_is_refused_before_it_begins() {
        let cases = [
            (constant(198.0), true),
            (constant(199.0), false),
            (constant(200.0), false),
            // 5 standard deviations of 139 are 59.
            (poisson(139.0), true),
            (poisson(140.0), false),
            (poisson(199.0), false),
        ];
        for (load, fine) in cases {
            assert_eq!(plan(load, 200).wrong().is_none(), fine, "{load:?}");
        }
    }

    /// It used to pass the check with just as many requests as there may be, and to fail whenever it ran.
    #[tokio::test]
    async fn the_most_that_is_allowed_can_be_driven() {
        let plan = Plan { window_s: 0.1, ..plan(constant(1980.0), 200) };
        assert_eq!(plan.wrong(), None);
        assert_eq!(drive("", Echo, &plan, 7).await.map(|observations| observations.len()), Ok(198));
    }

    #[test]
    fn chance_does_not_bring_a_poisson_load_to_the_most_requests() {
        for seed in 0..1_000 {
            let moments = Moments::poisson(seed, 139.0).take_while(|at| *at < Duration::from_secs(1));
            assert!(moments.count() < 200, "seed {seed}");
        }
    }
}

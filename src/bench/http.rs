//! A load of requests for the pages of a web server, and what was measured under it.

use std::sync::{Mutex, PoisonError};

use kloros_actors::facts::{FailureKind, HttpBench, HttpPath, Metrics, TrialFailure};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{
    connections::{Connections, Page, Wanted},
    drive::{Measured, Plan, Traffic, drive},
    fail,
    request::RequestError,
    summary::{Observation, Window, add_quantiles, waits_ms},
};

/// Most requests of one measurement.
const REQUESTS_MAX: usize = 2_000_000;

const MS_PER_S: f64 = 1000.0;

/// Puts the load of `bench` on the server at `url` and returns what was measured.
///
/// Equal seeds ask for the same pages in the same order. Fails with `died` when nobody listened at all, and with `bench_failed`
/// when not one request was answered as it should be, or none fell into the window: what measures nobody has no numbers.
pub(crate) async fn measure(url: &str, bench: &HttpBench, seed: u64) -> Result<Measured, TrialFailure> {
    let plan = plan(bench).map_err(|wrong| fail(FailureKind::BenchFailed, format!("the bench cannot run: {wrong}")))?;
    let wanted = Wanted::new(url, bench)
        .map_err(|wrong| fail(FailureKind::BenchFailed, format!("the bench cannot run: {wrong}")))?;
    let site = Site { connections: Connections::new(wanted), pages: Mutex::new(Pages::new(seed, &bench.paths)) };
    let observations = drive(url, site, &plan, seed).await?;
    answered(url, &observations)?;
    let (metrics, samples) = summarise(&observations, plan.window(), plan.request_timeout_s, bench.slo_ms);
    plan.measured(&observations, metrics, samples)
}

fn plan(bench: &HttpBench) -> Result<Plan, String> {
    let &HttpBench { load, warmup_s, window_s, request_timeout_s, .. } = bench;
    let plan = Plan { load, warmup_s, window_s, request_timeout_s, requests_max: REQUESTS_MAX };
    let no_page = || (bench.paths.iter().all(|path| path.weight == 0)).then(|| "paths names no page".to_owned());
    plan.wrong().or_else(no_page).map_or(Ok(plan), Err)
}

/// Fails where requests were sent and not one was answered well.
fn answered<A>(url: &str, observations: &[Observation<A>]) -> Result<(), TrialFailure> {
    let first = observations.iter().map(|observation| observation.outcome.as_ref().err()).collect::<Option<Vec<_>>>();
    let Some(error) = first.as_deref().and_then(|errors| errors.first()) else { return Ok(()) };
    let detail = format!("none of {} requests to {url} was answered well; the first: {error}", observations.len());
    Err(fail(FailureKind::BenchFailed, detail))
}

struct Site {
    connections: Connections,
    pages: Mutex<Pages>,
}

impl Traffic for Site {
    /// The place of the page in the list.
    type Call = usize;
    type Answer = Page;

    fn draw(&self) -> usize {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner).draw()
    }

    async fn ask(&self, page: usize, scheduled: Instant, deadline: Instant) -> Result<Page, RequestError> {
        self.connections.ask(page, scheduled, deadline).await
    }
}

/// An endless sequence of pages, each as often as its weight says; equal seeds give equal sequences.
struct Pages {
    rng: StdRng,
    /// Where the share of each page ends, among the numbers that are drawn from.
    ends: Vec<u64>,
}

impl Pages {
    fn new(seed: u64, paths: &[HttpPath]) -> Self {
        let mut end = 0;
        let ends = paths.iter().map(|path| {
            end += u64::from(path.weight);
            end
        });
        Self { ends: ends.collect(), rng: StdRng::seed_from_u64(seed) }
    }

    fn draw(&mut self) -> usize {
        let total = self.ends.last().copied().unwrap_or(0).max(1);
        let drawn = self.rng.random_range(0..total);
        self.ends.iter().position(|end| drawn < *end).unwrap_or(0)
    }
}

/// Returns what the requests of the window amount to, and how many they were.
///
/// Latencies are of requests that were due within the window, to the last byte of the answer, and counted from when they were due;
/// one that was not answered well counts as the time-out. Throughput is the right answers that ended within the window, whenever
/// they were due.
fn summarise(
    observations: &[Observation<Page>],
    window: Window,
    request_timeout_s: f64,
    slo_ms: Option<f64>,
) -> (Metrics, u64) {
    let mut metrics = Metrics::new();
    let counted: Vec<_> = observations.iter().filter(|each| window.contains(each.scheduled_s)).collect();
    let (count, window_s) = (counted.len() as f64, window.end_s - window.start_s);
    if counted.is_empty() {
        return (metrics, 0);
    }
    let pages: Vec<&Page> = counted.iter().filter_map(|each| each.outcome.as_ref().ok()).collect();
    metrics.insert("error_rate".to_owned(), (counted.len() - pages.len()) as f64 / count);
    for (name, is_of_it) in KINDS {
        let errors = counted.iter().filter(|each| each.outcome.as_ref().is_err_and(is_of_it)).count();
        metrics.insert(name.to_owned(), errors as f64 / count);
    }
    if let Some(slo_ms) = slo_ms {
        let good = pages.iter().filter(|page| page.latency_ms <= slo_ms).count();
        metrics.insert("goodput_per_s".to_owned(), good as f64 / window_s);
    }
    let latencies_ms = waits_ms(&counted, request_timeout_s, |page| page.latency_ms);
    add_quantiles(&mut metrics, "latency", latencies_ms, &[0.5, 0.9, 0.99, 0.999]);
    let late_ms = counted.iter().map(|each| each.late_s * MS_PER_S).collect();
    add_quantiles(&mut metrics, "send_late", late_ms, &[0.99]);
    let ended = observations.iter().filter_map(|each| Some((each.scheduled_s, each.outcome.as_ref().ok()?)));
    let bodies: Vec<u64> = ended
        .filter(|(scheduled_s, page)| window.contains(scheduled_s + page.latency_ms / MS_PER_S))
        .map(|(_, page)| page.bytes)
        .collect();
    metrics.insert("requests_per_s".to_owned(), bodies.len() as f64 / window_s);
    metrics.insert("bytes_per_s".to_owned(), bodies.iter().map(|bytes| *bytes as f64).sum::<f64>() / window_s);
    if !bodies.is_empty() {
        let bytes = metrics["bytes_per_s"] / metrics["requests_per_s"];
        metrics.insert("bytes_per_request".to_owned(), bytes);
    }
    metrics.retain(|_, value| value.is_finite());
    (metrics, counted.len() as u64)
}

/// The share of a kind of errors, and which errors are of it.
type Kind = (&'static str, fn(&RequestError) -> bool);

/// The kinds that are told apart; together they are `error_rate`.
const KINDS: [Kind; 4] = [
    ("status_error_rate", |error| matches!(error, RequestError::Status(_))),
    ("timeout_rate", |error| matches!(error, RequestError::Timeout)),
    ("refused_rate", |error| matches!(error, RequestError::Refused)),
    ("broken_rate", |error| {
        matches!(error, RequestError::Connect(_) | RequestError::Broken(_) | RequestError::Garbage(_))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(scheduled_s: f64, latency_ms: f64, bytes: u64) -> Observation<Page> {
        Observation {
            scheduled_s,
            late_s: 0.001,
            took_s: latency_ms / MS_PER_S,
            outcome: Ok(Page { latency_ms, bytes }),
        }
    }

    fn failed(scheduled_s: f64, error: RequestError) -> Observation<Page> {
        Observation { scheduled_s, late_s: 0.0, took_s: 0.001, outcome: Err(error) }
    }

    const WINDOW: Window = Window { start_s: 10.0, end_s: 20.0 };
    const TIMEOUT_S: f64 = 5.0;

    #[test]
    fn each_kind_of_error_has_its_share_and_together_they_are_all_errors() {
        let observations = [
            answered(11.0, 5.0, 100),
            failed(12.0, RequestError::Status(503)),
            failed(13.0, RequestError::Timeout),
            failed(14.0, RequestError::Refused),
            failed(15.0, RequestError::Broken("cut".to_owned())),
            failed(15.0, RequestError::Connect("nobody".to_owned())),
            failed(16.0, RequestError::Garbage("too long".to_owned())),
            answered(19.0, 2_000.0, 100),
        ];
        let (metrics, samples) = summarise(&observations, WINDOW, TIMEOUT_S, Some(10.0));
        assert_eq!(samples, 8);
        let expected = [
            ("bytes_per_request", 100.0),
            ("bytes_per_s", 10.0),
            ("broken_rate", 0.375),
            ("error_rate", 0.75),
            ("goodput_per_s", 0.1),
            ("latency_p50_ms", 5_000.0),
            ("refused_rate", 0.125),
            ("requests_per_s", 0.1),
            ("status_error_rate", 0.125),
            ("timeout_rate", 0.125),
        ];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
    }

    /// A fast half and a slow one: to lose the slow half used to look like a gain.
    #[test]
    fn a_server_that_loses_its_slow_half_has_no_better_percentile() {
        let half = |latency_ms| (0..50).map(move |_| answered(15.0, latency_ms, 1)).collect::<Vec<_>>();
        let slow = [half(10.0), half(4_000.0)].concat();
        for error in [RequestError::Timeout, RequestError::Refused, RequestError::Status(503)] {
            let lost = [half(10.0), vec![failed(15.0, error); 50]].concat();
            let (before, _) = summarise(&slow, WINDOW, TIMEOUT_S, None);
            let (after, _) = summarise(&lost, WINDOW, TIMEOUT_S, None);
            assert_eq!((before["latency_p99_ms"], after["latency_p99_ms"]), (4_000.0, 5_000.0));
            assert!(after["latency_p50_ms"] > before["latency_p50_ms"]);
            assert_eq!((before["requests_per_s"], after["requests_per_s"]), (10.0, 5.0));
        }
        let late = Observation { took_s: 7.0, ..failed(15.0, RequestError::Timeout) };
        let (metrics, _) = summarise(&[answered(15.0, 10.0, 1), late.clone(), late.clone()], WINDOW, TIMEOUT_S, None);
        assert_eq!(metrics["latency_p50_ms"], 7_000.0, "it took longer than the time-out");
        let (metrics, _) = summarise(&[late.clone(), late], WINDOW, TIMEOUT_S, None);
        assert_eq!(metrics.get("latency_p50_ms"), None, "nobody was answered well");
    }

    #[test]
    fn a_percentile_needs_an_observation_beyond_it() {
        for (count, names) in [(9, "p50"), (10, "p50 p90"), (100, "p50 p90 p99"), (1000, "p50 p90 p99 p999")] {
            let observations: Vec<_> = (0..count).map(|_| answered(15.0, 2.0, 1)).collect();
            let (metrics, _) = summarise(&observations, WINDOW, TIMEOUT_S, None);
            let found: Vec<&str> = ["p50", "p90", "p99", "p999"]
                .into_iter()
                .filter(|p| metrics.contains_key(&format!("latency_{p}_ms")))
                .collect();
            assert_eq!(found.join(" "), names, "{count} observations");
            assert_eq!(metrics.get("goodput_per_s"), None);
            assert_eq!(metrics.contains_key("send_late_p99_ms"), count >= 100);
        }
    }

    #[test]
    fn what_is_outside_the_window_counts_nowhere_but_in_what_ended_within() {
        let (metrics, samples) =
            summarise(&[answered(9.9, 200.0, 50), answered(20.0, 1.0, 50)], WINDOW, TIMEOUT_S, None);
        assert_eq!((metrics, samples), (Metrics::new(), 0));
        let (metrics, samples) =
            summarise(&[answered(9.9, 200.0, 50), answered(12.0, 1.0, 50)], WINDOW, TIMEOUT_S, None);
        assert_eq!((metrics["requests_per_s"], samples), (0.2, 1));
    }

    #[test]
    fn pages_are_asked_for_as_often_as_they_weigh_and_alike_for_a_seed() {
        let path = |weight| HttpPath { path: "/".to_owned(), weight };
        let draw = |seed, paths: &[HttpPath]| {
            let mut pages = Pages::new(seed, paths);
            (0..10_000).map(|_| pages.draw()).collect::<Vec<_>>()
        };
        let paths = [path(3), path(0), path(1)];
        assert_eq!(draw(7, &paths), draw(7, &paths));
        assert_ne!(draw(7, &paths), draw(8, &paths));
        let share = |place| draw(7, &paths).iter().filter(|drawn| **drawn == place).count() as f64 / 10_000.0;
        assert!((share(0) - 0.75).abs() < 0.02, "{}", share(0));
        assert_eq!(share(1), 0.0);
        assert_eq!(draw(7, &[]).iter().max(), Some(&0), "without pages there is nothing to panic about");
    }
}

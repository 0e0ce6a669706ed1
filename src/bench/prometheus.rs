//! Measures a service by what it counts itself while its users are at it: nothing is asked but its metrics.
//!
//! Counters and histograms are compared between the ends of the window; gauges are looked at all along. How much the users ask differs
//! from one window to the next, so such a bench is for what hardly depends on that, as a latency or a share, and old and new settings
//! take turns.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use kloros_actors::facts::{FailureKind, Metrics, PrometheusBench, PrometheusSeries, PrometheusTake, TrialFailure};
use tokio::time::{Instant, sleep, sleep_until};

use super::{drive::Measured, fail};
use crate::exposition::{Bucket, STARTED_AT, Sample, fetch, grown, quantile};

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

/// How often gauges are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many scrapes in a row may fail before the measurement does: one that serves slowly is what is measured.
const FAILED_MAX: u32 = 5;

/// Watches what counts on this `port`, or where `bench` says, for the window, and returns what was made of it.
///
/// A metric is absent where the service has none of that name and labels. Fails with `disturbed` where fewer events fell into the window
/// than the bench asks for, with `died` when the service was started anew within it, and with `bench_failed` when its metrics could not
/// be read, or nothing could be made of any.
pub(super) async fn measure(port: u16, bench: &PrometheusBench) -> Result<Measured, TrialFailure> {
    let url = format!("http://{}:{}{}", Ipv4Addr::LOCALHOST, bench.port.unwrap_or(port), bench.path);
    sleep(Duration::from_secs_f64(bench.warmup_s)).await;
    let first = patiently(&url, bench).await?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(bench.window_s);
    let mut levels = Levels::default();
    levels.add(&first, bench);
    let mut failed = 0;
    loop {
        let next = Instant::now() + LOOK_EVERY;
        if next >= end {
            break;
        }
        sleep_until(next).await;
        match scraped(&url, bench).await {
            Ok(page) => {
                page.goes_on_from(&first)?;
                levels.add(&page, bench);
                failed = 0;
            }
            Err(error) => {
                failed += 1;
                if failed > FAILED_MAX {
                    return Err(error);
                }
            }
        }
    }
    sleep_until(end).await;
    let last = patiently(&url, bench).await?;
    let window_s = begun.elapsed().as_secs_f64();
    last.goes_on_from(&first)?;
    levels.add(&last, bench);
    made_of(bench, (&first, &last), &levels, window_s)
        .map_err(|failure| fail(failure.kind, format!("{url}: {}", failure.detail)))
}

/// Scrapes until it is answered: where the window begins and ends is known by the clock.
async fn patiently(url: &str, bench: &PrometheusBench) -> Result<Page, TrialFailure> {
    let mut failed = 0;
    loop {
        match scraped(url, bench).await {
            Err(_) if failed < FAILED_MAX => failed += 1,
            answered => return answered,
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn scraped(url: &str, bench: &PrometheusBench) -> Result<Page, TrialFailure> {
    let text = fetch(url).await.map_err(|why| fail(FailureKind::BenchFailed, format!("{url}: {why}")))?;
    Ok(Page::of(&text, bench))
}

/// Returns the metrics, and how many events the window had at most.
///
/// Where too few were asked for, the whole run is void, whatever else could be made of it: that users are asleep is no fault of the
/// settings.
fn made_of(
    bench: &PrometheusBench,
    (first, last): (&Page, &Page),
    levels: &Levels,
    window_s: f64,
) -> Result<Measured, TrialFailure> {
    let (mut metrics, mut samples) = (Metrics::new(), 1.0_f64);
    for (name, series) in &bench.series {
        let labels = &series.labels;
        // What was made, where something could be, and of how many events; nothing where the service does not count it.
        let made = match &series.take {
            PrometheusTake::Rate => {
                last.growth(first, &series.of, labels).map(|events| (Some(events / window_s), events))
            }
            PrometheusTake::ShareOf(whole) => {
                let part = last.growth(first, &series.of, labels);
                let whole = last.growth(first, whole, &NO_LABELS);
                part.zip(whole).map(|(part, whole)| (Some(part / whole), whole))
            }
            PrometheusTake::Quantile(q) => {
                let new = last.buckets(series).and_then(|now| match first.buckets(series) {
                    Some(then) => grown(&now, &then),
                    // It began at nothing, as the first request does.
                    None => Some(now),
                });
                new.and_then(|new| Some((quantile(&new, *q), new.last()?.count)))
            }
            PrometheusTake::Mean => {
                let sum = last.growth(first, &format!("{}_sum", series.of), labels);
                let count = last.growth(first, &format!("{}_count", series.of), labels);
                sum.zip(count).map(|(sum, count)| (Some(sum / count), count))
            }
            PrometheusTake::Level => levels.mean(name).map(|level| (Some(level), f64::INFINITY)),
        };
        let Some((value, events)) = made else { continue };
        if events < f64::from(bench.events_min) {
            let detail = format!("{events:.0} of {name} in {window_s:.0} s, where {} say something", bench.events_min);
            return Err(fail(FailureKind::Disturbed, format!("too little was asked for: {detail}")));
        }
        if let Some(value) = value.map(|value| value * series.scale).filter(|value| value.is_finite()) {
            metrics.insert(name.clone(), value);
            samples = samples.max(if events.is_finite() { events } else { 1.0 });
        }
    }
    if metrics.is_empty() {
        let asked: BTreeSet<&str> = bench.series.values().map(|series| series.of.as_str()).collect();
        let asked = asked.into_iter().collect::<Vec<_>>().join(", ");
        return Err(fail(FailureKind::BenchFailed, format!("nothing could be made of {asked}")));
    }
    let length_ms = (window_s * 1000.0).round() as u64;
    Ok(Measured { metrics, samples: samples.round() as u64, window_ms: length_ms, errors: None })
}

/// What one scrape said of what is asked for.
struct Page {
    samples: Vec<Sample>,
    started_at: Option<f64>,
}

impl Page {
    fn of(text: &str, bench: &PrometheusBench) -> Self {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for series in bench.series.values() {
            match &series.take {
                PrometheusTake::Quantile(_) => _ = names.insert(format!("{}_bucket", series.of)),
                PrometheusTake::Mean => {
                    names.extend(["_sum", "_count"].map(|suffix| format!("{}{suffix}", series.of)));
                }
                PrometheusTake::ShareOf(whole) => names.extend([series.of.clone(), whole.clone()]),
                PrometheusTake::Rate | PrometheusTake::Level => _ = names.insert(series.of.clone()),
            }
        }
        let is_asked = |sample: &Sample| sample.name == STARTED_AT || names.contains(&sample.name);
        let samples = text.lines().filter_map(Sample::read).filter(|sample| sample.value.is_finite());
        let samples: Vec<Sample> = samples.filter(is_asked).collect();
        let started_at = samples.iter().find(|sample| sample.name == STARTED_AT).map(|sample| sample.value);
        Self { samples, started_at }
    }

    /// Fails where the service was started anew since `first`.
    fn goes_on_from(&self, first: &Self) -> Result<(), TrialFailure> {
        if self.started_at == first.started_at {
            return Ok(());
        }
        Err(fail(FailureKind::Died, "the service was started anew while it was measured"))
    }

    /// Returns the samples of the metric that have the labels.
    fn having<'a>(&'a self, metric: &str, labels: &'a BTreeMap<String, String>) -> impl Iterator<Item = &'a Sample> {
        let metric = metric.to_owned();
        self.samples.iter().filter(move |sample| {
            sample.name == metric && labels.iter().all(|(name, value)| sample.labels.get(name) == Some(value))
        })
    }

    /// Returns the sum over the label sets; nothing where there is none.
    fn sum(&self, metric: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
        let values: Vec<f64> = self.having(metric, labels).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Returns what a counter grew by since `first`. A label set that was not there yet began at nothing, as the first error does. One
    /// that fell was started anew, and says nothing.
    fn growth(&self, first: &Self, metric: &str, labels: &BTreeMap<String, String>) -> Option<f64> {
        let before = first.sum(metric, labels);
        // Where nothing was counted under these labels yet, it is nothing; a counter that has no labels of these names counts
        // something else.
        let has_names = |sample: &Sample| labels.keys().all(|name| sample.labels.contains_key(name));
        let is_one = || self.having(metric, &NO_LABELS).any(has_names);
        let now = self.sum(metric, labels).or_else(|| is_one().then_some(0.0))?;
        Some(now - before.unwrap_or(0.0)).filter(|grown| *grown >= 0.0)
    }

    /// Returns the buckets of a histogram, summed over its label sets.
    fn buckets(&self, series: &PrometheusSeries) -> Option<Vec<Bucket>> {
        let mut buckets: Vec<Bucket> = Vec::new();
        for sample in self.having(&format!("{}_bucket", series.of), &series.labels) {
            let le: f64 = sample.labels.get("le")?.replace("+Inf", "inf").parse().ok()?;
            match buckets.iter_mut().find(|bucket| bucket.le == le) {
                Some(bucket) => bucket.count += sample.value,
                None => buckets.push(Bucket { le, count: sample.value }),
            }
        }
        buckets.sort_by(|one, other| one.le.total_cmp(&other.le));
        (!buckets.is_empty()).then_some(buckets)
    }
}

/// How high gauges stood, by the name of the domain's metric.
#[derive(Default)]
struct Levels(BTreeMap<String, Vec<f64>>);

impl Levels {
    fn add(&mut self, page: &Page, bench: &PrometheusBench) {
        for (name, series) in bench.series.iter().filter(|(_, series)| series.take == PrometheusTake::Level) {
            if let Some(level) = page.sum(&series.of, &series.labels) {
                self.0.entry(name.clone()).or_default().push(level);
            }
        }
    }

    fn mean(&self, name: &str) -> Option<f64> {
        self.0.get(name).map(|levels| levels.iter().sum::<f64>() / levels.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use axum::{Router, routing::get};

    use super::*;

    const LATENCY: &str = "http_request_duration_seconds";

    fn series(of: &str, take: PrometheusTake) -> PrometheusSeries {
        PrometheusSeries { of: of.to_owned(), take, labels: BTreeMap::new(), scale: 1.0 }
    }

    fn labelled(name: &str, value: &str, series: PrometheusSeries) -> PrometheusSeries {
        PrometheusSeries { labels: [(name.to_owned(), value.to_owned())].into(), ..series }
    }

    fn bench(all: &[(&str, PrometheusSeries)]) -> PrometheusBench {
        PrometheusBench {
            path: "/metrics".to_owned(),
            port: None,
            series: all.iter().map(|(name, series)| ((*name).to_owned(), series.clone())).collect(),
            events_min: 20,
            warmup_s: 0.0,
            window_s: 1.0,
        }
    }

    type Made = Result<Vec<(String, f64)>, FailureKind>;

    fn made(bench: &PrometheusBench, first: &str, last: &str) -> Made {
        let (first, last) = (Page::of(first, bench), Page::of(last, bench));
        let mut levels = Levels::default();
        levels.add(&first, bench);
        levels.add(&last, bench);
        made_of(bench, (&first, &last), &levels, 10.0)
            .map(|made| made.metrics.into_iter().collect())
            .map_err(|failure| failure.kind)
    }

    fn page(good: u32, bad: Option<u32>, fast: u32, all: u32, busy: u32) -> String {
        let bad =
            bad.map_or_else(String::new, |bad| format!("http_requests_total{{status=\"500\",a=\"b, c\"}} {bad}\n"));
        format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{status=\"200\"}} {good}\n{bad}\
             {LATENCY}_bucket{{le=\"0.1\"}} {fast}\n{LATENCY}_bucket{{le=\"0.2\"}} {all}\n{LATENCY}_bucket{{le=\"+Inf\"}} {all}\n\
             {LATENCY}_sum {}\n{LATENCY}_count {all}\nbusy:workers{{pool=\"a\"}} {busy}\nbusy:workers{{pool=\"b\"}} 1\nnoise NaN\n",
            f64::from(all) * 0.05
        )
    }

    fn everything() -> PrometheusBench {
        let errors = series("http_requests_total", PrometheusTake::ShareOf("http_requests_total".to_owned()));
        let p95 = series(LATENCY, PrometheusTake::Quantile(0.95));
        bench(&[
            ("error_rate", labelled("status", "500", errors)),
            ("busy", series("busy:workers", PrometheusTake::Level)),
            ("mean_ms", PrometheusSeries { scale: 1000.0, ..series(LATENCY, PrometheusTake::Mean) }),
            ("p95_ms", PrometheusSeries { scale: 1000.0, ..p95 }),
            ("requests_per_s", series("http_requests_total", PrometheusTake::Rate)),
        ])
    }

    #[test]
    fn what_counts_is_what_happened_between_the_ends_of_the_window() {
        let made = made(&everything(), &page(1000, Some(50), 100, 200, 3), &page(1080, Some(70), 150, 300, 5)).unwrap();
        let expected =
            [("busy", 5.0), ("error_rate", 0.2), ("mean_ms", 50.0), ("p95_ms", 190.0), ("requests_per_s", 10.0)];
        assert_eq!(made.len(), expected.len(), "{made:?}");
        for ((name, value), (expected_name, expected)) in made.iter().zip(expected) {
            assert!(name == expected_name && (value - expected).abs() < 1e-9, "{name} {value} is not {expected}");
        }
    }

    #[test]
    fn what_was_not_counted_yet_began_at_nothing_and_without_errors_their_share_is_nought() {
        let named = |made: Made, wanted: &str| {
            made.unwrap().into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
        };
        let rate = |first: Option<u32>, last: Option<u32>| {
            let made = made(&everything(), &page(0, first, 0, 0, 1), &page(80, last, 50, 100, 1));
            named(made, "error_rate")
        };
        assert_eq!((rate(None, None), rate(None, Some(20)), rate(Some(5), Some(5))), (Some(0.0), Some(0.2), Some(0.0)));
        let from_nothing = made(&everything(), "", &page(80, None, 50, 100, 1));
        assert_eq!(named(from_nothing, "p95_ms"), Some(190.0));
        // A label that the counter does not have is a mistake, and no sign of health.
        let errors = series("http_requests_total", PrometheusTake::ShareOf("http_requests_total".to_owned()));
        let mistaken = bench(&[
            ("busy", series("busy:workers", PrometheusTake::Level)),
            ("error_rate", labelled("code", "500", errors)),
        ]);
        let made = made(&mistaken, &page(0, None, 0, 0, 1), &page(80, None, 50, 100, 1)).unwrap();
        assert_eq!(made, [("busy".to_owned(), 2.0)]);
    }

    /// A quiet night would have been the fault of the settings that ran in it.
    #[test]
    fn a_window_in_which_too_little_was_asked_for_is_void_whatever_else_could_be_made_of_it() {
        let of = |first: &str, last: &str| made(&everything(), first, last);
        assert_eq!(of(&page(0, Some(0), 0, 0, 1), &page(19, Some(0), 19, 19, 1)), Err(FailureKind::Disturbed));
        assert_eq!(of(&page(0, Some(0), 0, 0, 1), &page(0, Some(0), 0, 0, 1)), Err(FailureKind::Disturbed));
    }

    #[test]
    fn of_a_counter_that_fell_and_of_what_is_no_page_nothing_is_made() {
        let of = |first: &str, last: &str| made(&everything(), first, last);
        let fell = of(&page(1000, Some(0), 900, 1000, 1), &page(100, Some(0), 90, 100, 1));
        assert_eq!(fell, Ok(vec![("busy".to_owned(), 2.0)]));
        for last in ["", "<html>", "http_requests_total{ 7", "busy:workers NaN"] {
            assert_eq!(of("", last), Err(FailureKind::BenchFailed), "{last}");
        }
    }

    /// Serves a page that counts on with each scrape, before each of which the service was started anew if `restarts`.
    async fn service(restarts: bool) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scrapes = Arc::new(AtomicU32::new(0));
        let text = move || {
            let scrapes = scrapes.fetch_add(1, Ordering::SeqCst);
            let started_at = if restarts { scrapes } else { 7 };
            let counted = page(100 * scrapes, None, 50 * scrapes, 100 * scrapes, 1);
            std::future::ready(format!("process_start_time_seconds {started_at}\n{counted}"))
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/metrics", get(text))).await });
        port
    }

    #[tokio::test]
    async fn a_real_service_is_measured_by_its_own_page() {
        let port = service(false).await;
        let measured = measure(port, &everything()).await.unwrap();
        assert_eq!(
            measured.metrics.keys().collect::<Vec<_>>(),
            ["busy", "error_rate", "mean_ms", "p95_ms", "requests_per_s"]
        );
        assert!(measured.samples >= 100 && measured.window_ms >= 1000, "{measured:?}");
        let elsewhere = PrometheusBench { port: Some(port), ..everything() };
        assert!(measure(1, &elsewhere).await.is_ok());
    }

    #[tokio::test]
    async fn a_service_that_was_started_anew_or_says_nothing_is_no_number() {
        let anew = measure(service(true).await, &everything()).await.unwrap_err();
        assert_eq!(anew.kind, FailureKind::Died, "{anew:?}");
        let nothing = bench(&[("x", series("no_such_total", PrometheusTake::Rate))]);
        let nothing = measure(service(false).await, &nothing).await.unwrap_err();
        assert!(nothing.kind == FailureKind::BenchFailed && nothing.detail.contains("no_such_total"), "{nothing:?}");
        let nobody = measure(1, &everything()).await.unwrap_err();
        assert!(
            nobody.kind == FailureKind::BenchFailed && nobody.detail.contains("http://127.0.0.1:1/metrics"),
            "{nobody:?}"
        );
    }
}

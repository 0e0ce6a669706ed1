//! What a service says about itself: its Prometheus text, read again and again.
//!
//! Counters and histograms count from the start of the service, so what is of interest is what happened since the last
//! scrape. After a restart of the service there is nothing to compare with once, and the readings are absent.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use kloros_actors::{
    facts::Reading,
    meters,
    seams::{Clock, Probe, ProbeError},
};
use tokio::time::Instant;

use crate::exposition::{Bucket, STARTED_AT, Sample, fetch, grown, quantile};

/// How a reading comes about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// The quantile of what a histogram of seconds has newly observed, in milliseconds.
    NewQuantileMs(f64),
    /// How much a counter grew in a second.
    Rate,
    /// How much a counter grew for each that this one grew by.
    Share(&'static str),
    /// The sum of a gauge over its label sets.
    Sum,
    /// The largest of a gauge's label sets.
    Max,
}

/// A reading, how it comes about, and the metrics it may stand in: newest name first, `:` written as `_`.
type Row = (&'static str, How, &'static [&'static str]);

/// What is read; vLLM's names with their earlier ones, then llama.cpp's, then those of our own conversation endpoint.
const TABLE: [Row; 13] = [
    ("e2e_p50_ms", How::NewQuantileMs(0.5), &["vllm_e2e_request_latency_seconds", meters::CONVERSATION_DURATION]),
    ("e2e_p95_ms", How::NewQuantileMs(0.95), &["vllm_e2e_request_latency_seconds", meters::CONVERSATION_DURATION]),
    ("ttft_p95_ms", How::NewQuantileMs(0.95), &["vllm_time_to_first_token_seconds", meters::CONVERSATION_FIRST_PIECE]),
    (
        "itl_p95_ms",
        How::NewQuantileMs(0.95),
        &["vllm_inter_token_latency_seconds", "vllm_time_per_output_token_seconds"],
    ),
    (
        "tokens_per_s",
        How::Rate,
        &[
            "vllm_generation_tokens_total",
            "vllm_generation_tokens",
            "llamacpp_tokens_predicted_total",
            meters::CONVERSATION_TOKENS_TOTAL,
        ],
    ),
    (
        "requests_per_s",
        How::Rate,
        &["vllm_request_success_total", "vllm_request_success", meters::CONVERSATION_REQUESTS_TOTAL],
    ),
    ("error_ratio", How::Share(meters::CONVERSATION_REQUESTS_TOTAL), &[meters::CONVERSATION_ERRORS_TOTAL]),
    ("repetition_ratio", How::Share(meters::CONVERSATION_REQUESTS_TOTAL), &[meters::CONVERSATION_REPETITIONS_TOTAL]),
    ("context_hit_ratio", How::Share(meters::CONVERSATION_REQUESTS_TOTAL), &[meters::CONVERSATION_HITS_TOTAL]),
    ("preemptions_per_s", How::Rate, &["vllm_num_preemptions_total", "vllm_num_preemptions"]),
    ("running", How::Sum, &["vllm_num_requests_running", "llamacpp_requests_processing"]),
    ("waiting", How::Sum, &["vllm_num_requests_waiting", "llamacpp_requests_deferred"]),
    (
        "kv_usage_ratio",
        How::Max,
        &["vllm_kv_cache_usage_perc", "vllm_gpu_cache_usage_perc", "llamacpp_kv_cache_usage_ratio"],
    ),
];

/// Finds out where a service's metrics are; `None` while it has no address.
pub(crate) type Address = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The probe of one service.
pub(crate) struct ServiceProbe {
    domain: String,
    address: Address,
    clock: Arc<dyn Clock>,
    /// The metric that says how much is asked of the service, `:` written as `_`.
    load: Option<String>,
    before: Mutex<Option<Snapshot>>,
}

impl ServiceProbe {
    /// Returns the probe of `domain`, whose metrics are at the URL that `address` returns at the time. `load` names the metric that
    /// says how much is asked of it.
    pub(crate) fn new(domain: String, address: Address, load: Option<&str>, clock: Arc<dyn Clock>) -> Self {
        let load = load.map(|name| name.replace(':', "_"));
        Self { domain, address, clock, load, before: Mutex::new(None) }
    }
}

#[async_trait]
impl Probe for ServiceProbe {
    fn name(&self) -> String {
        self.domain.clone()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        let Some(url) = (self.address)() else {
            return Err(ProbeError::Absent(format!("{} has no address yet", self.domain)));
        };
        let text = fetch(&url).await.map_err(|why| ProbeError::Unreachable(format!("{url}: {why}")))?;
        let now = Snapshot::of(&text, &url, self.load.as_deref(), Instant::now());
        let at_ms = self.clock.now_ms();
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = now.since(before.as_ref(), self.load.as_deref());
        *before = Some(now);
        let reading = |seen: Seen| Reading {
            subject: self.domain.clone(),
            metric: seen.metric.to_owned(),
            value: seen.value,
            samples: seen.samples,
            at_ms,
            source: url.clone(),
        };
        Ok(seen.into_iter().map(reading).collect())
    }
}

/// A reading without its circumstances.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    metric: &'static str,
    value: f64,
    samples: u64,
}

/// What one scrape said, summed over label sets.
#[derive(Clone, Debug)]
struct Snapshot {
    url: String,
    taken: Instant,
    numbers: BTreeMap<String, Number>,
    histograms: BTreeMap<String, Vec<Bucket>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Number {
    sum: f64,
    max: f64,
}

impl Snapshot {
    fn of(text: &str, url: &str, load: Option<&str>, taken: Instant) -> Self {
        // The comments are passed over: a sample's name says all that is asked, whether or not its type was declared.
        let samples = text.lines().filter_map(|line| wanted(line, load)).filter_map(|line| Sample::read(&line));
        let mut snapshot = Self { url: url.to_owned(), taken, numbers: BTreeMap::new(), histograms: BTreeMap::new() };
        for sample in samples.filter(|sample| sample.value.is_finite()) {
            let value = sample.value;
            let bound = sample.labels.get("le").and_then(|le| le.replace("+Inf", "inf").parse().ok());
            if let (Some(histogram), Some(le)) = (sample.name.strip_suffix("_bucket"), bound) {
                snapshot.add_to_bucket(histogram, le, value);
            } else {
                let number = snapshot.numbers.entry(sample.name).or_insert(Number { sum: 0.0, max: value });
                number.sum += value;
                number.max = number.max.max(value);
            }
        }
        snapshot
    }

    fn add_to_bucket(&mut self, histogram: &str, le: f64, count: f64) {
        let buckets = self.histograms.entry(histogram.to_owned()).or_default();
        match buckets.iter_mut().find(|bucket| bucket.le == le) {
            Some(bucket) => bucket.count += count,
            None => buckets.push(Bucket { le, count }),
        }
        buckets.sort_by(|one, other| one.le.total_cmp(&other.le));
    }

    /// Returns what can be said now, and of counters and histograms since `before`.
    fn since(&self, before: Option<&Snapshot>, load: Option<&str>) -> Vec<Seen> {
        let before = before.filter(|before| before.url == self.url && before.started_at() == self.started_at());
        let rows = TABLE.iter().filter_map(|(metric, how, names)| self.reading(metric, *how, names, before));
        let asked = load.and_then(|name| {
            let counts = name.ends_with("_total") || name.ends_with("_count");
            let (metric, how) = if counts { ("asked_per_s", How::Rate) } else { ("asked", How::Sum) };
            self.reading(metric, how, &[name], before)
        });
        let arrivals = before.and_then(|before| self.arrivals(before));
        rows.chain(asked).chain(arrivals).filter(|seen| seen.value.is_finite()).collect()
    }

    /// Returns how many requests came in a second: those that were answered, and those by which there are more inside than before.
    /// That is what is asked of a service that answers late or never.
    fn arrivals(&self, before: &Snapshot) -> Option<Seen> {
        let names = |metric: &str| TABLE.iter().find(|(each, ..)| *each == metric).map(|(.., names)| *names);
        let sum = |of: &Snapshot, metric: &str| {
            let found = names(metric)?.iter().find_map(|name| of.numbers.get(*name))?;
            Some(found.sum)
        };
        let inside = |of: &Snapshot| Some(sum(of, "running")? + sum(of, "waiting")?);
        let answered = sum(self, "requests_per_s")? - sum(before, "requests_per_s")?;
        let elapsed_s = self.taken.duration_since(before.taken).as_secs_f64();
        if answered < 0.0 || elapsed_s <= 0.0 {
            return None;
        }
        // The counts of one scrape are not taken in the same instant.
        let came = (answered + inside(self)? - inside(before)?).max(0.0);
        Some(Seen { metric: "arrivals_per_s", value: came / elapsed_s, samples: came.round() as u64 })
    }

    /// Returns how much a counter grew; `None` where one fell: it was started anew, and how far it had come before is not known.
    fn growth(&self, name: &str, before: &Snapshot) -> Option<f64> {
        let grown = self.numbers.get(name)?.sum - before.numbers.get(name)?.sum;
        (grown >= 0.0).then_some(grown)
    }

    fn started_at(&self) -> Option<f64> {
        self.numbers.get(STARTED_AT).map(|number| number.sum)
    }

    fn reading(&self, metric: &'static str, how: How, names: &[&str], before: Option<&Snapshot>) -> Option<Seen> {
        names.iter().find_map(|name| {
            let (value, samples) = match how {
                How::Sum => (self.numbers.get(*name)?.sum, 1),
                How::Max => (self.numbers.get(*name)?.max, 1),
                How::Share(of) => {
                    let (part, all) = (self.growth(name, before?)?, self.growth(of, before?)?);
                    (all > 0.0).then_some((part / all, all.round() as u64))?
                }
                How::Rate => {
                    let before = before?;
                    let grown = self.growth(name, before)?;
                    let elapsed_s = self.taken.duration_since(before.taken).as_secs_f64();
                    (elapsed_s > 0.0).then_some((grown / elapsed_s, grown.round() as u64))?
                }
                How::NewQuantileMs(q) => {
                    let new = grown(self.histograms.get(*name)?, before?.histograms.get(*name)?)?;
                    (quantile(&new, q)? * 1000.0, new.last()?.count.round() as u64)
                }
            };
            Some(Seen { metric, value, samples })
        })
    }
}

/// Returns the line, its metric's `:` written as `_`, if it is a sample of a metric that is asked for.
fn wanted(line: &str, load: Option<&str>) -> Option<String> {
    let line = line.trim_start();
    let end = line.find(|each: char| each == '{' || each.is_whitespace())?;
    let name = line[..end].replace(':', "_");
    let asked = |metric: &&str| name == **metric || name.strip_suffix("_bucket") == Some(metric);
    let in_row = |(_, how, names): &Row| names.iter().any(asked) || matches!(how, How::Share(of) if *of == name);
    let asked = name == STARTED_AT || load == Some(name.as_str()) || TABLE.iter().any(in_row);
    asked.then(|| name + &line[end..])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{Router, http::StatusCode, routing::get};
    use proptest::prelude::*;

    use super::*;
    use crate::exposition::TEXT_BYTES_MAX;

    fn vllm(observations: [u32; 3], tokens: u32) -> String {
        let [fast, slow, all] = observations;
        format!(
            "# HELP vllm:e2e_request_latency_seconds Histogram of e2e request latency in seconds.
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_sum{{engine=\"0\",model_name=\"a/b=c, d\"}} 12.5
vllm:e2e_request_latency_seconds_bucket{{engine=\"0\",le=\"0.1\",model_name=\"a/b=c, d\"}} {fast}.0
vllm:e2e_request_latency_seconds_bucket{{engine=\"0\",le=\"0.2\",model_name=\"a/b=c, d\"}} {slow}.0
vllm:e2e_request_latency_seconds_bucket{{engine=\"0\",le=\"+Inf\",model_name=\"a/b=c, d\"}} {all}.0
vllm:e2e_request_latency_seconds_count{{engine=\"0\",model_name=\"a/b=c, d\"}} {all}.0
vllm:generation_tokens_total{{engine=\"0\"}} {tokens}
vllm:generation_tokens_total{{engine=\"1\"}} 1e3
vllm:num_requests_running{{engine=\"0\"}} 3.0
vllm:num_requests_running{{engine=\"1\"}} 2.0
vllm:gpu_cache_usage_perc{{engine=\"0\"}} 0.25
vllm:gpu_cache_usage_perc{{engine=\"1\"}} 0.75
vllm:num_requests_waiting NaN
"
        )
    }

    fn seen(before: &str, after: &str, elapsed_s: u64) -> BTreeMap<&'static str, (f64, u64)> {
        let start = Instant::now();
        let before = Snapshot::of(before, "http://here", Some("asked_total"), start);
        let after = Snapshot::of(after, "http://here", Some("asked_total"), start + Duration::from_secs(elapsed_s));
        after
            .since(Some(&before), Some("asked_total"))
            .into_iter()
            .map(|seen| (seen.metric, (seen.value, seen.samples)))
            .collect()
    }

    #[test]
    fn readings_are_of_what_happened_since_the_last_scrape() {
        let seen = seen(&vllm([100, 200, 200], 500), &vllm([110, 220, 220], 900), 4);
        let expected = [
            ("e2e_p50_ms", (100.0, 20)),
            ("e2e_p95_ms", (190.0, 20)),
            ("tokens_per_s", (100.0, 400)),
            ("running", (5.0, 1)),
            ("kv_usage_ratio", (0.75, 1)),
        ];
        assert_eq!(seen, expected.into());
    }

    #[test]
    fn a_conversation_endpoint_tells_how_much_of_what_is_asked_fails_or_is_said_again() {
        let text = |answered: u32, late: u32, failed: u32, repeated: u32, took: [u32; 2]| {
            let [fast, all] = took;
            format!(
                "kloros_conversation_requests_total{{outcome=\"answered\"}} {answered}
kloros_conversation_requests_total{{outcome=\"timeout\"}} {late}
kloros_conversation_errors_total {failed}
kloros_conversation_repetitions_total {repeated}
kloros_conversation_context_hits_total 5
kloros_conversation_duration_seconds_bucket{{le=\"1\"}} {fast}
kloros_conversation_duration_seconds_bucket{{le=\"+Inf\"}} {all}
"
            )
        };
        let told = seen(&text(10, 2, 2, 1, [8, 8]), &text(26, 6, 6, 3, [24, 24]), 10);
        assert_eq!(told["error_ratio"], (0.2, 20));
        assert_eq!(told["repetition_ratio"], (0.1, 20));
        assert_eq!(
            (told["context_hit_ratio"].0, told["requests_per_s"].0, told["e2e_p50_ms"]),
            (0.0, 2.0, (500.0, 16))
        );
        let quiet = seen(&text(10, 2, 2, 1, [8, 8]), &text(10, 2, 2, 1, [8, 8]), 10);
        assert!(!quiet.contains_key("error_ratio"), "of nothing there is no share: {quiet:?}");
        let anew = seen(&text(10, 2, 2, 1, [8, 8]), &text(20, 2, 0, 1, [9, 9]), 10);
        assert!(!anew.contains_key("error_ratio"), "{anew:?}");
    }

    #[test]
    fn what_is_asked_of_a_service_is_known_also_while_it_answers_nothing() {
        let text = |answered: u32, running: u32, waiting: u32, asked: u32| {
            format!(
                "vllm:request_success_total {answered}\nvllm:num_requests_running {running}\nvllm:num_requests_waiting {waiting}\nasked_total{{a=\"b\"}} {asked}\n"
            )
        };
        let seen_of = |before: String, after: String| seen(&before, &after, 2);
        let stalled = seen_of(text(10, 2, 0, 100), text(10, 4, 6, 130));
        assert_eq!(
            (stalled["requests_per_s"].0, stalled["arrivals_per_s"], stalled["asked_per_s"].0),
            (0.0, (4.0, 8), 15.0)
        );
        let relieved = seen_of(text(10, 4, 6, 1), text(20, 0, 0, 1));
        assert_eq!(relieved["arrivals_per_s"].0, 0.0);
        let anew = seen_of(text(10, 4, 6, 5), text(0, 0, 0, 1));
        assert!(!anew.contains_key("arrivals_per_s") && !anew.contains_key("asked_per_s"), "{anew:?}");
    }

    #[test]
    fn the_first_scrape_says_only_what_holds_now() {
        let first = Snapshot::of(&vllm([1, 2, 3], 4), "http://here", None, Instant::now()).since(None, None);
        let metrics: Vec<&str> = first.iter().map(|seen| seen.metric).collect();
        assert_eq!(metrics, ["running", "kv_usage_ratio"]);
    }

    #[test]
    fn without_new_requests_there_is_no_latency_and_the_rate_is_nought() {
        let seen = seen(&vllm([1, 2, 3], 4), &vllm([1, 2, 3], 4), 1);
        assert!(!seen.contains_key("e2e_p95_ms"));
        assert_eq!(seen["tokens_per_s"], (0.0, 0));
    }

    #[test]
    fn after_a_restart_of_the_service_there_is_nothing_to_compare_with() {
        let fell = seen(&vllm([100, 200, 200], 500), &vllm([10, 20, 20], 90), 1);
        assert!(!fell.contains_key("e2e_p95_ms") && !fell.contains_key("tokens_per_s"), "{fell:?}");
        let started =
            |at: u32| format!("process_start_time_seconds {at}\n{}", vllm([100 + at, 200 + at, 200 + at], at));
        let passed = seen(&started(10), &started(50), 1);
        assert!(!passed.contains_key("e2e_p95_ms") && !passed.contains_key("tokens_per_s"), "{passed:?}");
        assert!(passed.contains_key("running"));
    }

    #[test]
    fn another_address_is_another_service() {
        let before = Snapshot::of(&vllm([1, 2, 3], 4), "http://one", None, Instant::now());
        let after = Snapshot::of(&vllm([2, 3, 4], 9), "http://other", None, Instant::now());
        assert!(
            after.since(Some(&before), None).iter().all(|seen| matches!(seen.metric, "running" | "kv_usage_ratio"))
        );
    }

    #[test]
    fn earlier_and_other_names_are_read_as_well() {
        let old = |tokens: u32| {
            format!(
                "vllm:time_per_output_token_seconds_bucket{{le=\"0.01\"}} {tokens}\n\
                 vllm:time_per_output_token_seconds_bucket{{le=\"+Inf\"}} {tokens}\n\
                 llamacpp:tokens_predicted_total {tokens}\nllamacpp:requests_deferred 7\n"
            )
        };
        let seen = seen(&old(10), &old(20), 2);
        assert_eq!(seen["itl_p95_ms"].0, 9.5);
        assert_eq!(seen["tokens_per_s"], (5.0, 10));
        assert_eq!(seen["waiting"], (7.0, 1));
    }

    #[test]
    fn text_that_is_no_metrics_says_nothing() {
        for text in ["", "<html>", "vllm:num_requests_running", "vllm:num_requests_running{ 1", "{} 1", "\u{0} \u{1}"] {
            assert_eq!(Snapshot::of(text, "", None, Instant::now()).since(None, None), [], "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(lines in prop::collection::vec("(vllm:num_requests_running|vllm:request_success_total)?[ -~]{0,30}", 0..6)) {
            let text = lines.join("\n");
            let _ = seen(&text, &text, 1);
        }
    }

    struct Noon;

    impl Clock for Noon {
        fn now_ms(&self) -> u64 {
            43_200_000
        }

        fn utc_offset_s(&self) -> i32 {
            0
        }
    }

    async fn serve(router: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        url
    }

    #[tokio::test]
    async fn a_service_is_read_over_http() {
        let asked = Arc::new(Mutex::new(0_u32));
        let metrics = move || {
            let mut asked = asked.lock().unwrap();
            *asked += 10;
            let text = vllm([*asked, *asked, *asked], *asked);
            async { text }
        };
        let large = "# a comment\n".repeat(TEXT_BYTES_MAX / 12 + 1);
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/large", get(|| async { large }))
            .route("/down", get(|| async { StatusCode::SERVICE_UNAVAILABLE }));
        let url = serve(router).await;
        let probe = |path: &str| {
            let url = format!("{url}{path}");
            ServiceProbe::new("lab".to_owned(), Box::new(move || Some(url.clone())), None, Arc::new(Noon))
        };
        let lab = probe("/metrics");
        lab.read().await.unwrap();
        let readings = lab.read().await.unwrap();
        let p95 = readings.iter().find(|reading| reading.metric == "e2e_p95_ms").unwrap();
        let expected = Reading {
            subject: "lab".to_owned(),
            metric: "e2e_p95_ms".to_owned(),
            value: 95.0,
            samples: 10,
            at_ms: 43_200_000,
            source: format!("{url}/metrics"),
        };
        assert_eq!(*p95, expected);
        for path in ["/large", "/down", "/none"] {
            assert!(matches!(probe(path).read().await, Err(ProbeError::Unreachable(_))), "{path}");
        }
        let nowhere = ServiceProbe::new("lab".to_owned(), Box::new(|| None), None, Arc::new(Noon));
        assert!(matches!(nowhere.read().await, Err(ProbeError::Absent(_))));
    }
}

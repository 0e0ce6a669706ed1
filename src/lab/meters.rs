//! What the lab counts, and how it is written down: Prometheus text under vLLM's names.
//!
//! The lab is a service of its own, so its meters are not the daemon's. They are few and written by one thread; a recorder
//! shared by the whole process would mix them with those of other engines in the same test.

use std::{
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// The model's name, in labels and in the API.
pub(super) const MODEL_NAME: &str = "kloros-lab";

/// vLLM's buckets, in seconds.
const FIRST_TOKEN_BUCKETS: [f64; 18] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0];
const BETWEEN_TOKENS_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0];
const END_TO_END_BUCKETS: [f64; 14] = [0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 40.0];

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// It has the number of tokens that were asked for.
    Length,
    /// Its reader went away, or the server stopped.
    Abort,
}

impl FinishReason {
    /// Returns the label.
    pub(super) fn label(self) -> &'static str {
        match self {
            FinishReason::Length => "length",
            FinishReason::Abort => "abort",
        }
    }
}

/// Counts of durations up to each bound.
#[derive(Debug)]
pub(super) struct Histogram {
    bounds: &'static [f64],
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    /// One more than there are bounds: the last is for what lies beyond them.
    buckets: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: Mutex::new(Counts { buckets: vec![0; bounds.len() + 1], sum: 0.0 }) }
    }

    /// Counts one duration.
    pub(super) fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.buckets[bucket] += 1;
        counts.sum += seconds;
    }
}

/// Everything the lab counts.
#[derive(Debug)]
pub(super) struct Meters {
    /// Sequences in the batch.
    pub(super) running: AtomicU64,
    /// Sequences in the queue.
    pub(super) waiting: AtomicU64,
    /// Bits of the share of cache blocks in use.
    kv_usage: AtomicU64,
    /// Sequences whose cache was dropped for want of blocks.
    pub(super) preemptions: AtomicU64,
    /// Prompt tokens of the requests that were admitted.
    pub(super) prompt_tokens: AtomicU64,
    /// Tokens chosen.
    pub(super) generation_tokens: AtomicU64,
    length: AtomicU64,
    abort: AtomicU64,
    /// From receipt to the first token.
    pub(super) first_token: Histogram,
    /// From each token to the next.
    pub(super) between_tokens: Histogram,
    /// From receipt to the last token.
    pub(super) end_to_end: Histogram,
}

impl Meters {
    /// Returns meters that have counted nothing.
    pub(super) fn new() -> Self {
        Meters {
            running: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            kv_usage: AtomicU64::new(0.0_f64.to_bits()),
            preemptions: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            generation_tokens: AtomicU64::new(0),
            length: AtomicU64::new(0),
            abort: AtomicU64::new(0),
            first_token: Histogram::new(&FIRST_TOKEN_BUCKETS),
            between_tokens: Histogram::new(&BETWEEN_TOKENS_BUCKETS),
            end_to_end: Histogram::new(&END_TO_END_BUCKETS),
        }
    }

    /// Notes how full batch, queue and cache are.
    pub(super) fn level(&self, running: usize, waiting: usize, usage: f64) {
        self.running.store(running as u64, Relaxed);
        self.waiting.store(waiting as u64, Relaxed);
        self.kv_usage.store(usage.to_bits(), Relaxed);
    }

    /// Counts the end of a request.
    pub(super) fn finished(&self, reason: FinishReason) {
        let counter = match reason {
            FinishReason::Length => &self.length,
            FinishReason::Abort => &self.abort,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Returns all meters in the Prometheus text format.
    pub(super) fn render(&self) -> String {
        let mut page = Page(String::with_capacity(8 * 1024));
        let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
        page.single("num_requests_running", "gauge", "Number of requests in the batch", count(&self.running));
        page.single("num_requests_waiting", "gauge", "Number of requests in the queue", count(&self.waiting));
        let usage = f64::from_bits(self.kv_usage.load(Relaxed));
        page.single("kv_cache_usage_perc", "gauge", "Share of cache blocks in use, 1 means all", usage);
        let preemptions = count(&self.preemptions);
        page.single("num_preemptions_total", "counter", "Number of sequences preempted for want of cache", preemptions);
        let prompt = count(&self.prompt_tokens);
        page.single("prompt_tokens_total", "counter", "Number of prompt tokens admitted", prompt);
        let generated = count(&self.generation_tokens);
        page.single("generation_tokens_total", "counter", "Number of tokens generated", generated);
        page.head("request_success_total", "counter", "Number of requests ended, by reason");
        for (reason, counter) in [(FinishReason::Length, &self.length), (FinishReason::Abort, &self.abort)] {
            let label = format!(",finished_reason=\"{}\"", reason.label());
            page.sample("request_success_total", &label, count(counter));
        }
        page.histogram("time_to_first_token_seconds", "Seconds from receipt to the first token", &self.first_token);
        page.histogram("inter_token_latency_seconds", "Seconds from a token to the next", &self.between_tokens);
        page.histogram("e2e_request_latency_seconds", "Seconds from receipt to the last token", &self.end_to_end);
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.0, "vllm:{name}{{model_name=\"{MODEL_NAME}\"{labels}}} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.head(name, kind, help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let counts = histogram.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = histogram.bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]);
        let mut total = 0;
        for (bound, bucket) in bounds.zip(&counts.buckets) {
            total += bucket;
            self.sample(&format!("{name}_bucket"), &format!(",le=\"{bound}\""), total as f64);
        }
        self.sample(&format!("{name}_sum"), "", counts.sum);
        self.sample(&format!("{name}_count"), "", total as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_on_a_bound_counts_as_within_it() {
        let histogram = Histogram::new(&FIRST_TOKEN_BUCKETS);
        for millis in [1, 100, 50_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut page = Page(String::new());
        page.histogram("t", "h", &histogram);
        for line in [
            "le=\"0.001\"} 1",
            "le=\"0.08\"} 1",
            "le=\"0.1\"} 2",
            "le=\"40\"} 2",
            "le=\"+Inf\"} 3",
            "_count{model_name=\"kloros-lab\"} 3",
        ] {
            assert!(page.0.contains(line), "{line} is not in\n{}", page.0);
        }
    }

    #[test]
    fn every_meter_is_there_from_the_start_with_help_and_type() {
        let text = Meters::new().render();
        assert_eq!(text.matches("# HELP vllm:").count(), 10);
        assert_eq!(text.matches("# TYPE vllm:").count(), 10);
        assert!(text.contains("vllm:request_success_total{model_name=\"kloros-lab\",finished_reason=\"abort\"} 0\n"));
    }
}

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kloros_actors::{
    facts::Reading,
    meters,
    seams::{Clock, Probe, ProbeError},
};

/// How many requests between two readings are told apart; further ones are counted.
const SAMPLES_MAX: usize = 8192;

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// From the request to the first piece of its answer; absent where there was none.
    pub(super) first: Option<Duration>,
    /// From the request to its whole answer; absent where it has none.
    pub(super) whole: Option<Duration>,
    /// How many tokens the answer has.
    pub(super) tokens: u64,
    /// Whether it says again what was said.
    pub(super) is_repetition: bool,
    /// Whether anything was found that has to do with what was asked.
    pub(super) is_hit: bool,
    /// Whether its failure is one of the service.
    pub(super) is_error: bool,
}

#[derive(Debug, Default)]
struct Window {
    firsts_ms: Vec<f64>,
    wholes_ms: Vec<f64>,
    requests: u64,
    errors: u64,
    answers: u64,
    repetitions: u64,
    hits: u64,
    tokens: u64,
    since: Option<Instant>,
}

/// What conversations tell of the service that answers them: read by the observer as any probe is.
///
/// Each name begins with `chat_`: a model server that is scraped tells the same of itself under the plain names, of other
/// requests and from another place, and what is learned of one says nothing about the other.
#[derive(Clone)]
pub(crate) struct Signals {
    window: Arc<Mutex<Window>>,
    domain: String,
    source: String,
    clock: Arc<dyn Clock>,
}

impl Signals {
    /// Returns signals about `domain` that are heard at `source`.
    pub(crate) fn new(domain: &str, source: &str, clock: Arc<dyn Clock>) -> Self {
        let window = Window { since: Some(Instant::now()), ..Window::default() };
        Self { window: Arc::new(Mutex::new(window)), domain: domain.to_owned(), source: source.to_owned(), clock }
    }

    /// Notes what became of a request.
    pub(super) fn note(&self, outcome: &Outcome) {
        if let Some(first) = outcome.first {
            metrics::histogram!(meters::CONVERSATION_FIRST_PIECE).record(first.as_secs_f64());
        }
        if let Some(whole) = outcome.whole {
            metrics::histogram!(meters::CONVERSATION_DURATION).record(whole.as_secs_f64());
        }
        metrics::counter!(meters::CONVERSATION_TOKENS_TOTAL).increment(outcome.tokens);
        metrics::counter!(meters::CONVERSATION_ERRORS_TOTAL).increment(u64::from(outcome.is_error));
        metrics::counter!(meters::CONVERSATION_REPETITIONS_TOTAL).increment(u64::from(outcome.is_repetition));
        metrics::counter!(meters::CONVERSATION_HITS_TOTAL).increment(u64::from(outcome.is_hit));
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.requests += 1;
        window.errors += u64::from(outcome.is_error);
        window.hits += u64::from(outcome.is_hit);
        window.tokens += outcome.tokens;
        if let Some(whole) = outcome.whole {
            window.answers += 1;
            window.repetitions += u64::from(outcome.is_repetition);
            push(&mut window.wholes_ms, whole);
        }
        if let Some(first) = outcome.first {
            push(&mut window.firsts_ms, first);
        }
    }

    /// Returns the readings since the last time; none where nobody asked for anything.
    fn take(&self, now: Instant) -> Vec<Reading> {
        let mut window = std::mem::replace(
            &mut *self.window.lock().unwrap_or_else(PoisonError::into_inner),
            Window { since: Some(now), ..Window::default() },
        );
        let seconds = window.since.map_or(0.0, |since| now.saturating_duration_since(since).as_secs_f64());
        if window.requests == 0 || seconds <= 0.0 {
            return Vec::new();
        }
        let at_ms = self.clock.now_ms();
        let reading = |metric: &str, value: f64, samples: u64| Reading {
            subject: self.domain.clone(),
            metric: format!("chat_{metric}"),
            value,
            samples,
            at_ms,
            source: self.source.clone(),
        };
        let share = |part: u64, all: u64| part as f64 / all as f64;
        let mut readings = vec![
            reading("requests_per_s", window.requests as f64 / seconds, window.requests),
            reading("error_ratio", share(window.errors, window.requests), window.requests),
            reading("context_hit_ratio", share(window.hits, window.requests), window.requests),
        ];
        if window.answers > 0 {
            readings.push(reading("repetition_ratio", share(window.repetitions, window.answers), window.answers));
            readings.push(reading("tokens_per_s", window.tokens as f64 / seconds, window.answers));
        }
        for (name, samples) in [("e2e", &mut window.wholes_ms), ("ttft", &mut window.firsts_ms)] {
            samples.sort_by(f64::total_cmp);
            for (suffix, rank) in [("p50_ms", 0.5), ("p95_ms", 0.95)] {
                if let Some(value) = quantile(samples, rank) {
                    readings.push(reading(&format!("{name}_{suffix}"), value, samples.len() as u64));
                }
            }
        }
        readings
    }
}

fn push(samples: &mut Vec<f64>, sample: Duration) {
    if samples.len() < SAMPLES_MAX {
        samples.push(sample.as_secs_f64() * 1000.0);
    }
}

/// Returns the nearest rank of `sorted`; `None` when it is empty.
fn quantile(sorted: &[f64], rank: f64) -> Option<f64> {
    let place = (rank * sorted.len() as f64).ceil() as usize;
    sorted.get(place.max(1) - 1).copied()
}

#[async_trait]
impl Probe for Signals {
    fn name(&self) -> String {
        "conversations".to_owned()
    }

    async fn read(&self) -> Result<Vec<Reading>, ProbeError> {
        Ok(self.take(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn readings_tell_of_what_happened_since_the_last_and_silence_tells_nothing() {
        let signals = Signals::new("chat", "http://x", Arc::new(SystemClock));
        assert_eq!(signals.take(Instant::now()), []);
        let answered =
            Outcome { first: Some(ms(10)), whole: Some(ms(100)), tokens: 50, is_hit: true, ..Outcome::default() };
        signals.note(&answered);
        signals.note(&Outcome { whole: Some(ms(300)), is_repetition: true, ..answered });
        signals.note(&Outcome { is_error: true, ..Outcome::default() });
        let readings = signals.take(Instant::now() + Duration::from_secs(1));
        let value = |metric: &str| {
            readings.iter().find(|reading| reading.metric == format!("chat_{metric}")).map(|reading| reading.value)
        };
        assert_eq!(value("e2e_p95_ms"), Some(300.0));
        assert_eq!(value("e2e_p50_ms"), Some(100.0));
        assert_eq!(value("ttft_p50_ms"), Some(10.0));
        assert_eq!(value("repetition_ratio"), Some(0.5));
        assert!((value("error_ratio").unwrap() - 1.0 / 3.0).abs() < 1e-12);
        assert!(readings.iter().all(|reading| reading.value.is_finite() && reading.subject == "chat"));
        assert!(
            readings.iter().all(|reading| reading.metric.starts_with("chat_")),
            "a scraped server has the plain names"
        );
        assert_eq!(signals.take(Instant::now() + Duration::from_secs(2)), []);
    }

    #[test]
    fn a_flood_of_requests_fills_no_memory() {
        let signals = Signals::new("chat", "http://x", Arc::new(SystemClock));
        for _ in 0..SAMPLES_MAX + 10 {
            signals.note(&Outcome { whole: Some(ms(1)), ..Outcome::default() });
        }
        assert_eq!(signals.window.lock().unwrap().wholes_ms.len(), SAMPLES_MAX);
    }
}

//! A load of texts to be spoken by an OpenAI-style speech endpoint, and what was measured under it.

use std::sync::{Mutex, PoisonError};

use kloros_actors::facts::{FailureKind, Metrics, SpeechBench, SpeechSlo, TokenRange, TrialFailure};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    drive::{Measured, Plan, Traffic, drive},
    fail,
    load::Calls,
    request::{RequestError, classify, one_request_each, words},
    sound::Sound,
    summary::{Observation, Window, add_quantiles, quantiles, sort, waits_ms},
};

/// Most requests of one measurement.
const REQUESTS_MAX: usize = 200_000;

/// Longest text, in words of four letters.
const TOKENS_MAX: u32 = 100_000;

/// Most that is read of one answer, in bytes: a quarter of an hour of CD quality.
const SOUND_BYTES_MAX: u64 = 256 << 20;

const MS_PER_S: f64 = 1000.0;

/// A text that was spoken whole.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Speech {
    /// From the scheduled moment to the first sample, in milliseconds.
    first_byte_ms: f64,
    /// From the scheduled moment to the last byte, in milliseconds.
    e2e_ms: f64,
    /// How long it takes to listen to, in seconds.
    audio_s: f64,
}

/// Puts the load of `bench` on the endpoint below `url` and returns what was measured.
///
/// Equal seeds send equal texts. Fails with `died` when nobody listened at all, and with `bench_failed` when not one text was spoken
/// whole, or none fell into the window: what is mute has no numbers.
pub(crate) async fn measure(url: &str, bench: &SpeechBench, seed: u64) -> Result<Measured, TrialFailure> {
    let plan = plan(bench).map_err(|wrong| fail(FailureKind::BenchFailed, format!("the bench cannot run: {wrong}")))?;
    let client = one_request_each()
        .map_err(|error| fail(FailureKind::Infrastructure, format!("cannot make an http client: {error}")))?;
    let texts = Mutex::new(Calls::new(seed, bench.input_tokens, TokenRange { min: 1, max: 1 }));
    let url = url.trim_end_matches('/');
    let speaker = Speaker { client, url: format!("{url}/v1/audio/speech"), bench: bench.clone(), texts };
    let observations = drive(url, speaker, &plan, seed).await?;
    let errors = observations.iter().map(|each| each.outcome.as_ref().err()).collect::<Option<Vec<_>>>();
    if let Some(error) = errors.as_deref().and_then(|errors| errors.first()) {
        let detail = format!("none of {} texts was spoken whole by {url}; the first: {error}", observations.len());
        return Err(fail(FailureKind::BenchFailed, detail));
    }
    let (metrics, samples) = summarise(&observations, plan.window(), plan.request_timeout_s, bench.slo);
    plan.measured(&observations, metrics, samples)
}

fn plan(bench: &SpeechBench) -> Result<Plan, String> {
    let &SpeechBench { load, warmup_s, window_s, request_timeout_s, input_tokens: TokenRange { min, max }, .. } = bench;
    let plan = Plan { load, warmup_s, window_s, request_timeout_s, requests_max: REQUESTS_MAX };
    let wrong = plan.wrong().or_else(|| {
        let fine = 1 <= min && min <= max && max <= TOKENS_MAX;
        (!fine).then(|| format!("input_tokens is {min} to {max}; it must be a range within 1 to {TOKENS_MAX}"))
    });
    wrong.map_or(Ok(plan), Err)
}

struct Speaker {
    client: reqwest::Client,
    url: String,
    bench: SpeechBench,
    texts: Mutex<Calls>,
}

impl Traffic for Speaker {
    /// The body of a request.
    type Call = Value;
    type Answer = Speech;

    fn draw(&self) -> Value {
        let text = self.texts.lock().unwrap_or_else(PoisonError::into_inner).draw().prompt;
        let SpeechBench { model, voice, format, .. } = &self.bench;
        json!({"model": model, "voice": voice, "input": text, "response_format": format})
    }

    async fn ask(&self, body: Value, scheduled: Instant, deadline: Instant) -> Result<Speech, RequestError> {
        timeout_at(deadline, self.exchange(&body, scheduled)).await.unwrap_or(Err(RequestError::Timeout))
    }
}

impl Speaker {
    async fn exchange(&self, body: &Value, scheduled: Instant) -> Result<Speech, RequestError> {
        let request = self.client.post(&self.url).json(body);
        let mut response = request.send().await.map_err(|error| classify(&error))?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(RequestError::Status(response.status().as_u16()));
        }
        let since = |scheduled: Instant| scheduled.elapsed().as_secs_f64() * MS_PER_S;
        let mut sound = Sound::new(self.bench.format, self.bench.pcm_rate_hz);
        let (mut first_byte_ms, mut read) = (None, 0_u64);
        while let Some(bytes) = response.chunk().await.map_err(|error| RequestError::Broken(words(&error)))? {
            read += bytes.len() as u64;
            if read > SOUND_BYTES_MAX {
                return Err(RequestError::Garbage(format!("more than {SOUND_BYTES_MAX} bytes")));
            }
            if sound.push(&bytes).map_err(RequestError::Garbage)? {
                first_byte_ms.get_or_insert_with(|| since(scheduled));
            }
        }
        let (e2e_ms, audio_s) = (since(scheduled), sound.seconds().map_err(RequestError::Garbage)?);
        Ok(Speech { first_byte_ms: first_byte_ms.unwrap_or(e2e_ms), e2e_ms, audio_s })
    }
}

/// Returns what the requests of the window amount to, and how many they were. A real-time factor is the time until a text was spoken
/// whole, as a share of the time that it takes to listen to: below 1, nobody waits in the middle of it.
///
/// A text that was not spoken whole counts as the time-out.
fn summarise(
    observations: &[Observation<Speech>],
    window: Window,
    request_timeout_s: f64,
    slo: Option<SpeechSlo>,
) -> (Metrics, u64) {
    let mut metrics = Metrics::new();
    let counted: Vec<_> = observations.iter().filter(|each| window.contains(each.scheduled_s)).collect();
    let window_s = window.end_s - window.start_s;
    if counted.is_empty() {
        return (metrics, 0);
    }
    let spoken: Vec<&Speech> = counted.iter().filter_map(|each| each.outcome.as_ref().ok()).collect();
    let of = |value: fn(&Speech) -> f64| spoken.iter().map(|speech| value(speech)).collect::<Vec<f64>>();
    let first_byte_ms = waits_ms(&counted, request_timeout_s, |speech| speech.first_byte_ms);
    add_quantiles(&mut metrics, "first_byte", first_byte_ms, &[0.5, 0.95, 0.99]);
    let e2e_ms = waits_ms(&counted, request_timeout_s, |speech| speech.e2e_ms);
    add_quantiles(&mut metrics, "e2e", e2e_ms, &[0.5, 0.95, 0.99]);
    let audio_s = sort(of(|speech| speech.audio_s));
    if let Some(shortest_s) = audio_s.first() {
        metrics.insert("audio_s_per_request".to_owned(), audio_s.iter().sum::<f64>() / spoken.len() as f64);
        // Nobody knows how long a lost text would have sounded. As the shortest one, it is no better than any that was spoken.
        let factors = counted.iter().map(|each| match &each.outcome {
            Ok(speech) => speech.e2e_ms / MS_PER_S / speech.audio_s,
            Err(_) => each.lost_ms(request_timeout_s) / MS_PER_S / shortest_s,
        });
        for (percent, factor) in quantiles(factors.collect(), &[0.5, 0.95, 0.99]) {
            metrics.insert(format!("real_time_factor_p{percent}"), factor);
        }
    }
    metrics.insert("error_rate".to_owned(), (counted.len() - spoken.len()) as f64 / counted.len() as f64);
    if let Some(slo) = slo {
        let is_good = |speech: &&&Speech| speech.first_byte_ms <= slo.first_byte_ms && speech.e2e_ms <= slo.e2e_ms;
        metrics.insert("goodput_per_s".to_owned(), spoken.iter().filter(is_good).count() as f64 / window_s);
    }
    let ended = observations.iter().filter_map(|each| Some((each.scheduled_s, each.outcome.as_ref().ok()?)));
    // Sorted, so that the order in which requests ended does not matter to the last digit of their sum.
    let ended: Vec<f64> = ended
        .filter(|(scheduled_s, speech)| window.contains(scheduled_s + speech.e2e_ms / MS_PER_S))
        .map(|(_, speech)| speech.audio_s)
        .collect();
    let ended = sort(ended);
    metrics.insert("requests_per_s".to_owned(), ended.len() as f64 / window_s);
    metrics.insert("audio_s_per_s".to_owned(), ended.iter().sum::<f64>() / window_s);
    metrics.retain(|_, value| value.is_finite());
    (metrics, counted.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_time_factor_is_the_time_to_speak_as_a_share_of_the_time_to_listen() {
        let spoken = |scheduled_s, e2e_ms, audio_s| Observation {
            scheduled_s,
            late_s: 0.0,
            took_s: e2e_ms / MS_PER_S,
            outcome: Ok(Speech { first_byte_ms: 10.0, e2e_ms, audio_s }),
        };
        let failed = Observation { scheduled_s: 12.0, late_s: 0.0, took_s: 0.1, outcome: Err(RequestError::Timeout) };
        let observations = [spoken(11.0, 500.0, 5.0), spoken(13.0, 500.0, 1.0), failed, spoken(19.9, 200.0, 2.0)];
        let window = Window { start_s: 10.0, end_s: 20.0 };
        let slo = Some(SpeechSlo { first_byte_ms: 10.0, e2e_ms: 200.0 });
        let (metrics, samples) = summarise(&observations, window, 30.0, slo);
        assert_eq!(samples, 4);
        let expected = [
            ("audio_s_per_request", 8.0 / 3.0),
            ("audio_s_per_s", 0.6),
            ("e2e_p50_ms", 500.0),
            ("error_rate", 0.25),
            ("first_byte_p50_ms", 10.0),
            ("goodput_per_s", 0.1),
            ("real_time_factor_p50", 0.1 + 0.4 / 2.0),
            ("requests_per_s", 0.2),
        ];
        assert_eq!(metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(summarise(&observations[..1], Window { start_s: 0.0, end_s: 1.0 }, 30.0, slo), (Metrics::new(), 0));
    }

    #[test]
    fn a_text_that_was_lost_is_slower_than_any_that_was_spoken() {
        let spoken = |e2e_ms, audio_s| Observation {
            scheduled_s: 1.0,
            late_s: 0.0,
            took_s: e2e_ms / MS_PER_S,
            outcome: Ok(Speech { first_byte_ms: 10.0, e2e_ms, audio_s }),
        };
        let lost = |error| Observation { scheduled_s: 1.0, late_s: 0.0, took_s: 0.1, outcome: Err(error) };
        let window = Window { start_s: 0.0, end_s: 10.0 };
        let observations = [spoken(500.0, 5.0), lost(RequestError::Status(503)), lost(RequestError::Refused)];
        let (metrics, _) = summarise(&observations, window, 30.0, None);
        let expected = [("e2e_p50_ms", 30_000.0), ("first_byte_p50_ms", 30_000.0), ("real_time_factor_p50", 6.0)];
        for (name, value) in expected {
            assert_eq!(metrics[name], value, "{name}");
        }
        assert_eq!((metrics["requests_per_s"], metrics["audio_s_per_s"]), (0.1, 0.5));
        let (metrics, samples) = summarise(&observations[1..], window, 30.0, None);
        assert_eq!(samples, 2);
        for (name, _) in expected {
            assert_eq!(metrics.get(name), None, "nothing was spoken: {name}");
        }
    }
}

//! A domain's terms in the words of what carries them out: when an instance is ready, and how it is measured.

use std::time::Duration;

use kloros_actors::facts::{BenchSpec, FailureKind, Ready, ReadyBy, TrialFailure};

use super::{
    chat::{self, ChatSpec},
    command::{self, Target},
    drive::Measured,
    fail, http, prometheus, speech,
};
use crate::process::{Own, Secrets, Sign, Wanted};

/// Returns when an instance is to count as ready, as processes are asked.
pub(super) fn wanted(ready: &Ready) -> Wanted<'_> {
    let sign = match ready.by() {
        ReadyBy::Http(path) => Sign::Http(path),
        ReadyBy::Tcp => Sign::Tcp,
        ReadyBy::Command(argv) => Sign::Command(argv),
        ReadyBy::Notify => Sign::Notify,
        ReadyBy::LogLine(text) => Sign::LogLine(text),
    };
    let (within, bake) = (Duration::from_secs(ready.within_s), Duration::from_secs_f64(ready.bake_s));
    Wanted { sign, within, passes: ready.passes, bake }
}

/// Measures the instance at `target` as the domain says.
pub(super) async fn run_bench(
    bench: &BenchSpec,
    target: Target<'_>,
    secrets: &Secrets,
) -> Result<Measured, TrialFailure> {
    match (ChatSpec::from_bench(bench), bench) {
        (Some(spec), _) => chat::measure(target.url, &spec?, target.seed).await,
        (None, BenchSpec::Command { argv, timeout_s }) => {
            command::measure(argv, Duration::from_secs(*timeout_s), target, secrets).await
        }
        (None, BenchSpec::OpenaiSpeech(bench)) => speech::measure(target.url, bench, target.seed).await,
        (None, BenchSpec::Http(bench)) => http::measure(target.url, bench, target.seed).await,
        (None, BenchSpec::Prometheus(bench)) => prometheus::measure(target.port, bench).await,
        (None, BenchSpec::OpenaiChat { .. }) => Err(fail(FailureKind::BenchFailed, "the bench cannot run")),
    }
}

/// Returns what of this process belongs to what measures: all of it, or what it has waited for as well.
pub(super) fn own(bench: &BenchSpec) -> Own {
    match bench {
        BenchSpec::OpenaiChat { .. } | BenchSpec::Http(_) | BenchSpec::OpenaiSpeech(_) | BenchSpec::Prometheus(_) => {
            Own::Itself
        }
        // The program that measures is a child of this process, and what it used is known when it has ended.
        BenchSpec::Command { .. } => Own::WithEnded,
    }
}

/// Returns how the bench is named in a measurement.
pub(super) fn bench_name(bench: &BenchSpec) -> String {
    match bench {
        BenchSpec::OpenaiChat { .. } => "openai_chat".to_owned(),
        BenchSpec::Http(_) => "http".to_owned(),
        BenchSpec::OpenaiSpeech(_) => "openai_speech".to_owned(),
        BenchSpec::Prometheus(_) => "prometheus".to_owned(),
        BenchSpec::Command { argv, .. } => format!("command {}", argv.first().map_or("", String::as_str)),
    }
}

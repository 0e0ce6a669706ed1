//! A bench that is any program: what it prints is exactly one JSON object of finite numbers, or the trial has failed.

use std::{fmt, time::Duration};

use kloros_actors::facts::{FailureKind, Metrics, TrialFailure};
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{drive::Measured, fail, runner::NICE};
use crate::{
    lease::measuring,
    process::{Instance, Launch, Remains, Secrets, fill},
};

/// How much a program may print to stdout, in bytes.
const STDOUT_BYTES_MAX: usize = 64 * 1024;

/// How much of what it printed an error message quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 200;

/// How often it is looked at whether the program ended or prints too much.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Most metrics of one object, and the longest name of one in bytes.
const METRICS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;

/// Where the measured instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Its address, without a slash at the end.
    pub(crate) url: &'a str,
    /// Its loopback port.
    pub(crate) port: u16,
    /// The seed of the load.
    pub(crate) seed: u64,
}

/// Runs `argv` against `target` and returns the numbers it printed.
///
/// `{url}`, `{port}` and `{seed}` are replaced; no shell is involved. The program and everything it started are killed when
/// it takes longer than `within`, prints too much, or the future is dropped.
pub(crate) async fn measure(
    argv: &[String],
    within: Duration,
    target: Target<'_>,
    secrets: &Secrets,
) -> Result<Measured, TrialFailure> {
    let program = argv.first().map_or("", String::as_str);
    let failed = |problem: String| fail(FailureKind::BenchFailed, format!("{program:?} {problem}"));
    let (port, seed) = (target.port.to_string(), target.seed.to_string());
    let filled = fill(argv, &[("url", target.url), ("port", &port), ("seed", &seed)])
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let start = Instant::now();
    let mut instance = Instance::spawn(Launch {
        argv: filled,
        env: vec![measuring()],
        nice: NICE,
        secrets: secrets.clone(),
        remains: Remains::Killed,
    })
    .await
    .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let timed_out =
        |_| fail(FailureKind::TimedOut, format!("{program:?} did not end within {} s", within.as_secs_f64()));
    let stdout = timeout_at(start + within, printed(&mut instance)).await.map_err(timed_out)?.map_err(failed)?;
    // A service may say its secrets to whoever measures it. They are hidden before anything is cut, which would leave half
    // of one.
    let shown = |problem: String| format!("{}: it printed {}", secrets.hide(&problem), quoted(&secrets.hide(&stdout)));
    let mut metrics = parse(&stdout).map_err(|problem| failed(shown(problem)))?;
    // A name is kept as it is, so one that tells a secret is not kept.
    metrics.retain(|name, _| secrets.hide(name) == *name);
    let window_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Measured { metrics, samples: 1, window_ms, errors: None })
}

async fn printed(instance: &mut Instance) -> Result<String, String> {
    let too_much = || format!("printed more than {STDOUT_BYTES_MAX} bytes");
    while instance.try_exit().is_none() {
        if instance.stdout().len() > STDOUT_BYTES_MAX {
            return Err(too_much());
        }
        sleep(LOOK_INTERVAL).await;
    }
    let status = instance.exited().await;
    if !status.success() {
        return Err(format!("ended with {status}; it last said {}", quoted(&instance.tail())));
    }
    let stdout = instance.stdout();
    if stdout.len() > STDOUT_BYTES_MAX { Err(too_much()) } else { Ok(stdout) }
}

fn parse(text: &str) -> Result<Metrics, String> {
    if text.trim().is_empty() {
        return Err("printed nothing to stdout".to_owned());
    }
    let Numbers(metrics) =
        serde_json::from_str(text).map_err(|error| format!("did not print one JSON object of numbers: {error}"))?;
    if metrics.is_empty() { Err("printed an object without a number".to_owned()) } else { Ok(metrics) }
}

/// Returns the first bytes of `text` with everything unprintable escaped.
fn quoted(text: &str) -> String {
    let end = (0..=QUOTED_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let rest = if end < text.len() { " and more" } else { "" };
    format!("\"{}\"{rest}", text[..end].escape_debug())
}

/// An object of finite numbers, each name once.
struct Numbers(Metrics);

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Metrics;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metrics, A::Error> {
                let mut metrics = Metrics::new();
                while let Some((name, value)) = map.next_entry::<String, f64>()? {
                    let plain =
                        !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(|c| c.is_ascii_graphic());
                    if !plain {
                        return Err(de::Error::custom("one of its names is no name of a metric"));
                    }
                    if !value.is_finite() {
                        return Err(de::Error::custom(format!("{name} is not finite")));
                    }
                    if metrics.len() == METRICS_MAX {
                        return Err(de::Error::custom(format!("more than {METRICS_MAX} metrics")));
                    }
                    if metrics.insert(name.clone(), value).is_some() {
                        return Err(de::Error::custom(format!("{name} stands there twice")));
                    }
                }
                Ok(metrics)
            }
        }

        deserializer.deserialize_map(Object).map(Numbers)
    }
}

#[cfg(test)]
#[path = "../../tests/hostile/outputs.rs"]
mod outputs;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn run(argv: &[&str], within: Duration) -> Result<Measured, TrialFailure> {
        let argv: Vec<String> = argv.iter().map(|each| (*each).to_owned()).collect();
        let target = Target { url: "http://127.0.0.1:8000", port: 8000, seed: 7 };
        measure(&argv, within, target, &Secrets::of(["hunter22-hunter22".to_owned()])).await
    }

    #[track_caller]
    fn check(outcome: Result<Measured, TrialFailure>, kind: FailureKind, words: &[&str]) {
        let failure = outcome.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        for word in words {
            assert!(failure.detail.contains(word), "{failure} lacks {word:?}");
        }
    }

    #[tokio::test]
    async fn one_object_of_numbers_is_what_was_measured() {
        let measured = run(&["/bin/echo", r#" {"p95_ms": 12.5, "requests": 40} "#], PATIENCE).await.unwrap();
        let expected = [("p95_ms", 12.5), ("requests", 40.0)];
        assert_eq!(measured.metrics, expected.map(|(name, value)| (name.to_owned(), value)).into());
        assert_eq!(measured.samples, 1);
    }

    #[tokio::test]
    async fn the_program_learns_where_and_with_which_seed() {
        let measured = run(&["/bin/echo", r#"{"port": {port}, "seed": {seed}}"#], PATIENCE).await.unwrap();
        assert_eq!(measured.metrics["port"], 8000.0);
        assert_eq!(measured.metrics["seed"], 7.0);
        let failure = run(&["/bin/echo", "{url}"], PATIENCE).await.unwrap_err();
        assert!(failure.detail.contains("http://127.0.0.1:8000"), "{failure}");
    }

    #[tokio::test]
    async fn what_a_program_prints_is_quoted_without_what_is_secret() {
        let far = format!("{}hunter22-hunter22", "x".repeat(QUOTED_BYTES_MAX - 8));
        for argv in [&["/bin/echo", "hunter22-hunter22"][..], &["/bin/echo", &far], &["ls", "/hunter22-hunter22"]] {
            let failure = run(argv, PATIENCE).await.unwrap_err();
            assert!(!failure.detail.contains("hunter22"), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_hangs_or_is_not_there_has_failed() {
        check(run(&["/bin/false"], PATIENCE).await, FailureKind::BenchFailed, &["/bin/false", "exit status: 1"]);
        check(
            run(&["/bin/sleep", "300"], Duration::from_millis(100)).await,
            FailureKind::TimedOut,
            &["/bin/sleep", "0.1 s"],
        );
        check(run(&["/no/such/bench"], PATIENCE).await, FailureKind::BenchFailed, &["/no/such/bench"]);
        check(run(&[], PATIENCE).await, FailureKind::BenchFailed, &["empty"]);
        check(run(&["/bin/echo", "{model}"], PATIENCE).await, FailureKind::BenchFailed, &["{model}", "{seed}"]);
        let complaint = run(&["/bin/ls", "/no/such/folder"], PATIENCE).await;
        check(complaint, FailureKind::BenchFailed, &["exit status", "/no/such/folder"]);
    }

    #[tokio::test]
    async fn a_program_that_never_stops_printing_is_killed_early() {
        check(
            run(&["/usr/bin/yes"], PATIENCE).await,
            FailureKind::BenchFailed,
            &["/usr/bin/yes", "more than 65536 bytes"],
        );
    }

    #[tokio::test]
    async fn what_was_printed_is_quoted_escaped_and_shortened() {
        let printed = format!("\x1b[31mred{}", "x".repeat(500));
        let failure = run(&["/usr/bin/printf", "%s", &printed], PATIENCE).await.unwrap_err();
        assert!(failure.detail.contains("\\u{1b}[31mred") && failure.detail.ends_with("and more"), "{failure}");
        assert!(failure.detail.len() < 400, "{failure}");
    }

    #[test]
    fn whatever_is_no_single_object_of_finite_numbers_is_refused() {
        let cases = [
            "",
            "  \n",
            "NaN",
            "null",
            "7",
            "[1]",
            "{}",
            "{\"a\": NaN}",
            "{\"a\": 1e999}",
            "{\"a\": \"1\"}",
            "{\"a\": true}",
            "{\"a\": null}",
            "{\"a\": {\"b\": 1}}",
            "{\"a\": [1]}",
            "{\"a\": 1} {\"b\": 2}",
            "{\"a\": 1}\nok",
            "ok\n{\"a\": 1}",
            "{\"a\": 1",
            "{\"a\": 1, \"a\": 2}",
            "{\"\": 1}",
            "{\"a b\": 1}",
            "{\"a\\n\": 1}",
        ];
        for text in cases {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let many: Vec<String> = (0..=METRICS_MAX).map(|number| format!("\"m{number}\": 1")).collect();
        assert!(parse(&format!("{{{}}}", many.join(","))).is_err());
        assert!(parse(&format!("{{{}}}", many[1..].join(","))).is_ok());
    }

    #[test]
    fn fuzzed_outputs_are_finite_numbers_or_nothing() {
        let mut seeds: Vec<Vec<u8>> = outputs::outputs().into_iter().map(|(_, text)| text.into_bytes()).collect();
        seeds.push(br#"{"goodput_per_s": 8.5, "error_rate": 0}"#.to_vec());
        crate::fuzz::hold("outputs of benches", &seeds, |bytes| {
            let Ok(metrics) = parse(&String::from_utf8_lossy(bytes)) else { return };
            assert!(!metrics.is_empty() && metrics.len() <= METRICS_MAX);
            assert!(metrics.values().all(|value| value.is_finite()));
        });
    }

    #[test]
    fn nothing_of_a_hostile_output_is_believed_and_no_secret_of_it_is_told() {
        let secrets = Secrets::of([outputs::SECRET.to_owned()]);
        let outputs = outputs::outputs();
        for (name, text) in &outputs {
            let problem = parse(text).expect_err(name);
            let told = format!("{} {}", secrets.hide(&problem), quoted(&secrets.hide(text)));
            assert!(!told.contains(outputs::SECRET) && told.len() < 2_000, "{name}: {told}");
            assert!(!told.contains(char::is_control), "{name}: {told:?}");
        }
        println!("{} hostile outputs of benches: 0 believed, 0 secrets told", outputs.len());
        assert!(outputs.len() >= 40);
    }
}

//! One trial: the command runs once, with one setting in its environment.

use std::{collections::BTreeMap, fmt, time::Duration};

use kloros_actors::facts::{FailureKind, Metrics, TrialFailure};
use kloros_search::{Candidate, Config};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor},
};
use tokio::time::{Instant, timeout};

use super::plan::Plan;
use crate::{
    lease::measuring,
    process::{Instance, Launch, Remains, Secrets},
};

/// How long a command that ran out of time may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// Most metrics of one trial that are kept, and the longest name of one in bytes.
const METRICS_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;

/// How much of a line an error message quotes, in characters.
const QUOTED_MAX: usize = 120;

/// What came of one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// The candidate's number, from 1.
    pub(crate) id: u32,
    /// What was set.
    pub(crate) config: Config,
    /// The metric that is to become better; `None` if the trial failed.
    pub(crate) value: Option<f64>,
    /// All numbers that the command printed.
    pub(crate) metrics: Metrics,
    /// Why there is no value.
    pub(crate) failure: Option<TrialFailure>,
    /// How long it took, in milliseconds.
    pub(crate) took_ms: u64,
    /// How long the run had gone on when it ended, over all that it was taken up again, in milliseconds; 0 in journals of older
    /// versions.
    #[serde(default)]
    pub(crate) spent_ms: u64,
}

/// Runs the command of `plan` with `candidate`, and returns what came of it.
///
/// What the command started is killed with it: when it ends, when it takes too long, and when the future is dropped. Fails
/// when the command cannot be started at all, which says nothing about the candidate.
pub(super) async fn run(plan: &Plan, candidate: &Candidate) -> Result<Trial, TrialFailure> {
    let start = Instant::now();
    let measured = match measure(plan, candidate).await {
        Err(failure) if failure.kind == FailureKind::Infrastructure => return Err(failure),
        measured => measured,
    };
    let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (value, metrics, failure) = match measured {
        Ok((value, metrics)) => (Some(value), metrics, None),
        Err(failure) => (None, Metrics::new(), Some(failure)),
    };
    let (id, config) = (candidate.id, candidate.config.clone());
    Ok(Trial { id, config, value, metrics, failure, took_ms, spent_ms: 0 })
}

async fn measure(plan: &Plan, candidate: &Candidate) -> Result<(f64, Metrics), TrialFailure> {
    let launch = Launch {
        argv: plan.argv.clone(),
        env: environment(plan, candidate),
        nice: 0,
        secrets: Secrets::of([]),
        remains: Remains::Killed,
    };
    let started = Instance::spawn(launch).await;
    let mut instance = started.map_err(|error| fail(FailureKind::Infrastructure, error.to_string()))?;
    let within = Duration::from_millis(plan.timeout_ms);
    let Ok(status) = timeout(within, instance.exited()).await else {
        instance.stop(GRACE).await;
        return Err(fail(FailureKind::TimedOut, format!("it did not end within {} s", within.as_secs_f64())));
    };
    if !status.success() {
        let tail = instance.tail();
        let said = if tail.is_empty() { "it said nothing".to_owned() } else { format!("it last said: {tail}") };
        let kind = if instance.was_short_of_memory(status) { FailureKind::OutOfMemory } else { FailureKind::Died };
        return Err(fail(kind, format!("it ended with {status}; {said}")));
    }
    read(&instance.stdout(), &plan.metric).map_err(|problem| fail(FailureKind::BenchFailed, problem))
}

/// Returns what the command finds in its environment: what this process found in its own, and each active parameter under
/// its name.
///
/// An inactive parameter is absent, also where this process was given a variable of that name.
fn environment(plan: &Plan, candidate: &Candidate) -> Vec<(String, String)> {
    let is_param = |name: &str| plan.space.spec().params.iter().any(|param| param.name == name);
    let own =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let set = candidate.config.iter().map(|(name, value)| (name.clone(), value.to_string()));
    let trial = ("KLOROS_TRIAL".to_owned(), candidate.id.to_string());
    own.filter(|(name, _)| !is_param(name)).chain(set).chain([trial, measuring()]).collect()
}

/// Returns the value of `metric` and all numbers in the last line of `stdout` that begins an object, or what is wrong.
///
/// A line that begins an object and is none is an error: the one before it could be of a measurement before.
fn read(stdout: &str, metric: &str) -> Result<(f64, Metrics), String> {
    let line = stdout.lines().map(str::trim).rfind(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| format!("it printed no line of JSON to stdout, such as {{\"{metric}\": 12.5}}"))?;
    let quoted = || super::wire::quoted(line, QUOTED_MAX);
    let Object(mut members) =
        serde_json::from_str(line).map_err(|error| format!("it printed {}: {error}", quoted()))?;
    let found = members.get(metric).ok_or_else(|| format!("it printed {}, without {metric}", quoted()))?;
    let Some(value) = found.as_f64().filter(|value| value.is_finite()) else {
        return Err(format!("{metric} is {found}, which is no number"));
    };
    members.retain(|name, _| name.len() <= NAME_BYTES_MAX || name == metric);
    let numbers = members.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?)));
    let mut metrics: Metrics = numbers.take(METRICS_MAX).collect();
    metrics.insert(metric.to_owned(), value);
    Ok((value, metrics))
}

fn fail(kind: FailureKind, detail: String) -> TrialFailure {
    TrialFailure { kind, detail }
}

/// A JSON object in which no name stands twice.
struct Object(BTreeMap<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = BTreeMap<String, serde_json::Value>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom(format!("{name:?} stands twice")));
                    }
                    members.insert(name, value);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(Members).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stdout: &str, expected: Result<f64, &str>) {
        let found = read(stdout, "ms").map(|(value, _)| value);
        match expected {
            Ok(value) => assert_eq!(found, Ok(value), "{stdout}"),
            Err(part) => assert!(found.as_ref().is_err_and(|problem| problem.contains(part)), "{stdout}: {found:?}"),
        }
    }

    #[test]
    fn the_last_line_of_json_counts() {
        check("warming up\n{\"ms\": 1}\n{\"ms\": 2.5, \"note\": \"x\"}\ndone\n", Ok(2.5));
        check("  {\"ms\": -3}  ", Ok(-3.0));
        check("{\"ms\": 12345678901234567890}", Ok(12_345_678_901_234_567_890.0));
    }

    #[test]
    fn a_broken_last_line_is_not_answered_by_the_line_before() {
        for broken in ["{\"ms\": NaN}", "{\"ms\": Infinity}", "{\"ms\": 1e999}", "{\"ms\": 1", "{\"ms\": 1} {}", "{"] {
            check(&format!("{{\"ms\": 1}}\n{broken}\n"), Err("it printed \"{"));
        }
    }

    #[test]
    fn what_is_no_number_is_no_measurement() {
        check("", Err("such as {\"ms\": 12.5}"));
        check("12.5", Err("no line of JSON"));
        check("[1]", Err("no line of JSON"));
        check("{\"ms\": null}", Err("ms is null"));
        check("{\"ms\": \"1\"}", Err("no number"));
        check("{\"ms\": true}", Err("no number"));
        check("{\"s\": 1}", Err("without ms"));
        check("{\"ms\": 1, \"ms\": 2}", Err("stands twice"));
    }

    #[test]
    fn other_numbers_are_kept_and_bounded() {
        let others: Vec<String> = (0..200).map(|index| format!("\"a{index}\": {index}")).collect();
        let (_, metrics) = read(&format!("{{{}, \"ms\": 7}}", others.join(", ")), "ms").unwrap();
        assert_eq!(metrics["ms"], 7.0);
        assert!(metrics.len() <= METRICS_MAX + 1);
    }
}

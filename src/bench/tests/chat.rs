use std::time::Duration;

use kloros_actors::facts::{BenchLoad, BenchSpec, ChatSlo, FailureKind, TokenRange, TrialFailure};
use tokio::time::Instant;

use super::endpoint::Fake;
use crate::{
    bench::{
        chat::{ChatSpec, measure},
        drive::Measured,
        load::Call,
        request::{Endpoint, RequestError},
    },
    brusque,
    process::free_port,
};

const CLOSED: BenchLoad = BenchLoad::Closed { clients: 3 };
const OPEN: BenchLoad = BenchLoad::Poisson { rate_per_s: 100.0, in_flight_max: 1024 };

fn spec(load: BenchLoad) -> BenchSpec {
    BenchSpec::OpenaiChat {
        load,
        prompt_tokens: TokenRange { min: 8, max: 24 },
        output_tokens: TokenRange { min: 2, max: 6 },
        warmup_s: 0.1,
        window_s: 0.5,
        slo: ChatSlo { ttft_ms: 60_000.0, e2e_ms: 60_000.0 },
        request_timeout_s: 60.0,
        requests: None,
    }
}

fn impatient(load: BenchLoad) -> BenchSpec {
    let mut spec = spec(load);
    if let BenchSpec::OpenaiChat { request_timeout_s, .. } = &mut spec {
        *request_timeout_s = 0.2;
    }
    spec
}

async fn run(url: &str, spec: &BenchSpec, seed: u64) -> Result<Measured, TrialFailure> {
    measure(url, &ChatSpec::from_bench(spec).unwrap()?, seed).await
}

#[tokio::test]
async fn a_healthy_endpoint_yields_every_metric_it_has_enough_requests_for() {
    let fake = Fake::start().await;
    for load in [CLOSED, OPEN] {
        let measured = run(&fake.url("ok"), &spec(load), 7).await.unwrap();
        let names = ["ttft_p50_ms", "itl_p50_ms", "e2e_p50_ms", "tokens_per_s", "requests_per_s", "goodput_per_s"];
        for name in names {
            assert!(measured.metrics[name] > 0.0, "{name} of {measured:?}");
        }
        assert_eq!((measured.metrics["error_rate"], &measured.errors), (0.0, &None), "{measured:?}");
        assert_eq!(measured.metrics["goodput_per_s"], measured.samples as f64 / 0.5);
        assert_eq!(measured.window_ms, 500);
    }
}

#[tokio::test]
async fn an_endpoint_that_answers_nothing_whole_has_errors_and_no_latency() {
    let fake = Fake::start().await;
    for behaviour in ["busy", "mute", "hang", "cut", "short", "garbage"] {
        for load in [CLOSED, OPEN] {
            let measured = run(&fake.url(behaviour), &impatient(load), 7).await.unwrap();
            let expected =
                [("error_rate", 1.0), ("goodput_per_s", 0.0), ("requests_per_s", 0.0), ("tokens_per_s", 0.0)];
            assert_eq!(measured.metrics, expected.map(|(name, value)| (name.to_owned(), value)).into(), "{behaviour}");
            assert!(measured.samples > 0);
            let errors = measured.errors.unwrap();
            let (failed, what) = errors.split_once(" requests failed: ").unwrap();
            assert_eq!(failed.split_once(" of ").map(|(failed, all)| failed == all), Some(true), "{errors}");
            assert!(behaviour != "busy" || what.starts_with("status 500 ("), "{errors}");
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_ends_its_connections_without_a_word_makes_no_errors() {
    let url = format!("http://{}", brusque::start().await);
    let measured = run(&url, &spec(CLOSED), 7).await.unwrap();
    assert_eq!((measured.metrics["error_rate"], measured.samples > 10), (0.0, true), "{measured:?}");
}

#[tokio::test]
async fn an_endpoint_that_nobody_listens_on_is_dead() {
    let url = format!("http://127.0.0.1:{}", free_port().unwrap());
    for load in [CLOSED, OPEN] {
        let failure = run(&url, &spec(load), 7).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Died);
        assert!(failure.detail.contains(&url), "{failure}");
    }
}

#[tokio::test]
async fn arrivals_beyond_the_limit_in_flight_are_refused_and_counted() {
    let fake = Fake::start().await;
    let load = BenchLoad::Poisson { rate_per_s: 200.0, in_flight_max: 1 };
    let measured = run(&fake.url("mute"), &impatient(load), 7).await.unwrap();
    let sent = fake.requests.lock().unwrap().len() as u64;
    assert_eq!(measured.metrics["error_rate"], 1.0);
    assert!(sent < measured.samples, "{sent} sent of {}", measured.samples);
}

#[tokio::test]
async fn equal_seeds_send_equal_requests() {
    let mut sent = Vec::new();
    for seed in [7, 7, 8] {
        let fake = Fake::start().await;
        run(&fake.url("ok"), &spec(OPEN), seed).await.unwrap();
        let mut requests: Vec<String> = fake.requests.lock().unwrap().iter().map(ToString::to_string).collect();
        requests.sort();
        sent.push(requests);
    }
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[0], sent[2]);
}

/// A file of requests is asked again: the messages as they were, the model as the instance has it.
#[tokio::test]
async fn recorded_requests_are_asked_again_and_a_file_that_cannot_be_used_blames_no_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("asked.jsonl");
    let line = |content: &str, tokens: u32| {
        serde_json::json!({
            "model": "gone", "user": "somebody", "temperature": 0.7, "completion_tokens": tokens,
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": content}],
        })
    };
    std::fs::write(&file, format!("{}\n{}\n", line("what is rust, and why?", 2), line("and what is iron ore?", 3)))
        .unwrap();
    let with = |file: std::path::PathBuf| {
        let mut spec = spec(CLOSED);
        if let BenchSpec::OpenaiChat { requests, .. } = &mut spec {
            *requests = Some(file);
        }
        spec
    };
    let fake = Fake::start().await;
    let measured = run(&fake.url("ok"), &with(file), 7).await.unwrap();
    assert_eq!(measured.metrics["error_rate"], 0.0, "{measured:?}");
    let sent = fake.requests.lock().unwrap().clone();
    assert!(!sent.is_empty());
    for body in &sent {
        assert_eq!(
            (&body["temperature"], &body["ignore_eos"], &body["stream"]),
            (&0.7.into(), &true.into(), &true.into())
        );
        assert_eq!(body["messages"][0]["content"], "be brief");
        assert!(body.get("user").is_none() && body["model"] != "gone", "{body}");
    }
    let asked = |content: &str| sent.iter().any(|body| body["messages"][1]["content"] == content);
    assert!(asked("what is rust, and why?") && asked("and what is iron ore?"));
    let failure = run(&fake.url("ok"), &with("/no/such".into()), 7).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Infrastructure);
    assert!(failure.detail.contains("bench.requests: /no/such"), "{failure}");
}

#[tokio::test]
async fn latency_counts_from_the_moment_a_request_was_due() {
    let fake = Fake::start().await;
    let endpoint = Endpoint::new(&fake.url("ok")).unwrap();
    let call = Call { prompt: "late".to_owned(), output_tokens: 2 };
    let due = Instant::now().checked_sub(Duration::from_secs(5)).unwrap();
    let answer = endpoint.ask(&call, due, Instant::now() + Duration::from_secs(60)).await.unwrap();
    assert!(answer.ttft_ms >= 5_000.0, "{answer:?}");
    assert_eq!(answer.tokens, 2);
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart() {
    let fake = Fake::start().await;
    let call = Call { prompt: "why".to_owned(), output_tokens: 2 };
    let ask = async |url: String, patience: Duration| {
        let endpoint = Endpoint::new(&url).unwrap();
        endpoint.ask(&call, Instant::now(), Instant::now() + patience).await.unwrap_err()
    };
    let long = Duration::from_secs(60);
    assert_eq!(ask(fake.url("busy"), long).await, RequestError::Status(500));
    assert_eq!(ask(fake.url("hang"), Duration::from_millis(200)).await, RequestError::Timeout);
    assert!(matches!(ask(fake.url("cut"), long).await, RequestError::Broken(_)));
    assert!(matches!(ask(fake.url("short"), long).await, RequestError::Broken(_)));
    assert!(matches!(ask(fake.url("garbage"), long).await, RequestError::Garbage(_)));
    let nobody = format!("http://127.0.0.1:{}", free_port().unwrap());
    assert!(matches!(ask(nobody, long).await, RequestError::Connect(_)));
    assert!(matches!(ask("no url".to_owned(), long).await, RequestError::Broken(_)));
}

#[test]
fn numbers_that_cannot_be_worked_with_are_refused_by_name() {
    let BenchSpec::OpenaiChat {
        load, prompt_tokens, output_tokens, warmup_s, window_s, slo, request_timeout_s, ..
    } = spec(CLOSED)
    else {
        unreachable!()
    };
    let with = |load, prompt_tokens, warmup_s, window_s, request_timeout_s| BenchSpec::OpenaiChat {
        load,
        prompt_tokens,
        output_tokens,
        warmup_s,
        window_s,
        slo,
        request_timeout_s,
        requests: None,
    };
    let poisson = |rate_per_s| BenchLoad::Poisson { rate_per_s, in_flight_max: 8 };
    let cases = [
        (with(load, prompt_tokens, warmup_s, 0.0, request_timeout_s), "window_s"),
        (with(load, prompt_tokens, warmup_s, f64::INFINITY, request_timeout_s), "window_s"),
        (with(load, prompt_tokens, -1.0, window_s, request_timeout_s), "warmup_s"),
        (with(load, prompt_tokens, f64::NAN, window_s, request_timeout_s), "warmup_s"),
        (with(load, prompt_tokens, warmup_s, window_s, 0.0), "request_timeout_s"),
        (with(load, TokenRange { min: 2, max: 1 }, warmup_s, window_s, request_timeout_s), "prompt_tokens"),
        (with(load, TokenRange { min: 0, max: 1 }, warmup_s, window_s, request_timeout_s), "prompt_tokens"),
        (with(load, TokenRange { min: 1, max: u32::MAX }, warmup_s, window_s, request_timeout_s), "prompt_tokens"),
        (with(BenchLoad::Closed { clients: 0 }, prompt_tokens, warmup_s, window_s, request_timeout_s), "clients"),
        (with(poisson(0.0), prompt_tokens, warmup_s, window_s, request_timeout_s), "rate_per_s"),
        (with(poisson(f64::NAN), prompt_tokens, warmup_s, window_s, request_timeout_s), "rate_per_s"),
        (with(poisson(1e9), prompt_tokens, warmup_s, window_s, request_timeout_s), "rate_per_s"),
    ];
    for (spec, name) in cases {
        let failure = ChatSpec::from_bench(&spec).unwrap().unwrap_err();
        assert_eq!(failure.kind, FailureKind::BenchFailed);
        assert!(failure.detail.contains(name), "{failure} lacks {name}");
    }
    assert!(ChatSpec::from_bench(&spec(OPEN)).unwrap().is_ok());
    assert!(ChatSpec::from_bench(&BenchSpec::Command { argv: Vec::new(), timeout_s: 1 }).is_none());
}

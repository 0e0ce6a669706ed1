//! The whole lab over HTTP, in this process, on a port of its own.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use super::{
    LabError,
    http::{ServeArgs, Server},
};

const DEADLINE: Duration = Duration::from_secs(300);

/// A lab with settings of its own; it stops when asked to.
struct Lab {
    url: String,
    client: reqwest::Client,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), LabError>>,
    _folder: tempfile::TempDir,
}

impl Lab {
    async fn with(settings: &str) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let env_file = folder.path().join("lab.env");
        std::fs::write(&env_file, settings).unwrap();
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = Server::start(ServeArgs { env_file: Some(env_file), host, port: 0 }).await.unwrap();
        let url = format!("http://{}", server.address());
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(server.run(async move {
            let _ = stopped.await;
        }));
        Lab { url, client: reqwest::Client::new(), stop, server, _folder: folder }
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn post(&self, body: &Value) -> reqwest::Response {
        let url = format!("{}/v1/chat/completions", self.url);
        self.client.post(url).json(body).send().await.unwrap()
    }

    /// The sum over all series of a metric.
    async fn metric(&self, name: &str) -> f64 {
        // The parser does not know the colon of recording rules, which vLLM uses in all its names.
        let text = self.get("/metrics").await.text().await.unwrap().replace("vllm:", "vllm_");
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let samples = prometheus_parse::Scrape::parse(lines).unwrap().samples;
        let values: Vec<f64> = samples
            .iter()
            .filter(|sample| sample.metric == name)
            .map(|sample| match &sample.value {
                prometheus_parse::Value::Counter(value)
                | prometheus_parse::Value::Gauge(value)
                | prometheus_parse::Value::Untyped(value) => *value,
                prometheus_parse::Value::Histogram(buckets) => {
                    buckets.iter().map(|bucket| bucket.count).fold(0.0, f64::max)
                }
                prometheus_parse::Value::Summary(_) => f64::NAN,
            })
            .collect();
        assert!(!values.is_empty(), "no sample of {name} in\n{text}");
        values.iter().sum()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        let before = Instant::now();
        self.server.await.unwrap().unwrap();
        assert!(before.elapsed() < Duration::from_secs(2));
    }
}

fn chat(prompt_tokens: usize, max_tokens: usize, stream: bool) -> Value {
    let content = "word".repeat(prompt_tokens);
    json!({
        "model": "kloros-lab", "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens,
        "seed": 1, "temperature": 0.7, "stream": stream, "stream_options": {"include_usage": true},
    })
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let before = Instant::now();
    while !holds().await {
        assert!(before.elapsed() < DEADLINE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const QUICK: &str = "LAB_BATCH_WAIT_MS=0\nLAB_PRECISION=f32\nLAB_MAX_NUM_SEQS=8\nLAB_PREFILL_CHUNK=256\n";

#[tokio::test]
async fn a_stream_says_the_same_as_the_whole_answer_and_both_are_counted() {
    let lab = Lab::with(QUICK).await;
    let whole: Value = lab.post(&chat(20, 12, false)).await.json().await.unwrap();
    let said = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(said.split_whitespace().count(), 12);
    assert_eq!(whole["usage"], json!({"prompt_tokens": 23, "completion_tokens": 12, "total_tokens": 35}));
    assert_eq!(whole["choices"][0]["finish_reason"], "length");

    let stream = lab.post(&chat(20, 12, true)).await.text().await.unwrap();
    let mut lines: Vec<&str> = stream.split("\n\n").filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"));
    let chunks: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap()).collect();
    let streamed: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(streamed, said);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 12);

    assert_eq!(lab.metric("vllm_prompt_tokens_total").await, 46.0);
    assert_eq!(lab.metric("vllm_generation_tokens_total").await, 24.0);
    assert_eq!(lab.metric("vllm_request_success_total").await, 2.0);
    assert_eq!(lab.metric("vllm_time_to_first_token_seconds").await, 2.0);
    assert_eq!(lab.metric("vllm_inter_token_latency_seconds").await, 22.0);
    assert_eq!(lab.metric("vllm_e2e_request_latency_seconds").await, 2.0);
    assert_eq!(lab.metric("vllm_kv_cache_usage_perc").await, 0.0);
    lab.stop().await;
}

#[tokio::test]
async fn the_settings_in_effect_can_be_read_back() {
    let lab = Lab::with("LAB_THREADS=2\nOTHER=x\n").await;
    let config: Value = lab.get("/config").await.json().await.unwrap();
    assert_eq!((&config["LAB_THREADS"], &config["LAB_MAX_NUM_SEQS"]), (&json!("2"), &json!("2")));
    assert_eq!(config["pid"], std::process::id());
    assert!(config["generation"].as_u64().unwrap() > 0 && config["started_at"].as_f64().unwrap() > 0.0);
    assert_eq!(lab.get("/health").await.status(), 200);
    let models: Value = lab.get("/v1/models").await.json().await.unwrap();
    assert_eq!(models["data"][0]["id"], "kloros-lab");
    lab.stop().await;
}

#[tokio::test]
async fn what_can_never_fit_is_refused_at_once() {
    let lab = Lab::with("LAB_KV_CACHE_MIB=4\nLAB_PRECISION=f64\n").await;
    for (body, status, code) in [
        (chat(700, 50, false), 400, "kv_cache_exceeded"),
        (chat(1000, 50, false), 400, "context_length_exceeded"),
        (chat(100_000, 50, false), 413, "body_too_large"),
        (json!({"messages": 5}), 400, "invalid_request"),
    ] {
        let response = lab.post(&body).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], code);
    }
    let missing = lab.get("/nothing").await;
    assert_eq!(missing.status(), 404);
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["code"], "not_found");
    assert_eq!(lab.get("/v1/chat/completions").await.status(), 405);
    lab.stop().await;
}

#[tokio::test]
async fn sequences_that_overrun_the_cache_are_preempted_and_still_answered_in_full() {
    let lab = Lab::with(&format!("{QUICK}LAB_KV_CACHE_MIB=4\n")).await;
    // The cache holds 1344 tokens; four sequences grow to 480 each.
    let body = chat(280, 200, false);
    let answers = join_all((0..4).map(|_| lab.post(&body))).await;
    for answer in answers {
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], 200);
    }
    assert!(lab.metric("vllm_num_preemptions_total").await >= 1.0);
    assert_eq!(lab.metric("vllm_kv_cache_usage_perc").await, 0.0);
    lab.stop().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_frees_its_sequence() {
    let lab = Lab::with(QUICK).await;
    let mut stream = lab.post(&chat(20, 900, true)).await.bytes_stream();
    assert!(stream.next().await.unwrap().unwrap().starts_with(b"data: "));
    assert_eq!(lab.metric("vllm_num_requests_running").await, 1.0);
    drop(stream);
    eventually("the end of the sequence", async || lab.metric("vllm_num_requests_running").await == 0.0).await;
    assert_eq!(lab.metric("vllm_kv_cache_usage_perc").await, 0.0);
    assert!(lab.metric("vllm_generation_tokens_total").await < 900.0);
    lab.stop().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let lab = Lab::with("LAB_MAX_NUM_SEQS=1\nLAB_BATCH_WAIT_MS=0\n").await;
    let body = chat(200, 50, false);
    let answers = join_all((0..40).map(|_| lab.post(&body))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() == 503).collect();
    assert!(!refused.is_empty() && refused.len() < 40);
    assert_eq!(refused[0].headers()["retry-after"], "1");
    lab.stop().await;
}

#[tokio::test]
async fn stopping_ends_open_streams_in_time() {
    let lab = Lab::with(QUICK).await;
    let mut stream = lab.post(&chat(20, 900, true)).await.bytes_stream();
    assert!(stream.next().await.is_some());
    lab.stop().await;
    let rest: Vec<_> = stream.collect().await;
    let rest: Vec<u8> = rest.into_iter().flatten().flatten().collect();
    assert!(!String::from_utf8(rest).unwrap().contains("[DONE]"));
}

#[tokio::test]
async fn settings_that_do_not_fit_the_device_keep_the_server_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let env_file = folder.path().join("lab.env");
    std::fs::write(&env_file, "LAB_KV_CACHE_MIB=512\n").unwrap();
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let error = Server::start(ServeArgs { env_file: Some(env_file), host, port: 0 }).await.err().unwrap();
    assert_eq!(error.exit_code(), 2);
}

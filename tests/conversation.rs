//! Conversations through the running program: what is kept, what is put before the model, and what happens when something fails.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]
#![allow(clippy::print_stdout, reason = "what was measured is part of the answer")]

#[path = "conversation/daemon.rs"]
mod daemon;

#[path = "conversation/upstream.rs"]
mod upstream;

#[path = "conversation/load.rs"]
mod load;

#[path = "conversation/alone.rs"]
mod alone;

#[path = "conversation/chat.rs"]
mod chat;

#[path = "conversation/bounded.rs"]
mod bounded;

#[path = "house/port.rs"]
mod port;

#[path = "conversation/repetition.rs"]
mod repetition;

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use daemon::{Daemon, get, send};
use serde_json::{Value, json};
use upstream::Upstream;

/// An address at which nobody listens.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(40)).build().unwrap()
}

/// Says `text` in the conversation `name` and returns status and body.
async fn say(daemon: &Daemon, name: &str, text: &str) -> (u16, Value) {
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": text}]});
    let request = client().post(format!("http://{}/v1/chat/completions", daemon.address)).json(&body);
    let response = request.header("x-conversation-id", name).send().await.unwrap();
    assert_eq!(response.headers().get("x-conversation-id").map(|value| value.to_str().unwrap()), Some(name));
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Returns what the model was told to be in the newest request.
fn told(upstream: &Upstream) -> String {
    let asked = upstream.asked();
    let first = &asked.last().unwrap()["messages"][0];
    if first["role"] == "system" { first["content"].as_str().unwrap().to_owned() } else { String::new() }
}

/// Lesson 31: each conversation has a name, and remembers what was said in it alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_remembered_by_its_name_across_a_restart_and_never_in_another() {
    let upstream = Upstream::default();
    let mut daemon = Daemon::start(upstream.start().await, "");
    let (status, answer) = say(&daemon, "anna", "The code of the garage is 4711.").await;
    assert_eq!(
        (status, &answer["choices"][0]["message"]["content"]),
        (200, &json!("You said: The code of the garage is 4711."))
    );
    assert_eq!(told(&upstream), "", "there is nothing to remember yet");
    daemon.until_kept(|kept| kept.len() == 2);
    daemon.kill();
    daemon.go();
    say(&daemon, "ben", "What is the code of my garage?").await;
    assert!(!told(&upstream).contains("4711"), "{}", told(&upstream));
    say(&daemon, "anna", "What is the code of my garage?").await;
    assert!(told(&upstream).contains("- user: The code of the garage is 4711."), "{}", told(&upstream));
    let shown = daemon.kloros(&["memory", "show", "anna"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("4711"));
    let found = daemon.kloros(&["memory", "search", "garage", "code"]);
    assert!(found.status.success() && String::from_utf8_lossy(&found.stdout).contains("anna"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_passed_on_piece_by_piece_as_curl_asks_for_it() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    let body = json!({"model": "echo", "stream": true, "user": "carl", "messages": [{"role": "user", "content": "one two three"}]});
    let body = body.to_string();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        daemon.address,
        body.len()
    );
    let address = daemon.address;
    let answer = tokio::task::spawn_blocking(move || send(address, &request).unwrap()).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("content-type: text/event-stream"),
        "{answer}"
    );
    assert!(answer.contains("x-conversation-id: carl"), "{answer}");
    // Each piece of the model server is a chunk of its own.
    assert!(answer.matches("data: ").count() >= 6 && answer.contains("data: [DONE]"), "{answer}");
    let sizes =
        answer.split("\r\n").filter(|line| !line.is_empty() && line.bytes().all(|each| each.is_ascii_hexdigit()));
    assert!(sizes.count() >= 6, "{answer}");
    let kept = daemon.until_kept(|kept| kept.len() == 2);
    assert_eq!(kept[1], ("carl".to_owned(), "assistant".to_owned(), "You said: one two three".to_owned()));
    let models = get(daemon.address, "/v1/models").unwrap();
    assert!(models.contains("\"echo\""), "{models}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_the_model_server_are_errors_of_the_dialect_and_are_kept_as_such() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "timeout_s = 1");
    for (text, expected, code) in
        [("fail", 503, "oom"), ("plain", 400, "upstream_error"), ("slow", 504, "upstream_timeout")]
    {
        let (status, body) = say(&daemon, "dora", text).await;
        assert_eq!((status, body["error"]["code"].as_str()), (expected, Some(code)), "{text}: {body}");
        assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string(), "{body}");
    }
    let body = json!({"stream": true, "messages": [{"role": "user", "content": "break a b c"}]});
    let request = client().post(format!("http://{}/v1/chat/completions", daemon.address)).json(&body);
    let answer = request.send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("You ") && !answer.contains("[DONE]"), "{answer}");
    let kept = daemon.until_kept(|kept| kept.iter().filter(|(_, role, _)| role == "error").count() == 4);
    assert!(kept.contains(&("default".to_owned(), "assistant".to_owned(), "You said: ".to_owned())), "{kept:?}");
    assert!(daemon.metric("kloros_conversation_requests_total{outcome=\"timeout\"}") >= 1.0);
    let away = Daemon::start(NOBODY, "");
    let (status, body) = say(&away, "dora", "hello").await;
    assert_eq!((status, body["error"]["code"].as_str()), (502, Some("upstream_unreachable")));
    assert!(!body.to_string().contains("hello"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_too_many_or_not_from_here_is_refused() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "timeout_s = 3\nbody_bytes_max = 2000\nin_flight_max = 1");
    let large = "x".repeat(3000);
    let url = format!("http://{}/v1/chat/completions", daemon.address);
    let body = |text: &str| json!({"messages": [{"role": "user", "content": text}]});
    let answer = client().post(&url).json(&body(&large)).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], "body_too_large");
    let slow = tokio::spawn(client().post(&url).json(&body("slow")).send());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while upstream.asked().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the slow one never arrived");
        tokio::task::yield_now().await;
    }
    let answer = client().post(&url).json(&body("hello")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("retry-after")), (429, true));
    assert_eq!(slow.await.unwrap().unwrap().status(), 504);
    let answer = client().post(&url).header("host", "evil.example:80").json(&body("hello")).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    for broken in ["{", "[]", "{\"messages\": 7}"] {
        let answer = client().post(&url).body(broken).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{broken}");
    }
}

/// Lesson 36: what a model server or a memory that fails may hold up is one request, and no longer than the settings say.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_passes_through_when_there_is_no_memory_and_that_is_counted() {
    let upstream = Upstream::default();
    let mut daemon = Daemon::start(upstream.start().await, "");
    daemon.kill();
    for file in ["conversations.db-wal", "conversations.db-shm"] {
        fs::remove_file(daemon.path(".kloros").join(file)).ok();
    }
    fs::write(daemon.path(".kloros/conversations.db"), "no database at all, but somebody's notes").unwrap();
    daemon.go();
    let (status, answer) = say(&daemon, "emil", "hello").await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("You said: hello")));
    assert!(daemon.metric("kloros_conversation_without_memory_total") >= 1.0);
    assert_eq!(
        fs::read_to_string(daemon.path(".kloros/conversations.db")).unwrap(),
        "no database at all, but somebody's notes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_in_no_log_no_metric_and_no_journal_and_what_is_forgotten_is_nowhere() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    let secret = "xylophonquarz";
    for text in
        [format!("my {secret} one"), format!("fail {secret}"), format!("my {secret} again and again, as I said")]
    {
        say(&daemon, "frida", &text).await;
    }
    say(&daemon, "gerd", "something else stays").await;
    daemon.until_kept(|kept| kept.len() >= 8);
    assert!(holding(&daemon.path("."), secret.as_bytes()).iter().all(|file| file.contains("conversations.db")));
    assert!(!holding(&daemon.path("."), secret.as_bytes()).is_empty());
    assert!(!get(daemon.metrics, "/metrics").unwrap().contains(secret));
    let forgotten = daemon.kloros(&["memory", "forget", "frida"]);
    assert!(forgotten.status.success(), "{}", String::from_utf8_lossy(&forgotten.stderr));
    assert_eq!(holding(&daemon.path("."), secret.as_bytes()), Vec::<String>::new());
    assert_eq!(holding(&daemon.path("."), b"xylop"), Vec::<String>::new());
    assert!(daemon.kept().iter().all(|(name, _, _)| name == "gerd"));
    assert!(!daemon.kloros(&["memory", "forget", "frida"]).status.success());
}

/// Returns the files below `folder` that hold these bytes.
fn holding(folder: &Path, needle: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().filter_map(Result::ok) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(needle.len()).any(|window| window == needle) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_says_again_what_was_said_is_counted_and_asked_for_once_more() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "ask_again = true");
    let long = "please tell me the very same long story that you told before";
    say(&daemon, "hugo", long).await;
    assert_eq!(upstream.asked().len(), 1);
    say(&daemon, "hugo", long).await;
    assert_eq!(upstream.asked().len(), 3, "once more, and only once");
    assert!(told(&upstream).contains("nearly the same") && told(&upstream).contains("began: You said: please tell me"));
    for _ in 0..3 {
        say(&daemon, "iris", "yes").await;
    }
    assert_eq!(upstream.asked().len(), 6, "a set phrase is no repetition");
    let kept = daemon.until_kept(|kept| kept.iter().any(|(_, role, _)| role == "repetition"));
    assert!(kept.iter().all(|(name, role, _)| name == "hugo" || role != "repetition"));
    assert_eq!(
        daemon.metric("kloros_conversation_repetitions_total"),
        1.0,
        "one answer is one, however often it is asked for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn after_twenty_turns_it_goes_on_with_what_was_said_in_short() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    for turn in 0..23 {
        let (status, _) = say(&daemon, "jana", &format!("turn {turn} is about tomatoes in bed number {turn}")).await;
        assert_eq!(status, 200, "turn {turn}");
    }
    assert!(told(&upstream).contains("Before that, in short:"), "{}", told(&upstream));
    assert!(told(&upstream).contains("Topics: ") && told(&upstream).contains("tomatoes"));
    let exported = daemon.kloros(&["memory", "export", "jana"]);
    assert!(String::from_utf8_lossy(&exported.stdout).contains("\"episode\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_midst_of_writing_loses_no_exchange_but_the_last() {
    let upstream = Upstream::default();
    let mut daemon = Daemon::start(upstream.start().await, "");
    for round in 0..3 {
        let url = format!("http://{}/v1/chat/completions", daemon.address);
        let talks: Vec<_> = (0..8)
            .map(|number| {
                let (client, url) = (client(), url.clone());
                tokio::spawn(async move {
                    let mut answered = 0;
                    loop {
                        let text = format!("k{round}x{number} turn {answered}");
                        let body = json!({"messages": [{"role": "user", "content": text}]});
                        let request =
                            client.post(&url).json(&body).header("x-conversation-id", format!("k{round}x{number}"));
                        let is_answered = match request.send().await {
                            Ok(answer) => answer.bytes().await.is_ok(),
                            Err(_) => false,
                        };
                        if !is_answered {
                            return answered;
                        }
                        answered += 1;
                    }
                })
            })
            .collect();
        daemon.until_kept(|kept| kept.len() > 200 * (round + 1));
        daemon.kill();
        let answered: Vec<usize> = futures::future::join_all(talks).await.into_iter().map(Result::unwrap).collect();
        daemon.go();
        let kept = daemon.kept();
        for (number, answered) in answered.into_iter().enumerate() {
            let name = format!("k{round}x{number}");
            let ours: Vec<&str> =
                kept.iter().filter(|(talk, _, _)| *talk == name).map(|(_, _, text)| text.as_str()).collect();
            let expected: Vec<String> = (0..=answered)
                .flat_map(|turn| [format!("{name} turn {turn}"), format!("You said: {name} turn {turn}")])
                .collect();
            let ours: Vec<&str> = ours.into_iter().filter(|text| !text.starts_with("similarity")).collect();
            assert!(
                expected.iter().map(String::as_str).zip(&ours).all(|(expected, kept)| expected == *kept),
                "{name}: {ours:?}"
            );
            assert!(
                ours.len() + 2 >= 2 * answered && ours.len() <= 2 * (answered + 1),
                "{name}: {answered} and {}",
                ours.len()
            );
        }
    }
}

//! The endpoint in front of a small model server, without a memory.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    http::{HeaderMap, header},
    routing::{any, post},
};
use kloros_actors::{
    facts::{Role, Talk},
    memory::{Arguments, Config, Memory, Voice},
    seams::Probe as _,
};
use kloros_supervision::{ChildSpec, Socket, Strategy, Tree, TreeSpec};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{Endpoint, LOCAL, Signals, exchange::PATH, http::accepting};
use crate::{archive::Conversations, brusque, clock::SystemClock, settings::Conversation};

/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(300);

/// An endpoint, what it tells of its service, and which headers the model server was sent.
struct World {
    address: SocketAddr,
    signals: Signals,
    heard: Arc<Mutex<Vec<HeaderMap>>>,
}

impl World {
    /// Starts an endpoint in front of a model server that answers every request with this stream.
    async fn start(stream: &'static str, change: impl FnOnce(&mut Conversation)) -> Self {
        let heard: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
        let hearing = Arc::clone(&heard);
        let answer = async move |headers: HeaderMap| {
            hearing.lock().unwrap_or_else(PoisonError::into_inner).push(headers);
            ([(header::CONTENT_TYPE, "text/event-stream"), (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")], stream)
        };
        let voice = Voice::new(Socket::new("memory"));
        Self { heard, ..Self::before(Router::new().fallback(any(answer)), voice, change).await }
    }

    /// Starts an endpoint with this memory in front of this model server.
    async fn before(model: Router, voice: Voice, change: impl FnOnce(&mut Conversation)) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", upstream.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(upstream, model).await });
        let mut settings = Conversation { upstream: url, ..Conversation::default() };
        change(&mut settings);
        let signals = Signals::new("chat", "http://x", Arc::new(SystemClock));
        let endpoint = Endpoint::new(&settings, voice, signals.clone(), Arc::new(SystemClock)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { accepting(&listener, address, endpoint, axum::Router::new()).await });
        Self { address, signals, heard: Arc::default() }
    }

    /// Asks and returns the answer, which comes whole.
    async fn ask(&self) -> String {
        let client = reqwest::Client::builder().no_proxy().timeout(WITHIN).build().unwrap();
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "a story please"}]});
        let answer = client.post(format!("http://{}{PATH}", self.address)).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// Returns the next readings that tell of answers, by name.
    async fn readings(&self) -> BTreeMap<String, f64> {
        let deadline = Instant::now() + WITHIN;
        loop {
            // It is counted beside the answer.
            let readings = self.signals.read().await.unwrap();
            if !readings.is_empty() {
                return readings.into_iter().map(|reading| (reading.metric, reading.value)).collect();
            }
            assert!(Instant::now() < deadline, "it was never counted");
            tokio::task::yield_now().await;
        }
    }

    fn say(&self) -> reqwest::RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().timeout(WITHIN).build().unwrap();
        let body = json!({"stream": true, "messages": [{"role": "user", "content": "hello"}]});
        client.post(format!("http://{}{PATH}", self.address)).json(&body)
    }

    fn heard(&self) -> Vec<HeaderMap> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

const ANSWER: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn an_error_in_a_stream_is_a_failure_of_the_model_server_and_its_time_is_no_reading() {
    let failing = "data: {\"choices\":[{\"delta\":{\"content\":\"hel\"}}]}\n\n\
        data: {\"error\":{\"message\":\"out of memory\"}}\n\ndata: [DONE]\n\n";
    for (stream, errors, is_timed) in [(ANSWER, 0.0, true), (failing, 1.0, false)] {
        let world = World::start(stream, |_| {}).await;
        assert_eq!(world.say().send().await.unwrap().text().await.unwrap(), stream);
        let deadline = Instant::now() + WITHIN;
        let readings = loop {
            // It is counted beside the answer.
            let readings = world.signals.read().await.unwrap();
            if !readings.is_empty() {
                break readings;
            }
            assert!(Instant::now() < deadline, "it was never counted");
            tokio::task::yield_now().await;
        };
        let value =
            |metric: &str| readings.iter().find(|reading| reading.metric == metric).map(|reading| reading.value);
        assert_eq!(value("chat_error_ratio"), Some(errors));
        assert_eq!((value("chat_ttft_p50_ms").is_some(), value("chat_e2e_p50_ms").is_some()), (is_timed, is_timed));
    }
}

#[tokio::test]
async fn a_model_server_that_ends_its_connections_without_a_word_loses_no_turn() {
    let upstream = format!("http://{}", brusque::start().await);
    let world = World::start(ANSWER, |settings| settings.upstream = upstream).await;
    for turn in 0..20 {
        let answer = world.say().send().await.unwrap();
        assert_eq!(answer.status(), 200, "turn {turn}");
        assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"), "turn {turn}");
    }
}

#[tokio::test]
async fn a_page_reaches_no_model_server_and_no_answer_opens_itself_to_pages() {
    let world = World::start(ANSWER, |_| {}).await;
    for (name, value) in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        let refused = world.say().header(name, value).send().await.unwrap();
        assert_eq!(refused.status(), 403);
        assert!(refused.text().await.unwrap().contains("\"error\""));
        for path in ["/v1/models", "/v1/embeddings"] {
            let url = format!("http://{}{path}", world.address);
            let client = reqwest::Client::builder().no_proxy().timeout(WITHIN).build().unwrap();
            assert_eq!(client.get(url).header(name, value).send().await.unwrap().status(), 403, "{path}");
        }
    }
    assert_eq!(world.heard(), Vec::<HeaderMap>::new());
    let own = format!("http://{}", world.address);
    let answer = world.say().header("origin", &own).header("referer", &own).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().get("access-control-allow-origin")), (200, None));
    let heard = world.heard();
    assert!(heard.len() == 1 && !heard[0].contains_key("origin") && !heard[0].contains_key("referer"), "{heard:?}");
}

#[tokio::test]
async fn a_request_has_its_place_before_its_body_is_there() {
    let world = World::start(ANSWER, |settings| settings.in_flight_max = 1).await;
    let mut halting = TcpStream::connect(world.address).await.unwrap();
    let head = format!("POST {PATH} HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n", world.address);
    halting.write_all(head.as_bytes()).await.unwrap();
    let deadline = Instant::now() + WITHIN;
    while world.say().send().await.unwrap().status() != 429 {
        assert!(Instant::now() < deadline, "the place is never taken");
    }
    drop(halting);
    while world.say().send().await.unwrap().status() != 200 {
        assert!(Instant::now() < deadline, "the place is never given back");
    }
}

#[tokio::test]
async fn who_never_ends_the_head_or_the_body_of_a_request_is_not_awaited_for_ever() {
    let slow = |settings: &mut Conversation| (settings.head_timeout_s, settings.timeout_s) = (1, 1);
    let world = World::start(ANSWER, slow).await;
    for (sent, expected) in [
        ("POST /v1/chat".to_owned(), ""),
        (format!("POST {PATH} HTTP/1.1\r\nhost: {}\r\ncontent-length: 9\r\n\r\n", world.address), "HTTP/1.1 408 "),
    ] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(WITHIN, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&answer).starts_with(expected));
    }
}

#[tokio::test]
async fn there_are_only_so_many_connections_and_the_next_one_waits() {
    let world = World::start(ANSWER, |settings| settings.connections_max = 2).await;
    let held = [TcpStream::connect(world.address).await.unwrap(), TcpStream::connect(world.address).await.unwrap()];
    let waiting = tokio::spawn(world.say().send());
    let mut waiting = std::pin::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "it was answered though no place was free");
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

/// A memory in a folder of its own.
struct Remembering {
    folder: tempfile::TempDir,
    voice: Voice,
    _tree: Tree,
}

impl Remembering {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let conversations = Conversations::open(&folder.path().join("conversations.db")).unwrap();
        let socket = Socket::new("memory");
        let make = move || {
            let archive = Arc::new(conversations.clone());
            (Memory, Arguments { archive, clock: Arc::new(SystemClock), config: Config::default() })
        };
        let root = TreeSpec::new("house", Strategy::OneForOne).child(ChildSpec::actor("memory", &socket, make));
        let tree = kloros_supervision::start(root).await.unwrap();
        Self { folder, voice: Voice::new(socket), _tree: tree }
    }

    /// Waits until so many remarks about repetition are kept, and returns them.
    async fn repetitions(&self, count: usize) -> Vec<String> {
        let (path, deadline) = (self.folder.path().join("conversations.db"), Instant::now() + WITHIN);
        loop {
            let mut events = Conversations::events(&path, &Talk::new("default", LOCAL), 0, 100).unwrap();
            events.retain(|event| event.role == Role::Repetition);
            if events.len() >= count {
                return events.into_iter().map(|event| event.text).collect();
            }
            assert!(Instant::now() < deadline, "{events:?}");
            tokio::task::yield_now().await;
        }
    }
}

const STORY: &str = "Once upon a time there was a router that blinked all night and was never restarted.";

/// Returns a model server that tells one answer after the other, each after so many milliseconds, and the last for ever.
fn telling(answers: &'static [(&'static str, u64)]) -> Router {
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let complete = async move || {
        let turn = told.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (text, after_ms) = answers[turn.min(answers.len() - 1)];
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        Json(json!({"choices": [{"index": 0, "message": {"content": text}}]}))
    };
    Router::new().route(PATH, post(complete))
}

/// The time to its end was read as that to its first piece, which looked like a service that became slow.
#[tokio::test]
async fn an_answer_that_comes_whole_tells_nothing_about_its_first_piece() {
    let world = World::before(telling(&[(STORY, 0)]), Voice::new(Socket::new("memory")), |_| {}).await;
    assert_eq!(world.ask().await, STORY);
    let readings = world.readings().await;
    assert!(readings.contains_key("chat_e2e_p50_ms") && !readings.contains_key("chat_ttft_p50_ms"), "{readings:?}");
}

/// A repetition that another answer replaced was in no reading and kept nowhere, and one that came again was counted twice.
#[tokio::test]
async fn a_repetition_is_one_whether_it_is_replaced_or_comes_again() {
    const OTHER: &str = "Long ago a cable lay under the floor, and nobody knew whereto it led or whence it came.";
    let again = |all: &mut Conversation| (all.ask_again, all.memory_within_ms) = (true, 20_000);
    for (answers, got, remark) in [
        (&[(STORY, 0), (STORY, 0), (OTHER, 0)][..], OTHER, "which another one replaced"),
        (&[(STORY, 0), (STORY, 0), (STORY, 0)][..], STORY, "also when asked for once more"),
    ] {
        let memory = Remembering::start().await;
        let world = World::before(telling(answers), memory.voice.clone(), again).await;
        assert_eq!(world.ask().await, STORY);
        assert_eq!(world.readings().await["chat_repetition_ratio"], 0.0);
        assert_eq!(world.ask().await, got);
        assert_eq!(world.readings().await["chat_repetition_ratio"], 1.0);
        let remarks = memory.repetitions(1).await;
        assert!(remarks.len() == 1 && remarks[0].contains(remark), "{remarks:?}");
    }
}

/// It had as long as a first answer once more, while one lay there.
#[tokio::test]
async fn an_answer_is_asked_for_once_more_within_the_time_of_one() {
    let memory = Remembering::start().await;
    let answers = &[(STORY, 0), (STORY, 2500), (STORY, 60_000)];
    let change = |all: &mut Conversation| (all.ask_again, all.timeout_s, all.memory_within_ms) = (true, 3, 20_000);
    let world = World::before(telling(answers), memory.voice.clone(), change).await;
    world.ask().await;
    let began = Instant::now();
    assert_eq!(world.ask().await, STORY);
    assert!(began.elapsed() < Duration::from_millis(5300), "{:?}", began.elapsed());
}

//! The endpoint as a program of its own.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;

use super::{client, daemon::get, port::Port, upstream::Upstream};

/// How long anything may take to come about; no verdict hangs on it.
const WITHIN: Duration = Duration::from_secs(300);

/// A running endpoint; it dies with the test.
struct Endpoint {
    home: tempfile::TempDir,
    child: Child,
    address: SocketAddr,
    _held: Port,
}

impl Endpoint {
    fn start(upstream: SocketAddr, arguments: &[&str]) -> Self {
        Self::in_home(tempfile::tempdir().unwrap(), upstream, arguments)
    }

    fn in_home(home: tempfile::TempDir, upstream: SocketAddr, arguments: &[&str]) -> Self {
        let held = Port::hold();
        let (port, url) = (held.number().to_string(), format!("http://{upstream}"));
        let log = fs::File::create(home.path().join("log")).unwrap();
        let mut command = Self::command(&home);
        command.args(["conversation", "serve", "--port", &port, "--upstream", &url]).args(arguments);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], held.number()));
        let endpoint = Self { home, child, address, _held: held };
        endpoint.until("it answers", || get(address, "/health").is_some());
        endpoint
    }

    fn command(home: &tempfile::TempDir) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kloros"));
        command.arg("--home").arg(home.path());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KLOROS")) {
            command.env_remove(name);
        }
        command
    }

    fn kloros(&self, arguments: &[&str]) -> Output {
        Self::command(&self.home).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + WITHIN;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {}", fs::read_to_string(self.home.path().join("log")).unwrap());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// Tells it to end, as whoever restarts it does.
    fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn request(address: SocketAddr, text: &str) -> reqwest::RequestBuilder {
    let body = json!({"model": "echo", "messages": [{"role": "user", "content": text}]});
    client().post(format!("http://{address}/v1/chat/completions")).json(&body).header("x-conversation-id", "anna")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_answered_and_kept_before_an_endpoint_ends_and_nothing_else_is_begun() {
    let upstream = Upstream::default();
    let mut endpoint = Endpoint::start(upstream.start().await, &[]);
    let under_way = tokio::spawn(request(endpoint.address, "hold on to this").send());
    upstream.until_asked(1).await;
    endpoint.terminate();
    let deadline = Instant::now() + WITHIN;
    let refused = loop {
        let answer = request(endpoint.address, "too late").send().await.unwrap();
        if answer.status() == 503 {
            break answer;
        }
        assert!(Instant::now() < deadline, "requests are begun while it is to end");
    };
    assert!(refused.headers().contains_key("retry-after"));
    upstream.release();
    assert_eq!(under_way.await.unwrap().unwrap().status(), 200);
    assert!(endpoint.ended().success());
    let kept = endpoint.kloros(&["memory", "export"]);
    let kept = String::from_utf8_lossy(&kept.stdout).into_owned();
    assert!(kept.contains("You said: hold on to this"), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_too_long_is_cut_off_at_the_end_and_what_was_said_in_it_is_kept() {
    let upstream = Upstream::default();
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("kloros.toml"), "[conversation]\nclose_within_s = 0\n").unwrap();
    let mut endpoint = Endpoint::in_home(home, upstream.start().await, &[]);
    let under_way = tokio::spawn(request(endpoint.address, "hold on for ever").send());
    upstream.until_asked(1).await;
    endpoint.terminate();
    assert!(endpoint.ended().success());
    assert!(under_way.await.unwrap().is_err());
    let kept = endpoint.kloros(&["memory", "export"]);
    let kept = String::from_utf8_lossy(&kept.stdout).into_owned();
    assert!(kept.contains("hold on for ever") && kept.contains("\"error\""), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_has_it_read_anew_how_it_remembers_and_what_cannot_be_used_changes_nothing() {
    let upstream = Upstream::default();
    let endpoint = Endpoint::start(upstream.start().await, &["--context-chars", "300"]);
    let set = || serde_json::from_str::<serde_json::Value>(&get(endpoint.address, "/config").unwrap()).unwrap();
    let write = |text: &str| fs::write(endpoint.home.path().join("kloros.toml"), text).unwrap();
    write("[memory]\ncontext_events_max = 7\ncontext_chars_max = 5000\n");
    endpoint.signal("-HUP");
    endpoint.until("it is read", || set()["CHAT_CONTEXT_EVENTS"] == 7);
    assert_eq!(set()["CHAT_CONTEXT_CHARS"], 300, "what was typed counts");
    write("[memory]\ncontext_events_max = 0\n");
    endpoint.signal("-HUP");
    endpoint.until("it is said", || {
        fs::read_to_string(endpoint.home.path().join("log")).unwrap().contains("context_events_max")
    });
    assert_eq!(set()["CHAT_CONTEXT_EVENTS"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_set_by_its_arguments_says_so_and_tells_the_model_server() {
    let upstream = Upstream::default();
    let arguments = ["--context-events", "3", "--context-chars", "300", "--temperature", "0.4", "--max-tokens", "50"];
    let endpoint = Endpoint::start(upstream.start().await, &arguments);
    let set: serde_json::Value = serde_json::from_str(&get(endpoint.address, "/config").unwrap()).unwrap();
    let expected = json!({"CHAT_CONTEXT_EVENTS": 3, "CHAT_CONTEXT_CHARS": 300, "CHAT_REPETITION_FROM": 0.75,
        "CHAT_TEMPERATURE": 0.4, "CHAT_MAX_TOKENS": 50});
    assert_eq!(set, expected);
    for turn in 0..4 {
        assert_eq!(request(endpoint.address, &format!("turn {turn}")).send().await.unwrap().status(), 200);
    }
    let asked = upstream.asked();
    let last = asked.last().unwrap();
    assert_eq!((&last["temperature"], &last["max_tokens"]), (&json!(0.4), &json!(50)));
    let told = last["messages"][0]["content"].as_str().unwrap();
    assert!(told.contains("turn 2") && !told.contains("turn 0"), "{told}");
    assert!(
        get(endpoint.address, "/metrics")
            .unwrap()
            .contains("kloros_conversation_requests_total{outcome=\"answered\"} 4")
    );
    let measured = endpoint.kloros(&["conversation", "measure", "--port", &endpoint.address.port().to_string()]);
    assert!(String::from_utf8_lossy(&measured.stderr).contains("no other is measured"));
    assert_eq!(upstream.asked().len(), 4, "nothing is asked of an endpoint that serves");
}

#[test]
fn what_cannot_be_served_is_said_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("taken.db"), "somebody's").unwrap();
    let taken = home.path().join("taken.db").display().to_string();
    let at = ["--port", "9", "--upstream", "http://127.0.0.1:9"];
    let cases: [(&[&str], i32, &str); 6] = [
        (&["serve"], 78, "no model server is named: pass --upstream"),
        (&["serve", "--upstream", "http://127.0.0.1:9"], 78, "no port is named: pass --port"),
        (&["serve", "--port", "9", "--upstream", "ftp://x"], 78, "conversation.upstream"),
        (
            &["serve", "--port", "9", "--upstream", "http://127.0.0.1:9", "--context-events", "0"],
            78,
            "outside 1 to 500",
        ),
        (
            &["serve", "--port", "9", "--upstream", "http://127.0.0.1:9", "--temperature", "NaN"],
            78,
            "conversation.temperature",
        ),
        (&["trial", at[0], at[1], at[2], at[3], "--memory", &taken], 2, "is there already"),
    ];
    for (arguments, code, what) in cases {
        // What cannot be set so is not started again and again by a service manager.
        let mut command = Endpoint::command(&home);
        let output = command.arg("conversation").args(arguments).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(what), "{arguments:?}: {said}");
    }
    fs::write(home.path().join("kloros.toml"), "[memory]\nno_such_key = 1\n").unwrap();
    let output = Endpoint::command(&home).args(["conversation", "serve"]).args(at).output().unwrap();
    assert_eq!(output.status.code(), Some(78), "a service manager does not start it again and again");
    assert_eq!(fs::read_to_string(taken).unwrap(), "somebody's");
}

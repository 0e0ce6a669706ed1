//! Conversations as a person holds them, in the terminal and with `curl`, and what it takes to forget them.

use std::{
    env,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{daemon::Daemon, holding, say, upstream::Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_in_the_terminal_tells_its_topics_and_its_context_and_is_forgotten() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    let lines = [
        "My tomatoes in the garden need water.",
        "/topics",
        "When do tomatoes need water?",
        "/topics",
        "/context",
        "/nonsense",
        "/forget",
        "/context",
        "/quit",
        "never said",
    ];
    let shown = daemon.chat(&[], &lines);
    let places: Vec<usize> = [
        "You said: My tomatoes in the garden need water.",
        "no topic yet",
        "You said: When do tomatoes need water?",
        "tomatoes, ",
        "user: My tomatoes in the garden need water.",
        "there is no /nonsense",
        "forgot chat with 4 events",
        "nothing was put before the model",
    ]
    .into_iter()
    .map(|line| shown.find(line).unwrap_or_else(|| panic!("no {line} in {shown}")))
    .collect();
    assert!(places.is_sorted() && !shown.contains("never said"), "{shown}");
    assert_eq!(daemon.kept(), []);
}

/// An error within an answer ended the program, and what was said elsewhere was forgotten here.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_fails_ends_no_conversation_and_another_house_forgets_for_itself() {
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    let elsewhere = format!("http://localhost:{}/v1", daemon.address.port());
    let shown = daemon.chat(&["--url", &elsewhere], &["spoil it", "fail", "fine again", "/forget"]);
    for line in ["the answer broke off: out of memory", "no answer: out of memory", "You said: fine again"] {
        assert!(shown.contains(line), "no {line} in {shown}");
    }
    assert!(shown.contains("forgotten there: kloros memory forget chat"), "{shown}");
    assert!(daemon.kept().iter().any(|(_, _, text)| text == "fine again"));
    let own = format!("http://{}/v1", daemon.address);
    assert!(daemon.chat(&["--url", &own], &["/forget"]).contains("forgot chat with"));
    assert_eq!(daemon.kept(), []);
}

/// The second time it said that there is no such conversation, and what was said stayed in the log.
#[tokio::test(flavor = "multi_thread")]
async fn forgetting_that_failed_half_way_is_completed_by_saying_it_again() {
    let upstream = Upstream::default();
    let mut daemon = Daemon::start(upstream.start().await, "");
    say(&daemon, "anna", "my xylophonquarz").await;
    daemon.until_kept(|kept| kept.len() == 2);
    daemon.kill();
    let reading = rusqlite::Connection::open(daemon.path(".kloros/conversations.db")).unwrap();
    reading.execute_batch("BEGIN; SELECT count(*) FROM events;").unwrap();
    let forgotten = daemon.kloros(&["memory", "forget", "anna"]);
    let told = String::from_utf8_lossy(&forgotten.stderr).into_owned();
    assert!(!forgotten.status.success() && told.contains("another program reads the file"), "{told}");
    reading.execute_batch("ROLLBACK").unwrap();
    assert!(!holding(&daemon.path("."), b"xylophonquarz").is_empty(), "the log still holds it");
    let forgotten = daemon.kloros(&["memory", "forget", "anna"]);
    assert_eq!(forgotten.status.code(), Some(1), "there is no such conversation any more");
    assert_eq!(holding(&daemon.path("."), b"xylophonquarz"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_is_answered_whole_and_as_a_stream() {
    let version = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        assert!(env::var("KLOROS_CURL").is_err(), "curl is missing: install curl");
        return;
    }
    let upstream = Upstream::default();
    let daemon = Daemon::start(upstream.start().await, "");
    let url = format!("http://{}/v1/chat/completions", daemon.address);
    let curl = |more: &[&str], body: &str| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "40"]);
        command.args(["--header", "content-type: application/json", "--header", "x-conversation-id: curl"]);
        let output = command.args(more).args(["--data", body, &url]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let whole = curl(&[], r#"{"model": "echo", "messages": [{"role": "user", "content": "The code is 4711."}]}"#);
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "You said: The code is 4711.");
    let stream = curl(
        &["--no-buffer", "--include"],
        r#"{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "Which code?"}]}"#,
    );
    assert!(stream.contains("text/event-stream") && stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    let told = upstream.asked().last().unwrap()["messages"][0]["content"].as_str().unwrap().to_owned();
    assert!(told.contains("- user: The code is 4711."), "{told}");
    daemon.until_kept(|kept| kept.iter().filter(|(name, _, _)| name == "curl").count() == 4);
}

//! Memory has an end however much was said.

use serde_json::json;

use super::{client, daemon::Daemon, say, upstream::Upstream};

/// How many turns are kept, and how long each is, in words.
const TURNS: usize = 40;
const WORDS: usize = 20_000;

/// How many ask at the same time.
const ASKING: usize = 48;

/// How much more memory that may take, in KiB: a tenth of what all of the newest turns take that often.
const GROWTH_KIB_MAX: u64 = 150 * 1024;

/// Each request that was under way held all of the newest turns, twice.
#[tokio::test(flavor = "multi_thread")]
async fn large_turns_fill_no_memory_however_many_ask() {
    let upstream = Upstream::default();
    let settings = "timeout_s = 30\nmemory_within_ms = 20000";
    let daemon = Daemon::start(upstream.start().await, settings);
    for turn in 0..TURNS {
        let (status, _) = say(&daemon, "large", &format!("turn {turn} {}", "tomato ".repeat(WORDS))).await;
        assert_eq!(status, 200);
    }
    say(&daemon, "large", "Which tomato?").await;
    let before_kib = daemon.memory_peak_kib();
    // They stay under way until the model server has heard all of them.
    let url = format!("http://{}/v1/chat/completions", daemon.address);
    let body = json!({"messages": [{"role": "user", "content": "slow: which tomato turn was it?"}]});
    let asking: Vec<_> = (0..ASKING)
        .map(|_| tokio::spawn(client().post(&url).json(&body).header("x-conversation-id", "large").send()))
        .collect();
    upstream.until_asked(TURNS + 1 + ASKING).await;
    let grown_kib = daemon.memory_peak_kib() - before_kib;
    println!("{ASKING} requests about {TURNS} turns of {} bytes each took {grown_kib} KiB", 2 * 7 * WORDS);
    asking.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
}

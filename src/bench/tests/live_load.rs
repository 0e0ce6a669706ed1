use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kloros_actors::facts::TokenRange;
use tokio::time::sleep;

use super::endpoint::Fake;
use crate::{
    bench::{LiveCounts, LiveLoad, LiveLoadSpec},
    process::free_port,
};

fn spec() -> LiveLoadSpec {
    LiveLoadSpec {
        quiet_rate_per_s: 20.0,
        quiet_s: 0.2,
        busy_rate_per_s: 200.0,
        in_flight_max: 4,
        prompt_tokens: TokenRange { min: 4, max: 8 },
        output_tokens: TokenRange { min: 1, max: 2 },
        request_timeout: Duration::from_secs(60),
    }
}

async fn eventually(load: &LiveLoad, condition: impl Fn(LiveCounts) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition(load.counts()) {
        assert!(Instant::now() < deadline, "stuck at {:?}", load.counts());
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_live_load_survives_that_the_service_goes_and_comes_back_elsewhere() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    let url = Arc::new(Mutex::new(Some(first.url("ok"))));
    let looked_up = Arc::clone(&url);
    let load = LiveLoad::start(move || looked_up.lock().unwrap().clone(), spec(), 7);
    eventually(&load, |counts| counts.answered > 3).await;

    *url.lock().unwrap() = Some(format!("http://127.0.0.1:{}", free_port().unwrap()));
    eventually(&load, |counts| counts.failed > 3).await;

    *url.lock().unwrap() = None;
    let refused = load.counts().refused;
    eventually(&load, |counts| counts.refused > refused + 3).await;

    *url.lock().unwrap() = Some(second.url("ok"));
    let answered = load.counts().answered;
    eventually(&load, |counts| counts.answered > answered + 3).await;
    assert!(!second.requests.lock().unwrap().is_empty());

    let counts = load.stop().await;
    assert!(counts.arrived >= counts.answered + counts.failed + counts.refused, "{counts:?}");
}

#[tokio::test]
async fn no_more_requests_are_in_flight_than_allowed() {
    let fake = Fake::start().await;
    let url = fake.url("mute");
    let load = LiveLoad::start(move || Some(url.clone()), spec(), 7);
    eventually(&load, |counts| counts.refused > 10).await;
    assert!(fake.requests.lock().unwrap().len() <= 4);
    let counts = load.stop().await;
    assert_eq!(counts.arrived, counts.refused + 4);
}

//! Traces: each cycle is told as one trace over OTLP when it has ended, made of its facts.
//!
//! The journal is the queue, and a cycle is read whole from it, so nothing is held in memory but what is sent just now. A trace that is
//! not taken is counted and given up; the journal has the story all the same. The id of a trace is that of its cycle, so whoever knows one
//! knows the other.

mod otlp;

mod spans;

use std::{sync::Arc, time::Duration};

use kloros_actors::{
    facts::{Kind, Recorded},
    meters,
    seams::{Journal as _, Query},
};

use crate::{home::Home, journal::Store, post::Post, settings::Traces, told::Told};
pub(crate) use spans::{Traced, trace_id};

/// How many facts are read at once.
const FACTS_AT_ONCE: usize = 500;

/// The name of the note of how far was told.
const NOTE: &str = "traces";

/// Returns up to where an earlier daemon told, so that a cycle that ended with it is told by this one; where none told, up to the fact
/// `newest`.
pub(crate) async fn told(home: &Home, traces: &Traces, newest: u64) -> Told {
    let is_told = traces.address().is_ok_and(|address| address.is_some());
    Told::open(home, NOTE, is_told, (newest, newest)).await
}

/// Tells each cycle that ends after what was `told`, and moves that on, for as long as it runs; for ever, and nobody, where no endpoint is
/// set.
pub(crate) async fn tell(traces: Traces, store: Store, told: Arc<Told>) -> Result<(), String> {
    let Some(post) = traces.address()?.map(Post::to).transpose()? else { return std::future::pending().await };
    let mut appended = store.appended();
    loop {
        let ends = [Kind::QuestionEnd, Kind::Lesson, Kind::Ruling];
        let query = Query { after: told.seq(), limit: FACTS_AT_ONCE, ..Query::kinds(&ends) };
        let found = store.read(query).await.map_err(|error| error.to_string())?;
        for recorded in &found {
            if spans::may_end(&recorded.fact) {
                tell_one(&traces, &store, &post, recorded).await?;
                told.told(recorded.seq).await;
            } else {
                told.passed(recorded.seq).await;
            }
        }
        if found.len() < FACTS_AT_ONCE {
            appended.changed().await.map_err(|error| error.to_string())?;
        }
    }
}

/// Tells the cycle that the fact `end` ends, if it does.
async fn tell_one(traces: &Traces, store: &Store, post: &Post, end: &Recorded) -> Result<(), String> {
    let whole = || Query { cycle: Some(end.cycle.clone()), limit: traces.facts_max as usize, ..Query::default() };
    let facts = store.read(whole()).await.map_err(|error| error.to_string())?;
    if !spans::is_end(&end.fact, &facts) {
        return Ok(());
    }
    tokio::time::sleep(Duration::from_secs_f64(traces.settle_s)).await;
    let facts = store.read(whole()).await.map_err(|error| error.to_string())?;
    deliver(traces, post, &otlp::spelled(&end.cycle, &spans::of(&end.cycle, &facts))).await;
    Ok(())
}

async fn deliver(traces: &Traces, post: &Post, body: &str) {
    let headers = [("content-type", "application/json".to_owned())];
    let within = Duration::from_secs_f64(traces.timeout_s);
    for tries in 1..=traces.tries_max {
        match post.send(&headers, body, within).await {
            Ok(()) => return metrics::counter!(meters::TRACES_TOTAL, "outcome" => "sent").increment(1),
            Err(why) => tracing::warn!(tries, %why, "trace not delivered"),
        }
        if tries < traces.tries_max {
            tokio::time::sleep(traces.pause()).await;
        }
    }
    metrics::counter!(meters::TRACES_TOTAL, "outcome" => "failed").increment(1);
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        http::{HeaderMap, StatusCode},
        routing::post,
    };
    use kloros_actors::{
        facts::{CycleId, Entry, Fact},
        seams::Journal as _,
    };
    use serde_json::Value;
    use tokio::sync::mpsc;

    use super::*;
    use crate::journal::{self, one_of_each};

    /// Serves OTLP, refuses the first trace, and returns the endpoint and what it hears.
    async fn collector() -> (String, mpsc::Receiver<Value>) {
        let (sender, receiver) = mpsc::channel(100);
        let refused = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let hear = post(move |headers: HeaderMap, body: String| {
            let (sender, refused) = (sender.clone(), Arc::clone(&refused));
            async move {
                if !refused.swap(true, std::sync::atomic::Ordering::SeqCst) {
                    return StatusCode::SERVICE_UNAVAILABLE;
                }
                assert_eq!(headers["content-type"], "application/json");
                sender.try_send(serde_json::from_str(&body).unwrap()).ok();
                StatusCode::OK
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/v1/traces", hear);
        tokio::spawn(async move { axum::serve(listener, app).await });
        (endpoint, receiver)
    }

    fn entries(cycle: &str) -> Vec<Entry> {
        let cycle = CycleId::new(cycle);
        one_of_each().into_iter().zip(1..).map(|(fact, at_ms)| Entry::new(&cycle, at_ms, fact)).collect()
    }

    #[tokio::test]
    async fn a_cycle_is_told_once_when_it_has_ended_and_again_where_that_was_refused() {
        let (endpoint, mut heard) = collector().await;
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let store = journal::open(&home).unwrap();
        store.append(entries("c-before")).await.unwrap();
        let traces = Traces { endpoint, settle_s: 0.01, retry_after_s: 0.01, ..Traces::default() };
        let newest = *store.appended().borrow();
        let told = Arc::new(told(&home, &traces, newest).await);
        let telling = tokio::spawn(tell(traces, store.clone(), told));
        let mut unended = entries("c-unended");
        unended.retain(|entry| !matches!(entry.fact, Fact::QuestionEnd(_)));
        for facts in [unended, entries("c-1"), entries("c-2")] {
            store.append(facts).await.unwrap();
        }
        for cycle in ["c-1", "c-2"] {
            let next = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap().unwrap();
            let spans = next["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
            let trace: Value = trace_id(&CycleId::new(cycle)).into();
            assert!(spans.iter().all(|span| span["traceId"] == trace), "{next}");
            assert_eq!((&spans[0]["name"], &spans[0]["parentSpanId"]), (&"cycle".into(), &"".into()));
            assert_eq!(spans[0]["startTimeUnixNano"], "1000000");
            let roots = spans.iter().filter(|span| span["parentSpanId"] == "").count();
            assert_eq!((roots, spans.len() > 3), (1, true), "{next}");
        }
        telling.abort();
    }

    /// Once a daemon told only of what happened under it, and the cycle in which it was ended was told by nobody.
    #[tokio::test]
    async fn a_cycle_that_ended_with_a_daemon_is_told_by_the_next_one_and_no_other_is_again() {
        let (endpoint, mut heard) = collector().await;
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        let store = journal::open(&home).unwrap();
        let traces = Traces { endpoint, settle_s: 0.01, retry_after_s: 0.01, ..Traces::default() };
        let trace = |cycle: &str| trace_id(&CycleId::new(cycle));
        let next = async |heard: &mut mpsc::Receiver<Value>| {
            let next = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.unwrap().unwrap();
            next["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"].as_str().unwrap().to_owned()
        };
        let last = async || {
            let newest = *store.appended().borrow();
            Arc::new(told(&home, &traces, newest).await)
        };
        let first = tokio::spawn(tell(traces.clone(), store.clone(), last().await));
        for cycle in ["c-1", "c-2"] {
            store.append(entries(cycle)).await.unwrap();
            assert_eq!(next(&mut heard).await, trace(cycle));
        }
        first.abort();
        first.await.unwrap_err();
        store.append(entries("c-3")).await.unwrap();
        let second = tokio::spawn(tell(traces.clone(), store.clone(), last().await));
        let mut told = next(&mut heard).await;
        if told == trace("c-2") {
            // The first was ended between sending that and noting it.
            told = next(&mut heard).await;
        }
        assert_eq!(told, trace("c-3"));
        second.abort();
    }
}

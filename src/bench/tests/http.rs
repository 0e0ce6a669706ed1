use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use futures::{StreamExt, stream};
use kloros_actors::facts::{BenchLoad, FailureKind, HttpBench, HttpPath, TrialFailure};
use tokio::{sync::RwLock, time::sleep};

use crate::{
    bench::{drive::Measured, http::measure},
    process::free_port,
};

const CLOSED: BenchLoad = BenchLoad::Closed { clients: 3 };
const OPEN: BenchLoad = BenchLoad::Poisson { rate_per_s: 200.0, in_flight_max: 1024 };

/// At which request a server that stalls does, and for how long.
const STALL_AT: u64 = 100;
const STALL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Seen {
    paths: Mutex<Vec<String>>,
    connections: AtomicU64,
    requests: AtomicU64,
    /// Held by whoever is answered, alone by a stall.
    stall: RwLock<()>,
}

/// A web server that runs until the test ends and does what the path says.
async fn site() -> (String, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counter = Arc::clone(&seen);
    let listener = listener.tap_io(move |_| {
        counter.connections.fetch_add(1, Ordering::SeqCst);
    });
    let router = Router::new().fallback(answer).with_state(Arc::clone(&seen));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, seen)
}

async fn answer(State(seen): State<Arc<Seen>>, uri: Uri, headers: HeaderMap) -> Response {
    seen.paths.lock().unwrap().push(uri.to_string());
    let count = seen.requests.fetch_add(1, Ordering::SeqCst) + 1;
    match uri.path() {
        "/" | "/other" => "hello".into_response(),
        "/stall" => {
            if count == STALL_AT {
                let _alone = seen.stall.write().await;
                sleep(STALL).await;
            }
            let _with_others = seen.stall.read().await;
            "hello".into_response()
        }
        "/hang" => std::future::pending().await,
        "/half" => Body::from_stream(stream::iter([Ok::<_, Infallible>(Bytes::from("hel"))]).chain(stream::pending()))
            .into_response(),
        "/cut" => {
            Body::from_stream(stream::iter([Ok(Bytes::from("hel")), Err(io::Error::other("cut"))])).into_response()
        }
        "/close" => ([("connection", "close")], "hello").into_response(),
        "/gzip" if headers["accept-encoding"] == "gzip" && headers["host"] == "example.org" => "hello".into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn bench(load: BenchLoad, paths: &[&str]) -> HttpBench {
    HttpBench {
        load,
        paths: paths.iter().map(|path| HttpPath { path: (*path).to_owned(), weight: 1 }).collect(),
        headers: BTreeMap::new(),
        expect_status: 200,
        body_bytes_max: 1024,
        keep_alive: true,
        warmup_s: 0.1,
        window_s: 0.5,
        slo_ms: Some(60_000.0),
        request_timeout_s: 0.2,
    }
}

async fn run(bench: &HttpBench) -> (Result<Measured, TrialFailure>, Arc<Seen>) {
    let (url, seen) = site().await;
    (measure(&url, bench, 7).await, seen)
}

#[tokio::test]
async fn a_healthy_server_yields_every_number() {
    for load in [CLOSED, OPEN, BenchLoad::Constant { rate_per_s: 200.0, in_flight_max: 1024 }] {
        let patient = HttpBench { request_timeout_s: 60.0, ..bench(load, &["/", "/other"]) };
        let measured = run(&patient).await.0.unwrap();
        for name in ["latency_p50_ms", "latency_p90_ms", "requests_per_s", "bytes_per_s", "goodput_per_s"] {
            assert!(measured.metrics[name] > 0.0, "{name} of {measured:?}");
        }
        assert_eq!(measured.metrics["bytes_per_s"], measured.metrics["requests_per_s"] * 5.0);
        assert_eq!(measured.metrics["error_rate"], 0.0, "{measured:?}");
        assert_eq!(measured.window_ms, 500);
    }
}

/// Coordinated omission: a client that waits for its answer sends one request into a stall of a second, and sees one of many that
/// was slow. Its users would have sent a hundred.
#[tokio::test]
async fn a_stall_is_seen_by_every_request_that_fell_into_it_and_hidden_from_a_client_that_waits() {
    let stalling = |load| HttpBench { window_s: 2.0, request_timeout_s: 60.0, ..bench(load, &["/stall"]) };
    let p99_ms = async |load| run(&stalling(load)).await.0.unwrap().metrics["latency_p99_ms"];
    let open = p99_ms(BenchLoad::Constant { rate_per_s: 100.0, in_flight_max: 1024 }).await;
    assert!((800.0..10_000.0).contains(&open), "{open}");
    let closed = p99_ms(BenchLoad::Closed { clients: 1 }).await;
    assert!(closed < open / 2.0, "{closed} against {open}");
}

#[tokio::test]
async fn a_wrong_status_is_an_error_of_its_own_kind() {
    let measured = run(&bench(CLOSED, &["/", "/missing"])).await.0.unwrap();
    let (errors, of_status) = (measured.metrics["error_rate"], measured.metrics["status_error_rate"]);
    assert!(0.0 < errors && errors < 1.0 && errors == of_status, "{measured:?}");
    let expected = HttpBench { expect_status: 404, ..bench(CLOSED, &["/missing"]) };
    assert_eq!(run(&expected).await.0.unwrap().metrics["error_rate"], 0.0);
}

#[tokio::test]
async fn what_hangs_ends_in_the_timeout() {
    for path in ["/hang", "/half"] {
        let measured = run(&bench(CLOSED, &["/", path])).await.0.unwrap();
        assert!(measured.metrics["timeout_rate"] > 0.0, "{measured:?}");
        assert_eq!(measured.metrics["timeout_rate"], measured.metrics["error_rate"]);
    }
}

#[tokio::test]
async fn a_server_that_answers_nobody_well_gives_no_number() {
    let cases = [
        ("/missing", "status 404"),
        ("/hang", "no whole answer in time"),
        ("/half", "no whole answer in time"),
        ("/cut", "the stream broke off"),
    ];
    for (path, why) in cases {
        for load in [CLOSED, OPEN] {
            let failure = run(&bench(load, &[path])).await.0.unwrap_err();
            assert_eq!(failure.kind, FailureKind::BenchFailed);
            assert!(failure.detail.contains(why), "{path}: {failure}");
        }
    }
    let small = HttpBench { body_bytes_max: 4, ..bench(CLOSED, &["/"]) };
    let failure = run(&small).await.0.unwrap_err();
    assert!(failure.detail.contains("more than 4 bytes (body_bytes_max)"), "{failure}");
}

#[tokio::test]
async fn a_server_that_nobody_listens_on_is_dead() {
    let url = format!("http://127.0.0.1:{}", free_port().unwrap());
    for load in [CLOSED, OPEN] {
        let failure = measure(&url, &bench(load, &["/"]), 7).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Died);
        assert!(failure.detail.contains(&url), "{failure}");
    }
}

#[tokio::test]
async fn connections_are_used_again_unless_one_is_wanted_for_each_request_or_the_server_closes_them() {
    let connections = async |bench: HttpBench| {
        let (measured, seen) = run(&bench).await;
        assert_eq!(measured.unwrap().metrics["error_rate"], 0.0);
        (seen.connections.load(Ordering::SeqCst), seen.requests.load(Ordering::SeqCst))
    };
    let patient = |path| HttpBench { request_timeout_s: 60.0, ..bench(CLOSED, &[path]) };
    let (made, requests) = connections(patient("/")).await;
    assert!(made <= 3 && requests > 3, "{made} for {requests}");
    let (made, requests) = connections(HttpBench { keep_alive: false, ..patient("/") }).await;
    assert_eq!(made, requests);
    let (made, requests) = connections(patient("/close")).await;
    assert_eq!(made, requests);
}

#[tokio::test]
async fn more_than_may_be_in_flight_is_refused_and_counted() {
    let load = BenchLoad::Constant { rate_per_s: 200.0, in_flight_max: 1 };
    let (measured, seen) = run(&bench(load, &["/", "/hang"])).await;
    let measured = measured.unwrap();
    assert!(measured.metrics["refused_rate"] > 0.0, "{measured:?}");
    assert!(seen.requests.load(Ordering::SeqCst) < measured.samples);
}

#[tokio::test]
async fn equal_seeds_ask_for_the_same_pages() {
    let one = BenchLoad::Closed { clients: 1 };
    let mut asked = Vec::new();
    for seed in [7, 7, 8] {
        let (url, seen) = site().await;
        measure(&url, &bench(one, &["/", "/other"]), seed).await.unwrap();
        let paths = seen.paths.lock().unwrap().clone();
        asked.push(paths[..20].to_vec());
    }
    assert_eq!(asked[0], asked[1]);
    assert_ne!(asked[0], asked[2]);
}

#[tokio::test]
async fn headers_are_sent_as_they_are_given() {
    let headers = [("accept-encoding", "gzip"), ("host", "example.org")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let measured = run(&HttpBench { headers, request_timeout_s: 60.0, ..bench(CLOSED, &["/gzip"]) }).await.0.unwrap();
    assert_eq!(measured.metrics["error_rate"], 0.0);
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let fine = || bench(CLOSED, &["/"]);
    let odd = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let cases = [
        (HttpBench { paths: Vec::new(), ..fine() }, "paths"),
        (bench(CLOSED, &["not a path"]), "not a path"),
        (HttpBench { window_s: f64::NAN, ..fine() }, "window_s"),
        (HttpBench { headers: odd("a b", "c"), ..fine() }, "headers: a b"),
        (HttpBench { headers: odd("a", "b\n"), ..fine() }, "headers: a"),
        (bench(BenchLoad::Constant { rate_per_s: 1e9, in_flight_max: 1 }, &["/"]), "rate_per_s"),
        (bench(BenchLoad::Closed { clients: 0 }, &["/"]), "clients"),
    ];
    for (bench, name) in cases {
        let failure = run(&bench).await.0.unwrap_err();
        assert_eq!(failure.kind, FailureKind::BenchFailed);
        assert!(failure.detail.contains(name), "{failure} lacks {name}");
    }
}

//! Logs to stderr or journald, metrics to whoever scrapes.

mod journald;

mod levels;

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, extract::State, http::header, middleware, response::IntoResponse, routing::get};
use kloros_actors::{circuit::Control, meters, seams::Clock};
use kloros_supervision::{EventKind, Kind, State as RoomState};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::sync::{Semaphore, broadcast::error::RecvError};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

use crate::{api, background::Up, gpus, nvml::Gpus, stages::Stages};
use journald::Journald;
pub(crate) use levels::Levels;

/// How often histograms are drained when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Upper bounds of the trial's histogram, in seconds.
const TRIAL_BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Upper bounds of the histograms of conversations, in seconds: from what kloros adds to what a long answer takes.
const CONVERSATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// Upper bounds of the histogram of stages of the loop, in seconds: from a second to three days.
const STAGE_BUCKETS: [f64; 11] = [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 86_400.0, 259_200.0];

/// Upper bounds of the histogram of the journal's commits, in seconds: from a fast disk to one that hangs.
const COMMIT_BUCKETS: [f64; 13] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How many connections are open at most to where metrics are served.
const CONNECTIONS_MAX: usize = 64;

/// How long a request there may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// How long the env files may take to say which level is in force; a file system that hangs hides the level and nothing else.
const LEVELS_WITHIN: Duration = Duration::from_secs(1);

/// The log of this process.
pub(crate) struct Log {
    looked_on: bool,
    refilter: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Log {
    /// Starts logging to stderr, or where journald reads that, to journald with every field, filtered by `filter`. To a person who
    /// looks on at the story only errors are said, unless the settings ask for more than they do by themselves.
    pub(crate) fn start(filter: &str, looked_on: bool) -> Self {
        if let Some(journald) = Journald::here() {
            let (filter, handle) = reload::Layer::new(env_filter(filter, looked_on));
            tracing_subscriber::registry().with(filter).with(journald).try_init().ok();
            return Self { looked_on, refilter: Box::new(move |filter| drop(handle.reload(filter))) };
        }
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let builder = tracing_subscriber::fmt()
            .with_ansi(std::io::stderr().is_terminal() && !plain)
            .with_writer(std::io::stderr)
            .with_target(false)
            // It would say on stderr that stderr cannot be written to, which panics: a full or broken disk under a log file
            // would end the guard that waits for that disk.
            .log_internal_errors(false)
            .with_env_filter(env_filter(filter, looked_on))
            .with_filter_reloading();
        let handle = builder.reload_handle();
        // A second start in one process keeps the first logger.
        builder.try_init().ok();
        // The logger lasts as long as the process.
        Self { looked_on, refilter: Box::new(move |filter| drop(handle.reload(filter))) }
    }

    /// Filters by `filter` from now on.
    pub(crate) fn filter_by(&self, filter: &str) {
        (self.refilter)(env_filter(filter, self.looked_on));
    }
}

fn env_filter(filter: &str, looked_on: bool) -> EnvFilter {
    let filter = if looked_on && filter == "info" { "error" } else { filter };
    // ractor's own spans would stand before every line.
    EnvFilter::try_new(format!("ractor=warn,{filter}")).unwrap_or_else(|_| EnvFilter::new("info"))
}

/// Starts recording metrics, and gives each its help text.
pub(crate) fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = record()?;
    meters::describe();
    describe_build();
    Ok(handle)
}

/// Starts recording the metrics of conversations, where the loop is in another process.
pub(crate) fn start_metrics_of_conversations() -> anyhow::Result<PrometheusHandle> {
    let handle = record()?;
    meters::describe_conversations();
    describe_build();
    Ok(handle)
}

fn record() -> anyhow::Result<PrometheusHandle> {
    let recorder = recorder()?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics are recorded already")?;
    Ok(handle)
}

fn recorder() -> anyhow::Result<PrometheusRecorder> {
    let mut builder = PrometheusBuilder::new();
    for name in [meters::CONVERSATION_ADDED, meters::CONVERSATION_FIRST_PIECE, meters::CONVERSATION_DURATION] {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &CONVERSATION_BUCKETS)?;
    }
    let recorder = builder
        .set_buckets_for_metric(Matcher::Full(meters::STAGE_DURATION.to_owned()), &STAGE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(meters::JOURNAL_COMMIT_DURATION.to_owned()), &COMMIT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(meters::TRIAL_DURATION.to_owned()), &TRIAL_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(meters::gpu::SAMPLE_DURATION.to_owned()), &gpus::TURN_BUCKETS)?
        .build_recorder();
    Ok(recorder)
}

fn describe_build() {
    metrics::describe_gauge!(BUILD_INFO, "The program that runs; the value is 1.");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// The program that runs.
const BUILD_INFO: &str = "kloros_build_info";

/// Fails when nothing can listen on `address`, while that can still be told to whoever started the daemon.
pub(crate) fn check_address(address: SocketAddr) -> anyhow::Result<()> {
    std::net::TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("cannot listen on {address} for metrics: set shell.metrics_address to a free one"))
}

/// What `/metrics` shows.
#[derive(Clone)]
pub(crate) struct Shown {
    /// What was recorded as it happened.
    pub(crate) handle: PrometheusHandle,
    /// The rooms as they are.
    pub(crate) control: Control,
    /// The GPUs as they were sampled last.
    pub(crate) gpus: Arc<Gpus>,
    /// What is under way in the stages of the loop.
    pub(crate) stages: Arc<Stages>,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
    /// The levels in force as they were read last.
    pub(crate) levels: Levels,
}

/// Serves `/metrics` on `address`, and what else is to be reached there, until it fails; says when it is `up`. No web page is answered,
/// and on loopback nobody who asks for another name.
pub(crate) async fn serve(address: SocketAddr, shown: Shown, beside: Router, up: Up) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} for metrics: {error}"))?;
    up.say();
    let (upkeep, control) = (shown.handle.clone(), shown.control.clone());
    let scrape = served(Router::new().route("/metrics", get(render)).with_state(shown).merge(beside), address);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    tokio::select! {
        served = api::accept(&listener, &scrape, places, REQUEST_WITHIN) => served,
        kept_up = keep_up(upkeep) => kept_up,
        () = count_stalls(&control) => Ok(()),
    }
}

/// Drains histograms that nobody scrapes, without end.
pub(crate) async fn keep_up(metrics: PrometheusHandle) -> Result<(), String> {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        metrics.run_upkeep();
    }
}

/// Returns the routes with the guard before them that `address` needs.
fn served(routes: Router, address: SocketAddr) -> Router {
    let by_loopback = address.ip().is_loopback();
    let in_time = middleware::from_fn_with_state(REQUEST_WITHIN, api::in_time);
    routes.layer(in_time).layer(middleware::from_fn_with_state(by_loopback, api::no_page))
}

/// Counts the rooms that are ended because they make no progress, for as long as the house stands.
async fn count_stalls(control: &Control) {
    let mut events = loop {
        // The house stands a moment after its last room.
        match control.events() {
            Some(events) => break events,
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    loop {
        match events.recv().await {
            Ok(event) if matches!(event.kind, EventKind::Stalled { .. }) && is_room(&event.path) => {
                metrics::counter!(meters::ROOM_STALLS_TOTAL, "room" => event.path).increment(1);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Experiments come and go, and are counted elsewhere.
fn is_room(path: &str) -> bool {
    !path.starts_with("experiments/")
}

async fn render(State(shown): State<Shown>) -> impl IntoResponse {
    show_tree(&shown.control);
    show_levels(&shown).await;
    shown.stages.show(shown.clock.now_ms());
    let text = shown.handle.render() + &gpus::metrics_text(&shown.gpus);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Shows the level in force in each domain as it is now, whether anything was ruled on or not.
async fn show_levels(shown: &Shown) {
    let levels = shown.levels.now(&shown.control, &*shown.clock);
    let Ok(levels) = tokio::time::timeout(LEVELS_WITHIN, levels).await else { return };
    for (domain, level) in levels {
        metrics::gauge!(meters::AUTONOMY_LEVEL, "domain" => domain).set(f64::from(u8::from(level)));
    }
}

/// Rooms are a closed set but for experiments.
fn show_tree(control: &Control) {
    let Some(house) = control.snapshot() else { return };
    for branch in house.walk() {
        if branch.kind != Kind::Actor || !is_room(&branch.path) {
            continue;
        }
        let room = branch.path.clone();
        let up = f64::from(u8::from(matches!(branch.state, RoomState::Running)));
        metrics::gauge!(meters::ROOM_UP, "room" => room.clone()).set(up);
        metrics::counter!(meters::ROOM_RESTARTS_TOTAL, "room" => room.clone()).absolute(branch.restarts);
        metrics::counter!(meters::ROOM_HANDLED_TOTAL, "room" => room.clone()).absolute(branch.handled);
        metrics::counter!(meters::ROOM_LOST_TOTAL, "room" => room.clone()).absolute(branch.lost);
        metrics::counter!(meters::ROOM_STALLS_TOTAL, "room" => room.clone()).absolute(0);
        let busy_s = branch.busy_for.map_or(0.0, |busy| busy.as_secs_f64());
        metrics::gauge!(meters::ROOM_BUSY_SECONDS, "room" => room.clone()).set(busy_s);
        metrics::gauge!(meters::ROOM_BUSY_RATIO, "room" => room.clone()).set(branch.busy_ratio);
        metrics::gauge!(meters::ROOM_MAILBOX_DEPTH, "room" => room).set(branch.depth as f64);
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    /// A counter that comes into being with its first event hides that event from every rate.
    #[test]
    fn what_has_a_closed_set_of_labels_is_there_from_zero() {
        let recorder = recorder().unwrap();
        metrics::with_local_recorder(&recorder, meters::describe);
        let text = recorder.handle().render();
        for row in [
            "kloros_anomalies_total{kind=\"objective\"} 0",
            "kloros_intents_total{outcome=\"duplicate\"} 0",
            "kloros_trials_total{result=\"measured\"} 0",
            "kloros_trials_total{result=\"breached\"} 0",
            "kloros_rollbacks_total{reason=\"unproven\"} 0",
            "kloros_questions_withheld_total{reason=\"too_many\"} 0",
            "kloros_inbox_refused_total 0",
            "kloros_journal_commit_duration_seconds_count 0",
            "kloros_stage_duration_seconds_count{stage=\"validation\",outcome=\"rollback\"} 0",
            "kloros_stage_duration_seconds_bucket{stage=\"question\",outcome=\"void\",le=\"3600\"} 0",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is missing in\n{text}");
        }
    }

    /// How often it is asked.
    const ASKED: usize = 50;

    /// `cargo test --bin kloros telemetry::tests::ten_thousand -- --nocapture` says how long that takes. Other tests share these cores, so
    /// no time decides it.
    #[tokio::test]
    async fn ten_thousand_series_are_shown_whole() {
        let recorder = recorder().unwrap();
        metrics::with_local_recorder(&recorder, || {
            meters::describe();
            for number in 0..8_000 {
                metrics::gauge!(meters::PROBE_UP, "probe" => format!("p{number}")).set(1.0);
            }
            for number in 0..200 {
                let domain = format!("d{number}");
                metrics::histogram!(meters::TRIAL_DURATION, "domain" => domain).record(f64::from(number));
            }
        });
        let handle = recorder.handle();
        let routes = Router::new().route("/metrics", get(move || async move { handle.render() }));
        let service = TowerToHyperService::new(served(routes, "127.0.0.1:9464".parse().unwrap()));
        let (mut took_ms, mut series, mut bytes) = (Vec::new(), 0, 0);
        for _ in 0..ASKED {
            let began = std::time::Instant::now();
            let request = Request::get("/metrics").header("host", "127.0.0.1:9464").body(Body::empty()).unwrap();
            let answer = service.call(request).await.unwrap();
            let text = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            took_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            let text = String::from_utf8(text.to_vec()).unwrap();
            (series, bytes) =
                (text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count(), text.len());
        }
        took_ms.sort_by(f64::total_cmp);
        println!(
            "{series} series, {} KiB: {:.1} ms at the median, {:.1} at best, {:.1} at most",
            bytes >> 10,
            took_ms[ASKED / 2],
            took_ms[0],
            took_ms[ASKED - 1]
        );
        assert!(series >= 10_000, "{series}");
    }

    async fn status(address: &str, headers: &[(&str, &str)]) -> u16 {
        let routes = Router::new().route("/metrics", get(|| async { "kloros_stopped 0" }));
        let mut request = Request::get("/metrics");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let service = TowerToHyperService::new(served(routes, address.parse().unwrap()));
        service.call(request).await.unwrap().status().as_u16()
    }

    /// A page whose name was made to resolve to 127.0.0.1 could read every metric, and report alerts.
    #[tokio::test]
    async fn a_web_page_reads_no_metrics_and_on_loopback_nobody_does_under_another_name() {
        let here = ("host", "127.0.0.1:9464");
        assert_eq!(status("127.0.0.1:9464", &[here]).await, 200);
        assert_eq!(status("127.0.0.1:9464", &[("host", "localhost")]).await, 200);
        assert_eq!(status("127.0.0.1:9464", &[("host", "rebound.example:9464")]).await, 421);
        assert_eq!(status("127.0.0.1:9464", &[]).await, 421);
        assert_eq!(status("127.0.0.1:9464", &[here, ("origin", "http://evil.example")]).await, 403);
        assert_eq!(status("127.0.0.1:9464", &[here, ("sec-fetch-site", "cross-site")]).await, 403);
        // Whoever lets it leave the machine is asked for by that machine's name.
        assert_eq!(status("0.0.0.0:9464", &[("host", "box.lan:9464")]).await, 200);
        let lan = ("host", "box.lan:9464");
        assert_eq!(status("0.0.0.0:9464", &[lan, ("origin", "http://evil.example")]).await, 403);
    }
}

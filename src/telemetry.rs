//! Logs to stderr, metrics to whoever scrapes.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, extract::State, http::header, response::IntoResponse, routing::get};
use kloros_actors::{circuit::Control, meters};
use kloros_supervision::{Kind, State as RoomState};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::{gpus, nvml::Gpus};

/// How often histograms are drained when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Upper bounds of the trial's histogram, in seconds.
const TRIAL_BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Starts logging to stderr, filtered by `filter`. To a person who looks on at the story only errors are said, unless the
/// settings ask for more than they do by themselves.
pub(crate) fn start_logs(filter: &str, looked_on: bool) {
    let filter = if looked_on && filter == "info" { "error" } else { filter };
    // ractor's own spans would stand before every line.
    let filter = EnvFilter::try_new(format!("ractor=warn,{filter}")).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process keeps the first logger.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    builder.with_ansi(std::io::stderr().is_terminal() && !plain).try_init().ok();
}

/// Starts recording metrics, and gives each its help text.
pub(crate) fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(meters::TRIAL_DURATION.to_owned()), &TRIAL_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(meters::gpu::SAMPLE_DURATION.to_owned()), &gpus::TURN_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics are recorded already")?;
    meters::describe();
    metrics::describe_gauge!(BUILD_INFO, "The program that runs; the value is 1.");
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
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
}

/// Serves `/metrics` on `address` until it fails.
pub(crate) async fn serve(address: SocketAddr, shown: Shown) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} for metrics: {error}"))?;
    let upkeep = shown.handle.clone();
    let scrape = Router::new().route("/metrics", get(render)).with_state(shown);
    let keeping_up = async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    };
    tokio::select! {
        served = async { axum::serve(listener, scrape).await } => served.map_err(|error| error.to_string()),
        () = keeping_up => Ok(()),
    }
}

async fn render(State(shown): State<Shown>) -> impl IntoResponse {
    show_tree(&shown.control);
    let text = shown.handle.render() + &gpus::metrics_text(&shown.gpus);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Rooms are a closed set but for experiments, which come and go and are counted elsewhere.
fn show_tree(control: &Control) {
    let Some(house) = control.snapshot() else { return };
    for branch in house.walk() {
        if branch.kind != Kind::Actor || branch.path.starts_with("experiments/") {
            continue;
        }
        let room = branch.path.clone();
        let up = f64::from(u8::from(matches!(branch.state, RoomState::Running)));
        metrics::gauge!(meters::ROOM_UP, "room" => room.clone()).set(up);
        metrics::counter!(meters::ROOM_RESTARTS_TOTAL, "room" => room.clone()).absolute(branch.restarts);
        metrics::gauge!(meters::ROOM_MAILBOX_DEPTH, "room" => room).set(branch.depth as f64);
    }
}

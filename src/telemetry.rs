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

/// Upper bounds of the histograms of conversations, in seconds: from what kloros adds to what a long answer takes.
const CONVERSATION_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0];

/// The log of this process.
pub(crate) struct Log {
    looked_on: bool,
    refilter: Box<dyn Fn(EnvFilter) + Send + Sync>,
}

impl Log {
    /// Starts logging to stderr, filtered by `filter`. To a person who looks on at the story only errors are said, unless the
    /// settings ask for more than they do by themselves.
    pub(crate) fn start(filter: &str, looked_on: bool) -> Self {
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
    let mut builder = PrometheusBuilder::new();
    for name in [meters::CONVERSATION_ADDED, meters::CONVERSATION_FIRST_PIECE, meters::CONVERSATION_DURATION] {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &CONVERSATION_BUCKETS)?;
    }
    let recorder = builder
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

/// Serves `/metrics` on `address`, and what else is to be reached there, until it fails.
pub(crate) async fn serve(address: SocketAddr, shown: Shown, beside: Router) -> Result<(), String> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} for metrics: {error}"))?;
    let upkeep = shown.handle.clone();
    let scrape = Router::new().route("/metrics", get(render)).with_state(shown).merge(beside);
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

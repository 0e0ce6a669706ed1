//! The endpoint as a program of its own: a service like any other, which can be restarted with other settings and measured on a second
//! instance while the first one serves.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use axum::{Json, Router, http::header, routing::get};
use clap::Args;
use kloros_actors::{
    memory::{Arguments, Memory, Msg, Voice},
    seams::Archive,
};
use kloros_supervision::{ChildSpec, Intensity, Socket, Strategy, Tree, TreeSpec, start};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use super::{
    Endpoint, Signals, condense,
    http::accepting,
    rehearsal::{self, Rehearsed},
};
use crate::{archive::Conversations, background, clock::SystemClock, settings::Talking, telemetry};

/// How many restarts of its rooms are allowed before the program ends, and whoever started it starts it anew.
const INTENSITY: Intensity = Intensity { restarts_max: 10, within: Duration::from_secs(60) };

/// How long requests that are under way may take to end once the program is to end.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// How long its rooms may take to end after that.
const ROOMS_WITHIN: Duration = Duration::from_secs(5);

/// How often histograms are drained when nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// What of the endpoint is tuned. What is not given is as the settings say.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Knobs {
    /// How many events a context holds at most [default: `memory.context_events_max`]
    #[arg(long, value_name = "N")]
    context_events: Option<usize>,
    /// How many characters a context holds at most [default: `memory.context_chars_max`]
    #[arg(long, value_name = "N")]
    context_chars: Option<usize>,
    /// From which similarity an answer says again what was said [default: `memory.repetition_from`]
    #[arg(long, value_name = "0..1")]
    repetition_from: Option<f64>,
    /// The temperature of answers whose request names none [default: `conversation.temperature`]
    #[arg(long, value_name = "0..2", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// The most tokens of answers whose request names no limit [default: `conversation.max_tokens`]
    #[arg(long, value_name = "N")]
    max_tokens: Option<u32>,
}

impl Knobs {
    /// Puts them into the settings, or says which of them cannot be.
    pub(crate) fn put_into(self, talking: &mut Talking) -> anyhow::Result<()> {
        let Self { context_events, context_chars, repetition_from, temperature, max_tokens } = self;
        let Talking { conversation, memory, .. } = talking;
        memory.context_events_max = context_events.unwrap_or(memory.context_events_max);
        memory.context_chars_max = context_chars.unwrap_or(memory.context_chars_max);
        memory.repetition_from = repetition_from.unwrap_or(memory.repetition_from);
        conversation.temperature = temperature.unwrap_or(conversation.temperature);
        conversation.max_tokens = max_tokens.unwrap_or(conversation.max_tokens);
        let problems = talking.problems();
        if !problems.is_empty() {
            let lines = problems.iter().map(|problem| format!("\n{}: {}", problem.key, problem.what));
            bail!("the endpoint cannot be set so:{}", lines.collect::<String>());
        }
        Ok(())
    }
}

/// Where what is said is kept.
pub(crate) enum Kept {
    /// Among the conversations of a home.
    In(Conversations),
    /// Nowhere: what is remembered was written for measurements, is put into this file, which must not be there, and stays as it is.
    Nowhere(PathBuf),
}

/// The endpoint as it is to be served.
pub(crate) struct Alone {
    /// How, and in front of what.
    pub(crate) talking: Talking,
    /// Where.
    pub(crate) address: SocketAddr,
    /// Where what is said is kept.
    pub(crate) kept: Kept,
}

/// Serves until it is told to end; then begins no request any more, and ends when those that are under way are over.
///
/// Fails when it cannot listen, and when its rooms fail so often that they are given up.
pub(crate) async fn alone(alone: Alone) -> anyhow::Result<()> {
    let Alone { talking, address, kept } = alone;
    let mut asked = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    telemetry::Log::start(&talking.log, false);
    let metrics = telemetry::start_metrics()?;
    let listener = TcpListener::bind(address).await;
    let listener = Arc::new(listener.with_context(|| format!("cannot listen on {address} for conversations"))?);
    let (archive, conversations): (Arc<dyn Archive>, _) = match kept {
        Kept::In(conversations) => (Arc::new(conversations.clone()), Some(conversations)),
        Kept::Nowhere(file) => (Arc::new(Rehearsed::new(&file, &talking.memory).await?), None),
    };
    let (tree, endpoint) = open(&talking, (listener, address), (archive, conversations), metrics).await?;
    tracing::info!(%address, "conversations are held");
    let [interrupted, terminated] = &mut asked;
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
        ended = tree.ended() => bail!("the endpoint was given up: {ended:?}"),
    }
    endpoint.close(LAST_ANSWERS_WITHIN).await;
    tree.stop(ROOMS_WITHIN).await.context("the endpoint did not end in time")?;
    Ok(())
}

/// Starts the rooms: the memory, who condenses, and who answers.
async fn open(
    talking: &Talking,
    (listener, address): (Arc<TcpListener>, SocketAddr),
    (archive, conversations): (Arc<dyn Archive>, Option<Conversations>),
    metrics: PrometheusHandle,
) -> anyhow::Result<(Tree, Endpoint)> {
    let (socket, clock) = (Socket::<Msg>::new("memory"), Arc::new(SystemClock));
    let signals = Signals::new(&talking.conversation.domain, &format!("http://{address}"), clock.clone());
    let endpoint = Endpoint::new(&talking.conversation, Voice::new(socket.clone()), signals, clock.clone())?;
    let config = talking.memory.clone();
    let memory = ChildSpec::actor("memory", &socket, move || {
        let (archive, clock) = (Arc::clone(&archive), clock.clone());
        (Memory, Arguments { archive, clock, config: config.clone() })
    });
    let is_rehearsed = conversations.is_none();
    let beside = beside(talking, metrics.clone(), is_rehearsed);
    let listening = endpoint.clone();
    let answering = background::child("conversation", move || {
        let (listener, endpoint, beside) = (Arc::clone(&listener), listening.clone(), beside.clone());
        async move { accepting(&listener, address, endpoint, beside).await }
    });
    let upkeep = background::child("metrics", move || {
        let metrics = metrics.clone();
        async move {
            loop {
                tokio::time::sleep(UPKEEP_EVERY).await;
                metrics.run_upkeep();
            }
        }
    });
    let mut house = TreeSpec::new("kloros", Strategy::OneForOne).intensity(INTENSITY).child(memory).child(upkeep);
    if let Some(conversations) = conversations.filter(|_| talking.conversation.condense) {
        let (condensing, machine) = (endpoint.clone(), talking.measuring.machine());
        let work = move || condense(condensing.clone(), conversations.clone(), machine.clone());
        house = house.child(background::child("condenser", work));
    }
    let tree = start(house.child(answering)).await.context("the endpoint cannot be started")?;
    Ok((tree, endpoint))
}

/// Returns what is reached beside conversations: what it is set to, what it counted, and where it is there to be measured, what that
/// needs.
fn beside(talking: &Talking, metrics: PrometheusHandle, is_rehearsed: bool) -> Router {
    let Talking { conversation, memory, .. } = talking;
    let set = json!({
        "CHAT_CONTEXT_EVENTS": memory.context_events_max,
        "CHAT_CONTEXT_CHARS": memory.context_chars_max,
        "CHAT_REPETITION_FROM": memory.repetition_from,
        "CHAT_TEMPERATURE": (conversation.temperature >= 0.0).then_some(conversation.temperature),
        "CHAT_MAX_TOKENS": (conversation.max_tokens > 0).then_some(conversation.max_tokens),
    });
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let routes = Router::new()
        .route("/config", get(async move || Json(set)))
        .route("/metrics", get(async move || ([(header::CONTENT_TYPE, text)], metrics.render())));
    if is_rehearsed { routes.merge(rehearsal::routes(memory.clone())) } else { routes }
}

//! The endpoint as a program of its own: a service like any other, which can be restarted with other settings and measured on a second
//! instance while the first one serves.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context, bail};
use axum::{Json, Router, http::header, routing::get};
use clap::Args;
use kloros_actors::{
    memory::{Arguments, Config, Memory, Msg, Voice},
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
use crate::{
    archive::Conversations,
    background,
    clock::SystemClock,
    settings::{Conversation, Talking},
    telemetry,
};

/// How many restarts of its rooms are allowed before the program ends, and whoever started it starts it anew.
const INTENSITY: Intensity = Intensity { restarts_max: 10, within: Duration::from_secs(60) };

/// All of the rooms.
const HOUSE: &str = "kloros";

/// The room that answers.
const ANSWERING: &str = "conversation";

/// How long its rooms may take to end, and what was said last to be kept.
const ROOMS_WITHIN: Duration = Duration::from_secs(5);

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
    pub(crate) fn put_into(&self, talking: &mut Talking) -> Result<(), String> {
        let &Self { context_events, context_chars, repetition_from, temperature, max_tokens } = self;
        let Talking { conversation, memory, .. } = talking;
        memory.context_events_max = context_events.unwrap_or(memory.context_events_max);
        memory.context_chars_max = context_chars.unwrap_or(memory.context_chars_max);
        memory.repetition_from = repetition_from.unwrap_or(memory.repetition_from);
        conversation.temperature = temperature.unwrap_or(conversation.temperature);
        conversation.max_tokens = max_tokens.unwrap_or(conversation.max_tokens);
        let problems = talking.problems();
        if !problems.is_empty() {
            let lines = problems.iter().map(|problem| format!("\n{}: {}", problem.key, problem.what));
            return Err(format!("the endpoint cannot be set so:{}", lines.collect::<String>()));
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
    /// Reads anew how it is remembered, or says why that cannot be.
    pub(crate) reread: Reread,
}

/// Reads anew how what is said is remembered, or says why that cannot be.
pub(crate) type Reread = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Serves until it is told to end, and reads anew how it remembers when it is hung up on. At the end it begins no request any more, waits
/// for those that are under way, cuts off those that take too long, and keeps what was said in all of them.
///
/// Fails when it cannot listen, and when its rooms fail so often that they are given up.
pub(crate) async fn alone(alone: Alone) -> anyhow::Result<()> {
    let Alone { talking, address, kept, reread } = alone;
    let mut asked = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    telemetry::Log::start(&talking.log, false);
    let metrics = telemetry::start_metrics_of_conversations()?;
    let listener = TcpListener::bind(address).await;
    let listener = Arc::new(listener.with_context(|| format!("cannot listen on {address} for conversations"))?);
    let (archive, conversations): (Arc<dyn Archive>, _) = match kept {
        Kept::In(conversations) => (Arc::new(conversations.clone()), Some(conversations)),
        Kept::Nowhere(file) => (Arc::new(Rehearsed::new(&file, &talking.memory).await?), None),
    };
    let memory = Arc::new(RwLock::new(talking.memory.clone()));
    let rooms = Rooms { talking: &talking, memory: Arc::clone(&memory), archive, conversations, metrics };
    let (tree, endpoint, socket) = rooms.open(listener, address).await?;
    tracing::info!(%address, "conversations are held");
    let [Ok(interrupted), Ok(terminated), Ok(hung_up)] = &mut asked else { bail!("signals cannot be heard") };
    loop {
        tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            _ = hung_up.recv() => remember_as(reread(), &memory, &socket),
            ended = tree.ended() => bail!("the endpoint was given up: {ended:?}"),
        }
    }
    endpoint.close();
    if !endpoint.is_over(talking.conversation.close_within()).await {
        tracing::warn!("requests that were still under way are cut off");
        // With the room go its connections, and with each what was said in it is handed to the memory.
        tree.control(HOUSE)?.terminate_child(ANSWERING).await?;
        endpoint.is_over(ROOMS_WITHIN).await;
    }
    endpoint.kept(ROOMS_WITHIN).await;
    tree.stop(ROOMS_WITHIN).await.context("the endpoint did not end in time")?;
    Ok(())
}

/// Has the memory go by what was read; what cannot be read changes nothing.
fn remember_as(read: Result<Config, String>, memory: &RwLock<Config>, socket: &Socket<Msg>) {
    match read {
        Ok(config) => {
            *memory.write().unwrap_or_else(PoisonError::into_inner) = config.clone();
            // A memory that is down begins with what was read.
            socket.send(Msg::Reconfigured(config)).ok();
            tracing::info!("what is remembered goes by the settings as they are now");
        }
        Err(why) => tracing::error!(%why, "settings cannot be used, those before stay in force"),
    }
}

/// What the rooms are made of.
struct Rooms<'a> {
    talking: &'a Talking,
    /// How what is said is remembered, now.
    memory: Arc<RwLock<Config>>,
    archive: Arc<dyn Archive>,
    conversations: Option<Conversations>,
    metrics: PrometheusHandle,
}

impl Rooms<'_> {
    /// Starts the rooms: the memory, who condenses, and who answers.
    async fn open(
        self,
        listener: Arc<TcpListener>,
        address: SocketAddr,
    ) -> anyhow::Result<(Tree, Endpoint, Socket<Msg>)> {
        let Self { talking, memory, archive, conversations, metrics } = self;
        let (socket, clock) = (Socket::<Msg>::new("memory"), Arc::new(SystemClock));
        let signals = Signals::new(&talking.conversation.domain, &format!("http://{address}"), clock.clone());
        let endpoint = Endpoint::new(&talking.conversation, Voice::new(socket.clone()), signals, clock.clone())?;
        let beside = beside(talking, &memory, metrics.clone(), (address, conversations.is_none()));
        let remembering = ChildSpec::actor("memory", &socket, move || {
            let config = memory.read().unwrap_or_else(PoisonError::into_inner).clone();
            (Memory, Arguments { archive: Arc::clone(&archive), clock: clock.clone(), config })
        });
        let listening = endpoint.clone();
        let answering = background::child(ANSWERING, move || {
            let (listener, endpoint, beside) = (Arc::clone(&listener), listening.clone(), beside.clone());
            async move { accepting(&listener, address, endpoint, beside).await }
        });
        let upkeep = background::child("metrics", move || telemetry::keep_up(metrics.clone()));
        let house = TreeSpec::new(HOUSE, Strategy::OneForOne).intensity(INTENSITY);
        let mut house = house.child(remembering).child(upkeep);
        if let Some(conversations) = conversations.filter(|_| talking.conversation.condense) {
            let (condensing, machine) = (endpoint.clone(), talking.measuring.machine());
            let work = move || condense(condensing.clone(), conversations.clone(), machine.clone());
            house = house.child(background::child("condenser", work));
        }
        let tree = start(house.child(answering)).await.context("the endpoint cannot be started")?;
        Ok((tree, endpoint, socket))
    }
}

/// Returns what is reached beside conversations: what it is set to, what it counted, and where it is there to be measured, what that
/// needs. Metrics leave the machine only where the settings say so.
fn beside(
    talking: &Talking,
    memory: &Arc<RwLock<Config>>,
    metrics: PrometheusHandle,
    (address, is_rehearsed): (SocketAddr, bool),
) -> Router {
    let Conversation { temperature, max_tokens, .. } = talking.conversation;
    let shown = Arc::clone(memory);
    let set = async move || {
        let memory = shown.read().unwrap_or_else(PoisonError::into_inner).clone();
        Json(json!({
            "CHAT_CONTEXT_EVENTS": memory.context_events_max,
            "CHAT_CONTEXT_CHARS": memory.context_chars_max,
            "CHAT_REPETITION_FROM": memory.repetition_from,
            "CHAT_TEMPERATURE": (temperature >= 0.0).then_some(temperature),
            "CHAT_MAX_TOKENS": (max_tokens > 0).then_some(max_tokens),
        }))
    };
    let mut routes = Router::new().route("/config", get(set));
    if address.ip().is_loopback() || talking.metrics_beyond_loopback {
        let text = "text/plain; version=0.0.4; charset=utf-8";
        let render = async move || ([(header::CONTENT_TYPE, text)], metrics.render());
        routes = routes.route("/metrics", get(render));
    }
    if is_rehearsed { routes.merge(rehearsal::routes(talking.memory.clone())) } else { routes }
}

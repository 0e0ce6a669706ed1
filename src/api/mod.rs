//! The control API: what the command line asks the running daemon for, over a unix socket in the home.
//!
//! Only the daemon's own user and root are answered; the kernel says who is calling.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Request, State, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use futures::future::{BoxFuture, join, join_all};
use kloros_actors::{
    circuit::{Control, ControlError},
    facts::{DeploymentId, Domain, PromotionId, Settings},
    gate::{Standing as Holding, Waiting},
};
use kloros_supervision::{Branch, State as RoomState};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::lease::{Machine, Standing};

/// What the API needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) control: Control,
    pub(crate) socket: PathBuf,
    pub(crate) chaos: bool,
    pub(crate) facts: Arc<About>,
}

/// What does not change while the daemon runs.
pub(crate) struct About {
    pub(crate) metrics_address: String,
    pub(crate) domains: Vec<Domain>,
    /// Asks how the services are now.
    pub(crate) services: Box<dyn Fn() -> BoxFuture<'static, Vec<Service>> + Send + Sync>,
    /// Where measurements take turns.
    pub(crate) machine: Machine,
}

/// Who is calling.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// One room as the command line prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Room {
    pub(crate) path: String,
    pub(crate) depth_in_tree: usize,
    pub(crate) is_supervisor: bool,
    pub(crate) state: String,
    pub(crate) restarts: u64,
    pub(crate) last_failure: Option<String>,
    pub(crate) uptime_s: Option<f64>,
    pub(crate) handled: u64,
    pub(crate) waiting: usize,
    pub(crate) busy_s: Option<f64>,
}

/// A service as the command line prints it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) domain: String,
    pub(crate) url: Option<String>,
    pub(crate) is_up: bool,
    pub(crate) state: String,
    pub(crate) pid: Option<u32>,
    pub(crate) deaths: u32,
    pub(crate) rests_s: Option<f64>,
}

/// The autonomy level that is in force in a domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Level {
    pub(crate) domain: String,
    pub(crate) in_force: u8,
    pub(crate) ceiling: u8,
    /// What the env file has to do with it, where it says anything that matters.
    pub(crate) why: Option<String>,
}

/// What the running daemon says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) pid: u32,
    pub(crate) rooms: Vec<Room>,
    pub(crate) waiting: Vec<Waiting>,
    pub(crate) metrics_address: String,
    pub(crate) services: Vec<Service>,
    pub(crate) levels: Vec<Level>,
    /// Who measures on this machine and who waits for that, whatever the home; or why that cannot be told.
    pub(crate) measuring: Result<Standing, String>,
    /// All that holds promotions back.
    pub(crate) holding: Holding,
}

/// Somebody's answer to the gate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnswerBody {
    pub(crate) id: String,
    pub(crate) approved: bool,
    pub(crate) why: Option<String>,
}

/// Somebody's own proposal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TryBody {
    pub(crate) domain: String,
    pub(crate) settings: Settings,
}

/// Something named.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NameBody {
    pub(crate) id: String,
}

/// Why something was not done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Answers on the socket until it fails.
pub(crate) async fn serve(api: Api) -> Result<(), String> {
    let listener = listen(&api.socket).map_err(|error| format!("{}: {error}", api.socket.display()))?;
    let app = Router::new()
        .route("/live", get(live))
        .route("/answer", post(answer))
        .route("/rollback", post(rollback))
        .route("/thaw", post(thaw))
        .route("/try", post(propose))
        .route("/chaos/kill", post(kill))
        .layer(middleware::from_fn(only_the_owner))
        .with_state(api);
    let app = app.into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, app).await.map_err(|error| error.to_string())
}

/// The home's lock is ours, so a socket that lies there is of a daemon that is gone.
fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn only_the_owner(ConnectInfo(peer): ConnectInfo<Peer>, request: Request, next: Next) -> Response {
    let own = rustix::process::getuid().as_raw();
    match peer.uid {
        Some(uid) if uid == 0 || uid == own => next.run(request).await,
        uid => {
            tracing::warn!(?uid, path = request.uri().path(), "caller on the control socket refused");
            refusal(StatusCode::FORBIDDEN, "only the daemon's user and root may ask")
        }
    }
}

async fn live(State(api): State<Api>) -> Response {
    let holding = match api.control.standing().await {
        Ok(holding) => holding,
        Err(error) => return refused(&error),
    };
    let waiting = holding.waiting.clone();
    let Some(root) = api.control.snapshot() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the house is being started");
    };
    let rooms = rooms(&root);
    let levels = join_all(api.facts.domains.iter().map(|domain| level(&api.control, domain)));
    let (levels, services) = join(levels, (api.facts.services)()).await;
    let metrics_address = api.facts.metrics_address.clone();
    let measuring = api.facts.machine.look().map_err(|error| error.to_string());
    Json(Live { pid: std::process::id(), rooms, waiting, metrics_address, services, levels, measuring, holding })
        .into_response()
}

async fn level(control: &Control, domain: &Domain) -> Level {
    let (level, ceiling, why) = control.level(domain).await;
    Level { domain: domain.name.clone(), in_force: u8::from(level), ceiling: u8::from(ceiling), why }
}

fn rooms(root: &Branch) -> Vec<Room> {
    let depth_of = |branch: &Branch| if std::ptr::eq(branch, root) { 0 } else { branch.path.split('/').count() };
    root.walk()
        .into_iter()
        .map(|branch| Room {
            path: branch.path.clone(),
            depth_in_tree: depth_of(branch),
            is_supervisor: branch.kind != kloros_supervision::Kind::Actor,
            state: match branch.state {
                RoomState::Starting => "starting".to_owned(),
                RoomState::Running => "running".to_owned(),
                RoomState::Restarting { due_in } => format!("restarting in {:.1} s", due_in.as_secs_f64()),
                RoomState::Stopped => "stopped".to_owned(),
            },
            restarts: branch.restarts,
            last_failure: branch.last_failure.clone(),
            uptime_s: branch.uptime.map(|uptime| uptime.as_secs_f64()),
            handled: branch.handled,
            waiting: branch.depth,
            busy_s: branch.busy_for.map(|busy| busy.as_secs_f64()),
        })
        .collect()
}

async fn answer(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<AnswerBody>,
) -> Response {
    let Some(uid) = peer.uid else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    let waiting = match api.control.waiting().await {
        Ok(waiting) => waiting,
        Err(error) => return refused(&error),
    };
    let ids: Vec<&PromotionId> = waiting.iter().map(|each| &each.promotion.id).collect();
    let id = match one_of(&body.id, &ids) {
        Ok(id) => id.clone(),
        Err(why) => return refusal(StatusCode::NOT_FOUND, &why),
    };
    let shown = waiting.iter().find(|each| each.promotion.id == id).map(|each| each.binding.clone());
    match api.control.answer(id, body.approved, uid, body.why, shown.unwrap_or_default()).await {
        Ok(promotion) => Json(promotion).into_response(),
        Err(error) => refused(&error),
    }
}

/// Returns the one id that `wanted` means: its whole text, or its beginning with or without the letter before the dash.
fn one_of<'a>(wanted: &str, ids: &[&'a PromotionId]) -> Result<&'a PromotionId, String> {
    let digits = wanted.split_once('-').map_or(wanted, |(_, digits)| digits);
    let mut found =
        ids.iter().filter(|id| !digits.is_empty() && id.as_str().trim_start_matches("p-").starts_with(digits));
    match (found.next(), found.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err(format!("more than one promotion begins with {wanted}")),
        (None, _) => Err(format!("nothing waits under {wanted}")),
    }
}

async fn rollback(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Json(body): Json<NameBody>,
) -> Response {
    let Some(uid) = peer.uid else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.recall(DeploymentId::new(body.id), uid).await {
        Ok(verdict) => Json(verdict).into_response(),
        Err(error) => refused(&error),
    }
}

async fn propose(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>, Json(body): Json<TryBody>) -> Response {
    let Some(uid) = peer.uid else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.propose(&body.domain, body.settings, uid).await {
        Ok(promotion) => Json(promotion).into_response(),
        Err(error) => refused(&error),
    }
}

async fn thaw(State(api): State<Api>, ConnectInfo(peer): ConnectInfo<Peer>, Json(body): Json<NameBody>) -> Response {
    let Some(uid) = peer.uid else { return refusal(StatusCode::FORBIDDEN, "who is calling is not known") };
    match api.control.thaw(&body.id, uid).await {
        Ok(()) => Json(body).into_response(),
        Err(error) => refused(&error),
    }
}

async fn kill(State(api): State<Api>, Json(body): Json<NameBody>) -> Response {
    if !api.chaos {
        return refusal(StatusCode::FORBIDDEN, "chaos is switched off: set `chaos = true` under [shell] to allow it");
    }
    match api.control.kill(&body.id) {
        Ok(()) => Json(body).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &ControlError) -> Response {
    let status = match error {
        ControlError::Silent(_) => StatusCode::SERVICE_UNAVAILABLE,
        ControlError::Refused(_) => StatusCode::CONFLICT,
    };
    refusal(status, &error.to_string())
}

fn refusal(status: StatusCode, error: &str) -> Response {
    (status, Json(Refusal { error: error.to_owned() })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_that_means_two_promotions_is_refused() {
        let (one, two) = (PromotionId::new("p-7f3a0000"), PromotionId::new("p-7f3b0000"));
        let ids = [&one, &two];
        assert_eq!(one_of("7f3a", &ids).unwrap(), &one);
        assert_eq!(one_of("p-7f3b0000", &ids).unwrap(), &two);
        assert!(one_of("7f3", &ids).is_err());
        assert!(one_of("", &ids).is_err());
        assert!(one_of("d-", &ids).is_err());
    }
}

//! How the daemon, its rooms and its services are now.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use futures::future::{join, join_all};
use kloros_actors::{
    circuit::Control,
    facts::Domain,
    gate::{Standing as Holding, Waiting},
    validator,
};
use kloros_supervision::{Branch, State as RoomState};
use serde::{Deserialize, Serialize};

use super::{Api, refusal, refused};
use crate::{lease::Standing, reload};

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
    /// How many messages were lost with it; none of a daemon that does not say yet.
    #[serde(default)]
    pub(crate) lost: u64,
    /// How many of its incarnations were given up and still block a thread: more than none, and the daemon is degraded.
    #[serde(default)]
    pub(crate) leaked: u64,
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
    /// What came of reading the settings again last.
    pub(crate) reload: Option<reload::Standing>,
    /// From where on a change is kept or taken back; none of a daemon that does not say yet.
    #[serde(default)]
    pub(crate) thresholds: Option<Thresholds>,
}

/// What a measured improvement is judged by, as ratios: 0.02 is two percent better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Thresholds {
    /// From here on a change is kept.
    pub(crate) keep_from: f64,
    /// Below this, which is negative, it is taken back.
    pub(crate) undo_below: f64,
}

pub(super) async fn live(State(api): State<Api>) -> Response {
    let holding = match api.control.standing().await {
        Ok(holding) => holding,
        Err(error) => return refused(&error),
    };
    let waiting = holding.waiting.clone();
    let Some(root) = api.control.snapshot() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the house is being started");
    };
    let rooms = rooms(&root);
    let catalogue = api.control.catalogue();
    let levels = join_all(catalogue.domains.values().map(|domain| level(&api.control, domain)));
    let (levels, services) = join(levels, (api.facts.services)()).await;
    let metrics_address = api.facts.metrics_address.clone();
    let measuring = api.facts.machine.look().map_err(|error| error.to_string());
    let (pid, reload) = (std::process::id(), api.reloader.standing());
    let validator::Config { keep_from, undo_below, .. } = api.control.config().validator;
    let thresholds = Some(Thresholds { keep_from, undo_below });
    let live = Live { pid, rooms, waiting, metrics_address, services, levels, measuring, holding, reload, thresholds };
    Json(live).into_response()
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
            lost: branch.lost,
            leaked: branch.leaked,
        })
        .collect()
}

//! The control API: what the command line and the console ask the running daemon for.
//!
//! One set of routes with two doors. The unix socket in the home answers the daemon's own user and root; the kernel says who is
//! calling. Where `api.listen` says so, loopback answers as well: who reaches it may read, and who presents the token of the home
//! may do what its user may. `openapi.json` describes every route; a test holds it true.
//! Invariant: nothing is changed for somebody of whom it is not known who they are.

mod acts;

mod alerts;

mod caller;

mod door;

mod events;

mod live;

mod ring;

mod routes;

mod strangers;

mod tcp;

mod token;

mod told;

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
    serve::IncomingStream,
};
use futures::future::BoxFuture;
use kloros_actors::{circuit::Control, circuit::ControlError};
use serde::{Deserialize, Serialize};
use tokio::{net::UnixListener, sync::Semaphore};

use caller::Caller;
use strangers::Strangers;

pub(crate) use acts::{AnswerBody, Calibrating, ForgottenBody, NameBody, ReloadBody, StopBody, TryBody, one_of};
pub(crate) use alerts::{Alerts, Firing, router as alerts_router};
pub(crate) use door::{is_loopback, is_own_page, no_page, only};
pub(crate) use live::{Level, Live, Room, Service};
pub(crate) use routes::{BASE, in_time};
pub(crate) use tcp::{accept, serve as serve_tcp};
pub(crate) use token::Token;

use crate::{
    background::Up, charts::Charts, home::Home, journal::Store, lease::Machine, reload::Reloader, settings::Reached,
};

/// What the API needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) control: Control,
    pub(crate) home: Home,
    pub(crate) socket: PathBuf,
    pub(crate) journal: Store,
    pub(crate) chaos: bool,
    pub(crate) facts: Arc<About>,
    pub(crate) reloader: Reloader,
    pub(crate) alerts: Alerts,
    pub(crate) charts: Arc<Charts>,
    pub(crate) reached: Reached,
    /// The places of those who read events.
    pub(crate) readers: Arc<Semaphore>,
}

/// What does not change while the daemon runs.
pub(crate) struct About {
    pub(crate) metrics_address: String,
    /// Asks how the services are now.
    pub(crate) services: Box<dyn Fn() -> BoxFuture<'static, Vec<Service>> + Send + Sync>,
    /// Where measurements take turns.
    pub(crate) machine: Machine,
}

/// Who is calling over the socket.
#[derive(Clone, Copy, Debug)]
struct Peer {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

/// Why something was not done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}

/// Answers on the socket until it fails; says when it is `up`.
pub(crate) async fn serve(api: Api, up: Up) -> Result<(), String> {
    let listener = listen(&api.socket).map_err(|error| format!("{}: {error}", api.socket.display()))?;
    up.say();
    let strangers = Strangers::new(Arc::new(api.journal.clone()));
    let app: Router = routes::router(api).layer(middleware::from_fn_with_state(strangers, only_the_owner));
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

async fn only_the_owner(
    State(strangers): State<Strangers>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let own = rustix::process::getuid().as_raw();
    match peer.uid {
        Some(uid) if uid == 0 || uid == own => {
            request.extensions_mut().insert(Caller::User(uid));
            next.run(request).await
        }
        uid => {
            let path = request.uri().path();
            tracing::warn!(?uid, path, "caller on the control socket refused");
            strangers.note(uid, path).await;
            refusal(StatusCode::FORBIDDEN, "only the daemon's user and root may ask")
        }
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

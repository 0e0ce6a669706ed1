//! Listens on loopback: a bounded number of connections, each with a limit on how long the head of a request may take.

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::{Api, Token, door, routes};
use crate::{background::Up, console};

/// How long listening rests after it failed, as it does while there are no file descriptors left.
const REST: Duration = Duration::from_millis(200);

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Answers where `api.listen` says until that fails, and says when it is `up`; for ever, and nobody, where it says nothing.
pub(crate) async fn serve(api: Api, up: Up) -> Result<(), String> {
    let Some(address) = api.reached.address() else {
        up.say();
        return std::future::pending().await;
    };
    let token = Token::of(&api.home).map_err(|error| format!("the token of the API: {error}"))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("cannot listen on {address} for the API: {error}; set api.listen to a free one"))?;
    up.say();
    tracing::info!(%address, "console and API listen");
    let door = door::Door { token: Arc::new(token), uid: rustix::process::getuid().as_raw() };
    let (places, within) = (api.reached.connections_max as usize, api.reached.request_timeout());
    let app = routes::router(api).merge(console::router()).layer(middleware::from_fn_with_state(door, door::guard));
    accept(&listener, &app, Arc::new(Semaphore::new(places)), within).await
}

/// Answers with `app`, on as many connections at once as there are `places`, each head of a request within this time; returns only
/// where `places` are closed.
pub(crate) async fn accept(
    listener: &TcpListener,
    app: &Router,
    places: Arc<Semaphore>,
    within: Duration,
) -> Result<(), String> {
    // Ends with this, so that a restart of the room leaves no connection of the one before.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(|error| error.to_string())?;
        while connections.try_join_next().is_some() {}
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        // A piece that waits for more is a piece that is late; without it, it only is.
        stream.set_nodelay(true).ok();
        let service = TowerToHyperService::new(app.clone());
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(within).max_buf_size(HEAD_BYTES_MAX);
            // A peer that goes away or talks nonsense ends its own connection alone.
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}

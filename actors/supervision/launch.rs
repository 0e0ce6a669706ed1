//! How one child is brought up: an actor, or a supervisor with all that stands below it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, Message, SpawnErr};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::blueprint::{Blueprint, Shared};
use crate::event::Exit;
use crate::socket::Socket;
use crate::supervisor::{Brief, Msg, Supervisor};
use crate::vitals::{Vitals, caught};
use crate::watched::Watched;

/// Starts one incarnation of a child.
pub(crate) type Start = Arc<dyn Fn(Launch) -> Starting + Send + Sync>;

type Starting = Pin<Box<dyn Future<Output = Result<Live, Unstarted>> + Send>>;

/// What a start is given.
pub(crate) struct Launch {
    pub(crate) supervisor: ActorCell,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) limit: Option<Duration>,
    /// Turns true when the start is no longer wanted.
    pub(crate) cancel: watch::Receiver<bool>,
    pub(crate) shared: Arc<Shared>,
}

/// A child that is up.
pub(crate) struct Live {
    pub(crate) cell: ActorCell,
    pub(crate) join: JoinHandle<()>,
    pub(crate) stop: Stop,
}

/// Asks a child to stop gracefully.
pub(crate) type Stop = Box<dyn Fn() + Send + Sync>;

/// Why a child is not up.
#[derive(Clone, Debug)]
pub(crate) struct Unstarted {
    /// Who failed, if it is not the child itself but stands below it.
    pub(crate) path: Option<String>,
    pub(crate) reason: String,
}

impl Unstarted {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Unstarted { path: None, reason: reason.into() }
    }
}

/// Returns what starts an actor and plugs it into `socket`.
pub(crate) fn of_actor<A: Actor>(
    socket: Socket<A::Msg>,
    make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
) -> Start {
    let make = Arc::new(make);
    Arc::new(move |launch| {
        let (make, socket) = (Arc::clone(&make), socket.clone());
        Box::pin(async move {
            let vitals = Arc::clone(&launch.vitals);
            let spawn = async {
                let (actor, arguments) = make();
                let watched = Watched::new(actor, launch.vitals, Some(socket));
                Actor::spawn_linked(None, watched, arguments, launch.supervisor).await
            };
            let spawned = tokio::select! {
                biased;
                spawned = caught(limited(launch.limit, spawn)) => spawned,
                () = cancelled(launch.cancel) => Err("it was stopped while starting".to_owned()),
            };
            let reason = match spawned {
                Ok(Ok(Ok((actor, join)))) => {
                    let cell = actor.get_cell();
                    return Ok(Live { cell, join, stop: Box::new(move || actor.stop(None)) });
                }
                Ok(Ok(Err(error))) => reason(&vitals, &error),
                Ok(Err(late)) => late,
                Err(panic) => panic,
            };
            vitals.retire();
            Err(Unstarted::because(reason))
        })
    })
}

/// Returns what starts the supervisor that `blueprint` describes; it is up when all its children are.
pub(crate) fn of_supervisor(blueprint: Arc<Blueprint>) -> Start {
    Arc::new(move |launch| {
        let blueprint = Arc::clone(&blueprint);
        Box::pin(async move {
            let socket = blueprint.nursery.as_ref().map(crate::nursery::Nursery::socket);
            let (boot, booted) = oneshot::channel();
            let brief = Brief { blueprint, shared: launch.shared, boot, verdict: Arc::default() };
            let watched = Watched::new(Supervisor, Arc::clone(&launch.vitals), socket);
            let (actor, join) = Actor::spawn_linked(None, watched, brief, launch.supervisor)
                .await
                .map_err(|error| Unstarted::because(reason(&launch.vitals, &error)))?;
            let mut booted = booted;
            let outcome = tokio::select! {
                biased;
                outcome = &mut booted => outcome,
                () = cancelled(launch.cancel) => {
                    // It takes down in order what it has started so far, and then answers.
                    told(&actor, Msg::Shutdown);
                    booted.await
                }
            };
            match outcome {
                Ok(Ok(())) => {
                    let cell = actor.get_cell();
                    Ok(Live { cell, join, stop: Box::new(move || told(&actor, Msg::Shutdown)) })
                }
                Ok(Err(unstarted)) => {
                    ended(join).await;
                    Err(unstarted)
                }
                Err(_) => {
                    ended(join).await;
                    Err(Unstarted::because("it ended while starting"))
                }
            }
        })
    })
}

/// Tells an actor something that does not matter any more if it is gone.
pub(crate) fn told<M: Message>(actor: &ractor::ActorRef<M>, message: M) {
    if actor.send_message(message).is_err() {
        tracing::debug!(actor = %actor.get_id(), "the actor is gone and hears nothing any more");
    }
}

/// Waits for an actor's task; how it ended is written in its vital signs.
pub(crate) async fn ended(join: JoinHandle<()>) {
    if let Err(error) = join.await {
        tracing::warn!(%error, "the task of an actor did not end by itself");
    }
}

async fn cancelled(mut cancel: watch::Receiver<bool>) {
    if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
        // The supervisor is gone without having cancelled anything; ractor takes its children along.
        std::future::pending::<()>().await;
    }
}

async fn limited<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, String> {
    match limit {
        Some(limit) => {
            tokio::time::timeout(limit, work).await.map_err(|_| format!("it did not start within {limit:?}"))
        }
        None => Ok(work.await),
    }
}

/// Returns why a start failed: what the actor itself left behind, or else what ractor says.
fn reason(vitals: &Vitals, error: &SpawnErr) -> String {
    match vitals.exit() {
        Some(Exit::Failed(reason)) => reason,
        Some(exit) => exit.to_string(),
        None => match error {
            SpawnErr::StartupFailed(inner) => inner.to_string(),
            _ => error.to_string(),
        },
    }
}

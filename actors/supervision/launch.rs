//! How one child is brought up: an actor, or a supervisor with all that stands below it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ractor::{Actor, ActorCell, Message, SpawnErr};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::blueprint::{Blueprint, Shared};
use crate::branch::Node;
use crate::event::{EventKind, Exit, Ignore};
use crate::machine::CALLED_OFF;
use crate::socket::Socket;
use crate::supervisor::{Brief, Msg, Supervisor};
use crate::vitals::{Vitals, caught};
use crate::watched::Watched;

#[cfg(test)]
mod tests;

/// What a child is made from.
pub(crate) type Start = Arc<dyn Maker>;

pub(crate) trait Maker: Send + Sync {
    /// Starts one incarnation of the child.
    fn start(self: Arc<Self>, launch: Launch) -> Starting;

    /// Returns how many messages may wait for the child.
    fn in_flight_max(&self) -> usize;

    /// Drops what is kept for a next generation of the child that stands at `node`, and of whom stands below it in its spec,
    /// and tells what was lost by that.
    fn give_up(&self, node: &Node, shared: &Shared);
}

pub(crate) type Starting = Pin<Box<dyn Future<Output = Result<Live, Unstarted>> + Send>>;

/// What a start is given.
pub(crate) struct Launch {
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) limit: Option<Duration>,
    pub(crate) shared: Arc<Shared>,
}

/// A child that is up.
pub(crate) struct Live {
    pub(crate) cell: ActorCell,
}

/// Why a child is not up.
#[derive(Clone, Debug)]
pub(crate) enum Unstarted {
    /// It need not run.
    Ignored,
    Failed {
        /// Who failed, if it is not the child itself but stands below it.
        path: Option<String>,
        reason: String,
    },
}

impl Unstarted {
    pub(crate) fn because(reason: impl Into<String>) -> Self {
        Unstarted::Failed { path: None, reason: reason.into() }
    }
}

/// Starts an actor and plugs it into a socket.
///
/// It is not linked to its supervisor: ractor kills what is linked to an actor that ends, and a supervisor that is killed
/// would take its children along before their `post_stop`. Who waits for the supervisor brings them down instead.
pub(crate) struct ActorMaker<M, F> {
    pub(crate) socket: Socket<M>,
    pub(crate) make: F,
}

impl<A: Actor, F: Fn() -> (A, A::Arguments) + Send + Sync + 'static> Maker for ActorMaker<A::Msg, F> {
    fn in_flight_max(&self) -> usize {
        self.socket.in_flight_max()
    }

    fn give_up(&self, node: &Node, shared: &Shared) {
        if self.socket.give_up_newest() {
            shared.tell(node, node.show(node.generation(), EventKind::Lost { handling: None, waiting: 1 }));
        }
    }

    fn start(self: Arc<Self>, launch: Launch) -> Starting {
        Box::pin(async move {
            let vitals = Arc::clone(&launch.vitals);
            let spawn = async {
                let (actor, arguments) = (self.make)();
                Actor::spawn(None, Watched::new(actor, launch.vitals, Some(self.socket.clone())), arguments).await
            };
            let too_late = async {
                match launch.limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let spawned = tokio::select! {
                biased;
                spawned = caught(spawn) => spawned,
                () = vitals.called_off() => Err(CALLED_OFF.to_owned()),
                () = too_late => Err(format!("it did not start within {:?}", launch.limit.unwrap_or_default())),
            };
            let unstarted = match spawned {
                Ok(Ok((actor, _))) => return Ok(Live { cell: actor.get_cell() }),
                Ok(Err(error)) => unstarted(&vitals, &error),
                Err(reason) => Unstarted::because(reason),
            };
            vitals.retire();
            Err(unstarted)
        })
    }
}

/// Starts the supervisor that the blueprint describes; it is up when all its children are.
impl Maker for Blueprint {
    fn in_flight_max(&self) -> usize {
        self.socket.in_flight_max()
    }

    fn give_up(&self, _: &Node, shared: &Shared) {
        for charge in &self.charges {
            charge.start.give_up(&charge.node, shared);
        }
    }

    fn start(self: Arc<Self>, launch: Launch) -> Starting {
        Box::pin(async move {
            let blueprint = self;
            if blueprint.needed.as_ref().is_some_and(|needed| !needed()) {
                return Err(Unstarted::Ignored);
            }
            let (boot, mut booted) = oneshot::channel();
            let socket = blueprint.socket.clone();
            let brief = Brief { blueprint, shared: launch.shared, boot, verdict: Arc::default() };
            let watched = Watched::new(Supervisor, Arc::clone(&launch.vitals), Some(socket));
            let (actor, join) =
                Actor::spawn(None, watched, brief).await.map_err(|error| unstarted(&launch.vitals, &error))?;
            let limit = launch.limit.unwrap_or(Duration::MAX);
            let outcome = tokio::select! {
                biased;
                outcome = &mut booted => outcome,
                () = tokio::time::sleep(limit) => {
                    told(&actor, Msg::Shutdown);
                    ended(join).await;
                    return Err(Unstarted::because(format!("it did not start within {limit:?}")));
                }
                () = launch.vitals.called_off() => {
                    // It takes down in order what it has started so far, and then answers.
                    told(&actor, Msg::Shutdown);
                    booted.await
                }
            };
            match outcome {
                Ok(Ok(())) => Ok(Live { cell: actor.get_cell() }),
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
    }
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

/// Returns why a start failed: what the actor itself left behind, or else what ractor says.
fn unstarted(vitals: &Vitals, error: &SpawnErr) -> Unstarted {
    if let SpawnErr::StartupFailed(inner) = error
        && inner.is::<Ignore>()
    {
        return Unstarted::Ignored;
    }
    Unstarted::because(match vitals.exit() {
        Some(Exit::Failed(reason)) => reason,
        Some(exit) => exit.to_string(),
        None => match error {
            SpawnErr::StartupFailed(inner) => inner.to_string(),
            _ => error.to_string(),
        },
    })
}

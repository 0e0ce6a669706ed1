//! One child of a supervisor: its current incarnation, and the task that attends it from start to end.

use std::sync::Arc;

use ractor::{ActorCell, ActorRef};
use tokio::task::{AbortHandle, JoinHandle};

use super::{Msg, orphans};
use crate::blueprint::Charge;
use crate::branch::{Kind, Node};
use crate::control::{ChildError, Reply, Started};
use crate::event::Exit;
use crate::launch::{Launch, Live, Unstarted, ended, told};
use crate::machine::Key;
use crate::nursery::Nursery;
use crate::tree::StartError;
use crate::vitals::{Vitals, caught};

/// One child and its current incarnation.
pub(super) struct Place {
    pub(super) charge: Charge,
    pub(super) vitals: Option<Arc<Vitals>>,
    pub(super) timer: Option<AbortHandle>,
    pub(super) added: Option<Reply<Result<Started, StartError>>>,
    pub(super) restarted: Option<Reply<Result<Started, ChildError>>>,
    pub(super) terminated: Vec<Reply<Result<(), ChildError>>>,
}

impl Place {
    pub(super) fn new(charge: Charge) -> Self {
        Place { charge, vitals: None, timer: None, added: None, restarted: None, terminated: Vec::new() }
    }

    /// Ends a start that is under way.
    pub(super) fn call_off(&mut self) {
        if let Some(vitals) = &self.vitals {
            vitals.call_off();
        }
    }

    pub(super) fn stop(&mut self) {
        self.retire();
        if let Some(cell) = self.charge.node.cell() {
            ask_to_stop(&self.charge.node, &cell);
        }
    }

    pub(super) fn kill(&mut self) {
        self.retire();
        if let Some(cell) = self.charge.node.cell() {
            cell.kill();
        }
    }

    fn retire(&self) {
        // A supervisor still answers while it stops.
        if let Some(vitals) = self.vitals.as_ref().filter(|_| self.charge.node.kind == Kind::Actor) {
            vitals.retire();
        }
    }

    pub(super) fn disarm(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
    }
}

/// Asks what stands at `node` to stop gracefully.
pub(super) fn ask_to_stop(node: &Node, cell: &ActorCell) {
    if node.kind == Kind::Actor {
        cell.stop(None);
    } else {
        told(&cell.clone().into(), Msg::Shutdown);
    }
}

/// Starts one incarnation and reports whether it is up.
pub(super) async fn attend(
    key: Key,
    generation: u64,
    charge: Charge,
    launch: Launch,
    former: Option<Arc<Vitals>>,
    supervisor: ActorRef<Msg>,
    nursery: Option<Nursery>,
) {
    // The one before may still be dying, when it went down with a supervisor that was killed.
    if let Some(former) = former
        && tokio::time::timeout(charge.rules.kill_within, former.gone()).await.is_err()
    {
        tracing::error!(path = %charge.node.path, "a former incarnation is still there");
    }
    let vitals = Arc::clone(&launch.vitals);
    let start = caught((charge.start)(launch)).await;
    let Charge { node, .. } = charge;
    match start.unwrap_or_else(|panic| Err(Unstarted::because(panic))) {
        Ok(Live { cell, join }) => {
            told(&supervisor, Msg::Started { key, generation, cell });
            // A task of its own, because this one's memory is as large as the start needed, and the wait may last for ever.
            tokio::spawn(await_end(key, generation, node, vitals, join, supervisor, nursery));
        }
        Err(unstarted) => {
            if vitals.is_abandoned() {
                node.came_free();
            }
            vitals.mark_gone();
            told(&supervisor, Msg::Unstarted { key, generation, unstarted });
        }
    }
}

/// Waits for the end of an incarnation that is up, and reports it.
async fn await_end(
    key: Key,
    generation: u64,
    node: Arc<Node>,
    vitals: Arc<Vitals>,
    join: JoinHandle<()>,
    supervisor: ActorRef<Msg>,
    nursery: Option<Nursery>,
) {
    ended(join).await;
    if vitals.is_abandoned() {
        node.came_free();
        return;
    }
    // Who leaves no word was killed, or its task was cancelled.
    vitals.note_exit(Exit::Killed);
    // Whoever sends from now on is refused, so that what waits is what is lost.
    vitals.retire();
    let (exit, loss) = (vitals.exit().unwrap_or(Exit::Killed), vitals.loss());
    if node.kind != Kind::Actor && exit == Exit::Killed {
        // Rare and large, so it is kept apart.
        Box::pin(orphans::take_down(&node)).await;
    }
    if vitals.settle()
        && let Some(nursery) = nursery
    {
        nursery.report(node.id(), &exit);
    }
    vitals.mark_gone();
    told(&supervisor, Msg::Exited { key, generation, exit, loss });
}

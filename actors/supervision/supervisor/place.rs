//! One child of a supervisor: its current incarnation, and the task that attends it from start to end.

use std::sync::Arc;

use ractor::{ActorCell, ActorRef};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::{Msg, orphans};
use crate::blueprint::Charge;
use crate::branch::{Kind, Node};
use crate::control::{ChildError, Reply, Started};
use crate::event::Exit;
use crate::launch::{Launch, Live, Unstarted, told};
use crate::machine::Key;
use crate::nursery::Nursery;
use crate::tree::StartError;
use crate::vitals::{Vitals, caught};

/// One child and its current incarnation.
pub(super) struct Place {
    pub(super) charge: Charge,
    pub(super) vitals: Option<Arc<Vitals>>,
    pub(super) timer: Option<AbortHandle>,
    /// Who waits for an answer; rarely anybody, so it is kept apart.
    asked: Option<Box<Asked>>,
}

/// Who asked for something to be done to a child, and waits for the answer.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) added: Option<Reply<Result<Started, StartError>>>,
    pub(super) restarted: Option<Reply<Result<Started, ChildError>>>,
    pub(super) terminated: Vec<Reply<Result<(), ChildError>>>,
}

impl Place {
    pub(super) fn new(charge: Charge) -> Self {
        Place { charge, vitals: None, timer: None, asked: None }
    }

    /// Returns who waits for an answer, to add somebody.
    pub(super) fn asked(&mut self) -> &mut Asked {
        self.asked.get_or_insert_default()
    }

    /// Returns who waits for an answer, to answer; nobody does from here on.
    pub(super) fn take_asked(&mut self) -> Asked {
        self.asked.take().map_or_else(Asked::default, |asked| *asked)
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
    let start = caught(charge.start.start(launch)).await;
    let Charge { node, .. } = charge;
    match start.unwrap_or_else(|panic| Err(Unstarted::because(panic))) {
        Ok(Live { cell }) => {
            told(&supervisor, Msg::Started { key, generation, cell });
            let end = End { key, generation, node, vitals: Arc::clone(&vitals), supervisor, nursery };
            vitals.when_over(move || end.report());
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

/// Whom to tell that an incarnation that was up has ended.
struct End {
    key: Key,
    generation: u64,
    node: Arc<Node>,
    vitals: Arc<Vitals>,
    supervisor: ActorRef<Msg>,
    nursery: Option<Nursery>,
}

impl End {
    fn report(self) {
        if self.vitals.is_abandoned() {
            self.node.came_free();
            return;
        }
        // Who leaves no word was killed, or its task was cancelled.
        self.vitals.note_exit(Exit::Killed);
        // Whoever sends from now on is refused, so that what waits is what is lost.
        self.vitals.retire();
        if self.node.kind == Kind::Actor || self.vitals.exit() != Some(Exit::Killed) {
            self.told();
        } else if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                orphans::take_down(&self.node).await;
                self.told();
            });
        }
    }

    fn told(self) {
        let (exit, loss) = (self.vitals.exit().unwrap_or(Exit::Killed), self.vitals.loss());
        if self.vitals.settle()
            && let Some(nursery) = self.nursery
        {
            nursery.report(self.node.id(), &exit);
        }
        self.vitals.mark_gone();
        told(&self.supervisor, Msg::Exited { key: self.key, generation: self.generation, exit, loss });
    }
}

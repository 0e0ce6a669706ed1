//! One child of a supervisor: its current incarnation, and the task that attends it from start to end.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ractor::{ActorCell, ActorRef};
use tokio::runtime::Handle;

use super::{Msg, orphans};
use crate::blueprint::{Charge, Shared};
use crate::branch::{Kind, Node};
use crate::control::{ChildError, Reply, Started};
use crate::event::Exit;
use crate::launch::{Launch, Live, Start, Unstarted, told};
use crate::machine::{CALLED_OFF, Key};
use crate::nursery::Nursery;
use crate::tree::StartError;
use crate::vitals::{Vitals, caught};

/// A place under its id.
pub(super) struct Named(pub(super) Arc<Node>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        self.0.id()
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Named) -> bool {
        self.0.id() == other.0.id()
    }
}

impl Eq for Named {}

/// One child and its current incarnation.
pub(super) struct Place {
    pub(super) node: Arc<Node>,
    /// What it is made from.
    pub(super) start: Start,
    /// Whether the spec of the supervisor names it; others were added by hand.
    pub(super) is_listed: bool,
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
    pub(super) fn new(charge: &Charge) -> Self {
        Place { node: Arc::clone(&charge.node), start: Arc::clone(&charge.start), is_listed: true, asked: None }
    }

    /// Returns who waits for an answer, to add somebody.
    pub(super) fn asked(&mut self) -> &mut Asked {
        self.asked.get_or_insert_default()
    }

    /// Takes out who waits for it to be down.
    pub(super) fn terminated(&mut self) -> Vec<Reply<Result<(), ChildError>>> {
        self.asked.as_mut().map_or_else(Vec::new, |asked| std::mem::take(&mut asked.terminated))
    }

    /// Ends a start that is under way.
    pub(super) fn call_off(&mut self) {
        if let Some(vitals) = self.node.vitals() {
            vitals.call_off();
        }
    }

    pub(super) fn stop(&mut self) {
        self.retire();
        if let Some(cell) = self.node.cell() {
            ask_to_stop(&self.node, &cell);
        }
    }

    pub(super) fn kill(&mut self) {
        self.retire();
        if self.node.kind == Kind::Actor {
            if let Some(cell) = self.node.cell() {
                cell.kill();
            }
        } else {
            orphans::kill_all(&self.node);
        }
    }

    fn retire(&self) {
        // A supervisor still answers while it stops.
        if let Some(vitals) = self.node.vitals().filter(|_| self.node.kind == Kind::Actor) {
            vitals.retire();
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
    (node, start): (Arc<Node>, Start),
    launch: Launch,
    former: Option<Arc<Vitals>>,
    supervisor: ActorRef<Msg>,
    nursery: Option<Nursery>,
) {
    let (vitals, shared) = (Arc::clone(&launch.vitals), Arc::clone(&launch.shared));
    // The one before may still be dying, when it went down with a supervisor that was killed.
    if let Some(former) = former {
        tokio::select! {
            biased;
            () = former.gone() => {}
            () = vitals.called_off() => {}
            () = tokio::time::sleep(node.rules().kill_within) => {
                tracing::error!(path = %node.path, "a former incarnation is still there");
            }
        }
    }
    let started =
        if vitals.is_unwanted() { Ok(Err(Unstarted::because(CALLED_OFF))) } else { caught(start.start(launch)).await };
    match started.unwrap_or_else(|panic| Err(Unstarted::because(panic))) {
        Ok(Live { cell }) => {
            // Whoever brings down what a supervisor left behind finds it here, whether or not the supervisor has heard of it.
            node.set_cell(generation, cell.clone());
            let is_heard = supervisor.send_message(Msg::Started { key, generation, cell: cell.clone() }).is_ok();
            if !is_heard || vitals.is_unwanted() {
                ask_to_stop(&node, &cell);
            }
            let end = End { key, generation, node, vitals: Arc::clone(&vitals), supervisor, nursery, shared };
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
    shared: Arc<Shared>,
}

impl End {
    fn report(self) {
        if self.node.kind == Kind::Actor {
            self.told();
        } else if let Ok(runtime) = Handle::try_current() {
            // After an orderly end nobody is left. Any other end leaves children behind.
            runtime.spawn(async move {
                orphans::take_down(&self.node, &self.shared).await;
                self.told();
            });
        }
    }

    fn told(self) {
        if self.vitals.is_abandoned() {
            self.node.came_free();
            return;
        }
        // Who leaves no word was killed, or its task was cancelled.
        self.vitals.note_exit(Exit::Killed);
        // Whoever sends from now on is refused, so that what waits is what is lost.
        self.vitals.retire();
        let (exit, loss) = (self.vitals.exit().unwrap_or(Exit::Killed), self.vitals.loss());
        let observers = self.nursery.filter(|_| self.vitals.settle());
        self.vitals.mark_gone();
        told(&self.supervisor, Msg::Exited { key: self.key, generation: self.generation, exit: exit.clone(), loss });
        if let Some(nursery) = observers {
            nursery.report(self.node.id(), &exit);
        }
    }
}

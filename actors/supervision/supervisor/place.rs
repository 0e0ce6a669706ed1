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
use crate::machine::CALLED_OFF;
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
    /// Whether the supervisor begins with it whenever it is started.
    pub(super) is_of_the_spec: bool,
    /// Who waits for an answer; rarely anybody, so it is kept apart.
    asked: Option<Box<Asked>>,
}

/// Who asked for something to be done to a child, and waits for the answer.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) added: Vec<Reply<Result<Started, StartError>>>,
    pub(super) restarted: Option<Reply<Result<Started, ChildError>>>,
    pub(super) terminated: Vec<Reply<Result<(), ChildError>>>,
}

impl Place {
    pub(super) fn new(charge: &Charge) -> Self {
        let (node, start) = (Arc::clone(&charge.node), Arc::clone(&charge.start));
        Place { node, start, is_listed: true, is_of_the_spec: true, asked: None }
    }

    /// Returns who waits for an answer, to add somebody.
    pub(super) fn asked(&mut self) -> &mut Asked {
        self.asked.get_or_insert_default()
    }

    /// Returns whether somebody waits for it to come up who asked for it as a new child.
    pub(super) fn is_awaited(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| !asked.added.is_empty())
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
            let started = Msg::Started { node: Arc::clone(&node), generation, cell: cell.clone() };
            let is_heard = supervisor.send_message(started).is_ok();
            if !is_heard || vitals.is_unwanted() {
                ask_to_stop(&node, &cell);
            }
            let end = End { generation, node, vitals: Arc::clone(&vitals), supervisor, nursery, shared };
            vitals.when_over(move || end.report());
        }
        Err(unstarted) => {
            say_how_it_left(&node, &vitals);
            if vitals.is_abandoned() {
                node.came_free();
            }
            vitals.mark_gone();
            told(&supervisor, Msg::Unstarted { node, generation, unstarted });
        }
    }
}

/// Says that the state of the actor panicked while it was dropped, which changes nothing any more.
fn say_how_it_left(node: &Node, vitals: &Vitals) {
    if let Some(panic) = vitals.noted(|notes| notes.panic_of_state.take()) {
        tracing::error!(path = %node.path, panic, "the state of an actor panicked while it was dropped");
    }
}

/// Whom to tell that an incarnation that was up has ended.
struct End {
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
        say_how_it_left(&self.node, &self.vitals);
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
        let (node, generation) = (Arc::clone(&self.node), self.generation);
        told(&self.supervisor, Msg::Exited { node, generation, exit: exit.clone(), loss });
        if let Some(nursery) = observers {
            nursery.report(self.node.id(), &exit);
        }
    }
}

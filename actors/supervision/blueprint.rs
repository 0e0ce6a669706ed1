//! What stays of a tree over all restarts: the places, what is started at each, and whom to tell.

use std::sync::{Arc, Mutex, PoisonError};

use rand::{RngExt, rngs::StdRng};
use tokio::sync::broadcast;

use crate::branch::Node;
use crate::clock::Clock;
use crate::event::{self, EventKind};
use crate::launch::Start;
use crate::machine::Key;
use crate::nursery::Nursery;
use crate::socket::{Mailbox, Socket};
use crate::spec::{self, ChildSpec, Flags, Needed, Rules, TreeSpec};
use crate::supervisor::Msg;

/// What all supervisors of one tree share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<Clock>,
    pub(crate) events: broadcast::Sender<event::Event>,
    /// Where the jitter of every wait comes from.
    pub(crate) dice: Mutex<StdRng>,
}

impl Shared {
    /// Returns the next random number, from 0 to 1.
    pub(crate) fn roll(&self) -> f64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// Tells the log, the metrics, the watchers and the snapshot about one step.
    pub(crate) fn tell(&self, node: &Node, generation: u64, kind: EventKind) {
        let (rules, elapsed) = node.show(&kind);
        let Rules { restart, shutdown, .. } = *rules;
        let event = event::Event { path: node.path.as_ref().to_owned(), generation, restart, shutdown, elapsed, kind };
        log(&event);
        let (supervisor, name) = (event.supervisor().to_owned(), event.kind.name());
        metrics::counter!(event::EVENTS_TOTAL, "supervisor" => supervisor, "event" => name).increment(1);
        // Nobody has to listen.
        let _ = self.events.send(event);
    }
}

/// Writes one step to the log, with everything that is known of it as fields.
fn log(event: &event::Event) {
    let event::Event { path, generation, restart, shutdown, elapsed, kind } = event;
    let supervisor = event.supervisor();
    macro_rules! say {
        ($level:ident, $text:literal $(, $field:ident)*) => {
            tracing::$level!(supervisor, path, generation, ?restart, ?shutdown, ?elapsed $(, ?$field)*, $text)
        };
    }
    match kind {
        EventKind::Started => say!(info, "started"),
        EventKind::Stopped => say!(info, "stopped"),
        EventKind::AutoShutdown => say!(info, "done"),
        EventKind::RestartScheduled { delay } => say!(info, "restart scheduled", delay),
        EventKind::StartFailed { reason } => say!(warn, "start failed", reason),
        EventKind::StartedAfresh { reason } => say!(warn, "started afresh", reason),
        EventKind::Failed { reason } => say!(warn, "failed", reason),
        EventKind::ShutdownFailed { reason } => say!(warn, "shutdown failed", reason),
        EventKind::Lost { handling, waiting } => say!(warn, "messages lost", handling, waiting),
        EventKind::Stalled { silent, handling } => say!(warn, "stalled", silent, handling),
        EventKind::GaveUp { reason } => say!(error, "gave up", reason),
        EventKind::Leaked => say!(error, "leaked"),
    }
}

/// What a supervisor is made from; kept over its restarts.
pub(crate) struct Blueprint {
    pub(crate) node: Arc<Node>,
    pub(crate) flags: Flags,
    pub(crate) charges: Vec<Charge>,
    pub(crate) nursery: Option<Nursery>,
    pub(crate) needed: Option<Needed>,
    pub(crate) socket: Socket<Msg>,
}

/// A child as its supervisor knows it before any start.
#[derive(Clone)]
pub(crate) struct Charge {
    pub(crate) node: Arc<Node>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) start: Start,
}

/// Returns where a supervisor hears that is not a nursery. What it is told has no bound: an operator is never refused.
pub(crate) fn socket(id: &str) -> Socket<Msg> {
    Socket::with(id, Mailbox { in_flight_max: usize::MAX, ..Mailbox::default() })
}

impl Blueprint {
    /// Draws up a whole tree.
    pub(crate) fn of(tree: TreeSpec) -> Blueprint {
        let socket = tree.nursery.as_ref().map_or_else(|| socket(&tree.id), Nursery::socket);
        let node = Node::root(&tree.id, socket.clone());
        Blueprint::at(node, tree, socket)
    }

    fn at(node: Arc<Node>, tree: TreeSpec, socket: Socket<Msg>) -> Blueprint {
        if let Some(nursery) = &tree.nursery {
            nursery.settle_at(Arc::clone(&node));
        }
        let mut charges: Vec<Charge> = Vec::with_capacity(tree.children.len());
        for child in tree.children {
            charges.push(Charge::below(&node, child, charges.last().map(|charge| &charge.rules)));
        }
        let TreeSpec { flags, nursery, needed, .. } = tree;
        let blueprint = Blueprint { node, flags, charges, nursery, needed, socket };
        blueprint.reset();
        blueprint
    }

    /// Lets the place show the children of the blueprint and no others.
    pub(crate) fn reset(&self) {
        self.node.disown_all();
        for (key, charge) in (0..).zip(&self.charges) {
            self.node.adopt(key as Key, Arc::clone(&charge.node));
        }
    }
}

impl Charge {
    /// Draws up a child, and all that stands below it, at a new place below `node`. It shares the rules of a `sibling` that
    /// is treated alike.
    pub(crate) fn below(node: &Node, child: ChildSpec, sibling: Option<&Arc<Rules>>) -> Charge {
        let rules = sibling.filter(|rules| ***rules == child.rules).map_or_else(|| Arc::new(child.rules), Arc::clone);
        let place = Arc::new(node.below(&child.id, child.kind(), Arc::clone(&rules)));
        let start = match child.start {
            spec::Start::Actor(start) => start,
            spec::Start::Supervisor(tree) => {
                let socket = tree.nursery.as_ref().map_or_else(|| socket(&tree.id), Nursery::socket);
                place.open(socket.clone());
                Arc::new(Blueprint::at(Arc::clone(&place), tree, socket))
            }
        };
        Charge { node: place, rules, start }
    }
}

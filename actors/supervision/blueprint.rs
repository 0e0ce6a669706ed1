//! What stays of a tree over all restarts: the places, what is started at each, and whom to tell.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{broadcast, watch};

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
    /// Whom to tell; nobody once the tree has ended.
    events: Mutex<Option<broadcast::Sender<event::Event>>>,
    /// Whether whoever stops the tree has no patience left.
    hurry: watch::Sender<bool>,
    /// The paths of those who had to be killed since somebody stops the tree; nothing before.
    killed: Mutex<Option<Vec<String>>>,
    /// Where the jitter of every wait comes from.
    dice: Mutex<StdRng>,
}

/// How many events are kept for a listener that does not keep up.
const EVENTS_KEPT: usize = 1024;

impl Shared {
    /// Returns what a tree shares that starts now.
    pub(crate) fn new(seed: u64) -> Self {
        Shared {
            clock: Arc::new(Clock::start()),
            events: Mutex::new(Some(broadcast::Sender::new(EVENTS_KEPT))),
            hurry: watch::Sender::new(false),
            killed: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    fn events(&self) -> MutexGuard<'_, Option<broadcast::Sender<event::Event>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what hears of everything from now on, and of the end.
    pub(crate) fn listen(&self) -> broadcast::Receiver<event::Event> {
        self.events().as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe)
    }

    /// Says that nothing more will happen.
    pub(crate) fn fall_silent(&self) {
        *self.events() = None;
    }

    fn killed(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes from now on who has to be killed.
    pub(crate) fn watch_kills(&self) {
        self.killed().get_or_insert_default();
    }

    /// Notes that all actors at `node` and below have to be killed that are there, if the tree is being stopped.
    pub(crate) fn note_kill(&self, node: &Arc<Node>) {
        if let Some(killed) = self.killed().as_mut() {
            killed.extend(node.actors_left());
        }
    }

    /// Returns who had to be killed since somebody stops the tree, in the order of the kills.
    pub(crate) fn kills(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        // One that does not answer its kill is killed again with all the others.
        self.killed().iter().flatten().filter(|path| seen.insert(*path)).cloned().collect()
    }

    /// Lets nobody be waited for any longer than a kill takes.
    pub(crate) fn hurry(&self) {
        self.hurry.send_replace(true);
    }

    /// Waits until there is no patience left.
    pub(crate) async fn in_a_hurry(&self) {
        // The sender is part of this, so that it is there.
        let _ = self.hurry.subscribe().wait_for(|hurry| *hurry).await;
    }

    /// Returns the next random number, from 0 to 1.
    pub(crate) fn roll(&self) -> f64 {
        self.dice.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    /// Tells the log, the metrics and the watchers about one step of what stands at `node`.
    pub(crate) fn tell(&self, node: &Node, event: event::Event) {
        log(&event);
        let (supervisor, name) = (node.counted_with().to_owned(), event.kind.name());
        metrics::counter!(event::EVENTS_TOTAL, "supervisor" => supervisor, "event" => name).increment(1);
        // Nobody has to listen.
        let _ = self.events().as_ref().map(|events| events.send(event));
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
        EventKind::Failed { reason, handling } => say!(warn, "failed", reason, handling),
        EventKind::ShutdownFailed { reason, handling } => say!(warn, "shutdown failed", reason, handling),
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
        let node = Node::root(&tree.id, tree.kind(), socket.clone());
        let blueprint = Blueprint::at(node, tree, socket);
        blueprint.reset();
        blueprint
    }

    fn at(node: Arc<Node>, tree: TreeSpec, socket: Socket<Msg>) -> Blueprint {
        if let Some(nursery) = &tree.nursery {
            nursery.settle_at(Arc::clone(&node));
        }
        let before: HashMap<String, Arc<Node>> =
            node.children().into_iter().map(|place| (place.id().to_owned(), place)).collect();
        let mut charges: Vec<Charge> = Vec::with_capacity(tree.children.len());
        for child in tree.children {
            let (sibling, known) = (charges.last().map(|charge| &charge.rules), before.get(&*child.id));
            charges.push(Charge::at(&node, child, sibling, known));
        }
        let TreeSpec { flags, nursery, needed, .. } = tree;
        Blueprint { node, flags, charges, nursery, needed, socket }
    }

    /// Lets the place show the children of the blueprint and no others, each by the rules of the blueprint.
    pub(crate) fn reset(&self) {
        self.node.disown_all();
        for (key, charge) in (0..).zip(&self.charges) {
            charge.node.revise(Arc::clone(&charge.rules));
            self.node.adopt(key as Key, Arc::clone(&charge.node));
        }
    }
}

/// Returns what makes the child at `node` anew, from the next start on, in the way of another spec for the same place; nothing if
/// that spec has its children somewhere else.
pub(crate) fn remade(node: &Arc<Node>, start: spec::Start) -> Option<Start> {
    let tree = match start {
        spec::Start::Actor(start) => return Some(start),
        spec::Start::Supervisor(tree) => tree,
    };
    let socket = node.socket()?;
    if tree.nursery.as_ref().is_some_and(|nursery| !nursery.socket().is_the_same_as(&socket)) {
        tracing::warn!(path = %node.path, "a nursery that runs cannot be replaced by another one; delete it first");
        return None;
    }
    Some(Arc::new(Blueprint::at(Arc::clone(node), tree, socket)))
}

impl Charge {
    /// Draws up a child, and all that stands below it, at a new place below `node`. It shares the rules of a `sibling` that
    /// is treated alike.
    pub(crate) fn below(node: &Node, child: ChildSpec, sibling: Option<&Arc<Rules>>) -> Charge {
        Charge::at(node, child, sibling, None)
    }

    /// Draws up a child at the place where it stood before, if that is known and can be used again.
    fn at(node: &Node, child: ChildSpec, sibling: Option<&Arc<Rules>>, known: Option<&Arc<Node>>) -> Charge {
        let rules = sibling.filter(|rules| ***rules == child.rules).map_or_else(|| Arc::new(child.rules), Arc::clone);
        let socket = match &child.start {
            spec::Start::Actor(_) => None,
            spec::Start::Supervisor(tree) => Some(tree.nursery.as_ref().map(Nursery::socket)),
        };
        // A nursery comes with a socket of its own, which is that of the place or of another one.
        let fits = |place: &&Arc<Node>| match (&socket, place.socket()) {
            (Some(Some(socket)), Some(known)) => socket.is_the_same_as(&known),
            _ => true,
        };
        let known = known.filter(|place| place.kind == child.kind()).filter(fits);
        if let Some(place) = known {
            place.revise(Arc::clone(&rules));
        }
        let place = known.map_or_else(|| Arc::new(node.below(&child.id, child.kind(), Arc::clone(&rules))), Arc::clone);
        let start: Start = match child.start {
            spec::Start::Actor(start) => start,
            spec::Start::Supervisor(tree) => {
                let socket = place.socket().or(socket.flatten()).unwrap_or_else(|| self::socket(&tree.id));
                place.open(socket.clone());
                let blueprint = Blueprint::at(Arc::clone(&place), tree, socket);
                if known.is_none() {
                    blueprint.reset();
                }
                Arc::new(blueprint)
            }
        };
        Charge { node: place, rules, start }
    }
}

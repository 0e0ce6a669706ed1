//! What stays of a tree over all restarts: the places, what is started at each, and whom to tell.

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::branch::{Kind, Node};
use crate::event::{self, EventKind};
use crate::launch::{self, Start};
use crate::machine::Order;
use crate::nursery::Nursery;
use crate::spec::{Intensity, Member, Rules, TreeSpec};

/// What all supervisors of one tree share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) epoch: Instant,
    pub(crate) events: broadcast::Sender<event::Event>,
}

impl Shared {
    /// Tells the log, the watchers and the snapshot about one step.
    pub(crate) fn tell(&self, node: &Node, generation: u64, kind: EventKind) {
        let path = &node.path;
        match &kind {
            EventKind::Started => tracing::info!(path, generation, "started"),
            EventKind::Stopped => tracing::info!(path, generation, "stopped"),
            EventKind::RestartScheduled { delay } => tracing::info!(path, generation, ?delay, "restart scheduled"),
            EventKind::Failed { reason } => tracing::warn!(path, generation, reason, "failed"),
            EventKind::Stalled { silent } => tracing::warn!(path, generation, ?silent, "stalled"),
            EventKind::GaveUp { reason } => tracing::error!(path, generation, reason, "gave up"),
            EventKind::Leaked => tracing::error!(path, generation, "leaked"),
        }
        node.show(&kind);
        // Nobody has to listen.
        let _ = self.events.send(event::Event { path: path.clone(), generation, kind });
    }
}

/// What a supervisor is made from; kept over its restarts.
pub(crate) struct Blueprint {
    pub(crate) node: Arc<Node>,
    pub(crate) order: Order,
    pub(crate) intensity: Intensity,
    pub(crate) charges: Vec<Charge>,
    pub(crate) nursery: Option<Nursery>,
}

/// A child as its supervisor knows it before any start.
#[derive(Clone)]
pub(crate) struct Charge {
    pub(crate) node: Arc<Node>,
    pub(crate) rules: Rules,
    pub(crate) start: Start,
}

impl Blueprint {
    /// Draws up the supervisor at `node` and all that stands below it.
    pub(crate) fn of(spec: TreeSpec, node: Arc<Node>) -> Blueprint {
        let mut charges = Vec::new();
        for member in spec.members {
            let charge = match member {
                Member::Actor(child) => {
                    let node = node.below(&child.id, Kind::Actor);
                    Charge { node, rules: child.rules, start: child.start }
                }
                Member::Tree(tree) => {
                    let node = node.below(&tree.id, Kind::Supervisor);
                    let rules = Rules { backoff: tree.backoff, ..Rules::of_a_supervisor() };
                    let start = launch::of_supervisor(Arc::new(Blueprint::of(tree, Arc::clone(&node))));
                    Charge { node, rules, start }
                }
                Member::Nursery(id, nursery) => {
                    let node = node.below(&id, Kind::Nursery);
                    nursery.settle_at(Arc::clone(&node));
                    let blueprint = Blueprint {
                        node: Arc::clone(&node),
                        order: Order::Dynamic,
                        intensity: spec.intensity,
                        charges: Vec::new(),
                        nursery: Some(nursery),
                    };
                    Charge { node, rules: Rules::of_a_supervisor(), start: launch::of_supervisor(Arc::new(blueprint)) }
                }
            };
            node.adopt(Arc::clone(&charge.node));
            charges.push(charge);
        }
        Blueprint { node, order: Order::Static(spec.strategy), intensity: spec.intensity, charges, nursery: None }
    }
}

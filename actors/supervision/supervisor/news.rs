//! What happened and is not told yet. A line in the log takes longer to format than an actor takes to start, so who is started
//! again is let go first.

use std::sync::Arc;

use super::State;
use crate::blueprint::Shared;
use crate::branch::Node;
use crate::event::{Event, EventKind};
use crate::machine::Key;

/// Events in the order in which they happened; whatever ends the supervisor, none is lost.
pub(super) struct News {
    shared: Arc<Shared>,
    untold: Vec<(Arc<Node>, Event)>,
    /// How many starts were spawned and have not reported.
    starting: usize,
    /// Whether one was spawned in this step.
    is_start_due: bool,
}

impl News {
    pub(super) fn of(shared: &Arc<Shared>) -> Self {
        News { shared: Arc::clone(shared), untold: Vec::new(), starting: 0, is_start_due: false }
    }

    /// Says that a task was spawned that starts somebody.
    pub(super) fn a_start_is_due(&mut self) {
        self.starting += 1;
        self.is_start_due = true;
    }

    /// Says that such a task has reported.
    pub(super) fn a_start_is_over(&mut self) {
        self.starting = self.starting.saturating_sub(1);
    }

    pub(super) fn tell(&mut self) {
        for (node, event) in self.untold.drain(..) {
            self.shared.tell(&node, event);
        }
    }

    /// Tells everything, after the worker has had the chance to run the start that was just spawned. Where many are being started
    /// the worker has enough to do, and whoever ends meanwhile waits for this supervisor.
    pub(super) async fn tell_after_a_start(&mut self) {
        if std::mem::take(&mut self.is_start_due) && self.starting == 1 && !self.untold.is_empty() {
            tokio::task::yield_now().await;
        }
        self.tell();
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.tell();
    }
}

impl State {
    /// Notes what happened to a child; it shows at once, and is told at the end of the step.
    pub(super) fn tell(&mut self, key: Key, generation: u64, kind: EventKind) {
        if let Some(place) = self.places.get(&key) {
            self.news.untold.push((Arc::clone(&place.node), place.node.show(generation, kind)));
        }
    }

    /// Notes what happened to the supervisor itself.
    pub(super) fn tell_of_itself(&mut self, kind: EventKind) {
        let node = &self.blueprint.node;
        self.news.untold.push((Arc::clone(node), node.show(node.generation(), kind)));
    }
}

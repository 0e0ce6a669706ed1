//! The tree as it stands, for those who look at it.

use std::time::Duration;

mod node;

pub(crate) use node::Node;

/// What stands at one place of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A room.
    Actor,
    /// A supervisor with a fixed list of children.
    Supervisor,
    /// A supervisor of children that come and go.
    Nursery,
}

/// How it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its `pre_start` has not returned yet.
    Starting,
    /// It is up.
    Running,
    /// It failed and waits to be started again.
    Restarting {
        /// How much longer it waits.
        due_in: Duration,
    },
    /// It is down, and nobody is about to start it.
    Stopped,
}

/// One place of the tree at one moment, with what stands below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Branch {
    /// Its id.
    pub id: String,
    /// The ids from below the root down to here, joined by `/`; at the root, its own id.
    pub path: String,
    /// What stands here.
    pub kind: Kind,
    /// How it stands here.
    pub state: State,
    /// Which incarnation it is; 0 before the first start.
    pub generation: u64,
    /// How often it was started again since the tree was started.
    pub restarts: u64,
    /// Why it last failed.
    pub last_failure: Option<String>,
    /// How long it has been up; nothing when it is not.
    pub uptime: Option<Duration>,
    /// How many messages it has handled, over all incarnations.
    pub handled: u64,
    /// How many messages were lost with its incarnations.
    pub lost: u64,
    /// How many of its incarnations were given up and still block a thread.
    pub leaked: u64,
    /// How many messages sent through its socket wait for it.
    pub depth: usize,
    /// How long it has been busy with its current message; nothing when idle.
    pub busy_for: Option<Duration>,
    /// How long it has made no progress with it; nothing when idle.
    pub silent_for: Option<Duration>,
    /// The kind of its current message, or the callback it is in; nothing when idle.
    pub busy_with: Option<&'static str>,
    /// Which part of the life of this incarnation it has been busy, from 0 to 1.
    pub busy_ratio: f64,
    /// What stands below, in starting order.
    pub children: Vec<Branch>,
}

impl Branch {
    /// Returns this place and all below it, each before what stands below it.
    pub fn walk(&self) -> Vec<&Branch> {
        let mut places = vec![self];
        for child in &self.children {
            places.extend(child.walk());
        }
        places
    }

    /// Returns the place at `path`.
    pub fn find(&self, path: &str) -> Option<&Branch> {
        self.walk().into_iter().rev().find(|place| place.path == path)
    }

    /// Returns whether threads are blocked by incarnations that were given up.
    pub fn is_degraded(&self) -> bool {
        self.walk().iter().any(|place| place.leaked > 0)
    }
}

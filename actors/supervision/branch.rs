//! The tree as it stands: written by the supervisors as they go, read without disturbing anyone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ractor::ActorCell;
use tokio::time::Instant;

use crate::event::EventKind;
use crate::vitals::Vitals;

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
    /// How many messages sent through its socket wait for it.
    pub depth: usize,
    /// How long it has been busy with its current message; nothing when idle.
    pub busy_for: Option<Duration>,
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
}

/// One place of the tree, kept over all incarnations of what stands there.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// The path that the children's paths start with; empty at the root.
    prefix: String,
    status: Mutex<Status>,
    children: RwLock<Vec<Arc<Node>>>,
}

#[derive(Debug)]
struct Status {
    stage: Stage,
    generation: u64,
    restarts: u64,
    last_failure: Option<String>,
    handled_before: u64,
    vitals: Option<Arc<Vitals>>,
    cell: Option<ActorCell>,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Starting,
    Running { since: Instant },
    Restarting { since: Instant, delay: Duration },
    Stopped,
}

impl Node {
    pub(crate) fn root(id: &str) -> Arc<Node> {
        Node::new(id, id.to_owned(), String::new(), Kind::Supervisor)
    }

    pub(crate) fn below(&self, id: &str, kind: Kind) -> Arc<Node> {
        let path = format!("{}{id}", self.prefix);
        let prefix = format!("{path}/");
        Node::new(id, path, prefix, kind)
    }

    fn new(id: &str, path: String, prefix: String, kind: Kind) -> Arc<Node> {
        let status = Status {
            stage: Stage::Stopped,
            generation: 0,
            restarts: 0,
            last_failure: None,
            handled_before: 0,
            vitals: None,
            cell: None,
        };
        Arc::new(Node {
            id: id.to_owned(),
            path,
            kind,
            prefix,
            status: Mutex::new(status),
            children: RwLock::default(),
        })
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn adopt(&self, child: Arc<Node>) {
        self.children.write().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    pub(crate) fn disown(&self, child: &Arc<Node>) {
        self.children.write().unwrap_or_else(PoisonError::into_inner).retain(|other| !Arc::ptr_eq(other, child));
    }

    pub(crate) fn disown_all(&self) {
        self.children.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn children(&self) -> Vec<Arc<Node>> {
        self.children.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.status().generation
    }

    /// Opens the next incarnation and returns the vital signs of the one before.
    pub(crate) fn begin(&self, generation: u64, vitals: Arc<Vitals>) -> Option<Arc<Vitals>> {
        let mut status = self.status();
        let former = status.vitals.replace(vitals);
        if let Some(former) = &former {
            status.handled_before += former.handled();
            status.restarts += 1;
        }
        status.generation = generation;
        status.stage = Stage::Starting;
        status.cell = None;
        former
    }

    pub(crate) fn set_cell(&self, cell: ActorCell) {
        self.status().cell = Some(cell);
    }

    /// Returns the actor that stands here now.
    pub(crate) fn cell(&self) -> Option<ActorCell> {
        self.status().cell.clone()
    }

    pub(crate) fn vitals(&self) -> Option<Arc<Vitals>> {
        self.status().vitals.clone()
    }

    /// Lets the place show what an event says.
    pub(crate) fn show(&self, kind: &EventKind) {
        let mut status = self.status();
        match kind {
            EventKind::Started => status.stage = Stage::Running { since: Instant::now() },
            EventKind::RestartScheduled { delay } => {
                status.stage = Stage::Restarting { since: Instant::now(), delay: *delay }
            }
            EventKind::Failed { reason } | EventKind::GaveUp { reason } => {
                status.last_failure = Some(reason.clone());
                if matches!(kind, EventKind::Failed { .. }) {
                    status.stage = Stage::Stopped;
                    status.cell = None;
                }
            }
            EventKind::Stopped => {
                status.stage = Stage::Stopped;
                status.cell = None;
            }
            EventKind::Stalled { .. } | EventKind::Leaked => {}
        }
    }

    /// Lets everything below show as down: it ended with the supervisor that stood here.
    pub(crate) fn hush(&self) {
        for child in self.children() {
            child.show(&EventKind::Stopped);
            child.hush();
        }
    }

    pub(crate) fn snapshot(&self) -> Branch {
        let status = self.status();
        let now = Instant::now();
        let live = status.vitals.as_ref().filter(|_| matches!(status.stage, Stage::Running { .. } | Stage::Starting));
        let branch = Branch {
            id: self.id.clone(),
            path: self.path.clone(),
            kind: self.kind,
            state: match status.stage {
                Stage::Starting => State::Starting,
                Stage::Running { .. } => State::Running,
                Stage::Restarting { since, delay } => {
                    let due_in = delay.saturating_sub(now.saturating_duration_since(since));
                    State::Restarting { due_in }
                }
                Stage::Stopped => State::Stopped,
            },
            generation: status.generation,
            restarts: status.restarts,
            last_failure: status.last_failure.clone(),
            uptime: match status.stage {
                Stage::Running { since } => Some(now.saturating_duration_since(since)),
                _ => None,
            },
            handled: status.handled_before + status.vitals.as_ref().map_or(0, |vitals| vitals.handled()),
            depth: live.map_or(0, |vitals| vitals.waiting()),
            busy_for: live.and_then(|vitals| vitals.busy_for()),
            children: Vec::new(),
        };
        drop(status);
        let children = self.children().iter().map(|child| child.snapshot()).collect();
        Branch { children, ..branch }
    }
}

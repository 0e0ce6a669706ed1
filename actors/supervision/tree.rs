//! A running tree: to look at, to stop, and to wait for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorRef};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use crate::blueprint::{Blueprint, Shared};
use crate::branch::{Branch, Kind, Node};
use crate::event::{Event, EventKind, Exit};
use crate::launch::{ended, told};
use crate::pulse;
use crate::socket::Down;
use crate::spec::{KILL_WITHIN_DEFAULT, SpecError, TreeSpec};
use crate::supervisor::{Brief, Msg, Supervisor};
use crate::vitals::Vitals;
use crate::watched::Watched;

/// How many events a slow listener may fall behind before it misses some.
const EVENTS_KEPT: usize = 1024;

/// A running tree. All clones speak of the same one; it keeps running when the last is dropped.
#[derive(Clone, Debug)]
pub struct Tree {
    root: ActorRef<Msg>,
    node: Arc<Node>,
    shared: Arc<Shared>,
    end: watch::Receiver<Option<Ended>>,
}

/// How a tree ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// The root gave up, or was killed.
    GaveUp {
        /// The child that failed once too often; the root itself if it was killed.
        path: String,
        /// Its last failure.
        reason: String,
    },
}

/// Brings a tree up and returns when every child in it is.
///
/// Children start in the order of the spec, each after the one before is up. When one refuses, what was started is stopped
/// again in reverse order, and the error names the child. The same is undone when the caller stops waiting.
pub async fn start(spec: TreeSpec) -> Result<Tree, StartError> {
    spec.check()?;
    let shared = Arc::new(Shared { epoch: Instant::now(), events: broadcast::Sender::new(EVENTS_KEPT) });
    let node = Node::root(&spec.id);
    let vitals = Arc::new(Vitals::new(shared.epoch));
    node.begin(1, Arc::clone(&vitals));
    let (sender, end) = watch::channel(None);
    pulse::keep(end.clone());
    let verdict = Arc::new(OnceLock::new());
    let (boot, booted) = oneshot::channel();
    let brief = Brief {
        blueprint: Arc::new(Blueprint::of(spec, Arc::clone(&node))),
        shared: Arc::clone(&shared),
        boot,
        verdict: Arc::clone(&verdict),
    };
    let died = |reason: String| StartError::Child { path: node.path.clone(), reason };
    let (root, join) = Actor::spawn(None, Watched::new(Supervisor, Arc::clone(&vitals), None), brief)
        .await
        .map_err(|error| died(error.to_string()))?;
    let undo = UndoOnDrop(Some(root.clone()));
    match booted.await {
        Ok(Ok(())) => undo.not_needed(),
        Ok(Err(unstarted)) => {
            ended(join).await;
            let path = unstarted.path.unwrap_or_else(|| node.path.clone());
            return Err(StartError::Child { path, reason: unstarted.reason });
        }
        Err(_) => {
            ended(join).await;
            return Err(died("it ended while starting".to_owned()));
        }
    }
    node.set_cell(root.get_cell());
    shared.tell(&node, 1, EventKind::Started);
    let tree = Tree { root, node, shared, end };
    let (node, shared) = (Arc::clone(&tree.node), Arc::clone(&tree.shared));
    tokio::spawn(async move {
        ended(join).await;
        vitals.note_exit(Exit::Killed);
        let how = how_it_ended(&node, &vitals, &verdict);
        node.hush();
        shared.tell(&node, 1, EventKind::Stopped);
        vitals.mark_gone();
        sender.send_replace(Some(how));
    });
    Ok(tree)
}

/// Stops a tree whose starter went away before it was up; nobody else could.
struct UndoOnDrop(Option<ActorRef<Msg>>);

impl UndoOnDrop {
    fn not_needed(mut self) {
        self.0 = None;
    }
}

impl Drop for UndoOnDrop {
    fn drop(&mut self) {
        if let Some(root) = self.0.take() {
            told(&root, Msg::Shutdown);
        }
    }
}

fn how_it_ended(node: &Node, vitals: &Vitals, verdict: &OnceLock<(String, String)>) -> Ended {
    match (verdict.get(), vitals.exit()) {
        (Some((path, reason)), _) => Ended::GaveUp { path: path.clone(), reason: reason.clone() },
        (None, None | Some(Exit::Normal)) => Ended::Stopped,
        (None, Some(exit)) => Ended::GaveUp { path: node.path.clone(), reason: exit.to_string() },
    }
}

impl Tree {
    /// Returns the whole tree as it stands, without asking any actor.
    pub fn snapshot(&self) -> Branch {
        self.node.snapshot()
    }

    /// Stops the tree in reverse order of its start and returns when all of it is down.
    ///
    /// What is still there after `within` is killed, and named in the error. A tree that has ended already is stopped.
    pub async fn stop(&self, within: Duration) -> Result<(), StopTimeout> {
        told(&self.root, Msg::Shutdown);
        if tokio::time::timeout(within, self.ended()).await.is_ok() {
            return Ok(());
        }
        let alive: Vec<Arc<Node>> = leaves(&self.node).into_iter().filter(|node| node.cell().is_some()).collect();
        let left = alive.iter().map(|node| node.path.clone()).collect();
        self.root.kill();
        let gone = async {
            self.ended().await;
            for vitals in alive.iter().filter_map(|node| node.vitals()) {
                vitals.gone().await;
            }
        };
        if tokio::time::timeout(KILL_WITHIN_DEFAULT, gone).await.is_err() {
            tracing::error!("part of the tree does not answer its kill");
        }
        Err(StopTimeout { within, left })
    }

    /// Kills one child, which then counts as failed: for tests and for an operator who knows why.
    ///
    /// `path` is the ids from below the root, as in `mind/curiosity`, or an id that is unique in the tree.
    pub fn kill(&self, path: &str) -> Result<(), UnknownChild> {
        let nodes = nodes(&self.node);
        let by_path: Vec<&Arc<Node>> = nodes.iter().filter(|node| node.path == path).collect();
        let by_id: Vec<&Arc<Node>> = nodes.iter().filter(|node| node.id == path).collect();
        let node = match (by_path.as_slice(), by_id.as_slice()) {
            ([.., node], _) | ([], [node]) => node,
            ([], []) => return Err(UnknownChild::Absent { path: path.to_owned() }),
            ([], several) => {
                let paths = several.iter().map(|node| node.path.clone()).collect();
                return Err(UnknownChild::Ambiguous { id: path.to_owned(), paths });
            }
        };
        let cell = node.cell().ok_or_else(|| UnknownChild::NotRunning { path: node.path.clone() })?;
        cell.kill();
        Ok(())
    }

    /// Waits for the end of the tree.
    pub async fn ended(&self) -> Ended {
        let mut end = self.end.clone();
        let ended = end.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        // The one who tells the end only goes without a word when the runtime goes.
        ended.unwrap_or(Ended::Stopped)
    }

    /// Returns what happens in the tree from now on. A listener that falls more than 1024 events behind misses some.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }
}

fn nodes(node: &Arc<Node>) -> Vec<Arc<Node>> {
    let mut found = vec![Arc::clone(node)];
    for child in node.children() {
        found.extend(nodes(&child));
    }
    found
}

fn leaves(node: &Arc<Node>) -> Vec<Arc<Node>> {
    nodes(node).into_iter().filter(|node| node.kind == Kind::Actor).collect()
}

/// Why a tree or a child was not started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The spec does not make sense; nothing was started.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A child did not come up; what had come up before it was stopped again.
    #[error("{path} did not start: {reason}")]
    Child {
        /// Which child.
        path: String,
        /// Its error, or its panic's message.
        reason: String,
    },
    /// The nursery has a child of that name.
    #[error("{nursery} has a child named {id} already")]
    AlreadyPresent {
        /// Which nursery.
        nursery: String,
        /// The id in use.
        id: String,
    },
    /// The nursery is not there, or has too much waiting.
    #[error(transparent)]
    Down(#[from] Down),
}

/// The tree did not stop in time, and was killed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tree did not stop within {within:?} and was killed; still there were: {}", left.join(", "))]
pub struct StopTimeout {
    /// How long it was given.
    pub within: Duration,
    /// The paths of the actors that were still there.
    pub left: Vec<String>,
}

/// Why there is no child to act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownChild {
    /// Nothing stands at that path.
    #[error("there is no child {path}; the status shows the paths")]
    Absent {
        /// The path as given.
        path: String,
    },
    /// More than one child has that id.
    #[error("{id} may be any of {}; give the whole path", paths.join(", "))]
    Ambiguous {
        /// The id as given.
        id: String,
        /// Who has it.
        paths: Vec<String>,
    },
    /// The child is known, and down.
    #[error("{path} is not running")]
    NotRunning {
        /// Which child.
        path: String,
    },
}

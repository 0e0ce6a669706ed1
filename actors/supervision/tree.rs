//! A running tree: to look at, to administrate, to stop, and to wait for.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ractor::{Actor, ActorCell, ActorRef};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::task::JoinHandle;

use crate::blueprint::{Blueprint, Shared};
use crate::branch::{Branch, Node};
use crate::control::Control;
use crate::event::{Event, EventKind, Exit};
use crate::launch::{Start, Unstarted, ended, told};
use crate::pulse;
use crate::socket::Down;
use crate::spec::{KILL_WITHIN_DEFAULT, SpecError, TreeSpec};
use crate::supervisor::{Brief, Msg, Supervisor, Verdict, orphans};
use crate::vitals::Vitals;
use crate::watched::Watched;

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
    /// The significant children of the root were done.
    Done {
        /// The one that was last, or enough.
        path: String,
    },
    /// The root gave up, or was killed.
    GaveUp {
        /// The child that failed once too often; the root itself if it was killed.
        path: String,
        /// Its last failure.
        reason: String,
    },
}

impl Ended {
    /// Returns what the process should end with: 0 when the tree ended as wished, 1 when it gave up.
    pub fn code(&self) -> u8 {
        u8::from(matches!(self, Ended::GaveUp { .. }))
    }
}

/// Brings a tree up and returns when every child in it is.
///
/// Children start in the order of the spec, each after the one before is up. When one refuses, what was started is stopped
/// again in reverse order, and the error names the child. The same is undone when the caller stops waiting.
pub async fn start(spec: TreeSpec) -> Result<Tree, StartError> {
    spec.check_root()?;
    let shared = Arc::new(Shared::new(spec.seed.unwrap_or_else(any_seed)));
    let blueprint = Arc::new(Blueprint::of(spec));
    let node = Arc::clone(&blueprint.node);
    if blueprint.needed.as_ref().is_some_and(|needed| !needed()) {
        return Err(StartError::Ignored { path: node.path.as_ref().to_owned() });
    }
    let vitals = Arc::new(Vitals::new(Arc::clone(&shared.clock)));
    node.begin(1, Arc::clone(&vitals));
    let (sender, end) = watch::channel(None);
    pulse::keep(end.clone());
    let verdict = Arc::new(OnceLock::new());
    let (boot, booted) = oneshot::channel();
    let watched = Watched::new(Supervisor, Arc::clone(&vitals), Some(blueprint.socket.clone()));
    let start: Start = Arc::<Blueprint>::clone(&blueprint);
    let brief = Brief { blueprint, shared: Arc::clone(&shared), boot, verdict: Arc::clone(&verdict) };
    let died = |reason: String| StartError::Child { path: node.path.as_ref().to_owned(), reason };
    let (root, join) = Actor::spawn(None, watched, brief).await.map_err(|error| died(error.to_string()))?;
    let undo = UndoOnDrop(Some(root.clone()));
    match booted.await {
        Ok(Ok(())) => undo.not_needed(),
        Ok(Err(unstarted)) => {
            ended(join).await;
            vitals.mark_gone();
            return Err(match unstarted {
                Unstarted::Failed { path: Some(path), reason } => StartError::Child { path, reason },
                Unstarted::Failed { path: None, reason } => died(reason),
                Unstarted::Ignored => StartError::Ignored { path: node.path.as_ref().to_owned() },
            });
        }
        Err(_) => {
            ended(join).await;
            orphans::take_down(&node, &shared).await;
            vitals.mark_gone();
            return Err(died("it ended while starting".to_owned()));
        }
    }
    node.set_cell(1, root.get_cell());
    shared.tell(&node, node.show(1, EventKind::Started));
    let tree = Tree { root, node, shared, end };
    tokio::spawn(wait_for_the_end(tree.clone(), start, join, vitals, verdict, sender));
    Ok(tree)
}

async fn wait_for_the_end(
    tree: Tree,
    start: Start,
    join: JoinHandle<()>,
    vitals: Arc<Vitals>,
    verdict: Arc<OnceLock<Verdict>>,
    end: watch::Sender<Option<Ended>>,
) {
    ended(join).await;
    vitals.note_exit(Exit::Killed);
    let node = tree.node;
    // After an orderly end nobody is left. Any other end leaves children behind.
    orphans::take_down(&node, &tree.shared).await;
    node.hush();
    start.give_up(&node, &tree.shared);
    tree.shared.tell(&node, node.show(1, EventKind::Stopped));
    vitals.mark_gone();
    tree.shared.fall_silent();
    end.send_replace(Some(match (verdict.get().cloned(), vitals.exit()) {
        (Some(Verdict::GaveUp { path, reason }), _) => Ended::GaveUp { path, reason },
        (Some(Verdict::Done { path }), _) => Ended::Done { path },
        (None, None | Some(Exit::Normal)) => Ended::Stopped,
        (None, Some(exit)) => Ended::GaveUp { path: node.path.as_ref().to_owned(), reason: exit.to_string() },
    }));
}

#[allow(clippy::disallowed_methods, reason = "jitter is there to differ: daemons that fail together restart apart")]
fn any_seed() -> u64 {
    rand::random()
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

impl Tree {
    /// Returns the whole tree as it stands, without asking any actor.
    pub fn snapshot(&self) -> Branch {
        self.node.snapshot()
    }

    /// Returns what can be asked of the supervisor at `path`, which is found as by [`kill`](Self::kill).
    pub fn control(&self, path: &str) -> Result<Control, UnknownChild> {
        let node = self.find(path)?;
        let socket = node.socket().ok_or_else(|| UnknownChild::NoSupervisor { path: node.path.as_ref().to_owned() })?;
        Ok(Control::of(socket))
    }

    /// Stops the tree in reverse order of its start and returns when all of it is down.
    ///
    /// Who has to be killed because a time of its own is over is named in the answer. What is still there after `within` is
    /// killed, and named in the error. Whoever asks again, with less patience, gets it down earlier: no time at all kills
    /// everything at once. A tree that has ended already is stopped.
    pub async fn stop(&self, within: Duration) -> Result<Stopped, StopTimeout> {
        self.shared.watch_kills();
        told(&self.root, Msg::Shutdown);
        if tokio::time::timeout(within, self.ended()).await.is_ok() {
            return Ok(Stopped { killed: self.shared.kills() });
        }
        let (all, left) = (self.node.walk(), self.node.actors_left());
        self.shared.note_kill(&self.node);
        self.shared.hurry();
        orphans::kill_all(&self.node);
        let gone = async {
            self.ended().await;
            for vitals in all.iter().filter_map(|node| node.vitals()) {
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
        let node = self.find(path)?;
        let cell = node.cell().ok_or_else(|| UnknownChild::NotRunning { path: node.path.as_ref().to_owned() })?;
        cell.kill();
        Ok(())
    }

    fn find(&self, path: &str) -> Result<Arc<Node>, UnknownChild> {
        let nodes = self.node.walk();
        let by_path: Vec<&Arc<Node>> = nodes.iter().filter(|node| *node.path == *path).collect();
        let by_id: Vec<&Arc<Node>> = nodes.iter().filter(|node| node.id() == path).collect();
        match (by_path.as_slice(), by_id.as_slice()) {
            ([.., node], _) | ([], [node]) => Ok(Arc::clone(node)),
            ([], []) => Err(UnknownChild::Absent { path: path.to_owned() }),
            ([], several) => {
                let paths = several.iter().map(|node| node.path.as_ref().to_owned()).collect();
                Err(UnknownChild::Ambiguous { id: path.to_owned(), paths })
            }
        }
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
        self.shared.listen()
    }
}

/// Why a tree or a child was not started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The spec does not make sense; nothing was started.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The root said that it need not run.
    #[error("{path} need not run")]
    Ignored {
        /// The root.
        path: String,
    },
    /// A child did not come up; what had come up before it was stopped again.
    #[error("{path} did not start: {reason}")]
    Child {
        /// Which child.
        path: String,
        /// Its error, or its panic's message.
        reason: String,
    },
    /// The supervisor has a child of that name, which is up or coming up.
    #[error("{supervisor} has started {id} already")]
    AlreadyStarted {
        /// Which supervisor.
        supervisor: String,
        /// The id in use.
        id: String,
        /// The actor that has it, if it is up.
        actor: Option<ActorCell>,
    },
    /// The supervisor has a child of that name, which is down.
    #[error("{supervisor} has a child named {id} already")]
    AlreadyPresent {
        /// Which supervisor.
        supervisor: String,
        /// The id in use.
        id: String,
    },
    /// The supervisor is not there.
    #[error(transparent)]
    Down(#[from] Down),
}

/// A tree that stopped in its time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// The paths of the actors that had to be killed, because they did not stop within the time of their spec, or because
    /// somebody else had less patience. Those that are killed because their spec says so are not among them.
    pub killed: Vec<String>,
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
    /// What stands there is an actor.
    #[error("{path} is no supervisor")]
    NoSupervisor {
        /// Which child.
        path: String,
    },
}

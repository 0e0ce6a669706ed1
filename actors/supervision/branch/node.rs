//! One place of the tree: written by its supervisor as it goes, read without disturbing anyone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use ractor::ActorCell;
use tokio::time::Instant;

use super::{Branch, Kind, State};
use crate::event::{Event, EventKind};
use crate::machine::Key;
use crate::socket::Socket;
use crate::spec::Rules;
use crate::supervisor::Msg;
use crate::vitals::Vitals;

/// One place of the tree, kept over all incarnations of what stands there.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) path: Arc<str>,
    /// Where the id begins in the path.
    id_at: u32,
    pub(crate) kind: Kind,
    is_root: bool,
    /// Whether it stands somewhere below a nursery, where there is no end to the places.
    is_below_nursery: bool,
    /// How much of the path names the supervisor that it is counted with: its own, or the nursery above all of them.
    counted_to: u32,
    status: Mutex<Status>,
}

/// What only a supervisor has.
#[derive(Debug)]
struct Below {
    socket: Socket<Msg>,
    children: RwLock<BTreeMap<Key, Arc<Node>>>,
}

#[derive(Debug)]
struct Status {
    rules: Arc<Rules>,
    stage: Stage,
    generation: u64,
    vitals: Option<Arc<Vitals>>,
    cell: Option<ActorCell>,
    past: Option<Box<Past>>,
    below: Option<Arc<Below>>,
}

/// What is told of a place whose first incarnation is not the only one; most have none other, so it is kept apart.
#[derive(Clone, Debug, Default)]
struct Past {
    restarts: u64,
    last_failure: Option<String>,
    handled: u64,
    lost: u64,
    leaked: u64,
}

impl Status {
    fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }
}

/// Stands for a wait that is longer than a clock can tell.
const FAR: Duration = Duration::from_secs(1 << 32);

#[derive(Clone, Copy, Debug)]
enum Stage {
    Starting,
    Running { since: Instant },
    Restarting { due: Instant },
    Stopped,
}

impl Node {
    /// Returns the place of a root supervisor that hears at `socket`.
    pub(crate) fn root(id: &str, kind: Kind, socket: Socket<Msg>) -> Arc<Node> {
        let node = Node::new(id.into(), 0, kind, Arc::new(Rules::of_a_supervisor()));
        node.open(socket);
        Arc::new(Node { is_root: true, ..node })
    }

    /// Returns a new place below this one.
    pub(crate) fn below(&self, id: &Arc<str>, kind: Kind, rules: Arc<Rules>) -> Node {
        let is_below_nursery = self.is_below_nursery || self.kind == Kind::Nursery;
        if self.is_root {
            return Node { is_below_nursery, ..Node::new(Arc::clone(id), 0, kind, rules) };
        }
        // An id is short, and so is the path of a tree that fits on the stack.
        let above = u32::try_from(self.path.len()).unwrap_or_default();
        let counted_to = if self.is_below_nursery { self.counted_to } else { above };
        let node = Node::new(format!("{}/{id}", self.path).into(), above + 1, kind, rules);
        Node { is_below_nursery, counted_to, ..node }
    }

    fn new(path: Arc<str>, id_at: u32, kind: Kind, rules: Arc<Rules>) -> Node {
        let status =
            Status { rules, stage: Stage::Stopped, generation: 0, vitals: None, cell: None, past: None, below: None };
        let (is_root, is_below_nursery, counted_to) = (false, false, 0);
        Node { path, id_at, kind, is_root, is_below_nursery, counted_to, status: Mutex::new(status) }
    }

    /// Makes this the place of a supervisor that hears at `socket`.
    pub(crate) fn open(&self, socket: Socket<Msg>) {
        self.status().below.get_or_insert_with(|| Arc::new(Below { socket, children: RwLock::default() }));
    }

    pub(crate) fn is_root(&self) -> bool {
        self.is_root
    }

    /// Returns the path of the supervisor with which it is counted; the number of those does not grow with what is started at
    /// run time.
    pub(crate) fn counted_with(&self) -> &str {
        &self.path[..self.counted_to as usize]
    }

    pub(crate) fn id(&self) -> &str {
        &self.path[self.id_at as usize..]
    }

    /// Returns where the supervisor hears that stands here; nothing for an actor.
    pub(crate) fn socket(&self) -> Option<Socket<Msg>> {
        self.footing().map(|below| below.socket.clone())
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn footing(&self) -> Option<Arc<Below>> {
        self.status().below.clone()
    }

    fn change_children(&self, change: impl FnOnce(&mut BTreeMap<Key, Arc<Node>>)) {
        if let Some(below) = self.footing() {
            change(&mut below.children.write().unwrap_or_else(PoisonError::into_inner));
        }
    }

    pub(crate) fn adopt(&self, key: Key, child: Arc<Node>) {
        self.change_children(|children| {
            children.insert(key, child);
        });
    }

    pub(crate) fn disown(&self, key: Key) {
        self.change_children(|children| {
            children.remove(&key);
        });
    }

    /// Gives the children the keys that they have from now on.
    pub(crate) fn reorder(&self, moves: &BTreeMap<Key, Key>) {
        self.change_children(|children| {
            let anew = |(key, child)| (moves.get(&key).copied().unwrap_or(key), child);
            *children = std::mem::take(children).into_iter().map(anew).collect();
        });
    }

    pub(crate) fn disown_all(&self) {
        self.change_children(BTreeMap::clear);
    }

    /// Returns what stands below, in starting order.
    pub(crate) fn children(&self) -> Vec<Arc<Node>> {
        let Some(below) = self.footing() else { return Vec::new() };
        below.children.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns this place and all below it, each before what stands below it.
    pub(crate) fn walk(self: &Arc<Self>) -> Vec<Arc<Node>> {
        let mut found = vec![Arc::clone(self)];
        for child in self.children() {
            found.extend(child.walk());
        }
        found
    }

    /// Returns the paths of the actors that are there, here and below.
    pub(crate) fn actors_left(self: &Arc<Self>) -> Vec<String> {
        let left = |node: &&Arc<Node>| node.kind == Kind::Actor && node.cell().is_some();
        self.walk().iter().filter(left).map(|node| node.path.as_ref().to_owned()).collect()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.status().generation
    }

    pub(crate) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.status().rules)
    }

    pub(crate) fn revise(&self, rules: Arc<Rules>) {
        self.status().rules = rules;
    }

    /// Opens the next incarnation and returns the vital signs of the one before.
    pub(crate) fn begin(&self, generation: u64, vitals: Arc<Vitals>) -> Option<Arc<Vitals>> {
        let mut status = self.status();
        let former = status.vitals.replace(vitals);
        if let Some(former) = &former {
            status.past().handled += former.handled();
            status.past().restarts += 1;
        }
        status.generation = generation;
        status.stage = Stage::Starting;
        status.cell = None;
        former
    }

    /// Notes the actor that stands here in this generation.
    pub(crate) fn set_cell(&self, generation: u64, cell: ActorCell) {
        let mut status = self.status();
        if status.generation == generation {
            status.cell = Some(cell);
        }
    }

    /// Lets a place that was not started after all show so.
    pub(crate) fn rest(&self) {
        let mut status = self.status();
        if matches!(status.stage, Stage::Starting) {
            status.stage = Stage::Stopped;
        }
    }

    /// Returns the actor that stands here now.
    pub(crate) fn cell(&self) -> Option<ActorCell> {
        self.status().cell.clone()
    }

    pub(crate) fn vitals(&self) -> Option<Arc<Vitals>> {
        self.status().vitals.clone()
    }

    /// Counts a leaked incarnation out: it came free after all.
    pub(crate) fn came_free(&self) {
        let mut status = self.status();
        status.past().leaked = status.past().leaked.saturating_sub(1);
    }

    /// Lets the place show what happened to it, and returns what is to be told of that.
    pub(crate) fn show(&self, generation: u64, kind: EventKind) -> Event {
        let mut status = self.status();
        match &kind {
            EventKind::Started => status.stage = Stage::Running { since: Instant::now() },
            EventKind::RestartScheduled { delay } => {
                let now = Instant::now();
                status.stage = Stage::Restarting { due: now.checked_add(*delay).unwrap_or(now + FAR) };
            }
            EventKind::Failed { reason, .. }
            | EventKind::StartFailed { reason }
            | EventKind::ShutdownFailed { reason, .. } => {
                status.past().last_failure = Some(reason.clone());
                status.stage = Stage::Stopped;
                status.cell = None;
            }
            EventKind::GaveUp { reason } => status.past().last_failure = Some(reason.clone()),
            EventKind::Stopped => {
                status.stage = Stage::Stopped;
                status.cell = None;
            }
            EventKind::Lost { handling, waiting } => {
                status.past().lost += u64::from(handling.is_some()) + *waiting as u64;
            }
            EventKind::Leaked => status.past().leaked += 1,
            EventKind::Stalled { .. } | EventKind::StartedAfresh { .. } | EventKind::AutoShutdown => {}
        }
        let elapsed = status.vitals.as_ref().map_or(Duration::ZERO, |vitals| vitals.age());
        let Rules { restart, shutdown, .. } = *status.rules;
        Event { path: self.path.as_ref().to_owned(), generation, restart, shutdown, elapsed, kind }
    }

    /// Lets everything below show as down: it ended with the supervisor that stood here.
    pub(crate) fn hush(&self) {
        for child in self.children() {
            child.show(child.generation(), EventKind::Stopped);
            child.hush();
        }
    }

    pub(crate) fn snapshot(&self) -> Branch {
        let status = self.status();
        let now = Instant::now();
        let past = status.past.as_deref().cloned().unwrap_or_default();
        let live = status.vitals.as_ref().filter(|_| matches!(status.stage, Stage::Running { .. } | Stage::Starting));
        let busy = live.and_then(|vitals| vitals.busy());
        let branch = Branch {
            id: self.id().to_owned(),
            path: self.path.as_ref().to_owned(),
            kind: self.kind,
            state: match status.stage {
                Stage::Starting => State::Starting,
                Stage::Running { .. } => State::Running,
                Stage::Restarting { due } => State::Restarting { due_in: due.saturating_duration_since(now) },
                Stage::Stopped => State::Stopped,
            },
            generation: status.generation,
            restarts: past.restarts,
            last_failure: past.last_failure,
            uptime: match status.stage {
                Stage::Running { since } => Some(now.saturating_duration_since(since)),
                _ => None,
            },
            handled: past.handled + status.vitals.as_ref().map_or(0, |vitals| vitals.handled()),
            lost: past.lost,
            leaked: past.leaked,
            depth: live.map_or(0, |vitals| vitals.waiting()),
            busy_for: busy.map(|(_, busy)| busy),
            silent_for: live.and_then(|vitals| vitals.silent_for()),
            busy_with: busy.map(|(activity, _)| activity.name()),
            busy_ratio: live.map_or(0.0, |vitals| vitals.busy_ratio()),
            children: Vec::new(),
        };
        drop(status);
        let children = self.children().iter().map(|child| child.snapshot()).collect();
        Branch { children, ..branch }
    }
}

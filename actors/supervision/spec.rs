//! What a tree is made of: the description that [`start`](crate::start) brings to life.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ractor::Actor;

use crate::branch::Kind;
use crate::launch::{self, ActorMaker};
use crate::nursery::Nursery;
use crate::socket::Socket;

mod rules;

mod check;

pub use check::SpecError;
pub use rules::{
    AutoShutdown, Backoff, FAILURES_MAX_DEFAULT, Flags, Intensity, KILL_WITHIN_DEFAULT, Restart, Rules,
    START_WITHIN_DEFAULT, STOP_WITHIN_DEFAULT, Shutdown, Strategy,
};

/// One child: how to make it, and how it is treated.
pub struct ChildSpec {
    pub(crate) id: Arc<str>,
    pub(crate) rules: Rules,
    pub(crate) start: Start,
}

/// What is started.
pub(crate) enum Start {
    Actor(launch::Start),
    Supervisor(TreeSpec),
}

impl ChildSpec {
    /// Describes an actor that is plugged into `socket` while it is up.
    ///
    /// `make` is called for each start; what must survive a restart lives outside of the actor. Unless said otherwise the
    /// child is permanent, has [`START_WITHIN_DEFAULT`] to start and [`STOP_WITHIN_DEFAULT`] to stop, and may be busy with
    /// one message for as long as it likes.
    pub fn actor<A: Actor>(
        id: &str,
        socket: &Socket<A::Msg>,
        make: impl Fn() -> (A, A::Arguments) + Send + Sync + 'static,
    ) -> ChildSpec {
        let start = Start::Actor(Arc::new(ActorMaker { socket: socket.clone(), make }));
        // A child is mostly called like its socket, and then there is one text for both.
        let id = if socket.id() == id { socket.shared_id() } else { id.into() };
        ChildSpec { id, rules: Rules::of_an_actor(), start }
    }

    /// Describes a supervisor with all that stands below it, under its own id.
    ///
    /// Unless said otherwise it is permanent, and takes as long to start and stop as it needs.
    pub fn supervisor(tree: TreeSpec) -> ChildSpec {
        let rules = Rules { backoff: tree.backoff, ..Rules::of_a_supervisor() };
        ChildSpec { id: tree.id.as_str().into(), rules, start: Start::Supervisor(tree) }
    }

    /// Says when it is started again.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.rules.restart = restart;
        self
    }

    /// Says how it is brought down.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.rules.shutdown = shutdown;
        self
    }

    /// Lets the child's end count for the [auto-shutdown](TreeSpec::auto_shutdown) of its supervisor.
    #[must_use]
    pub fn significant(mut self) -> Self {
        self.rules.significant = true;
        self
    }

    /// Treats a handler that makes no [`progress`](crate::progress) for longer than this as a failure.
    #[must_use]
    pub fn stall_after(mut self, limit: Duration) -> Self {
        self.rules.stall_after = Some(limit);
        self
    }

    /// Treats a `pre_start` that takes longer than this as a failed start.
    #[must_use]
    pub fn start_within(mut self, limit: Duration) -> Self {
        self.rules.start_within = Some(limit);
        self
    }

    /// Gives the child up as leaked when it is still there this long after it was killed.
    #[must_use]
    pub fn kill_within(mut self, limit: Duration) -> Self {
        self.rules.kill_within = limit;
        self
    }

    /// Lets the supervisor give up after this many restarts in a row without a healthy while between them, however far
    /// apart its back-off has put them.
    #[must_use]
    pub fn failures_max(mut self, failures_max: u32) -> Self {
        self.rules.failures_max = failures_max;
        self
    }

    /// Says how long supervision waits between restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        match &self.start {
            Start::Actor(_) => Kind::Actor,
            Start::Supervisor(tree) => tree.kind(),
        }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChildSpec").field("id", &self.id).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Decides at each start of a supervisor whether it is needed.
pub(crate) type Needed = Arc<dyn Fn() -> bool + Send + Sync>;

/// A supervisor and what stands below it.
pub struct TreeSpec {
    pub(crate) id: String,
    pub(crate) flags: Flags,
    pub(crate) backoff: Backoff,
    pub(crate) children: Vec<ChildSpec>,
    pub(crate) nursery: Option<Nursery>,
    pub(crate) needed: Option<Needed>,
    pub(crate) seed: Option<u64>,
}

impl TreeSpec {
    /// Describes a supervisor without children that allows one restart in 5 seconds and never ends by itself.
    pub fn new(id: &str, strategy: Strategy) -> Self {
        TreeSpec::with(id, Some(strategy), None)
    }

    /// Describes a supervisor of children that are started at run time, and plugs it into `nursery`.
    pub fn nursery(id: &str, nursery: &Nursery) -> Self {
        TreeSpec::with(id, None, Some(nursery.clone()))
    }

    fn with(id: &str, strategy: Option<Strategy>, nursery: Option<Nursery>) -> Self {
        let flags = Flags { strategy, intensity: Intensity::default(), auto_shutdown: AutoShutdown::Never };
        let (backoff, children) = (Backoff::default(), Vec::new());
        TreeSpec { id: id.to_owned(), flags, backoff, children, nursery, needed: None, seed: None }
    }

    /// Says how many restarts are allowed before this supervisor gives up.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.flags.intensity = intensity;
        self
    }

    /// Says whether this supervisor ends by itself when its significant children are done.
    #[must_use]
    pub fn auto_shutdown(mut self, auto_shutdown: AutoShutdown) -> Self {
        self.flags.auto_shutdown = auto_shutdown;
        self
    }

    /// Says how long the parent waits before it starts this supervisor again; without meaning at the root.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Draws the jitter of all waits from this seed, for runs that are to repeat; it counts at the root.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Asks `needed` before each start; a supervisor that is not needed counts as one that [ignores](crate::Ignore) its
    /// start.
    #[must_use]
    pub fn start_if(mut self, needed: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.needed = Some(Arc::new(needed));
        self
    }

    /// Adds a child after what was added before.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// Adds a permanent supervisor with all that stands below it.
    #[must_use]
    pub fn tree(self, tree: TreeSpec) -> Self {
        self.child(ChildSpec::supervisor(tree))
    }

    /// Adds a supervisor of children that are started at run time, with the intensity of this one so far.
    #[must_use]
    pub fn dynamic(self, id: &str, nursery: &Nursery) -> Self {
        let intensity = self.flags.intensity;
        self.tree(TreeSpec::nursery(id, nursery).intensity(intensity))
    }

    pub(crate) fn kind(&self) -> Kind {
        if self.nursery.is_some() { Kind::Nursery } else { Kind::Supervisor }
    }
}

impl fmt::Debug for TreeSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = formatter.debug_struct("TreeSpec");
        parts.field("id", &self.id).field("flags", &self.flags).field("children", &self.children);
        parts.finish_non_exhaustive()
    }
}

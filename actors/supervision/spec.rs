//! What a tree is made of: the description that [`start`](crate::start) brings to life.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use ractor::Actor;

use crate::launch::{self, Start};
use crate::nursery::Nursery;
use crate::socket::Socket;

/// How long a child may take to stop before it is killed, unless its spec says otherwise.
pub const STOP_WITHIN_DEFAULT: Duration = Duration::from_secs(5);

/// How long a child's `pre_start` may take, unless its spec says otherwise.
pub const START_WITHIN_DEFAULT: Duration = Duration::from_secs(30);

/// How long supervision waits for a killed child before it gives the child up as leaked, unless its spec says otherwise.
pub const KILL_WITHIN_DEFAULT: Duration = Duration::from_secs(5);

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it failed, panicked, was killed or stalled; not when it stopped.
    Transient,
    /// Never, not even when its siblings are restarted around it.
    Temporary,
}

/// How a child is brought down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Killed at once; its `post_stop` does not run.
    Brutal,
    /// Asked to stop, and killed when it takes longer than this.
    Within(Duration),
    /// Asked to stop, and waited for as long as it takes.
    Unlimited,
}

/// Who is restarted along with a child that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// Every sibling.
    OneForAll,
    /// The siblings that were started after it.
    RestForOne,
}

/// How many restarts a supervisor allows itself before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts allowed inside one window, over all children together; 0 gives up at the first failure.
    pub restarts_max: u32,
    /// Length of the sliding window; more than zero.
    pub within: Duration,
}

impl Default for Intensity {
    /// One restart in 5 seconds, as in OTP.
    fn default() -> Self {
        Intensity { restarts_max: 1, within: Duration::from_secs(5) }
    }
}

/// How long supervision waits before it starts a failing child again.
///
/// The first restart is immediate. Each further one waits twice as long as the one before, spread by jitter, until the
/// child has been up for `healthy_after`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait before the second restart.
    pub first: Duration,
    /// The longest wait, before jitter.
    pub max: Duration,
    /// How far a wait is spread around its nominal length, as a ratio from 0 to 1.
    pub jitter_ratio: f64,
    /// How long a child must have been up for its failures to be forgotten.
    pub healthy_after: Duration,
}

impl Default for Backoff {
    /// From 100 ms to 30 s, spread by a fifth, forgotten after a healthy minute.
    fn default() -> Self {
        Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            jitter_ratio: 0.2,
            healthy_after: Duration::from_secs(60),
        }
    }
}

/// What supervision needs to know of a child to decide about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) restart: Restart,
    pub(crate) shutdown: Shutdown,
    pub(crate) stall_after: Option<Duration>,
    pub(crate) start_within: Option<Duration>,
    pub(crate) kill_within: Duration,
    pub(crate) backoff: Backoff,
}

impl Rules {
    /// Returns the rules of a room unless its spec says otherwise.
    pub(crate) fn of_an_actor() -> Self {
        Rules {
            restart: Restart::Permanent,
            shutdown: Shutdown::Within(STOP_WITHIN_DEFAULT),
            stall_after: None,
            start_within: Some(START_WITHIN_DEFAULT),
            kill_within: KILL_WITHIN_DEFAULT,
            backoff: Backoff::default(),
        }
    }

    /// Returns the rules of a supervisor below another one: it gets all the time that its own children need.
    pub(crate) fn of_a_supervisor() -> Self {
        Rules { shutdown: Shutdown::Unlimited, start_within: None, ..Rules::of_an_actor() }
    }
}

/// One supervised actor: how to make it, and how it is treated.
pub struct ChildSpec {
    pub(crate) id: String,
    pub(crate) rules: Rules,
    pub(crate) start: Start,
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
        ChildSpec { id: id.to_owned(), rules: Rules::of_an_actor(), start: launch::of_actor(socket.clone(), make) }
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

    /// Says how long supervision waits between restarts.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.rules.backoff = backoff;
        self
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ChildSpec").field("id", &self.id).field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// What stands below a supervisor, in starting order.
#[derive(Debug)]
pub(crate) enum Member {
    Actor(ChildSpec),
    Tree(TreeSpec),
    Nursery(String, Nursery),
}

impl Member {
    pub(crate) fn id(&self) -> &str {
        match self {
            Member::Actor(spec) => &spec.id,
            Member::Tree(spec) => &spec.id,
            Member::Nursery(id, _) => id,
        }
    }
}

/// A supervisor and what stands below it.
#[derive(Debug)]
pub struct TreeSpec {
    pub(crate) id: String,
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) backoff: Backoff,
    pub(crate) members: Vec<Member>,
}

impl TreeSpec {
    /// Describes a supervisor without children that allows one restart in 5 seconds.
    pub fn new(id: &str, strategy: Strategy) -> Self {
        TreeSpec {
            id: id.to_owned(),
            strategy,
            intensity: Intensity::default(),
            backoff: Backoff::default(),
            members: Vec::new(),
        }
    }

    /// Says how many restarts are allowed before this supervisor gives up.
    #[must_use]
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }

    /// Says how long the parent waits before it starts this supervisor again; without meaning at the root.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Adds an actor after what was added before.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.members.push(Member::Actor(child));
        self
    }

    /// Adds a supervisor with all that stands below it. It is permanent, and takes as long to start and stop as it needs.
    #[must_use]
    pub fn tree(mut self, tree: TreeSpec) -> Self {
        self.members.push(Member::Tree(tree));
        self
    }

    /// Adds a supervisor of children that are started at run time, and plugs it into `nursery`.
    #[must_use]
    pub fn dynamic(mut self, id: &str, nursery: &Nursery) -> Self {
        self.members.push(Member::Nursery(id.to_owned(), nursery.clone()));
        self
    }

    /// Returns the first thing that makes this spec unusable.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        check_id(&self.id)?;
        if self.intensity.within.is_zero() {
            return Err(SpecError::EmptyWindow { supervisor: self.id.clone() });
        }
        check_backoff(&self.id, &self.backoff)?;
        let mut seen = HashSet::new();
        for member in &self.members {
            if !seen.insert(member.id()) {
                return Err(SpecError::DuplicateId { supervisor: self.id.clone(), id: member.id().to_owned() });
            }
            match member {
                Member::Actor(child) => child.check()?,
                Member::Tree(tree) => tree.check()?,
                Member::Nursery(id, _) => check_id(id)?,
            }
        }
        Ok(())
    }
}

impl ChildSpec {
    /// Returns the first thing that makes this spec unusable.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        check_id(&self.id)?;
        check_backoff(&self.id, &self.rules.backoff)?;
        if self.rules.stall_after.is_some_and(|limit| limit.is_zero()) {
            return Err(SpecError::NoTimeToWork { id: self.id.clone() });
        }
        Ok(())
    }
}

fn check_id(id: &str) -> Result<(), SpecError> {
    if id.is_empty() || id.contains('/') {
        return Err(SpecError::BadId { id: id.to_owned() });
    }
    Ok(())
}

fn check_backoff(id: &str, backoff: &Backoff) -> Result<(), SpecError> {
    if !(0.0..=1.0).contains(&backoff.jitter_ratio) {
        return Err(SpecError::BadJitter { id: id.to_owned(), jitter_ratio: backoff.jitter_ratio });
    }
    Ok(())
}

/// Why a tree or a child was refused before anything of it was started.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The id cannot be part of a path.
    #[error("the id {id:?} is empty or contains a slash; use a plain name")]
    BadId {
        /// The id as given.
        id: String,
    },
    /// Two children of one supervisor would be mistaken for each other.
    #[error("supervisor {supervisor} has two children named {id}; give each its own id")]
    DuplicateId {
        /// Whose children they are.
        supervisor: String,
        /// The id that is there twice.
        id: String,
    },
    /// The intensity counts restarts in no time at all.
    #[error("supervisor {supervisor} counts restarts within zero time; give the intensity a window")]
    EmptyWindow {
        /// Whose intensity it is.
        supervisor: String,
    },
    /// The jitter would make a wait negative, or is not a number.
    #[error("the back-off of {id} has a jitter ratio of {jitter_ratio}; it lies between 0 and 1")]
    BadJitter {
        /// Whose back-off it is.
        id: String,
        /// The ratio as given.
        jitter_ratio: f64,
    },
    /// Every handler would count as stalled.
    #[error("{id} stalls after zero time; give its handlers time to work")]
    NoTimeToWork {
        /// Whose limit it is.
        id: String,
    },
}

//! What supervision tells about: how an actor ended, and each step of its life.

use std::fmt;
use std::time::Duration;

/// How an actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was stopped, or stopped itself, and its `post_stop` ran through.
    Normal,
    /// A handler returned an error, or the actor stalled; the text is the error with its sources.
    Failed(String),
    /// A handler panicked; the text is the panic's message.
    Panicked(String),
    /// It was killed, or its task was cancelled, before it could say anything.
    Killed,
}

impl Exit {
    /// Returns whether the actor ended the way it should.
    pub fn is_normal(&self) -> bool {
        *self == Exit::Normal
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Normal => write!(formatter, "stopped"),
            Exit::Failed(reason) => write!(formatter, "failed: {reason}"),
            Exit::Panicked(text) => write!(formatter, "panicked: {text}"),
            Exit::Killed => write!(formatter, "killed"),
        }
    }
}

/// One step in the life of a child or of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The ids from below the root down to the one concerned, joined by `/`; the root is named by its own id.
    pub path: String,
    /// Which incarnation it was; the first is 1, each start counts one up.
    pub generation: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a child or a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It is up: its `pre_start` returned.
    Started,
    /// It failed to start, or it ended the way it should not.
    Failed {
        /// The error or the panic's message.
        reason: String,
    },
    /// It will be started again.
    RestartScheduled {
        /// How long supervision waits before it does; zero is at once.
        delay: Duration,
    },
    /// The supervisor exceeded its restart intensity, and stops what is left.
    GaveUp {
        /// The failure that was one too many.
        reason: String,
    },
    /// It is down as wished, and is not started again by itself.
    Stopped,
    /// Its handler made no progress for too long; it is being killed.
    Stalled {
        /// How long it made no progress.
        silent: Duration,
    },
    /// It did not answer the kill either, because it blocks its thread; it is given up and may be replaced.
    Leaked,
}

//! What supervision tells about: how an actor ended, and each step of its life.

use std::fmt;
use std::time::Duration;

use crate::spec::{Restart, Shutdown};

/// How an actor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was stopped, or stopped itself, and its `post_stop` ran through.
    Normal,
    /// A supervisor stopped all its children and then itself, for this reason: it gave up, or its significant children are
    /// done. As in OTP this is not a failure of the supervisor.
    Shutdown(String),
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
        matches!(self, Exit::Normal | Exit::Shutdown(_))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Normal => write!(formatter, "stopped"),
            Exit::Shutdown(reason) => write!(formatter, "shut down: {reason}"),
            Exit::Failed(reason) => write!(formatter, "failed: {reason}"),
            Exit::Panicked(text) => write!(formatter, "panicked: {text}"),
            Exit::Killed => write!(formatter, "killed"),
        }
    }
}

/// What an actor takes from its `pre_start` when it need not run: `return Err(Ignore.into())`.
///
/// That is no failure. A permanent or transient child stays known and down, a temporary one is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it need not run")]
pub struct Ignore;

/// One step in the life of a child or of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The ids from below the root down to the one concerned, joined by `/`; the root is named by its own id.
    pub path: String,
    /// Which incarnation it was; the first is 1, each start counts one up.
    pub generation: u64,
    /// When the child is started again.
    pub restart: Restart,
    /// How the child is brought down.
    pub shutdown: Shutdown,
    /// How long ago the start of this incarnation began.
    pub elapsed: Duration,
    /// What happened.
    pub kind: EventKind,
}

impl Event {
    /// Returns the id of the one concerned.
    pub fn id(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the path of the supervisor above; empty for the root and for what stands directly below it.
    pub fn supervisor(&self) -> &str {
        self.path.rsplit_once('/').map_or("", |(supervisor, _)| supervisor)
    }
}

/// The counter of everything that is told, by `supervisor` (its path; empty for the root) and `event` (a [kind's
/// name](EventKind::name)). Children are no label, and neither are supervisors below a nursery, which is counted with all that
/// stands below it: there may be any number of them.
pub const EVENTS_TOTAL: &str = "kloros_supervision_events_total";

/// Gives [`EVENTS_TOTAL`] its help text, in whatever records metrics.
pub fn describe_metrics() {
    metrics::describe_counter!(EVENTS_TOTAL, "Steps of supervision, by supervisor and event.");
}

/// What happened to a child or a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// It is up: its `pre_start` returned.
    Started,
    /// It did not come up.
    StartFailed {
        /// The error or the panic's message.
        reason: String,
    },
    /// It begins anew, because what it wanted to go on from is not sound.
    StartedAfresh {
        /// What is wrong with its [`Checkpoint`](crate::Checkpoint).
        reason: String,
    },
    /// It ended the way it should not.
    Failed {
        /// The error or the panic's message.
        reason: String,
        /// The kind of the message it was handling, or the callback it was in; nothing when it was idle.
        handling: Option<&'static str>,
    },
    /// Messages were lost with it.
    Lost {
        /// The kind of the message it was handling.
        handling: Option<&'static str>,
        /// How many messages waited.
        waiting: usize,
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
    /// Its significant children are done; it stops what is left.
    AutoShutdown,
    /// It is down as wished, and is not started again by itself.
    Stopped,
    /// It is down as wished, but not the way it should have gone.
    ShutdownFailed {
        /// How it went instead.
        reason: String,
        /// The kind of the message it was handling, or the callback it was in; nothing when it was idle.
        handling: Option<&'static str>,
    },
    /// Its handler made no progress for too long; it is being killed.
    Stalled {
        /// How long it made no progress.
        silent: Duration,
        /// The kind of the message it is handling.
        handling: &'static str,
    },
    /// It did not answer the kill either, because it blocks its thread; it is given up and may be replaced.
    Leaked,
}

impl EventKind {
    /// Returns what stands for this kind in a metric's label.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Started => "started",
            EventKind::StartFailed { .. } => "start_failed",
            EventKind::StartedAfresh { .. } => "started_afresh",
            EventKind::Failed { .. } => "failed",
            EventKind::Lost { .. } => "messages_lost",
            EventKind::RestartScheduled { .. } => "restart_scheduled",
            EventKind::GaveUp { .. } => "gave_up",
            EventKind::AutoShutdown => "auto_shutdown",
            EventKind::Stopped => "stopped",
            EventKind::ShutdownFailed { .. } => "shutdown_failed",
            EventKind::Stalled { .. } => "stalled",
            EventKind::Leaked => "leaked",
        }
    }
}

//! What a supervisor hears, and what it does.

use std::time::Duration;

use crate::event::{EventKind, Exit};
use crate::spec::{Rules, Strategy};

/// Why a start failed that does not even end at its limit.
pub(crate) const BLOCKED_START: &str = "it blocks its thread while starting";

/// A child's name inside one machine; never reused.
pub(crate) type Key = u64;

/// In which order children come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// A fixed list: up in order, down in reverse, one at a time.
    Static(Strategy),
    /// Children that come and go independently of each other.
    Dynamic,
}

/// What a supervisor hears.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Boot,
    Started {
        key: Key,
        generation: u64,
    },
    StartFailed {
        key: Key,
        generation: u64,
        reason: String,
    },
    Exited {
        key: Key,
        generation: u64,
        exit: Exit,
    },
    Stalled {
        key: Key,
        generation: u64,
        silent: Duration,
    },
    Overdue {
        key: Key,
        generation: u64,
        timer: Timer,
    },
    /// The common wait before a group restart is over.
    GroupDue {
        token: u64,
    },
    Add {
        key: Key,
        rules: Rules,
    },
    Terminate {
        key: Key,
    },
    Shutdown,
}

/// What a child's timer waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Start,
    Stop,
    Kill,
    Backoff,
}

/// What a supervisor does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    Start {
        key: Key,
        generation: u64,
    },
    /// Ends a start that is under way; it is answered like any other start.
    CancelStart {
        key: Key,
        generation: u64,
    },
    Stop {
        key: Key,
        generation: u64,
    },
    Kill {
        key: Key,
        generation: u64,
    },
    /// Sets the child's only timer; it replaces the one before.
    Arm {
        key: Key,
        generation: u64,
        timer: Timer,
        after: Duration,
    },
    Disarm {
        key: Key,
    },
    ArmGroup {
        token: u64,
        after: Duration,
    },
    Tell {
        key: Key,
        generation: u64,
        kind: EventKind,
    },
    /// The supervisor is about to end because `key` failed once too often.
    GivingUp {
        key: Key,
        reason: String,
    },
    /// The child does not answer its kill, or blocks in its start: nobody waits for this generation any longer.
    Abandon {
        key: Key,
        generation: u64,
    },
    /// The child is gone for good.
    Forget {
        key: Key,
    },
    Booted,
    Finished(Outcome),
}

/// How a supervisor ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stopped,
    BootFailed { key: Key, reason: String },
    GaveUp { key: Key, reason: String },
}

//! What a supervisor hears, and what it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::event::{EventKind, Exit};
use crate::spec::{Flags, Rules};

/// Why a start failed that does not even end at its limit.
pub(crate) const BLOCKED_START: &str = "it blocks its thread while starting";

/// Why a start failed that nobody wants any more.
pub(crate) const CALLED_OFF: &str = "it was stopped while starting";

/// A child's name inside one machine; never reused. Children are ordered by it, so a child that moves gets another one.
pub(crate) type Key = u64;

/// What a supervisor hears.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Boot,
    Started {
        key: Key,
        generation: u64,
    },
    /// The start said that the child need not run.
    Ignored {
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
        handling: &'static str,
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
    /// A new child, started now; if that fails it is forgotten again.
    Add {
        key: Key,
        rules: Arc<Rules>,
    },
    /// Brings a child down; with `forget` its spec goes too.
    Terminate {
        key: Key,
        forget: bool,
    },
    /// Starts a child that is down; if that fails it stays down.
    Restart {
        key: Key,
    },
    /// Lets a child come back that was asked to go, once it is down.
    Recall {
        key: Key,
    },
    /// The flags that hold from now on.
    Reflag {
        flags: Flags,
    },
    /// The rules that hold for one child from now on.
    Revise {
        key: Key,
        rules: Arc<Rules>,
    },
    /// The keys that children have from now on, by those that they had.
    Reorder {
        moves: BTreeMap<Key, Key>,
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
    /// Answers whoever asked for this start by hand.
    Answer {
        key: Key,
        answer: Result<(), String>,
    },
    /// The supervisor is about to end because `key` failed once too often.
    GivingUp {
        key: Key,
        reason: String,
    },
    /// The supervisor is about to end because `key` was the significant child that it waited for.
    ShuttingDown {
        key: Key,
    },
    /// The child does not answer its kill, or blocks in its start: nobody waits for this generation any longer.
    Abandon {
        key: Key,
        generation: u64,
    },
    /// The child is down as it was asked to be, and stays known.
    Rest {
        key: Key,
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
    Done { key: Key },
}

/// How a child stands, for those who ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    Up,
    /// Its first start, or one that was asked for by hand, is under way.
    Starting,
    /// It failed and is to come up again.
    Restarting,
    Down,
}

//! What a supervision tree promises, tried on real actors under paused time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixtures;

mod cases;

mod soak;

mod storm;

mod differential;

mod endings;

mod overlaps;

mod bounds;

mod refusals;

mod starting;

mod stopping;

mod restarting;

mod stalling;

mod sockets;

mod nurseries;

mod looking;

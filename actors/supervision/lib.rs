//! Supervision trees in the manner of OTP, on ractor.
//!
//! A *room* is a plain [`ractor::Actor`]. A [`TreeSpec`] says which rooms there are, in which order they start and what
//! happens when one fails; [`start`] brings the whole tree up and returns a [`Tree`] to watch and stop it by. This crate
//! knows how actors live and die; it knows nothing of what they do.
//!
//! ```
//! use kloros_supervision::{ChildSpec, Intensity, Socket, Strategy, TreeSpec, start};
//! use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
//! use std::time::Duration;
//!
//! struct Greeter;
//!
//! impl Actor for Greeter {
//!     type Msg = RpcReplyPort<String>;
//!     type State = u32;
//!     type Arguments = ();
//!
//!     async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<u32, ActorProcessingErr> {
//!         Ok(0)
//!     }
//!
//!     async fn handle(&self, _: ActorRef<Self::Msg>, reply: Self::Msg, greeted: &mut u32) -> Result<(), ActorProcessingErr> {
//!         *greeted += 1;
//!         // A caller that went away is not a failure of this room, so the result is dropped on purpose.
//!         let _ = reply.send(format!("hello, visitor {greeted}"));
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let socket = Socket::new("greeter");
//! let tree = start(
//!     TreeSpec::new("house", Strategy::OneForOne)
//!         .intensity(Intensity { restarts_max: 3, within: Duration::from_secs(60) })
//!         .child(ChildSpec::actor("greeter", &socket, || (Greeter, ()))),
//! )
//! .await?;
//!
//! let answer = socket.call(|reply| reply, Duration::from_secs(1)).await?;
//! assert_eq!(answer, "hello, visitor 1");
//! tree.stop(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a room can rely on
//!
//! - **Order.** Children start in the order of the spec, each after the one before has finished its `pre_start`. They stop
//!   in the reverse order, one at a time, with `post_stop` run, leaves before their supervisor; also when a supervisor
//!   failed or was killed by accident. One that is killed because its spec says so is killed with all below it.
//! - **Restart.** A panic, an `Err` from a handler, a kill and a stall are failures; a stop is not, whatever reason text
//!   it carries. The first restart is immediate, later ones wait with exponential back-off and jitter until the room has
//!   been healthy for a while.
//! - **Escalation.** More restarts than [`Intensity`] allows, or more in a row than [`ChildSpec::failures_max`], make the
//!   supervisor stop its children and end towards its own parent; at the root the tree [ends](Tree::ended) with
//!   [`Ended::GaveUp`].
//! - **Administration.** [`Control`] starts, terminates, restarts, deletes, lists and counts children as OTP does, at any
//!   time, without counting as a restart.
//! - **Addresses.** A [`Socket`] and its [`Outlet`]s find whichever generation of a room is plugged in now. Nothing is kept
//!   for a room that is down: the sender is told [`Down`] at once. What is lost with a room is [told](EventKind::Lost).
//! - **Bounds.** ractor's mailboxes have none, so each socket counts what waits and does above its limit as its [`Mailbox`]
//!   says. An actor that sends to itself does it with [`to_self`], so that the count stays right.
//!
//! # What it cannot do
//!
//! A kill takes effect at the handler's next `await`; a handler that blocks its thread cannot be interrupted. Such a room is
//! given up as leaked after a bounded wait, reported, and replaced. Until it comes free, it also holds up whoever it sent a
//! message to just before it blocked, because tokio keeps the task that was woken last to the same thread: blocking work
//! belongs on a thread of its own. Stack overflows and aborts end the process.

/// The first example of the README, so that it compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("README.md")]
struct Readme;

#[cfg(panic = "abort")]
compile_error!(
    "supervision restarts rooms that panic, which `panic = \"abort\"` makes impossible; build with `panic = \"unwind\"`"
);

mod spec;

mod machine;

mod pace;

mod supervisor;

mod blueprint;

mod launch;

mod watched;

mod clock;

mod vitals;

mod socket;

mod outlet;

mod nursery;

mod control;

mod checkpoint;

mod pulse;

mod tree;

mod branch;

mod event;

pub use branch::{Branch, Kind, State};
pub use checkpoint::Checkpoint;
pub use control::{Child, ChildError, Control, Count, Presence, Started};
pub use event::{EVENTS_TOTAL, Event, EventKind, Exit, Ignore, describe_metrics};
pub use nursery::{ChildExit, Nursery, Template};
pub use outlet::{Collected, Outlet};
pub use socket::{CallError, Down, IN_FLIGHT_MAX_DEFAULT, Mailbox, Poison, Socket, WhenFull};
pub use spec::{
    AutoShutdown, Backoff, ChildSpec, FAILURES_MAX_DEFAULT, Flags, Intensity, KILL_WITHIN_DEFAULT, Restart, Rules,
    START_WITHIN_DEFAULT, STOP_WITHIN_DEFAULT, Shutdown, SpecError, Strategy, TreeSpec,
};
pub use tree::{Ended, StartError, StopTimeout, Stopped, Tree, UnknownChild, start};
pub use vitals::{Progress, progress, start_info, to_self};

//! The lease of the machine: two measurements at once would measure each other, whoever asks for them.
//!
//! One folder on a machine holds a file for who measures, the slot, and a few for who waits, the seats. To have a file is to
//! hold its lock, which the kernel takes back when a process ends, however it ends; what stands in a file is only there to be
//! read. A machine is leased before anything is started, so nobody waits with a service in memory.
//!
//! Invariants: one lease at a time; kloros removes no file, and whoever had the lease sees that somebody else did; who waits is
//! let in by rank (a change that is live and not proven first, then by how long they wait), and after half of the patience
//! everybody is as urgent; waiting ends with the lease, or after a time that has a name, with a reason.

mod machine;

mod queue;

mod folder;

pub(crate) use machine::{Lease, Machine, Shared, measuring};
pub(crate) use queue::{Seen, Standing, Urgency};

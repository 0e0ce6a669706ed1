//! The journal: where facts become durable, and what a person can read of them.
//!
//! One `SQLite` database in the home, written by one connection on a thread of its own: write-ahead log,
//! `synchronous=FULL`, so that an answer means that the disk has it. The files that a person greps are projections:
//! in the transaction that keeps a fact, its lines go into an outbox, and a pump brings them into their files.
//!
//! Invariants: a fact stands at a place of its own, larger is later, whatever the clock says; a name that may stand
//! once stands once; a line gets into its file once, also across crashes; after a failed write, a damaged page or a
//! database that lost its name nothing more is written by this process; where a journal was, none is begun afresh without
//! a person's word; whoever opens the journal locks out whoever
//! opened it before; who decided what is in a trail whose lines are chained by their hashes.

mod store;

mod writer;

mod reader;

mod names;

mod open_work;

mod outbox;

mod rebuild;

mod projection;

mod audit;

mod files;

mod codec;

mod schema;

mod fault;

mod mark;

mod time;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::one_of_each;

pub(crate) use audit::{AUDITED, Verified, verify as verify_audit};
pub(crate) use reader::Reader;
pub(crate) use rebuild::rebuild;
pub(crate) use store::{Lost, Store, open};
pub(crate) use time::rfc3339;

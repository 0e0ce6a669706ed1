//! Where conversations are kept: one `SQLite` file of its own, so that what is said can be forgotten.
//!
//! Everything said is kept as it was said, in the order in which it was said; words are indexed by FTS5, cut as the memory compares
//! them. Invariants: a conversation has a name and an owner; what is forgotten is gone from the file, its index and its log; a
//! process that is killed at any moment leaves a file that goes on where the last whole exchange ended.

mod schema;

mod row;

mod store;

mod look;

mod forget;

mod list;

#[cfg(test)]
mod tests;

pub(crate) use list::{Heading, Hit};
pub(crate) use store::{Conversations, beginning};

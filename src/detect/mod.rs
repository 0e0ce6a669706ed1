//! `kloros detect`: the detectors of the loop on anybody's data.
//!
//! Hears rows: `timestamp,value` lines of one series as they come, or CSV files with a header. Says a score and a decision
//! for each row.
//! Invariants: nothing is looked at before its turn; one answer a line, whatever stands in it; a line that cannot be read is
//! a missing value, and told with its number.

mod moment;

mod row;

mod lines;

mod stream;

mod file;

pub(crate) use file::{Column, Incident, Point, Wanted, file};
pub(crate) use moment::written;
pub(crate) use stream::stream;

/// The most lines of which it is told what is wrong with them.
const COMPLAINTS_MAX: u64 = 20;

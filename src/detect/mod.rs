//! `kloros detect`: the detectors of the loop on anybody's data.
//!
//! Hears rows: `timestamp,value` lines of one series as they come, or CSV files with a header. Says a score and a decision
//! for each row.
//! Invariants: nothing is looked at before its turn; one answer a line, whatever stands in it; a line that cannot be read is
//! a missing value, and told with its number.

mod moment;

mod row;

mod stream;

pub(crate) use stream::stream;

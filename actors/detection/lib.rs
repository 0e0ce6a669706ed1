//! Detection: which rows of a series are unlike its past?
mod array;

mod series;

mod tail;

mod season;

mod places;

mod runs;

mod measures;

mod gate;

mod tuning;

mod detector;

pub use detector::{Cause, Detector, Finding, Setup};
pub use series::Kind;
pub use tuning::Tuning;

//! Detection: which rows of a series are unlike its past?
//!
//! A [`Detector`] hears one row after the other and says a [`Finding`] for each: a score, a decision, and what it is about. It
//! looks at nothing but the row and a state of fixed size, so each row takes the same time, and a detector that is written
//! out after any row and read back goes on bit for bit.
//!
//! ```
//! use kloros_detection::{Detector, Kind, Setup};
//!
//! let mut detector = Detector::new(Setup { kind: Kind::Gauge, step: Some(60.0), warmup: 200 });
//! let alarms: Vec<u32> = (0..600)
//!     .filter(|row| {
//!         let latency = 40.0 + f64::from(row * 37 % 11) + if *row >= 500 { 60.0 } else { 0.0 };
//!         detector.observe(Some(60.0 * f64::from(*row)), Some(latency)).alarm
//!     })
//!     .collect();
//! assert_eq!(alarms, [500]);
//! ```
//!
//! # What a caller can rely on
//!
//! - One event is one alarm: an alarm opens an incident, and [`Finding::open`] says when it is over.
//! - What is missing (no value, NaN, an infinity) is never a number. It changes nothing but the count of what is missing,
//!   which is an anomaly of its own, as is a series that stops moving.
//! - A counter that begins anew is no fault.
//! - No value, no moment and no order of them makes it panic, and no state grows.

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

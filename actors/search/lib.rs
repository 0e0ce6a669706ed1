//! The search: which settings to measure next, when measurements are few, noisy, and may fail?
//!
//! A [`Search`] is asked for [`Candidate`]s and told their [`Outcome`]s, smaller values being better; at any time it
//! recommends what it would set. It measures nothing, reads no clock and draws no random number that its seed does not
//! decide, so that a search that is written out after any step and read back goes on with the same candidates.
//!
//! ```
//! use kloros_search::{Kind, Options, Outcome, Param, Search, Space, SpaceSpec, Value};
//!
//! let batch_size = Param { name: "batch".into(), kind: Kind::Integer { low: 1, high: 64, log: true, step: None }, when: None };
//! let space = Space::new(SpaceSpec { params: vec![batch_size], ..SpaceSpec::default() })?;
//! let default = [("batch".to_owned(), Value::Integer(1))].into();
//! let mut search = Search::new(space, Options { budget: 12, default: Some(default), ..Options::default() });
//! loop {
//!     let candidates = search.ask(4);
//!     if candidates.is_empty() {
//!         break;
//!     }
//!     for candidate in candidates {
//!         let batch = candidate.config["batch"].number().unwrap_or(1.0);
//!         let outcome = if batch > 48.0 { Outcome::Failed } else { Outcome::Value((batch - 20.0).abs()) };
//!         search.tell(candidate.id, outcome)?;
//!     }
//! }
//! let recommended = search.recommendation().expect("the default was measured");
//! assert!(recommended.mean < 19.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a caller can rely on
//!
//! - Candidates are inside the ranges, on the steps, with consistent conditions and kept constraints and limits, and
//!   nothing forbidden. The first is the default, or the valid setting nearest to it.
//! - No setting is asked twice, unless measurements are `noisy`; then a repeat has an id of its own.
//! - The search ends: when the budget is spent, when no new setting is left, or when it asks too little to go on.
//! - A failure is never a number. It teaches where not to go.

mod space;

mod design;

mod gp;

mod transform;

mod feasibility;

mod acquisition;

mod evolve;

mod model;

mod memo;

mod warm;

mod lot;

mod recommend;

mod search;

mod importance;

mod checkpoint;

pub use importance::{Importance, Share, Unclear, importance};
pub use search::{Candidate, Earlier, Ended, Gain, Options, Outcome, Recommendation, Search, TellError};
pub use space::{Config, Constraint, Kind, Limit, Param, Space, SpaceError, SpaceSpec, Value, When};
pub use warm::trust;

//! The conversation endpoint: the `OpenAI` dialect in front of a model server, with a memory.
//!
//! Clients change their base URL and nothing else. A request is sent on as it came, with what is remembered of its conversation in
//! its system message; the answer is passed on as it comes, and kept once it is there. Invariants: the client's own messages
//! are never dropped or changed, but for what is added to the system message; when the memory is down or late, the request goes on
//! without it and that is counted; what is said reaches no log, no metric and no journal.

mod naming;

mod request;

mod upstream;

mod used;

mod exchange;

mod tap;

mod http;

mod from_here;

mod signals;

mod condense;

mod refusal;

mod alone;

mod rehearsal;

mod measure;

#[cfg(test)]
mod tests;

pub(crate) use alone::{Alone, Kept, Knobs, alone};
pub(crate) use condense::condense;
pub(crate) use http::{Endpoint, serve};
pub(crate) use measure::{Measurement, measure};
pub(crate) use naming::{LOCAL, NAME_HEADER};
#[cfg(test)]
pub(crate) use rehearsal::{STEP_MS, set, told};
pub(crate) use signals::Signals;

/// A request with this header gets, as the first event of its stream, what was put before the model and why.
pub(crate) const EXPLAIN_HEADER: &str = "x-kloros-explain";

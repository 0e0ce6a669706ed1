//! `kloros tune`: the engine of the experiments, for anybody's command and without the daemon.
//!
//! Hears a [`Plan`]: a command, the parameters that it takes from its environment, and the metric that is to become better.
//! Says a [`Report`]: what to set, or that nothing measured better, and every trial. [`serve`] speaks a line protocol with
//! another program instead, which does the trials itself.
//! Invariants: a trial is in the journal before the search hears of it, so a run that is cut off at any moment goes on with
//! the same candidates and measures none twice; a failure is never a number; without evidence there is no winner.

mod plan;

mod trial;

mod journal;

mod work;

mod verdict;

mod wire;

mod ask_tell;

pub(crate) use ask_tell::serve;
pub(crate) use journal::Journal;
pub(crate) use plan::{BUDGET_MAX, PARALLEL_MAX, Plan, outcome};
pub(crate) use trial::Trial;
pub(crate) use verdict::{Best, Conclusion, Report};
pub(crate) use work::{Step, tune};

//! Labelled series, the score of a detector on them, and simple detectors to compare with.

pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod generate;
pub(crate) mod nab;
pub(crate) mod simple;
pub(crate) mod tune;

use kloros_detection::Kind;

/// A series with what is wrong in it.
pub(crate) struct Labelled {
    /// Its family.
    pub(crate) family: &'static str,
    /// Whether values or their growth count.
    pub(crate) kind: Kind,
    /// Seconds from row to row.
    pub(crate) step: f64,
    /// Rows without faults at the beginning.
    pub(crate) warmup: u32,
    /// Seconds of the epoch and the value, of each row.
    pub(crate) rows: Vec<(f64, Option<f64>)>,
    /// What is wrong, in order.
    pub(crate) events: Vec<Event>,
    /// The load that it bears, where it is known: its surges are no fault.
    pub(crate) load: Option<Vec<f64>>,
}

/// One fault.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// What it is.
    pub(crate) what: &'static str,
    /// The first row.
    pub(crate) start: usize,
    /// The row behind the last one.
    pub(crate) end: usize,
}

/// Anything that answers rows with a score and a decision.
pub(crate) trait Rival {
    /// Returns the score from 0 to 1, and whether it raises an alarm.
    fn row(&mut self, at: f64, value: Option<f64>) -> (f64, bool);

    /// Hears the load, before the row that bears it.
    fn load(&mut self, _: f64, _: f64) {}

    /// Returns what the last row was unlike its past in, if it says.
    fn cause(&self) -> String {
        String::new()
    }
}

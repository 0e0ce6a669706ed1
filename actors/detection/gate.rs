//! From evidence to decisions: a memory that leaks, and a gate that makes one event one alarm.

use serde::{Deserialize, Serialize};

use crate::tuning::Tuning;

/// The share of an alarm's evidence below which an incident is over.
const OVER_BELOW: f32 = 0.2;

/// The memory of evidence and what was already said of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Gate {
    memory: f32,
    said: f32,
    open: bool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { memory: 0.0, said: 0.0, open: false }
    }

    /// Returns the evidence that is said now: 0 where it is no news.
    ///
    /// News is evidence that is larger by a factor than what was said of late: a small one below the alarm, a large one
    /// above, so that an event that grows is not an alarm with each row.
    #[inline]
    pub(crate) fn step(&mut self, evidence: f32, tuning: &Tuning, alarm: f32, horizon: f32) -> f32 {
        self.memory = self.memory * tuning.leak + evidence;
        self.said -= self.said * (1.0 / (tuning.habit * horizon)).min(1.0);
        let needed = if self.said >= alarm {
            self.said * tuning.again_above
        } else {
            (self.said * tuning.again_below).min(alarm)
        };
        self.open &= self.memory > OVER_BELOW * alarm;
        if self.memory < needed.max(0.05) {
            return 0.0;
        }
        self.said = self.memory;
        self.open |= self.memory >= alarm;
        self.memory
    }

    /// Returns whether what an alarm was raised for goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

//! From evidence to decisions: a memory that leaks, and a gate that makes one event one alarm.

use serde::{Deserialize, Serialize};

use crate::tuning::Tuning;

/// The most that is forgotten of what was said with a row.
const HASTE_MAX: f32 = 0.1;

/// The least evidence that is said.
const SAID_MIN: f32 = 0.05;

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

    /// Returns the evidence that is said now: 0 where it is no news. `alarm` is what an alarm needs, `a_warmup` the pace that
    /// remembers a warm-up.
    ///
    /// An alarm opens an incident, and nothing more is said until the evidence has leaked away. After that, news is
    /// evidence that is larger by a factor than what was said of late.
    #[inline]
    pub(crate) fn step(&mut self, evidence: f32, tuning: &Tuning, alarm: f32, a_warmup: f32) -> f32 {
        self.memory = self.memory * tuning.leak + evidence;
        self.said -= self.said * (a_warmup * (1.0 / (tuning.habit * tuning.horizon))).min(HASTE_MAX);
        if self.open && self.memory > tuning.over * alarm {
            // What goes on is no news, however long, and is remembered as large as it became.
            self.said = self.said.max(self.memory);
            return 0.0;
        }
        self.open = false;
        let needed = if self.said >= alarm {
            self.said * tuning.again_above
        } else {
            (self.said * tuning.again_below).min(alarm)
        };
        if self.memory < needed.max(SAID_MIN) {
            return 0.0;
        }
        self.said = self.memory;
        self.open = self.memory >= alarm;
        self.memory
    }

    /// Returns whether what an alarm was raised for goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.open
    }
}

//! Runs of the same: values that no longer move, and values that no longer come.

use serde::{Deserialize, Serialize};

/// How long things stay the same, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Runs {
    length: f32,
    longest: f32,
    share: f32,
}

impl Runs {
    pub(crate) fn new() -> Self {
        Self { length: 0.0, longest: 0.0, share: 0.0 }
    }

    /// Hears whether a row is the same as the last one, after so many `rows`, `forget` being the pace at which it forgets.
    ///
    /// Returns -log10 of the chance that a run gets as long as it is now, where it is longer than any before; 0 elsewhere.
    #[inline]
    pub(crate) fn step(&mut self, same: bool, (rows, forget): (f32, f32)) -> f32 {
        let pace = forget.max(1.0 / (rows + 2.0));
        if !same {
            if self.length > 0.0 {
                // A run that was a fault is learned by half, so that the next one is one again.
                self.longest = self.longest.max(self.length.min(1.5 * self.longest + 4.0));
                self.length = 0.0;
            }
            self.longest -= self.longest * forget * (1.0 / 30.0);
            self.share -= self.share * pace;
            return 0.0;
        }
        // What is learned in a run that is longer than any before would excuse that very run.
        let excused = self.length <= self.longest;
        self.length = (self.length + 1.0).min(1e6);
        let over = self.length - self.longest;
        let chance = (self.share + pace).clamp(0.004, 0.999);
        // What is the rule is learned from every row, what is the exception only from runs that are no news.
        if excused || self.share > 0.5 || rows * forget < 0.1 {
            self.share += (1.0 - self.share) * pace;
        }
        if over <= 0.0 || self.length < 3.0 { 0.0 } else { -over * chance.log10() }
    }
}

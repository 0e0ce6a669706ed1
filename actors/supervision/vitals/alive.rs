//! Whether an actor's task is still there.
//!
//! ractor drops the actor and its state when the task ends, in an order that depends on how it ends. Each of the two holds an
//! [`Alive`]; with the last of them goes all that the actor had, and then the word is passed on. A task that waited for
//! the actor's task would say the same, at the price of a task for every actor.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Vitals;

/// How many are there, and what is told when the last of them is gone.
#[derive(Default)]
pub(super) struct Roll {
    present: AtomicU8,
    word: Mutex<Option<Word>>,
}

type Word = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Roll {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Roll").field("present", &self.present).finish_non_exhaustive()
    }
}

/// Held by what ends with an actor's task.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Vitals>);

impl Alive {
    pub(crate) fn of(vitals: &Arc<Vitals>) -> Self {
        vitals.roll.present.fetch_add(1, Ordering::AcqRel);
        Alive(Arc::clone(vitals))
    }

    /// Returns the vital signs of the one who is there.
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.0
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut kept = self.0.roll.word();
        if self.0.roll.present.fetch_sub(1, Ordering::AcqRel) == 1 {
            let word = kept.take();
            drop(kept);
            if let Some(word) = word {
                word();
            }
        }
    }
}

impl Roll {
    fn word(&self) -> MutexGuard<'_, Option<Word>> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes `word` on when all who were ever there are gone; at once if they are gone already.
    pub(super) fn when_over(&self, word: impl FnOnce() + Send + 'static) {
        let mut kept = self.word();
        if self.present.load(Ordering::Acquire) > 0 {
            *kept = Some(Box::new(word));
        } else {
            drop(kept);
            word();
        }
    }
}

//! State that a room hands over to its next incarnation.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::vitals;

/// The last state that a room has committed, kept outside of the room so that it survives a restart.
///
/// It lives in memory: what must survive the process belongs in a journal.
#[derive(Debug)]
pub struct Checkpoint<S> {
    committed: Arc<Mutex<Option<S>>>,
}

impl<S: Clone> Checkpoint<S> {
    /// Returns a checkpoint that holds nothing yet.
    pub fn new() -> Self {
        Checkpoint { committed: Arc::default() }
    }

    /// Replaces what was committed before.
    pub fn commit(&self, state: S) {
        *self.slot() = Some(state);
    }

    /// Returns the last committed state if there is one and `check` finds it sound; for use in `pre_start`.
    ///
    /// A state that is not sound, or that `check` panics over, is thrown away and reported as
    /// [`StartedAfresh`](crate::EventKind::StartedAfresh): the room begins anew instead of failing at each start.
    pub fn resume(&self, check: impl FnOnce(&S) -> Result<(), String>) -> Option<S> {
        let state = self.slot().clone()?;
        let checked = panic::catch_unwind(AssertUnwindSafe(|| check(&state)));
        match checked.unwrap_or_else(|payload| Err(vitals::panic_text(payload.as_ref()))) {
            Ok(()) => Some(state),
            Err(reason) => {
                *self.slot() = None;
                vitals::here(|vitals| vitals.note(|notes| notes.afresh = Some(reason)));
                None
            }
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<S>> {
        self.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Clone> Default for Checkpoint<S> {
    fn default() -> Self {
        Checkpoint::new()
    }
}

impl<S> Clone for Checkpoint<S> {
    fn clone(&self) -> Self {
        Checkpoint { committed: Arc::clone(&self.committed) }
    }
}

//! What a search has worked out from what it knows, so that it is not worked out again.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use crate::model::Model;

/// Surrogates that follow from the rest of a search. They are neither written out nor compared: fitted again they are the same.
#[derive(Clone, Default)]
pub(crate) struct Memo {
    earlier: OnceLock<Option<Arc<Model>>>,
    known: OnceLock<Option<Arc<Model>>>,
}

impl Memo {
    /// Returns what the earlier searches say by themselves.
    pub(crate) fn of_earlier(&self, fit: impl FnOnce() -> Option<Model>) -> Option<&Model> {
        self.earlier.get_or_init(|| fit().map(Arc::new)).as_deref()
    }

    /// Returns what everything says that is known.
    pub(crate) fn of_known(&self, fit: impl FnOnce() -> Option<Model>) -> Option<&Model> {
        self.known.get_or_init(|| fit().map(Arc::new)).as_deref()
    }

    /// Forgets what no longer follows after another outcome.
    pub(crate) fn told(&mut self) {
        self.known = OnceLock::new();
    }
}

impl PartialEq for Memo {
    fn eq(&self, _: &Memo) -> bool {
        true
    }
}

impl fmt::Debug for Memo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Memo").finish_non_exhaustive()
    }
}

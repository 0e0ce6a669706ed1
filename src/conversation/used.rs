use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::HeaderValue;

/// Of how many owners it is remembered.
const OWNERS_MAX: usize = 256;

/// With what somebody was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used {
    /// The model.
    pub(super) model: String,
    /// The client key, as it was sent.
    pub(super) key: Option<HeaderValue>,
}

/// With what each owner of conversations was answered last: what else is asked about these is asked with the same, since another
/// model may have to be loaded first, and another key is somebody else's. It is in memory alone.
#[derive(Clone, Debug, Default)]
pub(super) struct AllUsed {
    by_owner: Arc<Mutex<BTreeMap<String, Used>>>,
}

impl AllUsed {
    /// Notes that `owner` was answered so.
    pub(super) fn note(&self, owner: &str, used: Used) {
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        if by_owner.len() >= OWNERS_MAX && !by_owner.contains_key(owner) {
            // Any of them: whoever is forgotten is known again with the next answer.
            by_owner.pop_first();
        }
        by_owner.insert(owner.to_owned(), used);
    }

    /// Returns with what `owner` was answered last.
    pub(super) fn of(&self, owner: &str) -> Option<Used> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner).get(owner).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_and_only_so_many_are_remembered() {
        let all = AllUsed::default();
        for number in 0..=OWNERS_MAX {
            all.note(&format!("{number:04}"), Used { model: "old".to_owned(), key: None });
        }
        let new = Used { model: "new".to_owned(), key: Some(HeaderValue::from_static("Bearer x")) };
        all.note("0256", new.clone());
        assert_eq!((all.of("0256"), all.of("0000")), (Some(new), None));
        assert_eq!(all.by_owner.lock().unwrap().len(), OWNERS_MAX);
    }
}

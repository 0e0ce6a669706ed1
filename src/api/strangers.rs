//! Those who asked on the control socket and may not: turned away, and written down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kloros_actors::{
    facts::{CycleId, Entry, Fact, Refused},
    seams::{Clock as _, Journal},
};

use crate::clock::SystemClock;

/// Those who asked on the socket and may not.
#[derive(Clone)]
pub(super) struct Strangers {
    journal: Arc<dyn Journal>,
    /// When each was written down last.
    told: Arc<Mutex<BTreeMap<Option<u32>, Instant>>>,
}

/// How often one stranger is written down at most: who asks without end does not fill the journal.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// How much of what a stranger asked for is written down, in characters.
const ASKED_MAX: usize = 200;

impl Strangers {
    /// Returns those who are written down in `journal`; none so far.
    pub(super) fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal, told: Arc::default() }
    }

    /// Writes down that somebody was turned away.
    pub(super) async fn note(&self, uid: Option<u32>, path: &str) {
        let is_new = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = told.get(&uid).is_none_or(|at| at.elapsed() >= TOLD_EVERY);
            if is_new {
                told.insert(uid, Instant::now());
            }
            is_new
        };
        if !is_new {
            return;
        }
        let path: String = path.chars().take(ASKED_MAX).collect();
        let why = "only the daemon's user and root may ask".to_owned();
        let what = format!("{} on the control socket", path.escape_debug());
        let refused = Fact::Refused(Refused { what, by_uid: uid, why });
        let entry = Entry::new(&CycleId::new("c-operator"), SystemClock.now_ms(), refused);
        if let Err(error) = self.journal.append(vec![entry]).await {
            tracing::warn!(%error, "a stranger on the control socket cannot be written down");
        }
    }
}

#[cfg(test)]
mod tests {
    use kloros_actors::{facts::Kind, seams::Query};

    use super::*;
    use crate::{home::Home, journal};

    /// Fault 95.
    #[tokio::test]
    async fn a_stranger_on_the_socket_is_written_down_and_not_more_than_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let store = journal::open(&Home::at(folder.path()).unwrap()).unwrap();
        let strangers = Strangers::new(Arc::new(store.clone()));
        for uid in [Some(7), Some(7), Some(8), None, Some(7)] {
            strangers.note(uid, "/v1/stop\n").await;
        }
        let facts = store.read(Query::kinds(&[Kind::Refused])).await.unwrap();
        let told = facts.into_iter().map(|each| match each.fact {
            Fact::Refused(refused) => (refused.by_uid, refused.what),
            other => panic!("{other:?}"),
        });
        let what = || "/v1/stop\\n on the control socket".to_owned();
        assert_eq!(told.collect::<Vec<_>>(), [(Some(7), what()), (Some(8), what()), (None, what())]);
    }
}

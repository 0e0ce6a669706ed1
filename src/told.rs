//! Up to which fact somebody outside was told, kept over restarts of the room and of the daemon.

use std::sync::atomic::{AtomicU64, Ordering};

use kloros_actors::seams::Notes as _;

use crate::{home::Home, notes::NoteFiles};

/// After how many facts that nobody is told of the note is written anew; so many are looked at again after a restart at most.
const NOTED_EVERY: u64 = 500;

/// Up to which fact somebody was told.
pub(crate) struct Told {
    notes: NoteFiles,
    /// The name of the note.
    name: &'static str,
    seq: AtomicU64,
    noted: AtomicU64,
}

impl Told {
    /// Returns up to where a daemon before this one told, by the note `name` that it left; where there is none, or one that does not go
    /// with this journal, whose newest fact is `newest`, from after the fact `otherwise` on. Where nobody `is_told`, nothing is made up for
    /// later.
    pub(crate) async fn open(home: &Home, name: &'static str, is_told: bool, (newest, otherwise): (u64, u64)) -> Self {
        let notes = NoteFiles::of(home);
        let kept = notes.kept(name).await.unwrap_or_else(|error| {
            tracing::warn!(name, %error, "what was told last is not known");
            None
        });
        if !is_told && kept.as_ref().is_some_and(|bytes| !bytes.is_empty()) {
            notes.keep(name, Vec::new()).await.ok();
        }
        let text = kept.filter(|_| is_told).and_then(|bytes| String::from_utf8(bytes).ok());
        let seq = text.and_then(|text| text.trim().parse().ok()).filter(|seq| *seq <= newest).unwrap_or(otherwise);
        let told = Self { notes, name, seq: AtomicU64::new(seq), noted: AtomicU64::new(seq) };
        if is_told {
            told.note(seq).await;
        }
        told
    }

    /// Returns the number of the last fact that needs no telling any more.
    pub(crate) fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    /// Takes note that what the fact `seq` tells was sent or given up.
    pub(crate) async fn told(&self, seq: u64) {
        self.seq.store(seq, Ordering::SeqCst);
        self.note(seq).await;
    }

    /// Takes note that nothing is to be told up to the fact `seq`.
    pub(crate) async fn passed(&self, seq: u64) {
        self.seq.store(seq, Ordering::SeqCst);
        if seq >= self.noted.load(Ordering::SeqCst).saturating_add(NOTED_EVERY) {
            self.note(seq).await;
        }
    }

    async fn note(&self, seq: u64) {
        match self.notes.keep(self.name, seq.to_string().into_bytes()).await {
            Ok(()) => self.noted.store(seq, Ordering::SeqCst),
            Err(error) => tracing::warn!(name = self.name, %error, "a restart may tell something again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_goes_on_after_what_was_told_last_and_trusts_no_note_that_it_cannot_have_written() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        assert_eq!(Told::open(&home, "notices", true, (7, 7)).await.seq(), 7);
        // That is noted, so that what happens from now on is told by whoever starts next.
        assert_eq!(Told::open(&home, "notices", true, (40, 40)).await.seq(), 7);
        let told = Told::open(&home, "notices", true, (40, 40)).await;
        told.told(20).await;
        told.passed(21).await;
        assert_eq!((told.seq(), Told::open(&home, "notices", true, (40, 40)).await.seq()), (21, 20));
        told.passed(20 + NOTED_EVERY).await;
        assert_eq!(Told::open(&home, "notices", true, (9_000, 9_000)).await.seq(), 20 + NOTED_EVERY);
        // A journal that is shorter is another one.
        assert_eq!(Told::open(&home, "notices", true, (3, 3)).await.seq(), 3);
        for text in ["", "-1", "1e3", "99999999999999999999999", "\u{fc}"] {
            NoteFiles::of(&home).keep("notices", text.into()).await.unwrap();
            assert_eq!(Told::open(&home, "notices", true, (11, 11)).await.seq(), 11, "{text:?}");
        }
    }

    #[tokio::test]
    async fn what_happened_while_nobody_was_to_be_told_is_not_made_up_for() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        assert_eq!(Told::open(&home, "notices", true, (7, 7)).await.seq(), 7);
        assert_eq!(Told::open(&home, "notices", false, (40, 40)).await.seq(), 40);
        assert_eq!(Told::open(&home, "notices", true, (60, 60)).await.seq(), 60);
    }
}

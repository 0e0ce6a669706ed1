//! How many messages wait for an actor: what its senders have counted, less what it has counted itself.
//!
//! Two counters, each with its own writers, because one that both sides wrote would go from core to core with every message.
//! Each side also remembers what it last saw of the other one, and looks again only when that does not tell enough.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Set in what was sent when nothing more is counted.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// What was sent; senders write it.
#[derive(Debug, Default)]
pub(super) struct Queued {
    sent: AtomicUsize,
    taken_as_seen: AtomicUsize,
}

/// What was taken out; only the actor's own task writes it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    taken: AtomicUsize,
    sent_as_seen: AtomicUsize,
}

impl Queued {
    /// Counts one more, unless so many wait already.
    #[inline]
    pub(super) fn one_more(&self, limit: usize, out: &Taken) -> bool {
        let below_limit = |sent: usize| {
            let is_below = |taken: usize| sent.saturating_sub(taken) < limit;
            is_below(self.taken_as_seen.load(Ordering::Relaxed)) || {
                // Sequentially consistent, together with how it is written: a sender that is refused here has said before
                // that it waits, and is woken by whoever takes the next message out.
                let taken = out.taken.load(Ordering::SeqCst);
                self.taken_as_seen.store(taken, Ordering::Relaxed);
                is_below(taken)
            }
        };
        let more = |sent: usize| (sent & CLOSED == 0 && below_limit(sent)).then_some(sent + 1);
        self.sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Counts one less, unless nothing is counted any more.
    pub(super) fn one_less(&self) -> bool {
        let less = |sent: usize| (sent & CLOSED == 0).then(|| sent.saturating_sub(1));
        self.sent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Counts nothing any more, and returns how many wait.
    pub(super) fn close(&self, out: &Taken) -> usize {
        let sent = self.sent.fetch_or(CLOSED, Ordering::Relaxed) & !CLOSED;
        sent.saturating_sub(out.taken.load(Ordering::Relaxed))
    }

    pub(super) fn beyond(&self, out: &Taken) -> usize {
        let taken = out.taken.load(Ordering::Relaxed);
        self.so_far().saturating_sub(taken)
    }

    fn so_far(&self) -> usize {
        self.sent.load(Ordering::Relaxed) & !CLOSED
    }
}

impl Taken {
    /// Returns whether nothing waits.
    #[inline]
    pub(super) fn all_of(&self, sent: &Queued) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        taken >= self.sent_as_seen.load(Ordering::Relaxed) && {
            let sent = sent.so_far();
            self.sent_as_seen.store(sent, Ordering::Relaxed);
            taken >= sent
        }
    }

    /// Counts one more, unless nothing waits: a message that an actor sent to itself was never counted.
    #[inline]
    pub(super) fn one_more(&self, sent: &Queued) {
        if !self.all_of(sent) {
            self.taken.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_taken_as_the_limit_says_and_one_more_for_each_that_left() {
        let (queued, taken) = (Queued::default(), Taken::default());
        let sent: Vec<bool> = (0..4).map(|_| queued.one_more(3, &taken)).collect();
        assert_eq!(sent, [true, true, true, false]);
        taken.one_more(&queued);
        assert_eq!((queued.one_more(3, &taken), queued.one_more(3, &taken)), (true, false));
        assert_eq!(queued.beyond(&taken), 3);
    }

    #[test]
    fn what_was_never_counted_in_is_not_counted_out() {
        let (queued, taken) = (Queued::default(), Taken::default());
        taken.one_more(&queued);
        assert!(queued.one_more(1, &taken));
        taken.one_more(&queued);
        taken.one_more(&queued);
        assert_eq!((queued.beyond(&taken), queued.one_more(1, &taken), queued.one_more(1, &taken)), (0, true, false));
    }

    #[test]
    fn what_was_taken_back_leaves_its_room_to_another() {
        let (queued, taken) = (Queued::default(), Taken::default());
        assert!(queued.one_more(1, &taken));
        queued.one_less();
        assert!(queued.one_more(1, &taken));
        assert!(!queued.one_more(1, &taken) && !queued.one_more(0, &taken));
    }

    #[test]
    fn what_is_counted_when_the_count_is_closed_stays_counted() {
        let (queued, taken) = (Queued::default(), Taken::default());
        assert!(queued.one_more(9, &taken) && queued.one_more(9, &taken));
        taken.one_more(&queued);
        assert_eq!((queued.close(&taken), queued.one_less(), queued.one_more(9, &taken)), (1, false, false));
        assert_eq!(queued.beyond(&taken), 1);
    }
}

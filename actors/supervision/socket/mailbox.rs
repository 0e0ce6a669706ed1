//! What holds for the messages that wait for one actor: how many, what happens to the next one, and which are not taken again.

use std::collections::HashMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ractor::Message;

use super::Socket;
use crate::vitals::Vitals;

/// How many messages may wait for one actor, unless its socket says otherwise.
pub const IN_FLIGHT_MAX_DEFAULT: usize = 10_000;

/// What holds for the messages that wait for one actor.
pub struct Mailbox<M> {
    /// How many may wait.
    pub in_flight_max: usize,
    /// What happens to the next one.
    pub when_full: WhenFull,
    /// What stands for a message in reports and snapshots; without it, the name of the message's type does.
    pub name: Option<fn(&M) -> &'static str>,
    /// Which messages are not taken again; without it, all are.
    pub poison: Option<Poison<M>>,
}

/// What happens to a message that is sent when too many wait already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused with [`Down::Full`](crate::Down::Full).
    #[default]
    Refuse,
    /// It takes the place of the one that was sent before it in vain, and is handed over as soon as there is room, if need be
    /// to the next generation: for messages of which only the newest counts, whoever sends it, for all outlets share the one
    /// place. A question is refused as ever. Where no next generation comes, the message is told as [lost](crate::EventKind::Lost).
    Coalesce,
}

/// When a message is no longer taken, because generations die of it.
pub struct Poison<M> {
    /// Returns which messages count as the same; nothing for those that are always taken.
    pub identity: fn(&M) -> Option<u64>,
    /// How many generations may die of the same one.
    pub kills_max: u32,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        Mailbox { in_flight_max: IN_FLIGHT_MAX_DEFAULT, when_full: WhenFull::default(), name: None, poison: None }
    }
}

impl<M> fmt::Debug for Mailbox<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = formatter.debug_struct("Mailbox");
        parts.field("in_flight_max", &self.in_flight_max).field("when_full", &self.when_full).finish_non_exhaustive()
    }
}

impl<M> fmt::Debug for Poison<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Poison").field("kills_max", &self.kills_max).finish_non_exhaustive()
    }
}

/// The newest message that found the mailbox full.
pub(super) struct Newest<M>(Mutex<Option<M>>);

impl<M> Newest<M> {
    /// Returns the message, locked so that no other one overtakes it on its way.
    pub(super) fn lock(&self) -> MutexGuard<'_, Option<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> Default for Newest<M> {
    fn default() -> Self {
        Newest(Mutex::new(None))
    }
}

impl<M> Socket<M> {
    /// Drops the message that is kept for a next generation, because there will be none, and returns whether there was one.
    pub(crate) fn give_up_newest(&self) -> bool {
        let Some(kept) = self.inner.newest.as_ref().and_then(|newest| newest.lock().take()) else { return false };
        // It is dropped by a supervisor, which is not to fall over what goes with it.
        if panic::catch_unwind(AssertUnwindSafe(|| drop(kept))).is_err() {
            tracing::error!(room = self.id(), "a message that was given up panicked while it was dropped");
        }
        true
    }
}

/// Which messages have killed how many generations.
pub(super) struct Quarantine<M> {
    poison: Poison<M>,
    kills: Mutex<HashMap<u64, u32>>,
}

impl<M> Quarantine<M> {
    pub(super) fn new(poison: Poison<M>) -> Self {
        Quarantine { poison, kills: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, u32>> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn identify(&self, message: &M) -> Option<u64> {
        (self.poison.identity)(message)
    }

    /// Returns how many generations died of `message`, if those are too many.
    pub(super) fn kills(&self, message: &M) -> Option<u32> {
        let id = self.identify(message)?;
        self.all().get(&id).copied().filter(|kills| *kills >= self.poison.kills_max)
    }

    pub(super) fn blame(&self, id: u64) {
        let mut all = self.all();
        if all.len() >= SUSPECTS_MAX && !all.contains_key(&id) {
            let least = all.iter().min_by_key(|(_, kills)| **kills).map(|(id, _)| *id);
            least.and_then(|id| all.remove(&id));
        }
        let kills = all.entry(id).or_default();
        *kills = kills.saturating_add(1);
    }

    pub(super) fn release(&self, id: u64) {
        self.all().remove(&id);
    }
}

/// How many messages are remembered that have killed; of more, those that killed least are forgotten.
const SUSPECTS_MAX: usize = 1024;

/// Blames the message that is being handled for the death of its actor, unless it is cleared.
pub(crate) struct Suspicion<M: Message> {
    socket: Socket<M>,
    vitals: Arc<Vitals>,
    id: u64,
    cleared: bool,
}

impl<M: Message> Suspicion<M> {
    pub(super) fn new(socket: Socket<M>, vitals: Arc<Vitals>, id: u64) -> Self {
        Suspicion { socket, vitals, id, cleared: false }
    }

    /// The message was handled, so that earlier deaths are not its fault.
    pub(crate) fn clear(&mut self) {
        self.cleared = true;
        self.socket.release(self.id);
    }
}

impl<M: Message> Drop for Suspicion<M> {
    fn drop(&mut self) {
        // Who is taken down with its siblings while it handles a message does not die of the message.
        let is_own_end = self.vitals.exit().is_some() || !self.vitals.is_retired();
        if !self.cleared && is_own_end {
            self.socket.blame(self.id);
        }
    }
}

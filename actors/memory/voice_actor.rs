use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kloros_supervision::Socket;

use super::{
    Config, Msg, TEXT_CHARS_MAX,
    context::Chosen,
    episodes::beginning,
    repetition::{Repeated, repeated},
};
use crate::facts::{Event, Forgetting, Said, Talk};

/// What a context is wanted for.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The conversation.
    pub talk: Talk,
    /// What is asked.
    pub asked: String,
    /// What the client says anyway.
    pub given: Vec<String>,
}

impl std::fmt::Debug for Wanted {
    /// Says how much it is and not what: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Wanted({} bytes, {} given)", self.asked.len(), self.given.len())
    }
}

/// What is remembered of a conversation.
#[derive(Clone, Default, PartialEq)]
pub struct Remembered {
    /// What is put before the model again, in the order of time.
    pub context: Vec<Chosen>,
    /// What the conversation is about, heaviest first.
    pub topics: Vec<String>,
    /// What was said before, in short.
    pub summary: Option<String>,
    /// The newest answers with which another one is compared, oldest first.
    pub answers: Vec<String>,
    /// What was said since the last answer, and what the model was told to be, oldest first: it need not be kept again.
    pub known: Vec<Event>,
    /// Whether anything that has to do with what is asked was found beyond the newest events.
    pub is_hit: bool,
    /// The settings with which it was recalled.
    pub config: Config,
}

impl std::fmt::Debug for Remembered {
    /// Says how much it is and not what: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Remembered({} in the context, {} known)", self.context.len(), self.known.len())
    }
}

impl Remembered {
    /// Returns which of the newest answers this one is like, if it says again what was said.
    pub fn repeated(&self, answer: &str) -> Option<Repeated> {
        // As much of it as was looked at of the others: what only one of them has would speak against it.
        repeated(beginning(answer, TEXT_CHARS_MAX), &self.answers, &self.config)
    }
}

/// Why nothing is remembered: the room or its archive is down or late. A conversation goes on without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory did not answer: {0}")]
pub struct Silent(pub String);

/// How many bytes of what was said wait to be kept at most: beyond that it is not kept, and that is told.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// The bytes of what waits to be kept. They count until it is kept, or lost.
#[derive(Debug)]
pub struct Weight {
    bytes: usize,
    waiting: Arc<AtomicUsize>,
}

impl Weight {
    /// Counts so many bytes among those that are `waiting`; `None` where they would be too many.
    fn of(bytes: usize, waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let before = waiting.fetch_add(bytes, Ordering::Relaxed);
        let weight = Self { bytes, waiting: Arc::clone(waiting) };
        (before + bytes <= WAITING_BYTES_MAX).then_some(weight)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The way to the memory for whoever holds conversations; clones count together what waits to be kept.
#[derive(Clone)]
pub struct Voice {
    socket: Socket<Msg>,
    waiting: Arc<AtomicUsize>,
}

impl Voice {
    /// Returns the way to whatever memory is plugged into `socket`.
    pub fn new(socket: Socket<Msg>) -> Self {
        Self { socket, waiting: Arc::default() }
    }

    /// Hands over what was said in a conversation; what is asked for later sees it.
    pub fn say(&self, talk: &Talk, said: Vec<Said>) -> Result<(), Silent> {
        let bytes = said.iter().map(|said| said.text.len()).sum();
        let full = || Silent(format!("more than {WAITING_BYTES_MAX} bytes wait to be kept already"));
        let weight = Weight::of(bytes, &self.waiting).ok_or_else(full)?;
        self.socket.send(Msg::Said(talk.clone(), said, weight)).map_err(|down| Silent(down.to_string()))
    }

    /// Forgets, also what was handed over before, and returns how many events that were; `None` where there is no such conversation.
    pub async fn forget(&self, what: Forgetting, within: Duration) -> Result<Option<u64>, Silent> {
        let answer = self.socket.call(|reply| Msg::Forget(what, reply), within).await;
        answer.map_err(|error| Silent(error.to_string()))?.map_err(|error| Silent(error.to_string()))
    }

    /// Returns what is remembered, within `within`.
    pub async fn remember(&self, wanted: Wanted, within: Duration) -> Result<Remembered, Silent> {
        let answer = self.socket.call(|reply| Msg::Wanted(wanted, reply), within).await;
        answer.map_err(|error| Silent(error.to_string()))?.map_err(|error| Silent(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_to_be_kept_has_an_end_in_bytes_and_leaves_room_when_it_is_kept() {
        let waiting = Arc::default();
        let first = Weight::of(WAITING_BYTES_MAX - 10, &waiting).unwrap();
        assert!(Weight::of(11, &waiting).is_none());
        let second = Weight::of(10, &waiting).unwrap();
        drop((first, second));
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
    }
}

use std::time::Duration;

use kloros_supervision::Socket;

use super::{
    Config, Msg,
    context::Chosen,
    repetition::{Repeated, repeated},
};
use crate::facts::{Event, Said, Talk};

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
    /// The newest answers, oldest first.
    pub answers: Vec<String>,
    /// The newest events, oldest first, as far as they were looked at.
    pub newest: Vec<Event>,
    /// Whether anything that has to do with what is asked was found beyond the newest events.
    pub is_hit: bool,
    /// The settings with which it was recalled.
    pub config: Config,
}

impl std::fmt::Debug for Remembered {
    /// Says how much it is and not what: what people say is in no log.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Remembered({} in the context, {} newest)", self.context.len(), self.newest.len())
    }
}

impl Remembered {
    /// Returns which of the newest answers this one is like, if it says again what was said.
    pub fn repeated(&self, answer: &str) -> Option<Repeated> {
        repeated(answer, &self.answers, &self.config)
    }
}

/// Why nothing is remembered: the room or its archive is down or late. A conversation goes on without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory did not answer: {0}")]
pub struct Silent(pub String);

/// The way to the memory for whoever holds conversations.
#[derive(Clone)]
pub struct Voice {
    socket: Socket<Msg>,
}

impl Voice {
    /// Returns the way to whatever memory is plugged into `socket`.
    pub fn new(socket: Socket<Msg>) -> Self {
        Self { socket }
    }

    /// Hands over what was said in a conversation; what is asked for later sees it.
    pub fn say(&self, talk: &Talk, said: Vec<Said>) -> Result<(), Silent> {
        self.socket.send(Msg::Said(talk.clone(), said)).map_err(|down| Silent(down.to_string()))
    }

    /// Returns what is remembered, within `within`.
    pub async fn remember(&self, wanted: Wanted, within: Duration) -> Result<Remembered, Silent> {
        let answer = self.socket.call(|reply| Msg::Wanted(wanted, reply), within).await;
        answer.map_err(|error| Silent(error.to_string()))?.map_err(|error| Silent(error.to_string()))
    }
}

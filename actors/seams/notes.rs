use async_trait::async_trait;

/// Where a room keeps what it could learn again: to lose it costs time, never truth.
#[async_trait]
pub trait Notes: Send + Sync {
    /// Replaces the note of this name, whole or not at all. It need not be durable.
    async fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<(), NoteError>;
    /// Returns the note of this name, if there is one.
    async fn kept(&self, name: &str) -> Result<Option<Vec<u8>>, NoteError>;
    /// Puts aside the note of this name, which cannot be used.
    async fn discard(&self, name: &str);
}

/// Why a note was not written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoteError(pub String);

use std::time::Duration;

use async_trait::async_trait;

use crate::facts::{Episode, Event, Forgetting, OpenEpisode, Said, Talk};

/// Where conversations are kept. It stands apart from the journal: what people say can be forgotten, a fact cannot.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Keeps what was said in `talk`, in this order, and ends the open episode with `closing` before it; all or none. It is
    /// there for every look that begins afterwards. An episode of what was forgotten meanwhile is not kept.
    async fn keep(&self, talk: &Talk, said: Vec<Said>, closing: Option<Episode>) -> Result<(), ArchiveError>;

    /// Returns what of a conversation may matter for the next answer.
    async fn look(&self, look: Look) -> Result<Looked, ArchiveError>;

    /// Returns what of the conversation is in no episode yet.
    async fn open(&self, talk: &Talk) -> Result<OpenEpisode, ArchiveError>;

    /// Returns the events of the conversation after the place `after`, oldest first, at most `limit`; of a long one the beginning.
    async fn since(&self, talk: &Talk, after: u64, limit: usize) -> Result<Vec<Event>, ArchiveError>;

    /// Returns conversations whose open episode has had no event since `before_ms`, at most `limit`.
    async fn idle(&self, before_ms: u64, limit: usize) -> Result<Vec<Talk>, ArchiveError>;

    /// Forgets what was said before `before_ms`, at most `limit` events, and returns how many events that were.
    async fn prune(&self, before_ms: u64, limit: usize) -> Result<u64, ArchiveError>;

    /// Forgets all of it and returns how many events that were; `None` where there is no such conversation.
    async fn forget(&self, what: &Forgetting) -> Result<Option<u64>, ArchiveError>;

    /// Makes sure that nothing of what was forgotten or pruned is left anywhere, also of an earlier time that failed before that. It
    /// tries once at least, and again `within` so long while somebody else reads; does nothing where nothing is left.
    async fn rub_out(&self, within: Duration) -> Result<(), ArchiveError>;
}

/// What is wanted of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// The conversation.
    pub talk: Talk,
    /// Words that what matters has in common with the question, as they are indexed.
    pub words: Vec<String>,
    /// Nothing older than this, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// So many of the newest events at most.
    pub newest_max: usize,
    /// So many events for each word at most.
    pub matching_max: usize,
    /// Of each event so many characters at most, from its beginning.
    pub text_chars_max: usize,
    /// So many bytes at most of the newest, and as many of those with a word, newer ones before older ones; the newest always.
    pub bytes_max: usize,
    /// Whether other conversations of the same owner are looked through, too.
    pub others: bool,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Looked {
    /// The newest events of the conversation, oldest first.
    pub newest: Vec<Event>,
    /// Events that have a word in common with the question, oldest first.
    pub matching: Vec<Event>,
    /// How many events there are to choose from.
    pub count: u64,
    /// What the last episodes were about that are over and not older than wanted, the latest first.
    pub episodes: Vec<Episode>,
}

/// Why conversations could not be kept or looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be written or read, the disk is full, or somebody else reads what is to be rubbed out.
    #[error("conversations cannot be kept: {0}")]
    Unusable(String),
    /// What lies there is no archive of conversations, or a damaged one.
    #[error("the conversations are damaged: {0}")]
    Damaged(String),
}

/// An archive that could not be opened: it says why, and keeps nothing.
#[derive(Clone, Debug)]
pub struct NoArchive(pub ArchiveError);

#[async_trait]
impl Archive for NoArchive {
    async fn keep(&self, _: &Talk, _: Vec<Said>, _: Option<Episode>) -> Result<(), ArchiveError> {
        Err(self.0.clone())
    }

    async fn look(&self, _: Look) -> Result<Looked, ArchiveError> {
        Err(self.0.clone())
    }

    async fn open(&self, _: &Talk) -> Result<OpenEpisode, ArchiveError> {
        Err(self.0.clone())
    }

    async fn since(&self, _: &Talk, _: u64, _: usize) -> Result<Vec<Event>, ArchiveError> {
        Err(self.0.clone())
    }

    async fn idle(&self, _: u64, _: usize) -> Result<Vec<Talk>, ArchiveError> {
        Err(self.0.clone())
    }

    async fn prune(&self, _: u64, _: usize) -> Result<u64, ArchiveError> {
        Err(self.0.clone())
    }

    async fn forget(&self, _: &Forgetting) -> Result<Option<u64>, ArchiveError> {
        Err(self.0.clone())
    }

    async fn rub_out(&self, _: Duration) -> Result<(), ArchiveError> {
        Err(self.0.clone())
    }
}

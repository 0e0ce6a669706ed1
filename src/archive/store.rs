use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kloros_actors::{
    facts::{Episode, Event, Forgetting, OpenEpisode, Role, Said, Talk},
    memory::words::tokens,
    seams::{Archive, ArchiveError, Look, Looked},
};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::{
    look,
    row::{event, id_of, indexed, number, signed, tag},
    schema::{self, fault},
};

/// How many looks go on at the same time.
const READERS: usize = 4;

/// The longest text that is kept of an event, in bytes; the rest is cut off.
const TEXT_BYTES_MAX: usize = 256 * 1024;

/// How much of an event an episode is condensed from, in characters.
const EPISODE_CHARS_MAX: i64 = 4000;

/// The conversations of a home. Clones share their connections.
#[derive(Clone)]
pub(crate) struct Conversations {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Vec<Mutex<Connection>>,
    /// Whose turn it is among the readers.
    turn: AtomicUsize,
    /// Whether the log may hold what was forgotten.
    pub(super) is_log_dirty: AtomicBool,
}

impl Conversations {
    /// Opens the file at `path`, creating it if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, ArchiveError> {
        // Whoever was killed may have forgotten something, and not have emptied the log.
        let is_log_dirty = AtomicBool::new(schema::has_log(path));
        let writer = Mutex::new(schema::open_writer(path)?);
        let readers = (0..READERS).map(|_| schema::open_reader(path).map(Mutex::new)).collect::<Result<_, _>>()?;
        let inner = Inner { path: path.to_owned(), writer, readers, turn: AtomicUsize::new(0), is_log_dirty };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Does `work` with the one connection that writes, on a thread that may wait.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let mut connection = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection).map_err(|error| fault(&inner.path, &error))
        });
        done.await.unwrap_or_else(|error| Err(ArchiveError::Unusable(error.to_string())))
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let turn = inner.turn.fetch_add(1, Ordering::Relaxed) % READERS;
            // Whoever is free, else the one whose turn it is.
            let free = (0..READERS).find_map(|step| inner.readers[(turn + step) % READERS].try_lock().ok());
            let connection = free.unwrap_or_else(|| inner.readers[turn].lock().unwrap_or_else(PoisonError::into_inner));
            work(&connection).map_err(|error| fault(&inner.path, &error))
        });
        done.await.unwrap_or_else(|error| Err(ArchiveError::Unusable(error.to_string())))
    }

    /// Returns the episodes that only their own sentences tell of yet, the oldest first, at most `limit`, each with whose it is.
    pub(crate) async fn uncondensed(&self, limit: usize) -> Result<Vec<(i64, String)>, ArchiveError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT episodes.id, owner FROM summaries JOIN episodes ON episodes.id = summaries.episode \
                 JOIN conversations ON conversations.id = conversation WHERE by_upstream = 0 ORDER BY episode LIMIT ?1",
            )?;
            select.query_map([signed(limit as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// Returns the last events of an episode, oldest first, at most `limit`, of each so many characters from its beginning.
    pub(crate) async fn episode(&self, id: i64, limit: usize, chars_max: usize) -> Result<Vec<Event>, ArchiveError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT events.id, role, substr(text, 1, ?3), at_ms FROM episodes \
                 JOIN events ON events.conversation = episodes.conversation AND events.id > after_event AND events.id <= through \
                 WHERE episodes.id = ?1 ORDER BY events.id DESC LIMIT ?2",
            )?;
            let events = select.query_map(params![id, signed(limit as u64), signed(chars_max as u64)], event)?;
            let mut events = events.collect::<rusqlite::Result<Vec<Event>>>()?;
            events.reverse();
            Ok(events)
        })
        .await
    }

    /// Replaces the summary of an episode by what the upstream made of it; `None` where it made nothing, so that it is not asked
    /// again.
    pub(crate) async fn condense(&self, episode: i64, summary: Option<String>) -> Result<(), ArchiveError> {
        self.write(move |connection| {
            let update = "UPDATE summaries SET text = coalesce(?2, text), by_upstream = 1 WHERE episode = ?1";
            connection.execute(update, params![episode, summary]).map(drop)
        })
        .await
    }
}

#[async_trait]
impl Archive for Conversations {
    async fn keep(&self, talk: &Talk, said: Vec<Said>, closing: Option<Episode>) -> Result<(), ArchiveError> {
        let talk = talk.clone();
        self.write(move |connection| keep(connection, &talk, &said, closing.as_ref())).await
    }

    async fn look(&self, wanted: Look) -> Result<Looked, ArchiveError> {
        self.read(move |connection| look::look(connection, &wanted)).await
    }

    async fn open(&self, talk: &Talk) -> Result<OpenEpisode, ArchiveError> {
        let talk = talk.clone();
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT open_after, open_turns, open_tokens, open_last_ms FROM conversations WHERE owner = ?1 AND name = ?2",
            )?;
            let open = select.query_row(params![talk.owner(), talk.name()], |row| {
                let turns = u32::try_from(number(row, 1)?).unwrap_or(u32::MAX);
                Ok(OpenEpisode { after: number(row, 0)?, turns, tokens: number(row, 2)?, last_ms: number(row, 3)? })
            });
            Ok(open.optional()?.unwrap_or_default())
        })
        .await
    }

    async fn since(&self, talk: &Talk, after: u64, limit: usize) -> Result<Vec<Event>, ArchiveError> {
        let talk = talk.clone();
        self.read(move |connection| {
            let Some(id) = id_of(connection, &talk)? else { return Ok(Vec::new()) };
            let mut select = connection.prepare_cached(
                "SELECT id, role, substr(text, 1, ?4), at_ms FROM events WHERE conversation = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
            )?;
            let limit = signed(limit as u64);
            select.query_map(params![id, signed(after), limit, EPISODE_CHARS_MAX], event)?.collect()
        })
        .await
    }

    async fn idle(&self, before_ms: u64, limit: usize) -> Result<Vec<Talk>, ArchiveError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT name, owner FROM conversations WHERE open_last_ms > 0 AND open_last_ms <= ?1 \
                 ORDER BY open_last_ms LIMIT ?2",
            )?;
            let talks = select.query_map(params![signed(before_ms), signed(limit as u64)], |row| {
                Ok(Talk::new(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?))
            })?;
            talks.collect()
        })
        .await
    }

    async fn prune(&self, before_ms: u64, limit: usize) -> Result<u64, ArchiveError> {
        let pruned = self.forget_some(move |connection| super::forget::forget_old(connection, before_ms, limit)).await;
        pruned.map(Option::unwrap_or_default)
    }

    async fn forget(&self, what: &Forgetting) -> Result<Option<u64>, ArchiveError> {
        self.forget_all(what).await
    }

    async fn rub_out(&self, within: Duration) -> Result<(), ArchiveError> {
        self.empty_log(within).await
    }
}

fn keep(connection: &mut Connection, talk: &Talk, said: &[Said], closing: Option<&Episode>) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(first) = said.first() {
        let insert =
            "INSERT INTO conversations (name, owner, began_ms, last_ms) VALUES (?1, ?2, ?3, ?3) ON CONFLICT DO NOTHING";
        transaction.prepare_cached(insert)?.execute(params![talk.name(), talk.owner(), signed(first.at_ms)])?;
    }
    let Some(id) = id_of(&transaction, talk)? else { return transaction.commit() };
    if let Some(episode) = closing {
        close(&transaction, id, episode)?;
    }
    for said in said {
        let text = beginning(&said.text);
        let insert = "INSERT INTO events (conversation, role, text, at_ms) VALUES (?1, ?2, ?3, ?4)";
        let at_ms = signed(said.at_ms);
        transaction.prepare_cached(insert)?.execute(params![id, said.role.label(), text, at_ms])?;
        let place = transaction.last_insert_rowid();
        if said.role.is_speech() {
            let index = "INSERT INTO words (rowid, tag, said) VALUES (?1, ?2, ?3)";
            transaction.prepare_cached(index)?.execute(params![place, tag(id), indexed(text)])?;
        }
        let update = "UPDATE conversations SET last_ms = max(last_ms, ?2) WHERE id = ?1";
        transaction.prepare_cached(update)?.execute(params![id, at_ms])?;
        // What the model is told to be, and remarks, are nothing that is summed up: they end no episode and hold none open.
        if said.role.is_speech() {
            let update = "UPDATE conversations SET open_last_ms = max(open_last_ms, ?2, 1), open_turns = open_turns + ?3, \
                open_tokens = open_tokens + ?4 WHERE id = ?1";
            let turn = i64::from(said.role == Role::User);
            transaction.prepare_cached(update)?.execute(params![id, at_ms, turn, signed(tokens(text))])?;
        }
    }
    transaction.commit()
}

/// Returns what is kept of a text; a character is never cut.
pub(crate) fn beginning(text: &str) -> &str {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn close(connection: &Connection, conversation: i64, episode: &Episode) -> rusqlite::Result<()> {
    let (after, through) = (signed(episode.after), signed(episode.through));
    // Closed by somebody else meanwhile, it is not closed twice. Forgotten meanwhile, its last event is gone, and so is what it said.
    let update = "UPDATE conversations SET open_after = ?3, open_turns = 0, open_tokens = 0, open_last_ms = 0 \
        WHERE id = ?1 AND open_after = ?2 AND EXISTS (SELECT 1 FROM events WHERE events.id = ?3 AND conversation = ?1)";
    if connection.prepare_cached(update)?.execute(params![conversation, after, through])? == 0 {
        return Ok(());
    }
    let insert = "INSERT INTO episodes (conversation, after_event, through) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(insert)?.execute(params![conversation, after, through])?;
    let episode_id = connection.last_insert_rowid();
    let insert = "INSERT INTO summaries (episode, text) VALUES (?1, ?2)";
    connection.prepare_cached(insert)?.execute(params![episode_id, episode.summary]).map(drop)
}

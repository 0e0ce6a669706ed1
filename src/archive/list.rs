use std::path::Path;

use kloros_actors::{
    facts::{Episode, Event, Talk},
    memory::words,
    seams::ArchiveError,
};
use rusqlite::{Connection, params};
use serde::Serialize;

use super::{
    Conversations,
    row::{episode, event, id_of, number, signed},
    schema::{self, fault},
};

/// One conversation in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Heading {
    /// Its name.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// How many events it has.
    pub(crate) events: u64,
    /// How many episodes of it are over.
    pub(crate) episodes: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub(crate) began_ms: u64,
    /// When something was said last.
    pub(crate) last_ms: u64,
}

impl Heading {
    /// Returns the conversation itself.
    pub(crate) fn talk(&self) -> Talk {
        Talk::new(&self.name, &self.owner)
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Hit {
    /// The conversation's name.
    pub(crate) name: String,
    /// Whose it is.
    pub(crate) owner: String,
    /// How well it matches, by BM25 over all that is kept; more is better.
    pub(crate) score: f64,
    /// What was said.
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// How many words of a search are looked for.
const WORDS_MAX: usize = 32;

const HEADINGS: &str = "SELECT name, owner, \
    (SELECT count(*) FROM events WHERE events.conversation = conversations.id), \
    (SELECT count(*) FROM episodes WHERE episodes.conversation = conversations.id), began_ms, last_ms FROM conversations";

impl Conversations {
    /// Returns the conversations in the file at `path`, the latest last, at most `limit`; of them only those named `name`, if that
    /// is given.
    pub(crate) fn headings(path: &Path, name: Option<&str>, limit: usize) -> Result<Vec<Heading>, ArchiveError> {
        reading(path, |connection| {
            let select = format!("{HEADINGS} WHERE ?1 IS NULL OR name = ?1 ORDER BY last_ms DESC, id DESC LIMIT ?2");
            let mut statement = connection.prepare(&select)?;
            let headings = statement.query_map(params![name, signed(limit as u64)], |row| {
                Ok(Heading {
                    name: row.get(0)?,
                    owner: row.get(1)?,
                    events: number(row, 2)?,
                    episodes: number(row, 3)?,
                    began_ms: number(row, 4)?,
                    last_ms: number(row, 5)?,
                })
            })?;
            let mut headings = headings.collect::<rusqlite::Result<Vec<Heading>>>()?;
            headings.reverse();
            Ok(headings)
        })
    }

    /// Returns the events of a conversation after the place `after`, oldest first, at most `limit`.
    pub(crate) fn events(path: &Path, talk: &Talk, after: u64, limit: usize) -> Result<Vec<Event>, ArchiveError> {
        reading(path, |connection| {
            let Some(id) = id_of(connection, talk)? else { return Ok(Vec::new()) };
            let select =
                "SELECT id, role, text, at_ms FROM events WHERE conversation = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            let mut select = connection.prepare(select)?;
            select.query_map(params![id, signed(after), signed(limit as u64)], event)?.collect()
        })
    }

    /// Returns the episodes of a conversation that are over, oldest first.
    pub(crate) fn episodes(path: &Path, talk: &Talk) -> Result<Vec<Episode>, ArchiveError> {
        reading(path, |connection| {
            let Some(id) = id_of(connection, talk)? else { return Ok(Vec::new()) };
            let select = "SELECT after_event, through, text FROM episodes JOIN summaries ON episode = episodes.id \
                WHERE conversation = ?1 ORDER BY through";
            let mut statement = connection.prepare(select)?;
            statement.query_map([id], episode)?.collect()
        })
    }

    /// Returns what has a word in common with `text`, the best match first, at most `limit`.
    pub(crate) fn search(path: &Path, text: &str, limit: usize) -> Result<Vec<Hit>, ArchiveError> {
        let mut words = words::telling(text);
        if words.is_empty() {
            words = words::stems(text);
        }
        words.truncate(WORDS_MAX);
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let quoted: Vec<String> = words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect();
        let query = format!("said : ({})", quoted.join(" OR "));
        reading(path, |connection| {
            let select = "SELECT events.id, role, text, at_ms, name, owner, -bm25(words) AS score FROM words \
                JOIN events ON events.id = words.rowid JOIN conversations ON conversations.id = events.conversation \
                WHERE words MATCH ?1 ORDER BY score DESC, events.id DESC LIMIT ?2";
            let mut statement = connection.prepare(select)?;
            let hits = statement.query_map(params![query, signed(limit as u64)], |row| {
                Ok(Hit { event: event(row)?, name: row.get(4)?, owner: row.get(5)?, score: row.get(6)? })
            })?;
            hits.collect()
        })
    }
}

fn reading<T>(path: &Path, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, ArchiveError> {
    let connection = schema::open_reader(path)?;
    work(&connection).map_err(|error| fault(path, &error))
}

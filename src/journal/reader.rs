use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use kloros_actors::{
    facts::{Kind, Recorded},
    seams::{JournalError, Query},
};
use rusqlite::{Connection, params_from_iter, types::Value};

use super::{codec, fault::Fault, mark, schema};
use crate::home::Home;

/// A read-only view of the journal, also of one that a daemon is writing to.
pub(crate) struct Reader {
    connection: Connection,
    path: PathBuf,
    /// Whether it is written beside the facts which work is open: an older kloros, which may still be running, does not.
    knows_open: bool,
}

/// What a check of the facts found to be sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verified {
    /// How many facts were checked, newest first.
    pub(crate) checked: u64,
    /// How many facts there are.
    pub(crate) facts: u64,
}

impl Reader {
    /// Opens the journal of `home`; an absent, foreign or newer one is refused.
    pub(crate) fn open(home: &Home) -> Result<Self, JournalError> {
        Ok(Self::at(home.journal())?)
    }

    /// Opens the journal of `home`, or returns `None` where kloros never ran.
    pub(crate) fn find(home: &Home) -> Result<Option<Self>, JournalError> {
        let path = home.journal();
        mark::refuse_lost(&path)?;
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        Self::open(home).map(Some)
    }

    pub(super) fn at(path: PathBuf) -> Result<Self, Fault> {
        let connection = schema::open_reader(&path)?;
        let sql = "SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'open_work_known'";
        let knows_open = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| Fault::of(&path, &error))?;
        Ok(Self { connection, path, knows_open })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn fault(&self, error: &rusqlite::Error) -> Fault {
        Fault::of(&self.path, error)
    }

    /// Returns what matches `query`; a fact that is not what was written is an error, never left out.
    pub(crate) fn read(&self, query: &Query) -> Result<Vec<Recorded>, JournalError> {
        Ok(self.select(query)?)
    }

    /// Returns how many facts there are of this kind.
    pub(crate) fn count(&self, kind: Kind) -> Result<u64, JournalError> {
        let count = || -> rusqlite::Result<i64> {
            let mut statement = self.connection.prepare_cached("SELECT count(*) FROM facts WHERE kind = ?1")?;
            statement.query_row([kind.label()], |row| row.get(0))
        };
        Ok(count().map_err(|error| self.fault(&error))?.cast_unsigned())
    }

    pub(super) fn select(&self, query: &Query) -> Result<Vec<Recorded>, Fault> {
        // Where that is not known, what has ended is read as well, and told from the rest by whoever folds it.
        let query = &Query { open: query.open && self.knows_open, ..query.clone() };
        let (sql, values) = statement(query);
        let read = || {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params_from_iter(values), codec::decode)?;
            rows.collect::<rusqlite::Result<Result<Vec<_>, _>>>()
        };
        read().map_err(|error| self.fault(&error))?.map_err(|why| self.damaged(&why))
    }

    /// Checks the structure of the database and every fact in it; the error names the first fact that is wrong.
    pub(crate) fn verify(&self) -> Result<Verified, JournalError> {
        let answer: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| self.fault(&error))?;
        if answer != "ok" {
            return Err(self.damaged(&answer).into());
        }
        Ok(self.verify_facts(None)?)
    }

    /// Checks the facts, newest first, for at most `limit`.
    pub(super) fn verify_facts(&self, limit: Option<Duration>) -> Result<Verified, Fault> {
        let begun = Instant::now();
        // Read before the facts are counted: a daemon that runs writes the facts first.
        let written = mark::known(&self.path)?;
        let check = || {
            let (facts, last): (i64, i64) =
                self.connection.query_row("SELECT count(*), coalesce(max(seq), 0) FROM facts", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            if facts != last {
                return Ok(Err(format!("{facts} facts stand where {last} were written")));
            }
            let sql = format!("SELECT {} FROM facts ORDER BY seq DESC", codec::COLUMNS);
            let mut statement = self.connection.prepare(&sql)?;
            let mut rows = statement.query([])?;
            let mut checked = 0;
            while let Some(row) = rows.next()? {
                if let Err(why) = codec::decode(row)? {
                    return Ok(Err(why));
                }
                checked += 1;
                if limit.is_some_and(|limit| begun.elapsed() > limit) {
                    break;
                }
            }
            Ok(Ok(Verified { checked, facts: facts.cast_unsigned() }))
        };
        let verified = check().map_err(|error| self.fault(&error))?.map_err(|why| self.damaged(&why))?;
        mark::refuse_fewer(&self.path, written, verified.facts)?;
        Ok(verified)
    }

    fn damaged(&self, why: &str) -> Fault {
        Fault::Damaged(format!("{}: {why}", self.path.display()))
    }
}

/// Returns the SQL of a query and its values.
fn statement(query: &Query) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {} FROM facts WHERE seq > ?", codec::COLUMNS);
    let mut values = vec![Value::Integer(whole(query.after))];
    if !query.kinds.is_empty() {
        // The plus keeps the kinds' index out: what is open is a handful of subjects, its kinds may be most of the journal.
        sql += if query.open { " AND +kind IN (" } else { " AND kind IN (" };
        sql += &vec!["?"; query.kinds.len()].join(", ");
        sql += ")";
        values.extend(query.kinds.iter().map(|kind: &Kind| Value::Text(kind.label().to_owned())));
    }
    if let Some(subject) = &query.subject {
        sql.push_str(" AND subject = ?");
        values.push(Value::Text(subject.clone()));
    }
    if query.open {
        sql.push_str(" AND subject IN (SELECT subject FROM open_work)");
    }
    if let Some(cycle) = &query.cycle {
        sql.push_str(" AND cycle = ?");
        values.push(Value::Text(cycle.as_str().to_owned()));
    }
    sql.push_str(if query.newest_first { " ORDER BY seq DESC LIMIT ?" } else { " ORDER BY seq LIMIT ?" });
    let limit = if query.limit == 0 { Query::LIMIT_DEFAULT } else { query.limit };
    values.push(Value::Integer(whole(limit as u64)));
    (sql, values)
}

/// Returns the number for the database, which counts no further than 63 bits.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

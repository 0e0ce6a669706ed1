use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use kloros_actors::seams::ArchiveError;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, config::DbConfig};

/// The layout that this kloros writes. It is raised whenever a table changes.
const VERSION: i64 = 1;

/// Marks the file as an archive of kloros: `klot` in ASCII.
const APPLICATION_ID: i64 = 0x6b6c_6f74;

/// How long a connection waits for another one's transaction.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The size to which the write-ahead log is cut after a checkpoint, in bytes.
const LOG_BYTES_MAX: i64 = 16 << 20;

/// How much of the file a connection holds in memory at most, in KiB.
const CACHE_KIB: i64 = 8192;

/// The index holds no text of its own. `tag` is the conversation as a word, so that a search reads its events alone.
const TABLES: &str = "
    CREATE TABLE conversations (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        name    TEXT    NOT NULL CHECK (name <> ''),
        owner   TEXT    NOT NULL CHECK (owner <> ''),
        began_ms    INTEGER NOT NULL,
        last_ms     INTEGER NOT NULL,
        -- What is in no episode yet.
        open_after  INTEGER NOT NULL DEFAULT 0,
        open_turns  INTEGER NOT NULL DEFAULT 0,
        open_tokens INTEGER NOT NULL DEFAULT 0,
        open_last_ms INTEGER NOT NULL DEFAULT 0,
        UNIQUE (owner, name)
    ) STRICT;
    CREATE INDEX conversations_by_open ON conversations (open_last_ms);
    CREATE TABLE events (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        role         TEXT    NOT NULL,
        text         TEXT    NOT NULL,
        at_ms        INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX events_by_conversation ON events (conversation, id);
    CREATE INDEX events_by_time ON events (at_ms);
    CREATE TABLE episodes (
        id           INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation INTEGER NOT NULL REFERENCES conversations (id),
        after_event  INTEGER NOT NULL,
        through      INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX episodes_by_conversation ON episodes (conversation, through);
    -- One for each episode; written anew where the upstream condenses better.
    CREATE TABLE summaries (
        episode     INTEGER PRIMARY KEY REFERENCES episodes (id),
        text        TEXT    NOT NULL,
        by_upstream INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX summaries_by_upstream ON summaries (by_upstream, episode);
    CREATE VIRTUAL TABLE words USING fts5 (
        tag, said, content = '', tokenize = \"unicode61 remove_diacritics 0\"
    );
    -- An entry that is taken out of the index leaves nothing behind in its pages.
    INSERT INTO words (words, rank) VALUES ('secure-delete', 1);
";

/// Opens the file at `path` for writing, creating it if it is missing. What is no archive is refused and left alone.
pub(super) fn open_writer(path: &Path) -> Result<Connection, ArchiveError> {
    let told = |error: rusqlite::Error| fault(path, &error);
    create_file(path).map_err(|error| ArchiveError::Unusable(format!("cannot create {}: {error}", path.display())))?;
    let mut connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).map_err(told)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
    if version(&connection, path)? == 0 {
        create_tables(&mut connection).map_err(told)?;
    }
    prepare(&connection).map_err(told)?;
    Ok(connection)
}

/// Opens the file at `path` for reading alone.
pub(super) fn open_reader(path: &Path) -> Result<Connection, ArchiveError> {
    if !path.exists() {
        let what = format!("{} is missing: no conversation was held in this home yet", path.display());
        return Err(ArchiveError::Unusable(what));
    }
    let told = |error: rusqlite::Error| fault(path, &error);
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY)).map_err(told)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(told)?;
    if version(&connection, path)? == 0 {
        return Err(ArchiveError::Damaged(format!("{} is empty", path.display())));
    }
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(told)?;
    connection.pragma_update(None, "temp_store", "MEMORY").map_err(told)?;
    plan_once(&connection).map_err(told)?;
    Ok(connection)
}

/// Has a statement keep its plan whatever is bound to it: it would be planned anew each time another conversation is looked at.
fn plan_once(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Returns whether the file at `path` has a log that is not empty.
pub(super) fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|log| log.len() > 0)
}

fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn create_file(path: &Path) -> io::Result<()> {
    // The log and its index take their mode from this file.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_file() => Ok(()),
        other => other.map(drop),
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    plan_once(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A whole exchange survives the death of the process; the newest ones may be lost with the power.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // A sort that does not fit would leave text in a file elsewhere.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

/// Returns the layout of the file, 0 where it is empty; what is no archive, or one of a newer kloros, is refused.
fn version(connection: &Connection, path: &Path) -> Result<i64, ArchiveError> {
    let told = |error: rusqlite::Error| fault(path, &error);
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(told);
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(told)?;
    let damaged = |what: String| Err(ArchiveError::Damaged(format!("{}: {what}", path.display())));
    match (application, version) {
        (0, 0) if tables == 0 => Ok(0),
        (APPLICATION_ID, VERSION) => Ok(VERSION),
        (APPLICATION_ID, newer) if newer > VERSION => {
            damaged(format!("was written by a newer kloros (layout {newer}, known is {VERSION}): use that one"))
        }
        _ => damaged("is no archive of conversations: move it away".to_owned()),
    }
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been first.
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

/// Returns what a failure of the database means; it never quotes what is stored.
pub(super) fn fault(path: &Path, error: &rusqlite::Error) -> ArchiveError {
    let code = error.sqlite_error_code();
    // What a statement says of itself may quote a text.
    let words = code.map_or_else(|| "the row cannot be read".to_owned(), |code| format!("{code:?}"));
    let what = format!("{}: {words}", path.display());
    match code {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) | None => ArchiveError::Damaged(what),
        _ => ArchiveError::Unusable(what),
    }
}

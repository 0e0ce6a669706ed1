use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{fault::Fault, mark};

/// The layout that this kloros writes. It is raised whenever a table changes, or a fact in a way that older readers
/// would not understand.
pub(super) const VERSION: i64 = 1;

/// Marks the file as a journal of kloros: `klor` in ASCII.
const APPLICATION_ID: i64 = 0x6b6c_6f72;

/// How long a connection waits for another one's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The size to which the write-ahead log is cut after a checkpoint, in bytes.
const LOG_BYTES_MAX: i64 = 64 << 20;

/// How long the structure of the database is checked when it is opened; `kloros rebuild-logs` checks all of it.
const STRUCTURE_MAX: Duration = Duration::from_millis(500);

const TABLES: &str = "
    CREATE TABLE facts (
        seq     INTEGER PRIMARY KEY,
        cycle   TEXT    NOT NULL,
        at_ms   INTEGER NOT NULL,
        kind    TEXT    NOT NULL,
        subject TEXT    NOT NULL,
        once    TEXT    UNIQUE,
        body    TEXT    NOT NULL,
        digest  INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX facts_by_kind    ON facts (kind, seq);
    CREATE INDEX facts_by_subject ON facts (subject, seq);
    CREATE INDEX facts_by_cycle   ON facts (cycle, seq);

    -- What is still to be written to the files that a person reads.
    CREATE TABLE outbox (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        seq     INTEGER NOT NULL,
        file    TEXT    NOT NULL,
        shape   TEXT    NOT NULL,
        content TEXT    NOT NULL
    ) STRICT;
    CREATE INDEX outbox_by_file ON outbox (file, id);

    -- The questions without an end, and the fact that asked each.
    CREATE TABLE open_questions (
        question TEXT    PRIMARY KEY,
        seq      INTEGER NOT NULL
    ) STRICT;

    -- Who opened the journal last: whoever opened it before may no longer write.
    CREATE TABLE epoch (
        one    INTEGER PRIMARY KEY CHECK (one = 1),
        number INTEGER NOT NULL
    ) STRICT;
    INSERT INTO epoch VALUES (1, 0);
";

/// Opens the database at `path` for the one writer, creating it if it is missing, and checks its structure.
pub(super) fn open_writer(path: &Path) -> Result<Connection, Fault> {
    mark::refuse_lost(path)?;
    let found = inspect(path)?;
    if !found {
        create_file(path).map_err(|error| Fault::Unwritable(format!("cannot create {}: {error}", path.display())))?;
    }
    let told = |error: rusqlite::Error| Fault::of(path, &error);
    let mut connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_WRITE)).map_err(told)?;
    prepare(&connection).map_err(told)?;
    // The file alone does not show what only stands in the write-ahead log so far.
    let is_new = known_version(&connection, path)? == 0;
    if is_new && mark::known(path)?.is_some() {
        return Err(mark::lost(path, "has no tables"));
    }
    // Before anything is written: what is damaged stays as it was found.
    check_structure(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(told)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(told)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_MAX).map_err(told)?;
    if is_new {
        create_tables(&mut connection).map_err(told)?;
    }
    // An older kloros reads a journal with these tables, and what it wrote meanwhile is taken up by the next newer one.
    connection.execute_batch(super::audit::TABLE).map_err(told)?;
    connection.execute_batch(super::open_work::TABLES).map_err(told)?;
    Ok(connection)
}

/// Opens the database at `path` for reading alone.
pub(super) fn open_reader(path: &Path) -> Result<Connection, Fault> {
    mark::refuse_lost(path)?;
    if !path.exists() {
        return Err(Fault::Unwritable(format!("{} is missing: no kloros has run in this home yet", path.display())));
    }
    let told = |error: rusqlite::Error| Fault::of(path, &error);
    let connection = Connection::open_with_flags(path, flags(OpenFlags::SQLITE_OPEN_READ_ONLY)).map_err(told)?;
    prepare(&connection).map_err(told)?;
    if known_version(&connection, path)? == 0 {
        return Err(Fault::Damaged(format!("{} is empty", path.display())));
    }
    Ok(connection)
}

fn flags(access: OpenFlags) -> OpenFlags {
    access | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)
}

fn create_file(path: &Path) -> io::Result<()> {
    // The log and its index take their mode from this file.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// Returns whether there is a database at `path`; one that is none, or of a newer kloros, is refused untouched.
fn inspect(path: &Path) -> Result<bool, Fault> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Fault::Unwritable(format!("cannot look at {}: {error}", path.display()))),
        Ok(found) if !found.is_file() => {
            return Err(Fault::Damaged(format!("{} is no plain file: move it away", path.display())));
        }
        Ok(_) => {}
    }
    // An immutable connection takes no lock and writes nothing, not even the index of the log. Reading the header by
    // hand would be simpler, but closing such a file drops the locks of every connection this process has to it.
    let flags = flags(OpenFlags::SQLITE_OPEN_READ_ONLY) | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path), flags).map_err(|error| Fault::of(path, &error))?;
    match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        // What is malformed by itself may be sound with its log, which this connection does not read.
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == ErrorCode::DatabaseCorrupt && mark::has_log(path) => {}
        _ => {
            known_version(&connection, path)?;
        }
    }
    Ok(true)
}

fn uri(path: &Path) -> PathBuf {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let mut uri = b"file:".to_vec();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'%' | b'?' | b'#' => uri.extend(format!("%{byte:02X}").bytes()),
            byte => uri.push(*byte),
        }
    }
    uri.extend(b"?immutable=1");
    PathBuf::from(std::ffi::OsString::from_vec(uri))
}

/// Returns the version of the layout, 0 for a file without one; a foreign or newer one is refused.
fn known_version(connection: &Connection, path: &Path) -> Result<i64, Fault> {
    let pragma = |name| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(|error| Fault::of(path, &error))
    };
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    let empty = connection
        .query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get::<_, bool>(0))
        .map_err(|error| Fault::of(path, &error))?;
    let path = path.display();
    match (version, application) {
        (0, 0) if empty => Ok(0),
        (1..=VERSION, APPLICATION_ID) => Ok(version),
        (newer, APPLICATION_ID) if newer > VERSION => Err(Fault::Unwritable(format!(
            "{path} was written by a newer kloros (layout {newer}, this one knows {VERSION}): run that one, or another home"
        ))),
        _ => Err(Fault::Damaged(format!("{path} is a database of some other program: move it away"))),
    }
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

fn check_structure(connection: &Connection, path: &Path) -> Result<(), Fault> {
    // The quick check would not notice an index that leads past a fact.
    let check = |connection: &Connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let answer: Option<String> = within(STRUCTURE_MAX, connection, check).map_err(|error| Fault::of(path, &error))?;
    match answer {
        Some(answer) if answer == "ok" => Ok(()),
        Some(answer) => Err(Fault::Damaged(format!("{}: {answer}", path.display()))),
        None => {
            tracing::warn!(journal = %path.display(), "the journal is too large to be checked whole at the start");
            Ok(())
        }
    }
}

/// Returns what `work` finds, or `None` when it took longer than `limit` and was interrupted.
fn within<T>(
    limit: Duration,
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<Option<T>> {
    let interrupt = connection.get_interrupt_handle();
    let (done, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let found = thread::scope(|scope| {
        scope.spawn(move || {
            if wait.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let found = work(connection);
        drop(done);
        found
    });
    match found {
        Ok(found) => Ok(Some(found)),
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::OperationInterrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// The files that are open, told from files that were put in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    path: PathBuf,
    files: [(PathBuf, (u64, u64)); 2],
}

impl Identity {
    /// Returns the identity of the open database at `path` and of its write-ahead log.
    pub(super) fn of(path: &Path) -> Result<Self, Fault> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let named = |file: PathBuf| {
            let found = fs::symlink_metadata(&file).map_err(|error| gone(&file, &error))?;
            Ok((file, (found.dev(), found.ino())))
        };
        let files = [named(path.to_owned())?, named(PathBuf::from(log))?];
        // Opened connections see nothing of it: what they need is in their caches and in the log.
        match fs::metadata(path) {
            Ok(found) if found.len() < super::mark::PAGE_BYTES_MIN => {
                Err(Fault::Damaged(format!("{} was cut to nothing while kloros was running", path.display())))
            }
            _ => Ok(Self { path: path.to_owned(), files }),
        }
    }

    /// Says whether the files that are open still are the ones with the names: otherwise what is written is lost.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if Self::of(&self.path)? == *self {
            return Ok(());
        }
        Err(Fault::Damaged(format!("{} was replaced while kloros was running", self.path.display())))
    }

    /// Returns the database.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn gone(file: &Path, error: &io::Error) -> Fault {
    Fault::Damaged(format!("{} is gone while kloros is running: {error}", file.display()))
}

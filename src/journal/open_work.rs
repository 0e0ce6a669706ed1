//! Which questions, experiments, deployments and loans have no end yet: kept beside the facts, so that nobody searches the past for them.

use kloros_actors::facts::{Fact, TELLING, is_open};
use rusqlite::Connection;

use super::{codec, writer::last_place};

/// The tables: the subjects that are open, and up to which fact that is known.
pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS open_work (
        subject TEXT PRIMARY KEY
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS open_work_known (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        seq INTEGER NOT NULL
    ) STRICT;
    INSERT OR IGNORE INTO open_work_known VALUES (1, 0);
";

/// Has the next [`catch_up`] find out everything anew; until then it stays as it is for whoever reads.
pub(super) const DOUBT: &str = "UPDATE open_work_known SET seq = 0";

/// Says whether `subject` is open, as the facts have it that are written already.
pub(super) fn note(connection: &Connection, subject: &str) -> rusqlite::Result<()> {
    let sql = if is_open(facts_of(connection, subject)?) {
        "INSERT OR IGNORE INTO open_work (subject) VALUES (?1)"
    } else {
        "DELETE FROM open_work WHERE subject = ?1"
    };
    connection.prepare_cached(sql)?.execute([subject]).map(drop)
}

/// Says that all facts up to `seq` are taken up.
pub(super) fn known(connection: &Connection, seq: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE open_work_known SET seq = ?1")?.execute([seq]).map(drop)
}

/// Takes up what was written by a kloros that kept no such table. Within a transaction, so that nobody sees half of it.
pub(super) fn catch_up(connection: &Connection) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT subject FROM facts WHERE kind IN ({}) AND seq > (SELECT seq FROM open_work_known)
         GROUP BY subject",
        kinds()
    );
    connection.execute("DELETE FROM open_work WHERE (SELECT seq FROM open_work_known) = 0", [])?;
    let mut statement = connection.prepare(&sql)?;
    let unknown = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    unknown.iter().try_for_each(|subject| note(connection, subject))?;
    // A kloros that kept this table without the questions has kept those in one of their own.
    connection.execute("INSERT OR IGNORE INTO open_work (subject) SELECT question FROM open_questions", [])?;
    known(connection, last_place(connection)?)
}

/// Returns what is said of `subject`, oldest first. A fact that cannot be read is found by whoever reads the facts.
fn facts_of(connection: &Connection, subject: &str) -> rusqlite::Result<Vec<Fact>> {
    let sql = format!("SELECT {} FROM facts WHERE subject = ?1 AND kind IN ({}) ORDER BY seq", codec::COLUMNS, kinds());
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([subject], codec::decode)?.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.into_iter().flatten().map(|recorded| recorded.fact).collect())
}

fn kinds() -> String {
    TELLING.map(|kind| format!("'{}'", kind.label())).join(", ")
}

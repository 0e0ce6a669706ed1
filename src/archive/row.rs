use kloros_actors::{
    facts::{Episode, Event, Role, Talk},
    memory::words::stems,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

/// Numbers of the database are signed; what does not fit is the end of time.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the event in a row of `id, role, text, at_ms`.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    let role: String = row.get(1)?;
    // A role that a newer kloros wrote is a remark to this one.
    let role = Role::of(&role).unwrap_or(Role::Error);
    Ok(Event { id: number(row, 0)?, role, text: row.get(2)?, at_ms: number(row, 3)? })
}

/// Returns the episode in a row of `after_event, through, text`.
pub(super) fn episode(row: &Row<'_>) -> rusqlite::Result<Episode> {
    Ok(Episode { after: number(row, 0)?, through: number(row, 1)?, summary: row.get(2)? })
}

/// Returns a column that counts.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|number| u64::try_from(number).unwrap_or(0))
}

/// Returns the number of the conversation, if it is known.
pub(super) fn id_of(connection: &Connection, talk: &Talk) -> rusqlite::Result<Option<i64>> {
    let mut select = connection.prepare_cached("SELECT id FROM conversations WHERE owner = ?1 AND name = ?2")?;
    select.query_row(params![talk.owner(), talk.name()], |row| row.get(0)).optional()
}

/// Returns a conversation as the index knows it: a word that no text has, since words are cut after five letters and keep no
/// capital.
pub(super) fn tag(conversation: i64) -> String {
    format!("conversation{conversation}")
}

/// Returns a text as the index holds it.
pub(super) fn indexed(text: &str) -> String {
    stems(text).join(" ")
}

/// Takes an event out of the index; its text must be what was put in.
pub(super) fn unindex(connection: &Connection, id: i64, conversation: i64, text: &str) -> rusqlite::Result<()> {
    let mut delete =
        connection.prepare_cached("INSERT INTO words (words, rowid, tag, said) VALUES ('delete', ?1, ?2, ?3)")?;
    delete.execute(params![id, tag(conversation), indexed(text)]).map(drop)
}

use kloros_actors::{facts::Talk, seams::ArchiveError};
use rusqlite::{Connection, TransactionBehavior, params};

use super::{
    Conversations,
    row::{id_of, number, signed, unindex},
};

/// How often the log is emptied anew while somebody reads in it.
const EMPTY_TRIES: u32 = 50;

impl Conversations {
    /// Forgets a conversation and returns how many events it had; `None` where there is no such conversation. When this returns,
    /// nothing of it is in the file, its index or its log. Where it fails, it may be done once more: the log is emptied also when
    /// there is nothing left to forget.
    pub(crate) async fn forget(&self, talk: &Talk) -> Result<Option<u64>, ArchiveError> {
        let talk = talk.clone();
        self.write(move |connection| {
            let id = id_of(connection, &talk)?;
            let events = id.map(|id| forget(connection, id)).transpose()?;
            empty_log(connection)?;
            Ok(events)
        })
        .await
    }

    /// Forgets all that was said before `before_ms`, however much that is, and returns how many events that were.
    pub(crate) async fn forget_before(&self, before_ms: u64) -> Result<u64, ArchiveError> {
        self.write(move |connection| {
            let mut all = 0;
            loop {
                let events = prune(connection, before_ms, 5000)?;
                all += events;
                if events == 0 {
                    return Ok(all);
                }
            }
        })
        .await
    }
}

/// Takes a conversation out of the file; the log still holds what it was.
pub(super) fn forget(connection: &mut Connection, id: i64) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let events = unindexed(&transaction, "conversation = ?1", id, i64::MAX)?;
    transaction.execute("DELETE FROM events WHERE conversation = ?1", [id])?;
    let of_it = "SELECT id FROM episodes WHERE conversation = ?1";
    transaction.execute(&format!("DELETE FROM summaries WHERE episode IN ({of_it})"), [id])?;
    transaction.execute("DELETE FROM episodes WHERE conversation = ?1", [id])?;
    transaction.execute("DELETE FROM conversations WHERE id = ?1", [id])?;
    transaction.commit()?;
    Ok(events.len() as u64)
}

/// Takes events out of the index, and returns their places.
fn unindexed(connection: &Connection, which: &str, value: i64, limit: i64) -> rusqlite::Result<Vec<i64>> {
    let select = format!("SELECT id, conversation, text, role FROM events WHERE {which} ORDER BY id LIMIT ?2");
    let mut select = connection.prepare(&select)?;
    let mut rows = select.query(params![value, limit])?;
    let mut places = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, conversation, text): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let role: String = row.get(3)?;
        if kloros_actors::facts::Role::of(&role).is_some_and(kloros_actors::facts::Role::is_speech) {
            unindex(connection, id, conversation, &text)?;
        }
        places.push(id);
    }
    Ok(places)
}

/// Forgets at most `limit` events that were said before `before_ms`, the episodes they were in and conversations without events,
/// and returns how many events that were. The log is emptied also when there were none: an earlier time may have failed before that.
pub(super) fn prune(connection: &mut Connection, before_ms: u64, limit: usize) -> rusqlite::Result<u64> {
    let events = forget_old(connection, before_ms, limit)?;
    empty_log(connection)?;
    Ok(events)
}

/// Takes old events out of the file; the log still holds what they were.
pub(super) fn forget_old(connection: &mut Connection, before_ms: u64, limit: usize) -> rusqlite::Result<u64> {
    let (before, limit) = (signed(before_ms), signed(limit as u64));
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let places = unindexed(&transaction, "at_ms < ?1", before, limit)?;
    if places.is_empty() {
        return Ok(0);
    }
    let mut touched = std::collections::BTreeSet::new();
    for place in &places {
        let of = "DELETE FROM events WHERE id = ?1 RETURNING conversation";
        touched.insert(transaction.prepare_cached(of)?.query_row([place], |row| row.get::<_, i64>(0))?);
    }
    for conversation in touched {
        let first = "SELECT coalesce(min(id), 0) FROM events WHERE conversation = ?1";
        let first = transaction.query_row(first, [conversation], |row| number(row, 0))?;
        // A summary tells of its events: it goes with the first of them.
        let over = if first == 0 { i64::MAX } else { signed(first - 1) };
        let of_it = "SELECT id FROM episodes WHERE conversation = ?1 AND after_event < ?2";
        transaction
            .execute(&format!("DELETE FROM summaries WHERE episode IN ({of_it})"), params![conversation, over])?;
        transaction.execute(
            "DELETE FROM episodes WHERE conversation = ?1 AND after_event < ?2",
            params![conversation, over],
        )?;
        if first == 0 {
            transaction.execute("DELETE FROM conversations WHERE id = ?1", [conversation])?;
        }
    }
    transaction.commit()?;
    Ok(places.len() as u64)
}

/// Writes the log into the file and cuts it to nothing, so that no old page is left in it.
fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    for _ in 0..EMPTY_TRIES {
        // It waits for readers as long as the connection waits for anybody.
        let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy == 0 {
            return Ok(());
        }
    }
    let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
    Err(rusqlite::Error::SqliteFailure(busy, Some("the log could not be emptied".to_owned())))
}

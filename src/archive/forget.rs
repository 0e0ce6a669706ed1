use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use kloros_actors::{
    facts::{Forgetting, Role, Talk},
    seams::ArchiveError,
};
use rusqlite::{Connection, ErrorCode, TransactionBehavior, params};

use super::{
    Conversations,
    row::{id_of, number, signed, unindex},
    schema::BUSY_TIMEOUT,
};

/// How long emptying the log waits for somebody who reads, while nobody else can write.
const EMPTY_WITHIN: Duration = Duration::from_millis(200);

/// How long others may write before the log is emptied once more.
const EMPTY_AGAIN: Duration = Duration::from_millis(100);

/// How many events are forgotten at a time: others write in between.
const EVENTS_MAX: usize = 2000;

impl Conversations {
    /// Forgets all of it, a little at a time, and returns how many events that were; `None` where there is no such conversation.
    pub(super) async fn forget_all(&self, what: &Forgetting) -> Result<Option<u64>, ArchiveError> {
        let mut all = None;
        loop {
            let what = what.clone();
            let some = self.forget_some(move |connection| match &what {
                Forgetting::Talk(talk) => forget(connection, talk, EVENTS_MAX),
                Forgetting::Before(before_ms) => forget_old(connection, *before_ms, EVENTS_MAX),
            });
            let some = some.await?;
            all = some.map_or(all, |some| Some(some + all.unwrap_or(0)));
            if some.is_none_or(|some| some < EVENTS_MAX as u64) {
                return Ok(all);
            }
        }
    }

    /// Does `work` that takes something out of the file, and remembers that the log still holds it.
    pub(super) async fn forget_some(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<Option<u64>> + Send + 'static,
    ) -> Result<Option<u64>, ArchiveError> {
        let inner = Arc::clone(&self.inner);
        self.write(move |connection| {
            let events = work(connection)?;
            if events.is_some() {
                inner.is_log_dirty.store(true, Ordering::Release);
            }
            Ok(events)
        })
        .await
    }

    /// Empties the log where it holds what was forgotten; tries again for so long while somebody reads.
    pub(super) async fn empty_log(&self, within: Duration) -> Result<(), ArchiveError> {
        let began = Instant::now();
        while self.inner.is_log_dirty.load(Ordering::Acquire) {
            let inner = Arc::clone(&self.inner);
            let is_empty = self.write(move |connection| {
                let is_empty = empty_log(connection)?;
                // Nobody writes meanwhile: what is forgotten later makes it dirty again.
                inner.is_log_dirty.store(!is_empty, Ordering::Release);
                Ok(is_empty)
            });
            if is_empty.await? {
                break;
            }
            if began.elapsed() >= within {
                let what = "another program reads the file: what was forgotten is gone from it, but not from its log until that ends";
                return Err(ArchiveError::Unusable(what.to_owned()));
            }
            tokio::time::sleep(EMPTY_AGAIN).await;
        }
        Ok(())
    }
}

/// Takes at most `limit` events of a conversation out of the file, and the conversation with the last of them; returns how many
/// events that were, `None` where there is no such conversation. The log still holds what they were.
pub(super) fn forget(connection: &mut Connection, talk: &Talk, limit: usize) -> rusqlite::Result<Option<u64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(id) = id_of(&transaction, talk)? else { return Ok(None) };
    let places = unindexed(&transaction, "conversation = ?1", id, signed(limit as u64))?;
    for place in &places {
        transaction.prepare_cached("DELETE FROM events WHERE id = ?1")?.execute([place])?;
    }
    let of_it = "SELECT id FROM episodes WHERE conversation = ?1";
    transaction.execute(&format!("DELETE FROM summaries WHERE episode IN ({of_it})"), [id])?;
    transaction.execute("DELETE FROM episodes WHERE conversation = ?1", [id])?;
    if places.len() < limit {
        transaction.execute("DELETE FROM conversations WHERE id = ?1", [id])?;
    }
    transaction.commit()?;
    Ok(Some(places.len() as u64))
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
        if Role::of(&role).is_some_and(Role::is_speech) {
            unindex(connection, id, conversation, &text)?;
        }
        places.push(id);
    }
    Ok(places)
}

/// Takes at most `limit` events that were said before `before_ms` out of the file, the episodes they were in and conversations without
/// events, and returns how many events that were; `None` where there are none. The log still holds what they were.
pub(super) fn forget_old(connection: &mut Connection, before_ms: u64, limit: usize) -> rusqlite::Result<Option<u64>> {
    let (before, limit) = (signed(before_ms), signed(limit as u64));
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let places = unindexed(&transaction, "at_ms < ?1", before, limit)?;
    if places.is_empty() {
        return Ok(None);
    }
    let mut touched: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for place in &places {
        let of = "DELETE FROM events WHERE id = ?1 RETURNING conversation";
        let conversation = transaction.prepare_cached(of)?.query_row([place], |row| row.get(0))?;
        touched.entry(conversation).or_default().push(*place);
    }
    for (conversation, gone) in touched {
        forget_episodes(&transaction, conversation, &gone)?;
        let left = "SELECT count(*) FROM (SELECT 1 FROM events WHERE conversation = ?1 LIMIT 1)";
        if transaction.query_row(left, [conversation], |row| number(row, 0))? == 0 {
            transaction.execute("DELETE FROM conversations WHERE id = ?1", [conversation])?;
        }
    }
    transaction.commit()?;
    Ok(Some(places.len() as u64))
}

/// Takes out the episodes of a conversation of which one of the events that are `gone` was a part: a summary tells of its events and
/// goes with the first of them. Events of other conversations may stand between those of an episode, and say nothing about it.
fn forget_episodes(connection: &Connection, conversation: i64, gone: &[i64]) -> rusqlite::Result<()> {
    let mut select = connection.prepare("SELECT id, after_event, through FROM episodes WHERE conversation = ?1")?;
    let episodes = select.query_map([conversation], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let episodes = episodes.collect::<rusqlite::Result<Vec<(i64, i64, i64)>>>()?;
    let left = "SELECT count(*) FROM (SELECT 1 FROM events WHERE conversation = ?1 AND id > ?2 AND id <= ?3 LIMIT 1)";
    for (id, after, through) in episodes {
        let had_one =
            gone[gone.partition_point(|place| *place <= after)..].first().is_some_and(|place| *place <= through);
        let is_empty = || connection.query_row(left, params![conversation, after, through], |row| number(row, 0));
        if had_one || is_empty()? == 0 {
            connection.execute("DELETE FROM summaries WHERE episode = ?1", [id])?;
            connection.execute("DELETE FROM episodes WHERE id = ?1", [id])?;
        }
    }
    Ok(())
}

/// Writes the log into the file and cuts it to nothing, so that no old page is left in it; says whether that was possible, which it
/// is not while somebody reads an older state.
fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.busy_timeout(EMPTY_WITHIN)?;
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    connection.busy_timeout(BUSY_TIMEOUT)?;
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

use std::collections::BTreeSet;

use kloros_actors::{
    facts::{Episode, Event},
    seams::{Look, Looked},
};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::row::{episode, event, id_of, number, signed, tag};

/// How many other conversations of an owner are looked through, the latest first.
const OTHERS_MAX: i64 = 32;

/// How many episodes that are over are told of, the latest first.
const EPISODES_MAX: i64 = 8;

/// Returns what there is of what is wanted.
///
/// Each word is looked for by itself, newest first and within its conversation: the cost is bounded by what is returned, however
/// many events there are, and a rare word is not lost behind a common one.
pub(super) fn look(connection: &Connection, wanted: &Look) -> rusqlite::Result<Looked> {
    // All of it as of one moment.
    let connection = connection.unchecked_transaction()?;
    let own = id_of(&connection, &wanted.talk)?;
    let mut looked = Looked::default();
    if let Some(id) = own {
        looked.newest = newest(&connection, id, wanted)?;
        looked.episodes = episodes(&connection, id, wanted)?;
    }
    let mut places = BTreeSet::new();
    for conversation in own.into_iter().chain(others(&connection, wanted)?) {
        looked.count += count(&connection, conversation)?;
        for word in &wanted.words {
            places.extend(holders(&connection, conversation, word, wanted.matching_max)?);
        }
    }
    let known: BTreeSet<u64> = looked.newest.iter().map(|event| event.id).collect();
    let mut bytes = 0;
    for place in places.into_iter().rev().filter(|place| !known.contains(place)) {
        let Some(event) = at(&connection, place, wanted)? else { continue };
        bytes += event.text.len();
        if bytes > wanted.bytes_max {
            break;
        }
        looked.matching.push(event);
    }
    looked.matching.reverse();
    Ok(looked)
}

fn newest(connection: &Connection, id: i64, wanted: &Look) -> rusqlite::Result<Vec<Event>> {
    let select =
        "SELECT id, role, substr(text, 1, ?3), at_ms FROM events WHERE conversation = ?1 ORDER BY id DESC LIMIT ?2";
    let mut select = connection.prepare_cached(select)?;
    let mut rows = select.query(params![id, signed(wanted.newest_max as u64), signed(wanted.text_chars_max as u64)])?;
    let (mut newest, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let event = event(row)?;
        bytes += event.text.len();
        if bytes > wanted.bytes_max && !newest.is_empty() {
            break;
        }
        newest.push(event);
    }
    newest.reverse();
    newest.retain(|event| event.at_ms >= wanted.since_ms);
    Ok(newest)
}

fn episodes(connection: &Connection, id: i64, wanted: &Look) -> rusqlite::Result<Vec<Episode>> {
    // An episode is as old as its last event.
    let mut select = connection.prepare_cached(
        "SELECT after_event, through, summaries.text FROM episodes JOIN summaries ON summaries.episode = episodes.id \
         JOIN events ON events.id = through \
         WHERE episodes.conversation = ?1 AND at_ms >= ?2 ORDER BY through DESC LIMIT ?3",
    )?;
    let episodes = select.query_map(params![id, signed(wanted.since_ms), EPISODES_MAX], episode)?;
    episodes.collect()
}

fn others(connection: &Connection, wanted: &Look) -> rusqlite::Result<Vec<i64>> {
    if !wanted.others {
        return Ok(Vec::new());
    }
    let mut select = connection.prepare_cached(
        "SELECT id FROM conversations WHERE owner = ?1 AND name <> ?2 AND last_ms >= ?3 ORDER BY last_ms DESC LIMIT ?4",
    )?;
    let since_ms = signed(wanted.since_ms);
    select
        .query_map(params![wanted.talk.owner(), wanted.talk.name(), since_ms, OTHERS_MAX], |row| row.get(0))?
        .collect()
}

/// How many events a conversation has at most, estimated without counting them: for how rare a word is, more tells no more.
fn count(connection: &Connection, conversation: i64) -> rusqlite::Result<u64> {
    let mut select =
        connection.prepare_cached("SELECT count(*) FROM (SELECT 1 FROM events WHERE conversation = ?1 LIMIT 1000)")?;
    select.query_row([conversation], |row| number(row, 0))
}

/// Returns the newest events of the conversation with this word.
fn holders(connection: &Connection, conversation: i64, word: &str, limit: usize) -> rusqlite::Result<Vec<u64>> {
    // Quoted, a word is a word, whatever the language of queries makes of it.
    let quoted = word.replace('"', "\"\"");
    let query = format!("tag : \"{}\" AND said : \"{quoted}\"", tag(conversation));
    let mut select =
        connection.prepare_cached("SELECT rowid FROM words WHERE words MATCH ?1 ORDER BY rowid DESC LIMIT ?2")?;
    select.query_map(params![query, signed(limit as u64)], |row| number(row, 0))?.collect()
}

fn at(connection: &Connection, place: u64, wanted: &Look) -> rusqlite::Result<Option<Event>> {
    let mut select = connection
        .prepare_cached("SELECT id, role, substr(text, 1, ?3), at_ms FROM events WHERE id = ?1 AND at_ms >= ?2")?;
    let (since_ms, chars_max) = (signed(wanted.since_ms), signed(wanted.text_chars_max as u64));
    select.query_row(params![signed(place), since_ms, chars_max], event).optional()
}

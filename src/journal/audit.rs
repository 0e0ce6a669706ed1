//! The audit trail: who decided what, in lines that are chained by their hashes.
//!
//! Each fact that says what was asked, answered, refused, done, undone, stopped or edited by hand becomes one line, which
//! holds the fact as the journal has it, the hash of the line before and its own. The hashes stand in the journal as well,
//! written with the fact: whoever changes, drops or reorders a line, or a fact, has to change the other as well. A new file
//! is begun after so many lines, and the oldest is dropped after so many files; the chain goes on through all of them.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use kloros_actors::{facts::Kind, seams::JournalError};
use rusqlite::{Connection, OptionalExtension as _, params};
use sha2::{Digest as _, Sha256};

use super::{
    codec::BODY_BYTES_MAX,
    projection::{Projected, Shape},
    reader::Reader,
    time::rfc3339,
};
use crate::home::{Home, files::AUDIT_FOLDER};

/// What is audited.
pub(crate) const AUDITED: [Kind; 14] = [
    Kind::Promotion,
    Kind::Ruling,
    Kind::Answer,
    Kind::Deployment,
    Kind::Step,
    Kind::Verdict,
    Kind::Switch,
    Kind::Adoption,
    Kind::Thaw,
    Kind::Anchored,
    Kind::Refused,
    Kind::Reload,
    Kind::Loan,
    Kind::LoanStep,
];

/// How many lines a file holds.
const LINES_A_FILE: u64 = 10_000;

/// How many files are kept.
const FILES_MAX: u64 = 50;

/// What the first line follows.
const BEGINNING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What stands before the hash of a line.
const BEFORE_HASH: &str = r#","hash":""#;

/// The longest line, in bytes: a fact with what stands around it.
const LINE_BYTES_MAX: usize = BODY_BYTES_MAX + 4096;

/// The table that holds the chain beside the facts.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS audit (
        n    INTEGER PRIMARY KEY,
        seq  INTEGER NOT NULL UNIQUE,
        hash TEXT    NOT NULL
    ) STRICT;
";

/// A fact as it stands in its row.
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) cycle: String,
    pub(super) at_ms: i64,
    pub(super) kind: String,
    pub(super) subject: String,
    pub(super) body: String,
}

/// Adds a fact to the chain, and returns the line that it becomes; `None` for one that is not audited.
pub(super) fn link(connection: &Connection, row: &Row) -> rusqlite::Result<Option<Projected>> {
    if !AUDITED.iter().any(|kind| kind.label() == row.kind) {
        return Ok(None);
    }
    let last = connection
        .prepare_cached("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1")?
        .query_row([], |last| Ok((last.get::<_, i64>(0)?, last.get::<_, String>(1)?)))
        .optional()?;
    let (n, previous) = last.map_or((1, BEGINNING.to_owned()), |(n, hash)| (n + 1, hash));
    let (content, hash) = line(n.cast_unsigned(), row, &previous);
    connection
        .prepare_cached("INSERT INTO audit (n, seq, hash) VALUES (?1, ?2, ?3)")?
        .execute(params![n, row.seq, hash])?;
    Ok(Some(Projected { file: file_of(n.cast_unsigned()), shape: Shape::Line, content }))
}

/// Returns line `n` of the trail, which follows the line with the hash `previous`, and its own hash.
fn line(n: u64, row: &Row, previous: &str) -> (String, String) {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let Row { seq, cycle, at_ms, kind, subject, body } = row;
    let (at, cycle, subject) = (rfc3339(at_ms.cast_unsigned()), text(cycle), text(subject));
    let beginning = format!(
        r#"{{"n":{n},"seq":{seq},"at":"{at}","cycle":{cycle},"kind":"{kind}","subject":{subject},"fact":{body},"prev":"{previous}""#
    );
    let hash = hash_of(&beginning);
    (format!("{beginning}{BEFORE_HASH}{hash}\"}}"), hash)
}

fn hash_of(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the file of line `n`, relative to the home.
fn file_of(n: u64) -> String {
    file_named(n.saturating_sub(1) / LINES_A_FILE + 1)
}

fn file_named(number: u64) -> String {
    format!("{AUDIT_FOLDER}/audit-{number:06}.jsonl")
}

/// Returns the file that is dropped when something is written to `file`, if `file` is one of the trail.
pub(super) fn dropped_after(file: &str) -> Option<String> {
    let number =
        file.strip_prefix(AUDIT_FOLDER)?.strip_prefix("/audit-")?.strip_suffix(".jsonl")?.parse::<u64>().ok()?;
    number.checked_sub(FILES_MAX).filter(|old| *old > 0).map(file_named)
}

/// Returns the facts that are not in the chain yet, oldest first: those of a journal that an older kloros wrote.
pub(super) fn unlinked(connection: &Connection) -> rusqlite::Result<Vec<Row>> {
    let kinds = AUDITED.map(|kind| format!("'{}'", kind.label())).join(", ");
    let sql = format!(
        "SELECT seq, cycle, at_ms, kind, subject, body FROM facts
         WHERE kind IN ({kinds}) AND seq > (SELECT coalesce(max(seq), 0) FROM audit) ORDER BY seq"
    );
    let mut statement = connection.prepare(&sql)?;
    statement.query_map([], row)?.collect()
}

fn row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        seq: row.get(0)?,
        cycle: row.get(1)?,
        at_ms: row.get(2)?,
        kind: row.get(3)?,
        subject: row.get(4)?,
        body: row.get(5)?,
    })
}

/// Gives `take` each line of the trail that is kept, as the journal has it: its place, file, text and the hash that was
/// written with the fact.
pub(super) fn lines<E: From<rusqlite::Error>>(
    connection: &Connection,
    mut take: impl FnMut(u64, String, &str, &str) -> Result<(), E>,
) -> Result<(), E> {
    let last: u64 =
        connection.query_row("SELECT coalesce(max(n), 0) FROM audit", [], |row| row.get::<_, i64>(0))?.cast_unsigned();
    let first = first_kept(last);
    let mut statement = connection.prepare(
        "SELECT facts.seq, cycle, at_ms, kind, subject, body, n, hash,
                (SELECT before.hash FROM audit before WHERE before.n = audit.n - 1)
         FROM audit LEFT JOIN facts ON facts.seq = audit.seq WHERE n >= ?1 ORDER BY n",
    )?;
    let mut rows = statement.query([first.cast_signed()])?;
    while let Some(found) = rows.next()? {
        let (n, hash): (i64, String) = (found.get(6)?, found.get(7)?);
        let previous: Option<String> = found.get(8)?;
        // A fact that is gone leaves a line that cannot be what was written.
        let text = match found.get::<_, Option<i64>>(0)? {
            Some(_) => line(n.cast_unsigned(), &row(found)?, previous.as_deref().unwrap_or(BEGINNING)).0,
            None => String::new(),
        };
        take(n.cast_unsigned(), file_of(n.cast_unsigned()), &text, &hash)?;
    }
    Ok(())
}

/// Returns the first line that is kept when `last` is the newest: files go whole.
fn first_kept(last: u64) -> u64 {
    let newest = last.saturating_sub(1) / LINES_A_FILE + 1;
    newest.saturating_sub(FILES_MAX) * LINES_A_FILE + 1
}

/// What the trail was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verified {
    /// Every line is what was written, from the first that is kept to the last.
    Intact {
        /// How many lines were checked.
        lines: u64,
        /// The hash of the last line; written down elsewhere, it proves later that nothing before it was changed.
        head: String,
    },
    /// A link is broken; what comes after it proves nothing.
    Broken {
        /// The file, relative to the home.
        file: String,
        /// The line of the trail, from 1.
        n: u64,
        /// In words.
        why: String,
    },
}

/// Holds the files of the trail against the journal of `home`, and names the first link that is broken.
///
/// A daemon may run: lines that it has not brought into their files yet are looked for where they wait, and a trail that grew
/// meanwhile is looked at anew, `tries_max` times at most.
pub(crate) fn verify(home: &Home, tries_max: u32) -> Result<Verified, JournalError> {
    let reader = Reader::open(home)?;
    let length =
        || reader.connection().query_row("SELECT coalesce(max(n), 0) FROM audit", [], |row| row.get::<_, i64>(0));
    let mut tries = 0;
    let checked = loop {
        let before = length().map_err(|error| reader.fault(&error))?;
        let checked = check(home, reader.connection());
        let is_broken = matches!(&checked, Ok(Verified::Broken { .. }) | Err(Trouble::Broken { .. }));
        tries += 1;
        // Lines that a daemon wrote while the files were read are not in the view of the journal.
        let has_grown = is_broken && length().map_err(|error| reader.fault(&error))? != before;
        if !has_grown || tries >= tries_max {
            break checked;
        }
    };
    match checked {
        Ok(verified) => Ok(verified),
        Err(Trouble::Broken { file, n, why }) => Ok(Verified::Broken { file, n, why }),
        Err(Trouble::Database(error)) => Err(reader.fault(&error).into()),
        Err(Trouble::File(path, error)) => {
            Err(JournalError::Unwritable(format!("{} cannot be read: {error}", path.display())))
        }
    }
}

enum Trouble {
    Database(rusqlite::Error),
    File(PathBuf, io::Error),
    Broken { file: String, n: u64, why: String },
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

fn check(home: &Home, connection: &Connection) -> Result<Verified, Trouble> {
    // One view of the journal for all that is asked of it.
    let connection = connection.unchecked_transaction()?;
    let waiting: Vec<String> = {
        let mut statement = connection.prepare("SELECT content FROM outbox WHERE file LIKE ?1 ORDER BY id")?;
        statement.query_map([format!("{AUDIT_FOLDER}/%")], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
    };
    let mut pages = Pages { root: home.root().to_owned(), open: None };
    let (mut checked, mut head, mut expected) = (0, BEGINNING.to_owned(), None);
    lines::<Trouble>(&connection, |n, file, text, hash| {
        let broken = |why: &str| Err(Trouble::Broken { file: file.clone(), n, why: why.to_owned() });
        if expected.is_some_and(|expected| expected != n) {
            return broken("a link of the chain is missing in the journal");
        }
        expected = Some(n + 1);
        if !text.ends_with(&format!("{hash}\"}}")) {
            return broken("the fact in the journal is not the one that was audited");
        }
        match pages.next(&file, n)? {
            Some(line) if line == text.as_bytes() => {}
            Some(_) => return broken("the line is not the one that was written"),
            None if waiting.iter().any(|line| line == text) => {}
            None => return broken("the line is missing"),
        }
        (checked, head) = (checked + 1, hash.to_owned());
        Ok(())
    })?;
    let next = expected.unwrap_or(1);
    if let Some(fact) = unlinked(&connection)?.first() {
        let why = format!("fact {} of the journal has no link in the chain", fact.seq);
        return Ok(Verified::Broken { file: file_of(next), n: next, why });
    }
    if let Some(file) = pages.rest() {
        let why = "there are lines that nobody wrote".to_owned();
        return Ok(Verified::Broken { file, n: next, why });
    }
    Ok(Verified::Intact { lines: checked, head })
}

/// The lines of the files, in order.
struct Pages {
    root: PathBuf,
    open: Option<(String, BufReader<File>)>,
}

impl Pages {
    /// Returns the next line of `file`, without its end; `None` when there is none.
    fn next(&mut self, file: &str, n: u64) -> Result<Option<Vec<u8>>, Trouble> {
        if self.open.as_ref().is_none_or(|(open, _)| open != file) {
            if let Some(file) = self.rest() {
                let why = "there are lines that nobody wrote before it".to_owned();
                return Err(Trouble::Broken { file, n, why });
            }
            let path = self.root.join(file);
            self.open = match open_plain(&path) {
                Ok(opened) => opened.map(|opened| (file.to_owned(), BufReader::new(opened))),
                Err(error) => return Err(Trouble::File(path, error)),
            };
        }
        let Some((_, pages)) = &mut self.open else { return Ok(None) };
        let mut line = Vec::new();
        let read = pages.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
        read.map_err(|error| Trouble::File(self.root.join(file), error))?;
        if line.is_empty() {
            return Ok(None);
        }
        // A line without its end was cut off, and is not the one that was written.
        Ok(Some(line.strip_suffix(b"\n").map_or_else(Vec::new, <[u8]>::to_vec)))
    }

    /// Returns the file that is open, when it was not read to its end.
    fn rest(&mut self) -> Option<String> {
        let (file, mut pages) = self.open.take()?;
        let is_at_end = matches!(pages.fill_buf(), Ok([]));
        (!is_at_end).then_some(file)
    }
}

/// Opens a plain file; `None` when there is none. Links are not followed and pipes not waited for.
fn open_plain(path: &Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::OFlags;
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is no plain file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seq: i64, body: &str) -> Row {
        Row { seq, cycle: "c-1".into(), at_ms: 0, kind: "thaw".into(), subject: "lab".into(), body: body.into() }
    }

    #[test]
    fn a_line_is_json_and_its_hash_covers_all_of_it_and_the_line_before() {
        let (first, hash) = line(1, &row(7, r#"{"domain":"lab","by_uid":0}"#), BEGINNING);
        let parsed: serde_json::Value = serde_json::from_str(&first).unwrap();
        assert_eq!((&parsed["n"], &parsed["fact"]["domain"]), (&1.into(), &"lab".into()));
        assert_eq!(parsed["hash"], hash.as_str());
        let others = [
            line(2, &row(7, r#"{"domain":"lab","by_uid":0}"#), BEGINNING),
            line(1, &row(8, r#"{"domain":"lab","by_uid":0}"#), BEGINNING),
            line(1, &row(7, r#"{"domain":"lab","by_uid":1}"#), BEGINNING),
            line(1, &row(7, r#"{"domain":"lab","by_uid":0}"#), &hash),
        ];
        assert!(others.iter().all(|(_, other)| *other != hash));
    }

    #[test]
    fn lines_go_on_in_the_next_file_and_the_oldest_file_goes() {
        assert_eq!(file_of(1), "logs/audit/audit-000001.jsonl");
        assert_eq!(file_of(LINES_A_FILE), "logs/audit/audit-000001.jsonl");
        assert_eq!(file_of(LINES_A_FILE + 1), "logs/audit/audit-000002.jsonl");
        assert_eq!(dropped_after(&file_named(FILES_MAX)), None);
        assert_eq!(dropped_after(&file_named(FILES_MAX + 3)), Some(file_named(3)));
        assert_eq!(dropped_after("logs/orchestrator/validations.jsonl"), None);
        for last in [0, 1, LINES_A_FILE * FILES_MAX, LINES_A_FILE * FILES_MAX + 1, LINES_A_FILE * (FILES_MAX + 9)] {
            let (first, newest) = (first_kept(last), file_of(last));
            assert!(dropped_after(&newest).is_none_or(|dropped| dropped < file_of(first)), "{last}");
            assert!(first == 1 || file_of(first) != file_of(first - 1), "files go whole");
        }
    }
}

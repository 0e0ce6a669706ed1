//! How what the journal holds gets into the files that a person reads.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use kloros_actors::{
    facts::{Anchored, Fact, Kind, Metrics},
    seams::{JournalError, Query},
};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    audit,
    fault::Fault,
    files,
    projection::{self, Shape, unprintable},
    reader::Reader,
    writer::{Job, current_feed},
};
use crate::{crash, home::files::BASELINES_FOLDER};

/// How many rows of one file are written with one wait for the disk.
const ROWS_MAX: u32 = 256;

/// How many bytes of one file are written with one wait for the disk; a single longer row goes alone.
const BYTES_MAX: usize = 4 << 20;

/// How many verdicts are looked at for baselines that are missing.
const VERDICTS_MAX: usize = 1_000;

/// How much of a file is read to see whether it is JSON, in bytes.
const JSON_BYTES_MAX: u64 = 16 << 20;

/// Why not all files are up to date. What is missing is written by a later flush.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    /// A file cannot be written.
    #[error("cannot write {path}, its lines are kept until it can")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The journal cannot say what is to be written, or not remember what was.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl From<Fault> for FlushError {
    fn from(fault: Fault) -> Self {
        Self::Journal(fault.into())
    }
}

/// Takes rows out of the outbox and writes them into their files, each file's rows in their order.
pub(super) struct Pump {
    root: PathBuf,
    reader: Reader,
    jobs: mpsc::WeakSender<Job>,
}

struct Row {
    id: i64,
    content: String,
}

impl Pump {
    pub(super) fn new(root: &Path, reader: Reader, jobs: &mpsc::Sender<Job>) -> Self {
        // A weak handle, so that the pump does not keep the writer alive that it belongs to.
        Self { root: root.to_owned(), reader, jobs: jobs.downgrade() }
    }

    /// Writes what was in the outbox at the beginning, and returns how many rows that were. Blocks on the disk.
    pub(super) fn flush(&mut self) -> Result<usize, FlushError> {
        let (files, last) = self.waiting().map_err(|error| self.reader.fault(&error))?;
        let mut written = 0;
        let mut first_trouble = None;
        for (file, shape) in files {
            match self.flush_file(&file, &shape, last) {
                Ok(rows) => written += rows,
                Err(FlushError::Journal(error)) => return Err(error.into()),
                Err(trouble) => first_trouble = first_trouble.or(Some(trouble)),
            }
        }
        first_trouble.map_or(Ok(written), Err)
    }

    /// Writes the feed and the baselines anew that are missing or damaged, and returns how many. A baseline that somebody
    /// edited soundly stays, see [`Pump::edited`]. Looks at the newest [`VERDICTS_MAX`] verdicts; a rebuild looks at all.
    pub(super) fn mend(&mut self) -> Result<usize, FlushError> {
        let mut mended = 0;
        if let Some(feed) = current_feed(self.reader.connection()).map_err(|error| self.reader.fault(&error))? {
            let feed = feed.map_err(|error| unprintable(&error))?;
            let path = self.root.join(feed.file);
            mended += usize::from(replace_unless(is_json(&path), &path, &feed.content)?);
        }
        for (file, (fact, content)) in self.baselines()? {
            let path = self.root.join(file);
            mended += usize::from(replace_unless(metrics_in(&path, domain_of(&fact)).is_some(), &path, &content)?);
        }
        Ok(mended)
    }

    /// Returns the baselines that somebody edited soundly since they were written: what they say counts from now on.
    pub(super) fn edited(&mut self) -> Result<Vec<Anchored>, FlushError> {
        let mut edited = Vec::new();
        let (waiting, _) = self.waiting().map_err(|error| self.reader.fault(&error))?;
        for (file, (fact, _)) in self.baselines()? {
            // What is not written yet is no edit.
            if waiting.iter().any(|(other, _)| *other == file) {
                continue;
            }
            let Some(metrics) = metrics_in(&self.root.join(file), domain_of(&fact)) else { continue };
            if !holds(&fact, &metrics) {
                edited.push(Anchored { domain: domain_of(&fact).to_owned(), metrics });
            }
        }
        Ok(edited)
    }

    /// Returns the baselines that somebody edited soundly since they were written, of those that are about to be written again: an
    /// edit is not overwritten without a word. What a file says of its place in the journal tells what was written into it.
    pub(super) fn edited_meanwhile(&mut self) -> Result<Vec<Anchored>, FlushError> {
        let (waiting, _) = self.waiting().map_err(|error| self.reader.fault(&error))?;
        let (newest, mut edited) = (self.baselines()?, Vec::new());
        for (file, _) in waiting.iter().filter(|(file, _)| Path::new(file).starts_with(BASELINES_FOLDER)) {
            let path = self.root.join(file);
            // One that is none, or of another domain, is damaged, and what is written makes it whole.
            let Some(found) = found_in(&path).filter(|found| projection::baseline_file(&found.domain) == *file) else {
                continue;
            };
            let Some(metrics) = metrics_in(&path, &found.domain) else { continue };
            let after = found.seq.unwrap_or_default().saturating_sub(1);
            let place = Query { after, limit: 1, ..Query::default() };
            let written = self.reader.select(&place)?.into_iter().find(|written| Some(written.seq) == found.seq);
            let is_ours = written
                .is_some_and(|written| domain_of(&written.fact) == found.domain && holds(&written.fact, &metrics));
            // It was taken over already, and what was made of it waits to be written.
            let is_known = newest.get(file.as_str()).is_some_and(|(fact, _)| holds(fact, &metrics));
            if !is_ours && !is_known {
                edited.push(Anchored { domain: found.domain, metrics });
            }
        }
        Ok(edited)
    }

    /// Returns the fact behind each baseline, by its file, and what the file holds by that.
    fn baselines(&self) -> Result<BTreeMap<String, (Fact, String)>, FlushError> {
        let mut wanted = BTreeMap::new();
        for recorded in self.reader.select(&Query::newest(&[Kind::Verdict, Kind::Anchored], VERDICTS_MAX))? {
            let projected = projection::of(&recorded).map_err(|error| unprintable(&error))?;
            for baseline in projected.into_iter().filter(|projected| projected.shape == Shape::Whole) {
                wanted.entry(baseline.file).or_insert_with(|| (recorded.fact.clone(), baseline.content));
            }
        }
        Ok(wanted)
    }

    fn flush_file(&mut self, file: &str, shape: &str, last: i64) -> Result<usize, FlushError> {
        let path = self.root.join(file);
        let mut written = 0;
        loop {
            let rows = self.rows(file, last).map_err(|error| self.reader.fault(&error))?;
            let Some(newest) = rows.last() else { return Ok(written) };
            let put = if shape == Shape::Whole.label() {
                files::replace(&path, newest.content.as_bytes())
            } else {
                files::append_lines(&path, &rows.iter().map(|row| row.content.as_str()).collect::<Vec<_>>())
            };
            put.map_err(|source| FlushError::File { path: path.clone(), source })?;
            if let Some(old) = audit::dropped_after(file) {
                // One that is gone already, or cannot go yet, is tried again with the next lines.
                fs::remove_file(self.root.join(old)).ok();
            }
            written += rows.len();
            crash::here("outbox: delivered");
            self.delivered(rows.iter().map(|row| row.id).collect())?;
        }
    }

    /// Returns the files with rows, longest waiting first, and the newest row of all.
    fn waiting(&self) -> rusqlite::Result<(Vec<(String, String)>, i64)> {
        let connection = self.reader.connection();
        let last = connection.query_row("SELECT coalesce(max(id), 0) FROM outbox", [], |row| row.get(0))?;
        let mut statement =
            connection.prepare_cached("SELECT file, shape FROM outbox GROUP BY file ORDER BY min(id)")?;
        let files = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok((files.collect::<rusqlite::Result<_>>()?, last))
    }

    fn rows(&self, file: &str, last: i64) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self
            .reader
            .connection()
            .prepare_cached("SELECT id, content FROM outbox WHERE file = ?1 AND id <= ?2 ORDER BY id LIMIT ?3")?;
        let mut found = statement.query(rusqlite::params![file, last, ROWS_MAX])?;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let row = Row { id: row.get(0)?, content: row.get(1)? };
            bytes += row.content.len();
            if bytes > BYTES_MAX && !rows.is_empty() {
                break;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    fn delivered(&self, ids: Vec<i64>) -> Result<(), FlushError> {
        let ended = || JournalError::Unwritable("the journal was closed during a flush".to_owned());
        let (answer, answered) = oneshot::channel();
        let jobs = self.jobs.upgrade().ok_or_else(ended)?;
        jobs.blocking_send(Job::Delivered(ids, answer)).map_err(|_| ended())?;
        Ok(answered.blocking_recv().map_err(|_| ended())??)
    }
}

/// Replaces a file unless it is sound, and says whether it did.
fn replace_unless(is_sound: bool, path: &Path, content: &str) -> Result<bool, FlushError> {
    if is_sound {
        return Ok(false);
    }
    files::replace(path, content.as_bytes()).map_err(|source| FlushError::File { path: path.to_owned(), source })?;
    Ok(true)
}

/// Returns whether a baseline of `metrics` is what is written for `fact`.
fn holds(fact: &Fact, metrics: &Metrics) -> bool {
    match fact {
        // An older kloros wrote the medians themselves.
        Fact::Verdict(verdict) => verdict.certifies().as_ref() == Some(metrics) || *metrics == verdict.after,
        Fact::Anchored(anchored) => *metrics == anchored.metrics,
        _ => false,
    }
}

fn domain_of(fact: &Fact) -> &str {
    match fact {
        Fact::Verdict(verdict) => &verdict.domain,
        other => other.subject(),
    }
}

/// Returns the numbers of the baseline of `domain` in the file at `path`; `None` where that is no baseline of it, or one of
/// them is no amount.
fn metrics_in(path: &Path, domain: &str) -> Option<Metrics> {
    let found = found_in(path)?;
    let is_sound = found.domain == domain && !found.metrics.is_empty();
    let are_amounts = found.metrics.values().all(|value| value.is_finite() && *value >= 0.0);
    (is_sound && are_amounts).then_some(found.metrics)
}

/// What a baseline file says.
#[derive(Deserialize)]
struct Found {
    domain: String,
    metrics: Metrics,
    /// The place of the fact that it was made from.
    #[serde(default)]
    seq: Option<u64>,
}

fn found_in(path: &Path) -> Option<Found> {
    let plain = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let file = File::open(path).ok().filter(|_| plain)?;
    serde_json::from_reader(BufReader::new(file.take(JSON_BYTES_MAX))).ok()
}

/// Returns whether a plain file with one JSON object lies at `path`.
fn is_json(path: &Path) -> bool {
    let plain = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let parsed = File::open(path).ok().filter(|_| plain).map(|file| {
        serde_json::from_reader::<_, serde_json::Map<String, serde_json::Value>>(BufReader::new(
            file.take(JSON_BYTES_MAX),
        ))
    });
    matches!(parsed, Some(Ok(_)))
}

//! What is remembered beside the journal, so that a journal that is gone or was cut short is not taken for a new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::fault::Fault;

/// How much of the file is read, in bytes.
const TEXT_MAX: u64 = 32;

/// The smallest page of a database, in bytes: a shorter file holds nothing, and `SQLite` would begin it afresh.
pub(super) const PAGE_BYTES_MIN: u64 = 512;

/// Says how many facts the journal holds at least. It is written after the facts and not waited for: after a power
/// failure it may say too little, never too much.
#[derive(Debug)]
pub(super) struct Mark(File);

impl Mark {
    /// Opens the mark of the journal at `path`, and makes one that says `facts` durable if there is none.
    pub(super) fn open(path: &Path, facts: u64) -> Result<Self, Fault> {
        let name = name(path);
        let unwritable = |error: io::Error| Fault::Unwritable(format!("cannot write {}: {error}", name.display()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&name).map_err(unwritable)?;
        let mark = Self(file);
        mark.write(facts)
            .and_then(|()| mark.0.sync_all())
            .and_then(|()| File::open(name.parent().unwrap_or(Path::new("/")))?.sync_all())
            .map_err(unwritable)?;
        Ok(mark)
    }

    /// Remembers that the journal holds so many facts. Without it only less is noticed, so that it fails is no failure.
    pub(super) fn set(&self, facts: u64) {
        if let Err(error) = self.write(facts) {
            tracing::warn!(%error, "the mark beside the journal cannot be written");
        }
    }

    fn write(&self, facts: u64) -> io::Result<()> {
        // Always as long as it was, so that it needs no room on a disk that has none left.
        self.0.write_all_at(format!("{facts:020} facts\n").as_bytes(), 0)
    }
}

/// Returns how many facts stood in the journal at `path` at least; `None` when it is not known that one was there.
pub(super) fn known(path: &Path) -> Result<Option<u64>, Fault> {
    let name = name(path);
    let unreadable = |error: io::Error| Fault::Unwritable(format!("cannot read {}: {error}", name.display()));
    let mut text = Vec::new();
    match File::open(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(file) => file.take(TEXT_MAX).read_to_end(&mut text).map_err(unreadable)?,
    };
    // A mark that cannot be understood still says that there was a journal.
    let number = String::from_utf8_lossy(&text).split_whitespace().next().and_then(|first| first.parse().ok());
    Ok(Some(number.unwrap_or(0)))
}

/// Refuses a journal that is missing or has no content where one was. Nothing is opened, because `SQLite` removes the
/// write-ahead log of an empty database, which may be all that is left.
pub(super) fn refuse_lost(path: &Path) -> Result<(), Fault> {
    let was_there = known(path)?.is_some() || has_log(path);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && was_there => Err(lost(path, "is gone")),
        Ok(found) if found.is_file() && found.len() < PAGE_BYTES_MIN && was_there => Err(lost(path, "is empty")),
        _ => Ok(()),
    }
}

/// Returns whether the journal at `path` has a write-ahead log with something in it.
pub(super) fn has_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(Path::new(&log)).is_ok_and(|found| found.len() > 0)
}

/// Refuses a journal of so many `facts` when more were written to it.
pub(super) fn refuse_fewer(path: &Path, written: Option<u64>, facts: u64) -> Result<(), Fault> {
    match written {
        Some(written) if written > facts => Err(lost(
            path,
            &format!("holds {facts} facts, and {written} were written: it or its -wal file was cut short"),
        )),
        _ => Ok(()),
    }
}

/// Says what is lost, and the way out.
pub(super) fn lost(path: &Path, what: &str) -> Fault {
    let (path, mark, log) = (path.display(), name(path), if has_log(path) { " and its -wal file" } else { "" });
    Fault::Damaged(format!(
        "{path} {what}. Put the file of a backup there; or, to go on without what is lost, remove {}{log} and start again",
        mark.display()
    ))
}

fn name(path: &Path) -> PathBuf {
    path.with_extension("mark")
}

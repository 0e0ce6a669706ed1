//! The journal of a run: one line of JSON for the plan, and one for each trial, each with a checksum of all before it.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{plan::Plan, trial::Trial};

/// The largest journal that is read, in bytes.
const BYTES_MAX: u64 = 256 << 20;

/// What every line begins with, and how many digits of a checksum follow.
const BEGIN: &str = "{\"sum\":\"";
const DIGITS: usize = 16;

/// Why there is no journal to write to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot use the journal {path}", path = path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process writes to it.
    #[error("another process writes to {path}: wait for it, or name another file", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is some other file.
    #[error("{path} is no journal of `kloros tune`, and stays as it is: name another file", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A line is not what was written.
    #[error("{path}:{line} is not what was written, so nothing is built on it: name another file to begin anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record {
    Plan(Box<Plan>),
    Trial(Trial),
}

/// A journal that this process alone writes to.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The checksum of the last line.
    sum: String,
}

impl Journal {
    /// Opens the journal at `path`, which may be absent, and returns with it the plan and the trials that stand there.
    ///
    /// A line that was cut off while it was written is taken away: what it was about to say was not heard by anybody.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Plan>, Vec<Trial>), JournalError> {
        let unusable = |source| JournalError::Unusable { path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            // Reasons of failures may tell what others should not read.
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        }
        let mut options = OpenOptions::new();
        // Opening a pipe would wait for somebody at its other end.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
        let mut file = file.open(path).map_err(unusable)?;
        if !file.metadata().map_err(unusable)?.is_file() {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::InUse { path: path.to_owned() }),
            Err(error) => return Err(unusable(error.into())),
        }
        let mut bytes = Vec::new();
        (&mut file).take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unusable)?;
        let (sum, plan, trials, whole) = parse(path, &bytes)?;
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(unusable)?;
        Ok((Self { path: path.to_owned(), file, sum }, plan, trials))
    }

    /// Returns where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the first line.
    pub(crate) fn begin(&mut self, plan: &Plan) -> Result<(), JournalError> {
        self.append(&Record::Plan(Box::new(plan.clone())))
    }

    /// Writes what came of a trial; it is on disk when this returns.
    pub(super) fn note(&mut self, trial: &Trial) -> Result<(), JournalError> {
        self.append(&Record::Trial(trial.clone()))
    }

    fn append(&mut self, record: &Record) -> Result<(), JournalError> {
        let text = serde_json::to_string(record).map_err(io::Error::other);
        let written = text.and_then(|text| {
            let body = text.get(1..).unwrap_or_default();
            let sum = checksum(&self.sum, body);
            // One write, so that what is cut off is cut off at the end.
            self.file.write_all(format!("{BEGIN}{sum}\",{body}\n").as_bytes())?;
            self.file.sync_data()?;
            self.sum = sum;
            Ok(())
        });
        written.map_err(|source| JournalError::Unusable { path: self.path.clone(), source })
    }
}

type Parsed = (String, Option<Plan>, Vec<Trial>, usize);

/// Returns the last checksum, the plan, the trials, and how many bytes of whole lines there are.
fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, JournalError> {
    let foreign = || JournalError::Foreign { path: path.to_owned() };
    let begins_well = bytes.iter().zip(BEGIN.as_bytes()).all(|(found, wanted)| found == wanted);
    if !begins_well || bytes.len() as u64 > BYTES_MAX {
        return Err(foreign());
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (mut sum, mut plan, mut trials) = (String::new(), None, Vec::new());
    for (index, line) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let damaged = || JournalError::Damaged { path: path.to_owned(), line: index + 1 };
        let line = std::str::from_utf8(line).map_err(|_| damaged())?.trim_end_matches('\n');
        let rest = line.strip_prefix(BEGIN).ok_or_else(damaged)?;
        let (found, body) = rest.split_at_checked(DIGITS).ok_or_else(damaged)?;
        let body = body.strip_prefix("\",").ok_or_else(damaged)?;
        if checksum(&sum, body) != found {
            return Err(damaged());
        }
        found.clone_into(&mut sum);
        match serde_json::from_str(&format!("{{{body}")).map_err(|_| damaged())? {
            Record::Plan(read) if index == 0 => plan = Some(*read),
            Record::Trial(trial) if index > 0 => trials.push(trial),
            Record::Plan(_) | Record::Trial(_) => return Err(damaged()),
        }
    }
    Ok((sum, plan, trials, whole))
}

/// Returns the checksum of a line, which covers the lines before it by the checksum of the last one.
fn checksum(before: &str, body: &str) -> String {
    let digest = Sha256::new().chain_update(before).chain_update(body).finalize();
    digest.iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kloros_actors::facts::{Direction, FailureKind, Metrics, TrialFailure};
    use kloros_search::{Config, Space, SpaceSpec, Value};

    use super::*;

    fn plan() -> Plan {
        Plan {
            argv: vec!["./bench".to_owned()],
            folder: "/srv".into(),
            space: Space::new(SpaceSpec::default()).unwrap(),
            default: None,
            metric: "ms".to_owned(),
            direction: Direction::Down,
            budget: 2,
            batch: 1,
            parallel: 1,
            seed: 1,
            noisy: true,
            timeout_ms: 1000,
            within_ms: None,
        }
    }

    fn trials() -> Vec<Trial> {
        let config = Config::from([("X".to_owned(), Value::Float(0.1 + 0.2))]);
        let failure = Some(TrialFailure { kind: FailureKind::Died, detail: "\"so\" \u{fc}\n".to_owned() });
        let measured =
            Trial { id: 1, config, value: Some(1e-7), metrics: Metrics::new(), failure: None, took_ms: 3, spent_ms: 9 };
        vec![measured.clone(), Trial { id: 2, value: None, failure, ..measured }]
    }

    /// Returns a folder with a journal of two trials in it.
    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new").join("journal");
        let (mut journal, begun, done) = Journal::open(&path).unwrap();
        assert_eq!((begun, done), (None, Vec::new()));
        journal.begin(&plan()).unwrap();
        for trial in &trials() {
            journal.note(trial).unwrap();
        }
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read_to_the_last_bit() {
        let (_folder, path) = written();
        let (_, begun, done) = Journal::open(&path).unwrap();
        assert_eq!((begun, done), (Some(plan()), trials()));
    }

    #[test]
    fn cut_off_at_any_byte_it_holds_the_whole_lines_before_and_is_written_on() {
        let (_folder, path) = written();
        let bytes = fs::read(&path).unwrap();
        let ends: Vec<usize> =
            bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for length in 0..=bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count();
            let (mut journal, begun, mut done) = Journal::open(&path).unwrap();
            assert_eq!((begun.is_some(), done.len()), (whole > 0, whole.saturating_sub(1)), "{length}");
            if begun.is_none() {
                journal.begin(&plan()).unwrap();
            }
            for trial in &trials()[done.len()..] {
                journal.note(trial).unwrap();
            }
            drop(journal);
            (_, _, done) = Journal::open(&path).unwrap();
            assert_eq!(done, trials(), "{length}");
        }
    }

    #[test]
    fn a_line_that_was_changed_removed_or_moved_is_found() {
        let (_folder, path) = written();
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let changed = text.replace("1e-7", "1e-6");
        for (damaged, line) in [
            (changed, 2),
            (format!("{}\n{}\n", lines[0], lines[2]), 2),
            (format!("{}\n{}\n{}\n", lines[0], lines[2], lines[1]), 2),
            (format!("{}\n{}\n", lines[0], lines[0]), 2),
            (format!("{}\n\n", lines[0]), 2),
        ] {
            fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("journal:{line} is not what was written")), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged, "it stays as it is");
        }
    }

    #[test]
    fn any_other_file_is_refused_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        for text in ["mine", "{\"sum\": 1}\n", "{}\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Journal::open(&path), Err(JournalError::Foreign { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(Journal::open(Path::new("/dev/null")), Err(JournalError::Foreign { .. })));
    }

    #[test]
    fn two_processes_do_not_write_to_one_journal() {
        let (_folder, path) = written();
        let held = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse { .. })));
        drop(held);
        assert!(Journal::open(&path).is_ok());
    }
}

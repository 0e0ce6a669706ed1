use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use kloros_actors::{
    facts::{Kind, Recorded},
    seams::{JournalError, Query},
};

use rusqlite::Connection;

use super::{
    audit,
    fault::Fault,
    files::{self, Replacement},
    open_work,
    projection::{self, Projected, Shape, unprintable},
    reader::Reader,
    schema,
    writer::{current_feed, take_over, take_up_older},
};
use crate::home::{Home, HomeError, files as names};

/// How many facts are read at once.
const PAGE_FACTS: usize = 500;

/// How many whole files are held before they are written.
const HELD_MAX: usize = 1_000;

/// The logs that are made of lines.
const LOGS: [&str; 3] = [names::EXPERIMENTS, names::VALIDATIONS, names::FEEDBACK];

/// The kinds of facts that become lines or files of their own.
const PROJECTED: [Kind; 6] =
    [Kind::Experiment, Kind::Generation, Kind::ExperimentEnd, Kind::Verdict, Kind::Lesson, Kind::Anchored];

/// What a rebuild wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rebuilt {
    /// How many lines the logs hold now.
    pub(crate) lines: usize,
    /// How many files were written.
    pub(crate) files: usize,
}

/// Why the files could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    /// A daemon works in the home, or it cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The journal cannot be read, or is damaged: nothing was replaced by what it says.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file cannot be written; it and those after it are as they were.
    #[error("cannot write {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl From<Fault> for RebuildError {
    fn from(fault: Fault) -> Self {
        Self::Journal(fault.into())
    }
}

/// Writes all projected files of `home` anew from the journal, each at one instant. The daemon must not run. Winners
/// that their owner put there, and files that no fact speaks of, stay.
pub(crate) fn rebuild(home: &Home) -> Result<Rebuilt, RebuildError> {
    let path = home.journal();
    // An absent journal is said to be missing, not created: an empty one would empty the logs. Nor is a home created.
    if path.symlink_metadata().is_err() {
        Reader::at(path.clone())?;
    }
    let _lock = home.lock()?;
    let reader = Reader::at(path.clone())?;
    reader.verify()?;
    let mut connection = schema::open_writer(&path)?;
    let told = |error: rusqlite::Error| Fault::of(&path, &error);
    take_over(&connection).map_err(told)?;
    connection.execute_batch(open_work::DOUBT).map_err(told)?;
    take_up_older(&mut connection).map_err(told)?;
    connection.execute_batch(REOPEN_QUESTIONS).map_err(told)?;
    let mut press = Press::new(home.root())?;
    let mut after = 0;
    loop {
        let query = Query { after, limit: PAGE_FACTS, ..Query::kinds(&PROJECTED) };
        let page = reader.select(&query)?;
        let Some(last) = page.last().map(|recorded| recorded.seq) else { break };
        page.iter().try_for_each(|recorded| press.fact(recorded))?;
        after = last;
    }
    if let Some(feed) = current_feed(&connection).map_err(told)? {
        press.take(feed.map_err(|error| unprintable(&error))?)?;
    }
    let mut rebuilt = press.finish()?;
    rebuild_audit(home.root(), &connection, &path, &mut rebuilt)?;
    // What waited to be written stands in the files now.
    connection.execute("DELETE FROM outbox", []).map_err(told)?;
    Ok(rebuilt)
}

/// Writes the audit trail anew, as far as it is kept. A fact that is not the one that was audited ends it: what a rebuild
/// would write then is no proof of anything.
fn rebuild_audit(
    root: &Path,
    connection: &Connection,
    journal: &Path,
    rebuilt: &mut Rebuilt,
) -> Result<(), RebuildError> {
    let mut open: Option<(PathBuf, Replacement)> = None;
    let finish = |open: Option<(PathBuf, Replacement)>, rebuilt: &mut Rebuilt| match open {
        Some((path, file)) => {
            rebuilt.files += 1;
            file.finish().map_err(|source| RebuildError::File { path, source })
        }
        None => Ok(()),
    };
    let written = audit::lines::<RebuildOf>(connection, |n, file, text, hash| {
        if !text.ends_with(&format!("{hash}\"}}")) {
            let why = format!("{}: line {n} of the audit trail is not what was written", journal.display());
            return Err(RebuildError::from(Fault::Damaged(why)).into());
        }
        let path = root.join(file);
        if open.as_ref().is_none_or(|(open, _)| *open != path) {
            finish(open.take(), rebuilt)?;
            let begun =
                Replacement::begin(&path).map_err(|source| RebuildError::File { path: path.clone(), source })?;
            open = Some((path, begun));
        }
        if let Some((path, file)) = &mut open {
            let put = file.write(format!("{text}\n").as_bytes());
            put.map_err(|source| RebuildError::File { path: path.clone(), source })?;
        }
        rebuilt.lines += 1;
        Ok(())
    });
    written.map_err(|trouble| match trouble {
        RebuildOf::Database(error) => RebuildError::from(Fault::of(journal, &error)),
        RebuildOf::Rebuild(error) => error,
    })?;
    finish(open, rebuilt)
}

enum RebuildOf {
    Database(rusqlite::Error),
    Rebuild(RebuildError),
}

impl From<rusqlite::Error> for RebuildOf {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<RebuildError> for RebuildOf {
    fn from(error: RebuildError) -> Self {
        Self::Rebuild(error)
    }
}

/// Derives the open questions from the facts once more.
const REOPEN_QUESTIONS: &str = "
    BEGIN IMMEDIATE;
    DELETE FROM open_questions;
    INSERT INTO open_questions (question, seq)
        SELECT asked.subject, max(asked.seq) FROM facts asked WHERE asked.kind = 'question'
        GROUP BY asked.subject
        HAVING max(asked.seq) > coalesce(
            (SELECT max(ended.seq) FROM facts ended WHERE ended.subject = asked.subject AND ended.kind = 'question_end'),
            0);
    COMMIT;
";

/// Collects lines and files, and puts them in their places.
struct Press {
    root: PathBuf,
    logs: BTreeMap<&'static str, (Replacement, usize)>,
    whole: BTreeMap<String, String>,
    rebuilt: Rebuilt,
}

impl Press {
    fn new(root: &Path) -> Result<Self, RebuildError> {
        let mut logs = BTreeMap::new();
        for name in LOGS {
            let path = root.join(name);
            let log = Replacement::begin(&path).map_err(|source| RebuildError::File { path, source })?;
            logs.insert(name, (log, 0));
        }
        Ok(Self { root: root.to_owned(), logs, whole: BTreeMap::new(), rebuilt: Rebuilt::default() })
    }

    fn fact(&mut self, recorded: &Recorded) -> Result<(), RebuildError> {
        projection::of(recorded)
            .map_err(|error| unprintable(&error))?
            .into_iter()
            .try_for_each(|projected| self.take(projected))
    }

    fn take(&mut self, projected: Projected) -> Result<(), RebuildError> {
        let Projected { file, shape, content } = projected;
        if shape == Shape::Line
            && let Some((log, lines)) = self.logs.get_mut(file.as_str())
        {
            *lines += 1;
            let path = self.root.join(file);
            return log.write(format!("{content}\n").as_bytes()).map_err(|source| RebuildError::File { path, source });
        }
        // Of several contents of a file the newest is the one that stays.
        self.whole.insert(file, content);
        if self.whole.len() >= HELD_MAX { self.write_whole() } else { Ok(()) }
    }

    fn write_whole(&mut self) -> Result<(), RebuildError> {
        for (file, content) in std::mem::take(&mut self.whole) {
            let path = self.root.join(file);
            files::replace(&path, content.as_bytes()).map_err(|source| RebuildError::File { path, source })?;
            self.rebuilt.files += 1;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Rebuilt, RebuildError> {
        self.write_whole()?;
        for (name, (log, lines)) in std::mem::take(&mut self.logs) {
            let path = self.root.join(name);
            // A log without lines that is not there is as it should be.
            if lines == 0 && !path.exists() {
                continue;
            }
            log.finish().map_err(|source| RebuildError::File { path, source })?;
            self.rebuilt.lines += lines;
            self.rebuilt.files += 1;
        }
        Ok(self.rebuilt)
    }
}

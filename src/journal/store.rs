use std::{path::Path, sync::Arc, thread, time::Duration};

use async_trait::async_trait;
use kloros_actors::{
    facts::{Anchored, CycleId, Entry, Fact, Recorded},
    seams::{Appended, Journal, JournalError, Query},
};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use super::{
    fault::Fault,
    mark::Mark,
    outbox::{FlushError, Pump},
    reader::Reader,
    schema::{self, Identity},
    writer::{Job, Shared, Writer, last_place, take_over, take_up_older},
};
use crate::home::Home;

/// How many callers may wait for the writer before further ones wait for a place.
const JOBS_MAX: usize = 256;

/// How long the facts are checked when the journal is opened, newest first.
const FACTS_CHECK_MAX: Duration = Duration::from_millis(300);

/// The journal of a running daemon. Clones are handles to the same one.
#[derive(Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
    reader: Arc<Mutex<Reader>>,
    pump: Arc<Mutex<Pump>>,
    shared: Arc<Shared>,
}

/// Opens the journal of `home` for writing, and creates it if it is missing. Whoever opened it before can no longer
/// write. A damaged, foreign or newer one is refused untouched.
pub(crate) fn open(home: &Home) -> Result<Store, JournalError> {
    home.create().map_err(|error| Fault::Unwritable(chain(&error)))?;
    let path = home.journal();
    let mut connection = schema::open_writer(&path)?;
    let told = |error: rusqlite::Error| Fault::of(&path, &error);
    let reader = Reader::at(path.clone())?;
    let verified = reader.verify_facts(Some(FACTS_CHECK_MAX))?;
    if verified.checked < verified.facts {
        tracing::warn!(verified.checked, verified.facts, "the older facts are not checked at the start");
    }
    // Whoever had it before may no longer write, once it is known to be worth having.
    let epoch = take_over(&connection).map_err(told)?;
    take_up_older(&mut connection).map_err(told)?;
    let last = last_place(&connection).map_err(told)?.cast_unsigned();
    let (identity, mark) = (Identity::of(&path)?, Mark::open(&path, last)?);
    let shared = Arc::new(Shared { identity, suspect: std::sync::OnceLock::new(), appended: watch::Sender::new(last) });
    let (jobs, waiting) = mpsc::channel(JOBS_MAX);
    let writer = Writer::new(connection, shared.clone(), epoch, mark);
    start(writer, waiting, &path)?;
    let pump = Pump::new(home.root(), Reader::at(path.clone())?, &jobs);
    Ok(Store { jobs, reader: Arc::new(Mutex::new(reader)), pump: Arc::new(Mutex::new(pump)), shared })
}

fn start(writer: Writer, waiting: mpsc::Receiver<Job>, path: &Path) -> Result<(), Fault> {
    let started = thread::Builder::new().name("journal".to_owned()).spawn(move || writer.run(waiting));
    started
        .map(drop)
        .map_err(|error| Fault::Unwritable(format!("cannot start the writer of {}: {error}", path.display())))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

impl Store {
    /// Returns the place of the newest fact, and a way to wait for newer ones.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.shared.appended.subscribe()
    }

    /// Brings the files that a person reads up to date, and returns how many lines and files were written. A file
    /// that cannot be written keeps its rows for the next call and holds up no other. A baseline that somebody edited is taken over
    /// before another one is written in its place.
    pub(crate) async fn flush(&self, now_ms: u64) -> Result<usize, FlushError> {
        let edited = self.pumped(Pump::edited_meanwhile).await?;
        self.adopt(edited, now_ms).await?;
        self.pumped(Pump::flush).await
    }

    /// Moves everything into the database file itself, so that a journal that is at rest is one file to copy.
    pub(crate) async fn fold(&self) -> Result<(), JournalError> {
        let (answer, folded) = oneshot::channel();
        self.jobs.send(Job::Fold(answer)).await.map_err(|_| ended())?;
        folded.await.map_err(|_| ended())?
    }

    /// Writes the feed and the baselines anew that are missing or damaged, and returns how many. For the start.
    pub(crate) async fn mend(&self) -> Result<usize, FlushError> {
        self.pumped(Pump::mend).await
    }

    /// Takes over the baselines that somebody edited soundly since they were written, and says so in the journal. For the
    /// start.
    pub(crate) async fn adopt_baselines(&self, now_ms: u64) -> Result<(), FlushError> {
        let edited = self.pumped(Pump::edited).await?;
        self.adopt(edited, now_ms).await
    }

    async fn adopt(&self, edited: Vec<Anchored>, now_ms: u64) -> Result<(), FlushError> {
        let entries = edited.into_iter().map(|anchored| {
            tracing::warn!(domain = %anchored.domain, "baseline was edited by hand, and is taken over");
            Entry::new(&CycleId::new("c-operator"), now_ms, Fact::Anchored(anchored))
        });
        Ok(self.append(entries.collect()).await.map(drop)?)
    }

    async fn pumped<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Pump) -> Result<T, FlushError> + Send + 'static,
    ) -> Result<T, FlushError> {
        let mut pump = self.pump.clone().lock_owned().await;
        match tokio::task::spawn_blocking(move || work(&mut pump)).await {
            Ok(done) => done,
            Err(error) => Err(FlushError::Journal(JournalError::Unwritable(format!("the flush ended: {error}")))),
        }
    }
}

/// The thread only ends on a panic, which nothing but a fresh process mends.
fn ended() -> JournalError {
    JournalError::Damaged("the thread that writes the journal has ended".to_owned())
}

#[async_trait]
impl Journal for Store {
    async fn append(&self, entries: Vec<Entry>) -> Result<Vec<Appended>, JournalError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.send(Job::Append(entries, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    async fn read(&self, query: Query) -> Result<Vec<Recorded>, JournalError> {
        let reader = self.reader.clone().lock_owned().await;
        let found = tokio::task::spawn_blocking(move || reader.select(&query)).await;
        let found = found.unwrap_or_else(|error| Err(Fault::Unwritable(format!("the read ended: {error}"))));
        // What cannot be read was damaged on disk, and nobody may build on it.
        found.inspect_err(|fault| self.shared.learn(fault)).map_err(JournalError::from)
    }

    /// Not after a failed write or read, and not when its file was removed or replaced meanwhile.
    fn check(&self) -> Result<(), JournalError> {
        Ok(self.shared.check()?)
    }
}

/// The journal of a home that has none which could be used, and why.
pub(crate) struct Lost(pub(crate) String);

#[async_trait]
impl Journal for Lost {
    async fn append(&self, _: Vec<Entry>) -> Result<Vec<Appended>, JournalError> {
        Err(JournalError::Damaged(self.0.clone()))
    }

    async fn read(&self, _: Query) -> Result<Vec<Recorded>, JournalError> {
        Err(JournalError::Damaged(self.0.clone()))
    }

    fn check(&self) -> Result<(), JournalError> {
        Err(JournalError::Damaged(self.0.clone()))
    }
}

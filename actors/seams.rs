//! What is plugged in: the loop does no file, process, GPU or network I/O itself, it asks these traits for it.
//!
//! Each is the consumer's: it says what the loop needs, in the loop's words. The adapters in `src/` decide nothing.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;

mod archive;
mod capacity;

mod errand;

mod notes;

mod undo;

pub use archive::{Archive, ArchiveError, Look, Looked, NoArchive};
pub use capacity::Capacity;
pub use errand::{Borrower, Errand, Permit, Planning, Untried};
pub use kloros_supervision::{Collected, Down, Outlet, Socket};
pub use notes::{NoteError, Notes};
pub use undo::{Alone, Claimed, Guard, PendingStore, Terms};

use crate::facts::{
    CycleId, DeploymentId, Domain, Entry, Incarnation, Key, Kind, Measurement, Others, Reading, Recorded, Settings,
    Stop, TrialFailure,
};

/// Everything that is plugged in.
#[derive(Clone)]
pub struct Seams {
    /// Where facts become durable.
    pub journal: Arc<dyn Journal>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How candidates are measured.
    pub bench: Arc<dyn Bench>,
    /// How env files are read and replaced.
    pub env: Arc<dyn EnvStore>,
    /// How services are restarted and read back.
    pub services: Arc<dyn ServiceControl>,
    /// Where what undoes a deployment lies, outside the journal.
    pub pending: Arc<dyn PendingStore>,
    /// Who undoes a deployment when this process does not.
    pub guard: Arc<dyn Guard>,
    /// Whether a person stopped everything.
    pub switch: Arc<dyn StopSwitch>,
    /// Where what could be learned again is kept.
    pub notes: Arc<dyn Notes>,
    /// What the machine has room for.
    pub capacity: Arc<dyn Capacity>,
}

/// Where facts become durable. A fact is durable before anyone acts on it.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Writes `entries` all or none, durably, with their projections, and says of each whether it was written:
    /// one whose `once` name already stands in the journal is skipped.
    async fn append(&self, entries: Vec<Entry>) -> Result<Vec<Appended>, JournalError>;

    /// Returns what matches `query`.
    async fn read(&self, query: Query) -> Result<Vec<Recorded>, JournalError>;

    /// Says whether what was written can still be relied on; cheap, to be asked again and again. A full disk is found by
    /// writing alone.
    fn check(&self) -> Result<(), JournalError>;
}

/// Whether an entry was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It was, at this place.
    At(u64),
    /// Its `once` name stands there already.
    Already,
}

/// Which facts are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only these kinds; all when empty.
    pub kinds: Vec<Kind>,
    /// Only about this id.
    pub subject: Option<String>,
    /// Only of this cycle.
    pub cycle: Option<CycleId>,
    /// Only about work that has no end yet, see [`is_open`](crate::facts::is_open).
    pub open: bool,
    /// Only later than this place.
    pub after: u64,
    /// Newest first rather than oldest first.
    pub newest_first: bool,
    /// At most so many; 0 means [`Query::LIMIT_DEFAULT`].
    pub limit: usize,
}

impl Query {
    /// How many facts are returned when no limit is given.
    pub const LIMIT_DEFAULT: usize = 10_000;

    /// How many facts about open work are returned: a domain has one change and an experiment a few hundred trials.
    pub const OPEN_MAX: usize = 100_000;

    /// Returns the query for facts of these kinds, oldest first.
    pub fn kinds(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), ..Self::default() }
    }

    /// Returns the query for the newest `limit` facts of these kinds, newest first.
    pub fn newest(kinds: &[Kind], limit: usize) -> Self {
        Self { kinds: kinds.to_vec(), newest_first: true, limit, ..Self::default() }
    }

    /// Returns the query for all facts of these kinds about work that has no end yet, oldest first.
    pub fn open(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), open: true, limit: Self::OPEN_MAX, ..Self::default() }
    }

    /// Narrows the query to facts about this id.
    #[must_use]
    pub fn about(mut self, subject: &str) -> Self {
        self.subject = Some(subject.to_owned());
        self
    }
}

/// Why the journal could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk is full or the file cannot be written.
    #[error("the journal cannot be written: {0}")]
    Unwritable(String),
    /// What lies there is no journal, or a damaged one.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
}

/// What time it is.
pub trait Clock: Send + Sync {
    /// Returns the wall clock, in milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Returns how far the local time of this machine is ahead of UTC now, in seconds; negative where it is behind.
    fn utc_offset_s(&self) -> i32;
}

/// Whether a person stopped everything.
pub trait StopSwitch: Send + Sync {
    /// Returns what was said when everything was stopped; `None` while it may go on. Where that cannot be told, everything
    /// is stopped. Cheap, to be asked before each side effect.
    fn stopped(&self) -> Option<Stop>;
}

/// Something that can be read again and again.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Returns a short name for logs: `host`, `gpu`, `lab`.
    fn name(&self) -> String;

    /// Returns what is there now; what could not be read is absent.
    async fn read(&self) -> Result<Vec<Reading>, ProbeError>;
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// What is to be read does not exist on this machine: a state, not a failure.
    #[error("absent: {0}")]
    Absent(String),
    /// It exists and does not answer.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

/// How a configuration is measured.
#[async_trait]
pub trait Bench: Send + Sync {
    /// Waits until nobody else measures on this machine, starts an instance of the domain's service with `settings` over its
    /// env file, waits until it is ready and runs with them, measures it, ends it, and returns what was measured. Dropping
    /// the future ends the instance.
    ///
    /// A wait that is too long is an infrastructure failure; what takes longer than `within` once it is its turn has timed out.
    /// What others disturbed is thrown away and measured again after a pause; disturbed again and again it has failed for that.
    async fn measure(&self, domain: &Domain, assignment: Assignment) -> Result<Measurement, TrialFailure>;

    /// Waits for the turn of `deployment` to measure, and keeps it until its first run takes it over: nothing is changed
    /// that could not be proven at once. A wait that is too long is an infrastructure failure.
    async fn reserve(&self, deployment: &DeploymentId) -> Result<(), TrialFailure>;

    /// Gives back every turn that is kept, but those of `deployments`.
    fn keep(&self, deployments: &[DeploymentId]);

    /// Waits for the turn of a measurement in place, and returns it: nobody else measures on this machine while it lives.
    async fn turn(&self, domain: &Domain, assignment: &Assignment) -> Result<Box<dyn Turn>, TrialFailure>;

    /// Measures the instance that serves at `url`, which runs with the assignment's settings already, and starts and ends
    /// nothing. Whoever asks has the turn. As in [`Bench::measure`], each sample may take `within`; none is begun that would not
    /// end before the service may not serve with these settings any longer.
    async fn measure_serving(
        &self,
        domain: &Domain,
        assignment: &Assignment,
        url: &str,
    ) -> Result<Measurement, TrialFailure>;
}

/// Somebody's turn to measure, for as long as it lives.
pub trait Turn: Send + Sync {
    /// Returns whether nobody else can have had the same turn meanwhile.
    fn is_whole(&self) -> bool;
}

/// What is to be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// A name for files and logs: the trial's or run's id.
    pub label: String,
    /// The values to run with, laid over the env file of the service.
    pub settings: Settings,
    /// The keys that are taken out of it.
    pub unset: Vec<Key>,
    /// The seed of the load: equal seeds send equal requests.
    pub seed: u64,
    /// Whose turn it is first when several wait for the machine.
    pub purpose: Purpose,
    /// How long it may take, from its turn on.
    pub within: Duration,
    /// What others usually did during the measurements that this one is compared with; the first of them has none.
    pub usual: Option<Others>,
}

/// What a measurement is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To judge this deployment, which is live and not proven: it goes first.
    Validation(DeploymentId),
    /// To find better settings.
    Experiment,
}

/// Who uses the GPUs.
#[async_trait]
pub trait GpuUsers: Send + Sync {
    /// Returns the processes that have memory of a GPU, or used its time since this was asked last.
    async fn users(&self) -> Result<Vec<GpuUser>, ProbeError>;
}

/// One process on one GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuUser {
    /// The GPU, by its UUID.
    pub gpu: String,
    /// The process, as the host counts.
    pub pid: u32,
    /// Its share of the GPU's time, from 0 to 1; absent where that cannot be told.
    pub busy: Option<f64>,
    /// Its share of the GPU's memory, from 0 to 1.
    pub memory: f64,
}

/// How env files are read and replaced.
#[async_trait]
pub trait EnvStore: Send + Sync {
    /// Returns the whole file as it is; an absent file is empty with `exists` false. Relative paths are under the home.
    async fn read(&self, file: &Path) -> Result<EnvFile, EnvStoreError>;

    /// Replaces the file by `bytes`, whole or not at all, if it still is what `expected` says, keeping owner and mode.
    async fn replace(&self, file: &Path, expected: &EnvFile, bytes: Vec<u8>) -> Result<(), EnvStoreError>;

    /// As [`EnvStore::replace`], and where the disk is full takes what was set aside for that: whoever undoes a change asks for it.
    async fn restore(&self, file: &Path, expected: &EnvFile, bytes: Vec<u8>) -> Result<(), EnvStoreError> {
        self.replace(file, expected, bytes).await
    }

    /// Sets aside, beside the file, space for `bytes` bytes: a later [`EnvStore::restore`] by no more needs no free disk.
    async fn reserve(&self, file: &Path, bytes: usize) -> Result<(), EnvStoreError>;

    /// Gives back what was set aside.
    async fn release(&self, file: &Path) -> Result<(), EnvStoreError>;
}

/// The bytes of an env file. They may hold secrets, so they are not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// The content.
    pub bytes: Vec<u8>,
    /// Whether the file is there.
    pub exists: bool,
}

impl std::fmt::Debug for EnvFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "EnvFile({} bytes)", self.bytes.len())
    }
}

/// Why an env file was left as it was.
#[derive(Debug, thiserror::Error)]
pub enum EnvStoreError {
    /// It cannot be read.
    #[error("cannot read {path}: {why}")]
    Read {
        /// The file.
        path: String,
        /// In words.
        why: String,
    },
    /// It cannot be written.
    #[error("cannot write {path}: {why}")]
    Write {
        /// The file.
        path: String,
        /// In words.
        why: String,
    },
    /// Somebody else changed it meanwhile; theirs stands.
    #[error("{path} was changed by somebody else meanwhile")]
    Raced {
        /// The file.
        path: String,
    },
    /// It is something that is not written to: a link, a device, a folder, or linked twice.
    #[error("{path} is not written to: {why}")]
    Refused {
        /// The file.
        path: String,
        /// In words.
        why: String,
    },
}

/// How services are restarted and read back.
#[async_trait]
pub trait ServiceControl: Send + Sync {
    /// Says why the serving instance could not be restarted, where that can be told without trying.
    async fn restartable(&self, _domain: &Domain) -> Result<(), ServiceError> {
        Ok(())
    }

    /// Asks the check of the domain, where it has one, whether the service would take an env file of these bytes; nothing is touched.
    async fn accepts(&self, _domain: &Domain, _env_file: &[u8]) -> Result<(), ServiceError> {
        Ok(())
    }

    /// Restarts the serving instance and returns when it is ready.
    async fn restart(&self, domain: &Domain) -> Result<(), ServiceError>;

    /// Lifts its supervisor's limit of starts where that is in the way of the next one, and returns whether it was: for what brings
    /// a proven state back, and for nothing else.
    async fn forgive(&self, _domain: &Domain) -> Result<bool, ServiceError> {
        Ok(false)
    }

    /// Returns the values of the domain's knobs that the serving instance says it runs with.
    async fn in_effect(&self, domain: &Domain) -> Result<BTreeMap<String, String>, ServiceError>;

    /// Asks the serving instance once whether it is ready.
    async fn healthy(&self, domain: &Domain) -> Result<(), ServiceError>;

    /// Returns which run of the serving instance this is: another one after each start, whoever started it. `None` where
    /// that cannot be told; an error where nothing runs.
    async fn incarnation(&self, domain: &Domain) -> Result<Option<Incarnation>, ServiceError>;

    /// Returns where the serving instance listens, without a slash at its end, once that is known.
    fn address(&self, domain: &Domain) -> Option<String>;
}

/// Why a service did not do what was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// It could not be started, or ended before it was ready.
    #[error("did not start: {0}")]
    DidNotStart(String),
    /// It was not ready in time.
    #[error("not ready: {0}")]
    NotReady(String),
    /// Its check refuses the settings; nothing was touched.
    #[error("refused: {0}")]
    Refused(String),
    /// It cannot be asked.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

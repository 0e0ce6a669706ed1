//! The home: the one folder that holds all that kloros remembers and writes.
//!
//! Every path below it has its name here and nowhere else. One daemon a home: the kernel holds the lock, so it dies
//! with its process, and the lock file is never removed.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::fs::{Access, FlockOperation, OFlags};

mod holder;

/// Where the home lies when systemd started kloros and named no folder of its own.
pub(crate) const UNDER_SYSTEMD: &str = "/var/lib/kloros";

/// Folders hold what runs as the owner's services, so nobody else looks into them.
const FOLDER_MODE: u32 = 0o700;

/// A lock that several users may wait for: in a folder that is its owner's and root's alone.
const LOCK_MODE: u32 = 0o644;

/// How long between two attempts to get a lock that is waited for.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// How many bytes of the lock file are read to learn who holds it.
const LOCK_TEXT_MAX: u64 = 32;

/// How often a lock is tried anew when its file was replaced between opening and locking it.
const LOCK_TRIES: u32 = 8;

/// The folder that holds all that kloros remembers and writes; always an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    root: PathBuf,
}

/// Why a home could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// Nothing says where it is.
    #[error("no home: neither --home nor KLOROS_HOME nor HOME is set; pass --home FOLDER")]
    Unknown,
    /// A folder could not be made, or a file in it not opened.
    #[error("cannot use {path} in the home")]
    Unusable {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another daemon works in it.
    #[error("{home} is in use by {holder}: stop it, or pass another --home", home = home.display(), holder = holder(*pid))]
    InUse {
        /// The home.
        home: PathBuf,
        /// The process id of the other daemon, if its lock file says it.
        pid: Option<u32>,
    },
}

impl HomeError {
    /// Returns whether it is only that somebody else has what was waited for.
    pub(crate) fn is_a_wait(&self) -> bool {
        matches!(self, HomeError::Unusable { source, .. } if source.kind() == io::ErrorKind::TimedOut)
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl Home {
    /// Returns the home: `flag` if given, else `KLOROS_HOME`, else the state folder under systemd, else
    /// `~/.local/state/kloros`. Nothing is created.
    pub(crate) fn resolve(flag: Option<&Path>) -> Result<Self, HomeError> {
        let writable = |path: &Path| rustix::fs::access(path, Access::WRITE_OK).is_ok();
        let root =
            choose(flag, |name| std::env::var_os(name).map(PathBuf::from), writable).ok_or(HomeError::Unknown)?;
        Self::at(&root)
    }

    /// Returns the home at `root`; a relative path starts at the current folder. Nothing is created.
    pub(crate) fn at(root: &Path) -> Result<Self, HomeError> {
        let root = std::path::absolute(root).map_err(|source| HomeError::Unusable { path: root.to_owned(), source })?;
        Ok(Self { root })
    }

    /// Returns the folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of the daemon's own state.
    pub(crate) fn state_folder(&self) -> PathBuf {
        self.root.join(".kloros")
    }

    /// Returns the database that holds all facts.
    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join(".kloros/journal.db")
    }

    /// Returns the database that holds what was said in conversations.
    pub(crate) fn conversations(&self) -> PathBuf {
        self.root.join(".kloros/conversations.db")
    }

    /// Returns the file that the running daemon keeps locked.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root.join(".kloros/lock")
    }

    /// Returns the file with the token of the control API.
    pub(crate) fn api_token(&self) -> PathBuf {
        self.root.join(".kloros/api.token")
    }

    /// Returns the log of experiments.
    #[cfg(test)]
    pub(crate) fn experiments_log(&self) -> PathBuf {
        self.root.join(files::EXPERIMENTS)
    }

    /// Returns the log of verdicts.
    #[cfg(test)]
    pub(crate) fn validations_log(&self) -> PathBuf {
        self.root.join(files::VALIDATIONS)
    }

    /// Returns the log of lessons.
    #[cfg(test)]
    pub(crate) fn feedback_log(&self) -> PathBuf {
        self.root.join(files::FEEDBACK)
    }

    /// Returns the file of the open questions.
    #[cfg(test)]
    pub(crate) fn feed(&self) -> PathBuf {
        self.root.join(files::FEED)
    }

    /// Returns the folder of winners: an output, and an inbox for its owner.
    pub(crate) fn winners_folder(&self) -> PathBuf {
        self.root.join(files::WINNERS_FOLDER)
    }

    /// Returns the folder of baselines.
    pub(crate) fn baselines_folder(&self) -> PathBuf {
        self.root.join(files::BASELINES_FOLDER)
    }

    /// Returns the inbox of intents.
    pub(crate) fn intents_folder(&self) -> PathBuf {
        self.root.join(".kloros/intents")
    }

    /// Returns the folder that holds the intents that were read.
    pub(crate) fn processed_intents_folder(&self) -> PathBuf {
        self.root.join(".kloros/intents/processed")
    }

    /// Returns the folder of pending files, which undo deployments without the journal.
    pub(crate) fn pending_folder(&self) -> PathBuf {
        self.state_folder().join("pending")
    }

    /// Creates the folders that are missing, open to their owner alone; folders that are there keep their mode.
    pub(crate) fn create(&self) -> Result<(), HomeError> {
        let folders = [
            self.state_folder(),
            self.processed_intents_folder(),
            self.root.join("logs/orchestrator"),
            self.winners_folder(),
            self.baselines_folder(),
            self.pending_folder(),
        ];
        for path in folders {
            create_folder(&path).map_err(|source| HomeError::Unusable { path, source })?;
        }
        Ok(())
    }

    /// Creates the home if need be and takes its lock, without waiting; the lock lasts until the answer is dropped.
    pub(crate) fn lock(&self) -> Result<HomeLock, HomeError> {
        self.create()?;
        let path = self.lock_file();
        self.lock_at(&path).map_err(|refusal| match refusal {
            Refusal::Held(pid) => HomeError::InUse { home: self.root.clone(), pid },
            Refusal::Failed(source) => HomeError::Unusable { path, source },
        })
    }

    /// Returns whether a daemon works in the home, or is frozen in it. To be asked by who holds [`Home::undo_lock`] alone, which a
    /// daemon takes before its own lock: for a moment nobody else could get that one.
    pub(crate) fn is_in_use(&self) -> Result<bool, HomeError> {
        let path = self.lock_file();
        let unusable = |source| HomeError::Unusable { path: path.clone(), source };
        let file = match OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(unusable(error)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(errno) => Err(unusable(errno.into())),
        }
    }

    /// Waits for the right to undo what is pending, which one process has at a time, until the answer is dropped.
    pub(crate) fn undo_lock(&self, within: Duration) -> Result<UndoLock, HomeError> {
        let path = self.state_folder().join("undo.lock");
        let unusable = |source| HomeError::Unusable { path: path.clone(), source };
        let options = |is_new: bool| {
            let mut options = OpenOptions::new();
            options.read(true).write(is_new).create_new(is_new).mode(LOCK_MODE);
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(&path)
        };
        // Whichever user came first has made it, and reading it is enough to lock it.
        let file = match options(false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => options(true).or_else(|_| options(false)),
            other => other,
        };
        let file = file.map_err(unusable)?;
        let deadline = Instant::now() + within;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(UndoLock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_INTERVAL),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let why = format!("another process undoes what is pending, since more than {} s", within.as_secs());
                    return Err(unusable(io::Error::new(io::ErrorKind::TimedOut, why)));
                }
                Err(errno) => return Err(unusable(errno.into())),
            }
        }
    }

    fn lock_at(&self, path: &Path) -> Result<HomeLock, Refusal> {
        for _ in 0..LOCK_TRIES {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(path)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Refusal::Held(pid_in(&mut file))),
                Err(errno) => return Err(Refusal::Failed(errno.into())),
            }
            // Somebody may have removed the file after it was opened here: a lock on a file without a name excludes
            // nobody, so the one that has the name now is tried.
            if same_file(path, &file) {
                // The number only makes the other daemon's message better, so a full disk does not stop this one.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                return Ok(HomeLock { home: self.clone(), file });
            }
        }
        Err(Refusal::Failed(io::Error::other("the lock file is replaced again and again")))
    }
}

enum Refusal {
    Held(Option<u32>),
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(source: io::Error) -> Self {
        Self::Failed(source)
    }
}

/// The right to undo what is pending. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct UndoLock {
    _file: File,
}

/// The right to write into a home. The kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct HomeLock {
    home: Home,
    file: File,
}

impl HomeLock {
    /// Returns whether the lock file still is the one that is locked; if not, a second daemon could start.
    pub(crate) fn stands(&self) -> bool {
        same_file(&self.home.lock_file(), &self.file)
    }
}

/// The projected files, relative to the home.
pub(crate) mod files {
    /// One line an event of an experiment.
    pub(crate) const EXPERIMENTS: &str = "logs/orchestrator/curiosity_experiments.jsonl";
    /// One line a verdict.
    pub(crate) const VALIDATIONS: &str = "logs/orchestrator/validations.jsonl";
    /// One line a lesson.
    pub(crate) const FEEDBACK: &str = ".kloros/curiosity_feedback.jsonl";
    /// The open questions.
    pub(crate) const FEED: &str = ".kloros/curiosity_feed.json";
    /// One file a winner.
    pub(crate) const WINNERS_FOLDER: &str = "artifacts/dream/winners";
    /// The audit trail.
    pub(crate) const AUDIT_FOLDER: &str = "logs/audit";
    /// One file a domain.
    pub(crate) const BASELINES_FOLDER: &str = "baselines";
}

/// Creates a folder and those above it that are missing, open to their owner alone, durably.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().ok_or_else(|| io::Error::other("the root folder is missing"))?;
    create_folder(above)?;
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => File::open(above)?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn same_file(path: &Path, file: &File) -> bool {
    match (fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn pid_in(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(LOCK_TEXT_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Returns where the home is, asking `variable` for the environment and `writable` for the system's state folder.
fn choose(
    flag: Option<&Path>,
    variable: impl Fn(&str) -> Option<PathBuf>,
    writable: impl Fn(&Path) -> bool,
) -> Option<PathBuf> {
    let variable = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
    if let Some(named) = flag.map(Path::to_owned).or_else(|| variable("KLOROS_HOME")) {
        return Some(named);
    }
    // INVOCATION_ID alone proves little: a shell inside a user's session has it too. systemd names the state folder
    // of the unit in STATE_DIRECTORY; a unit without one can still be meant to use the usual place.
    if variable("INVOCATION_ID").is_some() {
        let named = variable("STATE_DIRECTORY").and_then(|folders| {
            let first = folders.to_str()?.split(':').next()?.to_owned();
            Some(PathBuf::from(first)).filter(|path| path.is_absolute())
        });
        let usual = PathBuf::from(UNDER_SYSTEMD);
        if let Some(home) = named.or_else(|| writable(&usual).then_some(usual)) {
            return Some(home);
        }
    }
    variable("HOME").map(|user| user.join(".local/state/kloros"))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[track_caller]
    fn check(flag: Option<&str>, variables: &[(&str, &str)], system_writable: bool, expected: Option<&str>) {
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        let chosen = choose(flag.map(Path::new), |name| variables.get(name).map(PathBuf::from), |_| system_writable);
        assert_eq!(chosen.as_deref(), expected.map(Path::new));
    }

    #[test]
    fn the_home_is_the_flag_then_the_variable_then_the_state_folder_then_below_the_user() {
        let user = ("HOME", "/home/u");
        let unit = ("INVOCATION_ID", "1f");
        check(Some("/a"), &[("KLOROS_HOME", "/b"), user], false, Some("/a"));
        check(None, &[("KLOROS_HOME", "/b"), unit, user], true, Some("/b"));
        check(None, &[("KLOROS_HOME", ""), user], true, Some("/home/u/.local/state/kloros"));
        check(None, &[unit, ("STATE_DIRECTORY", "/var/lib/kloros"), user], false, Some("/var/lib/kloros"));
        check(None, &[unit, ("STATE_DIRECTORY", "/srv/k:/srv/l"), user], false, Some("/srv/k"));
        check(None, &[unit, user], true, Some("/var/lib/kloros"));
        check(None, &[unit, user], false, Some("/home/u/.local/state/kloros"));
        check(None, &[("STATE_DIRECTORY", "/var/lib/kloros"), user], true, Some("/home/u/.local/state/kloros"));
        check(None, &[], true, None);
    }

    #[test]
    fn folders_that_are_created_are_open_to_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(&folder.path().join("new/home")).unwrap();
        home.create().unwrap();
        for path in [home.root().to_owned(), home.state_folder(), home.winners_folder(), home.pending_folder()] {
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_second_lock_is_refused_with_the_home_and_the_holder_until_the_first_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let first = home.lock().unwrap();
        assert!(first.stands());
        let message = home.lock().unwrap_err().to_string();
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        assert!(home.lock_file().exists());
        home.lock().unwrap();
    }

    #[test]
    fn a_home_is_in_use_while_its_lock_is_held_and_one_process_undoes_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        let undo = home.undo_lock(Duration::ZERO).unwrap();
        let message = home.undo_lock(Duration::from_millis(20)).unwrap_err();
        assert!(matches!(&message, HomeError::Unusable { source, .. } if source.kind() == io::ErrorKind::TimedOut));
        assert!(!home.is_in_use().unwrap());
        let lock = home.lock().unwrap();
        assert!(home.is_in_use().unwrap());
        drop((lock, undo));
        assert!(!home.is_in_use().unwrap());
        home.undo_lock(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_file_that_was_removed_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        let lock = home.lock().unwrap();
        fs::remove_file(home.lock_file()).unwrap();
        assert!(!lock.stands());
    }

    #[test]
    fn a_lock_file_that_is_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        home.create().unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), home.lock_file()).unwrap();
        assert!(matches!(home.lock(), Err(HomeError::Unusable { .. })));
        assert!(!folder.path().join("elsewhere").exists());
    }
}

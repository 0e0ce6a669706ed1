//! The private directory of a trial, and the env file in it that an instance is started with.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use kloros_actors::{
    env_file,
    facts::{Key, Settings},
};
use rustix::fs::FlockOperation;

/// Where the directories of trials lie under the home.
const TRIALS: &str = ".kloros/trials";

/// The name of the env file in the directory of a trial.
const ENV_FILE: &str = "env";

/// Longest part of a label that is used for a name, in bytes.
const LABEL_BYTES_MAX: usize = 64;

/// Largest env file that is copied, in bytes.
const ENV_BYTES_MAX: u64 = 1 << 20;

/// A directory that nobody else may look into; it is removed when dropped.
#[derive(Debug)]
pub(super) struct TrialDir {
    path: PathBuf,
    /// The directory, locked: as long as its process lives it is not stale.
    _locked: File,
}

/// How many directories this process made.
static MADE: AtomicU64 = AtomicU64::new(0);

impl TrialDir {
    /// Makes the directory under `home`, named after `label`.
    pub(super) fn create(home: &Path, label: &str) -> io::Result<Self> {
        let trials = home.join(TRIALS);
        DirBuilder::new().recursive(true).mode(0o700).create(&trials)?;
        // The process and a count tell directories apart; what an earlier process of the same id left is gone by now.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let path = trials.join(format!("{}-{}-{number}", file_name(label), std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let locked = File::open(&path)?;
        rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self { path, _locked: locked })
    }

    /// Writes the env file: what stands in `live`, if that is there, changed to `settings` and without the keys in `unset`.
    ///
    /// It is changed as the deployer would change it, so that what is measured is what would be deployed.
    pub(super) fn write_env(&self, live: &Path, settings: &Settings, unset: &[Key]) -> io::Result<PathBuf> {
        let set = settings.iter().map(|(key, value)| (key.clone(), Some(value.to_string())));
        let changes: Vec<(Key, Option<String>)> = set.chain(unset.iter().map(|key| (key.clone(), None))).collect();
        let bytes = env_file::edit(&read(live)?, &changes)
            .map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {problem}", live.display())))?;
        let path = self.path.join(ENV_FILE);
        // Secrets of the service are in it, so nobody else may read the copy.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&bytes)?;
        Ok(path)
    }
}

impl Drop for TrialDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "directory of a trial cannot be removed");
        }
    }
}

/// Removes what trials left under `home` whose process is gone.
pub(super) fn remove_stale(home: &Path) {
    let Ok(entries) = std::fs::read_dir(home.join(TRIALS)) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        // A link is not followed, and what is no directory is not ours.
        let is_dir = path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if is_dir
            && is_stale(&path)
            && let Err(error) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "directory of an old trial cannot be removed");
        }
    }
}

/// Returns whether the process that made the directory is gone: `kloros bench` may measure beside the daemon.
fn is_stale(path: &Path) -> bool {
    let lock = |file: File| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    File::open(path).is_ok_and(|file| lock(file).is_ok())
}

fn read(live: &Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", live.display()));
    let file = match File::open(live) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened.map_err(named)?,
    };
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(&file, ENV_BYTES_MAX + 1), &mut bytes).map_err(named)?;
    if bytes.len() as u64 > ENV_BYTES_MAX {
        return Err(named(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {ENV_BYTES_MAX} bytes"))));
    }
    Ok(bytes)
}

fn file_name(label: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = label.chars().take(LABEL_BYTES_MAX).map(|c| if is_plain(c) { c } else { '_' }).collect();
    name.trim_start_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use kloros_actors::facts::Value;

    use super::*;

    #[track_caller]
    fn check(live: Option<&str>, expected: Option<&str>) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("live_env");
        if let Some(live) = live {
            std::fs::write(&path, live).unwrap();
        }
        let settings = [("LAB_POLICY", Value::Choice("fair".to_owned())), ("LAB_SLOTS", Value::Integer(8))];
        let settings = settings.map(|(key, value)| (Key::new(key).unwrap(), value)).into();
        let dir = TrialDir::create(home.path(), "x").unwrap();
        let written = dir.write_env(&path, &settings, &[]).map(|path| std::fs::read_to_string(path).unwrap());
        assert_eq!(written.ok().as_deref(), expected, "{live:?}");
    }

    #[test]
    fn the_file_of_the_service_is_changed_in_our_keys_alone() {
        check(None, Some("LAB_POLICY=fair\nLAB_SLOTS=8\n"));
        check(Some("# mine\nLAB_SLOTS=1\nSECRET=x\n"), Some("# mine\nLAB_SLOTS=8\nSECRET=x\nLAB_POLICY=fair\n"));
    }

    #[test]
    fn a_file_that_could_not_be_deployed_to_is_not_measured_either() {
        check(Some("LAB_SLOTS=1\nLAB_SLOTS=2\n"), None);
        check(Some("SECRET=\"x\n"), None);
    }

    #[test]
    fn the_directory_is_private_and_goes_with_its_owner() {
        let home = tempfile::tempdir().unwrap();
        let live = home.path().join("live_env");
        std::fs::write(&live, "SECRET=1\n").unwrap();
        let dir = TrialDir::create(home.path(), "../x-1/trial 2").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path), 0o700);
        assert_eq!(dir.path.parent(), Some(home.path().join(TRIALS).as_path()));
        let env_file = dir.write_env(&live, &Settings::new(), &[]).unwrap();
        assert_eq!(mode(&env_file), 0o600);
        assert_eq!(std::fs::read(&env_file).unwrap(), b"SECRET=1\n");
        let path = dir.path.clone();
        drop(dir);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_process_that_is_gone_left_is_removed_and_a_link_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        std::fs::create_dir(&kept).unwrap();
        std::fs::write(kept.join("file"), "").unwrap();
        let stale = home.path().join(TRIALS).join("x-0-1234");
        std::fs::create_dir_all(&stale).unwrap();
        std::fs::write(stale.join(ENV_FILE), "").unwrap();
        symlink(&kept, home.path().join(TRIALS).join("link")).unwrap();
        let in_use = TrialDir::create(home.path(), "y").unwrap();
        remove_stale(home.path());
        assert!(!stale.exists());
        assert!(in_use.path.exists(), "its process lives");
        assert!(kept.join("file").exists());
        remove_stale(&home.path().join("no home"));
    }

    #[test]
    fn keys_that_the_service_ran_without_are_taken_out() {
        let (home, live) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(live.path(), "A=1\nLAB_SLOTS=8\nB=2\n").unwrap();
        let dir = TrialDir::create(home.path(), "x").unwrap();
        let path =
            dir.write_env(live.path(), &Settings::new(), &["LAB_SLOTS", "GONE"].map(|key| Key::new(key).unwrap()));
        assert_eq!(std::fs::read_to_string(path.unwrap()).unwrap(), "A=1\nB=2\n");
    }
}

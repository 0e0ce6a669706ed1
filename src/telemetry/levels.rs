//! The level in force in each domain as it is when somebody scrapes, without reading every env file each time.
//!
//! Reading one looks through its folder for what an exchange left behind. Where hundreds of env files share a folder, as in /etc, that took
//! a scrape more than a tenth of a second. What was read counts for as long as the file is the same one and untouched.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use kloros_actors::{circuit::Control, facts::Autonomy, seams::Clock};

/// How long a file must have been left alone when it was read, in milliseconds: two changes within one tick of the kernel's clock have the
/// same time.
const LEFT_ALONE_MS: i64 = 2_000;

/// What tells a file from the one that was read: where it is, how long, and when it was changed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let found = fs::symlink_metadata(file).ok().filter(fs::Metadata::is_file)?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { place: (found.dev(), found.ino()), bytes: found.size(), changed })
    }

    /// Says whether a file with this stamp, read at this time, has another one as soon as it is changed.
    fn is_told(&self, read_at_ms: i64) -> bool {
        let changed_ms = self.changed.0.saturating_mul(1000).saturating_add(self.changed.1 / 1_000_000);
        changed_ms.saturating_add(LEFT_ALONE_MS) < read_at_ms
    }
}

/// What was read of a domain's env file.
#[derive(Clone, Copy, Debug)]
struct Known {
    stamp: Stamp,
    ceiling: Autonomy,
    level: Autonomy,
}

/// The levels that were read last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels(Arc<Mutex<BTreeMap<(String, PathBuf), Known>>>);

impl Levels {
    /// Returns the level in force in each domain of now.
    pub(super) async fn now(&self, control: &Control, clock: &dyn Clock) -> Vec<(String, Autonomy)> {
        let (catalogue, ceiling) = (control.catalogue(), control.config().gate.autonomy);
        let read_at_ms = i64::try_from(clock.now_ms()).unwrap_or(i64::MAX);
        let files: Vec<(String, PathBuf)> =
            catalogue.domains.values().map(|domain| (domain.name.clone(), domain.service.env_file.clone())).collect();
        // One look at the disk for all of them, on a thread that may wait.
        let stamps = tokio::task::spawn_blocking(move || {
            files.into_iter().map(|file| (Stamp::of(&file.1), file)).collect::<Vec<_>>()
        });
        let mut levels = Vec::new();
        for (stamp, file) in stamps.await.unwrap_or_default() {
            let Some(domain) = catalogue.domains.get(&file.0) else { continue };
            if let Some(level) = self.known(&file, stamp, ceiling) {
                levels.push((file.0, level));
                continue;
            }
            let (level, ceiling, _) = control.level(domain).await;
            levels.push((file.0.clone(), level));
            self.learn(file, stamp.filter(|stamp| stamp.is_told(read_at_ms)), ceiling, level);
        }
        self.all().retain(|(name, _), _| catalogue.domains.contains_key(name));
        levels
    }

    fn known(&self, file: &(String, PathBuf), stamp: Option<Stamp>, ceiling: Autonomy) -> Option<Autonomy> {
        let known = self.all().get(file).copied()?;
        (Some(known.stamp) == stamp && known.ceiling == ceiling).then_some(known.level)
    }

    fn learn(&self, file: (String, PathBuf), stamp: Option<Stamp>, ceiling: Autonomy, level: Autonomy) {
        match stamp {
            Some(stamp) => drop(self.all().insert(file, Known { stamp, ceiling, level })),
            None => drop(self.all().remove(&file)),
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, PathBuf), Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_counts_until_its_file_is_changed_replaced_or_gone_or_the_ceiling_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("env");
        fs::write(&path, "A=1\n").unwrap();
        let (levels, file) = (Levels::default(), ("chat".to_owned(), path.clone()));
        let read = Stamp::of(&path);
        levels.learn(file.clone(), read, Autonomy::Full, Autonomy::Manual);
        assert_eq!(levels.known(&file, Stamp::of(&path), Autonomy::Full), Some(Autonomy::Manual));
        assert_eq!(levels.known(&file, Stamp::of(&path), Autonomy::Trusted), None);
        fs::write(folder.path().join("new"), "A=1\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(levels.known(&file, Stamp::of(&path), Autonomy::Full), None, "another file of the same name");
        levels.learn(file.clone(), Stamp::of(&path), Autonomy::Full, Autonomy::Manual);
        fs::write(&path, "KLR_AUTONOMY_LEVEL=1\n").unwrap();
        assert_eq!(levels.known(&file, Stamp::of(&path), Autonomy::Full), None, "it was written to");
        fs::remove_file(&path).unwrap();
        assert_eq!(levels.known(&file, Stamp::of(&path), Autonomy::Full), None, "it is gone");
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert_eq!(Stamp::of(&path), None, "a link is never what was read");
    }

    #[test]
    fn what_was_changed_a_moment_before_it_was_read_is_read_again() {
        let stamp = Stamp { place: (1, 1), bytes: 4, changed: (100, 500_000_000) };
        assert!(!stamp.is_told(100_500) && !stamp.is_told(102_500) && stamp.is_told(102_501));
        let levels = Levels::default();
        let file = ("chat".to_owned(), PathBuf::from("/env"));
        levels.learn(file.clone(), Some(stamp), Autonomy::Full, Autonomy::Full);
        levels.learn(file.clone(), None, Autonomy::Full, Autonomy::Full);
        assert_eq!(levels.known(&file, Some(stamp), Autonomy::Full), None);
    }
}

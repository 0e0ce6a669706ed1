//! The files of the settings: when they change, and what they hold.
//!
//! Watched are the folders and not the files: an editor renames a new file over the old one, and Kubernetes exchanges a link
//! further up, after which a watch on the file would see nothing for ever. What an event names is not looked at for the same
//! reason; whether something changed is told by the content.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::{home::Home, settings};

/// How much of a file tells it from what it was, in bytes; no larger file is read as settings.
const BYTES_MAX: u64 = 1 << 20;

/// How often it is waited anew for files that are still being written.
const SETTLES_MAX: u32 = 20;

/// Returns a fingerprint of all that the settings are read from.
pub(super) fn fingerprint(home: &Path, config: Option<&Path>) -> String {
    let mut digest = Sha256::new();
    for file in settings::places(home, config).1 {
        digest.update(file.as_os_str().as_encoded_bytes());
        let mut bytes = Vec::new();
        match File::open(&file).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes)) {
            Ok(_) => digest.update([0]),
            Err(_) => digest.update([1]),
        }
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(&bytes);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folders that are watched.
pub(super) struct Files {
    root: PathBuf,
    config: Option<PathBuf>,
    /// `None` where the kernel cannot tell of changes, or is not asked to.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    woken: Arc<Notify>,
}

impl Files {
    pub(super) fn new(home: &Home, config: Option<&Path>, follow: bool) -> Self {
        let woken = Arc::new(Notify::new());
        let wake = Arc::clone(&woken);
        let heard = move |event: notify::Result<notify::Event>| {
            // Reading the files is an event, too. What could not be told is looked for.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                wake.notify_one();
            }
        };
        let watcher = follow.then(|| notify::recommended_watcher(heard)).and_then(|made| {
            made.inspect_err(|error| tracing::warn!(%error, "changed files are found by looking, now and then")).ok()
        });
        let (root, config) = (home.root().to_path_buf(), config.map(Path::to_path_buf));
        let mut files = Self { root, config, watcher, watched: BTreeSet::new(), woken };
        files.watch();
        files
    }

    /// Waits until something changed and was then left alone for as long as `settle`, but not for ever.
    pub(super) async fn changed(&mut self, settle: Duration) {
        self.woken.notified().await;
        for _ in 0..SETTLES_MAX {
            if tokio::time::timeout(settle, self.woken.notified()).await.is_err() {
                break;
            }
        }
        self.watch();
    }

    /// Watches the folders that are there now, and those in which links lead to the files.
    fn watch(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let (folders, files) = settings::places(&self.root, self.config.as_deref());
        let targets = files.iter().filter_map(|file| Some(file.canonicalize().ok()?.parent()?.to_owned()));
        let now: BTreeSet<PathBuf> = folders.into_iter().chain(targets).filter(|folder| folder.is_dir()).collect();
        for gone in self.watched.difference(&now) {
            // Its watch ended with it.
            watcher.unwatch(gone).ok();
        }
        // A folder that was exchanged for another has the same name: each is watched anew.
        let watch = |folder: &PathBuf| match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "changes there are found by looking, now and then");
                false
            }
        };
        self.watched = now.into_iter().filter(watch).collect();
    }
}

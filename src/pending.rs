//! Pending files: what undoes a deployment, on disk before the deployment touches anything.
//!
//! One file a domain, `HOME/.kloros/pending/DOMAIN.json`, replaced whole or not at all. The text in it carries its own
//! checksum, which is looked at by whoever undoes: a damaged file stays where it is, for a person.
//!
//! Whoever undoes a change in the daemon's place first takes it over, by renaming its file to `DOMAIN.DEPLOYMENT.undoing`, and
//! says that it is done by renaming that to `DOMAIN.DEPLOYMENT.undone`. Only one can take a file over, and a daemon that was
//! frozen meanwhile finds its file gone: the name is the fence. What changes while a file is armed, its deadline and
//! how many tries are left, lies beside it and is written over in place, which needs no free disk and brings no file back. One of
//! these whose sync failed is given up, and another one takes its place.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use kloros_actors::{
    facts::DeploymentId,
    seams::{Claimed, EnvStoreError, PendingStore, Terms},
};

mod terms;

use crate::crash;

/// The largest pending file, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How the name of a file ends that somebody took over and is undoing.
const UNDOING: &str = "undoing";

/// How the name of a file ends that was taken over and is undone.
const UNDONE: &str = "undone";

/// The pending files under a home.
#[derive(Clone, Debug)]
pub(crate) struct PendingFiles {
    folder: PathBuf,
}

impl PendingFiles {
    /// Returns the pending files in `folder`, which is created when the first one is armed.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn file(&self, domain: &str) -> Result<PathBuf, EnvStoreError> {
        let file = self.folder.join(format!("{domain}.json"));
        let names_a_domain = |each: u8| each.is_ascii_alphanumeric() || matches!(each, b'_' | b'-');
        if domain.is_empty() || !domain.bytes().all(names_a_domain) {
            let why = "its name is not made of letters, digits, underscores and hyphens".to_owned();
            return Err(EnvStoreError::Refused { path: file.display().to_string(), why });
        }
        Ok(file)
    }

    /// Returns the domains of which something is pending, in order: armed, or taken over and not undone.
    pub(crate) fn domains(&self) -> io::Result<Vec<String>> {
        let names = names(&self.folder)?;
        let open = names.iter().filter_map(|name| match name.split('.').collect::<Vec<_>>()[..] {
            [domain, "json"] | [domain, _, UNDOING] => Some(domain.to_owned()),
            _ => None,
        });
        let mut open: Vec<String> = open.collect();
        open.sort();
        open.dedup();
        Ok(open)
    }

    /// Returns the text of the pending file of `domain`, blocking.
    pub(crate) fn read(&self, domain: &str) -> io::Result<Option<String>> {
        read(&self.named(domain, "json"))
    }

    /// Returns what was taken over of `domain`, blocking.
    pub(crate) fn taken_over(&self, domain: &str) -> io::Result<Option<Claimed>> {
        claimed(&self.folder, domain)
    }

    /// Takes the pending file of `domain` over, which belongs to `deployment`; fails when somebody else was faster.
    pub(crate) fn take_over(&self, domain: &str, deployment: &DeploymentId) -> io::Result<()> {
        self.rename(&self.named(domain, "json"), &self.named(domain, &format!("{deployment}.{UNDOING}")))
    }

    /// Says that what was taken over is undone.
    pub(crate) fn undone(&self, domain: &str, deployment: &DeploymentId) -> io::Result<()> {
        let name = |ending: &str| self.named(domain, &format!("{deployment}.{ending}"));
        match self.rename(&name(UNDOING), &name(UNDONE)) {
            // The daemon is back and has cleared it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes all that is pending of `domain`, blocking.
    pub(crate) fn remove(&self, domain: &str) -> io::Result<()> {
        remove(&self.folder, domain)
    }

    /// Returns whether the daemon is late with what is armed for `domain`. A file of a kloros that knew no deadline never is.
    pub(crate) fn is_due(&self, domain: &str) -> io::Result<bool> {
        terms::is_due(&self.named(domain, "deadline"))
    }

    /// Uses up one of the restarts that are left for an undo of `domain`, durably, and returns whether there was one.
    pub(crate) fn use_a_try(&self, domain: &str) -> io::Result<bool> {
        terms::use_a_try(&self.named(domain, "tries"))
    }

    /// Returns the file that whoever watches over `domain` keeps locked, with the deployment in it.
    pub(crate) fn watch_file(&self, domain: &str) -> PathBuf {
        self.named(domain, "guard")
    }

    fn named(&self, domain: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{domain}.{ending}"))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        crash::here("pending: rename");
        fs::rename(from, to)?;
        crash::here("pending: sync the rename");
        sync_folder(&self.folder)
    }
}

#[async_trait]
impl PendingStore for PendingFiles {
    async fn arm(&self, domain: &str, text: String, terms: Terms) -> Result<(), EnvStoreError> {
        let file = self.file(domain)?;
        let path = file.display().to_string();
        let (deadline, tries) = (self.named(domain, "deadline"), self.named(domain, "tries"));
        let (folder, domain) = (self.folder.clone(), domain.to_owned());
        let arm = move || {
            create(&folder)?;
            // What an earlier change left is over, or this one would not be made.
            remove_all(&folder, |name| is_claim(name, &domain))?;
            crash::here("pending: write the terms");
            terms::write(&deadline, &tries, terms)?;
            write(&file, &text)
        };
        let armed = apart(arm).await;
        armed.map_err(|error| EnvStoreError::Write { path, why: error.to_string() })
    }

    async fn armed(&self, domain: &str) -> Result<Option<String>, EnvStoreError> {
        let file = self.file(domain)?;
        let path = file.display().to_string();
        let armed = apart(move || read(&file)).await;
        armed.map_err(|error| EnvStoreError::Read { path, why: error.to_string() })
    }

    async fn claimed(&self, domain: &str) -> Result<Option<Claimed>, EnvStoreError> {
        let path = self.file(domain)?.display().to_string();
        let (folder, domain) = (self.folder.clone(), domain.to_owned());
        let found = apart(move || claimed(&folder, &domain)).await;
        found.map_err(|error| EnvStoreError::Read { path, why: error.to_string() })
    }

    async fn extend(&self, within: Duration) -> Result<(), EnvStoreError> {
        let (path, folder) = (self.folder.display().to_string(), self.folder.clone());
        let extend = move || {
            let names = names(&folder)?;
            let armed = names.iter().filter_map(|name| name.strip_suffix(".json"));
            armed
                .map(|domain| folder.join(format!("{domain}.deadline")))
                .try_for_each(|file| terms::put_off(&file, within))
        };
        apart(extend).await.map_err(|error| EnvStoreError::Write { path, why: error.to_string() })
    }

    async fn disarm(&self, domain: &str) -> Result<(), EnvStoreError> {
        let path = self.file(domain)?.display().to_string();
        let (folder, domain) = (self.folder.clone(), domain.to_owned());
        let disarmed = apart(move || remove(&folder, &domain)).await;
        disarmed.map_err(|error| EnvStoreError::Write { path, why: error.to_string() })
    }
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Returns the names in `folder`; a folder that is not there holds none.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn is_claim(name: &str, domain: &str) -> bool {
    matches!(name.split('.').collect::<Vec<_>>()[..], [of, _, UNDOING | UNDONE] if of == domain)
}

fn claimed(folder: &Path, domain: &str) -> io::Result<Option<Claimed>> {
    let names = names(folder)?;
    let Some(name) = names.iter().filter(|name| is_claim(name, domain)).min() else { return Ok(None) };
    let Some(text) = read(&folder.join(name))? else { return Ok(None) };
    let deployment = name.split('.').nth(1).unwrap_or_default();
    Ok(Some(Claimed { deployment: DeploymentId::new(deployment), text, is_undone: name.ends_with(UNDONE) }))
}

fn create(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // The folders' own names must survive a power cut as well.
        folder.ancestors().skip(1).take(2).try_for_each(sync_folder)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let part = file.with_extension("json.part");
    // What a crash left half-written is written anew.
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    crash::here("pending: write");
    let synced = opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all());
    crash::here("pending: arm");
    synced.and_then(|()| fs::rename(&part, file)).inspect_err(|_| drop(fs::remove_file(&part)))?;
    crash::here("pending: sync the arming");
    sync_folder(folder)
}

fn read(file: &Path) -> io::Result<Option<String>> {
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    // What is no text, or too much of it, has no valid checksum either.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn remove(folder: &Path, domain: &str) -> io::Result<()> {
    let armed = format!("{domain}.json");
    remove_all(folder, |name| name == armed || is_claim(name, domain))?;
    // Only with a pending file do these mean anything.
    let terms = ["deadline", "tries"].map(|ending| format!("{domain}.{ending}"));
    remove_all(folder, |name| terms.iter().any(|each| each == name))
}

fn remove_all(folder: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
    let names = names(folder)?;
    let meant: Vec<&String> = names.iter().filter(|name| is_meant(name)).collect();
    for name in &meant {
        crash::here("pending: remove");
        match fs::remove_file(folder.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if meant.is_empty() { Ok(()) } else { sync_folder(folder) }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kloros_actors::deployer::pending::Pending;

    use super::*;

    const TERMS: Terms = Terms { within: Duration::from_secs(60), tries: 2 };

    #[tokio::test]
    async fn what_was_armed_is_there_until_it_is_disarmed() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        assert_eq!(pending.armed("lab").await.unwrap(), None);
        pending.disarm("lab").await.unwrap();
        pending.arm("lab", "first".to_owned(), TERMS).await.unwrap();
        pending.arm("lab", "second \u{0} ä".to_owned(), TERMS).await.unwrap();
        pending.arm("tts", "other".to_owned(), TERMS).await.unwrap();
        let again = PendingFiles::new(&home.path().join(".kloros/pending"));
        assert_eq!(again.armed("lab").await.unwrap().as_deref(), Some("second \u{0} ä"));
        let mode = fs::metadata(home.path().join(".kloros/pending/lab.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.disarm("lab").await.unwrap();
        assert_eq!(pending.armed("lab").await.unwrap(), None);
        assert_eq!(pending.armed("tts").await.unwrap().as_deref(), Some("other"));
        assert_eq!(pending.domains().unwrap(), ["tts"]);
        assert_eq!(names(&home.path().join(".kloros/pending")).unwrap().len(), 3, "the file and its terms");
    }

    #[tokio::test]
    async fn what_is_taken_over_is_nobody_elses_and_is_told_from_what_is_undone() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(home.path());
        let id = DeploymentId::new("d-1");
        pending.arm("lab", "text".to_owned(), TERMS).await.unwrap();
        assert_eq!(pending.claimed("lab").await.unwrap(), None);
        pending.take_over("lab", &id).unwrap();
        assert_eq!(pending.take_over("lab", &id).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(pending.armed("lab").await.unwrap(), None);
        for is_undone in [false, true] {
            let expected = Claimed { deployment: id.clone(), text: "text".to_owned(), is_undone };
            assert_eq!(pending.claimed("lab").await.unwrap(), Some(expected));
            assert_eq!(pending.claimed("la").await.unwrap(), None);
            assert_eq!(pending.domains().unwrap().is_empty(), is_undone);
            pending.undone("lab", &id).unwrap();
        }
        pending.extend(Duration::from_secs(5)).await.unwrap();
        assert_eq!(pending.armed("lab").await.unwrap(), None, "a deadline that is put off brings no file back");
        pending.arm("lab", "next".to_owned(), TERMS).await.unwrap();
        assert_eq!(pending.claimed("lab").await.unwrap(), None);
        pending.disarm("lab").await.unwrap();
        pending.undone("lab", &id).unwrap();
        assert_eq!(names(home.path()).unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn it_is_due_after_its_deadline_which_can_be_put_off_and_so_often_may_it_be_tried() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(home.path());
        pending.arm("lab", "text".to_owned(), Terms { within: Duration::ZERO, tries: 2 }).await.unwrap();
        assert!(pending.is_due("lab").unwrap());
        pending.extend(Duration::from_secs(60)).await.unwrap();
        assert!(!pending.is_due("lab").unwrap());
        assert!(!pending.is_due("tts").unwrap(), "a kloros that knew no deadline is never late");
        fs::write(home.path().join("lab.deadline"), "torn").unwrap();
        assert!(pending.is_due("lab").unwrap());
        let tries: Vec<bool> = (0..4).map(|_| pending.use_a_try("lab").unwrap()).collect();
        assert_eq!(tries, [true, true, false, false]);
    }

    #[tokio::test]
    async fn a_damaged_file_stays_where_it_is_and_is_not_taken_for_a_pending_one() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        pending.arm("lab", "old and new values".to_owned(), TERMS).await.unwrap();
        let file = home.path().join(".kloros/pending/lab.json");
        for damaged in [&b""[..], b"{", b"\xff\xfe", b"[1]"] {
            fs::write(&file, damaged).unwrap();
            let text = pending.armed("lab").await.unwrap().unwrap();
            assert!(Pending::from_text(&text).is_err());
            assert_eq!(fs::read(&file).unwrap(), damaged);
        }
    }

    #[tokio::test]
    async fn half_a_file_of_a_crash_is_never_read() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        pending.arm("lab", "first".to_owned(), TERMS).await.unwrap();
        fs::write(home.path().join(".kloros/pending/lab.json.part"), "{\"check").unwrap();
        assert_eq!(pending.armed("lab").await.unwrap().as_deref(), Some("first"));
        pending.arm("lab", "second".to_owned(), TERMS).await.unwrap();
        assert_eq!(pending.armed("lab").await.unwrap().as_deref(), Some("second"));
    }

    #[tokio::test]
    async fn a_name_that_leads_out_of_the_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        for domain in ["", "..", "../lab", "a/b", "a\0b", "lab.json"] {
            let refused = pending.arm(domain, String::new(), TERMS).await;
            assert!(matches!(refused, Err(EnvStoreError::Refused { .. })), "{domain:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_home_that_cannot_be_written_to_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".kloros"), "a file where the folder belongs").unwrap();
        let error =
            PendingFiles::new(&home.path().join(".kloros/pending")).arm("lab", String::new(), TERMS).await.unwrap_err();
        assert!(matches!(&error, EnvStoreError::Write { path, .. } if path.ends_with("lab.json")), "{error}");
    }
}

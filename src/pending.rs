//! Pending files: what undoes a deployment, on disk before the deployment touches anything.
//!
//! One file a domain, `HOME/.kloros/pending/DOMAIN.json`, replaced whole or not at all. The text in it carries its own
//! checksum, which is looked at by whoever undoes: a damaged file stays where it is, for a person.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use kloros_actors::seams::{EnvStoreError, PendingStore};

/// The largest pending file, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

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
}

#[async_trait]
impl PendingStore for PendingFiles {
    async fn arm(&self, domain: &str, text: String) -> Result<(), EnvStoreError> {
        let file = self.file(domain)?;
        let path = file.display().to_string();
        let armed = apart(move || write(&file, &text)).await;
        armed.map_err(|error| EnvStoreError::Write { path, why: error.to_string() })
    }

    async fn armed(&self, domain: &str) -> Result<Option<String>, EnvStoreError> {
        let file = self.file(domain)?;
        let path = file.display().to_string();
        let armed = apart(move || read(&file)).await;
        armed.map_err(|error| EnvStoreError::Read { path, why: error.to_string() })
    }

    async fn disarm(&self, domain: &str) -> Result<(), EnvStoreError> {
        let file = self.file(domain)?;
        let path = file.display().to_string();
        let disarmed = apart(move || remove(&file)).await;
        disarmed.map_err(|error| EnvStoreError::Write { path, why: error.to_string() })
    }
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // The folders' own names must survive a power cut as well.
        folder.ancestors().skip(1).take(2).try_for_each(sync_folder)?;
    }
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    let part = file.with_extension("json.part");
    // What a crash left half-written is written anew.
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    let written =
        opened.write_all(text.as_bytes()).and_then(|()| opened.sync_all()).and_then(|()| fs::rename(&part, file));
    written.inspect_err(|_| drop(fs::remove_file(&part)))?;
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

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => file.parent().map_or(Ok(()), sync_folder),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use kloros_actors::deployer::pending::Pending;

    use super::*;

    #[tokio::test]
    async fn what_was_armed_is_there_until_it_is_disarmed() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        assert_eq!(pending.armed("lab").await.unwrap(), None);
        pending.disarm("lab").await.unwrap();
        pending.arm("lab", "first".to_owned()).await.unwrap();
        pending.arm("lab", "second \u{0} ä".to_owned()).await.unwrap();
        pending.arm("tts", "other".to_owned()).await.unwrap();
        let again = PendingFiles::new(&home.path().join(".kloros/pending"));
        assert_eq!(again.armed("lab").await.unwrap().as_deref(), Some("second \u{0} ä"));
        let mode = fs::metadata(home.path().join(".kloros/pending/lab.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        again.disarm("lab").await.unwrap();
        assert_eq!(pending.armed("lab").await.unwrap(), None);
        assert_eq!(pending.armed("tts").await.unwrap().as_deref(), Some("other"));
        assert_eq!(fs::read_dir(home.path().join(".kloros/pending")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_damaged_file_stays_where_it_is_and_is_not_taken_for_a_pending_one() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        pending.arm("lab", "old and new values".to_owned()).await.unwrap();
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
        pending.arm("lab", "first".to_owned()).await.unwrap();
        fs::write(home.path().join(".kloros/pending/lab.json.part"), "{\"check").unwrap();
        assert_eq!(pending.armed("lab").await.unwrap().as_deref(), Some("first"));
        pending.arm("lab", "second".to_owned()).await.unwrap();
        assert_eq!(pending.armed("lab").await.unwrap().as_deref(), Some("second"));
    }

    #[tokio::test]
    async fn a_name_that_leads_out_of_the_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let pending = PendingFiles::new(&home.path().join(".kloros/pending"));
        for domain in ["", "..", "../lab", "a/b", "a\0b", "lab.json"] {
            let refused = pending.arm(domain, String::new()).await;
            assert!(matches!(refused, Err(EnvStoreError::Refused { .. })), "{domain:?}: {refused:?}");
        }
    }

    #[tokio::test]
    async fn a_home_that_cannot_be_written_to_is_named() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(".kloros"), "a file where the folder belongs").unwrap();
        let error =
            PendingFiles::new(&home.path().join(".kloros/pending")).arm("lab", String::new()).await.unwrap_err();
        assert!(matches!(&error, EnvStoreError::Write { path, .. } if path.ends_with("lab.json")), "{error}");
    }
}

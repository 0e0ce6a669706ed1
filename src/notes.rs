//! Notes: what a room could learn again, kept in files of the home so that it need not.
//!
//! `HOME/.kloros/NAME.note`. A file is replaced whole by renaming another one over it; it is not made durable, because a lost one
//! costs time alone. Whoever reads it finds out whether it is sound.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use kloros_actors::seams::{NoteError, Notes};
use rustix::fs::OFlags;
use tokio::task::spawn_blocking;

use crate::home::Home;

/// The largest note, in bytes.
const NOTE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The notes of one home.
#[derive(Clone, Debug)]
pub(crate) struct NoteFiles {
    folder: PathBuf,
}

impl NoteFiles {
    /// Returns the notes of `home`.
    pub(crate) fn of(home: &Home) -> Self {
        Self { folder: home.state_folder() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.note"))
    }
}

#[async_trait]
impl Notes for NoteFiles {
    async fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<(), NoteError> {
        let path = self.path(name);
        in_words(spawn_blocking(move || replace(&path, &bytes)).await)
    }

    async fn kept(&self, name: &str) -> Result<Option<Vec<u8>>, NoteError> {
        let path = self.path(name);
        in_words(spawn_blocking(move || read(&path)).await)
    }

    async fn discard(&self, name: &str) {
        let path = self.path(name);
        let aside = path.with_extension("note.corrupt");
        // What cannot even be moved is replaced by the next one.
        spawn_blocking(move || fs::rename(&path, &aside)).await.ok();
    }
}

fn in_words<T>(answer: Result<io::Result<T>, tokio::task::JoinError>) -> Result<T, NoteError> {
    answer.map_err(|error| NoteError(error.to_string()))?.map_err(|error| NoteError(error.to_string()))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if bytes.len() as u64 > NOTE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {NOTE_BYTES_MAX} bytes")));
    }
    let part = path.with_extension("note.part");
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&part)
        .and_then(|mut file| file.write_all(bytes));
    written.and_then(|()| fs::rename(&part, path)).inspect_err(|_| drop(fs::remove_file(&part)))
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    let file = match options.read(true).custom_flags(flags.bits().cast_signed()).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(NOTE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > NOTE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {NOTE_BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_note_is_kept_replaced_and_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let notes = NoteFiles { folder: folder.path().to_owned() };
        assert_eq!(notes.kept("observer").await, Ok(None));
        for text in ["one", "another"] {
            notes.keep("observer", text.into()).await.unwrap();
            assert_eq!(notes.kept("observer").await, Ok(Some(text.into())));
        }
        notes.discard("observer").await;
        assert_eq!(notes.kept("observer").await, Ok(None));
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["observer.note.corrupt"]);
    }

    #[tokio::test]
    async fn what_is_no_file_and_a_folder_that_is_gone_are_said_and_harm_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let notes = NoteFiles { folder: folder.path().to_owned() };
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("linked.note")).unwrap();
        fs::create_dir(folder.path().join("folder.note")).unwrap();
        assert!(notes.kept("linked").await.is_err());
        assert!(notes.kept("folder").await.is_err());
        assert!(notes.keep("folder", vec![1]).await.is_err());
        let gone = NoteFiles { folder: folder.path().join("gone") };
        assert!(gone.keep("observer", vec![1]).await.is_err());
        assert_eq!(gone.kept("observer").await, Ok(None));
    }
}

//! Space for an undo, set aside before a change is made: a full disk must not keep an unproven change alive.
//!
//! The reserve is a file beside the env file whose blocks are written already. When there is no free disk for the new
//! content, the reserve is renamed and written over, and then exchanged like any other. A file system that copies what is
//! written over, as btrfs and ZFS do, needs space for that all the same.

use std::{ffi::OsStr, fs::File, io::Write, path::Path};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{FILE_BYTES_MAX, Fault, Place};
use crate::crash;

/// What the reserve is called, behind the name of its env file.
pub(super) const ROLE: &str = "reserve";

/// Which space new content may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// What is free.
    Free,
    /// What is free, or else what was set aside: a change that took it could not be undone on the full disk on which it was made.
    Reserved,
}

/// Sets aside space for `bytes` bytes beside `file`, durably; what was set aside before goes.
pub(super) fn set_aside(file: &Path, bytes: usize) -> Result<(), Fault> {
    // Without the folder there is no env file either, and whoever writes it says so.
    let Some(place) = Place::of(file)? else { return Ok(()) };
    let name = place.beside(ROLE);
    place.remove(&name);
    crash::here("reserve: create");
    let mut reserve = place.fresh(&name)?;
    crash::here("reserve: fill");
    let filled = reserve.write_all(&vec![0; bytes.min(FILE_BYTES_MAX)]).and_then(|()| reserve.sync_all());
    filled.inspect_err(|_| place.remove(&name))?;
    Ok(rustix::fs::fsync(&place.folder)?)
}

/// Removes what was set aside beside `file`.
pub(super) fn give_back(file: &Path) -> Result<(), Fault> {
    let Some(place) = Place::of(file)? else { return Ok(()) };
    crash::here("reserve: remove");
    match rustix::fs::unlinkat(&place.folder, place.beside(ROLE), AtFlags::empty()) {
        Ok(()) => Ok(rustix::fs::fsync(&place.folder)?),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Place {
    /// Writes what found no free disk, `why`, into the reserve, which is called `part` from then on.
    pub(super) fn write_into_reserve(
        &self,
        part: &OsStr,
        like_the_old: bool,
        bytes: &[u8],
        why: String,
    ) -> Result<(), Fault> {
        self.remove(part);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(reserve) = rustix::fs::openat(&self.folder, self.beside(ROLE), flags, Mode::empty()) else {
            return Err(Fault::Full(why));
        };
        rustix::fs::renameat(&self.folder, self.beside(ROLE), &self.folder, part)?;
        self.write(File::from(reserve), like_the_old, bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kloros_actors::seams::{EnvFile, EnvStore as _};

    use super::{super::EnvFiles, *};

    #[test]
    fn what_finds_no_free_disk_is_written_into_the_reserve_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.env");
        fs::write(&path, "A=2\n").unwrap();
        set_aside(&path, 5000).unwrap();
        assert_eq!(fs::metadata(folder.path().join(".lab.env.kloros-reserve")).unwrap().len(), 5000);
        let place = Place::of(&path).unwrap().unwrap();
        let part = place.beside("part");
        place.write_into_reserve(&part, true, b"A=1\n", "full".to_owned()).unwrap();
        assert_eq!(fs::read(folder.path().join(&part)).unwrap(), b"A=1\n");
        let again = place.write_into_reserve(&part, true, b"A=1\n", "full".to_owned());
        assert!(matches!(&again, Err(Fault::Full(why)) if why == "full"), "{again:?}");
        assert!(!folder.path().join(&part).exists());
    }

    #[tokio::test]
    async fn a_reserve_survives_reads_and_goes_when_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.env");
        fs::write(&path, "A=1\n").unwrap();
        let store = EnvFiles::default();
        store.reserve(&path, 100).await.unwrap();
        let file = store.read(&path).await.unwrap();
        assert_eq!(file, EnvFile { bytes: b"A=1\n".to_vec(), exists: true });
        store.replace(&path, &file, b"A=2\n".to_vec()).await.unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        for _ in 0..2 {
            store.release(&path).await.unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        store.reserve(&folder.path().join("none/lab.env"), 1).await.unwrap();
    }
}

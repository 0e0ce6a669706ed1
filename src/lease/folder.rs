//! The files of the lease: who has the lock of one has it, and what stands in it says who that is.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::queue::Party;

/// Everybody may measure, and nobody may take away what another one made.
const FOLDER_MODE: u32 = 0o1777;

/// Everybody may hold a file and say so in it.
const FILE_MODE: u32 = 0o666;

/// How much of a file is read, in bytes; others may have written anything.
const TEXT_BYTES_MAX: u64 = 4096;

/// How often a file is opened anew that is made or taken away at the same moment.
const TRIES: u32 = 8;

/// The folder of the lease, opened.
pub(super) struct Folder(OwnedFd);

/// A file that this process holds. Dropped, it is let go.
#[derive(Debug)]
pub(super) struct Held(File);

impl Folder {
    /// Opens the folder at `path`, and makes it first where it is not there. What is in the folder above must be there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(folder) => return Ok(Self(folder)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                let folder = rustix::fs::open(path, flags, Mode::empty())?;
                // What this process was told to withhold from files would lock others out.
                rustix::fs::fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE))?;
                Ok(Self(folder))
            }
            // Somebody else made it meanwhile.
            Err(Errno::EXIST) => Ok(Self(rustix::fs::open(path, flags, Mode::empty())?)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Takes the file `name`, without waiting; `None` where somebody else has it.
    pub(super) fn take(&self, name: &str) -> io::Result<Option<Held>> {
        for _ in 0..TRIES {
            let file = match self.file(name) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
            // A lock on a file that lost its name excludes nobody, so the one that has the name now is tried.
            if self.is_named(name, &file) {
                return Ok(Some(Held(file)));
            }
        }
        Err(io::Error::other(format!("{name} is replaced again and again")))
    }

    /// Returns who has the file `name`; `None` where nobody has it, or who has it does not say so (yet).
    pub(super) fn holder(&self, name: &str) -> io::Result<Option<Party>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // Shared, so that two who look at once are not taken for holders by each other.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => {
                let mut text = Vec::new();
                file.take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
                Ok(serde_json::from_slice(&text).ok())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        // A file of another user in a folder like this may not be opened by whoever would also make it
        // (`fs.protected_regular`), so it is made only where it is not there.
        let file = match rustix::fs::openat(&self.0, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                let new = flags | OFlags::CREATE | OFlags::EXCL;
                let made = rustix::fs::openat(&self.0, name, new, Mode::from_raw_mode(FILE_MODE));
                let made = made.map_err(|errno| if errno == Errno::EXIST { Errno::NOENT } else { errno })?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(FILE_MODE))?;
                made
            }
            // To hold it, reading it is enough.
            Err(Errno::ACCESS) => {
                rustix::fs::openat(&self.0, name, (flags & !OFlags::RDWR) | OFlags::RDONLY, Mode::empty())?
            }
            opened => opened?,
        };
        let file = File::from(file);
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(format!("{name} is no file"))) }
    }

    fn is_named(&self, name: &str, file: &File) -> bool {
        let named = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW);
        let open = rustix::fs::fstat(file.as_fd());
        named.is_ok_and(|named| open.is_ok_and(|open| (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)))
    }
}

impl Held {
    /// Returns whether the file still has its name, so that nobody else can hold another one under it.
    pub(super) fn has_its_name(&self) -> bool {
        self.0.metadata().is_ok_and(|metadata| metadata.nlink() > 0)
    }

    /// Says in the file who has it. That only helps others to wait, so a full disk stops nobody.
    pub(super) fn say(&mut self, party: &Party) {
        let text = serde_json::to_vec(party).unwrap_or_default();
        let _ = self.0.set_len(0).and_then(|()| self.0.write_all(&text));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Emptied before it is let go; whoever is killed before this leaves a text that nobody believes without the lock.
        let _ = self.0.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::{super::queue::Urgency, *};

    #[test]
    fn a_file_has_one_holder_who_says_who_it_is_until_it_lets_go() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("lease");
        let folder = Folder::open(&path).unwrap();
        assert!(folder.holder("slot").unwrap().is_none());
        let mut held = folder.take("slot").unwrap().unwrap();
        let party = Party::waiting("a trial", Urgency::Ordinary, 7, 100);
        held.say(&party);
        assert_eq!(folder.holder("slot").unwrap(), Some(party));
        assert!(Folder::open(&path).unwrap().take("slot").unwrap().is_none());
        drop(held);
        assert!(folder.holder("slot").unwrap().is_none());
        assert!(folder.take("slot").unwrap().is_some());
    }

    #[test]
    fn everybody_may_use_the_folder_and_its_files_whatever_this_process_withholds() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("lease");
        Folder::open(&path).unwrap().take("slot").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&path), mode(&path.join("slot"))), (0o1777, 0o666));
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("lease");
        let folder = Folder::open(&path).unwrap();
        symlink(above.path().join("elsewhere"), path.join("slot")).unwrap();
        assert!(folder.take("slot").is_err());
        assert!(!above.path().join("elsewhere").exists());
        std::fs::create_dir(path.join("seat")).unwrap();
        assert!(folder.take("seat").is_err());
        symlink(&path, above.path().join("link")).unwrap();
        assert!(Folder::open(&above.path().join("link")).is_err());
        assert!(Folder::open(&above.path().join("no/such")).is_err());
    }

    #[test]
    fn a_holder_whose_file_lost_its_name_excludes_the_next_from_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let folder = Folder::open(&above.path().join("lease")).unwrap();
        let held = folder.take("slot").unwrap().unwrap();
        std::fs::remove_file(above.path().join("lease/slot")).unwrap();
        assert!(folder.take("slot").unwrap().is_some(), "the file that has the name now is another one");
        drop(held);
    }
}

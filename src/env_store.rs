//! Env files: read whole, replaced whole or not at all, and never over somebody else's edit.
//!
//! The new content is written beside the file, made durable, and exchanged with it in one step; then what came out is
//! compared with what was expected there, for a little while, in case somebody still writes into it. If somebody was faster,
//! theirs is exchanged back. What a crash leaves beside the file is put right when the file is next read or replaced. A person
//! who keeps the old file open and writes into it after it was compared writes into a file that is gone; no lock that editors
//! respect exists against that.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use kloros_actors::seams::{EnvFile, EnvStore, EnvStoreError};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Dir, FlockOperation, Gid, Mode, OFlags, RenameFlags, Stat, Uid},
    io::Errno,
};

mod attributes;

mod exchange;

mod fault;

mod reserve;

mod way;

use attributes::{copy_attributes, plain};
use fault::Fault;
use reserve::Room;

pub(crate) use exchange::can_exchange;
use exchange::digest;
pub(crate) use way::refuses_links_at_once;

use crate::crash;

/// The largest env file that is read or written, in bytes.
pub(crate) const FILE_BYTES_MAX: usize = 1024 * 1024;

/// How long another kloros process may hold the folder.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long between two attempts to get it.
const LOCK_INTERVAL: Duration = Duration::from_millis(10);

/// How long the file that came out of an exchange is watched for somebody who had it open and writes into it only now. A
/// shell that appends a line is done within microseconds.
const LATE_WRITES_WITHIN: Duration = Duration::from_millis(40);

/// How often a file is exchanged back when it is changed again and again meanwhile.
const EXCHANGES_BACK_MAX: u32 = 8;

/// The env files of this machine.
#[derive(Debug, Default)]
pub(crate) struct EnvFiles {
    // One writer a file; there are as many as there are domains.
    locks: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
}

impl EnvFiles {
    async fn alone<T: Send + 'static>(
        &self,
        file: &Path,
        work: impl FnOnce(&Path) -> Result<T, EnvStoreError> + Send + 'static,
    ) -> Result<T, EnvStoreError> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(file.to_owned()).or_default())
        };
        let alone = lock.lock_owned().await;
        let file = file.to_owned();
        let path = file.display().to_string();
        // The lock goes with the work: when the caller goes away, the work still ends before the next one begins.
        let work = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            work(&file)
        });
        work.await.unwrap_or_else(|error| Err(EnvStoreError::Read { path, why: error.to_string() }))
    }
}

#[async_trait]
impl EnvStore for EnvFiles {
    async fn read(&self, file: &Path) -> Result<EnvFile, EnvStoreError> {
        self.alone(file, |file| {
            let Some(place) = Place::of(file).map_err(|fault| fault.while_reading(file))? else {
                return Ok(absent());
            };
            place.settle().and_then(|()| place.look(&place.name)).map_err(|fault| fault.while_reading(file))
        })
        .await
    }

    async fn replace(&self, file: &Path, expected: &EnvFile, bytes: Vec<u8>) -> Result<(), EnvStoreError> {
        let expected = expected.clone();
        let work = move |file: &Path| replace(file, &expected, &bytes, Room::Free);
        self.alone(file, move |file| work(file).map_err(|fault| fault.while_writing(file))).await
    }

    async fn restore(&self, file: &Path, expected: &EnvFile, bytes: Vec<u8>) -> Result<(), EnvStoreError> {
        let expected = expected.clone();
        let work = move |file: &Path| replace(file, &expected, &bytes, Room::Reserved);
        self.alone(file, move |file| work(file).map_err(|fault| fault.while_writing(file))).await
    }

    async fn reserve(&self, file: &Path, bytes: usize) -> Result<(), EnvStoreError> {
        self.alone(file, move |file| reserve::set_aside(file, bytes).map_err(|fault| fault.while_writing(file))).await
    }

    async fn release(&self, file: &Path) -> Result<(), EnvStoreError> {
        self.alone(file, |file| reserve::give_back(file).map_err(|fault| fault.while_writing(file))).await
    }
}

fn absent() -> EnvFile {
    EnvFile { bytes: Vec::new(), exists: false }
}

fn replace(file: &Path, expected: &EnvFile, bytes: &[u8], room: Room) -> Result<(), Fault> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(Fault::Refused(format!("the new content is larger than {FILE_BYTES_MAX} bytes")));
    }
    let place = Place::of(file)?.ok_or(Fault::Failed("its folder does not exist".to_owned()))?;
    place.settle()?;
    if place.look(&place.name)? != *expected {
        return Err(Fault::Raced);
    }
    if expected.exists {
        let swap = place.prepare(Some(&expected.bytes), bytes, room)?;
        place.exchange(&swap, expected, bytes)
    } else {
        let part = place.prepare(None, bytes, room)?;
        place.create(&part)
    }
}

/// A file's folder, held open and locked against other kloros processes, and the file's name in it.
///
/// Neither the file nor anything on the way to it may be a link: whoever may write into one of these folders could lead us anywhere.
struct Place {
    folder: OwnedFd,
    name: OsString,
}

impl Place {
    /// Returns the place of `file`, or `None` when its folder does not exist.
    fn of(file: &Path) -> Result<Option<Self>, Fault> {
        let name = file.file_name().ok_or(Fault::Refused("the path names no file".to_owned()))?.to_owned();
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let folder = match way::open_folder(parent) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(Fault::Refused(way::linked(parent, &name))),
            Err(error) => return Err(error.into()),
        };
        let deadline = Instant::now() + LOCK_WAIT_MAX;
        while let Err(error) = rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            if !matches!(error, Errno::WOULDBLOCK | Errno::INTR) {
                return Err(error.into());
            }
            if Instant::now() > deadline {
                return Err(Fault::Failed("another process holds its folder locked".to_owned()));
            }
            thread::sleep(LOCK_INTERVAL);
        }
        Ok(Some(Self { folder, name }))
    }

    /// Returns what stands at `name`, if it is something that may be written to.
    fn look(&self, name: &OsStr) -> Result<EnvFile, Fault> {
        match self.open(name)? {
            None => Ok(absent()),
            Some((file, _)) => {
                let mut bytes = Vec::new();
                file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
                if bytes.len() > FILE_BYTES_MAX {
                    return Err(Fault::Refused(format!("it is larger than {FILE_BYTES_MAX} bytes")));
                }
                Ok(EnvFile { bytes, exists: true })
            }
        }
    }

    fn open(&self, name: &OsStr) -> Result<Option<(File, Stat)>, Fault> {
        // Looked at before it is opened, because opening a device may do something.
        match rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => plain(&stat)?,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(Fault::Refused("it is a symbolic link".to_owned())),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        plain(&stat)?;
        Ok(Some((File::from(file), stat)))
    }

    /// Writes `bytes` beside the file, durably, and returns the name they stand under.
    ///
    /// With `old`, they get the owner, mode and attributes of the file, and a name that tells a later start whether
    /// the exchange was made.
    fn prepare(&self, old: Option<&[u8]>, bytes: &[u8], room: Room) -> Result<OsString, Fault> {
        let part = self.beside("part");
        let fresh = self.fresh(&part).and_then(|opened| self.write(opened, old.is_some(), bytes));
        let filled = match fresh {
            Err(Fault::Full(why)) if room == Room::Reserved => {
                self.write_into_reserve(&part, old.is_some(), bytes, why)
            }
            other => other,
        };
        let written = filled.and_then(|()| match old {
            None => Ok(part.clone()),
            Some(old) => {
                let swap = self.beside(&format!("swap-{}-{}", digest(old), digest(bytes)));
                crash::here("env: rename what was written beside");
                rustix::fs::renameat(&self.folder, &part, &self.folder, &swap)?;
                Ok(swap)
            }
        });
        written.inspect_err(|_| self.remove(&part))
    }

    fn fresh(&self, name: &OsStr) -> Result<File, Fault> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    fn write(&self, mut part: File, like_the_old: bool, bytes: &[u8]) -> Result<(), Fault> {
        if like_the_old {
            let (old, stat) = self.open(&self.name)?.ok_or(Fault::Raced)?;
            let fresh = rustix::fs::fstat(&part)?;
            if (stat.st_uid, stat.st_gid) != (fresh.st_uid, fresh.st_gid) {
                let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                rustix::fs::fchown(&part, Some(owner), Some(group))
                    .map_err(|error| Fault::Failed(format!("its owner cannot be kept: {error}")))?;
            }
            rustix::fs::fchmod(&part, Mode::from_raw_mode(stat.st_mode))?;
            copy_attributes(&old, &part)
                .map_err(|error| Fault::Failed(format!("its extended attributes cannot be kept: {error}")))?;
        }
        crash::here("env: write beside");
        part.write_all(bytes)?;
        crash::here("env: sync what was written beside");
        // A reserve is longer than what is written into it.
        part.set_len(bytes.len() as u64)?;
        // After an error here nothing is known about what is on disk, so this copy is given up.
        Ok(part.sync_all()?)
    }

    fn exchange(&self, swap: &OsStr, expected: &EnvFile, bytes: &[u8]) -> Result<(), Fault> {
        crash::here("env: exchange");
        match self.rename(swap, &self.name, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => return self.replace_by_rename(swap, expected),
            Err(error) => {
                self.remove(swap);
                // Somebody removed the file meanwhile; that stands.
                return Err(if error == Errno::NOENT { Fault::Raced } else { error.into() });
            }
        }
        crash::here("env: sync the exchange");
        rustix::fs::fsync(&self.folder)?;
        crash::here("env: compare what came out");
        if self.stays(swap, expected) {
            self.remove(swap);
            crash::here("env: sync the removal of what came out");
            return Ok(rustix::fs::fsync(&self.folder)?);
        }
        self.exchange_back(swap, bytes)?;
        Err(Fault::Raced)
    }

    /// Returns whether what came out of the exchange is what was expected, and nobody still writes into it.
    fn stays(&self, swap: &OsStr, expected: &EnvFile) -> bool {
        let deadline = Instant::now() + LATE_WRITES_WITHIN;
        while matches!(self.look(swap), Ok(came_out) if came_out == *expected) {
            if Instant::now() >= deadline {
                return true;
            }
            thread::sleep(LOCK_INTERVAL);
        }
        false
    }

    /// Puts back what came out of the exchange, and takes away what we had put in, `bytes`.
    fn exchange_back(&self, swap: &OsStr, bytes: &[u8]) -> Result<(), Fault> {
        for _ in 0..EXCHANGES_BACK_MAX {
            self.rename(swap, &self.name, RenameFlags::EXCHANGE)?;
            // What comes out now is ours, unless somebody replaced it in turn; then theirs is the newest and goes back.
            if self.look(swap).is_ok_and(|came_out| came_out.bytes == bytes) {
                self.remove(swap);
                return Ok(rustix::fs::fsync(&self.folder)?);
            }
        }
        // Two edits in two files: neither is thrown away.
        self.save(swap)
    }

    /// Keeps what a person wrote, and what is in nobody's way, beside the file.
    fn save(&self, stray: &OsStr) -> Result<(), Fault> {
        let left = self.look(stray)?;
        let saved = [self.name.as_bytes(), b".kloros-saved-", digest(&left.bytes).as_bytes()].concat();
        self.rename(stray, OsStr::from_bytes(&saved), RenameFlags::empty())?;
        tracing::warn!(file = %self.name.display(), "an edit that was displaced was saved beside it");
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    /// Replaces the file where the file system cannot exchange; between the last look and the rename is a small gap.
    fn replace_by_rename(&self, swap: &OsStr, expected: &EnvFile) -> Result<(), Fault> {
        if self.look(&self.name)? != *expected {
            self.remove(swap);
            return Err(Fault::Raced);
        }
        self.rename(swap, &self.name, RenameFlags::empty()).inspect_err(|_| self.remove(swap))?;
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    fn create(&self, part: &OsStr) -> Result<(), Fault> {
        let created = match self.rename(part, &self.name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                rustix::fs::linkat(&self.folder, part, &self.folder, &self.name, AtFlags::empty())
            }
            other => other,
        };
        self.remove(part);
        match created {
            Ok(()) => Ok(rustix::fs::fsync(&self.folder)?),
            Err(Errno::EXIST) => Err(Fault::Raced),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts right what a crash left beside the file.
    fn settle(&self) -> Result<(), Fault> {
        let prefix = self.beside("");
        let mut strays = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            if name.as_bytes().starts_with(prefix.as_bytes()) && name != self.beside(reserve::ROLE) {
                strays.push(name);
            }
        }
        strays.iter().try_for_each(|stray| self.settle_one(stray, &stray.as_bytes()[prefix.len()..]))
    }

    fn settle_one(&self, stray: &OsStr, role: &[u8]) -> Result<(), Fault> {
        crash::here("env: settle what a crash left");
        let role = String::from_utf8_lossy(role);
        let hashes = role.strip_prefix("swap-").and_then(|hashes| hashes.split_once('-'));
        if let (Some((old, new)), Ok(left)) = (hashes, self.look(stray)) {
            let left = digest(&left.bytes);
            // Neither what we expected nor what we put in: somebody's edit came out and was not put back.
            if left != old && left != new {
                if self.look(&self.name).is_ok_and(|now| now.exists && digest(&now.bytes) == new) {
                    self.rename(stray, &self.name, RenameFlags::EXCHANGE)?;
                    tracing::warn!(file = %self.name.display(), "an edit that a crash had displaced was put back");
                } else {
                    return self.save(stray);
                }
            }
        }
        self.remove(stray);
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    fn rename(&self, from: &OsStr, to: &OsStr, flags: RenameFlags) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.folder, from, &self.folder, to, flags)
    }

    fn remove(&self, name: &OsStr) {
        // What cannot be removed now is met again as a stray.
        let _ = rustix::fs::unlinkat(&self.folder, name, AtFlags::empty());
    }

    fn beside(&self, role: &str) -> OsString {
        OsString::from_vec([b".", self.name.as_bytes(), b".kloros-", role.as_bytes()].concat())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use rustix::fs::{FileType, XattrFlags};
    use tempfile::TempDir;

    use super::*;

    fn file(bytes: &[u8]) -> EnvFile {
        EnvFile { bytes: bytes.to_vec(), exists: true }
    }

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.env");
        (folder, path)
    }

    fn entries(folder: &TempDir) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_is_created_replaced_and_read_back_and_nothing_is_left_beside_it() {
        let (folder, path) = folder();
        let store = EnvFiles::default();
        assert_eq!(store.read(&path).await.unwrap(), absent());
        store.replace(&path, &absent(), b"A=1\n".to_vec()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        store.replace(&path, &file(b"A=1\n"), b"A=2\n\xff".to_vec()).await.unwrap();
        assert_eq!(store.read(&path).await.unwrap(), file(b"A=2\n\xff"));
        assert_eq!(entries(&folder), ["lab.env"]);
    }

    #[tokio::test]
    async fn mode_and_attributes_are_kept() {
        let (_folder, path) = folder();
        fs::write(&path, "A=1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let attribute = rustix::fs::setxattr(&path, "user.note", b"mine", XattrFlags::empty());
        EnvFiles::default().replace(&path, &file(b"A=1\n"), b"A=2\n".to_vec()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        // A file system without user attributes has none to lose.
        if attribute.is_ok() {
            let mut kept = [0; 16];
            assert_eq!(rustix::fs::getxattr(&path, "user.note", kept.as_mut_slice()), Ok(4));
            assert_eq!(&kept[..4], b"mine");
        }
    }

    /// Returns a default ACL by which the user 65534 reads what is created in a folder, as the kernel has it.
    fn default_acl() -> Vec<u8> {
        let nobody = u32::MAX;
        let entries = [(1, 7, nobody), (2, 4, 65_534), (4, 0, nobody), (16, 4, nobody), (32, 0, nobody)];
        let entry = |(tag, permissions, id): (u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [2_u32.to_le_bytes().to_vec(), entries.map(entry).concat()].concat()
    }

    /// Once a default ACL of the folder came with each new file, and let somebody read it who could not read the old one.
    #[tokio::test]
    async fn who_could_not_read_the_old_file_cannot_read_the_new_one() {
        let (folder, path) = folder();
        fs::write(&path, "TOKEN=1\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let store = EnvFiles::default();
        // A file system without ACLs passes none on.
        if let Err(error) =
            rustix::fs::setxattr(folder.path(), "system.posix_acl_default", &default_acl(), XattrFlags::empty())
        {
            assert_eq!(error, Errno::NOTSUP);
            return;
        }
        store.reserve(&path, 100).await.unwrap();
        store.replace(&path, &file(b"TOKEN=1\n"), b"TOKEN=2\n".to_vec()).await.unwrap();
        let mut acl = [0; 256];
        let found = rustix::fs::getxattr(&path, "system.posix_acl_access", acl.as_mut_slice());
        assert_eq!(found, Err(Errno::NODATA), "it has an ACL that the old one had not");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }

    /// Fault 88. Once a link on the way to the folder was followed, wherever it led.
    #[tokio::test]
    async fn a_link_on_the_way_to_the_file_is_refused_and_the_real_path_is_told() {
        let (folder, _) = folder();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("real/etc")).unwrap();
        fs::write(real.join("real/etc/lab.env"), "A=1\n").unwrap();
        std::os::unix::fs::symlink("real", real.join("link")).unwrap();
        let store = EnvFiles::default();
        let path = real.join("link/etc/lab.env");
        let refusals = [
            store.read(&path).await.unwrap_err(),
            store.replace(&path, &file(b"A=1\n"), b"A=2\n".to_vec()).await.unwrap_err(),
            store.reserve(&path, 1).await.unwrap_err(),
        ];
        for refused in refusals {
            let (link, instead) = (real.join("link"), real.join("real/etc/lab.env"));
            assert!(matches!(refused, EnvStoreError::Refused { .. }), "{refused}");
            let said = refused.to_string();
            assert!(said.contains(&format!("{} on the way to it is a symbolic link", link.display())), "{said}");
            assert!(said.ends_with(&format!("name {} instead", instead.display())), "{said}");
        }
        assert_eq!(fs::read_to_string(real.join("real/etc/lab.env")).unwrap(), "A=1\n");
        assert_eq!(store.read(&real.join("none/lab.env")).await.unwrap(), absent());
        assert_eq!(store.read(&real.join("real/../real/etc/lab.env")).await.unwrap(), file(b"A=1\n"));
    }

    /// Fault 28.
    #[test]
    fn it_can_be_told_whether_a_file_system_exchanges_files() {
        let (folder, _) = folder();
        assert!(can_exchange(folder.path()).is_ok());
        assert_eq!(entries(&folder), [""; 0]);
        assert!(can_exchange(&folder.path().join("none")).is_err());
        // The kernel's own file system of processes makes no files.
        assert!(can_exchange(Path::new("/proc")).is_err());
    }

    #[test]
    fn a_kernel_without_openat2_is_walked_through_folder_by_folder() {
        let (folder, _) = folder();
        let real = folder.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", real.join("link")).unwrap();
        let walk = |path: PathBuf| way::walk(&path).map(drop).map_err(rustix::io::Errno::raw_os_error);
        assert_eq!(walk(real.join("a/b")), Ok(()));
        assert_eq!(walk(real.join("a/../a/b")), Ok(()));
        assert_eq!(walk(real.join("link/b")), Err(Errno::LOOP.raw_os_error()));
        assert_eq!(walk(real.join("none/b")), Err(Errno::NOENT.raw_os_error()));
        assert_eq!(walk(PathBuf::from(".")), Ok(()));
    }

    #[tokio::test]
    async fn a_file_that_changed_since_it_was_read_is_left_as_it_is() {
        let (folder, path) = folder();
        let store = EnvFiles::default();
        fs::write(&path, "A=2 # by hand\n").unwrap();
        for expected in [file(b"A=1\n"), absent()] {
            let replaced = store.replace(&path, &expected, b"A=3\n".to_vec()).await;
            assert!(matches!(replaced, Err(EnvStoreError::Raced { .. })), "{replaced:?}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=2 # by hand\n");
        fs::remove_file(&path).unwrap();
        let replaced = store.replace(&path, &file(b"A=1\n"), b"A=3\n".to_vec()).await;
        assert!(matches!(replaced, Err(EnvStoreError::Raced { .. })), "{replaced:?}");
        assert_eq!(entries(&folder), [""; 0]);
    }

    /// Replaces the file while `meanwhile` happens between the last look and the exchange.
    fn replace_while(path: &Path, meanwhile: impl FnOnce()) -> Result<(), Fault> {
        fs::write(path, "A=1\n").unwrap();
        let place = Place::of(path).unwrap().unwrap();
        let swap = place.prepare(Some(b"A=1\n"), b"A=2\n", Room::Free).unwrap();
        meanwhile();
        place.exchange(&swap, &file(b"A=1\n"), b"A=2\n")
    }

    #[test]
    fn an_edit_at_the_moment_of_the_exchange_survives() {
        let (folder, path) = folder();
        let by_rename = || {
            fs::write(folder.path().join("editor"), "A=by hand\n").unwrap();
            fs::rename(folder.path().join("editor"), &path).unwrap();
        };
        assert!(matches!(replace_while(&path, by_rename), Err(Fault::Raced)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=by hand\n");
        let in_place = || fs::write(&path, "A=in place\n").unwrap();
        assert!(matches!(replace_while(&path, in_place), Err(Fault::Raced)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=in place\n");
        assert!(replace_while(&path, || ()).is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=2\n");
        let removed = || fs::remove_file(&path).unwrap();
        assert!(matches!(replace_while(&path, removed), Err(Fault::Raced)));
        assert_eq!(entries(&folder), [""; 0]);
    }

    #[test]
    fn a_file_that_appears_at_the_moment_of_the_creation_survives() {
        let (folder, path) = folder();
        let place = Place::of(&path).unwrap().unwrap();
        let part = place.prepare(None, b"A=2\n", Room::Free).unwrap();
        fs::write(&path, "A=by hand\n").unwrap();
        assert!(matches!(place.create(&part), Err(Fault::Raced)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=by hand\n");
        assert_eq!(entries(&folder), ["lab.env"]);
    }

    #[test]
    fn without_an_exchange_the_file_is_looked_at_again_before_it_is_replaced() {
        let (folder, path) = folder();
        fs::write(&path, "A=1\n").unwrap();
        let place = Place::of(&path).unwrap().unwrap();
        let swap = place.prepare(Some(b"A=1\n"), b"A=2\n", Room::Free).unwrap();
        fs::write(&path, "A=by hand\n").unwrap();
        assert!(matches!(place.replace_by_rename(&swap, &file(b"A=1\n")), Err(Fault::Raced)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=by hand\n");
        let swap = place.prepare(Some(b"A=by hand\n"), b"A=2\n", Room::Free).unwrap();
        place.replace_by_rename(&swap, &file(b"A=by hand\n")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=2\n");
        assert_eq!(entries(&folder), ["lab.env"]);
    }

    #[tokio::test]
    async fn what_is_no_plain_file_of_its_own_is_refused() {
        let (folder, path) = folder();
        let other = folder.path().join("other");
        fs::write(&other, "A=1\n").unwrap();
        let store = EnvFiles::default();
        for why in ["a symbolic link", "more than one hard link", "a folder", "no regular file"] {
            match why {
                "a symbolic link" => std::os::unix::fs::symlink(&other, &path).unwrap(),
                "more than one hard link" => fs::hard_link(&other, &path).unwrap(),
                "a folder" => fs::create_dir(&path).unwrap(),
                _ => rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
            }
            let read = store.read(&path).await.unwrap_err();
            let replaced = store.replace(&path, &file(b"A=1\n"), b"A=2\n".to_vec()).await.unwrap_err();
            for refused in [read, replaced] {
                assert!(matches!(&refused, EnvStoreError::Refused { .. }), "{refused}");
                assert!(refused.to_string().contains(why), "{refused}");
            }
            assert_eq!(fs::read_to_string(&other).unwrap(), "A=1\n");
            if why == "a folder" { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
    }

    #[tokio::test]
    async fn a_file_larger_than_the_limit_is_neither_read_nor_written() {
        let (_folder, path) = folder();
        let store = EnvFiles::default();
        let refused = store.replace(&path, &absent(), vec![b'#'; FILE_BYTES_MAX + 1]).await;
        assert!(matches!(refused, Err(EnvStoreError::Refused { .. })), "{refused:?}");
        fs::write(&path, vec![b'#'; FILE_BYTES_MAX + 1]).unwrap();
        assert!(matches!(store.read(&path).await, Err(EnvStoreError::Refused { .. })));
    }

    #[tokio::test]
    async fn a_crash_at_any_point_is_put_right_at_the_next_read() {
        let (old, new, hand, later): (&[u8], &[u8], &[u8], &[u8]) = (b"A=1\n", b"A=2\n", b"A=hand\n", b"A=later\n");
        let swap = format!("swap-{}-{}", digest(old), digest(new));
        // What lies in the file and beside it, and what the file must hold afterwards.
        for (role, beside, before, after) in [
            ("part", b"A=".as_slice(), old, old),
            (swap.as_str(), new, old, old),
            (swap.as_str(), old, new, new),
            (swap.as_str(), hand, new, hand),
            (swap.as_str(), new, hand, hand),
            (swap.as_str(), hand, later, later),
        ] {
            let (folder, path) = folder();
            fs::write(&path, before).unwrap();
            fs::write(folder.path().join(format!(".lab.env.kloros-{role}")), beside).unwrap();
            assert_eq!(EnvFiles::default().read(&path).await.unwrap(), file(after));
            let saved: Vec<String> = entries(&folder).into_iter().filter(|name| name != "lab.env").collect();
            if before == later {
                // Nothing a person wrote is thrown away.
                assert_eq!(fs::read(folder.path().join(&saved[0])).unwrap(), hand);
            } else {
                assert_eq!(saved, [""; 0]);
            }
        }
    }

    #[test]
    fn a_disk_that_takes_no_more_leaves_the_file_as_it_was() {
        // The test starts itself again under a limit of the file size, which fails a write half-way as a full disk does.
        const PATH_OF_CHILD: &str = "KLOROS_TEST_ENV_FILE";
        if let Some(path) = std::env::var_os(PATH_OF_CHILD) {
            let replaced = replace(Path::new(&path), &file(b"A=1\n"), &vec![b'#'; 100_000], Room::Free);
            assert!(matches!(&replaced, Err(Fault::Failed(_))), "{replaced:?}");
            return;
        }
        let (folder, path) = folder();
        fs::write(&path, "A=1\n").unwrap();
        let output = std::process::Command::new("env")
            .args(["--ignore-signal=XFSZ", "prlimit", "--fsize=4096"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "env_store::tests::a_disk_that_takes_no_more_leaves_the_file_as_it_was"])
            .env(PATH_OF_CHILD, &path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "A=1\n");
        assert_eq!(entries(&folder), ["lab.env"]);
    }

    #[tokio::test]
    async fn of_many_writers_that_read_the_same_one_wins() {
        let (_folder, path) = folder();
        fs::write(&path, "A=0\n").unwrap();
        let store = Arc::new(EnvFiles::default());
        let writers: Vec<_> = (1..=16)
            .map(|number| {
                let (store, path) = (Arc::clone(&store), path.clone());
                tokio::spawn(async move {
                    store.replace(&path, &file(b"A=0\n"), format!("A={number}\n").into_bytes()).await.is_ok()
                })
            })
            .collect();
        let mut won = 0;
        for writer in writers {
            won += u32::from(writer.await.unwrap());
        }
        assert_eq!(won, 1);
    }

    /// How many files are edited at once, and how often each.
    const EDITED_FILES: usize = 25;
    const EDITS_EACH: usize = 40;

    /// How long a person takes between two edits, at least.
    const BREATH: Duration = Duration::from_millis(60);

    /// Edits the file as people do, again and again: a line appended in place, and a value set as `sed -i` does, by a new file
    /// that takes the place of the old one. Returns the lines that must be there in the end, and the last value.
    fn edit_by_hand(path: &Path) -> (Vec<String>, String) {
        let (mut appended, mut set) = (Vec::new(), String::new());
        for edit in 0..EDITS_EACH {
            if edit % 2 == 0 {
                let line = format!("HAND_{edit}=1");
                let mut open = fs::OpenOptions::new().append(true).open(path).unwrap();
                open.write_all(format!("{line}\n").as_bytes()).unwrap();
                appended.push(line);
            } else {
                set = format!("MINE={edit}");
                let text = fs::read_to_string(path).unwrap();
                let lines = text.lines().map(|line| if line.starts_with("MINE=") { set.as_str() } else { line });
                let edited: String = lines.map(|line| format!("{line}\n")).collect();
                let beside = path.with_extension("sed");
                fs::write(&beside, edited).unwrap();
                fs::rename(beside, path).unwrap();
            }
            thread::sleep(BREATH);
        }
        (appended, set)
    }

    /// Edits a value again and again, as the deployer does, until told to end; returns how often it was written.
    fn deploy(path: &Path, ended: &std::sync::atomic::AtomicBool) -> usize {
        let key = kloros_actors::facts::Key::new("OURS").unwrap();
        let mut written = 0;
        for number in 0.. {
            if ended.load(std::sync::atomic::Ordering::SeqCst) {
                break;
            }
            let place = Place::of(path).unwrap().unwrap();
            place.settle().unwrap();
            let read = place.look(&place.name).unwrap();
            drop(place);
            let edits = [(key.clone(), Some(number.to_string()))];
            let bytes = kloros_actors::env_file::edit(&read.bytes, &edits).unwrap();
            match replace(path, &read, &bytes, Room::Free) {
                Ok(()) => written += 1,
                Err(Fault::Raced) => {}
                Err(fault) => panic!("{fault:?}"),
            }
        }
        written
    }

    /// Fault 33, a thousand times.
    #[test]
    fn of_a_thousand_edits_by_hand_at_any_moment_of_our_own_none_is_lost() {
        let (mut lost, mut saved, mut ours) = (Vec::new(), 0, 0);
        let races: Vec<_> = (0..EDITED_FILES)
            .map(|_| {
                thread::spawn(|| {
                    let (folder, path) = folder();
                    fs::write(&path, "MINE=0\nOURS=0\n").unwrap();
                    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
                    let (ours, told) = (path.clone(), Arc::clone(&ended));
                    let deployer = thread::spawn(move || deploy(&ours, &told));
                    let (mut wanted, set) = edit_by_hand(&path);
                    ended.store(true, std::sync::atomic::Ordering::SeqCst);
                    let written = deployer.join().unwrap();
                    wanted.push(set);
                    let text = fs::read_to_string(&path).unwrap();
                    let names = entries(&folder);
                    let beside = names.iter().filter(|name| name.contains("saved"));
                    let beside: Vec<String> =
                        beside.map(|name| fs::read_to_string(folder.path().join(name)).unwrap()).collect();
                    let stands = |text: &str, line: &String| text.lines().any(|found| found == line);
                    let missing: Vec<String> = wanted.into_iter().filter(|line| !stands(&text, line)).collect();
                    let (kept, lost): (Vec<String>, Vec<String>) =
                        missing.into_iter().partition(|line| beside.iter().any(|saved| stands(saved, line)));
                    (lost, kept.len(), written)
                })
            })
            .collect();
        for race in races {
            let (missing, kept, written) = race.join().unwrap();
            lost.extend(missing);
            (saved, ours) = (saved + kept, ours + written);
        }
        let edits = EDITED_FILES * EDITS_EACH;
        println!("{edits} edits by hand against {ours} of ours: {} lost, {saved} saved beside the file", lost.len());
        assert_eq!(lost, [""; 0]);
        assert!(ours > EDITED_FILES, "there was no race");
    }
}

//! What a power cut would leave: the content of each file as of its last sync, under the names as of the last sync of the folder.
//!
//! It is the worst that POSIX allows, worse than file systems are: a file that was never synced is empty, a rename without a sync of
//! the folder has not happened. Files are known by their inodes, so the file system must give no number twice, as tmpfs does.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::call::Call;

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(u64),
    Folder,
}

/// What is kept of a file.
#[derive(Clone, Debug)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    modified: SystemTime,
}

/// The part of a disk that is durable.
#[derive(Debug)]
pub struct Disk {
    roots: Vec<PathBuf>,
    folders: BTreeMap<PathBuf, BTreeMap<OsString, Node>>,
    files: BTreeMap<u64, Content>,
}

impl Disk {
    /// Returns a disk on which all that is below `roots` now is durable.
    pub fn of(roots: &[PathBuf]) -> io::Result<Self> {
        let mut disk = Self { roots: roots.to_vec(), folders: BTreeMap::new(), files: BTreeMap::new() };
        let mut left = roots.to_vec();
        while let Some(folder) = left.pop() {
            disk.sync_folder(&folder)?;
            for (name, node) in disk.folders.get(&folder).cloned().unwrap_or_default() {
                match node {
                    Node::Folder => left.push(folder.join(name)),
                    Node::File(_) => disk.sync_file(&folder.join(name))?,
                }
            }
        }
        Ok(disk)
    }

    /// Learns of a call that is let through: `path` is what it is about, `file` where that can be reached.
    pub(crate) fn learn(&mut self, call: Call, path: &Path, file: Option<&Path>) {
        let Some(file) = file.filter(|_| call == Call::Sync) else { return };
        let synced = if file.is_dir() { self.sync_folder(path) } else { self.sync_file(file) };
        // Who is gone meanwhile has synced nothing.
        drop(synced);
    }

    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(found) = fs::symlink_metadata(entry.path()) else { continue };
            if found.is_dir() {
                names.insert(entry.file_name(), Node::Folder);
            } else if found.is_file() {
                names.insert(entry.file_name(), Node::File(found.ino()));
            }
        }
        self.folders.insert(folder.to_owned(), names);
        Ok(())
    }

    fn sync_file(&mut self, file: &Path) -> io::Result<()> {
        let found = fs::metadata(file)?;
        let (mode, modified) = (found.permissions().mode(), found.modified()?);
        self.files.insert(found.ino(), Content { bytes: fs::read(file)?, mode, modified });
        Ok(())
    }

    /// Cuts the power: leaves what is durable, and nothing else. Nobody may be at work there.
    pub fn lose(&self) -> io::Result<()> {
        for root in &self.roots {
            for entry in fs::read_dir(root)? {
                let path = entry?.path();
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        let mut left = self.roots.clone();
        while let Some(folder) = left.pop() {
            for (name, node) in self.folders.get(&folder).into_iter().flatten() {
                let path = folder.join(name);
                match node {
                    Node::Folder => {
                        fs::create_dir(&path)?;
                        left.push(path);
                    }
                    Node::File(inode) => {
                        let never = Content { bytes: Vec::new(), mode: 0o600, modified: SystemTime::UNIX_EPOCH };
                        let content = self.files.get(inode).unwrap_or(&never);
                        fs::write(&path, &content.bytes)?;
                        fs::File::options().write(true).open(&path)?.set_modified(content.modified)?;
                        fs::set_permissions(&path, fs::Permissions::from_mode(content.mode))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_lost_and_what_was_is_not() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = folder.path().to_owned();
        let at = |name: &str| root.join(name);
        fs::write(at("old"), "old").unwrap();
        fs::create_dir(at("inside")).unwrap();
        fs::write(at("inside/deep"), "deep").unwrap();
        let mut disk = Disk::of(std::slice::from_ref(&root)).unwrap();
        fs::write(at("old"), "overwritten").unwrap();
        fs::write(at("synced"), "new").unwrap();
        disk.learn(Call::Sync, &at("synced"), Some(&at("synced")));
        fs::write(at("named"), "never synced").unwrap();
        disk.learn(Call::Sync, &root, Some(&root));
        fs::rename(at("synced"), at("renamed")).unwrap();
        fs::remove_file(at("inside/deep")).unwrap();
        fs::write(at("late"), "late").unwrap();
        disk.learn(Call::Sync, &at("late"), Some(&at("late")));
        disk.lose().unwrap();
        let read = |name: &str| fs::read_to_string(at(name)).ok();
        let left = ["old", "synced", "named", "renamed", "inside/deep", "late"].map(read);
        assert_eq!(
            left,
            [Some("old"), Some("new"), Some(""), None, Some("deep"), None].map(|each| each.map(str::to_owned))
        );
    }
}

//! The way to a file's folder, which no link may be on.

use std::{
    ffi::OsStr,
    path::{Component, Path},
};

use rustix::{
    fd::OwnedFd,
    fs::{CWD, Mode, OFlags, ResolveFlags},
    io::Errno,
};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens the folder at `path`; [`Errno::LOOP`] where a link is on the way to it, or it is one.
pub(super) fn open_folder(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, FOLDER, Mode::empty(), resolve) {
        // A kernel before 5.6, or a sandbox that does not know the call, of which some say that it is not permitted.
        Err(Errno::NOSYS | Errno::PERM) => walk(path),
        opened => opened,
    }
}

/// Returns whether the kernel itself refuses a way with a link on it, at once; elsewhere it is walked.
pub(crate) fn refuses_links_at_once() -> bool {
    rustix::fs::openat2(CWD, "/", FOLDER, Mode::empty(), ResolveFlags::NO_SYMLINKS).is_ok()
}

/// Opens the folder at `path` as [`open_folder`] does, folder by folder.
pub(super) fn walk(path: &Path) -> Result<OwnedFd, Errno> {
    let first = if path.is_absolute() { Path::new("/") } else { Path::new(".") };
    let mut folder = rustix::fs::openat(CWD, first, FOLDER, Mode::empty())?;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::ParentDir => OsStr::new(".."),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => continue,
        };
        folder = match rustix::fs::openat(&folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
            // What is to be a folder and is a link is no folder.
            Err(Errno::NOTDIR) if is_link(&folder, name) => return Err(Errno::LOOP),
            opened => opened?,
        };
    }
    Ok(folder)
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    let found = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::Symlink)
}

/// Says which part of the way to the file `name` in `folder` is a link, and what to write instead.
pub(super) fn linked(folder: &Path, name: &OsStr) -> String {
    let parts: Vec<&Path> = folder.ancestors().filter(|part| !part.as_os_str().is_empty()).collect();
    let link = parts.into_iter().rev().find(|part| part.is_symlink());
    let said = link.map_or_else(|| "something".to_owned(), |link| link.display().to_string());
    match folder.canonicalize() {
        Ok(real) => {
            format!("{said} on the way to it is a symbolic link: name {} instead", real.join(name).display())
        }
        Err(_) => format!("{said} on the way to it is a symbolic link"),
    }
}

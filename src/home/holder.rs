//! Who holds the locks of a home, by the kernel's word: nobody's lock is in the way of such a question.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Home;

impl Home {
    /// Returns whether a daemon works in the home, or is frozen in it, by the kernel's list of locks: nobody's lock is in the way of
    /// it. `false` where that cannot be told.
    pub(crate) fn is_held(&self) -> bool {
        self.daemon().is_some()
    }

    /// Returns the process id of the daemon that works in the home, or is frozen in it, where that can be told.
    pub(crate) fn daemon(&self) -> Option<u32> {
        holder_of(&self.lock_file())
    }

    /// Returns whether somebody has the right to undo just now. `false` where that cannot be told.
    pub(crate) fn is_undone_in(&self) -> bool {
        holder_of(&self.state_folder().join("undo.lock")).is_some()
    }

    /// Ends the daemon of this home if it is the one that holds the undo lock, and returns its process id: for a daemon that
    /// gives no sign of life. Of two who restart one service neither would know what runs afterwards.
    pub(crate) fn end_daemon_that_undoes(&self) -> Option<u32> {
        let undo = self.state_folder().join("undo.lock");
        end(|| holder_of(&undo).filter(|pid| holder_of(&self.lock_file()) == Some(*pid)))
    }

    /// Ends the daemon of this home, and returns its process id: for one that gives no sign of life, whose children run with what was
    /// never proven. They end with it.
    pub(crate) fn end_daemon(&self) -> Option<u32> {
        end(|| self.daemon())
    }
}

/// Ends the process that is the `holder`, unless it is this one, and returns its id.
fn end(holder: impl Fn() -> Option<u32>) -> Option<u32> {
    let daemon = holder()?;
    let pid = Pid::from_raw(i32::try_from(daemon).ok()?)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // The handle means one process alone, and it is looked after it was had whether that is the one.
    let is_it = holder() == Some(daemon) && daemon != std::process::id();
    let ended = is_it && pidfd_send_signal(&process, Signal::KILL).is_ok();
    ended.then_some(daemon)
}

/// Where the kernel lists who holds which lock.
const LOCKS: &str = "/proc/locks";

/// Returns the process that has the file at `path` locked for itself, as far as the kernel tells.
fn holder_of(path: &Path) -> Option<u32> {
    let inode = fs::metadata(path).ok()?.ino();
    writer_in(&fs::read_to_string(LOCKS).ok()?, inode)
}

/// Returns the process that holds an exclusive `flock` on `inode`, according to the kernel's list.
fn writer_in(locks: &str, inode: u64) -> Option<u32> {
    let inode = inode.to_string();
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, "WRITE", pid, file, ..] if file.rsplit(':').next() == Some(&inode) => {
            pid.parse().ok().filter(|pid| *pid != 0)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_holds_a_lock_is_found_in_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:2a:99 0 EOF\n2: FLOCK  ADVISORY  READ 8 00:2a:99 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 9 00:2a:99 0 EOF\n3: FLOCK  ADVISORY  WRITE 10 00:2a:99 0 EOF\ntorn\n";
        assert_eq!((writer_in(locks, 99), writer_in(locks, 9), writer_in("", 99)), (Some(10), None, None));
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path()).unwrap();
        assert!(!home.is_held());
        let lock = home.lock().unwrap();
        assert!(home.is_held());
        assert_eq!(home.end_daemon_that_undoes(), None, "nobody undoes");
        let undo = home.undo_lock(Duration::ZERO).unwrap();
        assert_eq!(home.end_daemon_that_undoes(), None, "it would be this process itself");
        assert_eq!(home.end_daemon(), None, "it would be this process itself");
        drop((lock, undo));
        assert!(!home.is_held());
    }
}

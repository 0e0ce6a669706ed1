use std::path::Path;

use kloros_actors::seams::JournalError;
use rusqlite::{ErrorCode, ffi};

/// What went wrong, in a form that can be told to everybody who waits in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing was written, and a later attempt may succeed.
    Unwritable(String),
    /// What lies on disk can no longer be trusted; nothing more is written by this process.
    Damaged(String),
}

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unwritable(why) => JournalError::Unwritable(why),
            Fault::Damaged(why) => JournalError::Damaged(why),
        }
    }
}

impl Fault {
    /// Returns what `error` of the database at `path` means.
    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> Self {
        let says = format!("{}: {error}", path.display());
        let rusqlite::Error::SqliteFailure(failure, _) = error else {
            // A column of the wrong type, or text that is no UTF-8: somebody else wrote here.
            return Fault::Damaged(says);
        };
        match failure.code {
            // Growing the shared index of the log fails like this on a full disk; nothing durable was touched.
            ErrorCode::SystemIoFailure
                if matches!(
                    failure.extended_code,
                    ffi::SQLITE_IOERR_SHMOPEN | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_SHMMAP
                ) =>
            {
                Fault::Unwritable(says)
            }
            // After a failed write or fsync the kernel may have dropped the data and cleared the error, so a second
            // attempt that succeeds would prove nothing. A fresh process reads what really is on disk.
            ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Fault::Damaged(says),
            _ => Fault::Unwritable(says),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: std::ffi::c_int, damaged: bool) {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        let fault = Fault::of(Path::new("/home/journal.db"), &error);
        assert_eq!(matches!(fault, Fault::Damaged(_)), damaged, "{fault:?}");
    }

    #[test]
    fn a_full_or_read_only_disk_may_recover_and_a_failed_write_or_fsync_may_not() {
        check(ffi::SQLITE_FULL, false);
        check(ffi::SQLITE_READONLY, false);
        check(ffi::SQLITE_BUSY, false);
        check(ffi::SQLITE_CANTOPEN, false);
        check(ffi::SQLITE_IOERR_SHMSIZE, false);
        check(ffi::SQLITE_IOERR_FSYNC, true);
        check(ffi::SQLITE_IOERR_WRITE, true);
        check(ffi::SQLITE_IOERR_READ, true);
        check(ffi::SQLITE_CORRUPT, true);
        check(ffi::SQLITE_NOTADB, true);
    }
}

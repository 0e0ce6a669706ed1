//! Why an env file was left as it was.

use std::path::Path;

use kloros_actors::seams::EnvStoreError;
use rustix::io::Errno;

/// Why something about a file failed, before it is said which file and what for.
#[derive(Debug)]
pub(super) enum Fault {
    Failed(String),
    /// There is no free disk, or none for us.
    Full(String),
    Refused(String),
    Raced,
}

impl Fault {
    pub(super) fn while_reading(self, file: &Path) -> EnvStoreError {
        self.named(file, |path, why| EnvStoreError::Read { path, why })
    }

    pub(super) fn while_writing(self, file: &Path) -> EnvStoreError {
        self.named(file, |path, why| EnvStoreError::Write { path, why })
    }

    fn named(self, file: &Path, failed: impl FnOnce(String, String) -> EnvStoreError) -> EnvStoreError {
        let path = file.display().to_string();
        match self {
            Fault::Failed(why) | Fault::Full(why) => failed(path, why),
            Fault::Refused(why) => EnvStoreError::Refused { path, why },
            Fault::Raced => EnvStoreError::Raced { path },
        }
    }
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        let why = error.to_string();
        if matches!(error, Errno::NOSPC | Errno::DQUOT) { Fault::Full(why) } else { Fault::Failed(why) }
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        let errno = Errno::from_io_error(&error);
        errno.map_or_else(|| Fault::Failed(error.to_string()), Fault::from)
    }
}

//! Whether two files can change places in one step, and what tells them apart.

use std::{fs::File, path::Path};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

/// Returns whether files in `folder` can be exchanged in one step; two are made there for that, and removed.
pub(crate) fn can_exchange(folder: &Path) -> std::io::Result<bool> {
    let [one, other] = [1, 2].map(|number| folder.join(format!(".exchange-{}-{number}", std::process::id())));
    let made = File::create_new(&one).and_then(|_| File::create_new(&other));
    let exchanged = made.map(|_| rustix::fs::renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE));
    for file in [&one, &other] {
        // One that was not made is not there.
        drop(std::fs::remove_file(file));
    }
    match exchanged? {
        Ok(()) => Ok(true),
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns a name for these contents.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

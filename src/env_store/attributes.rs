//! What a file is, and what goes with it.

use std::fs::File;

use rustix::{
    fs::{FileType, Stat, XattrFlags},
    io::Errno,
};

use super::Fault;

/// The largest extended attribute, and list of their names, that is copied, in bytes.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// What the system labels files with by itself, and nobody may take away.
const LABELS: &[u8] = b"security.";

/// Gives one file the extended attributes of another, and no others: a folder with a default ACL passes it on to what is created in
/// it, and who may read the new file by that could not read the old one.
pub(super) fn copy_attributes(from: &File, to: &File) -> Result<(), Errno> {
    let (names, surplus) = (names_of(from)?, names_of(to)?);
    for name in surplus.iter().filter(|name| !names.contains(name) && !name.starts_with(LABELS)) {
        rustix::fs::fremovexattr(to, name.as_slice())?;
    }
    let (mut wanted, mut have) = (vec![0; XATTR_BYTES_MAX], vec![0; XATTR_BYTES_MAX]);
    for name in names.iter().map(Vec::as_slice) {
        let wanted_length = rustix::fs::fgetxattr(from, name, wanted.as_mut_slice())?;
        let wanted = &wanted[..wanted_length];
        // A label that the system gave the new file already may need no right to be set.
        let same = rustix::fs::fgetxattr(to, name, have.as_mut_slice()).is_ok_and(|length| &have[..length] == wanted);
        if !same {
            rustix::fs::fsetxattr(to, name, wanted, XattrFlags::empty())?;
        }
    }
    Ok(())
}

fn names_of(file: &File) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let length = match rustix::fs::flistxattr(file, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(error) => return Err(error),
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// Says why something is not written to: only a plain file with one name is.
pub(super) fn plain(stat: &Stat) -> Result<(), Fault> {
    let why = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink <= 1 => return Ok(()),
        FileType::RegularFile => "it has more than one hard link",
        FileType::Symlink => "it is a symbolic link",
        FileType::Directory => "it is a folder",
        _ => "it is no regular file",
    };
    Err(Fault::Refused(why.to_owned()))
}

//! The calls that change files and processes, and what they are about.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::{ffi::OsStringExt as _, fs::FileExt as _},
    path::{Path, PathBuf},
};

/// The longest path that is read from a program's memory.
const PATH_BYTES_MAX: usize = 4096;

/// A call that changes files or processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// A file is opened to be written to, or created.
    Open,
    /// Bytes are written, whichever way.
    Write,
    /// A file's length is set, or room for it is taken.
    Resize,
    /// A file's content is made durable.
    Sync,
    /// A name is given to a file or taken from it, or two are exchanged.
    Rename,
    /// A name is removed.
    Remove,
    /// A folder or a further name is made.
    Make,
    /// Owner, mode or attributes are set.
    Mark,
    /// A lock is taken or let go.
    Lock,
    /// A process or thread is started.
    Start,
    /// A signal is sent.
    Signal,
}

/// Which of a call's arguments say what it is about.
#[derive(Clone, Copy)]
enum About {
    /// The descriptor in this place.
    File(usize),
    /// The path in this place, from the folder whose descriptor stands in the other.
    Path(usize, Option<usize>),
    /// No file.
    Nothing,
}

use About::{File as Of, Nothing, Path as At};

const AT: About = At(1, Some(0));

/// What is known of each call: its number, what it is and what it is about.
const CALLS: &[(libc::c_long, Call, About)] = &[
    (libc::SYS_openat, Call::Open, AT),
    (libc::SYS_openat2, Call::Open, AT),
    (libc::SYS_write, Call::Write, Of(0)),
    (libc::SYS_writev, Call::Write, Of(0)),
    (libc::SYS_pwrite64, Call::Write, Of(0)),
    (libc::SYS_pwritev, Call::Write, Of(0)),
    (libc::SYS_pwritev2, Call::Write, Of(0)),
    (libc::SYS_sendfile, Call::Write, Of(0)),
    (libc::SYS_copy_file_range, Call::Write, Of(2)),
    (libc::SYS_ftruncate, Call::Resize, Of(0)),
    (libc::SYS_fallocate, Call::Resize, Of(0)),
    (libc::SYS_fsync, Call::Sync, Of(0)),
    (libc::SYS_fdatasync, Call::Sync, Of(0)),
    (libc::SYS_renameat2, Call::Rename, AT),
    (libc::SYS_unlinkat, Call::Remove, AT),
    (libc::SYS_mkdirat, Call::Make, AT),
    (libc::SYS_linkat, Call::Make, At(3, Some(2))),
    (libc::SYS_symlinkat, Call::Make, At(2, Some(1))),
    (libc::SYS_fchmod, Call::Mark, Of(0)),
    (libc::SYS_fchown, Call::Mark, Of(0)),
    (libc::SYS_fsetxattr, Call::Mark, Of(0)),
    (libc::SYS_fchmodat, Call::Mark, AT),
    (libc::SYS_flock, Call::Lock, Of(0)),
    (libc::SYS_clone, Call::Start, Nothing),
    (libc::SYS_clone3, Call::Start, Nothing),
    (libc::SYS_kill, Call::Signal, Nothing),
    (libc::SYS_pidfd_send_signal, Call::Signal, Nothing),
];

/// The calls that newer architectures have no longer.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, Call, About)] = &[
    (libc::SYS_open, Call::Open, At(0, None)),
    (libc::SYS_creat, Call::Open, At(0, None)),
    (libc::SYS_rename, Call::Rename, At(0, None)),
    (libc::SYS_renameat, Call::Rename, AT),
    (libc::SYS_unlink, Call::Remove, At(0, None)),
    (libc::SYS_rmdir, Call::Remove, At(0, None)),
    (libc::SYS_mkdir, Call::Make, At(0, None)),
    (libc::SYS_link, Call::Make, At(1, None)),
    (libc::SYS_symlink, Call::Make, At(1, None)),
    (libc::SYS_chmod, Call::Mark, At(0, None)),
    (libc::SYS_chown, Call::Mark, At(0, None)),
    (libc::SYS_vfork, Call::Start, Nothing),
    (libc::SYS_fork, Call::Start, Nothing),
];

#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, Call, About)] = &[(libc::SYS_renameat, Call::Rename, AT)];

fn row(number: i32) -> Option<&'static (libc::c_long, Call, About)> {
    CALLS.iter().chain(OLD_CALLS).find(|(each, ..)| *each == libc::c_long::from(number))
}

impl Call {
    /// Returns the numbers of all calls that are known here.
    pub(crate) fn numbers() -> impl Iterator<Item = u32> {
        CALLS.iter().chain(OLD_CALLS).filter_map(|(number, ..)| u32::try_from(*number).ok())
    }

    pub(crate) fn of(number: i32) -> Option<Call> {
        row(number).map(|(_, call, _)| *call)
    }

    /// Returns whether it is about processes, and not about a file.
    pub fn is_of_processes(self) -> bool {
        matches!(self, Call::Start | Call::Signal)
    }

    /// Returns whether it can fail because of the disk.
    pub fn is_of_the_disk(self) -> bool {
        !self.is_of_processes() && self != Call::Lock
    }

    /// Returns whether a disk that has once failed with this `errno`, and stays as it is, refuses a call that takes more room, or one
    /// that does not. A full disk lets itself be written over, as file systems do that write in place.
    pub(crate) fn is_refused_with(self, errno: i32, takes_room: bool) -> bool {
        match errno {
            libc::ENOSPC | libc::EDQUOT => takes_room,
            libc::EROFS => self.is_of_the_disk() && self != Call::Sync,
            _ => self.is_of_the_disk(),
        }
    }

    /// Returns whether the call needs room that its file has not taken yet.
    pub(crate) fn takes_room(self, tid: u32, number: i32, arguments: &[u64; 6], path: &Path) -> bool {
        match self {
            Call::Open => !path.exists(),
            Call::Make => true,
            Call::Resize => libc::c_long::from(number) == libc::SYS_fallocate,
            Call::Write => {
                let length = Call::file(tid, number, arguments).and_then(|file| fs::metadata(file).ok());
                let length = length.map_or(0, |file| file.len());
                let at = match libc::c_long::from(number) {
                    libc::SYS_write => position(tid, arguments[0], length),
                    libc::SYS_pwrite64 => Some(arguments[3]),
                    _ => None,
                };
                at.is_none_or(|at| at.saturating_add(arguments[2]) > length)
            }
            _ => false,
        }
    }

    /// Returns the path of what the thread `tid` asks to change; `None` where it changes nothing that has one.
    pub(crate) fn path(self, tid: u32, number: i32, arguments: &[u64; 6]) -> Option<PathBuf> {
        let (_, _, about) = row(number)?;
        match *about {
            Nothing => Some(PathBuf::new()),
            Of(place) => fs::read_link(file_of(tid, arguments[place])).ok(),
            At(place, folder) => {
                if self == Call::Open && !writes(tid, number, arguments) {
                    return None;
                }
                let path = text(tid, arguments[place])?;
                let from = match folder {
                    Some(place) if arguments[place] as u32 != libc::AT_FDCWD as u32 => file_of(tid, arguments[place]),
                    _ => PathBuf::from(format!("/proc/{tid}/cwd")),
                };
                Some(if path.is_absolute() { path } else { fs::read_link(from).ok()?.join(path) })
            }
        }
    }

    /// Returns where the file of the descriptor that it is about can be reached, if it is about one.
    pub(crate) fn file(tid: u32, number: i32, arguments: &[u64; 6]) -> Option<PathBuf> {
        match row(number)?.2 {
            Of(place) => Some(file_of(tid, arguments[place])),
            _ => None,
        }
    }
}

/// Returns whether a file is opened to be written to, or created.
fn writes(tid: u32, number: i32, arguments: &[u64; 6]) -> bool {
    let wanted = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
    let flags = match libc::c_long::from(number) {
        libc::SYS_openat => arguments[2],
        libc::SYS_openat2 => {
            let mut flags = [0; 8];
            let memory = File::open(format!("/proc/{tid}/mem"));
            let read = memory.and_then(|memory| memory.read_exact_at(&mut flags, arguments[2]));
            read.map_or(wanted, |()| u64::from_ne_bytes(flags))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => arguments[1],
        _ => wanted,
    };
    flags & wanted != 0
}

fn file_of(tid: u32, descriptor: u64) -> PathBuf {
    PathBuf::from(format!("/proc/{tid}/fd/{}", descriptor as u32))
}

/// Writes the first half of what the thread asks to be written to a file.
pub(crate) fn write_half(tid: u32, number: i32, arguments: &[u64; 6]) -> io::Result<()> {
    let mut bytes = vec![0; arguments[2] as usize / 2];
    File::open(format!("/proc/{tid}/mem"))?.read_exact_at(&mut bytes, arguments[1])?;
    let file = File::options().write(true).open(file_of(tid, arguments[0]))?;
    let at = match libc::c_long::from(number) {
        libc::SYS_write => position(tid, arguments[0], file.metadata()?.len()),
        libc::SYS_pwrite64 => Some(arguments[3]),
        _ => None,
    };
    file.write_all_at(&bytes, at.ok_or(io::ErrorKind::Unsupported)?)
}

/// Returns where the next write to the descriptor begins in a file that is so long.
fn position(tid: u32, descriptor: u64, length: u64) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{tid}/fdinfo/{}", descriptor as u32)).ok()?;
    let field = |name: &str| Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
    let flags = i32::from_str_radix(&field("flags:")?, 8).ok()?;
    if flags & libc::O_APPEND == 0 { field("pos:")?.parse().ok() } else { Some(length) }
}

/// Returns the path at `address` of the thread's memory.
fn text(tid: u32, address: u64) -> Option<PathBuf> {
    let memory = File::open(Path::new("/proc").join(tid.to_string()).join("mem")).ok()?;
    let mut bytes = vec![0; PATH_BYTES_MAX];
    let mut length = 0;
    while !bytes[..length].contains(&0) {
        // What lies behind the text may belong to nobody, so no page is read before it is needed.
        let page = PATH_BYTES_MAX - ((address as usize + length) % PATH_BYTES_MAX);
        let end = (length + page).min(PATH_BYTES_MAX);
        let read = memory.read_at(&mut bytes[length..end], address + length as u64).ok()?;
        if read == 0 {
            return None;
        }
        length += read;
    }
    bytes.truncate(bytes.iter().position(|byte| *byte == 0)?);
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

//! What a child says of itself over `NOTIFY_SOCKET`, as `sd_notify(3)` defines it.
//!
//! Each instance gets a socket of its own, in the kernel's abstract names, and the kernel says who wrote: a word from outside the
//! instance's process tree counts for nothing.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{fd::AsFd, linux::net::SocketAddrExt as _, unix::net::SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use tokio::{io::Interest, net::UnixDatagram};

/// The variable that names the socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The largest message that is read, in bytes; of a longer one the rest is lost, as with systemd.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What says that a service is ready.
const READY: &[u8] = b"READY=1";

/// How many parents are looked through between a process and the instance that it may belong to.
const PARENTS_MAX: usize = 64;

/// Where one instance says that it is ready.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
}

impl NotifySocket {
    /// Opens a socket that nobody had before.
    pub(super) fn open() -> io::Result<Self> {
        static OPENED: AtomicU64 = AtomicU64::new(0);

        let number = OPENED.fetch_add(1, Ordering::Relaxed);
        let name = format!("kloros-notify-{}-{number}", std::process::id());
        let socket = std::os::unix::net::UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        sockopt::set_socket_passcred(&socket, true)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, name })
    }

    /// Returns the variable that tells a child of it.
    pub(super) fn variable(&self) -> (String, String) {
        (VARIABLE.to_owned(), format!("@{}", self.name))
    }

    /// Waits until somebody of the process tree of `root` has said that it is ready.
    pub(super) async fn ready(&self, root: u32) -> io::Result<()> {
        loop {
            let (message, sender) = self.socket.async_io(Interest::READABLE, || heard(&self.socket)).await?;
            let says_ready = message.split(|byte| *byte == b'\n').any(|line| line == READY);
            match sender.filter(|_| says_ready) {
                Some(pid) if belongs(pid, root) => return Ok(()),
                Some(pid) => tracing::warn!(pid, root, "a process from outside says that an instance is ready"),
                None => {}
            }
        }
    }
}

/// Returns the next message, and which process the kernel says that it came from.
fn heard(socket: impl AsFd) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut message = vec![0; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    message.truncate(received.bytes);
    let sender = control.drain().find_map(|each| match each {
        RecvAncillaryMessage::ScmCredentials(credentials) => u32::try_from(credentials.pid.as_raw_nonzero().get()).ok(),
        _ => None,
    });
    Ok((message, sender))
}

/// Returns whether the process `pid` is `root`, in its process group, or started by one of its own. One that has ended already
/// is nobody's.
fn belongs(pid: u32, root: u32) -> bool {
    let mut at = pid;
    for _ in 0..PARENTS_MAX {
        if at == root {
            return true;
        }
        let Some((parent, group)) = family_of(at) else { return false };
        if group == root {
            return true;
        }
        at = parent;
    }
    false
}

/// Returns the parent and the process group of a process.
fn family_of(pid: u32) -> Option<(u32, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, which may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_those_it_descends_from_and_to_no_other() {
        let own = std::process::id();
        assert!(belongs(own, own), "each is its own");
        let (parent, group) = family_of(own).unwrap();
        assert!(belongs(own, parent) && belongs(own, group));
        assert!(!belongs(1, own));
        assert!(!belongs(u32::MAX, own), "one that is gone is nobody's");
    }
}

//! The kernel's side: a filter that has calls wait, and the descriptor through which each is answered.

#![allow(unsafe_code, reason = "no library that is in use here speaks of seccomp's listeners")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::call::Call;

/// How a call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// As if nobody had looked.
    Pass,
    /// It fails with this number of `errno`, and is not made.
    Fail(i32),
}

/// Where the kernel puts what waits for an answer.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

impl Listener {
    /// From now on the calls of this thread and of all that it starts wait for an answer.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let mut filter = filter();
        let program =
            libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: std::ptr::from_mut(&mut filter[0]) };
        // SAFETY: it takes numbers alone.
        let barred = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if barred != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel copies the program, which lives until then.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        match i32::try_from(descriptor) {
            // SAFETY: the kernel has just made it, and nobody else knows of it.
            Ok(descriptor) if descriptor >= 0 => Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) })),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Answers each call, of which it is told the thread, the number and the arguments, until nobody is left who could make one.
    pub(crate) fn serve(&self, answer: impl Fn(u32, i32, &[u64; 6]) -> Answer) {
        while self.waits_for_one() {
            // SAFETY: all bytes 0 are a value of it, and what the kernel demands.
            let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the kernel writes one such structure.
            let received = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
            if received != 0 {
                // Whoever asked was killed meanwhile.
                continue;
            }
            let (error, flags) = match answer(asked.pid, asked.data.nr, &asked.data.args) {
                Answer::Pass => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
                Answer::Fail(errno) => (-errno, 0),
            };
            let mut answered = libc::seccomp_notif_resp { id: asked.id, val: 0, error, flags };
            // SAFETY: the kernel reads one such structure. It fails where the one who asked is gone.
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answered) };
        }
    }

    /// Waits for a call; returns `false` when there will be none.
    fn waits_for_one(&self) -> bool {
        loop {
            let mut wanted = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, as is said.
            let ready = unsafe { libc::poll(&raw mut wanted, 1, -1) };
            if ready > 0 {
                return wanted.revents & libc::POLLIN != 0;
            }
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return false;
            }
        }
    }
}

/// Returns the filter: those of [`Call`] wait, all others pass.
fn filter() -> Vec<libc::sock_filter> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0);
    let mut filter = vec![load];
    for number in Call::numbers() {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        filter.push(libc::sock_filter { code, jt: 0, jf: 1, k: number });
        filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF));
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    filter
}

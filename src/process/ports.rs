//! Ports for instances.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// How many ports that were handed out lately are not handed out again.
const PORTS_REMEMBERED_MAX: usize = 64;

/// Returns a TCP port of the loopback address that is free now and was not handed out lately.
pub(crate) fn free_port() -> io::Result<u16> {
    static LATELY: Mutex<VecDeque<u16>> = Mutex::new(VecDeque::new());

    let mut lately = LATELY.lock().unwrap_or_else(PoisonError::into_inner);
    // Held until one is found, or the kernel would offer the same port again.
    let mut refused = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        if lately.contains(&port) {
            refused.push(listener);
            continue;
        }
        lately.push_back(port);
        if lately.len() > PORTS_REMEMBERED_MAX {
            lately.pop_front();
        }
        return Ok(port);
    }
}

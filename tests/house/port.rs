//! A port that is a test's own.
//!
//! Who asks the kernel for a port, lets it go and has somebody else listen there later may find a stranger on it: ports are given
//! out again within minutes where houses are built by the thousand.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt::set_socket_reuseaddr};

/// A port of loopback that the kernel gives to nobody else while this is held.
///
/// It is bound and does not listen: whoever connects is refused until somebody listens there who was told the number, which Linux
/// allows to whoever wants to use an address anew, as servers do.
pub(crate) struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    pub(crate) fn hold() -> Self {
        let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        set_socket_reuseaddr(&held, true).unwrap();
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = SocketAddr::try_from(getsockname(&held).unwrap()).unwrap().port();
        Self { number, _held: held }
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

//! The UDP socket of an attempt.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::agreed::{ClientProfile, Remote};

/// A non-blocking socket that is connected to the address: the kernel tells of ICMP errors, and only what comes from there (or
/// says so) arrives. `local`, `lport`, `mark` and `bind-dev` of the profile are heeded.
///
/// # Errors
/// What the kernel says to socket(2), bind(2), connect(2) or an option.
pub(super) fn open(profile: &ClientProfile, remote: &Remote, address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if let Some(mark) = profile.mark {
        socket.set_mark(mark)?;
    }
    if let Some(device) = &profile.bind_dev {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if remote.bind.address.is_some() || remote.bind.port.is_some() {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = SocketAddr::new(remote.bind.address.unwrap_or(any), remote.bind.port.unwrap_or(0));
        socket.bind(&SockAddr::from(local))?;
    }
    socket.connect(&SockAddr::from(address))?;
    Ok(socket.into())
}

//! Sockets towards a remote: one for an attempt, another when the host's address changed.

use std::io;
use std::net::SocketAddr;

use dataplane::sys::socket::{self, SocketOptions, WireSocket};

use crate::config::agreed::{ClientProfile, MtuDiscovery, Remote};

/// A client has one worker.
const WORKER: u16 = 0;

/// Where packets go and which socket takes them there.
#[derive(Debug)]
pub(crate) struct Transport {
    /// Connected to the remote: the kernel tells us of ICMP errors, and strangers cannot reach it.
    pub socket: WireSocket,
    /// Its path.
    pub path: link::Path,
    /// Our own address and port.
    pub local: SocketAddr,
}

/// Opens a socket from a port that was not used just before, so that a server that still remembers the last session
/// cannot mix them up. `lport` fixes it all the same.
///
/// # Errors
/// What the kernel says: ENETUNREACH when there is no route.
pub(crate) fn open(
    profile: &ClientProfile,
    remote: &Remote,
    address: SocketAddr,
    busy_poll_us: u32,
) -> io::Result<Transport> {
    let mut options = options(profile, remote, address);
    options.busy_poll_us = (busy_poll_us > 0).then_some(busy_poll_us);
    let socket = WireSocket::open(&options)?;
    let local = socket.local_addr()?;
    let path = link::Path { worker: WORKER, local: None, ifindex: 0, remote: address, stream: None };
    Ok(Transport { socket, path, local })
}

fn options(profile: &ClientProfile, remote: &Remote, address: SocketAddr) -> SocketOptions {
    let bound = remote.bind.address.is_some() || remote.bind.port.is_some();
    let any = match address {
        SocketAddr::V4(_) => std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    let bytes = |size: Option<u32>| size.and_then(|n| usize::try_from(n).ok());
    SocketOptions {
        only_v6: false,
        bind: bound.then(|| SocketAddr::new(remote.bind.address.unwrap_or(any), remote.bind.port.unwrap_or(0))),
        remote: Some(address),
        mtu_discovery: remote.mtu_disc.map(|wish| match wish {
            MtuDiscovery::No => socket::MtuDiscovery::No,
            MtuDiscovery::Maybe => socket::MtuDiscovery::Maybe,
            MtuDiscovery::Yes => socket::MtuDiscovery::Yes,
        }),
        mark: profile.mark,
        device: profile.bind_dev.clone(),
        receive_buffer: bytes(profile.settings.rcvbuf),
        send_buffer: bytes(profile.settings.sndbuf),
        busy_poll_us: None,
    }
}

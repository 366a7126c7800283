//! The UDP socket of a worker: created with every option it needs, or taken from somebody who did.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys::steering;

/// Bytes asked for in each direction when nothing else is said: a quarter of a second at 250 Mbit/s.
pub const BUFFER: usize = 8 << 20;

/// `mtu-disc`: what happens to a datagram that is longer than the path carries (ip(7), IP_MTU_DISCOVER).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuDiscovery {
    /// `no`: never set DF, fragment.
    No,
    /// `maybe`: follow the route's hint; a datagram above the known path MTU is fragmented.
    Maybe,
    /// `yes`: always set DF, refuse a longer datagram with EMSGSIZE.
    Yes,
}

/// How to make a socket.
#[derive(Clone, Debug, Default)]
pub struct SocketOptions {
    /// Local address and port; `None` lets the kernel choose.
    pub bind: Option<SocketAddr>,
    /// An unspecified IPv6 address (`[::]`) takes IPv6 alone; it takes IPv4 as well otherwise.
    pub only_v6: bool,
    /// Connect it to this peer: a client. `None`: a gateway's socket, which then tells which address was asked.
    pub remote: Option<SocketAddr>,
    /// `mtu-disc`; `None` keeps the system's default.
    pub mtu_discovery: Option<MtuDiscovery>,
    /// SO_MARK (`mark`).
    pub mark: Option<u32>,
    /// SO_BINDTODEVICE (`bind-dev`).
    pub device: Option<String>,
    /// `rcvbuf` in bytes; `None` asks for [`BUFFER`].
    pub receive_buffer: Option<usize>,
    /// `sndbuf` in bytes; `None` asks for [`BUFFER`].
    pub send_buffer: Option<usize>,
    /// Microseconds that a receive may poll the device's queue (SO_BUSY_POLL, socket(7)), before its interrupts
    /// (SO_PREFER_BUSY_POLL); it serves on devices with NAPI. `None` is off.
    pub busy_poll_us: Option<u32>,
}

/// A non-blocking UDP socket, and what was found out about it.
#[derive(Debug)]
pub struct WireSocket {
    fd: OwnedFd,
    remote: Option<SocketAddr>,
    v6: bool,
    gso: bool,
    gro: bool,
    busy_polled: bool,
}

/// The group that a socket joins when it is bound.
#[derive(Clone, Copy, Debug)]
struct Group {
    workers: u16,
    first: bool,
}

/// A socket for each worker, bound to this address: see [`WireSocket::open_group`].
///
/// # Errors
/// Those of [`WireSocket::open_group`].
pub fn bind_group(address: SocketAddr, workers: u16, options: &SocketOptions) -> io::Result<Vec<WireSocket>> {
    WireSocket::open_group(&SocketOptions { bind: Some(address), remote: None, ..options.clone() }, workers)
}

/// What the kernel granted a socket, in bytes as it counts them: twice what was asked for (socket(7), SO_RCVBUF).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// SO_RCVBUF
    pub receive: usize,
    /// SO_SNDBUF
    pub send: usize,
}

/// Reads what a socket dropped, while another thread owns it. It keeps the socket, and its port, open: drop it in time.
#[derive(Debug)]
pub struct SocketWatch(OwnedFd);

impl SocketWatch {
    /// Datagrams that the socket dropped since it was made, because its buffer was full (SO_MEMINFO, linux/sock_diag.h). The
    /// kernel counts with 32 bits, and over.
    ///
    /// # Errors
    /// The kernel does not know the option (before 4.12).
    pub fn dropped(&self) -> io::Result<u32> {
        /// SK_MEMINFO_DROPS
        const DROPS: usize = 8;
        let mut info = [0u32; 9];
        let mut len = size_of::<[u32; 9]>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes, which is the size of `info`, and then the length into `len`; both
        // live and are borrowed by nobody else. The descriptor is open because it is owned.
        let answer = unsafe {
            let (level, name) = (libc::SOL_SOCKET, libc::SO_MEMINFO);
            libc::getsockopt(self.0.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &raw mut len)
        };
        if answer == 0 { Ok(info[DROPS]) } else { Err(io::Error::last_os_error()) }
    }
}

impl WireSocket {
    /// Makes a socket for the remote's or the bound address's family (IPv6 when neither is given, taking both).
    ///
    /// # Errors
    /// Whatever the kernel says to socket(2), bind(2), connect(2) or to an option that was asked for. Buffer sizes and
    /// offloads are no reason to fail: what is not granted is not used.
    pub fn open(options: &SocketOptions) -> io::Result<Self> {
        Self::make(options, None)
    }

    /// Makes a socket for each worker, all bound to one address and port. The kernel gives P_DATA_V2 to socket `peer-id % workers` and
    /// everything else to the first one (SO_REUSEPORT). None may be closed as long as another one is used: the last one would take its
    /// place. One worker has a socket like any other, which nobody else can join.
    ///
    /// # Errors
    /// What [`open`](Self::open) says, or `InvalidInput` when no address is given or there is no worker.
    pub fn open_group(options: &SocketOptions, workers: u16) -> io::Result<Vec<Self>> {
        if workers <= 1 {
            return Ok(vec![Self::open(options)?]);
        }
        let bind = options.bind.ok_or(io::ErrorKind::InvalidInput)?;
        let first = Self::make(options, Some(Group { workers, first: true }))?;
        // The kernel may have chosen the port.
        let bind = SocketAddr::new(bind.ip(), first.local_addr()?.port());
        let options = SocketOptions { bind: Some(bind), ..options.clone() };
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(Self::make(&options, Some(Group { workers, first: false }))?);
        }
        Ok(sockets)
    }

    fn make(options: &SocketOptions, group: Option<Group>) -> io::Result<Self> {
        let v6 = options.remote.or(options.bind).is_none_or(|address| address.is_ipv6());
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
        if v6 && options.remote.is_none() {
            let specified = options.bind.is_some_and(|address| !address.ip().is_unspecified());
            socket.set_only_v6(specified || options.only_v6)?;
        }
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        if let Some(device) = &options.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if let Some(discovery) = options.mtu_discovery {
            set_mtu_discovery(&socket, v6, discovery)?;
        }
        set_buffer(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, options.receive_buffer.unwrap_or(BUFFER));
        set_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, options.send_buffer.unwrap_or(BUFFER));
        if let Some(group) = group {
            socket.set_reuse_port(true)?;
            if group.first {
                steering::choose_by_peer_id(socket.as_fd(), group.workers)?;
            }
        }
        if let Some(local) = options.bind {
            socket.bind(&SockAddr::from(local))?;
        }
        match options.remote {
            Some(remote) => socket.connect(&SockAddr::from(remote))?,
            None => ask_for_destination(&socket, v6)?,
        }
        let mut socket = Self::adopt(socket.into())?;
        if let Some(us) = options.busy_poll_us {
            socket.busy_polled = socket.poll_busily(us).is_ok();
        }
        Ok(socket)
    }

    /// Takes a UDP socket that somebody else made; it is made non-blocking, and its offloads are probed.
    ///
    /// # Errors
    /// It is no socket of IPv4 or IPv6, or takes no flags.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        socket.set_nonblocking(true)?;
        let remote = socket.peer_addr().ok().and_then(|address| address.as_socket());
        let v6 = match socket.local_addr()?.as_socket() {
            Some(local) => local.is_ipv6(),
            None => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a socket of IPv4 or IPv6"));
            }
        };
        // Reading UDP_SEGMENT answers ENOPROTOOPT where the kernel does not know it.
        let gso = get_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT).is_ok();
        let gro = set_int(socket.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok();
        Ok(Self { fd: socket.into(), remote, v6, gso, gro, busy_polled: false })
    }

    /// The peer it is connected to.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// The local address and port.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let local = socket2::SockRef::from(&self.fd).local_addr()?.as_socket();
        local.ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Whether the kernel knows UDP_SEGMENT.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Whether UDP_GRO is on.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Switches UDP_GRO off or on.
    pub fn set_gro(&mut self, on: bool) {
        self.gro = set_int(self.as_fd(), libc::SOL_UDP, libc::UDP_GRO, i32::from(on)).is_ok() && on;
    }

    /// Whether the kernel took [`SocketOptions::busy_poll_us`].
    pub fn busy_polled(&self) -> bool {
        self.busy_polled
    }

    fn poll_busily(&self, us: u32) -> io::Result<()> {
        let us = i32::try_from(us).unwrap_or(i32::MAX);
        set_int(self.as_fd(), libc::SOL_SOCKET, libc::SO_BUSY_POLL, us)?;
        // Since Linux 5.11; without it interrupts may come between.
        let _ = set_int(self.as_fd(), libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, 1);
        Ok(())
    }

    /// The buffers that the kernel granted.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn buffers(&self) -> io::Result<Buffers> {
        let granted = |name| -> io::Result<usize> {
            let bytes = get_int(self.as_fd(), libc::SOL_SOCKET, name)?;
            usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
        };
        Ok(Buffers { receive: granted(libc::SO_RCVBUF)?, send: granted(libc::SO_SNDBUF)? })
    }

    /// The same socket under another descriptor, for another thread.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, ..*self })
    }

    /// Another descriptor of the socket, to read its drops through.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn watch(&self) -> io::Result<SocketWatch> {
        self.fd.try_clone().map(SocketWatch)
    }

    /// Whether a datagram above the path MTU is refused (EMSGSIZE) instead of being fragmented: `mtu-disc yes`
    /// (IP_PMTUDISC_DO, ip(7)).
    pub fn forbids_fragments(&self) -> bool {
        let v4 = self.remote.map_or(!self.v6, |remote| remote.ip().to_canonical().is_ipv4());
        let (level, name) = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            false => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        get_int(self.as_fd(), level, name).is_ok_and(|value| value == libc::IP_PMTUDISC_DO)
    }

    /// The longest UDP payload in bytes that one packet to the connected peer carries, by the path MTU as the kernel
    /// knows it now; `None` on a socket that is not connected.
    pub fn max_payload(&self) -> Option<usize> {
        // An IPv4 peer behind an IPv6 socket has IPv4 headers.
        let v4 = self.remote?.ip().to_canonical().is_ipv4();
        let (level, name, headers) = match v4 {
            true => (libc::IPPROTO_IP, libc::IP_MTU, 28),
            false => (libc::IPPROTO_IPV6, libc::IPV6_MTU, 48),
        };
        let mtu = get_int(self.as_fd(), level, name).ok()?;
        usize::try_from(mtu).ok()?.checked_sub(headers)
    }

    /// An address as this socket's family writes it: an IPv4 address becomes `::ffff:a.b.c.d` on an IPv6 socket.
    pub(crate) fn in_family(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(v4) if self.v6 => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), address.port()),
            _ => address,
        }
    }
}

impl AsFd for WireSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_mtu_discovery(socket: &Socket, v6: bool, discovery: MtuDiscovery) -> io::Result<()> {
    let value = match discovery {
        MtuDiscovery::No => libc::IP_PMTUDISC_DONT,
        MtuDiscovery::Maybe => libc::IP_PMTUDISC_WANT,
        MtuDiscovery::Yes => libc::IP_PMTUDISC_DO,
    };
    // The values of IPV6_MTU_DISCOVER are the same numbers.
    if v6 {
        set_int(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, value)?;
    }
    set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value).or(if v6 {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    })
}

/// The forced variant needs CAP_NET_ADMIN; the other is capped by net.core.{r,w}mem_max.
fn set_buffer(socket: &Socket, forced: i32, capped: i32, bytes: usize) {
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set_int(socket.as_fd(), libc::SOL_SOCKET, forced, bytes).is_err() {
        let _ = set_int(socket.as_fd(), libc::SOL_SOCKET, capped, bytes);
    }
}

/// Lets the kernel say which local address a datagram was sent to.
fn ask_for_destination(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 {
        set_int(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
    } else {
        set_int(socket.as_fd(), libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
    }
}

/// For tests: the kernel refuses UDP_SEGMENT on such a socket.
#[cfg(test)]
pub(super) fn forbid_checksums(socket: &WireSocket) -> io::Result<()> {
    set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

pub(super) fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<i32>()` bytes from the pointer, which is that of a live i32; the descriptor is
    // open because it is borrowed.
    let answer = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `value`, and then the length it wrote into
    // `len`; both live and are borrowed by nobody else. The descriptor is open because it is borrowed.
    let answer = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if answer == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(local: &str) -> (WireSocket, WireSocket) {
        let options = SocketOptions { bind: Some(local.parse().unwrap()), ..Default::default() };
        let server = WireSocket::open(&options).unwrap();
        let remote = Some(server.local_addr().unwrap());
        let client = WireSocket::open(&SocketOptions { remote, ..Default::default() }).unwrap();
        (client, server)
    }

    #[test]
    fn a_client_socket_is_connected_and_a_gateways_is_not() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server) = pair(local);
            assert_eq!(client.remote(), Some(server.local_addr().unwrap()));
            assert_eq!(server.remote(), None);
            assert!(client.gso() && client.gro(), "this kernel has both offloads");
        }
    }

    #[test]
    fn a_socket_without_datagrams_does_not_block() {
        let (client, _server) = pair("127.0.0.1:0");
        assert_eq!(rustix::io::read(&client, &mut [0u8; 8]), Err(rustix::io::Errno::AGAIN));
    }

    #[test]
    fn the_longest_payload_is_the_path_mtu_less_the_headers() {
        let (client, server) = pair("127.0.0.1:0");
        assert_eq!(client.max_payload(), Some(65_535 - 28));
        assert_eq!(server.max_payload(), None);
        let (client, _server) = pair("[::1]:0");
        assert_eq!(client.max_payload(), Some(65_536 - 48));
    }

    #[test]
    fn gro_can_be_switched_off() {
        let (mut client, _server) = pair("127.0.0.1:0");
        client.set_gro(false);
        assert!(!client.gro());
        client.set_gro(true);
        assert!(client.gro());
    }

    #[test]
    fn every_mtu_discovery_is_accepted_on_both_families() {
        for remote in ["127.0.0.1:9", "[::1]:9"] {
            for discovery in [MtuDiscovery::No, MtuDiscovery::Maybe, MtuDiscovery::Yes] {
                let options = SocketOptions {
                    remote: Some(remote.parse().unwrap()),
                    mtu_discovery: Some(discovery),
                    mark: Some(7),
                    ..Default::default()
                };
                let socket = WireSocket::open(&options).unwrap();
                let (level, name) = match remote.starts_with('[') {
                    true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
                    false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
                };
                let expected = match discovery {
                    MtuDiscovery::No => libc::IP_PMTUDISC_DONT,
                    MtuDiscovery::Maybe => libc::IP_PMTUDISC_WANT,
                    MtuDiscovery::Yes => libc::IP_PMTUDISC_DO,
                };
                assert_eq!(get_int(socket.as_fd(), level, name).unwrap(), expected);
            }
        }
    }

    #[test]
    fn only_mtu_discovery_forbids_fragments() {
        for remote in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            let socket = |mtu_discovery| {
                let remote = Some(remote.parse().unwrap());
                WireSocket::open(&SocketOptions { remote, mtu_discovery, ..Default::default() }).unwrap()
            };
            assert!(socket(Some(MtuDiscovery::Yes)).forbids_fragments(), "{remote}");
            for other in [Some(MtuDiscovery::No), Some(MtuDiscovery::Maybe), None] {
                assert!(!socket(other).forbids_fragments(), "{remote} {other:?}");
            }
        }
    }

    #[test]
    fn buffers_are_forced_beyond_the_systems_limit() {
        let limit: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        let ask = |receive_buffer, send_buffer| {
            let bind = Some("127.0.0.1:0".parse().unwrap());
            let options = SocketOptions { bind, receive_buffer, send_buffer, ..Default::default() };
            WireSocket::open(&options).unwrap().buffers().unwrap()
        };
        let granted = ask(Some(limit + 100_000), Some(50_000));
        assert_eq!((granted.receive, granted.send), (2 * (limit + 100_000), 100_000), "the kernel doubles them");
        assert_eq!(ask(None, None), Buffers { receive: 2 * BUFFER, send: 2 * BUFFER });
    }

    #[test]
    fn datagrams_that_find_no_room_are_counted_through_another_descriptor() {
        let bind = Some("127.0.0.1:0".parse().unwrap());
        let options = SocketOptions { bind, receive_buffer: Some(4_096), ..Default::default() };
        let server = WireSocket::open(&options).unwrap();
        let remote = Some(server.local_addr().unwrap());
        let client = WireSocket::open(&SocketOptions { remote, ..Default::default() }).unwrap();
        let watch = server.watch().unwrap();
        assert_eq!(watch.dropped().unwrap(), 0);
        let sent = (0..200).filter(|_| rustix::io::write(&client, &[7; 1_000]).is_ok()).count();
        let mut taken = 0;
        while rustix::io::read(&server, &mut [0; 2_000]).is_ok() {
            taken += 1;
        }
        assert!(taken < sent);
        assert_eq!(watch.dropped().unwrap() as usize, sent - taken);
    }

    #[test]
    fn busy_polling_is_asked_for_only_when_wished() {
        let open = |busy_poll_us| {
            let remote = Some("127.0.0.1:9".parse().unwrap());
            let socket = WireSocket::open(&SocketOptions { remote, busy_poll_us, ..Default::default() }).unwrap();
            (socket.busy_polled(), get_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_BUSY_POLL).unwrap())
        };
        assert_eq!(open(Some(50)), (true, 50));
        let (polled, system) = open(None);
        assert!(!polled && system != 50);
    }

    #[test]
    fn an_ipv4_address_is_mapped_on_an_ipv6_socket_only() {
        let address = "192.0.2.1:5".parse().unwrap();
        let v6 =
            WireSocket::open(&SocketOptions { bind: Some("[::1]:0".parse().unwrap()), ..Default::default() }).unwrap();
        let v4 = WireSocket::open(&SocketOptions { bind: Some("127.0.0.1:0".parse().unwrap()), ..Default::default() })
            .unwrap();
        assert_eq!(v6.in_family(address), "[::ffff:192.0.2.1]:5".parse().unwrap());
        assert_eq!(v4.in_family(address), address);
    }

    #[test]
    fn something_that_is_no_udp_socket_is_refused() {
        let (stream, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert!(WireSocket::adopt(stream.into()).is_err());
    }
}

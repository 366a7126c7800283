//! The network namespace in which everything happens: a TUN, a device that drops what is sent, the loopback.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::Command;

use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use link::message::Path;

/// Bytes of a socket's buffers: more than any queue of any row needs.
const SOCKET_BUFFER: usize = 256 << 20;

/// Addresses of the namespace.
const TUN_HOST: &str = "10.77.0.1";
const TUN_PEER: &str = "10.77.0.2:9";
const DROP_LOCAL: &str = "198.51.100.1:1194";
const DROP_REMOTE: &str = "198.51.100.2:1194";
const LO_WORKER: &str = "127.0.0.1:1194";
const LO_GENERATOR: &str = "127.0.0.1:1195";

/// The namespace's devices and sockets. A worker gets duplicates of the descriptors, so that a queue outlives the
/// worker's hold on it.
#[derive(Debug)]
pub struct Lab {
    tun: TunQueue,
    departures: WireSocket,
    arrivals: WireSocket,
}

impl Lab {
    /// Moves the process into a namespace of its own and furnishes it. Call it before any thread is started.
    pub fn new() -> Result<Self, Box<dyn Error>> {
        // Of the flags of unshare(2) only CLONE_FILES is a danger to others; hence the function's deprecation.
        #[allow(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET)
            .map_err(|error| format!("a network namespace of its own needs root: {error}"))?;
        // What the namespace inherits from the host must not route packets back into the TUN, nor speak up on it.
        sysctl("net/ipv4/ip_forward", "0")?;
        sysctl("net/ipv4/conf/all/rp_filter", "0")?;
        sysctl("net/ipv4/conf/default/rp_filter", "0")?;
        // Where the kernel has no IPv6 there is nothing to silence.
        let _ = sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        ip("link set lo up")?;
        let tun = TunQueue::open(&TunOptions { name: "tun0".into(), multi_queue: false, offload: true })?;
        ip(&format!("addr add {TUN_HOST}/24 dev tun0"))?;
        ip("link set tun0 mtu 1420 txqueuelen 8192 up")?;
        ip("link add drop0 type ifb")?;
        ip("addr add 198.51.100.1/24 dev drop0")?;
        ip("link set drop0 up")?;
        let departures = socket(DROP_LOCAL, DROP_REMOTE)?;
        let arrivals = socket(LO_WORKER, LO_GENERATOR)?;
        Ok(Self { tun, departures, arrivals })
    }

    /// The TUN, for a worker.
    pub fn tun(&self) -> io::Result<TunQueue> {
        TunQueue::from_packets(self.tun.as_fd().try_clone_to_owned()?, self.tun.offload())
    }

    /// The socket whose packets are dropped, for a worker that seals, and its path.
    pub fn departures(&self) -> io::Result<(WireSocket, Path)> {
        Ok((WireSocket::adopt(self.departures.as_fd().try_clone_to_owned()?)?, path(DROP_REMOTE)))
    }

    /// The socket that [`Self::generator_to_worker`] fills, for a worker that opens, and its path.
    pub fn arrivals(&self) -> io::Result<(WireSocket, Path)> {
        Ok((WireSocket::adopt(self.arrivals.as_fd().try_clone_to_owned()?)?, path(LO_GENERATOR)))
    }

    /// A socket whose datagrams are routed into the TUN.
    pub fn generator_to_tun(&self) -> io::Result<(WireSocket, Path)> {
        Ok((socket(&format!("{TUN_HOST}:4000"), TUN_PEER)?, path(TUN_PEER)))
    }

    /// The other end of [`Self::arrivals`].
    pub fn generator_to_worker(&self) -> io::Result<(WireSocket, Path)> {
        Ok((socket(LO_GENERATOR, LO_WORKER)?, path(LO_WORKER)))
    }

    /// The TUN's offloads, for people.
    pub fn offload(&self) -> String {
        format!("{:?}", self.tun.offload())
    }

    /// Whether drop0 takes UDP_SEGMENT whole, as ethtool(8) says it.
    pub fn drops_whole_runs(&self) -> bool {
        let features = Command::new("ethtool").args(["-k", "drop0"]).output();
        features.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("tx-udp-segmentation: on"))
    }
}

fn socket(local: &str, remote: &str) -> io::Result<WireSocket> {
    WireSocket::open(&SocketOptions {
        bind: Some(address(local)),
        remote: Some(address(remote)),
        receive_buffer: Some(SOCKET_BUFFER),
        send_buffer: Some(SOCKET_BUFFER),
        ..Default::default()
    })
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("one of the addresses above")
}

fn path(remote: &str) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote: address(remote), stream: None }
}

fn sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
}

fn ip(command: &str) -> Result<(), Box<dyn Error>> {
    let status = Command::new("ip").args(command.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("`ip {command}` failed").into()) }
}

//! The kernel's edge, and the only room of this crate where `unsafe` is allowed: sockets, TUN, the two I/O engines,
//! the buffers they share with the kernel, pinning, the clock; and the one library that is loaded at run time. Nothing here
//! knows what a packet means.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use link::message::Path;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::tundev::TunQueue;
use crate::tun::coalesce::TunBatch;

pub mod affinity;
#[cfg(feature = "trial")]
pub mod arena;
pub mod bell;
mod bpf;
pub mod clock;
pub mod cmsg;
pub mod crowd;
mod device;
#[cfg(feature = "faults")]
pub mod faults;
pub mod ipsec_mb;
mod name;
mod resplit;
pub mod simd;
pub mod socket;
pub mod steering;
pub mod syscall;
#[cfg(feature = "trial")]
pub mod trial;
pub mod tundev;
pub mod uring;
mod wire;
mod zerocopy;

/// Which I/O engine to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring when the kernel lets us, plain system calls otherwise.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// Whether long runs leave without being copied into the kernel (SENDMSG_ZC of io_uring); the system-call engine never does so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopyChoice {
    /// By devices that segment UDP in hardware (`tx-udp-segmentation`, ethtool(8)), until the kernel says that it copies all the same.
    #[default]
    Auto,
    /// By every device, whatever the kernel copies.
    On,
    /// Never.
    Off,
}

/// The engine that runs, for people and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// `io_uring` or `syscall`.
    pub name: &'static str,
    /// Why this one, and what it uses: one line.
    pub why: String,
}

impl fmt::Display for EngineInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I/O engine {}: {}", self.name, self.why)
    }
}

/// What an engine does after it handed something out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand out the next one.
    More,
    /// Enough for now; what is left comes with the next call.
    Stop,
    /// Enough for now, and this one was not used: the next call begins with it, unchanged.
    Again,
}

/// What an engine has to say about its descriptors, for the worker to count and report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The socket answered this errno.
    Socket(i32),
    /// The TUN answered this errno.
    Tun(i32),
    /// The kernel knows a shorter path MTU now than a packet had.
    PathMtu,
    /// The kernel refused UDP_SEGMENT at run time: it is off now.
    GsoLost,
    /// The kernel copies what was to be sent without a copy, or refuses to: such sends are off now.
    ZeroCopyLost,
    /// The TUN refused a super-packet whose packets it took one by one: of TCP, or of UDP.
    TunOffloadLost {
        /// USO rather than TSO.
        udp: bool,
    },
}

/// What an engine tells its worker while it works. Called on the packet path: no allocation, no system call.
pub trait Observer {
    /// `packets` wire packets or TUN packets were dropped.
    fn dropped(&mut self, reason: DropReason, packets: u64);
    /// One send call took `segments` wire packets of `bytes` bytes in all.
    fn sent(&mut self, segments: u64, bytes: u64);
    /// One TUN write took `packets` inner packets.
    fn written(&mut self, packets: u64);
    /// Something to report, rarely.
    fn trouble(&mut self, trouble: Trouble);
}

/// An I/O engine: owns the descriptors and every buffer that the kernel fills. One per worker, used by one thread.
///
/// `receive` and `read_tun` hand out what is there and never wait; `sleep` is the only call that does.
pub trait Engine {
    /// Its name and why it was chosen.
    fn info(&self) -> &EngineInfo;

    /// What to wait for: datagrams, packets of the TUN, both (so it begins). What is not listened to is attached for the other
    /// direction alone. To be called before anything is attached.
    fn listen_to(&mut self, socket: bool, tun: bool);

    /// Takes the socket; one attached before is closed, and what it still held is forgotten.
    fn attach_socket(&mut self, socket: WireSocket, path: Path) -> io::Result<()>;

    /// Closes the socket.
    fn detach_socket(&mut self);

    /// Takes the TUN queue; one attached before is closed.
    fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()>;

    /// Closes the TUN queue.
    fn detach_tun(&mut self);

    /// Wakes `sleep` when this bell rings: the link's. Replaces the one before.
    fn watch_link(&mut self, bell: Option<Bell>) -> io::Result<()>;

    /// Hands out trains of datagrams until `each` says enough or nothing is there, at most a bounded number of them.
    /// Returns how many. `each` may not answer [`Step::Again`].
    fn receive(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(Train<'_>) -> Step) -> usize;

    /// Hands out frames read from the TUN (virtio header first) until `each` says enough or nothing is there, at most
    /// a bounded number of them. Returns how many were used.
    fn read_tun(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(&mut [u8]) -> Step) -> usize;

    /// Sends the batch and clears it. What the kernel does not take at once is dropped and counted.
    fn send(&mut self, observer: &mut dyn Observer, batch: &mut WireBatch);

    /// Sends one datagram that is no data packet.
    fn send_datagram(&mut self, observer: &mut dyn Observer, path: &Path, bytes: &[u8]);

    /// Writes the batch to the TUN and clears it.
    fn write_tun(&mut self, observer: &mut dyn Observer, batch: &mut TunBatch);

    /// Allows or forbids UDP_SEGMENT.
    fn set_gso(&mut self, gso: bool);

    /// When to send without a copy. To be called before a socket is attached.
    fn set_zero_copy(&mut self, choice: ZeroCopyChoice);

    /// Whether long runs to the attached socket may leave without a copy.
    fn zero_copy(&self) -> bool;

    /// The longest UDP payload in bytes that one packet to the connected peer carries now; `None` when not connected.
    fn max_payload(&self) -> Option<usize>;

    /// Waits until something may be there to do, at the latest until this CLOCK_BOOTTIME instant (nanoseconds).
    /// May return early; never misses what arrived before the call.
    fn sleep(&mut self, until_ns: u64);

    /// What [`sleep`](Self::sleep) would wait for besides the bells, for whoever sleeps for several engines at once. An engine that can only
    /// sleep by itself names nothing.
    fn awaits(&self) -> Awaits<'_> {
        Awaits::default()
    }
}

/// What makes another turn worth it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Awaits<'a> {
    /// Something was received that is not handed out yet: now.
    pub more: bool,
    /// Datagrams.
    pub socket: Option<BorrowedFd<'a>>,
    /// Packets of the TUN.
    pub tun: Option<BorrowedFd<'a>>,
}

/// Sets up the engine that was asked for. `orders` wakes it when an order was queued.
///
/// # Errors
/// [`IoChoice::Uring`] and io_uring is refused; or memory or descriptors are short.
pub fn engine(choice: IoChoice, orders: Bell) -> io::Result<Box<dyn Engine>> {
    match choice {
        IoChoice::Syscall => Ok(Box::new(syscall::SyscallEngine::new(orders, "asked for".into())?)),
        IoChoice::Uring => match uring::UringEngine::new(&orders) {
            Ok(engine) => Ok(Box::new(engine)),
            Err(error) => Err(io::Error::new(error.kind(), refusal(&error))),
        },
        IoChoice::Auto => match uring::UringEngine::new(&orders) {
            Ok(engine) => Ok(Box::new(engine)),
            Err(error) => Ok(Box::new(syscall::SyscallEngine::new(orders, refusal(&error))?)),
        },
    }
}

/// Why io_uring is not there, in one line that says what would change it.
fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "io_uring_setup answered ENOSYS: the kernel has no io_uring, or a container's seccomp profile forbids it"
                .into()
        }
        Some(libc::EPERM) => {
            "io_uring_setup answered EPERM: kernel.io_uring_disabled or a security policy forbids it".into()
        }
        _ => format!("io_uring is not usable: {error}"),
    }
}

#[cfg(test)]
mod tests;

//! A TUN queue with offloads: opened with a few ioctls (linux/if_tun.h), without interface configuration.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::sys::steering::{self, Steered, Steering};
use crate::tun::coalesce::TunOffload;

/// The device node.
const NODE: &str = "/dev/net/tun";
/// `struct virtio_net_hdr` without `num_buffers`, in bytes.
const VNET_HEADER: c_int = 10;
/// TUN_F_USO6 beside libc's list.
const TUN_F_USO6: libc::c_uint = 0x40;
/// An io_uring process that ended releases its queue late: so long an attach is tried again.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why a TUN queue could not be opened. Each has another remedy.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// There is no device node.
    #[error(
        "/dev/net/tun is missing: load the module with `modprobe tun`, or give it to the container with `--device /dev/net/tun`"
    )]
    Missing,
    /// The node cannot be opened, or CAP_NET_ADMIN is missing.
    #[error(
        "no permission to create a TUN interface: run as root, or give the program CAP_NET_ADMIN (`setcap cap_net_admin+ep`, `--cap-add NET_ADMIN`)"
    )]
    Permission,
    /// Another process holds the interface.
    #[error("the interface {0} is in use by another process")]
    Busy(String),
    /// The name cannot be an interface's: 1 to 15 bytes, no `/`, no white space.
    #[error("{0:?} cannot be the name of an interface (1 to 15 bytes, no '/', no white space)")]
    BadName(String),
    /// Anything else.
    #[error("the TUN interface could not be opened: {0}")]
    Other(#[from] io::Error),
}

impl From<rustix::io::Errno> for TunError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Other(error.into())
    }
}

/// One queue of a TUN interface. Reads and writes whole packets, each behind a 10-byte virtio header
/// (linux/virtio_net.h), and never blocks.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
    name: String,
    offload: TunOffload,
}

/// How to open a queue.
#[derive(Clone, Debug, Default)]
pub struct TunOptions {
    /// The interface's name; a trailing `%d` lets the kernel number it; empty means `tun%d`.
    pub name: String,
    /// Whether more queues of the same interface will be opened (IFF_MULTI_QUEUE).
    pub multi_queue: bool,
    /// Whether to ask for offloads. Without them every packet comes and goes alone.
    pub offload: bool,
}

impl TunQueue {
    /// Opens a queue, creating the interface when it is not there. The interface lives as long as the queue unless it
    /// was made persistent elsewhere.
    ///
    /// Of the offloads, as many are switched on as the kernel takes: checksums, TSO and USO; else checksums and TSO;
    /// else checksums; else none. A queue that another process still holds is tried for 2 s.
    ///
    /// # Errors
    /// See [`TunError`].
    pub fn open(options: &TunOptions) -> Result<Self, TunError> {
        let name = if options.name.is_empty() { "tun%d" } else { &options.name };
        let fd = open_node()?;
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if options.multi_queue {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let patience = Instant::now() + BUSY_PATIENCE;
        let name = loop {
            match set_iff(fd.as_fd(), name, flags) {
                Err(TunError::Busy(_)) if Instant::now() < patience => std::thread::sleep(BUSY_PAUSE),
                other => break other?,
            }
        };
        set_header_size(fd.as_fd())?;
        let offload = match options.offload {
            true => probe_offload(fd.as_fd()),
            false => {
                // An interface that was made persistent keeps what its last owner switched on.
                set_offload(fd.as_fd(), 0);
                TunOffload::default()
            }
        };
        Ok(Self { fd, name, offload })
    }

    /// Opens a queue for each worker, in their order; one of them is a queue like any other. [`TunOptions::multi_queue`] follows from the
    /// number. Without [`steer`](Self::steer) the kernel sends a flow to the queue on which its answers were last written.
    ///
    /// # Errors
    /// See [`TunError`]; of more than one queue, none stays open.
    pub fn open_group(options: &TunOptions, workers: u16) -> Result<Vec<Self>, TunError> {
        let multi_queue = workers > 1 || options.multi_queue;
        let first = Self::open(&TunOptions { multi_queue, ..options.clone() })?;
        let options = TunOptions { name: first.name.clone(), multi_queue, ..*options };
        let mut queues = vec![first];
        for _ in 1..workers {
            queues.push(Self::open(&options)?);
        }
        Ok(queues)
    }

    /// From now on each packet of this queue's interface is read by the worker whose peer has the inner destination, as far as the kernel
    /// [is told](Steered::follow). Without it, or where it errs, packets are handed over; so a failure is worth a line, not more.
    ///
    /// # Errors
    /// bpf(2) is refused (EPERM: CAP_BPF is missing, or a container's seccomp profile forbids it), or the kernel has no such ioctl (before
    /// Linux 4.16).
    pub fn steer(&self, steering: &Steering) -> io::Result<Steered> {
        steering::choose_by_destination(self.as_fd(), steering)
    }

    /// A queue that is no TUN: one end of a SOCK_SEQPACKET or SOCK_DGRAM pair, whose other end reads and writes packets
    /// behind the same 10-byte header (the embeddable tunnel, tests). It is made non-blocking.
    ///
    /// # Errors
    /// The descriptor takes no flags.
    pub fn from_packets(fd: OwnedFd, offload: TunOffload) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(Self { fd, name: "packets".into(), offload })
    }

    /// The same queue under another descriptor, for another thread.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, name: self.name.clone(), offload: self.offload })
    }

    /// The interface's name, as the kernel chose it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offloads in use.
    pub fn offload(&self) -> TunOffload {
        self.offload
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open_node() -> Result<OwnedFd, TunError> {
    rustix::fs::open(NODE, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(
        |error| match error {
            rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV => TunError::Missing,
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => TunError::Permission,
            other => other.into(),
        },
    )
}

fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> Result<String, TunError> {
    let mut request = request_for(name)?;
    // The flags fit: they are defined within 16 bits.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` (linux/if_tun.h, net/if.h). `request` is one, fully
    // initialised, borrowed for the whole call and by nobody else; the descriptor is open because it is borrowed.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer == 0 {
        return Ok(name_of(&request));
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EBUSY) => TunError::Busy(name.into()),
        Some(libc::EPERM | libc::EACCES) => TunError::Permission,
        _ => error.into(),
    })
}

fn request_for(name: &str) -> Result<libc::ifreq, TunError> {
    let bad = name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || name.bytes().any(|byte| byte == 0 || byte == b'/' || byte.is_ascii_whitespace());
    if bad {
        return Err(TunError::BadName(name.into()));
    }
    // SAFETY: `struct ifreq` is integers, addresses and a pointer in a union: all zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn set_header_size(fd: BorrowedFd<'_>) -> io::Result<()> {
    let size = VNET_HEADER;
    // SAFETY: TUNSETVNETHDRSZ reads one int (linux/if_tun.h). `size` is one and outlives the call.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Switches on the richest set that the kernel takes.
fn probe_offload(fd: BorrowedFd<'_>) -> TunOffload {
    let csum = libc::TUN_F_CSUM;
    let tso = csum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let uso = tso | libc::TUN_F_USO4 | TUN_F_USO6;
    let taken = [uso, tso, csum].into_iter().find(|&set| set_offload(fd, set));
    let has = |bit| taken.is_some_and(|set| set & bit != 0);
    TunOffload {
        csum: has(libc::TUN_F_CSUM),
        tso4: has(libc::TUN_F_TSO4),
        tso6: has(libc::TUN_F_TSO6),
        uso4: has(libc::TUN_F_USO4),
        uso6: has(TUN_F_USO6),
    }
}

fn set_offload(fd: BorrowedFd<'_>, set: libc::c_uint) -> bool {
    // SAFETY: TUNSETOFFLOAD takes its argument by value (linux/if_tun.h): no memory is touched.
    unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(set)) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_interface_can_have_is_refused() {
        for bad in ["", "sixteen-bytes-xx", "a/b", "a b", "a\0b"] {
            assert!(matches!(request_for(bad), Err(TunError::BadName(_))), "{bad:?}");
        }
        assert_eq!(name_of(&request_for("fifteen-bytes-x").unwrap()), "fifteen-bytes-x");
    }

    #[test]
    fn a_packet_socket_stands_in_for_a_tun_and_does_not_block() {
        let (ours, _theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let queue = TunQueue::from_packets(ours.into(), TunOffload::default()).unwrap();
        let read = rustix::io::read(&queue, &mut [0u8; 16]);
        assert_eq!(read, Err(rustix::io::Errno::AGAIN));
    }
}

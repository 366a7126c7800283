//! What the engine tells of its system calls: counted, and said once until something went well again.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use crate::drop_reason::DropReason;
use crate::sys::{Observer, Trouble};
use crate::workers::manager::{Report, WorkerReport};
use crate::workers::stats::{OffloadsInUse, WorkerStats};

/// Counts what the engine tells, and reports an error once until something went well again.
pub(super) struct Notes {
    stats: Arc<WorkerStats>,
    report: Rc<Report>,
    /// The socket's error that was said last, by either thread; 0 is none, or something came since.
    socket: Arc<AtomicI32>,
    pub(super) tun: Option<i32>,
    /// The kernel learned another path MTU.
    pub(super) path_mtu: bool,
    /// The TUN refused a super-packet: of UDP, or of TCP.
    pub(super) tun_offload_lost: Option<bool>,
    pub(super) offloads: OffloadsInUse,
    /// What was said of them.
    said: Option<OffloadsInUse>,
    pub(super) has_socket: bool,
    pub(super) has_tun: bool,
    /// Not on a thread that seals: its other half says it.
    says_offloads: bool,
}

impl Notes {
    pub(super) fn new(
        stats: Arc<WorkerStats>,
        report: Rc<Report>,
        socket: Arc<AtomicI32>,
        says_offloads: bool,
    ) -> Self {
        Notes {
            stats,
            report,
            socket,
            tun: None,
            path_mtu: false,
            tun_offload_lost: None,
            offloads: OffloadsInUse::default(),
            said: None,
            has_socket: false,
            has_tun: false,
            says_offloads,
        }
    }

    /// Says which offloads are in use, when that is known and something new.
    pub(super) fn say_offloads(&mut self) {
        self.stats.set_offloads(self.offloads);
        if self.says_offloads
            && self.has_socket
            && self.has_tun
            && self.said.replace(self.offloads) != Some(self.offloads)
        {
            (self.report)(WorkerReport::Offloads(self.offloads));
        }
    }

    /// An offload is off from now on.
    pub(super) fn lost(&mut self, name: &'static str) {
        self.stats.set_offloads(self.offloads);
        self.said = Some(self.offloads);
        (self.report)(WorkerReport::OffloadLost(name));
    }

    /// Something came from the network.
    pub(super) fn heard(&mut self) {
        if self.socket.load(Relaxed) != 0 {
            self.socket.store(0, Relaxed);
        }
    }
}

impl Observer for Notes {
    fn dropped(&mut self, reason: DropReason, packets: u64) {
        self.stats.drop_many(reason, packets);
    }

    fn sent(&mut self, segments: u64, _bytes: u64) {
        self.stats.outbound.writes.add(1);
        self.stats.outbound.written.add(segments);
    }

    fn written(&mut self, packets: u64) {
        self.stats.inbound.writes.add(1);
        self.stats.inbound.written.add(packets);
        self.tun = None;
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::GsoLost => {
                (self.offloads.udp_gso, self.offloads.zero_copy) = (false, false);
                self.lost("UDP_SEGMENT");
            }
            Trouble::ZeroCopyLost => {
                self.offloads.zero_copy = false;
                self.lost("to send without a copy (it copies all the same)");
            }
            Trouble::TunOffloadLost { udp } => self.tun_offload_lost = Some(udp),
            Trouble::PathMtu => self.path_mtu = true,
            // An interface that is down answers EIO to every write.
            Trouble::Tun(libc::EIO) => {}
            // What ICMP said of an earlier datagram, when nothing was being sent.
            Trouble::Socket(libc::EMSGSIZE) if self.socket.load(Relaxed) == libc::EMSGSIZE => self.path_mtu = true,
            Trouble::Socket(errno) if self.socket.swap(errno, Relaxed) != errno => {
                self.path_mtu |= errno == libc::EMSGSIZE;
                (self.report)(WorkerReport::SocketError { errno, text: text(errno) });
            }
            Trouble::Tun(errno) if self.tun != Some(errno) => {
                self.tun = Some(errno);
                (self.report)(WorkerReport::TunError { errno, text: text(errno) });
            }
            Trouble::Socket(_) | Trouble::Tun(_) => {}
        }
    }
}

fn text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

//! Sending a batch with direct calls, for both engines: one sendmmsg for all runs, UDP_SEGMENT for runs of several, and
//! what is tried next when the kernel refuses. Also the TUN's read and write. Nothing here waits.

use std::io;
use std::mem::zeroed;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};

use link::message::Path;
use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::networkio::gso::{Run, WireBatch};
use crate::sys::cmsg::{CONTROL, Control};
use crate::sys::name::{self, NAME, Name};
use crate::sys::resplit;
use crate::sys::socket::WireSocket;
use crate::sys::{Observer, Step, Trouble};
use crate::tun::coalesce::TunBatch;
use crate::tun::virtio::{GSO_NONE, VNET_HDR_LEN, VnetHeader};

/// Messages in one sendmmsg.
const SLOTS: usize = 64;
/// The longest frame of a TUN: header and 65,535 bytes; some slack for whoever writes behind the packet.
const FRAME: usize = VNET_HDR_LEN + 65_535 + 247;
/// TUN reads in one turn: enough to fill a send with small packets.
const TUN_READS: usize = 64;

/// One message of a sendmmsg: where its bytes lie, and how they are cut.
#[derive(Clone, Copy, Debug)]
struct Message {
    start: usize,
    len: usize,
    segment: usize,
    count: usize,
    path: Path,
}

impl Message {
    fn of(run: &Run) -> Self {
        Self { start: run.start, len: run.len, segment: run.segment, count: run.count, path: run.path }
    }

    /// The `index`th packet of it, alone.
    fn single(&self, index: usize) -> Option<Self> {
        let offset = index.checked_mul(self.segment).filter(|&offset| offset < self.len)?;
        let len = self.segment.min(self.len - offset);
        Some(Self { start: self.start + offset, len, segment: len, count: 1, path: self.path })
    }
}

/// The arrays that sendmmsg reads, allocated once.
pub(super) struct Sender {
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    names: Box<[Name]>,
    /// UDP_SEGMENT is allowed and the kernel has not refused it.
    gso: bool,
}

/// What became of one message.
enum Outcome {
    /// The kernel has it.
    Sent,
    /// It is lost.
    Dropped(DropReason),
    /// Nothing more can be sent now.
    Full,
}

impl Sender {
    pub(super) fn new() -> Self {
        // SAFETY: mmsghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        let (header, iovec) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        Self {
            headers: vec![header; SLOTS].into(),
            iovecs: vec![iovec; SLOTS].into(),
            controls: vec![Control::default(); SLOTS].into(),
            names: vec![Name::default(); SLOTS].into(),
            gso: true,
        }
    }

    pub(super) fn set_gso(&mut self, gso: bool) {
        self.gso = gso;
    }

    /// Sends every run of the batch and clears it.
    pub(super) fn send(&mut self, socket: Option<&WireSocket>, observer: &mut dyn Observer, batch: &mut WireBatch) {
        match socket {
            Some(socket) => self.send_runs(socket, observer, batch),
            None => observer.dropped(DropReason::SocketError, packets(batch.runs())),
        }
        if !self.gso {
            batch.set_gso(false);
        }
        batch.clear();
    }

    /// Sends one datagram.
    pub(super) fn send_datagram(
        &mut self,
        socket: Option<&WireSocket>,
        observer: &mut dyn Observer,
        path: &Path,
        bytes: &[u8],
    ) {
        let Some(socket) = socket else {
            return observer.dropped(DropReason::SocketError, 1);
        };
        let message = Message { start: 0, len: bytes.len(), segment: bytes.len(), count: 1, path: *path };
        match self.send_one(socket, observer, &message, bytes) {
            Outcome::Sent => {}
            Outcome::Dropped(reason) => observer.dropped(reason, 1),
            Outcome::Full => observer.dropped(DropReason::SocketFull, 1),
        }
    }

    fn send_runs(&mut self, socket: &WireSocket, observer: &mut dyn Observer, batch: &WireBatch) {
        let mut runs = batch.runs();
        while !runs.is_empty() {
            let taken = self.send_some(socket, observer, runs, batch.bytes());
            for run in runs.iter().take(taken) {
                observer.sent(run.count as u64, run.len as u64);
            }
            runs = &runs[taken..];
            let Some((first, rest)) = runs.split_first() else {
                return;
            };
            // Only what stopped the batch is looked at alone: a full batch of SLOTS stops without an error.
            if taken == SLOTS {
                continue;
            }
            if !self.send_stuck(socket, observer, &Message::of(first), batch.bytes()) {
                return observer.dropped(DropReason::SocketFull, packets(rest));
            }
            runs = rest;
        }
    }

    /// Hands up to [`SLOTS`] runs to the kernel; how many it took.
    fn send_some(&mut self, socket: &WireSocket, observer: &mut dyn Observer, runs: &[Run], bytes: &[u8]) -> usize {
        let mut count = 0;
        for run in runs.iter().take(SLOTS) {
            if run.count > 1 && !self.gso {
                break;
            }
            self.fill(count, socket, &Message::of(run), bytes);
            count += 1;
        }
        match self.transmit(socket, count) {
            Ok(taken) => taken,
            Err(error) => {
                // The error of an earlier datagram is told once, and then it is gone from the socket.
                if pending(error) {
                    observer.trouble(Trouble::Socket(error.raw_os_error()));
                }
                0
            }
        }
    }

    /// The run that the kernel did not take in a batch. False: the socket is full, stop.
    fn send_stuck(&mut self, socket: &WireSocket, observer: &mut dyn Observer, run: &Message, bytes: &[u8]) -> bool {
        if run.count == 1 || !self.gso {
            return self.send_singly(socket, observer, run, bytes).is_some();
        }
        match self.try_send(socket, observer, run, bytes) {
            Ok(()) => observer.sent(run.count as u64, run.len as u64),
            // The path MTU is smaller than the segments (EMSGSIZE), or this device or kernel does not take UDP_SEGMENT.
            Err(error @ (Errno::MSGSIZE | Errno::INVAL | Errno::IO | Errno::OPNOTSUPP)) => {
                // Older kernels say EINVAL to segments above the path MTU as well.
                let too_long = error == Errno::MSGSIZE || socket.max_payload().is_some_and(|max| run.segment > max);
                if too_long {
                    observer.trouble(Trouble::PathMtu);
                }
                let Some(sent) = self.send_singly(socket, observer, run, bytes) else {
                    return false;
                };
                if !too_long && sent > 0 {
                    self.gso = false;
                    observer.trouble(Trouble::GsoLost);
                }
            }
            Err(error) => return self.give_up(observer, run.count as u64, error),
        }
        true
    }

    /// Every packet of the run by itself; how many went. `None`: the socket is full, the rest of the run was dropped.
    fn send_singly(
        &mut self,
        socket: &WireSocket,
        observer: &mut dyn Observer,
        run: &Message,
        bytes: &[u8],
    ) -> Option<u64> {
        let mut sent = 0;
        for index in 0..run.count {
            let Some(single) = run.single(index) else {
                break;
            };
            match self.send_one(socket, observer, &single, bytes) {
                Outcome::Sent => {
                    sent += 1;
                    observer.sent(1, single.len as u64);
                }
                Outcome::Dropped(reason) => observer.dropped(reason, 1),
                Outcome::Full => {
                    observer.dropped(DropReason::SocketFull, (run.count - index) as u64);
                    return None;
                }
            }
        }
        Some(sent)
    }

    fn send_one(
        &mut self,
        socket: &WireSocket,
        observer: &mut dyn Observer,
        message: &Message,
        bytes: &[u8],
    ) -> Outcome {
        match self.try_send(socket, observer, message, bytes) {
            Ok(()) => Outcome::Sent,
            Err(Errno::AGAIN) => Outcome::Full,
            Err(Errno::NOBUFS) => Outcome::Dropped(DropReason::SocketFull),
            Err(Errno::MSGSIZE) => {
                observer.trouble(Trouble::PathMtu);
                observer.trouble(Trouble::Socket(libc::EMSGSIZE));
                Outcome::Dropped(DropReason::MessageTooLong)
            }
            Err(error) => {
                observer.trouble(Trouble::Socket(error.raw_os_error()));
                Outcome::Dropped(DropReason::SocketError)
            }
        }
    }

    /// One message, again after an error that was another datagram's.
    fn try_send(
        &mut self,
        socket: &WireSocket,
        observer: &mut dyn Observer,
        message: &Message,
        bytes: &[u8],
    ) -> Result<(), Errno> {
        let mut pending_errors = 2;
        loop {
            self.fill(0, socket, message, bytes);
            match self.transmit(socket, 1) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                // What an ICMP message said of an earlier datagram; this one was not tried.
                Err(error) if pending(error) && pending_errors > 0 => {
                    pending_errors -= 1;
                    observer.trouble(Trouble::Socket(error.raw_os_error()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Counts a run that is lost. False: the socket is full.
    fn give_up(&self, observer: &mut dyn Observer, packets: u64, error: Errno) -> bool {
        let full = matches!(error, Errno::AGAIN | Errno::NOBUFS);
        observer.dropped(if full { DropReason::SocketFull } else { DropReason::SocketError }, packets);
        if !full {
            observer.trouble(Trouble::Socket(error.raw_os_error()));
        }
        error != Errno::AGAIN
    }

    /// Writes slot `slot` of the arrays. The pointers in it are used by the next [`transmit`](Self::transmit) only.
    fn fill(&mut self, slot: usize, socket: &WireSocket, message: &Message, bytes: &[u8]) {
        let payload = &bytes[message.start..message.start + message.len];
        let connected = socket.remote().is_some();
        let segment = (message.count > 1).then_some(message.segment).and_then(|size| u16::try_from(size).ok());
        let local = message.path.local.filter(|_| !connected).map(|local| (local, message.path.ifindex));
        let control = self.controls[slot].write(segment, local);
        let name = if connected { 0 } else { self.names[slot].write(socket.in_family(message.path.remote)) };
        self.iovecs[slot] = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_iov = &raw mut self.iovecs[slot];
        header.msg_iovlen = 1;
        header.msg_control =
            if control == 0 { null_mut() } else { self.controls[slot].as_mut_bytes().as_mut_ptr().cast() };
        header.msg_controllen = control as _;
        header.msg_name = if name == 0 { null_mut() } else { self.names[slot].as_mut_bytes().as_mut_ptr().cast() };
        header.msg_namelen = name as _;
    }

    /// sendmmsg of the first `count` slots, all of which were filled since the last call from bytes that still live.
    fn transmit(&mut self, socket: &WireSocket, count: usize) -> Result<usize, Errno> {
        if count == 0 {
            return Ok(0);
        }
        debug_assert!(count <= SLOTS);
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `headers` has `SLOTS >= count` entries, of which the first `count` were filled by `fill` in the same
        // call of `send_some` or `try_send`: each points to one iovec over a slice that the caller still borrows, to a
        // control buffer and an address of this value (boxed, so they have not moved), with their true lengths. The
        // kernel reads the payloads and writes nothing but `msg_len` and `msg_flags` of the headers.
        let sent = unsafe { libc::sendmmsg(fd, self.headers.as_mut_ptr(), count as _, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| last_errno())
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// What ICMP said of an earlier datagram; the one being sent was not looked at.
fn pending(error: Errno) -> bool {
    matches!(error, Errno::CONNREFUSED | Errno::HOSTUNREACH)
}

fn packets(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.count as u64).sum()
}

/// The arrays that recvmmsg fills, and the datagrams that are not handed out yet.
pub(super) struct Receiver {
    headers: Box<[libc::mmsghdr]>,
    iovecs: Box<[libc::iovec]>,
    controls: Box<[Control]>,
    names: Box<[Name]>,
    buffers: Box<[u8]>,
    next: usize,
    filled: usize,
}

/// Datagrams (or trains) in one recvmmsg.
const RECEIVES: usize = 16;
/// Bytes for one datagram or train: the longest that UDP carries.
pub(super) const DATAGRAM: usize = 65_536;

impl Receiver {
    pub(super) fn new() -> Self {
        // SAFETY: mmsghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        let (header, iovec) = unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::iovec>()) };
        Self {
            headers: vec![header; RECEIVES].into(),
            iovecs: vec![iovec; RECEIVES].into(),
            controls: vec![Control::default(); RECEIVES].into(),
            names: vec![Name::default(); RECEIVES].into(),
            buffers: vec![0; RECEIVES * DATAGRAM].into(),
            next: 0,
            filled: 0,
        }
    }

    /// Forgets what was received and not handed out.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
        self.next = 0;
    }

    /// Whether something received waits to be handed out.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.filled
    }

    /// Whether the last call filled every buffer, so that more may be there.
    pub(super) fn was_full(&self) -> bool {
        self.filled == RECEIVES
    }

    /// The next datagram that was received, as bytes, control, name and whether it was cut.
    pub(super) fn next(&mut self) -> Option<Arrived<'_>> {
        let slot = self.next;
        if slot >= self.filled {
            return None;
        }
        self.next += 1;
        let header = &self.headers[slot];
        let len = (header.msg_len as usize).min(DATAGRAM);
        let control = header.msg_hdr.msg_controllen.min(CONTROL);
        let name_len = (header.msg_hdr.msg_namelen as usize).min(NAME);
        Some(Arrived {
            bytes: &mut self.buffers[slot * DATAGRAM..slot * DATAGRAM + len],
            control: &self.controls[slot].as_mut_bytes()[..control],
            remote: name::read(&self.names[slot].as_mut_bytes()[..name_len]),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Fills the buffers with what is there. Only when everything was handed out.
    pub(super) fn fill(&mut self, socket: &WireSocket) -> Result<usize, Errno> {
        debug_assert!(!self.has_more());
        self.clear();
        let named = socket.remote().is_none();
        for slot in 0..RECEIVES {
            self.iovecs[slot] =
                libc::iovec { iov_base: self.buffers[slot * DATAGRAM..].as_mut_ptr().cast(), iov_len: DATAGRAM };
            let header = &mut self.headers[slot].msg_hdr;
            header.msg_iov = &raw mut self.iovecs[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[slot].as_mut_bytes().as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
            header.msg_name = if named { self.names[slot].as_mut_bytes().as_mut_ptr().cast() } else { null_mut() };
            header.msg_namelen = if named { NAME as _ } else { 0 };
            header.msg_flags = 0;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: all RECEIVES headers were just filled: each points to one iovec over its own DATAGRAM bytes of
        // `buffers`, to its own control buffer and address, with their true lengths; all are boxed in `self`, which is
        // borrowed for the call, and nothing of them is lent out (`Arrived` borrows `self`). No timeout is given.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                RECEIVES as _,
                libc::MSG_DONTWAIT as _,
                null::<libc::timespec>().cast_mut(),
            )
        };
        self.filled = usize::try_from(count).map_err(|_| last_errno())?;
        Ok(self.filled)
    }
}

/// One datagram or train.
pub(super) struct Arrived<'a> {
    pub(super) bytes: &'a mut [u8],
    pub(super) control: &'a [u8],
    /// `None` on a connected socket.
    pub(super) remote: Option<SocketAddr>,
    pub(super) truncated: bool,
}

/// Why no more frames were handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There was none.
    Empty,
    /// The pipeline had enough, or the turn was over: there may be more.
    Enough,
    /// The interface was deleted, or the other end of the pair closed.
    Gone,
}

/// Reads from the TUN, with the one buffer that stays warm in the cache.
pub(super) struct TunPort {
    buffer: Box<[u8]>,
    /// A frame that was read, and that the pipeline wants again.
    kept: Option<usize>,
}

impl TunPort {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; FRAME].into(), kept: None }
    }

    /// Forgets the frame that was kept.
    pub(super) fn clear(&mut self) {
        self.kept = None;
    }

    /// Whether a frame waits to be handed out again.
    pub(super) fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Hands out frames: how many, and why no more.
    pub(super) fn read(
        &mut self,
        tun: BorrowedFd<'_>,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&mut [u8]) -> Step,
    ) -> (usize, Why) {
        for count in 0..TUN_READS {
            let len = match self.kept.take() {
                Some(len) => len,
                None => match rustix::io::read(tun, &mut self.buffer[..]) {
                    Err(Errno::AGAIN) => return (count, Why::Empty),
                    Err(Errno::INTR) => continue,
                    Ok(0) => {
                        observer.trouble(Trouble::Tun(libc::EPIPE));
                        return (count, Why::Gone);
                    }
                    Ok(len) => len,
                    // An interface that is down has nothing to read; one that fails has been deleted.
                    Err(error) => {
                        observer.trouble(Trouble::Tun(error.raw_os_error()));
                        return (count, Why::Gone);
                    }
                },
            };
            match each(&mut self.buffer[..len]) {
                Step::More => {}
                Step::Stop => return (count + 1, Why::Enough),
                Step::Again => {
                    self.kept = Some(len);
                    return (count, Why::Enough);
                }
            }
        }
        (TUN_READS, Why::Enough)
    }

    /// Writes the batch and clears it.
    pub(super) fn write(tun: Option<BorrowedFd<'_>>, observer: &mut dyn Observer, batch: &mut TunBatch) {
        for frame in batch.frames() {
            let packets = packets_in(frame);
            let Some(tun) = tun else {
                observer.dropped(DropReason::TunError, packets);
                continue;
            };
            loop {
                match rustix::io::write(tun, frame) {
                    Ok(_) => observer.written(packets),
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN | Errno::NOBUFS) => observer.dropped(DropReason::TunFull, packets),
                    // Not the packets, but their being joined may be what this kernel does not take.
                    Err(error @ (Errno::INVAL | Errno::IO)) if packets > 1 => {
                        resplit::write_singly(frame, packets, error, observer, &mut |single| rustix::io::write(tun, single));
                    }
                    Err(error) => {
                        observer.dropped(DropReason::TunError, packets);
                        observer.trouble(Trouble::Tun(error.raw_os_error()));
                    }
                }
                break;
            }
        }
        batch.clear();
    }
}

/// How many packets a frame of ours stands for.
fn packets_in(frame: &[u8]) -> u64 {
    match VnetHeader::parse(frame) {
        Some(header) if header.gso_type != GSO_NONE && header.gso_size > 0 => {
            let payload = frame.len().saturating_sub(VNET_HDR_LEN + usize::from(header.hdr_len));
            payload.div_ceil(usize::from(header.gso_size)).max(1) as u64
        }
        _ => 1,
    }
}

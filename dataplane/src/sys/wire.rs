//! The direct calls of both engines: one sendmmsg for all runs of a batch, UDP_SEGMENT for runs of several, and what is
//! tried next when the kernel refuses; recvmmsg into a few buffers that stay in the cache; the TUN's read and write.
//! Nothing here waits.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::{null, null_mut};

use link::message::Path;
use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::{Run, WireBatch};
use crate::sys::cmsg::{self, CONTROL, Control};
#[cfg(feature = "faults")]
use crate::sys::faults;
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

/// The arrays that sendmmsg reads, allocated once. Between two calls the headers hold lengths; their pointers are
/// written by [`aim`](Self::aim) just before a call, so that none of them outlives a borrow of what it points to.
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
            let message = Message::of(run);
            self.fill(count, name_for(socket, &message), &message, bytes);
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
                // A run never says more packets than it holds; if one did, they would be missed here.
                observer.dropped(DropReason::SocketError, (run.count - index) as u64);
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
            self.fill(0, name_for(socket, message), message, bytes);
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

    /// Writes slot `slot` of the arrays: all but the pointers into them. `name`: where to, on a socket that is not
    /// connected. `bytes` must live until the call that sends the slot.
    fn fill(&mut self, slot: usize, name: Option<SocketAddr>, message: &Message, bytes: &[u8]) {
        let payload = &bytes[message.start..message.start + message.len];
        let segment = (message.count > 1).then_some(message.segment).and_then(|size| u16::try_from(size).ok());
        let local = message.path.local.filter(|_| name.is_some()).map(|local| (local, scope(local, &message.path)));
        let control = self.controls[slot].write(segment, local);
        let name = name.map_or(0, |name| self.names[slot].write(name));
        self.iovecs[slot] = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_controllen = control as _;
        header.msg_namelen = name as _;
    }

    /// Points the first `count` headers at their slots. Every pointer comes from one borrow of the whole array, and
    /// nothing borrows the arrays again before the call: so all of them are valid in it.
    fn aim(&mut self, count: usize) -> *mut libc::mmsghdr {
        let (iovecs, controls, names) = (self.iovecs.as_mut_ptr(), self.controls.as_mut_ptr(), self.names.as_mut_ptr());
        for (slot, header) in self.headers.iter_mut().take(count).enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_iov = iovecs.wrapping_add(slot);
            header.msg_iovlen = 1;
            header.msg_control =
                if header.msg_controllen == 0 { null_mut() } else { controls.wrapping_add(slot).cast() };
            header.msg_name = if header.msg_namelen == 0 { null_mut() } else { names.wrapping_add(slot).cast() };
        }
        self.headers.as_mut_ptr()
    }

    /// sendmmsg of the first `count` slots, all of which were filled since the last call from bytes that still live.
    fn transmit(&mut self, socket: &WireSocket, count: usize) -> Result<usize, Errno> {
        let count = count.min(self.headers.len());
        if count == 0 {
            return Ok(0);
        }
        #[cfg(feature = "faults")]
        let count = faults::send(count, self.headers[0].msg_hdr.msg_controllen > 0)?;
        let fd = socket.as_fd().as_raw_fd();
        let headers = self.aim(count);
        // SAFETY: `headers` points to at least `count` headers (clamped above). `aim` pointed each of them to its own
        // iovec, control buffer and name: elements `slot < count <= SLOTS` of arrays of `SLOTS`, boxed in `self`, which
        // stays mutably borrowed, and not touched in between. `Control` and `Name` begin with their only field, the
        // bytes, of which `msg_controllen <= CONTROL` and `msg_namelen <= NAME` were written. Each iovec was written by
        // `fill` in the same call of `send_some` or `try_send`, from a slice that the caller borrows until we return,
        // with the slice's length. The kernel reads all of these; it writes nothing but `msg_len` of the headers.
        let sent = unsafe { libc::sendmmsg(fd, headers, count as _, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| last_errno())
    }
}

/// The name that a message needs: none on a connected socket.
fn name_for(socket: &WireSocket, message: &Message) -> Option<SocketAddr> {
    socket.remote().is_none().then(|| socket.in_family(message.path.remote))
}

/// The interface that an answer is bound to: only where the address means nothing without it. Otherwise the routes say where it leaves by,
/// which need not be where the question came in.
fn scope(local: IpAddr, path: &Path) -> u32 {
    match local {
        IpAddr::V6(local) if local.is_unicast_link_local() => path.ifindex,
        _ => 0,
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
    /// How many the last call asked for.
    asked: usize,
    /// How many the next one will ask for.
    width: usize,
}

/// Datagrams in one recvmmsg.
const RECEIVES: usize = 16;
/// Trains in one recvmmsg: 256 KiB, which are still in the second-level cache when the last of them is opened.
const TRAINS: usize = 4;
/// From so many bytes on, on average, what comes is trains.
const TRAIN_BYTES: usize = 8192;
/// Datagrams or trains in one turn: enough to amortise the rest of the loop, few enough to keep the TUN waiting shortly.
const TURN: usize = 64;
/// From one buffer to the next: not a power of two, which would put the beginnings of all into the same cache sets.
const STRIDE: usize = DATAGRAM + 33 * 64;
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
            buffers: vec![0; RECEIVES * STRIDE].into(),
            next: 0,
            filled: 0,
            asked: 0,
            width: TRAINS,
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

    /// Hands out what there is, at most a turn's worth: how many, and why no more.
    pub(super) fn receive(
        &mut self,
        socket: &WireSocket,
        path: &Path,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(Train<'_>) -> Step,
    ) -> (usize, Why) {
        let mut short = false;
        for count in 0..TURN {
            if !self.has_more() {
                if short {
                    return (count, Why::Short);
                }
                match self.fill(socket) {
                    Ok(0) | Err(Errno::AGAIN) => return (count, Why::Empty),
                    Ok(filled) => short = filled < self.asked,
                    Err(Errno::INTR) => continue,
                    // Often what ICMP said of an earlier datagram; behind it there may be more.
                    Err(error) => {
                        observer.trouble(Trouble::Socket(error.raw_os_error()));
                        return (count, Why::Enough);
                    }
                }
            }
            if let Some(arrived) = self.next()
                && hand_out(arrived, path, observer, each) != Step::More
            {
                return (count + 1, Why::Enough);
            }
        }
        (TURN, Why::Enough)
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
            bytes: &mut self.buffers[slot * STRIDE..slot * STRIDE + len],
            control: &self.controls[slot].as_mut_bytes()[..control],
            remote: name::read(&self.names[slot].as_mut_bytes()[..name_len]),
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }

    /// Fills the buffers with what is there. Only when everything was handed out.
    pub(super) fn fill(&mut self, socket: &WireSocket) -> Result<usize, Errno> {
        debug_assert!(!self.has_more());
        self.clear();
        self.asked = self.width;
        #[cfg(feature = "faults")]
        faults::receive()?;
        let headers = self.aim(socket.remote().is_none());
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: `asked` is at most RECEIVES, and `headers` points to RECEIVES headers, each of which `aim` has just pointed to its own iovec over its
        // own DATAGRAM bytes of `buffers`, to its own control buffer of CONTROL bytes and, when named, to its own name
        // of NAME bytes (`Control` and `Name` begin with their only field), with these lengths. All are boxed in
        // `self`, which stays mutably borrowed, and nothing of them is lent out (`Arrived` borrows `self`). Whatever
        // bytes the kernel writes there are valid: they are integers. The null pointer means: no timeout.
        let count = unsafe {
            libc::recvmmsg(fd, headers, self.asked as _, libc::MSG_DONTWAIT as _, null::<libc::timespec>().cast_mut())
        };
        self.filled = usize::try_from(count).map_err(|_| last_errno())?;
        let bytes: usize = self.headers.iter().take(self.filled).map(|header| header.msg_len as usize).sum();
        self.width = if bytes >= self.filled * TRAIN_BYTES { TRAINS } else { RECEIVES };
        Ok(self.filled)
    }

    /// Points every header at its slot, as [`Sender::aim`] does.
    fn aim(&mut self, named: bool) -> *mut libc::mmsghdr {
        let (controls, names) = (self.controls.as_mut_ptr(), self.names.as_mut_ptr());
        let buffers = self.buffers.as_mut_ptr();
        for (slot, iovec) in self.iovecs.iter_mut().enumerate() {
            let iov_base = buffers.wrapping_add(slot * STRIDE).cast();
            *iovec = libc::iovec { iov_base, iov_len: DATAGRAM };
        }
        let iovecs = self.iovecs.as_mut_ptr();
        for (slot, header) in self.headers.iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_iov = iovecs.wrapping_add(slot);
            header.msg_iovlen = 1;
            header.msg_control = controls.wrapping_add(slot).cast();
            header.msg_controllen = CONTROL as _;
            header.msg_name = if named { names.wrapping_add(slot).cast() } else { null_mut() };
            header.msg_namelen = if named { NAME as _ } else { 0 };
            header.msg_flags = 0;
        }
        self.headers.as_mut_ptr()
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

/// Gives one received train to the pipeline, with its path.
fn hand_out(
    arrived: Arrived<'_>,
    path: &Path,
    observer: &mut dyn Observer,
    each: &mut dyn FnMut(Train<'_>) -> Step,
) -> Step {
    if arrived.truncated {
        observer.dropped(DropReason::Truncated, 1);
        return Step::More;
    }
    let beside = cmsg::read(arrived.control);
    let mut path = *path;
    if let Some(remote) = arrived.remote {
        path.remote = remote;
        path.local = beside.local;
        path.ifindex = beside.ifindex;
    }
    let segment = beside.segment.unwrap_or(arrived.bytes.len());
    each(Train { bytes: arrived.bytes, segment, path })
}

/// Why no more was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There was none, so whatever comes now wakes a poll.
    Empty,
    /// The last call brought less than it could have taken: most likely there is no more. An error after the last datagram looks
    /// the same, and behind it there may be some that no poll is woken for, because the queue was not empty when they came.
    Short,
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
                None => match read_frame(tun, &mut self.buffer) {
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
                match write_frame(tun, frame) {
                    Ok(len) if len == frame.len() => observer.written(packets),
                    // A TUN takes a frame whole or not at all; of one that was cut, nobody can read the packets.
                    Ok(_) => {
                        observer.dropped(DropReason::TunError, packets);
                        observer.trouble(Trouble::Tun(libc::EMSGSIZE));
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN | Errno::NOBUFS) => observer.dropped(DropReason::TunFull, packets),
                    // Not the packets, but their being joined may be what this kernel does not take.
                    Err(error @ (Errno::INVAL | Errno::IO)) if packets > 1 => {
                        resplit::write_singly(frame, packets, error, observer, &mut |single| {
                            rustix::io::write(tun, single)
                        });
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

fn read_frame(tun: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    #[cfg(feature = "faults")]
    faults::read_tun()?;
    rustix::io::read(tun, buffer)
}

fn write_frame(tun: BorrowedFd<'_>, frame: &[u8]) -> Result<usize, Errno> {
    #[cfg(feature = "faults")]
    if let Some(outcome) = faults::write_tun(frame.len()) {
        return outcome;
    }
    rustix::io::write(tun, frame)
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

#[cfg(test)]
mod tests {
    //! What the kernel would do with the arrays, done here: Miri (`cargo +nightly miri test -p dataplane --lib wire`)
    //! sees every pointer that it follows.

    use super::*;
    use crate::networkio::gso::MAX_UDP_PAYLOAD;
    use crate::sys::cmsg;

    fn path(port: u16) -> Path {
        Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
    }

    /// A message as sendmmsg sees it: payload, control, name.
    type Seen = (Vec<u8>, Vec<u8>, Vec<u8>);

    fn copied(start: *const libc::c_void, len: usize) -> Vec<u8> {
        if start.is_null() {
            assert_eq!(len, 0, "a length without bytes");
            return Vec::new();
        }
        // SAFETY: the callers pass what `aim` wrote: an array that is boxed in a value that they still hold mutably and
        // do not touch until they are done, and a length that lies within it.
        unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) }.to_vec()
    }

    /// Reads the first `count` messages as sendmmsg(2) does.
    fn as_sent(sender: &mut Sender, count: usize) -> Vec<Seen> {
        let headers = sender.aim(count);
        let message = |slot| {
            // SAFETY: `aim` gives `SLOTS` headers, `slot < count <= SLOTS`, each pointing to one iovec; the sender is
            // borrowed for the whole function and not used but through these pointers.
            let (header, iovec) = unsafe {
                let header = &(*headers.add(slot)).msg_hdr;
                assert_eq!(header.msg_iovlen, 1);
                (header, *header.msg_iov)
            };
            let control = copied(header.msg_control, header.msg_controllen);
            (copied(iovec.iov_base, iovec.iov_len), control, copied(header.msg_name, header.msg_namelen as usize))
        };
        (0..count).map(message).collect()
    }

    #[test]
    fn the_kernel_finds_payload_control_and_name_of_every_message() {
        let mut sender = Sender::new();
        let bytes: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        // Twice: the second time every slot was used before, by messages of the other kind.
        for connected in [false, true] {
            let messages: Vec<Message> = (0..SLOTS)
                .map(|n| {
                    let local = (n % 2 == 0).then_some([198, 51, 100, n as u8].into());
                    let path = Path { local, ifindex: 7, ..path(n as u16 + 1) };
                    Message { start: n * 100, len: 90 + n, segment: 30, count: 1 + n % 3, path }
                })
                .collect();
            for (slot, message) in messages.iter().enumerate() {
                sender.fill(slot, (!connected).then_some(message.path.remote), message, &bytes);
            }
            for (message, (payload, control, name)) in messages.iter().zip(as_sent(&mut sender, SLOTS)) {
                assert_eq!(payload, bytes[message.start..message.start + message.len]);
                let mut expected = Control::default();
                // The interface of a path is that of the question: it binds no answer that its address does not bind.
                let local = message.path.local.filter(|_| !connected).map(|local| (local, 0));
                let len = expected.write((message.count > 1).then_some(30), local);
                assert_eq!(control, expected.as_mut_bytes()[..len]);
                assert_eq!(name::read(&name), (!connected).then_some(message.path.remote));
            }
        }
    }

    #[test]
    fn singles_of_a_run_are_its_packets_and_no_more() {
        let run = Message { start: 10, len: 250, segment: 100, count: 3, path: path(1) };
        let singles: Vec<_> = (0..4).map_while(|n| run.single(n)).map(|m| (m.start, m.len, m.count)).collect();
        assert_eq!(singles, [(10, 100, 1), (110, 100, 1), (210, 50, 1)]);
        assert!(run.single(usize::MAX).is_none());
    }

    /// The address that datagram `slot` asked. Of an IPv4 one the kernel writes another field than it reads.
    fn local(slot: usize) -> std::net::IpAddr {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, slot as u16].into()
    }

    /// Writes a datagram as recvmmsg(2) does; as many as there are slots.
    fn receive(receiver: &mut Receiver, named: bool, payload: impl Fn(usize) -> Vec<u8>) {
        receiver.clear();
        let headers = receiver.aim(named);
        for slot in 0..RECEIVES {
            let bytes = payload(slot);
            let mut control = Control::default();
            let control_len = control.write(None, Some((local(slot), 3)));
            let mut name = Name::default();
            let name_len = name.write(([192, 0, 2, 1], slot as u16 + 1).into());
            // SAFETY: `aim` gives RECEIVES headers, `slot` is one of them; each points to one iovec of DATAGRAM bytes, a
            // control buffer of CONTROL bytes and a name of NAME bytes or null, as their lengths (asserted) say, all in
            // the receiver, which is borrowed for the whole function and not used but through these pointers.
            unsafe {
                let header = &mut *headers.add(slot);
                let iovec = *header.msg_hdr.msg_iov;
                assert_eq!((iovec.iov_len, header.msg_hdr.msg_controllen), (DATAGRAM, CONTROL));
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), iovec.iov_base.cast(), bytes.len());
                let source = control.as_mut_bytes().as_ptr();
                std::ptr::copy_nonoverlapping(source, header.msg_hdr.msg_control.cast(), control_len);
                if named {
                    assert_eq!(header.msg_hdr.msg_namelen as usize, NAME);
                    let source = name.as_mut_bytes().as_ptr();
                    std::ptr::copy_nonoverlapping(source, header.msg_hdr.msg_name.cast(), name_len);
                }
                header.msg_len = bytes.len() as u32;
                header.msg_hdr.msg_controllen = control_len as _;
                header.msg_hdr.msg_namelen = if named { name_len as _ } else { 0 };
                header.msg_hdr.msg_flags = if slot == 3 { libc::MSG_TRUNC } else { 0 };
            }
        }
        receiver.filled = RECEIVES;
    }

    #[test]
    fn what_the_kernel_wrote_is_handed_out_slot_by_slot() {
        let mut receiver = Receiver::new();
        for (round, named) in [true, false, true].into_iter().enumerate() {
            let payload = |slot: usize| vec![(slot + round) as u8; if slot == 5 { MAX_UDP_PAYLOAD } else { slot }];
            receive(&mut receiver, named, payload);
            for slot in 0..RECEIVES {
                let arrived = receiver.next().unwrap();
                assert_eq!(arrived.bytes, payload(slot));
                // The pipeline opens in place.
                arrived.bytes.fill(0xff);
                assert_eq!(cmsg::read(arrived.control).local, Some(local(slot)));
                assert_eq!(arrived.remote, named.then(|| ([192, 0, 2, 1], slot as u16 + 1).into()));
                assert_eq!(arrived.truncated, slot == 3);
            }
            assert!(receiver.next().is_none() && !receiver.has_more());
        }
    }
}

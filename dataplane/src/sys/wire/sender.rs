//! Sending: one sendmmsg for all runs of a batch, UDP_SEGMENT for runs of several, and what is tried next when the kernel
//! refuses. Nothing here waits.

use std::mem::zeroed;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;

use link::message::Path;
use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::networkio::gso::{Run, WireBatch};
use crate::sys::cmsg::Control;
#[cfg(feature = "faults")]
use crate::sys::faults;
use crate::sys::name::Name;
use crate::sys::socket::WireSocket;
use crate::sys::wire::last_errno;
use crate::sys::{Observer, Trouble};

/// Messages in one sendmmsg.
const SLOTS: usize = 64;

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
pub(in crate::sys) struct Sender {
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
    pub(in crate::sys) fn new() -> Self {
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

    pub(in crate::sys) fn set_gso(&mut self, gso: bool) {
        self.gso = gso;
    }

    /// Sends every run of the batch and clears it.
    pub(in crate::sys) fn send(
        &mut self,
        socket: Option<&WireSocket>,
        observer: &mut dyn Observer,
        batch: &mut WireBatch,
    ) {
        match socket {
            Some(socket) => _ = self.send_runs(socket, observer, batch.runs(), batch.bytes()),
            None => observer.dropped(DropReason::SocketError, packets(batch.runs())),
        }
        self.clear(batch);
    }

    /// Clears a batch that was sent, and tells it when the kernel takes no runs any more.
    pub(in crate::sys) fn clear(&self, batch: &mut WireBatch) {
        if !self.gso {
            batch.set_gso(false);
        }
        batch.clear();
    }

    /// Whether the kernel takes runs.
    pub(in crate::sys) fn gso(&self) -> bool {
        self.gso
    }

    /// Sends one datagram.
    pub(in crate::sys) fn send_datagram(
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

    /// Sends these runs. False: the socket is full, and what was left of them was dropped.
    pub(in crate::sys) fn send_runs(
        &mut self,
        socket: &WireSocket,
        observer: &mut dyn Observer,
        mut runs: &[Run],
        bytes: &[u8],
    ) -> bool {
        while !runs.is_empty() {
            let taken = self.send_some(socket, observer, runs, bytes);
            for run in runs.iter().take(taken) {
                observer.sent(run.count as u64, run.len as u64);
            }
            runs = &runs[taken..];
            let Some((first, rest)) = runs.split_first() else {
                return true;
            };
            // Only what stopped the batch is looked at alone: a full batch of SLOTS stops without an error.
            if taken == SLOTS {
                continue;
            }
            if !self.send_stuck(socket, observer, first, bytes) {
                observer.dropped(DropReason::SocketFull, packets(rest));
                return false;
            }
            runs = rest;
        }
        true
    }

    /// Hands up to [`SLOTS`] runs to the kernel; how many it took.
    fn send_some(&mut self, socket: &WireSocket, observer: &mut dyn Observer, runs: &[Run], bytes: &[u8]) -> usize {
        let mut count = 0;
        for run in runs.iter().take(SLOTS) {
            if run.count > 1 && !self.gso {
                break;
            }
            let message = Message::of(run);
            self.fill(count, name_for(socket, &message.path), &message, bytes);
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

    /// The run that the kernel did not take in a batch, or not without a copy. False: the socket is full, stop.
    pub(in crate::sys) fn send_stuck(
        &mut self,
        socket: &WireSocket,
        observer: &mut dyn Observer,
        run: &Run,
        bytes: &[u8],
    ) -> bool {
        let run = &Message::of(run);
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
            self.fill(0, name_for(socket, &message.path), message, bytes);
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
        let local = local_of(&message.path).filter(|_| name.is_some());
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

/// The name that a message to this path needs: none on a connected socket.
pub(in crate::sys) fn name_for(socket: &WireSocket, path: &Path) -> Option<SocketAddr> {
    socket.remote().is_none().then(|| socket.in_family(path.remote))
}

/// The address that an answer on this path leaves from, and the interface that it is bound to: only where the address means nothing
/// without it. Otherwise the routes say where it leaves by, which need not be where the question came in.
pub(in crate::sys) fn local_of(path: &Path) -> Option<(IpAddr, u32)> {
    match path.local? {
        IpAddr::V6(local) if local.is_unicast_link_local() => Some((local.into(), path.ifindex)),
        local => Some((local, 0)),
    }
}

/// What ICMP said of an earlier datagram; the one being sent was not looked at.
pub(in crate::sys) fn pending(error: Errno) -> bool {
    matches!(error, Errno::CONNREFUSED | Errno::HOSTUNREACH)
}

pub(in crate::sys) fn packets(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.count as u64).sum()
}

#[cfg(test)]
mod tests {
    //! What the kernel would do with the arrays, done here: Miri (`cargo +nightly miri test -p dataplane --lib wire`)
    //! sees every pointer that it follows.

    use super::*;
    use crate::sys::name;

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
}

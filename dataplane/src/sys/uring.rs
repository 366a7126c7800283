//! The io_uring engine: multishot receive into a ring of provided buffers, multishot polls for the TUN and the bells,
//! timers, all completed in one place; direct non-blocking calls where a ring entry would complete inline anyway
//! (TUN read and write, sendmmsg), because a system call costs no more than an entry and its completion.
//!
//! Completions are collected first and acted upon second. What is armed stays armed: in the steady state nothing is
//! submitted but the wish to wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use link::message::Path;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::sys::arena::{BufferRing, Lease};
use crate::sys::bell::Bell;
use crate::sys::cmsg::CONTROL;
use crate::sys::name::{self, NAME};
use crate::sys::socket::WireSocket;
use crate::sys::syscall::hand_out;
use crate::sys::tundev::TunQueue;
use crate::sys::wire::{Arrived, DATAGRAM, Sender, TunPort, Why};
use crate::sys::{Engine, EngineInfo, Observer, Step, Trouble, clock};
use crate::tun::coalesce::TunBatch;

/// Buffers for receiving: what may arrive between two turns before the kernel's socket queue has to hold it.
const BUFFERS: u16 = 64;
/// `struct io_uring_recvmsg_out` before every received message: lengths of name, control and payload, and flags.
const OUT_HEADER: usize = 16;
/// A buffer: the header, a name, control messages and the longest train.
const BUFFER: usize = OUT_HEADER + name_room() + CONTROL + DATAGRAM;
/// Submission entries; never more than a handful are used between two submissions.
const ENTRIES: u32 = 32;
/// Completion entries: every buffer, and every poll and timer.
const COMPLETIONS: u32 = 256;

/// The name's room, padded so that control messages stay aligned.
const fn name_room() -> usize {
    NAME.next_multiple_of(8)
}

/// What a completion belongs to. The generation tells the present descriptor's from its predecessor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Ignore = 0,
    Receive = 1,
    Tun = 2,
    Orders = 3,
    Link = 4,
    Timeout = 5,
}

impl Kind {
    fn tag(self, generation: u64) -> u64 {
        (generation << 3) | self as u64
    }

    fn of(tag: u64) -> (Self, u64) {
        let kind = match tag & 7 {
            1 => Kind::Receive,
            2 => Kind::Tun,
            3 => Kind::Orders,
            4 => Kind::Link,
            5 => Kind::Timeout,
            _ => Kind::Ignore,
        };
        (kind, tag >> 3)
    }
}

/// A request that stays armed over many completions.
#[derive(Clone, Copy, Debug, Default)]
struct Armed {
    generation: u64,
    live: bool,
}

/// Messages received and not handed out yet, oldest first. As many as there are buffers fit, so it is never full.
#[derive(Debug)]
struct Pending {
    items: Box<[Option<Lease>]>,
    head: usize,
    len: usize,
}

impl Pending {
    fn new() -> Self {
        Self { items: (0..BUFFERS).map(|_| None).collect(), head: 0, len: 0 }
    }

    fn push(&mut self, lease: Lease) {
        debug_assert!(self.len < self.items.len());
        let at = (self.head + self.len) % self.items.len();
        self.items[at] = Some(lease);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Lease> {
        let lease = self.items.get_mut(self.head)?.take()?;
        self.head = (self.head + 1) % self.items.len();
        self.len -= 1;
        Some(lease)
    }
}

/// See the module's text.
pub struct UringEngine {
    info: EngineInfo,
    // The ring stands before the buffers, so that it is closed before they are unmapped.
    ring: IoUring,
    /// `None` only while dropping.
    buffers: Option<BufferRing>,
    /// What a multishot receive asks for: lengths of name and control. Boxed: the kernel may read it while it is armed.
    request: Box<libc::msghdr>,
    deadline: Box<Timespec>,
    socket: Option<(WireSocket, Path)>,
    tun: Option<TunQueue>,
    orders: Bell,
    link: Option<Bell>,
    pending: Pending,
    receive: Armed,
    tun_poll: Armed,
    orders_poll: Armed,
    link_poll: Armed,
    timeout: Armed,
    armed_ns: u64,
    /// The poll said that the TUN has something, and no read has found it empty since.
    tun_ready: bool,
    /// An error that ended the receive; told at the next call that may tell.
    error: Option<i32>,
    sender: Sender,
    port: TunPort,
}

impl UringEngine {
    /// Sets up the ring and tries everything out that the engine needs, a multishot receive included.
    ///
    /// # Errors
    /// io_uring is refused (ENOSYS, EPERM), or the kernel is too old (before 6.0).
    pub fn new(orders: &Bell) -> io::Result<Self> {
        let (ring, mode) = build_ring()?;
        let mut buffers = BufferRing::new(BUFFERS, BUFFER, 0)?;
        buffers.register(&ring.submitter())?;
        let mut engine = Self {
            info: EngineInfo { name: "io_uring", why: format!("multishot receive and polls, {mode}") },
            ring,
            buffers: Some(buffers),
            request: Box::new(request()),
            deadline: Box::new(Timespec::new()),
            socket: None,
            tun: None,
            orders: orders.try_clone()?,
            link: None,
            pending: Pending::new(),
            receive: Armed::default(),
            tun_poll: Armed::default(),
            orders_poll: Armed::default(),
            link_poll: Armed::default(),
            timeout: Armed::default(),
            armed_ns: u64::MAX,
            tun_ready: false,
            error: None,
            sender: Sender::new(),
            port: TunPort::new(),
        };
        engine.try_out()?;
        engine.arm_polls();
        engine.ring.submit()?;
        Ok(engine)
    }

    /// Receives one datagram from ourselves: a kernel without multishot receive says so now, not later.
    fn try_out(&mut self) -> io::Result<()> {
        let (near, far) = std::os::unix::net::UnixDatagram::pair()?;
        far.send(b"?")?;
        self.arm_receive(near.as_raw_fd());
        self.ring.submit_and_wait(1)?;
        self.collect();
        let heard = self.pending.pop();
        self.cancel_receive();
        let outcome = match heard {
            Some(lease) => {
                self.give_back(lease);
                Ok(())
            }
            None => Err(io::Error::from_raw_os_error(self.error.take().unwrap_or(libc::EOPNOTSUPP))),
        };
        self.error = None;
        outcome
    }

    /// Takes in what completed, without waiting. Nearly free when nothing did.
    fn poll_ring(&mut self) {
        let (taskrun, empty) = {
            let queue = self.ring.submission();
            (queue.taskrun(), queue.is_empty())
        };
        #[cfg(feature = "faults")]
        let empty = empty && !self.disturb();
        if taskrun || !empty {
            // Deferred work runs inside this call. EBUSY and EINTR leave it for the next one.
            let _ = self.ring.submit();
        }
        self.collect();
    }

    fn collect(&mut self) {
        // The completion queue is taken off the ring entry by entry, so that `self` can be used between.
        while let Some(entry) = self.next_completion() {
            let (kind, generation) = Kind::of(entry.user_data());
            let more = cqueue::more(entry.flags());
            match kind {
                Kind::Receive => self.received(&entry, generation, more),
                Kind::Tun if generation == self.tun_poll.generation => {
                    self.tun_ready = true;
                    self.tun_poll.live &= more;
                }
                Kind::Orders => self.orders_poll.live &= more,
                Kind::Link if generation == self.link_poll.generation => self.link_poll.live &= more,
                Kind::Timeout if generation == self.timeout.generation => self.armed_ns = u64::MAX,
                _ => {}
            }
        }
    }

    /// Ends, on order, what is armed; true when something was.
    #[cfg(feature = "faults")]
    fn disturb(&mut self) -> bool {
        use crate::sys::faults;
        let (receive, tun) = (self.receive, self.tun_poll);
        let ends_receive = receive.live && faults::ends_receive();
        if ends_receive {
            self.cancel(Kind::Receive, &receive);
        }
        let ends_poll = tun.live && faults::ends_poll();
        if ends_poll {
            self.cancel(Kind::Tun, &tun);
        }
        ends_receive || ends_poll
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    fn received(&mut self, entry: &cqueue::Entry, generation: u64, more: bool) {
        let current = generation == self.receive.generation;
        if current {
            self.receive.live &= more;
        }
        let result = entry.result();
        #[cfg(feature = "faults")]
        let result = if current { crate::sys::faults::ended(result) } else { result };
        // A buffer may come with an error too: it is ours then, and empty.
        if let (Some(id), Some(buffers)) = (cqueue::buffer_select(entry.flags()), self.buffers.as_mut())
            && let Some(lease) = buffers.take(id, usize::try_from(result).unwrap_or(0))
        {
            match current && result >= 0 {
                true => self.pending.push(lease),
                false => self.give_back(lease),
            }
        }
        let errno = result.checked_neg().filter(|&errno| errno > 0);
        // No buffer left is no error: the datagrams wait in the socket.
        if current && let Some(errno) = errno.filter(|&errno| errno != libc::ENOBUFS && errno != libc::ECANCELED) {
            self.error = Some(errno);
        }
    }

    fn give_back(&mut self, lease: Lease) {
        if let Some(buffers) = self.buffers.as_mut() {
            buffers.give_back(lease);
            buffers.publish();
        }
    }

    /// Queues an entry for the next submission.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what an entry points to must live until it was submitted, or completed where the kernel asks so. The
        // entries made in this file point to nothing but `request` and `deadline`: boxed, never replaced, and declared
        // behind the ring, so that they are freed after it is closed. The kernel copies both when it takes the entry
        // (io_recvmsg_prep_setup, io_timeout_prep), within a system call of this thread, so writing `deadline` between
        // two calls races with nothing. The provided buffers are named by their group only; for those see `Drop`.
        // Descriptors may close earlier: the kernel has its own reference.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
    }

    fn arm_receive(&mut self, fd: RawFd) {
        let group = self.buffers.as_ref().map_or(0, BufferRing::group);
        self.receive = Armed { generation: self.receive.generation + 1, live: true };
        let entry = opcode::RecvMsgMulti::new(Fd(fd), &raw const *self.request, group).build();
        self.push(&entry.user_data(Kind::Receive.tag(self.receive.generation)));
    }

    /// Arms the receive when it has ended: out of buffers, or by an error.
    fn keep_receiving(&mut self) {
        if let Some(fd) = self.socket.as_ref().map(|(socket, _)| socket.as_fd().as_raw_fd())
            && !self.receive.live
            && self.pending.len < usize::from(BUFFERS)
        {
            self.arm_receive(fd);
        }
    }

    /// Arms every poll that is not.
    fn arm_polls(&mut self) {
        if !self.orders_poll.live {
            self.orders_poll = self.arm_poll(self.orders.as_raw_fd(), Kind::Orders, self.orders_poll);
        }
        if let Some(fd) = self.link.as_ref().map(AsRawFd::as_raw_fd)
            && !self.link_poll.live
        {
            self.link_poll = self.arm_poll(fd, Kind::Link, self.link_poll);
        }
        if let Some(fd) = self.tun.as_ref().map(|tun| tun.as_fd().as_raw_fd())
            && !self.tun_poll.live
        {
            self.tun_poll = self.arm_poll(fd, Kind::Tun, self.tun_poll);
        }
    }

    fn arm_poll(&mut self, fd: RawFd, kind: Kind, before: Armed) -> Armed {
        let armed = Armed { generation: before.generation + 1, live: true };
        let entry = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.push(&entry.user_data(kind.tag(armed.generation)));
        armed
    }

    fn cancel(&mut self, kind: Kind, armed: &Armed) {
        if armed.live {
            let entry = opcode::AsyncCancel::new(kind.tag(armed.generation)).build();
            self.push(&entry.user_data(Kind::Ignore.tag(0)));
        }
    }

    /// Ends the receive; what it still brings is of an older generation and goes back unseen.
    fn cancel_receive(&mut self) {
        let armed = self.receive;
        self.cancel(Kind::Receive, &armed);
        self.receive = Armed { generation: armed.generation + 1, live: false };
        while let Some(lease) = self.pending.pop() {
            self.give_back(lease);
        }
        self.settle();
    }

    fn cancel_tun(&mut self) {
        let armed = self.tun_poll;
        self.cancel(Kind::Tun, &armed);
        self.tun_poll = Armed { generation: armed.generation + 1, live: false };
        self.tun_ready = false;
        self.settle();
    }

    /// Lets the kernel carry out cancellations, so that it drops its references to descriptors now.
    fn settle(&mut self) {
        let patience = Timespec::from(Duration::from_millis(1));
        let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience));
        self.collect();
    }

    /// A timer that is set only when the present one would fire too late; it may fire early, which is harmless.
    fn arm_timeout(&mut self, until_ns: u64) {
        if until_ns >= self.armed_ns {
            return;
        }
        if self.armed_ns != u64::MAX {
            let old = opcode::TimeoutRemove::new(Kind::Timeout.tag(self.timeout.generation)).build();
            self.push(&old.user_data(Kind::Ignore.tag(0)));
            // The kernel reads `deadline` when the entry that points to it is submitted: no such entry may wait.
            let _ = self.ring.submit();
        }
        let until = clock::timespec(until_ns);
        *self.deadline = Timespec::new().sec(until.tv_sec as u64).nsec(until.tv_nsec as u32);
        self.timeout.generation += 1;
        self.armed_ns = until_ns;
        let entry = opcode::Timeout::new(&raw const *self.deadline).flags(TimeoutFlags::ABS | TimeoutFlags::BOOTTIME);
        self.push(&entry.build().user_data(Kind::Timeout.tag(self.timeout.generation)));
    }

    fn tell_error(&mut self, observer: &mut dyn Observer) {
        if let Some(errno) = self.error.take() {
            observer.trouble(Trouble::Socket(errno));
        }
    }
}

impl Engine for UringEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn attach_socket(&mut self, socket: WireSocket, path: Path) -> io::Result<()> {
        self.detach_socket();
        self.arm_receive(socket.as_fd().as_raw_fd());
        self.socket = Some((socket, path));
        self.ring.submit()?;
        Ok(())
    }

    fn detach_socket(&mut self) {
        if self.socket.is_some() {
            self.cancel_receive();
            self.socket = None;
        }
    }

    fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        self.detach_tun();
        self.tun = Some(tun);
        self.arm_polls();
        self.ring.submit()?;
        Ok(())
    }

    fn detach_tun(&mut self) {
        if self.tun.is_some() {
            self.port.clear();
            self.cancel_tun();
            self.tun = None;
        }
    }

    fn watch_link(&mut self, bell: Option<Bell>) -> io::Result<()> {
        let armed = self.link_poll;
        self.cancel(Kind::Link, &armed);
        self.link_poll = Armed { generation: armed.generation + 1, live: false };
        self.link = bell;
        self.arm_polls();
        self.ring.submit()?;
        Ok(())
    }

    fn receive(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(Train<'_>) -> Step) -> usize {
        self.poll_ring();
        self.tell_error(observer);
        let Some((socket, path)) = &self.socket else {
            return 0;
        };
        let Some(buffers) = self.buffers.as_mut() else {
            return 0;
        };
        let named = socket.remote().is_none();
        let mut count = 0;
        while let Some(mut lease) = self.pending.pop() {
            count += 1;
            let step = match arrived(buffers.bytes(&mut lease), named) {
                Some(arrived) => hand_out(arrived, path, observer, each),
                // The kernel writes at least the header; what lacks even that is no datagram that anybody can read.
                None => {
                    observer.dropped(DropReason::Truncated, 1);
                    Step::More
                }
            };
            buffers.give_back(lease);
            if step != Step::More {
                break;
            }
        }
        if count > 0 {
            buffers.publish();
        }
        self.keep_receiving();
        count
    }

    fn read_tun(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(&mut [u8]) -> Step) -> usize {
        let Some(tun) = self.tun.as_ref().filter(|_| self.tun_ready || self.port.has_kept()) else {
            return 0;
        };
        let (count, why) = self.port.read(tun.as_fd(), observer, each);
        match why {
            // The poll is edge-triggered: whatever comes after this moment is told again.
            Why::Empty => self.tun_ready = false,
            Why::Enough => {}
            Why::Gone => self.detach_tun(),
        }
        count
    }

    fn send(&mut self, observer: &mut dyn Observer, batch: &mut WireBatch) {
        self.sender.send(self.socket.as_ref().map(|(socket, _)| socket), observer, batch);
    }

    fn send_datagram(&mut self, observer: &mut dyn Observer, path: &Path, bytes: &[u8]) {
        self.sender.send_datagram(self.socket.as_ref().map(|(socket, _)| socket), observer, path, bytes);
    }

    fn write_tun(&mut self, observer: &mut dyn Observer, batch: &mut TunBatch) {
        TunPort::write(self.tun.as_ref().map(AsFd::as_fd), observer, batch);
    }

    fn set_gso(&mut self, gso: bool) {
        self.sender.set_gso(gso);
    }

    fn max_payload(&self) -> Option<usize> {
        self.socket.as_ref()?.0.max_payload()
    }

    fn sleep(&mut self, until_ns: u64) {
        self.collect();
        self.arm_polls();
        self.keep_receiving();
        if self.pending.len > 0 || self.tun_ready || self.port.has_kept() || self.error.is_some() {
            return;
        }
        #[cfg(feature = "faults")]
        crate::sys::faults::rest(self.buffers.as_ref().map_or(0, BufferRing::lent));
        self.arm_timeout(until_ns);
        // A signal is a reason to look.
        let _ = self.ring.submit_and_wait(1);
        self.collect();
    }
}

impl Drop for UringEngine {
    /// The kernel must be done with the buffers before they are unmapped.
    fn drop(&mut self) {
        let done = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        let live = self.receive.live && self.socket.is_some();
        if live {
            self.cancel_receive();
        }
        // A receive that was cancelled earlier may still be under way too: only the kernel knows that there is none.
        if done.is_err()
            && let Some(buffers) = self.buffers.take()
        {
            // A few megabytes are lost at the end of a worker; freed memory would be written into.
            std::mem::forget(buffers);
        }
    }
}

/// The multishot receive's request: room for a name and control messages before the payload.
fn request() -> libc::msghdr {
    // SAFETY: msghdr is lengths and pointers; zero bytes are null pointers and zero lengths.
    let mut request: libc::msghdr = unsafe { std::mem::zeroed() };
    request.msg_namelen = name_room() as libc::socklen_t;
    request.msg_controllen = CONTROL as _;
    request
}

/// Takes a filled buffer apart: header, name, control, payload (io_uring_prep_recvmsg_multishot(3)).
fn arrived(buffer: &mut [u8], named: bool) -> Option<Arrived<'_>> {
    let (header, rest) = buffer.split_at_mut_checked(OUT_HEADER)?;
    let word = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
    let (name_len, control_len, flags) = (word(0)? as usize, word(4)? as usize, word(12)?);
    let (name, rest) = rest.split_at_mut_checked(name_room())?;
    let (control, bytes) = rest.split_at_mut_checked(CONTROL)?;
    Some(Arrived {
        remote: if named { name::read(&name[..name_len.min(NAME)]) } else { None },
        control: &control[..control_len.min(CONTROL)],
        truncated: flags & libc::MSG_TRUNC as u32 != 0,
        bytes,
    })
}

/// Whether this process may use io_uring: containers and `kernel.io_uring_disabled` can forbid it.
///
/// # Errors
/// What io_uring_setup(2) answers.
pub fn available() -> io::Result<()> {
    build_ring().map(drop)
}

/// The best kind of ring that this kernel makes.
fn build_ring() -> io::Result<(IoUring, &'static str)> {
    let deferred = IoUring::builder()
        .setup_cqsize(COMPLETIONS)
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(ENTRIES);
    match deferred {
        Ok(ring) => Ok((ring, "DEFER_TASKRUN")),
        // Before Linux 6.1.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let ring = IoUring::builder()
                .setup_cqsize(COMPLETIONS)
                .setup_coop_taskrun()
                .setup_taskrun_flag()
                .build(ENTRIES)?;
            Ok((ring, "COOP_TASKRUN"))
        }
        Err(error) => Err(error),
    }
}

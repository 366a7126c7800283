//! The io_uring engine: multishot polls for the socket, the TUN and the bells, and a timer, all completed in one place,
//! where one call waits for all of them; direct non-blocking calls where a ring entry would complete inline anyway
//! (recvmmsg, sendmmsg, TUN reads and writes), because a system call costs no more than an entry and its completion; and
//! SENDMSG_ZC for long runs, where the device takes them whole (`sys/zerocopy.rs`). What was measured is in
//! docs/decisions/0007-io-uring-operations.md.
//!
//! Completions are collected first and acted upon second. What is armed stays armed: in the steady state nothing is
//! submitted but the wish to wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, TimeoutFlags, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use link::message::Path;
use rustix::io::Errno;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::{Run, WireBatch};
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::tundev::TunQueue;
use crate::sys::wire::{Receiver, Sender, TunPort, Why, packets, pending};
use crate::sys::zerocopy::ZeroCopy;
use crate::sys::{Engine, EngineInfo, Observer, Step, Trouble, ZeroCopyChoice, clock};
use crate::tun::coalesce::TunBatch;

/// Submission entries; never more than a handful are used between two submissions.
const ENTRIES: u32 = 32;
/// Completion entries: every poll, the timer, and the notifications of all runs that are sent without a copy. The kernel keeps what does
/// not fit.
const COMPLETIONS: u32 = 256;
/// IORING_ENTER_GETEVENTS of linux/io_uring.h.
const GETEVENTS: u32 = 1;
/// How long the end of an engine waits for devices that still read from its buffers. What they read later is never used again.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 10;

/// What a completion belongs to. The generation tells the present descriptor's from its predecessor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Ignore = 0,
    Socket = 1,
    Tun = 2,
    Orders = 3,
    Link = 4,
    Timeout = 5,
    /// Its generation is the slot of the buffer.
    ZeroCopy = 6,
}

impl Kind {
    fn tag(self, generation: u64) -> u64 {
        (generation << 3) | self as u64
    }

    fn of(tag: u64) -> (Self, u64) {
        let kind = match tag & 7 {
            1 => Kind::Socket,
            2 => Kind::Tun,
            3 => Kind::Orders,
            4 => Kind::Link,
            5 => Kind::Timeout,
            6 => Kind::ZeroCopy,
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

/// See the module's text.
pub struct UringEngine {
    info: EngineInfo,
    // The ring stands before what its entries point to, so that it is closed first.
    ring: IoUring,
    deadline: Box<Timespec>,
    socket: Option<(WireSocket, Path)>,
    tun: Option<TunQueue>,
    orders: Bell,
    link: Option<Bell>,
    socket_poll: Armed,
    tun_poll: Armed,
    orders_poll: Armed,
    link_poll: Armed,
    timeout: Armed,
    armed_ns: u64,
    /// The poll said that the socket has something, and no receive has found it empty since.
    socket_ready: bool,
    /// The same of the TUN.
    tun_ready: bool,
    sender: Sender,
    zero_copy: ZeroCopy,
    receiver: Receiver,
    port: TunPort,
    /// Whether to wait for datagrams, and for packets of the TUN.
    listens: (bool, bool),
}

impl UringEngine {
    /// Sets up the ring and tries out the newest thing that the engine needs, a multishot poll.
    ///
    /// # Errors
    /// io_uring is refused (ENOSYS, EPERM), or the kernel is too old (before 5.19).
    pub fn new(orders: &Bell) -> io::Result<Self> {
        let (ring, mode) = build_ring()?;
        let zero_copy = ZeroCopy::new(&ring.submitter());
        let mut engine = Self {
            info: EngineInfo { name: "io_uring", why: format!("multishot polls, {mode}") },
            ring,
            deadline: Box::new(Timespec::new()),
            socket: None,
            tun: None,
            orders: orders.try_clone()?,
            link: None,
            socket_poll: Armed::default(),
            tun_poll: Armed::default(),
            orders_poll: Armed::default(),
            link_poll: Armed::default(),
            timeout: Armed::default(),
            armed_ns: u64::MAX,
            socket_ready: false,
            tun_ready: false,
            sender: Sender::new(),
            zero_copy,
            receiver: Receiver::new(),
            port: TunPort::new(),
            listens: (true, true),
        };
        engine.try_out()?;
        engine.arm_polls();
        engine.ring.submit()?;
        Ok(engine)
    }

    #[cfg(test)]
    pub(super) fn zero_copy_mut(&mut self) -> &mut ZeroCopy {
        &mut self.zero_copy
    }

    /// Polls a socket of our own that has something: a kernel without multishot polls says so now, not later.
    fn try_out(&mut self) -> io::Result<()> {
        let (near, far) = std::os::unix::net::UnixDatagram::pair()?;
        far.send(b"?")?;
        self.socket_poll = self.arm_poll(near.as_raw_fd(), Kind::Socket, self.socket_poll);
        self.ring.submit_and_wait(1)?;
        self.collect();
        let heard = self.socket_ready && self.socket_poll.live;
        self.cancel_socket();
        if heard { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
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
                Kind::Socket if generation == self.socket_poll.generation => {
                    self.socket_ready = true;
                    self.socket_poll.live &= more;
                }
                Kind::Tun if generation == self.tun_poll.generation => {
                    self.tun_ready = true;
                    self.tun_poll.live &= more;
                }
                Kind::Orders => self.orders_poll.live &= more,
                Kind::Link if generation == self.link_poll.generation => self.link_poll.live &= more,
                Kind::Timeout if generation == self.timeout.generation => self.armed_ns = u64::MAX,
                Kind::ZeroCopy => self.zero_copy.completed(generation, entry.result(), entry.flags()),
                _ => {}
            }
        }
    }

    /// Ends, on order, what is armed; true when something was.
    #[cfg(feature = "faults")]
    fn disturb(&mut self) -> bool {
        let mut any = false;
        for (kind, poll) in [(Kind::Socket, self.socket_poll), (Kind::Tun, self.tun_poll)] {
            if poll.live && crate::sys::faults::ends_poll() {
                self.cancel(kind, &poll);
                any = true;
            }
        }
        any
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Queues an entry for the next submission.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what an entry points to must live until it was submitted, or completed where the kernel asks so. The
        // entries made in this file point to nothing but `deadline`, and the message of `transmit_zero_copy`, which see.
        // `deadline` is boxed, never replaced, and declared behind the ring, so that it is freed after it is closed; the
        // kernel copies it when it takes the entry (io_timeout_prep), within a system call of this thread, so writing it
        // between two calls races with nothing. Descriptors may close earlier: the kernel has its own reference.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
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
        if let Some(fd) = self.socket.as_ref().map(|(socket, _)| socket.as_fd().as_raw_fd())
            && self.listens.0
            && !self.socket_poll.live
        {
            self.socket_poll = self.arm_poll(fd, Kind::Socket, self.socket_poll);
        }
        if let Some(fd) = self.tun.as_ref().map(|tun| tun.as_fd().as_raw_fd())
            && self.listens.1
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

    fn cancel_socket(&mut self) {
        let armed = self.socket_poll;
        self.cancel(Kind::Socket, &armed);
        self.socket_poll = Armed { generation: armed.generation + 1, live: false };
        self.socket_ready = false;
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

    /// Sends a batch from this slot's buffer: long runs without a copy, one by one, and what stands between them as ever. So
    /// they reach the wire in their order.
    fn send_zero_copy(&mut self, slot: u16, socket: &WireSocket, observer: &mut dyn Observer, batch: &WireBatch) {
        let (mut runs, bytes) = (batch.runs(), batch.bytes());
        while let Some(at) = runs.iter().position(|run| self.zero_copy.takes(run)).filter(|_| self.sender.gso()) {
            let (before, rest) = runs.split_at(at);
            if !self.sender.send_runs(socket, observer, before, bytes) {
                return observer.dropped(DropReason::SocketFull, packets(rest));
            }
            let Some((run, rest)) = rest.split_first() else { return };
            match self.transmit_zero_copy(slot, socket, run, bytes) {
                Ok(()) => observer.sent(run.count as u64, run.len as u64),
                Err(error) => {
                    // The error of an earlier datagram is told once, and then it is gone from the socket.
                    if pending(error) {
                        observer.trouble(Trouble::Socket(error.raw_os_error()));
                    }
                    if !self.sender.send_stuck(socket, observer, run, bytes) {
                        return observer.dropped(DropReason::SocketFull, packets(rest));
                    }
                }
            }
            runs = rest;
        }
        self.sender.send_runs(socket, observer, runs, bytes);
    }

    /// Hands one run to the kernel, which sends it at once or not at all. Afterwards the kernel may read the run's bytes until it
    /// notifies; all else it has read.
    ///
    /// What the entry points to lives: the message is boxed in `zero_copy`, is written for one run at a time, and not before the kernel
    /// has answered for the one before, which this waits for. `bytes` lie in the buffer of a batch, whose memory does not move; it is borrowed until
    /// `ZeroCopy::part`, which keeps it from everybody while a notification is owed. Were it freed in spite of that (a
    /// panic in between), the kernel would read pages that it holds itself, and write nothing.
    fn transmit_zero_copy(&mut self, slot: u16, socket: &WireSocket, run: &Run, bytes: &[u8]) -> Result<(), Errno> {
        #[cfg(feature = "faults")]
        crate::sys::faults::send(1, true)?;
        let entry = self.zero_copy.aim(slot, socket, run, bytes);
        self.push(&entry.user_data(Kind::ZeroCopy.tag(slot.into())));
        loop {
            let waiting = self.ring.submission().len() as u32;
            // SAFETY: no argument is passed. The entries that are submitted are those that `push` was given. With GETEVENTS the same call
            // brings the notifications that wait to be told.
            let taken = unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting, 0, GETEVENTS, None) };
            self.collect();
            if let Some(outcome) = self.zero_copy.take_outcome() {
                return outcome;
            }
            // EBUSY, EAGAIN and EINTR pass.
            if taken.is_err() {
                std::thread::yield_now();
            }
        }
    }

    /// Waits until the kernel reads no buffer any more, for so long as a device should need at most.
    fn await_notifications(&mut self) {
        let patience = Timespec::from(PATIENCE / TRIES);
        for _ in 0..TRIES {
            if !self.zero_copy.is_read() {
                return;
            }
            let _ = self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&patience));
            self.collect();
        }
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
}

impl Engine for UringEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn listen_to(&mut self, socket: bool, tun: bool) {
        self.listens = (socket, tun);
    }

    fn attach_socket(&mut self, socket: WireSocket, path: Path) -> io::Result<()> {
        self.detach_socket();
        self.zero_copy.fit(&socket);
        self.socket = Some((socket, path));
        self.arm_polls();
        self.ring.submit()?;
        Ok(())
    }

    fn detach_socket(&mut self) {
        if self.socket.is_some() {
            self.receiver.clear();
            self.cancel_socket();
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
        let Some((socket, path)) = self.socket.as_ref().filter(|_| self.socket_ready || self.receiver.has_more())
        else {
            return 0;
        };
        let (count, why) = self.receiver.receive(socket, path, observer, each);
        // The poll is edge-triggered: only what comes after the queue was seen empty is told again.
        self.socket_ready = why != Why::Empty;
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
            Why::Enough | Why::Short => {}
            Why::Gone => self.detach_tun(),
        }
        count
    }

    fn send(&mut self, observer: &mut dyn Observer, batch: &mut WireBatch) {
        if !self.zero_copy.is_on() || !self.sender.gso() {
            return self.sender.send(self.socket.as_ref().map(|(socket, _)| socket), observer, batch);
        }
        let slot = self.zero_copy.slot_for(batch, &self.ring.submitter());
        // Taken out, so that `self` can be used between; put back in any case.
        match (slot, self.socket.take()) {
            (Some(slot), Some((socket, path))) => {
                self.send_zero_copy(slot, &socket, observer, batch);
                self.sender.clear(batch);
                self.socket = Some((socket, path));
            }
            (_, attached) => {
                self.sender.send(attached.as_ref().map(|(socket, _)| socket), observer, batch);
                self.socket = attached;
            }
        }
        self.zero_copy.part(batch);
        if self.zero_copy.gives_up() {
            observer.trouble(Trouble::ZeroCopyLost);
        }
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

    fn set_zero_copy(&mut self, choice: ZeroCopyChoice) {
        self.zero_copy.set_choice(choice);
    }

    fn zero_copy(&self) -> bool {
        self.socket.is_some() && self.sender.gso() && self.zero_copy.is_on()
    }

    fn max_payload(&self) -> Option<usize> {
        self.socket.as_ref()?.0.max_payload()
    }

    fn sleep(&mut self, until_ns: u64) {
        self.collect();
        self.arm_polls();
        if self.socket_ready || self.tun_ready || self.receiver.has_more() || self.port.has_kept() {
            return;
        }
        self.arm_timeout(until_ns);
        // A signal is a reason to look.
        let _ = self.ring.submit_and_wait(1);
        self.collect();
    }
}

impl Drop for UringEngine {
    /// Polls hold a reference to what they watch, and a ring that is closed ends them late: who binds the port or opens the
    /// TUN next would find it taken. Where the kernel cannot cancel at once (before 6.0), it is late.
    fn drop(&mut self) {
        self.detach_socket();
        self.detach_tun();
        let _ = self.ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        self.await_notifications();
    }
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

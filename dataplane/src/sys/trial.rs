//! Single operations of io_uring beside the direct calls they compete with, for the benchmark of operations; no engine
//! uses this file, and it is compiled only with the feature `trial`. What belongs here is what needs `unsafe`: rings,
//! entries and the memory they point to. What is compared with what, and how often, is the benchmark's.
//!
//! Every answer is an errno or success: an operation that the kernel does not know is a result.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Fixed, Napi, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use crate::sys::arena::BufferRing;
use crate::sys::cmsg::{CONTROL, Control};
use crate::sys::socket::{WireSocket, get_int, set_int};
use crate::sys::wire::Receiver;
use crate::sys::zerocopy;

pub mod doorbell;

/// Operations of one batch, and slots of memory for them.
pub const BATCH: usize = 32;
/// Bytes of a slot: the longest frame or datagram, and `struct io_uring_recvmsg_out` with its control messages.
const SLOT: usize = 66_560;
/// Submission and completion entries.
const ENTRIES: u32 = 64;
const COMPLETIONS: u32 = 256;
/// A completion that has not come after this time will not come.
const PATIENCE: Duration = Duration::from_millis(500);
/// Tags of entries: slots count from 0.
const TAG_MULTISHOT: u64 = 1 << 32;
const TAG_CANCEL: u64 = 2 << 32;

/// How a ring runs its deferred work (io_uring_setup(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// IORING_SETUP_SINGLE_ISSUER with IORING_SETUP_DEFER_TASKRUN: only when completions are asked for.
    Deferred,
    /// IORING_SETUP_COOP_TASKRUN: in whatever system call comes next.
    Cooperative,
    /// No flag: the thread is interrupted for it.
    Plain,
    /// IORING_SETUP_SQPOLL: a kernel thread submits, and sleeps after a second without work.
    SqPoll,
}

/// An operation that completes once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// IORING_OP_READ.
    Read,
    /// IORING_OP_READ_FIXED on a registered file.
    ReadFixed,
    /// IORING_OP_WRITE.
    Write,
    /// IORING_OP_WRITE_FIXED on a registered file.
    WriteFixed,
    /// IORING_OP_RECVMSG.
    ReceiveMessage,
    /// IORING_OP_SENDMSG.
    SendMessage,
    /// IORING_OP_SENDMSG_ZC; complete when the notification came.
    SendMessageZc,
    /// IORING_OP_SENDMSG_ZC from a registered buffer (Linux 6.15); complete when the notification came.
    SendMessageZcFixed,
    /// IORING_OP_SEND_ZC from a registered buffer; complete when the notification came.
    SendZcFixed,
}

/// An operation that stays armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multishot {
    /// IORING_OP_READ_MULTISHOT of length 0, as the kernel asks for it, with a buffer ring.
    Read,
    /// The same on a registered file.
    ReadFixedFile,
    /// IORING_OP_RECVMSG, multishot, with a buffer ring.
    ReceiveMessage,
    /// IORING_OP_POLL_ADD, multishot, for POLLIN.
    Poll,
}

/// Memory that entries point to: per slot its bytes, and a message header over them. Boxed, so it never moves.
struct Slots {
    bytes: Box<[u8]>,
    iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
    controls: Box<[Control]>,
    /// What a multishot receive asks for.
    request: Box<libc::msghdr>,
    /// Bytes to write or send from every slot.
    len: usize,
    segment: Option<u16>,
}

impl Slots {
    fn new() -> Self {
        // SAFETY: mmsghdr, msghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        let (header, mut request, iovec) =
            unsafe { (zeroed::<libc::mmsghdr>(), zeroed::<libc::msghdr>(), zeroed::<libc::iovec>()) };
        request.msg_controllen = CONTROL as _;
        Self {
            bytes: vec![0; BATCH * SLOT].into(),
            iovecs: vec![iovec; BATCH].into(),
            headers: vec![header; BATCH].into(),
            controls: vec![Control::default(); BATCH].into(),
            request: Box::new(request),
            len: 0,
            segment: None,
        }
    }

    fn load(&mut self, payload: &[u8], segment: Option<u16>) {
        self.len = payload.len().min(SLOT);
        self.segment = segment;
        for slot in self.bytes.chunks_exact_mut(SLOT) {
            slot[..self.len].copy_from_slice(&payload[..self.len]);
        }
    }

    fn at(&mut self, slot: usize) -> *mut u8 {
        self.bytes[slot * SLOT..(slot + 1) * SLOT].as_mut_ptr()
    }

    /// Makes the slot's header ready for receiving into the whole slot, or for sending what was loaded.
    fn header(&mut self, slot: usize, receive: bool) -> *mut libc::msghdr {
        let (len, control) = match receive {
            true => (SLOT, CONTROL),
            false => (self.len, self.controls[slot].write(self.segment, None)),
        };
        self.iovecs[slot] = libc::iovec { iov_base: self.at(slot).cast(), iov_len: len };
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_iov = &raw mut self.iovecs[slot];
        header.msg_iovlen = 1;
        header.msg_control =
            if control == 0 { null_mut() } else { self.controls[slot].as_mut_bytes().as_mut_ptr().cast() };
        header.msg_controllen = control as _;
        header.msg_flags = 0;
        &raw mut *header
    }
}

/// A ring, one descriptor, and everything its entries point to.
pub struct TrialRing {
    ring: IoUring,
    /// `None` only while dropping.
    slots: Option<Slots>,
    buffers: Option<BufferRing>,
    fd: OwnedFd,
    /// Completions that are still to come for operations that complete once.
    owed: usize,
    armed: Option<(Multishot, bool)>,
    /// Completions of polls that were seen and not asked for yet.
    polled: usize,
}

impl TrialRing {
    /// A ring for this descriptor, which is duplicated.
    ///
    /// # Errors
    /// What io_uring_setup(2) or a registration answers.
    pub fn new(mode: Mode, fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            ring: build(mode)?,
            slots: Some(Slots::new()),
            buffers: None,
            fd: fd.try_clone_to_owned()?,
            owed: 0,
            armed: None,
            polled: 0,
        })
    }

    /// Registers the slots as fixed buffers, and the descriptor as fixed file 0.
    ///
    /// # Errors
    /// What io_uring_register(2) answers.
    pub fn register(&mut self) -> io::Result<()> {
        let submitter = self.ring.submitter();
        submitter.register_files(&[self.fd.as_raw_fd()])?;
        let Some(slots) = self.slots.as_mut() else {
            return Ok(());
        };
        let regions: Vec<libc::iovec> =
            (0..BATCH).map(|slot| libc::iovec { iov_base: slots.at(slot).cast(), iov_len: SLOT }).collect();
        // SAFETY: every region is a slot of `slots.bytes`, which is boxed and is freed only after the ring's requests
        // have ended (see `drop`); the kernel holds the pages themselves for as long as it needs them.
        unsafe { submitter.register_buffers(&regions) }
    }

    /// Registers a buffer ring of `count` buffers (a power of two), each for the longest train or frame, as a multishot
    /// read or receive needs it. The kernel goes round all of them, however few are in use.
    ///
    /// # Errors
    /// What io_uring_register(2) answers.
    pub fn provide_buffers(&mut self, count: u16) -> io::Result<()> {
        let mut buffers = BufferRing::new(count, SLOT, 0)?;
        buffers.register(&self.ring.submitter())?;
        self.buffers = Some(buffers);
        Ok(())
    }

    /// What every slot writes or sends from now on, cut to a slot's size; in segments of so many bytes.
    pub fn load(&mut self, payload: &[u8], segment: Option<u16>) {
        if let Some(slots) = self.slots.as_mut().filter(|_| self.owed == 0) {
            slots.load(payload, segment);
        }
    }

    /// `count` operations (at most [`BATCH`]), submitted together and waited for, zero-copy notifications included.
    ///
    /// # Errors
    /// The first errno among the completions; ETIME when one did not come within half a second.
    pub fn batch(&mut self, op: Op, count: usize) -> Result<(), Errno> {
        if self.owed > 0 {
            return Err(Errno::BUSY);
        }
        for slot in 0..count.min(BATCH) {
            let entry = self.entry(op, slot).user_data(slot as u64);
            self.push(&entry)?;
            self.owed += 1;
        }
        let mut failure = None;
        while self.owed > 0 {
            self.wait(self.owed)?;
            while let Some(completion) = self.ring.completion().next() {
                // A zero-copy send that was taken promises a notification.
                self.owed -= usize::from(!cqueue::more(completion.flags()));
                failure = failure.or(errno(&completion));
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Arms a multishot operation. It is submitted with the next wait.
    ///
    /// # Errors
    /// The submission queue cannot be flushed.
    pub fn arm(&mut self, multishot: Multishot) -> Result<(), Errno> {
        let file = Fd(self.fd.as_raw_fd());
        let entry = match (multishot, &self.slots) {
            (Multishot::Read, _) => opcode::ReadMulti::new(file, 0, 0).build(),
            (Multishot::ReadFixedFile, _) => opcode::ReadMulti::new(Fixed(0), 0, 0).build(),
            (Multishot::ReceiveMessage, Some(slots)) => {
                opcode::RecvMsgMulti::new(file, &raw const *slots.request, 0).build()
            }
            _ => opcode::PollAdd::new(file, libc::POLLIN as u32).multi(true).build(),
        };
        self.push(&entry.user_data(TAG_MULTISHOT))?;
        self.armed = Some((multishot, true));
        Ok(())
    }

    /// Hands the armed operation to the kernel now, outside of what is timed.
    ///
    /// # Errors
    /// What io_uring_enter(2) answers.
    pub fn submit(&mut self) -> Result<(), Errno> {
        self.ring.submit().map(drop).map_err(|error| code(&error))
    }

    /// Waits until the armed read or receive brought `count` buffers, and gives them back at once. Armed again when it
    /// ran out of buffers.
    ///
    /// # Errors
    /// What ended the operation; ETIME when nothing came within half a second.
    pub fn take(&mut self, count: usize) -> Result<(), Errno> {
        let mut got = 0;
        while got < count {
            self.wait(1)?;
            got += self.collect()?;
            if let Some((multishot, false)) = self.armed {
                self.arm(multishot)?;
            }
        }
        Ok(())
    }

    /// Waits until the armed poll says that something is there.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn poll(&mut self) -> Result<(), Errno> {
        while self.polled == 0 {
            if matches!(self.armed, Some((_, false))) {
                self.arm(Multishot::Poll)?;
            }
            self.wait(1)?;
            self.collect()?;
        }
        self.polled = 0;
        Ok(())
    }

    /// Ends the armed operation; what it still brings is thrown away.
    pub fn disarm(&mut self) {
        let cancel = opcode::AsyncCancel::new(TAG_MULTISHOT).build().user_data(TAG_CANCEL);
        for _ in 0..4 {
            if !matches!(self.armed, Some((_, true))) || self.push(&cancel).is_err() || self.wait(1).is_err() {
                break;
            }
            let _ = self.collect();
        }
        let _ = self.ring.submit();
        let _ = self.collect();
        self.polled = 0;
    }

    /// Takes every completion off the queue: how many buffers came.
    fn collect(&mut self) -> Result<usize, Errno> {
        let (mut got, mut failure) = (0, None);
        while let Some(completion) = self.ring.completion().next() {
            if completion.user_data() != TAG_MULTISHOT {
                continue;
            }
            if let Some((_, live)) = &mut self.armed {
                *live = cqueue::more(completion.flags());
            }
            let len = usize::try_from(completion.result()).unwrap_or(0);
            match (cqueue::buffer_select(completion.flags()), self.buffers.as_mut()) {
                (Some(id), Some(buffers)) => {
                    if let Some(lease) = buffers.take(id, len) {
                        buffers.give_back(lease);
                        got += 1;
                    }
                }
                _ => self.polled += usize::from(len > 0),
            }
            failure = failure.or(errno(&completion).filter(|&error| error != Errno::NOBUFS));
        }
        if got > 0 {
            self.buffers.iter_mut().for_each(BufferRing::publish);
        }
        failure.map_or(Ok(got), Err)
    }

    fn entry(&mut self, op: Op, slot: usize) -> squeue::Entry {
        let file = Fd(self.fd.as_raw_fd());
        let Some(slots) = self.slots.as_mut() else {
            return opcode::Nop::new().build();
        };
        let (bytes, len, index) = (slots.at(slot), slots.len as u32, slot as u16);
        match op {
            Op::Read => opcode::Read::new(file, bytes, SLOT as u32).build(),
            Op::ReadFixed => opcode::ReadFixed::new(Fixed(0), bytes, SLOT as u32, index).build(),
            Op::Write => opcode::Write::new(file, bytes, len).build(),
            Op::WriteFixed => opcode::WriteFixed::new(Fixed(0), bytes, len, index).build(),
            Op::ReceiveMessage => opcode::RecvMsg::new(file, slots.header(slot, true)).build(),
            Op::SendMessage => opcode::SendMsg::new(file, slots.header(slot, false)).build(),
            Op::SendMessageZc => opcode::SendMsgZc::new(file, slots.header(slot, false)).build(),
            Op::SendMessageZcFixed => zerocopy::entry(file, slots.header(slot, false), Some(index)),
            Op::SendZcFixed => opcode::SendZc::new(file, bytes, len).buf_index(Some(index)).build(),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Errno> {
        // SAFETY: what an entry points to must live until its completion. The entries of this file point into `slots`
        // (boxed, so it does not move with this value) and name buffers of `buffers`; both are freed only after the
        // ring's requests have ended (see `drop`). A slot is rewritten only while `owed` is 0: no request uses it.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.submit()?;
        }
        Ok(())
    }

    fn wait(&self, want: usize) -> Result<(), Errno> {
        let patience = Timespec::from(PATIENCE);
        match self.ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&patience)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(code(&error)),
        }
    }
}

impl Drop for TrialRing {
    /// The kernel must be done with the memory before it is freed.
    fn drop(&mut self) {
        if self.ring.submitter().register_sync_cancel(None, CancelBuilder::any()).is_ok_and(|()| self.owed == 0) {
            return;
        }
        // Nothing to cancel answers ENOENT.
        if self.owed > 0 || matches!(self.armed, Some((_, true))) {
            std::mem::forget((self.slots.take(), self.buffers.take()));
        }
    }
}

/// recvmmsg(2) as the system-call engine uses it, 16 datagrams or trains at a time.
pub struct DirectReceiver {
    receiver: Receiver,
    socket: WireSocket,
}

impl DirectReceiver {
    /// Receives from this socket.
    pub fn new(socket: WireSocket) -> Self {
        Self { receiver: Receiver::new(), socket }
    }

    /// One call: how many came.
    ///
    /// # Errors
    /// What recvmmsg(2) answers; EAGAIN when there was nothing.
    pub fn receive(&mut self) -> Result<usize, Errno> {
        self.receiver.clear();
        self.receiver.fill(&self.socket)
    }
}

/// sendmmsg(2) of equal datagrams.
pub struct DirectSender {
    slots: Slots,
    fd: OwnedFd,
}

impl DirectSender {
    /// Sends `payload` in segments of so many bytes on this connected socket, which is duplicated.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(fd: BorrowedFd<'_>, payload: &[u8], segment: Option<u16>) -> io::Result<Self> {
        let mut slots = Slots::new();
        slots.load(payload, segment);
        Ok(Self { slots, fd: fd.try_clone_to_owned()? })
    }

    /// `count` datagrams (at most [`BATCH`]) in calls of `at_once`.
    ///
    /// # Errors
    /// What sendmmsg(2) answers; EAGAIN when it took fewer.
    pub fn send(&mut self, count: usize, at_once: usize) -> Result<(), Errno> {
        let mut left = count.min(BATCH);
        while left > 0 {
            let now = left.min(at_once).max(1);
            for slot in 0..now {
                self.slots.header(slot, false);
            }
            // SAFETY: the first `now <= BATCH` headers were just written: each points to one iovec over its own slot and
            // to its own control messages, with their true lengths, all boxed in `slots`, which is borrowed for the
            // call. The kernel reads them and writes nothing but `msg_len` and `msg_flags` of the headers.
            let sent = unsafe {
                libc::sendmmsg(self.fd.as_raw_fd(), self.slots.headers.as_mut_ptr(), now as _, libc::MSG_DONTWAIT)
            };
            match usize::try_from(sent) {
                Ok(sent) if sent == now => left -= now,
                Ok(_) => return Err(Errno::AGAIN),
                Err(_) => return Err(code(&io::Error::last_os_error())),
            }
        }
        Ok(())
    }
}

/// Moves the calling thread into a network namespace of its own, which ends with the thread and its descriptors.
///
/// # Errors
/// What unshare(2) answers: CAP_SYS_ADMIN is needed.
pub fn enter_new_network() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET changes the calling thread's network namespace and no memory or descriptor; no other
    // thread's view changes.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Every send on this socket is cut into segments of so many bytes (UDP_SEGMENT); 0 switches it off.
///
/// # Errors
/// What setsockopt(2) answers.
pub fn set_segment(fd: BorrowedFd<'_>, bytes: u16) -> io::Result<()> {
    set_int(fd, libc::SOL_UDP, libc::UDP_SEGMENT, i32::from(bytes))
}

/// The NAPI instance that brought the socket's last packet (SO_INCOMING_NAPI_ID); 0: none.
///
/// # Errors
/// What getsockopt(2) answers.
pub fn napi_id(fd: BorrowedFd<'_>) -> io::Result<i32> {
    get_int(fd, libc::SOL_SOCKET, libc::SO_INCOMING_NAPI_ID)
}

/// Registers NAPI busy polling of 50 µs with a ring (io_uring_register(2), IORING_REGISTER_NAPI) and unregisters it
/// again: what the kernel read back, in microseconds.
///
/// # Errors
/// What io_uring_register(2) answers.
pub fn try_napi(mode: Mode) -> io::Result<u32> {
    let ring = build(mode)?;
    let mut napi = Napi::new().set_busy_poll_timeout(50);
    ring.submitter().register_napi(&mut napi)?;
    // Unregistering reads back what was set.
    let mut before = Napi::new();
    ring.submitter().unregister_napi(&mut before)?;
    Ok(before.busy_poll_timeout())
}

fn build(mode: Mode) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS);
    match mode {
        Mode::Deferred => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
        Mode::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
        Mode::Plain => &mut builder,
        Mode::SqPoll => builder.setup_sqpoll(1_000),
    };
    builder.build(ENTRIES)
}

fn errno(completion: &cqueue::Entry) -> Option<Errno> {
    // The flags of a notification's result are no errno.
    let notification = cqueue::notif(completion.flags());
    completion.result().checked_neg().filter(|&errno| errno > 0 && !notification).map(Errno::from_raw_os_error)
}

fn code(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    fn pair() -> (UnixDatagram, UnixDatagram) {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn received(socket: &UnixDatagram) -> Vec<Vec<u8>> {
        let mut buffer = [0u8; 256];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())).collect()
    }

    #[test]
    fn a_batch_of_writes_carries_what_was_loaded_in_every_mode() {
        for mode in [Mode::Deferred, Mode::Cooperative, Mode::Plain, Mode::SqPoll] {
            let (near, far) = pair();
            let mut ring = TrialRing::new(mode, near.as_fd()).unwrap();
            ring.register().unwrap();
            ring.load(b"payload", None);
            for op in [Op::Write, Op::WriteFixed, Op::SendMessage] {
                ring.batch(op, 3).unwrap();
                assert_eq!(received(&far), vec![b"payload".to_vec(); 3], "{mode:?} {op:?}");
            }
        }
    }

    #[test]
    fn a_multishot_brings_every_datagram_and_nothing_after_it_was_disarmed() {
        for multishot in [Multishot::ReceiveMessage, Multishot::Poll] {
            let (near, far) = pair();
            let mut ring = TrialRing::new(Mode::Deferred, near.as_fd()).unwrap();
            ring.provide_buffers(64).unwrap();
            ring.arm(multishot).unwrap();
            ring.submit().unwrap();
            for _ in 0..3 {
                far.send(b"datagram").unwrap();
            }
            match multishot {
                Multishot::Poll => ring.poll().unwrap(),
                _ => ring.take(3).unwrap(),
            }
            ring.disarm();
            assert!(matches!(ring.armed, Some((_, false))));
            let taken = received(&near).is_empty();
            assert_eq!(taken, multishot != Multishot::Poll, "a poll takes nothing");
            far.send(b"late").unwrap();
            assert_eq!(received(&near), vec![b"late".to_vec()]);
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_an_errno() {
        let (near, _far) = pair();
        let mut ring = TrialRing::new(Mode::Deferred, near.as_fd()).unwrap();
        ring.load(b"payload", None);
        assert_eq!(ring.batch(Op::WriteFixed, 2), Err(Errno::BADF), "no file is registered");
        assert_eq!(ring.batch(Op::SendMessageZc, 2), Err(Errno::OPNOTSUPP), "not on a Unix socket");
        ring.load(b"again", None);
        assert_eq!(ring.batch(Op::Write, 2), Ok(()), "the ring is still usable");
    }

    #[test]
    fn a_completion_that_does_not_come_is_a_timeout() {
        let (near, _far) = pair();
        let mut ring = TrialRing::new(Mode::Deferred, near.as_fd()).unwrap();
        ring.provide_buffers(64).unwrap();
        ring.arm(Multishot::ReceiveMessage).unwrap();
        assert_eq!(ring.take(1), Err(Errno::TIME));
    }
}

//! Sends without a copy (SENDMSG_ZC): which runs leave so, by which devices, and the buffers that the kernel still reads after the
//! send was answered. The ring itself is the engine's.
//!
//! A batch is sealed into one of a few buffers. When a run of it left without a copy, the batch gets another buffer, and this
//! one stays here until the kernel has notified for every such run that it is done with it; so nobody writes what a device is
//! still to read. What lies there is wire packets, encrypted and authenticated: no plaintext and no key. When all buffers are on their way,
//! a batch is sent by copy, as without this file.

use std::mem::{forget, zeroed};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use io_uring::types::Fd;
use io_uring::{Probe, Submitter, cqueue, opcode, squeue};
use link::message::Path;
use rustix::io::Errno;

use crate::networkio::gso::{Run, WireBatch, WireBuffer};
use crate::sys::cmsg::Control;
use crate::sys::name::Name;
use crate::sys::socket::WireSocket;
use crate::sys::wire::{local_of, name_for};
use crate::sys::{ZeroCopyChoice, device};

/// IORING_RECVSEND_FIXED_BUF and IORING_SEND_ZC_REPORT_USAGE of linux/io_uring.h, flags of a send in `ioprio`.
const FIXED_BUF: u16 = 1 << 2;
const REPORT_USAGE: u16 = 1 << 3;
/// Where `buf_index` stands in `struct io_uring_sqe` (linux/io_uring.h), in bytes.
const BUF_INDEX: usize = 40;
/// Buffers: what a device of 10 Gbit/s still holds when its completions come every 200 µs, and some.
const BUFFERS: u16 = 8;
/// Bytes from which on a run costs less without a copy, from registered buffers and from others (docs/decisions/0007-io-uring-operations.md).
const LEAST_FIXED: usize = 16 << 10;
const LEAST: usize = 32 << 10;
/// So many copies, or refusals, in a row are no accident.
const ENOUGH: u32 = 8;

/// SENDMSG_ZC of the message behind `header`, whose bytes lie in this registered buffer (Linux 6.15), or anywhere.
pub(super) fn entry(fd: Fd, header: *const libc::msghdr, buffer: Option<u16>) -> squeue::Entry {
    let fixed = if buffer.is_some() { FIXED_BUF } else { 0 };
    let send = opcode::SendMsgZc::new(fd, header).ioprio(REPORT_USAGE | fixed).flags(libc::MSG_DONTWAIT as u32);
    let mut entry = send.build();
    if let Some(index) = buffer {
        const { assert!(size_of::<squeue::Entry>() == 64) };
        // SAFETY: an `Entry` is `repr(C)` around one `struct io_uring_sqe` of 64 bytes (asserted), and nothing else; of these the u16 at
        // byte 40, which the alignment of 8 makes aligned, is `buf_index`. The entry is ours and borrowed by nobody.
        unsafe { (&raw mut entry).byte_add(BUF_INDEX).cast::<u16>().write(index) };
    }
    entry
}

/// By which devices runs leave without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Nowhere,
    Anywhere,
    /// By the devices of these interface indexes.
    By(Vec<u32>),
}

impl Way {
    fn is(&self, path: &Path) -> bool {
        match self {
            Way::Nowhere => false,
            Way::Anywhere => true,
            Way::By(devices) => devices.contains(&path.ifindex),
        }
    }
}

/// What the kernel still has to say of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    /// Notifications that are still to come; the kernel reads the buffer until the last of them.
    owed: u32,
    /// Of these, those of sends that failed: they say that nothing left without a copy.
    failed: u32,
}

/// See the module's text.
pub(super) struct ZeroCopy {
    choice: ZeroCopyChoice,
    /// The kernel knows SENDMSG_ZC.
    known: bool,
    way: Way,
    /// The buffers, made when the first batch is sent that can use them.
    pool: Option<Pool>,
    /// The message that is being sent: what the entry points to.
    message: Box<Message>,
    /// How the kernel answered it.
    outcome: Option<i32>,
    /// Notifications in a row that said that the kernel copied after all.
    copied: u32,
    /// Sends in a row that were refused for being sent like this.
    refused: u32,
    /// Runs shorter than this many bytes are copied: from registered buffers, and from others.
    least: (usize, usize),
}

/// Memory of one message. The kernel reads it while it takes the entry.
struct Message {
    header: libc::msghdr,
    iovec: libc::iovec,
    control: Control,
    name: Name,
}

struct Pool {
    /// Distinguishes its buffers from those of other pools.
    id: u32,
    /// Bytes of each buffer.
    size: usize,
    /// The buffers that are here: those that wait for a batch, and those that the kernel reads. A batch has the others.
    buffers: [Option<WireBuffer>; BUFFERS as usize],
    slots: [Slot; BUFFERS as usize],
    /// Those that wait for a batch, the last one warmest in the cache.
    free: Vec<u16>,
    /// They are registered with the ring.
    fixed: bool,
}

impl ZeroCopy {
    pub(super) fn new(submitter: &Submitter<'_>) -> Self {
        let mut probe = Probe::new();
        let known = submitter.register_probe(&mut probe).is_ok() && probe.is_supported(opcode::SendMsgZc::CODE);
        // SAFETY: msghdr and iovec are lengths and pointers; zero bytes are null pointers and zero lengths.
        let (header, iovec) = unsafe { (zeroed::<libc::msghdr>(), zeroed::<libc::iovec>()) };
        let message = Message { header, iovec, control: Control::default(), name: Name::default() };
        Self {
            choice: ZeroCopyChoice::Off,
            known,
            way: Way::Nowhere,
            pool: None,
            message: Box::new(message),
            outcome: None,
            copied: 0,
            refused: 0,
            least: (LEAST_FIXED, LEAST),
        }
    }

    pub(super) fn set_choice(&mut self, choice: ZeroCopyChoice) {
        self.choice = choice;
    }

    /// Finds out whether what this socket sends leaves by a device where it pays.
    pub(super) fn fit(&mut self, socket: &WireSocket) {
        (self.copied, self.refused) = (0, 0);
        self.way = match (self.choice, self.known) {
            (ZeroCopyChoice::Off, _) | (_, false) => Way::Nowhere,
            (ZeroCopyChoice::On, _) => Way::Anywhere,
            (ZeroCopyChoice::Auto, _) if socket.remote().is_some() => match device::segments_for(socket) {
                true => Way::Anywhere,
                false => Way::Nowhere,
            },
            (ZeroCopyChoice::Auto, _) => match device::segmenting(socket.as_fd()) {
                none if none.is_empty() => Way::Nowhere,
                devices => Way::By(devices),
            },
        };
    }

    /// Whether runs may leave without a copy.
    pub(super) fn is_on(&self) -> bool {
        self.way != Way::Nowhere
    }

    /// Whether it has just turned out that it is no use: the kernel copies, or refuses.
    pub(super) fn gives_up(&mut self) -> bool {
        let useless = self.copied >= ENOUGH && self.choice == ZeroCopyChoice::Auto;
        if !self.is_on() || !(useless || self.refused >= ENOUGH) {
            return false;
        }
        self.way = Way::Nowhere;
        true
    }

    /// Whether this run leaves without a copy, where its buffer allows it.
    pub(super) fn takes(&self, run: &Run) -> bool {
        let least = if self.pool.as_ref().is_none_or(|pool| pool.fixed) { self.least.0 } else { self.least.1 };
        run.count > 1 && run.len >= least && self.way.is(&run.path)
    }

    /// The slot of the batch's buffer, when runs of it can leave from there: another one must wait to take its place.
    pub(super) fn slot_for(&mut self, batch: &WireBatch, submitter: &Submitter<'_>) -> Option<u16> {
        if !self.is_on() || !batch.runs().iter().any(|run| self.takes(run)) {
            return None;
        }
        let pool = self.pool.get_or_insert_with(|| Pool::new(batch.buffer().len(), submitter));
        pool.slot_of(batch.buffer()).filter(|_| !pool.free.is_empty())
    }

    /// Makes the message of this run ready, and the entry that sends it. The engine must not do so again before
    /// [`take_outcome`](Self::take_outcome) has answered, nor touch the batch's buffer before [`part`](Self::part).
    pub(super) fn aim(&mut self, slot: u16, socket: &WireSocket, run: &Run, bytes: &[u8]) -> squeue::Entry {
        let name = name_for(socket, &run.path);
        let local = local_of(&run.path).filter(|_| name.is_some());
        let payload = &bytes[run.start..run.start + run.len];
        let message = &mut *self.message;
        let control_len = message.control.write(u16::try_from(run.segment).ok(), local);
        let name_len = name.map_or(0, |name| message.name.write(name));
        message.iovec = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let control: *mut Control = &raw mut message.control;
        let name: *mut Name = &raw mut message.name;
        message.header.msg_iov = &raw mut message.iovec;
        message.header.msg_iovlen = 1;
        message.header.msg_control = if control_len == 0 { null_mut() } else { control.cast() };
        message.header.msg_controllen = control_len as _;
        message.header.msg_name = if name_len == 0 { null_mut() } else { name.cast() };
        message.header.msg_namelen = name_len as _;
        self.outcome = None;
        let fixed = self.pool.as_ref().is_some_and(|pool| pool.fixed).then_some(slot);
        entry(Fd(socket.as_fd().as_raw_fd()), &raw const message.header, fixed)
    }

    /// Takes in a completion of a send from this slot: the kernel's answer, or the notification that follows it.
    pub(super) fn completed(&mut self, slot: u64, result: i32, flags: u32) {
        let Some(pool) = self.pool.as_mut() else { return };
        let Some(at) = usize::try_from(slot).ok().filter(|&at| at < pool.slots.len()) else { return };
        let slot = &mut pool.slots[at];
        if !cqueue::notif(flags) {
            // A send that was taken promises a notification; one that failed mostly does.
            let promised = u32::from(cqueue::more(flags));
            slot.owed += promised;
            slot.failed += if result < 0 { promised } else { 0 };
            self.outcome = Some(result);
            return;
        }
        slot.owed = slot.owed.saturating_sub(1);
        // IORING_NOTIF_USAGE_ZC_COPIED is the highest bit. A send that failed says so too.
        match (result < 0, slot.failed) {
            (true, 0) => self.copied += 1,
            (true, _) => slot.failed -= 1,
            (false, _) => self.copied = 0,
        }
        if slot.owed == 0 {
            slot.failed = 0;
            if pool.buffers[at].is_some() {
                pool.free.push(at as u16);
            }
        }
    }

    /// How the kernel answered the message, when it has.
    pub(super) fn take_outcome(&mut self) -> Option<Result<(), Errno>> {
        let outcome = self.outcome.take()?;
        if outcome >= 0 {
            self.refused = 0;
            return Some(Ok(()));
        }
        let error = Errno::from_raw_os_error(outcome.saturating_neg());
        // SENDMSG_ZC is not for this kernel or socket, or the pages are more than may be locked.
        if matches!(error, Errno::INVAL | Errno::OPNOTSUPP | Errno::NOMEM) {
            self.refused += 1;
            // Before Linux 6.15 it takes no registered buffers.
            if let Some(pool) = self.pool.as_mut().filter(|pool| pool.fixed && error == Errno::INVAL) {
                (pool.fixed, self.refused) = (false, 0);
            }
        }
        Some(Err(error))
    }

    /// The batch was sent: it is cleared, and has a buffer that the kernel does not read.
    pub(super) fn part(&mut self, batch: &mut WireBatch) {
        batch.clear();
        let Some(pool) = self.pool.as_mut().filter(|pool| pool.size == batch.buffer().len()) else { return };
        match pool.slot_of(batch.buffer()) {
            Some(slot) if pool.slots[usize::from(slot)].owed == 0 => {}
            Some(slot) => {
                // There is always one: no run leaves from a batch unless another buffer waits.
                let next = pool.take().unwrap_or_else(|| WireBuffer::new(pool.size));
                pool.buffers[usize::from(slot)] = Some(batch.exchange(next));
            }
            None if self.way != Way::Nowhere => {
                if let Some(next) = pool.take() {
                    drop(batch.exchange(next));
                }
            }
            None => {}
        }
    }

    /// Whether the kernel may still read a buffer.
    pub(super) fn is_read(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.slots.iter().any(|slot| slot.owed > 0))
    }
}

impl Drop for ZeroCopy {
    /// What the kernel still reads is never given back to the allocator, so that nothing else comes to lie where a device reads what it
    /// sends. The engine waits before that, and mostly in time.
    fn drop(&mut self) {
        let Some(pool) = self.pool.as_mut() else { return };
        for (buffer, slot) in pool.buffers.iter_mut().zip(&pool.slots) {
            if slot.owed > 0 {
                forget(buffer.take());
            }
        }
    }
}

impl Pool {
    /// Allocates the buffers and registers them, where the limits allow that so much memory is locked (RLIMIT_MEMLOCK).
    fn new(size: usize, submitter: &Submitter<'_>) -> Self {
        let mut pool = Self::unregistered(size);
        let buffers = pool.buffers.iter_mut().flatten().map(WireBuffer::as_mut_bytes);
        let regions: Vec<libc::iovec> =
            buffers.map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }).collect();
        // SAFETY: every region is a live buffer, whole. The kernel holds references to its pages, and reads them only for sends: those of
        // a buffer that was freed stay the kernel's until the ring is closed, and no send names a buffer but by a slot that
        // `slot_of` found for a buffer of this pool, which is alive because the batch has it.
        pool.fixed = unsafe { submitter.register_buffers(&regions) }.is_ok();
        pool
    }

    fn unregistered(size: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let id = NEXT.fetch_add(1, Relaxed);
        let slot = Slot { owed: 0, failed: 0 };
        Self {
            id,
            size,
            buffers: std::array::from_fn(|at| Some(WireBuffer::tagged(size, (id, at as u16)))),
            slots: [slot; BUFFERS as usize],
            free: (0..BUFFERS).collect(),
            fixed: false,
        }
    }

    fn slot_of(&self, buffer: &WireBuffer) -> Option<u16> {
        buffer.tag().filter(|&(pool, slot)| pool == self.id && slot < BUFFERS).map(|(_, slot)| slot)
    }

    /// A buffer that the kernel does not read.
    fn take(&mut self) -> Option<WireBuffer> {
        let slot = self.free.pop()?;
        self.buffers[usize::from(slot)].take()
    }
}

#[cfg(test)]
mod completions;
#[cfg(test)]
mod tests;

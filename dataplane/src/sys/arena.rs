//! Buffers that the kernel fills. They belong to the engine; what the kernel holds, nobody can name: a buffer of a
//! [`BufferRing`] has no accessor until the kernel gave it back as a [`Lease`], and the lease is consumed when it goes
//! to the kernel again.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Page size that every mapping is a multiple of; larger pages only waste a little.
const PAGE: usize = 4096;

/// Anonymous private memory, zeroed, page-aligned, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let len = len.div_ceil(PAGE).max(1) * PAGE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing that exists.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap answered the null page"))?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are exactly what mmap gave and nothing borrowed from the mapping outlives its owner:
        // every reference handed out borrows the owner of this value, and the kernel's use has ended (see the owners).
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// The provided-buffer ring of an io_uring (io_uring_register_buf_ring(3)): equal buffers from which the kernel takes one
/// for every completion of a multishot receive.
#[derive(Debug)]
pub struct BufferRing {
    entries: Mapping,
    buffers: Mapping,
    count: u16,
    size: usize,
    group: u16,
    /// Our copy of the tail; the shared one is only written.
    tail: u16,
    /// Whether the kernel holds the buffer.
    held: Box<[bool]>,
    registered: bool,
}

/// The right to look into one buffer that the kernel gave back. Consumed by [`BufferRing::give_back`].
#[derive(Debug)]
pub struct Lease {
    id: u16,
    len: usize,
}

impl BufferRing {
    /// `count` buffers (a power of two, at most 32,768) of `size` bytes each, none at the kernel yet.
    ///
    /// # Errors
    /// No memory, or a count that is no power of two.
    pub fn new(count: u16, size: usize, group: u16) -> io::Result<Self> {
        if !count.is_power_of_two() || count > 32_768 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = usize::from(count).checked_mul(size).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            entries: Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?,
            buffers: Mapping::new(bytes)?,
            count,
            size,
            group,
            tail: 0,
            held: vec![false; usize::from(count)].into_boxed_slice(),
            registered: false,
        })
    }

    /// The buffer group's number.
    pub fn group(&self) -> u16 {
        self.group
    }

    /// Registers the ring and hands every buffer to the kernel.
    ///
    /// # Errors
    /// The kernel is older than 5.19.
    pub fn register(&mut self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.entries.base.as_ptr() as u64;
        // SAFETY: the address is page-aligned and valid for `count` entries of 16 bytes, and so are the addresses that
        // will be written into the entries. All of it stays mapped until this value is dropped; its owner drops it only
        // after the io_uring is closed and no receive is in flight, and leaks it otherwise.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, self.group, 0)? };
        self.registered = true;
        for id in 0..self.count {
            self.offer(id);
        }
        self.publish();
        Ok(())
    }

    /// The kernel says that it filled `len` bytes of buffer `id`. `None` when it cannot have: it does not hold it.
    pub fn take(&mut self, id: u16, len: usize) -> Option<Lease> {
        let held = self.held.get_mut(usize::from(id))?;
        if !*held || len > self.size {
            return None;
        }
        *held = false;
        Some(Lease { id, len })
    }

    /// What was received.
    pub fn bytes(&mut self, lease: &mut Lease) -> &mut [u8] {
        // SAFETY: `lease.id < count` and `lease.len <= size` (checked in `take`), so the range lies within the mapping.
        // The kernel does not hold the buffer (a lease exists only between `take` and `give_back`), and no two leases
        // have the same id, because `take` wants `held`. The borrow of `self` and of the lease keeps both from changing.
        unsafe {
            let start = self.buffers.base.as_ptr().add(usize::from(lease.id) * self.size);
            std::slice::from_raw_parts_mut(start, lease.len)
        }
    }

    /// The buffer goes to the kernel again, once [`publish`](Self::publish) was called.
    pub fn give_back(&mut self, lease: Lease) {
        self.offer(lease.id);
    }

    /// Lets the kernel see the buffers that were given back.
    pub fn publish(&mut self) {
        // SAFETY: `entries` starts with an initialised (zeroed) entry, which is what `tail` asks for; the tail is a u16
        // inside that mapping, aligned to 2 bytes, and the kernel reads it atomically: so is our access.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.base.as_ptr().cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    fn offer(&mut self, id: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        let address = self.buffers.base.as_ptr() as u64 + (usize::from(id) * self.size) as u64;
        // SAFETY: `place < count` entries of 16 bytes lie within the mapping, and all bit patterns are valid entries. The
        // kernel reads an entry only after the tail moved past it, and there are never more than `count` buffers
        // offered, because each is offered only when it is not held; so this entry is ours now. The entry's last two
        // bytes (`resv`, in entry 0 the shared tail) are not touched by the three setters.
        let entry = unsafe { &mut *self.entries.base.as_ptr().cast::<BufRingEntry>().add(place) };
        entry.set_addr(address);
        entry.set_len(self.size as u32);
        entry.set_bid(id);
        self.held[usize::from(id)] = true;
        self.tail = self.tail.wrapping_add(1);
    }

    /// Whether every buffer is at the kernel or was never handed over: none is leased.
    #[cfg(test)]
    fn all_held(&self) -> bool {
        self.held.iter().all(|&held| held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> BufferRing {
        let uring = io_uring::IoUring::new(4).unwrap();
        let mut ring = BufferRing::new(4, 128, 1).unwrap();
        ring.register(&uring.submitter()).unwrap();
        ring
    }

    #[test]
    fn a_buffer_that_the_kernel_does_not_hold_cannot_be_taken() {
        let mut ring = ring();
        let lease = ring.take(2, 10).unwrap();
        assert!(ring.take(2, 10).is_none(), "taken twice");
        assert!(ring.take(4, 10).is_none(), "no such buffer");
        assert!(ring.take(1, 129).is_none(), "longer than the buffer");
        assert!(!ring.all_held());
        ring.give_back(lease);
        assert!(ring.all_held());
        assert!(ring.take(2, 128).is_some());
    }

    #[test]
    fn leases_of_two_buffers_do_not_overlap() {
        let mut ring = ring();
        let (mut first, mut second) = (ring.take(0, 128).unwrap(), ring.take(1, 128).unwrap());
        ring.bytes(&mut first).fill(1);
        ring.bytes(&mut second).fill(2);
        assert_eq!(ring.bytes(&mut first), [1; 128]);
        assert_eq!(ring.bytes(&mut second), [2; 128]);
    }

    #[test]
    fn a_count_that_is_no_power_of_two_is_refused() {
        assert!(BufferRing::new(3, 128, 1).is_err());
        assert!(BufferRing::new(0, 128, 1).is_err());
    }
}

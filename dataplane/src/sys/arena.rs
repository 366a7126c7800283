//! Buffers that the kernel fills, for the benchmark that compares io_uring's operations (feature `trial`): the engines
//! receive with direct calls. What the kernel holds, nobody can name: a buffer of a
//! [`BufferRing`] has no accessor until the kernel gave it back as a [`Lease`], and the lease is consumed when it goes
//! to the kernel again.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
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

/// `struct io_uring_buf` (linux/io_uring.h). The ring's tail, which the kernel reads, lies in the last field of entry 0
/// (`struct io_uring_buf_ring`): so entries are written field by field, through pointers, and never as a whole.
#[repr(C)]
struct Entry {
    addr: u64,
    len: u32,
    bid: u16,
    tail: u16,
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
            entries: Mapping::new(usize::from(count) * size_of::<Entry>())?,
            buffers: Mapping::new(bytes)?,
            count,
            size,
            group,
            tail: 0,
            held: vec![false; usize::from(count)].into_boxed_slice(),
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
        // SAFETY: the address is page-aligned and valid for `count` entries of 16 bytes (the mapping's length), and each
        // address that `offer` writes into an entry is valid for `size` bytes. All of it stays mapped until this value
        // is dropped. Its owner, the engine, drops it behind its io_uring, and only after a synchronous cancellation of
        // everything in it succeeded; when that fails, it leaks this value.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, self.group, 0)? };
        self.offer_all();
        Ok(())
    }

    /// Hands every buffer over.
    fn offer_all(&mut self) {
        for id in 0..self.count {
            self.offer(id);
        }
        self.publish();
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
        let entries = self.entries.base.as_ptr().cast::<Entry>();
        // SAFETY: the mapping is page-aligned and has at least one entry, so the field lies within it and is aligned.
        // Every access to it, ours here and the kernel's, is atomic, and `offer` does not touch it: no reference to a
        // whole entry ever exists. The mapping outlives the reference, which ends with this function.
        let tail = unsafe { AtomicU16::from_ptr(&raw mut (*entries).tail) };
        tail.store(self.tail, Ordering::Release);
    }

    fn offer(&mut self, id: u16) {
        let place = usize::from(self.tail & (self.count - 1));
        let address = self.buffers.base.as_ptr() as u64 + (usize::from(id) * self.size) as u64;
        let entries = self.entries.base.as_ptr().cast::<Entry>();
        // SAFETY: `place < count` (a power of two), and the page-aligned mapping has `count` entries, so the three fields
        // lie within it and are aligned. The kernel reads an entry only after the tail moved past it, and then until it
        // takes the buffer; at most `count` buffers are offered at a time, because each is offered only when it is not
        // held (once in `offer_all`, afterwards by consuming the only lease of it); so the entry `count` before this one
        // has been taken, and this place is ours. The tail in entry 0 is another field.
        unsafe {
            let entry = entries.add(place);
            (&raw mut (*entry).addr).write(address);
            (&raw mut (*entry).len).write(self.size as u32);
            (&raw mut (*entry).bid).write(id);
        }
        self.held[usize::from(id)] = true;
        self.tail = self.tail.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    //! All of it runs under Miri too (`cargo +nightly miri test -p dataplane --lib arena`), where no kernel is needed.

    use super::*;

    impl BufferRing {
        /// How many buffers the kernel does not hold.
        fn lent(&self) -> usize {
            self.held.iter().filter(|&&held| !held).count()
        }
    }

    /// A ring whose buffers were all handed over, though no kernel has heard of it.
    fn ring() -> BufferRing {
        let mut ring = BufferRing::new(4, 128, 1).unwrap();
        ring.offer_all();
        ring
    }

    /// The tail, and the entries' buffers in their order, as the kernel reads them.
    fn as_read(ring: &BufferRing) -> (u16, Vec<(u64, u32, u16)>) {
        let entries = ring.entries.base.as_ptr().cast::<Entry>();
        // SAFETY: the mapping has `count` entries, and `ring` is borrowed: nobody writes to them meanwhile.
        unsafe {
            let tail = AtomicU16::from_ptr(&raw mut (*entries).tail).load(Ordering::Acquire);
            let read = |place| {
                let entry = entries.add(place);
                ((&raw const (*entry).addr).read(), (&raw const (*entry).len).read(), (&raw const (*entry).bid).read())
            };
            (tail, (0..4).map(read).collect())
        }
    }

    #[test]
    fn the_kernel_reads_every_buffer_and_the_tail() {
        let mut ring = ring();
        let base = ring.buffers.base.as_ptr() as u64;
        let (tail, entries) = as_read(&ring);
        assert_eq!(tail, 4);
        assert_eq!(entries, (0..4).map(|id| (base + u64::from(id) * 128, 128, id)).collect::<Vec<_>>());
        // Given back in another order, they stand in that order; entry 0 keeps the tail.
        for id in [2, 0] {
            let lease = ring.take(id, 1).unwrap();
            ring.give_back(lease);
        }
        assert_eq!(as_read(&ring).0, 4, "not published yet");
        ring.publish();
        let (tail, entries) = as_read(&ring);
        assert_eq!((tail, entries[0].2, entries[1].2), (6, 2, 0));
    }

    #[test]
    fn the_tail_wraps_and_no_buffer_is_lost() {
        let mut ring = ring();
        for round in 0..if cfg!(miri) { 100u32 } else { 40_000 } {
            let lease = ring.take((round % 4) as u16, 128).unwrap();
            assert_eq!(ring.lent(), 1);
            ring.give_back(lease);
            ring.publish();
        }
        assert_eq!(ring.lent(), 0);
        let mut ids: Vec<u16> = as_read(&ring).1.iter().map(|entry| entry.2).collect();
        ids.sort_unstable();
        assert_eq!(ids, [0, 1, 2, 3]);
    }

    #[cfg(not(miri))]
    #[test]
    fn the_kernel_takes_the_ring() {
        let uring = io_uring::IoUring::new(4).unwrap();
        let mut ring = BufferRing::new(4, 128, 1).unwrap();
        ring.register(&uring.submitter()).unwrap();
        drop(uring);
        assert_eq!((ring.lent(), as_read(&ring).0), (0, 4));
    }

    #[test]
    fn a_buffer_that_the_kernel_does_not_hold_cannot_be_taken() {
        let mut ring = ring();
        let lease = ring.take(2, 10).unwrap();
        assert!(ring.take(2, 10).is_none(), "taken twice");
        assert!(ring.take(4, 10).is_none(), "no such buffer");
        assert!(ring.take(1, 129).is_none(), "longer than the buffer");
        assert_eq!(ring.lent(), 1);
        ring.give_back(lease);
        assert_eq!(ring.lent(), 0);
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

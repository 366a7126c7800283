//! The memory that both processes map: a sealed memfd, its mapping, and the parts of it that rings and sleepers use.
//!
//! The other process may write anything at any moment, so no plain reference to shared bytes is ever made. Everything
//! here is atomic words: copying a slot is a series of relaxed word loads or stores. A racing writer can make a
//! copy's content arbitrary, which the reader expects anyway, but there is no data race in the language's sense, also
//! when both ends live in one process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::layout::{FUTEX_AT, HEAD_AT, NEED_WAKE_AT, RING_HEADER_BYTES, RingSpec, SLOT_BYTES, TAIL_AT, WANT_ROOM_AT};
use crate::ring::Memory;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// What has to be sealed before anybody maps: with a fixed size no access can meet a missing page (SIGBUS).
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A shared, writable mapping of a sealed memfd. Unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: `Mapping` owns the mapped range from construction to drop and hands out only `&AtomicU32` and `&AtomicU64`
// into it, which any thread may use.
unsafe impl Send for Mapping {}
// SAFETY: as above: every access through `&Mapping` is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Creates a zeroed memfd of `bytes` bytes (a multiple of the page size), seals its size and maps it. The
    /// descriptor is for the process that will map it as well; it is close-on-exec.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2), fcntl(2) or mmap(2) said.
    pub fn create(bytes: usize) -> io::Result<(Mapping, OwnedFd)> {
        let fd = memfd()?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        Ok((Mapping::map(&fd, bytes)?, fd))
    }

    /// Maps a memfd that another process made.
    ///
    /// # Errors
    /// `InvalidData` when its size is not exactly `bytes` or the size is not sealed; otherwise what the system calls
    /// said (`InvalidInput` for a descriptor that cannot have seals).
    pub fn from_fd(fd: &impl AsFd, bytes: usize) -> io::Result<Mapping> {
        let seals = rustix::fs::fcntl_get_seals(fd)?;
        if !seals.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory's size is not sealed"));
        }
        let size = rustix::fs::fstat(fd)?.st_size;
        if u64::try_from(size).ok() != Some(bytes as u64) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory has another size than expected"));
        }
        Mapping::map(fd, bytes)
    }

    fn map(fd: &impl AsFd, bytes: usize) -> io::Result<Mapping> {
        // SAFETY: the kernel chooses the address (null hint, no MAP_FIXED), so no existing mapping is replaced.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)?
        };
        let start = NonNull::new(start.cast::<u8>()).ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        let mapping = Mapping { start, bytes };
        // SAFETY: the range was mapped just now and is ours; this advice changes no content. Keys cross here, so keep
        // it out of core dumps; a kernel that refuses is no reason to fail.
        let _ = unsafe { rustix::mm::madvise(mapping.start.as_ptr().cast(), bytes, Advice::LinuxDontDump) };
        Ok(mapping)
    }

    /// The mapping's size in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the mapping has no bytes (mmap(2) refuses to make one).
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// All of it as 8-byte words. Rings use the words of their slots; tests also look at the rest.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY:
        // - `start` is page-aligned (mmap) and `bytes / 8` words lie within the mapping, which lives as long as `self`;
        // - the size is sealed, so every page stays there;
        // - any bit pattern is a valid `AtomicU64`, and it may change under a shared reference.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast::<AtomicU64>(), self.bytes / 8) }
    }

    /// The 4-byte word at byte `offset`, which is a multiple of 4 within the mapping.
    pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < self.bytes, "a word of the mapping");
        // SAFETY:
        // - `start` is page-aligned and `bytes` a multiple of the page size, so an aligned offset below `bytes` has four
        //   bytes within the mapping, which lives as long as `self` and whose size is sealed;
        // - any bit pattern is a valid `AtomicU32`, and it may change under a shared reference.
        unsafe { &*self.start.as_ptr().add(offset).cast::<AtomicU32>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range came from mmap in `map` and is unmapped only here; every reference into it borrows `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// A memfd that may be sealed and, where the kernel knows how (6.3 and later), may never become executable.
fn memfd() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("minivpn-link", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::fs::memfd_create("minivpn-link", flags)?),
        other => Ok(other?),
    }
}

/// The part of a mapping that one ring uses.
#[derive(Clone, Debug)]
pub struct Region {
    mapping: Arc<Mapping>,
    offset: usize,
    slots: u32,
}

impl Region {
    /// The ring of dimensions `spec` at byte `offset`.
    ///
    /// # Panics
    /// When it does not lie within the mapping, or not at a multiple of 8.
    pub fn new(mapping: &Arc<Mapping>, offset: usize, spec: RingSpec) -> Region {
        assert!(offset.is_multiple_of(8), "a ring starts at a word");
        assert!(offset.checked_add(spec.bytes()).is_some_and(|end| end <= mapping.len()), "a ring lies in the mapping");
        Region { mapping: Arc::clone(mapping), offset, slots: spec.slots }
    }

    fn words(&self) -> &[AtomicU64] {
        let start = (self.offset + RING_HEADER_BYTES) / 8;
        &self.mapping.words()[start..start + self.slots as usize * SLOT_BYTES / 8]
    }
}

impl Memory for Region {
    fn slots(&self) -> u32 {
        self.slots
    }

    fn slot_words(&self) -> usize {
        SLOT_BYTES / 8
    }

    fn head(&self) -> &AtomicU32 {
        self.mapping.word32(self.offset + HEAD_AT)
    }

    fn tail(&self) -> &AtomicU32 {
        self.mapping.word32(self.offset + TAIL_AT)
    }

    fn want_room(&self) -> &AtomicU32 {
        self.mapping.word32(self.offset + WANT_ROOM_AT)
    }

    fn write(&self, word: usize, bytes: &[u8]) {
        let words = &self.words()[word..][..bytes.len().div_ceil(8)];
        let (whole, rest) = bytes.as_chunks::<8>();
        for (word, chunk) in words.iter().zip(whole) {
            word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words[whole.len()].store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
    }

    fn read(&self, word: usize, out: &mut [u8]) {
        let words = &self.words()[word..][..out.len().div_ceil(8)];
        let (whole, rest) = out.as_chunks_mut::<8>();
        for (word, chunk) in words.iter().zip(whole.iter_mut()) {
            *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        if !rest.is_empty() {
            let last = words[whole.len()].load(Ordering::Relaxed).to_ne_bytes();
            rest.copy_from_slice(&last[..rest.len()]);
        }
    }

    fn wipe(&self, word: usize, words: usize) {
        for word in &self.words()[word..][..words] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The words of one consumer thread: NEED_WAKE and the one that it may sleep on.
#[derive(Clone, Debug)]
pub(crate) struct Sleeper {
    mapping: Arc<Mapping>,
    offset: usize,
}

impl Sleeper {
    pub(crate) fn new(mapping: &Arc<Mapping>, offset: usize) -> Sleeper {
        Sleeper { mapping: Arc::clone(mapping), offset }
    }

    pub(crate) fn need_wake(&self) -> &AtomicU32 {
        self.mapping.word32(self.offset + NEED_WAKE_AT)
    }

    pub(crate) fn futex(&self) -> &AtomicU32 {
        self.mapping.word32(self.offset + FUTEX_AT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create};

    fn plain_memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn a_created_mapping_opens_again_and_shares_its_content() {
        let (ours, fd) = Mapping::create(8_192).unwrap();
        let theirs = Mapping::from_fd(&fd, 8_192).unwrap();
        ours.words()[1_023].store(7, Ordering::Relaxed);
        assert_eq!(theirs.words()[1_023].load(Ordering::Relaxed), 7);
        assert_eq!(theirs.words().len(), 1_024);
    }

    #[test]
    fn the_size_can_not_change_any_more() {
        let (_mapping, fd) = Mapping::create(8_192).unwrap();
        assert!(ftruncate(&fd, 4_096).is_err());
        assert!(ftruncate(&fd, 16_384).is_err());
        assert!(fcntl_add_seals(&fd, SealFlags::WRITE).is_err(), "the seals are sealed");
    }

    #[test]
    fn a_memfd_without_all_seals_is_refused() {
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            let fd = plain_memfd(8_192, SEALS.difference(missing));
            let error = Mapping::from_fd(&fd, 8_192).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "without {missing:?}");
        }
        assert!(Mapping::from_fd(&plain_memfd(8_192, SEALS), 8_192).is_ok());
    }

    #[test]
    fn a_memfd_of_another_size_is_refused() {
        for size in [0, 4_096, 8_191, 8_193, 16_384] {
            let fd = plain_memfd(size, SEALS);
            assert_eq!(Mapping::from_fd(&fd, 8_192).unwrap_err().kind(), io::ErrorKind::InvalidData, "{size} bytes");
        }
    }

    #[test]
    fn a_descriptor_that_is_no_memfd_is_refused() {
        assert!(Mapping::from_fd(&std::fs::File::open("/dev/null").unwrap(), 4_096).is_err());
    }
}

//! The ring: one producer, one consumer, fixed slots, no lock. What the bytes mean is not its business (see
//! `channel`), nor where the memory comes from (see [`Memory`] and `shm`).
//!
//! A message is an 8-byte length in native order and its bytes, laid over as many neighbouring slots as it needs
//! (the ring's end is the neighbour of its beginning). The indices count slots, wrap at 2^32, and are never masked
//! except to find a slot, so that full and empty differ.
//!
//! Whoever reads treats the writer as an enemy:
//! - each side keeps its own index privately and never reads it back;
//! - the other's index is read once and range-checked;
//! - the length is read once and checked against what was published and against the ring's longest message;
//! - the bytes are copied into private memory before anybody looks at them;
//! - what was read is wiped before its slots are given back, because keys cross here.
//!
//! A message of several slots is published by one store of the index: whole or not at all.

use crate::sync::{AtomicU32, Ordering, fence};

/// Bytes of the length in front of every message.
pub const LENGTH_BYTES: usize = 8;

/// The memory of one ring. Slots are addressed as one array of 8-byte words, `slots() * slot_words()` long.
///
/// The ring logic keeps every access within that array, and lets only one side touch a word at a time as long as
/// both sides keep to the protocol.
pub trait Memory {
    /// Number of slots, a power of two.
    fn slots(&self) -> u32;
    /// 8-byte words per slot, at least 2.
    fn slot_words(&self) -> usize;
    /// Slots consumed so far, modulo 2^32. Written by the consumer.
    fn head(&self) -> &AtomicU32;
    /// Slots published so far, modulo 2^32. Written by the producer.
    fn tail(&self) -> &AtomicU32;
    /// 1 while the producer waits for room.
    fn want_room(&self) -> &AtomicU32;
    /// Copies `bytes` into the words from `word` on. The last word is filled up with zeros.
    fn write(&self, word: usize, bytes: &[u8]);
    /// Copies out from `word` on.
    fn read(&self, word: usize, out: &mut [u8]);
    /// Overwrites `words` words from `word` on with zeros.
    fn wipe(&self, word: usize, words: usize);
}

/// Why a message was not pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Not enough free slots now.
    #[error("the ring is full")]
    Full,
    /// Empty, or longer than this ring's longest message: it will never fit.
    #[error("a message of this length cannot cross this ring")]
    BadLength,
    /// The consumer's index is impossible.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// The other side broke the ring's rules: it has to be treated as dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the other side of the ring wrote an impossible index or length")]
pub struct Corrupt;

/// Places in the ring's memory, worked out from private values only.
struct Place<M> {
    memory: M,
    slots: u32,
    slot_words: usize,
    max_message: usize,
}

impl<M: Memory> Place<M> {
    fn new(memory: M, max_message: usize) -> Self {
        let (slots, slot_words) = (memory.slots(), memory.slot_words());
        assert!(slots.is_power_of_two() && slot_words >= 2, "a ring has 2^n slots of at least two words");
        let capacity = slots as usize * slot_words * 8;
        assert!(max_message <= capacity - LENGTH_BYTES, "the longest message fits into the empty ring");
        Place { memory, slots, slot_words, max_message }
    }

    /// Slots that a message of `len` bytes takes. `len` is at most `max_message`.
    fn slots_for(&self, len: usize) -> u32 {
        (LENGTH_BYTES + len).div_ceil(self.slot_words * 8) as u32
    }

    /// The first word of the slot at `index`.
    fn word_of(&self, index: u32) -> usize {
        (index & (self.slots - 1)) as usize * self.slot_words
    }

    fn total_words(&self) -> usize {
        self.slots as usize * self.slot_words
    }

    fn write(&self, index: u32, bytes: &[u8]) {
        let word = self.word_of(index);
        self.memory.write(word, &(bytes.len() as u64).to_ne_bytes());
        let until_end = (self.total_words() - word - 1) * 8;
        let (first, second) = bytes.split_at(bytes.len().min(until_end));
        self.memory.write(word + 1, first);
        if !second.is_empty() {
            self.memory.write(0, second);
        }
    }

    fn length(&self, index: u32) -> u64 {
        let mut length = [0; LENGTH_BYTES];
        self.memory.read(self.word_of(index), &mut length);
        u64::from_ne_bytes(length)
    }

    fn read(&self, index: u32, out: &mut [u8]) {
        let word = self.word_of(index);
        let until_end = (self.total_words() - word - 1) * 8;
        let (first, second) = out.split_at_mut(out.len().min(until_end));
        self.memory.read(word + 1, first);
        if !second.is_empty() {
            self.memory.read(0, second);
        }
    }

    fn wipe(&self, index: u32, len: usize) {
        let word = self.word_of(index);
        let words = (LENGTH_BYTES + len).div_ceil(8);
        let first = words.min(self.total_words() - word);
        self.memory.wipe(word, first);
        if words > first {
            self.memory.wipe(0, words - first);
        }
    }
}

/// The writing end. There must be one per ring, over memory that was zero before.
pub struct Producer<M> {
    place: Place<M>,
    tail: u32,
    head_seen: u32,
}

impl<M: Memory> Producer<M> {
    /// The writing end of a fresh ring whose messages have at most `max_message` bytes.
    ///
    /// # Panics
    /// When the memory's dimensions break [`Memory`]'s rules, or `max_message` does not fit into the empty ring.
    pub fn new(memory: M, max_message: usize) -> Self {
        Producer { place: Place::new(memory, max_message), tail: 0, head_seen: 0 }
    }

    /// Publishes a message of `1..=max_message` bytes, whole or not at all. Whether the consumer has to be woken is
    /// the caller's next question ([`crate::sleep::must_ring`]).
    ///
    /// # Errors
    /// See [`PushError`]; the ring is as it was.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PushError> {
        if bytes.is_empty() || bytes.len() > self.place.max_message {
            return Err(PushError::BadLength);
        }
        let needed = self.place.slots_for(bytes.len());
        if self.free() < needed {
            self.look_at_head()?;
            if self.free() < needed {
                return Err(PushError::Full);
            }
        }
        self.place.write(self.tail, bytes);
        self.tail = self.tail.wrapping_add(needed);
        self.place.memory.tail().store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Asks the consumer to ring when it gives slots back. After this the caller must try to push once more before
    /// it sleeps.
    pub fn want_room(&self) {
        self.place.memory.want_room().store(1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Takes [`Producer::want_room`] back. An exchange for the reason told at [`crate::sleep::cancel`].
    pub fn has_room(&self) {
        self.place.memory.want_room().swap(0, Ordering::AcqRel);
    }

    /// Free slots, as far as the consumer's index was last seen.
    fn free(&self) -> u32 {
        self.place.slots - self.tail.wrapping_sub(self.head_seen)
    }

    fn look_at_head(&mut self) -> Result<(), Corrupt> {
        let head = self.place.memory.head().load(Ordering::Acquire);
        if self.tail.wrapping_sub(head) > self.place.slots {
            return Err(Corrupt);
        }
        self.head_seen = head;
        Ok(())
    }
}

/// The reading end. There must be one per ring, over memory that was zero before.
pub struct Consumer<M> {
    place: Place<M>,
    head: u32,
    tail_seen: u32,
}

impl<M: Memory> Consumer<M> {
    /// The reading end of a fresh ring whose messages have at most `max_message` bytes.
    ///
    /// # Panics
    /// As [`Producer::new`].
    pub fn new(memory: M, max_message: usize) -> Self {
        Consumer { place: Place::new(memory, max_message), head: 0, tail_seen: 0 }
    }

    /// Takes the next message into `out`, which afterwards has the message's length, and returns that length; `None`
    /// when the ring is empty. Does not allocate once `out` has the capacity of the longest message. The slots are
    /// wiped.
    ///
    /// # Errors
    /// [`Corrupt`] when the producer's index or the message's length is impossible. `out` is as it was, and so is the
    /// ring: the next call will most likely fail as well.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>, Corrupt> {
        if self.tail_seen == self.head {
            self.look_at_tail()?;
            if self.tail_seen == self.head {
                return Ok(None);
            }
        }
        let len = self.checked_length()?;
        out.resize(len, 0);
        self.place.read(self.head, out);
        self.place.wipe(self.head, len);
        self.head = self.head.wrapping_add(self.place.slots_for(len));
        self.place.memory.head().store(self.head, Ordering::Release);
        Ok(Some(len))
    }

    /// Whether [`Consumer::pop`] has something to say, be it an error. Reads the producer's index afresh.
    pub fn is_ready(&self) -> bool {
        self.place.memory.tail().load(Ordering::Acquire) != self.head
    }

    /// After one or more [`Consumer::pop`]: whether the producer waits for room and has to be woken. Says so once per
    /// [`Producer::want_room`].
    pub fn room_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        let word = self.place.memory.want_room();
        word.load(Ordering::Relaxed) == 1 && word.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn look_at_tail(&mut self) -> Result<(), Corrupt> {
        let tail = self.place.memory.tail().load(Ordering::Acquire);
        if tail.wrapping_sub(self.head) > self.place.slots {
            return Err(Corrupt);
        }
        self.tail_seen = tail;
        Ok(())
    }

    /// The length of the message at the head: not zero, not above the maximum, and all of it published.
    fn checked_length(&self) -> Result<usize, Corrupt> {
        let len = usize::try_from(self.place.length(self.head)).map_err(|_| Corrupt)?;
        if len == 0 || len > self.place.max_message {
            return Err(Corrupt);
        }
        if self.place.slots_for(len) > self.tail_seen.wrapping_sub(self.head) {
            return Err(Corrupt);
        }
        Ok(len)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

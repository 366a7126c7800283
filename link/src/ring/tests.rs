//! The ring's logic over plain heap memory (which Miri understands), with a hostile other side where it matters.

use std::sync::Arc;

use super::*;
use crate::sync::AtomicU64;

const SLOT_WORDS: usize = 4;
const SLOT_BYTES: usize = SLOT_WORDS * 8;

/// Zeroed words on the heap.
#[derive(Clone)]
struct Heap(Arc<Parts>);

struct Parts {
    head: AtomicU32,
    tail: AtomicU32,
    want_room: AtomicU32,
    words: Vec<AtomicU64>,
    slots: u32,
}

impl Heap {
    fn new(slots: u32) -> Heap {
        let words = (0..slots as usize * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
        let zero = || AtomicU32::new(0);
        Heap(Arc::new(Parts { head: zero(), tail: zero(), want_room: zero(), words, slots }))
    }

    fn is_wiped(&self) -> bool {
        self.0.words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// What a hostile producer does: a length and an index, and nothing in between.
    fn lie(&self, slot: usize, length: u64, tail: u32) {
        self.0.words[slot * SLOT_WORDS].store(length, Ordering::Relaxed);
        self.0.tail.store(tail, Ordering::Relaxed);
    }
}

impl Memory for Heap {
    fn slots(&self) -> u32 {
        self.0.slots
    }
    fn slot_words(&self) -> usize {
        SLOT_WORDS
    }
    fn head(&self) -> &AtomicU32 {
        &self.0.head
    }
    fn tail(&self) -> &AtomicU32 {
        &self.0.tail
    }
    fn want_room(&self) -> &AtomicU32 {
        &self.0.want_room
    }
    fn write(&self, word: usize, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut value = [0; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            self.0.words[word + index].store(u64::from_ne_bytes(value), Ordering::Relaxed);
        }
    }
    fn read(&self, word: usize, out: &mut [u8]) {
        for (index, chunk) in out.chunks_mut(8).enumerate() {
            let value = self.0.words[word + index].load(Ordering::Relaxed).to_ne_bytes();
            chunk.copy_from_slice(&value[..chunk.len()]);
        }
    }
    fn wipe(&self, word: usize, words: usize) {
        for word in &self.0.words[word..word + words] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

fn ring(slots: u32, max_message: usize) -> (Heap, Producer<Heap>, Consumer<Heap>) {
    let heap = Heap::new(slots);
    let producer = Producer::new(heap.clone(), max_message);
    let consumer = Consumer::new(heap.clone(), max_message);
    (heap, producer, consumer)
}

fn message(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

#[test]
fn messages_arrive_whole_and_in_order_at_every_length_and_place() {
    let (heap, mut producer, mut consumer) = ring(8, 8 * SLOT_BYTES - LENGTH_BYTES);
    let mut out = Vec::new();
    for round in 0..3u8 {
        for len in 1..=8 * SLOT_BYTES - LENGTH_BYTES {
            producer.push(&message(len, round)).unwrap();
            assert!(consumer.is_ready());
            assert_eq!(consumer.pop(&mut out), Ok(Some(len)));
            assert_eq!(out, message(len, round));
            assert_eq!(consumer.pop(&mut out), Ok(None));
            assert!(!consumer.is_ready());
            assert!(heap.is_wiped(), "after {len} bytes");
        }
    }
}

#[test]
fn a_full_ring_refuses_and_takes_again_after_a_pop() {
    let (_heap, mut producer, mut consumer) = ring(4, SLOT_BYTES - LENGTH_BYTES);
    for seed in 0..4 {
        producer.push(&message(9, seed)).unwrap();
    }
    assert_eq!(producer.push(&message(1, 9)), Err(PushError::Full));
    let mut out = Vec::new();
    assert_eq!(consumer.pop(&mut out), Ok(Some(9)));
    producer.push(&message(1, 9)).unwrap();
    assert_eq!(producer.push(&message(1, 9)), Err(PushError::Full));
    for (seed, len) in [(1, 9), (2, 9), (3, 9), (9, 1)] {
        assert_eq!(consumer.pop(&mut out), Ok(Some(len)));
        assert_eq!(out, message(len, seed));
    }
}

#[test]
fn a_message_of_several_slots_is_published_whole_or_not_at_all() {
    let (heap, mut producer, mut consumer) = ring(4, 3 * SLOT_BYTES - LENGTH_BYTES);
    producer.push(&message(5, 1)).unwrap();
    producer.push(&message(5, 2)).unwrap();
    let tail = heap.0.tail.load(Ordering::Relaxed);
    let long = message(2 * SLOT_BYTES, 3);
    assert_eq!(producer.push(&long), Err(PushError::Full), "two slots are free, three are needed");
    assert_eq!(heap.0.tail.load(Ordering::Relaxed), tail);
    let mut out = Vec::new();
    assert_eq!(consumer.pop(&mut out), Ok(Some(5)));
    producer.push(&long).unwrap();
    assert_eq!(heap.0.tail.load(Ordering::Relaxed), tail + 3);
    assert_eq!(consumer.pop(&mut out), Ok(Some(5)));
    assert_eq!(consumer.pop(&mut out), Ok(Some(long.len())));
    assert_eq!(out, long);
}

#[test]
fn the_indices_wrap_at_32_bits() {
    let heap = Heap::new(4);
    let start = u32::MAX - 5;
    heap.0.head.store(start, Ordering::Relaxed);
    heap.0.tail.store(start, Ordering::Relaxed);
    let mut producer = Producer::new(heap.clone(), 40);
    let mut consumer = Consumer::new(heap.clone(), 40);
    (producer.tail, producer.head_seen) = (start, start);
    (consumer.head, consumer.tail_seen) = (start, start);
    let mut out = Vec::new();
    for seed in 0..20 {
        producer.push(&message(40, seed)).unwrap();
        producer.push(&message(40, seed)).unwrap();
        assert_eq!(producer.push(&message(1, seed)), Err(PushError::Full));
        for _ in 0..2 {
            assert_eq!(consumer.pop(&mut out), Ok(Some(40)));
            assert_eq!(out, message(40, seed));
        }
        assert_eq!(consumer.pop(&mut out), Ok(None));
    }
    assert_eq!(heap.0.tail.load(Ordering::Relaxed), start.wrapping_add(80));
}

#[test]
fn a_length_that_can_never_cross_is_refused_at_the_producer() {
    let (heap, mut producer, _consumer) = ring(4, 50);
    assert_eq!(producer.push(&[]), Err(PushError::BadLength));
    assert_eq!(producer.push(&[1; 51]), Err(PushError::BadLength));
    assert!(heap.is_wiped());
    assert_eq!(producer.push(&[1; 50]), Ok(()));
}

#[test]
fn a_producer_index_beyond_the_capacity_is_corrupt() {
    for tail in [5, 6, u32::MAX, u32::MAX - 3, 1 << 31] {
        let (heap, _producer, mut consumer) = ring(4, 24);
        heap.lie(0, 24, tail);
        assert!(consumer.is_ready(), "an error is something to be told");
        assert_eq!(consumer.pop(&mut Vec::new()), Err(Corrupt), "tail {tail}");
    }
    let (heap, _producer, mut consumer) = ring(4, 24);
    heap.lie(0, 24, 4);
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(Some(24)));
}

#[test]
fn a_consumer_index_that_was_never_published_is_corrupt() {
    for head in [5, u32::MAX, 1 << 31] {
        let (heap, mut producer, _consumer) = ring(4, 24);
        for _ in 0..4 {
            producer.push(&[7; 24]).unwrap();
        }
        heap.0.head.store(head, Ordering::Relaxed);
        assert_eq!(producer.push(&[7; 24]), Err(PushError::Corrupt(Corrupt)), "head {head}");
    }
    let (heap, mut producer, _consumer) = ring(4, 24);
    for _ in 0..4 {
        producer.push(&[7; 24]).unwrap();
    }
    heap.0.head.store(4, Ordering::Relaxed);
    producer.push(&[7; 24]).unwrap();
}

#[test]
fn a_length_of_zero_is_corrupt() {
    let (heap, _producer, mut consumer) = ring(4, 24);
    heap.lie(0, 0, 1);
    assert_eq!(consumer.pop(&mut Vec::new()), Err(Corrupt));
}

#[test]
fn a_length_above_the_longest_message_is_corrupt() {
    for length in [51, 1 << 32, u64::MAX, u64::MAX - 7] {
        let (heap, _producer, mut consumer) = ring(4, 50);
        heap.lie(0, length, 4);
        assert_eq!(consumer.pop(&mut Vec::new()), Err(Corrupt), "length {length}");
    }
    let (heap, _producer, mut consumer) = ring(4, 50);
    heap.lie(0, 50, 4);
    assert_eq!(consumer.pop(&mut Vec::new()), Ok(Some(50)));
}

#[test]
fn a_half_published_message_is_corrupt() {
    // 50 bytes and their length take two slots of 32 bytes.
    let (heap, _producer, mut consumer) = ring(4, 50);
    heap.lie(0, 50, 1);
    let mut out = vec![1, 2, 3];
    assert_eq!(consumer.pop(&mut out), Err(Corrupt));
    assert_eq!(out, [1, 2, 3], "the caller's buffer is as it was");
    assert_eq!(heap.0.head.load(Ordering::Relaxed), 0, "nothing was given back");
    heap.lie(0, 50, 2);
    let mut fresh = Consumer::new(heap, 50);
    assert_eq!(fresh.pop(&mut out), Ok(Some(50)));
}

#[test]
fn a_steady_stream_does_not_grow_the_readers_buffer() {
    let (_heap, mut producer, mut consumer) = ring(4, 50);
    let mut out = Vec::with_capacity(50);
    let start = out.as_ptr();
    for seed in 0..100u8 {
        let len = 1 + usize::from(seed) % 50;
        producer.push(&message(len, seed)).unwrap();
        consumer.pop(&mut out).unwrap();
    }
    assert_eq!((out.as_ptr(), out.capacity()), (start, 50));
}

#[test]
fn wanted_room_is_told_once() {
    let (_heap, producer, consumer) = ring(4, 24);
    assert!(!consumer.room_wanted());
    producer.want_room();
    assert!(consumer.room_wanted());
    assert!(!consumer.room_wanted());
    producer.want_room();
    producer.has_room();
    assert!(!consumer.room_wanted());
}

#[test]
fn two_threads_pass_messages_of_all_sizes() {
    let rounds = if cfg!(miri) { 200 } else { 200_000 };
    let (_heap, mut producer, mut consumer) = ring(4, 100);
    let writer = std::thread::spawn(move || {
        for round in 0..rounds {
            let message = message(1 + round % 100, round as u8);
            while producer.push(&message) == Err(PushError::Full) {
                std::thread::yield_now();
            }
        }
    });
    let mut out = Vec::new();
    for round in 0..rounds {
        while consumer.pop(&mut out).unwrap().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(out, message(1 + round % 100, round as u8));
    }
    writer.join().unwrap();
}

#[test]
#[should_panic(expected = "2^n slots")]
fn a_ring_of_three_slots_can_not_be_made() {
    let _ = Producer::new(Heap::new(3), 8);
}

#[test]
#[should_panic(expected = "fits into the empty ring")]
fn a_ring_shorter_than_its_longest_message_can_not_be_made() {
    let _ = Consumer::new(Heap::new(2), 2 * SLOT_BYTES - LENGTH_BYTES + 1);
}

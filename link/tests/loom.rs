//! The ring and the sleep protocol under the loom model checker: every interleaving and every stale value that the
//! memory model allows. Run it with
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=target/loom cargo test -p link --release --test loom
//! ```
//!
//! Slots are relaxed atomic words here as in production, so a missing Release or Acquire shows as a stale or wiped
//! word. A lost wake-up shows as a deadlock.

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking
#![cfg(loom)]

use link::ring::{Consumer, Memory, Producer, PushError};
use link::sleep;
use link::sync::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Condvar, Mutex};

const SLOTS: u32 = 2;
const SLOT_WORDS: usize = 2;

#[derive(Clone)]
struct Model(Arc<Parts>);

/// A doorbell that stays rung until somebody waits for it, as an eventfd does.
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn new() -> Bell {
        Bell(Mutex::new(false), Condvar::new())
    }
    fn notify(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }
    fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

struct Parts {
    head: AtomicU32,
    tail: AtomicU32,
    want_room: AtomicU32,
    words: Vec<AtomicU64>,
    /// NEED_WAKE and bell of the consumer's and of the producer's thread.
    consumer: (AtomicU32, Bell),
    producer: (AtomicU32, Bell),
}

impl Model {
    fn new() -> Model {
        let zero = || AtomicU32::new(0);
        let words = (0..SLOTS as usize * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect();
        Model(Arc::new(Parts {
            head: zero(),
            tail: zero(),
            want_room: zero(),
            words,
            consumer: (zero(), Bell::new()),
            producer: (zero(), Bell::new()),
        }))
    }
}

impl Memory for Model {
    fn slots(&self) -> u32 {
        SLOTS
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

const MAX: usize = SLOTS as usize * SLOT_WORDS * 8 - 8;

fn ring() -> (Model, Producer<Model>, Consumer<Model>) {
    let model = Model::new();
    (model.clone(), Producer::new(model.clone(), MAX), Consumer::new(model, MAX))
}

/// Pops one message, sleeping by the protocol while there is none.
fn pop_sleeping(model: &Model, consumer: &mut Consumer<Model>, out: &mut Vec<u8>) {
    let (need_wake, bell) = &model.0.consumer;
    while consumer.pop(out).expect("an honest producer").is_none() {
        sleep::announce(need_wake);
        if !consumer.is_ready() {
            bell.wait();
        }
        sleep::cancel(need_wake);
    }
}

fn ring_consumer(model: &Model) {
    let (need_wake, bell) = &model.0.consumer;
    if sleep::must_ring(need_wake) {
        bell.notify();
    }
}

/// Pushes one message, sleeping by the protocol while there is no room.
fn push_sleeping(model: &Model, producer: &mut Producer<Model>, bytes: &[u8]) {
    let (need_wake, bell) = &model.0.producer;
    loop {
        match producer.push(bytes) {
            Ok(()) => return ring_consumer(model),
            Err(error) => assert_eq!(error, PushError::Full),
        }
        sleep::announce(need_wake);
        producer.want_room();
        match producer.push(bytes) {
            Ok(()) => {
                sleep::cancel(need_wake);
                producer.has_room();
                return ring_consumer(model);
            }
            Err(error) => assert_eq!(error, PushError::Full),
        }
        bell.wait();
        sleep::cancel(need_wake);
    }
}

#[test]
fn what_is_popped_is_what_was_pushed() {
    loom::model(|| {
        let (_model, mut producer, mut consumer) = ring();
        let writer = loom::thread::spawn(move || {
            for item in 1..=3u64 {
                // A full ring is a drop here: no waiting, as for datagrams.
                if producer.push(&item.to_ne_bytes()).is_err() {
                    break;
                }
            }
        });
        let mut out = Vec::new();
        let mut expected = 1u64;
        for _ in 0..3 {
            if consumer.pop(&mut out).expect("an honest producer").is_some() {
                assert_eq!(out, expected.to_ne_bytes());
                expected += 1;
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_message_over_the_rings_end_is_seen_whole_or_not_at_all() {
    loom::model(|| {
        let (_model, mut producer, mut consumer) = ring();
        let mut out = Vec::new();
        producer.push(&[9; 8]).unwrap();
        assert_eq!(consumer.pop(&mut out), Ok(Some(8)));
        let writer = loom::thread::spawn(move || producer.push(&[7; MAX]).unwrap());
        for _ in 0..2 {
            if consumer.pop(&mut out).expect("never half a message").is_some() {
                assert_eq!(out, [7; MAX]);
            }
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_sleeping_consumer_misses_nothing() {
    loom::model(|| {
        let (model, mut producer, mut consumer) = ring();
        let writer = loom::thread::spawn({
            let model = model.clone();
            move || {
                for item in 1..=2u64 {
                    producer.push(&item.to_ne_bytes()).expect("room for two");
                    ring_consumer(&model);
                }
            }
        });
        let mut out = Vec::new();
        for item in 1..=2u64 {
            pop_sleeping(&model, &mut consumer, &mut out);
            assert_eq!(out, item.to_ne_bytes());
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_producer_waiting_for_room_and_a_sleeping_consumer_both_go_on() {
    loom::model(|| {
        let (model, mut producer, mut consumer) = ring();
        let writer = loom::thread::spawn({
            let model = model.clone();
            move || {
                for item in 1..=4u64 {
                    push_sleeping(&model, &mut producer, &item.to_ne_bytes());
                }
            }
        });
        let mut out = Vec::new();
        for item in 1..=4u64 {
            pop_sleeping(&model, &mut consumer, &mut out);
            assert_eq!(out, item.to_ne_bytes());
            if consumer.room_wanted() {
                let (need_wake, bell) = &model.0.producer;
                if sleep::must_ring(need_wake) {
                    bell.notify();
                }
            }
        }
        writer.join().unwrap();
    });
}

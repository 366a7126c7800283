//! The ring over a real mapping, while somebody scribbles on it between operations. Nothing may panic, and a message
//! that arrives before the first scribble is the one that was sent.
//!
//! The input is a series of operations, each an opcode byte and its operands; what is cut short ends the series.

use std::collections::VecDeque;
use std::sync::Arc;

use link::layout::RingSpec;
use link::ring::{Consumer, Producer, PushError};
use link::sync::Ordering;
use link::{Mapping, Region};

use crate::input::Input;

const SPEC: RingSpec = RingSpec { slots: 4, max_message: 6_000 };

/// Runs one input.
pub fn run(data: &[u8]) {
    let bytes = SPEC.bytes().next_multiple_of(4_096);
    let Ok((mapping, _memfd)) = Mapping::create(bytes) else {
        return;
    };
    let mut ring = Ring::new(Arc::new(mapping));
    let mut input = Input(data);
    while let Some(()) = ring.step(&mut input) {}
}

/// Both ends of one ring, and what an honest ring would still hold.
struct Ring {
    mapping: Arc<Mapping>,
    producer: Producer<Region>,
    consumer: Consumer<Region>,
    expected: VecDeque<Vec<u8>>,
    honest: bool,
    out: Vec<u8>,
}

impl Ring {
    fn new(mapping: Arc<Mapping>) -> Ring {
        let region = || Region::new(&mapping, 0, SPEC);
        let producer = Producer::new(region(), SPEC.max_message);
        let consumer = Consumer::new(region(), SPEC.max_message);
        Ring { mapping, producer, consumer, expected: VecDeque::new(), honest: true, out: Vec::new() }
    }

    /// One operation; `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 4 {
            0 => self.push(input.number()?, input.byte()?),
            1 => self.pop(),
            2 => self.scribble(input.number()?, u64::from_le_bytes(input.take()?)),
            _ => {
                let (ready, wanted) = (self.consumer.is_ready(), self.consumer.room_wanted());
                assert!(!self.honest || ready != self.expected.is_empty());
                assert!(!self.honest || !wanted);
            }
        }
        Some(())
    }

    fn push(&mut self, len: u16, fill: u8) {
        let message = vec![fill; usize::from(len)];
        match self.producer.push(&message) {
            Ok(()) => self.expected.push_back(message),
            Err(PushError::BadLength) => {
                assert!(message.is_empty() || message.len() > SPEC.max_message)
            }
            Err(PushError::Full) => {}
            Err(PushError::Corrupt(_)) => assert!(!self.honest),
        }
    }

    fn pop(&mut self) {
        let popped = self.consumer.pop(&mut self.out);
        if !self.honest {
            if let Ok(Some(len)) = popped {
                assert!(len == self.out.len() && len <= SPEC.max_message);
            }
            return;
        }
        match self.expected.pop_front() {
            Some(message) => assert!(popped == Ok(Some(message.len())) && self.out == message),
            None => assert_eq!(popped, Ok(None)),
        }
    }

    /// Writes one 8-byte word anywhere. The first 64 places are the header's words, the others spread over the slots.
    fn scribble(&mut self, place: u16, value: u64) {
        let words = self.mapping.words();
        words[usize::from(place) % words.len()].store(value, Ordering::Relaxed);
        self.honest = false;
    }
}

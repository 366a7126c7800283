//! Where each ring and each sleeper lies in the mapping. Numbers only.
//!
//! ```text
//! 0            sleepers, one cache line each: supervisor, control process, worker 0, worker 1, …
//! HEADER_BYTES to_control    commands, supervisor → control process
//!              from_control  commands, control process → supervisor
//!              worker 0:     up_known, up_unknown, up_events, down_datagrams, down_commands
//!              worker 1:     …
//! ```
//!
//! Three classes of message, each with its own bound, so that one cannot starve another:
//! - **datagrams of known peers** (`up_known`, `down_datagrams`): dropped and counted when the ring is full, which the
//!   reliability layer takes for loss on the wire;
//! - **datagrams of unknown sources** (`up_unknown`): likewise, with a smaller share, so that a flood of resets does not
//!   push live clients out;
//! - **commands** (all others): never dropped. They wait in a bounded queue at the producer; a producer whose queue
//!   overflows has a peer that does not read any more.

use crate::ring::LENGTH_BYTES;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 2_048;

/// Bytes of a message that fit into one slot.
pub const SLOT_PAYLOAD: usize = SLOT_BYTES - LENGTH_BYTES;

/// The most workers a mapping can have.
pub const MAX_WORKERS: usize = 64;

/// Bytes of a sleeper: one cache line.
pub(crate) const SLEEPER_BYTES: usize = 64;
/// Within a sleeper: the NEED_WAKE word.
pub(crate) const NEED_WAKE_AT: usize = 0;
/// Within a sleeper: the word that the control process sleeps on.
pub(crate) const FUTEX_AT: usize = 4;

/// Within a ring: the consumer's index, on its own cache line.
pub(crate) const HEAD_AT: usize = 0;
/// Within a ring: the producer waits for room. Written rarely.
pub(crate) const WANT_ROOM_AT: usize = 64;
/// Within a ring: the producer's index, on its own pair of cache lines.
pub(crate) const TAIL_AT: usize = 128;
/// Bytes in front of a ring's slots.
pub(crate) const RING_HEADER_BYTES: usize = 256;

/// The dimensions of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSpec {
    /// Number of slots, a power of two.
    pub slots: u32,
    /// The longest message, in bytes.
    pub max_message: usize,
}

impl RingSpec {
    const fn checked(slots: u32, max_message: usize) -> RingSpec {
        assert!(slots.is_power_of_two());
        assert!(max_message > 0 && max_message + LENGTH_BYTES <= slots as usize * SLOT_BYTES);
        RingSpec { slots, max_message }
    }

    /// Bytes that the ring takes in the mapping.
    pub const fn bytes(self) -> usize {
        RING_HEADER_BYTES + self.slots as usize * SLOT_BYTES
    }
}

/// Supervisor → control process: certificates and revocation lists make messages of hundreds of KiB.
pub const TO_CONTROL: RingSpec = RingSpec::checked(512, 768 * 1024);
/// Control process → supervisor: 64 KiB of pushed options and what goes with them.
pub const FROM_CONTROL: RingSpec = RingSpec::checked(256, 72 * 1024);
/// Worker → control process: datagrams of peers that the worker knows.
pub const UP_KNOWN: RingSpec = RingSpec::checked(256, SLOT_PAYLOAD);
/// Worker → control process: datagrams of everybody else.
pub const UP_UNKNOWN: RingSpec = RingSpec::checked(64, SLOT_PAYLOAD);
/// Worker → control process: events, which are commands.
pub const UP_EVENTS: RingSpec = RingSpec::checked(64, SLOT_PAYLOAD);
/// Control process → worker: datagrams to be sent.
pub const DOWN_DATAGRAMS: RingSpec = RingSpec::checked(256, SLOT_PAYLOAD);
/// Control process → worker: commands.
pub const DOWN_COMMANDS: RingSpec = RingSpec::checked(128, 16 * 1024);

/// Bytes in front of the first ring: the sleepers.
pub(crate) const HEADER_BYTES: usize = 8_192;
pub(crate) const SUPERVISOR_SLEEPER: usize = 0;
pub(crate) const CONTROL_SLEEPER: usize = SLEEPER_BYTES;

pub(crate) const TO_CONTROL_AT: usize = HEADER_BYTES;
pub(crate) const FROM_CONTROL_AT: usize = TO_CONTROL_AT + TO_CONTROL.bytes();
const WORKERS_AT: usize = FROM_CONTROL_AT + FROM_CONTROL.bytes();

const UP_KNOWN_AT: usize = 0;
const UP_UNKNOWN_AT: usize = UP_KNOWN_AT + UP_KNOWN.bytes();
const UP_EVENTS_AT: usize = UP_UNKNOWN_AT + UP_UNKNOWN.bytes();
const DOWN_DATAGRAMS_AT: usize = UP_EVENTS_AT + UP_EVENTS.bytes();
const DOWN_COMMANDS_AT: usize = DOWN_DATAGRAMS_AT + DOWN_DATAGRAMS.bytes();
const WORKER_BYTES: usize = DOWN_COMMANDS_AT + DOWN_COMMANDS.bytes();

const _: () = {
    assert!((2 + MAX_WORKERS) * SLEEPER_BYTES <= HEADER_BYTES);
    assert!(WORKERS_AT == HEADER_BYTES + 2 * RING_HEADER_BYTES + (512 + 256) * SLOT_BYTES);
    assert!(WORKER_BYTES == 5 * RING_HEADER_BYTES + (256 + 64 + 64 + 256 + 128) * SLOT_BYTES);
    // Every ring header starts on a pair of cache lines.
    assert!(TO_CONTROL_AT.is_multiple_of(128) && FROM_CONTROL_AT.is_multiple_of(128) && WORKERS_AT.is_multiple_of(128));
    assert!(UP_UNKNOWN_AT.is_multiple_of(128) && UP_EVENTS_AT.is_multiple_of(128) && WORKER_BYTES.is_multiple_of(128));
    assert!(DOWN_DATAGRAMS_AT.is_multiple_of(128) && DOWN_COMMANDS_AT.is_multiple_of(128));
    // The whole stays small enough to be kept in memory without a second thought.
    assert!(total_bytes(MAX_WORKERS) <= 128 << 20);
    assert!(crate::message::MAX_DATAGRAM + MAX_PATH_BYTES <= SLOT_PAYLOAD);
};

/// The most bytes that a datagram's path and length take in postcard form: three varints of 16 bits (3 bytes), two of
/// 32 bits (5 bytes), two IPv6 addresses and four one-byte tags.
const MAX_PATH_BYTES: usize = 3 * 3 + 2 * 5 + 2 * 16 + 4;

/// Bytes of the mapping for that many workers (at most [`MAX_WORKERS`]), a multiple of the page size.
pub const fn total_bytes(workers: usize) -> usize {
    (WORKERS_AT + workers * WORKER_BYTES).next_multiple_of(4_096)
}

/// Where the rings of one worker lie, in bytes from the mapping's beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerPlaces {
    pub(crate) sleeper: usize,
    pub(crate) up_known: usize,
    pub(crate) up_unknown: usize,
    pub(crate) up_events: usize,
    pub(crate) down_datagrams: usize,
    pub(crate) down_commands: usize,
}

/// The places of worker `index` (below [`MAX_WORKERS`]).
pub(crate) const fn worker(index: usize) -> WorkerPlaces {
    let at = WORKERS_AT + index * WORKER_BYTES;
    WorkerPlaces {
        sleeper: (2 + index) * SLEEPER_BYTES,
        up_known: at + UP_KNOWN_AT,
        up_unknown: at + UP_UNKNOWN_AT,
        up_events: at + UP_EVENTS_AT,
        down_datagrams: at + DOWN_DATAGRAMS_AT,
        down_commands: at + DOWN_COMMANDS_AT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_places_overlap() {
        for workers in [1, 2, MAX_WORKERS] {
            let mut places = vec![(TO_CONTROL_AT, TO_CONTROL.bytes()), (FROM_CONTROL_AT, FROM_CONTROL.bytes())];
            places.push((SUPERVISOR_SLEEPER, SLEEPER_BYTES));
            places.push((CONTROL_SLEEPER, SLEEPER_BYTES));
            for index in 0..workers {
                let at = worker(index);
                places.push((at.sleeper, SLEEPER_BYTES));
                places.push((at.up_known, UP_KNOWN.bytes()));
                places.push((at.up_unknown, UP_UNKNOWN.bytes()));
                places.push((at.up_events, UP_EVENTS.bytes()));
                places.push((at.down_datagrams, DOWN_DATAGRAMS.bytes()));
                places.push((at.down_commands, DOWN_COMMANDS.bytes()));
            }
            places.sort_unstable();
            for pair in places.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            let last = places.last().unwrap();
            assert!(last.0 + last.1 <= total_bytes(workers));
            assert_eq!(total_bytes(workers) % 4_096, 0);
        }
    }
}

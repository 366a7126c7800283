//! What crosses from the half of a peer that opens to the half that seals, without a lock: the newest key that the peer has
//! proven to have, and when a control packet last went to it. Nothing else may be shared by the two directions of a peer.
//!
//! Each word has one writer, the opening half, and only grows. Neither carries a promise about other memory: the sealing half
//! looks a name up among its own keys, which reached it by a queue of its own, and does nothing while it is not there. So
//! relaxed loads and stores are enough: what a reader can see is an older value, and then it goes on with the older key, as if
//! the packet had come a moment later. That it does not do so for ever is the matter of the bell that is rung after
//! [`Crossing::prove`]: ringing releases, answering it acquires ([`Bell`](crate::sys::bell::Bell)).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use link::message::KeyName;

/// See the file's text. The opening half writes, the sealing half reads.
#[derive(Debug, Default)]
pub struct Crossing {
    proven: AtomicU64,
    control_sent_ns: AtomicU64,
}

/// A name as a number that is greater for a newer key. The least name of all is 0, as if nothing was proven: no key is older than
/// that one, so nothing could be promoted to it.
#[inline]
pub(super) fn rank(name: KeyName) -> u64 {
    u64::from(name.generation) << 32 | u64::from(name.negotiation)
}

impl Crossing {
    /// A packet authenticated on this key. True when no newer or equal one was proven before. Only the opening half calls this.
    #[inline]
    pub fn prove(&self, name: KeyName) -> bool {
        let newer = rank(name) > self.proven.load(Relaxed);
        if newer {
            self.proven.store(rank(name), Relaxed);
        }
        newer
    }

    /// The rank of the newest key that was proven; 0 is none.
    #[inline]
    pub(super) fn proven(&self) -> u64 {
        self.proven.load(Relaxed)
    }

    /// A control packet went to the peer (CLOCK_BOOTTIME, nanoseconds). Only the opening half calls this.
    pub fn control_sent(&self, now_ns: u64) {
        if now_ns > self.control_sent_ns() {
            self.control_sent_ns.store(now_ns, Relaxed);
        }
    }

    /// When a control packet last went to the peer (CLOCK_BOOTTIME, nanoseconds); 0 is never.
    pub fn control_sent_ns(&self) -> u64 {
        self.control_sent_ns.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn name(generation: u32, negotiation: u32) -> KeyName {
        KeyName { peer: 0, generation, negotiation, key_id: 0 }
    }

    #[test]
    fn what_was_proven_never_goes_back() {
        let crossing = Crossing::default();
        assert_eq!(crossing.proven(), 0);
        assert!(crossing.prove(name(0, 2)));
        assert!(!crossing.prove(name(0, 2)) && !crossing.prove(name(0, 1)));
        assert!(crossing.prove(name(1, 0)), "a newer generation begins with small numbers");
        assert!(!crossing.prove(name(0, u32::MAX)));
        assert_eq!(crossing.proven(), rank(name(1, 0)));
        crossing.control_sent(7);
        crossing.control_sent(5);
        assert_eq!(crossing.control_sent_ns(), 7);
    }

    #[test]
    fn a_reader_on_another_thread_sees_names_grow_and_the_last_one_in_the_end() {
        let crossing = Arc::new(Crossing::default());
        let writer = {
            let crossing = Arc::clone(&crossing);
            std::thread::spawn(move || (1..10_000).for_each(|number| assert!(crossing.prove(name(number / 7, number)))))
        };
        let mut seen = 0;
        while !writer.is_finished() {
            let now = crossing.proven();
            assert!(now >= seen);
            seen = now;
        }
        writer.join().unwrap();
        assert_eq!(crossing.proven(), rank(name(9_999 / 7, 9_999)));
    }
}

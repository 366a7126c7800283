//! The sleep protocol on one NEED_WAKE word: how a consumer falls asleep without missing what is being published.
//! What rings and what is slept on is not its business (see `bell`).
//!
//! There is one word per consumer *thread*, whatever the number of rings it reads. The order is that of Dekker:
//!
//! - the consumer sets NEED_WAKE, fences, and looks at its rings once more before it sleeps;
//! - a producer publishes, fences, and then tests NEED_WAKE.
//!
//! Of two sequentially consistent fences one comes first, so either the consumer's second look sees the message or
//! the producer sees NEED_WAKE. The word is a hint between threads that trust each other: a hostile writer can only
//! cause wake-ups that were not needed, or oversleep by itself.

use crate::sync::{AtomicU32, Ordering, fence};

/// Consumer: says that it is about to sleep. After this it must look at every ring once more, and sleep only when
/// all are empty.
pub fn announce(need_wake: &AtomicU32) {
    need_wake.store(1, Ordering::Release);
    fence(Ordering::SeqCst);
}

/// Consumer: it is awake, nobody has to ring.
///
/// An exchange, not a store: a producer's exchange in [`must_ring`] is thereby ordered before the next
/// [`announce`], so that it cannot be taken for a later one.
pub fn cancel(need_wake: &AtomicU32) {
    need_wake.swap(0, Ordering::AcqRel);
}

/// Producer, after publishing: whether it has to ring. Of several producers one is told to.
pub fn must_ring(need_wake: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    need_wake.load(Ordering::Relaxed) == 1
        && need_wake.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

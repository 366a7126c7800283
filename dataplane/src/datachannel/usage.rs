//! What one direction of a key has carried, in the units of the limits, and the one question for a successor that follows from it.

use link::message::{KeyLimits, UsageReason};

/// What one direction of a key has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets.
    pub packets: u64,
    /// Plaintext bytes.
    pub bytes: u64,
    /// 16-byte blocks of plaintext and packets together, as the AEAD limits count.
    pub aead: u64,
}

impl Usage {
    /// One packet of `len` bytes.
    #[inline]
    pub fn packet(len: usize) -> Self {
        Usage { packets: 1, bytes: len as u64, aead: len.div_ceil(16) as u64 + 1 }
    }

    /// `count` packets of `len` bytes each and one of `last` bytes.
    #[inline]
    pub fn packets(count: usize, len: usize, last: usize) -> Self {
        let (n, one, end) = (count as u64, Usage::packet(len), Usage::packet(last));
        Usage { packets: n + 1, bytes: n * one.bytes + end.bytes, aead: n * one.aead + end.aead }
    }

    #[inline]
    pub(super) fn add(&mut self, more: Usage) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.aead = self.aead.saturating_add(more.aead);
    }
}

/// The one question for a successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Asks {
    #[default]
    NotYet,
    Wants(UsageReason),
    Told,
}

impl Asks {
    /// Asks for a successor when `reached`; true when that is news.
    #[inline]
    pub(super) fn ask(&mut self, reason: UsageReason, reached: bool) -> bool {
        let news = reached && *self == Asks::NotYet;
        if news {
            *self = Asks::Wants(reason);
        }
        news
    }

    /// Asks when a soft limit on what was carried is reached.
    #[inline]
    pub(super) fn ask_if_used(&mut self, usage: Usage, limits: &KeyLimits) -> bool {
        if *self != Asks::NotYet {
            return false;
        }
        self.ask(UsageReason::Bytes, usage.bytes >= limits.soft_bytes)
            || self.ask(UsageReason::Packets, usage.packets >= limits.soft_packets)
            || self.ask(UsageReason::AeadLimit, usage.aead >= limits.soft_aead)
    }

    /// The question that nobody has heard yet; it counts as told.
    pub(super) fn take(&mut self) -> Option<UsageReason> {
        let Asks::Wants(reason) = *self else { return None };
        *self = Asks::Told;
        Some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_blocks_and_packets() {
        assert_eq!(Usage::packet(16), Usage { packets: 1, bytes: 16, aead: 2 });
        assert_eq!(Usage::packet(17), Usage { packets: 1, bytes: 17, aead: 3 });
        assert_eq!(Usage::packets(2, 33, 16), Usage { packets: 3, bytes: 82, aead: 10 });
    }

    #[test]
    fn a_question_is_asked_and_told_once() {
        let mut asks = Asks::default();
        assert!(!asks.ask(UsageReason::Bytes, false) && asks.take().is_none());
        assert!(asks.ask(UsageReason::Bytes, true) && !asks.ask(UsageReason::Packets, true));
        assert_eq!((asks.take(), asks.take()), (Some(UsageReason::Bytes), None));
        assert!(!asks.ask(UsageReason::Packets, true));
    }
}

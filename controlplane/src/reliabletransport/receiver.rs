//! The peer's messages until they are in order. Only storing and ordering; acknowledging is `acks`.

use std::collections::VecDeque;

use crate::ids::MessageId;

/// How many ids, from the next expected one on, are stored: what OpenVPN 2.x stores.
pub const WINDOW: u32 = 12;

/// What became of a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// New, and stored. Acknowledge it.
    Accepted,
    /// Had been received before. Not stored, but acknowledge it again: the first acknowledgement was lost.
    Duplicate,
    /// Beyond the window. Not stored, and must not be acknowledged.
    OutOfWindow,
}

/// A reordering buffer of [`WINDOW`] messages.
#[derive(Debug)]
pub struct Receiver {
    next: MessageId,
    /// The place n is the message `next + n`. Never longer than [`WINDOW`].
    stored: VecDeque<Option<Vec<u8>>>,
}

impl Receiver {
    /// Expects `first` as the first id: 0, or 1 after a stateless cookie.
    #[must_use]
    pub fn starting_at(first: MessageId) -> Self {
        Self { next: first, stored: VecDeque::new() }
    }

    /// The id that comes next in order.
    #[must_use]
    pub const fn next_expected(&self) -> MessageId {
        self.next
    }

    /// Whether this message has been received: [`Receiver::accept`] would find it a duplicate.
    #[must_use]
    pub fn has(&self, id: MessageId) -> bool {
        // Beyond what an index can be there is nothing.
        let place = usize::try_from(id.distance_from(self.next)).unwrap_or(usize::MAX);
        id.is_before(self.next) || self.stored.get(place).is_some_and(Option::is_some)
    }

    /// Stores a message, if it is new and within the window. Ids are compared modulo 2^32.
    pub fn accept(&mut self, id: MessageId, payload: Vec<u8>) -> Accept {
        if id.is_before(self.next) {
            return Accept::Duplicate;
        }
        let distance = id.distance_from(self.next);
        if distance >= WINDOW {
            return Accept::OutOfWindow;
        }
        // Below WINDOW, so it fits.
        let place = distance as usize;
        if self.stored.len() <= place {
            self.stored.resize_with(place + 1, || None);
        }
        match self.stored.get_mut(place) {
            Some(slot @ None) => {
                *slot = Some(payload);
                Accept::Accepted
            }
            _ => Accept::Duplicate,
        }
    }

    /// The next message in order, if it has come.
    pub fn pop_in_order(&mut self) -> Option<(MessageId, Vec<u8>)> {
        let payload = self.stored.front_mut()?.take()?;
        self.stored.pop_front();
        let id = self.next;
        self.next = id.next();
        Some((id, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(receiver: &mut Receiver) -> Vec<u32> {
        std::iter::from_fn(|| receiver.pop_in_order()).map(|(id, _)| id.0).collect()
    }

    #[test]
    fn messages_come_out_in_order_whatever_the_order_they_came_in() {
        let mut receiver = Receiver::starting_at(MessageId(0));
        assert_eq!(receiver.accept(MessageId(2), vec![2]), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(1), vec![1]), Accept::Accepted);
        assert_eq!(receiver.pop_in_order(), None);
        assert_eq!(receiver.accept(MessageId(0), vec![0]), Accept::Accepted);
        assert_eq!(receiver.pop_in_order(), Some((MessageId(0), vec![0])));
        assert_eq!(drain(&mut receiver), [1, 2]);
        assert_eq!(receiver.next_expected(), MessageId(3));
    }

    #[test]
    fn the_window_is_twelve_ids_from_the_next_expected_one() {
        let mut receiver = Receiver::starting_at(MessageId(5));
        assert_eq!(receiver.accept(MessageId(16), Vec::new()), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(17), Vec::new()), Accept::OutOfWindow);
        assert_eq!(receiver.accept(MessageId(4), Vec::new()), Accept::Duplicate);
        assert_eq!(receiver.accept(MessageId(5), Vec::new()), Accept::Accepted);
        assert_eq!(drain(&mut receiver), [5]);
        assert_eq!(receiver.accept(MessageId(17), Vec::new()), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(u32::MAX), Vec::new()), Accept::Duplicate);
    }

    #[test]
    fn a_duplicate_is_told_from_a_new_message_and_does_not_replace_it() {
        let mut receiver = Receiver::starting_at(MessageId(0));
        assert_eq!(receiver.accept(MessageId(1), vec![1]), Accept::Accepted);
        assert!(receiver.has(MessageId(1)) && !receiver.has(MessageId(0)) && !receiver.has(MessageId(2)));
        assert!(receiver.has(MessageId(u32::MAX)) && !receiver.has(MessageId(100)));
        assert_eq!(receiver.accept(MessageId(1), vec![9]), Accept::Duplicate);
        assert_eq!(receiver.accept(MessageId(0), vec![0]), Accept::Accepted);
        receiver.pop_in_order();
        assert_eq!(receiver.accept(MessageId(0), vec![9]), Accept::Duplicate);
        assert_eq!(receiver.pop_in_order(), Some((MessageId(1), vec![1])));
        assert_eq!(receiver.pop_in_order(), None);
    }

    #[test]
    fn the_window_passes_the_end_of_the_ids() {
        let mut receiver = Receiver::starting_at(MessageId(u32::MAX - 1));
        assert_eq!(receiver.accept(MessageId(0), Vec::new()), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(9), Vec::new()), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(10), Vec::new()), Accept::OutOfWindow);
        assert_eq!(receiver.accept(MessageId(u32::MAX - 1), Vec::new()), Accept::Accepted);
        assert_eq!(receiver.accept(MessageId(u32::MAX), Vec::new()), Accept::Accepted);
        assert_eq!(drain(&mut receiver), [u32::MAX - 1, u32::MAX, 0]);
        assert_eq!(receiver.accept(MessageId(u32::MAX), Vec::new()), Accept::Duplicate);
    }

    #[test]
    fn what_is_stored_is_bounded() {
        let mut receiver = Receiver::starting_at(MessageId(0));
        for id in 0..1000 {
            receiver.accept(MessageId(id), vec![0; 10]);
        }
        assert_eq!(receiver.stored.len(), WINDOW as usize);
        assert_eq!(drain(&mut receiver).len(), WINDOW as usize);
    }
}

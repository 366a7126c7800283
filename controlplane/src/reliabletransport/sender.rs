//! Our messages until the peer has acknowledged them: the send window, retransmission with backoff,
//! and fast retransmission. What else a packet carries (acknowledgements, protection) is added when
//! it is transmitted.

use std::collections::VecDeque;
use std::time::Duration;

use crate::error::Error;
use crate::ids::MessageId;
use crate::packet::opcode::Opcode;
use crate::timers::Instant;

/// How far the next id may be ahead of the lowest unacknowledged one.
pub const WINDOW: u32 = 6;
/// The first retransmission interval where `tls-timeout` is not given.
pub const TLS_TIMEOUT: Duration = Duration::from_secs(2);
/// Where the doubling of the interval ends (unless `tls-timeout` itself is longer). OpenVPN 2.x goes on
/// doubling within its hand-window; a cap recovers sooner from a long outage.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(4);
/// After so many acknowledgements of later messages a message counts as lost.
pub const FAST_RETRANSMIT_ACKS: u32 = 3;

/// A message that is to be transmitted now.
#[derive(Debug, PartialEq, Eq)]
pub struct Due<'a> {
    /// Its id, the same at every attempt.
    pub id: MessageId,
    /// The packet's opcode.
    pub opcode: Opcode,
    /// The packet's payload.
    pub payload: &'a [u8],
    /// 1 for the first transmission, 2 for the first retransmission, and so on.
    pub attempt: u32,
}

/// The messages of one key-id that are on their way: at most [`WINDOW`].
#[derive(Debug)]
pub struct Sender {
    next: MessageId,
    in_flight: VecDeque<InFlight>,
    tls_timeout: Duration,
}

/// A message without acknowledgement.
#[derive(Debug)]
struct InFlight {
    id: MessageId,
    opcode: Opcode,
    payload: Vec<u8>,
    deadline: Instant,
    timeout: Duration,
    attempts: u32,
    later_acks: u32,
}

impl Sender {
    /// The first message gets id `first`: 0, or 1 after a stateless cookie. `tls_timeout` is the
    /// first retransmission interval, by default [`TLS_TIMEOUT`].
    #[must_use]
    pub fn starting_at(first: MessageId, tls_timeout: Duration) -> Self {
        Self { next: first, in_flight: VecDeque::new(), tls_timeout }
    }

    /// How many messages fit into the window now.
    #[must_use]
    pub fn available(&self) -> usize {
        let lowest = self.in_flight.front().map_or(self.next, |message| message.id);
        // At most WINDOW, so it fits.
        WINDOW.saturating_sub(self.next.distance_from(lowest)) as usize
    }

    /// Whether [`Sender::push`] would take a message.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.available() > 0
    }

    /// Whether everything that was pushed has been acknowledged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether this message has been pushed and acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self, id: MessageId) -> bool {
        id.is_before(self.next) && !self.in_flight.iter().any(|message| message.id == id)
    }

    /// Gives the message an id and makes it due at once.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] while the window is full; ask [`Sender::can_send`] before.
    pub fn push(&mut self, payload: Vec<u8>, opcode: Opcode, now: Instant) -> Result<MessageId, Error> {
        if !self.can_send() {
            return Err(Error::Misuse("the send window is full"));
        }
        let id = self.next;
        self.next = id.next();
        self.in_flight.push_back(InFlight {
            id,
            opcode,
            payload,
            deadline: now,
            timeout: self.tls_timeout,
            attempts: 0,
            later_acks: 0,
        });
        Ok(id)
    }

    /// The lowest message that is due at `now`, which thereby counts as transmitted: its next deadline is
    /// one interval later, and the interval doubles up to [`MAX_TIMEOUT`]. Call until `None`.
    pub fn due(&mut self, now: Instant) -> Option<Due<'_>> {
        let longest = self.tls_timeout.max(MAX_TIMEOUT);
        let message = self.in_flight.iter_mut().find(|message| message.deadline <= now)?;
        // An interval of zero would make it due again at once, for ever.
        message.deadline = now + message.timeout.max(Duration::from_millis(1));
        message.timeout = message.timeout.saturating_mul(2).min(longest);
        message.attempts = message.attempts.saturating_add(1);
        message.later_acks = 0;
        Some(Due { id: message.id, opcode: message.opcode, payload: &message.payload, attempt: message.attempts })
    }

    /// The peer has got `id`. An id that is not on its way is ignored. Messages before it that have been
    /// overtaken [`FAST_RETRANSMIT_ACKS`] times become due at once.
    pub fn on_ack(&mut self, id: MessageId) {
        let place = self.in_flight.iter().position(|message| message.id == id && message.attempts > 0);
        let Some(place) = place else { return };
        self.in_flight.remove(place);
        // Lower ids are always transmitted first, so all of these are on their way.
        for earlier in self.in_flight.iter_mut().take(place) {
            earlier.later_acks = earlier.later_acks.saturating_add(1);
            if earlier.later_acks >= FAST_RETRANSMIT_ACKS {
                earlier.deadline = Instant::default();
            }
        }
    }

    /// Makes everything due at once with the first interval: the peer has just shown that it is there.
    pub fn burst(&mut self, now: Instant) {
        for message in &mut self.in_flight {
            message.deadline = now;
            message.timeout = self.tls_timeout;
        }
    }

    /// When [`Sender::due`] next has something; may lie in the past.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.iter().map(|message| message.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant(1_000_000_000_000);

    fn after(seconds: u64) -> Instant {
        T0 + Duration::from_secs(seconds)
    }

    fn sender(messages: u8) -> Sender {
        let mut sender = Sender::starting_at(MessageId(0), TLS_TIMEOUT);
        for n in 0..messages {
            sender.push(vec![n], Opcode::ControlV1, T0).unwrap();
        }
        sender
    }

    /// Ids and attempts of everything that is due.
    fn due(sender: &mut Sender, now: Instant) -> Vec<(u32, u32)> {
        let mut out = Vec::new();
        while let Some(due) = sender.due(now) {
            out.push((due.id.0, due.attempt));
        }
        out
    }

    #[test]
    fn messages_are_transmitted_in_order_with_their_content() {
        let mut sender = sender(2);
        let opcode = Opcode::ControlV1;
        let expected = Due { id: MessageId(0), opcode, payload: &[0], attempt: 1 };
        assert_eq!(sender.due(T0), Some(expected));
        assert_eq!(due(&mut sender, T0), [(1, 1)]);
        assert_eq!(sender.due(T0), None);
    }

    #[test]
    fn a_lost_message_is_sent_again_after_2_then_4_then_every_4_seconds() {
        let mut sender = sender(1);
        for (attempt, at) in [(1, 0), (2, 2), (3, 6), (4, 10), (5, 14)] {
            assert_eq!(sender.next_deadline(), Some(after(at)));
            assert_eq!(sender.due(Instant(after(at).0 - 1)), None, "not before its time");
            assert_eq!(due(&mut sender, after(at)), [(0, attempt)]);
        }
    }

    #[test]
    fn a_tls_timeout_beyond_the_cap_is_kept() {
        let mut sender = Sender::starting_at(MessageId(0), Duration::from_secs(9));
        sender.push(Vec::new(), Opcode::ControlV1, T0).unwrap();
        for at in [0, 9, 18] {
            assert_eq!(sender.next_deadline(), Some(after(at)));
            assert!(sender.due(after(at)).is_some());
        }
    }

    #[test]
    fn a_tls_timeout_of_zero_does_not_spin() {
        let mut sender = Sender::starting_at(MessageId(0), Duration::ZERO);
        sender.push(Vec::new(), Opcode::ControlV1, T0).unwrap();
        assert_eq!(due(&mut sender, T0), [(0, 1)]);
    }

    #[test]
    fn an_acknowledged_message_is_not_sent_again() {
        let mut sender = sender(2);
        assert!(!sender.is_acknowledged(MessageId(0)));
        due(&mut sender, T0);
        sender.on_ack(MessageId(0));
        assert!(sender.is_acknowledged(MessageId(0)));
        assert!(!sender.is_acknowledged(MessageId(1)));
        assert!(!sender.is_acknowledged(MessageId(2)), "was never pushed");
        assert_eq!(due(&mut sender, after(2)), [(1, 2)]);
        sender.on_ack(MessageId(1));
        assert!(sender.is_empty());
        assert_eq!(sender.next_deadline(), None);
    }

    #[test]
    fn an_ack_for_an_unknown_or_untransmitted_id_is_ignored() {
        let mut sender = sender(2);
        sender.on_ack(MessageId(0));
        assert_eq!(due(&mut sender, T0), [(0, 1), (1, 1)], "nobody can have got them");
        sender.on_ack(MessageId(7));
        sender.on_ack(MessageId(u32::MAX));
        assert_eq!(due(&mut sender, after(2)), [(0, 2), (1, 2)]);
    }

    #[test]
    fn the_window_is_full_at_six_and_moves_only_with_the_lowest() {
        let mut sender = sender(6);
        assert!(!sender.can_send());
        let refused = sender.push(Vec::new(), Opcode::ControlV1, T0);
        assert!(matches!(refused, Err(Error::Misuse(_))));
        due(&mut sender, T0);
        sender.on_ack(MessageId(3));
        assert!(!sender.can_send(), "the lowest is still on its way");
        sender.on_ack(MessageId(0));
        assert_eq!(sender.available(), 1);
        let pushed = sender.push(Vec::new(), Opcode::ControlV1, T0);
        assert_eq!(pushed, Ok(MessageId(6)));
        assert!(!sender.can_send());
    }

    /// (next id, lowest id on its way, room)
    #[test]
    fn the_room_in_the_window_is_counted_modulo_2_to_the_32() {
        for (next, lowest, room) in [
            (103u32, 103u32, 6),
            (103, 102, 5),
            (103, 100, 3),
            (103, 98, 1),
            (103, 97, 0),
            (0, u32::MAX, 5),
            (2, u32::MAX - 1, 2),
            (2, u32::MAX - 3, 0),
        ] {
            let mut sender = Sender::starting_at(MessageId(lowest), TLS_TIMEOUT);
            for _ in 0..next.wrapping_sub(lowest) {
                sender.push(Vec::new(), Opcode::ControlV1, T0).unwrap();
            }
            assert_eq!(sender.next, MessageId(next));
            assert_eq!(sender.available(), room, "next {next}, lowest {lowest}");
        }
    }

    #[test]
    fn three_acks_of_later_messages_bring_a_message_back_at_once() {
        let mut sender = sender(5);
        due(&mut sender, T0);
        sender.on_ack(MessageId(1));
        sender.on_ack(MessageId(2));
        sender.on_ack(MessageId(2));
        assert_eq!(due(&mut sender, after(1)), [], "an id counts once");
        sender.on_ack(MessageId(3));
        assert!(sender.next_deadline() <= Some(after(1)));
        assert_eq!(due(&mut sender, after(1)), [(0, 2)]);
        sender.on_ack(MessageId(4));
        assert_eq!(due(&mut sender, after(1)), [], "the count starts anew after each transmission");
    }

    #[test]
    fn acks_of_earlier_messages_do_not_count_as_overtaking() {
        let mut sender = sender(6);
        due(&mut sender, T0);
        [0, 1, 2, 3].into_iter().for_each(|id| sender.on_ack(MessageId(id)));
        assert_eq!(due(&mut sender, after(1)), []);
    }

    #[test]
    fn a_burst_sends_everything_again_with_the_first_interval() {
        let mut sender = sender(1);
        due(&mut sender, T0);
        due(&mut sender, after(2));
        sender.burst(after(3));
        assert_eq!(due(&mut sender, after(3)), [(0, 3)]);
        assert_eq!(sender.next_deadline(), Some(after(5)));
    }

    #[test]
    fn ids_pass_the_end_of_their_range() {
        let mut sender = Sender::starting_at(MessageId(u32::MAX), TLS_TIMEOUT);
        assert_eq!(sender.push(Vec::new(), Opcode::ControlV1, T0), Ok(MessageId(u32::MAX)));
        assert_eq!(sender.push(Vec::new(), Opcode::ControlV1, T0), Ok(MessageId(0)));
        assert_eq!(due(&mut sender, T0), [(u32::MAX, 1), (0, 1)]);
        sender.on_ack(MessageId(u32::MAX));
        assert!(sender.is_acknowledged(MessageId(u32::MAX)));
        assert!(!sender.is_acknowledged(MessageId(0)));
    }
}

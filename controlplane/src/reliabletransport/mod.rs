//! The reliability layer of one key-id: message ids, retransmission, reordering, acknowledgements.
//! Each part is a value of its own, [`Sender`], [`Receiver`] and [`AckState`]; [`ReliableTransport`] only
//! holds the three together and sorts a received packet into them. No bytes of the wire, no TLS.

pub mod acks;
pub mod receiver;
pub mod sender;

use std::time::Duration;

use crate::error::DropReason;
use crate::ids::MessageId;
use crate::packet::control::ControlPacket;

pub use acks::AckState;
pub use receiver::{Accept, Receiver};
pub use sender::{Due, Sender};

/// The three parts of one key-id's reliability.
#[derive(Debug)]
pub struct ReliableTransport {
    /// What we send until it is acknowledged.
    pub sender: Sender,
    /// What the peer sent, until it is in order.
    pub receiver: Receiver,
    /// What we owe the peer acknowledgements for.
    pub acks: AckState,
}

impl ReliableTransport {
    /// Nothing sent, nothing received. `tls_timeout` is the first retransmission interval, by default
    /// [`sender::TLS_TIMEOUT`].
    #[must_use]
    pub fn new(tls_timeout: Duration) -> Self {
        Self::starting_at(MessageId(0), tls_timeout)
    }

    /// The server's side after a stateless cookie: both resets, id 0 each way, have happened already.
    #[must_use]
    pub fn skipped(tls_timeout: Duration) -> Self {
        let mut transport = Self::starting_at(MessageId(1), tls_timeout);
        transport.acks.note_sent(MessageId(0));
        transport
    }

    /// Takes in a packet whose session ids and key-id were checked: its acknowledgements reach the sender,
    /// its message the receiver, and an acknowledgement is owed for it. Then drain
    /// [`Receiver::pop_in_order`].
    ///
    /// # Errors
    ///
    /// [`DropReason::OutOfWindow`] if the message is beyond the receive window; the packet's own
    /// acknowledgements have counted nevertheless.
    pub fn receive(&mut self, packet: ControlPacket) -> Result<(), DropReason> {
        packet.acks.iter().for_each(|id| self.sender.on_ack(id));
        let Some(id) = packet.message_id else {
            return Ok(());
        };
        match self.receiver.accept(id, packet.payload) {
            Accept::Accepted | Accept::Duplicate => {
                self.acks.owe(id);
                Ok(())
            }
            Accept::OutOfWindow => Err(DropReason::OutOfWindow),
        }
    }

    fn starting_at(first: MessageId, tls_timeout: Duration) -> Self {
        Self {
            sender: Sender::starting_at(first, tls_timeout),
            receiver: Receiver::starting_at(first),
            acks: AckState::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyId, SessionId};
    use crate::packet::{AckList, Opcode};
    use crate::timers::Instant;
    use proptest::prelude::*;

    fn packet(opcode: Opcode, acks: AckList, message: Option<(MessageId, Vec<u8>)>) -> ControlPacket {
        let session_id = SessionId::from_bytes([1; 8]).unwrap();
        let (message_id, payload) = message.unzip();
        ControlPacket {
            opcode,
            key_id: KeyId::FIRST,
            session_id,
            acks,
            remote_session_id: (!acks.is_empty()).then_some(session_id),
            message_id,
            payload: payload.unwrap_or_default(),
        }
    }

    /// One end: queues its messages as the window allows, and yields what it transmits at `now`.
    struct End {
        transport: ReliableTransport,
        to_send: Vec<Vec<u8>>,
        received: Vec<Vec<u8>>,
    }

    impl End {
        fn new(to_send: Vec<Vec<u8>>) -> Self {
            let transport = ReliableTransport::new(sender::TLS_TIMEOUT);
            Self { transport, to_send, received: Vec::new() }
        }

        fn transmit(&mut self, now: Instant) -> Vec<ControlPacket> {
            while self.transport.sender.can_send() && !self.to_send.is_empty() {
                let payload = self.to_send.remove(0);
                self.transport.sender.push(payload, Opcode::ControlV1, now).unwrap();
            }
            let mut out = Vec::new();
            while let Some(due) = self.transport.sender.due(now) {
                let acks = self.transport.acks.take_for_control();
                out.push(packet(due.opcode, acks, Some((due.id, due.payload.to_vec()))));
            }
            while self.transport.acks.has_pending() {
                out.push(packet(Opcode::AckV1, self.transport.acks.take_for_ack(), None));
            }
            out
        }

        fn receive(&mut self, packet: ControlPacket) {
            let _ = self.transport.receive(packet);
            while let Some((_, payload)) = self.transport.receiver.pop_in_order() {
                self.received.push(payload);
            }
        }
    }

    /// A network that loses, doubles and reorders as `chance` (one byte per decision) says.
    struct Network {
        chance: Vec<u8>,
        decisions: usize,
        on_the_way: Vec<(u64, bool, ControlPacket)>,
    }

    impl Network {
        fn roll(&mut self) -> u8 {
            self.decisions += 1;
            // After the recorded chance the network is perfect, so that every run ends.
            self.chance.get(self.decisions - 1).copied().unwrap_or(255)
        }

        fn carry(&mut self, now: u64, to_b: bool, packet: ControlPacket) {
            let roll = self.roll();
            let copies = match roll {
                0..80 => 0,
                80..120 => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let delay = if roll == 255 { 1 } else { 1 + u64::from(self.roll()) * 20_000_000 };
                self.on_the_way.push((now + delay, to_b, packet.clone()));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_message_arrives_once_and_in_order_over_a_bad_network(
            chance in prop::collection::vec(any::<u8>(), 0..400), count_a in 0usize..40, count_b in 0usize..40,
        ) {
            let messages = |tag: u8, count| (0..count).map(|n| vec![tag, n as u8]).collect::<Vec<_>>();
            let (from_a, from_b) = (messages(1, count_a), messages(2, count_b));
            let (mut a, mut b) = (End::new(from_a.clone()), End::new(from_b.clone()));
            let mut network = Network { chance, decisions: 0, on_the_way: Vec::new() };
            let mut now = Instant(0);
            for _ in 0..100_000 {
                for packet in a.transmit(now) { network.carry(now.0, true, packet); }
                for packet in b.transmit(now) { network.carry(now.0, false, packet); }
                let deadlines = [a.transport.sender.next_deadline(), b.transport.sender.next_deadline()];
                let arrivals = network.on_the_way.iter().map(|&(at, ..)| Instant(at));
                let Some(next) = deadlines.into_iter().flatten().chain(arrivals).min() else { break };
                prop_assert!(next > now, "nothing is due right after it was transmitted");
                now = next;
                let (arrived, rest) = std::mem::take(&mut network.on_the_way)
                    .into_iter()
                    .partition(|&(at, ..)| at <= now.0);
                network.on_the_way = rest;
                for (_, to_b, packet) in arrived {
                    if to_b { b.receive(packet) } else { a.receive(packet) }
                }
            }
            prop_assert_eq!(&b.received, &from_a);
            prop_assert_eq!(&a.received, &from_b);
            prop_assert!(a.transport.sender.is_empty() && b.transport.sender.is_empty());
        }
    }

    #[test]
    fn a_message_beyond_the_window_is_not_acknowledged_but_its_acks_count() {
        let mut transport = ReliableTransport::new(sender::TLS_TIMEOUT);
        let id = transport.sender.push(Vec::new(), Opcode::ControlV1, Instant(0)).unwrap();
        let acks = AckList::from_slice(&[id]).unwrap();
        assert!(transport.sender.due(Instant(0)).is_some());
        let beyond = packet(Opcode::ControlV1, acks, Some((MessageId(12), vec![1])));
        assert_eq!(transport.receive(beyond), Err(DropReason::OutOfWindow));
        assert!(!transport.acks.has_pending());
        assert!(transport.sender.is_empty());
        let last = packet(Opcode::ControlV1, acks, Some((MessageId(11), vec![1])));
        assert_eq!(transport.receive(last), Ok(()));
        assert!(transport.acks.has_pending());
    }

    #[test]
    fn a_duplicate_is_acknowledged_again() {
        let mut transport = ReliableTransport::new(sender::TLS_TIMEOUT);
        let message = packet(Opcode::ControlV1, AckList::new(), Some((MessageId(0), vec![1])));
        for _ in 0..2 {
            assert_eq!(transport.receive(message.clone()), Ok(()));
            assert_eq!(transport.acks.take_for_ack().as_slice(), [MessageId(0)]);
            assert!(!transport.acks.has_pending());
        }
        assert!(transport.receiver.pop_in_order().is_some());
        assert!(transport.receiver.pop_in_order().is_none());
        assert_eq!(transport.receive(message), Ok(()));
        assert!(transport.acks.has_pending());
        assert!(transport.receiver.pop_in_order().is_none());
    }

    #[test]
    fn a_session_made_by_a_cookie_goes_on_at_id_1_both_ways() {
        let mut transport = ReliableTransport::skipped(sender::TLS_TIMEOUT);
        let first = packet(Opcode::ControlV1, AckList::new(), Some((MessageId(1), vec![7])));
        assert_eq!(transport.receive(first), Ok(()));
        assert_eq!(transport.receiver.pop_in_order(), Some((MessageId(1), vec![7])));
        let id = transport.sender.push(Vec::new(), Opcode::ControlV1, Instant(0)).unwrap();
        assert_eq!(id, MessageId(1));
        assert_eq!(transport.acks.take_for_control().as_slice(), [MessageId(1), MessageId(0)]);
    }
}

//! What an onlooker is told of the TLS stream of one negotiation: the names of what begins in each packet, and of the messages
//! that it completes. There only while somebody looks on.

use std::collections::VecDeque;

use crate::ids::MessageId;
use crate::reliabletransport::sender;
use crate::tlssession::records::{ENCRYPTED, RecordNames};

/// The most names that one packet gets: a peer may make its records as short as it likes.
const MAX_NAMES: usize = 16;
/// The most names that wait for the packet that takes them along.
const MAX_MARKS: usize = 256;

/// Follows both directions.
#[derive(Debug, Default)]
pub(super) struct Watch {
    received: RecordNames,
    /// Names of the packet that is being taken in.
    heard: Vec<&'static str>,
    sent: RecordNames,
    /// Bytes of our stream that were named, and that were put into packets.
    named: u64,
    packed: u64,
    /// Where in our stream what begins.
    marks: VecDeque<(u64, &'static str)>,
    /// What was written and is not yet named, in order: one record each.
    said: VecDeque<&'static str>,
    /// Of packets that may be repeated.
    in_flight: VecDeque<(MessageId, Vec<&'static str>)>,
}

impl Watch {
    /// Bytes of the peer's stream, in order.
    pub(super) fn receives(&mut self, bytes: &[u8], handshaking: bool) {
        let heard = &mut self.heard;
        self.received.feed(bytes, handshaking, |_, name| keep(heard, name));
    }

    /// A message of the peer is complete.
    pub(super) fn hears(&mut self, name: &'static str) {
        keep(&mut self.heard, name);
    }

    /// The names of the packet that was taken in.
    pub(super) fn take_heard(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.heard)
    }

    /// A message was given to TLS, which makes one record of it.
    pub(super) fn says(&mut self, name: &'static str) {
        if self.said.len() < MAX_MARKS {
            self.said.push_back(name);
        }
    }

    /// Bytes were added to our stream.
    pub(super) fn sends(&mut self, bytes: &[u8], handshaking: bool) {
        let Watch { sent, named, marks, said, .. } = self;
        sent.feed(bytes, handshaking, |place, name| {
            let message = if name == ENCRYPTED { said.pop_front() } else { None };
            for name in [Some(name), message].into_iter().flatten() {
                if marks.len() < MAX_MARKS {
                    marks.push_back((named.saturating_add(place as u64), name));
                }
            }
        });
        *named = named.saturating_add(bytes.len() as u64);
    }

    /// The next `len` bytes of our stream are the payload of this message.
    pub(super) fn packs(&mut self, id: MessageId, len: usize) {
        self.packed = self.packed.saturating_add(len as u64);
        let mut names = Vec::new();
        while let Some((_, name)) = self.marks.pop_front_if(|(place, _)| *place < self.packed) {
            keep(&mut names, name);
        }
        while self.in_flight.len() >= sender::WINDOW as usize {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((id, names));
    }

    /// What begins in this message.
    pub(super) fn names_of(&self, id: MessageId) -> Vec<&'static str> {
        self.in_flight.iter().find(|(of, _)| *of == id).map(|(_, names)| names.clone()).unwrap_or_default()
    }
}

fn keep(names: &mut Vec<&'static str>, name: &'static str) {
    if names.len() < MAX_NAMES {
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3, 0, u8::try_from(body.len()).unwrap()][..], body].concat()
    }

    #[test]
    fn a_name_goes_with_the_packet_in_which_it_begins_also_when_that_is_repeated() {
        let mut watch = Watch::default();
        let stream = [record(22, &[[1, 0, 0, 96].as_slice(), &[0; 96]].concat()), record(23, &[0; 40])].concat();
        watch.says("key_message");
        watch.sends(&stream, false);
        watch.packs(MessageId(1), 60);
        watch.packs(MessageId(2), 60);
        watch.packs(MessageId(3), 30);
        for _ in 0..2 {
            assert_eq!(watch.names_of(MessageId(1)), ["client_hello"]);
            assert_eq!(watch.names_of(MessageId(2)), ["encrypted", "key_message"]);
            assert_eq!(watch.names_of(MessageId(3)), [""; 0]);
        }
        (4..20).for_each(|id| watch.packs(MessageId(id), 0));
        assert_eq!(watch.names_of(MessageId(1)), [""; 0], "nothing is kept for ever");
    }

    #[test]
    fn records_of_the_handshake_take_no_message_along() {
        let mut watch = Watch::default();
        watch.sends(&record(23, &[0; 10]), true);
        watch.says("push_request");
        watch.sends(&record(23, &[0; 10]), false);
        watch.packs(MessageId(1), 30);
        assert_eq!(watch.names_of(MessageId(1)), ["encrypted_handshake", "encrypted", "push_request"]);
    }

    #[test]
    fn a_peer_that_makes_endless_records_fills_nothing() {
        let mut watch = Watch::default();
        watch.receives(&record(23, &[]).repeat(1_000), false);
        assert_eq!(watch.take_heard().len(), MAX_NAMES);
        assert!(watch.take_heard().is_empty());
        watch.sends(&record(23, &[]).repeat(1_000), false);
        watch.packs(MessageId(1), usize::MAX);
        assert_eq!(watch.names_of(MessageId(1)).len(), MAX_NAMES);
        assert!(watch.marks.is_empty());
    }
}

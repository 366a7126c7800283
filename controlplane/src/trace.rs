//! What an onlooker of a handshake is told: each change of stage, each control packet that came, went or was dropped. Names and
//! numbers only, as they stand on the wire in the clear; no payload, no key, no text of a control message. Off by default; see
//! [`Client::observe`](crate::Client::observe).

use crate::error::DropReason;
use crate::ids::{KeyId, MessageId, SessionId};
use crate::packet::control::{AckList, ControlPacket};
use crate::packet::opcode::Opcode;
use crate::timers::Instant;

/// The most records that wait to be taken; what comes above is counted and lost.
pub const MAX_RECORDS: usize = 4_096;

/// Records in the order in which things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// What happened since the last call.
    pub records: Vec<Record>,
    /// How many records found no room ([`MAX_RECORDS`]).
    pub missed: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// The session; 0 before the first one.
    pub generation: u32,
    /// Where the session stood; of a change of stage, the new one.
    pub stage: Stage,
    /// What happened.
    pub what: What,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The session is at another stage now.
    Stage,
    /// A control packet came and was accepted (or had been accepted before: [`Packet::duplicate`]).
    In(Packet),
    /// A control packet went out.
    Out(Packet),
    /// A datagram came and was not accepted.
    Dropped(Packet, DropReason),
}

/// How far a session is with its first key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing was sent.
    #[default]
    Initial,
    /// Our reset is on its way; the peer's is awaited.
    PreStart,
    /// Both resets have happened: TLS.
    Start,
    /// TLS is done and our key message was said.
    SentKey,
    /// The peer's key message is here.
    GotKey,
    /// The control channel is complete: the settings are asked for, or the login is judged.
    Active,
    /// The data keys are made and installed.
    GeneratedKeys,
    /// The session failed.
    Error,
}

impl Stage {
    /// The name of the stage, `S_INITIAL` to `S_GENERATED_KEYS`, and `S_ERROR`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Initial => "S_INITIAL",
            Stage::PreStart => "S_PRE_START",
            Stage::Start => "S_START",
            Stage::SentKey => "S_SENT_KEY",
            Stage::GotKey => "S_GOT_KEY",
            Stage::Active => "S_ACTIVE",
            Stage::GeneratedKeys => "S_GENERATED_KEYS",
            Stage::Error => "S_ERROR",
        }
    }
}

/// A packet as an onlooker may see it. Of a datagram that was dropped before it was understood only the first fields are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// The upper five bits of the first byte, whatever they mean; `None` for a datagram without bytes.
    pub opcode_number: Option<u8>,
    /// The opcode, if there is such a one.
    pub opcode: Option<Opcode>,
    /// The key-id.
    pub key_id: Option<KeyId>,
    /// The sender's session id.
    pub session_id: Option<SessionId>,
    /// The receiver's session id, echoed with acknowledgements.
    pub remote_session_id: Option<SessionId>,
    /// The message id; `None` of ACK_V1.
    pub message_id: Option<MessageId>,
    /// The messages that it acknowledges.
    pub acks: AckList,
    /// Bytes behind the message id.
    pub payload_size: usize,
    /// Bytes of the whole datagram, without IP and UDP headers.
    pub datagram_size: usize,
    /// Of a packet of ours: 1 when sent first, 2 when repeated, and so on. 0 of a packet that came.
    pub send_attempts: u32,
    /// Its message had come before; it is acknowledged again.
    pub duplicate: bool,
    /// TLS messages that begin in it, and control messages that it completes or that begin in it, by name.
    pub names: Vec<&'static str>,
}

impl Packet {
    /// What the first bytes of a datagram say of themselves, checked or not.
    fn of_datagram(bytes: &[u8]) -> Packet {
        let known = bytes.first().and_then(|first| Opcode::parse_first(*first).ok());
        let (opcode, key_id) = known.unzip();
        // Data packets have no session id.
        let has_session = opcode.is_some_and(|opcode| !opcode.is_data());
        let sid = bytes.get(1..ControlPacket::HEADER_LEN).filter(|_| has_session);
        Packet {
            opcode_number: bytes.first().map(|first| first >> 3),
            opcode,
            key_id,
            session_id: sid.and_then(|sid| SessionId::from_bytes(sid.try_into().ok()?)),
            datagram_size: bytes.len(),
            ..Packet::default()
        }
    }

    fn fill(&mut self, packet: &ControlPacket) {
        self.opcode_number = Some(packet.opcode as u8);
        self.opcode = Some(packet.opcode);
        self.key_id = Some(packet.key_id);
        self.session_id = Some(packet.session_id);
        self.remote_session_id = packet.remote_session_id;
        self.message_id = packet.message_id;
        self.acks = packet.acks;
        self.payload_size = packet.payload.len();
    }
}

/// What an endpoint notes for its onlooker.
#[derive(Debug, Default)]
pub(crate) struct Log {
    records: Vec<Record>,
    missed: u64,
    generation: u32,
    stage: Stage,
    /// The place of the record of the packet that is being taken in.
    incoming: Option<usize>,
}

impl Log {
    /// A session begins.
    pub(crate) fn begin(&mut self, at: Instant, generation: u32) {
        self.generation = generation;
        self.stage = Stage::Initial;
        self.push(at, What::Stage);
    }

    /// Notes the stage, if it is another one.
    pub(crate) fn stage(&mut self, at: Instant, stage: Stage) {
        if self.stage != stage {
            self.stage = stage;
            self.push(at, What::Stage);
        }
    }

    /// A datagram came. What is found out about it goes to the same record, so that it stands before what it causes.
    pub(crate) fn incoming(&mut self, at: Instant, bytes: &[u8]) {
        self.incoming = None;
        if self.push(at, What::In(Packet::of_datagram(bytes))) {
            self.incoming = self.records.len().checked_sub(1);
        }
    }

    /// It was decoded.
    pub(crate) fn decoded(&mut self, packet: &ControlPacket) {
        if let Some(seen) = self.seen() {
            seen.fill(packet);
        }
    }

    /// It was taken in.
    pub(crate) fn taken(&mut self, duplicate: bool, names: Vec<&'static str>) {
        if let Some(seen) = self.seen() {
            seen.duplicate = duplicate;
            seen.names = names;
        }
    }

    /// It was dropped after all.
    pub(crate) fn dropped(&mut self, reason: DropReason) {
        let place = self.incoming.take();
        if let Some(record) = place.and_then(|place| self.records.get_mut(place))
            && let What::In(packet) = &mut record.what
        {
            record.what = What::Dropped(std::mem::take(packet), reason);
        }
    }

    /// A packet went out.
    pub(crate) fn outgoing(&mut self, at: Instant, packet: &ControlPacket, datagram_size: usize, sent: Sent) {
        let mut seen = Packet { datagram_size, send_attempts: sent.attempt, names: sent.names, ..Packet::default() };
        seen.fill(packet);
        self.push(at, What::Out(seen));
    }

    /// What was noted since the last call.
    pub(crate) fn take(&mut self) -> Trace {
        self.incoming = None;
        Trace { records: std::mem::take(&mut self.records), missed: std::mem::take(&mut self.missed) }
    }

    fn seen(&mut self) -> Option<&mut Packet> {
        match &mut self.records.get_mut(self.incoming?)?.what {
            What::In(packet) => Some(packet),
            _ => None,
        }
    }

    fn push(&mut self, at: Instant, what: What) -> bool {
        let room = self.records.len() < MAX_RECORDS;
        if room {
            self.records.push(Record { at, generation: self.generation, stage: self.stage, what });
        } else {
            self.missed = self.missed.saturating_add(1);
        }
        room
    }
}

/// What is known of a packet of ours besides its fields.
#[derive(Debug)]
pub(crate) struct Sent {
    /// 1 for the first transmission.
    pub(crate) attempt: u32,
    /// What begins in it.
    pub(crate) names: Vec<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Instant = Instant(5);

    #[test]
    fn a_stage_is_noted_when_it_changes() {
        let mut log = Log::default();
        log.begin(AT, 3);
        log.stage(AT, Stage::Initial);
        log.stage(AT, Stage::PreStart);
        log.stage(AT, Stage::PreStart);
        let stages: Vec<_> = log.take().records.iter().map(|r| (r.generation, r.stage, r.what.clone())).collect();
        assert_eq!(stages, [(3, Stage::Initial, What::Stage), (3, Stage::PreStart, What::Stage)]);
        assert_eq!(log.take(), Trace::default());
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let mut log = Log::default();
        for _ in 0..MAX_RECORDS + 7 {
            log.incoming(AT, &[0x38]);
        }
        // The records are full: this says nothing about the last one that is there.
        log.dropped(DropReason::BadTag);
        let trace = log.take();
        assert_eq!((trace.records.len(), trace.missed), (MAX_RECORDS, 7));
        assert!(trace.records.iter().all(|record| matches!(record.what, What::In(_))));
        assert_eq!(log.take().missed, 0);
    }

    #[test]
    fn a_datagram_that_is_not_understood_says_what_can_be_seen() {
        type Case = (&'static [u8], Option<u8>, Option<Opcode>, bool);
        let cases: [Case; 5] = [
            (&[], None, None, false),
            (&[0xff; 20], Some(31), None, false),
            (&[0x40; 9], Some(8), Some(Opcode::HardResetServerV2), true),
            (&[0x40; 8], Some(8), Some(Opcode::HardResetServerV2), false),
            (&[0x48; 20], Some(9), Some(Opcode::DataV2), false),
        ];
        for (bytes, number, opcode, has_session) in cases {
            let packet = Packet::of_datagram(bytes);
            assert_eq!((packet.opcode_number, packet.opcode), (number, opcode), "{bytes:?}");
            assert_eq!(packet.session_id.is_some(), has_session, "{bytes:?}");
            assert_eq!(packet.datagram_size, bytes.len());
        }
    }

    #[test]
    fn a_dropped_packet_keeps_its_place_before_what_follows() {
        let mut log = Log::default();
        log.incoming(AT, &[0x28; 9]);
        log.stage(AT, Stage::Error);
        log.dropped(DropReason::Replayed);
        log.dropped(DropReason::BadTag);
        log.taken(true, vec!["late"]);
        let trace = log.take();
        assert!(
            matches!(&trace.records[0].what, What::Dropped(packet, DropReason::Replayed) if packet.names.is_empty())
        );
        assert_eq!(trace.records[1].what, What::Stage);
    }
}

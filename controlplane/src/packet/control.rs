//! The control packet behind its protection: acknowledged ids, message id, payload. Decoding and
//! encoding only; opcode, key-id and session id stand in front of the protection and come from there.

use crate::error::{Error, Malformed};
use crate::ids::{KeyId, MessageId, SessionId};
use crate::packet::opcode::Opcode;
use crate::packet::reader::Reader;

/// The ids that one packet acknowledges: at most eight, the limit of OpenVPN 2.x.
#[derive(Clone, Copy, Default)]
pub struct AckList {
    ids: [MessageId; Self::MAX],
    len: usize,
}

impl AckList {
    /// The most ids that one packet may acknowledge.
    pub const MAX: usize = 8;

    /// No ids.
    #[must_use]
    pub const fn new() -> Self {
        Self { ids: [MessageId(0); Self::MAX], len: 0 }
    }

    /// These ids, or `None` if there are more than [`AckList::MAX`].
    #[must_use]
    pub fn from_slice(ids: &[MessageId]) -> Option<Self> {
        let mut list = Self::new();
        ids.iter().all(|&id| list.push(id)).then_some(list)
    }

    /// Adds an id; false, and nothing is added, if the list is full.
    #[must_use]
    pub fn push(&mut self, id: MessageId) -> bool {
        match self.ids.get_mut(self.len) {
            Some(place) => {
                *place = id;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// The ids, in the order of the wire.
    #[must_use]
    pub fn as_slice(&self) -> &[MessageId] {
        &self.ids[..self.len]
    }

    /// The ids, in the order of the wire.
    pub fn iter(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.as_slice().iter().copied()
    }

    /// How many ids there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the array of `count` ids takes on the wire, with the echoed session id.
    #[must_use]
    pub const fn wire_len(count: usize) -> usize {
        if count == 0 { 1 } else { 1 + 4 * count + SessionId::LEN }
    }
}

impl PartialEq for AckList {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for AckList {}

impl std::fmt::Debug for AckList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|id| id.0)).finish()
    }
}

/// A control packet without its protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPacket {
    /// What kind of control packet; never one of the data channel.
    pub opcode: Opcode,
    /// The key-id that it belongs to.
    pub key_id: KeyId,
    /// The sender's session id.
    pub session_id: SessionId,
    /// The receiver's messages that the sender has got.
    pub acks: AckList,
    /// The receiver's session id, echoed; there exactly if `acks` is not empty.
    pub remote_session_id: Option<SessionId>,
    /// The message's id; there exactly if the opcode is not ACK_V1.
    pub message_id: Option<MessageId>,
    /// Bytes of the TLS stream, or of early negotiation in a server's reset; empty in ACK_V1.
    pub payload: Vec<u8>,
}

impl ControlPacket {
    /// Bytes of opcode, key-id and session id, which stand in front of every protection.
    pub const HEADER_LEN: usize = 1 + SessionId::LEN;

    /// Decodes `body`, what follows the session id and the fields of the protection.
    ///
    /// # Errors
    ///
    /// [`Malformed`], if the body ends early, if ACK_V1 has bytes left over, if more than eight ids are
    /// acknowledged, if the echoed session id is zero, if the opcode is not a control packet's, or
    /// if a reset has another message id than 0.
    pub fn decode(opcode: Opcode, key_id: KeyId, session_id: SessionId, body: &[u8]) -> Result<Self, Malformed> {
        if opcode.is_data() {
            return Err(Malformed::NotControl);
        }
        let mut reader = Reader::new(body);
        let (acks, remote_session_id) = decode_acks(&mut reader)?;
        let mut message_id = None;
        let mut payload = Vec::new();
        if opcode.has_message_id() {
            let id = MessageId(reader.u32()?);
            if opcode.is_reset() && id != MessageId(0) {
                return Err(Malformed::ResetIdNotZero);
            }
            message_id = Some(id);
            payload = reader.rest().to_vec();
        } else {
            reader.finish()?;
        }
        Ok(Self { opcode, key_id, session_id, acks, remote_session_id, message_id, payload })
    }

    /// Encodes what follows the session id and the fields of the protection.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`], if the fields contradict each other: acknowledged ids without the receiver's
    /// session id, an ACK_V1 with message id or payload, another control packet without message id,
    /// a reset whose id is not 0, an opcode of the data channel.
    pub fn encode_body(&self) -> Result<Vec<u8>, Error> {
        self.check()?;
        let acks = self.acks.as_slice();
        let mut body = Vec::with_capacity(AckList::wire_len(acks.len()) + 4 + self.payload.len());
        // At most AckList::MAX, so it fits in a byte.
        body.push(acks.len() as u8);
        acks.iter().for_each(|id| body.extend_from_slice(&id.0.to_be_bytes()));
        if let (Some(remote), false) = (self.remote_session_id, acks.is_empty()) {
            body.extend_from_slice(remote.as_bytes());
        }
        if let Some(id) = self.message_id {
            body.extend_from_slice(&id.0.to_be_bytes());
        }
        body.extend_from_slice(&self.payload);
        Ok(body)
    }

    /// The packet's first byte: opcode and key-id.
    #[must_use]
    pub const fn first_byte(&self) -> u8 {
        self.opcode.first_byte(self.key_id)
    }

    fn check(&self) -> Result<(), Error> {
        let id_fits = self.message_id.is_some() == self.opcode.has_message_id();
        if self.opcode.is_data() {
            Err(Error::Misuse("a data packet is not encoded as a control packet"))
        } else if !self.acks.is_empty() && self.remote_session_id.is_none() {
            Err(Error::Misuse("acknowledged ids need the receiver's session id"))
        } else if !id_fits || (self.message_id.is_none() && !self.payload.is_empty()) {
            Err(Error::Misuse("a message id and a payload belong to every control packet but ACK_V1"))
        } else if self.opcode.is_reset() && self.message_id != Some(MessageId(0)) {
            Err(Error::Misuse("a reset has message id 0"))
        } else {
            Ok(())
        }
    }
}

fn decode_acks(reader: &mut Reader<'_>) -> Result<(AckList, Option<SessionId>), Malformed> {
    let mut acks = AckList::new();
    let count = reader.u8()?;
    for _ in 0..count {
        if !acks.push(MessageId(reader.u32()?)) {
            return Err(Malformed::TooManyAcks);
        }
    }
    if acks.is_empty() {
        return Ok((acks, None));
    }
    let remote = SessionId::from_bytes(reader.array()?).ok_or(Malformed::ZeroSessionId)?;
    Ok((acks, Some(remote)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::DropReason;
    use crate::wrap::vectors::hex;
    use crate::wrap::{WrapConfig, Wrapper};
    use proptest::prelude::*;

    /// Decodes a whole datagram without protection.
    fn decode(text: &str) -> Result<ControlPacket, DropReason> {
        let opened = Wrapper::new(WrapConfig::None).unwrap().authenticate(&hex(text))?;
        Ok(opened.decode()?)
    }

    fn encode(packet: &ControlPacket) -> Vec<u8> {
        let mut wrapper = Wrapper::new(WrapConfig::None).unwrap();
        wrapper.seal(1, packet).unwrap()
    }

    #[test]
    fn a_plain_client_reset_is_read_and_written() {
        let text = "38 6891923fa3103437 00 00000000";
        let packet = decode(text).unwrap();
        assert_eq!(packet.opcode, Opcode::HardResetClientV2);
        assert_eq!(packet.key_id, KeyId::FIRST);
        assert_eq!(packet.session_id.to_string(), "6891923fa3103437");
        assert!(packet.acks.is_empty());
        assert_eq!(packet.remote_session_id, None);
        assert_eq!(packet.message_id, Some(MessageId(0)));
        assert!(packet.payload.is_empty());
        assert_eq!(encode(&packet), hex(text));
    }

    #[test]
    fn a_control_packet_with_an_ack_is_read_and_written() {
        let text = "2078 19bf2ebcd19a45 01 00000000 eafebfa4418ae31b 00000001 160301";
        let packet = decode(text).unwrap();
        assert_eq!(packet.opcode, Opcode::ControlV1);
        assert_eq!(packet.acks.as_slice(), [MessageId(0)]);
        assert_eq!(packet.remote_session_id.unwrap().to_string(), "eafebfa4418ae31b");
        assert_eq!(packet.message_id, Some(MessageId(1)));
        assert_eq!(packet.payload, hex("160301"));
        assert_eq!(encode(&packet), hex(text));
    }

    #[test]
    fn an_ack_packet_is_read_and_written() {
        for text in [
            "28 aeb9afe1f01d79c8 01 00000000 dd85db535623b02e",
            "28 aeb9afe1f01d79c8 03 00000000 00000001 00000002 dd85db535623b02e",
        ] {
            let packet = decode(text).unwrap();
            assert_eq!(packet.opcode, Opcode::AckV1);
            assert_eq!(packet.message_id, None);
            assert_eq!(packet.remote_session_id.unwrap().to_string(), "dd85db535623b02e");
            assert_eq!(encode(&packet), hex(text));
        }
    }

    #[test]
    fn a_truncated_message_id_is_refused() {
        let text = "20 aeb9afe1f01d79c8 01 00000000 02";
        assert_eq!(decode(text), Err(DropReason::Truncated));
    }

    #[test]
    fn a_packet_cut_anywhere_before_its_payload_is_refused() {
        let whole = hex("2078 19bf2ebcd19a45 01 00000000 eafebfa4418ae31b 00000001");
        let wrapper = Wrapper::new(WrapConfig::None).unwrap();
        for len in 1..whole.len() {
            let result = wrapper.authenticate(&whole[..len]).and_then(|o| Ok(o.decode()?));
            assert_eq!(result, Err(DropReason::Truncated), "cut to {len} bytes");
        }
    }

    #[test]
    fn eight_acks_are_accepted_and_nine_are_not() {
        let ids = "00000001 ".repeat(8);
        let eight = format!("28 aeb9afe1f01d79c8 08 {ids} dd85db535623b02e");
        assert_eq!(decode(&eight).unwrap().acks.len(), 8);
        let nine = format!("28 aeb9afe1f01d79c8 09 {ids} 00000001 dd85db535623b02e");
        assert_eq!(decode(&nine), Err(DropReason::TooManyAcks));
        assert!(AckList::from_slice(&[MessageId(0); 8]).is_some());
        assert!(AckList::from_slice(&[MessageId(0); 9]).is_none());
    }

    #[test]
    fn leftovers_after_an_ack_packet_are_refused() {
        let text = "28 aeb9afe1f01d79c8 01 00000000 dd85db535623b02e 00";
        assert_eq!(decode(text), Err(DropReason::Leftover));
    }

    #[test]
    fn an_echoed_session_id_of_zero_is_refused() {
        let text = "28 aeb9afe1f01d79c8 01 00000000 0000000000000000";
        assert_eq!(decode(text), Err(DropReason::ZeroSessionId));
    }

    #[test]
    fn a_reset_has_message_id_zero() {
        for first in ["38", "40", "19", "50"] {
            let good = format!("{first} 6891923fa3103437 00 00000000");
            assert!(decode(&good).is_ok());
            let bad = format!("{first} 6891923fa3103437 00 00000001");
            assert_eq!(decode(&bad), Err(DropReason::ResetIdNotZero));
        }
        assert!(decode("20 6891923fa3103437 00 00000001").is_ok());
    }

    #[test]
    fn a_data_packet_is_not_decoded() {
        assert_eq!(decode("48 6891923fa3103437 00 00000000"), Err(DropReason::NotControl));
        let session_id = SessionId::from_bytes([1; 8]).unwrap();
        let result = ControlPacket::decode(Opcode::DataV1, KeyId::FIRST, session_id, &[0; 5]);
        assert_eq!(result, Err(Malformed::NotControl));
    }

    #[test]
    fn contradictory_fields_are_not_encoded() {
        let good = decode("2078 19bf2ebcd19a45 01 00000000 eafebfa4418ae31b 00000001").unwrap();
        assert!(good.encode_body().is_ok());
        for spoil in [
            (|p| p.remote_session_id = None) as fn(&mut ControlPacket),
            |p| p.message_id = None,
            |p| p.opcode = Opcode::AckV1,
            |p| p.opcode = Opcode::DataV2,
            |p| p.opcode = Opcode::SoftResetV1,
            |p| (p.opcode, p.message_id, p.payload) = (Opcode::AckV1, None, vec![1]),
        ] {
            let mut packet = good.clone();
            spoil(&mut packet);
            assert!(matches!(packet.encode_body(), Err(Error::Misuse(_))), "{packet:?}");
        }
    }

    fn session_id() -> impl Strategy<Value = SessionId> {
        any::<[u8; 8]>().prop_filter_map("zero", SessionId::from_bytes)
    }

    prop_compose! {
        fn packet()(
            opcode in prop::sample::select(vec![
                Opcode::SoftResetV1, Opcode::ControlV1, Opcode::AckV1, Opcode::HardResetClientV2,
                Opcode::HardResetServerV2, Opcode::HardResetClientV3, Opcode::ControlWkcV1,
            ]),
            key in 0u8..8,
            session_id in session_id(),
            remote in session_id(),
            ids in prop::collection::vec(any::<u32>().prop_map(MessageId), 0..=8),
            id in any::<u32>(),
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) -> ControlPacket {
            ControlPacket {
                opcode,
                key_id: KeyId::new(key).unwrap(),
                session_id,
                acks: AckList::from_slice(&ids).unwrap(),
                remote_session_id: (!ids.is_empty()).then_some(remote),
                message_id: opcode.has_message_id().then_some(MessageId(if opcode.is_reset() { 0 } else { id })),
                payload: if opcode.has_message_id() { payload } else { Vec::new() },
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(packet in packet()) {
            let body = packet.encode_body().unwrap();
            let back = ControlPacket::decode(packet.opcode, packet.key_id, packet.session_id, &body);
            prop_assert_eq!(back, Ok(packet));
        }

        #[test]
        fn random_bytes_never_panic_and_what_decodes_encodes_to_the_same(
            first in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let session_id = SessionId::from_bytes([1; 8]).unwrap();
            if let Ok((opcode, key_id)) = Opcode::parse_first(first)
                && let Ok(packet) = ControlPacket::decode(opcode, key_id, session_id, &body)
            {
                prop_assert_eq!(packet.encode_body(), Ok(body));
            }
        }
    }
}

//! A control packet without protection: first byte, session id, body. What decodes encodes to the same bytes: the
//! form on the wire is the only one.

use controlplane::ids::SessionId;
use controlplane::packet::control::ControlPacket;
use controlplane::packet::opcode::Opcode;

/// Runs one input: a datagram.
pub fn run(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else {
        return;
    };
    let Ok((opcode, key_id)) = Opcode::parse_first(first) else {
        return;
    };
    assert_eq!(opcode.first_byte(key_id), first);
    let Some((sid, body)) = rest.split_first_chunk::<{ SessionId::LEN }>() else {
        return;
    };
    let Some(session_id) = SessionId::from_bytes(*sid) else {
        return assert_eq!(*sid, [0; SessionId::LEN]);
    };
    if let Ok(packet) = ControlPacket::decode(opcode, key_id, session_id, body) {
        assert!(!opcode.is_data());
        assert_eq!(packet.first_byte(), first);
        assert_eq!(packet.encode_body().as_deref(), Ok(body));
    }
}

//! The protection of control packets: two wrappers with one key, one the client's and one the server's. What one seals
//! the other opens, once; a protected packet with any changed bit is refused, and so is every other datagram.
//!
//! The first byte chooses the protection; operations follow.

use controlplane::Digest;
use controlplane::error::DropReason;
use controlplane::ids::{KeyId, MessageId, Role, SessionId};
use controlplane::packet::control::{AckList, ControlPacket};
use controlplane::packet::opcode::Opcode;
use controlplane::wrap::{StaticKey, WrapConfig, Wrapper};

use crate::input::Input;

/// More operations than this tell nothing new.
const MAX_STEPS: usize = 256;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(choice) = input.byte() else {
        return;
    };
    let (Ok(client), Ok(server)) =
        (Wrapper::new(config(choice, Role::Client)), Wrapper::new(config(choice, Role::Server)))
    else {
        unreachable!("the directions are 0 and 1");
    };
    let protected = !matches!(config(choice, Role::Client), WrapConfig::None);
    let mut pair = Pair { client, server, protected };
    for _ in 0..MAX_STEPS {
        if pair.step(&mut input).is_none() {
            return;
        }
    }
}

fn config(choice: u8, role: Role) -> WrapConfig {
    let key = StaticKey::from_bytes(&std::array::from_fn(|index| index as u8 ^ 0x5A));
    let digest = [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512][usize::from(choice >> 2) % 4];
    let direction = Some(u8::from(role == Role::Client));
    match choice % 4 {
        0 => WrapConfig::None,
        1 => WrapConfig::TlsAuth { key, direction: None, digest },
        2 => WrapConfig::TlsAuth { key, direction, digest },
        _ => WrapConfig::TlsCrypt { key, role },
    }
}

struct Pair {
    client: Wrapper,
    server: Wrapper,
    protected: bool,
}

impl Pair {
    /// One operation; `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 3 {
            0 => self.stranger(input.some()?),
            1 => self.seal_and_open(input)?,
            _ => self.seal_and_damage(input)?,
        }
        Some(())
    }

    /// A datagram from somebody without the key.
    fn stranger(&mut self, datagram: &[u8]) {
        let opened = self.server.open(datagram);
        assert!(!self.protected || opened.is_err(), "without the key: {datagram:02x?}");
        if let Ok(opened) = opened {
            let _ = opened.decode();
        }
    }

    fn seal_and_open(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (now, packet) = (u64::from(input.number()?), packet(input)?);
        let Ok(datagram) = self.client.seal(now, &packet) else {
            return Some(());
        };
        let opened = self.server.open(&datagram);
        let decoded = opened.map(|opened| opened.decode());
        assert_eq!(decoded, Ok(Ok(packet)), "what one side seals the other opens");
        if self.protected {
            assert_eq!(self.server.open(&datagram), Err(DropReason::Replayed));
        }
        Some(())
    }

    fn seal_and_damage(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (place, packet) = (usize::from(input.number()?), packet(input)?);
        let Ok(mut datagram) = self.client.seal(1, &packet) else {
            return Some(());
        };
        let place = place % (8 * datagram.len());
        datagram[place / 8] ^= 1 << (place % 8);
        let opened = self.server.open(&datagram);
        assert!(!self.protected || opened.is_err(), "bit {place} of {packet:?}");
        Some(())
    }
}

/// A packet whose fields are what the input says; not always one that can be encoded.
fn packet(input: &mut Input<'_>) -> Option<ControlPacket> {
    let [first, has, acks] = input.take()?;
    let (opcode, key_id) = Opcode::parse_first(first).unwrap_or((Opcode::ControlV1, KeyId::FIRST));
    let ids: Vec<MessageId> = (0..acks % 9).map(|id| MessageId(u32::from(id) << (has % 32))).collect();
    let remote = input.take().and_then(SessionId::from_bytes);
    let number = MessageId(u32::from(input.number()?));
    Some(ControlPacket {
        opcode,
        key_id,
        session_id: SessionId::from_bytes([1; 8])?,
        // A session id without acknowledgements does not reach the wire.
        remote_session_id: remote.filter(|_| !ids.is_empty()),
        acks: AckList::from_slice(&ids)?,
        message_id: match has {
            0..=200 if opcode.is_reset() => Some(MessageId(0)),
            0..=200 => opcode.has_message_id().then_some(number),
            _ => Some(number),
        },
        payload: input.some()?.to_vec(),
    })
}

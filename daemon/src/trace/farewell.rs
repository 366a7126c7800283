//! The goodbye to a server that is not told on the control channel: one data packet, the only one of the session.

use dataplane::datachannel::aead::{Aead, AeadChoice, SealingKey};
use dataplane::datachannel::header::SendHeader;
use dataplane::datachannel::ping::EXIT;

/// Packet ids of a key begin with 1; no other packet is ever sealed with this one.
const FIRST: u32 = 1;

/// The datagram that says that we leave; `None` for a cipher that this build has not.
pub(super) fn datagram(key: &link::InstallKey) -> Option<Vec<u8>> {
    let aead = Aead::resolve(AeadChoice::Auto).ok()?;
    let mut sealing = SealingKey::new(&aead, key.cipher, &key.seal)?;
    let header = SendHeader::new(key.wire_peer_id, key.name.key_id);
    let mut out = vec![0; EXIT.len() + header.overhead()];
    sealing.seal(&header, FIRST, &EXIT, &mut out).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::datachannel::aead::OpeningKey;
    use dataplane::datachannel::header::DataHeader;

    fn key(len: usize, wire_peer_id: Option<u32>) -> link::InstallKey {
        let direction =
            |byte| link::DirectionKey { key: link::Secret(vec![byte; len]), implicit_iv: link::Secret(vec![byte; 8]) };
        link::InstallKey {
            name: link::KeyName { peer: 0, generation: 1, negotiation: 0, key_id: 0 },
            cipher: link::Cipher::Aes256Gcm,
            seal: direction(1),
            open: direction(2),
            wire_peer_id,
            send_from_ns: 0,
            retire_previous_ns: 0,
            limits: link::KeyLimits {
                soft_packet_id: u32::MAX,
                hard_packet_id: u32::MAX,
                soft_bytes: u64::MAX,
                soft_packets: u64::MAX,
                soft_aead: u64::MAX,
                hard_aead: u64::MAX,
                hard_failures: u64::MAX,
            },
        }
    }

    #[test]
    fn the_server_can_open_it_and_it_says_that_we_leave() {
        for peer_id in [Some(7), None] {
            let key = key(32, peer_id);
            let datagram = datagram(&key).unwrap();
            let (header, parts) = DataHeader::parse(&datagram).unwrap();
            assert_eq!((header.peer_id, header.packet_id), (peer_id, 1));
            let aead = Aead::resolve(AeadChoice::Auto).unwrap();
            let mut plaintext = [0; EXIT.len()];
            let mut open =
                |key| OpeningKey::new(&aead, link::Cipher::Aes256Gcm, key).unwrap().open(1, &parts, &mut plaintext);
            assert!(!open(&key.open));
            assert!(open(&key.seal));
            assert_eq!(plaintext, EXIT);
        }
    }

    #[test]
    fn a_key_that_cannot_seal_makes_no_datagram() {
        assert_eq!(datagram(&key(16, None)), None);
    }
}

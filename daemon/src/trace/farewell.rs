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

//! Data-channel keys: 256 bytes from the TLS exporter or from the old TLS 1.0 PRF, cut into the two directions.
//! Everything here wipes itself.

use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::controlchannel::key_method::{ClientSource, ServerSource};
use crate::crypto::tls1_prf;
use crate::error::Error;
use crate::ids::{Role, SessionId};
use crate::setup::{Cipher, DirectionKey, Secret};
use crate::tlssession::{TlsFailure, TlsSession};

/// The exporter's label (OpenVPN wire protocol, key derivation by keying material export).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-OpenVPN-datakeys";

/// Where each part stands in the 256 bytes: cipher and HMAC key of client → server, then of server → client.
const PART: usize = 64;
/// The length of the implicit part of an AEAD nonce in bytes.
const IMPLICIT_IV: usize = 8;

/// The 256 bytes from which both directions' keys are cut.
#[derive(ZeroizeOnDrop)]
pub struct KeyBlock([u8; 256]);

impl std::fmt::Debug for KeyBlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyBlock(256 bytes)")
    }
}

impl KeyBlock {
    /// By the exporter of the TLS session that belongs to this key (RFC 5705, absent context).
    ///
    /// # Errors
    /// Before the TLS handshake is complete.
    pub fn from_exporter(tls: &TlsSession) -> Result<KeyBlock, TlsFailure> {
        let mut block = KeyBlock([0; 256]);
        tls.export(EXPORTER_LABEL, &mut block.0)?;
        Ok(block)
    }

    /// By the TLS 1.0 PRF over what both sides said in their key messages (peers before 2.6).
    pub fn from_prf(
        client: &ClientSource,
        server: &ServerSource,
        client_sid: SessionId,
        server_sid: SessionId,
    ) -> KeyBlock {
        let mut master = Zeroizing::new([0; 48]);
        let seed: [&[u8]; 3] = [b"OpenVPN master secret", &client.random1, &server.random1];
        tls1_prf(&client.pre_master, &seed, master.as_mut_slice());
        let mut block = KeyBlock([0; 256]);
        let seed: [&[u8]; 5] =
            [b"OpenVPN key expansion", &client.random2, &server.random2, client_sid.as_bytes(), server_sid.as_bytes()];
        tls1_prf(master.as_slice(), &seed, &mut block.0);
        block
    }

    /// The keys of `role`: the one to seal with and the one to open with.
    ///
    /// # Errors
    /// When a cipher key is all zero, which no honest derivation gives.
    pub fn directions(&self, role: Role, cipher: Cipher) -> Result<(DirectionKey, DirectionKey), Error> {
        let (to_server, to_client) = self.0.split_at(2 * PART);
        let to_server = direction(to_server, cipher)?;
        let to_client = direction(to_client, cipher)?;
        Ok(match role {
            Role::Client => (to_server, to_client),
            Role::Server => (to_client, to_server),
        })
    }
}

fn direction(half: &[u8], cipher: Cipher) -> Result<DirectionKey, Error> {
    let (cipher_part, hmac_part) = half.split_at_checked(PART).unwrap_or_default();
    let key = cipher_part.get(..cipher.key_len()).unwrap_or_default();
    if key.iter().all(|byte| *byte == 0) {
        return Err(Error::PeerMisbehaved("the derived data key is all zero"));
    }
    let implicit_iv = hmac_part.get(..IMPLICIT_IV).unwrap_or_default();
    Ok(DirectionKey { key: Secret(key.to_vec()), implicit_iv: Secret(implicit_iv.to_vec()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::sha256;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn sid(first: u8) -> SessionId {
        SessionId::from_bytes(std::array::from_fn(|i| first + i as u8)).unwrap()
    }

    fn known() -> KeyBlock {
        let client =
            ClientSource { pre_master: std::array::from_fn(|i| i as u8), random1: [0x11; 32], random2: [0x22; 32] };
        let server = ServerSource { random1: [0x33; 32], random2: [0x44; 32] };
        KeyBlock::from_prf(&client, &server, sid(0xc0), sid(0xd0))
    }

    #[test]
    fn the_prf_chain_gives_the_known_keys() {
        let block = known();
        assert_eq!(
            sha256(&block.0).as_slice(),
            hex("3ef77e00e7906c3e6aaa77a205ec690b411023eda96f70f82155d7ba391e07fd")
        );
        let (seal, open) = block.directions(Role::Client, Cipher::Aes256Gcm).unwrap();
        assert_eq!(seal.key.0, hex("286f8d5d9e0f7fe4d5f7ac38b85163a33b0085dd93bf580b9e5c8781ca960ad2"));
        assert_eq!(seal.implicit_iv.0, hex("94b272ded0bc7e3b"));
        assert_eq!(open.key.0, hex("22823b8dab1d4c19eccfc987f5e17020dd20c0d56cfd26e95b447efbb7c3ef2f"));
        assert_eq!(open.implicit_iv.0, hex("c889d72a53b725ea"));
    }

    #[test]
    fn the_server_has_the_same_keys_the_other_way_round() {
        let block = known();
        let (client_seal, client_open) = block.directions(Role::Client, Cipher::Aes128Gcm).unwrap();
        let (server_seal, server_open) = block.directions(Role::Server, Cipher::Aes128Gcm).unwrap();
        assert_eq!(client_seal, server_open);
        assert_eq!(client_open, server_seal);
        assert_ne!(client_seal, client_open);
        assert_eq!(client_seal.key.0.len(), 16);
    }

    #[test]
    fn the_session_ids_belong_to_the_keys() {
        let client = ClientSource { pre_master: [1; 48], random1: [2; 32], random2: [3; 32] };
        let server = ServerSource { random1: [4; 32], random2: [5; 32] };
        let a = KeyBlock::from_prf(&client, &server, sid(0xc0), sid(0xd0));
        let b = KeyBlock::from_prf(&client, &server, sid(0xd0), sid(0xc0));
        assert_ne!(a.0, b.0);
    }

    #[test]
    fn an_all_zero_key_is_refused_in_either_direction() {
        let mut block = KeyBlock([1; 256]);
        assert!(block.directions(Role::Client, Cipher::Aes256Gcm).is_ok());
        block.0[..32].fill(0);
        assert!(block.directions(Role::Client, Cipher::Aes256Gcm).is_err());
        let mut block = KeyBlock([1; 256]);
        block.0[128..160].fill(0);
        assert!(block.directions(Role::Client, Cipher::Aes256Gcm).is_err());
    }
}

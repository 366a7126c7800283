//! tls-auth: an HMAC over every control packet ("HMAC firewall" of the OpenVPN wire protocol).
//!
//! ```text
//! wire:      [opcode 1][session id 8][HMAC H][replay id 4][timestamp 4][body]
//! HMAC over: [replay id 4][timestamp 4][opcode 1][session id 8][body]
//! ```

use zeroize::Zeroizing;

use crate::crypto::{self, Digest};
use crate::error::{DropReason, Error};
use crate::packet::reader::Reader;
use crate::wrap::replay::PacketId;
use crate::wrap::static_key::{Pair, StaticKey};
use crate::wrap::{HEADER_LEN, Header};

/// The keys of tls-auth for one side.
#[derive(Clone)]
pub(super) struct TlsAuth {
    digest: Digest,
    send: Zeroizing<Vec<u8>>,
    receive: Zeroizing<Vec<u8>>,
}

impl TlsAuth {
    /// `direction` is `key-direction`: none uses one key both ways, 0 sends with the first key, 1 with
    /// the second. Any other number is [`Error::Misuse`].
    pub(super) fn new(key: &StaticKey, direction: Option<u8>, digest: Digest) -> Result<Self, Error> {
        let (send, receive) = match direction {
            None => (Pair::Key0, Pair::Key0),
            Some(0) => (Pair::Key0, Pair::Key1),
            Some(1) => (Pair::Key1, Pair::Key0),
            Some(_) => return Err(Error::Misuse("key-direction is 0 or 1")),
        };
        let (send, receive) = (key.hmac(send, digest.len()), key.hmac(receive, digest.len()));
        Ok(Self { digest, send, receive })
    }

    /// Bytes added to a packet: HMAC, replay id, timestamp.
    pub(super) const fn overhead(&self) -> usize {
        self.digest.len() + PacketId::LEN
    }

    /// The datagram for `body`.
    pub(super) fn seal(&self, header: Header, packet: PacketId, body: &[u8]) -> Vec<u8> {
        let (header, packet) = (header.to_bytes(), packet.to_bytes());
        let tag = crypto::hmac(self.digest, &self.send, &[&packet, &header, body]);
        [header.as_slice(), tag.as_ref(), &packet, body].concat()
    }

    /// Packet id and body of an authentic datagram.
    pub(super) fn open(&self, datagram: &[u8]) -> Result<(PacketId, Vec<u8>), DropReason> {
        let mut reader = Reader::new(datagram);
        let header = reader.take(HEADER_LEN)?;
        let tag = reader.take(self.digest.len())?;
        let packet = reader.array::<{ PacketId::LEN }>()?;
        let body = reader.rest();
        let expected = crypto::hmac(self.digest, &self.receive, &[&packet, header, body]);
        if !crypto::ct_eq(expected.as_ref(), tag) {
            return Err(DropReason::BadTag);
        }
        Ok((PacketId::from_bytes(packet), body.to_vec()))
    }
}

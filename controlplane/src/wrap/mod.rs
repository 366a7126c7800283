//! The protection of control packets: none, tls-auth or tls-crypt, behind one [`Wrapper`].
//!
//! Opening is split in two: [`Wrapper::authenticate`] looks and changes nothing, [`Wrapper::commit`]
//! remembers the packet's replay id. Whoever keeps no state (a gateway before the cookie) only looks.

pub mod replay;
pub mod static_key;
mod tls_auth;
mod tls_crypt;
#[cfg(test)]
pub(crate) mod vectors;

use crate::crypto::Digest;
use crate::error::{DropReason, Error, Malformed};
use crate::ids::{KeyId, SessionId};
use crate::packet::control::ControlPacket;
use crate::packet::opcode::Opcode;
use crate::packet::reader::Reader;

pub use crate::ids::Role;
pub use replay::{PacketId, ReplayWindow};
pub use static_key::{StaticKey, StaticKeyError};

use tls_auth::TlsAuth;
use tls_crypt::TlsCrypt;

/// Bytes of opcode and session id, which stand in front of every protection.
pub const HEADER_LEN: usize = ControlPacket::HEADER_LEN;

/// The longest control datagram that is looked at, in bytes. OpenVPN 2.x sends at most 2048 and by
/// default 1250; the bound keeps the memory of receive windows small.
pub const MAX_DATAGRAM: usize = 4096;

/// Which protection control packets have, and with which key.
#[derive(Debug, Clone)]
pub enum WrapConfig {
    /// No protection.
    None,
    /// `tls-auth`.
    TlsAuth {
        /// The static key.
        key: StaticKey,
        /// `key-direction`: `None` uses one key both ways, 0 (servers by convention) sends with the first
        /// key, 1 (clients) with the second.
        direction: Option<u8>,
        /// The digest that `auth` names.
        digest: Digest,
    },
    /// `tls-crypt`.
    TlsCrypt {
        /// The static key.
        key: StaticKey,
        /// Our role, which decides which key is whose.
        role: Role,
    },
}

/// One session's protection with its send counter and replay window. It lives as long as the session:
/// soft resets run on with the same counter.
#[derive(Clone)]
pub struct Wrapper {
    protection: Protection,
    send_next: u32,
    send_time: Option<u32>,
    window: ReplayWindow,
}

/// An authentic packet whose replay id is new but has not been committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The packet's opcode; may be any control packet's.
    pub opcode: Opcode,
    /// The packet's key-id.
    pub key_id: KeyId,
    /// The sender's session id.
    pub session_id: SessionId,
    /// The replay id; `None` without protection.
    pub packet_id: Option<PacketId>,
    /// What the protection covers: acknowledgements, message id, payload.
    pub body: Vec<u8>,
}

impl Opened {
    /// Decodes the body.
    ///
    /// # Errors
    ///
    /// [`Malformed`], as [`ControlPacket::decode`] says.
    pub fn decode(&self) -> Result<ControlPacket, Malformed> {
        ControlPacket::decode(self.opcode, self.key_id, self.session_id, &self.body)
    }
}

impl Wrapper {
    /// The protection of a new session: the first packet that is sealed gets replay id 1.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] for a key-direction other than 0 and 1.
    pub fn new(config: WrapConfig) -> Result<Self, Error> {
        Ok(Self { protection: Protection::new(&config)?, send_next: 1, send_time: None, window: ReplayWindow::new() })
    }

    /// The protection of a session whose wrapper was lost: sends from `send_next` on with the
    /// timestamp `send_time` (unix seconds; 0 if no packet was sent yet), and refuses every replay
    /// id at or below `recv`, (id, timestamp), the highest that was received.
    ///
    /// `send_next` must be above every id ever used with this timestamp.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] for a key-direction other than 0 and 1, or if `send_next` is 0.
    pub fn resume(config: WrapConfig, send_next: u32, send_time: u32, recv: Option<(u32, u32)>) -> Result<Self, Error> {
        if send_next == 0 {
            return Err(Error::Misuse("replay id 0 is never sent"));
        }
        let high = recv.map(|(id, time)| PacketId { time, id });
        Ok(Self {
            protection: Protection::new(&config)?,
            send_next,
            send_time: (send_time != 0).then_some(send_time),
            window: high.map_or_else(ReplayWindow::new, ReplayWindow::resumed),
        })
    }

    /// The replay id that the next packet gets.
    #[must_use]
    pub const fn send_next(&self) -> u32 {
        self.send_next
    }

    /// The timestamp of our packets in unix seconds; 0 before the first one.
    #[must_use]
    pub const fn send_time(&self) -> u32 {
        match self.send_time {
            Some(time) => time,
            None => 0,
        }
    }

    /// The highest replay id that was committed: (id, timestamp).
    #[must_use]
    pub const fn recv_high(&self) -> Option<(u32, u32)> {
        match self.window.high() {
            Some(high) => Some((high.id, high.time)),
            None => None,
        }
    }

    /// Bytes that the protection adds to a packet.
    #[must_use]
    pub const fn overhead(&self) -> usize {
        match &self.protection {
            Protection::None => 0,
            Protection::TlsAuth(keys) => keys.overhead(),
            Protection::TlsCrypt(_) => TlsCrypt::OVERHEAD,
        }
    }

    /// The datagram for a packet, under the next replay id. Call it for every transmission: a
    /// retransmitted packet needs a replay id of its own. `now_unix` is in seconds; the first packet
    /// fixes the timestamp of all.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`], as [`ControlPacket::encode_body`] says; no replay id is then used up.
    pub fn seal(&mut self, now_unix: u64, packet: &ControlPacket) -> Result<Vec<u8>, Error> {
        let body = packet.encode_body()?;
        Ok(self.seal_body(now_unix, packet.opcode, packet.key_id, packet.session_id, &body))
    }

    /// [`Wrapper::seal`] for a body that is encoded already.
    #[must_use]
    pub fn seal_body(
        &mut self,
        now_unix: u64,
        opcode: Opcode,
        key_id: KeyId,
        session_id: SessionId,
        body: &[u8],
    ) -> Vec<u8> {
        let header = Header { opcode, key_id, session_id };
        let packet = self.next_packet_id(now_unix);
        match &self.protection {
            Protection::None => [header.to_bytes().as_slice(), body].concat(),
            Protection::TlsAuth(keys) => keys.seal(header, packet, body),
            Protection::TlsCrypt(keys) => keys.seal(header, packet, body),
        }
    }

    /// Checks header, tag and replay id of a datagram. Changes nothing; the body is not decoded.
    ///
    /// # Errors
    ///
    /// The reason to drop the datagram: `Empty`, `TooLong`, `UnknownOpcode`, `NotControl`, `Truncated`,
    /// `ZeroSessionId`, `BadTag` or `Replayed`.
    pub fn authenticate(&self, datagram: &[u8]) -> Result<Opened, DropReason> {
        let Header { opcode, key_id, session_id } = Header::read(datagram)?;
        let (packet_id, body) = match &self.protection {
            Protection::None => (None, datagram.get(HEADER_LEN..).unwrap_or_default().to_vec()),
            Protection::TlsAuth(keys) => keys.open(datagram).map(|(id, body)| (Some(id), body))?,
            Protection::TlsCrypt(keys) => keys.open(datagram).map(|(id, body)| (Some(id), body))?,
        };
        if packet_id.is_some_and(|id| !self.window.is_new(id)) {
            return Err(DropReason::Replayed);
        }
        Ok(Opened { opcode, key_id, session_id, packet_id, body })
    }

    /// Remembers the replay id of a packet that [`Wrapper::authenticate`] gave.
    ///
    /// # Errors
    ///
    /// [`DropReason::Replayed`] if the id has been committed in the meantime.
    pub fn commit(&mut self, opened: &Opened) -> Result<(), DropReason> {
        match opened.packet_id {
            Some(id) if !self.window.commit(id) => Err(DropReason::Replayed),
            _ => Ok(()),
        }
    }

    /// Authenticates and commits in one step.
    ///
    /// # Errors
    ///
    /// As [`Wrapper::authenticate`].
    pub fn open(&mut self, datagram: &[u8]) -> Result<Opened, DropReason> {
        let opened = self.authenticate(datagram)?;
        self.commit(&opened)?;
        Ok(opened)
    }

    /// The id of the packet that is sealed now. When the counter is used up, it starts anew under a
    /// later timestamp.
    fn next_packet_id(&mut self, now_unix: u64) -> PacketId {
        let now = u32::try_from(now_unix).unwrap_or(u32::MAX);
        let time = *self.send_time.get_or_insert(now);
        let packet = PacketId { time, id: self.send_next };
        match self.send_next.checked_add(1) {
            Some(next) => self.send_next = next,
            None => {
                self.send_next = 1;
                self.send_time = Some(now.max(time.saturating_add(1)));
            }
        }
        packet
    }
}

impl std::fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wrapper")
            .field("protection", &self.protection.name())
            .field("send_next", &self.send_next)
            .field("recv_high", &self.recv_high())
            .finish_non_exhaustive()
    }
}

#[derive(Clone)]
enum Protection {
    None,
    TlsAuth(TlsAuth),
    TlsCrypt(TlsCrypt),
}

impl Protection {
    fn new(config: &WrapConfig) -> Result<Self, Error> {
        Ok(match config {
            WrapConfig::None => Self::None,
            WrapConfig::TlsAuth { key, direction, digest } => Self::TlsAuth(TlsAuth::new(key, *direction, *digest)?),
            WrapConfig::TlsCrypt { key, role } => Self::TlsCrypt(TlsCrypt::new(key, *role)),
        })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TlsAuth(_) => "tls-auth",
            Self::TlsCrypt(_) => "tls-crypt",
        }
    }
}

/// What stands in front of every protection.
#[derive(Clone, Copy)]
struct Header {
    opcode: Opcode,
    key_id: KeyId,
    session_id: SessionId,
}

impl Header {
    fn read(datagram: &[u8]) -> Result<Self, DropReason> {
        let first = *datagram.first().ok_or(DropReason::Empty)?;
        if datagram.len() > MAX_DATAGRAM {
            return Err(DropReason::TooLong);
        }
        let (opcode, key_id) = Opcode::parse_first(first)?;
        if opcode.is_data() {
            return Err(DropReason::NotControl);
        }
        let mut reader = Reader::new(datagram);
        reader.u8()?;
        let session_id = SessionId::from_bytes(reader.array()?).ok_or(DropReason::ZeroSessionId)?;
        Ok(Self { opcode, key_id, session_id })
    }

    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [self.opcode.first_byte(self.key_id); HEADER_LEN];
        bytes[1..].copy_from_slice(self.session_id.as_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::vectors::{TLS_AUTH_CONTROL, TLS_AUTH_RESET, TLS_CRYPT_RESET, hex, static_key};
    use super::*;
    use proptest::prelude::*;

    fn tls_auth(direction: Option<u8>, digest: Digest) -> Wrapper {
        let key = static_key();
        Wrapper::new(WrapConfig::TlsAuth { key, direction, digest }).unwrap()
    }

    fn tls_crypt(role: Role) -> Wrapper {
        Wrapper::new(WrapConfig::TlsCrypt { key: static_key(), role }).unwrap()
    }

    fn reset() -> ControlPacket {
        let opened =
            Wrapper::new(WrapConfig::None).unwrap().authenticate(&hex("38 6891923fa3103437 00 00000000")).unwrap();
        opened.decode().unwrap()
    }

    /// Every pair of wrappers that talk to each other: client, server.
    fn pairs() -> Vec<(Wrapper, Wrapper)> {
        let none = || Wrapper::new(WrapConfig::None).unwrap();
        let mut pairs = vec![(none(), none()), (tls_crypt(Role::Client), tls_crypt(Role::Server))];
        for digest in [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512] {
            pairs.push((tls_auth(None, digest), tls_auth(None, digest)));
            pairs.push((tls_auth(Some(1), digest), tls_auth(Some(0), digest)));
        }
        pairs
    }

    /// Changing any byte of the datagram must make it unacceptable.
    fn every_flipped_byte_is_refused(wrapper: &Wrapper, datagram: &[u8]) {
        for place in 0..datagram.len() {
            let mut other = datagram.to_vec();
            other[place] ^= 0x01;
            assert!(wrapper.authenticate(&other).is_err(), "byte {place}");
        }
        for len in 0..datagram.len() {
            assert!(wrapper.authenticate(&datagram[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_known_tls_auth_reset_is_opened_by_a_server_and_sealed_by_a_client() {
        let datagram = hex(TLS_AUTH_RESET);
        let server = tls_auth(Some(0), Digest::Sha1);
        let opened = server.authenticate(&datagram).unwrap();
        assert_eq!(opened.packet_id, Some(PacketId { time: 0x61d3_bf6c, id: 1 }));
        let packet = opened.decode().unwrap();
        assert_eq!(packet.opcode, Opcode::HardResetClientV2);
        assert!(packet.payload.is_empty() && packet.acks.is_empty());
        let mut client = tls_auth(Some(1), Digest::Sha1);
        assert_eq!(client.seal(0x61d3_bf6c, &packet).unwrap(), datagram);
        every_flipped_byte_is_refused(&server, &datagram);
    }

    #[test]
    fn a_tls_auth_packet_is_refused_in_the_wrong_direction_or_digest() {
        let datagram = hex(TLS_AUTH_RESET);
        for direction in [None, Some(1)] {
            let result = tls_auth(direction, Digest::Sha1).authenticate(&datagram);
            assert_eq!(result, Err(DropReason::BadTag), "{direction:?}");
        }
        // With room for the longer tag, so that it is the tag that fails.
        let long = hex(TLS_AUTH_CONTROL);
        assert!(tls_auth(Some(0), Digest::Sha1).authenticate(&long).is_ok());
        for digest in [Digest::Sha256, Digest::Sha384, Digest::Sha512] {
            let result = tls_auth(Some(0), digest).authenticate(&long);
            assert_eq!(result, Err(DropReason::BadTag), "{digest:?}");
        }
    }

    #[test]
    fn a_known_tls_auth_client_hello_is_opened() {
        let datagram = hex(TLS_AUTH_CONTROL);
        assert_eq!(datagram.len(), 315);
        let server = tls_auth(Some(0), Digest::Sha1);
        let opened = server.authenticate(&datagram).unwrap();
        assert_eq!(opened.packet_id.map(|p| p.id), Some(3));
        let packet = opened.decode().unwrap();
        assert_eq!(packet.session_id.to_string(), "14014ebc80c6142b");
        assert_eq!(packet.message_id.map(|id| id.0), Some(1));
        assert!(packet.acks.is_empty());
        assert_eq!(packet.payload[..3], [0x16, 3, 1]);
        every_flipped_byte_is_refused(&server, &datagram);
    }

    #[test]
    fn a_known_tls_crypt_reset_is_opened_by_a_server_and_sealed_by_a_client() {
        let datagram = hex(TLS_CRYPT_RESET);
        let server = tls_crypt(Role::Server);
        let opened = server.authenticate(&datagram).unwrap();
        assert_eq!(opened.packet_id, Some(PacketId { time: 0x61d3_f8e1, id: 1 }));
        assert_eq!(opened.body, [0; 5]);
        let packet = opened.decode().unwrap();
        assert_eq!(tls_crypt(Role::Client).seal(0x61d3_f8e1, &packet).unwrap(), datagram);
        every_flipped_byte_is_refused(&server, &datagram);
        for place in 0..datagram.len() {
            let mut other = datagram.clone();
            other[place] = 0x23;
            assert!(server.authenticate(&other).is_err(), "byte {place} overwritten");
        }
        let client = tls_crypt(Role::Client).authenticate(&datagram);
        assert_eq!(client, Err(DropReason::BadTag), "a client does not open a client's packet");
    }

    #[test]
    fn both_ends_open_what_the_other_seals_and_overhead_is_what_it_adds() {
        for (mut client, mut server) in pairs() {
            let plain = HEADER_LEN + reset().encode_body().unwrap().len();
            let datagram = client.seal(1000, &reset()).unwrap();
            assert_eq!(datagram.len(), plain + client.overhead());
            assert_eq!(server.open(&datagram).unwrap().decode().unwrap(), reset(), "{server:?}");
            let answer = server.seal(1000, &reset()).unwrap();
            assert_eq!(client.open(&answer).unwrap().decode().unwrap(), reset(), "{client:?}");
        }
        assert_eq!(tls_crypt(Role::Client).overhead(), 40);
        assert_eq!(tls_auth(None, Digest::Sha1).overhead(), 28);
        assert_eq!(tls_auth(None, Digest::Sha512).overhead(), 72);
    }

    #[test]
    fn a_key_direction_other_than_0_and_1_is_refused() {
        let config = WrapConfig::TlsAuth { key: static_key(), direction: Some(2), digest: Digest::Sha1 };
        assert!(matches!(Wrapper::new(config.clone()), Err(Error::Misuse(_))));
        assert!(matches!(Wrapper::resume(config, 1, 1, None), Err(Error::Misuse(_))));
    }

    #[test]
    fn a_replayed_packet_is_dropped_once_it_was_committed() {
        for (mut client, mut server) in pairs().into_iter().skip(1) {
            let datagram = client.seal(1000, &reset()).unwrap();
            let first = server.authenticate(&datagram).unwrap();
            let second = server.authenticate(&datagram).unwrap();
            assert_eq!(server.commit(&first), Ok(()));
            assert_eq!(server.commit(&second), Err(DropReason::Replayed));
            assert_eq!(server.authenticate(&datagram), Err(DropReason::Replayed));
            assert_eq!(server.recv_high(), Some((1, 1000)));
        }
    }

    #[test]
    fn a_forged_packet_does_not_move_the_replay_window() {
        let (mut client, mut server) = (tls_crypt(Role::Client), tls_crypt(Role::Server));
        let mut forged = client.seal(1000, &reset()).unwrap();
        forged[9] = 0xff;
        assert_eq!(server.open(&forged), Err(DropReason::BadTag));
        assert_eq!(server.recv_high(), None);
        assert!(server.open(&client.seal(1000, &reset()).unwrap()).is_ok());
    }

    #[test]
    fn every_transmission_has_its_own_replay_id_and_one_timestamp() {
        let (mut client, server) = (tls_crypt(Role::Client), tls_crypt(Role::Server));
        assert_eq!((client.send_next(), client.send_time()), (1, 0));
        for (id, now) in [(1, 1000), (2, 1005), (3, 900)] {
            let opened = server.authenticate(&client.seal(now, &reset()).unwrap()).unwrap();
            assert_eq!(opened.packet_id, Some(PacketId { time: 1000, id }));
        }
        assert_eq!((client.send_next(), client.send_time()), (4, 1000));
    }

    #[test]
    fn a_used_up_counter_starts_anew_under_a_later_timestamp() {
        let config = WrapConfig::TlsCrypt { key: static_key(), role: Role::Client };
        let mut server = tls_crypt(Role::Server);
        let mut client = Wrapper::resume(config, u32::MAX, 1000, None).unwrap();
        for expected in [(u32::MAX, 1000), (1, 1001), (2, 1001)] {
            server.open(&client.seal(900, &reset()).unwrap()).unwrap();
            assert_eq!(server.recv_high(), Some(expected));
        }
    }

    #[test]
    fn a_packet_that_cannot_be_encoded_uses_up_no_replay_id() {
        let mut client = tls_crypt(Role::Client);
        let bad = ControlPacket { message_id: None, ..reset() };
        assert!(client.seal(1000, &bad).is_err());
        assert_eq!(client.send_next(), 1);
    }

    #[test]
    fn a_resumed_wrapper_sends_on_and_refuses_what_may_have_been_received() {
        let client_config = WrapConfig::TlsCrypt { key: static_key(), role: Role::Client };
        let server_config = WrapConfig::TlsCrypt { key: static_key(), role: Role::Server };
        let mut client = tls_crypt(Role::Client);
        let mut server = tls_crypt(Role::Server);
        let old: Vec<_> = (0..3).map(|_| client.seal(1000, &reset()).unwrap()).collect();
        server.open(&old[2]).unwrap();

        let (next, time) = (client.send_next(), client.send_time());
        let mut client = Wrapper::resume(client_config.clone(), next, time, None).unwrap();
        let mut server = Wrapper::resume(server_config, 1, 0, server.recv_high()).unwrap();
        for datagram in &old {
            assert_eq!(server.open(datagram), Err(DropReason::Replayed));
        }
        let fresh = client.seal(2000, &reset()).unwrap();
        let opened = server.open(&fresh).unwrap();
        assert_eq!(opened.packet_id, Some(PacketId { time: 1000, id: 4 }));
        assert!(matches!(Wrapper::resume(client_config, 0, 0, None), Err(Error::Misuse(_))));
    }

    #[test]
    fn a_wrapper_resumed_before_its_first_packet_still_fixes_its_timestamp_at_it() {
        let config = WrapConfig::TlsCrypt { key: static_key(), role: Role::Client };
        let mut client = Wrapper::resume(config, 1, 0, None).unwrap();
        client.seal(1000, &reset()).unwrap();
        assert_eq!((client.send_next(), client.send_time()), (2, 1000));
    }

    #[test]
    fn datagrams_that_are_no_control_packets_say_why_they_are_dropped() {
        let wrapper = Wrapper::new(WrapConfig::None).unwrap();
        let cases = [
            (String::new(), DropReason::Empty),
            ("08 0000000000000001 00 00000000".into(), DropReason::UnknownOpcode),
            ("60 0000000000000001 00 00000000".into(), DropReason::UnknownOpcode),
            ("48 0000000000000001 00 00000000".into(), DropReason::NotControl),
            ("38 0000000000000000 00 00000000".into(), DropReason::ZeroSessionId),
            ("38 00000000000001".into(), DropReason::Truncated),
            (format!("20 0000000000000001 {}", "00".repeat(4088)), DropReason::TooLong),
        ];
        for (text, reason) in cases {
            assert_eq!(wrapper.authenticate(&hex(&text)), Err(reason));
        }
        let longest = hex(&format!("20 0000000000000001 {}", "00".repeat(4087)));
        assert!(wrapper.authenticate(&longest).is_ok());
    }

    proptest! {
        #[test]
        fn what_one_end_seals_the_other_opens(
            which in 0usize..10, key in 0u8..8, sid in any::<[u8; 8]>(), now in any::<u32>(),
            body in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let (mut client, mut server) = pairs().swap_remove(which);
            let session_id = SessionId::from_bytes_nonzero(sid);
            let key_id = KeyId::new(key).unwrap();
            let datagram = client.seal_body(now.into(), Opcode::ControlV1, key_id, session_id, &body);
            let opened = server.open(&datagram).unwrap();
            prop_assert_eq!(opened.session_id, session_id);
            prop_assert_eq!(opened.key_id, key_id);
            prop_assert_eq!(opened.body, body);
        }

        #[test]
        fn random_datagrams_never_panic_and_never_authenticate(
            bytes in prop::collection::vec(any::<u8>(), 0..120)
        ) {
            for (_, mut server) in pairs().into_iter().skip(1) {
                prop_assert!(server.open(&bytes).is_err());
            }
            let _ = Wrapper::new(WrapConfig::None).unwrap().open(&bytes).map(|o| o.decode());
        }
    }
}

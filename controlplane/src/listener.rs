//! What a gateway does with datagrams of unknown senders: answer resets without keeping anything, and
//! accept a session only from a sender that proves by a cookie that it got the answer (the stateless
//! three-way handshake of OpenVPN 2.6). Sessions themselves live elsewhere.
//!
//! The cookie is the session id of our answer. The client's next packets echo it, so it comes back
//! without our having stored it.

use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::crypto::{self, Digest, Random};
use crate::error::{DropReason, Error};
use crate::ids::{KeyId, MessageId, Role, SessionId};
use crate::packet::control::{AckList, ControlPacket};
use crate::packet::opcode::Opcode;
use crate::timers::Now;
use crate::wrap::{WrapConfig, Wrapper};

/// How many bytes an answer may be longer than the reset it answers: the four bytes of the
/// acknowledged id and the eight of the echoed session id.
pub const MAX_AMPLIFICATION: usize = 12;

/// How many slots back a cookie is still valid, besides the current one.
const OLD_SLOTS: u32 = 2;

/// The highest message id, and the highest acknowledged id, of a packet that may create a session: before it
/// the client can only have sent and got the resets (id 0) and one more packet.
const HIGHEST_FIRST_ID: MessageId = MessageId(1);

/// Makes and checks the session ids that serve as cookies.
pub struct Cookie {
    secret: Zeroizing<[u8; 32]>,
    slot_seconds: u64,
}

impl Cookie {
    /// `secret` must be random and known to nobody; gateways that share clients share it. `hand_window` in
    /// seconds decides how long a cookie is valid: between one and one and a half times as long.
    #[must_use]
    pub fn new(secret: [u8; 32], hand_window: u32) -> Self {
        let slot_seconds = u64::from(hand_window).div_ceil(2).max(1);
        Self { secret: Zeroizing::new(secret), slot_seconds }
    }

    /// The session id with which we answer `client` at `remote`. `now_unix` in seconds.
    #[must_use]
    pub fn session_id(&self, now_unix: u64, remote: SocketAddr, client: SessionId) -> SessionId {
        self.in_slot(self.slot(now_unix), remote, client)
    }

    /// Whether `echoed` is what [`Cookie::session_id`] gave to this client at this address in the current
    /// slot or one of the two before it.
    #[must_use]
    pub fn is_valid(&self, now_unix: u64, remote: SocketAddr, client: SessionId, echoed: SessionId) -> bool {
        let now = self.slot(now_unix);
        (0..=OLD_SLOTS).filter_map(|back| now.checked_sub(back)).any(|slot| {
            let expected = self.in_slot(slot, remote, client);
            crypto::ct_eq(expected.as_bytes(), echoed.as_bytes())
        })
    }

    fn slot(&self, now_unix: u64) -> u32 {
        u32::try_from(now_unix / self.slot_seconds).unwrap_or(u32::MAX)
    }

    fn in_slot(&self, slot: u32, remote: SocketAddr, client: SessionId) -> SessionId {
        let address = address_bytes(remote);
        let parts: [&[u8]; 3] = [&slot.to_be_bytes(), &address, client.as_bytes()];
        let tag = crypto::hmac(Digest::Sha256, self.secret.as_slice(), &parts);
        let mut bytes = [0; SessionId::LEN];
        bytes.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        SessionId::from_bytes_nonzero(bytes)
    }
}

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookie").field("slot_seconds", &self.slot_seconds).finish_non_exhaustive()
    }
}

/// What is to be done with a datagram of an unknown sender.
#[derive(Debug)]
pub enum ListenerVerdict {
    /// Send these bytes back, if the limit of answers allows it. Nothing is to be remembered.
    Reply(Vec<u8>),
    /// The sender has proven its address: make a session.
    Create(Box<NewSession>),
    /// Drop and count.
    Drop(DropReason),
}

/// A session to be made, whose resets (message id 0 each way) have both been exchanged.
#[derive(Debug)]
pub struct NewSession {
    /// The client's session id.
    pub client_sid: SessionId,
    /// Our session id: the cookie.
    pub server_sid: SessionId,
    /// The packet that proved the cookie; it is to be handled as the session's first.
    pub packet: ControlPacket,
    /// The session's protection: its counter continues after our reset's, and it has committed `packet`.
    pub wrapper: Wrapper,
}

/// The stateless part of a gateway: it does not change from one datagram to the next.
#[derive(Debug)]
pub struct Listener {
    cookie: Cookie,
    config: WrapConfig,
    /// Never sends and never commits.
    fresh: Wrapper,
}

impl Listener {
    /// A listener for control packets with this protection, with a new cookie secret. `hand_window` in
    /// seconds.
    ///
    /// # Errors
    ///
    /// [`Error::Misuse`] if the protection is misconfigured, or is that of a client.
    pub fn new(config: WrapConfig, hand_window: u32, random: &mut dyn Random) -> Result<Self, Error> {
        let mut secret = Zeroizing::new([0; 32]);
        random.fill(secret.as_mut_slice());
        Self::with_cookie(config, Cookie::new(*secret, hand_window))
    }

    /// A listener whose cookie secret is given.
    ///
    /// # Errors
    ///
    /// As [`Listener::new`].
    pub fn with_cookie(config: WrapConfig, cookie: Cookie) -> Result<Self, Error> {
        if matches!(config, WrapConfig::TlsCrypt { role: Role::Client, .. }) {
            return Err(Error::Misuse("a listener is a server"));
        }
        let fresh = Wrapper::new(config.clone())?;
        Ok(Self { cookie, config, fresh })
    }

    /// Judges a datagram whose sender belongs to no session.
    #[must_use]
    pub fn handle_datagram(&self, now: Now, remote: SocketAddr, datagram: &[u8]) -> ListenerVerdict {
        self.judge(now, remote, datagram).unwrap_or_else(ListenerVerdict::Drop)
    }

    fn judge(&self, now: Now, remote: SocketAddr, datagram: &[u8]) -> Result<ListenerVerdict, DropReason> {
        let opened = self.fresh.authenticate(datagram)?;
        if opened.key_id != KeyId::FIRST {
            return Err(DropReason::WrongKeyId);
        }
        match opened.opcode {
            Opcode::HardResetClientV2 => {
                let packet = opened.decode()?;
                self.answer(now, remote, &packet).map(ListenerVerdict::Reply)
            }
            Opcode::ControlV1 | Opcode::AckV1 => {
                let packet = opened.decode()?;
                let server_sid = self.check_cookie(now, remote, &packet)?;
                let mut wrapper = self.continued(now)?;
                wrapper.commit(&opened)?;
                let client_sid = packet.session_id;
                let session = NewSession { client_sid, server_sid, packet, wrapper };
                Ok(ListenerVerdict::Create(Box::new(session)))
            }
            _ => Err(DropReason::UnexpectedOpcode),
        }
    }

    /// Our reset, whose session id is the cookie.
    fn answer(&self, now: Now, remote: SocketAddr, reset: &ControlPacket) -> Result<Vec<u8>, DropReason> {
        let client = reset.session_id;
        let reply = ControlPacket {
            opcode: Opcode::HardResetServerV2,
            key_id: KeyId::FIRST,
            session_id: self.cookie.session_id(now.unix, remote, client),
            acks: AckList::from_slice(&[MessageId(0)]).unwrap_or_default(),
            remote_session_id: Some(client),
            message_id: Some(MessageId(0)),
            payload: Vec::new(),
        };
        // The packet just built is consistent, so sealing it does not fail.
        self.fresh.clone().seal(now.unix, &reply).map_err(|_| DropReason::UnexpectedState)
    }

    /// The cookie that the packet proves.
    fn check_cookie(&self, now: Now, remote: SocketAddr, packet: &ControlPacket) -> Result<SessionId, DropReason> {
        let echoed = packet.remote_session_id.ok_or(DropReason::NoCookie)?;
        if !self.cookie.is_valid(now.unix, remote, packet.session_id, echoed) {
            return Err(DropReason::BadCookie);
        }
        if packet.acks.iter().any(|id| id.0 > HIGHEST_FIRST_ID.0) {
            return Err(DropReason::CookieAckTooHigh);
        }
        if packet.message_id.is_some_and(|id| id.0 > HIGHEST_FIRST_ID.0) {
            return Err(DropReason::CookieIdTooHigh);
        }
        Ok(echoed)
    }

    /// The protection of a session whose first packet, our reset, was sent without state.
    fn continued(&self, now: Now) -> Result<Wrapper, DropReason> {
        let time = u32::try_from(now.unix).unwrap_or(u32::MAX);
        Wrapper::resume(self.config.clone(), 2, time, None).map_err(|_| DropReason::UnexpectedState)
    }
}

/// Family, port and address in the layout of Linux's `struct sockaddr_in` and `sockaddr_in6`
/// (little-endian family), without flow label and scope. Any unambiguous layout would do.
fn address_bytes(remote: SocketAddr) -> Vec<u8> {
    let port = remote.port().to_be_bytes();
    match remote {
        SocketAddr::V4(v4) => [&[2, 0], port.as_slice(), &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => [&[10, 0], port.as_slice(), &[0; 4], &v6.ip().octets(), &[0; 4]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timers::Instant;
    use crate::wrap::vectors::{TLS_AUTH_CONTROL, TLS_AUTH_RESET, hex, static_key};
    use proptest::prelude::*;

    const HAND_WINDOW: u32 = 30;

    fn at(unix: u64) -> Now {
        Now { at: Instant(0), unix }
    }

    fn remote() -> SocketAddr {
        "192.0.2.1:1194".parse().unwrap()
    }

    fn secret() -> [u8; 32] {
        let mut secret = [0; 32];
        secret[..3].copy_from_slice(&[1, 2, 3]);
        secret
    }

    fn client_sid() -> SessionId {
        SessionId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7]).unwrap()
    }

    fn crypt(role: Role) -> WrapConfig {
        WrapConfig::TlsCrypt { key: static_key(), role }
    }

    fn auth(direction: u8) -> WrapConfig {
        WrapConfig::TlsAuth { key: static_key(), direction: Some(direction), digest: Digest::Sha1 }
    }

    fn listener(config: WrapConfig) -> Listener {
        Listener::with_cookie(config, Cookie::new(secret(), HAND_WINDOW)).unwrap()
    }

    fn reset() -> ControlPacket {
        ControlPacket {
            opcode: Opcode::HardResetClientV2,
            key_id: KeyId::FIRST,
            session_id: client_sid(),
            acks: AckList::new(),
            remote_session_id: None,
            message_id: Some(MessageId(0)),
            payload: Vec::new(),
        }
    }

    /// The client's ACK_V1 after an answer made at `made`.
    fn ack(listener: &Listener, made: u64) -> ControlPacket {
        ControlPacket {
            opcode: Opcode::AckV1,
            acks: AckList::from_slice(&[MessageId(0)]).unwrap(),
            remote_session_id: Some(listener.cookie.session_id(made, remote(), client_sid())),
            message_id: None,
            ..reset()
        }
    }

    /// The client's first CONTROL_V1 after an answer made at `made`.
    fn control(listener: &Listener, made: u64) -> ControlPacket {
        let opcode = Opcode::ControlV1;
        let payload = vec![0x16, 3, 1];
        ControlPacket { opcode, message_id: Some(MessageId(1)), payload, ..ack(listener, made) }
    }

    fn plain(packet: &ControlPacket) -> Vec<u8> {
        Wrapper::new(WrapConfig::None).unwrap().seal(1000, packet).unwrap()
    }

    fn verdict(listener: &Listener, unix: u64, packet: &ControlPacket) -> Result<(), DropReason> {
        match listener.handle_datagram(at(unix), remote(), &plain(packet)) {
            ListenerVerdict::Create(_) => Ok(()),
            ListenerVerdict::Drop(reason) => Err(reason),
            ListenerVerdict::Reply(_) => panic!("a reply to {packet:?}"),
        }
    }

    /// The value of OpenVPN's own unit test on Linux.
    #[test]
    fn the_cookie_gives_the_known_answer() {
        let cookie = Cookie::new(secret(), 100);
        let remote: SocketAddr = "15.240.0.255:1195".parse().unwrap();
        let made = cookie.session_id(1005, remote, client_sid());
        assert_eq!(made.to_string(), "8beb3d201453be0a");
        assert_eq!(cookie.session_id(1049, remote, client_sid()), made, "the same slot");
        assert_ne!(cookie.session_id(1050, remote, client_sid()), made, "the next slot");
        assert_ne!(Cookie::new([0; 32], 100).session_id(1005, remote, client_sid()), made);
    }

    #[test]
    fn a_cookie_is_valid_in_its_slot_and_the_two_after_it() {
        let cookie = Cookie::new(secret(), HAND_WINDOW);
        let made = cookie.session_id(1000, remote(), client_sid());
        let valid = |unix| cookie.is_valid(unix, remote(), client_sid(), made);
        // Slots of 15 s: this one is 990..1005.
        for (unix, expected) in [
            (980, false),
            (989, false),
            (990, true),
            (1002, true),
            (1010, true),
            (1022, true),
            (1034, true),
            (1035, false),
            (1040, false),
        ] {
            assert_eq!(valid(unix), expected, "at {unix}");
        }
    }

    #[test]
    fn a_cookie_is_bound_to_address_port_family_and_session_id() {
        let cookie = Cookie::new(secret(), HAND_WINDOW);
        let made = cookie.session_id(1000, remote(), client_sid());
        assert!(cookie.is_valid(1000, remote(), client_sid(), made));
        for other in ["192.0.2.2:1194", "192.0.2.1:1195", "[::ffff:192.0.2.1]:1194"] {
            let valid = cookie.is_valid(1000, other.parse().unwrap(), client_sid(), made);
            assert!(!valid, "{other}");
        }
        let other = SessionId::from_bytes([9; 8]).unwrap();
        assert!(!cookie.is_valid(1000, remote(), other, made));
        let v6: [SocketAddr; 2] = ["[2001:db8::1]:1194".parse().unwrap(), "[2001:db8::2]:1194".parse().unwrap()];
        let made = cookie.session_id(1000, v6[0], client_sid());
        assert!(cookie.is_valid(1000, v6[0], client_sid(), made));
        assert!(!cookie.is_valid(1000, v6[1], client_sid(), made));
    }

    #[test]
    fn every_flipped_bit_of_a_cookie_makes_it_invalid() {
        let cookie = Cookie::new(secret(), HAND_WINDOW);
        let made = *cookie.session_id(1000, remote(), client_sid()).as_bytes();
        for bit in 0..64 {
            let mut other = made;
            other[bit / 8] ^= 1 << (bit % 8);
            let other = SessionId::from_bytes(other).unwrap();
            assert!(!cookie.is_valid(1000, remote(), client_sid(), other), "bit {bit}");
        }
    }

    #[test]
    fn a_clock_at_its_ends_and_a_hand_window_of_zero_do_no_harm() {
        for (unix, hand_window) in [(0, 60), (0, 0), (1, 1), (u64::MAX, 0), (u64::MAX, u32::MAX)] {
            let cookie = Cookie::new(secret(), hand_window);
            let made = cookie.session_id(unix, remote(), client_sid());
            assert!(cookie.is_valid(unix, remote(), client_sid(), made));
        }
    }

    #[test]
    fn a_reset_is_answered_statelessly_and_the_answer_is_no_longer_than_allowed() {
        for (server, client) in
            [(WrapConfig::None, WrapConfig::None), (auth(0), auth(1)), (crypt(Role::Server), crypt(Role::Client))]
        {
            let listener = listener(server);
            let mut client = Wrapper::new(client).unwrap();
            let request = client.seal(900, &reset()).unwrap();
            let mut replies = (0..2).map(|_| match listener.handle_datagram(at(1000), remote(), &request) {
                ListenerVerdict::Reply(reply) => reply,
                other => panic!("{other:?}"),
            });
            let reply = replies.next().unwrap();
            assert_eq!(replies.next().unwrap(), reply, "nothing was remembered");
            assert_eq!(reply.len(), request.len() + MAX_AMPLIFICATION);
            let packet = client.open(&reply).unwrap().decode().unwrap();
            assert_eq!(packet.opcode, Opcode::HardResetServerV2);
            assert_eq!(packet.key_id, KeyId::FIRST);
            assert_eq!(packet.acks.as_slice(), [MessageId(0)]);
            assert_eq!(packet.remote_session_id, Some(client_sid()));
            assert_eq!(packet.message_id, Some(MessageId(0)));
            assert_eq!(packet.session_id, listener.cookie.session_id(1000, remote(), client_sid()));
            assert!(packet.payload.is_empty());
        }
    }

    #[test]
    fn an_echoed_cookie_makes_a_session_that_goes_on_after_the_reset() {
        for (server, client) in
            [(WrapConfig::None, WrapConfig::None), (auth(0), auth(1)), (crypt(Role::Server), crypt(Role::Client))]
        {
            let listener = listener(server);
            let mut client = Wrapper::new(client).unwrap();
            let request = client.seal(900, &reset()).unwrap();
            let ListenerVerdict::Reply(reply) = listener.handle_datagram(at(1000), remote(), &request) else {
                panic!("no reply");
            };
            client.open(&reply).unwrap();
            let first = client.seal(900, &control(&listener, 1000)).unwrap();
            let ListenerVerdict::Create(mut session) = listener.handle_datagram(at(1001), remote(), &first) else {
                panic!("no session");
            };
            assert_eq!(session.client_sid, client_sid());
            assert_eq!(session.server_sid, listener.cookie.session_id(1000, remote(), client_sid()));
            assert_eq!(session.packet, control(&listener, 1000));
            if session.wrapper.overhead() > 0 {
                assert_eq!(session.wrapper.open(&first), Err(DropReason::Replayed));
            }
            assert_eq!(session.wrapper.send_next(), 2);
            let answer = ControlPacket { session_id: session.server_sid, ..ack(&listener, 1000) };
            let answer = session.wrapper.seal(1001, &answer).unwrap();
            assert!(client.open(&answer).is_ok(), "the client does not take it for a replay");
        }
    }

    #[test]
    fn ack_and_control_packets_with_a_cookie_make_a_session() {
        let listener = listener(WrapConfig::None);
        assert_eq!(verdict(&listener, 1000, &ack(&listener, 1000)), Ok(()));
        assert_eq!(verdict(&listener, 1000, &control(&listener, 1000)), Ok(()));
        let acks = AckList::from_slice(&[MessageId(1), MessageId(0)]).unwrap();
        let packet = ControlPacket { acks, ..ack(&listener, 1000) };
        assert_eq!(verdict(&listener, 1000, &packet), Ok(()));
    }

    #[test]
    fn an_old_and_a_future_cookie_make_no_session() {
        let listener = listener(WrapConfig::None);
        for made in [1000, 1015, 1030] {
            assert_eq!(verdict(&listener, 1030, &ack(&listener, made)), Ok(()), "{made}");
        }
        for made in [985, 1045] {
            let result = verdict(&listener, 1030, &ack(&listener, made));
            assert_eq!(result, Err(DropReason::BadCookie), "{made}");
        }
    }

    #[test]
    fn a_cookie_of_another_address_or_session_makes_no_session() {
        let listener = listener(WrapConfig::None);
        let datagram = plain(&ack(&listener, 1000));
        for other in ["192.0.2.2:1194", "192.0.2.1:1195"] {
            let verdict = listener.handle_datagram(at(1000), other.parse().unwrap(), &datagram);
            assert!(matches!(verdict, ListenerVerdict::Drop(DropReason::BadCookie)), "{other}");
        }
        let session_id = SessionId::from_bytes([9; 8]).unwrap();
        let packet = ControlPacket { session_id, ..ack(&listener, 1000) };
        assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::BadCookie));
    }

    #[test]
    fn a_first_packet_with_too_high_ids_makes_no_session() {
        let listener = listener(WrapConfig::None);
        for ids in [vec![MessageId(2)], vec![MessageId(0), MessageId(1), MessageId(2)]] {
            let acks = AckList::from_slice(&ids).unwrap();
            let packet = ControlPacket { acks, ..ack(&listener, 1000) };
            assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::CookieAckTooHigh));
        }
        let message_id = Some(MessageId(2));
        let packet = ControlPacket { message_id, ..control(&listener, 1000) };
        assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::CookieIdTooHigh));
    }

    #[test]
    fn a_packet_without_acknowledgements_proves_nothing() {
        let listener = listener(WrapConfig::None);
        for packet in [ack(&listener, 1000), control(&listener, 1000)] {
            let packet = ControlPacket { acks: AckList::new(), remote_session_id: None, ..packet };
            assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::NoCookie));
        }
    }

    #[test]
    fn a_client_hello_without_a_cookie_makes_no_session() {
        let listener = listener(auth(0));
        let verdict = listener.handle_datagram(at(0x61d3_ff53), remote(), &hex(TLS_AUTH_CONTROL));
        assert!(matches!(verdict, ListenerVerdict::Drop(DropReason::NoCookie)));
    }

    #[test]
    fn only_key_id_0_and_only_the_opcodes_of_a_beginning_are_looked_at() {
        let listener = listener(WrapConfig::None);
        let key_id = FIRST_RENEGOTIATION;
        for packet in [reset(), ack(&listener, 1000), control(&listener, 1000)] {
            let packet = ControlPacket { key_id, ..packet };
            assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::WrongKeyId));
        }
        for opcode in [Opcode::HardResetServerV2, Opcode::HardResetClientV3, Opcode::SoftResetV1, Opcode::ControlWkcV1]
        {
            let message_id = Some(MessageId(0));
            let packet = ControlPacket { opcode, message_id, ..ack(&listener, 1000) };
            assert_eq!(verdict(&listener, 1000, &packet), Err(DropReason::UnexpectedOpcode));
        }
    }

    const FIRST_RENEGOTIATION: KeyId = KeyId::FIRST.next();

    #[test]
    fn a_reset_that_does_not_authenticate_is_not_answered() {
        let listener = listener(auth(0));
        let good = hex(TLS_AUTH_RESET);
        let reply = listener.handle_datagram(at(1000), remote(), &good);
        assert!(matches!(reply, ListenerVerdict::Reply(_)));
        let mut forged = good;
        forged[9] ^= 1;
        let verdict = listener.handle_datagram(at(1000), remote(), &forged);
        assert!(matches!(verdict, ListenerVerdict::Drop(DropReason::BadTag)));
    }

    #[test]
    fn a_listener_does_not_take_a_client_s_keys() {
        let cookie = Cookie::new(secret(), HAND_WINDOW);
        let result = Listener::with_cookie(crypt(Role::Client), cookie);
        assert!(matches!(result, Err(Error::Misuse(_))));
    }

    #[test]
    fn each_listener_has_its_own_secret() {
        let mut random = crypto::SystemRandom;
        let [a, b] = [(); 2].map(|()| Listener::new(WrapConfig::None, 60, &mut random).unwrap());
        assert_eq!(verdict(&a, 1000, &ack(&a, 1000)), Ok(()));
        assert_eq!(verdict(&b, 1000, &ack(&a, 1000)), Err(DropReason::BadCookie));
    }

    proptest! {
        #[test]
        fn random_datagrams_never_panic_never_make_a_session_and_never_amplify(
            first in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            let datagram = [&[first], rest.as_slice()].concat();
            match listener(WrapConfig::None).handle_datagram(at(1000), remote(), &datagram) {
                ListenerVerdict::Create(session) => prop_assert!(false, "{session:?}"),
                ListenerVerdict::Reply(reply) => {
                    prop_assert!(reply.len() <= datagram.len() + MAX_AMPLIFICATION);
                }
                ListenerVerdict::Drop(_) => {}
            }
        }
    }
}

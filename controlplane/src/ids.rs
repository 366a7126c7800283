//! The numbers by which the OpenVPN wire protocol names sessions, messages, keys and peers. Only
//! the types and their arithmetic belong here, not what is done with them.

use std::fmt;

use crate::crypto::Random;

/// Which end of the connection we are: it decides opcodes, tls-crypt keys and data keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The side that sends the first packet and is the TLS client.
    Client,
    /// The side that answers and is the TLS server.
    Server,
}

impl Role {
    /// The other end.
    #[must_use]
    pub const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A session id: eight bytes that a side chooses at a hard reset and keeps across soft resets.
/// Never all zero, which the wire protocol reads as "none".
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId([u8; 8]);

impl SessionId {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 8;

    /// A fresh random id.
    #[must_use]
    pub fn new_random(random: &mut dyn Random) -> Self {
        let mut bytes = [0; Self::LEN];
        random.fill(&mut bytes);
        Self::from_bytes_nonzero(bytes)
    }

    /// The id with these bytes, or `None` if they are all zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; Self::LEN]).then_some(Self(bytes))
    }

    /// The id with these bytes; eight zeros, which chance may give, become a 1.
    pub(crate) fn from_bytes_nonzero(bytes: [u8; 8]) -> Self {
        Self::from_bytes(bytes).unwrap_or(Self([0, 0, 0, 0, 0, 0, 0, 1]))
    }

    /// The bytes as they stand on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// The id of a control message: counts from 0 per key-id and direction, without gaps, modulo 2^32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MessageId(pub u32);

impl MessageId {
    /// The id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// How far this id lies after `earlier`, modulo 2^32.
    #[must_use]
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this id lies before `other` on the circle of 2^32 ids (by less than half of it).
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        let distance = other.distance_from(self);
        distance != 0 && distance < 1 << 31
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key-id, 0..=7: 0 for the first TLS session of a connection, 1..=7 in turn for renegotiations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct KeyId(u8);

impl KeyId {
    /// The key-id of a connection's first TLS session.
    pub const FIRST: Self = Self(0);

    /// The key-id with this number, or `None` above 7.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number <= 7 { Some(Self(number)) } else { None }
    }

    /// The low three bits of a packet's first byte.
    #[must_use]
    pub const fn from_first_byte(byte: u8) -> Self {
        Self(byte & 7)
    }

    /// The number, 0..=7.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The key-id of the next renegotiation: 0, 1, …, 7, 1, … and never 0 again.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.0 == 7 { Self(1) } else { Self(self.0 + 1) }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer-id: 24 bits, by which DATA_V2 packets name their peer. The server gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// The highest peer-id that names a peer; the one above it, 0xFFFFFF, means "none".
    pub const MAX: u32 = 0x00FF_FFFE;

    /// The peer-id with this number, or `None` if it is 0xFFFFFF or above.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX { Some(Self(number)) } else { None }
    }

    /// The number, at most [`PeerId::MAX`].
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(self.0);
        }
    }

    #[test]
    fn a_session_id_is_never_zero() {
        assert_eq!(SessionId::from_bytes([0; 8]), None);
        assert!(SessionId::from_bytes([0, 0, 0, 0, 0, 0, 0, 1]).is_some());
        assert_ne!(SessionId::new_random(&mut Fixed(0)).as_bytes(), &[0; 8]);
        assert_eq!(SessionId::new_random(&mut Fixed(7)).as_bytes(), &[7; 8]);
    }

    #[test]
    fn a_session_id_is_shown_in_hexadecimal() {
        let id = SessionId::from_bytes([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]).unwrap();
        assert_eq!(id.to_string(), "00010203fcfdfeff");
    }

    #[test]
    fn key_ids_never_come_back_to_zero() {
        let mut key = KeyId::FIRST;
        let seen: Vec<u8> = (0..9)
            .map(|_| {
                key = key.next();
                key.get()
            })
            .collect();
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 1, 2]);
        assert_eq!(KeyId::new(7).map(KeyId::get), Some(7));
        assert_eq!(KeyId::new(8), None);
        assert_eq!(KeyId::from_first_byte(0xff).get(), 7);
    }

    #[test]
    fn message_ids_are_ordered_on_a_circle() {
        assert!(MessageId(u32::MAX).is_before(MessageId(0)));
        assert!(!MessageId(0).is_before(MessageId(u32::MAX)));
        assert!(!MessageId(5).is_before(MessageId(5)));
        assert_eq!(MessageId(u32::MAX).next(), MessageId(0));
        assert_eq!(MessageId(2).distance_from(MessageId(u32::MAX)), 3);
    }

    #[test]
    fn the_peer_id_that_means_none_names_no_peer() {
        assert!(PeerId::new(0).is_some());
        assert_eq!(PeerId::new(0x00FF_FFFE).map(PeerId::get), Some(0x00FF_FFFE));
        assert_eq!(PeerId::new(0x00FF_FFFF), None);
        assert_eq!(PeerId::new(0x0100_0000), None);
    }

    #[test]
    fn each_role_has_the_other_as_its_peer() {
        assert_eq!(Role::Client.peer(), Role::Server);
        assert_eq!(Role::Server.peer(), Role::Client);
    }
}

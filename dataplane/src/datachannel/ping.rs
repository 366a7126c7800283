//! The in-band messages of the data channel (OpenVPN wire protocol, "ping" and "occ"): an authenticated payload that
//! starts with one of two magic strings is for the daemon, not for TUN.

/// The keepalive: the whole payload.
pub const PING: [u8; 16] =
    [0x2a, 0x18, 0x7b, 0xf3, 0x64, 0x1e, 0xb4, 0xcb, 0x07, 0xed, 0x2d, 0x0a, 0x98, 0x1f, 0xc7, 0x48];

/// What an OCC message starts with; one byte with the operation follows.
pub const OCC_MAGIC: [u8; 16] =
    [0x28, 0x7f, 0x34, 0x6b, 0xd4, 0xef, 0x7a, 0x81, 0x2d, 0x56, 0xb8, 0xd3, 0xaf, 0xc5, 0x45, 0x9c];

/// The operation "the sender is going away" (explicit exit notify).
pub const OCC_EXIT: u8 = 6;

/// The exit message: the whole payload.
pub const EXIT: [u8; 17] = {
    let mut message = [0; 17];
    let mut at = 0;
    while at < OCC_MAGIC.len() {
        message[at] = OCC_MAGIC[at];
        at += 1;
    }
    message[16] = OCC_EXIT;
    message
};

/// What an authenticated payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InBand {
    /// A packet for TUN.
    Packet,
    /// A keepalive.
    Ping,
    /// The peer goes away.
    Exit,
    /// Any other OCC operation, or one cut short.
    OtherOcc,
}

/// Tells packets from in-band messages. Neither magic string can start an IP packet: their first half-byte is 2.
#[inline]
pub fn classify(payload: &[u8]) -> InBand {
    match payload.first() {
        Some(first) if first >> 4 == 2 => classify_magic(payload),
        _ => InBand::Packet,
    }
}

fn classify_magic(payload: &[u8]) -> InBand {
    if payload == PING {
        return InBand::Ping;
    }
    match payload.strip_prefix(&OCC_MAGIC) {
        Some([OCC_EXIT, ..]) => InBand::Exit,
        Some(_) => InBand::OtherOcc,
        None => InBand::Packet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_messages_are_recognised() {
        assert_eq!(classify(&PING), InBand::Ping);
        assert_eq!(classify(&EXIT), InBand::Exit);
        assert_eq!(classify(&OCC_MAGIC), InBand::OtherOcc);
        let mut request = EXIT;
        request[16] = 0;
        assert_eq!(classify(&request), InBand::OtherOcc);
    }

    #[test]
    fn what_only_resembles_a_message_is_a_packet() {
        for at in 0..16 {
            let mut ping = PING;
            ping[at] ^= 1;
            assert_eq!(classify(&ping), InBand::Packet);
            let mut exit = EXIT;
            exit[at] ^= 1;
            assert_eq!(classify(&exit), InBand::Packet);
        }
        assert_eq!(classify(&PING[..15]), InBand::Packet);
        assert_eq!(classify(&[&PING[..], &[0]].concat()), InBand::Packet);
        assert_eq!(classify(&[]), InBand::Packet);
        assert_eq!(classify(&[0x45]), InBand::Packet);
    }
}

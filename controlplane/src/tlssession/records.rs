//! The outside of a TLS stream: where records begin, and what those are called that are not encrypted (RFC 8446 §5.1 and §4,
//! RFC 5246 §6.2.1 and §7.4). Nothing is kept but a few header bytes, and nothing comes out but names.

/// The longest record that TLS allows, in bytes without its header: 2^14 of plaintext and 2,048 of expansion (RFC 5246 §6.2.3).
const MAX_RECORD: usize = (1 << 14) + 2_048;

/// Names what passes in one direction of one TLS session.
#[derive(Debug, Default)]
pub(crate) struct RecordNames {
    /// The record's header, as far as it came.
    header: Partial<5>,
    /// Bytes of the record that are still to come.
    left: usize,
    inside: Inside,
    /// The handshake message's header, as far as it came; a message may go over several records.
    message: Partial<4>,
    /// Bytes of the handshake message that are still to come.
    message_left: usize,
    last_was_hello: bool,
    /// ChangeCipherSpec came: in TLS 1.2, handshake records and alerts are encrypted from here on.
    encrypted: bool,
    /// The stream is not TLS; nothing more is said about it.
    lost: bool,
}

/// What the record holds that is passing.
#[derive(Clone, Copy, Debug, Default)]
enum Inside {
    /// Nothing that can be seen.
    #[default]
    Closed,
    /// Handshake messages.
    Handshake,
    /// An alert: its two bytes.
    Alert(Partial<2>),
}

/// Some bytes that come one after the other.
#[derive(Clone, Copy, Debug)]
struct Partial<const N: usize> {
    bytes: [u8; N],
    have: usize,
}

impl<const N: usize> Default for Partial<N> {
    fn default() -> Self {
        Self { bytes: [0; N], have: 0 }
    }
}

impl<const N: usize> Partial<N> {
    /// Adds a byte; all of them, once they are complete, and then it is empty again.
    fn push(&mut self, byte: u8) -> Option<[u8; N]> {
        if let Some(place) = self.bytes.get_mut(self.have) {
            *place = byte;
        }
        self.have += 1;
        if self.have < N {
            return None;
        }
        self.have = 0;
        Some(self.bytes)
    }
}

/// A record that nobody but the two ends can read, after the handshake.
pub(crate) const ENCRYPTED: &str = "encrypted";

impl RecordNames {
    /// Takes the next bytes of the stream. `say` hears each name, with the place in `bytes` at which it was known.
    /// `handshaking` says whether TLS is still at it: what is encrypted then is the handshake.
    pub(crate) fn feed(&mut self, bytes: &[u8], handshaking: bool, mut say: impl FnMut(usize, &'static str)) {
        for (place, byte) in bytes.iter().enumerate() {
            if self.lost {
                return;
            }
            if self.left == 0 {
                if let Some(header) = self.header.push(*byte) {
                    self.record(header, handshaking, |name| say(place, name));
                }
                continue;
            }
            self.left -= 1;
            match &mut self.inside {
                Inside::Closed => {}
                Inside::Alert(alert) => {
                    if let Some([_, description]) = alert.push(*byte) {
                        say(place, alert_name(description));
                    }
                }
                Inside::Handshake => self.handshake(*byte, |name| say(place, name)),
            }
        }
    }

    fn record(&mut self, header: [u8; 5], handshaking: bool, mut say: impl FnMut(&'static str)) {
        let [kind, major, _, high, low] = header;
        self.left = usize::from(u16::from_be_bytes([high, low]));
        self.inside = Inside::Closed;
        match kind {
            _ if major != 3 || self.left > MAX_RECORD => {
                self.lost = true;
                say("not_tls");
            }
            20 => {
                // Right after a hello it is the one of TLS 1.3 that means nothing (RFC 8446 appendix D.4).
                self.encrypted |= !self.last_was_hello;
                say("change_cipher_spec");
            }
            21 if self.encrypted => say("encrypted_alert"),
            21 => self.inside = Inside::Alert(Partial::default()),
            22 if self.encrypted => say("encrypted_handshake"),
            22 => self.inside = Inside::Handshake,
            23 if handshaking => say("encrypted_handshake"),
            23 => say(ENCRYPTED),
            _ => {
                self.lost = true;
                say("not_tls");
            }
        }
    }

    fn handshake(&mut self, byte: u8, mut say: impl FnMut(&'static str)) {
        if self.message_left > 0 {
            self.message_left -= 1;
        } else if let Some([kind, a, b, c]) = self.message.push(byte) {
            // Three bytes fit into 32 bits, and those into usize.
            self.message_left = u32::from_be_bytes([0, a, b, c]) as usize;
            self.last_was_hello = matches!(kind, 1 | 2);
            say(handshake_name(kind));
        }
    }
}

/// The names of RFC 5246 §7.4, RFC 6066 §8 and RFC 8446 §4.
fn handshake_name(kind: u8) -> &'static str {
    match kind {
        0 => "hello_request",
        1 => "client_hello",
        2 => "server_hello",
        4 => "new_session_ticket",
        8 => "encrypted_extensions",
        11 => "certificate",
        12 => "server_key_exchange",
        13 => "certificate_request",
        14 => "server_hello_done",
        15 => "certificate_verify",
        16 => "client_key_exchange",
        20 => "finished",
        22 => "certificate_status",
        _ => "handshake",
    }
}

/// The names of RFC 8446 §6 (and of RFC 5246 §7.2 for what is only there).
fn alert_name(description: u8) -> &'static str {
    match description {
        0 => "alert_close_notify",
        10 => "alert_unexpected_message",
        20 => "alert_bad_record_mac",
        40 => "alert_handshake_failure",
        42 => "alert_bad_certificate",
        43 => "alert_unsupported_certificate",
        44 => "alert_certificate_revoked",
        45 => "alert_certificate_expired",
        46 => "alert_certificate_unknown",
        47 => "alert_illegal_parameter",
        48 => "alert_unknown_ca",
        49 => "alert_access_denied",
        50 => "alert_decode_error",
        51 => "alert_decrypt_error",
        70 => "alert_protocol_version",
        71 => "alert_insufficient_security",
        80 => "alert_internal_error",
        109 => "alert_missing_extension",
        116 => "alert_certificate_required",
        _ => "alert",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names_in_pieces(bytes: &[u8], handshaking: bool, piece: usize) -> Vec<&'static str> {
        let (mut records, mut names) = (RecordNames::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            records.feed(piece, handshaking, |_, name| names.push(name));
        }
        names
    }

    fn names(bytes: &[u8], handshaking: bool) -> Vec<&'static str> {
        let whole = names_in_pieces(bytes, handshaking, bytes.len().max(1));
        for piece in 1..9 {
            assert_eq!(names_in_pieces(bytes, handshaking, piece), whole, "in pieces of {piece}");
        }
        whole
    }

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3][..], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }

    fn message(kind: u8, len: u8) -> Vec<u8> {
        [&[kind, 0, 0, len][..], &vec![0xAA; usize::from(len)]].concat()
    }

    #[test]
    fn several_messages_of_one_record_are_named() {
        let body = [message(2, 70), message(11, 200), message(12, 5), message(13, 9), message(14, 0)].concat();
        let expected =
            ["server_hello", "certificate", "server_key_exchange", "certificate_request", "server_hello_done"];
        assert_eq!(names(&record(22, &body), true), expected);
    }

    #[test]
    fn a_message_over_several_records_is_named_once() {
        let body = [message(11, 250), message(14, 0)].concat();
        let parts: Vec<u8> = body.chunks(100).flat_map(|part| record(22, part)).collect();
        assert_eq!(names(&parts, true), ["certificate", "server_hello_done"]);
    }

    #[test]
    fn what_follows_change_cipher_spec_is_encrypted() {
        let bytes = [record(22, &message(16, 30)), record(20, &[1]), record(22, &[1, 0, 0, 9]), record(21, &[2, 48])];
        let expected = ["client_key_exchange", "change_cipher_spec", "encrypted_handshake", "encrypted_alert"];
        assert_eq!(names(&bytes.concat(), true), expected);
    }

    #[test]
    fn a_second_hello_after_the_meaningless_change_cipher_spec_is_seen() {
        let bytes = [record(22, &message(1, 60)), record(20, &[1]), record(22, &message(1, 61))].concat();
        assert_eq!(names(&bytes, true), ["client_hello", "change_cipher_spec", "client_hello"]);
    }

    #[test]
    fn application_records_are_the_handshake_until_it_is_over() {
        assert_eq!(names(&record(23, &[7; 40]), true), ["encrypted_handshake"]);
        assert_eq!(names(&record(23, &[7; 40]), false), ["encrypted"]);
    }

    #[test]
    fn alerts_are_named_and_unknown_ones_as_well() {
        assert_eq!(names(&record(21, &[2, 48]), true), ["alert_unknown_ca"]);
        assert_eq!(names(&record(21, &[2, 200]), true), ["alert"]);
        assert_eq!(names(&record(21, &[2]), true), [""; 0]);
    }

    #[test]
    fn what_is_not_tls_is_said_once() {
        for bytes in
            [&b"HTTP/1.1 400 Bad Request\r\n"[..], &[22, 3, 3, 0xff, 0xff, 0], &[99, 3, 3, 0, 1, 0], &[22, 2, 0, 0, 9]]
        {
            assert_eq!(names(&[bytes, &record(22, &message(1, 4))].concat(), true), ["not_tls"], "{bytes:?}");
        }
    }

    #[test]
    fn the_place_is_where_the_name_was_known() {
        let (mut records, mut places) = (RecordNames::default(), Vec::new());
        let bytes = [record(23, &[0; 3]), record(22, &message(20, 2))].concat();
        records.feed(&bytes, false, |place, name| places.push((place, name)));
        assert_eq!(places, [(4, "encrypted"), (16, "finished")]);
    }
}

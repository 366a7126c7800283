//! Sentences for people: why a packet was ignored, and what a stage means.

use controlplane::error::DropReason as Why;
use controlplane::packet::Opcode;
use controlplane::trace::{Packet, Stage};

/// Why a datagram was ignored.
pub(super) fn ignored(reason: Why, stage: Stage, packet: &Packet) -> &'static str {
    let server_reset = packet.opcode == Some(Opcode::HardResetServerV2);
    match reason {
        Why::Empty => "it has no bytes",
        Why::TooLong => "it is longer than any control packet",
        Why::Truncated => {
            "it is too short: cut, sent without the tls-auth or tls-crypt of this session, or not of OpenVPN"
        }
        Why::Leftover => "bytes are left over behind its last field",
        Why::UnknownOpcode => {
            "its first byte is none of OpenVPN's: something else speaks on this port, or it was made up"
        }
        Why::NotControl => "it is a data packet, and a trace carries no data",
        Why::UnexpectedOpcode if packet.opcode.is_some_and(Opcode::is_hard_reset) => {
            "it is a reset that no server sends now: an echo of our own, or made up"
        }
        Why::UnexpectedOpcode => "no server sends this kind of packet",
        Why::ZeroSessionId => "its session id is all zero",
        Why::TooManyAcks => "it acknowledges more messages than a packet may",
        Why::ResetIdNotZero => "it is a reset that is not the first message of its key",
        Why::BadTag => {
            "its authentication tag is wrong: another key (tls-auth, tls-crypt, key-direction, auth), or it was made up"
        }
        Why::Replayed => "it was seen before: repeated by the network or by somebody on the way",
        Why::UnknownSession if server_reset => {
            "it is a reset of another session than the one that is under way: late, or made up to break it"
        }
        Why::UnknownSession => "its session id is not the server's: of an older session, or made up",
        Why::WrongAddress => "it does not come from the server's address",
        Why::WrongRemoteSession => "it echoes another session id than ours: meant for another session, or made up",
        Why::WrongKeyId => "its key-id belongs to no negotiation of this session",
        Why::OutOfWindow => "its message is too far ahead of what has arrived; it will be sent again",
        Why::UnexpectedState if server_reset && stage <= Stage::PreStart => {
            "it is a reset that does not acknowledge ours, as the server's would: made up by somebody who cannot see our packets"
        }
        Why::UnexpectedState if stage <= Stage::PreStart => "the server's reset is awaited, and this is something else",
        Why::UnexpectedState => "it is not the packet that is awaited",
        _ => "it is not acceptable",
    }
}

/// What a stage means.
pub(super) fn stage(name: &str) -> &'static str {
    match name {
        "S_INITIAL" => "nothing is sent yet",
        "S_PRE_START" => "our reset goes out; the server's is awaited",
        "S_START" => "both resets are exchanged: TLS handshake",
        "S_SENT_KEY" => "TLS is done, our key message goes out",
        "S_GOT_KEY" => "the server's key message is here",
        "S_ACTIVE" => "the control channel is complete; the server's settings are awaited",
        "S_GENERATED_KEYS" => "the data keys are made",
        _ => "the session failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_that_a_client_can_meet_has_a_sentence_of_its_own() {
        let gateways = [
            Why::NoCookie,
            Why::BadCookie,
            Why::CookieAckTooHigh,
            Why::CookieIdTooHigh,
            Why::RateLimited,
            Why::TooManySessions,
        ];
        let mut seen = Vec::new();
        for reason in Why::ALL.iter().copied().filter(|reason| !gateways.contains(reason)) {
            let sentence = ignored(reason, Stage::Start, &Packet::default());
            assert!(!seen.contains(&sentence) && sentence != "it is not acceptable", "{reason:?}");
            seen.push(sentence);
        }
    }

    #[test]
    fn a_forged_reset_is_called_one() {
        let reset = Packet { opcode: Some(Opcode::HardResetServerV2), ..Packet::default() };
        assert!(ignored(Why::UnexpectedState, Stage::PreStart, &reset).contains("does not acknowledge ours"));
        assert!(ignored(Why::UnknownSession, Stage::Start, &reset).contains("reset"));
        assert!(!ignored(Why::UnexpectedState, Stage::PreStart, &Packet::default()).contains("acknowledge"));
    }

    #[test]
    fn every_stage_means_something_else() {
        let stages = [
            Stage::Initial,
            Stage::PreStart,
            Stage::Start,
            Stage::SentKey,
            Stage::GotKey,
            Stage::Active,
            Stage::GeneratedKeys,
            Stage::Error,
        ];
        let mut sentences = stages.map(|s| stage(s.as_str())).to_vec();
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!(sentences.len(), stages.len());
    }
}

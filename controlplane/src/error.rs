//! Errors of the control channel, sorted by who is to blame, and the reasons for which a control
//! datagram is dropped. Only these types belong here; what to do about an error is decided by the
//! caller, and sentences for people are made at the edge of the program.

/// What went wrong, sorted by whom it is to be blamed on.
///
/// The reasons are fixed texts: nothing that a peer sent is copied into an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes do not follow the format: damaged, truncated or hostile.
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    /// Well-formed, but not what this peer may say at this moment.
    #[error("the peer misbehaved: {0}")]
    PeerMisbehaved(&'static str),
    /// Both sides behave, but their settings do not fit together.
    #[error("incompatible with the peer: {0}")]
    Incompatible(&'static str),
    /// A certificate, a credential or a tag was refused.
    #[error("authentication failed: {0}")]
    AuthenticationFailed(&'static str),
    /// Our own caller asked for something that makes no sense.
    #[error("misuse: {0}")]
    Misuse(&'static str),
}

/// Why the bytes of a control packet could not be decoded (OpenVPN wire protocol, control packet).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// The packet ended inside a field.
    #[error("the packet ended inside a field")]
    Truncated,
    /// Bytes were left over after the last field.
    #[error("bytes were left over after the last field")]
    Leftover,
    /// The opcode is outside 3..=11.
    #[error("the opcode is not one that OpenVPN 2.x accepts")]
    UnknownOpcode,
    /// The opcode is one of the data channel.
    #[error("a data packet where a control packet was expected")]
    NotControl,
    /// A session id of eight zero bytes, which stands for "none".
    #[error("the session id is all zero")]
    ZeroSessionId,
    /// More than eight acknowledged ids.
    #[error("the packet acknowledges more than eight ids")]
    TooManyAcks,
    /// A reset is always the first message of its key, so its message id is 0.
    #[error("a reset whose message id is not 0")]
    ResetIdNotZero,
}

impl From<Malformed> for Error {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(match reason {
            Malformed::Truncated => "the packet ended inside a field",
            Malformed::Leftover => "bytes were left over after the last field",
            Malformed::UnknownOpcode => "the opcode is not one that OpenVPN 2.x accepts",
            Malformed::NotControl => "a data packet where a control packet was expected",
            Malformed::ZeroSessionId => "the session id is all zero",
            Malformed::TooManyAcks => "the packet acknowledges more than eight ids",
            Malformed::ResetIdNotZero => "a reset whose message id is not 0",
        })
    }
}

impl From<Malformed> for DropReason {
    fn from(reason: Malformed) -> Self {
        match reason {
            Malformed::Truncated => Self::Truncated,
            Malformed::Leftover => Self::Leftover,
            Malformed::UnknownOpcode => Self::UnknownOpcode,
            Malformed::NotControl => Self::NotControl,
            Malformed::ZeroSessionId => Self::ZeroSessionId,
            Malformed::TooManyAcks => Self::TooManyAcks,
            Malformed::ResetIdNotZero => Self::ResetIdNotZero,
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)+) => {
        /// Every way in which a control datagram can be dropped. Each is a counter; none is a log line.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DropReason {
            $($(#[$doc])* $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of their numbers: `ALL[reason.index()] == reason`.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name of the counter, in snake case.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The datagram had no bytes.
    Empty => "empty",
    /// Longer than any control packet may be.
    TooLong => "too_long",
    /// The packet ended inside a field.
    Truncated => "truncated",
    /// Bytes were left over after the last field.
    Leftover => "leftover",
    /// The opcode is outside 3..=11.
    UnknownOpcode => "unknown_opcode",
    /// The opcode is one of the data channel.
    NotControl => "not_control",
    /// The opcode does not fit the sender's role, or is not supported here.
    UnexpectedOpcode => "unexpected_opcode",
    /// The sender's or the echoed session id is all zero.
    ZeroSessionId => "zero_session_id",
    /// More than eight acknowledged ids.
    TooManyAcks => "too_many_acks",
    /// A reset whose message id is not 0.
    ResetIdNotZero => "reset_id_not_zero",
    /// The tag of tls-auth or tls-crypt did not verify.
    BadTag => "bad_tag",
    /// The replay id of tls-auth or tls-crypt is 0, was seen before, or is too old.
    Replayed => "replayed",
    /// No session with the sender's session id.
    UnknownSession => "unknown_session",
    /// A known session id from an address that is not the session's.
    WrongAddress => "wrong_address",
    /// The echoed session id is not ours.
    WrongRemoteSession => "wrong_remote_session",
    /// The key-id belongs to no negotiation of the session.
    WrongKeyId => "wrong_key_id",
    /// The message id is beyond the receive window.
    OutOfWindow => "out_of_window",
    /// Not the packet that this state waits for.
    UnexpectedState => "unexpected_state",
    /// A packet that could prove the cookie acknowledges nothing.
    NoCookie => "no_cookie",
    /// The echoed session id is not a cookie that we gave to this sender within its validity.
    BadCookie => "bad_cookie",
    /// The first packet of a session acknowledges an id above 1.
    CookieAckTooHigh => "cookie_ack_too_high",
    /// The first packet of a session has a message id above 1.
    CookieIdTooHigh => "cookie_id_too_high",
    /// More new connections than the limit allows.
    RateLimited => "rate_limited",
    /// No room for another session.
    TooManySessions => "too_many_sessions",
}

impl DropReason {
    /// The number of reasons: the length of an array of counters.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason's place in an array of counters, below [`DropReason::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_drop_reason_has_its_own_name_and_place() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
    }

    #[test]
    fn a_malformed_packet_says_the_same_in_every_form() {
        for reason in [
            Malformed::Truncated,
            Malformed::Leftover,
            Malformed::UnknownOpcode,
            Malformed::NotControl,
            Malformed::ZeroSessionId,
            Malformed::TooManyAcks,
            Malformed::ResetIdNotZero,
        ] {
            let text = reason.to_string();
            assert_eq!(Error::from(reason).to_string(), format!("malformed message: {text}"));
            let debug = format!("{reason:?}");
            assert_eq!(format!("{:?}", DropReason::from(reason)), debug);
        }
    }
}

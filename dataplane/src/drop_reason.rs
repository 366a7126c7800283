//! Every way a packet can be dropped. Each variant is one counter in [`WorkerStats`](crate::workers::stats::WorkerStats);
//! no variant carries data, and nothing here logs: the packet path counts, the edge of the program speaks.

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum DropReason {
    /// A datagram without a single byte.
    Empty,
    /// An opcode that no OpenVPN peer sends (0 to 2, or above 11).
    UnknownOpcode,
    /// A data packet too short for its header, tag and one byte.
    TooShort,
    /// No peer has this peer-id or this address.
    UnknownPeer,
    /// The peer exists, but the packet came from another address and the peer may not float.
    WrongAddress,
    /// The peer has no key with this key-id (or it has expired).
    UnknownKey,
    /// The packet id was seen before, or lies below the replay window.
    Replayed,
    /// The packet id lies below the mark that is older than the window's time.
    TooLate,
    /// The tag does not match.
    AuthenticationFailed,
    /// The key failed so often that it opens nothing any more.
    FailureLimit,
    /// An authenticated payload that is neither IPv4 nor IPv6, or whose lengths are wrong.
    MalformedInner,
    /// The inner source address does not belong to this peer.
    SourceNotAllowed,
    /// An in-band message other than ping and exit, or an exit that is said again.
    IgnoredOcc,
    /// A control datagram longer than a ring slot carries.
    ControlTooLong,
    /// The ring towards the control process was full.
    ControlRingFull,
    /// A datagram that did not fit its receive buffer.
    Truncated,
    /// What TUN gave is neither IPv4 nor IPv6, or its lengths are wrong.
    NotIp,
    /// The virtio header and the packet behind it contradict each other.
    BadOffload,
    /// No peer owns the inner destination address.
    NoRoute,
    /// The peer has no key to seal with yet.
    NoKey,
    /// The sending key has reached its hard limit.
    KeyExhausted,
    /// The sealed packet would not fit a UDP datagram, or the super-packet an empty batch.
    TooLarge,
    /// Longer than the path carries, where it may not be fragmented, or than the tunnel's MTU: known before it was sealed.
    /// The first of a burst is answered by ICMP.
    TooBig,
    /// The kernel's send queue was full.
    SocketFull,
    /// Longer than the path carries, where it may not be fragmented: the kernel said so (EMSGSIZE).
    MessageTooLong,
    /// Any other error of a send.
    SocketError,
    /// TUN's queue was full, or the batch towards it.
    TunFull,
    /// Any other error of a TUN write (interface down, …).
    TunError,
    /// It belongs to another worker, and the ring towards that one was full.
    HandoverFull,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Every reason, in the order of its counter.
    pub const ALL: [DropReason; 29] = [
        DropReason::Empty,
        DropReason::UnknownOpcode,
        DropReason::TooShort,
        DropReason::UnknownPeer,
        DropReason::WrongAddress,
        DropReason::UnknownKey,
        DropReason::Replayed,
        DropReason::TooLate,
        DropReason::AuthenticationFailed,
        DropReason::FailureLimit,
        DropReason::MalformedInner,
        DropReason::SourceNotAllowed,
        DropReason::IgnoredOcc,
        DropReason::ControlTooLong,
        DropReason::ControlRingFull,
        DropReason::Truncated,
        DropReason::NotIp,
        DropReason::BadOffload,
        DropReason::NoRoute,
        DropReason::NoKey,
        DropReason::KeyExhausted,
        DropReason::TooLarge,
        DropReason::TooBig,
        DropReason::SocketFull,
        DropReason::MessageTooLong,
        DropReason::SocketError,
        DropReason::TunFull,
        DropReason::TunError,
        DropReason::HandoverFull,
    ];

    /// The index of its counter.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name of its counter in status output and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Empty => "empty",
            DropReason::UnknownOpcode => "unknown_opcode",
            DropReason::TooShort => "too_short",
            DropReason::UnknownPeer => "unknown_peer",
            DropReason::WrongAddress => "wrong_address",
            DropReason::UnknownKey => "unknown_key",
            DropReason::Replayed => "replayed",
            DropReason::TooLate => "too_late",
            DropReason::AuthenticationFailed => "authentication_failed",
            DropReason::FailureLimit => "failure_limit",
            DropReason::MalformedInner => "malformed_inner",
            DropReason::SourceNotAllowed => "source_not_allowed",
            DropReason::IgnoredOcc => "ignored_occ",
            DropReason::ControlTooLong => "control_too_long",
            DropReason::ControlRingFull => "control_ring_full",
            DropReason::Truncated => "truncated",
            DropReason::NotIp => "not_ip",
            DropReason::BadOffload => "bad_offload",
            DropReason::NoRoute => "no_route",
            DropReason::NoKey => "no_key",
            DropReason::KeyExhausted => "key_exhausted",
            DropReason::TooLarge => "too_large",
            DropReason::TooBig => "too_big",
            DropReason::SocketFull => "socket_full",
            DropReason::MessageTooLong => "message_too_long",
            DropReason::SocketError => "socket_error",
            DropReason::TunFull => "tun_full",
            DropReason::TunError => "tun_error",
            DropReason::HandoverFull => "handover_full",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_counter_and_its_own_name() {
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
    }
}

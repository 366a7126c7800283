//! What the supervisor and the control process say to each other, and the two translations between the planes: the
//! control plane's types become the link's, which the workers know, and back. Everything else crosses unchanged.

use controlplane::{Admission, ClientSetup, Credentials, Ending, Event, KeyEvent, ResumeRecord, ServerSetup};
use serde::{Deserialize, Serialize};

/// The supervisor's end of the link.
pub type SupervisorEnd = link::SupervisorEnd<ToControl, FromControl>;
/// The control plane's end of the link.
pub type ControlEnd = link::ControlEnd<ToControl, FromControl>;

/// What the supervisor tells the control process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    /// First message to a client's control process.
    ConfigureClient(Box<ClientSetup>),
    /// Begin a session with a hard reset.
    Connect {
        /// A number never given before in this run.
        generation: u32,
        /// Where.
        path: link::Path,
        /// User name and password, when the profile asks for them.
        credentials: Option<Credentials>,
    },
    /// Go on, by a SOFT_RESET, with a session of a control process that died.
    Resume {
        /// The last record of the session.
        record: Box<ResumeRecord>,
        /// Where the peer is now.
        path: link::Path,
        /// As in `Connect`.
        credentials: Option<Credentials>,
    },
    /// Our address changed, or the peer's: send to this path from now on.
    Rebind {
        /// The session.
        generation: u32,
        /// The new path.
        path: link::Path,
    },
    /// Tell the peer that we leave, then answer [`Ending::Disconnected`].
    Disconnect {
        /// The session.
        generation: u32,
    },
    /// Drop the session without a word: a new one will replace it.
    Forget {
        /// The session.
        generation: u32,
    },
    /// Renegotiate the key now.
    Renegotiate {
        /// The session.
        generation: u32,
    },
    /// Is it there? Answered by [`FromControl::Heartbeat`], whatever else is to be done.
    Heartbeat,
    /// First message to a gateway's control process.
    ConfigureGateway(Box<ServerSetup>),
    /// A gateway's configuration from now on; answered by [`FromControl::Reloaded`].
    ReloadGateway(Box<ServerSetup>),
    /// A login is good: make the key, push these options.
    Admit {
        /// The session.
        generation: u32,
        /// Which of its negotiations.
        negotiation: u32,
        /// What the client is given.
        admission: Box<Admission>,
    },
    /// A login is not good.
    Refuse {
        /// The session.
        generation: u32,
        /// Which of its negotiations.
        negotiation: u32,
        /// What the client is told: `AUTH_FAILED`, or with a comma and a reason.
        text: String,
        /// What [`Ending::AuthFailed`] will say.
        reason: String,
    },
    /// The answer to a first login takes longer.
    Defer {
        /// The session.
        generation: u32,
        /// Which of its negotiations.
        negotiation: u32,
        /// Up to so many seconds from now.
        seconds: u32,
        /// What the client's user is told.
        info: Option<String>,
    },
    /// Tell a client something final (`RESTART`, `HALT,reason`), then end its session.
    Dismiss {
        /// The session.
        generation: u32,
        /// What it is told.
        text: String,
    },
    /// End a session at once, without a word.
    Close {
        /// The session.
        generation: u32,
    },
    /// Go on, by a SOFT_RESET, with one session of a control process that died.
    ResumeClient {
        /// The last record of the session.
        record: Box<ResumeRecord>,
        /// Where the client is now.
        path: link::Path,
    },
}

/// What the control process tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromControl {
    /// It is sandboxed and has taken its configuration.
    Ready,
    /// It is there.
    Heartbeat,
    /// The configuration cannot be used (a key that does not parse, a certificate of ours that expired).
    Refused(Ending),
    /// Something happened to a session. Events that concern workers never come this way.
    Event(Event),
    /// The new configuration of a gateway holds, or why the old one stays.
    Reloaded(Result<(), Ending>),
    /// A gateway's client is at another address since then, as its worker says and the control plane allows.
    Moved {
        /// The worker's handle of the peer.
        peer: u32,
        /// Where.
        path: link::Path,
    },
    /// Control datagrams that were not accepted: `(reason, count since the last message)`. At most one a second.
    Dropped(Vec<(String, u64)>),
}

/// The control plane's path.
pub fn path_in(path: &link::Path) -> controlplane::Path {
    let link::Path { worker, local, ifindex, remote, stream } = *path;
    controlplane::Path { worker, local, ifindex, remote, stream }
}

/// The link's path.
pub fn path_out(path: &controlplane::Path) -> link::Path {
    let controlplane::Path { worker, local, ifindex, remote, stream } = *path;
    link::Path { worker, local, ifindex, remote, stream }
}

/// What a worker said, for the control plane; `None` for what does not concern keys.
pub fn key_event(event: &link::WorkerEvent) -> Option<KeyEvent> {
    Some(match *event {
        link::WorkerEvent::KeyInstalled(name) => KeyEvent::KeyInstalled(name_in(name)),
        link::WorkerEvent::KeyRefused(name, why) => KeyEvent::KeyRefused(name_in(name), refusal(why)),
        link::WorkerEvent::KeySending(name) => KeyEvent::KeySending(name_in(name)),
        link::WorkerEvent::KeyUsage(name, why) => KeyEvent::KeyUsage(name_in(name), usage(why)),
        link::WorkerEvent::Floated { .. } => return None,
    })
}

/// What concerns a worker in an event of the control plane, for the link; the event itself when it is the supervisor's.
pub fn worker_command(event: Event) -> Result<link::WorkerCommand, Box<Event>> {
    Ok(match event {
        Event::InstallKey(key) => link::WorkerCommand::InstallKey(install_key(&key)),
        Event::SendWith(name) => link::WorkerCommand::SendWith(name_out(name)),
        Event::DropKeys { peer, generation } => link::WorkerCommand::DropKeys { peer, generation },
        Event::PeerAlive { peer } => link::WorkerCommand::PeerAlive { peer },
        Event::MoveBack { peer, path } => link::WorkerCommand::SetPath { peer, path: path_out(&path) },
        other => return Err(Box::new(other)),
    })
}

/// The peer that a command is about.
pub fn peer_of(command: &link::WorkerCommand) -> u32 {
    match command {
        link::WorkerCommand::InstallKey(key) => key.name.peer,
        link::WorkerCommand::SendWith(name) => name.peer,
        link::WorkerCommand::DropKeys { peer, .. }
        | link::WorkerCommand::PeerAlive { peer }
        | link::WorkerCommand::SetPath { peer, .. } => *peer,
    }
}

fn name_in(name: link::KeyName) -> controlplane::KeyName {
    let link::KeyName { peer, generation, negotiation, key_id } = name;
    controlplane::KeyName { peer, generation, negotiation, key_id }
}

fn name_out(name: controlplane::KeyName) -> link::KeyName {
    let controlplane::KeyName { peer, generation, negotiation, key_id } = name;
    link::KeyName { peer, generation, negotiation, key_id }
}

fn refusal(why: link::KeyRefusal) -> controlplane::KeyRefusal {
    match why {
        link::KeyRefusal::UnknownPeer => controlplane::KeyRefusal::UnknownPeer,
        link::KeyRefusal::NotNewer => controlplane::KeyRefusal::NotNewer,
        link::KeyRefusal::BadKey => controlplane::KeyRefusal::BadKey,
    }
}

fn usage(why: link::UsageReason) -> controlplane::UsageReason {
    match why {
        link::UsageReason::PacketId => controlplane::UsageReason::PacketId,
        link::UsageReason::Bytes => controlplane::UsageReason::Bytes,
        link::UsageReason::Packets => controlplane::UsageReason::Packets,
        link::UsageReason::AeadLimit => controlplane::UsageReason::AeadLimit,
    }
}

fn install_key(key: &controlplane::InstallKey) -> link::InstallKey {
    link::InstallKey {
        name: name_out(key.name),
        cipher: match key.cipher {
            controlplane::Cipher::Aes128Gcm => link::Cipher::Aes128Gcm,
            controlplane::Cipher::Aes192Gcm => link::Cipher::Aes192Gcm,
            controlplane::Cipher::Aes256Gcm => link::Cipher::Aes256Gcm,
            controlplane::Cipher::ChaCha20Poly1305 => link::Cipher::ChaCha20Poly1305,
        },
        seal: direction(&key.seal),
        open: direction(&key.open),
        wire_peer_id: key.wire_peer_id,
        send_from_ns: key.send_from_ns,
        retire_previous_ns: key.retire_previous_ns,
        limits: limits(&key.limits),
    }
}

fn direction(key: &controlplane::DirectionKey) -> link::DirectionKey {
    link::DirectionKey { key: link::Secret(key.key.0.clone()), implicit_iv: link::Secret(key.implicit_iv.0.clone()) }
}

fn limits(limits: &controlplane::KeyLimits) -> link::KeyLimits {
    let controlplane::KeyLimits {
        soft_packet_id,
        hard_packet_id,
        soft_bytes,
        soft_packets,
        soft_aead,
        hard_aead,
        hard_failures,
    } = *limits;
    link::KeyLimits { soft_packet_id, hard_packet_id, soft_bytes, soft_packets, soft_aead, hard_aead, hard_failures }
}

#[cfg(test)]
mod tests;

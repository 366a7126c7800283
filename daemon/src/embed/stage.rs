//! How far a tunnel has come.

use std::fmt;

/// One list of them, so that the enumeration, [`Stage::ALL`] and the words agree.
macro_rules! stages {
    ($($(#[$text:meta])* $name:ident => $words:literal,)*) => {
        /// How far a tunnel has come. A tunnel that is made goes through most of them in this order; one that has to try several
        /// addresses, or that connects again ([`Options::reconnect`](crate::Options::reconnect)), goes through some of them again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Stage {
            $($(#[$text])* $name,)*
        }

        impl Stage {
            /// Every stage there is.
            pub const ALL: &'static [Stage] = &[$(Stage::$name,)*];
        }

        /// In words that follow "the time was over".
        impl fmt::Display for Stage {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Stage::$name => $words,)*
                })
            }
        }
    };
}

stages! {
    /// The names of the remotes are being resolved.
    Resolve => "while the server's name was being resolved",
    /// An address is tried: there is a socket towards it, and nothing was sent.
    Connect => "before anything was sent",
    /// Our reset was sent, and is sent again and again; nobody has answered.
    Wait => "before any server answered",
    /// A server has answered: the TLS handshake.
    Auth => "during the TLS handshake",
    /// TLS is done: key messages are exchanged.
    Keys => "while keys were being exchanged",
    /// The server's settings are awaited (PUSH_REPLY).
    GetConfig => "while the server's settings were awaited",
    /// The server waits for a person to prove who they are (AUTH_PENDING).
    AuthPending => "while the server waited for somebody to log in",
    /// The settings are here, and the worker has the data keys.
    Install => "after the data keys were made",
    /// The tunnel carries packets.
    Up => "while the tunnel was up",
    /// It failed, or a server sent us away for a while; the next attempt is due.
    Pause => "during a pause before the next attempt",
    /// The tunnel is being closed: the server is being told.
    Leave => "while the server was being told that we leave",
}

//! `minivpn connect`: the client's supervisor. It owns everything that needs a privilege, never sees a key, and decides
//! when to connect, where, and what of the server's wishes is applied to the host.
//!
//! | file | purpose |
//! |---|---|
//! | `start.rs` | from the command line to a running supervisor: profile, privileges, journal, worker |
//! | `run.rs` | the event loop: everything that can happen, and the timers |
//! | `attempt.rs` | connecting: the next address, a session on it, what follows a failure |
//! | `established.rs` | the pushed settings are judged, the host is set up, traffic flows |
//! | `moving.rs` | the host's address changed, the machine was suspended, ICMP spoke |
//! | `leaving.rs` | the server is told, the host is put back |
//! | `losses.rs` | what the kernel dropped at socket and TUN device, added up |
//! | `transport.rs` | sockets towards a remote, and moving to a new one |
//! | `tunnel.rs` | the TUN device, addresses and routes of one connection, and their undo |
//! | `credentials.rs` | user name and password: from the profile or a person, replaced by a session token |
//! | `endings.rs` | what each way a session can end means: try again, when, or which exit code |
//! | `remotes.rs`, `backoff.rs` | who is tried next, and after which pause |
//! | `flapping.rs` | sessions that are lost again and again: the profile may be in use twice |
//! | `silence.rs` | a server that does not answer, in words |
//!
//! What judges and touches no host (`backoff`, `credentials`, `endings`, `flapping`, `remotes`, `transport`, and what a worker is told of a
//! peer in `established`) is the embedded tunnel's as well.

pub(crate) mod attempt;
pub(crate) mod backoff;
pub(crate) mod credentials;
pub(crate) mod endings;
pub(crate) mod established;
pub(crate) mod flapping;
pub(crate) mod leaving;
mod losses;
mod moving;
pub(crate) mod remotes;
pub(crate) mod run;
pub(crate) mod silence;
mod start;
pub(crate) mod transport;
mod tunnel;

pub(crate) use start::load;
pub use start::{main, unusable};

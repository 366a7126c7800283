//! The embeddable tunnel: an OpenVPN client inside another program, which reads and writes the tunnel's IP packets itself. No TUN
//! device, no root, no capability, nothing of the host changed, and any number of tunnels in one process.
//!
//! ```no_run
//! use minivpn::{Options, Tunnel, load_profile};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let tunnel = Tunnel::connect(load_profile("office.ovpn")?, Options::default()).await?;
//! println!("we are {:?} behind {}", tunnel.parameters().ipv4, tunnel.parameters().remote);
//! let mut packet = [0; 2048];
//! loop {
//!     let length = tunnel.recv(&mut packet).await?;
//!     println!("{length} bytes of IP");
//!     # break;
//! }
//! tunnel.close().await?;
//! # Ok(())
//! # }
//! ```
//!
//! It is the same data plane and the same control plane as that of `minivpn connect`: the worker reads and writes one end of a socket
//! pair instead of a TUN queue, and the control plane runs on a thread instead of in a sandboxed process.
//!
//! | file | purpose |
//! |---|---|
//! | `tunnel.rs`, `halves.rs` | what a program holds: the tunnel, whole or split |
//! | `options.rs`, `parameters.rs`, `error.rs` | what goes into it, what the server gave, and what can go wrong |
//! | `stage.rs`, `progress.rs` | how far it has come, and who is told |
//! | `profile.rs` | a profile from a file or from text |
//! | `batch.rs`, `pipe.rs` | many packets at once; the socket pair between a program and the worker |
//! | `trunk.rs`, `frames.rs` | a tunnel whose packets come joined, for a stack in this crate; many of them at once |
//! | `room.rs` | the control thread that all tunnels of a process share, and who is on it |
//! | `supervisor.rs`, `attempt.rs`, `ending.rs` | one tunnel on it: its events and timers, connecting, how it ends |
//! | `fate.rs`, `fault.rs` | what becomes of it, as its program waits for it; why, before it is known which error that is |

mod attempt;
mod batch;
mod ending;
mod error;
mod fate;
mod fault;
mod frames;
mod halves;
mod options;
mod parameters;
mod pipe;
mod profile;
mod progress;
mod room;
mod stage;
mod supervisor;
mod trunk;
mod tunnel;

pub use batch::Batch;
pub use controlplane::{Credentials, Secret};
pub use dataplane::datachannel::aead::AeadChoice;
pub use dataplane::sys::IoChoice;
pub use error::{ConnectError, TunnelError};
pub(crate) use frames::Frames;
pub use halves::{Reader, Writer};
pub use options::Options;
pub use parameters::{Inner4, Inner6, InnerRoute, Parameters};
pub use profile::{load_profile, parse_profile};
pub use progress::{Observer, Progress};
pub use stage::Stage;
pub(crate) use trunk::Trunk;
pub use tunnel::Tunnel;

#[cfg(test)]
mod tests;

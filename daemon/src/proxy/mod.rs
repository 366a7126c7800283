//! `minivpn proxy`: SOCKS5 and HTTP CONNECT on one port, through a tunnel, without root and without any change of the host: TCP and
//! UDP run in user space over the tunnel's packets, and names are asked inside it.
//!
//! | file | purpose |
//! |---|---|
//! | `start.rs` | the command (`daemon/src/cli/proxy.rs` has its line): listener, tunnel, again when it ends, signals |
//! | `server.rs`, `unheard.rs` | clients: how many, which protocol each speaks; those that have not said what they want |
//! | `socks.rs`, `http.rs`, `login.rs` | the requests of either, and the password |
//! | `relay.rs` | bytes between a client and a connection |
//! | `associate.rs` | datagrams between a client and the tunnel |
//! | `way.rs` | whether there is a way through the tunnel now |
//! | `network.rs`, `names.rs`, `voice.rs` | from a destination to a connection; the resolver; whether name servers answer at all |
//! | `failure.rs` | why there is none, in SOCKS5, in HTTP and in words |
//! | `connection.rs`, `datagrams.rs` | a TCP connection and a UDP socket in the tunnel |
//! | `stack.rs`, `headers.rs`, `device.rs` | all of them over packets: whose a packet is, who has something to send |
//! | `packets.rs` | where packets come from and go to |
//! | `patience.rs`, `rarely.rs` | how long who is waited for; lines of the log that are written once in a while |

mod associate;
mod connection;
mod datagrams;
mod device;
mod failure;
#[cfg(test)]
mod fixture;
mod headers;
#[cfg(test)]
mod hostile;
mod http;
mod login;
mod names;
mod network;
mod packets;
mod patience;
mod rarely;
mod relay;
mod server;
mod socks;
mod stack;
mod start;
#[cfg(test)]
mod tests;
mod unheard;
mod voice;
mod way;

pub use start::main;

//! `minivpn proxy`: SOCKS5 and HTTP CONNECT on one port, through a tunnel, without root and without any change of the host: TCP and
//! UDP run in user space over the tunnel's packets, and names are asked inside it.
//!
//! | file | purpose |
//! |---|---|
//! | `options.rs` | the command line, and what follows from it |
//! | `start.rs` | the command: listener, tunnel, again when it ends, signals |
//! | `server.rs` | clients: how many, which protocol each speaks |
//! | `socks.rs`, `http.rs`, `login.rs` | the requests of either, and the password |
//! | `relay.rs` | bytes between a client and a connection |
//! | `associate.rs` | datagrams between a client and the tunnel |
//! | `network.rs`, `names.rs` | from a destination to a connection; the resolver |
//! | `failure.rs` | why there is none, in SOCKS5, in HTTP and in words |
//! | `connection.rs`, `datagrams.rs` | a TCP connection and a UDP socket in the tunnel |
//! | `stack.rs`, `headers.rs`, `device.rs` | all of them over packets: whose a packet is, who has something to send |
//! | `packets.rs`, `batch.rs` | where packets come from and go to |

mod associate;
mod batch;
mod connection;
mod datagrams;
mod device;
mod failure;
#[cfg(test)]
mod fixture;
mod headers;
mod http;
mod login;
mod names;
mod network;
mod packets;
mod relay;
mod server;
mod socks;
mod stack;
#[cfg(test)]
mod tests;

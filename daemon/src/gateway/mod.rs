//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `state.rs` | the state directory of one gateway: lock, layout, what a crash left |
//! | `clients.rs` | adding, renewing, revoking clients in it |
//! | `index.rs` | the list of every certificate that was issued |
//! | `pki.rs` | making and reading certificates and revocation lists; pure |
//! | `names.rs`, `network.rs`, `serial.rs`, `static_key.rs` | single values |
//! | `whole_file.rs` | files that are there whole or not at all |

pub mod clients;
#[cfg(test)]
pub(crate) mod fixture;
pub mod index;
pub mod names;
pub mod network;
pub mod pki;
pub mod serial;
pub mod state;
pub mod static_key;
pub mod whole_file;

//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `start.rs` | from the command line to a running supervisor: configuration, sockets, TUN, privileges, workers |
//! | `run.rs` | the event loop: everything that can happen, and where it is dealt with |
//! | `admission.rs` | a login on its way in: judged, leased an address, configured, admitted |
//! | `given.rs` | what a client is given, and what its worker is told about it; pure |
//! | `sessions.rs` | who is here |
//! | `ending.rs` | sessions end: by themselves, by us, because the gateway stops |
//! | `pool.rs`, `leases.rs` | addresses for clients; pure, and the file that outlives a restart |
//! | `workers.rs` | the workers as one group |
//! | `reload.rs` | configuration, certificates, CRL anew while clients stay |
//! | `answers.rs` | what is answered to requests, and the snapshot of everything |
//! | `state.rs` | the state directory of one gateway: lock, whole files only, what a crash left |
//! | `scripts/` | the scripts of the configuration: their environment, their run, what they said |
//! | `password.rs` | whether a user name and a password are good, by token and by script |
//! | `token.rs` | the tokens of `auth-gen-token` |
//! | `status.rs`, `status_table.rs`, `status_file.rs` | the state as a value, as a table for people, as OpenVPN's status file |
//! | `socket.rs`, `requests.rs` | the control socket: the gateway's end and the commands' end |
//! | `state.rs` | the state directory of one gateway: lock, layout, what a crash left |
//! | `clients.rs` | adding, renewing, revoking clients in it |
//! | `index.rs` | the list of every certificate that was issued |
//! | `pki.rs` | making and reading certificates and revocation lists; pure |
//! | `names.rs`, `network.rs`, `serial.rs`, `static_key.rs` | single values |
//! | `whole_file.rs` | files that are there whole or not at all |

mod admission;
mod answers;
pub mod clients;
mod ending;
#[cfg(test)]
pub(crate) mod fixture;
mod given;
pub mod index;
pub mod leases;
pub mod names;
pub mod network;
pub mod password;
pub mod pki;
pub mod pool;
mod reload;
pub mod requests;
mod run;
pub mod scripts;
pub mod serial;
mod sessions;
mod signals;
pub mod socket;
pub mod start;
pub mod state;
pub mod static_key;
pub mod status;
pub mod status_file;
pub mod status_table;
pub mod token;
pub mod whole_file;
mod workers;

//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `state.rs` | the state directory of one gateway: lock, whole files only, what a crash left |
//! | `scripts/` | the scripts of the configuration: their environment, their run, what they said |
//! | `password.rs` | whether a user name and a password are good, by token and by script |
//! | `token.rs` | the tokens of `auth-gen-token` |
//! | `status.rs`, `status_table.rs`, `status_file.rs` | the state as a value, as a table for people, as OpenVPN's status file |
//! | `socket.rs`, `requests.rs` | the control socket: the gateway's end and the commands' end |

pub mod password;
pub mod requests;
pub mod scripts;
pub mod socket;
pub mod status;
pub mod status_file;
pub mod status_table;
pub mod token;

//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `state.rs` | the state directory of one gateway: lock, whole files only, what a crash left |

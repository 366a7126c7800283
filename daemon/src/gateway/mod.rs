//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `up.rs`, `down.rs`, `client_command.rs`, `pki_command.rs` | the commands |
//! | `calls.rs` | what they ask of the rest of the daemon: serving, the running gateway, the host |
//! | `checklist.rs`, `unit.rs` | what `gateway up` prints, and the systemd unit |
//! | `settings.rs`, `server_conf.rs`, `profile.rs` | what was asked for, and the two texts that follow: the server's and a client's |
//! | `state.rs` | the state directory of one gateway: lock, layout, what a crash left |
//! | `clients.rs` | adding, renewing, revoking clients in it |
//! | `index.rs` | the list of every certificate that was issued |
//! | `pki.rs` | making and reading certificates and revocation lists; pure |
//! | `names.rs`, `network.rs`, `serial.rs`, `static_key.rs` | single values |
//! | `whole_file.rs` | files that are there whole or not at all |

pub mod calls;
pub mod checklist;
pub mod client_command;
pub mod clients;
pub mod down;
#[cfg(test)]
pub(crate) mod fixture;
pub mod index;
pub mod names;
pub mod network;
pub mod pki;
pub mod pki_command;
pub mod profile;
pub mod serial;
pub mod server_conf;
pub mod settings;
pub mod state;
pub mod static_key;
pub mod unit;
pub mod up;
pub mod whole_file;

use crate::cli::client::{Client, Pki};
use crate::cli::gateway::Gateway;
use crate::exit::{Exit, Fatal};

/// `minivpn gateway …`
pub fn main(command: &Gateway) -> Exit {
    end(match command {
        Gateway::Up(options) => up::up(options),
        Gateway::Down(options) => down::down(options),
    })
}

/// `minivpn client …`
pub fn client_main(command: &Client) -> Exit {
    end(client_command::run(command))
}

/// `minivpn pki …`
pub fn pki_main(command: &Pki) -> Exit {
    end(pki_command::run(command))
}

fn end(result: Result<(), Fatal>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

//! `minivpn gateway`: the server's side. It owns everything that needs a privilege, judges logins, and keeps the keys of
//! its certificate authority away from whatever talks to the network.
//!
//! | file | purpose |
//! |---|---|
//! | `start.rs`, `started.rs` | from the command line to a running supervisor: configuration, sockets, TUN, privileges, workers; what comes of it |
//! | `parts.rs`, `host_side.rs` | what each part is made of, by the configuration; its interface, routes, firewall |
//! | `run.rs` | the event loop: everything that can happen, and where it is dealt with |
//! | `admission.rs` | a login on its way in: judged, leased an address, configured, admitted |
//! | `given.rs` | what a client is given, and what its worker is told about it; pure |
//! | `sessions.rs`, `generations.rs` | who is here; which numbers of sessions are believed, pure |
//! | `lines.rs` | so many log lines of a kind in a second |
//! | `ending.rs` | sessions end: by themselves, by us, because the gateway stops |
//! | `pool.rs`, `leases.rs` | addresses for clients; pure, and the file that outlives a restart |
//! | `workers.rs` | the workers as one group |
//! | `publication.rs` | when the table of routes is made anew; pure |
//! | `reload.rs` | configuration, certificates, CRL anew while clients stay |
//! | `answers.rs` | what is answered to requests, and the snapshot of everything |
//! | `scripts/` | the scripts of the configuration: their environment, their run, what they said |
//! | `password.rs` | whether a user name and a password are good, by token and by script |
//! | `token.rs` | the tokens of `auth-gen-token` |
//! | `status.rs`, `status_table.rs`, `status_file.rs` | the state as a value, as a table for people, as OpenVPN's status file |
//! | `socket.rs`, `requests.rs` | the control socket: the gateway's end and the commands' end |
//! | `whereabouts.rs` | how the commands find it |
//! | `up.rs`, `down.rs`, `client_command.rs`, `pki_command.rs` | the commands |
//! | `calls.rs` | what they ask of the rest of the daemon: serving, the running gateway, the host |
//! | `renewal.rs` | what a running gateway renews before it expires |
//! | `checklist.rs`, `unit.rs` | what `gateway up` prints, and the systemd unit |
//! | `settings.rs`, `server_conf.rs`, `profile.rs` | what was asked for, and the two texts that follow: the server's and a client's |
//! | `state.rs` | the state directory of one gateway: lock, layout, what a crash left |
//! | `suggestion.rs`, `running.rs` | commands that are suggested; whether this gateway runs already |
//! | `clients.rs` | adding, renewing, revoking clients in it |
//! | `index.rs` | the list of every certificate that was issued |
//! | `pki.rs` | making and reading certificates and revocation lists; pure |
//! | `names.rs`, `network.rs`, `serial.rs`, `static_key.rs` | single values |
//! | `whole_file.rs` | files that are there whole or not at all |

#![deny(clippy::print_stdout)] // `outln!` does not end a command whose reader is gone

mod admission;
mod answers;
pub mod calls;
pub mod checklist;
pub mod client_command;
pub mod clients;
pub mod down;
mod ending;
#[cfg(test)]
pub(crate) mod fixture;
mod generations;
mod given;
mod host_side;
pub mod index;
pub mod leases;
mod lines;
pub mod names;
pub mod network;
mod parts;
pub mod password;
pub mod pki;
pub mod pki_command;
pub mod pool;
pub mod profile;
mod publication;
mod reload;
pub mod renewal;
pub mod requests;
mod run;
mod running;
pub mod scripts;
pub mod serial;
pub mod server_conf;
mod sessions;
pub mod settings;
pub mod socket;
pub mod start;
pub mod started;
pub mod state;
pub mod static_key;
pub mod status;
pub mod status_file;
pub mod status_table;
pub mod suggestion;
pub mod token;
pub mod unit;
pub mod up;
pub mod whereabouts;
pub mod whole_file;
mod workers;

use crate::cli::client::{Client, Pki};
use crate::cli::gateway::Gateway;
use crate::exit::{Exit, Fatal};
use crate::observe::console::Console;
use crate::observe::log::Format;

/// `minivpn gateway …`
pub fn main(command: &Gateway, format: Format, quiet: bool) -> Exit {
    end(match command {
        Gateway::Up(options) => up::up(options, Console::new(format, quiet)),
        Gateway::Run(options) => start::run(options, Console::new(format, quiet)),
        Gateway::Reload(options) => return requests::reload(options),
        Gateway::Kill(options) => return requests::kill(options),
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

//! `minivpn ping`: echo round trips to several hosts through a tunnel that is this process's alone: no TUN device, no privilege.
//!
//! | file | purpose |
//! |---|---|
//! | `session.rs` | the command over any wire: names, targets, pinging, the summary |
//! | `wire.rs` | the loop, and what it runs on: the tunnel |
//! | `pinger.rs`, `host.rs`, `round_trips.rs` | when requests are due, what became of them, the sums |
//! | `echo.rs` | echo requests, replies and ICMP errors as packets |
//! | `names.rs` | names become addresses by the tunnel's name servers |
//! | `report.rs` | lines of text, or of JSON |
//! | `responder.rs` | for tests: hosts that lose, double, delay and spoil, on a virtual clock |

mod echo;
mod host;
mod names;
mod pinger;
mod report;
#[cfg(test)]
mod responder;
mod round_trips;
mod session;
#[cfg(test)]
mod tests;
mod wire;

use std::cell::Cell;
use std::time::Instant;

use crate::cli::ping::Ping;
use crate::client::credentials::Wallet;
use crate::config::agreed::ClientProfile;
use crate::exit::{Exit, Fatal};
use crate::observe::output;
use crate::outln;
use crate::signals::Signals;
use crate::{Credentials, Options, Tunnel};

use report::Report;
use session::Session;
use wire::{TunnelWire, stopped};

/// `minivpn ping FILE [HOST…]`: [`Exit::Ok`] when every host answered at least once, [`Exit::Other`] when some host did not, and the exit
/// codes of `minivpn connect` when there is no tunnel.
pub fn main(options: &Ping, quiet: bool) -> Exit {
    match prepare_and_run(options, quiet) {
        Ok(exit) => exit,
        Err(fatal) => {
            if options.json {
                outln!(
                    "{}",
                    serde_json::json!({ "event": "failed", "exit": fatal.exit.status(), "why": fatal.sentence })
                );
            }
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

fn prepare_and_run(options: &Ping, quiet: bool) -> Result<Exit, Fatal> {
    let profile = crate::load_profile(&options.file)?;
    let credentials = Wallet::open(&profile.credentials)?.credentials();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not be started: {error}")))?;
    let exit = runtime.block_on(connect_and_ping(options, quiet, profile, credentials));
    // A resolver of this host that does not answer keeps nobody waiting.
    runtime.shutdown_background();
    exit
}

async fn connect_and_ping(
    options: &Ping,
    quiet: bool,
    profile: ClientProfile,
    credentials: Option<Credentials>,
) -> Result<Exit, Fatal> {
    let signals = Signals::take();
    let mut signals = signals.map_err(|error| Fatal::new(Exit::Other, format!("signals cannot be taken: {error}")))?;
    let report = Report { json: options.json, quiet, size: options.size, timeout: options.timeout };
    let wishes = Options { credentials, connect_timeout: options.connect_timeout, ..Options::default() };
    let wishes = wishes.on_progress(move |progress| match report.unanswered(progress) {
        // Whether anybody reads it is found out with what is said next.
        Some(line) if report.json => _ = output::line(&line),
        Some(line) => tracing::warn!("{line}"),
        None => {}
    });
    let tunnel = tokio::select! {
        tunnel = Tunnel::connect(profile, wishes) => tunnel?,
        () = stopped(&mut signals) => return Err(Fatal::new(Exit::Other, "interrupted before the tunnel was up")),
    };
    let unheard = Cell::new(false);
    let mut say = |line: &str| {
        if !output::line(line) {
            unheard.set(true);
        }
    };
    let mut session = Session { options, report, tunnel: tunnel.parameters(), say: &mut say };
    let mut wire = TunnelWire { tunnel: &tunnel, signals: &mut signals, since: Instant::now(), unheard: &unheard };
    let exit = session.run(&mut wire).await;
    // The server is told; what it makes of that is no matter.
    let _ = tunnel.close().await;
    exit
}

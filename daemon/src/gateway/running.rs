//! Whether a gateway of this name runs already: asked before anything is made or changed for another one. It is found by its control
//! socket, or, where it has none or hangs, by the lock on its journal.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::names::GatewayName;
use super::requests;
use super::socket::Command;
use super::start::socket_path;
use super::suggestion::Suggestions;
use super::whereabouts;
use crate::cli::gateway::GatewayServe;
use crate::exit::{Exit, Fatal};
use crate::host::journal;

/// A gateway that serves tells its process id at once; one that does not is running all the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// A gateway that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Running {
    /// `None`: it does not say.
    pid: Option<u32>,
}

/// Nothing to be done where `gateway up` would serve what is served already.
///
/// # Errors
/// [`Exit::Running`], with its process id and the commands that go on from there.
pub(super) fn refuse(name: &GatewayName, options: &GatewayServe, directory: &Path) -> Result<(), Fatal> {
    let noted = whereabouts::noted_in(directory);
    let Some(running) = look(name.as_str(), options, noted) else { return Ok(()) };
    let suggest = Suggestions::of(name, directory);
    let sentence = format!(
        "{}, and nothing was changed. `{}` shows it, `{}` makes a profile, `{}` stops it; to change its settings: `{}`, then `{}`",
        running.sentence(name.as_str()),
        suggest.to_running("status"),
        suggest.command("client add NAME"),
        suggest.command("gateway down"),
        suggest.command("gateway up --no-serve …"),
        suggest.to_running("gateway reload"),
    );
    Err(Fatal::new(Exit::Running, sentence))
}

/// The same for `gateway run`, whose gateway has no state directory.
///
/// # Errors
/// [`Exit::Running`].
pub(super) fn refuse_configured(name: &str, options: &GatewayServe) -> Result<(), Fatal> {
    let Some(running) = look(name, options, None) else { return Ok(()) };
    let sentence = format!(
        "{}, and nothing was changed. `minivpn status --name {name}` shows it; a gateway is called what its configuration is called: \
         name the file differently for a second one",
        running.sentence(name)
    );
    Err(Fatal::new(Exit::Running, sentence))
}

impl Running {
    fn sentence(self, name: &str) -> String {
        let pid = self.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
        format!("the gateway {name} is running already{pid}")
    }
}

fn look(name: &str, options: &GatewayServe, noted: Option<PathBuf>) -> Option<Running> {
    let holder = journal::holder(&options.data.run_dir, name);
    let sockets = [Some(socket_path(options, name)), noted];
    let at_socket = sockets.into_iter().flatten().find_map(|path| asked(&path, name));
    match (at_socket, holder) {
        (None, None) => None,
        (found, holder) => Some(Running { pid: found.and_then(|running| running.pid).or(holder) }),
    }
}

/// Whether the gateway of this name listens at this socket. Who may not ask does not know, and goes on to where that matters.
fn asked(path: &Path, name: &str) -> Option<Running> {
    match whereabouts::connect(path, None) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(Running { pid: None }),
        Err(_) => return None,
    }
    let answer = requests::ask_within(path, &Command::Ping, PATIENCE).ok();
    let is_another = |answer: &Value| answer.get("name").and_then(Value::as_str).is_some_and(|its| its != name);
    if answer.as_ref().is_some_and(is_another) {
        return None;
    }
    let pid = answer.as_ref().and_then(|answer| answer.get("pid")).and_then(Value::as_u64);
    Some(Running { pid: pid.and_then(|pid| pid.try_into().ok()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command as Typed, gateway::Gateway};
    use crate::gateway::fixture::Folder;
    use crate::gateway::socket::{Request, Response, serve};
    use clap::Parser;
    use std::os::unix::net::UnixListener;

    fn options(run: &Path) -> GatewayServe {
        let words = ["minivpn", "gateway", "up", "--run-dir", run.to_str().unwrap()];
        match Cli::try_parse_from(words).unwrap().command {
            Typed::Gateway { command: Gateway::Up(up) } => up.serve,
            other => panic!("{other:?}"),
        }
    }

    fn refused(run: &Path, state: &Path) -> Result<(), Fatal> {
        refuse(&"eu".parse().unwrap(), &options(run), state)
    }

    #[tokio::test]
    async fn a_gateway_that_answers_is_named_with_its_process_and_what_to_do() {
        let folder = Folder::new();
        let (run, state) = (folder.path().join("run"), folder.path().join("state"));
        let (_listener, mut requests) = serve(&run.join("eu.sock")).unwrap();
        let asking =
            tokio::task::spawn_blocking(move || (refused(&run, &state), refuse_configured("eu2", &options(&run))));
        let Request { command, reply } = requests.recv().await.unwrap();
        assert_eq!(command, Command::Ping);
        reply.send(Response::Done(serde_json::json!({ "pid": 4711 }))).unwrap();
        let (eu, another) = asking.await.unwrap();
        let fatal = eu.unwrap_err();
        assert_eq!(fatal.exit, Exit::Running);
        for words in ["(process 4711)", "minivpn status --name eu", "minivpn gateway down --name eu --state-dir /"] {
            assert!(fatal.sentence.contains(words), "{words}: {fatal}");
        }
        assert_eq!(another, Ok(()), "another name is another gateway");
    }

    #[tokio::test]
    async fn a_gateway_of_another_name_at_this_socket_is_another_gateway() {
        for (name, expected) in [("us", true), ("eu", false)] {
            let folder = Folder::new();
            let (run, state) = (folder.path().join("run"), folder.path().join("state"));
            let (_listener, mut requests) = serve(&run.join("eu.sock")).unwrap();
            let asking = tokio::task::spawn_blocking(move || refused(&run, &state).is_ok());
            let Request { reply, .. } = requests.recv().await.unwrap();
            reply.send(Response::Done(serde_json::json!({ "pid": 4711, "name": name }))).unwrap();
            assert_eq!(asking.await.unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn what_a_killed_gateway_left_is_no_gateway() {
        let folder = Folder::new();
        drop(UnixListener::bind(folder.path().join("eu.sock")).unwrap());
        std::fs::write(folder.path().join("eu.journal"), "").unwrap();
        assert_eq!(refused(folder.path(), folder.path()), Ok(()));
        assert_eq!(refuse_configured("eu", &options(folder.path())), Ok(()));
    }

    #[test]
    fn a_gateway_without_a_socket_is_found_by_its_journal() {
        let folder = Folder::new();
        let journal = journal::Journal::create(folder.path(), "eu").unwrap();
        let fatal = refuse_configured("eu", &options(folder.path())).unwrap_err();
        let own = format!("(process {})", std::process::id());
        assert!(fatal.exit == Exit::Running && fatal.sentence.contains(&own), "{fatal}");
        assert_eq!(refuse_configured("us", &options(folder.path())), Ok(()));
        drop(journal);
        assert_eq!(refuse_configured("eu", &options(folder.path())), Ok(()));
    }

    #[test]
    fn a_gateway_that_hangs_runs() {
        let folder = Folder::new();
        let listener = UnixListener::bind(folder.path().join("eu.sock")).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = whereabouts::connect(&folder.path().join("eu.sock"), None) {
            waiting.push(stream);
        }
        assert_eq!(refused(folder.path(), folder.path()).unwrap_err().exit, Exit::Running);
    }
}

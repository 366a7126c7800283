//! The commands' end of the control socket: one request, one answer, and what to do when nobody is there.

use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::socket::{Command, VERSION};
use super::status::Snapshot;
use super::{status_table, whereabouts};
use crate::exit::{Exit, Fatal, permitted};
use crate::observe::log::colour_allowed;
use crate::outln;

/// How long an answer may take; more than the gateway gives itself.
const TIMEOUT: Duration = Duration::from_secs(40);
/// The longest answer that is read, in bytes: the state of some hundred thousand clients.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// Which gateway is asked.
#[derive(Clone, Debug, Default, Args)]
pub struct Whom {
    /// The gateway's name [default: the one that is running]
    #[arg(long, value_name = "NAME", env = "MINIVPN_NAME")]
    pub name: Option<String>,
    /// Its control socket [default: where the gateway noted that it listens]
    #[arg(long, value_name = "PATH", env = "MINIVPN_SOCKET")]
    pub socket: Option<PathBuf>,
}

/// `minivpn status`
#[derive(Clone, Debug, Default, Args)]
pub struct StatusOptions {
    /// Which gateway
    #[command(flatten)]
    pub whom: Whom,
    /// One JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `minivpn gateway reload`
#[derive(Clone, Debug, Default, Args)]
pub struct ReloadOptions {
    /// Which gateway
    #[command(flatten)]
    pub whom: Whom,
}

/// `minivpn gateway kill`
#[derive(Clone, Debug, Default, Args)]
pub struct KillOptions {
    /// Which gateway
    #[command(flatten)]
    pub whom: Whom,
    /// The client's common name
    #[arg(value_name = "CLIENT", required_unless_present = "id", conflicts_with = "id")]
    pub client: Option<String>,
    /// Its client id (see `minivpn status --json`), to end one session of several
    #[arg(long, value_name = "ID")]
    pub id: Option<u32>,
}

impl Whom {
    /// The path of the control socket: the one that is named, or the only one there is.
    ///
    /// # Errors
    /// None is there, or more than one.
    pub fn path(&self) -> Result<PathBuf, Fatal> {
        match (&self.socket, &self.name) {
            (Some(path), _) => Ok(path.clone()),
            (None, Some(name)) => Ok(whereabouts::of(name, None)),
            (None, None) => whereabouts::only_one(),
        }
    }
}

/// Asks a gateway and gives its answer.
///
/// # Errors
/// `Unreachable` when no gateway serves the socket, `Privilege` when this user may not ask, `Other` with the gateway's
/// own sentence when it refuses.
pub fn ask(path: &Path, command: &Command) -> Result<Value, Fatal> {
    ask_within(path, command, TIMEOUT)
}

/// [`ask`], with another limit for each step of the answer.
///
/// # Errors
/// As [`ask`].
pub(super) fn ask_within(path: &Path, command: &Command, patience: Duration) -> Result<Value, Fatal> {
    let line = exchange(path, command, patience).map_err(|error| explain(path, &error, patience))?;
    let strange = |what: &str| Fatal::new(Exit::Other, format!("{}: strange answer: {what}", path.display()));
    let mut answer: Value = serde_json::from_slice(&line).map_err(|error| strange(&error.to_string()))?;
    let version = answer.get("v").and_then(Value::as_u64);
    if version != Some(VERSION.into()) {
        return Err(strange(&format!("version {VERSION} of the protocol is needed; use the gateway's own minivpn")));
    }
    match answer.get("ok").and_then(Value::as_bool) {
        Some(true) => Ok(answer.get_mut("result").map(Value::take).unwrap_or_default()),
        Some(false) => {
            let sentence = answer.get("error").and_then(Value::as_str).unwrap_or("it refused without a reason");
            Err(Fatal::new(Exit::Other, sentence.replace(char::is_control, "\u{fffd}")))
        }
        None => Err(strange("neither success nor failure")),
    }
}

/// `minivpn status`: the table, or with `--json` the snapshot, on standard output.
pub fn status(options: &StatusOptions) -> Exit {
    ended(print_status(options))
}

/// `minivpn gateway reload`
pub fn reload(options: &ReloadOptions) -> Exit {
    ended(options.whom.path().and_then(|path| ask(&path, &Command::Reload)).map(|result| {
        for (field, words) in [("changed", "changed"), ("not_changed", "needs a restart")] {
            for sentence in result.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
            {
                outln!("{words}: {}", sentence.replace(char::is_control, "\u{fffd}"));
            }
        }
        outln!("reloaded");
    }))
}

/// `minivpn gateway kill`
pub fn kill(options: &KillOptions) -> Exit {
    let command = Command::Kill { common_name: options.client.clone(), client_id: options.id };
    ended(options.whom.path().and_then(|path| ask(&path, &command)).map(|result| {
        let ended = result.get("ended").and_then(Value::as_u64).unwrap_or_default();
        outln!("ended {ended} {}", if ended == 1 { "session" } else { "sessions" });
    }))
}

fn print_status(options: &StatusOptions) -> Result<(), Fatal> {
    let path = options.whom.path()?;
    let value = ask(&path, &Command::Status)?;
    let text = if options.json {
        format!("{value:#}\n")
    } else {
        let snapshot: Snapshot = serde_json::from_value(value).map_err(|error| {
            let sentence = format!("{}: strange answer: {error}; use the gateway's own minivpn", path.display());
            Fatal::new(Exit::Other, sentence)
        })?;
        let terminal = std::io::stdout().is_terminal();
        status_table::text(&snapshot, width(), colour_allowed(terminal))
    };
    // A pipe that was closed early is nobody's fault.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// The terminal's width, or what COLUMNS says, or 100 where there is neither.
fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    columns.filter(|columns| *columns > 0).or_else(said).unwrap_or(100)
}

fn ended(result: Result<(), Fatal>) -> Exit {
    match result {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

fn exchange(path: &Path, command: &Command, patience: Duration) -> io::Result<Vec<u8>> {
    let mut stream = whereabouts::connect(path, Some(patience))?;
    let mut request = serde_json::to_value(command)?;
    if let Some(fields) = request.as_object_mut() {
        fields.insert("v".to_owned(), VERSION.into());
    }
    // A gateway that refuses at once may have closed before it reads: its answer is what counts.
    let sent = stream.write_all(format!("{request}\n").as_bytes());
    let mut line = Vec::new();
    BufReader::new((&stream).take(MAX_ANSWER)).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ => Err(sent.err().unwrap_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))),
    }
}

fn explain(path: &Path, error: &io::Error, patience: Duration) -> Fatal {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Fatal::new(Exit::Unreachable, format!("no gateway is running at {shown}; {}", whereabouts::start_of(path)))
        }
        io::ErrorKind::PermissionDenied => {
            let what = "is for root and for the user that runs the gateway";
            Fatal::new(Exit::Privilege, format!("{shown} {what}: {error}{}", permitted(error)))
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Fatal::new(Exit::Other, format!("the gateway at {shown} did not answer within {} s", patience.as_secs()))
        }
        io::ErrorKind::UnexpectedEof => {
            Fatal::new(Exit::Other, format!("the gateway at {shown} ended before it answered"))
        }
        _ => Fatal::new(Exit::Other, format!("{shown}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::socket::{Request, Response, serve};
    use super::super::status::tests::snapshot;
    use super::*;

    fn place(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("minivpn-requests-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).unwrap();
        directory
    }

    /// Asks from a thread while the gateway's end answers with what `respond` gives.
    async fn asked(path: &Path, command: Command, respond: impl FnOnce(Request)) -> Result<Value, Fatal> {
        let (_listener, mut requests) = serve(path).unwrap();
        let path = path.to_owned();
        let asking = tokio::task::spawn_blocking(move || ask(&path, &command));
        respond(requests.recv().await.unwrap());
        asking.await.unwrap()
    }

    #[tokio::test]
    async fn a_gateway_answers_with_its_status() {
        let directory = place("status");
        let path = directory.join("g.sock");
        let result = asked(&path, Command::Status, |request| {
            assert_eq!(request.command, Command::Status);
            request.reply.send(Response::Status(Box::new(snapshot()))).unwrap();
        });
        assert_eq!(serde_json::from_value::<Snapshot>(result.await.unwrap()).unwrap(), snapshot());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_the_gateways_own_sentence() {
        let directory = place("refusal");
        let path = directory.join("g.sock");
        let kill = Command::Kill { common_name: Some("bob".to_owned()), client_id: None };
        let result = asked(&path, kill.clone(), |request| {
            assert_eq!(request.command, kill);
            request.reply.send(Response::Failed("no client is called bob\u{1b}".to_owned())).unwrap();
        });
        assert_eq!(result.await, Err(Fatal::new(Exit::Other, "no client is called bob\u{fffd}")));
        let result = asked(&path, Command::Reload, |request| drop(request.reply)).await;
        assert_eq!(result.unwrap_err().sentence, "the gateway is ending");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn nobody_there_says_what_to_do() {
        let directory = place("nobody");
        let path = directory.join("g.sock");
        let fatal = ask(&path, &Command::Ping).unwrap_err();
        assert!(fatal.exit == Exit::Unreachable && fatal.sentence.contains("gateway up"), "{fatal}");
        // What a killed gateway left: a file that nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(ask(&path, &Command::Ping).unwrap_err().exit, Exit::Unreachable);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        let directory = place("strange");
        for (answer, sentence) in [
            ("", "before it answered"),
            ("{}", "before it answered"),
            ("hello\n", "strange answer"),
            ("{\"v\":2,\"ok\":true}\n", "version 1"),
            ("{\"v\":1}\n", "neither"),
        ] {
            let path = directory.join("g.sock");
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                BufReader::new(stream.try_clone().unwrap()).read_until(b'\n', &mut Vec::new()).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let fatal = ask(&path, &Command::Ping).unwrap_err();
            assert!(fatal.sentence.contains(sentence), "{answer:?}: {fatal}");
            server.join().unwrap();
            std::fs::remove_file(path).unwrap();
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_socket_that_is_named_comes_before_a_name() {
        let whom = Whom { name: Some("no-such-gateway-here".to_owned()), socket: None };
        assert_eq!(whom.path().unwrap(), Path::new("/run/minivpn/no-such-gateway-here.sock"));
        let whom = Whom { socket: Some("/tmp/x.sock".into()), ..whom };
        assert_eq!(whom.path().unwrap(), Path::new("/tmp/x.sock"));
    }
}

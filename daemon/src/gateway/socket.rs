//! The control socket of a running gateway: `/run/minivpn/NAME.sock`, one JSON object a line each way, for root and for
//! whoever runs the gateway. It reads requests, hands them to the supervisor and writes what that answers; what is asked
//! for is nobody's business here.
//!
//! ```text
//! {"v":1,"command":"kill","common_name":"alice"}
//! {"v":1,"ok":true,"result":{"ended":1}}
//! {"v":1,"ok":false,"error":"no client is called bob"}
//! ```

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::status::Snapshot;
use super::whereabouts;

/// The version of the protocol: raised when an old side could misunderstand a new one.
pub const VERSION: u32 = 1;
/// The longest request, in bytes, with its line's end.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Connections at once; one more is told so and closed.
pub const MAX_CONNECTIONS: usize = 16;
/// Connections that wait to be taken (listen(2)).
const BACKLOG: i32 = 128;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How long the supervisor may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a client may take to read its answer.
const WRITE: Duration = Duration::from_secs(30);

/// What may be asked of a running gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Is anybody there? Answers `{"pid":…,"version":…,"name":…}` or whatever the supervisor wants to say.
    Ping,
    /// Answers a [`Snapshot`].
    Status,
    /// Reads configuration, certificates, CRL and client-config-dir again, like SIGHUP. Answers
    /// `{"changed":[…],"not_changed":[…]}`: sentences about what is different now, and what needs a restart.
    Reload,
    /// Ends the sessions of a client, which may come back. Answers `{"ended":N}`.
    Kill {
        /// Those of this common name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        common_name: Option<String>,
        /// The one with this client id (its generation).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client_id: Option<u32>,
    },
    /// A certificate was revoked: reads the CRL again and ends the sessions that used it. Answers `{"ended":N}`.
    RevokeNow {
        /// Its serial number, in hexadecimal without colons, as in `pki` files.
        serial: String,
    },
    /// Ends the gateway like SIGTERM.
    Stop,
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// To [`Command::Status`].
    Status(Box<Snapshot>),
    /// To everything else.
    Done(Value),
    /// A sentence for the user.
    Failed(String),
}

/// A request on its way to the supervisor. One that is dropped unanswered is answered by an error.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Where the answer goes. Nobody may be waiting any more.
    pub reply: oneshot::Sender<Response>,
}

/// A socket that is being served; dropped, it is closed and its file removed.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    inode: u64,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        // Not the file of a gateway that was started meanwhile.
        if self.place.look(&self.place.name).is_ok_and(|file| file.st_ino == self.inode) {
            let _ = self.place.remove(&self.place.name);
        }
    }
}

/// Where the socket is: a directory that is held open, and a name in it. The directory may be another user's, who could let its path lead
/// elsewhere at any moment; what is made, renamed and removed is in this one all the same, and no link is followed.
#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
}

impl Place {
    /// Makes the directory (0700) when it is missing.
    fn of(path: &Path) -> io::Result<Place> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory_of(path))?;
        Place::there(path)
    }

    /// In a directory that is there.
    fn there(path: &Path) -> io::Result<Place> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "it names no file");
        let name = path.file_name().ok_or_else(wrong)?.to_owned();
        let directory = directory_of(path);
        let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Place { directory, name })
    }

    /// A path of a file in it, for calls that take no descriptor (proc_pid_fd(5)).
    fn path(&self, name: &OsStr) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(name)
    }

    fn look(&self, name: &OsStr) -> rustix::io::Result<Stat> {
        statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn remove(&self, name: &OsStr) -> rustix::io::Result<()> {
        unlinkat(&self.directory, name, AtFlags::empty())
    }

    /// Nobody serves it, and nothing else is there.
    fn refuse_the_living(&self) -> io::Result<()> {
        let in_use = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
        match self.look(&self.name) {
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
            Ok(file) if FileType::from_raw_mode(file.st_mode) != FileType::Socket => {
                return in_use("something that is no socket is there");
            }
            Ok(_) => {}
        }
        match whereabouts::lives(&self.path(&self.name)) {
            true => in_use("another gateway of this name is running"),
            false => Ok(()),
        }
    }

    /// The socket gets its name when it listens, in the place of one that is dead.
    fn bind(&self) -> io::Result<UnixListener> {
        self.refuse_the_living()?;
        let mut hidden = self.name.clone();
        hidden.push(format!(".{}", std::process::id()));
        let _ = self.remove(&hidden);
        let listener = listen(&self.path(&hidden))?;
        let placed = renameat(&self.directory, &hidden, &self.directory, &self.name);
        placed.inspect_err(|_| _ = self.remove(&hidden))?;
        UnixListener::from_std(listener)
    }
}

/// A socket whose file is for its owner alone, from its first moment on: the file takes the mode that the socket had when it was bound.
fn listen(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes a socket at which nobody listens any more: what a gateway that was killed left. True when it was one; what is no socket, and
/// what somebody listens at, stays.
///
/// # Errors
/// What the file system answers.
pub fn remove_dead(path: &Path) -> io::Result<bool> {
    let place = match Place::there(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            return Ok(false);
        }
        place => place?,
    };
    match place.look(&place.name) {
        Ok(file) if FileType::from_raw_mode(file.st_mode) == FileType::Socket => {}
        Ok(_) | Err(Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    match whereabouts::connect(&place.path(&place.name), None) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => return Ok(false),
    }
    place.remove(&place.name)?;
    Ok(true)
}

/// What the socket of the gateway with this name is called, in its run directory.
pub fn file_name(name: &str) -> String {
    format!("{name}.sock")
}

/// Binds the socket (0600; its directory is made, 0700, when it is missing) and serves it on the runtime this is called
/// on. What a dead gateway left there is replaced. Requests wait in a queue of 16.
///
/// # Errors
/// `AddrInUse` when a living process serves it or something that is no socket is there; what the kernel says else.
pub fn serve(path: &Path) -> io::Result<(Listener, mpsc::Receiver<Request>)> {
    let place = Place::of(path)?;
    let listener = place.bind()?;
    let inode = place.look(&place.name)?.st_ino;
    let (requests, receiver) = mpsc::channel(MAX_CONNECTIONS);
    let task = tokio::spawn(accept(listener, requests));
    Ok((Listener { place, inode, task }, receiver))
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Request>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let requests = requests.clone();
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                tokio::spawn(async move {
                    let _ = attend(stream, &requests).await;
                    drop(place);
                });
            }
            // A socket's buffer takes the few bytes at once; if not, closing says enough.
            Err(_) => {
                let _ = stream.try_write(&failure("too many connections; try again"));
            }
        }
    }
}

/// One connection, until it ends, falls silent or says something that is no request.
async fn attend(mut stream: UnixStream, requests: &mpsc::Sender<Request>) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if !may_ask(stream.peer_cred()?.uid(), own) {
        return answer(&mut stream, failure("only root and the user that runs the gateway may ask")).await;
    }
    let mut pending = Vec::new();
    loop {
        let line = match timeout(IDLE, next_line(&mut stream, &mut pending)).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return answer(&mut stream, failure(&error.to_string())).await;
            }
            Ok(Err(error)) => return Err(error),
        };
        let reply = match parse(&line) {
            Ok(command) => encode(ask(command, requests).await).await,
            Err(sentence) => failure(&sentence),
        };
        answer(&mut stream, reply).await?;
    }
}

fn may_ask(uid: u32, own: u32) -> bool {
    uid == 0 || uid == own
}

/// The next line without its end; what was read beyond stays in `pending`. `None` at the end, also in a line.
async fn next_line(stream: &mut UnixStream, pending: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    let mut searched = 0;
    loop {
        if let Some(at) = pending.iter().skip(searched).position(|byte| *byte == b'\n') {
            let rest = pending.split_off(searched + at + 1);
            let mut line = std::mem::replace(pending, rest);
            line.pop();
            return Ok(Some(line));
        }
        searched = pending.len();
        let room = MAX_REQUEST.saturating_sub(searched);
        if room == 0 {
            let what = format!("a request has at most {MAX_REQUEST} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if (&mut *stream).take(room as u64).read_buf(pending).await? == 0 {
            return Ok(None);
        }
    }
}

/// A line as a command.
fn parse(line: &[u8]) -> Result<Command, String> {
    let mut value: Value = serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    let fields = value.as_object_mut().ok_or("not a JSON object")?;
    match fields.remove("v").as_ref().and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(format!(
                "this gateway speaks version {VERSION} of the protocol, not {version}; use the same minivpn"
            ));
        }
        None => return Err(format!("the field \"v\" with the protocol's version, {VERSION}, is missing")),
    }
    serde_json::from_value(value).map_err(|error| format!("not a request: {error}"))
}

async fn ask(command: Command, requests: &mpsc::Sender<Request>) -> Response {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        requests.send(Request { command, reply }).await.ok()?;
        answer.await.ok()
    };
    match timeout(ANSWER, asked).await {
        Ok(Some(response)) => response,
        Ok(None) => Response::Failed("the gateway is ending".to_owned()),
        Err(_) => Response::Failed(format!("the gateway did not answer within {} s", ANSWER.as_secs())),
    }
}

/// The line of a response. A snapshot of thousands of clients is written by another thread: the supervisor has better
/// things to do.
async fn encode(response: Response) -> Vec<u8> {
    match response {
        Response::Failed(sentence) => failure(&sentence),
        Response::Done(value) => success(&value),
        Response::Status(snapshot) => tokio::task::spawn_blocking(move || success(&*snapshot))
            .await
            .unwrap_or_else(|_| failure("the status could not be written")),
    }
}

fn success<T: Serialize>(result: &T) -> Vec<u8> {
    #[derive(Serialize)]
    struct Success<'a, T> {
        v: u32,
        ok: bool,
        result: &'a T,
    }
    line(&Success { v: VERSION, ok: true, result })
}

fn failure(error: &str) -> Vec<u8> {
    line(&serde_json::json!({ "v": VERSION, "ok": false, "error": error }))
}

fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

async fn answer(stream: &mut UnixStream, line: Vec<u8>) -> io::Result<()> {
    timeout(WRITE, stream.write_all(&line)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::snapshot;
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream as Blocking;

    fn place(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("minivpn-socket-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        directory.join("sub").join("g.sock")
    }

    fn clean_up(path: &Path) {
        std::fs::remove_dir_all(path.parent().and_then(Path::parent).unwrap()).unwrap();
    }

    /// A supervisor that answers everything.
    fn answer_all(mut requests: mpsc::Receiver<Request>) {
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let response = match request.command {
                    Command::Status => Response::Status(Box::new(snapshot())),
                    command => Response::Done(serde_json::json!(format!("{command:?}"))),
                };
                let _ = request.reply.send(response);
            }
        });
    }

    /// Writes bytes on a connection of its own and gives what lines come back until the end.
    async fn say(path: &Path, bytes: Vec<u8>) -> Vec<Value> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || {
            let mut stream = Blocking::connect(path).unwrap();
            // The other side may have had enough before it read everything.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            BufReader::new(stream)
                .lines()
                .map_while(Result::ok)
                .map(|line| serde_json::from_str(&line).unwrap())
                .collect()
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn requests_are_answered_in_their_order() {
        let path = place("order");
        let (listener, requests) = serve(&path).unwrap();
        answer_all(requests);
        let lines = b"{\"v\":1,\"command\":\"status\"}\n{\"command\":\"kill\",\"common_name\":\"a\",\"v\":1}\n";
        let answers = say(&path, lines.to_vec()).await;
        assert_eq!(answers.len(), 2);
        assert_eq!(answers[0]["result"], serde_json::to_value(snapshot()).unwrap());
        assert_eq!(answers[1]["result"], "Kill { common_name: Some(\"a\"), client_id: None }");
        assert!(answers.iter().all(|answer| answer["v"] == 1 && answer["ok"] == true));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(listener);
        assert!(!path.exists());
        clean_up(&path);
    }

    #[tokio::test]
    async fn what_is_no_request_is_answered_by_a_sentence() {
        let path = place("wrong");
        let (_listener, requests) = serve(&path).unwrap();
        answer_all(requests);
        for (line, sentence) in [
            ("hello", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("\u{0}", "not a JSON object"),
            ("{\"command\":\"ping\"}", "\"v\""),
            ("{\"v\":2,\"command\":\"ping\"}", "version 1"),
            ("{\"v\":1,\"command\":\"dance\"}", "not a request"),
            ("{\"v\":1}", "not a request"),
            ("{\"v\":1,\"command\":\"kill\",\"client_id\":-1}", "not a request"),
            ("{\"v\":1,\"command\":\"kill\",\"name\":\"a\"}", "not a request"),
        ] {
            let answers = say(&path, format!("{line}\n{{\"v\":1,\"command\":\"ping\"}}\n").into_bytes()).await;
            assert!(
                answers[0]["ok"] == false && answers[0]["error"].as_str().unwrap().contains(sentence),
                "{answers:?}"
            );
            assert_eq!(answers[1]["ok"], true, "the connection goes on");
        }
        clean_up(&path);
    }

    #[tokio::test]
    async fn a_request_may_be_as_long_as_it_may_be_and_no_longer() {
        let path = place("long");
        let (_listener, requests) = serve(&path).unwrap();
        answer_all(requests);
        let request = |length: usize| {
            let mut line = b"{\"v\":1,\"command\":\"ping\"}".to_vec();
            line.resize(length - 1, b' ');
            line.push(b'\n');
            line
        };
        assert_eq!(say(&path, request(MAX_REQUEST)).await[0]["ok"], true);
        let answers = say(&path, request(MAX_REQUEST + 1)).await;
        assert!(answers.len() <= 1 && answers.iter().all(|answer| answer["ok"] == false), "{answers:?}");
        // Half a request is none.
        assert!(say(&path, b"{\"v\":1".to_vec()).await.is_empty());
        clean_up(&path);
    }

    #[tokio::test]
    async fn connections_are_bounded_and_free_again_afterwards() {
        let path = place("many");
        let (_listener, requests) = serve(&path).unwrap();
        answer_all(requests);
        let ping = b"{\"v\":1,\"command\":\"ping\"}\n".to_vec();
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(&ping).await.unwrap();
            stream.read_exact(&mut [0; 1]).await.unwrap();
            held.push(stream);
        }
        let answers = say(&path, Vec::new()).await;
        assert!(answers.iter().all(|answer| answer["error"].as_str().unwrap().contains("too many")), "{answers:?}");
        assert_eq!(answers.len(), 1);
        held.clear();
        while say(&path, ping.clone()).await.first().is_none_or(|answer| answer["ok"] != true) {
            tokio::task::yield_now().await;
        }
        clean_up(&path);
    }

    #[tokio::test]
    async fn a_living_gateway_keeps_its_socket_and_a_dead_one_does_not() {
        let path = place("stale");
        let (first, requests) = serve(&path).unwrap();
        answer_all(requests);
        let error = serve(&path).unwrap_err();
        assert!(error.kind() == io::ErrorKind::AddrInUse && error.to_string().contains("running"), "{error}");
        assert_eq!(say(&path, b"{\"v\":1,\"command\":\"ping\"}\n".to_vec()).await[0]["ok"], true);
        drop(first);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (second, _requests) = serve(&path).unwrap();
        // One that takes the place while another still goes does not lose it by that.
        std::fs::remove_file(&path).unwrap();
        let (third, _more) = serve(&path).unwrap();
        drop(second);
        assert!(path.exists());
        drop(third);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(serve(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        clean_up(&path);
    }

    #[tokio::test]
    async fn a_directory_whose_path_leads_elsewhere_by_now_is_still_the_one() {
        let path = place("moved");
        let directory = path.parent().unwrap();
        let (elsewhere, kept) = (directory.with_file_name("elsewhere"), directory.with_file_name("kept"));
        let place = Place::of(&path).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        let hidden = format!("g.sock.{}", std::process::id());
        for name in ["g.sock", &hidden] {
            std::fs::write(elsewhere.join(name), "not ours").unwrap();
        }
        std::fs::rename(directory, &kept).unwrap();
        std::os::unix::fs::symlink(&elsewhere, directory).unwrap();
        let listener = place.bind().unwrap();
        let file = std::fs::symlink_metadata(kept.join("g.sock")).unwrap();
        assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o600);
        assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1);
        for name in ["g.sock", &hidden] {
            assert_eq!(std::fs::read_to_string(elsewhere.join(name)).unwrap(), "not ours");
        }
        drop(listener);
        clean_up(&path);
    }

    #[test]
    fn a_sockets_file_is_never_open_to_others() {
        let path = place("mode");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        // As it is bound, before anything else could be done about it.
        let listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        clean_up(&path);
    }

    #[tokio::test]
    async fn a_gateway_that_hangs_keeps_its_socket_and_does_not_hold_up_the_next() {
        let path = place("hung");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let hung = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&hung, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = whereabouts::connect(&path, None) {
            waiting.push(stream);
        }
        assert_eq!(serve(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        clean_up(&path);
    }

    #[test]
    fn root_and_the_gateways_user_may_ask() {
        assert!(may_ask(0, 1_000) && may_ask(1_000, 1_000) && may_ask(0, 0));
        assert!(!may_ask(1_001, 1_000) && !may_ask(1_000, 0));
    }
}

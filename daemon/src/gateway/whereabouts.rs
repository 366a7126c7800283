//! Where a running gateway takes commands: noted by the gateway when it serves, looked for by the commands. The socket's usual place is
//! `/run/minivpn/NAME.sock`; a gateway may be told another, and notes it where a command looks that was not told: in its state directory,
//! and under its name in `/run/minivpn`. A note counts as long as somebody listens at the socket that it names.

use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::suggestion::DEFAULT_NAME;
use super::{socket, state, whole_file};
use crate::exit::{Exit, Fatal, permitted};
use crate::host::journal::DIRECTORY;

/// The note in a state directory.
const IN_STATE: &str = "listening";
/// What a note in `/run/minivpn` ends with, after the gateway's name.
const EXTENSION: &str = "listening";
/// The longest note, in bytes: a path (PATH_MAX of linux/limits.h) and a line's end.
const LONGEST: u64 = 4_096 + 1;

/// The notes of a gateway that serves; dropped, they are taken away, unless they are another's by now.
#[derive(Debug)]
pub struct Noted {
    files: Vec<PathBuf>,
    content: Vec<u8>,
}

impl Drop for Noted {
    fn drop(&mut self) {
        for file in &self.files {
            if read(file).is_some_and(|content| content == self.content) {
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

/// Notes that the gateway of this name takes commands at this socket. `state`: its state directory, where it has one. What cannot be written
/// is left out: the commands then have to be told.
pub fn note(name: &str, socket: &Path, state: Option<&Path>) -> Noted {
    note_in(Path::new(DIRECTORY), name, socket, state)
}

fn note_in(run: &Path, name: &str, socket: &Path, state: Option<&Path>) -> Noted {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let mut content = socket.as_os_str().as_bytes().to_vec();
    content.push(b'\n');
    let in_state = state.map(|directory| directory.join(IN_STATE));
    let named = named(run, name);
    // At its usual place it is found without.
    let in_run = (socket != usual(run, name)).then_some(named);
    let mut noted = Noted { files: Vec::new(), content };
    for file in in_state.into_iter().chain(in_run) {
        let written = directory_of(&file).and_then(|()| whole_file::replace(&file, &noted.content));
        match written {
            Ok(()) => noted.files.push(file),
            Err(error) => tracing::debug!("{} cannot be written: {error}", file.display()),
        }
    }
    noted
}

fn directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// The socket that the gateway of this state directory has noted.
pub(super) fn noted_in(state: &Path) -> Option<PathBuf> {
    noted(&state.join(IN_STATE))
}

/// Removes the sockets and notes that a killed gateway left: those at which nobody listens any more, in the run directory, in its state
/// directory, and `asked`, where it would have been looked for. A socket that a note alone names must be of whoever wrote the note. Gives the sockets, and
/// what could not be removed.
pub(super) fn clean(run: &Path, name: &str, state: &Path, asked: &Path) -> Cleaned {
    let notes = [state.join(IN_STATE), named(run, name), named(Path::new(DIRECTORY), name)];
    let mut sockets = vec![usual(run, name), asked.to_owned()];
    sockets.extend(notes.iter().filter_map(|note| noted(note).filter(|socket| are_of_one_owner(note, socket))));
    let mut cleaned = Cleaned::default();
    for path in sockets {
        match socket::remove_dead(&path) {
            Ok(true) => cleaned.removed.push(path),
            Ok(false) => {}
            Err(error) => cleaned.failed.push((path, error)),
        }
    }
    for note in notes.into_iter().filter(|note| noted(note).is_some_and(|socket| !lives(&socket))) {
        if let Err(error) = whole_file::remove(&note) {
            cleaned.failed.push((note, error));
        }
    }
    cleaned
}

/// What became of what a killed gateway left.
#[derive(Debug, Default)]
pub(super) struct Cleaned {
    /// Sockets that are gone now.
    pub(super) removed: Vec<PathBuf>,
    /// Sockets and notes that are there still, and why.
    pub(super) failed: Vec<(PathBuf, io::Error)>,
}

fn are_of_one_owner(one: &Path, other: &Path) -> bool {
    let owner = |path: &Path| std::fs::symlink_metadata(path).ok().map(|metadata| metadata.uid());
    owner(one).is_some() && owner(one) == owner(other)
}

/// Where the gateway of this name takes commands: the first place at which somebody listens, of the note in its state directory, its usual
/// place, and the note under its name. Where nobody does, its usual place.
pub fn of(name: &str, state: Option<&Path>) -> PathBuf {
    let usual_state = Path::new(state::ROOT).join(name);
    of_in(Path::new(DIRECTORY), name, state.unwrap_or(&usual_state))
}

fn of_in(run: &Path, name: &str, state: &Path) -> PathBuf {
    let usual = usual(run, name);
    let places = [noted(&state.join(IN_STATE)), Some(usual.clone()), noted(&named(run, name))];
    places.into_iter().flatten().find(|path| lives(path)).unwrap_or(usual)
}

/// The socket of the only gateway that runs here.
///
/// # Errors
/// [`Exit::Unreachable`]: there is none. [`Exit::Config`]: there are several.
pub fn only_one() -> Result<PathBuf, Fatal> {
    only_one_in(Path::new(DIRECTORY), Path::new(state::ROOT))
}

fn only_one_in(run: &Path, states: &Path) -> Result<PathBuf, Fatal> {
    let mut all = all_in(run, states)?;
    // What a killed gateway left does not count while another lives.
    if all.len() > 1 {
        all.retain(|(_, path)| lives(path));
    }
    match all.as_slice() {
        [] => Err(none(run)),
        [(_, one)] => Ok(one.clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            let sentence = format!("several gateways are running: {}; choose one with --name", names.join(", "));
            Err(Fatal::new(Exit::Config, sentence))
        }
    }
}

/// Every socket that is known here, with its gateway's name, in the order of the names. Those in the usual place may be dead.
fn all_in(run: &Path, states: &Path) -> Result<Vec<(String, PathBuf)>, Fatal> {
    let mut all: Vec<(String, PathBuf)> = Vec::new();
    for path in entries(run).map_err(|error| unreadable(run, &error))? {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let Some(name) = path.file_stem().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let is_socket = || std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.file_type().is_socket());
        match extension {
            "sock" if is_socket() => all.push((name, path)),
            EXTENSION => all.extend(noted(&path).filter(|path| lives(path)).map(|path| (name, path))),
            _ => {}
        }
    }
    // Who may not read it has none of its own there.
    for directory in entries(states).unwrap_or_default() {
        let Some(name) = directory.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        all.extend(noted(&directory.join(IN_STATE)).filter(|path| lives(path)).map(|path| (name, path)));
    }
    all.sort();
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|(_, path)| seen.insert(path.clone()));
    Ok(all)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn none(run: &Path) -> Fatal {
    let sentence = format!("no gateway is running (no socket in {}); {}", run.display(), start_of(Path::new("")));
    Fatal::new(Exit::Unreachable, sentence)
}

/// How to start the gateway whose socket would be here: under its name, where its place is the usual one of that name.
pub(super) fn start_of(socket: &Path) -> String {
    let name = socket.file_stem().filter(|_| socket.parent() == Some(Path::new(DIRECTORY)));
    let name = name.and_then(|name| name.to_str()).filter(|name| *name != DEFAULT_NAME);
    let name = name.map_or_else(String::new, |name| format!(" --name {name}"));
    format!("start it with `minivpn gateway up{name}` or `minivpn gateway run --config FILE`")
}

fn unreadable(directory: &Path, error: &io::Error) -> Fatal {
    let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Privilege } else { Exit::Other };
    Fatal::new(exit, format!("{} cannot be read: {error}{}", directory.display(), permitted(error)))
}

fn usual(run: &Path, name: &str) -> PathBuf {
    run.join(socket::file_name(name))
}

fn named(run: &Path, name: &str) -> PathBuf {
    run.join(format!("{name}.{EXTENSION}"))
}

/// The path that a note names.
fn noted(file: &Path) -> Option<PathBuf> {
    let mut content = read(file)?;
    (content.pop() == Some(b'\n') && !content.is_empty()).then(|| std::ffi::OsString::from_vec(content).into())
}

/// A note. Who owns its directory need not be whoever reads it: what is no plain file is not waited for, and no more is read than a note has.
fn read(file: &Path) -> Option<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(file).ok()?;
    let mut content = Vec::new();
    let is_plain = file.metadata().ok()?.is_file();
    (is_plain && file.take(LONGEST + 1).read_to_end(&mut content).ok()? as u64 <= LONGEST).then_some(content)
}

/// Whether somebody listens at this socket, who may be busy.
pub(super) fn lives(path: &Path) -> bool {
    match connect(path, None) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::PermissionDenied),
    }
}

/// Connects to a socket. A gateway that hangs takes no connection once its queue is full: that is waited for so long (`None`: not at all), and
/// so long is waited for each read and write afterwards.
///
/// # Errors
/// `WouldBlock` when the time is over; what connect(2) says else.
pub fn connect(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let flags = if patience.is_none() { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(socket);
    // unix(7): connect waits as long as a write may.
    stream.set_write_timeout(patience)?;
    stream.set_read_timeout(patience)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::Folder;
    use std::os::unix::net::UnixListener;

    /// The run directory, the state directories and a place of one's own.
    fn scene() -> (Folder, [PathBuf; 3]) {
        let folder = Folder::new();
        let directories = ["run", "states", "own"].map(|name| folder.path().join(name));
        directories.iter().for_each(|directory| std::fs::create_dir(directory).unwrap());
        (folder, directories)
    }

    #[test]
    fn a_gateway_with_a_socket_of_its_own_is_found_by_its_name_its_state_and_alone() {
        let (_folder, [run, states, own]) = scene();
        let (state, socket) = (states.join("office"), own.join("x.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let noted = note_in(&run, "office", &socket, Some(&state));
        assert_eq!(of_in(&run, "office", &state), socket);
        assert_eq!(of_in(&run, "office", &own), socket, "by its name, whatever state directory is asked for");
        assert_eq!(of_in(&run, "any other name", &state), socket, "by its state directory, whatever it is called");
        assert_eq!(of_in(&run, "home", &own), run.join("home.sock"), "another is not mistaken for it");
        assert_eq!(only_one_in(&run, &states).unwrap(), socket, "two notes of one socket are one gateway");
        drop(noted);
        assert_eq!(std::fs::read_dir(&run).unwrap().count() + std::fs::read_dir(&state).unwrap().count(), 0);
        drop(listener);
    }

    #[test]
    fn a_note_counts_only_while_somebody_listens() {
        let (_folder, [run, states, own]) = scene();
        let (state, socket) = (states.join("office"), own.join("x.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        // As after a kill: the notes stay.
        std::mem::forget(note_in(&run, "office", &socket, Some(&state)));
        drop(listener);
        assert_eq!(of_in(&run, "office", &state), run.join("office.sock"));
        assert_eq!(only_one_in(&run, &states).unwrap_err().exit, Exit::Unreachable);
        let _usual = UnixListener::bind(run.join("office.sock")).unwrap();
        assert_eq!(of_in(&run, "office", &state), run.join("office.sock"));
        assert_eq!(only_one_in(&run, &states).unwrap(), run.join("office.sock"));
    }

    #[test]
    fn what_a_killed_gateway_left_is_removed_and_what_lives_is_not() {
        let (_folder, [run, states, own]) = scene();
        let state = states.join("office");
        let (dead, living) = (own.join("dead.sock"), run.join("office.sock"));
        drop(UnixListener::bind(&dead).unwrap());
        std::mem::forget(note_in(&run, "office", &dead, Some(&state)));
        let listener = UnixListener::bind(&living).unwrap();
        std::fs::write(own.join("file.sock"), "mine").unwrap();
        assert_eq!(clean(&run, "office", &state, &own.join("file.sock")).removed, std::slice::from_ref(&dead));
        assert!(!dead.exists() && living.exists() && own.join("file.sock").exists());
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "its note is gone");
        assert_eq!(noted(&named(&run, "office")), None, "and the other");
        drop(listener);
        assert_eq!(clean(&run, "office", &state, &living).removed, std::slice::from_ref(&living), "once");
        assert!(!living.exists());
        assert_eq!(clean(&run, "office", &state, &living).removed, [] as [PathBuf; 0], "nothing is there");
    }

    #[test]
    fn a_note_that_is_no_plain_file_is_not_waited_for_and_what_it_names_must_be_its_writers() {
        let (_folder, [run, states, own]) = scene();
        let (state, note) = (states.join("office"), named(&run, "office"));
        rustix::fs::mkfifoat(rustix::fs::CWD, &note, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        assert_eq!(noted(&note), None, "a pipe, into which nobody writes");
        std::fs::remove_file(&note).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &note).unwrap();
        assert_eq!(noted(&note), None);
        std::fs::remove_file(&note).unwrap();
        std::fs::write(&note, vec![b'a'; 5_000]).unwrap();
        assert_eq!(noted(&note), None, "too long");

        // What cannot be removed does not keep the rest.
        std::fs::write(&note, "/dev/null/office.sock\n").unwrap();
        let dead = run.join("office.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let cleaned = clean(&run, "office", &state, Path::new("/dev/null/asked.sock"));
        assert_eq!((cleaned.removed, cleaned.failed.len()), (vec![dead], 1));
        assert!(!note.exists());

        let others = own.join("others.sock");
        drop(UnixListener::bind(&others).unwrap());
        std::fs::write(&note, format!("{}\n", others.display())).unwrap();
        if std::os::unix::fs::chown(&others, Some(65_534), None).is_ok() {
            assert!(clean(&run, "office", &state, &run.join("none.sock")).removed.is_empty());
            assert!(others.exists(), "somebody else's");
        }
    }

    #[test]
    fn the_usual_place_needs_no_note_in_the_run_directory() {
        let (_folder, [run, states, _]) = scene();
        let socket = run.join("office.sock");
        let noted = note_in(&run, "office", &socket, Some(&states.join("office")));
        assert_eq!(noted.files, [states.join("office").join(IN_STATE)]);
        drop(note_in(&run, "office", &socket, None));
        assert!(states.join("office").join(IN_STATE).exists());
    }

    #[test]
    fn a_gateway_that_does_not_run_is_started_under_its_name() {
        assert!(start_of(Path::new("/run/minivpn/eu.sock")).contains("`minivpn gateway up --name eu`"));
        for other in ["/run/minivpn/default.sock", "/tmp/eu.sock", ""] {
            assert!(start_of(Path::new(other)).contains("`minivpn gateway up`"), "{other}");
        }
    }

    #[test]
    fn a_note_that_is_another_gateways_by_now_stays() {
        let (_folder, [run, _, own]) = scene();
        let first = note_in(&run, "office", &own.join("a.sock"), None);
        let second = note_in(&run, "office", &own.join("b.sock"), None);
        drop(first);
        assert_eq!(noted(&named(&run, "office")), Some(own.join("b.sock")));
        drop(second);
        assert_eq!(noted(&named(&run, "office")), None);
    }

    #[test]
    fn what_is_no_note_names_nothing() {
        let (_folder, [run, ..]) = scene();
        let file = named(&run, "office");
        for content in [&b""[..], b"\n", b"/run/half", &[b'x'; LONGEST as usize + 1]] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(noted(&file), None, "{} bytes", content.len());
        }
        std::fs::write(run.join("real"), "/run/x.sock\n").unwrap();
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(run.join("real"), &file).unwrap();
        assert_eq!(noted(&file), None, "a link is none");
    }

    #[test]
    fn the_only_gateway_is_found_and_several_are_named() {
        let (_folder, [run, states, own]) = scene();
        assert_eq!(only_one_in(&run.join("none"), &states).unwrap_err().exit, Exit::Unreachable);
        std::fs::write(run.join("a.journal"), "").unwrap();
        std::fs::write(run.join("file.sock"), "").unwrap();
        assert_eq!(only_one_in(&run, &states).unwrap_err().exit, Exit::Unreachable);
        let bind = |path: &Path| UnixListener::bind(path).unwrap();
        let first = bind(&run.join("first.sock"));
        assert_eq!(only_one_in(&run, &states).unwrap(), run.join("first.sock"));
        let second = bind(&own.join("x.sock"));
        let _noted = note_in(&run, "second", &own.join("x.sock"), None);
        let fatal = only_one_in(&run, &states).unwrap_err();
        assert!(fatal.sentence.contains("first, second") && fatal.exit == Exit::Config, "{fatal}");
        drop(first);
        assert_eq!(only_one_in(&run, &states).unwrap(), own.join("x.sock"));
        drop(second);
    }

    #[test]
    fn a_gateway_that_takes_no_connection_lives_and_is_not_waited_for_for_ever() {
        let (_folder, [run, ..]) = scene();
        let path = run.join("hung.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut held = Vec::new();
        let full = loop {
            match connect(&path, Some(Duration::from_millis(20))) {
                Ok(stream) => held.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(lives(&path) && connect(&path, None).is_err());
        drop((listener, held));
        assert!(!lives(&path));
    }
}

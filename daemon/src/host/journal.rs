//! The journal of host changes: what was changed and not yet undone, one JSON object a line, in a file of its own per
//! instance (`/run/minivpn/INSTANCE.journal`). A change is written down before it is made and struck out after it is
//! undone, so that whatever a killed process left is known to the next start.
//!
//! The first line names the owner (process, its start time, its network namespace). The owner holds a lock on the file
//! while it lives; nobody touches the changes of the living.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::change::Record;
use super::{Host, HostError};

/// Where journals are, unless the caller says otherwise. On a tmpfs: a reboot undoes everything by itself.
pub const DIRECTORY: &str = "/run/minivpn";

/// The longest journal that recovery reads, in bytes. A full table of 4,096 pushed routes is under 1 MiB.
const MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Who writes a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    pid: u32,
    /// In clock ticks since boot (field 22 of /proc/PID/stat): tells a process from a later one of the same number.
    start: u64,
    /// The inode of the network namespace: changes of another one cannot be undone from here.
    namespace: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Owner(Owner),
    Begin(u64, Record),
    Done(u64),
}

/// The journal of this process.
#[derive(Debug)]
pub struct Journal {
    file: Option<(File, PathBuf)>,
    owner: Owner,
    open: BTreeMap<u64, Record>,
    next: u64,
    lines: usize,
}

/// What recovery did.
#[derive(Debug, Default)]
pub struct Recovery {
    /// What was undone, as phrases.
    pub undone: Vec<String>,
    /// What resisted; it stays in its journal.
    pub failed: Vec<HostError>,
}

/// What a daemon begins with: the host's handle, what dead predecessors left undone, a journal of its own. Without a writable
/// directory the journal is in memory, and a warning says what that means.
///
/// # Errors
/// [`HostError::Netlink`], and [`HostError::Busy`] when a living process owns the journal of this instance.
pub async fn begin(directory: &Path, instance: &str) -> Result<(Host, Journal), HostError> {
    let host = Host::open()?;
    let recovery = recover(directory, &host).await;
    for undone in recovery.undone {
        tracing::info!("left by a minivpn that was killed, now undone: {undone}");
    }
    for failure in recovery.failed {
        tracing::warn!("left by a minivpn that was killed: {failure}");
    }
    match Journal::create(directory, instance) {
        Ok(journal) => Ok((host, journal)),
        Err(busy @ HostError::Busy { .. }) => Err(busy),
        Err(error) => {
            tracing::warn!("{error}: host changes could not be undone if this process were killed");
            Ok((host, Journal::in_memory()))
        }
    }
}

impl Journal {
    /// Opens the journal of an instance, whose former content must have been recovered ([`recover`]) or is given up.
    /// The directory is made (0700) when it is missing.
    ///
    /// # Errors
    /// [`HostError::Busy`] when a living process owns it, [`HostError::Journal`] when it cannot be written or the
    /// instance's name is not of letters, digits, `.`, `_`, `-` (at most 64).
    pub fn create(directory: &Path, instance: &str) -> Result<Self, HostError> {
        let path = path_of(directory, instance);
        let failed = |source| HostError::Journal { path: path.clone(), source };
        if !is_name(instance) {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a name for an instance")));
        }
        make_directory(directory).map_err(failed)?;
        let owner = Owner::this_process().map_err(failed)?;
        let mut file = open_locked(&path, true).map_err(failed)?;
        if let State::Living(pid) = lock_state(&mut file).map_err(failed)? {
            return Err(HostError::Busy { instance: instance.to_owned(), pid });
        }
        let mut journal = Self { file: Some((file, path)), owner, open: BTreeMap::new(), next: 1, lines: 0 };
        journal.rewrite()?;
        Ok(journal)
    }

    /// A journal that is kept in memory only, for hosts without a writable /run: a killed process leaves its changes.
    pub fn in_memory() -> Self {
        let owner = Owner { pid: 0, start: 0, namespace: 0 };
        Self { file: None, owner, open: BTreeMap::new(), next: 1, lines: 0 }
    }

    /// How many changes are made and not undone.
    pub fn outstanding(&self) -> usize {
        self.open.len()
    }

    /// Writes a change down, before it is made.
    pub(crate) fn begin(&mut self, record: &Record) -> Result<u64, HostError> {
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.append(&Line::Begin(id, record.clone()))?;
        self.open.insert(id, record.clone());
        Ok(id)
    }

    /// Strikes a change out, after it was undone.
    pub(crate) fn finish(&mut self, id: u64) -> Result<(), HostError> {
        self.open.remove(&id);
        // A tunnel that reconnects for years must not fill /run.
        if self.open.is_empty() || self.lines > 64 + 4 * self.open.len() {
            return self.rewrite();
        }
        self.append(&Line::Done(id))
    }

    fn append(&mut self, line: &Line) -> Result<(), HostError> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let written = text_of(line).and_then(|text| file.write_all(text.as_bytes()));
        written.map_err(|source| HostError::Journal { path: path.clone(), source })?;
        self.lines += 1;
        Ok(())
    }

    /// Replaces the file by one without the struck-out lines. It takes the name only when it is whole.
    fn rewrite(&mut self) -> Result<(), HostError> {
        let Some((file, path)) = &mut self.file else { return Ok(()) };
        let written = rewrite_file(path, &self.owner, &self.open);
        *file = written.map_err(|source| HostError::Journal { path: path.clone(), source })?;
        self.lines = 1 + self.open.len();
        Ok(())
    }
}

impl Drop for Journal {
    /// Nothing outstanding: the file goes. Otherwise it is what the next start needs.
    fn drop(&mut self) {
        let Some((file, path)) = &self.file else { return };
        if self.open.is_empty() {
            // A directory that became unwritable leaves an empty journal, which is harmless.
            let _ = std::fs::remove_file(path);
        }
        // Said aloud: a process that is just being started may share the descriptor until its exec.
        let _ = flock(file, FlockOperation::Unlock);
    }
}

/// Undoes what dead processes left in this network namespace, last change first, and removes their journals. What
/// living processes own is not touched.
pub async fn recover(directory: &Path, host: &Host) -> Recovery {
    let mut recovery = Recovery::default();
    let Ok(entries) = std::fs::read_dir(directory) else { return recovery };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.extension().is_some_and(|extension| extension == "journal")
            && let Err(source) = recover_file(&path, host, &mut recovery).await
        {
            recovery.failed.push(HostError::Journal { path, source });
        }
    }
    recovery
}

/// The living process that owns the journal of an instance. Nobody who may not read it is told.
pub fn holder(directory: &Path, instance: &str) -> Option<u32> {
    let mut file = open_locked(&path_of(directory, instance), false).ok()?;
    match lock_state(&mut file).ok()? {
        State::Living(pid) => Some(pid),
        State::Ours => None,
    }
}

/// Gives the directory and its journals to the user that the daemon drops to, so that it can still write them.
///
/// # Errors
/// What the kernel answers.
pub fn hand_over(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    make_directory(directory)?;
    std::os::unix::fs::chown(directory, Some(uid), Some(gid))
}

async fn recover_file(path: &Path, host: &Host, recovery: &mut Recovery) -> io::Result<()> {
    let mut file = open_locked(path, false)?;
    if let State::Living(_) = lock_state(&mut file)? {
        return Ok(());
    }
    let (owner, open) = read_lines(&mut file)?;
    if owner.is_some_and(|owner| Some(owner.namespace) != namespace_of_self()) {
        return Ok(());
    }
    let failed_before = recovery.failed.len();
    for record in open.values().rev() {
        match host.unmake(record).await {
            Ok(()) => recovery.undone.push(record.change.undoing()),
            Err(error) => recovery.failed.push(error),
        }
    }
    if recovery.failed.len() == failed_before {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

impl Owner {
    fn this_process() -> io::Result<Self> {
        let pid = std::process::id();
        let start = start_time(pid).ok_or_else(|| io::Error::other("/proc/self/stat cannot be read"))?;
        Ok(Self { pid, start, namespace: namespace_of_self().unwrap_or(0) })
    }

    fn is_living(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }
}

enum State {
    Living(u32),
    /// Its owner is gone (or never was), and we hold the lock.
    Ours,
}

fn lock_state(file: &mut File) -> io::Result<State> {
    match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = read_lines(file).ok().and_then(|(owner, _)| owner).map_or(0, |owner| owner.pid);
            return Ok(State::Living(pid));
        }
        Err(error) => return Err(error.into()),
    }
    // The lock may have gone with a descriptor while its process lives on.
    match read_lines(file)?.0 {
        Some(owner) if owner.pid != std::process::id() && owner.is_living() => Ok(State::Living(owner.pid)),
        _ => Ok(State::Ours),
    }
}

/// Who owns the directory may have put something else there: it is neither followed nor waited for.
fn open_locked(path: &Path, create: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no plain file")) }
}

fn rewrite_file(path: &Path, owner: &Owner, open: &BTreeMap<u64, Record>) -> io::Result<File> {
    let fresh = path.with_extension("new");
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = open_locked(&fresh, true)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let mut text = text_of(&Line::Owner(owner.clone()))?;
    for (id, record) in open {
        text.push_str(&text_of(&Line::Begin(*id, record.clone()))?);
    }
    file.write_all(text.as_bytes())?;
    std::fs::rename(&fresh, path)?;
    Ok(file)
}

/// The owner and the changes that are not struck out. The last line may be torn: what it would have said was not done.
fn read_lines(file: &mut File) -> io::Result<(Option<Owner>, BTreeMap<u64, Record>)> {
    use std::io::Seek;
    file.rewind()?;
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text)?;
    let (mut owner, mut open) = (None, BTreeMap::new());
    for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::Owner(found) => owner = Some(found),
            Line::Begin(id, record) => drop(open.insert(id, record)),
            Line::Done(id) => drop(open.remove(&id)),
        }
    }
    Ok((owner, open))
}

fn text_of(line: &Line) -> io::Result<String> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    Ok(text)
}

fn path_of(directory: &Path, instance: &str) -> PathBuf {
    directory.join(format!("{instance}.journal"))
}

fn is_name(instance: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !instance.is_empty() && instance.len() <= 64 && !instance.starts_with('.') && instance.bytes().all(plain)
}

fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn namespace_of_self() -> Option<u64> {
    std::fs::metadata("/proc/thread-self/ns/net").ok().map(|metadata| metadata.ino())
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)). The second field is in parentheses and may contain anything. `None` too for a process that has ended
/// and whose parent has not asked for its exit code (state Z, or X): under a parent that never does, that is for ever.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    if has_ended { None } else { fields.nth(18)?.parse().ok() }
}

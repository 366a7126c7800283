//! The state directory of one gateway, `/var/lib/minivpn/NAME`: what is in it, who may write it when, and what an earlier
//! process that was killed in the middle of something left.
//!
//! | file | content |
//! |---|---|
//! | `ca.crt`, `ca.key` | the certificate authority. The key may be taken away: then nothing can be issued or revoked here |
//! | `server.pem` | the gateway's own certificate and key |
//! | `crl.pem` | revoked certificates |
//! | `tls-crypt.key` | the key that control packets are wrapped in |
//! | `clients/NAME.pem` | a client's certificate and key, for printing its profile again; may be deleted |
//! | `index.json` | every certificate that was ever issued |
//! | `settings.json`, `server.conf` | what `gateway up` was asked for, and the configuration that follows |
//! | `ccd/`, `leases.txt` | settings and addresses of single clients |
//! | `listening` | while a gateway runs: where it takes commands (`whereabouts.rs`) |
//! | `lock` | held by whoever changes anything |
//!
//! The directory is 0700 and every file 0600. Files change only as a whole. An order of steps makes every crash harmless:
//! a certificate is in the index before its key can be read by anybody, and a certificate is revoked in the index before
//! the revocation list is signed; whoever opens the directory next completes what is missing.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use controlplane::Random;
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::index::{Holder, Index, Record};
use super::names::{ClientName, Endpoint, GatewayName};
use super::pki::{self, Authority, CrlFacts, Identity, PkiError, Purpose};
use super::static_key;
use super::suggestion::Suggestions;
use super::whole_file;
use crate::exit::{Exit, Fatal, permitted};

/// Where gateways keep their state, each in a directory of its name.
pub const ROOT: &str = "/var/lib/minivpn";

/// What went wrong with a state directory. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none.
    #[error("there is no gateway in {}: make one with `{}`, or name another with --name or --state-dir", .0.display(), .1.command("gateway up --endpoint HOST"))]
    Missing(PathBuf, Suggestions),
    /// A file or directory could not be read or written.
    #[error("{}: {source}{}", path.display(), permitted(source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file's content is not what it should be.
    #[error("{}: {what}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Another process is changing it.
    #[error("another minivpn is changing {}; try again when it is done", .0.display())]
    Locked(PathBuf),
    /// The directory belongs to somebody else.
    #[error("{} belongs to {}, or choose another --state-dir", path.display(), whose(*owner))]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// The authority's key was taken away.
    #[error("{} is not here: bring it back for as long as certificates are issued, renewed or revoked", .0.display())]
    NoAuthority(PathBuf),
    /// The wrapping key is gone while profiles with it are in use.
    #[error("{} is gone, and the profiles of the clients hold it: restore it from a backup", .0.display())]
    NoWrappingKey(PathBuf),
    /// A certificate could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// There is a good certificate of this name.
    #[error(
        "{} exists already: `{}` prints the profile again, `{}` makes a new one",
        .0,
        .1.client("show", .0),
        .1.client("renew", .0)
    )]
    Exists(ClientName, Suggestions),
    /// There is no certificate of this name.
    #[error("there is no client {}; `{}` tells who there is", .0, .1.command("client list"))]
    Unknown(ClientName, Suggestions),
    /// Its certificates are revoked.
    #[error("{} is revoked; `{}` makes a new certificate", .0, .1.client("add", .0))]
    Revoked(ClientName, Suggestions),
    /// Its key was deleted.
    #[error("the key of {name} is not kept here ({} was deleted): `{renew}` makes a new one", path.display())]
    NoKey {
        /// Whose.
        name: ClientName,
        /// Where it would be.
        path: PathBuf,
        /// The command that makes a new one.
        renew: String,
    },
}

impl From<StateError> for Fatal {
    fn from(error: StateError) -> Fatal {
        let exit = match &error {
            StateError::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Privilege,
            StateError::Foreign { .. } => Exit::Privilege,
            StateError::File { .. } | StateError::Locked(_) | StateError::Pki(_) => Exit::Other,
            _ => Exit::Config,
        };
        Fatal::new(exit, error.to_string())
    }
}

/// A state directory, locked: nobody else changes it while this value lives.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    name: GatewayName,
    pub(super) index: Index,
    _lock: Lock,
}

/// The lock on a directory. A script that is just being started may share the descriptor until its exec, so its end is said aloud.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// What [`State::ensure`] had to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// The certificate authority.
    Authority,
    /// The key that control packets are wrapped in.
    WrappingKey,
    /// The server's certificate.
    Server,
    /// The revocation list.
    Crl,
}

/// What [`State::maintain`] renewed; the server must read it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// The server's certificate.
    Server,
    /// The revocation list.
    Crl,
}

impl State {
    /// Opens the directory of a gateway that exists, waits for nobody, and completes what a crash left undone.
    ///
    /// # Errors
    /// [`StateError::Missing`], [`StateError::Locked`], [`StateError::Foreign`], and what the files answer.
    pub fn open(directory: &Path, name: &GatewayName, now: u64) -> Result<State, StateError> {
        if !is_there(directory)? {
            return Err(missing(directory, name));
        }
        State::lock(directory, name, now)
    }

    /// Opens the directory, which is made when it is missing (0700).
    ///
    /// # Errors
    /// As [`State::open`], but for the first.
    pub fn create(directory: &Path, name: &GatewayName, now: u64) -> Result<State, StateError> {
        let clients = directory.join("clients");
        for path in [directory, &clients, &directory.join("ccd")] {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(file_error(path))?;
        }
        let state = State::lock(directory, name, now)?;
        if !state.path("index.json").exists() {
            state.save_index()?;
        }
        Ok(state)
    }

    fn lock(directory: &Path, name: &GatewayName, now: u64) -> Result<State, StateError> {
        guard(directory)?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)
            .map_err(file_error(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StateError::Locked(directory.to_owned())),
            locked => locked.map_err(|error| file_error(&path)(error.into()))?,
        }
        let mut state =
            State { directory: directory.to_owned(), name: name.clone(), index: Index::default(), _lock: Lock(lock) };
        if let Some(text) = state.read("index.json")? {
            let parsed = Index::parse(&text);
            state.index = parsed.map_err(|what| StateError::Content { path: state.path("index.json"), what })?;
        }
        state.recover(now)?;
        Ok(state)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The gateway's name.
    pub fn name(&self) -> &GatewayName {
        &self.name
    }

    /// Every certificate that was issued.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Commands for this gateway.
    pub fn suggest(&self) -> Suggestions {
        Suggestions::of(&self.name, &self.directory)
    }

    /// The path of a file in the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// The common name of the server's certificate, which profiles check. It stays, whatever the endpoint becomes.
    pub fn server_name(&self) -> String {
        format!("minivpn-{}", self.name)
    }

    /// The content of a file in the directory; `None` when there is none.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn read(&self, file: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(file);
        whole_file::read(&path).map_err(file_error(&path))
    }

    /// The text of a file that must be there.
    ///
    /// # Errors
    /// [`StateError::File`], [`StateError::Content`].
    pub fn text(&self, file: &str) -> Result<Zeroizing<String>, StateError> {
        let missing = || StateError::File { path: self.path(file), source: io::ErrorKind::NotFound.into() };
        let bytes = self.read(file)?.ok_or_else(missing)?;
        let text = String::from_utf8(bytes).map(Zeroizing::new);
        text.map_err(|_| StateError::Content { path: self.path(file), what: "this is not text".to_owned() })
    }

    /// Writes a file of the directory as a whole, unless it has this content; whether it had not.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn write(&self, file: &str, content: &[u8]) -> Result<bool, StateError> {
        let path = self.path(file);
        if self.read(file)?.as_deref() == Some(content) {
            return Ok(false);
        }
        whole_file::write(&path, content).map_err(file_error(&path))?;
        Ok(true)
    }

    /// Makes what is missing of authority, wrapping key, server's certificate and revocation list. The second call in a
    /// row makes nothing.
    ///
    /// # Errors
    /// What the files answer; [`StateError::NoAuthority`] when something must be signed without the key.
    pub fn ensure(&mut self, endpoint: &Endpoint, now: u64, rng: &mut dyn Random) -> Result<Vec<Made>, StateError> {
        let mut made = Vec::new();
        if self.ensure_authority(now, rng)? {
            made.push(Made::Authority);
        }
        if !self.path("tls-crypt.key").exists() {
            if self.index.records().iter().any(|record| record.client().is_some()) {
                return Err(StateError::NoWrappingKey(self.path("tls-crypt.key")));
            }
            self.write("tls-crypt.key", static_key::new(rng).as_bytes())?;
            made.push(Made::WrappingKey);
        }
        if !self.path("server.pem").exists() {
            self.renew_server(endpoint, now, rng)?;
            made.push(Made::Server);
        }
        if !self.path("crl.pem").exists() {
            self.sign_crl(now)?;
            made.push(Made::Crl);
        }
        Ok(made)
    }

    /// The key is written before the certificate that needs it.
    fn ensure_authority(&mut self, now: u64, rng: &mut dyn Random) -> Result<bool, StateError> {
        if self.path("ca.crt").exists() {
            return Ok(false);
        }
        if !self.path("ca.key").exists() {
            // Somebody who lost the certificate but kept the clients would get an authority that knows none of them.
            if !self.index.records().is_empty() {
                let what = "is gone, and with it what the clients trust: restore it from a backup".to_owned();
                return Err(StateError::Content { path: self.path("ca.crt"), what });
            }
            self.write("ca.key", pki::new_key()?.as_bytes())?;
        }
        let key = self.text("ca.key")?;
        let certificate = pki::new_authority(&format!("minivpn {} CA", self.name), &key, now, rng)?;
        self.write("ca.crt", certificate.as_bytes())
    }

    /// The authority.
    ///
    /// # Errors
    /// [`StateError::NoAuthority`] without its key; what the files answer.
    pub fn authority(&self) -> Result<Authority, StateError> {
        if !self.path("ca.key").exists() {
            return Err(StateError::NoAuthority(self.path("ca.key")));
        }
        Ok(Authority::load(&self.text("ca.crt")?, &self.text("ca.key")?)?)
    }

    /// Issues a new certificate and key to the server.
    ///
    /// # Errors
    /// [`StateError::NoAuthority`], [`StateError::Pki`], what the files answer.
    pub fn renew_server(&mut self, endpoint: &Endpoint, now: u64, rng: &mut dyn Random) -> Result<(), StateError> {
        let purpose = Purpose::Server(endpoint.clone());
        let name = self.server_name();
        let identity = self.authority()?.issue(&name, &purpose, pki::SERVER_DAYS, now, rng)?;
        self.adopt(&identity, Holder::Server, now)
    }

    /// Signs the revocation list anew.
    ///
    /// # Errors
    /// [`StateError::NoAuthority`], [`StateError::Pki`], what the files answer.
    pub fn sign_crl(&mut self, now: u64) -> Result<(), StateError> {
        let authority = self.authority()?;
        // The number is used up before it is used: a crash skips one, and none is used twice.
        self.index.crl_number = self.index.crl_number.saturating_add(1);
        self.save_index()?;
        let list = authority.sign_crl(&self.index.revoked(now), self.index.crl_number, now)?;
        self.write("crl.pem", list.as_bytes())?;
        Ok(())
    }

    /// Renews what is about to expire, as long as the authority's key is here. To be called at every start and once a
    /// day.
    ///
    /// # Errors
    /// What the files answer.
    pub fn maintain(
        &mut self,
        endpoint: &Endpoint,
        now: u64,
        rng: &mut dyn Random,
    ) -> Result<Vec<Renewed>, StateError> {
        let mut renewed = Vec::new();
        if !self.path("ca.key").exists() {
            return Ok(renewed);
        }
        if pki::crl_is_due(self.crl()?.next_update, now) {
            self.sign_crl(now)?;
            renewed.push(Renewed::Crl);
        }
        if pki::server_is_due(pki::certificate_facts(&self.text("server.pem")?)?.not_after, now) {
            self.renew_server(endpoint, now, rng)?;
            renewed.push(Renewed::Server);
        }
        Ok(renewed)
    }

    /// The revocation list that is there.
    ///
    /// # Errors
    /// What the file answers.
    pub fn crl(&self) -> Result<CrlFacts, StateError> {
        Ok(pki::crl_facts(&self.text("crl.pem")?)?)
    }

    /// Where a holder's certificate and key are, within the directory.
    pub(super) fn pem_of(holder: &Holder) -> String {
        match holder {
            Holder::Server => "server.pem".to_owned(),
            Holder::Client(name) => format!("clients/{name}.pem"),
        }
    }

    /// Takes a new certificate in: its content is put on the disk, then it is written into the index, and only then does
    /// it get its name.
    pub(super) fn adopt(&mut self, identity: &Identity, holder: Holder, now: u64) -> Result<(), StateError> {
        let path = self.path(&State::pem_of(&holder));
        let staged = whole_file::stage(&path, identity.pem().as_bytes()).map_err(file_error(&path))?;
        let record =
            Record { serial: identity.serial, holder, issued: now, not_after: identity.not_after, revoked: None };
        self.index.push(record);
        self.save_index()?;
        staged.commit().map_err(file_error(&path))
    }

    pub(super) fn save_index(&self) -> Result<(), StateError> {
        self.write("index.json", self.index.to_text().as_bytes()).map(drop)
    }

    /// Completes what a killed process began: certificates that wait for their name, and a revocation list that is behind
    /// the index.
    fn recover(&mut self, now: u64) -> Result<(), StateError> {
        let mut waiting = vec![(Holder::Server, whole_file::staged_name(&self.path("server.pem")))];
        let clients = self.path("clients");
        for entry in std::fs::read_dir(&clients).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".pem.staged")?.parse().ok());
            if let Some(name) = name {
                waiting.push((Holder::Client(name), entry.path()));
            }
        }
        for (holder, staged) in waiting {
            self.finish(&holder, &staged)?;
        }
        self.catch_up(now)
    }

    /// A certificate that is in the index gets its name; one that is not was never to be seen.
    fn finish(&self, holder: &Holder, staged: &Path) -> Result<(), StateError> {
        let Some(content) = whole_file::read(staged).map_err(file_error(staged))?.map(Zeroizing::new) else {
            return Ok(());
        };
        let facts = std::str::from_utf8(&content).ok().and_then(|text| pki::certificate_facts(text).ok());
        let serial = facts.and_then(|facts| facts.serial);
        let path = self.path(&State::pem_of(holder));
        let done = match self.index.newest(holder) {
            Some(record) if Some(record.serial) == serial && record.revoked.is_none() => {
                whole_file::write(&path, &content).and_then(|()| whole_file::remove(staged))
            }
            _ => whole_file::remove(staged),
        };
        done.map_err(file_error(staged))
    }

    /// Signs the revocation list where the index knows of a revocation that it lacks.
    fn catch_up(&mut self, now: u64) -> Result<(), StateError> {
        if !self.path("crl.pem").exists() || !self.path("ca.key").exists() {
            return Ok(());
        }
        let listed = self.crl()?.revoked;
        if self.index.revoked(now).iter().any(|entry| listed.binary_search(&entry.serial).is_err()) {
            self.sign_crl(now)?;
        }
        Ok(())
    }
}

/// Deletes a state directory with everything in it, the authority's key included. It is locked first, so that nobody is
/// writing it.
///
/// # Errors
/// As [`State::open`]; what the file system answers.
pub fn purge(directory: &Path, name: &GatewayName, now: u64) -> Result<(), StateError> {
    let state = State::open(directory, name, now)?;
    std::fs::remove_dir_all(directory).map_err(file_error(directory))?;
    drop(state);
    Ok(())
}

/// Whether there is a gateway in this directory.
///
/// # Errors
/// [`StateError::File`]: who may not look does not know.
pub(super) fn is_there(directory: &Path) -> Result<bool, StateError> {
    // The index is the last thing without which nothing works, and the first that is written.
    let index = directory.join("index.json");
    index.try_exists().map_err(file_error(&index))
}

/// There is no gateway in this directory.
pub(super) fn missing(directory: &Path, name: &GatewayName) -> StateError {
    StateError::Missing(directory.to_owned(), Suggestions::of(name, directory))
}

fn whose(owner: u32) -> String {
    match owner {
        0 => "root: run it as root (sudo)".to_owned(),
        other => format!("another user (uid {other}): run it as that user"),
    }
}

/// The directory is ours, and nobody else's to read.
fn guard(directory: &Path) -> Result<(), StateError> {
    let metadata = std::fs::symlink_metadata(directory).map_err(file_error(directory))?;
    if !metadata.is_dir() {
        return Err(file_error(directory)(io::ErrorKind::NotADirectory.into()));
    }
    let us = rustix::process::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(StateError::Foreign { path: directory.to_owned(), owner: metadata.uid() });
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(file_error(directory))?;
    }
    Ok(())
}

pub(super) fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StateError + '_ {
    move |source| StateError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;

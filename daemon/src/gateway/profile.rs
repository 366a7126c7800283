//! A client's profile: one file with everything in it, for stock OpenVPN from 2.4 on, for NetworkManager's import, and for
//! `minivpn connect`. Its text, and writing it where the user wants it without destroying what is there.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::names::ClientName;
use super::server_conf::DATA_CIPHERS;
use super::settings::Settings;
use super::state::{State, StateError};
use super::whole_file;
use crate::exit::{Exit, Fatal, permitted};

/// The first words of every profile of ours: what tells it from a file that must not be overwritten.
const MARK: &str = "# minivpn profile of ";
/// Where a key begins in a file that holds the certificate as well.
const KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// Where a profile goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    Output,
    /// A file.
    File(PathBuf),
}

/// What became of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was printed.
    Printed,
    /// The file was written.
    Written(PathBuf),
    /// The file was there, word for word.
    AlreadyThere(PathBuf),
}

impl fmt::Display for Placed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Placed::Printed => f.write_str("standard output"),
            Placed::Written(path) => write!(f, "{}", path.display()),
            Placed::AlreadyThere(path) => write!(f, "{} (unchanged)", path.display()),
        }
    }
}

/// Why a profile was not written.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Its parts could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file of that name is something else.
    #[error("{} is there and is not a profile of {name}: move it away, or name another file", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
        /// Whose profile it should become.
        name: ClientName,
    },
    /// It would be in a directory that there is not.
    #[error("the directory {} is not there: make it, or name another file", .0.display())]
    NoDirectory(PathBuf),
    /// It could not be written.
    #[error("{}: {source}{}", path.display(), permitted(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<ProfileError> for Fatal {
    fn from(error: ProfileError) -> Fatal {
        match error {
            ProfileError::State(error) => error.into(),
            ProfileError::Occupied { .. } | ProfileError::NoDirectory(_) => Fatal::new(Exit::Config, error.to_string()),
            ProfileError::Write { ref source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Fatal::new(Exit::Privilege, error.to_string())
            }
            ProfileError::Write { .. } => Fatal::new(Exit::Other, error.to_string()),
        }
    }
}

impl Destination {
    /// `-` is standard output, nothing is `NAME.ovpn` in this directory.
    pub fn new(given: Option<&Path>, name: &ClientName, directory: &Path) -> Destination {
        match given {
            Some(path) if path == Path::new("-") => Destination::Output,
            Some(path) => Destination::File(path.to_owned()),
            None => Destination::File(directory.join(format!("{name}.ovpn"))),
        }
    }
}

/// The profile of a client whose key is kept here.
///
/// # Errors
/// As [`State::client_pem`].
pub fn text(state: &State, settings: &Settings, name: &ClientName) -> Result<Zeroizing<String>, StateError> {
    let identity = state.client_pem(name)?;
    let (certificate, key) = identity.split_at(identity.find(KEY).unwrap_or(identity.len()));
    let (ca, wrap) = (state.text("ca.crt")?, state.text("tls-crypt.key")?);
    let parts = Parts {
        name,
        gateway: state.name().as_str(),
        server: &state.server_name(),
        ca: &ca,
        certificate,
        key,
        wrap: &wrap,
    };
    Ok(parts.profile(settings))
}

struct Parts<'a> {
    name: &'a ClientName,
    gateway: &'a str,
    server: &'a str,
    ca: &'a str,
    certificate: &'a str,
    key: &'a str,
    wrap: &'a str,
}

impl Parts<'_> {
    fn profile(&self, settings: &Settings) -> Zeroizing<String> {
        let Parts { name, gateway, server, ca, certificate, key, wrap } = self;
        let (endpoint, port) = (&settings.endpoint, settings.port);
        // OpenVPN 2.4 knows `data-ciphers` by another name, and agrees on the same ciphers without it.
        Zeroizing::new(format!(
            "{MARK}{name} at gateway {gateway}. It holds the key: whoever has this file is {name}.\n\
             client\n\
             dev tun\n\
             proto udp\n\
             remote {endpoint} {port}\n\
             resolv-retry infinite\n\
             nobind\n\
             persist-key\n\
             persist-tun\n\
             remote-cert-tls server\n\
             verify-x509-name {server} name\n\
             tls-version-min 1.2\n\
             ignore-unknown-option data-ciphers\n\
             data-ciphers {DATA_CIPHERS}\n\
             verb 3\n\
             <ca>\n{ca}</ca>\n\
             <cert>\n{certificate}</cert>\n\
             <key>\n{key}</key>\n\
             <tls-crypt>\n{wrap}</tls-crypt>\n"
        ))
    }
}

/// Writes a profile (0600). A file of that name is overwritten only if it is a profile of the same client. Under sudo, in a
/// directory of the user who called it, the file is that user's.
///
/// # Errors
/// [`ProfileError::Occupied`], [`ProfileError::Write`].
pub fn place(text: &str, name: &ClientName, destination: &Destination) -> Result<Placed, ProfileError> {
    let path = match destination {
        Destination::Output => {
            let mut out = io::stdout().lock();
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            let path = PathBuf::from("standard output");
            return written.map(|()| Placed::Printed).map_err(|source| ProfileError::Write { path, source });
        }
        Destination::File(path) => path,
    };
    let there = replaceable(path, name, Some(text.as_bytes()))?;
    if there.is_some_and(|there| there.as_slice() == text.as_bytes()) {
        return Ok(Placed::AlreadyThere(path.clone()));
    }
    let failed = |source| ProfileError::Write { path: path.clone(), source };
    whole_file::write_for(path, text.as_bytes(), caller(path)).map_err(failed)?;
    Ok(Placed::Written(path.clone()))
}

/// Whether a profile of this client could be written there: what is asked before a certificate is issued. Nothing is left behind.
///
/// # Errors
/// As [`place`].
pub fn check(name: &ClientName, destination: &Destination) -> Result<(), ProfileError> {
    let Destination::File(path) = destination else { return Ok(()) };
    replaceable(path, name, None)?;
    whole_file::try_to_write(path).map_err(|source| ProfileError::Write { path: path.clone(), source })
}

/// What is there already: nothing, the same text, or a profile of the same client.
fn replaceable(
    path: &Path,
    name: &ClientName,
    text: Option<&[u8]>,
) -> Result<Option<Zeroizing<Vec<u8>>>, ProfileError> {
    let there = whole_file::read(path).map_err(|source| ProfileError::Write { path: path.to_owned(), source })?;
    let directory = directory_of(path);
    if there.is_none() && matches!(directory.try_exists(), Ok(false)) {
        return Err(ProfileError::NoDirectory(directory.to_owned()));
    }
    let there = there.map(Zeroizing::new);
    let mark = format!("{MARK}{name} ");
    let fits = |there: &Zeroizing<Vec<u8>>| Some(there.as_slice()) == text || there.starts_with(mark.as_bytes());
    match there.as_ref().is_none_or(fits) {
        true => Ok(there),
        false => Err(ProfileError::Occupied { path: path.to_owned(), name: name.clone() }),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Who called sudo, if the file's directory is theirs: user and group.
fn caller(path: &Path) -> Option<(u32, u32)> {
    let id = |variable: &str| std::env::var(variable).ok()?.parse::<u32>().ok();
    let (user, group) = (id("SUDO_UID")?, id("SUDO_GID")?);
    (std::fs::metadata(directory_of(path)).ok()?.uid() == user).then_some((user, group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{Folder, gateway, settings};
    use std::os::unix::fs::PermissionsExt;

    fn alice() -> ClientName {
        "alice".parse().unwrap()
    }

    #[test]
    fn a_profile_holds_everything_and_our_client_takes_it() {
        let folder = Folder::new();
        let mut state = gateway(folder.path());
        state.add_client(&alice(), 10, crate::clock::now().unix, &mut controlplane::SystemRandom).unwrap();
        let text = text(&state, &settings(), &alice()).unwrap();
        for part in [
            "<ca>\n-----BEGIN CERTIFICATE",
            "<cert>\n-----BEGIN CERTIFICATE",
            "<key>\n-----BEGIN PRIVATE KEY",
            "<tls-crypt>\n-----BEGIN OpenVPN",
        ] {
            assert_eq!(text.matches(part).count(), 1, "{part}");
        }
        assert_eq!(text.matches("-----BEGIN").count(), 4);
        assert!(
            text.contains("remote vpn.example.com 1194\n") && text.contains("verify-x509-name minivpn-default name\n")
        );
        let path = folder.path().join("alice.ovpn");
        place(&text, &alice(), &Destination::File(path.clone())).unwrap();
        let problems = crate::config::lint(&path);
        assert!(problems.iter().all(|problem| !problem.is_error()), "{problems:?}");
        let (profile, _) = crate::config::load(&path).unwrap();
        assert_eq!(crate::client::unusable(&profile), Vec::<String>::new());
    }

    #[test]
    fn a_profile_is_written_once_and_replaces_only_its_like() {
        let folder = Folder::new();
        let path = folder.path().join("alice.ovpn");
        let to = Destination::File(path.clone());
        let (one, two) = (format!("{MARK}alice at one"), format!("{MARK}alice at two"));
        assert_eq!(place(&one, &alice(), &to).unwrap(), Placed::Written(path.clone()));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(place(&one, &alice(), &to).unwrap(), Placed::AlreadyThere(path.clone()));
        assert_eq!(place(&two, &alice(), &to).unwrap(), Placed::Written(path.clone()));
        for other in ["# my own file", "# minivpn profile of alice2 at one", ""] {
            std::fs::write(&path, other).unwrap();
            assert!(matches!(place(&one, &alice(), &to), Err(ProfileError::Occupied { .. })), "{other}");
            assert_eq!(std::fs::read(&path).unwrap(), other.as_bytes());
        }
    }

    #[test]
    fn what_could_not_be_written_is_known_before_and_nothing_is_left_by_looking() {
        let folder = Folder::new();
        let to = |name: &str| Destination::File(folder.path().join(name));
        check(&alice(), &to("alice.ovpn")).unwrap();
        check(&alice(), &Destination::Output).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let missing = check(&alice(), &to("none/alice.ovpn")).unwrap_err();
        assert!(
            matches!(&missing, ProfileError::NoDirectory(path) if *path == folder.path().join("none")),
            "{missing}"
        );
        std::fs::create_dir(folder.path().join("directory")).unwrap();
        assert!(matches!(check(&alice(), &to("directory")), Err(ProfileError::Write { .. })));
        // A full or read-only file system looks the same: no file can be made in /proc, by nobody.
        assert!(matches!(
            check(&alice(), &Destination::File("/proc/alice.ovpn".into())),
            Err(ProfileError::Write { .. })
        ));
        for (content, good) in [(&b"# mine"[..], false), (b"", false), (b"# minivpn profile of alice at one", true)] {
            std::fs::write(folder.path().join("there"), content).unwrap();
            let checked = check(&alice(), &to("there"));
            assert_eq!(checked.is_ok(), good, "{checked:?}");
            assert_eq!(std::fs::read(folder.path().join("there")).unwrap(), content);
        }
    }

    #[test]
    fn a_profile_goes_where_it_was_asked_to() {
        let to = |given: Option<&str>| Destination::new(given.map(Path::new), &alice(), Path::new("/here"));
        assert_eq!(to(None), Destination::File("/here/alice.ovpn".into()));
        assert_eq!(to(Some("-")), Destination::Output);
        assert_eq!(to(Some("x.ovpn")), Destination::File("x.ovpn".into()));
    }
}

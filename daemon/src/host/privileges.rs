//! What the daemon may do: whether it can have a TUN device and change routes, with the command that fixes it where it
//! cannot; and how it gives up being root.

use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys;

/// The TUN driver's device.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// What is missing. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// The device node does not exist.
    #[error(
        "{} does not exist. In a container: start it with --device /dev/net/tun --cap-add NET_ADMIN. On a host: \
         modprobe tun, or mkdir -p /dev/net && mknod /dev/net/tun c 10 200 && chmod 666 /dev/net/tun",
        path.display()
    )]
    TunMissing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The node is there, the driver is not.
    #[error("{} has no driver: load it on the host with modprobe tun", path.display())]
    TunWithoutDriver {
        /// The device.
        path: PathBuf,
    },
    /// The device may not be opened.
    #[error(
        "{} cannot be opened: {source}. In a container: start it with --device /dev/net/tun --cap-add NET_ADMIN. On a \
         host: run as root (sudo), or chmod 666 {}",
        path.display(), path.display()
    )]
    TunRefused {
        /// The device.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// CAP_NET_ADMIN is not effective.
    #[error(
        "the capability CAP_NET_ADMIN is missing. Run with sudo; or once: sudo setcap cap_net_admin+ep {}; in a \
         container: --cap-add NET_ADMIN",
        executable.display()
    )]
    NoNetAdmin {
        /// This program, for setcap.
        executable: PathBuf,
    },
    /// `user` names nobody.
    #[error("user {0}: there is no such user on this system (create it with useradd --system {0})")]
    NoSuchUser(String),
    /// `group` names nothing.
    #[error("group {0}: there is no such group on this system (create it with groupadd --system {0})")]
    NoSuchGroup(String),
    /// Other threads would keep root's rights.
    #[error("cannot drop privileges: {0} threads run already, and capabilities belong to threads")]
    TooLate(usize),
    /// The kernel refused.
    #[error("cannot become user {user}: {source}")]
    Refused {
        /// The user.
        user: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Checks that the TUN device can be opened and CAP_NET_ADMIN is effective, so that a start fails before it has changed
/// anything.
///
/// # Errors
/// The first of the two that is missing, with what to do about it.
pub fn check() -> Result<(), PrivilegeError> {
    check_tun(Path::new(TUN_DEVICE))?;
    check_net_admin()
}

/// Whether this TUN device exists and opens.
///
/// # Errors
/// [`PrivilegeError`], by what open(2) answered.
pub fn check_tun(path: &Path) -> Result<(), PrivilegeError> {
    let path_buf = || path.to_owned();
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => PrivilegeError::TunMissing { path: path_buf() },
            Some(libc::ENODEV | libc::ENXIO) => PrivilegeError::TunWithoutDriver { path: path_buf() },
            _ => PrivilegeError::TunRefused { path: path_buf(), source: error },
        }),
    }
}

/// Whether this thread may change links, addresses and routes.
///
/// # Errors
/// [`PrivilegeError::NoNetAdmin`]
pub fn check_net_admin() -> Result<(), PrivilegeError> {
    if has(Capability::CAP_NET_ADMIN) {
        return Ok(());
    }
    let executable = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("minivpn"));
    Err(PrivilegeError::NoNetAdmin { executable })
}

/// Makes every capability that this process may have effective. An image's executable has its file capabilities permitted only: marked
/// effective, they would keep it from being started at all where a container is not given them, and nobody would say why.
///
/// To be called while there is one thread. A process that has them already, or may have none, is left as it is.
pub fn raise_permitted() {
    let Ok(mut sets) = rustix::thread::capabilities(None) else { return };
    if sets.effective != sets.permitted {
        sets.effective = sets.permitted;
        // What is missing then is found by `check`, which says what to do.
        let _ = rustix::thread::set_capabilities(None, sets);
    }
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// Who to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// For messages.
    pub user: String,
    /// The user id.
    pub uid: u32,
    /// The group id; there will be no other groups.
    pub gid: u32,
}

/// Looks up `user` and `group`, names or numbers. Without a group it is the user's own; without a user, the present one.
///
/// # Errors
/// [`PrivilegeError::NoSuchUser`] and [`PrivilegeError::NoSuchGroup`].
pub fn identity(user: Option<&str>, group: Option<&str>) -> Result<Identity, PrivilegeError> {
    let (name, uid, own_group) = match user {
        Some(name) => {
            let found = sys::user_named(name).ok().flatten().or_else(|| name.parse().ok().map(|uid| (uid, uid)));
            let (uid, gid) = found.ok_or_else(|| PrivilegeError::NoSuchUser(name.to_owned()))?;
            (name.to_owned(), uid, gid)
        }
        None => {
            let uid = rustix::process::geteuid().as_raw();
            (uid.to_string(), uid, rustix::process::getegid().as_raw())
        }
    };
    let gid = match group {
        Some(group) => {
            let found = sys::group_named(group).ok().flatten().or_else(|| group.parse().ok());
            found.ok_or_else(|| PrivilegeError::NoSuchGroup(group.to_owned()))?
        }
        None => own_group,
    };
    Ok(Identity { user: name, uid, gid })
}

/// What a privilege beyond CAP_NET_ADMIN is needed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// CAP_NET_BIND_SERVICE: sockets will be bound to a local port below 1024.
    pub low_ports: bool,
    /// CAP_NET_RAW: sockets will be bound to an interface (`bind-dev`).
    pub raw: bool,
    /// CAP_SYS_NICE: a worker will run under SCHED_FIFO.
    pub nice: bool,
}

/// Becomes another user, keeping CAP_NET_ADMIN and what is asked for: the TUN device and the routes are made and removed
/// later. Nothing is inherited by programs that are started.
///
/// Capabilities belong to threads: this is to be called while there is one, before the runtime and the workers start
/// (threads of io_uring count), and after files that only root can read were read and the journal's directory was handed
/// over ([`super::journal::hand_over`]).
///
/// # Errors
/// [`PrivilegeError::TooLate`] with several threads, [`PrivilegeError::Refused`] when the kernel refuses; the process may
/// then be half-way and must end.
pub fn drop_to(identity: &Identity, keep: Keep) -> Result<(), PrivilegeError> {
    let refused = |source| PrivilegeError::Refused { user: identity.user.clone(), source };
    let threads = std::fs::read_dir("/proc/self/task").map_err(refused)?.count();
    if threads != 1 {
        return Err(PrivilegeError::TooLate(threads));
    }
    become_user(identity, keep).map_err(refused)
}

fn become_user(identity: &Identity, keep: Keep) -> io::Result<()> {
    let mut kept = CapabilitySet::NET_ADMIN;
    kept.set(CapabilitySet::NET_BIND_SERVICE, keep.low_ports);
    kept.set(CapabilitySet::NET_RAW, keep.raw);
    kept.set(CapabilitySet::SYS_NICE, keep.nice);
    rustix::thread::set_keep_capabilities(true)?;
    sys::set_ids(identity.uid, identity.gid)?;
    rustix::thread::set_keep_capabilities(false)?;
    rustix::thread::clear_ambient_capability_set()?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named_with_the_commands_that_make_it() {
        let text = check_tun(Path::new("/nonexistent/net/tun")).unwrap_err().to_string();
        for part in
            ["/nonexistent/net/tun", "mknod /dev/net/tun c 10 200", "--device /dev/net/tun", "--cap-add NET_ADMIN"]
        {
            assert!(text.contains(part), "{part} in: {text}");
        }
    }

    #[test]
    fn what_is_not_a_device_is_refused() {
        let error = check_tun(Path::new("/")).unwrap_err();
        assert!(matches!(error, PrivilegeError::TunRefused { .. }), "{error}");
    }

    #[test]
    fn a_device_that_opens_is_fine() {
        check_tun(Path::new("/dev/null")).unwrap();
    }

    #[test]
    fn identities_are_names_or_numbers() {
        let root = Identity { user: "root".to_owned(), uid: 0, gid: 0 };
        assert_eq!(identity(Some("root"), None).unwrap(), root);
        let numbered = identity(Some("12345"), Some("54321")).unwrap();
        assert_eq!((numbered.uid, numbered.gid), (12_345, 54_321));
        let own_group = identity(Some("12345"), None).unwrap();
        assert_eq!((own_group.uid, own_group.gid), (12_345, 12_345));
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(matches!(identity(Some("no-such-user"), None), Err(PrivilegeError::NoSuchUser(_))));
        assert!(matches!(identity(Some("root"), Some("no-such-group")), Err(PrivilegeError::NoSuchGroup(_))));
    }

    #[test]
    fn what_is_permitted_becomes_effective() {
        let net_admin = || caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        assert!(net_admin(), "tests run as root");
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        assert!(!net_admin() && check_net_admin().is_err());
        raise_permitted();
        assert!(net_admin() && check_net_admin().is_ok());
    }

    #[test]
    fn dropping_with_threads_is_refused() {
        // The test harness runs this in a thread of its own.
        let root = identity(Some("root"), None).unwrap();
        assert!(matches!(drop_to(&root, Keep::default()), Err(PrivilegeError::TooLate(_))));
    }
}

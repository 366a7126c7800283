//! The daemon's only room for `unsafe`: inherited descriptors, system calls that no safe wrapper covers, the user
//! database. Each function is safe to call and says why. Nothing here decides anything.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The word after the program's name that makes this executable the control process.
pub const CONTROL_PROCESS: &str = "control-process";

/// Takes the descriptors 3, 4, … that the supervisor gave to this control process, `count` of them. Once in a process.
///
/// # Errors
/// In a process that is not a control process, on the second call, with more than 1,024, and when one is not open.
pub fn take_inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    if std::env::args_os().nth(1).is_none_or(|word| word != CONTROL_PROCESS) {
        return Err(refused("only a control process inherits descriptors"));
    }
    let end = RawFd::try_from(count).ok().filter(|count| *count <= 1_024).and_then(|count| count.checked_add(3));
    let end = end.ok_or_else(|| refused("too many descriptors"))?;
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(refused("the inherited descriptors were taken already"));
    }
    if let Some(missing) = (3..end).find(|number| !is_open(*number)) {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("descriptor {missing} was not inherited")));
    }
    // SAFETY: the numbers are open (checked above) and owned by nobody else: the program word says that the supervisor
    // mapped exactly these numbers, the process opens nothing before this call (it is the first thing it does), and the
    // flag above lets only one call in the process's life come here.
    Ok((3..end).map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

/// Whether this number is an open descriptor.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing; a number that is not open is answered by EBADF.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Closes every descriptor from this number up: what the supervisor had open and did not mark close-on-exec.
///
/// To be called in a control process before it opens anything of its own, with a number above the inherited ones.
///
/// # Errors
/// In a process that is not a control process; what close_range(2) answers.
pub fn close_from(first: RawFd) -> io::Result<()> {
    let is_control = std::env::args_os().nth(1).is_some_and(|word| word == CONTROL_PROCESS);
    let (Ok(first), true) = (libc::c_uint::try_from(first), is_control) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: close_range takes three integers. In a control process that has opened nothing, no Rust value owns a
    // number above the inherited ones, so none is closed under its owner.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Registers a descriptor with the runtime, to be told when it can be read.
///
/// # Errors
/// What epoll_ctl(2) answers: EPERM for regular files.
///
/// # Panics
/// Outside a tokio runtime with I/O.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor as long as it lives, and the `AsyncFd` owns it and gives it
    // back only by value, after it has left the runtime's poll set.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Leaves namespaces (unshare(2)) with the calling thread. `FILES` is refused: descriptors stay shared.
///
/// # Errors
/// `InvalidInput` for `FILES`; else the kernel's answer, EPERM without CAP_SYS_ADMIN.
pub fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: only FILES lets one thread use descriptor numbers that mean something else in another, and it is refused.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// Ignores a signal from now on, in the whole process.
///
/// # Errors
/// EINVAL for SIGKILL, SIGSTOP and numbers that are no signals.
pub fn ignore_signal(signal: rustix::process::Signal) -> io::Result<()> {
    // SAFETY: SIG_IGN is a valid disposition and runs no code of ours; signal(2) takes no pointer besides.
    match unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Becomes this user and group, with no other groups, in all threads of the process, for good.
///
/// # Errors
/// EPERM without CAP_SETUID and CAP_SETGID, EINVAL for ids that the user namespace does not map.
pub fn set_ids(uid: u32, gid: u32) -> io::Result<()> {
    let groups = [gid];
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: `groups` is an array of one gid_t that lives through the call, and 1 is its length.
    check(unsafe { libc::setgroups(1, groups.as_ptr()) })?;
    // SAFETY: three integers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: three integers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// A user's id and primary group id, from the system's user database; `None` when there is no such user.
///
/// # Errors
/// `InvalidInput` for a name with a NUL byte; what the database answers.
pub fn user_named(name: &str) -> io::Result<Option<(u32, u32)>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        // SAFETY: all zeroes is a valid `passwd`: integers and null pointers.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: `name` is a C string, `entry` and `found` are exclusive borrows that live through the call, and the
        // buffer's length is its own.
        let error = unsafe {
            libc::getpwnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found)
        };
        (error, (!found.is_null()).then_some((entry.pw_uid, entry.pw_gid)))
    })
}

/// A group's id, from the system's group database; `None` when there is no such group.
///
/// # Errors
/// `InvalidInput` for a name with a NUL byte; what the database answers.
pub fn group_named(name: &str) -> io::Result<Option<u32>> {
    let name = CString::new(name)?;
    look_up(|buffer| {
        // SAFETY: all zeroes is a valid `group`: an integer and null pointers.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: as in `user_named`.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), &raw mut entry, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut found)
        };
        (error, (!found.is_null()).then_some(entry.gr_gid))
    })
}

/// Asks with a growing buffer; a group of many members may need it. At most 1 MiB.
fn look_up<T>(mut ask: impl FnMut(&mut [u8]) -> (libc::c_int, Option<T>)) -> io::Result<Option<T>> {
    let mut size = 4_096;
    loop {
        match ask(&mut vec![0; size]) {
            (0, found) => return Ok(found),
            (libc::ERANGE, _) if size < 1 << 20 => size *= 4,
            // The database says "not there" in several ways (getpwnam(3)).
            (libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM, _) => return Ok(None),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs before `main` in every start of the test executable: a start that is meant as a control process becomes the
    /// test child of `sandbox`, instead of running all tests again.
    // SAFETY: the C runtime calls each entry of .init_array once, with (argc, argv, envp), which a function without
    // parameters may ignore in the C calling convention.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static BEFORE_MAIN: extern "C" fn() = before_main;

    extern "C" fn before_main() {
        let mut words = std::env::args_os().skip(1);
        match words.next() {
            Some(word) if word == CONTROL_PROCESS => crate::sandbox::tests::child(),
            Some(word) if word == "test-child" => crate::host::tests::child(words),
            _ => {}
        }
    }

    fn map(protection: libc::c_int, flags: libc::c_int, fd: RawFd) -> io::Result<*mut libc::c_void> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), 4_096, protection, flags, fd, 0) };
        if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address) }
    }

    /// Maps anonymous memory with PROT_EXEC.
    pub(crate) fn map_code() -> io::Result<()> {
        map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1).map(drop)
    }

    /// Gives PROT_EXEC to memory that is mapped already.
    pub(crate) fn make_code() -> io::Result<()> {
        let page = map(libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // SAFETY: the page is this function's own.
        match unsafe { libc::mprotect(page, 4_096, libc::PROT_READ | libc::PROT_EXEC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Maps a descriptor.
    pub(crate) fn map_file(fd: &OwnedFd) -> io::Result<()> {
        map(libc::PROT_READ, libc::MAP_PRIVATE, std::os::fd::AsRawFd::as_raw_fd(fd)).map(drop)
    }

    #[test]
    fn root_is_in_both_databases() {
        assert_eq!(user_named("root").unwrap(), Some((0, 0)));
        assert_eq!(group_named("root").unwrap(), Some(0));
    }

    #[test]
    fn an_unknown_name_is_nobody() {
        assert_eq!(user_named("no-such-user-here").unwrap(), None);
        assert_eq!(group_named("no-such-group-here").unwrap(), None);
        assert!(user_named("a\0b").is_err());
    }

    #[test]
    fn descriptors_are_taken_by_control_processes_only() {
        assert!(take_inherited(1).is_err());
        assert!(close_from(3).is_err());
        assert!(unshare(UnshareFlags::FILES | UnshareFlags::NEWNET).is_err());
    }

    #[test]
    fn open_is_told_from_closed() {
        assert!(is_open(2));
        assert!(!is_open(-1));
    }
}

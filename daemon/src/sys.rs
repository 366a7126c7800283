//! The daemon's only room for `unsafe`: inherited descriptors, system calls that no safe wrapper covers, the user
//! database. Each function is safe to call and says why. Nothing here decides anything.

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
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

/// Watches a descriptor of several owners for both directions.
///
/// # Errors
/// What epoll_ctl(2) answers.
///
/// # Panics
/// Outside a tokio runtime with I/O.
pub fn both_ways(fd: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // SAFETY: as above; none of the other owners of an `Arc` can take the descriptor out of it while the `AsyncFd` holds its share.
    unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)
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

/// Has the kernel kill a child when the *thread* that starts it ends (PR_SET_PDEATHSIG in prctl(2)).
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call with two integers: it takes no lock, allocates
    // nothing, and touches no memory of other threads.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_stop(_signal: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// A flag that becomes true at the first SIGINT, SIGTERM or SIGHUP. A second signal of the same kind has its default
/// action: it ends the process.
///
/// # Errors
/// What sigaction(2) answers.
pub fn stop_flag() -> io::Result<&'static AtomicBool> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zeroes is a valid `sigaction`: no handler, an empty mask, no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note_stop as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART | libc::SA_RESETHAND;
        // SAFETY: the handler has the signature of a handler without SA_SIGINFO and only stores to an atomic, which is
        // async-signal-safe; `action` lives through the call, and the old action is not asked for.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(&STOP)
}

/// Some of what the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Segments sent again since the connection began.
    pub retransmits: u64,
    /// The largest payload of a segment that is sent, in bytes.
    pub segment: u64,
}

/// Asks the kernel about a TCP connection (TCP_INFO in tcp(7)).
///
/// # Errors
/// ENOPROTOOPT or EOPNOTSUPP for what is no TCP socket.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // SAFETY: all zeroes is a valid `tcp_info`: integers alone.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has that size and lives through the call; the
    // descriptor is open because it is borrowed.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut len)
    };
    match answer {
        0 => Ok(TcpInfo { retransmits: info.tcpi_total_retrans.into(), segment: info.tcpi_snd_mss.into() }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Datagrams that one call sends or takes at most.
pub const MANY: usize = 64;

/// Sends the first [`MANY`] of these datagrams on a connected socket in one call (sendmmsg(2)); returns how many went.
///
/// # Errors
/// What the kernel answers to the first of them.
pub fn send_many<'a>(socket: BorrowedFd<'_>, datagrams: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
    // SAFETY: all zeroes is a valid `iovec`, `msghdr` and `mmsghdr`: integers and null pointers.
    let (mut parts, mut messages): ([libc::iovec; MANY], [libc::mmsghdr; MANY]) = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for ((message, part), datagram) in messages.iter_mut().zip(&mut parts).zip(datagrams) {
        count += 1;
        *part = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: the first `count` messages each name one part, and each part the bytes of one datagram, borrowed for `'a`,
    // which outlives this function; `parts` and `messages` live through the call, and sendmmsg only reads the bytes. No
    // address and no control data is named.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as libc::c_uint, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Room for control data that holds one UDP_GRO message, aligned as `cmsghdr` asks.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlRoom([u8; 64]);

/// Waits for one datagram (as long as SO_RCVTIMEO says) and takes what else is there, into the first [`MANY`] buffers, in
/// one call (recvmmsg(2)). Calls `each` with the bytes and the size of the segments that the kernel joined (UDP_GRO),
/// which is the length where it joined none. Returns the number of calls.
///
/// # Errors
/// EAGAIN when nothing came in time; what else the kernel answers.
pub fn receive_many(
    socket: BorrowedFd<'_>,
    buffers: &mut [Vec<u8>],
    mut each: impl FnMut(&[u8], usize),
) -> io::Result<usize> {
    // SAFETY: as in `send_many`.
    let (mut parts, mut messages): ([libc::iovec; MANY], [libc::mmsghdr; MANY]) = unsafe { std::mem::zeroed() };
    let mut controls = [ControlRoom([0; 64]); MANY];
    let count = buffers.len().min(MANY);
    for (((message, part), buffer), control) in
        messages.iter_mut().zip(&mut parts).zip(buffers.iter_mut()).zip(&mut controls)
    {
        *part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        message.msg_hdr.msg_controllen = size_of::<ControlRoom>() as _;
    }
    // SAFETY: the first `count` messages each name one part (a buffer, exclusively borrowed, with its length) and one
    // control room with its size; all of them live through the call. A null timeout means none.
    let taken = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_WAITFORONE as _,
            std::ptr::null_mut(),
        )
    };
    let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
    for (message, buffer) in messages.iter().take(taken).zip(buffers.iter()) {
        let bytes = buffer.get(..message.msg_len as usize).unwrap_or_default();
        each(bytes, segment_size(&message.msg_hdr).unwrap_or(bytes.len()));
    }
    Ok(taken)
}

/// The segment size in a message's control data, if UDP_GRO put one there. The header must be one that the kernel has
/// just filled, with its control room still alive.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: CMSG_FIRSTHDR reads the header's control pointer and length; only `receive_many` calls this, whose control
    // rooms are alive, and the length is what the kernel wrote, no more than the room.
    let control = unsafe { libc::CMSG_FIRSTHDR(header) };
    if control.is_null() {
        return None;
    }
    // SAFETY: CMSG_FIRSTHDR answers null unless a whole `cmsghdr` lies in the room, which is aligned for it.
    let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
    if (level, kind) != (libc::SOL_UDP, libc::UDP_GRO) {
        return None;
    }
    // SAFETY: the data of a UDP_GRO message is one int (udp(7)), within the 64-byte room; it is read without alignment.
    let size = unsafe { libc::CMSG_DATA(control).cast::<libc::c_int>().read_unaligned() };
    usize::try_from(size).ok().filter(|size| *size > 0)
}

/// Lets the kernel cut what is sent on a UDP socket into datagrams of this many bytes (UDP_SEGMENT in udp(7)); 0 sends
/// everything whole.
///
/// # Errors
/// ENOPROTOOPT before Linux 4.18 and for what is no UDP socket.
pub fn segment_sends(socket: BorrowedFd<'_>, size: u16) -> io::Result<()> {
    if set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, size.into()) {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// Sets an option of a socket whose value is an int; whether the kernel took it.
fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> bool {
    // SAFETY: the kernel reads the bytes of one int, which lives through the call; the descriptor is open because it is
    // borrowed.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        ) == 0
    }
}

/// Lets a UDP socket take whole trains (UDP_GRO) and gives it a receive buffer of this many bytes, beyond the system's
/// limit where allowed. What the kernel does not grant is left as it was.
pub fn widen_receiver(socket: BorrowedFd<'_>, bytes: i32) {
    let set = |level, name, value| set_option(socket, level, name, value);
    set(libc::SOL_UDP, libc::UDP_GRO, 1);
    let _ = set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes) || set(libc::SOL_SOCKET, libc::SO_RCVBUF, bytes);
}

/// A moment (seconds since 1970) by the local calendar: year, month, day, hour, minute, second (localtime_r(3)). `None`
/// for one that no calendar has.
pub fn local_time(unix: u64) -> Option<[i32; 6]> {
    let seconds = libc::time_t::try_from(unix).ok()?;
    // SAFETY: all zeroes is a valid `tm`: integers and a pointer that may be null.
    let mut calendar: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of this function that live through the call, one of them exclusively borrowed.
    // The C library reads TZ without a lock against setenv; nothing in this program sets an environment variable once a
    // second thread runs.
    let filled = unsafe { libc::localtime_r(&raw const seconds, &raw mut calendar) };
    if filled.is_null() {
        return None;
    }
    let year = calendar.tm_year.checked_add(1_900)?;
    Some([year, calendar.tm_mon + 1, calendar.tm_mday, calendar.tm_hour, calendar.tm_min, calendar.tm_sec])
}

/// Commands and sizes of linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;
/// More features than any kernel has: what is above was not a feature list.
const MOST_FEATURES: usize = 1_024;

/// Switches a feature of a network interface on or off, by the name that ethtool(8) shows (`tx-udp-segmentation`).
///
/// # Errors
/// `NotFound` when the kernel has no such feature; EPERM without CAP_NET_ADMIN; ENODEV without such an interface.
pub fn set_device_feature(interface: &str, feature: &str, on: bool) -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // struct ethtool_sset_info: command, reserved, 64-bit mask, one count for the one bit that is set.
    let mask = (1u64 << ETH_SS_FEATURES).to_ne_bytes();
    let word = |at: usize| mask.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let mut info = [ETHTOOL_GSSET_INFO, 0, word(0), word(4), 0];
    ethtool(&socket, interface, &mut info)?;
    let count = usize::try_from(info[4]).unwrap_or(0);
    if count == 0 || count > MOST_FEATURES {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the kernel lists no device features"));
    }
    // struct ethtool_gstrings: command, set, count, 32 bytes for each.
    let mut names = vec![0u32; 3 + MOST_FEATURES * ETH_GSTRING_LEN / 4];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, info[4]]);
    ethtool(&socket, interface, &mut names)?;
    let text: Vec<u8> = names.iter().skip(3).flat_map(|word| word.to_ne_bytes()).collect();
    let is = |name: &[u8]| name.split(|byte| *byte == 0).next() == Some(feature.as_bytes());
    let at = text.chunks(ETH_GSTRING_LEN).take(count).position(is);
    let at = at.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no feature {feature}")))?;
    // struct ethtool_sfeatures: command, blocks, and for each block which bits are meant and what they shall be.
    let blocks = count.div_ceil(32);
    let mut change = vec![0u32; 2 + 2 * blocks];
    change[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
    let bit = 1u32 << (at % 32);
    change[2 + 2 * (at / 32)] = bit;
    change[3 + 2 * (at / 32)] = if on { bit } else { 0 };
    ethtool(&socket, interface, &mut change)
}

/// One request to a network driver. `request` must be the structure of the command that it begins with, with room for
/// the largest answer.
fn ethtool(socket: &OwnedFd, interface: &str, request: &mut [u32]) -> io::Result<()> {
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: all zeroes is a valid `ifreq`: integers, addresses and a pointer in a union.
    let mut envelope: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in envelope.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    envelope.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads and writes the structure that `ifru_data` names. The one caller gives it whole: five
    // words for one counted set; strings for more features than it lets the kernel have; two words a block. It is
    // borrowed exclusively and lives through the call, as does the envelope.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut envelope) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
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
    fn a_moment_has_a_date_wherever_this_runs() {
        // 2026-11-22 12:00 UTC: no time zone is a whole day away.
        let [year, month, day, _, minute, second] = local_time(1_795_348_800).unwrap();
        assert_eq!((year, month, second), (2026, 11, 0));
        assert!((22..=23).contains(&day) && minute % 15 == 0);
        assert_eq!(local_time(u64::MAX), None);
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

    #[test]
    fn datagrams_sent_together_arrive_one_by_one_or_joined() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        widen_receiver(receiver.as_fd(), 1 << 20);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let datagrams: Vec<Vec<u8>> = (0..5u8).map(|number| vec![number; 100]).collect();
        assert_eq!(send_many(sender.as_fd(), datagrams.iter().map(Vec::as_slice)).unwrap(), 5);
        let mut buffers = vec![vec![0; 65_536]; 4];
        let mut seen = Vec::new();
        while seen.len() < 5 {
            let taken = receive_many(receiver.as_fd(), &mut buffers, |bytes, size| {
                seen.extend(bytes.chunks(size).map(|chunk| (chunk[0], chunk.len())));
            });
            assert!(taken.unwrap() > 0);
        }
        assert_eq!(seen, (0..5u8).map(|number| (number, 100)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_sent_is_cut_into_segments_until_it_is_not() {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let lengths = |wanted: usize| {
            assert_eq!(sender.send(&[7; 250]).unwrap(), 250);
            (0..wanted).map(|_| receiver.recv(&mut [0; 500]).unwrap()).collect::<Vec<_>>()
        };
        segment_sends(sender.as_fd(), 100).unwrap();
        assert_eq!(lengths(3), [100, 100, 50]);
        segment_sends(sender.as_fd(), 0).unwrap();
        assert_eq!(lengths(1), [250]);
        let stream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(segment_sends(stream.as_fd(), 100).is_err());
    }

    #[test]
    fn a_tcp_connection_tells_its_segment_size_and_a_datagram_socket_does_not() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = tcp_info(stream.as_fd()).unwrap();
        assert!(info.segment > 500);
        assert_eq!(info.retransmits, 0);
        assert!(tcp_info(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().as_fd()).is_err());
    }

    #[test]
    fn a_feature_or_an_interface_that_does_not_exist_is_refused() {
        let unknown = set_device_feature("lo", "no-such-feature", true).unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
        assert!(set_device_feature("no-such-if", "tx-udp-segmentation", true).is_err());
        assert!(set_device_feature("a-name-too-long-for-one", "tx-udp-segmentation", true).is_err());
    }

    #[test]
    fn a_child_can_be_told_to_die_with_its_parent_and_still_starts() {
        let mut command = Command::new("/bin/true");
        die_with_parent(&mut command);
        assert!(command.status().unwrap().success());
    }
}

//! The control process's cage: how the supervisor starts it, and how it shuts itself in. What it does inside stands in
//! `control_process.rs`.
//!
//! It is this executable started again with a memfd, doorbells and stderr, and nothing else: no environment, no socket,
//! no file. It sleeps on a futex in the shared memory, so that it needs no descriptor to be woken. The order of
//! [`enter`] matters and is said there.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::sys;

/// The word after the program's name that makes this executable the control process.
pub const CONTROL_PROCESS: &str = sys::CONTROL_PROCESS;

/// The descriptors by number: the memory, the supervisor's bell, then the workers' bells in order.
const MEMFD: RawFd = 3;
const SUPERVISOR_BELL: RawFd = 4;
const FIRST_WORKER_BELL: RawFd = 5;
const STDERR: RawFd = 2;

/// Nobody: the overflow user and group, which own nothing (credentials(7)).
const NOBODY: u32 = 65_534;

/// A control process, from outside. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct ControlChild {
    child: Child,
    pidfd: OwnedFd,
}

/// Starts a control process for this link. Its stderr is ours; stdin and stdout are nothing; its environment is empty.
///
/// The kernel kills it when the *thread* that called this ends (PR_SET_PDEATHSIG in prctl(2)): call it from one that
/// lives as long as the supervisor.
///
/// # Errors
/// What fork, exec or pidfd_open(2) answer.
pub fn spawn_control(shared: &link::Shared) -> io::Result<ControlChild> {
    let bells: Vec<BorrowedFd<'_>> = shared.worker_bells().collect();
    spawn(shared.memfd(), shared.supervisor_bell(), &bells, Stdio::inherit())
}

fn spawn(
    memfd: BorrowedFd<'_>,
    supervisor_bell: BorrowedFd<'_>,
    bells: &[BorrowedFd<'_>],
    stderr: Stdio,
) -> io::Result<ControlChild> {
    let mapping =
        |fd: BorrowedFd<'_>, child_fd| io::Result::Ok(FdMapping { parent_fd: fd.try_clone_to_owned()?, child_fd });
    let mut mappings: Vec<FdMapping> = vec![mapping(memfd, MEMFD)?, mapping(supervisor_bell, SUPERVISOR_BELL)?];
    for (bell, number) in bells.iter().zip(FIRST_WORKER_BELL..) {
        mappings.push(mapping(*bell, number)?);
    }
    // /proc/self/exe is this very file, also when a package upgrade has replaced it on disk since.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("minivpn").arg(CONTROL_PROCESS).arg(bells.len().to_string()).arg(std::process::id().to_string());
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let mut child = command.spawn()?;
    match open_pidfd(&child) {
        Ok(pidfd) => Ok(ControlChild { child, pidfd }),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// Its number cannot be another process's: it is not reaped yet.
fn open_pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(io::Error::from)
}

impl ControlChild {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable when it has ended (pidfd_open(2)).
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it. One that has ended is left as it is.
    pub fn kill(&mut self) {
        self.try_kill();
    }

    /// Whether it is dead or will be. A process that was reaped is; one of another user (it gave up root, we did not) may be beyond us.
    fn try_kill(&mut self) -> bool {
        let refused = self.child.kill().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        if refused {
            tracing::warn!("the control process cannot be ended before we end: CAP_KILL is missing");
        }
        !refused
    }

    /// Waits for its end and says how it ended, in words for a log line. Blocks while it lives: call it when
    /// [`ControlChild::pidfd`] is readable or after [`ControlChild::kill`].
    pub fn reap(&mut self) -> String {
        match self.child.wait() {
            Ok(status) => ending(status),
            Err(error) => format!("it ended, and how is not known: {error}"),
        }
    }
}

impl Drop for ControlChild {
    fn drop(&mut self) {
        // Otherwise the kernel ends it with us.
        if self.try_kill() {
            let _ = self.child.wait();
        }
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(libc::SIGSYS), _) => {
            "killed by signal 31 (SIGSYS): it tried a system call that its sandbox forbids".to_owned()
        }
        (Some(libc::SIGKILL), _) => "killed by signal 9 (SIGKILL)".to_owned(),
        (Some(libc::SIGSEGV), _) => "killed by signal 11 (SIGSEGV)".to_owned(),
        (Some(libc::SIGABRT), _) => "killed by signal 6 (SIGABRT): it aborted".to_owned(),
        (Some(signal), _) => format!("killed by signal {signal}"),
        (None, Some(101)) => "it panicked (exit status 101)".to_owned(),
        (None, code) => format!("it exited with status {}", code.unwrap_or(-1)),
    }
}

/// What the supervisor gave to the control process.
#[derive(Debug)]
pub struct Inherited {
    /// The shared memory. It must be closed when it is mapped.
    pub memfd: OwnedFd,
    /// The supervisor's eventfd.
    pub supervisor_bell: OwnedFd,
    /// Each worker's eventfd, in order.
    pub worker_bells: Vec<OwnedFd>,
}

/// Why the sandbox could not be entered. The process must end then.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct SandboxError {
    step: &'static str,
    #[source]
    source: io::Error,
}

/// Names the step that failed.
fn at<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |error| SandboxError { step, source: error.into() }
}

/// Shuts the calling process in. It must be a control process with one thread that has opened nothing; this is the first
/// thing it does. `map` maps the memory and closes its descriptor; `warm_up` makes libraries do what they only do on
/// first use (random source, processor features, TLS tables), because afterwards they cannot.
///
/// The order, and why: inherited descriptors and nothing else → memory mapped → own network, IPC, UTS and mount
/// namespaces (while still root) → bounding set empty → limits → nobody's ids → no capabilities → death with the parent
/// (after the ids, which reset it) → not dumpable → no new privileges → warm-up → system-call filter. What needs
/// privileges that the daemon does not have is left out, with a line on stderr: the filter forbids the same things.
///
/// # Errors
/// [`SandboxError`]
pub fn enter<T>(map: impl FnOnce(Inherited) -> io::Result<T>, warm_up: impl FnOnce()) -> Result<T, SandboxError> {
    let arguments = Arguments::read().map_err(at("the arguments"))?;
    let bells_end = arguments.bells_end().map_err(at("the arguments"))?;
    let inherited = arguments.take_descriptors().map_err(at("the inherited descriptors"))?;
    sys::close_from(bells_end).map_err(at("closing other descriptors"))?;
    ignore_terminal_signals().map_err(at("ignoring signals"))?;
    let mapped = map(inherited).map_err(at("mapping the shared memory"))?;
    if sys::is_open(MEMFD) {
        return Err(at("closing the shared memory's descriptor")(io::Error::other("it is still open")));
    }
    let mut loose = Loosened::default();
    leave_namespaces(&mut loose);
    empty_bounding_set(&mut loose);
    set_limits(bells_end).map_err(at("setting limits"))?;
    become_nobody(&mut loose);
    drop_capabilities().map_err(at("dropping capabilities"))?;
    die_with_parent(arguments.parent).map_err(at("binding to the supervisor's life"))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(at("not being dumpable"))?;
    rustix::thread::set_no_new_privs(true).map_err(at("renouncing new privileges"))?;
    loose.tell();
    warm_up();
    install_filter(bells_end).map_err(at("installing the system-call filter"))?;
    Ok(mapped)
}

/// `control-process WORKERS PARENT`
struct Arguments {
    workers: usize,
    parent: i32,
}

impl Arguments {
    fn read() -> io::Result<Self> {
        let number =
            |at| std::env::args_os().nth(at).and_then(|word| word.to_str().and_then(|word| word.parse::<i32>().ok()));
        let workers = number(2).and_then(|workers| usize::try_from(workers).ok());
        match (workers, number(3)) {
            (Some(workers), Some(parent)) => Ok(Self { workers, parent }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not started by a supervisor")),
        }
    }

    /// The number after the last bell.
    fn bells_end(&self) -> io::Result<RawFd> {
        let workers = RawFd::try_from(self.workers).ok().filter(|workers| *workers <= 1_000);
        workers.and_then(|workers| workers.checked_add(FIRST_WORKER_BELL)).ok_or(io::ErrorKind::InvalidInput.into())
    }

    fn take_descriptors(&self) -> io::Result<Inherited> {
        let mut taken = sys::take_inherited(self.workers.saturating_add(2))?.into_iter();
        match (taken.next(), taken.next()) {
            (Some(memfd), Some(supervisor_bell)) => {
                Ok(Inherited { memfd, supervisor_bell, worker_bells: taken.collect() })
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// What could not be done for want of privileges.
#[derive(Default)]
struct Loosened(Vec<String>);

impl Loosened {
    fn note(&mut self, what: &str, error: impl fmt::Display) {
        self.0.push(format!("{what} ({error})"));
    }

    fn tell(&self) {
        if !self.0.is_empty() {
            eprintln!(
                "control process: without privileges the sandbox is only its system-call filter; left out: {}",
                self.0.join(", ")
            );
        }
    }
}

/// A terminal's ^C and a service manager's SIGTERM reach the whole group. The supervisor acts on them, and needs us to
/// say goodbye to the peer; afterwards it ends us.
fn ignore_terminal_signals() -> io::Result<()> {
    [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].into_iter().try_for_each(sys::ignore_signal)
}

fn leave_namespaces(loose: &mut Loosened) {
    let each = [
        ("network namespace", UnshareFlags::NEWNET),
        ("IPC namespace", UnshareFlags::NEWIPC),
        ("UTS namespace", UnshareFlags::NEWUTS),
        ("mount namespace", UnshareFlags::NEWNS),
    ];
    for (name, flag) in each {
        if let Err(error) = sys::unshare(flag) {
            loose.note(name, error);
        }
    }
}

fn empty_bounding_set(loose: &mut Loosened) {
    for number in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => return, // past the last one that this kernel has
            Err(error) => return loose.note("bounding set", error),
        }
    }
}

/// RLIMIT_FSIZE stays: stderr may be a file, and it is the only one that can be written.
fn set_limits(bells_end: RawFd) -> io::Result<()> {
    let files = u64::try_from(bells_end).unwrap_or(0).saturating_add(4); // the warm-up may look at a file
    for (resource, limit) in [(Resource::Nofile, files), (Resource::Nproc, 0), (Resource::Core, 0)] {
        rustix::process::setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

fn become_nobody(loose: &mut Loosened) {
    if !rustix::process::geteuid().is_root() {
        return; // nobody in particular already
    }
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let became = rustix::thread::set_thread_groups(&[])
        .and_then(|()| rustix::thread::set_thread_res_gid(gid, gid, gid))
        .and_then(|()| rustix::thread::set_thread_res_uid(uid, uid, uid));
    if let Err(error) = became {
        loose.note("user and group", error);
    }
}

fn drop_capabilities() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// The signal is set first and the parent looked at afterwards: it may have died in between.
fn die_with_parent(parent: i32) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if Pid::as_raw(rustix::process::getppid()) == parent {
        Ok(())
    } else {
        Err(io::Error::other("the supervisor is gone"))
    }
}

/// Two filters, of which the stricter answer counts: one refuses what libraries try and can do without (EPERM), the other
/// allows the list and kills for everything else.
fn install_filter(bells_end: RawFd) -> io::Result<()> {
    let soft =
        compile(refused().map_err(io::Error::other)?, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    let mut list = allowed(bells_end).map_err(io::Error::other)?;
    list.extend(refused().map_err(io::Error::other)?);
    let hard = compile(list, SeccompAction::KillProcess, SeccompAction::Allow)?;
    seccompiler::apply_filter(&soft).map_err(io::Error::other)?;
    seccompiler::apply_filter(&hard).map_err(io::Error::other)
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> io::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, otherwise, matched, architecture).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// Refused without harm: the allocator (it looks under /proc and /sys when it first needs much memory) and the panic path
/// ask these and go on without an answer. prctl must stay for the one question that installing a filter asks.
fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for call in [
        libc::SYS_getcpu,
        libc::SYS_faccessat,
        libc::SYS_getcwd,
        libc::SYS_ioctl,
        libc::SYS_sched_getaffinity,
        libc::SYS_sysinfo,
        libc::SYS_openat,
    ] {
        rules.insert(call, Vec::new());
    }
    #[cfg(target_arch = "x86_64")]
    rules.extend([(libc::SYS_access, Vec::new()), (libc::SYS_open, Vec::new())]);
    let no_new_privs = u64::try_from(libc::PR_SET_NO_NEW_PRIVS).unwrap_or_default();
    rules.insert(libc::SYS_prctl, vec![rule(&[(0, Op::Ne, no_new_privs)])?]);
    Ok(rules)
}

/// All that a TLS engine on shared memory needs.
fn allowed(bells_end: RawFd) -> Result<Rules, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for call in [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_getrandom,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_sched_yield,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_close,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ] {
        rules.insert(call, Vec::new());
    }
    let descriptor = |number: RawFd| (0, Op::Eq, u64::try_from(number).unwrap_or(u64::MAX));
    let bells = || SUPERVISOR_BELL..bells_end;
    rules.insert(libc::SYS_read, bells().map(|bell| rule(&[descriptor(bell)])).collect::<Result<_, _>>()?);
    let writable = bells().chain([STDERR]);
    rules.insert(libc::SYS_write, writable.map(|bell| rule(&[descriptor(bell)])).collect::<Result<_, _>>()?);
    // Builds with debug assertions ask whether a descriptor is open before they close it.
    rules.insert(libc::SYS_fcntl, vec![rule(&[(1, Op::Eq, u64::try_from(libc::F_GETFD).unwrap_or_default())])?]);
    rules.insert(libc::SYS_writev, vec![rule(&[descriptor(STDERR)])?]);
    rules.extend(memory()?);
    rules.extend(abort()?);
    Ok(rules)
}

/// Memory without code in it, and of no file.
fn memory() -> Result<Rules, seccompiler::BackendError> {
    let unsigned = |flag: libc::c_int| u64::try_from(flag).unwrap_or_default();
    let no_code = (2, Op::MaskedEq(unsigned(libc::PROT_EXEC)), 0);
    let anonymous = (3, Op::MaskedEq(unsigned(libc::MAP_ANONYMOUS)), unsigned(libc::MAP_ANONYMOUS));
    let mmap = rule(&[no_code.clone(), anonymous])?;
    Ok(Rules::from([(libc::SYS_mmap, vec![mmap]), (libc::SYS_mprotect, vec![rule(&[no_code])?])]))
}

/// abort(3): SIGABRT to ourselves, so that an abort is not reported as a breach.
fn abort() -> Result<Rules, seccompiler::BackendError> {
    let sigabrt = u64::try_from(libc::SIGABRT).unwrap_or_default();
    let ourselves = (0, Op::Eq, u64::from(std::process::id()));
    Ok(Rules::from([
        (libc::SYS_tgkill, vec![rule(&[ourselves, (2, Op::Eq, sigabrt)])?]),
        (libc::SYS_rt_sigaction, vec![rule(&[(0, Op::Eq, sigabrt)])?]),
    ]))
}

/// All of these must hold. Descriptors, flags and signals are 32 bits wide to the kernel.
fn rule(conditions: &[(u8, Op, u64)]) -> Result<SeccompRule, seccompiler::BackendError> {
    let each = conditions.iter().map(|(argument, op, value)| {
        SeccompCondition::new(*argument, Len::Dword, op.clone(), value & u64::from(u32::MAX))
    });
    SeccompRule::new(each.collect::<Result<_, _>>()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::event::EventfdFlags;
    use rustix::fs::MemfdFlags;
    use rustix::thread::futex;

    /// What the test child was told to try.
    struct Inside {
        what: String,
        bell: OwnedFd,
        worker_bell: OwnedFd,
    }

    /// The test executable started as a control process (see `sys::tests`): enters, then tries what the memory says.
    /// Exit status 0: it was possible; 1: it failed with an error; a signal: it was killed.
    pub(crate) fn child() {
        let entered = enter(
            |given| {
                let mut what = String::new();
                std::fs::File::from(given.memfd).read_to_string(&mut what)?;
                let mut bells = given.worker_bells;
                let worker_bell = bells.pop().ok_or(io::ErrorKind::NotFound)?;
                Ok(Inside { what, bell: given.supervisor_bell, worker_bell })
            },
            warm_up,
        );
        let result = entered.map_err(|error| error.to_string()).and_then(|inside| attempt(&inside));
        match result {
            Ok(()) => std::process::exit(0),
            Err(error) => {
                eprintln!("{error}");
                std::process::exit(1)
            }
        }
    }

    fn warm_up() {
        controlplane::Random::fill(&mut controlplane::SystemRandom, &mut [0; 32]);
    }

    fn attempt(inside: &Inside) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        match inside.what.as_str() {
            "nothing" => Ok(()),
            "allocate 64 MiB" => {
                let mut blocks: Vec<Vec<u8>> = (0..64_usize).map(|n| vec![1; (1 << 20) + n]).collect();
                blocks.retain(|block| block.len() % 2 == 0);
                (blocks.len() == 32).then_some(()).ok_or_else(|| "miscounted".to_owned())
            }
            "draw random bytes" => {
                controlplane::Random::fill(&mut controlplane::SystemRandom, &mut [0; 512]);
                Ok(())
            }
            "sleep on a futex" => {
                let word = AtomicU32::new(0);
                let time = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
                let waited = futex::wait(&word, futex::Flags::empty(), 0, Some(&time));
                let woken = futex::wake(&word, futex::Flags::empty(), 1);
                if waited == Err(rustix::io::Errno::TIMEDOUT) && woken == Ok(0) {
                    Ok(())
                } else {
                    Err(format!("{waited:?} {woken:?}"))
                }
            }
            "sleep a moment" => {
                std::thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            "ring both bells" => {
                for bell in [&inside.bell, &inside.worker_bell] {
                    rustix::io::write(bell, &1_u64.to_ne_bytes()).map_err(|error| text(error.into()))?;
                }
                Ok(())
            }
            "ask the time" => {
                let _ = (
                    std::time::SystemTime::now(),
                    std::time::Instant::now(),
                    rustix::time::clock_gettime(rustix::time::ClockId::Boottime),
                );
                Ok(())
            }
            "ask harmless questions" => {
                let refused = std::env::current_dir().is_err() && !std::io::IsTerminal::is_terminal(&std::io::stderr());
                refused.then_some(()).ok_or_else(|| "answered".to_owned())
            }
            "panic" => panic!("a printed panic"),
            "abort" => std::process::abort(),
            "live" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "open a file" => std::fs::File::open("/dev/null").map(drop).map_err(text),
            "make a socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(text),
            "start a program" => Err(text(Command::new("/bin/true").exec())),
            "start a process" => Command::new("/bin/true").status().map(drop).map_err(text),
            "start a thread" => std::thread::Builder::new().spawn(|| ()).map(drop).map_err(text),
            "write to stdout" => {
                rustix::io::write(std::io::stdout().as_fd(), b"x").map(drop).map_err(|error| text(error.into()))
            }
            "read stderr" => rustix::io::read(std::io::stderr().as_fd(), &mut [0_u8; 1])
                .map(drop)
                .map_err(|error| text(error.into())),
            "kill the parent" => {
                let parent = rustix::process::getppid();
                parent.map_or(Ok(()), |parent| {
                    rustix::process::kill_process(parent, Signal::TERM).map_err(|error| text(error.into()))
                })
            }
            "map code" => sys::tests::map_code().map_err(text),
            "make memory code" => sys::tests::make_code().map_err(text),
            "map a file" => sys::tests::map_file(&inside.bell).map_err(text),
            "become root" => sys::set_ids(0, 0).map_err(text),
            "be dumpable" => rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
                .map_err(|error| text(error.into())),
            other => Err(format!("the child does not know how to {other}")),
        }
    }

    fn eventfd() -> OwnedFd {
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    fn start(what: &str, bell: &OwnedFd, worker_bell: &OwnedFd) -> ControlChild {
        let memfd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&memfd, what.as_bytes()).unwrap();
        rustix::fs::seek(&memfd, rustix::fs::SeekFrom::Start(0)).unwrap();
        spawn(memfd.as_fd(), bell.as_fd(), &[worker_bell.as_fd()], Stdio::piped()).unwrap()
    }

    /// How a child ends that tries this, and what it wrote to stderr.
    fn try_inside(what: &str) -> (String, String) {
        let mut child = start(what, &eventfd(), &eventfd());
        let mut said = String::new();
        child.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (child.reap(), said)
    }

    #[test]
    fn what_tls_needs_works_inside() {
        for what in [
            "nothing",
            "allocate 64 MiB",
            "draw random bytes",
            "sleep on a futex",
            "sleep a moment",
            "ask the time",
            "ask harmless questions",
        ] {
            assert_eq!(try_inside(what), ("it exited with status 0".to_owned(), String::new()), "{what}");
        }
    }

    #[test]
    fn the_bells_ring() {
        let (bell, worker_bell) = (eventfd(), eventfd());
        assert_eq!(start("ring both bells", &bell, &worker_bell).reap(), "it exited with status 0");
        for rung in [bell, worker_bell] {
            let mut count = [0; 8];
            rustix::io::read(&rung, &mut count).unwrap();
            assert_eq!(u64::from_ne_bytes(count), 1);
        }
    }

    #[test]
    fn what_a_captured_process_would_try_kills_it() {
        for what in [
            "make a socket",
            "start a program",
            "start a process",
            "start a thread",
            "write to stdout",
            "read stderr",
            "kill the parent",
            "map code",
            "make memory code",
            "map a file",
            "become root",
        ] {
            let (end, said) = try_inside(what);
            assert!(end.contains("SIGSYS"), "{what}: {end}: {said}");
        }
    }

    #[test]
    fn questions_that_libraries_ask_are_refused_only() {
        for what in ["open a file", "be dumpable"] {
            let (end, said) = try_inside(what);
            assert_eq!(end, "it exited with status 1", "{what}: {said}");
            assert!(said.contains("not permitted"), "{what}: {said}");
        }
    }

    #[test]
    fn a_panic_is_heard() {
        let (end, said) = try_inside("panic");
        assert!(said.contains("a printed panic"), "{said}");
        // Before main there is nobody to catch it; in the executable the status is 101.
        assert!(end.contains("panicked") || end.contains("aborted"), "{end}");
    }

    #[test]
    fn an_abort_is_told_from_a_breach() {
        assert!(try_inside("abort").0.contains("SIGABRT"));
    }

    #[test]
    fn it_has_nobodys_ids_no_capabilities_and_its_own_namespaces() {
        let mut child = start("live", &eventfd(), &eventfd());
        let pid = child.pid();
        let status = status_when_caged(pid);
        for expected in [
            "Uid:\t65534\t65534\t65534\t65534",
            "Gid:\t65534\t65534\t65534\t65534",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "Threads:\t1",
        ] {
            assert!(status.contains(expected), "{expected} in {status}");
        }
        for namespace in ["net", "ipc", "uts", "mnt"] {
            let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/{namespace}")).unwrap();
            assert_ne!(of(&pid.to_string()), of("self"), "{namespace}");
        }
        let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        open.sort();
        assert_eq!(open, ["0", "1", "2", "4", "5"]);
        assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        child.kill();
        assert!(child.reap().contains("SIGKILL"));
    }

    #[test]
    fn it_does_not_mind_the_terminal() {
        let mut child = start("live", &eventfd(), &eventfd());
        status_when_caged(child.pid());
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            rustix::process::pidfd_send_signal(child.pidfd(), signal).unwrap();
        }
        child.kill();
        assert!(child.reap().contains("SIGKILL"));
    }

    #[test]
    fn its_end_can_be_awaited() {
        let child = start("nothing", &eventfd(), &eventfd());
        let mut polled = [rustix::event::PollFd::new(&child.pidfd, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
    }

    #[test]
    fn it_dies_with_the_thread_that_started_it() {
        let starter = std::thread::spawn(|| {
            let child = start("live", &eventfd(), &eventfd());
            status_when_caged(child.pid());
            child
        });
        let mut child = starter.join().unwrap();
        assert!(child.reap().contains("SIGKILL")); // nobody called kill
    }

    #[test]
    fn dropping_it_ends_it() {
        let child = start("live", &eventfd(), &eventfd());
        let pidfd = child.pidfd().try_clone_to_owned().unwrap();
        drop(child);
        assert_eq!(rustix::process::pidfd_send_signal(&pidfd, Signal::KILL), Err(rustix::io::Errno::SRCH));
    }

    /// Its status once the filter is installed.
    fn status_when_caged(pid: u32) -> String {
        loop {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            assert!(!status.contains("State:\tZ"), "it died: {status}");
            if status.contains("Seccomp_filters:\t2") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

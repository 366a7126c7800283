//! Who is measured: the bare link, our gateway with our client, and what else is installed. Here is who they are by name and how a
//! tunnel of each is raised; each kind that needs more has a file of its own.

mod minivpn;
mod openvpn;
mod wireguard;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dataplane::datachannel::aead::AeadChoice;

use super::child::Child;
use super::net::{End, Ground};
use super::traffic::latency::{Echo, reachable};

/// MTU of every tunnel, in bytes: what WireGuard takes by default, so that all carry the same packets.
const TUNNEL_MTU: u16 = 1_420;
/// How long a program may take until its tunnel carries the first packet.
const READY: Duration = Duration::from_secs(15);

/// An I/O engine of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// io_uring
    Uring,
    /// Plain system calls
    Syscall,
}

impl Engine {
    /// As users write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Syscall => "syscall",
        }
    }
}

/// One who is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// No tunnel.
    Veth,
    /// Our gateway and our client.
    Minivpn(Engine, AeadChoice),
    /// OpenVPN in user space.
    OpenVpn,
    /// OpenVPN with the kernel's data channel.
    OvpnKernel,
    /// wireguard-go.
    WireguardGo,
    /// boringtun.
    Boringtun,
    /// The kernel's WireGuard.
    WireguardKernel,
}

impl Contender {
    /// Everybody, in the order of a report.
    pub(super) fn all(engines: &[Engine], aeads: &[AeadChoice]) -> Vec<Contender> {
        let ours = engines.iter().flat_map(|engine| aeads.iter().map(|aead| Contender::Minivpn(*engine, *aead)));
        let others = [
            Contender::OpenVpn,
            Contender::WireguardGo,
            Contender::Boringtun,
            Contender::WireguardKernel,
            Contender::OvpnKernel,
        ];
        std::iter::once(Contender::Veth).chain(ours).chain(others).collect()
    }

    /// The name in reports.
    pub(super) fn name(&self) -> String {
        match self {
            Contender::Veth => "veth".into(),
            Contender::Minivpn(engine, aead) => format!("minivpn/{}/{}", engine.name(), aead.name()),
            Contender::OpenVpn => "openvpn".into(),
            Contender::OvpnKernel => "ovpn (kernel)".into(),
            Contender::WireguardGo => "wireguard-go".into(),
            Contender::Boringtun => "boringtun".into(),
            Contender::WireguardKernel => "wireguard (kernel)".into(),
        }
    }

    /// Whether a word of `--only` means it: its name, or the beginning of it up to a `/`. The kernel's go by `wireguard`
    /// and `ovpn` as well, which need no quotes in a shell.
    pub(super) fn is_meant_by(&self, word: &str) -> bool {
        let name = self.name();
        let short = name.strip_suffix(" (kernel)").unwrap_or(&name);
        short == word || name == word || name.strip_prefix(word).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The program of it, with the package that brings it.
    fn program(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Contender::Veth | Contender::Minivpn(..) => None,
            Contender::OpenVpn | Contender::OvpnKernel => Some(("openvpn", "package openvpn")),
            Contender::WireguardGo => Some(("wireguard-go", "package wireguard-go")),
            Contender::Boringtun => Some(("boringtun-cli", "cargo install boringtun-cli")),
            Contender::WireguardKernel => Some(("wg", "package wireguard-tools")),
        }
    }

    /// Whether its program is there, where it needs one.
    pub(super) fn is_installed(&self) -> bool {
        self.program().is_none_or(|(program, _)| find(program).is_some())
    }

    /// The version of its program: name and what it says of itself.
    pub(super) fn version(&self) -> Option<(String, String)> {
        let (program, _) = self.program()?;
        let output = Command::new(find(program)?).arg("--version").output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let first = String::from_utf8_lossy(&text).lines().next()?.trim().chars().take(120).collect();
        Some((program.to_owned(), first))
    }
}

/// Where a tunnel is raised: its number, and the processors of the two ends.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// From 1; gives addresses, ports and device names.
    pub(super) number: u8,
    /// Processors of the programs at end A.
    pub(super) a: Vec<usize>,
    /// Processors of the programs at end B.
    pub(super) b: Vec<usize>,
}

impl Place {
    fn device(&self) -> String {
        format!("mvb{}", self.number)
    }

    fn port(&self) -> u16 {
        20_000 + u16::from(self.number)
    }

    fn cpus(&self, end: End) -> &[usize] {
        match end {
            End::A => &self.a,
            End::B => &self.b,
        }
    }

    /// Inside the tunnel, of end A and of end B.
    fn addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        (End::A.inner(self.number), End::B.inner(self.number))
    }

    /// Which processors, in words.
    fn pinning(&self) -> String {
        format!("ends on CPU {} and {}", list(&self.a), list(&self.b))
    }
}

fn list(cpus: &[usize]) -> String {
    match cpus {
        [] => "any".to_owned(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first}–{last}"),
    }
}

/// The processors of the two ends: half of them each, so that neither takes the other's time.
pub(super) fn halves(allowed: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (a, b) = allowed.split_at(allowed.len() / 2);
    if a.is_empty() { (b.to_vec(), b.to_vec()) } else { (a.to_vec(), b.to_vec()) }
}

/// A tunnel that stands. Its programs end with it.
#[derive(Debug)]
pub(super) struct Running {
    /// What it says of itself.
    pub(super) offloads: String,
    /// The addresses inside it, of end A and of end B.
    addresses: (Ipv4Addr, Ipv4Addr),
    /// Whether its packets are carried by other processes than the kernel.
    in_user_space: bool,
    children: Vec<Child>,
    /// The files of our own. Last: they go when the programs are gone.
    _home: Option<minivpn::Home>,
}

impl Running {
    /// An end's address inside the tunnel (on the veth for the bare link).
    pub(super) fn address(&self, end: End) -> Ipv4Addr {
        match end {
            End::A => self.addresses.0,
            End::B => self.addresses.1,
        }
    }

    /// Processor time of the programs of both ends so far, in ns; `None` where the kernel does the work or counts no such
    /// time.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        if !self.in_user_space {
            return None;
        }
        self.children.iter().map(Child::cpu_ns).sum()
    }

    /// A program that has ended, with its last words.
    pub(super) fn dead(&mut self) -> Option<String> {
        let child = self.children.iter_mut().find_map(|child| child.ended().then_some(child))?;
        Some(format!("{} ended: {}", child.name(), child.last_words()))
    }
}

/// Raises the tunnel of a contender.
///
/// # Errors
/// Why it cannot be measured, as a sentence. `Interrupted` when the flag was set.
pub(super) fn raise(contender: &Contender, ground: &Ground, place: &Place, stop: &AtomicBool) -> io::Result<Running> {
    let program = match contender.program() {
        Some((program, source)) => find(program)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{program} is not installed ({source})")))?,
        None => PathBuf::new(),
    };
    let running = match contender {
        Contender::Veth => {
            let offloads = "no tunnel, MTU 1500".into();
            let addresses = (End::A.outer(), End::B.outer());
            return Ok(Running { offloads, addresses, in_user_space: false, children: Vec::new(), _home: None });
        }
        Contender::Minivpn(engine, aead) => minivpn::raise(*engine, *aead, ground, place, stop)?,
        Contender::OpenVpn => openvpn::raise(program, false, ground, place, stop)?,
        Contender::OvpnKernel => openvpn::raise(program, true, ground, place, stop)?,
        Contender::WireguardGo => wireguard::raise_go(program, ground, place, stop)?,
        Contender::Boringtun => wireguard::raise_boringtun(program, ground, place, stop)?,
        Contender::WireguardKernel => wireguard::raise_kernel(&program, ground, place)?,
    };
    carries(running, ground, stop)
}

/// Waits for the device at both ends and gives it its address.
fn configure(ground: &Ground, place: &Place, children: &mut [Child], stop: &AtomicBool) -> io::Result<()> {
    let start = Instant::now();
    for end in [End::A, End::B] {
        while !ground.end(end).has(&place.device()) {
            if let Some(child) = children.iter_mut().find_map(|child| child.ended().then_some(child)) {
                return Err(io::Error::other(format!("{} ended: {}", child.name(), child.last_words())));
            }
            pass(start, stop)?;
        }
        ground.end(end).configure(&place.device(), end.inner(place.number), TUNNEL_MTU.into())?;
    }
    Ok(())
}

/// One turn of waiting.
fn pass(start: Instant, stop: &AtomicBool) -> io::Result<()> {
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    if start.elapsed() > READY {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not become ready"));
    }
    std::thread::sleep(Duration::from_millis(10));
    Ok(())
}

/// Whether a packet comes through and back.
fn carries(mut running: Running, ground: &Ground, stop: &AtomicBool) -> io::Result<Running> {
    let echo = Echo::start(ground.end(End::B), running.address(End::B))?;
    if reachable(ground.end(End::A), &echo, READY, stop)? {
        return Ok(running);
    }
    if stop.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    let words = running.dead().or_else(|| running.children.first().map(Child::last_words)).unwrap_or_default();
    Err(io::Error::other(format!("no packet came through its tunnel within {} s: {words}", READY.as_secs())))
}

/// A program on the path, or where administrators' programs lie.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::home_dir().unwrap_or_default().join(".cargo/bin");
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(usual).chain([home]);
    places.map(|place| place.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_a_name_or_a_family() {
        let ours = Contender::Minivpn(Engine::Uring, AeadChoice::IpsecMb);
        for word in ["minivpn", "minivpn/uring", "minivpn/uring/ipsec-mb"] {
            assert!(ours.is_meant_by(word), "{word}");
        }
        for word in ["mini", "minivpn/syscall", "minivpn/uring/ipsec", "veth", ""] {
            assert!(!ours.is_meant_by(word), "{word}");
        }
        assert!(Contender::WireguardKernel.is_meant_by("wireguard"));
        assert!(Contender::WireguardKernel.is_meant_by("wireguard (kernel)"));
        assert!(!Contender::WireguardGo.is_meant_by("wireguard"));
    }

    #[test]
    fn every_contender_has_a_name_of_its_own() {
        let all = Contender::all(&[Engine::Uring, Engine::Syscall], &AeadChoice::ALL);
        let mut names: Vec<String> = all.iter().map(Contender::name).collect();
        assert_eq!(names.first().map(String::as_str), Some("veth"));
        assert_eq!(names.len(), 1 + 8 + 5);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_ends_share_no_processor_unless_there_is_only_one() {
        assert_eq!(halves(&[0, 1]), (vec![0], vec![1]));
        assert_eq!(halves(&[2, 3, 5]), (vec![2], vec![3, 5]));
        assert_eq!(halves(&[7]), (vec![7], vec![7]));
    }

    #[test]
    fn a_program_that_does_not_exist_is_not_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-here").is_none());
    }
}

//! Our own pair, as users run it: a gateway that `gateway up` makes and `gateway run` serves, and a client that connects
//! with the profile it was given; this executable each time. What the two say of themselves goes into the report.

use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use dataplane::datachannel::aead::{Aead, AeadChoice};

use super::{Engine, Place, READY, Running, TUNNEL_MTU, pass};
use crate::bench::child::Child;
use crate::bench::net::{End, Ground, Net, QUEUE};
use crate::gateway::requests;
use crate::gateway::socket::Command as Request;
use crate::gateway::status::Snapshot;
use crate::observe::console::COMPLETED;

/// This very file, also when a package upgrade has replaced it on disk since.
const OURSELVES: &str = "/proc/self/exe";
/// The gateway's name, and its client's.
const NAME: &str = "bench";
/// The configuration's name, from which the control socket has its own.
const SERVED: &str = "server";

pub(super) fn raise(
    engine: Engine,
    aead: AeadChoice,
    ground: &Ground,
    place: &Place,
    stop: &AtomicBool,
) -> io::Result<Running> {
    // A library that is not there is said in one sentence, before anything is made.
    Aead::resolve(aead).map_err(io::Error::other)?;
    let home = Home::new(ground, place)?;
    let (config, profile) = prepare(ground.end(End::B), place, &home)?;
    let start = |end, words: &[&str], file: PathBuf| {
        let flags = [file.into_os_string()].into_iter().chain(flags(engine, aead, place.cpus(end), home.run(end)));
        Child::start(ground.end(end), ourselves(words, flags), place.cpus(end), "", true)
    };
    let config = home.write(ground.end(End::B), &format!("{SERVED}.conf"), config)?;
    let mut gateway =
        start(End::B, &["gateway", "run", "--workers", "1", "--config"], config)?.called("minivpn gateway");
    gateway.wait_line(completed, READY, stop)?;
    let profile = home.write(ground.end(End::A), "client.ovpn", profile)?;
    let mut client = start(End::A, &["connect"], profile)?.called("minivpn connect");
    client.wait_line(completed, READY, stop)?;

    let (snapshot, inner) = status(ground.end(End::B), &home, stop)?;
    let ends = [gateways(&snapshot), clients(&mut client, stop)?];
    // The client leaves first, and is heard.
    let children = vec![client, gateway];
    // The gateway's is the first of its pool.
    let addresses = (inner, End::A.inner(place.number));
    let offloads = format!("{}; {}", in_use(&ends), workers(place));
    Ok(Running { offloads, addresses, in_user_space: true, children, _home: Some(home) })
}

/// This executable with these words. Variables that stand for options are for the benchmark alone.
fn ourselves(words: &[&str], more: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = Command::new(OURSELVES);
    command.args(words).args(more).env_remove("NOTIFY_SOCKET");
    let ours =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_encoded_bytes().starts_with(b"MINIVPN_"));
    for name in ours {
        command.env_remove(name);
    }
    command
}

/// Makes the gateway's keys, certificates and configuration and the client's profile. What all contenders have alike is
/// added to both: the MTU, the queue, no segment size changed in passing.
fn prepare(net: &Net, place: &Place, home: &Home) -> io::Result<(String, String)> {
    let (endpoint, port) = (End::B.outer().to_string(), place.port().to_string());
    let pool = format!("{}/24", Ipv4Addr::from_bits(End::A.inner(place.number).to_bits() & !0xff));
    let (state, out, device) = (home.path("state"), home.path("."), place.device());
    let words = ["gateway", "up", "--no-serve", "--name", NAME, "--client", NAME, "--no-nat", "--dns", "none"];
    let more = ["--pool-ipv6", "none", "--route", &pool, "--pool", &pool, "--dev", &device, "--port", &port];
    let where_to = ["--endpoint", &endpoint, "--listen", &endpoint];
    let paths = ["--state-dir".into(), state.clone().into_os_string(), "--out".into(), out.into_os_string()];
    let mut command = ourselves(&[words.as_slice(), &more, &where_to].concat(), paths);
    let output = net.run(move || command.output())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("minivpn gateway up: {said}")));
    }
    let (config, profile) = (state.join("server.conf"), home.path(&format!("{NAME}.ovpn")));
    let [config, profile] = net.run(|| Ok([std::fs::read_to_string(config)?, std::fs::read_to_string(profile)?]))?;
    let alike = format!("tun-mtu {TUNNEL_MTU}\nmssfix 0\ntxqueuelen {QUEUE}\n");
    // Several tunnels live in one namespace: none may take another's routes.
    let own = format!("route-nopull\ndev-type tun\n{alike}");
    Ok((config + &alike, profile.replace("\ndev tun\n", &format!("\ndev {device}\n")) + &own))
}

/// The options of both ends.
fn flags(engine: Engine, aead: AeadChoice, cpus: &[usize], run: PathBuf) -> impl Iterator<Item = OsString> {
    let cpu = cpus.first().map_or_else(|| "none".to_owned(), usize::to_string);
    let words = ["--io", engine.name(), "--aead", aead.name(), "--cpu", &cpu, "--log-level", "info", "--run-dir"];
    words.map(OsString::from).into_iter().chain([run.into_os_string()])
}

fn completed(line: &str) -> Option<()> {
    line.contains(COMPLETED).then_some(())
}

/// What the gateway says of itself, once it has its client; and the client's address inside.
fn status(net: &Net, home: &Home, stop: &AtomicBool) -> io::Result<(Snapshot, Ipv4Addr)> {
    let socket = home.run(End::B).join(format!("{SERVED}.sock"));
    let start = Instant::now();
    loop {
        let socket = socket.clone();
        let answer = net.run(move || requests::ask(&socket, &Request::Status).map_err(io::Error::other))?;
        let snapshot: Snapshot = serde_json::from_value(answer)?;
        if let Some(inner) = snapshot.clients.first().and_then(|client| client.ipv4) {
            return Ok((snapshot, inner));
        }
        pass(start, stop)?;
    }
}

/// How one end moves packets, in its own words.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    engine: String,
    cipher: String,
    aead: String,
    offloads: String,
}

fn gateways(snapshot: &Snapshot) -> Said {
    let path = &snapshot.gateway.data_path;
    Said {
        engine: path.engine.clone(),
        cipher: snapshot.clients.first().map(|client| client.cipher.clone()).unwrap_or_default(),
        aead: path.aead.clone(),
        offloads: snapshot.workers.first().map(|worker| worker.offloads.clone()).unwrap_or_default(),
    }
}

/// A client has no control socket: it says it in its log.
fn clients(client: &mut Child, stop: &AtomicBool) -> io::Result<Said> {
    let mut word = |before: &str, end: &str| client.wait_line(|line| between(line, before, end), READY, stop);
    Ok(Said {
        engine: word("I/O engine ", ":")?,
        cipher: word(", data channel ", ",")?,
        aead: word("AEAD ", ":")?,
        offloads: word("offloads in use: ", "\n")?,
    })
}

/// What stands in a line behind one thing and before another, or before its end.
fn between(line: &str, before: &str, end: &str) -> Option<String> {
    let (_, rest) = line.split_once(before)?;
    Some(rest.split_once(end).map_or(rest, |(found, _)| found).to_owned())
}

/// One sentence where both ends say the same.
fn in_use([gateway, client]: &[Said; 2]) -> String {
    let words = |said: &Said| format!("{}, {} by {}, {}", said.engine, said.cipher, said.aead, said.offloads);
    match gateway == client {
        true => words(gateway),
        false => format!("gateway: {}; client: {}", words(gateway), words(client)),
    }
}

/// Where the two workers are pinned, in words.
fn workers(place: &Place) -> String {
    match (place.a.first(), place.b.first()) {
        (Some(a), Some(b)) => format!("workers on CPU {a} and {b}"),
        _ => "workers unpinned".to_owned(),
    }
}

/// Where the two ends keep their files: in `/run` of their namespaces, which goes with these however the benchmark ends; or,
/// where that is the host's, in a directory that goes with this value.
#[derive(Debug)]
pub(super) struct Home {
    directory: PathBuf,
    on_the_host: bool,
}

impl Home {
    fn new(ground: &Ground, place: &Place) -> io::Result<Home> {
        let private = [End::A, End::B].into_iter().all(|end| ground.end(end).has_private_run());
        let name = format!("minivpn-bench-{}-{}", std::process::id(), place.number);
        if !private {
            let directory = std::env::temp_dir().join(name);
            // Fails where somebody has made one of that name: keys go into no directory of others.
            DirBuilder::new().mode(0o700).create(&directory)?;
            return Ok(Home { directory, on_the_host: true });
        }
        let home = Home { directory: PathBuf::from("/run").join(name), on_the_host: false };
        for end in [End::A, End::B] {
            let directory = home.directory.clone();
            ground.end(end).run(move || DirBuilder::new().mode(0o700).create(directory))?;
        }
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// An end's run directory.
    fn run(&self, end: End) -> PathBuf {
        self.path(if end == End::A { "run-a" } else { "run-b" })
    }

    /// Writes a file at one end.
    fn write(&self, net: &Net, name: &str, text: String) -> io::Result<PathBuf> {
        let path = self.path(name);
        let file = path.clone();
        net.run(move || {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?.write_all(text.as_bytes())
        })?;
        Ok(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.on_the_host {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(aead: &str) -> Said {
        let [engine, cipher, offloads] = ["io_uring", "AES-256-GCM", "TUN csum, socket UDP_GRO"].map(str::to_owned);
        Said { engine, cipher, aead: aead.to_owned(), offloads }
    }

    #[test]
    fn a_word_is_found_between_others_or_up_to_the_end() {
        let line = "2026-01-01T00:00:00Z  INFO I/O engine io_uring: this kernel has it";
        assert_eq!(between(line, "I/O engine ", ":").as_deref(), Some("io_uring"));
        assert_eq!(between("offloads in use: TUN none", "use: ", "\n").as_deref(), Some("TUN none"));
        assert_eq!(between(line, "AEAD ", ":"), None);
    }

    #[test]
    fn two_ends_that_do_the_same_are_described_once() {
        let same = in_use(&[said("ring"), said("ring")]);
        assert_eq!(same, "io_uring, AES-256-GCM by ring, TUN csum, socket UDP_GRO");
        let other = in_use(&[said("ring"), said("ipsec-mb")]);
        assert!(
            other.starts_with("gateway: ") && other.contains("; client: io_uring, AES-256-GCM by ipsec-mb"),
            "{other}"
        );
    }

    #[test]
    fn an_end_is_told_how_to_move_packets() {
        let words = |cpus: &[usize]| -> Vec<OsString> {
            flags(Engine::Syscall, AeadChoice::IpsecMb, cpus, PathBuf::from("/run/x")).collect()
        };
        let all = words(&[3, 4]);
        for pair in [["--io", "syscall"], ["--aead", "ipsec-mb"], ["--cpu", "3"], ["--run-dir", "/run/x"]] {
            assert!(all.windows(2).any(|two| two == pair.map(OsString::from)), "{pair:?} in {all:?}");
        }
        assert!(words(&[]).windows(2).any(|two| two == ["--cpu", "none"].map(OsString::from)));
    }

    #[test]
    fn a_home_on_the_host_goes_with_its_value_and_one_in_a_namespace_is_left_to_that() {
        for on_the_host in [true, false] {
            let directory = std::env::temp_dir().join(format!("minivpn-home-{on_the_host}-{}", std::process::id()));
            std::fs::create_dir_all(directory.join("state")).unwrap();
            drop(Home { directory: directory.clone(), on_the_host });
            assert_eq!(directory.exists(), !on_the_host);
            let _ = std::fs::remove_dir_all(&directory);
        }
    }
}

//! Echo requests that are counted exactly.
//!
//! ping(8) leaves twice the longest round trip after its last request, 2 ms here: a server that the scheduler kept
//! waiting for longer would count as loss. This one waits for every answer.

use crate::netns::Ns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What is sent next goes out after this long, or earlier once something has been answered.
const PACE: Duration = Duration::from_millis(2);
/// How long the last answers may take.
const DRAIN: Duration = Duration::from_secs(2);
/// How long answers of many may take.
const ALL: Duration = Duration::from_secs(3);
/// Bytes of an ICMP echo header (RFC 792, RFC 4443): type, code, checksum, identifier, sequence number.
const HEADER: usize = 8;
/// Bytes behind the header, as ping(8) sends by default.
const PAYLOAD: usize = 56;

/// Sends `count` echo requests; the sequence numbers, from 0, that nobody answered, each counted once.
pub fn unanswered(ns: &Ns, to: IpAddr, count: u16) -> Vec<u16> {
    // Unprivileged ICMP sockets: the kernel fills in identifier and checksum and delivers our own answers alone.
    ns.set("net/ipv4/ping_group_range", "0 2147483647");
    ns.inside(|| exchange(to, count).unwrap_or_else(|e| panic!("echo requests to {to}: {e}")))
}

/// Asks each of these once, all at the same time, and waits up to 3 s; those that did not answer.
pub fn silent(ns: &Ns, targets: &[IpAddr]) -> Vec<IpAddr> {
    ns.set("net/ipv4/ping_group_range", "0 2147483647");
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = targets.iter().partition(|to| to.is_ipv4());
    ns.inside(|| [ask_all(&v4), ask_all(&v6)].concat())
}

fn ask_all(targets: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = targets.first() else { return Vec::new() };
    let (mut socket, request) = open(*first).expect("an ICMP socket");
    let mut missing = BTreeSet::new();
    for (sequence, to) in (0u16..).zip(targets) {
        // A refused request (no route) is one that nobody answers.
        let _ = socket.send_to(&packet(request, sequence), &SockAddr::from(SocketAddr::new(*to, 0)));
        missing.insert(sequence);
        // Those that came meanwhile make room in the queue.
        take_answer(&mut socket, PACE, &mut missing).expect("a time limit can be set");
    }
    let start = Instant::now();
    while let Some(left) = ALL.checked_sub(start.elapsed()).filter(|left| !left.is_zero() && !missing.is_empty()) {
        take_answer(&mut socket, left, &mut missing).expect("a time limit can be set");
    }
    missing.into_iter().filter_map(|sequence| targets.get(usize::from(sequence)).copied()).collect()
}

fn open(to: IpAddr) -> io::Result<(Socket, u8)> {
    let (domain, protocol, request) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    Ok((Socket::new(domain, Type::DGRAM, Some(protocol))?, request))
}

fn packet(request: u8, sequence: u16) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0u8; HEADER + PAYLOAD];
    packet[0] = request;
    packet[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
    packet
}

fn exchange(to: IpAddr, count: u16) -> io::Result<Vec<u16>> {
    let (mut socket, request) = open(to)?;
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    let mut missing: BTreeSet<u16> = (0..count).collect();
    for sequence in 0..count {
        // A refused request (no route, a full queue) is one that nobody answers.
        let _ = socket.send(&packet(request, sequence));
        take_answer(&mut socket, PACE, &mut missing)?;
    }
    let start = Instant::now();
    while let Some(left) = DRAIN.checked_sub(start.elapsed()).filter(|left| !left.is_zero() && !missing.is_empty()) {
        take_answer(&mut socket, left, &mut missing)?;
    }
    Ok(missing.into_iter().collect())
}

/// Waits for one answer and strikes it off.
fn take_answer(socket: &mut Socket, limit: Duration, missing: &mut BTreeSet<u16>) -> io::Result<()> {
    let mut answer = [0u8; 2048];
    socket.set_read_timeout(Some(limit))?;
    match socket.read(&mut answer) {
        Ok(len) if len >= HEADER && (answer[0] == 0 || answer[0] == 129) => {
            missing.remove(&u16::from_be_bytes([answer[6], answer[7]]));
            Ok(())
        }
        // Something else, silence, or an ICMP error about an earlier request.
        Ok(_) | Err(_) => Ok(()),
    }
}

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

fn exchange(to: IpAddr, count: u16) -> io::Result<Vec<u16>> {
    let (domain, protocol, request) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.connect(&SockAddr::from(SocketAddr::new(to, 0)))?;
    let mut missing: BTreeSet<u16> = (0..count).collect();
    for sequence in 0..count {
        let mut packet = [0u8; HEADER + PAYLOAD];
        packet[0] = request;
        packet[6..HEADER].copy_from_slice(&sequence.to_be_bytes());
        // A refused request (no route, a full queue) is one that nobody answers.
        let _ = socket.send(&packet);
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

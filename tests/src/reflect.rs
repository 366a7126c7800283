//! Packets that come back as they went: a raw socket in a namespace takes every IPv4 packet of one protocol number and sends it to where
//! it came from, with its two addresses exchanged and nothing else changed. Packets of any length can be followed that way.

use crate::netns::Ns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// "Use for experimentation and testing" (RFC 3692).
pub const PROTOCOL: u8 = 253;
/// Bytes of an IPv4 header without options.
pub const HEADER: usize = 20;

/// A running reflector, stopped on drop.
#[derive(Debug)]
pub struct Reflector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reflector {
    /// Starts one in a namespace.
    pub fn start(ns: &Ns) -> Self {
        let (stop, handle) = (Arc::<AtomicBool>::default(), ns.handle());
        let stopped = Arc::clone(&stop);
        let socket = ns.inside(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(PROTOCOL))));
            let socket = socket.expect("root may open a raw socket");
            socket.set_header_included_v4(true).expect("a raw socket takes whole packets");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit can be set");
            let _ = socket.set_recv_buffer_size(8 << 20);
            socket
        });
        let thread = std::thread::spawn(move || {
            handle.enter();
            while !stopped.load(Relaxed) {
                reflect(&socket);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reflect(mut socket: &Socket) {
    let mut packet = [0u8; 2048];
    let Ok(len) = std::io::Read::read(&mut socket, &mut packet) else { return };
    if len < HEADER {
        return;
    }
    let (from, to) = ([12, 13, 14, 15].map(|at| packet[at]), [16, 17, 18, 19].map(|at| packet[at]));
    packet[12..16].copy_from_slice(&to);
    packet[16..20].copy_from_slice(&from);
    let to = SockAddr::from(SocketAddr::from((from, 0)));
    let _ = socket.send_to(&packet[..len], &to);
}

/// An IPv4 packet of `length` bytes (20 to 65,535) with this number (not 0), whose bytes follow from both.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u16, length: usize) -> Vec<u8> {
    let mut packet = vec![0u8; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&u16::try_from(length).expect("an IP packet's length").to_be_bytes());
    packet[4..6].copy_from_slice(&number.to_be_bytes());
    (packet[8], packet[9]) = (64, PROTOCOL);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&packet[..HEADER]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    fill(&mut packet[HEADER..], number);
    packet
}

/// The number of a packet that came back whole; why it did not, otherwise.
pub fn check(packet: &[u8]) -> Result<u16, String> {
    if packet.len() < HEADER || packet[0] != 0x45 || packet[9] != PROTOCOL {
        return Err(format!("not one of ours: {:02x?}", &packet[..packet.len().min(40)]));
    }
    let said = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let number = u16::from_be_bytes([packet[4], packet[5]]);
    let mut expected = vec![0; packet.len() - HEADER];
    fill(&mut expected, number);
    if said != packet.len() || checksum(&packet[..HEADER]) != 0 || expected != packet[HEADER..] {
        return Err(format!("packet {number} of {} bytes is not what it was", packet.len()));
    }
    Ok(number)
}

fn fill(payload: &mut [u8], number: u16) {
    let mut state = u32::from(number) | 0x5bd1_0000;
    for byte in payload {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_that_changed_on_its_way_is_found_out() {
        let (from, to) = (Ipv4Addr::new(10, 8, 0, 2), Ipv4Addr::new(10, 8, 0, 1));
        for length in [20, 21, 1500] {
            let good = packet(from, to, 7, length);
            assert_eq!(check(&good), Ok(7));
            let mut bad = good.clone();
            *bad.last_mut().expect("not empty") ^= 1;
            assert!(check(&bad).is_err(), "{length}");
            assert!(check(&good[..length - 1]).is_err(), "{length}");
        }
    }
}

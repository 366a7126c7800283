//! For tests: hosts that answer as they are told to, on a clock that nobody waits for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr,
};

use super::wire::{Came, Wire};
use crate::exit::{Exit, Fatal};

/// A whole and right answer to a request.
pub(super) fn reply(request: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = request.to_vec();
    if request[0] >> 4 == 4 {
        let ip = Ipv4Packet::new_checked(request).ok()?;
        (ip.next_header() == IpProtocol::Icmp && request[20] == 8).then_some(())?;
        let mut answer = Icmpv4Packet::new_unchecked(&mut bytes[20..]);
        answer.set_msg_type(Icmpv4Message::EchoReply);
        answer.fill_checksum();
        let body = bytes.split_off(20);
        Some(packet(ip.dst_addr().into(), ip.src_addr().into(), &body))
    } else {
        let ip = Ipv6Packet::new_checked(request).ok()?;
        (ip.next_header() == IpProtocol::Icmpv6 && request[40] == 128).then_some(())?;
        let mut answer = Icmpv6Packet::new_unchecked(&mut bytes[40..]);
        answer.set_msg_type(Icmpv6Message::EchoReply);
        answer.fill_checksum(&ip.dst_addr(), &ip.src_addr());
        let body = bytes.split_off(40);
        Some(packet(ip.dst_addr().into(), ip.src_addr().into(), &body))
    }
}

/// The same request with so many bytes less.
pub(super) fn shortened(request: &[u8], by: usize) -> Vec<u8> {
    let body = &request[20..request.len() - by];
    resized(request, body)
}

/// The same request with so many bytes more.
pub(super) fn lengthened(request: &[u8], by: usize) -> Vec<u8> {
    let body = [&request[20..], &vec![0; by]].concat();
    resized(request, &body)
}

fn resized(request: &[u8], body: &[u8]) -> Vec<u8> {
    let ip = Ipv4Packet::new_checked(request).unwrap();
    packet(ip.src_addr().into(), ip.dst_addr().into(), body)
}

/// An ICMP error about (the beginning of) a packet.
pub(super) fn error(quoted: &[u8], from: IpAddr, kind: u8, code: u8, mtu: u32) -> Vec<u8> {
    let mut body = [&[kind, code, 0, 0][..], &mtu.to_be_bytes(), quoted].concat();
    match from {
        IpAddr::V4(from) => {
            let to = std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&quoted[12..16]).unwrap());
            Icmpv4Packet::new_unchecked(&mut body[..]).fill_checksum();
            packet(from.into(), to.into(), &body)
        }
        IpAddr::V6(from) => {
            let to = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&quoted[8..24]).unwrap());
            Icmpv6Packet::new_unchecked(&mut body[..]).fill_checksum(&from, &to);
            packet(from.into(), to.into(), &body)
        }
    }
}

fn packet(from: IpAddr, to: IpAddr, body: &[u8]) -> Vec<u8> {
    let (payload_len, hop_limit) = (body.len(), 64);
    match (from, to) {
        (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
            let mut bytes = [&[0; 20], body].concat();
            let ip = Ipv4Repr { src_addr, dst_addr, next_header: IpProtocol::Icmp, payload_len, hop_limit };
            ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &ChecksumCapabilities::default());
            bytes
        }
        (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
            let mut bytes = [&[0; 40], body].concat();
            let ip = Ipv6Repr { src_addr, dst_addr, next_header: IpProtocol::Icmpv6, payload_len, hop_limit };
            ip.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[..]));
            bytes
        }
        _ => unreachable!("two families"),
    }
}

/// What comes back for a packet, and how long after it.
pub(super) type Answers = Vec<(Duration, Vec<u8>)>;

type Answerer = Box<dyn FnMut(&[u8]) -> Answers>;

/// The other end of a wire.
pub(super) struct Responder {
    now: Duration,
    answer: Answerer,
    coming: BTreeMap<(Duration, usize), Vec<u8>>,
    /// What was sent, and when.
    pub sent: Vec<(Duration, Vec<u8>)>,
    /// When the user interrupts.
    pub interrupt: Option<Duration>,
    /// When the tunnel ends.
    pub end: Option<Duration>,
}

impl Responder {
    /// Answers each packet as `answer` says.
    pub(super) fn new(answer: impl FnMut(&[u8]) -> Answers + 'static) -> Responder {
        let (coming, sent) = (BTreeMap::new(), Vec::new());
        Responder { now: Duration::ZERO, answer: Box::new(answer), coming, sent, interrupt: None, end: None }
    }
}

impl Wire for Responder {
    fn now(&self) -> Duration {
        self.now
    }

    async fn send(&mut self, packet: &[u8]) -> Result<(), Fatal> {
        for (after, bytes) in (self.answer)(packet) {
            self.coming.insert((self.now + after, self.sent.len() * 1_000 + self.coming.len()), bytes);
        }
        self.sent.push((self.now, packet.to_vec()));
        Ok(())
    }

    async fn receive(&mut self, packet: &mut [u8], until: Duration) -> Result<Came, Fatal> {
        let next = self.coming.first_key_value().map(|((at, _), _)| *at);
        let then = next.map_or(until, |at| at.min(until)).max(self.now);
        if let Some(at) = self.end.filter(|at| *at <= then) {
            self.now = at.max(self.now);
            return Err(Fatal::new(Exit::Unreachable, "the tunnel ended"));
        }
        if let Some(at) = self.interrupt.filter(|at| *at <= then) {
            self.now = at.max(self.now);
            return Ok(Came::Interrupt);
        }
        self.now = then;
        if next.is_none_or(|at| at > then) {
            return Ok(Came::Nothing);
        }
        let (_, bytes) = self.coming.pop_first().unwrap();
        packet[..bytes.len()].copy_from_slice(&bytes);
        Ok(Came::Packet(bytes.len()))
    }
}

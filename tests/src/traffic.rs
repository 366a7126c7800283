//! Traffic that tells on its carrier: numbered datagrams that are missed, and streams whose checksum must agree.

use crate::netns::Ns;
use crate::steady;
use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What a stream of numbered datagrams looks like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Datagrams per second.
    pub rate: u32,
    /// Payload of each in bytes, 8 to 2000.
    pub payload: usize,
}

impl Shape {
    /// 1,000 datagrams of 200 bytes a second.
    pub const SMALL: Self = Self { rate: 1000, payload: 200 };
    /// 500 datagrams a second, each a full 1,500-byte IPv4 packet.
    pub const FULL: Self = Self { rate: 500, payload: 1472 };
}

/// A running generator of numbered datagrams with its receiver.
#[derive(Debug)]
pub struct Stream {
    sending: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    sender: JoinHandle<(u64, u64)>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What became of a stream of numbered datagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many were sent.
    pub sent: u64,
    /// How many the kernel refused to send (no route, interface gone).
    pub refused: u64,
    /// Numbers that never arrived, refused ones among them.
    pub missing: Vec<u64>,
    /// Arrivals of a number that had arrived before.
    pub doubled: u64,
    /// Arrivals of a number lower than one that had arrived before.
    pub overtaken: u64,
}

impl Stream {
    /// Sends datagrams of this shape from `source` in one namespace to `target` in another, until finished.
    pub fn start(from: &Ns, source: IpAddr, to: &Ns, target: SocketAddr, shape: Shape) -> Self {
        let out = from.inside(|| UdpSocket::bind((source, 0)).expect("the source address is there"));
        let inn = to.inside(|| UdpSocket::bind(target).expect("the target address is there"));
        inn.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit can be set");
        steady::deepen(&inn);
        [from, to].into_iter().for_each(steady::deepen_tuns_of);
        let sending = Arc::new(AtomicBool::new(true));
        let receiving = Arc::new(AtomicBool::new(true));
        let (go, listen) = (Arc::clone(&sending), Arc::clone(&receiving));
        let receiver = thread::spawn(move || receive(&inn, shape.payload, &listen));
        let sender = thread::spawn(move || send(&out, target, shape, &go));
        Self { sending, receiving, sender, receiver }
    }

    /// Stops sending, listens for `drain` more, and reports.
    pub fn finish(self, drain: Duration) -> Report {
        self.sending.store(false, Ordering::Relaxed);
        let (sent, refused) = self.sender.join().expect("the sender does not panic");
        thread::sleep(drain);
        self.receiving.store(false, Ordering::Relaxed);
        let arrived = self.receiver.join().expect("the receiver does not panic");
        report(sent, refused, &arrived)
    }
}

impl Report {
    /// Whether every number arrived, and none was refused.
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.refused == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = serde_json::json!({
            "sent": self.sent,
            "refused": self.refused,
            "missing": self.missing.len(),
            "doubled": self.doubled,
            "overtaken": self.overtaken,
            "runs": runs(&self.missing),
        });
        write!(f, "{lost}")
    }
}

/// What became of a stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// Bytes sent.
    pub bytes: u64,
    /// Bytes received.
    pub received: u64,
    /// From connecting to the last byte's arrival.
    pub took: Duration,
    /// Whether what arrived has the checksum of what was sent.
    pub same: bool,
}

impl Transfer {
    /// Payload throughput in megabits per second.
    pub fn mbit(&self) -> f64 {
        self.bytes as f64 * 8e-6 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Sends `bytes` bytes over TCP from one namespace to an address of another.
pub fn transfer(from: &Ns, to: &Ns, target: SocketAddr, bytes: u64) -> Transfer {
    let limit = Some(Duration::from_secs(30));
    let listener = to.inside(|| TcpListener::bind(target).expect("the target address is there"));
    let start = Instant::now();
    let stream = from.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(10)));
    let mut stream = stream.unwrap_or_else(|e| panic!("no TCP connection to {target}: {e}"));
    let (mut accepted, _) = listener.accept().expect("a connection that was made can be accepted");
    stream.set_write_timeout(limit).expect("a time limit can be set");
    accepted.set_read_timeout(limit).expect("a time limit can be set");
    let sender = thread::spawn(move || pour(&mut stream, bytes));
    let (received, got) = drain(&mut accepted);
    let took = start.elapsed();
    let sent = sender.join().expect("the sender does not panic");
    Transfer { bytes, received, took, same: received == bytes && sent == got }
}

fn send(socket: &UdpSocket, target: SocketAddr, shape: Shape, go: &AtomicBool) -> (u64, u64) {
    let gap = Duration::from_secs(1) / shape.rate;
    let (mut number, mut refused) = (0u64, 0u64);
    let mut due = Instant::now();
    let mut payload = vec![0u8; shape.payload];
    while go.load(Ordering::Relaxed) {
        payload[..8].copy_from_slice(&number.to_be_bytes());
        if socket.send_to(&payload, target).is_err() {
            refused += 1;
        }
        number += 1;
        due += gap;
        let now = Instant::now();
        match due.checked_duration_since(now) {
            Some(wait) => thread::sleep(wait),
            // A starved sender must not catch up in a burst that overflows queues by itself.
            None if now - due > Duration::from_millis(20) => due = now,
            None => {}
        }
    }
    (number, refused)
}

/// The numbers of the datagrams of this size that came, in their order.
pub(crate) fn receive(socket: &UdpSocket, size: usize, go: &AtomicBool) -> Vec<u64> {
    let mut arrived = Vec::new();
    let mut buffer = [0u8; 2048];
    while go.load(Ordering::Relaxed) {
        if socket.recv(&mut buffer).is_ok_and(|n| n == size)
            && let Some(number) = buffer.first_chunk::<8>()
        {
            arrived.push(u64::from_be_bytes(*number));
        }
    }
    arrived
}

/// What became of `sent` datagrams, of which these numbers arrived.
pub(crate) fn report(sent: u64, refused: u64, arrived: &[u64]) -> Report {
    let mut seen = vec![false; usize::try_from(sent).expect("a test's count fits memory")];
    let (mut doubled, mut overtaken, mut highest) = (0, 0, None);
    for number in arrived {
        let Some(slot) = usize::try_from(*number).ok().and_then(|n| seen.get_mut(n)) else {
            continue;
        };
        if std::mem::replace(slot, true) {
            doubled += 1;
        }
        if Some(*number) < highest {
            overtaken += 1;
        }
        highest = highest.max(Some(*number));
    }
    let missing = (0u64..).zip(&seen).filter(|(_, seen)| !**seen).map(|(n, _)| n).collect();
    Report { sent, refused, missing, doubled, overtaken }
}

/// Runs of consecutive numbers as `first-last`, the first ten of them.
fn runs(numbers: &[u64]) -> Vec<String> {
    let groups = numbers.chunk_by(|a, b| a + 1 == *b).take(10);
    groups.filter_map(|group| Some(format!("{}-{}", group.first()?, group.last()?))).collect()
}

/// Writes pseudo-random bytes and returns their checksum; a broken connection ends it early.
fn pour(stream: &mut TcpStream, bytes: u64) -> u64 {
    let (mut left, mut state, mut sum) = (bytes, 0x1234_5678_9abc_def1u64, Checksum::default());
    let mut buffer = vec![0u8; 64 << 10];
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
        sum.add(&buffer[..n]);
        left -= n as u64;
    }
    sum.0
}

fn drain(stream: &mut TcpStream) -> (u64, u64) {
    let (mut received, mut sum) = (0, Checksum::default());
    let mut buffer = vec![0u8; 64 << 10];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            break;
        }
        sum.add(&buffer[..n]);
        received += n as u64;
    }
    (received, sum.0)
}

/// The 64-bit FNV-1a hash: sees every flipped, moved or missing byte, whatever the pieces it came in.
struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_doubled_and_overtaken_numbers_are_told_apart() {
        let got = report(6, 0, &[0, 2, 1, 2, 5]);
        assert_eq!(got.missing, [3, 4]);
        assert_eq!((got.doubled, got.overtaken), (1, 1));
        assert_eq!(runs(&got.missing), ["3-4"]);
        assert!(report(3, 0, &[0, 1, 2]).missing.is_empty());
    }

    #[test]
    fn the_checksum_sees_a_moved_byte_but_not_the_pieces() {
        let sum = |pieces: &[&[u8]]| {
            let mut sum = Checksum::default();
            pieces.iter().for_each(|piece| sum.add(piece));
            sum.0
        };
        assert_eq!(sum(&[b"abcd", b"ef"]), sum(&[b"ab", b"cdef"]));
        assert_ne!(sum(&[b"abcd"]), sum(&[b"abdc"]));
    }
}

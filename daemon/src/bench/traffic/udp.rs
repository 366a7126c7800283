//! UDP: numbered datagrams of equal size, sent as fast as the sender can or at a given rate, and counted where they arrive.
//!
//! They leave in trains that the kernel cuts into datagrams (UDP_SEGMENT), and are taken as they come, joined or not
//! (UDP_GRO), as QUIC servers and clients do it: one call for each datagram would make the generator the slowest part. Where
//! trains are refused, every datagram leaves by itself, many in one call.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Crew, LOOK_UP, any_port};
use crate::bench::net::Net;
use crate::sys;

/// Bytes that the number of a datagram takes, at its beginning.
const NUMBER: usize = 8;
/// Datagrams in a train at most: what every kernel with UDP_SEGMENT takes (UDP_MAX_SEGMENTS in linux/udp.h was 64 at first).
const TRAIN: usize = 64;
/// Bytes in a train at most: one IPv4 packet with its headers, and some room for options.
const TRAIN_BYTES: usize = 65_000;
/// Receive buffer in bytes: a burst of a few thousand small datagrams.
const BUFFER: i32 = 8 << 20;

/// A stream of datagrams.
#[derive(Debug)]
pub(in crate::bench) struct Blast {
    counts: Arc<Counts>,
    _crew: Crew,
}

/// Both sides' counters.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
    bytes: AtomicU64,
    /// One more than the highest number that arrived.
    highest: AtomicU64,
}

/// What a look at it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bench) struct Look {
    /// Datagrams that the sender's kernel took.
    pub(in crate::bench) sent: u64,
    /// Datagrams that arrived.
    pub(in crate::bench) received: u64,
    /// Their payload in bytes.
    pub(in crate::bench) bytes: u64,
    /// One more than the highest number among them.
    pub(in crate::bench) highest: u64,
}

impl Look {
    /// Of the datagrams numbered between an earlier look and this one, the share that did not arrive, 0 to 1. What is
    /// still on its way is not among them.
    pub(in crate::bench) fn loss_since(&self, earlier: &Look) -> f64 {
        let numbered = self.highest.saturating_sub(earlier.highest);
        let arrived = self.received.saturating_sub(earlier.received).min(numbered);
        if numbered == 0 { 0.0 } else { (numbered - arrived) as f64 / numbered as f64 }
    }
}

impl Blast {
    /// Sends datagrams of `size` payload bytes (at least 8) from one end to an address of the other; `rate` a second, or
    /// without limit when it is 0.
    ///
    /// # Errors
    /// The sockets could not be made.
    pub(in crate::bench) fn start(from: &Net, to: &Net, address: Ipv4Addr, size: u32, rate: u64) -> io::Result<Blast> {
        let mut crew = Crew::default();
        let counts = Arc::new(Counts::default());
        let receiver = to.run(move || UdpSocket::bind(any_port(address)))?;
        sys::widen_receiver(receiver.as_fd(), BUFFER);
        receiver.set_read_timeout(Some(LOOK_UP))?;
        let target = receiver.local_addr()?;
        let sender = from.run(move || {
            let sender = UdpSocket::bind(any_port(Ipv4Addr::UNSPECIFIED))?;
            sender.connect(target)?;
            Ok(sender)
        })?;
        let mut sender = Sender::new(sender, usize::try_from(size).unwrap_or(usize::MAX));
        let (stop, shared) = (crew.flag(), Arc::clone(&counts));
        crew.add(std::thread::spawn(move || receive(&receiver, &shared, &stop)));
        let (stop, shared) = (crew.flag(), Arc::clone(&counts));
        crew.add(std::thread::spawn(move || send(&mut sender, rate, &shared, &stop)));
        Ok(Blast { counts, _crew: crew })
    }

    /// Where it stands.
    pub(in crate::bench) fn look(&self) -> Look {
        Look {
            sent: self.counts.sent.load(Ordering::Relaxed),
            received: self.counts.received.load(Ordering::Relaxed),
            bytes: self.counts.bytes.load(Ordering::Relaxed),
            highest: self.counts.highest.load(Ordering::Relaxed),
        }
    }
}

/// The sending socket, and room for what one call sends.
struct Sender {
    socket: UdpSocket,
    /// Payload bytes of a datagram.
    size: usize,
    /// Datagrams one behind the other: as many as one call sends.
    datagrams: Vec<u8>,
    /// The kernel cuts trains.
    trains: bool,
}

impl Sender {
    fn new(socket: UdpSocket, size: usize) -> Sender {
        let size = size.clamp(NUMBER, TRAIN_BYTES);
        let count = (TRAIN_BYTES / size).clamp(1, TRAIN);
        let segment = u16::try_from(size).ok().filter(|_| count > 1);
        let trains = segment.is_some_and(|size| sys::segment_sends(socket.as_fd(), size).is_ok());
        Sender { socket, size, datagrams: vec![0; size * count], trains }
    }

    /// How many datagrams one call sends at most.
    fn most(&self) -> u64 {
        (self.datagrams.len() / self.size) as u64
    }

    /// Sends the datagrams with these numbers, [`most`](Self::most) at most; how many the kernel took.
    fn send(&mut self, numbers: Range<u64>) -> io::Result<u64> {
        let mut len = 0;
        for (datagram, number) in self.datagrams.chunks_exact_mut(self.size).zip(numbers) {
            if let Some(head) = datagram.first_chunk_mut() {
                *head = number.to_be_bytes();
            }
            len += self.size;
        }
        let bytes = self.datagrams.get(..len).unwrap_or_default();
        if !self.trains {
            return sys::send_many(self.socket.as_fd(), bytes.chunks_exact(self.size)).map(|sent| sent as u64);
        }
        match self.socket.send(bytes) {
            Ok(sent) => Ok((sent / self.size) as u64),
            // A datagram longer than the path's MTU cannot be a segment; a device without checksums takes none
            // before Linux 6.11 (EIO).
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO)) => {
                sys::segment_sends(self.socket.as_fd(), 0)?;
                self.trains = false;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

fn send(sender: &mut Sender, rate: u64, counts: &Counts, stop: &AtomicBool) {
    let start = Instant::now();
    let mut next = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = due(start.elapsed(), rate).saturating_sub(next).min(sender.most());
        if due == 0 {
            std::thread::sleep(Duration::from_micros(100));
            continue;
        }
        match sender.send(next..next + due) {
            Ok(sent) => next += sent,
            // ENOBUFS says that a queue is full, ECONNREFUSED that the receiver has gone already.
            Err(_) => std::thread::yield_now(),
        }
        counts.sent.store(next, Ordering::Relaxed);
    }
}

/// How many datagrams should have gone by now.
fn due(elapsed: Duration, rate: u64) -> u64 {
    if rate == 0 { u64::MAX } else { (elapsed.as_secs_f64() * rate as f64) as u64 }
}

fn receive(socket: &UdpSocket, counts: &Counts, stop: &AtomicBool) {
    let mut buffers = vec![vec![0; 65_536]; sys::MANY];
    let mut sum = Look::default();
    while !stop.load(Ordering::Relaxed) {
        // Nothing in time is nothing to count.
        let _ = sys::receive_many(socket.as_fd(), &mut buffers, |bytes, segment| {
            bytes.chunks(segment.max(1)).for_each(|datagram| sum.count(datagram));
        });
        counts.received.store(sum.received, Ordering::Relaxed);
        counts.bytes.store(sum.bytes, Ordering::Relaxed);
        counts.highest.store(sum.highest, Ordering::Relaxed);
    }
}

impl Look {
    fn count(&mut self, datagram: &[u8]) {
        let Some(number) = datagram.first_chunk::<NUMBER>() else { return };
        self.received += 1;
        self.bytes += datagram.len() as u64;
        self.highest = self.highest.max(u64::from_be_bytes(*number).saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_what_is_missing_below_the_highest_number() {
        let mut look = Look::default();
        for number in [0u64, 1, 2, 5, 7] {
            look.count(&number.to_be_bytes());
        }
        assert_eq!((look.received, look.highest, look.bytes), (5, 8, 40));
        assert_eq!(look.loss_since(&Look::default()), 3.0 / 8.0);
        let mut later = look;
        (8u64..12).for_each(|number| later.count(&number.to_be_bytes()));
        assert_eq!(later.loss_since(&look), 0.0, "what was lost before is not lost again");
        assert_eq!(look.loss_since(&look), 0.0, "nothing sent is nothing lost");
    }

    #[test]
    fn a_datagram_too_short_for_a_number_is_not_ours() {
        let mut look = Look::default();
        look.count(&[0; 7]);
        assert_eq!(look, Look::default());
    }

    /// The numbers and lengths of what arrived until now.
    fn arrived(receiver: &UdpSocket) -> Vec<(u64, usize)> {
        receiver.set_nonblocking(true).unwrap();
        let mut bytes = [0; 65_536];
        let datagram = || {
            let len = receiver.recv(&mut bytes).ok()?;
            Some((u64::from_be_bytes(*bytes.first_chunk().unwrap()), len))
        };
        std::iter::from_fn(datagram).collect()
    }

    fn connected(size: usize) -> (Sender, UdpSocket) {
        let receiver = UdpSocket::bind(any_port(Ipv4Addr::LOCALHOST)).unwrap();
        let sender = UdpSocket::bind(any_port(Ipv4Addr::LOCALHOST)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (Sender::new(sender, size), receiver)
    }

    #[test]
    fn a_train_arrives_as_numbered_datagrams_of_one_size() {
        let (mut sender, receiver) = connected(100);
        assert!(sender.trains);
        assert_eq!(sender.most(), TRAIN as u64);
        for (from, count) in [(0, 64), (64, 1), (65, 5)] {
            assert_eq!(sender.send(from..from + count).unwrap(), count);
            assert_eq!(arrived(&receiver), (from..from + count).map(|n| (n, 100)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn long_datagrams_make_shorter_trains_and_short_ones_have_room_for_a_number() {
        assert_eq!(connected(1_300).0.most(), 50);
        let (mut sender, receiver) = connected(60_000);
        assert!(!sender.trains);
        assert_eq!((sender.most(), sender.send(7..8).unwrap()), (1, 1));
        assert_eq!(arrived(&receiver), [(7, 60_000)]);
        assert_eq!(connected(0).0.size, NUMBER);
        assert_eq!(connected(usize::MAX).0.most(), 1);
    }

    #[test]
    fn where_trains_are_refused_every_datagram_leaves_by_itself() {
        let (mut sender, receiver) = connected(100);
        sys::segment_sends(sender.socket.as_fd(), 1).unwrap();
        assert_eq!(sender.send(0..3).unwrap(), 0, "300 segments of one byte are too many");
        assert!(!sender.trains);
        assert_eq!(sender.send(0..3).unwrap(), 3);
        assert_eq!(arrived(&receiver), [(0, 100), (1, 100), (2, 100)]);
    }

    #[test]
    fn a_rate_is_held_and_none_is_no_limit() {
        assert_eq!(due(Duration::from_millis(1_500), 1_000), 1_500);
        assert_eq!(due(Duration::ZERO, 1_000), 0);
        assert_eq!(due(Duration::ZERO, 0), u64::MAX);
    }
}

//! UDP: numbered datagrams, sent as fast as the sender can or at a given rate, and counted where they arrive.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Crew, LOOK_UP, any_port};
use crate::bench::net::Net;
use crate::sys;

/// Bytes that the number of a datagram takes, at its beginning.
const NUMBER: usize = 8;
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
        let size = usize::try_from(size).unwrap_or(usize::MAX).clamp(NUMBER, 65_000);
        let (stop, shared) = (crew.flag(), Arc::clone(&counts));
        crew.add(std::thread::spawn(move || receive(&receiver, &shared, &stop)));
        let (stop, shared) = (crew.flag(), Arc::clone(&counts));
        crew.add(std::thread::spawn(move || send(&sender, size, rate, &shared, &stop)));
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

fn send(socket: &UdpSocket, size: usize, rate: u64, counts: &Counts, stop: &AtomicBool) {
    let start = Instant::now();
    let mut batch = vec![vec![0; size]; sys::MANY];
    let mut next = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let due = due(start.elapsed(), rate).saturating_sub(next).min(sys::MANY as u64);
        if due == 0 {
            std::thread::sleep(Duration::from_micros(100));
            continue;
        }
        for (datagram, number) in batch.iter_mut().zip(next..next + due) {
            if let Some(head) = datagram.get_mut(..NUMBER) {
                head.copy_from_slice(&number.to_be_bytes());
            }
        }
        match sys::send_many(socket.as_fd(), batch.get(..due as usize).unwrap_or_default()) {
            Ok(sent) => next += sent as u64,
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

    #[test]
    fn a_rate_is_held_and_none_is_no_limit() {
        assert_eq!(due(Duration::from_millis(1_500), 1_000), 1_500);
        assert_eq!(due(Duration::ZERO, 1_000), 0);
        assert_eq!(due(Duration::ZERO, 0), u64::MAX);
    }
}

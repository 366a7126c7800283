//! What one worker hands to another, because it came to the wrong one: datagrams of the other's peers (P_DATA_V1, which says no peer-id,
//! and what the kernel did not steer), and packets for them (from the TUN, or from a peer of this worker).
//!
//! Every ordered pair of workers has two bounded rings of one writer and one reader in plain memory: of bytes, where a packet lies in one
//! piece, and of what is to be known about it. Bytes are copied in once and used where they lie. The ring of the link would serve as well,
//! but it is made for a reader that treats the writer as an enemy, with fixed slots that are copied out and wiped; here both ends are
//! threads of one process, and a super-packet of 64 KiB may stand beside a packet of 60 bytes. A full ring drops, and counts.
//!
//! A worker is woken only when it sleeps: it says so, looks once more, and then sleeps; who hands something over publishes it, and then
//! looks whether the other one sleeps. A sequentially consistent fence stands between the two steps of either, so one of them sees the
//! other.
//!
//! Which worker has a peer is no question: the one with the number [`owner_of`].

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use link::message::Path;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::peers::table::Claim;
use crate::sys::bell::Bell;

/// Bytes on their way from one worker to another: sixteen super-packets. Pages that were never used cost nothing.
const BYTES: usize = 1 << 20;
/// Packets, or super-packets, on their way from one worker to another.
const RECORDS: usize = 2_048;

/// The worker that has this peer, of so many. At least one worker is assumed.
#[inline]
pub fn owner_of(peer: u32, workers: u16) -> u16 {
    // Less than `workers`, so it fits.
    (peer % u32::from(workers.max(1))) as u16
}

/// What is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A datagram of a peer of the reader.
    Datagram {
        /// Where it came in.
        path: Path,
    },
    /// Virtio header and packet, or super-packet, for a peer of the reader.
    Frame {
        /// The peer.
        peer: u32,
    },
    /// What a peer of the writer has to do with this address from now on. No bytes come with it. Only the first worker is told: to it
    /// come all packets without a peer-id.
    Address {
        /// The address.
        remote: SocketAddr,
        /// The peer.
        peer: u32,
        /// Whether it has it.
        claim: Claim,
    },
}

/// What became of something that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is done with.
    Done,
    /// There was no room for it: it stays where it is, unchanged.
    Again,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    what: What,
    /// Bytes before the packet that are not used: it would not have lain in one piece.
    skip: usize,
    len: usize,
}

/// How a worker is woken.
#[derive(Debug)]
struct Doze {
    asleep: AtomicBool,
    bell: Bell,
}

/// The writing end towards one other worker.
#[derive(Debug)]
struct Outgoing {
    records: Producer<Record>,
    bytes: Producer<u8>,
    /// Where in the ring the next byte goes.
    at: usize,
    reader: Arc<Doze>,
    /// Something was written since the reader was last looked at.
    written: bool,
}

impl Outgoing {
    fn push(&mut self, what: What, packet: &[u8]) -> bool {
        if self.records.is_full() {
            return false;
        }
        let to_end = BYTES - self.at;
        let skip = if packet.len() > to_end { to_end } else { 0 };
        if skip + packet.len() > self.bytes.slots() {
            return false;
        }
        if let Ok(skipped) = self.bytes.write_chunk(skip) {
            skipped.commit_all();
        }
        if self.bytes.push_entire_slice(packet).is_err() {
            return false;
        }
        self.at = (self.at + skip + packet.len()) % BYTES;
        self.written = true;
        self.records.push(Record { what, skip, len: packet.len() }).is_ok()
    }
}

/// Where a worker hands over what is another's.
#[derive(Debug)]
pub struct Mates {
    index: u16,
    workers: u16,
    /// By number; none for the worker itself, and none at all where it is alone.
    outgoing: Vec<Option<Outgoing>>,
    /// Something was written since [`wake`](Self::wake).
    written: bool,
}

/// What the others hand over to a worker.
#[derive(Debug)]
pub struct Incoming {
    rings: Vec<(Consumer<Record>, Consumer<u8>)>,
    /// Whose turn it is.
    next: usize,
    doze: Option<Arc<Doze>>,
}

impl Mates {
    /// Of a worker that is alone.
    pub fn none() -> Self {
        Mates { index: 0, workers: 1, outgoing: Vec::new(), written: false }
    }

    /// The worker's own number.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Whether this worker is to tell the first one which addresses its peers have.
    pub fn announces(&self) -> bool {
        self.index != 0
    }

    /// The worker that has this peer, when it is another one.
    #[inline]
    pub fn other(&self, peer: u32) -> Option<u16> {
        Some(owner_of(peer, self.workers)).filter(|owner| *owner != self.index)
    }

    /// Copies a packet onto the ring towards another worker. False: the ring is full, or there is no such worker.
    pub fn hand(&mut self, to: u16, what: What, packet: &[u8]) -> bool {
        let Some(Some(outgoing)) = self.outgoing.get_mut(usize::from(to)) else { return false };
        let taken = outgoing.push(what, packet);
        self.written |= taken;
        taken
    }

    /// Tells the first worker about addresses, as far as there is room; what is left stays in the queue.
    pub fn announce(&mut self, addresses: &mut VecDeque<What>) {
        while let Some(what) = addresses.front()
            && self.hand(0, *what, &[])
        {
            addresses.pop_front();
        }
    }

    /// Wakes those who sleep and have something to take. Call it once per turn; it costs one test when nothing was handed over.
    #[inline]
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.written) {
            self.wake_readers();
        }
    }

    #[cold]
    fn wake_readers(&mut self) {
        fence(Ordering::SeqCst);
        for outgoing in self.outgoing.iter_mut().flatten() {
            let sleeps = std::mem::take(&mut outgoing.written) && outgoing.reader.asleep.load(Ordering::Relaxed);
            if sleeps && outgoing.reader.asleep.swap(false, Ordering::Relaxed) {
                outgoing.reader.bell.ring();
            }
        }
    }
}

impl Incoming {
    /// Of a worker that is alone.
    pub fn none() -> Self {
        Incoming { rings: Vec::new(), next: 0, doze: None }
    }

    /// Gives `each` the next thing that was handed over; `None`: there is none.
    pub fn take(&mut self, each: impl FnOnce(What, &mut [u8]) -> Taken) -> Option<Taken> {
        let count = self.rings.len();
        for _ in 0..count {
            let (records, bytes) = self.rings.get_mut(self.next % count)?;
            if let Ok(record) = records.peek().copied() {
                // The bytes were there before the record was.
                let mut chunk = bytes.read_chunk(record.skip + record.len).ok()?;
                let (first, second) = chunk.as_mut_slices();
                let packet = if record.skip > 0 { second } else { first };
                let taken = each(record.what, packet.get_mut(..record.len).unwrap_or_default());
                if taken == Taken::Done {
                    chunk.commit_all();
                    let _ = records.pop();
                    self.next += 1;
                }
                return Some(taken);
            }
            self.next += 1;
        }
        None
    }

    /// Says that the worker is about to sleep. False: it may not, something waits.
    #[inline]
    pub fn prepare_sleep(&self) -> bool {
        let Some(doze) = &self.doze else { return true };
        doze.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = self.rings.iter().all(|(records, _)| records.is_empty());
        if !idle {
            self.awake();
        }
        idle
    }

    /// Says that the worker is awake.
    #[inline]
    pub fn awake(&self) {
        if let Some(doze) = &self.doze {
            doze.asleep.store(false, Ordering::Relaxed);
        }
    }
}

/// Joins workers: what each of them hands over, and what is handed to it. `bells` wakes them, in their order.
///
/// # Errors
/// No descriptor left.
pub(crate) fn join(bells: &[Bell]) -> io::Result<Vec<(Mates, Incoming)>> {
    let workers = u16::try_from(bells.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    if workers <= 1 {
        return Ok(bells.iter().map(|_| (Mates::none(), Incoming::none())).collect());
    }
    let dozes = bells
        .iter()
        .map(|bell| Ok(Arc::new(Doze { asleep: AtomicBool::new(false), bell: bell.try_clone()? })))
        .collect::<io::Result<Vec<_>>>()?;
    let mut ends: Vec<_> = (0..workers)
        .zip(&dozes)
        .map(|(index, doze)| {
            let mates = Mates { index, workers, outgoing: Vec::new(), written: false };
            (mates, Incoming { rings: Vec::new(), next: 0, doze: Some(Arc::clone(doze)) })
        })
        .collect();
    for from in 0..bells.len() {
        for (to, reader) in dozes.iter().enumerate() {
            if from == to {
                ends[from].0.outgoing.push(None);
                continue;
            }
            let ((records, taken), (bytes, read)) = (RingBuffer::new(RECORDS), RingBuffer::new(BYTES));
            ends[to].1.rings.push((taken, read));
            let reader = Arc::clone(reader);
            ends[from].0.outgoing.push(Some(Outgoing { records, bytes, at: 0, reader, written: false }));
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::path;

    fn group(workers: usize) -> (Vec<Bell>, Vec<(Mates, Incoming)>) {
        let bells: Vec<Bell> = (0..workers).map(|_| Bell::new().unwrap()).collect();
        let ends = join(&bells).unwrap();
        (bells, ends)
    }

    const FRAME: What = What::Frame { peer: 1 };

    fn take(incoming: &mut Incoming) -> Option<(What, Vec<u8>)> {
        let mut seen = None;
        let taken = incoming.take(|what, bytes| {
            seen = Some((what, bytes.to_vec()));
            Taken::Done
        });
        assert_eq!(taken.is_some(), seen.is_some());
        seen
    }

    #[test]
    fn a_peer_has_one_owner() {
        assert_eq!((owner_of(5, 2), owner_of(4, 2), owner_of(u32::MAX, 1), owner_of(7, 0)), (1, 0, 0, 0));
        let (_, ends) = group(3);
        assert_eq!([0, 1, 2, 3].map(|peer| ends[0].0.other(peer)), [None, Some(1), Some(2), None]);
        assert_eq!(Mates::none().other(77), None);
    }

    #[test]
    fn what_is_handed_over_arrives_at_the_right_worker_in_order() {
        let (_, mut ends) = group(3);
        let datagram = What::Datagram { path: path(9) };
        assert!(ends[0].0.hand(2, datagram, &[1, 2, 3]) && ends[0].0.hand(2, FRAME, &[4]));
        assert!(ends[1].0.hand(2, FRAME, &[5]));
        assert!(!ends[1].0.hand(1, FRAME, &[5]) && !ends[1].0.hand(3, FRAME, &[5]), "nobody there");
        assert!(take(&mut ends[0].1).is_none() && take(&mut ends[1].1).is_none());
        let taken: Vec<_> = std::iter::from_fn(|| take(&mut ends[2].1)).collect();
        // The others take turns.
        assert_eq!(taken, [(datagram, vec![1, 2, 3]), (FRAME, vec![5]), (FRAME, vec![4])]);
    }

    #[test]
    fn what_finds_no_room_stays() {
        let (_, mut ends) = group(2);
        ends[0].0.hand(1, FRAME, &[7; 100]);
        for _ in 0..2 {
            let again = ends[1].1.take(|_, bytes| {
                assert_eq!(bytes, [7; 100]);
                Taken::Again
            });
            assert_eq!(again, Some(Taken::Again));
        }
        assert_eq!(take(&mut ends[1].1), Some((FRAME, vec![7; 100])));
        assert_eq!(take(&mut ends[1].1), None);
    }

    #[test]
    fn a_full_ring_refuses_and_an_emptied_one_takes_again() {
        let (_, mut ends) = group(2);
        let mut handed = 0;
        while ends[0].0.hand(1, FRAME, &[0; 60_000]) {
            handed += 1;
        }
        assert_eq!(handed, BYTES / 60_000);
        assert!(take(&mut ends[1].1).is_some() && take(&mut ends[1].1).is_some());
        assert!(ends[0].0.hand(1, FRAME, &[0; 60_000]), "at the beginning of the ring, behind a gap");
        while take(&mut ends[1].1).is_some() {}
        let mut handed = 0;
        while ends[0].0.hand(1, FRAME, &[1]) {
            handed += 1;
        }
        assert_eq!(handed, RECORDS);
    }

    #[test]
    fn packets_of_every_length_lie_in_one_piece() {
        let (_, mut ends) = group(2);
        let mut dice = 1u64;
        let mut waiting = VecDeque::new();
        for round in 0..20_000u32 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let len = (dice >> 33) as usize % if round % 50 == 0 { 65_546 } else { 1_500 };
            let packet = vec![round as u8; len];
            if ends[0].0.hand(1, What::Frame { peer: round }, &packet) {
                waiting.push_back((What::Frame { peer: round }, packet));
            }
            if waiting.len() > 300 || !dice.is_multiple_of(3) {
                assert_eq!(take(&mut ends[1].1), waiting.pop_front());
            }
        }
        while let Some(expected) = waiting.pop_front() {
            assert_eq!(take(&mut ends[1].1), Some(expected));
        }
    }

    #[test]
    fn only_a_sleeping_worker_is_woken_and_only_once() {
        let (bells, mut ends) = group(2);
        ends[0].0.hand(1, FRAME, &[1]);
        ends[0].0.wake();
        assert!(!bells[1].rang(), "it is awake");
        assert!(!ends[1].1.prepare_sleep(), "something waits");
        take(&mut ends[1].1);
        assert!(ends[1].1.prepare_sleep());
        ends[0].0.wake();
        assert!(!bells[1].rang(), "nothing was handed over");
        ends[0].0.hand(1, FRAME, &[1]);
        assert!(!bells[1].rang());
        ends[0].0.wake();
        assert!(bells[1].rang());
        ends[0].0.hand(1, FRAME, &[1]);
        ends[0].0.wake();
        assert!(!bells[1].rang(), "it was woken already");
        assert!(!bells[0].rang());
    }

    #[test]
    fn no_packet_waits_for_a_worker_that_sleeps() {
        const PACKETS: u32 = 50_000;
        let (mut bells, mut ends) = group(2);
        let bell = bells.remove(1);
        let (_, mut incoming) = ends.remove(1);
        let reader = std::thread::spawn(move || {
            let mut next = 0;
            while next < PACKETS {
                while let Some((what, _)) = take(&mut incoming) {
                    assert_eq!(what, What::Frame { peer: next });
                    next += 1;
                }
                if next < PACKETS && incoming.prepare_sleep() {
                    // One lost wake-up and this waits for ever.
                    while !bell.take() {
                        std::thread::yield_now();
                    }
                    incoming.awake();
                }
            }
        });
        for number in 0..PACKETS {
            while !ends[0].0.hand(1, What::Frame { peer: number }, &number.to_be_bytes()) {
                std::thread::yield_now();
            }
            ends[0].0.wake();
        }
        reader.join().unwrap();
    }

    #[test]
    fn addresses_that_find_no_room_are_told_later() {
        let (_, mut ends) = group(2);
        while ends[1].0.hand(0, FRAME, &[1]) {}
        let told = What::Address { remote: path(1).remote, peer: 3, claim: Claim::Takes };
        let mut addresses = VecDeque::from([told]);
        ends[1].0.announce(&mut addresses);
        assert_eq!(addresses.len(), 1);
        while take(&mut ends[0].1).is_some() {}
        ends[1].0.announce(&mut addresses);
        assert!(addresses.is_empty());
        assert_eq!(take(&mut ends[0].1), Some((told, vec![])));
    }
}

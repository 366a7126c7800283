//! Calls that fail on order, for tests: what the kernel could answer to the calls of both engines, on a seeded schedule.
//! Compiled only with the feature `faults`, which no shipped build has; silent until [`start`] is called.
//!
//! A fault changes the outcome of a call and nothing else: a call that fails is not made, a call that is cut short is
//! made for less, and a receive that ends is ended in the kernel first and only its errno is another one. So every
//! packet's fate is known to the engine, and whatever does not add up afterwards is the engine's fault.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::io::Errno;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Fault {
    /// sendmmsg: the socket's buffer is full (EAGAIN).
    SendAgain,
    /// sendmmsg: the device's queue is full (ENOBUFS).
    SendNoBuffers,
    /// sendmmsg: EIO to a single packet.
    SendIo,
    /// sendmmsg: EIO to a run, as a device answers that takes no UDP_SEGMENT.
    GsoRefused,
    /// sendmmsg: longer than the path MTU (EMSGSIZE).
    SendTooLong,
    /// sendmmsg: no route, as after the link went down (ENETUNREACH).
    SendLinkDown,
    /// sendmmsg: what ICMP said of an earlier datagram (ECONNREFUSED).
    SendRefused,
    /// sendmmsg: interrupted (EINTR).
    SendInterrupted,
    /// sendmmsg: the first few messages only.
    SendShort,
    /// recvmmsg: ECONNREFUSED, ENOBUFS, EIO or EINTR, nothing taken.
    Receive,
    /// io_uring: the multishot poll of the socket or of the TUN ends.
    PollEnds,
    /// TUN read: interrupted (EINTR).
    ReadInterrupted,
    /// TUN write: its queue is full (EAGAIN, ENOBUFS).
    WriteFull,
    /// TUN write: the interface is down (EIO).
    WriteDown,
    /// TUN write: all but the last byte.
    WriteShort,
    /// TUN write: interrupted (EINTR).
    WriteInterrupted,
}

/// How many kinds there are.
const KINDS: usize = 16;
/// `Io` and `GsoRefused` are rarer: after the latter a worker forms no more runs.
const SEND: [Fault; 16] = [
    Fault::SendAgain,
    Fault::SendNoBuffers,
    Fault::SendTooLong,
    Fault::SendLinkDown,
    Fault::SendRefused,
    Fault::SendInterrupted,
    Fault::SendShort,
    Fault::SendShort,
    Fault::SendAgain,
    Fault::SendNoBuffers,
    Fault::SendTooLong,
    Fault::SendLinkDown,
    Fault::SendRefused,
    Fault::SendInterrupted,
    Fault::SendShort,
    Fault::SendIo,
];
const WRITE: [Fault; 4] = [Fault::WriteFull, Fault::WriteDown, Fault::WriteShort, Fault::WriteInterrupted];
/// No EAGAIN: after one, an edge-triggered poll may rightly wait for the next datagram.
const RECEIVE: [Errno; 4] = [Errno::CONNREFUSED, Errno::NOBUFS, Errno::IO, Errno::INTR];
/// Of how many calls [`start`]'s rate counts.
const SCALE: u64 = 10_000;

static RATE: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);
static THREADS: AtomicU64 = AtomicU64::new(0);
static COUNTS: [AtomicU64; KINDS] = [const { AtomicU64::new(0) }; KINDS];

thread_local! {
    static DICE: Cell<u64> = const { Cell::new(0) };
    /// A send that failed fails again so many times: what the engine tries next is tried too.
    static BURST: Cell<Option<(Fault, u32)>> = const { Cell::new(None) };
}

/// From now on, on average `per_10_000` of 10,000 calls fail, drawn from this seed and the thread's place.
pub fn start(seed: u64, per_10_000: u32) {
    SEED.store(seed, Relaxed);
    RATE.store(per_10_000.into(), Relaxed);
}

/// No call fails any more.
pub fn stop() {
    RATE.store(0, Relaxed);
}

/// How often this happened since the process began.
pub fn count(fault: Fault) -> u64 {
    COUNTS[fault as usize].load(Relaxed)
}

/// sendmmsg of `count` messages, the first of which is `segmented`: how many are to be sent, or what is answered.
pub(super) fn send(count: usize, segmented: bool) -> Result<usize, Errno> {
    let again = BURST.take().filter(|_| RATE.load(Relaxed) > 0);
    let fault = match again {
        Some((fault, left)) => {
            BURST.set((left > 0).then(|| (fault, left - 1)));
            fault
        }
        None => {
            let Some(roll) = roll() else { return Ok(count) };
            let fault = SEND[(roll % SEND.len() as u64) as usize];
            BURST.set(Some((fault, (roll >> 8) as u32 % 5)).filter(|_| fault != Fault::SendShort));
            fault
        }
    };
    let errno = match fault {
        Fault::SendShort if count > 1 => return Ok(noted(fault, 1 + count / 3)),
        Fault::SendShort => return Ok(count),
        Fault::SendIo if segmented => return Err(noted(Fault::GsoRefused, Errno::IO)),
        Fault::SendIo => Errno::IO,
        Fault::SendAgain => Errno::AGAIN,
        Fault::SendTooLong => Errno::MSGSIZE,
        Fault::SendLinkDown => Errno::NETUNREACH,
        Fault::SendRefused => Errno::CONNREFUSED,
        Fault::SendInterrupted => Errno::INTR,
        _ => Errno::NOBUFS,
    };
    Err(noted(fault, errno))
}

/// recvmmsg.
pub(super) fn receive() -> Result<(), Errno> {
    match roll() {
        Some(roll) => Err(noted(Fault::Receive, RECEIVE[(roll % RECEIVE.len() as u64) as usize])),
        None => Ok(()),
    }
}

/// A TUN read. No EAGAIN: after one, an edge-triggered poll may rightly wait for the next packet.
pub(super) fn read_tun() -> Result<(), Errno> {
    roll().map_or(Ok(()), |_| Err(noted(Fault::ReadInterrupted, Errno::INTR)))
}

/// A TUN write of `len` bytes; `None`: it is to be made.
pub(super) fn write_tun(len: usize) -> Option<Result<usize, Errno>> {
    let roll = roll()?;
    let fault = WRITE[(roll % WRITE.len() as u64) as usize];
    Some(match fault {
        Fault::WriteShort => Ok(noted(fault, len.saturating_sub(1))),
        Fault::WriteDown => Err(noted(fault, Errno::IO)),
        Fault::WriteInterrupted => Err(noted(fault, Errno::INTR)),
        _ => Err(noted(fault, if roll & 1 << 20 == 0 { Errno::AGAIN } else { Errno::NOBUFS })),
    })
}

/// Whether the engine is to cancel a poll now.
pub(super) fn ends_poll() -> bool {
    roll().map(|_| noted(Fault::PollEnds, ())).is_some()
}

fn noted<T>(fault: Fault, outcome: T) -> T {
    COUNTS[fault as usize].fetch_add(1, Relaxed);
    outcome
}

/// A random number when this call is to fail.
fn roll() -> Option<u64> {
    let rate = RATE.load(Relaxed);
    if rate == 0 {
        return None;
    }
    let roll = next();
    (roll % SCALE < rate).then_some(roll / SCALE)
}

/// SplitMix64: every thread its own sequence.
fn next() -> u64 {
    let mut state = DICE.get();
    if state == 0 {
        state = SEED.load(Relaxed).wrapping_add(THREADS.fetch_add(1, Relaxed).wrapping_mul(0xA076_1D64_78BD_642F)) | 1;
    }
    state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    DICE.set(state);
    let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

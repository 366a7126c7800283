//! A bad network in user space: a UDP relay that delays, reorders, drops, doubles, counts, records and injects.
//!
//! One thread in the router's namespace. Each source address of a client gets a socket of its own towards the
//! server, so that a client that rebinds is a new address there too. Chance is seeded: which datagram meets which
//! fate depends on the seed and the order of arrival alone.

use crate::netns::Ns;
use crate::steady;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How many datagrams are kept when recording was asked for.
const RECORD_MAX: usize = 200_000;

/// What happens to a datagram, the same in both directions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// Delay of every datagram.
    pub delay: Duration,
    /// Per mille of datagrams that wait [`Weather::late`] longer and so are overtaken.
    pub reorder: u32,
    /// How much longer.
    pub late: Duration,
    /// Per mille lost.
    pub loss: u32,
    /// Per mille delivered twice.
    pub double: u32,
    /// Datagrams of this opcode wait this much longer.
    pub hold: Option<(u8, Duration)>,
    /// Seed of chance.
    pub seed: u64,
    /// Whether datagrams are kept for [`Relay::recorded`].
    pub record: bool,
}

impl Weather {
    /// 50 ms of delay and 2 % of datagrams overtaken by those of the next 8 ms.
    pub fn rough(seed: u64) -> Self {
        let (delay, late) = (Duration::from_millis(50), Duration::from_millis(8));
        Self { delay, late, reorder: 20, seed, ..Self::default() }
    }
}

/// Which way a datagram went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// A datagram that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// When it came to the relay.
    pub at: Instant,
    /// Which way it went.
    pub way: Way,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A running relay; ended on drop.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    deaf: AtomicBool,
    rebind: AtomicBool,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    counts: BTreeMap<(Way, u8), u64>,
    recorded: Vec<Recorded>,
    injected: Vec<(Way, Vec<u8>)>,
}

impl Relay {
    /// Listens at `front` in `ns` and passes on to `server`, both addresses as seen from that namespace.
    pub fn start(ns: &Ns, front: SocketAddr, server: SocketAddr, weather: Weather) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let entered = ns.handle();
        let thread = thread::spawn(move || {
            entered.enter();
            Engine::new(front, server, weather, of_thread).run();
        });
        Self { shared, thread: Some(thread) }
    }

    /// Datagrams received one way whose first byte names this opcode (its upper five bits).
    pub fn count(&self, way: Way, opcode: u8) -> u64 {
        self.book(|book| book.counts.get(&(way, opcode)).copied().unwrap_or(0))
    }

    /// What was recorded so far, in order of arrival.
    pub fn recorded(&self) -> Vec<(Way, Vec<u8>)> {
        self.book(|book| book.recorded.iter().map(|one| (one.way, one.bytes.clone())).collect())
    }

    /// What was recorded so far with its times, in order of arrival.
    pub fn timed(&self) -> Vec<Recorded> {
        self.book(|book| book.recorded.clone())
    }

    /// Sends a datagram of the test's own as if it had come this way, at once and undisturbed.
    pub fn inject(&self, way: Way, bytes: Vec<u8>) {
        self.book(|book| book.injected.push((way, bytes)));
    }

    /// Sends what comes next from a new port for each client, as a router does that forgot them. What the server sends to the
    /// old one arrives still.
    pub fn rebind(&self) {
        self.shared.rebind.store(true, Ordering::Relaxed);
    }

    /// Drops everything while true, as a dead line does: no answer, no ICMP.
    pub fn cut(&self, cut: bool) {
        self.shared.deaf.store(cut, Ordering::Relaxed);
    }

    fn book<T>(&self, f: impl FnOnce(&mut Book) -> T) -> T {
        f(&mut self.shared.book.lock().expect("no holder of this lock panics"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A datagram under way, ordered by when it is due.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parcel {
    due: Instant,
    order: u64,
    client: SocketAddr,
    way: Way,
    bytes: Vec<u8>,
}

struct Engine {
    front: UdpSocket,
    server: SocketAddr,
    backs: HashMap<SocketAddr, UdpSocket>,
    former: Vec<(SocketAddr, UdpSocket)>,
    latest: Option<SocketAddr>,
    weather: Weather,
    chance: Chance,
    queue: BinaryHeap<Reverse<Parcel>>,
    order: u64,
    shared: Arc<Shared>,
}

impl Engine {
    fn new(front: SocketAddr, server: SocketAddr, weather: Weather, shared: Arc<Shared>) -> Self {
        let front = UdpSocket::bind(front).expect("the relay's port is free");
        prepare(&front);
        let (backs, queue, chance) = (HashMap::new(), BinaryHeap::new(), Chance::new(weather.seed));
        Self { front, server, backs, former: Vec::new(), latest: None, weather, chance, queue, order: 0, shared }
    }

    fn run(mut self) {
        let mut buffer = vec![0u8; 65536];
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.sleep();
            while let Ok((n, from)) = self.front.recv_from(&mut buffer) {
                self.latest = Some(from);
                self.take(from, Way::Up, &buffer[..n]);
            }
            let clients: Vec<SocketAddr> = self.backs.keys().copied().collect();
            for client in clients {
                while let Some(n) = self.backs.get(&client).and_then(|back| back.recv(&mut buffer).ok()) {
                    self.take(client, Way::Down, &buffer[..n]);
                }
            }
            let former = std::mem::take(&mut self.former);
            for (client, back) in &former {
                while let Ok(n) = back.recv(&mut buffer) {
                    self.take(*client, Way::Down, &buffer[..n]);
                }
            }
            self.former = former;
            if self.shared.rebind.swap(false, Ordering::Relaxed) {
                self.former.extend(self.backs.drain());
            }
            self.deliver();
        }
    }

    /// Waits for a datagram or the next one due, at most 20 ms so that a stop or an injection is seen.
    fn sleep(&self) {
        let next = self.queue.peek().map(|parcel| parcel.0.due.saturating_duration_since(Instant::now()));
        let wait = next.unwrap_or(Duration::MAX).min(Duration::from_millis(20));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut fds: Vec<PollFd<'_>> = self.backs.values().map(|back| PollFd::new(back, PollFlags::IN)).collect();
        fds.extend(self.former.iter().map(|(_, back)| PollFd::new(back, PollFlags::IN)));
        fds.push(PollFd::new(&self.front, PollFlags::IN));
        let _ = poll(&mut fds, Some(&wait));
    }

    /// Counts a datagram and decides its fate.
    fn take(&mut self, client: SocketAddr, way: Way, bytes: &[u8]) {
        let opcode = bytes.first().map_or(0, |byte| byte >> 3);
        if let Ok(mut book) = self.shared.book.lock() {
            *book.counts.entry((way, opcode)).or_insert(0) += 1;
            if self.weather.record && book.recorded.len() < RECORD_MAX {
                book.recorded.push(Recorded { at: Instant::now(), way, bytes: bytes.to_vec() });
            }
        }
        if self.shared.deaf.load(Ordering::Relaxed) || self.chance.happens(self.weather.loss) {
            return;
        }
        let copies = if self.chance.happens(self.weather.double) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if self.chance.happens(self.weather.reorder) { self.weather.late } else { Duration::ZERO };
            let held = self.weather.hold.filter(|(held, _)| *held == opcode);
            let held = held.map_or(Duration::ZERO, |(_, longer)| longer);
            self.order += 1;
            let due = Instant::now() + self.weather.delay + late + held;
            let parcel = Parcel { due, order: self.order, client, way, bytes: bytes.to_vec() };
            self.queue.push(Reverse(parcel));
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.queue.peek().is_some_and(|parcel| parcel.0.due <= now) {
            if let Some(Reverse(parcel)) = self.queue.pop() {
                self.send(parcel.client, parcel.way, &parcel.bytes);
            }
        }
        let injected = self.shared.book.lock().map(|mut book| std::mem::take(&mut book.injected)).unwrap_or_default();
        for (way, bytes) in injected {
            if let Some(client) = self.latest {
                self.send(client, way, &bytes);
            }
        }
    }

    fn send(&mut self, client: SocketAddr, way: Way, bytes: &[u8]) {
        if way == Way::Down {
            let _ = self.front.send_to(bytes, client);
            return;
        }
        let server = self.server;
        let back = self.backs.entry(client).or_insert_with(|| {
            let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let back = UdpSocket::bind(any).expect("a free port");
            prepare(&back);
            back.connect(server).expect("the server has a route");
            back
        });
        let _ = back.send(bytes);
    }
}

/// Non-blocking, and with room for a burst: what is lost here must be lost by intent.
fn prepare(socket: &UdpSocket) {
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    steady::deepen(socket);
}

/// The splitmix64 sequence: seeded, small, and good enough to throw dice.
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn happens(&mut self, per_mille: u32) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % 1000 < u64::from(per_mille)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_keeps_its_rate_and_its_seed() {
        let throws = |seed| {
            let mut chance = Chance::new(seed);
            (0..100_000).filter(|_| chance.happens(20)).collect::<Vec<u32>>()
        };
        assert!((1_700..2_300).contains(&throws(1).len()));
        assert_eq!(throws(7), throws(7));
        assert_ne!(throws(7), throws(8));
    }

    #[test]
    fn what_is_due_first_leaves_first() {
        let now = Instant::now();
        let client: SocketAddr = ([127, 0, 0, 1], 1).into();
        let parcel =
            |ms, order| Parcel { due: now + Duration::from_millis(ms), order, client, way: Way::Up, bytes: vec![] };
        let mut queue = BinaryHeap::from([Reverse(parcel(9, 1)), Reverse(parcel(5, 3)), Reverse(parcel(5, 2))]);
        let orders: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|parcel| parcel.0.order).collect();
        assert_eq!(orders, [2, 3, 1]);
    }
}

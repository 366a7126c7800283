//! TCP and UDP in user space, over the packets of one tunnel. Each socket has an interface of its own, so that a packet costs the
//! same however many others there are, and a socket with nothing to do costs nothing: it is in no list that is walked.
//!
//! A turn: [`Stack::take`] gives each packet of a batch to its socket; [`Stack::work`] lets the sockets that were touched, and those
//! whose timers are due, fill the batch that goes out. Whoever holds a socket ([`super::connection`], [`super::datagrams`]) touches
//! it under the lock, marks it and rings [`Stack::bell`].

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controlplane::{Random, SystemRandom};
use dataplane::tun::virtio::{F_DATA_VALID, F_NEEDS_CSUM};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::socket::{AnySocket, tcp};
use smoltcp::time::{self, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tokio::sync::Notify;

use super::device::{Device, is_broken};
use super::failure::Failure;
use super::headers::{Key, Meant, meant};
use crate::embed::Frames;

/// Sockets at once, of both kinds, with those that are still closing.
pub(super) const MOST_SOCKETS: usize = 1_024;

/// The stack forgets a connection ten seconds after both sides finished, with what was not read of it. A little before that it is kept from doing so.
const REMEMBERED: Duration = Duration::from_secs(8);
/// How long a connection whose holder is gone may take to close once everything was acknowledged.
const LINGER: Duration = Duration::from_secs(30);

/// How long one is kept that both sides have closed.
const LAST_WORD: Duration = Duration::from_millis(200);

/// What is acknowledged so late at most when it is a packet or two; a super-packet is acknowledged at once, as one.
const ACK_DELAY: time::Duration = time::Duration::from_millis(10);

/// The least time between two looks at a socket whose timer says "now" again and again.
const BREATH: Duration = Duration::from_millis(1);

/// The tunnel's own addresses and the longest packet that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    /// The address and its prefix length.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// The address and its prefix length.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// Bytes of the longest packet.
    pub mtu: usize,
}

impl Inner {
    /// Whether the tunnel has an address of the family of this one.
    pub(super) fn reaches(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.ipv4.is_some(),
            IpAddr::V6(_) => self.ipv6.is_some(),
        }
    }

    /// Our address of that family.
    fn own(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => self.ipv4.map(|(own, _)| own.into()),
            IpAddr::V6(_) => self.ipv6.map(|(own, _)| own.into()),
        }
    }
}

/// All sockets of one tunnel.
pub(super) struct Stack {
    inner: Inner,
    sockets: Mutex<Sockets>,
    /// Rung when somebody outside a turn touched a socket.
    pub bell: Notify,
}

impl Stack {
    /// A stack without sockets.
    pub(super) fn new(inner: Inner) -> Stack {
        let sockets = Sockets {
            slots: HashMap::new(),
            touched: VecDeque::new(),
            deadlines: BTreeSet::new(),
            stray: None,
            started: std::time::Instant::now(),
            buffered: 0,
            ended: false,
        };
        Stack { inner, sockets: Mutex::new(sockets), bell: Notify::new() }
    }

    /// The tunnel's addresses and MTU.
    pub(super) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// Everything under the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives packets that came in, super-packets among them, to their sockets. What they answer at once goes to `outgoing`.
    pub(super) fn take(&self, incoming: &Frames, outgoing: &mut Frames) {
        let mut sockets = self.lock();
        let now = sockets.now();
        for (header, packet) in incoming.packets() {
            // Of what the worker joined, it has looked at each packet's checksum before.
            if header.flags & (F_NEEDS_CSUM | F_DATA_VALID) == 0 && is_broken(packet) {
                continue;
            }
            sockets.take(&self.inner, now, packet, outgoing);
        }
    }

    /// Lets sockets with something to do fill `outgoing`. The time until the next of them has something to do on its own; zero when
    /// the batch was too small.
    pub(super) fn work(&self, outgoing: &mut Frames) -> Option<Duration> {
        self.lock().work(self.inner.mtu, outgoing)
    }

    /// The tunnel is gone: every connection breaks, and no socket is opened any more.
    pub(super) fn end(&self) {
        let mut sockets = self.lock();
        sockets.ended = true;
        for slot in sockets.slots.values_mut() {
            slot.failure = Some(Failure::TunnelDown);
            if let Some(connection) = slot.connection() {
                connection.abort();
            }
        }
    }

    /// Opens a socket on a free local port. `make` gets the interface's context to begin with, and may refuse. `bytes` is what its
    /// buffers take.
    ///
    /// # Errors
    /// [`Failure::Full`], [`Failure::TunnelDown`], and those of `make`.
    pub(super) fn open<S: AnySocket<'static>>(
        &self,
        kind: fn(u16) -> Key,
        bytes: usize,
        socket: S,
        make: impl FnOnce(&mut S, &mut smoltcp::iface::Context, u16) -> Result<(), Failure>,
    ) -> Result<Key, Failure> {
        let key = self.lock().open(&self.inner, kind, bytes, socket, make)?;
        self.bell.notify_one();
        Ok(key)
    }

    /// Our address of the family of `remote`.
    ///
    /// # Errors
    /// [`Failure::NoSuchFamily`].
    pub(super) fn source(&self, remote: SocketAddr) -> Result<IpAddr, Failure> {
        self.inner.own(remote.ip()).ok_or(Failure::NoSuchFamily)
    }

    /// Its holder is gone.
    pub(super) fn abandon(&self, key: Key) {
        self.lock().abandon(key);
        self.bell.notify_one();
    }
}

/// What is under the lock of a [`Stack`].
pub(super) struct Sockets {
    slots: HashMap<Key, Slot>,
    /// Sockets that may have something to send, each once.
    touched: VecDeque<Key>,
    deadlines: BTreeSet<(Instant, Key)>,
    /// Answers what is for no socket: with a reset, "port unreachable", an echo reply.
    stray: Option<Interface>,
    started: std::time::Instant,
    buffered: usize,
    ended: bool,
}

/// One socket.
pub(super) struct Slot {
    interface: Interface,
    set: SocketSet<'static>,
    touched: bool,
    deadline: Option<Instant>,
    bytes: usize,
    /// Since its holder is gone: when it is given up, unless fewer bytes wait than these.
    linger: Option<(Instant, usize)>,
    /// Since when both sides have finished.
    finished: Option<Instant>,
    /// Why it failed, where more is known than that it is closed.
    pub failure: Option<Failure>,
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Slot {
    /// The socket, if it is of this kind.
    pub(super) fn socket<S: AnySocket<'static>>(&mut self) -> Option<&mut S> {
        let (_, socket) = self.set.iter_mut().next()?;
        S::downcast_mut(socket)
    }

    fn connection(&mut self) -> Option<&mut tcp::Socket<'static>> {
        self.socket()
    }
}

impl Sockets {
    /// The socket with this key.
    pub(super) fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.get_mut(&key)
    }

    /// It may have something to send.
    pub(super) fn touch(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key)
            && !std::mem::replace(&mut slot.touched, true)
        {
            self.touched.push_back(key);
        }
    }

    /// Bytes of all buffers.
    pub(super) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Sockets there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed();
        Instant::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
    }

    fn take(&mut self, inner: &Inner, now: Instant, packet: &[u8], outgoing: &mut Frames) {
        let mut device = Device { incoming: Some(packet), outgoing, mtu: inner.mtu };
        match meant(packet) {
            Meant::For(key) if self.slots.contains_key(&key) => {
                if let Some(slot) = self.slots.get_mut(&key) {
                    if let Some(connection) = slot.connection() {
                        let joined = packet.len() > inner.mtu;
                        connection.set_ack_delay(Some(if joined { time::Duration::ZERO } else { ACK_DELAY }));
                    }
                    slot.interface.poll_ingress_single(now, &mut device, &mut slot.set);
                }
                self.touch(key);
            }
            Meant::Undelivered(port, to, failure) => self.fail(Key::Tcp(port), to, failure),
            Meant::For(_) | Meant::Nobody => {
                let stray = self.stray.get_or_insert_with(|| interface(inner, now, &mut device));
                stray.poll_ingress_single(now, &mut device, &mut SocketSet::new(Vec::new()));
            }
        }
    }

    /// An ICMP error ends a connection that is being opened, and no other (RFC 5461, section 4.1: anybody could send one).
    fn fail(&mut self, key: Key, to: SocketAddr, failure: Failure) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some(connection) = slot.connection() else { return };
        if connection.state() == tcp::State::SynSent && connection.remote_endpoint() == Some(to.into()) {
            connection.abort();
            slot.failure = Some(failure);
            self.touch(key);
        }
    }

    fn open<S: AnySocket<'static>>(
        &mut self,
        inner: &Inner,
        kind: fn(u16) -> Key,
        bytes: usize,
        mut socket: S,
        make: impl FnOnce(&mut S, &mut smoltcp::iface::Context, u16) -> Result<(), Failure>,
    ) -> Result<Key, Failure> {
        if self.ended {
            return Err(Failure::TunnelDown);
        }
        if self.slots.len() >= MOST_SOCKETS {
            return Err(Failure::Full);
        }
        let now = self.now();
        let mut nothing = Frames::new(0);
        let mut interface =
            interface(inner, now, &mut Device { incoming: None, outgoing: &mut nothing, mtu: inner.mtu });
        let (key, port) = self.free(kind)?;
        make(&mut socket, interface.context(), port)?;
        let mut set = SocketSet::new(Vec::with_capacity(1));
        set.add(socket);
        let slot =
            Slot { interface, set, touched: false, deadline: None, bytes, linger: None, finished: None, failure: None };
        if let Entry::Vacant(vacant) = self.slots.entry(key) {
            vacant.insert(slot);
            self.buffered += bytes;
        }
        self.touch(key);
        Ok(key)
    }

    /// A free port that nobody can guess (RFC 6056, section 3.3.1).
    fn free(&self, kind: fn(u16) -> Key) -> Result<(Key, u16), Failure> {
        let mut bytes = [0; 128];
        SystemRandom.fill(&mut bytes);
        let ports = bytes.chunks_exact(2).filter_map(|two| two.first_chunk::<2>()).map(|two| u16::from_be_bytes(*two));
        let free = |&(key, port): &(Key, u16)| port >= 1_024 && !self.slots.contains_key(&key);
        // No more than a sixtieth of all ports is in use.
        ports.map(|port| (kind(port), port)).find(free).ok_or(Failure::Full)
    }

    fn abandon(&mut self, key: Key) {
        let deadline = self.now() + LINGER.into();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some(connection) = slot.connection() else {
            return self.remove(key);
        };
        let closing = !matches!(
            connection.state(),
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Established | tcp::State::CloseWait
        );
        if !closing {
            connection.abort();
        }
        let waiting = connection.send_queue();
        slot.linger = Some((deadline, waiting));
        self.touch(key);
    }

    fn remove(&mut self, key: Key) {
        if let Some(slot) = self.slots.remove(&key) {
            self.buffered = self.buffered.saturating_sub(slot.bytes);
            if let Some(at) = slot.deadline {
                self.deadlines.remove(&(at, key));
            }
        }
    }

    fn work(&mut self, mtu: usize, outgoing: &mut Frames) -> Option<Duration> {
        let now = self.now();
        while let Some(&(at, key)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.deadline = None;
            }
            self.touch(key);
        }
        // Each at most once a turn: one that fills the batch goes to the end of the queue.
        for _ in 0..self.touched.len() {
            if outgoing.is_full() {
                break;
            }
            let Some(key) = self.touched.pop_front() else { break };
            self.serve(key, now, mtu, outgoing);
        }
        if !self.touched.is_empty() {
            return Some(Duration::ZERO);
        }
        self.deadlines.first().map(|&(at, _)| (at - now).into())
    }

    /// Sends what one socket has to send, and notes when it wants to be looked at again.
    fn serve(&mut self, key: Key, now: Instant, mtu: usize, outgoing: &mut Frames) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.touched = false;
        if slot.is_kept(now) {
            return;
        }
        let mut device = Device { incoming: None, outgoing, mtu };
        while slot.interface.poll_egress(now, &mut device, &mut slot.set) == PollResult::SocketStateChanged {}
        if device.outgoing.is_full() {
            return self.touch(key);
        }
        let over = slot.is_over(now);
        let mut wanted = slot.interface.poll_at(now, &slot.set).map(|at| at.max(now + BREATH.into()));
        if let Some((until, _)) = slot.linger {
            wanted = Some(wanted.map_or(until, |at| at.min(until)).max(now + BREATH.into()));
        }
        let before = std::mem::replace(&mut slot.deadline, wanted);
        if before != wanted {
            if let Some(at) = before {
                self.deadlines.remove(&(at, key));
            }
            if let Some(at) = wanted {
                self.deadlines.insert((at, key));
            }
        }
        if over {
            self.remove(key);
        }
    }
}

impl Slot {
    /// Whether both sides finished a while ago and its holder may still read what came: the stack, which would forget that now, must
    /// not look at it any more.
    fn is_kept(&mut self, now: Instant) -> bool {
        let finished = self.connection().is_some_and(|connection| connection.state() == tcp::State::TimeWait);
        if self.linger.is_some() || !finished {
            self.finished = None;
            return false;
        }
        now >= *self.finished.get_or_insert(now) + REMEMBERED.into()
    }

    /// Whether its holder is gone and it is closed, or should be by now.
    fn is_over(&mut self, now: Instant) -> bool {
        let Some((until, before)) = self.linger else { return false };
        let Some(connection) = self.connection() else { return true };
        match connection.state() {
            // What may still come for it is answered with a reset, which ends the other side too.
            tcp::State::Closed => return connection.remote_endpoint().is_none(),
            // Long enough for the last acknowledgement, which may be delayed, to leave.
            tcp::State::TimeWait => {
                self.linger = Some((until.min(now + LAST_WORD.into()), 0));
                return now >= until;
            }
            _ => {}
        }
        if now < until {
            return false;
        }
        let waiting = connection.send_queue();
        if waiting < before {
            // The other side is slow, and there: it gets what it was sent.
            self.linger = Some((now + LINGER.into(), waiting));
            return false;
        }
        connection.abort();
        // The reset goes out on the next turn.
        self.linger = Some((now + BREATH.into(), 0));
        false
    }
}

/// An interface with the tunnel's addresses, and everything beyond them.
fn interface(inner: &Inner, now: Instant, device: &mut Device<'_>) -> Interface {
    let mut seed = [0; 8];
    SystemRandom.fill(&mut seed);
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = u64::from_ne_bytes(seed);
    let mut interface = Interface::new(config, device, now);
    interface.update_ip_addrs(|addresses| {
        // Room for two is what the crate is built with.
        let four = inner.ipv4.map(|(address, prefix)| IpCidr::new(IpAddress::Ipv4(address), prefix.min(32)));
        let six = inner.ipv6.map(|(address, prefix)| IpCidr::new(IpAddress::Ipv6(address), prefix.min(128)));
        for address in four.into_iter().chain(six) {
            let _ = addresses.push(address);
        }
    });
    // On a line without neighbours the gateway's address is never used, but there has to be a route.
    if let Some((address, _)) = inner.ipv4 {
        let _ = interface.routes_mut().add_default_ipv4_route(address);
    }
    if let Some((address, _)) = inner.ipv6 {
        let _ = interface.routes_mut().add_default_ipv6_route(address);
    }
    interface
}

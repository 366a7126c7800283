//! What happens to the host while the tunnel stands: links, addresses and default routes that come and go, as a stream of
//! events; and whether the machine has slept. Our own interface and our own routes are not news. The caller waits a
//! little before it acts: one change of network makes a burst of events.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage, RouteProtocol};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use super::routes::PROTOCOL;
use crate::sys;

/// Something changed on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HostEvent {
    /// A link came up, went down, or is gone.
    LinkChanged,
    /// An address came or went.
    AddressChanged,
    /// A default route came or went.
    RouteChanged,
}

/// Group bits of linux/rtnetlink.h (RTMGRP_*): links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// The longest batch of messages that the kernel delivers at once, in bytes.
const BATCH: usize = 32 * 1024;

/// Links and addresses remembered, to tell news from repetition. Beyond it everything counts as news.
const REMEMBERED: usize = 4_096;

/// A subscription to the kernel's events in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watch {
    socket: AsyncFd<OwnedFd>,
    memory: Memory,
    ready: VecDeque<HostEvent>,
    buffer: Vec<u8>,
}

impl Watch {
    /// Subscribes.
    ///
    /// # Errors
    /// What socket(2) and bind(2) answer.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O, as everything in tokio does.
    pub fn open() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?; // NETLINK_ROUTE is 0
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self {
            socket: sys::readable(socket)?,
            memory: Memory::default(),
            ready: VecDeque::new(),
            buffer: vec![0; BATCH],
        })
    }

    /// Says which interface is ours; its events are not news. `None`: none is, the tunnel is down.
    pub fn ignore(&mut self, index: Option<u32>) {
        self.memory.own = index;
    }

    /// The next event. May be dropped and called again without loss.
    ///
    /// # Errors
    /// What recv(2) answers; an overflow is not an error but all events.
    pub async fn next(&mut self) -> io::Result<HostEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let mut guard = self.socket.readable().await?;
            let received = guard.try_io(|socket| {
                rustix::net::recv(socket.get_ref(), self.buffer.as_mut_slice(), RecvFlags::empty())
                    .map_err(io::Error::from)
            });
            match received {
                Ok(Ok((_, length))) => {
                    let batch = self.buffer.get(..length.min(BATCH)).unwrap_or_default();
                    self.ready.extend(self.memory.news_in(batch));
                }
                // The kernel dropped events: anything may have happened.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    self.ready.extend([HostEvent::LinkChanged, HostEvent::AddressChanged, HostEvent::RouteChanged]);
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// What is known already: the kernel repeats itself (wireless statistics, renewed leases).
#[derive(Debug, Default)]
struct Memory {
    own: Option<u32>,
    links: HashMap<u32, bool>,
    addresses: HashSet<(u32, IpAddr)>,
}

impl Memory {
    /// The events in one batch, each kind once.
    fn news_in(&mut self, mut batch: &[u8]) -> Vec<HostEvent> {
        let mut news = Vec::new();
        // Length first, in host byte order, padded to 4 (netlink(7)).
        while let Some(length) = batch.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(message) = batch.get(..length).filter(|_| length >= 16) else { break };
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message)
                && let NetlinkPayload::InnerMessage(message) = message.payload
                && let Some(event) = self.news(&message)
                && !news.contains(&event)
            {
                news.push(event);
            }
            batch = batch.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        news
    }

    fn news(&mut self, message: &RouteNetlinkMessage) -> Option<HostEvent> {
        let is_news = match message {
            RouteNetlinkMessage::NewLink(link) => self.link_is_news(link),
            RouteNetlinkMessage::DelLink(link) => self.link_gone(link),
            RouteNetlinkMessage::NewAddress(address) => self.address_is_news(address),
            RouteNetlinkMessage::DelAddress(address) => self.address_gone(address),
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => is_foreign_default(route),
            _ => false,
        };
        if self.links.len() > REMEMBERED || self.addresses.len() > REMEMBERED {
            self.links.clear();
            self.addresses.clear();
        }
        is_news.then_some(match message {
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => HostEvent::LinkChanged,
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => HostEvent::AddressChanged,
            _ => HostEvent::RouteChanged,
        })
    }

    fn link_is_news(&mut self, link: &LinkMessage) -> bool {
        let index = link.header.index;
        let works = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
        Some(index) != self.own && self.links.insert(index, works) != Some(works)
    }

    fn link_gone(&mut self, link: &LinkMessage) -> bool {
        let index = link.header.index;
        self.links.remove(&index);
        self.addresses.retain(|(of, _)| *of != index);
        Some(index) != self.own
    }

    fn address_is_news(&mut self, address: &AddressMessage) -> bool {
        let index = address.header.index;
        Some(index) != self.own && address_of(address).is_some_and(|address| self.addresses.insert((index, address)))
    }

    fn address_gone(&mut self, address: &AddressMessage) -> bool {
        let index = address.header.index;
        if let Some(address) = address_of(address) {
            self.addresses.remove(&(index, address));
        }
        Some(index) != self.own
    }
}

/// IFA_LOCAL where there is one, IFA_ADDRESS otherwise (rtnetlink(7)).
fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn is_foreign_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.table == RouteHeader::RT_TABLE_MAIN
        && route.header.protocol != RouteProtocol::from(PROTOCOL)
}

/// Notices that the machine slept: CLOCK_BOOTTIME goes on meanwhile, CLOCK_MONOTONIC does not (clock_gettime(2)).
#[derive(Clone, Copy, Debug)]
pub struct SuspendDetector {
    asleep: Duration,
}

impl SuspendDetector {
    /// Takes the first look.
    pub fn new() -> Self {
        Self { asleep: asleep_since_boot() }
    }

    /// How long the machine slept since the last look. Noise below a millisecond counts as nothing.
    pub fn look(&mut self) -> Duration {
        self.look_at(asleep_since_boot())
    }

    fn look_at(&mut self, asleep: Duration) -> Duration {
        let slept = asleep.saturating_sub(self.asleep);
        if slept < Duration::from_millis(1) {
            return Duration::ZERO;
        }
        self.asleep = asleep;
        slept
    }
}

impl Default for SuspendDetector {
    fn default() -> Self {
        Self::new()
    }
}

fn asleep_since_boot() -> Duration {
    let awake = clock_gettime(ClockId::Monotonic);
    let all = clock_gettime(ClockId::Boottime);
    let duration = |time: rustix::time::Timespec| Duration::try_from(time).unwrap_or_default();
    duration(all).saturating_sub(duration(awake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_told_once() {
        let mut detector = SuspendDetector { asleep: Duration::from_secs(10) };
        assert_eq!(detector.look_at(Duration::from_secs(10)), Duration::ZERO);
        assert_eq!(detector.look_at(Duration::from_micros(10_000_900)), Duration::ZERO);
        assert_eq!(detector.look_at(Duration::from_secs(70)), Duration::from_secs(60));
        assert_eq!(detector.look_at(Duration::from_secs(70)), Duration::ZERO);
        assert_eq!(detector.look_at(Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn repetition_is_no_news() {
        let mut memory = Memory::default();
        let mut link = LinkMessage::default();
        link.header.index = 3;
        link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        let up = RouteNetlinkMessage::NewLink(link.clone());
        assert_eq!(memory.news(&up), Some(HostEvent::LinkChanged));
        assert_eq!(memory.news(&up), None);
        link.header.flags = LinkFlags::Up;
        assert_eq!(memory.news(&RouteNetlinkMessage::NewLink(link.clone())), Some(HostEvent::LinkChanged));
        memory.own = Some(3);
        assert_eq!(memory.news(&up), None);
        assert_eq!(memory.news(&RouteNetlinkMessage::DelLink(link)), None);
    }

    #[test]
    fn only_default_routes_of_others_are_news() {
        let mut memory = Memory::default();
        let mut route = RouteMessage::default();
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        assert_eq!(memory.news(&RouteNetlinkMessage::NewRoute(route.clone())), Some(HostEvent::RouteChanged));
        assert_eq!(memory.news(&RouteNetlinkMessage::DelRoute(route.clone())), Some(HostEvent::RouteChanged));
        let mut ours = route.clone();
        ours.header.protocol = RouteProtocol::from(PROTOCOL);
        assert_eq!(memory.news(&RouteNetlinkMessage::NewRoute(ours)), None);
        let mut narrow = route.clone();
        narrow.header.destination_prefix_length = 1;
        assert_eq!(memory.news(&RouteNetlinkMessage::NewRoute(narrow)), None);
        route.header.table = 255;
        assert_eq!(memory.news(&RouteNetlinkMessage::NewRoute(route)), None);
    }

    #[test]
    fn torn_batches_end_quietly() {
        let mut memory = Memory::default();
        for batch in [&[][..], &[1], &[0; 16], &[255; 20], &[15, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]] {
            assert_eq!(memory.news_in(batch), []);
        }
    }
}

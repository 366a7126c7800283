//! Decrypted packets → the frames of TUN writes. Neighbours of one flow are joined into super-packets.
//!
//! A packet is opened straight to where it most likely belongs ([`TunBatch::land`]): behind the super-packet that grew last, so far
//! before its end that the headers fall on bytes which are saved and put back, and the payload falls into its place. If it turns out
//! to belong elsewhere it is moved. What may be joined (the rules of the kernel's GRO): TCP with nothing but ACK (PSH ends a
//! run), UDP with a checksum; equal addresses, ports, TTL, TOS or flow label, options, ACK and window; consecutive sequence numbers
//! (and IPv4 ids, without DF); equal payload sizes, only the last one shorter; and a correct checksum, because the kernel computes a new one
//! for every segment of a super-packet: a packet that was broken before the tunnel must not leave it repaired.
//!
//! Packets between the same ports keep their order: a packet that does not join its flow's super-packet closes it.

use super::checksum::{Sum, pseudo_header};
use super::ip::{self, IpInfo};
use super::virtio::{F_DATA_VALID, F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};

/// Which offloads TUN takes on a write (the TUN_F_ flags that TUNSETOFFLOAD accepted, linux/if_tun.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffload {
    /// `TUN_F_CSUM`; without it every packet is a frame of its own.
    pub csum: bool,
    /// `TUN_F_TSO4`
    pub tso4: bool,
    /// `TUN_F_TSO6`
    pub tso6: bool,
    /// `TUN_F_USO4`
    pub uso4: bool,
    /// `TUN_F_USO6`
    pub uso6: bool,
}

impl TunOffload {
    fn joins(&self, v6: bool, protocol: u8) -> bool {
        let offload = match (protocol, v6) {
            (ip::TCP, false) => self.tso4,
            (ip::TCP, true) => self.tso6,
            (ip::UDP, false) => self.uso4,
            (ip::UDP, true) => self.uso6,
            _ => false,
        };
        self.csum && offload
    }

    fn joins_anything(&self) -> bool {
        self.csum && (self.tso4 || self.tso6 || self.uso4 || self.uso6)
    }
}

/// Super-packets that grow or wait at a time: so many flows may interleave.
const SLOTS: usize = 8;
/// The longest packet, and super-packet, in bytes.
const MAX_PACKET: usize = 65_535;
/// The longest headers of a super-packet: IPv4 with options and TCP with options.
const MAX_HEADERS: usize = 120;
const SLOT_LEN: usize = VNET_HDR_LEN + MAX_PACKET;
/// Single frames of a batch; several trains of small packets fit.
const ARENA_LEN: usize = 256 * 1024;
/// What one train can fill at most: its packets are shorter than its datagrams by more than a virtio header.
const MAX_TRAIN: usize = 65_536;
/// `UDP_MAX_SEGMENTS` of kernels before 6.9 (linux/udp.h).
const MAX_UDP_SEGMENTS: usize = 64;
/// No IP packet is shorter than this, so that the number of frames is bounded.
const MIN_FRAME: usize = VNET_HDR_LEN + ip::V4_HEADER;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Frames on their way to TUN. Memory is allocated once.
#[derive(Debug)]
pub struct TunBatch {
    offload: TunOffload,
    slots: Vec<Slot>,
    /// How many slots hold a frame: they are taken in order.
    used: usize,
    arena: Box<[u8]>,
    arena_len: usize,
    frames: Vec<Frame>,
    landing: Option<Landing>,
    saved: [u8; MAX_HEADERS],
    /// The slot that grew last.
    last: usize,
    packets: u64,
}

/// A frame, in the order of writing.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Slot(usize),
    Arena { start: usize, end: usize },
}

/// Where the packet that is being opened stands: `start..start + len` of the slot or the arena.
#[derive(Clone, Copy, Debug)]
struct Landing {
    place: Place,
    start: usize,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind the super-packet of this slot; the bytes under its headers are saved.
    Behind(usize),
    /// At the beginning of a slot that is not used.
    Fresh(usize),
    /// At the end of the arena.
    Arena,
}

/// One super-packet: virtio header, headers of its first packet, payloads of all.
#[derive(Debug)]
struct Slot {
    buf: Box<[u8]>,
    /// Bytes in use, virtio header included.
    end: usize,
    open: bool,
    /// Packets in it.
    count: usize,
    shape: Shape,
    /// The sequence number that the next packet must have (TCP).
    next_seq: u32,
}

/// A packet that continues a super-packet.
#[derive(Clone, Copy, Debug)]
struct Continuation {
    payload: usize,
    next_seq: u32,
    push: bool,
}

/// What a packet that may be joined looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    v6: bool,
    protocol: u8,
    l4: usize,
    /// Bytes of all headers.
    headers: usize,
    /// Payload bytes.
    size: usize,
}

impl TunBatch {
    /// An empty batch (about 0.8 MiB).
    pub fn new(offload: TunOffload) -> Self {
        let slot = || Slot {
            buf: vec![0; SLOT_LEN].into_boxed_slice(),
            end: 0,
            open: false,
            count: 0,
            shape: Shape::default(),
            next_seq: 0,
        };
        TunBatch {
            offload,
            slots: (0..SLOTS).map(|_| slot()).collect(),
            used: 0,
            arena: vec![0; ARENA_LEN].into_boxed_slice(),
            arena_len: 0,
            frames: Vec::with_capacity(ARENA_LEN / MIN_FRAME + SLOTS),
            landing: None,
            saved: [0; MAX_HEADERS],
            last: 0,
            packets: 0,
        }
    }

    /// Changes what is joined from now on, when the kernel refuses an offload. Call it on an empty batch.
    pub fn set_offload(&mut self, offload: TunOffload) {
        self.offload = offload;
        for slot in &mut self.slots {
            slot.open = false;
        }
    }

    /// No frame is waiting.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many packets the frames hold.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// The next train might not fit, or could not be joined: write the frames and clear, before the next
    /// [`Pipeline::inbound`](crate::pipeline::Pipeline::inbound).
    pub fn wants_flush(&self) -> bool {
        self.arena.len() - self.arena_len < MAX_TRAIN
            || (self.used == SLOTS && self.offload.joins_anything())
            || self.frames.capacity() - self.frames.len() < MAX_TRAIN / MIN_FRAME
    }

    /// The frames to write, in order, each beginning with the virtio header. Completes the super-packets first: what comes after
    /// belongs to the next batch, so [`clear`](Self::clear) when they are written. A packet that landed and was not accepted is discarded.
    pub fn frames(&mut self) -> impl Iterator<Item = &[u8]> {
        self.discard();
        for slot in &mut self.slots[..self.used] {
            slot.finish();
        }
        let (slots, arena) = (&self.slots, &self.arena);
        self.frames.iter().map(move |frame| match *frame {
            Frame::Slot(at) => &slots[at].buf[..slots[at].end],
            Frame::Arena { start, end } => &arena[start..end],
        })
    }

    /// Forgets the frames; the memory stays.
    pub fn clear(&mut self) {
        for slot in &mut self.slots[..self.used] {
            slot.open = false;
        }
        self.used = 0;
        self.arena_len = 0;
        self.frames.clear();
        self.landing = None;
        self.packets = 0;
    }

    /// Where to open the next packet of `len` bytes; `None` when the batch is full. Then either [`accept`](Self::accept) it or
    /// [`discard`](Self::discard) it.
    #[inline]
    pub fn land(&mut self, len: usize) -> Option<&mut [u8]> {
        self.discard();
        let landing = self.choose(len)?;
        if let Place::Behind(at) = landing.place {
            let headers = self.slots[at].shape.headers;
            let under = &self.slots[at].buf[landing.start..landing.start + headers];
            self.saved[..headers].copy_from_slice(under);
        }
        self.landing = Some(landing);
        Some(self.landed())
    }

    /// The packet that [`land`](Self::land) gave room for; empty when there is none.
    #[inline]
    pub fn landed(&mut self) -> &mut [u8] {
        match self.landing {
            Some(Landing { place: Place::Behind(at) | Place::Fresh(at), start, len }) => {
                &mut self.slots[at].buf[start..start + len]
            }
            Some(Landing { place: Place::Arena, start, len }) => &mut self.arena[start..start + len],
            None => &mut [],
        }
    }

    /// The landed packet never happened.
    #[inline]
    pub fn discard(&mut self) {
        if let Some(landing) = self.landing.take() {
            self.put_back(landing);
        }
    }

    /// The landed packet goes to TUN: joined to its flow, or alone. `ip` is what was read from it. False: the batch was full,
    /// the packet is gone.
    #[inline]
    pub fn accept(&mut self, ip: &IpInfo) -> bool {
        let Some(landing) = self.landing.take() else {
            return false;
        };
        let taken = self.join_here(landing, ip) || self.accept_elsewhere(landing, ip);
        self.packets += u64::from(taken);
        taken
    }

    #[inline]
    fn choose(&self, len: usize) -> Option<Landing> {
        if self.offload.joins_anything() && len <= MAX_PACKET {
            if let Some(slot) = self.slots[..self.used].get(self.last)
                && slot.has_room_behind(len)
            {
                return Some(Landing { place: Place::Behind(self.last), start: slot.end - slot.shape.headers, len });
            }
            if self.used < SLOTS {
                return Some(Landing { place: Place::Fresh(self.used), start: VNET_HDR_LEN, len });
            }
        }
        let start = self.arena_len + VNET_HDR_LEN;
        let room = len <= MAX_PACKET && start + len <= self.arena.len() && self.frames.len() < self.frames.capacity();
        room.then_some(Landing { place: Place::Arena, start, len })
    }

    /// The fast path: the packet landed behind the super-packet that it continues.
    #[inline]
    fn join_here(&mut self, landing: Landing, ip: &IpInfo) -> bool {
        let Place::Behind(at) = landing.place else {
            return false;
        };
        let slot = &self.slots[at];
        let packet = &slot.buf[landing.start..landing.start + landing.len];
        let Some(next) = slot.continued_by(packet, ip) else {
            return false;
        };
        self.put_back(landing);
        self.slots[at].grow(next);
        true
    }

    fn accept_elsewhere(&mut self, landing: Landing, ip: &IpInfo) -> bool {
        if self.offload.joins_anything() {
            if let Some((at, next)) = self.find_flow(landing, ip) {
                return self.join_there(landing, at, next);
            }
            if self.start_slot(landing, ip) {
                return true;
            }
        }
        self.stand_alone(landing)
    }

    /// The super-packet that the landed packet continues. Those of its flow that it does not continue are closed.
    fn find_flow(&mut self, landing: Landing, ip: &IpInfo) -> Option<(usize, Continuation)> {
        for at in 0..self.used {
            let slot = &self.slots[at];
            let packet = self.packet(landing);
            if !slot.open || !slot.is_flow_of(packet, ip) {
                continue;
            }
            match slot.continued_by(packet, ip) {
                Some(next) => return Some((at, next)),
                None => self.slots[at].open = false,
            }
        }
        None
    }

    fn join_there(&mut self, landing: Landing, at: usize, next: Continuation) -> bool {
        let (from, to) = (landing.start + landing.len - next.payload, self.slots[at].end);
        self.copy_to_slot(landing, at, from, to, next.payload);
        self.put_back(landing);
        self.slots[at].grow(next);
        self.last = at;
        true
    }

    /// The landed packet begins a super-packet, when it may and a slot is free.
    fn start_slot(&mut self, landing: Landing, ip: &IpInfo) -> bool {
        let at = self.used;
        if at == SLOTS {
            return false;
        }
        let packet = self.packet(landing);
        let Some((shape, next_seq)) = Shape::of_first(packet, ip, &self.offload) else {
            return false;
        };
        if !is_intact(packet, ip) {
            return false;
        }
        if landing.place != Place::Fresh(at) {
            self.copy_to_slot(landing, at, landing.start, VNET_HDR_LEN, landing.len);
            self.put_back(landing);
        }
        let slot = &mut self.slots[at];
        (slot.end, slot.open, slot.count) = (VNET_HDR_LEN + landing.len, true, 1);
        (slot.shape, slot.next_seq) = (shape, next_seq);
        self.frames.push(Frame::Slot(at));
        self.used += 1;
        self.last = at;
        true
    }

    /// The landed packet is a frame of its own, unchanged.
    fn stand_alone(&mut self, landing: Landing) -> bool {
        let start = self.arena_len;
        let end = start + VNET_HDR_LEN + landing.len;
        if end > self.arena.len() || self.frames.len() == self.frames.capacity() {
            self.put_back(landing);
            return false;
        }
        if let Place::Behind(at) | Place::Fresh(at) = landing.place {
            let packet = &self.slots[at].buf[landing.start..landing.start + landing.len];
            self.arena[start + VNET_HDR_LEN..end].copy_from_slice(packet);
            self.put_back(landing);
        }
        self.arena[start..start + VNET_HDR_LEN].copy_from_slice(&VnetHeader::default().to_bytes());
        self.arena_len = end;
        self.frames.push(Frame::Arena { start, end });
        true
    }

    #[inline]
    fn packet(&self, landing: Landing) -> &[u8] {
        let range = landing.start..landing.start + landing.len;
        match landing.place {
            Place::Behind(at) | Place::Fresh(at) => &self.slots[at].buf[range],
            Place::Arena => &self.arena[range],
        }
    }

    /// Copies bytes of the landed packet into a slot, which may be the one where it landed.
    fn copy_to_slot(&mut self, landing: Landing, at: usize, from: usize, to: usize, len: usize) {
        match landing.place {
            Place::Arena => self.slots[at].buf[to..to + len].copy_from_slice(&self.arena[from..from + len]),
            Place::Behind(there) | Place::Fresh(there) if there == at => {
                self.slots[at].buf.copy_within(from..from + len, to);
            }
            Place::Behind(there) | Place::Fresh(there) => {
                if let Ok([source, target]) = self.slots.get_disjoint_mut([there, at]) {
                    target.buf[to..to + len].copy_from_slice(&source.buf[from..from + len]);
                }
            }
        }
    }

    /// Puts the saved bytes back under the headers of a packet that landed behind a super-packet.
    #[inline]
    fn put_back(&mut self, landing: Landing) {
        if let Place::Behind(at) = landing.place {
            let headers = self.slots[at].shape.headers;
            self.slots[at].buf[landing.start..landing.start + headers].copy_from_slice(&self.saved[..headers]);
        }
    }
}

impl Slot {
    /// A packet of `len` bytes that continues it can be opened over its end: its own headers stay clear of that.
    #[inline]
    fn has_room_behind(&self, len: usize) -> bool {
        let headers = self.shape.headers;
        self.open && len > headers && self.end >= VNET_HDR_LEN + 2 * headers && self.end - headers + len <= SLOT_LEN
    }

    /// The headers of its first packet.
    #[inline]
    fn headers(&self) -> &[u8] {
        &self.buf[VNET_HDR_LEN..VNET_HDR_LEN + self.shape.headers]
    }

    /// Whether the packet may become its next segment. Looks at the packet's checksum last.
    #[inline]
    fn continued_by(&self, packet: &[u8], ip: &IpInfo) -> Option<Continuation> {
        let shape = &self.shape;
        let alike = ip.v6 == shape.v6
            && ip.protocol == shape.protocol
            && ip.l4 == shape.l4
            && !ip.fragment
            && ip.total == packet.len()
            && packet.len() > shape.headers;
        let payload = packet.len().checked_sub(shape.headers)?;
        if !alike || !self.open || payload > shape.size || self.end + payload > SLOT_LEN {
            return None;
        }
        let first = self.headers();
        if !same_ip(first, packet, shape, self.count) {
            return None;
        }
        let next = match shape.protocol {
            ip::TCP => self.continued_by_tcp(first.get(shape.l4..)?, packet.get(shape.l4..shape.headers)?, payload)?,
            _ => self.continued_by_udp(first.get(shape.l4..)?, packet.get(shape.l4..shape.headers)?, payload)?,
        };
        is_intact(packet, ip).then_some(next)
    }

    #[inline]
    fn continued_by_tcp(&self, first: &[u8], header: &[u8], payload: usize) -> Option<Continuation> {
        let (a, a_options) = first.split_first_chunk::<20>()?;
        let (b, b_options) = header.split_first_chunk::<20>()?;
        let same = a[..4] == b[..4]
            && a[8..13] == b[8..13]
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
            && a_options == b_options;
        let sequence = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        if !same || sequence != self.next_seq || b[13] & !TCP_PSH != TCP_ACK {
            return None;
        }
        let next_seq = sequence.wrapping_add(payload as u32);
        Some(Continuation { payload, next_seq, push: b[13] & TCP_PSH != 0 })
    }

    #[inline]
    fn continued_by_udp(&self, first: &[u8], header: &[u8], payload: usize) -> Option<Continuation> {
        let a: &[u8; 8] = first.first_chunk()?;
        let b: &[u8; 8] = header.first_chunk()?;
        let good = a[..4] == b[..4] && is_udp_header(b, payload);
        good.then_some(Continuation { payload, next_seq: 0, push: false })
    }

    /// The payload of the next packet stands behind its end.
    #[inline]
    fn grow(&mut self, next: Continuation) {
        self.end += next.payload;
        self.count += 1;
        self.next_seq = next.next_seq;
        if next.push {
            self.buf[VNET_HDR_LEN + self.shape.l4 + 13] |= TCP_PSH;
        }
        let full = self.shape.protocol == ip::UDP && self.count == MAX_UDP_SEGMENTS;
        self.open = next.payload == self.shape.size && !next.push && !full;
    }

    /// The packet belongs to the same flow: what does not join may not overtake. A packet without ports (a fragment, or behind extension
    /// headers) might belong to any flow between its addresses.
    fn is_flow_of(&self, packet: &[u8], ip: &IpInfo) -> bool {
        let first = self.headers();
        let addresses = if self.shape.v6 { first.get(8..40) } else { first.get(12..20) };
        if ip.v6 != self.shape.v6 || addresses != Some(ip.addresses(packet)) {
            return false;
        }
        match ports(packet, ip) {
            Some(ports) => {
                ip.protocol == self.shape.protocol && first.get(self.shape.l4..self.shape.l4 + 4) == Some(ports)
            }
            None => true,
        }
    }

    /// Closes it and writes the headers of the whole.
    fn finish(&mut self) {
        self.open = false;
        if self.count == 1 {
            let header = VnetHeader { flags: F_DATA_VALID, gso_type: GSO_NONE, ..VnetHeader::default() };
            self.buf[..VNET_HDR_LEN].copy_from_slice(&header.to_bytes());
            return;
        }
        let Shape { v6, protocol, l4, headers, size } = self.shape;
        let (gso_type, csum_offset) = match (protocol, v6) {
            (ip::TCP, false) => (GSO_TCPV4, TCP_CHECKSUM),
            (ip::TCP, true) => (GSO_TCPV6, TCP_CHECKSUM),
            _ => (GSO_UDP_L4, UDP_CHECKSUM),
        };
        let header = VnetHeader {
            flags: F_NEEDS_CSUM,
            gso_type,
            hdr_len: headers as u16,
            gso_size: size as u16,
            csum_start: l4 as u16,
            csum_offset: csum_offset as u16,
        };
        let (vnet, packet) = self.buf[..self.end].split_at_mut(VNET_HDR_LEN);
        vnet.copy_from_slice(&header.to_bytes());
        write_lengths(packet, &self.shape);
        let addresses = if v6 { &packet[8..40] } else { &packet[12..20] };
        let partial = pseudo_header(addresses, protocol, packet.len() - l4).partial();
        packet[l4 + csum_offset..l4 + csum_offset + 2].copy_from_slice(&partial);
    }
}

/// The lengths of a super-packet's headers, and the IPv4 header's checksum.
fn write_lengths(packet: &mut [u8], shape: &Shape) {
    let len = packet.len();
    if shape.v6 {
        packet[4..6].copy_from_slice(&((len - ip::V6_HEADER) as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().bytes(&packet[..shape.l4]).checksum();
        packet[10..12].copy_from_slice(&checksum);
    }
    if shape.protocol == ip::UDP {
        packet[shape.l4 + 4..shape.l4 + 6].copy_from_slice(&((len - shape.l4) as u16).to_be_bytes());
    }
}

impl Shape {
    /// What a packet looks like that may begin a super-packet, and the sequence number behind it.
    fn of_first(packet: &[u8], ip: &IpInfo, offload: &TunOffload) -> Option<(Shape, u32)> {
        if ip.fragment || ip.total != packet.len() || !offload.joins(ip.v6, ip.protocol) {
            return None;
        }
        let transport = packet.get(ip.l4..)?;
        let (len, next_seq) = match ip.protocol {
            ip::TCP => first_of_tcp(transport)?,
            _ => first_of_udp(transport)?,
        };
        let (headers, size) = (ip.l4 + len, transport.len() - len);
        let shape = Shape { v6: ip.v6, protocol: ip.protocol, l4: ip.l4, headers, size };
        (headers <= MAX_HEADERS).then_some((shape, next_seq))
    }
}

/// Header length and next sequence number of a TCP segment with payload and no flag but ACK.
fn first_of_tcp(transport: &[u8]) -> Option<(usize, u32)> {
    let header: &[u8; 20] = transport.first_chunk()?;
    let len = usize::from(header[12] >> 4) * 4;
    if len < 20 || transport.len() <= len || header[13] != TCP_ACK {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((len, sequence.wrapping_add((transport.len() - len) as u32)))
}

/// Header length of a UDP datagram with payload and checksum.
fn first_of_udp(transport: &[u8]) -> Option<(usize, u32)> {
    let header: &[u8; 8] = transport.first_chunk()?;
    let payload = transport.len() - 8;
    (payload > 0 && is_udp_header(header, payload)).then_some((8, 0))
}

/// Its length is right, and it has a checksum: 0 stands for "none", and a super-packet's segments all get one.
#[inline]
fn is_udp_header(header: &[u8; 8], payload: usize) -> bool {
    usize::from(u16::from_be_bytes([header[4], header[5]])) == 8 + payload && header[6..] != [0, 0]
}

/// Everything in the IP header but lengths, checksum and, within the rules, the id is equal.
#[inline]
fn same_ip(first: &[u8], packet: &[u8], shape: &Shape, count: usize) -> bool {
    if shape.v6 {
        let (Some(a), Some(b)) = (first.first_chunk::<40>(), packet.first_chunk::<40>()) else {
            return false;
        };
        return a[..4] == b[..4] && a[6..8] == b[6..8] && a[8..] == b[8..];
    }
    let (Some((a, a_rest)), Some((b, b_rest))) = (first.split_first_chunk::<20>(), packet.split_first_chunk::<20>())
    else {
        return false;
    };
    let options = shape.l4 - ip::V4_HEADER;
    let dont_fragment = a[6] & 0x40 != 0;
    let expected_id = u16::from_be_bytes([a[4], a[5]]).wrapping_add(count as u16);
    a[..2] == b[..2]
        && a[6..10] == b[6..10]
        && a[12..] == b[12..]
        && (dont_fragment || b[4..6] == expected_id.to_be_bytes())
        && (options == 0 || a_rest.get(..options) == b_rest.get(..options))
}

/// Ports of a packet whose TCP or UDP header follows the IP header.
fn ports<'a>(packet: &'a [u8], ip: &IpInfo) -> Option<&'a [u8]> {
    let plain = !ip.fragment && (ip.protocol == ip::TCP || ip.protocol == ip::UDP);
    plain.then(|| packet.get(ip.l4..ip.l4 + 4)).flatten()
}

/// The checksums of IPv4 header and transport are right.
#[inline]
fn is_intact(packet: &[u8], ip: &IpInfo) -> bool {
    let (header, transport) = match packet.split_at_checked(ip.l4) {
        Some(parts) => parts,
        None => return false,
    };
    (ip.v6 || Sum::default().bytes(header).is_intact())
        && pseudo_header(ip.addresses(packet), ip.protocol, transport.len()).bytes(transport).is_intact()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::test_packets::{ACK, FIN, PSH, Packet, SYN};
    use proptest::prelude::*;

    const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

    fn put(batch: &mut TunBatch, packet: &[u8]) -> bool {
        let Some(room) = batch.land(packet.len()) else {
            return false;
        };
        room.copy_from_slice(packet);
        let info = ip::parse(packet).unwrap();
        batch.accept(&info)
    }

    fn frames(batch: &mut TunBatch) -> Vec<(VnetHeader, Vec<u8>)> {
        batch.frames().map(|frame| (VnetHeader::parse(frame).unwrap(), frame[VNET_HDR_LEN..].to_vec())).collect()
    }

    fn coalesce(offload: TunOffload, packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
        let mut batch = TunBatch::new(offload);
        for packet in packets {
            assert!(put(&mut batch, packet));
        }
        frames(&mut batch)
    }

    /// How many packets each frame holds, told from its headers.
    fn counts(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<usize> {
        frames
            .iter()
            .map(|(header, packet)| match header.gso_size {
                0 => 1,
                size => (packet.len() - usize::from(header.hdr_len)).div_ceil(size.into()),
            })
            .collect()
    }

    fn verified() -> VnetHeader {
        VnetHeader { flags: F_DATA_VALID, ..VnetHeader::default() }
    }

    fn kinds() -> impl Iterator<Item = Packet> {
        [(false, false), (false, true), (true, false), (true, true)].into_iter().map(|(v6, udp)| Packet {
            v6,
            udp,
            ..Packet::with_payload(5000)
        })
    }

    /// The packet that follows `packet` in its stream.
    fn follower(packet: &Packet) -> Packet {
        Packet {
            seq: packet.seq.wrapping_add(packet.payload.len() as u32),
            id: packet.id.wrapping_add(1),
            ..packet.clone()
        }
    }

    fn count_of_two(first: &Packet, second: &Packet) -> Vec<usize> {
        counts(&coalesce(ALL, &[first.bytes(), second.bytes()]))
    }

    #[test]
    fn segments_of_every_kind_become_the_super_packet_again() {
        for packet in kinds() {
            for size in [100, 1400, 2500, 4999] {
                let frames = coalesce(ALL, &packet.segments(size));
                assert_eq!(frames, [(packet.super_header(size), packet.partial_bytes())], "{size}");
            }
        }
    }

    #[test]
    fn a_push_ends_the_super_packet_and_stays_in_it() {
        let packet = Packet { flags: ACK | PSH, ..Packet::with_payload(300) };
        let mut segments = packet.segments(100);
        segments.extend(Packet { seq: packet.seq + 300, ..Packet::with_payload(100) }.segments(100));
        let frames = coalesce(ALL, &segments);
        assert_eq!(frames[0], (packet.super_header(100), packet.partial_bytes()));
        assert_eq!(counts(&frames), [3, 1]);
    }

    #[test]
    fn a_packet_alone_is_told_to_be_verified() {
        for packet in kinds() {
            assert_eq!(coalesce(ALL, &[packet.bytes()]), [(verified(), packet.bytes())]);
        }
    }

    #[test]
    fn followers_are_joined_and_everything_else_is_not() {
        for first in kinds() {
            let first = Packet { payload: vec![3; 200], ..first };
            let next = follower(&first);
            assert_eq!(count_of_two(&first, &next), [2]);
            let shorter = Packet { payload: vec![4; 199], ..next.clone() };
            assert_eq!(count_of_two(&first, &shorter), [2]);
            for (what, other) in [
                ("longer", Packet { payload: vec![4; 201], ..next.clone() }),
                ("TTL", Packet { ttl: 63, ..next.clone() }),
                ("TOS", Packet { tos: 2, ..next.clone() }),
                ("host", Packet { host: 2, ..next.clone() }),
                ("port", Packet { source_port: 1001, ..next.clone() }),
            ] {
                assert_eq!(count_of_two(&first, &other), [1, 1], "{what} {first:?}");
            }
        }
    }

    #[test]
    fn tcp_that_differs_is_not_joined() {
        for v6 in [false, true] {
            let first = Packet { v6, options: vec![1; 12], ..Packet::with_payload(200) };
            let next = follower(&first);
            assert_eq!(count_of_two(&first, &next), [2]);
            for (what, other) in [
                ("sequence", Packet { seq: next.seq + 1, ..next.clone() }),
                ("repeated", first.clone()),
                ("ack", Packet { ack: 78, ..next.clone() }),
                ("window", Packet { window: 513, ..next.clone() }),
                ("options", Packet { options: vec![0; 12], ..next.clone() }),
                ("fewer options", Packet { options: vec![1; 8], ..next.clone() }),
                ("FIN", Packet { flags: ACK | FIN, ..next.clone() }),
                ("SYN", Packet { flags: ACK | SYN, ..next.clone() }),
                ("URG", Packet { flags: ACK | 0x20, ..next.clone() }),
                ("ECE", Packet { flags: ACK | 0x40, ..next.clone() }),
                ("CWR", Packet { flags: ACK | 0x80, ..next.clone() }),
                ("no ACK", Packet { flags: 0, ..next.clone() }),
                ("no payload", Packet { payload: vec![], ..next.clone() }),
            ] {
                assert_eq!(count_of_two(&first, &other), [1, 1], "{what}");
                // Nor does a later one join past it, even if it would fit.
                let later = coalesce(ALL, &[first.bytes(), other.bytes(), next.bytes()]);
                assert_ne!(counts(&later)[0], 2, "{what}");
            }
        }
    }

    #[test]
    fn ipv4_ids_count_only_where_fragments_may_be_made() {
        let free = Packet { dont_fragment: false, ..Packet::with_payload(200) };
        assert_eq!(count_of_two(&free, &follower(&free)), [2]);
        assert_eq!(count_of_two(&free, &Packet { id: free.id, ..follower(&free) }), [1, 1]);
        let bound = Packet::with_payload(200);
        assert_eq!(count_of_two(&bound, &Packet { id: bound.id, ..follower(&bound) }), [2]);
        assert_eq!(count_of_two(&bound, &Packet { dont_fragment: false, ..follower(&bound) }), [1, 1]);
        let options = Packet { ip_options: vec![1; 4], ..Packet::with_payload(200) };
        assert_eq!(count_of_two(&options, &follower(&options)), [2]);
        assert_eq!(count_of_two(&options, &Packet { ip_options: vec![0; 4], ..follower(&options) }), [1, 1]);
    }

    #[test]
    fn a_broken_checksum_passes_alone_and_unchanged() {
        for packet in kinds() {
            let first = Packet { payload: vec![3; 200], ..packet };
            let next = follower(&first);
            let good = [first.bytes(), next.bytes()];
            for broken_one in 0..2 {
                for at in [1, first.checksum_at(), first.headers() + 50] {
                    // Byte 1 is covered by IPv4's header checksum only; in IPv6 it makes another flow label.
                    let mut packets = good.clone();
                    packets[broken_one][at] ^= 1;
                    let frames = coalesce(ALL, &packets);
                    assert_eq!(counts(&frames), [1, 1]);
                    assert_eq!(frames[broken_one].1, packets[broken_one]);
                    if at != 1 {
                        assert_eq!(frames[broken_one].0, VnetHeader::default());
                    }
                }
            }
        }
    }

    #[test]
    fn udp_without_a_checksum_passes_alone() {
        let packet = Packet { udp: true, ..Packet::with_payload(100) };
        let mut bytes = packet.bytes();
        bytes[26..28].fill(0);
        let frames = coalesce(ALL, &[bytes.clone(), bytes.clone()]);
        assert_eq!(frames, [(VnetHeader::default(), bytes.clone()), (VnetHeader::default(), bytes.clone())]);
        assert_eq!(counts(&coalesce(ALL, &[packet.bytes(), bytes])), [1, 1]);
    }

    #[test]
    fn fragments_pass_alone_and_close_the_flows_between_their_addresses() {
        let first = Packet { udp: true, ..Packet::with_payload(100) };
        let next = follower(&first);
        let mut fragment = first.bytes();
        fragment[6] = 0x20;
        fragment[10..12].fill(0);
        let sum = Sum::default().bytes(&fragment[..20]).checksum();
        fragment[10..12].copy_from_slice(&sum);
        let frames = coalesce(ALL, &[first.bytes(), fragment.clone(), next.bytes()]);
        assert_eq!(counts(&frames), [1, 1, 1]);
        assert_eq!(frames[1], (VnetHeader::default(), fragment.clone()));
        // Between other addresses it closes nothing.
        let other = Packet { host: 2, ..first.clone() };
        let frames = coalesce(ALL, &[other.bytes(), fragment, follower(&other).bytes()]);
        assert_eq!(counts(&frames), [2, 1]);
    }

    #[test]
    fn interleaved_flows_are_joined_each_for_itself() {
        let flows: Vec<Vec<Vec<u8>>> =
            (0..4).map(|host| Packet { host, source_port: 9, ..Packet::with_payload(1000) }.segments(100)).collect();
        let mut mixed = Vec::new();
        for at in 0..10 {
            for flow in &flows {
                mixed.push(flow[at].clone());
            }
        }
        let frames = coalesce(ALL, &mixed);
        assert_eq!(counts(&frames), [10; 4]);
        for (host, (_, packet)) in frames.iter().enumerate() {
            let whole = Packet { host: host as u8, source_port: 9, ..Packet::with_payload(1000) };
            assert_eq!(*packet, whole.partial_bytes());
        }
    }

    #[test]
    fn an_acknowledgement_of_another_flow_does_not_close_this_one() {
        let first = Packet::with_payload(100);
        let ack = Packet { source_port: 5, payload: vec![], ..first.clone() };
        let frames = coalesce(ALL, &[first.bytes(), ack.bytes(), follower(&first).bytes()]);
        assert_eq!(counts(&frames), [2, 1]);
    }

    #[test]
    fn each_offload_has_its_switch() {
        for packet in kinds() {
            let packet = Packet { payload: vec![1; 300], ..packet };
            let own = match (packet.udp, packet.v6) {
                (false, false) => TunOffload { tso4: false, ..ALL },
                (false, true) => TunOffload { tso6: false, ..ALL },
                (true, false) => TunOffload { uso4: false, ..ALL },
                (true, true) => TunOffload { uso6: false, ..ALL },
            };
            let alone: Vec<_> =
                packet.segments(100).into_iter().map(|segment| (VnetHeader::default(), segment)).collect();
            for offload in [own, TunOffload { csum: false, ..ALL }, TunOffload::default()] {
                assert_eq!(coalesce(offload, &packet.segments(100)), alone);
            }
        }
    }

    #[test]
    fn a_super_packet_keeps_to_64_kib_and_udp_to_64_segments() {
        let tcp = coalesce(ALL, &Packet::with_payload(65_000).segments(1300));
        assert_eq!(counts(&tcp), [50]);
        let mut batch = TunBatch::new(ALL);
        let stream = Packet::with_payload(60_000);
        let more = Packet { seq: stream.seq.wrapping_add(60_000), ..Packet::with_payload(10_000) };
        for segment in stream.segments(1000).iter().chain(&more.segments(1000)) {
            assert!(put(&mut batch, segment));
        }
        assert_eq!(counts(&frames(&mut batch)), [65, 5]);
        let udp = Packet { udp: true, ..Packet::with_payload(100 * 65) };
        assert_eq!(counts(&coalesce(ALL, &udp.segments(100))), [64, 1]);
    }

    #[test]
    fn what_is_discarded_leaves_no_trace() {
        let packet = Packet::with_payload(300);
        let segments = packet.segments(100);
        let mut batch = TunBatch::new(ALL);
        batch.land(50).unwrap().fill(0xff);
        batch.discard();
        assert!(batch.is_empty());
        for segment in &segments {
            assert!(put(&mut batch, segment));
            batch.land(1400).unwrap().fill(0xff);
            batch.discard();
            // Forgotten without a word.
            batch.land(700).unwrap().fill(0xee);
        }
        assert_eq!(frames(&mut batch), [(packet.super_header(100), packet.partial_bytes())]);
        assert_eq!(batch.packets(), 3);
    }

    #[test]
    fn a_cleared_batch_starts_anew() {
        let packet = Packet::with_payload(200);
        let mut batch = TunBatch::new(ALL);
        assert!(put(&mut batch, &packet.segments(100)[0]));
        assert!(!batch.is_empty());
        batch.clear();
        assert!(batch.is_empty() && batch.packets() == 0 && frames(&mut batch).is_empty());
        assert!(put(&mut batch, &packet.segments(100)[1]));
        assert_eq!(counts(&frames(&mut batch)), [1]);
    }

    #[test]
    fn more_flows_than_slots_go_through_one_by_one() {
        let packets: Vec<Vec<u8>> = (0..20).map(|host| Packet { host, ..Packet::with_payload(100) }.bytes()).collect();
        let mut batch = TunBatch::new(ALL);
        for packet in &packets {
            assert!(put(&mut batch, packet));
        }
        assert!(batch.wants_flush());
        let out: Vec<Vec<u8>> = frames(&mut batch).into_iter().map(|(_, packet)| packet).collect();
        assert_eq!(out, packets);
    }

    #[test]
    fn a_batch_that_wants_no_flush_takes_a_whole_train_of_the_smallest_packets() {
        let tiny = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        for offload in [ALL, TunOffload::default()] {
            let mut batch = TunBatch::new(offload);
            while !batch.wants_flush() {
                for _ in 0..65_507 / (20 + 21) {
                    assert!(put(&mut batch, &tiny));
                }
            }
            let capacity = batch.frames.capacity();
            while put(&mut batch, &tiny) {}
            assert_eq!(batch.frames.capacity(), capacity, "a full batch allocates nothing");
            assert!(batch.land(MAX_PACKET + 1).is_none());
        }
    }

    /// A step of a random stream: which flow, what payload length, and whether something is odd about the packet.
    #[derive(Clone, Debug)]
    struct Step {
        flow: u8,
        len: usize,
        odd: u8,
    }

    fn step() -> impl Strategy<Value = Step> {
        let len = prop_oneof![4 => Just(500usize), 1 => 0usize..700, 1 => 0usize..30];
        (0u8..12, len, 0u8..16).prop_map(|(flow, len, odd)| Step { flow, len, odd })
    }

    /// What the frames stand for, by the independent segmentation of the test packets: flow by flow, in order.
    fn expand(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (header, packet) in frames {
            if header.gso_type == GSO_NONE {
                packets.push(packet.clone());
                continue;
            }
            let mut frame = [&header.to_bytes()[..], packet].concat();
            let plan = crate::tun::split::plan(&frame).unwrap();
            let mut segments = plan.segments(&mut frame);
            while let Some(segment) = segments.next() {
                packets.push(segment.to_vec());
            }
        }
        packets
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 256 }))]

        #[test]
        fn every_packet_comes_out_again_in_the_order_of_its_flow(steps in prop::collection::vec(step(), 1..150)) {
            let mut flows: Vec<Packet> = (0..12u8)
                .map(|flow| Packet {
                    host: flow / 3, source_port: u16::from(flow), v6: flow % 2 == 0, udp: flow % 3 == 0,
                    dont_fragment: flow % 4 < 2, ..Packet::default()
                })
                .collect();
            let mut sent = vec![Vec::new(); 12];
            let mut batch = TunBatch::new(ALL);
            for Step { flow, len, odd } in steps {
                let stream = &mut flows[usize::from(flow)];
                stream.payload = vec![odd; len];
                stream.flags = match odd { 0 => ACK | PSH, 1 => ACK | FIN, _ => ACK };
                stream.ttl = if odd == 2 { 3 } else { 64 };
                let mut bytes = stream.bytes();
                if odd == 3 {
                    let last = bytes.len() - 1;
                    bytes[last] ^= 0x40;
                }
                *stream = follower(stream);
                prop_assert!(put(&mut batch, &bytes));
                sent[usize::from(flow)].push(bytes);
            }
            let mut received = vec![Vec::new(); 12];
            for packet in expand(&frames(&mut batch)) {
                let info = ip::parse(&packet).unwrap();
                let port = packet[info.l4 + 1];
                received[usize::from(port)].push(packet);
            }
            prop_assert_eq!(received, sent);
        }

        #[test]
        fn no_packet_makes_it_panic(packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 1..200), prop::sample::select(vec![0x45u8, 0x60, 0x4f, 0x46]), any::<bool>()), 1..30)) {
            let mut batch = TunBatch::new(ALL);
            for (mut bytes, first, tcp) in packets {
                bytes[0] = first;
                let len = bytes.len();
                if len > 48 {
                    bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                    let protocol = if tcp { 6 } else { 17 };
                    if first == 0x60 {
                        bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                        bytes[6] = protocol;
                    } else {
                        bytes[9] = protocol;
                    }
                }
                if let Some(info) = ip::parse(&bytes) {
                    batch.land(len).unwrap().copy_from_slice(&bytes);
                    prop_assert!(batch.accept(&info));
                }
            }
            let _ = frames(&mut batch);
        }
    }
}

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

use super::ip::{self, IpInfo};
use super::virtio::{VNET_HDR_LEN, VnetHeader};
use slot::{Continuation, MAX_HEADERS, MAX_PACKET, Shape, Slot, is_intact};

mod slot;

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
/// Single frames of a batch; several trains of small packets fit.
const ARENA_LEN: usize = 256 * 1024;
/// What one train can fill at most: its packets are shorter than its datagrams by more than a virtio header.
const MAX_TRAIN: usize = 65_536;
/// No IP packet is shorter than this, so that the number of frames is bounded.
const MIN_FRAME: usize = VNET_HDR_LEN + ip::V4_HEADER;

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

impl TunBatch {
    /// An empty batch (about 0.8 MiB).
    pub fn new(offload: TunOffload) -> Self {
        TunBatch {
            offload,
            slots: (0..SLOTS).map(|_| Slot::new()).collect(),
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

#[cfg(test)]
mod tests;

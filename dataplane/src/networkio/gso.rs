//! The outgoing batch: wire packets behind one another in one buffer, grouped into runs that UDP_SEGMENT sends in one call.
//!
//! The buffer is allocated once. A packet is *reserved*, sealed in place and *committed*; a reservation that is dropped
//! never happened. Grouping is decided at commit: a run holds packets to one address, all of one size, the last of which may be
//! shorter, within the limits of the kernel (`UDP_MAX_SEGMENTS` in linux/udp.h, and the largest UDP payload over IPv4).

use link::message::Path;

/// The largest UDP payload over IPv4 in bytes: 65,535 − 20 − 8.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// What headers a segment has inside of the tunnel at most, options of the usual kind included: IPv6, and TCP with timestamps.
const INNER_HEADERS: usize = 72;
/// What `mssfix` takes off a segment at most, in bytes.
const MSSFIX: usize = 100;
/// UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9.
const UDP_MAX_SEGMENTS: usize = 64;
/// The kernel's own bound for a device that was told nothing (GSO_LEGACY_MAX_SIZE, linux/netdevice.h).
const GSO_MAX_SIZE: usize = 65_536;

/// The longest super-packet in bytes (`gso_max_size`, ip-link(8)) of a TUN whose packets have up to `tun_mtu` bytes and grow by
/// `overhead` bytes when sealed, so that what one read brings goes out in one send: at most [`MAX_UDP_PAYLOAD`] bytes and 64 segments
/// together. 64 KiB inside of the tunnel would become one full send and a small one.
pub fn fitting_super_packet(tun_mtu: u16, overhead: usize) -> u32 {
    let longest = usize::from(tun_mtu).saturating_sub(MSSFIX).max(2 * INNER_HEADERS);
    let payload = longest - INNER_HEADERS;
    // Every segment repeats the headers and has an overhead, a last, shorter one too; the super-packet has its headers once.
    let by_bytes = (MAX_UDP_PAYLOAD - INNER_HEADERS).saturating_sub(overhead) * payload / (longest + overhead);
    let by_count = UDP_MAX_SEGMENTS * payload;
    u32::try_from(by_bytes.min(by_count).min(GSO_MAX_SIZE)).unwrap_or(u32::MAX)
}

/// Packets that one send call carries: `count` of `segment` bytes each, the last of which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where to.
    pub path: Path,
    /// The first byte in [`WireBatch::bytes`].
    pub start: usize,
    /// All bytes of the run, at most [`MAX_UDP_PAYLOAD`].
    pub len: usize,
    /// Bytes of each packet but perhaps the last: what UDP_SEGMENT takes.
    pub segment: usize,
    /// How many packets; 1 means: send without UDP_SEGMENT.
    pub count: usize,
    /// The one packet is longer than `max_segment`: the kernel answers EMSGSIZE to UDP_SEGMENT above the path MTU, so such a
    /// packet always travels alone and IP may fragment it.
    pub oversize: bool,
}

/// The memory of a batch. An engine that sends without a copy has several, and knows them by their tags.
#[derive(Debug)]
pub struct WireBuffer {
    bytes: Box<[u8]>,
    tag: Option<(u32, u16)>,
}

impl WireBuffer {
    /// So many bytes.
    pub(crate) fn new(len: usize) -> Self {
        Self { bytes: vec![0; len].into_boxed_slice(), tag: None }
    }

    /// So many bytes, known by this tag. It stays with the memory: there is no other way to have the same tag.
    pub(crate) fn tagged(len: usize, tag: (u32, u16)) -> Self {
        Self { tag: Some(tag), ..Self::new(len) }
    }

    pub(crate) fn tag(&self) -> Option<(u32, u16)> {
        self.tag
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Wire packets waiting for their send call.
#[derive(Debug)]
pub struct WireBatch {
    buf: WireBuffer,
    len: usize,
    runs: Vec<Run>,
    max_segments: usize,
    max_segment: usize,
    gso: bool,
    /// The last run may take another packet.
    open: bool,
}

impl WireBatch {
    /// A batch of `capacity_bytes` (at least one full datagram), with at most `max_segments` packets in a run (the kernel's limit:
    /// 64, or 128 since Linux 6.9). Without `gso` every run holds one packet.
    pub fn new(capacity_bytes: usize, max_segments: usize, gso: bool) -> Self {
        let capacity = capacity_bytes.max(MAX_UDP_PAYLOAD);
        WireBatch {
            buf: WireBuffer::new(capacity),
            len: 0,
            runs: Vec::with_capacity(Self::run_capacity(capacity)),
            max_segments: max_segments.max(1),
            max_segment: MAX_UDP_PAYLOAD,
            gso,
            open: false,
        }
    }

    /// More runs than this do not fit: a data packet has at least 22 bytes, so few batches come near it.
    fn run_capacity(capacity: usize) -> usize {
        capacity / 44 + 1
    }

    /// Nothing was committed since the last [`clear`](Self::clear).
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets what was committed; the memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
        self.runs.clear();
        self.open = false;
    }

    /// All committed packets.
    pub fn bytes(&self) -> &[u8] {
        &self.buf.bytes[..self.len]
    }

    /// The committed packets, grouped for sending, in the order of their commits.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Bytes that can still be reserved.
    pub fn room(&self) -> usize {
        self.buf.len() - self.len
    }

    /// Whether `packets` packets of `bytes` bytes altogether still fit.
    pub fn fits(&self, packets: usize, bytes: usize) -> bool {
        bytes <= self.room() && packets <= self.runs.capacity() - self.runs.len()
    }

    /// Switches grouping off or on, when the kernel refuses UDP_SEGMENT. What is in the batch stays as it is grouped.
    pub fn set_gso(&mut self, gso: bool) {
        self.gso = gso;
        self.open = false;
    }

    /// Packets longer than this many bytes of UDP payload travel alone, marked [`Run::oversize`]: the path MTU less IP and UDP headers.
    pub fn set_max_segment(&mut self, bytes: usize) {
        self.max_segment = bytes;
    }

    /// The memory under the batch.
    pub(crate) fn buffer(&self) -> &WireBuffer {
        &self.buf
    }

    /// Puts another buffer of the same size under the batch, which forgets what was committed; the one it had. One of another size is
    /// given back.
    pub(crate) fn exchange(&mut self, buffer: WireBuffer) -> WireBuffer {
        self.clear();
        if buffer.len() != self.buf.len() {
            return buffer;
        }
        std::mem::replace(&mut self.buf, buffer)
    }

    /// Room for one packet of `len` bytes (1 to [`MAX_UDP_PAYLOAD`]); `None` when it does not fit.
    #[inline]
    pub fn reserve(&mut self, len: usize) -> Option<Reservation<'_>> {
        if len == 0 || len > MAX_UDP_PAYLOAD || !self.fits(1, len) {
            return None;
        }
        Some(Reservation { batch: self, len })
    }

    #[inline]
    fn commit(&mut self, path: &Path, len: usize) {
        let start = self.len;
        self.len += len;
        let oversize = len > self.max_segment;
        if self.open
            && !oversize
            && let Some(run) = self.runs.last_mut()
            && run.count < self.max_segments
            && len <= run.segment
            && run.len + len <= MAX_UDP_PAYLOAD
            && run.path == *path
        {
            run.len += len;
            run.count += 1;
            self.open = len == run.segment;
            return;
        }
        self.runs.push(Run { path: *path, start, len, segment: len, count: 1, oversize });
        self.open = self.gso && !oversize;
    }
}

/// Room for one packet. Fill [`bytes`](Self::bytes), then [`commit`](Self::commit); dropped, it never happened.
#[derive(Debug)]
pub struct Reservation<'a> {
    batch: &'a mut WireBatch,
    len: usize,
}

impl Reservation<'_> {
    /// The packet's bytes; what they hold before is undefined.
    #[inline]
    pub fn bytes(&mut self) -> &mut [u8] {
        let start = self.batch.len;
        &mut self.batch.buf.bytes[start..start + self.len]
    }

    /// The packet is complete and goes to this address.
    #[inline]
    pub fn commit(self, path: &Path) {
        self.batch.commit(path, self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn path(port: u16) -> Path {
        Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
    }

    fn put(batch: &mut WireBatch, port: u16, len: usize) -> bool {
        match batch.reserve(len) {
            Some(mut reservation) => {
                reservation.bytes().fill(port as u8);
                reservation.commit(&path(port));
                true
            }
            None => false,
        }
    }

    fn shape(batch: &WireBatch) -> Vec<(usize, usize, usize)> {
        batch.runs().iter().map(|run| (run.segment, run.count, run.len)).collect()
    }

    #[test]
    fn a_super_packet_that_fits_becomes_one_send() {
        assert_eq!(fitting_super_packet(1500, 24), 61_001);
        for overhead in [21, 24, 32] {
            for mtu in 576..=9_200u16 {
                let super_packet = fitting_super_packet(mtu, overhead) as usize;
                assert!(super_packet >= 20_000);
                // Headers of TCP and UDP over IPv4 and IPv6; the MSS as the MTU has it, and clamped.
                for (headers, clamped) in [(28, 0), (40, 0), (40, 100), (52, 90), (60, 0), (72, 0), (72, 100)] {
                    let size = usize::from(mtu) - clamped - headers;
                    let payload = super_packet - headers;
                    let count = payload.div_ceil(size);
                    // The kernel fills whole segments; those of a forwarded super-packet end in a shorter one.
                    for (count, payload) in [(payload / size, payload / size * size), (count, payload)] {
                        assert!(count <= UDP_MAX_SEGMENTS, "MTU {mtu}: {count} segments");
                        let wire = payload + count * (headers + overhead);
                        assert!(wire <= MAX_UDP_PAYLOAD, "MTU {mtu} headers {headers} -{clamped}: {wire}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_super_packet_is_not_cut_more_than_necessary() {
        for mtu in [1_280u16, 1_400, 1_500, 9_000] {
            let super_packet = fitting_super_packet(mtu, 24);
            assert!((58_000..=65_536).contains(&super_packet), "MTU {mtu}: {super_packet}");
        }
    }

    #[test]
    fn equal_packets_to_one_address_form_one_run() {
        let mut batch = WireBatch::new(0, 64, true);
        for _ in 0..5 {
            assert!(put(&mut batch, 1, 100));
        }
        assert_eq!(shape(&batch), [(100, 5, 500)]);
    }

    #[test]
    fn a_shorter_packet_ends_the_run_and_a_longer_one_starts_another() {
        let mut batch = WireBatch::new(0, 64, true);
        for len in [100, 100, 60, 60, 100] {
            assert!(put(&mut batch, 1, len));
        }
        assert_eq!(shape(&batch), [(100, 3, 260), (60, 1, 60), (100, 1, 100)]);
    }

    #[test]
    fn another_address_is_another_run() {
        let mut batch = WireBatch::new(0, 64, true);
        for port in [1, 1, 2, 1] {
            assert!(put(&mut batch, port, 100));
        }
        assert_eq!(shape(&batch), [(100, 2, 200), (100, 1, 100), (100, 1, 100)]);
        assert_eq!(batch.runs()[1].path, path(2));
    }

    #[test]
    fn a_run_keeps_to_the_kernels_limits() {
        let mut batch = WireBatch::new(1 << 20, 64, true);
        for _ in 0..65 {
            assert!(put(&mut batch, 1, 100));
        }
        assert_eq!(shape(&batch), [(100, 64, 6400), (100, 1, 100)]);
        batch.clear();
        for _ in 0..5 {
            assert!(put(&mut batch, 1, 20_000));
        }
        assert_eq!(shape(&batch), [(20_000, 3, 60_000), (20_000, 2, 40_000)]);
        assert!(batch.reserve(MAX_UDP_PAYLOAD + 1).is_none());
        assert!(batch.reserve(0).is_none());
        assert!(batch.reserve(MAX_UDP_PAYLOAD).is_some());
    }

    #[test]
    fn without_gso_every_packet_is_a_run() {
        let mut batch = WireBatch::new(0, 64, false);
        assert!(put(&mut batch, 1, 100) && put(&mut batch, 1, 100));
        assert_eq!(shape(&batch), [(100, 1, 100), (100, 1, 100)]);
        batch.set_gso(true);
        assert!(put(&mut batch, 1, 100) && put(&mut batch, 1, 100));
        assert_eq!(shape(&batch), [(100, 1, 100), (100, 1, 100), (100, 2, 200)]);
    }

    #[test]
    fn a_packet_above_the_path_mtu_travels_alone() {
        let mut batch = WireBatch::new(0, 64, true);
        batch.set_max_segment(1000);
        for len in [1000, 1000, 1001, 1001, 1000] {
            assert!(put(&mut batch, 1, len));
        }
        assert_eq!(shape(&batch), [(1000, 2, 2000), (1001, 1, 1001), (1001, 1, 1001), (1000, 1, 1000)]);
        let oversize: Vec<bool> = batch.runs().iter().map(|run| run.oversize).collect();
        assert_eq!(oversize, [false, true, true, false]);
    }

    #[test]
    fn a_batch_changes_its_buffer_for_one_of_the_same_size_alone() {
        let mut batch = WireBatch::new(0, 64, true);
        assert!(put(&mut batch, 1, 100));
        assert_eq!(batch.exchange(WireBuffer::tagged(MAX_UDP_PAYLOAD - 1, (1, 2))).tag(), Some((1, 2)), "given back");
        assert!(put(&mut batch, 1, 100));
        let before = batch.exchange(WireBuffer::tagged(MAX_UDP_PAYLOAD, (1, 2)));
        assert_eq!((before.tag(), before.bytes[99]), (None, 1));
        assert!(batch.is_empty() && batch.runs().is_empty());
        assert_eq!(batch.buffer().tag(), Some((1, 2)));
        assert!(put(&mut batch, 3, 10));
        assert_eq!(batch.bytes(), [3; 10]);
    }

    #[test]
    fn a_dropped_reservation_never_happened() {
        let mut batch = WireBatch::new(0, 64, true);
        batch.reserve(100).unwrap().bytes().fill(7);
        assert!(batch.is_empty() && batch.runs().is_empty());
        assert!(put(&mut batch, 1, 50));
        assert_eq!(batch.bytes(), [1; 50]);
        assert!(!batch.is_empty());
    }

    #[test]
    fn a_full_batch_refuses_and_an_emptied_one_takes_again() {
        let mut batch = WireBatch::new(MAX_UDP_PAYLOAD + 10, 64, true);
        assert!(put(&mut batch, 1, MAX_UDP_PAYLOAD));
        assert!(!put(&mut batch, 1, 11));
        assert!(put(&mut batch, 1, 10));
        assert_eq!(batch.room(), 0);
        batch.clear();
        assert!(batch.is_empty() && put(&mut batch, 1, 11));
    }
}

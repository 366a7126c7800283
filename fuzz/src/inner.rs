//! Inner packets: whatever the input has, or, so that the deeper stages are reached, an IPv4 or IPv6 packet with TCP or
//! UDP of a few flows whose lengths and checksums are right, unless the input spoils them.

use dataplane::tun::checksum::{Sum, pseudo_header};
use dataplane::tun::ip::{TCP, UDP, V4_HEADER, V6_HEADER};

use crate::input::Input;

/// A packet, and what a kernel would say of it.
pub(crate) struct Inner {
    pub(crate) bytes: Vec<u8>,
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    /// Where the transport header starts.
    pub(crate) l4: usize,
}

/// How a packet is made: bits of the input's first byte.
const RAW: u8 = 0x80;
const IS_V6: u8 = 0x01;
const IS_UDP: u8 = 0x02;
const OPTIONS: u8 = 0x04;
const SPOILED: u8 = 0x08;

/// The next packet; `None` at the end of the input.
pub(crate) fn packet(input: &mut Input<'_>) -> Option<Inner> {
    let shape = input.byte()?;
    if shape & RAW != 0 {
        return Some(Inner { bytes: input.some()?.to_vec(), v6: false, protocol: TCP, l4: V4_HEADER });
    }
    let [flow, step, flags, window] = input.take()?;
    let payload = usize::from(input.number()?) % 40_000;
    let options = if shape & OPTIONS != 0 { input.some()? } else { &[] };
    let (v6, protocol) = (shape & IS_V6 != 0, if shape & IS_UDP != 0 { UDP } else { TCP });
    let transport = match protocol {
        UDP => udp(flow, payload),
        _ => tcp(flow, step, flags, window, options, payload),
    };
    let mut bytes =
        if v6 { v6_header(flow, protocol, transport.len()) } else { v4_header(flow, step, protocol, transport.len()) };
    let l4 = bytes.len();
    bytes.extend_from_slice(&transport);
    complete(&mut bytes, v6, protocol, l4);
    if shape & SPOILED != 0 {
        for _ in 0..2 {
            let (at, value) = (usize::from(input.number()?) % bytes.len(), input.byte()?);
            bytes[at] = value;
        }
    }
    Some(Inner { bytes, v6, protocol, l4 })
}

fn tcp(flow: u8, step: u8, flags: u8, window: u8, options: &[u8], payload: usize) -> Vec<u8> {
    let options = &options[..options.len().min(40)];
    let header = 20 + options.len().next_multiple_of(4);
    let mut bytes = vec![0; header];
    bytes[..4].copy_from_slice(&[4, flow & 3, 0, 80]);
    // Segments of equal size follow each other when the steps do.
    bytes[4..8].copy_from_slice(&(u32::from(step).wrapping_mul(payload as u32)).to_be_bytes());
    // In 32-bit words, in the upper half of the byte.
    bytes[12] = ((header / 4) << 4) as u8;
    bytes[13] = flags;
    bytes[15] = window;
    bytes[20..20 + options.len()].copy_from_slice(options);
    bytes.resize(header + payload, flow);
    bytes
}

fn udp(flow: u8, payload: usize) -> Vec<u8> {
    let mut bytes = vec![5, flow & 3, 0, 53, 0, 0, 0, 0];
    bytes[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
    bytes.resize(8 + payload, flow);
    bytes
}

fn v4_header(flow: u8, step: u8, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; V4_HEADER];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&((V4_HEADER + len) as u16).to_be_bytes());
    bytes[5] = step;
    bytes[6] = if flow & 4 != 0 { 0x40 } else { 0 };
    bytes[8] = 64;
    bytes[9] = protocol;
    bytes[12..16].copy_from_slice(&[10, 8, 0, 1]);
    bytes[16..20].copy_from_slice(&[10, 8, 0, 2 + (flow >> 6)]);
    let checksum = Sum::default().bytes(&bytes).checksum();
    bytes[10..12].copy_from_slice(&checksum);
    bytes
}

fn v6_header(flow: u8, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; V6_HEADER];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[6] = protocol;
    bytes[7] = 64;
    (bytes[8], bytes[23], bytes[24], bytes[39]) = (0xFD, 1, 0xFD, 2 + (flow >> 6));
    bytes
}

/// Sets the transport checksum.
fn complete(bytes: &mut [u8], v6: bool, protocol: u8, l4: usize) {
    let addresses = if v6 { 8..40 } else { 12..20 };
    let sum = pseudo_header(&bytes[addresses], protocol, bytes.len() - l4);
    let at = l4 + if protocol == UDP { 6 } else { 16 };
    let checksum = sum.bytes(&bytes[l4..]).checksum();
    bytes[at..at + 2].copy_from_slice(&checksum);
}

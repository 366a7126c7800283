//! TUN reads taken apart, without the rest of the pipeline. What [`plan`](split::plan) promises holds for whatever it accepts; a
//! super-packet with honest headers becomes exactly what a plain segmentation makes of it, and joining its segments again loses,
//! changes and reorders none.

use dataplane::tun::ip;
use dataplane::tun::split;
use dataplane::tun::virtio::{GSO_NONE, VNET_HDR_LEN, VnetHeader};

use crate::coalesce::Joiner;
use crate::flow::{self, Made};
use crate::input::Input;

/// More frames than this tell nothing new.
const MAX_STEPS: usize = 16;

/// Runs one input: frames.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut joiner = Joiner::new(0);
    for _ in 0..MAX_STEPS {
        if step(&mut input, &mut joiner).is_none() {
            break;
        }
    }
}

fn step(input: &mut Input<'_>, joiner: &mut Joiner) -> Option<()> {
    let how = input.byte()?;
    let size = input.number()?;
    if how & 3 == 0 {
        let header: [u8; VNET_HDR_LEN] = input.take()?;
        let packet = flow::packet(input)?.bytes;
        any(&[&header[..], &packet].concat());
        return Some(());
    }
    let made = flow::packet(input)?;
    if made.headers().is_none() {
        any(&made.bytes);
        return Some(());
    }
    let size = made.cap_segments(size);
    let mut frame = made.offloaded((how & 4 == 0).then_some(size));
    let honest = made.whole && how & 8 == 0;
    if !honest {
        frame.truncate(frame.len().saturating_sub(usize::from(how >> 4)));
        any(&frame);
        return Some(());
    }
    // Bytes behind the packet belong to nobody.
    let trailing = frame.len() + usize::from(how >> 4);
    frame.resize(trailing, 0xee);
    let segments = any(&frame);
    check_honest(&made, size, how & 4 == 0, segments, joiner);
    Some(())
}

/// The packets of a frame, or `None` when it is refused; checks what is promised of all.
fn any(frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let plan = split::plan(frame).ok()?;
    let (count, longest, usage) = (plan.count(), plan.longest(), plan.usage());
    let gso = VnetHeader::parse(frame).is_some_and(|header| header.gso_type & 0x7f != GSO_NONE);
    let mut work = frame.to_vec();
    let mut packets = Vec::new();
    let mut segments = plan.segments(&mut work);
    while let Some(packet) = segments.next() {
        assert!(!packet.is_empty() && packet.len() <= longest);
        if gso {
            let ip = ip::parse(packet).unwrap_or_else(|| panic!("no IP packet: {packet:02x?}"));
            assert_eq!(ip.total, packet.len());
        }
        packets.push(packet.to_vec());
    }
    assert!(segments.next().is_none());
    assert_eq!((packets.len(), packets.len() as u64), (count, usage.packets));
    assert_eq!(usage.bytes, packets.iter().map(|packet| packet.len() as u64).sum::<u64>());
    Some(packets)
}

fn check_honest(made: &Made, size: u16, gso: bool, segments: Option<Vec<Vec<u8>>>, joiner: &mut Joiner) {
    let Some(headers) = made.headers() else {
        unreachable!("looked at before");
    };
    if gso && (size == 0 || made.bytes.len() == headers || headers > split::MAX_HEADERS) {
        assert_eq!(segments, None, "nothing to split, or headers that are too long");
        return;
    }
    let segments = segments.unwrap_or_else(|| panic!("refused: size {size} of {:02x?}", &made.bytes[..headers]));
    if gso {
        let header = VnetHeader::parse(&made.offloaded(Some(size))).unwrap_or_default();
        let header = VnetHeader { gso_type: header.gso_type & 0x7f, ..header };
        assert!(segments == flow::segments(&header, &made.bytes), "as a card would: {header:?}");
    } else {
        assert_eq!(segments.len(), 1);
        assert!(flow::is_intact(&segments[0], made.v6, made.protocol, made.l4), "completed");
        assert!(flow::same_packet(&segments[0], &whole(made)), "nothing but the checksum changed");
    }
    for segment in &segments {
        joiner.put(segment);
    }
    joiner.flush();
}

fn whole(made: &Made) -> Vec<u8> {
    let mut made = made.clone();
    made.complete();
    made.bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_honest_super_packet_reaches_the_comparison() {
        // IPv4 TCP in segments of 100 bytes; IPv6 UDP behind destination options.
        for bytes in [[1, 100, 0, 8, 0, 1, 0, 0x10, 0xFF, 0xE8, 3, 0], [1, 100, 0, 9, 3, 1, 0, 0, 0, 0xE8, 3, 1]] {
            let mut input = Input(&bytes);
            let (_, size) = (input.byte(), input.number().unwrap());
            let made = flow::packet(&mut input).unwrap();
            assert!(made.whole);
            assert_eq!(any(&made.offloaded(Some(size))).unwrap().len(), 10);
            run(&bytes);
        }
    }
}

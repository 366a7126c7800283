//! Split and coalesce held to the kernel's own segmentation: super-packets written to a TUN with offloads are forwarded to
//! one without, in a namespace of their own, so that the kernel must segment them; what it makes of them is compared byte for
//! byte. Of an IPv4 packet that is forwarded the TTL is one less (and IPv6's hop limit), which is reckoned in; ids are compared as they
//! are, but for joined packets with DF, whose own ids a super-packet does not keep.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "common/flows.rs"]
mod flows;
#[path = "common/net.rs"]
mod net;

use std::time::Duration;

use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::virtio::{VNET_HDR_LEN, VnetHeader};
use flows::{Frame, by_flow, coalesce, packets, rewrite_v4_checksum, split, steps, super_packet};
use net::{Net, ip};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A router between two TUNs.
struct Router {
    /// Takes super-packets.
    inside: TunQueue,
    /// Gives single packets only.
    outside: TunQueue,
    _net: Net,
}

fn queue(name: &str, offload: bool) -> TunQueue {
    let queue = TunQueue::open(&TunOptions { name: name.into(), multi_queue: false, offload }).unwrap();
    ip(&format!("link set {name} mtu 65535 txqueuelen 20000 addrgenmode none up"));
    queue
}

fn set(sysctl: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{sysctl}"), value).unwrap_or_else(|error| panic!("{sysctl}: {error}"));
}

impl Router {
    fn new() -> Router {
        let net = Net::new();
        let (inside, outside) = net.run(|| {
            let queues = (queue("inside", true), queue("outside", false));
            for sysctl in ["ipv4/conf/all/rp_filter", "ipv4/conf/inside/rp_filter"] {
                set(sysctl, "0");
            }
            for sysctl in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                set(sysctl, "1");
            }
            // IPv4 wants an address to forward to a device.
            ip("addr add 192.0.2.1/32 dev outside");
            ip("route add 10.0.0.0/24 dev outside");
            ip("-6 route add 2020::/16 dev outside");
            queues
        });
        Router { inside, outside, _net: net }
    }

    /// What comes out when these frames are written. The wait has a bound only so that a failure ends.
    fn route(&self, frames: &[Frame], expected: usize) -> Vec<Vec<u8>> {
        for (header, packet) in frames {
            let frame = [&header.to_bytes()[..], packet].concat();
            assert_eq!(rustix::io::write(&self.inside, &frame), Ok(frame.len()), "{header:?}");
        }
        let mut buf = vec![0; 70_000];
        let mut packets = Vec::new();
        let mut patience = 2000;
        while packets.len() < expected && patience > 0 {
            match rustix::io::read(&self.outside, &mut buf) {
                Ok(len) => {
                    let (header, packet) = buf[..len].split_at(VNET_HDR_LEN);
                    assert_eq!(header, VnetHeader::default().to_bytes(), "complete, and no super-packet");
                    // The kernel's own multicast is no matter here.
                    if packet[0] >> 4 == 4 || packet[8] == 0x20 {
                        packets.push(packet.to_vec());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
        packets
    }
}

/// The packet behind a router.
fn forwarded(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        rewrite_v4_checksum(&mut packet);
    } else {
        packet[7] -= 1;
    }
    packet
}

fn run<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    runner.run(&strategy, test).unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_kernel_splits_a_super_packet_as_we_do() {
    let router = Router::new();
    run(300, super_packet(), |(packet, size)| {
        let (header, bytes) = (packet.super_header(size), packet.partial_bytes());
        // A super-packet of one segment is none to the kernel: it neither makes one nor splits it.
        if packet.headers() > dataplane::tun::split::MAX_HEADERS || packet.payload.len() <= size {
            return Ok(());
        }
        let ours: Vec<Vec<u8>> = split(&header, &bytes).into_iter().map(forwarded).collect();
        let theirs = router.route(&[(header, bytes)], ours.len());
        prop_assert_eq!(theirs.len(), ours.len());
        for (at, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
            prop_assert_eq!(theirs, ours, "segment {}", at);
        }
        Ok(())
    });
}

#[test]
fn the_kernel_completes_a_checksum_as_we_do() {
    let router = Router::new();
    run(300, (super_packet(), any::<bool>()), |((packet, _), zero)| {
        let mut packet = packet;
        packet.payload.truncate(1400);
        if zero {
            // The words are such that the checksum comes out as zero.
            packet.payload = vec![0, 0];
            let bytes = packet.bytes();
            let at = packet.checksum_at();
            packet.payload = bytes[at..at + 2].to_vec();
        }
        let (header, bytes) = (packet.checksum_header(), packet.partial_bytes());
        let ours: Vec<Vec<u8>> = split(&header, &bytes).into_iter().map(forwarded).collect();
        if zero {
            let at = packet.checksum_at();
            prop_assert_eq!(&ours[0][at..at + 2], &[0xff, 0xff]);
        }
        prop_assert_eq!(router.route(&[(header, bytes)], 1), ours);
        Ok(())
    });
}

#[test]
fn what_we_joined_the_kernel_splits_into_what_came_in() {
    let router = Router::new();
    run(100, steps(), |steps| {
        let sent: Vec<Vec<u8>> = packets(&steps).into_iter().map(|(_, bytes)| bytes).collect();
        let frames = coalesce(&sent);
        let received = router.route(&frames, sent.len());
        prop_assert_eq!(received.len(), sent.len());
        let expected = by_flow(sent.into_iter().map(forwarded));
        prop_assert_eq!(by_flow(received), expected);
        Ok(())
    });
}

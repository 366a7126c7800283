//! Decrypted packets into super-packets: where each lands, its checksum, whether it continues its flow. A copy of the packet
//! stands for its opening, so a memcpy of it is part of the figure.

use std::hint::black_box;
use std::time::Duration;

use benches::packets::{Flow, Inner};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::ip;

/// So many packets, as one super-packet holds.
const PACKETS: usize = 44;

fn coalesce(criterion: &mut Criterion) {
    let all = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };
    let mut group = criterion.benchmark_group("coalesce");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, packets, offload) in [
        ("tcp_one_flow", flows(Inner::Tcp, 1_420, 1), all),
        ("tcp_4_flows_interleaved", flows(Inner::Tcp, 1_420, 4), all),
        ("tcp_8_flows_interleaved", flows(Inner::Tcp, 1_420, 8), all),
        ("tcp_without_offload", flows(Inner::Tcp, 1_420, 1), TunOffload::default()),
        ("udp_64_one_flow", flows(Inner::Udp, 64, 1), all),
        ("udp_64_not_coalescible", flows(Inner::UdpUnsummed, 64, 1), all),
    ] {
        group.bench_function(name, |bencher| {
            let mut batch = TunBatch::new(offload);
            bencher.iter(|| {
                for packet in &packets {
                    accept(&mut batch, packet);
                }
                for frame in batch.frames() {
                    black_box(frame);
                }
                batch.clear();
            });
        });
    }
    group.finish();
}

fn accept(batch: &mut TunBatch, packet: &[u8]) {
    batch.land(packet.len()).expect("room").copy_from_slice(packet);
    let info = ip::parse(batch.landed()).expect("a packet");
    assert!(batch.accept(&info));
}

/// Packets of so many flows, taking turns.
fn flows(inner: Inner, len: usize, count: usize) -> Vec<Vec<u8>> {
    let mut flows: Vec<Flow> = (0..count).map(|number| Flow::new(inner, len, 4_000 + number as u16)).collect();
    (0..PACKETS).map(|number| flows[number % count].next().to_vec()).collect()
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = coalesce
}
criterion_main!(benches);

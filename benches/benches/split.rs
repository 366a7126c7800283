//! One TUN read into its packets: headers, patches and checksums, without the AEAD.

use std::hint::black_box;
use std::time::Duration;

use benches::packets::{Inner, single_frame, super_frame};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::tun::split::plan;
use dataplane::tun::virtio::VNET_HDR_LEN;

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for (name, inner, frame) in [
        ("tcp_super_60k", Inner::Tcp, super_frame(Inner::Tcp, 43, 1_380)),
        ("udp_super_60k", Inner::Udp, super_frame(Inner::Udp, 43, 1_392)),
        ("tcp_single_1420", Inner::Tcp, single_frame(Inner::Tcp, 1_420)),
        ("udp_single_1420", Inner::Udp, single_frame(Inner::Udp, 1_420)),
        ("udp_single_64", Inner::Udp, single_frame(Inner::Udp, 64)),
    ] {
        let packets = plan(&frame).map_or(0, |plan| plan.count());
        group.throughput(Throughput::Elements(packets as u64));
        group.bench_function(name, |bencher| {
            // Of what splitting changes only the first headers matter to the next time.
            let headers = VNET_HDR_LEN + inner.headers();
            let mut used = frame.clone();
            bencher.iter(|| {
                used[..headers].copy_from_slice(&frame[..headers]);
                let plan = plan(black_box(&used)).expect("a frame as the kernel makes it");
                let mut segments = plan.segments(&mut used);
                while let Some(packet) = segments.next() {
                    black_box(packet);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = split
}
criterion_main!(benches);

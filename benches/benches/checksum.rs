//! The Internet checksum over what a packet or a super-packet holds.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::tun::checksum::Sum;

fn sum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum/sum");
    for len in [20, 64, 256, 512, 1_400, 4_096, 9_000, 60_000] {
        let bytes: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::from_parameter(len), &bytes, |bencher, bytes| {
            bencher.iter(|| Sum::default().bytes(black_box(bytes)).checksum());
        });
    }
    group.finish();
}

criterion_group! {
    name = checksum;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = sum
}
criterion_main!(checksum);

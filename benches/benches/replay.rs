//! The replay window: a look before opening and a mark after it, for each packet.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::datachannel::replay::ReplayWindow;

/// Packets of one iteration.
const PACKETS: u32 = 64;

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(u64::from(PACKETS)));
    for window in [64, 8_192, 65_536] {
        group.bench_function(format!("in_order/{window}"), |bencher| pass(bencher, window, |number| number));
        group.bench_function(format!("neighbours_swapped/{window}"), |bencher| {
            pass(bencher, window, |number| number ^ 1)
        });
    }
    group.bench_function("refused", |bencher| {
        let mut seen = ReplayWindow::new(8_192, 15);
        (1..=PACKETS).for_each(|id| seen.commit(id));
        bencher.iter(|| (1..=PACKETS).filter(|&id| seen.peek(black_box(id)).is_err()).count());
    });
    group.finish();
}

/// 64 packets that all pass, in the order that `place` says.
fn pass(bencher: &mut criterion::Bencher<'_>, window: u32, place: impl Fn(u32) -> u32) {
    let mut seen = ReplayWindow::new(window, 15);
    let mut next = PACKETS;
    bencher.iter(|| {
        if next > u32::MAX - 2 * PACKETS {
            seen = ReplayWindow::new(window, 15);
            next = PACKETS;
        }
        seen.advance(u64::from(next));
        for number in 0..PACKETS {
            let id = black_box(next + place(number));
            assert!(seen.peek(id).is_ok());
            seen.commit(id);
        }
        next += PACKETS;
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = replay
}
criterion_main!(benches);

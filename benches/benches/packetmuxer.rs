//! The first look at a datagram, and whose it is, among one and among many peers.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dataplane::packetmuxer::{Kind, classify, owner};
use dataplane::peers::table::PeerTable;
use dataplane::pipeline::{PeerSetup, SourceRule};
use link::message::Path;

fn packetmuxer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packetmuxer");
    let data = |peer_id: u32| {
        let mut datagram = vec![0; 1_444];
        datagram[..4].copy_from_slice(&(9 << 27 | peer_id).to_be_bytes());
        datagram
    };
    let control = vec![4 << 3; 100];
    group.bench_function("classify/data", |bencher| {
        let datagram = data(5);
        bencher.iter(|| classify(black_box(&datagram)).is_ok());
    });
    group.bench_function("classify/control", |bencher| {
        bencher.iter(|| classify(black_box(&control)).is_ok());
    });
    for count in [1, 1_000, 60_000] {
        let mut peers = PeerTable::default();
        for peer in 0..count {
            assert!(peers.insert(0, setup(peer)));
        }
        let datagrams: Vec<_> = (0..16).map(|number| data(number * 3_733 % count)).collect();
        let mut next = 0;
        group.bench_function(format!("owner_by_peer_id/{count}_peers"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % datagrams.len();
                find(&peers, black_box(&datagrams[next]))
            });
        });
    }
    group.finish();
}

fn find(peers: &PeerTable, datagram: &[u8]) -> Option<u32> {
    match classify(datagram) {
        Ok(Kind::Data(header, _)) => owner(peers, header.peer_id, &address(0)).ok(),
        _ => None,
    }
}

fn address(peer: u32) -> SocketAddr {
    SocketAddr::from(([10, 1, (peer >> 8) as u8, peer as u8], 1_194))
}

fn setup(peer: u32) -> PeerSetup {
    PeerSetup {
        peer,
        generation: None,
        path: Path { worker: 0, local: None, ifindex: 0, remote: address(peer), stream: None },
        wire_peer_id: Some(peer),
        replay_window: 64,
        replay_time_s: 15,
        mssfix: None,
        ping_s: 0,
        ping_restart_s: 0,
        float: false,
        source: SourceRule::Any,
        counters: Default::default(),
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = packetmuxer
}
criterion_main!(benches);

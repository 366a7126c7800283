//! The ring: what a message costs both sides together, and what a wake-up costs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use link::layout::RingSpec;
use link::ring::{Consumer, Producer};
use link::{ControlEnd, KeyName, Mapping, Region, WorkerCommand, WorkerEnd, WorkerEvent};

/// Nothing is said to the supervisor here: any message type will do.
type Control = ControlEnd<u32, u32>;

/// Push and pop in one thread: the copies, the wipe and the index stores, without any waiting.
fn push_and_pop(criterion: &mut Criterion) {
    let spec = RingSpec { slots: 64, max_message: 64 * 1024 };
    let (mapping, _memfd) = Mapping::create(spec.bytes().next_multiple_of(4_096)).expect("a memfd");
    let mapping = Arc::new(mapping);
    let mut producer = Producer::new(Region::new(&mapping, 0, spec), spec.max_message);
    let mut consumer = Consumer::new(Region::new(&mapping, 0, spec), spec.max_message);
    let mut out = Vec::with_capacity(spec.max_message);
    let mut group = criterion.benchmark_group("ring/push_and_pop");
    for len in [64, 1_400, 60 * 1024] {
        let message = vec![0xA5; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(format!("{len}_bytes"), |bencher| {
            bencher.iter(|| {
                producer.push(black_box(&message)).expect("an empty ring");
                consumer.pop(black_box(&mut out)).expect("an honest ring")
            });
        });
    }
    group.finish();
}

/// A command down, an event up, with both threads asleep in between: an eventfd's and a futex's wake-up.
fn wake_up_round_trip(criterion: &mut Criterion) {
    let (shared, supervisor, mut workers) = link::create::<u32, u32>(1).expect("a link");
    let mut control: Control = shared.into_control_end();
    let mut worker = workers.remove(0);
    let thread = std::thread::spawn(move || echo(&mut worker));
    let mut negotiation = 0;
    criterion.bench_function("ring/wake_up_round_trip", |bencher| {
        bencher.iter(|| {
            negotiation += 1;
            ask(&mut control, negotiation)
        });
    });
    control.send_command(0, &WorkerCommand::PeerAlive { peer: 0 }).expect("room");
    thread.join().expect("no panic");
    drop(supervisor);
}

fn ask(control: &mut Control, negotiation: u32) -> WorkerEvent {
    let name = KeyName { peer: 0, generation: 0, negotiation, key_id: 0 };
    control.send_command(0, &WorkerCommand::SendWith(name)).expect("room");
    loop {
        if let Some(event) = control.recv_event(0).expect("an honest worker") {
            return event;
        }
        control.wait(None).expect("an honest worker");
    }
}

/// Answers every command until it is not `SendWith`.
fn echo(worker: &mut WorkerEnd) {
    loop {
        match worker.recv_command().expect("an honest control end") {
            Some(WorkerCommand::SendWith(name)) => worker.send_event(&WorkerEvent::KeySending(name)).expect("room"),
            Some(_) => return,
            None => worker.wait(None),
        }
    }
}

criterion_group! {
    name = ring;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = push_and_pop, wake_up_round_trip
}
criterion_main!(ring);

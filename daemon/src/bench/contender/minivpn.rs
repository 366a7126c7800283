//! Our own data plane, twice: this executable started at each end, with keys of this run.

use std::io;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use controlplane::{Random, SystemRandom};
use dataplane::datachannel::aead::AeadChoice;
use link::message::Secret;

use super::{Engine, Place, READY, Running, TUNNEL_MTU, configure};
use crate::bench::child::Child;
use crate::bench::net::{End, Ground};
use crate::bench::peer::{Answer, BENCH_PEER, KEY, Order};

pub(super) fn raise(
    engine: Engine,
    aead: AeadChoice,
    ground: &Ground,
    place: &Place,
    stop: &AtomicBool,
) -> io::Result<Running> {
    let (up, down) = (key(), key());
    let mut children = Vec::new();
    let mut offloads = String::new();
    for (end, seal, open) in [(End::A, &up, &down), (End::B, &down, &up)] {
        let order = Order {
            device: place.device(),
            local: (end.outer(), place.port()).into(),
            remote: (end.other().outer(), place.port()).into(),
            engine: engine.name().into(),
            aead: aead.name().into(),
            cpu: place.cpus(end).first().copied(),
            seal: seal.clone(),
            open: open.clone(),
        };
        // /proc/self/exe is this very file, also when a package upgrade has replaced it on disk since.
        let mut command = Command::new("/proc/self/exe");
        command.arg(BENCH_PEER);
        let line = serde_json::to_string(&order)? + "\n";
        let mut child = Child::start(ground.end(end), command, place.cpus(end), &line, true)?;
        match child.wait_line(|line| serde_json::from_str(line).ok(), READY, stop)? {
            Answer::Ready { offloads: said } => offloads = said,
            Answer::Failed(why) => return Err(io::Error::other(why)),
        }
        children.push(child);
    }
    configure(ground, place, &mut children, stop)?;
    for end in [End::A, End::B] {
        ground.end(end).fit_super_packets(&place.device(), TUNNEL_MTU)?;
    }
    let offloads = format!("{offloads}; {}", workers(place));
    Ok(Running { offloads, number: place.number, in_user_space: true, children })
}

/// Where the two workers are pinned, in words.
fn workers(place: &Place) -> String {
    match (place.a.first(), place.b.first()) {
        (Some(a), Some(b)) => format!("workers on CPU {a} and {b}"),
        _ => "workers unpinned".to_owned(),
    }
}

fn key() -> Secret {
    let mut bytes = vec![0; KEY];
    SystemRandom.fill(&mut bytes);
    Secret(bytes)
}

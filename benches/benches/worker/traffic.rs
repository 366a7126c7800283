//! The generator: fills the worker's source from a thread of its own. Sealed datagrams get fresh packet ids every time.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use benches::packets::{Flow, Inner};
use dataplane::datachannel::aead::SealingKey;
use dataplane::datachannel::header::SendHeader;
use dataplane::drop_reason::DropReason;
use dataplane::networkio::gso::WireBatch;
use dataplane::sys::bell::Bell;
use dataplane::sys::syscall::SyscallEngine;
use dataplane::sys::{Engine, Observer, Trouble, affinity};
use link::message::{Cipher, Path};

use crate::lab::Lab;
use crate::rows::{Row, Traffic};
use crate::subject::{Backend, OPEN, WIRE_PEER, direction};

/// What stands before every inner packet on the wire: P_DATA_V2 header, packet id and tag.
const OVERHEAD: usize = 24;

/// A running generator; it ends with this value.
pub struct Generator {
    orders: Option<Sender<Backend>>,
    done: Receiver<Result<(), String>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Generator {
    /// Starts its thread on this CPU.
    pub fn start(lab: &Lab, row: Row, aeads: &[Backend], cpu: usize) -> io::Result<Self> {
        let socket = if row.seals() { lab.generator_to_tun()? } else { lab.generator_to_worker()? };
        let keys = keys(aeads).ok_or_else(|| io::Error::other("a backend refused the key"))?;
        let mut source = Source::new(row, socket.1, keys);
        let (orders, todo) = channel();
        let (tell, done) = channel();
        let thread = std::thread::Builder::new().name("generator".into()).spawn(move || {
            affinity::pin("generator", cpu);
            // The engine belongs to the thread that uses it.
            let mut engine = SyscallEngine::new(Bell::new()?, "the generator's".into())?;
            engine.attach_socket(socket.0, socket.1)?;
            for aead in todo {
                if tell.send(source.fill(&mut engine, aead)).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        Ok(Self { orders: Some(orders), done, thread: Some(thread) })
    }

    /// Fills the queue with what the row wants, and waits until that is done.
    pub fn fill(&mut self, aead: Backend) -> Result<(), String> {
        let gone = || "the generator died".to_owned();
        self.orders.as_ref().ok_or_else(gone)?.send(aead).map_err(|_| gone())?;
        self.done.recv().map_err(|_| gone())?
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What runs in the thread. It sends with the product's own engine, which knows UDP_SEGMENT.
struct Source {
    row: Row,
    batch: WireBatch,
    path: Path,
    keys: Vec<(Backend, SealingKey)>,
    packet_id: u32,
    flow: Flow,
}

impl Source {
    fn new(row: Row, path: Path, keys: Vec<(Backend, SealingKey)>) -> Self {
        let (Traffic::Seal { train } | Traffic::Open { train, .. }) = row.traffic;
        let inner = match row.traffic {
            Traffic::Open { inner, .. } => inner,
            Traffic::Seal { .. } => Inner::Udp,
        };
        Self {
            row,
            batch: WireBatch::new(1 << 20, train, train > 1),
            path,
            keys,
            packet_id: 0,
            flow: Flow::new(inner, row.inner_len, 4_000),
        }
    }

    /// One queue full.
    fn fill(&mut self, engine: &mut SyscallEngine, aead: Backend) -> Result<(), String> {
        let mut losses = Losses::default();
        for _ in 0..self.row.packets() {
            let len = if self.row.seals() { self.row.inner_len - 28 } else { self.row.inner_len + OVERHEAD };
            if self.batch.room() < 2 * len || self.batch.runs().len() >= 64 && self.run_is_full() {
                engine.send(&mut losses, &mut self.batch);
            }
            let Some(mut room) = self.batch.reserve(len) else {
                return Err("the generator's batch is too small".into());
            };
            match self.row.traffic {
                Traffic::Seal { .. } => room.bytes().fill(0x5a),
                Traffic::Open { .. } => {
                    self.packet_id += 1;
                    let inner = self.flow.next();
                    let key = self.keys.iter_mut().find(|(name, _)| *name == aead).map(|(_, key)| key);
                    let header = SendHeader::new(Some(WIRE_PEER), 0);
                    if !key.is_some_and(|key| key.seal(&header, self.packet_id, inner, room.bytes())) {
                        return Err("the generator could not seal".into());
                    }
                }
            }
            room.commit(&self.path);
        }
        engine.send(&mut losses, &mut self.batch);
        match losses.0 {
            None => Ok(()),
            Some(what) => Err(format!("the generator could not send: {what}")),
        }
    }

    fn run_is_full(&self) -> bool {
        let (Traffic::Seal { train } | Traffic::Open { train, .. }) = self.row.traffic;
        self.batch.runs().last().is_none_or(|run| run.count == train)
    }
}

/// The generator's key with every backend.
fn keys(aeads: &[Backend]) -> Option<Vec<(Backend, SealingKey)>> {
    let key = |&backend: &Backend| {
        let key = SealingKey::new(&backend.resolve().ok()?, Cipher::Aes256Gcm, &direction(&OPEN))?;
        Some((backend, key))
    };
    aeads.iter().map(key).collect()
}

/// The first thing that went wrong while sending.
#[derive(Default)]
struct Losses(Option<String>);

impl Observer for Losses {
    fn dropped(&mut self, reason: DropReason, packets: u64) {
        self.0.get_or_insert_with(|| format!("{packets} packets: {}", reason.name()));
    }
    fn sent(&mut self, _segments: u64, _bytes: u64) {}
    fn written(&mut self, _packets: u64) {}
    fn trouble(&mut self, trouble: Trouble) {
        self.0.get_or_insert_with(|| format!("{trouble:?}"));
    }
}

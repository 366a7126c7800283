//! A worker on two threads: what the thread that opens (network → TUN) hands to the thread that seals (TUN → network), and what
//! comes back. None of it is on the packet path.
//!
//! The thread that opens has the link, the orders, the reports on peers; the other one has nothing but its tasks. Both queues are
//! bounded. The thread that opens never waits for room without taking in what was said, so they cannot wait for each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::thread::JoinHandle;

use link::message::{KeyName, KeyRefusal, WorkerEvent};

use crate::datachannel::crossing::Crossing;
use crate::datachannel::sealing::NewSealingKey;
use crate::pipeline::PeerSetup;
use crate::sys::bell::Bell;
use crate::workers::manager::WorkerOrder;

/// Tasks that may wait for the thread that seals, and things said that may wait for the one that opens.
pub(super) const QUEUE: usize = 64;

/// What waits in a thread's queue.
pub(super) enum Task {
    /// An order of the supervisor: to a whole worker, to the thread that opens, or the part of it for the one that seals.
    Order(WorkerOrder),
    /// For the thread that seals: a peer, and what crosses to it from its other half.
    AddPeer(Box<PeerSetup>, Arc<Crossing>),
    /// For the thread that seals: the half of a key whose other half opens already. Answered by [`Said::Installed`].
    Install(NewSealingKey),
    /// For the thread that seals.
    SendWith(KeyName),
    /// For the thread that seals.
    DropKeys { peer: u32, generation: u32 },
    /// For the thread that seals: the kernel learned another path MTU.
    FitPathMtu,
}

/// What the thread that seals says.
pub(super) enum Said {
    Installed(KeyName, Result<(), KeyRefusal>),
    Event(WorkerEvent),
}

/// The thread that seals, as its other half sees it. Dropping it ends the thread and waits for it.
pub(super) struct SealingThread {
    tasks: Option<SyncSender<Task>>,
    said: Option<Receiver<Said>>,
    bell: Bell,
    thread: Option<JoinHandle<()>>,
    /// Said while a task waited for room.
    heard: VecDeque<Said>,
    /// Keys that were handed over and not answered.
    installing: usize,
}

impl SealingThread {
    pub(super) fn new(tasks: SyncSender<Task>, said: Receiver<Said>, bell: Bell, thread: JoinHandle<()>) -> Self {
        let heard = VecDeque::with_capacity(QUEUE);
        Self { tasks: Some(tasks), said: Some(said), bell, thread: Some(thread), heard, installing: 0 }
    }

    /// Hands a task over.
    pub(super) fn hand(&mut self, task: Task) {
        self.installing += usize::from(matches!(task, Task::Install(_)));
        let mut waiting = Some(task);
        while let (Some(task), Some(tasks)) = (waiting.take(), &self.tasks) {
            match tasks.try_send(task) {
                Err(TrySendError::Full(task)) => {
                    // It may be waiting for room itself.
                    self.heard.extend(self.said.iter().flat_map(Receiver::try_iter));
                    waiting = Some(task);
                    std::thread::yield_now();
                }
                // The thread ends only with the process, or when this value is dropped.
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            }
        }
        self.ring();
    }

    /// Makes it look: at its tasks, and at what the peers have proven.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// The next thing that it said.
    pub(super) fn hear(&mut self) -> Option<Said> {
        let said = self.heard.pop_front().or_else(|| self.said.as_ref()?.try_recv().ok())?;
        self.installing -= usize::from(matches!(said, Said::Installed(..)) && self.installing > 0);
        Some(said)
    }

    /// A key that was handed over is not answered yet.
    pub(super) fn is_installing(&self) -> bool {
        self.installing > 0
    }
}

impl Drop for SealingThread {
    fn drop(&mut self) {
        // What is queued is carried out first; it may say what it wants to nobody.
        (self.tasks, self.said) = (None, None);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread that opens, as its other half sees it.
pub(super) struct OpeningThread {
    said: SyncSender<Said>,
    bell: Bell,
}

impl OpeningThread {
    pub(super) fn new(said: SyncSender<Said>, bell: Bell) -> Self {
        Self { said, bell }
    }

    /// Waits for room if it must: a few microseconds, and rarely more than once per key.
    pub(super) fn say(&self, said: Said) {
        // Nobody listens any more when both are ending.
        if self.said.send(said).is_ok() {
            self.bell.ring();
        }
    }
}

/// Which directions a thread carries.
pub(super) enum Role {
    /// Both.
    Both,
    /// Network → TUN, and everything that is no packet.
    Opens(SealingThread),
    /// TUN → network.
    Seals,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    /// Both threads speak at once, and neither queue has room for all of it.
    #[test]
    fn two_full_queues_do_not_hold_each_other() {
        let (tasks, to_do) = sync_channel(1);
        let (says, said) = sync_channel(1);
        let (seal_bell, open_bell) = (Bell::new().unwrap(), Bell::new().unwrap());
        let other = OpeningThread::new(says, open_bell.try_clone().unwrap());
        let name = |negotiation| KeyName { peer: 0, generation: 0, negotiation, key_id: 0 };
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            while let Ok(Task::SendWith(task)) = to_do.recv() {
                assert_eq!(task, name(next), "in order");
                next += 1;
                (0..3).for_each(|_| other.say(Said::Event(WorkerEvent::KeySending(task))));
            }
            assert_eq!(next, 1_000);
        });
        let mut seal = SealingThread::new(tasks, said, seal_bell, thread);
        (0..1_000).for_each(|number| seal.hand(Task::SendWith(name(number))));
        for number in 0..1_000 {
            for _ in 0..3 {
                let heard = loop {
                    match seal.hear() {
                        Some(Said::Event(WorkerEvent::KeySending(heard))) => break heard,
                        Some(_) => panic!("something else"),
                        None => std::thread::yield_now(),
                    }
                };
                assert_eq!(heard, name(number), "in order");
            }
        }
        assert!(open_bell.rang());
    }

    #[test]
    fn an_installation_is_awaited_until_it_is_answered() {
        let (tasks, to_do) = sync_channel(4);
        let (says, said) = sync_channel(4);
        let bell = Bell::new().unwrap();
        let thread = std::thread::spawn(move || while to_do.recv().is_ok() {});
        let mut seal = SealingThread::new(tasks, said, bell, thread);
        let key = crate::datachannel::keyring::tests::key(0, 1);
        seal.hand(Task::FitPathMtu);
        assert!(!seal.is_installing());
        seal.hand(Task::Install(NewSealingKey::new(&crate::datachannel::aead::Aead::default(), &key).unwrap()));
        assert!(seal.is_installing() && seal.hear().is_none());
        says.send(Said::Event(WorkerEvent::KeySending(key.name))).unwrap();
        assert!(matches!(seal.hear(), Some(Said::Event(_))) && seal.is_installing());
        says.send(Said::Installed(key.name, Ok(()))).unwrap();
        assert!(matches!(seal.hear(), Some(Said::Installed(name, Ok(()))) if name == key.name));
        assert!(!seal.is_installing());
    }
}

//! The traffic generator: threads of this process that live in the two namespaces, so that nothing else has to be
//! installed. Each kind runs until it is stopped and can be looked at meanwhile; what is measured is the difference
//! between two looks, so that neither its start nor its end counts.

pub(super) mod latency;
pub(super) mod tcp;
pub(super) mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a thread that waits for traffic looks whether it shall end.
pub(super) const LOOK_UP: Duration = Duration::from_millis(50);

/// Threads that end together.
#[derive(Debug, Default)]
pub(super) struct Crew {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Crew {
    /// The flag that its threads look at.
    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// One more.
    pub(super) fn add(&mut self, thread: JoinHandle<()>) {
        self.threads.push(thread);
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A free port of this address.
fn any_port(address: std::net::Ipv4Addr) -> SocketAddr {
    SocketAddr::from((address, 0))
}

//! Network namespaces for tests, each a thread of its own that lives in it, and a TUN in each with a worker behind it.
#![allow(dead_code, unreachable_pub)] // a module of test programs, each of which uses its part

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use dataplane::sys::tundev::{TunOptions, TunQueue};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace; it ends with this value and everything in it.
pub struct Net {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Net {
    /// A new one, empty but for `lo`, which is up.
    pub fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let thread = std::thread::spawn(move || {
            // Of the flags of unshare(2) only CLONE_FILES is a danger to others; hence the function's deprecation.
            #[allow(deprecated)]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).expect("a new network namespace needs root");
            ip("link set lo up");
            todo.into_iter().for_each(|job| job());
        });
        Self { jobs: Some(jobs), thread: Some(thread) }
    }

    /// Does something inside, and waits for it. Sockets and threads made there stay there.
    pub fn run<T: Send + 'static>(&self, body: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job: Job = Box::new(move || drop(done.send(body())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().expect("what ran in the namespace panicked")
    }

    /// A TUN with the addresses `10.77.0.N/24` and `fd77::N/64`.
    pub fn tun(&self, last: u8, mtu: u16, offload: bool) -> TunQueue {
        self.run(move || {
            let options = TunOptions { name: "tun0".into(), multi_queue: false, offload };
            let queue = TunQueue::open(&options).unwrap();
            ip(&format!("addr add 10.77.0.{last}/24 dev tun0"));
            ip(&format!("-6 addr add fd77::{last}/64 dev tun0 nodad"));
            ip(&format!("link set tun0 mtu {mtu} txqueuelen 5000 up"));
            queue
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.jobs.take();
        let _ = self.thread.take().unwrap().join();
    }
}

/// One `ip` command in the caller's namespace.
pub fn ip(command: &str) {
    let status = Command::new("ip").args(command.split(' ')).status().unwrap();
    assert!(status.success(), "ip {command}");
}

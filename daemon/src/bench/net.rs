//! The ground that a benchmark runs on: two network namespaces joined by a veth pair, each lived in by one thread.
//!
//! ```text
//!   end A (client)                    end B (server)
//!  ┌───────────────────────┐  veth   ┌───────────────────────┐
//!  │ mvb0  192.0.2.1/24    ├─────────┤ mvb0  192.0.2.2/24    │
//!  │ mvbN  10.77.N.1/24    │ tunnels │ mvbN  10.77.N.2/24    │
//!  └───────────────────────┘         └───────────────────────┘
//! ```
//! The namespaces have no name and no file: they end with their threads and with the processes started in them, which the
//! kernel kills when those threads end. So nothing is left on the host however this process dies. The mounts are
//! private, with an empty `/run`, so that what a contender leaves there goes the same way.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use crate::host::link::{Address, LinkState};
use crate::host::{Host, io_error};
use crate::sys;

/// The veth's name in both ends.
pub(super) const VETH: &str = "mvb0";

/// Packets that an interface's queue holds: enough that TCP finds its speed, as operators set it on such links.
pub(super) const QUEUE: u32 = 5_000;

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client's.
    A,
    /// The server's.
    B,
}

impl End {
    /// Its address on the veth.
    pub(super) fn outer(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number())
    }

    /// Its address inside the tunnel of this number.
    pub(super) fn inner(self, tunnel: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, tunnel, self.number())
    }

    /// The end on the other side.
    pub(super) fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }

    fn number(self) -> u8 {
        match self {
            End::A => 1,
            End::B => 2,
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. It ends with this value, and with it everything in it.
#[derive(Debug)]
pub(super) struct Net {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    private_run: bool,
}

impl Net {
    /// A new one, empty.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; what the kernel answers besides.
    pub(super) fn new() -> io::Result<Net> {
        let (jobs, todo) = channel::<Job>();
        let (entered, enters) = channel();
        let thread = std::thread::Builder::new().name("bench-net".into()).spawn(move || {
            let ready = enter();
            let go_on = ready.is_ok();
            if entered.send(ready).is_ok() && go_on {
                todo.into_iter().for_each(|job| job());
            }
        })?;
        let private_run = enters.recv().map_err(io::Error::other)??;
        Ok(Net { jobs: Some(jobs), thread: Some(thread), private_run })
    }

    /// Whether `/run` is this namespace's own. Not so where a security policy forbids mounting.
    pub(super) fn has_private_run(&self) -> bool {
        self.private_run
    }

    /// Does something inside, and waits for it. Sockets, threads and processes made there stay there.
    ///
    /// # Errors
    /// What the work panicked of; what it answers.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let gone = || io::Error::other("the thread of a network namespace has ended");
        let (done, result) = channel();
        let job: Job = Box::new(move || drop(done.send(work())));
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())?
    }

    /// Does something with a handle on the namespace's network.
    ///
    /// # Errors
    /// As [`Net::run`], and what netlink answers.
    pub(super) fn netlink<T, F, W>(&self, work: W) -> io::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = io::Result<T>>,
        W: FnOnce(Host) -> F + Send + 'static,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { work(Host::open().map_err(io::Error::other)?).await })
        })
    }

    /// Gives an interface its address (with 24 bits of prefix), its MTU in bytes, a long queue, and sets it up.
    ///
    /// # Errors
    /// `NotFound` when there is no such interface; what the kernel answers.
    pub(super) fn configure(&self, device: &str, local: Ipv4Addr, mtu: u32) -> io::Result<()> {
        let name = device.to_owned();
        self.netlink(async move |host: Host| {
            let interface =
                host.interface(&name).await.map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
            let address = Address { interface: interface.clone(), local: IpAddr::V4(local), prefix: 24, peer: None };
            host.set_link(&LinkState { interface, mtu, tx_queue_len: Some(QUEUE), gso_max_size: None }).await?;
            host.add_address(&address).await.map(drop)
        })
    }

    /// Whether there is such an interface.
    pub(super) fn has(&self, device: &str) -> bool {
        let name = device.to_owned();
        self.netlink(async move |host: Host| Ok(host.interface(&name).await.is_ok())).unwrap_or(false)
    }

    /// What kind of interface it is (`tun`, `ovpn`, `wireguard`), by the kernel's name.
    pub(super) fn kind(&self, device: &str) -> Option<String> {
        use futures_util::StreamExt;
        let name = device.to_owned();
        let found = self.netlink(async move |host: Host| {
            let mut links = host.netlink.link().get().match_name(name).execute();
            let link = links.next().await.ok_or(io::ErrorKind::NotFound)?.map_err(io_error)?;
            let kind = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                }),
                _ => None,
            });
            Ok(kind)
        });
        found.ok().flatten()
    }

    /// Makes a kernel WireGuard interface.
    ///
    /// # Errors
    /// EOPNOTSUPP where the kernel has none.
    pub(super) fn add_wireguard(&self, device: &str) -> io::Result<()> {
        let name = device.to_owned();
        self.netlink(async move |host: Host| {
            let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard).name(name).build();
            host.netlink.link().add(message).execute().await.map_err(io_error)
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Moves the calling thread into namespaces of its own; says whether `/run` is private.
fn enter() -> io::Result<bool> {
    sys::unshare(UnshareFlags::NEWNET)?;
    // What the host's namespace had set as the default for new ones is not what is measured. A read-only /proc/sys (in
    // containers) leaves it.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_forward", "0");
    for scope in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    Ok(private_run().is_ok())
}

fn private_run() -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")?;
    Ok(())
}

/// Two namespaces joined by a veth pair. Field order is drop order: end A goes first.
#[derive(Debug)]
pub(super) struct Ground {
    a: Net,
    b: Net,
}

impl Ground {
    /// Lays it.
    ///
    /// # Errors
    /// What the kernel answers, with what was being done.
    pub(super) fn new() -> io::Result<Ground> {
        let ground = Ground { a: Net::new()?, b: Net::new()? };
        let far = ground.b.run(|| std::fs::File::open("/proc/thread-self/ns/net"))?;
        ground.a.netlink(async move |host: Host| {
            host.netlink.link().add(LinkVeth::new(VETH, "mvb-far").build()).execute().await.map_err(io_error)?;
            let moved = LinkUnspec::new_with_name("mvb-far").setns_by_fd(far.as_raw_fd()).build();
            host.netlink.link().set(moved).execute().await.map_err(io_error)
        })?;
        ground.b.netlink(async move |host: Host| {
            let found = host.interface("mvb-far").await.map_err(io::Error::other)?;
            let renamed = LinkUnspec::new_with_index(found.index).name(VETH.to_owned()).build();
            host.netlink.link().set(renamed).execute().await.map_err(io_error)
        })?;
        for end in [End::A, End::B] {
            ground.end(end).configure(VETH, end.outer(), 1_500)?;
        }
        Ok(ground)
    }

    /// One of the two.
    pub(super) fn end(&self, end: End) -> &Net {
        match end {
            End::A => &self.a,
            End::B => &self.b,
        }
    }

    /// Whether trains of datagrams cross the veth whole, or are cut to datagrams before it.
    ///
    /// # Errors
    /// `NotFound` where the kernel has no such offload.
    pub(super) fn carry_trains(&self, whole: bool) -> io::Result<()> {
        [End::A, End::B]
            .into_iter()
            .try_for_each(|end| self.end(end).run(move || sys::set_device_feature(VETH, "tx-udp-segmentation", whole)))
    }
}

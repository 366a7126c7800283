//! The system-call engine: recvmmsg, sendmmsg, read and write, all non-blocking, and ppoll to sleep. It runs wherever a
//! process runs, in containers too.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use link::message::Path;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::tundev::TunQueue;
use crate::sys::wire::{Receiver, Sender, TunPort, Why};
use crate::sys::{Awaits, Engine, EngineInfo, Observer, Step, clock};
use crate::tun::coalesce::TunBatch;

/// See the module's text.
pub struct SyscallEngine {
    info: EngineInfo,
    socket: Option<(WireSocket, Path)>,
    tun: Option<TunQueue>,
    orders: Bell,
    link: Option<Bell>,
    /// `None`: somebody else sleeps for it.
    timer: Option<Timer>,
    sender: Sender,
    receiver: Receiver,
    port: TunPort,
    /// Whether to wait for datagrams, and for packets of the TUN.
    listens: (bool, bool),
}

impl SyscallEngine {
    /// An engine without descriptors; `why` is said to people.
    ///
    /// # Errors
    /// No descriptor left for the timer.
    pub fn new(orders: Bell, why: String) -> io::Result<Self> {
        Ok(Self { timer: Some(Timer::new()?), ..Self::sleepless(orders, why) })
    }

    /// An engine that never sleeps by itself: several of them are one thread's ([`Crowd`](crate::sys::crowd::Crowd)).
    pub fn sleepless(orders: Bell, why: String) -> Self {
        Self {
            info: EngineInfo { name: "syscall", why },
            socket: None,
            tun: None,
            orders,
            link: None,
            timer: None,
            sender: Sender::new(),
            receiver: Receiver::new(),
            port: TunPort::new(),
            listens: (true, true),
        }
    }

    fn wait(&mut self) {
        let mut ready = [false; 5];
        let fds = [
            self.timer.as_ref().map(|timer| timer.fd.as_fd()),
            Some(self.orders.as_fd()),
            self.link.as_ref().map(AsFd::as_fd),
            self.tun.as_ref().filter(|_| self.listens.1).map(AsFd::as_fd),
            self.socket.as_ref().filter(|_| self.listens.0).map(|(socket, _)| socket.as_fd()),
        ];
        // What is not attached is polled for nothing on a descriptor that is there.
        let orders = self.orders.as_fd();
        let mut polled = fds.map(|fd| {
            let events = if fd.is_some() { PollFlags::IN } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(fd.unwrap_or(orders), events)
        });
        // A signal is a reason to look.
        if poll(&mut polled, None).is_ok() {
            ready = polled.map(|fd| fd.revents().contains(PollFlags::IN));
        }
        let [timer, orders, link, ..] = ready;
        if let (true, Some(timer)) = (timer, &mut self.timer) {
            timer.fired();
        }
        if orders {
            self.orders.take();
        }
        if link {
            self.link.as_ref().map(Bell::take);
        }
    }
}

impl Engine for SyscallEngine {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn listen_to(&mut self, socket: bool, tun: bool) {
        self.listens = (socket, tun);
    }

    fn attach_socket(&mut self, socket: WireSocket, path: Path) -> io::Result<()> {
        self.receiver.clear();
        self.socket = Some((socket, path));
        Ok(())
    }

    fn detach_socket(&mut self) {
        self.receiver.clear();
        self.socket = None;
    }

    fn attach_tun(&mut self, tun: TunQueue) -> io::Result<()> {
        self.port.clear();
        self.tun = Some(tun);
        Ok(())
    }

    fn detach_tun(&mut self) {
        self.port.clear();
        self.tun = None;
    }

    fn watch_link(&mut self, bell: Option<Bell>) -> io::Result<()> {
        self.link = bell;
        Ok(())
    }

    fn receive(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(Train<'_>) -> Step) -> usize {
        let Some((socket, path)) = &self.socket else {
            return 0;
        };
        self.receiver.receive(socket, path, observer, each).0
    }

    fn read_tun(&mut self, observer: &mut dyn Observer, each: &mut dyn FnMut(&mut [u8]) -> Step) -> usize {
        let Some(tun) = &self.tun else { return 0 };
        let (count, why) = self.port.read(tun.as_fd(), observer, each);
        if why == Why::Gone {
            self.detach_tun();
        }
        count
    }

    fn send(&mut self, observer: &mut dyn Observer, batch: &mut WireBatch) {
        self.sender.send(self.socket.as_ref().map(|(socket, _)| socket), observer, batch);
    }

    fn send_datagram(&mut self, observer: &mut dyn Observer, path: &Path, bytes: &[u8]) {
        self.sender.send_datagram(self.socket.as_ref().map(|(socket, _)| socket), observer, path, bytes);
    }

    fn write_tun(&mut self, observer: &mut dyn Observer, batch: &mut TunBatch) {
        TunPort::write(self.tun.as_ref().map(AsFd::as_fd), observer, batch);
    }

    fn set_gso(&mut self, gso: bool) {
        self.sender.set_gso(gso);
    }

    fn max_payload(&self) -> Option<usize> {
        self.socket.as_ref()?.0.max_payload()
    }

    fn sleep(&mut self, until_ns: u64) {
        let Some(timer) = self.timer.as_mut().filter(|_| !self.receiver.has_more() && !self.port.has_kept()) else {
            return;
        };
        timer.arm(until_ns);
        self.wait();
    }

    fn awaits(&self) -> Awaits<'_> {
        Awaits {
            more: self.receiver.has_more() || self.port.has_kept(),
            socket: self.socket.as_ref().filter(|_| self.listens.0).map(|(socket, _)| socket.as_fd()),
            tun: self.tun.as_ref().filter(|_| self.listens.1).map(AsFd::as_fd),
        }
    }
}

/// A timer on CLOCK_BOOTTIME that is set only when it would fire too late: deadlines mostly move away, and to set one
/// costs a system call. It may fire early, which is harmless.
pub(super) struct Timer {
    pub(super) fd: OwnedFd,
    armed_ns: u64,
}

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Self { fd, armed_ns: u64::MAX })
    }

    pub(super) fn arm(&mut self, until_ns: u64) {
        if until_ns >= self.armed_ns {
            return;
        }
        // All zero would disarm it.
        let value = clock::timespec(until_ns.max(1));
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        if timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &once).is_ok() {
            self.armed_ns = until_ns;
        }
    }

    pub(super) fn fired(&mut self) {
        let _ = rustix::io::read(&self.fd, &mut [0u8; 8]);
        self.armed_ns = u64::MAX;
    }
}

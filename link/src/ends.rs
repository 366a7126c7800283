//! The three ends of a link: the supervisor's, the control process's and one per worker. Which ring carries what
//! between which two threads is decided here and nowhere else.
//!
//! A link lives as long as one control process. For the next one a new link is made: its memory is fresh, and what
//! the dead one left behind is never read again.
//!
//! Falling asleep is the same for all: `prepare_sleep()`, and when it says true, wait for the bell; then `awake()`.
//! The control process has that in one call, [`ControlEnd::wait`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bell::{Bell, EventBell, FutexBell, Remote};
use crate::channel::{CommandReceiver, CommandSender, DatagramReceiver, DatagramSender, LinkError, QueueBound};
use crate::layout::{
    self, CONTROL_SLEEPER, DOWN_COMMANDS, DOWN_DATAGRAMS, FROM_CONTROL, FROM_CONTROL_AT, MAX_WORKERS,
    SUPERVISOR_SLEEPER, TO_CONTROL, TO_CONTROL_AT, UP_EVENTS, UP_KNOWN, UP_UNKNOWN,
};
use crate::message::{Datagram, WorkerCommand, WorkerEvent};
use crate::shm::{Mapping, Region, Sleeper};
use crate::sleep;

/// What may wait for a full ring. Commands of a gateway with thousands of peers come in bursts: all are told at once that it
/// stops, and all may end within one turn. A queue that is longer than this has a reader that stopped.
const TO_CONTROL_QUEUE: QueueBound = QueueBound { messages: 65_536, bytes: 16 << 20 };
const FROM_CONTROL_QUEUE: QueueBound = QueueBound { messages: 65_536, bytes: 16 << 20 };
const EVENT_QUEUE: QueueBound = QueueBound { messages: 16_384, bytes: 1 << 20 };
const COMMAND_QUEUE: QueueBound = QueueBound { messages: 16_384, bytes: 8 << 20 };

/// What the control process needs to open its end: kept by whoever starts it.
#[derive(Debug)]
pub struct Shared {
    mapping: Arc<Mapping>,
    memfd: OwnedFd,
    supervisor_bell: EventBell,
    worker_bells: Vec<EventBell>,
}

/// Makes a link for that many workers: what the control process will need, and the other ends.
///
/// # Errors
/// `InvalidInput` unless `1 <= workers <= MAX_WORKERS`; otherwise what memfd_create(2), mmap(2) or eventfd(2) said.
pub fn create<To: Serialize, From: DeserializeOwned>(
    workers: usize,
) -> io::Result<(Shared, SupervisorEnd<To, From>, Vec<WorkerEnd>)> {
    check_workers(workers)?;
    let (mapping, memfd) = Mapping::create(layout::total_bytes(workers))?;
    let mapping = Arc::new(mapping);
    let supervisor_bell = EventBell::new()?;
    let worker_bells = (0..workers).map(|_| EventBell::new()).collect::<io::Result<Vec<_>>>()?;
    let control = control_remote(&mapping);
    let supervisor = SupervisorEnd::new(&mapping, supervisor_bell.clone(), &control);
    let ends = worker_bells
        .iter()
        .enumerate()
        .map(|(index, bell)| WorkerEnd::new(&mapping, index, bell.clone(), &control))
        .collect();
    Ok((Shared { mapping, memfd, supervisor_bell, worker_bells }, supervisor, ends))
}

/// Makes a link of one worker whose ends are all in this process and sleep on the bells of their threads: one thread can be the control
/// plane of many links, and so can one worker thread. `control` is also the supervisor's bell, who is on the control plane's thread.
///
/// # Errors
/// What memfd_create(2) or mmap(2) said.
#[allow(clippy::type_complexity)]
pub fn create_within<To, From>(
    control: &EventBell,
    worker: &EventBell,
) -> io::Result<(ControlEnd<To, From>, SupervisorEnd<To, From>, WorkerEnd)>
where
    To: Serialize + DeserializeOwned,
    From: Serialize + DeserializeOwned,
{
    let (mapping, _) = Mapping::create(layout::total_bytes(1))?;
    let mapping = Arc::new(mapping);
    let remote = Remote::new(Sleeper::new(&mapping, CONTROL_SLEEPER), Bell::Event(control.clone()));
    let supervisor = SupervisorEnd::new(&mapping, control.clone(), &remote);
    let end = WorkerEnd::new(&mapping, 0, worker.clone(), &remote);
    let bell = Bell::Event(control.clone());
    Ok((ControlEnd::new(&mapping, vec![worker.clone()], control.clone(), bell), supervisor, end))
}

fn check_workers(workers: usize) -> io::Result<()> {
    if workers == 0 || workers > MAX_WORKERS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a link has 1 to {MAX_WORKERS} workers")));
    }
    Ok(())
}

impl Shared {
    /// The memory; the control process maps it and closes it.
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// The supervisor's bell.
    pub fn supervisor_bell(&self) -> BorrowedFd<'_> {
        self.supervisor_bell.as_fd()
    }

    /// The workers' bells, in order.
    pub fn worker_bells(&self) -> impl ExactSizeIterator<Item = BorrowedFd<'_>> {
        self.worker_bells.iter().map(AsFd::as_fd)
    }

    /// The control end in this process, for a control plane on a thread. Takes `self`, because there is only one.
    pub fn into_control_end<To: DeserializeOwned, From: Serialize>(self) -> ControlEnd<To, From> {
        let bell = futex_bell(&self.mapping);
        ControlEnd::new(&self.mapping, self.worker_bells, self.supervisor_bell, bell)
    }
}

/// The supervisor's end. What it says (`To`) and hears (`From`) is its owner's business.
pub struct SupervisorEnd<To, From> {
    to_control: CommandSender<To>,
    from_control: CommandReceiver<From>,
    control: Remote,
    sleeper: Sleeper,
    bell: EventBell,
    failed: Option<LinkError>,
}

impl<To: Serialize, From: DeserializeOwned> SupervisorEnd<To, From> {
    fn new(mapping: &Arc<Mapping>, bell: EventBell, control: &Remote) -> Self {
        SupervisorEnd {
            to_control: CommandSender::new(
                Region::new(mapping, TO_CONTROL_AT, TO_CONTROL),
                TO_CONTROL,
                control.clone(),
                TO_CONTROL_QUEUE,
            ),
            from_control: CommandReceiver::new(
                Region::new(mapping, FROM_CONTROL_AT, FROM_CONTROL),
                FROM_CONTROL,
                control.clone(),
            ),
            control: control.clone(),
            sleeper: Sleeper::new(mapping, SUPERVISOR_SLEEPER),
            bell,
            failed: None,
        }
    }

    /// Sends a command to the control process, or queues it.
    ///
    /// # Errors
    /// As [`CommandSender::send`].
    pub fn send(&mut self, command: &To) -> Result<(), LinkError> {
        self.to_control.send(command)
    }

    /// The control process's next command.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`: the control process has to be ended.
    pub fn recv(&mut self) -> Result<Option<From>, LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        self.from_control.recv()
    }

    /// Moves queued commands; true when none is left.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn flush(&mut self) -> Result<bool, LinkError> {
        self.to_control.flush()
    }

    /// Announces sleep and looks once more. True: wait for the bell, then call [`SupervisorEnd::awake`]. False: there
    /// is something to receive (or an error to be told).
    pub fn prepare_sleep(&mut self) -> bool {
        sleep::announce(self.sleeper.need_wake());
        self.failed = self.failed.or(self.to_control.flush().err());
        let may_sleep = self.failed.is_none() && !self.from_control.is_ready();
        if !may_sleep {
            self.awake();
        }
        may_sleep
    }

    /// Says that the thread does not sleep any more.
    pub fn awake(&self) {
        sleep::cancel(self.sleeper.need_wake());
    }

    /// Sleeps on the bell with poll(2) until there is something to receive, somebody rings, or the time is over
    /// (`None`: never), for threads that have nothing else to wait for. May return early.
    pub fn wait(&mut self, timeout: Option<Duration>) {
        if self.prepare_sleep() {
            self.bell.wait(timeout);
            self.awake();
            self.bell.drain();
        }
    }

    /// The bell: readable after the control process rang it.
    pub fn bell_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell, for level-triggered waiters.
    pub fn drain_bell(&self) -> bool {
        self.bell.drain()
    }

    /// Wakes the control process although there is no message, so that it looks at its clock (after a suspend).
    pub fn wake_control(&self) {
        self.control.ring();
    }
}

/// One worker's end.
pub struct WorkerEnd {
    index: usize,
    up_known: DatagramSender,
    up_unknown: DatagramSender,
    up_events: CommandSender<WorkerEvent>,
    down_datagrams: DatagramReceiver,
    down_commands: CommandReceiver<WorkerCommand>,
    sleeper: Sleeper,
    bell: EventBell,
    failed: Option<LinkError>,
}

impl WorkerEnd {
    fn new(mapping: &Arc<Mapping>, index: usize, bell: EventBell, control: &Remote) -> Self {
        let at = layout::worker(index);
        let region = |offset, spec| Region::new(mapping, offset, spec);
        WorkerEnd {
            index,
            up_known: DatagramSender::new(region(at.up_known, UP_KNOWN), UP_KNOWN, control.clone()),
            up_unknown: DatagramSender::new(region(at.up_unknown, UP_UNKNOWN), UP_UNKNOWN, control.clone()),
            up_events: CommandSender::new(region(at.up_events, UP_EVENTS), UP_EVENTS, control.clone(), EVENT_QUEUE),
            down_datagrams: DatagramReceiver::new(region(at.down_datagrams, DOWN_DATAGRAMS), DOWN_DATAGRAMS),
            down_commands: CommandReceiver::new(
                region(at.down_commands, DOWN_COMMANDS),
                DOWN_COMMANDS,
                control.clone(),
            ),
            sleeper: Sleeper::new(mapping, at.sleeper),
            bell,
            failed: None,
        }
    }

    /// This worker's number, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Hands a control datagram up, as one of a `known` peer or of an unknown source. False: dropped and counted.
    pub fn send_datagram(&mut self, known: bool, datagram: &Datagram<'_>) -> bool {
        let sender = if known { &mut self.up_known } else { &mut self.up_unknown };
        let sent = sender.send(datagram);
        if sender.is_corrupt() {
            self.failed = Some(LinkError::Corrupt);
        }
        sent
    }

    /// Sends an event, or queues it.
    ///
    /// # Errors
    /// As [`CommandSender::send`].
    pub fn send_event(&mut self, event: &WorkerEvent) -> Result<(), LinkError> {
        self.up_events.send(event)
    }

    /// The next datagram that has to be sent.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`: this link is not to be used any more.
    pub fn recv_datagram(&mut self) -> Result<Option<Datagram<'_>>, LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        self.down_datagrams.recv()
    }

    /// The next command.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`: this link is not to be used any more.
    pub fn recv_command(&mut self) -> Result<Option<WorkerCommand>, LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        self.down_commands.recv()
    }

    /// Moves queued events; true when none is left.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn flush(&mut self) -> Result<bool, LinkError> {
        self.up_events.flush()
    }

    /// Announces sleep and looks once more. True: wait for the bell, then call [`WorkerEnd::awake`]. False: there is
    /// something to receive (or an error to be told).
    pub fn prepare_sleep(&mut self) -> bool {
        sleep::announce(self.sleeper.need_wake());
        self.failed = self.failed.or(self.up_events.flush().err());
        let may_sleep = self.failed.is_none() && !self.down_datagrams.is_ready() && !self.down_commands.is_ready();
        if !may_sleep {
            self.awake();
        }
        may_sleep
    }

    /// Says that the thread does not sleep any more.
    pub fn awake(&self) {
        sleep::cancel(self.sleeper.need_wake());
    }

    /// Sleeps on the bell with poll(2) until there is something to receive, somebody rings, or the time is over
    /// (`None`: never), for threads that have nothing else to wait for. May return early.
    pub fn wait(&mut self, timeout: Option<Duration>) {
        if self.prepare_sleep() {
            self.bell.wait(timeout);
            self.awake();
            self.bell.drain();
        }
    }

    /// The bell: readable after the control process rang it.
    pub fn bell_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell, for level-triggered waiters.
    pub fn drain_bell(&self) -> bool {
        self.bell.drain()
    }

    /// Datagrams of known peers that were dropped here.
    pub fn dropped_known(&self) -> u64 {
        self.up_known.dropped()
    }

    /// Datagrams of unknown sources that were dropped here.
    pub fn dropped_unknown(&self) -> u64 {
        self.up_unknown.dropped()
    }
}

/// The control process's end; it hears `To` and says `From`.
pub struct ControlEnd<To, From> {
    to_supervisor: CommandSender<From>,
    from_supervisor: CommandReceiver<To>,
    workers: Vec<ControlWorker>,
    sleeper: Sleeper,
    /// A futex word, or the event bell of a thread that has several links.
    bell: Bell,
    failed: Option<LinkError>,
}

/// The control process's side of one worker.
struct ControlWorker {
    up_known: DatagramReceiver,
    up_unknown: DatagramReceiver,
    up_events: CommandReceiver<WorkerEvent>,
    down_datagrams: DatagramSender,
    down_commands: CommandSender<WorkerCommand>,
}

impl<To: DeserializeOwned, From: Serialize> ControlEnd<To, From> {
    /// Opens the end in the process that was given the descriptors. The memory stays mapped; its descriptor is closed.
    ///
    /// # Errors
    /// `InvalidInput` unless there are `1..=MAX_WORKERS` bells; `InvalidData` when the memory is not sealed or was not
    /// made for that many workers; otherwise what the system calls said.
    pub fn open(memfd: OwnedFd, worker_bells: Vec<OwnedFd>, supervisor_bell: OwnedFd) -> io::Result<Self> {
        check_workers(worker_bells.len())?;
        let mapping = Arc::new(Mapping::from_fd(&memfd, layout::total_bytes(worker_bells.len()))?);
        let worker_bells = worker_bells.into_iter().map(EventBell::from_fd).collect();
        let bell = futex_bell(&mapping);
        Ok(ControlEnd::new(&mapping, worker_bells, EventBell::from_fd(supervisor_bell), bell))
    }

    fn new(
        mapping: &Arc<Mapping>,
        worker_bells: Vec<EventBell>,
        supervisor_bell: EventBell,
        bell: Bell,
    ) -> ControlEnd<To, From> {
        let supervisor = Remote::new(Sleeper::new(mapping, SUPERVISOR_SLEEPER), Bell::Event(supervisor_bell));
        let sleeper = Sleeper::new(mapping, CONTROL_SLEEPER);
        ControlEnd {
            to_supervisor: CommandSender::new(
                Region::new(mapping, FROM_CONTROL_AT, FROM_CONTROL),
                FROM_CONTROL,
                supervisor.clone(),
                FROM_CONTROL_QUEUE,
            ),
            from_supervisor: CommandReceiver::new(
                Region::new(mapping, TO_CONTROL_AT, TO_CONTROL),
                TO_CONTROL,
                supervisor,
            ),
            workers: worker_bells
                .into_iter()
                .enumerate()
                .map(|(index, bell)| ControlWorker::new(mapping, index, bell))
                .collect(),
            bell,
            sleeper,
            failed: None,
        }
    }

    /// Number of workers; they are numbered from 0.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The supervisor's next command.
    ///
    /// # Errors
    /// `Corrupt` or `Garbage`.
    pub fn recv_from_supervisor(&mut self) -> Result<Option<To>, LinkError> {
        self.from_supervisor.recv()
    }

    /// Sends a command to the supervisor, or queues it.
    ///
    /// # Errors
    /// As [`CommandSender::send`].
    pub fn send_to_supervisor(&mut self, command: &From) -> Result<(), LinkError> {
        self.to_supervisor.send(command)
    }

    /// The next datagram of a worker: those of known peers first, so that strangers never delay them. It lies in a
    /// private buffer until the next call.
    ///
    /// # Errors
    /// `Corrupt`, `Garbage` or `NoSuchWorker`.
    pub fn recv_datagram(&mut self, worker: usize) -> Result<Option<Datagram<'_>>, LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        let worker = self.workers.get_mut(worker).ok_or(LinkError::NoSuchWorker)?;
        if worker.up_known.fetch()? {
            return worker.up_known.fetched().map(Some);
        }
        worker.up_unknown.recv()
    }

    /// The next event of a worker.
    ///
    /// # Errors
    /// `Corrupt`, `Garbage` or `NoSuchWorker`.
    pub fn recv_event(&mut self, worker: usize) -> Result<Option<WorkerEvent>, LinkError> {
        self.failed.map_or(Ok(()), Err)?;
        self.workers.get_mut(worker).ok_or(LinkError::NoSuchWorker)?.up_events.recv()
    }

    /// Hands a datagram to a worker, to be sent. False: dropped (and counted, when there is such a worker).
    pub fn send_datagram(&mut self, worker: usize, datagram: &Datagram<'_>) -> bool {
        let Some(worker) = self.workers.get_mut(worker) else {
            return false;
        };
        let sent = worker.down_datagrams.send(datagram);
        if worker.down_datagrams.is_corrupt() {
            self.failed = Some(LinkError::Corrupt);
        }
        sent
    }

    /// Sends a command to a worker, or queues it.
    ///
    /// # Errors
    /// As [`CommandSender::send`], and `NoSuchWorker`.
    pub fn send_command(&mut self, worker: usize, command: &WorkerCommand) -> Result<(), LinkError> {
        self.workers.get_mut(worker).ok_or(LinkError::NoSuchWorker)?.down_commands.send(command)
    }

    /// Moves queued commands; true when none is left.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn flush(&mut self) -> Result<bool, LinkError> {
        let mut all = self.to_supervisor.flush()?;
        for worker in &mut self.workers {
            all &= worker.down_commands.flush()?;
        }
        Ok(all)
    }

    /// Sleeps until there is something to receive, somebody rings, or the time is over (`None`: never). Flushes first.
    /// May return early.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<(), LinkError> {
        let seen = self.bell.value();
        if self.prepare_sleep()? {
            self.bell.wait(seen, timeout);
            self.awake();
        }
        Ok(())
    }

    /// While something waits for room in a ring: sleeps until somebody has made room, or the time is over. What could be
    /// received does not count. May return early.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn wait_for_room(&mut self, timeout: Duration) -> Result<(), LinkError> {
        let seen = self.bell.value();
        sleep::announce(self.sleeper.need_wake());
        let flushed = self.failed.map_or(Ok(()), Err).and_then(|()| self.flush());
        if flushed == Ok(false) {
            self.bell.wait(seen, Some(timeout));
        }
        sleep::cancel(self.sleeper.need_wake());
        flushed.map(|_| ())
    }

    /// Datagrams dropped on their way to that worker; 0 when there is no such worker.
    pub fn dropped(&self, worker: usize) -> u64 {
        self.workers.get(worker).map_or(0, |worker| worker.down_datagrams.dropped())
    }

    /// For a thread that has several links ([`create_within`]): announces sleep and looks once more. True: wait for the thread's bell,
    /// then call [`ControlEnd::awake`]. False: there is something to receive.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn prepare_sleep(&mut self) -> Result<bool, LinkError> {
        sleep::announce(self.sleeper.need_wake());
        let flushed = self.failed.map_or(Ok(()), Err).and_then(|()| self.flush());
        if flushed.is_err() || self.is_ready() {
            self.awake();
            return flushed.map(|_| false);
        }
        Ok(true)
    }

    /// Says that the thread does not sleep any more.
    pub fn awake(&self) {
        sleep::cancel(self.sleeper.need_wake());
    }

    fn is_ready(&self) -> bool {
        self.from_supervisor.is_ready() || self.workers.iter().any(ControlWorker::is_ready)
    }
}

impl ControlWorker {
    fn new(mapping: &Arc<Mapping>, index: usize, bell: EventBell) -> Self {
        let at = layout::worker(index);
        let worker = Remote::new(Sleeper::new(mapping, at.sleeper), Bell::Event(bell));
        let region = |offset, spec| Region::new(mapping, offset, spec);
        ControlWorker {
            up_known: DatagramReceiver::new(region(at.up_known, UP_KNOWN), UP_KNOWN),
            up_unknown: DatagramReceiver::new(region(at.up_unknown, UP_UNKNOWN), UP_UNKNOWN),
            up_events: CommandReceiver::new(region(at.up_events, UP_EVENTS), UP_EVENTS, worker.clone()),
            down_datagrams: DatagramSender::new(
                region(at.down_datagrams, DOWN_DATAGRAMS),
                DOWN_DATAGRAMS,
                worker.clone(),
            ),
            down_commands: CommandSender::new(
                region(at.down_commands, DOWN_COMMANDS),
                DOWN_COMMANDS,
                worker,
                COMMAND_QUEUE,
            ),
        }
    }

    fn is_ready(&self) -> bool {
        self.up_known.is_ready() || self.up_unknown.is_ready() || self.up_events.is_ready()
    }
}

/// The control process, as the others wake it.
fn control_remote(mapping: &Arc<Mapping>) -> Remote {
    Remote::new(Sleeper::new(mapping, CONTROL_SLEEPER), futex_bell(mapping))
}

fn futex_bell(mapping: &Arc<Mapping>) -> Bell {
    Bell::Futex(FutexBell::new(Sleeper::new(mapping, CONTROL_SLEEPER)))
}

//! The control plane's loop: drain the rings into the endpoint, drain the endpoint into the rings, sleep until the doorbell
//! or the next deadline. The endpoint is a client or a gateway, as the first message says. It runs as a process of its own
//! (`control_process.rs`) or on a thread; it knows neither.

use std::time::Duration;

use controlplane::trace::Trace;
use controlplane::{Client, Ending, Event, Instant, Now, Output, Random, Server, SystemRandom};
use link::LinkError;

use crate::clock;
use crate::messages::{self, ControlEnd, FromControl, ToControl};

/// At most this many datagrams of one worker are taken in one turn, so that commands are never far away.
const DATAGRAMS_PER_TURN: usize = 64;
/// At most this many messages of the supervisor, and events of one worker, are taken in one turn.
const MESSAGES_PER_TURN: usize = 256;
/// The longest sleep while something waits for room in a ring; who makes room wakes us.
pub(crate) const ROOM: Duration = Duration::from_millis(5);
/// Counters of dropped datagrams are told at most this often.
const DROPPED_EVERY: Duration = Duration::from_secs(1);

/// How long a control plane has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Until somebody reads what it said, [`ROOM`] at most.
    Room,
    /// Until something comes, or until then.
    Until(Option<Instant>),
}

/// A control plane.
pub struct ControlPlane {
    end: ControlEnd,
    endpoint: Option<Endpoint>,
    /// Somebody looks on.
    observed: bool,
    rng: SystemRandom,
    dropped_told: Instant,
}

impl ControlPlane {
    /// Takes its end of the link.
    pub fn new(end: ControlEnd) -> ControlPlane {
        ControlPlane { end, endpoint: None, observed: false, rng: SystemRandom, dropped_told: Instant::default() }
    }

    /// The same, of a client whose handshakes can be followed with [`take_trace`](Self::take_trace).
    pub(crate) fn observed(end: ControlEnd) -> ControlPlane {
        ControlPlane { observed: true, ..ControlPlane::new(end) }
    }

    /// What happened since the last call; to be taken after every turn.
    pub(crate) fn take_trace(&mut self) -> Trace {
        match &mut self.endpoint {
            Some(Endpoint::Client(client)) => client.take_trace(),
            Some(Endpoint::Server(_)) | None => Trace::default(),
        }
    }

    /// Runs until the link breaks, which is the end of this control plane.
    pub fn run(mut self) -> LinkError {
        loop {
            let slept = self.turn().and_then(|rest| match rest {
                Rest::Room => self.end.wait_for_room(ROOM),
                Rest::Until(wake) => self.end.wait(wake.map(|at| at.since(clock::now().at))),
            });
            if let Err(error) = slept {
                return error;
            }
        }
    }

    /// For a thread that runs several: announces sleep and looks once more. False: there is something to do.
    ///
    /// # Errors
    /// The link broke.
    pub(crate) fn prepare_sleep(&mut self) -> Result<bool, LinkError> {
        self.end.prepare_sleep()
    }

    /// After [`prepare_sleep`](Self::prepare_sleep): it does not sleep any more.
    pub(crate) fn awake(&self) {
        self.end.awake();
    }

    /// Everything that is to be done now.
    ///
    /// # Errors
    /// The link broke, which is the end of this control plane.
    pub(crate) fn turn(&mut self) -> Result<Rest, LinkError> {
        self.take_commands()?;
        for worker in 0..self.end.workers() {
            self.take_events(worker)?;
            self.take_datagrams(worker)?;
        }
        // Those who are behind with reading are not told more: what follows from a flood would otherwise fill the queues in front of
        // their rings, and a queue that overflows ends this process.
        if !self.end.flush()? {
            return Ok(Rest::Room);
        }
        let now = clock::now();
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.handle_timeout(now, &mut self.rng);
        }
        let wake = self.carry_out()?;
        self.tell_dropped(now)?;
        Ok(Rest::Until(wake))
    }

    fn take_commands(&mut self) -> Result<(), LinkError> {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.end.flush()? {
                break;
            }
            let Some(command) = self.end.recv_from_supervisor()? else { break };
            let now = clock::now();
            match (command, &mut self.endpoint) {
                (ToControl::Heartbeat, _) => self.end.send_to_supervisor(&FromControl::Heartbeat)?,
                (ToControl::ConfigureClient(setup), _) => {
                    let client = Client::new(*setup, now);
                    let observed = self.observed;
                    self.configured(client.map(|mut client| {
                        client.observe(observed);
                        Endpoint::Client(Box::new(client))
                    }))?;
                }
                (ToControl::ConfigureGateway(setup), _) => {
                    let server = Server::new(*setup, now, &mut self.rng, None);
                    self.configured(server.map(|server| Endpoint::Server(Box::new(server))))?;
                }
                (ToControl::ReloadGateway(setup), Some(Endpoint::Server(server))) => {
                    let reloaded = server.reload(now, *setup);
                    self.end.send_to_supervisor(&FromControl::Reloaded(reloaded))?;
                }
                (command, Some(Endpoint::Client(client))) => order_client(client, command, now, &mut self.rng),
                (command, Some(Endpoint::Server(server))) => order_server(server, command, now, &mut self.rng),
                (_, None) => {}
            }
            self.carry_out()?;
        }
        Ok(())
    }

    fn configured(&mut self, endpoint: Result<Endpoint, Ending>) -> Result<(), LinkError> {
        let answer = match endpoint {
            Ok(endpoint) => {
                self.endpoint = Some(endpoint);
                FromControl::Ready
            }
            Err(ending) => FromControl::Refused(ending),
        };
        self.end.send_to_supervisor(&answer)
    }

    fn take_events(&mut self, worker: usize) -> Result<(), LinkError> {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.end.flush()? {
                break;
            }
            let Some(event) = self.end.recv_event(worker)? else { break };
            let now = clock::now();
            match (&mut self.endpoint, event) {
                (Some(Endpoint::Server(server)), link::WorkerEvent::Floated { peer, path }) => {
                    server.floated(now, peer, messages::path_in(&path));
                    // When it is refused, where the peer is instead follows.
                    self.end.send_to_supervisor(&FromControl::Moved { peer, path })?;
                }
                (Some(endpoint), event) => {
                    if let Some(event) = messages::key_event(&event) {
                        endpoint.handle_key_event(now, &mut self.rng, event);
                    }
                }
                (None, _) => {}
            }
            self.carry_out()?;
        }
        Ok(())
    }

    fn take_datagrams(&mut self, worker: usize) -> Result<(), LinkError> {
        for _ in 0..DATAGRAMS_PER_TURN {
            if !self.end.flush()? {
                break;
            }
            let Some(datagram) = self.end.recv_datagram(worker)? else { break };
            let now = clock::now();
            if let Some(endpoint) = &mut self.endpoint {
                let path = messages::path_in(&datagram.path);
                endpoint.handle_datagram(now, &mut self.rng, &path, datagram.bytes);
            }
            self.carry_out()?;
        }
        Ok(())
    }

    /// Drains the endpoint's outputs, in their order. Returns when it wants to be called again.
    fn carry_out(&mut self) -> Result<Option<Instant>, LinkError> {
        let Some(endpoint) = &mut self.endpoint else { return Ok(None) };
        loop {
            match endpoint.poll_output() {
                Output::Transmit { path, bytes } => {
                    let path = messages::path_out(&path);
                    // A full ring drops it, as the wire might: the reliability layer sends it again.
                    self.end.send_datagram(usize::from(path.worker), &link::Datagram { path, bytes: &bytes });
                }
                Output::Event(event) => hand_on(&mut self.end, endpoint, event)?,
                Output::Idle { wake } => return Ok(wake.map(|(at, _)| at)),
            }
        }
    }

    fn tell_dropped(&mut self, now: Now) -> Result<(), LinkError> {
        let Some(endpoint) = &mut self.endpoint else { return Ok(()) };
        if now.at.since(self.dropped_told) < DROPPED_EVERY {
            return Ok(());
        }
        let counts = endpoint.take_dropped();
        if !counts.is_empty() {
            self.dropped_told = now.at;
            self.end.send_to_supervisor(&FromControl::Dropped(counts))?;
        }
        Ok(())
    }
}

/// Who is at the other end of the control channel's rules.
enum Endpoint {
    Client(Box<Client>),
    Server(Box<Server>),
}

impl Endpoint {
    fn handle_datagram(&mut self, now: Now, rng: &mut dyn Random, path: &controlplane::Path, bytes: &[u8]) {
        match self {
            Endpoint::Client(client) => client.handle_datagram(now, rng, path, bytes),
            Endpoint::Server(server) => server.handle_datagram(now, rng, path, bytes),
        }
    }

    fn handle_timeout(&mut self, now: Now, rng: &mut dyn Random) {
        match self {
            Endpoint::Client(client) => client.handle_timeout(now, rng),
            Endpoint::Server(server) => server.handle_timeout(now, rng),
        }
    }

    fn handle_key_event(&mut self, now: Now, rng: &mut dyn Random, event: controlplane::KeyEvent) {
        match self {
            Endpoint::Client(client) => client.handle_key_event(now, rng, event),
            Endpoint::Server(server) => server.handle_key_event(now, rng, event),
        }
    }

    fn poll_output(&mut self) -> Output {
        match self {
            Endpoint::Client(client) => client.poll_output(),
            Endpoint::Server(server) => server.poll_output(),
        }
    }

    fn take_dropped(&mut self) -> Vec<(String, u64)> {
        match self {
            Endpoint::Client(client) => client.take_dropped(),
            Endpoint::Server(server) => server.take_dropped(),
        }
    }

    /// The worker that a peer lives on. A client's peer is 0, whoever gave it which number.
    fn worker_of(&self, peer: u32) -> usize {
        match self {
            Endpoint::Client(_) => 0,
            Endpoint::Server(server) => usize::from(server.worker_of(peer)),
        }
    }
}

fn hand_on(end: &mut ControlEnd, endpoint: &Endpoint, event: Event) -> Result<(), LinkError> {
    match messages::worker_command(event) {
        Ok(command) => {
            if let link::WorkerCommand::SetPath { peer, path } = command {
                end.send_to_supervisor(&FromControl::Moved { peer, path })?;
            }
            end.send_command(endpoint.worker_of(messages::peer_of(&command)), &command)
        }
        Err(event) => end.send_to_supervisor(&FromControl::Event(*event)),
    }
}

fn order_client(client: &mut Client, command: ToControl, now: Now, rng: &mut dyn Random) {
    match command {
        ToControl::Connect { generation, path, credentials } => {
            client.connect(now, rng, generation, messages::path_in(&path), credentials);
        }
        ToControl::Resume { record, path, credentials } => {
            client.resume(now, rng, *record, messages::path_in(&path), credentials);
        }
        ToControl::Rebind { generation, path } => client.rebind(now, generation, messages::path_in(&path)),
        ToControl::Disconnect { generation } => client.disconnect(now, generation),
        ToControl::Forget { generation } => client.forget(generation),
        ToControl::Renegotiate { generation } => client.renegotiate(now, rng, generation),
        // A gateway's.
        _ => {}
    }
}

fn order_server(server: &mut Server, command: ToControl, now: Now, rng: &mut dyn Random) {
    match command {
        ToControl::Admit { generation, negotiation, admission } => {
            server.admit(now, rng, generation, negotiation, *admission);
        }
        ToControl::Refuse { generation, negotiation, text, reason } => {
            server.refuse(now, rng, generation, negotiation, &text, &reason);
        }
        ToControl::Defer { generation, negotiation, seconds, info } => {
            server.defer(now, rng, generation, negotiation, seconds, info.as_deref());
        }
        ToControl::Dismiss { generation, text } => server.dismiss(now, rng, generation, &text),
        ToControl::Close { generation } => server.close(now, generation),
        ToControl::ResumeClient { record, path } => server.resume(now, rng, *record, messages::path_in(&path)),
        ToControl::Renegotiate { generation } => server.renegotiate(now, rng, generation),
        // A client's.
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests;

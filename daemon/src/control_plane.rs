//! The control plane's loop: drain the rings into the client, drain the client into the rings, sleep until the doorbell or
//! the next deadline. It runs as a process of its own (`control_process.rs`) or on a thread; it knows neither.

use std::time::Duration;

use controlplane::{Client, Event, Instant, Now, Output, Random, SystemRandom};
use link::LinkError;

use crate::clock;
use crate::messages::{self, ControlEnd, FromControl, ToControl};

/// At most this many datagrams of one worker are taken in one turn, so that commands are never far away.
const DATAGRAMS_PER_TURN: usize = 64;
/// Counters of dropped datagrams are told at most this often.
const DROPPED_EVERY: Duration = Duration::from_secs(1);

/// The control plane of a client.
pub struct ControlPlane {
    end: ControlEnd,
    client: Option<Client>,
    rng: SystemRandom,
    dropped_told: Instant,
}

impl ControlPlane {
    /// Takes its end of the link.
    pub fn new(end: ControlEnd) -> ControlPlane {
        ControlPlane { end, client: None, rng: SystemRandom, dropped_told: Instant::default() }
    }

    /// Runs until the link breaks, which is the end of this control plane.
    pub fn run(mut self) -> LinkError {
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
        }
    }

    fn turn(&mut self) -> Result<(), LinkError> {
        self.take_commands()?;
        for worker in 0..self.end.workers() {
            self.take_events(worker)?;
            self.take_datagrams(worker)?;
        }
        let now = clock::now();
        if let Some(client) = &mut self.client {
            client.handle_timeout(now, &mut self.rng);
        }
        let wake = self.carry_out()?;
        self.tell_dropped(now)?;
        self.end.wait(wake.map(|at| at.since(clock::now().at)))
    }

    fn take_commands(&mut self) -> Result<(), LinkError> {
        while let Some(command) = self.end.recv_from_supervisor()? {
            let now = clock::now();
            if let ToControl::ConfigureClient(setup) = command {
                let answer = match Client::new(*setup, now) {
                    Ok(client) => {
                        self.client = Some(client);
                        FromControl::Ready
                    }
                    Err(ending) => FromControl::Refused(ending),
                };
                self.end.send_to_supervisor(&answer)?;
            } else if let Some(client) = &mut self.client {
                order(client, command, now, &mut self.rng);
            }
            self.carry_out()?;
        }
        Ok(())
    }

    fn take_events(&mut self, worker: usize) -> Result<(), LinkError> {
        while let Some(event) = self.end.recv_event(worker)? {
            let now = clock::now();
            if let (Some(client), Some(event)) = (&mut self.client, messages::key_event(&event)) {
                client.handle_key_event(now, &mut self.rng, event);
            }
            self.carry_out()?;
        }
        Ok(())
    }

    fn take_datagrams(&mut self, worker: usize) -> Result<(), LinkError> {
        for _ in 0..DATAGRAMS_PER_TURN {
            let Some(datagram) = self.end.recv_datagram(worker)? else { break };
            let now = clock::now();
            if let Some(client) = &mut self.client {
                let path = messages::path_in(&datagram.path);
                client.handle_datagram(now, &mut self.rng, &path, datagram.bytes);
            }
            self.carry_out()?;
        }
        Ok(())
    }

    /// Drains the client's outputs, in their order. Returns when it wants to be called again.
    fn carry_out(&mut self) -> Result<Option<Instant>, LinkError> {
        let Some(client) = &mut self.client else { return Ok(None) };
        loop {
            match client.poll_output() {
                Output::Transmit { path, bytes } => {
                    let path = messages::path_out(&path);
                    // A full ring drops it, as the wire might: the reliability layer sends it again.
                    self.end.send_datagram(usize::from(path.worker), &link::Datagram { path, bytes: &bytes });
                }
                Output::Event(event) => hand_on(&mut self.end, event)?,
                Output::Idle { wake } => return Ok(wake.map(|(at, _)| at)),
            }
        }
    }

    fn tell_dropped(&mut self, now: Now) -> Result<(), LinkError> {
        let Some(client) = &mut self.client else { return Ok(()) };
        if now.at.since(self.dropped_told) < DROPPED_EVERY {
            return Ok(());
        }
        let counts = client.take_dropped();
        if !counts.is_empty() {
            self.dropped_told = now.at;
            self.end.send_to_supervisor(&FromControl::Dropped(counts))?;
        }
        Ok(())
    }
}

/// The peers of a client live on its one worker.
const CLIENT_WORKER: usize = 0;

fn hand_on(end: &mut ControlEnd, event: Event) -> Result<(), LinkError> {
    match messages::worker_command(event) {
        Ok(command) => end.send_command(CLIENT_WORKER, &command),
        Err(event) => end.send_to_supervisor(&FromControl::Event(*event)),
    }
}

fn order(client: &mut Client, command: ToControl, now: Now, rng: &mut dyn Random) {
    match command {
        ToControl::ConfigureClient(_) => {}
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
    }
}

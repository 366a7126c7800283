//! Many clients and one server on a virtual clock. Datagrams take 10 ms; workers confirm keys at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use controlplane::{
    Client, ClientSetup, Credentials, Ending, Event, Instant, KeyEvent, Login, Now, Output, Path, ResumeRecord, Server,
    ServerSetup,
};

use super::{Gate, START_UNIX, Seeded, client_path, tls_random};

const BEGIN: Instant = Instant(1_000_000_000_000);
const DELAY: Duration = Duration::from_millis(10);

/// One client, where it is, and what it said.
pub struct Member {
    pub client: Client,
    pub at: SocketAddr,
    pub events: Vec<Event>,
    generation: u32,
}

impl Member {
    pub fn established(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Established(_))).count()
    }

    pub fn renegotiated(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Renegotiated { .. })).count()
    }

    pub fn ending(&self) -> Option<Ending> {
        self.events.iter().rev().find_map(|e| match e {
            Event::Ended { ending, .. } => Some(ending.clone()),
            _ => None,
        })
    }
}

/// To a member, or to the server (`None`), and the client's address.
type Flight = (Option<usize>, SocketAddr, Vec<u8>);

pub struct Crowd {
    pub server: Server,
    pub members: Vec<Member>,
    pub gate: Gate,
    pub now: Now,
    pub rng: Seeded,
    pub server_events: Vec<Event>,
    /// Nothing arrives.
    pub dead: bool,
    in_flight: BTreeMap<(u64, u64), Flight>,
    sequence: u64,
}

pub fn path(remote: SocketAddr) -> Path {
    Path { remote, ..client_path() }
}

/// The n-th address, each in a prefix of its own.
pub fn address(n: usize) -> SocketAddr {
    let n = u32::try_from(n).unwrap();
    SocketAddr::new(Ipv4Addr::from(0x0A00_0001 | n << 8).into(), 40_000)
}

impl Crowd {
    pub fn new(server: ServerSetup, seed: u64) -> Crowd {
        let now = Now { at: BEGIN, unix: START_UNIX };
        let mut rng = Seeded::new(seed);
        let server = Server::new(server, now, &mut rng, Some(tls_random(seed))).unwrap();
        Crowd {
            server,
            members: Vec::new(),
            gate: Gate::new(),
            now,
            rng,
            server_events: Vec::new(),
            dead: false,
            in_flight: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Adds a client at the n-th address and has it connect.
    pub fn join(&mut self, setup: ClientSetup, n: usize, credentials: Option<Credentials>) -> usize {
        let random = tls_random(1_000 + self.members.len() as u64);
        let client = Client::with_tls_random(setup, self.now, Some(random)).unwrap();
        self.members.push(Member { client, at: address(n), events: Vec::new(), generation: 0 });
        let member = self.members.len() - 1;
        self.connect(member, credentials);
        member
    }

    pub fn connect(&mut self, member: usize, credentials: Option<Credentials>) {
        let m = &mut self.members[member];
        m.generation += 1;
        m.client.connect(self.now, &mut self.rng, m.generation, client_path(), credentials);
        self.drain();
    }

    /// Runs until the condition holds: false when it did not within so many virtual seconds.
    pub fn run_until(&mut self, seconds: u64, mut done: impl FnMut(&Crowd) -> bool) -> bool {
        let end = self.now.at + Duration::from_secs(seconds);
        self.drain();
        for turn in 0.. {
            assert!(turn < 1_000_000, "the crowd does not come to rest");
            if done(self) {
                break;
            }
            let arrival = self.in_flight.keys().next().map(|(at, _)| Instant(*at));
            let server = super::wake(self.server.poll_output());
            let clients = self.members.iter_mut().filter_map(|m| super::wake(m.client.poll_output())).min();
            let next = [arrival, server, clients].into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
            let at = next.max(self.now.at).min(end);
            self.now = Now { at, unix: START_UNIX + at.since(BEGIN).as_secs() };
            if next > end {
                return done(self);
            }
            self.turn();
        }
        true
    }

    pub fn run_for(&mut self, seconds: u64) {
        self.run_until(seconds, |_| false);
    }

    fn turn(&mut self) {
        while let Some((&(at, _), _)) = self.in_flight.first_key_value() {
            if at > self.now.at.0 {
                break;
            }
            if let Some((_, (to, from, bytes))) = self.in_flight.pop_first() {
                match to {
                    None => self.server.handle_datagram(self.now, &mut self.rng, &path(from), &bytes),
                    Some(m) => {
                        self.members[m].client.handle_datagram(self.now, &mut self.rng, &client_path(), &bytes);
                    }
                }
                self.drain();
            }
        }
        self.server.handle_timeout(self.now, &mut self.rng);
        for member in &mut self.members {
            member.client.handle_timeout(self.now, &mut self.rng);
        }
        self.drain();
    }

    /// Gives the server a datagram from there.
    pub fn deliver(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.server.handle_datagram(self.now, &mut self.rng, &path(from), bytes);
        self.drain();
    }

    pub fn drain(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            while let Some(output) = super::some(self.server.poll_output()) {
                quiet = false;
                self.on_server(output);
            }
            for member in 0..self.members.len() {
                while let Some(output) = super::some(self.members[member].client.poll_output()) {
                    quiet = false;
                    self.on_client(member, output);
                }
            }
        }
    }

    fn on_server(&mut self, output: Output) {
        match output {
            Output::Transmit { path, bytes } => {
                if let Some(member) = self.members.iter().position(|m| m.at == path.remote) {
                    self.send(Some(member), path.remote, bytes);
                }
            }
            Output::Event(event) => {
                match &event {
                    Event::InstallKey(key) => {
                        let event = KeyEvent::KeyInstalled(key.name);
                        self.server.handle_key_event(self.now, &mut self.rng, event);
                    }
                    Event::Login(login) if self.gate.open => {
                        self.gate.judge(&mut self.server, self.now, &mut self.rng, login);
                    }
                    _ => {}
                }
                self.server_events.push(event);
            }
            Output::Idle { .. } => {}
        }
    }

    fn on_client(&mut self, member: usize, output: Output) {
        match output {
            Output::Transmit { bytes, .. } => self.send(None, self.members[member].at, bytes),
            Output::Event(event) => {
                if let Event::InstallKey(key) = &event {
                    let event = KeyEvent::KeyInstalled(key.name);
                    self.members[member].client.handle_key_event(self.now, &mut self.rng, event);
                }
                self.members[member].events.push(event);
            }
            Output::Idle { .. } => {}
        }
    }

    fn send(&mut self, to: Option<usize>, from: SocketAddr, bytes: Vec<u8>) {
        if !self.dead {
            self.sequence += 1;
            self.in_flight.insert(((self.now.at + DELAY).0, self.sequence), (to, from, bytes));
        }
    }

    pub fn drop_in_flight(&mut self) {
        self.in_flight.clear();
    }

    pub fn all_established(&self) -> bool {
        self.members.iter().all(|m| m.established() > 0)
    }

    pub fn logins(&self) -> Vec<Login> {
        let logins = self.server_events.iter().filter_map(|e| match e {
            Event::Login(login) => Some((**login).clone()),
            _ => None,
        });
        logins.collect()
    }

    /// The last records of all sessions of the server, by generation.
    pub fn records(&self) -> BTreeMap<u32, ResumeRecord> {
        let records = self.server_events.iter().filter_map(|e| match e {
            Event::Record(r) => Some((r.generation, (**r).clone())),
            _ => None,
        });
        records.collect()
    }

    pub fn endings(&self) -> Vec<(u32, Ending)> {
        let endings = self.server_events.iter().filter_map(|e| match e {
            Event::Ended { generation, ending } => Some((*generation, ending.clone())),
            _ => None,
        });
        endings.collect()
    }
}

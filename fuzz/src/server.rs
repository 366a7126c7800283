//! A gateway with many sessions: honest clients, strangers with forged datagrams, workers and a supervisor that say
//! anything in any order. After every input it is drained; what comes out is bounded, and the order of what is told of a
//! session holds: a key only after an admission, one owner for each peer, one end, and nothing after it.
//!
//! TLS draws its own random numbers from the system, so that an input may take another way inside of TLS.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use controlplane::ids::{KeyId, Role, SessionId};
use controlplane::packet::opcode::Opcode;
use controlplane::wrap::Wrapper;
use controlplane::{
    Admission, Client, Event, Instant, KeyEvent, KeyName, KeyRefusal, Now, Output, ResumeRecord, Secret, Server,
    ServerSetup, UsageReason,
};

use crate::client::{Counter, MAX_PACKET, START_UNIX, client_setup, credentials, path, server_setup, wrap};
use crate::input::Input;

/// More operations than this tell nothing new.
const MAX_STEPS: usize = 96;
/// No single input makes the gateway say more than this.
const MAX_OUTPUTS: usize = 96;
/// `max-clients`
const MAX_CLIENTS: u32 = 4;
const CLIENTS: usize = 3;

/// Runs one input: a byte of settings, then operations.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else {
        return;
    };
    let mut world = World::new(settings);
    for _ in 0..MAX_STEPS {
        if world.step(&mut input).is_none() {
            return;
        }
    }
}

/// A client and the way to it.
struct Guest {
    client: Client,
    generation: u32,
    port: u16,
    to_it: VecDeque<Vec<u8>>,
}

/// What is known of a session of the gateway's.
#[derive(Debug, Default)]
struct Known {
    peer: u32,
    admitted: bool,
    ended: bool,
}

struct World {
    server: Server,
    settings: u8,
    now: Now,
    rng: Counter,
    /// Seals what strangers invent, so that it gets past the protection.
    forger: Wrapper,
    guests: Vec<Guest>,
    /// Datagrams for the gateway, and the port they come from.
    to_server: VecDeque<(u16, Vec<u8>)>,
    logins: VecDeque<(u32, u32)>,
    keys: VecDeque<KeyName>,
    known: BTreeMap<u32, Known>,
    /// Handles whose keys are the workers', by the session that has them.
    keyed: BTreeMap<u32, u32>,
    records: Vec<ResumeRecord>,
    sids: BTreeSet<[u8; 8]>,
}

fn setup(settings: u8) -> ServerSetup {
    let reneg_sec = if settings & 32 == 0 { 0 } else { 60 };
    ServerSetup { max_clients: MAX_CLIENTS, workers: 2, first_generation: 7, reneg_sec, ..server_setup(settings) }
}

fn guest(settings: u8, now: Now, port: u16) -> Guest {
    let client = Client::new(client_setup(settings), now).unwrap_or_else(|ending| panic!("{ending:?}"));
    Guest { client, generation: 0, port, to_it: VecDeque::new() }
}

impl World {
    fn new(settings: u8) -> World {
        let now = Now { at: Instant(1_000_000_000), unix: START_UNIX };
        let mut rng = Counter(u64::from(settings));
        let server = Server::new(setup(settings), now, &mut rng, None).unwrap_or_else(|ending| panic!("{ending:?}"));
        // A tls-auth or tls-crypt key is everybody's who has a profile.
        let forger = Wrapper::resume(wrap(settings, Role::Client).1, 1 << 16, START_UNIX as u32, None);
        World {
            server,
            settings,
            now,
            rng,
            forger: forger.unwrap_or_else(|error| panic!("{error}")),
            guests: (0..CLIENTS).map(|n| guest(settings, now, 2_000 + n as u16)).collect(),
            to_server: VecDeque::new(),
            logins: VecDeque::new(),
            keys: VecDeque::new(),
            known: BTreeMap::new(),
            keyed: BTreeMap::new(),
            records: Vec::new(),
            sids: BTreeSet::new(),
        }
    }

    /// One operation; `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 16 {
            0..=2 => self.exchange(input.byte()? % 32),
            3 => self.connect(usize::from(input.byte()?)),
            4 => self.damage(input)?,
            5 => drop(self.to_server.pop_front()),
            6 => self.elsewhere(input)?,
            7 => self.deliver(port(input.byte()?), input.some()?),
            8 => self.forge(input)?,
            9 => self.pass_time(input.number()?),
            10 => self.key_event(input)?,
            11 => self.judge(input)?,
            12 => self.command(input)?,
            13 => {
                let [peer, at] = input.take()?;
                self.server.floated(self.now, u32::from(peer % 8), path(port(at)));
            }
            14 => self.resume(input)?,
            _ => self.repeat(),
        }
        self.drain();
        Some(())
    }

    /// An honest network, honest workers and a supervisor that lets everybody in, for so many datagrams each way.
    fn exchange(&mut self, count: u8) {
        for _ in 0..count {
            if let Some((from, bytes)) = self.to_server.pop_front() {
                self.deliver(from, &bytes);
            }
            while let Some((generation, negotiation)) = self.logins.pop_front() {
                self.admit(generation, negotiation);
            }
            while let Some(name) = self.keys.pop_front() {
                for event in [KeyEvent::KeyInstalled(name), KeyEvent::KeySending(name)] {
                    self.server.handle_key_event(self.now, &mut self.rng, event);
                    self.drain();
                }
            }
            for at in 0..self.guests.len() {
                if let Some(bytes) = self.guests[at].to_it.pop_front() {
                    let guest = &mut self.guests[at];
                    guest.client.handle_datagram(self.now, &mut self.rng, &path(1_194), &bytes);
                    self.drain_guest(at);
                }
            }
        }
    }

    fn connect(&mut self, which: usize) {
        let at = which % CLIENTS;
        let guest = &mut self.guests[at];
        guest.generation += 1;
        guest.client.connect(self.now, &mut self.rng, guest.generation, path(1_194), Some(credentials("right")));
        self.drain_guest(at);
    }

    fn deliver(&mut self, from: u16, bytes: &[u8]) {
        self.server.handle_datagram(self.now, &mut self.rng, &path(from), bytes);
        self.drain();
    }

    fn damage(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (at, flip) = (usize::from(input.number()?), input.byte()?);
        if let Some((from, mut bytes)) = self.to_server.pop_front() {
            let at = at % bytes.len();
            if flip == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= flip;
            }
            self.deliver(from, &bytes);
        }
        Some(())
    }

    /// A datagram comes from another port than its sender's.
    fn elsewhere(&mut self, input: &mut Input<'_>) -> Option<()> {
        let from = port(input.byte()?);
        if let Some((_, bytes)) = self.to_server.pop_front() {
            self.deliver(from, &bytes);
        }
        Some(())
    }

    /// A datagram that looks like a client's, of one that is known or of nobody: the rest is the input's.
    fn forge(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [first, from, whose] = input.take()?;
        let (opcode, key_id) = Opcode::parse_first(first).unwrap_or((Opcode::ControlV1, KeyId::FIRST));
        let known = self.sids.iter().nth(usize::from(whose & 7)).copied().unwrap_or([whose; 8]);
        let sid = SessionId::from_bytes(known).unwrap_or_else(|| SessionId::new_random(&mut Counter(1)));
        let bytes = self.forger.seal_body(self.now.unix, opcode, key_id, sid, input.some()?);
        self.deliver(port(from), &bytes);
        Some(())
    }

    /// In tenths of a second.
    fn pass_time(&mut self, tenths: u16) {
        let at = self.now.at.0.saturating_add(u64::from(tenths) * 100_000_000);
        self.now = Now { at: Instant(at), unix: START_UNIX + at / 1_000_000_000 };
        self.server.handle_timeout(self.now, &mut self.rng);
        self.drain();
        for at in 0..self.guests.len() {
            self.guests[at].client.handle_timeout(self.now, &mut self.rng);
            self.drain_guest(at);
        }
    }

    /// A worker's word, of a key that is waiting or of any other.
    fn key_event(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [kind, which, peer] = input.take()?;
        let invented = || KeyName {
            peer: u32::from(peer),
            generation: u32::from(which),
            negotiation: u32::from(kind >> 4),
            key_id: peer % 8,
        };
        let name = if which & 128 == 0 { self.keys.pop_front().unwrap_or_else(invented) } else { invented() };
        let event = match kind & 3 {
            0 => KeyEvent::KeyInstalled(name),
            1 => KeyEvent::KeyRefused(name, KeyRefusal::NotNewer),
            2 => KeyEvent::KeySending(name),
            _ => KeyEvent::KeyUsage(name, UsageReason::Packets),
        };
        self.server.handle_key_event(self.now, &mut self.rng, event);
        Some(())
    }

    fn admit(&mut self, generation: u32, negotiation: u32) {
        if let Some(known) = self.known.get_mut(&generation) {
            known.admitted = true;
        }
        let push = vec!["ifconfig 10.8.0.2 255.255.255.0".into(), "x".repeat(3_000), "a\0b".into()];
        let admission = Admission { push, token: Some(Secret(b"abc".to_vec())) };
        self.server.admit(self.now, &mut self.rng, generation, negotiation, admission);
        self.drain();
    }

    /// A supervisor's word about a login: one that waits, or any.
    fn judge(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [how, which] = input.take()?;
        let waiting = if how & 2 == 0 { self.logins.pop_front() } else { None };
        let (generation, negotiation) = waiting.unwrap_or((u32::from(which >> 2), u32::from(which & 3)));
        if how & 1 == 0 {
            self.admit(generation, negotiation);
        } else {
            let text = if how & 4 == 0 { "AUTH_FAILED" } else { "AUTH_FAILED,\u{1b}[2J\n\0" };
            self.server.refuse(self.now, &mut self.rng, generation, negotiation, text, "why");
        }
        Some(())
    }

    fn command(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [what, which] = input.take()?;
        let generation = self.known.keys().nth(usize::from(which)).copied().unwrap_or(u32::from(which));
        match what % 6 {
            0 => self.server.renegotiate(self.now, &mut self.rng, generation),
            1 => self.server.dismiss(self.now, &mut self.rng, generation, "RESTART,[N]later"),
            2 => self.server.close(self.now, generation),
            3 => {
                let guest = &mut self.guests[usize::from(which) % CLIENTS];
                guest.client.renegotiate(self.now, &mut self.rng, guest.generation);
            }
            4 => {
                let fewer = ServerSetup { max_clients: u32::from(which) % (MAX_CLIENTS + 1), ..setup(self.settings) };
                self.server.reload(self.now, fewer).unwrap_or_else(|ending| panic!("{ending:?}"));
            }
            _ => {
                let guest = &mut self.guests[usize::from(which) % CLIENTS];
                guest.client.disconnect(self.now, guest.generation);
            }
        }
        for at in 0..self.guests.len() {
            self.drain_guest(at);
        }
        Some(())
    }

    /// With a record, as it was or with other numbers, beside those who are here or in a gateway of its own.
    fn resume(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [how, number, at] = input.take()?;
        let Some(mut record) = self.records.get(usize::from(number >> 4) % self.records.len().max(1)).cloned() else {
            return Some(());
        };
        if how & 8 != 0 {
            self.server = Server::new(setup(self.settings), self.now, &mut self.rng, None)
                .unwrap_or_else(|ending| panic!("{ending:?}"));
            self.known.clear();
            self.keyed.clear();
            self.logins.clear();
            self.keys.clear();
        }
        match how & 7 {
            0 => record.resumable = !record.resumable,
            1 => record.next_key_id = number,
            2 => record.next_negotiation = u32::MAX - u32::from(number),
            3 => record.peer = u32::MAX - u32::from(number),
            4 => record.remote_sid = [number; 8],
            5 => record.generation = u32::MAX - u32::from(number & 1),
            6 => record.login = None,
            _ => {}
        }
        self.server.resume(self.now, &mut self.rng, record, path(port(at)));
        Some(())
    }

    fn repeat(&mut self) {
        if let Some(first) = self.to_server.front().cloned() {
            self.to_server.push_back(first);
        }
    }

    fn drain_guest(&mut self, at: usize) {
        let guest = &mut self.guests[at];
        loop {
            match guest.client.poll_output() {
                Output::Transmit { bytes, .. } => {
                    self.sids.extend(bytes.get(1..9).and_then(|sid| <[u8; 8]>::try_from(sid).ok()));
                    self.to_server.push_back((guest.port, bytes));
                }
                Output::Event(Event::InstallKey(key)) => {
                    guest.client.handle_key_event(self.now, &mut self.rng, KeyEvent::KeyInstalled(key.name));
                }
                Output::Event(_) => {}
                Output::Idle { .. } => break,
            }
        }
        // A network that keeps no more than this.
        self.to_server.truncate(256);
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        loop {
            match self.server.poll_output() {
                Output::Transmit { path, bytes } => {
                    assert!(bytes.len() <= usize::from(MAX_PACKET), "{} bytes", bytes.len());
                    let to = self.guests.iter_mut().find(|guest| guest.port == path.remote.port());
                    if let Some(guest) = to.filter(|guest| guest.to_it.len() < 256) {
                        guest.to_it.push_back(bytes);
                    }
                }
                Output::Event(event) => self.event(event),
                Output::Idle { .. } => break,
            }
            outputs += 1;
        }
        assert!(outputs <= MAX_OUTPUTS, "{outputs} outputs after one input");
        assert!(self.server.sessions() <= MAX_CLIENTS as usize);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Login(login) => {
                let known = self.known.entry(login.generation).or_default();
                assert!(!known.ended, "a login of a session that has ended");
                known.peer = login.peer;
                assert!(!login.username.contains(char::is_control));
                self.logins.push_back((login.generation, login.negotiation));
                self.logins.truncate(64);
            }
            Event::InstallKey(key) => {
                let KeyName { peer, generation, .. } = key.name;
                let known =
                    self.known.get(&generation).unwrap_or_else(|| panic!("a key without a login: {generation}"));
                assert!(known.admitted && !known.ended && known.peer == peer, "{known:?} got {:?}", key.name);
                let owner = self.keyed.insert(peer, generation);
                assert!(owner.is_none_or(|owner| owner == generation), "peer {peer} is of {owner:?} and {generation}");
                self.keys.push_back(key.name);
                self.keys.truncate(64);
            }
            Event::DropKeys { peer, generation } if self.keyed.get(&peer) == Some(&generation) => {
                self.keyed.remove(&peer);
            }
            Event::Established(established) => {
                let known = self.known.get(&established.generation);
                assert!(known.is_some_and(|known| known.admitted && !known.ended));
            }
            Event::Record(record) => {
                self.records.push(*record);
                if self.records.len() > 16 {
                    self.records.remove(0);
                }
            }
            Event::Ended { generation, .. } => {
                let known = self.known.entry(generation).or_default();
                // One that could not be resumed was never begun here.
                assert!(!known.ended || self.server.sessions() <= MAX_CLIENTS as usize);
                known.ended = true;
            }
            _ => {}
        }
    }
}

/// Those of the clients, and a few of nobody.
fn port(byte: u8) -> u16 {
    2_000 + u16::from(byte % 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(settings: u8, steps: &[u8]) -> World {
        let mut world = World::new(settings);
        let mut input = Input(steps);
        while world.step(&mut input).is_some() {}
        world
    }

    /// Three clients come, time passes so that all is acknowledged.
    const THREE: [u8; 17] = [3, 0, 3, 1, 3, 2, 0, 31, 9, 15, 0, 0, 31, 9, 15, 0, 0];

    fn settled(world: &World) -> usize {
        world.known.values().filter(|known| known.admitted && !known.ended).count()
    }

    #[test]
    fn honest_clients_get_in_under_every_protection() {
        for settings in [0, 2, 3, 32] {
            let world = after(settings, &[&THREE[..], &[31, 0, 31, 0, 31]].concat());
            assert_eq!((settled(&world), world.keyed.len()), (CLIENTS, CLIENTS), "settings {settings}");
            assert!(!world.records.is_empty());
        }
    }

    #[test]
    fn a_stranger_with_the_key_of_the_profile_is_heard_and_gets_nowhere() {
        // A reset of nobody, then an ACK with a cookie that is none.
        let mut world = after(3, &[8, 0x38, 5, 200, 5, 0, 0, 0, 0, 0]);
        assert_eq!((world.server.sessions(), world.server.take_dropped()), (0, vec![]));
        let mut world = after(3, &[8, 0x28, 5, 200, 13, 1, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
        assert_eq!(world.server.take_dropped(), [("bad_cookie".to_owned(), 1)]);
    }
}

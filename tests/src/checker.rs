//! What a server may send, checked over recorded datagrams of control channels without any protection: opcodes, lengths,
//! acknowledgements, message ids without gaps, and the times of what is sent again. Not a word about what TLS carries.

use crate::relay::{Recorded, Way};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The longest control packet (`max-packet-size`), bytes of UDP payload.
const LONGEST: usize = 1250;
/// Most acknowledgements in one packet.
const MOST_ACKS: usize = 8;
/// What is not acknowledged is sent again after this long (`tls-timeout` is 2 s; the last tenth is for a busy machine's clock).
const PATIENCE: Duration = Duration::from_millis(1800);
/// With so many later messages acknowledged it may be sent again at once.
const OVERTAKEN: usize = 3;

const SOFT_RESET: u8 = 3;
const CONTROL: u8 = 4;
const ACK: u8 = 5;
const RESET_CLIENT: u8 = 7;
const RESET_SERVER: u8 = 8;
const DATA_V2: u8 = 9;

/// A control packet taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Control {
    opcode: u8,
    key: u8,
    session: [u8; 8],
    acks: Vec<u32>,
    remote: Option<[u8; 8]>,
    /// None of an acknowledgement alone.
    message: Option<u32>,
    payload: usize,
}

impl Control {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let (session, rest) = rest.split_first_chunk::<8>()?;
        let (count, mut rest) = rest.split_first()?;
        let mut acks = Vec::new();
        for _ in 0..*count {
            let (id, more) = rest.split_first_chunk::<4>()?;
            acks.push(u32::from_be_bytes(*id));
            rest = more;
        }
        let mut remote = None;
        if *count > 0 {
            let (id, more) = rest.split_first_chunk::<8>()?;
            (remote, rest) = (Some(*id), more);
        }
        let mut message = None;
        if first >> 3 != ACK {
            let (id, more) = rest.split_first_chunk::<4>()?;
            (message, rest) = (Some(u32::from_be_bytes(*id)), more);
        }
        Some(Self { opcode: first >> 3, key: first & 7, session: *session, acks, remote, message, payload: rest.len() })
    }
}

/// One key negotiation as it looks from between.
#[derive(Debug, Default)]
struct Negotiation {
    /// When each message of the server was sent last.
    sent: BTreeMap<u32, Instant>,
    /// Messages of the server that the client has acknowledged.
    acknowledged: BTreeSet<u32>,
    /// Messages of the client.
    heard: BTreeSet<u32>,
}

/// Follows one client's session.
#[derive(Debug, Default)]
struct Checker {
    client: Option<[u8; 8]>,
    server: Option<[u8; 8]>,
    reset_length: usize,
    negotiations: BTreeMap<u8, Negotiation>,
    complaints: Vec<String>,
    control: usize,
    again: usize,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What a server may not do, a sentence each.
    pub complaints: Vec<String>,
    /// Control packets of the server.
    pub control: usize,
    /// Those of them that were sent before.
    pub again: usize,
}

/// Checks what the server sent to one client, in order of arrival.
pub fn check(recorded: &[Recorded]) -> Verdict {
    let mut checker = Checker::default();
    for one in recorded {
        let said = match one.way {
            Way::Up => checker.up(&one.bytes),
            Way::Down => checker.down(one.at, &one.bytes),
        };
        if let Err(sentence) = said {
            let head: Vec<u8> = one.bytes.iter().take(34).copied().collect();
            checker.complaints.push(format!("{sentence}: {} bytes, {head:02x?}", one.bytes.len()));
        }
    }
    Verdict { complaints: checker.complaints, control: checker.control, again: checker.again }
}

impl Checker {
    /// The client's side is only kept in mind.
    fn up(&mut self, bytes: &[u8]) -> Result<(), String> {
        let opcode = bytes.first().map_or(0, |byte| byte >> 3);
        if opcode == DATA_V2 {
            return Ok(());
        }
        let packet = Control::parse(bytes).ok_or("the client's packet is none")?;
        if opcode == RESET_CLIENT {
            self.client = Some(packet.session);
            self.reset_length = bytes.len();
        }
        if opcode == SOFT_RESET && packet.message == Some(0) {
            self.begin(packet.key);
        }
        let negotiation = self.negotiations.entry(packet.key).or_default();
        negotiation.heard.extend(packet.message);
        negotiation.acknowledged.extend(packet.acks);
        Ok(())
    }

    fn down(&mut self, at: Instant, bytes: &[u8]) -> Result<(), String> {
        let opcode = bytes.first().map_or(0, |byte| byte >> 3);
        if opcode == DATA_V2 {
            return Ok(());
        }
        self.control += 1;
        if ![SOFT_RESET, CONTROL, ACK, RESET_SERVER].contains(&opcode) {
            return Err(format!("a server does not send opcode {opcode}"));
        }
        if bytes.len() > LONGEST {
            return Err(format!("a control packet of {} bytes", bytes.len()));
        }
        let packet = Control::parse(bytes).ok_or("it cannot be taken apart")?;
        self.identity(&packet)?;
        if packet.acks.len() > MOST_ACKS {
            return Err(format!("{} acknowledgements", packet.acks.len()));
        }
        match opcode {
            RESET_SERVER if bytes.len() > self.reset_length + 12 => return Err("an answer that amplifies".into()),
            RESET_SERVER if packet.key != 0 || packet.payload > 0 => return Err("a reset with more in it".into()),
            ACK if packet.acks.is_empty() || packet.payload > 0 => return Err("an acknowledgement of nothing".into()),
            SOFT_RESET if packet.key == 0 => return Err("a renegotiation of key 0".into()),
            SOFT_RESET => self.begin(packet.key),
            _ => {}
        }
        let Some(negotiation) = self.negotiations.get_mut(&packet.key) else {
            return Err(format!("key {} was never begun", packet.key));
        };
        if let Some(id) = packet.acks.iter().find(|id| !negotiation.heard.contains(id)) {
            return Err(format!("it acknowledges message {id}, which the client never sent"));
        }
        let Some(id) = packet.message else { return Ok(()) };
        match negotiation.sent.insert(id, at) {
            Some(before) => {
                self.again += 1;
                let later = negotiation.acknowledged.range(id + 1..).count();
                let waited = at - before;
                // Each reset of a client has its answer: nothing is kept by which it could be known.
                if opcode != RESET_SERVER && waited < PATIENCE && later < OVERTAKEN {
                    return Err(format!("message {id} again after {waited:?}, {later} later ones acknowledged"));
                }
            }
            None if id > 0 && !negotiation.sent.contains_key(&(id - 1)) => {
                return Err(format!("message {id} before message {}", id - 1));
            }
            None => {}
        }
        Ok(())
    }

    /// One session each way; the server's is known from its first packet.
    fn identity(&mut self, packet: &Control) -> Result<(), String> {
        // A cookie may change from one answer to the next.
        if packet.opcode == RESET_SERVER {
            self.server = Some(packet.session);
        }
        if *self.server.get_or_insert(packet.session) != packet.session {
            return Err("another session of the server".into());
        }
        if packet.remote.is_some() && packet.remote != self.client {
            return Err("it acknowledges for another session".into());
        }
        Ok(())
    }

    /// A key-id that comes again is a new negotiation once the one before has ended; a soft reset that was lost is the same.
    fn begin(&mut self, key: u8) {
        let newer = (1..8u8).any(|other| other != key && self.negotiations.contains_key(&other));
        if newer {
            // The next to come takes the number after this one.
            let next = if key == 7 { 1 } else { key + 1 };
            self.negotiations.remove(&next);
        }
        self.negotiations.entry(key).or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flood::{hard_reset, second};

    struct Line(Vec<Recorded>, Instant);

    impl Line {
        fn new() -> Self {
            let mut line = Self(Vec::new(), Instant::now());
            line.put(0, Way::Up, hard_reset(7));
            line.put(1, Way::Down, server(RESET_SERVER, 0, &[0], Some(0)));
            line.put(2, Way::Up, second(7, 9, b"hello"));
            line
        }

        fn put(&mut self, ms: u64, way: Way, bytes: Vec<u8>) {
            self.0.push(Recorded { at: self.1 + Duration::from_millis(ms), way, bytes });
        }

        fn complaints(&self) -> Vec<String> {
            check(&self.0).complaints
        }
    }

    fn server(opcode: u8, key: u8, acks: &[u32], message: Option<u32>) -> Vec<u8> {
        let mut bytes = vec![opcode << 3 | key];
        bytes.extend_from_slice(&9u64.to_be_bytes());
        bytes.push(acks.len() as u8);
        acks.iter().for_each(|id| bytes.extend_from_slice(&id.to_be_bytes()));
        if !acks.is_empty() {
            bytes.extend_from_slice(&7u64.to_be_bytes());
        }
        message.iter().for_each(|id| bytes.extend_from_slice(&id.to_be_bytes()));
        bytes
    }

    #[test]
    fn a_servers_usual_packets_are_good() {
        let mut line = Line::new();
        line.put(3, Way::Down, server(CONTROL, 0, &[1], Some(1)));
        line.put(4, Way::Down, server(ACK, 0, &[1, 0], None));
        line.put(2100, Way::Down, server(CONTROL, 0, &[], Some(1)));
        line.put(3000, Way::Down, server(SOFT_RESET, 1, &[], Some(0)));
        line.put(3001, Way::Down, server(CONTROL, 1, &[], Some(1)));
        let verdict = check(&line.0);
        assert_eq!((verdict.complaints, verdict.control, verdict.again), (vec![], 6, 1));
    }

    #[test]
    fn what_a_server_may_not_do_is_found() {
        let mut long = server(CONTROL, 0, &[], Some(1));
        long.resize(LONGEST + 1, 0);
        let mut foreign = server(CONTROL, 0, &[], Some(1));
        foreign[8] ^= 1;
        for (bytes, word) in [
            (server(RESET_CLIENT, 0, &[], Some(1)), "opcode 7"),
            (long, "1251 bytes"),
            (foreign, "another session"),
            (server(CONTROL, 0, &[5], Some(1)), "never sent"),
            (server(CONTROL, 0, &[], Some(2)), "before message 1"),
            (server(CONTROL, 0, &[0; 9], Some(1)), "9 acknowledgements"),
            (server(ACK, 0, &[], None), "of nothing"),
            (server(CONTROL, 2, &[], Some(0)), "never begun"),
            (server(SOFT_RESET, 0, &[], Some(1)), "key 0"),
            (vec![CONTROL << 3, 1], "taken apart"),
        ] {
            let mut line = Line::new();
            line.put(3, Way::Down, bytes);
            let found = line.complaints();
            assert!(found.len() == 1 && found[0].contains(word), "{word}: {found:?}");
        }
        let mut line = Line::new();
        line.put(3, Way::Down, server(CONTROL, 0, &[], Some(1)));
        line.put(500, Way::Down, server(CONTROL, 0, &[], Some(1)));
        assert!(line.complaints()[0].contains("again after"), "{:?}", line.complaints());
    }
}

//! One event of a trace, as it stands in the file: a JSON object. `docs/trace.md` describes it field by field, and a test holds the
//! two together.

use controlplane::packet::Opcode;
use controlplane::trace::{Packet, Record, Stage, What};
use controlplane::{Established, Instant};
use serde::Serialize;

use super::{pushed, reasons};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Operation {
    /// The trace begins.
    Start,
    /// A name was resolved, or was not.
    Resolve,
    /// An address is tried.
    Attempt,
    /// The session is at another stage.
    State,
    /// A control packet came.
    PacketIn,
    /// A control packet went out.
    PacketOut,
    /// A datagram came and was ignored.
    PacketDropped,
    /// The kernel told of an ICMP error.
    Icmp,
    /// The session could carry data.
    Established,
    /// An attempt failed.
    Failure,
    /// The trace ends.
    End,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Event {
    pub(super) operation: Operation,
    /// The name of the stage at which it happened; of a change of stage, the new one.
    pub(super) stage: &'static str,
    /// Seconds since the trace began, to the microsecond.
    pub(super) t: f64,
    /// What TLS messages begin in the packet, and which control messages.
    pub(super) tags: Vec<&'static str>,
    pub(super) packet: Option<Seen>,
    /// Which address is tried: 1 for the first one, 0 before.
    pub(super) attempt: u32,
    #[serde(flatten)]
    pub(super) more: More,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Seen {
    /// `read` or `write`.
    pub(super) operation: &'static str,
    /// The opcode's name, or `UNKNOWN_n`.
    pub(super) opcode: String,
    pub(super) id: Option<u32>,
    pub(super) acks: Option<Vec<u32>>,
    /// Bytes behind the message id.
    pub(super) payload_size: usize,
    /// 1 and more of packets of ours.
    pub(super) send_attempts: Option<u32>,
    pub(super) key_id: Option<u8>,
    pub(super) session_id: Option<String>,
    pub(super) remote_session_id: Option<String>,
    /// Bytes of the UDP payload.
    pub(super) datagram_size: usize,
    pub(super) duplicate: bool,
}

/// What only some events have.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum More {
    /// Nothing.
    None {},
    /// Of `start`.
    Start { version: &'static str, started_unix: u64, wrap: &'static str },
    /// Of `resolve`: either addresses or the reason why there are none.
    Resolve { host: String, addresses: Vec<String>, why: Option<String> },
    /// Of `attempt`.
    Attempt { remote: String, local: String },
    /// Of `packet_dropped`, `icmp` and `failure`: a word for programs and a sentence for people.
    Reason { reason: &'static str, why: String },
    /// Of `failure`.
    Failure { reason: &'static str, why: String, exit_status: u8 },
    /// Of `established`.
    Established(Box<Agreed>),
    /// Of `end`.
    End(Box<Sums>),
}

/// What both ends agreed on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Agreed {
    pub(super) handshake_seconds: f64,
    pub(super) tls: String,
    pub(super) cipher: &'static str,
    pub(super) peer_subject: String,
    pub(super) peer_id: Option<u32>,
    /// The pushed options; values that may be secret are left out.
    pub(super) pushed: Vec<String>,
    /// The server gave a session token, which is not shown.
    pub(super) auth_token: bool,
    /// The server can be told on the control channel that we leave.
    pub(super) cc_exit: bool,
}

/// The sums of a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sums {
    pub(super) established: bool,
    pub(super) exit_status: u8,
    pub(super) attempts: u32,
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    pub(super) packets_dropped: u64,
    pub(super) retransmissions: u64,
    /// Events that are not in the trace, because there were too many.
    pub(super) not_shown: u64,
    /// How the server was told that we leave: `control_channel`, `data_channel`, or not.
    pub(super) farewell: Option<&'static str>,
}

/// Seconds between two instants, to the microsecond.
pub(super) fn seconds(from: Instant, to: Instant) -> f64 {
    to.since(from).as_micros() as f64 / 1e6
}

impl Event {
    /// What the control plane noted.
    pub(super) fn of_record(record: &Record, started: Instant) -> Event {
        let (operation, packet, more) = match &record.what {
            What::Stage => (Operation::State, None, More::None {}),
            What::In(packet) => (Operation::PacketIn, Some(packet), More::None {}),
            What::Out(packet) => (Operation::PacketOut, Some(packet), More::None {}),
            What::Dropped(packet, reason) => {
                let why = reasons::ignored(*reason, record.stage, packet).to_owned();
                (Operation::PacketDropped, Some(packet), More::Reason { reason: reason.as_str(), why })
            }
        };
        Event {
            operation,
            stage: record.stage.as_str(),
            t: seconds(started, record.at),
            tags: packet.map(|packet| packet.names.clone()).unwrap_or_default(),
            packet: packet.map(Seen::new),
            attempt: record.generation,
            more,
        }
    }

    /// An event that has no packet.
    pub(super) fn plain(operation: Operation, stage: Stage, t: f64, attempt: u32, more: More) -> Event {
        Event { operation, stage: stage.as_str(), t, tags: Vec::new(), packet: None, attempt, more }
    }

    /// Whether it is a packet of ours that was sent before.
    pub(super) fn is_retransmission(&self) -> bool {
        self.packet.as_ref().and_then(|packet| packet.send_attempts).is_some_and(|attempts| attempts > 1)
    }
}

impl Seen {
    fn new(packet: &Packet) -> Seen {
        let ours = packet.send_attempts > 0;
        let acks: Vec<u32> = packet.acks.iter().map(|id| id.0).collect();
        Seen {
            operation: if ours { "write" } else { "read" },
            opcode: opcode_name(packet),
            id: packet.message_id.map(|id| id.0),
            acks: (!acks.is_empty()).then_some(acks),
            payload_size: packet.payload_size,
            send_attempts: ours.then_some(packet.send_attempts),
            key_id: packet.key_id.map(|id| id.get()),
            session_id: packet.session_id.map(|id| id.to_string()),
            remote_session_id: packet.remote_session_id.map(|id| id.to_string()),
            datagram_size: packet.datagram_size,
            duplicate: packet.duplicate,
        }
    }
}

fn opcode_name(packet: &Packet) -> String {
    match (packet.opcode.map(Opcode::name), packet.opcode_number) {
        (Some(name), _) => name.to_owned(),
        (None, Some(number)) => format!("UNKNOWN_{number}"),
        (None, None) => "UNKNOWN".to_owned(),
    }
}

impl Agreed {
    /// What the control plane says of an established session.
    pub(super) fn new(established: &Established, auth_token: bool, handshake_seconds: f64) -> Agreed {
        Agreed {
            handshake_seconds,
            tls: established.tls.clone(),
            cipher: established.cipher.name(),
            peer_subject: established.peer_subject.clone(),
            peer_id: established.peer_id,
            pushed: established.pushed.options.iter().map(|option| pushed::shown(option)).collect(),
            auth_token,
            cc_exit: established.cc_exit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane::error::DropReason;
    use controlplane::ids::MessageId;
    use controlplane::packet::AckList;

    fn json(event: &Event) -> serde_json::Value {
        serde_json::to_value(event).unwrap()
    }

    #[test]
    fn a_packet_of_ours_counts_its_attempts_and_one_that_came_does_not() {
        let acks = AckList::from_slice(&[MessageId(4), MessageId(2)]).unwrap();
        let packet = Packet { opcode: Some(Opcode::ControlV1), send_attempts: 2, acks, ..Packet::default() };
        let record = |what| Record { at: Instant(2_500_000_000), generation: 1, stage: Stage::Start, what };
        let event = Event::of_record(&record(What::Out(packet)), Instant(1_000_000_000));
        assert!(event.is_retransmission());
        let value = json(&event);
        assert_eq!(value["operation"], "packet_out");
        assert_eq!((value["t"].as_f64(), value["stage"].as_str()), (Some(1.5), Some("S_START")));
        assert_eq!(value["packet"]["acks"], serde_json::json!([4, 2]));
        assert_eq!(
            (&value["packet"]["operation"], value["packet"]["send_attempts"].as_u64()),
            (&"write".into(), Some(2))
        );
        let event = Event::of_record(&record(What::In(Packet::default())), Instant(0));
        let value = json(&event);
        assert!(!event.is_retransmission());
        assert_eq!((&value["packet"]["operation"], &value["packet"]["opcode"]), (&"read".into(), &"UNKNOWN".into()));
        for field in ["send_attempts", "acks", "id"] {
            assert!(value["packet"][field].is_null(), "{field}");
        }
    }

    #[test]
    fn a_dropped_packet_says_why() {
        let packet = Packet { opcode_number: Some(31), ..Packet::default() };
        let what = What::Dropped(packet, DropReason::UnknownOpcode);
        let value =
            json(&Event::of_record(&Record { at: Instant(0), generation: 1, stage: Stage::Start, what }, Instant(0)));
        assert_eq!((&value["operation"], &value["reason"]), (&"packet_dropped".into(), &"unknown_opcode".into()));
        assert_eq!(value["packet"]["opcode"], "UNKNOWN_31");
        assert!(value["why"].as_str().is_some_and(|why| why.len() > 20));
    }

    /// One event of each kind.
    fn one_of_each() -> Vec<Event> {
        let record =
            |what| Event::of_record(&Record { at: Instant(0), generation: 1, stage: Stage::Start, what }, Instant(0));
        let plain = |operation, more| Event::plain(operation, Stage::Start, 0.5, 1, more);
        let established = Established {
            generation: 1,
            pushed: controlplane::Pushed { options: vec!["auth-token hidden".into()] },
            cipher: controlplane::Cipher::Aes256Gcm,
            peer_id: None,
            tls: "TLSv1.3".into(),
            peer_subject: "CN=server".into(),
            cc_exit: true,
        };
        let sums = Sums {
            established: true,
            exit_status: 0,
            attempts: 1,
            packets_in: 0,
            packets_out: 0,
            packets_dropped: 0,
            retransmissions: 0,
            not_shown: 0,
            farewell: None,
        };
        let why = || "why".to_owned();
        vec![
            plain(Operation::Start, More::Start { version: "0", started_unix: 1, wrap: "none" }),
            plain(Operation::Resolve, More::Resolve { host: why(), addresses: Vec::new(), why: Some(why()) }),
            plain(Operation::Attempt, More::Attempt { remote: why(), local: why() }),
            record(What::Stage),
            record(What::In(Packet::default())),
            record(What::Out(Packet { send_attempts: 1, ..Packet::default() })),
            record(What::Dropped(Packet::default(), DropReason::BadTag)),
            plain(Operation::Icmp, More::Reason { reason: "refused", why: why() }),
            plain(Operation::Established, More::Established(Box::new(Agreed::new(&established, false, 0.5)))),
            plain(Operation::Failure, More::Failure { reason: "tls", why: why(), exit_status: 5 }),
            plain(Operation::End, More::End(Box::new(sums))),
        ]
    }

    #[test]
    fn every_kind_of_event_has_the_fields_of_its_sample_in_the_documentation() {
        let samples: Vec<serde_json::Value> = include_str!("../../../docs/trace.md")
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let events = one_of_each();
        assert_eq!(samples.len(), events.len());
        let fields = |value: &serde_json::Value| {
            let mut names: Vec<String> = value.as_object().into_iter().flat_map(|o| o.keys().cloned()).collect();
            names.sort();
            names
        };
        for event in events {
            let value = json(&event);
            let sample = samples.iter().find(|sample| sample["operation"] == value["operation"]);
            let sample = sample.unwrap_or_else(|| panic!("{value} is not documented"));
            assert_eq!(fields(&value), fields(sample), "{value}");
            assert_eq!(fields(&value["packet"]), fields(&sample["packet"]), "{value}");
            assert!(!value.to_string().contains("hidden"), "{value}");
        }
    }
}

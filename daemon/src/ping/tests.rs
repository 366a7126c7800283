//! The whole command on a virtual clock, against hosts that lose, double, delay, reorder and spoil what they are asked.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use clap::Parser;
use serde_json::Value;

use super::report::Report;
use super::responder::{self, Answers, Responder};
use super::session::Session;
use super::wire::Wire;
use crate::cli::{Cli, Command};
use crate::exit::{Exit, Fatal};
use crate::{Inner4, Inner6, Parameters, Progress, Stage};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn parameters() -> Parameters {
    let gateway = Some(Ipv4Addr::new(10, 8, 0, 1));
    Parameters {
        ipv4: Some(Inner4 { address: Ipv4Addr::new(10, 8, 0, 2), prefix: 24, gateway }),
        ipv6: Some(Inner6 { address: "fd00::2".parse().unwrap(), prefix: 64 }),
        mtu: 1_500,
        dns: Vec::new(),
        routes: Vec::new(),
        redirect: false,
        remote: "192.0.2.1:1194".parse().unwrap(),
        local: "192.0.2.2:40000".parse().unwrap(),
        peer_id: Some(0),
        cipher: "AES-256-GCM",
        tls: "TLSv1.3".into(),
        server: "CN=server".into(),
        handshake: ms(84),
    }
}

/// One run of the command: what it came to, what it said, and the wire.
struct Ran {
    exit: Result<Exit, Fatal>,
    lines: Vec<String>,
    wire: Responder,
}

impl Ran {
    /// The last line, which is JSON.
    fn summary(&self) -> Value {
        serde_json::from_str(self.lines.last().unwrap()).unwrap()
    }

    fn count(&self, words: &str) -> usize {
        self.lines.iter().filter(|line| line.contains(words)).count()
    }
}

fn run_in(tunnel: &Parameters, words: &str, mut wire: Responder) -> Ran {
    let words = ["minivpn", "ping", "x.ovpn"].into_iter().chain(words.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap();
    let Command::Ping(options) = cli.command else { unreachable!("{:?}", cli.command) };
    let report = Report { json: options.json, quiet: cli.quiet, size: options.size, timeout: options.timeout };
    let mut lines = Vec::new();
    let mut say = |line: &str| lines.push(line.to_owned());
    let mut session = Session { options: &options, report, tunnel, say: &mut say };
    // What never has to wait is ready at once.
    let exit = match pin!(session.run(&mut wire)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(exit) => exit,
        Poll::Pending => panic!("it waits"),
    };
    Ran { exit, lines, wire }
}

fn run(words: &str, answer: impl FnMut(&[u8]) -> Answers + 'static) -> Ran {
    run_in(&parameters(), words, Responder::new(answer))
}

/// Where a request goes, and its number.
fn request(packet: &[u8]) -> (IpAddr, u16) {
    let (to, at): (IpAddr, usize) = match packet[0] >> 4 {
        4 => (<[u8; 4]>::try_from(&packet[16..20]).unwrap().into(), 26),
        _ => (<[u8; 16]>::try_from(&packet[24..40]).unwrap().into(), 46),
    };
    (to, u16::from_be_bytes([packet[at], packet[at + 1]]))
}

fn after(delay: u64, packet: &[u8]) -> (Duration, Vec<u8>) {
    (ms(delay), responder::reply(packet).unwrap())
}

#[test]
fn several_hosts_of_both_families_are_pinged_at_once() {
    let mut ran = run("-c 3 --json 10.8.0.1 fd00::1", |packet| {
        let (to, number) = request(packet);
        vec![after(if to.is_ipv4() { 10 * u64::from(number) } else { 40 }, packet)]
    });
    assert_eq!(ran.exit, Ok(Exit::Ok));
    let sent: Vec<_> = ran.wire.sent.iter().map(|(at, packet)| (at.as_millis(), request(packet).1)).collect();
    assert_eq!(sent, [(0, 1), (0, 1), (1_000, 2), (1_000, 2), (2_000, 3), (2_000, 3)]);
    let summary = ran.summary();
    let [v4, v6] = [&summary["hosts"][0], &summary["hosts"][1]];
    for host in [v4, v6] {
        assert_eq!((&host["sent"], &host["received"], &host["loss_percent"]), (&3.into(), &3.into(), &0.0.into()));
    }
    assert_eq!(v4["rtt_ms"], serde_json::json!({ "min": 10.0, "avg": 20.0, "max": 30.0, "stddev": 8.165 }));
    assert_eq!(v6["rtt_ms"], serde_json::json!({ "min": 40.0, "avg": 40.0, "max": 40.0, "stddev": 0.0 }));
    assert_eq!((summary["handshake_ms"].as_f64(), summary["seconds"].as_f64()), (Some(84.0), Some(2.04)));
    for line in ran.lines.drain(..) {
        assert!(serde_json::from_str::<Value>(&line).unwrap()["event"].is_string(), "{line}");
    }
}

#[test]
fn what_is_never_answered_ends_all_the_same() {
    let ran = run("-c 2 -W 1.5 10.8.0.1", |_| Vec::new());
    assert_eq!(ran.exit, Ok(Exit::Other));
    assert_eq!(ran.wire.now(), ms(2_500), "one interval and the time of the last request");
    assert_eq!(ran.count("no answer from 10.8.0.1: icmp_seq="), 2);
    assert_eq!(ran.count("2 packets transmitted, 0 received, 100% packet loss"), 1);
    assert_eq!(ran.count("rtt min"), 0);
}

#[test]
fn replies_that_are_lost_doubled_late_reordered_and_spoiled_are_told_apart() {
    let ran = run("-c 7 -W 2 -i 1 --json 10.8.0.1", |packet| match request(packet).1 {
        1 => vec![after(10, packet), after(11, packet), after(12, packet)],
        2 => vec![after(1_500, packet)],
        3 => vec![after(10, packet)],
        4 => Vec::new(),
        5 => vec![after(2_500, packet)],
        6 => {
            let mut changed = packet.to_vec();
            changed[50] ^= 1;
            vec![after(10, &changed), after(20, &responder::shortened(packet, 8))]
        }
        _ => vec![after(10, packet)],
    });
    assert_eq!(ran.exit, Ok(Exit::Ok));
    let summary = ran.summary();
    let host = &summary["hosts"][0];
    for (what, count) in [
        ("sent", 7),
        ("received", 4),
        ("duplicates", 2),
        ("out_of_order", 1),
        ("late", 1),
        ("corrupt", 1),
        ("truncated", 1),
        ("errors", 0),
    ] {
        assert_eq!(host[what], count, "{what}: {host}");
    }
    assert_eq!(host["loss_percent"], 42.857);
    assert_eq!(host["rtt_ms"]["max"], 1_500.0, "what was late is no round trip");
    let events = |what: &str| ran.count(&format!("\"event\":\"{what}\""));
    assert_eq!((events("reply"), events("lost"), events("spoiled")), (7, 3, 2));
}

#[test]
fn a_deadline_ends_it_whatever_is_under_way() {
    let ran = run("-w 2.5 10.8.0.1", |packet| vec![after(700, packet)]);
    assert_eq!((ran.exit.clone(), ran.wire.now(), ran.wire.sent.len()), (Ok(Exit::Ok), ms(2_500), 3));
    assert_eq!(ran.count("3 packets transmitted, 2 received, 33.3% packet loss, time 2500ms"), 1);
    let early = run("-w 2.5 -c 1 10.8.0.1", |packet| vec![after(7, packet)]);
    assert_eq!(early.wire.now(), ms(7), "the last answer ends it before");
}

#[test]
fn one_silent_host_of_two_is_exit_code_1() {
    let answer = |packet: &[u8]| if request(packet).0.is_ipv4() { vec![after(1, packet)] } else { Vec::new() };
    assert_eq!(run("-c 2 10.8.0.1 fd00::1", answer).exit, Ok(Exit::Other));
    assert_eq!(run("-c 2 10.8.0.1", answer).exit, Ok(Exit::Ok));
    let once = |packet: &[u8]| if request(packet).1 == 1 { vec![after(1, packet)] } else { Vec::new() };
    assert_eq!(run("-c 5 10.8.0.1 fd00::1", once).exit, Ok(Exit::Ok), "once is enough");
}

#[test]
fn an_interrupt_ends_it_with_the_summary() {
    for (answers, exit) in [(true, Exit::Ok), (false, Exit::Other)] {
        let mut wire = Responder::new(move |packet| if answers { vec![after(5, packet)] } else { Vec::new() });
        wire.interrupt = Some(ms(3_100));
        let ran = run_in(&parameters(), "10.8.0.1", wire);
        assert_eq!((ran.exit.clone(), ran.wire.now()), (Ok(exit), ms(3_100)));
        assert_eq!(ran.count("4 packets transmitted"), 1);
    }
}

#[test]
fn the_end_of_the_tunnel_is_an_error_after_the_summary() {
    let mut wire = Responder::new(|packet| vec![after(5, packet)]);
    wire.end = Some(ms(1_500));
    let ran = run_in(&parameters(), "10.8.0.1", wire);
    assert_eq!(ran.exit.clone().unwrap_err().exit, Exit::Unreachable);
    assert_eq!(ran.count("2 packets transmitted, 2 received"), 1);
}

#[test]
fn without_a_host_the_gateway_is_pinged() {
    let ran = run("-c 1", |packet| vec![after(1, packet)]);
    assert_eq!((ran.exit.clone(), request(&ran.wire.sent[0].1).0), (Ok(Exit::Ok), [10, 8, 0, 1].into()));
    assert!(
        ran.lines[0]
            .starts_with("connected to 192.0.2.1:1194 in 84.0 ms (TLSv1.3, AES-256-GCM): we are 10.8.0.2 and fd00::2")
    );
    assert_eq!(ran.lines[1], "PING 10.8.0.1 (10.8.0.1): 56 (84) bytes of data");
    assert_eq!(ran.lines[2], "64 bytes from 10.8.0.1: icmp_seq=1 ttl=64 time=1.00 ms");
    let unknown = Parameters { ipv4: None, ..parameters() };
    let fatal = run_in(&unknown, "-c 1", Responder::new(|_| Vec::new())).exit.unwrap_err();
    assert!(fatal.exit == Exit::Config && fatal.sentence.contains("name a host"), "{fatal}");
}

#[test]
fn a_request_that_does_not_fit_into_the_tunnel_is_refused_before_anything_is_sent() {
    for (words, most) in [("-s 1473 10.8.0.1", 1_472), ("-s 1453 10.8.0.1 fd00::1", 1_452)] {
        let ran = run(words, |_| Vec::new());
        let fatal = ran.exit.unwrap_err();
        assert!(fatal.exit == Exit::Config && fatal.sentence.contains(&format!("at most -s {most}")), "{fatal}");
        assert!(ran.wire.sent.is_empty());
    }
    let ran = run("-c 1 -s 1472 10.8.0.1", |packet| vec![after(1, packet)]);
    assert_eq!((ran.exit.clone(), ran.wire.sent[0].1.len()), (Ok(Exit::Ok), 1_500));
}

#[test]
fn who_cannot_be_pinged_is_left_out_and_the_rest_is_pinged() {
    let only_v4 = Parameters { ipv6: None, ..parameters() };
    for (words, why) in [
        ("-c 1 fd00::1 10.8.0.1", "the server gave us no IPv6 address"),
        ("-c 1 -n host.example 10.8.0.1", "-n says to resolve nothing"),
        ("-c 1 host.example 10.8.0.1", "--resolve-outside"),
    ] {
        let ran = run_in(&only_v4, words, Responder::new(|packet| vec![after(1, packet)]));
        assert_eq!((ran.exit.clone(), ran.count(why)), (Ok(Exit::Other), 1), "{words}");
        assert_eq!(ran.count("1 packets transmitted, 1 received"), 1);
    }
}

#[test]
fn an_error_settles_a_request_at_once() {
    let ran = run("-c 1 -t 1 10.9.0.1", |packet| {
        assert_eq!(packet[8], 1, "the hop limit");
        vec![(ms(3), responder::error(packet, "10.8.0.1".parse().unwrap(), 11, 0, 0))]
    });
    assert_eq!((ran.exit.clone(), ran.wire.now()), (Ok(Exit::Other), ms(3)));
    assert_eq!(ran.count("From 10.8.0.1: icmp_seq=1 to 10.9.0.1: time-to-live exceeded in transit"), 1);
    assert_eq!(ran.count("1 packets transmitted, 0 received, +1 errors, 100% packet loss"), 1);
}

#[test]
fn strange_packets_do_no_harm() {
    let ran = run("-c 3 10.8.0.1", |packet| {
        let mut answers: Answers = (0..200).map(|n| (ms(1), vec![0x45; n])).collect();
        answers.push((ms(1), packet.to_vec()));
        answers.push(after(2, packet));
        answers
    });
    assert_eq!(ran.exit, Ok(Exit::Ok));
    assert_eq!(ran.count("3 packets transmitted, 3 received, 0% packet loss"), 1);
}

#[test]
fn quiet_is_the_beginning_and_the_end() {
    let loud = run("-c 2 10.8.0.1", |packet| vec![after(1, packet)]);
    let quiet = run("-q -c 2 10.8.0.1", |packet| vec![after(1, packet)]);
    assert_eq!((loud.lines.len(), quiet.lines.len()), (5, 3));
    assert_eq!(quiet.lines.last(), loud.lines.last());
}

#[test]
fn silence_is_told_once_and_not_to_who_wants_quiet() {
    let sentence = "no answer from 192.0.2.1:1194 to 4 resets: check it".to_owned();
    let remote = ([192, 0, 2, 1], 1194).into();
    let progress = Progress::Unanswered { remote, resets: 4, waited: ms(5_000), sentence: sentence.clone() };
    let text = Report { json: false, quiet: false, size: 56, timeout: ms(2_000) };
    assert_eq!(text.unanswered(&progress), Some(sentence));
    assert_eq!(text.unanswered(&Progress::Stage(Stage::Wait)), None);
    for json in [false, true] {
        assert_eq!(Report { json, quiet: true, ..text }.unanswered(&progress), None);
    }
}

#[test]
fn no_payload_is_a_ping_too() {
    let ran = run("-c 1 -s 0 10.8.0.1", |packet| vec![after(1, packet)]);
    assert_eq!((ran.exit.clone(), ran.count("8 bytes from 10.8.0.1")), (Ok(Exit::Ok), 1));
}

/// The fields of an object, and of the objects in it.
fn fields(value: &Value) -> Vec<String> {
    let inner = |(key, value): (&String, &Value)| {
        let first = if let Some(list) = value.as_array() { list.first() } else { Some(value) };
        let more = first.filter(|value| value.is_object()).map(fields).unwrap_or_default();
        [vec![key.clone()], more.iter().map(|field| format!("{key}.{field}")).collect()].concat()
    };
    let mut fields: Vec<String> = value.as_object().unwrap().iter().flat_map(inner).collect();
    fields.sort();
    fields
}

#[test]
fn the_manual_page_shows_every_event_with_the_fields_that_it_has() {
    let page = include_str!("../../../docs/ping.md");
    let samples = page.lines().filter(|line| line.starts_with('{'));
    let samples: Vec<Value> = samples.map(|line| serde_json::from_str(line).unwrap()).collect();
    let ran = run("-c 4 -W 1 --json gone.example 10.8.0.1", |packet| match request(packet).1 {
        1 => vec![after(10, packet)],
        2 => vec![(ms(3), responder::error(packet, [10, 8, 0, 1].into(), 3, 1, 0))],
        3 => vec![after(1, &responder::shortened(packet, 4))],
        _ => Vec::new(),
    });
    let said: Vec<Value> = ran.lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["connected", "skipped", "host", "reply", "lost", "error", "spoiled", "summary"] {
        let of = |all: &[Value]| all.iter().find(|value| value["event"] == event).map(fields);
        assert!(of(&said).is_some(), "{event}");
        // The first host of the summary is the one that was pinged.
        assert_eq!(of(&samples), of(&said), "{event}");
    }
    let progress = Progress::Unanswered {
        remote: ([192, 0, 2, 1], 1194).into(),
        resets: 4,
        waited: ms(5_000),
        sentence: "no answer".to_owned(),
    };
    let report = Report { json: true, quiet: false, size: 56, timeout: ms(2_000) };
    let unanswered: Value = serde_json::from_str(&report.unanswered(&progress).unwrap()).unwrap();
    let sample = samples.iter().find(|value| value["event"] == "unanswered").unwrap();
    assert_eq!(fields(sample), fields(&unanswered));
    assert_eq!(samples.len(), 10, "these, and `failed`");
}

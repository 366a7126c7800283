//! What is said: the lines of ping(8), or JSON, an object a line. Where they go is somebody else's affair.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::echo;
use super::host::{Arrival, Counts, Host, News};
use super::round_trips::{Summary, milliseconds};
use crate::{Parameters, Progress};

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// As JSON.
    pub json: bool,
    /// Only the beginning and the end.
    pub quiet: bool,
    /// Bytes of payload in a request.
    pub size: u16,
    /// After this a request without an answer is lost.
    pub timeout: Duration,
}

/// A host that could not be pinged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    /// As the user wrote it.
    pub name: String,
    /// Why.
    pub why: String,
}

impl Report {
    /// The tunnel is up.
    pub(super) fn connected(&self, tunnel: &Parameters) -> String {
        let ours = [tunnel.ipv4.map(|v4| v4.address.to_string()), tunnel.ipv6.map(|v6| v6.address.to_string())];
        let ours: Vec<String> = ours.into_iter().flatten().collect();
        if self.json {
            return json!({
                "event": "connected", "handshake_ms": micro(milliseconds(tunnel.handshake)), "remote": tunnel.remote.to_string(),
                "tls": tunnel.tls, "cipher": tunnel.cipher, "mtu": tunnel.mtu, "addresses": ours,
                "dns": tunnel.dns.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
            })
            .to_string();
        }
        let handshake = short(milliseconds(tunnel.handshake));
        let (remote, tls, cipher, mtu) = (tunnel.remote, &tunnel.tls, tunnel.cipher, tunnel.mtu);
        format!("connected to {remote} in {handshake} ms ({tls}, {cipher}): we are {}, MTU {mtu}", ours.join(" and "))
    }

    /// The tunnel is not up yet: nobody answers. `None` when it is not to be said.
    pub(super) fn unanswered(&self, progress: &Progress) -> Option<String> {
        let Progress::Unanswered { remote, resets, waited, sentence } = progress else { return None };
        if self.quiet {
            return None;
        }
        Some(match self.json {
            true => json!({
                "event": "unanswered", "remote": remote.to_string(), "resets": resets,
                "seconds": micro(waited.as_secs_f64()), "why": sentence,
            })
            .to_string(),
            false => sentence.clone(),
        })
    }

    /// Pinging begins; one line for each host.
    pub(super) fn host(&self, host: &Host) -> String {
        let (name, address, size) = (&host.name, host.address, self.size);
        if self.json {
            return json!({ "event": "host", "host": name, "address": address.to_string(), "size": size }).to_string();
        }
        let whole = usize::from(size) + echo::headers(address);
        format!("PING {name} ({address}): {size} ({whole}) bytes of data")
    }

    /// A host is left out.
    pub(super) fn skipped(&self, skipped: &Skipped) -> String {
        let Skipped { name, why } = skipped;
        if self.json {
            return json!({ "event": "skipped", "host": name, "why": why }).to_string();
        }
        format!("{name} is left out: {why}")
    }

    /// Something happened; `None` when it is not to be said.
    pub(super) fn news(&self, at: Duration, host: &Host, news: &News) -> Option<String> {
        if self.quiet {
            return None;
        }
        Some(if self.json { self.news_json(at, host, news).to_string() } else { self.news_text(host, news) })
    }

    fn news_text(&self, host: &Host, news: &News) -> String {
        let peer = |from: &IpAddr| match host.name == from.to_string() {
            true => host.name.clone(),
            false => format!("{} ({from})", host.name),
        };
        match news {
            News::Reply { from, number, bytes, hop_limit, round_trip, order } => {
                let note = match order {
                    Arrival::InOrder => "",
                    Arrival::OutOfOrder => " (out of order)",
                    Arrival::Duplicate => " (DUP!)",
                    Arrival::Late => " (too late)",
                };
                let (peer, time) = (peer(from), short(milliseconds(*round_trip)));
                format!("{bytes} bytes from {peer}: icmp_seq={number} ttl={hop_limit} time={time} ms{note}")
            }
            News::Spoiled { from, number, bytes, what } => {
                format!("{bytes} bytes from {}: icmp_seq={number} ({what})", peer(from))
            }
            News::Error { from, number, what } => format!("From {from}: icmp_seq={number} to {}: {what}", host.name),
            News::Lost { number } => {
                let within = short(milliseconds(self.timeout));
                format!("no answer from {}: icmp_seq={number} within {within} ms", host.name)
            }
        }
    }

    fn news_json(&self, at: Duration, host: &Host, news: &News) -> Value {
        let mut line = match news {
            News::Reply { from, number, bytes, hop_limit, round_trip, order } => json!({
                "event": "reply", "from": from.to_string(), "seq": number, "bytes": bytes, "ttl": hop_limit,
                "rtt_ms": micro(milliseconds(*round_trip)), "duplicate": *order == Arrival::Duplicate,
                "out_of_order": *order == Arrival::OutOfOrder, "late": *order == Arrival::Late,
            }),
            News::Spoiled { from, number, bytes, what } => {
                json!({ "event": "spoiled", "from": from.to_string(), "seq": number, "bytes": bytes, "what": what })
            }
            News::Error { from, number, what } => {
                json!({ "event": "error", "from": from.to_string(), "seq": number, "what": what })
            }
            News::Lost { number } => json!({ "event": "lost", "seq": number }),
        };
        line["t"] = json!(micro(at.as_secs_f64()));
        line["host"] = json!(host.name);
        line
    }

    /// All of it, at the end.
    pub(super) fn summary(&self, took: Duration, handshake: Duration, hosts: &[Host], skipped: &[Skipped]) -> String {
        if self.json {
            let mut all: Vec<Value> = hosts.iter().map(host_json).collect();
            all.extend(
                skipped
                    .iter()
                    .map(|skipped| json!({ "host": skipped.name, "why": skipped.why, "sent": 0, "received": 0 })),
            );
            let handshake = micro(milliseconds(handshake));
            let summary = json!({ "event": "summary", "handshake_ms": handshake, "seconds": micro(took.as_secs_f64()), "hosts": all });
            return summary.to_string();
        }
        let each = hosts.iter().map(|host| host_text(host, took));
        each.collect::<Vec<_>>().join("\n")
    }
}

fn host_text(host: &Host, took: Duration) -> String {
    let Counts { sent, received, .. } = host.counts;
    let more: String = others(&host.counts)
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(what, count)| format!(", +{count} {}", what.replace('_', " ")))
        .collect();
    let (loss, time) = (percent(host.counts.loss_percent()), took.as_millis());
    let mut text = format!(
        "\n--- {} ping statistics ---\n{sent} packets transmitted, {received} received{more}, {loss}% packet loss, time {time}ms",
        host.name
    );
    if let Some(Summary { min, avg, max, stddev }) = host.round_trips() {
        text += &format!("\nrtt min/avg/max/stddev = {min:.3}/{avg:.3}/{max:.3}/{stddev:.3} ms");
    }
    text
}

fn host_json(host: &Host) -> Value {
    let mut line = json!({
        "host": host.name, "address": host.address.to_string(), "sent": host.counts.sent, "received": host.counts.received,
        "loss_percent": micro(host.counts.loss_percent()), "rtt_ms": null,
    });
    for (what, count) in others(&host.counts) {
        line[what] = json!(count);
    }
    if let Some(Summary { min, avg, max, stddev }) = host.round_trips() {
        line["rtt_ms"] = json!({ "min": micro(min), "avg": micro(avg), "max": micro(max), "stddev": micro(stddev) });
    }
    line
}

/// The counts that are seldom anything but zero.
fn others(counts: &Counts) -> [(&'static str, u64); 6] {
    [
        ("duplicates", counts.duplicates),
        ("out_of_order", counts.out_of_order),
        ("late", counts.late),
        ("truncated", counts.truncated),
        ("corrupt", counts.corrupt),
        ("errors", counts.errors),
    ]
}

/// Milliseconds as ping(8) writes them: three digits that say something.
fn short(ms: f64) -> String {
    match ms {
        _ if ms < 1.0 => format!("{ms:.3}"),
        _ if ms < 10.0 => format!("{ms:.2}"),
        _ if ms < 100.0 => format!("{ms:.1}"),
        _ => format!("{ms:.0}"),
    }
}

/// A percentage without zeros that say nothing.
fn percent(value: f64) -> String {
    format!("{value:.1}").trim_end_matches(".0").to_owned()
}

/// Three digits behind the point are enough: a thousandth of a millisecond.
fn micro(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::super::echo::{Reply, State};
    use super::super::responder;
    use super::*;

    const TEXT: Report = Report { json: false, quiet: false, size: 56, timeout: Duration::from_secs(2) };
    const JSON: Report = Report { json: true, ..TEXT };

    fn host(name: &str) -> Host {
        Host::new(name.into(), "10.8.0.2".parse().unwrap(), "10.8.0.1".parse().unwrap(), 7)
    }

    fn reply(order: Arrival) -> News {
        let from = "10.8.0.1".parse().unwrap();
        News::Reply { from, number: 3, bytes: 64, hop_limit: 63, round_trip: Duration::from_micros(12_345), order }
    }

    fn said(report: &Report, name: &str, news: &News) -> String {
        report.news(Duration::from_millis(1_500), &host(name), news).unwrap()
    }

    #[test]
    fn lines_are_those_of_ping() {
        let table = [
            (reply(Arrival::InOrder), "64 bytes from 10.8.0.1: icmp_seq=3 ttl=63 time=12.3 ms"),
            (reply(Arrival::Duplicate), "64 bytes from 10.8.0.1: icmp_seq=3 ttl=63 time=12.3 ms (DUP!)"),
            (reply(Arrival::OutOfOrder), "64 bytes from 10.8.0.1: icmp_seq=3 ttl=63 time=12.3 ms (out of order)"),
            (reply(Arrival::Late), "64 bytes from 10.8.0.1: icmp_seq=3 ttl=63 time=12.3 ms (too late)"),
            (News::Lost { number: 4 }, "no answer from 10.8.0.1: icmp_seq=4 within 2.00 ms"),
            (
                News::Error {
                    from: "10.9.9.9".parse().unwrap(),
                    number: 5,
                    what: "destination host unreachable".into(),
                },
                "From 10.9.9.9: icmp_seq=5 to 10.8.0.1: destination host unreachable",
            ),
            (
                News::Spoiled { from: "10.8.0.1".parse().unwrap(), number: 6, bytes: 60, what: "truncated" },
                "60 bytes from 10.8.0.1: icmp_seq=6 (truncated)",
            ),
        ];
        let report = Report { timeout: Duration::from_millis(2), ..TEXT };
        for (news, line) in table {
            assert_eq!(said(&report, "10.8.0.1", &news), line);
            assert_eq!(Report { quiet: true, ..report }.news(Duration::ZERO, &host("h"), &news), None);
        }
        assert!(said(&TEXT, "gate", &reply(Arrival::InOrder)).starts_with("64 bytes from gate (10.8.0.1): "));
        assert_eq!(TEXT.host(&host("gate")), "PING gate (10.8.0.1): 56 (84) bytes of data");
    }

    #[test]
    fn every_event_is_an_object_with_its_fields() {
        let line = |news: &News| serde_json::from_str::<Value>(&said(&JSON, "gate", news)).unwrap();
        let found = line(&reply(Arrival::OutOfOrder));
        let expected = json!({
            "event": "reply", "t": 1.5, "host": "gate", "from": "10.8.0.1", "seq": 3, "bytes": 64, "ttl": 63, "rtt_ms": 12.345,
            "duplicate": false, "out_of_order": true, "late": false,
        });
        assert_eq!(found, expected);
        assert_eq!(line(&reply(Arrival::Duplicate))["duplicate"], true);
        assert_eq!(line(&reply(Arrival::Late))["late"], true);
        assert_eq!(line(&News::Lost { number: 4 }), json!({ "event": "lost", "t": 1.5, "host": "gate", "seq": 4 }));
        let error = News::Error { from: "10.9.9.9".parse().unwrap(), number: 5, what: "x".into() };
        let expected = json!({ "event": "error", "t": 1.5, "host": "gate", "from": "10.9.9.9", "seq": 5, "what": "x" });
        assert_eq!(line(&error), expected);
        let skipped = Skipped { name: "n\"".into(), why: "w".into() };
        let found: Value = serde_json::from_str(&JSON.skipped(&skipped)).unwrap();
        assert_eq!(found, json!({ "event": "skipped", "host": "n\"", "why": "w" }));
    }

    /// Two requests, one answer after 20 ms, and a duplicate.
    fn half_answered() -> Host {
        let mut host = host("gate");
        let request = host.request(Duration::ZERO, 56, 64).unwrap();
        host.request(Duration::ZERO, 56, 64).unwrap();
        let bytes = responder::reply(&request).unwrap();
        for _ in 0..2 {
            let echo::Incoming::Reply(reply) = echo::read(&bytes) else { panic!() };
            assert_eq!(reply, Reply { state: State::Sound, ..reply.clone() });
            host.on_reply(Duration::from_millis(20), &reply, 56);
        }
        host
    }

    #[test]
    fn the_summary_is_that_of_ping() {
        let hosts = [half_answered(), host("10.8.0.1")];
        let text = TEXT.summary(Duration::from_millis(1_004), Duration::ZERO, &hosts, &[]);
        let expected = "\n--- gate ping statistics ---\n2 packets transmitted, 1 received, +1 duplicates, 50% packet loss, time 1004ms\n\
                        rtt min/avg/max/stddev = 20.000/20.000/20.000/0.000 ms\n\
                        \n--- 10.8.0.1 ping statistics ---\n0 packets transmitted, 0 received, 0% packet loss, time 1004ms";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_summary_is_one_object_with_everything() {
        let skipped = [Skipped { name: "n".into(), why: "w".into() }];
        let took = Duration::from_millis(1_004);
        let text = JSON.summary(took, Duration::from_micros(84_250), &[half_answered(), host("h")], &skipped);
        let found: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&found["event"], &found["handshake_ms"], &found["seconds"]),
            (&json!("summary"), &json!(84.25), &json!(1.004))
        );
        let expected = json!({
            "host": "gate", "address": "10.8.0.1", "sent": 2, "received": 1, "loss_percent": 50.0, "duplicates": 1, "out_of_order": 0,
            "late": 0, "truncated": 0, "corrupt": 0, "errors": 0,
            "rtt_ms": { "min": 20.0, "avg": 20.0, "max": 20.0, "stddev": 0.0 },
        });
        assert_eq!(found["hosts"][0], expected);
        assert_eq!(found["hosts"][1]["rtt_ms"], Value::Null);
        assert_eq!(found["hosts"][2], json!({ "host": "n", "why": "w", "sent": 0, "received": 0 }));
    }

    #[test]
    fn numbers_have_the_digits_that_say_something() {
        for (ms, text) in [(0.0514, "0.051"), (0.9999, "1.000"), (1.236, "1.24"), (12.36, "12.4"), (123.6, "124")] {
            assert_eq!(short(ms), text);
        }
        for (value, text) in [(0.0, "0"), (33.333, "33.3"), (99.96, "100"), (100.0, "100")] {
            assert_eq!(percent(value), text);
        }
    }
}

//! `minivpn ping` against a stock server, as a user without any privilege: who answers, what is lost, what is said, how it ends.

#![allow(clippy::unwrap_used)] // a test may panic

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::netns::{INNER4, Net, SERVER4};
use tests::ours::tun_names;
use tests::pki::Authority;
use tests::process::{Process, until};
use tests::setup::{Family, Setup, Wrap};
use tests::stock::Server;
use tests::temp::Temp;
use tests::unprivileged;

/// Longer than any run here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// One run of the command: exit code, and what it said.
struct Ran {
    code: Option<i32>,
    text: String,
}

impl Ran {
    /// Every JSON line.
    fn events(&self) -> Vec<Value> {
        let lines = self.text.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The host of this name in the summary, which is the last line.
    fn host(&self, name: &str) -> Value {
        let summary = self.events().pop().unwrap_or_else(|| panic!("no JSON in\n{}", self.text));
        assert_eq!(summary["event"], "summary", "{}", self.text);
        let hosts = summary["hosts"].as_array().unwrap();
        hosts.iter().find(|host| host["host"] == name).unwrap_or_else(|| panic!("no {name} in\n{}", self.text)).clone()
    }
}

/// Starts it as nobody.
fn start(net: &Net, temp: &Temp, profile: &str, words: &[&str]) -> Process {
    let file = temp.write("ping.ovpn", profile).display().to_string();
    let words = [&["--log-level", "warn", "ping", &file], words].concat();
    Process::start("minivpn ping", unprivileged::command(&net.client, temp, &words), &temp.path().join("ping.log"))
}

/// Runs it to its end.
fn ping(net: &Net, setup: &Setup, words: &[&str]) -> Ran {
    let temp = Temp::new();
    let mut process = start(net, &temp, &setup.profile(), words);
    let code = process.wait_exit(LIMIT);
    let text = process.log();
    println!("{words:?}: {code:?}\n{text}");
    assert!(!text.contains("panicked"));
    Ran { code, text }
}

#[test]
fn nobody_pings_several_hosts_of_both_families_and_leaves_no_trace() {
    for family in [Family::V4, Family::V6] {
        let (net, temp) = (Net::new(), Temp::new());
        let mut setup = Setup::new().family(family);
        setup.wrap = Wrap::TlsCrypt;
        let mut server = Server::start(&net, &temp, &setup);
        let before = net.client.snapshot();
        let ran = ping(&net, &setup, &["-c", "5", "-i", "0.2", "10.8.0.1", "fd08::1", "10.71.2.2"]);
        assert_eq!(ran.code, Some(0));
        assert!(ran.text.starts_with("connected to "), "the handshake's time comes first");
        assert_eq!(ran.text.matches("64 bytes from 10.8.0.1: icmp_seq=").count(), 5);
        assert_eq!(ran.text.matches("64 bytes from fd08::1: icmp_seq=").count(), 5);
        assert_eq!(ran.text.matches("5 packets transmitted, 5 received, 0% packet loss").count(), 3);
        assert_eq!(ran.text.matches("rtt min/avg/max/stddev = ").count(), 3);
        assert!(server.saw_exit(Duration::from_secs(10)), "the server was told");
        assert_eq!((net.client.snapshot(), tun_names(&net)), (before, Vec::new()));
    }
}

#[test]
fn without_a_privilege_connect_fails_and_ping_does_not() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    let file = temp.write("client.ovpn", &setup.profile()).display().to_string();
    let mut connect = unprivileged::command(&net.client, &temp, &["connect", &file]);
    let code = connect.stdin(Stdio::null()).output().unwrap().status.code();
    assert_eq!(code, Some(6), "so nobody really has no privilege");
    assert_eq!(ping(&net, &setup, &["-c", "1"]).code, Some(0), "of the gateway, when no host is named");
}

#[test]
fn json_is_an_object_a_line_and_jq_reads_it() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    let ran = ping(&net, &setup, &["--json", "-c", "4", "-i", "0.1", "10.8.0.1", "fd08::1"]);
    assert_eq!(ran.code, Some(0));
    let events = ran.events();
    assert_eq!(events.len(), ran.text.lines().count(), "nothing but JSON:\n{}", ran.text);
    assert_eq!((&events[0]["event"], &events[0]["cipher"]), (&"connected".into(), &"AES-256-GCM".into()));
    assert!(events[0]["handshake_ms"].as_f64().unwrap() > 0.0);
    for name in ["10.8.0.1", "fd08::1"] {
        let replies: Vec<_> = events.iter().filter(|e| e["event"] == "reply" && e["host"] == name).collect();
        let numbers: Vec<_> = replies.iter().map(|reply| reply["seq"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let host = ran.host(name);
        assert_eq!((&host["sent"], &host["received"], &host["loss_percent"]), (&4.into(), &4.into(), &0.0.into()));
        let times = replies.iter().map(|reply| reply["rtt_ms"].as_f64().unwrap());
        assert_eq!(host["rtt_ms"]["max"].as_f64(), times.reduce(f64::max));
    }
    let file = temp.write("events.json", &ran.text).display().to_string();
    let read = net.client.run(&format!("jq -r .event {file}"));
    assert_eq!(read.lines().count(), events.len());
}

#[test]
fn what_is_lost_on_the_way_is_counted_and_ends_nothing() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    // Every second request to the one, every request to the other.
    net.server.nft("add rule ip t input icmp type echo-request numgen inc mod 2 == 1 drop");
    net.server.nft("add rule ip6 t input icmpv6 type echo-request drop");
    let ran = ping(&net, &setup, &["--json", "-c", "10", "-i", "0.1", "-W", "0.5", "10.8.0.1", "fd08::1"]);
    assert_eq!(ran.code, Some(1), "one host never answered");
    let (half, none) = (ran.host("10.8.0.1"), ran.host("fd08::1"));
    assert_eq!((&half["sent"], &half["received"], &half["loss_percent"]), (&10.into(), &5.into(), &50.0.into()));
    assert_eq!((&none["sent"], &none["received"], &none["rtt_ms"]), (&10.into(), &0.into(), &Value::Null));
    assert_eq!(ran.events().iter().filter(|event| event["event"] == "lost").count(), 15);
    let ran = ping(&net, &setup, &["-c", "4", "-i", "0.1", "-W", "0.5", "10.8.0.1"]);
    assert_eq!(ran.code, Some(0), "half of the answers are answers");
    assert_eq!(ran.text.matches("no answer from 10.8.0.1: icmp_seq=").count(), 2);
}

#[test]
fn a_deadline_and_an_interrupt_end_what_has_no_count() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let mut server = Server::start(&net, &temp, &setup);
    let ran = ping(&net, &setup, &["-w", "1", "-i", "0.2"]);
    assert_eq!((ran.code, ran.text.matches("ping statistics").count()), (Some(0), 1));
    let mut process = start(&net, &temp, &setup.profile(), &["-i", "0.1", "10.8.0.1"]);
    process.expect_log(&["icmp_seq=3 "], LIMIT);
    process.signal(Signal::INT);
    assert_eq!(process.wait_exit(LIMIT), Some(0), "{}", process.log());
    assert_eq!(process.count("--- 10.8.0.1 ping statistics ---"), 1);
    assert_eq!(process.count("rtt min/avg/max/stddev"), 1);
    let told = server.process.wait_count(&["exit message received by peer", "remote-exit"], 2, Duration::from_secs(10));
    assert!(told, "both times:\n{}", server.process.log());
}

#[test]
fn it_ends_when_nobody_reads_it_any_more() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    let file = temp.write("ping.ovpn", &setup.profile()).display().to_string();
    let mut command = unprivileged::command(&net.client, &temp, &["ping", "-i", "0.1", &file, "10.8.0.1"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("icmp_seq=2 ")));
    drop(lines);
    let mut code = None;
    until(LIMIT, || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    let _ = child.kill();
    assert_eq!(code.and_then(|code| code.code()), Some(0), "as `head` ends it");
}

#[test]
fn errors_of_routers_are_shown() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    net.server.set("net/ipv4/ip_forward", "1");
    net.server.set("net/ipv6/conf/all/forwarding", "1");
    net.server.run("ip route add unreachable 192.0.2.0/24");
    net.server.run("ip -6 route add unreachable 2001:db8::/32");
    let ran = ping(&net, &setup, &["-c", "1", "192.0.2.7", "2001:db8::7"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.text.contains("From 10.8.0.1: icmp_seq=1 to 192.0.2.7: destination host unreachable"));
    assert!(ran.text.contains("From fd08::1: icmp_seq=1 to 2001:db8::7: no route to destination"));
    assert_eq!(ran.text.matches("1 packets transmitted, 0 received, +1 errors, 100% packet loss").count(), 2);
    let ran = ping(&net, &setup, &["-c", "1", "-t", "1", "10.71.2.1"]);
    assert!(ran.text.contains("From 10.8.0.1: icmp_seq=1 to 10.71.2.1: time-to-live exceeded in transit"));
    assert_eq!(ran.code, Some(1));
}

#[test]
fn requests_are_as_long_as_the_tunnel_carries_and_no_longer() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _server = Server::start(&net, &temp, &setup);
    let ran = ping(&net, &setup, &["-c", "2", "-i", "0.1", "-s", "1472", "10.8.0.1"]);
    assert_eq!((ran.code, ran.text.matches("1480 bytes from 10.8.0.1: ").count()), (Some(0), 2));
    let ran = ping(&net, &setup, &["-c", "1", "-s", "1473", "10.8.0.1"]);
    assert!(ran.code == Some(2) && ran.text.contains("at most -s 1472"));
    let ran = ping(&net, &setup, &["-c", "2", "-i", "0.1", "-s", "0", "fd08::1"]);
    assert_eq!((ran.code, ran.text.matches("8 bytes from fd08::1: ").count()), (Some(0), 2));
}

/// A name server that knows one name, and says so for as long as it lives.
struct NameServer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl NameServer {
    /// In the server's namespace, at its address in the tunnel: every name that begins with `here` is that address.
    fn start(net: &Net) -> NameServer {
        let socket = net.server.inside(|| UdpSocket::bind((INNER4, 53)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut question = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut question) {
                    let _ = socket.send_to(&answer(&question[..length]), from);
                }
            }
        });
        NameServer { stop, thread: Some(thread) }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The question again, with an A record behind it (RFC 1035), or NXDOMAIN.
fn answer(question: &[u8]) -> Vec<u8> {
    let known = question[13..].starts_with(b"here");
    let mut bytes = question.to_vec();
    bytes[2..4].copy_from_slice(&if known { [0x81, 0x80] } else { [0x81, 0x83] });
    if known {
        bytes[7] = 1;
        bytes.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        bytes.extend(INNER4.octets());
    }
    bytes
}

#[test]
fn names_are_asked_of_the_servers_in_the_tunnel() {
    let (net, temp) = (Net::new(), Temp::new());
    let setup = Setup::new().server("push \"dhcp-option DNS 10.8.0.1\"");
    let _server = Server::start(&net, &temp, &setup);
    let names = NameServer::start(&net);
    let ran = ping(&net, &setup, &["--json", "-4", "-c", "2", "-i", "0.1", "here.example", "gone.example"]);
    assert_eq!(ran.code, Some(1), "one of them has no address");
    let host = ran.host("here.example");
    assert_eq!((&host["address"], &host["received"]), (&"10.8.0.1".into(), &2.into()));
    assert!(ran.host("gone.example")["why"].as_str().unwrap().contains("there is no such name"));
    assert_eq!(ping(&net, &setup, &["-c", "1", "here.example"]).code, Some(0));
    drop(names);
    let ran = ping(&net, &setup, &["-c", "1", "here.example"]);
    assert!(ran.code == Some(1) && ran.text.contains("no name server answers in the tunnel"), "and never hangs");
}

#[test]
fn without_a_tunnel_the_exit_code_says_why() {
    let root = Authority::new("Another Root");
    let mut wrong_password = Setup::new();
    wrong_password.accepts = Some(("user".into(), "right".into()));
    wrong_password.login = Some(("user".into(), "wrong".into()));
    let stranger = Setup { client_trusts: root.cert, ..Setup::new() };
    let mut nobody_there = Setup::new();
    nobody_there.port = 1195;
    for (setup, code) in [(wrong_password, 3), (stranger, 5), (nobody_there, 4), (Setup::new().client("nonsense"), 2)] {
        let (net, temp) = (Net::new(), Temp::new());
        let _server = Server::start(&net, &temp, &setup);
        let ran = ping(&net, &setup, &["--json", "-c", "1", "--connect-timeout", "5"]);
        assert_eq!(ran.code, Some(code));
        let failed = ran.events().pop().unwrap_or_else(|| panic!("no JSON for {code}"));
        assert_eq!((&failed["event"], &failed["exit"]), (&"failed".into(), &code.into()));
    }
}

#[test]
fn who_gets_no_answer_is_told_why_that_may_be_before_the_time_is_over() {
    let (net, mut setup) = (Net::new(), Setup::new());
    setup.wrap = Wrap::TlsCrypt;
    let silent = net.server.inside(|| UdpSocket::bind((SERVER4, 1194)).unwrap());
    let run = |more: &[&str]| {
        let temp = Temp::new();
        let words = [&["--connect-timeout", "5.5"], more].concat();
        (start(&net, &temp, &setup.profile(), &words), temp)
    };
    let begin = format!("no answer from {SERVER4}:1194 to ");
    let mut runs = [run(&[]), run(&["-q"]), run(&["--json"])];
    let said = runs.each_mut().map(|(process, _)| {
        assert_eq!(process.wait_exit(LIMIT), Some(4));
        process.log()
    });
    let [plain, quiet, json] = &said;
    let told: Vec<&str> = plain.lines().filter(|line| line.contains(&begin)).collect();
    println!("{plain}\n{quiet}\n{json}");
    assert_eq!(told.len(), 2, "once after 5 s, once in the error:\n{plain}");
    assert!(
        told.iter().all(|line| line.contains("resets") && line.contains("the tls-crypt key may differ")),
        "{plain}"
    );
    assert_eq!((quiet.lines().count(), quiet.matches(&begin).count()), (1, 1), "the error alone:\n{quiet}");
    let events: Vec<Value> =
        json.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect();
    let [unanswered, failed] = &events[..] else { panic!("{json}") };
    assert_eq!((&unanswered["event"], &failed["event"]), (&"unanswered".into(), &"failed".into()));
    assert!(unanswered["resets"].as_u64().unwrap() > 1 && unanswered["seconds"].as_f64().unwrap() >= 5.0, "{json}");
    assert!(unanswered["why"].as_str().unwrap().starts_with(&begin), "{json}");
    drop(silent);
}

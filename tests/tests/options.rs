//! What the command line asks of the worker is done and said, and what the worker counted is shown.

use std::net::SocketAddr;
use std::time::Duration;
use tests::netns::{INNER4, Net};
use tests::ours::{Client, Launch, inner_addresses};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

#[test]
fn two_threads_carry_a_direction_each() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new().server("reneg-sec 4 4");
    setup.options = vec!["--split-directions", "--cpu-list", "0-1"];
    let mut server = Server::start(&net, &temp, &setup);
    let mut client = Client::up(&net, &temp, &setup);
    let second = Duration::from_secs(5);
    client.process.expect_log(&["worker-0-seal pinned to CPU 1"], second);
    client.process.expect_log(&["worker-0-open pinned to CPU 0"], second);
    assert!(net.client.until_answered(INNER4.into(), second).is_some(), "no echo");

    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&net.client, here.ip(), &net.server, there, Shape::SMALL);
    let down = Stream::start(&net.server, there.ip(), &net.client, here, Shape::SMALL);
    let thrice = server.process.wait_count(&[tests::stock::NEGOTIATED], 3, Duration::from_secs(20));
    let (up, down) = (up.finish(Duration::from_secs(2)), down.finish(Duration::from_secs(2)));
    assert!(thrice, "two renegotiations did not end well:\n{}", server.process.log());
    assert!(up.complete() && down.complete(), "up {up}, down {down}");
    assert_eq!(server.clients().len(), 1, "the session went on");

    let pid = client.process.pid();
    net.client.attempt(&format!("kill -USR2 {pid}"));
    client.process.expect_log(&["worker 0: engine "], second);
    assert_eq!(client.stop(), Some(0));
}

#[test]
fn options_are_said_and_statistics_shown() {
    let (net, temp, mut setup) = (Net::new(), Temp::new(), Setup::new());
    setup.client_lines.push("mtu-disc yes".into());
    let _server = Server::start(&net, &temp, &setup);
    let options = "exec \"$@\" --cpu-list 0-1 --sched-fifo 2 --busy-poll 40";
    let launch = Launch { wrapper: vec!["sh", "-c", options, "sh"], ..Launch::default() };
    let mut client = Client::launch(&net, &temp, &setup, &setup.profile(), &launch);
    client.expect_up();
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let second = Duration::from_secs(5);
    client.process.expect_log(&["worker-0 pinned to CPU 0, SCHED_FIFO 2, polls for 40 µs before it sleeps"], second);
    client.process.expect_log(&["offloads in use: TUN csum tso4 tso6 uso4 uso6, socket UDP_SEGMENT UDP_GRO"], second);
    client.process.expect_log(&["socket buffers: 16777216 to receive, 16777216 to send, busy polling"], second);
    client.process.expect_log(&["txqueuelen 1000 gso_max_size 61001"], second);

    // The wire's MTU is 1,500 and nothing may be cut: 24 bytes of tunnel, 28 of UDP and IPv4 are left off.
    let out = net.client.attempt(&format!("ping -n -M do -c 1 -W 5 -s 1421 {INNER4}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("Frag needed and DF set (mtu = 1448)"), "{text}");
    let out = net.client.attempt(&format!("ping -n -M do -c 1 -W 5 -s 1420 {INNER4}"));
    assert!(String::from_utf8_lossy(&out.stdout).contains(" 1 received"));

    let pid = client.process.pid();
    net.client.attempt(&format!("kill -USR2 {pid}"));
    client.process.expect_log(&["worker 0: engine "], second);
    client.process.expect_log(&["too long, answered by ICMP 1"], second);
    client.process.expect_log(&["dropped: too_big 1"], second);
    assert_eq!(client.stop(), Some(0));
}

//! What the command line asks of the worker is done and said, and what the worker counted is shown.

use std::time::Duration;
use tests::netns::{INNER4, Net};
use tests::ours::{Client, Launch};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;

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

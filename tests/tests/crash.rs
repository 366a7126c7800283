//! `kill -9` of the control process under traffic, which nobody may notice, and of the supervisor, which the next
//! start has to clean up after.

use rustix::process::Signal;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};
use tests::iperf;
use tests::netns::{INNER4, Net, SERVER4};
use tests::ours::{Client, Launch, inner_addresses, tun_names};
use tests::process::{Process, send, tail, until};
use tests::setup::Setup;
use tests::steady;
use tests::stock::{NEGOTIATED, Server};
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

#[test]
fn a_killed_control_process_costs_no_packet_and_no_session() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let mut server = Server::start(&net, &temp, &setup);
    let client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let before = server.clients();
    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&net.client, here.ip(), &net.server, there, Shape::SMALL);
    let down = Stream::start(&net.server, there.ip(), &net.client, here, Shape::SMALL);

    kill_five_times(&client, &mut server);
    for report in [up, down].map(|stream| stream.finish(Duration::from_secs(2))) {
        println!("{report}");
        assert!(report.complete(), "{report}");
    }
    let after = server.clients();
    let same = |a: &tests::stock::Row, b: &tests::stock::Row| a.id == b.id && a.real_address == b.real_address;
    assert!(after.len() == 1 && same(&before[0], &after[0]), "another session: {before:?}, {after:?}");
}

#[test]
fn a_killed_control_process_costs_iperf_no_datagram() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let mut server = Server::start(&net, &temp, &setup);
    let client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let sink = iperf::server(&net, &temp);
    // A rate that the stock server keeps up with on a busy machine, long enough for the five.
    let mut command = net.client.command("iperf3");
    command.args(["-c", &INNER4.to_string(), "-u", "-b", "50M", "-l", "1300", "-t", "20", "--json"]);
    [&net.client, &net.server].into_iter().for_each(steady::deepen_tuns_of);
    let mut load = Process::start("iperf3", command, &temp.path().join("iperf-client.json"));
    steady::deepen_once_open(sink.pid());
    thread::sleep(Duration::from_secs(1));
    kill_five_times(&client, &mut server);
    assert!(load.running(), "the kills outlasted the load");
    assert_eq!(load.wait_exit(Duration::from_secs(30)), Some(0), "{}", tail(&load.log(), 30));
    let report: serde_json::Value = serde_json::from_str(&load.log()).expect("iperf3 writes JSON");
    let sum = &report["end"]["sum"];
    assert!(sum["packets"].as_u64().is_some_and(|sent| sent > 50_000), "{sum}");
    assert_eq!(sum["lost_packets"].as_i64(), Some(0), "{sum}");
}

/// Five times `kill -9` of the control process, each answered by a renegotiation within 5 s.
fn kill_five_times(client: &Client, server: &mut Server) {
    for round in 1..=5 {
        let pid = client.control_process().expect("the supervisor has a control process");
        let done = server.negotiations();
        let killed = Instant::now();
        send(pid, Signal::KILL);
        let again = server.process.wait_count(&[NEGOTIATED], done + 1, Duration::from_secs(5));
        let log = tail(&client.process.log(), 30);
        assert!(again, "round {round}: no renegotiation within 5 s; the client said:\n{log}");
        println!("round {round}: renegotiated after {:?}", killed.elapsed());
        assert_ne!(client.control_process(), Some(pid));
        thread::sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_killed_supervisor_takes_all_along_or_the_next_start_cleans_up() {
    let (net, temp) = (Net::new(), Temp::new());
    let plain = Setup::new();
    let _server = Server::start(&net, &temp, &plain);
    let before = net.client.snapshot();
    let everything = plain.profile() + "redirect-gateway def1\nroute 10.99.0.0 255.255.0.0\n";
    let mut client = Client::launch(&net, &temp, &plain, &everything, &Launch::default());
    client.expect_up();
    let child = client.control_process().expect("the supervisor has a control process");
    client.process.kill();
    let gone = until(Duration::from_secs(2), || !std::path::Path::new(&format!("/proc/{child}")).exists());
    assert!(gone, "the control process outlived its supervisor");
    assert!(until(Duration::from_secs(3), || tun_names(&net).is_empty()), "the TUN interface is left");

    let mut next = Client::up(&net, &temp, &plain);
    let routes = net.client.run("ip -4 route show");
    assert!(!routes.contains(&SERVER4.to_string()), "the host route to the server is left:\n{routes}");
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(3)).is_some(), "no echo");
    assert_eq!(next.stop(), Some(0));
    assert_eq!(net.client.snapshot(), before, "the host is as before");
}

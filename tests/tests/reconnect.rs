//! What a client meets in a life: servers that die and return, addresses that change, links that go down.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};
use tests::netns::{INNER4, Net, ROUTER4, ROUTER6, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::process::until;
use tests::relay::{Relay, Weather};
use tests::setup::Setup;
use tests::stock::{Server, UP};
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// How soon traffic has to flow once nothing is in its way.
const SOON: Duration = Duration::from_secs(3);

/// Dropped in this order, so that a panic still finds the logs.
struct Tunnel {
    client: Client,
    server: Option<Server>,
    setup: Setup,
    temp: Temp,
    net: Net,
}

impl Tunnel {
    fn up(setup: Setup) -> Self {
        let (net, temp) = (Net::new(), Temp::new());
        let server = Some(Server::start(&net, &temp, &setup));
        let client = Client::up(&net, &temp, &setup);
        let tunnel = Self { net, temp, setup, server, client };
        assert!(tunnel.answered(Duration::from_secs(5)).is_some(), "no echo at the start");
        tunnel
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the server was started")
    }

    /// A stream upwards, so that the client has something to send whatever happens.
    fn stream(&self) -> Stream {
        let (inner, _) = inner_addresses(&self.net);
        let shape = Shape { rate: 50, ..Shape::SMALL };
        Stream::start(&self.net.client, inner.into(), &self.net.server, (INNER4, 7000).into(), shape)
    }

    fn kill_server(&mut self) {
        self.server.as_mut().expect("the server was started").process.kill();
        self.server = None;
    }

    fn start_server(&mut self) {
        self.server = Some(Server::start(&self.net, &self.temp, &self.setup));
    }

    fn answered(&self, limit: Duration) -> Option<Duration> {
        self.net.client.until_answered(INNER4.into(), limit)
    }

    /// Waits for the next echo to be answered, and panics where that takes longer than `limit`.
    fn expect_answer(&mut self, limit: Duration) {
        let took = self.answered(limit * 4 + SOON);
        let log = tests::process::tail(&self.client.process.log(), 30);
        let took = took.unwrap_or_else(|| panic!("traffic never flowed again; the client said:\n{log}"));
        println!("traffic flowed after {took:?}");
        assert!(took <= limit, "traffic flowed only after {took:?}, not {limit:?}; the client said:\n{log}");
        assert!(self.client.process.running());
    }
}

#[test]
fn a_killed_server_that_returns_is_found_again_through_icmp() {
    let pauses = if tests::long() { vec![1, 5, 20] } else { vec![1, 5] };
    let mut tunnel = Tunnel::up(Setup::new());
    for pause in pauses {
        // The client must send to be refused. The stream's own socket of the server side dies with the TUN address.
        let ping = tunnel
            .net
            .client
            .command("ping")
            .args(["-q", "-i", "0.1", "-W", "1", "10.8.0.1"])
            .spawn()
            .expect("ping starts");
        tunnel.kill_server();
        thread::sleep(Duration::from_secs(pause));
        tunnel.start_server();
        tunnel.expect_answer(SOON);
        tests::process::send(i32::try_from(ping.id()).expect("a process id"), rustix::process::Signal::KILL);
        let _ = ping.wait_with_output();
    }
}

#[test]
fn a_killed_server_is_found_again_within_ping_restart_where_icmp_is_filtered() {
    let mut setup = Setup::new();
    setup.keepalive = (1, 4);
    let mut tunnel = Tunnel::up(setup);
    tunnel.net.server.nft("add rule ip t output icmp type destination-unreachable drop");
    tunnel.kill_server();
    thread::sleep(Duration::from_secs(1));
    tunnel.start_server();
    tunnel.expect_answer(Duration::from_secs(4) + SOON);
}

#[test]
fn a_server_that_says_restart_is_found_again() {
    let mut tunnel = Tunnel::up(Setup::new().server("explicit-exit-notify 1"));
    let code = tunnel.server.as_mut().expect("the server was started").process.stop(Duration::from_secs(10));
    assert_eq!(code, Some(0), "the server stopped");
    tunnel.server = None;
    tunnel.start_server();
    tunnel.expect_answer(SOON);
}

#[test]
fn a_change_of_address_keeps_the_session() {
    let mut tunnel = Tunnel::up(Setup::new());
    let before = tunnel.server().clients();
    let ns = &tunnel.net.client;
    ns.run("ip address add 10.71.1.3/24 dev up0");
    ns.run("ip address del 10.71.1.2/24 dev up0");
    // Deleting the primary address may take the secondary one along.
    ns.attempt("ip address add 10.71.1.3/24 dev up0");
    ns.default_routes([ROUTER4.into(), ROUTER6.into()]);
    tunnel.expect_answer(SOON);
    let floated = tunnel.server().wait_client(SOON, |row| row.real_address.starts_with("10.71.1.3:"));
    let floated = floated.unwrap_or_else(|| panic!("the server still has {:?}", tunnel.server().clients()));
    assert_eq!(floated.id, before[0].id, "the session is the same one");
    let begun = tunnel.server().process.count("Peer Connection Initiated");
    assert_eq!(begun, 1, "no session was begun anew; a soft reset is none");
}

#[test]
fn a_link_that_went_down_and_up_keeps_the_session() {
    let mut tunnel = Tunnel::up(Setup::new());
    let before = tunnel.server().clients();
    let ns = &tunnel.net.client;
    ns.run("ip link set up0 down");
    thread::sleep(Duration::from_secs(2));
    ns.run("ip link set up0 up");
    ns.attempt("ip address add fd71:1::2/64 dev up0 nodad");
    ns.default_routes([ROUTER4.into(), ROUTER6.into()]);
    tunnel.expect_answer(SOON);
    assert_eq!(tunnel.server().clients()[0].id, before[0].id, "the session is the same one");
}

#[test]
fn a_line_that_is_dead_for_longer_than_ping_restart_is_taken_up_again() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new().through_relay();
    setup.keepalive = (1, 4);
    let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), Weather::default());
    let server = Server::start(&net, &temp, &setup);
    let client = Client::up(&net, &temp, &setup);
    let mut tunnel = Tunnel { net, temp, setup, server: Some(server), client };
    assert!(tunnel.answered(Duration::from_secs(5)).is_some(), "no echo at the start");
    relay.cut(true);
    thread::sleep(Duration::from_secs(8));
    relay.cut(false);
    tunnel.expect_answer(SOON);
    assert!(until(SOON, || tunnel.client.process.count(UP) >= 2), "the client went through its start again");
}

#[test]
fn a_remote_that_answers_nothing_gives_way_to_the_next_one() {
    let (net, temp) = (Net::new(), Temp::new());
    let setup = Setup::new();
    let dead: IpAddr = [10, 71, 1, 77].into();
    let profile =
        setup.profile().replace("remote ", &format!("hand-window 4\nconnect-timeout 4\nremote {dead} 1194\nremote "));
    let _server = Server::start(&net, &temp, &setup);
    let start = Instant::now();
    let mut client = Client::launch(&net, &temp, &setup, &profile, &Default::default());
    client.expect_up();
    println!("up after {:?}", start.elapsed());
    assert!(net.client.until_answered(INNER4.into(), SOON).is_some());
}

#[test]
fn a_stream_survives_a_change_of_address_but_for_the_moment_itself() {
    let tunnel = Tunnel::up(Setup::new());
    let stream = tunnel.stream();
    thread::sleep(Duration::from_secs(1));
    let ns = &tunnel.net.client;
    ns.run("ip address add 10.71.1.3/32 dev up0");
    ns.run("ip address del 10.71.1.2/24 dev up0");
    ns.run("ip address add 10.71.1.3/24 dev up0");
    ns.default_routes([ROUTER4.into(), ROUTER6.into()]);
    thread::sleep(Duration::from_secs(5));
    let report = stream.finish(Duration::from_secs(1));
    println!("{report}");
    assert!(report.missing.len() <= 3 * 50, "{report}");
    let tail = report.missing.iter().filter(|number| **number + 50 > report.sent).count();
    assert_eq!(tail, 0, "the last second arrived whole: {report}");
}

#[test]
fn a_process_that_slept_longer_than_ping_restart_goes_on() {
    let mut setup = Setup::new();
    setup.keepalive = (1, 4);
    let mut tunnel = Tunnel::up(setup);
    tunnel.client.process.signal(rustix::process::Signal::STOP);
    thread::sleep(Duration::from_secs(10));
    tunnel.client.process.signal(rustix::process::Signal::CONT);
    tunnel.expect_answer(Duration::from_secs(4) + SOON);
}

#[test]
fn a_fixed_local_port_is_bound_again_for_the_next_session() {
    let mut setup = Setup::new().client("lport 5000");
    setup.keepalive = (1, 4);
    let mut tunnel = Tunnel::up(setup);
    let _stream = tunnel.stream();
    for _ in 0..2 {
        tunnel.kill_server();
        thread::sleep(Duration::from_secs(1));
        tunnel.start_server();
        tunnel.expect_answer(SOON);
    }
}

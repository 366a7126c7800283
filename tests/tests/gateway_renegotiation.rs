//! Renegotiation with our gateway under numbered traffic over a slow line that reorders: nothing may be missing, whoever began it.

use std::net::SocketAddr;
use std::time::Duration;
use tests::cells::check_all;
use tests::gateway::{Gateway, RENEGOTIATED};
use tests::netns::{INNER4, Net, ROUTER4, SERVER4};
use tests::ours::{Client, Launch, inner_addresses};
use tests::pairwise::product;
use tests::relay::{Relay, Way, Weather};
use tests::setup::Setup;
use tests::stock::UP;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// Who starts the renegotiations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Gateway,
    Client,
    Both,
}

const WHO: [Who; 3] = [Who::Gateway, Who::Client, Who::Both];
/// hand-window in seconds, on both sides.
const WINDOWS: [u32; 2] = [60, 3];
/// Whether the client is stock.
const STOCK: [bool; 2] = [true, false];
const SIZES: [usize; 3] = [WHO.len(), WINDOWS.len(), STOCK.len()];

/// Seconds between renegotiations.
const PERIOD: u32 = 5;
/// Opcode by which either side begins a renegotiation.
const SOFT_RESET: u8 = 3;
/// How long a SOFT_RESET is under way where both are to begin: a stock client's timer has steps of a second and ours
/// takes off up to a tenth, so within this time both have sent theirs and neither has heard the other's.
const HOLD: Duration = Duration::from_millis(1200);

#[test]
fn renegotiation_with_the_gateway_loses_nothing() {
    check_all(3, product(&SIZES), |cell| title(cell), |cell| check(cell));
}

fn title(cell: &[usize]) -> String {
    let client = if STOCK[cell[2]] { "stock" } else { "ours" };
    format!("begun by {:?}, hand-window {}, client {client}", WHO[cell[0]], WINDOWS[cell[1]])
}

fn check(cell: &[usize]) {
    let (who, window, stock) = (WHO[cell[0]], WINDOWS[cell[1]], STOCK[cell[2]]);
    let (net, temp) = (Net::new(), Temp::new());
    let seconds = |acts: bool| if acts { PERIOD } else { 0 };
    let setup = Setup::new()
        .through_relay()
        .server(&format!("reneg-sec {0} {0}", seconds(who != Who::Client)))
        .client(&format!("reneg-sec {}", seconds(who != Who::Gateway)))
        // On a busy machine the relay gets to run late, and then hands over more than the usual 64 at once.
        .server("replay-window 1024 15")
        .client("replay-window 1024 15")
        .server(&format!("hand-window {window}"))
        .client(&format!("hand-window {window}"));
    let weather = Weather {
        hold: (who == Who::Both).then_some((SOFT_RESET, HOLD)),
        ..Weather::rough(cell.iter().fold(1, |seed, n| seed * 7 + *n as u64))
    };
    let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), weather);
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let launch = Launch { stock, ..Launch::default() };
    let mut client = Client::launch(&net, &temp, &setup, &setup.profile(), &launch);
    client.expect_up();
    if stock {
        tests::steady::deepen_all_of(client.process.pid());
    }
    [&net.client, &net.server].into_iter().for_each(tests::steady::deepen_tuns_of);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");

    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&net.client, here.ip(), &net.server, there, Shape::SMALL);
    let down = Stream::start(&net.server, there.ip(), &net.client, here, Shape::SMALL);
    let times = if tests::long() { 20 } else { 2 };
    let first = gateway.renegotiations();
    let limit = Duration::from_secs((PERIOD as u64 + 3) * times as u64 + 10);
    let enough = gateway.process.wait_count(&[RENEGOTIATED], first + times, limit);
    let reports = [("up", up), ("down", down)].map(|(way, stream)| (way, stream.finish(Duration::from_secs(2))));

    assert!(enough, "only {} renegotiations of {times} in {limit:?}", gateway.renegotiations() - first);
    let (of_gateway, of_client) = (relay.count(Way::Down, SOFT_RESET), relay.count(Way::Up, SOFT_RESET));
    println!("{}: SOFT_RESETs: {of_gateway} of the gateway, {of_client} of the client", title(cell));
    // The one that does not begin answers each by one of its own.
    assert!(of_gateway >= times as u64 && of_client >= times as u64, "{of_gateway}, {of_client}");
    assert_eq!(client.process.count(UP), 1, "the session went on");
    assert_eq!(gateway.wait_clients(1, Duration::from_secs(1)).len(), 1);
    for (way, report) in reports {
        println!("{}: {way} {report}", title(cell));
        // The last column of each socket is what its queue had no room for.
        let queues = || [&net.client, &net.router, &net.server].map(|ns| ns.run("cat /proc/net/udp")).concat();
        assert!(report.complete(), "{way}: {report}\n{}\n{}", queues(), gateway.status()["workers"]);
        assert!(report.overtaken > 0, "the relay reordered nothing: {report}");
    }
}

#[test]
fn a_token_of_the_gateway_carries_over_renegotiation() {
    let (net, temp) = (Net::new(), Temp::new());
    let calls = temp.write("calls", "");
    let script = temp.script("count", &format!("echo x >> {}", calls.display()));
    let mut setup = Setup::new()
        .server("reneg-sec 4 4")
        // The token is renewed with the key, and OpenVPN wants that to take at least two windows.
        .server("hand-window 2")
        .client("hand-window 2")
        .server("script-security 2")
        .server(&format!("auth-user-pass-verify {} via-file", script.display()))
        .server("auth-gen-token 600");
    setup.login = Some(("user".into(), "password".into()));
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let launch = Launch { stock: true, ..Launch::default() };
    let mut client = Client::launch(&net, &temp, &setup, &setup.profile(), &launch);
    client.expect_up();
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let (inner, _) = inner_addresses(&net);
    let up = Stream::start(&net.client, inner.into(), &net.server, (INNER4, 7000).into(), Shape::SMALL);
    let twice = gateway.process.wait_count(&[RENEGOTIATED], 2, Duration::from_secs(20));
    let report = up.finish(Duration::from_secs(2));
    assert!(twice, "two renegotiations did not end well:\n{}\n{}", gateway.process.log(), client.process.log());
    let asked = std::fs::read_to_string(&calls).expect("it was written").lines().count();
    assert_eq!(asked, 1, "the password was asked for once; after that the token did");
    assert!(report.complete(), "{report}");
}

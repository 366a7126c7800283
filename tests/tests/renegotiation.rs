//! Renegotiation under numbered traffic over a slow line that reorders: nothing may be missing, whoever began it.

use std::net::SocketAddr;
use std::time::Duration;
use tests::cells::check_all;
use tests::netns::{INNER4, Net, ROUTER4, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::pairwise::product;
use tests::relay::{Relay, Weather};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// Who starts the renegotiations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Server,
    Client,
    Both,
}

const WHO: [Who; 3] = [Who::Server, Who::Client, Who::Both];
/// hand-window in seconds, on both sides.
const WINDOWS: [u32; 2] = [60, 3];
/// Whether numbered packets go up, down.
const TRAFFIC: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];
const SIZES: [usize; 3] = [WHO.len(), WINDOWS.len(), TRAFFIC.len()];

/// Seconds between renegotiations.
const PERIOD: u32 = 5;
/// Opcode by which either side begins a renegotiation.
const SOFT_RESET: u8 = 3;
/// How long a SOFT_RESET is under way where both are to begin: a stock server's timer has steps of a second and ours
/// takes off up to a tenth, so within this time both have sent theirs and neither has heard the other's.
const HOLD: Duration = Duration::from_millis(1200);

#[test]
fn renegotiation_loses_nothing() {
    // All of them in the short form too: what is lost is lost in a single one of them, not in a pair of values.
    check_all(4, product(&SIZES), |cell| title(cell), |cell| check(cell));
}

fn title(cell: &[usize]) -> String {
    format!("begun by {:?}, hand-window {}, (up, down) {:?}", WHO[cell[0]], WINDOWS[cell[1]], TRAFFIC[cell[2]])
}

fn check(cell: &[usize]) {
    let (who, window, (up, down)) = (WHO[cell[0]], WINDOWS[cell[1]], TRAFFIC[cell[2]]);
    let net = Net::new();
    let temp = Temp::new();
    let seconds = |acts: bool| if acts { PERIOD } else { 0 };
    let jitter = if who == Who::Both { 1 } else { 0 };
    let setup = Setup::new()
        .through_relay()
        .server(&format!("reneg-sec {0} {0}", seconds(who != Who::Client)))
        .client(&format!("reneg-sec {}", seconds(who != Who::Server) + jitter))
        // On a busy machine the relay gets to run late, and then hands over more than the usual 64 at once.
        .server("replay-window 1024 15")
        .client("replay-window 1024 15")
        .server(&format!("hand-window {window}"))
        .client(&format!("hand-window {window}"));
    let weather = Weather {
        hold: (who == Who::Both).then_some((SOFT_RESET, HOLD)),
        ..Weather::rough(cell.iter().fold(1, |seed, n| seed * 7 + *n as u64))
    };
    let _relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), weather);
    let mut server = Server::start(&net, &temp, &setup);
    let _client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");

    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let upward = up.then(|| Stream::start(&net.client, here.ip(), &net.server, there, Shape::SMALL));
    let downward = down.then(|| Stream::start(&net.server, there.ip(), &net.client, here, Shape::SMALL));
    let times = if tests::long() { 20 } else { 3 };
    let first = server.negotiations();
    let limit = Duration::from_secs((PERIOD as u64 + 3) * times as u64 + 10);
    let enough = server.process.wait_count(&[tests::stock::NEGOTIATED], first + times, limit);
    let reports = [("up", upward), ("down", downward)]
        .map(|(way, stream)| (way, stream.map(|stream| stream.finish(Duration::from_secs(2)))));

    assert!(enough, "only {} renegotiations of {times} in {limit:?}", server.negotiations() - first);
    let own = server.process.count("TLS: soft reset");
    assert_eq!(own > 0, who != Who::Client, "the server itself began {own} renegotiations");
    assert_eq!(server.clients().len(), 1, "the session went on");
    for (way, report) in reports {
        let Some(report) = report else { continue };
        println!("{}: {way} {report}", title(cell));
        // The last column of each socket is what its queue had no room for.
        let queues = || [&net.client, &net.router, &net.server].map(|ns| ns.run("cat /proc/net/udp")).concat();
        assert!(report.complete(), "{way}: {report}\n{}", queues());
        assert!(report.overtaken > 0, "the relay reordered nothing: {report}");
    }
}

#[test]
fn a_pushed_auth_token_carries_over_renegotiation() {
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
    let mut server = Server::start(&net, &temp, &setup);
    let _client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let (inner, _) = inner_addresses(&net);
    let there = SocketAddr::from((INNER4, 7000));
    let up = Stream::start(&net.client, inner.into(), &net.server, there, Shape::SMALL);
    let thrice = server.process.wait_count(&[tests::stock::NEGOTIATED], 3, Duration::from_secs(20));
    let report = up.finish(Duration::from_secs(2));
    assert!(thrice, "two renegotiations did not end well:\n{}", server.process.log());
    let asked = std::fs::read_to_string(&calls).expect("it was written").lines().count();
    assert_eq!(asked, 1, "the password was asked for once; after that the token did");
    assert!(report.complete(), "{report}");
}

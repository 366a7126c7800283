//! Stock clients against our gateway in every combination that they may ask for: all of them, or every pair. What older clients
//! lack (P_DATA_V2, TLS key export) no option of OpenVPN 2.6 takes away: there our own client plays them.

use rustix::process::Signal;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tests::cells::check_all;
use tests::checker;
use tests::gateway::Gateway;
use tests::netns::{INNER4, INNER6, Net, ROUTER4, SERVER4};
use tests::ours::{Client, Launch, inner_addresses};
use tests::pairwise::{pairwise, product};
use tests::process::until;
use tests::relay::{Recorded, Relay, Weather};
use tests::setup::{Family, Setup, Tls, Wrap};
use tests::stock::{Server, UP};
use tests::temp::Temp;
use tests::traffic::{Shape, Stream, transfer};

/// Who comes: stock OpenVPN, our client, our client without DATA_V2, our client without TLS key export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Stock,
    Ours,
    DataV1,
    Tls1Prf,
}

const WRAPS: [Wrap; 3] = [Wrap::None, Wrap::TlsAuth, Wrap::TlsCrypt];
const CIPHERS: [&str; 4] = ["AES-256-GCM", "AES-192-GCM", "AES-128-GCM", "CHACHA20-POLY1305"];
const TLS: [Tls; 2] = [Tls::V12, Tls::V13];
const IO: [&str; 2] = ["uring", "syscall"];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const WHO: [Who; 4] = [Who::Stock, Who::Ours, Who::DataV1, Who::Tls1Prf];
const WORKERS: [u16; 2] = [1, 2];
const SIZES: [usize; 7] = [WRAPS.len(), CIPHERS.len(), TLS.len(), IO.len(), FAMILIES.len(), WHO.len(), WORKERS.len()];

/// Cells at a time: the second core would idle through the handshakes of a single one.
const SIDE_BY_SIDE: usize = 2;

#[test]
fn every_combination_is_served() {
    check_all(SIDE_BY_SIDE, cells(), |cell| title(cell), |cell| check(cell));
}

/// Every pair of values, and every wrap, cipher, TLS version and family with the stock client besides; in the long form every
/// combination of the stock client.
fn cells() -> Vec<Vec<usize>> {
    let mut cells = pairwise(&SIZES);
    if tests::long() {
        cells.retain(|cell| cell[5] != 0);
        cells.extend(product(&SIZES).into_iter().filter(|cell| cell[5] == 0));
    }
    cells
}

fn title(cell: &[usize]) -> String {
    let (wrap, tls, family) = (WRAPS[cell[0]], TLS[cell[2]], FAMILIES[cell[4]]);
    let (who, workers) = (WHO[cell[5]], WORKERS[cell[6]]);
    format!("{who:?} {wrap:?} {} TLS {tls:?} {} IP{family:?} {workers} workers", CIPHERS[cell[1]], IO[cell[3]])
}

fn check(cell: &[usize]) {
    let (net, temp, who) = (Net::new(), Temp::new(), WHO[cell[5]]);
    let mut setup = Setup::new().family(FAMILIES[cell[4]]).server("explicit-exit-notify 1");
    setup.wrap = WRAPS[cell[0]];
    setup.cipher = CIPHERS[cell[1]];
    setup.tls = TLS[cell[2]];
    setup.io = IO[cell[3]];
    setup.workers = WORKERS[cell[6]];
    setup.iv_proto_mask = match who {
        Who::Stock | Who::Ours => 0,
        Who::DataV1 => 1 << 1,
        Who::Tls1Prf => 1 << 3,
    };
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let mut client = come(&net, &temp, &setup, who);
    let (inner4, inner6) = inner_addresses(&net);

    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo over IPv4");
    // Of its own accord the kernel takes a moment until a new IPv6 address may be used, on a busy machine seconds.
    assert!(net.client.until_answered(INNER6.into(), Duration::from_secs(10)).is_some(), "no echo over IPv6");
    assert_eq!(net.client.ping(INNER4.into(), 300), 300, "echoes over IPv4");
    assert_eq!(net.client.ping(INNER6.into(), 100), 100, "echoes over IPv6");
    assert_eq!(net.server.ping(inner4.into(), 100), 100, "echoes over IPv4 to the client");

    let bytes = if tests::long() { 200_000_000 } else { 5_000_000 };
    let up = carry(&net, true, INNER4.into(), bytes);
    let down = carry(&net, false, inner4.into(), bytes);
    carry(&net, true, INNER6.into(), 1_000_000);
    carry(&net, false, inner6.into(), 1_000_000);
    plausible(&gateway, &setup, &net, bytes);
    as_asked(&gateway, &client, cell);
    assert_eq!(client.stop(), Some(0), "exit code after SIGTERM");
    assert!(gateway.saw_exit(Duration::from_secs(3)), "the gateway did not learn that the client left");
    gateway.wait_clients(0, Duration::from_secs(3));
    assert_eq!(gateway.stop(), Some(0), "exit code of the gateway after SIGTERM");
    println!("{}: {up:.0} Mb/s up, {down:.0} Mb/s down", title(cell));
}

fn come(net: &Net, temp: &Temp, setup: &Setup, who: Who) -> Client {
    let launch = Launch { stock: who == Who::Stock, ..Launch::default() };
    let mut client = Client::launch(net, temp, setup, &setup.profile(), &launch);
    client.expect_up();
    client
}

fn carry(net: &Net, up: bool, to: IpAddr, bytes: u64) -> f64 {
    let (from, into) = if up { (&net.client, &net.server) } else { (&net.server, &net.client) };
    let sent = transfer(from, into, SocketAddr::new(to, 5001), bytes);
    assert!(sent.same, "TCP to {to}: {} of {bytes} bytes arrived, or not the same ones", sent.received);
    sent.mbit()
}

/// The gateway's own count: at least the payload each way, and less than twice of it, because a stock client's small socket buffer
/// makes TCP repeat itself; and nothing was dropped but what the kernel of a new interface sends by itself.
fn plausible(gateway: &Gateway, setup: &Setup, net: &Net, bytes: u64) {
    let enough = |count: u64| count >= bytes && count < 2 * bytes;
    let rows = gateway.wait_clients(1, Duration::from_secs(1));
    let row = &rows[0];
    assert!(enough(row.received) && enough(row.sent), "counters after {bytes} bytes each way: {row:?}");
    assert_eq!((row.name.as_str(), row.cipher.as_str()), ("client", setup.cipher));
    let (inner4, inner6) = inner_addresses(net);
    assert_eq!((row.ipv4, row.ipv6), (Some(inner4), Some(inner6)));
    assert!(row.worker < u64::from(setup.workers), "{row:?}");
    for reason in ["authentication_failed", "replayed", "too_late", "unknown_key", "unknown_peer", "wrong_address"] {
        assert_eq!(gateway.dropped(reason), 0, "{reason}: {}", gateway.status()["workers"]);
    }
}

/// The logs show that the cell is what its title says: TLS version, and what IV_PROTO left to agree on.
fn as_asked(gateway: &Gateway, client: &Client, cell: &[usize]) {
    let log = gateway.process.log();
    let version = ["TLSv1.2", "TLSv1.3"][cell[2]];
    let line = log.lines().find(|line| line.contains(" connected: ")).unwrap_or_default();
    assert!(line.contains(version), "the gateway does not log {version}: {line}");
    assert_eq!(line.contains("peer-id none"), WHO[cell[5]] == Who::DataV1, "P_DATA_V1: {line}");
    if WHO[cell[5]] == Who::Stock {
        let log = client.process.log();
        let push = log.lines().find(|line| line.contains("'PUSH_REPLY,")).unwrap_or_default();
        assert!(push.contains("peer-id") && push.contains("tls-ekm"), "{push}");
        assert!(log.contains(&format!("Control Channel: {version},")), "the client does not log {version}");
    }
}

#[test]
fn a_client_that_falls_silent_is_struck_out_and_may_come_back() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    setup.keepalive = (1, 3);
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let client = come(&net, &temp, &setup, Who::Stock);
    gateway.wait_clients(1, Duration::from_secs(3));
    let (inner, _) = inner_addresses(&net);
    client.process.signal(Signal::KILL);
    // A server waits twice as long as its clients do.
    assert!(gateway.process.wait_log(&["ping-restart"], Duration::from_secs(15)), "{}", gateway.process.log());
    gateway.wait_clients(0, Duration::from_secs(1));
    let _again = come(&net, &temp, &setup, Who::Stock);
    assert_eq!(inner_addresses(&net).0, inner, "the lease is the client's own");
    assert_eq!(net.client.ping(INNER4.into(), 20), 20);
}

#[test]
fn a_client_that_hears_nothing_comes_back_when_the_line_does() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new().client("connect-retry 1 2").client("hand-window 10");
    setup.keepalive = (1, 4);
    let gateway = Gateway::start(&net, &temp, &setup);
    let mut client = come(&net, &temp, &setup, Who::Stock);
    net.router.nft("add rule ip t forward udp sport 1194 drop");
    let noticed = client.process.wait_log(&["Inactivity timeout (--ping-restart)"], Duration::from_secs(20));
    assert!(noticed, "the client heard something:\n{}", client.process.log());
    net.router.nft_clear();
    let back = client.process.wait_count(&[UP], 2, Duration::from_secs(30));
    assert!(back, "the client did not come back:\n{}", client.process.log());
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    gateway.wait_clients(1, Duration::from_secs(5));
}

#[test]
fn a_gateway_that_stops_says_so_and_leaves_nothing() {
    let (net, temp) = (Net::new(), Temp::new());
    let before = net.server.snapshot();
    let setup = Setup::new().server("explicit-exit-notify 1").client("connect-retry 1 2");
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let mut client = come(&net, &temp, &setup, Who::Stock);
    assert_eq!(gateway.stop(), Some(0), "exit code after SIGTERM");
    let told =
        client.process.wait_log(&["Connection reset command was pushed by server", "RESTART"], Duration::from_secs(3));
    assert!(told, "the client was not told:\n{}", client.process.log());
    assert!(until(Duration::from_secs(3), || net.server.snapshot() == before), "{}", net.server.snapshot());
    // Another one takes over, and the client finds it without being told to.
    let _next = Gateway::start(&net, &temp, &setup);
    assert!(client.process.wait_count(&[UP], 2, Duration::from_secs(30)), "{}", client.process.log());
}

#[test]
fn a_stranger_to_the_authority_is_not_let_in() {
    let (net, temp, mut setup) = (Net::new(), Temp::new(), Setup::new());
    setup.server_trusts = tests::pki::Authority::new("Another Root").cert;
    let gateway = Gateway::start(&net, &temp, &setup);
    let mut client =
        Client::launch(&net, &temp, &setup, &setup.profile(), &Launch { stock: true, ..Launch::default() });
    assert!(!client.process.wait_log(&[UP], Duration::from_secs(4)), "it came up");
    assert!(gateway.clients().is_empty());
}

/// Records what passes between a stock client and a server while keys are renewed, on a line of this weather.
fn recorded(weather: Weather, ours: bool) -> Vec<Recorded> {
    let (net, temp) = (Net::new(), Temp::new());
    let setup = Setup::new().through_relay().server("reneg-sec 4 4").server("replay-window 1024 15");
    let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), weather);
    let gateway = ours.then(|| Gateway::start(&net, &temp, &setup));
    let stock = (!ours).then(|| Server::start(&net, &temp, &setup));
    let _client = come(&net, &temp, &setup, Who::Stock);
    let keys = |n: usize| match (&gateway, &stock) {
        (Some(gateway), _) => gateway.renegotiations() >= n,
        (_, Some(stock)) => stock.negotiations() > n,
        _ => false,
    };
    assert!(until(Duration::from_secs(60), || keys(3)), "keys were not renewed");
    relay.timed()
}

#[test]
fn what_the_gateway_sends_is_what_a_stock_server_may_send() {
    let lossy = Weather { loss: 100, delay: Duration::from_millis(20), seed: 5, ..Weather::default() };
    for (name, weather) in [("quiet", Weather::default()), ("lossy", lossy)] {
        for ours in [false, true] {
            let mut packets = recorded(Weather { record: true, ..weather }, ours);
            if !ours {
                // Two of OpenVPN wrap their renegotiations (dynamic tls-crypt): nothing to see there.
                packets.retain(|one| one.bytes.first().is_some_and(|byte| byte & 7 == 0));
            }
            let verdict = checker::check(&packets);
            let (control, again) = (verdict.control, verdict.again);
            println!("{name}, {}: {control} control packets, {again} again", if ours { "ours" } else { "stock" });
            assert_eq!(verdict.complaints, [""; 0], "{name}, ours: {ours}");
            assert!(control > 5);
        }
    }
}

#[test]
fn a_client_whose_address_changes_keeps_its_session_and_its_worker() {
    let (net, temp) = (Net::new(), Temp::new());
    let setup = Setup::new().through_relay().server("float").server("reneg-sec 4 4").server("replay-window 1024 15");
    let slow = Weather { delay: Duration::from_millis(20), ..Weather::default() };
    let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), slow);
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let client = come(&net, &temp, &setup, Who::Stock);
    tests::steady::deepen_all_of(client.process.pid());
    [&net.client, &net.server].into_iter().for_each(tests::steady::deepen_tuns_of);
    let before = gateway.wait_clients(1, Duration::from_secs(3)).remove(0);
    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&net.client, here.ip(), &net.server, there, Shape::SMALL);
    let down = Stream::start(&net.server, there.ip(), &net.client, here, Shape::SMALL);
    // One of ten at least is in the middle of a renegotiation.
    for n in 0..10 {
        // A client may move once a second; and not in step with retransmissions, which come after whole seconds.
        std::thread::sleep(Duration::from_millis(1060 + 37 * n));
        relay.rebind();
    }
    let renewed = gateway.process.wait_count(&[tests::gateway::RENEGOTIATED], 3, Duration::from_secs(15));
    let reports = [up, down].map(|stream| stream.finish(Duration::from_secs(1)));
    assert!(renewed, "keys were not renewed:\n{}", gateway.process.log());
    let after = gateway.wait_clients(1, Duration::from_secs(1)).remove(0);
    assert_ne!(after.real_address, before.real_address, "the gateway has seen it move");
    assert_eq!((after.id, after.worker), (before.id, before.worker), "{before:?}, {after:?}");
    assert_eq!(client.process.count(UP), 1, "the session went on");
    for report in reports {
        println!("{report}");
        assert!(report.complete(), "{report}\n{}", gateway.status()["workers"]);
    }
}

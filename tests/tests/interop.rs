//! Our client against a stock server in every combination that profiles ask for: all of them, or every pair.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tests::cells::check_all;
use tests::netns::{INNER4, INNER6, Net};
use tests::ours::{Client, inner_addresses, stock_client};
use tests::pairwise::{pairwise, product};
use tests::setup::{Family, Setup, Tls, Wrap};
use tests::stock::Server;
use tests::temp::Temp;
use tests::traffic::transfer;

const WRAPS: [Wrap; 4] = [Wrap::None, Wrap::TlsAuth, Wrap::TlsAuthBidirectional, Wrap::TlsCrypt];
const CIPHERS: [&str; 4] = ["AES-256-GCM", "AES-192-GCM", "AES-128-GCM", "CHACHA20-POLY1305"];
const TLS: [Tls; 2] = [Tls::V12, Tls::V13];
const IO: [&str; 2] = ["uring", "syscall"];
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// IV_PROTO bits not advertised: none; bit 1 (DATA_V2), so P_DATA_V1; bit 3 (TLS key export), so the TLS 1.0 PRF.
const PROTOS: [u32; 3] = [0, 1 << 1, 1 << 3];
const SIZES: [usize; 6] = [WRAPS.len(), CIPHERS.len(), TLS.len(), IO.len(), FAMILIES.len(), PROTOS.len()];

/// Cells at a time: the second core would idle through the handshakes of a single one.
const SIDE_BY_SIDE: usize = 2;

#[test]
fn every_combination_carries_traffic() {
    check_all(SIDE_BY_SIDE, cells(), |cell| title(cell), |cell| check(cell));
}

/// Every pair of values; in the long form every combination with a current peer besides.
fn cells() -> Vec<Vec<usize>> {
    let mut cells = pairwise(&SIZES);
    if tests::long() {
        cells.retain(|cell| cell[5] != 0);
        cells.extend(product(&SIZES).into_iter().filter(|cell| cell[5] == 0));
    }
    cells
}

fn title(cell: &[usize]) -> String {
    let proto = ["DATA_V2+EKM", "DATA_V1", "TLS1-PRF"][cell[5]];
    let (wrap, tls, family) = (WRAPS[cell[0]], TLS[cell[2]], FAMILIES[cell[4]]);
    format!("{wrap:?} {} TLS {tls:?} {} IP{family:?} {proto}", CIPHERS[cell[1]], IO[cell[3]])
}

fn check(cell: &[usize]) {
    let net = Net::new();
    let temp = Temp::new();
    let mut setup = Setup::new().family(FAMILIES[cell[4]]);
    setup.wrap = WRAPS[cell[0]];
    setup.cipher = CIPHERS[cell[1]];
    setup.tls = TLS[cell[2]];
    setup.io = IO[cell[3]];
    setup.iv_proto_mask = PROTOS[cell[5]];
    let mut server = Server::start(&net, &temp, &setup);
    let mut client = Client::up(&net, &temp, &setup);
    let (inner4, inner6) = inner_addresses(&net);

    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo over IPv4");
    assert_eq!(net.client.ping(INNER4.into(), 1000), 1000, "echoes over IPv4");
    assert_eq!(net.client.ping(INNER6.into(), 100), 100, "echoes over IPv6");

    let bytes = if tests::long() { 200_000_000 } else { 20_000_000 };
    let up = carry(&net, true, INNER4.into(), bytes);
    let down = carry(&net, false, inner4.into(), bytes);
    carry(&net, true, INNER6.into(), 1_000_000);
    carry(&net, false, inner6.into(), 1_000_000);
    plausible(&server, setup.cipher, bytes);
    as_asked(&server, cell);
    assert_eq!(client.stop(), Some(0), "exit code after SIGTERM");
    assert!(server.saw_exit(Duration::from_secs(3)), "the server did not learn that the client left");
    println!("{}: {up:.0} Mb/s up, {down:.0} Mb/s down", title(cell));
}

fn carry(net: &Net, up: bool, to: IpAddr, bytes: u64) -> f64 {
    let (from, into) = if up { (&net.client, &net.server) } else { (&net.server, &net.client) };
    let sent = transfer(from, into, SocketAddr::new(to, 5001), bytes);
    assert!(sent.same, "TCP to {to}: {} of {bytes} bytes arrived, or not the same ones", sent.received);
    sent.mbit()
}

/// The server's own count of datagrams: at least the payload each way, at most a quarter more.
fn plausible(server: &Server, cipher: &str, bytes: u64) {
    let enough = |count: u64| count >= bytes && count <= bytes + bytes / 4 + 4_000_000;
    let row = server.wait_client(Duration::from_secs(5), |row| enough(row.received) && enough(row.sent));
    let row =
        row.unwrap_or_else(|| panic!("the server's counters after {bytes} bytes each way: {:?}", server.clients()));
    assert_eq!((row.name.as_str(), row.cipher.as_str()), ("client", cipher));
}

/// The server's log shows that the cell is what its title says: TLS version, and what IV_PROTO left to agree on.
fn as_asked(server: &Server, cell: &[usize]) {
    let log = server.process.log();
    let version = ["Control Channel: TLSv1.2,", "Control Channel: TLSv1.3,"][cell[2]];
    assert!(log.contains(version), "the server does not log {version}");
    if !stock_client() {
        let push = log.lines().find(|line| line.contains("'PUSH_REPLY,")).unwrap_or_default();
        assert_eq!(push.contains("peer-id"), cell[5] != 1, "P_DATA_V2 agreed on: {push}");
        assert_eq!(push.contains("tls-ekm"), cell[5] != 2, "TLS key export agreed on: {push}");
    }
}

#[test]
fn the_harness_says_which_client_it_ran() {
    println!("client under test: {}", if stock_client() { "stock OpenVPN" } else { "minivpn" });
}

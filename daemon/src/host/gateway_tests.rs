//! A gateway's firewall, forwarding and interface against a real kernel, each test in a network namespace of its own (drawn in
//! `tests.rs`). Where packets must pass or not there are two TUN devices more, held by the test, with the kernel as the router:
//!
//! ```text
//!   tunc 10.8.0.1/24 fd00:8::1/64: the clients' ── kernel ── tunu 203.0.113.2/24 2001:db8:9::2/64: the uplink
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::checksum;
use rustix::thread::UnshareFlags;

use super::change::Change;
use super::forwarding::{self, Sysctl};
use super::gateway_link::{self, GatewayRoute, GatewaySettings};
use super::journal::{self, Journal};
use super::nat::{self, Hook, Nat};
use super::plan::{Ipv4Link, Ipv4Setting};
use super::tests::{directory, in_namespace, ip, picture};
use super::{Applied, Host, HostError, Interface};

fn nft(line: &str) -> String {
    let output = Command::new("nft").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "nft {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pools() -> [(IpAddr, u8); 2] {
    [(address("10.8.0.7"), 24), (address("fd00:8::7"), 64)]
}

fn table(client_to_client: bool) -> Nat {
    Nat::for_gateway("a", "tunc", &pools(), true, client_to_client).unwrap()
}

#[test]
fn the_table_is_what_was_meant_and_stays_one_when_it_is_installed_again() {
    in_namespace(|| async {
        nat::install(&table(false)).unwrap();
        let expected = [
            "table inet minivpn_a {",
            "chain postrouting {",
            "type nat hook postrouting priority srcnat; policy accept;",
            "oifname != \"tunc\" ip saddr 10.8.0.0/24 masquerade",
            "oifname != \"tunc\" ip6 saddr fd00:8::/64 masquerade",
            "}",
            "chain forward {",
            "type filter hook forward priority filter; policy accept;",
            "iifname \"tunc\" oifname \"tunc\" counter packets 0 bytes 0 drop",
            "}",
            "}",
        ];
        let listing = || {
            nft("list ruleset")
                .lines()
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect::<Vec<_>>()
        };
        // Both families: meta nfproto is said where nft finds it worth saying.
        let plain = |line: String| line.replace("meta nfproto ipv4 ", "").replace("meta nfproto ipv6 ", "");
        assert_eq!(listing().into_iter().map(plain).collect::<Vec<_>>(), expected);
        let once = listing();
        nat::install(&table(false)).unwrap();
        assert_eq!(listing(), once);
        nat::install(&table(true)).unwrap();
        assert!(!nft("list ruleset").contains("drop"));
        nat::remove("minivpn_a").unwrap();
        assert_eq!(nft("list ruleset"), "");
        nat::remove("minivpn_a").unwrap();
    });
}

#[test]
fn tables_of_others_are_not_touched() {
    in_namespace(|| async {
        nft("add table inet minivpn");
        nft("add table inet filter");
        nft("add chain inet filter forward { type filter hook forward priority 0 ; policy drop ; }");
        nft("add rule inet filter forward iifname tunc accept");
        nat::install(&Nat::for_gateway("b", "tund", &pools(), true, false).unwrap()).unwrap();
        let before = nft("list ruleset");
        nat::install(&table(false)).unwrap();
        assert_ne!(nft("list ruleset"), before);
        nat::remove("minivpn_a").unwrap();
        assert_eq!(nft("list ruleset"), before);
        for foreign in ["filter", "minivpn", "minivpn_", "minivpn_a/b", ""] {
            assert!(nat::remove(foreign).is_err(), "{foreign:?}");
            assert!(nat::install(&Nat { table: foreign.to_owned(), ..table(false) }).is_err(), "{foreign:?}");
        }
        assert_eq!(nft("list ruleset"), before);
    });
}

#[test]
fn a_table_that_the_kernel_refuses_leaves_nothing_behind() {
    in_namespace(|| async {
        nat::install(&table(false)).unwrap();
        let before = nft("list ruleset");
        let wrong = Nat { tunnel: "a-name-that-is-too-long".to_owned(), ..table(false) };
        assert!(nat::install(&wrong).is_err());
        assert_eq!(nft("list ruleset"), before);
        // The thread gives up what it needs.
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective = rustix::thread::CapabilitySet::empty();
        rustix::thread::set_capabilities(None, sets).unwrap();
        let refused = nat::install(&table(true)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "{refused}");
        sets.effective = sets.permitted;
        rustix::thread::set_capabilities(None, sets).unwrap();
        assert_eq!(nft("list ruleset"), before);
    });
}

#[test]
fn names_and_pools_decide_what_is_masqueraded() {
    let ula = [(address("fd00:8::"), 64)];
    let global = [(address("2001:db8::"), 64)];
    let count =
        |pools: &[(IpAddr, u8)], uplink| Nat::for_gateway("a", "tun0", pools, uplink, false).unwrap().masquerade.len();
    assert_eq!((count(&ula, true), count(&ula, false)), (1, 0));
    assert_eq!((count(&global, true), count(&global, false)), (0, 0));
    assert_eq!(count(&[(address("10.8.0.0"), 24)], false), 1);
    for name in ["", "a b", "a/b", "ü", &"x".repeat(65)] {
        assert!(nat::table_name(name).is_err(), "{name:?}");
    }
    assert_eq!(nat::table_name("vpn-1.a_b").unwrap(), "minivpn_vpn-1.a_b");
}

#[test]
fn chains_of_others_that_drop_are_named_with_commands_that_work() {
    in_namespace(|| async {
        assert_eq!(nat::foreign_drops().unwrap(), []);
        nat::install(&table(false)).unwrap();
        nft("add table inet fw");
        nft("add chain inet fw in { type filter hook input priority 0 ; policy drop ; }");
        nft("add chain inet fw out { type filter hook output priority 0 ; policy drop ; }");
        nft("add chain inet fw fine { type filter hook forward priority 0 ; policy accept ; }");
        nft("add chain inet fw regular");
        nft("add table ip filter");
        nft("add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        nft("add table bridge br");
        nft("add chain bridge br through { type filter hook forward priority 0 ; policy drop ; }");
        let mut drops = nat::foreign_drops().unwrap();
        drops.sort_by(|a, b| a.table.cmp(&b.table));
        let found: Vec<_> =
            drops.iter().map(|drop| (drop.family, drop.table.as_str(), drop.chain.as_str(), drop.hook)).collect();
        assert_eq!(found, [("ip", "filter", "FORWARD", Hook::Forward), ("inet", "fw", "in", Hook::Input)]);
        let sentences = gateway_link::foreign_drops("tunc", "udp", 1194);
        assert_eq!(sentences.len(), 2);
        let mut commands = 0;
        for sentence in &sentences {
            assert!(sentence.contains("drops what no rule accepts"), "{sentence}");
            for command in sentence.split("nft ").skip(1).filter(|part| part.starts_with("insert")) {
                nft(command.split(", and ").next().unwrap().trim());
                commands += 1;
            }
        }
        assert_eq!(commands, 3);
        assert!(nft("list chain inet fw in").contains("udp dport 1194 accept"));
        assert!(nft("list chain ip filter FORWARD").contains("iifname \"tunc\" accept"));
    });
}

// Packets.

/// A TUN device of the test's own, up, with these addresses.
fn tun(name: &str, addresses: &[&str]) -> TunQueue {
    let options = TunOptions { name: name.to_owned(), multi_queue: false, offload: false };
    let queue = TunQueue::open(&options).unwrap();
    ip(&format!("link set {name} up"));
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev {name}{nodad}"));
    }
    queue
}

/// The bytes of the virtio header before every packet; all zero: nothing special.
const HEADER: usize = 10;

fn write(queue: &TunQueue, packet: &[u8]) {
    let frame = [&[0; HEADER], packet].concat();
    assert_eq!(rustix::io::write(queue, &frame).unwrap(), frame.len());
}

/// The source of the first packet to this destination that comes out within the time.
fn source_of(queue: &TunQueue, to: &str, within: Duration) -> Option<IpAddr> {
    let (deadline, mut buffer) = (Instant::now() + within, [0; 2_048]);
    while Instant::now() < deadline {
        match rustix::io::read(queue, &mut buffer) {
            Ok(length) => match ends(&buffer[HEADER..length]) {
                (from, destination) if destination == address(to) => return Some(from),
                _ => {}
            },
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    None
}

fn ends(packet: &[u8]) -> (IpAddr, IpAddr) {
    let v4 = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    let v6 = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    if packet[0] >> 4 == 4 { (v4(12), v4(16)) } else { (v6(8), v6(24)) }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A datagram of four bytes, port 7 to port 9.
fn datagram(from: &str, to: &str) -> Vec<u8> {
    let addresses = [octets(address(from)), octets(address(to))].concat();
    let mut udp = vec![0, 7, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4];
    let sum = checksum::pseudo_header(&addresses, 17, 12).bytes(&udp).checksum();
    udp[6..8].copy_from_slice(&sum);
    packet(&addresses, 17, 64, &udp)
}

fn packet(addresses: &[u8], protocol: u8, hops: u8, body: &[u8]) -> Vec<u8> {
    let length = u8::try_from(body.len()).unwrap();
    if addresses.len() == 8 {
        let mut header = [&[0x45, 0, 0, 20 + length, 0, 1, 0, 0, hops, protocol, 0, 0][..], addresses].concat();
        let sum = checksum::Sum::default().bytes(&header).checksum();
        header[10..12].copy_from_slice(&sum);
        [header, body.to_vec()].concat()
    } else {
        [&[0x60, 0, 0, 0, 0, length, protocol, hops][..], addresses, body].concat()
    }
}

const LONG: Duration = Duration::from_secs(10);
/// Nothing comes later than this: the kernel forwards within the write.
const SHORT: Duration = Duration::from_millis(200);

fn clients() -> TunQueue {
    tun("tunc", &["10.8.0.1/24", "fd00:8::1/64"])
}

fn router() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
}

#[test]
fn what_leaves_by_another_interface_is_masqueraded_and_nothing_else() {
    in_namespace(|| async {
        router();
        let (clients, uplink) = (clients(), tun("tunu", &["203.0.113.2/24", "2001:db8:9::2/64"]));
        ip("route add 198.18.0.0/16 dev tunu");
        let leaves_as = |from: &str, to: &str| {
            write(&clients, &datagram(from, to));
            source_of(&uplink, to, LONG).unwrap()
        };
        assert_eq!(leaves_as("10.8.0.2", "203.0.113.9"), address("10.8.0.2"), "without a table as it is");
        nat::install(&table(false)).unwrap();
        assert_eq!(leaves_as("10.8.0.2", "203.0.113.10"), address("203.0.113.2"));
        assert_eq!(leaves_as("fd00:8::2", "2001:db8:9::10"), address("2001:db8:9::2"));
        // A network behind a client is not in the pool, and is routed as it is.
        ip("route add 10.77.0.0/24 dev tunc");
        assert_eq!(leaves_as("10.77.0.5", "198.18.0.1"), address("10.77.0.5"));
        // Towards the clients nothing is masqueraded.
        write(&uplink, &datagram("203.0.113.9", "10.77.0.6"));
        assert_eq!(source_of(&clients, "10.77.0.6", LONG), Some(address("203.0.113.9")));
    });
}

#[test]
fn clients_reach_each_other_through_the_kernel_only_when_they_may() {
    in_namespace(|| async {
        router();
        let clients = clients();
        let reaches = |to: &str, within| {
            let from = if to.contains(':') { "fd00:8::2" } else { "10.8.0.2" };
            write(&clients, &datagram(from, to));
            source_of(&clients, to, within) == Some(address(from))
        };
        nat::install(&table(true)).unwrap();
        assert!(reaches("10.8.0.3", LONG) && reaches("fd00:8::3", LONG));
        nat::install(&table(false)).unwrap();
        assert!(!reaches("10.8.0.4", SHORT) && !reaches("fd00:8::4", SHORT));
        assert!(nft("list chain inet minivpn_a forward").contains("counter packets 2"));
        nat::remove("minivpn_a").unwrap();
        assert!(reaches("10.8.0.5", LONG));
    });
}

// Forwarding.

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD_V6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

fn value(path: &str) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn set(path: &str, value: &str) {
    std::fs::write(path, value).unwrap();
}

#[test]
fn forwarding_is_switched_on_where_it_was_off_and_put_back() {
    in_namespace(|| async {
        let (host, mut journal, mut applied) = (Host::open().unwrap(), Journal::in_memory(), Applied::default());
        set(FORWARD, "0");
        set(FORWARD_V6, "0");
        assert!(forwarding::enable(&host, true, false, &mut applied, &mut journal).await.is_empty());
        assert_eq!((value(FORWARD), value(FORWARD_V6)), ("1".to_owned(), "0".to_owned()), "IPv6 only when wanted");
        assert!(forwarding::enable(&host, true, true, &mut applied, &mut journal).await.is_empty());
        assert_eq!(value(FORWARD_V6), "1");
        assert_eq!(journal.outstanding(), 2);
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!((value(FORWARD), value(FORWARD_V6)), ("0".to_owned(), "0".to_owned()));
    });
}

#[test]
fn forwarding_that_was_on_before_stays_on() {
    in_namespace(|| async {
        let (host, mut journal, mut applied) = (Host::open().unwrap(), Journal::in_memory(), Applied::default());
        router();
        assert!(forwarding::enable(&host, true, true, &mut applied, &mut journal).await.is_empty());
        assert_eq!((applied.changes().count(), journal.outstanding()), (0, 0));
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!((value(FORWARD), value(FORWARD_V6)), ("1".to_owned(), "1".to_owned()));
    });
}

#[test]
fn what_somebody_set_since_is_left_to_him() {
    in_namespace(|| async {
        set("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0");
        let sysctl = Sysctl::AcceptRa("eth0".to_owned());
        let (host, mut journal, mut applied) = (Host::open().unwrap(), Journal::in_memory(), Applied::default());
        applied.add(&host, Change::Sysctl(sysctl.clone()), &mut journal).await.unwrap();
        assert_eq!(sysctl.read().unwrap(), 2);
        set("/proc/sys/net/ipv6/conf/eth0/accept_ra", "1");
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(sysctl.read().unwrap(), 1);
        Sysctl::AcceptRa("gone0".to_owned()).restore(0).unwrap();
    });
}

/// A router advertisement from fe80::1 with a lifetime of 1,800 s (RFC 4861 §4.2).
fn advertisement() -> Vec<u8> {
    let addresses = [octets(address("fe80::1")), octets(address("ff02::1"))].concat();
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let sum = checksum::pseudo_header(&addresses, 58, icmp.len()).bytes(&icmp).checksum();
    icmp[2..4].copy_from_slice(&sum);
    packet(&addresses, 58, 255, &icmp)
}

fn has_advertised_route() -> bool {
    ip("-6 route show default dev tunu").contains("fe80::1")
}

/// An uplink whose default route came in an advertisement.
fn advertised_uplink() -> TunQueue {
    set(FORWARD_V6, "0");
    let uplink = tun("tunu", &["2001:db8:9::2/64", "fe80::2/64"]);
    ip("-6 route del default");
    let deadline = Instant::now() + LONG;
    while !has_advertised_route() {
        assert!(Instant::now() < deadline, "the kernel takes the advertisement");
        write(&uplink, &advertisement());
        std::thread::sleep(Duration::from_millis(10));
    }
    uplink
}

#[test]
fn ipv6_forwarding_does_not_cost_the_host_its_own_route() {
    in_namespace(|| async {
        let _uplink = advertised_uplink();
        let (host, mut journal, mut applied) = (Host::open().unwrap(), Journal::in_memory(), Applied::default());
        let failures = forwarding::enable(&host, false, true, &mut applied, &mut journal).await;
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(value("/proc/sys/net/ipv6/conf/tunu/accept_ra"), "2");
        assert!(has_advertised_route());
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(value("/proc/sys/net/ipv6/conf/tunu/accept_ra"), "1");
        assert!(has_advertised_route());
    });
    // That is what it is for.
    in_namespace(|| async {
        let _uplink = advertised_uplink();
        set(FORWARD_V6, "1");
        assert!(!has_advertised_route());
    });
}

#[test]
fn a_read_only_proc_is_told_with_what_to_write_and_is_no_matter_when_it_is_on() {
    in_namespace(|| async {
        set(FORWARD, "0");
        crate::sys::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
        let mount =
            |words: &[&str]| assert!(Command::new("mount").args(words).status().unwrap().success(), "{words:?}");
        mount(&["--make-rprivate", "/"]);
        mount(&["--bind", "/proc/sys", "/proc/sys"]);
        mount(&["-o", "remount,bind,ro", "/proc/sys"]);
        let (host, mut journal, mut applied) = (Host::open().unwrap(), Journal::in_memory(), Applied::default());
        let failures = forwarding::enable(&host, true, false, &mut applied, &mut journal).await;
        let [HostError::Sysctl { sysctl: Sysctl::ForwardIpv4, source }] = failures.as_slice() else {
            panic!("{failures:?}");
        };
        assert_eq!(source.raw_os_error(), Some(libc::EROFS));
        let sentence = failures[0].to_string();
        for part in ["net.ipv4.ip_forward cannot be set", "--sysctl net.ipv4.ip_forward=1", "sysctl -w"] {
            assert!(sentence.contains(part), "{part} in: {sentence}");
        }
        assert_eq!(journal.outstanding(), 0);
        mount(&["-o", "remount,bind,rw", "/proc/sys"]);
        set(FORWARD, "1");
        mount(&["-o", "remount,bind,ro", "/proc/sys"]);
        assert!(forwarding::enable(&host, true, false, &mut applied, &mut journal).await.is_empty());
    });
}

// The interface.

fn settings(interface: Interface) -> GatewaySettings {
    GatewaySettings {
        mtu: 1400,
        tx_queue_len: Some(500),
        gso_max_size: Some(60_000),
        ipv4: Some(Ipv4Setting { local: "10.8.0.1".parse().unwrap(), link: Ipv4Link::Prefix(24) }),
        ipv6: Some(("fd00:8::1".parse().unwrap(), 64)),
        routes: vec![
            route("10.77.0.9", 24, None, Some(50)),
            route("fd00:77::9", 64, None, None),
            route("10.78.0.0", 24, Some("192.0.2.1"), None),
            route("10.77.0.9", 24, None, Some(50)),
        ],
        nat: Some(Nat::for_gateway("a", &interface.name, &pools(), true, false).unwrap()),
        forwarding: true,
        interface,
    }
}

fn route(dest: &str, prefix: u8, gateway: Option<&str>, metric: Option<u32>) -> GatewayRoute {
    GatewayRoute { dest: address(dest), prefix, gateway: gateway.map(address), metric }
}

fn everything() -> (Vec<String>, String, String, String) {
    (picture(), nft("list ruleset"), value(FORWARD), value(FORWARD_V6))
}

fn no_router() {
    set(FORWARD, "0");
    set(FORWARD_V6, "0");
}

#[test]
fn a_gateway_is_raised_and_leaves_no_trace() {
    in_namespace(|| async {
        no_router();
        let (host, before, directory) = (Host::open().unwrap(), everything(), directory());
        let mut journal = Journal::create(&directory, "gateway").unwrap();
        let settings = settings(host.interface("tun0").await.unwrap());
        let raised = gateway_link::raise(&host, &settings, &mut journal).await.unwrap();
        assert_eq!(raised.notes, [""; 0]);
        let link = ip("link show dev tun0");
        assert!(link.contains("mtu 1400") && link.contains("qlen 500") && link.contains(",UP"), "{link}");
        let addresses = ip("addr show dev tun0");
        assert!(addresses.contains("inet 10.8.0.1/24") && addresses.contains("inet6 fd00:8::1/64"), "{addresses}");
        assert!(ip("route show 10.77.0.0/24").contains("dev tun0 proto 183 scope link metric 50"));
        assert!(ip("-6 route show fd00:77::/64").contains("dev tun0"));
        assert!(ip("route show 10.78.0.0/24").contains("via 192.0.2.1 dev eth0"));
        assert!(nft("list tables").contains("table inet minivpn_a"));
        assert_eq!((value(FORWARD), value(FORWARD_V6)), ("1".to_owned(), "1".to_owned()));
        // Table, link, two addresses, three routes, two sysctls.
        assert_eq!((raised.applied.changes().count(), journal.outstanding()), (9, 9));
        assert!(raised.applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(everything(), before);
        drop(journal);
        std::fs::remove_dir(&directory).unwrap();
    });
}

#[test]
fn what_a_killed_gateway_left_is_undone_by_the_next_start() {
    in_namespace(|| async {
        no_router();
        let (host, before, directory) = (Host::open().unwrap(), everything(), directory());
        let mut journal = Journal::create(&directory, "gateway").unwrap();
        let settings = settings(host.interface("tun0").await.unwrap());
        let raised = gateway_link::raise(&host, &settings, &mut journal).await.unwrap();
        // Neither is told: that is what a kill looks like.
        drop((raised, journal));
        assert_ne!(everything(), before);
        let recovery = journal::recover(&directory, &host).await;
        assert_eq!((recovery.undone.len(), recovery.failed.len()), (9, 0), "{recovery:?}");
        assert!(recovery.undone.contains(&"removing nftables table inet minivpn_a".to_owned()), "{recovery:?}");
        assert_eq!(everything(), before);
        std::fs::remove_dir(&directory).unwrap();
    });
}

#[test]
fn a_gateway_that_cannot_be_raised_changes_nothing() {
    in_namespace(|| async {
        no_router();
        let (host, before, mut journal) = (Host::open().unwrap(), everything(), Journal::in_memory());
        let mut settings = settings(host.interface("tun0").await.unwrap());
        settings.routes.push(route("10.79.0.0", 24, Some("198.51.100.77"), None));
        ip("route del default");
        let without_default = everything();
        let error = gateway_link::raise(&host, &settings, &mut journal).await.unwrap_err().to_string();
        assert!(error.contains("10.79.0.0/24 via 198.51.100.77"), "{error}");
        assert_eq!((everything(), journal.outstanding()), (without_default, 0));
        ip("route add default via 192.0.2.1 dev eth0");
        assert_eq!(everything(), before);
    });
}

#[test]
fn a_point_to_point_gateway_has_its_peer() {
    in_namespace(|| async {
        let (host, mut journal) = (Host::open().unwrap(), Journal::in_memory());
        let mut settings = settings(host.interface("tun0").await.unwrap());
        let link = Ipv4Link::Peer("10.8.0.2".parse().unwrap());
        settings.ipv4 = Some(Ipv4Setting { local: "10.8.0.1".parse().unwrap(), link });
        settings.routes = vec![route("10.8.0.0", 24, None, None)];
        gateway_link::raise(&host, &settings, &mut journal).await.unwrap();
        assert!(ip("addr show dev tun0").contains("inet 10.8.0.1 peer 10.8.0.2/32"));
        assert!(ip("route get 10.8.0.99").contains("dev tun0 src 10.8.0.1"));
    });
}

#[test]
fn several_queues_of_one_device_are_one_link() {
    in_namespace(|| async {
        let options = TunOptions { name: "tunq".to_owned(), multi_queue: true, offload: true };
        let _queues = [TunQueue::open(&options).unwrap(), TunQueue::open(&options).unwrap()];
        let (host, mut journal) = (Host::open().unwrap(), Journal::in_memory());
        let settings = settings(host.interface("tunq").await.unwrap());
        let raised = gateway_link::raise(&host, &settings, &mut journal).await.unwrap();
        assert_eq!(raised.notes, [""; 0]);
        assert!(ip("addr show dev tunq").contains("inet 10.8.0.1/24"));
        assert!(raised.applied.undo(&host, &mut journal).await.is_empty());
    });
}

#[test]
fn ipv6_that_is_switched_off_or_does_not_fit_is_left_out_with_a_note() {
    let interface = Interface { name: "tun0".to_owned(), index: 1 };
    let is_ipv6 = |change: &Change| match change {
        Change::Address(own) => own.local.is_ipv6(),
        Change::Route(route) => route.dest.is_ipv6(),
        _ => false,
    };
    let count = |mtu: u32, enabled: bool| {
        let settings = GatewaySettings { mtu, ..settings(interface.clone()) };
        let plan = gateway_link::plan(&settings, enabled);
        (plan.changes.iter().filter(|change| is_ipv6(change)).count(), plan.notes)
    };
    assert_eq!(count(1280, true), (2, vec![]));
    let (left, notes) = count(1280, false);
    assert!(left == 0 && notes[0].contains("disable_ipv6=0"), "{notes:?}");
    let (left, notes) = count(1279, true);
    assert!(left == 0 && notes[0].contains("tun-mtu 1279 is below 1280"), "{notes:?}");
    let none = GatewaySettings { ipv6: None, routes: vec![], ..settings(interface) };
    assert_eq!(gateway_link::plan(&none, false).notes, [""; 0]);
    assert!(matches!(gateway_link::plan(&none, false).changes[0], Change::Nat(_)), "the firewall stands first");
}

#[test]
fn the_uplink_decides_whether_local_ipv6_is_masqueraded() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let tunnel = host.interface("tun0").await.unwrap();
        let both = gateway_link::nat_for(&host, "a", &tunnel, &pools(), false).await.unwrap();
        assert_eq!(both.masquerade, [(address("10.8.0.0"), 24), (address("fd00:8::"), 64)]);
        ip("-6 route del default");
        let v4 = gateway_link::nat_for(&host, "a", &tunnel, &pools(), false).await.unwrap();
        assert_eq!(v4.masquerade, [(address("10.8.0.0"), 24)]);
        let error = gateway_link::nat_for(&host, "a b", &tunnel, &pools(), false).await.unwrap_err();
        assert!(error.to_string().contains("cannot name a gateway"), "{error}");
    });
}

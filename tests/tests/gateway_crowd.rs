//! Many clients at one gateway, stock and ours mixed: who reaches whom, who may come in, and what they notice of a control
//! process that dies, of a reload, and of somebody else's revocation.

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};
use tests::crowd::{Member, Streams, gather, unanswered_pairs};
use tests::gateway::{Gateway, RENEGOTIATED, Row};
use tests::netns::{INNER4, Net};
use tests::pki::Authority;
use tests::process::{send, tail, until};
use tests::setup::Setup;
use tests::stock::UP;
use tests::temp::Temp;
use tests::traffic::{Shape, transfer};

/// A rate that many clients at once leave time for.
const CALM: Shape = Shape { rate: 100, payload: 200 };

fn crowd_size() -> u16 {
    if tests::long() { 50 } else { 8 }
}

struct Scene {
    gateway: Gateway,
    members: Vec<Member>,
    net: Net,
    temp: Temp,
}

fn scene(setup: &Setup, root: &Authority, count: u16) -> Scene {
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, setup);
    let members = gather(&net, setup, root, count);
    gateway.wait_clients(usize::from(count), Duration::from_secs(5));
    Scene { gateway, members, net, temp }
}

/// Sessions by the names of their clients.
fn sessions(rows: &[Row]) -> BTreeMap<String, (u64, SocketAddr)> {
    rows.iter().map(|row| (row.name.clone(), (row.id, row.real_address))).collect()
}

#[test]
fn clients_reach_each_other_when_they_may() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root).server("client-to-client");
    let Scene { gateway, members, net, temp: _temp } = scene(&setup, &root, crowd_size());
    assert_eq!(unanswered_pairs(&members), [], "pairs without an answer; {}", gateway.status()["workers"]);
    for (from, to) in [(0, 1), (1, 0), (0, 2), (1, 3)] {
        let target = SocketAddr::from((members[to].inner4, 5001));
        let sent = transfer(&members[from].ns, &members[to].ns, target, 2_000_000);
        assert!(sent.same, "{from} to {to}: {} bytes arrived", sent.received);
    }
    assert_eq!(net.server.ping(members[0].inner4.into(), 50), 50, "the gateway itself is reached as well");
    assert_eq!(members[0].ns.ping(INNER4.into(), 50), 50);
    counters_agree(&gateway, true);
}

#[test]
fn clients_do_not_reach_each_other_when_they_may_not() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let Scene { gateway, members, net, temp: _temp } = scene(&setup, &root, crowd_size());
    // A host that forwards would let them through: that is for its firewall, which `gateway run` leaves alone.
    let pairs = members.len() * (members.len() - 1) * 2;
    assert_eq!(unanswered_pairs(&members).len(), pairs, "nobody answers anybody");
    for member in &members {
        assert_eq!(member.ns.ping(INNER4.into(), 20), 20, "{} reaches the gateway", member.name);
        assert_eq!(net.server.ping(member.inner6.into(), 20), 20, "the gateway reaches {}", member.name);
    }
    counters_agree(&gateway, false);
}

/// What clients sent and got is what went through the TUN device, by the counters of both.
///
/// Packets from one client to another are in the counters of both clients, and in neither of the TUN's.
fn counters_agree(gateway: &Gateway, relayed: bool) {
    // A packet that is under way is in one of the two sums already.
    thread::sleep(Duration::from_millis(500));
    let status = gateway.status();
    let workers = status["workers"].as_array().expect("a list of workers");
    let clients = status["clients"].as_array().expect("a list of clients");
    let of_workers =
        |way: &str, what: &str| workers.iter().filter_map(|worker| worker[way][what].as_u64()).sum::<u64>();
    let of_clients = |what: &str| clients.iter().filter_map(|client| client[what].as_u64()).sum::<u64>();
    let (received, sent) = (of_clients("bytes_in"), of_clients("bytes_out"));
    println!("clients: {received} in, {sent} out; workers: {workers:?}");
    assert!(received > 0 && sent > 0);
    assert_eq!(received, of_workers("inbound", "bytes"), "bytes of clients: {status}");
    assert_eq!(sent, of_workers("outbound", "bytes"), "bytes to clients: {status}");
    assert_eq!(of_workers("relayed", "packets") > 0, relayed, "{status}");
    if relayed {
        return;
    }
    // Both directions of a client are its worker's.
    for (n, worker) in workers.iter().enumerate() {
        let own = || clients.iter().filter(|client| client["worker"].as_u64() == Some(n as u64));
        let sum = |what: &str| own().filter_map(|client| client[what].as_u64()).sum::<u64>();
        assert!(own().count() > 0, "worker {n} has no client: {status}");
        assert_eq!(Some(sum("bytes_in")), worker["inbound"]["bytes"].as_u64(), "worker {n}: {status}");
        assert_eq!(Some(sum("bytes_out")), worker["outbound"]["bytes"].as_u64(), "worker {n}: {status}");
    }
}

#[test]
fn a_second_client_of_the_same_name_takes_the_place_of_the_first() {
    for both in [false, true] {
        let root = Authority::new("Test Root");
        let mut setup = Setup::under(&root);
        if both {
            setup = setup.server("duplicate-cn");
        }
        let Scene { gateway, mut members, net, temp: _temp } = scene(&setup, &root, 2);
        let first = gateway.clients();
        // The second one comes again, with the first one's certificate.
        members[1].client.stop();
        gateway.wait_clients(1, Duration::from_secs(5));
        members[1].id = members[0].id.clone();
        members[1].again(&setup);
        members[1].client.expect_up();
        let rows = gateway.wait_clients(if both { 2 } else { 1 }, Duration::from_secs(3));
        assert!(rows.iter().all(|row| row.name == "client-0"), "{rows:?}");
        let kept = rows.iter().any(|row| first.iter().any(|old| old.id == row.id));
        assert_eq!(kept, both, "the first one's session: {first:?}, {rows:?}");
        assert_eq!(members[1].ns.ping(INNER4.into(), 20), 20);
        if both {
            assert_eq!(members[0].ns.ping(INNER4.into(), 20), 20);
            assert_ne!(rows[0].ipv4, rows[1].ipv4, "addresses of their own");
        }
        drop(net);
    }
}

#[test]
fn one_more_client_than_allowed_waits_until_another_leaves() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root).server("max-clients 2").client("hand-window 4").client("connect-retry 1 1");
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let mut members = gather(&net, &setup, &root, 2);
    gateway.wait_clients(2, Duration::from_secs(5));
    let third = Temp::new();
    let launch = tests::ours::Launch { stock: true, ..Default::default() };
    let mut client = tests::ours::Client::launch(&net, &third, &setup, &setup.profile(), &launch);
    assert!(!client.process.wait_log(&[UP], Duration::from_secs(3)), "a third client came in");
    assert_eq!(gateway.clients().len(), 2);
    assert_eq!(members[0].ns.ping(INNER4.into(), 20), 20, "those that are there stay");
    members[0].client.stop();
    let came = client.process.wait_log(&[UP], Duration::from_secs(25));
    assert!(came, "it did not come in:\n{}\n{}", tail(&client.process.log(), 30), gateway.process.log());
    gateway.wait_clients(2, Duration::from_secs(2));
}

#[test]
fn a_killed_control_process_of_the_gateway_costs_nobody_anything() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let Scene { mut gateway, members, net, temp: _temp } = scene(&setup, &root, if tests::long() { 50 } else { 4 });
    let before = sessions(&gateway.clients());
    let streams = Streams::start(&net, &members, if members.len() > 10 { Shape { rate: 20, ..CALM } } else { CALM });
    thread::sleep(Duration::from_secs(1));
    for round in 1..=if tests::long() { 5 } else { 3 } {
        let pid = gateway.control_process().expect("the supervisor has a control process");
        let done = gateway.renegotiations();
        let killed = Instant::now();
        send(pid, Signal::KILL);
        // Each session goes on by a renegotiation.
        let limit = Duration::from_secs(10);
        let again = gateway.process.wait_count(&[RENEGOTIATED], done + members.len(), limit);
        let log = tail(&gateway.process.log(), 30);
        let count = gateway.renegotiations() - done;
        assert!(again, "round {round}: {count} of {} renegotiated:\n{log}", members.len());
        println!("round {round}: all renegotiated after {:?}", killed.elapsed());
        assert_ne!(gateway.control_process(), Some(pid));
        thread::sleep(Duration::from_secs(1));
    }
    streams.finish_complete();
    assert_eq!(sessions(&gateway.clients()), before, "the same sessions");
    assert!(members.iter().all(|member| member.ups() == 1), "nobody came anew");
}

#[test]
fn a_revoked_client_is_out_at_once_and_others_lose_nothing() {
    let root = Authority::new("Test Root");
    let files = Temp::new();
    let crl = files.write("crl.pem", &root.crl(&[]));
    let setup = Setup::under(&root).server(&format!("crl-verify {}", crl.display())).client("connect-retry 1 1");
    let Scene { mut gateway, mut members, net, temp: _temp } = scene(&setup, &root, 3);
    let before = sessions(&gateway.clients());
    let streams = Streams::start(&net, &members[1..], CALM);
    thread::sleep(Duration::from_secs(1));

    files.write("crl.pem", &root.crl(&[members[0].id.serial]));
    let start = Instant::now();
    gateway.process.signal(Signal::HUP);
    let gone = until(Duration::from_secs(1), || gateway.clients().iter().all(|row| row.name != "client-0"));
    assert!(gone, "a revoked client is still there:\n{}", gateway.process.log());
    println!("out after {:?}", start.elapsed());
    let ip: IpAddr = members[0].inner4.into();
    assert!(net.server.until_answered(ip, Duration::from_millis(600)).is_none(), "it still answers");

    members[0].again(&setup);
    assert!(!members[0].client.process.wait_log(&[UP], Duration::from_secs(4)), "a revoked client came in again");
    // And a reload that changes nothing, and one whose file is broken.
    gateway.reload();
    let good = std::fs::read_to_string(&crl).expect("it is there");
    files.write("crl.pem", "nonsense\n");
    gateway.process.signal(Signal::HUP);
    let said = gateway.process.wait_log(&["the old configuration stays"], Duration::from_secs(3));
    assert!(said, "{}", gateway.process.log());
    files.write("crl.pem", &good);
    gateway.reload();
    streams.finish_complete();
    let after = sessions(&gateway.clients());
    let rest: BTreeMap<_, _> = before.into_iter().filter(|(name, _)| name != "client-0").collect();
    assert_eq!(after, rest, "the others' sessions went on");
}

#[test]
fn a_reload_changes_what_new_clients_get_and_disturbs_nobody() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let Scene { mut gateway, mut members, net, temp } = scene(&setup, &root, 2);
    let streams = Streams::start(&net, &members[..1], Shape::SMALL);
    let text = setup.server_config(&temp) + "push \"route 10.99.0.0 255.255.0.0\"\nclient-to-client\n";
    temp.write("server.conf", &text);
    for _ in 0..3 {
        gateway.reload();
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(unanswered_pairs(&members), [], "client-to-client is on now");
    members[1].client.stop();
    members[1].again(&setup);
    members[1].client.expect_up();
    assert!(members[1].ns.run("ip route").contains("10.99.0.0/16"), "{}", members[1].ns.run("ip route"));
    assert!(!members[0].ns.run("ip route").contains("10.99.0.0/16"));
    streams.finish_complete();
    assert_eq!(members[0].ups(), 1);
}

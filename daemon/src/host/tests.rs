//! The host's changes against a real kernel, each test in a network namespace of its own:
//!
//! ```text
//!   eth0 192.0.2.2/24 (veth) ── gw0 (its other end)      default via 192.0.2.1 dev eth0
//!   eth0 2001:db8::2/64                                  default via 2001:db8::1 dev eth0
//!   tun0 (veth, its other end tun0p), down               stands for the TUN device
//! ```

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

use super::change::Change;
use super::journal::{self, Journal};
use super::plan::{Gateway, Ipv4Link, Ipv4Setting, Plan, RedirectFlags, RouteWish, TunnelSettings};
use super::privileges;
use super::routes::{Family, PROTOCOL, Route};
use super::watch::{HostEvent, Watch};
use super::{Host, HostError};

const SERVER: &str = "198.51.100.1";

/// Runs a test in a network namespace of its own, on a thread of its own, with a runtime of its own.
pub(super) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        crate::sys::unshare(UnshareFlags::NEWNET).unwrap();
        build_topology();
        run(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn build_topology() {
    // Link-local addresses come when they like; they would blur the pictures.
    std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
    for line in [
        "link set lo up",
        "link add eth0 type veth peer name gw0",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 2001:db8::2/64 dev eth0 nodad",
        "link set gw0 up",
        "link set eth0 up",
        "route add default via 192.0.2.1 dev eth0",
        "-6 route add default via 2001:db8::1 dev eth0",
        "link add tun0 type veth peer name tun0p",
        "link set tun0p up",
    ] {
        ip(line);
    }
}

pub(super) fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Everything that a plan may touch, as iproute2 sees it.
pub(super) fn picture() -> Vec<String> {
    let without_volatile = |text: String| text.split("valid_life_time").next().map(str::to_owned).unwrap_or_default();
    let addresses: Vec<String> = ip("-o addr show dev tun0").lines().map(str::to_owned).collect();
    let link = ip("-o link show dev tun0");
    // Which of the flags and numbers are ours to restore; the carrier's state may lag.
    let link: Vec<String> =
        link.split([' ', '\\']).filter(|word| word.parse::<u32>().is_ok()).map(str::to_owned).collect();
    let up = ip("link show dev tun0 up").is_empty();
    let routes = ["-4 route show", "-6 route show"].map(|line| {
        let mut lines: Vec<String> = ip(line).lines().map(|line| line.trim().replace(" linkdown", "")).collect();
        lines.sort();
        lines.join("\n")
    });
    let mut all: Vec<String> = addresses.into_iter().map(without_volatile).collect();
    all.extend(link);
    all.push(format!("down {up}"));
    all.extend(routes);
    all
}

pub(super) fn directory() -> PathBuf {
    let name = std::thread::current().id();
    let path =
        std::env::temp_dir().join(format!("minivpn-test-{}-{name:?}", std::process::id()).replace(['(', ')'], ""));
    let _ = std::fs::remove_dir_all(&path);
    path
}

async fn settings(host: &Host) -> TunnelSettings {
    TunnelSettings {
        interface: host.interface("tun0").await.unwrap(),
        mtu: 1400,
        tx_queue_len: Some(500),
        gso_max_size: Some(60_000),
        ipv4: Some(Ipv4Setting { local: "10.8.0.2".parse().unwrap(), link: Ipv4Link::Prefix(24) }),
        ipv6: Some(("fd00:8::2".parse().unwrap(), 64)),
        routes: vec![
            wish("10.1.0.0", 16, Gateway::Vpn, Some(50)),
            wish("10.2.0.0", 16, Gateway::Net, None),
            wish("2001:db8:1::", 48, Gateway::Vpn, None),
        ],
        redirect: Some(RedirectFlags { def1: true, ipv6: true, ..RedirectFlags::default() }),
        route_gateway: Some("10.8.0.1".parse().unwrap()),
        route_metric: None,
        server: SERVER.parse().unwrap(),
    }
}

fn wish(dest: &str, prefix: u8, gateway: Gateway, metric: Option<u32>) -> RouteWish {
    RouteWish { dest: dest.parse().unwrap(), prefix, gateway, metric }
}

async fn plan(host: &Host, settings: &TunnelSettings) -> Plan {
    let around = host.surroundings(&settings.interface, settings.server).await.unwrap();
    let plan = Plan::make(settings, &around);
    assert_eq!(plan.notes, [] as [String; 0]);
    plan
}

#[test]
fn what_is_applied_is_there_and_what_is_undone_is_gone() {
    in_namespace(|| async {
        let (host, before, directory) = (Host::open().unwrap(), picture(), directory());
        let mut journal = Journal::create(&directory, "one").unwrap();
        let settings = settings(&host).await;
        let plan = plan(&host, &settings).await;
        let applied = host.apply(&plan, &mut journal).await.unwrap();

        assert_eq!(applied.changes().count(), plan.changes.len());
        assert_eq!(journal.outstanding(), plan.changes.len());
        let link = ip("link show dev tun0");
        assert!(link.contains("mtu 1400") && link.contains("qlen 500") && link.contains(",UP"), "{link}");
        let addresses = ip("addr show dev tun0");
        assert!(addresses.contains("inet 10.8.0.2/24") && addresses.contains("inet6 fd00:8::2/64"), "{addresses}");
        let own = ip("-4 route show proto 183");
        for expected in [
            "0.0.0.0/1 via 10.8.0.1 dev tun0",
            "128.0.0.0/1 via 10.8.0.1 dev tun0",
            "198.51.100.1 via 192.0.2.1 dev eth0",
            "10.1.0.0/16 via 10.8.0.1 dev tun0 metric 50",
            "10.2.0.0/16 via 192.0.2.1 dev eth0",
        ] {
            assert!(own.contains(expected), "{expected} in {own}");
        }
        assert_eq!(host.own_routes(Family::V4).await.unwrap().len(), 5);
        assert_eq!(host.own_routes(Family::V6).await.unwrap().len(), 5);
        assert!(ip("route get 203.0.113.9").contains("dev tun0"));
        assert!(ip("route get 198.51.100.1").contains("via 192.0.2.1 dev eth0"));
        assert!(ip("-6 route get 2001:db8:ffff::1").contains("dev tun0"));

        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(picture(), before);
        assert_eq!(journal.outstanding(), 0);
        drop(journal);
        assert!(std::fs::read_dir(&directory).unwrap().next().is_none(), "the journal is removed");
        std::fs::remove_dir(&directory).unwrap();
    });
}

#[test]
fn a_default_route_is_preceded_and_comes_back() {
    in_namespace(|| async {
        let (host, before) = (Host::open().unwrap(), picture());
        let mut journal = Journal::in_memory();
        let settings = TunnelSettings { redirect: Some(RedirectFlags::default()), ..settings(&host).await };
        let applied = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap();
        assert!(ip("route get 203.0.113.9").contains("via 10.8.0.1 dev tun0"));
        assert!(ip("route get 198.51.100.1").contains("via 192.0.2.1 dev eth0"));
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(picture(), before);
    });
}

#[test]
fn the_way_out_is_found() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let tunnel = host.interface("tun0").await.unwrap();
        let eth = host.interface("eth0").await.unwrap();
        let around = host.surroundings(&tunnel, SERVER.parse().unwrap()).await.unwrap();
        for (hop, gateway) in
            [(&around.default_v4, "192.0.2.1"), (&around.default_v6, "2001:db8::1"), (&around.to_server, "192.0.2.1")]
        {
            let hop = hop.as_ref().unwrap();
            assert_eq!((hop.gateway, &hop.interface), (Some(gateway.parse().unwrap()), &eth));
        }
        assert!(around.ipv6);
        // On the link itself: no gateway. On this host: the loopback.
        let near = host.route_to("192.0.2.77".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((near.gateway, near.interface), (None, eth.clone()));
        assert_eq!(host.route_to("127.0.0.1".parse().unwrap()).await.unwrap().unwrap().interface.name, "lo");
        // The lower metric wins, ours and the tunnel's do not count.
        ip("route add default via 192.0.2.9 dev eth0 metric 5");
        assert_eq!(host.default_route(Family::V4, None).await.unwrap().unwrap().metric, 0);
        ip("route del default via 192.0.2.1");
        assert_eq!(host.default_route(Family::V4, None).await.unwrap().unwrap().metric, 5);
        assert_eq!(host.default_route(Family::V4, Some(&eth)).await.unwrap(), None);
        ip("route del default via 192.0.2.9");
        ip("route add default via 192.0.2.9 dev eth0 proto 183");
        assert_eq!(host.default_route(Family::V4, None).await.unwrap(), None);
        ip("route del default");
        assert_eq!(host.route_to(SERVER.parse().unwrap()).await.unwrap(), None);
        assert!(matches!(host.interface("nothing0").await, Err(HostError::NoInterface(_))));
    });
}

#[test]
fn what_was_there_before_stays() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        ip("addr add 10.8.0.2/24 dev tun0");
        ip("route add 198.51.100.1/32 via 192.0.2.1 dev eth0");
        let before = picture();
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        let plan = plan(&host, &settings).await;
        let applied = host.apply(&plan, &mut journal).await.unwrap();
        assert_eq!(applied.changes().count(), plan.changes.len() - 2);
        assert_eq!(journal.outstanding(), plan.changes.len() - 2);
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(picture(), before);
    });
}

#[test]
fn a_route_that_another_vpn_holds_is_left_out() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        ip("route add 10.1.0.0/16 dev eth0 metric 50");
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        let plan = plan(&host, &settings).await;
        let applied = host.apply(&plan, &mut journal).await.unwrap();
        assert_eq!(applied.changes().count(), plan.changes.len() - 1);
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert!(ip("route show 10.1.0.0/16").contains("eth0"));
    });
}

#[test]
fn a_redirect_that_another_vpn_holds_is_refused() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        ip("route add 128.0.0.0/1 dev eth0");
        let before = picture();
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        let error = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap_err().to_string();
        assert!(error.contains("128.0.0.0/1") && error.contains("another VPN"), "{error}");
        assert_eq!(picture(), before);
        assert_eq!(journal.outstanding(), 0);
    });
}

#[test]
fn what_others_removed_meanwhile_is_no_trouble() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let mut journal = Journal::in_memory();
        let applied = host.apply(&plan(&host, &settings(&host).await).await, &mut journal).await.unwrap();
        ip("route del 198.51.100.1");
        ip("link del tun0");
        assert_eq!(
            applied.undo(&host, &mut journal).await.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [] as [String; 0]
        );
        assert_eq!(ip("route show proto 183"), "");
    });
}

#[test]
fn a_namesake_of_the_interface_is_left_alone() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let mut journal = Journal::in_memory();
        let applied = host.apply(&plan(&host, &settings(&host).await).await, &mut journal).await.unwrap();
        ip("link del tun0");
        ip("link add tun0 type veth peer name tun0p");
        ip("link set tun0 up");
        ip("addr add 10.8.0.2/24 dev tun0");
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert!(ip("addr show dev tun0").contains("10.8.0.2/24"));
        assert!(ip("link show dev tun0").contains(",UP"));
    });
}

#[test]
fn a_failure_in_the_middle_undoes_what_was_done() {
    in_namespace(|| async {
        let (host, before) = (Host::open().unwrap(), picture());
        let mut journal = Journal::in_memory();
        let mut settings = settings(&host).await;
        settings.routes.push(wish("10.3.0.0", 16, Gateway::Ip("172.31.0.1".parse().unwrap()), None));
        settings.redirect = None;
        let error = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap_err().to_string();
        assert!(error.starts_with("adding route 10.3.0.0/16 via 172.31.0.1 failed: "), "{error}");
        assert!(error.contains("gateway"), "{error}");
        assert_eq!(picture(), before);
        assert_eq!(journal.outstanding(), 0);
    });
}

#[test]
fn a_point_to_point_address_has_its_peer() {
    in_namespace(|| async {
        let (host, before) = (Host::open().unwrap(), picture());
        let mut journal = Journal::in_memory();
        let settings = TunnelSettings {
            ipv4: Some(Ipv4Setting {
                local: "10.8.0.6".parse().unwrap(),
                link: Ipv4Link::Peer("10.8.0.5".parse().unwrap()),
            }),
            route_gateway: None,
            ..settings(&host).await
        };
        let applied = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap();
        assert!(ip("addr show dev tun0").contains("inet 10.8.0.6 peer 10.8.0.5/32"));
        assert!(ip("route get 203.0.113.9").contains("via 10.8.0.5 dev tun0"));
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(picture(), before);
    });
}

#[test]
fn the_servers_route_follows_the_network() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        let mut applied = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap();
        let count = applied.changes().count();
        let eth = host.interface("eth0").await.unwrap();
        let hop = |gateway: &str| super::routes::NextHop {
            gateway: Some(gateway.parse().unwrap()),
            interface: eth.clone(),
            metric: 0,
        };

        applied.move_server_route(&host, settings.server, Some(&hop("192.0.2.9")), &mut journal).await.unwrap();
        assert!(ip("route get 198.51.100.1").contains("via 192.0.2.9 dev eth0"));
        // The same again, after the kernel flushed it with its link.
        ip("route del 198.51.100.1");
        applied.move_server_route(&host, settings.server, Some(&hop("192.0.2.9")), &mut journal).await.unwrap();
        assert!(ip("route get 198.51.100.1").contains("via 192.0.2.9 dev eth0"));
        assert_eq!((applied.changes().count(), journal.outstanding()), (count, count));
        applied.move_server_route(&host, settings.server, None, &mut journal).await.unwrap();
        assert_eq!((applied.changes().count(), journal.outstanding()), (count - 1, count - 1));
        assert!(ip("route get 198.51.100.1").contains("dev tun0"));
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        assert_eq!(ip("route show proto 183"), "");
    });
}

#[test]
fn events_come_and_our_own_do_not() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let mut watch = Watch::open().unwrap();
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        watch.ignore(Some(settings.interface.index));
        // All of this is ours (the other end of the veth pair is not, and its carrier changes).
        let applied = host.apply(&plan(&host, &settings).await, &mut journal).await.unwrap();
        assert!(applied.undo(&host, &mut journal).await.is_empty());
        ip("addr add 192.0.2.50/24 dev eth0");
        assert_eq!(next_but_links(&mut watch).await, HostEvent::AddressChanged);
        ip("route del default");
        assert_eq!(next_but_links(&mut watch).await, HostEvent::RouteChanged);
        ip("link set eth0 down");
        assert_eq!(watch.next().await.unwrap(), HostEvent::LinkChanged);
    });
}

async fn next_but_links(watch: &mut Watch) -> HostEvent {
    loop {
        match watch.next().await.unwrap() {
            HostEvent::LinkChanged => {}
            other => return other,
        }
    }
}

/// A child of the test executable, started before `main` (see `sys::tests`). `apply DIRECTORY`: makes the changes, says so
/// and waits to be killed. `drop`: becomes nobody and reports its rights. `notify`: tells the service manager everything.
pub(crate) fn child(mut words: impl Iterator<Item = std::ffi::OsString>) {
    match words.next().and_then(|word| word.into_string().ok()).as_deref() {
        Some("apply") => run(apply_and_wait(PathBuf::from(words.next().unwrap()))),
        Some("drop") => drop_and_report(),
        Some("notify") => crate::observe::notify::tests::say_everything(),
        other => eprintln!("the child does not know {other:?}"),
    }
    std::process::exit(0);
}

async fn apply_and_wait(directory: PathBuf) {
    let host = Host::open().unwrap();
    let mut journal = Journal::create(&directory, "crash").unwrap();
    let applied = host.apply(&plan(&host, &settings(&host).await).await, &mut journal).await.unwrap();
    println!("applied {}", applied.changes().count());
    std::future::pending::<()>().await;
}

fn drop_and_report() {
    let identity = privileges::identity(Some("12345"), None).unwrap();
    privileges::drop_to(&identity, privileges::Keep::default()).unwrap();
    privileges::check_net_admin().unwrap();
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap());
}

/// Ended with the test, however that ends.
struct TestChild(std::process::Child);

impl Drop for TestChild {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_child(words: &[&str]) -> TestChild {
    TestChild(Command::new("/proc/self/exe").arg("test-child").args(words).stdout(Stdio::piped()).spawn().unwrap())
}

#[test]
fn what_a_killed_process_left_is_undone_by_the_next() {
    in_namespace(|| async {
        let (host, before, directory) = (Host::open().unwrap(), picture(), directory());
        let mut child = start_child(&["apply", directory.to_str().unwrap()]);
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "applied 13\n");

        // It lives: nothing of it is touched, and its name is taken.
        let recovery = journal::recover(&directory, &host).await;
        assert!(recovery.undone.is_empty() && recovery.failed.is_empty(), "{recovery:?}");
        assert!(ip("route show proto 183").contains("0.0.0.0/1"));
        assert!(
            matches!(Journal::create(&directory, "crash"), Err(HostError::Busy { pid, .. }) if pid == child.0.id())
        );

        child.0.kill().unwrap();
        child.0.wait().unwrap();
        assert!(ip("route show proto 183").contains("0.0.0.0/1"), "the kernel does not undo it for us");
        let recovery = journal::recover(&directory, &host).await;
        assert_eq!(recovery.undone.len(), 13, "{recovery:?}");
        assert!(recovery.failed.is_empty(), "{recovery:?}");
        assert_eq!(picture(), before);
        assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
        assert!(Journal::create(&directory, "crash").is_ok());
        std::fs::remove_dir_all(&directory).unwrap();
    });
}

#[test]
fn dropping_privileges_keeps_net_admin_and_nothing_else() {
    let mut child = start_child(&["drop"]);
    let status = std::io::read_to_string(child.0.stdout.take().unwrap()).unwrap();
    assert!(child.0.wait().unwrap().success());
    // CAP_NET_ADMIN is bit 12.
    for expected in [
        "Uid:\t12345\t12345\t12345\t12345",
        "Gid:\t12345\t12345\t12345\t12345",
        "Groups:\t12345",
        "CapEff:\t0000000000001000",
        "CapPrm:\t0000000000001000",
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
    ] {
        assert!(status.contains(expected), "{expected} in {status}");
    }
}

fn route_record() -> super::change::Record {
    let gateway = Some("192.0.2.1".parse().unwrap());
    let route =
        Route { dest: SERVER.parse().unwrap(), prefix: 32, gateway, interface: None, metric: None, first: false };
    super::change::Record { change: Change::Route(route), before: None, was: None }
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_change_is_in_the_journal_before_it_is_made_and_gone_after_it_is_undone() {
    let directory = directory();
    let path = directory.join("a.journal");
    let mut journal = Journal::create(&directory, "a").unwrap();
    let first = journal.begin(&route_record()).unwrap();
    let second = journal.begin(&route_record()).unwrap();
    assert_eq!(lines(&path).len(), 3);
    assert!(lines(&path)[1].contains(SERVER));
    journal.finish(first).unwrap();
    assert_eq!(lines(&path).len(), 4);
    assert!(matches!(Journal::create(&directory, "a"), Err(HostError::Busy { .. })));
    drop(journal);
    assert!(path.exists(), "a change is outstanding");
    let mut journal = Journal::create(&directory, "a").unwrap();
    assert_eq!(lines(&path).len(), 1, "given up");
    journal.finish(second).unwrap();
    drop(journal);
    assert!(!path.exists());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn years_of_reconnecting_do_not_fill_the_journal() {
    let directory = directory();
    let mut journal = Journal::create(&directory, "a").unwrap();
    let kept = journal.begin(&route_record()).unwrap();
    for _ in 0..10_000 {
        let id = journal.begin(&route_record()).unwrap();
        journal.finish(id).unwrap();
    }
    assert!(lines(&directory.join("a.journal")).len() < 100);
    assert_eq!(journal.outstanding(), 1);
    journal.finish(kept).unwrap();
    assert_eq!(lines(&directory.join("a.journal")).len(), 1);
    drop(journal);
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn an_instance_name_cannot_leave_the_directory() {
    let directory = directory();
    for name in ["", "..", "../x", "a/b", ".hidden", "a b", &"x".repeat(65)] {
        assert!(matches!(Journal::create(&directory, name), Err(HostError::Journal { .. })), "{name}");
    }
    assert!(Journal::create(&directory, "office-2.ovpn_udp").is_ok());
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn only_we_can_read_the_journal() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let _journal = Journal::create(&directory, "a").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&directory), mode(&directory.join("a.journal"))), (0o700, 0o600));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn torn_and_foreign_journals_are_survived() {
    in_namespace(|| async {
        let (host, directory) = (Host::open().unwrap(), directory());
        std::fs::create_dir(&directory).unwrap();
        ip("route add 198.51.100.1/32 via 192.0.2.1 dev eth0 proto 183");
        let mut journal = Journal::create(&directory, "torn").unwrap();
        journal.begin(&route_record()).unwrap();
        drop(journal);
        let path = directory.join("torn.journal");
        let whole = std::fs::read_to_string(&path).unwrap();
        let dead = whole.replace(&format!("\"pid\":{}", std::process::id()), "\"pid\":1");

        // Another network namespace's: not ours to undo, from here it would look undone.
        std::fs::write(&path, dead.replace("\"namespace\":", "\"namespace\":9")).unwrap();
        assert!(journal::recover(&directory, &host).await.undone.is_empty());
        assert!(path.exists());
        // A living process of that number and start time, though it holds no lock.
        let living = whole.replace(
            &format!("\"pid\":{}", std::process::id()),
            &format!("\"pid\":{}", std::os::unix::process::parent_id()),
        );
        let start = |pid: u32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .unwrap()
                .rsplit_once(')')
                .unwrap()
                .1
                .split(' ')
                .nth(20)
                .unwrap()
                .to_owned()
        };
        let living = living.replace(
            &format!("\"start\":{}", start(std::process::id())),
            &format!("\"start\":{}", start(std::os::unix::process::parent_id())),
        );
        std::fs::write(&path, &living).unwrap();
        assert!(journal::recover(&directory, &host).await.undone.is_empty());
        assert!(ip("route show proto 183").contains(SERVER));
        // A dead one's, torn in its last line.
        std::fs::write(&path, format!("{dead}{{\"begin\":[7,{{\"chan")).unwrap();
        assert_eq!(journal::recover(&directory, &host).await.undone.len(), 1);
        assert_eq!(ip("route show proto 183"), "");
        assert!(!path.exists());
        std::fs::remove_dir(&directory).unwrap();
    });
}

#[test]
fn a_process_that_has_ended_owns_nothing_though_its_parent_has_not_asked() {
    let directory = directory();
    let mut journal = Journal::create(&directory, "zed").unwrap();
    journal.begin(&route_record()).unwrap();
    drop(journal);
    let path = directory.join("zed.journal");
    let fields = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(&format!("\"pid\":{}", std::process::id()), &format!("\"pid\":{}", child.id()));
    let start = |pid: u32| format!("\"start\":{}", fields(pid)[19]);
    std::fs::write(&path, text.replace(&start(std::process::id()), &start(child.id()))).unwrap();
    assert_eq!(journal::holder(&directory, "zed"), Some(child.id()));
    child.kill().unwrap();
    while fields(child.id())[0] != "Z" {
        std::thread::yield_now();
    }
    assert_eq!(journal::holder(&directory, "zed"), None);
    child.wait().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn our_protocol_number_is_the_documented_one() {
    assert_eq!(PROTOCOL, 183);
}

#[test]
fn the_longest_super_packet_is_set_and_put_back() {
    in_namespace(|| async {
        let size = || {
            let text = ip("-d link show dev tun0");
            let after = text.split("gso_max_size ").nth(1).unwrap();
            after.split_whitespace().next().unwrap().to_owned()
        };
        let (host, before) = (Host::open().unwrap(), size());
        let mut journal = Journal::in_memory();
        let settings = settings(&host).await;
        let plan = plan(&host, &settings).await;
        let applied = host.apply(&plan, &mut journal).await.unwrap();
        assert_eq!(size(), "60000");
        assert_eq!(applied.undo(&host, &mut journal).await.len(), 0);
        assert_eq!(size(), before);
        assert_ne!(before, "60000");
    });
}

#[test]
fn a_longer_super_packet_than_the_device_takes_is_no_reason_to_fail() {
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let settings = TunnelSettings { gso_max_size: Some(u32::MAX), ..settings(&host).await };
        let plan = plan(&host, &settings).await;
        host.apply(&plan, &mut Journal::in_memory()).await.unwrap();
        assert!(ip("link show dev tun0").contains("mtu 1400"));
    });
}

#[test]
fn what_a_tun_device_drops_is_read() {
    use dataplane::sys::tundev::{TunOptions, TunQueue};
    in_namespace(|| async {
        let host = Host::open().unwrap();
        let options = TunOptions { name: "tun5".into(), multi_queue: false, offload: false };
        let _queue = TunQueue::open(&options).unwrap();
        ip("link set tun5 txqueuelen 10 up");
        ip("addr add 10.9.0.1/24 dev tun5");
        let tun = host.interface("tun5").await.unwrap();
        assert_eq!(host.tx_dropped(&tun).await, Some(0));
        let socket = std::net::UdpSocket::bind("10.9.0.1:0").unwrap();
        for _ in 0..100 {
            socket.send_to(b"nobody reads", "10.9.0.2:9").unwrap();
        }
        assert!(host.tx_dropped(&tun).await.unwrap() >= 80);
        let gone = super::Interface { name: "tun6".into(), index: 99 };
        assert_eq!(host.tx_dropped(&gone).await, None);
    });
}

//! `gateway up` as a user would: one command, a profile for everybody, the way out through NAT, a revocation, and nothing left.

use rustix::process::Signal;
use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tests::gateway::{self, Gateway};
use tests::netns::{BESIDE4, BESIDE6, INNER4, INNER6, Net, Ns, SERVER4, SERVER6, crowd_address};
use tests::ours::{Client, Launch, addresses_in, executable};
use tests::process::{Process, until};
use tests::setup::Setup;
use tests::stock::UP;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};
use tests::unprivileged;

/// `minivpn gateway up` with a state directory of this test.
fn up(net: &Net, temp: &Temp, more: &[&str]) -> Gateway {
    let state = state_of(temp);
    let mut words = vec!["gateway", "up", "--state-dir", &state];
    words.extend(more);
    Gateway::launch(net, temp, &words, "default")
}

/// The words of a first run, with the addresses that the tests know.
fn first() -> Vec<String> {
    let endpoint = SERVER4.to_string();
    ["--endpoint", &endpoint, "--client", "alice,bob", "--pool", "10.8.0.0/24", "--pool-ipv6", "fd08::/64"]
        .map(str::to_owned)
        .to_vec()
}

fn state_of(temp: &Temp) -> String {
    temp.path().join("state").display().to_string()
}

fn connect(ns: &Ns, temp: &Temp, file: &Path, stock: bool) -> Client {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let launch = Launch { stock, ..Launch::default() };
    Client::launch_in(ns, temp, &Setup::new(), &(text + "verb 4\nconnect-retry 1 1\n"), &launch)
}

/// Everything of the host that a gateway may change.
fn host(ns: &Ns) -> String {
    let sysctls = ns.run("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding");
    format!("{}{}{sysctls}", ns.snapshot(), ns.run("nft list ruleset"))
}

/// Connects by TCP from one namespace to another's address; whom that one sees.
fn seen_as(from: &Ns, to: &Ns, target: IpAddr) -> IpAddr {
    let target = SocketAddr::new(target, 5002);
    let listener = to.inside(|| TcpListener::bind(target).expect("the target address is there"));
    let stream = from.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    let stream = stream.unwrap_or_else(|e| panic!("no TCP connection to {target}: {e}"));
    let (mut accepted, peer) = listener.accept().expect("a connection that was made can be accepted");
    drop(stream);
    assert_eq!(accepted.read(&mut [0; 1]).expect("it ends in order"), 0);
    peer.ip()
}

#[test]
fn one_command_serves_stock_and_own_clients_and_another_leaves_nothing() {
    let (net, temp) = (Net::new(), Temp::new());
    let crowd = net.crowd(2);
    let before = host(&net.server);
    let words = first();
    let mut gateway = up(&net, &temp, &words.iter().map(String::as_str).collect::<Vec<_>>());
    println!("{}", gateway.process.log());
    let profiles = ["alice", "bob"].map(|name| temp.path().join(format!("{name}.ovpn")));
    for file in &profiles {
        let mode = fs::metadata(file).expect("the profile is written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }

    let temps = [Temp::new(), Temp::new()];
    let mut alice = connect(&net.client, &temps[0], &profiles[0], true);
    let mut bob = connect(&crowd[0], &temps[1], &profiles[1], false);
    alice.expect_up();
    bob.expect_up();
    // Beyond the gateway, and not on the client's own link.
    let third: [IpAddr; 2] = [crowd_address(1).0.into(), crowd_address(1).1.into()];
    let beside: [IpAddr; 2] = [BESIDE4.into(), BESIDE6.into()];
    for (ns, to, targets) in [(&net.client, &crowd[1], third), (&crowd[0], &net.router, beside)] {
        assert!(ns.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "{}: no echo", ns.name());
        assert_eq!(ns.ping(INNER6.into(), 20), 20);
        assert_eq!(seen_as(ns, to, targets[0]), IpAddr::from(SERVER4), "masqueraded");
        assert_eq!(seen_as(ns, to, targets[1]), IpAddr::from(SERVER6), "masqueraded");
    }
    let inner = [addresses_in(&net.client).0, addresses_in(&crowd[0]).0];
    assert_eq!(net.client.ping(inner[1].into(), 5), 0, "clients do not reach each other unless they may");
    assert_eq!(gateway.wait_clients(2, Duration::from_secs(1)).len(), 2);

    revoked_at_once(&net, &temp, &mut gateway, &crowd[0], inner[1].into());
    let again = connect(&net.client, &temps[0], &profiles[0], true).process.wait_log(&[UP], Duration::from_secs(4));
    assert!(!again, "a revoked client came in again");
    alice.process.kill();

    assert_eq!(bob.stop(), Some(0));
    let state = state_of(&temp);
    let said = gateway::run(&net.server, &temp, &["gateway", "down", "--state-dir", &state]);
    println!("{}", String::from_utf8_lossy(&said.stdout));
    assert_eq!(gateway.process.wait_exit(Duration::from_secs(10)), Some(0), "{}", gateway.process.log());
    assert_eq!(host(&net.server), before, "the host is as before");
    assert!(Path::new(&state).join("ca.crt").exists(), "the keys stay");

    // Again, without a word: the same authority, and the same revocation.
    let authority = fs::read(Path::new(&state).join("ca.crt")).expect("it is there");
    let second = up(&net, &temp, &[]);
    assert_eq!(fs::read(Path::new(&state).join("ca.crt")).expect("it is there"), authority);
    let mut bob = connect(&crowd[0], &temps[1], &profiles[1], true);
    bob.expect_up();
    let again = connect(&net.client, &temps[0], &profiles[0], true).process.wait_log(&[UP], Duration::from_secs(3));
    assert!(!again, "a revoked client came in after a restart");
    bob.stop();
    gateway::run(&net.server, &temp, &["gateway", "down", "--state-dir", &state, "--purge", "--yes"]);
    assert!(!Path::new(&state).exists(), "purged");
    drop(second);
    assert_eq!(host(&net.server), before, "the host is as before");
}

/// `client revoke alice` while bob has traffic: she is out within a second, he loses nothing.
fn revoked_at_once(net: &Net, temp: &Temp, gateway: &mut Gateway, bob: &Ns, inner: IpAddr) {
    let stream = Stream::start(bob, inner, &net.server, (INNER4, 7000).into(), Shape::SMALL);
    thread::sleep(Duration::from_secs(1));
    let start = Instant::now();
    gateway::run(&net.server, temp, &["client", "revoke", "alice", "--state-dir", &state_of(temp)]);
    let gone = until(Duration::from_secs(1), || gateway.clients().iter().all(|row| row.name != "alice"));
    assert!(gone, "alice is still there:\n{}", gateway.process.log());
    println!("revoked and out after {:?}", start.elapsed());
    assert!(net.client.until_answered(INNER4.into(), Duration::from_millis(600)).is_none(), "alice gets answers");
    let report = stream.finish(Duration::from_secs(1));
    assert!(report.complete() && report.sent > 0, "{report}");
}

#[test]
fn a_killed_gateway_is_cleaned_up_after() {
    let (net, temp) = (Net::new(), Temp::new());
    let before = host(&net.server);
    let words = first();
    let mut gateway = up(&net, &temp, &words.iter().map(String::as_str).collect::<Vec<_>>());
    assert_ne!(host(&net.server), before, "it changes the host while it runs");
    gateway.process.kill();
    let socket = gateway.socket().to_owned();
    assert!(socket.exists(), "what is killed leaves its socket");
    let said = gateway::run(&net.server, &temp, &["gateway", "down", "--state-dir", &state_of(&temp)]);
    let said = String::from_utf8_lossy(&said.stdout);
    assert!(said.contains("removed: /run/minivpn/default.sock") && !socket.exists(), "{said}");
    assert!(!temp.path().join("state/listening").exists(), "its note is gone too");
    let clean = until(Duration::from_secs(3), || host(&net.server) == before);
    assert!(clean, "left on the host:\n{}\nbefore:\n{before}", host(&net.server));
}

#[test]
fn a_second_one_is_refused_before_it_changes_anything_and_one_after_a_kill_is_not() {
    let (net, temp) = (Net::new(), Temp::new());
    let words = first();
    let mut gateway = up(&net, &temp, &words.iter().map(String::as_str).collect::<Vec<_>>());
    let state = state_of(&temp);
    let config = || fs::read(Path::new(&state).join("server.conf")).expect("it is there");
    let before = (host(&net.server), config());
    let words = ["gateway", "up", "--state-dir", &state, "--port", "1195", "--client", "carol"];
    let second = gateway::command(&net.server, &temp, &words).output().expect("a shell can be started");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(8), "{said}");
    assert!(said.contains(&format!("is running already (process {})", gateway.process.pid())), "{said}");
    assert!(said.contains("`minivpn status`") && said.contains(&format!("gateway down --state-dir {state}")), "{said}");
    assert!((host(&net.server), config()) == before && !temp.path().join("carol.ovpn").exists(), "nothing is changed");
    assert_eq!(gateway.status()["gateway"]["pid"], gateway.process.pid(), "the first one serves");

    gateway.process.kill();
    assert!(gateway.socket().exists(), "what is killed leaves its socket");
    let mut third = up(&net, &temp, &[]);
    assert_eq!(third.status()["gateway"]["pid"], third.process.pid(), "in the place of the dead one");
    assert_eq!(third.stop(), Some(0));
    assert!(!third.socket().exists());
}

#[test]
fn who_is_not_root_is_told_to_use_sudo() {
    let (net, temp) = (Net::new(), Temp::new());
    let state = state_of(&temp);
    let words = first();
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.extend(["--state-dir", &state, "--no-serve"]);
    gateway::run(&net.server, &temp, &[&["gateway", "up"][..], &words].concat());
    let profile = temp.path().join("alice.ovpn").display().to_string();
    for words in [
        &["client", "list", "--state-dir", &state][..],
        &["client", "show", "alice", "--state-dir", &state],
        &["client", "add", "carol", "--state-dir", &state],
        &["client", "revoke", "alice", "--state-dir", &state],
        &["pki", "show", "--state-dir", &state],
        &["gateway", "up", "--state-dir", &state],
        &["gateway", "down", "--state-dir", &state],
        &["config", "lint", &profile],
    ] {
        let output = unprivileged::command(&net.server, &temp, words).output().expect("setpriv can be started");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("ermission denied") && said.contains("sudo"), "{words:?}: {said}");
        assert!(!said.contains("there is no gateway") && !output.status.success(), "{words:?}: {said}");
    }
}

/// What a service manager hears, a message each; `None` after five seconds of silence.
fn told(manager: &UnixDatagram) -> Option<String> {
    let mut buffer = [0; 4096];
    let length = manager.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn expect_told(manager: &UnixDatagram, what: &str) {
    let mut heard = Vec::new();
    while let Some(said) = told(manager).filter(|_| heard.len() < 50) {
        if said.contains(what) {
            return;
        }
        heard.push(said);
    }
    panic!("no {what} in {heard:?}");
}

#[test]
fn the_unit_that_is_installed_has_the_rights_that_it_needs_and_reports_to_its_manager() {
    let (net, temp) = (Net::new(), Temp::new());
    let before = host(&net.server);
    let (units, run, state) = (temp.path().join("units"), temp.path().join("run-gateway"), state_of(&temp));
    [&units, &run].into_iter().for_each(|directory| fs::create_dir_all(directory).expect("it is our own"));
    // Its directory is one of our own, and no systemd is there that it could be started by.
    let shell = format!(
        "mkdir -p /etc/systemd/system && mount --bind {} /etc/systemd/system && mount --bind {} /run && exec \"$@\"",
        units.display(),
        run.display()
    );
    let inside = |words: &[&str]| {
        let mut command = net.server.command("sh");
        command.args(["-c", &shell, "sh"]).args(words).current_dir(temp.path()).env("NO_COLOR", "1");
        command
    };
    let minivpn = executable().display().to_string();
    let mut words = vec![minivpn.as_str(), "gateway", "up", "--install", "--state-dir", &state];
    let more = first();
    words.extend(more.iter().map(String::as_str));
    let output = inside(&words).output().expect("a shell can be started");
    let list = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && list.contains("minivpn-gateway-default.service"), "{list}");

    let unit = fs::read_to_string(units.join("minivpn-gateway-default.service")).expect("the unit is written");
    let setting = |name: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in\n{unit}")).to_owned()
    };
    assert_eq!(setting("Type"), "notify");
    // As the manager would start it, but for the file system, which is this test's own.
    let rights = setting("CapabilityBoundingSet").to_lowercase().replace("cap_", "+").replace(' ', ",");
    let start = setting("ExecStart");
    let fence = format!("--bounding-set=-all,{rights}");
    let mut words = vec!["setpriv", "--no-new-privs", &fence];
    words.extend(start.split(' '));
    let manager = UnixDatagram::bind(temp.path().join("notify")).expect("a socket can be made");
    manager.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit can be set");
    let mut command = inside(&words);
    command.env("NOTIFY_SOCKET", temp.path().join("notify")).env("WATCHDOG_USEC", "1000000");
    let mut gateway = Process::start("the unit", command, &temp.path().join("unit.log"));
    gateway.expect_log(&[UP], Duration::from_secs(30));
    expect_told(&manager, "READY=1");
    expect_told(&manager, "WATCHDOG=1");
    expect_told(&manager, "WATCHDOG=1");

    let client_temp = Temp::new();
    let mut alice = connect(&net.client, &client_temp, &temp.path().join("alice.ovpn"), true);
    alice.expect_up();
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    assert_eq!(seen_as(&net.client, &net.router, BESIDE4.into()), IpAddr::from(SERVER4), "masqueraded");
    gateway.signal(Signal::HUP);
    expect_told(&manager, "RELOADING=1");
    expect_told(&manager, "READY=1");
    assert_eq!(net.client.ping(INNER4.into(), 20), 20);
    gateway.signal(Signal::TERM);
    expect_told(&manager, "STOPPING=1");
    assert_eq!(gateway.wait_exit(Duration::from_secs(10)), Some(0), "{}", gateway.log());
    assert_eq!(host(&net.server), before, "the host is as before");
    alice.process.kill();
}

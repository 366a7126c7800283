//! `minivpn proxy` against a stock server, as a user without any privilege: names, both protocols, datagrams, a server that goes away and
//! returns, how it ends, and that nothing of the host changes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tests::behind::{Behind, ECHO, WEB};
use tests::gateway::Gateway;
use tests::netns::{INNER4, INNER6, Net, SERVER4};
use tests::ours::executable;
use tests::process::{Process, until};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;

/// Nobody, in no group, with no capability and no way to one.
const UNPRIVILEGED: [&str; 8] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
];

/// A running proxy.
struct Proxy {
    process: Process,
    address: SocketAddr,
}

fn start(net: &Net, temp: &Temp, profile: &str, options: &[&str]) -> Process {
    let file = temp.write("proxy.ovpn", profile);
    let mut command = net.client.command(UNPRIVILEGED[0]);
    command.args(&UNPRIVILEGED[1..]).arg(executable()).arg("proxy").arg(file).args(options).env("NO_COLOR", "1");
    Process::start("the proxy", command, &temp.path().join("proxy.log"))
}

fn up(net: &Net, temp: &Temp, setup: &Setup, options: &[&str]) -> Proxy {
    let options = [&["--listen", "127.0.0.1:0"], options].concat();
    let mut process = start(net, temp, &setup.profile(), &options);
    const READY: &str = "SOCKS5 and HTTP proxy on ";
    process.expect_log(&[READY], Duration::from_secs(30));
    let log = process.log();
    let line = log.lines().find_map(|line| line.strip_prefix(READY)).expect("the line has just been seen");
    Proxy { process, address: line.trim().parse().expect("an address") }
}

/// A server that pushes a name server, and everything behind it.
fn scene(setup: Setup) -> (Net, Temp, Setup, Server, Behind) {
    let setup = setup.server(&format!("push \"dhcp-option DNS {INNER4}\""));
    let (net, temp) = (Net::new(), Temp::new());
    let server = Server::start(&net, &temp, &setup);
    let names = [("web.test", INNER4.into()), ("six.test", INNER6.into())];
    let behind = Behind::start(&net.server, &names);
    (net, temp, setup, server, behind)
}

/// curl's exit code, and what `--write-out` gave.
fn curl(net: &Net, proxy: &str, more: &[&str], format: &str) -> (i32, String) {
    let mut command = net.client.command("curl");
    command.args(["--silent", "--max-time", "120", "--output", "/dev/null", "--proxy", proxy, "--write-out", format]);
    let output = command.args(more).output().expect("curl is installed");
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stdout).into_owned())
}

const GOT: &str = "%{http_code} %{size_download}";

#[test]
fn a_user_without_privileges_reaches_what_is_behind_the_tunnel() {
    let (net, temp, setup, mut server, _behind) = scene(Setup::new());
    let before = net.client.snapshot();
    let mut proxy = up(&net, &temp, &setup, &[]);
    let (socks, http) = (format!("socks5h://{}", proxy.address), format!("http://{}", proxy.address));
    for host in ["web.test", "six.test", "10.8.0.1", "[fd08::1]"] {
        let url = format!("http://{host}:{WEB}/1000000");
        assert_eq!(curl(&net, &socks, &[&url], GOT), (0, "200 1000000".into()), "{url} by SOCKS5");
        let tunnel = ["--proxytunnel", &url];
        assert_eq!(curl(&net, &http, &tunnel, GOT), (0, "200 1000000".into()), "{url} by HTTP CONNECT");
    }
    // What goes up arrives, too.
    let file = temp.path().join("upload");
    std::fs::write(&file, vec![b'u'; 5_000_000]).expect("the scratch directory is writable");
    let data = format!("@{}", file.display());
    let url = format!("http://web.test:{WEB}/");
    let sent = ["--header", "Expect:", "--data-binary", &data, &url];
    assert_eq!(curl(&net, &socks, &sent, "%{http_code} %{size_upload}"), (0, "200 5000000".into()));
    // 97: the proxy said no; it knows why.
    assert_eq!(curl(&net, &socks, &["http://nothing.test/"], GOT).0, 97);
    assert_eq!(curl(&net, &socks, &["http://10.8.0.1:9/"], GOT).0, 97);
    let refused = curl(&net, &http, &["--proxytunnel", "http://10.8.0.1:9/"], "%{http_connect}");
    assert_eq!(refused.1, "502");

    assert_eq!(net.client.snapshot(), before, "the host is as it was");
    assert_eq!(proxy.process.stop(Duration::from_secs(10)), Some(0));
    assert!(server.saw_exit(Duration::from_secs(5)), "the server was told");
}

#[test]
fn datagrams_go_through_the_tunnel() {
    let (net, temp, setup, _server, _behind) = scene(Setup::new());
    let proxy = up(&net, &temp, &setup, &[]);
    net.client.inside(|| {
        let mut control = TcpStream::connect(proxy.address).expect("the proxy listens");
        control.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit can be set");
        control.write_all(&[5, 1, 0]).expect("the proxy reads");
        control.read_exact(&mut [0; 2]).expect("the proxy answers");
        control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).expect("the proxy reads");
        let mut reply = [0; 10];
        control.read_exact(&mut reply).expect("the proxy answers");
        assert_eq!(reply[..4], [5, 0, 0, 1]);
        let ip = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit can be set");
        socket.connect((ip, u16::from_be_bytes([reply[8], reply[9]]))).expect("an address");
        let from = [&[0, 0, 0, 1][..], &INNER4.octets(), &ECHO.to_be_bytes()].concat();
        let by_name = [&[0, 0, 0, 3, 8][..], b"web.test", &ECHO.to_be_bytes()].concat();
        for header in [from.clone(), by_name] {
            let payload = vec![b'd'; 1_200];
            socket.send(&[&header[..], &payload].concat()).expect("the proxy reads");
            let mut buffer = [0; 2_000];
            let count = socket.recv(&mut buffer).expect("the echo answers");
            assert_eq!(buffer[..count], [&from[..], &payload].concat());
        }
    });
}

#[test]
fn what_is_wrong_is_said_by_the_exit_code() {
    let (net, temp) = (Net::new(), Temp::new());
    let setup = Setup::new();
    let code = |profile: &str, options: &[&str]| {
        let mut process = start(&net, &temp, profile, options);
        process.wait_exit(Duration::from_secs(30))
    };
    assert_eq!(code("client\nremote\n", &[]), Some(2), "a profile that cannot be run");
    assert_eq!(code(&setup.profile(), &["--connect-timeout", "2"]), Some(4), "no server");
    let taken = net.client.inside(|| std::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let listen = taken.local_addr().expect("a bound socket has an address").to_string();
    let mut process = start(&net, &temp, &setup.profile(), &["--listen", &listen]);
    assert_eq!(process.wait_exit(Duration::from_secs(30)), Some(1), "the port is taken");
    let log = process.log();
    assert!(log.contains(&format!("{listen} is in use by another program")), "{log}");
    let mut process = start(&net, &temp, &setup.profile(), &["--listen", "192.0.2.77:0"]);
    assert_eq!(process.wait_exit(Duration::from_secs(30)), Some(1), "nobody's address");
    assert!(process.log().contains("192.0.2.77 is no address of this host"), "{}", process.log());
    assert_eq!(code(&setup.profile(), &["--listen", "office:1080"]), Some(2), "a name");
    let mut refused = Setup::new();
    refused.login = Some(("ann".into(), "wrong".into()));
    refused.accepts = Some(("ann".into(), "right".into()));
    let _server = Server::start(&net, &temp, &refused);
    assert_eq!(code(&refused.profile(), &["--listen", "127.0.0.1:0"]), Some(3), "the server refuses the password");
}

#[test]
fn who_listens_for_everybody_without_a_password_is_warned() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let password = temp.write("password", "s3cret\n");
    let password = password.to_str().expect("a path in ASCII");
    let log = |options: &[&str]| {
        let mut process = start(&net, &temp, &setup.profile(), &[options, &["--connect-timeout", "2"]].concat());
        assert_eq!(process.wait_exit(Duration::from_secs(30)), Some(4), "no server");
        process.log()
    };
    const WARNING: &str = "everybody who reaches it can use the tunnel";
    assert!(!log(&["--listen", "localhost:0"]).contains(WARNING));
    assert!(!log(&["--listen", "0.0.0.0:0", "--user", "ann", "--password-file", password]).contains(WARNING));
    let warned = log(&["--listen", "0.0.0.0:0"]);
    assert!(warned.contains(WARNING) && warned.contains("--user"), "{warned}");
}

#[test]
fn who_waits_for_a_server_that_says_nothing_is_told_what_to_look_at() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let _mute = net.server.inside(|| UdpSocket::bind((SERVER4, 1194))).expect("the server's port is free");
    let mut process = start(&net, &temp, &setup.profile(), &["--listen", "localhost:0", "--connect-timeout", "12"]);
    process.expect_log(&["s, still trying: no answer from 10.71"], Duration::from_secs(30));
    assert_eq!(process.wait_exit(Duration::from_secs(30)), Some(4), "no server answers");
}

#[test]
fn a_server_that_is_killed_and_returns_is_found_again_and_clients_are_told_meanwhile() {
    let (net, temp, setup, mut server, _behind) = scene(Setup::new());
    let mut proxy = up(&net, &temp, &setup, &[]);
    let (socks, http) = (format!("socks5h://{}", proxy.address), format!("http://{}", proxy.address));
    let url = format!("http://web.test:{WEB}/1000");
    let soon = ["--max-time", "10", &url];
    assert_eq!(curl(&net, &socks, &soon, GOT), (0, "200 1000".into()));

    server.process.kill();
    drop(server);
    // Only who sends learns from ICMP that nobody is there.
    let away = until(Duration::from_secs(30), || {
        curl(&net, &socks, &["--max-time", "1", &url], GOT);
        proxy.process.log().contains("the server is away")
    });
    assert!(away, "nobody says that the server is away:\n{}", proxy.process.log());
    // 97: the proxy said no; 28 would be a time that is over.
    assert_eq!(curl(&net, &socks, &soon, GOT).0, 97);
    let refused = curl(&net, &http, &["--max-time", "10", "--proxytunnel", &url], "%{http_connect}");
    assert_eq!(refused.1, "503");

    let _server = Server::start(&net, &temp, &setup);
    proxy.process.expect_log(&["the server is back after"], Duration::from_secs(60));
    for host in ["web.test", "10.8.0.1", "[fd08::1]"] {
        let url = format!("http://{host}:{WEB}/1000");
        assert_eq!(curl(&net, &socks, &["--max-time", "10", &url], GOT), (0, "200 1000".into()), "{url}");
    }
    let log = proxy.process.log();
    assert_eq!((log.matches("is away").count(), log.matches("is back").count()), (1, 1), "{log}");
    assert!(!log.contains("web.test") && !log.contains("10.8.0.1:"), "destinations are nobody's business:\n{log}");
    assert_eq!(proxy.process.stop(Duration::from_secs(10)), Some(0));
}

#[test]
fn name_servers_that_fall_silent_and_speak_again_are_reported_without_a_name() {
    let (net, temp, setup, _server, _behind) = scene(Setup::new());
    let mut proxy = up(&net, &temp, &setup, &[]);
    let socks = format!("socks5h://{}", proxy.address);
    net.server.nft("add rule ip t output udp sport 53 drop");
    let by_name = |host: &str| curl(&net, &socks, &[&format!("http://{host}:{WEB}/1000")], GOT);
    assert_eq!(by_name("web.test").0, 97, "it is told before curl's own time is over");
    proxy.process.expect_log(&["no name server in the tunnel answers"], Duration::from_secs(5));
    assert_eq!(by_name("six.test").0, 97);
    assert_eq!(by_name("10.8.0.1"), (0, "200 1000".into()), "addresses need no name server");
    net.server.nft_clear();
    assert_eq!(by_name("web.test"), (0, "200 1000".into()));
    proxy.process.expect_log(&["the name servers in the tunnel answer again"], Duration::from_secs(5));
    let log = proxy.process.log();
    assert_eq!(log.matches("no name server in the tunnel answers").count(), 1, "{log}");
    assert!(!log.contains("web.test") && !log.contains("six.test"), "{log}");
}

#[test]
fn two_commands_with_one_profile_are_told_of_each_other() {
    let mut setup = Setup::new();
    setup.keepalive = (1, 4);
    let (net, one, setup, _server, _behind) = scene(setup);
    let two = Temp::new();
    let proxies = [up(&net, &one, &setup, &[]), up(&net, &two, &setup, &[])];
    const LIKELY: &str = "this profile is in use by another client as well";
    let told = || proxies.iter().any(|proxy| proxy.process.log().contains(LIKELY));
    assert!(until(Duration::from_secs(150), told), "nobody is told:\n{}", proxies[0].process.log());
}

/// The complete form fetches 1 GB and says how fast; the short one 50 MB.
#[test]
fn a_large_file_comes_whole() {
    let (net, temp, setup, server, _behind) = scene(Setup::new());
    fetch(&net, &temp, &setup, &server.process, "a stock server");
}

#[test]
fn a_large_file_comes_whole_from_our_gateway() {
    let setup = Setup::new().server(&format!("push \"dhcp-option DNS {INNER4}\""));
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let _behind = Behind::start(&net.server, &[("web.test", INNER4.into())]);
    fetch(&net, &temp, &setup, &gateway.process, "our gateway");
}

/// The complete form fetches 1 GB and says how fast, and what it cost both ends; the short one 50 MB.
fn fetch(net: &Net, temp: &Temp, setup: &Setup, server: &Process, from: &str) {
    // Two at once would measure each other.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let size: u64 = if tests::long() { 1_000_000_000 } else { 50_000_000 };
    let proxy = up(net, temp, setup, &[]);
    let url = format!("http://web.test:{WEB}/{size}");
    let before = (cpu_seconds(proxy.process.pid()), cpu_seconds(server.pid()));
    let begun = Instant::now();
    let got = curl(net, &format!("socks5h://{}", proxy.address), &[&url], GOT);
    let taken = begun.elapsed().as_secs_f64();
    assert_eq!(got, (0, format!("200 {size}")));
    let used = (cpu_seconds(proxy.process.pid()) - before.0, cpu_seconds(server.pid()) - before.1);
    println!(
        "{size} bytes from {from} in {taken:.2} s: {:.2} Gb/s; CPU seconds: the proxy {:.2}, the server {:.2}",
        size as f64 * 8e-9 / taken,
        used.0,
        used.1
    );
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    let words = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    words.skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum::<f64>() / 100.0
}

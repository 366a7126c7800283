//! The embeddable tunnel against a stock server: in this very process, whose threads and descriptors are counted.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use minivpn::{Batch, ConnectError, Options, Progress, Stage, Tunnel, TunnelError, parse_profile};
use tests::netns::{INNER4, Net, SERVER4};
use tests::process::until;
use tests::reflect::{self, Reflector};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;

/// These tests look at the whole process, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the process has: threads of the library, descriptors, and mappings of shared memory (each tunnel has one).
#[derive(Clone, Debug)]
struct Holds {
    threads: Vec<String>,
    descriptors: usize,
    mappings: usize,
}

impl Holds {
    fn now() -> Self {
        let tasks = fs::read_dir("/proc/self/task").expect("a process sees its threads");
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let mut threads: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        threads.retain(|name| name.starts_with("minivpn-") || name.starts_with("worker-"));
        threads.sort();
        let descriptors = fs::read_dir("/proc/self/fd").expect("a process sees its descriptors").count();
        let maps = fs::read_to_string("/proc/self/maps").expect("a process sees its mappings");
        let mappings = maps.lines().filter(|line| line.contains("/memfd:")).count();
        Self { threads, descriptors, mappings }
    }

    /// Everything that came since is gone again, or is soon.
    fn expect_back(&self) {
        let back = until(Duration::from_secs(10), || {
            let now = Holds::now();
            now.threads == self.threads && now.descriptors <= self.descriptors && now.mappings <= self.mappings
        });
        assert!(back, "left behind: {:?}, before: {self:?}", Holds::now());
    }
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("a process sees its memory");
    let pages: usize = statm.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a number of pages");
    pages * 4096
}

fn connect(setup: &Setup, options: Options) -> Result<Tunnel, ConnectError> {
    Tunnel::connect_blocking(parse_profile(&setup.profile())?, options)
}

fn up(setup: &Setup) -> Tunnel {
    connect(setup, Options::default()).unwrap_or_else(|error| panic!("no tunnel: {error}"))
}

fn inner4(tunnel: &Tunnel) -> Ipv4Addr {
    tunnel.parameters().ipv4.expect("the server gives an IPv4 address").address
}

/// A scenario: a network, a server on it, and the closure on a thread in the client's namespace.
fn scene(setup: &Setup, scenario: impl FnOnce(&Net, &mut Server) + Send) {
    let _alone = alone();
    // tokio keeps two descriptors for signals from its first runtime on.
    on_tokio(async {});
    let (net, temp) = (Net::new(), Temp::new());
    let mut server = Server::start(&net, &temp, setup);
    net.client.inside(|| scenario(&net, &mut server));
}

fn on_tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

#[test]
fn packets_of_every_length_come_back_whole_and_none_is_lost() {
    let setup = Setup::new();
    scene(&setup, |net, server| {
        let before = Holds::now();
        let _reflector = Reflector::start(&net.server);
        let tunnel = up(&setup);
        let parameters = tunnel.parameters().clone();
        assert_eq!(
            (parameters.mtu, parameters.cipher, parameters.remote),
            (1500, "AES-256-GCM", (SERVER4, 1194).into())
        );
        assert!(parameters.ipv6.is_some() && parameters.peer_id.is_some() && parameters.handshake > Duration::ZERO);
        println!("{}, {}, handshake {:?}", parameters.tls, parameters.server, parameters.handshake);
        let start = Instant::now();
        echo(&tunnel, 100_000);
        println!("100,000 echoes in {:?}, with {:?}", start.elapsed(), Holds::now().threads);
        tunnel.close_blocking().expect("it ended only because it was closed");
        assert!(server.saw_exit(Duration::from_secs(3)), "the server did not learn that the client left");
        drop(_reflector);
        before.expect_back();
    });
}

/// Sends that many packets, of all lengths in turn, at most 32 of them unanswered.
fn echo(tunnel: &Tunnel, count: usize) {
    let ours = inner4(tunnel);
    let mut lengths = (20..=1500usize).cycle();
    let mut outstanding: BTreeMap<u16, usize> = BTreeMap::new();
    let (mut sent, mut answered) = (0usize, 0usize);
    let mut packet = [0u8; 2048];
    while answered < count {
        while sent < count && outstanding.len() < 32 {
            let (number, length) = ((sent % 65_535 + 1) as u16, lengths.next().expect("endless"));
            tunnel.send_blocking(&reflect::packet(ours, INNER4, number, length)).expect("the tunnel takes it");
            outstanding.insert(number, length);
            sent += 1;
        }
        let came = tunnel.recv_timeout(&mut packet, Duration::from_secs(10)).expect("the tunnel stands");
        let came = came.unwrap_or_else(|| panic!("after {answered}: {outstanding:?} did not come back"));
        // The server's kernel has a word of its own now and then.
        let Ok(number) = reflect::check(&packet[..came]) else { continue };
        assert_eq!(outstanding.remove(&number), Some(came), "packet {number}: twice, or of another length");
        answered += 1;
    }
    assert!(tunnel.recv_timeout(&mut packet, Duration::from_millis(200)).expect("the tunnel stands").is_none());
}

#[test]
fn a_worker_of_its_own_carries_the_same() {
    let setup = Setup::new();
    scene(&setup, |net, _| {
        let before = Holds::now();
        let reflector = Reflector::start(&net.server);
        let tunnel = connect(&setup, Options { own_worker: true, ..Options::default() }).expect("a tunnel");
        assert!(Holds::now().threads.iter().any(|name| name == "worker-0"), "{:?}", Holds::now());
        echo(&tunnel, 3_000);
        tunnel.close_blocking().expect("closed");
        drop(reflector);
        before.expect_back();
    });
}

#[test]
fn no_capability_is_needed() {
    let setup = Setup::new();
    scene(&setup, |net, _| {
        let _reflector = Reflector::start(&net.server);
        // Capabilities are a thread's; those that it starts have no more.
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).expect("capabilities can be given up");
        let tunnel = up(&setup);
        echo(&tunnel, 100);
        tunnel.close_blocking().expect("closed");
    });
}

#[test]
fn renegotiations_lose_no_packet() {
    let setup = Setup::new().client("reneg-sec 3");
    scene(&setup, |net, server| {
        let _reflector = Reflector::start(&net.server);
        let tunnel = up(&setup);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            echo(&tunnel, 500);
        }
        assert!(server.negotiations() >= 3, "{} negotiations", server.negotiations());
        tunnel.close_blocking().expect("closed");
    });
}

#[test]
fn batches_carry_what_single_packets_carry_also_asynchronously() {
    let setup = Setup::new();
    scene(&setup, |net, _| {
        let _reflector = Reflector::start(&net.server);
        on_tokio(async {
            let tunnel = Tunnel::connect(parse_profile(&setup.profile()).expect("a profile"), Options::default()).await;
            let tunnel = tunnel.expect("a tunnel");
            let ours = inner4(&tunnel);
            let (reader, writer) = tunnel.split();
            let mut out = Batch::new(16, 1500);
            for number in 1..=16 {
                assert!(out.push(&reflect::packet(ours, INNER4, number, 100 + usize::from(number))).expect("fits"));
            }
            writer.send_batch(&out).await.expect("sent");
            let (mut seen, mut batch) = (Vec::new(), Batch::new(64, 1500));
            while seen.len() < 16 {
                reader.recv_batch(&mut batch).await.expect("received");
                seen.extend(batch.iter().filter_map(|packet| reflect::check(packet).ok()));
            }
            seen.sort_unstable();
            assert_eq!(seen, (1..=16).collect::<Vec<u16>>());
        });
    });
}

#[test]
fn a_hundred_tunnels_live_in_one_process() {
    let setup = Setup::new().server("duplicate-cn").server("connect-freq-initial 1000 10").server("max-clients 200");
    scene(&setup, |net, _| {
        let before = Holds::now();
        let reflector = Reflector::start(&net.server);
        let tunnels: Vec<Tunnel> = on_tokio(async {
            let profile = parse_profile(&setup.profile()).expect("a profile");
            let begun = (0..100).map(|_| tokio::spawn(Tunnel::connect(profile.clone(), Options::default())));
            let mut tunnels = Vec::new();
            for task in begun.collect::<Vec<_>>() {
                tunnels.push(task.await.expect("no panic").unwrap_or_else(|error| panic!("no tunnel: {error}")));
            }
            tunnels
        });
        for (number, tunnel) in (1..).zip(&tunnels) {
            tunnel.send_blocking(&reflect::packet(inner4(tunnel), INNER4, number, 1000)).expect("sent");
        }
        for (number, tunnel) in (1u16..).zip(&tunnels) {
            let mut packet = [0; 2048];
            let came = tunnel.recv_timeout(&mut packet, Duration::from_secs(10)).expect("the tunnel stands");
            assert_eq!(reflect::check(&packet[..came.expect("an answer")]), Ok(number), "each gets its own");
        }
        println!(
            "100 tunnels: {:?}, {} descriptors more",
            Holds::now().threads.len(),
            Holds::now().descriptors - before.descriptors
        );
        drop((tunnels, reflector));
        before.expect_back();
    });
}

#[test]
fn connecting_that_is_given_up_at_any_moment_leaves_nothing() {
    let setup = Setup::new().server("duplicate-cn").server("connect-freq-initial 1000 10");
    scene(&setup, |_, _| {
        let before = Holds::now();
        let profile = parse_profile(&setup.profile()).expect("a profile");
        let (mut given_up, mut established) = (0, 0);
        on_tokio(async {
            for step in 0..80u64 {
                let begun = Tunnel::connect(profile.clone(), Options::default());
                match tokio::time::timeout(Duration::from_micros(step * step * 40), begun).await {
                    Err(_) => given_up += 1,
                    Ok(tunnel) => {
                        established += 1;
                        drop(tunnel.expect("a tunnel"));
                    }
                }
            }
        });
        println!("{given_up} given up, {established} established");
        assert!(given_up > 0 && established > 0, "{given_up} given up, {established} established");
        before.expect_back();
    });
}

/// A server that lets everybody wait for a person (AUTH_PENDING), and does not stint.
fn slow_setup(temp: &Temp) -> Setup {
    let body =
        "printf '60\nopenurl\nhttp://192.0.2.1/\n' > \"$auth_pending_file\"\nprintf 1 > \"$auth_control_file\"\nexit 2";
    let script = temp.script("defer", body);
    let mut setup = Setup::new()
        .server("duplicate-cn")
        .server("connect-freq-initial 1000 10")
        .server("script-security 2")
        .server(&format!("auth-user-pass-verify {} via-file", script.display()))
        .client("setenv IV_SSO openurl");
    setup.login = Some(("alice".into(), "right".into()));
    setup
}

/// A scenario with such a server.
fn slow_scene(scenario: impl FnOnce(&str, &Server) + Send) {
    let _alone = alone();
    on_tokio(async {});
    let (net, temp) = (Net::new(), Temp::new());
    let setup = slow_setup(&temp);
    let server = Server::start(&net, &temp, &setup);
    net.client.inside(|| scenario(&setup.profile(), &server));
}

/// Holds a tunnel at a stage: it goes on only when it is let go.
struct Held {
    armed: Arc<AtomicBool>,
    seen: Receiver<()>,
    go: Sender<()>,
}

impl Held {
    /// Holds it once, when it enters that stage while this is armed.
    fn at(stage: Stage, armed: bool, options: Options) -> (Held, Options) {
        let armed = Arc::new(AtomicBool::new(armed));
        let ((see, seen), (go, gone)) = (channel(), channel());
        let holds = Arc::clone(&armed);
        let options = options.on_progress(move |progress| {
            if *progress == Progress::Stage(stage) && holds.swap(false, SeqCst) {
                let _ = see.send(());
                // An error: the test has failed, and is not to be waited for.
                let _ = gone.recv();
            }
        });
        (Held { armed, seen, go }, options)
    }

    /// Waits until it is there.
    fn wait(&self, stage: Stage) {
        self.seen.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|e| panic!("{stage:?} was not entered: {e}"));
    }

    fn let_go(self) {
        self.go.send(()).expect("it is held");
    }
}

/// Asks a future once whether it is ready.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Begins what goes through that stage, and gives it up there: connecting, or for the last stage closing.
fn give_up_at(stage: Stage, profile: &str) {
    let (held, options) = Held::at(stage, true, Options::default());
    let profile = parse_profile(profile).expect("a profile");
    if stage == Stage::Leave {
        let tunnel = Tunnel::connect_blocking(profile, options).expect("a tunnel");
        let mut closing = Box::pin(tunnel.close());
        assert!(poll_once(closing.as_mut()).is_pending());
        held.wait(stage);
        drop(closing);
    } else {
        let mut connecting = Box::pin(Tunnel::connect(profile, options));
        assert!(poll_once(connecting.as_mut()).is_pending());
        held.wait(stage);
        drop(connecting);
    }
    held.let_go();
}

/// Every tunnel of these was given up, and what it held with it. The complete form looks at the memory as well, which takes many of them.
fn expect_no_growth(before: &Holds, mut each: impl FnMut(Stage)) {
    let mut round = || {
        for stage in Stage::ALL {
            each(*stage);
            before.expect_back();
        }
    };
    round();
    if tests::long() {
        expect_no_leak(Stage::ALL.len(), round);
    }
}

/// Does three times what makes so many tunnels. A leak is there each time; what the allocator takes once for itself is not.
fn expect_no_leak(tunnels: usize, mut make: impl FnMut()) {
    let grown = [(); 3].map(|()| {
        let before = resident();
        make();
        resident().saturating_sub(before)
    });
    println!("{tunnels} tunnels, and {tunnels} more, and {tunnels} more: {grown:?} bytes more");
    assert!(grown.iter().any(|grown| *grown < tunnels * 50_000), "each time {tunnels} tunnels: {grown:?} bytes more");
}

#[test]
fn connecting_that_is_given_up_at_each_stage_leaves_nothing() {
    slow_scene(|profile, _| {
        let before = Holds::now();
        // A pause follows where every address has failed: nothing listens on this port.
        let nobody = profile.replace(" 1194\n", " 1195\nconnect-retry-max 9\n");
        assert_ne!(profile, nobody);
        expect_no_growth(&before, |stage| {
            give_up_at(stage, if stage == Stage::Pause { &nobody } else { profile });
        });
    });
}

#[test]
fn a_tunnel_that_is_dropped_at_each_stage_of_connecting_again_leaves_nothing() {
    slow_scene(|profile, server| {
        let before = Holds::now();
        expect_no_growth(&before, |stage| {
            let (held, options) = Held::at(stage, false, Options { reconnect: true, ..Options::default() });
            let tunnel = Tunnel::connect_blocking(parse_profile(profile).expect("a profile"), options);
            let tunnel = tunnel.expect("a tunnel");
            held.armed.store(true, SeqCst);
            if stage == Stage::Leave {
                tunnel.shutdown();
            } else {
                // The server asks everybody to come again (RESTART).
                for row in server.clients() {
                    server.manage(&format!("client-kill {}", row.id));
                }
            }
            held.wait(stage);
            drop(tunnel);
            held.let_go();
        });
    });
}

#[test]
fn a_tunnel_that_is_up_before_anybody_looks_is_given_up_whole() {
    slow_scene(|profile, server| {
        let before = Holds::now();
        let (held, options) = Held::at(Stage::Up, true, Options::default());
        let mut connecting = pin!(Some(Tunnel::connect(parse_profile(profile).expect("a profile"), options)));
        assert!(poll_once(connecting.as_mut().as_pin_mut().expect("it is there")).is_pending());
        held.wait(Stage::Up);
        held.let_go();
        let there = server.wait_client(Duration::from_secs(10), |_| true);
        assert!(there.is_some(), "the server has no client");
        // Another tunnel on the same thread: after it, the first one's answer lies there untaken.
        let other = Tunnel::connect_blocking(parse_profile(profile).expect("a profile"), Options::default());
        drop(other.expect("a tunnel"));
        connecting.set(None);
        before.expect_back();
    });
}

#[test]
fn tunnels_that_come_and_go_do_not_fill_the_memory() {
    let setup = Setup::new().server("duplicate-cn").server("connect-freq-initial 1000 10");
    scene(&setup, |_, _| {
        let before = Holds::now();
        (0..10).for_each(|_| drop(up(&setup)));
        before.expect_back();
        expect_no_leak(40, || {
            (0..40).for_each(|_| up(&setup).close_blocking().expect("closed"));
            before.expect_back();
        });
    });
}

#[test]
fn closing_wakes_whoever_waits_for_a_packet() {
    let setup = Setup::new();
    scene(&setup, |_, server| {
        let before = Holds::now();
        let (reader, writer) = up(&setup).split();
        let blocked = std::thread::spawn(move || reader.recv_blocking(&mut [0; 2048]));
        std::thread::sleep(Duration::from_millis(100));
        writer.shutdown();
        let answer = blocked.join().expect("no panic");
        assert!(matches!(answer, Err(TunnelError::Closed)), "{answer:?}");
        assert!(matches!(writer.send_blocking(&[0; 100]), Err(TunnelError::Closed)));
        drop(writer);
        assert!(server.saw_exit(Duration::from_secs(3)), "the server did not learn that the client left");
        before.expect_back();
    });
}

#[test]
fn a_server_that_ends_is_told_through_the_tunnel() {
    let setup = Setup::new().server("explicit-exit-notify 1");
    scene(&setup, |_, server| {
        let before = Holds::now();
        let tunnel = up(&setup);
        server.process.stop(Duration::from_secs(10));
        let answer = loop {
            match tunnel.recv_timeout(&mut [0; 2048], Duration::from_secs(20)) {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(matches!(answer, Err(TunnelError::Server(_))), "{answer:?}");
        assert!(matches!(tunnel.send_blocking(&[0x45; 100]), Err(TunnelError::Server(_))));
        assert!(matches!(tunnel.close_blocking(), Err(TunnelError::Server(_))));
        before.expect_back();
    });
}

#[test]
fn a_refused_password_is_said_at_once_and_is_no_timeout() {
    let mut setup = Setup::new().client("auth-user-pass");
    setup.accepts = Some(("alice".into(), "right".into()));
    scene(&setup, |_, _| {
        let before = Holds::now();
        let error = connect(&setup, Options::default()).expect_err("nobody gave a password");
        assert!(matches!(error, ConnectError::Credentials(_)), "{error:?}");
        let start = Instant::now();
        let error = connect(&setup, Options::default().with_password("alice", "wrong")).expect_err("it is wrong");
        assert!(matches!(error, ConnectError::AuthFailed { .. }), "{error:?}");
        println!("AUTH_FAILED after {:?}", start.elapsed());
        let tunnel = connect(&setup, Options::default().with_password("alice", "right")).expect("it is right");
        tunnel.close_blocking().expect("closed");
        before.expect_back();
    });
}

#[test]
fn nobody_there_and_nobody_who_answers_are_two_errors() {
    let mut setup = Setup::new();
    setup.port = 1195;
    scene(&setup, |net, _| {
        let before = Holds::now();
        let error = connect(&setup, Options::default()).expect_err("nothing listens there");
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
        let silent = net.server.inside(|| UdpSocket::bind((SERVER4, 1195)).expect("a free port"));
        let options = Options { connect_timeout: Duration::from_secs(2), ..Options::default() };
        let error = connect(&setup, options).expect_err("nobody answers there");
        assert!(matches!(error, ConnectError::Timeout { stage: Stage::Wait, .. }), "{error:?}");
        drop(silent);
        before.expect_back();
    });
}

#[test]
fn the_callers_socket_carries_the_tunnel() {
    let setup = Setup::new();
    scene(&setup, |net, _| {
        let _reflector = Reflector::start(&net.server);
        for connected in [false, true] {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            if connected {
                socket.connect((SERVER4, 1194)).expect("connected");
            }
            let port = socket.local_addr().expect("an address").port();
            let options = Options { socket: Some(socket), ..Options::default() };
            let tunnel = connect(&setup, options).expect("a tunnel");
            assert_eq!(tunnel.parameters().local.port(), port);
            echo(&tunnel, 100);
            tunnel.close_blocking().expect("closed");
        }
    });
}

#[test]
fn a_tunnel_that_may_reconnect_outlives_its_server() {
    let mut setup = Setup::new();
    // The new server says nothing to the packets of a session that it does not know: their sender has to notice the silence.
    setup.keepalive = (1, 5);
    let _alone = alone();
    let (net, temp) = (Net::new(), Temp::new());
    let mut server = Server::start(&net, &temp, &setup);
    net.client.inside(|| {
        let before = Holds::now();
        let reflector = Reflector::start(&net.server);
        let tunnel = connect(&setup, Options { reconnect: true, ..Options::default() }).expect("a tunnel");
        echo(&tunnel, 100);
        server.process.stop(Duration::from_secs(10));
        let again = Server::start(&net, &temp, &setup);
        let (ours, mut packet) = (inner4(&tunnel), [0; 2048]);
        let back = until(Duration::from_secs(30), || {
            tunnel.send_blocking(&reflect::packet(ours, INNER4, 1, 100)).expect("the tunnel stands");
            let came = tunnel.recv_timeout(&mut packet, Duration::from_millis(200)).expect("the tunnel stands");
            came.is_some_and(|length| reflect::check(&packet[..length]).is_ok())
        });
        assert!(back, "it did not come back");
        tunnel.close_blocking().expect("closed");
        drop((reflector, again));
        before.expect_back();
    });
}

#[test]
fn many_tasks_share_one_tunnel() {
    let setup = Setup::new();
    scene(&setup, |net, _| {
        let _reflector = Reflector::start(&net.server);
        on_tokio(async {
            let profile = parse_profile(&setup.profile()).expect("a profile");
            let tunnel = Arc::new(Tunnel::connect(profile, Options::default()).await.expect("a tunnel"));
            let ours = inner4(&tunnel);
            let senders = (1..=8u16).map(|task| {
                let tunnel = Arc::clone(&tunnel);
                tokio::spawn(async move {
                    for number in 0..100 {
                        let packet = reflect::packet(ours, INNER4, task * 1000 + number, 200);
                        tunnel.send(&packet).await.expect("sent");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                })
            });
            let senders: Vec<_> = senders.collect();
            let mut seen = 0;
            let mut packet = [0; 2048];
            while seen < 800 {
                let length = tunnel.recv(&mut packet).await.expect("received");
                seen += usize::from(reflect::check(&packet[..length]).is_ok());
            }
            for sender in senders {
                sender.await.expect("no panic");
            }
        });
    });
}

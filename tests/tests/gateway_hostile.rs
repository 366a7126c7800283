//! What strangers can do to our gateway: nothing that costs it memory, and nothing that its clients would notice.

use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use tests::crowd::{Streams, gather};
use tests::flood::{Forger, hard_reset, second, session_of_answer, stranger};
use tests::gateway::{Gateway, RENEGOTIATED};
use tests::netns::{CLIENT4, INNER4, INNER6, Net, ROUTER4, SERVER4};
use tests::ours::{Client, Launch, inner_addresses, tun_names};
use tests::pki::Authority;
use tests::relay::{Relay, Way, Weather};
use tests::setup::{Setup, Wrap};
use tests::stock::UP;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// Opcode of a data packet with a peer-id.
const DATA_V2: u8 = 9;
/// `connect-freq-initial`: answers to a prefix in so many seconds.
const ANSWERS: (u64, u64) = (100, 10);

/// A socket of a stranger in the client's namespace, from a port of its own.
fn stranger_socket(net: &Net) -> UdpSocket {
    let socket = net.client.inside(|| UdpSocket::bind((CLIENT4, 0)).expect("a free port"));
    socket.set_read_timeout(Some(Duration::from_millis(400))).expect("a time limit can be set");
    socket
}

fn say(socket: &UdpSocket, packet: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(packet, (SERVER4, 1194)).expect("the gateway has a route");
    let mut buffer = [0u8; 2048];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}

/// The bytes of no TLS record: a session that takes them ends, but it acknowledges them or complains first.
const GARBAGE: &[u8] = &[0x16, 3, 1, 0, 4, 1, 0, 0, 0];

#[test]
fn a_cookie_is_good_for_its_own_sender_and_for_a_while_only() {
    let (net, temp) = (Net::new(), Temp::new());
    // Its slots are a second each: a cookie is good for three at most.
    let gateway = Gateway::start(&net, &temp, &Setup::new().server("hand-window 2"));
    let cookie = |socket: &UdpSocket, session: u64| {
        let reset = hard_reset(session);
        let answer = say(socket, &reset).expect("a reset is answered");
        assert!(answer.len() <= reset.len() + 12, "the answer has {} bytes", answer.len());
        session_of_answer(&answer).expect("by a reset")
    };

    let socket = stranger_socket(&net);
    let good = cookie(&socket, 77);
    assert!(say(&socket, &second(77, good, GARBAGE)).is_some(), "the right cookie is answered");

    let fresh = |session: u64| {
        let socket = stranger_socket(&net);
        let cookie = cookie(&socket, session);
        (socket, cookie)
    };
    let (socket, mine) = fresh(78);
    for bit in 0..64 {
        socket.send_to(&second(78, mine ^ 1 << bit, GARBAGE), (SERVER4, 1194)).expect("the gateway has a route");
    }
    assert_eq!(say(&socket, &second(78, mine ^ 1, GARBAGE)), None, "a flipped bit");
    assert_eq!(say(&socket, &second(79, mine, GARBAGE)), None, "another session");
    let (other, _) = fresh(80);
    assert_eq!(say(&other, &second(78, mine, GARBAGE)), None, "another address");
    assert!(say(&socket, &second(78, mine, GARBAGE)).is_some(), "and it is good still");

    let (socket, old) = fresh(81);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(say(&socket, &second(81, old, GARBAGE)), None, "an old slot");

    // One answer to each, and no second one by itself.
    let socket = stranger_socket(&net);
    cookie(&socket, 82);
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit can be set");
    assert!(socket.recv(&mut [0u8; 100]).is_err(), "an answer is never repeated");
    assert!(gateway.clients().is_empty());
}

/// Sends resets from many prefixes, at least so many, and as long as somebody wants it; how many were taken.
fn flood(forger: &Forger, count: u64, prefixes: u32, wanted: &AtomicBool) -> u64 {
    let mut sent = 0;
    let mut due = Instant::now();
    for n in (0..).take_while(|n| *n < count || wanted.load(Relaxed)) {
        let number = u32::try_from(n % u64::from(u32::MAX)).expect("it was reduced");
        let source = SocketAddrV4::new(stranger(number % prefixes, number / prefixes), 1024 + (n % 60_000) as u16);
        sent += u64::from(forger.send(source, &hard_reset(n)));
        // 20,000 a second, in trains of 20.
        if n % 20 == 19 {
            due += Duration::from_millis(1);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    sent
}

#[test]
fn a_flood_of_resets_takes_no_memory_and_locks_nobody_out() {
    let (net, temp) = (Net::new(), Temp::new());
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root)
        .server("reneg-sec 4 4")
        .server(&format!("connect-freq-initial {} {}", ANSWERS.0, ANSWERS.1));
    let mut gateway = Gateway::start(&net, &temp, &setup);
    // Two, so that one of them is on each worker.
    let members = gather(&net, &setup, &root, 2);
    for (rule, what) in [("10.200.0.0/16", "strangers"), ("10.200.3.0/24", "neighbours")] {
        net.server.nft(&format!("add rule ip t output ip daddr {rule} udp sport 1194 counter comment {what}"));
    }
    // Nobody is at those addresses: the router must not tell, or its replies would be the flood.
    net.router.nft("add rule ip t forward ip daddr 10.200.0.0/16 drop");
    let (count, prefixes) = if tests::long() { (1_000_000, 100) } else { (60_000, 20) };
    let forger = Forger::new(&net.router, SocketAddrV4::new(SERVER4, 1194));
    // What the first ones cost once is no leak.
    flood(&forger, 2_000, prefixes, &AtomicBool::new(false));
    let (before, start, done) = (gateway.resident(), Instant::now(), gateway.renegotiations());
    let streams = Streams::start(&net, &members, Shape { rate: 200, payload: 200 });

    let waiting = AtomicBool::new(true);
    let (sent, came) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&forger, count, prefixes, &waiting));
        thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let mine = Temp::new();
        let launch = Launch { stock: true, ..Launch::default() };
        let mut client = Client::launch(&net, &mine, &setup, &setup.profile(), &launch);
        let up = client.process.wait_log(&[UP], Duration::from_secs(30));
        let came = begun.elapsed();
        waiting.store(false, Relaxed);
        assert!(up, "a legitimate client is locked out:\n{}", client.process.log());
        assert_eq!(client.stop(), Some(0));
        (flooding.join().expect("a flood does not panic"), came)
    });
    let (took, after) = (start.elapsed(), gateway.resident());
    println!("{sent} resets in {took:?}; a client was up after {came:?}; resident {before} KiB, then {after} KiB");
    assert!(after < before + 10_240, "resident {before} KiB grew to {after} KiB");

    let answers = |what: &str| counter(&net.server.run("nft list chain ip t output"), what);
    let (all, one) = (answers("strangers"), answers("neighbours"));
    let windows = took.as_secs() / ANSWERS.1 + 2;
    println!("{all} answers in all, {one} of them to one prefix");
    assert!(all > 0 && all <= sent + 2_000, "{all} answers to {sent} resets");
    assert!(one > 0 && one <= ANSWERS.0 * windows, "{one} answers to one prefix in {took:?}");
    assert!(
        gateway.process.wait_count(&[RENEGOTIATED], done + 2, Duration::from_secs(10)),
        "no renegotiation meanwhile"
    );
    streams.finish_complete();
    assert!(members.iter().all(|member| member.ups() == 1), "nobody came anew");
}

/// The packets of the nftables counter with this comment.
fn counter(list: &str, what: &str) -> u64 {
    let line = list.lines().find(|line| line.contains(&format!("comment \"{what}\"")));
    let words: Vec<&str> = line.unwrap_or_else(|| panic!("no counter {what}: {list}")).split_whitespace().collect();
    let at = words.iter().position(|word| *word == "packets").expect("a counter counts packets");
    words[at + 1].parse().expect("a number")
}

/// A gateway with one stock client behind a relay that keeps what passes.
struct Line {
    relay: Relay,
    gateway: Gateway,
    client: Client,
    net: Net,
    _temp: Temp,
}

impl Line {
    fn lay() -> Self {
        let (net, temp, mut setup) = (Net::new(), Temp::new(), Setup::new().through_relay());
        setup.wrap = Wrap::TlsCrypt;
        let weather = Weather { record: true, ..Weather::default() };
        let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), weather);
        let gateway = Gateway::start(&net, &temp, &setup);
        let launch = Launch { stock: true, ..Launch::default() };
        let mut client = Client::launch(&net, &temp, &setup, &setup.profile(), &launch);
        client.expect_up();
        assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
        Self { relay, gateway, client, net, _temp: temp }
    }

    /// Sends `seconds` of numbered packets from the client; the recorded data packets of it.
    fn record(&self, seconds: u64, shape: Shape) -> Vec<Vec<u8>> {
        let (inner, _) = inner_addresses(&self.net);
        let stream = Stream::start(&self.net.client, inner.into(), &self.net.server, (INNER4, 7000).into(), shape);
        thread::sleep(Duration::from_secs(seconds));
        let report = stream.finish(Duration::from_secs(1));
        assert!(report.complete() && report.doubled == 0, "{report}");
        let up = self.relay.recorded().into_iter().filter(|(way, bytes)| *way == Way::Up && bytes[0] >> 3 == DATA_V2);
        up.map(|(_, bytes)| bytes).collect()
    }

    /// Injects packets towards the gateway, paced, while nothing else is under way; what it has taken and dropped of it.
    fn inject(&self, packets: impl IntoIterator<Item = Vec<u8>>) -> (u64, u64, u64) {
        let before = (self.gateway.taken(), self.gateway.dropped_in_all());
        let mut count = 0;
        for bytes in packets {
            self.relay.inject(Way::Up, bytes);
            count += 1;
            if count % 20 == 0 {
                thread::sleep(Duration::from_millis(2));
            }
        }
        thread::sleep(Duration::from_millis(500));
        (count, self.gateway.taken() - before.0, self.gateway.dropped_in_all() - before.1)
    }

    fn unharmed(&self) {
        assert_eq!(self.net.client.ping(INNER4.into(), 50), 50, "the session goes on");
        assert_eq!(self.client.process.count(UP), 1, "the same one");
        assert_eq!(self.gateway.clients().len(), 1);
    }
}

#[test]
fn no_data_packet_is_taken_twice() {
    let line = Line::lay();
    let packets =
        if tests::long() { line.record(55, Shape { rate: 2000, payload: 200 }) } else { line.record(5, Shape::SMALL) };
    let replayed = line.gateway.dropped("replayed") + line.gateway.dropped("too_late");
    let (count, taken, dropped) = line.inject(packets);
    let replays = line.gateway.dropped("replayed") + line.gateway.dropped("too_late") - replayed;
    println!("{count} packets again: {taken} taken, {dropped} dropped, {replays} of them as replays");
    assert!(count > if tests::long() { 100_000 } else { 4_000 }, "only {count} packets were recorded");
    // What the kernels say by themselves (neighbours, routers) is not what was injected.
    assert!(taken <= 5, "{taken} packets were taken again");
    assert_eq!(replays, count, "each was counted");
    line.unharmed();
}

#[test]
fn every_flipped_byte_of_header_and_tag_is_noticed() {
    let line = Line::lay();
    line.record(1, Shape::SMALL);
    // Packets that never arrived: whatever is wrong with them is wrong for its own sake.
    let fresh = {
        line.relay.cut(true);
        let before = line.relay.recorded().len();
        let socket = line.net.client.inside(|| UdpSocket::bind("0.0.0.0:0").expect("a free port"));
        for _ in 0..40 {
            socket.send_to(&[7; 64], (INNER4, 9)).expect("the tunnel has a route");
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(300));
        line.relay.cut(false);
        let kept = line.relay.recorded().split_off(before);
        let data =
            kept.into_iter().filter(|(way, bytes)| *way == Way::Up && bytes[0] >> 3 == DATA_V2 && bytes.len() > 80);
        data.map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    assert!(fresh.len() > 30, "only {} packets were held back", fresh.len());
    // Opcode and peer-id (4 bytes), packet id (4), tag (16): after them each byte is the cipher's.
    let flipped = (1..30).map(|at| {
        let mut bytes = fresh[at].clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    });
    let (count, taken, dropped) = line.inject(flipped);
    println!("{count} flipped packets: {taken} taken, {dropped} dropped");
    assert!(taken <= 5, "{taken} of {count} were taken");
    assert_eq!(dropped, count, "each was counted: {}", line.gateway.status()["workers"]);
    // And what was held back is good.
    let (count, taken, _) = line.inject(fresh);
    assert!(taken >= count - 1, "{taken} of {count} good packets were taken");
    line.unharmed();
}

#[test]
fn an_inner_source_that_is_not_the_clients_is_dropped_and_counted() {
    let line = Line::lay();
    let tun = tun_names(&line.net).remove(0);
    line.net.client.run(&format!("ip address add 10.8.0.77/32 dev {tun}"));
    line.net.client.run(&format!("ip address add fd08::77/128 dev {tun} nodad"));
    let target = |v6: bool| if v6 { SocketAddr::from((INNER6, 9)) } else { SocketAddr::from((INNER4, 9)) };
    for (source, v6) in [("10.8.0.77:0", false), ("[fd08::77]:0", true)] {
        let before = (line.gateway.dropped("source_not_allowed"), line.gateway.taken());
        let socket = line.net.client.inside(|| UdpSocket::bind(source).expect("an address that was just added"));
        for _ in 0..50 {
            socket.send_to(b"spoofed", target(v6)).expect("the tunnel has a route");
            thread::sleep(Duration::from_millis(2));
        }
        thread::sleep(Duration::from_millis(300));
        let after = (line.gateway.dropped("source_not_allowed"), line.gateway.taken());
        assert!(after.0 >= before.0 + 50, "{source}: {before:?}, {after:?}");
        assert!(after.1 <= before.1 + 5, "{source}: {before:?}, {after:?}");
    }
    line.unharmed();
}

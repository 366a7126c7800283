//! The proxy as its clients see it, over a line in memory.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use controlplane::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::{JoinSet, LocalSet};

use super::connection::{Connection, Moved};
use super::fixture::*;
use super::login::Login;
use super::patience::Patience;
use super::way::Way;

/// Runs a scenario with a proxy whose name server is the far side's.
pub(super) async fn with_proxy<F: Future<Output = ()>>(scenario: impl FnOnce(Proxy) -> F) {
    with_patience(Patience::default(), scenario).await;
}

pub(super) async fn with_patience<F: Future<Output = ()>>(patience: Patience, scenario: impl FnOnce(Proxy) -> F) {
    let local = LocalSet::new();
    local.run_until(async { scenario(proxy(&[FAR4], None, patience).await).await }).await;
}

/// An address as SOCKS5 writes it.
pub(super) fn encoded(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => [&[1][..], &ip.octets()].concat(),
        Ok(std::net::IpAddr::V6(ip)) => [&[4][..], &ip.octets()].concat(),
        Err(_) => [&[3, host.len() as u8][..], host.as_bytes()].concat(),
    };
    bytes.extend(port.to_be_bytes());
    bytes
}

/// Reads a reply: its code and the address in it.
pub(super) async fn reply(client: &mut TcpStream) -> (u8, Option<SocketAddr>) {
    let mut head = [0; 4];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!((head[0], head[2]), (5, 0));
    let address = if head[3] == 4 {
        let mut ip = [0; 16];
        client.read_exact(&mut ip).await.unwrap();
        std::net::IpAddr::from(ip)
    } else {
        let mut ip = [0; 4];
        client.read_exact(&mut ip).await.unwrap();
        std::net::IpAddr::from(ip)
    };
    let port = client.read_u16().await.unwrap();
    (head[1], (head[1] == 0).then_some(SocketAddr::new(address, port)))
}

pub(super) async fn ask(proxy: SocketAddr, command: u8, host: &str, port: u16) -> (TcpStream, u8, Option<SocketAddr>) {
    let mut client = TcpStream::connect(proxy).await.unwrap();
    client.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    client.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    client.write_all(&[&[5, command, 0], &encoded(host, port)[..]].concat()).await.unwrap();
    let (code, bound) = reply(&mut client).await;
    (client, code, bound)
}

pub(super) async fn connect(proxy: SocketAddr, host: &str, port: u16) -> Result<TcpStream, u8> {
    let (client, code, _) = ask(proxy, 1, host, port).await;
    if code == 0 { Ok(client) } else { Err(code) }
}

pub(super) async fn echoes(client: &mut TcpStream, text: &[u8]) {
    client.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).await.unwrap();
    assert_eq!(back, text);
}

/// Everything until the end.
pub(super) async fn rest(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.unwrap();
    bytes
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn connect_by_address_and_by_name() {
    with_proxy(|proxy| async move {
        for host in [FAR4, FAR6, "both.test", "six.test", "10.8.0.1", "long.test"] {
            let mut client = connect(proxy.address, host, ECHO).await.unwrap();
            echoes(&mut client, host.as_bytes()).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_reply_names_our_end_in_the_tunnel() {
    with_proxy(|proxy| async move {
        let (_client, code, bound) = ask(proxy.address, 1, FAR6, ECHO).await;
        assert_eq!((code, bound.unwrap().ip()), (0, "fd08::2".parse::<std::net::IpAddr>().unwrap()));
    })
    .await;
}

#[tokio::test]
async fn each_failure_has_its_reply() {
    with_proxy(|proxy| async move {
        let code = async |host: &str, port| connect(proxy.address, host, port).await.unwrap_err();
        assert_eq!(code(FAR4, CLOSED).await, 5, "refused");
        assert_eq!(code("nothing.test", ECHO).await, 4, "no such name");
        assert_eq!(code("127.0.0.1", ECHO).await, 2, "nobody's address");
        assert_eq!(code("host.test", ECHO).await, 2, "a name of nobody's address");
        assert_eq!(ask(proxy.address, 2, FAR4, 1).await.1, 7, "BIND");
        assert_eq!(ask(proxy.address, 9, FAR4, 1).await.1, 7, "no command");
        proxy.way.send_replace(Way::None);
        assert_eq!(code(FAR4, ECHO).await, 3, "the tunnel is down");
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_is_given_up_and_the_next_address_tried() {
    let two = Duration::from_secs(2);
    let patience = Patience { address: two, question: two / 2, name: two, ..Patience::default() };
    with_patience(patience, |proxy| async move {
        assert_eq!(connect(proxy.address, NOBODY, ECHO).await.unwrap_err(), 6);
        let mut client = connect(proxy.address, "dead.test", ECHO).await.unwrap();
        echoes(&mut client, b"second").await;
        assert_eq!(connect(proxy.address, "silent.test", ECHO).await.unwrap_err(), 4, "no name server answers");
    })
    .await;
}

#[tokio::test]
async fn without_a_name_server_only_addresses_work() {
    let local = LocalSet::new();
    let scenario = async {
        let proxy = proxy(&[], None, Patience::default()).await;
        assert_eq!(connect(proxy.address, "both.test", ECHO).await.unwrap_err(), 4);
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"CONNECT both.test:7 HTTP/1.1\r\n\r\n").await.unwrap();
        let answer = String::from_utf8(rest(&mut client).await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("--dns"), "{answer}");
        assert!(connect(proxy.address, FAR4, ECHO).await.is_ok());
    };
    local.run_until(scenario).await;
}

#[tokio::test]
async fn much_comes_down_whole() {
    with_proxy(|proxy| async move {
        let mut client = connect(proxy.address, FAR4, SOURCE).await.unwrap();
        let bytes = rest(&mut client).await;
        assert_eq!(bytes.len(), MUCH);
        assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == pattern(at)));
        let given = proxy.longest.given.load(Relaxed);
        assert!(given > 2 * MTU, "packets that came together are looked at as one: {given} bytes");
    })
    .await;
}

#[tokio::test]
async fn a_client_that_ends_still_hears_the_answer() {
    with_proxy(|proxy| async move {
        let mut client = connect(proxy.address, FAR4, SINK).await.unwrap();
        client.write_all(&vec![1; 1_000_000]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(&mut client).await, b"1000000");
        let taken = proxy.longest.taken.load(Relaxed);
        assert!(taken > 2 * MTU, "what leaves together is made as one packet: {taken} bytes");
        drop(client);
        eventually("the end of the connection", || proxy.stack.lock().len() == 0).await;
    })
    .await;
}

/// Longer than the stack remembers a connection that both sides have finished.
#[tokio::test]
async fn who_reads_late_gets_everything() {
    with_proxy(|proxy| async move {
        let far = SocketAddr::new(FAR4.parse().unwrap(), ECHO);
        let connection = Connection::open(&proxy.stack, far).await.unwrap();
        let text = [7; 10_000];
        let Moved::Asked(()) = connection.write_with(|room| {
            room[..text.len()].copy_from_slice(&text);
            (text.len(), ())
        }) else {
            panic!("there is room at the beginning");
        };
        connection.finish();
        tokio::time::sleep(Duration::from_secs(12)).await;
        let read = connection.read_with(|bytes| (bytes.len(), bytes.to_vec()));
        assert!(matches!(&read, Moved::Asked(bytes) if bytes[..] == text), "{read:?}");
        assert!(matches!(connection.read_with(|bytes| (bytes.len(), ())), Moved::Finished));
        drop(connection);
        eventually("the end of the connection", || proxy.stack.lock().len() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn a_reset_arrives_as_one() {
    with_proxy(|proxy| async move {
        let mut client = connect(proxy.address, FAR4, BREAKS).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let error = client.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_breaks_off_takes_its_connection_with_it() {
    with_proxy(|proxy| async move {
        let client = connect(proxy.address, FAR4, ECHO).await.unwrap();
        assert_eq!(proxy.stack.lock().len(), 1);
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        eventually("the end of the connection", || proxy.stack.lock().len() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn the_end_of_the_tunnel_breaks_what_runs_through_it() {
    with_proxy(|proxy| async move {
        let mut client = connect(proxy.address, FAR4, ECHO).await.unwrap();
        echoes(&mut client, b"x").await;
        proxy.stack.end();
        assert!(client.read(&mut [0; 1]).await.is_err());
        assert_eq!(connect(proxy.address, FAR4, ECHO).await.unwrap_err(), 3);
    })
    .await;
}

#[tokio::test]
async fn many_connections_at_once() {
    with_proxy(|proxy| async move {
        let mut clients = JoinSet::new();
        for number in 0..200_u32 {
            clients.spawn(async move {
                let mut client = connect(proxy.address, FAR4, ECHO).await.unwrap();
                for round in 0..5 {
                    echoes(&mut client, format!("{number} {round} {}", "x".repeat(2_000)).as_bytes()).await;
                }
                client.shutdown().await.unwrap();
                assert!(rest(&mut client).await.is_empty());
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        eventually("the end of all connections", || proxy.stack.lock().len() == 0).await;
        assert_eq!(proxy.stack.lock().buffered(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody_else() {
    with_proxy(|proxy| async move {
        let _stalled = connect(proxy.address, FAR4, SOURCE).await.unwrap();
        for _ in 0..3 {
            let mut client = connect(proxy.address, FAR4, SOURCE).await.unwrap();
            assert_eq!(rest(&mut client).await.len(), MUCH);
        }
    })
    .await;
}

#[tokio::test]
async fn http_connect() {
    with_proxy(|proxy| async move {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"CONNECT both.test:7 HTTP/1.1\r\nHost: both.test:7\r\n\r\nearly").await.unwrap();
        let expected = b"HTTP/1.1 200 Connection established\r\n\r\nearly";
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, expected);
        echoes(&mut client, b"later").await;
        let status = async |request: &str| {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            String::from_utf8(rest(&mut client).await).unwrap().split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!(status(&format!("CONNECT {FAR4}:{CLOSED} HTTP/1.1\r\n\r\n")).await, "502");
        assert_eq!(status("CONNECT 127.0.0.1:7 HTTP/1.1\r\n\r\n").await, "403");
        assert_eq!(status("GET http://both.test/ HTTP/1.1\r\n\r\n").await, "405");
        assert_eq!(status("CONNECT both.test HTTP/1.1\r\n\r\n").await, "400");
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_request_end_the_connection_and_nothing_else() {
    with_proxy(|proxy| async move {
        let strange: [&[u8]; 8] = [
            b"\x00",
            b"\xff\xff\xff",
            b"\x05\x00",
            b"\x05\x01\x80",
            b"\x05\x01\x00\x04\x01\x00\x01",
            b"\x05\x01\x00\x05\x01\x00\x09",
            b"\x05\x01\x00\x05\x01\x00\x03\x02\xff\xfe\x00\x01",
            b"lower case\r\n\r\n",
        ];
        for bytes in strange {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(&[5, 0, 5, 0]), "{bytes:?} was answered with {answer:?}");
        }
        let mut four = TcpStream::connect(proxy.address).await.unwrap();
        four.write_all(b"\x04\x01\x00\x07\x0a\x08\x00\x01\x00").await.unwrap();
        assert_eq!(rest(&mut four).await, [0, 91, 0, 0, 0, 0, 0, 0]);
        assert!(connect(proxy.address, FAR4, ECHO).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let patience = Patience { request: Duration::from_millis(200), ..Patience::default() };
    with_patience(patience, |proxy| async move {
        for begun in [&b""[..], b"\x05\x01", b"CONNECT "] {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(begun).await.unwrap();
            let _ = client.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_password_is_wanted_where_there_is_one() {
    let local = LocalSet::new();
    let scenario = async {
        let login = Login::new("ann".into(), Secret(b"s3cret".to_vec()));
        let proxy = proxy(&[FAR4], Some(login), Patience::default()).await;
        let mut without = TcpStream::connect(proxy.address).await.unwrap();
        without.write_all(&[5, 1, 0]).await.unwrap();
        assert_eq!(rest(&mut without).await, [5, 0xff]);
        for (password, verdict) in [(&b"s3cret"[..], 0), (b"s3cres", 1), (b"", 1)] {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(&[5, 2, 0, 2]).await.unwrap();
            let login = [&[1, 3][..], b"ann", &[password.len() as u8], password].concat();
            client.write_all(&login).await.unwrap();
            let mut answer = [0; 4];
            client.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, [5, 2, 1, verdict]);
            if verdict == 0 {
                client.write_all(&[&[5, 1, 0], &encoded(FAR4, ECHO)[..]].concat()).await.unwrap();
                assert_eq!(reply(&mut client).await.0, 0);
                echoes(&mut client, b"admitted").await;
            } else {
                assert!(rest(&mut client).await.is_empty());
            }
        }
        let mut http = TcpStream::connect(proxy.address).await.unwrap();
        http.write_all(b"CONNECT both.test:7 HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(rest(&mut http).await.starts_with(b"HTTP/1.1 407 "));
    };
    local.run_until(scenario).await;
}

/// A datagram with its header.
pub(super) fn datagram(fragment: u8, host: &str, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, fragment], &encoded(host, ECHO)[..], payload].concat()
}

#[tokio::test]
async fn datagrams_go_by_address_and_by_name_and_come_back() {
    with_proxy(|proxy| async move {
        let (control, code, bound) = ask(proxy.address, 3, "0.0.0.0", 0).await;
        assert_eq!(code, 0);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(bound.unwrap()).await.unwrap();
        let mut buffer = [0; 2_000];
        for (host, from) in [(FAR4, FAR4), (FAR6, FAR6), ("both.test", FAR4)] {
            socket.send(&datagram(0, host, host.as_bytes())).await.unwrap();
            let count = socket.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..count], datagram(0, from, host.as_bytes()));
        }
        // A fragment, one with an unknown name, one that is too long, garbage: nothing comes of them.
        socket.send(&datagram(1, FAR4, b"fragment")).await.unwrap();
        socket.send(&datagram(0, "nothing.test", b"nowhere")).await.unwrap();
        socket.send(&datagram(0, FAR4, &[0; MTU])).await.unwrap();
        socket.send(&[0, 0]).await.unwrap();
        socket.send(&[0, 1, 0, 1, 10, 8, 0, 1, 0, 7, b'x']).await.unwrap();
        // Nor of what another socket sends there.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.send_to(&datagram(0, FAR4, b"stranger"), bound.unwrap()).await.unwrap();
        socket.send(&datagram(0, FAR4, b"last")).await.unwrap();
        let count = socket.recv(&mut buffer).await.unwrap();
        assert_eq!(buffer[..count], datagram(0, FAR4, b"last"));
        drop(control);
        eventually("the end of the association", || proxy.stack.lock().len() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn an_association_ends_with_its_tunnel() {
    with_proxy(|proxy| async move {
        let (mut control, code, _) = ask(proxy.address, 3, "0.0.0.0", 0).await;
        assert_eq!(code, 0);
        assert_eq!(proxy.stack.lock().len(), 1);
        proxy.way.send_replace(Way::None);
        assert!(rest(&mut control).await.is_empty());
        eventually("the end of the association", || proxy.stack.lock().len() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn there_is_a_bound_and_whoever_is_beyond_it_is_told() {
    let inner = super::stack::Inner { ipv4: Some(([10, 8, 0, 2].into(), 24)), ipv6: None, mtu: MTU };
    let stack = std::sync::Arc::new(super::stack::Stack::new(inner));
    let all: Vec<_> =
        (0..super::stack::MOST_SOCKETS).map(|_| super::datagrams::Datagrams::open(&stack).unwrap()).collect();
    let beyond = super::datagrams::Datagrams::open(&stack);
    assert_eq!(beyond.unwrap_err(), super::failure::Failure::Full);
    drop(all);
    assert!(super::datagrams::Datagrams::open(&stack).is_ok());
}

//! The proxy among people who mean no good: clients that are slow, many, or in somebody else's place; name servers that forge, exaggerate
//! or go round in circles; and a server that goes away.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::LocalSet;

use super::datagrams::Datagrams;
use super::fixture::*;
use super::patience::Patience;
use super::stack::MOST_SOCKETS;
use super::tests::*;
use super::way::Way;

/// What the proxy answers to a request in HTTP, all of it.
async fn http(proxy: &Proxy, request: &[u8]) -> String {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(request).await.unwrap();
    String::from_utf8(rest(&mut client).await).unwrap()
}

async fn connect_by_http(proxy: &Proxy, to: &str) -> String {
    http(proxy, format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn a_client_that_sends_a_byte_now_and_then_is_cut_off_and_told() {
    let patience = Patience { request: Duration::from_millis(500), ..Patience::default() };
    with_patience(patience, |proxy| async move {
        let (mut from, mut to) = TcpStream::connect(proxy.address).await.unwrap().into_split();
        let drips = async {
            for byte in b"CONNECT both.test:7 HTTP/1.1\r\n".iter().cycle() {
                if to.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mut answer = vec![0; 12];
        let hears = from.read_exact(&mut answer);
        tokio::select! {
            () = drips => panic!("it was cut off without a word"),
            read = hears => assert_eq!(read.unwrap(), 12),
        }
        assert_eq!(answer, b"HTTP/1.1 408");
    })
    .await;
}

#[tokio::test]
async fn a_head_without_end_is_refused_and_the_answer_arrives() {
    with_proxy(|proxy| async move {
        let begin = "CONNECT both.test:7 HTTP/1.1\r\n";
        for long in [format!("{begin}X: {}", "y".repeat(60_000)), format!("{begin}{}", "a: b\r\n".repeat(10_000))] {
            let answer = http(&proxy, long.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 431 ") && answer.ends_with("too long\n"), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_connect_is_answered_with_what_is_wrong() {
    with_proxy(|proxy| async move {
        for (request, status) in [
            ("POST http://both.test/ HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405"),
            ("BREW pot HTTP/1.1\r\n\r\n", "405"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
            ("CONNECT [::1]:443 HTTP/1.1\r\n\r\n", "403"),
            ("CONNECT ::1:443 HTTP/1.1\r\n\r\n", "400"),
        ] {
            let answer = http(&proxy, request.as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with('\n'),
                "{request}: {answer}"
            );
        }
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(format!("CONNECT [{FAR6}]:{ECHO} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = [0; 39];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 Connection established\r\n\r\n");
        echoes(&mut client, b"by IPv6").await;
    })
    .await;
}

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_does() {
    let scenario = async {
        let proxy = small_proxy(&[FAR4], None, Patience::default(), 4).await;
        let mut working = connect(proxy.address, FAR4, ECHO).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(TcpStream::connect(proxy.address).await.unwrap());
        }
        let mut another = connect(proxy.address, FAR4, ECHO).await.unwrap();
        echoes(&mut another, b"in spite of them").await;
        echoes(&mut working, b"not in their place").await;
        assert!(rest(&mut idle[0]).await.is_empty(), "the first one had to go");
    };
    LocalSet::new().run_until(scenario).await;
}

#[tokio::test]
async fn when_everybody_works_one_more_is_turned_away() {
    let scenario = async {
        let proxy = small_proxy(&[FAR4], None, Patience::default(), 2).await;
        let mut one = connect(proxy.address, FAR4, ECHO).await.unwrap();
        let mut two = connect(proxy.address, FAR4, ECHO).await.unwrap();
        let mut beyond = TcpStream::connect(proxy.address).await.unwrap();
        assert!(!matches!(beyond.read(&mut [0]).await, Ok(1..)));
        echoes(&mut one, b"one").await;
        echoes(&mut two, b"two").await;
        drop(one);
        let mut place = None;
        while place.is_none() {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            let asked = client.write_all(&[5, 1, 0]).await;
            place = (asked.is_ok() && matches!(client.read(&mut [0; 2]).await, Ok(2))).then_some(client);
        }
    };
    LocalSet::new().run_until(scenario).await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    with_proxy(|proxy| async move {
        let all: Vec<_> = (0..MOST_SOCKETS).map(|_| Datagrams::open(&proxy.stack).unwrap()).collect();
        assert_eq!(connect(proxy.address, FAR4, ECHO).await.unwrap_err(), 1);
        assert_eq!(ask(proxy.address, 3, "0.0.0.0", 0).await.1, 1);
        let answer = connect_by_http(&proxy, "10.8.0.1:7").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections"), "{answer}");
        drop(all);
        assert!(connect(proxy.address, FAR4, ECHO).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn an_association_belongs_to_the_port_that_its_client_named() {
    with_proxy(|proxy| async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let thief = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for host in ["127.0.0.1", "0.0.0.0"] {
            let named = socket.local_addr().unwrap().port();
            let (_control, code, bound) = ask(proxy.address, 3, host, named).await;
            assert_eq!(code, 0);
            let bound = bound.unwrap();
            thief.send_to(&datagram(0, FAR4, b"stolen"), bound).await.unwrap();
            socket.send_to(&datagram(0, FAR4, b"own"), bound).await.unwrap();
            let mut buffer = [0; 100];
            let (count, _) = socket.recv_from(&mut buffer).await.unwrap();
            assert_eq!(buffer[..count], datagram(0, FAR4, b"own"), "the first answer is to our own datagram");
            assert!(thief.try_recv(&mut buffer).is_err());
        }
    })
    .await;
}

#[tokio::test]
async fn an_association_whose_client_names_no_port_belongs_to_who_sends_first() {
    with_proxy(|proxy| async move {
        let (_control, _, bound) = ask(proxy.address, 3, "127.0.0.1", 0).await;
        let bound = bound.unwrap();
        let first = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let second = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 100];
        first.send_to(&datagram(0, FAR4, b"first"), bound).await.unwrap();
        assert!(first.recv_from(&mut buffer).await.is_ok());
        second.send_to(&datagram(0, FAR4, b"second"), bound).await.unwrap();
        // Another address of the same host is another host.
        let elsewhere = UdpSocket::bind("127.0.0.2:0").await.unwrap();
        elsewhere.send_to(&datagram(0, FAR4, b"elsewhere"), bound).await.unwrap();
        first.send_to(&datagram(0, FAR4, b"again"), bound).await.unwrap();
        let (count, _) = first.recv_from(&mut buffer).await.unwrap();
        assert_eq!(buffer[..count], datagram(0, FAR4, b"again"));
        assert!(second.try_recv(&mut buffer).is_err() && elsewhere.try_recv(&mut buffer).is_err());
    })
    .await;
}

#[tokio::test]
async fn while_the_server_is_away_new_requests_are_told_and_old_connections_wait() {
    let patience = Patience { tunnel: Duration::from_millis(100), ..Patience::default() };
    with_patience(patience, |proxy| async move {
        let mut old = connect(proxy.address, FAR4, ECHO).await.unwrap();
        let (_control, _, bound) = ask(proxy.address, 3, "0.0.0.0", 0).await;
        proxy.way.send_replace(Way::Interrupted(proxy.network.clone()));
        assert_eq!(connect(proxy.address, FAR4, ECHO).await.unwrap_err(), 3);
        assert_eq!(ask(proxy.address, 3, "0.0.0.0", 0).await.1, 3);
        let answer = connect_by_http(&proxy, "10.8.0.1:7").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("the tunnel is down"), "{answer}");
        proxy.way.send_replace(Way::Open(proxy.network.clone()));
        assert!(connect(proxy.address, FAR4, ECHO).await.is_ok());
        echoes(&mut old, b"still there").await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&datagram(0, FAR4, b"this too"), bound.unwrap()).await.unwrap();
        assert!(socket.recv(&mut [0; 100]).await.is_ok());
    })
    .await;
}

#[tokio::test]
async fn who_is_connecting_when_the_server_goes_away_is_told() {
    let patience = Patience { tunnel: Duration::from_millis(100), ..Patience::default() };
    with_patience(patience, |proxy| async move {
        let connecting = connect(proxy.address, NOBODY, ECHO);
        let goes = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.way.send_replace(Way::Interrupted(proxy.network.clone()));
        };
        let (connected, ()) = tokio::join!(connecting, goes);
        assert_eq!(connected.unwrap_err(), 3, "6 would be its own time being over");
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_for_a_server_that_is_soon_back() {
    let patience = Patience { tunnel: Duration::from_secs(60), ..Patience::default() };
    with_patience(patience, |proxy| async move {
        proxy.way.send_replace(Way::None);
        let connecting = connect(proxy.address, FAR4, ECHO);
        let returns = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            proxy.way.send_replace(Way::Open(proxy.network.clone()));
        };
        let (connected, ()) = tokio::join!(connecting, returns);
        assert!(connected.is_ok());
    })
    .await;
}

#[tokio::test]
async fn forged_huge_and_circular_answers_do_no_harm() {
    with_proxy(|proxy| async move {
        for name in ["forged.test", "huge.test"] {
            let mut client = connect(proxy.address, name, ECHO).await.unwrap();
            echoes(&mut client, name.as_bytes()).await;
        }
        for (name, status) in [("loop.test", "502"), ("refused.test", "502")] {
            assert_eq!(connect(proxy.address, name, ECHO).await.unwrap_err(), 4, "{name}");
            let answer = connect_by_http(&proxy, &format!("{name}:7")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn name_servers_that_are_silent_cost_one_question_once_that_is_known() {
    let patience = Patience {
        question: Duration::from_millis(300),
        name: Duration::from_secs(1),
        connection: Duration::from_secs(20),
        ..Patience::default()
    };
    let scenario = async {
        let proxy = proxy(&[NOBODY], None, patience).await;
        for _ in 0..3 {
            let answer = connect_by_http(&proxy, "both.test:7").await;
            assert!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("did not answer"), "{answer}");
        }
        assert!(connect(proxy.address, FAR4, ECHO).await.is_ok(), "addresses need no name server");
    };
    LocalSet::new().run_until(scenario).await;
}

//! What a client finds behind a tunnel: a web server that sends as much as it is asked for, a name server, a UDP echo. Each runs on a
//! thread in its namespace until the value is dropped.

use crate::netns::Ns;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Where the web server listens: `GET /N` answers N bytes, `POST` how many came.
pub const WEB: u16 = 8080;
/// Where the UDP echo listens.
pub const ECHO: u16 = 7007;

/// How long a thread waits before it looks whether it should end.
const TURN: Duration = Duration::from_millis(50);

/// The servers of one namespace.
#[derive(Debug)]
pub struct Behind {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Behind {
    /// Starts them. The name server knows these names and no others.
    pub fn start(ns: &Ns, names: &[(&'static str, IpAddr)]) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let names = names.to_vec();
        let web = ns.inside(|| TcpListener::bind(("::", WEB))).expect("the web server's port is free");
        let dns = ns.inside(|| UdpSocket::bind(("::", 53))).expect("the name server's port is free");
        let echo = ns.inside(|| UdpSocket::bind(("::", ECHO))).expect("the echo's port is free");
        let threads = vec![
            spawn(&end, move |end| serve_web(&web, end)),
            spawn(&end, move |end| answer(&dns, end, |query| dns_answer(query, &names))),
            spawn(&end, move |end| answer(&echo, end, |bytes| Some(bytes.to_vec()))),
        ];
        Self { end, threads }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn spawn(end: &Arc<AtomicBool>, work: impl FnOnce(&AtomicBool) + Send + 'static) -> JoinHandle<()> {
    let end = Arc::clone(end);
    thread::spawn(move || work(&end))
}

fn answer(socket: &UdpSocket, end: &AtomicBool, reply: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    socket.set_read_timeout(Some(TURN)).expect("a time limit can be set");
    let mut buffer = vec![0; 65_536];
    while !end.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Some(bytes) = reply(&buffer[..length])
        {
            let _ = socket.send_to(&bytes, from);
        }
    }
}

fn serve_web(listener: &TcpListener, end: &AtomicBool) {
    listener.set_nonblocking(true).expect("a listener can be non-blocking");
    while !end.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((client, _)) => drop(thread::spawn(move || serve_one(client))),
            Err(_) => thread::sleep(TURN / 10),
        }
    }
}

/// One request; whatever goes wrong ends the connection, which the client sees.
fn serve_one(mut client: TcpStream) -> Option<()> {
    client.set_nonblocking(false).ok()?;
    client.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut words = first.split_whitespace();
    if words.next()? == "POST" {
        let came = std::io::copy(&mut reader.take(length), &mut std::io::sink()).ok()?.to_string();
        write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{came}", came.len()).ok()?;
        return Some(());
    }
    let mut left: usize = words.next()?.trim_start_matches('/').parse().ok()?;
    write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {left}\r\n\r\n").ok()?;
    let block = vec![b'x'; 256 * 1024];
    while left > 0 {
        let count = left.min(block.len());
        client.write_all(&block[..count]).ok()?;
        left -= count;
    }
    Some(())
}

/// RFC 1035, section 4: the question again, and the address if the name has one of that kind.
fn dns_answer(query: &[u8], names: &[(&'static str, IpAddr)]) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (12, Vec::new());
    while *query.get(at)? != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_ascii_lowercase());
        at = end;
    }
    let (question, kind) = (query.get(12..at + 5)?, *query.get(at + 2)?);
    let name = labels.join(".");
    let known = names.iter().any(|(known, _)| *known == name);
    let addresses = names.iter().filter(|(known, _)| *known == name).filter_map(|(_, ip)| match ip {
        IpAddr::V4(ip) if kind == 1 => Some(ip.octets().to_vec()),
        IpAddr::V6(ip) if kind == 28 => Some(ip.octets().to_vec()),
        _ => None,
    });
    let records: Vec<Vec<u8>> = addresses
        .map(|ip| [&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(ip.len()).unwrap_or(0)][..], &ip].concat())
        .collect();
    let code = if known { 0x80 } else { 0x83 };
    let count = u8::try_from(records.len()).ok()?;
    Some([&query[..2], &[0x81, code, 0, 1, 0, count, 0, 0, 0, 0], question, &records.concat()].concat())
}

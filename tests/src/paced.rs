//! A stream of numbered full-size datagrams at a rate that a sender reaches only in trains: each train is one call, which the kernel
//! cuts into datagrams (UDP_SEGMENT in udp(7)).

use crate::netns::Ns;
use crate::steady;
use crate::traffic::{Report, receive, report};
use socket2::{MsgHdr, SockAddr, SockRef};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Payload of a datagram that fills an MTU of 1,500 over IPv4, bytes.
pub const FULL: usize = 1472;
/// The inner packet of such a datagram, bytes.
const PACKET: u32 = 1500;
/// Datagrams of one train: less than 64 KiB.
const TRAIN: u32 = 20;
/// A sender that was kept waiting for longer does not catch up: the burst would overflow queues by itself.
const PATIENCE: Duration = Duration::from_millis(2);

/// A running stream with its receiver.
#[derive(Debug)]
pub struct Paced {
    sending: Arc<AtomicBool>,
    receiving: Arc<AtomicBool>,
    sender: JoinHandle<Sent>,
    receiver: JoinHandle<Vec<u64>>,
}

/// What a stream was and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Megabits of inner packets a second that were sent in fact.
    pub megabits: f64,
    /// What arrived of it.
    pub report: Report,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    datagrams: u64,
    refused: u64,
    took: Duration,
}

impl Paced {
    /// Sends so many megabits of inner packets a second from `source` in one namespace to `target` in another, until finished.
    pub fn start(from: &Ns, source: IpAddr, to: &Ns, target: SocketAddr, megabits: u32) -> Self {
        let out = from.inside(|| UdpSocket::bind((source, 0)).expect("the source address is there"));
        let inn = to.inside(|| UdpSocket::bind(target).expect("the target address is there"));
        inn.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit can be set");
        steady::deepen(&inn);
        let sending = Arc::new(AtomicBool::new(true));
        let receiving = Arc::new(AtomicBool::new(true));
        let (go, listen) = (Arc::clone(&sending), Arc::clone(&receiving));
        let receiver = thread::spawn(move || receive(&inn, FULL, &listen));
        let sender = thread::spawn(move || send(&out, target, megabits, &go));
        Self { sending, receiving, sender, receiver }
    }

    /// Stops sending, listens for `drain` more, and reports.
    pub fn finish(self, drain: Duration) -> Outcome {
        self.sending.store(false, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        thread::sleep(drain);
        self.receiving.store(false, Ordering::Relaxed);
        let arrived = self.receiver.join().expect("the receiver does not panic");
        let bits = sent.datagrams as f64 * f64::from(PACKET) * 8.0;
        let megabits = bits * 1e-6 / sent.took.as_secs_f64().max(1e-9);
        Outcome { megabits, report: report(sent.datagrams, sent.refused, &arrived) }
    }
}

/// Hands a run of datagrams of `size` bytes (the last may be shorter) over in one call: sendmsg with the control message
/// UDP_SEGMENT (udp(7)), `struct cmsghdr` and a 16-bit size, padded. Whether the kernel took all of it.
pub fn send_run(socket: &UdpSocket, target: SocketAddr, bytes: &[u8], size: u16) -> bool {
    /// SOL_UDP and UDP_SEGMENT of linux/udp.h.
    const SEGMENT: [i32; 2] = [17, 103];
    let length = 18usize.to_ne_bytes();
    let [level, kind] = SEGMENT.map(i32::to_ne_bytes);
    let control = [&length[..], &level, &kind, &size.to_ne_bytes(), &[0; 6]].concat();
    let (address, payload) = (SockAddr::from(target), [IoSlice::new(bytes)]);
    let run = MsgHdr::new().with_addr(&address).with_buffers(&payload).with_control(&control);
    SockRef::from(socket).sendmsg(&run, 0).is_ok_and(|sent| sent == bytes.len())
}

fn send(socket: &UdpSocket, target: SocketAddr, megabits: u32, go: &AtomicBool) -> Sent {
    let gap = Duration::from_nanos(u64::from(TRAIN * PACKET) * 8_000 / u64::from(megabits.max(1)));
    let start = Instant::now();
    let (mut datagrams, mut refused, mut due) = (0u64, 0u64, start);
    let mut train = vec![0u8; FULL * TRAIN as usize];
    while go.load(Ordering::Relaxed) {
        for (datagram, number) in train.chunks_exact_mut(FULL).zip(datagrams..) {
            datagram[..8].copy_from_slice(&number.to_be_bytes());
        }
        if !send_run(socket, target, &train, FULL as u16) {
            refused += u64::from(TRAIN);
        }
        datagrams += u64::from(TRAIN);
        due += gap;
        let now = Instant::now();
        match due.checked_duration_since(now) {
            Some(wait) => thread::sleep(wait),
            None if now - due > PATIENCE => due = now,
            None => {}
        }
    }
    Sent { datagrams, refused, took: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_arrives_as_datagrams() {
        let inn = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        inn.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit can be set");
        let out = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let target = inn.local_addr().expect("it is bound");
        let bytes: Vec<u8> = (0..25).collect();
        assert!(send_run(&out, target, &bytes, 10));
        let mut heard = [0; 64];
        for expected in bytes.chunks(10) {
            let len = inn.recv(&mut heard).expect("it was sent");
            assert_eq!(&heard[..len], expected);
        }
    }
}

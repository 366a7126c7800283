//! TCP: connections that are written to and read from as fast as they go. Bytes are counted where they arrive.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{Crew, LOOK_UP, any_port};
use crate::bench::net::Net;
use crate::sys;

/// Bytes of one write and of one read.
const CHUNK: usize = 256 << 10;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Connections that carry data.
#[derive(Debug)]
pub(in crate::bench) struct Load {
    received: Arc<AtomicU64>,
    senders: Vec<TcpStream>,
    _crew: Crew,
}

/// What a look at them tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::bench) struct Look {
    /// Payload bytes that the receivers have read.
    pub(in crate::bench) bytes: u64,
    /// Segments that the senders have sent again.
    pub(in crate::bench) retransmits: u64,
    /// The largest payload of a segment, in bytes.
    pub(in crate::bench) segment: u64,
}

impl Load {
    /// Connects `flows` times from one end to an address of the other, and sends.
    ///
    /// # Errors
    /// A connection could not be made.
    pub(in crate::bench) fn start(from: &Net, to: &Net, address: Ipv4Addr, flows: u32) -> io::Result<Load> {
        let mut crew = Crew::default();
        let received = Arc::new(AtomicU64::new(0));
        let listener = to.run(move || TcpListener::bind(any_port(address)))?;
        let target = listener.local_addr()?;
        let mut senders = Vec::new();
        for _ in 0..flows {
            let sender = from.run(move || TcpStream::connect_timeout(&target, CONNECT))?;
            let (receiver, _) = listener.accept()?;
            // Ending means ending: what is still on its way must not run into the next test.
            socket2::SockRef::from(&sender).set_linger(Some(Duration::ZERO))?;
            sender.set_write_timeout(Some(LOOK_UP))?;
            receiver.set_read_timeout(Some(LOOK_UP))?;
            senders.push(sender.try_clone()?);
            let (stop, count) = (crew.flag(), Arc::clone(&received));
            crew.add(std::thread::spawn(move || read(receiver, &count, &stop)));
            let stop = crew.flag();
            crew.add(std::thread::spawn(move || write(sender, &stop)));
        }
        Ok(Load { received, senders, _crew: crew })
    }

    /// Where it stands.
    pub(in crate::bench) fn look(&self) -> Look {
        let bytes = self.received.load(Ordering::Relaxed);
        self.senders.iter().fold(Look { bytes, ..Look::default() }, |look, sender| {
            let info = sys::tcp_info(sender.as_fd()).unwrap_or_default();
            let segment = look.segment.max(info.segment);
            Look { retransmits: look.retransmits + info.retransmits, segment, ..look }
        })
    }
}

fn read(mut stream: TcpStream, received: &AtomicU64, stop: &AtomicBool) {
    let mut buffer = vec![0; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => drop(received.fetch_add(read as u64, Ordering::Relaxed)),
            Err(error) if passes(&error) => {}
            Err(_) => return,
        }
    }
}

fn write(mut stream: TcpStream, stop: &AtomicBool) {
    let chunk = vec![0x5a; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&chunk) {
            Err(error) if !passes(&error) => return,
            _ => {}
        }
    }
}

fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

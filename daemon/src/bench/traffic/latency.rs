//! Round trips: one small datagram a millisecond, sent back by the other end, its way timed by the sender's clock.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Crew, LOOK_UP, any_port};
use crate::bench::net::Net;
use crate::bench::results::Latency;

/// Between two datagrams.
const INTERVAL: Duration = Duration::from_millis(1);
/// Payload in bytes: a number, and as much as an ordinary echo request carries.
const SIZE: usize = 56;
/// The longest round trip that is told from a loss, in ns.
const LONGEST: u64 = 60_000_000_000;

/// An end that sends back what it gets.
#[derive(Debug)]
pub(in crate::bench) struct Echo {
    address: SocketAddr,
    _crew: Crew,
}

impl Echo {
    /// Listens on an address of this end.
    ///
    /// # Errors
    /// The socket could not be made.
    pub(in crate::bench) fn start(at: &Net, address: Ipv4Addr) -> io::Result<Echo> {
        let mut crew = Crew::default();
        let socket = at.run(move || UdpSocket::bind(any_port(address)))?;
        socket.set_read_timeout(Some(LOOK_UP))?;
        let address = socket.local_addr()?;
        let stop = crew.flag();
        crew.add(std::thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(buffer.get(..len).unwrap_or_default(), from);
                }
            }
        }));
        Ok(Echo { address, _crew: crew })
    }
}

/// What was found out about round trips.
#[derive(Debug)]
pub(in crate::bench) struct RoundTrips {
    /// Datagrams sent.
    pub(in crate::bench) sent: u64,
    /// Round trips in ns, one for each answer.
    pub(in crate::bench) times: Histogram<u64>,
}

/// Measures for this long, or until told to stop.
///
/// # Errors
/// The socket could not be made.
pub(in crate::bench) fn measure(
    from: &Net,
    echo: &Echo,
    duration: Duration,
    stop: &AtomicBool,
) -> io::Result<RoundTrips> {
    let socket = asking(from, echo)?;
    let mut trips = RoundTrips { sent: 0, times: histogram()? };
    let start = Instant::now();
    let mut sent_at = Vec::new();
    while start.elapsed() < duration && !stop.load(Ordering::Relaxed) {
        let number = sent_at.len() as u64;
        let mut datagram = [0; SIZE];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        sent_at.push(Instant::now());
        if socket.send(&datagram).is_ok() {
            trips.sent += 1;
        }
        // A fixed timetable: a slow answer does not thin out the questions (coordinated omission).
        let next = start + INTERVAL.saturating_mul(u32::try_from(sent_at.len()).unwrap_or(u32::MAX));
        take_answers(&socket, next, &sent_at, &mut trips.times);
    }
    // The last answers may be on their way still.
    let patience = Instant::now() + Duration::from_millis(200);
    while trips.times.len() < trips.sent && Instant::now() < patience {
        take_answers(&socket, Instant::now() + INTERVAL, &sent_at, &mut trips.times);
    }
    Ok(trips)
}

/// Whether one answer comes within this time; asks every 20 ms.
///
/// # Errors
/// The socket could not be made.
pub(in crate::bench) fn reachable(from: &Net, echo: &Echo, limit: Duration, stop: &AtomicBool) -> io::Result<bool> {
    let socket = asking(from, echo)?;
    let (start, mut times) = (Instant::now(), histogram()?);
    while start.elapsed() < limit && !stop.load(Ordering::Relaxed) {
        let _ = socket.send(&[0; SIZE]);
        take_answers(&socket, Instant::now() + Duration::from_millis(20), &[start], &mut times);
        if !times.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn asking(from: &Net, echo: &Echo) -> io::Result<UdpSocket> {
    let to = echo.address;
    from.run(move || {
        let socket = UdpSocket::bind(any_port(Ipv4Addr::UNSPECIFIED))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    })
}

fn histogram() -> io::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST, 3).map_err(io::Error::other)
}

/// Takes answers until an instant.
fn take_answers(socket: &UdpSocket, until: Instant, sent_at: &[Instant], times: &mut Histogram<u64>) {
    let mut buffer = [0; SIZE];
    loop {
        while let Ok(len) = socket.recv(&mut buffer) {
            let number =
                buffer.get(..len).and_then(|bytes| bytes.first_chunk()).map(|bytes| u64::from_be_bytes(*bytes));
            let sent = number.and_then(|number| sent_at.get(usize::try_from(number).ok()?));
            if let Some(sent) = sent {
                times.saturating_record(u64::try_from(sent.elapsed().as_nanos()).unwrap_or(LONGEST).max(1));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.min(LOOK_UP).as_nanos() as _ };
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout));
    }
}

/// The figures of a distribution of ns, in µs.
pub(in crate::bench) fn summary(times: &Histogram<u64>) -> Option<Latency> {
    if times.is_empty() {
        return None;
    }
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
    Some(Latency {
        min: times.min() as f64 / 1_000.0,
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: times.max() as f64 / 1_000.0,
        histogram: compact(times.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))),
    })
}

/// Counts of values in ns gathered under upper edges in µs with two significant digits.
fn compact(values: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut edges = BTreeMap::new();
    for (ns, count) in values {
        *edges.entry(edge(ns.div_ceil(1_000))).or_insert(0) += count;
    }
    edges.into_iter().collect()
}

/// The smallest number of two significant digits that is not smaller.
fn edge(us: u64) -> u64 {
    let mut step = 1;
    while us.div_ceil(step) >= 100 {
        step *= 10;
    }
    us.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_has_two_digits_and_is_not_below() {
        for (us, expected) in
            [(0, 0), (1, 1), (99, 99), (100, 100), (101, 110), (999, 1_000), (1_001, 1_100), (12_345, 13_000)]
        {
            assert_eq!(edge(us), expected, "{us}");
        }
    }

    #[test]
    fn a_distribution_is_told_in_microseconds() {
        let mut times = histogram().unwrap();
        assert!(summary(&times).is_none());
        for us in 1..=1_000u64 {
            times.record(us * 1_000).unwrap();
        }
        let latency = summary(&times).unwrap();
        assert!((latency.p50 - 500.0).abs() < 1.0 && (latency.p99 - 990.0).abs() < 2.0, "{latency:?}");
        assert!(latency.min <= 1.0 && (latency.max - 1_000.0).abs() < 2.0, "{latency:?}");
        assert_eq!(latency.histogram.iter().map(|(_, count)| count).sum::<u64>(), 1_000);
        assert!(latency.histogram.is_sorted());
        assert!(latency.histogram.len() < 200);
    }
}

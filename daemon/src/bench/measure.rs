//! One measurement: the traffic of one test through one tunnel, as one sample.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::contender::Running;
use super::net::{End, Ground};
use super::plan::{PAUSE, Plan};
use super::results::{Direction, Sample, Test};
use super::traffic::latency::{self, Echo};
use super::traffic::{tcp, udp};

/// Where and how a test runs.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    /// The namespaces.
    pub(super) ground: &'a Ground,
    /// The tunnel.
    pub(super) tunnel: &'a Running,
    /// Times.
    pub(super) plan: &'a Plan,
    /// Datagrams a second of the UDP tests; 0 is no limit.
    pub(super) udp_rate: u64,
    /// Set when the user wants an end.
    pub(super) stop: &'a AtomicBool,
}

/// Runs one test.
///
/// # Errors
/// The tunnel does not carry it. `Interrupted` when the flag was set.
pub(super) fn measure(scene: &Scene<'_>, test: Test) -> io::Result<Sample> {
    let sample = match test {
        Test::TcpSingle { direction } => tcp(scene, direction, 1),
        Test::TcpParallel { flows, direction } => tcp(scene, direction, flows),
        Test::Udp { size, direction } => udp(scene, direction, size),
        Test::LatencyIdle => idle(scene),
        Test::LatencyLoaded => loaded(scene),
    }?;
    rest(scene.stop, PAUSE)?;
    Ok(sample)
}

/// The sending end and the receiving one.
fn ends(direction: Direction) -> (End, End) {
    match direction {
        Direction::Up => (End::A, End::B),
        Direction::Down => (End::B, End::A),
    }
}

fn tcp(scene: &Scene<'_>, direction: Direction, flows: u32) -> io::Result<Sample> {
    let load = start_tcp(scene, direction, flows)?;
    let (before, after, window) = window(scene, || load.look())?;
    let bytes = after.value.bytes.saturating_sub(before.value.bytes);
    if bytes == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing arrived over TCP"));
    }
    let packets = bytes as f64 / after.value.segment.max(1) as f64;
    Ok(Sample {
        bits_per_second: bytes as f64 * 8.0 / window,
        packets_per_second: packets / window,
        retransmits: after.value.retransmits.saturating_sub(before.value.retransmits),
        ns_per_packet: per_packet(before.cpu_ns, after.cpu_ns, packets),
        ..Sample::default()
    })
}

fn start_tcp(scene: &Scene<'_>, direction: Direction, flows: u32) -> io::Result<tcp::Load> {
    let (from, to) = ends(direction);
    tcp::Load::start(scene.ground.end(from), scene.ground.end(to), scene.tunnel.address(to), flows)
}

fn udp(scene: &Scene<'_>, direction: Direction, size: u32) -> io::Result<Sample> {
    let (from, to) = ends(direction);
    let (sender, receiver) = (scene.ground.end(from), scene.ground.end(to));
    let blast = udp::Blast::start(sender, receiver, scene.tunnel.address(to), size, scene.udp_rate)?;
    let (before, after, window) = window(scene, || blast.look())?;
    let packets = after.value.received.saturating_sub(before.value.received) as f64;
    if packets == 0.0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing arrived over UDP"));
    }
    Ok(Sample {
        bits_per_second: after.value.bytes.saturating_sub(before.value.bytes) as f64 * 8.0 / window,
        packets_per_second: packets / window,
        loss: after.value.loss_since(&before.value),
        ns_per_packet: per_packet(before.cpu_ns, after.cpu_ns, packets),
        ..Sample::default()
    })
}

fn idle(scene: &Scene<'_>) -> io::Result<Sample> {
    let echo = Echo::start(scene.ground.end(End::B), scene.tunnel.address(End::B))?;
    round_trips(scene, &echo)
}

/// The load runs the way of the questions, so that these wait behind it.
fn loaded(scene: &Scene<'_>) -> io::Result<Sample> {
    let echo = Echo::start(scene.ground.end(End::B), scene.tunnel.address(End::B))?;
    let load = start_tcp(scene, Direction::Up, 1)?;
    rest(scene.stop, scene.plan.warm_up)?;
    let (before, began) = (load.look(), Instant::now());
    let sample = round_trips(scene, &echo)?;
    let (after, window) = (load.look(), began.elapsed().as_secs_f64());
    Ok(Sample {
        bits_per_second: after.bytes.saturating_sub(before.bytes) as f64 * 8.0 / window,
        retransmits: after.retransmits.saturating_sub(before.retransmits),
        ..sample
    })
}

fn round_trips(scene: &Scene<'_>, echo: &Echo) -> io::Result<Sample> {
    let trips = latency::measure(scene.ground.end(End::A), echo, scene.plan.window, scene.stop)?;
    rest(scene.stop, Duration::ZERO)?;
    let latency_us = latency::summary(&trips.times);
    if latency_us.is_none() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no echo was answered"));
    }
    let answered = trips.times.len().min(trips.sent) as f64;
    Ok(Sample {
        packets_per_second: answered / scene.plan.window.as_secs_f64(),
        loss: if trips.sent == 0 { 0.0 } else { 1.0 - answered / trips.sent as f64 },
        latency_us,
        ..Sample::default()
    })
}

/// A look at one instant.
struct Look<T> {
    value: T,
    cpu_ns: Option<u64>,
}

/// Two looks, a window apart, after the warm-up; and the seconds between them, as they came out.
fn window<T>(scene: &Scene<'_>, look: impl Fn() -> T) -> io::Result<(Look<T>, Look<T>, f64)> {
    rest(scene.stop, scene.plan.warm_up)?;
    let now = || Look { value: look(), cpu_ns: scene.tunnel.cpu_ns() };
    let (began, before) = (Instant::now(), now());
    rest(scene.stop, scene.plan.window)?;
    let (ended, after) = (began.elapsed(), now());
    Ok((before, after, ended.as_secs_f64()))
}

fn per_packet(before: Option<u64>, after: Option<u64>, packets: f64) -> Option<f64> {
    let spent = after?.checked_sub(before?)?;
    (packets > 0.0).then(|| spent as f64 / packets)
}

/// Sleeps, and wakes when the user wants an end.
///
/// # Errors
/// `Interrupted` then.
pub(super) fn rest(stop: &AtomicBool, time: Duration) -> io::Result<()> {
    let start = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match time.checked_sub(start.elapsed()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(50))),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_divided_by_packets_where_both_are_known() {
        assert_eq!(per_packet(Some(1_000), Some(3_000), 10.0), Some(200.0));
        assert_eq!(per_packet(None, Some(3_000), 10.0), None);
        assert_eq!(per_packet(Some(1_000), None, 10.0), None);
        assert_eq!(per_packet(Some(3_000), Some(1_000), 10.0), None);
        assert_eq!(per_packet(Some(1), Some(2), 0.0), None);
    }

    #[test]
    fn a_rest_ends_when_the_user_wants_it() {
        assert!(rest(&AtomicBool::new(false), Duration::from_millis(1)).is_ok());
        let stopped = rest(&AtomicBool::new(true), Duration::from_secs(3_600));
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}

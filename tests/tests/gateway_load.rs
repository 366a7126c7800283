//! What thousands of clients cost a gateway: processor time for each handshake, memory for each session that is idle, and what one
//! client under way notices of others that come. Memory is asserted; rates are told, because they are the machine's: those
//! of an executable without optimisation say nothing.

use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;
use tests::gateway::Gateway;
use tests::load::{Load, Pace, client_setup};
use tests::netns::{INNER4, Net, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::paced::{Outcome, Paced};
use tests::pki::{Authority, Role};
use tests::process::tail;
use tests::setup::{Setup, Wrap};
use tests::temp::Temp;
use tests::usage::{private_memory, processor_time, resident_memory, time_of_threads};

/// The most private memory for each idle session, in bytes: of the control process, the supervisor and the workers together.
const MOST: u64 = 32 << 10;
/// Handshakes that are under way at once: the gateway is never idle, and no queue overflows.
const WIDTH: usize = 64;
/// The longest that a crowd may take.
const LIMIT: Duration = Duration::from_secs(240);

struct Scene {
    gateway: Gateway,
    load: Load,
    net: Net,
    temp: Temp,
    setup: Setup,
}

/// A gateway with room for all, and so many clients that have not come yet, each with a certificate of its own.
fn scene(count: usize, workers: u16) -> Scene {
    let (net, temp, root) = (Net::new(), Temp::new(), Authority::new("Test Root"));
    let mut setup = Setup::under(&root);
    setup.wrap = Wrap::TlsCrypt;
    setup.workers = workers;
    // Nobody here answers pings.
    setup.keepalive = (60, 600);
    let text = setup.server_config(&temp).replace("10.8.0.0 255.255.255.0", "10.8.0.0 255.255.0.0");
    let text = text + "max-clients 20000\nconnect-freq-initial 100000 10\nexplicit-exit-notify 1\n";
    let config = temp.write("server.conf", &text).display().to_string();
    let words = ["gateway", "run", "--config", &config, "--io", setup.io, "--workers", &workers.to_string()];
    let gateway = Gateway::launch(&net, &temp, &words, "server");
    let issue = |n| client_setup(&setup, &root.issue(&format!("client-{n}"), Role::Client));
    let load = Load::new(&net.client, SocketAddr::from((SERVER4, 1194)), (0..count).map(issue).collect());
    Scene { gateway, load, net, temp, setup }
}

impl Scene {
    fn connect(&mut self, count: usize, pace: Pace) -> Duration {
        let took = self.load.connect(count, pace, LIMIT);
        let (up, ended) = (self.load.up(), self.load.ended());
        let log = || tail(&self.gateway.process.log(), 20);
        took.unwrap_or_else(|| panic!("{up} clients are up; of the others: {ended:?}\n{}", log()))
    }

    fn control(&self) -> i32 {
        self.gateway.control_process().expect("the supervisor has a control process")
    }

    fn supervisor(&self) -> i32 {
        self.gateway.process.pid()
    }

    /// Processor time and private memory of the control process, and of the supervisor with its workers.
    fn used(&self) -> [(Duration, u64); 2] {
        [self.control(), self.supervisor()].map(|pid| (processor_time(pid), private_memory(pid)))
    }

    fn worker_time(&self, worker: u64) -> Duration {
        time_of_threads(self.supervisor(), &format!("worker-{worker}"))
    }

    /// Packets that this worker carried, both ways.
    fn carried(&self, worker: u64) -> u64 {
        let status = self.gateway.status();
        let rows = status["workers"].as_array().expect("a list of workers").iter();
        let row = rows.into_iter().find(|row| row["worker"].as_u64() == Some(worker)).expect("the worker's row");
        ["inbound", "outbound"].iter().filter_map(|way| row[way]["packets"].as_u64()).sum()
    }
}

#[test]
fn a_crowd_connects_and_each_idle_session_takes_little_memory() {
    let (first, rest) = if tests::long() { (500, 4_500) } else { (60, 240) };
    let mut scene = scene(first + rest, 2);
    // What is made once is there afterwards.
    scene.connect(first, Pace::AtOnce(WIDTH));
    scene.load.rest(Duration::from_secs(1));
    let before = scene.used();
    let worker_before = scene.worker_time(0) + scene.worker_time(1);
    let took = scene.connect(rest, Pace::AtOnce(WIDTH));
    scene.load.rest(Duration::from_secs(2));
    let after = scene.used();
    let workers = scene.worker_time(0) + scene.worker_time(1) - worker_before;

    let each = |which: usize| after[which].1.saturating_sub(before[which].1) / rest as u64;
    let [control, supervisor] = [0, 1].map(|which: usize| after[which].0 - before[which].0);
    let rate = rest as f64 / control.as_secs_f64().max(0.01);
    println!(
        "{rest} more clients in {took:?}: {rate:.0} handshakes for each second of the control process's processor time ({control:?}); \
         supervisor and workers {supervisor:?}, of which workers {workers:?}"
    );
    println!(
        "for each idle session {} bytes in the control process, {} in supervisor and workers; resident {} and {} KiB in all",
        each(0),
        each(1),
        resident_memory(scene.control()) >> 10,
        resident_memory(scene.supervisor()) >> 10,
    );
    // A few hundred sessions say little: what is made for many at once (tables, the allocator's pages) counts in full for them.
    let counted = if tests::long() { each(0) + each(1) } else { each(0) };
    assert!(counted <= MOST, "{counted} bytes for each session");
    assert_eq!((scene.load.up(), scene.load.ended()), (first + rest, [].as_slice()));
    let rows = scene.gateway.wait_clients(first + rest, Duration::from_secs(2));
    let mut addresses: Vec<_> = rows.iter().map(|row| row.ipv4).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), first + rest, "each has an address of its own");
}

#[test]
fn a_crowd_is_told_when_the_gateway_stops() {
    let count = if tests::long() { 5_000 } else { 200 };
    let mut scene = scene(count, 2);
    scene.connect(count, Pace::AtOnce(WIDTH));
    scene.gateway.process.signal(Signal::TERM);
    scene.load.rest(Duration::from_secs(3));
    let told = scene.load.ended().iter().filter(|why| why.contains("Restart")).count();
    println!("{told} of {count} were told");
    assert_eq!(told, count, "{:?}\n{}", scene.load.ended().first(), tail(&scene.gateway.process.log(), 10));
}

/// The rate and the number of those who come, and what the one under way sends meanwhile, in Mb/s.
fn rush() -> (u32, usize, u32) {
    if tests::long() { (200, 2_000, 1_000) } else { (50, 100, 20) }
}

#[test]
fn a_client_under_way_loses_nothing_while_others_come() {
    let (rate, count, megabits) = rush();
    let mut scene = scene(count, 2);
    let mut client = Client::start(&scene.net, &scene.temp, &scene.setup);
    client.expect_up();
    let rows = scene.gateway.wait_clients(1, Duration::from_secs(3));
    let worker = rows[0].worker;
    let (inner, _) = inner_addresses(&scene.net);
    [&scene.net.client, &scene.net.server].into_iter().for_each(tests::steady::deepen_tuns_of);

    // A port for each: what is still under way of one stream is not to be taken for the other's.
    let stream = Run { inner, worker, megabits, port: 7000 };
    let alone = measure(&mut scene, stream, |scene| {
        scene.load.rest(Duration::from_secs_f64(count as f64 / f64::from(rate)));
    });
    let beside = measure(&mut scene, Run { port: 7001, ..stream }, |scene| {
        scene.connect(count, Pace::PerSecond(rate));
    });
    let rise = 100.0 * (beside.1 / alone.1 - 1.0);
    println!(
        "alone {:.0} Mb/s, {:.0} ns of the worker for each packet; while {rate} clients a second came {:.0} Mb/s, {:.0} ns ({rise:+.1} %)",
        alone.0.megabits, alone.1, beside.0.megabits, beside.1,
    );
    println!("alone {}; beside {}", alone.0.report, beside.0.report);
    assert_eq!((scene.load.up(), scene.load.ended()), (count, [].as_slice()));
    if alone.0.report.complete() {
        assert!(beside.0.report.complete(), "{}", beside.0.report);
    } else {
        // At the full rate on a machine that is busy with something else. The short form asks for a rate that every machine has.
        assert!(tests::long(), "even alone: {}", alone.0.report);
        println!("this machine does not carry {megabits} Mb/s even alone: nothing can be said");
    }
    scene.gateway.wait_clients(count + 1, Duration::from_secs(2));
}

/// A stream of the client under way: from which inner address, by which worker, how many Mb/s, to which port.
#[derive(Debug, Clone, Copy)]
struct Run {
    inner: Ipv4Addr,
    worker: u64,
    megabits: u32,
    port: u16,
}

/// Sends to the gateway while something else is done; what came of it, and the worker's nanoseconds for each packet.
fn measure(scene: &mut Scene, run: Run, meanwhile: impl FnOnce(&mut Scene)) -> (Outcome, f64) {
    let (target, worker) = (SocketAddr::from((INNER4, run.port)), run.worker);
    let stream = Paced::start(&scene.net.client, run.inner.into(), &scene.net.server, target, run.megabits);
    thread::sleep(Duration::from_millis(200));
    let (carried, time) = (scene.carried(worker), scene.worker_time(worker));
    meanwhile(scene);
    let (carried, time) = (scene.carried(worker) - carried, scene.worker_time(worker) - time);
    (stream.finish(Duration::from_secs(3)), time.as_secs_f64() * 1e9 / (carried as f64).max(1.0))
}

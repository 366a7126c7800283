//! One drawn topology of three network namespaces, made for one test and removed with it.
//!
//! ```text
//!   mvPID-Nc (client)                mvPID-Nr (router)                  mvPID-Ns (server)
//!  ┌────────────────────┐      ┌─────────────────────────────┐      ┌────────────────────┐
//!  │ up0  10.71.1.2/24  │ veth │ cl0 10.71.1.1   10.71.2.1 sv0│ veth │ up0  10.71.2.2/24  │
//!  │      fd71:1::2/64  ├──────┤     fd71:1::1   fd71:2::1    ├──────┤      fd71:2::2/64  │
//!  │ default via router │      │ forwards; nftables, relay,  │      │ default via router │
//!  │ tun: 10.8.0.x      │      │ smaller MTU live here       │      │ tun: 10.8.0.1      │
//!  │      fd08::10xx    │      └─────────────────────────────┘      │      fd08::1       │
//!  └────────────────────┘                                           └────────────────────┘
//! ```
//! [`Net::crowd`] adds hosts on a bridge of the router, 10.72.0.0/16 and fd72::/64: more clients, or a third network.
//!
//! Names carry the process id of the test, so that several run side by side and a later start removes what a
//! killed one left. Everything that touches a namespace goes through [`Ns`].

use crate::{echo, temp};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The client's address on the link to the router.
pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 2);
/// The client's IPv6 address on the link to the router.
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd71, 1, 0, 0, 0, 0, 0, 2);
/// The router's address towards the client; a relay listens here.
pub const ROUTER4: Ipv4Addr = Ipv4Addr::new(10, 71, 1, 1);
/// The router's IPv6 address towards the client.
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfd71, 1, 0, 0, 0, 0, 0, 1);
/// The server's address on its link to the router.
pub const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 2);
/// The server's IPv6 address on its link to the router.
pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd71, 2, 0, 0, 0, 0, 0, 2);
/// The router's address on its link to the server.
pub const BESIDE4: Ipv4Addr = Ipv4Addr::new(10, 71, 2, 1);
/// The router's IPv6 address on its link to the server.
pub const BESIDE6: Ipv6Addr = Ipv6Addr::new(0xfd71, 2, 0, 0, 0, 0, 0, 1);
/// The server's address inside the tunnel.
pub const INNER4: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
/// The server's IPv6 address inside the tunnel.
pub const INNER6: Ipv6Addr = Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 1);

/// The router's address on the bridge of a crowd.
pub const BRIDGE4: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);
/// The router's IPv6 address on the bridge of a crowd.
pub const BRIDGE6: Ipv6Addr = Ipv6Addr::new(0xfd72, 0, 0, 0, 0, 0, 0, 1);

static NEXT: AtomicU32 = AtomicU32::new(0);
static SWEEP: Once = Once::new();

/// The three namespaces of the drawing; removed, with every process in them, on drop.
#[derive(Debug)]
pub struct Net {
    /// Where the client under test runs.
    pub client: Ns,
    /// Forwards between the two; bad networks are made here.
    pub router: Ns,
    /// Where the server runs.
    pub server: Ns,
}

impl Net {
    /// Lays the topology. Panics with one sentence where the process is not root or `ip` refuses.
    pub fn new() -> Self {
        need_root();
        SWEEP.call_once(sweep);
        let id = format!("mv{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self {
            client: Ns::new(format!("{id}c")),
            router: Ns::new(format!("{id}r")),
            server: Ns::new(format!("{id}s")),
        };
        net.join(&net.client, "cl0", [(CLIENT4.into(), ROUTER4.into()), (CLIENT6.into(), ROUTER6.into())]);
        net.join(&net.server, "sv0", [(SERVER4.into(), BESIDE4.into()), (SERVER6.into(), BESIDE6.into())]);
        net.router.set("net/ipv4/ip_forward", "1");
        net.router.set("net/ipv6/conf/all/forwarding", "1");
        net
    }

    /// Lays `count` more hosts, at most 60,000, on a bridge of the router, which is their default route; see
    /// [`crowd_address`]. Once for each topology.
    pub fn crowd(&self, count: u16) -> Vec<Ns> {
        let id = self.router.name.trim_end_matches('r');
        self.router.run("ip link add br0 type bridge");
        self.router.run("ip link set br0 up");
        self.router.run(&format!("ip address add {BRIDGE4}/16 dev br0"));
        self.router.run(&format!("ip address add {BRIDGE6}/64 dev br0 nodad"));
        (0..count).map(|n| self.one_of_crowd(format!("{id}k{n}"), n)).collect()
    }

    fn one_of_crowd(&self, name: String, n: u16) -> Ns {
        let (host, far, (v4, v6)) = (Ns::new(name), format!("k{n}"), crowd_address(n));
        host.run(&format!("ip link add up0 type veth peer name {far} netns {}", self.router.name));
        host.run("ip link set up0 up");
        self.router.run(&format!("ip link set {far} master br0 up"));
        host.run(&format!("ip address add {v4}/16 dev up0"));
        host.run(&format!("ip address add {v6}/64 dev up0 nodad"));
        host.default_routes([BRIDGE4.into(), BRIDGE6.into()]);
        host
    }

    /// Sets the MTU of the link between router and server, on both ends, in bytes.
    pub fn set_far_mtu(&self, bytes: u32) {
        self.router.run(&format!("ip link set sv0 mtu {bytes}"));
        self.server.run(&format!("ip link set up0 mtu {bytes}"));
    }

    /// Drops forwarded packets at random, each way, `percent` of them.
    pub fn drop_at_random(&self, percent: u32) {
        self.router.nft(&format!("add rule ip t forward numgen random mod 100 < {percent} drop"));
    }

    fn join(&self, host: &Ns, far: &str, addresses: [(IpAddr, IpAddr); 2]) {
        let router = &self.router;
        host.run(&format!("ip link add up0 type veth peer name {far} netns {}", router.name));
        host.run("ip link set up0 up");
        router.run(&format!("ip link set {far} up"));
        for (here, there) in addresses {
            let bits = if here.is_ipv4() { 24 } else { 64 };
            let nodad = if here.is_ipv4() { "" } else { " nodad" };
            host.run(&format!("ip address add {here}/{bits} dev up0{nodad}"));
            router.run(&format!("ip address add {there}/{bits} dev {far}{nodad}"));
        }
        host.default_routes(addresses.map(|(_, there)| there));
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

/// The addresses of a crowd's host number `n`, counted from 0.
pub fn crowd_address(n: u16) -> (Ipv4Addr, Ipv6Addr) {
    let host = n + 2;
    (Ipv4Addr::from_bits(BRIDGE4.to_bits() - 1 + u32::from(host)), Ipv6Addr::new(0xfd72, 0, 0, 0, 0, 0, 0, host))
}

/// One network namespace; on drop its processes are killed and it is deleted.
#[derive(Debug)]
pub struct Ns {
    name: String,
    file: File,
}

impl Ns {
    fn new(name: String) -> Self {
        must("ip", &["netns", "add", &name]);
        let file = File::open(format!("/run/netns/{name}")).expect("a namespace just made can be opened");
        let ns = Self { name, file };
        for knob in ["accept_dad", "dad_transmits", "accept_ra"] {
            ns.set(&format!("net/ipv6/conf/default/{knob}"), "0");
        }
        // New namespaces inherit it for IPv4 from the machine.
        ns.set("net/ipv4/ip_forward", "0");
        ns.run("ip link set lo up");
        ns
    }

    /// The name that `ip netns` knows.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace, with a private mount namespace; its process id is the program's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command line (split at spaces) to its end and returns its output; panics where it fails.
    pub fn run(&self, line: &str) -> String {
        let output = self.attempt(line);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: `{line}` failed: {err}", self.name);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command line (split at spaces) to its end, whatever comes of it.
    pub fn attempt(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a command line has a first word");
        self.command(program).args(words).output().expect("`ip` can be started")
    }

    /// Runs a closure on a thread of its own that lives in this namespace; sockets it makes stay there.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            self.handle().enter();
            f()
        };
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Adds an nftables rule; the chains `ip t forward`, `ip t input` and `ip t output` (and `ip6 t …`) are there for it.
    pub fn nft(&self, rule: &str) {
        for family in ["ip", "ip6"] {
            self.run(&format!("nft add table {family} t"));
            for chain in ["forward", "input", "output"] {
                let hook = format!("{{ type filter hook {chain} priority 0 ; }}");
                self.run(&format!("nft add chain {family} t {chain} {hook}"));
            }
        }
        self.run(&format!("nft {rule}"));
    }

    /// Removes every rule added by [`Ns::nft`].
    pub fn nft_clear(&self) {
        self.run("nft flush ruleset");
    }

    /// Writes a file under `/proc/sys` of this namespace.
    pub fn set(&self, knob: &str, value: &str) {
        let done = self.inside(|| std::fs::write(format!("/proc/sys/{knob}"), value));
        done.unwrap_or_else(|e| panic!("{}: cannot set {knob}: {e}", self.name));
    }

    /// Sets the default routes over `up0`, as after a change of link or address.
    pub fn default_routes(&self, gateways: [IpAddr; 2]) {
        for gateway in gateways {
            let family = if gateway.is_ipv4() { "-4" } else { "-6" };
            self.run(&format!("ip {family} route replace default via {gateway} dev up0"));
        }
    }

    /// `count` echo requests as fast as answers come, or one each 2 ms; returns how many were answered within 2 s.
    pub fn ping(&self, to: IpAddr, count: u16) -> u16 {
        let missing = echo::unanswered(self, to, count);
        if !missing.is_empty() {
            eprintln!("{}: no answer from {to} to echo requests {missing:?} of {count}", self.name);
        }
        count - u16::try_from(missing.len()).expect("no more than were sent")
    }

    /// Pings until one is answered; the time that took, or `None` after `limit`.
    pub fn until_answered(&self, to: IpAddr, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < limit {
            let out = self.attempt(&format!("ping -q -n -c 1 -W 0.2 {to}"));
            if out.status.success() {
                return Some(start.elapsed());
            }
            thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Everything the kernel would tell of this namespace's addresses, routes, rules and links, but for counters.
    pub fn snapshot(&self) -> String {
        let parts = ["-d link", "address", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule"];
        let lines = parts.iter().map(|part| self.run(&format!("ip {part}")));
        lines.map(|text| stable(&text)).collect::<Vec<_>>().join("--\n")
    }

    /// Process ids of everything that runs in this namespace.
    pub fn pids(&self) -> Vec<i32> {
        pids_in(&self.name)
    }

    /// A handle that a thread of its own may take along to enter this namespace.
    pub fn handle(&self) -> NsHandle {
        NsHandle(self.file.try_clone().expect("a descriptor can be copied"))
    }
}

/// The way into a namespace for one thread.
#[derive(Debug)]
pub struct NsHandle(File);

impl NsHandle {
    /// Moves the calling thread into the namespace for the rest of its life.
    pub fn enter(self) {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(self.0.as_fd(), kind).expect("root may enter a namespace");
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Panics with one sentence unless the process is root.
pub fn need_root() {
    let root = rustix::process::geteuid().is_root();
    assert!(
        root,
        "this test makes network namespaces and so needs root: run `make test`, or `sudo -E cargo test -p tests`"
    );
}

/// Removes namespaces and scratch directories of test processes that are gone.
pub fn sweep() {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("`ip` is installed (package iproute2)");
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        if temp::owner(name).is_some_and(|pid| !temp::alive(pid)) {
            remove(name);
        }
    }
    temp::sweep();
}

fn remove(name: &str) {
    for pid in pids_in(name) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "delete", name]).output();
}

fn pids_in(name: &str) -> Vec<i32> {
    let Ok(out) = Command::new("ip").args(["netns", "pids", name]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&out.stdout).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn must(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Sorted lines without life times and interface indices that the kernel counts by itself.
fn stable(text: &str) -> String {
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains("valid_lft") && !line.contains(" proto kernel scope link src 10.8."))
        .map(|line| line.split(" expires ").next().unwrap_or_default().trim_end().to_owned() + "\n")
        .collect();
    lines.sort();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_of_a_crowd_has_addresses_of_its_own() {
        assert_eq!(crowd_address(0), (Ipv4Addr::new(10, 72, 0, 2), "fd72::2".parse().unwrap()));
        assert_eq!(crowd_address(300).0, Ipv4Addr::new(10, 72, 1, 46));
    }

    #[test]
    fn what_the_kernel_counts_by_itself_is_left_out_of_a_snapshot() {
        assert_eq!(stable("b expires 59sec\na\n   valid_lft forever"), "a\nb\n");
    }
}

//! The client under test: `minivpn connect FILE` in the client's namespace, or OpenVPN in its stead.

use crate::netns::{Net, Ns};
use crate::process::Process;
use crate::setup::Setup;
use crate::steady;
use crate::stock::UP;
use crate::temp::Temp;
use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A running client, stopped on drop.
#[derive(Debug)]
pub struct Client {
    /// The process and its log (standard output and error together).
    pub process: Process,
}

/// How a client is started besides its profile.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Shell commands that run first, in the client's private mount namespace.
    pub before: String,
    /// A program and its arguments in front of the client's own.
    pub wrapper: Vec<&'static str>,
    /// OpenVPN as the client.
    pub stock: bool,
}

/// Clients started by this test program.
static LAUNCHES: AtomicU32 = AtomicU32::new(0);

impl Client {
    /// Starts the client and does not wait.
    pub fn start(net: &Net, temp: &Temp, setup: &Setup) -> Self {
        Self::launch(net, temp, setup, &setup.profile(), &Launch::default())
    }

    /// Starts the client on this profile text. `/run` is a directory of `temp` to it, so that clients do not meet
    /// in one journal and a second client of the same `temp` finds what the first one left.
    pub fn launch(net: &Net, temp: &Temp, setup: &Setup, profile: &str, launch: &Launch) -> Self {
        Self::launch_in(&net.client, temp, setup, profile, launch)
    }

    /// As [`Client::launch`], in any namespace.
    pub fn launch_in(ns: &Ns, temp: &Temp, setup: &Setup, profile: &str, launch: &Launch) -> Self {
        let file = temp.write("client.ovpn", profile);
        let run = temp.path().join("run");
        fs::create_dir_all(&run).expect("the scratch directory is writable");
        let shell = format!("mount --bind {} /run && {{ {}\n}} && exec \"$@\"", run.display(), or_true(&launch.before));
        let mut command = ns.command("sh");
        command.args(["-c", &shell, "sh"]).args(&launch.wrapper).args(arguments(setup, &file, launch));
        command.env("NO_COLOR", "1");
        // A log of its own: what an earlier client of the same test said must not count for this one.
        let log = temp.path().join(format!("client-{}.log", LAUNCHES.fetch_add(1, Ordering::Relaxed)));
        let process = Process::start("the client", command, &log);
        // Still the shell: what it becomes, and its threads, inherit this.
        steady::run_early(process.pid());
        Self { process }
    }

    /// Waits until the tunnel is up; panics with the log where that takes longer than 30 s.
    pub fn expect_up(&mut self) {
        self.process.expect_log(&[UP], Duration::from_secs(30));
    }

    /// Starts the client and waits until the tunnel is up.
    pub fn up(net: &Net, temp: &Temp, setup: &Setup) -> Self {
        let mut client = Self::start(net, temp, setup);
        client.expect_up();
        client
    }

    /// Ends it by SIGTERM; its exit code, or `None` where it takes longer than 10 s.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.stop(Duration::from_secs(10))
    }

    /// The process id of the control process, the supervisor's one child.
    pub fn control_process(&self) -> Option<i32> {
        self.process.first_child()
    }
}

/// Whether the scenarios run with OpenVPN as the client (`MINIVPN_TEST_CLIENT=stock`).
pub fn stock_client() -> bool {
    env::var_os("MINIVPN_TEST_CLIENT").is_some_and(|v| v == "stock")
}

/// The client's addresses inside the tunnel, read from its namespace.
pub fn inner_addresses(net: &Net) -> (Ipv4Addr, Ipv6Addr) {
    addresses_in(&net.client)
}

/// A client's addresses inside the tunnel, read from its namespace.
pub fn addresses_in(ns: &Ns) -> (Ipv4Addr, Ipv6Addr) {
    let text = ns.run("ip -o address show");
    let words: Vec<&str> = text.split_whitespace().collect();
    let ips: Vec<IpAddr> = words.iter().filter_map(|word| word.split('/').next()?.parse().ok()).collect();
    let v4 = ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) if ip.octets()[..2] == [10, 8] => Some(*ip),
        _ => None,
    });
    let v6 = ips.iter().find_map(|ip| match ip {
        IpAddr::V6(ip) if ip.segments()[0] == 0xfd08 => Some(*ip),
        _ => None,
    });
    match (v4, v6) {
        (Some(v4), Some(v6)) => (v4, v6),
        _ => panic!("the client has not both addresses of the tunnel:\n{text}"),
    }
}

/// The names of the TUN interfaces in the client's namespace.
pub fn tun_names(net: &Net) -> Vec<String> {
    tuns_in(&net.client)
}

/// The names of the TUN interfaces in a namespace.
pub fn tuns_in(ns: &Ns) -> Vec<String> {
    let text = ns.run("ip -o link show type tun");
    text.lines().filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned())).collect()
}

/// The executable under test: `MINIVPN_BIN`, or the one beside this test program, brought up to date first.
pub fn executable() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| env::var_os("MINIVPN_BIN").filter(|path| !path.is_empty()).map_or_else(build, PathBuf::from))
}

fn arguments(setup: &Setup, profile: &Path, launch: &Launch) -> Vec<String> {
    let file = profile.display().to_string();
    if launch.stock || stock_client() {
        return ["openvpn", "--disable-dco", "--config", &file].map(str::to_owned).to_vec();
    }
    let program = executable().display().to_string();
    let mut words: Vec<String> = [&program, "connect", &file, "--io", setup.io].map(str::to_owned).to_vec();
    words.extend(setup.options.iter().map(|&word| word.to_owned()));
    if setup.iv_proto_mask != 0 {
        words.extend(["--iv-proto-mask".to_owned(), setup.iv_proto_mask.to_string()]);
    }
    words
}

/// Test programs lie in `<target>/<profile>/deps`; the executable is built into `<target>/<profile>`.
fn build() -> PathBuf {
    let exe = env::current_exe().expect("a process knows its executable");
    let profile = exe.ancestors().nth(2).expect("a test program lies in deps").to_owned();
    let target = profile.parent().expect("a profile's directory lies in the target directory");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "-p", "minivpn", "--bin", "minivpn", "--no-default-features", "--features"]);
    command.arg(if cfg!(feature = "aws-lc") { "aws-lc" } else { "ring" });
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "minivpn does not build");
    profile.join("minivpn")
}

fn or_true(commands: &str) -> &str {
    if commands.is_empty() { "true" } else { commands }
}

//! Our gateway: `minivpn gateway run` on a stock server's configuration, or `gateway up`, in the server's namespace; its log, its
//! status, and what it takes of memory.

use crate::netns::{Net, Ns};
use crate::ours::executable;
use crate::process::{Process, until};
use crate::setup::Setup;
use crate::steady;
use crate::stock::UP;
use crate::temp::Temp;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What the gateway logs once for each renegotiation that ended well.
pub const RENEGOTIATED: &str = " renegotiated: ";

/// A running gateway, stopped on drop.
#[derive(Debug)]
pub struct Gateway {
    /// The process and its log (standard output and error together).
    pub process: Process,
    socket: PathBuf,
}

/// One client as the gateway's status shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The certificate's common name.
    pub name: String,
    /// Where its packets come from.
    pub real_address: SocketAddr,
    /// Its address inside.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address inside.
    pub ipv6: Option<Ipv6Addr>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    /// The data cipher agreed on.
    pub cipher: String,
    /// The worker that carries it.
    pub worker: u64,
    /// The gateway's number for this session; a client that comes anew gets another one.
    pub id: u64,
}

/// Gateways started by this test program.
static LAUNCHES: AtomicU32 = AtomicU32::new(0);

impl Gateway {
    /// Serves what the setup says and waits until it does.
    pub fn start(net: &Net, temp: &Temp, setup: &Setup) -> Self {
        Self::start_under(net, temp, setup, &[])
    }

    /// The same with a program and its arguments in front of the gateway's own.
    pub fn start_under(net: &Net, temp: &Temp, setup: &Setup, wrapper: &[&str]) -> Self {
        let config = temp.write("server.conf", &setup.server_config(temp)).display().to_string();
        let words = ["gateway", "run", "--config", &config, "--io", setup.io, "--workers", &setup.workers.to_string()];
        Self::launch_as(command_under(&net.server, temp, wrapper, &words), temp, "server")
    }

    /// Runs `minivpn` with these words in the server's namespace and waits until the gateway of that name serves. `/run`
    /// is a directory of `temp` to it, as it is to [`command`].
    pub fn launch(net: &Net, temp: &Temp, words: &[&str], name: &str) -> Self {
        Self::launch_as(command(&net.server, temp, words), temp, name)
    }

    fn launch_as(command: Command, temp: &Temp, name: &str) -> Self {
        let log = temp.path().join(format!("gateway-{}.log", LAUNCHES.fetch_add(1, Ordering::Relaxed)));
        let process = Process::start("the gateway", command, &log);
        steady::run_early(process.pid());
        let mut gateway = Self { process, socket: run_of(temp).join(format!("minivpn/{name}.sock")) };
        gateway.process.expect_log(&[UP], Duration::from_secs(30));
        gateway
    }

    /// Its control socket, as seen from outside of its namespace.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The whole status, as `minivpn status --json` prints it.
    pub fn status(&self) -> Value {
        let mut command = Command::new(executable());
        let output = command.args(["status", "--json", "--socket"]).arg(&self.socket).output();
        let output = output.expect("the executable can be started");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "minivpn status: {err}\n{}", self.process.log());
        serde_json::from_slice(&output.stdout).expect("the status is JSON")
    }

    /// The clients that are there, with their counters.
    pub fn clients(&self) -> Vec<Row> {
        let status = self.status();
        let rows = status["clients"].as_array().expect("a list of clients");
        rows.iter().map(|value| row(value).unwrap_or_else(|| panic!("a client's row is incomplete: {value}"))).collect()
    }

    /// Waits until exactly `count` clients are there, and gives them.
    pub fn wait_clients(&self, count: usize, limit: Duration) -> Vec<Row> {
        let mut rows = Vec::new();
        let came = until(limit, || {
            rows = self.clients();
            rows.len() == count
        });
        assert!(came, "{} clients instead of {count} after {limit:?}: {rows:?}\n{}", rows.len(), self.process.log());
        rows
    }

    /// Packets that were dropped for this reason so far, by all workers.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.sum(|worker| worker["drops"][reason].as_u64())
    }

    /// Packets that were dropped so far, by all workers, for whatever reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.sum(|worker| Some(worker["drops"].as_object()?.values().filter_map(Value::as_u64).sum()))
    }

    /// Packets that came from clients and were taken.
    pub fn taken(&self) -> u64 {
        self.sum(|worker| worker["inbound"]["packets"].as_u64())
    }

    fn sum(&self, of: impl Fn(&Value) -> Option<u64>) -> u64 {
        self.status()["workers"].as_array().expect("a list of workers").iter().filter_map(of).sum()
    }

    /// Key negotiations after the first that ended well so far, of all clients.
    pub fn renegotiations(&self) -> usize {
        self.process.count(RENEGOTIATED)
    }

    /// Whether it learned from a client that it leaves, inside the data channel or by a control message.
    pub fn saw_exit(&mut self, limit: Duration) -> bool {
        self.process.wait_log(&["is gone: it left", "is gone: it said that it leaves"], limit)
    }

    /// Lets it read its configuration again and waits until it has.
    pub fn reload(&mut self) {
        let before = self.process.count("reloaded: ");
        self.process.signal(Signal::HUP);
        let done = self.process.wait_count(&["reloaded: "], before + 1, Duration::from_secs(5));
        assert!(done, "no reload after SIGHUP:\n{}", self.process.log());
    }

    /// The process id of the control process.
    pub fn control_process(&self) -> Option<i32> {
        self.process.first_child()
    }

    /// Resident memory of both processes in KiB.
    pub fn resident(&self) -> u64 {
        let both = [Some(self.process.pid()), self.control_process()];
        both.into_iter().flatten().map(resident).sum()
    }

    /// Ends it by SIGTERM; its exit code, or `None` where it takes longer than 10 s.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.stop(Duration::from_secs(10))
    }
}

/// `minivpn` with these words, as a gateway of this `temp` is run: in this namespace, with a `/run` of its own.
pub fn command(ns: &Ns, temp: &Temp, words: &[&str]) -> Command {
    command_under(ns, temp, &[], words)
}

fn command_under(ns: &Ns, temp: &Temp, wrapper: &[&str], words: &[&str]) -> Command {
    let run = run_of(temp);
    fs::create_dir_all(&run).expect("the scratch directory is writable");
    let shell = format!("mount --bind {} /run && exec \"$@\"", run.display());
    let mut command = ns.command("sh");
    command.args(["-c", &shell, "sh"]).args(wrapper).arg(executable()).args(words);
    command.current_dir(temp.path()).env("NO_COLOR", "1");
    command
}

/// Runs `minivpn` with these words to its end; panics where it fails.
pub fn run(ns: &Ns, temp: &Temp, words: &[&str]) -> Output {
    let output = command(ns, temp, words).output().expect("a shell can be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "minivpn {words:?} failed:\n{out}{err}");
    output
}

fn run_of(temp: &Temp) -> PathBuf {
    temp.path().join("run-gateway")
}

fn row(value: &Value) -> Option<Row> {
    Some(Row {
        name: value["common_name"].as_str()?.to_owned(),
        real_address: value["real_address"].as_str()?.parse().ok()?,
        ipv4: value["ipv4"].as_str().and_then(|address| address.parse().ok()),
        ipv6: value["ipv6"].as_str().and_then(|address| address.parse().ok()),
        received: value["bytes_in"].as_u64()?,
        sent: value["bytes_out"].as_u64()?,
        cipher: value["cipher"].as_str()?.to_owned(),
        worker: value["worker"].as_u64()?,
        id: value["client_id"].as_u64()?,
    })
}

/// Resident memory of a process in KiB (proc(5), VmRSS); 0 where it is gone.
fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_status_is_read() {
        let value = serde_json::json!({
            "common_name": "a", "real_address": "[fd71:1::2]:1194", "ipv4": "10.8.0.2", "ipv6": null, "bytes_in": 5,
            "bytes_out": 6, "cipher": "AES-256-GCM", "worker": 1, "client_id": 9,
        });
        let got = row(&value).expect("it is complete");
        assert_eq!((got.received, got.sent, got.worker, got.id, got.ipv6), (5, 6, 1, 9, None));
        assert_eq!(row(&serde_json::json!({ "common_name": "a" })), None);
    }

    #[test]
    fn this_process_has_memory_and_none_has_none() {
        assert!(resident(i32::try_from(std::process::id()).unwrap()) > 100);
        assert_eq!(resident(i32::MAX), 0);
    }
}

//! The image that `deploy/build-image` makes, run as `deploy/README.md` says: what carries its packets under either seccomp
//! profile, that nobody in it has more rights than it needs, and that its health check tells the truth. Wants podman and runc,
//! hence in `make container-test` and `make test-long` alone.

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tests::netns::{INNER4, INNER6, Net};
use tests::ours::{Client, Launch, executable, inner_addresses, tuns_in};
use tests::process::{Process, send, until};
use tests::setup::{Setup, Wrap};
use tests::stock::UP;
use tests::temp::Temp;
use tests::traffic::transfer;

/// What an image may have, bytes.
const MOST: u64 = 40_000_000;
/// What a client gets, each way, bytes.
const PAYLOAD: u64 = 200_000_000;
/// The user in the image.
const NOBODY: &str = "65532";
/// CAP_NET_ADMIN of capabilities(7) as a mask.
const NET_ADMIN: u64 = 1 << 12;

static NEXT: AtomicU32 = AtomicU32::new(0);

fn name() -> String {
    format!("mv{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the repository")
}

fn podman(words: &[&str]) -> Output {
    Command::new("podman").args(words).output().expect("podman is installed (scripts/ensure-tools containers)")
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.trim().to_owned()
}

/// An image of the executable under test, removed on drop.
struct Image(String);

impl Image {
    /// By the script that a user runs, which fails where it comes out too large.
    fn build() -> Self {
        let tag = format!("localhost/{}", name());
        let mut command = Command::new(repository().join("deploy/build-image"));
        said(&command.arg(&tag).env("EXECUTABLE", executable()).output().expect("a shell can be started"));
        Self(tag)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        podman(&["rmi", "--force", &self.0]);
    }
}

/// A container in the server's namespace; ended and removed on drop.
struct Container {
    name: String,
    process: Process,
}

impl Container {
    /// With NET_ADMIN alone, a root file system that nobody writes to, and what the caller adds.
    fn start(image: &Image, net: &Net, temp: &Temp, more: &[&str], command: &[&str]) -> Self {
        let (name, ns) = (name(), format!("ns:/run/netns/{}", net.server.name()));
        let mount = format!("{}:/etc/minivpn:ro", temp.path().join("etc").display());
        let mut words = Command::new("podman");
        words.args([
            "--runtime",
            "runc",
            "run",
            "--rm",
            "--name",
            &name,
            "--cap-drop",
            "ALL",
            "--cap-add",
            "NET_ADMIN",
        ]);
        words.args(["--ulimit", "nofile=10000:10000", "--ulimit", "nproc=1000:1000", "--device", "/dev/net/tun"]);
        words.args(["--read-only", "--network", &ns, "--volume", &mount]).args(more).arg(&image.0).args(command);
        let process = Process::start("the container", words, &temp.path().join("container.log"));
        let mut container = Self { name, process };
        container.process.expect_log(&[UP], Duration::from_secs(30));
        container
    }

    /// The process id of the gateway's supervisor, as the host sees it.
    fn pid(&self) -> i32 {
        let pid = said(&podman(&["inspect", "--format", "{{.State.Pid}}", &self.name]));
        pid.parse().expect("a process id")
    }

    /// Runs `minivpn` with these words beside the gateway.
    fn exec(&self, words: &[&str]) -> Output {
        podman(&[&["exec", &self.name, "/usr/bin/minivpn"], words].concat())
    }

    /// What the image's health check finds, as its engine runs it.
    fn healthy(&self) -> bool {
        podman(&["healthcheck", "run", &self.name]).status.success()
    }

    /// One line of what the health check says.
    fn says(&self) -> String {
        String::from_utf8_lossy(&self.exec(&["healthcheck"]).stdout).trim().to_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        podman(&["rm", "--force", "--volumes", "--time", "5", &self.name]);
    }
}

/// A server's configuration as `/etc/minivpn` in the container, readable by everybody.
fn configure(temp: &Temp, setup: &Setup) {
    let text = setup.server_config(temp);
    fs::create_dir_all(temp.path().join("etc")).expect("the scratch directory is writable");
    temp.write("etc/server.conf", &text);
    temp.write("etc/which", "/etc/minivpn/server.conf\n");
}

/// A field of proc(5)'s status.
fn status_of(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("a field of proc(5)");
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_stock_client_gets_200_mb_through_a_container_under_either_seccomp_profile() {
    let image = Image::build();
    let size: u64 = said(&podman(&["image", "inspect", "--format", "{{.Size}}", &image.0])).parse().expect("bytes");
    println!("the image has {size} bytes");
    assert!(size < MOST, "{size} bytes");
    let ours = format!("seccomp={}", repository().join("deploy/seccomp.json").display());
    for (profile, engine, spoken) in [
        (None, "syscall", "I/O engine syscall: io_uring_setup answered"),
        (Some(ours.as_str()), "io_uring", "I/O engine io_uring"),
    ] {
        let (net, temp, mut setup) = (Net::new(), Temp::new(), Setup::new().server("explicit-exit-notify 1"));
        setup.wrap = Wrap::TlsCrypt;
        configure(&temp, &setup);
        // By variables, one of them the name of a file that holds the value.
        let mut more = vec!["--env", "MINIVPN_CONFIG_FILE=/etc/minivpn/which", "--env", "MINIVPN_WORKERS=2"];
        more.extend(profile.iter().flat_map(|profile| ["--security-opt", profile]));
        let container = Container::start(&image, &net, &temp, &more, &["gateway", "run"]);
        let log = || container.process.log();
        assert!(log().contains(spoken), "{}", log());
        few_rights(container.pid());

        let launch = Launch { stock: true, ..Launch::default() };
        let mut client = Client::launch(&net, &temp, &setup, &setup.profile(), &launch);
        client.expect_up();
        assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
        assert!(net.client.until_answered(INNER6.into(), Duration::from_secs(10)).is_some(), "no echo over IPv6");
        assert_eq!(net.client.ping(INNER6.into(), 50), 50, "echoes over IPv6");
        let (inner, _) = inner_addresses(&net);
        for (from, to, target) in [(&net.client, &net.server, INNER4), (&net.server, &net.client, inner)] {
            let sent = transfer(from, to, SocketAddr::from((target, 5001)), PAYLOAD);
            assert!(sent.same, "{} of {PAYLOAD} bytes arrived, or not the same ones", sent.received);
            println!("{engine}, {} to {}: {PAYLOAD} bytes, {:.0} Mb/s", from.name(), to.name(), sent.mbit());
        }

        let status: Value = serde_json::from_str(&said(&container.exec(&["status", "--json"]))).expect("it is JSON");
        assert_eq!(status["gateway"]["data_path"]["engine"], engine, "{status}");
        assert_eq!(status["workers"].as_array().map(Vec::len), Some(2), "{status}");
        assert_eq!(status["clients"][0]["common_name"], "client", "{status}");
        assert!(container.healthy(), "{}", container.says());
        assert!(container.says().ends_with("1 client"), "{}", container.says());
        ends_in_order(container, client, &net);
    }
}

/// SIGTERM, as `podman stop` sends it: the client is told, and the namespace is left without a device.
fn ends_in_order(mut container: Container, mut client: Client, net: &Net) {
    said(&podman(&["stop", "--time", "10", &container.name]));
    assert_eq!(container.process.wait_exit(Duration::from_secs(10)), Some(0), "{}", container.process.log());
    let told = client.process.wait_log(&["Connection reset command was pushed by server"], Duration::from_secs(3));
    assert!(told, "the client was not told:\n{}", client.process.log());
    assert!(until(Duration::from_secs(3), || tuns_in(&net.server).is_empty()), "{:?}", tuns_in(&net.server));
    client.process.kill();
}

/// Not root, NET_ADMIN at the most, a root file system that cannot be written; and of the control process nothing at all.
fn few_rights(pid: i32) {
    assert!(status_of(pid, "Uid").split_whitespace().all(|uid| uid == NOBODY), "{}", status_of(pid, "Uid"));
    let mask = |pid: i32, field: &str| u64::from_str_radix(&status_of(pid, field), 16).expect("a mask");
    assert_eq!(mask(pid, "CapBnd"), NET_ADMIN, "bounding set");
    assert_eq!(mask(pid, "CapEff") & !NET_ADMIN, 0, "effective set");
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("the process is there");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("there is a root");
    assert!(root.split(' ').nth(5).is_some_and(|options| options.split(',').any(|word| word == "ro")), "{root}");
    let control = child_of(pid);
    assert_eq!((mask(control, "CapEff"), mask(control, "CapPrm")), (0, 0), "the control process");
    // SECCOMP_MODE_FILTER
    assert_eq!(status_of(control, "Seccomp"), "2");
}

/// The control process: the supervisor's first child.
fn child_of(pid: i32) -> i32 {
    *children_of(pid).first().expect("the supervisor has a control process")
}

fn children_of(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[test]
fn the_health_check_tells_whether_clients_are_served() {
    let image = Image::build();
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    configure(&temp, &setup);
    let container = Container::start(
        &image,
        &net,
        &temp,
        &["--env", "MINIVPN_CONFIG=/etc/minivpn/server.conf"],
        &["gateway", "run"],
    );
    assert!(container.healthy(), "{}", container.says());

    // The device is down: no packet leaves it.
    let device = tuns_in(&net.server).remove(0);
    net.server.run(&format!("ip link set {device} down"));
    assert!(!container.healthy(), "{}", container.says());
    assert!(container.says().contains("is down"), "{}", container.says());
    net.server.run(&format!("ip link set {device} up"));
    assert!(container.healthy(), "{}", container.says());

    // A control process that is killed has a successor in a moment.
    send(child_of(container.pid()), Signal::KILL);
    assert!(until(Duration::from_secs(5), || container.healthy()), "{}", container.says());

    // One that hangs is ended, and has one then.
    let control = child_of(container.pid());
    send(control, Signal::STOP);
    let again =
        until(Duration::from_secs(60), || children_of(container.pid()).first().is_some_and(|pid| *pid != control));
    assert!(again, "{}", container.process.log());
    assert!(until(Duration::from_secs(5), || container.healthy()), "{}", container.says());

    // Nobody answers at all.
    let supervisor = container.pid();
    send(supervisor, Signal::STOP);
    assert!(!container.healthy());
    send(supervisor, Signal::CONT);
    assert!(until(Duration::from_secs(5), || container.healthy()), "{}", container.says());
}

#[test]
fn a_container_without_the_right_says_what_is_missing() {
    let image = Image::build();
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    configure(&temp, &setup);
    let mount = format!("{}:/etc/minivpn:ro", temp.path().join("etc").display());
    let ns = format!("ns:/run/netns/{}", net.server.name());
    let run = |more: &[&str]| {
        let fixed =
            ["--runtime", "runc", "run", "--rm", "--ulimit", "nofile=10000:10000", "--ulimit", "nproc=1000:1000"];
        let rest = ["--cap-drop", "ALL", "--read-only", "--network", &ns, "--volume", &mount];
        let command = [image.0.as_str(), "gateway", "run", "--config", "/etc/minivpn/server.conf"];
        let output = podman(&[&fixed[..], &rest, more, &command].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = run(&["--device", "/dev/net/tun"]);
    assert_eq!(code, Some(6), "{text}");
    assert!(text.contains("NET_ADMIN"), "{text}");
    let (code, text) = run(&["--cap-add", "NET_ADMIN"]);
    assert_eq!(code, Some(6), "{text}");
    assert!(text.contains("/dev/net/tun"), "{text}");
    // A variable that is nobody's, by name.
    let (code, text) = run(&["--cap-add", "NET_ADMIN", "--device", "/dev/net/tun", "--env", "MINIVPN_WORKER=2"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("MINIVPN_WORKER means nothing") && text.contains("MINIVPN_WORKERS"), "{text}");
}

//! `minivpn bench` measures, says what it measured, and leaves nothing behind: not at its end, not when it is told to
//! stop, not when it is killed.

use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tests::netns::need_root;
use tests::ours::executable;
use tests::process::{Process, until};
use tests::temp::Temp;

/// A benchmark that runs, and its report's directory.
fn start(temp: &Temp, arguments: &str) -> Process {
    need_root();
    let mut command = Command::new(executable());
    command.args(["bench", "--out"]).arg(temp.path().join("out")).args(arguments.split_whitespace());
    command.env("NO_COLOR", "1");
    Process::start("the benchmark", command, &temp.path().join("bench.log"))
}

/// The processes that descend from this one, itself included.
fn family(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at) {
        let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        let children: Vec<i32> = tasks
            .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
            .collect();
        found.extend(children);
        at += 1;
    }
    found
}

/// The network namespaces that threads of this process live in.
fn namespaces(pid: i32) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_link(task.path().join("ns/net")).ok())
        .map(|link| link.display().to_string())
        .collect()
}

/// What a benchmark in full swing occupies of the machine.
#[derive(Debug)]
struct Traces {
    processes: Vec<i32>,
    namespaces: BTreeSet<String>,
}

impl Traces {
    fn of(bench: &Process) -> Self {
        let processes = family(bench.pid());
        let own = namespaces(i32::try_from(std::process::id()).expect("a process id fits 32 bits"));
        let namespaces = processes.iter().flat_map(|pid| namespaces(*pid)).filter(|ns| !own.contains(ns)).collect();
        Self { processes, namespaces }
    }

    /// None of it is there any more.
    fn assert_gone(&self) {
        let alive = || -> Vec<&i32> { self.processes.iter().filter(|pid| runs(**pid)).collect() };
        assert!(until(Duration::from_secs(5), || alive().is_empty()), "still running: {:?}", alive());
        let occupied = || {
            let all = fs::read_dir("/proc").into_iter().flatten().flatten();
            let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            pids.flat_map(namespaces).any(|ns| self.namespaces.contains(&ns))
        };
        // A process is a zombie as soon as its first thread has ended; the others follow.
        let left = until(Duration::from_secs(5), || !occupied());
        assert!(left, "a namespace of the benchmark is still lived in: {:?}", self.namespaces);
        let devices = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let ours: Vec<_> = devices.filter(|entry| entry.file_name().to_string_lossy().starts_with("mvb")).collect();
        assert!(ours.is_empty(), "interfaces are left on the host: {ours:?}");
    }
}

/// Whether it exists and is not just waiting to be reaped.
fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Files directly in a directory.
fn files(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until it measures through its tunnel; what it occupies then.
fn in_full_swing(bench: &mut Process) -> Traces {
    bench.expect_log(&["round 1:"], Duration::from_secs(60));
    let traces = Traces::of(bench);
    assert_eq!(traces.namespaces.len(), 4, "the two ends, and one for each control process: {traces:?}");
    assert_eq!(
        traces.processes.len(),
        5,
        "the benchmark, and at each end a supervisor with its control process: {traces:?}"
    );
    traces
}

#[test]
fn a_quick_run_measures_and_reports_and_leaves_nothing() {
    let temp = Temp::new();
    let arguments = "--quick --rounds 1 --seconds 1 --only veth,minivpn --engines syscall --aead auto";
    let mut bench = start(&temp, arguments);
    let traces = in_full_swing(&mut bench);
    assert_eq!(bench.wait_exit(Duration::from_secs(120)), Some(0), "{}", bench.log());
    traces.assert_gone();

    let text = fs::read_to_string(temp.path().join("out/results.json")).expect("results.json was written");
    let results: serde_json::Value = serde_json::from_str(&text).expect("results.json is JSON");
    assert_eq!(results["schema"], 1);
    assert_eq!(results["skipped"], serde_json::json!([]));
    assert!(results["machine"]["cores"].as_u64() > Some(0), "{text}");
    let series = results["series"].as_array().expect("series is a list");
    let tests = ["tcp_single", "tcp_single", "udp", "latency_idle"];
    assert_eq!(series.len(), 2 * tests.len(), "{text}");
    for one in series {
        let in_use = one["offloads"].as_str().unwrap_or_default();
        let ours = one["contender"] != "veth";
        assert_eq!(ours, in_use.starts_with("syscall, AES-256-GCM by ") && in_use.contains("TUN csum"), "{one}");
        let sample = &one["samples"][0];
        let positive = |field: &str| sample[field].as_f64() > Some(0.0);
        assert!(positive("packets_per_second"), "{one}");
        assert!(sample["loss"].as_f64().is_some_and(|loss| (0.0..=1.0).contains(&loss)), "{one}");
        match one["test"].as_str() {
            Some("latency_idle") => {
                let latency = &sample["latency_us"];
                let at = |field: &str| latency[field].as_f64().expect("a figure");
                assert!(0.0 < at("min") && at("min") <= at("p50") && at("p50") <= at("p99"), "{one}");
                assert!(at("p99") <= at("p999") && at("p999") <= at("max"), "{one}");
                assert!(latency["histogram"].as_array().is_some_and(|bins| !bins.is_empty()), "{one}");
            }
            _ => assert!(positive("bits_per_second"), "{one}"),
        }
        let spends = sample["ns_per_packet"].as_f64() > Some(0.0);
        let moves_packets = one["contender"] != "veth" && one["test"] != "latency_idle";
        assert_eq!(spends, moves_packets, "processor time is told of tunnels that move packets: {one}");
    }
    let crypto = results["crypto"].as_array().expect("crypto is a list");
    assert!(!crypto.is_empty() && crypto.iter().all(|row| row["seal_ns"].as_f64() > Some(0.0)), "{text}");
}

#[test]
fn a_run_that_is_told_to_stop_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let temp = Temp::new();
        let mut bench = start(&temp, "--seconds 600 --only minivpn --engines syscall --aead auto --tests tcp-up");
        let traces = in_full_swing(&mut bench);
        bench.signal(signal);
        assert_eq!(bench.wait_exit(Duration::from_secs(20)), Some(1), "{}", bench.log());
        assert!(bench.log().contains("interrupted"), "{}", bench.log());
        traces.assert_gone();
        assert!(!temp.path().join("out").exists(), "the directory of a report that was not written is gone");
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    let temp = Temp::new();
    let before = files(Path::new("/run"));
    let mut bench = start(&temp, "--seconds 600 --only minivpn --engines syscall --aead auto --tests tcp-up");
    let traces = in_full_swing(&mut bench);
    bench.kill();
    traces.assert_gone();
    assert_eq!(files(Path::new("/run")), before);
}

#[test]
fn a_gateway_that_dies_in_the_middle_gives_no_figure_and_the_others_go_on() {
    let temp = Temp::new();
    let arguments = "--rounds 1 --seconds 5 --only minivpn,veth --engines syscall --aead auto --links offloaded";
    let mut bench = start(&temp, &format!("{arguments} --tests tcp-up,tcp-down"));
    let traces = in_full_swing(&mut bench);
    let serves =
        |pid: &&i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| contains(&line, b"gateway\0run\0"));
    let gateway = traces.processes.iter().find(serves).expect("a gateway runs");
    let pid = rustix::process::Pid::from_raw(*gateway).expect("a process id is not 0");
    rustix::process::kill_process(pid, Signal::KILL).expect("it can be killed");
    assert_eq!(bench.wait_exit(Duration::from_secs(60)), Some(0), "{}", bench.log());
    traces.assert_gone();

    let text = fs::read_to_string(temp.path().join("out/results.json")).expect("results.json was written");
    let results: serde_json::Value = serde_json::from_str(&text).expect("results.json is JSON");
    let series = results["series"].as_array().expect("series is a list");
    assert!(series.len() == 2 && series.iter().all(|one| one["contender"] == "veth"), "{text}");
    let skipped = results["skipped"].as_array().expect("skipped is a list");
    let reason = skipped.first().and_then(|one| one["reason"].as_str()).unwrap_or_default();
    assert!(skipped.len() == 1 && reason.contains("minivpn gateway ended"), "said once: {text}");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_word_that_names_nobody_is_a_mistake_of_the_command_line() {
    let temp = Temp::new();
    for arguments in ["--only openvnp", "--tests udp-65", "--links wifi", "--against /no/such/results.json"] {
        let mut bench = start(&temp, arguments);
        assert_eq!(bench.wait_exit(Duration::from_secs(10)), Some(2), "{arguments}: {}", bench.log());
        assert!(!temp.path().join("out").exists());
    }
}

#[test]
fn the_aead_table_alone_needs_no_tunnel() {
    let temp = Temp::new();
    let mut command = Command::new(executable());
    command.args(["bench", "crypto", "--quick", "--out"]).arg(temp.path().join("out"));
    let mut bench = Process::start("the benchmark", command, &temp.path().join("bench.log"));
    assert_eq!(bench.wait_exit(Duration::from_secs(60)), Some(0), "{}", bench.log());
    let text = fs::read_to_string(temp.path().join("out/results.json")).expect("results.json was written");
    let results: serde_json::Value = serde_json::from_str(&text).expect("results.json is JSON");
    let rows = results["crypto"].as_array().expect("crypto is a list");
    for cipher in ["AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305"] {
        assert!(rows.iter().any(|row| row["cipher"] == cipher && row["open_ns"].as_f64() > Some(0.0)), "{text}");
    }
    assert_eq!(results["series"], serde_json::json!([]));
}

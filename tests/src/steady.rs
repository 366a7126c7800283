//! What keeps a busy machine from being counted as loss: whoever cannot ask for a deep queue is scheduled early, and
//! whoever can gets one.

use crate::netns::Ns;
use crate::ours::tuns_in;
use rustix::net::{SocketType, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of a deep receive queue: seconds of a thousand small datagrams each.
const DEEP: usize = 4 << 20;
/// The niceness of programs that others wait for.
const EARLY: i32 = -10;

/// Gives a socket a receive queue beyond `net.core.rmem_max`, as root may.
pub fn deepen(socket: impl AsFd) {
    sockopt::set_socket_recv_buffer_size_force(socket, DEEP).expect("root may set SO_RCVBUFFORCE");
}

/// Gives every datagram socket of another program such a queue. By itself it cannot ask for more than
/// `net.core.rmem_max`, some 270 small datagrams or 90 long ones: a few hundredths of a second during which nothing else may
/// take the processor.
pub fn deepen_all_of(pid: i32) {
    assert!(deepened(pid) > 0, "process {pid} has no datagram socket");
}

/// The same for a program that opens its socket only when somebody comes: as soon as it has one, before much has arrived at it.
pub fn deepen_once_open(pid: i32) {
    let until = Instant::now() + Duration::from_secs(5);
    while deepened(pid) == 0 {
        assert!(Instant::now() < until, "process {pid} opened no datagram socket");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How many of its sockets have got one.
fn deepened(pid: i32) -> usize {
    let process = Pid::from_raw(pid).expect("a process id is not 0");
    let process = pidfd_open(process, PidfdFlags::empty()).expect("the process runs");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors can be listed");
    let mut deepened = 0;
    for number in open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        // What it closed meanwhile needs no queue.
        let Ok(descriptor) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        if sockopt::socket_type(&descriptor) == Ok(SocketType::DGRAM) {
            deepen(&descriptor);
            deepened += 1;
        }
    }
    deepened
}

/// Gives every TUN interface of a namespace a queue of seconds: what reads it may be kept waiting by a busy machine.
pub fn deepen_tuns_of(ns: &Ns) {
    for name in tuns_in(ns) {
        ns.run(&format!("ip link set {name} txqueuelen 10000"));
    }
}

/// Lets a process run before those of the usual niceness.
pub fn run_early(pid: i32) {
    rustix::process::setpriority_process(Pid::from_raw(pid), EARLY).expect("root may lower a niceness");
}

//! What keeps a busy machine from being counted as loss: whoever cannot ask for a deep queue is scheduled early, and
//! whoever can gets one.

use rustix::process::Pid;
use std::os::fd::AsFd;

/// Bytes of a deep receive queue: seconds of a thousand small datagrams each.
const DEEP: usize = 4 << 20;
/// The niceness of programs that others wait for.
const EARLY: i32 = -10;

/// Gives a socket a receive queue beyond `net.core.rmem_max`, as root may.
pub fn deepen(socket: impl AsFd) {
    rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, DEEP).expect("root may set SO_RCVBUFFORCE");
}

/// Lets a process run before those of the usual niceness. A stock server's socket holds some 270 small datagrams: at
/// 1,000 a second it may be kept waiting for a quarter of a second, and a busy machine does that.
pub fn run_early(pid: i32) {
    rustix::process::setpriority_process(Pid::from_raw(pid), EARLY).expect("root may lower a niceness");
}

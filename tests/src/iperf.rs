//! iperf3 as the load that users know.

use crate::netns::{INNER4, Net};
use crate::process::Process;
use crate::temp::Temp;
use std::time::Duration;

/// Starts an iperf3 server on the server's inner address and waits until it listens.
pub fn server(net: &Net, temp: &Temp) -> Process {
    let mut command = net.server.command("iperf3");
    command.args(["-s", "--forceflush", "-B", &INNER4.to_string()]);
    let mut server = Process::start("the iperf3 server", command, &temp.path().join("iperf.log"));
    server.expect_log(&["Server listening"], Duration::from_secs(5));
    server
}

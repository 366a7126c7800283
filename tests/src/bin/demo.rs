//! The demonstration behind `make demo`: a stock server, our client, ten seconds of traffic, what came through.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Instant;
use tests::netns::{INNER4, INNER6, Net};
use tests::ours::{Client, inner_addresses};
use tests::setup::{Setup, Wrap};
use tests::stock::Server;
use tests::temp::Temp;

/// Seconds of traffic in each direction.
const SECONDS: u32 = 5;

fn main() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    setup.wrap = Wrap::TlsCrypt;
    println!(
        "client namespace {} -- router {} -- server namespace {}",
        net.client.name(),
        net.router.name(),
        net.server.name()
    );

    let _server = Server::start(&net, &temp, &setup);
    println!("stock OpenVPN server: udp {}:1194, tls-crypt, {}, TLS 1.3", setup.remote, setup.cipher);
    let start = Instant::now();
    let mut client = Client::up(&net, &temp, &setup);
    println!("our client: up after {:.0?}; it said:", start.elapsed());
    client.process.log().lines().for_each(|line| println!("    {line}"));

    let (inner4, inner6) = inner_addresses(&net);
    println!("inside the tunnel: {inner4} and {inner6}");
    for to in [IpAddr::from(INNER4), IpAddr::from(INNER6)] {
        println!("    {} of 100 echoes answered by {to}", net.client.ping(to, 100));
    }

    let _iperf = tests::iperf::server(&net, &temp);
    let up = iperf(&net, &["-t"]);
    let down = iperf(&net, &["-R", "-t"]);
    println!("throughput of one TCP connection on this machine (both ends, one stock): up {up}, down {down}");

    let code = client.stop();
    println!("SIGTERM: our client ended with exit code {}", code.map_or("none".into(), |code| code.to_string()));
    assert_eq!(code, Some(0), "the client's exit code after SIGTERM; it said:\n{}", client.process.log());
}

/// Runs an iperf3 client, shows each second, and returns the receiver's rate.
fn iperf(net: &Net, direction: &[&str]) -> String {
    let mut command = net.client.command("iperf3");
    command.args(["-c", &INNER4.to_string(), "-i", "1", "-f", "m", "--forceflush"]).args(direction);
    let mut child = command.arg(SECONDS.to_string()).stdout(Stdio::piped()).spawn().expect("iperf3 starts");
    let output = BufReader::new(child.stdout.take().expect("its output is a pipe"));
    let mut rate = String::from("nothing");
    for line in output.lines().map_while(Result::ok).filter(|line| line.contains("bits/sec")) {
        println!("    {line}");
        if line.ends_with("receiver") {
            rate = rate_of(&line);
        }
    }
    assert!(child.wait().is_ok_and(|status| status.success()), "iperf3 failed");
    rate
}

/// The number and unit before the rest in a summary line of iperf3.
fn rate_of(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let unit = words.iter().position(|word| word.ends_with("bits/sec")).unwrap_or(0);
    words.get(unit.saturating_sub(1)..=unit).unwrap_or_default().join(" ")
}

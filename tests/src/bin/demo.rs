//! The demonstration behind `make demo`: our gateway, brought up by one command, our client, ten seconds of traffic, what came
//! through.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Instant;
use tests::gateway::{self, Gateway};
use tests::netns::{INNER4, INNER6, Net, SERVER4};
use tests::ours::{Client, Launch, inner_addresses};
use tests::setup::Setup;
use tests::temp::Temp;

/// Seconds of traffic in each direction.
const SECONDS: u32 = 5;

fn main() {
    let (net, temp) = (Net::new(), Temp::new());
    println!(
        "client namespace {} -- router {} -- gateway namespace {}",
        net.client.name(),
        net.router.name(),
        net.server.name()
    );
    let state = temp.path().join("state").display().to_string();
    let mut gateway = bring_up(&net, &temp, &state);
    let mut client = come(&net, &temp);

    let (inner4, inner6) = inner_addresses(&net);
    println!("inside the tunnel: {inner4} and {inner6}");
    for to in [IpAddr::from(INNER4), IpAddr::from(INNER6)] {
        println!("    {} of 100 echoes answered by {to}", net.client.ping(to, 100));
    }

    let _iperf = tests::iperf::server(&net, &temp);
    let up = iperf(&net, &["-t"]);
    let down = iperf(&net, &["-R", "-t"]);
    println!("throughput of one TCP connection on this machine, which is both ends: up {up}, down {down}");
    show(&gateway::run(&net.server, &temp, &["status"]).stdout);

    let code = client.stop();
    println!("SIGTERM: the client ended with exit code {}", code.map_or("none".into(), |code| code.to_string()));
    assert_eq!(code, Some(0), "the client's exit code after SIGTERM; it said:\n{}", client.process.log());
    show(&gateway::run(&net.server, &temp, &["gateway", "down", "--state-dir", &state]).stdout);
    let code = gateway.stop();
    assert_eq!(code, Some(0), "the gateway's exit code; it said:\n{}", gateway.process.log());
}

/// `gateway up` with a profile for alice.
fn bring_up(net: &Net, temp: &Temp, state: &str) -> Gateway {
    let endpoint = SERVER4.to_string();
    let words = ["gateway", "up", "--endpoint", &endpoint, "--client", "alice"];
    println!("$ minivpn {}", words.join(" "));
    // Addresses that the rest of this program knows.
    let known = ["--state-dir", state, "--pool", "10.8.0.0/24", "--pool-ipv6", "fd08::/64"];
    let gateway = Gateway::launch(net, temp, &[words.as_slice(), &known].concat(), "default");
    show(gateway.process.log().as_bytes());
    gateway
}

/// `connect alice.ovpn`.
fn come(net: &Net, temp: &Temp) -> Client {
    let profile = std::fs::read_to_string(temp.path().join("alice.ovpn")).expect("the gateway wrote a profile");
    println!("$ minivpn connect alice.ovpn");
    let start = Instant::now();
    let mut client = Client::launch(net, temp, &Setup::new(), &profile, &Launch::default());
    client.expect_up();
    println!("the client is up after {:.0?}; it said:", start.elapsed());
    show(client.process.log().as_bytes());
    client
}

fn show(text: &[u8]) {
    String::from_utf8_lossy(text).lines().for_each(|line| println!("    {line}"));
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

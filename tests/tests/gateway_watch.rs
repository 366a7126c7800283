//! Who hangs is found out: a control process that is stopped is replaced while traffic goes on, the gateway's and a client's. And who listens
//! elsewhere is found: a gateway with a control socket of its own takes the commands of those who were not told.

use rustix::process::Signal;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};
use tests::crowd::{Streams, gather};
use tests::gateway::{self, Gateway, RENEGOTIATED};
use tests::netns::{INNER4, Net, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::pki::Authority;
use tests::process::{send, tail};
use tests::setup::Setup;
use tests::stock::{NEGOTIATED, Server};
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// A hanging control process is asked after 2 s and given up 6 s later; the rest is a renegotiation on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);
const CALM: Shape = Shape { rate: 100, payload: 200 };

#[test]
fn a_control_process_of_the_gateway_that_hangs_is_replaced_and_nobody_notices() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let (net, temp) = (Net::new(), Temp::new());
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let members = gather(&net, &setup, &root, 3);
    let ids = |gateway: &Gateway| gateway.clients().iter().map(|row| (row.name.clone(), row.id)).collect::<Vec<_>>();
    let before = ids(&gateway);
    let streams = Streams::start(&net, &members, CALM);
    let pid = gateway.control_process().expect("the supervisor has a control process");
    let done = gateway.renegotiations();
    let stopped = Instant::now();
    send(pid, Signal::STOP);
    let again = gateway.process.wait_count(&[RENEGOTIATED], done + members.len(), LIMIT);
    let log = tail(&gateway.process.log(), 30);
    assert!(again, "{} of {} renegotiated:\n{log}", gateway.renegotiations() - done, members.len());
    println!("all renegotiated after {:?}", stopped.elapsed());
    assert!(log.contains("it hangs: it has not answered for 6 s"), "{log}");
    assert_ne!(gateway.control_process(), Some(pid));
    streams.finish_complete();
    assert_eq!(ids(&gateway), before, "the same sessions");
    assert!(members.iter().all(|member| member.ups() == 1), "nobody came anew");
    assert_eq!(gateway.status()["gateway"]["control_restarts"], 1, "and its successor is not taken for another");
}

#[test]
fn a_control_process_of_a_client_that_hangs_is_replaced_and_the_server_does_not_notice() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let mut server = Server::start(&net, &temp, &setup);
    let client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let before = server.clients();
    let (inner, _) = inner_addresses(&net);
    let (here, there) = (SocketAddr::from((inner, 7000)), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&net.client, here.ip(), &net.server, there, CALM);
    let pid = client.control_process().expect("the supervisor has a control process");
    let done = server.negotiations();
    send(pid, Signal::STOP);
    let again = server.process.wait_count(&[NEGOTIATED], done + 1, LIMIT);
    assert!(again, "no renegotiation; the client said:\n{}", tail(&client.process.log(), 30));
    assert_ne!(client.control_process(), Some(pid));
    let report = up.finish(Duration::from_secs(2));
    assert!(report.complete(), "{report}");
    assert_eq!(server.clients()[0].id, before[0].id, "the same session");
}

#[test]
fn an_idle_control_process_is_left_alone() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let pid = gateway.control_process().expect("the supervisor has a control process");
    // Longer than it takes to give one up.
    thread::sleep(Duration::from_secs(10));
    assert_eq!(gateway.control_process(), Some(pid), "{}", gateway.process.log());
}

#[test]
fn a_gateway_with_a_socket_of_its_own_takes_every_command() {
    let (net, temp) = (Net::new(), Temp::new());
    let state = temp.path().join("state").display().to_string();
    let socket = temp.path().join("elsewhere.sock").display().to_string();
    let endpoint = SERVER4.to_string();
    let words = ["gateway", "up", "--state-dir", &state, "--endpoint", &endpoint, "--client", "alice"];
    let words = [&words[..], &["--pool", "10.8.0.0/24", "--socket", &socket, "--run-dir", "/run/other"]].concat();
    let mut gateway = Gateway::launch(&net, &temp, &words, "default");
    let said = |words: &[&str]| {
        let output = gateway::run(&net.server, &temp, words);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for words in [&["status"][..], &["status", "--name", "default"], &["healthcheck"], &["gateway", "reload"]] {
        said(words);
    }
    let renewed = said(&["pki", "renew", "--state-dir", &state]);
    assert!(renewed.contains("the running gateway has read them"), "{renewed}");
    let revoked = said(&["client", "revoke", "alice", "--state-dir", &state]);
    assert!(revoked.contains("the running gateway knows"), "{revoked}");
    let stopped = said(&["gateway", "down", "--state-dir", &state, "--run-dir", "/run/other"]);
    assert!(stopped.contains("the running gateway was stopped"), "{stopped}");
    assert_eq!(gateway.process.wait_exit(Duration::from_secs(10)), Some(0), "{}", gateway.process.log());
    assert!(!std::path::Path::new(&state).join("listening").exists(), "its note is gone");
}

//! After SIGTERM or SIGINT the server knows, the exit code is 0, and the host is as it was.

use rustix::process::Signal;
use std::time::Duration;
use tests::netns::{INNER4, INNER6, Net, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::setup::{Family, Setup};
use tests::stock::Server;
use tests::temp::Temp;

fn undone(setup: &Setup, signal: Signal, while_up: impl FnOnce(&Net)) {
    let (net, temp) = (Net::new(), Temp::new());
    let mut server = Server::start(&net, &temp, setup);
    let before = net.client.snapshot();
    let mut client = Client::up(&net, &temp, setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    assert_ne!(net.client.snapshot(), before, "a tunnel changes the host");
    while_up(&net);
    client.process.signal(signal);
    assert_eq!(client.process.wait_exit(Duration::from_secs(10)), Some(0), "{}", client.process.log());
    assert!(server.saw_exit(Duration::from_secs(3)), "the server did not learn of it");
    assert_eq!(net.client.snapshot(), before, "the host is as before");
}

fn way_out(net: &Net, to: &str) -> String {
    net.client.run(&format!("ip route get {to}"))
}

#[test]
fn addresses_and_pushed_routes_are_undone() {
    let setup = Setup::new().server("push \"route 10.99.0.0 255.255.0.0\"").server("push \"route-ipv6 fd99::/32\"");
    undone(&setup, Signal::TERM, |net| {
        assert!(way_out(net, "10.99.1.1").contains("tun"), "the pushed route is there");
        assert!(way_out(net, "fd99::1").contains("tun"), "the pushed IPv6 route is there");
        inner_addresses(net);
    });
}

#[test]
fn a_redirected_gateway_is_undone() {
    let setup = Setup::new().server("push \"redirect-gateway def1\"");
    undone(&setup, Signal::TERM, |net| {
        assert!(way_out(net, "203.0.113.7").contains("tun"), "everything goes through the tunnel");
        assert!(way_out(net, &SERVER4.to_string()).contains("up0"), "but for the way to the server");
        assert_eq!(net.client.ping(INNER4.into(), 100), 100);
    });
}

#[test]
fn a_redirected_gateway_over_ipv6_is_undone() {
    let setup = Setup::new().family(Family::V6).server("push \"redirect-gateway def1 ipv6\"");
    undone(&setup, Signal::INT, |net| {
        assert!(way_out(net, "2001:db8::7").contains("tun"), "everything goes through the tunnel");
        assert!(way_out(net, &tests::netns::SERVER6.to_string()).contains("up0"), "but for the way to the server");
        assert_eq!(net.client.ping(INNER6.into(), 100), 100);
    });
}

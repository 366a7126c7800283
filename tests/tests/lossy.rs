//! A handshake with a stock server over a line that loses a fifth of the packets each way.

use std::time::Duration;
use tests::netns::Net;
use tests::ours::Client;
use tests::setup::{Setup, Wrap};
use tests::stock::{Server, UP};
use tests::temp::Temp;

/// The kernel throws the dice here, so one try may have bad luck that the protocol cannot mend in time.
const TRIES: u32 = 3;

#[test]
fn a_handshake_completes_although_a_fifth_is_lost_each_way() {
    let net = Net::new();
    let mut setup = Setup::new();
    setup.wrap = Wrap::TlsCrypt;
    net.drop_at_random(20);
    let up = (1..=TRIES).any(|attempt| {
        let temp = Temp::new();
        let _server = Server::start(&net, &temp, &setup);
        let mut client = Client::start(&net, &temp, &setup);
        let up = client.process.wait_log(&[UP], Duration::from_secs(60));
        println!("try {attempt}: {}", if up { "connected" } else { "not within 60 s" });
        up
    });
    let drops = net.router.run("nft list table ip t");
    assert!(drops.contains("numgen random mod 100"), "the rule is in force: {drops}");
    assert!(up, "not one of {TRIES} handshakes completed within 60 s");
}

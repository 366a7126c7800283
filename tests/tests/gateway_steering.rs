//! With several workers the pool gives each client an address that the kernel steers to the client's own worker: nothing has to be handed
//! over. A client whose address somebody else chose works all the same.

use std::net::IpAddr;
use std::time::Duration;
use tests::crowd::gather;
use tests::gateway::Gateway;
use tests::netns::{INNER4, Net};
use tests::pki::Authority;
use tests::setup::Setup;
use tests::temp::Temp;

/// Packets that a worker took over from another one, and packets in all.
fn carried(gateway: &Gateway) -> (u64, u64) {
    let status = gateway.status();
    let workers = status["workers"].as_array().expect("a list of workers");
    let sum = |of: &dyn Fn(&serde_json::Value) -> Option<u64>| workers.iter().filter_map(of).sum::<u64>();
    let all = sum(&|worker| Some(worker["inbound"]["packets"].as_u64()? + worker["outbound"]["packets"].as_u64()?));
    (sum(&|worker| worker["handed_over"].as_u64()), all)
}

#[test]
fn what_the_pool_gave_is_read_by_the_clients_own_worker() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let members = gather(&net, &setup, &root, 4);
    let workers: std::collections::BTreeSet<u64> = gateway.clients().iter().map(|row| row.worker).collect();
    assert_eq!(workers.len(), 2, "clients of both workers");
    let (handed_before, all_before) = carried(&gateway);
    for member in &members {
        let inner: [IpAddr; 2] = [member.inner4.into(), member.inner6.into()];
        assert_eq!(inner.map(|ip| net.server.ping(ip, 100)), [100, 100]);
        assert_eq!(member.ns.ping(INNER4.into(), 100), 100);
    }
    let (handed, all) = carried(&gateway);
    let (handed, all) = (handed - handed_before, all - all_before);
    println!("{handed} of {all} packets were handed over");
    assert!(all >= 4 * 300 * 2, "{all}");
    assert!(handed * 100 <= all, "{handed} of {all} packets were handed over: {}", gateway.status()["workers"]);
}

#[test]
fn an_address_of_another_worker_is_handed_over_and_works() {
    let root = Authority::new("Test Root");
    let ccd = Temp::new();
    // The first client has peer-id 0, whose worker is 0; this address is steered to worker 1.
    ccd.write("client-0", "ifconfig-push 10.8.0.51 255.255.255.0\n");
    let setup = Setup::under(&root).server(&format!("client-config-dir {}", ccd.path().display()));
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let members = gather(&net, &setup, &root, 1);
    gateway.wait_clients(1, Duration::from_secs(2));
    assert_eq!(members[0].inner4, std::net::Ipv4Addr::new(10, 8, 0, 51));
    let (before, _) = carried(&gateway);
    assert_eq!(net.server.ping(members[0].inner4.into(), 100), 100);
    let (handed, _) = carried(&gateway);
    assert!(handed - before >= 100, "{} were handed over: {}", handed - before, gateway.status()["workers"]);
}

//! With several workers the kernel gives each the packets of its own clients, whatever addresses these have: nothing has to be handed over.
//! Where the kernel does not, everything works all the same.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tests::crowd::{Member, gather};
use tests::gateway::{Gateway, Row};
use tests::netns::{INNER4, Net, Ns};
use tests::ours::{Client, addresses_in};
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

/// A hundred echo requests to each of these addresses, and as many from each client: how many packets were handed over, and how many there
/// were. Every one is answered.
fn handed_over(gateway: &Gateway, net: &Net, to: &[IpAddr], from: &[&Ns]) -> (u64, u64) {
    let (handed_before, all_before) = carried(gateway);
    to.iter().for_each(|ip| assert_eq!(net.server.ping(*ip, 100), 100, "{ip}"));
    from.iter().for_each(|ns| assert_eq!(ns.ping(INNER4.into(), 100), 100));
    let (handed, all) = carried(gateway);
    let (handed, all) = (handed - handed_before, all - all_before);
    println!("{handed} of {all} packets were handed over");
    assert!(all >= 200 * (to.len() + from.len()) as u64, "{all}");
    (handed, all)
}

/// All of these clients, both ways, in both families, and these addresses besides: nearly nothing is handed over.
fn assert_each_has_its_own(gateway: &Gateway, net: &Net, members: &[Member], more: &[IpAddr], more_from: &[&Ns]) {
    let inner = members.iter().flat_map(|member| [member.inner4.into(), member.inner6.into()]);
    let to: Vec<IpAddr> = inner.chain(more.iter().copied()).collect();
    let from: Vec<&Ns> = members.iter().map(|member| &member.ns).chain(more_from.iter().copied()).collect();
    let (handed, all) = handed_over(gateway, net, &to, &from);
    assert!(handed * 100 <= all, "{handed} of {all} packets were handed over: {}", gateway.status()["workers"]);
}

/// The worker to which an address comes by its order in the network.
fn by_order(address: Ipv4Addr) -> u64 {
    u64::from(address.to_bits() % 2)
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
    assert_each_has_its_own(&gateway, &net, &members, &[], &[]);
}

#[test]
fn so_it_is_in_topology_net30_whose_addresses_are_all_even() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root).server("topology net30");
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start(&net, &temp, &setup);
    let members = gather(&net, &setup, &root, 4);
    let others: Vec<Row> =
        gateway.clients().into_iter().filter(|row| row.ipv4.map(by_order) != Some(row.worker)).collect();
    assert_eq!(others.len(), 2, "{others:?}");
    assert_each_has_its_own(&gateway, &net, &members, &[], &[]);
}

#[test]
fn remembered_leases_own_addresses_and_inner_networks_are_read_by_the_clients_own_worker() {
    let root = Authority::new("Test Root");
    let (net, temp, ccd, beside) = (Net::new(), Temp::new(), Temp::new(), Temp::new());
    let own = "ifconfig-push 10.8.0.51 255.255.255.0\nifconfig-ipv6-push fd08::51/64\niroute 10.99.0.0 255.255.0.0\n";
    ccd.write("client", own);
    let setup = Setup::under(&root)
        .server(&format!("client-config-dir {}", ccd.path().display()))
        .server(&format!("ifconfig-pool-persist {} 1", temp.path().join("leases").display()))
        .server("route 10.99.0.0 255.255.0.0");
    let mut gateway = Gateway::start(&net, &temp, &setup);
    let mut members = gather(&net, &setup, &root, 2);
    members.iter_mut().for_each(|member| assert_eq!(member.client.stop(), Some(0)));
    gateway.wait_clients(0, Duration::from_secs(5));
    assert_eq!(gateway.stop(), Some(0));

    // Peer-ids are given in the order of logins. Who comes first is of worker 0, and remembers an address that is worker 1's by its order.
    let gateway = Gateway::start(&net, &temp, &setup);
    members.sort_by_key(|member| 1 - by_order(member.inner4));
    for member in &mut members {
        member.again(&setup);
        member.client.expect_up();
        assert_eq!(addresses_in(&member.ns), (member.inner4, member.inner6), "the lease was remembered");
    }
    let _third = Client::up(&net, &beside, &setup);
    net.client.run("ip address add 10.99.0.1/32 dev lo");
    let rows = gateway.wait_clients(3, Duration::from_secs(2));
    assert!(rows.iter().all(|row| row.ipv4.map(by_order) == Some(1 - row.worker)), "{rows:?}");
    let of_third = ["10.8.0.51", "fd08::51", "10.99.0.1"].map(|ip| ip.parse().expect("an address"));
    assert_each_has_its_own(&gateway, &net, &members, &of_third, &[&net.client]);

    // Who leaves and comes back has another peer-id, and another worker.
    let [first, second] = &mut members[..] else { panic!("two members") };
    assert_eq!((first.client.stop(), second.client.stop()), (Some(0), Some(0)));
    gateway.wait_clients(1, Duration::from_secs(5));
    for member in [second, first] {
        member.again(&setup);
        member.client.expect_up();
    }
    let rows = gateway.wait_clients(3, Duration::from_secs(2));
    assert_eq!(rows.iter().filter(|row| row.ipv4.map(by_order) == Some(row.worker)).count(), 2, "{rows:?}");
    assert_each_has_its_own(&gateway, &net, &members, &of_third, &[&net.client]);
}

#[test]
fn without_the_right_to_load_programs_packets_are_handed_over_and_the_gateway_says_so() {
    let root = Authority::new("Test Root");
    let setup = Setup::under(&root);
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = Gateway::start_under(&net, &temp, &setup, &["setpriv", "--bounding-set", "-bpf,-sys_admin"]);
    let members = gather(&net, &setup, &root, 2);
    let notes = &gateway.status()["gateway"]["data_path"]["notes"];
    let is_said = |note: &serde_json::Value| note.as_str().is_some_and(|note| note.contains("handed over"));
    assert!(notes.as_array().is_some_and(|notes| notes.iter().any(is_said)), "{notes}");
    assert_eq!(gateway.process.count("packets from the TUN are handed over between workers"), 1);
    let to: Vec<IpAddr> = members.iter().map(|member| member.inner4.into()).collect();
    handed_over(&gateway, &net, &to, &[&members[0].ns, &members[1].ns]);
}

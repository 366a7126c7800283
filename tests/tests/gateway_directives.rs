//! What directives of a server's configuration do, seen by stock clients: topologies, logins without certificates, settings of
//! single clients, leases, an address pool that is full, a revocation list that changes, another user, several addresses, scripts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tests::gateway::{Gateway, Row};
use tests::netns::{INNER4, INNER6, Net, Ns, SERVER4, SERVER6};
use tests::ours::{Client, Launch, addresses_in, inner_addresses};
use tests::pki::{Authority, Identity, Role};
use tests::process::until;
use tests::setup::{Family, Setup};
use tests::stock::UP;
use tests::temp::Temp;

/// Long enough for any client to come up or be refused.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stock client in the client's namespace, with this profile.
fn stock(net: &Net, temp: &Temp, profile: &str) -> Client {
    stock_in(&net.client, temp, profile)
}

fn stock_in(ns: &Ns, temp: &Temp, profile: &str) -> Client {
    let launch = Launch { stock: true, ..Launch::default() };
    Client::launch_in(ns, temp, &Setup::new(), profile, &launch)
}

/// A gateway on the setup's configuration, with these words in place of others.
fn serve(net: &Net, temp: &Temp, setup: &Setup, changes: &[(&str, &str)]) -> Gateway {
    let mut text = setup.server_config(temp);
    for (old, new) in changes {
        assert!(text.contains(old), "the configuration has no `{old}`");
        text = text.replace(old, new);
    }
    let config = temp.write("server.conf", &text).display().to_string();
    Gateway::launch(net, temp, &["gateway", "run", "--config", &config, "--workers", "2"], "server")
}

/// A profile without these inline blocks.
fn without(profile: &str, blocks: &[&str]) -> String {
    let mut text = profile.to_owned();
    for block in blocks {
        let (open, close) = (format!("<{block}>"), format!("</{block}>\n"));
        let start = text.find(&open).expect("the block is there");
        let end = text.find(&close).expect("the block ends") + close.len();
        text.replace_range(start..end, "");
    }
    text
}

fn one(gateway: &Gateway) -> Row {
    gateway.wait_clients(1, Duration::from_secs(5)).remove(0)
}

/// Echoes each way, over IPv4 and IPv6.
fn reach(net: &Net, ns: &Ns) {
    let (inner4, inner6) = addresses_in(ns);
    assert!(ns.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "{}: no echo", ns.name());
    assert!(ns.until_answered(INNER6.into(), Duration::from_secs(10)).is_some(), "{}: no echo over IPv6", ns.name());
    assert_eq!(ns.ping(INNER6.into(), 20), 20);
    assert_eq!(net.server.ping(inner4.into(), 20), 20);
    assert_eq!(net.server.ping(inner6.into(), 20), 20);
}

#[test]
fn every_topology_of_a_stock_server_is_served() {
    for (topology, mine, others) in [("net30", [10, 8, 0, 6], [10, 8, 0, 10]), ("p2p", [10, 8, 0, 4], [10, 8, 0, 5])] {
        let root = Authority::new("Test Root");
        let (net, temp, setup) = (Net::new(), Temp::new(), Setup::under(&root));
        let gateway = serve(&net, &temp, &setup, &[("topology subnet", &format!("topology {topology}"))]);
        let crowd = net.crowd(1);
        let mut first = stock(&net, &temp, &setup.profile());
        first.expect_up();
        let second = Temp::new();
        let profile = setup.profile_of(&root.issue("second", Role::Client));
        let mut ours = Client::launch_in(&crowd[0], &second, &setup, &profile, &Launch::default());
        ours.expect_up();
        gateway.wait_clients(2, Duration::from_secs(3));
        println!("{topology}:\n{}", net.client.run("ip -4 address"));
        assert_eq!(addresses_in(&net.client).0, Ipv4Addr::from(mine), "{topology}");
        assert_eq!(addresses_in(&crowd[0]).0, Ipv4Addr::from(others), "{topology}");
        reach(&net, &net.client);
        reach(&net, &crowd[0]);
        assert_eq!((first.stop(), ours.stop()), (Some(0), Some(0)));
    }
}

#[test]
fn a_password_serves_in_place_of_a_certificate_where_it_may() {
    let login = |password: &str| Some(("alice".to_owned(), password.to_owned()));
    // verify-client-cert, whether the client has one, username-as-common-name, and as whom it is let in.
    for (verify, certificate, by_user, name) in [
        ("none", false, true, Some("alice")),
        ("optional", true, false, Some("client")),
        ("optional", true, true, Some("alice")),
        ("optional", false, true, Some("alice")),
        ("require", false, true, None),
    ] {
        let (net, temp) = (Net::new(), Temp::new());
        let mut setup = Setup::new().server(&format!("verify-client-cert {verify}")).client("connect-retry-max 1");
        if by_user {
            setup = setup.server("username-as-common-name");
        }
        setup.accepts = login("secret");
        setup.login = login("secret");
        let gateway = serve(&net, &temp, &setup, &[]);
        let cut: &[&str] = if certificate { &[] } else { &["cert", "key"] };
        let what = format!("verify-client-cert {verify}, certificate {certificate}, by user {by_user}");
        let mut client = stock(&net, &temp, &without(&setup.profile(), cut));
        let Some(name) = name else {
            assert!(!client.process.wait_log(&[UP], Duration::from_secs(4)), "{what}: it came in");
            assert!(gateway.clients().is_empty());
            continue;
        };
        client.expect_up();
        assert_eq!(one(&gateway).name, name, "{what}");
        reach(&net, &net.client);
        client.stop();
        gateway.wait_clients(0, Duration::from_secs(3));

        setup.login = login("wrong");
        let mut client = stock(&net, &temp, &without(&setup.profile(), cut));
        client.process.expect_log(&["AUTH_FAILED"], PATIENCE);
        assert!(gateway.clients().is_empty(), "{what}: a wrong password was taken");
    }
}

#[test]
fn a_full_pool_is_said_and_has_room_again_when_somebody_leaves() {
    let root = Authority::new("Test Root");
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::under(&root).client("connect-retry 1 2"));
    // Room for one.
    let mut gateway = serve(&net, &temp, &setup, &[("10.8.0.0 255.255.255.0", "10.8.0.0 255.255.255.252")]);
    let mut first = stock(&net, &temp, &setup.profile());
    first.expect_up();
    let (inner, _) = inner_addresses(&net);

    let (crowd, other) = (net.crowd(1), Temp::new());
    let mut second = stock_in(&crowd[0], &other, &setup.profile_of(&root.issue("second", Role::Client)));
    gateway.process.expect_log(&["no address is free"], PATIENCE);
    second.process.expect_log(&["no address is free"], PATIENCE);
    assert_eq!(one(&gateway).name, "client", "the first one stays");
    assert_eq!(net.client.ping(INNER4.into(), 20), 20);
    assert_eq!(second.process.count(UP), 0);

    // It was told that this passes, and asks again by itself.
    first.stop();
    second.expect_up();
    assert_eq!(addresses_in(&crowd[0]).0, inner, "the address that became free");
    assert_eq!(one(&gateway).name, "second");
    reach(&net, &crowd[0]);
}

#[test]
fn a_revocation_list_that_changes_is_noticed_without_being_told() {
    let root = Authority::new("Test Root");
    let files = Temp::new();
    let crl = files.write("crl.pem", &root.crl(&[]));
    let setup = Setup::under(&root).server(&format!("crl-verify {}", crl.display()));
    let (net, temp) = (Net::new(), Temp::new());
    let gateway = serve(&net, &temp, &setup, &[]);
    let mut client = stock(&net, &temp, &setup.profile());
    client.expect_up();
    one(&gateway);
    // As a program that renews it does: a new file in place of the old one.
    let next = files.write("next.pem", &root.crl(&[setup.client_id.serial]));
    fs::rename(next, &crl).expect("both are in one directory");
    // It is looked at once a minute.
    let gone = until(Duration::from_secs(75), || gateway.clients().is_empty());
    assert!(gone, "a revoked client is still there:\n{}", gateway.process.log());
    assert!(!stock(&net, &temp, &setup.profile()).process.wait_log(&[UP], Duration::from_secs(4)), "it came in again");
}

#[test]
fn a_gateway_that_gives_up_root_serves_and_cleans_up() {
    let (net, temp) = (Net::new(), Temp::new());
    let before = net.server.snapshot();
    let setup = Setup::new().server("user nobody").server("group nogroup").server("explicit-exit-notify 1");
    let mut gateway = serve(&net, &temp, &setup, &[]);
    let control = gateway.control_process().expect("the supervisor has a control process");
    for pid in [gateway.process.pid(), control] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
        let ids = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a field of proc(5)");
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(ids("Uid:"), ["65534"; 4], "{status}");
        assert_eq!(ids("Gid:"), ["65534"; 4], "{status}");
    }
    let mut client = stock(&net, &temp, &setup.profile());
    client.expect_up();
    reach(&net, &net.client);
    gateway.reload();
    assert_eq!(net.client.ping(INNER4.into(), 20), 20);
    assert_eq!(client.stop(), Some(0));
    assert_eq!(gateway.stop(), Some(0));
    assert!(until(Duration::from_secs(3), || net.server.snapshot() == before), "{}", net.server.snapshot());
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let (second4, second6): (IpAddr, IpAddr) = (Ipv4Addr::new(10, 71, 2, 3).into(), "fd71:2::3".parse().unwrap());
    for family in [Family::V4, Family::V6] {
        let (net, temp) = (Net::new(), Temp::new());
        net.server.run(&format!("ip address add {second4}/24 dev up0"));
        net.server.run(&format!("ip address add {second6}/64 dev up0 nodad"));
        let mut setup = Setup::new().family(family).server("multihome");
        let gateway = serve(&net, &temp, &setup, &[]);
        let first: IpAddr = if family == Family::V4 { SERVER4.into() } else { SERVER6.into() };
        for asked in [first, if family == Family::V4 { second4 } else { second6 }] {
            setup.remote = asked;
            // A stock client without `float` takes nothing from another address.
            let mut client = stock(&net, &temp, &setup.profile());
            client.expect_up();
            reach(&net, &net.client);
            assert_eq!(client.stop(), Some(0));
            gateway.wait_clients(0, Duration::from_secs(3));
        }
    }
}

#[test]
fn addresses_are_kept_over_a_restart() {
    let root = Authority::new("Test Root");
    let (net, temp) = (Net::new(), Temp::new());
    let leases = temp.path().join("leases.txt");
    let setup = Setup::under(&root).server(&format!("ifconfig-pool-persist {} 1", leases.display()));
    let crowd = net.crowd(2);
    let ids = ["one", "two"].map(|name| root.issue(name, Role::Client));
    let visit = |n: usize| -> (Ipv4Addr, std::net::Ipv6Addr) {
        let own = Temp::new();
        let mut client = stock_in(&crowd[n], &own, &setup.profile_of(&ids[n]));
        client.expect_up();
        let found = addresses_in(&crowd[n]);
        assert_eq!(client.stop(), Some(0));
        found
    };
    let mut gateway = serve(&net, &temp, &setup, &[]);
    let before = [visit(0), visit(1)];
    assert_ne!(before[0], before[1]);
    assert_eq!(gateway.stop(), Some(0));
    let text = fs::read_to_string(&leases).expect("the leases are written");
    assert!(text.contains(&format!("one,{}", before[0].0)), "{text}");
    // In the other order, so that it is no chance.
    let _again = serve(&net, &temp, &setup, &[]);
    assert_eq!([visit(1), visit(0)], [before[1], before[0]], "{text}");
}

/// One client with a file of its own.
struct Special<'a> {
    client: Client,
    ns: &'a Ns,
    _temp: Temp,
}

fn special<'a>(ns: &'a Ns, setup: &Setup, id: &Identity) -> Special<'a> {
    let temp = Temp::new();
    Special { client: stock_in(ns, &temp, &setup.profile_of(id)), ns, _temp: temp }
}

#[test]
fn single_clients_have_settings_of_their_own() {
    let root = Authority::new("Test Root");
    let (net, temp, files) = (Net::new(), Temp::new(), Temp::new());
    files.write(
        "fixed",
        "ifconfig-push 10.8.0.50 255.255.255.0\nifconfig-ipv6-push fd08::50/64\niroute 10.77.0.0 255.255.0.0\n\
         iroute-ipv6 fd77::/64\npush \"route 10.66.0.0 255.255.0.0\"\n",
    );
    files.write(
        "reset",
        "push-reset\npush \"topology subnet\"\npush \"route-gateway 10.8.0.1\"\npush \"ping 10\"\npush \"ping-restart 60\"\n\
         push \"route 10.55.0.0 255.255.0.0\"\n",
    );
    files.write("removed", "push-remove \"route 10.99\"\n");
    files.write("barred", "disable\n");
    files.write("DEFAULT", "push \"route 10.44.0.0 255.255.0.0\"\n");
    let setup = Setup::under(&root)
        .server(&format!("client-config-dir {}", files.path().display()))
        .server("push \"route 10.99.0.0 255.255.0.0\"")
        .server("push \"route 10.98.0.0 255.255.0.0\"")
        .server("route 10.77.0.0 255.255.0.0")
        .server("route-ipv6 fd77::/64")
        .client("connect-retry-max 1");
    let mut gateway = serve(&net, &temp, &setup, &[]);
    let crowd = net.crowd(5);
    let names = ["fixed", "reset", "removed", "barred", "another"];
    let ids = names.map(|name| root.issue(name, Role::Client));
    let mut all: Vec<_> = crowd.iter().zip(&ids).map(|(ns, id)| special(ns, &setup, id)).collect();
    for n in [0, 1, 2, 4] {
        all[n].client.expect_up();
    }
    let routes = |n: usize| all[n].ns.run("ip -4 route");
    let has = |n: usize, net: u8| routes(n).contains(&format!("10.{net}.0.0/16"));
    let table = |n: usize| [44, 55, 66, 98, 99].map(|net| has(n, net));
    assert_eq!(table(0), [false, false, true, true, true], "{}", routes(0));
    assert_eq!(table(1), [false, true, false, false, false], "{}", routes(1));
    assert_eq!(table(2), [false, false, false, true, false], "{}", routes(2));
    assert_eq!(table(4), [true, false, false, true, true], "{}", routes(4));
    for n in [0, 1, 2, 4] {
        reach(&net, all[n].ns);
    }
    let fixed: (Ipv4Addr, std::net::Ipv6Addr) = ("10.8.0.50".parse().unwrap(), "fd08::50".parse().unwrap());
    assert_eq!(addresses_in(all[0].ns), fixed);

    // The network behind it, from the gateway, and nobody else's answer to it.
    all[0].ns.run("ip address add 10.77.0.1/32 dev lo");
    all[0].ns.run("ip address add fd77::1/128 dev lo");
    assert_eq!(net.server.ping("10.77.0.1".parse().unwrap(), 20), 20, "{}", gateway.status()["clients"]);
    assert_eq!(net.server.ping("fd77::1".parse().unwrap(), 20), 20);

    gateway.process.expect_log(&["barred"], PATIENCE);
    all[3].client.process.expect_log(&["AUTH_FAILED"], PATIENCE);
    assert!(gateway.clients().iter().all(|row| row.name != "barred"));

    // Whoever has no file of its own stays out, if that is said.
    let text = fs::read_to_string(temp.path().join("server.conf")).expect("it is there");
    temp.write("server.conf", &(text + "ccd-exclusive\n"));
    gateway.reload();
    let _ = all[4].client.stop();
    let _ = all[2].client.stop();
    let mut barred = special(&crowd[4], &setup, &ids[4]);
    barred.client.process.expect_log(&["AUTH_FAILED"], PATIENCE);
    let mut let_in = special(&crowd[2], &setup, &ids[2]);
    let_in.client.expect_up();
}

#[test]
fn scripts_hear_of_clients_and_may_take_their_time() {
    let (net, temp) = (Net::new(), Temp::new());
    let heard = temp.write("heard", "");
    let note = |what: &str| format!("echo \"{what}\" >> {}", heard.display());
    // Later than it returns, and by a file.
    let verify = temp.script("verify", "( sleep 1; echo 1 > \"$auth_control_file\" ) & exit 2");
    let connect = temp.script(
        "connect",
        &format!(
            "{}\necho 'push \"route 10.33.0.0 255.255.0.0\"' > \"$1\"",
            note("connect $common_name $username $ifconfig_pool_remote_ip $trusted_ip $IV_VER")
        ),
    );
    let disconnect = temp.script("disconnect", &note("disconnect $common_name $bytes_received $time_duration"));
    let learn = temp.script("learn", &note("learn $*"));
    let chain = temp.script("chain", &note("verify $1 $2"));
    let status = temp.path().join("status.txt");
    let mut setup = Setup::new()
        .server("script-security 2")
        .server(&format!("auth-user-pass-verify {} via-file", verify.display()))
        .server(&format!("client-connect {}", connect.display()))
        .server(&format!("client-disconnect {}", disconnect.display()))
        .server(&format!("learn-address {}", learn.display()))
        .server(&format!("tls-verify {}", chain.display()))
        .server(&format!("status {} 1", status.display()))
        .server("status-version 2");
    setup.login = Some(("alice".into(), "secret".into()));
    let gateway = serve(&net, &temp, &setup, &[]);
    let mut client = stock(&net, &temp, &setup.profile());
    client.expect_up();
    reach(&net, &net.client);
    let (inner, _) = inner_addresses(&net);
    assert!(net.client.run("ip -4 route").contains("10.33.0.0/16"), "{}", net.client.run("ip -4 route"));
    let listed = "CLIENT_LIST,client,";
    let lists = || fs::read_to_string(&status).unwrap_or_default();
    assert!(until(Duration::from_secs(5), || lists().contains(listed)), "{}", lists());
    assert!(lists().contains(&inner.to_string()) && lists().trim_end().ends_with("END"), "{}", lists());
    assert_eq!(client.stop(), Some(0));
    gateway.wait_clients(0, Duration::from_secs(3));
    let text = || fs::read_to_string(&heard).expect("it is there");
    assert!(until(Duration::from_secs(5), || text().contains("disconnect client ")), "{}", text());
    for line in [
        "verify 1 CN=Test Root".to_owned(),
        "verify 0 CN=client".to_owned(),
        format!("connect client alice {inner} 10.71.1.2 2.6"),
        format!("learn add {inner} client"),
        format!("learn delete {inner}"),
    ] {
        assert!(text().contains(&line), "no `{line}` in\n{}", text());
    }
    let bytes =
        text().lines().find_map(|line| line.strip_prefix("disconnect client ")?.split(' ').next()?.parse::<u64>().ok());
    assert!(bytes.is_some_and(|bytes| bytes > 1_000), "{}", text());
}

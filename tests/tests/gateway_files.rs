//! What `gateway up`, `client` and `pki` write, judged by others: stock OpenVPN serves the configuration and connects by the
//! profiles, the openssl program verifies the certificates, our client connects too.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use tests::netns::{INNER4, INNER6, Net, Ns, SERVER4, SERVER6};
use tests::ours::{Client, Launch, executable};
use tests::process::Process;
use tests::setup::Setup;
use tests::stock::UP;
use tests::temp::Temp;

/// What an OpenVPN server says of a certificate on its revocation list.
const REVOKED: &str = "certificate revoked";

struct Gateway {
    net: Net,
    temp: Temp,
}

impl Gateway {
    /// A gateway with the clients alice and bob, not serving.
    fn made(endpoint: &str) -> Gateway {
        let gateway = Gateway { net: Net::new(), temp: Temp::new() };
        gateway.up(&format!(
            "--endpoint {endpoint} --client alice,bob --pool 10.8.0.0/24 --pool-ipv6 fd08::/64 --dns 192.0.2.53"
        ));
        gateway
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn up(&self, words: &str) -> String {
        let out = self.temp.path().display();
        said(&self.minivpn(&format!("gateway up --no-serve --out {out} {words}")))
    }

    /// Runs a command for this gateway in the server's namespace.
    fn minivpn(&self, line: &str) -> Output {
        let words = line.split_whitespace();
        let mut command = self.net.server.command(&executable().display().to_string());
        command.args(words).arg("--state-dir").arg(self.state()).env("NO_COLOR", "1");
        command.output().expect("minivpn can be started")
    }

    fn serve(&self) -> Process {
        let mut command = self.net.server.command("openvpn");
        command.args(["--disable-dco", "--config"]).arg(self.state().join("server.conf"));
        let mut server = Process::start("the OpenVPN server", command, &self.temp.path().join("server.log"));
        server.expect_log(&[UP], Duration::from_secs(20));
        server
    }

    fn profile(&self, name: &str) -> PathBuf {
        self.temp.path().join(format!("{name}.ovpn"))
    }

    fn stock(&self, name: &str) -> Process {
        let mut command = self.net.client.command("openvpn");
        command.args(["--disable-dco", "--connect-retry-max", "2", "--config"]).arg(self.profile(name));
        let log = self.temp.path().join(format!(
            "stock-{name}-{}.log",
            std::fs::read_dir(self.temp.path()).expect("the directory can be listed").count()
        ));
        Process::start("the OpenVPN client", command, &log)
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    out.into_owned()
}

fn pings(from: &Ns) {
    assert!(from.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo over IPv4");
    assert!(from.until_answered(INNER6.into(), Duration::from_secs(5)).is_some(), "no echo over IPv6");
    assert_eq!(from.ping(INNER4.into(), 20), 20);
    assert_eq!(from.ping(INNER6.into(), 20), 20);
}

#[test]
fn a_stock_server_serves_the_configuration_and_both_clients_connect_by_the_profiles() {
    for endpoint in [SERVER4.to_string(), SERVER6.to_string()] {
        let gateway = Gateway::made(&endpoint);
        let _server = gateway.serve();
        let mut stock = gateway.stock("alice");
        stock.expect_log(&[UP], Duration::from_secs(30));
        pings(&gateway.net.client);
        stock.stop(Duration::from_secs(10));
        let profile = std::fs::read_to_string(gateway.profile("bob")).unwrap();
        let mut ours = Client::launch(&gateway.net, &gateway.temp, &Setup::new(), &profile, &Launch::default());
        ours.expect_up();
        pings(&gateway.net.client);
        assert_eq!(ours.stop(), Some(0));
    }
}

#[test]
fn a_revoked_client_is_refused_and_the_others_are_not() {
    let gateway = Gateway::made(&SERVER4.to_string());
    let mut server = gateway.serve();
    let table = said(&gateway.minivpn("client revoke alice"));
    assert!(table.contains("alice is revoked"), "{table}");
    let _refused = gateway.stock("alice");
    server.expect_log(&[REVOKED], Duration::from_secs(30));
    let mut bob = gateway.stock("bob");
    bob.expect_log(&[UP], Duration::from_secs(30));
    bob.stop(Duration::from_secs(10));
    // Running again, as a unit does at every boot, lets nobody in; adding does.
    let list = gateway.up("--client alice");
    assert!(list.contains("look  client alice"), "{list}");
    assert!(!gateway.minivpn("client show alice").status.success());
    let file = gateway.profile("alice").display().to_string();
    said(&gateway.minivpn(&format!("client add alice {file}")));
    let mut alice = gateway.stock("alice");
    alice.expect_log(&[UP], Duration::from_secs(30));
}

/// What our client says of a server that refuses it because it is revoked, and its exit code.
fn refused(gateway: &Gateway, name: &str) -> (Option<i32>, String) {
    let mut profile = std::fs::read_to_string(gateway.profile(name)).expect("the profile was written");
    // OpenVPN falls silent: that is found out when the window closes.
    profile.push_str("hand-window 5\n");
    let mut ours = Client::launch(&gateway.net, &gateway.temp, &Setup::new(), &profile, &Launch::default());
    let code = ours.process.wait_exit(Duration::from_secs(30));
    (code, ours.process.log())
}

#[test]
fn our_client_says_that_it_is_revoked_whoever_the_server_is() {
    let gateway = Gateway::made(&SERVER4.to_string());
    said(&gateway.minivpn("client revoke alice"));
    let mut stock = gateway.serve();
    let by_stock = refused(&gateway, "alice");
    stock.stop(Duration::from_secs(10));
    let state = gateway.state().display().to_string();
    let ours = tests::gateway::Gateway::launch(
        &gateway.net,
        &gateway.temp,
        &["gateway", "up", "--state-dir", &state],
        "default",
    );
    let by_ours = refused(&gateway, "alice");
    for ((code, log), expected) in [(by_stock, 4), (by_ours, 5)] {
        println!("{log}");
        assert_eq!(code, Some(expected), "{log}");
        assert!(log.contains("revoked") && log.contains("new profile"), "{log}");
    }
    drop(ours);
}

#[test]
fn a_new_certificate_of_the_server_needs_no_new_profiles() {
    let gateway = Gateway::made(&SERVER4.to_string());
    let before = std::fs::read(gateway.state().join("server.pem")).unwrap();
    said(&gateway.minivpn("pki renew"));
    assert_ne!(std::fs::read(gateway.state().join("server.pem")).unwrap(), before);
    let _server = gateway.serve();
    let mut alice = gateway.stock("alice");
    alice.expect_log(&[UP], Duration::from_secs(30));
}

#[test]
fn what_is_printed_again_is_what_was_written() {
    let gateway = Gateway::made(&SERVER4.to_string());
    let written = std::fs::read_to_string(gateway.profile("alice")).unwrap();
    assert_eq!(said(&gateway.minivpn("client show alice")), written);
    let list: serde_json::Value = serde_json::from_str(&said(&gateway.minivpn("client list --json"))).unwrap();
    assert_eq!(
        (&list[0]["name"], &list[0]["state"], &list[1]["name"]),
        (&"alice".into(), &"active".into(), &"bob".into())
    );
    let pki: serde_json::Value = serde_json::from_str(&said(&gateway.minivpn("pki show --json"))).unwrap();
    assert!(pki["crl"]["days_left"].as_i64().is_some_and(|days| days > 300), "{pki}");
    let output = gateway.minivpn("client add alice");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("exists already"));
    assert!(!gateway.minivpn("gateway down --purge").status.success(), "nobody confirmed it");
    assert!(gateway.state().exists());
    said(&gateway.minivpn("gateway down --purge --yes"));
    assert!(!gateway.state().exists());
}

#[test]
fn openssl_finds_nothing_wrong_until_a_certificate_is_revoked() {
    let gateway = Gateway::made(&SERVER4.to_string());
    let state = gateway.state();
    let verify = |purpose: &str, certificate: &Path| {
        let line = format!(
            "openssl verify -x509_strict -crl_check -purpose {purpose} -CAfile {0}/ca.crt -CRLfile {0}/crl.pem {1}",
            state.display(),
            certificate.display(),
        );
        let output = gateway.net.server.attempt(&line);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (server, alice) = (state.join("server.pem"), state.join("clients/alice.pem"));
    for (purpose, certificate, good) in [
        ("sslserver", &server, true),
        ("sslclient", &alice, true),
        ("sslclient", &server, false),
        ("sslserver", &alice, false),
    ] {
        let (verified, why) = verify(purpose, certificate);
        assert_eq!(verified, good, "{purpose} {}: {why}", certificate.display());
    }
    // Its file goes with the revocation.
    let kept = gateway.temp.path().join("alice.pem");
    std::fs::copy(&alice, &kept).unwrap();
    said(&gateway.minivpn("client revoke alice"));
    let (verified, why) = verify("sslclient", &kept);
    assert!(!verified && why.contains(REVOKED), "{why}");
    assert!(verify("sslclient", &state.join("clients/bob.pem")).0);
}

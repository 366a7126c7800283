//! What real profiles contain besides the matrix of `interop`: chains, revocation lists, names, digests, passwords.

use std::time::Duration;
use tests::cells::check_all;
use tests::netns::{INNER4, Net};
use tests::ours::Client;
use tests::pki::{Authority, KeyKind, Role, Validity, fingerprint};
use tests::setup::{Setup, Wrap};
use tests::stock::Server;
use tests::temp::Temp;

type Case = (&'static str, Setup);

#[test]
fn every_kind_of_profile_connects() {
    let cases: Vec<Case> = [certificates(), wraps(), passwords(), spelling()].into_iter().flatten().collect();
    check_all(2, cases, |case| case.0.to_owned(), |case| connects(&case.1));
}

fn connects(setup: &Setup) {
    let (net, temp) = (Net::new(), Temp::new());
    let _server = Server::start(&net, &temp, setup);
    let mut client = Client::up(&net, &temp, setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    assert_eq!(net.client.ping(INNER4.into(), 50), 50);
    assert_eq!(client.stop(), Some(0));
}

fn certificates() -> Vec<Case> {
    let root = Authority::new("Test Root");
    let middle = root.intermediate("Middle");
    let lower = middle.intermediate("Lower");
    let with = |server_id, client_id| Setup {
        client_trusts: root.cert.clone(),
        server_trusts: root.cert.clone(),
        server_id,
        client_id,
        ..Setup::new()
    };
    let plain = || with(root.issue("server", Role::Server), root.issue("client", Role::Client));
    let ed25519 = |name, role| root.issue_as(name, role, Validity::Now, KeyKind::Ed25519);

    let chains = with(lower.issue("server", Role::Server), lower.issue("client", Role::Client));
    let curves = with(ed25519("server", Role::Server), ed25519("client", Role::Client));
    let crl = format!("<crl-verify>\n{}</crl-verify>", root.crl(&[4711]));
    let mut print = plain();
    print.client_lines.push(format!("peer-fingerprint {}", fingerprint(&print.server_id.cert)));
    vec![
        ("certificates below two intermediates", chains),
        ("Ed25519", curves),
        ("a revocation list that names somebody else", plain().client(&crl)),
        ("verify-x509-name, by name", plain().client("verify-x509-name server name")),
        ("verify-x509-name, by subject", plain().client("verify-x509-name \"CN=server\"")),
        ("verify-x509-name, by prefix", plain().client("verify-x509-name ser name-prefix")),
        ("peer-fingerprint", print),
    ]
}

fn wraps() -> Vec<Case> {
    let digest = |wrap, name: &str| {
        let mut setup = Setup::new().server(&format!("auth {name}")).client(&format!("auth {name}"));
        setup.wrap = wrap;
        setup
    };
    vec![
        ("tls-auth with SHA256", digest(Wrap::TlsAuth, "SHA256")),
        ("tls-auth with SHA512", digest(Wrap::TlsAuth, "SHA512")),
        ("tls-auth both ways with SHA512", digest(Wrap::TlsAuthBidirectional, "SHA512")),
        ("tls-crypt beside auth SHA512", digest(Wrap::TlsCrypt, "SHA512")),
    ]
}

fn passwords() -> Vec<Case> {
    let mut setup = Setup::new();
    setup.accepts = Some(("user".into(), "pass word".into()));
    setup.login = setup.accepts.clone();
    vec![("a password with a space", setup)]
}

/// Directives that fill profiles and must at least not be in the way.
fn spelling() -> Vec<Case> {
    let usual = "resolv-retry infinite\nauth-nocache\nmute-replay-warnings\nmute 20\ntun-mtu 1500\nmssfix 1450\n\
                 reneg-sec 0\nremote-random\npull\nscript-security 2\nsetenv opt block-outside-dns\nfast-io\n\
                 ignore-unknown-option block-outside-dns data-ciphers-fallback\nblock-outside-dns\n\
                 # a comment\n; another one\ncipher AES-256-GCM # behind a directive";
    let pushes = Setup::new()
        .server("push \"dhcp-option DNS 10.8.0.1\"")
        .server("push \"route 10.77.0.0 255.255.0.0\"")
        .server("push \"block-outside-dns\"")
        .server("push \"sndbuf 393216\"");
    let route = |n: u32| format!("push \"route 10.150.{n}.0 255.255.255.0\"");
    let long = (0..120).fold(Setup::new(), |setup, n| setup.server(&route(n)));
    vec![
        ("a profile full of the usual directives", Setup::new().client(usual)),
        ("pushed directives that concern others", pushes),
        ("a PUSH_REPLY in several parts", long),
    ]
}

//! What goes wrong for users: each ends with the right exit code and one sentence that says what to do.

use std::time::Duration;
use tests::cells::check_all;
use tests::netns::Net;
use tests::ours::{Client, Launch, stock_client, tun_names};
use tests::pki::{Authority, KeyKind, Role, Validity, fingerprint, static_key};
use tests::process::tail;
use tests::setup::{Setup, Wrap};
use tests::stock::Server;
use tests::temp::Temp;

/// One failure: what is wrong, how the client must end, and words that a single line of its output must hold.
struct Case {
    title: &'static str,
    setup: Setup,
    launch: Launch,
    edit: fn(String) -> String,
    code: i32,
    words: &'static [&'static str],
}

impl Case {
    fn new(title: &'static str, setup: Setup, code: i32, words: &'static [&'static str]) -> Self {
        // Nobody wants to wait a minute for silence: the two directives shorten it.
        let setup = setup.client("hand-window 6").client("connect-timeout 6");
        Self { title, setup, launch: Launch::default(), edit: |profile| profile, code, words }
    }
}

#[test]
fn every_failure_has_its_code_and_its_sentence() {
    let cases = [passwords(), certificates(), silence(), privilege(), configs()].into_iter().flatten().collect();
    check_all(2, cases, |case: &Case| case.title.to_owned(), check);
}

#[test]
fn connect_retry_max_says_how_many_rounds_there_are_before_the_first_success() {
    for (line, rounds) in [(None, 1), (Some("connect-retry-max 3"), 3)] {
        // A round more is only seen in the debug lines: what repeats itself is said once.
        let mut setup = Setup::new();
        setup.options = vec!["--log-level", "debug"];
        setup.port = 1195;
        setup.client_lines.extend(line.map(str::to_owned));
        let (net, temp) = (Net::new(), Temp::new());
        let _server = Server::start(&net, &temp, &setup);
        let mut client = Client::start(&net, &temp, &setup);
        assert_eq!(client.process.wait_exit(Duration::from_secs(30)), Some(4), "{}", client.process.log());
        assert_eq!(client.process.count("trying 10.71.2.2:1195"), rounds, "{line:?}:\n{}", client.process.log());
    }
}

fn check(case: &Case) {
    let (net, temp) = (Net::new(), Temp::new());
    let _server = Server::start(&net, &temp, &case.setup);
    let before = net.client.snapshot();
    let profile = (case.edit)(case.setup.profile());
    let mut client = Client::launch(&net, &temp, &case.setup, &profile, &case.launch);
    let code = client.process.wait_exit(Duration::from_secs(25));
    let log = client.process.log();
    if stock_client() {
        println!("{}: {code:?}, log ends with\n{}", case.title, tail(&log, 6));
        return;
    }
    assert_eq!(code, Some(case.code), "exit code; it said:\n{}", tail(&log, 30));
    let line = |line: &str| case.words.iter().all(|word| line.to_lowercase().contains(&word.to_lowercase()));
    assert!(log.lines().any(line), "no line holds {:?}; it said:\n{}", case.words, tail(&log, 30));
    assert!(!log.contains("panicked"), "a panic:\n{log}");
    assert_eq!(tun_names(&net), Vec::<String>::new(), "a TUN interface is left");
    assert_eq!(net.client.snapshot(), before, "the host is as before");
}

fn passwords() -> Vec<Case> {
    let mut wrong = Setup::new();
    wrong.accepts = Some(("user".into(), "right".into()));
    wrong.login = Some(("user".into(), "wrong".into()));
    vec![Case::new("wrong password", wrong, 3, &["password"])]
}

fn certificates() -> Vec<Case> {
    let mut wrong_ca = Setup::new();
    wrong_ca.client_trusts = Authority::new("Another Root").cert;

    let root = Authority::new("Test Root");
    let trusting = || Setup { client_trusts: root.cert.clone(), server_trusts: root.cert.clone(), ..Setup::new() };
    let client_id = || root.issue("client", Role::Client);
    let expired = |name, role| root.issue_as(name, role, Validity::Expired, KeyKind::P256);

    let old_server = Setup { server_id: expired("server", Role::Server), client_id: client_id(), ..trusting() };
    let mut old_client = Setup { server_id: root.issue("server", Role::Server), ..trusting() };
    old_client.client_id = expired("client", Role::Client);

    let as_server = Setup { server_id: root.issue("server", Role::Client), client_id: client_id(), ..trusting() };
    let mut mismatch = Setup::new();
    mismatch.client_id.key = root.issue("client", Role::Client).key;
    let plain = || Setup { server_id: root.issue("server", Role::Server), client_id: client_id(), ..trusting() };
    let mut revoked = plain();
    let crl = root.crl(&[revoked.server_id.serial]);
    revoked.client_lines.push(format!("<crl-verify>\n{crl}</crl-verify>"));
    let name = plain().client("verify-x509-name another name");
    let print = plain().client(&format!("peer-fingerprint {}", fingerprint(&root.cert)));
    let mut unknown = Setup::new();
    unknown.client_id = client_id();
    vec![
        Case::new("wrong CA", wrong_ca, 5, &["certificate", "ca"]),
        Case::new("expired server certificate", old_server, 5, &["expired"]),
        Case::new("expired client certificate", old_client, 5, &["expired"]),
        Case::new("a client's certificate in the server's hand", as_server, 5, &["extended key usage"]),
        Case::new("key of another certificate", mismatch, 5, &["key"]),
        Case::new("revoked server certificate", revoked, 5, &["revoked"]),
        Case::new("server of another name", name, 5, &["verify-x509-name"]),
        Case::new("server of another fingerprint", print, 5, &["peer-fingerprint"]),
        Case::new("client certificate of another CA", unknown, 4, &["certificate"]),
    ]
}

fn silence() -> Vec<Case> {
    let mut crypt = Setup::new();
    crypt.wrap = Wrap::TlsCrypt;
    crypt.client_static = static_key();
    let mut auth = Setup::new();
    auth.wrap = Wrap::TlsAuth;
    auth.client_static = static_key();
    let mut far = Setup::new();
    far.remote = [10, 71, 9, 9].into();
    let mut deaf = Setup::new();
    deaf.remote = [10, 71, 1, 99].into();
    let mut port = Setup::new();
    port.port = 1195;
    vec![
        Case::new("wrong tls-crypt key", crypt, 4, &["tls-crypt"]),
        Case::new("wrong tls-auth key", auth, 4, &["tls-auth"]),
        Case::new("unreachable host", far, 4, &["10.71.9.9"]),
        Case::new("silent host", deaf, 4, &["10.71.1.99"]),
        Case::new("wrong port", port, 4, &["1195", "port"]),
    ]
}

fn privilege() -> Vec<Case> {
    let no_tun = Launch { before: "mount -t tmpfs none /dev/net;".into(), wrapper: vec![], stock: false };
    let drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"];
    let no_cap = Launch { before: String::new(), wrapper: drop.to_vec(), stock: false };
    vec![
        Case { launch: no_tun, ..Case::new("no /dev/net/tun", Setup::new(), 6, &["/dev/net/tun"]) },
        Case { launch: no_cap, ..Case::new("no CAP_NET_ADMIN", Setup::new(), 6, &["CAP_NET_ADMIN"]) },
    ]
}

fn configs() -> Vec<Case> {
    let edited = |title, edit, words| Case { edit, ..Case::new(title, Setup::new(), 2, words) };
    vec![
        edited("unknown directive", |text| text + "frobnicate 1\n", &["frobnicate"]),
        edited("no remote", |text| text.replace("remote 10", "# remote 10"), &["remote"]),
        edited("unclosed block", |text| text.replace("</ca>", ""), &["<ca>"]),
        edited("missing file", |text| text + "crl-verify /nonexistent/crl.pem\n", &["/nonexistent/crl.pem"]),
    ]
}

//! `minivpn trace` against a stock server: what it tells of handshakes that succeed, fail, meet silence and meet forgeries; as a
//! user without any privilege; and that what it writes is what `docs/trace.md` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tests::cells::check_all;
use tests::netns::{Net, ROUTER4, SERVER4};
use tests::ours::executable;
use tests::pki::static_key;
use tests::relay::{Relay, Way, Weather};
use tests::setup::{Setup, Tls, Wrap};
use tests::stock::Server;
use tests::temp::Temp;

/// A trace that has ended.
struct Traced {
    code: Option<i32>,
    /// The file, line by line.
    events: Vec<Value>,
    /// Everything that was written anywhere: file, standard output and error, picture.
    all: String,
}

/// The user `nobody` with no capability, also none to gain.
const NOBODY: &[&str] = &[
    "setpriv",
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--no-new-privs",
    "--",
];

/// Traces as `nobody`, with a file of events and a picture.
fn trace(net: &Net, temp: &Temp, setup: &Setup, more: &[&str]) -> Traced {
    let dir = temp.path().join("nobody");
    fs::create_dir_all(&dir).expect("the scratch directory is writable");
    let profile = dir.join("client.ovpn");
    fs::write(&profile, setup.profile()).expect("the scratch directory is writable");
    let program = dir.join("minivpn");
    // `nobody` may not be able to reach where it was built.
    if !program.exists() {
        let linked = fs::hard_link(executable(), &program).or_else(|_| fs::copy(executable(), &program).map(drop));
        linked.expect("the executable can be linked or copied");
    }
    let owned = Command::new("chown").arg("nobody").args([&dir, &profile]).status().expect("chown can be started");
    assert!(owned.success());
    let (file, picture) = (dir.join("trace.json"), dir.join("trace.svg"));
    let mut command = net.client.command(NOBODY[0]);
    command.args(&NOBODY[1..]).arg(&program).arg("trace").arg(&profile);
    command.args(["--out".as_ref(), file.as_os_str(), "--waterfall".as_ref(), picture.as_os_str()]).args(more);
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes text");
    let file = fs::read_to_string(&file).unwrap_or_default();
    let picture = fs::read_to_string(&picture).unwrap_or_default();
    let events = file.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let all = [text(stdout), text(stderr), file, picture].join("\n");
    assert!(!all.contains("panicked"), "{all}");
    Traced { code: status.code(), events, all }
}

impl Traced {
    fn of(&self, operation: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["operation"] == operation).collect()
    }

    fn stages(&self) -> Vec<&str> {
        self.of("state").iter().filter_map(|event| event["stage"].as_str()).collect()
    }

    fn tags(&self, operation: &str) -> Vec<&str> {
        let tags = self.of(operation).into_iter().filter_map(|event| event["tags"].as_array());
        tags.flatten().filter_map(Value::as_str).collect()
    }

    fn reasons(&self) -> Vec<&str> {
        self.of("packet_dropped").iter().filter_map(|event| event["reason"].as_str()).collect()
    }

    fn end(&self) -> &Value {
        self.events.last().expect("a trace has an end")
    }
}

const TO_THE_END: [&str; 7] =
    ["S_INITIAL", "S_PRE_START", "S_START", "S_SENT_KEY", "S_GOT_KEY", "S_ACTIVE", "S_GENERATED_KEYS"];

/// The samples of the documentation by operation.
fn samples() -> BTreeMap<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/trace.md");
    let text = fs::read_to_string(path).expect("docs/trace.md is there");
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let samples = lines.map(|line| serde_json::from_str::<Value>(line).expect("a sample is JSON"));
    samples.map(|sample| (sample["operation"].as_str().expect("it has an operation").to_owned(), sample)).collect()
}

/// Fields that may be null, and what they are otherwise.
const OPTIONAL: [(&str, &str); 9] = [
    ("packet.id", "number"),
    ("packet.acks", "array"),
    ("packet.send_attempts", "number"),
    ("packet.key_id", "number"),
    ("packet.session_id", "string"),
    ("packet.remote_session_id", "string"),
    ("why", "string"),
    ("peer_id", "number"),
    ("farewell", "string"),
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Compares names, order and kinds of fields with the sample's.
fn compare(path: &str, event: &Value, sample: &Value) {
    let (Value::Object(event), Value::Object(sample)) = (event, sample) else {
        panic!("{path}: an object is wanted: {event} {sample}");
    };
    let names = |fields: &serde_json::Map<String, Value>| {
        let mut names: Vec<String> = fields.keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(names(event), names(sample), "fields of {path}");
    for (name, value) in event {
        let path = format!("{path}{name}");
        let (is, documented) = (kind(value), kind(&sample[name]));
        let optional = OPTIONAL.iter().find(|(field, _)| *field == path);
        let fits = optional.map_or(is == documented, |(_, otherwise)| is == "null" || is == *otherwise);
        assert!(fits, "{path} is {is}: {value}");
        if is == "object" {
            compare(&format!("{path}."), value, &sample[name]);
        }
        if let (Value::Array(values), Some(first)) = (value, sample[name].as_array().and_then(|all| all.first())) {
            assert!(values.iter().all(|value| kind(value) == kind(first)), "{path}: {values:?}");
        }
    }
}

/// The whole trace against the documentation, and the rules that go beyond kinds.
fn agrees_with_the_documentation(traced: &Traced) {
    let samples = samples();
    assert_eq!(samples.len(), 11, "{:?}", samples.keys());
    let mut last = 0.0;
    for event in &traced.events {
        let operation = event["operation"].as_str().expect("an operation is a text");
        compare("", event, samples.get(operation).unwrap_or_else(|| panic!("{operation} is not documented")));
        let t = event["t"].as_f64().expect("t is a number");
        assert!(t >= last, "time goes backwards at {event}");
        last = t;
        let stage = event["stage"].as_str().unwrap_or_default();
        assert!(TO_THE_END.contains(&stage) || stage == "S_ERROR", "{event}");
        let packet = &event["packet"];
        assert_eq!(packet.is_object(), operation.starts_with("packet_"), "{event}");
        if packet.is_object() {
            let ours = operation == "packet_out";
            assert_eq!(packet["operation"], if ours { "write" } else { "read" });
            assert_eq!(packet["send_attempts"].is_number(), ours, "{event}");
        }
    }
    assert_eq!(traced.events[0]["operation"], "start");
    assert_eq!(traced.end()["operation"], "end");
    let count = |operation: &str| traced.of(operation).len() as u64;
    for (field, operation) in
        [("packets_in", "packet_in"), ("packets_out", "packet_out"), ("packets_dropped", "packet_dropped")]
    {
        assert_eq!(traced.end()[field].as_u64(), Some(count(operation)), "{field}");
    }
    assert_eq!(traced.end()["exit_status"].as_i64(), traced.code.map(i64::from));
}

/// What `jq` makes of the file.
fn jq(traced: &Traced, filter: &str) -> String {
    let lines: Vec<String> = traced.events.iter().map(Value::to_string).collect();
    let temp = Temp::new();
    let file = temp.write("trace.json", &lines.join("\n"));
    let output =
        Command::new("jq").args(["-c", filter]).arg(file).output().expect("jq is installed (scripts/ensure-tools)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_wrap_and_tls_version_is_traced_to_the_end_by_nobody() {
    let cells = [Wrap::None, Wrap::TlsAuth, Wrap::TlsCrypt].into_iter().flat_map(|w| [(w, Tls::V12), (w, Tls::V13)]);
    check_all(
        2,
        cells.collect(),
        |cell: &(Wrap, Tls)| format!("{cell:?}"),
        |(wrap, tls)| {
            let (net, temp) = (Net::new(), Temp::new());
            let setup = Setup { wrap: *wrap, tls: *tls, ..Setup::new() };
            let mut server = Server::start(&net, &temp, &setup);
            let before = net.client.snapshot();
            let traced = trace(&net, &temp, &setup, &[]);
            assert_eq!(traced.code, Some(0), "{}", traced.all);
            agrees_with_the_documentation(&traced);
            assert_eq!(traced.stages(), TO_THE_END);
            assert!(traced.reasons().is_empty(), "{}", traced.all);
            assert!(traced.tags("packet_out").starts_with(&["client_hello"]));
            assert_eq!(traced.tags("packet_in")[0], "server_hello");
            let hidden = *tls == Tls::V13;
            assert_eq!(traced.tags("packet_in").contains(&"certificate"), !hidden, "{:?}", traced.tags("packet_in"));
            for tag in ["encrypted_handshake", "key_message", "push_reply"] {
                assert!(traced.tags("packet_in").contains(&tag), "{tag}: {:?}", traced.tags("packet_in"));
            }
            let established = traced.of("established")[0];
            assert_eq!(established["cipher"], "AES-256-GCM");
            let pushed = established["pushed"].to_string();
            assert!(pushed.contains("route-gateway 10.8.0.1") && pushed.contains("ifconfig 10.8.0.2"), "{pushed}");
            assert_eq!(traced.end()["farewell"], "control_channel");
            assert!(server.saw_exit(Duration::from_secs(5)), "{}", server.process.log());
            assert_eq!(net.client.snapshot(), before, "the host is as before");
            assert!(traced.all.contains("<svg ") && traced.all.contains("✓ established"));
            let stages = jq(&traced, "select(.operation == \"state\") | .stage");
            assert_eq!(stages.lines().count(), TO_THE_END.len());
        },
    );
}

#[test]
fn a_server_that_knows_no_other_goodbye_is_told_in_the_data_channel() {
    let (net, temp, setup) = (Net::new(), Temp::new(), Setup::new());
    let mut server = Server::start(&net, &temp, &setup);
    // Without CC_EXIT_NOTIFY, as to a server of before 2.6.
    let traced = trace(&net, &temp, &setup, &["--iv-proto-mask", "0x80"]);
    assert_eq!(traced.code, Some(0), "{}", traced.all);
    agrees_with_the_documentation(&traced);
    assert_eq!(traced.of("established")[0]["cc_exit"], false);
    assert_eq!(traced.end()["farewell"], "data_channel");
    assert!(server.saw_exit(Duration::from_secs(5)), "{}", server.process.log());
}

#[test]
fn a_wrong_password_is_said_at_once_and_where() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    setup.accepts = Some(("user".into(), "right-horse".into()));
    setup.login = Some(("user".into(), "wrong-battery".into()));
    let _server = Server::start(&net, &temp, &setup);
    let traced = trace(&net, &temp, &setup, &[]);
    assert_eq!(traced.code, Some(3), "{}", traced.all);
    agrees_with_the_documentation(&traced);
    assert_eq!(traced.stages().last(), Some(&"S_ERROR"));
    let failure = traced.of("failure")[0];
    assert_eq!((&failure["reason"], &failure["exit_status"]), (&"auth_failed".into(), &3.into()));
    assert!(["S_SENT_KEY", "S_GOT_KEY", "S_ACTIVE"].contains(&failure["stage"].as_str().unwrap()), "{failure}");
    assert!(failure["why"].as_str().unwrap().contains("password"));
    assert!(traced.tags("packet_in").contains(&"auth_failed"));
    assert!(failure["t"].as_f64().unwrap() < 20.0, "not after a time-out: {failure}");
    assert_eq!(jq(&traced, "select(.operation == \"failure\") | .exit_status").trim(), "3");
}

#[test]
fn a_certificate_that_we_refuse_is_a_failure_of_tls() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    let _server = Server::start(&net, &temp, &setup);
    setup.client_trusts = tests::pki::Authority::new("Another Root").cert;
    let traced = trace(&net, &temp, &setup, &[]);
    assert_eq!(traced.code, Some(5), "{}", traced.all);
    agrees_with_the_documentation(&traced);
    let failure = traced.of("failure")[0];
    assert_eq!((&failure["reason"], &failure["stage"]), (&"tls".into(), &"S_START".into()));
}

#[test]
fn a_server_that_never_answers_is_given_up_and_its_resets_are_counted() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    setup.wrap = Wrap::TlsCrypt;
    let _server = Server::start(&net, &temp, &setup);
    setup.client_static = static_key();
    let traced = trace(&net, &temp, &setup, &["--timeout", "5"]);
    assert_eq!(traced.code, Some(4), "{}", traced.all);
    agrees_with_the_documentation(&traced);
    assert_eq!(traced.stages(), ["S_INITIAL", "S_PRE_START", "S_ERROR"]);
    let attempts: Vec<u64> =
        traced.of("packet_out").iter().filter_map(|e| e["packet"]["send_attempts"].as_u64()).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(traced.end()["retransmissions"], 2);
    let failure = traced.of("failure")[0];
    assert_eq!((&failure["reason"], &failure["stage"]), (&"unanswered".into(), &"S_PRE_START".into()));
    assert!(traced.all.contains("tls-crypt key"), "every candidate is named: {}", traced.all);
}

#[test]
fn a_port_where_nothing_listens_is_known_at_once_and_the_next_remote_is_tried() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    let _server = Server::start(&net, &temp, &setup);
    setup.port = 1195;
    let setup = setup.client(&format!("remote {SERVER4} 1194"));
    let traced = trace(&net, &temp, &setup, &[]);
    assert_eq!(traced.code, Some(0), "{}", traced.all);
    agrees_with_the_documentation(&traced);
    assert_eq!(traced.of("failure")[0]["reason"], "refused");
    assert_eq!((traced.of("attempt").len(), &traced.end()["attempts"]), (2, &2.into()));
    let only = trace(&net, &temp, &setup, &["--remote", &format!("{SERVER4}:1195")]);
    assert_eq!((only.code, only.of("attempt").len()), (Some(4), 1), "{}", only.all);
}

/// A server's reset that acknowledges nothing, one that acknowledges ours in a session that is not ours, and one that is long enough
/// to have a tag.
fn forged_resets() -> [Vec<u8>; 3] {
    let sid = [0x41; 8];
    [
        [&[0x40][..], &sid, &[0, 0, 0, 0, 0]].concat(),
        [&[0x40][..], &sid, &[1, 0, 0, 0, 0], &[0x42; 8], &[0, 0, 0, 0]].concat(),
        [&[0x40][..], &sid, &[0, 0, 0, 0, 0], &[0x43; 80]].concat(),
    ]
}

#[test]
fn forged_resets_are_told_and_the_handshake_goes_on() {
    for wrap in [Wrap::None, Wrap::TlsAuth, Wrap::TlsCrypt] {
        let (net, temp) = (Net::new(), Temp::new());
        let mut setup = Setup::new().through_relay();
        setup.wrap = wrap;
        let slow = Weather { delay: Duration::from_millis(100), ..Weather::default() };
        let relay = Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), slow);
        let _server = Server::start(&net, &temp, &setup);
        let traced = thread::scope(|scope| {
            let traced = scope.spawn(|| trace(&net, &temp, &setup, &[]));
            // Until it is over, so that some arrive at every stage; before its first packet the relay knows no client.
            while !traced.is_finished() {
                forged_resets().into_iter().for_each(|bytes| relay.inject(Way::Down, bytes));
                relay.inject(Way::Down, [&[0xF8][..], &[7; 40]].concat());
                thread::sleep(Duration::from_millis(25));
            }
            traced.join().expect("the trace does not panic")
        });
        assert_eq!(traced.code, Some(0), "{wrap:?}: {}", traced.all);
        agrees_with_the_documentation(&traced);
        assert_eq!(traced.stages(), TO_THE_END, "{wrap:?}");
        let reasons = traced.reasons();
        let expected: &[&str] = match wrap {
            Wrap::None => &["unexpected_state", "wrong_remote_session", "unknown_session", "unknown_opcode"],
            _ => &["truncated", "bad_tag", "unknown_opcode"],
        };
        for reason in expected {
            assert!(reasons.contains(reason), "{wrap:?}: {reason} is not among {reasons:?}");
        }
        assert_eq!(traced.end()["established"], true);
        let words =
            traced.of("packet_dropped").iter().all(|event| event["why"].as_str().is_some_and(|why| why.len() > 15));
        assert!(words, "each says why");
    }
}

#[test]
fn nothing_secret_is_in_any_byte_of_a_trace() {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new().server("push \"setenv-safe PIN hidden-pin-4711\"").server("auth-gen-token 3600");
    setup.wrap = Wrap::TlsCrypt;
    setup.accepts = Some(("user-name-x".into(), "correct-horse".into()));
    setup.login = setup.accepts.clone();
    let _server = Server::start(&net, &temp, &setup);
    for more in [&["--log-level", "trace"][..], &["--log-level", "trace", "--log-format", "json"]] {
        let traced = trace(&net, &temp, &setup, more);
        assert_eq!(traced.code, Some(0), "{}", traced.all);
        agrees_with_the_documentation(&traced);
        let established = traced.of("established")[0];
        assert_eq!(established["auth_token"], true, "{established}");
        assert!(established["pushed"].to_string().contains("setenv-safe …"), "{established}");
        let inside = |text: &str| {
            let inner = text.lines().filter(|line| line.len() > 20 && !line.starts_with(['-', '#']));
            inner.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut secrets: Vec<String> = [inside(&setup.client_id.key), inside(&setup.client_static)].concat();
        assert!(secrets.len() > 10);
        secrets.extend(
            // The password, what a token begins with, a pushed value, and words that only go through TLS.
            [
                "correct-horse",
                "SESS_ID",
                "hidden-pin",
                "user-name-x",
                "PUSH_REPLY,",
                "PUSH_REQUEST",
                "IV_PROTO",
                "V4,dev-type",
            ]
            .map(str::to_owned),
        );
        for secret in secrets {
            assert!(!traced.all.contains(&secret), "{secret} is in the trace");
        }
    }
}

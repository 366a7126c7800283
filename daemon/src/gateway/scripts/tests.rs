//! What scripts say, with real processes.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use controlplane::Secret;

use super::*;

/// A directory with scripts, gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("minivpn-scripts-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("tmp")).unwrap();
        Place(path)
    }

    fn script(&self, name: &str, body: &str) -> Vec<String> {
        let path = self.0.join(name);
        // The place of the script's own files is $D.
        std::fs::write(&path, format!("#!/bin/sh\nD={}\n{body}\n", self.0.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        vec![path.to_str().unwrap().to_owned(), "a b".to_owned()]
    }

    fn setup(&self) -> ScriptSetup {
        ScriptSetup {
            security: 3,
            limit: Duration::from_secs(60),
            temporary: self.0.join("tmp"),
            gateway: GatewayFacts { device: "tun7".to_owned(), ..GatewayFacts::default() },
            ..ScriptSetup::default()
        }
    }

    fn verifier(&self, body: &str, via_env: bool) -> ScriptSetup {
        let command = self.script("verify", body);
        ScriptSetup { user_pass_verify: Some(UserPassScript { command, via_env }), ..self.setup() }
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }

    #[track_caller]
    fn is_tidy(&self) {
        let left: Vec<_> = std::fs::read_dir(self.0.join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn login() -> LoginFacts {
    LoginFacts {
        common_name: "alice".to_owned(),
        username: "us er;$(touch /tmp/never)".to_owned(),
        password: Secret(b"se\ncret '\"".to_vec()),
        remote: "192.0.2.7:1194".parse::<SocketAddr>().unwrap(),
        certificate: Some(CertificateFacts {
            chain: ["CN=alice", "CN=between", "CN=root"]
                .map(|subject| CertificateRow { subject: subject.to_owned(), ..CertificateRow::default() })
                .to_vec(),
        }),
        peer_info: vec![("IV_VER".to_owned(), "2.6.14".to_owned())],
        token: None,
        is_in: false,
    }
}

fn session() -> SessionFacts {
    SessionFacts {
        login: login(),
        since: 1_795_373_202,
        ipv4: Some(Inner4 { address: [10, 8, 0, 2].into(), beside: Beside4::Netmask([255, 255, 255, 0].into()) }),
        ipv6: None,
    }
}

fn scripts(setup: ScriptSetup) -> Scripts {
    Scripts::new(setup).unwrap().0
}

async fn verdict(place: &Place, body: &str) -> Verdict {
    let verdict = scripts(place.verifier(body, true)).verify_user_pass(&login(), |_| ()).await;
    place.is_tidy();
    verdict
}

#[track_caller]
fn refused(verdict: Verdict) -> (Option<String>, String) {
    match verdict {
        Verdict::Refuse { client, reason } => (client, reason),
        Verdict::Accept => panic!("accepted"),
    }
}

#[tokio::test]
async fn the_exit_status_accepts_or_refuses() {
    let place = Place::new();
    assert_eq!(verdict(&place, "exit 0").await, Verdict::Accept);
    for status in [1, 3, 126, 255] {
        let (client, reason) = refused(verdict(&place, &format!("exit {status}")).await);
        assert!(client.is_none() && reason.contains(&status.to_string()), "{reason}");
    }
    refused(verdict(&place, "kill -9 $$").await);
    let without = scripts(place.setup()).verify_user_pass(&login(), |_| ()).await;
    assert_eq!(without, Verdict::Accept, "no script asks for nothing");
}

#[tokio::test]
async fn name_and_password_come_in_the_environment() {
    let place = Place::new();
    let body = "printf '%s|%s|%s|%s|%s' \"$username\" \"$password\" \"$common_name\" \"$1\" \"$#\" > $D/seen; test -z \"$HOME\"";
    assert_eq!(verdict(&place, body).await, Verdict::Accept);
    assert_eq!(place.written("seen"), "us er;$(touch /tmp/never)|se_cret '\"|alice|a b|1");
    assert!(!Path::new("/tmp/never").exists());
}

#[tokio::test]
async fn the_password_is_in_the_environment_at_security_3_only() {
    let place = Place::new();
    let mut setup = place.verifier("test -z \"$password\" && test -n \"$username\"", true);
    setup.security = 2;
    let (scripts, warnings) = Scripts::new(setup).unwrap();
    assert_eq!(scripts.verify_user_pass(&login(), |_| ()).await, Verdict::Accept);
    assert!(warnings[0].contains("script-security 3"));
    refused(verdict(&place, "test -z \"$password\"").await);
}

#[tokio::test]
async fn name_and_password_come_in_a_private_file() {
    let place = Place::new();
    let body = "cat \"$2\" > $D/seen; stat -c %a \"$2\" > $D/mode; test -z \"$password\"";
    let mut setup = place.verifier(body, false);
    setup.security = 2;
    assert_eq!(scripts(setup).verify_user_pass(&login(), |_| ()).await, Verdict::Accept);
    assert_eq!(place.written("seen"), "us er;$(touch /tmp/never)\nse_cret '\"\n");
    assert_eq!(place.written("mode"), "600\n");
    place.is_tidy();
}

#[tokio::test]
async fn a_reason_reaches_the_client_short_and_printable() {
    let place = Place::new();
    let say = |text: &str| format!("printf '{text}' > $auth_failed_reason_file; exit 1");
    let client = refused(verdict(&place, &say("go away\\033[2J\\nsecond line\\n")).await).0;
    assert_eq!(client.as_deref(), Some("go away_[2J"));
    let long =
        refused(verdict(&place, "head -c 100000 /dev/zero | tr '\\0' x > $auth_failed_reason_file; exit 1").await);
    assert_eq!(long.0.map(|reason| reason.len()), Some(MAX_REASON));
    assert_eq!(refused(verdict(&place, &say("\\n")).await).0, None);
    assert_eq!(refused(verdict(&place, "rm $auth_failed_reason_file; exit 1").await).0, None);
    // A link to somebody else's file is not read out to a client.
    let link = "rm $auth_failed_reason_file; ln -s /etc/passwd $auth_failed_reason_file; exit 1";
    assert_eq!(refused(verdict(&place, link).await).0, None);
}

#[tokio::test]
async fn an_answer_may_come_later() {
    let place = Place::new();
    let later = |word: &str| {
        format!(
            "(sleep 0.3; echo 'too late for today' > $auth_failed_reason_file; echo {word} > $auth_control_file) & exit 2"
        )
    };
    assert_eq!(verdict(&place, &later("1")).await, Verdict::Accept);
    assert_eq!(refused(verdict(&place, &later("0")).await).0.as_deref(), Some("too late for today"));
    assert_eq!(
        verdict(&place, "echo x > $auth_control_file; (sleep 0.3; echo 1 > $auth_control_file) & exit 2").await,
        Verdict::Accept
    );
    // Only who defers is asked again.
    refused(verdict(&place, "echo 1 > $auth_control_file; exit 1").await);
}

#[tokio::test]
async fn who_does_not_answer_in_time_refuses() {
    let place = Place::new();
    for body in ["sleep 3600", "exit 2"] {
        let setup = ScriptSetup { limit: Duration::from_millis(400), ..place.verifier(body, true) };
        let (client, reason) = refused(scripts(setup).verify_user_pass(&login(), |_| ()).await);
        assert!(client.is_none() && reason.contains("too long"), "{reason}");
        place.is_tidy();
    }
}

/// What the script says of the time until its answer, and its verdict.
async fn deferred(place: &Place, wrote: &str, iv_sso: &str) -> (Vec<Deferral>, Verdict) {
    let body = format!("printf '{wrote}' > $auth_pending_file; printf 1 > $auth_control_file; exit 2");
    let mut login = login();
    login.peer_info.push(("IV_SSO".to_owned(), iv_sso.to_owned()));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let scripts = scripts(place.verifier(&body, true));
    let verdict = scripts.verify_user_pass(&login, |deferral| tell.send(deferral).unwrap()).await;
    place.is_tidy();
    (std::iter::from_fn(|| told.try_recv().ok()).collect(), verdict)
}

#[tokio::test]
async fn who_answers_later_says_when() {
    let place = Place::new();
    let (told, verdict) = deferred(&place, "", "").await;
    assert!(verdict == Verdict::Accept && told.len() == 1, "{told:?}");
    assert!(told[0].info.is_none() && (50..=60).contains(&told[0].seconds), "{told:?}");
    let wanted = vec![Deferral { seconds: 300, info: Some("OPEN_URL:https://example.com/?a=b".to_owned()) }];
    let (told, verdict) =
        deferred(&place, r"300\nopenurl\nOPEN_URL:https://example.com/?a=b\n", "webauth,openurl").await;
    assert_eq!((told, verdict), (wanted, Verdict::Accept));
    for (wrote, why) in [
        (r"300\nopenurl\nx\n", "does not know the method openurl"),
        (r"300\nwebauth\n", "three lines"),
        (r"0\nwebauth\nx\n", "a number to 3600"),
        (r"3601\nwebauth\nx\n", "a number to 3600"),
        (r"soon\nwebauth\nx\n", "a number to 3600"),
    ] {
        let (told, verdict) = deferred(&place, wrote, "webauth").await;
        assert!(told.is_empty(), "{wrote}: {told:?}");
        assert!(refused(verdict).1.contains(why), "{wrote}");
    }
}

#[tokio::test]
async fn a_login_storm_runs_a_few_scripts_at_once() {
    let place = Place::new();
    let body = "mkdir $D/run-$$; ls -d $D/run-* | wc -l >> $D/counts; sleep 0.2; rmdir $D/run-$$";
    let scripts = scripts(place.verifier(body, true));
    let all: Vec<_> = (0..3 * MAX_RUNNING)
        .map(|_| {
            let scripts = scripts.clone();
            tokio::spawn(async move { scripts.verify_user_pass(&login(), |_| ()).await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Verdict::Accept);
    }
    let counts = place.written("counts");
    assert_eq!(counts.lines().count(), 3 * MAX_RUNNING);
    assert!(counts.lines().all(|count| count.trim().parse::<usize>().unwrap() <= MAX_RUNNING), "{counts}");
    place.is_tidy();
}

#[tokio::test]
async fn those_who_want_in_do_not_keep_those_who_are_in_waiting() {
    let place = Place::new();
    let body =
        "echo x >> $D/begun; while [ ! -e $D/stop ]; do [ \"$common_name\" = resident ] && exit 0; sleep 0.05; done";
    let scripts = scripts(place.verifier(body, true));
    let storm: Vec<_> = (0..2 * MAX_RUNNING)
        .map(|_| {
            let scripts = scripts.clone();
            tokio::spawn(async move { scripts.verify_user_pass(&login(), |_| ()).await })
        })
        .collect();
    while place.written("begun").lines().count() < MAX_RUNNING {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let resident = LoginFacts { common_name: "resident".to_owned(), is_in: true, ..login() };
    assert_eq!(scripts.verify_user_pass(&resident, |_| ()).await, Verdict::Accept);
    assert_eq!(place.written("begun").lines().count(), MAX_RUNNING + 1, "the others wait still");
    std::fs::write(place.0.join("stop"), "").unwrap();
    for one in storm {
        assert_eq!(one.await.unwrap(), Verdict::Accept);
    }
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_leaves_no_file() {
    let place = Place::new();
    let scripts = scripts(place.verifier("touch $D/running; sleep 3600", false));
    let task = tokio::spawn(async move { scripts.verify_user_pass(&login(), |_| ()).await });
    while !place.0.join("running").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    place.is_tidy();
}

#[test]
fn what_may_not_or_cannot_be_run_is_an_error_at_the_start() {
    let place = Place::new();
    for security in [0, 1] {
        let setup = ScriptSetup { security, ..place.verifier("exit 0", true) };
        assert!(Scripts::new(setup).unwrap_err().contains("script-security 2"));
    }
    assert!(Scripts::new(ScriptSetup { security: 0, ..place.setup() }).is_ok(), "no script needs no permission");
    for command in [vec!["/no/such".to_owned()], vec!["/etc".to_owned()], vec![]] {
        let setup = ScriptSetup { client_connect: Some(command), ..place.setup() };
        assert!(Scripts::new(setup).unwrap_err().starts_with("client-connect"));
    }
}

#[tokio::test]
async fn certificates_are_shown_from_the_issuer_down() {
    let place = Place::new();
    let command = place.script(
        "tls",
        "echo \"$2 $3 $tls_id_2 $tls_id_1 $tls_id_0 $common_name\" >> $D/seen; test $2 != \"$(cat $D/bad)\"",
    );
    std::fs::write(place.0.join("bad"), "none").unwrap();
    let scripts = scripts(ScriptSetup { tls_verify: Some(command), ..place.setup() });
    assert_eq!(scripts.tls_verify(&login()).await, Ok(()));
    let expected =
        "2 CN=root CN=root   \n1 CN=between CN=root CN=between  \n0 CN=alice CN=root CN=between CN=alice alice\n";
    assert_eq!(place.written("seen"), expected);
    std::fs::write(place.0.join("bad"), "1").unwrap();
    assert!(scripts.tls_verify(&login()).await.unwrap_err().contains("depth 1"));
    assert_eq!(place.written("seen").lines().count(), 5, "the client's own is not looked at any more");
    let without = LoginFacts { certificate: None, ..login() };
    assert_eq!(scripts.tls_verify(&without).await, Ok(()));
}

#[tokio::test]
async fn client_connect_writes_directives() {
    let place = Place::new();
    let connect = async |body: &str| {
        let setup = ScriptSetup { client_connect: Some(place.script("connect", body)), ..place.setup() };
        let result = scripts(setup).client_connect(&session()).await;
        place.is_tidy();
        result.map(|directives| directives.text)
    };
    let write = "echo push \\\"route 10.0.0.0\\\" > $2; test $2 = $client_connect_config_file && test $ifconfig_pool_remote_ip = 10.8.0.2";
    assert_eq!(connect(write).await, Ok("push \"route 10.0.0.0\"\n".to_owned()));
    assert_eq!(connect("exit 0").await, Ok(String::new()));
    assert!(connect("echo disable > $2; exit 1").await.unwrap_err().contains("status 1"));
    let later = "echo 2 > $client_connect_deferred_file; (sleep 0.3; echo disable > $2; echo WORD > $client_connect_deferred_file) &";
    assert_eq!(connect(&later.replace("WORD", "1")).await, Ok("disable\n".to_owned()));
    assert!(connect(&later.replace("WORD", "0")).await.is_err());
    assert!(connect("echo 0 > $client_connect_deferred_file").await.is_err());
    assert!(connect("head -c 300000 /dev/zero > $2").await.unwrap_err().contains("bytes"));
    assert!(connect("printf '\\377' > $2").await.unwrap_err().contains("UTF-8"));
}

#[tokio::test]
async fn the_end_of_a_session_and_its_addresses_are_told() {
    let place = Place::new();
    let scripts =
        scripts(ScriptSetup {
            client_disconnect: Some(place.script(
                "gone",
                "echo \"$bytes_received $bytes_sent $time_duration $script_type\" > $D/gone.txt; exit 1",
            )),
            learn_address: Some(place.script("learn", "echo \"$# $2 $3 $4\" >> $D/learned; test \"$3\" != 10.8.0.9")),
            ..place.setup()
        });
    scripts.client_disconnect(&session(), Traffic { bytes_received: 1, bytes_sent: 2, seconds: 3 }).await;
    assert_eq!(place.written("gone.txt"), "1 2 3 client-disconnect\n");
    let address = |text: &str| (text.parse::<IpAddr>().unwrap(), None);
    let session = session();
    assert_eq!(scripts.learn_address(Learned::Add, address("10.8.0.2"), Some(&session)).await, Ok(()));
    let network = ("10.1.0.0".parse().unwrap(), Some(16));
    assert_eq!(scripts.learn_address(Learned::Update, network, Some(&session)).await, Ok(()));
    assert_eq!(scripts.learn_address(Learned::Delete, address("fd00::2"), None).await, Ok(()));
    assert!(scripts.learn_address(Learned::Add, address("10.8.0.9"), Some(&session)).await.is_err());
    let expected = "4 add 10.8.0.2 alice\n4 update 10.1.0.0/16 alice\n3 delete fd00::2 \n4 add 10.8.0.9 alice\n";
    assert_eq!(place.written("learned"), expected);
}

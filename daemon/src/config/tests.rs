//! Whole profiles: the table row by row, the shapes that providers hand out, and every problem with its place.

use std::io;
use std::path::Path;

use controlplane::{Cipher, Digest, PeerUsage, TlsVersion, VerifyName, Wrap};
use proptest::prelude::*;

use super::agreed::*;
use super::directives::{Disposition, Role, TABLE};
use super::problem::{Problem, Severity};
use super::tunnel::Silence;
use super::*;

pub(super) const CERT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
pub(super) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
pub(super) const CRL: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
/// Everything but TLS's own demands: a sample may follow.
const START: &str = "client\ndev tun\nremote vpn.example.com\nremote-cert-tls server\nauth-user-pass\nca ca.crt\n";

pub(super) fn static_key() -> String {
    let line = "00112233445566778899aabbccddeeff\n";
    format!("-----BEGIN OpenVPN Static key V1-----\n{}-----END OpenVPN Static key V1-----\n", line.repeat(16))
}

/// The files that profiles of these tests may name.
fn file(path: &str) -> Option<String> {
    Some(match path {
        "ca.crt" | "client.crt" | "./ca.crt" => CERT.to_owned(),
        "client.key" => KEY.to_owned(),
        "crl.pem" => CRL.to_owned(),
        "ta.key" => static_key(),
        "pass.txt" => "me\nhunter2\n".to_owned(),
        "user.txt" => "me\n".to_owned(),
        "included.conf" => "verb 3\n".to_owned(),
        _ => return None,
    })
}

fn load_text(text: &str) -> Result<(ClientProfile, Vec<String>), Vec<String>> {
    let open = |path: &Path| match path.to_str() {
        Some("p.ovpn") => Ok(text.as_bytes().to_vec()),
        Some(other) => file(other).map(String::into_bytes).ok_or(io::ErrorKind::NotFound.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    };
    let lines = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect::<Vec<_>>();
    load_with(Path::new("p.ovpn"), &open).map(|(profile, warnings)| (profile, lines(warnings))).map_err(lines)
}

/// A small profile with more lines.
pub(super) fn profile(more: &str) -> ClientProfile {
    load_text(&format!("{START}{more}")).unwrap_or_else(|problems| panic!("{problems:#?}")).0
}

/// The problems of a small profile with more lines.
fn problems(more: &str) -> Vec<String> {
    load_text(&format!("{START}{more}")).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

pub(super) fn block(name: &str, text: &str) -> String {
    format!("<{name}>\n{text}</{name}>\n")
}

#[test]
fn every_row_of_the_table_does_what_it_says() {
    for row in TABLE {
        for sample in row.samples {
            // What else a server's sample needs is a server's too.
            let sample = if row.role == Role::Server { sample.lines().next().unwrap() } else { sample };
            let found = problems(sample);
            let errors: Vec<_> = found.iter().filter(|line| line.contains(": error: ")).collect();
            let warned = found.iter().any(|line| line.contains(&format!("{} is ignored: ", row.name)));
            match row.does {
                _ if row.role == Role::Pushed => {
                    assert_eq!(errors.len(), 1, "{sample}: {found:#?}")
                }
                Disposition::Implemented => {
                    assert!(errors.is_empty() && !warned, "{sample}: {found:#?}")
                }
                Disposition::NoEffect(_) => assert!(found.is_empty(), "{sample}: {found:#?}"),
                Disposition::Ignored(_) => {
                    assert!(errors.is_empty() && warned, "{sample}: {found:#?}")
                }
                Disposition::Refused(why, _) => {
                    assert_eq!(errors.len(), 1, "{sample}: {found:#?}");
                    assert!(
                        errors[0].starts_with("p.ovpn:7: error: ") && errors[0].contains(why),
                        "{sample}: {found:#?}"
                    );
                }
            }
        }
    }
}

#[test]
fn every_row_refuses_too_many_arguments() {
    for row in TABLE
        .iter()
        .filter(|row| !matches!(row.does, Disposition::Refused(..)) && row.args.1 < 15 && row.name != "setenv")
    {
        let line = format!("{}{}", row.name, " 1".repeat(usize::from(row.args.1) + 1));
        let found = problems(&line);
        assert!(found.iter().any(|line| line.starts_with("p.ovpn:7: error: ")), "{line}: {found:#?}");
    }
}

#[test]
fn the_defaults_are_those_of_2_6() {
    let profile = profile("");
    let remote = &profile.remotes[0];
    assert_eq!((remote.host.as_str(), remote.port, remote.family), ("vpn.example.com", 1_194, Family::Any));
    assert_eq!((remote.connect_timeout, remote.explicit_exit_notify), (120, None));
    assert_eq!((remote.bind, remote.mtu_disc), (Bind::default(), None));
    assert_eq!((remote.mssfix(1_500), remote.mssfix(1_400)), (MssFix::Mtu(1_492), MssFix::Fixed(1_400)));
    assert_eq!(
        (profile.settings.tun_mtu, profile.settings.silence, profile.settings.ping),
        (1_500, Some(Silence::Restart(120)), None)
    );
    assert_eq!(profile.data_ciphers, [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]);
    assert_eq!((profile.auth, profile.wrap.clone(), profile.fallback_cipher), (Digest::Sha1, Wrap::None, None));
    assert_eq!((profile.tls.version_min, profile.tls.version_max), (TlsVersion::V1_2, TlsVersion::V1_3));
    assert_eq!(profile.replay_window, ReplayWindow { packets: 8_192, seconds: 15 });
    assert_eq!((profile.connect_retry_max, profile.auth_retry), (None, AuthRetry::None));
    assert_eq!(profile.credentials, CredentialSource::Prompt);
    let setup = profile.client_setup();
    assert_eq!((setup.tls_timeout, setup.hand_window, setup.tran_window, setup.reneg_sec), (2, 60, 3_600, 3_600));
    assert_eq!(
        (setup.max_packet_size, setup.tun_mtu, setup.pull, setup.options_cipher.as_str()),
        (1_250, 1_500, true, "")
    );
    assert_eq!(
        (setup.limits.soft_packet_id, setup.limits.soft_bytes, setup.limits.hard_aead),
        (0xFF00_0000, u64::MAX, 0xF_FFFF_FFFF)
    );
    assert_eq!(setup.limits.soft_aead, 51_539_607_549);
}

#[test]
fn what_is_written_arrives() {
    let profile = profile(
        "port 443\nproto udp6\nlport 1000\nlocal 192.0.2.1\nconnect-timeout 9\nconnect-retry-max 4\n\
         explicit-exit-notify 2\nmssfix 1300\nmtu-disc yes\ntun-mtu 1400\nmax-packet-size 1000\ndev tun7\ntxqueuelen 500\nremote-random\n\
         reneg-sec 10\nreneg-bytes 11\nreneg-pkts 12\nhand-window 13\ntran-window 14\ntls-timeout 15\nreplay-window 16 17\n\
         auth SHA512\nauth-nocache\nauth-retry interact\nuser nobody\ngroup nogroup\nmark 6\nbind-dev eth7\nsndbuf 8\nrcvbuf 9\n\
         tls-version-min 1.3\nverify-x509-name srv name\ntls-auth ta.key 1\nping-exit 30\nroute-noexec\nauth-user-pass pass.txt\n",
    );
    let remote = &profile.remotes[0];
    assert_eq!((remote.port, remote.family, remote.connect_timeout), (443, Family::V6, 9));
    assert_eq!(remote.bind, Bind { address: Some("192.0.2.1".parse().unwrap()), port: Some(1_000) });
    assert_eq!(
        (remote.explicit_exit_notify, remote.mssfix, remote.mtu_disc),
        (Some(2), Some(MssFix::Payload(1_300)), Some(MtuDiscovery::Yes))
    );
    assert_eq!((profile.connect_retry_max, profile.remote_random), (Some(4), true));
    assert_eq!((profile.device.name.as_deref(), profile.device.txqueuelen), (Some("tun7"), Some(500)));
    assert_eq!(profile.replay_window, ReplayWindow { packets: 16, seconds: 17 });
    assert_eq!((profile.auth_retry, profile.auth_nocache, profile.mark), (AuthRetry::Interact, true, Some(6)));
    assert_eq!((profile.user.as_deref(), profile.group.as_deref()), (Some("nobody"), Some("nogroup")));
    assert_eq!(
        (profile.bind_dev.as_deref(), profile.settings.sndbuf, profile.settings.rcvbuf),
        (Some("eth7"), Some(8), Some(9))
    );
    assert_eq!((profile.settings.silence, profile.settings.route_noexec), (Some(Silence::Exit(30)), true));
    assert!(
        matches!(&profile.credentials, CredentialSource::Given(given) if given.username == "me" && given.password.0 == b"hunter2")
    );
    let setup = profile.client_setup();
    assert_eq!((setup.reneg_sec, setup.limits.soft_bytes, setup.limits.soft_packets), (10, 11, 12));
    assert_eq!(
        (setup.hand_window, setup.tran_window, setup.tls_timeout, setup.max_packet_size, setup.tun_mtu),
        (13, 14, 15, 1_000, 1_400)
    );
    assert!(
        matches!(&setup.wrap, Wrap::TlsAuth { key, direction: Some(1), digest: Digest::Sha512 } if key.0.len() == 256)
    );
    assert_eq!((setup.tls.version_min, setup.tls.peer_usage), (TlsVersion::V1_3, Some(PeerUsage::Server)));
    assert_eq!(setup.tls.verify_name, Some(VerifyName::Name("srv".into())));
    assert_eq!((setup.tls.ca_pem.as_str(), setup.auth_nocache), (CERT, true));
}

#[test]
fn remotes_take_port_and_protocol_from_their_line_or_from_the_profile() {
    let text = START.replace(
        "remote vpn.example.com\n",
        "remote a\nremote b 53\nremote 2001:db8::1 80 udp6\nport 4000\nproto udp4\n",
    );
    let (profile, _) = load_text(&text).unwrap();
    let remotes: Vec<_> =
        profile.remotes.iter().map(|remote| (remote.host.as_str(), remote.port, remote.family)).collect();
    assert_eq!(remotes, [("a", 4_000, Family::V4), ("b", 53, Family::V4), ("2001:db8::1", 80, Family::V6)]);
}

#[test]
fn a_connection_starts_from_what_stands_before_it() {
    let text = START.replace(
        "remote vpn.example.com\n",
        "port 1000\n<connection>\nremote a\n</connection>\nport 2000\nconnect-timeout 5\n<connection>\nremote b\nmssfix 0\nexplicit-exit-notify\n</connection>\n",
    );
    let (profile, _) = load_text(&text).unwrap();
    let remotes: Vec<_> = profile
        .remotes
        .iter()
        .map(|remote| (remote.host.as_str(), remote.port, remote.connect_timeout, remote.mssfix))
        .collect();
    assert_eq!(remotes, [("a", 1_000, 120, None), ("b", 2_000, 5, Some(MssFix::Off))]);
    assert_eq!((profile.remotes[0].explicit_exit_notify, profile.remotes[1].explicit_exit_notify), (None, Some(1)));
}

#[test]
fn a_connection_has_one_remote_and_goes_before_those_outside() {
    for inside in ["", "remote a\nremote b\n"] {
        let found = problems(&block("connection", inside));
        assert!(found.iter().any(|line| line.starts_with("p.ovpn:7: error: <connection> has")), "{found:#?}");
    }
    let found = problems(&block("connection", "remote a\n"));
    assert_eq!(
        found,
        [
            "p.ovpn:3: warning: remote lines outside of <connection> are not used when there is one inside: put it into a <connection>"
        ]
    );
}

#[test]
fn what_has_no_effect_is_looked_at_inside_of_a_connection_too() {
    let lines = |more: &str| problems(&block("connection", &format!("remote a\n{more}\n")));
    assert_eq!(lines("connect-retry 5").len(), 1, "the remote outside, nothing else");
    let found = lines("connect-retry x\nfloat");
    assert_eq!(
        found[1..],
        [
            "p.ovpn:9: error: connect-retry: \"x\" is not a number of seconds from 1 to 86400",
            "p.ovpn:10: warning: float is ignored: the server is expected at the address that was connected to",
        ]
    );
}

#[test]
fn tcp_remotes_are_skipped_as_long_as_one_of_udp_remains() {
    let text =
        START.replace("remote vpn.example.com\n", "remote a 443 tcp\nremote b 1194 udp\nremote c 443 tcp6-client\n");
    let (profile, warnings) = load_text(&text).unwrap();
    assert_eq!(profile.remotes.len(), 1);
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].starts_with("p.ovpn:3: warning: remote \"a\" is skipped"));
    let found = problems("proto tcp\n");
    assert_eq!(found, ["p.ovpn:3: error: only UDP is supported in this version: use a UDP remote: `proto udp`"]);
}

#[test]
fn connections_may_have_their_own_wrap_if_it_is_the_same() {
    let own = |key: &str| format!("remote a\n{}", block("tls-crypt", key));
    let same = block("connection", &own(&static_key())).repeat(2);
    let (profile, _) = load_text(&format!("{START}{same}")).unwrap();
    assert!(matches!(profile.wrap, Wrap::TlsCrypt { .. }));
    let other = block("connection", &own(&static_key().replace("00", "11")));
    assert!(
        problems(&format!("{same}{other}")).iter().any(|line| line.contains("different tls-auth or tls-crypt keys"))
    );
    // A connection's tls-crypt replaces the profile's tls-auth.
    let (profile, _) = load_text(&format!("{START}tls-auth ta.key 1\n{same}")).unwrap();
    assert!(matches!(profile.wrap, Wrap::TlsCrypt { .. }));
}

/// Each: lines added to a good profile, and what must be found.
#[test]
fn problems_say_where_what_and_what_instead() {
    let table = [
        ("remot x", "p.ovpn:7: error: unknown directive \"remot\": did you mean \"remote\"?"),
        ("remote x 70000", "p.ovpn:7: error: remote: \"70000\" is not a port: write a number from 1 to 65535"),
        ("proto sctp", "p.ovpn:7: error: proto: unknown protocol \"sctp\": write udp, udp4 or udp6"),
        ("dev tap", "p.ovpn:7: error: dev: Ethernet (TAP) is not supported: write `dev tun`, on both ends"),
        ("cert client.crt", "p.ovpn:7: error: cert without key: add <key> with its private key"),
        ("key client.key", "p.ovpn:7: error: key without cert: add <cert> with its certificate"),
        ("ca nowhere.crt", "p.ovpn:7: error: ca: cannot read \"nowhere.crt\": entity not found"),
        (
            "ca ta.key",
            "p.ovpn:7: error: ca: no certificate in PEM in it, but an OpenVPN static key (tls-auth, tls-crypt): it starts with `-----BEGIN CERTIFICATE-----`",
        ),
        (
            "crl-verify ca.crt",
            "p.ovpn:7: error: crl-verify: no revocation list in PEM in it, but a certificate in PEM: it starts with `-----BEGIN X509 CRL-----`",
        ),
        (
            "tls-crypt ca.crt",
            "p.ovpn:7: error: tls-crypt: no OpenVPN static key in it: make one with `openvpn --genkey secret ta.key`",
        ),
        (
            "tls-auth ta.key\ntls-crypt ta.key",
            "p.ovpn:8: error: both tls-auth and tls-crypt: keep the one that the other end has",
        ),
        ("key-direction 1", "p.ovpn:7: warning: key-direction without tls-auth says nothing: remove it"),
        (
            "tls-auth ta.key\nkey-direction 2",
            "p.ovpn:8: error: key-direction: \"2\" is not a key direction: write 1 on a client (0 is the server's)",
        ),
        (
            "server 10.8.0.0 255.255.255.0",
            "p.ovpn:7: error: server: it belongs to a server's configuration: remove it, or serve this file with `minivpn gateway run --config FILE`",
        ),
        ("mode server", "p.ovpn:7: error: mode: it belongs to a server's configuration: remove it"),
        (
            "cipher AES-257-GCM",
            "p.ovpn:7: error: cipher: unknown cipher \"AES-257-GCM\": write for example AES-256-GCM",
        ),
        (
            "data-ciphers AES-256-CBC",
            "p.ovpn:7: error: data-ciphers: none of these ciphers is available: write `data-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305`",
        ),
        (
            "cipher AES-256-CBC",
            "p.ovpn:7: warning: AES-256-CBC is not available for servers that do not negotiate: only AEAD ciphers are supported: nothing to do if the server is OpenVPN 2.4 or newer",
        ),
        (
            "data-ciphers AES-128-GCM\ncipher AES-256-GCM",
            "p.ovpn:8: warning: cipher AES-256-GCM is not in data-ciphers and is not negotiated: add it: `data-ciphers AES-128-GCM:AES-256-GCM`",
        ),
        (
            "auth MD5",
            "p.ovpn:7: warning: auth: minivpn does not have this digest: nothing needs it: the data ciphers authenticate by themselves",
        ),
        (
            "auth MD5\ntls-auth ta.key",
            "p.ovpn:7: error: auth: minivpn does not have this digest: use SHA1, SHA256, SHA384 or SHA512, as on the other end",
        ),
        (
            "verify-x509-name srv",
            "p.ovpn:7: error: verify-x509-name: \"srv\" is no whole subject (C=…, O=…, CN=…): write `verify-x509-name srv name` if it is the common name",
        ),
        (
            "tls-version-min 1.3\ntls-version-max 1.2",
            "p.ovpn: error: tls-version-min is above tls-version-max: remove one of them",
        ),
        ("up /bin/x", "p.ovpn:7: warning: up is ignored: scripts are not run"),
        (
            "fragment 1300",
            "p.ovpn:7: error: fragment: fragmenting inside of the tunnel is not supported: remove it here and on the server, and use `mssfix`",
        ),
        (
            "ifconfig 10.8.0.2 10.8.0.1\ntopology subnet",
            "p.ovpn:7: error: topology subnet wants a netmask in ifconfig, and 10.8.0.1 is none: write `topology net30` (or `p2p`) if it is the peer's address",
        ),
        ("ca [inline]", ""),
        (
            "extra-certs [inline]\ncert client.crt\nkey client.key",
            "p.ovpn:7: error: extra-certs: it says [inline], and there is no block: add <extra-certs> … </extra-certs>",
        ),
        (
            "keepalive 10 15",
            "p.ovpn:7: error: keepalive: the second number of keepalive must be at least twice the first, and 15 is not: write `keepalive 10 60`",
        ),
        (
            "setenv opt keepalive 10 15",
            "p.ovpn:7: warning: keepalive: the second number of keepalive must be at least twice the first, and 15 is not: write `keepalive 10 60`",
        ),
        (
            "auth-user-pass nowhere.txt",
            "p.ovpn:7: error: auth-user-pass: cannot read \"nowhere.txt\": entity not found",
        ),
        (
            "comp-lzo no",
            "p.ovpn:7: error: comp-lzo: it puts a byte of compression framing before every packet (`comp-lzo no` does, too), which is not supported: remove the line; if the server has comp-lzo or compress as well, its operator must remove it there",
        ),
        (
            "compress lz4",
            "p.ovpn:7: error: compress: it puts a byte of compression framing before every packet (`comp-lzo no` does, too), which is not supported: remove the line; if the server has comp-lzo or compress as well, its operator must remove it there",
        ),
        ("float", "p.ovpn:7: warning: float is ignored: the server is expected at the address that was connected to"),
        (
            "log x.log",
            "p.ovpn:7: warning: log is ignored: logs go to standard error; use the service manager or redirect them",
        ),
        ("dev-node /dev/tun", "p.ovpn:7: warning: dev-node is ignored: only /dev/net/tun is used"),
        ("verb 16", "p.ovpn:7: error: verb: \"16\" is not a number from 0 to 15"),
        ("setenv opt mute x", "p.ovpn:7: warning: mute: \"x\" is not a number of messages from 0 to 4294967295"),
        ("peer-id 5", "p.ovpn:7: error: peer-id: only a server sends it: remove it"),
    ];
    for (more, expected) in table {
        let found = problems(more);
        match expected {
            "" => assert!(found.is_empty(), "{more}: {found:#?}"),
            expected => assert_eq!(found, [expected], "{more}"),
        }
    }
}

/// Each: a line left out of a good profile, and what must be found.
#[test]
fn what_is_missing_is_named() {
    let table = [
        ("client\n", "p.ovpn: error: it does not say that it is a client's: add a line `client`"),
        ("dev tun\n", "p.ovpn: error: no dev: add a line `dev tun`"),
        ("remote vpn.example.com\n", "p.ovpn: error: no remote: add a line `remote HOST PORT`"),
        (
            "ca ca.crt\n",
            "p.ovpn: error: nothing says which server to trust: add <ca> with the certificate authority, or peer-fingerprint",
        ),
        ("auth-user-pass\n", "p.ovpn: error: nothing says who we are: add <cert> and <key>, or `auth-user-pass`"),
        (
            "remote-cert-tls server\n",
            "p.ovpn: warning: any certificate of the authority passes as the server's, another client's too: add `remote-cert-tls server`",
        ),
    ];
    for (line, expected) in table {
        let found = load_text(&START.replace(line, "")).map_or_else(|problems| problems, |(_, warnings)| warnings);
        assert_eq!(found, [expected], "without {line}");
    }
}

#[test]
fn every_problem_is_reported_in_the_order_of_lines() {
    let found = load_text("client\nremot a\ndev tap\nverb \"3\nport x\n").unwrap_err();
    let places: Vec<_> = found.iter().map(|line| line.split([' ']).next().unwrap()).collect();
    assert_eq!(
        places,
        ["p.ovpn:2:", "p.ovpn:3:", "p.ovpn:4:", "p.ovpn:5:", "p.ovpn:", "p.ovpn:", "p.ovpn:", "p.ovpn:"]
    );
}

#[test]
fn an_unreadable_profile_is_one_problem() {
    let nothing = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::PermissionDenied.into()) };
    let found = lint_with(Path::new("p.ovpn"), &nothing);
    assert_eq!(found.len(), 1);
    let sentence = found[0].to_string();
    let advice = sentence.strip_prefix("p.ovpn: error: cannot read it: permission denied");
    assert!(found[0].severity == Severity::Error && advice.is_some(), "{sentence}");
    let denied = crate::exit::permitted(&io::ErrorKind::PermissionDenied.into());
    assert!(advice.is_some_and(|advice| advice.starts_with(denied)), "who is not root is told to be: {sentence}");
}

#[test]
fn a_file_that_is_no_profile_is_one_problem_that_says_what_it_is() {
    let key = |_: &Path| -> io::Result<Vec<u8>> { Ok(b"-----BEGIN PRIVATE KEY-----\nAA==\n".to_vec()) };
    let directory = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::IsADirectory.into()) };
    let program = |_: &Path| -> io::Result<Vec<u8>> { Ok(b"\x7fELF\x02\x01\x01\0".to_vec()) };
    let files: [(&dyn Files, &str); 3] =
        [(&key, "a private key in PEM"), (&directory, "a directory"), (&program, "a program")];
    for (files, like) in files {
        for (problems, wanted) in [
            (lint_with(Path::new("x"), files), "a client's profile: name the file that says `client`"),
            (load_server_with(Path::new("x"), files).unwrap_err(), "a server's configuration: name the file"),
        ] {
            assert_eq!(problems.len(), 1, "{problems:?}");
            let sentence = problems[0].to_string();
            assert!(sentence.starts_with(&format!("x: error: this is {like}, and not {wanted}")), "{sentence}");
        }
    }
}

#[test]
fn a_password_that_is_not_there_has_a_place() {
    let missing = |line: &str| {
        let text = format!("client\ndev tun\nremote vpn.example.com\nca ca.crt\n{line}");
        let (profile, _) = load_text(&text).unwrap();
        match profile.credentials {
            CredentialSource::PromptPassword { username, missing } => (username, missing.map(|at| at.to_string())),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(missing("auth-user-pass user.txt\n"), ("me".to_owned(), Some("user.txt:2".to_owned())));
    let block = "<auth-user-pass>\nme\n</auth-user-pass>\n";
    assert_eq!(missing(block), ("me".to_owned(), Some("p.ovpn:7".to_owned())));
}

#[test]
fn a_file_beside_the_profile_is_pointed_out() {
    let text = format!("{START}tls-crypt ta.key\n");
    let open = |path: &Path| match path.to_str() {
        Some("etc/p.ovpn") => Ok(text.clone().into_bytes()),
        Some("etc/ta.key") => Ok(static_key().into_bytes()),
        Some("ca.crt") => Ok(CERT.as_bytes().to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let found = lint_with(Path::new("etc/p.ovpn"), &open);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].instead.as_deref(),
        Some("it is beside the profile: start there, or add `cd etc` to the profile")
    );
    let with_cd = |path: &Path| match path.to_str() {
        Some("etc/p.ovpn") => Ok(text
            .replace("ca ca.crt", "<ca>\n-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n</ca>\ncd etc")
            .into_bytes()),
        Some("etc/ta.key") => Ok(static_key().into_bytes()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    assert!(load_with(Path::new("etc/p.ovpn"), &with_cd).is_ok());
}

#[test]
fn secrets_are_in_no_sentence_and_in_no_debug_output() {
    let text = format!(
        "{START}{}{}{}",
        block("auth-user-pass", "me\nhunter2\n"),
        block("tls-crypt", &static_key()),
        block("cert", CERT)
    );
    let loaded = load_text(&format!("{text}{}", block("key", &KEY.replace("AAAA", "hunter3")))).unwrap();
    let shown = format!("{loaded:?}");
    for secret in ["hunter2", "hunter3", "8899aabb", "136, 153, 170"] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let found = problems(&block("tls-crypt", &static_key().replace("ff\n", "hunter2\n"))).join("\n");
    assert!(
        found.contains("not a hexadecimal digit") && !found.contains("hunter2") && !found.contains("8899"),
        "{found}"
    );
}

#[test]
fn peer_variables_go_out_as_openvpn_sends_them() {
    let lines = "setenv UV_ID abc\nsetenv IV_GUI_VER x_1\nsetenv OTHER y\nsetenv UV_ID def\n";
    let uv = ("UV_ID".to_owned(), "def".to_owned());
    let gui = ("IV_GUI_VER".to_owned(), "x_1".to_owned());
    assert_eq!(profile(lines).client_setup().peer_info, std::slice::from_ref(&gui));
    assert_eq!(profile(&format!("{lines}push-peer-info\n")).client_setup().peer_info, [gui.clone(), uv.clone()]);
    assert_eq!(profile(&format!("{lines}setenv PUSH_PEER_INFO\n")).client_setup().peer_info, [gui, uv]);
    assert!(problems("setenv UV_$(x) y").iter().any(|line| line.contains("not the name of a variable")));
}

#[test]
fn the_chain_is_the_certificate_and_then_the_extra_ones() {
    let extra = CERT.replace("AAAA", "BBBB");
    let text = format!("{START}{}{}{}", block("extra-certs", &extra), block("cert", CERT), block("key", KEY));
    assert_eq!(load_text(&text).unwrap().0.tls.cert_pem, format!("{CERT}{extra}"));
}

#[test]
fn fingerprints_replace_the_authority() {
    let one = ["0a"; 32].join(":");
    let text = START.replace("ca ca.crt\n", "").replace("remote-cert-tls server\n", "");
    let (profile, warnings) =
        load_text(&format!("{text}{}peer-fingerprint {one}\n", block("peer-fingerprint", &format!("{one}\n"))))
            .unwrap();
    assert_eq!((profile.tls.fingerprints, warnings), (vec![[10; 32]; 2], vec![]));
}

#[test]
fn binding_follows_nobind_lport_and_bind() {
    for (lines, port) in [
        ("", None),
        ("nobind\nlport 5\n", None),
        ("lport 5\n", Some(5)),
        ("lport 0\n", None),
        ("bind\n", Some(1_194)),
        ("port 7\nbind\n", Some(7)),
        ("port 7\n", None),
    ] {
        assert_eq!(profile(lines).remotes[0].bind.port, port, "{lines}");
    }
}

#[test]
fn compression_is_refused_unless_it_does_nothing() {
    for line in
        ["comp-lzo", "comp-lzo no", "comp-lzo yes", "compress", "compress lz4", "compress lz4-v2", "compress stub"]
    {
        assert!(load_text(&format!("{START}{line}\n")).is_err(), "{line}");
    }
    for line in ["compress stub-v2", "compress migrate", "allow-compression no", "allow-compression asym"] {
        assert!(load_text(&format!("{START}{line}\n")).is_ok(), "{line}");
    }
}

#[test]
fn a_bare_comp_lzo_is_a_sentence_with_its_line() {
    for line in ["comp-lzo", "\tcomp-lzo\t", "comp-lzo # the rest is a comment"] {
        let found = problems(line);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].starts_with("p.ovpn:7: error: comp-lzo: "), "{found:#?}");
        assert!(found[0].contains("remove the line"), "{found:#?}");
    }
}

#[test]
fn a_profile_without_cipher_offers_the_usual_ones_and_announces_none() {
    let without = profile("");
    assert_eq!(without.data_ciphers, [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]);
    assert_eq!((without.fallback_cipher, without.client_setup().options_cipher.as_str()), (None, ""));
    let with = profile("cipher AES-128-GCM\n");
    assert_eq!(with.data_ciphers, without.data_ciphers);
    assert_eq!(with.client_setup().options_cipher, "AES-128-GCM", "and with one it is announced");
}

#[test]
fn a_remote_has_one_two_or_three_arguments_between_tabs_and_quotes() {
    for (line, expected) in [
        ("remote a", ("a", 1_194, Family::Any)),
        ("remote a 443", ("a", 443, Family::Any)),
        ("remote a 443 udp", ("a", 443, Family::Any)),
        ("remote a 443 udp4", ("a", 443, Family::V4)),
        ("remote\ta\t443\tudp6", ("a", 443, Family::V6)),
        (" \tremote  \"a\" '443'\t\"udp4\" \t", ("a", 443, Family::V4)),
        ("\"remote\" a 443 udp4 # and so on", ("a", 443, Family::V4)),
    ] {
        let text = START.replace("remote vpn.example.com", line);
        let (profile, warnings) = load_text(&text).unwrap_or_else(|problems| panic!("{line}: {problems:#?}"));
        let remote = &profile.remotes[0];
        assert_eq!((remote.host.as_str(), remote.port, remote.family), expected, "{line}");
        assert_eq!((profile.remotes.len(), warnings.len()), (1, 0), "{line}");
    }
    let text = START.replace("remote vpn.example.com", "remote a 443 udp4 more");
    let found = load_text(&text).unwrap_err();
    assert!(found.iter().any(|line| line.starts_with("p.ovpn:3: error: remote takes 1 to 3 arguments")), "{found:#?}");
    let quoted = profile("auth-user-pass\t\"pass.txt\"\n");
    assert!(matches!(&quoted.credentials, CredentialSource::Given(given) if given.username == "me"));
}

/// The shapes in which providers and scripts hand out profiles.
mod shapes {
    use super::*;

    fn loads(text: &str) -> (ClientProfile, Vec<String>) {
        // The same text with DOS line ends is the same profile.
        let (dos, _) = load_text(&text.replace('\n', "\r\n")).unwrap_or_else(|problems| panic!("{problems:#?}"));
        let (unix, warnings) = load_text(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!(
            (&dos.remotes, dos.settings.clone(), &dos.data_ciphers),
            (&unix.remotes, unix.settings.clone(), &unix.data_ciphers)
        );
        (unix, warnings)
    }

    fn identity() -> String {
        format!(
            "{}{}{}",
            block("ca", CERT),
            block("cert", &format!("Certificate:\n    Data: \"x\n{CERT}")),
            block("key", KEY)
        )
    }

    #[test]
    fn of_an_installer_script() {
        let (profile, warnings) = loads(&format!(
            "client\nproto udp\nexplicit-exit-notify\nremote 203.0.113.5 1194\ndev tun\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\n\
             remote-cert-tls server\nverify-x509-name server_abc123 name\nauth SHA256\nauth-nocache\ncipher AES-128-GCM\ntls-client\n\
             tls-version-min 1.2\ntls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256\nignore-unknown-option block-outside-dns\n\
             setenv opt block-outside-dns # Prevent Windows 10 DNS leak\nverb 3\n{}{}",
            identity(),
            block("tls-crypt", &format!("#\n# 2048 bit OpenVPN static key\n#\n{}", static_key())),
        ));
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].contains("tls-cipher is ignored"));
        assert_eq!(
            (profile.fallback_cipher, profile.options_cipher.as_str()),
            (Some(Cipher::Aes128Gcm), "AES-128-GCM")
        );
        assert_eq!(profile.remotes[0].explicit_exit_notify, Some(1));
        assert_eq!(profile.credentials, CredentialSource::None);
    }

    #[test]
    fn of_a_provider_with_tls_auth_and_a_password() {
        let (profile, warnings) = loads(&format!(
            "client\ndev tun\nproto udp\nremote de-fra.example.com 1194\nremote-random\nresolv-retry infinite\nnobind\ntun-mtu 1500\ntun-mtu-extra 32\n\
             mssfix 1450\npersist-key\npersist-tun\nping 15\nping-restart 0\nping-timer-rem\nreneg-sec 0\n\nremote-cert-tls server\n\n\
             auth-user-pass\n\n#comp-lzo\nverb 3\npull\nfast-io\ncipher AES-256-CBC\n\nauth SHA512\n\n{}key-direction 1\n{}",
            block("ca", CERT),
            block("tls-auth", &static_key()),
        ));
        assert_eq!(warnings.len(), 1, "{warnings:#?}");
        assert!(warnings[0].contains("AES-256-CBC is not available"));
        assert!(matches!(profile.wrap, Wrap::TlsAuth { direction: Some(1), digest: Digest::Sha512, .. }));
        assert_eq!((profile.settings.ping, profile.settings.silence), (Some(15), None));
        assert_eq!((profile.timers.reneg_sec, profile.remotes[0].mssfix), (0, Some(MssFix::Payload(1_450))));
        assert_eq!((profile.options_cipher.as_str(), profile.fallback_cipher), ("AES-256-CBC", None));
    }

    #[test]
    fn of_a_provider_with_many_remotes() {
        let remotes: String =
            (0..30).map(|n| format!("remote 198.51.100.{n} {}\n", [80, 443, 1194, 4569, 5060][n % 5])).collect();
        let (profile, warnings) = loads(&format!(
            "client\ndev tun\nproto udp\n\n{remotes}server-poll-timeout 20\n\nremote-random\nresolv-retry infinite\nnobind\n\ncipher AES-256-GCM\n\n\
             setenv CLIENT_CERT 0\ntun-mtu 1500\nmssfix 0\npersist-key\npersist-tun\n\nreneg-sec 0\n\nremote-cert-tls server\nauth-user-pass\n\n\
             script-security 2\nup /etc/openvpn/update-resolv-conf\ndown /etc/openvpn/update-resolv-conf\n\n{}{}",
            block("ca", CERT),
            block("tls-crypt", &static_key()),
        ));
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert_eq!(
            (profile.remotes.len(), profile.remotes[29].port, profile.remotes[3].connect_timeout),
            (30, 5_060, 20)
        );
        assert_eq!((profile.remotes[0].mssfix(1_500), profile.fallback_cipher), (MssFix::Off, Some(Cipher::Aes256Gcm)));
    }

    #[test]
    fn of_a_provider_with_new_and_old_cipher_lists() {
        let (profile, warnings) = loads(&format!(
            "# --- x ---\nclient\ndev tun\nremote nl3.example.org 443\nresolv-retry infinite\nnobind\npersist-key\npersist-tun\nauth-nocache\n\
             verb 3\nexplicit-exit-notify 5\npush-peer-info\nsetenv UV_IPV6 yes\nremote-cert-tls server\n\
             data-ciphers AES-256-GCM:AES-256-CBC:AES-192-GCM:AES-128-GCM:CHACHA20-POLY1305\ndata-ciphers-fallback AES-256-CBC\nproto udp\nauth SHA512\n{}{}",
            identity(),
            block("tls-crypt", &static_key()),
        ));
        let left_out = if cfg!(any(feature = "aws-lc", not(feature = "ring"))) { 0 } else { 1 };
        assert_eq!(warnings.len(), 2 + left_out, "{warnings:#?}");
        assert_eq!(profile.data_ciphers.len(), 4 - left_out);
        assert_eq!(profile.client_setup().peer_info, [("UV_IPV6".to_owned(), "yes".to_owned())]);
    }

    #[test]
    fn of_a_firewall_export() {
        let (profile, warnings) = loads(&format!(
            "dev tun\npersist-tun\npersist-key\ndata-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\ndata-ciphers-fallback AES-256-GCM\nauth SHA256\n\
             tls-client\nclient\nresolv-retry infinite\nremote fw.example.net 1194 udp4\nlport 0\nverify-x509-name \"vpn server\" name\nauth-user-pass\n\
             remote-cert-tls server\nexplicit-exit-notify\n\n{}key-direction 1\n{}",
            identity(),
            block("tls-auth", &static_key()),
        ));
        assert!(warnings.is_empty(), "{warnings:#?}");
        assert_eq!(profile.tls.verify_name, Some(VerifyName::Name("vpn server".into())));
        assert_eq!((profile.remotes[0].family, profile.remotes[0].bind), (Family::V4, Bind::default()));
    }

    #[test]
    fn of_an_access_server() {
        let (profile, warnings) = loads(&format!(
            "# OVPN_ACCESS_SERVER_PROFILE=user@192.0.2.1/AUTOLOGIN\n# OVPN_ACCESS_SERVER_CLI_PREF_ALLOW_WEB_IMPORT=True\n\
             setenv FORWARD_COMPATIBLE 1\nclient\nserver-poll-timeout 4\nnobind\nremote 192.0.2.1 1194 udp\nremote 192.0.2.1 1194 udp\n\
             remote 192.0.2.1 443 tcp\nremote 192.0.2.1 1194 udp\ndev tun\ndev-type tun\nremote-cert-tls server\ntls-version-min 1.2 or-highest\n\
             reneg-sec 604800\nsndbuf 0\nrcvbuf 0\nauth-user-pass\n# NOTE: LZO commands are pushed by the Access Server at connect time.\n\
             verb 3\nsetenv PUSH_PEER_INFO\nsome-new-thing 1\n{}key-direction 1\n{}## -----BEGIN RSA SIGNATURE-----\n## DIGEST:sha256\n",
            identity(),
            block("tls-auth", &static_key()),
        ));
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(
            warnings.iter().any(|line| line.contains("is skipped"))
                && warnings.iter().any(|line| line.contains("some-new-thing"))
        );
        assert_eq!((profile.remotes.len(), profile.timers.reneg_sec, profile.push_peer_info), (3, 604_800, true));
        assert_eq!(profile.settings.sndbuf, None);
    }
}

proptest! {
    #[test]
    fn no_text_makes_load_panic(text in "(?s).{0,300}") {
        let _ = load_text(&text);
    }

    #[test]
    fn no_words_after_a_known_name_make_load_panic(lines in proptest::collection::vec(
        (0..TABLE.len(), "( (1|0|-1|65536|4294967296|tun|a:b|udp|tcp|\"|10\\.0\\.0\\.0|::1|fd00::/129|\\[inline\\]|p\\.ovpn|ta\\.key|[ -~]{1,8})){0,5}", any::<bool>()), 0..12)) {
        let line = |(row, words, block): &(usize, String, bool)| match (block, TABLE[*row].name) {
            (true, name) => format!("<{name}>\n{words}\n</{name}>\n"),
            (false, name) => format!("{name}{words}\n"),
        };
        let text: String = lines.iter().map(line).collect();
        if let Ok((profile, _)) = load_text(&format!("{START}{text}")) {
            prop_assert!(!profile.remotes.is_empty() && !profile.data_ciphers.is_empty());
            let _ = profile.client_setup();
        }
    }
}

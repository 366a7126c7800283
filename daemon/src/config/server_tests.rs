//! Whole configurations of servers: the table row by row, and what is written arrives. `problems.rs`: every problem with its place;
//! `shapes.rs`: the shapes that scripts and manuals hand out; `one_client.rs`: the files of single clients.

use std::io;
use std::path::{Path, PathBuf};

use controlplane::{Cipher, Digest, PeerUsage, Wrap};
use proptest::prelude::*;

use super::agreed::{Family, MssFix, ReplayWindow};
use super::client_dir::{self, ClientConfig};
use super::directives::{Disposition, Role, Side, TABLE};
use super::problem::Problem;
use super::server::*;
use super::tests::{CERT, CRL, KEY, block, static_key};
use super::tunnel::Topology;
use super::*;

mod one_client;
mod problems;
mod shapes;

/// A server with nothing to be said about.
const START: &str =
    "server 10.8.0.0 255.255.255.0\ndev tun\nca ca.crt\ncert server.crt\nkey server.key\nkeepalive 10 60\n";
/// The same without helpers: for what `server` would replace.
const BARE: &str = "mode server\ntls-server\nifconfig 10.9.0.1 10.9.0.2\nifconfig-ipv6 fd00::1/64 fd00::2\ndev tun\nca ca.crt\ncert server.crt\nkey server.key\nkeepalive 10 60\n";

fn token_key() -> String {
    let body = "AAAA".repeat(43);
    format!("-----BEGIN OpenVPN auth-token server key-----\n{body}\n-----END OpenVPN auth-token server key-----\n")
}

/// The files that configurations of these tests may name.
fn file(path: &str) -> Option<String> {
    Some(match path {
        "ca.crt" | "server.crt" | "client.crt" | "etc/ca.crt" | "etc/server.crt" | "./ca.crt" | "./server.crt" => {
            CERT.to_owned()
        }
        "server.key" | "client.key" | "etc/server.key" | "./server.key" => KEY.to_owned(),
        "crl.pem" | "etc/crl.pem" => CRL.to_owned(),
        "ta.key" | "tc.key" => static_key(),
        "token.key" => token_key(),
        "included.conf" => "verb 3\n".to_owned(),
        _ => return None,
    })
}

fn open(text: &str) -> impl Fn(&Path) -> io::Result<Vec<u8>> {
    let text = text.to_owned();
    move |path: &Path| match path.to_str() {
        Some("s.conf") => Ok(text.clone().into_bytes()),
        Some(other) => file(other).map(String::into_bytes).ok_or(io::ErrorKind::NotFound.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn load_text(text: &str) -> Result<(ServerProfile, Vec<String>), Vec<String>> {
    let lines = |problems: Vec<Problem>| problems.iter().map(Problem::to_string).collect::<Vec<_>>();
    load_server_with(Path::new("s.conf"), &open(text))
        .map(|(profile, warnings)| (profile, lines(warnings)))
        .map_err(lines)
}

/// What a text comes to, without any problem.
fn clean(text: &str) -> ServerProfile {
    let (profile, warnings) = load_text(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    assert!(warnings.is_empty(), "{warnings:#?}");
    profile
}

/// A small server with more lines.
fn server(more: &str) -> ServerProfile {
    load_text(&format!("{START}{more}")).unwrap_or_else(|problems| panic!("{problems:#?}")).0
}

/// The problems of a text.
fn found(text: &str) -> Vec<String> {
    load_text(text).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

/// The problems of a small server with more lines.
fn problems(more: &str) -> Vec<String> {
    found(&format!("{START}{more}"))
}

/// Samples that are right in a client's profile, and not in a server's.
const CLIENTS_ONLY: [&str; 2] = ["mode p2p", "lport 0"];

#[test]
fn every_row_of_the_table_does_what_it_says() {
    for row in TABLE.iter().filter(|row| row.role != Role::Pushed) {
        for sample in row.samples.iter().filter(|sample| !CLIENTS_ONLY.contains(sample)) {
            let bare = ["ifconfig", "server", "mode", "topology"].iter().any(|name| row.name.starts_with(name));
            let ready = if row.name == "topology" {
                START
            } else if bare {
                BARE
            } else {
                START
            };
            let found = found(&format!("{ready}{sample}\n"));
            let errors: Vec<_> = found.iter().filter(|line| line.contains(": error: ")).collect();
            let warned = found.iter().any(|line| line.contains(&format!("{} is ignored: ", row.name)));
            match row.serves {
                Disposition::Implemented => assert!(errors.is_empty() && !warned, "{sample}: {found:#?}"),
                Disposition::NoEffect(_) => assert!(found.is_empty(), "{sample}: {found:#?}"),
                Disposition::Ignored(_) => assert!(errors.is_empty() && warned, "{sample}: {found:#?}"),
                Disposition::Refused(why, _) => {
                    assert_eq!(errors.len(), 1, "{sample}: {found:#?}");
                    let line = ready.lines().count() + 1;
                    let place = format!("s.conf:{line}: error: ");
                    assert!(errors[0].starts_with(&place) && errors[0].contains(why), "{sample}: {found:#?}");
                }
            }
        }
    }
}

#[test]
fn every_row_refuses_too_many_arguments() {
    let takes = |row: &&directives::Row| !matches!(row.serves, Disposition::Refused(..)) && row.role != Role::Pushed;
    for row in TABLE.iter().filter(takes).filter(|row| row.args.1 < 15 && row.name != "setenv") {
        let line = format!("{}{}", row.name, " 1".repeat(usize::from(row.args.1) + 1));
        let found = problems(&line);
        assert!(found.iter().any(|line| line.starts_with("s.conf:7: error: ")), "{line}: {found:#?}");
    }
}

#[test]
fn every_row_says_what_it_is_in_the_file_of_one_client() {
    for row in TABLE.iter().filter(|row| row.role != Role::Pushed && row.name != "config") {
        for sample in row.samples.iter().map(|sample| sample.lines().next().unwrap()) {
            if sample.starts_with('<') || sample.starts_with("setenv opt") {
                continue;
            }
            let found = client_dir::parse(sample, "alice");
            match row.alone {
                Disposition::Implemented | Disposition::NoEffect(_) => {
                    assert!(found.unwrap().warnings.is_empty(), "{sample}");
                }
                Disposition::Ignored(why) => {
                    let warnings = found.unwrap().warnings;
                    assert!(warnings.len() == 1 && warnings[0].what.contains(why), "{sample}: {warnings:#?}");
                }
                Disposition::Refused(why, _) => {
                    let problems = found.unwrap_err();
                    assert!(problems.len() == 1 && problems[0].what.contains(why), "{sample}: {problems:#?}");
                }
            }
        }
    }
}

#[test]
fn the_defaults_are_those_of_2_6() {
    let profile = clean(START);
    assert_eq!(
        profile.listen,
        Listen { address: None, port: 1_194, family: Family::Any, ipv6_only: false, multihome: false }
    );
    assert_eq!(profile.listen.socket_address(), "0.0.0.0:1194".parse().unwrap());
    assert_eq!((profile.topology, profile.ipv6, profile.device.name.as_deref()), (Topology::Net30, None, None));
    assert_eq!((profile.client_certificate, profile.max_clients), (ClientCertificate::Require, 1_024));
    assert_eq!((profile.keepalive, profile.connect_freq_initial), (Some((10, 120)), (100, 10)));
    assert_eq!((profile.tun_mtu, profile.mssfix, profile.max_packet_size), (1_500, MssFix::Mtu(1_492), 1_250));
    assert_eq!(profile.data_ciphers, [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]);
    assert_eq!((profile.auth, profile.wrap.clone(), profile.fallback_cipher), (Digest::Sha1, Wrap::None, None));
    assert_eq!(profile.replay_window, ReplayWindow { packets: 8_192, seconds: 15 });
    assert_eq!((profile.script_security, profile.tmp_dir.as_path()), (1, Path::new("/tmp")));
    assert_eq!(
        (profile.explicit_exit_notify, profile.status.clone(), profile.pool_persist.clone()),
        (None, None, None)
    );
    for off in [
        profile.client_to_client,
        profile.duplicate_cn,
        profile.ccd_exclusive,
        profile.username_as_common_name,
        profile.user_pass_optional,
        profile.float,
        profile.ifconfig_noexec,
        profile.route_noexec,
    ] {
        assert!(!off);
    }
    let setup = profile.server_setup(controlplane::Secret(vec![7; 32]), 3);
    assert_eq!((setup.tls_timeout, setup.hand_window, setup.tran_window, setup.reneg_sec), (2, 60, 3_600, 3_600));
    assert_eq!((setup.workers, setup.max_clients, setup.replies.count, setup.replies.seconds), (3, 1_024, 100, 10));
    assert_eq!((setup.cookie_secret.0.len(), setup.tls.ca_pem.as_str(), setup.tls.cert_pem.as_str()), (32, CERT, CERT));
}

#[test]
fn what_is_written_arrives() {
    let profile = server(
        "cd etc\nport 443\nproto udp6\nbind ipv6only\nlocal 2001:db8::1\nmultihome\ndev tun7\ntxqueuelen 500\ntopology subnet\n\
         server-ipv6 fd00::/64\nifconfig-pool-persist ipp.txt 60\nroute 10.20.0.0 255.255.0.0\nroute-ipv6 fd20::/48\nroute-metric 7\n\
         tls-crypt [inline]\nverify-client-cert optional\nusername-as-common-name\nauth-user-pass-verify \"/bin/v 'a b'\" via-env\n\
         auth-user-pass-optional\nauth-gen-token 3600 600 external-auth\ntls-verify /bin/t\nclient-connect /bin/c\n\
         client-disconnect \"/bin/d x\"\nlearn-address /bin/l\nscript-security 3\nsetenv A b\nsetenv A c\nsetenv-safe N v\ntmp-dir tmp\n\
         client-config-dir ccd\nccd-exclusive\nclient-to-client\nduplicate-cn\nmax-clients 16777215\nfloat\nconnect-freq-initial 5 6\n\
         explicit-exit-notify 2\ndata-ciphers AES-128-GCM\ncipher AES-128-GCM\nauth SHA512\nreneg-sec 10\nhand-window 13\nreplay-window 16 17\n\
         tun-mtu 1400\nmssfix 1300\nmax-packet-size 1000\nsndbuf 8\nrcvbuf 9\nstatus status.log 11\nstatus-version 3\nuser nobody\n\
         group nogroup\nmark 6\nbind-dev eth7\ncrl-verify crl.pem\nremote-cert-tls client\nifconfig-noexec\nroute-noexec\n\
         <tls-crypt>\nKEY</tls-crypt>\n"
            .replace("KEY", &static_key())
            .as_str(),
    );
    let under = |name: &str| Some(PathBuf::from("etc").join(name));
    assert_eq!((profile.listen.port, profile.listen.family, profile.listen.multihome), (443, Family::V6, true));
    assert_eq!(profile.listen.socket_address(), "[2001:db8::1]:443".parse().unwrap());
    assert!(profile.listen.ipv6_only);
    assert_eq!((profile.device.name.as_deref(), profile.device.txqueuelen), (Some("tun7"), Some(500)));
    assert_eq!(profile.pool_persist, under("ipp.txt").map(|path| (path, 60)));
    let route = |network: &str, prefix| KernelRoute { network: network.parse().unwrap(), prefix, metric: Some(7) };
    assert_eq!(profile.routes, [route("10.20.0.0", 16), route("fd20::", 48)]);
    assert!(matches!(&profile.wrap, Wrap::TlsCrypt { key } if key.0.len() == 256));
    assert_eq!(profile.client_certificate, ClientCertificate::Optional);
    let command = vec!["/bin/v".to_owned(), "a b".to_owned()];
    assert_eq!(profile.user_pass_verify, Some(UserPassVerify { command, via_env: true }));
    let token = AuthGenToken { lifetime: 3_600, renewal: Some(600), external_auth: true, secret: None };
    assert_eq!(profile.auth_gen_token, Some(token));
    let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    assert_eq!((profile.tls_verify.clone(), profile.client_connect.clone()), (words(&["/bin/t"]), words(&["/bin/c"])));
    assert_eq!(
        (profile.client_disconnect.clone(), profile.learn_address.clone()),
        (words(&["/bin/d", "x"]), words(&["/bin/l"]))
    );
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(profile.setenv, [pair("A", "c"), pair("OPENVPN_N", "v")]);
    assert_eq!((profile.script_security, Some(profile.tmp_dir.clone())), (3, under("tmp")));
    assert_eq!((profile.client_config_dir.clone(), profile.directory.as_path()), (under("ccd"), Path::new("etc")));
    for on in [
        profile.username_as_common_name,
        profile.user_pass_optional,
        profile.ccd_exclusive,
        profile.client_to_client,
        profile.duplicate_cn,
        profile.float,
        profile.ifconfig_noexec,
        profile.route_noexec,
    ] {
        assert!(on);
    }
    assert_eq!((profile.max_clients, profile.connect_freq_initial), (MAX_CLIENTS, (5, 6)));
    assert_eq!((profile.explicit_exit_notify, profile.fallback_cipher), (Some(2), Some(Cipher::Aes128Gcm)));
    assert_eq!((profile.auth, profile.tun_mtu, profile.mssfix), (Digest::Sha512, 1_400, MssFix::Payload(1_300)));
    assert_eq!((profile.sndbuf, profile.rcvbuf, profile.max_packet_size), (Some(8), Some(9), 1_000));
    assert_eq!(profile.status, under("status.log").map(|path| StatusFile { path, every_s: 11, version: 3 }));
    assert_eq!((profile.user.as_deref(), profile.group.as_deref()), (Some("nobody"), Some("nogroup")));
    assert_eq!((profile.mark, profile.bind_dev.as_deref()), (Some(6), Some("eth7")));
    assert_eq!((profile.tls.peer_usage, profile.tls.crl_pem.as_deref()), (Some(PeerUsage::Client), Some(CRL)));
    assert_eq!((profile.timers.reneg_sec, profile.timers.hand_window), (10, 13));
    let files: Vec<_> = profile.files.all().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(files, ["s.conf", "etc/ca.crt", "etc/server.crt", "etc/server.key", "etc/crl.pem"]);
    let setup = profile.server_setup(controlplane::Secret(vec![7; 32]), 1);
    assert_eq!(
        (setup.client_certificate, setup.replies.count, setup.max_clients),
        (ClientCertificate::Optional, 5, MAX_CLIENTS)
    );
}

#[test]
fn a_key_for_tokens_and_a_wrap_are_read_from_their_files() {
    let profile = server(
        "auth-gen-token\nauth-gen-token-secret token.key\nauth-user-pass-verify x via-file\nscript-security 2\ntls-auth ta.key 0\n",
    );
    let token = profile.auth_gen_token.unwrap();
    assert_eq!((token.lifetime, token.renewal, token.external_auth), (0, None, false));
    assert_eq!(token.secret.unwrap().0, [0; 128]);
    assert!(matches!(profile.wrap, Wrap::TlsAuth { direction: Some(0), digest: Digest::Sha1, .. }));
    assert_eq!(profile.files.wrap.as_deref(), Some(Path::new("ta.key")));
    assert_eq!(profile.files.auth_gen_token_secret.as_deref(), Some(Path::new("token.key")));
}

/// Each: a configuration without helpers, and its pool.
#[test]
fn a_pool_may_be_written_without_helpers() {
    let pool = |lines: &str| {
        let text = BARE.replace("ifconfig 10.9.0.1 10.9.0.2\n", lines);
        load_text(&text).unwrap_or_else(|problems| panic!("{lines}: {problems:#?}")).0.ipv4
    };
    let table = [
        (
            "ifconfig 10.9.0.1 255.255.255.0\ntopology subnet\nifconfig-pool 10.9.0.10 10.9.0.20\n",
            ("10.9.0.0", 24, "255.255.255.0", None, "10.9.0.10", "10.9.0.20", true),
        ),
        (
            "ifconfig 10.9.0.1 255.255.255.0\ntopology subnet\nifconfig-pool 10.9.0.10 10.9.0.20 255.255.0.0\n",
            ("10.9.0.0", 24, "255.255.0.0", None, "10.9.0.10", "10.9.0.20", true),
        ),
        (
            "ifconfig 10.9.0.1 255.255.255.0\ntopology subnet\n",
            ("10.9.0.0", 24, "255.255.255.0", None, "10.9.0.1", "10.9.0.1", false),
        ),
        (
            "ifconfig 10.9.0.1 10.9.0.2\nifconfig-pool 10.9.0.5 10.9.0.249\n",
            ("10.9.0.0", 24, "255.255.255.0", Some("10.9.0.2"), "10.9.0.4", "10.9.0.251", true),
        ),
        (
            "ifconfig 10.9.0.1 10.9.0.2\ntopology p2p\nifconfig-pool 10.9.0.5 10.9.0.249\n",
            ("10.9.0.0", 24, "255.255.255.0", Some("10.9.0.2"), "10.9.0.5", "10.9.0.249", true),
        ),
        (
            "ifconfig 10.9.0.1 10.9.0.2\nifconfig-pool-linear\nifconfig-pool 10.9.0.5 10.9.0.6\n",
            ("10.9.0.0", 29, "255.255.255.248", Some("10.9.0.2"), "10.9.0.5", "10.9.0.6", true),
        ),
        (
            "server 10.9.0.0 255.255.255.0 nopool\ntopology subnet\nifconfig-pool 10.9.0.100 10.9.0.110\n",
            ("10.9.0.0", 24, "255.255.255.0", None, "10.9.0.100", "10.9.0.110", true),
        ),
    ];
    for (lines, (network, prefix, netmask, peer, start, end, dynamic)) in table {
        let address = |text: &str| text.parse().unwrap();
        let expected = Pool4 {
            network: address(network),
            prefix,
            netmask: address(netmask),
            local: address("10.9.0.1"),
            peer: peer.map(address),
            pool_start: address(start),
            pool_end: address(end),
            dynamic,
        };
        assert_eq!(pool(lines), Some(expected), "{lines}");
    }
    let profile = clean(&format!("{BARE}ifconfig-ipv6-pool fd00::2000/112\n"));
    let (local, base) = ("fd00::1".parse().unwrap(), "fd00::2000".parse().unwrap());
    assert_eq!(profile.ipv6, Some(Pool6 { local, prefix: 64, base, pool_prefix: 112, dynamic: true }));
    assert!(!clean(BARE).ipv6.unwrap().dynamic);
    assert_eq!(clean(BARE).push, ["ping 10", "ping-restart 60"], "nothing is implied without `server`");
}

#[test]
fn what_helpers_imply_is_pushed_after_what_is_written_and_once() {
    let push = |more: &str| server(more).push;
    assert_eq!(push(""), ["route 10.8.0.1", "topology net30", "ping 10", "ping-restart 60"]);
    assert_eq!(
        push("push \"dhcp-option DNS 10.8.0.1\"\npush \"topology subnet\"\ntopology subnet\nserver-ipv6 fd00::/64\n"),
        [
            "dhcp-option DNS 10.8.0.1",
            "topology subnet",
            "tun-ipv6",
            "route-gateway 10.8.0.1",
            "ping 10",
            "ping-restart 60"
        ]
    );
    assert_eq!(push("client-to-client\n")[0], "route 10.8.0.0 255.255.255.0");
    assert_eq!(push("push \"ping 5\"\npush-remove ping\n"), ["route 10.8.0.1", "topology net30"]);
}

#[test]
fn a_route_of_the_server_leads_into_its_tunnel() {
    let net30 = KernelRoute { network: "10.8.0.0".parse().unwrap(), prefix: 24, metric: None };
    let own = KernelRoute { network: "192.168.4.0".parse().unwrap(), prefix: 24, metric: Some(3) };
    assert_eq!(server("").routes, [net30]);
    assert_eq!(server("route 192.168.4.0 255.255.255.0 10.8.0.2 3\n").routes, [net30, own]);
    for line in ["route 192.168.4.0 255.255.255.0 net_gateway", "route vpn_gateway", "route-ipv6 fd00::/8 net_gateway"]
    {
        let (profile, warnings) = load_text(&format!("{START}{line}\n")).unwrap();
        assert_eq!((profile.routes.len(), warnings.len()), (1, 1), "{line}");
        assert!(warnings[0].contains("this one is left out"), "{warnings:#?}");
    }
}

#[test]
fn pings_may_be_set_one_by_one() {
    let text = START.replace("keepalive 10 60\n", "");
    for (lines, expected) in [
        ("ping 10\nping-restart 50\n", Some((10, 50))),
        ("ping 10\nping-exit 50\n", Some((10, 50))),
        ("ping 10\n", Some((10, 0))),
        ("", None),
    ] {
        assert_eq!(load_text(&format!("{text}{lines}")).unwrap().0.keepalive, expected, "{lines}");
    }
}

#[test]
fn secrets_are_in_no_debug_output() {
    let (profile, _) = load_text(&format!("{START}{}", block("tls-crypt", &static_key()))).unwrap();
    let shown = format!("{profile:?}");
    assert!(!shown.contains("8899aabb") && !shown.contains("136, 153, 170"));
}

proptest! {
    #[test]
    fn no_text_makes_load_server_panic(text in "(?s).{0,300}") {
        let _ = load_text(&text);
        let _ = client_dir::parse(&text, "x");
    }

    #[test]
    fn no_words_after_a_known_name_make_load_server_panic(bare in any::<bool>(), lines in proptest::collection::vec(
        (0..TABLE.len(), "( (1|0|-1|65536|4294967296|tun|a:b|udp|none|\"|10\\.0\\.0\\.0|255\\.255\\.255\\.0|255\\.255\\.255\\.255|::1|fd00::/64|fd00::/129|\\[inline\\]|ta\\.key|[ -~]{1,8})){0,5}", any::<bool>()), 0..12)) {
        let line = |(row, words, block): &(usize, String, bool)| match (block, TABLE[*row].name) {
            (true, name) => format!("<{name}>\n{words}\n</{name}>\n"),
            (false, name) => format!("{name}{words}\n"),
        };
        let text: String = lines.iter().map(line).collect();
        if let Ok((profile, _)) = load_text(&format!("{}{text}", if bare { BARE } else { START })) {
            prop_assert!(!profile.data_ciphers.is_empty() && profile.max_clients > 0);
            if let Some(pool) = profile.ipv4 {
                prop_assert!(pool.pool_start <= pool.pool_end);
            }
            let _ = profile.server_setup(controlplane::Secret(vec![0; 32]), 2);
        }
        for line in text.lines() {
            if let Ok(config) = client_dir::parse(line, "x") {
                let _ = config.push_list(&["route 10.0.0.0".to_owned()]);
            }
        }
    }
}

#[test]
fn the_three_sides_of_a_row_are_what_the_table_says() {
    let row = directives::find("server").unwrap();
    assert!(matches!(row.on(Side::Client), Disposition::Refused(..)));
    assert_eq!(row.on(Side::Server), Disposition::Implemented);
    assert!(matches!(row.on(Side::OneClient), Disposition::Refused(..)));
    assert_eq!(directives::find("push").unwrap().on(Side::OneClient), Disposition::Implemented);
}

//! Whole configurations of servers: the table row by row, the shapes that scripts and manuals hand out, and every problem with its
//! place; and the files of single clients.

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

/// Each: lines added to a good server, and what must be found.
#[test]
fn problems_say_where_what_and_what_instead() {
    let needs = "auth-user-pass-verify x via-file\nscript-security 2\n";
    let table = [
        ("servr 10.8.0.0", "s.conf:7: error: unknown directive \"servr\": did you mean \"server\"?"),
        (
            "proto tcp",
            "s.conf:7: error: proto: only UDP is served in this version: write `proto udp`, in the clients' profiles too",
        ),
        (
            "proto tcp-server",
            "s.conf:7: error: proto: only UDP is served in this version: write `proto udp`, in the clients' profiles too",
        ),
        ("proto sctp", "s.conf:7: error: proto: unknown protocol \"sctp\": write udp, udp4 or udp6"),
        ("lport 0", "s.conf:7: error: a server needs a port that its clients know: write `port 1194`"),
        ("port 0", "s.conf:7: error: port: \"0\" is not a port: write a number from 1 to 65535"),
        (
            "local 192.0.2.1\nproto udp6",
            "s.conf:7: error: the address of `local` is not of the family of `proto`: write `proto udp`, or another address",
        ),
        ("nobind", "s.conf:7: error: nobind: a server has to be bound to a port: remove it"),
        (
            "mode p2p",
            "s.conf:7: error: mode: a server for one peer is not supported: write `mode server`, or `server` with a network",
        ),
        ("remote vpn.example.com", "s.conf:7: error: remote: it belongs to a client's profile: remove it"),
        ("client", "s.conf:7: error: client: it belongs to a client's profile: remove it"),
        (
            "<connection>\nremote a\n</connection>",
            "s.conf:7: error: connection: it belongs to a client's profile: remove it",
        ),
        (
            "server 10.8.0.5 255.255.255.0",
            "s.conf:7: error: server: 10.8.0.5 is not the first address of a network with netmask 255.255.255.0: write `server 10.8.0.0 255.255.255.0`",
        ),
        (
            "server 10.8.0.0 255.255.255.252",
            "s.conf:7: error: server: a network of /30 is not between /8 and /29: write it like `server 10.8.0.0 255.255.255.0`",
        ),
        (
            "server 10.8.0.0 255.0.255.0",
            "s.conf:7: error: server: 255.0.255.0 is not a netmask: write one like 255.255.255.0",
        ),
        (
            "server 10.8.0.0 255.255.255.0 pool",
            "s.conf:7: error: server: unknown word \"pool\": write `nopool` or nothing",
        ),
        (
            "server-ipv6 fd00::/48",
            "s.conf:7: error: server-ipv6: \"fd00::/48\" is no network of /64 to /124: write it like fd00:1234::/64",
        ),
        (
            "server-ipv6 fd00::",
            "s.conf:7: error: server-ipv6: \"fd00::\" is no network of /64 to /124: write it like fd00:1234::/64",
        ),
        (
            "server-ipv6 fd00::7/64",
            "s.conf:7: error: server-ipv6: fd00::7 is not the first address of a network of /64: write fd00::/64",
        ),
        (
            "server-ipv6 fd00::/64\nserver 10.8.0.0 255.255.255.0 nopool",
            "s.conf:7: error: server-ipv6: it has a pool, and `server` says nopool: use `ifconfig-ipv6` instead of it",
        ),
        (
            "ifconfig-pool 10.8.0.9 10.8.0.20",
            "s.conf:7: error: ifconfig-pool: `server` has a pool of its own: add `nopool` to the line `server`",
        ),
        (
            "ifconfig-pool 10.8.0.20 10.8.0.9",
            "s.conf:7: error: ifconfig-pool: 10.8.0.20 is above 10.8.0.9: write the lower one first",
        ),
        (
            "ifconfig-ipv6-pool fd00::9/64",
            "s.conf:7: error: ifconfig-ipv6-pool: there is no ifconfig-ipv6: use `server-ipv6` instead",
        ),
        (
            "ifconfig-push 10.8.0.6 10.8.0.5",
            "s.conf:7: error: ifconfig-push: it belongs to a single client: write it into that client's file in client-config-dir",
        ),
        (
            "push route 10.0.0.0",
            "s.conf:7: error: push takes 1 argument, and this line has 2: write it like `push \"redirect-gateway def1\"`",
        ),
        ("push \"peer-id 7\"", "s.conf:7: error: push: peer-id is decided for each client by itself: remove it"),
        ("push \"zzzzzzz\"", "s.conf:7: warning: push: no client of OpenVPN 2.6 knows \"zzzzzzz\""),
        (
            "redirect-gateway def1",
            "s.conf:7: error: redirect-gateway: it would change the way of this server's own traffic: write `push \"…\"` around it: it is meant for clients",
        ),
        ("dev tap", "s.conf:7: error: dev: Ethernet (TAP) is not supported: write `dev tun`, on both ends"),
        (
            "dh dh.pem",
            "s.conf:7: warning: dh: the file is not read, keys are agreed on by elliptic curves: write `dh none`",
        ),
        (
            "crl-verify crls dir",
            "s.conf:7: error: crl-verify: directories of revoked serial numbers are not supported: use a CRL in PEM",
        ),
        (
            "tls-crypt-v2 v2.key",
            "s.conf:7: error: tls-crypt-v2: tls-crypt-v2 is not supported in this version: use `tls-crypt`, with one key for all clients",
        ),
        (
            "tls-auth ta.key\ntls-crypt tc.key",
            "s.conf:8: error: both tls-auth and tls-crypt: keep the one that the other end has",
        ),
        (
            "tls-auth ta.key 1",
            "s.conf:7: warning: key direction 1 is the clients': write 0, unless their profiles have 0",
        ),
        ("key-direction 0", "s.conf:7: warning: key-direction without tls-auth says nothing: remove it"),
        (
            "cipher AES-256-CBC",
            "s.conf:7: warning: AES-256-CBC is not available for clients that do not negotiate: only AEAD ciphers are supported: nothing to do if all clients are OpenVPN 2.4 or newer",
        ),
        (
            "verify-client-cert none",
            "s.conf:7: error: verify-client-cert without anything that checks passwords: add `auth-user-pass-verify`, or remove it",
        ),
        (
            "verify-client-cert maybe",
            "s.conf:7: error: verify-client-cert: unknown word \"maybe\": write require, optional or none",
        ),
        (
            "username-as-common-name",
            "s.conf:7: error: username-as-common-name without anything that checks passwords: add `auth-user-pass-verify`, or remove it",
        ),
        (
            "auth-user-pass-optional",
            "s.conf:7: error: auth-user-pass-optional without anything that checks passwords: add `auth-user-pass-verify`, or remove it",
        ),
        (
            "auth-user-pass-verify x by-mail",
            "s.conf:7: error: auth-user-pass-verify: unknown word \"by-mail\": write via-env or via-file",
        ),
        (
            "auth-user-pass-verify \"\" via-env",
            "s.conf:7: error: auth-user-pass-verify: no command in it: write the path of a program",
        ),
        (
            "client-connect x",
            "s.conf:7: error: client-connect: commands of a user are not run with script-security 1: add a line `script-security 2`",
        ),
        (
            "auth-user-pass-verify x via-env\nscript-security 2",
            "s.conf:7: warning: via-env gives no password to the command with script-security 2: write `script-security 3`, or via-file",
        ),
        ("script-security 4", "s.conf:7: error: script-security: \"4\" is not a number from 0 to 3"),
        ("setenv $x y", "s.conf:7: error: setenv: \"$x\" is not the name of a variable: use letters, digits and _"),
        ("ccd-exclusive", "s.conf:7: error: ccd-exclusive without client-config-dir: add `client-config-dir`"),
        ("max-clients 0", "s.conf:7: error: max-clients: \"0\" is not a number of clients from 1 to 16777215"),
        (
            "max-clients 16777216",
            "s.conf:7: error: max-clients: \"16777216\" is not a number of clients from 1 to 16777215",
        ),
        (
            "connect-freq-initial 0 10",
            "s.conf:7: error: connect-freq-initial: \"0\" is not a number of answers from 1 to 1000000",
        ),
        ("status-version 4\nstatus x", "s.conf:7: error: status-version: \"4\" is not a number from 1 to 3"),
        ("status-version 2", "s.conf:7: warning: status-version without status says nothing: remove it"),
        (
            "duplicate-cn\nifconfig-pool-persist ipp.txt",
            "s.conf:8: warning: with duplicate-cn a name does not lead to one lease, and none is kept: remove ifconfig-pool-persist or duplicate-cn",
        ),
        ("ping 5", "s.conf:7: warning: keepalive goes before ping, ping-restart and ping-exit: remove them"),
        (
            "auth-gen-token-secret token.key",
            "s.conf:7: warning: auth-gen-token-secret without auth-gen-token says nothing: add `auth-gen-token`, or remove it",
        ),
        (
            "x509-username-field emailAddress",
            "s.conf:7: error: x509-username-field: only the common name names a client in this version: write `x509-username-field CN`, or remove it",
        ),
        (
            "compress migrate",
            "s.conf:7: warning: compress migrate: clients whose profiles have comp-lzo or compress will not get through: remove both from their profiles",
        ),
        (
            "management localhost 7505",
            "s.conf:7: warning: management is ignored: there is no management interface; `minivpn status` and `minivpn client` speak to the gateway over its own socket",
        ),
        ("ca nowhere.crt", "s.conf:7: error: ca: cannot read \"nowhere.crt\": entity not found"),
    ];
    for (more, expected) in table {
        assert_eq!(problems(&format!("{more}\n")), [expected], "{more}");
    }
    let table = [
        (
            "auth-gen-token",
            "s.conf:7: warning: tokens end when the gateway is started anew: add `auth-gen-token-secret FILE` to keep them",
        ),
        (
            "auth-gen-token 0 60\nauth-gen-token-secret token.key",
            "s.conf:7: warning: a token is renewed when the client renegotiates, not every 60 s, and is good for 7200 s: write \
             `reneg-sec 60` to have it renewed as often",
        ),
        (
            "auth-gen-token 0 60\nauth-gen-token-secret token.key\nreneg-sec 0",
            "s.conf:7: warning: a token is renewed when the client renegotiates, not every 60 s, and is good as long as its \
             session: write `reneg-sec 60` to have it renewed as often",
        ),
        (
            "auth-gen-token 1 2 3",
            "s.conf:7: error: auth-gen-token: unknown word \"3\": write `external-auth` or nothing",
        ),
        ("auth-gen-token x", "s.conf:7: error: auth-gen-token: \"x\" is not a number of seconds from 0 to 31536000"),
        (
            "auth-gen-token\nauth-gen-token-secret ta.key",
            "s.conf:8: error: auth-gen-token-secret: no key for tokens in it: make one with `openvpn --genkey auth-token token.key`",
        ),
        (
            "client-cert-not-required",
            "s.conf:7: warning: client-cert-not-required is old: write `verify-client-cert none`",
        ),
        ("username-as-common-name", ""),
        ("verify-client-cert none", ""),
    ];
    for (more, expected) in table {
        let found = problems(&format!("{more}\n{needs}"));
        assert_eq!(found.join("\n"), expected, "{more}");
    }
    let found = problems("client-cert-not-required\n");
    assert!(found.iter().any(|line| line.contains("error: client-cert-not-required without anything")), "{found:#?}");
}

/// Each: a line left out of a good server, and what must be found.
#[test]
fn what_is_missing_is_named() {
    let table = [
        (
            "server 10.8.0.0 255.255.255.0\n",
            "s.conf: error: it does not say which network it serves: add a line `server 10.8.0.0 255.255.255.0`",
        ),
        ("dev tun\n", "s.conf: error: no dev: add a line `dev tun`"),
        (
            "ca ca.crt\n",
            "s.conf: error: nothing says which clients to trust: add `ca` with the certificate authority, or peer-fingerprint",
        ),
        ("cert server.crt\n", "s.conf:4: error: key without cert: add <cert> with its certificate"),
        ("key server.key\n", "s.conf:4: error: cert without key: add <key> with its private key"),
        ("cert server.crt\nkey server.key\n", "s.conf: error: no certificate of the server: add `cert` and `key`"),
        (
            "keepalive 10 60\n",
            "s.conf: warning: no keepalive: clients that vanish are never noticed: add a line `keepalive 10 60`",
        ),
    ];
    for (line, expected) in table {
        assert_eq!(found(&START.replace(line, "")), [expected], "without {line}");
    }
    let nothing = found(&BARE.replace("ifconfig 10.9.0.1 10.9.0.2\nifconfig-ipv6 fd00::1/64 fd00::2\n", ""));
    assert_eq!(nothing, ["s.conf: error: the tunnel has no address: add `server`, or `ifconfig`"]);
    let taken = found(&format!("{BARE}ifconfig-pool 10.9.0.2 10.9.0.9\n"));
    assert_eq!(
        taken,
        ["s.conf:10: error: ifconfig-pool: the pool holds the server's own address: start it at a higher one"]
    );
    let mask = found(&format!("{BARE}topology subnet\n"));
    assert!(mask[0].starts_with("s.conf:3: error: ifconfig: topology subnet wants a netmask"), "{mask:#?}");
}

#[test]
fn who_is_not_asked_for_a_certificate_needs_no_authority() {
    let text = START.replace("ca ca.crt\n", "");
    let more = "verify-client-cert none\nauth-user-pass-verify x via-file\nscript-security 2\n";
    assert_eq!(clean(&format!("{text}{more}")).tls.ca_pem, "");
    assert!(load_text(&format!("{text}{}", more.replace("none", "optional"))).is_err());
}

#[test]
fn an_unreadable_file_is_one_problem_and_a_clients() {
    let nothing = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::PermissionDenied.into()) };
    assert_eq!(load_server_with(Path::new("s.conf"), &nothing).unwrap_err().len(), 1);
    assert_eq!(lint_with(Path::new("s.conf"), &nothing).len(), 1);
    assert!(!is_server_with(Path::new("s.conf"), &nothing));
}

#[test]
fn what_stands_in_a_file_says_whose_it_is() {
    for (text, server) in [
        ("server 10.8.0.0 255.255.255.0\n", true),
        ("--server-ipv6 fd00::/64\n", true),
        ("mode server\n", true),
        ("tls-server\n", true),
        ("mode p2p\n", false),
        ("client\nserver 10.8.0.0 255.255.255.0\n", false),
        ("client\n", false),
        ("# server\n", false),
        ("<ca>\nserver 1 2\n</ca>\n", false),
        ("", false),
    ] {
        assert_eq!(is_server_with(Path::new("s.conf"), &open(text)), server, "{text}");
    }
    let linted = lint_with(Path::new("s.conf"), &open(&format!("{START}status-version 2\n")));
    assert_eq!(linted.len(), 1, "{linted:#?}");
    let linted = lint_with(Path::new("s.conf"), &open("client\nserver 10.8.0.0 255.255.255.0\n"));
    assert!(linted.iter().any(|problem| problem.to_string().contains("minivpn gateway run --config FILE")));
}

#[test]
fn secrets_are_in_no_debug_output() {
    let (profile, _) = load_text(&format!("{START}{}", block("tls-crypt", &static_key()))).unwrap();
    let shown = format!("{profile:?}");
    assert!(!shown.contains("8899aabb") && !shown.contains("136, 153, 170"));
}

/// The shapes in which scripts and manuals hand out configurations.
mod shapes {
    use super::*;

    fn loads(text: &str) -> (ServerProfile, Vec<String>) {
        assert!(is_server_with(Path::new("s.conf"), &open(text)));
        let (unix, warnings) = load_text(text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        // The same text with DOS line ends is the same server.
        let (dos, _) = load_text(&text.replace('\n', "\r\n")).unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert_eq!((&dos.push, dos.ipv4, dos.ipv6), (&unix.push, unix.ipv4, unix.ipv6));
        (unix, warnings)
    }

    #[test]
    fn of_an_installer_script() {
        let (profile, warnings) = loads(
            "port 1194\nproto udp6\ndev tun\nuser nobody\ngroup nogroup\npersist-key\npersist-tun\nkeepalive 10 120\ntopology subnet\n\
             server 10.8.0.0 255.255.255.0\nifconfig-pool-persist ipp.txt\npush \"dhcp-option DNS 1.1.1.1\"\n\
             push \"redirect-gateway def1 bypass-dhcp\"\nserver-ipv6 fd42:42:42:42::/112\ntun-ipv6\npush tun-ipv6\n\
             push \"route-ipv6 2000::/3\"\npush \"redirect-gateway ipv6\"\ndh none\necdh-curve prime256v1\ntls-crypt tc.key\n\
             crl-verify crl.pem\nca ca.crt\ncert server.crt\nkey server.key\nauth SHA256\ncipher AES-128-GCM\n\
             ncp-ciphers AES-128-GCM\ntls-server\ntls-version-min 1.2\n\
             tls-cipher TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256\nclient-config-dir /etc/openvpn/ccd\nstatus /var/log/openvpn/status.log\nverb 3\n",
        );
        assert_eq!(warnings.len(), 2, "{warnings:#?}");
        assert!(warnings[0].contains("ecdh-curve is ignored") && warnings[1].contains("tls-cipher is ignored"));
        let pool = profile.ipv4.unwrap();
        assert_eq!((pool.pool_start.to_string(), pool.pool_end.to_string()), ("10.8.0.2".into(), "10.8.0.254".into()));
        let pool = profile.ipv6.unwrap();
        assert_eq!((pool.base.to_string(), pool.prefix), ("fd42:42:42:42::2".to_owned(), 112));
        assert_eq!(profile.push.iter().filter(|option| *option == "tun-ipv6").count(), 1);
        assert_eq!(profile.push[5..], ["route-gateway 10.8.0.1", "topology subnet", "ping 10", "ping-restart 120"]);
        assert_eq!(profile.keepalive, Some((10, 240)));
        assert_eq!((profile.data_ciphers, profile.fallback_cipher), (vec![Cipher::Aes128Gcm], Some(Cipher::Aes128Gcm)));
        assert_eq!(profile.client_config_dir.as_deref(), Some(Path::new("/etc/openvpn/ccd")));
        let status = StatusFile { path: "/var/log/openvpn/status.log".into(), every_s: 60, version: 1 };
        assert_eq!((profile.status, profile.listen.socket_address()), (Some(status), "[::]:1194".parse().unwrap()));
        assert_eq!(profile.pool_persist, Some(("ipp.txt".into(), 600)));
    }

    #[test]
    fn of_a_manual_with_net30_and_tls_auth() {
        let (profile, warnings) = loads(
            ";local a.b.c.d\nport 1194\n;proto tcp\nproto udp\n;dev tap\ndev tun\nca ca.crt\ncert server.crt\nkey server.key # keep it secret\n\
             dh dh2048.pem\nserver 10.8.0.0 255.255.255.0\nifconfig-pool-persist ipp.txt\n;server-bridge\n\
             push \"route 192.168.10.0 255.255.255.0\"\n;client-config-dir ccd\nroute 192.168.40.128 255.255.255.248\n\
             client-to-client\n;duplicate-cn\nkeepalive 10 120\ntls-auth ta.key 0 # 0 on the server\ncipher AES-256-CBC\n\
             max-clients 100\npersist-key\npersist-tun\nstatus openvpn-status.log\nlog-append openvpn.log\nverb 3\nmute 20\nexplicit-exit-notify 1\n",
        );
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        assert_eq!(
            (profile.topology, profile.max_clients, profile.explicit_exit_notify),
            (Topology::Net30, 100, Some(1))
        );
        let pool = profile.ipv4.unwrap();
        assert_eq!((pool.local.to_string(), pool.peer.unwrap().to_string()), ("10.8.0.1".into(), "10.8.0.2".into()));
        assert_eq!(
            profile.push,
            [
                "route 192.168.10.0 255.255.255.0",
                "route 10.8.0.0 255.255.255.0",
                "topology net30",
                "ping 10",
                "ping-restart 120"
            ]
        );
        assert_eq!(profile.routes.len(), 2);
        assert!(matches!(profile.wrap, Wrap::TlsAuth { direction: Some(0), .. }));
    }

    #[test]
    fn of_a_company_with_passwords_and_scripts() {
        let (profile, warnings) = loads(&format!(
            "mode server\ntls-server\nproto udp4\nport 443\ndev tun-staff\ndev-type tun\ntopology subnet\nifconfig 10.50.0.1 255.255.0.0\n\
             ifconfig-pool 10.50.1.0 10.50.255.254\npush \"topology subnet\"\npush \"route-gateway 10.50.0.1\"\n\
             push \"dhcp-option DOMAIN corp.example\"\npush \"block-outside-dns\"\nkeepalive 15 60\nverify-client-cert none\n\
             username-as-common-name\nscript-security 3\nauth-user-pass-verify /etc/openvpn/ldap.py via-env\n\
             auth-gen-token 43200\nauth-gen-token-secret token.key\nclient-connect /etc/openvpn/up.sh\n\
             client-disconnect /etc/openvpn/down.sh\nreneg-sec 3600\ndata-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\n\
             auth-nocache\nfast-io\nsndbuf 0\nrcvbuf 0\npush \"sndbuf 393216\"\nstatus /run/openvpn/staff.status 10\nstatus-version 2\n\
             connect-freq-initial 200 10\nmax-clients 5000\nduplicate-cn\n{}{}{}{}",
            block("ca", CERT),
            block("cert", CERT),
            block("key", KEY),
            block("tls-crypt", &static_key()),
        ));
        assert!(warnings.is_empty(), "{warnings:#?}");
        assert_eq!((profile.device.name.as_deref(), profile.max_clients), (Some("tun-staff"), 5_000));
        let pool = profile.ipv4.unwrap();
        assert_eq!((pool.network.to_string(), pool.prefix, pool.dynamic), ("10.50.0.0".into(), 16, true));
        assert_eq!((profile.client_certificate, profile.script_security), (ClientCertificate::None, 3));
        assert_eq!(profile.auth_gen_token.unwrap().lifetime, 43_200);
        assert_eq!(profile.files.all().count(), 2, "the configuration and the key for tokens");
    }
}

/// What is said of one client.
mod one_client {
    use super::*;

    fn read(
        files: &'static [(&'static str, &'static str)],
        name: &str,
        exclusive: bool,
    ) -> Result<Option<ClientConfig>, Vec<String>> {
        let open = move |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new("ccd").join(name) == path);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or(io::ErrorKind::NotFound.into())
        };
        client_dir::read_with(Path::new("ccd"), name, exclusive, &open)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    fn parse(text: &str) -> ClientConfig {
        let config = client_dir::parse(text, "alice").unwrap_or_else(|problems| panic!("{problems:#?}"));
        assert!(config.warnings.is_empty(), "{:#?}", config.warnings);
        config
    }

    fn wrong(text: &str) -> Vec<String> {
        client_dir::parse(text, "alice").unwrap_err().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn everything_that_is_said_of_it_arrives() {
        let config = parse(
            "# alice\nifconfig-push 10.8.0.6 255.255.255.0\nifconfig-ipv6-push fd00::6/64 fd00::1\niroute 10.1.0.0 255.255.0.0\n\
             iroute 10.1.0.0 255.255.0.0\niroute 10.2.0.1\niroute-ipv6 fd01::/64\npush \"route 10.3.0.0 255.255.0.0\"\ndisable\n",
        );
        assert_eq!(config.ifconfig_push, Some(("10.8.0.6".parse().unwrap(), "255.255.255.0".parse().unwrap())));
        assert_eq!(config.ifconfig_ipv6_push, Some(("fd00::6".parse().unwrap(), 64)));
        let network = |text: &str, bits| (text.parse().unwrap(), bits);
        assert_eq!(config.iroutes, [network("10.1.0.0", 16), network("10.2.0.1", 32), network("fd01::", 64)]);
        assert_eq!(config.push, ["route 10.3.0.0 255.255.0.0"]);
        assert!(config.disable && !config.push_reset);
        assert_eq!(parse(""), ClientConfig::default());
    }

    #[test]
    fn its_list_is_the_servers_as_it_changes_it_in_order() {
        let all = ["route 10.1.0.0 255.255.0.0", "route-gateway 10.8.0.1", "ping 10"].map(str::to_owned);
        let list = |text: &str| parse(text).push_list(&all);
        assert_eq!(list(""), all);
        assert_eq!(list("push \"ping 5\"\n")[3], "ping 5");
        assert_eq!(list("push \"ping 5\"\npush-reset\npush \"ping 6\"\n"), ["ping 6"]);
        assert_eq!(
            list("push \"ping 5\"\npush-remove ping\npush \"ping 6\"\n"),
            [all[0].as_str(), all[1].as_str(), "ping 6"]
        );
        assert_eq!(list("push-remove route\n"), ["ping 10"]);
        assert_eq!(list("iroute 10.1.0.0 255.255.0.0\n"), all[1..], "the way to itself is not pushed");
        assert_eq!(list("iroute 10.1.0.0 255.255.255.0\n"), all, "a part of it is");
        assert!(parse("push-remove ifconfig-ipv6\n").removes("ifconfig-ipv6"));
        assert!(!parse("push-remove ifconfig-ipv6\n").removes("ifconfig"));
    }

    #[test]
    fn an_address_fits_the_topology() {
        let fits =
            |second: &str, topology| parse(&format!("ifconfig-push 10.8.0.6 {second}\n")).check(topology).is_ok();
        for (second, subnet, others) in [
            ("255.255.255.0", true, false),
            ("10.8.0.5", false, true),
            ("10.8.0.6", false, false),
            ("255.0.255.0", false, false),
            ("0.0.0.0", true, false),
        ] {
            assert_eq!(fits(second, Topology::Subnet), subnet, "{second}");
            assert_eq!(fits(second, Topology::Net30), others, "{second}");
            assert_eq!(fits(second, Topology::P2p), others, "{second}");
        }
        assert!(parse("").check(Topology::Net30).is_ok());
    }

    #[test]
    fn a_mistake_is_an_error_with_its_line() {
        for (text, expected) in [
            (
                "\niroute 10.1.0.5 255.255.0.0",
                "alice:2: error: iroute: 10.1.0.5 is not the first address of a network of /16: write 10.1.0.0",
            ),
            (
                "iroute-ipv6 fd01::1/64",
                "alice:1: error: iroute-ipv6: fd01::1 is not the first address of a network of /64: write fd01::",
            ),
            (
                "iroute 10.1.0.0 255.0.255.0",
                "alice:1: error: iroute: 255.0.255.0 is not a netmask: write one like 255.255.255.0",
            ),
            ("ifconfig-push 0.0.0.0 10.8.0.1", "alice:1: error: ifconfig-push: 0.0.0.0 cannot be a tunnel's address"),
            (
                "ifconfig-push 10.8.0.6",
                "alice:1: error: ifconfig-push takes 2 to 3 arguments, and this line has 1: write it like `ifconfig-push 10.8.0.6 10.8.0.5`",
            ),
            (
                "ifconfig-ipv6-push ff02::1/64",
                "alice:1: error: ifconfig-ipv6-push: ff02::1 cannot be a tunnel's address",
            ),
            (
                "ifconfig-ipv6-push fd00::1/129",
                "alice:1: error: ifconfig-ipv6-push: \"129\" is not a number of bits from 0 to 128",
            ),
            ("disabel", "alice:1: error: unknown directive \"disabel\": did you mean \"disable\"?"),
            (
                "push \"comp-lzo yes\"",
                "alice:1: error: push: it puts a byte of compression framing before every packet (`comp-lzo no` does, too), which is not supported: remove it here and in the clients' profiles",
            ),
            (
                "port 1194",
                "alice:1: error: port: it does not belong to a single client: write it into the server's configuration",
            ),
            (
                "cd /etc",
                "alice:1: error: cd: it does not belong to a single client: write it into the server's configuration",
            ),
            ("peer-id 3", "alice:1: error: peer-id: only a server sends it: remove it"),
            (
                "<connection>\nremote a\n</connection>",
                "alice:1: error: connection: it does not belong to a single client: write it into the server's configuration",
            ),
        ] {
            assert_eq!(wrong(text), [expected], "{text}");
        }
        assert!(wrong("config /etc/shadow")[0].contains("permission denied"), "what a command wrote includes no files");
        assert!(wrong(&"#\n".repeat(40_000))[0].contains("file too large"));
    }

    #[test]
    fn what_is_not_for_one_client_is_left_out_with_a_warning() {
        let config =
            client_dir::parse("inactive 3600\nping 5\ncipher AES-128-GCM\nsetenv opt zzzzzzz\n", "alice").unwrap();
        assert_eq!(config.warnings.len(), 3, "{:#?}", config.warnings);
        assert!(config.warnings.iter().all(|problem| !problem.is_error()));
        let config = client_dir::parse("ifconfig-push 10.8.0.6 10.8.0.5 192.0.2.1\n", "alice").unwrap();
        assert_eq!((config.warnings.len(), config.ifconfig_push.is_some()), (1, true));
        assert!(parse("ignore-unknown-option zzzzzzz\nzzzzzzz 1\n") == ClientConfig::default());
    }

    const FILES: &[(&str, &str)] = &[
        ("alice", "disable\n"),
        ("DEFAULT", "push-reset\n"),
        ("more", "config ccd/alice\npush-reset\n"),
        ("bad", "nonsense-line\n"),
        (".hidden", "disable\n"),
        ("-x", "disable\n"),
        ("sub/file", "disable\n"),
        ("../outside", "disable\n"),
        ("John Doe", "disable\n"),
        ("jürgen", "disable\n"),
    ];

    #[test]
    fn a_client_has_its_own_file_or_the_default_one() {
        assert!(read(FILES, "alice", false).unwrap().unwrap().disable);
        assert!(read(FILES, "alice", true).unwrap().unwrap().disable);
        assert!(read(FILES, "John Doe", true).unwrap().unwrap().disable);
        assert!(read(FILES, "jürgen", true).unwrap().unwrap().disable);
        let default = read(FILES, "bob", false).unwrap().unwrap();
        assert!(default.push_reset && !default.disable);
        assert_eq!(
            read(FILES, "bob", true).unwrap_err(),
            ["ccd: error: ccd-exclusive, and \"bob\" has no file here: make one, which may be empty"],
            "DEFAULT is nobody's own"
        );
        assert_eq!(read(&[], "bob", false), Ok(None));
        let both = read(FILES, "more", false).unwrap().unwrap();
        assert!(both.disable && both.push_reset);
        assert_eq!(read(FILES, "bad", false).unwrap_err().len(), 1, "it is not passed over for DEFAULT");
    }

    #[test]
    fn a_hostile_name_has_no_file() {
        let long = "x".repeat(client_dir::MAX_NAME + 1);
        for name in
            ["", ".", "..", ".hidden", "-x", "sub/file", "../outside", "/etc/passwd", "a\0b", "a\nb", "DEFAULT", &long]
        {
            assert_eq!(client_dir::file_name(name), None, "{name}");
            assert!(!read(FILES, name, false).unwrap().unwrap().disable, "{name}");
            assert!(read(FILES, name, true).is_err(), "{name}");
        }
        assert_eq!(client_dir::file_name(&long[1..]), Some(&long[1..]));
        assert_eq!(client_dir::file_name("a.b-c@d"), Some("a.b-c@d"));
    }

    #[test]
    fn a_file_that_cannot_be_read_refuses_its_client() {
        let denied = |_: &Path| -> io::Result<Vec<u8>> { Err(io::ErrorKind::PermissionDenied.into()) };
        assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &denied).is_err());
        let large = |_: &Path| -> io::Result<Vec<u8>> { Ok(vec![b'\n'; client_dir::MAX_CLIENT_FILE + 1]) };
        assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &large).is_err());
        let fits = |_: &Path| -> io::Result<Vec<u8>> { Ok(vec![b'\n'; client_dir::MAX_CLIENT_FILE]) };
        assert!(client_dir::read_with(Path::new("ccd"), "alice", false, &fits).is_ok());
    }
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

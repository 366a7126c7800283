//! What is wrong with a configuration is said with its place and what to write instead.

use super::*;

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

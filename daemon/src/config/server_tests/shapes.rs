//! The shapes in which scripts and manuals hand out configurations.

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
    assert_eq!((profile.topology, profile.max_clients, profile.explicit_exit_notify), (Topology::Net30, 100, Some(1)));
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

//! The environment of a script, by OpenVPN's names. What a peer says about itself comes in here too, so every name and
//! value is made harmless: no control character, and in what peers say nothing that a careless shell would run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStringExt;

use super::facts::{
    Beside4, CertificateFacts, GatewayFacts, Inner4, Inner6, LoginFacts, SessionFacts, TokenFacts, Traffic,
};
use crate::clock;

/// Where programs are found; `setenv PATH …` says otherwise.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The longest value, in bytes; the kernel takes 128 KiB, and a login must not fail for what a peer says.
const MAX_VALUE: usize = 8 * 1024;
/// Of each kind of list that a peer makes: fields of a certificate, certificates, lines about itself.
const MAX_ENTRIES: usize = 128;

/// Names and values. A script inherits nothing else.
#[derive(Clone, Default)]
pub(super) struct Environment(BTreeMap<String, OsString>);

impl Environment {
    /// What every script gets. `kind` is the value of `script_type`.
    pub(super) fn of(gateway: &GatewayFacts, kind: &str) -> Environment {
        let mut env = Environment::default();
        env.set("PATH", PATH);
        env.set("script_context", "init");
        env.set("script_type", kind);
        env.set("config", &gateway.config);
        env.set("dev", &gateway.device);
        env.set("dev_type", "tun");
        env.set("tun_mtu", gateway.tun_mtu.to_string());
        env.set("local_port_1", gateway.local_port.to_string());
        env.set("remote_port_1", gateway.local_port.to_string());
        env.set("proto_1", "udp");
        env.set("redirect_gateway", "0");
        env.set("verb", gateway.verb.to_string());
        env.set("daemon", "0");
        env.set("daemon_log_redirect", "0");
        env.set("daemon_pid", std::process::id().to_string());
        env.set("daemon_start_time", gateway.since.to_string());
        if let Some(Inner4 { address, beside }) = gateway.ipv4 {
            env.set("ifconfig_local", address.to_string());
            match beside {
                Beside4::Netmask(mask) => env.set("ifconfig_netmask", mask.to_string()),
                Beside4::OtherEnd(end) => env.set("ifconfig_remote", end.to_string()),
            }
        }
        if let Some(Inner6 { address, prefix, other_end }) = gateway.ipv6 {
            env.set("ifconfig_ipv6_local", address.to_string());
            env.set("ifconfig_ipv6_netbits", prefix.to_string());
            env.set("ifconfig_ipv6_remote", other_end.to_string());
        }
        for (name, value) in &gateway.setenv {
            env.set(name, value);
        }
        env
    }

    /// What is known at a login: all but the password.
    pub(super) fn login(&mut self, login: &LoginFacts) {
        self.set_if("common_name", &login.common_name);
        self.set_if("username", &login.username);
        self.address("untrusted", login.remote);
        if let Some(TokenFacts { session_id, session_state }) = &login.token {
            self.set("session_id", session_id);
            self.set("session_state", session_state);
        }
        if let Some(certificate) = &login.certificate {
            self.certificates(certificate, 0);
        }
        for (name, value) in login.peer_info.iter().filter(|(name, _)| is_exported(name)).take(MAX_ENTRIES) {
            self.set(name, plain_for_shells(value));
        }
    }

    /// What is known of a certificate chain from `depth` on: at its verification a script learns of the issuers first.
    pub(super) fn certificates(&mut self, certificate: &CertificateFacts, depth: usize) {
        for (at, row) in certificate.chain.iter().enumerate().skip(depth).take(MAX_ENTRIES) {
            self.set(&format!("tls_id_{at}"), &row.subject);
            if let Some(serial) = &row.serial {
                self.set(&format!("tls_serial_{at}"), serial);
            }
            if let Some(serial) = &row.serial_hex {
                self.set(&format!("tls_serial_hex_{at}"), serial);
            }
            if let Some(digest) = &row.sha1 {
                self.set(&format!("tls_digest_{at}"), colons(digest));
            }
            if let Some(digest) = &row.sha256 {
                self.set(&format!("tls_digest_sha256_{at}"), colons(digest));
            }
            let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
            for (field, value) in row.fields.iter().take(MAX_ENTRIES) {
                let count = seen.entry(field).or_default();
                let name = match *count {
                    0 => format!("X509_{at}_{field}"),
                    again => format!("X509_{at}_{field}_{again}"),
                };
                *count += 1;
                self.set(&name, value);
            }
        }
    }

    /// What is known of a client whose login was accepted.
    pub(super) fn session(&mut self, session: &SessionFacts) {
        self.login(&session.login);
        self.address("trusted", session.login.remote);
        self.set("time_unix", session.since.to_string());
        self.set("time_ascii", clock::ascii(session.since));
        if let Some(Inner4 { address, beside }) = session.ipv4 {
            self.set("ifconfig_pool_remote_ip", address.to_string());
            match beside {
                Beside4::Netmask(mask) => self.set("ifconfig_pool_netmask", mask.to_string()),
                Beside4::OtherEnd(end) => self.set("ifconfig_pool_local_ip", end.to_string()),
            }
        }
        if let Some(Inner6 { address, prefix, other_end }) = session.ipv6 {
            self.set("ifconfig_pool_remote_ip6", address.to_string());
            self.set("ifconfig_pool_local_ip6", other_end.to_string());
            self.set("ifconfig_pool_ip6_netbits", prefix.to_string());
        }
    }

    /// What a session came to.
    pub(super) fn traffic(&mut self, traffic: &Traffic) {
        self.set("bytes_received", traffic.bytes_received.to_string());
        self.set("bytes_sent", traffic.bytes_sent.to_string());
        self.set("time_duration", traffic.seconds.to_string());
    }

    /// Sets one. A character that no name has and a control character in a value become `_`.
    pub(super) fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        if !name.is_empty() {
            self.0.insert(name, OsString::from_vec(printable(value.as_ref())));
        }
    }

    fn set_if(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.set(name, value);
        }
    }

    pub(super) fn address(&mut self, prefix: &str, address: SocketAddr) {
        let name = match address.ip().to_canonical() {
            IpAddr::V4(_) => format!("{prefix}_ip"),
            IpAddr::V6(_) => format!("{prefix}_ip6"),
        };
        self.set(&name, address.ip().to_canonical().to_string());
        self.set(&format!("{prefix}_port"), address.port().to_string());
    }

    /// The pairs for the process.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&String, &OsString)> {
        self.0.iter()
    }

    #[cfg(test)]
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(|value| value.to_str())
    }
}

/// Bytes with every control character replaced by `_`, cut at 8 KiB. What is beyond ASCII is kept.
pub(super) fn printable(value: &[u8]) -> Vec<u8> {
    value.iter().take(MAX_VALUE).map(|&byte| if byte < 0x20 || byte == 0x7f { b'_' } else { byte }).collect()
}

/// Of what peers say about themselves, only these names reach a script.
pub(in crate::gateway) fn is_exported(name: &str) -> bool {
    let known = name.starts_with("IV_") || name.starts_with("UV_");
    known && name.len() <= 256 && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn plain_for_shells(value: &str) -> String {
    value.chars().map(|c| if c.is_ascii_graphic() && !matches!(c, '$' | '(' | '`') { c } else { '_' }).collect()
}

fn colons(digest: &[u8]) -> String {
    let mut text = String::with_capacity(digest.len() * 3);
    for (at, byte) in digest.iter().enumerate() {
        let _ = write!(text, "{}{byte:02x}", if at == 0 { "" } else { ":" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use controlplane::Secret;

    fn login() -> LoginFacts {
        LoginFacts {
            common_name: "client, x".to_owned(),
            username: "us er;$(x)".to_owned(),
            password: Secret(b"pass".to_vec()),
            remote: "127.0.0.1:53777".parse().unwrap(),
            certificate: Some(CertificateFacts {
                chain: vec![
                    super::super::facts::CertificateRow {
                        subject: "C=DE, OU=U1, OU=U2, CN=client, x".to_owned(),
                        serial: Some("380305663".to_owned()),
                        serial_hex: Some("16:ab:00:ff".to_owned()),
                        sha1: Some([0xd0; 20]),
                        sha256: Some([0x0f; 32]),
                        fields: [("C", "DE"), ("OU", "U1"), ("OU", "U2"), ("CN", "client, x")]
                            .map(|(name, value)| (name.to_owned(), value.to_owned()))
                            .to_vec(),
                    },
                    super::super::facts::CertificateRow { subject: "CN=Test CA".to_owned(), ..Default::default() },
                ],
            }),
            peer_info: [
                ("IV_VER", "2.6.14"),
                ("IV_SSL", "OpenSSL 3.0.19 27 Jan 2026"),
                ("UV_TEST", "h e$(l)lo`\u{1b}ü"),
                ("LD_PRELOAD", "/tmp/evil.so"),
                ("UV_A=B", "x"),
                ("UV_A-B", "x"),
                ("XIV_A", "x"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            token: Some(TokenFacts { session_id: "cZYdPpcavOap5SuL".to_owned(), session_state: "Initial" }),
            is_in: false,
        }
    }

    fn gateway() -> GatewayFacts {
        GatewayFacts {
            config: "s.conf".to_owned(),
            device: "tun7".to_owned(),
            tun_mtu: 1_500,
            local_port: 11_940,
            ipv4: Some(Inner4 { address: [10, 99, 0, 1].into(), beside: Beside4::Netmask([255, 255, 255, 0].into()) }),
            ipv6: Some(Inner6 {
                address: "fd99::1".parse().unwrap(),
                prefix: 64,
                other_end: "fd99::2".parse().unwrap(),
            }),
            verb: 3,
            since: 1_795_373_200,
            setenv: vec![("FOO".to_owned(), "bar baz".to_owned())],
        }
    }

    #[track_caller]
    fn has(env: &Environment, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').unwrap();
            assert_eq!(env.get(name), Some(value), "{name}");
        }
    }

    /// Names and values are those that stock 2.6.14 gives in the same situation.
    #[test]
    fn every_script_is_told_about_the_gateway() {
        let env = Environment::of(&gateway(), "learn-address");
        has(
            &env,
            "FOO=bar baz
            config=s.conf
            daemon=0
            daemon_log_redirect=0
            daemon_start_time=1795373200
            dev=tun7
            dev_type=tun
            ifconfig_ipv6_local=fd99::1
            ifconfig_ipv6_netbits=64
            ifconfig_ipv6_remote=fd99::2
            ifconfig_local=10.99.0.1
            ifconfig_netmask=255.255.255.0
            local_port_1=11940
            proto_1=udp
            redirect_gateway=0
            remote_port_1=11940
            script_context=init
            script_type=learn-address
            tun_mtu=1500
            verb=3",
        );
        assert!(env.get("PATH").is_some() && env.get("HOME").is_none() && env.get("username").is_none());
    }

    #[test]
    fn a_login_is_told_by_openvpns_names() {
        let mut env = Environment::of(&gateway(), "user-pass-verify");
        env.login(&login());
        has(
            &env,
            "IV_VER=2.6.14
            IV_SSL=OpenSSL_3.0.19_27_Jan_2026
            UV_TEST=h_e__l)lo___
            X509_0_C=DE
            X509_0_CN=client, x
            X509_0_OU=U1
            X509_0_OU_1=U2
            common_name=client, x
            username=us er;$(x)
            session_id=cZYdPpcavOap5SuL
            session_state=Initial
            tls_digest_0=d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0:d0
            tls_id_0=C=DE, OU=U1, OU=U2, CN=client, x
            tls_id_1=CN=Test CA
            tls_serial_0=380305663
            tls_serial_hex_0=16:ab:00:ff
            untrusted_ip=127.0.0.1
            untrusted_port=53777",
        );
        for absent in
            ["LD_PRELOAD", "UV_A", "UV_A_B", "XIV_A", "password", "trusted_ip", "tls_serial_1", "untrusted_ip6"]
        {
            assert_eq!(env.get(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_session_is_told_with_its_addresses_and_its_end() {
        let mut env = Environment::of(&gateway(), "client-disconnect");
        let mut session = SessionFacts {
            login: login(),
            since: 1_795_373_202,
            ipv4: Some(Inner4 { address: [10, 99, 0, 2].into(), beside: Beside4::Netmask([255, 255, 255, 0].into()) }),
            ipv6: Some(Inner6 {
                address: "fd99::1000".parse().unwrap(),
                prefix: 64,
                other_end: "fd99::1".parse().unwrap(),
            }),
        };
        env.session(&session);
        env.traffic(&Traffic { bytes_received: 2_153, bytes_sent: 2_385, seconds: 9 });
        has(
            &env,
            "bytes_received=2153
            bytes_sent=2385
            time_duration=9
            time_unix=1795373202
            ifconfig_pool_ip6_netbits=64
            ifconfig_pool_local_ip6=fd99::1
            ifconfig_pool_netmask=255.255.255.0
            ifconfig_pool_remote_ip6=fd99::1000
            ifconfig_pool_remote_ip=10.99.0.2
            trusted_ip=127.0.0.1
            trusted_port=53777
            untrusted_ip=127.0.0.1",
        );
        assert_eq!(env.get("time_ascii").map(str::len), Some("2026-11-22 18:46:42".len()));
        session.ipv4 =
            Some(Inner4 { address: [10, 99, 0, 6].into(), beside: Beside4::OtherEnd([10, 99, 0, 5].into()) });
        let mut env = Environment::default();
        env.session(&session);
        has(&env, "ifconfig_pool_remote_ip=10.99.0.6\nifconfig_pool_local_ip=10.99.0.5");
        assert_eq!(env.get("ifconfig_pool_netmask"), None);
    }

    #[test]
    fn addresses_are_named_by_their_family() {
        let mut env = Environment::default();
        env.address("trusted", "[2001:db8::7]:1194".parse().unwrap());
        assert_eq!((env.get("trusted_ip6"), env.get("trusted_ip")), (Some("2001:db8::7"), None));
        let mut env = Environment::default();
        env.address("trusted", "[::ffff:192.0.2.1]:1194".parse().unwrap());
        assert_eq!((env.get("trusted_ip"), env.get("trusted_ip6")), (Some("192.0.2.1"), None));
        assert_eq!(env.get("trusted_port"), Some("1194"));
    }

    #[test]
    fn hostile_names_and_values_are_made_harmless() {
        let mut env = Environment::default();
        env.set("X509_0_a=b\0c d", "one\ntwo\0three\x7f\u{e9}");
        assert_eq!(env.get("X509_0_a_b_c_d"), Some("one_two_three_\u{e9}"));
        env.set("", "x");
        assert_eq!(env.pairs().count(), 1);
        env.set("long", vec![b'x'; 100_000]);
        assert_eq!(env.get("long").map(str::len), Some(MAX_VALUE));
        let mut hostile = login();
        hostile.peer_info = (0..10_000).map(|n| (format!("UV_{n}"), "x".to_owned())).collect();
        hostile.common_name.clear();
        let mut env = Environment::default();
        env.login(&hostile);
        assert!(env.pairs().count() < 2 * MAX_ENTRIES);
        assert_eq!(env.get("common_name"), None);
    }
}

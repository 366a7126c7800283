//! What the tests of this folder share: a directory of their own, randomness from a seed, a fixed present.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use controlplane::{Cipher, Digest, Random, Secret, TlsSetup, TlsVersion, Wrap};

use super::settings::{Settings, Surroundings, Wishes};
use super::state::State;
use crate::config::agreed::{Device, Family, MssFix, ReplayWindow, Timers};
use crate::config::server::{self, Listen, Pool4, Pool6, ServerFiles, ServerProfile};
use crate::config::tunnel::Topology;

/// The present of tests, in seconds since 1970: 2026-11-22 12:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_348_800;
/// Seconds of a day.
pub(crate) const DAY: u64 = 86_400;

/// A directory that goes when it is dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("minivpn-gateway-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that follow from a seed.
#[derive(Debug)]
pub(crate) struct Seeded(pub(crate) u64);

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            // splitmix64's step and finish, one byte at a time.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            *byte = (mixed >> 32) as u8;
        }
    }
}

/// Settings as of a first run on a host with IPv6.
pub(crate) fn settings() -> Settings {
    let wishes = Wishes {
        endpoint: "vpn.example.com".parse().ok(),
        pool_ipv6: Some("fd00:1::/64".parse().ok()),
        ..Wishes::default()
    };
    let around = Surroundings { networks: Vec::new(), name_servers: vec![[192, 0, 2, 53].into()], ipv6: true };
    Settings::first(&wishes, &"default".parse().unwrap(), &around, &mut Seeded(1)).unwrap()
}

/// A gateway made just now, by the real clock and real randomness, in `state` within a directory.
pub(crate) fn gateway(directory: &Path) -> State {
    let now = crate::clock::now().unix;
    let mut state = State::create(&directory.join("state"), &"default".parse().unwrap(), now).unwrap();
    state.ensure(&settings().endpoint, now, &mut controlplane::SystemRandom).unwrap();
    state
}

/// A small gateway, 10.8.0.0/24 and fd00::/64, topology subnet.
pub(crate) fn profile() -> ServerProfile {
    ServerProfile {
        listen: Listen { address: None, port: 1194, family: Family::V4, ipv6_only: false, multihome: false },
        device: Device::default(),
        topology: Topology::Subnet,
        ipv4: Some(Pool4 {
            network: Ipv4Addr::new(10, 8, 0, 0),
            prefix: 24,
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            local: Ipv4Addr::new(10, 8, 0, 1),
            peer: None,
            pool_start: Ipv4Addr::new(10, 8, 0, 2),
            pool_end: Ipv4Addr::new(10, 8, 0, 253),
            dynamic: true,
        }),
        ipv6: Some(Pool6 {
            local: "fd00::1".parse().unwrap(),
            prefix: 64,
            base: "fd00::1000".parse().unwrap(),
            pool_prefix: 64,
            dynamic: true,
        }),
        pool_persist: None,
        routes: Vec::new(),
        ifconfig_noexec: false,
        route_noexec: false,
        push: Vec::new(),
        wrap: Wrap::None,
        tls: TlsSetup {
            ca_pem: String::new(),
            cert_pem: String::new(),
            key_pem: Secret::default(),
            crl_pem: None,
            peer_usage: None,
            verify_name: None,
            fingerprints: Vec::new(),
            version_min: TlsVersion::V1_2,
            version_max: TlsVersion::V1_3,
        },
        client_certificate: server::ClientCertificate::Require,
        username_as_common_name: false,
        user_pass_verify: None,
        user_pass_optional: false,
        auth_gen_token: None,
        tls_verify: None,
        client_connect: None,
        client_disconnect: None,
        learn_address: None,
        script_security: 1,
        setenv: Vec::new(),
        tmp_dir: "/tmp".into(),
        directory: PathBuf::new(),
        client_config_dir: None,
        ccd_exclusive: false,
        client_to_client: false,
        duplicate_cn: false,
        max_clients: 1_024,
        keepalive: None,
        float: false,
        connect_freq_initial: (100, 10),
        explicit_exit_notify: None,
        data_ciphers: vec![Cipher::Aes256Gcm],
        fallback_cipher: None,
        auth: Digest::Sha1,
        timers: Timers {
            tls_timeout: 2,
            hand_window: 60,
            tran_window: 3_600,
            reneg_sec: 3_600,
            reneg_bytes: None,
            reneg_pkts: None,
        },
        replay_window: ReplayWindow { packets: 8_192, seconds: 15 },
        tun_mtu: 1_500,
        mssfix: MssFix::Mtu(1_492),
        mtu_disc: None,
        max_packet_size: 1_250,
        sndbuf: None,
        rcvbuf: None,
        status: None,
        user: None,
        group: None,
        mark: None,
        bind_dev: None,
        files: ServerFiles::default(),
    }
}

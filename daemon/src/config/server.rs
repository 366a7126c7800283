//! What we agreed to serve: a server's configuration after every check, with every default filled in and every helper (`server`,
//! `server-ipv6`, `keepalive`) expanded. How the written form becomes this one is in `server_agree.rs`. Defaults are those of
//! OpenVPN 2.6 unless a field says otherwise. What belongs to one client alone is in `client_dir.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use controlplane::ClientCertificate;
use controlplane::{Cipher, Digest, ReplyLimit, Secret, ServerSetup, TlsSetup, Wrap};

use super::agreed::{Device, Family, MssFix, MtuDiscovery, ReplayWindow, Timers};
use super::tunnel::Topology;

/// Most clients at once, at which every peer-id of 24 bits but the last is in use: 0xFFFFFF means that there is none.
pub const MAX_CLIENTS: u32 = 0xFF_FFFF;

/// Everything that a gateway needs to serve and to set up the host. Times in seconds unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerProfile {
    /// Where clients are awaited.
    pub listen: Listen,
    /// The TUN device.
    pub device: Device,
    /// `topology`: how clients read their addresses; default net30.
    pub topology: Topology,
    /// IPv4 in the tunnel; `None`: IPv6 only.
    pub ipv4: Option<Pool4>,
    /// IPv6 in the tunnel; `None`: IPv4 only.
    pub ipv6: Option<Pool6>,
    /// `ifconfig-pool-persist FILE [seconds]`: where leases are kept, and how often they are written; default 600, 0 is never
    /// (the file is only read).
    pub pool_persist: Option<(PathBuf, u32)>,
    /// `route` and `route-ipv6`, with what `server` implies: what the host sends into the TUN device besides its own subnets.
    pub routes: Vec<KernelRoute>,
    /// `ifconfig-noexec`: leave the addresses to somebody else.
    pub ifconfig_noexec: bool,
    /// `route-noexec`: leave the routes to somebody else.
    pub route_noexec: bool,
    /// `push`, complete: with what `server`, `server-ipv6`, `topology` and `keepalive` imply, after `push-remove`. Without what is
    /// made for each client (`ifconfig`, `peer-id`, `cipher`, …).
    pub push: Vec<String>,
    /// The control channel's protection.
    pub wrap: Wrap,
    /// TLS identity and checks; `ca_pem` is empty when the configuration has no `ca`.
    pub tls: TlsSetup,
    /// `verify-client-cert`
    pub client_certificate: ClientCertificate,
    /// `username-as-common-name`
    pub username_as_common_name: bool,
    /// `auth-user-pass-verify`
    pub user_pass_verify: Option<UserPassVerify>,
    /// `auth-user-pass-optional`: clients may come without a user name.
    pub user_pass_optional: bool,
    /// `auth-gen-token` and `auth-gen-token-secret`
    pub auth_gen_token: Option<AuthGenToken>,
    /// `tls-verify`: the words of its command line. Run in [`directory`](Self::directory), as every command here.
    pub tls_verify: Option<Vec<String>>,
    /// `client-connect`
    pub client_connect: Option<Vec<String>>,
    /// `client-disconnect`
    pub client_disconnect: Option<Vec<String>>,
    /// `learn-address`
    pub learn_address: Option<Vec<String>>,
    /// `script-security`, 0..=3; default 1. 2 and more when a command is set.
    pub script_security: u8,
    /// `setenv` and `setenv-safe` (as `OPENVPN_name`): the environment of every command.
    pub setenv: Vec<(String, String)>,
    /// `tmp-dir`: where files for commands are made; default /tmp.
    pub tmp_dir: PathBuf,
    /// `cd`: where commands run and relative names start; empty is the current directory.
    pub directory: PathBuf,
    /// `client-config-dir`, read by [`super::client_dir::read`].
    pub client_config_dir: Option<PathBuf>,
    /// `ccd-exclusive`: who has no file there is refused.
    pub ccd_exclusive: bool,
    /// `client-to-client`
    pub client_to_client: bool,
    /// `duplicate-cn`: a second client of the same name does not end the first.
    pub duplicate_cn: bool,
    /// `max-clients`, 1..=[`MAX_CLIENTS`]; default 1024.
    pub max_clients: u32,
    /// The server's own side of `keepalive a b`: a keepalive after a seconds without a packet sent, and a client that was not heard
    /// for 2 b seconds is gone. `ping` and `ping-restart` (or `ping-exit`) set them singly; 0 is off. `None`: both are off.
    pub keepalive: Option<(u32, u32)>,
    /// `float` was written. A packet that authenticates with a client's peer-id moves that client with and without it.
    pub float: bool,
    /// `connect-freq-initial n seconds`; default 100 in 10.
    pub connect_freq_initial: (u32, u32),
    /// `explicit-exit-notify n`: on a stop, 1 tells clients to reconnect, 2 to try their next remote; `None` tells nothing.
    pub explicit_exit_notify: Option<u32>,
    /// `data-ciphers` that this build can do, in order of preference; never empty.
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback` (or an old `cipher`) when it is an AEAD cipher that this build can do.
    pub fallback_cipher: Option<Cipher>,
    /// `auth`; default SHA1.
    pub auth: Digest,
    /// Timers and limits of the control channel.
    pub timers: Timers,
    /// `replay-window`; our default is 8192 packets and 15 s (OpenVPN: 64 and 15 s).
    pub replay_window: ReplayWindow,
    /// `tun-mtu` in bytes; default 1500.
    pub tun_mtu: u16,
    /// `mssfix`, with its default by [`tun_mtu`](Self::tun_mtu).
    pub mssfix: MssFix,
    /// `mtu-disc`; `None` leaves the kernel's default.
    pub mtu_disc: Option<MtuDiscovery>,
    /// `max-packet-size`: largest control packet in bytes with IP and UDP headers; default 1250.
    pub max_packet_size: u16,
    /// `sndbuf` of the transport sockets in bytes; `None` is ours to choose.
    pub sndbuf: Option<u32>,
    /// `rcvbuf`, likewise
    pub rcvbuf: Option<u32>,
    /// `status`
    pub status: Option<StatusFile>,
    /// `user`: drop to it once the tunnel is up.
    pub user: Option<String>,
    /// `group`
    pub group: Option<String>,
    /// `mark`: SO_MARK of the transport sockets.
    pub mark: Option<u32>,
    /// `bind-dev`: the interface that the transport sockets are bound to.
    pub bind_dev: Option<String>,
    /// Where everything was read from.
    pub files: ServerFiles,
}

impl ServerProfile {
    /// What the control process is told before anything else, and again at a reload. `cookie_secret`: 32 random bytes. Generations
    /// start at 1; who resumes sessions of a process before this one sets `first_generation`.
    pub fn server_setup(&self, cookie_secret: Secret, workers: u16) -> ServerSetup {
        let (count, seconds) = self.connect_freq_initial;
        ServerSetup {
            wrap: self.wrap.clone(),
            tls: self.tls.clone(),
            client_certificate: self.client_certificate,
            data_ciphers: self.data_ciphers.clone(),
            fallback_cipher: self.fallback_cipher,
            auth: self.auth,
            tun_mtu: self.tun_mtu,
            tls_timeout: self.timers.tls_timeout,
            hand_window: self.timers.hand_window,
            tran_window: self.timers.tran_window,
            reneg_sec: self.timers.reneg_sec,
            max_packet_size: self.max_packet_size,
            limits: self.timers.key_limits(),
            max_clients: self.max_clients,
            cookie_secret,
            replies: ReplyLimit { count, seconds },
            workers,
            first_generation: 1,
        }
    }
}

/// Where clients are awaited: UDP only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// `local`; `None` is every address.
    pub address: Option<IpAddr>,
    /// `lport`, or `port`; default 1194.
    pub port: u16,
    /// `proto udp`, `udp4` or `udp6`.
    pub family: Family,
    /// `bind ipv6only`: an IPv6 socket does not take IPv4.
    pub ipv6_only: bool,
    /// `multihome` was written. Answers leave from the address that was asked with and without it.
    pub multihome: bool,
}

impl Listen {
    /// The address to bind to. `udp` without `local` is IPv4, as OpenVPN 2.6 has it; `udp6` is both, unless
    /// [`ipv6_only`](Self::ipv6_only).
    pub fn socket_address(&self) -> SocketAddr {
        let any: IpAddr = match self.family {
            Family::Any | Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(self.address.unwrap_or(any), self.port)
    }
}

/// IPv4 in the tunnel: the server's own address, and those for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool4 {
    /// First address of the network that the server's address and the pool lie in.
    pub network: Ipv4Addr,
    /// Its prefix length, 8..=32.
    pub prefix: u8,
    /// The same as a mask; what clients of topology subnet get with their address.
    pub netmask: Ipv4Addr,
    /// The server's address.
    pub local: Ipv4Addr,
    /// Topologies net30 and p2p: the other end of the server's point-to-point device. `None` in topology subnet.
    pub peer: Option<Ipv4Addr>,
    /// First address for clients. In topology net30 the first of the first block of four, of which a client gets the third address
    /// as its own, and the second as its peer.
    pub pool_start: Ipv4Addr,
    /// Last address for clients, inclusive.
    pub pool_end: Ipv4Addr,
    /// False (`nopool`, or `ifconfig` without `ifconfig-pool`): the range above is empty of meaning, and clients have only what
    /// `ifconfig-push` gives them.
    pub dynamic: bool,
}

/// IPv6 in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool6 {
    /// The server's address.
    pub local: Ipv6Addr,
    /// Prefix length of the server's network, 32..=128.
    pub prefix: u8,
    /// First address for clients; the pool ends with the network of [`pool_prefix`](Self::pool_prefix).
    pub base: Ipv6Addr,
    /// What clients get with their address, 64..=124.
    pub pool_prefix: u8,
    /// False (`ifconfig-ipv6` without `ifconfig-ipv6-pool`): clients have only what `ifconfig-ipv6-push` gives them.
    pub dynamic: bool,
}

/// A route into the TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// First address of the network; host bits are zero.
    pub network: IpAddr,
    /// Prefix length.
    pub prefix: u8,
    /// Its metric, `route-metric` applied; `None` is the kernel's default.
    pub metric: Option<u32>,
}

/// `auth-user-pass-verify`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPassVerify {
    /// The words of the command line; never empty.
    pub command: Vec<String>,
    /// `via-env`: user name and password are in the environment (the password only with `script-security 3`). Else `via-file`: in a
    /// file, which is the last argument.
    pub via_env: bool,
}

/// `auth-gen-token [lifetime] [renewal] [external-auth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthGenToken {
    /// How long a token can be renewed; 0 is for ever.
    pub lifetime: u32,
    /// A token is valid for twice this; `None` is `reneg-sec`.
    pub renewal: Option<u32>,
    /// `external-auth`: the command is asked about tokens too.
    pub external_auth: bool,
    /// `auth-gen-token-secret`: 128 bytes, of which bytes 64..96 are the HMAC key. `None`: made anew at each start.
    pub secret: Option<Secret>,
}

/// `status FILE [seconds]` and `status-version`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusFile {
    /// Where it is written.
    pub path: PathBuf,
    /// How often, in seconds; default 60.
    pub every_s: u32,
    /// Its form, 1..=3; default 1.
    pub version: u8,
}

/// The files that a reload reads anew; `None` for what is inline or not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFiles {
    /// The configuration itself.
    pub config: PathBuf,
    /// `ca`
    pub ca: Option<PathBuf>,
    /// `cert`
    pub cert: Option<PathBuf>,
    /// `key`
    pub key: Option<PathBuf>,
    /// `extra-certs`
    pub extra_certs: Option<PathBuf>,
    /// `crl-verify`
    pub crl: Option<PathBuf>,
    /// `tls-auth` or `tls-crypt`
    pub wrap: Option<PathBuf>,
    /// `auth-gen-token-secret`
    pub auth_gen_token_secret: Option<PathBuf>,
}

impl ServerFiles {
    /// All of them that there are, the configuration first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        let named =
            [&self.ca, &self.cert, &self.key, &self.extra_certs, &self.crl, &self.wrap, &self.auth_gen_token_secret];
        std::iter::once(self.config.as_path()).chain(named.into_iter().filter_map(Option::as_deref))
    }
}

//! What we agreed to run: a client profile after every check, with every default filled in.
//!
//! Nothing here is text to be understood later: names that need a resolver and passwords that need a person are the only
//! things still open. How the written form becomes this one is in `agree.rs`; what a server may change afterwards is
//! [`TunnelSettings`], whose home is `tunnel.rs`. Defaults are those of OpenVPN 2.6 unless a field says otherwise.

use std::net::IpAddr;

use controlplane::{Cipher, ClientSetup, Credentials, Digest, KeyLimits, TlsSetup, Wrap};

use super::problem::At;
use super::tunnel::TunnelSettings;

/// Everything a client needs to connect and to set up the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProfile {
    /// Where to connect, in the order of the profile; never empty. UDP only.
    pub remotes: Vec<Remote>,
    /// `remote-random`: shuffle [`remotes`](Self::remotes) before the first attempt.
    pub remote_random: bool,
    /// `connect-retry-max`: rounds over all remotes; `None` when not written (OpenVPN: unlimited).
    pub connect_retry_max: Option<u32>,
    /// The TUN device.
    pub device: Device,
    /// Addresses, routes, MTU and keepalive as the profile has them; pushed options are laid over a copy of it.
    pub settings: TunnelSettings,
    /// `pull` (or `client`): ask the server for settings. Without it, the profile's own `ifconfig` is used.
    pub pull: bool,
    /// `route-nopull`: take neither routes nor name servers from the server.
    pub route_nopull: bool,
    /// `pull-filter`, in order; the first prefix that matches decides.
    pub pull_filters: Vec<PullFilter>,
    /// The control channel's protection, the same for every remote.
    pub wrap: Wrap,
    /// TLS identity and checks.
    pub tls: TlsSetup,
    /// `data-ciphers` that this build can do, in order of preference; never empty.
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback` (or an old `cipher`) when it is an AEAD cipher that this build can do.
    pub fallback_cipher: Option<Cipher>,
    /// `cipher` as written, in upper case; empty when unset.
    pub options_cipher: String,
    /// `auth`; default SHA1.
    pub auth: Digest,
    /// `replay-window`; our default is 8192 packets and 15 s (OpenVPN: 64 and 15 s).
    pub replay_window: ReplayWindow,
    /// Timers and limits of the control channel.
    pub timers: Timers,
    /// `auth-user-pass`.
    pub credentials: CredentialSource,
    /// `auth-nocache`: forget the password after it was sent.
    pub auth_nocache: bool,
    /// `auth-retry`.
    pub auth_retry: AuthRetry,
    /// `push-peer-info`: send [`peer_vars`](Self::peer_vars) and what is known of the host to the server.
    pub push_peer_info: bool,
    /// `setenv UV_name value` (and `IV_GUI_VER`, `IV_SSO`), as `(name, value)`, at most 64.
    pub peer_vars: Vec<(String, String)>,
    /// `max-packet-size`: largest control packet in bytes with IP and UDP headers; default 1250.
    pub max_packet_size: u16,
    /// `mark`: SO_MARK of the transport socket.
    pub mark: Option<u32>,
    /// `bind-dev`: the interface that the transport socket is bound to.
    pub bind_dev: Option<String>,
    /// `user`: drop to it once the tunnel is up.
    pub user: Option<String>,
    /// `group`.
    pub group: Option<String>,
}

impl ClientProfile {
    /// What the control process is told before anything else. `iv_proto_mask` is 0; host variables other than the profile's own
    /// (`IV_PLAT_VER`, `IV_HWADDR`) are the caller's to add when [`push_peer_info`](Self::push_peer_info) is set.
    pub fn client_setup(&self) -> ClientSetup {
        ClientSetup {
            wrap: self.wrap.clone(),
            tls: self.tls.clone(),
            data_ciphers: self.data_ciphers.clone(),
            fallback_cipher: self.fallback_cipher,
            options_cipher: self.options_cipher.clone(),
            auth: self.auth,
            tun_mtu: self.settings.tun_mtu,
            pull: self.pull,
            iv_proto_mask: 0,
            peer_info: self.peer_info(),
            tls_timeout: self.timers.tls_timeout,
            hand_window: self.timers.hand_window,
            tran_window: self.timers.tran_window,
            reneg_sec: self.timers.reneg_sec,
            max_packet_size: self.max_packet_size,
            limits: self.timers.key_limits(),
            auth_nocache: self.auth_nocache,
        }
    }

    /// UV_ variables go out only with `push-peer-info`; IV_ ones that the profile sets go out always.
    fn peer_info(&self) -> Vec<(String, String)> {
        let goes = |name: &str| self.push_peer_info || name.starts_with("IV_");
        self.peer_vars.iter().filter(|(name, _)| goes(name)).cloned().collect()
    }
}

/// One address to try, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// A host name or an address, as written.
    pub host: String,
    /// Its UDP port; default 1194.
    pub port: u16,
    /// `udp4` and `udp6` restrict what the name may resolve to.
    pub family: Family,
    /// Where our own socket is bound.
    pub bind: Bind,
    /// `connect-timeout` (`server-poll-timeout`) in seconds: how long to wait for an answer before the next remote; default 120.
    pub connect_timeout: u32,
    /// `explicit-exit-notify n`: how often to say goodbye where EXIT is not negotiated; `None` is off. A pushed value wins.
    pub explicit_exit_notify: Option<u32>,
    /// `mssfix` as written; [`mssfix`](Self::mssfix) knows the default.
    pub mssfix: Option<MssFix>,
    /// `mtu-disc`; `None` leaves the kernel's default.
    pub mtu_disc: Option<MtuDiscovery>,
}

impl Remote {
    /// `mssfix`, given the MTU that is in force after the server pushed its own: what is written, else `1492 mtu` for a tunnel of 1500
    /// bytes and `fixed` at the MTU for others.
    pub fn mssfix(&self, tun_mtu: u16) -> MssFix {
        self.mssfix.unwrap_or(MssFix::default_of(tun_mtu))
    }
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// Both, in the resolver's order.
    #[default]
    Any,
    /// `udp4`
    V4,
    /// `udp6`
    V6,
}

/// Where the local end of the transport is bound. `nobind` is both fields empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// `local`
    pub address: Option<IpAddr>,
    /// `lport`; `None` (or `lport 0`) is any free port.
    pub port: Option<u16>,
}

/// `mssfix`, before the overhead of cipher and transport is known. Both directions, IPv4 and IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssFix {
    /// `mssfix 0`
    Off,
    /// `mssfix N mtu`: the whole encapsulated packet, IP and UDP headers included, fits into N bytes.
    Mtu(u16),
    /// `mssfix N`: the UDP payload fits into N bytes.
    Payload(u16),
    /// `mssfix N fixed`: the inner packet fits into N bytes, whatever the encapsulation adds.
    Fixed(u16),
}

impl MssFix {
    /// What holds when none is written: `1492 mtu` in a tunnel of 1500 bytes, `fixed` at the MTU in others.
    pub fn default_of(tun_mtu: u16) -> MssFix {
        match tun_mtu {
            1_500 => MssFix::Mtu(1_492),
            other => MssFix::Fixed(other),
        }
    }
}

/// `mtu-disc`: IP_MTU_DISCOVER of the transport socket (ip(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtuDiscovery {
    /// `no`: IP_PMTUDISC_DONT
    No,
    /// `maybe`: IP_PMTUDISC_WANT
    Maybe,
    /// `yes`: IP_PMTUDISC_DO
    Yes,
}

/// The TUN device to make or to attach to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `dev tunX`, at most 15 bytes; `None` for `dev tun`: the kernel picks a number.
    pub name: Option<String>,
    /// `txqueuelen` in packets.
    pub txqueuelen: Option<u32>,
}

/// `pull-filter`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFilter {
    /// What to do with an option that starts with [`prefix`](Self::prefix).
    pub action: FilterAction,
    /// Compared with the start of the pushed option as it was sent.
    pub prefix: String,
}

/// What `pull-filter` does with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// Take it.
    Accept,
    /// Leave it out.
    Ignore,
    /// End the session.
    Reject,
}

/// `replay-window`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    /// How many packet ids behind the highest one are still accepted, 0..=65536; 0 is strict order.
    pub packets: u32,
    /// How long a late packet is accepted, in seconds, 0..=600.
    pub seconds: u32,
}

/// Timers and usage limits of the control channel. Seconds unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// `tls-timeout`; default 2.
    pub tls_timeout: u32,
    /// `hand-window`; default 60.
    pub hand_window: u32,
    /// `tran-window`; default 3600.
    pub tran_window: u32,
    /// `reneg-sec`; 0 is off, default 3600.
    pub reneg_sec: u32,
    /// `reneg-bytes`; `None` is off.
    pub reneg_bytes: Option<u64>,
    /// `reneg-pkts`; `None` is off.
    pub reneg_pkts: Option<u64>,
}

impl Timers {
    /// Usage limits of every data key: packet ids end at 2^32 − 1, AES-GCM at 2^36 − 1 blocks and packets, of which ¾ ask for a
    /// successor, and 2^36 forgeries (RFC 9001 §6.6 reasons the same way).
    pub fn key_limits(&self) -> KeyLimits {
        KeyLimits {
            soft_packet_id: 0xFF00_0000,
            hard_packet_id: u32::MAX,
            soft_bytes: self.reneg_bytes.unwrap_or(u64::MAX),
            soft_packets: self.reneg_pkts.unwrap_or(u64::MAX),
            soft_aead: AEAD_LIMIT / 4 * 3,
            hard_aead: AEAD_LIMIT,
            hard_failures: 1 << 36,
        }
    }
}

/// Blocks and packets that one AES-GCM key may protect.
const AEAD_LIMIT: u64 = (1 << 36) - 1;

/// Where user name and password come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// The profile has no `auth-user-pass`.
    None,
    /// Ask a person for both.
    Prompt,
    /// The profile (or its file) has the user name only: ask for the password.
    PromptPassword {
        /// The user name.
        username: String,
        /// Where the password would stand; `None` when it is known, and was refused.
        missing: Option<At>,
    },
    /// Both are known.
    Given(Credentials),
}

/// `auth-retry`: what to do when the server refuses the password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthRetry {
    /// `none`: end; the default.
    #[default]
    None,
    /// `nointeract`: try again with the same password.
    NoInteract,
    /// `interact`: ask again, then try.
    Interact,
}

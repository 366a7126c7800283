//! What a running gateway looks like from outside, as one value: filled by the supervisor, sent over the control socket,
//! written to OpenVPN's status file, printed by `minivpn status`. Only the value and its additions belong here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A gateway at one instant. Times are seconds since 1970 unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The gateway itself.
    pub gateway: GatewayRow,
    /// When this was taken.
    pub taken: u64,
    /// Every client that is established, in the order of their peer-ids.
    pub clients: Vec<ClientRow>,
    /// Every worker, by its number.
    pub workers: Vec<WorkerRow>,
    /// The address pools.
    pub pool: PoolRow,
}

/// The gateway itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRow {
    /// Its name.
    pub name: String,
    /// The version of minivpn.
    pub version: String,
    /// The process id of the supervisor.
    pub pid: u32,
    /// When it began to serve.
    pub since: u64,
    /// The addresses it listens on.
    pub listen: Vec<SocketAddr>,
    /// The TUN device.
    pub device: String,
    /// `max-clients`
    pub max_clients: u32,
    /// Logins that are under way.
    pub connecting: u32,
    /// How often the control process has been started anew.
    pub control_restarts: u32,
    /// What packets are moved and sealed with.
    pub data_path: DataPath,
}

/// What packets are moved and sealed with, and why not something faster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPath {
    /// The I/O engine: `uring` or `syscall`.
    pub engine: String,
    /// The AEAD implementation: `aws-lc`, `ring`, `ipsec-mb`.
    pub aead: String,
    /// One sentence each for what is not as fast as it could be.
    pub notes: Vec<String>,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientRow {
    /// The common name of its certificate, or what stands for it (`username-as-common-name`).
    pub common_name: String,
    /// The name it logged in with; `None` without a login.
    pub username: Option<String>,
    /// Its address in the outer network.
    pub real_address: SocketAddr,
    /// Its IPv4 address inside.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address inside.
    pub ipv6: Option<Ipv6Addr>,
    /// Networks behind it (`iroute`), as `10.1.0.0/16`.
    #[serde(default)]
    pub routes: Vec<String>,
    /// Bytes from the client.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// Bits a second from the client of late; `None` before there were two readings.
    #[serde(default)]
    pub rate_in: Option<u64>,
    /// Bits a second to the client of late.
    #[serde(default)]
    pub rate_out: Option<u64>,
    /// When it was established.
    pub since: u64,
    /// When its last packet came.
    pub last_heard: u64,
    /// The data cipher, as `AES-256-GCM`.
    pub cipher: String,
    /// Age of the key it is sent with, in seconds.
    pub key_age: u64,
    /// The worker that carries it.
    pub worker: u16,
    /// The peer-id on the wire.
    pub peer_id: u32,
    /// Its number for the life of this gateway (OpenVPN's client id; the session's generation).
    pub client_id: u32,
    /// `IV_PLAT`
    #[serde(default)]
    pub platform: Option<String>,
    /// `IV_VER`
    #[serde(default)]
    pub version: Option<String>,
    /// `IV_GUI_VER`
    #[serde(default)]
    pub gui_version: Option<String>,
    /// Notices that the client's certificate ends, in seconds since 1970.
    #[serde(default)]
    pub certificate_until: Option<u64>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: u16,
    /// The processor it is bound to.
    pub cpu: Option<u32>,
    /// Offloads in use, as `TUN csum tso4 tso6, socket UDP_SEGMENT UDP_GRO`.
    pub offloads: String,
    /// Peers it carries.
    pub peers: u32,
    /// Packets from the network to the TUN, and their bytes inside.
    pub inbound: Carried,
    /// Packets from the TUN to the network, and their bytes inside.
    pub outbound: Carried,
    /// Packets that went from client to client without the TUN.
    pub relayed: Carried,
    /// Packets that another worker's socket or TUN queue got and that were handed over to this one.
    pub handed_over: u64,
    /// Control datagrams handed up.
    pub control: u64,
    /// Dropped packets by reason; only what happened.
    pub drops: BTreeMap<String, u64>,
}

/// Packets and bytes that went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Inner packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How full the address pools are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRow {
    /// IPv4 addresses that clients hold.
    pub ipv4_used: u64,
    /// IPv4 addresses that there are for clients; 0 without a pool.
    pub ipv4_size: u64,
    /// IPv6 addresses that clients hold.
    pub ipv6_used: u64,
    /// IPv6 addresses that there are for clients; 0 without a pool.
    pub ipv6_size: u64,
}

impl Snapshot {
    /// Dropped packets of all workers by reason; only what happened.
    pub fn drops(&self) -> BTreeMap<&str, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in self.workers.iter().flat_map(|worker| &worker.drops) {
            let sum: &mut u64 = sums.entry(reason.as_str()).or_default();
            *sum = sum.saturating_add(*count);
        }
        sums
    }
}

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

/// What packets are moved and sealed with, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPath {
    /// The I/O engine: `uring` or `syscall`.
    pub engine: String,
    /// The AEAD implementation: `aws-lc`, `ring`, `ipsec-mb`.
    pub aead: String,
    /// One sentence each for what is not as it was wanted, and on the engine and the AEAD: why these.
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
    /// When the client's certificate ends.
    #[serde(default)]
    pub certificate_until: Option<u64>,
}

/// The reason of datagrams that the kernel dropped because a socket's buffer was full.
pub const SOCKET_BUFFER: &str = "socket_buffer_full";

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
    /// Dropped packets by reason; only what happened. What the kernel dropped before the worker saw it is among them, under
    /// [`SOCKET_BUFFER`].
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two clients: one with everything and a name that a table may stumble over, one with as little as there can be.
    pub(crate) fn snapshot() -> Snapshot {
        let client = ClientRow {
            common_name: "client, x".to_owned(),
            username: Some("us er;$(x)".to_owned()),
            real_address: "127.0.0.1:43673".parse().unwrap(),
            ipv4: Some([10, 99, 0, 2].into()),
            ipv6: Some("fd99::1000".parse().unwrap()),
            routes: vec!["10.1.0.0/16".to_owned()],
            bytes_in: 2_090,
            bytes_out: 2_212,
            rate_in: Some(8_000),
            rate_out: Some(9_000_000),
            since: 1_795_373_212,
            last_heard: 1_795_373_214,
            cipher: "AES-256-GCM".to_owned(),
            key_age: 3,
            worker: 0,
            peer_id: 0,
            client_id: 0,
            platform: Some("linux".to_owned()),
            version: Some("2.6.14".to_owned()),
            gui_version: None,
            certificate_until: Some(1_900_000_000),
        };
        let bare = ClientRow {
            common_name: String::new(),
            username: None,
            real_address: "[2001:db8::7]:1194".parse().unwrap(),
            ipv4: Some([10, 99, 0, 3].into()),
            ipv6: None,
            routes: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
            rate_in: None,
            rate_out: None,
            since: 1_795_373_200,
            last_heard: 1_795_373_201,
            cipher: "CHACHA20-POLY1305".to_owned(),
            key_age: 15,
            worker: 1,
            peer_id: 1,
            client_id: 7,
            platform: None,
            version: None,
            gui_version: None,
            certificate_until: None,
        };
        let worker = |worker, drops: &[(&str, u64)]| WorkerRow {
            worker,
            offloads: "TUN csum tso4, socket UDP_GRO".to_owned(),
            peers: 1,
            inbound: Carried { packets: 20, bytes: 2_000 },
            drops: drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            ..WorkerRow::default()
        };
        Snapshot {
            gateway: GatewayRow {
                name: "office".to_owned(),
                version: "0.1.0".to_owned(),
                pid: 4_711,
                since: 1_795_286_800,
                listen: vec!["0.0.0.0:1194".parse().unwrap()],
                device: "tun0".to_owned(),
                max_clients: 1_024,
                connecting: 1,
                control_restarts: 0,
                data_path: DataPath {
                    engine: "uring".to_owned(),
                    aead: "ipsec-mb".to_owned(),
                    notes: vec!["no steering of the TUN's queues".to_owned()],
                },
            },
            taken: 1_795_373_215,
            clients: vec![client, bare],
            workers: vec![worker(0, &[("replayed", 3), ("no_route", 1)]), worker(1, &[("replayed", 2)])],
            pool: PoolRow { ipv4_used: 2, ipv4_size: 253, ipv6_used: 1, ipv6_size: 65_536 },
        }
    }

    #[test]
    fn a_snapshot_survives_its_journey() {
        let text = serde_json::to_string(&snapshot()).unwrap();
        assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot());
    }

    #[test]
    fn a_snapshot_of_a_newer_gateway_is_read_as_far_as_it_is_known() {
        let mut value = serde_json::to_value(snapshot()).unwrap();
        value["news"] = 7.into();
        value["clients"][0].as_object_mut().unwrap().remove("gui_version");
        assert_eq!(serde_json::from_value::<Snapshot>(value).unwrap(), snapshot());
    }

    #[test]
    fn drops_are_summed_over_workers() {
        assert_eq!(snapshot().drops(), BTreeMap::from([("replayed", 5), ("no_route", 1)]));
    }
}

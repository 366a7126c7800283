//! What a run of `minivpn bench` measured, as it is kept in results.json. Only the data and how it is read back; what is
//! concluded from it is in `report`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

/// The form of results.json that this version writes and reads.
pub const SCHEMA: u32 = 1;

/// The largest results.json that is read, in bytes. A full run is well below 1 MiB.
pub const MAX_FILE: u64 = 64 << 20;

/// One run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The form of the file: [`SCHEMA`].
    pub schema: u32,
    /// When the run began (RFC 3339).
    pub started: String,
    /// The command as it was given, program first.
    pub command_line: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// Versions by program (`minivpn`, `openvpn`, …).
    pub versions: BTreeMap<String, String>,
    /// What was measured; at most one per contender, link and test.
    pub series: Vec<Series>,
    /// What was not measured.
    pub skipped: Vec<Skipped>,
    /// The AEAD table.
    pub crypto: Vec<CryptoRow>,
}

/// The machine of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model name of the processor.
    pub cpu: String,
    /// Processors that the run could use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Kernel release and version.
    pub kernel: String,
    /// The distribution.
    pub os: String,
    /// The hypervisor or container, `none` on bare metal.
    pub virtualization: String,
}

/// All rounds of one test by one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// `veth` (no tunnel), `minivpn/uring/ipsec-mb`, `openvpn`, `wireguard-go`, `wireguard (kernel)`, …
    pub contender: String,
    /// The offloads that were in use, in words.
    pub offloads: String,
    /// The link below.
    pub link: Link,
    /// The test.
    pub test: Test,
    /// One per round.
    pub samples: Vec<Sample>,
}

/// What the link below the tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Super-packets cross whole, as with a network card that segments and coalesces by itself.
    Offloaded,
    /// Every packet is cut to the MTU before it crosses, as with a card that does nothing.
    Segmented,
}

/// Which way a transfer goes, seen from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Client to server.
    Up,
    /// Server to client.
    Down,
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// One TCP connection.
    TcpSingle {
        /// Which way the data goes.
        direction: Direction,
    },
    /// Several TCP connections at once.
    TcpParallel {
        /// How many.
        flows: u32,
        /// Which way the data goes.
        direction: Direction,
    },
    /// UDP datagrams, as many as the receiver gets.
    Udp {
        /// Payload of a datagram in bytes.
        size: u32,
        /// Which way the data goes.
        direction: Direction,
    },
    /// Round trips on an idle link.
    LatencyIdle,
    /// Round trips while a TCP transfer fills the link.
    LatencyLoaded,
}

/// One round of a series. What the test does not measure is 0 or `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The round; samples of the same round ran next to each other and are compared with each other.
    pub round: u32,
    /// Received payload, in bits a second.
    #[serde(deserialize_with = "null_is_nan")]
    pub bits_per_second: f64,
    /// Received packets a second.
    #[serde(deserialize_with = "null_is_nan")]
    pub packets_per_second: f64,
    /// Share of the packets sent that did not arrive, 0 to 1.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Round-trip times.
    pub latency_us: Option<Latency>,
    /// Processor time of the programs at both ends, sender and receiver together, per packet that arrived, in ns. Work that the
    /// kernel does outside of their threads is not in it.
    pub ns_per_packet: Option<f64>,
}

/// Round-trip times of one round, in µs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The shortest.
    #[serde(deserialize_with = "null_is_nan")]
    pub min: f64,
    /// The median.
    #[serde(deserialize_with = "null_is_nan")]
    pub p50: f64,
    /// 90 % were not longer.
    #[serde(deserialize_with = "null_is_nan")]
    pub p90: f64,
    /// 99 % were not longer.
    #[serde(deserialize_with = "null_is_nan")]
    pub p99: f64,
    /// 99.9 % were not longer.
    #[serde(deserialize_with = "null_is_nan")]
    pub p999: f64,
    /// The longest.
    #[serde(deserialize_with = "null_is_nan")]
    pub max: f64,
    /// Upper edge of a bucket in µs and how many fell into it, by rising edge.
    pub histogram: Vec<(u64, u64)>,
}

/// What was not measured, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// As in [`Series::contender`].
    pub contender: String,
    /// A sentence.
    pub reason: String,
}

/// The cost of one AEAD operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CryptoRow {
    /// `aws-lc-rs`, `ring`, `ipsec-mb`.
    pub backend: String,
    /// OpenVPN's name of the cipher (`AES-256-GCM`).
    pub cipher: String,
    /// Plaintext in bytes.
    pub size: usize,
    /// Sealing one packet, in ns.
    #[serde(deserialize_with = "null_is_nan")]
    pub seal_ns: f64,
    /// Opening one packet, in ns.
    #[serde(deserialize_with = "null_is_nan")]
    pub open_ns: f64,
}

/// Why a results.json could not be read; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}; give the results.json of an earlier `minivpn bench --out DIR`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_FILE`].
    #[error("{path} is larger than {} MiB, so it is no results.json; give the file that `minivpn bench --out DIR` wrote", MAX_FILE >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not what this program wrote.
    #[error(
        "{path} is not a results.json: {reason}; give the file that `minivpn bench --out DIR` wrote, or measure again"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The file is of another version of the form.
    #[error(
        "{path} has schema {found}, this minivpn reads schema {SCHEMA}; compare with the version that wrote it, or measure again"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// The schema it names.
        found: u64,
    },
}

impl Results {
    /// Reads a results.json. At most [`MAX_FILE`] bytes are read, whatever the file is. Fractions come back but for their
    /// last bit; what was no number (`null`) comes back as NaN.
    pub fn load(path: impl AsRef<Path>) -> Result<Results, LoadError> {
        let path = path.as_ref();
        let unreadable = |source| LoadError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(LoadError::TooLarge { path: path.to_owned() });
        }
        Results::parse(&bytes, path)
    }

    /// The schema comes first: a file of another version must not be reported as damaged.
    fn parse(bytes: &[u8], path: &Path) -> Result<Results, LoadError> {
        #[derive(Deserialize)]
        struct Head {
            schema: u64,
        }
        let malformed =
            |error: serde_json::Error| LoadError::Malformed { path: path.to_owned(), reason: error.to_string() };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.schema != u64::from(SCHEMA) {
            return Err(LoadError::Schema { path: path.to_owned(), found: head.schema });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }
}

/// JSON has no NaN; serde_json writes null for it, and a run is not lost because of one figure.
fn null_is_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

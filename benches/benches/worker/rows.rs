//! What is measured: one row of the table each, with its target.

use benches::packets::Inner;

/// What the generator puts into the worker's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// UDP into the TUN, as many datagrams in one super-packet; 1: single packets.
    Seal { train: usize },
    /// Sealed datagrams to the socket, as many in one GRO train; 1: single datagrams.
    Open { train: usize, inner: Inner },
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For `--rows` and JSON.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Bytes of an inner packet, IP header included.
    pub inner_len: usize,
    /// What comes.
    pub traffic: Traffic,
    /// Packets or trains in the queue when the worker starts.
    pub queue: usize,
    /// Nanoseconds to reach with aws-lc.
    pub target_aws_lc: Option<u32>,
    /// Nanoseconds to reach with ipsec-mb.
    pub target_ipsec_mb: Option<u32>,
}

impl Row {
    /// Whether the worker seals; otherwise it opens.
    pub fn seals(&self) -> bool {
        matches!(self.traffic, Traffic::Seal { .. })
    }

    /// Inner packets in the queue.
    pub fn packets(&self) -> u64 {
        let (Traffic::Seal { train } | Traffic::Open { train, .. }) = self.traffic;
        (self.queue * train) as u64
    }
}

/// All rows.
pub const ROWS: [Row; 10] = [
    Row {
        name: "seal-1420-super",
        title: "seal, 1,420 B from super-packets",
        inner_len: 1_420,
        traffic: Traffic::Seal { train: 42 },
        queue: 64,
        target_aws_lc: Some(265),
        target_ipsec_mb: Some(180),
    },
    Row {
        name: "seal-1420",
        title: "seal, 1,420 B single packets",
        inner_len: 1_420,
        traffic: Traffic::Seal { train: 1 },
        queue: 1_000,
        target_aws_lc: Some(430),
        target_ipsec_mb: Some(335),
    },
    Row {
        name: "open-1420-trains",
        title: "open, 1,420 B from GRO trains",
        inner_len: 1_420,
        traffic: Traffic::Open { train: 42, inner: Inner::Tcp },
        queue: 64,
        target_aws_lc: Some(260),
        target_ipsec_mb: Some(175),
    },
    Row {
        name: "open-1420",
        title: "open, 1,420 B single datagrams",
        inner_len: 1_420,
        traffic: Traffic::Open { train: 1, inner: Inner::Tcp },
        queue: 1_000,
        target_aws_lc: Some(365),
        target_ipsec_mb: Some(280),
    },
    Row {
        name: "seal-64",
        title: "seal, 64 B",
        inner_len: 64,
        traffic: Traffic::Seal { train: 1 },
        queue: 1_000,
        target_aws_lc: Some(265),
        target_ipsec_mb: Some(210),
    },
    Row {
        name: "open-64",
        title: "open, 64 B, not coalescible",
        inner_len: 64,
        traffic: Traffic::Open { train: 1, inner: Inner::UdpUnsummed },
        queue: 1_000,
        target_aws_lc: Some(650),
        target_ipsec_mb: Some(600),
    },
    Row {
        name: "open-64-uso",
        title: "open, 64 B, coalescible to USO",
        inner_len: 64,
        traffic: Traffic::Open { train: 1, inner: Inner::Udp },
        queue: 1_000,
        target_aws_lc: Some(275),
        target_ipsec_mb: Some(240),
    },
    Row {
        name: "seal-64-super",
        title: "seal, 64 B from super-packets",
        inner_len: 64,
        traffic: Traffic::Seal { train: 64 },
        queue: 64,
        target_aws_lc: None,
        target_ipsec_mb: None,
    },
    Row {
        name: "open-64-trains",
        title: "open, 64 B, not coalescible, GRO trains",
        inner_len: 64,
        traffic: Traffic::Open { train: 64, inner: Inner::UdpUnsummed },
        queue: 64,
        target_aws_lc: None,
        target_ipsec_mb: None,
    },
    Row {
        name: "open-64-uso-trains",
        title: "open, 64 B, coalescible to USO, GRO trains",
        inner_len: 64,
        traffic: Traffic::Open { train: 64, inner: Inner::Udp },
        queue: 64,
        target_aws_lc: None,
        target_ipsec_mb: None,
    },
];

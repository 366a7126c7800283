//! One receive from the network: a train of datagrams of one size from one sender, as UDP_GRO delivers it.

use link::message::Path;

/// Datagrams of `segment` bytes each behind one another, the last of which may be shorter. A single datagram is a train
/// with `segment == bytes.len()`.
#[derive(Debug)]
pub struct Train<'a> {
    /// The datagrams' bytes. The pipeline may overwrite them.
    pub bytes: &'a mut [u8],
    /// Bytes of each datagram (the control message UDP_GRO), or all of them.
    pub segment: usize,
    /// Where they came from.
    pub path: Path,
}

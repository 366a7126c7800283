//! What TUN gives and takes: single IP packets and super-packets behind a virtio header.
//!
//! [`virtio`] the header, [`ip`] reading IP packets, [`checksum`] the Internet checksum, [`split`] a super-packet into packets,
//! [`coalesce`] packets into super-packets, [`too_big`] the answer to a packet that is too long,
//! [`relay`] packets that turn round. No device here.

pub mod checksum;
pub mod coalesce;
pub mod ip;
pub mod relay;
pub mod split;
pub mod too_big;
pub mod virtio;

#[cfg(test)]
pub(crate) mod test_packets;

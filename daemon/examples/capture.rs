//! Everything that comes out of a tunnel, as a pcapng file for Wireshark or tcpdump; and an echo request each second, so that
//! something comes. Ends after so many packets.
//!
//! ```text
//! cargo run --example capture -- office.ovpn 10.8.0.1 20 tunnel.pcapng
//! ```

use std::borrow::Cow;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minivpn::{Options, Tunnel, load_profile};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, profile, host, count, file] = arguments.as_slice() else {
        return Err("usage: capture PROFILE IPV4-ADDRESS PACKETS FILE".into());
    };
    let (host, count): (Ipv4Addr, u32) = (host.parse()?, count.parse()?);
    let tunnel = Tunnel::connect_blocking(load_profile(profile)?, Options::default())?;
    let ours = tunnel.parameters().ipv4.ok_or("the server gives no IPv4 address")?.address;
    let mut capture = begin(file)?;
    let mut packet = vec![0; usize::from(tunnel.parameters().mtu)];
    for sequence in 0..count {
        let request = echo_request(ours, host, u16::try_from(sequence % 65_536)?);
        write(&mut capture, &request)?;
        tunnel.send_blocking(&request)?;
        if let Some(length) = tunnel.recv_timeout(&mut packet, Duration::from_secs(1))? {
            write(&mut capture, &packet[..length])?;
        }
    }
    capture.into_inner().flush()?;
    tunnel.close_blocking()?;
    Ok(())
}

/// A file of raw IP packets (LINKTYPE_RAW) with time in nanoseconds.
fn begin(file: &str) -> Result<PcapNgWriter<BufWriter<File>>, Box<dyn Error>> {
    let mut capture = PcapNgWriter::new(BufWriter::new(File::create(file)?))?;
    capture.write_pcapng_block(InterfaceDescriptionBlock {
        linktype: DataLink::RAW,
        snaplen: 0,
        options: vec![InterfaceDescriptionOption::IfTsResol(9)],
    })?;
    Ok(capture)
}

fn write(capture: &mut PcapNgWriter<BufWriter<File>>, packet: &[u8]) -> Result<(), Box<dyn Error>> {
    capture.write_pcapng_block(EnhancedPacketBlock {
        interface_id: 0,
        timestamp: SystemTime::now().duration_since(UNIX_EPOCH)?,
        original_len: u32::try_from(packet.len())?,
        data: Cow::Borrowed(packet),
        options: Vec::new(),
    })?;
    Ok(())
}

/// An ICMP echo request (RFC 792) in an IPv4 packet.
fn echo_request(from: Ipv4Addr, to: Ipv4Addr, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0; 84];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 84, 0, 0, 0x40, 0, 64, 1, 0, 0]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20] = 8;
    packet[24..26].copy_from_slice(&std::process::id().to_be_bytes()[2..]);
    packet[26..28].copy_from_slice(&sequence.to_be_bytes());
    let sum = checksum(&packet[20..]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Internet checksum (RFC 1071) over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

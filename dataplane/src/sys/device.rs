//! What a network device says of itself: whether it cuts UDP runs into datagrams by its own hardware (`tx-udp-segmentation`,
//! ethtool(8)), and which device has an address.

use std::ffi::CStr;
use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use crate::sys::socket::WireSocket;

/// Commands of SIOCETHTOOL (linux/ethtool.h).
const GDRVINFO: u32 = 0x3;
const GSTRINGS: u32 = 0x1b;
const GSSET_INFO: u32 = 0x37;
const GFEATURES: u32 = 0x3a;
/// ETH_SS_FEATURES: the set of strings that names the features.
const FEATURES: u32 = 4;
/// ETH_GSTRING_LEN: bytes of a name, zeros at the end.
const NAME: usize = 32;
/// Words of `struct ethtool_drvinfo`.
const DRVINFO_WORDS: usize = 49;
/// More features than this no kernel has.
const MOST_FEATURES: usize = 1024;
/// `NETIF_F_GSO_UDP_L4` by its name.
const UDP_SEGMENTATION: &[u8] = b"tx-udp-segmentation";
/// Drivers that say they segment and hand the packet to another socket of this host instead: what was not copied is copied then.
const LOOPING: [&[u8]; 3] = [b"veth", b"tun", b"netkit"];
/// As many devices are looked at.
const MOST_DEVICES: usize = 64;

/// The interface indexes of devices that segment in hardware, as they say.
pub(super) fn segmenting(any: BorrowedFd<'_>) -> Vec<u32> {
    let mut found = Vec::new();
    for (name, _) in addresses().into_iter().chain(names()).take(MOST_DEVICES) {
        let index = index_of(&name);
        if index != 0 && !found.contains(&index) && segments(any, &name).is_ok_and(|segments| segments) {
            found.push(index);
        }
    }
    found
}

/// Whether the device that a connected socket sends by segments in hardware: the one that has the socket's address.
pub(super) fn segments_for(socket: &WireSocket) -> bool {
    let Ok(local) = socket.local_addr().map(|local| local.ip().to_canonical()) else { return false };
    let device = addresses().into_iter().find(|(_, address)| *address == Some(local));
    device.is_some_and(|(name, _)| segments(socket.as_fd(), &name).is_ok_and(|segments| segments))
}

/// A device's name with its terminating zero, as the kernel's structures have it.
type Name = [u8; libc::IFNAMSIZ];

/// Whether this device segments UDP in hardware; the loopback, which has no driver, does not.
fn segments(any: BorrowedFd<'_>, name: &Name) -> io::Result<bool> {
    let mut driver = [0; DRVINFO_WORDS];
    driver[0] = GDRVINFO;
    ethtool(any, name, &mut driver)?;
    let driver = text(&driver[1..1 + NAME / 4]);
    if driver.is_empty() || LOOPING.contains(&&driver[..]) {
        return Ok(false);
    }
    // struct ethtool_sset_info: cmd, reserved, 64 bits of which sets are asked for, then a length for each.
    let mut lengths = [GSSET_INFO, 0, 0, 0, 0];
    let mask = (1u64 << FEATURES).to_ne_bytes();
    let (low, high) = mask.split_at(4);
    (lengths[2], lengths[3]) = (word(low), word(high));
    ethtool(any, name, &mut lengths)?;
    let count = (lengths[4] as usize).min(MOST_FEATURES);
    // struct ethtool_gstrings: cmd, set, how many, the names.
    let mut names = vec![0; 3 + count * NAME / 4];
    names[..3].copy_from_slice(&[GSTRINGS, FEATURES, count as u32]);
    ethtool(any, name, &mut names)?;
    let bit = names[3..].chunks_exact(NAME / 4).position(|words| text(words) == UDP_SEGMENTATION);
    // struct ethtool_gfeatures: cmd, how many blocks; in each available, requested, active, never changed.
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + 4 * blocks];
    features[..2].copy_from_slice(&[GFEATURES, blocks as u32]);
    ethtool(any, name, &mut features)?;
    Ok(bit.is_some_and(|bit| features.get(2 + 4 * (bit / 32) + 2).is_some_and(|active| active >> (bit % 32) & 1 == 1)))
}

/// The bytes of these words up to the first zero.
fn text(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|&byte| byte != 0).collect()
}

fn word(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_ne_bytes)
}

/// One SIOCETHTOOL on any socket. `request` is one of the structures above, whole.
fn ethtool(any: BorrowedFd<'_>, name: &Name, request: &mut [u32]) -> io::Result<()> {
    // SAFETY: `struct ifreq` is integers, addresses and a pointer in a union: all zero bytes are a valid value.
    let mut asked: libc::ifreq = unsafe { zeroed() };
    for (to, from) in asked.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    asked.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`, whose name ends in a zero (`Name`), and reads and writes the structure behind its
    // pointer, which begins with the command. The callers made it as long as the kernel takes it to be: 196 bytes of drvinfo; one length
    // for the one set that is asked for; as many names, and as many blocks, as the structure itself says. `request` is borrowed
    // mutably through the call, and every word of it may hold anything.
    let answer = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut asked) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn index_of(name: &Name) -> u32 {
    // SAFETY: `Name` ends in a zero byte; the kernel's library reads up to it.
    unsafe { libc::if_nametoindex(name.as_ptr().cast()) }
}

/// Every device, whether it has an address or not.
fn names() -> Vec<(Name, Option<IpAddr>)> {
    let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    devices.filter_map(|device| Some((name_from(device.file_name().as_encoded_bytes())?, None))).collect()
}

/// Every address of this network namespace, with its device.
fn addresses() -> Vec<(Name, Option<IpAddr>)> {
    let mut first: *mut libc::ifaddrs = null_mut();
    // SAFETY: getifaddrs(3) writes one pointer into `first`, which is ours.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut next = first;
    // SAFETY: getifaddrs(3) succeeded, so `next` is null or points to an entry of a list that lives until `freeifaddrs` below; nobody
    // else has it. An entry's name is a string with a terminating zero, and its address is null or begins with its family.
    while let Some(entry) = unsafe { next.as_ref() } {
        // SAFETY: as above.
        let name = name_from(unsafe { CStr::from_ptr(entry.ifa_name) }.to_bytes());
        // SAFETY: as above; an address of AF_INET is a `sockaddr_in`, one of AF_INET6 a `sockaddr_in6`.
        let address = unsafe { address_of(entry.ifa_addr) };
        found.extend(name.map(|name| (name, address)));
        next = entry.ifa_next;
    }
    // SAFETY: `first` came from getifaddrs(3), and nothing of the list is used any more: names and addresses were copied.
    unsafe { libc::freeifaddrs(first) };
    found
}

fn name_from(bytes: &[u8]) -> Option<Name> {
    let mut name = [0; libc::IFNAMSIZ];
    name.get_mut(..bytes.len()).filter(|to| to.len() < libc::IFNAMSIZ)?.copy_from_slice(bytes);
    Some(name)
}

/// # Safety
/// `address` is null, or points to a socket address that is as long as its family says.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: the caller's promise.
    match i32::from(unsafe { address.as_ref() }?.sa_family) {
        libc::AF_INET => {
            // SAFETY: the caller's promise; the value is copied, wherever it is aligned.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(bind: &str, remote: Option<&str>) -> WireSocket {
        let options = crate::sys::socket::SocketOptions {
            bind: Some(bind.parse().unwrap()),
            remote: remote.map(|remote| remote.parse().unwrap()),
            ..Default::default()
        };
        WireSocket::open(&options).unwrap()
    }

    #[test]
    fn the_loopback_does_not_segment_in_hardware_though_it_says_so() {
        let socket = socket("127.0.0.1:0", Some("127.0.0.1:9"));
        assert!(addresses().iter().any(|(_, address)| *address == Some([127, 0, 0, 1].into())));
        assert!(!segments_for(&socket));
        let index = index_of(&name_from(b"lo").unwrap());
        assert!(index != 0 && !segmenting(socket.as_fd()).contains(&index));
    }

    #[test]
    fn a_name_that_is_too_long_is_none() {
        assert_eq!(name_from(b"fifteen-bytes-x").map(|name| name[15]), Some(0));
        assert_eq!(name_from(b"sixteen-bytes-xx"), None);
    }

    #[test]
    fn a_text_ends_at_the_first_zero() {
        assert_eq!(text(&[u32::from_ne_bytes(*b"abcd"), u32::from_ne_bytes(*b"e\0fg")]), b"abcde");
    }
}

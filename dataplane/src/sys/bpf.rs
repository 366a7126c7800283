//! bpf(2): a program that sees packets is loaded, a map from prefixes to numbers that it asks is made and changed. What the program does
//! is its author's.

use std::io;
use std::mem::size_of_val;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Commands of bpf(2) (`enum bpf_cmd` of linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
/// BPF_PROG_TYPE_SOCKET_FILTER
const SOCKET_FILTER: u32 = 1;
/// BPF_MAP_TYPE_LPM_TRIE, which wants the flag BPF_F_NO_PREALLOC.
const LPM_TRIE: u32 = 11;
const NO_PREALLOC: u32 = 1;
/// Prefixes in a map at most: two for each of 2^24 peers. Memory is taken for those that are there.
const MOST_PREFIXES: u32 = 1 << 25;

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Instruction {
    code: u8,
    /// Destination register in the low four bits, source register in the high four.
    registers: u8,
    off: i16,
    imm: i32,
}

/// An instruction in the order of its fields.
pub(super) const fn ins(code: u8, registers: u8, off: i16, imm: u32) -> Instruction {
    Instruction { code, registers, off, imm: imm.cast_signed() }
}

/// A prefix as a map of prefixes has it (`struct bpf_lpm_trie_key`, linux/bpf.h): its length in bits, and an IPv6 address in the order of
/// the wire, whose other bits are 0. IPv4 addresses are mapped to IPv6 (RFC 4291, section 2.5.5.2), so the default route of IPv6 has
/// those in it that no IPv4 prefix has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix {
    len: u32,
    address: [u8; 16],
}

impl Prefix {
    /// The prefix of that many bits in which the address is; more bits than the family has are all of them.
    pub(super) fn new(address: IpAddr, len: u8) -> Self {
        let (bits, len) = match address {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96 + u32::from(len.min(32))),
            IpAddr::V6(address) => (address.to_bits(), u32::from(len.min(128))),
        };
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        Prefix { len, address: (bits & mask).to_be_bytes() }
    }
}

/// A map in the kernel from prefixes to numbers. Who looks an address up finds the number of the longest prefix that it is in.
#[derive(Debug)]
pub(super) struct PrefixMap(OwnedFd);

impl PrefixMap {
    /// An empty one.
    ///
    /// # Errors
    /// What bpf(2) says: EPERM without CAP_BPF; before Linux 5.11 also where RLIMIT_MEMLOCK is not enough for the largest map.
    pub(super) fn new() -> io::Result<Self> {
        let attributes = CreateMap {
            kind: LPM_TRIE,
            key_size: size_of::<Prefix>() as u32,
            value_size: size_of::<u32>() as u32,
            max_entries: MOST_PREFIXES,
            flags: NO_PREALLOC,
        };
        // SAFETY: MAP_CREATE takes numbers.
        let answer = unsafe { bpf(MAP_CREATE, &attributes) }?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(PrefixMap(unsafe { OwnedFd::from_raw_fd(answer) }))
    }

    /// Gives the prefix this number, from now on.
    ///
    /// # Errors
    /// What bpf(2) says: ENOSPC or ENOMEM, when there is no room; before Linux 5.19 EPERM for who has no CAP_BPF any more.
    pub(super) fn set(&self, prefix: Prefix, number: u32) -> io::Result<()> {
        let attributes = self.element(&prefix, &raw const number as u64);
        // SAFETY: MAP_UPDATE_ELEM reads a key and a value, which are as long as the map was made for, and live until the call returns.
        unsafe { bpf(MAP_UPDATE_ELEM, &attributes) }.map(drop)
    }

    /// Takes the prefix out. One that is not there is fine.
    ///
    /// # Errors
    /// What bpf(2) says: before Linux 5.19 EPERM for who has no CAP_BPF any more.
    pub(super) fn remove(&self, prefix: Prefix) -> io::Result<()> {
        let attributes = self.element(&prefix, 0);
        // SAFETY: MAP_DELETE_ELEM reads a key, which is as long as the map was made for, and lives until the call returns.
        match unsafe { bpf(MAP_DELETE_ELEM, &attributes) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    fn element(&self, prefix: &Prefix, value: u64) -> Element {
        Element { map: self.0.as_raw_fd().cast_unsigned(), _pad: 0, key: (&raw const *prefix) as u64, value, flags: 0 }
    }
}

impl AsFd for PrefixMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Loads a program that is shown a packet and answers with a number. The maps that it names are kept with it.
///
/// # Errors
/// What bpf(2) says: EPERM without the right to, EINVAL or EACCES for a program that the kernel does not believe in.
pub(super) fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let attributes = LoadProgram {
        kind: SOCKET_FILTER,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: PROG_LOAD reads `count` instructions and a string that ends with 0; both live until the call returns. Nothing is written:
    // there is no log.
    let answer = unsafe { bpf(PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

/// The part of `union bpf_attr` that makes a map (linux/bpf.h).
#[repr(C)]
struct CreateMap {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// The part that names an element of a map.
#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part that loads a program.
#[repr(C)]
struct LoadProgram {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What bpf(2) answers, which is not negative: a descriptor, or 0.
///
/// # Safety
/// `attributes` begins as `union bpf_attr` does for this command, and what it points to may be read as the command reads it.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of_val(attributes)` bytes of attributes; the rest is the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of_val(attributes)) };
    libc::c_int::try_from(answer).ok().filter(|answer| *answer >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix::new(text.parse().unwrap(), len)
    }

    #[test]
    fn a_prefix_is_the_same_whichever_of_its_addresses_names_it() {
        assert_eq!(prefix("10.1.2.3", 8), prefix("10.200.0.0", 8));
        assert_ne!(prefix("10.1.2.3", 8), prefix("11.1.2.3", 8));
        assert_ne!(prefix("10.0.0.0", 8), prefix("10.0.0.0", 9));
        assert_eq!(prefix("2001:db8:ffff::1", 32), prefix("2001:db8::", 32));
        assert_eq!(prefix("ffff::", 0), prefix("::", 0));
        assert_eq!(prefix("::1", 200), prefix("::1", 128));
    }

    #[test]
    fn an_ipv4_prefix_stands_where_its_addresses_are_mapped_to() {
        assert_eq!(prefix("10.8.0.9", 32), prefix("::ffff:10.8.0.9", 128));
        assert_eq!(prefix("10.8.0.9", 33), prefix("10.8.0.9", 32));
        let Prefix { len, address } = prefix("10.8.255.255", 16);
        assert_eq!((len, address), (112, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 8, 0, 0]));
        assert_eq!(prefix("192.0.2.1", 0), prefix("::ffff:0:0", 96));
    }
}

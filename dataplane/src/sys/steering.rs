//! Which worker a packet reaches, decided in the kernel: by peer-id among the sockets of a group (a classic BPF program,
//! SO_ATTACH_REUSEPORT_CBPF, socket(7)), by inner destination among the queues of a TUN (an extended one, TUNSETSTEERINGEBPF,
//! linux/if_tun.h). Both are a courtesy: what lands on another worker is handed over.

use std::io;
use std::mem::size_of_val;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::datachannel::header::{NO_PEER_ID, OP_DATA_V2};

/// `_IOR('T', 224, int)`
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;
/// BPF_PROG_LOAD of linux/bpf.h
const PROG_LOAD: libc::c_int = 5;
/// BPF_PROG_TYPE_SOCKET_FILTER of linux/bpf.h
const SOCKET_FILTER: u32 = 1;

/// How the packets of a TUN are spread over its queues: queue `n` has the inner destinations whose distance from the base is `n` modulo
/// the number of workers. That is the queue of the peer's worker where the peer with handle `p` has the address base + `p`; any other
/// destination (a network behind a peer, a lease of another order) may come to a worker that hands it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    /// How many queues there are, in the order in which they were opened. At least 1.
    pub workers: u16,
    /// The address that the peer with handle 0 has, or would have.
    pub base_v4: Ipv4Addr,
    /// The same in IPv6; only its lowest 32 bits count.
    pub base_v6: Ipv6Addr,
}

const fn filter(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// P_DATA_V2 goes to socket peer-id modulo `workers`; anything else, and the peer-id that means none, to socket 0. A packet too short for
/// a load ends the program with 0.
fn by_peer_id(workers: u32) -> [libc::sock_filter; 9] {
    [
        filter(0x30, 0, 0, 0),                 // A = the first byte
        filter(0x74, 0, 0, 3),                 // A >>= 3: the opcode
        filter(0x15, 0, 5, OP_DATA_V2.into()), // not P_DATA_V2: to the end
        filter(0x20, 0, 0, 0),                 // A = the first word
        filter(0x54, 0, 0, NO_PEER_ID),        // A &= the peer-id's bits, which are all ones in "none"
        filter(0x15, 2, 0, NO_PEER_ID),        // none: to the end
        filter(0x94, 0, 0, workers),           // A %= workers
        filter(0x16, 0, 0, 0),                 // return A
        filter(0x06, 0, 0, 0),                 // return 0
    ]
}

/// Attaches the program that chooses among the sockets of a group by peer-id. To be called once, on the first socket, before it is bound;
/// the others join the group in the order in which they are bound.
pub(super) fn choose_by_peer_id(socket: BorrowedFd<'_>, workers: u16) -> io::Result<()> {
    let mut program = by_peer_id(workers.max(1).into());
    let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `size_of::<sock_fprog>()` bytes from the pointer, which is that of a live one, and `len` instructions from
    // the array that it points to, which lives as long; it writes neither. The descriptor is open because it is borrowed.
    let answer = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const header).cast(),
            size_of_val(&header) as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u8,
    /// Destination register in the low four bits, source register in the high four.
    registers: u8,
    off: i16,
    imm: i32,
}

const fn ins(code: u8, registers: u8, off: i16, imm: u32) -> Instruction {
    Instruction { code, registers, off, imm: imm.cast_signed() }
}

/// Offset 0 is the IP header. Loads are in the host's byte order; one that is out of bounds ends the program with 0.
fn by_destination(steering: &Steering) -> [Instruction; 11] {
    let [.., a, b, c, d] = steering.base_v6.octets();
    [
        ins(0xbf, 0x16, 0, 0),                             // r6 = r1, what the loads below need
        ins(0x30, 0, 0, 0),                                // r0 = the first byte
        ins(0x74, 0, 0, 4),                                // r0 >>= 4: the version
        ins(0x15, 0, 3, 6),                                // 6: skip three
        ins(0x20, 0, 0, 16),                               // r0 = the IPv4 destination
        ins(0x14, 0, 0, steering.base_v4.to_bits()),       // r0 -= base
        ins(0x05, 0, 2, 0),                                // skip two
        ins(0x20, 0, 0, 36),                               // r0 = the lowest word of the IPv6 destination
        ins(0x14, 0, 0, u32::from_be_bytes([a, b, c, d])), // r0 -= base
        ins(0x94, 0, 0, steering.workers.max(1).into()),   // r0 %= workers
        ins(0x95, 0, 0, 0),                                // return r0
    ]
}

/// The part of `union bpf_attr` that loads a program (linux/bpf.h).
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

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
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
    // SAFETY: bpf(2) reads `size` bytes of attributes, which is their size, `count` instructions and a string that ends with 0; all of
    // them live until the call returns, and nothing of them is written: there is no log. What it returns is a new descriptor.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attributes, size_of_val(&attributes)) };
    let fd = libc::c_int::try_from(answer).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads the program and gives it to the interface of this queue, which keeps it.
pub(super) fn choose_by_destination(tun: BorrowedFd<'_>, steering: &Steering) -> io::Result<()> {
    let program = load(&by_destination(steering))?;
    let fd = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads one int (linux/if_tun.h). `fd` is one and outlives the call.
    let answer = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const fd) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the classic program answers, by the rules of the classic machine for the instructions that it uses.
    fn run(program: &[libc::sock_filter], packet: &[u8]) -> u32 {
        let (mut a, mut pc) = (0u32, 0);
        loop {
            let ins = program[pc];
            pc += 1;
            match ins.code {
                0x30 => match packet.get(ins.k as usize) {
                    Some(&byte) => a = byte.into(),
                    None => return 0,
                },
                0x20 => match packet.get(ins.k as usize..ins.k as usize + 4) {
                    Some(word) => a = u32::from_be_bytes(word.try_into().unwrap()),
                    None => return 0,
                },
                0x74 => a >>= ins.k,
                0x54 => a &= ins.k,
                0x94 => a %= ins.k,
                0x15 => pc += usize::from(if a == ins.k { ins.jt } else { ins.jf }),
                0x16 => return a,
                0x06 => return ins.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    #[test]
    fn only_a_peer_id_leaves_the_first_socket() {
        let program = by_peer_id(3);
        let packet = |opcode: u8, id: u32| [opcode << 3 | 5, (id >> 16) as u8, (id >> 8) as u8, id as u8, 0, 0];
        for id in [0, 1, 2, 3, 7, 255, 256, 65_537, 0x00ff_fffe] {
            assert_eq!(run(&program, &packet(9, id)), id % 3, "peer-id {id}");
            for opcode in (0..32).filter(|opcode| *opcode != 9) {
                assert_eq!(run(&program, &packet(opcode, id)), 0, "opcode {opcode}");
            }
        }
        assert_eq!(run(&by_peer_id(4), &packet(9, 0x00ff_ffff)), 0, "none");
        for len in 0..4 {
            assert_eq!(run(&program, &packet(9, 1)[..len]), 0, "{len} bytes");
        }
    }
}

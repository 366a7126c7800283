//! Which worker a packet reaches, decided in the kernel: by peer-id among the sockets of a group (a classic BPF program,
//! SO_ATTACH_REUSEPORT_CBPF, socket(7)), by inner destination among the queues of a TUN (an extended one, TUNSETSTEERINGEBPF,
//! linux/if_tun.h). Both are a courtesy: what lands on another worker is handed over.

use std::io;
use std::mem::size_of_val;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::datachannel::header::{NO_PEER_ID, OP_DATA_V2};
use crate::peers::routes::Route;
use crate::sys::bpf::{self, Instruction, Prefix, PrefixMap, ins};
use crate::workers::handover::owner_of;

/// `_IOR('T', 224, int)`
const TUNSETSTEERINGEBPF: libc::c_ulong = 0x8004_54e0;

/// How the packets of a TUN are spread over its queues: by the routes that the kernel was told ([`Steered::follow`]). A destination that is
/// in none of them comes to queue `n` if its distance from the base is `n` modulo the number of workers. That is the queue of the peer's
/// worker where the peer with handle `p` has the address base + `p`, for kernels that do not take routes.
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

/// Answers with the number of the longest prefix that the destination is in; goes on behind its end when there is none. Offset 0 is the IP
/// header, r6 the packet. A load that is out of bounds ends the program with 0.
fn by_prefix(map: &PrefixMap) -> [Instruction; 25] {
    // What the map is asked with lies on the stack: the length of the prefix, and an address, which is that of IPv4 at its end.
    let down = |bytes: u32| 0u32.wrapping_sub(bytes);
    let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    let map = map.as_fd().as_raw_fd().cast_unsigned();
    [
        ins(0x30, 0, 0, 0),           // r0 = the first byte
        ins(0x74, 0, 0, 4),           // r0 >>= 4: the version
        ins(0x62, 0x0a, -24, 128),    // the length
        ins(0x62, 0x0a, -20, 0),      // ::ffff:0:0
        ins(0x62, 0x0a, -16, 0),      //
        ins(0x62, 0x0a, -12, mapped), //
        ins(0xb7, 2, 0, 16),          // r2 = where the IPv4 destination is
        ins(0xbf, 0xa3, 0, 0),        // r3 = the stack's end
        ins(0x07, 3, 0, down(8)),     // r3 -= 8: where it goes
        ins(0xb7, 4, 0, 4),           // r4 = how long it is
        ins(0x55, 0, 3, 6),           // not 6: skip three
        ins(0xb7, 2, 0, 24),          // the same of IPv6
        ins(0x07, 3, 0, down(12)),    //
        ins(0xb7, 4, 0, 16),          //
        ins(0xbf, 0x61, 0, 0),        // r1 = the packet
        ins(0x85, 0, 0, 26),          // skb_load_bytes
        ins(0x55, 0, 8, 0),           // too short: behind the end
        ins(0x18, 0x11, 0, map),      // r1 = the map
        ins(0, 0, 0, 0),              //
        ins(0xbf, 0xa2, 0, 0),        // r2 = the stack's end
        ins(0x07, 2, 0, down(24)),    // r2 -= 24: the key
        ins(0x85, 0, 0, 1),           // map_lookup_elem
        ins(0x15, 0, 2, 0),           // none: behind the end
        ins(0x61, 0, 0, 0),           // r0 = the number
        ins(0x95, 0, 0, 0),           // return r0
    ]
}

/// Answers with the distance of the destination from the base, modulo the number of workers. Otherwise as [`by_prefix`].
fn by_distance(steering: &Steering) -> [Instruction; 10] {
    let [.., a, b, c, d] = steering.base_v6.octets();
    [
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

fn by_destination(steering: &Steering, map: Option<&PrefixMap>) -> Vec<Instruction> {
    let mut program = vec![ins(0xbf, 0x16, 0, 0)]; // r6 = r1, what the loads need
    program.extend(map.map(by_prefix).into_iter().flatten());
    program.extend(by_distance(steering));
    program
}

/// An interface whose packets are steered, and what it was told of routes.
#[derive(Debug)]
pub struct Steered {
    workers: u16,
    /// Prefix → queue; or the number of the error by which the kernel refused it.
    map: Result<PrefixMap, i32>,
    /// What is in it, in ascending order. `None`: whatever is there is not what it should be.
    known: Vec<(Prefix, Option<u16>)>,
}

impl Steered {
    /// From now on a destination that is in one of these routes comes to the queue of the peer's worker, of the longest prefix; of two
    /// routes for the same prefix the later one counts. Only what changed since the last call is told to the kernel: one call of bpf(2)
    /// for each prefix, and a walk through all of them.
    ///
    /// # Errors
    /// The kernel refused the map at the start, or now a change of it: EPERM where privileges were dropped before Linux 5.19, ENOMEM.
    /// Those destinations are steered by their distance, or as before, until a later call succeeds; what comes to another worker is handed
    /// over.
    pub fn follow(&mut self, routes: &[Route]) -> io::Result<()> {
        let map = self.map.as_ref().map_err(|code| io::Error::from_raw_os_error(*code))?;
        let mut wanted = prefixes(routes, self.workers);
        let (gone, unset) = differences(&self.known, &wanted);
        let (mut outcome, mut left) = (Ok(()), Vec::new());
        for prefix in gone {
            outcome = outcome.and_then(|()| map.remove(prefix));
            if outcome.is_err() {
                left.push((prefix, None));
            }
        }
        for at in unset {
            let (prefix, queue) = wanted[at];
            outcome = outcome.and_then(|()| map.set(prefix, queue.unwrap_or(0).into()));
            if outcome.is_err() {
                wanted[at].1 = None;
            }
        }
        // The next call finds them gone once more.
        wanted.extend(left);
        wanted.sort_unstable_by_key(|(prefix, _)| *prefix);
        self.known = wanted;
        outcome
    }
}

/// Each prefix with the queue of its peer's worker, in ascending order.
fn prefixes(routes: &[Route], workers: u16) -> Vec<(Prefix, Option<u16>)> {
    let each = |route: &Route| (Prefix::new(route.address, route.prefix_len), Some(owner_of(route.peer, workers)));
    let mut all: Vec<_> = routes.iter().map(each).collect();
    // Stable: the later of two comes later.
    all.sort_by_key(|(prefix, _)| *prefix);
    all.dedup_by(|later, earlier| {
        let is_same = later.0 == earlier.0;
        if is_same {
            earlier.1 = later.1;
        }
        is_same
    });
    all
}

/// What is in the old list alone, and at which places of the new one something is new or different. Both ascend.
fn differences(old: &[(Prefix, Option<u16>)], new: &[(Prefix, Option<u16>)]) -> (Vec<Prefix>, Vec<usize>) {
    let (mut gone, mut unset) = (Vec::new(), Vec::new());
    let mut old = old.iter().peekable();
    for (at, entry) in new.iter().enumerate() {
        while let Some((before, _)) = old.next_if(|known| known.0 < entry.0) {
            gone.push(*before);
        }
        if old.next_if(|known| known.0 == entry.0) != Some(entry) {
            unset.push(at);
        }
    }
    gone.extend(old.map(|(prefix, _)| *prefix));
    (gone, unset)
}

/// Loads the program and gives it to the interface of this queue, which keeps it.
pub(super) fn choose_by_destination(tun: BorrowedFd<'_>, steering: &Steering) -> io::Result<Steered> {
    let map = PrefixMap::new().map_err(|error| error.raw_os_error().unwrap_or(0));
    let program = bpf::load(&by_destination(steering, map.as_ref().ok()))?;
    let fd = program.as_raw_fd();
    // SAFETY: TUNSETSTEERINGEBPF reads one int (linux/if_tun.h). `fd` is one and outlives the call.
    let answer = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETSTEERINGEBPF, &raw const fd) };
    if answer == 0 {
        Ok(Steered { workers: steering.workers, map, known: Vec::new() })
    } else {
        Err(io::Error::last_os_error())
    }
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

    fn route(address: &str, prefix_len: u8, peer: u32) -> Route {
        Route { address: address.parse().unwrap(), prefix_len, peer }
    }

    #[test]
    fn of_two_routes_for_one_prefix_the_later_counts() {
        let routes =
            [route("10.8.0.9", 32, 4), route("10.1.2.3", 8, 3), route("10.0.0.0", 8, 5), route("fd08::9", 128, 4)];
        let all = prefixes(&routes, 3);
        let of = |address: &str, len| {
            let prefix = Prefix::new(address.parse().unwrap(), len);
            all.iter().find(|(own, _)| *own == prefix).and_then(|(_, queue)| *queue)
        };
        assert_eq!(all.len(), 3);
        assert_eq!((of("10.0.0.0", 8), of("10.8.0.9", 32), of("fd08::9", 128)), (Some(2), Some(1), Some(1)));
        assert!(all.is_sorted_by_key(|(prefix, _)| *prefix));
    }

    #[test]
    fn only_what_changed_is_told() {
        let before = prefixes(&[route("10.8.0.2", 32, 0), route("10.8.0.3", 32, 1), route("10.8.0.4", 32, 2)], 2);
        let after = prefixes(&[route("10.8.0.3", 32, 3), route("10.8.0.4", 32, 3), route("10.8.0.1", 32, 1)], 2);
        let (gone, unset) = differences(&before, &after);
        assert_eq!(gone, [before[0].0], "10.8.0.2 is gone");
        assert_eq!(unset, [0, 2], "10.8.0.1 is new, 10.8.0.4 went to the other worker");
        assert_eq!(differences(&after, &after), (vec![], vec![]));
        assert_eq!(differences(&[], &after), (vec![], vec![0, 1, 2]));
        assert_eq!(differences(&before, &[]).0.len(), 3);
    }

    #[test]
    fn what_the_kernel_did_not_take_is_told_again() {
        let wanted = prefixes(&[route("10.8.0.2", 32, 0), route("10.8.0.3", 32, 1)], 2);
        let mut known = wanted.clone();
        known[1].1 = None;
        assert_eq!(differences(&known, &wanted), (vec![], vec![1]));
        assert_eq!(differences(&known, &wanted[..1]).0, [wanted[1].0], "or taken out, whatever is there");
    }

    #[test]
    fn a_kernel_that_refused_the_map_is_told_nothing() {
        let mut steered = Steered { workers: 2, map: Err(libc::EPERM), known: Vec::new() };
        let error = steered.follow(&[route("10.8.0.2", 32, 0)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        assert_eq!(
            by_destination(
                &Steering { workers: 2, base_v4: Ipv4Addr::UNSPECIFIED, base_v6: Ipv6Addr::UNSPECIFIED },
                None
            )
            .len(),
            11
        );
    }
}

//! The firewall of a gateway: one nftables table of our own, `inet minivpn_NAME`, put up and taken down as a whole. It masquerades
//! what clients send beyond this host, and keeps clients from reaching each other through it. Nobody else's table is touched; one
//! that drops what clients need is found and named ([`foreign_drops`]).
//!
//! Spoken over netlink (linux/netfilter/nf_tables.h), without the `nft` program. A table of family `inet` holds both IP
//! families; NAT in one needs Linux 5.2.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use netlink_bindings::nftables::{
    Chained, CmpOps, MetaKeys, Nfgenmsg, OpGetchainDump, PayloadBase, PushExprListAttrs, PushRuleAttrs, Registers,
    VerdictCode,
};
use netlink_bindings::utils::RequestBuf;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

use super::routes::{full_length, network_of};

/// What every table of ours is called, before the gateway's name.
const PREFIX: &str = "minivpn_";

/// Priorities and hook numbers (linux/netfilter.h, linux/netfilter_ipv4.h): NF_IP_PRI_NAT_SRC, NF_IP_PRI_FILTER.
const PRIORITY_SOURCE_NAT: i32 = 100;
const PRIORITY_FILTER: i32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;

/// NF_DROP and NF_ACCEPT as chain policies.
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// The answers to one transaction, and a part of a dump, fit in so many bytes (NLMSG_GOODSIZE is at most 8 KiB; dumps use up to 32).
const ANSWER: usize = 64 * 1024;

/// More chains than this in foreign tables are not looked at.
const MAX_CHAINS: usize = 4_096;

/// The table of one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// Its name, as [`table_name`] makes it.
    pub table: String,
    /// The name of the gateway's TUN interface. It need not exist yet.
    pub tunnel: String,
    /// Sources that are masqueraded where they leave by any interface but the TUN: networks and prefix lengths in bits.
    pub masquerade: Vec<(IpAddr, u8)>,
    /// Whether what came from one client may leave to another through the host.
    pub client_to_client: bool,
}

impl Nat {
    /// The table of the gateway `name`, whose clients are in these pools. An IPv6 pool is masqueraded where it must be: its addresses are
    /// local (fc00::/7, RFC 4193) and this host has a way into the IPv6 Internet (`ipv6_uplink`). Global addresses are routed as they are.
    ///
    /// # Errors
    /// What is wrong with the name, in a sentence.
    pub fn for_gateway(
        name: &str,
        tunnel: &str,
        pools: &[(IpAddr, u8)],
        ipv6_uplink: bool,
        client_to_client: bool,
    ) -> Result<Self, String> {
        let is_masqueraded = |(address, _): &&(IpAddr, u8)| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => address.is_unique_local() && ipv6_uplink,
        };
        let masquerade = pools.iter().filter(is_masqueraded);
        let masquerade = masquerade.map(|(address, prefix)| (network_of(*address, *prefix), *prefix)).collect();
        Ok(Self { table: table_name(name)?, tunnel: tunnel.to_owned(), masquerade, client_to_client })
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nftables table inet {}", self.table)
    }
}

/// The table of the gateway of this name.
///
/// # Errors
/// A name that is not of letters, digits, `.`, `_` and `-` (1 to 64), in a sentence.
pub fn table_name(gateway: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if gateway.is_empty() || gateway.len() > 64 || !gateway.bytes().all(plain) {
        return Err(format!("{gateway:?} cannot name a gateway: letters, digits, '.', '_' and '-', at most 64"));
    }
    Ok(format!("{PREFIX}{gateway}"))
}

/// Puts the table up, in one transaction that holds or does not. One of the same name, as a predecessor left it, is replaced.
///
/// Blocks for the kernel's answer, some milliseconds. It concerns the network namespace of the calling thread.
///
/// # Errors
/// What the kernel answers; without nf_tables or its NAT, what to load.
pub fn install(nat: &Nat) -> io::Result<()> {
    check_ours(&nat.table)?;
    if nat.tunnel.is_empty() || nat.tunnel.len() >= libc::IFNAMSIZ {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of an interface"));
    }
    commit(installation(nat)).map_err(explained)
}

/// Takes the table down. One that is not there is no error; one that is not ours is not taken down.
///
/// # Errors
/// What the kernel answers.
pub fn remove(table: &str) -> io::Result<()> {
    check_ours(table)?;
    commit(removal(table)).map_err(explained)
}

/// A chain of somebody else's that drops what no rule of its own accepts (its policy), where packets of a gateway pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDrop {
    /// `ip`, `ip6` or `inet`, as `nft` says it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// Where it looks at packets.
    pub hook: Hook,
}

/// Where a chain looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What is for this host: the datagrams of clients.
    Input,
    /// What is forwarded: what clients send and get inside the tunnel.
    Forward,
}

impl ForeignDrop {
    /// What it does to this gateway, and the commands that let its packets pass.
    pub fn sentence(&self, tunnel: &str, protocol: &str, port: u16) -> String {
        let Self { family, table, chain, .. } = self;
        let insert = format!("nft insert rule {family} {table} {chain}");
        match self.hook {
            Hook::Input => format!(
                "the chain {chain} of nftables table {family} {table} drops what no rule accepts before it reaches this host: \
                 unless one accepts clients already, {insert} {protocol} dport {port} accept"
            ),
            Hook::Forward => format!(
                "the chain {chain} of nftables table {family} {table} drops what no rule accepts of what this host forwards: \
                 unless one accepts clients already, {insert} iifname {tunnel} accept, and {insert} oifname {tunnel} ct state \
                 related,established accept"
            ),
        }
    }
}

/// The chains of others that may drop what a gateway needs: hook input or forward, policy drop. Rules are not looked into. What was set up
/// with iptables-legacy is not seen.
///
/// # Errors
/// What the kernel answers; without nf_tables there are none.
pub fn foreign_drops() -> io::Result<Vec<ForeignDrop>> {
    let socket = open()?;
    let mut request = Chained::new(1);
    // Any family: AF_UNSPEC.
    request.request().set_flags(flag(libc::NLM_F_DUMP)).op_getchain_dump(&header(0));
    send(&socket, request.finalize().buf())?;
    let (mut found, mut seen, mut buffer) = (Vec::new(), 0, vec![0; ANSWER]);
    loop {
        let received = receive(&socket, &mut buffer)?;
        for message in Messages(received) {
            match message.kind {
                kind if kind == flag(libc::NLMSG_DONE) => return Ok(found),
                kind if kind == flag(libc::NLMSG_ERROR) => return message.error().map_or(Ok(()), Err).map(|()| found),
                _ => found.extend(drop_of(message.body)),
            }
            seen += 1;
        }
        if received.is_empty() || seen > MAX_CHAINS {
            return Ok(found);
        }
    }
}

/// A chain out of its dump, when it is one that drops.
fn drop_of(body: &[u8]) -> Option<ForeignDrop> {
    let (header, chain) = OpGetchainDump::decode_request(body);
    let family = match i32::from(header.nfgen_family) {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_IPV4 => "ip",
        libc::NFPROTO_IPV6 => "ip6",
        _ => return None,
    };
    // Only base chains have these two.
    if chain.get_policy().ok()? != POLICY_DROP {
        return None;
    }
    let hook = match chain.get_hook().ok()?.get_num().ok()? {
        HOOK_INPUT => Hook::Input,
        HOOK_FORWARD => Hook::Forward,
        _ => return None,
    };
    let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    Some(ForeignDrop { family, table: text(chain.get_table().ok()?), chain: text(chain.get_name().ok()?), hook })
}

/// Whether a table is one that this program makes. A journal may come from somebody who is not root any more.
fn check_ours(table: &str) -> io::Result<()> {
    match table.strip_prefix(PREFIX).map(table_name) {
        Some(Ok(_)) => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{table:?} is no table of minivpn's"))),
    }
}

/// The messages that delete the table, whether it is there or not: an existing one may be added once more, without effect.
fn removal(table: &str) -> Chained<'static> {
    let mut batch = Chained::new(1);
    batch.request().op_batch_begin_do(&batch_header());
    add_table(&mut batch, table);
    batch.request().op_deltable_do(&inet()).encode().push_name_bytes(table.as_bytes());
    batch
}

/// The messages that make the table anew.
fn installation(nat: &Nat) -> Chained<'static> {
    let mut batch = removal(&nat.table);
    add_table(&mut batch, &nat.table);
    add_chain(&mut batch, nat, "postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SOURCE_NAT);
    for (network, prefix) in &nat.masquerade {
        let rule = add_rule(&mut batch, nat, "postrouting");
        let rule = interface_compares(rule, MetaKeys::Oifname, CmpOps::Neq, &nat.tunnel);
        masquerade(source_in(rule, *network, *prefix));
    }
    add_chain(&mut batch, nat, "forward", "filter", HOOK_FORWARD, PRIORITY_FILTER);
    if !nat.client_to_client {
        let rule = add_rule(&mut batch, nat, "forward");
        let rule = interface_compares(rule, MetaKeys::Iifname, CmpOps::Eq, &nat.tunnel);
        drop_counted(interface_compares(rule, MetaKeys::Oifname, CmpOps::Eq, &nat.tunnel));
    }
    batch
}

fn add_table(batch: &mut Chained<'_>, table: &str) {
    batch.request().set_create().op_newtable_do(&inet()).encode().push_name_bytes(table.as_bytes());
}

/// A base chain whose policy is to accept: packets that concern nobody here go on as before.
fn add_chain(batch: &mut Chained<'_>, nat: &Nat, chain: &str, kind: &str, hook: u32, priority: i32) {
    let mut request = batch.request().set_create().op_newchain_do(&inet());
    let chain = request.encode().push_table_bytes(nat.table.as_bytes()).push_name_bytes(chain.as_bytes());
    let chain = chain.nested_hook().push_num(hook).push_priority(priority).end_nested();
    chain.push_policy(POLICY_ACCEPT).push_type_bytes(kind.as_bytes());
}

/// The expressions of a rule that is being written.
type Rule<'a> = PushExprListAttrs<PushRuleAttrs<RequestBuf<'a>>>;

const REGISTER: u32 = Registers::Reg1 as u32;

fn add_rule<'a>(batch: &'a mut Chained<'_>, nat: &Nat, chain: &str) -> Rule<'a> {
    let request = batch.request().set_create().set_append().op_newrule_do(&inet());
    let rule = request.into_encoder().push_table_bytes(nat.table.as_bytes()).push_chain_bytes(chain.as_bytes());
    rule.nested_expressions()
}

/// The interface's name is this one, or is not. All 16 bytes are compared, as `nft` does for a name without a star.
fn interface_compares<'a>(rule: Rule<'a>, key: MetaKeys, compare: CmpOps, name: &str) -> Rule<'a> {
    let mut padded = [0; libc::IFNAMSIZ];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    meta_compares(rule, key, compare, &padded)
}

fn meta_compares<'a>(rule: Rule<'a>, key: MetaKeys, compare: CmpOps, value: &[u8]) -> Rule<'a> {
    let loaded = rule.nested_elem().nested_data_meta().push_dreg(REGISTER).push_key(key as u32);
    compares(loaded.end_nested().end_nested(), compare, value)
}

fn compares<'a>(rule: Rule<'a>, compare: CmpOps, value: &[u8]) -> Rule<'a> {
    let compared = rule.nested_elem().nested_data_cmp().push_sreg(REGISTER).push_op(compare as u32);
    compared.nested_data().push_value(value).end_nested().end_nested().end_nested()
}

/// The packet is of this family, and its source is in this network.
fn source_in(rule: Rule<'_>, network: IpAddr, prefix: u8) -> Rule<'_> {
    // Offsets of the source address: RFC 791 §3.1, RFC 8200 §3.
    let (family, offset, bytes) = match network {
        IpAddr::V4(network) => (libc::NFPROTO_IPV4, 12, network.octets().to_vec()),
        IpAddr::V6(network) => (libc::NFPROTO_IPV6, 8, network.octets().to_vec()),
    };
    let mask = match network_of(ones_like(network), prefix.min(full_length(network))) {
        IpAddr::V4(mask) => mask.octets().to_vec(),
        IpAddr::V6(mask) => mask.octets().to_vec(),
    };
    let length = u32::from(full_length(network) / 8);
    let rule = meta_compares(rule, MetaKeys::Nfproto, CmpOps::Eq, &[u8::try_from(family).unwrap_or(0)]);
    let loaded = rule.nested_elem().nested_data_payload().push_dreg(REGISTER);
    let loaded = loaded.push_base(PayloadBase::NetworkHeader as u32).push_offset(offset).push_len(length);
    let masked = loaded.end_nested().end_nested().nested_elem().nested_data_bitwise();
    let masked = masked.push_sreg(REGISTER).push_dreg(REGISTER).push_len(length);
    let masked = masked.nested_mask().push_value(&mask).end_nested();
    let masked = masked.nested_xor().push_value(&vec![0; mask.len()]).end_nested();
    compares(masked.end_nested().end_nested(), CmpOps::Eq, &bytes)
}

fn ones_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
    }
}

fn masquerade(rule: Rule<'_>) {
    rule.nested_elem().push_name(c"masq");
}

/// Counted, so that somebody who wonders can see it (`nft list table`).
fn drop_counted(rule: Rule<'_>) {
    let counted = rule.nested_elem().nested_data_counter().end_nested().end_nested();
    let dropped = counted.nested_elem().nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
    dropped.nested_data().nested_verdict().push_code(VerdictCode::Drop as u32);
}

fn header(family: i32) -> Nfgenmsg {
    Nfgenmsg { nfgen_family: u8::try_from(family).unwrap_or(0), ..Nfgenmsg::new() }
}

fn inet() -> Nfgenmsg {
    header(libc::NFPROTO_INET)
}

/// The resource of a batch is the subsystem (linux/netfilter/nfnetlink.h).
fn batch_header() -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.set_res_id(u16::try_from(libc::NFNL_SUBSYS_NFTABLES).unwrap_or(0));
    header
}

fn flag(value: libc::c_int) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

/// Ends the batch and has the kernel take it, whole or not at all.
fn commit(mut batch: Chained<'_>) -> io::Result<()> {
    batch.request().op_batch_end_do(&batch_header());
    let socket = open()?;
    send(&socket, batch.finalize().buf())?;
    let (mut buffer, mut answers) = (vec![0; ANSWER], 0);
    // The kernel has worked it off within the send: what it answers is there.
    loop {
        let received = match receive(&socket, &mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            other => other?,
        };
        for message in Messages(received) {
            answers += 1;
            if let Some(error) = message.error() {
                return Err(error);
            }
        }
    }
    if answers == 0 { Err(io::Error::other("the kernel did not answer")) } else { Ok(()) }
}

fn explained(error: io::Error) -> io::Error {
    const MISSING: [i32; 4] = [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT];
    match error.raw_os_error() {
        Some(errno) if MISSING.contains(&errno) => io::Error::other(format!(
            "{error} (this kernel has no nftables, or no NAT in inet tables, which came with Linux 5.2: on the host, \
             modprobe -a nf_tables nft_chain_nat nft_masq)"
        )),
        _ => error,
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))
        .map_err(io::Error::from)
        .map_err(explained)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    rustix::net::sendto(socket, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    Ok(())
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let (length, _) = rustix::net::recv(socket, &mut *buffer, RecvFlags::empty())?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// One netlink message.
struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

impl Message<'_> {
    /// The error that an NLMSG_ERROR carries; an acknowledgement carries none.
    fn error(&self) -> Option<io::Error> {
        let code = self.body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
        match code {
            Some(code @ ..0) if self.kind == flag(libc::NLMSG_ERROR) => {
                Some(io::Error::from_raw_os_error(code.saturating_neg()))
            }
            _ => None,
        }
    }
}

/// The messages of one receive: length and kind first, in host byte order, 16 bytes of header, padded to 4 (netlink(7)).
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        let kind = u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?);
        let body = self.0.get(16..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, body })
    }
}

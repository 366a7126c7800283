//! One way to the server: what `remote`, `<connection>` and the directives around them say, and the [`Remote`] that comes of it.

use std::net::IpAddr;

use super::agreed::{Bind, Family, MssFix, MtuDiscovery, Remote};
use super::material::Source;
use super::problem::At;
use super::server::Listen;
use super::tunnel::MIN_MTU;
use super::values::{self, Trouble, quoted};
use super::written::Directive;

/// The transport that `proto` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `udp`, `udp4`, `udp6`
    Udp(Family),
    /// `tcp` and its kin
    Tcp,
}

/// A `remote` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLine {
    /// Where it stands.
    pub at: At,
    host: String,
    port: Option<u16>,
    transport: Option<Transport>,
}

/// What `tls-auth`, `tls-crypt` and `key-direction` say, here or at the top.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrapLines {
    /// `tls-auth`
    pub tls_auth: Option<Source>,
    /// `tls-crypt`
    pub tls_crypt: Option<Source>,
    /// `key-direction`, or the second word of `tls-auth`
    pub direction: Option<u8>,
}

impl WrapLines {
    /// Takes a directive if it is one of the three.
    pub fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let args = directive.line.args.as_slice();
        match (directive.row.name, Source::of(directive)) {
            ("tls-auth", Some(source)) => {
                if let [_, direction] = args {
                    self.direction = Some(key_direction(direction)?);
                }
                source.put(&mut self.tls_auth);
            }
            ("tls-crypt", Some(source)) => source.put(&mut self.tls_crypt),
            ("key-direction", _) => self.direction = args.first().map(|word| key_direction(word)).transpose()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The settings of a connection so far. A `<connection>` starts from a copy of what stands before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// `remote` lines inside of this `<connection>`; at the top they are kept elsewhere.
    pub remotes: Vec<RemoteLine>,
    /// Of this connection only.
    pub wrap: WrapLines,
    /// `tun-mtu`
    pub tun_mtu: u16,
    /// `max-packet-size`
    pub max_packet_size: u16,
    transport: Transport,
    port: u16,
    local: Option<IpAddr>,
    local_port: Option<u16>,
    bind: Option<bool>,
    ipv6_only: bool,
    timeout: u32,
    exit_notify: Option<u32>,
    mssfix: Option<MssFix>,
    mtu_disc: Option<MtuDiscovery>,
}

impl Default for Connection {
    fn default() -> Self {
        Connection {
            remotes: Vec::new(),
            wrap: WrapLines::default(),
            tun_mtu: 1_500,
            max_packet_size: 1_250,
            transport: Transport::Udp(Family::Any),
            port: 1_194,
            local: None,
            local_port: None,
            bind: None,
            ipv6_only: false,
            timeout: 120,
            exit_notify: None,
            mssfix: None,
            mtu_disc: None,
        }
    }
}

impl Connection {
    /// Takes a directive that may stand in `<connection>`, except `remote` and those of [`WrapLines`].
    pub fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let (name, args) = (directive.row.name, directive.line.args.as_slice());
        Ok(self.apply_address(name, args)? || self.apply_behaviour(name, args)?)
    }

    /// The remote that a line means with these settings; `None` when it is a TCP one.
    pub fn remote(&self, line: &RemoteLine) -> Option<Remote> {
        let Transport::Udp(family) = line.transport.unwrap_or(self.transport) else {
            return None;
        };
        Some(Remote {
            host: line.host.clone(),
            port: line.port.unwrap_or(self.port),
            family,
            bind: self.bind(),
            connect_timeout: self.timeout,
            explicit_exit_notify: self.exit_notify,
            mssfix: self.mssfix,
            mtu_disc: self.mtu_disc,
        })
    }

    /// Where a server with these settings waits for clients.
    ///
    /// # Errors
    /// It is not UDP, or no port is fixed.
    pub(super) fn listen(&self, multihome: bool) -> Result<Listen, Trouble> {
        let Transport::Udp(family) = self.transport else {
            return Err(served_over_udp());
        };
        let port = self.local_port.unwrap_or(self.port);
        if port == 0 {
            return Err(Trouble::new("a server needs a port that its clients know").instead("write `port 1194`"));
        }
        let fits = match (self.local, family) {
            (Some(IpAddr::V4(_)), Family::V6) | (Some(IpAddr::V6(_)), Family::V4) => false,
            (Some(_), _) | (None, _) => true,
        };
        if !fits {
            return Err(Trouble::new("the address of `local` is not of the family of `proto`")
                .instead("write `proto udp`, or another address"));
        }
        Ok(Listen { address: self.local, port, family, ipv6_only: self.ipv6_only, multihome })
    }

    /// `explicit-exit-notify`; `None` is off.
    pub(super) fn exit_notify(&self) -> Option<u32> {
        self.exit_notify
    }

    /// `mssfix` with the default of a tunnel of this MTU.
    pub(super) fn mssfix(&self) -> MssFix {
        self.mssfix.unwrap_or(MssFix::default_of(self.tun_mtu))
    }

    /// `mtu-disc`
    pub(super) fn mtu_disc(&self) -> Option<MtuDiscovery> {
        self.mtu_disc
    }

    /// A client binds only where it is told to.
    fn bind(&self) -> Bind {
        let port = match (self.bind, self.local_port) {
            (Some(false), _) | (None, None) => None,
            (Some(true), None) => Some(self.port),
            (_, port) => port.filter(|port| *port > 0),
        };
        Bind { address: self.local, port }
    }

    fn apply_address(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("proto", [transport]) => self.transport = transport_of(transport)?,
            ("port" | "rport", [port]) => self.port = values::port(port)?,
            ("lport", [port]) => self.local_port = Some(values::number16(port, 0..=u16::MAX, "")?),
            ("local", [address]) => {
                let wrong = |_| {
                    Trouble::new(format!("{} is not an address", quoted(address)))
                        .instead("write one of this host's addresses")
                };
                self.local = Some(address.parse().map_err(wrong)?);
            }
            ("bind", []) => self.bind = Some(true),
            ("bind", [word]) if word == "ipv6only" => (self.bind, self.ipv6_only) = (Some(true), true),
            ("bind", [word]) => {
                return Err(
                    Trouble::new(format!("unknown word {}", quoted(word))).instead("write `bind` or `bind ipv6only`")
                );
            }
            ("nobind", _) => self.bind = Some(false),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_behaviour(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("connect-timeout" | "server-poll-timeout", [after]) => {
                self.timeout = values::number32(after, 1..=86_400, "seconds")?
            }
            ("explicit-exit-notify", count) => self.exit_notify = exit_notify(count.first())?,
            ("mssfix", words) => self.mssfix = mssfix(words)?,
            ("mtu-disc", [word]) => self.mtu_disc = Some(mtu_disc(word)?),
            ("tun-mtu", [mtu, ..]) => self.tun_mtu = values::number16(mtu, MIN_MTU..=u16::MAX, "bytes")?,
            ("max-packet-size", [bytes]) => self.max_packet_size = values::number16(bytes, 154..=1_900, "bytes")?,
            ("fragment", [size, ..]) if size == "0" => {}
            ("fragment", _) => {
                let trouble = Trouble::new("fragmenting inside of the tunnel is not supported");
                return Err(trouble.instead("remove it here and on the server, and use `mssfix`"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl RemoteLine {
    /// `remote host [port] [proto]`
    pub fn of(directive: &Directive) -> Result<Self, Trouble> {
        let args = directive.line.args.as_slice();
        let host = args.first().cloned().unwrap_or_default();
        if host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(Trouble::new(format!("{} is not a host name", quoted(&host))));
        }
        Ok(RemoteLine {
            at: directive.line.at.clone(),
            host,
            port: args.get(1).map(|port| values::port(port)).transpose()?,
            transport: args.get(2).map(|transport| transport_of(transport)).transpose()?,
        })
    }

    /// For sentences: the host.
    pub fn host(&self) -> String {
        quoted(&self.host)
    }
}

/// `proto`
pub fn transport_of(name: &str) -> Result<Transport, Trouble> {
    match name {
        "udp" => Ok(Transport::Udp(Family::Any)),
        "udp4" => Ok(Transport::Udp(Family::V4)),
        "udp6" => Ok(Transport::Udp(Family::V6)),
        "tcp" | "tcp4" | "tcp6" | "tcp-client" | "tcp4-client" | "tcp6-client" => Ok(Transport::Tcp),
        "tcp-server" | "tcp4-server" | "tcp6-server" => {
            Err(Trouble::new(format!("{name} belongs to a server")).instead("write udp"))
        }
        _ => Err(Trouble::new(format!("unknown protocol {}", quoted(name))).instead("write udp, udp4 or udp6")),
    }
}

/// What is said of a server's TCP.
pub(super) fn served_over_udp() -> Trouble {
    Trouble::new("only UDP is served in this version").instead("write `proto udp`, in the clients' profiles too")
}

/// `explicit-exit-notify [n]`: 1 without n, off with 0.
pub fn exit_notify(count: Option<&String>) -> Result<Option<u32>, Trouble> {
    let count = count.map(|count| values::number32(count, 0..=100, "attempts")).transpose()?;
    Ok(Some(count.unwrap_or(1)).filter(|count| *count > 0))
}

fn key_direction(word: &str) -> Result<u8, Trouble> {
    match word {
        "0" => Ok(0),
        "1" => Ok(1),
        _ => Err(Trouble::new(format!("{} is not a key direction", quoted(word)))
            .instead("write 1 on a client (0 is the server's)")),
    }
}

/// `mssfix [N [mtu|fixed]]`; bare, it is the default.
fn mssfix(words: &[String]) -> Result<Option<MssFix>, Trouble> {
    let Some(size) = words.first() else {
        return Ok(None);
    };
    let size = values::number16(size, 0..=u16::MAX, "bytes")?;
    match words.get(1).map(String::as_str) {
        _ if size == 0 => Ok(Some(MssFix::Off)),
        _ if size < 576 => {
            Err(Trouble::new(format!("{size} bytes are too few")).instead("write 0 for off, or 576 and more"))
        }
        None => Ok(Some(MssFix::Payload(size))),
        Some("mtu") => Ok(Some(MssFix::Mtu(size))),
        Some("fixed") => Ok(Some(MssFix::Fixed(size))),
        Some(other) => {
            Err(Trouble::new(format!("unknown word {}", quoted(other))).instead("write `mtu`, `fixed` or nothing"))
        }
    }
}

fn mtu_disc(word: &str) -> Result<MtuDiscovery, Trouble> {
    match word {
        "no" => Ok(MtuDiscovery::No),
        "maybe" => Ok(MtuDiscovery::Maybe),
        "yes" => Ok(MtuDiscovery::Yes),
        _ => Err(Trouble::new(format!("unknown word {}", quoted(word))).instead("write no, maybe or yes")),
    }
}

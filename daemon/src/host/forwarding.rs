//! Forwarding: the two sysctls that make a host a router, and the one that keeps it from losing its own IPv6 route by that. Set only
//! where they are not set, and put back only if nobody has set them since.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::change::{Change, Outcome};
use super::journal::Journal;
use super::{Applied, Host, HostError};

/// A sysctl that a gateway sets (networking/ip-sysctl of the kernel's documentation). No other is ever written, whatever a journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sysctl {
    /// `net.ipv4.ip_forward`, to 1.
    ForwardIpv4,
    /// `net.ipv6.conf.all.forwarding`, to 1. Putting it back switches it off for every interface.
    ForwardIpv6,
    /// `net.ipv6.conf.NAME.accept_ra`, to 2: router advertisements count although the host forwards.
    AcceptRa(String),
}

impl Sysctl {
    /// Its name as sysctl(8) takes it.
    pub fn key(&self) -> String {
        match self {
            Sysctl::ForwardIpv4 => "net.ipv4.ip_forward".to_owned(),
            Sysctl::ForwardIpv6 => "net.ipv6.conf.all.forwarding".to_owned(),
            // A name with a dot in it is written with slashes.
            Sysctl::AcceptRa(name) if name.contains('.') => format!("net/ipv6/conf/{name}/accept_ra"),
            Sysctl::AcceptRa(name) => format!("net.ipv6.conf.{name}.accept_ra"),
        }
    }

    /// What to do when it cannot be set, in sentences.
    pub fn advice(&self) -> String {
        let setting = format!("{}={}", self.key(), self.wanted());
        let why = match self {
            Sysctl::ForwardIpv4 => "Without it clients reach this host and nothing behind it.",
            Sysctl::ForwardIpv6 => "Without it clients reach nothing behind this host over IPv6.",
            Sysctl::AcceptRa(_) => {
                "Without it IPv6 forwarding would take this host's own default route away, so it stays off."
            }
        };
        format!(
            "{why} In a container: start it with --sysctl {setting} (Kubernetes: securityContext.sysctls of the pod); on a host: \
             sysctl -w {setting}"
        )
    }

    fn wanted(&self) -> u8 {
        match self {
            Sysctl::ForwardIpv4 | Sysctl::ForwardIpv6 => 1,
            Sysctl::AcceptRa(_) => 2,
        }
    }

    fn path(&self) -> io::Result<PathBuf> {
        let path = match self {
            Sysctl::ForwardIpv4 => "/proc/sys/net/ipv4/ip_forward".to_owned(),
            Sysctl::ForwardIpv6 => "/proc/sys/net/ipv6/conf/all/forwarding".to_owned(),
            Sysctl::AcceptRa(name) if is_interface_name(name) => format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"),
            Sysctl::AcceptRa(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        Ok(path.into())
    }

    /// Its value now, in the network namespace of the calling thread.
    pub(crate) fn read(&self) -> io::Result<u8> {
        let text = std::fs::read_to_string(self.path()?)?;
        text.trim().parse().map_err(|_| io::Error::other("its value is no number"))
    }

    /// Sets it, unless it is set.
    pub(crate) fn set(&self) -> io::Result<Outcome> {
        if self.read()? == self.wanted() {
            return Ok(Outcome::AlreadyThere);
        }
        std::fs::write(self.path()?, self.wanted().to_string())?;
        Ok(Outcome::Made)
    }

    /// Puts it back to what it was, unless somebody has set it to something else since, or its interface is gone.
    pub(crate) fn restore(&self, was: u8) -> io::Result<()> {
        match self.read() {
            Ok(value) if value == self.wanted() => std::fs::write(self.path()?, was.to_string()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sysctl {}={}", self.key(), self.wanted())
    }
}

/// Switches forwarding on: of IPv4, and of IPv6 only where clients have IPv6 addresses. What was not set before is among `applied`
/// and goes with it. Gives what could not be set, each with what to do: the gateway itself can still be reached.
///
/// A host that forwards IPv6 ignores router advertisements and at once forgets the default route that it has from one; so
/// every interface with such a route is told first to go on listening.
pub async fn enable(
    host: &Host,
    ipv4: bool,
    ipv6: bool,
    applied: &mut Applied,
    journal: &mut Journal,
) -> Vec<HostError> {
    let mut failures = Vec::new();
    if ipv4 {
        failures.extend(set(host, Sysctl::ForwardIpv4, applied, journal).await.err());
    }
    if ipv6 {
        failures.extend(enable_ipv6(host, applied, journal).await.err());
    }
    failures
}

async fn enable_ipv6(host: &Host, applied: &mut Applied, journal: &mut Journal) -> Result<(), HostError> {
    let off =
        Sysctl::ForwardIpv6.read().map_err(|source| HostError::Sysctl { sysctl: Sysctl::ForwardIpv6, source })? == 0;
    if off {
        for name in advertised_uplinks() {
            set(host, Sysctl::AcceptRa(name), applied, journal).await?;
        }
    }
    set(host, Sysctl::ForwardIpv6, applied, journal).await
}

async fn set(host: &Host, sysctl: Sysctl, applied: &mut Applied, journal: &mut Journal) -> Result<(), HostError> {
    // Not worth a line of the log, and a read-only /proc/sys is no trouble then.
    if sysctl.read().is_ok_and(|value| value == sysctl.wanted()) {
        return Ok(());
    }
    applied.add(host, Change::Sysctl(sysctl), journal).await
}

/// The interfaces whose default route came in a router advertisement.
fn advertised_uplinks() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    uplinks_in(&table)
}

/// Ten columns: destination, its length, source, its length, next hop, metric, references, uses, flags (all hexadecimal),
/// interface. Flags of linux/ipv6_route.h: RTF_DEFAULT and RTF_ADDRCONF together mark what router discovery made.
fn uplinks_in(table: &str) -> Vec<String> {
    const ADVERTISED: u32 = 0x0001_0000 | 0x0004_0000;
    let uplink = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(8);
        let flags = u32::from_str_radix(columns.next()?, 16).ok()?;
        let name = columns.next()?;
        (flags & ADVERTISED == ADVERTISED && is_interface_name(name)).then(|| name.to_owned())
    };
    let mut names: Vec<String> = table.lines().filter_map(uplink).collect();
    names.sort();
    names.dedup();
    names
}

/// A name that stays within its directory.
fn is_interface_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    !name.is_empty() && name.len() < libc::IFNAMSIZ && name != "." && name != ".." && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_sysctl() {
        assert_eq!(Sysctl::AcceptRa("eth0".to_owned()).key(), "net.ipv6.conf.eth0.accept_ra");
        assert_eq!(Sysctl::AcceptRa("eth0.7".to_owned()).key(), "net/ipv6/conf/eth0.7/accept_ra");
        assert_eq!(Sysctl::ForwardIpv4.to_string(), "sysctl net.ipv4.ip_forward=1");
    }

    #[test]
    fn a_journal_leads_to_no_other_file() {
        for name in ["", ".", "..", "../all", "a/b", "0123456789abcdef", "a b"] {
            let error = Sysctl::AcceptRa(name.to_owned()).path().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(Sysctl::AcceptRa("eth0.7".to_owned()).path().is_ok());
    }

    #[test]
    fn only_routes_from_advertisements_make_an_uplink() {
        let zero = "0".repeat(32);
        let line = |flags: &str, name: &str| format!("{zero} 00 {zero} 00 {zero} 00000400 1 0 {flags} {name}\n");
        let table =
            [line("00450003", "eth0"), line("00450003", "eth0"), line("00000003", "eth1"), line("00040001", "eth2")];
        assert_eq!(uplinks_in(&table.concat()), ["eth0"]);
        assert_eq!(uplinks_in("torn"), [""; 0]);
    }
}

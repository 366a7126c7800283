//! What belongs to one client alone: its file in `client-config-dir`, or what a `client-connect` command wrote. Both have the same
//! syntax and the same rules; a mistake in either refuses that client and nobody else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use zeroize::Zeroizing;

use super::common::verdict;
use super::directives::Side;
use super::files::{Files, OsFiles};
use super::problem::{At, Problem};
use super::push_list;
use super::tunnel::{MAX_ROUTES, Topology, unicast};
use super::values::{self, Trouble, quoted};
use super::written::{self, Directive, Entry};

/// No file of a client, and nothing it includes, is longer than this, in bytes.
pub const MAX_CLIENT_FILE: usize = 64 << 10;
/// Longest name that can have a file, in bytes: that of a certificate (X.520, ub-common-name).
pub const MAX_NAME: usize = 64;
/// The file of those who have none.
pub const DEFAULT: &str = "DEFAULT";

/// What is said of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientConfig {
    /// `ifconfig-push address second`: topology subnet: address and netmask; net30 and p2p: the client's address and its peer.
    pub ifconfig_push: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `ifconfig-ipv6-push address/bits`: 0..=128 bits.
    pub ifconfig_ipv6_push: Option<(Ipv6Addr, u8)>,
    /// `iroute` and `iroute-ipv6`: networks behind the client; host bits are zero.
    pub iroutes: Vec<(IpAddr, u8)>,
    /// `push` of this client, after its own `push-reset` and `push-remove`.
    pub push: Vec<String>,
    /// `push-reset`: nothing of the server's own `push` list goes to it.
    pub push_reset: bool,
    /// `push-remove`: what starts like one of these is left out of the server's list; see [`push_list`](Self::push_list).
    pub push_remove: Vec<String>,
    /// `disable`: it is refused.
    pub disable: bool,
    /// What is ignored, and why.
    pub warnings: Vec<Problem>,
}

impl ClientConfig {
    /// What this client is pushed out of the server's list and its own. A route to a network behind the client itself is left out.
    pub fn push_list(&self, server: &[String]) -> Vec<String> {
        let mut list = if self.push_reset { Vec::new() } else { server.to_vec() };
        for start in &self.push_remove {
            push_list::remove(&mut list, start);
        }
        list.extend(self.push.iter().cloned());
        list.retain(|option| push_list::route_of(option).is_none_or(|network| !self.iroutes.contains(&network)));
        list
    }

    /// Whether `push-remove` names exactly this option, which is not in any list: `ifconfig`, `ifconfig-ipv6`.
    pub fn removes(&self, option: &str) -> bool {
        self.push_remove.iter().any(|removed| removed == option)
    }

    /// Whether [`ifconfig_push`](Self::ifconfig_push) can be read in this topology.
    ///
    /// # Errors
    /// What is wrong with its second address.
    pub fn check(&self, topology: Topology) -> Result<(), Trouble> {
        let Some((address, second)) = self.ifconfig_push else {
            return Ok(());
        };
        match topology {
            Topology::Subnet => values::netmask(second).map(drop).map_err(|_| {
                Trouble::new(format!("ifconfig-push: topology subnet wants a netmask, and {second} is none"))
                    .instead(format!("write it like `ifconfig-push {address} 255.255.255.0`"))
            }),
            Topology::Net30 | Topology::P2p
                if second == address || unicast(&second.to_string()).is_err() || is_mask(second) =>
            {
                Err(Trouble::new(format!("ifconfig-push: this topology wants a second address, and {second} is none"))
                    .instead(
                        "write the client's address and its peer, or `topology subnet` in the server's configuration",
                    ))
            }
            Topology::Net30 | Topology::P2p => Ok(()),
        }
    }
}

/// Reads the file of a client, or `DEFAULT` when it has none. `Ok(None)`: there is neither.
///
/// A name that could lead out of the directory, or to a file that is not a client's, has no file of its own: one that is empty, longer
/// than [`MAX_NAME`], begins with `.` or `-`, has a `/` or a control character, or is `DEFAULT` itself.
///
/// # Errors
/// Everything that is wrong with the file, or that `exclusive` wants a file of its own and there is none: the client is refused.
pub fn read(dir: &Path, common_name: &str, exclusive: bool) -> Result<Option<ClientConfig>, Vec<Problem>> {
    read_with(dir, common_name, exclusive, &OsFiles)
}

/// [`read`] with files from elsewhere.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    dir: &Path,
    common_name: &str,
    exclusive: bool,
    files: &dyn Files,
) -> Result<Option<ClientConfig>, Vec<Problem>> {
    let own = file_name(common_name).map(|name| read_file(&dir.join(name), files));
    match own.transpose()?.flatten() {
        Some(config) => Ok(Some(config)),
        None if exclusive => {
            let trouble = Trouble::new(format!("ccd-exclusive, and {} has no file here", quoted(common_name)));
            Err(vec![Problem::error(&written::whole(dir), trouble.instead("make one, which may be empty"))])
        }
        None => read_file(&dir.join(DEFAULT), files),
    }
}

/// Reads a text of the same syntax, as a `client-connect` command writes it; `place` names it in sentences.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, place: &str) -> Result<ClientConfig, Vec<Problem>> {
    let at = Path::new(place);
    understand(at, &Given { at, text: text.as_bytes() })
}

/// The name of a client's file; `None`: that name can have none.
pub fn file_name(common_name: &str) -> Option<&str> {
    let fits = (1..=MAX_NAME).contains(&common_name.len()) && common_name != DEFAULT;
    let harmless = !common_name.starts_with(['.', '-']) && !common_name.contains(|c: char| c == '/' || c.is_control());
    Some(common_name).filter(|_| fits && harmless)
}

/// `None`: it is not there.
fn read_file(path: &Path, files: &dyn Files) -> Result<Option<ClientConfig>, Vec<Problem>> {
    match bounded(path, files) {
        Ok(text) => understand(path, &Whole { at: path, text: &text, files }).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            let trouble = Trouble::new(format!("cannot read it: {error}"));
            Err(vec![Problem::error(&written::whole(path), trouble)])
        }
    }
}

fn bounded(path: &Path, files: &dyn Files) -> io::Result<Zeroizing<Vec<u8>>> {
    let text = files.read(path)?;
    if text.len() > MAX_CLIENT_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

fn understand(path: &Path, files: &dyn Files) -> Result<ClientConfig, Vec<Problem>> {
    let mut problems = Vec::new();
    let written = written::read(path, Side::OneClient, files, &mut problems);
    let mut config = ClientConfig::default();
    for entry in &written.entries {
        match entry {
            Entry::Directive(directive) => config.take(directive, &mut problems),
            Entry::Connection(at, _) => problems.push(misplaced(at)),
        }
    }
    if problems.iter().any(Problem::is_error) {
        return Err(problems);
    }
    config.warnings = problems;
    Ok(config)
}

fn misplaced(at: &At) -> Problem {
    Problem::error(at, Trouble::new("<connection> belongs to a client's profile").instead("remove it"))
}

impl ClientConfig {
    fn take(&mut self, directive: &Directive, problems: &mut Vec<Problem>) {
        if !verdict(directive, Side::OneClient, problems) {
            return;
        }
        match self.apply(directive.row.name, &directive.line.args) {
            Ok(None) => {}
            Ok(Some(warning)) => problems.push(Problem::warning(&directive.line.at, warning)),
            Err(trouble) => problems.push(directive.problem(trouble)),
        }
    }

    /// A warning, if not all of it is done.
    fn apply(&mut self, name: &str, args: &[String]) -> Result<Option<Trouble>, Trouble> {
        match (name, args) {
            ("ifconfig-push", [address, second, rest @ ..]) => {
                self.ifconfig_push = Some((unicast(address)?, values::ipv4(second)?));
                let told = Trouble::new("ifconfig-push: addresses are not translated, and the third word is not used");
                return Ok(rest.first().map(|_| told));
            }
            ("ifconfig-ipv6-push", [address, peer @ ..]) => {
                let (local, bits) = values::ipv6_with_bits(address)?;
                if local.is_unspecified() || local.is_multicast() || local.is_loopback() {
                    return Err(Trouble::new(format!("{local} cannot be a tunnel's address")));
                }
                peer.first().map(|text| values::ipv6(text)).transpose()?;
                self.ifconfig_ipv6_push = Some((local, bits));
            }
            ("iroute", [network, mask @ ..]) => {
                let prefix = mask.first().map(|mask| values::ipv4(mask).and_then(values::netmask)).transpose()?;
                let (network, prefix) = (values::ipv4(network)?, prefix.unwrap_or(32));
                self.iroute(network.into(), values::ipv4_network(network, prefix).into(), prefix)?;
            }
            ("iroute-ipv6", [network]) => {
                let (network, prefix) = values::ipv6_with_bits(network)?;
                self.iroute(network.into(), values::ipv6_network(network, prefix).into(), prefix)?;
            }
            ("push", [option]) => return push_list::add(&mut self.push, option),
            ("push-reset", _) => {
                self.push.clear();
                self.push_reset = true;
            }
            ("push-remove", [start]) => {
                push_list::remove(&mut self.push, start);
                self.push_remove.push(start.clone());
            }
            ("disable", _) => self.disable = true,
            ("ignore-unknown-option", _) => {}
            _ => return Err(Trouble::new("it cannot stand here in this form")),
        }
        Ok(None)
    }

    fn iroute(&mut self, written: IpAddr, first: IpAddr, prefix: u8) -> Result<(), Trouble> {
        if written != first {
            return Err(Trouble::new(format!("{written} is not the first address of a network of /{prefix}"))
                .instead(format!("write {first}")));
        }
        if self.iroutes.len() >= MAX_ROUTES {
            return Err(Trouble::new(format!("more than {MAX_ROUTES} routes")));
        }
        if !self.iroutes.contains(&(first, prefix)) {
            self.iroutes.push((first, prefix));
        }
        Ok(())
    }
}

/// A mask where an address is wanted.
fn is_mask(address: Ipv4Addr) -> bool {
    address.octets()[0] == 255
}

/// A file that was read already, and others beside it.
struct Whole<'a> {
    at: &'a Path,
    text: &'a [u8],
    files: &'a dyn Files,
}

impl Files for Whole<'_> {
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        if path == self.at { Ok(Zeroizing::new(self.text.to_vec())) } else { bounded(path, self.files) }
    }
}

/// A text and nothing else: what a command wrote includes no files.
struct Given<'a> {
    at: &'a Path,
    text: &'a [u8],
}

impl Files for Given<'_> {
    fn read(&self, path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
        match path == self.at {
            true if self.text.len() > MAX_CLIENT_FILE => Err(io::ErrorKind::FileTooLarge.into()),
            true => Ok(Zeroizing::new(self.text.to_vec())),
            false => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

//! What belongs to one client alone: its file in `client-config-dir`, or what a `client-connect` command wrote. Both have the same
//! syntax and the same rules; a mistake in either refuses that client and nobody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::files::{Files, OsFiles};
use super::problem::{At, Problem};
use super::values::Trouble;

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
    /// `push-remove`: what starts like one of these is left out of the server's list.
    pub push_remove: Vec<String>,
    /// `disable`: it is refused.
    pub disable: bool,
    /// What is ignored, and why.
    pub warnings: Vec<Problem>,
}

/// Reads the file of a client, or `DEFAULT` when it has none. `Ok(None)`: there is neither.
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
    _dir: &Path,
    _common_name: &str,
    _exclusive: bool,
    _files: &dyn Files,
) -> Result<Option<ClientConfig>, Vec<Problem>> {
    Ok(None)
}

/// Reads a text of the same syntax, as a `client-connect` command writes it; `place` names it in sentences.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(_text: &str, place: &str) -> Result<ClientConfig, Vec<Problem>> {
    let at = At { file: place.into(), line: 0 };
    Err(vec![Problem::error(&at, Trouble::new("not read yet"))])
}

//! The file in which leases outlive a restart, in the format of OpenVPN's `ifconfig-pool-persist`: a line for each client
//! with its name, its IPv4 address and its IPv6 address, with commas between. A stock server reads it as it is.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::pool::{Lease, Pool};

/// A longer file is not one of leases: 2^24 clients with long names.
const MOST_BYTES: u64 = 1 << 30;

/// Whose an address was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The client.
    pub name: String,
    /// Its IPv4 address; in topology net30 the first of its block.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// Fills the pool from the file. One that does not exist yet is empty. Gives how many leases it remembered.
///
/// # Errors
/// What reading says.
pub fn load(path: &Path, pool: &mut Pool) -> io::Result<usize> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MOST_BYTES => {
            return Err(io::Error::other("it is too long for a file of leases"));
        }
        Ok(_) => {}
    }
    let bytes = std::fs::read(path)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().filter_map(parse).filter(|line| pool.remember(&line.name, line.ipv4, line.ipv6)).count())
}

/// Writes the pool's leases. A reader finds the old file or the new one, never a part; where no second file can be made
/// beside it (its directory is somebody else's), it is written in place.
///
/// # Errors
/// What writing says.
pub fn store(path: &Path, pool: &Pool) -> io::Result<()> {
    let mut text = String::new();
    for (name, lease) in pool.owned() {
        text.push_str(&line(&name, &lease));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match std::fs::write(&beside, &text).and_then(|()| std::fs::rename(&beside, path)) {
        Ok(()) => Ok(()),
        Err(_) => {
            let _ = std::fs::remove_file(&beside);
            std::fs::write(path, &text)
        }
    }
}

fn line(name: &str, lease: &Lease) -> String {
    let mut line = name.to_owned();
    let _ = write!(line, ",{}", lease.ipv4.map(|address| address.to_string()).unwrap_or_default());
    if let Some(ipv6) = lease.ipv6 {
        let _ = write!(line, ",{ipv6}");
    }
    line.push('\n');
    line
}

/// `None` for what is no lease: comments, and what somebody wrote by mistake.
fn parse(line: &str) -> Option<Line> {
    let line = line.trim_end();
    if line.starts_with(['#', ';']) {
        return None;
    }
    // A name may have commas, an address has none: the addresses stand at the end.
    let (front, last) = line.rsplit_once(',')?;
    if let Ok(ipv6) = last.parse() {
        let (name, ipv4) = match front.rsplit_once(',') {
            Some((name, "")) => (name, None),
            Some((name, address)) => match address.parse() {
                Ok(ipv4) => (name, Some(ipv4)),
                Err(_) => (front, None),
            },
            None => (front, None),
        };
        return Some(Line { name: name.to_owned(), ipv4, ipv6: Some(ipv6) });
    }
    Some(Line { name: front.to_owned(), ipv4: Some(last.parse().ok()?), ipv6: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::server::Pool4;
    use crate::config::tunnel::Topology;
    use crate::gateway::fixture::Folder;

    fn pool() -> Pool {
        let ipv4 = Pool4 {
            network: "10.8.0.0".parse().unwrap(),
            prefix: 24,
            netmask: "255.255.255.0".parse().unwrap(),
            local: "10.8.0.1".parse().unwrap(),
            peer: None,
            pool_start: "10.8.0.2".parse().unwrap(),
            pool_end: "10.8.0.99".parse().unwrap(),
            dynamic: true,
        };
        Pool::new(Some(&ipv4), None, Topology::Subnet, 1)
    }

    fn parsed(text: &str) -> Option<(String, String, String)> {
        let line = parse(text)?;
        let text = |address: Option<String>| address.unwrap_or_default();
        Some((line.name, text(line.ipv4.map(|a| a.to_string())), text(line.ipv6.map(|a| a.to_string()))))
    }

    #[test]
    fn lines_of_both_families_and_of_one_are_read() {
        let lease = |name: &str, v4: &str, v6: &str| Some((name.to_owned(), v4.to_owned(), v6.to_owned()));
        assert_eq!(parsed("alice,10.8.0.2"), lease("alice", "10.8.0.2", ""));
        assert_eq!(parsed("alice,10.8.0.2,fd00::2"), lease("alice", "10.8.0.2", "fd00::2"));
        assert_eq!(parsed("alice,,fd00::2"), lease("alice", "", "fd00::2"));
        assert_eq!(parsed("Doe, Jane,10.8.0.2"), lease("Doe, Jane", "10.8.0.2", ""));
        for wrong in ["", "alice", "alice,", "alice,x", "# alice,10.8.0.2", "alice,10.8.0.2,x"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = Folder::new();
        let file = dir.path().join("ipp.txt");
        let mut before = pool();
        assert_eq!(load(&file, &mut before).unwrap(), 0, "there is none yet");
        let (a, b) = (before.lease("a", 0).unwrap(), before.lease("b", 0).unwrap());
        store(&file, &before).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "a,10.8.0.2\nb,10.8.0.3\n");
        let mut after = pool();
        assert_eq!(load(&file, &mut after).unwrap(), 2);
        assert_eq!((after.lease("b", 0), after.lease("a", 0)), (Some(b), Some(a)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}

//! What the daemon changes on its host: the tunnel interface's state, its addresses, routes; a gateway's NAT and forwarding. Here lives the handle
//! that makes changes ([`Host`]) and the errors; each kind of change has its own file, and knows its undo.
//!
//! The way through: [`Host::surroundings`] reads, [`plan::Plan::make`] decides (pure), [`Host::apply`] changes and
//! [`Applied::undo`] takes back. Every change is written to the [`journal::Journal`] before it is made, so that the next
//! start can undo what a killed process left behind.

pub mod change;
pub mod forwarding;
pub mod gateway_link;
pub mod journal;
pub mod link;
pub mod nat;
pub mod plan;
pub mod privileges;
pub mod resolve;
pub mod routes;
pub mod watch;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use change::{Change, Record};
use journal::Journal;
use plan::{Plan, Surroundings};

/// A network interface. The name is what people read; the index is what the kernel keeps apart (names are reused).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// Its name, at most 15 bytes (IFNAMSIZ in linux/if.h).
    pub name: String,
    /// Its index in this network namespace, from 1.
    pub index: u32,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What went wrong with the host. Each is one sentence for the user.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The netlink socket could not be opened.
    #[error("cannot open a netlink socket: {0}")]
    Netlink(#[source] io::Error),
    /// The kernel refused a change.
    #[error("{doing} failed: {source}{}", hint(source))]
    Change {
        /// What was being done, as a phrase (`adding route 10.0.0.0/8 via 10.8.0.1 dev tun0`).
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What cannot name a gateway, in a sentence.
    #[error("{0}")]
    BadName(String),
    /// Forwarding could not be switched on.
    #[error("{} cannot be set: {source}. {}", sysctl.key(), sysctl.advice())]
    Sysctl {
        /// Which.
        sysctl: forwarding::Sysctl,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a question.
    #[error("reading {what} failed: {source}")]
    Query {
        /// What was being read.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is no such interface in this network namespace.
    #[error("there is no network interface named {0}")]
    NoInterface(String),
    /// The journal could not be written; nothing is changed that is not in it.
    #[error("cannot write the journal {}: {source}", path.display())]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another living process owns the journal of this instance.
    #[error("another minivpn (process {pid}) runs as instance {instance}; stop it or choose another instance name")]
    Busy {
        /// The instance's name.
        instance: String,
        /// The owner.
        pid: u32,
    },
}

/// What to do about the commonest answers.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => " (the gateway is not on any link of this host)",
        Some(libc::ENETDOWN) => " (the interface is down)",
        Some(libc::EEXIST) => " (another route leads to the same network another way: another VPN that is up?)",
        _ => "",
    }
}

/// The host's network configuration, through one netlink socket. It belongs to the network namespace of the thread
/// that opened it.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) netlink: rtnetlink::Handle,
}

impl Host {
    /// Opens the socket and starts its task.
    ///
    /// # Errors
    /// [`HostError::Netlink`] when the kernel gives no socket.
    ///
    /// # Panics
    /// Outside a tokio runtime, as everything in tokio does.
    pub fn open() -> Result<Self, HostError> {
        let (connection, netlink, _unsolicited) = rtnetlink::new_connection().map_err(HostError::Netlink)?;
        tokio::spawn(connection);
        Ok(Self { netlink })
    }

    /// What a plan needs to know of the host: the default routes outside `tunnel`, how the server is reached, and
    /// whether IPv6 is switched on.
    ///
    /// # Errors
    /// [`HostError::Query`] when the kernel refuses to list its routes. A host without any route is no error.
    pub async fn surroundings(&self, tunnel: &Interface, server: IpAddr) -> Result<Surroundings, HostError> {
        let default_v4 = self.default_route(routes::Family::V4, Some(tunnel)).await?;
        let default_v6 = self.default_route(routes::Family::V6, Some(tunnel)).await?;
        let to_server = self.route_to(server).await?.filter(|hop| hop.interface.index != tunnel.index);
        Ok(Surroundings { default_v4, default_v6, to_server, ipv6: link::ipv6_enabled(&tunnel.name) })
    }

    /// Makes the plan's changes in order. Either all of them hold afterwards or none: on the first failure what was
    /// made is undone, and the error names the change.
    ///
    /// # Errors
    /// [`HostError::Change`], [`HostError::Query`] or [`HostError::Journal`].
    pub async fn apply(&self, plan: &Plan, journal: &mut Journal) -> Result<Applied, HostError> {
        let mut applied = Applied::default();
        for change in &plan.changes {
            if let Err(error) = applied.add(self, change.clone(), journal).await {
                for failure in applied.undo(self, journal).await {
                    tracing::warn!("while undoing: {failure}");
                }
                return Err(error);
            }
        }
        Ok(applied)
    }
}

/// Changes that were made and are to be undone. Dropping it undoes nothing (that needs the kernel's answer): call
/// [`Applied::undo`]; what is forgotten stays in the journal for the next start.
#[derive(Debug, Default)]
pub struct Applied {
    made: Vec<(u64, Record)>,
}

impl Applied {
    /// The changes, in the order in which they were made. What existed before is not among them.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.made.iter().map(|(_, record)| &record.change)
    }

    /// Makes one more change.
    ///
    /// # Errors
    /// As [`Host::apply`]; nothing is changed then.
    pub async fn add(&mut self, host: &Host, change: Change, journal: &mut Journal) -> Result<(), HostError> {
        let record = host.record(change).await?;
        let id = journal.begin(&record)?;
        match host.make(&record).await {
            Ok(change::Outcome::Made) => {
                tracing::debug!("{}", record.change.doing());
                self.made.push((id, record));
                Ok(())
            }
            Ok(change::Outcome::AlreadyThere) => {
                tracing::info!(
                    "{} was not necessary: it exists already, and stays when the tunnel goes",
                    record.change
                );
                journal.finish(id)
            }
            Ok(change::Outcome::Contradicted) => {
                journal.finish(id)?;
                if record.change.redirects() {
                    let source = io::Error::from_raw_os_error(libc::EEXIST);
                    return Err(HostError::Change { doing: record.change.doing(), source });
                }
                tracing::warn!("{} is left out: another route leads to the same network another way", record.change);
                Ok(())
            }
            Err(error) => {
                journal.finish(id)?;
                Err(error)
            }
        }
    }

    /// Takes everything back, last change first, and goes on when one resists. Gives what resisted; that stays in the
    /// journal. What is gone already (with its interface, say) counts as undone.
    pub async fn undo(mut self, host: &Host, journal: &mut Journal) -> Vec<HostError> {
        let mut failures = Vec::new();
        while let Some((id, record)) = self.made.pop() {
            let undone = match host.unmake(&record).await {
                Ok(()) => journal.finish(id),
                Err(error) => Err(error),
            };
            failures.extend(undone.err());
        }
        failures
    }

    /// Puts the server's host route onto the way that the server is reached by now (`None`: it is on a link of ours, or
    /// not reachable; then the old route only goes). To be called when the default route or an address of the host
    /// changed. Does nothing when there was no such route or it is still right.
    ///
    /// # Errors
    /// As [`Host::apply`]; the old route is gone then.
    pub async fn move_server_route(
        &mut self,
        host: &Host,
        server: IpAddr,
        via: Option<&routes::NextHop>,
        journal: &mut Journal,
    ) -> Result<(), HostError> {
        let Some(at) = self.made.iter().position(|(_, record)| record.change.is_host_route(server)) else {
            return Ok(());
        };
        // One that keeps the server on its own link stays there: the tunnel has a route that would win over the link's.
        let on_link = self
            .made
            .get(at)
            .is_some_and(|(_, record)| matches!(&record.change, Change::Route(route) if route.gateway.is_none()));
        let wanted = via
            .filter(|hop| hop.gateway.is_some() || on_link)
            .map(|hop| Change::Route(routes::Route::to_host(server, hop)));
        if wanted.as_ref() == self.made.get(at).map(|(_, record)| &record.change) {
            // It may have been flushed with its link: put it back where it belongs, keep the undo.
            if let Some((_, record)) = self.made.get(at) {
                host.make(record).await?;
            }
            return Ok(());
        }
        let (id, old) = self.made.remove(at);
        host.unmake(&old).await?;
        journal.finish(id)?;
        match wanted {
            Some(change) => self.add(host, change, journal).await,
            None => Ok(()),
        }
    }
}

/// The kernel's errno out of a netlink error.
pub(crate) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// Whether a netlink error carries this errno.
pub(crate) fn is_errno(error: &io::Error, errnos: &[i32]) -> bool {
    error.raw_os_error().is_some_and(|errno| errnos.contains(&errno))
}

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
pub(crate) mod tests;

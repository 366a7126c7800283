//! One change of the host as a value that knows its undo: what is made, what was there before, what to say about it.
//! How each kind is done stands in `link.rs`, `routes.rs`, `nat.rs` and `forwarding.rs`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::forwarding::Sysctl;
use super::link::{Address, LinkBefore, LinkState};
use super::nat::{self, Nat};
use super::routes::Route;
use super::{Host, HostError};

/// `redirect-gateway ipv6` makes routes of up to this length, in bits (fc00::/7).
const LONGEST_REDIRECT: u8 = 7;

/// A change that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// The interface is up, with this MTU and queue length. Undone: as it was.
    Link(LinkState),
    /// The interface has this address. Undone: it has not.
    Address(Address),
    /// This route exists. Undone: it does not.
    Route(Route),
    /// This nftables table exists. Undone: it does not.
    Nat(Nat),
    /// This sysctl has the value that a gateway needs. Undone: its old one, unless somebody has set another since.
    Sysctl(Sysctl),
}

impl Change {
    /// What is being done, as a phrase.
    pub fn doing(&self) -> String {
        match self {
            Change::Link(_) | Change::Sysctl(_) => format!("setting {self}"),
            Change::Address(_) | Change::Route(_) | Change::Nat(_) => format!("adding {self}"),
        }
    }

    /// What is being undone, as a phrase.
    pub fn undoing(&self) -> String {
        match self {
            Change::Link(_) => format!("restoring {self}"),
            Change::Sysctl(sysctl) => format!("restoring sysctl {}", sysctl.key()),
            Change::Address(_) | Change::Route(_) | Change::Nat(_) => format!("removing {self}"),
        }
    }

    /// Whether this is one of the routes that send everything into the tunnel (`redirect-gateway`): no other is as short.
    /// Without one of them traffic would leave by another way than was agreed.
    pub fn redirects(&self) -> bool {
        matches!(self, Change::Route(route) if route.prefix <= LONGEST_REDIRECT)
    }

    /// Whether this is the route to exactly this host.
    pub fn is_host_route(&self, host: IpAddr) -> bool {
        matches!(self, Change::Route(route) if route.is_to_host(host))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Link(link) => link.fmt(f),
            Change::Address(address) => address.fmt(f),
            Change::Route(route) => route.fmt(f),
            Change::Nat(nat) => nat.fmt(f),
            Change::Sysctl(sysctl) => sysctl.fmt(f),
        }
    }
}

/// A change with what its undo needs to know. This is what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The change.
    pub change: Change,
    /// The state of the interface before a [`Change::Link`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<LinkBefore>,
    /// The value of a [`Change::Sysctl`] before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<u8>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made, and is ours to undo.
    Made,
    /// It was there before us, and is not ours to undo.
    AlreadyThere,
    /// Something of the same name is there that leads elsewhere: ours was not made.
    Contradicted,
}

impl Host {
    /// Looks up what the undo will need.
    pub(crate) async fn record(&self, change: Change) -> Result<Record, HostError> {
        let before = match &change {
            Change::Link(link) => Some(self.link_before(&link.interface).await?),
            _ => None,
        };
        let was = match &change {
            Change::Sysctl(sysctl) => {
                let value = sysctl.read().map_err(|source| HostError::Sysctl { sysctl: sysctl.clone(), source })?;
                Some(value)
            }
            _ => None,
        };
        Ok(Record { change, before, was })
    }

    /// Makes a change.
    pub(crate) async fn make(&self, record: &Record) -> Result<Outcome, HostError> {
        let made = match &record.change {
            Change::Link(link) => self.set_link(link).await.map(|()| Outcome::Made),
            Change::Address(address) => self.add_address(address).await,
            Change::Route(route) => self.add_route(route).await,
            Change::Nat(nat) => nat::install(nat).map(|()| Outcome::Made),
            Change::Sysctl(sysctl) => {
                return sysctl.set().map_err(|source| HostError::Sysctl { sysctl: sysctl.clone(), source });
            }
        };
        made.map_err(|source| HostError::Change { doing: record.change.doing(), source })
    }

    /// Undoes a change. What is gone already is no error; a namesake of the interface is left alone.
    pub(crate) async fn unmake(&self, record: &Record) -> Result<(), HostError> {
        let undone = match &record.change {
            Change::Link(link) => match &record.before {
                Some(before) => self.restore_link(&link.interface, before).await,
                None => Ok(()),
            },
            Change::Address(address) => self.delete_address(address).await,
            Change::Route(route) => self.delete_route(route).await,
            Change::Nat(nat) => nat::remove(&nat.table),
            Change::Sysctl(sysctl) => match record.was {
                Some(was) => sysctl.restore(was),
                None => Ok(()),
            },
        };
        undone.map_err(|source| HostError::Change { doing: record.change.undoing(), source })
    }
}

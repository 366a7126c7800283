//! The tunnel interface through rtnetlink: up, MTU, queue length, addresses. It exists already when this file meets
//! it: opening the TUN device is the data plane's affair.

use std::fmt;
use std::io;
use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkUnspec};
use serde::{Deserialize, Serialize};

use super::change::Outcome;
use super::{Host, HostError, Interface, io_error, is_errno};

/// The smallest MTU on which Linux runs IPv6, in bytes (RFC 8200 §5).
pub const IPV6_MIN_MTU: u32 = 1280;

/// The wanted state of an interface. It is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Which.
    pub interface: Interface,
    /// MTU, in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets; `None` leaves it.
    pub tx_queue_len: Option<u32>,
    /// The longest super-packet in bytes; `None` leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gso_max_size: Option<u32>,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} up mtu {}", self.interface, self.mtu)?;
        if let Some(length) = self.tx_queue_len {
            write!(f, " txqueuelen {length}")?;
        }
        match self.gso_max_size {
            Some(size) => write!(f, " gso_max_size {size}"),
            None => Ok(()),
        }
    }
}

/// How an interface was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBefore {
    /// Whether it was up.
    pub up: bool,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its transmit queue length, in packets.
    pub tx_queue_len: u32,
    /// Its longest super-packet, in bytes; 0: the kernel did not say.
    #[serde(default)]
    pub gso_max_size: u32,
}

/// An address of the tunnel interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Whose.
    pub interface: Interface,
    /// Our address.
    pub local: IpAddr,
    /// The on-link prefix, in bits; 32 with a peer.
    pub prefix: u8,
    /// The other end of a point-to-point address (`topology net30` and `p2p`).
    pub peer: Option<IpAddr>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.peer {
            Some(peer) => write!(f, "address {} peer {peer} dev {}", self.local, self.interface),
            None => write!(f, "address {}/{} dev {}", self.local, self.prefix, self.interface),
        }
    }
}

/// Whether IPv6 is compiled in and not switched off for this interface (`disable_ipv6`, as in many containers).
pub fn ipv6_enabled(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", interface.replace('/', "."));
    std::fs::read_to_string(path).is_ok_and(|value| value.trim() == "0")
}

impl Host {
    /// The interface of this name.
    ///
    /// # Errors
    /// [`HostError::NoInterface`], or [`HostError::Query`] when the kernel does not answer.
    pub async fn interface(&self, name: &str) -> Result<Interface, HostError> {
        let link = self.link_named(name).await.map_err(|source| HostError::Query { what: "the interfaces", source })?;
        match link {
            Some(link) => Ok(Interface { name: name.to_owned(), index: link.header.index }),
            None => Err(HostError::NoInterface(name.to_owned())),
        }
    }

    pub(crate) async fn link_before(&self, interface: &Interface) -> Result<LinkBefore, HostError> {
        let link = self
            .link_named(&interface.name)
            .await
            .map_err(|source| HostError::Query { what: "the interface", source })?
            .ok_or_else(|| HostError::NoInterface(interface.name.clone()))?;
        let up = link.header.flags.contains(LinkFlags::Up);
        let mut before = LinkBefore { up, mtu: 0, tx_queue_len: 0, gso_max_size: 0 };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => before.mtu = *mtu,
                LinkAttribute::TxQueueLen(length) => before.tx_queue_len = *length,
                LinkAttribute::GsoMaxSize(size) => before.gso_max_size = *size,
                _ => {}
            }
        }
        Ok(before)
    }

    pub(crate) async fn set_link(&self, link: &LinkState) -> io::Result<()> {
        let mut message =
            LinkUnspec::new_with_index(link.interface.index).up().append_extra_attribute(LinkAttribute::Mtu(link.mtu));
        if let Some(length) = link.tx_queue_len {
            message = message.append_extra_attribute(LinkAttribute::TxQueueLen(length));
        }
        self.netlink.link().set(message.build()).execute().await.map_err(io_error)?;
        if let Some(size) = link.gso_max_size
            && let Err(error) = self.set_gso_max_size(&link.interface, size).await
        {
            // It only makes sends fuller.
            tracing::info!("{} keeps its gso_max_size: {error}", link.interface);
        }
        Ok(())
    }

    /// By itself: a kernel that does not take it (before 4.16) shall still take the rest.
    async fn set_gso_max_size(&self, interface: &Interface, bytes: u32) -> io::Result<()> {
        let message =
            LinkUnspec::new_with_index(interface.index).append_extra_attribute(LinkAttribute::GsoMaxSize(bytes));
        self.netlink.link().set(message.build()).execute().await.map_err(io_error)
    }

    /// Packets that the interface dropped because its queue towards us was full (`tx_dropped`, IFLA_STATS64); `None`: there is no
    /// such interface, or the kernel does not say.
    pub async fn tx_dropped(&self, interface: &Interface) -> Option<u64> {
        let link = self.link_named(&interface.name).await.ok()??;
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats.tx_dropped),
            _ => None,
        })
    }

    pub(crate) async fn restore_link(&self, interface: &Interface, before: &LinkBefore) -> io::Result<()> {
        if !self.is_still(interface).await? {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(interface.index);
        let message = if before.up { message.up() } else { message.down() };
        let message = message
            .append_extra_attribute(LinkAttribute::Mtu(before.mtu))
            .append_extra_attribute(LinkAttribute::TxQueueLen(before.tx_queue_len))
            .build();
        gone_is_fine(self.netlink.link().set(message).execute().await)?;
        if before.gso_max_size > 0 {
            // A kernel that refuses it did not change it either.
            let _ = self.set_gso_max_size(interface, before.gso_max_size).await;
        }
        Ok(())
    }

    pub(crate) async fn add_address(&self, address: &Address) -> io::Result<Outcome> {
        let mut request = self.netlink.address().add(address.interface.index, address.local, address.prefix);
        *request.message_mut() = address_message(address);
        match request.execute().await.map_err(io_error) {
            Ok(()) => Ok(Outcome::Made),
            Err(error) if is_errno(&error, &[libc::EEXIST]) => Ok(Outcome::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn delete_address(&self, address: &Address) -> io::Result<()> {
        if !self.is_still(&address.interface).await? {
            return Ok(());
        }
        gone_is_fine(self.netlink.address().del(address_message(address)).execute().await)
    }

    /// Whether the name still belongs to the interface that was meant. After its process died, another may have taken
    /// the name of the TUN device, and nothing of that one is ours.
    pub(crate) async fn is_still(&self, interface: &Interface) -> io::Result<bool> {
        let link = self.link_named(&interface.name).await?;
        Ok(link.is_some_and(|link| link.header.index == interface.index))
    }

    async fn link_named(&self, name: &str) -> io::Result<Option<LinkMessage>> {
        let mut links = self.netlink.link().get().match_name(name).execute();
        match links.next().await {
            Some(Ok(link)) => Ok(Some(link)),
            Some(Err(error)) => match io_error(error) {
                error if is_errno(&error, &[libc::ENODEV]) => Ok(None),
                error => Err(error),
            },
            None => Ok(None),
        }
    }

    /// The name of an interface by its index.
    pub(crate) async fn interface_at(&self, index: u32) -> io::Result<Option<Interface>> {
        let mut links = self.netlink.link().get().match_index(index).execute();
        let Some(link) = links.next().await else { return Ok(None) };
        let link = link.map_err(io_error)?;
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        Ok(name.map(|name| Interface { name, index }))
    }
}

/// An address message: IFA_LOCAL is ours, IFA_ADDRESS the peer's or the same (rtnetlink(7)).
fn address_message(address: &Address) -> AddressMessage {
    let mut message = match address.local {
        IpAddr::V4(_) => AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(address.interface.index).build(),
        IpAddr::V6(_) => AddressMessageBuilder::<std::net::Ipv6Addr>::new().index(address.interface.index).build(),
    };
    message.header.family = if address.local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = address.prefix;
    // A tunnel has no neighbours to ask whether they have it. Without this the kernel itself takes a while until it may be used.
    if address.local.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    message.attributes =
        vec![AddressAttribute::Local(address.local), AddressAttribute::Address(address.peer.unwrap_or(address.local))];
    message
}

/// An undo that finds nothing left to undo has succeeded.
pub(crate) fn gone_is_fine(result: Result<(), rtnetlink::Error>) -> io::Result<()> {
    const GONE: &[i32] = &[libc::ESRCH, libc::ENOENT, libc::ENODEV, libc::EADDRNOTAVAIL, libc::ENXIO];
    match result.map_err(io_error) {
        Err(error) if is_errno(&error, GONE) => Ok(()),
        other => other,
    }
}

//! UDP ASSOCIATE (RFC 1928, section 7): datagrams of one client, between a socket on the host that only it may use and a socket in
//! the tunnel. It lasts as long as the client's TCP connection.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fast_socks5::{new_udp_header, parse_udp_request};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::datagrams::Datagrams;
use super::failure::Failure;
use super::network::{Network, Target};
use super::socks;

/// Bytes of the longest datagram with its header.
const LONGEST: usize = 65_535;

/// Names of one client that are asked for at once; datagrams to further ones are dropped.
const NAMES: usize = 16;

/// An association that is open.
#[derive(Debug)]
pub(super) struct Association {
    network: Arc<Network>,
    inside: Arc<Datagrams>,
    outside: UdpSocket,
    client: Client,
}

impl Association {
    /// Opens both sockets: the one on the host where the client's TCP connection arrived. `named` is where the client says that it
    /// will send from.
    ///
    /// # Errors
    /// [`Failure::Full`], also when the host has no socket left; [`Failure::TunnelDown`].
    pub(super) async fn open(
        network: &Arc<Network>,
        client: IpAddr,
        here: IpAddr,
        named: &Target,
    ) -> Result<Association, Failure> {
        let inside = Arc::new(Datagrams::open(&network.stack)?);
        let outside = UdpSocket::bind((here.to_canonical(), 0)).await.map_err(|_| Failure::Full)?;
        Ok(Association { network: Arc::clone(network), inside, outside, client: Client::new(client, named) })
    }

    /// Where the client sends its datagrams.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(super) fn bound(&self) -> io::Result<SocketAddr> {
        self.outside.local_addr()
    }

    /// Relays until the client's TCP connection ends.
    pub(super) async fn run(mut self, mut control: impl AsyncRead + Unpin) {
        let mut asked = JoinSet::new();
        let (mut up, mut down) = (vec![0; LONGEST], vec![0; LONGEST]);
        let mut ignored = [0; 64];
        loop {
            tokio::select! {
                read = control.read(&mut ignored) => if !matches!(read, Ok(1..)) {
                    return;
                },
                received = self.outside.recv_from(&mut up) => if let Ok((count, from)) = received
                    && self.client.owns(from)
                {
                    self.upwards(up.get(..count).unwrap_or_default(), &mut asked).await;
                },
                (count, from) = poll_fn(|cx| self.inside.poll_receive(cx, &mut down)) => {
                    self.downwards(down.get(..count).unwrap_or_default(), from);
                }
                Some(_) = asked.join_next() => {}
            }
        }
    }

    /// A datagram of the client: sent, dropped, or sent when its name is known.
    async fn upwards(&self, datagram: &[u8], asked: &mut JoinSet<()>) {
        // Nothing is waited for in there: it reads from memory. A fragment is dropped, as whoever does not join them must.
        let Ok((0, target, payload)) = parse_udp_request(datagram).await else { return };
        match socks::from(target) {
            target @ Target::Address(_) => {
                if let Some(to) = self.network.resolve(&target).await.ok().and_then(|found| found.first().copied()) {
                    let _ = self.inside.send(payload, to);
                }
            }
            Target::Name(..) if asked.len() >= NAMES => {}
            target @ Target::Name(..) => {
                let (network, inside, payload) =
                    (Arc::clone(&self.network), Arc::clone(&self.inside), payload.to_vec());
                asked.spawn(async move {
                    match network.resolve(&target).await.map(|found| found.first().copied()) {
                        Ok(Some(to)) => drop(inside.send(&payload, to)),
                        Ok(None) => {}
                        Err(failure) => tracing::debug!("datagram to {target}: {failure}"),
                    }
                });
            }
        }
    }

    /// A datagram from the tunnel: to the client, with where it comes from in front.
    fn downwards(&self, payload: &[u8], from: SocketAddr) {
        let Some(client) = self.client.address() else { return };
        let Ok(mut datagram) = new_udp_header(from) else { return };
        datagram.extend_from_slice(payload);
        // No room: dropped, as datagrams are.
        let _ = self.outside.try_send_to(&datagram, client);
    }
}

/// Who may use an association: the host that the TCP connection comes from, and of it the port that the client named in its request
/// (RFC 1928, sections 4 and 7), or else the one that sends first. Other users of the client's host could be that first one.
#[derive(Debug)]
struct Client {
    host: IpAddr,
    port: Option<u16>,
}

impl Client {
    fn new(host: IpAddr, named: &Target) -> Client {
        let host = host.to_canonical();
        let (ip, port) = match named {
            Target::Address(address) => (Some(address.ip().to_canonical()), address.port()),
            Target::Name(_, port) => (None, *port),
        };
        // A client elsewhere that gives another address than we see is behind a translation, of which its port says nothing.
        let is_ours = host.is_loopback() || ip.is_none_or(|ip| ip.is_unspecified() || ip == host);
        Client { host, port: (port != 0 && is_ours).then_some(port) }
    }

    fn owns(&mut self, from: SocketAddr) -> bool {
        from.ip().to_canonical() == self.host && *self.port.get_or_insert(from.port()) == from.port()
    }

    fn address(&self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.host, port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(host: &str, named: &str) -> Client {
        Client::new(host.parse().unwrap(), &Target::Address(named.parse().unwrap()))
    }

    #[test]
    fn a_port_that_was_named_is_the_only_one_and_belongs_to_nobody_else() {
        for named in ["0.0.0.0:5", "127.0.0.1:5", "[::]:5", "[::ffff:127.0.0.1]:5", "192.0.2.1:5"] {
            let mut client = self::client("127.0.0.1", named);
            assert!(!client.owns("127.0.0.1:6".parse().unwrap()), "{named}: who is faster does not get it");
            assert!(!client.owns("127.0.0.2:5".parse().unwrap()), "{named}");
            assert!(client.owns("127.0.0.1:5".parse().unwrap()), "{named}");
        }
        let mut by_name = Client::new("127.0.0.1".parse().unwrap(), &Target::Name("localhost".into(), 5));
        assert!(!by_name.owns("127.0.0.1:6".parse().unwrap()) && by_name.owns("127.0.0.1:5".parse().unwrap()));
    }

    #[test]
    fn behind_a_translation_the_named_port_says_nothing() {
        let mut client = self::client("198.51.100.1", "192.168.1.2:5");
        assert!(client.owns("198.51.100.1:6".parse().unwrap()));
        assert!(!client.owns("198.51.100.1:5".parse().unwrap()), "the first one has it");
        let mut same = self::client("198.51.100.1", "198.51.100.1:5");
        assert!(!same.owns("198.51.100.1:6".parse().unwrap()) && same.owns("198.51.100.1:5".parse().unwrap()));
    }

    #[test]
    fn only_the_clients_host_and_its_first_port_may_send() {
        let mut client = self::client("127.0.0.1", "0.0.0.0:0");
        assert!(!client.owns("127.0.0.2:5".parse().unwrap()));
        assert_eq!(client.address(), None, "a stranger does not take the place");
        assert!(client.owns("127.0.0.1:5".parse().unwrap()));
        assert!(client.owns("127.0.0.1:5".parse().unwrap()));
        assert!(!client.owns("127.0.0.1:6".parse().unwrap()));
        assert!(!client.owns("127.0.0.2:5".parse().unwrap()));
        assert_eq!(client.address(), Some("127.0.0.1:5".parse().unwrap()));
        assert!(client.owns("[::ffff:127.0.0.1]:5".parse().unwrap()));
    }
}

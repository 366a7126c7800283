//! What a gateway was asked to be: the settings of `gateway up`, kept in `settings.json`, so that a second run needs no
//! arguments and says what another argument changed. Pure but for what a first run looks up of its host.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use controlplane::Random;
use serde::{Deserialize, Serialize};

use super::names::{Endpoint, GatewayName};
use super::network::{AnyNetwork, Network};

/// The version that is written into the file.
const VERSION: u32 = 1;
/// Most peer-ids: 24 bits, and all ones means none.
pub const MOST_CLIENTS: u32 = (1 << 24) - 1;
/// The most name servers that are pushed by default.
const NAME_SERVERS: usize = 2;

/// Everything that `server.conf` and the profiles follow from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    version: u32,
    /// Where clients connect to.
    pub endpoint: Endpoint,
    /// The UDP port, here and there.
    pub port: u16,
    /// The address that is listened on; `None` is all of them.
    pub listen: Option<IpAddr>,
    /// Whether IPv6 is listened on as well, where no address is given.
    pub dual_stack: bool,
    /// The TUN device.
    pub device: String,
    /// The clients' IPv4 addresses.
    pub pool: Network<Ipv4Addr>,
    /// The clients' IPv6 addresses; `None` is no IPv6 in the tunnel.
    pub pool_ipv6: Option<Network<Ipv6Addr>>,
    /// Name servers that clients are told.
    pub dns: Vec<IpAddr>,
    /// What clients send into the tunnel; nothing here is everything.
    pub routes: Vec<AnyNetwork>,
    /// Whether what clients send beyond this host gets this host's address.
    pub nat: bool,
    /// Whether clients reach each other.
    pub client_to_client: bool,
    /// The most clients at once; `None` is as many as the IPv4 pool has addresses for.
    pub max_clients: Option<u32>,
}

/// What was given on a command line. `None` leaves a setting as it is, or at its default in a first run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // as in `Settings`
pub struct Wishes {
    pub endpoint: Option<Endpoint>,
    pub port: Option<u16>,
    pub listen: Option<IpAddr>,
    pub device: Option<String>,
    pub pool: Option<Network<Ipv4Addr>>,
    pub pool_ipv6: Option<Option<Network<Ipv6Addr>>>,
    pub dns: Option<Vec<IpAddr>>,
    pub routes: Option<Vec<AnyNetwork>>,
    pub nat: Option<bool>,
    pub client_to_client: Option<bool>,
    pub max_clients: Option<u32>,
}

/// What a first run sees of its host, and what its defaults follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// IPv4 networks that are routed here already.
    pub networks: Vec<Network<Ipv4Addr>>,
    /// The host's own name servers.
    pub name_servers: Vec<IpAddr>,
    /// Whether the kernel has IPv6.
    pub ipv6: bool,
}

/// What is wrong with settings, in a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(pub String);

impl Settings {
    /// The settings of a first run. `--endpoint` is the one thing that nobody can guess.
    ///
    /// # Errors
    /// [`BadSettings`].
    pub fn first(
        wishes: &Wishes,
        name: &GatewayName,
        around: &Surroundings,
        rng: &mut dyn Random,
    ) -> Result<Settings, BadSettings> {
        let Some(endpoint) = wishes.endpoint.clone() else {
            let what = "this is the first run of this gateway: say how clients reach this host, with --endpoint NAME-OR-ADDRESS";
            return Err(BadSettings(what.to_owned()));
        };
        let pool = match wishes.pool {
            Some(pool) => pool,
            None => free_pool(&around.networks)?,
        };
        let everything = wishes.routes.as_ref().is_none_or(Vec::is_empty);
        let name_servers = around.name_servers.iter().take(NAME_SERVERS).filter(|_| everything).copied();
        let mut settings = Settings {
            version: VERSION,
            endpoint,
            port: 1194,
            listen: None,
            dual_stack: around.ipv6,
            device: name.device(),
            pool,
            pool_ipv6: around.ipv6.then(|| local_network(rng)),
            dns: name_servers.collect(),
            routes: Vec::new(),
            nat: true,
            client_to_client: false,
            max_clients: None,
        };
        settings.apply(wishes);
        settings.check()?;
        Ok(settings)
    }

    /// The settings of a later run, and a phrase for each that is different now.
    ///
    /// # Errors
    /// [`BadSettings`].
    pub fn again(&self, wishes: &Wishes) -> Result<(Settings, Vec<String>), BadSettings> {
        let mut settings = self.clone();
        settings.apply(wishes);
        settings.check()?;
        let changes = self.differences(&settings);
        Ok((settings, changes))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// A sentence: these are no settings, or a later version's.
    pub fn parse(text: &[u8]) -> Result<Settings, String> {
        let settings: Settings = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if settings.version != VERSION {
            let version = settings.version;
            return Err(format!("version {version} is not known to this minivpn, which writes version {VERSION}"));
        }
        settings.check().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        // A structure of numbers and strings is always writable.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// The most clients at once: what was asked for, or as many as the IPv4 pool has addresses for (all but the
    /// network's, the gateway's and the broadcast address).
    pub fn most_clients(&self) -> u32 {
        let fitting = self.pool.size().saturating_sub(3).clamp(1, MOST_CLIENTS.into());
        self.max_clients.unwrap_or(u32::try_from(fitting).unwrap_or(MOST_CLIENTS))
    }

    fn apply(&mut self, wishes: &Wishes) {
        let wishes = wishes.clone();
        set(&mut self.endpoint, wishes.endpoint);
        set(&mut self.port, wishes.port);
        set(&mut self.listen, wishes.listen.map(Some));
        set(&mut self.device, wishes.device);
        set(&mut self.pool, wishes.pool);
        set(&mut self.pool_ipv6, wishes.pool_ipv6);
        set(&mut self.dns, wishes.dns);
        set(&mut self.routes, wishes.routes);
        set(&mut self.nat, wishes.nat);
        set(&mut self.client_to_client, wishes.client_to_client);
        set(&mut self.max_clients, wishes.max_clients.map(Some));
    }

    fn check(&self) -> Result<(), BadSettings> {
        let wrong = |what: String| Err(BadSettings(what));
        if !(8..=29).contains(&self.pool.prefix()) {
            return wrong(format!("--pool {}: a pool is between /8 and /29, as in 10.8.0.0/24", self.pool));
        }
        if let Some(pool) = self.pool_ipv6
            && !(64..=112).contains(&pool.prefix())
        {
            return wrong(format!("--pool-ipv6 {pool}: a pool is between /64 and /112, as in fd00:1234::/64"));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        if !(1..=15).contains(&self.device.len()) || !self.device.bytes().all(plain) {
            return wrong(format!("--dev {}: a device's name is 1 to 15 letters, digits, _ and -", self.device));
        }
        if !(1..=MOST_CLIENTS).contains(&self.most_clients()) {
            return wrong(format!("--max-clients is between 1 and {MOST_CLIENTS}"));
        }
        if self.port == 0 {
            return wrong("--port is between 1 and 65535".to_owned());
        }
        Ok(())
    }

    fn differences(&self, new: &Settings) -> Vec<String> {
        let mut changes = Vec::new();
        let mut compare = |what: &str, old: String, new: String| {
            if old != new {
                changes.push(format!("{what} {old} → {new}"));
            }
        };
        compare("endpoint", self.endpoint.to_string(), new.endpoint.to_string());
        compare("port", self.port.to_string(), new.port.to_string());
        compare("listen", or(self.listen, "all addresses"), or(new.listen, "all addresses"));
        compare("dev", self.device.clone(), new.device.clone());
        compare("pool", self.pool.to_string(), new.pool.to_string());
        compare("pool-ipv6", or(self.pool_ipv6, "none"), or(new.pool_ipv6, "none"));
        compare("dns", list(&self.dns, "none"), list(&new.dns, "none"));
        compare("routes", list(&self.routes, "everything"), list(&new.routes, "everything"));
        compare("nat", on(self.nat), on(new.nat));
        compare("client-to-client", on(self.client_to_client), on(new.client_to_client));
        compare("max-clients", or(self.max_clients, "the pool's size"), or(new.max_clients, "the pool's size"));
        changes
    }
}

impl Surroundings {
    /// Reads them of this host, in this network namespace.
    pub fn look() -> Surroundings {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut name_servers = name_servers(&text("/etc/resolv.conf"));
        if name_servers.is_empty() {
            // systemd-resolved's stub listens on the loopback interface only; this is what it asks itself.
            name_servers = self::name_servers(&text("/run/systemd/resolve/resolv.conf"));
        }
        Surroundings {
            networks: routed(&text("/proc/net/route")),
            name_servers,
            ipv6: std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok(),
        }
    }
}

/// 10.8.0.0/24, or the next like it that is not in use here.
fn free_pool(networks: &[Network<Ipv4Addr>]) -> Result<Network<Ipv4Addr>, BadSettings> {
    let candidates = (8..=255).map(|second| Network::of(Ipv4Addr::new(10, second, 0, 0), 24));
    let free = |pool: &Network<Ipv4Addr>| !networks.iter().any(|network| network.overlaps(*pool));
    candidates.into_iter().find(free).ok_or_else(|| {
        BadSettings("this host has routes to all of 10.0.0.0/8: choose the clients' addresses with --pool".to_owned())
    })
}

/// A unique local /64 (RFC 4193): fd, 40 random bits, subnet 0.
fn local_network(rng: &mut dyn Random) -> Network<Ipv6Addr> {
    let mut bytes = [0; 16];
    rng.fill(&mut bytes[1..6]);
    bytes[0] = 0xfd;
    Network::of(bytes.into(), 64)
}

/// The name servers of a resolv.conf(5) that clients can use through this host: not its loopback, not a link's own.
fn name_servers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok()).flatten()
    };
    let usable = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local() && !address.is_unspecified(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local() && !address.is_unspecified(),
    };
    text.lines().filter_map(address).filter(usable).collect()
}

/// The networks of /proc/net/route, without default routes: columns 2 (destination) and 8 (mask), little-endian
/// hexadecimal.
fn routed(text: &str) -> Vec<Network<Ipv4Addr>> {
    let number = |word: &str| u32::from_str_radix(word, 16).ok().map(u32::swap_bytes);
    let network = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let prefix = number(words.get(7)?)?.count_ones();
        let address = Ipv4Addr::from(number(words.get(1)?)?);
        Some(Network::of(address, u8::try_from(prefix).ok()?)).filter(|network| network.prefix() > 0)
    };
    // The kernel writes for its own byte order.
    let lines = text.lines().skip(1);
    if cfg!(target_endian = "little") { lines.filter_map(network).collect() } else { Vec::new() }
}

fn set<T>(setting: &mut T, wish: Option<T>) {
    if let Some(wish) = wish {
        *setting = wish;
    }
}

fn or<T: Display>(value: Option<T>, otherwise: &str) -> String {
    value.map_or_else(|| otherwise.to_owned(), |value| value.to_string())
}

fn on(value: bool) -> String {
    if value { "on" } else { "off" }.to_owned()
}

fn list<T: Display>(values: &[T], none: &str) -> String {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    if words.is_empty() { none.to_owned() } else { words.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::Seeded;

    fn name() -> GatewayName {
        "default".parse().unwrap()
    }

    fn wishes() -> Wishes {
        Wishes { endpoint: Some("vpn.example.com".parse().unwrap()), ..Wishes::default() }
    }

    fn around() -> Surroundings {
        Surroundings { networks: Vec::new(), name_servers: vec![[192, 0, 2, 53].into()], ipv6: true }
    }

    fn first() -> Settings {
        Settings::first(&wishes(), &name(), &around(), &mut Seeded(1)).unwrap()
    }

    #[test]
    fn a_first_run_needs_an_endpoint_and_nothing_else() {
        let settings = first();
        assert_eq!((settings.port, settings.pool.to_string()), (1194, "10.8.0.0/24".to_owned()));
        assert_eq!((settings.device.as_str(), settings.most_clients()), ("mvpn-default", 253));
        assert_eq!(settings.dns, around().name_servers);
        assert!(settings.nat && !settings.client_to_client);
        let missing = Settings::first(&Wishes::default(), &name(), &around(), &mut Seeded(1)).unwrap_err();
        assert!(missing.to_string().contains("--endpoint"), "{missing}");
    }

    #[test]
    fn the_local_ipv6_network_is_random_and_local() {
        let (one, other) = (local_network(&mut Seeded(1)), local_network(&mut Seeded(2)));
        assert_ne!(one, other);
        assert_eq!((one.address().octets()[0], one.prefix()), (0xfd, 64));
        assert_eq!(one.address().octets()[6..], [0; 10]);
        let plain = Surroundings { ipv6: false, ..around() };
        assert_eq!(Settings::first(&wishes(), &name(), &plain, &mut Seeded(1)).unwrap().pool_ipv6, None);
    }

    #[test]
    fn a_second_run_keeps_what_was_asked_for_and_says_what_changed() {
        let settings = first();
        assert_eq!(settings.again(&Wishes::default()).unwrap(), (settings.clone(), Vec::new()));
        assert_eq!(settings.again(&wishes()).unwrap().1, Vec::<String>::new());
        let other = Wishes { port: Some(443), nat: Some(false), pool_ipv6: Some(None), ..wishes() };
        let (changed, changes) = settings.again(&other).unwrap();
        assert_eq!((changed.port, changed.nat, changed.pool_ipv6), (443, false, None));
        assert_eq!((changes[0].as_str(), changes[2].as_str()), ("port 1194 → 443", "nat on → off"));
        assert!(changes[1].starts_with("pool-ipv6 fd") && changes[1].ends_with("/64 → none"), "{}", changes[1]);
        assert_eq!(changes.len(), 3);
    }

    #[test]
    fn settings_are_read_as_they_were_written() {
        let settings = Settings { max_clients: Some(5), routes: vec!["10.0.0.0/8".parse().unwrap()], ..first() };
        assert_eq!(Settings::parse(settings.to_text().as_bytes()), Ok(settings.clone()));
        for (from, to) in [("\"version\": 1", "\"version\": 2"), ("mvpn-default", "a/b"), ("vpn.example.com", "a\\nb")]
        {
            assert!(Settings::parse(settings.to_text().replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let refused = |change: &dyn Fn(&mut Wishes)| {
            let mut wishes = wishes();
            change(&mut wishes);
            Settings::first(&wishes, &name(), &around(), &mut Seeded(1)).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|wishes| wishes.pool = "10.8.0.0/30".parse().ok()));
        assert!(!refused(&|wishes| wishes.pool = "10.8.0.0/29".parse().ok()));
        assert!(refused(&|wishes| wishes.pool = "0.0.0.0/7".parse().ok()));
        assert!(refused(&|wishes| wishes.pool_ipv6 = Some("fd00::/113".parse().ok())));
        assert!(refused(&|wishes| wishes.pool_ipv6 = Some("fd00::/63".parse().ok())));
        assert!(refused(&|wishes| wishes.device = Some("sixteen-letters-".to_owned())));
        assert!(refused(&|wishes| wishes.device = Some("a b".to_owned())));
        assert!(refused(&|wishes| wishes.max_clients = Some(0)));
        assert!(refused(&|wishes| wishes.max_clients = Some(MOST_CLIENTS + 1)));
        assert!(!refused(&|wishes| wishes.max_clients = Some(MOST_CLIENTS)));
        assert!(refused(&|wishes| wishes.port = Some(0)));
    }

    #[test]
    fn the_pool_is_one_that_the_host_does_not_use() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        assert_eq!(free_pool(&networks(&["10.8.0.0/16", "192.168.0.0/24"])).unwrap().to_string(), "10.9.0.0/24");
        assert!(free_pool(&networks(&["10.0.0.0/8"])).is_err());
    }

    #[test]
    fn routes_are_read_from_the_kernels_table_without_the_default() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nbroken\n";
        assert_eq!(routed(text).iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.168.1.0/24"]);
    }

    #[test]
    fn only_name_servers_that_others_can_reach_are_pushed() {
        let text = "# comment\nsearch example.com\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\n\
                    nameserver fe80::1%eth0\nnameserver fe80::1\nnameserver 2001:db8::53\nnameserver\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
        let split = Wishes { routes: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..wishes() };
        let settings = Settings::first(&split, &name(), &around(), &mut Seeded(1)).unwrap();
        assert_eq!(settings.dns, Vec::<IpAddr>::new(), "who keeps their own way keeps their own names");
    }
}

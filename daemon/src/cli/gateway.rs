//! `minivpn gateway …`: what a user may type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::DataPath;
use crate::gateway::names::{ClientName, Endpoint, GatewayName};
use crate::gateway::network::{AnyNetwork, Network};
use crate::gateway::requests::{KillOptions, ReloadOptions};
use crate::gateway::settings::{MOST_CLIENTS, Wishes};
use crate::gateway::state;

/// `minivpn gateway …`
#[derive(Clone, Debug, Subcommand)]
pub enum Gateway {
    /// Make a gateway for stock OpenVPN clients, or take the one that is there, and serve until interrupted
    Up(Box<Up>),
    /// Serve the configuration of an OpenVPN server
    Run(GatewayRun),
    /// Let a running gateway read its configuration, certificates and client-config-dir again
    Reload(ReloadOptions),
    /// End the sessions of a client, which may come back
    Kill(KillOptions),
    /// Stop a gateway and undo what it changed on this host; its keys and certificates stay
    Down(Down),
}

/// `minivpn gateway run …`
#[derive(Clone, Debug, Args)]
pub struct GatewayRun {
    /// The server's configuration, as OpenVPN reads it (server.conf)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How it serves
    #[command(flatten)]
    pub serve: GatewayServe,
}

/// How a gateway serves, whoever wrote its configuration: what `gateway run` and `gateway up` share.
#[derive(Clone, Debug, Args)]
pub struct GatewayServe {
    /// Worker threads, each with a socket and a TUN queue of its own [default: the number of processors, at most 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Where commands to the running gateway are taken [default: NAME.sock in the run directory]; commands find it all the same
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The data path
    #[command(flatten)]
    pub data: DataPath,
}

/// Which gateway.
#[derive(Clone, Debug, Args)]
pub struct Which {
    /// The gateway, where there are several on this host
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub name: GatewayName,
    /// Where its keys, certificates and settings are [default: /var/lib/minivpn/NAME]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
}

impl Which {
    /// The state directory, absolute: it stands in the configuration, which is read from elsewhere.
    pub fn directory(&self) -> PathBuf {
        let directory = self.state_dir.clone().unwrap_or_else(|| Path::new(state::ROOT).join(self.name.as_str()));
        std::path::absolute(&directory).unwrap_or(directory)
    }
}

/// `minivpn gateway up …`. What is not given stays as it was in the run before.
#[derive(Clone, Debug, Args)]
pub struct Up {
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
    /// The name or address by which clients reach this host; needed the first time only
    #[arg(long, value_name = "HOST")]
    pub endpoint: Option<Endpoint>,
    /// Make a profile for this client, unless there is one; may be repeated
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub client: Vec<ClientName>,
    /// Where profiles are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub out: PathBuf,
    /// UDP port [default: 1194]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Listen on this address only [default: all, IPv4 and IPv6]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<IpAddr>,
    /// The TUN device [default: mvpn-NAME]
    #[arg(long, value_name = "DEVICE")]
    pub dev: Option<String>,
    /// The clients' IPv4 addresses [default: 10.8.0.0/24, or the next like it that this host does not use]
    #[arg(long, value_name = "NETWORK")]
    pub pool: Option<Network<Ipv4Addr>>,
    /// The clients' IPv6 addresses, or `none` [default: a random local /64, kept]
    #[arg(long, value_name = "NETWORK", value_parser = pool_ipv6)]
    pub pool_ipv6: Option<PoolIpv6>,
    /// Name servers for clients, or `none` [default: this host's own, where they are not on its loopback]
    #[arg(long, value_name = "ADDRESS,…", value_parser = servers)]
    pub dns: Option<Servers>,
    /// What clients send into the tunnel: networks, or `all` [default: all]
    #[arg(long, value_name = "NETWORK,…", value_parser = routes)]
    pub route: Option<Routes>,
    /// Give packets of clients this host's address where they leave it (the default; takes --no-nat back)
    #[arg(long, conflicts_with = "no_nat")]
    pub nat: bool,
    /// Leave the clients' addresses as they are: others must route the pool to this host
    #[arg(long)]
    pub no_nat: bool,
    /// Clients reach each other
    #[arg(long, conflicts_with = "no_client_to_client")]
    pub client_to_client: bool,
    /// Clients do not reach each other (the default; takes --client-to-client back)
    #[arg(long)]
    pub no_client_to_client: bool,
    /// Most clients at once [default: what the IPv4 pool holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CLIENTS)))]
    pub max_clients: Option<u32>,
    /// Write and start a systemd unit instead of serving here
    #[arg(long, conflicts_with = "no_serve")]
    pub install: bool,
    /// Make and print everything, but do not serve
    #[arg(long)]
    pub no_serve: bool,
    /// How it serves
    #[command(flatten)]
    pub serve: GatewayServe,
}

impl Up {
    /// What was asked for, without where and for whom.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            endpoint: self.endpoint.clone(),
            port: self.port,
            listen: self.listen,
            device: self.dev.clone(),
            pool: self.pool,
            pool_ipv6: self.pool_ipv6.map(|pool| pool.0),
            dns: self.dns.clone().map(|servers| servers.0),
            routes: self.route.clone().map(|routes| routes.0),
            nat: switch(self.nat, self.no_nat),
            client_to_client: switch(self.client_to_client, self.no_client_to_client),
            max_clients: self.max_clients,
        }
    }
}

/// `minivpn gateway down …`
#[derive(Clone, Debug, Args)]
pub struct Down {
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
    /// Delete its keys and certificates as well: every profile becomes useless, for good
    #[arg(long)]
    pub purge: bool,
    /// Do not ask before --purge
    #[arg(long, requires = "purge")]
    pub yes: bool,
    /// Where the journal of host changes is kept
    #[arg(long, value_name = "DIR", default_value = "/run/minivpn")]
    pub run_dir: PathBuf,
}

/// `--pool-ipv6`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolIpv6(pub Option<Network<Ipv6Addr>>);

/// `--dns`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers(pub Vec<IpAddr>);

/// `--route`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes(pub Vec<AnyNetwork>);

fn pool_ipv6(text: &str) -> Result<PoolIpv6, String> {
    match text {
        "none" => Ok(PoolIpv6(None)),
        network => network.parse().map(|network| PoolIpv6(Some(network))).map_err(|error| format!("{error}")),
    }
}

fn servers(text: &str) -> Result<Servers, String> {
    match text {
        "none" => Ok(Servers(Vec::new())),
        list => each(list).map(Servers).map_err(|()| "addresses like 192.0.2.53,2001:db8::53, or none".to_owned()),
    }
}

fn routes(text: &str) -> Result<Routes, String> {
    match text {
        "all" => Ok(Routes(Vec::new())),
        list => each(list).map(Routes).map_err(|()| "networks like 10.0.0.0/8,fd00:1::/64, or all".to_owned()),
    }
}

fn each<T: std::str::FromStr>(list: &str) -> Result<Vec<T>, ()> {
    list.split(',').map(|word| word.parse().map_err(drop)).collect()
}

fn switch(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (false, false) => None,
        (on, _) => Some(on),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn up(words: &[&str]) -> Result<Up, clap::Error> {
        let words = [&["minivpn", "gateway", "up"], words].concat();
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Gateway { command: Gateway::Up(up) } => *up,
            other => unreachable!("{other:?}"),
        })
    }

    #[test]
    fn nothing_given_is_nothing_wished() {
        let plain = up(&[]).unwrap();
        assert_eq!(plain.wishes(), Wishes::default());
        assert_eq!(plain.which.directory(), Path::new("/var/lib/minivpn/default"));
        assert!(plain.client.is_empty() && !plain.install);
    }

    #[test]
    fn what_is_given_is_wished() {
        let words =
            ["--endpoint", "vpn.example.com", "--client", "alice,bob", "--client", "carol", "--pool", "10.9.0.0/16"];
        let some = up(&words).unwrap();
        assert_eq!(some.client.iter().map(ClientName::as_str).collect::<Vec<_>>(), ["alice", "bob", "carol"]);
        assert_eq!(some.wishes().pool.unwrap().prefix(), 16);
        let more =
            up(&["--no-nat", "--client-to-client", "--dns", "none", "--route", "10.0.0.0/8", "--pool-ipv6", "none"]);
        let more = more.unwrap().wishes();
        assert_eq!((more.nat, more.client_to_client), (Some(false), Some(true)));
        assert_eq!((more.dns, more.pool_ipv6, more.routes.unwrap().len()), (Some(Vec::new()), Some(None), 1));
        assert_eq!(up(&["--nat"]).unwrap().wishes().nat, Some(true));
        assert!(up(&["--no-nat", "--nat"]).is_err());
    }

    #[test]
    fn nonsense_is_refused_where_it_is_typed() {
        for words in [
            ["--client", "../x"],
            ["--name", "a/b"],
            ["--endpoint", "a b"],
            ["--pool", "10.8.0.1/24"],
            ["--pool-ipv6", "10.8.0.0/24"],
            ["--dns", "example"],
            ["--route", "10.0.0.0"],
            ["--port", "0"],
            ["--max-clients", "16777216"],
        ] {
            assert!(up(&words).is_err(), "{words:?}");
        }
        assert!(up(&["--install", "--no-serve"]).is_err());
        assert!(Cli::try_parse_from(["minivpn", "gateway", "down", "--yes"]).is_err(), "--yes is for --purge");
    }
}

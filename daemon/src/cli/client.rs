//! `minivpn client …` and `minivpn pki …`: what a user may type.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::gateway::Which;
use crate::gateway::names::ClientName;
use crate::gateway::pki::{CA_DAYS, CLIENT_DAYS};

/// `minivpn client …`
#[derive(Clone, Debug, Subcommand)]
pub enum Client {
    /// Issue a certificate to a new client and write its profile
    Add(Issue),
    /// List the clients, with the days that their certificates have left
    List(List),
    /// Print a client's profile again
    Show(Show),
    /// Revoke a client's certificates and end its session at once
    Revoke(Revoke),
    /// Issue a new certificate to a client and write its new profile
    Renew(Renew),
}

/// `minivpn client add NAME`
#[derive(Clone, Debug, Args)]
pub struct Issue {
    /// The client: letters, digits, . _ - @
    pub client: ClientName,
    /// Where the profile goes, - is standard output [default: NAME.ovpn]
    pub file: Option<PathBuf>,
    /// Days until the certificate expires
    #[arg(long, value_name = "N", default_value_t = CLIENT_DAYS, value_parser = clap::value_parser!(u64).range(1..=CA_DAYS))]
    pub days: u64,
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
}

/// `minivpn client renew NAME`
#[derive(Clone, Debug, Args)]
pub struct Renew {
    /// Whom, where to and for how long
    #[command(flatten)]
    pub issue: Issue,
    /// Revoke the former certificate at once, instead of letting it work until it expires
    #[arg(long)]
    pub revoke_old: bool,
}

/// `minivpn client list`, `minivpn pki show`
#[derive(Clone, Debug, Args)]
pub struct List {
    /// Print one JSON value
    #[arg(long)]
    pub json: bool,
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
}

/// `minivpn client show NAME`
#[derive(Clone, Debug, Args)]
pub struct Show {
    /// The client
    pub client: ClientName,
    /// Where the profile goes, - is standard output
    #[arg(default_value = "-")]
    pub file: PathBuf,
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
}

/// `minivpn client revoke NAME`
#[derive(Clone, Debug, Args)]
pub struct Revoke {
    /// The client
    pub client: ClientName,
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
}

/// `minivpn pki …`
#[derive(Clone, Debug, Subcommand)]
pub enum Pki {
    /// Show when the authority, the gateway's certificate, the revocation list and the clients' certificates expire
    Show(List),
    /// Renew the gateway's certificate and sign the revocation list anew; nobody is disconnected
    Renew(RenewServer),
}

/// `minivpn pki renew`
#[derive(Clone, Debug, Args)]
pub struct RenewServer {
    /// Only what is about to expire, for timers
    #[arg(long)]
    pub if_due: bool,
    /// Which gateway
    #[command(flatten)]
    pub which: Which,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn a_client_is_named_and_may_have_a_file() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["minivpn", "client"], words].concat());
        let Ok(Cli { command: Command::Client { command: Client::Add(add) }, .. }) = parse(&["add", "alice"]) else {
            panic!("the shortest command line");
        };
        assert_eq!((add.client.as_str(), add.file, add.days), ("alice", None, CLIENT_DAYS));
        let Ok(Cli { command: Command::Client { command: Client::Renew(renew) }, .. }) =
            parse(&["renew", "alice", "-", "--days", "30", "--revoke-old", "--name", "eu"])
        else {
            panic!("a longer one");
        };
        assert_eq!((renew.issue.file, renew.issue.days, renew.revoke_old), (Some("-".into()), 30, true));
        for wrong in [&["add"][..], &["add", "../x"], &["add", "a", "--days", "0"], &["revoke", ""]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}

//! A whole trace: the remotes in order, each name resolved, each address tried, until one lets us in; and the end.

use std::net::SocketAddr;
use std::time::Duration;

use controlplane::trace::Stage;
use controlplane::{Client, Ending, SystemRandom, Wrap};

use super::attempt::Outcome;
use super::event::{Event, More, Operation, seconds};
use super::journal::Journal;
use crate::cli::trace::Trace;
use crate::client::credentials::Wallet;
use crate::client::endings::{self, Failure};
use crate::client::remotes::{Next, Remotes};
use crate::clock;
use crate::config::agreed::{Bind, ClientProfile, Family, Remote};
use crate::exit::{Exit, Fatal};
use crate::host::resolve::{self, FamilyHint};
use crate::signals::Signals;

/// A name that is not resolved by then is passed over.
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// Addresses named in the sentence of exit code 4.
const TRIED_SHOWN: usize = 8;

/// A trace that is under way.
pub(super) struct Run {
    pub(super) options: Trace,
    pub(super) profile: ClientProfile,
    pub(super) client: Client,
    pub(super) wallet: Wallet,
    pub(super) signals: Signals,
    pub(super) rng: SystemRandom,
    pub(super) journal: Journal,
    pub(super) attempts: u32,
    /// Where the session stands or stood, `S_ERROR` aside.
    pub(super) stage: Stage,
    tried: Vec<String>,
    last_failure: Option<Failure>,
    fatal: Option<Fatal>,
    established: bool,
}

impl Run {
    /// Reads certificates and keys, and asks for a password where the profile wants one.
    ///
    /// # Errors
    /// As `connect`: [`Exit::Tls`] and [`Exit::Config`].
    pub(super) fn new(options: Trace, profile: ClientProfile, journal: Journal) -> Result<Run, Fatal> {
        let wallet = Wallet::open(&profile.credentials)?;
        let mut setup = profile.client_setup();
        setup.iv_proto_mask = options.iv_proto_mask;
        let mut client = Client::new(setup, clock::now()).map_err(|ending| match ending {
            Ending::Tls(sentence) => Fatal::new(Exit::Tls, sentence),
            Ending::Incompatible(sentence) => Fatal::new(Exit::Config, sentence),
            other => Fatal::new(Exit::Other, format!("{other:?}")),
        })?;
        client.observe(true);
        let signals = Signals::take().map_err(|e| Fatal::new(Exit::Other, format!("signals cannot be taken: {e}")))?;
        Ok(Run {
            options,
            profile,
            client,
            wallet,
            signals,
            rng: SystemRandom,
            journal,
            attempts: 0,
            stage: Stage::Initial,
            tried: Vec::new(),
            last_failure: None,
            fatal: None,
            established: false,
        })
    }

    /// Traces.
    ///
    /// # Errors
    /// Nobody let us in, with what `connect` would end with; or a file could not be written.
    pub(super) async fn run(mut self) -> Result<(), Fatal> {
        self.emit(
            Operation::Start,
            More::Start {
                version: env!("CARGO_PKG_VERSION"),
                started_unix: clock::now().unix,
                wrap: match self.profile.wrap {
                    Wrap::None => "none",
                    Wrap::TlsAuth { .. } => "tls-auth",
                    Wrap::TlsCrypt { .. } => "tls-crypt",
                },
            },
        );
        self.try_in_order().await;
        let result = match self.fatal.take() {
            _ if self.established => Ok(()),
            Some(fatal) => Err(fatal),
            None => Err(endings::unreachable(&self.tried, self.last_failure.as_ref(), &self.profile.wrap)),
        };
        let exit = result.as_ref().map_or_else(|fatal| fatal.exit, |_| Exit::Ok);
        let sums = &mut self.journal.sums;
        (sums.established, sums.exit_status, sums.attempts) = (self.established, exit.status(), self.attempts);
        let sums = Box::new(sums.clone());
        self.emit(Operation::End, More::End(sums));
        let written = self.journal.finish();
        result.and(written)
    }

    async fn try_in_order(&mut self) {
        let order = match &self.options.remote {
            Some((host, port)) => vec![only(&self.profile, host, *port)],
            None => self.profile.remotes.clone(),
        };
        let mut remotes = Remotes::new(order, self.profile.remote_random, &mut self.rng);
        loop {
            match remotes.next() {
                Next::Resolve(remote) => {
                    let remote = remote.clone();
                    remotes.resolved(self.resolve(&remote).await);
                }
                Next::Try(remote, address) => {
                    let remote = remote.clone();
                    self.note_tried(address.to_string());
                    match self.attempt(&remote, address).await {
                        Outcome::Established => self.established = true,
                        Outcome::Failed(failure) => self.last_failure = Some(failure),
                        Outcome::Fatal(fatal) => {
                            self.fatal.get_or_insert(fatal);
                        }
                        Outcome::Interrupted => {
                            self.fatal = Some(Fatal::new(Exit::Other, "interrupted"));
                            return;
                        }
                    }
                    if !self.options.all && (self.established || self.fatal.is_some()) {
                        return;
                    }
                }
                Next::RoundOver(_) => return,
            }
        }
    }

    async fn resolve(&mut self, remote: &Remote) -> Vec<SocketAddr> {
        let family = match remote.family {
            Family::Any => FamilyHint::Any,
            Family::V4 => FamilyHint::V4,
            Family::V6 => FamilyHint::V6,
        };
        let (found, why) = match resolve::resolve(&remote.host, remote.port, family, RESOLVE_WITHIN).await {
            Ok(found) => (found, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        if let Some(why) = &why {
            self.note_tried(format!("{}:{}", remote.host, remote.port));
            self.last_failure = Some(Failure::Unresolved(why.clone()));
        }
        let addresses = found.iter().map(ToString::to_string).collect();
        self.stage = Stage::Initial;
        self.emit(Operation::Resolve, More::Resolve { host: remote.host.clone(), addresses, why });
        found
    }

    /// An event of now, at the stage where the session stands.
    pub(super) fn emit(&mut self, operation: Operation, more: More) {
        let t = seconds(self.journal.started, clock::now().at);
        self.journal.emit(Event::plain(operation, self.stage, t, self.attempts, more));
    }

    fn note_tried(&mut self, address: String) {
        if self.tried.len() < TRIED_SHOWN && !self.tried.contains(&address) {
            self.tried.push(address);
        }
    }
}

/// `--remote`, with the settings of the profile's first remote.
fn only(profile: &ClientProfile, host: &str, port: u16) -> Remote {
    let settings = profile.remotes.first().cloned().unwrap_or(Remote {
        host: String::new(),
        port,
        family: Family::Any,
        bind: Bind::default(),
        connect_timeout: 120,
        explicit_exit_notify: None,
        mssfix: None,
        mtu_disc: None,
    });
    Remote { host: host.to_owned(), port, family: Family::Any, ..settings }
}

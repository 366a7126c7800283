//! How a tunnel is made, besides its profile.

use std::net::UdpSocket;
use std::time::Duration;

use controlplane::{Credentials, Secret};
use dataplane::datachannel::aead::AeadChoice;
use dataplane::sys::IoChoice;

use super::progress::{Observer, Progress};

/// How to make a [`Tunnel`](crate::Tunnel). The default is right for most programs.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use minivpn::Options;
///
/// let options = Options { connect_timeout: Duration::from_secs(10), ..Options::default() }.with_password("alice", "secret");
/// assert_eq!(options.credentials.unwrap().username, "alice");
/// ```
#[derive(Debug)]
pub struct Options {
    /// User name and password for a profile that asks for them (`auth-user-pass`) and does not hold them; they win over those that it
    /// holds. Nobody is ever asked on a terminal.
    pub credentials: Option<Credentials>,
    /// The longest that connecting may take, over all remotes; 60 s. With several remotes each gets its share of it, so that a dead one
    /// does not use up the time of those behind it.
    pub connect_timeout: Duration,
    /// The transport socket, already bound or marked or in another network namespace as the caller likes. A connected one fixes the
    /// server: its peer is used instead of the profile's remotes. One that is not connected is connected to each address that is tried.
    /// It becomes non-blocking. `None`: a new one for each attempt, by the profile's `bind`, `lport`, `mark` and so on.
    pub socket: Option<UdpSocket>,
    /// What seals and opens; [`AeadChoice::Auto`] picks what is fastest here.
    pub aead: AeadChoice,
    /// The I/O engine of a worker of its own (see [`own_worker`](Self::own_worker)). The shared one makes plain system calls.
    pub engine: IoChoice,
    /// A worker thread for this tunnel alone. Otherwise all tunnels of the process share one, which is enough for hundreds of quiet
    /// tunnels or for one busy one.
    pub own_worker: bool,
    /// Connect again when the server goes away, restarts or falls silent, instead of saying so through `recv` and `send`. Packets that
    /// are sent meanwhile are lost, as on any network. The tunnel ends all the same when the server gives it another address or MTU
    /// than before, when it refuses us, and when it stays away for longer than [`connect_timeout`](Self::connect_timeout).
    pub reconnect: bool,
    /// Who is told how far the tunnel has come: for a user who waits, and for a log. See [`on_progress`](Self::on_progress).
    pub observer: Option<Observer>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            credentials: None,
            connect_timeout: Duration::from_secs(60),
            socket: None,
            aead: AeadChoice::Auto,
            engine: IoChoice::Auto,
            own_worker: false,
            reconnect: false,
            observer: None,
        }
    }
}

impl Options {
    /// With this user name and password.
    #[must_use]
    pub fn with_password(mut self, username: impl Into<String>, password: impl Into<Vec<u8>>) -> Options {
        self.credentials = Some(Credentials { username: username.into(), password: Secret(password.into()) });
        self
    }

    /// Calls `tell` with everything that happens to the tunnel: each stage that it enters, from connecting to being closed, and
    /// that nobody answers. What [`Observer::new`] asks of it holds.
    ///
    /// # Examples
    /// ```
    /// use minivpn::{Options, Progress};
    ///
    /// let options = Options::default().on_progress(|progress| match progress {
    ///     Progress::Stage(stage) => println!("{stage:?}"),
    ///     Progress::Unanswered { sentence, .. } => println!("{sentence}"),
    ///     _ => {}
    /// });
    /// assert!(options.observer.is_some());
    /// ```
    #[must_use]
    pub fn on_progress(mut self, tell: impl FnMut(&Progress) + Send + 'static) -> Options {
        self.observer = Some(Observer::new(tell));
        self
    }
}

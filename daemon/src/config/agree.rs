//! From what was written to what we agreed to run: the draft is filled line by line, then looked at as a whole. Problems are
//! collected, not returned at the first.

use std::path::Path;

use controlplane::{Digest, Wrap};

use super::agreed::{ClientProfile, CredentialSource, Remote};
use super::common::{load_wrap, only_udp};
use super::connection::{Connection, RemoteLine, WrapLines};
use super::directives::Side;
use super::draft::Draft;
use super::files::Files;
use super::material::{self, Lookup};
use super::problem::{At, Problem};
use super::tunnel::Silence;
use super::values::Trouble;
use super::written::{self, Entry, Written};

/// Agrees to a client profile, or says in `problems` why not. `None` if there is an error among them.
pub fn client(path: &Path, written: &Written, files: &dyn Files, problems: &mut Vec<Problem>) -> Option<ClientProfile> {
    let mut draft = Draft::default();
    for entry in &written.entries {
        match entry {
            Entry::Directive(directive) => draft.take(directive, problems),
            Entry::Connection(at, directives) => draft.take_connection(at, directives, problems),
        }
    }
    let places = Lookup { profile: path, directory: written.directory.clone(), files };
    let profile = draft.finish(&written::whole(path), &places, problems);
    profile.filter(|_| !problems.iter().any(Problem::is_error))
}

impl Draft {
    fn finish(mut self, profile: &At, places: &Lookup<'_>, problems: &mut Vec<Problem>) -> Option<ClientProfile> {
        let pull = self.check_mode(profile, problems);
        self.common.check_device(profile, problems);
        let ways = self.ways(profile, problems);
        self.agree_on_mtu(&ways, problems);
        let tls = self.common.identity.finish(Side::Client, profile, places, problems);
        let own = ways.iter().any(|way| way.connection.wrap.tls_auth.is_some());
        let auth = self.common.agree_on_auth(own || self.common.wrap.tls_auth.is_some(), problems);
        let wrap = self.agree_on_wrap(&ways, auth, places, problems);
        let credentials = self.agree_on_credentials(profile, places, problems);
        let (data_ciphers, fallback_cipher) = self.common.agree_on_ciphers(Side::Client, problems);
        if pull && !["ping-restart", "ping-exit", "keepalive"].iter().any(|name| self.common.seen.contains_key(name)) {
            self.common.settings.silence = Some(Silence::Restart(120));
        }
        if let Err(trouble) = self.common.settings.ipv4() {
            problems.push(Problem::error(self.common.place("ifconfig", profile), trouble));
        }
        let (timers, replay_window) = (self.common.timers(), self.common.replay_window());
        let seen = |name: &str| self.common.seen.contains_key(name);
        Some(ClientProfile {
            remotes: ways.iter().map(|way| way.remote.clone()).collect(),
            remote_random: seen("remote-random"),
            connect_retry_max: self.connect_retry_max,
            pull,
            route_nopull: seen("route-nopull"),
            wrap: wrap?,
            tls,
            data_ciphers,
            fallback_cipher,
            options_cipher: self.common.fallback.or(self.common.cipher).unwrap_or_default(),
            auth,
            replay_window,
            timers,
            credentials,
            auth_nocache: seen("auth-nocache"),
            auth_retry: self.auth_retry,
            push_peer_info: self.peer_info,
            max_packet_size: ways.first()?.connection.max_packet_size,
            device: self.common.device,
            settings: self.common.settings,
            pull_filters: self.pull_filters,
            peer_vars: self.peer_vars,
            mark: self.common.mark,
            bind_dev: self.common.bind_dev,
            user: self.common.user,
            group: self.common.group,
        })
    }

    /// Whether to pull.
    fn check_mode(&self, profile: &At, problems: &mut Vec<Problem>) -> bool {
        let seen = |name: &str| self.common.seen.contains_key(name);
        let tls = seen("client") || seen("tls-client");
        let pull = seen("client") || seen("pull");
        match (tls, pull) {
            (true, true) => {}
            (true, false) => {
                let trouble = Trouble::new("the server is not asked for addresses and routes");
                problems.push(Problem::warning(
                    self.common.place("tls-client", profile),
                    trouble.instead("write `client` instead of `tls-client`"),
                ));
            }
            _ => problems.push(Problem::error(
                profile,
                Trouble::new("it does not say that it is a client's").instead("add a line `client`"),
            )),
        }
        pull
    }

    /// All UDP ways to the server. Without `<connection>`, each `remote` is one with the settings at the end of the profile.
    fn ways(&self, profile: &At, problems: &mut Vec<Problem>) -> Vec<Way> {
        let inside = self
            .connections
            .iter()
            .flat_map(|(_, connection)| connection.remotes.iter().map(move |line| (line, connection)));
        let mut lines: Vec<(&RemoteLine, &Connection)> = inside.collect();
        let outside = self.remotes.iter().map(|line| (line, &self.common.connection));
        match (lines.is_empty(), self.remotes.first()) {
            (true, _) => lines.extend(outside),
            (false, Some(line)) => {
                let trouble =
                    Trouble::new("remote lines outside of <connection> are not used when there is one inside");
                problems.push(Problem::warning(&line.at, trouble.instead("put it into a <connection>")));
            }
            (false, None) => {}
        }
        if lines.is_empty() && !self.common.seen.contains_key("remote") {
            problems.push(Problem::error(profile, Trouble::new("no remote").instead("add a line `remote HOST PORT`")));
        }
        let way = |(line, connection): (&RemoteLine, &Connection)| {
            let connection = connection.clone();
            (
                line.at.clone(),
                line.host(),
                connection.remote(line).map(|remote| Way { at: line.at.clone(), remote, connection }),
            )
        };
        only_udp_ways(lines.into_iter().map(way), problems)
    }

    /// One tunnel has one MTU and one size of control packets.
    fn agree_on_mtu(&mut self, ways: &[Way], problems: &mut Vec<Problem>) {
        let Some(first) = ways.first() else { return };
        self.common.settings.tun_mtu = first.connection.tun_mtu;
        let differs = |way: &&Way| {
            let (this, other) = (&way.connection, &first.connection);
            this.tun_mtu != other.tun_mtu || this.max_packet_size != other.max_packet_size
        };
        if let Some(way) = ways.iter().find(differs) {
            let trouble = Trouble::new("tun-mtu and max-packet-size must be the same for all remotes");
            problems.push(Problem::error(&way.at, trouble.instead("write them outside of <connection>")));
        }
    }

    /// The one protection of the control channel. `None` after an error.
    fn agree_on_wrap(
        &self,
        ways: &[Way],
        digest: Digest,
        places: &Lookup<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<Wrap> {
        let mut agreed: Option<Wrap> = None;
        let mut before: Option<WrapLines> = None;
        for way in ways {
            let lines = self.wrap_of(&way.connection);
            if before.as_ref() == Some(&lines) {
                continue;
            }
            let wrap = load_wrap(&lines, digest, &way.at, places).map_err(|problem| problems.push(problem)).ok()?;
            if agreed.as_ref().is_some_and(|agreed| *agreed != wrap) {
                let trouble = Trouble::new("remotes with different tls-auth or tls-crypt keys are not supported");
                problems.push(Problem::error(&way.at, trouble.instead("make one profile of each")));
                return None;
            }
            (agreed, before) = (Some(wrap), Some(lines));
        }
        if let (Some(at), Some(false)) =
            (self.common.seen.get("key-direction"), agreed.as_ref().map(|wrap| matches!(wrap, Wrap::TlsAuth { .. })))
        {
            problems.push(Problem::warning(
                at,
                Trouble::new("key-direction without tls-auth says nothing").instead("remove it"),
            ));
        }
        agreed
    }

    /// What a connection says about its wrap goes before what the profile says.
    fn wrap_of(&self, connection: &Connection) -> WrapLines {
        let (own, all) = (&connection.wrap, &self.common.wrap);
        let of_its_own = own.tls_auth.is_some() || own.tls_crypt.is_some();
        let base = if of_its_own { own } else { all };
        WrapLines { direction: own.direction.or(all.direction), ..base.clone() }
    }

    fn agree_on_credentials(&self, profile: &At, places: &Lookup<'_>, problems: &mut Vec<Problem>) -> CredentialSource {
        let Some(at) = self.common.seen.get("auth-user-pass") else {
            if !self.common.identity.has_certificate() {
                let trouble =
                    Trouble::new("nothing says who we are").instead("add <cert> and <key>, or `auth-user-pass`");
                problems.push(Problem::error(profile, trouble));
            }
            return CredentialSource::None;
        };
        let Some(source) = &self.credentials else {
            return CredentialSource::Prompt;
        };
        source
            .load(places)
            .and_then(|text| material::credentials(&text, source.line(2, &places.directory)))
            .unwrap_or_else(|trouble| {
                let what = format!("auth-user-pass: {}", trouble.what);
                problems.push(Problem::error(at, Trouble { what, ..trouble }));
                CredentialSource::Prompt
            })
    }
}

/// A remote with the settings it came from.
struct Way {
    at: At,
    remote: Remote,
    connection: Connection,
}

/// TCP remotes are skipped as long as one of UDP remains.
fn only_udp_ways(ways: impl Iterator<Item = (At, String, Option<Way>)>, problems: &mut Vec<Problem>) -> Vec<Way> {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for (at, host, way) in ways {
        match way {
            Some(way) => udp.push(way),
            None => tcp.push((at, host)),
        }
    }
    for (at, host) in tcp {
        let problem = match udp.is_empty() {
            true => Problem::error(&at, only_udp()),
            false => Problem::warning(
                &at,
                Trouble::new(format!("remote {host} is skipped: only UDP is supported in this version")),
            ),
        };
        problems.push(problem);
    }
    udp
}

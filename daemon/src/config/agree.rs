//! From what was written to what we agreed to run: the draft is filled line by line, then looked at as a whole. Problems are
//! collected, not returned at the first.

use std::path::Path;

use controlplane::{Cipher, Digest, Wrap};

use super::agreed::{ClientProfile, CredentialSource, Remote, ReplayWindow, Timers};
use super::ciphers::{self, Named};
use super::connection::{Connection, RemoteLine, WrapLines};
use super::draft::{Draft, only_udp};
use super::files::Files;
use super::material::{self, Lookup, Source};
use super::problem::{At, Problem};
use super::secrets;
use super::tunnel::Silence;
use super::values::{Trouble, quoted};
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
        self.check_device(profile, problems);
        let ways = self.ways(profile, problems);
        self.agree_on_mtu(&ways, problems);
        let tls = self.identity.finish(profile, places, problems);
        let auth = self.agree_on_auth(&ways, problems);
        let wrap = self.agree_on_wrap(&ways, auth, places, problems);
        let credentials = self.agree_on_credentials(profile, places, problems);
        let (data_ciphers, fallback_cipher) = self.agree_on_ciphers(problems);
        if pull && !["ping-restart", "ping-exit", "keepalive"].iter().any(|name| self.seen.contains_key(name)) {
            self.settings.silence = Some(Silence::Restart(120));
        }
        if let Err(trouble) = self.settings.ipv4() {
            problems.push(Problem::error(self.place("ifconfig", profile), trouble));
        }
        let seen = |name: &str| self.seen.contains_key(name);
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
            options_cipher: self.fallback.or(self.cipher).unwrap_or_default(),
            auth,
            replay_window: self.replay_window.unwrap_or(ReplayWindow { packets: 8_192, seconds: 15 }),
            timers: Timers {
                tls_timeout: self.tls_timeout.unwrap_or(2),
                hand_window: self.hand_window.unwrap_or(60),
                tran_window: self.tran_window.unwrap_or(3_600),
                reneg_sec: self.reneg_sec.unwrap_or(3_600),
                reneg_bytes: self.reneg_bytes,
                reneg_pkts: self.reneg_pkts,
            },
            credentials,
            auth_nocache: seen("auth-nocache"),
            auth_retry: self.auth_retry,
            push_peer_info: self.peer_info,
            max_packet_size: ways.first()?.connection.max_packet_size,
            device: self.device,
            settings: self.settings,
            pull_filters: self.pull_filters,
            peer_vars: self.peer_vars,
            mark: self.mark,
            bind_dev: self.bind_dev,
            user: self.user,
            group: self.group,
        })
    }

    fn place<'a>(&'a self, name: &str, otherwise: &'a At) -> &'a At {
        self.seen.get(name).unwrap_or(otherwise)
    }

    /// Whether to pull.
    fn check_mode(&self, profile: &At, problems: &mut Vec<Problem>) -> bool {
        let seen = |name: &str| self.seen.contains_key(name);
        let tls = seen("client") || seen("tls-client");
        let pull = seen("client") || seen("pull");
        match (tls, pull) {
            (true, true) => {}
            (true, false) => {
                let trouble = Trouble::new("the server is not asked for addresses and routes");
                problems.push(Problem::warning(
                    self.place("tls-client", profile),
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

    fn check_device(&mut self, profile: &At, problems: &mut Vec<Problem>) {
        let Some(name) = self.dev_name.take() else {
            if !self.seen.contains_key("dev") {
                problems.push(Problem::error(profile, Trouble::new("no dev").instead("add a line `dev tun`")));
            }
            return;
        };
        if !name.starts_with("tun") && !self.seen.contains_key("dev-type") {
            let trouble = Trouble::new(format!("dev {} does not say of which kind it is", quoted(&name)))
                .instead("add `dev-type tun`");
            problems.push(Problem::error(self.place("dev", profile), trouble));
        }
        self.device.name = Some(name).filter(|name| name != "tun");
    }

    /// All UDP ways to the server. Without `<connection>`, each `remote` is one with the settings at the end of the profile.
    fn ways(&self, profile: &At, problems: &mut Vec<Problem>) -> Vec<Way> {
        let inside = self
            .connections
            .iter()
            .flat_map(|(_, connection)| connection.remotes.iter().map(move |line| (line, connection)));
        let mut lines: Vec<(&RemoteLine, &Connection)> = inside.collect();
        let outside = self.remotes.iter().map(|line| (line, &self.connection));
        match (lines.is_empty(), self.remotes.first()) {
            (true, _) => lines.extend(outside),
            (false, Some(line)) => {
                let trouble =
                    Trouble::new("remote lines outside of <connection> are not used when there is one inside");
                problems.push(Problem::warning(&line.at, trouble.instead("put it into a <connection>")));
            }
            (false, None) => {}
        }
        if lines.is_empty() && !self.seen.contains_key("remote") {
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
        self.settings.tun_mtu = first.connection.tun_mtu;
        let differs = |way: &&Way| {
            let (this, other) = (&way.connection, &first.connection);
            this.tun_mtu != other.tun_mtu || this.max_packet_size != other.max_packet_size
        };
        if let Some(way) = ways.iter().find(differs) {
            let trouble = Trouble::new("tun-mtu and max-packet-size must be the same for all remotes");
            problems.push(Problem::error(&way.at, trouble.instead("write them outside of <connection>")));
        }
    }

    fn agree_on_auth(&self, ways: &[Way], problems: &mut Vec<Problem>) -> Digest {
        match (self.auth, self.seen.get("auth")) {
            (Some(None), Some(at)) => {
                let used =
                    self.wrap.tls_auth.is_some() || ways.iter().any(|way| way.connection.wrap.tls_auth.is_some());
                let trouble = Trouble::new("auth: minivpn does not have this digest");
                let problem = match used {
                    true => Problem::error(at, trouble.instead("use SHA1, SHA256, SHA384 or SHA512, as on the server")),
                    false => Problem::warning(
                        at,
                        trouble.instead("nothing needs it: the data ciphers authenticate by themselves"),
                    ),
                };
                problems.push(problem);
                Digest::Sha1
            }
            (Some(Some(digest)), _) => digest,
            _ => Digest::Sha1,
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
            (self.seen.get("key-direction"), agreed.as_ref().map(|wrap| matches!(wrap, Wrap::TlsAuth { .. })))
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
        let (own, all) = (&connection.wrap, &self.wrap);
        let of_its_own = own.tls_auth.is_some() || own.tls_crypt.is_some();
        let base = if of_its_own { own } else { all };
        WrapLines { direction: own.direction.or(all.direction), ..base.clone() }
    }

    fn agree_on_credentials(&self, profile: &At, places: &Lookup<'_>, problems: &mut Vec<Problem>) -> CredentialSource {
        let Some(at) = self.seen.get("auth-user-pass") else {
            if !self.identity.has_certificate() {
                let trouble =
                    Trouble::new("nothing says who we are").instead("add <cert> and <key>, or `auth-user-pass`");
                problems.push(Problem::error(profile, trouble));
            }
            return CredentialSource::None;
        };
        let Some(source) = &self.credentials else {
            return CredentialSource::Prompt;
        };
        source.load(places).and_then(|text| material::credentials(&text)).unwrap_or_else(|trouble| {
            let what = format!("auth-user-pass: {}", trouble.what);
            problems.push(Problem::error(at, Trouble { what, ..trouble }));
            CredentialSource::Prompt
        })
    }

    fn agree_on_ciphers(&self, problems: &mut Vec<Problem>) -> (Vec<Cipher>, Option<Cipher>) {
        let list = self.data_ciphers.clone().unwrap_or_else(|| ciphers::DEFAULT.to_vec());
        let (name, directive) = match (&self.fallback, &self.cipher) {
            (Some(name), _) => (name, "data-ciphers-fallback"),
            (None, Some(name)) => (name, "cipher"),
            (None, None) => return (list, None),
        };
        let (Some(at), Ok(cipher)) = (self.seen.get(directive), ciphers::cipher(name)) else {
            return (list, None);
        };
        let trouble = match cipher {
            Named::Available(cipher) if list.contains(&cipher) || directive != "cipher" => {
                return (list, Some(cipher));
            }
            Named::Available(_) => Trouble::new(format!("cipher {name} is not in data-ciphers and is not negotiated"))
                .instead(format!("add it: `data-ciphers {}:{name}`", names(&list))),
            Named::Unavailable(why) => {
                Trouble::new(format!("{name} is not available for servers that do not negotiate: {why}"))
                    .instead("nothing to do if the server is OpenVPN 2.4 or newer")
            }
        };
        problems.push(Problem::warning(at, trouble));
        (list, None)
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

fn load_wrap(lines: &WrapLines, digest: Digest, at: &At, places: &Lookup<'_>) -> Result<Wrap, Problem> {
    let key = |source: &Source| {
        let named = |trouble: Trouble| Trouble { what: format!("{}: {}", source.name, trouble.what), ..trouble };
        let text = source.load(places).and_then(|text| secrets::static_key(text.expose()));
        text.map_err(|trouble| Problem::error(&source.at, named(trouble)))
    };
    match (&lines.tls_auth, &lines.tls_crypt) {
        (Some(_), Some(second)) => {
            let trouble = Trouble::new("both tls-auth and tls-crypt").instead("keep the one that the server has");
            Err(Problem::error(if second.at.line > 0 { &second.at } else { at }, trouble))
        }
        (Some(source), None) => Ok(Wrap::TlsAuth { key: key(source)?, direction: lines.direction, digest }),
        (None, Some(source)) => Ok(Wrap::TlsCrypt { key: key(source)? }),
        (None, None) => Ok(Wrap::None),
    }
}

fn names(ciphers: &[Cipher]) -> String {
    ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(":")
}

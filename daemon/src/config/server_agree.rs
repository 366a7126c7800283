//! From what was written to what we agreed to serve: the draft is filled line by line, helpers are expanded, then it is looked at as a
//! whole. Problems are collected, not returned at the first.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use controlplane::{ClientCertificate, Wrap};

use super::common::load_wrap;
use super::directives::Side;
use super::files::Files;
use super::helpers;
use super::material::Lookup;
use super::problem::{At, Problem};
use super::push_list;
use super::secrets;
use super::server::{AuthGenToken, KernelRoute, Pool4, Pool6, ServerFiles, ServerProfile, StatusFile, UserPassVerify};
use super::server_draft::{PoolLine, ServerDraft};
use super::tunnel::{Gateway, Ipv4Setup, RouteTarget, Silence, Topology};
use super::values::{self, Trouble};
use super::written::{self, Entry, Written};

/// Agrees to a server's configuration, or says in `problems` why not. `None` if there is an error among them.
pub(super) fn server(
    path: &Path,
    written: &Written,
    files: &dyn Files,
    problems: &mut Vec<Problem>,
) -> Option<ServerProfile> {
    let mut draft = ServerDraft::default();
    for entry in &written.entries {
        match entry {
            Entry::Directive(directive) => draft.take(directive, problems),
            Entry::Connection(at, _) => draft.take_connection(at, problems),
        }
    }
    let places = Lookup { profile: path, directory: written.directory.clone(), files };
    let profile = draft.finish(&written::whole(path), &places, problems);
    profile.filter(|_| !problems.iter().any(Problem::is_error))
}

/// What helpers and addresses come to.
#[derive(Default)]
struct Addresses {
    ipv4: Option<Pool4>,
    ipv6: Option<Pool6>,
    routes: Vec<KernelRoute>,
    push: Vec<String>,
}

impl ServerDraft {
    fn finish(mut self, whole: &At, places: &Lookup<'_>, problems: &mut Vec<Problem>) -> Option<ServerProfile> {
        self.check_mode(whole, problems);
        self.common.check_device(whole, problems);
        self.check_logins(whole, problems);
        self.check_commands(whole, problems);
        self.check_clients(whole, problems);
        let tls = self.common.identity.finish(Side::Server, whole, places, problems);
        let auth = self.common.agree_on_auth(self.common.wrap.tls_auth.is_some(), problems);
        let wrap = self.agree_on_wrap(auth, whole, places, problems);
        let (data_ciphers, fallback_cipher) = self.common.agree_on_ciphers(Side::Server, problems);
        let topology = if self.point_to_point { Topology::P2p } else { self.common.settings.topology };
        let addresses = self.addresses(topology, whole, problems);
        let (keepalive, pings) = self.keepalive(whole, problems);
        let auth_gen_token = self.auth_gen_token(whole, places, problems);
        let listen = self.common.connection.listen(self.common.has("multihome")).map_err(|trouble| {
            let at = ["lport", "local", "proto", "port"].iter().find_map(|name| self.common.seen.get(name));
            problems.push(Problem::error(at.unwrap_or(whole), trouble));
        });
        let push = self.push_list(&addresses.push, &pings);
        let files = self.files(places);
        let (timers, replay_window) = (self.common.timers(), self.common.replay_window());
        let has = |name: &str| self.common.seen.contains_key(name);
        let under = |name: String| places.directory.join(name);
        let (connection, settings) = (&self.common.connection, &self.common.settings);
        let via_env = self.user_pass_via_env;
        Some(ServerProfile {
            listen: listen.ok()?,
            topology,
            ipv4: addresses.ipv4,
            ipv6: addresses.ipv6,
            pool_persist: self.persist.map(|(file, every)| (under(file), every)),
            routes: addresses.routes,
            ifconfig_noexec: settings.ifconfig_noexec,
            route_noexec: settings.route_noexec,
            push,
            wrap: wrap?,
            tls,
            client_certificate: self.client_certificate,
            username_as_common_name: has("username-as-common-name"),
            user_pass_verify: self.commands.user_pass_verify.map(|command| UserPassVerify { command, via_env }),
            user_pass_optional: has("auth-user-pass-optional"),
            auth_gen_token,
            tls_verify: self.commands.tls_verify,
            client_connect: self.commands.client_connect,
            client_disconnect: self.commands.client_disconnect,
            learn_address: self.commands.learn_address,
            script_security: self.script_security.unwrap_or(1),
            setenv: self.variables,
            tmp_dir: self.tmp_dir.map_or_else(|| PathBuf::from("/tmp"), under),
            directory: places.directory.clone(),
            client_config_dir: self.client_config_dir.map(under),
            ccd_exclusive: has("ccd-exclusive"),
            client_to_client: has("client-to-client"),
            duplicate_cn: has("duplicate-cn"),
            max_clients: self.max_clients.unwrap_or(1_024),
            keepalive,
            float: has("float"),
            connect_freq_initial: self.replies.unwrap_or((100, 10)),
            explicit_exit_notify: connection.exit_notify().map(|count| if count == 2 { 2 } else { 1 }),
            data_ciphers,
            fallback_cipher,
            auth,
            timers,
            replay_window,
            tun_mtu: connection.tun_mtu,
            mssfix: connection.mssfix(),
            mtu_disc: connection.mtu_disc(),
            max_packet_size: connection.max_packet_size,
            sndbuf: settings.sndbuf,
            rcvbuf: settings.rcvbuf,
            status: self.status.map(|(file, every_s)| StatusFile {
                path: under(file),
                every_s,
                version: self.status_version.unwrap_or(1),
            }),
            device: self.common.device,
            user: self.common.user,
            group: self.common.group,
            mark: self.common.mark,
            bind_dev: self.common.bind_dev,
            files,
        })
    }

    fn check_mode(&self, whole: &At, problems: &mut Vec<Problem>) {
        if !["server", "server-ipv6", "mode"].iter().any(|name| self.common.has(name)) {
            let trouble = Trouble::new("it does not say which network it serves");
            problems.push(Problem::error(whole, trouble.instead("add a line `server 10.8.0.0 255.255.255.0`")));
        }
        if !self.common.has("cert") && !self.common.has("key") {
            let trouble = Trouble::new("no certificate of the server");
            problems.push(Problem::error(whole, trouble.instead("add `cert` and `key`")));
        }
        if self.client_certificate != ClientCertificate::None && !self.common.identity.trusts_somebody() {
            let trouble = Trouble::new("nothing says which clients to trust");
            let instead = "add `ca` with the certificate authority, or peer-fingerprint";
            problems.push(Problem::error(whole, trouble.instead(instead)));
        }
    }

    /// Directives that mean nothing, or too much, when nobody checks passwords.
    fn check_logins(&self, whole: &At, problems: &mut Vec<Problem>) {
        if self.commands.user_pass_verify.is_some() {
            return;
        }
        let mut unchecked = |name: &str| {
            let trouble = Trouble::new(format!("{name} without anything that checks passwords"));
            let problem = trouble.instead("add `auth-user-pass-verify`, or remove it");
            problems.push(Problem::error(self.common.place(name, whole), problem));
        };
        if self.client_certificate != ClientCertificate::Require {
            let old = self.common.has("client-cert-not-required") && !self.common.has("verify-client-cert");
            unchecked(if old { "client-cert-not-required" } else { "verify-client-cert" });
        }
        for name in ["auth-user-pass-optional", "username-as-common-name", "auth-gen-token"] {
            if self.common.has(name) {
                unchecked(name);
            }
        }
    }

    fn check_commands(&self, whole: &At, problems: &mut Vec<Problem>) {
        let level = self.script_security.unwrap_or(1);
        for name in self.commands.set().filter(|_| level < 2) {
            let trouble = Trouble::new(format!("{name}: commands of a user are not run with script-security {level}"));
            let problem = trouble.instead("add a line `script-security 2`");
            problems.push(Problem::error(self.common.place(name, whole), problem));
        }
        if self.user_pass_via_env && level == 2 && self.commands.user_pass_verify.is_some() {
            let trouble = Trouble::new("via-env gives no password to the command with script-security 2");
            let problem = trouble.instead("write `script-security 3`, or via-file");
            problems.push(Problem::warning(self.common.place("auth-user-pass-verify", whole), problem));
        }
    }

    fn check_clients(&self, whole: &At, problems: &mut Vec<Problem>) {
        let place = |name: &str| self.common.place(name, whole);
        if self.common.has("ccd-exclusive") && self.client_config_dir.is_none() {
            let trouble = Trouble::new("ccd-exclusive without client-config-dir").instead("add `client-config-dir`");
            problems.push(Problem::error(place("ccd-exclusive"), trouble));
        }
        if self.common.has("duplicate-cn") && self.persist.is_some() {
            let trouble = Trouble::new("with duplicate-cn a name does not lead to one lease, and none is kept");
            let problem = trouble.instead("remove ifconfig-pool-persist or duplicate-cn");
            problems.push(Problem::warning(place("ifconfig-pool-persist"), problem));
        }
        if self.common.has("status-version") && self.status.is_none() {
            let trouble = Trouble::new("status-version without status says nothing").instead("remove it");
            problems.push(Problem::warning(place("status-version"), trouble));
        }
        if let (Some(source), None) = (&self.token_secret, &self.token) {
            let trouble = Trouble::new("auth-gen-token-secret without auth-gen-token says nothing");
            problems.push(Problem::warning(&source.at, trouble.instead("add `auth-gen-token`, or remove it")));
        }
    }

    fn agree_on_wrap(
        &self,
        auth: controlplane::Digest,
        whole: &At,
        places: &Lookup<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<Wrap> {
        let wrap = load_wrap(&self.common.wrap, auth, whole, places).map_err(|problem| problems.push(problem)).ok()?;
        let told = match &wrap {
            Wrap::TlsAuth { direction: Some(1), .. } => {
                Some(Trouble::new("key direction 1 is the clients'").instead("write 0, unless their profiles have 0"))
            }
            Wrap::TlsAuth { .. } => None,
            _ if self.common.has("key-direction") => {
                Some(Trouble::new("key-direction without tls-auth says nothing").instead("remove it"))
            }
            _ => None,
        };
        if let Some(trouble) = told {
            let at = self.common.place("key-direction", self.common.place("tls-auth", whole));
            problems.push(Problem::warning(at, trouble));
        }
        Some(wrap)
    }

    fn auth_gen_token(&self, whole: &At, places: &Lookup<'_>, problems: &mut Vec<Problem>) -> Option<AuthGenToken> {
        let line = self.token?;
        let secret = self.token_secret.as_ref().and_then(|source| {
            let key = source.load(places).and_then(|text| secrets::token_key(text.expose()));
            key.map_err(|trouble| {
                let named = Trouble { what: format!("auth-gen-token-secret: {}", trouble.what), ..trouble };
                problems.push(Problem::error(&source.at, named));
            })
            .ok()
        });
        if self.token_secret.is_none() {
            let trouble = Trouble::new("tokens end when the gateway is started anew");
            let problem = trouble.instead("add `auth-gen-token-secret FILE` to keep them");
            problems.push(Problem::warning(self.common.place("auth-gen-token", whole), problem));
        }
        let (lifetime, renewal, external_auth) = (line.lifetime, line.renewal, line.external_auth);
        let reneg_sec = self.common.timers().reneg_sec;
        if let Some(renewal) = renewal.filter(|renewal| *renewal > 0 && (*renewal < reneg_sec || reneg_sec == 0)) {
            let good = match reneg_sec {
                0 => "as long as its session".to_owned(),
                reneg_sec => format!("for {} s", u64::from(reneg_sec) * 2),
            };
            let trouble = Trouble::new(format!(
                "a token is renewed when the client renegotiates, not every {renewal} s, and is good {good}"
            ));
            let problem = trouble.instead(format!("write `reneg-sec {renewal}` to have it renewed as often"));
            problems.push(Problem::warning(self.common.place("auth-gen-token", whole), problem));
        }
        Some(AuthGenToken { lifetime, renewal, external_auth, secret })
    }

    /// The server's own side, and what is pushed.
    fn keepalive(&self, whole: &At, problems: &mut Vec<Problem>) -> (Option<(u32, u32)>, Vec<String>) {
        let single = ["ping", "ping-restart", "ping-exit"];
        let alone = single.iter().find_map(|name| self.common.seen.get(name));
        match (self.keepalive, alone) {
            (Some((ping, restart)), alone) => {
                if let Some(at) = alone {
                    let trouble = Trouble::new("keepalive goes before ping, ping-restart and ping-exit");
                    problems.push(Problem::warning(at, trouble.instead("remove them")));
                }
                let (own, push) = helpers::keepalive(ping, restart);
                (Some(own), push.to_vec())
            }
            (None, Some(_)) => {
                let settings = &self.common.settings;
                let dead = settings.silence.map_or(0, |silence| match silence {
                    Silence::Restart(after) | Silence::Exit(after) => after,
                });
                (Some((settings.ping.unwrap_or(0), dead)), Vec::new())
            }
            (None, None) => {
                let trouble = Trouble::new("no keepalive: clients that vanish are never noticed");
                problems.push(Problem::warning(whole, trouble.instead("add a line `keepalive 10 60`")));
                (None, Vec::new())
            }
        }
    }

    fn push_list(&self, helpers: &[String], pings: &[String]) -> Vec<String> {
        let mut push = self.push.clone();
        for option in helpers.iter().chain(pings) {
            push_list::imply(&mut push, option.clone());
        }
        for start in &self.push_remove {
            push_list::remove(&mut push, start);
        }
        push
    }

    fn files(&self, places: &Lookup<'_>) -> ServerFiles {
        let [ca, cert, key, extra_certs, crl] = self.common.identity.files(&places.directory);
        let wrap = self.common.wrap.tls_auth.as_ref().or(self.common.wrap.tls_crypt.as_ref());
        let of = |source: &super::material::Source| source.file(&places.directory);
        ServerFiles {
            config: places.profile.to_path_buf(),
            ca,
            cert,
            key,
            extra_certs,
            crl,
            wrap: wrap.and_then(of),
            auth_gen_token_secret: self.token_secret.as_ref().and_then(of),
        }
    }

    fn addresses(&self, topology: Topology, whole: &At, problems: &mut Vec<Problem>) -> Addresses {
        let mut addresses = Addresses::default();
        let mut wrong = |name: &str, trouble: Trouble| {
            let named = Trouble { what: format!("{name}: {}", trouble.what), ..trouble };
            problems.push(Problem::error(self.common.place(name, whole), named));
        };
        match self.ipv6() {
            Ok(pool) => addresses.ipv6 = pool,
            Err((name, trouble)) => wrong(name, trouble),
        }
        if self.server_ipv6.is_some() {
            addresses.push.push("tun-ipv6".to_owned());
        }
        match self.ipv4(topology, &mut addresses) {
            Ok(pool) => addresses.ipv4 = pool,
            Err((name, trouble)) => wrong(name, trouble),
        }
        if addresses.ipv4.is_none() && addresses.ipv6.is_none() && self.common.has("mode") {
            let trouble = Trouble::new("the tunnel has no address").instead("add `server`, or `ifconfig`");
            problems.push(Problem::error(whole, trouble));
        }
        self.routes(&mut addresses.routes, whole, problems);
        addresses
    }

    /// Errors are at the directive that is named first.
    fn ipv4(&self, topology: Topology, to: &mut Addresses) -> Result<Option<Pool4>, (&'static str, Trouble)> {
        if let Some(line) = self.server {
            let expanded =
                helpers::server(topology, line.network, line.prefix, line.nopool, self.common.has("client-to-client"))
                    .map_err(|trouble| ("server", trouble))?;
            to.push.extend(expanded.push);
            to.routes.extend(expanded.route);
            return match self.pool {
                None => Ok(Some(expanded.pool)),
                Some(pool) if line.nopool => with_pool(expanded.pool, topology, pool).map(Some),
                Some(_) => Err((
                    "ifconfig-pool",
                    Trouble::new("`server` has a pool of its own").instead("add `nopool` to the line `server`"),
                )),
            };
        }
        let settings = &self.common.settings;
        let Some((_, second)) = settings.ifconfig else {
            return match self.pool {
                None => Ok(None),
                Some(_) => Err(("ifconfig-pool", Trouble::new("there is no ifconfig").instead("use `server` instead"))),
            };
        };
        let own = super::tunnel::TunnelSettings { topology, ..settings.clone() };
        let pool = match own.ipv4().map_err(|trouble| ("ifconfig", trouble))? {
            Some(Ipv4Setup::Subnet { address, prefix }) => alone(address, prefix, None),
            Some(Ipv4Setup::PointToPoint { local, .. }) => alone(local, 30, Some(second)),
            None => return Ok(None),
        };
        match self.pool {
            Some(line) => with_pool(pool, topology, line).map(Some),
            None => Ok(Some(pool)),
        }
    }

    fn ipv6(&self) -> Result<Option<Pool6>, (&'static str, Trouble)> {
        if let Some((network, prefix)) = self.server_ipv6 {
            if self.pool_ipv6.is_some() {
                let trouble = Trouble::new("`server-ipv6` has a pool of its own").instead("remove one of them");
                return Err(("ifconfig-ipv6-pool", trouble));
            }
            if self.server.is_some_and(|line| line.nopool) {
                let trouble = Trouble::new("it has a pool, and `server` says nopool");
                return Err(("server-ipv6", trouble.instead("use `ifconfig-ipv6` instead of it")));
            }
            return helpers::server_ipv6(network, prefix).map(Some).map_err(|trouble| ("server-ipv6", trouble));
        }
        match (self.common.settings.ifconfig_ipv6, self.pool_ipv6) {
            (Some(own), Some((base, _))) if base == own.local => {
                let trouble = Trouble::new("the pool starts at the server's own address");
                Err(("ifconfig-ipv6-pool", trouble.instead("start it at a higher one")))
            }
            (Some(own), pool) => {
                let (base, pool_prefix) = pool.unwrap_or((own.local, own.prefix));
                let dynamic = pool.is_some();
                Ok(Some(Pool6 { local: own.local, prefix: own.prefix, base, pool_prefix, dynamic }))
            }
            (None, Some(_)) => {
                let trouble = Trouble::new("there is no ifconfig-ipv6").instead("use `server-ipv6` instead");
                Err(("ifconfig-ipv6-pool", trouble))
            }
            (None, None) => Ok(None),
        }
    }

    /// All of a server's routes lead into its tunnel, whatever address they name there.
    fn routes(&self, routes: &mut Vec<KernelRoute>, whole: &At, problems: &mut Vec<Problem>) {
        let settings = &self.common.settings;
        let mut left_out = |name: &str| {
            let trouble =
                Trouble::new(format!("{name}: a server's routes lead into its tunnel, and this one is left out"));
            let problem = trouble.instead("remove it, or set it outside of minivpn");
            problems.push(Problem::warning(self.common.place(name, whole), problem));
        };
        let metric = |own: Option<u32>| own.or(settings.route_metric);
        for route in &settings.routes {
            match (route.target, route.gateway) {
                (RouteTarget::Net(network, prefix), Gateway::Vpn | Gateway::Address(_)) => {
                    routes.push(KernelRoute { network: network.into(), prefix, metric: metric(route.metric) });
                }
                _ => left_out("route"),
            }
        }
        for route in &settings.routes_ipv6 {
            match route.gateway {
                Gateway::Net => left_out("route-ipv6"),
                Gateway::Vpn | Gateway::Address(_) => {
                    let (network, prefix): (IpAddr, u8) = (route.network.into(), route.prefix);
                    routes.push(KernelRoute { network, prefix, metric: metric(route.metric) });
                }
            }
        }
    }
}

/// A server's own address, without a pool.
fn alone(local: Ipv4Addr, prefix: u8, peer: Option<Ipv4Addr>) -> Pool4 {
    let (network, netmask) = (values::ipv4_network(local, prefix), helpers::netmask_of(prefix));
    Pool4 { network, prefix, netmask, local, peer, pool_start: local, pool_end: local, dynamic: false }
}

/// The same with the addresses of `ifconfig-pool`, which make its network as large as they need.
fn with_pool(own: Pool4, topology: Topology, line: PoolLine) -> Result<Pool4, (&'static str, Trouble)> {
    let (mut start, mut end) = (u32::from(line.start), u32::from(line.end));
    if topology == Topology::Net30 {
        (start, end) = (start & !3, end | 3);
    }
    let taken = |address: Ipv4Addr| (start..=end).contains(&u32::from(address));
    if taken(own.local) || own.peer.is_some_and(taken) {
        let trouble = Trouble::new("the pool holds the server's own address").instead("start it at a higher one");
        return Err(("ifconfig-pool", trouble));
    }
    let (network, prefix) = match own.peer {
        // Point to point, the device has no subnet that says how far the tunnel reaches.
        Some(_) => {
            let differ = (u32::from(own.network) ^ start) | (u32::from(own.network) ^ end);
            let prefix = u8::try_from(differ.leading_zeros()).unwrap_or(0).min(own.prefix);
            (values::ipv4_network(own.local, prefix), prefix)
        }
        None => (own.network, own.prefix),
    };
    let netmask = line.netmask.unwrap_or(if own.peer.is_some() { helpers::netmask_of(prefix) } else { own.netmask });
    Ok(Pool4 { network, prefix, netmask, pool_start: start.into(), pool_end: end.into(), dynamic: true, ..own })
}

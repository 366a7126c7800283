//! What the lines of a server's configuration say, one after the other, each value checked alone. What a client's profile may have as
//! well is in `common.rs`; whether the values fit together is for `server_agree.rs`.

use std::net::{Ipv4Addr, Ipv6Addr};

use controlplane::ClientCertificate;

use super::common::{Common, verdict};
use super::connection::{self, Transport, transport_of};
use super::directives::Side;
use super::lexer;
use super::material::Source;
use super::problem::{At, Problem};
use super::push_list;
use super::server::MAX_CLIENTS;
use super::tunnel;
use super::values::{self, Trouble, quoted};
use super::written::Directive;

/// As many variables as commands get.
const MAX_VARIABLES: usize = 256;

/// Everything said so far.
#[derive(Debug, Default)]
pub(super) struct ServerDraft {
    /// What a client's profile may have as well.
    pub(super) common: Common,
    pub(super) server: Option<ServerLine>,
    pub(super) server_ipv6: Option<(Ipv6Addr, u8)>,
    pub(super) pool: Option<PoolLine>,
    pub(super) pool_ipv6: Option<(Ipv6Addr, u8)>,
    pub(super) point_to_point: bool,
    pub(super) persist: Option<(String, u32)>,
    /// As it was written.
    pub(super) keepalive: Option<(u32, u32)>,
    pub(super) push: Vec<String>,
    pub(super) push_remove: Vec<String>,
    pub(super) client_certificate: ClientCertificate,
    pub(super) commands: Commands,
    pub(super) user_pass_via_env: bool,
    pub(super) script_security: Option<u8>,
    pub(super) variables: Vec<(String, String)>,
    pub(super) tmp_dir: Option<String>,
    pub(super) token: Option<TokenLine>,
    pub(super) token_secret: Option<Source>,
    pub(super) client_config_dir: Option<String>,
    pub(super) max_clients: Option<u32>,
    pub(super) replies: Option<(u32, u32)>,
    pub(super) status: Option<(String, u32)>,
    pub(super) status_version: Option<u8>,
}

/// `server network netmask [nopool]`
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerLine {
    pub(super) network: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) nopool: bool,
}

/// `ifconfig-pool start end [netmask]`
#[derive(Clone, Copy, Debug)]
pub(super) struct PoolLine {
    pub(super) start: Ipv4Addr,
    pub(super) end: Ipv4Addr,
    pub(super) netmask: Option<Ipv4Addr>,
}

/// `auth-gen-token`
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenLine {
    pub(super) lifetime: u32,
    pub(super) renewal: Option<u32>,
    pub(super) external_auth: bool,
}

/// The words of each command line.
#[derive(Debug, Default)]
pub(super) struct Commands {
    pub(super) user_pass_verify: Option<Vec<String>>,
    pub(super) tls_verify: Option<Vec<String>>,
    pub(super) client_connect: Option<Vec<String>>,
    pub(super) client_disconnect: Option<Vec<String>>,
    pub(super) learn_address: Option<Vec<String>>,
}

impl Commands {
    /// Those that are set, by their directives.
    pub(super) fn set(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("auth-user-pass-verify", &self.user_pass_verify),
            ("tls-verify", &self.tls_verify),
            ("client-connect", &self.client_connect),
            ("client-disconnect", &self.client_disconnect),
            ("learn-address", &self.learn_address),
        ];
        all.into_iter().filter(|(_, command)| command.is_some()).map(|(name, _)| name)
    }
}

impl ServerDraft {
    /// Takes one line of the configuration.
    pub(super) fn take(&mut self, directive: &Directive, problems: &mut Vec<Problem>) {
        self.common.seen.insert(directive.row.name, directive.line.at.clone());
        if verdict(directive, Side::Server, problems) {
            let taken = self.apply(directive);
            self.common.report(directive, taken, problems);
        }
    }

    /// A `<connection>`, which the table refuses before this.
    pub(super) fn take_connection(&mut self, at: &At, problems: &mut Vec<Problem>) {
        problems
            .push(Problem::error(at, Trouble::new("<connection> belongs to a client's profile").instead("remove it")));
    }

    /// A server's own meaning of a directive goes before what it means to both.
    fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let (name, args) = (directive.row.name, directive.line.args.as_slice());
        Ok(self.apply_mode(name, args)?
            || self.apply_address(name, args)?
            || self.apply_push(name, args)?
            || self.apply_login(directive)?
            || self.apply_command(name, args)?
            || self.apply_limit(name, args)?
            || self.apply_file(name, args)?
            || self.common.apply(directive)?)
    }

    fn apply_mode(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("tls-server" | "ignore-unknown-option" | "client-to-client" | "duplicate-cn" | "ccd-exclusive", _) => {}
            ("float" | "multihome", _) => {}
            ("mode", [mode]) if mode == "server" => {}
            ("mode", _) => {
                return Err(Trouble::new("a server for one peer is not supported")
                    .instead("write `mode server`, or `server` with a network"));
            }
            ("proto", [protocol]) if tcp(protocol)? => return Err(connection::served_over_udp()),
            ("dh", [file]) if file == "none" => {}
            ("dh", _) => {
                self.warn("dh: the file is not read, keys are agreed on by elliptic curves", "write `dh none`")
            }
            ("compress", [form]) if form == "migrate" => self.warn(
                "compress migrate: clients whose profiles have comp-lzo or compress will not get through",
                "remove both from their profiles",
            ),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_address(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("server", [network, netmask, rest @ ..]) => {
                self.server = Some(server_line(network, netmask, rest.first())?)
            }
            ("server-ipv6", [network]) => self.server_ipv6 = Some(pool_ipv6(network)?),
            ("ifconfig-pool", [start, end, netmask @ ..]) => {
                let netmask = netmask.first().map(|mask| values::ipv4(mask)).transpose()?;
                netmask.map(values::netmask).transpose()?;
                let (start, end) = (tunnel::unicast(start)?, tunnel::unicast(end)?);
                if start > end {
                    return Err(Trouble::new(format!("{start} is above {end}")).instead("write the lower one first"));
                }
                self.pool = Some(PoolLine { start, end, netmask });
            }
            ("ifconfig-ipv6-pool", [base]) => self.pool_ipv6 = Some(pool_ipv6(base)?),
            ("ifconfig-pool-linear", _) => self.point_to_point = true,
            ("ifconfig-pool-persist", [file, every @ ..]) => {
                let every = every.first().map(|text| values::seconds(text)).transpose()?.unwrap_or(600);
                self.persist = Some((file.clone(), every));
            }
            ("keepalive", [ping, restart]) => self.keepalive = Some(tunnel::keepalive(ping, restart)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_push(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("push", [option]) => self.common.warnings.extend(push_list::add(&mut self.push, option)?),
            ("push-remove", [start]) => self.push_remove.push(start.clone()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_login(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        match (directive.row.name, directive.line.args.as_slice()) {
            ("verify-client-cert", how) => self.client_certificate = client_certificate(how.first())?,
            ("client-cert-not-required", _) => {
                self.client_certificate = ClientCertificate::None;
                self.warn("client-cert-not-required is old", "write `verify-client-cert none`");
            }
            ("auth-user-pass-verify", [command, how]) => {
                self.user_pass_via_env = match how.as_str() {
                    "via-env" => true,
                    "via-file" => false,
                    _ => {
                        return Err(
                            Trouble::new(format!("unknown word {}", quoted(how))).instead("write via-env or via-file")
                        );
                    }
                };
                self.commands.user_pass_verify = Some(command_line(command)?);
            }
            ("auth-user-pass-optional" | "username-as-common-name", _) => {}
            ("auth-gen-token", words) => self.token = Some(token_line(words)?),
            ("auth-gen-token-secret", _) => {
                if let Some(source) = Source::of(directive) {
                    source.put(&mut self.token_secret);
                }
            }
            ("x509-username-field", fields) => {
                if fields.iter().any(|field| field != "CN") {
                    return Err(Trouble::new("only the common name names a client in this version")
                        .instead("write `x509-username-field CN`, or remove it"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_command(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        let place = match name {
            "tls-verify" => &mut self.commands.tls_verify,
            "client-connect" => &mut self.commands.client_connect,
            "client-disconnect" => &mut self.commands.client_disconnect,
            "learn-address" => &mut self.commands.learn_address,
            _ => return self.apply_environment(name, args),
        };
        match args {
            [command] => *place = Some(command_line(command)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_environment(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("script-security", [level, ..]) => {
                let level = values::number16(level, 0..=3, "")?;
                self.script_security = u8::try_from(level).ok();
            }
            ("setenv", [variable, value @ ..]) => self.variable(variable.clone(), value.first())?,
            ("setenv-safe", [variable, value @ ..]) => self.variable(format!("OPENVPN_{variable}"), value.first())?,
            ("tmp-dir", [directory]) => self.tmp_dir = Some(directory.clone()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_limit(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("max-clients", [count]) => self.max_clients = Some(values::number32(count, 1..=MAX_CLIENTS, "clients")?),
            ("connect-freq-initial", [count, seconds]) => {
                let count = values::number32(count, 1..=1_000_000, "answers")?;
                self.replies = Some((count, values::number32(seconds, 1..=86_400, "seconds")?));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_file(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("client-config-dir", [directory]) => self.client_config_dir = Some(directory.clone()),
            ("status", [file, every @ ..]) => {
                let every = every.first().map(|text| values::number32(text, 1..=31_536_000, "seconds")).transpose()?;
                self.status = Some((file.clone(), every.unwrap_or(60)));
            }
            ("status-version", version) => {
                let version = version.first().map(|text| values::number16(text, 1..=3, "")).transpose()?.unwrap_or(1);
                self.status_version = u8::try_from(version).ok();
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn variable(&mut self, name: String, value: Option<&String>) -> Result<(), Trouble> {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Trouble::new(format!("{} is not the name of a variable", quoted(&name)))
                .instead("use letters, digits and _"));
        }
        let value = value.cloned().unwrap_or_default();
        if value.contains(char::is_control) {
            return Err(Trouble::new("a control character in the value"));
        }
        self.variables.retain(|(other, _)| *other != name);
        if self.variables.len() >= MAX_VARIABLES {
            return Err(Trouble::new(format!("more than {MAX_VARIABLES} variables")));
        }
        self.variables.push((name, value));
        Ok(())
    }

    fn warn(&mut self, what: &str, instead: &str) {
        self.common.warnings.push(Trouble::new(what).instead(instead));
    }
}

/// Whether a protocol is TCP, with a server's names for it.
fn tcp(protocol: &str) -> Result<bool, Trouble> {
    match protocol {
        "tcp-server" | "tcp4-server" | "tcp6-server" => Ok(true),
        _ => Ok(transport_of(protocol)? == Transport::Tcp),
    }
}

fn server_line(network: &str, netmask: &str, flag: Option<&String>) -> Result<ServerLine, Trouble> {
    let (network, prefix) = (tunnel::unicast(network)?, values::netmask(values::ipv4(netmask)?)?);
    let first = values::ipv4_network(network, prefix);
    if first != network {
        return Err(Trouble::new(format!("{network} is not the first address of a network with netmask {netmask}"))
            .instead(format!("write `server {first} {netmask}`")));
    }
    let nopool = match flag.map(String::as_str) {
        None => false,
        Some("nopool") => true,
        Some(other) => {
            return Err(Trouble::new(format!("unknown word {}", quoted(other))).instead("write `nopool` or nothing"));
        }
    };
    Ok(ServerLine { network, prefix, nopool })
}

/// `address/bits`, where the bits must be there and within what OpenVPN takes.
fn pool_ipv6(text: &str) -> Result<(Ipv6Addr, u8), Trouble> {
    let (address, bits) = values::ipv6_with_bits(text)?;
    if !text.contains('/') || !(64..=124).contains(&bits) || address.is_multicast() {
        return Err(Trouble::new(format!("{} is no network of /64 to /124", quoted(text)))
            .instead("write it like fd00:1234::/64"));
    }
    Ok((address, bits))
}

fn client_certificate(how: Option<&String>) -> Result<ClientCertificate, Trouble> {
    match how.map(String::as_str) {
        None | Some("require") => Ok(ClientCertificate::Require),
        Some("optional") => Ok(ClientCertificate::Optional),
        Some("none") => Ok(ClientCertificate::None),
        Some(other) => {
            Err(Trouble::new(format!("unknown word {}", quoted(other))).instead("write require, optional or none"))
        }
    }
}

/// `[lifetime] [renewal] [external-auth]`
fn token_line(words: &[String]) -> Result<TokenLine, Trouble> {
    let (words, external_auth) = match words {
        [rest @ .., last] if last == "external-auth" => (rest, true),
        words => (words, false),
    };
    let seconds = |index: usize| words.get(index).map(|text| values::seconds(text)).transpose();
    if let Some(other) = words.get(2) {
        return Err(Trouble::new(format!("unknown word {}", quoted(other))).instead("write `external-auth` or nothing"));
    }
    let renewal = seconds(1)?.filter(|renewal| *renewal > 0);
    Ok(TokenLine { lifetime: seconds(0)?.unwrap_or(0), renewal, external_auth })
}

/// The words of a command line, split as lines are. It is not given to a shell.
fn command_line(text: &str) -> Result<Vec<String>, Trouble> {
    let words = lexer::split(text)?;
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(Trouble::new("no command in it").instead("write the path of a program")),
    }
}

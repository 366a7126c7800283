//! What the lines of a profile say, one after the other: each directive goes to the part it concerns, and its value is checked alone.
//! Whether the values fit together is for `agree.rs`.

use std::collections::BTreeMap;

use controlplane::{Cipher, Digest};

use super::agreed::{AuthRetry, Device, FilterAction, PullFilter, ReplayWindow};
use super::ciphers;
use super::connection::{Connection, RemoteLine, Transport, WrapLines, transport_of};
use super::directives::{Disposition, FRAMING, Role};
use super::identity::Identity;
use super::idle;
use super::material::Source;
use super::problem::{At, Problem};
use super::tunnel::TunnelSettings;
use super::values::{self, Trouble, quoted};
use super::written::Directive;

/// As many ways to the server as OpenVPN allows.
const MAX_REMOTES: usize = 64;
/// As many variables as we send.
const MAX_PEER_VARS: usize = 64;

/// Everything said so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The last place of each directive.
    pub(super) seen: BTreeMap<&'static str, At>,
    pub(super) connection: Connection,
    pub(super) wrap: WrapLines,
    pub(super) remotes: Vec<RemoteLine>,
    pub(super) connections: Vec<(At, Connection)>,
    pub(super) identity: Identity,
    pub(super) settings: TunnelSettings,
    pub(super) device: Device,
    pub(super) dev_name: Option<String>,
    pub(super) credentials: Option<Source>,
    pub(super) auth_retry: AuthRetry,
    pub(super) connect_retry_max: Option<u32>,
    pub(super) pull_filters: Vec<PullFilter>,
    pub(super) data_ciphers: Option<Vec<Cipher>>,
    pub(super) cipher: Option<String>,
    pub(super) fallback: Option<String>,
    /// `auth`; the inner `None` is a digest that we do not have.
    pub(super) auth: Option<Option<Digest>>,
    pub(super) replay_window: Option<ReplayWindow>,
    pub(super) tls_timeout: Option<u32>,
    pub(super) hand_window: Option<u32>,
    pub(super) tran_window: Option<u32>,
    pub(super) reneg_sec: Option<u32>,
    pub(super) reneg_bytes: Option<u64>,
    pub(super) reneg_pkts: Option<u64>,
    pub(super) peer_info: bool,
    pub(super) peer_vars: Vec<(String, String)>,
    pub(super) mark: Option<u32>,
    pub(super) bind_dev: Option<String>,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// Found while reading single values.
    pub(super) warnings: Vec<Trouble>,
}

impl Draft {
    /// Takes one line of the profile.
    pub(super) fn take(&mut self, directive: &Directive, problems: &mut Vec<Problem>) {
        self.seen.insert(directive.row.name, directive.line.at.clone());
        if verdict(directive, problems) {
            let taken = self.apply(directive);
            self.report(directive, taken, problems);
        }
    }

    /// Takes a `<connection>` with its lines.
    pub(super) fn take_connection(&mut self, at: &At, directives: &[Directive], problems: &mut Vec<Problem>) {
        if self.connections.len() >= MAX_REMOTES {
            problems.push(Problem::error(at, Trouble::new(format!("more than {MAX_REMOTES} connections"))));
            return;
        }
        let mut connection = self.connection.clone();
        for directive in directives {
            self.seen.insert(directive.row.name, directive.line.at.clone());
            if verdict(directive, problems) {
                let taken = apply_inside(&mut connection, directive);
                self.report(directive, taken, problems);
            }
        }
        match connection.remotes.len() {
            1 => self.connections.push((at.clone(), connection)),
            count => {
                let trouble = Trouble::new(format!("<connection> has {count} remotes"))
                    .instead("write exactly one `remote` into each");
                problems.push(Problem::error(at, trouble));
            }
        }
    }

    /// What was found about a directive goes where the directive stands.
    fn report(&mut self, directive: &Directive, taken: Result<bool, Trouble>, problems: &mut Vec<Problem>) {
        for warning in self.warnings.drain(..) {
            problems.push(Problem::warning(&directive.line.at, warning));
        }
        match taken {
            Ok(true) => {}
            Ok(false) => problems.push(directive.problem(Trouble::new("it cannot stand here in this form"))),
            Err(trouble) => problems.push(directive.problem(trouble)),
        }
    }

    fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let (name, args) = (directive.row.name, directive.line.args.as_slice());
        Ok(self.connection.apply(directive)?
            || self.wrap.apply(directive)?
            || self.identity.apply(directive)?
            || self.apply_remote(directive)?
            || self.apply_mode(name, args)?
            || self.apply_device(name, args)?
            || self.apply_cipher(name, args)?
            || self.apply_timer(name, args)?
            || self.apply_pull(name, args)?
            || self.apply_credentials(directive)?
            || self.apply_process(name, args)?
            || self.settings.apply(name, args)?)
    }

    fn apply_remote(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        match (directive.row.name, directive.line.args.as_slice()) {
            ("remote", _) if self.remotes.len() >= MAX_REMOTES => {
                return Err(Trouble::new(format!("more than {MAX_REMOTES} remotes")));
            }
            ("remote", _) => self.remotes.push(RemoteLine::of(directive)?),
            ("remote-random", _) => {}
            ("connect-retry-max", [rounds]) if rounds == "infinite" || rounds == "unlimited" => {
                self.connect_retry_max = Some(u32::MAX)
            }
            ("connect-retry-max", [rounds]) => {
                let rounds = values::number32(rounds, 0..=1_000_000, "rounds")?;
                self.connect_retry_max = Some(if rounds == 0 { u32::MAX } else { rounds });
            }
            ("proto-force", [transport]) if transport_of(transport)? == Transport::Tcp => {
                return Err(only_udp());
            }
            ("proto-force", _) => {}
            ("mark", [mark]) => self.mark = Some(values::number32(mark, 0..=u32::MAX, "")?),
            ("bind-dev", [device]) => self.bind_dev = Some(values::interface(device)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_mode(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("client" | "pull" | "tls-client" | "ignore-unknown-option", _) => {}
            ("mode", [mode]) if mode == "p2p" => {}
            ("mode", _) => {
                return Err(Trouble::new("it belongs to a server's configuration").instead("remove it"));
            }
            ("setenv", [variable, value @ ..]) => self.setenv(variable, value.first())?,
            ("compress", [form]) if form == "stub-v2" || form == "migrate" => {}
            ("compress", _) => {
                return Err(Trouble::new(FRAMING.0).instead(FRAMING.1));
            }
            ("allow-compression", [word]) if word == "no" => {}
            ("allow-compression", [word]) if word == "asym" || word == "yes" => {
                self.warnings.push(Trouble::new("nothing is ever compressed"))
            }
            ("allow-compression", _) => {
                return Err(Trouble::new("it takes no, asym or yes").instead("write `allow-compression no`"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn setenv(&mut self, variable: &str, value: Option<&String>) -> Result<(), Trouble> {
        if variable == "PUSH_PEER_INFO" {
            self.peer_info = true;
        }
        if !variable.starts_with("UV_") && !matches!(variable, "IV_GUI_VER" | "IV_SSO") {
            return Ok(());
        }
        if !variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(Trouble::new(format!("{} is not the name of a variable", quoted(variable)))
                .instead("use letters, digits and _"));
        }
        let value = value.cloned().unwrap_or_default();
        if value.contains(char::is_control) {
            return Err(Trouble::new("a control character in the value"));
        }
        self.peer_vars.retain(|(name, _)| name != variable);
        if self.peer_vars.len() >= MAX_PEER_VARS {
            return Err(Trouble::new(format!("more than {MAX_PEER_VARS} variables")));
        }
        self.peer_vars.push((variable.to_owned(), value));
        Ok(())
    }

    fn apply_device(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        let tap = || Trouble::new("Ethernet (TAP) is not supported").instead("write `dev tun`, also on the server");
        match (name, args) {
            ("dev", [device]) if device.starts_with("tap") => return Err(tap()),
            ("dev", [device]) if device == "null" => {
                return Err(Trouble::new("a null device makes no tunnel").instead("write `dev tun`"));
            }
            ("dev", [device]) => self.dev_name = Some(values::interface(device)?),
            ("dev-type", [kind]) if kind == "tun" => {}
            ("dev-type", [kind]) if kind == "tap" => return Err(tap()),
            ("dev-type", [kind]) => {
                return Err(Trouble::new(format!("unknown type {}", quoted(kind))).instead("write `dev-type tun`"));
            }
            ("txqueuelen", [packets]) => {
                self.device.txqueuelen = Some(values::number32(packets, 0..=1_000_000, "packets")?)
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_cipher(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("cipher", [cipher]) => {
                ciphers::cipher(cipher)?;
                self.cipher = Some(cipher.to_ascii_uppercase());
            }
            ("data-ciphers-fallback", [cipher]) => {
                ciphers::cipher(cipher)?;
                self.fallback = Some(cipher.to_ascii_uppercase());
            }
            ("data-ciphers" | "ncp-ciphers", [text]) => {
                let (list, mut left_out) = ciphers::list(text)?;
                self.data_ciphers = Some(list);
                self.warnings.append(&mut left_out);
            }
            ("auth", [digest]) => self.auth = Some(ciphers::digest(digest)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_timer(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        let from_one = |text: &str| values::number32(text, 1..=31_536_000, "seconds");
        match (name, args) {
            ("tls-timeout", [after]) => self.tls_timeout = Some(values::number32(after, 1..=3_600, "seconds")?),
            ("hand-window", [after]) => self.hand_window = Some(from_one(after)?),
            ("tran-window", [after]) => self.tran_window = Some(from_one(after)?),
            ("reneg-sec", [after, shortest @ ..]) => {
                shortest.first().map(|text| values::seconds(text)).transpose()?;
                self.reneg_sec = Some(values::seconds(after)?);
            }
            ("reneg-bytes", [bytes]) => {
                self.reneg_bytes = Some(values::number(bytes, 0..=u64::MAX, "bytes")?).filter(|n| *n > 0)
            }
            ("reneg-pkts", [packets]) => {
                self.reneg_pkts = Some(values::number(packets, 0..=u64::MAX, "packets")?).filter(|n| *n > 0)
            }
            ("replay-window", [packets, seconds @ ..]) => {
                let packets = values::number32(packets, 0..=65_536, "packets")?;
                let seconds =
                    seconds.first().map(|text| values::number32(text, 0..=600, "seconds")).transpose()?.unwrap_or(15);
                self.replay_window = Some(ReplayWindow { packets, seconds });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_pull(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("route-nopull", _) => {}
            ("pull-filter", [action, prefix]) => {
                let action = match action.as_str() {
                    "accept" => FilterAction::Accept,
                    "ignore" => FilterAction::Ignore,
                    "reject" => FilterAction::Reject,
                    _ => {
                        return Err(Trouble::new(format!("unknown word {}", quoted(action)))
                            .instead("write accept, ignore or reject"));
                    }
                };
                self.pull_filters.push(PullFilter { action, prefix: prefix.clone() });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_credentials(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        match (directive.row.name, directive.line.args.as_slice()) {
            // A bare auth-user-pass beside a block means the block.
            ("auth-user-pass", [file]) if file == "stdin" => {}
            ("auth-user-pass", _) => {
                if let Some(source) = Source::of(directive) {
                    source.put(&mut self.credentials);
                }
            }
            ("auth-nocache" | "push-peer-info", _) => self.peer_info |= directive.row.name == "push-peer-info",
            ("auth-retry", [how]) => {
                self.auth_retry = match how.as_str() {
                    "none" => AuthRetry::None,
                    "nointeract" => AuthRetry::NoInteract,
                    "interact" => AuthRetry::Interact,
                    _ => {
                        return Err(Trouble::new(format!("unknown word {}", quoted(how)))
                            .instead("write none, nointeract or interact"));
                    }
                };
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_process(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("user", [user]) => self.user = Some(account(user)?),
            ("group", [group]) => self.group = Some(account(group)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Whether a directive is to be applied at all; else `problems` says what the table thinks of it.
fn verdict(directive: &Directive, problems: &mut Vec<Problem>) -> bool {
    let row = directive.row;
    match row.does {
        _ if row.role == Role::Pushed => {
            problems.push(directive.problem(Trouble::new("only a server sends it").instead("remove it")));
            false
        }
        Disposition::Implemented => true,
        Disposition::NoEffect(_) => {
            match idle::check(row.name, &directive.line.args) {
                Ok(None) => {}
                Ok(Some(why)) => problems.push(ignored(directive, why)),
                Err(trouble) => problems.push(directive.problem(trouble)),
            }
            false
        }
        Disposition::Ignored(why) => {
            problems.push(ignored(directive, why));
            matches!(row.name, "dhcp-option" | "dns")
        }
        Disposition::Refused(why, instead) => {
            problems.push(directive.problem(Trouble::new(why).instead(instead)));
            false
        }
    }
}

fn ignored(directive: &Directive, why: &str) -> Problem {
    let trouble = Trouble::new(format!("{} is ignored: {why}", directive.row.name));
    Problem::warning(&directive.line.at, trouble)
}

fn apply_inside(connection: &mut Connection, directive: &Directive) -> Result<bool, Trouble> {
    if directive.row.name == "remote" {
        connection.remotes.push(RemoteLine::of(directive)?);
        return Ok(true);
    }
    Ok(connection.apply(directive)? || connection.wrap.apply(directive)?)
}

/// What is said of TCP.
pub(super) fn only_udp() -> Trouble {
    Trouble::new("only UDP is supported in this version").instead("use a UDP remote: `proto udp`")
}

fn account(name: &str) -> Result<String, Trouble> {
    if name.is_empty() || name.contains(|c: char| c.is_control() || c == '/' || c == ':') {
        return Err(Trouble::new(format!("{} is not an account", quoted(name))));
    }
    Ok(name.to_owned())
}

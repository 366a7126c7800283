//! What the lines of a profile say, one after the other: each directive goes to the part it concerns, and its value is checked alone.
//! Whether the values fit together is for `agree.rs`.

use super::agreed::{AuthRetry, FilterAction, PullFilter};
use super::common::{Common, only_udp, verdict};
use super::connection::{Connection, RemoteLine, Transport, transport_of};
use super::directives::Side;
use super::material::Source;
use super::problem::{At, Problem};
use super::values::{self, Trouble, quoted};
use super::written::Directive;

/// As many ways to the server as OpenVPN allows.
const MAX_REMOTES: usize = 64;
/// As many variables as we send.
const MAX_PEER_VARS: usize = 64;

/// Everything said so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// What a server's configuration may have as well.
    pub(super) common: Common,
    pub(super) remotes: Vec<RemoteLine>,
    pub(super) connections: Vec<(At, Connection)>,
    pub(super) credentials: Option<Source>,
    pub(super) auth_retry: AuthRetry,
    pub(super) connect_retry_max: Option<u32>,
    pub(super) pull_filters: Vec<PullFilter>,
    pub(super) peer_info: bool,
    pub(super) peer_vars: Vec<(String, String)>,
}

impl Draft {
    /// Takes one line of the profile.
    pub(super) fn take(&mut self, directive: &Directive, problems: &mut Vec<Problem>) {
        self.common.seen.insert(directive.row.name, directive.line.at.clone());
        if verdict(directive, Side::Client, problems) {
            let taken = self.apply(directive);
            self.common.report(directive, taken, problems);
        }
    }

    /// Takes a `<connection>` with its lines.
    pub(super) fn take_connection(&mut self, at: &At, directives: &[Directive], problems: &mut Vec<Problem>) {
        if self.connections.len() >= MAX_REMOTES {
            problems.push(Problem::error(at, Trouble::new(format!("more than {MAX_REMOTES} connections"))));
            return;
        }
        let mut connection = self.common.connection.clone();
        for directive in directives {
            self.common.seen.insert(directive.row.name, directive.line.at.clone());
            if verdict(directive, Side::Client, problems) {
                let taken = apply_inside(&mut connection, directive);
                self.common.report(directive, taken, problems);
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

    fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let (name, args) = (directive.row.name, directive.line.args.as_slice());
        Ok(self.common.apply(directive)?
            || self.apply_remote(directive)?
            || self.apply_mode(name, args)?
            || self.apply_pull(name, args)?
            || self.apply_credentials(directive)?)
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
}

fn apply_inside(connection: &mut Connection, directive: &Directive) -> Result<bool, Trouble> {
    if directive.row.name == "remote" {
        connection.remotes.push(RemoteLine::of(directive)?);
        return Ok(true);
    }
    Ok(connection.apply(directive)? || connection.wrap.apply(directive)?)
}

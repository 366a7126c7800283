//! What the lines say that a client's profile and a server's configuration share: identity, device, ciphers, timers, transport. Each
//! value is checked alone when its line is taken; the functions at the end look at a few of them as a whole.

use std::collections::BTreeMap;

use controlplane::{Cipher, Digest, Wrap};

use super::agreed::{Device, ReplayWindow, Timers};
use super::ciphers::{self, Named};
use super::connection::{Connection, WrapLines};
use super::directives::{Disposition, FRAMING, Role, Side};
use super::identity::Identity;
use super::idle;
use super::material::{Lookup, Source};
use super::problem::{At, Problem};
use super::secrets;
use super::tunnel::TunnelSettings;
use super::values::{self, Trouble, quoted};
use super::written::Directive;

/// Everything said so far that either side may say.
#[derive(Debug, Default)]
pub(super) struct Common {
    /// The last place of each directive.
    pub(super) seen: BTreeMap<&'static str, At>,
    pub(super) connection: Connection,
    pub(super) wrap: WrapLines,
    pub(super) identity: Identity,
    pub(super) settings: TunnelSettings,
    pub(super) device: Device,
    pub(super) dev_name: Option<String>,
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
    pub(super) mark: Option<u32>,
    pub(super) bind_dev: Option<String>,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    /// Found while reading single values.
    pub(super) warnings: Vec<Trouble>,
}

impl Common {
    /// Takes one directive whose disposition is to be applied. `Ok(false)`: it is none of these.
    pub(super) fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let (name, args) = (directive.row.name, directive.line.args.as_slice());
        Ok(self.connection.apply(directive)?
            || self.wrap.apply(directive)?
            || self.identity.apply(directive)?
            || self.apply_device(name, args)?
            || self.apply_cipher(name, args)?
            || self.apply_compression(name, args)?
            || self.apply_timer(name, args)?
            || self.apply_process(name, args)?
            || self.settings.apply(name, args)?)
    }

    /// Whether a directive was written.
    pub(super) fn has(&self, name: &str) -> bool {
        self.seen.contains_key(name)
    }

    /// Where a directive stands, or another place when it does not.
    pub(super) fn place<'a>(&'a self, name: &str, otherwise: &'a At) -> &'a At {
        self.seen.get(name).unwrap_or(otherwise)
    }

    /// What was found about a directive goes where the directive stands.
    pub(super) fn report(&mut self, directive: &Directive, taken: Result<bool, Trouble>, problems: &mut Vec<Problem>) {
        for warning in self.warnings.drain(..) {
            problems.push(Problem::warning(&directive.line.at, warning));
        }
        match taken {
            Ok(true) => {}
            Ok(false) => problems.push(directive.problem(Trouble::new("it cannot stand here in this form"))),
            Err(trouble) => problems.push(directive.problem(trouble)),
        }
    }

    /// The device's name; `dev` must be there and of a kind that we have.
    pub(super) fn check_device(&mut self, profile: &At, problems: &mut Vec<Problem>) {
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

    /// The digest; `used` says whether `tls-auth` needs it.
    pub(super) fn agree_on_auth(&self, used: bool, problems: &mut Vec<Problem>) -> Digest {
        match (self.auth, self.seen.get("auth")) {
            (Some(None), Some(at)) => {
                let trouble = Trouble::new("auth: minivpn does not have this digest");
                let problem = match used {
                    true => {
                        Problem::error(at, trouble.instead("use SHA1, SHA256, SHA384 or SHA512, as on the other end"))
                    }
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

    /// `data-ciphers`, and what peers get that do not negotiate.
    pub(super) fn agree_on_ciphers(&self, side: Side, problems: &mut Vec<Problem>) -> (Vec<Cipher>, Option<Cipher>) {
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
                let (peers, newer) = match side {
                    Side::Client => ("servers", "the server is"),
                    _ => ("clients", "all clients are"),
                };
                Trouble::new(format!("{name} is not available for {peers} that do not negotiate: {why}"))
                    .instead(format!("nothing to do if {newer} OpenVPN 2.4 or newer"))
            }
        };
        problems.push(Problem::warning(at, trouble));
        (list, None)
    }

    /// The timers with their defaults.
    pub(super) fn timers(&self) -> Timers {
        Timers {
            tls_timeout: self.tls_timeout.unwrap_or(2),
            hand_window: self.hand_window.unwrap_or(60),
            tran_window: self.tran_window.unwrap_or(3_600),
            reneg_sec: self.reneg_sec.unwrap_or(3_600),
            reneg_bytes: self.reneg_bytes,
            reneg_pkts: self.reneg_pkts,
        }
    }

    /// `replay-window` with its default, which is wider than OpenVPN's: batches reorder more than single packets do.
    pub(super) fn replay_window(&self) -> ReplayWindow {
        self.replay_window.unwrap_or(ReplayWindow { packets: 8_192, seconds: 15 })
    }

    fn apply_device(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        let tap = || Trouble::new("Ethernet (TAP) is not supported").instead("write `dev tun`, on both ends");
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

    fn apply_compression(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
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

    fn apply_process(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("user", [user]) => self.user = Some(account(user)?),
            ("group", [group]) => self.group = Some(account(group)?),
            ("mark", [mark]) => self.mark = Some(values::number32(mark, 0..=u32::MAX, "")?),
            ("bind-dev", [device]) => self.bind_dev = Some(values::interface(device)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Whether a directive is to be applied at all; else `problems` says what the table thinks of it.
pub(super) fn verdict(directive: &Directive, side: Side, problems: &mut Vec<Problem>) -> bool {
    let row = directive.row;
    match row.on(side) {
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
            // A client shows them to whoever asks for name servers.
            side == Side::Client && matches!(row.name, "dhcp-option" | "dns")
        }
        Disposition::Refused(why, instead) => {
            problems.push(directive.problem(Trouble::new(why).instead(instead)));
            false
        }
    }
}

pub(super) fn ignored(directive: &Directive, why: &str) -> Problem {
    let trouble = Trouble::new(format!("{} is ignored: {why}", directive.row.name));
    Problem::warning(&directive.line.at, trouble)
}

/// Loads the one key of the control channel.
pub(super) fn load_wrap(lines: &WrapLines, digest: Digest, at: &At, places: &Lookup<'_>) -> Result<Wrap, Problem> {
    let key = |source: &Source| {
        let named = |trouble: Trouble| Trouble { what: format!("{}: {}", source.name, trouble.what), ..trouble };
        let text = source.load(places).and_then(|text| secrets::static_key(text.expose()));
        text.map_err(|trouble| Problem::error(&source.at, named(trouble)))
    };
    match (&lines.tls_auth, &lines.tls_crypt) {
        (Some(_), Some(second)) => {
            let trouble = Trouble::new("both tls-auth and tls-crypt").instead("keep the one that the other end has");
            Err(Problem::error(if second.at.line > 0 { &second.at } else { at }, trouble))
        }
        (Some(source), None) => Ok(Wrap::TlsAuth { key: key(source)?, direction: lines.direction, digest }),
        (None, Some(source)) => Ok(Wrap::TlsCrypt { key: key(source)? }),
        (None, None) => Ok(Wrap::None),
    }
}

/// What is said of TCP.
pub(super) fn only_udp() -> Trouble {
    Trouble::new("only UDP is supported in this version").instead("use a UDP remote: `proto udp`")
}

fn names(ciphers: &[Cipher]) -> String {
    ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(":")
}

fn account(name: &str) -> Result<String, Trouble> {
    if name.is_empty() || name.contains(|c: char| c.is_control() || c == '/' || c == ':') {
        return Err(Trouble::new(format!("{} is not an account", quoted(name))));
    }
    Ok(name.to_owned())
}

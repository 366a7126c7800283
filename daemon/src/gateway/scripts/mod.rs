//! The scripts of a gateway's configuration, run as OpenVPN runs them: without a shell, with the facts in the
//! environment and with a time limit. Nothing here decides anything but what a script said.
//!
//! | file | purpose |
//! |---|---|
//! | `facts.rs` | what a script is told |
//! | `environment.rs` | how that is named |
//! | `child.rs` | one run: process, output, time limit |
//! | `workdir.rs` | the files that a run needs, in a directory of its own |
//!
//! At most [`MAX_RUNNING`] scripts run at once for clients that want in, and as many for those that are in: those who flood the
//! gateway with logins do not keep the others from renegotiating. The rest waits for its turn, and its waiting counts towards its
//! time limit. A login storm therefore costs time, not processes.

mod child;
mod environment;
pub mod facts;
mod workdir;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use child::{Child, Failure};
use environment::Environment;
pub(super) use environment::is_exported;
pub use facts::*;
use workdir::Workdir;

/// Scripts that run at once for clients that want in, and once more as many for clients that are in.
pub const MAX_RUNNING: usize = 16;
/// What a client-connect script may write, in bytes.
const MAX_DIRECTIVES: u64 = 256 * 1024;
/// What a script may write about the time until its answer, in bytes.
const MAX_PENDING: u64 = 4_096;
/// The longest time that a script may take to answer later, in seconds.
const MAX_SECONDS: u32 = 3_600;
/// The longest reason that is sent to a client with AUTH_FAILED, in bytes: the message must fit a control message.
const MAX_REASON: usize = 900;
/// How often a file is looked at that answers a deferred question.
const LOOK: Duration = Duration::from_millis(100);

/// What the configuration says about scripts. Commands are split into words already.
#[derive(Clone, Debug, Default)]
pub struct ScriptSetup {
    /// `script-security`
    pub security: u8,
    /// `auth-user-pass-verify`
    pub user_pass_verify: Option<UserPassScript>,
    /// `tls-verify`
    pub tls_verify: Option<Vec<String>>,
    /// `client-connect`
    pub client_connect: Option<Vec<String>>,
    /// `client-disconnect`
    pub client_disconnect: Option<Vec<String>>,
    /// `learn-address`
    pub learn_address: Option<Vec<String>>,
    /// How long a login's script may take, also when it defers: `hand-window`.
    pub limit: Duration,
    /// `tmp-dir`: where files for scripts are made.
    pub temporary: PathBuf,
    /// `cd`: where scripts run, and where a relative name of one starts; empty is the current directory.
    pub directory: PathBuf,
    /// What every script is told.
    pub gateway: GatewayFacts,
}

/// `auth-user-pass-verify`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPassScript {
    /// The command.
    pub command: Vec<String>,
    /// Name and password in the environment instead of a file. The password only with `script-security 3`.
    pub via_env: bool,
}

/// The scripts of a running gateway; cheap to clone, so that each run owns one.
#[derive(Clone, Debug)]
pub struct Scripts {
    setup: Arc<ScriptSetup>,
    newcomers: Arc<Semaphore>,
    residents: Arc<Semaphore>,
}

/// What an auth-user-pass-verify script said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let in.
    Accept,
    /// Not let in.
    Refuse {
        /// What the client is told after `AUTH_FAILED,`, if the script said.
        client: Option<String>,
        /// What the log says.
        reason: String,
    },
}

/// A script will answer later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Up to so many seconds from now.
    pub seconds: u32,
    /// What the client is told for its user (`INFO_PRE,…`).
    pub info: Option<String>,
}

/// What a client-connect script wrote: directives of a client-config-dir file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// The text; empty when it wrote none.
    pub text: String,
    /// What to call its source in a sentence about it.
    pub source: String,
}

impl Scripts {
    /// Takes what the configuration says, with sentences about what will not work as it may be meant.
    ///
    /// # Errors
    /// One sentence when there is a script that may not or cannot be run.
    pub fn new(mut setup: ScriptSetup) -> Result<(Scripts, Vec<String>), String> {
        let mut warnings = Vec::new();
        for (directive, command) in setup.commands() {
            if setup.security < 2 {
                return Err(format!("{directive} needs `script-security 2`"));
            }
            let program = command.first().ok_or_else(|| format!("{directive} names no command"))?;
            child::is_runnable(&setup.directory, program)
                .map_err(|error| format!("{directive}: {program} cannot be run: {error}"))?;
        }
        if setup.security < 3 && setup.user_pass_verify.as_ref().is_some_and(|script| script.via_env) {
            let sentence = "auth-user-pass-verify … via-env does not get the password without `script-security 3`";
            warnings.push(sentence.to_owned());
        }
        if setup.limit.is_zero() {
            setup.limit = Duration::from_secs(60);
        }
        let [newcomers, residents] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_RUNNING)));
        Ok((Scripts { setup: Arc::new(setup), newcomers, residents }, warnings))
    }

    /// Whether user names and passwords are asked for.
    pub fn asks_for_passwords(&self) -> bool {
        self.setup.user_pass_verify.is_some()
    }

    /// Whether client-connect is to be run.
    pub fn has_client_connect(&self) -> bool {
        self.setup.client_connect.is_some()
    }

    /// Whether certificates are shown to a script.
    pub fn has_tls_verify(&self) -> bool {
        self.setup.tls_verify.is_some()
    }

    /// Runs auth-user-pass-verify: 0 accepts, 2 answers later through `auth_control_file` (`1` or `0`), everything else
    /// refuses. Without such a script everybody is accepted. `deferred` is called when it will answer later: within the script's time limit,
    /// or in the time that it wrote to `auth_pending_file` (seconds, a method of IV_SSO, a text for the client, a line each).
    pub async fn verify_user_pass(&self, login: &LoginFacts, deferred: impl Fn(Deferral)) -> Verdict {
        let Some(script) = &self.setup.user_pass_verify else { return Verdict::Accept };
        let refuse = |reason: String| Verdict::Refuse { client: None, reason };
        match self.ask_about_password(script, login, deferred).await {
            Ok(verdict) => verdict,
            Err(error) => refuse(format!("the auth-user-pass-verify script: {error}")),
        }
    }

    async fn ask_about_password(
        &self,
        script: &UserPassScript,
        login: &LoginFacts,
        deferred: impl Fn(Deferral),
    ) -> Result<Verdict, Failure> {
        let deadline = self.deadline();
        let workdir = Workdir::make(&self.setup.temporary)?;
        let mut environment = Environment::of(&self.setup.gateway, "user-pass-verify");
        environment.login(login);
        for (name, file) in [
            ("auth_control_file", CONTROL_FILE),
            ("auth_failed_reason_file", REASON_FILE),
            ("auth_pending_file", PENDING_FILE),
        ] {
            environment.set(name, workdir.file(file, b"")?.as_os_str().as_encoded_bytes());
        }
        let mut arguments = Vec::new();
        if !script.via_env {
            arguments.push(path_word(workdir.file("user_pass", &name_and_password(login))?)?);
        } else if self.setup.security >= 3 {
            environment.set("password", &login.password.0);
        }
        let child = Child { kind: "user-pass-verify", command: &script.command, arguments, environment };
        let status = self.run(child, deadline, login.is_in).await?;
        let accepted = match status {
            0 => true,
            2 => {
                let deadline = match pending(&workdir.read(PENDING_FILE, MAX_PENDING)?, login) {
                    Ok(Some(deferral)) => {
                        let until = Instant::now() + Duration::from_secs(deferral.seconds.into());
                        deferred(deferral);
                        until
                    }
                    Ok(None) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let seconds = u32::try_from(left.as_secs()).unwrap_or(MAX_SECONDS).max(1);
                        deferred(Deferral { seconds, info: None });
                        deadline
                    }
                    Err(why) => {
                        let client = Some("Client does not support the authentication that is wanted".to_owned());
                        return Ok(Verdict::Refuse { client, reason: format!("auth-user-pass-verify: {why}") });
                    }
                };
                match wait_for_word(&workdir, CONTROL_FILE, b"01", deadline).await? {
                    Some(word) => word == b'1',
                    None => return Err(Failure::TooLong),
                }
            }
            _ => false,
        };
        if accepted {
            return Ok(Verdict::Accept);
        }
        let how = if status == 2 { "refused later".to_owned() } else { format!("ended with status {status}") };
        let client = reason(&workdir.read(REASON_FILE, MAX_REASON as u64)?);
        Ok(Verdict::Refuse { client, reason: format!("the auth-user-pass-verify script {how}") })
    }

    /// Runs tls-verify for each certificate of a chain, the issuer's first; 0 accepts.
    ///
    /// # Errors
    /// A sentence for the log when one was not accepted.
    pub async fn tls_verify(&self, login: &LoginFacts) -> Result<(), String> {
        let (Some(command), Some(certificate)) = (&self.setup.tls_verify, &login.certificate) else { return Ok(()) };
        let deadline = self.deadline();
        for (depth, row) in certificate.chain.iter().enumerate().rev() {
            let mut environment = Environment::of(&self.setup.gateway, "tls-verify");
            environment.address("untrusted", login.remote);
            environment.certificates(certificate, depth);
            if depth == 0 {
                environment.set("common_name", &login.common_name);
            }
            let arguments = vec![depth.to_string(), word(&row.subject)];
            let child = Child { kind: "tls-verify", command, arguments, environment };
            match self.run(child, deadline, login.is_in).await {
                Ok(0) => {}
                Ok(status) => return Err(format!("the tls-verify script ended with status {status} at depth {depth}")),
                Err(error) => return Err(format!("the tls-verify script at depth {depth}: {error}")),
            }
        }
        Ok(())
    }

    /// Runs client-connect and gives what it wrote for this client. It may answer later: `2` in
    /// `client_connect_deferred_file`, then `1` or `0`.
    ///
    /// # Errors
    /// A sentence for the log when the script does not want the client.
    pub async fn client_connect(&self, session: &SessionFacts) -> Result<Directives, String> {
        let Some(command) = &self.setup.client_connect else { return Ok(Directives::default()) };
        match self.connect(command, session).await {
            Ok(Ok(directives)) => Ok(directives),
            Ok(Err(sentence)) => Err(format!("the client-connect script {sentence}")),
            Err(error) => Err(format!("the client-connect script: {error}")),
        }
    }

    async fn connect(&self, command: &[String], session: &SessionFacts) -> Result<Result<Directives, String>, Failure> {
        let deadline = self.deadline();
        let workdir = Workdir::make(&self.setup.temporary)?;
        let mut environment = Environment::of(&self.setup.gateway, "client-connect");
        environment.session(session);
        let config = workdir.file(CONFIG_FILE, b"")?;
        let deferred = workdir.file(DEFERRED_FILE, b"")?;
        environment.set("client_connect_config_file", config.as_os_str().as_encoded_bytes());
        environment.set("client_connect_deferred_file", deferred.as_os_str().as_encoded_bytes());
        let child = Child { kind: "client-connect", command, arguments: vec![path_word(config)?], environment };
        let status = self.run(child, deadline, false).await?;
        if status != 0 {
            return Ok(Err(format!("ended with status {status}")));
        }
        let word = match first_word(&workdir, DEFERRED_FILE, b"012")? {
            Some(b'2') => match wait_for_word(&workdir, DEFERRED_FILE, b"01", deadline).await? {
                Some(word) => word,
                None => return Err(Failure::TooLong),
            },
            Some(word) => word,
            None => b'1',
        };
        if word == b'0' {
            return Ok(Err("refused later".to_owned()));
        }
        let bytes = workdir.read(CONFIG_FILE, MAX_DIRECTIVES)?;
        if bytes.len() as u64 > MAX_DIRECTIVES {
            return Ok(Err(format!("wrote more than {MAX_DIRECTIVES} bytes of directives")));
        }
        let source = format!("client-connect script for {}", word_of_log(&session.login.common_name));
        Ok(String::from_utf8(bytes)
            .map(|text| Directives { text, source })
            .map_err(|_| "wrote directives that are not UTF-8".to_owned()))
    }

    /// Runs client-disconnect. What it says changes nothing.
    pub async fn client_disconnect(&self, session: &SessionFacts, traffic: Traffic) {
        let Some(command) = &self.setup.client_disconnect else { return };
        let mut environment = Environment::of(&self.setup.gateway, "client-disconnect");
        environment.session(session);
        environment.traffic(&traffic);
        let child = Child { kind: "client-disconnect", command, arguments: Vec::new(), environment };
        match self.run(child, self.deadline(), true).await {
            Ok(0) => {}
            Ok(status) => tracing::warn!("the client-disconnect script ended with status {status}"),
            Err(error) => tracing::warn!("the client-disconnect script: {error}"),
        }
    }

    /// Runs learn-address for an inner address, or a network (with the length of its prefix). `session` is whose it is
    /// now; nobody's when it is deleted.
    ///
    /// # Errors
    /// A sentence for the log when the script does not want the client to have it. A deletion happens all the same.
    pub async fn learn_address(
        &self,
        what: Learned,
        address: (IpAddr, Option<u8>),
        session: Option<&SessionFacts>,
    ) -> Result<(), String> {
        let Some(command) = &self.setup.learn_address else { return Ok(()) };
        let mut environment = Environment::of(&self.setup.gateway, "learn-address");
        let text = match address {
            (address, None) => address.to_string(),
            (address, Some(prefix)) => format!("{address}/{prefix}"),
        };
        let mut arguments = vec![what.word().to_owned(), text];
        if let Some(session) = session {
            environment.session(session);
            arguments.push(word(&session.login.common_name));
        }
        let child = Child { kind: "learn-address", command, arguments, environment };
        match self.run(child, self.deadline(), what == Learned::Delete).await {
            Ok(0) => Ok(()),
            Ok(status) => Err(format!("the learn-address script ended with status {status}")),
            Err(error) => Err(format!("the learn-address script: {error}")),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.setup.limit
    }

    /// `is_in`: for a client whose traffic flows, or did until now.
    async fn run(&self, child: Child<'_>, deadline: Instant, is_in: bool) -> Result<i32, Failure> {
        let places = if is_in { &self.residents } else { &self.newcomers };
        let _turn = timeout_at(deadline, places.acquire()).await.map_err(|_| Failure::TooLong)?;
        child.run(&self.setup.directory, deadline).await
    }
}

impl ScriptSetup {
    /// Every command, by its directive.
    fn commands(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        let passwords = self.user_pass_verify.as_ref().map(|script| ("auth-user-pass-verify", &script.command));
        let others = [
            ("tls-verify", &self.tls_verify),
            ("client-connect", &self.client_connect),
            ("client-disconnect", &self.client_disconnect),
            ("learn-address", &self.learn_address),
        ];
        passwords.into_iter().chain(others.into_iter().filter_map(|(name, command)| Some((name, command.as_ref()?))))
    }
}

const CONTROL_FILE: &str = "auth_control";
const REASON_FILE: &str = "auth_failed_reason";
const PENDING_FILE: &str = "auth_pending";
const CONFIG_FILE: &str = "client_connect";
const DEFERRED_FILE: &str = "client_connect_deferred";

/// What a script wrote to `auth_pending_file`; `None`: nothing.
///
/// # Errors
/// A sentence for the log: it is not what it should be, or the client cannot do what the script wants.
fn pending(bytes: &[u8], login: &LoginFacts) -> Result<Option<Deferral>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let mut next = || lines.next().map(str::trim).filter(|line| !line.is_empty());
    let (Some(seconds), Some(method), Some(info)) = (next(), next(), next()) else {
        return Err("auth_pending_file has to have three lines: seconds, a method, a text for the client".to_owned());
    };
    let seconds = seconds.parse().ok().filter(|seconds| (1..=MAX_SECONDS).contains(seconds));
    let seconds =
        seconds.ok_or_else(|| format!("the first line of auth_pending_file has to be a number to {MAX_SECONDS}"))?;
    let mut methods = login.peer_info.iter().filter(|(name, _)| name == "IV_SSO").flat_map(|(_, all)| all.split(','));
    if !methods.any(|can| can == method) {
        return Err(format!("the client does not know the method {} of auth_pending_file", word(method)));
    }
    Ok(Some(Deferral { seconds, info: Some(info.chars().take(MAX_REASON).map(printable_or_underscore).collect()) }))
}

/// Waits until a file begins with one of these bytes; `None` when there is no more time.
async fn wait_for_word(workdir: &Workdir, file: &str, words: &[u8], deadline: Instant) -> std::io::Result<Option<u8>> {
    loop {
        if let Some(word) = first_word(workdir, file, words)? {
            return Ok(Some(word));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn first_word(workdir: &Workdir, file: &str, words: &[u8]) -> std::io::Result<Option<u8>> {
    Ok(workdir.read(file, 1)?.first().copied().filter(|word| words.contains(word)))
}

/// The file of `via-file`: name and password, a line each. A peer's line ends do not make more of them.
fn name_and_password(login: &LoginFacts) -> Zeroizing<Vec<u8>> {
    let mut content = Zeroizing::new(Vec::with_capacity(login.username.len() + login.password.0.len() + 2));
    for part in [login.username.as_bytes(), &login.password.0] {
        content.extend(part.iter().map(|&byte| if byte < 0x20 || byte == 0x7f { b'_' } else { byte }));
        content.push(b'\n');
    }
    content
}

/// What a script wrote for the client, as it may stand in a control message: its first line, printable.
fn reason(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.get(..MAX_REASON).unwrap_or(line);
    let text: String = String::from_utf8_lossy(line).trim().chars().map(printable_or_underscore).collect();
    (!text.is_empty()).then_some(text)
}

/// A text of a peer's as one argument.
fn word(text: &str) -> String {
    text.chars().take(1_024).map(printable_or_underscore).collect()
}

fn word_of_log(text: &str) -> String {
    if text.is_empty() { "a client without a name".to_owned() } else { word(text) }
}

fn printable_or_underscore(c: char) -> char {
    if c.is_control() { '_' } else { c }
}

fn path_word(path: PathBuf) -> std::io::Result<String> {
    path.into_os_string().into_string().map_err(|_| std::io::Error::other("tmp-dir has a name that is not UTF-8"))
}

#[cfg(test)]
mod tests;

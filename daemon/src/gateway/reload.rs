//! A reload: configuration, certificates and CRL are read anew while the clients stay. What cannot change while it runs is
//! said, and stays as it was. Sessions of certificates that the new CRL revokes are ended at once.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use controlplane::Ending;
use dataplane::workers::manager::WorkerOrder;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::sync::oneshot;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::leases;
use super::run::Gateway;
use super::sessions::plain_serial;
use super::socket::Response;
use crate::clock;
use crate::config;
use crate::config::server::ServerProfile;
use crate::messages::ToControl;
use crate::observe::notify;

/// How often files that others change (the CRL) are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(60);

const REVOKED: &str = "its certificate was revoked";

/// A configuration that the control process is judging.
#[derive(Debug)]
pub(super) struct Reloading {
    profile: ServerProfile,
    not_changed: Vec<String>,
    changed: Vec<String>,
    reply: Vec<Asked>,
}

/// Who asked, and what for.
#[derive(Debug)]
pub(super) struct Asked {
    /// Where the answer goes.
    pub(super) reply: oneshot::Sender<Response>,
    /// A certificate that was revoked: the sessions of this serial number are ended too.
    pub(super) serial: Option<String>,
    /// So many of them were ended already.
    pub(super) ended: usize,
}

/// Files as they were when they were read last.
#[derive(Debug, Default)]
pub(super) struct Watched {
    crl: Option<(PathBuf, Option<SystemTime>)>,
}

impl Watched {
    /// From now on.
    pub(super) fn of(profile: &ServerProfile) -> Watched {
        Watched { crl: profile.files.crl.clone().map(|path| (path.clone(), modified(&path))) }
    }
}

fn modified(path: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

impl Gateway {
    /// Reads everything again.
    pub(super) fn reload(&mut self, asked: Option<Asked>) {
        notify::reloading();
        let file = self.profile.files.config.clone();
        let profile = match config::load_server(&file) {
            Ok((profile, warnings)) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                profile
            }
            Err(problems) => {
                // Warnings are no reason.
                let errors = problems.iter().filter(|problem| problem.is_error());
                let list: Vec<String> = errors.map(ToString::to_string).collect();
                return self.reload_failed(asked.into_iter().collect(), &list.join("; "));
            }
        };
        self.try_profile(profile, asked);
    }

    /// A file that others change has changed: what it says holds.
    pub(super) fn look_at_files(&mut self) {
        let Some((path, seen)) = &self.watched.crl else { return };
        let now = modified(path);
        if now.is_none() || now == *seen || self.reloading.is_some() {
            return;
        }
        match std::fs::read_to_string(path) {
            Ok(text) => {
                tracing::info!("{} has changed: it is read again", path.display());
                let mut profile = ServerProfile::clone(&self.profile);
                profile.tls.crl_pem = Some(text);
                self.try_profile(profile, None);
            }
            Err(error) => tracing::warn!("{} has changed and cannot be read: {error}", path.display()),
        }
    }

    /// What can change is judged by the control process; what it says comes as [`Gateway::on_reloaded`].
    fn try_profile(&mut self, profile: ServerProfile, asked: Option<Asked>) {
        let (profile, changed, not_changed) = settle(&self.profile, profile);
        let waiting = self.reloading.take().map(|before| before.reply).unwrap_or_default();
        let setup = super::parts::server_setup(&profile, &self.cookie_secret, self.workers.count(), 1);
        self.control.send(&ToControl::ReloadGateway(Box::new(setup)));
        let reply = waiting.into_iter().chain(asked).collect();
        self.reloading = Some(Reloading { profile, not_changed, changed, reply });
    }

    /// The control process has judged.
    pub(super) fn on_reloaded(&mut self, outcome: Result<(), Ending>) {
        let Some(Reloading { profile, not_changed, changed, reply }) = self.reloading.take() else { return };
        if let Err(ending) = outcome {
            return self.reload_failed(reply, &super::parts::refused(&ending).sentence);
        }
        match super::parts::passwords(&profile, &self.facts.gateway, &mut self.rng) {
            Ok(mut passwords) => {
                // A key that was made at the start would make every token void that clients hold.
                let secret = |of: &ServerProfile| of.auth_gen_token.as_ref().map(|tokens| tokens.secret.clone());
                if let (Some(new), Some(old)) = (&mut passwords.tokens, &self.passwords.tokens)
                    && secret(&profile) == secret(&self.profile)
                {
                    new.keep_key_of(old);
                }
                self.passwords = Rc::new(passwords);
            }
            Err(fatal) => return self.reload_failed(reply, &fatal.sentence),
        }
        let relay = profile.client_to_client;
        if relay != self.profile.client_to_client {
            self.relay(relay);
        }
        self.profile = Rc::new(profile);
        self.watched = Watched::of(&self.profile);
        let configuration = self.configuration();
        self.control.set_configuration(configuration);
        self.timers.status = self.profile.status.as_ref().map(|_| clock::now().at);
        let said = if changed.is_empty() { "nothing is different".to_owned() } else { changed.join("; ") };
        tracing::info!("reloaded: {said}");
        not_changed.iter().for_each(|sentence| tracing::warn!("{sentence}"));
        let ended = self.end_revoked();
        for asked in reply {
            let more = asked.ended + asked.serial.map_or(0, |serial| self.end_serial(&serial));
            let result = json!({ "changed": changed, "not_changed": not_changed, "ended": ended + more });
            let _ = asked.reply.send(Response::Done(result));
        }
        notify::ready(&self.line());
    }

    fn reload_failed(&mut self, asked: Vec<Asked>, why: &str) {
        tracing::error!("the old configuration stays: {why}");
        for asked in asked {
            let ended = asked.ended;
            let also =
                if ended > 0 { format!(" ({ended} sessions of the certificate were ended)") } else { String::new() };
            let _ = asked.reply.send(Response::Failed(format!("the old configuration stays: {why}{also}")));
        }
        notify::ready(&self.line());
    }

    /// A reload that nobody will judge any more.
    pub(super) fn forget_reload(&mut self, why: &str) {
        if let Some(reloading) = self.reloading.take() {
            self.reload_failed(reloading.reply, why);
        }
    }

    /// Tells the workers whether clients may reach each other.
    pub(super) fn relay(&self, on: bool) {
        self.workers.order_all(|| WorkerOrder::SetRelay(on));
    }

    /// Ends the sessions whose certificates the CRL lists.
    fn end_revoked(&mut self) -> usize {
        let Some(pem) = &self.profile.tls.crl_pem else { return 0 };
        let listed = revoked(pem);
        let found = self.sessions.with_serial(|serial| listed.contains(serial));
        found.iter().for_each(|generation| self.dismiss(*generation, "AUTH_FAILED,certificate revoked", REVOKED));
        found.len()
    }

    /// Ends the sessions of a certificate.
    pub(super) fn end_serial(&mut self, serial: &str) -> usize {
        let wanted = plain_serial(serial);
        let found = self.sessions.with_serial(|serial| serial == wanted);
        found.iter().for_each(|generation| self.dismiss(*generation, "AUTH_FAILED,certificate revoked", REVOKED));
        found.len()
    }

    /// How often leases are written; `None` is never.
    pub(super) fn lease_pause(&self) -> Option<Duration> {
        let (_, seconds) = self.profile.pool_persist.as_ref()?;
        (*seconds > 0).then(|| Duration::from_secs(u64::from(*seconds)))
    }

    /// Writes the leases, if owners changed since they were written.
    pub(super) fn store_leases(&mut self) {
        let Some((path, 1..)) = &self.profile.pool_persist else { return };
        if !self.pool.take_changed() {
            return;
        }
        let path = self.profile.directory.join(path);
        if let Err(error) = leases::store(&path, &self.pool) {
            tracing::warn!("{}: leases could not be written: {error}", path.display());
        }
    }
}

/// The serial numbers of every CRL in the text, plain. A CRL that does not parse lists nobody: the control process has
/// refused it already.
fn revoked(pem: &str) -> BTreeSet<String> {
    let mut listed = BTreeSet::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok) {
        if let Ok((_, list)) = CertificateRevocationList::from_der(&der) {
            listed.extend(list.iter_revoked_certificates().map(|entry| {
                let hex: String = entry.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
                plain_serial(&hex)
            }));
        }
    }
    listed
}

#[allow(clippy::clone_on_copy)] // one rule for fields of every type
/// The new configuration, with what cannot change taken from the old one; what changes, and what would need a restart.
fn settle(old: &ServerProfile, mut new: ServerProfile) -> (ServerProfile, Vec<String>, Vec<String>) {
    let mut not_changed = Vec::new();
    macro_rules! keep {
        ($($field:ident: $name:literal),* $(,)?) => {$(
            if new.$field != old.$field {
                not_changed.push(format!("a new {} counts from the next start", $name));
                new.$field = old.$field.clone();
            }
        )*};
    }
    keep!(
        listen: "`port`, `proto` or `local`",
        device: "`dev`",
        topology: "`topology`",
        ipv4: "`server` or `ifconfig`",
        ipv6: "`server-ipv6` or `ifconfig-ipv6`",
        routes: "`route`",
        tun_mtu: "`tun-mtu`",
        pool_persist: "`ifconfig-pool-persist`",
        user: "`user`",
        group: "`group`",
        wrap: "`tls-auth` or `tls-crypt` key",
        mark: "`mark`",
        bind_dev: "`bind-dev`",
        sndbuf: "`sndbuf`",
        rcvbuf: "`rcvbuf`",
    );
    let mut changed = Vec::new();
    macro_rules! tell {
        ($($field:ident: $name:literal),* $(,)?) => {$(
            if new.$field != old.$field {
                changed.push(format!("{} changed", $name));
            }
        )*};
    }
    tell!(
        push: "what is pushed to new clients",
        keepalive: "keepalive of new clients",
        data_ciphers: "the data ciphers of new clients",
        client_config_dir: "client-config-dir",
        client_to_client: "client-to-client",
        duplicate_cn: "duplicate-cn",
        max_clients: "max-clients",
        client_certificate: "verify-client-cert",
        user_pass_verify: "auth-user-pass-verify",
        auth_gen_token: "auth-gen-token",
        client_connect: "client-connect",
        client_disconnect: "client-disconnect",
        learn_address: "learn-address",
        tls_verify: "tls-verify",
        connect_freq_initial: "connect-freq-initial",
        timers: "timers of new keys",
        status: "status",
    );
    for (same, name) in [
        (new.tls.cert_pem == old.tls.cert_pem, "the gateway's certificate"),
        (new.tls.ca_pem == old.tls.ca_pem, "the CA"),
        (new.tls.crl_pem == old.tls.crl_pem, "the CRL"),
    ] {
        if !same {
            changed.push(format!("{name} changed"));
        }
    }
    (new, changed, not_changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::profile;

    #[test]
    fn what_cannot_change_is_said_and_stays() {
        let old = profile();
        let mut new = profile();
        new.listen.port = 1_195;
        new.push = vec!["route 10.0.0.0".into()];
        new.tls.crl_pem = Some("x".into());
        let (settled, changed, not_changed) = settle(&old, new);
        assert_eq!(settled.listen.port, old.listen.port);
        assert_eq!(settled.push, ["route 10.0.0.0"]);
        assert_eq!(not_changed, ["a new `port`, `proto` or `local` counts from the next start"]);
        assert_eq!(changed, ["what is pushed to new clients changed", "the CRL changed"]);
        let (_, changed, not_changed) = settle(&old, profile());
        assert!(changed.is_empty() && not_changed.is_empty());
    }

    #[test]
    fn a_text_that_is_no_crl_lists_nobody() {
        assert!(revoked("").is_empty());
        assert!(revoked("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n").is_empty());
    }
}

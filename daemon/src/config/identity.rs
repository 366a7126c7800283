//! The TLS identity of a profile: certificates, keys, and what the server's certificate must be.

use std::path::{Path, PathBuf};

use controlplane::{PeerUsage, Secret, TlsSetup, TlsVersion, VerifyName};

use super::directives::Side;
use super::material::{self, Lookup, Source};
use super::problem::{At, Problem};
use super::values::{Trouble, quoted};
use super::written::Directive;

/// What the lines about TLS say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    ca: Option<Source>,
    cert: Option<Source>,
    key: Option<Source>,
    extra_certs: Option<Source>,
    crl: Option<Source>,
    fingerprint_lists: Vec<Source>,
    fingerprints: Vec<[u8; 32]>,
    peer_usage: Option<PeerUsage>,
    verify_name: Option<VerifyName>,
    version_min: Option<TlsVersion>,
    version_max: Option<TlsVersion>,
}

impl Identity {
    /// Takes a directive about TLS.
    pub fn apply(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        Ok(self.apply_material(directive)? || self.apply_check(directive.row.name, &directive.line.args)?)
    }

    /// Whether the profile has a certificate of its own.
    pub fn has_certificate(&self) -> bool {
        self.cert.is_some()
    }

    /// Whether something says which certificates are good.
    pub(super) fn trusts_somebody(&self) -> bool {
        self.ca.is_some() || !self.fingerprints.is_empty() || !self.fingerprint_lists.is_empty()
    }

    /// The files that are named, relative to `directory`: ca, cert, key, extra-certs, crl-verify.
    pub(super) fn files(&self, directory: &Path) -> [Option<PathBuf>; 5] {
        let of = |source: &Option<Source>| source.as_ref().and_then(|source| source.file(directory));
        [of(&self.ca), of(&self.cert), of(&self.key), of(&self.extra_certs), of(&self.crl)]
    }

    /// Loads everything and looks at it as a whole.
    pub(super) fn finish(
        &self,
        side: Side,
        profile: &At,
        places: &Lookup<'_>,
        problems: &mut Vec<Problem>,
    ) -> TlsSetup {
        self.check(side, profile, problems);
        let mut loader = Loader { places, problems };
        let mut cert_pem = loader.text(self.cert.as_ref(), material::certificates);
        if let Some(more) = self.extra_certs.as_ref().map(|source| loader.text(Some(source), material::certificates)) {
            cert_pem = format!("{}\n{more}", cert_pem.trim_end());
        }
        let mut fingerprints = self.fingerprints.clone();
        for source in &self.fingerprint_lists {
            fingerprints.extend(loader.load(source, |text| material::fingerprints(text.expose())).unwrap_or_default());
        }
        TlsSetup {
            ca_pem: loader.text(self.ca.as_ref(), material::certificates),
            cert_pem,
            key_pem: self
                .key
                .as_ref()
                .and_then(|source| loader.load(source, |text| material::private_key(&text)))
                .unwrap_or(Secret(Vec::new())),
            crl_pem: self.crl.as_ref().map(|source| loader.text(Some(source), material::revocation_lists)),
            peer_usage: self.peer_usage,
            verify_name: self.verify_name.clone(),
            fingerprints,
            version_min: self.version_min.unwrap_or(TlsVersion::V1_2),
            version_max: self.version_max.unwrap_or(TlsVersion::V1_3),
        }
    }

    fn apply_material(&mut self, directive: &Directive) -> Result<bool, Trouble> {
        let args = directive.line.args.as_slice();
        let Some(source) = Source::of(directive) else {
            return Ok(false);
        };
        match (directive.row.name, args) {
            ("ca", _) => source.put(&mut self.ca),
            ("cert", _) => source.put(&mut self.cert),
            ("key", _) => source.put(&mut self.key),
            ("extra-certs", _) => source.put(&mut self.extra_certs),
            ("crl-verify", [_, dir]) if dir == "dir" => {
                return Err(
                    Trouble::new("directories of revoked serial numbers are not supported").instead("use a CRL in PEM")
                );
            }
            ("crl-verify", [_, other]) => {
                return Err(Trouble::new(format!("unknown word {}", quoted(other))).instead("write `crl-verify FILE`"));
            }
            ("crl-verify", _) => source.put(&mut self.crl),
            ("peer-fingerprint", [one]) => self.fingerprints.push(material::fingerprint(one)?),
            ("peer-fingerprint", _) => self.fingerprint_lists.push(source),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_check(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("remote-cert-tls" | "ns-cert-type", [whom]) => self.peer_usage = Some(peer_usage(name, whom)?),
            ("verify-x509-name", [name, kind @ ..]) => self.verify_name = Some(verify_name(name, kind.first())?),
            ("tls-version-min", [version, rest @ ..]) => self.version_min = Some(version_min(version, rest.first())?),
            ("tls-version-max", [version]) => self.version_max = Some(version_max(version)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&self, side: Side, profile: &At, problems: &mut Vec<Problem>) {
        let mut error =
            |at: &At, what: &str, instead: &str| problems.push(Problem::error(at, Trouble::new(what).instead(instead)));
        let fingerprints = !self.fingerprints.is_empty() || !self.fingerprint_lists.is_empty();
        if side == Side::Client && self.ca.is_none() && !fingerprints {
            error(
                profile,
                "nothing says which server to trust",
                "add <ca> with the certificate authority, or peer-fingerprint",
            );
        }
        match (&self.cert, &self.key) {
            (Some(cert), None) => error(&cert.at, "cert without key", "add <key> with its private key"),
            (None, Some(key)) => error(&key.at, "key without cert", "add <cert> with its certificate"),
            _ => {}
        }
        if let (Some(extra), None) = (&self.extra_certs, &self.cert) {
            error(&extra.at, "extra-certs without cert", "add <cert>, or remove it");
        }
        if self.version_min > self.version_max && self.version_max.is_some() {
            error(profile, "tls-version-min is above tls-version-max", "remove one of them");
        }
        if side == Side::Client && self.peer_usage.is_none() && self.verify_name.is_none() && !fingerprints {
            let trouble = Trouble::new("any certificate of the authority passes as the server's, another client's too");
            problems.push(Problem::warning(profile, trouble.instead("add `remote-cert-tls server`")));
        }
    }
}

/// Loads sources and reports what fails at the source's place.
struct Loader<'a, 'b> {
    places: &'a Lookup<'b>,
    problems: &'a mut Vec<Problem>,
}

impl Loader<'_, '_> {
    fn load<T>(
        &mut self,
        source: &Source,
        check: impl Fn(super::secrets::SecretText) -> Result<T, Trouble>,
    ) -> Option<T> {
        let named = |trouble: Trouble| Trouble { what: format!("{}: {}", source.name, trouble.what), ..trouble };
        match source.load(self.places).and_then(check) {
            Ok(value) => Some(value),
            Err(trouble) => {
                self.problems.push(Problem::error(&source.at, named(trouble)));
                None
            }
        }
    }

    fn text(
        &mut self,
        source: Option<&Source>,
        check: fn(super::secrets::SecretText) -> Result<String, Trouble>,
    ) -> String {
        source.and_then(|source| self.load(source, check)).unwrap_or_default()
    }
}

fn peer_usage(name: &str, whom: &str) -> Result<PeerUsage, Trouble> {
    match whom {
        "server" => Ok(PeerUsage::Server),
        "client" => Ok(PeerUsage::Client),
        _ => Err(Trouble::new(format!("{name} cannot be {}", quoted(whom)))
            .instead("write server on a client, and client on a server")),
    }
}

fn verify_name(name: &str, kind: Option<&String>) -> Result<VerifyName, Trouble> {
    if name.is_empty() {
        return Err(Trouble::new("an empty name").instead("write the common name of the other end"));
    }
    let name = name.to_owned();
    match kind.map(String::as_str) {
        None | Some("subject") if name.contains('=') => Ok(VerifyName::Subject(name)),
        None | Some("subject") => {
            let trouble = Trouble::new(format!("{} is no whole subject (C=…, O=…, CN=…)", quoted(&name)));
            Err(trouble.instead(format!("write `verify-x509-name {name} name` if it is the common name")))
        }
        Some("name") => Ok(VerifyName::Name(name)),
        Some("name-prefix") => Ok(VerifyName::NamePrefix(name)),
        Some(other) => {
            Err(Trouble::new(format!("unknown type {}", quoted(other))).instead("write subject, name or name-prefix"))
        }
    }
}

/// TLS 1.0 and 1.1 are not there: a minimum below 1.2 is 1.2.
fn version_min(version: &str, rest: Option<&String>) -> Result<TlsVersion, Trouble> {
    let or_highest = rest.is_some_and(|word| word == "or-highest");
    match version {
        _ if rest.is_some() && !or_highest => Err(Trouble::new("the second word can only be or-highest")),
        "1.0" | "1.1" | "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        _ if or_highest => Ok(TlsVersion::V1_3),
        _ => Err(Trouble::new(format!("unknown TLS version {}", quoted(version))).instead("write 1.2 or 1.3")),
    }
}

fn version_max(version: &str) -> Result<TlsVersion, Trouble> {
    match version {
        "1.2" => Ok(TlsVersion::V1_2),
        "1.3" => Ok(TlsVersion::V1_3),
        "1.0" | "1.1" => {
            Err(Trouble::new(format!("TLS {version} is broken and not supported")).instead("write 1.2, or remove it"))
        }
        _ => Err(Trouble::new(format!("unknown TLS version {}", quoted(version))).instead("write 1.2 or 1.3")),
    }
}

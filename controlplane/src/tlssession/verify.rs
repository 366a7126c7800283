//! Whether a peer's certificate is acceptable: chain, time, revocation, usage, name, fingerprint. OpenVPN does not
//! match host names. Every refusal is a sentence that tells a person what to renew or to correct.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, TrustAnchor, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};
use x509_parser::public_key::PublicKey;

use super::certificate;
use super::provider::certificates;
use crate::crypto::{ct_eq, sha256};
use crate::ids::Role;
use crate::setup::{ClientCertificateInfo, PeerUsage, TlsSetup, VerifyName};

/// The most characters of a certificate's subject that a sentence shows.
const SHOWN: usize = 512;

/// The longest common name of a client, in bytes; stock servers take no longer ones.
const MAX_COMMON_NAME: usize = 64;

/// The rules by which a peer's certificate is judged. `peer` is the peer's role.
#[derive(Debug)]
pub struct PeerVerifier {
    peer: Role,
    algorithms: WebPkiSupportedAlgorithms,
    anchors: Vec<TrustAnchor<'static>>,
    /// All of `<ca>`, for the checks that a trust anchor does not carry.
    authorities: Vec<CertificateDer<'static>>,
    /// What is not self-issued in `<ca>`.
    intermediates: Vec<CertificateDer<'static>>,
    crls: Vec<CertRevocationList<'static>>,
    usage: Option<PeerUsage>,
    name: Option<VerifyName>,
    fingerprints: Vec<[u8; 32]>,
    /// As a server: a client must show a certificate.
    mandatory: bool,
}

impl PeerVerifier {
    /// Takes `<ca>`, the CRL and the rules.
    ///
    /// # Errors
    /// A sentence: nothing to verify the peer with, or a text that cannot be used.
    pub fn new(peer: Role, setup: &TlsSetup, provider: &CryptoProvider) -> Result<PeerVerifier, String> {
        let authorities = certificates(&setup.ca_pem, "ca")?;
        if authorities.is_empty() && setup.fingerprints.is_empty() {
            return Err("there is no CA to verify the peer with: add `ca` (or `peer-fingerprint`)".into());
        }
        let (roots, mut intermediates): (Vec<_>, Vec<_>) = authorities.iter().cloned().partition(is_self_issued);
        // Only intermediates in <ca>: the user trusts just these.
        let roots = if roots.is_empty() { std::mem::take(&mut intermediates) } else { roots };
        let anchors = roots.iter().map(anchor).collect::<Result<Vec<_>, _>>()?;
        Ok(PeerVerifier {
            peer,
            algorithms: provider.signature_verification_algorithms,
            anchors,
            authorities,
            intermediates,
            crls: crls(setup.crl_pem.as_deref())?,
            usage: setup.peer_usage,
            name: setup.verify_name.clone(),
            fingerprints: setup.fingerprints.clone(),
            mandatory: true,
        })
    }

    /// `verify-client-cert optional`: a client may show no certificate; one that it shows is judged all the same.
    #[must_use]
    pub fn optional(mut self) -> PeerVerifier {
        self.mandatory = false;
        self
    }

    /// What a client's verified chain says; `None` when it showed none.
    #[must_use]
    pub fn describe(&self, chain: &[CertificateDer<'static>]) -> Option<ClientCertificateInfo> {
        certificate::describe(chain, &self.authorities)
    }

    /// Judges a certificate at a time.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn judge(&self, leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        let who = match self.peer {
            Role::Server => "the server's certificate",
            Role::Client => "the client's certificate",
        };
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_| Refusal(format!("{who} cannot be read: it must be an X.509 certificate in DER")))?;
        let subject = subject(parsed.subject());
        // Nothing is verified yet: the name may be as long as a TLS message.
        let shown = cut(&subject);
        let refuse = |why: String| Refusal(format!("{who} ({shown}) was refused: {why}"));
        if let Some(weak) = weakness(&parsed) {
            return Err(refuse(format!("{weak}; have it issued anew")));
        }
        if !self.fingerprints.is_empty() {
            self.check_fingerprint(leaf).map_err(refuse)?;
        }
        if !self.anchors.is_empty() {
            self.check_chain(leaf, sent, now).map_err(refuse)?;
        }
        self.check_usage(&parsed).map_err(refuse)?;
        self.check_common_name(&parsed).map_err(refuse)?;
        self.check_name(&parsed, &subject).map_err(refuse)
    }

    fn check_fingerprint(&self, leaf: &[u8]) -> Result<(), String> {
        let actual = sha256(leaf);
        // Every one is compared, so that time does not tell which one matched.
        let found = self.fingerprints.iter().fold(false, |found, f| ct_eq(f, &actual) | found);
        if found {
            return Ok(());
        }
        let hex: Vec<String> = actual.iter().map(|b| format!("{b:02X}")).collect();
        Err(format!("its SHA-256 fingerprint {} is not listed in peer-fingerprint", hex.join(":")))
    }

    fn check_chain(&self, leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>], now: UnixTime) -> Result<(), String> {
        let cert = EndEntityCert::try_from(leaf).map_err(|e| self.chain_sentence(&e, sent))?;
        let usage = match self.peer {
            Role::Server => KeyUsage::server_auth(),
            Role::Client => KeyUsage::client_auth(),
        };
        let intermediates: Vec<CertificateDer<'_>> =
            sent.iter().map(|c| CertificateDer::from(c.as_ref())).chain(self.intermediates.iter().cloned()).collect();
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        let path = cert
            .verify_for_usage(self.algorithms.all, &self.anchors, &intermediates, now, usage, revocation(&crls), None)
            .map_err(|e| self.chain_sentence(&e, sent))?;
        self.check_anchor_time(path.anchor(), now)
    }

    /// webpki takes a trust anchor as given; OpenVPN refuses a root that has expired.
    fn check_anchor_time(&self, used: &TrustAnchor<'_>, now: UnixTime) -> Result<(), String> {
        for der in &self.authorities {
            let Ok((_, ca)) = X509Certificate::from_der(der) else {
                continue;
            };
            let same = anchor(der)
                .is_ok_and(|a| a.subject == used.subject && a.subject_public_key_info == used.subject_public_key_info);
            if same {
                return match validity_problem(&ca, now.as_secs()) {
                    Some(problem) => {
                        Err(format!("its CA ({}) {problem}: put the renewed CA into `ca`", subject(ca.subject())))
                    }
                    None => Ok(()),
                };
            }
        }
        Ok(())
    }

    fn check_usage(&self, cert: &X509Certificate<'_>) -> Result<(), String> {
        let Some(wanted) = self.usage else {
            return Ok(());
        };
        let eku = cert.extended_key_usage().ok().flatten().map(|e| e.value);
        let (right, name) = match wanted {
            PeerUsage::Server => (eku.is_some_and(|e| e.server_auth), "serverAuth"),
            PeerUsage::Client => (eku.is_some_and(|e| e.client_auth), "clientAuth"),
        };
        if !right {
            return Err(format!(
                "it is not made for that side (remote-cert-tls wants the extended key usage {name}): have it issued \
                 anew with that usage, or make sure that you talk to the right peer"
            ));
        }
        let Some(ku) = cert.key_usage().ok().flatten().map(|k| k.value) else {
            return Err(
                "it has no key usage extension, which remote-cert-tls wants: have it issued anew with the key \
                        usage digitalSignature"
                    .into(),
            );
        };
        if !(ku.digital_signature() || ku.key_agreement() || ku.key_encipherment()) {
            return Err("its key usage permits neither signatures nor key agreement nor key encipherment: have it \
                        issued anew with digitalSignature"
                .into());
        }
        Ok(())
    }

    /// A gateway knows its clients by their common names, which must be there and fit.
    fn check_common_name(&self, cert: &X509Certificate<'_>) -> Result<(), String> {
        if self.peer == Role::Server {
            return Ok(());
        }
        match common_name(cert.subject()).map(|name| name.len()) {
            Some(1..=MAX_COMMON_NAME) => Ok(()),
            Some(0) | None => Err("it has no common name (CN), by which the server would know its owner".into()),
            Some(_) => Err(format!("its common name is longer than {MAX_COMMON_NAME} bytes")),
        }
    }

    fn check_name(&self, cert: &X509Certificate<'_>, subject: &str) -> Result<(), String> {
        let cn = common_name(cert.subject());
        let (right, wanted) = match &self.name {
            None => return Ok(()),
            Some(VerifyName::Subject(s)) => (subject == s, s),
            Some(VerifyName::Name(n)) => (cn.as_deref() == Some(n), n),
            Some(VerifyName::NamePrefix(p)) => (cn.is_some_and(|c| c.starts_with(p.as_str())), p),
        };
        if right {
            return Ok(());
        }
        Err(format!("its name is not the one that verify-x509-name wants ({wanted})"))
    }

    fn chain_sentence(&self, error: &webpki::Error, sent: &[CertificateDer<'_>]) -> String {
        use webpki::Error as E;
        let weak = sent.iter().chain(&self.authorities).find_map(|der| {
            let (_, cert) = X509Certificate::from_der(der).ok()?;
            Some((cut(&subject(cert.subject())), weak_key(&cert)?))
        });
        match error {
            E::CertExpired { not_after, .. } => {
                format!("it (or a CA above it) expired on {}: it must be renewed", date(not_after.as_secs()))
            }
            E::CertNotValidYet { not_before, .. } => format!(
                "it is not valid before {}: check this host's clock, or have it issued anew",
                date(not_before.as_secs())
            ),
            E::CertRevoked => "it was revoked (crl-verify): its owner needs a new one".into(),
            E::RequiredEkuNotFoundContext(_) => {
                "its extended key usage is for another purpose: it must be issued for that side".into()
            }
            E::UnsupportedCertVersion => {
                "it is an X.509 version 1 certificate: have it issued anew as version 3".into()
            }
            E::UnsupportedSignatureAlgorithmContext(_)
            | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | E::InvalidSignatureForPublicKey
            | E::UnknownIssuer
                if weak.is_some() =>
            {
                let (name, weak) = weak.unwrap_or_default();
                format!("the CA certificate {name} cannot be used: {weak}; the CA and what it issued must be renewed")
            }
            E::UnsupportedSignatureAlgorithmContext(_) | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                "it is signed by an algorithm that is no longer accepted (such as SHA-1): have it issued anew with \
                 SHA-256"
                    .into()
            }
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => {
                "no CA in `ca` has issued it: use the CA that belongs to this peer, and have the peer send its \
                 intermediate certificates"
                    .into()
            }
            E::CaUsedAsEndEntity => "it is a CA certificate: a peer needs one of its own".into(),
            other => format!("its chain is not valid ({other}): have it issued anew"),
        }
    }
}

/// Why a certificate was refused: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for rustls::Error {
    fn from(refusal: Refusal) -> rustls::Error {
        CertificateError::Other(OtherError(Arc::new(refusal))).into()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What makes our own certificate useless, as a sentence, before any peer sees it.
pub(super) fn own_certificate_problem(leaf: &CertificateDer<'_>, unix: u64) -> Option<String> {
    let Ok((_, cert)) = X509Certificate::from_der(leaf) else {
        return Some("our own certificate cannot be read: `cert` must be X.509".into());
    };
    let name = subject(cert.subject());
    if let Some(problem) = validity_problem(&cert, unix) {
        return Some(format!("our own certificate ({name}) {problem}: have it renewed and replace `cert`"));
    }
    weak_key(&cert).map(|weak| format!("our own certificate ({name}) cannot be used: {weak}; have a new one issued"))
}

/// The subject of a certificate as OpenVPN prints it, for people: cut at [`SHOWN`] characters; empty when it cannot be read.
pub fn subject_of(der: &[u8]) -> String {
    X509Certificate::from_der(der).map(|(_, cert)| cut(&subject(cert.subject()))).unwrap_or_default()
}

/// A name for a sentence.
pub(super) fn cut(subject: &str) -> String {
    subject.chars().take(SHOWN).collect()
}

fn anchor(der: &CertificateDer<'static>) -> Result<TrustAnchor<'static>, String> {
    webpki::anchor_from_trusted_cert(der).map(|a| a.to_owned()).map_err(|e| match subject_of(der) {
        unread if unread.is_empty() => {
            format!("a certificate in `ca` cannot be read ({e}): was it cut off, or its text changed?")
        }
        subject => format!("a certificate in `ca` cannot be used as a CA ({e}): {subject}"),
    })
}

fn is_self_issued(der: &CertificateDer<'static>) -> bool {
    match X509Certificate::from_der(der) {
        Ok((_, cert)) => cert.subject().as_raw() == cert.issuer().as_raw(),
        Err(_) => true, // so that `anchor` says what is wrong with it
    }
}

fn crls(pem: Option<&str>) -> Result<Vec<CertRevocationList<'static>>, String> {
    let Some(pem) = pem else {
        return Ok(Vec::new());
    };
    let ders = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("`crl-verify` cannot be read as PEM: {e}"))?;
    if ders.is_empty() {
        return Err("`crl-verify` holds no CRL in PEM".into());
    }
    ders.iter()
        .map(|der| OwnedCertRevocationList::from_der(der).map(CertRevocationList::from))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("the CRL of `crl-verify` cannot be used ({e}): it must be a version 2 CRL"))
}

/// Revocation is judged along the whole chain; a CA without a CRL and a CRL that has expired are tolerated.
fn revocation<'a>(crls: &'a [&'a CertRevocationList<'a>]) -> Option<RevocationOptions<'a>> {
    let builder = RevocationOptionsBuilder::new(crls).ok()?;
    Some(
        builder.with_status_policy(UnknownStatusPolicy::Allow).with_expiration_policy(ExpirationPolicy::Ignore).build(),
    )
}

fn validity_problem(cert: &X509Certificate<'_>, unix: u64) -> Option<String> {
    let now = i64::try_from(unix).unwrap_or(i64::MAX);
    let validity = cert.validity();
    if now > validity.not_after.timestamp() {
        return Some(format!("expired on {}", date_i(validity.not_after.timestamp())));
    }
    if now < validity.not_before.timestamp() {
        return Some(format!(
            "is not valid before {} (or this host's clock is wrong)",
            date_i(validity.not_before.timestamp())
        ));
    }
    None
}

/// What the TLS library would refuse in a leaf, said in words.
fn weakness(cert: &X509Certificate<'_>) -> Option<String> {
    const SHA1: [&str; 3] = ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.113549.1.1.4"];
    if cert.version().0 == 0 {
        return Some("it is an X.509 version 1 certificate, version 3 is needed".into());
    }
    let signature = cert.signature_algorithm.algorithm.to_id_string();
    if SHA1.contains(&signature.as_str()) && cert.subject().as_raw() != cert.issuer().as_raw() {
        return Some("it is signed with SHA-1 or MD5, SHA-256 is needed".into());
    }
    weak_key(cert)
}

/// What the TLS library would refuse in a key, said in words.
fn weak_key(cert: &X509Certificate<'_>) -> Option<String> {
    const RSA_PSS: &str = "1.2.840.113549.1.1.10";
    const P256: &str = "1.2.840.10045.3.1.7";
    const P384: &str = "1.3.132.0.34";
    const P521: &str = "1.3.132.0.35";
    let spki = cert.public_key();
    if spki.algorithm.algorithm.to_id_string() == RSA_PSS {
        return Some("its key is an RSA-PSS key, a plain RSA, ECDSA or Ed25519 key is needed".into());
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() < 2048 => {
            Some(format!("its RSA key has {} bits, 2048 are needed", rsa.key_size()))
        }
        Ok(PublicKey::EC(_)) => {
            let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok()).map(|o| o.to_id_string());
            match curve.as_deref() {
                Some(P256 | P384) => None,
                Some(P521) if cfg!(feature = "aws-lc") => None,
                _ => Some("its ECDSA key is on a curve that is not supported, P-256 or P-384 is needed".into()),
            }
        }
        _ => None,
    }
}

/// `C=…, O=…, CN=…`: in the certificate's order, short names, control characters escaped.
pub(super) fn subject(name: &X509Name<'_>) -> String {
    let rdns = name.iter_rdn().map(|rdn| {
        let parts: Vec<String> = rdn
            .iter()
            .map(|a| {
                let oid = a.attr_type().to_id_string();
                format!("{}={}", short_name(&oid).unwrap_or(&oid), escape(&text_of(a.attr_value())))
            })
            .collect();
        parts.join(" + ")
    });
    rdns.collect::<Vec<_>>().join(", ")
}

/// The last common name, as OpenVPN takes it.
pub(super) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().last().map(|a| text_of(a.attr_value()))
}

pub(super) fn text_of(value: &x509_parser::der_parser::asn1_rs::Any<'_>) -> String {
    const BMP: u32 = 30;
    const LATIN1: u32 = 20;
    let data = value.data;
    match value.tag().0 {
        BMP => {
            let units: Vec<u16> =
                data.chunks_exact(2).map(|c| c.iter().fold(0, |n, b| n << 8 | u16::from(*b))).collect();
            String::from_utf16_lossy(&units)
        }
        LATIN1 => data.iter().map(|b| char::from(*b)).collect(),
        _ => String::from_utf8_lossy(data).into_owned(),
    }
}

fn escape(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { format!("\\{:02X}", u32::from(c)) } else { c.to_string() }).collect()
}

pub(super) fn short_name(oid: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 17] = [
        ("2.5.4.3", "CN"),
        ("2.5.4.4", "SN"),
        ("2.5.4.5", "serialNumber"),
        ("2.5.4.6", "C"),
        ("2.5.4.7", "L"),
        ("2.5.4.8", "ST"),
        ("2.5.4.9", "street"),
        ("2.5.4.10", "O"),
        ("2.5.4.11", "OU"),
        ("2.5.4.12", "title"),
        ("2.5.4.17", "postalCode"),
        ("2.5.4.41", "name"),
        ("2.5.4.42", "GN"),
        ("2.5.4.46", "dnQualifier"),
        ("1.2.840.113549.1.9.1", "emailAddress"),
        ("0.9.2342.19200300.100.1.1", "UID"),
        ("0.9.2342.19200300.100.1.25", "DC"),
    ];
    NAMES.iter().find(|(o, _)| *o == oid).map(|(_, name)| *name)
}

fn date(unix: u64) -> String {
    date_i(i64::try_from(unix).unwrap_or(i64::MAX))
}

/// A day in UTC, `2026-11-22`, by the civil-calendar arithmetic of eras of 400 years (146,097 days).
fn date_i(unix: i64) -> String {
    let days = Duration::from_secs(unix.max(0).unsigned_abs()).as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_a_calendar_day() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_305_600), "2026-11-22");
    }

    #[test]
    fn control_characters_in_a_subject_are_escaped() {
        assert_eq!(escape("a\nb"), "a\\0Ab");
        assert_eq!(escape("a\u{9b}31m"), "a\\9B31m", "C1 steers terminals too");
        assert_eq!(escape("é"), "é");
    }
}

//! Certificates of a gateway: making its authority, issuing with it, signing its revocation list, and reading what
//! matters of either. Pure: the present and the serial numbers' randomness are parameters; no file is touched.
//!
//! Keys are EC P-256 and come from the cryptographic library's own random source.

use std::net::IpAddr;

use controlplane::Random;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::names::Endpoint;
use super::serial::Serial;

/// Seconds of a day.
pub const DAY: u64 = 86_400;
/// How long an authority is valid, in days: nothing can replace it but new profiles for everybody.
pub const CA_DAYS: u64 = 7_300;
/// How long a server's certificate is valid, in days. It is renewed on its own, so it may be short.
pub const SERVER_DAYS: u64 = 825;
/// How long a client's certificate is valid where nothing else is asked for, in days.
pub const CLIENT_DAYS: u64 = 1_825;
/// How long a revocation list is valid, in days. Servers refuse everybody on an expired one.
pub const CRL_DAYS: u64 = 365;
/// A revocation list is signed anew when it has fewer days left than this.
pub const CRL_RENEW_DAYS: u64 = 180;
/// A server's certificate is renewed when it has fewer days left than this.
pub const SERVER_RENEW_DAYS: u64 = 60;
/// So long before the present a validity begins, in seconds, for clients whose clock is slow.
const SLACK: u64 = DAY;

/// What a certificate or a list could not be made or read for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The library refused; its own words.
    #[error("a certificate could not be made: {0}")]
    Make(String),
    /// This is no certificate.
    #[error("this is not a certificate in PEM form: {0}")]
    Certificate(String),
    /// This is no revocation list.
    #[error("this is not a certificate revocation list in PEM form: {0}")]
    Crl(String),
    /// This is no private key that we can use.
    #[error("this is not a private key in PEM form (PKCS#8): {0}")]
    Key(String),
    /// The key is another's.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// The authority's own time is over.
    #[error("the certificate authority expired {0} days ago; nothing can be issued with it")]
    Expired(u64),
}

/// Whom a certificate is for, by its extended key usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// serverAuth. The endpoint becomes the subject alternative name.
    Server(Endpoint),
    /// clientAuth.
    Client,
}

/// A certificate and its key, made just now.
#[derive(Debug)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PEM (PKCS#8).
    pub key: Zeroizing<String>,
    /// Its serial number.
    pub serial: Serial,
    /// Begin of its validity, in seconds since 1970.
    pub not_before: u64,
    /// End of its validity, in seconds since 1970.
    pub not_after: u64,
}

impl Identity {
    /// One file of both: the certificate first.
    pub fn pem(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", self.certificate, *self.key))
    }
}

/// What of a certificate is shown to people, or decides something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's common name; empty where there is none.
    pub common_name: String,
    /// The serial number; `None` where it is longer than any of ours.
    pub serial: Option<Serial>,
    /// Begin of its validity, in seconds since 1970.
    pub not_before: u64,
    /// End of its validity, in seconds since 1970.
    pub not_after: u64,
    /// Its names for TLS: host names, and addresses as text.
    pub alternative_names: Vec<String>,
}

/// What of a revocation list is shown to people, or decides something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFacts {
    /// When it was signed, in seconds since 1970.
    pub this_update: u64,
    /// When it is no longer good, in seconds since 1970; 0 where the list does not say.
    pub next_update: u64,
    /// Its number.
    pub number: Option<Serial>,
    /// The serial numbers in it, sorted. One that is longer than any of ours is left out.
    pub revoked: Vec<Serial>,
}

/// An entry of a revocation list that is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// Which.
    pub serial: Serial,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// A certificate authority that can sign: its certificate and its key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    not_after: u64,
}

/// A new private key, PEM (PKCS#8).
///
/// # Errors
/// [`PkiError::Make`].
pub fn new_key() -> Result<Zeroizing<String>, PkiError> {
    Ok(Zeroizing::new(KeyPair::generate().map_err(make)?.serialize_pem()))
}

/// The certificate of a new authority, PEM, for a key that is there.
///
/// # Errors
/// [`PkiError::Key`], [`PkiError::Make`].
pub fn new_authority(name: &str, key: &str, now: u64, rng: &mut dyn Random) -> Result<String, PkiError> {
    let key = read_key(key)?;
    let mut params = subject(name);
    params.serial_number = Some(SerialNumber::from(Serial::random(rng).to_bytes()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = instant(now.saturating_sub(SLACK))?;
    params.not_after = instant(now.saturating_add(CA_DAYS.saturating_mul(DAY)))?;
    Ok(params.self_signed(&key).map_err(make)?.pem())
}

impl Authority {
    /// The authority of these two PEM texts.
    ///
    /// # Errors
    /// [`PkiError::Certificate`], [`PkiError::Key`], [`PkiError::Mismatch`].
    pub fn load(certificate: &str, key: &str) -> Result<Authority, PkiError> {
        let key = read_key(key)?;
        let der = certificate_der(certificate)?;
        let parsed = parse(&der)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::Mismatch);
        }
        let not_after = seconds(parsed.validity().not_after.timestamp());
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| PkiError::Certificate(error.to_string()))?;
        Ok(Authority { issuer, not_after })
    }

    /// Issues a certificate for a key of its own, valid for so many days from now, but not longer than the authority.
    ///
    /// # Errors
    /// [`PkiError::Expired`], [`PkiError::Make`].
    pub fn issue(
        &self,
        name: &str,
        purpose: &Purpose,
        days: u64,
        now: u64,
        rng: &mut dyn Random,
    ) -> Result<Identity, PkiError> {
        if self.not_after <= now {
            return Err(PkiError::Expired(now.saturating_sub(self.not_after) / DAY));
        }
        let key = KeyPair::generate().map_err(make)?;
        let serial = Serial::random(rng);
        let not_before = now.saturating_sub(SLACK);
        let not_after = now.saturating_add(days.saturating_mul(DAY)).min(self.not_after);
        let mut params = subject(name);
        params.serial_number = Some(SerialNumber::from(serial.to_bytes()));
        params.not_before = instant(not_before)?;
        params.not_after = instant(not_after)?;
        // Says CA:FALSE, and makes the library write the subject's key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        match purpose {
            Purpose::Server(endpoint) => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                params.subject_alt_names = vec![alternative_name(endpoint)?];
            }
            Purpose::Client => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(make)?.pem();
        Ok(Identity { certificate, key: Zeroizing::new(key.serialize_pem()), serial, not_before, not_after })
    }

    /// Signs a revocation list, PEM, with this number (RFC 5280, 5.2.3: it must grow).
    ///
    /// # Errors
    /// [`PkiError::Make`].
    pub fn sign_crl(&self, revoked: &[Revoked], number: u64, now: u64) -> Result<String, PkiError> {
        let entries = revoked.iter().map(|entry| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(entry.serial.to_bytes()),
                revocation_time: instant(entry.at)?,
                reason_code: Some(RevocationReason::CessationOfOperation),
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: instant(now.saturating_sub(SLACK))?,
            next_update: instant(now.saturating_add(CRL_DAYS.saturating_mul(DAY)))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: entries.collect::<Result<Vec<_>, PkiError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).and_then(|crl| crl.pem()).map_err(make)
    }
}

/// Whether a revocation list must be signed anew, although nothing was revoked.
pub fn crl_is_due(next_update: u64, now: u64) -> bool {
    next_update < now.saturating_add(CRL_RENEW_DAYS * DAY)
}

/// Whether a server's certificate is to be renewed.
pub fn server_is_due(not_after: u64, now: u64) -> bool {
    not_after < now.saturating_add(SERVER_RENEW_DAYS * DAY)
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// [`PkiError::Certificate`].
pub fn certificate_facts(pem: &str) -> Result<CertificateFacts, PkiError> {
    let der = certificate_der(pem)?;
    let certificate = parse(&der)?;
    let common_name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let names = certificate.subject_alternative_name().ok().flatten();
    Ok(CertificateFacts {
        common_name: common_name.unwrap_or_default().to_owned(),
        serial: Serial::from_bytes(certificate.raw_serial()),
        not_before: seconds(certificate.validity().not_before.timestamp()),
        not_after: seconds(certificate.validity().not_after.timestamp()),
        alternative_names: names.iter().flat_map(|names| &names.value.general_names).filter_map(name_text).collect(),
    })
}

/// Reads a revocation list, PEM.
///
/// # Errors
/// [`PkiError::Crl`].
pub fn crl_facts(pem: &str) -> Result<CrlFacts, PkiError> {
    let wrong = |error: &dyn std::fmt::Display| PkiError::Crl(error.to_string());
    let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).map_err(|error| wrong(&error))?;
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| wrong(&error))?;
    let mut revoked: Vec<Serial> =
        list.iter_revoked_certificates().filter_map(|entry| Serial::from_bytes(entry.raw_serial())).collect();
    revoked.sort_unstable();
    Ok(CrlFacts {
        this_update: seconds(list.last_update().timestamp()),
        next_update: list.next_update().map_or(0, |time| seconds(time.timestamp())),
        number: list.crl_number().and_then(|number| Serial::from_bytes(&number.to_bytes_be())),
        revoked,
    })
}

fn subject(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn alternative_name(endpoint: &Endpoint) -> Result<SanType, PkiError> {
    Ok(match endpoint {
        Endpoint::Address(address) => SanType::IpAddress(*address),
        Endpoint::Host(name) => SanType::DnsName(name.as_str().try_into().map_err(make)?),
    })
}

fn name_text(name: &x509_parser::extensions::GeneralName<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| PkiError::Certificate(error.to_string()))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PkiError> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|error| PkiError::Certificate(error.to_string()))
}

fn read_key(pem: &str) -> Result<KeyPair, PkiError> {
    KeyPair::from_pem(pem).map_err(|error| PkiError::Key(error.to_string()))
}

fn make(error: rcgen::Error) -> PkiError {
    PkiError::Make(error.to_string())
}

fn instant(seconds: u64) -> Result<OffsetDateTime, PkiError> {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| PkiError::Make(error.to_string()))
}

fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::{NOW, Seeded};

    fn authority() -> (String, Zeroizing<String>, Authority) {
        let key = new_key().unwrap();
        let certificate = new_authority("test CA", &key, NOW, &mut Seeded(1)).unwrap();
        let authority = Authority::load(&certificate, &key).unwrap();
        (certificate, key, authority)
    }

    fn server() -> Purpose {
        Purpose::Server("vpn.example.com".parse().unwrap())
    }

    #[test]
    fn a_certificate_says_whom_it_is_for_and_until_when() {
        let (_, _, authority) = authority();
        let made = authority.issue("gateway", &server(), 10, NOW, &mut Seeded(2)).unwrap();
        let facts = certificate_facts(&made.certificate).unwrap();
        assert_eq!((facts.common_name.as_str(), facts.serial), ("gateway", Some(made.serial)));
        assert_eq!((facts.not_before, facts.not_after), (NOW - DAY, NOW + 10 * DAY));
        assert_eq!(facts.alternative_names, ["vpn.example.com"]);
        let purpose = Purpose::Server("2001:db8::1".parse().unwrap());
        let made = authority.issue("gateway", &purpose, 10, NOW, &mut Seeded(2)).unwrap();
        assert_eq!(certificate_facts(&made.certificate).unwrap().alternative_names, ["2001:db8::1"]);
    }

    #[test]
    fn usages_and_key_identifiers_are_in_the_certificate() {
        let (root, _, authority) = authority();
        let der = certificate_der(&root).unwrap();
        let root = parse(&der).unwrap();
        let usage = root.key_usage().unwrap().unwrap().value;
        assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
        let constraints = root.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(0));
        for (purpose, is_server) in [(server(), true), (Purpose::Client, false)] {
            let made = authority.issue("x", &purpose, 10, NOW, &mut Seeded(2)).unwrap();
            let der = certificate_der(&made.certificate).unwrap();
            let leaf = parse(&der).unwrap();
            let usage = leaf.key_usage().unwrap().unwrap().value;
            assert!(usage.digital_signature() && !usage.key_cert_sign());
            let extended = leaf.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((extended.server_auth, extended.client_auth), (is_server, !is_server));
            assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
            let (mut own, mut issuers) = (None, None);
            for extension in leaf.extensions() {
                match extension.parsed_extension() {
                    x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => own = Some(id.0.to_vec()),
                    x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier(id) => {
                        issuers = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                    }
                    _ => {}
                }
            }
            let roots = root.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
            assert!(own.is_some() && own != roots);
            assert!(issuers.is_some() && issuers == roots, "an authority loaded from its files names the same key");
        }
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let (_, _, authority) = authority();
        let made = authority.issue("x", &Purpose::Client, CA_DAYS * 3, NOW, &mut Seeded(2)).unwrap();
        assert_eq!(made.not_after, NOW + CA_DAYS * DAY);
        let later = NOW + (CA_DAYS + 2) * DAY;
        let refused = authority.issue("x", &Purpose::Client, 10, later, &mut Seeded(2));
        assert_eq!(refused.unwrap_err(), PkiError::Expired(2));
    }

    #[test]
    fn a_key_of_another_authority_is_refused() {
        let (certificate, key, _) = authority();
        let (other, _, _) = authority();
        assert_eq!(Authority::load(&other, &key).unwrap_err(), PkiError::Mismatch);
        assert!(matches!(Authority::load("x", &key), Err(PkiError::Certificate(_))));
        assert!(matches!(Authority::load(&certificate, "x"), Err(PkiError::Key(_))));
        assert!(Authority::load(&certificate, &key).is_ok());
    }

    #[test]
    fn a_crl_lists_what_was_revoked_with_number_and_dates() {
        let (_, _, authority) = authority();
        let mut rng = Seeded(3);
        let mut revoked: Vec<Revoked> =
            (0..3).map(|number| Revoked { serial: Serial::random(&mut rng), at: NOW - number }).collect();
        let facts = crl_facts(&authority.sign_crl(&revoked, 7, NOW).unwrap()).unwrap();
        revoked.sort_unstable_by_key(|entry| entry.serial);
        assert_eq!(facts.revoked, revoked.iter().map(|entry| entry.serial).collect::<Vec<_>>());
        assert_eq!((facts.this_update, facts.next_update), (NOW - DAY, NOW + CRL_DAYS * DAY));
        assert_eq!(facts.number, Serial::from_bytes(&[7]));
        assert_eq!(crl_facts(&authority.sign_crl(&[], 1, NOW).unwrap()).unwrap().revoked, []);
        assert!(crl_facts("x").is_err());
    }

    #[test]
    fn a_crl_and_a_server_are_due_long_before_they_expire() {
        assert!(!crl_is_due(NOW + CRL_RENEW_DAYS * DAY, NOW));
        assert!(crl_is_due(NOW + CRL_RENEW_DAYS * DAY - 1, NOW));
        assert!(crl_is_due(NOW - 1, NOW));
        assert!(!server_is_due(NOW + SERVER_RENEW_DAYS * DAY, NOW));
        assert!(server_is_due(NOW + SERVER_RENEW_DAYS * DAY - 1, NOW));
    }
}

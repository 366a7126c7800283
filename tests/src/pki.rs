//! Certificates of a test's own: authorities, servers, clients, expired and revoked ones, and static keys.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, RevokedCertParams,
    SerialNumber,
};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use time::{Duration, OffsetDateTime};

static SERIAL: AtomicU64 = AtomicU64::new(1000);

/// The kind of key a certificate is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256, the default.
    P256,
    /// Ed25519.
    Ed25519,
}

/// Whom a certificate is for, by its extended key usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// serverAuth.
    Server,
    /// clientAuth.
    Client,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday for ten years.
    Now,
    /// Ended yesterday.
    Expired,
}

/// A certificate with its private key, both PEM, and its serial number.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate; with an intermediate authority, followed by that one's.
    pub cert: String,
    /// The private key, PKCS #8.
    pub key: String,
    /// The certificate's serial number.
    pub serial: u64,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, PEM.
    pub cert: String,
    /// What an issued certificate must carry after itself (the chain below the root), PEM.
    chain: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A self-signed root.
    pub fn new(name: &str) -> Self {
        let (params, key) = (authority_params(name), new_key(KeyKind::P256));
        let cert = params.self_signed(&key).expect("a root signs itself").pem();
        Self { cert, chain: String::new(), issuer: Issuer::new(params, key) }
    }

    /// An authority below this one; what it issues carries its certificate along.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key) = (authority_params(name), new_key(KeyKind::P256));
        let cert = params.signed_by(&key, &self.issuer).expect("an authority signs an authority").pem();
        let chain = format!("{cert}{}", self.chain);
        Self { cert, chain, issuer: Issuer::new(params, key) }
    }

    /// A P-256 certificate that is valid now.
    pub fn issue(&self, name: &str, role: Role) -> Identity {
        self.issue_as(name, role, Validity::Now, KeyKind::P256)
    }

    /// A certificate of the given kind.
    pub fn issue_as(&self, name: &str, role: Role, validity: Validity, kind: KeyKind) -> Identity {
        let (mut params, key) = (named(name), new_key(kind));
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        if validity == Validity::Expired {
            params.not_after = OffsetDateTime::now_utc() - Duration::days(1);
        }
        let own = params.signed_by(&key, &self.issuer).expect("an authority signs a leaf").pem();
        Identity { cert: format!("{own}{}", self.chain), key: key_pem(&key, kind), serial }
    }

    /// A revocation list with these serial numbers, PEM.
    pub fn crl(&self, revoked: &[u64]) -> String {
        let now = OffsetDateTime::now_utc() - Duration::hours(1);
        let revoked_certs = revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(30),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("an authority signs a list").pem().expect("a list has a PEM form")
    }
}

/// A fresh 2048-bit key file of OpenVPN's `Static key V1` form, as for tls-auth and tls-crypt.
pub fn static_key() -> String {
    let mut bytes = [0u8; 256];
    let mut random = File::open("/dev/urandom").expect("/dev/urandom is there");
    random.read_exact(&mut bytes).expect("/dev/urandom gives bytes");
    let mut text = String::from("-----BEGIN OpenVPN Static key V1-----\n");
    for row in bytes.chunks(16) {
        for byte in row {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text + "-----END OpenVPN Static key V1-----\n"
}

/// The private key as PKCS #8 PEM. Ed25519 keys are written in version 1 of it (RFC 5958 allows both), because
/// OpenSSL 3.0 does not read version 2, which carries the public key along.
fn key_pem(key: &KeyPair, kind: KeyKind) -> String {
    if kind != KeyKind::Ed25519 {
        return key.serialize_pem();
    }
    // SEQUENCE { 0, { 1.3.101.112 }, OCTET STRING { OCTET STRING of 32 bytes } }, RFC 8410 section 7.
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let der = key.serialize_der();
    let at = der.windows(4).position(|w| w == &HEAD[12..]).expect("an Ed25519 key holds its seed");
    let seed = &der[at + 4..at + 36];
    let body = base64(&[HEAD.as_slice(), seed].concat());
    format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
}

/// RFC 4648, for lengths that are a multiple of 3.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    assert!(bytes.len().is_multiple_of(3), "this encoder knows no padding");
    let groups = bytes.chunks(3).map(|three| three.iter().fold(0usize, |word, byte| word << 8 | usize::from(*byte)));
    groups.flat_map(|word| [18, 12, 6, 0].map(|shift| char::from(ALPHABET[word >> shift & 63]))).collect()
}

/// The SHA-256 of the first certificate in a PEM text, as colon-separated hex; `peer-fingerprint` takes that form.
pub fn fingerprint(pem: &str) -> String {
    let body: String = pem.lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
    let command = format!("echo {body} | base64 -d | sha256sum");
    let out = Command::new("sh").args(["-c", &command]).output().expect("a shell can be started");
    let hex: Vec<char> = String::from_utf8_lossy(&out.stdout).chars().take(64).collect();
    assert_eq!(hex.len(), 64, "sha256sum printed no digest");
    hex.chunks(2).map(String::from_iter).collect::<Vec<_>>().join(":")
}

fn new_key(kind: KeyKind) -> KeyPair {
    let algorithm = match kind {
        KeyKind::P256 => &PKCS_ECDSA_P256_SHA256,
        KeyKind::Ed25519 => &PKCS_ED25519,
    };
    KeyPair::generate_for(algorithm).expect("a key pair can be made")
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = OffsetDateTime::now_utc() - Duration::days(30);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(3650);
    params.use_authority_key_identifier_extension = true;
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_key_has_sixteen_rows_of_sixteen_bytes() {
        let text = static_key();
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 18);
        assert!(rows[1..17].iter().all(|row| row.len() == 32 && row.bytes().all(|b| b.is_ascii_hexdigit())));
        assert_ne!(text, static_key());
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        assert_eq!(base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64(&[0xff, 0xfe, 0x3e]), "//4+");
    }

    #[test]
    fn a_fingerprint_has_thirty_two_pairs() {
        let print = fingerprint(&Authority::new("root").cert);
        assert_eq!(print.split(':').filter(|pair| u8::from_str_radix(pair, 16).is_ok()).count(), 32);
    }

    #[test]
    fn a_leaf_of_an_intermediate_carries_the_chain() {
        let root = Authority::new("root");
        let middle = root.intermediate("middle");
        let leaf = middle.issue("leaf", Role::Client);
        assert_eq!(leaf.cert.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(root.issue("leaf", Role::Client).cert.matches("BEGIN CERTIFICATE").count(), 1);
    }
}

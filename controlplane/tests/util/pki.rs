//! Certificates for tests: a CA, a server, a client, all Ed25519 with serial numbers of fixed length, so that the
//! lengths of TLS messages do not vary from run to run.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ED25519, RevokedCertParams,
    SerialNumber, date_time_ymd,
};

pub struct Identity {
    pub cert_pem: String,
    pub key_pem: String,
    pub der: Vec<u8>,
}

pub struct Pki {
    pub ca_pem: String,
    pub server: Identity,
    pub client: Identity,
    issuer: Issuer<'static, KeyPair>,
}

/// What makes a leaf differ from an ordinary one.
pub struct Leaf<'a> {
    pub name: &'a str,
    pub serial: u8,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub not_before: i32,
    pub not_after: i32,
    pub algorithm: &'static rcgen::SignatureAlgorithm,
    pub key_usages: Vec<KeyUsagePurpose>,
}

impl Leaf<'_> {
    pub fn named(name: &str, usage: ExtendedKeyUsagePurpose) -> Leaf<'_> {
        Leaf {
            name,
            serial: 1,
            usages: vec![usage],
            not_before: 2020,
            not_after: 2040,
            algorithm: &PKCS_ED25519,
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
        }
    }
}

impl Pki {
    pub fn new(name: &str) -> Pki {
        Pki::valid(name, 2020, 2040)
    }

    pub fn valid(name: &str, not_before: i32, not_after: i32) -> Pki {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = params(name, 9);
        params.not_before = date_time_ymd(not_before, 1, 1);
        params.not_after = date_time_ymd(not_after, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let server = leaf(&issuer, &Leaf::named("server", ExtendedKeyUsagePurpose::ServerAuth));
        let client = leaf(&issuer, &Leaf { serial: 2, ..Leaf::named("client", ExtendedKeyUsagePurpose::ClientAuth) });
        Pki { ca_pem, server, client, issuer }
    }

    pub fn leaf(&self, spec: &Leaf<'_>) -> Identity {
        leaf(&self.issuer, spec)
    }

    /// A CA between this one and its leaves: the intermediate's PEM and a server certificate that it issued.
    pub fn intermediate(&self) -> (String, Identity) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = params("intermediate", 8);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        let issuer = Issuer::new(params, key);
        (pem, leaf(&issuer, &Leaf::named("server", ExtendedKeyUsagePurpose::ServerAuth)))
    }

    /// A CRL with these serial numbers, valid until the start of that year.
    pub fn crl(&self, revoked: &[u8], next_update: i32) -> String {
        let revoked_certs = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[0x11, *serial]),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

fn params(name: &str, serial: u8) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "NL");
    subject.push(DnType::OrganizationName, "Test");
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.serial_number = Some(SerialNumber::from_slice(&[0x11, serial]));
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params
}

fn leaf(issuer: &Issuer<'static, KeyPair>, spec: &Leaf<'_>) -> Identity {
    let key = KeyPair::generate_for(spec.algorithm).unwrap();
    let mut params = params(spec.name, spec.serial);
    params.not_before = date_time_ymd(spec.not_before, 1, 1);
    params.not_after = date_time_ymd(spec.not_after, 1, 1);
    params.extended_key_usages = spec.usages.clone();
    params.key_usages = spec.key_usages.clone();
    let cert = params.signed_by(&key, issuer).unwrap();
    Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem(), der: cert.der().to_vec() }
}

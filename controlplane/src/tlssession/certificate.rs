//! What a verified client certificate says, for those who judge logins. Nothing is decided here.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use super::verify::{common_name, cut, short_name, subject, text_of};
use crate::crypto::{sha1, sha256};
use crate::setup::ClientCertificateInfo;

/// The most name fields, and the most certificates of a chain, that are handed on.
const MAX_FIELDS: usize = 64;
/// Chains are followed so far; the verifier takes no longer ones.
const MAX_CHAIN: usize = 8;

/// Describes the leaf of a chain that a peer showed; `None` when it showed none. `authorities` are the CA certificates that
/// may complete the chain.
pub(super) fn describe(
    chain: &[CertificateDer<'static>],
    authorities: &[CertificateDer<'static>],
) -> Option<ClientCertificateInfo> {
    let der = chain.first()?;
    let (_, leaf) = X509Certificate::from_der(der).ok()?;
    let serial = leaf.tbs_certificate.serial.to_bytes_be();
    Some(ClientCertificateInfo {
        common_name: clean(&common_name(leaf.subject()).unwrap_or_default()),
        subject: cut(&subject(leaf.subject())),
        serial: leaf.tbs_certificate.serial.to_string(),
        serial_hex: serial.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
        sha1: sha1(der),
        sha256: sha256(der),
        not_after: u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0),
        chain_subjects: chain_subjects(chain, authorities),
        fields: fields(leaf.subject()),
    })
}

/// Subjects from the leaf up, by issuer, as far as the peer's certificates and `ca` reach.
fn chain_subjects(chain: &[CertificateDer<'static>], authorities: &[CertificateDer<'static>]) -> Vec<String> {
    let parse =
        |der: &'_ CertificateDer<'static>| X509Certificate::from_der(der).ok().map(|(_, cert)| name_pair(&cert));
    let Some(mut last) = chain.first().and_then(parse) else {
        return Vec::new();
    };
    let above: Vec<Names> = chain.iter().skip(1).chain(authorities).filter_map(parse).collect();
    let mut subjects = vec![last.text.clone()];
    while subjects.len() < MAX_CHAIN && last.issuer != last.subject {
        let Some(issuer) = above.iter().find(|c| c.subject == last.issuer) else { break };
        subjects.push(issuer.text.clone());
        last = issuer.clone();
    }
    subjects
}

/// A certificate's names, as DER for comparison and as text.
#[derive(Clone)]
struct Names {
    subject: Vec<u8>,
    issuer: Vec<u8>,
    text: String,
}

fn name_pair(cert: &X509Certificate<'_>) -> Names {
    Names {
        subject: cert.subject().as_raw().to_vec(),
        issuer: cert.issuer().as_raw().to_vec(),
        text: cut(&subject(cert.subject())),
    }
}

fn fields(name: &X509Name<'_>) -> Vec<(String, String)> {
    name.iter_attributes()
        .take(MAX_FIELDS)
        .map(|a| {
            let oid = a.attr_type().to_id_string();
            (short_name(&oid).map_or_else(|| oid.clone(), str::to_owned), clean(&cut(&text_of(a.attr_value()))))
        })
        .collect()
}

/// Control characters become `_`, as OpenVPN does with names.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

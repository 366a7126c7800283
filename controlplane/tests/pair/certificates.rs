//! Which certificates are taken, and what is said about those that are not.

use controlplane::{Client, Ending, PeerUsage, Secret, TlsVersion, VerifyName};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::util::pki::{Identity, Leaf};
use crate::util::{Pair, Pki, Side, client_setup, server_setup, tls_setup};

fn connects_with(
    pki: &Pki,
    server: &Identity,
    change: impl FnOnce(&mut controlplane::ClientSetup),
) -> Result<(), String> {
    let mut client = client_setup(pki);
    client.tls.peer_usage = None;
    change(&mut client);
    let mut server_side = server_setup(pki);
    server_side.tls = tls_setup(pki, server);
    let mut pair = Pair::new(client, server_side, 60);
    pair.connect(None);
    pair.run_until(5, |p| p.established().is_some() || p.ended(Side::Client).is_some());
    match pair.ended(Side::Client) {
        None => Ok(()),
        Some(Ending::Tls(why)) => Err(why),
        Some(other) => panic!("{other:?}"),
    }
}

fn assert_refused(result: Result<(), String>, words: &str) {
    let why = result.expect_err(words);
    assert!(why.contains(words), "{why}");
}

#[test]
fn a_server_of_another_ca_is_refused() {
    let (pki, other) = (Pki::new("ca"), Pki::new("ca"));
    assert_eq!(connects_with(&pki, &pki.server, |_| ()), Ok(()));
    assert_refused(connects_with(&pki, &other.server, |_| ()), "no CA in `ca` has issued it");
}

#[test]
fn time_is_judged_by_the_callers_clock() {
    let pki = Pki::new("ca");
    let leaf = |not_before, not_after| pki.leaf(&Leaf { not_before, not_after, ..Leaf::named("server", ServerAuth) });
    assert_eq!(connects_with(&pki, &leaf(2026, 2027), |_| ()), Ok(()));
    // A server refuses to start with a certificate of its own that is not valid, so the chain is judged apart.
    let verdict = |identity: Identity| judge(&pki, &identity, |_| ());
    assert_refused(verdict(leaf(2020, 2026)), "expired on 2026-01-01");
    assert_refused(verdict(leaf(2027, 2040)), "not valid before 2027-01-01");
}

/// The verifier alone, at the tests' present.
fn judge(pki: &Pki, leaf: &Identity, change: impl FnOnce(&mut controlplane::TlsSetup)) -> Result<(), String> {
    judge_as(controlplane::ids::Role::Server, pki, leaf, change)
}

fn judge_as(
    peer: controlplane::ids::Role,
    pki: &Pki,
    leaf: &Identity,
    change: impl FnOnce(&mut controlplane::TlsSetup),
) -> Result<(), String> {
    judge_at(0, peer, pki, leaf, change)
}

/// So many seconds after the tests' present.
fn judge_at(
    later: u64,
    peer: controlplane::ids::Role,
    pki: &Pki,
    leaf: &Identity,
    change: impl FnOnce(&mut controlplane::TlsSetup),
) -> Result<(), String> {
    use controlplane::tlssession::verify::PeerVerifier;
    let mut setup = tls_setup(pki, &pki.client);
    change(&mut setup);
    #[cfg(feature = "aws-lc")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc"))]
    let provider = rustls::crypto::ring::default_provider();
    let verifier = PeerVerifier::new(peer, &setup, &provider)?;
    let now =
        rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(crate::util::START_UNIX + later));
    verifier.judge(&leaf.der.clone().into(), &[], now).map_err(|r| r.0)
}

#[test]
fn an_expired_ca_is_refused() {
    let old = Pki::valid("ca", 2020, 2026);
    assert_refused(judge(&old, &old.server, |_| ()), "its CA (C=NL, O=Test, CN=ca) expired on 2026-01-01");
}

#[test]
fn a_revoked_certificate_is_refused_and_an_expired_crl_still_counts() {
    let pki = Pki::new("ca");
    let with = |crl: String| judge(&pki, &pki.server, |t| t.crl_pem = Some(crl));
    assert_eq!(with(pki.crl(&[7], 2040)), Ok(()));
    assert_refused(with(pki.crl(&[1], 2040)), "revoked");
    assert_eq!(with(pki.crl(&[7], 2022)), Ok(()));
    assert_refused(with(pki.crl(&[1], 2022)), "revoked");
    assert_refused(with(String::new()), "no CRL");
}

#[test]
fn remote_cert_tls_wants_the_usage_of_the_other_side() {
    let pki = Pki::new("ca");
    let server = |t: &mut controlplane::TlsSetup| t.peer_usage = Some(PeerUsage::Server);
    let client = |t: &mut controlplane::TlsSetup| t.peer_usage = Some(PeerUsage::Client);
    assert_eq!(judge(&pki, &pki.server, server), Ok(()));
    assert_refused(judge(&pki, &pki.server, client), "clientAuth");
    let bare = pki.leaf(&Leaf { usages: Vec::new(), ..Leaf::named("server", ServerAuth) });
    assert_eq!(judge(&pki, &bare, |_| ()), Ok(()));
    assert_refused(judge(&pki, &bare, server), "serverAuth");
    let crl_only =
        pki.leaf(&Leaf { key_usages: vec![rcgen::KeyUsagePurpose::CrlSign], ..Leaf::named("server", ServerAuth) });
    assert_refused(judge(&pki, &crl_only, server), "permits neither signatures");
    let without = pki.leaf(&Leaf { key_usages: Vec::new(), ..Leaf::named("server", ServerAuth) });
    assert_eq!(judge(&pki, &without, |_| ()), Ok(()));
    assert_refused(
        judge(&pki, &without, server),
        "no key usage extension, which remote-cert-tls wants: have it issued anew",
    );
    // A client's certificate is not a server's even without remote-cert-tls, because it says what it is for.
    let wrong = pki.leaf(&Leaf::named("server", ClientAuth));
    assert_refused(judge(&pki, &wrong, |_| ()), "for another purpose");
    use controlplane::ids::Role::Client as ClientRole;
    assert_eq!(judge_as(ClientRole, &pki, &pki.client, client), Ok(()));
    assert_refused(judge_as(ClientRole, &pki, &pki.server, |_| ()), "for another purpose");
}

#[test]
fn names_are_compared_as_openvpn_does() {
    let pki = Pki::new("ca");
    let with = |name: VerifyName| judge(&pki, &pki.server, |t| t.verify_name = Some(name));
    assert_eq!(with(VerifyName::Subject("C=NL, O=Test, CN=server".into())), Ok(()));
    assert_refused(with(VerifyName::Subject("CN=server".into())), "verify-x509-name");
    assert_eq!(with(VerifyName::Name("server".into())), Ok(()));
    assert_refused(with(VerifyName::Name("serve".into())), "verify-x509-name");
    assert_eq!(with(VerifyName::NamePrefix("serv".into())), Ok(()));
    assert_refused(with(VerifyName::NamePrefix("erv".into())), "verify-x509-name");
}

#[test]
fn a_fingerprint_replaces_or_complements_the_ca() {
    let (pki, other) = (Pki::new("ca"), Pki::new("other"));
    let right = controlplane::crypto::sha256(&pki.server.der);
    let mut wrong = right;
    wrong[31] ^= 1;
    let with = |ca: &Pki, prints: Vec<[u8; 32]>, keep_ca: bool| {
        judge(ca, &pki.server, |t| {
            t.fingerprints = prints;
            if !keep_ca {
                t.ca_pem.clear();
            }
        })
    };
    assert_eq!(with(&pki, vec![wrong, right], false), Ok(()));
    assert_refused(with(&pki, vec![wrong], false), "peer-fingerprint");
    assert_eq!(with(&pki, vec![right], true), Ok(()));
    assert_refused(with(&pki, vec![wrong], true), "peer-fingerprint");
    assert_refused(with(&other, vec![right], true), "no CA");
    assert_refused(with(&pki, vec![], false), "no CA to verify the peer with");
}

#[test]
fn an_intermediate_may_come_from_the_peer_or_from_the_ca_text() {
    let pki = Pki::new("ca");
    let (intermediate, leaf) = pki.intermediate();
    assert_refused(judge(&pki, &leaf, |_| ()), "no CA");
    assert_eq!(judge(&pki, &leaf, |t| t.ca_pem.push_str(&intermediate)), Ok(()));
    let sent = Identity { cert_pem: format!("{}{intermediate}", leaf.cert_pem), ..leaf };
    assert_eq!(connects_with(&pki, &sent, |_| ()), Ok(()));
}

#[test]
fn a_client_that_the_server_does_not_know_is_told_so_by_tls() {
    let (pki, other) = (Pki::new("ca"), Pki::new("other"));
    let refused = connects_with(&pki, &pki.server, |c| {
        c.tls.cert_pem = other.client.cert_pem.clone();
        c.tls.key_pem = Secret(other.client.key_pem.clone().into_bytes());
    });
    assert_refused(refused, "our certificate");
    let without = connects_with(&pki, &pki.server, |c| {
        c.tls.cert_pem.clear();
        c.tls.key_pem = Secret::default();
    });
    assert_refused(without, "certificate");
}

fn own(change: impl FnOnce(&Pki, &mut controlplane::ClientSetup)) -> Result<(), String> {
    let pki = Pki::new("ca");
    let mut setup = client_setup(&pki);
    change(&pki, &mut setup);
    let now = controlplane::Now { at: controlplane::Instant(0), unix: crate::util::START_UNIX };
    match Client::new(setup, now) {
        Ok(_) => Ok(()),
        Err(Ending::Tls(why)) => Err(why),
        Err(other) => panic!("{other:?}"),
    }
}

fn with_identity(setup: &mut controlplane::ClientSetup, identity: &Identity) {
    setup.tls.cert_pem = identity.cert_pem.clone();
    setup.tls.key_pem = Secret(identity.key_pem.clone().into_bytes());
}

#[test]
fn our_own_identity_is_judged_before_anything_is_sent() {
    assert_eq!(own(|_, _| ()), Ok(()));
    let expired = own(|pki, s| {
        let leaf = pki.leaf(&Leaf { not_after: 2026, ..Leaf::named("client", ClientAuth) });
        with_identity(s, &leaf);
    });
    assert_refused(expired, "our own certificate (C=NL, O=Test, CN=client) expired on 2026-01-01");
    let early = own(|pki, s| {
        let leaf = pki.leaf(&Leaf { not_before: 2027, ..Leaf::named("client", ClientAuth) });
        with_identity(s, &leaf);
    });
    assert_refused(early, "not valid before 2027-01-01");
    let mismatched = own(|pki, s| s.tls.key_pem = Secret(pki.server.key_pem.clone().into_bytes()));
    assert_refused(mismatched, "the key does not belong to the certificate");
    assert_refused(own(|_, s| s.tls.key_pem = Secret(b"nonsense".to_vec())), "the key cannot be read");
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_refused(own(|_, s| s.tls.key_pem = Secret(encrypted.to_vec())), "passphrase");
    assert_refused(own(|_, s| s.tls.key_pem = Secret::default()), "no key");
    assert_refused(own(|_, s| s.tls.cert_pem.clear()), "no certificate");
    assert_refused(
        own(|_, s| s.tls.ca_pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
        "`ca`",
    );
    assert_refused(own(|_, s| s.tls.ca_pem.clear()), "no CA");
}

#[test]
fn versions_that_exclude_each_other_are_noticed() {
    let contradictory = own(|_, s| {
        s.tls.version_min = TlsVersion::V1_3;
        s.tls.version_max = TlsVersion::V1_2;
    });
    assert_refused(contradictory, "tls-version-min");
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.tls.version_max = TlsVersion::V1_2;
    let mut server = server_setup(&pki);
    server.tls.version_min = TlsVersion::V1_3;
    let mut pair = Pair::new(client, server, 61);
    pair.connect(None);
    pair.run_for(5);
    assert!(
        matches!(pair.ended(Side::Client), Some(Ending::Tls(why)) if why.contains("tls-version")),
        "{:?}",
        pair.ended(Side::Client)
    );
}

// Certificates of kinds that rcgen does not make, issued with the openssl program on 2026-11-22 for 14,000 days:
// a P-256 CA, and leaves that differ from an ordinary one in what their names say.
macro_rules! data {
    ($name:literal) => {
        include_str!(concat!("../data/", $name))
    };
}

fn judge_pem(ca: &str, leaf: &str) -> Result<(), String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let pki = Pki::new("unused");
    let der = CertificateDer::from_pem_slice(leaf.as_bytes()).unwrap().to_vec();
    let identity = Identity { cert_pem: String::new(), key_pem: String::new(), der };
    judge_at(30 * 86_400, controlplane::ids::Role::Server, &pki, &identity, |t| t.ca_pem = ca.into())
}

#[test]
fn kinds_of_certificates_that_the_tls_library_refuses_are_named() {
    let ca = data!("ca.pem");
    assert_eq!(judge_pem(ca, data!("rsa2048.pem")), Ok(()));
    assert_eq!(judge_pem(ca, data!("p384.pem")), Ok(()));
    assert_refused(judge_pem(ca, data!("rsa1024.pem")), "its RSA key has 1024 bits, 2048 are needed");
    assert_refused(judge_pem(ca, data!("sha1.pem")), "signed with SHA-1");
    assert_refused(judge_pem(ca, data!("v1.pem")), "version 1");
    assert_refused(judge_pem(ca, data!("secp256k1.pem")), "curve that is not supported");
    assert_refused(judge_pem(ca, data!("rsapss.pem")), "RSA-PSS");
    let p521 = judge_pem(ca, data!("p521.pem"));
    if cfg!(feature = "aws-lc") {
        assert_eq!(p521, Ok(()));
    } else {
        assert_refused(p521, "curve that is not supported");
    }
    assert_refused(
        judge_pem(data!("ca1024.pem"), data!("under1024.pem")),
        "CN=old ca cannot be used: its RSA key has 1024",
    );
}

#[test]
fn our_own_weak_identity_is_named() {
    let later = |change: fn(&mut controlplane::ClientSetup)| {
        let mut setup = client_setup(&Pki::new("ca"));
        change(&mut setup);
        let unix = crate::util::START_UNIX + 30 * 86_400;
        Client::new(setup, controlplane::Now { at: controlplane::Instant(0), unix }).map(|_| ())
    };
    let good = later(|s| {
        s.tls.cert_pem = data!("rsa2048.pem").into();
        s.tls.key_pem = Secret(data!("rsa2048.key.pem").into());
    });
    assert_eq!(good, Ok(()));
    let weak = later(|s| {
        s.tls.cert_pem = data!("rsa1024.pem").into();
        s.tls.key_pem = Secret(data!("rsa1024.key.pem").into());
    });
    assert!(matches!(weak, Err(Ending::Tls(why)) if why.contains("1024 bits")));
}

//! The TLS configuration: PEM texts in, a rustls configuration out, built once per profile. The clock that rustls
//! sees is a cell that every call of this crate sets; the random source may be replaced by a seeded one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, SecureRandom};
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};

use super::verify::{PeerVerifier, own_certificate_problem};
use crate::ids::Role;
use crate::setup::{ClientCertificate, ClientCertificateInfo, TlsSetup, TlsVersion};

/// A checked TLS configuration of one role.
#[derive(Debug)]
pub struct TlsConfig {
    role: RoleConfig,
    clock: Arc<Clock>,
    /// `None` where the peer's certificate is not asked for.
    verifier: Option<Arc<PeerVerifier>>,
}

#[derive(Debug)]
pub(super) enum RoleConfig {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl TlsConfig {
    /// A client's: reads the PEM texts and checks all that can be checked before a peer is met. `random` replaces the
    /// library's random source (tests: a seeded one).
    ///
    /// # Errors
    /// A sentence that says which text is wrong and what to renew or correct.
    pub fn client(setup: &TlsSetup, unix: u64, random: Option<&'static dyn SecureRandom>) -> Result<TlsConfig, String> {
        let clock = Arc::new(Clock(AtomicU64::new(unix)));
        let provider = Arc::new(provider(random));
        let identity = identity(setup, unix)?;
        let verifier = Arc::new(PeerVerifier::new(Role::Server, setup, &provider)?);
        let role = RoleConfig::Client(client(setup, provider, &clock, verifier.clone(), identity)?);
        Ok(TlsConfig { role, clock, verifier: Some(verifier) })
    }

    /// A server's, as [`TlsConfig::client`]. `wanted` says whether clients must show a certificate.
    ///
    /// # Errors
    /// As [`TlsConfig::client`]; also when it has no certificate of its own.
    pub fn server(
        setup: &TlsSetup,
        wanted: ClientCertificate,
        unix: u64,
        random: Option<&'static dyn SecureRandom>,
    ) -> Result<TlsConfig, String> {
        let clock = Arc::new(Clock(AtomicU64::new(unix)));
        let provider = Arc::new(provider(random));
        let identity = identity(setup, unix)?;
        let verifier = match wanted {
            ClientCertificate::None => None,
            ClientCertificate::Require => Some(PeerVerifier::new(Role::Client, setup, &provider)?),
            ClientCertificate::Optional => Some(PeerVerifier::new(Role::Client, setup, &provider)?.optional()),
        };
        let verifier = verifier.map(Arc::new);
        let role = RoleConfig::Server(server(setup, provider, &clock, verifier.clone(), identity)?);
        Ok(TlsConfig { role, clock, verifier })
    }

    /// What a client's verified chain, leaf first, says; `None` when it showed none.
    pub fn client_certificate(&self, chain: &[CertificateDer<'static>]) -> Option<ClientCertificateInfo> {
        self.verifier.as_ref()?.describe(chain)
    }

    /// Certificate validity is judged at this time (unix seconds) from now on.
    pub fn set_time(&self, unix: u64) {
        self.clock.0.store(unix, Ordering::Relaxed);
    }

    pub(super) fn role(&self) -> &RoleConfig {
        &self.role
    }
}

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

type Identity = Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>;

fn provider(random: Option<&'static dyn SecureRandom>) -> CryptoProvider {
    #[cfg(feature = "aws-lc")]
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc"))]
    let mut provider = rustls::crypto::ring::default_provider();
    if let Some(random) = random {
        provider.secure_random = random;
    }
    provider
}

fn versions(setup: &TlsSetup) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let all = [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
    let versions: Vec<_> = all
        .into_iter()
        .filter(|(v, _)| (setup.version_min..=setup.version_max).contains(v))
        .map(|(_, version)| version)
        .collect();
    if versions.is_empty() {
        return Err("tls-version-min is above tls-version-max: no TLS version is left".into());
    }
    Ok(versions)
}

fn client(
    setup: &TlsSetup,
    provider: Arc<CryptoProvider>,
    clock: &Arc<Clock>,
    verifier: Arc<PeerVerifier>,
    identity: Identity,
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_details(provider, clock.clone())
        .with_protocol_versions(&versions(setup)?)
        .map_err(|e| format!("the TLS versions cannot be used: {e}"))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| identity_sentence(&e))?,
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server(
    setup: &TlsSetup,
    provider: Arc<CryptoProvider>,
    clock: &Arc<Clock>,
    verifier: Option<Arc<PeerVerifier>>,
    identity: Identity,
) -> Result<Arc<ServerConfig>, String> {
    let (chain, key) = identity.ok_or("a server needs a certificate and its key (cert, key)")?;
    let builder = ServerConfig::builder_with_details(provider, clock.clone())
        .with_protocol_versions(&versions(setup)?)
        .map_err(|e| format!("the TLS versions cannot be used: {e}"))?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| identity_sentence(&e))?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Our chain and key, or `None` when the profile has neither.
fn identity(setup: &TlsSetup, unix: u64) -> Result<Identity, String> {
    let has_key = !setup.key_pem.0.is_empty();
    let chain = certificates(&setup.cert_pem, "cert")?;
    match (chain.first(), has_key) {
        (None, false) => return Ok(None),
        (None, true) => {
            return Err("there is a key but no certificate: add the cert that belongs to it".into());
        }
        (Some(_), false) => {
            return Err("there is a certificate but no key: add the key that belongs to it".into());
        }
        (Some(leaf), true) => {
            if let Some(problem) = own_certificate_problem(leaf, unix) {
                return Err(problem);
            }
        }
    }
    let text = &setup.key_pem.0;
    if contains(text, b"ENCRYPTED") {
        return Err("the key is protected by a passphrase, which is not supported: remove it with \
                    `openssl pkey -in KEY -out KEY.plain` and protect the file by its mode instead"
            .into());
    }
    let key = PrivateKeyDer::from_pem_slice(text)
        .map_err(|e| format!("the key cannot be read as PEM (PKCS#8, PKCS#1 or SEC1): {e}"))?;
    Ok(Some((chain, key)))
}

/// Every certificate of a PEM text. `what` names it in the sentence.
pub(super) fn certificates(pem: &str, what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("`{what}` cannot be read as PEM: {e}"))
}

fn identity_sentence(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "the key does not belong to the certificate: cert and key must come from the same request".into()
        }
        rustls::Error::InvalidCertificate(e) => {
            format!("our own certificate cannot be used ({e}): have it issued anew as an X.509 version 3 certificate")
        }
        other => format!(
            "our own key cannot be used ({other}): it must be RSA of 2048 bits or more, ECDSA on P-256 or P-384, or \
             Ed25519; have a new key and certificate issued"
        ),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

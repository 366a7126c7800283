//! TLS as a pipe of bytes: records in, records out, plaintext in, plaintext out, and the exporter. No control
//! packet and no OpenVPN message is known here. [`provider`] reads PEM texts and builds the configuration once;
//! [`verify`] decides whether a certificate is acceptable.

mod certificate;
pub mod provider;
pub(crate) mod records;
pub mod verify;

use std::io::{Read, Write};

use rustls::{AlertDescription, ClientConnection, Connection, ServerConnection};
use rustls_pki_types::{CertificateDer, ServerName};
use zeroize::Zeroizing;

pub use provider::TlsConfig;

/// Why a TLS session is over, as one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFailure(pub String);

/// One TLS session, in either role.
#[derive(Debug)]
pub struct TlsSession {
    conn: Connection,
}

impl TlsSession {
    /// A fresh session: as a client it has a ClientHello to send at once.
    ///
    /// # Errors
    /// When the TLS library refuses to start, which a checked configuration never causes.
    pub fn new(config: &TlsConfig) -> Result<TlsSession, TlsFailure> {
        let conn = match config.role() {
            provider::RoleConfig::Client(config) => {
                // OpenVPN knows no host names: the verifier ignores this one and it is not sent (SNI is off).
                let name = ServerName::try_from("openvpn.invalid")
                    .map_err(|_| TlsFailure("the placeholder server name is not valid".into()))?;
                ClientConnection::new(config.clone(), name).map(Connection::from)
            }
            provider::RoleConfig::Server(config) => ServerConnection::new(config.clone()).map(Connection::from),
        };
        conn.map(|conn| TlsSession { conn }).map_err(|e| TlsFailure(format!("TLS could not start: {e}")))
    }

    /// Takes bytes of the TLS stream, in order, and appends what they decrypt to onto `plaintext`.
    ///
    /// # Errors
    /// The peer's certificate was refused, the peer refused ours, or the bytes are not TLS. The session is over;
    /// [`TlsSession::take_output`] may still give an alert for the peer.
    pub fn read(&mut self, mut bytes: &[u8], plaintext: &mut Vec<u8>) -> Result<(), TlsFailure> {
        // read_tls takes at most 4,096 bytes a call, and an empty slice would latch end-of-file.
        while !bytes.is_empty() {
            match self.conn.read_tls(&mut bytes) {
                Ok(0) => return Err(TlsFailure("the peer had ended TLS already".into())),
                Ok(_) => {}
                Err(e) => return Err(TlsFailure(format!("TLS refused more bytes: {e}"))),
            }
            self.conn.process_new_packets().map_err(|e| TlsFailure(self.sentence(&e)))?;
            self.read_plaintext(plaintext);
        }
        Ok(())
    }

    fn read_plaintext(&mut self, plaintext: &mut Vec<u8>) {
        let mut chunk = Zeroizing::new([0; 2048]);
        // WouldBlock, end by close_notify and end without it all mean: nothing more now.
        while let Ok(n @ 1..) = self.conn.reader().read(chunk.as_mut_slice()) {
            plaintext.extend_from_slice(chunk.get(..n).unwrap_or_default());
        }
    }

    /// Encrypts one message as one TLS record (stock peers read one record per message).
    ///
    /// # Errors
    /// When the message does not fit into one record or the library's buffer.
    pub fn write(&mut self, message: &[u8]) -> Result<(), TlsFailure> {
        match self.conn.writer().write(message) {
            Ok(n) if n == message.len() => Ok(()),
            _ => Err(TlsFailure("a control message did not fit into a TLS record".into())),
        }
    }

    /// Moves the records that are ready for the peer to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        while self.conn.wants_write() {
            match self.conn.write_tls(out) {
                Ok(1..) => {}
                _ => break,
            }
        }
    }

    /// Whether the handshake is still going on.
    pub fn is_handshaking(&self) -> bool {
        self.conn.is_handshaking()
    }

    /// Keying material by RFC 5705 with an absent context (under TLS 1.2 that differs from an empty one).
    ///
    /// # Errors
    /// Before the handshake is complete.
    pub fn export(&self, label: &[u8], out: &mut [u8]) -> Result<(), TlsFailure> {
        self.conn
            .export_keying_material(out, label, None)
            .map(|_| ())
            .map_err(|e| TlsFailure(format!("TLS could not export keys: {e}")))
    }

    /// TLS version and cipher suite, for people.
    pub fn describe(&self) -> String {
        let version = match self.conn.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLS",
        };
        match self.conn.negotiated_cipher_suite() {
            Some(suite) => format!("{version} {:?}", suite.suite()),
            None => version.to_string(),
        }
    }

    /// The certificates that the peer showed, leaf first, once they were accepted; empty when it showed none.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.conn.peer_certificates().unwrap_or_default()
    }

    /// The peer's subject as OpenVPN prints it; empty when the peer showed no certificate.
    pub fn peer_subject(&self) -> String {
        self.peer_certificates().first().map(|der| verify::subject_of(der)).unwrap_or_default()
    }

    fn sentence(&self, error: &rustls::Error) -> String {
        match error {
            rustls::Error::AlertReceived(alert) => alert_sentence(*alert),
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => other.to_string(),
            rustls::Error::InvalidCertificate(e) => {
                format!("the peer's certificate does not prove that it owns its key ({e})")
            }
            rustls::Error::PeerIncompatible(what) => format!(
                "no common TLS parameters with the peer ({what:?}): compare tls-version-min, tls-version-max and \
                 tls-cipher on both sides"
            ),
            rustls::Error::NoCertificatesPresented => {
                "the peer showed no certificate: it needs one (cert and key)".into()
            }
            other => format!("TLS failed: {other}"),
        }
    }
}

/// What the peer's alert means for somebody who has to repair it.
fn alert_sentence(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let what = match alert {
        A::CertificateExpired => "our certificate has expired: ask the server's operator for a new profile",
        A::CertificateRevoked => "our certificate was revoked: ask the server's operator for a new profile",
        A::UnknownCA => "it does not know the CA of our certificate: use the certificate that belongs to this server",
        A::CertificateRequired | A::NoCertificate => "it wants a certificate: add cert and key to the profile",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate | A::AccessDenied => {
            "it does not accept our certificate, which may have been revoked: ask the server's operator for a new profile"
        }
        A::ProtocolVersion => "no common TLS version: compare tls-version-min and tls-version-max on both sides",
        A::HandshakeFailure | A::InsufficientSecurity => {
            "no common TLS parameters, or our certificate is of a kind that it does not accept"
        }
        _ => return format!("the peer ended TLS with the alert {alert:?}"),
    };
    format!("the peer refused the TLS handshake ({alert:?}): {what}")
}

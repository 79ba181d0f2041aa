//! TLS on the client's side: which certificates are trusted, and what to advise when one is not.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{WebPkiServerVerifier, verify_server_name};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    Error, RootCertStore, SignatureScheme,
};

use super::RelayError;
use crate::delivery::TlsUse;

/// The TLS settings for one server. Created once, so that sessions can be resumed by later
/// connections.
pub(super) struct ClientTls {
    connector: TlsConnector,
    name: ServerName<'static>,
    /// Whether it follows a STARTTLS, and is not there from the first byte.
    is_upgrade: bool,
    ca_file: Option<PathBuf>,
}

impl ClientTls {
    pub(super) fn new(
        host: &str,
        ca_file: Option<&Path>,
        is_upgrade: bool,
    ) -> Result<Self, RelayError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            RelayError::Url(format!(
                "names the host `{}`, for which there can be no certificate",
                host.escape_debug()
            ))
        })?;
        let config = client_config(ca_file)?;
        Ok(ClientTls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
            is_upgrade,
            ca_file: ca_file.map(Path::to_owned),
        })
    }

    /// Performs the handshake. The error's text is meant for operators.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let shaken = self.connector.connect(self.name.clone(), stream).await;
        shaken.map_err(|e| format!("no TLS with {}: {e}{}", self.name.to_str(), self.advice(&e)))
    }

    /// The advice for this error, if its usual cause is known.
    fn advice(&self, error: &std::io::Error) -> String {
        let speaks_none = match self.is_upgrade {
            true => {
                "; it agreed to STARTTLS and then spoke no TLS: whoever runs it has to mend that"
            }
            false => NO_TLS_HINT,
        };
        match rustls_error(error) {
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => self.on_issuer(),
            Some(Error::InvalidCertificate(wrong)) => advice_on(wrong).to_owned(),
            Some(Error::InvalidMessage(_)) => speaks_none.to_owned(),
            // The server hung up when it received the handshake.
            None if error.kind() == std::io::ErrorKind::UnexpectedEof => speaks_none.to_owned(),
            _ => advice_on_alert(error).to_owned(),
        }
    }

    fn on_issuer(&self) -> String {
        match &self.ca_file {
            None => UNKNOWN_ISSUER_HINT.to_owned(),
            Some(path) => format!(
                "; it is from none of those in the ca_file {}: add the authority's certificate \
                 there, or leave ca_file out if it is a public one",
                path.display()
            ),
        }
    }
}

fn rustls_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

const NO_TLS_HINT: &str = "; it does not speak TLS there: perhaps smtp+starttls:// is meant \
                            (usually on port 587), or another port";
const UNKNOWN_ISSUER_HINT: &str = "; if the server's certificate is its own, or from an authority \
                                    of yours, name that certificate's PEM file as ca_file";

/// The advice for an alert with which the server ended TLS. It may do so after the handshake, as it
/// sees it later than we do.
pub(super) fn advice_on_alert(error: &std::io::Error) -> &'static str {
    match rustls_error(error) {
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion)) => {
            "; it knows neither TLS 1.2 nor 1.3, and older versions are not safe: whoever runs the \
             server has to update it"
        }
        Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) => {
            "; it has no cipher or key in common with TLS 1.2 and 1.3 as it is safe today, or \
             wants a certificate of ours, which Postrider does not have"
        }
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; it wants a certificate of ours, which Postrider does not have: use another port or \
             a login"
        }
        _ => "",
    }
}

fn advice_on(wrong: &CertificateError) -> &'static str {
    match wrong {
        wrong if is_of_an_authority(wrong) => {
            "; the server's certificate signs itself: name its PEM file as ca_file"
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
            "; it needs the name as a subjectAltName: whoever runs the server has to make a new one"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "; use the name in the url that the certificate is for"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "; whoever runs the server has to renew it, if this machine's clock is right"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "; is this machine's clock right?"
        }
        _ => "",
    }
}

/// Whether the server's own certificate is marked as that of an authority, as most self-signed ones
/// are.
fn is_of_an_authority(wrong: &CertificateError) -> bool {
    match wrong {
        CertificateError::Other(other) => format!("{other:?}").contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// Trusts the authorities of a file, and also accepts each certificate of that file as a server's
/// own. Most tools create self-signed certificates that are marked as an authority's, which the
/// standard verifier refuses as a server's.
#[derive(Debug)]
struct PinnedVerifier {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .authorities
            .verify_server_cert(shown, others, name, ocsp, now);

        match verified {
            // The verifier has checked the expiry before this.
            Err(Error::InvalidCertificate(wrong))
                if is_of_an_authority(&wrong) && self.certificates.contains(shown) =>
            {
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// The protocol and cipher that were negotiated, by their names in RFC 8446 and IANA's registry.
pub(super) fn used(session: &ClientConnection) -> Option<TlsUse> {
    let version = session.protocol_version()?.as_str()?;
    let cipher = session.negotiated_cipher_suite()?.suite().as_str()?;
    Some(TlsUse {
        version: version.replace('_', "."),
        cipher: cipher.replacen("TLS13_", "TLS_", 1),
    })
}

/// The client configuration: it trusts the public authorities, or those in this file.
pub(in crate::transport) fn client_config(
    ca_file: Option<&Path>,
) -> Result<ClientConfig, RelayError> {
    let unusable = |e: &dyn std::fmt::Display| {
        RelayError::Url(format!("asks for TLS, which cannot be set up: {e}"))
    };
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?;

    let Some(path) = ca_file else {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        return Ok(config.with_root_certificates(roots).with_no_client_auth());
    };
    let (roots, certificates) = read_roots(path)?;
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| unusable(&e))?;
    let verifier = Arc::new(PinnedVerifier {
        authorities,
        certificates,
    });
    let config = config
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(config.with_no_client_auth())
}

fn read_roots(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), RelayError> {
    let fail = |reason: String| RelayError::CaFile {
        path: path.to_owned(),
        reason,
    };

    let pem = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| fail(format!("is not valid PEM: {e}")))?;
        certificates.push(certificate.clone());
        roots
            .add(certificate)
            .map_err(|e| fail(format!("holds a certificate that cannot be used: {e}")))?;
    }

    if roots.is_empty() {
        return Err(fail("holds no certificate in PEM form".into()));
    }
    Ok((roots, certificates))
}

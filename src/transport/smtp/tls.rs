//! The client's side of TLS: whom we trust, and what we say when we do not.

use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::RelayError;
use crate::delivery::TlsUse;

/// Everything a handshake with one server needs. Made once, so that sessions are resumed across
/// connections.
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    pub(super) fn new(host: &str, ca_file: Option<&Path>) -> Result<Self, RelayError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            RelayError::Url(format!(
                "names the host `{}`, for which there can be no certificate",
                host.escape_debug()
            ))
        })?;
        let config = client_config(ca_file)?;
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }

    /// Shakes hands. The error's text is for people.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let shaken = self.connector.connect(self.name.clone(), stream).await;
        shaken.map_err(|e| format!("no TLS with {}: {e}", self.name.to_str()))
    }
}

/// What a handshake has agreed upon, in the names of RFC 8446 and of IANA's registry.
pub(super) fn used(session: &ClientConnection) -> Option<TlsUse> {
    let version = session.protocol_version()?.as_str()?;
    let cipher = session.negotiated_cipher_suite()?.suite().as_str()?;
    Some(TlsUse {
        version: version.replace('_', "."),
        cipher: cipher.replacen("TLS13_", "TLS_", 1),
    })
}

/// Whom to trust: the public authorities, or the one in this file.
pub(in crate::transport) fn client_config(
    ca_file: Option<&Path>,
) -> Result<ClientConfig, RelayError> {
    let roots = match ca_file {
        Some(path) => read_roots(path)?,
        None => RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        },
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| RelayError::Url(format!("asks for TLS, which cannot be set up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn read_roots(path: &Path) -> Result<RootCertStore, RelayError> {
    let fail = |reason: String| RelayError::CaFile {
        path: path.to_owned(),
        reason,
    };

    let pem = std::fs::read(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| fail(format!("is not valid PEM: {e}")))?;
        roots
            .add(certificate)
            .map_err(|e| fail(format!("holds a certificate that cannot be used: {e}")))?;
    }

    if roots.is_empty() {
        return Err(fail("holds no certificate in PEM form".into()));
    }
    Ok(roots)
}

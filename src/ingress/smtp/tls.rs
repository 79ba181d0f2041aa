//! The certificate, and the TLS that is made from it.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{SmtpError, TlsFiles};

/// Reads the files. Blocks for as long as the disk takes; called at start and when the
/// configuration is read again.
pub(super) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, SmtpError> {
    let wrong = |key: &'static str, path: &Path, reason: String| SmtpError::Tls {
        key,
        path: path.into(),
        reason,
    };
    let pem = |key, path: &Path, e: PemError| {
        let reason = match e {
            PemError::Io(e) => format!("cannot be read: {e}"),
            PemError::NoItemsFound => format!("holds no {key} in PEM form"),
            other => format!("is not valid PEM: {other}"),
        };
        wrong(key, path, reason)
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem("cert", &files.cert, e))?;
    if chain.is_empty() {
        return Err(pem("cert", &files.cert, PemError::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| pem("key", &files.key, e))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| {
            wrong(
                "key",
                &files.key,
                format!("cannot be used with the certificate: {e}"),
            )
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load(cert: &str, key: &str) -> Result<TlsAcceptor, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let files = TlsFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };
        std::fs::write(&files.cert, cert).expect("written");
        std::fs::write(&files.key, key).expect("written");
        acceptor(&files).map_err(|e| e.to_string())
    }

    #[test]
    fn a_wrong_file_is_named_with_its_key() {
        let (cert, key) = pair("localhost");
        assert!(load(&cert, &key).is_ok());
        let (_, other) = pair("localhost");
        for (cert, key, named) in [
            ("", &*key, "smtp.tls.cert"),
            (&*key, &*key, "smtp.tls.cert"),
            (&*cert, "x", "smtp.tls.key"),
            (&*cert, &*other, "smtp.tls.key"),
        ] {
            let error = load(cert, key).err().expect("cannot be used");
            assert!(error.contains(named) && error.contains(".pem"), "{error}");
        }
        let missing = TlsFiles {
            cert: "/nowhere/cert.pem".into(),
            key: "/nowhere/key.pem".into(),
        };
        let error = acceptor(&missing).err().expect("missing").to_string();
        assert!(
            error.contains("smtp.tls.cert") && error.contains("/nowhere/cert.pem"),
            "{error}"
        );
    }
}

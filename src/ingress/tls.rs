//! Loads a listener's certificate and makes the TLS configuration from it. The check of a
//! configuration uses it as well, so that what passes the check can be used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{Error as RustlsError, ServerConfig};

/// PEM files that TLS needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate ones up to the authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a certificate and its key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TlsError {
    /// Which of the two must be corrected: `cert` or `key`.
    pub key: &'static str,
    /// What is wrong with it; names the file.
    pub reason: String,
}

/// Reads the files. Blocks on the disk; called at start and when the configuration is reloaded.
/// `protocols` are offered in the handshake (RFC 7301).
pub(super) fn acceptor(files: &TlsFiles, protocols: &[&[u8]]) -> Result<TlsAcceptor, TlsError> {
    let wrong = |key, reason| TlsError { key, reason };
    for (key, path) in [("cert", &files.cert), ("key", &files.key)] {
        if path.as_os_str().is_empty() {
            return Err(wrong(key, "is missing; name a PEM file".to_owned()));
        }
    }

    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| match chain.is_empty() {
            true => Err(PemError::NoItemsFound),
            false => Ok(chain),
        })
        .map_err(|error| wrong("cert", unreadable(error, "certificate", &files.cert)))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong("key", unreadable(error, "private key", &files.key)))?;

    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| unusable(&error, files))?;

    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn unreadable(error: PemError, wanted: &str, path: &Path) -> String {
    let path = path.display();
    match error {
        PemError::Io(error) => format!("cannot read {path}: {error}"),
        PemError::NoItemsFound => format!("there is no {wanted} in {path}"),
        // The library's message may quote the file, which may be a private key.
        _ => format!("{path} is not a valid PEM file"),
    }
}

fn unusable(error: &RustlsError, files: &TlsFiles) -> TlsError {
    let (cert, key) = (files.cert.display(), files.key.display());
    match error {
        RustlsError::InconsistentKeys(_) => TlsError {
            key: "key",
            reason: format!("{key} is not the key of the certificate in {cert}"),
        },
        RustlsError::InvalidCertificate(_) => TlsError {
            key: "cert",
            reason: format!("the certificate in {cert} cannot be used: {error}"),
        },
        _ => TlsError {
            key: "key",
            reason: format!("{key} cannot be used: {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn load(cert: &str, key: &str) -> Result<TlsAcceptor, TlsError> {
        let dir = tempfile::tempdir().expect("a directory");
        let files = TlsFiles {
            cert: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
        };
        std::fs::write(&files.cert, cert).expect("written");
        std::fs::write(&files.key, key).expect("written");
        acceptor(&files, &[])
    }

    #[test]
    fn a_wrong_file_is_named_with_its_key() {
        let (cert, key) = pair("localhost");
        assert!(load(&cert, &key).is_ok());
        let (_, other) = pair("localhost");

        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (cert, key, named, told) in [
            ("", &*key, "cert", "there is no certificate in"),
            (&*key, &*key, "cert", "there is no certificate in"),
            (garbage, &*key, "cert", "cannot be used"),
            (&*cert, "x", "key", "there is no private key in"),
            (&*cert, &*other, "key", "is not the key of the certificate"),
        ] {
            let error = load(cert, key).err().expect("cannot be used");
            assert_eq!(error.key, named, "{error:?}");
            assert!(
                error.reason.contains(told) && error.reason.contains(".pem"),
                "{error:?}"
            );
        }

        let missing = TlsFiles {
            cert: "/nowhere/cert.pem".into(),
            key: "/nowhere/key.pem".into(),
        };

        let error = acceptor(&missing, &[]).err().expect("missing");
        assert_eq!(error.key, "cert");
        assert!(error.reason.contains("/nowhere/cert.pem"), "{error:?}");
    }
}

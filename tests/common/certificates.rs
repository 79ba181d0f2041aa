//! A certificate authority of the test's own, and the certificates that a server can show.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The certificate that a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cert {
    /// Valid for `localhost` and `127.0.0.1`.
    Good,
    /// Expired in 2001.
    Expired,
    /// Valid, but for `other.example`.
    OtherName,
    /// Valid, but for no name: as of old, it has only a common name.
    NoName,
    /// Valid for `localhost`, but signed by an authority that nobody trusts.
    Untrusted,
    /// Signed by itself, and itself what a client is to trust.
    SelfSigned,
    /// Likewise, and it says that it is an authority, as `openssl req -x509` makes it.
    SelfSignedAuthority,
    /// Likewise, and expired in 2001.
    SelfSignedExpired,
    /// Likewise, for `other.example`.
    SelfSignedOtherName,
}

/// A server's side of TLS, and the PEM of the authority that a client is to trust.
pub struct Identity {
    pub config: Arc<ServerConfig>,
    pub ca_pem: String,
    /// What it shows, and its key.
    pub cert_pem: String,
    pub key_pem: String,
}

impl Identity {
    pub fn new(cert: Cert) -> Self {
        let (trusted, ca_pem) = authority("Test Authority");
        let signer = if cert == Cert::Untrusted {
            authority("Stranger").0
        } else {
            trusted
        };

        let key = KeyPair::generate().unwrap();
        let is_for_another = matches!(cert, Cert::OtherName | Cert::SelfSignedOtherName);
        let names = if is_for_another {
            "other.example"
        } else {
            "localhost"
        };

        let mut params = CertificateParams::new(vec![names.to_owned()]).unwrap();
        if cert == Cert::NoName {
            params.subject_alt_names.clear();
            params
                .distinguished_name
                .push(DnType::CommonName, "localhost");
        } else if !is_for_another {
            params
                .subject_alt_names
                .push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }

        if matches!(cert, Cert::Expired | Cert::SelfSignedExpired) {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }

        params.is_ca = match cert {
            Cert::SelfSigned => IsCa::ExplicitNoCa,
            Cert::SelfSignedAuthority | Cert::SelfSignedExpired | Cert::SelfSignedOtherName => {
                IsCa::Ca(BasicConstraints::Unconstrained)
            }
            _ => IsCa::NoCa,
        };
        let signs_itself = matches!(
            cert,
            Cert::SelfSigned
                | Cert::SelfSignedAuthority
                | Cert::SelfSignedExpired
                | Cert::SelfSignedOtherName
        );
        let shown = match signs_itself {
            true => params.self_signed(&key).unwrap(),
            false => params.signed_by(&key, &signer).unwrap(),
        };
        let ca_pem = if signs_itself { shown.pem() } else { ca_pem };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![shown.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();

        Identity {
            config: Arc::new(config),
            ca_pem,
            cert_pem: shown.pem(),
            key_pem: key.serialize_pem(),
        }
    }
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

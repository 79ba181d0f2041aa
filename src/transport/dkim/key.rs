//! Private keys for signing: RSA (RFC 6376) and Ed25519 (RFC 8463), read from PEM.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// The fewest bits of an RSA key that receivers take today (RFC 8301 §3.2 wants 1024, and at least
/// 2048 where it can be had; ring signs with no fewer).
const MIN_RSA_BITS: usize = 2048;

/// Why a key cannot be used. The message never quotes the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read {}: {reason}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// It is not a PEM file with a private key.
    #[error("there is no private key in PEM form")]
    NotPem,
    /// It is a key of another kind, or damaged.
    #[error("the private key is neither RSA nor Ed25519, or it is damaged")]
    Unknown,
    /// It is too short to be trusted.
    #[error("the RSA key has {0} bits, and receivers want at least 2048")]
    TooShort(usize),
}

/// A private key that signs.
pub struct SigningKey(Kind);

enum Kind {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

impl SigningKey {
    /// A key from a PEM file: PKCS#8 (`BEGIN PRIVATE KEY`) or PKCS#1 (`BEGIN RSA PRIVATE KEY`).
    ///
    /// # Errors
    /// Where the file cannot be read or holds no usable key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let pem = std::fs::read(path).map_err(|e| KeyError::File {
            path: path.to_owned(),
            reason: e.to_string(),
        })?;
        SigningKey::from_pem(&pem)
    }

    /// As [`SigningKey::read`], from what is in the file.
    ///
    /// # Errors
    /// As [`SigningKey::read`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)?;
        let rsa = match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                if let Ok(key) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
                    return Ok(SigningKey(Kind::Ed25519(key)));
                }
                RsaKeyPair::from_pkcs8(der)
            }
            _ => return Err(KeyError::Unknown),
        };

        match rsa {
            Ok(key) if key.public().modulus_len() * 8 >= MIN_RSA_BITS => {
                Ok(SigningKey(Kind::Rsa(Box::new(key))))
            }
            Ok(key) => Err(KeyError::TooShort(key.public().modulus_len() * 8)),
            Err(rejected) if rejected.to_string() == "TooSmall" => Err(KeyError::TooShort(1024)),
            Err(_) => Err(KeyError::Unknown),
        }
    }

    /// The `a=` tag of its signatures.
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Kind::Rsa(_) => "rsa-sha256",
            Kind::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The TXT record that publishes its public half (RFC 6376 §3.6.1).
    pub fn dns_record(&self) -> String {
        match &self.0 {
            Kind::Rsa(key) => {
                let public = subject_public_key(key.public().as_ref());
                format!("v=DKIM1; k=rsa; p={}", STANDARD.encode(public))
            }
            Kind::Ed25519(key) => {
                let public = STANDARD.encode(key.public_key().as_ref());
                format!("v=DKIM1; k=ed25519; p={public}")
            }
        }
    }

    /// Signs the data. An RSA signature costs about a millisecond of CPU.
    pub(super) fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.0 {
            Kind::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(
                    &RSA_PKCS1_SHA256,
                    &SystemRandom::new(),
                    data,
                    &mut signature,
                )
                .ok()?;
                Some(signature)
            }
            // RFC 8463 §3: Ed25519 signs the SHA-256 hash of the data.
            Kind::Ed25519(key) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, data);
                Some(key.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }
}

/// Where the record of a selector is published.
pub fn dns_name(selector: &str, domain: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// The SubjectPublicKeyInfo (RFC 5280 §4.1.2.7) around an RSA public key, which verifiers expect.
fn subject_public_key(rsa: &[u8]) -> Vec<u8> {
    // AlgorithmIdentifier { rsaEncryption, NULL }
    const ALGORITHM: [u8; 15] = [
        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    ];
    let mut bits = vec![0]; // no unused bits
    bits.extend_from_slice(rsa);
    let mut content = ALGORITHM.to_vec();
    content.extend(tagged(0x03, &bits));
    tagged(0x30, &content)
}

/// DER: tag, length, content.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut der = vec![tag];
    if content.len() < 128 {
        der.extend_from_slice(significant);
    } else {
        der.push(0x80 | significant.len() as u8);
        der.extend_from_slice(significant);
    }
    der.extend_from_slice(content);
    der
}

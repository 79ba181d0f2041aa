//! `postrider dkim`: makes a signing key, and prints the DNS record that its domain publishes.

use std::path::{Path, PathBuf};

use rsa::pkcs8::{EncodePrivateKey, LineEnding};

use super::Failure;
use super::screen::{Screen, note, plain};
use crate::private;
use crate::transport::dkim::{SigningKey, dns_name};

#[derive(clap::Subcommand)]
pub(super) enum DkimCommand {
    /// Make a key and print the DNS record that publishes it
    Generate(Generate),
    /// Print the DNS record of a key
    Record(RecordCommand),
}

#[derive(clap::Args)]
pub(super) struct Generate {
    /// The domain that signs, such as example.com
    domain: String,
    /// The name of the key in the domain's DNS, such as s1
    selector: String,
    /// Where to write the private key; an existing file is never overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The algorithm: rsa is verified by every receiver; ed25519 is useful only in addition to it
    #[arg(long, value_enum, default_value = "rsa")]
    algorithm: Algorithm,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Algorithm {
    /// RSA with 2048 bits
    Rsa,
    /// Ed25519 (RFC 8463)
    Ed25519,
}

#[derive(clap::Args)]
pub(super) struct RecordCommand {
    /// The private key, as PEM
    file: PathBuf,
}

impl DkimCommand {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<(), Failure> {
        match self {
            DkimCommand::Generate(generate) => generate.execute(screen),
            DkimCommand::Record(record) => {
                let key = SigningKey::read(&record.file);
                let key = key.map_err(|e| refuse(&record.file, &e))?;
                Ok(screen.line(&[plain(key.dns_record())])?)
            }
        }
    }
}

impl Generate {
    fn execute(self, screen: &mut Screen) -> Result<(), Failure> {
        let pem = match self.algorithm {
            Algorithm::Rsa => rsa_key()?,
            Algorithm::Ed25519 => ed25519_key()?,
        };

        let key = SigningKey::from_pem(pem.as_bytes()).map_err(|e| refuse(&self.out, &e))?;
        write_new(&self.out, &pem)?;

        let name = dns_name(&self.selector, &self.domain);
        screen.line(&[plain(name), plain(" TXT")])?;
        screen.line(&[plain(key.dns_record())])?;
        note(format_args!(
            "\nThe private key is in {}. Publish the record, then add to the configuration:\n\n\
             [[dkim]]\ndomain = \"{}\"\nselector = \"{}\"\nkey_file = \"{}\"",
            self.out.display(),
            self.domain,
            self.selector,
            self.out.display()
        ));

        Ok(())
    }
}

fn rsa_key() -> Result<String, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::Failed(format!("cannot make a key: {e}"));
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).map_err(|e| failed(&e))?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(|e| failed(&e))?;
    Ok(pem.to_string())
}

fn ed25519_key() -> Result<String, Failure> {
    use base64::Engine as _;
    let random = ring::rand::SystemRandom::new();
    let der = ring::signature::Ed25519KeyPair::generate_pkcs8(&random)
        .map_err(|_| Failure::Failed("cannot make a key: no random numbers".into()))?;
    let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Ok(pem)
}

/// Writes a new file that only its owner can read. It is an error if the file exists.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let written = private::write_new(path, text.as_bytes());
    written.map_err(|e| Failure::Failed(format!("cannot write {}: {e}", path.display())))
}

fn refuse(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
}

//! Checks the PEM files of certificate authorities, so that an unusable one is reported at start
//! and not at the first connection.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};

use super::mistake::MistakeReport;

pub(super) fn check_certificates(path: &Path, at: String, report: &mut MistakeReport<'_>) {
    let first = CertificateDer::pem_file_iter(path)
        .and_then(|mut all| all.next().unwrap_or(Err(pem::Error::NoItemsFound)));
    report_error(first.err(), "certificate", path, at, report);
}

fn report_error(
    error: Option<pem::Error>,
    wanted: &str,
    path: &Path,
    at: String,
    report: &mut MistakeReport<'_>,
) {
    match error {
        None => {}
        Some(pem::Error::Io(e)) => report.add(at, format!("cannot read {}: {e}", path.display())),
        Some(pem::Error::NoItemsFound) => {
            report.add(at, format!("there is no {wanted} in {}", path.display()))
        }
        // The library's own message may quote the file, which may be a key.
        Some(_) => report.add(at, format!("{} is not a valid PEM file", path.display())),
    }
}

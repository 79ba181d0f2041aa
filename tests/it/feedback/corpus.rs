//! Reports as many systems write them, and what is read from each.

use std::collections::BTreeSet;
use std::path::Path;

use postrider::FeedbackKind;
use postrider::feedback::{ReportReading, read};

use FeedbackKind::{Bounced, Complained, Delivered};

/// What a report says: kind, status, whether for good. Nothing follows from `Nothing`.
enum ExpectedReading {
    This(FeedbackKind, &'static str, bool),
    Nothing,
    NoReport,
}
use ExpectedReading::{NoReport, Nothing, This};

const CORPUS: [(&str, ExpectedReading); 44] = [
    ("postfix-unknown", This(Bounced, "5.1.1", true)),
    ("postfix-delayed", Nothing),
    ("postfix-expired", This(Bounced, "4.4.1", false)),
    ("sendmail-full", This(Bounced, "5.2.2", true)),
    ("exchange-online", This(Bounced, "5.1.10", true)),
    ("exchange-policy", This(Bounced, "5.7.1", true)),
    ("exchange-old", This(Bounced, "5.1.1", true)),
    ("gmail-unknown", This(Bounced, "5.1.1", true)),
    ("gmail-disabled", This(Bounced, "5.2.1", true)),
    ("no-report-type", This(Bounced, "5.1.1", true)),
    ("status-as-text", This(Bounced, "5.1.1", true)),
    ("global", This(Bounced, "5.1.1", true)),
    ("generic-status", This(Bounced, "5.1.1", true)),
    ("forwarded", This(Bounced, "5.1.1", true)),
    ("delivered", This(Delivered, "2.0.0", false)),
    ("relayed", Nothing),
    ("qmail", This(Bounced, "5.1.1", true)),
    ("qmail-remote", This(Bounced, "5.1.1", true)),
    ("exim", This(Bounced, "5.1.1", true)),
    ("exim-warning", Nothing),
    ("yahoo", This(Bounced, "5.1.1", true)),
    ("yahoo-old", This(Bounced, "5.2.2", true)),
    ("domino", This(Bounced, "5.1.1", true)),
    ("gmx", This(Bounced, "5.1.1", true)),
    ("t-online", This(Bounced, "5.1.1", true)),
    ("qq", This(Bounced, "5.1.1", true)),
    ("icloud", This(Bounced, "5.1.1", true)),
    ("ses", This(Bounced, "5.1.1", true)),
    ("status-in-base64", This(Bounced, "5.1.1", true)),
    ("qmail-unsaid", This(Bounced, "", false)),
    ("exim-timeout", This(Bounced, "", false)),
    ("yandex", This(Bounced, "5.1.1", true)),
    ("sender-unknown", This(Bounced, "5.1.0", true)),
    ("mdaemon", This(Bounced, "5.1.1", true)),
    ("delayed-in-german", NoReport),
    ("from-nobody", NoReport),
    ("vacation", NoReport),
    ("person", NoReport),
    ("arf-abuse", This(Complained, "abuse", false)),
    ("arf-redacted", This(Complained, "abuse", false)),
    ("arf-optout", This(Complained, "opt-out", false)),
    ("junk-forwarded", This(Complained, "abuse", false)),
    ("arf-not-spam", Nothing),
    ("arf-auth", Nothing),
];

/// A report of the corpus, as it comes to this return path, of this mail.
pub fn report(name: &str, return_path: &str, message_id: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/feedback/reports");
    let text = std::fs::read_to_string(folder.join(format!("{name}.eml"))).unwrap();
    let text = text
        .replace("TOKEN", return_path)
        .replace("MESSAGE-ID", message_id);
    text.replace('\n', "\r\n")
}

#[test]
fn the_reports_of_many_systems_are_understood() {
    for (name, says) in &CORPUS {
        for line_end in ["\r\n", "\n"] {
            let text = report(name, "b-1@bounces.example.com", "1@example.com");
            let reading = read(text.replace("\r\n", line_end).as_bytes());
            match (says, &reading) {
                (This(kind, status, permanent), ReportReading::Report(report)) => {
                    let found = &report.findings[0];
                    assert_eq!(report.findings.len(), 1, "{name}: {report:?}");
                    assert_eq!(found.kind, *kind, "{name}: {found:?}");
                    let said = found.status.as_deref().unwrap_or_default();
                    assert_eq!(said, *status, "{name}: {found:?}");
                    assert_eq!(found.permanent, *permanent, "{name}: {found:?}");
                    assert!(
                        !found.text.is_empty()
                            || *kind != Bounced
                            || name.contains("type")
                            || name.contains("as-text"),
                        "{name}: {found:?}"
                    );
                    assert!(!found.text.contains("means nothing"), "{name}: {found:?}");
                }
                (Nothing, ReportReading::Nothing) | (NoReport, ReportReading::NoReport) => {}
                (_, other) => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn every_report_of_the_folder_is_tried() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/feedback/reports");
    let files = std::fs::read_dir(folder).unwrap();
    let files = files.map(|file| {
        file.unwrap()
            .path()
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned()
    });
    let known: BTreeSet<String> = CORPUS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files.collect::<BTreeSet<_>>(), known);
}

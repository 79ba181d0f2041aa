//! Every file of the fuzz corpora, through the checks that the fuzz targets make.

#[path = "../../fuzz/checks.rs"]
mod checks;
#[cfg(feature = "server")]
#[path = "../../fuzz/content_checks.rs"]
mod content_checks;
#[cfg(feature = "server")]
#[path = "../../fuzz/growth_checks.rs"]
mod growth_checks;
#[path = "../../fuzz/relay_checks.rs"]
mod relay_checks;

use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = std::fs::read_dir(&folder).expect("the corpus is there");
    let paths = entries.map(|entry| entry.expect("the folder can be read").path());
    let files: Vec<_> = paths
        .map(|path| {
            (
                path.clone(),
                std::fs::read(path).expect("the file can be read"),
            )
        })
        .collect();

    assert!(!files.is_empty(), "{} holds nothing", folder.display());
    files
}

/// Runs a check over each file, and over each file cut short, since half a message is what a broken
/// client sends.
fn run(target: &str, check: fn(&[u8])) {
    for (path, content) in corpus(target) {
        // Shown by the test harness where the check fails.
        println!("{}", path.display());
        check(&content);
        (0..content.len().min(2000))
            .step_by(7)
            .for_each(|end| check(&content[..end]));
    }
}

#[test]
fn messages_freeze_or_are_refused() {
    run("freeze", checks::freeze);
}

#[test]
fn addresses_stay_within_their_field() {
    run("address", checks::address);
}

#[test]
fn records_of_any_bytes_are_read_or_refused() {
    run("spool_record", checks::spool_record);
}

#[cfg(feature = "server")]
#[test]
fn what_comes_back_is_read_or_is_nothing() {
    run("report", content_checks::report);
    run("provider_events", content_checks::provider_events);
    run("suppression_file", content_checks::suppression_file);
}

#[cfg(feature = "server")]
#[test]
fn nothing_of_others_breaks_out_of_its_place() {
    run("template_data", content_checks::template_data);
    run("shown_html", content_checks::shown_html);
    run("signed", content_checks::signed);
}

#[cfg(feature = "server")]
#[test]
fn a_large_input_costs_no_more_than_it_is_long() {
    for (path, content) in corpus("growth") {
        println!("{}", path.display());
        growth_checks::growth(&content);
    }
}

#[tokio::test]
async fn whatever_a_relay_says_has_an_outcome() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    for (path, said) in corpus("smtp_reply") {
        println!("{}", path.display());
        relay_checks::smtp_reply(&listener, &said).await;
        for end in (0..said.len().min(2000)).step_by(7) {
            relay_checks::smtp_reply(&listener, &said[..end]).await;
        }
    }
}

#[test]
fn what_real_programs_write_is_taken_and_the_rest_is_refused() {
    for (path, message) in corpus("freeze") {
        let is_bad = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("bad-"));
        let recipient = "ada@example.org".parse().expect("valid");
        let envelope = postrider::Envelope::new("shop@example.com".parse().ok(), vec![recipient])
            .expect("valid");
        let taken = postrider::Mail::from_rfc5322(envelope, message);
        assert_eq!(taken.is_err(), is_bad, "{}: {taken:?}", path.display());
    }
}

//! Every file of the fuzz corpora, through the checks that the fuzz targets make.
//!
//! `CORPUS_SECONDS=120 cargo test --test it corpus::` goes on so long with each
//! corpus, with files that are changed at random: a fuzzer for a machine that has none. An input
//! that fails is left in `target/tmp`, to be mended and put into the corpus.

#[path = "../../fuzz/checks.rs"]
mod checks;
#[cfg(feature = "server")]
#[path = "../../fuzz/content_checks.rs"]
mod content_checks;
#[cfg(feature = "server")]
#[path = "../../fuzz/growth_checks.rs"]
mod growth_checks;
#[cfg(feature = "server")]
#[path = "../../fuzz/http_checks.rs"]
mod http_checks;
#[path = "../../fuzz/relay_checks.rs"]
mod relay_checks;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Bytes that mean something to one parser or another.
const MEANT: &[u8] = b"\0\t\n\r \"%&'()*+,-./:;<=>@[\\]_{|}\x7f\xc3\xff09";

/// The most time of a processor that one input may take, in a debug build.
const LONGEST: Duration = Duration::from_secs(10);

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
fn run(target: &str, check: impl Fn(&[u8])) {
    for (path, content) in corpus(target) {
        // Shown by the test harness where the check fails.
        println!("{}", path.display());
        check(&content);
        (0..content.len().min(2000))
            .step_by(7)
            .for_each(|end| check(&content[..end]));
    }
    mutate(target, check);
}

/// Runs a check over files that are changed at random, for `CORPUS_SECONDS`.
fn mutate(target: &str, check: impl Fn(&[u8])) {
    let span = std::env::var("CORPUS_SECONDS").map_or(0, |span| span.parse().expect("seconds"));
    let span = Duration::from_secs(span);
    let files: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, file)| file).collect();
    let mut chance = StdRng::seed_from_u64(rand::random());
    let begun = Instant::now();
    let mut runs = 0;
    while begun.elapsed() < span {
        let input = changed(&files, &mut chance);
        let at = ThreadTime::now();
        let ended = catch_unwind(AssertUnwindSafe(|| check(&input)));
        let is_slow = at.elapsed() > LONGEST;
        if ended.is_err() || is_slow {
            let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}.failed"));
            std::fs::write(&left, &input).expect("the input can be left");
            println!("{} failed, after {:?}", left.display(), at.elapsed());
        }
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
        assert!(!is_slow, "{target}: one input took {:?}", at.elapsed());
        runs += 1;
    }
    println!("{target}: {runs} inputs");
}

/// One of the files, with a few bytes changed, taken away, doubled, or taken from another file.
fn changed(files: &[Vec<u8>], chance: &mut StdRng) -> Vec<u8> {
    let any = |chance: &mut StdRng| files[chance.random_range(0..files.len())].clone();
    let mut input = any(chance);
    for _ in 0..chance.random_range(1..8) {
        let from = chance.random_range(0..=input.len());
        let to = (from + chance.random_range(0..64)).min(input.len());
        let piece = match chance.random_range(0..6) {
            0 => vec![chance.random::<u8>()],
            1 => vec![MEANT[chance.random_range(0..MEANT.len())]],
            2 => vec![],
            3 => input[from..to].repeat(chance.random_range(2..5)),
            4 => input[from..to]
                .iter()
                .map(|byte| byte ^ 1 << chance.random_range(0..8))
                .collect(),
            _ => {
                let other = any(chance);
                let begin = chance.random_range(0..=other.len());
                other[begin..(begin + 64).min(other.len())].to_vec()
            }
        };
        input.splice(from..to, piece);
    }
    input
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
    mutate("growth", growth_checks::growth);
}

#[cfg(feature = "server")]
#[test]
fn any_body_is_a_mail_or_a_problem() {
    for (path, body) in corpus("json_mail") {
        println!("{}", path.display());
        // One byte wrong, at each place.
        for place in 0..body.len().min(2000) {
            let mut wrong = body.clone();
            wrong[place] ^= 1 << (place % 8);
            http_checks::json_mail(&wrong);
        }
    }
    run("json_mail", http_checks::json_mail);
}

#[cfg(feature = "server")]
#[test]
fn whatever_a_client_says_has_an_answer() {
    run("smtp_listener", postrider::ingress::smtp::exercise);
}

#[test]
fn whatever_a_relay_says_has_an_outcome() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    run("smtp_reply", |said| {
        runtime.block_on(relay_checks::smtp_reply(&listener, said));
    });
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

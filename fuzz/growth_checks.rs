//! What must hold for the work that any input costs, for the fuzz target and for the plain test
//! over its corpus.

use std::time::Duration;

use cpu_time::ThreadTime;
use postrider::dispatch::Search;
use postrider::ingress::http::exercise;
use postrider::mail::{Reading, seven_bit, take_directives};
use postrider::{Envelope, Mail, Timestamp};

/// How large an input is made of what the fuzzer finds: work that grows with its square takes
/// seconds at this size.
const SIZE: usize = 128 * 1024;

/// The most time of this thread that an input of that size may cost, in a build with all checks.
const BUDGET: Duration = Duration::from_millis(1500);

/// Repeats a piece of the input until it is large, and hands it to one of the parsers.
///
/// The first three bytes choose the parser, how much stands before the piece that is repeated, and
/// how long that is.
pub fn growth(input: &[u8]) {
    let [parser, before, length, rest @ ..] = input else {
        return;
    };
    let (before, rest) = rest.split_at(usize::from(*before).min(rest.len()));
    let (piece, after) = rest.split_at(usize::from(*length).clamp(1, 255).min(rest.len()));
    if piece.is_empty() {
        return;
    }
    let large = [before, &piece.repeat(SIZE / piece.len()), after].concat();

    let began = ThreadTime::now();
    match (parser % 8, parser % 4) {
        // Letters choose those that came later.
        _ if *parser == b'P' => exercise::provider_events(&large),
        _ if *parser == b'H' => drop(exercise::shown_html(&String::from_utf8_lossy(&large))),
        _ if *parser == b'C' => _ = exercise::suppression_file(&large),
        (4, _) => drop(seven_bit(&large.into())),
        (5, _) => drop(Reading::of(&large)),
        (6, _) => drop(postrider::feedback::read(&large)),
        (7, _) => search(&large),
        (_, 0) => message(large),
        (_, 1) => address(&large),
        (_, 2) => drop(postrider::ingress::http::read_mail(&large)),
        _ => postrider::ingress::smtp::exercise(&large),
    }
    let spent = began.elapsed();
    assert!(spent <= BUDGET, "{SIZE} bytes cost {spent:?}");
}

/// A search, of the most bytes that it may have.
fn search(text: &[u8]) {
    let text = String::from_utf8_lossy(&text[..text.len().min(2000)]);
    let _ = Search::parse(&text, Timestamp::now());
}

fn message(message: Vec<u8>) {
    let envelope = Envelope::new(
        "shop@example.com".parse().ok(),
        vec!["ada@example.org".parse().expect("an address")],
    );
    let _ = take_directives(message.clone().into());
    if let Ok(mail) = Mail::from_rfc5322(envelope.expect("an envelope"), message) {
        std::hint::black_box(mail.fingerprint());
    }
}

fn address(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let _ = Mail::builder()
        .from(text.clone())
        .to("ada@example.org")
        .reply_to(text)
        .text("x")
        .build();
}
